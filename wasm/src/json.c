#include "json_scan.h"
#include "json_state.h"

enum number { N_MINUS = 0, N_ZERO, N_INT, N_DOT, N_FRAC, N_E, N_SIGN, N_EXP };

static uint32_t hash_key(uint32_t parent, const uint8_t *key, uint32_t len) {
  if (len == 0) return parent % CSN_JSON_HASH;
  return (parent * 37u + len * 7u + key[0] + key[len / 2] * 5u + key[len - 1] * 11u) % CSN_JSON_HASH;
}

void csn_json_init(csn_json *j, csn_json_table table) {
  CSN_INVARIANT(table.count >= 1 && table.count <= CSN_JSON_NODE_MAX);
  j->table = table;
  memset(j->by_key, (int)NODE_NONE, sizeof j->by_key);
  memset(j->any_key, (int)NODE_NONE, table.count);
  memset(j->any_index, (int)NODE_NONE, sizeof j->any_index);
  memset(j->want, CSN_JW_NOTHING, sizeof j->want);
  memset(j->has_keys, 0, table.count);
  memset(j->latest, 0, sizeof j->latest);
  for (uint32_t i = 0; i < table.count; i++) {
    const csn_json_node *n = &table.nodes[i];
    if (n->field != 0) j->want[i] = n->raw ? CSN_JW_VERBATIM : CSN_JW_INSIDE;
    if (i == 0) continue;
    if (n->step == CSN_JS_ANY_INDEX) {
      if (j->any_index[n->parent] == NODE_NONE) j->any_index[n->parent] = (uint8_t)i;
      continue;
    }
    j->has_keys[n->parent] = 1;
    if (n->step == CSN_JS_ANY_KEY) {
      j->any_key[n->parent] = (uint8_t)i;
      continue;
    }
    uint32_t len = csn_str_len(n->key);
    CSN_INVARIANT(len > 0 && len <= CSN_JSON_KEY_CAP);
    j->key_len_of[i] = (uint8_t)len;
    uint32_t at = hash_key(n->parent, (const uint8_t *)n->key, len);
    while (j->by_key[at] != NODE_NONE)
      at = (at + 1) % CSN_JSON_HASH;
    j->by_key[at] = (uint8_t)i;
  }
  j->is_array[0] = 0;
  j->node_at[0] = (uint8_t)NODE_NONE;
  j->item_count = 0;
  csn_json_forget(j);
  csn_json_reset(j);
}

static void fail(csn_json *j, csn_json_verdict verdict) {
  j->state = S_DEAD;
  j->verdict = (uint8_t)verdict;
}

/* --- captures --- */

