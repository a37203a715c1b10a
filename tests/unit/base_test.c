#include "csn/base.h"

#include "tap.h"

static _Alignas(8) uint8_t box[4096];

static const char *text_of(csn_fx *fx) {
  box[fx->len] = 0;
  return (const char *)box;
}

static void escapes(const char *in, uint32_t len, const char *want) {
  csn_fx fx = {box, sizeof box - 1, 0};
  uint8_t *p = guarded(in, len);
  csn_put_escaped(&fx, csn_span_of(p, len));
  unguard(p, len);
  ok(strcmp(text_of(&fx), want) == 0, "escape: %s", want);
}

static void nano(uint64_t n, const char *want) {
  csn_fx fx = {box, sizeof box - 1, 0};
  csn_put_nano(&fx, n);
  ok(strcmp(text_of(&fx), want) == 0, "nano: %s", want);
}

static void whole(const char *in, uint32_t want) {
  uint32_t len = (uint32_t)strlen(in);
  uint8_t *p = guarded(in, len);
  ok(csn_utf8_whole(csn_span_of(p, len)) == want, "whole prefix of %u bytes is %u", len, want);
  unguard(p, len);
}

static uint32_t put_code(uint8_t *p, uint32_t code) {
  if (code < 0x80) {
    p[0] = (uint8_t)code;
    return 1;
  }
  uint32_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  for (uint32_t i = n - 1; i > 0; i--, code >>= 6)
    p[i] = (uint8_t)(0x80 | (code & 0x3f));
  p[0] = (uint8_t)(0xf00u >> n | code);
  return n;
}

/* Every code point, behind 0 to 40 letters. */
static void utf16_all(void) {
  uint32_t wrong = 0;
  for (uint32_t code = 0x80; code <= 0x10ffff; code++) {
    uint8_t in[48], out[2 * sizeof in];
    uint32_t letters = code % 41, surrogate = code >= 0xd800 && code <= 0xdfff;
    memset(in, 'x', sizeof in);
    uint32_t n = put_code(in + letters, code), pair = code >= 0x10000;
    int32_t got = csn_utf16(csn_span_of(in, letters + n + (code & 1)), out);
    if (surrogate) {
      if (got != CSN_ERR_BAD_RECORD) wrong++;
      continue;
    }
    uint32_t first = pair ? 0xd800 + ((code - 0x10000) >> 10) : code;
    const uint8_t *at = out + 2 * letters;
    if (got != (int32_t)(2 * (letters + 1 + pair + (code & 1))) || at[0] != (first & 0xff) ||
        at[1] != first >> 8 || (letters > 0 && (at[-2] != 'x' || at[-1] != 0)) ||
        ((code & 1) && at[2 + 2 * pair] != 'x') ||
        (pair && (at[2] != (code & 0xff) || at[3] != (0xdc | (code >> 8 & 3)))))
      wrong++;
  }
  ok(wrong == 0, "UTF-16 of every code point: %u wrong", wrong);
}

static void utf16(const char *in, uint32_t len, int32_t want) {
  uint8_t *p = guarded(in, len), *out = guarded(box, 2 * len);
  int32_t got = csn_utf16(csn_span_of(p, len), out);
  unguard(p, len);
  unguard(out, 2 * len);
  ok(got == want, "UTF-16 of %u bytes: %d", len, got);
}

double csn_cjson_strtod(const char *text, char **end); /* wasm/src/doc.c, by the name that cJSON has for it */

static void decimal(const char *text) {
  char *end, *want_end;
  double got = csn_cjson_strtod(text, &end), want = strtod(text, &want_end);
  ok(got == want && end == want_end, "number %s: %.17g", text, got);
}

/* Numbers of up to 15 digits, with and without a point and an exponent. */
static void decimals(void) {
  uint32_t wrong = 0, state = 1;
  for (uint32_t i = 0; i < 300000; i++) {
    char text[64];
    uint64_t r = 0;
    for (int k = 0; k < 3; k++) {
      state = state * 1664525u + 1013904223u;
      r = r << 21 ^ state >> 8;
    }
    uint64_t whole_part = r % 1000000, part = r / 1000000 % 1000000000;
    int e = (int)(r % 23) - 11;
    if (i % 3 == 0)
      snprintf(text, sizeof text, "%llu", (unsigned long long)(r % 1000000000000000u));
    else if (i % 3 == 1)
      snprintf(text, sizeof text, "-%llu.%09llu", (unsigned long long)whole_part, (unsigned long long)part);
    else
      snprintf(text, sizeof text, "%llu.%03llue%+d", (unsigned long long)whole_part,
               (unsigned long long)(part % 1000), e);
    char *end, *want_end;
    if (csn_cjson_strtod(text, &end) != strtod(text, &want_end) || end != want_end) wrong++;
  }
  ok(wrong == 0, "decimal numbers: %u of 300000 wrong", wrong);
}

static void overfill(void) {
  csn_fx fx = {box, 64, 0};
  uint32_t at = csn_fx_open(&fx, CSN_FX_EVENT, 0, 0, 0, 0);
  csn_fx_put(&fx, box, 33);
  csn_fx_close(&fx, at);
}

