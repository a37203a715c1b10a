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
  CSN_ROLLED
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

/* UTF-8 by look-up, after John Keiser and Daniel Lemire, "Validating UTF-8 in less than one instruction per
 * byte" (2021): what can be wrong with two bytes, one bit each, by the first one's halves and the second
 * one's upper half; where all three agree, it is. */
enum {
  TOO_SHORT = 1,  /* a lead without what it wants */
  TOO_LONG = 2,   /* what nobody wanted behind ASCII */
  LONG_3 = 4,     /* E0 80..9F */
  TOO_LARGE = 8,  /* F4 90.. */
  SURROGATE = 16, /* ED A0.. */
  LONG_2 = 32,    /* C0, C1 */
  LONG_4 = 64,    /* F0 80..8F, and F5.. 80..8F */
  TWO = 128,      /* what follows follows another: right behind a lead of three or four bytes only */
  ANY = TOO_SHORT | TOO_LONG | TWO,
};
static const uint8_t utf8_tables[3][CSN_V] = {
    {TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG, TOO_LONG, TWO, TWO, TWO, TWO,
     TOO_SHORT | LONG_2, TOO_SHORT, TOO_SHORT | LONG_3 | SURROGATE, TOO_SHORT | TOO_LARGE | LONG_4},
    {ANY | LONG_3 | LONG_2 | LONG_4, ANY | LONG_2, ANY, ANY, ANY | TOO_LARGE, ANY | TOO_LARGE | LONG_4,
     ANY | TOO_LARGE | LONG_4, ANY | TOO_LARGE | LONG_4, ANY | TOO_LARGE | LONG_4, ANY | TOO_LARGE | LONG_4,
     ANY | TOO_LARGE | LONG_4, ANY | TOO_LARGE | LONG_4, ANY | TOO_LARGE | LONG_4,
     ANY | TOO_LARGE | LONG_4 | SURROGATE, ANY | TOO_LARGE | LONG_4, ANY | TOO_LARGE | LONG_4},
    {TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT,
     TOO_LONG | LONG_2 | TWO | LONG_3 | LONG_4, TOO_LONG | LONG_2 | TWO | LONG_3 | TOO_LARGE,
     TOO_LONG | LONG_2 | TWO | SURROGATE | TOO_LARGE, TOO_LONG | LONG_2 | TWO | SURROGATE | TOO_LARGE,
     TOO_SHORT, TOO_SHORT, TOO_SHORT, TOO_SHORT}};

typedef struct utf8_rules {
  csn_v first_high, first_low, second_high; /* utf8_tables */
  csn_v nibble, top, three, four;           /* three and four: E0 and F0 less 80 */
} utf8_rules;

static inline utf8_rules utf8_load(void) {
  return (utf8_rules){csn_v_constant(utf8_tables[0]), csn_v_constant(utf8_tables[1]),
                      csn_v_constant(utf8_tables[2]), csn_v_splat(CSN_SPLAT_X0F),
                      csn_v_splat(CSN_SPLAT_X80),     csn_v_splat(CSN_SPLAT_X60),
                      csn_v_splat(CSN_SPLAT_X70)};
}

/* Not 0 where a byte of v is not what the bytes before it want; `before` is the block before v. */
static inline csn_v utf8_wrong(const utf8_rules *r, csn_v before, csn_v v) {
  csn_v first = csn_v_behind(before, v, 1);
  csn_v pair = csn_v_and(csn_v_lookup(r->first_high, csn_v_high_nibbles(first, r->nibble)),
                         csn_v_lookup(r->first_low, csn_v_and(first, r->nibble)));
  pair = csn_v_and(pair, csn_v_lookup(r->second_high, csn_v_high_nibbles(v, r->nibble)));
  csn_v want = csn_v_or(csn_v_sub_sat(csn_v_behind(before, v, 2), r->three),
                        csn_v_sub_sat(csn_v_behind(before, v, 3), r->four));
  return csn_v_xor(csn_v_and(want, r->top), pair);
}

/* Bytes of a sequence that begins in the last three bytes before p and ends behind them; 0 when none does.
 * The bytes there are well-formed so far. */
static uint32_t utf8_open(const uint8_t *p) {
  return p[-1] >= 0xc0 ? 1 : p[-2] >= 0xe0 ? 2 : p[-3] >= 0xf0 ? 3 : 0;
}

/* Takes what is text of the WIDE bytes at p, where a character starts. *stops is set when the byte behind it
 * is not, or is an escape other than of a quote, a backslash, n and t; else the next block is to start there.
 */
