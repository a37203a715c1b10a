/* json_gap.h - what stands between two values of a line, remembered: json_gap.c makes a gap, json_follow.c
 * reads lines by them. */
#ifndef CSN_JSON_GAP_H
#define CSN_JSON_GAP_H

#include "json_state.h"

enum { OP_CAPTURE = 0, OP_CLOSE, OP_ARRAY_IN, OP_ARRAY_OUT, OP_INDEX };

enum { GAP_GOES_ON = 0, GAP_STRING, GAP_NUMBER, GAP_END }; /* what is behind the bytes of a gap */

static inline bool csn_begins_number(uint8_t c) {
  return c == '-' || (c >= '0' && c <= '9');
}

/* Makes the gap that follows `from` out of the CSN_JSON_GAP_TEXT bytes at p; its position, 0 when there can
 * be none. */
__attribute__((noinline)) uint32_t csn_json_learn(csn_json *j, const csn_json_gap *from, const uint8_t *p);
/* State of the reader behind the gap's value. */
static inline uint8_t csn_gap_behind(const csn_json_gap *s) {
  if (s->kind != GAP_STRING && s->kind != GAP_NUMBER) return s->state;
  return s->depth == 0 ? S_END : S_NEXT;
}
#endif
