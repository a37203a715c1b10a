/* tests/engine/unit_wire_test.c - what the guest parses before anything else sees it, under ASan and UBSan.
 * TAP. */
#include "../../sandbox-sdk-shim/guest/jsonin.h"
#include "../../sandbox-sdk-shim/guest/watch.h"
#include "../../sandbox-sdk-shim/guest/ws_frame.h"
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- one JSON object as it arrives ---- */

static csn_buf seen;
static bool open; /* between the pieces of a string */

static void on_text(void *arg, const char *key, const char *piece, size_t len, bool last) {
  (void)arg;
  if (!open) csn_buf_fmt(&seen, "%s=", key);
  open = !last;
  for (size_t i = 0; i < len; i++)
    csn_buf_str(&seen, piece[i] == 0 ? "<0>" : (const char[2]){piece[i], 0});
  if (last) csn_buf_str(&seen, ";");
}

static void on_other(void *arg, const char *key, uint64_t from, uint64_t to) {
  const char *all = arg;
  csn_buf_fmt(&seen, "%s:%.*s;", key, (int)(to - from), all + from);
}

/* The same at every way of splitting `in` in pieces of 1..8 bytes. NULL for `want`: not an object. */
static bool reads(const char *in, const char *want) {
  size_t len = strlen(in);
  bool same = true;
  for (size_t chunk = 1; chunk <= 9; chunk++) {
    size_t step = chunk == 9 ? len + 1 : chunk;
    jsonin j = {.text = on_text, .other = on_other, .arg = (void *)(uintptr_t)in};
    jsonin_init(&j);
    seen.len = 0;
    open = false;
    for (size_t off = 0; off < len; off += step) {
      size_t n = len - off < step ? len - off : step;
      char *copy = malloc(n);
      if (copy == NULL) abort();
      memcpy(copy, in + off, n);
      jsonin_push(&j, copy, n);
      free(copy);
    }
    bool good = jsonin_end(&j);
    if (good != (want != NULL)) same = false;
    if (good && want != NULL && strcmp(csn_buf_cstr(&seen), want) != 0) {
      printf("# in steps of %zu: %s\n", step, seen.p);
      same = false;
    }
  }
  return same;
}

static void test_jsonin(void) {
  check(reads("{}", "") && reads(" \n{ } ", ""), "the empty object");
  check(reads("{\"a\":\"x\",\"b\":\"\"}", "a=x;b=;"), "strings");
  check(reads("{\"a\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"}", "a=\"\\/\b\f\n\r\t;"), "every escape");
  check(reads("{\"a\":\"x\\u0000y\\u00e9\\u20AC\"}", "a=x<0>y\xc3\xa9\xe2\x82\xac;"),
        "\\u, and a NUL that stays");
  check(reads("{\"a\":\"\\ud83d\\ude00\"}", "a=\xf0\x9f\x98\x80;"), "a surrogate pair");
  check(reads("{\"a\":\"\\ud83dx\\ude00\\ud83d\\ud83d\\ude00\\ud83d\"}",
              "a=\xef\xbf\xbdx\xef\xbf\xbd\xef\xbf\xbd\xf0\x9f\x98\x80\xef\xbf\xbd;"),
        "half surrogate pairs");
  check(reads("{\"a\":1,\"b\":-1.5e+3,\"c\":true,\"d\":null,\"e\":false}",
              "a:1;b:-1.5e+3;c:true;d:null;e:false;"),
        "numbers and literals by their place");
  check(reads("{\"a\":{\"b\":[1,\"}\\\"]\",{}]} , \"c\":[]}", "a:{\"b\":[1,\"}\\\"]\",{}]};c:[];"),
        "nested values by their place");
  check(reads("{\"\\u0061b\":\"x\"}", "ab=x;"), "a key with escapes");
  const char *const bad[] = {"",
                             "[]",
                             "{",
                             "{\"a\"}",
                             "{\"a\":}",
                             "{\"a\":1,}",
                             "{\"a\":1}x",
                             "{\"a\":tru}",
                             "{\"a\":nul}",
                             "{\"a\":\"x}",
                             "{\"a\":\"\n\"}",
                             "{\"a\":\"\\x\"}",
                             "{\"a\":\"\\u12g4\"}",
                             "{\"a\":[}]}",
                             "{\"a\":{]}",
                             "{a:1}",
                             "{,}",
                             "{\"a\" 1}"};
  bool all = true;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    if (!reads(bad[i], NULL)) {
      printf("# taken: %s\n", bad[i]);
      all = false;
    }
  check(all, "what is no object is refused");
  char deep[2 * JSONIN_DEPTH_MAX + 16];
  for (size_t depth = JSONIN_DEPTH_MAX - 1; depth <= JSONIN_DEPTH_MAX + 1; depth++) {
    size_t n = (size_t)sprintf(deep, "{\"a\":");
    memset(deep + n, '[', depth);
    memset(deep + n + depth, ']', depth);
    memcpy(deep + n + 2 * depth, "}", 2);
    char want[sizeof deep];
    snprintf(want, sizeof want, "a:%.*s;", (int)(2 * depth), deep + n);
    check(reads(deep, depth <= JSONIN_DEPTH_MAX ? want : NULL), "depth at its bound, one less and one more");
  }
  char key[JSONIN_KEY_MAX + 20], want[JSONIN_KEY_MAX + 20];
  sprintf(key, "{\"%0*d\":\"v\"}", (int)JSONIN_KEY_MAX + 1, 7);
  sprintf(want, "%0*d=v;", (int)JSONIN_KEY_MAX, 0);
  check(reads(key, want), "a key that is too long is cut and matches nothing");
  csn_buf_free(&seen);
}

