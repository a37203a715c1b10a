/* The string scanner with SIMD, without, and byte by byte: the same place and the same flags for any bytes,
 * at every alignment, up to a guard page. */
#include "../../wasm/src/json_scan.h"
#include "../../wasm/src/simd.h"
#include "tap.h"

/* json_scan.c once more, built with CSN_NO_SIMD. */
const uint8_t *scalar_scan_long(const uint8_t *p, const uint8_t *end, uint32_t *seen);

static uint32_t random_state = 1;
static uint32_t rnd(uint32_t n) {
  random_state = random_state * 1664525u + 1013904223u;
  return (random_state >> 8) % n;
}

/* Pieces of strings, most of them legal. */
static const char *const pieces[] = {
    "a",
    "plain text ",
    "0123456789abcdef",
    "\\n",
    "\\\"",
    "\\\\",
    "\\/",
    "\\u00e9",
    "\\u0000",
    "\\ud83d\\ude00",
    "\xc3\xa9",
    "\xe6\x97\xa5",
    "\xf0\x9f\x9a\x80",
    "\xe0\xa0\x80",
    "\xed\x9f\xbf",
    "\xef\xbf\xbf",
    "\xf4\x8f\xbf\xbf",
    "\xf0\x90\x80\x80",
    "\x7f",
    " ",
};
static const char *const wrong[] = {
    "\"",
    "\\x",
    "\\u12",
    "\\",
    "\x01",
    "\n",
    "\x80",
    "\xbf",
    "\xc0\xaf",
    "\xc1\x81",
    "\xe0\x9f\xbf",
    "\xed\xa0\x80",
    "\xf0\x8f\xbf\xbf",
    "\xf4\x90\x80\x80",
    "\xf5",
    "\xff",
    "\xc3",
    "\xe6\x97",
    "\xf0\x9f\x9a",
    "\xc3\"",
    "\xe6\x97\"",
};

static uint32_t compare(const uint8_t *bytes, uint32_t len) {
  uint32_t bad = 0;
  uint8_t *p = guarded(bytes, len);
  for (uint32_t at = 0; at <= len && at < 70; at++) {
    if (at < len && (p[at] & 0xc0) == 0x80) continue; /* a scan starts where a character starts */
    uint32_t seen[4] = {0};                           /* bytes, SIMD, no SIMD, as the tokenizer calls it */
    const uint8_t *end = p + len;
    const uint8_t *want = csn_scan_bytes(p + at, end, &seen[0]);
    if (csn_scan_long(p + at, end, &seen[1]) != want || seen[1] != seen[0]) bad++;
    if (scalar_scan_long(p + at, end, &seen[2]) != want || seen[2] != seen[0]) bad++;
    if (csn_scan_string(p + at, end, &seen[3]) != want || seen[3] != seen[0]) bad++;
  }
  unguard(p, len);
  return bad;
}

static void random_strings(uint32_t odds, const char *what) {
  uint32_t bad = 0;
  for (uint32_t round = 0; round < 600; round++) {
    uint8_t text[512];
    uint32_t len = 0, max = rnd(400);
    while (len < max) {
      bool is_wrong = rnd(odds) == 0;
      const char *piece = is_wrong ? wrong[rnd(sizeof wrong / sizeof wrong[0])]
                                   : pieces[rnd(sizeof pieces / sizeof pieces[0])];
      for (uint32_t i = 0; piece[i] != 0 && len < sizeof text; i++)
        text[len++] = (uint8_t)piece[i];
    }
    bad += compare(text, len);
  }
  ok(bad == 0, "%s: all scanners agree (%u did not)", what, bad);
}

