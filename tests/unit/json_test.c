#include "csn/json.h"

#include "tap.h"

static csn_json j;

enum { F_TYPE = 1, F_TEXT, F_RAW, F_INNER, F_ITEM, F_ITEM_TEXT, F_ANY };
static const csn_json_node nodes[] = {
    {0, CSN_JS_KEY, 0, 0, 0, ""},
    {0, CSN_JS_KEY, F_TYPE, 0, 8, "type"},
    {0, CSN_JS_KEY, F_TEXT, 0, 16, "text"},
    {0, CSN_JS_KEY, F_RAW, 1, 32, "raw"},
    {3, CSN_JS_KEY, F_INNER, 0, 32, "in"},
    {0, CSN_JS_KEY, 0, 0, 0, "list"},
    {5, CSN_JS_ANY_INDEX, F_ITEM, 0, 8, ""},
    {6, CSN_JS_KEY, F_ITEM_TEXT, 0, CSN_FIELD_MAX, "t"},
    {0, CSN_JS_KEY, 0, 0, 0, "models"},
    {8, CSN_JS_ANY_KEY, F_ANY, 0, 8, ""},
};
static const csn_json_table table = {nodes, sizeof nodes / sizeof nodes[0]};

static csn_json_verdict read_split(const uint8_t *p, uint32_t len, uint32_t at) {
  csn_json_init(&j, table);
  csn_json_push(&j, csn_span_of(p, at));
  csn_json_push(&j, csn_span_of(p + at, len - at));
  return csn_json_end(&j);
}

/* The verdict at every split in two, and byte by byte, from memory that ends at a guard page. */
static void verdict(const char *text, csn_json_verdict want) {
  uint32_t len = (uint32_t)strlen(text), wrong = 0;
  uint8_t *p = guarded(text, len);
  for (uint32_t at = 0; at <= len; at++)
    if (read_split(p, len, at) != want) wrong++;
  csn_json_init(&j, table);
  for (uint32_t i = 0; i < len; i++)
    csn_json_push(&j, csn_span_of(p + i, 1));
  if (csn_json_end(&j) != want) wrong++;
  unguard(p, len);
  ok(wrong == 0, "verdict %d: %.60s", (int)want, text);
}

static csn_json_verdict read_text(const char *text) {
  return read_split((const uint8_t *)text, (uint32_t)strlen(text), 0);
}

static void capture(const char *text, uint32_t field, uint32_t index, csn_json_kind kind, const char *want,
                    bool cut, uint32_t true_len) {
  uint32_t len = (uint32_t)strlen(text), wrong = 0;
  for (uint32_t at = 0; at <= len; at++) {
    if (read_split((const uint8_t *)text, len, at) != CSN_JSON_OK) wrong++;
    const csn_json_item *item = csn_json_get(&j, field, index);
    if (item->kind != kind || !csn_span_is(csn_json_text(&j, item), want) || item->cut != cut ||
        item->true_len != true_len)
      wrong++;
  }
  const csn_json_item *item = csn_json_get(&j, field, index);
  csn_span got = csn_json_text(&j, item);
  ok(wrong == 0, "capture %.50s -> %s (got kind %d %.*s cut %d true %u)", text, want, item->kind,
     (int)got.len, (const char *)got.ptr, item->cut, item->true_len);
}

static void depth(uint32_t n, csn_json_verdict want) {
  char text[2 * CSN_JSON_DEPTH_MAX + 8] = {0};
  memset(text, '[', n);
  memset(text + n, ']', n);
  ok(read_text(text) == want, "depth %u: verdict %d", n, (int)want);
}

static void items(uint32_t n, bool lost) {
  csn_json_init(&j, table);
  csn_json_push(&j, csn_span_str("{\"list\":["));
  for (uint32_t i = 0; i < n; i++)
    csn_json_push(&j, csn_span_str(i == 0 ? "1" : ",1"));
  csn_json_push(&j, csn_span_str("]}"));
  ok(csn_json_end(&j) == CSN_JSON_OK && j.lost == lost && j.item_count == (lost ? CSN_JSON_ITEM_MAX : n),
     "%u captures: lost %d", n, lost);
}

