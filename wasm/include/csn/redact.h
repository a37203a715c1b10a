/* csn/redact.h - masks registered secret values and well-known key shapes in byte streams.
 *
 * Input:  any bytes, any chunking; several streams at once share one set of patterns.
 * Output: the same number of bytes in all; what is masked keeps its length, every byte of it but LF and CR
 *         being CSN_REDACT_MASK, so that offsets stay true, lines stay lines and JSON lines stay JSON: a mask
 *         that would begin or end within a JSON escape takes the whole of it. What comes out for a stream
 * does not depend on its chunking.
 *
 * A registered value is found in these forms: as it is; escaped in a JSON string once and twice (`/` also as
 * `\/`, other than ASCII and `<`, `>`, `&`, `'` also as \uXXXX, and as Go's encoding/json has it, `'` as it
 * is); percent-encoded, every byte or only those
 * that one of the usual encoders takes for special; base64 at the three alignments, standard and URL
 * alphabet, without the characters that depend on neighbours, and in lines of 64 and 76 characters from its
 * first byte on; hex. The case of ASCII letters never counts, nor does `-` for `+` and `_` for `/`: one path
 * of the automaton stands for both alphabets and for hex digits of either case. (A word that differs from a
 * value in that only is masked too.) Key shapes are the table in wasm/data/shapes.h: a prefix, exact, and at
 * least so many bytes of a class.
 *
 * Method: Aho-Corasick (Aho and Corasick, CACM 18(6), 1975) behind a filter that looks at every second place,
 * at three bytes and then at four, and skips what can begin no pattern. Four places are looked up in one
 * step; there is nothing in a look-up that SIMD would make faster.
 *
 * Memory: caller-owned, fixed size, no pointers inside. Threads: one set, one thread.
 * Errors: adding a value tells what is wrong with it; streams cannot fail. */
#ifndef CSN_REDACT_H
#define CSN_REDACT_H

#include "csn/base.h"

#define CSN_REDACT_MASK '*'
/* bytes: longest form, a value of CSN_REDACT_VALUE_MAX control characters escaped twice (`\\u0001`). */
#define CSN_REDACT_PATTERN_MAX (CSN_REDACT_VALUE_MAX * 7u)
/* states of the automaton; about 13 for each byte of a value */
#define CSN_REDACT_STATES 98304u
/* bytes held back of a stream at most: a form less its last byte, and the escape it may begin in */
#define CSN_REDACT_HELD_MAX (CSN_REDACT_PATTERN_MAX + 8u)
/* bytes: longest prefix of a key shape */
#define CSN_REDACT_PREFIX_MAX 40u
#define CSN_REDACT_SHAPES_MAX 64u
/* slots of the filter, one byte each */
#define CSN_REDACT_FILTER 65536u

/* The patterns. Arrays are indexed by state; state 0 is the root. */
typedef struct csn_redact_set {
  uint32_t state_count;
  uint32_t value_count;
  bool is_ready; /* csn_redact_build has been called since the last change */
  uint32_t root[256];
  uint32_t child[CSN_REDACT_STATES], sibling[CSN_REDACT_STATES], fail[CSN_REDACT_STATES];
  uint32_t queue[CSN_REDACT_STATES];
  uint16_t depth[CSN_REDACT_STATES]; /* bytes from the root */
  uint16_t match[CSN_REDACT_STATES]; /* bytes of the longest value form that ends here, 0 for none */
  uint16_t
      least[CSN_REDACT_STATES];     /* bytes of the shortest value form that leads through here, 0 for none */
  uint8_t byte[CSN_REDACT_STATES];  /* folded byte that leads here */
  uint8_t own[CSN_REDACT_STATES];   /* 1 + csn_redact_form of the form that this state is the end of, or 0 */
  uint8_t shape[CSN_REDACT_STATES]; /* 1 + number of the shape whose prefix this state is the end of, or 0 */
  uint8_t mark[CSN_REDACT_STATES];  /* what ends here or at a state that fail leads to: CSN_REDACT_ENDS_* */
  uint8_t filter[CSN_REDACT_FILTER];
} csn_redact_set;
#define CSN_REDACT_ENDS_VALUE 1u
#define CSN_REDACT_ENDS_SHAPE 2u

/* A key shape under way. */
typedef struct csn_redact_run {
  uint16_t len;     /* bytes since its prefix began; stays when is_key */
  bool is_key;      /* long enough: masked as it goes on */
  bool has_digit;   /* behind the prefix */
  uint8_t dots;     /* JWT: dots seen */
  uint8_t part;     /* JWT: bytes of the part behind the first dot, up to 3 */
  uint8_t slashes;  /* PEM: backslashes whose meaning the next byte tells */
  uint8_t dashes;   /* PEM: dashes in a row */
  uint8_t fences;   /* PEM: groups of five dashes behind the first line */
  uint8_t previous; /* PEM: last byte, LF for an escaped one too */
} csn_redact_run;

typedef struct csn_redact_stream { /* public size, private fields */
  uint64_t fed;                    /* bytes taken */
  uint64_t mask_from, mask_to;     /* last stretch that is masked, offsets in the stream */
  uint64_t runs_active;            /* bit i: run[i] is under way */
  uint32_t state;
  uint32_t held_len;
  uint32_t found[CSN_REDACT_FORM_END];   /* matches by form; one that touches an earlier one does not count */
  bool values_only;                      /* no key shapes */
  bool mask_next;                        /* the mask so far ended within an escape */
  uint8_t recent[CSN_REDACT_PREFIX_MAX]; /* the bytes before the next one, as they came */
  csn_redact_run run[CSN_REDACT_SHAPES_MAX];
  uint8_t held[CSN_REDACT_HELD_MAX];
} csn_redact_stream;

