/* The questions of guard.wasm: each with its answer, its bad input, and lengths around every bound. */
#include "csn/guard.h"

#include "csn/audit.h"
#include "csn/json.h"
#include "tap.h"

static csn_guard g;
static csn_json reader;
static _Alignas(8) uint8_t memory[CSN_ARENA_CAP], box[CSN_GUARD_OUT_CAP];
static csn_arena arena = {memory, sizeof memory, 0};
/* Of the last question: the record that answered it. */
static csn_rec got;
static char text[CSN_GUARD_OUT_CAP];
static uint32_t records;

/* The payload ends at a page that must not be touched. */
static csn_err ask_bytes(csn_ask kind, int32_t code, uint32_t id, uint64_t time_ms, const void *payload,
                         size_t len) {
  csn_rec rec = {0, (uint16_t)kind, 0, id, code, (uint32_t)len, 0, time_ms};
  csn_fx fx = {box, sizeof box, 0};
  uint8_t *p = guarded(payload, len);
  csn_err err = csn_guard_ask(&g, &rec, csn_span_of(p, (uint32_t)len), &arena, &fx);
  unguard(p, len);
  memset(&got, 0, sizeof got);
  text[0] = 0;
  records = 0;
  for (uint32_t at = 0; at < fx.len; at += got.size, records++) {
    memcpy(&got, box + at, sizeof got);
    memcpy(text, box + at + sizeof got, got.payload_len);
    text[got.payload_len] = 0;
  }
  return err;
}

static csn_err ask(csn_ask kind, int32_t code, const char *payload) {
  return ask_bytes(kind, code, 0, 0, payload, strlen(payload));
}

static bool answered(int32_t code) {
  return records == 1 && got.kind == CSN_FX_ANSWER && got.code == code;
}

static bool says(const char *words) {
  return strstr(text, words) != NULL;
}

static bool is_json(void) {
  return csn_json_is_valid(&reader, csn_span_str(text));
}

/* err and the field that it names */
static bool refused(csn_err err, csn_err want, const char *pointer) {
  bool good = err == want && records == 1 && got.kind == CSN_FX_BAD_FIELD && strcmp(text, pointer) == 0;
  if (!good) printf("# %d at %s\n", err, text);
  return good;
}

