/* Tokens that an attacker makes, with and without a right signature. Oracle: without one, nothing passes. */
#include "csn/b64.h"
#include "csn/seal.h"
#include "csn/token.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static csn_keys keys;
static _Alignas(8) uint8_t memory[CSN_ARENA_CAP];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char doc[] = "{\"issuer\":\"i\",\"keys\":[{\"kid\":\"a\",\"secret\":"
                            "\"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\"}]}";
  csn_arena a = {memory, sizeof memory, 0};
  csn_pointer bad;
  csn_claims claims;
  csn_span token, in = csn_span_of(data, (uint32_t)size);
  if (keys.sign_count == 0 && csn_keys_read(&keys, &a, csn_span_str(doc), &bad) != CSN_ERR_OK) abort();
  if (csn_token_verify(&keys, &a, in, 1000, &claims) == CSN_ERR_OK) abort();
  csn_token_mint(&keys, &a, in, 1000, &token, &bad);
  static csn_keys other;
  csn_keys_read(&other, &a, in, &bad);
  /* The input is a header, a newline and claims, rightly signed: whatever passes has an issuer and an expiry.
   */
  static uint8_t text[CSN_TOKEN_MAX * 2];
  const uint8_t *split = size > 0 ? memchr(data, '\n', size) : NULL;
  if (split != NULL && size < 4096) {
    uint32_t n = csn_b64_put(csn_span_of(data, (uint32_t)(split - data)), text);
    text[n++] = '.';
    n += csn_b64_put(csn_span_of(split + 1, (uint32_t)(data + size - split - 1)), text + n);
    uint8_t mac[32];
    csn_hmac_sha256(csn_span_of(keys.sign[0].key, keys.sign[0].key_len), csn_span_of(text, n), mac);
    text[n++] = '.';
    n += csn_b64_put(csn_span_of(mac, 32), text + n);
    if (csn_token_verify(&keys, &a, csn_span_of(text, n), 1000, &claims) == CSN_ERR_OK) {
      if (claims.expires_s + CSN_TOKEN_LEEWAY_S <= 1000) abort();
      csn_scope_allows(claims.scopes, csn_span_str("sessions:read"), csn_span_str("s1"));
    }
  }
  static uint8_t out[8192];
  uint32_t len;
  csn_seal_keys seals = {{{1, {1}}}};
  if (size <= sizeof out &&
      csn_unseal(&seals, csn_span_str("s"), csn_span_str("n"), in, out, &len) == CSN_ERR_OK)
    abort();
  return 0;
}
