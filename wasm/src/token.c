#include "csn/token.h"

#include "csn/b64.h"

#include "bearssl_hash.h"
#include "bearssl_hmac.h"
#include "cJSON.h"

bool csn_equal_secret(const uint8_t *a, const uint8_t *b, uint32_t len) {
  uint32_t diff = 0;
  for (uint32_t i = 0; i < len; i++)
    diff |= (uint32_t)(a[i] ^ b[i]);
  return diff == 0;
}

void csn_hmac_sha256(csn_span key, csn_span text, uint8_t out[32]) {
  br_hmac_key_context kc;
  br_hmac_context ctx;
  br_hmac_key_init(&kc, &br_sha256_vtable, key.ptr, key.len);
  br_hmac_init(&ctx, &kc, 0);
  br_hmac_update(&ctx, text.ptr, text.len);
  br_hmac_out(&ctx, out);
}

/* --- the operator's keys
 * ------------------------------------------------------------------------------------------ */

static csn_err read_name(const cJSON *item, uint32_t min, csn_name *out) {
  csn_span text;
  csn_err err = csn_doc_text(item, min, CSN_NAME_MAX, &text);
  if (err != CSN_ERR_OK) return err;
  out->len = text.len;
  memcpy(out->bytes, text.ptr, text.len);
  return CSN_ERR_OK;
}

/* Letters, digits and : - _ . * only, so that a list of scopes has one reading. */
static bool is_scope(csn_span s) {
  for (uint32_t i = 0; i < s.len; i++) {
    uint8_t c = s.ptr[i];
    bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!plain && c != ':' && c != '-' && c != '_' && c != '.') return false;
  }
  return s.len > 0 && s.len <= CSN_NAME_MAX;
}

/* An array of scopes as one text with spaces. */
static csn_err read_scopes(const cJSON *array, uint8_t *out, uint32_t cap, uint32_t *len) {
  uint32_t count = 0;
  *len = 0;
  if (!cJSON_IsArray(array)) return CSN_ERR_BAD_TYPE;
  for (const cJSON *item = array->child; item != NULL; item = item->next) {
    csn_span text;
    csn_err err = csn_doc_text(item, 1, CSN_NAME_MAX, &text);
    if (err != CSN_ERR_OK) return err;
    if (!is_scope(text)) return CSN_ERR_BAD_VALUE;
    if (++count > CSN_SCOPE_COUNT_MAX || text.len + 1 > cap - *len) return CSN_ERR_TOO_LONG;
    if (*len > 0) out[(*len)++] = ' ';
    memcpy(out + *len, text.ptr, text.len);
    *len += text.len;
  }
  return CSN_ERR_OK;
}

static csn_err read_sign_key(csn_keys *keys, const cJSON *item) {
  csn_span kid, secret;
  if (!cJSON_IsObject(item)) return CSN_ERR_BAD_TYPE;
  if (keys->sign_count == CSN_KEY_COUNT_MAX) return CSN_ERR_TOO_LONG;
  csn_sign_key *k = &keys->sign[keys->sign_count];
  csn_err err = csn_doc_text(cJSON_GetObjectItemCaseSensitive(item, "kid"), 1, CSN_KID_MAX, &kid);
  if (err == CSN_ERR_OK)
    err = csn_doc_text(cJSON_GetObjectItemCaseSensitive(item, "secret"), 1, CSN_B64_TEXT_LEN(CSN_KEY_MAX),
                       &secret);
  if (err != CSN_ERR_OK) return err;
  uint32_t n = csn_b64_get(secret, k->key, CSN_KEY_MAX);
  if (n == UINT32_MAX) return CSN_ERR_BAD_VALUE;
  if (n < CSN_KEY_MIN) return CSN_ERR_OUT_OF_RANGE; /* a short key can be guessed from one token */
  for (uint32_t i = 0; i < keys->sign_count; i++)
    if (keys->sign[i].kid_len == kid.len && memcmp(keys->sign[i].kid, kid.ptr, kid.len) == 0)
      return CSN_ERR_BAD_VALUE;
  memcpy(k->kid, kid.ptr, kid.len);
  k->kid_len = kid.len;
  k->key_len = n;
  keys->sign_count++;
  return CSN_ERR_OK;
}

