/* csn/base.h - spans, checked reads, the out-box, JSON text, arena.
 *
 * Input:  foreign bytes are only touched through csn_span and the csn_rd_* readers.
 * Output: csn_fx is the out-box of one call: effect records are appended, never changed afterwards.
 * Memory: nothing here allocates; every structure is the caller's and holds no memory of its own.
 * Errors: a writer that runs out of room traps, because callers reserve room before they change anything. */
#ifndef CSN_BASE_H
#define CSN_BASE_H

#include "csn/abi.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Bytes of an event besides its fields: record header, csn_fx_event, head of the JSON object, padding. */
#define CSN_EVENT_HEAD_MAX 256u

#define CSN_INVARIANT(cond)                                                                                  \
  do {                                                                                                       \
    if (!(cond)) __builtin_trap();                                                                           \
  } while (0)

/* In a file that is built for speed: what runs once a session or less, and is to be small. */
#if defined(__clang__)
#define CSN_RARE __attribute__((minsize))
#else
#define CSN_RARE
#endif

typedef struct csn_span {
  const uint8_t *ptr; /* may be NULL when len is 0 */
  uint32_t len;       /* bytes */
} csn_span;

static inline csn_span csn_span_of(const void *ptr, uint32_t len) {
  return (csn_span){(const uint8_t *)ptr, len};
}
uint32_t csn_str_len(const char *text);
csn_span csn_span_str(const char *text);
/* Where `byte` first stands; s.len when it does not. */
uint32_t csn_span_find(csn_span s, uint8_t byte);

/* memcpy for texts, most of which are short: a call out of the module costs more than they do. */
void csn_copy_long(uint8_t *to, const uint8_t *from, uint32_t len); /* len >= 16 */
static inline void csn_copy(uint8_t *to, const uint8_t *from, uint32_t len) {
  if (len > 32) {
    csn_copy_long(to, from, len);
  } else if (len >= 16) {
    memcpy(to, from, 16);
    memcpy(to + len - 16, from + len - 16, 16);
  } else if (len >= 8) {
    memcpy(to, from, 8);
    memcpy(to + len - 8, from + len - 8, 8);
  } else if (len >= 4) {
    memcpy(to, from, 4);
    /* cppcheck-suppress pointerOutOfBoundsCond ; there are len of them, whatever the shortest is */
    memcpy(to + len - 4, from + len - 4, 4);
  } else if (len > 0) {
    to[0] = from[0];
    to[len / 2] = from[len / 2];
    to[len - 1] = from[len - 1];
  }
}
/* Whether `len` bytes are the same. */
static inline bool csn_same(const uint8_t *a, const uint8_t *b, uint32_t len) {
  uint32_t x, y, i = 0;
  for (; i + 4 <= len; i += 4) {
    memcpy(&x, a + i, 4);
    memcpy(&y, b + i, 4);
    if (x != y) return false;
  }
  for (; i < len; i++)
    if (a[i] != b[i]) return false;
  return true;
}
/* csn_str_len, by the compiler where it knows the text. */
static inline uint32_t csn_len_of(const char *text) {
  return __builtin_constant_p(__builtin_strlen(text)) ? (uint32_t)__builtin_strlen(text) : csn_str_len(text);
}
static inline bool csn_span_is(csn_span s, const char *text) {
  uint32_t len = csn_len_of(text);
  return s.len == len && csn_same(s.ptr, (const uint8_t *)text, len);
}

/* Little-endian reader over a span. Every function returns false, and moves nothing, when the bytes are
 * short. */
typedef struct csn_reader {
  csn_span in;
  uint32_t pos; /* bytes read, 0..in.len */
} csn_reader;
bool csn_rd_u8(csn_reader *r, uint8_t *out);
bool csn_rd_u16(csn_reader *r, uint16_t *out);
bool csn_rd_u32(csn_reader *r, uint32_t *out);
bool csn_rd_u64(csn_reader *r, uint64_t *out);
bool csn_rd_bytes(csn_reader *r, uint32_t len, csn_span *out);

/* Bump allocator over memory of the caller; 8-aligned; reset as a whole. */
typedef struct csn_arena {
  uint8_t *base; /* 8-aligned */
  uint32_t cap;  /* bytes */
  uint32_t used; /* bytes, 0..cap */
} csn_arena;
/* Returns NULL when there is no room. */
void *csn_arena_take(csn_arena *a, size_t bytes);

/* The out-box. */
typedef struct csn_fx {
  uint8_t *base; /* 8-aligned */
  uint32_t cap;  /* bytes */
  uint32_t len;  /* bytes used, 0..cap; always a multiple of 8 between records */
} csn_fx;
static inline uint32_t csn_fx_room(const csn_fx *fx) {
  return fx->cap - fx->len;
}
/* Opens a record; payload bytes follow through csn_fx_put, then csn_fx_close. One record is open at a time.
 * Returns the record's offset, which csn_fx_close wants. */
uint32_t csn_fx_open(csn_fx *fx, csn_fx_kind kind, uint32_t id, int32_t code, uint32_t stream,
                     uint64_t time_ms);
