/* simd.h - sixteen bytes at a time: wasm SIMD128, SSE2, NEON, or plain C when CSN_NO_SIMD is defined.
 *
 * A block is 16 bytes; csn_v_mask gives one bit a byte, the lowest for the first. Comparisons are signed, so
 * "less than 0x20" also holds for every byte from 0x80 on. The plain form is the reference of the others:
 * tests/unit/scan_test.c holds them against each other. */
#ifndef CSN_SIMD_H
#define CSN_SIMD_H

#include <stdint.h>
#include <string.h>

#define CSN_V 16u /* bytes of a block */

/* The bytes that blocks are compared with. They are read from memory: V8 builds a constant vector anew, in
 * three instructions, wherever one is used. */
#define CSN_SPLAT_TABLE(X)                                                                                   \
  X(QUOTE, '"')                                                                                              \
  X(BACKSLASH, '\\')                                                                                         \
  X(NEWLINE, '\n')                                                                                           \
  X(SPACE, ' ')                                                                                              \
  X(ZERO, '0')                                                                                               \
  X(COLON, ':')                                                                                              \
  X(LETTER_N, 'n')                                                                                           \
  X(LETTER_T, 't')                                                                                           \
  X(X90, 0x90 - 256)                                                                                         \
  X(XC0, 0xc0 - 256)                                                                                         \
  X(XC2, 0xc2 - 256)                                                                                         \
  X(XE0, 0xe0 - 256)                                                                                         \
  X(XED, 0xed - 256)                                                                                         \
  X(XF0, 0xf0 - 256)                                                                                         \
  X(XF4, 0xf4 - 256)
#define CSN_X_SPLAT(name, value) CSN_SPLAT_##name,
typedef enum csn_splat { CSN_SPLAT_TABLE(CSN_X_SPLAT) CSN_SPLAT_END } csn_splat;
#undef CSN_X_SPLAT
extern const int8_t csn_splats[CSN_SPLAT_END][CSN_V];

#if defined(CSN_NO_SIMD)
#define CSN_SIMD_NAME "scalar"
typedef struct csn_v {
  int8_t b[CSN_V];
} csn_v;
#define CSN_V_EACH(expr)                                                                                     \
  do {                                                                                                       \
    csn_v out;                                                                                               \
    for (uint32_t i = 0; i < CSN_V; i++)                                                                     \
      out.b[i] = (int8_t)(expr);                                                                             \
    return out;                                                                                              \
  } while (0)
static inline csn_v csn_v_load(const void *p) {
  csn_v v;
  memcpy(v.b, p, CSN_V);
  return v;
}
static inline void csn_v_store(void *p, csn_v v) {
  memcpy(p, v.b, CSN_V);
}
/* Each byte as a 16-bit number: 2 x CSN_V bytes. */
static inline void csn_v_widen(void *p, csn_v v) {
  uint8_t wide[2 * CSN_V] = {0};
  for (uint32_t i = 0; i < CSN_V; i++)
    wide[2 * i] = (uint8_t)v.b[i];
  memcpy(p, wide, sizeof wide);
}
static inline csn_v csn_v_eq(csn_v v, csn_splat c) {
  CSN_V_EACH(v.b[i] == csn_splats[c][i] ? -1 : 0);
}
static inline csn_v csn_v_same(csn_v x, csn_v y) {
  CSN_V_EACH(x.b[i] == y.b[i] ? -1 : 0);
}
static inline csn_v csn_v_less(csn_v v, csn_splat c) {
  CSN_V_EACH(v.b[i] < csn_splats[c][i] ? -1 : 0);
}
static inline csn_v csn_v_or(csn_v x, csn_v y) {
  CSN_V_EACH(x.b[i] | y.b[i]);
}
static inline csn_v csn_v_and(csn_v x, csn_v y) {
  CSN_V_EACH(x.b[i] & y.b[i]);
}
static inline uint32_t csn_v_mask(csn_v v) {
  uint32_t mask = 0;
  for (uint32_t i = 0; i < CSN_V; i++)
    mask |= (uint32_t)(v.b[i] < 0) << i;
  return mask;
}

#elif defined(__wasm_simd128__)
#include <wasm_simd128.h>
#define CSN_SIMD_NAME "wasm128"
typedef v128_t csn_v;
static inline csn_v csn_v_load(const void *p) {
  return wasm_v128_load(p);
}
static inline void csn_v_store(void *p, csn_v v) {
  wasm_v128_store(p, v);
}
static inline void csn_v_widen(void *p, csn_v v) {
  wasm_v128_store(p, wasm_u16x8_extend_low_u8x16(v));
  wasm_v128_store((uint8_t *)p + CSN_V, wasm_u16x8_extend_high_u8x16(v));
}
static inline csn_v csn_v_eq(csn_v v, csn_splat c) {
  return wasm_i8x16_eq(v, wasm_v128_load(csn_splats[c]));
}
static inline csn_v csn_v_same(csn_v x, csn_v y) {
  return wasm_i8x16_eq(x, y);
}
static inline csn_v csn_v_less(csn_v v, csn_splat c) {
  return wasm_i8x16_lt(v, wasm_v128_load(csn_splats[c]));
}
static inline csn_v csn_v_or(csn_v x, csn_v y) {
  return wasm_v128_or(x, y);
}
static inline csn_v csn_v_and(csn_v x, csn_v y) {
  return wasm_v128_and(x, y);
}
static inline uint32_t csn_v_mask(csn_v v) {
  return (uint32_t)wasm_i8x16_bitmask(v);
}

