/* json_state.h - what json.c, which decides, and json_fast.c, which only hurries, have in common: the states
 * and the captures.
 *
 * A capture stands in the input from `text` on while copying is 0; its length is known when it ends. At the
 * end of a chunk csn_json_keep_open copies what there is into the pool; from then on the bytes are appended.
 * Where a capture would stand in the pool, and how much of it is kept, is the same in both cases. */
#ifndef CSN_JSON_STATE_H
#define CSN_JSON_STATE_H

#include "csn/json.h"

#define NONE      0xffffffffu
#define NODE_NONE CSN_JSON_NODE_NONE

enum state {
  S_VALUE = 0,   /* a value must come */
  S_KEY,         /* a key */
  S_NEXT,        /* , or the container's end */
  S_VALUE_CLOSE, /* a value or ] */
  S_KEY_CLOSE,   /* a key or } */
  S_COLON,       /* : */
  S_STRING,      /* inside a string */
  S_UTF8,        /* inside a UTF-8 sequence of a string */
  S_ESCAPE,      /* after a backslash */
  S_HEX,         /* inside \uXXXX */
  S_NUMBER,      /* inside a number */
  S_LITERAL,     /* inside true, false, null */
  S_END,         /* the value is complete */
  S_DEAD,        /* verdict reached */
};

static inline uint32_t csn_json_min(uint32_t a, uint32_t b) {
  return a < b ? a : b;
}

/* Bytes that the capture in `item` may keep. */
static inline uint32_t csn_json_room(const csn_json *j, const csn_json_item *item) {
  return csn_json_min(j->table.nodes[item->node].cap, CSN_JSON_POOL_CAP - item->off);
}

/* Reserves an item for the current node; NONE when there is none left. */
static inline uint32_t csn_json_item_new(csn_json *j, csn_json_kind kind, uint32_t node, const uint8_t *text,
                                         uint32_t off) {
  if (j->item_count == CSN_JSON_ITEM_MAX) {
    j->lost = 1;
    return NONE;
  }
  uint8_t field = j->table.nodes[node].field;
  csn_json_item *item = &j->items[j->item_count++];
  item->field = field;
  item->kind = (uint8_t)kind;
  item->cut = 0;
  item->node = (uint8_t)node;
  item->earlier = j->latest[field];
  item->index = j->index;
  item->off = off;
  item->len = 0;
  item->true_len = 0;
  item->text = text;
  j->latest[field] = (uint16_t)j->item_count;
  return j->item_count - 1;
}

/* Makes a cut capture end between units of text. */
void csn_json_item_trim(csn_json *j, csn_json_item *item);

/* Ends a capture of a whole value, [text, end) in the input, that no other capture contains. */
static inline void csn_json_item_whole(csn_json *j, csn_json_item *item, const uint8_t *end) {
  uint32_t len = (uint32_t)(end - item->text);
  item->true_len = len;
  item->len = csn_json_min(len, csn_json_room(j, item));
  j->pool_len = item->off + item->len;
  if (item->len < len) {
    item->cut = 1;
    csn_json_item_trim(j, item);
  }
}

/* Where a capture that begins at `text`, inside the open one, would stand in the pool. */
static inline uint32_t csn_json_inner_off(const csn_json *j, const uint8_t *text) {
  const csn_json_item *o = &j->items[j->outer];
  if (j->copying) return j->pool_len;
  return o->off + csn_json_min((uint32_t)(text - o->text), csn_json_room(j, o));
}

/* Ends a capture [text, end) inside the open one, which stands in the input: it keeps what that one keeps. */
static inline void csn_json_item_inner(csn_json *j, csn_json_item *item, const uint8_t *end) {
  uint32_t len = (uint32_t)(end - item->text);
  item->true_len = len;
  item->len = csn_json_inner_off(j, end) - item->off;
  if (item->len < len) {
    item->cut = 1;
    csn_json_item_trim(j, item);
  }
}

/* The slow way of csn_json_capture. */
void csn_json_capture_other(csn_json *j, uint32_t node, csn_json_kind kind, const uint8_t *text,
                            const uint8_t *end, const uint8_t *whole, const uint8_t *whole_end);
/* The start of a capture whose end is not in this chunk. */
void csn_json_capture_begin(csn_json *j, uint32_t node, csn_json_kind kind, const uint8_t *text,
                            const uint8_t *whole, uint32_t depth);
/* The start of an object or array at p; `depth` is that around it. */
void csn_json_capture_container(csn_json *j, uint32_t node, csn_json_kind kind, const uint8_t *p,
                                uint32_t depth);
/* Captures a string or scalar of the node: [text, end), and with its quotes [whole, whole_end). */
static inline void csn_json_capture(csn_json *j, uint32_t node, csn_json_kind kind, const uint8_t *text,
                                    const uint8_t *end, const uint8_t *whole, const uint8_t *whole_end) {
  uint32_t want = j->want[node], len = (uint32_t)(end - text);
  if (want == CSN_JW_NOTHING) return;
  if (want == CSN_JW_INSIDE && j->outer == NONE && j->item_count < CSN_JSON_ITEM_MAX &&
      len <= j->table.nodes[node].cap && len <= CSN_JSON_POOL_CAP - j->pool_len) {
    csn_json_item *item = &j->items[csn_json_item_new(j, kind, node, text, j->pool_len)];
    item->len = item->true_len = len;
    j->pool_len += len;
  } else {
    csn_json_capture_other(j, node, kind, text, end, whole, whole_end);
  }
}

/* The node under `parent` for the key; NODE_NONE when there is none. `parent` is a node. */
uint32_t csn_json_child(const csn_json *j, uint32_t parent, const uint8_t *key, uint32_t len);

/* First byte behind the number at p by RFC 8259, or NULL when there is none or it might go on behind `end`;
 * p < end. */
const uint8_t *csn_json_number_end(const uint8_t *p, const uint8_t *end);

/* Takes whole tokens from [p, end) while they are what RFC 8259 allows. The state is at most S_NEXT, and no
 * capture is being copied. Returns where it stopped: at a byte between tokens or inside of a string, with the
 * state to match. It refuses nothing: what it does not take, the caller looks at byte by byte. */
__attribute__((noinline)) const uint8_t *csn_json_fast(csn_json *j, const uint8_t *p, const uint8_t *end);

/* The rest of csn_json_line, from p on. Returns the first byte not taken: end, or the newline. */
__attribute__((noinline)) const uint8_t *csn_json_line_rest(csn_json *j, const uint8_t *p,
                                                            const uint8_t *end);

/* Forgets the shapes of lines. */
void csn_json_forget(csn_json *j);

#endif