static void sha256(csn_span text, uint8_t out[32]) {
  br_sha256_context ctx;
  br_sha256_init(&ctx);
  br_sha256_update(&ctx, text.ptr, text.len);
  br_sha256_out(&ctx, out);
}

static csn_err read_hex(csn_span text, uint8_t out[32]) {
  if (text.len != 64) return CSN_ERR_BAD_VALUE;
  for (uint32_t i = 0; i < 64; i++) {
    uint8_t c = text.ptr[i];
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return CSN_ERR_BAD_VALUE;
    uint8_t d = (uint8_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    out[i / 2] = (uint8_t)(i % 2 == 0 ? d << 4 : out[i / 2] | d);
  }
  return CSN_ERR_OK;
}

static csn_err read_api_key(csn_keys *keys, const cJSON *item) {
  csn_span text;
  if (!cJSON_IsObject(item)) return CSN_ERR_BAD_TYPE;
  if (keys->api_count == CSN_API_KEY_MAX) return CSN_ERR_TOO_LONG;
  csn_api_key *k = &keys->api[keys->api_count];
  const cJSON *secret = cJSON_GetObjectItemCaseSensitive(item, "secret");
  const cJSON *digest = cJSON_GetObjectItemCaseSensitive(item, "sha256");
  const cJSON *tenant = cJSON_GetObjectItemCaseSensitive(item, "tenant");
  if ((secret == NULL) == (digest == NULL)) return CSN_ERR_MISSING_FIELD;
  csn_err err = read_name(cJSON_GetObjectItemCaseSensitive(item, "name"), 1, &k->name);
  if (err == CSN_ERR_OK && tenant != NULL) err = read_name(tenant, 1, &k->tenant);
  if (err == CSN_ERR_OK)
    err = read_scopes(cJSON_GetObjectItemCaseSensitive(item, "scopes"), k->scopes, sizeof k->scopes,
                      &k->scopes_len);
  if (err == CSN_ERR_OK) err = csn_doc_text(secret != NULL ? secret : digest, 16, 512, &text);
  if (err != CSN_ERR_OK) return err;
  if (secret != NULL)
    sha256(text, k->digest);
  else
    err = read_hex(text, k->digest);
  if (err == CSN_ERR_OK) keys->api_count++;
  return err;
}

static csn_err read_list(csn_keys *keys, const cJSON *array, csn_pointer *bad,
                         csn_err (*one)(csn_keys *, const cJSON *)) {
  if (!cJSON_IsArray(array)) return CSN_ERR_BAD_TYPE;
  uint32_t base = bad->len, index = 0;
  for (const cJSON *item = array->child; item != NULL; item = item->next) {
    bad->len = base;
    csn_pointer_push_index(bad, index++);
    csn_err err = one(keys, item);
    if (err != CSN_ERR_OK) return err;
  }
  return CSN_ERR_OK;
}

csn_err csn_keys_read(csn_keys *keys, csn_arena *a, csn_span doc, csn_pointer *bad) {
  const cJSON *root;
  memset(keys, 0, sizeof *keys);
  csn_pointer_set(bad, "");
  csn_err err = csn_doc_parse(a, doc, 1024, &root);
  for (const cJSON *item = err == CSN_ERR_OK ? root->child : NULL; item != NULL && err == CSN_ERR_OK;
       item = item->next) {
    csn_span key = csn_span_str(item->string);
    csn_pointer_set(bad, "");
    csn_pointer_push(bad, item->string);
    if (csn_doc_seen_before(root, item))
      err = CSN_ERR_BAD_VALUE;
    else if (csn_span_is(key, "issuer"))
      err = read_name(item, 1, &keys->issuer);
    else if (csn_span_is(key, "audience"))
      err = read_name(item, 1, &keys->audience);
    else if (csn_span_is(key, "keys"))
      err = read_list(keys, item, bad, read_sign_key);
    else if (csn_span_is(key, "api_keys"))
      err = read_list(keys, item, bad, read_api_key);
    else
      err = CSN_ERR_UNKNOWN_FIELD;
  }
  if (err != CSN_ERR_OK) memset(keys, 0, sizeof *keys);
  return err;
}

/* --- verification
 * ------------------------------------------------------------------------------------------------- */

static bool same_text(const cJSON *item, const csn_name *want) {
  if (!cJSON_IsString(item)) return false;
  csn_span s = csn_span_str(item->valuestring);
  return s.len == want->len && memcmp(s.ptr, want->bytes, s.len) == 0;
}

/* Copies a text claim out of the document, which the next parse overwrites, to the head room of the arena. */
static csn_err claim_text(const cJSON *root, const char *name, csn_span *out) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(root, name);
  *out = csn_span_of(NULL, 0);
  if (item == NULL) return CSN_ERR_OK;
  return csn_doc_text(item, 0, CSN_NAME_MAX, out) == CSN_ERR_OK ? CSN_ERR_OK : CSN_ERR_BAD_TOKEN;
}

