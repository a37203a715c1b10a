/* csn/b64.h - base64url without padding, RFC 4648 section 5, as JWS uses it: one text for each value.
 *
 * Errors: padding, white space, other characters, and bits left over that are not zero are refused. */
#ifndef CSN_B64_H
#define CSN_B64_H

#include "csn/base.h"

/* Bytes that `len` bytes become, resp. at most come from `len` characters. */
#define CSN_B64_TEXT_LEN(len)  (((len) / 3) * 4 + ((len) % 3 == 0 ? 0 : (len) % 3 + 1))
#define CSN_B64_BYTES_MAX(len) ((len) / 4 * 3 + 2)

/* Returns the length of the text; `out` has CSN_B64_TEXT_LEN bytes. */
uint32_t csn_b64_put(csn_span bytes, uint8_t *out);
/* Returns the number of bytes, UINT32_MAX when the text is refused or longer than `cap` bytes. Not constant
 * time: use it for public text, or for keys before they are in use. */
uint32_t csn_b64_get(csn_span text, uint8_t *out, uint32_t cap);

#endif
