/* Tokens, sealed values and the audit chain. Known answers: RFC 7515 A.1, RFC 4231, RFC 8439 through
 * BearSSL's own use. */
#include "csn/audit.h"
#include "csn/b64.h"
#include "csn/seal.h"
#include "csn/token.h"

#include "tap.h"

static csn_keys keys;
static _Alignas(8) uint8_t memory[CSN_ARENA_CAP];
static csn_arena arena = {memory, sizeof memory, 0};
static csn_pointer bad;
static csn_claims claims;

#define KEY_A "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
#define KEY_B "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8"

static csn_err read_keys(const char *text) {
  return csn_keys_read(&keys, &arena, csn_span_str(text), &bad);
}
static bool bad_at(const char *pointer) {
  return bad.len == strlen(pointer) && memcmp(bad.bytes, pointer, bad.len) == 0;
}

static void b64(void) {
  uint8_t text[16], bytes[16];
  static const char *const pairs[][2] = {{"", ""},        {"f", "Zg"},        {"fo", "Zm8"},
                                         {"foo", "Zm9v"}, {"foob", "Zm9vYg"}, {"\xff\xef\xfe", "_-_-"}};
  for (unsigned i = 0; i < 6; i++) {
    uint32_t n = csn_b64_put(csn_span_str(pairs[i][0]), text);
    bool put = n == strlen(pairs[i][1]) && memcmp(text, pairs[i][1], n) == 0 &&
               n == CSN_B64_TEXT_LEN(strlen(pairs[i][0]));
    uint32_t m = csn_b64_get(csn_span_str(pairs[i][1]), bytes, sizeof bytes);
    ok(put && m == strlen(pairs[i][0]) && memcmp(bytes, pairs[i][0], m) == 0, "base64url %s", pairs[i][1]);
  }
  static const char *const wrong[] = {"Z", "Zg==", "Zh", "Zm9", "Zm 9", "Zm+v", "Zm/v", "Zm9v\n"};
  for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++)
    ok(csn_b64_get(csn_span_str(wrong[i]), bytes, sizeof bytes) == UINT32_MAX, "refused: %s", wrong[i]);
  ok(csn_b64_get(csn_span_str("Zm9vYg"), bytes, 3) == UINT32_MAX &&
         csn_b64_get(csn_span_str("Zm9v"), bytes, 3) == 3,
     "bounded by cap");
}