/* Appends to the open capture when it stands in the pool; in the input the bytes are there already. */
static void keep(csn_json *j, const uint8_t *ptr, uint32_t len) {
  if (j->outer == NONE || !j->copying) return;
  csn_json_item *o = &j->items[j->outer];
  uint32_t room = o->cut ? 0 : csn_json_room(j, o) - o->len;
  uint32_t kept = csn_json_min(len, room);
  if (kept > 0) memcpy(j->pool + j->pool_len, ptr, kept);
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

static bool is_verbatim(const csn_json *j) {
  return j->outer != NONE && j->table.nodes[j->items[j->outer].node].raw;
}

/* Bytes outside of strings are part of a capture only in a verbatim one. */
static void keep_raw(csn_json *j, const uint8_t *ptr) {
  if (is_verbatim(j)) keep(j, ptr, 1);
}

/* Copies captures from the input into the pool. What is open has been read up to `p`. */
static void keep_open(csn_json *j, const uint8_t *p) {
  bool open = j->outer != NONE && !j->copying;
  for (uint32_t i = j->pooled; i < j->item_count; i++) {
    csn_json_item *item = &j->items[i];
    if (open && (i == j->outer || i == j->inner)) {
      item->true_len = (uint32_t)(p - item->text);
      item->len = i == j->outer ? csn_json_min(item->true_len, csn_json_room(j, item))
                                : csn_json_inner_off(j, p) - item->off;
      item->cut = item->len < item->true_len;
    }
  }
  if (open) {
    const csn_json_item *o = &j->items[j->outer];
    j->pool_len = o->off + o->len;
    j->copying = 1;
  }
  for (uint32_t i = j->pooled; i < j->item_count; i++) {
    csn_json_item *item = &j->items[i];
    if (item->text == j->pool + item->off) continue;
    if (item->len > 0) memcpy(j->pool + item->off, item->text, item->len);
    item->text = j->pool + item->off;
  }
  j->pooled = j->item_count;
}

/* Bytes of the unit of text at p, of which `len` bytes, at least 1, are there; 0 when it is not whole. */
static uint32_t unit_len(const uint8_t *p, uint32_t len) {
  uint32_t bad;
  if (*p >= 0x80) return csn_utf8_len(csn_span_of(p, len), &bad);
  if (*p != '\\') return 1;
  if (len < 2) return 0;
  if (p[1] != 'u') return 2;
  if (len < 6) return 0;
  bool high =
      (p[2] | 0x20) == 'd' && ((p[3] | 0x20) == 'a' || (p[3] | 0x20) == 'b' || p[3] == '8' || p[3] == '9');
  if (!high) return 6;
  /* A surrogate pair is one unit. */
  if (len == 6 || (len == 7 && p[6] == '\\')) return 0;
  if (p[6] != '\\' || p[7] != 'u') return 6;
  return len < 12 ? 0 : 12;
}

/* Longest prefix of a cut text that ends between units. Only the end is looked at: from a place that is not
 * inside of a unit which could reach it. */
static uint32_t whole_units(const uint8_t *p, uint32_t len) {
  uint32_t i = len > 32 ? len - 32 : 0;
  while (i > 0 && p[i - 1] == '\\')
    i--;
  while (i < len && p[i] >= 0x80 && p[i] < 0xc0)
    i++;
  while (i < len) {
    uint32_t unit = unit_len(p + i, len - i);
    if (unit == 0) return i;
    i += unit;
  }
  return len;
}

uint32_t csn_json_cut(csn_span escaped, uint32_t cap) {
  return escaped.len <= cap ? escaped.len : whole_units(escaped.ptr, cap);
}

void csn_json_item_trim(csn_json *j, csn_json_item *item) {
  item->len = item->kind == CSN_JK_STRING && !j->table.nodes[item->node].raw
                  ? whole_units(item->text, item->len)
                  : csn_utf8_whole(csn_span_of(item->text, item->len));
}

static void open_outer(csn_json *j, csn_json_kind kind, const uint8_t *text) {
  j->outer = csn_json_item_new(j, kind, j->node, text, j->pool_len);
  j->outer_depth = j->depth;
  j->copying = 0;
}

/* A value starts; `p` is its first byte. */
static void begin_verbatim(csn_json *j, csn_json_kind kind, const uint8_t *p) {
  if (j->value_count < 0xffffffffu) j->value_count++;
  if (j->want[j->node] != CSN_JW_VERBATIM || j->outer != NONE) return;
  open_outer(j, kind, p);
}

/* The same for captures that are not verbatim; `text` is the first byte that such a capture holds. */
static void begin_inside(csn_json *j, csn_json_kind kind, const uint8_t *text) {
  if (j->want[j->node] != CSN_JW_INSIDE) return;
  if (kind == CSN_JK_OBJECT || kind == CSN_JK_ARRAY) {
    csn_json_item_new(j, kind, j->node, j->pool,
                      j->outer == NONE ? j->pool_len : csn_json_inner_off(j, text));
  } else if (j->outer == NONE) {
    open_outer(j, kind, text);
  } else {
    uint32_t off = csn_json_inner_off(j, text);
    j->inner = csn_json_item_new(j, kind, j->node, j->copying ? j->pool + off : text, off);
  }
}

static void end_item(csn_json *j, csn_json_item *item, const uint8_t *end) {
  if (j->copying) {
    if (item->cut) csn_json_item_trim(j, item);
  } else if (item == &j->items[j->outer]) {
    csn_json_item_whole(j, item, end);
  } else {
    csn_json_item_inner(j, item, end);
  }
}

/* A string or scalar has ended; [.., end) is what captures hold that are not verbatim. */
static void end_inside(csn_json *j, const uint8_t *end) {
  if (j->inner != NONE) {
    end_item(j, &j->items[j->inner], end);
    j->inner = NONE;
  } else if (j->outer != NONE && !is_verbatim(j)) {
    end_item(j, &j->items[j->outer], end);
    j->outer = NONE;
  }
}

/* A value has ended before `end`. */
static void end_value(csn_json *j, const uint8_t *end) {
  end_inside(j, end);
  if (j->outer != NONE && j->outer_depth == j->depth) {
    end_item(j, &j->items[j->outer], end);
    j->outer = NONE;
  }
  j->state = j->depth == 0 ? S_END : S_NEXT;
}

/* --- structure --- */

/* Both at least `len` bytes. */
static bool same_bytes(const uint8_t *a, const uint8_t *b, uint32_t len) {
  if (len < 4) {
    for (uint32_t i = 0; i < len; i++)
      if (a[i] != b[i]) return false;
    return true;
  }
  uint32_t x, y, i = 0;
  for (; i + 4 <= len; i += 4) {
    memcpy(&x, a + i, 4);
    memcpy(&y, b + i, 4);
    if (x != y) return false;
  }
  memcpy(&x, a + len - 4, 4);
  memcpy(&y, b + len - 4, 4);
  return x == y;
}

uint32_t csn_json_child(const csn_json *j, uint32_t parent, const uint8_t *key, uint32_t len) {
  for (uint32_t at = hash_key(parent, key, len); j->by_key[at] != NODE_NONE; at = (at + 1) % CSN_JSON_HASH) {
    uint32_t node = j->by_key[at];
    if (j->table.nodes[node].parent == parent && j->key_len_of[node] == len &&
        same_bytes(key, (const uint8_t *)j->table.nodes[node].key, len))
      return node;
  }
  return j->any_key[parent];
}

static uint32_t child_by_key(const csn_json *j, uint32_t parent) {
  if (parent == NODE_NONE || !j->has_keys[parent]) return NODE_NONE;
  if (j->key_over) return j->any_key[parent];
  return csn_json_child(j, parent, (const uint8_t *)j->key, j->key_len);
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
  begin_verbatim(j, kind, p);
  begin_inside(j, kind, p);
  keep_raw(j, p);
  j->depth++;
  j->is_array[j->depth] = array;
  j->node_at[j->depth] = (uint8_t)j->node;
  j->state = array ? S_VALUE_CLOSE : S_KEY_CLOSE;
  if (array) {
    j->node = j->any_index[j->node];
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
  end_value(j, p + 1);
}

static void begin_value(csn_json *j, const uint8_t *p) {
  static const char first[3] = {'t', 'f', 'n'};
  uint8_t c = *p;
  if (c == '"') {
    begin_verbatim(j, CSN_JK_STRING, p);
    keep_raw(j, p);
    begin_inside(j, CSN_JK_STRING, p + 1);
    j->in_key = 0;
    j->state = S_STRING;
  } else if (c == '{' || c == '[') {
    open_container(j, p, c == '[');
  } else if (c == '-' || (c >= '0' && c <= '9')) {
    begin_verbatim(j, CSN_JK_NUMBER, p);
    begin_inside(j, CSN_JK_NUMBER, p);
    keep(j, p, 1);
    j->number = c == '-' ? N_MINUS : c == '0' ? N_ZERO : N_INT;
    j->state = S_NUMBER;
  } else {
    for (uint8_t i = 0; i < 3; i++) {
      if (c != (uint8_t)first[i]) continue;
      csn_json_kind kind = i == 0 ? CSN_JK_TRUE : i == 1 ? CSN_JK_FALSE : CSN_JK_NULL;
      begin_verbatim(j, kind, p);
      begin_inside(j, kind, p);
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

/* The closing quote of a string. */
static void end_string(csn_json *j, const uint8_t *p) {
  if (j->in_key) {
    keep_raw(j, p);
    j->node = child_by_key(j, j->node_at[j->depth]);
    j->state = S_COLON;
    return;
  }
  end_inside(j, p);
  keep_raw(j, p);
  end_value(j, p + 1);
}

/* One run of a string's bytes, up to and with the byte that ends the run; without it when that is the newline
 * which ends the line. Returns the first byte not taken. */
static const uint8_t *string_run(csn_json *j, const uint8_t *p, const uint8_t *end, bool line) {
  const uint8_t *q = p;
  if (j->in_key) {
    for (; q < end && *q >= 0x20 && *q < 0x80 && *q != '"' && *q != '\\'; q++)
      push_key(j, *q);
  } else {
    uint32_t seen = 0;
    q = csn_scan_string(p, end, &seen);
    if (seen & CSN_SCAN_NUL) j->has_nul = 1;
  }
  keep(j, p, (uint32_t)(q - p));
  if (q == end || (line && *q == '\n')) return q;
  uint8_t c = *q;
  if (c == '"') {
    end_string(j, q);
  } else if (c == '\\') {
    keep(j, q, 1);
    j->state = S_ESCAPE;
  } else if (c < 0x20) {
    fail(j, CSN_JSON_INVALID);
  } else {
    keep(j, q, 1);
    if (j->in_key) push_key(j, c);
    begin_utf8(j, c);
  }
  return q + 1;
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
        j->node = j->any_index[j->node_at[j->depth]];
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
  if (word[j->literal_pos] == 0) end_value(j, p + 1);
}

/* A line break between tokens is kept as a space: what was captured goes into one-line texts and event
 * streams, where a bare carriage return would start a new line that the agent could forge. */
static void white_line(csn_json *j, const uint8_t *p) {
  static const uint8_t space = ' ';
  if (*p == '\r' && j->cr_count < 0xffffffffu) j->cr_count++;
  if (!is_verbatim(j)) return;
  keep_open(j, p);
  keep(j, &space, 1);
}

/* Takes one byte, or one run of a string. Returns the first byte not taken. */
static const uint8_t *step(csn_json *j, const uint8_t *p, const uint8_t *end, bool line) {
  switch ((enum state)j->state) {
  case S_STRING:
    return string_run(j, p, end, line);
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
    end_value(j, p);
    return p; /* the byte belongs to what follows */
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
      white_line(j, p);
    else
      structure_step(j, p);
    break;
  case S_DEAD:
    break;
  }
  return p + 1;
}

/* Returns the first byte not taken: `end`, or the newline of a line. */
static const uint8_t *push(csn_json *j, const uint8_t *p, const uint8_t *end, bool line) {
  while (p < end) {
    if (j->state <= S_NEXT && (j->outer == NONE || !j->copying)) {
      const uint8_t *q = csn_json_fast(j, p, end);
      if (q != p) {
        p = q;
        continue;
      }
    }
    if (line && *p == '\n') return p;
    if (j->state == S_DEAD) return line ? csn_find_newline(p, end) : end;
    p = step(j, p, end, line);
  }
  return p;
}

void csn_json_push(csn_json *j, csn_span in) {
  if (in.len == 0) return;
  push(j, in.ptr, in.ptr + in.len, false);
  keep_open(j, in.ptr + in.len);
}

const uint8_t *csn_json_line_rest(csn_json *j, const uint8_t *p, const uint8_t *end) {
  if (p < end) p = push(j, p, end, true);
  if (p < end && j->state == S_NUMBER && j->depth == 0 && number_done(j)) end_value(j, p);
  if (p == end || j->outer != NONE) keep_open(j, p);
  return p;
}

void csn_json_keep(csn_json *j) {
  CSN_INVARIANT(j->outer == NONE || j->copying);
  keep_open(j, NULL);
}

csn_json_verdict csn_json_end(csn_json *j) {
  if (j->state == S_END) return CSN_JSON_OK;
  if (j->state == S_DEAD) return (csn_json_verdict)j->verdict;
  if (j->state == S_NUMBER && j->depth == 0 && number_done(j)) end_value(j, NULL);
  if (j->state == S_END) return CSN_JSON_OK;
  if (j->state == S_VALUE && j->depth == 0) return CSN_JSON_EMPTY;
  return CSN_JSON_PARTIAL;
}

/* --- results --- */

const csn_json_item *csn_json_get(const csn_json *j, uint32_t field, uint32_t index) {
  static const csn_json_item none = {0};
  CSN_INVARIANT(field < sizeof j->latest / sizeof j->latest[0]);
  for (uint32_t at = j->latest[field]; at != 0; at = j->items[at - 1].earlier)
    if (j->items[at - 1].index == index) return &j->items[at - 1];
  return &none;
}

uint32_t csn_json_index_end(const csn_json *j, uint32_t first, uint32_t last) {
  uint32_t end = 0;
  for (uint32_t field = first; field <= last; field++)
    for (uint32_t at = j->latest[field]; at != 0; at = j->items[at - 1].earlier)
      if (j->items[at - 1].index >= end) end = j->items[at - 1].index + 1;
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