#elif defined(__SSE2__)
#include <emmintrin.h>
#define CSN_SIMD_NAME "sse2"
typedef __m128i csn_v;
static inline csn_v csn_v_load(const void *p) {
  return _mm_loadu_si128(p);
}
static inline void csn_v_store(void *p, csn_v v) {
  _mm_storeu_si128(p, v);
}
static inline void csn_v_widen(void *p, csn_v v) {
  csn_v_store(p, _mm_unpacklo_epi8(v, _mm_setzero_si128()));
  csn_v_store((uint8_t *)p + CSN_V, _mm_unpackhi_epi8(v, _mm_setzero_si128()));
}
static inline csn_v csn_v_eq(csn_v v, csn_splat c) {
  return _mm_cmpeq_epi8(v, csn_v_load(csn_splats[c]));
}
static inline csn_v csn_v_same(csn_v x, csn_v y) {
  return _mm_cmpeq_epi8(x, y);
}
static inline csn_v csn_v_less(csn_v v, csn_splat c) {
  return _mm_cmplt_epi8(v, csn_v_load(csn_splats[c]));
}
static inline csn_v csn_v_or(csn_v x, csn_v y) {
  return _mm_or_si128(x, y);
}
static inline csn_v csn_v_and(csn_v x, csn_v y) {
  return _mm_and_si128(x, y);
}
static inline uint32_t csn_v_mask(csn_v v) {
  return (uint32_t)_mm_movemask_epi8(v);
}

#elif defined(__aarch64__)
#include <arm_neon.h>
#define CSN_SIMD_NAME "neon"
typedef int8x16_t csn_v;
static inline csn_v csn_v_load(const void *p) {
  return vld1q_s8(p);
}
static inline void csn_v_store(void *p, csn_v v) {
  vst1q_s8(p, v);
}
static inline void csn_v_widen(void *p, csn_v v) {
  vst1q_u8(p, vreinterpretq_u8_u16(vmovl_u8(vreinterpret_u8_s8(vget_low_s8(v)))));
  vst1q_u8((uint8_t *)p + CSN_V, vreinterpretq_u8_u16(vmovl_u8(vreinterpret_u8_s8(vget_high_s8(v)))));
}
static inline csn_v csn_v_eq(csn_v v, csn_splat c) {
  return vreinterpretq_s8_u8(vceqq_s8(v, vld1q_s8(csn_splats[c])));
}
static inline csn_v csn_v_same(csn_v x, csn_v y) {
  return vreinterpretq_s8_u8(vceqq_s8(x, y));
}
static inline csn_v csn_v_less(csn_v v, csn_splat c) {
  return vreinterpretq_s8_u8(vcltq_s8(v, vld1q_s8(csn_splats[c])));
}
static inline csn_v csn_v_or(csn_v x, csn_v y) {
  return vorrq_s8(x, y);
}
static inline csn_v csn_v_and(csn_v x, csn_v y) {
  return vandq_s8(x, y);
}
/* The top bit of each byte, weighted by its place and added up by halves. */
static inline uint32_t csn_v_mask(csn_v v) {
  static const uint8_t weight[CSN_V] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  uint8x16_t top = vreinterpretq_u8_s8(vshrq_n_s8(v, 7));
  uint8x16_t bits = vandq_u8(top, vld1q_u8(weight));
  return (uint32_t)vaddv_u8(vget_low_u8(bits)) | (uint32_t)vaddv_u8(vget_high_u8(bits)) << 8;
}

#else
#error "no SIMD for this target: define CSN_NO_SIMD"
#endif

/* Bit i: byte i of the block is a quote, a backslash, a control character or not ASCII. */
static inline uint32_t csn_v_special(csn_v v) {
  csn_v quotes = csn_v_or(csn_v_eq(v, CSN_SPLAT_QUOTE), csn_v_eq(v, CSN_SPLAT_BACKSLASH));
  return csn_v_mask(csn_v_or(quotes, csn_v_less(v, CSN_SPLAT_SPACE)));
}

/* First newline in [p, end), or end. */
static inline const uint8_t *csn_find_newline(const uint8_t *p, const uint8_t *end) {
  for (; end - p >= (ptrdiff_t)CSN_V; p += CSN_V) {
    uint32_t mask = csn_v_mask(csn_v_eq(csn_v_load(p), CSN_SPLAT_NEWLINE));
    if (mask != 0) return p + __builtin_ctz(mask);
  }
  while (p < end && *p != '\n')
    p++;
  return p;
}

#endif
