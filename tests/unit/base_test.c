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
