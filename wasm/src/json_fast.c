#include "json_scan.h"
#include "json_state.h"

/* Everything here must agree with json.c byte for byte: a text pushed in one piece goes through this file,
 * pushed byte by byte through that one. */

const uint8_t *csn_json_number_end(const uint8_t *p, const uint8_t *end) {
  if (*p == '-') p++;
  if (p == end) return NULL;
  if (*p == '0') {
    p++;
  } else {
    if (*p < '1' || *p > '9') return NULL;
    while (p < end && *p >= '0' && *p <= '9')
      p++;
  }
  if (p < end && *p == '.') {
    const uint8_t *digits = ++p;
    while (p < end && *p >= '0' && *p <= '9')
      p++;
    if (p == digits) return NULL;
  }
  if (p < end && (*p | 0x20) == 'e') {
    p++;
    if (p < end && (*p == '+' || *p == '-')) p++;
    const uint8_t *digits = p;
    while (p < end && *p >= '0' && *p <= '9')
      p++;
    if (p == digits) return NULL;
  }
  return p < end ? p : NULL;
}

void csn_json_capture_other(csn_json *j, uint32_t node, csn_json_kind kind, const uint8_t *text,
                            const uint8_t *end, const uint8_t *whole, const uint8_t *whole_end) {
  bool raw = j->want[node] == CSN_JW_VERBATIM;
  if (j->outer == NONE) {
    uint32_t at = csn_json_item_new(j, kind, node, raw ? whole : text, j->pool_len);
    if (at != NONE) csn_json_item_whole(j, &j->items[at], raw ? whole_end : end);
  } else if (!raw) {
    uint32_t at = csn_json_item_new(j, kind, node, text, csn_json_inner_off(j, text));
    if (at != NONE) csn_json_item_inner(j, &j->items[at], end);
  }
}

void csn_json_capture_begin(csn_json *j, uint32_t node, csn_json_kind kind, const uint8_t *text,
                            const uint8_t *whole, uint32_t depth) {
  uint32_t want = j->want[node];
  if (want == CSN_JW_NOTHING) return;
  if (j->outer == NONE) {
    j->outer = csn_json_item_new(j, kind, node, want == CSN_JW_VERBATIM ? whole : text, j->pool_len);
    j->outer_depth = depth;
    j->copying = 0;
  } else if (want == CSN_JW_INSIDE) {
    j->inner = csn_json_item_new(j, kind, node, text, csn_json_inner_off(j, text));
  }
}

void csn_json_capture_container(csn_json *j, uint32_t node, csn_json_kind kind, const uint8_t *p,
                                uint32_t depth) {
  if (j->want[node] == CSN_JW_INSIDE)
    csn_json_item_new(j, kind, node, j->pool, j->outer == NONE ? j->pool_len : csn_json_inner_off(j, p));
  else if (j->outer == NONE)
    csn_json_capture_begin(j, node, kind, p, p, depth);
}

static const uint8_t *skip_spaces(const uint8_t *p, const uint8_t *end) {
  while (p < end && (*p == ' ' || *p == '\t'))
    p++;
  return p;
}

/* Reads a key and its colon. Returns the first byte not taken; j->state and j->node say what comes. */
static const uint8_t *read_key(csn_json *j, const uint8_t *p, const uint8_t *end, uint32_t parent) {
  j->state = S_KEY;
  p = skip_spaces(p, end);
  if (p == end || *p != '"') return p;
  uint32_t seen = 0;
  const uint8_t *q = csn_scan_string(p + 1, end, &seen);
  if (q == end || *q != '"' || seen != 0) return p;
  j->node = parent == NODE_NONE || !j->has_keys[parent]
                ? NODE_NONE
                : csn_json_child(j, parent, p + 1, (uint32_t)(q - p - 1));
  j->state = S_COLON;
  p = skip_spaces(q + 1, end);
  if (p == end || *p != ':') return p;
  j->state = S_VALUE;
  return p + 1;
}

#define STOP(with)                                                                                           \
  do {                                                                                                       \
    state = (with);                                                                                          \
    goto out;                                                                                                \
  } while (0)
#define SKIP_SPACES(p)                                                                                       \
  if ((p) < end && *(p) <= ' ') (p) = skip_spaces(p, end)

/* One loop with one way in: wasm has no other kind. Calls are kept off the common way: around a call V8 keeps
 * nothing in registers. */