static void policy(void) {
  csn_guard_init(&g);
  ok(ask(CSN_ASK_NET, 0, "example.com:443") == CSN_ERR_OK && answered(CSN_DENY) && is_json() &&
         says("\"verdict\":\"deny\",\"rule\":\"network.default\"") && says("\"inject\":[]"),
     "a fresh guard denies: %s", text);
  static const char doc[] =
      "{\"network\":{\"allow\":[\"api.test:443\",\"10.0.0.0/8\"],\"deny\":[\"evil.test\"],\"inject\":["
      "{\"host\":\"api.test\",\"header\":\"x-key\",\"secret\":\"K\",\"format\":\"Bearer {}\"},"
      "{\"host\":\"other.test\",\"secret\":\"N\"},{\"host\":\"api.test\",\"secret\":\"B\",\"body\":true}]},"
      "\"tools\":{\"allow\":[\"Bash(ls:*)\",\"Read\"],\"ask\":[\"Bash(git:*)\"],\"deny\":[\"Bash(rm:*)\"]},"
      "\"artifacts\":{\"exclude\":[\"*.o\"]}}";
  ok(ask(CSN_ASK_POLICY, CSN_POLICY_AUTO, doc) == CSN_ERR_OK && answered(0) &&
         strcmp(text, "{\"dialect\":\"caisson\",\"unmapped\":[]}") == 0,
     "a document is taken: %s", text);
  ok(ask(CSN_ASK_NET, 0, "API.test.:443") == CSN_ERR_OK && answered(CSN_ALLOW) && is_json() &&
         says("\"rule\":\"network.allow[0]\",\"pattern\":\"api.test:443\"") &&
         says("\"inject\":[{\"body\":false,\"secret\":\"K\",\"header\":\"x-key\",\"format\":\"Bearer {}\"},"
              "{\"body\":true,\"secret\":\"B\"}]"),
     "a verdict names rule, pattern and credentials: %s", text);
  static const struct {
    const char *what, *rule;
    csn_action want;
  } nets[] = {
      {"api.test:443@10.1.2.3", "network.allow[0]", CSN_ALLOW},
      {"api.test:443@192.168.0.1", "network.private_ranges", CSN_DENY},
      {"api.test:443@8.8.8.8", "network.allow[0]", CSN_ALLOW},
      {"api.test:443@not-an-address", "network.host", CSN_DENY},
      {"api.test:443@", "network.host", CSN_DENY},
      {"api.test:80", "network.default", CSN_DENY},
      {"10.9.9.9:1", "network.allow[1]", CSN_ALLOW},
      {"evil.test:443", "network.deny[0]", CSN_DENY},
      {"a\"b\n:80", "network.host", CSN_DENY},
      {"", "network.host", CSN_DENY},
      {"@", "network.host", CSN_DENY},
  };
  for (unsigned i = 0; i < sizeof nets / sizeof *nets; i++) {
    char rule[64];
    snprintf(rule, sizeof rule, "\"rule\":\"%s\"", nets[i].rule);
    bool good = ask(CSN_ASK_NET, 0, nets[i].what) == CSN_ERR_OK && answered((int32_t)nets[i].want) &&
                is_json() && says(rule) && (nets[i].want == CSN_ALLOW || says("\"inject\":[]"));
    ok(good, "net %u: %s", i, text);
  }
  static const struct {
    const char *call;
    size_t len;
    int32_t cut;
    const char *rule;
    csn_action want;
  } tools[] = {
#define CALL(s) s, sizeof s - 1
      {CALL("Bash\0ls -l\0/w\0/h"), 0, "tools.allow[0]", CSN_ALLOW},
      {CALL("Bash\0git push\0/w\0/h"), 0, "tools.ask[0]", CSN_ASK},
      {CALL("Bash\0ls; rm -rf /\0/w\0/h"), 0, "tools.deny[0]", CSN_DENY},
      {CALL("Bash\0ls -l\0/w\0/h"), 1, "tools.command", CSN_DENY},
      {CALL("Read\0\0/w\0/h"), 0, "tools.allow[1]", CSN_ALLOW},
      {CALL("Nope\0\0/w\0"), 0, "tools.allow", CSN_DENY},
#undef CALL
  };
  for (unsigned i = 0; i < sizeof tools / sizeof *tools; i++) {
    char rule[64];
    snprintf(rule, sizeof rule, "\"rule\":\"%s\"", tools[i].rule);
    bool good = ask_bytes(CSN_ASK_TOOL, tools[i].cut, 0, 0, tools[i].call, tools[i].len) == CSN_ERR_OK &&
                answered((int32_t)tools[i].want) && is_json() && says(rule) && !says("inject");
    ok(good, "tool %u: %s", i, text);
  }
  static const size_t halves[] = {0, 4, 5, 11, 12, 13};
  for (unsigned i = 0; i < sizeof halves / sizeof *halves; i++)
    ok(ask_bytes(CSN_ASK_TOOL, 0, 0, 0, "Bash\0ls -l\0/w\0/h", halves[i]) == CSN_ERR_BAD_RECORD &&
           records == 0,
       "a tool call cut at %zu is refused", halves[i]);
  /* The argument stands in the sentence with at most 512 bytes, whole characters only. */
  for (size_t len = 511; len <= 513; len++) {
    char call[600] = "Read";
    memset(call + 5, 'x', len);
    memcpy(call + 5 + len - 2, "\xc3\xa9", 2);
    size_t all = 5 + len + 1;
    memcpy(call + all, "/w", 3);
    bool good = ask_bytes(CSN_ASK_TOOL, 0, 0, 0, call, all + 3) == CSN_ERR_OK && is_json();
    ok(good && says(len > 512 ? "x...) is" : "x\xc3\xa9) is"), "an argument of %zu bytes", len);
  }
  static const char push[] = "[::1]:443\0/x/git-receive-pack";
  ok(ask_bytes(CSN_ASK_PUSH, 0, 0, 0, push, sizeof push - 1) == CSN_ERR_OK && answered(CSN_ALLOW) &&
         is_json() && says("\"rule\":\"git.push_approval\"") && says("A push to [::1]:443 is allowed") &&
         !says("inject"),
     "a push: %s", text);
  ok(ask(CSN_ASK_PUSH, 0, "a.test:443") == CSN_ERR_BAD_RECORD && records == 0,
     "a push without a path is refused");
  ok(ask_bytes(CSN_ASK_PUSH, 0, 0, 0, "a b:1\0/x", 8) == CSN_ERR_OK && answered(CSN_DENY) &&
         says("\"rule\":\"network.host\""),
     "a push to no host is denied");
  ok(ask(CSN_ASK_ARTIFACT, 0, "a.c") == CSN_ERR_OK && answered(1) && text[0] == 0 &&
         ask(CSN_ASK_ARTIFACT, 0, "a.o") == CSN_ERR_OK && answered(0),
     "artifacts are told apart");
  ok(ask(CSN_ASK_POLICY_PRINT, 0, "") == CSN_ERR_OK && answered(0) && is_json() &&
         says("\"allow\":[\"api.test:443\",\"10.0.0.0/8\"]"),
     "the policy is printed");
  static const char over[] = "{\"network\":{\"allow\":[\"b.test\"]}}";
  ok(ask_bytes(CSN_ASK_POLICY, CSN_POLICY_AUTO, 1, 0, over, sizeof over - 1) == CSN_ERR_OK &&
         ask(CSN_ASK_NET, 0, "b.test:1") == CSN_ERR_OK && answered(CSN_ALLOW) &&
         ask(CSN_ASK_NET, 0, "api.test:443") == CSN_ERR_OK && answered(CSN_ALLOW),
     "a second document is laid over the first");
  ok(refused(ask(CSN_ASK_POLICY, CSN_POLICY_AUTO, "{\"network\":{\"allow\":[\"c.test\",\"*.*\"]}}"),
             CSN_ERR_BAD_VALUE, "/network/allow/1") &&
         ask(CSN_ASK_NET, 0, "api.test:443") == CSN_ERR_OK && answered(CSN_DENY),
     "after an error everything is denied");
  ok(ask(CSN_ASK_POLICY, CSN_POLICY_AUTO,
         "{\"sandbox\":{\"network\":{\"allowedDomains\":[\"a.test\"]}},\"x\":1}") == CSN_ERR_OK &&
         is_json() && says("{\"dialect\":\"claude-code\",\"unmapped\":[{\"pointer\":\"/x\""),
     "what another dialect has and this one has not is told: %s", text);
  ok(ask(CSN_ASK_POLICY, CSN_POLICY_AUTO - 1, "{}") == CSN_ERR_BAD_RECORD &&
         ask(CSN_ASK_POLICY, CSN_POLICY_SANDBOX_RUNTIME + 1, "{}") == CSN_ERR_BAD_RECORD,
     "a dialect that there is not");
}

