/* csn/json.h - streaming JSON: validates one text by RFC 8259 and captures the fields of a static table.
 *
 * Input:  the bytes of one JSON text, in any chunking (the result does not depend on chunk boundaries).
 * Output: a verdict, and captured fields: escaped bytes verbatim, each with a cap, a cut flag and its true
 * length. Memory: csn_json is caller-owned, fixed size; nothing to free. A capture stands in the input as
 * long as that is there and is copied into the pool when the input goes before the text has ended, so what
 * lies within one chunk is never copied. No whole-text buffer. Errors: the first violation decides the
 * verdict; the rest of the text is skipped at the speed of a search. */
#ifndef CSN_JSON_H
#define CSN_JSON_H

#include "csn/base.h"

#define CSN_JSON_DEPTH_MAX 128u    /* items: nested containers; deeper texts are CSN_JSON_TOO_DEEP */
#define CSN_JSON_POOL_CAP  131072u /* bytes: all captures of one text together */
#define CSN_JSON_ITEM_MAX  512u    /* items: captures of one text */
#define CSN_JSON_KEY_CAP   40u     /* bytes: longest key that a table can name */
#define CSN_JSON_NODE_MAX  128u    /* items: nodes of a table */
#define CSN_JSON_HASH      256u    /* items: twice the nodes, so that a chain of probes ends soon */
#define CSN_JSON_NODE_NONE 0xffu   /* no node of the table */

typedef enum csn_json_verdict {
  CSN_JSON_OK = 0,   /* one complete value */
  CSN_JSON_EMPTY,    /* nothing but white space */
  CSN_JSON_PARTIAL,  /* the text ended inside a value */
  CSN_JSON_INVALID,  /* not JSON */
  CSN_JSON_TOO_DEEP, /* deeper than CSN_JSON_DEPTH_MAX */
} csn_json_verdict;

typedef enum csn_json_kind {
  CSN_JK_NONE = 0,
  CSN_JK_STRING,
  CSN_JK_NUMBER,
  CSN_JK_TRUE,
  CSN_JK_FALSE,
  CSN_JK_NULL,
  CSN_JK_OBJECT,
  CSN_JK_ARRAY,
} csn_json_kind;

/* How a node is captured. */
typedef enum csn_json_want { CSN_JW_NOTHING = 0, CSN_JW_INSIDE, CSN_JW_VERBATIM } csn_json_want;

/* Static table of paths: a tree. Node 0 is the root value. A node's parent stands before it. */
typedef enum csn_json_step { CSN_JS_KEY = 0, CSN_JS_ANY_KEY, CSN_JS_ANY_INDEX } csn_json_step;
typedef struct csn_json_node {
  uint8_t parent; /* index of the parent node */
  uint8_t step;   /* csn_json_step: how the node is reached from its parent */
  uint8_t field;  /* number under which values are captured, 0 for none */
  uint8_t
      raw; /* 0: inside of a string, text of a scalar, kind only of a container; 1: whole value verbatim */
  uint32_t cap;    /* bytes, at most CSN_FIELD_MAX */
  const char *key; /* for CSN_JS_KEY; "" otherwise */
} csn_json_node;
typedef struct csn_json_table {
  const csn_json_node *nodes;
  uint32_t count; /* 1..CSN_JSON_NODE_MAX */
} csn_json_table;

typedef struct csn_json_item {
  uint8_t field;       /* of the node */
  uint8_t kind;        /* csn_json_kind of the value */
  uint8_t cut;         /* 1: fewer bytes than true_len were kept */
  uint8_t node;        /* of the table */
  uint16_t earlier;    /* the item of this field before this one, its position plus 1; 0 for none */
  uint32_t index;      /* position in the outermost array that the path goes through, 0 when there is none */
  uint32_t off, len;   /* bytes; where they stand is csn_json_text's business */
  uint32_t true_len;   /* bytes of the value in the text (string: without quotes) */
  const uint8_t *text; /* in the input, or at pool + off */
} csn_json_item;

/* What stood between two values of a line, and what it did to the reader: containers, keys, literals. */
#define CSN_JSON_GAP_TEXT  32u  /* bytes */
#define CSN_JSON_GAP_DEPTH 8u   /* items: containers around a gap */
#define CSN_JSON_GAP_OPS   4u   /* items */
#define CSN_JSON_GAP_COUNT 768u /* items */
#define CSN_JSON_OP_COUNT  256u /* items: of all gaps */
typedef struct csn_json_op {
  uint8_t what;       /* of json_gap.c */
  uint8_t at;         /* bytes into the gap */
  uint8_t node, kind; /* csn_json_kind of what is captured */
  uint8_t depth;
} csn_json_op;
typedef struct csn_json_gap {
  uint8_t text[CSN_JSON_GAP_TEXT];
  uint32_t need;           /* bit i: byte i of the text is part of the gap */
  uint16_t child, sibling; /* positions in gaps[]: what follows this gap, what else follows the one before */
  uint16_t cap;            /* of the value behind it */
  uint8_t ops;             /* position of its first op in ops[] */
  uint8_t way;             /* of json_gap.h */
  uint8_t op_count;
  uint8_t len;                           /* bytes taken */
  uint8_t kind;                          /* what is behind it */
  uint8_t values;                        /* values begun in it, with the one behind it */
  uint8_t field, value_kind, none, node; /* of the value, as csn_json_item begins; none is 0 */
  uint8_t depth, state;                  /* of the reader behind the gap, as is node */
  uint8_t want;                          /* of the value */
  uint8_t arrays;                        /* bit i: the container at depth i + 1 is an array */
  uint8_t node_at[CSN_JSON_GAP_DEPTH];
} csn_json_gap;
_Static_assert(sizeof(csn_json_gap) == 64 && CSN_FIELD_MAX <= UINT16_MAX, "a gap is as small as it can be");