static void known_answers(void) {
  uint8_t mac[32];
  csn_hmac_sha256(csn_span_str("Jefe"), csn_span_str("what do ya want for nothing?"), mac);
  static const uint8_t want[4] = {0x5b, 0xdc, 0xc1, 0x46};
  ok(memcmp(mac, want, 4) == 0, "HMAC-SHA-256, RFC 4231 case 2");
  /* The key, the header and the claims of RFC 7515 A.1; its exp is 1300819380. */
  static const char rfc_key[] =
      "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
  static char doc[256];
  snprintf(doc, sizeof doc, "{\"issuer\":\"joe\",\"keys\":[{\"kid\":\"rfc\",\"secret\":\"%s\"}]}", rfc_key);
  ok(read_keys(doc) == CSN_ERR_OK, "the key of RFC 7515 A.1");
  csn_span token = csn_span_str(
      "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9."
      "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ."
      "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
  ok(csn_token_verify(&keys, &arena, token, 1300819379, &claims) == CSN_ERR_OK &&
         claims.expires_s == 1300819380,
     "the token of RFC 7515 A.1");
  ok(csn_token_verify(&keys, &arena, token, 1300819380 + CSN_TOKEN_LEEWAY_S - 1, &claims) == CSN_ERR_OK,
     "the last second");
  ok(csn_token_verify(&keys, &arena, token, 1300819380 + CSN_TOKEN_LEEWAY_S, &claims) ==
         CSN_ERR_TOKEN_EXPIRED,
     "one second more");
}

/* A token with this header and these claims, signed with key `k` of keys. */
static csn_span sign(const char *header, const char *body, uint32_t k) {
  static uint8_t text[16384];
  uint8_t mac[32];
  uint32_t n = csn_b64_put(csn_span_str(header), text);
  text[n++] = '.';
  n += csn_b64_put(csn_span_str(body), text + n);
  csn_hmac_sha256(csn_span_of(keys.sign[k].key, keys.sign[k].key_len), csn_span_of(text, n), mac);
  text[n++] = '.';
  n += csn_b64_put(csn_span_of(mac, 32), text + n);
  return csn_span_of(text, n);
}
static void verdict(const char *what, const char *header, const char *body, uint32_t k, csn_err want) {
  csn_err err = csn_token_verify(&keys, &arena, sign(header, body, k), 1000, &claims);
  ok(err == want, "%s: %d%s", what, want, err == want ? "" : " but not so");
}

#define H_A "{\"alg\":\"HS256\",\"kid\":\"a\"}"
static void verification(void) {
  ok(read_keys("{\"issuer\":\"me\",\"audience\":\"api\",\"keys\":[{\"kid\":\"a\",\"secret\":\"" KEY_A
               "\"},{\"kid\":\"b\",\"secret\":\"" KEY_B "\"}]}") == CSN_ERR_OK,
     "two keys");
  verdict("right", H_A, "{\"exp\":2000,\"iss\":\"me\",\"aud\":\"api\"}", 0, CSN_ERR_OK);
  verdict("audience in a list", H_A, "{\"exp\":2000,\"iss\":\"me\",\"aud\":[\"x\",\"api\"]}", 0, CSN_ERR_OK);
  verdict("the other key", "{\"alg\":\"HS256\",\"kid\":\"b\"}",
          "{\"exp\":2000,\"iss\":\"me\",\"aud\":\"api\"}", 1, CSN_ERR_OK);
  verdict("signed with another key than it names", H_A, "{\"exp\":2000,\"iss\":\"me\",\"aud\":\"api\"}", 1,
          CSN_ERR_BAD_SIGNATURE);
  verdict("a key that is not in use", "{\"alg\":\"HS256\",\"kid\":\"c\"}", "{\"exp\":2000}", 0,
          CSN_ERR_UNKNOWN_KEY);
  verdict("no kid with two keys", "{\"alg\":\"HS256\"}", "{\"exp\":2000}", 0, CSN_ERR_UNKNOWN_KEY);
  verdict("alg none", "{\"alg\":\"none\",\"kid\":\"a\"}", "{\"exp\":2000}", 0, CSN_ERR_BAD_TOKEN);
  verdict("alg in lower case", "{\"alg\":\"hs256\",\"kid\":\"a\"}", "{\"exp\":2000}", 0, CSN_ERR_BAD_TOKEN);
  verdict("alg RS256", "{\"alg\":\"RS256\",\"kid\":\"a\"}", "{\"exp\":2000}", 0, CSN_ERR_BAD_TOKEN);
  verdict("alg twice", "{\"alg\":\"HS256\",\"alg\":\"none\",\"kid\":\"a\"}", "{\"exp\":2000}", 0,
          CSN_ERR_BAD_TOKEN);
  verdict("crit", "{\"alg\":\"HS256\",\"kid\":\"a\",\"crit\":[\"x\"]}", "{\"exp\":2000}", 0,
          CSN_ERR_BAD_TOKEN);
  verdict("another issuer", H_A, "{\"exp\":2000,\"iss\":\"you\",\"aud\":\"api\"}", 0, CSN_ERR_WRONG_ISSUER);
  verdict("no issuer", H_A, "{\"exp\":2000,\"aud\":\"api\"}", 0, CSN_ERR_WRONG_ISSUER);
  verdict("another audience", H_A, "{\"exp\":2000,\"iss\":\"me\",\"aud\":\"web\"}", 0,
          CSN_ERR_WRONG_AUDIENCE);
  verdict("no audience", H_A, "{\"exp\":2000,\"iss\":\"me\"}", 0, CSN_ERR_WRONG_AUDIENCE);
  verdict("expired", H_A, "{\"exp\":900,\"iss\":\"me\",\"aud\":\"api\"}", 0, CSN_ERR_TOKEN_EXPIRED);
  verdict("not yet", H_A, "{\"exp\":2000,\"nbf\":1061,\"iss\":\"me\",\"aud\":\"api\"}", 0,
          CSN_ERR_TOKEN_NOT_YET);
  verdict("nearly", H_A, "{\"exp\":2000,\"nbf\":1060,\"iss\":\"me\",\"aud\":\"api\"}", 0, CSN_ERR_OK);
  verdict("no exp", H_A, "{\"iss\":\"me\",\"aud\":\"api\"}", 0, CSN_ERR_BAD_TOKEN);
  verdict("exp as text", H_A, "{\"exp\":\"2000\",\"iss\":\"me\",\"aud\":\"api\"}", 0, CSN_ERR_BAD_TOKEN);
  verdict("exp below zero", H_A, "{\"exp\":-1,\"iss\":\"me\",\"aud\":\"api\"}", 0, CSN_ERR_BAD_TOKEN);
  verdict("a claim twice", H_A, "{\"exp\":2000,\"exp\":1,\"iss\":\"me\",\"aud\":\"api\"}", 0,
          CSN_ERR_BAD_TOKEN);
  verdict("claims that are no object", H_A, "[1]", 0, CSN_ERR_BAD_TOKEN);
  verdict("claims that are no JSON", H_A, "{", 0, CSN_ERR_BAD_TOKEN);
  static const char *const wrong[] = {"", ".", "..", "a.b", "a.b.c.d", "e30.e30.", "e30.e30.AA"};
  for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++)
    ok(csn_token_verify(&keys, &arena, csn_span_str(wrong[i]), 0, &claims) != CSN_ERR_OK, "no token: %s",
       wrong[i]);
  /* Every single changed byte of a token is seen. */
  static uint8_t copy[512];
  csn_span good = sign(H_A, "{\"exp\":2000,\"iss\":\"me\",\"aud\":\"api\"}", 0);
  uint32_t passed = 0, len = good.len;
  memcpy(copy, good.ptr, len);
  for (uint32_t i = 0; i < len; i++) {
    uint8_t was = copy[i];
    copy[i] = was == 'A' ? 'B' : 'A';
    if (csn_token_verify(&keys, &arena, csn_span_of(copy, len), 1000, &claims) == CSN_ERR_OK) passed++;
    copy[i] = was;
  }
  ok(passed == 0, "no token with a changed byte passes");
}