/* A call of `tool` with the argument; a text of the rule that decides. */
static void call(const char *tool, const char *arg, csn_action want, const char *rule) {
  static char question[4096];
  int n = snprintf(question, sizeof question, "%s%c%s%c/w%c/h", tool, 0, arg, 0, 0);
  char by[64];
  snprintf(by, sizeof by, "\"rule\":\"%s\"", rule);
  bool good = ask_bytes(CSN_ASK_TOOL, 0, 0, 0, question, (size_t)n) == CSN_ERR_OK &&
              answered((int32_t)want) && is_json() && says(by);
  ok(good, "%s(%.60s): %s", tool, arg, text);
}

static void tools(void) {
  static const char doc[] = "{\"tools\":{\"allow\":[\"Bash(ls:*)\",\"WebFetch(domain:*.good.test)\","
                            "\"WebFetch(domain:one.test)\",\"Read(~/docs/**)\"],\"deny\":[\"Bash(rm:*)\","
                            "\"WebFetch(domain:bad.good.test)\",\"Read(//etc/)\"]}}";
  ok(ask(CSN_ASK_POLICY, CSN_POLICY_AUTO, doc) == CSN_ERR_OK, "a policy of tools");
  call("Bash", "ls 'a;b' \"c;d\" e\\;f \"\\\"\" ''", CSN_ALLOW, "tools.allow[0]");
  call("Bash", "ls 'a; rm b'", CSN_ALLOW, "tools.allow[0]");
  call("Bash", "ls && ls -l | ls & ls", CSN_ALLOW, "tools.allow[0]");
  /* What cannot be judged is not allowed. */
  static const char *const doubts[] = {"ls a\\",    "ls 'a",       "ls \"a",   "ls $(x)", "ls \"$(x)\"",
                                       "ls `x`",    "ls > f",      "ls < f",   "ls (x)",  "ls $'a'",
                                       "ls $\"a\"", "ls ${IFS}rm", "ls {a,b}", "ls\ra",   ""};
  for (unsigned i = 0; i + 1 < sizeof doubts / sizeof *doubts; i++)
    call("Bash", doubts[i], CSN_DENY, "tools.command");
  /* Every command of a line is looked at, up to 1,024 of them. */
  static char many[4096] = "ls";
  for (int i = 1; i < 1024; i++)
    strcat(many, ";ls");
  call("Bash", many, CSN_ALLOW, "tools.allow[0]");
  strcat(many, ";ls");
  call("Bash", many, CSN_DENY, "tools.command");
  strcpy(many + 3 * 70, "rm");
  call("Bash", many, CSN_DENY, "tools.deny[0]");
  /* The quotes of a comment are none: the second line is run. */
  call("Bash", "ls # '\nmake x\n# '", CSN_DENY, "tools.command");
  /* A denial holds behind what runs a command for another. */
  static const char *const removals[] = {"rm x",
                                         "ls; rm x",
                                         "ls\nrm x",
                                         "sudo rm x",
                                         "sudo -n rm x",
                                         "FOO=1 rm x",
                                         "env A=b rm x",
                                         "nohup nice -5 rm x",
                                         "timeout 5 rm x",
                                         "A=1 B=2 sudo env rm",
                                         "/bin/rm x",
                                         "sudo -u root rm x",
                                         "sudo -u root -g wheel /bin/rm x",
                                         "xargs -I {} rm",
                                         "nice -n 10 rm x",
                                         "timeout -s KILL 5 rm x",
                                         "sudo --user=root rm x",
                                         "A=/b/c ../bin/rm x"};
  for (unsigned i = 0; i < sizeof removals / sizeof *removals; i++)
    call("Bash", removals[i], CSN_DENY, "tools.deny[0]");
  call("Bash", "rmdir x", CSN_DENY, "tools.allow");
  call("Bash", "sudo --user=root ls rm x", CSN_DENY, "tools.allow");
  call("Bash", "/bin/ls rm", CSN_DENY, "tools.allow");
  call("Bash", "FOO=1 ls", CSN_DENY, "tools.allow");
  static const struct {
    const char *url;
    csn_action want;
    const char *rule;
  } urls[] = {
      {"https://a.good.test/x", CSN_ALLOW, "tools.allow[1]"},
      {"https://A.GOOD.TEST:8443?q", CSN_ALLOW, "tools.allow[1]"},
      {"https://good.test/", CSN_DENY, "tools.allow"},
      {"https://xgood.test/", CSN_DENY, "tools.allow"},
      {"https://bad.good.test/", CSN_DENY, "tools.deny[1]"},
      {"https://one.test", CSN_ALLOW, "tools.allow[2]"},
      {"https://a.one.test", CSN_DENY, "tools.allow"},
      {"https://a.good.test@evil.test/", CSN_DENY, "tools.allow"},
      {"https://evil.test@a.good.test/", CSN_ALLOW, "tools.allow[1]"},
      {"https://evil.test\\@a.good.test/", CSN_DENY, "tools.allow"},
      {"https://evil.test/.good.test", CSN_DENY, "tools.allow"},
      {"https://evil.test#a.good.test", CSN_DENY, "tools.allow"},
      {"a.good.test", CSN_DENY, "tools.allow"},
      {"https://8.8.8.8/", CSN_DENY, "tools.allow"},
      {"https://", CSN_DENY, "tools.allow"},
  };
  for (unsigned i = 0; i < sizeof urls / sizeof *urls; i++)
    call("WebFetch", urls[i].url, urls[i].want, urls[i].rule);
  call("Read", "/h/docs/a/b", CSN_ALLOW, "tools.allow[3]");
  call("Read", "/h/docs/../secret", CSN_DENY, "tools.allow");
  call("Read", "/etc", CSN_DENY, "tools.deny[2]");
  call("Read", "/w/../etc/passwd", CSN_DENY, "tools.deny[2]");
}