int main(void) {
  escapes("plain", 5, "plain");
  escapes("a\"b\\c\n\t\r\b\x1f", 10, "a\\\"b\\\\c\\n\\t\\r\\u0008\\u001f");
  escapes("caf\xc3\xa9 \xf0\x9f\x98\x80", 10, "caf\xc3\xa9 \xf0\x9f\x98\x80");
  escapes("\xff", 1, "\xef\xbf\xbd");
  escapes("\xf0\x9f\x98", 3, "\xef\xbf\xbd");
  escapes("\xe2\x82x", 3, "\xef\xbf\xbdx");
  escapes("\xed\xa0\x80", 3, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
  escapes("\xc0\xaf", 2, "\xef\xbf\xbd\xef\xbf\xbd");
  escapes("", 0, "");
  nano(0, "0");
  nano(1, "0.000000001");
  nano(2524000, "0.002524");
  nano(1000000000, "1");
  nano(1500000000, "1.5");
  nano(UINT64_MAX, "18446744073.709551615");
  decimals();
  decimal("0");
  decimal("-0");
  decimal("1e22");
  decimal("1E-9");
  decimal("0.000001");
  decimal("1e999");
  decimal("-1e99999999999");
  decimal("1e-999");
  decimal("0e999");
  decimal("9007199254740993");
  decimal("100000000000000000000000000000000000000000");
  utf16_all();
  utf16("", 0, 0);
  utf16("ascii of more bytes than one block", 34, 0);
  utf16("\xc3\xa9", 2, 2);
  utf16("0123456789abcde\xc3\xa9", 17, 32);
  utf16("\xc3", 1, CSN_ERR_BAD_RECORD);
  utf16("\xc0\xaf", 2, CSN_ERR_BAD_RECORD);
  utf16("\x80", 1, CSN_ERR_BAD_RECORD);
  utf16("\xc3x", 2, CSN_ERR_BAD_RECORD);
  utf16("\xe0\x9f\xbf", 3, CSN_ERR_BAD_RECORD);
  utf16("\xe2\x82", 2, CSN_ERR_BAD_RECORD);
  utf16("\xe2\x82x", 3, CSN_ERR_BAD_RECORD);
  utf16("\xf0\x8f\xbf\xbf", 4, CSN_ERR_BAD_RECORD);
  utf16("\xf4\x90\x80\x80", 4, CSN_ERR_BAD_RECORD);
  utf16("\xf5\x80\x80\x80", 4, CSN_ERR_BAD_RECORD);
  utf16("\xf0\x9f\x98", 3, CSN_ERR_BAD_RECORD);
  utf16("\xff", 1, CSN_ERR_BAD_RECORD);
  whole("", 0);
  whole("abc", 3);
  whole("a\xc3", 1);
  whole("a\xc3\xa9", 3);
  whole("\xf0\x9f\x98", 0);
  whole("a\xf0\x9f\x98\x80", 5);
  whole("a\xff", 2);
  whole("a\x80\x80\x80\x80", 5);
  whole("a\xed\xa0", 3); /* can never become well-formed */

  csn_reader r = {csn_span_of("\x01\x02\x03\x04\x05\x06\x07\x08\x09", 9), 0};
  uint8_t b;
  uint16_t h;
  uint32_t w;
  uint64_t d;
  csn_span s;
  ok(csn_rd_u8(&r, &b) && b == 1 && csn_rd_u16(&r, &h) && h == 0x0302, "read u8 and u16");
  ok(csn_rd_u32(&r, &w) && w == 0x07060504 && !csn_rd_u32(&r, &w) && !csn_rd_u64(&r, &d) && r.pos == 7,
     "a short read moves nothing");
  ok(!csn_rd_bytes(&r, 3, &s) && csn_rd_bytes(&r, 2, &s) && s.len == 2 && !csn_rd_u8(&r, &b), "read bytes");

  csn_arena a = {box, 64, 0};
  ok(csn_arena_take(&a, 57) == box && csn_arena_take(&a, 1) == NULL, "arena: 57 of 64 leave no room for 8");
  a.used = 0;
  ok(csn_arena_take(&a, 64) != NULL && csn_arena_take(&a, 0) == box + 64, "arena: exactly full");
  a.used = 0;
  ok(csn_arena_take(&a, 65) == NULL && csn_arena_take(&a, SIZE_MAX) == NULL, "arena: too much");

  csn_fx fx = {box, 64, 0};
  csn_fx_emit(&fx, CSN_FX_BAD_FIELD, 7, -3, csn_span_of("12345678901234567890123456789012", 32));
  ok(fx.len == 64, "a record may fill the out-box to the last byte");
  ok(traps(overfill), "one byte more traps");
  csn_rec rec;
  memcpy(&rec, box, sizeof rec);
  ok(rec.size == 64 && rec.kind == CSN_FX_BAD_FIELD && rec.id == 7 && rec.code == -3 && rec.payload_len == 32,
     "record header");
  ok(csn_type_is_host(CSN_T_ARTIFACT_STORED) && !csn_type_is_host(CSN_T_RAW) && !csn_type_is_host(0) &&
         !csn_type_is_host(-1) && !csn_type_is_host(1000),
     "types that the host may report");
  return done();
}
