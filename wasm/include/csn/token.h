/* csn/token.h - who a caller is: bearer tokens (JWT, RFC 7519, HS256 only) and static API keys.
 *
 * Input:  hostile tokens; keys and expectations of the operator.
 * Output: claims, whose spans lie in the arena until its next use.
 * Memory: caller's; keys live in csn_keys and in no snapshot.
 * Errors: the -400 band. A token that cannot be verified says nothing else: its claims are not looked at.
 * Comparisons of secrets take the same time wherever they differ. */
#ifndef CSN_TOKEN_H
#define CSN_TOKEN_H

#include "csn/doc.h"

#define CSN_TOKEN_MAX        8192u /* bytes: a token */
#define CSN_TOKEN_VALUES_MAX 128u  /* items: values in a token's header or claims */
#define CSN_KEY_COUNT_MAX                                                                                    \
  8u /* items: signing keys at once; one is used, the others are being rotated in or out */
#define CSN_KEY_MIN          32u  /* bytes: RFC 7518 section 3.2 wants the hash's own length at least */
#define CSN_KEY_MAX          128u /* bytes */
#define CSN_KID_MAX          64u  /* bytes */
#define CSN_API_KEY_MAX      32u  /* items: static API keys */
#define CSN_NAME_MAX         128u /* bytes: issuer, audience, subject, tenant, quota class, token id, one scope */
#define CSN_SCOPE_COUNT_MAX  32u       /* items */
#define CSN_TOKEN_LEEWAY_S   60u       /* seconds by which clocks may differ */
#define CSN_TOKEN_LIFE_MAX_S 31622400u /* seconds: 366 days, for tokens minted here */

typedef struct csn_name {
  uint32_t len; /* bytes */
  uint8_t bytes[CSN_NAME_MAX];
} csn_name;

typedef struct csn_sign_key {
  uint32_t kid_len, key_len; /* bytes */
  uint8_t kid[CSN_KID_MAX], key[CSN_KEY_MAX];
} csn_sign_key;

/* A static key is kept as the SHA-256 of its text. */
typedef struct csn_api_key {
  uint8_t digest[32];
  csn_name name, tenant;
  uint32_t scopes_len; /* bytes; scopes separated by spaces */
  uint8_t scopes[512];
} csn_api_key;

typedef struct csn_keys {
  csn_name issuer, audience; /* empty: not checked, and not put into minted tokens */
  uint32_t sign_count, api_count;
  csn_sign_key sign[CSN_KEY_COUNT_MAX]; /* the first one signs */
  csn_api_key api[CSN_API_KEY_MAX];
} csn_keys;

typedef struct csn_claims {
  csn_span subject, tenant, quota, id, kid; /* empty when not given */
  csn_span scopes;                          /* separated by spaces */
  uint64_t expires_s, not_before_s, issued_s;
} csn_claims;

/* {"issuer"?, "audience"?, "keys"?: [{"kid", "secret": base64url of 32..128 bytes}],
 *  "api_keys"?: [{"name", "secret" or "sha256": hex, "tenant"?, "scopes": ["..."]}]}. *keys is empty after an
 * error. */
csn_err csn_keys_read(csn_keys *keys, csn_arena *a, csn_span doc, csn_pointer *bad);

/* `now_s`: Unix time. Only HS256 is a signature here; "none" and asymmetric names are not looked up anywhere.
 * A token without exp is refused. */
csn_err csn_token_verify(const csn_keys *keys, csn_arena *a, csn_span token, uint64_t now_s, csn_claims *out);
/* {"sub"?, "tenant"?, "quota"?, "jti"?, "scopes": [...], "expires_in_s"}: the token's text goes to *out (in
 * the arena). */
csn_err csn_token_mint(const csn_keys *keys, csn_arena *a, csn_span claims, uint64_t now_s, csn_span *out,
                       csn_pointer *bad);
/* A static key as the caller sent it. Looks at every key, whichever fits. CSN_ERR_BAD_SIGNATURE when none
 * does. */
csn_err csn_api_key_check(const csn_keys *keys, csn_span text, csn_claims *out);

/* Whether scopes has `want`, `want:<id>` for this id, or a scope that includes it: `sessions:write` includes
 * `sessions:read`, `admin` includes all. `id` is empty for a question about no single object. A scope with an
 * id never answers a question without one. */
bool csn_scope_allows(csn_span scopes, csn_span want, csn_span id);

/* Same time wherever a and b differ; the lengths are not secret. */
bool csn_equal_secret(const uint8_t *a, const uint8_t *b, uint32_t len);
void csn_hmac_sha256(csn_span key, csn_span text, uint8_t out[32]);

#endif
