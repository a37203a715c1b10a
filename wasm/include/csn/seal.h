/* csn/seal.h - secrets at rest: ChaCha20-Poly1305 (RFC 8439) under a key of the session's own, from the
 * operator's key by HKDF (RFC 5869).
 *
 * Input:  a master key with its version, a context (session and name of the secret), a nonce that the host
 * draws at random. Output: version byte 1, key version, nonce, ciphertext, tag. Memory: the caller's. Errors:
 * CSN_ERR_BAD_SEAL says nothing about why. */
#ifndef CSN_SEAL_H
#define CSN_SEAL_H

#include "csn/base.h"

#define CSN_SEAL_NONCE    12u
#define CSN_SEAL_TAG      16u
#define CSN_SEAL_OVERHEAD (2u + CSN_SEAL_NONCE + CSN_SEAL_TAG)
#define CSN_SEAL_KEYS_MAX 4u     /* items: master keys at once; the first one seals, the others open */
#define CSN_SECRET_MAX    65536u /* bytes: a secret */

typedef struct csn_seal_key {
  uint8_t version; /* 1..255; 0: no key */
  uint8_t key[32];
} csn_seal_key;
typedef struct csn_seal_keys {
  csn_seal_key key[CSN_SEAL_KEYS_MAX];
} csn_seal_keys;

/* `session` makes the key, `name` is authenticated with the text: a sealed value opens only where it was
 * sealed. `out` has secret.len + CSN_SEAL_OVERHEAD bytes; the length is returned, 0 when there is no key or
 * the secret is too long. */
uint32_t csn_seal(const csn_seal_keys *keys, csn_span session, csn_span name,
                  const uint8_t nonce[CSN_SEAL_NONCE], csn_span secret, uint8_t *out);
/* `out` has sealed.len bytes. Any change of the sealed bytes, the session or the name is CSN_ERR_BAD_SEAL,
 * and *len is 0. */
csn_err csn_unseal(const csn_seal_keys *keys, csn_span session, csn_span name, csn_span sealed, uint8_t *out,
                   uint32_t *len);

#endif