/* ---- WebSocket frames ---- */

static size_t client_frame(uint8_t *out, uint8_t first, const char *payload, size_t len) {
  size_t n = ws_head(out, 0, len);
  out[0] = first;
  out[1] |= 0x80;
  memcpy(out + n, "\x11\x22\x33\x44", 4);
  for (size_t i = 0; i < len; i++)
    out[n + 4 + i] = (uint8_t)payload[i] ^ out[n + (i & 3)];
  return n + 4 + len;
}

/* Items of the bytes as a word: T text, B binary, P ping, O pong, C close, ! error; with the close code
 * behind. */
static const char *items(const uint8_t *bytes, size_t len, size_t step, size_t max) {
  static char out[256];
  size_t n = 0;
  ws_reader r = {.message_max = max};
  for (size_t off = 0; off < len; off += step) {
    size_t piece = len - off < step ? len - off : step;
    char *copy = malloc(piece);
    if (copy == NULL) abort();
    memcpy(copy, bytes + off, piece);
    const char *at = copy;
    size_t left = piece;
    for (ws_item item; (item = ws_read(&r, &at, &left)) != WS_NONE;) {
      n += (size_t)snprintf(out + n, sizeof out - n, "%c", " TBPOC!"[item]);
      if (item == WS_CLOSED || item == WS_BAD) n += (size_t)snprintf(out + n, sizeof out - n, "%u", r.code);
    }
    free(copy);
  }
  ws_reader_free(&r);
  out[n] = '\0';
  return out;
}

static bool gives(const uint8_t *bytes, size_t len, size_t max, const char *want) {
  for (size_t step = 1; step < 8; step++) {
    const char *got = items(bytes, len, step == 7 ? len + 1 : step, max);
    if (strcmp(got, want) == 0) continue;
    printf("# in steps of %zu: %s, not %s\n", step, got, want);
    return false;
  }
  return true;
}

static void test_frames(void) {
  static uint8_t b[70000];
  static char text[66000];
  memset(text, 'x', sizeof text);
  for (size_t len = 99; len <= 101; len++)
    check(gives(b, client_frame(b, 0x81, text, len), 100, len <= 100 ? "T" : "!1009"),
          "a message at its bound, one less and one more");
  size_t n = client_frame(b, 0x01, text, 60);
  n += client_frame(b + n, 0x80, text, 41);
  check(gives(b, n, 100, "!1009"), "the bound is of the message, not of its parts");
  const size_t edges[] = {0, 1, 125, 126, 65535, 65536};
  for (size_t i = 0; i < sizeof edges / sizeof edges[0]; i++)
    check(gives(b, client_frame(b, 0x82, text, edges[i]), sizeof text, "B"),
          "lengths at the edges of their forms");
  n = client_frame(b, 0x01, "\xe2\x82", 2);
  n += client_frame(b + n, 0x89, "p", 1);
  n += client_frame(b + n, 0x80, "\xac", 1);
  n += client_frame(b + n, 0x8a, "", 0);
  n += client_frame(b + n, 0x88,
                    "\x03\xe8"
                    "bye",
                    5);
  n += client_frame(b + n, 0x81, "late", 4);
  check(gives(b, n, 100, "PTOC1000"),
        "a character over two fragments, control frames between, nothing after the close");
  check(gives(b, client_frame(b, 0x88, "", 0), 100, "C1005"), "a close without a code");
  static const struct {
    const char *payload;
    size_t len;
    const char *want;
  } closes[] = {{"\x03", 1, "!1002"},     {"\x03\xe7", 2, "!1002"},    {"\x03\xed", 2, "!1002"},
                {"\x03\xf7", 2, "!1002"}, {"\x0b\xb8", 2, "C3000"},    {"\x13\x87", 2, "C4999"},
                {"\x13\x88", 2, "!1002"}, {"\x03\xe8\xff", 3, "!1007"}};
  for (size_t i = 0; i < sizeof closes / sizeof closes[0]; i++)
    check(gives(b, client_frame(b, 0x88, closes[i].payload, closes[i].len), 100, closes[i].want),
          "close codes");
  check(gives(b, client_frame(b, 0x81, "\xff", 1), 100, "!1007"), "text that is not UTF-8");
  check(gives(b, client_frame(b, 0xc1, "x", 1), 100, "!1002") &&
            gives(b, client_frame(b, 0x83, "x", 1), 100, "!1002") &&
            gives(b, client_frame(b, 0x80, "x", 1), 100, "!1002") &&
            gives(b, client_frame(b, 0x09, "x", 1), 100, "!1002") &&
            gives(b, client_frame(b, 0x8b, "", 0), 100, "!1002") &&
            gives(b, client_frame(b, 0x89, text, 126), 1000, "!1002"),
        "reserved bits, unknown opcodes, a stray continuation, control frames that are split or long");
  check(gives((const uint8_t *)"\x81\x02hi", 4, 100, "!1002"), "an unmasked frame");
  check(gives((const uint8_t *)"\x82\xfe\x00\x05\x01\x02\x03\x04", 8, 100, "!1002") &&
            gives((const uint8_t *)"\x82\xff\x00\x00\x00\x00\x00\x00\xff\xff\x01\x02\x03\x04", 14, 100,
                  "!1002"),
        "a length that is not in its shortest form");
}