/* NumericDate: whole or fractional seconds since 1970. */
static csn_err claim_time(const cJSON *root, const char *name, bool required, uint64_t *out) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(root, name);
  *out = 0;
  if (item == NULL) return required ? CSN_ERR_BAD_TOKEN : CSN_ERR_OK;
  if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble < 1e15))
    return CSN_ERR_BAD_TOKEN;
  *out = (uint64_t)item->valuedouble;
  return CSN_ERR_OK;
}

static csn_err claim_scopes(csn_arena *a, const cJSON *root, csn_span *out) {
  const cJSON *text = cJSON_GetObjectItemCaseSensitive(root, "scope");
  const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "scopes");
  uint32_t cap = CSN_SCOPE_COUNT_MAX * (CSN_NAME_MAX + 1);
  *out = csn_span_of(NULL, 0);
  if (text != NULL && list != NULL) return CSN_ERR_BAD_TOKEN;
  if (text != NULL) return csn_doc_text(text, 0, cap, out) == CSN_ERR_OK ? CSN_ERR_OK : CSN_ERR_BAD_TOKEN;
  if (list == NULL) return CSN_ERR_OK;
  uint8_t *room = csn_arena_take(a, cap);
  if (room == NULL) return CSN_ERR_NO_MEMORY;
  uint32_t len;
  if (read_scopes(list, room, cap, &len) != CSN_ERR_OK) return CSN_ERR_BAD_TOKEN;
  *out = csn_span_of(room, len);
  return CSN_ERR_OK;
}

static bool audience_fits(const cJSON *aud, const csn_name *want) {
  if (want->len == 0) return true;
  if (!cJSON_IsArray(aud)) return same_text(aud, want);
  for (const cJSON *item = aud->child; item != NULL; item = item->next)
    if (same_text(item, want)) return true;
  return false;
}