const uint8_t *csn_json_fast(csn_json *j, const uint8_t *p, const uint8_t *end) {
  uint32_t depth = j->depth, node = j->node, values = 0, state = j->state;
  uint32_t parent = depth > 0 ? j->node_at[depth] : NODE_NONE;
  bool array = depth > 0 && j->is_array[depth];
  bool at_key = state == S_KEY, at_next = state == S_NEXT;

  for (;;) {
    if (at_key) {
      p = read_key(j, p, end, parent);
      node = j->node;
      if (j->state != S_VALUE) STOP(j->state);
      state = S_VALUE;
    }
    if (!at_next) {
      SKIP_SPACES(p);
      if (p == end) goto out;
      uint8_t c = *p;
      if (c == '"') {
        const uint8_t *value = p, *q = p + 1;
        bool plain = false;
        while (end - q >= (ptrdiff_t)CSN_V) {
          uint32_t mask = csn_v_special(csn_v_load(q));
          if (mask == 0) {
            q += CSN_V;
            continue;
          }
          q += __builtin_ctz(mask);
          plain = *q == '"';
          break;
        }
        if (!plain) {
          uint32_t seen = 0;
          q = csn_scan_long(q, end, &seen);
          if (seen & CSN_SCAN_NUL) j->has_nul = 1;
        }
        values++;
        if (q == end || *q != '"') {
          csn_json_capture_begin(j, node, CSN_JK_STRING, value + 1, value, depth);
          j->in_key = 0;
          p = q;
          STOP(S_STRING);
        }
        p = q + 1;
        csn_json_capture(j, node, CSN_JK_STRING, value + 1, q, value, p);
      } else if (c == '{' || c == '[') {
        if (depth == CSN_JSON_DEPTH_MAX) goto out;
        array = c == '[';
        values++;
        if (j->want[node] != CSN_JW_NOTHING)
          csn_json_capture_container(j, node, array ? CSN_JK_ARRAY : CSN_JK_OBJECT, p, depth);
        depth++;
        j->is_array[depth] = array;
        j->node_at[depth] = (uint8_t)node;
        parent = node;
        p++;
        if (array) {
          node = j->any_index[parent];
          if (node != NODE_NONE && j->first_array == 0) {
            j->first_array = depth;
            j->index = 0;
          }
          if (p == end || *p <= ' ') STOP(S_VALUE_CLOSE);
          at_key = false;
          state = S_VALUE_CLOSE;
          if (*p != ']') continue;
        } else {
          if (p == end || (*p != '"' && *p != '}')) STOP(S_KEY_CLOSE);
          at_key = true;
          if (*p == '"') continue;
        }
      } else if (c == '-' || (c >= '0' && c <= '9')) {
        const uint8_t *q = csn_json_number_end(p, end);
        if (q == NULL) goto out;
        values++;
        csn_json_capture(j, node, CSN_JK_NUMBER, p, q, p, q);
        p = q;
      } else if (c == 't' || c == 'f' || c == 'n') {
        uint32_t len = c == 'f' ? 5 : 4, word, want;
        if (end - p < 5) goto out;
        memcpy(&word, p, 4);
        memcpy(&want, c == 't' ? "true" : c == 'f' ? "fals" : "null", 4);
        if (word != want || (len == 5 && p[4] != 'e')) goto out;
        values++;
        csn_json_capture(j, node,
                         c == 't'   ? CSN_JK_TRUE
                         : c == 'f' ? CSN_JK_FALSE
                                    : CSN_JK_NULL,
                         p, p + len, p, p + len);
        p += len;
      } else {
        goto out;
      }
    }
    at_next = false;
    for (;;) {
      if (depth == 0) STOP(S_END);
      SKIP_SPACES(p);
      if (p == end) STOP(S_NEXT);
      if (*p != (array ? ']' : '}')) break;
      p++;
      if (j->first_array == depth) {
        j->first_array = 0;
        j->index = 0;
      }
      depth--;
      if (j->outer != NONE && j->outer_depth == depth) {
        csn_json_item_whole(j, &j->items[j->outer], p);
        j->outer = NONE;
      }
      parent = j->node_at[depth];
      array = j->is_array[depth];
    }
    if (*p != ',') STOP(S_NEXT);
    p++;
    at_key = !array;
    state = array ? S_VALUE : S_KEY;
    if (array) {
      if (j->first_array == depth && j->index < 0xffffffffu) j->index++;
      node = j->any_index[parent];
    }
  }

out:
  j->state = (uint8_t)state;
  j->depth = depth;
  j->node = node;
  j->value_count = values > 0xffffffffu - j->value_count ? 0xffffffffu : j->value_count + values;
  return p;
}