void csn_fx_put(csn_fx *fx, const void *ptr, uint32_t len);
void csn_fx_close(csn_fx *fx, uint32_t at);
/* A whole record. */
void csn_fx_emit(csn_fx *fx, csn_fx_kind kind, uint32_t id, int32_t code, csn_span payload);
void csn_fx_emit_time(csn_fx *fx, csn_fx_kind kind, uint64_t time_ms);
void csn_fx_emit_cursor(csn_fx *fx, uint32_t stream, uint32_t id, uint64_t off);

/* JSON text into the open record. */
static inline void csn_put_str(csn_fx *fx, const char *text) { /* as it is */
  csn_fx_put(fx, text, csn_len_of(text));
}
void csn_put_u64(csn_fx *fx, uint64_t value);
void csn_put_i64(csn_fx *fx, int64_t value);
/* Escapes raw bytes: quotes, backslash and control characters; bytes that are not UTF-8 become U+FFFD, one
 * for each maximal ill-formed part. Output is at most 6 x len bytes. No quotes around it. */
void csn_put_escaped(csn_fx *fx, csn_span raw);
/* `,"key":"..."` with raw bytes escaped, resp. with bytes that are the inside of a JSON string already. Each
 * is a function that is told the key's length, and an inline one for which the compiler counts it. */
#define CSN_INLINE static inline __attribute__((always_inline))
void csn_put_key_raw(csn_fx *fx, const char *key, uint32_t key_len, csn_span raw);
void csn_put_key_text(csn_fx *fx, const char *key, uint32_t key_len, const uint8_t *escaped, uint32_t len);
void csn_put_key_json(csn_fx *fx, const char *key, uint32_t key_len, const uint8_t *json, uint32_t len);
void csn_put_key_u64(csn_fx *fx, const char *key, uint32_t key_len, uint64_t value);
CSN_INLINE void csn_put_field_raw(csn_fx *fx, const char *key, csn_span raw) {
  csn_put_key_raw(fx, key, csn_len_of(key), raw);
}
CSN_INLINE void csn_put_field_text(csn_fx *fx, const char *key, csn_span escaped) {
  csn_put_key_text(fx, key, csn_len_of(key), escaped.ptr, escaped.len);
}
CSN_INLINE void csn_put_field_json(csn_fx *fx, const char *key, csn_span json) { /* any JSON text, verbatim */
  csn_put_key_json(fx, key, csn_len_of(key), json.ptr, json.len);
}
CSN_INLINE void csn_put_field_u64(csn_fx *fx, const char *key, uint64_t value) {
  csn_put_key_u64(fx, key, csn_len_of(key), value);
}
CSN_INLINE void csn_put_field_bool(csn_fx *fx, const char *key, bool value) {
  csn_put_key_json(fx, key, csn_len_of(key), (const uint8_t *)(value ? "true" : "false"), value ? 4 : 5);
}
CSN_INLINE void csn_put_field_null(csn_fx *fx, const char *key) {
  csn_put_key_json(fx, key, csn_len_of(key), (const uint8_t *)"null", 4);
}
/* Nano-dollars as a decimal number of dollars without an exponent: 2524000 -> 0.002524. */
void csn_put_nano(csn_fx *fx, uint64_t nano);

/* Length of the longest prefix of raw[0..len) that does not end inside a UTF-8 sequence: 0 to 3 bytes less
 * than `raw.len`. Ill-formed bytes count as complete. */
uint32_t csn_utf8_whole(csn_span raw);
/* Length of the UTF-8 sequence at the start of s, 0 when it is ill-formed or short; *bad is then the length
 * of the maximal ill-formed part (1..3). s.len must be at least 1. */
uint32_t csn_utf8_len(csn_span s, uint32_t *bad);
/* A text as UTF-16, little-endian. `out` has room for 2 x len bytes. Returns bytes written; 0, and nothing is
 * written, when the text is ASCII; CSN_ERR_BAD_RECORD when it is not UTF-8. */
int32_t csn_utf16(csn_span text, uint8_t *out);

/* One normalized event. The position of the line is filled by the parser, the rest by the session. */
typedef struct csn_emit {
  csn_fx *fx;
  uint64_t *seq;       /* number of the last event; incremented by csn_event_open */
  uint64_t time_ms;    /* Unix time in milliseconds; it and the run do not change after the first event */
  uint32_t run;        /* run number, 0 for session events */
  uint64_t line_off;   /* bytes from the start of the stream */
  uint32_t line_len;   /* bytes without the newline; 0 when the event comes from no line */
  uint32_t line_flags; /* CSN_LINE_*; FIRST is cleared by csn_event_close */
  uint64_t head_seq;   /* whose head it is */
  uint32_t head_len;   /* bytes; 0 before the first event */
  uint32_t seq_end;    /* bytes: where seq ends in it */
  uint8_t head[96];    /* what the text of an event begins with, up to its type */
} csn_emit;
/* Room that csn_event_open + csn_event_close take besides the fields: CSN_EVENT_HEAD_MAX. */
uint32_t csn_event_open(csn_emit *e, csn_type type);
void csn_event_close(csn_emit *e, uint32_t at);
const char *csn_type_text(csn_type type);
/* CSN_T_END when no type has this text. */
csn_type csn_type_by_text(csn_span text);
bool csn_type_is_host(int32_t type);

#endif
