#include "csn/json.h"

#define NONE      0xffffffffu
#define NODE_NONE 0xffu

enum state {
  S_VALUE = 0,   /* a value must come */
  S_VALUE_CLOSE, /* a value or ] */
  S_KEY_CLOSE,   /* a key or } */
  S_KEY,         /* a key */
  S_COLON,       /* : */
  S_NEXT,        /* , or the container's end */
  S_STRING,      /* inside a string */
  S_UTF8,        /* inside a UTF-8 sequence of a string */
  S_ESCAPE,      /* after a backslash */
  S_HEX,         /* inside \uXXXX */
  S_NUMBER,      /* inside a number */
  S_LITERAL,     /* inside true, false, null */
  S_END,         /* the value is complete */
  S_DEAD,        /* verdict reached */
};

enum number { N_MINUS = 0, N_ZERO, N_INT, N_DOT, N_FRAC, N_E, N_SIGN, N_EXP };

void csn_json_init(csn_json *j, csn_json_table table) {
  CSN_INVARIANT(table.count >= 1 && table.count <= CSN_JSON_NODE_MAX);
  j->table = table;
  csn_json_reset(j);
}

void csn_json_reset(csn_json *j) {
  j->state = S_VALUE;
  j->verdict = CSN_JSON_OK;
  j->in_key = 0;
  j->utf8_need = 0;
  j->has_nul = 0;
  j->lost = 0;
  j->depth = 0;
  j->key_len = 0;
  j->key_over = 0;
  j->node = 0;
  j->outer = NONE;
  j->inner = NONE;
  j->outer_depth = 0;
  j->first_array = 0;
  j->index = 0;
  j->value_count = 0;
  j->cr_count = 0;
  j->pool_len = 0;
  j->item_count = 0;
}

static void fail(csn_json *j, csn_json_verdict verdict) {
  j->state = S_DEAD;
  j->verdict = (uint8_t)verdict;
}

/* --- captures --- */

static void keep(csn_json *j, const uint8_t *ptr, uint32_t len) {
  if (j->outer == NONE) return;
  csn_json_item *o = &j->items[j->outer];
  uint32_t cap = j->table.nodes[o->unused].cap;
  uint32_t room = cap - o->len;
  if (room > CSN_JSON_POOL_CAP - j->pool_len) room = CSN_JSON_POOL_CAP - j->pool_len;
  if (o->cut) room = 0;
  uint32_t kept = len < room ? len : room;
  memcpy(j->pool + j->pool_len, ptr, kept);
  j->pool_len += kept;
  o->len += kept;
  o->true_len += len;
  if (kept < len) o->cut = 1;
  if (j->inner != NONE) {
    csn_json_item *i = &j->items[j->inner];
    i->len += kept;
    i->true_len += len;
    if (kept < len) i->cut = 1;
  }
}

/* Bytes outside of strings are part of a capture only in a verbatim one. */
static void keep_raw(csn_json *j, const uint8_t *ptr) {
  if (j->outer != NONE && j->table.nodes[j->items[j->outer].unused].raw) keep(j, ptr, 1);
}

static uint32_t new_item(csn_json *j, csn_json_kind kind) {
  const csn_json_node *n = &j->table.nodes[j->node];
  if (j->item_count == CSN_JSON_ITEM_MAX) {
    j->lost = 1;
    return NONE;
  }
  csn_json_item *item = &j->items[j->item_count];
  item->field = n->field;
  item->kind = (uint8_t)kind;
  item->cut = 0;
  item->unused = (uint8_t)j->node; /* the node, until the value ends */
  item->index = j->index;
  item->off = j->pool_len;
  item->len = 0;
  item->true_len = 0;
  return j->item_count++;
}