static void minting(void) {
  csn_span token;
  csn_err err = csn_token_mint(&keys, &arena,
                               csn_span_str("{\"sub\":\"ci "
                                            "\\\"x\\\"\",\"tenant\":\"acme\",\"scopes\":[\"execute\","
                                            "\"sessions:read:s1\"],\"expires_in_s\":60}"),
                               5000, &token, &bad);
  ok(err == CSN_ERR_OK, "minted");
  static uint8_t copy[1024];
  uint32_t len = token.len;
  memcpy(copy, token.ptr, len);
  err = csn_token_verify(&keys, &arena, csn_span_of(copy, len), 5059, &claims);
  ok(err == CSN_ERR_OK && csn_span_is(claims.tenant, "acme") && csn_span_is(claims.subject, "ci \"x\"") &&
         claims.expires_s == 5060 && csn_span_is(claims.scopes, "execute sessions:read:s1") &&
         csn_span_is(claims.kid, "a"),
     "and verified");
  static const struct {
    const char *doc, *pointer;
    csn_err err;
  } wrong[] = {
      {"{\"scopes\":[\"x\"]}", "/expires_in_s", CSN_ERR_MISSING_FIELD},
      {"{\"expires_in_s\":1}", "/scopes", CSN_ERR_MISSING_FIELD},
      {"{\"scopes\":[\"a b\"],\"expires_in_s\":1}", "/scopes", CSN_ERR_BAD_VALUE},
      {"{\"scopes\":[\"a\"],\"expires_in_s\":0}", "/expires_in_s", CSN_ERR_OUT_OF_RANGE},
      {"{\"scopes\":[\"a\"],\"expires_in_s\":31622401}", "/expires_in_s", CSN_ERR_OUT_OF_RANGE},
      {"{\"iss\":\"x\"}", "/iss", CSN_ERR_UNKNOWN_FIELD},
  };
  for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++)
    ok(csn_token_mint(&keys, &arena, csn_span_str(wrong[i].doc), 0, &token, &bad) == wrong[i].err &&
           bad_at(wrong[i].pointer),
       "not minted: %s", wrong[i].doc);
}

