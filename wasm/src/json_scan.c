#include "json_scan.h"

#define CSN_X_SPLAT(name, value)                                                                             \
  {value, value, value, value, value, value, value, value,                                                   \
   value, value, value, value, value, value, value, value},
const int8_t csn_splats[CSN_SPLAT_END][CSN_V] = {CSN_SPLAT_TABLE(CSN_X_SPLAT)};
#undef CSN_X_SPLAT

#define WIDE (4 * CSN_V) /* bytes looked at together */

/* By the byte behind a backslash: 1 when the escape is two bytes long. */
static const uint8_t simple[256] = {
    ['"'] = 1, ['\\'] = 1, ['/'] = 1, ['b'] = 1, ['f'] = 1, ['n'] = 1, ['r'] = 1, ['t'] = 1};

static bool is_hex(uint8_t c) {
  return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f');
}

/* Bytes of the escape at p when it is whole and legal, else 0. */
static uint32_t escape_len(const uint8_t *p, const uint8_t *end, uint32_t *seen) {
  *seen |= CSN_SCAN_ESCAPE;
  if (end - p < 2) return 0;
  if (simple[p[1]]) return 2;
  if (end - p < 6 || p[1] != 'u') return 0;
  for (uint32_t i = 2; i < 6; i++)
    if (!is_hex(p[i])) return 0;
  if (memcmp(p + 2, "0000", 4) == 0) *seen |= CSN_SCAN_NUL;
  return 6;
}

static uint32_t utf8_len(const uint8_t *p, const uint8_t *end) {
  uint32_t bad;
  return csn_utf8_len(csn_span_of(p, end - p < 4 ? (uint32_t)(end - p) : 4), &bad);
}

const uint8_t *csn_scan_bytes(const uint8_t *p, const uint8_t *end, uint32_t *seen) {
  while (p < end && *p >= 0x20 && *p != '"') {
    uint32_t n = *p == '\\' ? escape_len(p, end, seen) : *p < 0x80 ? 1 : utf8_len(p, end);
    if (n == 0) return p;
    p += n;
  }
  return p;
}

/* Of the first n bytes of a block, n <= CSN_V, which start with a character: how many are whole, well-formed
 * sequences, n - 3 to n when all but the last one are; 0 when they have to be looked at more closely. */
static inline uint32_t utf8_block(csn_v v, uint32_t high, uint32_t n) {
  uint32_t tail = csn_v_mask(csn_v_less(v, CSN_SPLAT_XC0));           /* 80..BF */
  uint32_t two = high & ~csn_v_mask(csn_v_less(v, CSN_SPLAT_XC2));    /* C2.. */
  uint32_t three = high & ~csn_v_mask(csn_v_less(v, CSN_SPLAT_XE0));  /* E0.. */
  uint32_t four = high & ~csn_v_mask(csn_v_less(v, CSN_SPLAT_XF0));   /* F0.. */
  uint32_t beyond = high & ~csn_v_mask(csn_v_less(v, CSN_SPLAT_XF4)); /* F4.., of which most are wrong */
  /* E0, ED and F0 want a second byte of a narrower range. */
  uint32_t narrow = csn_v_mask(csn_v_or(csn_v_eq(v, CSN_SPLAT_XE0), csn_v_eq(v, CSN_SPLAT_XED)));
  uint32_t low = csn_v_mask(csn_v_less(v, CSN_SPLAT_X90)); /* 80..8F */
  uint32_t want = two << 1 | three << 2 | four << 3;
  uint32_t wrong = (want ^ tail) | (high & ~(tail | two)) | narrow | beyond |
                   (csn_v_mask(csn_v_eq(v, CSN_SPLAT_XF0)) << 1 & low);
  uint32_t in = (1u << n) - 1;
  if ((wrong & in) != 0) return 0;
  if ((want & ~in & (in + 1) * 7) == 0) return n;
  uint32_t lead = 31u - (uint32_t)__builtin_clz(two & in);
  return n - lead <= 3 ? lead : 0;
}

const uint8_t *csn_scan_long(const uint8_t *p, const uint8_t *end, uint32_t *seen) {
  while (end - p >= (ptrdiff_t)CSN_V) {
    csn_v v = csn_v_load(p);
    csn_v quotes = csn_v_eq(v, CSN_SPLAT_QUOTE), backslashes = csn_v_eq(v, CSN_SPLAT_BACKSLASH);
    /* Below a space by sign is also what is not ASCII. */
    uint32_t stop = csn_v_mask(csn_v_or(csn_v_or(quotes, backslashes), csn_v_less(v, CSN_SPLAT_SPACE)));
    if (stop == 0) {
      p += CSN_V;
      continue;
    }
    uint32_t high = csn_v_mask(v), n = CSN_V, backslash = 0;
    stop &= ~high;
    if (stop != 0) {
      backslash = csn_v_mask(backslashes);
      if (backslash != 0) {
        csn_v common =
            csn_v_or(csn_v_or(csn_v_eq(v, CSN_SPLAT_LETTER_N), csn_v_eq(v, CSN_SPLAT_LETTER_T)), quotes);
        uint32_t escaped = backslash << 1;
        uint32_t rare = (escaped & ~csn_v_mask(common)) | 1u << CSN_V; /* the bit behind the block ends it */
        stop = (stop & ~backslash & ~escaped) | (rare >> 1 & backslash);
      }
      if (stop != 0) n = (uint32_t)__builtin_ctz(stop);
    }
    if (n < CSN_V) high &= (1u << n) - 1;
    uint32_t taken = n, wrong = 0;
    if (high != 0) {
      taken = utf8_block(v, high, n);
      if (taken == 0) {
        taken = (uint32_t)__builtin_ctz(high);
        uint32_t len = utf8_len(p + taken, end);
        wrong = len == 0;
        taken += len;
      }
    }
    if ((backslash & ((1u << taken) - 1)) != 0) *seen |= CSN_SCAN_ESCAPE;
    p += taken;
    if (wrong) return p;
    if (taken < n || n == CSN_V) continue;
    if (*p != '\\') return p;
    n = escape_len(p, end, seen);
    if (n == 0) return p;
    p += n;
  }
  return csn_scan_bytes(p, end, seen);
}
