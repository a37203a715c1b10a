#include "json_gap.h"
#include "json_scan.h"

/* Everything here must agree with json.c byte for byte, as in json_fast.c. */

_Static_assert(CSN_JSON_GAP_TEXT == 2 * CSN_V, "a gap is compared as two blocks");

/* The end of a short whole number without a sign, of which there are many; p for any other. */
static inline const uint8_t *short_number_end(const uint8_t *p, const uint8_t *end) {
  if (end - p < (ptrdiff_t)CSN_V) return p;
  csn_v v = csn_v_load(p);
  uint32_t digits = csn_v_mask(csn_v_less(v, CSN_SPLAT_COLON)) & ~csn_v_mask(csn_v_less(v, CSN_SPLAT_ZERO));
  uint32_t n = (uint32_t)__builtin_ctz(~digits);
  if (n == CSN_V || (n > 1 && *p == '0') || p[n] == '.' || (p[n] | 0x20) == 'e') return p;
  return p + n;
}

/* Why the loop of csn_json_follow stopped. */
enum { AT_UNKNOWN = 0, AT_OPS, AT_CAPTURE, AT_LONG, AT_NUMBER, AT_END };

/* The loop has no calls in it: around a call V8 keeps nothing in registers. What needs one stops the loop. */
const uint8_t *csn_json_follow(csn_json *j, const uint8_t *p, const uint8_t *end) {
  const csn_json_gap *s = &j->gaps[0];
  const uint8_t *text = p; /* the string or number behind the gap */
  uint32_t values = 0, why = AT_UNKNOWN, state;
  bool at_value = false; /* the bytes of s are taken, its ops are done, the value is not taken yet */

  for (;;) {
    for (;;) {
      if (!at_value) {
        if (end - p < (ptrdiff_t)CSN_JSON_GAP_TEXT) {
          why = AT_END;
          break;
        }
        csn_v low = csn_v_load(p), high = csn_v_load(p + CSN_V);
        const csn_json_gap *next = &j->gaps[s->child];
        while (next != j->gaps) {
          uint32_t same = csn_v_mask(csn_v_same(low, csn_v_load(next->text))) |
                          csn_v_mask(csn_v_same(high, csn_v_load(next->text + CSN_V))) << CSN_V;
          if ((next->need & ~same) == 0) break;
          next = &j->gaps[next->sibling];
        }
        if (next == j->gaps) {
          why = AT_UNKNOWN;
          break;
        }
        /* The gap before a number is shorter than CSN_JSON_GAP_TEXT. */
        if (next->kind == GAP_NUMBER && !csn_begins_number(p[next->len])) {
          why = AT_UNKNOWN;
          break;
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
        while (end - p >= (ptrdiff_t)CSN_V) {
          mask = csn_v_special(csn_v_load(p));
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
        if (s->want != CSN_JW_INSIDE || j->outer != NONE || j->item_count == CSN_JSON_ITEM_MAX ||
            len > s->cap || len > CSN_JSON_POOL_CAP - j->pool_len) {
          why = AT_CAPTURE;
          break;
        }
        csn_json_item *item = &j->items[j->item_count++];
        *item = (csn_json_item){.field = s->field,
                                .kind = s->value_kind,
                                .node = s->node,
                                .earlier = j->latest[s->field],
                                .index = j->index,
                                .off = j->pool_len,
                                .len = len,
                                .true_len = len,
                                .text = text};
        j->latest[s->field] = (uint16_t)j->item_count;
        j->pool_len += len;
      }
      p += s->kind == GAP_STRING;
    }

    state = s->behind;
    if (why == AT_UNKNOWN) {
      uint32_t at = csn_json_learn(j, s, p);
      if (at == 0) break;
    } else if (why == AT_OPS) {
      csn_json_gap_ops(j, s, p);
      p += s->len;
      values += s->values;
      at_value = true;
    } else if (why == AT_LONG) {
      uint32_t seen = 0;
      p = csn_scan_long(p, end, &seen);
      if (seen & CSN_SCAN_NUL) j->has_nul = 1;
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
      csn_json_capture(j, s->node, CSN_JK_NUMBER, text, p, text, p);
    } else if (why == AT_CAPTURE) {
      uint32_t quote = s->kind == GAP_STRING;
      csn_json_capture_other(j, s->node, (csn_json_kind)s->value_kind, text, p, text - quote, p + quote);
      p += quote;
    } else {
      break;
    }
  }
  j->state = (uint8_t)state;
  j->depth = s->depth;
  j->node = s->node;
  for (uint32_t i = 0; i < s->depth; i++) {
    j->node_at[i + 1] = s->node_at[i];
    j->is_array[i + 1] = s->arrays >> i & 1;
  }
  j->value_count += values;
  return p;
}