#define KEYS                                                                                                 \
  "{\"issuer\":\"caisson\",\"keys\":[{\"kid\":\"one\",\"secret\":"                                           \
  "\"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\"}],"                                                       \
  "\"api_keys\":[{\"name\":\"ci\",\"tenant\":\"acme\",\"secret\":\"correct horse "                           \
  "battery\",\"scopes\":[\"execute\"]}]}"

static void identity(void) {
  static char token[2048];
  const uint64_t now = 1700000000000u;
  csn_guard_init(&g);
  static const char claims[] = "{\"sub\":\"me\",\"tenant\":\"acme\",\"quota\":\"q\",\"jti\":\"j\",\"scopes\":"
                               "[\"sessions:read:s1\"],\"expires_in_s\":60}";
  ok(ask(CSN_ASK_MINT, 0, claims) == CSN_ERR_UNKNOWN_KEY && records == 0, "nothing is minted without a key");
  ok(ask(CSN_ASK_KEYS, 0, KEYS) == CSN_ERR_OK && answered(0) && text[0] == 0, "keys are taken");
  ok(ask_bytes(CSN_ASK_MINT, 0, 0, now, claims, strlen(claims)) == CSN_ERR_OK && answered(0) &&
         got.payload_len < sizeof token,
     "a token is minted");
  memcpy(token, text, got.payload_len + 1u);
  size_t len = strlen(token);
  ok(ask_bytes(CSN_ASK_TOKEN, 0, 0, now, token, len) == CSN_ERR_OK && answered(0) && is_json() &&
         strcmp(text, "{\"exp\":1700000060,\"sub\":\"me\",\"tenant\":\"acme\",\"quota\":\"q\",\"jti\":\"j\","
                      "\"kid\":\"one\",\"scope\":\"sessions:read:s1\"}") == 0,
     "and verified: %s", text);
  ok(ask_bytes(CSN_ASK_TOKEN, 0, 0, now + 3600000, token, len) == CSN_ERR_TOKEN_EXPIRED && records == 0,
     "it expires");
  token[len - 1] = token[len - 1] == 'A' ? 'Q' : 'A';
  ok(ask_bytes(CSN_ASK_TOKEN, 0, 0, now, token, len) == CSN_ERR_BAD_SIGNATURE && records == 0,
     "a changed one is refused");
  ok(ask(CSN_ASK_API_KEY, 0, "correct horse battery") == CSN_ERR_OK && is_json() && says("\"sub\":\"ci\"") &&
         says("\"scope\":\"execute\""),
     "a static key: %s", text);
  ok(ask(CSN_ASK_API_KEY, 0, "correct horse batterx") == CSN_ERR_BAD_SIGNATURE && records == 0,
     "another one is refused");
  ok(refused(ask(CSN_ASK_MINT, 0, "{\"scopes\":[\"a b\"],\"expires_in_s\":60}"), CSN_ERR_BAD_VALUE,
             "/scopes"),
     "a bad claim is named");
  ok(refused(ask(CSN_ASK_KEYS, 0, "{\"keys\":[{\"kid\":\"a\",\"secret\":\"c2hvcnQ\"}]}"),
             CSN_ERR_OUT_OF_RANGE, "/keys/0"),
     "a short key is named");
  static const char scope[] = "sessions:read:s1\0sessions:read\0s1";
  ok(ask_bytes(CSN_ASK_SCOPE, 0, 0, 0, scope, sizeof scope - 1) == CSN_ERR_OK && answered(1) &&
         ask_bytes(CSN_ASK_SCOPE, 0, 0, 0, scope, sizeof scope - 2) == CSN_ERR_OK && answered(0) &&
         ask_bytes(CSN_ASK_SCOPE, 0, 0, 0, scope, 20) == CSN_ERR_BAD_RECORD && records == 0 &&
         ask_bytes(CSN_ASK_SCOPE, 0, 0, 0, scope, 5) == CSN_ERR_BAD_RECORD,
     "scopes are told apart, half a question is refused");
}