/* Longest prefix of a cut text that ends between units. */
static uint32_t whole_units(const uint8_t *p, uint32_t len) {
  uint32_t i = 0;
  while (i < len) {
    uint32_t unit = 1;
    uint32_t bad;
    if (p[i] == '\\') {
      if (len - i < 2) return i;
      unit = p[i + 1] == 'u' ? 6 : 2;
      if (unit == 6 && len - i >= 6 && (p[i + 2] | 0x20) == 'd' &&
          ((p[i + 3] | 0x20) == 'a' || (p[i + 3] | 0x20) == 'b' || p[i + 3] == '8' || p[i + 3] == '9'))
        unit = 12; /* a high surrogate and what pairs with it */
    } else if (p[i] >= 0x80) {
      unit = csn_utf8_len(csn_span_of(p + i, len - i), &bad);
      if (unit == 0) return i;
    }
    if (unit > len - i) return i;
    i += unit;
  }
  return len;
}

uint32_t csn_json_cut(csn_span escaped, uint32_t cap) {
  return escaped.len <= cap ? escaped.len : whole_units(escaped.ptr, cap);
}

static void end_item(csn_json *j, uint32_t at) {
  if (at == NONE) return;
  csn_json_item *item = &j->items[at];
  if (item->cut) {
    csn_span kept = csn_span_of(j->pool + item->off, item->len);
    item->len = item->kind == CSN_JK_STRING && !j->table.nodes[item->unused].raw
                    ? whole_units(kept.ptr, kept.len)
                    : csn_utf8_whole(kept);
  }
  item->unused = 0;
}

static bool node_wanted(const csn_json *j) {
  return j->node != NODE_NONE && j->table.nodes[j->node].field != 0;
}

/* A value starts. For strings and containers the caller keeps the first byte itself: a verbatim capture holds
 * it, the inside of a string does not. */
static void begin_verbatim(csn_json *j, csn_json_kind kind) {
  if (j->value_count < 0xffffffffu) j->value_count++;
  if (!node_wanted(j) || j->outer != NONE || !j->table.nodes[j->node].raw) return;
  j->outer = new_item(j, kind);
  j->outer_depth = j->depth;
}

static void begin_inside(csn_json *j, csn_json_kind kind) {
  if (!node_wanted(j) || j->table.nodes[j->node].raw) return;
  uint32_t at = new_item(j, kind);
  if (kind == CSN_JK_OBJECT || kind == CSN_JK_ARRAY) {
    if (at != NONE) j->items[at].unused = 0;
  } else if (j->outer == NONE) {
    j->outer = at;
    j->outer_depth = j->depth;
  } else {
    j->inner = at;
  }
}

/* The value's last byte has been kept, except the closing quote of a string, which `inside` captures leave
 * out. */
static void end_inside(csn_json *j) {
  if (j->inner != NONE) {
    end_item(j, j->inner);
    j->inner = NONE;
  } else if (j->outer != NONE && !j->table.nodes[j->items[j->outer].unused].raw) {
    end_item(j, j->outer);
    j->outer = NONE;
  }
}

static void end_value(csn_json *j) {
  end_inside(j);
  if (j->outer != NONE && j->outer_depth == j->depth) {
    end_item(j, j->outer);
    j->outer = NONE;
  }
  j->state = j->depth == 0 ? S_END : S_NEXT;
}

/* --- structure --- */

static uint32_t child_of(const csn_json *j, uint32_t parent, csn_json_step step) {
  if (parent == NODE_NONE) return NODE_NONE;
  for (uint32_t i = 1; i < j->table.count; i++) {
    const csn_json_node *n = &j->table.nodes[i];
    if (n->parent == parent && n->step == step) return i;
  }
  return NODE_NONE;
}

static uint32_t child_by_key(const csn_json *j, uint32_t parent) {
  if (parent == NODE_NONE) return NODE_NONE;
  uint32_t any = NODE_NONE;
  for (uint32_t i = 1; i < j->table.count; i++) {
    const csn_json_node *n = &j->table.nodes[i];
    if (n->parent != parent) continue;
    if (n->step == CSN_JS_ANY_KEY) any = i;
    if (n->step == CSN_JS_KEY && !j->key_over && csn_span_is(csn_span_of(j->key, j->key_len), n->key))
      return i;
  }
  return any;
}