/* The key that the header names. A header without kid fits only when there is one key. */
static csn_err find_key(const csn_keys *keys, csn_arena *a, csn_span header, const csn_sign_key **out) {
  const cJSON *root;
  csn_span kid;
  if (csn_doc_parse(a, header, CSN_TOKEN_VALUES_MAX, &root) != CSN_ERR_OK) return CSN_ERR_BAD_TOKEN;
  const cJSON *alg = cJSON_GetObjectItemCaseSensitive(root, "alg");
  for (const cJSON *item = root->child; item != NULL; item = item->next)
    if (csn_doc_seen_before(root, item)) return CSN_ERR_BAD_TOKEN;
  /* Algorithm confusion: the token does not choose how it is verified. */
  if (!cJSON_IsString(alg) || !csn_span_is(csn_span_str(alg->valuestring), "HS256")) return CSN_ERR_BAD_TOKEN;
  if (cJSON_GetObjectItemCaseSensitive(root, "crit") != NULL) return CSN_ERR_BAD_TOKEN;
  const cJSON *named = cJSON_GetObjectItemCaseSensitive(root, "kid");
  if (named == NULL) {
    *out = &keys->sign[0];
    return keys->sign_count == 1 ? CSN_ERR_OK : CSN_ERR_UNKNOWN_KEY;
  }
  if (csn_doc_text(named, 1, CSN_KID_MAX, &kid) != CSN_ERR_OK) return CSN_ERR_BAD_TOKEN;
  for (uint32_t i = 0; i < keys->sign_count; i++)
    if (keys->sign[i].kid_len == kid.len && memcmp(keys->sign[i].kid, kid.ptr, kid.len) == 0) {
      *out = &keys->sign[i];
      return CSN_ERR_OK;
    }
  return CSN_ERR_UNKNOWN_KEY;
}

csn_err csn_token_verify(const csn_keys *keys, csn_arena *a, csn_span token, uint64_t now_s,
                         csn_claims *out) {
  uint32_t dots[2] = {0, 0}, count = 0;
  const csn_sign_key *key;
  const cJSON *root;
  uint8_t mac[32], sent[32];
  *out = (csn_claims){0};
  if (token.len > CSN_TOKEN_MAX) return CSN_ERR_BAD_TOKEN;
  for (uint32_t i = 0; i < token.len; i++) {
    if (token.ptr[i] != '.') continue;
    if (count == 2) return CSN_ERR_BAD_TOKEN;
    dots[count++] = i;
  }
  if (count != 2) return CSN_ERR_BAD_TOKEN;
  /* The decoded parts stand at the end of the arena, where the parser, which starts at its head, is kept from
   * by the smaller cap. */
  uint32_t room = CSN_B64_BYTES_MAX(CSN_TOKEN_MAX);
  if (a->cap < 8 * room) return CSN_ERR_NO_MEMORY;
  csn_arena head = {a->base, (a->cap - room) & ~7u, 0};
  uint8_t *decoded = a->base + head.cap;
  uint32_t n = csn_b64_get(csn_span_of(token.ptr, dots[0]), decoded, room);
  if (n == UINT32_MAX) return CSN_ERR_BAD_TOKEN;
  csn_err err = find_key(keys, &head, csn_span_of(decoded, n), &key);
  if (err != CSN_ERR_OK) return err;
  csn_hmac_sha256(csn_span_of(key->key, key->key_len), csn_span_of(token.ptr, dots[1]), mac);
  n = csn_b64_get(csn_span_of(token.ptr + dots[1] + 1, token.len - dots[1] - 1), sent, sizeof sent);
  if (n != sizeof sent || !csn_equal_secret(mac, sent, sizeof mac)) return CSN_ERR_BAD_SIGNATURE;
  n = csn_b64_get(csn_span_of(token.ptr + dots[0] + 1, dots[1] - dots[0] - 1), decoded, room);
  if (n == UINT32_MAX ||
      csn_doc_parse(&head, csn_span_of(decoded, n), CSN_TOKEN_VALUES_MAX, &root) != CSN_ERR_OK)
    return CSN_ERR_BAD_TOKEN;
  for (const cJSON *item = root->child; item != NULL; item = item->next)
    if (csn_doc_seen_before(root, item)) return CSN_ERR_BAD_TOKEN; /* two readers would see two tokens */
  err = claim_time(root, "exp", true, &out->expires_s);
  if (err == CSN_ERR_OK) err = claim_time(root, "nbf", false, &out->not_before_s);
  if (err == CSN_ERR_OK) err = claim_time(root, "iat", false, &out->issued_s);
  if (err == CSN_ERR_OK) err = claim_text(root, "sub", &out->subject);
  if (err == CSN_ERR_OK) err = claim_text(root, "tenant", &out->tenant);
  if (err == CSN_ERR_OK) err = claim_text(root, "quota", &out->quota);
  if (err == CSN_ERR_OK) err = claim_text(root, "jti", &out->id);
  if (err == CSN_ERR_OK) err = claim_scopes(&head, root, &out->scopes);
  if (err != CSN_ERR_OK) return err;
  out->kid = csn_span_of(key->kid, key->kid_len);
  if (now_s >= out->expires_s + CSN_TOKEN_LEEWAY_S) return CSN_ERR_TOKEN_EXPIRED;
  if (out->not_before_s > now_s + CSN_TOKEN_LEEWAY_S) return CSN_ERR_TOKEN_NOT_YET;
  if (keys->issuer.len > 0 && !same_text(cJSON_GetObjectItemCaseSensitive(root, "iss"), &keys->issuer))
    return CSN_ERR_WRONG_ISSUER;
  return audience_fits(cJSON_GetObjectItemCaseSensitive(root, "aud"), &keys->audience)
             ? CSN_ERR_OK
             : CSN_ERR_WRONG_AUDIENCE;
}

