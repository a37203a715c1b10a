#include "json_gap.h"
#include "json_scan.h"

/* Everything here must agree with json.c byte for byte, as in json_fast.c. */

_Static_assert(CSN_JSON_GAP_TEXT == 2 * CSN_V, "a gap is compared as two blocks");
_Static_assert(offsetof(csn_json_item, kind) == 1 && offsetof(csn_json_item, cut) == 2 &&
                   offsetof(csn_json_item, node) == 3 &&
                   offsetof(csn_json_gap, node) == offsetof(csn_json_gap, field) + 3,
               "what an item begins with is copied from its gap");

void csn_json_reset(csn_json *j) {
  CSN_ROLLED
  for (uint32_t i = 0; i < j->item_count; i++)
    j->latest[j->items[i].field] = 0;
  csn_v zero = csn_v_constant(csn_splats[CSN_SPLAT_NUL]);
  _Static_assert(offsetof(csn_json, outer) == offsetof(csn_json, state) + 4 * CSN_V, "four blocks");
  for (uint32_t i = 0; i < 4; i++)
    csn_v_store((uint8_t *)j + offsetof(csn_json, state) + i * CSN_V, zero);
  j->outer = NONE;
  j->inner = NONE;
}

/* The end of a short whole number without a sign, of which there are many; p for any other. */
static inline const uint8_t *short_number_end(const uint8_t *p, const uint8_t *end) {
  if (end - p < (ptrdiff_t)CSN_V) return p;
  csn_v v = csn_v_load(p);
  uint32_t digits = csn_v_mask(csn_v_without(csn_v_less(v, CSN_SPLAT_COLON), csn_v_less(v, CSN_SPLAT_ZERO)));
  uint32_t n = (uint32_t)__builtin_ctz(~digits);
  if (n == CSN_V || (n > 1 && *p == '0') || p[n] == '.' || (p[n] | 0x20) == 'e') return p;
  return p + n;
}

__attribute__((noinline)) static const uint8_t *long_string(csn_json *j, const uint8_t *p,
                                                            const uint8_t *end) {
  uint32_t seen = 0;
  CSN_ROLLED
  while (end - p >= (ptrdiff_t)CSN_V) {
    uint32_t special = csn_v_special(csn_v_load(p));
    p += special != 0 ? (uint32_t)__builtin_ctz(special) : CSN_V;
    if (special != 0) break;
  }
  if (p < end && *p == '"') return p;
  p = csn_scan_long(p, end, &seen);
  if (seen & CSN_SCAN_NUL) j->has_nul = 1;
  return p;
}

/* Why the loop of follow stopped. */
enum { AT_UNKNOWN = 0, AT_SLOW, AT_CAPTURE, AT_LONG, AT_NUMBER, AT_END };

/* The linker, which knows where the reader is, would add that to the offset of every field anew. */
#if defined(__wasm__)
#define CSN_AT(p) __asm__("" : "+r"(p))
#else
#define CSN_AT(p) (void)(p)
#endif
static inline const csn_json_gap *gap_at(const csn_json_gap *gaps, uint32_t at) {
  const csn_json_gap *gap = gaps + at;
  CSN_AT(gap);
  return gap;
}

/* Reads from the start of a line on, for as long as the line is like lines before it. The loop has no calls
 * in it: around a call V8 keeps nothing in registers. What needs one stops the loop. */