/* Every pair and every lead byte with every second byte, at every place of a block. */
static void pairs(void) {
  uint32_t bad = 0;
  for (uint32_t at = 0; at < 68; at++)
    for (uint32_t a = 0; a < 256; a++)
      for (uint32_t b = a % 3; b < 256; b += a < 0xc0 ? 7 : 3) {
        uint8_t text[136];
        memset(text, 'x', sizeof text);
        text[at] = (uint8_t)a;
        text[at + 1] = (uint8_t)b;
        if (a >= 0xe0) text[at + 2] = 0x85;
        if (a >= 0xf0) text[at + 3] = 0x85;
        uint32_t s0 = 0, s1 = 0, s2 = 0;
        const uint8_t *want = csn_scan_bytes(text, text + sizeof text, &s0);
        if (csn_scan_long(text, text + sizeof text, &s1) != want || s1 != s0) bad++;
        if (scalar_scan_long(text, text + sizeof text, &s2) != want || s2 != s0) bad++;
      }
  ok(bad == 0, "every pair of bytes at every place of a block (%u differ)", bad);
}

static void newlines(void) {
  uint32_t bad = 0;
  for (uint32_t len = 0; len < 70; len++)
    for (uint32_t at = 0; at <= len; at++) {
      uint8_t text[70];
      memset(text, 'x', sizeof text);
      if (at < len) text[at] = '\n';
      uint8_t *p = guarded(text, len);
      if (csn_find_newline(p, p + len) != p + at) bad++;
      unguard(p, len);
    }
  ok(bad == 0, "newlines up to a guard page (%u missed)", bad);
}

/* What each operation of simd.h says of two blocks, byte by byte, next to what it says at once. */
static uint32_t operations_wrong(const uint8_t *a, const uint8_t *b) {
  static const csn_splat splats[] = {
#define CSN_X_SPLAT(name, value) CSN_SPLAT_##name,
      CSN_SPLAT_TABLE(CSN_X_SPLAT)
#undef CSN_X_SPLAT
  };
  static const int values[] = {
#define CSN_X_SPLAT(name, value) value,
      CSN_SPLAT_TABLE(CSN_X_SPLAT)
#undef CSN_X_SPLAT
  };
  uint32_t bad = 0;
  csn_v x = csn_v_load(a), y = csn_v_load(b);
  uint8_t got[CSN_V], wide[2 * CSN_V];
#define EACH(value, want)                                                                                    \
  do {                                                                                                       \
    uint32_t mask = 0;                                                                                       \
    csn_v_store(got, value);                                                                                 \
    for (uint32_t i = 0; i < CSN_V; i++) {                                                                   \
      if (got[i] != (uint8_t)(want)) bad++;                                                                  \
      mask |= (uint32_t)(got[i] >> 7) << i;                                                                  \
    }                                                                                                        \
    if (csn_v_mask(value) != mask) bad++;                                                                    \
  } while (0)
  EACH(x, a[i]);
  EACH(csn_v_same(x, y), a[i] == b[i] ? 255 : 0);
  EACH(csn_v_or(x, y), a[i] | b[i]);
  EACH(csn_v_and(x, y), a[i] & b[i]);
  for (uint32_t s = 0; s < CSN_SPLAT_END; s++) {
    EACH(csn_v_eq(x, splats[s]), (int8_t)a[i] == values[s] ? 255 : 0);
    EACH(csn_v_less(x, splats[s]), (int8_t)a[i] < values[s] ? 255 : 0);
  }
#undef EACH
  csn_v_widen(wide, x);
  for (uint32_t i = 0; i < CSN_V; i++)
    if (wide[2 * i] != a[i] || wide[2 * i + 1] != 0) bad++;
  return bad;
}

static void operations(void) {
  uint32_t bad = 0;
  for (uint32_t round = 0; round < 4096; round++) {
    uint8_t a[CSN_V + 1], b[CSN_V + 1];
    for (uint32_t i = 0; i <= CSN_V; i++) {
      a[i] = (uint8_t)(round < 256 ? round : rnd(256));
      b[i] = rnd(2) == 0 ? a[i] : (uint8_t)rnd(256);
    }
    bad += operations_wrong(a + round % 2, b + round % 2);
  }
  ok(bad == 0, "every operation of " CSN_SIMD_NAME " says what its bytes say (%u do not)", bad);
}

int main(void) {
  operations();
  random_strings(1000000, "well-formed strings");
  random_strings(40, "strings with a fault");
  random_strings(3, "noise");
  pairs();
  newlines();
  return done();
}
