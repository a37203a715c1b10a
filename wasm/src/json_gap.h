/* json_gap.h - what stands between two values of a line, remembered: json_gap.c makes a gap, json_follow.c
 * reads lines by them. */
#ifndef CSN_JSON_GAP_H
#define CSN_JSON_GAP_H

#include "json_state.h"

enum { OP_CAPTURE = 0, OP_CLOSE, OP_ARRAY_IN, OP_ARRAY_OUT, OP_INDEX };

/* What is behind the bytes of a gap. GAP_KEY: the rest of a long key, which is another gap, its only child.
 */
enum { GAP_GOES_ON = 0, GAP_STRING, GAP_END, GAP_NUMBER, GAP_KEY };

/* What json_follow.c does with a gap. WAY_SLOW: anything that takes a call or an end. */
enum { WAY_SLOW = 0, WAY_STRING, WAY_NUMBER, WAY_ON };

static inline bool csn_begins_number(uint8_t c) {
  return c == '-' || (c >= '0' && c <= '9');
}

/* Makes the gap that follows `from` out of the bytes at p, of which there are at least CSN_JSON_GAP_TEXT; its
 * position, 0 when there can be none. */
__attribute__((noinline)) uint32_t csn_json_learn(csn_json *j, const csn_json_gap *from, const uint8_t *p,
                                                  const uint8_t *end);
/* What the bytes of a gap, which are at p, do besides moving on. */
void csn_json_gap_ops(csn_json *j, const csn_json_gap *s, const uint8_t *p);
/* Of the gaps that follow `from` the rest of the long key at p; NULL when it is not all there or not known.
 */
const csn_json_gap *csn_json_long_key(const csn_json *j, const csn_json_gap *from, const uint8_t *p,
                                      const uint8_t *end);

/* State of the reader behind the gap's value. */
static inline uint8_t csn_gap_behind(const csn_json_gap *s) {
  if (s->kind != GAP_STRING && s->kind != GAP_NUMBER) return s->state;
  return s->depth == 0 ? S_END : S_NEXT;
}
#endif
