#include "csn/b64.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

uint32_t csn_b64_put(csn_span bytes, uint8_t *out) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < bytes.len; i += 3) {
    uint32_t left = bytes.len - i;
    uint32_t v = (uint32_t)bytes.ptr[i] << 16;
    if (left > 1) v |= (uint32_t)bytes.ptr[i + 1] << 8;
    if (left > 2) v |= bytes.ptr[i + 2];
    out[n++] = (uint8_t)alphabet[v >> 18];
    out[n++] = (uint8_t)alphabet[v >> 12 & 63];
    if (left > 1) out[n++] = (uint8_t)alphabet[v >> 6 & 63];
    if (left > 2) out[n++] = (uint8_t)alphabet[v & 63];
  }
  return n;
}

static int32_t value_of(uint8_t c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '-' ? 62 : c == '_' ? 63 : -1;
}

uint32_t csn_b64_get(csn_span text, uint8_t *out, uint32_t cap) {
  uint32_t n = 0, bits = 0, v = 0;
  if (text.len % 4 == 1) return UINT32_MAX;
  for (uint32_t i = 0; i < text.len; i++) {
    int32_t d = value_of(text.ptr[i]);
    if (d < 0) return UINT32_MAX;
    v = (v << 6 | (uint32_t)d) & 0xffff;
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    if (n == cap) return UINT32_MAX;
    out[n++] = (uint8_t)(v >> bits);
  }
  /* One value has one text: bits behind the last byte must be zero. */
  return (v & ((1u << bits) - 1)) != 0 ? UINT32_MAX : n;
}