static void secrets(void) {
  uint8_t keys[5 * 33];
  static uint8_t in[CSN_SEAL_NONCE + 8 + CSN_SECRET_MAX + 1], sealed[CSN_SECRET_MAX + 64];
  memset(keys, 7, sizeof keys);
  csn_guard_init(&g);
  memcpy(in,
         "0123456789ab"
         "s1\0T\0hunter2",
         24);
  ok(ask_bytes(CSN_ASK_SEAL, 0, 0, 0, in, 24) == CSN_ERR_BAD_SEAL && records == 0,
     "nothing is sealed without a key");
  static const size_t wrong[] = {0, 1, 32, 34, 5 * 33};
  for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++)
    ok(ask_bytes(CSN_ASK_SEAL_KEYS, 0, 0, 0, keys, wrong[i]) == CSN_ERR_BAD_RECORD && records == 0,
       "%zu bytes are no keys", wrong[i]);
  keys[33] = 0;
  ok(ask_bytes(CSN_ASK_SEAL_KEYS, 0, 0, 0, keys, 66) == CSN_ERR_BAD_RECORD, "a key without a version");
  keys[33] = 7;
  ok(ask_bytes(CSN_ASK_SEAL_KEYS, 0, 0, 0, keys, 66) == CSN_ERR_BAD_RECORD, "two keys of one version");
  ok(ask_bytes(CSN_ASK_SEAL, 0, 0, 0, in, 24) == CSN_ERR_BAD_SEAL, "nothing of a refused list is taken");
  for (uint8_t i = 0; i < 5; i++)
    keys[33 * i] = i + 1;
  ok(ask_bytes(CSN_ASK_SEAL_KEYS, 0, 0, 0, keys, 4 * 33) == CSN_ERR_OK && answered(0), "four keys are taken");
  ok(ask_bytes(CSN_ASK_SEAL, 0, 0, 0, in, 24) == CSN_ERR_OK && answered(0) &&
         got.payload_len == 7 + CSN_SEAL_OVERHEAD,
     "a secret is sealed");
  static const char place[] = "s1\0T";
  memcpy(sealed, place, 5);
  uint32_t n = got.payload_len;
  memcpy(sealed + 5, box + sizeof got, n);
  ok(ask_bytes(CSN_ASK_UNSEAL, 0, 0, 0, sealed, 5 + n) == CSN_ERR_OK && answered(0) &&
         strcmp(text, "hunter2") == 0,
     "and opened again");
  bool closed = true;
  for (uint32_t i = 0; i < 5 + n; i++) {
    sealed[i] ^= 1;
    csn_err err = ask_bytes(CSN_ASK_UNSEAL, 0, 0, 0, sealed, 5 + n);
    closed = closed && (err == CSN_ERR_BAD_SEAL || err == CSN_ERR_BAD_RECORD) && records == 0;
    sealed[i] ^= 1;
  }
  ok(closed, "not with any bit of it, of its session or of its name changed");
  for (uint32_t len = 0; len < 5; len++)
    closed = closed && ask_bytes(CSN_ASK_UNSEAL, 0, 0, 0, sealed, len) == CSN_ERR_BAD_RECORD;
  ok(closed && ask_bytes(CSN_ASK_UNSEAL, 0, 0, 0, sealed, 5) == CSN_ERR_BAD_SEAL,
     "half a question is refused");
  static const size_t halves[] = {0, 11, 12, 14, 16};
  for (unsigned i = 0; i < sizeof halves / sizeof *halves; i++)
    ok(ask_bytes(CSN_ASK_SEAL, 0, 0, 0, in, halves[i]) == CSN_ERR_BAD_RECORD && records == 0,
       "%zu bytes are nothing to seal", halves[i]);
  ok(ask_bytes(CSN_ASK_SEAL, 0, 0, 0, "0123456789ab\0T\0x", 16) == CSN_ERR_BAD_RECORD,
     "a session has a name");
  memset(in + 17, 'x', CSN_SECRET_MAX + 1);
  ok(ask_bytes(CSN_ASK_SEAL, 0, 0, 0, in, 17 + CSN_SECRET_MAX) == CSN_ERR_OK &&
         got.payload_len == CSN_SECRET_MAX + CSN_SEAL_OVERHEAD &&
         ask_bytes(CSN_ASK_SEAL, 0, 0, 0, in, 17 + CSN_SECRET_MAX + 1) == CSN_ERR_TOO_LONG && records == 0,
     "the longest secret, and one byte more");
}

