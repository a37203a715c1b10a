/* caisson_token.c - makes signing keys, mints and inspects bearer tokens, as the Worker does. */
#include "csn/b64.h"
#include "csn/token.h"

#include "error_text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

static const char usage_text[] =
    "usage: caisson-token keygen [KID]\n"
    "       caisson-token mint   --keys FILE --scope SCOPE... [--sub NAME] [--tenant NAME] [--quota CLASS] "
    "[--id ID] [--expires-in S]\n"
    "       caisson-token verify --keys FILE < token\n"
    "\n"
    "keygen prints a keys document with one new key; that text is the Worker's secret CAISSON_KEYS.\n"
    "mint prints a token signed with the document's first key; verify prints the claims of one, or why it is "
    "refused.\n"
    "\n"
    "Scopes: admin, execute, sessions:read, sessions:write, preview, terminal, approve; each but admin may "
    "end in\n"
    ":SESSION for one session. A token without --expires-in is valid for an hour.\n"
    "\n"
    "Exit status: 0, 1 when a token is refused, 64 for a bad call, 65 for a bad keys document, 66 when a "
    "file cannot be read.\n";

static csn_keys keys;
static csn_arena arena;
static csn_pointer bad;

static void fail(int status, const char *what, const char *detail) {
  fprintf(stderr, "caisson-token: %s: %s\n", what, detail);
  exit(status);
}

static void read_keys(const char *name) {
  static char text[65536];
  FILE *f = fopen(name, "rb");
  if (f == NULL) fail(66, name, strerror(errno));
  size_t len = fread(text, 1, sizeof text, f);
  if (ferror(f)) fail(66, name, strerror(errno));
  fclose(f);
  csn_err err = csn_keys_read(&keys, &arena, csn_span_of(text, (uint32_t)len), &bad);
  memset(text, 0, sizeof text);
  if (err == CSN_ERR_OK) return;
  fprintf(stderr, "caisson-token: %s: at \"%.*s\": %s\n", name, (int)bad.len, (const char *)bad.bytes,
          error_text(err));
  exit(65);
}

static int keygen(const char *kid) {
  uint8_t key[32], text[64];
  if (getrandom(key, sizeof key, 0) != (ssize_t)sizeof key) fail(70, "getrandom", strerror(errno));
  uint32_t n = csn_b64_put(csn_span_of(key, sizeof key), text);
  printf(
      "{\"issuer\":\"caisson\",\"audience\":\"caisson\",\"keys\":[{\"kid\":\"%s\",\"secret\":\"%.*s\"}]}\n",
      kid, (int)n, (const char *)text);
  return 0;
}

static int verify(void) {
  static char text[CSN_TOKEN_MAX + 2];
  static uint8_t out[32768];
  size_t len = fread(text, 1, sizeof text, stdin);
  while (len > 0 && (text[len - 1] == '\n' || text[len - 1] == '\r'))
    len--;
  csn_claims c;
  csn_err err = csn_token_verify(&keys, &arena, csn_span_of(text, (uint32_t)len), (uint64_t)time(NULL), &c);
  if (err != CSN_ERR_OK) {
    fprintf(stderr, "caisson-token: refused: %s\n", error_text(err));
    return 1;
  }
  csn_fx fx = {out, sizeof out, 0};
  csn_put_str(&fx, "{\"expires_s\":");
  csn_put_u64(&fx, c.expires_s);
  const struct {
    const char *name;
    csn_span value;
  } all[] = {{"kid", c.kid},     {"sub", c.subject}, {"tenant", c.tenant},
             {"quota", c.quota}, {"jti", c.id},      {"scope", c.scopes}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (all[i].value.len > 0) csn_put_field_raw(&fx, all[i].name, all[i].value);
  csn_put_str(&fx, "}\n");
  fwrite(out, 1, fx.len, stdout);
  return 0;
}

int main(int argc, char **argv) {
  static uint8_t doc[32768], scopes[16384];
  const char *file = NULL, *expires = "3600";
  const char *texts[4] = {NULL, NULL, NULL, NULL};
  static const char *const options[4] = {"--sub", "--tenant", "--quota", "--id"}, *const names[4] = {
                                                                                      "sub", "tenant",
                                                                                      "quota", "jti"};
  csn_fx list = {scopes, sizeof scopes, 0}, fx = {doc, sizeof doc, 0};
  if (argc < 2 || strcmp(argv[1], "--help") == 0) {
    fputs(usage_text, argc < 2 ? stderr : stdout);
    return argc < 2 ? 64 : 0;
  }
  if (strcmp(argv[1], "keygen") == 0) return keygen(argc > 2 ? argv[2] : "k1");
  bool minting = strcmp(argv[1], "mint") == 0;
  if (!minting && strcmp(argv[1], "verify") != 0)
    fail(64, argv[1], "keygen, mint or verify; --help says more");
  arena = (csn_arena){malloc(CSN_ARENA_CAP), CSN_ARENA_CAP, 0};
  if (arena.base == NULL) abort();
  for (int i = 2; i < argc; i++) {
    int t = 0;
    if (strcmp(argv[i], "--help") == 0) return fputs(usage_text, stdout), 0;
    if (i + 1 >= argc) fail(64, argv[i], "needs a value; --help says more");
    while (t < 4 && strcmp(argv[i], options[t]) != 0)
      t++;
    const char *name = argv[i], *value = argv[++i];
    if (strlen(value) > 1024) fail(64, name, "too long");
    if (t < 4) {
      texts[t] = value;
    } else if (strcmp(name, "--keys") == 0) {
      file = value;
    } else if (strcmp(name, "--expires-in") == 0) {
      if (value[0] == 0 || strspn(value, "0123456789") != strlen(value) || strlen(value) > 10)
        fail(64, name, "a number of seconds");
      expires = value;
    } else if (strcmp(name, "--scope") == 0) {
      if (list.len > sizeof scopes - 8192) fail(64, name, "too many scopes");
      csn_put_str(&list, list.len > 0 ? ",\"" : "\"");
      csn_put_escaped(&list, csn_span_str(value));
      csn_put_str(&list, "\"");
    } else {
      fail(64, name, "no such option; --help says more");
    }
  }
  if (file == NULL) fail(64, "--keys", "which file has the keys?");
  read_keys(file);
  if (!minting) return verify();
  csn_put_str(&fx, "{\"expires_in_s\":");
  csn_put_str(&fx, expires);
  for (int t = 0; t < 4; t++)
    if (texts[t] != NULL) csn_put_field_raw(&fx, names[t], csn_span_str(texts[t]));
  csn_put_str(&fx, ",\"scopes\":[");
  csn_fx_put(&fx, scopes, list.len);
  csn_put_str(&fx, "]}");
  csn_span token;
  csn_err err = csn_token_mint(&keys, &arena, csn_span_of(doc, fx.len), (uint64_t)time(NULL), &token, &bad);
  if (err != CSN_ERR_OK) {
    fprintf(stderr, "caisson-token: at \"%.*s\": %s\n", (int)bad.len, (const char *)bad.bytes,
            error_text(err));
    return 64;
  }
  fwrite(token.ptr, 1, token.len, stdout);
  putchar('\n');
  return 0;
}