static const uint8_t *take_part(const uint8_t *p, uint32_t *seen, bool *stops) {
  const uint64_t odd = 0xaaaaaaaaaaaaaaaau;
  csn_v quote = csn_v_splat(CSN_SPLAT_QUOTE), backslash = csn_v_splat(CSN_SPLAT_BACKSLASH);
  csn_v letter_n = csn_v_splat(CSN_SPLAT_LETTER_N), letter_t = csn_v_splat(CSN_SPLAT_LETTER_T);
  csn_v space = csn_v_splat(CSN_SPLAT_SPACE);
  uint64_t quotes = 0, backslashes = 0, letters = 0, low = 0, high = 0; /* a bit for each byte */
  CSN_ROLLED
  for (uint32_t i = 0; i < WIDE; i += CSN_V) {
    csn_v v = csn_v_load(p + i);
    quotes |= (uint64_t)csn_v_mask(csn_v_same(v, quote)) << i;
    backslashes |= (uint64_t)csn_v_mask(csn_v_same(v, backslash)) << i;
    letters |= (uint64_t)csn_v_mask(csn_v_or(csn_v_same(v, letter_n), csn_v_same(v, letter_t))) << i;
    low |= (uint64_t)csn_v_mask(csn_v_below(v, space)) << i;
    high |= (uint64_t)csn_v_mask(v) << i;
  }
  /* Of each run of backslashes every other one starts an escape, found as simdjson does: the carry of a
   * subtraction goes through a run. */
  uint64_t both = ((backslashes << 1 | odd) - backslashes) ^ odd, escaped = both ^ backslashes;
  uint64_t stop = (quotes & ~escaped) | (escaped & ~(quotes | backslashes | letters)) >> 1;
  stop |= low & ~high;
  uint32_t n = stop != 0 ? (uint32_t)__builtin_ctzll(stop)
                         : WIDE - (uint32_t)((both & backslashes) >> (WIDE - 1)); /* an escape that is cut */
  if (n < WIDE) high &= (1ull << n) - 1;
  if (high != 0) {
    utf8_rules rules = utf8_load();
    csn_v zero = csn_v_xor(quote, quote), before = zero;
    uint64_t bad = 0;
    CSN_ROLLED
    for (uint32_t i = 0; i < WIDE; i += CSN_V) {
      csn_v v = csn_v_load(p + i);
      bad |= (uint64_t)(csn_v_mask(csn_v_same(utf8_wrong(&rules, before, v), zero)) ^ 0xffff) << i;
      before = v;
    }
    if (n + 1 < WIDE) bad &= (2ull << n) - 1; /* byte n is ASCII and ends a sequence, too */
    if (bad != 0) {                           /* back to the sequence that is wrong */
      n = 0;
      for (uint32_t len; (len = p[n] < 0x80 ? 1 : utf8_len(p + n, p + WIDE)) != 0;)
        n += len;
      stop |= 1;
    } else if (n == WIDE) {
      n -= utf8_open(p + WIDE);
    }
  }
  if ((backslashes & (n < WIDE ? (1ull << n) - 1 : ~0ull)) != 0) *seen |= CSN_SCAN_ESCAPE;
  *stops = stop != 0;
  return p + n;
}

const uint8_t *csn_scan_long(const uint8_t *p, const uint8_t *end, uint32_t *seen) {
  while (end - p >= (ptrdiff_t)WIDE) {
    /* Most strings end within a block. */
    bool stops = false;
    p = take_part(p, seen, &stops);
    if (stops) {
      if (*p != '\\') return p;
      uint32_t n = escape_len(p, end, seen);
      if (n == 0) return p;
      p += n;
      continue;
    }
    if (end - p < (ptrdiff_t)WIDE) break;
    csn_v quote = csn_v_splat(CSN_SPLAT_QUOTE), backslash = csn_v_splat(CSN_SPLAT_BACKSLASH);
    csn_v space = csn_v_splat(CSN_SPLAT_SPACE), letter_n = csn_v_splat(CSN_SPLAT_LETTER_N);
    csn_v letter_t = csn_v_splat(CSN_SPLAT_LETTER_T), none = csn_v_xor(quote, quote), any = none;
    csn_v before = none; /* where the bytes before p are backslashes */
    const uint8_t *start = p;
    uint32_t open = 0; /* a sequence before p goes on */
    do {
      csn_v odd = none, low = none, backslashes = none, last = before;
      for (uint32_t i = 0; i < 4; i++) {
        csn_v v = csn_v_load(p + i * CSN_V), b = csn_v_same(v, backslash), after = csn_v_behind(last, b, 1);
        csn_v letter = csn_v_or(csn_v_same(v, letter_n), csn_v_same(v, letter_t));
        /* A quote that is not escaped, or something else that is. */
        odd = csn_v_or(odd, csn_v_xor(csn_v_same(v, quote), csn_v_without(after, letter)));
        low = csn_v_or(low, csn_v_below(v, space)); /* by sign also what is not ASCII */
        backslashes = csn_v_or(backslashes, b);
        last = b;
      }
      if ((csn_v_mask(csn_v_or(odd, low)) | open) != 0) {
        if (csn_v_mask(odd) != 0) break;
        utf8_rules rules = utf8_load();
        csn_v control = none, bad = none, prior = p == start ? none : csn_v_load(p - CSN_V);
        for (uint32_t i = 0; i < 4; i++) {
          csn_v v = csn_v_load(p + i * CSN_V);
          control = csn_v_or(control, csn_v_without(csn_v_below(v, space), v));
          bad = csn_v_or(bad, utf8_wrong(&rules, prior, v));
          prior = v;
        }
        if ((csn_v_mask(control) | (csn_v_mask(csn_v_same(bad, none)) ^ 0xffff)) != 0) break;
        open = (uint32_t)(p[WIDE - 1] >= 0xc0) | (uint32_t)(p[WIDE - 2] >= 0xe0) |
               (uint32_t)(p[WIDE - 3] >= 0xf0);
      }
      any = csn_v_or(any, backslashes);
      before = last;
      p += WIDE;
    } while (end - p >= (ptrdiff_t)WIDE);
    if (csn_v_mask(any) != 0) *seen |= CSN_SCAN_ESCAPE;
    p -= open != 0 ? utf8_open(p)
                   : csn_v_mask(before) >> (CSN_V - 1); /* a sequence or an escape that is cut */
  }
  return csn_scan_bytes(p, end, seen);
}
