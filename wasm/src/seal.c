#include "csn/seal.h"

#include "bearssl_block.h"
#include "bearssl_hash.h"
#include "bearssl_hmac.h"
#include "bearssl_kdf.h"

static void session_key(const csn_seal_key *k, csn_span session, uint8_t out[32]) {
  static const uint8_t info[] = {'c', 'a', 'i', 's', 's', 'o', 'n', ' ', 's', 'e', 'a', 'l', ' ', '1'};
  br_hkdf_context hc;
  br_hkdf_init(&hc, &br_sha256_vtable, session.ptr, session.len);
  br_hkdf_inject(&hc, k->key, sizeof k->key);
  br_hkdf_flip(&hc);
  br_hkdf_produce(&hc, info, sizeof info, out, 32);
}

/* The key version is part of what is authenticated: key[0] = version, then the name. */
static void run(const uint8_t key[32], const uint8_t *nonce, uint8_t version, csn_span name, uint8_t *data,
                uint32_t len, uint8_t tag[CSN_SEAL_TAG], int encrypt) {
  uint8_t aad[2 + 256];
  CSN_INVARIANT(name.len <= 256);
  aad[0] = 1;
  aad[1] = version;
  memcpy(aad + 2, name.ptr, name.len);
  br_poly1305_ctmul_run(key, nonce, data, len, aad, 2 + name.len, tag, &br_chacha20_ct_run, encrypt);
}

uint32_t csn_seal(const csn_seal_keys *keys, csn_span session, csn_span name,
                  const uint8_t nonce[CSN_SEAL_NONCE], csn_span secret, uint8_t *out) {
  uint8_t key[32];
  const csn_seal_key *k = &keys->key[0];
  if (k->version == 0 || secret.len > CSN_SECRET_MAX || name.len == 0 || name.len > 256) return 0;
  session_key(k, session, key);
  out[0] = 1;
  out[1] = k->version;
  memcpy(out + 2, nonce, CSN_SEAL_NONCE);
  uint8_t *text = out + 2 + CSN_SEAL_NONCE;
  if (secret.len > 0) memcpy(text, secret.ptr, secret.len);
  run(key, nonce, k->version, name, text, secret.len, text + secret.len, 1);
  memset(key, 0, sizeof key);
  return secret.len + CSN_SEAL_OVERHEAD;
}

csn_err csn_unseal(const csn_seal_keys *keys, csn_span session, csn_span name, csn_span sealed, uint8_t *out,
                   uint32_t *len) {
  uint8_t key[32], tag[CSN_SEAL_TAG];
  const csn_seal_key *k = NULL;
  *len = 0;
  if (sealed.len < CSN_SEAL_OVERHEAD || sealed.len > CSN_SECRET_MAX + CSN_SEAL_OVERHEAD ||
      sealed.ptr[0] != 1 || sealed.ptr[1] == 0)
    return CSN_ERR_BAD_SEAL;
  if (name.len == 0 || name.len > 256) return CSN_ERR_BAD_SEAL;
  for (uint32_t i = 0; i < CSN_SEAL_KEYS_MAX; i++)
    if (keys->key[i].version == sealed.ptr[1]) k = &keys->key[i];
  if (k == NULL) return CSN_ERR_BAD_SEAL;
  uint32_t n = sealed.len - CSN_SEAL_OVERHEAD;
  const uint8_t *text = sealed.ptr + 2 + CSN_SEAL_NONCE;
  session_key(k, session, key);
  if (n > 0) memcpy(out, text, n);
  run(key, sealed.ptr + 2, k->version, name, out, n, tag, 0);
  uint32_t diff = 0;
  for (uint32_t i = 0; i < CSN_SEAL_TAG; i++)
    diff |= (uint32_t)(tag[i] ^ text[n + i]);
  memset(key, 0, sizeof key);
  if (diff != 0) {
    memset(out, 0, n);
    return CSN_ERR_BAD_SEAL;
  }
  *len = n;
  return CSN_ERR_OK;
}