static void push_key(csn_json *j, uint8_t byte) {
  if (j->key_len == CSN_JSON_KEY_CAP)
    j->key_over = 1;
  else
    j->key[j->key_len++] = (char)byte;
}

static void open_container(csn_json *j, const uint8_t *p, bool array) {
  csn_json_kind kind = array ? CSN_JK_ARRAY : CSN_JK_OBJECT;
  if (j->depth == CSN_JSON_DEPTH_MAX) {
    fail(j, CSN_JSON_TOO_DEEP);
    return;
  }
  begin_verbatim(j, kind);
  begin_inside(j, kind);
  keep_raw(j, p);
  j->depth++;
  j->is_array[j->depth] = array;
  j->node_at[j->depth] = (uint8_t)j->node;
  j->state = array ? S_VALUE_CLOSE : S_KEY_CLOSE;
  if (array) {
    j->node = child_of(j, j->node, CSN_JS_ANY_INDEX);
    if (j->node != NODE_NONE && j->first_array == 0) {
      j->first_array = j->depth;
      j->index = 0;
    }
  }
}

static void close_container(csn_json *j, const uint8_t *p) {
  keep_raw(j, p);
  if (j->first_array == j->depth) {
    j->first_array = 0;
    j->index = 0;
  }
  j->depth--;
  end_value(j);
}

static void begin_value(csn_json *j, const uint8_t *p) {
  static const char first[3] = {'t', 'f', 'n'};
  uint8_t c = *p;
  if (c == '"') {
    begin_verbatim(j, CSN_JK_STRING);
    keep_raw(j, p);
    begin_inside(j, CSN_JK_STRING);
    j->in_key = 0;
    j->state = S_STRING;
  } else if (c == '{' || c == '[') {
    open_container(j, p, c == '[');
  } else if (c == '-' || (c >= '0' && c <= '9')) {
    begin_verbatim(j, CSN_JK_NUMBER);
    begin_inside(j, CSN_JK_NUMBER);
    keep(j, p, 1);
    j->number = c == '-' ? N_MINUS : c == '0' ? N_ZERO : N_INT;
    j->state = S_NUMBER;
  } else {
    for (uint8_t i = 0; i < 3; i++) {
      if (c != (uint8_t)first[i]) continue;
      csn_json_kind kind = i == 0 ? CSN_JK_TRUE : i == 1 ? CSN_JK_FALSE : CSN_JK_NULL;
      begin_verbatim(j, kind);
      begin_inside(j, kind);
      keep(j, p, 1);
      j->literal = i;
      j->literal_pos = 1;
      j->state = S_LITERAL;
      return;
    }
    fail(j, CSN_JSON_INVALID);
  }
}

static bool number_done(const csn_json *j) {
  return j->number == N_ZERO || j->number == N_INT || j->number == N_FRAC || j->number == N_EXP;
}

/* Returns false when the byte is not part of the number. */
static bool number_step(csn_json *j, uint8_t c) {
  bool digit = c >= '0' && c <= '9';
  uint8_t to = N_EXP;
  switch ((enum number)j->number) {
  case N_MINUS:
    if (!digit) return false;
    to = c == '0' ? N_ZERO : N_INT;
    break;
  case N_ZERO:
  case N_INT:
    if (digit && j->number == N_INT)
      to = N_INT;
    else if (c == '.')
      to = N_DOT;
    else if (c == 'e' || c == 'E')
      to = N_E;
    else
      return false;
    break;
  case N_DOT:
  case N_FRAC:
    if (digit)
      to = N_FRAC;
    else if (j->number == N_FRAC && (c == 'e' || c == 'E'))
      to = N_E;
    else
      return false;
    break;
  case N_E:
    if (c == '+' || c == '-')
      to = N_SIGN;
    else if (digit)
      to = N_EXP;
    else
      return false;
    break;
  case N_SIGN:
  case N_EXP:
    if (!digit) return false;
    break;
  }
  j->number = to;
  return true;
}