/* An empty set: key shapes only. */
void csn_redact_init(csn_redact_set *set);

/* Registers a value in all its forms. BAD_VALUE: shorter than CSN_REDACT_VALUE_MIN bytes. TOO_LONG: longer
 * than CSN_REDACT_VALUE_MAX. NO_MEMORY: CSN_REDACT_VALUES_MAX values are there, or the automaton has no room
 * for every form: some may have been added, and are masked. */
csn_err csn_redact_add(csn_redact_set *set, csn_span value);

/* Makes the set ready for streams. Streams that are open go on. */
void csn_redact_build(csn_redact_set *set);

void csn_redact_begin(csn_redact_stream *s, bool values_only);

/* Takes all of `in` and writes what is certain to `out`, held bytes first: at most
 * in.len + CSN_REDACT_HELD_MAX bytes, which `out` must have room for; it must not overlap `in`. Returns the
 * number of bytes. The set must be ready. */
uint32_t csn_redact_push(const csn_redact_set *set, csn_redact_stream *s, csn_span in, uint8_t *out);

/* The stream has ended: writes what was held, at most CSN_REDACT_HELD_MAX bytes, and returns the number. The
 * stream may go on as a new one; counts stay. */
uint32_t csn_redact_flush(csn_redact_stream *s, uint8_t *out);

/* How many of the last bytes begin a registered value, whether they are held or have been released; 0 when
 * none do. */
uint32_t csn_redact_begun(const csn_redact_set *set, const csn_redact_stream *s);

/* Nothing has come for a while, and somebody waits for what is held: writes it, at most CSN_REDACT_HELD_MAX
 * bytes, and returns the number. Of what begins a form of a registered value the first half of that form is
 * written as it is, what is behind it masked. Unlike after csn_redact_flush the stream knows what it has let
 * go: the rest of a value is masked when it comes. So of a value that comes with pauses at most the first
 * half is ever written. */
uint32_t csn_redact_release(const csn_redact_set *set, csn_redact_stream *s, uint8_t *out);

/* The byte under which the automaton knows `c`. */
uint8_t csn_redact_fold(uint8_t c);

/* --- between the parts of the module ------------------------------------------------------------------ */

/* What a slot of the filter knows. Letters lose their case in it, and some other bytes a bit. */
#define CSN_REDACT_THREE                                                                                     \
  1u                       /* these three bytes stand in a pattern, and the fourth is known: look at it too */
#define CSN_REDACT_SURE 2u /* these three do, before any fourth */
#define CSN_REDACT_FOUR 4u /* these four do */
/* Slot of the first three of four bytes, and of all four; the word is read little-endian. */
static inline uint32_t csn_redact_slot(uint32_t word) {
  return ((word << 8) | 0x20202000u) * 0x9e3779b1u >> 16;
}
static inline uint32_t csn_redact_slot_of_four(uint32_t word) {
  return (word | 0x20202020u) * 0x85ebca6bu >> 16;
}

/* A path from the root that grows byte by byte into a pattern. */
typedef struct csn_redact_path {
  csn_redact_set *set;
  uint32_t state;
  uint32_t len;    /* bytes */
  uint8_t head[5]; /* first bytes, folded */
  bool is_full;    /* there was no room: the path has ended */
} csn_redact_path;
csn_redact_path csn_redact_path_of(csn_redact_set *set);
void csn_redact_path_put(csn_redact_path *path, uint8_t c);
/* Ends a form of a value; false when there was no room for it. A form below 8 bytes is left out. */
bool csn_redact_path_end(csn_redact_path *path, csn_redact_form form);
/* Ends a shape's prefix of 3 bytes or more. */
void csn_redact_path_end_shape(csn_redact_path *path, uint32_t shape);
/* State reached from `state` with a folded byte. */
uint32_t csn_redact_step(const csn_redact_set *set, uint32_t state, uint8_t folded);

/* All forms of a value; false when there was no room for one. */
bool csn_redact_forms(csn_redact_set *set, csn_span value);

/* What one more byte makes of a shape. */
typedef enum csn_redact_turn {
  CSN_REDACT_OVER, /* it was none, or ended before this byte */
  CSN_REDACT_OPEN, /* not long enough yet */
  CSN_REDACT_KEY,  /* from here on it is a key: run->len bytes, this one included */
  CSN_REDACT_MORE, /* a key goes on with this byte, and with the run->slashes before it that waited */
  CSN_REDACT_LAST, /* the same, and it ends */
  CSN_REDACT_WAIT, /* a key goes on if the next byte says so */
} csn_redact_turn;
uint32_t csn_redact_shape_count(void);
/* Prefix, rule and name of a shape, for the prefix automaton, the tools and the tests. */
const char *csn_redact_shape_prefix(uint32_t shape);
const char *csn_redact_shape_class(uint32_t shape);
uint32_t csn_redact_shape_min(uint32_t shape);
void csn_redact_shape_begin(csn_redact_run *run, uint32_t shape);
csn_redact_turn csn_redact_shape_turn(csn_redact_run *run, uint32_t shape, uint8_t c);

#endif