static void audit(void) {
  static uint8_t state[40], log[40 + 32];
  csn_guard_init(&g);
  ok(ask(CSN_ASK_AUDIT_BEGIN, 0, "s1") == CSN_ERR_OK && answered(0) && got.payload_len == 40, "a log begins");
  memcpy(state, box + sizeof got, 40);
  /* What the header promises: head(n) = SHA-256(head(n-1) + line + "\n"). */
  csn_audit want;
  csn_audit_init(&want, csn_span_str("s1"));
  ok(memcmp(state, want.head, 32) == 0 && state[32] == 0, "with the head of its name");
  memcpy(log, state, 40);
  memcpy(log + 40, "one\n\nthree\n", 11);
  ok(ask_bytes(CSN_ASK_AUDIT_PUSH, 0, 0, 0, log, 51) == CSN_ERR_OK && got.payload_len == 40 &&
         box[sizeof got + 32] == 3,
     "three lines are counted, an empty one too");
  csn_audit_push(&want, csn_span_str("one"));
  csn_audit_push(&want, csn_span_str(""));
  csn_audit_push(&want, csn_span_str("three"));
  ok(memcmp(box + sizeof got, want.head, 32) == 0, "and chained");
  ok(ask_bytes(CSN_ASK_AUDIT_PUSH, 0, 0, 0, log, 40) == CSN_ERR_OK &&
         memcmp(box + sizeof got, state, 40) == 0,
     "no line changes nothing");
  ok(ask_bytes(CSN_ASK_AUDIT_PUSH, 0, 0, 0, log, 50) == CSN_ERR_BAD_RECORD &&
         ask_bytes(CSN_ASK_AUDIT_PUSH, 0, 0, 0, log, 39) == CSN_ERR_BAD_RECORD && records == 0,
     "half a line, half a head");
}