static void key_documents(void) {
  static const struct {
    const char *doc, *pointer;
    csn_err err;
  } wrong[] = {
      {"{\"keys\":[{\"kid\":\"a\",\"secret\":\"c2hvcnQ\"}]}", "/keys/0", CSN_ERR_OUT_OF_RANGE},
      {"{\"keys\":[{\"kid\":\"a\",\"secret\":\"" KEY_A "=\"}]}", "/keys/0", CSN_ERR_BAD_VALUE},
      {"{\"keys\":[{\"kid\":\"a\",\"secret\":\"" KEY_A "\"},{\"kid\":\"a\",\"secret\":\"" KEY_B "\"}]}",
       "/keys/1", CSN_ERR_BAD_VALUE},
      {"{\"keys\":[{\"secret\":\"" KEY_A "\"}]}", "/keys/0", CSN_ERR_BAD_TYPE},
      {"{\"api_keys\":[{\"name\":\"n\",\"scopes\":[]}]}", "/api_keys/0", CSN_ERR_MISSING_FIELD},
      {"{\"api_keys\":[{\"name\":\"n\",\"secret\":\"short\",\"scopes\":[]}]}", "/api_keys/0",
       CSN_ERR_BAD_VALUE},
      {"{\"what\":1}", "/what", CSN_ERR_UNKNOWN_FIELD},
  };
  for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    csn_err err = read_keys(wrong[i].doc);
    ok(err != CSN_ERR_OK && keys.sign_count == 0 && bad_at(wrong[i].pointer), "refused at %s: %d",
       wrong[i].pointer, err);
  }
  ok(read_keys(
         "{\"api_keys\":[{\"name\":\"ci\",\"tenant\":\"acme\",\"secret\":\"correct horse "
         "battery\",\"scopes\":[\"execute\"]},"
         "{\"name\":\"ops\",\"sha256\":\"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\","
         "\"scopes\":[\"admin\"]}]}") == CSN_ERR_OK,
     "static keys");
  ok(csn_api_key_check(&keys, csn_span_str("correct horse battery"), &claims) == CSN_ERR_OK &&
         csn_span_is(claims.tenant, "acme"),
     "by text");
  ok(csn_api_key_check(&keys, csn_span_str("test"), &claims) == CSN_ERR_OK &&
         csn_span_is(claims.subject, "ops"),
     "by digest");
  ok(csn_api_key_check(&keys, csn_span_str("correct horse batter"), &claims) == CSN_ERR_BAD_SIGNATURE,
     "not by less");
  ok(csn_api_key_check(&keys, csn_span_str(""), &claims) == CSN_ERR_BAD_SIGNATURE, "not by nothing");
}

static void scope(const char *scopes, const char *want, const char *id, bool yes) {
  ok(csn_scope_allows(csn_span_str(scopes), csn_span_str(want), csn_span_str(id)) == yes, "[%s] %s %s %s",
     scopes, yes ? "allows" : "does not allow", want, id);
}

