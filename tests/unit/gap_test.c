/* Lines of repeated shapes: a reader that remembers shapes must say the same of each line as one that is new
 * and is given the line byte by byte. */
#include "json_table.h"

#include "tap.h"

enum { SHAPES = 48, LINES = 30000, LINE_CAP = 8192, TEXT_CAP = 1 << 20 };

static const char *const keys[] = {
    "type",   "text",   "raw", "in",         "list",     "t",
    "models", "a_long", "x",   "\\u0074ype", "\xc3\xa9", "key_that_is_too_long_for_a_gap_of_32",
};
static const char *const scalars[] = {
    "0",     "7",    "-1",  "42", "1763690000123", "12345678901234567890", "1.5e3", "-0.25", "012", "true",
    "false", "null", "nul", "-",
};
static const char *const texts[] = {
    "",
    "a",
    "a text that is longer than one block",
    "say \\\"hi\\\"\\n",
    "\\u0000",
    "\xe6\x97\xa5\xe6\x9c\xac",
    "\\ud83d\\ude00",
    "tab\there",
    "\xff",
    "{\\\"type\\\":1}",
};

static csn_json reader, fresh;
static uint8_t line[LINE_CAP];
static uint32_t len;
static uint32_t shape_state, value_state;

static uint32_t draw(uint32_t *state, uint32_t n) {
  *state = *state * 1664525u + 1013904223u;
  return (*state >> 8) % n;
}

static void put(const char *text) {
  uint32_t n = (uint32_t)strlen(text);
  if (len + n > LINE_CAP) return;
  memcpy(line + len, text, n);
  len += n;
}

/* The shape comes from shape_state; texts, numbers and a slip here and there from value_state. */
static void put_value(uint32_t depth) {
  uint32_t what = draw(&shape_state, depth == 0 ? 40 : depth < 12 ? 10 : 6), n;
  if (draw(&value_state, 400) == 0) put(draw(&value_state, 2) ? " " : "\t \r");
  if (what < 3) {
    put("\"");
    put(texts[draw(&value_state, draw(&value_state, 8) == 0 ? 10 : 3)]);
    put(draw(&value_state, 2000) == 0 ? "" : "\"");
  } else if (what < 6) {
    n = draw(&shape_state, 2);
    put(scalars[n ? 9 + draw(&shape_state, 3) : draw(&value_state, draw(&value_state, 20) == 0 ? 14 : 8)]);
  } else if (what < 8) {
    put("[");
    n = draw(&shape_state, 4);
    for (uint32_t i = 0; i < n; i++) {
      if (i > 0) put(",");
      put_value(depth + 1);
    }
    put("]");
  } else {
    put("{");
    n = draw(&shape_state, 5);
    for (uint32_t i = 0; i < n; i++) {
      if (i > 0) put(",");
      put("\"");
      put(keys[draw(&shape_state, draw(&shape_state, 6) == 0 ? 12 : 9)]);
      put("\":");
      put_value(depth + 1);
    }
    put(draw(&value_state, 2000) == 0 ? "]" : "}");
  }
}

static bool same(csn_json_verdict verdict) {
  csn_json_verdict want = csn_json_end(&fresh);
  if (want == CSN_JSON_PARTIAL) want = CSN_JSON_INVALID;
  if (verdict == CSN_JSON_PARTIAL) verdict = CSN_JSON_INVALID;
  if (verdict != want) return false;
  if (verdict != CSN_JSON_OK) return true;
  if (reader.value_count != fresh.value_count || reader.cr_count != fresh.cr_count ||
      reader.lost != fresh.lost || reader.has_nul != fresh.has_nul || reader.item_count != fresh.item_count)
    return false;
  for (uint32_t i = 0; i < fresh.item_count; i++) {
    const csn_json_item *a = &reader.items[i], *b = &fresh.items[i];
    csn_span x = csn_json_text(&reader, a), y = csn_json_text(&fresh, b);
    if (a->field != b->field || a->kind != b->kind || a->cut != b->cut || a->node != b->node ||
        a->earlier != b->earlier || a->index != b->index || a->true_len != b->true_len || x.len != y.len ||
        (x.len > 0 && memcmp(x.ptr, y.ptr, x.len) != 0))
      return false;
  }
  return true;
}

/* Lines of `shapes` shapes, `at_once` lines in one chunk. */
static void lines_of(uint32_t shapes, uint32_t at_once) {
  static uint8_t text[TEXT_CAP];
  uint32_t wrong = 0, valid = 0;
  csn_json_init(&reader, table);
  value_state = shapes * 7 + at_once;
  for (uint32_t i = 0; i < LINES;) {
    uint32_t total = 0;
    for (uint32_t k = 0; k < at_once && total + LINE_CAP < TEXT_CAP; k++) {
      shape_state = draw(&value_state, shapes) * 2654435761u;
      len = 0;
      put_value(0);
      memcpy(text + total, line, len);
      total += len;
      text[total++] = '\n';
    }
    for (uint32_t at = 0; at < total; i++) {
      bool ended;
      const uint8_t *p = text + at;
      uint32_t n = csn_json_push_line(&reader, csn_span_of(p, total - at), &ended);
      csn_json_init(&fresh, table);
      for (uint32_t k = 0; k < n; k++)
        csn_json_push(&fresh, csn_span_of(p + k, 1));
      csn_json_verdict verdict = csn_json_end(&reader);
      if (verdict == CSN_JSON_OK) valid++;
      if (!ended || !same(verdict)) {
        if (wrong++ < 3) printf("# %.*s\n", (int)n, (const char *)p);
      }
      csn_json_reset(&reader);
      at += n + 1;
    }
  }
  ok(wrong == 0 && valid > LINES / 2, "%u shapes, %u lines in a chunk: %u wrong, %u valid, %u gaps known",
     shapes, at_once, wrong, valid, reader.gap_count);
}

int main(void) {
  lines_of(3, 64);
  lines_of(SHAPES, 64);
  lines_of(SHAPES, 3);
  lines_of(SHAPES, 1);
  lines_of(4000, 64);
  return done();
}