static void begin_utf8(csn_json *j, uint8_t c) {
  j->utf8_low = 0x80;
  j->utf8_high = 0xbf;
  if (c >= 0xc2 && c <= 0xdf) {
    j->utf8_need = 1;
  } else if (c >= 0xe0 && c <= 0xef) {
    j->utf8_need = 2;
    if (c == 0xe0) j->utf8_low = 0xa0;
    if (c == 0xed) j->utf8_high = 0x9f;
  } else if (c >= 0xf0 && c <= 0xf4) {
    j->utf8_need = 3;
    if (c == 0xf0) j->utf8_low = 0x90;
    if (c == 0xf4) j->utf8_high = 0x8f;
  } else {
    fail(j, CSN_JSON_INVALID);
    return;
  }
  j->state = S_UTF8;
}

/* One run of a string's bytes, up to and with the byte that ends the run. Returns bytes used, at least 1. */
static uint32_t string_run(csn_json *j, const uint8_t *p, uint32_t len) {
  uint32_t n = 0;
  while (n < len && p[n] >= 0x20 && p[n] < 0x80 && p[n] != '"' && p[n] != '\\')
    n++;
  if (j->in_key)
    for (uint32_t i = 0; i < n; i++)
      push_key(j, p[i]);
  keep(j, p, n);
  if (n == len) return n;
  uint8_t c = p[n];
  if (c == '"') {
    if (j->in_key) {
      keep_raw(j, p + n);
      j->node = child_by_key(j, j->node_at[j->depth]);
      j->state = S_COLON;
    } else {
      end_inside(j);
      keep_raw(j, p + n);
      end_value(j);
    }
  } else if (c == '\\') {
    keep(j, p + n, 1);
    j->state = S_ESCAPE;
  } else if (c < 0x20) {
    fail(j, CSN_JSON_INVALID);
  } else {
    keep(j, p + n, 1);
    if (j->in_key) push_key(j, c);
    begin_utf8(j, c);
  }
  return n + 1;
}

static void escape_step(csn_json *j, const uint8_t *p) {
  static const char from[] = "\"\\/bfnrt";
  static const char to[] = "\"\\/\b\f\n\r\t";
  keep(j, p, 1);
  if (*p == 'u') {
    j->hex = 0;
    j->hex_left = 4;
    j->state = S_HEX;
    return;
  }
  for (uint32_t i = 0; i < sizeof from - 1; i++) {
    if (*p != (uint8_t)from[i]) continue;
    if (j->in_key) push_key(j, (uint8_t)to[i]);
    j->state = S_STRING;
    return;
  }
  fail(j, CSN_JSON_INVALID);
}

static void hex_step(csn_json *j, const uint8_t *p) {
  uint8_t c = *p;
  uint32_t v;
  if (c >= '0' && c <= '9')
    v = c - (uint32_t)'0';
  else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
    v = (c | 0x20u) - (uint32_t)'a' + 10u;
  else {
    fail(j, CSN_JSON_INVALID);
    return;
  }
  keep(j, p, 1);
  j->hex = (uint16_t)((uint32_t)j->hex << 4 | v);
  if (--j->hex_left > 0) return;
  if (j->hex == 0) j->has_nul = 1;
  if (j->in_key) {
    if (j->hex < 0x80)
      push_key(j, (uint8_t)j->hex);
    else
      j->key_over = 1; /* no table names a key outside ASCII */
  }
  j->state = S_STRING;
}

static void utf8_step(csn_json *j, const uint8_t *p) {
  if (*p < j->utf8_low || *p > j->utf8_high) {
    fail(j, CSN_JSON_INVALID);
    return;
  }
  keep(j, p, 1);
  if (j->in_key) push_key(j, *p);
  j->utf8_low = 0x80;
  j->utf8_high = 0xbf;
  if (--j->utf8_need == 0) j->state = S_STRING;
}