static void sealing(void) {
  csn_seal_keys k = {{{2, {1, 2, 3}}, {1, {9, 9, 9}}}}, old = {{{1, {9, 9, 9}}}}, other = {{{2, {1, 2, 4}}}};
  uint8_t nonce[12] = {7}, sealed[128], text[128];
  uint32_t len, n = csn_seal(&k, csn_span_str("s1"), csn_span_str("TOKEN"), nonce,
                             csn_span_str("hunter2 hunter2"), sealed);
  ok(n == 15 + CSN_SEAL_OVERHEAD, "sealed");
  ok(csn_unseal(&k, csn_span_str("s1"), csn_span_str("TOKEN"), csn_span_of(sealed, n), text, &len) ==
             CSN_ERR_OK &&
         len == 15 && memcmp(text, "hunter2 hunter2", 15) == 0,
     "opened");
  ok(csn_unseal(&k, csn_span_str("s2"), csn_span_str("TOKEN"), csn_span_of(sealed, n), text, &len) ==
             CSN_ERR_BAD_SEAL &&
         len == 0,
     "not in another session");
  ok(csn_unseal(&k, csn_span_str("s1"), csn_span_str("OTHER"), csn_span_of(sealed, n), text, &len) ==
         CSN_ERR_BAD_SEAL,
     "not under another name");
  ok(csn_unseal(&other, csn_span_str("s1"), csn_span_str("TOKEN"), csn_span_of(sealed, n), text, &len) ==
         CSN_ERR_BAD_SEAL,
     "not with another key");
  uint32_t opened = 0;
  for (uint32_t i = 0; i < n; i++) {
    sealed[i] ^= 1;
    if (csn_unseal(&k, csn_span_str("s1"), csn_span_str("TOKEN"), csn_span_of(sealed, n), text, &len) ==
        CSN_ERR_OK)
      opened++;
    sealed[i] ^= 1;
  }
  ok(opened == 0, "not with a changed byte");
  ok(csn_unseal(&k, csn_span_str("s1"), csn_span_str("TOKEN"), csn_span_of(sealed, n - 1), text, &len) ==
         CSN_ERR_BAD_SEAL,
     "not cut");
  n = csn_seal(&old, csn_span_str("s1"), csn_span_str("T"), nonce, csn_span_str(""), sealed);
  ok(csn_unseal(&k, csn_span_str("s1"), csn_span_str("T"), csn_span_of(sealed, n), text, &len) ==
             CSN_ERR_OK &&
         len == 0,
     "a key that was rotated out still opens");
  csn_seal_keys none = {0};
  ok(csn_seal(&none, csn_span_str("s1"), csn_span_str("T"), nonce, csn_span_str("x"), sealed) == 0,
     "no key, no seal");
}

static void auditing(void) {
  csn_audit a, b;
  csn_audit_init(&a, csn_span_str("s1"));
  csn_audit_init(&b, csn_span_str("s2"));
  ok(memcmp(a.head, b.head, 32) != 0, "each log has a beginning of its own");
  csn_audit_init(&b, csn_span_str("s1"));
  csn_audit_push(&a, csn_span_str("one"));
  csn_audit_push(&a, csn_span_str("two"));
  csn_audit_push(&b, csn_span_str("two"));
  csn_audit_push(&b, csn_span_str("one"));
  ok(memcmp(a.head, b.head, 32) != 0 && a.count == 2, "order counts");
}

int main(void) {
  b64();
  known_answers();
  verification();
  minting();
  key_documents();
  scope("sessions:read", "sessions:read", "s1", true);
  scope("sessions:read:s1", "sessions:read", "s1", true);
  scope("sessions:read:s1", "sessions:read", "s2", false);
  scope("sessions:read:s1", "sessions:read", "s10", false);
  scope("sessions:read:s1", "sessions:read", "", false);
  scope("sessions:write", "sessions:read", "s1", true);
  scope("sessions:read", "sessions:write", "s1", false);
  scope("execute", "sessions:read", "", false);
  scope("x admin", "anything", "", true);
  scope("administrator", "execute", "", false);
  scope("executed", "execute", "", false);
  scope("", "execute", "", false);
  scope("execute:", "execute", "", false);
  sealing();
  auditing();
  return done();
}