typedef struct csn_json { /* public size, private fields */
  csn_json_table table;
  /* From here to `outer` everything is 0 at the start of a text. */
  uint8_t state;
  uint8_t verdict;     /* csn_json_verdict once decided, else OK */
  uint8_t number;      /* state inside a number */
  uint8_t literal;     /* which literal */
  uint8_t literal_pos; /* bytes of it seen */
  uint8_t in_key;      /* the string being read is a key */
  uint8_t utf8_need;   /* continuation bytes still to come */
  uint8_t utf8_low, utf8_high;
  uint8_t hex_left;
  uint8_t key_over; /* the key cannot match any node */
  uint8_t has_nul;  /* a string holds \u0000 */
  uint8_t lost;     /* a capture found no item */
  uint8_t copying;  /* the open capture is being copied into the pool, else it stands in the input */
  uint16_t hex;
  uint32_t depth;
  uint32_t key_len;
  uint32_t node;         /* node of the value being read, or CSN_JSON_NONE */
  uint32_t outer_depth;  /* depth at which the outer item's container stands */
  uint32_t first_array;  /* depth of the array that gives `index`, 0 for none */
  uint32_t index;        /* position in that array */
  uint32_t value_count;  /* values seen, saturating; keys not counted */
  uint32_t cr_count;     /* carriage returns between tokens, saturating */
  uint32_t pool_len;     /* bytes of pool[] that are taken, also by captures that stand in the input */
  uint32_t item_count;   /* used part of items[] */
  uint32_t pooled;       /* items before this one stand in pool[] */
  uint32_t unused;       /* up to four blocks of 16 bytes */
  uint32_t outer, inner; /* items being filled, or CSN_JSON_NONE */
  /* The table, made quick to ask: nodes with a key by hash, what stands under a node. */
  uint8_t by_key[CSN_JSON_HASH]; /* CSN_JSON_NODE_NONE when empty */
  uint8_t key_len_of[CSN_JSON_NODE_MAX];
  uint8_t any_key[CSN_JSON_NODE_MAX], has_keys[CSN_JSON_NODE_MAX];
  uint8_t any_index[256];                /* also for CSN_JSON_NODE_NONE */
  uint8_t want[256];                     /* by node, also for CSN_JSON_NODE_NONE: csn_json_want */
  csn_json_gap gaps[CSN_JSON_GAP_COUNT]; /* the first one stands for the start of a line */
  csn_json_op ops[CSN_JSON_OP_COUNT];
  uint32_t gap_count, op_count;
  uint32_t unknown_count;                   /* lines of a shape for which there was no room */
  uint16_t latest[256];                     /* by field: its last item's position plus 1 */
  uint8_t is_array[CSN_JSON_DEPTH_MAX + 1]; /* by depth, 1-based */
  uint8_t node_at[CSN_JSON_DEPTH_MAX + 1];  /* node of the container, CSN_JSON_NODE_NONE when off the table */
  char key[CSN_JSON_KEY_CAP];
  csn_json_item items[CSN_JSON_ITEM_MAX];
  uint8_t pool[CSN_JSON_POOL_CAP];
} csn_json;

/* Prepares for the first text; `table` must live as long as *j. */
void csn_json_init(csn_json *j, csn_json_table table);
/* Prepares for the next text. */
void csn_json_reset(csn_json *j);
/* Takes all of `in`, which is not retained. */
void csn_json_push(csn_json *j, csn_span in);
/* csn_json_push_line; wasm passes no structures in registers. */
uint32_t csn_json_line(csn_json *j, const uint8_t *p, uint32_t len);
/* Takes bytes of a text that ends at a newline. Returns bytes used: up to the first newline outside of which
 * nothing is looked at, and *ended is true when in.ptr[used] is that newline. Then captures may stand in `in`
 * until csn_json_reset or csn_json_keep, and csn_json_end gives the verdict. */
static inline uint32_t csn_json_push_line(csn_json *j, csn_span in, bool *ended) {
  uint32_t used = csn_json_line(j, in.ptr, in.len);
  *ended = used < in.len;
  return used;
}
/* Copies what stands in the input into the pool, before the input goes away. */
void csn_json_keep(csn_json *j);
/* Ends the text. Captures stay readable until the next reset; they are meaningful only for CSN_JSON_OK. */
csn_json_verdict csn_json_end(csn_json *j);

/* The last capture of `field` at array position `index`; an item of kind CSN_JK_NONE when there is none. */
const csn_json_item *csn_json_get(const csn_json *j, uint32_t field, uint32_t index);
/* The captured bytes; the only way to them. */
static inline csn_span csn_json_text(const csn_json *j, const csn_json_item *item) {
  return csn_span_of(item->len > 0 ? item->text : j->pool, item->len);
}
/* Highest captured array position plus 1 among fields first..last; 0 when none was captured. */
uint32_t csn_json_index_end(const csn_json *j, uint32_t first, uint32_t last);
/* A JSON number as an unsigned integer, fraction cut off; false when negative, not a number or out of range.
 */
bool csn_json_u64(csn_span number, uint64_t *out);
/* A JSON number times 10^9, rounded half up: dollars to nano-dollars. False as above. */
bool csn_json_nano(csn_span number, uint64_t *out);
/* Cuts an escaped text to at most cap bytes without splitting an escape, a surrogate pair or a UTF-8
 * sequence. */
uint32_t csn_json_cut(csn_span escaped, uint32_t cap);
/* True when `text` is one JSON value by RFC 8259. Uses *j as scratch with an empty table. */
bool csn_json_is_valid(csn_json *j, csn_span text);

#endif