/* The pool is filled to `spare` bytes before its end, then a text of 4 bytes comes. */
static void pool(uint32_t spare, bool cut) {
  uint32_t fill = CSN_JSON_POOL_CAP - spare;
  csn_json_init(&j, table);
  csn_json_push(&j, csn_span_str("{\"list\":["));
  uint32_t index = 0;
  for (; fill > 0; index++) {
    uint32_t n = fill < CSN_FIELD_MAX ? fill : CSN_FIELD_MAX;
    csn_json_push(&j, csn_span_str(index == 0 ? "{\"t\":\"" : ",{\"t\":\""));
    for (uint32_t i = 0; i < n; i++)
      csn_json_push(&j, csn_span_str("x"));
    csn_json_push(&j, csn_span_str("\"}"));
    fill -= n;
  }
  csn_json_push(&j, csn_span_str(",{\"t\":\"last\"}]}"));
  const csn_json_item *item = csn_json_get(&j, F_ITEM_TEXT, index);
  ok(csn_json_end(&j) == CSN_JSON_OK && item->cut == cut && item->len == (cut ? spare : 4) &&
         item->true_len == 4,
     "pool with %u bytes left: %u of 4 kept", spare, item->len);
}

static void number(const char *text, bool u_ok, uint64_t u, bool n_ok, uint64_t n) {
  uint64_t got_u = 0, got_n = 0;
  bool a = csn_json_u64(csn_span_str(text), &got_u), b = csn_json_nano(csn_span_str(text), &got_n);
  ok(a == u_ok && (!a || got_u == u) && b == n_ok && (!b || got_n == n), "number %s: %llu, %llu nano", text,
     (unsigned long long)got_u, (unsigned long long)got_n);
}

