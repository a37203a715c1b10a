#include "json_gap.h"

/* The lines of an agent have few shapes. What stood between two values of a line, punctuation, keys and
 * literals, is kept as a gap, behind the gap before it; a line of a known shape is then read by comparing
 * whole gaps and by finding the ends of values. What a gap's bytes do to the reader depends on nothing but
 * the gaps before it, so it is worked out once, by csn_json_learn, under the rules of json.c. */

#define SIBLINGS 12u /* gaps that may follow one gap */
_Static_assert(CSN_JSON_GAP_DEPTH <= CSN_JSON_DEPTH_MAX, "a gap's containers fit the reader");
_Static_assert(CSN_JSON_OP_COUNT <= UINT8_MAX + 1, "a gap can name its first op");

/* --- learning --- */

/* A gap in the making. */
typedef struct learned {
  csn_json_gap gap;
  csn_json_op ops[CSN_JSON_GAP_OPS];
} learned;

static bool in_array(const csn_json_gap *s) {
  return s->depth > 0 && (s->arrays >> (s->depth - 1) & 1) != 0;
}

/* False when the gap has no room for it. */
static bool add_op(learned *l, uint32_t what, uint32_t at, uint32_t kind) {
  csn_json_gap *s = &l->gap;
  if (s->op_count == CSN_JSON_GAP_OPS) return false;
  l->ops[s->op_count++] = (csn_json_op){(uint8_t)what, (uint8_t)at, s->node, (uint8_t)kind, s->depth};
  return true;
}

static uint8_t behind_value(const csn_json_gap *s) {
  return s->depth == 0 ? S_END : S_NEXT;
}

static bool learn_open(const csn_json *j, learned *l, uint32_t at, bool array) {
  csn_json_gap *s = &l->gap;
  if (s->depth == CSN_JSON_GAP_DEPTH) return false;
  csn_json_kind kind = array ? CSN_JK_ARRAY : CSN_JK_OBJECT;
  if (j->want[s->node] != CSN_JW_NOTHING && !add_op(l, OP_CAPTURE, at, kind)) return false;
  s->values++;
  s->arrays = (uint8_t)((s->arrays & ~(1u << s->depth)) | (uint32_t)array << s->depth);
  s->node_at[s->depth] = s->node;
  s->depth++;
  s->state = array ? S_VALUE_CLOSE : S_KEY_CLOSE;
  if (!array) return true;
  s->node = j->any_index[s->node];
  return s->node == NODE_NONE || add_op(l, OP_ARRAY_IN, at, 0);
}

static bool learn_close(const csn_json *j, learned *l, uint32_t at) {
  csn_json_gap *s = &l->gap;
  uint8_t node = s->node_at[s->depth - 1];
  if (in_array(s) && j->any_index[node] != NODE_NONE && !add_op(l, OP_ARRAY_OUT, at, 0)) return false;
  s->depth--;
  if (j->want[node] == CSN_JW_VERBATIM && !add_op(l, OP_CLOSE, at, 0)) return false;
  s->state = behind_value(s);
  return true;
}

/* `"key":` at p; returns its length, 0 when it is not all there or not plain. */
static uint32_t learn_key(const csn_json *j, csn_json_gap *s, const uint8_t *p, const uint8_t *end) {
  const uint8_t *q = p + 1;
  while (q < end && *q >= 0x20 && *q < 0x80 && *q != '"' && *q != '\\')
    q++;
  if (end - q < 2 || q[0] != '"' || q[1] != ':') return 0;
  uint8_t parent = s->node_at[s->depth - 1];
  s->node = parent == NODE_NONE || !j->has_keys[parent]
                ? (uint8_t)NODE_NONE
                : (uint8_t)csn_json_child(j, parent, p + 1, (uint32_t)(q - p - 1));
  s->state = S_VALUE;
  return (uint32_t)(q + 2 - p);
}

static uint32_t learn_literal(const csn_json *j, learned *l, uint32_t at, const uint8_t *p,
                              const uint8_t *end) {
  csn_json_gap *s = &l->gap;
  static const struct {
    const char *word;
    uint32_t len;
    csn_json_kind kind;
  } literals[3] = {{"true", 4, CSN_JK_TRUE}, {"false", 5, CSN_JK_FALSE}, {"null", 4, CSN_JK_NULL}};
  for (uint32_t i = 0; i < 3; i++) {
    uint32_t len = literals[i].len;
    if (end - p < (ptrdiff_t)len || memcmp(p, literals[i].word, len) != 0) continue;
    if (j->want[s->node] != CSN_JW_NOTHING && !add_op(l, OP_CAPTURE, at, literals[i].kind)) return 0;
    s->values++;
    s->state = behind_value(s);
    return len;
  }
  return 0;
}

