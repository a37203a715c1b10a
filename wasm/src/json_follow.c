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
  p = csn_scan_long(p, end, &seen);
  if (seen & CSN_SCAN_NUL) j->has_nul = 1;
  return p;
}

/* Why the loop of follow stopped. */
enum { AT_UNKNOWN = 0, AT_OPS, AT_CAPTURE, AT_LONG, AT_NUMBER, AT_KEY, AT_END };

/* Reads from the start of a line on, for as long as the line is like lines before it. The loop has no calls
 * in it: around a call V8 keeps nothing in registers. What needs one stops the loop. */
static const uint8_t *follow(csn_json *j, const uint8_t *p, const uint8_t *end) {
  const csn_json_gap *const gaps = j->gaps, *s = gaps;
  csn_v quote = csn_v_splat(CSN_SPLAT_QUOTE), backslash = csn_v_splat(CSN_SPLAT_BACKSLASH);
  csn_v space = csn_v_splat(CSN_SPLAT_SPACE);
  uint32_t values = 0, state;
  bool at_value = false; /* the bytes of s are taken, its ops are done, the value is not taken yet */

  for (;;) {
    const uint8_t *text = p; /* the string or number behind the gap */
    uint32_t why, count = j->item_count, pool_len = j->pool_len, index = j->index;
    bool direct = j->outer == NONE;
    for (;;) {
      if (!at_value) {
        if (end - p < (ptrdiff_t)CSN_JSON_GAP_TEXT) {
          why = AT_END;
          break;
        }
        csn_v low = csn_v_load(p), high = csn_v_load(p + CSN_V);
        const csn_json_gap *next = gaps + s->child;
        /* The first gap is the end of every list: of it nothing is needed. */
        CSN_ROLLED
        for (;; next = gaps + next->sibling) {
          uint32_t same = csn_v_mask(csn_v_same(low, csn_v_load(next->text))) |
                          csn_v_mask(csn_v_same(high, csn_v_load(next->text + CSN_V))) << CSN_V;
          if ((next->need & ~same) == 0) break;
        }
        if (next == gaps) {
          why = AT_UNKNOWN;
          break;
        }
        if (next->kind >= GAP_NUMBER) {
          if (next->kind == GAP_NUMBER) {
            /* The gap before a number is shorter than CSN_JSON_GAP_TEXT. */
            if (!csn_begins_number(p[next->len])) {
              why = AT_UNKNOWN;
              break;
            }
          } else {
            why = AT_KEY;
            break;
          }
        }
        s = next;
        if (s->op_count > 0) {
          why = AT_OPS;
          break;
        }
        p += s->len;
        values += s->values;
      }
      at_value = false;
      text = p;
      if (s->kind == GAP_STRING) {
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
      } else if (s->kind == GAP_NUMBER) {
        p = short_number_end(p, end);
        if (p == text) {
          why = AT_NUMBER;
          break;
        }
      } else if (s->kind == GAP_END) {
        why = AT_END;
        break;
      } else {
        continue;
      }
      if (s->want != CSN_JW_NOTHING) {
        uint32_t len = (uint32_t)(p - text);
        if (s->want != CSN_JW_INSIDE || !direct || count == CSN_JSON_ITEM_MAX || len > s->cap ||
            len > CSN_JSON_POOL_CAP - pool_len) {
          why = AT_CAPTURE;
          break;
        }
        csn_json_item *item = &j->items[count++];
        uint32_t field = s->field;
        memcpy(item, &s->field, 4);
        item->earlier = j->latest[field];
        item->index = index;
        item->off = pool_len;
        item->len = len;
        item->true_len = len;
        item->text = text;
        j->latest[field] = (uint16_t)count;
        pool_len += len;
      }
      p += s->kind == GAP_STRING;
    }

    j->item_count = count;
    j->pool_len = pool_len;
    state = csn_gap_behind(s);
    if (why == AT_UNKNOWN) {
      uint32_t at = csn_json_learn(j, s, p, end);
      if (at == 0) break;
    } else if (why == AT_KEY) {
      const csn_json_gap *rest = csn_json_long_key(j, s, p, end);
      if (rest == NULL) break;
      s = rest;
      p += CSN_JSON_GAP_TEXT + s->len;
    } else if (why == AT_OPS) {
      csn_json_gap_ops(j, s, p);
      p += s->len;
      values += s->values;
      at_value = true;
    } else if (why == AT_LONG) {
      p = long_string(j, p, end);
      if (p == end || *p != '"') {
        csn_json_capture_begin(j, s->node, CSN_JK_STRING, text, text - 1, s->depth);
        j->in_key = 0;
        state = S_STRING;
        break;
      }
      if (s->want != CSN_JW_NOTHING)
        csn_json_capture_other(j, s->node, CSN_JK_STRING, text, p, text - 1, p + 1);
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
      csn_json_capture_other(j, s->node, (csn_json_kind)s->value_kind, text, p, text - quoted, p + quoted);
      p += quoted;
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
