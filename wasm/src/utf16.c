#include "csn/base.h"

#include "simd.h"

static bool is_tail(uint8_t b) {
  return (b & 0xc0) == 0x80;
}

/* Bytes of the sequence at p, which does not begin with ASCII, and its code point; 0 when it is not UTF-8. */
static inline uint32_t sequence(const uint8_t *p, uint32_t len, uint32_t *code) {
  if (p[0] < 0xe0) {
    *code = (p[0] & 0x1fu) << 6 | (len > 1 ? p[1] & 0x3fu : 0);
    return len > 1 && p[0] >= 0xc2 && is_tail(p[1]) ? 2 : 0;
  }
  if (len < 3 || !is_tail(p[1]) || !is_tail(p[2])) return 0;
  *code = (p[0] & 0xfu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
  if (p[0] < 0xf0) return *code >= 0x800 && (*code < 0xd800 || *code > 0xdfff) ? 3 : 0;
  *code = *code << 6 | (len > 3 ? p[3] & 0x3fu : 0);
  return len > 3 && p[0] <= 0xf4 && is_tail(p[3]) && *code >= 0x10000 && *code <= 0x10ffff ? 4 : 0;
}

static inline uint8_t *put_unit(uint8_t *to, uint32_t unit) {
  to[0] = (uint8_t)unit;
  to[1] = (uint8_t)(unit >> 8);
  return to + 2;
}

int32_t csn_utf16(csn_span text, uint8_t *out) {
  const uint8_t *p = text.ptr, *end = p + text.len;
  while (end - p >= (ptrdiff_t)CSN_V && csn_v_mask(csn_v_load(p)) == 0)
    p += CSN_V;
  while (p < end && *p < 0x80)
    p++;
  if (p == end) return 0;

  uint8_t *to = out;
  p = text.ptr;
  while (p < end) {
    if (end - p >= (ptrdiff_t)CSN_V) {
      csn_v v = csn_v_load(p);
      uint32_t high = csn_v_mask(v), n = high != 0 ? (uint32_t)__builtin_ctz(high) : CSN_V;
      csn_v_widen(to, v); /* no more than twice the bytes that are there */
      p += n;
      to += 2 * n;
      if (high == 0) continue;
    }
    for (; p < end && *p >= 0x80;) {
      uint32_t code, n = sequence(p, (uint32_t)(end - p), &code);
      if (n == 0) return CSN_ERR_BAD_RECORD;
      p += n;
      if (code >= 0x10000) {
        to = put_unit(to, 0xd800 + ((code - 0x10000) >> 10));
        code = 0xdc00 + (code & 0x3ff);
      }
      to = put_unit(to, code);
    }
    if (end - p < (ptrdiff_t)CSN_V)
      while (p < end && *p < 0x80)
        to = put_unit(to, *p++);
  }
  return (int32_t)(to - out);
}