/* One token at p, `at` bytes into the gap. Returns its length, 0 when it cannot be part of the gap. */
static uint32_t learn_token(const csn_json *j, learned *l, uint32_t at, const uint8_t *p,
                            const uint8_t *end) {
  csn_json_gap *s = &l->gap;
  uint8_t c = *p;
  bool array = in_array(s);
  if (c == ' ' || c == '\t') return 1;
  switch ((enum state)s->state) {
  case S_VALUE:
  case S_VALUE_CLOSE:
    if (c == ']' && s->state == S_VALUE_CLOSE) return learn_close(j, l, at);
    if (c == '{' || c == '[') return learn_open(j, l, at, c == '[');
    return learn_literal(j, l, at, p, end);
  case S_KEY:
  case S_KEY_CLOSE:
    if (c == '}' && s->state == S_KEY_CLOSE) return learn_close(j, l, at);
    return c == '"' ? learn_key(j, s, p, end) : 0;
  case S_NEXT:
    if (c == (array ? ']' : '}')) return learn_close(j, l, at);
    if (c != ',') return 0;
    s->state = array ? S_VALUE : S_KEY;
    if (!array) return 1;
    s->node = j->any_index[s->node_at[s->depth - 1]];
    return s->node == NODE_NONE || add_op(l, OP_INDEX, at, 0);
  case S_COLON:
  case S_STRING:
  case S_UTF8:
  case S_ESCAPE:
  case S_HEX:
  case S_NUMBER:
  case S_LITERAL:
  case S_END:
  case S_DEAD:
    break;
  }
  return 0;
}

/* Whether the reader is in the same state behind both. */
static bool same_place(const csn_json_gap *s, const csn_json_gap *t) {
  return s->kind == t->kind && s->node == t->node && s->depth == t->depth &&
         csn_gap_behind(s) == csn_gap_behind(t) && s->arrays == t->arrays &&
         memcmp(s->node_at, t->node_at, s->depth) == 0;
}

/* The gap that begins at p with a key which is longer than a gap: its position, 0 when there can be none. */
static uint32_t learn_long_key(csn_json *j, csn_json_gap *rest, uint16_t *link, const uint8_t *p,
                               const uint8_t *end) {
  if (end - p < 2 * (ptrdiff_t)CSN_JSON_GAP_TEXT || (rest->state != S_KEY && rest->state != S_KEY_CLOSE) ||
      *p != '"' || j->gap_count > CSN_JSON_GAP_COUNT - 2)
    return 0;
  uint32_t len = learn_key(j, rest, p, p + 2 * CSN_JSON_GAP_TEXT);
  if (len <= CSN_JSON_GAP_TEXT) return 0;
  uint32_t siblings = 0;
  for (; *link != 0; link = &j->gaps[*link].sibling)
    if (++siblings >= SIBLINGS || memcmp(j->gaps[*link].text, p, CSN_JSON_GAP_TEXT) == 0) return 0;
  uint32_t at = j->gap_count;
  csn_json_gap first = {.kind = GAP_KEY, .need = UINT32_MAX, .child = (uint16_t)(at + 1)};
  memcpy(first.text, p, CSN_JSON_GAP_TEXT);
  rest->len = (uint8_t)(len - CSN_JSON_GAP_TEXT);
  rest->need = (uint32_t)((1ull << rest->len) - 1);
  rest->want = CSN_JW_NOTHING;
  rest->way = WAY_SLOW;
  memcpy(rest->text, p + CSN_JSON_GAP_TEXT, CSN_JSON_GAP_TEXT);
  j->gaps[at] = first;
  j->gaps[at + 1] = *rest;
  j->gap_count += 2;
  *link = (uint16_t)at;
  return at;
}