static void begin_key(csn_json *j, const uint8_t *p) {
  keep_raw(j, p);
  j->in_key = 1;
  j->key_len = 0;
  j->key_over = 0;
  j->state = S_STRING;
}

/* A byte between tokens; white space is dealt with before. */
static void structure_step(csn_json *j, const uint8_t *p) {
  uint8_t c = *p;
  switch ((enum state)j->state) {
  case S_VALUE_CLOSE:
    if (c == ']')
      close_container(j, p);
    else
      begin_value(j, p);
    return;
  case S_VALUE:
    begin_value(j, p);
    return;
  case S_KEY_CLOSE:
  case S_KEY:
    if (c == '"')
      begin_key(j, p);
    else if (c == '}' && j->state == S_KEY_CLOSE)
      close_container(j, p);
    else
      fail(j, CSN_JSON_INVALID);
    return;
  case S_COLON:
    if (c != ':') {
      fail(j, CSN_JSON_INVALID);
      return;
    }
    keep_raw(j, p);
    j->state = S_VALUE;
    return;
  case S_NEXT:
    if (c == ',') {
      keep_raw(j, p);
      if (j->is_array[j->depth]) {
        if (j->first_array == j->depth && j->index < 0xffffffffu) j->index++;
        j->node = child_of(j, j->node_at[j->depth], CSN_JS_ANY_INDEX);
        j->state = S_VALUE;
      } else {
        j->state = S_KEY;
      }
    } else if (c == (j->is_array[j->depth] ? ']' : '}')) {
      close_container(j, p);
    } else {
      fail(j, CSN_JSON_INVALID);
    }
    return;
  case S_END:
  case S_STRING:
  case S_UTF8:
  case S_ESCAPE:
  case S_HEX:
  case S_NUMBER:
  case S_LITERAL:
  case S_DEAD:
    fail(j, CSN_JSON_INVALID);
    return;
  }
}

static void literal_step(csn_json *j, const uint8_t *p) {
  static const char *const words[3] = {"true", "false", "null"};
  const char *word = words[j->literal];
  if (*p != (uint8_t)word[j->literal_pos]) {
    fail(j, CSN_JSON_INVALID);
    return;
  }
  keep(j, p, 1);
  j->literal_pos++;
  if (word[j->literal_pos] == 0) end_value(j);
}

/* A line break between tokens is kept as a space: what was captured goes into one-line texts and event
 * streams, where a bare carriage return would start a new line that the agent could forge. */
static void white_line(csn_json *j, uint8_t c) {
  static const uint8_t space = ' ';
  if (c == '\r' && j->cr_count < 0xffffffffu) j->cr_count++;
  keep_raw(j, &space);
}

void csn_json_push(csn_json *j, csn_span in) {
  uint32_t i = 0;
  while (i < in.len && j->state != S_DEAD) {
    const uint8_t *p = in.ptr + i;
    switch ((enum state)j->state) {
    case S_STRING:
      i += string_run(j, p, in.len - i);
      continue;
    case S_UTF8:
      utf8_step(j, p);
      break;
    case S_ESCAPE:
      escape_step(j, p);
      break;
    case S_HEX:
      hex_step(j, p);
      break;
    case S_LITERAL:
      literal_step(j, p);
      break;
    case S_NUMBER:
      if (number_step(j, *p)) {
        keep(j, p, 1);
        break;
      }
      if (!number_done(j)) {
        fail(j, CSN_JSON_INVALID);
        break;
      }
      end_value(j);
      continue; /* the byte belongs to what follows */
    case S_VALUE:
    case S_VALUE_CLOSE:
    case S_KEY_CLOSE:
    case S_KEY:
    case S_COLON:
    case S_NEXT:
    case S_END:
      if (*p == ' ' || *p == '\t')
        keep_raw(j, p);
      else if (*p == '\r' || *p == '\n')
        white_line(j, *p);
      else
        structure_step(j, p);
      break;
    case S_DEAD:
      break;
    }
    i++;
  }
}

