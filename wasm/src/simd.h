/* simd.h - sixteen bytes at a time: wasm SIMD128, SSE2, NEON, or plain C when CSN_NO_SIMD is defined.
 *
 * A block is 16 bytes; csn_v_behind(before, v, n) is the block n bytes before v, csn_v_lookup takes from a
 * table of 16 bytes by numbers below 16; csn_v_mask gives one bit a byte, the lowest for the first.
 * Comparisons are signed, so "less than 0x20" also holds for every byte from 0x80 on. The plain form is the
 * reference of the others: tests/unit/scan_test.c holds them against each other. */
#ifndef CSN_SIMD_H
#define CSN_SIMD_H

#include <stdint.h>
#include <string.h>

#define CSN_V 16u /* bytes of a block */

/* Before a loop of which the compiler is not to write out several rounds. */
#if defined(__clang__)
#define CSN_ROLLED _Pragma("clang loop unroll(disable) vectorize(disable)")
#else
#define CSN_ROLLED
#endif

/* The bytes that blocks are compared with. */
#define CSN_SPLAT_TABLE(X)                                                                                   \
  X(NUL, 0)                                                                                                  \
  X(QUOTE, '"')                                                                                              \
  X(BACKSLASH, '\\')                                                                                         \
  X(NEWLINE, '\n')                                                                                           \
  X(SPACE, ' ')                                                                                              \
  X(ZERO, '0')                                                                                               \
  X(COLON, ':')                                                                                              \
  X(LETTER_N, 'n')                                                                                           \
  X(LETTER_T, 't')                                                                                           \
  X(X0F, 0x0f)                                                                                               \
  X(X60, 0x60)                                                                                               \
  X(X70, 0x70)                                                                                               \
  X(X80, 0x80 - 256)
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
static inline csn_v csn_v_below(csn_v x, csn_v y) {
  CSN_V_EACH(x.b[i] < y.b[i] ? -1 : 0);
}
static inline csn_v csn_v_or(csn_v x, csn_v y) {
  CSN_V_EACH(x.b[i] | y.b[i]);
}
static inline csn_v csn_v_and(csn_v x, csn_v y) {
  CSN_V_EACH(x.b[i] & y.b[i]);
}
static inline csn_v csn_v_xor(csn_v x, csn_v y) {
  CSN_V_EACH(x.b[i] ^ y.b[i]);
}
static inline csn_v csn_v_without(csn_v x, csn_v y) {
  CSN_V_EACH(x.b[i] & ~y.b[i]);
}
#define csn_v_behind(before, v, n) csn_v_behind_n(before, v, n)
static inline csn_v csn_v_behind_n(csn_v before, csn_v v, uint32_t n) {
  CSN_V_EACH(i < n ? before.b[CSN_V - n + i] : v.b[i - n]);
}
static inline csn_v csn_v_sub_sat(csn_v x, csn_v y) {
  CSN_V_EACH((uint8_t)x.b[i] > (uint8_t)y.b[i] ? (uint8_t)x.b[i] - (uint8_t)y.b[i] : 0);
}
static inline csn_v csn_v_high_nibbles(csn_v v, csn_v x0f) {
  CSN_V_EACH((uint8_t)v.b[i] >> 4 & x0f.b[i]);
}
static inline csn_v csn_v_lookup(csn_v table, csn_v at) {
  CSN_V_EACH(table.b[at.b[i] & 15]);
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
static inline csn_v csn_v_below(csn_v x, csn_v y) {
  return wasm_i8x16_lt(x, y);
}
static inline csn_v csn_v_or(csn_v x, csn_v y) {
  return wasm_v128_or(x, y);
}
static inline csn_v csn_v_and(csn_v x, csn_v y) {
  return wasm_v128_and(x, y);
}
static inline csn_v csn_v_xor(csn_v x, csn_v y) {
  return wasm_v128_xor(x, y);
}
static inline csn_v csn_v_without(csn_v x, csn_v y) {
  return wasm_v128_andnot(x, y);
}
#define csn_v_behind(before, v, n)                                                                           \
  wasm_i8x16_shuffle(before, v, 16 - n, 17 - n, 18 - n, 19 - n, 20 - n, 21 - n, 22 - n, 23 - n, 24 - n,      \
                     25 - n, 26 - n, 27 - n, 28 - n, 29 - n, 30 - n, 31 - n)
static inline csn_v csn_v_sub_sat(csn_v x, csn_v y) {
  return wasm_u8x16_sub_sat(x, y);
}
/* V8 has no shift of bytes: it would build the mask anew. */
static inline csn_v csn_v_high_nibbles(csn_v v, csn_v x0f) {
  return wasm_v128_and(wasm_u16x8_shr(v, 4), x0f);
}
static inline csn_v csn_v_lookup(csn_v table, csn_v at) {
  return wasm_i8x16_swizzle(table, at);
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
static inline csn_v csn_v_below(csn_v x, csn_v y) {
  return _mm_cmplt_epi8(x, y);
}
static inline csn_v csn_v_or(csn_v x, csn_v y) {
  return _mm_or_si128(x, y);
}
static inline csn_v csn_v_and(csn_v x, csn_v y) {
  return _mm_and_si128(x, y);
}
static inline csn_v csn_v_xor(csn_v x, csn_v y) {
  return _mm_xor_si128(x, y);
}
static inline csn_v csn_v_without(csn_v x, csn_v y) {
  return _mm_andnot_si128(y, x);
}
#define csn_v_behind(before, v, n)                                                                           \
  _mm_or_si128(_mm_slli_si128(v, n), _mm_srli_si128((before), (int)CSN_V - (n)))
static inline csn_v csn_v_sub_sat(csn_v x, csn_v y) {
  return _mm_subs_epu8(x, y);
}
static inline csn_v csn_v_high_nibbles(csn_v v, csn_v x0f) {
  return _mm_and_si128(_mm_srli_epi16(v, 4), x0f);
}
/* SSE2 has no look-up; SSSE3 has. */
static inline csn_v csn_v_lookup(csn_v table, csn_v at) {
#if defined(__SSSE3__)
  return _mm_shuffle_epi8(table, at);
#else
  uint8_t from[CSN_V], to[CSN_V];
  _mm_storeu_si128((csn_v *)from, table);
  _mm_storeu_si128((csn_v *)to, at);
  for (uint32_t i = 0; i < CSN_V; i++)
    to[i] = from[to[i] & 15];
  return csn_v_load(to);
#endif
}
static inline uint32_t csn_v_mask(csn_v v) {
  return (uint32_t)_mm_movemask_epi8(v);
}

#elif defined(__aarch64__)
#include <arm_neon.h>
#define CSN_SIMD_NAME              "neon"
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
static inline csn_v csn_v_below(csn_v x, csn_v y) {
  return vreinterpretq_s8_u8(vcltq_s8(x, y));
}
static inline csn_v csn_v_or(csn_v x, csn_v y) {
  return vorrq_s8(x, y);
}
static inline csn_v csn_v_and(csn_v x, csn_v y) {
  return vandq_s8(x, y);
}
static inline csn_v csn_v_xor(csn_v x, csn_v y) {
  return veorq_s8(x, y);
}
static inline csn_v csn_v_without(csn_v x, csn_v y) {
  return vbicq_s8(x, y);
}
#define csn_v_behind(before, v, n) vextq_s8(before, v, 16 - (n))
static inline csn_v csn_v_sub_sat(csn_v x, csn_v y) {
  return vreinterpretq_s8_u8(vqsubq_u8(vreinterpretq_u8_s8(x), vreinterpretq_u8_s8(y)));
}
static inline csn_v csn_v_high_nibbles(csn_v v, csn_v x0f) {
  return vandq_s8(vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(v), 4)), x0f);
}
static inline csn_v csn_v_lookup(csn_v table, csn_v at) {
  return vqtbl1q_s8(table, vreinterpretq_u8_s8(at));
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

/* A constant block, for a loop to hold: as long as the linker's optimizer does not see what is in it. V8
 * builds a constant that it sees anew, in three instructions, wherever one is used. */
static inline csn_v csn_v_constant(const void *at) {
#if defined(__wasm__)
  __asm__("" : "+r"(at));
#endif
  return csn_v_load(at);
}
static inline csn_v csn_v_splat(csn_splat c) {
  return csn_v_constant(csn_splats[c]);
}

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