uint32_t csn_json_learn(csn_json *j, const csn_json_gap *from, const uint8_t *p, const uint8_t *input_end) {
  if (j->gap_count == CSN_JSON_GAP_COUNT || j->op_count > CSN_JSON_OP_COUNT - CSN_JSON_GAP_OPS) {
    if (j->unknown_count < CSN_JSON_GAP_COUNT) {
      j->unknown_count++;
      return 0;
    }
    csn_json_forget(j); /* other shapes have come than the ones that are known */
    return 0;
  }
  const uint8_t *end = p + CSN_JSON_GAP_TEXT, *q = p;
  learned now = {.gap = *from};
  csn_json_gap *s = &now.gap;
  s->state = csn_gap_behind(from);
  s->child = s->sibling = 0;
  s->kind = GAP_GOES_ON;
  s->values = s->op_count = 0;
  uint32_t need = 0; /* bytes */
  for (;;) {
    uint8_t c = q < end ? *q : 0;
    need = (uint32_t)(q - p);
    if (s->state == S_VALUE || s->state == S_VALUE_CLOSE) {
      if (c == '"') {
        s->kind = GAP_STRING;
        need++;
      }
      if (csn_begins_number(c)) s->kind = GAP_NUMBER;
    } else if (s->state == S_END && c == '\n') {
      s->kind = GAP_END;
      need++;
    }
    if (s->kind != GAP_GOES_ON || q == end) break;
    learned next = now;
    uint32_t len = learn_token(j, &next, need, q, end);
    if (len == 0) break;
    q += len;
    now = next;
  }
  uint16_t *link = &j->gaps[from - j->gaps].child;
  if (s->kind == GAP_GOES_ON && q == p) return learn_long_key(j, s, link, p, input_end);
  if (s->kind == GAP_STRING) q++;
  s->value_kind = 0;
  s->want = CSN_JW_NOTHING;
  if (s->kind == GAP_STRING || s->kind == GAP_NUMBER) {
    s->values++;
    s->value_kind = s->kind == GAP_STRING ? CSN_JK_STRING : CSN_JK_NUMBER;
    s->want = j->want[s->node];
    if (s->node != NODE_NONE) {
      s->field = j->table.nodes[s->node].field;
      s->cap = (uint16_t)j->table.nodes[s->node].cap;
    }
  }
  s->len = (uint8_t)(q - p);
  s->need = (uint32_t)((1ull << need) - 1);
  memcpy(s->text, p, CSN_JSON_GAP_TEXT);
  /* The bytes before a number may be those before a string, too: that one is to be looked for first. */
  uint32_t siblings = 0;
  while (*link != 0 && j->gaps[*link].kind != GAP_NUMBER) {
    link = &j->gaps[*link].sibling;
    siblings++;
  }
  if (siblings >= SIBLINGS) return 0;
  s->sibling = *link;
  s->way = s->op_count > 0          ? WAY_SLOW
           : s->kind == GAP_STRING  ? WAY_STRING
           : s->kind == GAP_NUMBER  ? WAY_NUMBER
           : s->kind == GAP_GOES_ON ? WAY_ON
                                    : WAY_SLOW;
  s->ops = (uint8_t)(s->op_count > 0 ? j->op_count : 0);
  memcpy(j->ops + j->op_count, now.ops, s->op_count * sizeof now.ops[0]);
  j->op_count += s->op_count;
  j->gaps[j->gap_count] = *s;
  *link = (uint16_t)j->gap_count;
  /* What may follow one item of an array may follow the next one, and what may follow a value of the table
   * may follow it on lines that begin otherwise: else lists of names and lines of many shapes fill the table.
   */
  csn_json_gap *added = &j->gaps[j->gap_count];
  if (in_array(s) && same_place(s, from)) {
    added->child = j->gaps[from - j->gaps].child;
  } else if (s->node != NODE_NONE && s->value_kind != 0) {
    for (uint32_t i = j->gap_count - 1; i > 0 && added->child == 0; i--)
      if (same_place(s, &j->gaps[i])) added->child = j->gaps[i].child;
  }
  return j->gap_count++;
}

void csn_json_forget(csn_json *j) {
  j->gaps[0] = (csn_json_gap){.kind = GAP_GOES_ON, .state = S_VALUE};
  j->gap_count = 1;
  j->op_count = 0;
  j->unknown_count = 0;
}

void csn_json_gap_ops(csn_json *j, const csn_json_gap *s, const uint8_t *p) {
  for (uint32_t i = 0; i < s->op_count; i++) {
    const csn_json_op *op = &j->ops[s->ops + i];
    const uint8_t *at = p + op->at;
    uint32_t len = op->kind == CSN_JK_FALSE ? 5 : 4;
    switch (op->what) {
    case OP_CAPTURE:
      if (op->kind == CSN_JK_OBJECT || op->kind == CSN_JK_ARRAY)
        csn_json_capture_container(j, op->node, (csn_json_kind)op->kind, at, op->depth);
      else
        csn_json_capture_other(j, op->node, (csn_json_kind)op->kind, at, at + len, at, at + len);
      break;
    case OP_CLOSE:
      if (j->outer == NONE || j->outer_depth != op->depth) break;
      csn_json_item_whole(j, &j->items[j->outer], at + 1);
      j->outer = NONE;
      break;
    case OP_ARRAY_IN:
      if (j->first_array != 0) break;
      j->first_array = op->depth;
      j->index = 0;
      break;
    case OP_ARRAY_OUT:
      if (j->first_array != op->depth) break;
      j->first_array = 0;
      j->index = 0;
      break;
    default: /* OP_INDEX */
      if (j->first_array == op->depth && j->index < 0xffffffffu) j->index++;
      break;
    }
  }
}

const csn_json_gap *csn_json_long_key(const csn_json *j, const csn_json_gap *from, const uint8_t *p,
                                      const uint8_t *end) {
  if (end - p < 2 * (ptrdiff_t)CSN_JSON_GAP_TEXT) return NULL;
  for (uint32_t at = from->child; at != 0; at = j->gaps[at].sibling) {
    const csn_json_gap *first = &j->gaps[at], *rest = &j->gaps[first->child];
    if (first->kind == GAP_KEY && memcmp(first->text, p, CSN_JSON_GAP_TEXT) == 0 &&
        memcmp(rest->text, p + CSN_JSON_GAP_TEXT, rest->len) == 0)
      return rest;
  }
  return NULL;
}