static const uint8_t *follow(csn_json *j, const uint8_t *p, const uint8_t *end) {
  const csn_json_gap *const gaps = j->gaps, *s = gaps;
  csn_v quote = csn_v_splat(CSN_SPLAT_QUOTE), backslash = csn_v_splat(CSN_SPLAT_BACKSLASH);
  csn_v space = csn_v_splat(CSN_SPLAT_SPACE);
  uint32_t values = 0, state;

  for (;;) {
    const uint8_t *text = p; /* the string or number behind the gap */
    const csn_json_gap *next;
    uint32_t why, count = j->item_count, pool_len = j->pool_len, index = j->index;
    uint32_t direct = j->outer == NONE ? CSN_JW_INSIDE : UINT32_MAX; /* what is captured in the loop */
    for (;;) {
      if (end - p < (ptrdiff_t)CSN_JSON_GAP_TEXT) {
        why = AT_END;
        break;
      }
      csn_v low = csn_v_load(p), high = csn_v_load(p + CSN_V);
      /* The first gap is the end of every list: of it nothing is needed. */
      CSN_ROLLED
      for (next = gap_at(gaps, s->child);; next = gap_at(gaps, next->sibling)) {
        uint32_t same = csn_v_mask(csn_v_same(low, csn_v_load(next->text))) |
                        csn_v_mask(csn_v_same(high, csn_v_load(next->text + CSN_V))) << CSN_V;
        if ((next->need & ~same) == 0) break;
      }
      const uint8_t *value_end;
      if (next->way == WAY_STRING) {
        s = next;
        values += s->values;
        text = p += s->len;
        uint32_t mask = 0;
        CSN_ROLLED
        while (end - p >= (ptrdiff_t)CSN_V) {
          csn_v v = csn_v_load(p);
          mask = csn_v_mask(
              csn_v_or(csn_v_or(csn_v_same(v, quote), csn_v_same(v, backslash)), csn_v_below(v, space)));
          if (mask != 0) break;
          p += CSN_V;
        }
        if (mask != 0) p += __builtin_ctz(mask);
        if (mask == 0 || *p != '"') {
          why = AT_LONG;
          break;
        }
        value_end = p++;
      } else if (next->way == WAY_NUMBER) {
        /* The gap before a number is shorter than CSN_JSON_GAP_TEXT. */
        if (!csn_begins_number(p[next->len])) {
          why = AT_UNKNOWN;
          break;
        }
        s = next;
        values += s->values;
        text = p += s->len;
        p = short_number_end(p, end);
        if (p == text) {
          why = AT_NUMBER;
          break;
        }
        value_end = p;
      } else if (next->way == WAY_ON) {
        s = next;
        values += s->values;
        p += s->len;
        continue;
      } else {
        why = AT_SLOW;
        break;
      }
      if (s->want == CSN_JW_NOTHING) continue;
      uint32_t len = (uint32_t)(value_end - text);
      if (s->want != direct || count == CSN_JSON_ITEM_MAX || len > s->cap ||
          len > CSN_JSON_POOL_CAP - pool_len) {
        why = AT_CAPTURE;
        break;
      }
      csn_json_item *item = &j->items[count++];
      CSN_AT(item);
      uint16_t *latest = &j->latest[s->field];
      memcpy(item, &s->field, 4);
      item->earlier = *latest;
      item->index = index;
      item->off = pool_len;
      item->len = len;
      item->true_len = len;
      item->text = text;
      *latest = (uint16_t)count;
      pool_len += len;
    }

    j->item_count = count;
    j->pool_len = pool_len;
    if (why == AT_SLOW) {
      if (next->kind == GAP_KEY) {
        state = csn_gap_behind(s);
        next = csn_json_long_key(j, s, p, end);
        if (next == NULL) break;
        s = next;
        p += CSN_JSON_GAP_TEXT + s->len;
        continue;
      }
      if (next == gaps) {
        why = AT_UNKNOWN;
      } else if (next->kind == GAP_NUMBER && !csn_begins_number(p[next->len])) {
        why = AT_UNKNOWN;
      } else {
        s = next;
        csn_json_gap_ops(j, s, p);
        text = p += s->len;
        values += s->values;
        if (s->kind == GAP_GOES_ON) continue;
        why = s->kind == GAP_STRING ? AT_LONG : s->kind == GAP_NUMBER ? AT_NUMBER : AT_END;
      }
    }
    state = csn_gap_behind(s);
    if (why == AT_UNKNOWN) {
      uint32_t at = csn_json_learn(j, s, p, end);
      if (at == 0) break;
    } else if (why == AT_LONG) {
      p = long_string(j, p, end);
      if (p == end || *p != '"') {
        csn_json_capture_begin(j, s->node, CSN_JK_STRING, text, text - 1, s->depth);
        j->in_key = 0;
        state = S_STRING;
        break;
      }
      csn_json_capture(j, s->node, CSN_JK_STRING, text, p, text - 1, p + 1);
      p++;
    } else if (why == AT_NUMBER) {
      p = csn_json_number_end(text, end);
      if (p == NULL) {
        p = text;
        values--;
        state = s->state;
        break;
      }
      if (s->want != CSN_JW_NOTHING) csn_json_capture_other(j, s->node, CSN_JK_NUMBER, text, p, text, p);
    } else if (why == AT_CAPTURE) {
      uint32_t quoted = s->kind == GAP_STRING;
      csn_json_capture_other(j, s->node, (csn_json_kind)s->value_kind, text, p - quoted, text - quoted, p);
    } else {
      break;
    }
  }
  j->state = (uint8_t)state;
  j->depth = s->depth;
  j->node = s->node;
  CSN_ROLLED
  for (uint32_t i = 0; i < s->depth; i++) {
    j->node_at[i + 1] = s->node_at[i];
    j->is_array[i + 1] = s->arrays >> i & 1;
  }
  j->value_count += values;
  return p;
}

uint32_t csn_json_line(csn_json *j, const uint8_t *p, uint32_t len) {
  if (len == 0) return 0;
  const uint8_t *begin = p, *end = p + len;
  if (j->state == S_VALUE && j->depth == 0) {
    p = follow(j, p, end);
    if (j->state == S_END && p < end && *p == '\n' && j->outer == NONE) return (uint32_t)(p - begin);
  }
  return (uint32_t)(csn_json_line_rest(j, p, end) - begin);
}