csn_err csn_api_key_check(const csn_keys *keys, csn_span text, csn_claims *out) {
  uint8_t digest[32];
  uint32_t found = UINT32_MAX;
  *out = (csn_claims){0};
  sha256(text, digest);
  /* Every key is compared, so that the time says nothing about which one fits. */
  for (uint32_t i = 0; i < keys->api_count; i++)
    if (csn_equal_secret(digest, keys->api[i].digest, sizeof digest)) found = i;
  if (found == UINT32_MAX) return CSN_ERR_BAD_SIGNATURE;
  const csn_api_key *k = &keys->api[found];
  out->subject = csn_span_of(k->name.bytes, k->name.len);
  out->tenant = csn_span_of(k->tenant.bytes, k->tenant.len);
  out->scopes = csn_span_of(k->scopes, k->scopes_len);
  out->expires_s = UINT64_MAX;
  return CSN_ERR_OK;
}

/* --- minting
 * ------------------------------------------------------------------------------------------------------ */

static void put_member(csn_fx *fx, const char *name, csn_span text) {
  if (text.len > 0) csn_put_field_raw(fx, name, text);
}

csn_err csn_token_mint(const csn_keys *keys, csn_arena *a, csn_span claims, uint64_t now_s, csn_span *out,
                       csn_pointer *bad) {
  static const char *const texts[] = {"sub", "tenant", "quota", "jti"};
  const cJSON *root;
  csn_span text[4] = {{0}};
  uint32_t life = 0, scopes_len = 0;
  csn_pointer_set(bad, "");
  if (keys->sign_count == 0) return CSN_ERR_UNKNOWN_KEY;
  csn_err err = csn_doc_parse(a, claims, CSN_TOKEN_VALUES_MAX, &root);
  if (err != CSN_ERR_OK) return err;
  uint32_t cap = CSN_SCOPE_COUNT_MAX * (CSN_NAME_MAX + 1);
  uint8_t *scopes = csn_arena_take(a, cap), *body = csn_arena_take(a, CSN_TOKEN_MAX),
          *token = csn_arena_take(a, 2 * CSN_TOKEN_MAX);
  if (token == NULL || scopes == NULL || body == NULL) return CSN_ERR_NO_MEMORY;
  for (const cJSON *item = root->child; item != NULL; item = item->next) {
    csn_span key = csn_span_str(item->string);
    uint32_t t = 0;
    csn_pointer_set(bad, "");
    csn_pointer_push(bad, item->string);
    if (csn_doc_seen_before(root, item)) return CSN_ERR_BAD_VALUE;
    while (t < 4 && !csn_span_is(key, texts[t]))
      t++;
    if (t < 4)
      err = csn_doc_text(item, 1, CSN_NAME_MAX, &text[t]);
    else if (csn_span_is(key, "scopes"))
      err = read_scopes(item, scopes, cap, &scopes_len);
    else if (csn_span_is(key, "expires_in_s"))
      err = csn_doc_number(item, 1, CSN_TOKEN_LIFE_MAX_S, &life);
    else
      err = CSN_ERR_UNKNOWN_FIELD;
    if (err != CSN_ERR_OK) return err;
  }
  csn_pointer_set(bad, life == 0 ? "/expires_in_s" : "/scopes");
  if (life == 0 || scopes_len == 0) return CSN_ERR_MISSING_FIELD;
  const csn_sign_key *k = &keys->sign[0];
  csn_fx fx = {body, CSN_TOKEN_MAX, 0};
  csn_put_str(&fx, "{\"alg\":\"HS256\",\"typ\":\"JWT\"");
  csn_put_field_raw(&fx, "kid", csn_span_of(k->kid, k->kid_len));
  csn_put_str(&fx, "}");
  uint32_t n = csn_b64_put(csn_span_of(body, fx.len), token);
  token[n++] = '.';
  fx.len = 0;
  csn_put_str(&fx, "{\"iat\":");
  csn_put_u64(&fx, now_s);
  csn_put_field_u64(&fx, "exp", now_s + life);
  put_member(&fx, "iss", csn_span_of(keys->issuer.bytes, keys->issuer.len));
  put_member(&fx, "aud", csn_span_of(keys->audience.bytes, keys->audience.len));
  for (uint32_t t = 0; t < 4; t++)
    put_member(&fx, texts[t], text[t]);
  put_member(&fx, "scope", csn_span_of(scopes, scopes_len));
  csn_put_str(&fx, "}");
  n += csn_b64_put(csn_span_of(body, fx.len), token + n);
  uint8_t mac[32];
  csn_hmac_sha256(csn_span_of(k->key, k->key_len), csn_span_of(token, n), mac);
  token[n++] = '.';
  n += csn_b64_put(csn_span_of(mac, sizeof mac), token + n);
  *out = csn_span_of(token, n);
  return n <= CSN_TOKEN_MAX ? CSN_ERR_OK : CSN_ERR_TOO_LONG;
}