int main(void) {
  static const char *const good[] = {"{}",
                                     "[]",
                                     " [ ] ",
                                     "0",
                                     "-0",
                                     "1.5e-3",
                                     "1E+2",
                                     "10",
                                     "\"\"",
                                     "\"\\u00e9\\n\\/\\b\"",
                                     "true",
                                     "false",
                                     "null",
                                     "{\"a\":{\"b\":[1,2,{}]},\"c\":null}",
                                     "\t\r\n[1 , 2]\n",
                                     "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"",
                                     "\"\xe0\xa0\x80\xef\xbf\xbf\xf4\x8f\xbf\xbf\"",
                                     "\"\\ud800\"",
                                     "\"\x7f\"",
                                     "{\"a\":1,\"a\":2}",
                                     "123456789012345678901234567890"};
  static const char *const bad[] = {"{]",
                                    "[}",
                                    "[1,]",
                                    "[,1]",
                                    "{,}",
                                    "{\"a\"}",
                                    "{\"a\":}",
                                    "{\"a\":1,}",
                                    "{a:1}",
                                    "{1:2}",
                                    "[1 2]",
                                    "01",
                                    "-01",
                                    "1.",
                                    ".5",
                                    "+1",
                                    "1e",
                                    "1e+",
                                    "--1",
                                    "0x1",
                                    "1.e5",
                                    "\"\\x\"",
                                    "\"\\u12g4\"",
                                    "\"\x01\"",
                                    "\"\t\"",
                                    "\"\n\"",
                                    "tru",
                                    "truex",
                                    "nul",
                                    "True",
                                    "'a'",
                                    "[1]]",
                                    "{}{}",
                                    "1 2",
                                    "\"a\"b",
                                    "\"\xff\"",
                                    "\"\xc3(\"",
                                    "\"\xc0\xaf\"",
                                    "\"\xed\xa0\x80\"",
                                    "\"\xf4\x90\x80\x80\"",
                                    "\"\xe0\x9f\xbf\"",
                                    "\"\x80\"",
                                    "\xc3\xa9",
                                    "[\"a\":1]",
                                    "{\"a\",1}",
                                    "NaN",
                                    "\xef\xbb\xbf{}"};
  static const char *const partial[] = {
      "{", "[",  "\"", "\"a", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,", "[1",  "[1,",
      "-", "1e", "1.", "t",   "fals",   "\"\\",    "\"\\u12",  "\"\xc3",    "[[[]"};
  for (uint32_t i = 0; i < sizeof good / sizeof good[0]; i++)
    verdict(good[i], CSN_JSON_OK);
  for (uint32_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    bool half = false; /* some are also the beginning of something */
    for (uint32_t k = 0; k < sizeof partial / sizeof partial[0]; k++)
      if (strcmp(bad[i], partial[k]) == 0) half = true;
    if (!half && strcmp(bad[i], "tru") != 0 && strcmp(bad[i], "nul") != 0 && strcmp(bad[i], "1e+") != 0)
      verdict(bad[i], CSN_JSON_INVALID);
  }
  for (uint32_t i = 0; i < sizeof partial / sizeof partial[0]; i++)
    verdict(partial[i], CSN_JSON_PARTIAL);
  verdict("", CSN_JSON_EMPTY);
  verdict(" \t\r ", CSN_JSON_EMPTY);
  depth(CSN_JSON_DEPTH_MAX - 1, CSN_JSON_OK);
  depth(CSN_JSON_DEPTH_MAX, CSN_JSON_OK);
  depth(CSN_JSON_DEPTH_MAX + 1, CSN_JSON_TOO_DEEP);

  capture("{\"type\":\"a\\\"b\"}", F_TYPE, 0, CSN_JK_STRING, "a\\\"b", false, 4);
  capture("{\"type\":\"1234567\"}", F_TYPE, 0, CSN_JK_STRING, "1234567", false, 7);
  capture("{\"type\":\"12345678\"}", F_TYPE, 0, CSN_JK_STRING, "12345678", false, 8);
  capture("{\"type\":\"123456789\"}", F_TYPE, 0, CSN_JK_STRING, "12345678", true, 9);
  capture("{\"type\":\"1234567\\n\"}", F_TYPE, 0, CSN_JK_STRING, "1234567", true, 9);
  capture("{\"type\":\"123\\u00e9\"}", F_TYPE, 0, CSN_JK_STRING, "123", true, 9);
  capture("{\"type\":\"12\\u00e9\"}", F_TYPE, 0, CSN_JK_STRING, "12\\u00e9", false, 8);
  capture("{\"text\":\"12345\\ud83d\\ude00\"}", F_TEXT, 0, CSN_JK_STRING, "12345", true, 17);
  capture("{\"text\":\"1234\\ud83d\\ude00\"}", F_TEXT, 0, CSN_JK_STRING, "1234\\ud83d\\ude00", false, 16);
  capture("{\"type\":\"1234567\xc3\xa9\"}", F_TYPE, 0, CSN_JK_STRING, "1234567", true, 9);
  capture("{\"type\":\"12345\xf0\x9f\x98\x80\"}", F_TYPE, 0, CSN_JK_STRING, "12345", true, 9);
  capture("{\"type\":-1.5e3}", F_TYPE, 0, CSN_JK_NUMBER, "-1.5e3", false, 6);
  capture("{\"type\":true}", F_TYPE, 0, CSN_JK_TRUE, "true", false, 4);
  capture("{\"type\":null }", F_TYPE, 0, CSN_JK_NULL, "null", false, 4);
  capture("{\"type\":{\"type\":1}}", F_TYPE, 0, CSN_JK_OBJECT, "", false, 0);
  capture("{\"type\":[]}", F_TYPE, 0, CSN_JK_ARRAY, "", false, 0);
  capture("{\"x\":{\"type\":1}}", F_TYPE, 0, CSN_JK_NONE, "", false, 0);
  capture("{\"t\\u0079pe\":\"k\"}", F_TYPE, 0, CSN_JK_STRING, "k", false, 1);
  capture("{\"type\\u00e9\":\"k\"}", F_TYPE, 0, CSN_JK_NONE, "", false, 0);
  capture("{\"type\":1,\"type\":2}", F_TYPE, 0, CSN_JK_NUMBER, "2", false, 1);
  capture("{\"raw\":{ \"a\" : [1, \"}\"]}}", F_RAW, 0, CSN_JK_OBJECT, "{ \"a\" : [1, \"}\"]}", false, 17);
  capture("{\"raw\":{\"a\":\r\n1}}", F_RAW, 0, CSN_JK_OBJECT, "{\"a\":  1}", false, 9);
  capture("{\"raw\":\"a\\nb\"}", F_RAW, 0, CSN_JK_STRING, "\"a\\nb\"", false, 6);
  capture("{\"raw\":12,\"type\":1}", F_RAW, 0, CSN_JK_NUMBER, "12", false, 2);
  capture("{\"raw\":{\"a\":1,\"in\":\"x\\\"y\",\"b\":2}}", F_INNER, 0, CSN_JK_STRING, "x\\\"y", false, 4);
  capture("{\"raw\":{\"a\":1,\"in\":\"x\\\"y\",\"b\":2}}", F_RAW, 0, CSN_JK_OBJECT,
          "{\"a\":1,\"in\":\"x\\\"y\",\"b\":2}", false, 25);
  capture("{\"raw\":{\"abcdefghijkl\":1,\"in\":\"0123456789\"}}", F_INNER, 0, CSN_JK_STRING, "01234567", true,
          10);
  capture("{\"list\":[1,\"b\",{\"t\":\"c\"},[]],\"type\":9}", F_ITEM, 1, CSN_JK_STRING, "b", false, 1);
  capture("{\"list\":[1,\"b\",{\"t\":\"c\"},[]],\"type\":9}", F_ITEM_TEXT, 2, CSN_JK_STRING, "c", false, 1);
  capture("{\"list\":[1,\"b\",{\"t\":\"c\"},[]],\"type\":9}", F_ITEM, 3, CSN_JK_ARRAY, "", false, 0);
  capture("{\"list\":[1,\"b\",{\"t\":\"c\"},[]],\"type\":9}", F_TYPE, 0, CSN_JK_NUMBER, "9", false, 1);
  capture("{\"models\":{\"x\":1,\"y\":2}}", F_ANY, 0, CSN_JK_NUMBER, "2", false, 1);
  ok(csn_json_index_end(&j, F_ITEM, F_ITEM) == 0, "no index without an array");
  read_text("{\"list\":[1,2,3]}");
  ok(csn_json_index_end(&j, F_ITEM, F_ITEM_TEXT) == 3, "one past the last index");
  read_text("[\"a\\u0000b\"]");
  ok(j.has_nul && j.value_count == 2, "NUL is noticed, values are counted");

  items(CSN_JSON_ITEM_MAX - 1, false);
  items(CSN_JSON_ITEM_MAX, false);
  items(CSN_JSON_ITEM_MAX + 1, true);
  pool(5, false);
  pool(4, false);
  pool(3, true);

  number("0", true, 0, true, 0);
  number("36", true, 36, true, 36000000000u);
  number("12.9", true, 12, true, 12900000000u);
  number("-1", false, 0, false, 0);
  number("1e3", false, 0, true, 1000000000000u);
  number("18446744073709551615", true, UINT64_MAX, false, 0);
  number("18446744073709551616", false, 0, false, 0);
  number("0.0025239999999999998", true, 0, true, 2524000);
  number("1e-7", false, 0, true, 100);
  number("4.9e-10", false, 0, true, 0);
  number("5e-10", false, 0, true, 1);
  number("0.000000000000000000000000000001", true, 0, true, 0);
  number("1e99999999", false, 0, false, 0);
  number("1e-99999999", false, 0, true, 0);
  number("0e99999999", false, 0, true, 0);

  /* A 100 MB value: nothing is buffered, the true length is kept. */
  static uint8_t block[1u << 20];
  memset(block, 'x', sizeof block);
  csn_json_init(&j, table);
  csn_json_push(&j, csn_span_str("{\"text\":\""));
  for (int i = 0; i < 100; i++)
    csn_json_push(&j, csn_span_of(block, sizeof block));
  csn_json_push(&j, csn_span_str("\",\"type\":\"z\"}"));
  ok(csn_json_end(&j) == CSN_JSON_OK && csn_json_get(&j, F_TEXT, 0)->true_len == 100u << 20 &&
         csn_json_get(&j, F_TEXT, 0)->len == 16 && csn_json_get(&j, F_TYPE, 0)->len == 1,
     "100 MB in one string");
  return done();
}