static void wire(void) {
  static const char answer[] = "{\"model\":\"claude-x\",\"usage\":{\"input_tokens\":5,\"output_tokens\":6,"
                               "\"cache_read_input_tokens\":7}}";
  csn_guard_init(&g);
  ok(ask(CSN_ASK_WIRE_PUSH, 0, answer) == CSN_ERR_BAD_STATE &&
         ask(CSN_ASK_WIRE_END, 0, "") == CSN_ERR_BAD_STATE && records == 0,
     "an answer has a beginning");
  ok(ask(CSN_ASK_WIRE_BEGIN, 0, "") == CSN_ERR_OK && answered(0) &&
         ask_bytes(CSN_ASK_WIRE_PUSH, 0, 0, 0, answer, 30) == CSN_ERR_OK && answered(0) &&
         ask(CSN_ASK_WIRE_PUSH, 0, answer + 30) == CSN_ERR_OK && ask(CSN_ASK_WIRE_END, 0, "") == CSN_ERR_OK &&
         answered(0) && is_json() &&
         strcmp(text, "{\"seen\":true,\"model\":\"claude-x\",\"input_tokens\":5,\"output_tokens\":6,"
                      "\"cache_read_tokens\":7,\"cache_write_tokens\":0,\"unread\":0,\"final\":true,"
                      "\"estimate\":23}") == 0,
     "a whole answer is counted: %s", text);
  ok(ask(CSN_ASK_WIRE_BEGIN, 1, "") == CSN_ERR_OK &&
         ask(CSN_ASK_WIRE_PUSH, 0, "data: {\"x\":") == CSN_ERR_OK &&
         ask(CSN_ASK_WIRE_END, 0, "") == CSN_ERR_OK && says("{\"seen\":false,\"model\":\"\"") && is_json(),
     "a stream that breaks off is said to have told nothing: %s", text);
}