/* --- scopes
 * ------------------------------------------------------------------------------------------------------- */

static bool starts_with(csn_span s, csn_span prefix) {
  return s.len >= prefix.len && memcmp(s.ptr, prefix.ptr, prefix.len) == 0;
}

/* Whether one granted scope covers `want` for `id`. */
static bool covers(csn_span scope, csn_span want, csn_span id) {
  if (csn_span_is(scope, "admin")) return true;
  if (!starts_with(scope, want)) return false;
  csn_span rest = csn_span_of(scope.ptr + want.len, scope.len - want.len);
  if (rest.len == 0) return true;
  return id.len > 0 && rest.len == id.len + 1 && rest.ptr[0] == ':' &&
         memcmp(rest.ptr + 1, id.ptr, id.len) == 0;
}

bool csn_scope_allows(csn_span scopes, csn_span want, csn_span id) {
  static const char read[] = "sessions:read", write[] = "sessions:write";
  for (uint32_t at = 0; at < scopes.len;) {
    uint32_t end = at;
    while (end < scopes.len && scopes.ptr[end] != ' ')
      end++;
    csn_span scope = csn_span_of(scopes.ptr + at, end - at);
    at = end + 1;
    if (scope.len == 0) continue;
    if (covers(scope, want, id)) return true;
    if (csn_span_is(want, read) && covers(scope, csn_span_str(write), id)) return true;
  }
  return false;
}