/* ---- which paths a watch is about ---- */

static bool normal(const char *path, const char *want) {
  char out[64];
  bool ok = watch_normalize("/workspace", path, out, sizeof out);
  return ok == (want != NULL) && (!ok || strcmp(out, want) == 0);
}

static void test_filter(void) {
  check(normal("a/b", "/workspace/a/b") && normal("/a//b/./c/", "/a/b/c") && normal("../x", "/x") &&
            normal("a/../../../..", "/") && normal("/", "/") && normal("", "/workspace") &&
            normal("/..a/b..", "/..a/b.."),
        "paths without dots and double slashes");
  char name[80];
  memset(name, 'n', sizeof name);
  name[62] = '\0';
  char path[82];
  snprintf(path, sizeof path, "/%s", name);
  check(normal(path, path) &&
            !normal("/x/nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn", "x"),
        "a path that just fits, and one that does not");
  check(watch_within("/a", "/a") && watch_within("/a", "/a/b") && !watch_within("/a", "/ab") &&
            !watch_within("/a/b", "/a") && watch_within("/", "/x"),
        "within");
  check(watch_glob_ok("*.ts") && watch_glob_ok("a/?") && !watch_glob_ok("") && !watch_glob_ok("[a]") &&
            !watch_glob_ok("{a,b}") && !watch_glob_ok("a\\b"),
        "globs");
  char *none[] = {NULL}, *ts[] = {"*.ts", "docs/*.md", NULL},
       *skip[] = {"node_modules", "*.log", "out/tmp", NULL};
  watch_filter all = {.root = "/w", .recursive = true, .include = none, .exclude = none};
  check(watch_matches(&all, "/w/a") && watch_matches(&all, "/w/a/b") && !watch_matches(&all, "/w") &&
            !watch_matches(&all, "/wx") && watch_covers(&all, "/w") && watch_covers(&all, "/w/a/b") &&
            !watch_covers(&all, "/"),
        "everything below the root");
  watch_filter flat = all;
  flat.recursive = false;
  check(watch_matches(&flat, "/w/a") && !watch_matches(&flat, "/w/a/b") && watch_covers(&flat, "/w") &&
            !watch_covers(&flat, "/w/a"),
        "not recursive");
  watch_filter some = all;
  some.include = ts;
  check(watch_matches(&some, "/w/x.ts") && watch_matches(&some, "/w/a/b/x.ts") &&
            !watch_matches(&some, "/w/x.js") && watch_matches(&some, "/w/docs/a.md") &&
            !watch_matches(&some, "/w/docs/b/a.md") && !watch_matches(&some, "/w/x/docs/a.md") &&
            watch_covers(&some, "/w/any"),
        "include: by name, or by path when there is a slash");
  watch_filter less = all;
  less.exclude = skip;
  check(!watch_matches(&less, "/w/node_modules") && !watch_matches(&less, "/w/a/node_modules/b/c") &&
            !watch_matches(&less, "/w/a.log") && watch_matches(&less, "/w/a.logs") &&
            !watch_covers(&less, "/w/a/node_modules") && !watch_covers(&less, "/w/node_modules/x") &&
            !watch_matches(&less, "/w/out/tmp/x") && watch_matches(&less, "/w/a/out/tmp"),
        "exclude: a name at any depth, or a path, and all below");
  watch_filter one = all;
  one.only = "f";
  check(watch_matches(&one, "/w/f") && !watch_matches(&one, "/w/g") && !watch_matches(&one, "/w/f/x") &&
            watch_covers(&one, "/w") && !watch_covers(&one, "/w/f"),
        "one file");
}

int main(void) {
  test_jsonin();
  test_frames();
  test_filter();
  return done();
}