csn_json_verdict csn_json_end(csn_json *j) {
  if (j->state == S_DEAD) return (csn_json_verdict)j->verdict;
  if (j->state == S_NUMBER && j->depth == 0 && number_done(j)) end_value(j);
  if (j->state == S_END) return CSN_JSON_OK;
  if (j->state == S_VALUE && j->depth == 0) return CSN_JSON_EMPTY;
  return CSN_JSON_PARTIAL;
}

/* --- results --- */

const csn_json_item *csn_json_get(const csn_json *j, uint32_t field, uint32_t index) {
  static const csn_json_item none = {0};
  for (uint32_t i = j->item_count; i > 0; i--)
    if (j->items[i - 1].field == field && j->items[i - 1].index == index) return &j->items[i - 1];
  return &none;
}

csn_span csn_json_text(const csn_json *j, const csn_json_item *item) {
  return csn_span_of(j->pool + item->off, item->len);
}

uint32_t csn_json_index_end(const csn_json *j, uint32_t first, uint32_t last) {
  uint32_t end = 0;
  for (uint32_t i = 0; i < j->item_count; i++)
    if (j->items[i].field >= first && j->items[i].field <= last && j->items[i].index >= end)
      end = j->items[i].index + 1;
  return end;
}

bool csn_json_u64(csn_span number, uint64_t *out) {
  uint64_t v = 0;
  uint32_t i = 0;
  for (; i < number.len && number.ptr[i] >= '0' && number.ptr[i] <= '9'; i++) {
    uint64_t digit = (uint64_t)(number.ptr[i] - '0');
    if (v > (UINT64_MAX - digit) / 10) return false;
    v = v * 10 + digit;
  }
  if (i == 0) return false;
  if (i < number.len && number.ptr[i] == '.')
    for (i++; i < number.len && number.ptr[i] >= '0' && number.ptr[i] <= '9';)
      i++;
  if (i < number.len) return false;
  *out = v;
  return true;
}

bool csn_json_nano(csn_span number, uint64_t *out) {
  uint64_t v = 0;
  int32_t exponent = 9; /* of the last digit in v, in nano units */
  uint32_t i = 0, digits = 0;
  bool fraction = false;
  for (; i < number.len; i++) {
    uint8_t c = number.ptr[i];
    if (c == '.' && !fraction) {
      fraction = true;
      continue;
    }
    if (c < '0' || c > '9') break;
    digits++;
    if (v < 100000000000000000u) {
      v = v * 10 + (uint64_t)(c - '0');
      if (fraction) exponent--;
    } else if (!fraction) {
      exponent++;
    }
    if (exponent > 100 || exponent < -100000) return false;
  }
  if (digits == 0) return false;
  if (i < number.len) {
    if ((number.ptr[i] | 0x20) != 'e') return false;
    i++;
    bool minus = i < number.len && number.ptr[i] == '-';
    if (i < number.len && (number.ptr[i] == '-' || number.ptr[i] == '+')) i++;
    int32_t e = 0;
    for (; i < number.len; i++) {
      if (number.ptr[i] < '0' || number.ptr[i] > '9') return false;
      if (e < 100000) e = e * 10 + (number.ptr[i] - '0');
    }
    exponent += minus ? -e : e;
  }
  for (; exponent > 0 && v > 0; exponent--) {
    if (v > UINT64_MAX / 10) return false;
    v *= 10;
  }
  if (exponent < -20) v = 0;
  for (; exponent < 0 && v > 0; exponent++)
    v = exponent == -1 ? (v + 5) / 10 : v / 10;
  *out = v;
  return true;
}

bool csn_json_is_valid(csn_json *j, csn_span text) {
  static const csn_json_node root = {0, CSN_JS_KEY, 0, 0, 0, ""};
  csn_json_table table = {&root, 1};
  csn_json_init(j, table);
  csn_json_push(j, text);
  return csn_json_end(j) == CSN_JSON_OK;
}
