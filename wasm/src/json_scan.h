/* json_scan.h - the inside of JSON strings, a block at a time. */
#ifndef CSN_JSON_SCAN_H
#define CSN_JSON_SCAN_H

#include "csn/base.h"
#include "simd.h"

enum { CSN_SCAN_ESCAPE = 1, CSN_SCAN_NUL = 2 }; /* what a string holds */

/* From p inside a string, where a character starts, to the first byte that is not text of it: its closing
 * quote, a byte that must not be there, the start of an escape or a UTF-8 sequence that is not whole, or end.
 * Adds to *seen. */
__attribute__((noinline)) const uint8_t *csn_scan_long(const uint8_t *p, const uint8_t *end, uint32_t *seen);
/* The same byte by byte. */
const uint8_t *csn_scan_bytes(const uint8_t *p, const uint8_t *end, uint32_t *seen);

/* csn_scan_long; short plain strings are read right here. */
static inline const uint8_t *csn_scan_string(const uint8_t *p, const uint8_t *end, uint32_t *seen) {
  if (end - p >= (ptrdiff_t)CSN_V) {
    uint32_t special = csn_v_special(csn_v_load(p));
    p += special != 0 ? (uint32_t)__builtin_ctz(special) : CSN_V;
    if (special != 0 && *p == '"') return p;
  }
  return csn_scan_long(p, end, seen);
}

#endif