static void price(void) {
  static const char usage[] = "{\"model\":\"house\",\"input_tokens\":1000000,\"output_tokens\":500000}";
  static const char own[] = "{\"prices\":[{\"model\":\"house\",\"input\":1,\"output\":2}]}";
  char payload[256];
  uint32_t len = (uint32_t)snprintf(payload, sizeof payload, "%s%c%s", own, 0, usage);
  csn_guard_init(&g);
  ok(ask_bytes(CSN_ASK_PRICE, 0, 0, 0, payload, len) == CSN_ERR_OK && answered(0) && is_json() &&
         strstr(text, ",\"cost_usd\":2}") != NULL,
     "tokens at the operator's prices: %s", text);
  len = (uint32_t)snprintf(payload, sizeof payload, "%c%s", 0, usage);
  ok(ask_bytes(CSN_ASK_PRICE, 0, 0, 0, payload, len) == CSN_ERR_OK &&
         strstr(text, "\"cost_usd\":null}") != NULL,
     "a model without a price: %s", text);
  len =
      (uint32_t)snprintf(payload, sizeof payload, "%c{\"model\":\"claude-opus-4-5\",\"input_tokens\":1}", 0);
  ok(ask_bytes(CSN_ASK_PRICE, 0, 0, 0, payload, len) == CSN_ERR_OK &&
         strstr(text, "\"cost_usd\":0.0") != NULL,
     "a model of the table: %s", text);
  ok(ask(CSN_ASK_PRICE, 0, "[]") == CSN_ERR_BAD_RECORD && records == 0, "prices alone");
  len = (uint32_t)snprintf(payload, sizeof payload, "{%c%s", 0, usage);
  ok(ask_bytes(CSN_ASK_PRICE, 0, 0, 0, payload, len) == CSN_ERR_BAD_JSON, "prices that are no JSON");
  len = (uint32_t)snprintf(payload, sizeof payload, "{\"prices\":[{\"model\":\"x\"}]}%c%s", 0, usage);
  ok(ask_bytes(CSN_ASK_PRICE, 0, 0, 0, payload, len) == CSN_ERR_MISSING_FIELD && says("/prices/0/input"),
     "a price without one: %s", text);
  len = (uint32_t)snprintf(payload, sizeof payload, "{}%c%s", 0, usage);
  ok(ask_bytes(CSN_ASK_PRICE, 0, 0, 0, payload, len) == CSN_ERR_BAD_RECORD && records == 0,
     "no prices in it");
  len = (uint32_t)snprintf(payload, sizeof payload, "%c{\"tokens\":1}", 0);
  ok(ask_bytes(CSN_ASK_PRICE, 0, 0, 0, payload, len) == CSN_ERR_UNKNOWN_FIELD && says("/tokens"),
     "usage with an unknown name: %s", text);
}

int main(void) {
  policy();
  tools();
  identity();
  secrets();
  audit();
  wire();
  price();
  csn_guard_init(&g);
  ok(ask((csn_ask)0, 0, "") == CSN_ERR_BAD_RECORD && ask(CSN_ASK_END, 0, "") == CSN_ERR_BAD_RECORD &&
         ask((csn_ask)65535, 0, "") == CSN_ERR_BAD_RECORD && records == 0,
     "a question that there is not");
  return done();
}
