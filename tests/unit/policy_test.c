#include "csn/policy.h"

#include "csn/glob.h"
#include "tap.h"

static csn_policy policy, second;
static _Alignas(8) uint8_t memory[CSN_ARENA_CAP], box[CSN_POLICY_PRINT_MAX], box2[CSN_POLICY_PRINT_MAX];
static csn_arena arena = {memory, sizeof memory, 0};
static csn_pointer bad;

static csn_err compile(csn_policy *p, const char *text, bool add) {
  csn_policy_dialect d = CSN_POLICY_AUTO;
  csn_fx report = {box, 4096, 0};
  return csn_policy_compile(p, &arena, csn_span_str(text), &d, add, &report, &bad);
}

static csn_action ask(const csn_policy *p, const char *host, uint16_t port) {
  csn_host h;
  if (csn_host_parse(csn_span_str(host), &h) != CSN_ERR_OK) return CSN_DENY;
  return (csn_action)csn_policy_net(p, &h, port, NULL).action;
}

static uint32_t seed = 1;
static uint32_t rnd(uint32_t n) {
  seed = seed * 1664525u + 1013904223u;
  return (seed >> 8) % n;
}

static const char *const hosts[] = {"a.test",          "b.test",   "x.a.test",     "y.x.a.test", "test",
                                    "10.1.2.3",        "10.9.0.1", "8.8.8.8",      "8.8.9.9",    "127.0.0.1",
                                    "169.254.169.254", "fd00::1",  "2606:4700::1", "c.other"};
static const char *const patterns[] = {
    "a.test",    "*.a.test",       "*.test",      "*.x.a.test",      "test",
    "*",         "10.0.0.0/8",     "10.1.0.0/16", "8.8.8.8",         "8.8.0.0/16",
    "fd00::/8",  "2606:4700::/32", "127.0.0.1",   "169.254.169.254", "169.254.0.0/16",
    "a.test:80", "*.test:443",     "*:80",        "10.1.2.3:80",     "[fd00::1]:443"};
#define COUNT(a) ((uint32_t)(sizeof(a) / sizeof *(a)))

/* A random document; `deny` is one more pattern for its deny list, or UINT32_MAX. The list has no pattern
 * twice. */
static void random_doc(char *out, uint32_t allow, uint32_t denied, bool open, uint32_t deny) {
  int n = sprintf(out, "{\"network\":{\"default\":\"%s\",\"private_ranges\":\"%s\",\"allow\":[",
                  open ? "allow" : "deny", allow & 1u << 30 ? "allow" : "deny");
  const char *comma = "";
  for (uint32_t i = 0; i < COUNT(patterns); i++)
    if (allow & 1u << i) n += sprintf(out + n, "%s\"%s\"", comma, patterns[i]), comma = ",";
  n += sprintf(out + n, "],\"deny\":[");
  comma = "";
  for (uint32_t i = 0; i < COUNT(patterns); i++)
    if (denied & 1u << i || i == deny) n += sprintf(out + n, "%s\"%s\"", comma, patterns[i]), comma = ",";
  sprintf(out + n, "]}}");
}

/* Adding a deny never allows more; the order of rules says nothing; a print compiles to the same table. */
static void properties(void) {
  static char doc[4096];
  bool monotone = true, ordered = true, stable = true;
  for (uint32_t round = 0; round < 3000; round++) {
    uint32_t allow = rnd(1u << 20) & rnd(1u << 20), denied = rnd(1u << 20) & rnd(1u << 20) & rnd(1u << 20),
             extra = rnd(COUNT(patterns));
    if (rnd(2)) allow |= 1u << 30;
    bool open = rnd(2);
    random_doc(doc, allow, denied, open, UINT32_MAX);
    if (compile(&policy, doc, false) != CSN_ERR_OK) abort();
    random_doc(doc, allow, denied, open, extra);
    if (compile(&second, doc, false) != CSN_ERR_OK) abort();
    for (uint32_t h = 0; h < COUNT(hosts); h++)
      for (uint32_t port = 0; port < 2; port++) {
        uint16_t n = port ? 443 : 80;
        if (ask(&second, hosts[h], n) == CSN_ALLOW && ask(&policy, hosts[h], n) != CSN_ALLOW)
          monotone = false;
      }
    csn_fx one = {box, sizeof box - 1, 0}, two = {box2, sizeof box2, 0};
    csn_policy_print(&second, &one);
    box[one.len] = 0;
    static char text[65536];
    memcpy(text, box, one.len + 1);
    if (compile(&policy, text, false) != CSN_ERR_OK) abort();
    csn_policy_print(&policy, &two);
    if (two.len != strlen(text) || memcmp(box2, text, two.len) != 0) stable = false;
    for (uint32_t h = 0; h < COUNT(hosts); h++)
      if (ask(&policy, hosts[h], 443) != ask(&second, hosts[h], 443)) ordered = false;
  }
  ok(monotone, "adding a deny never allows more");
  ok(stable, "compile, print, compile is stable");
  ok(ordered, "a printed table answers like the first one");
}

static void bounds(void) {
  static char doc[CSN_POLICY_DOC_MAX + 2];
  for (uint32_t count = CSN_POLICY_NET_MAX - 1; count <= CSN_POLICY_NET_MAX + 1; count++) {
    int n = sprintf(doc, "{\"network\":{\"allow\":[");
    for (uint32_t i = 0; i < count; i++)
      n += sprintf(doc + n, "%s\"h%u.test\"", i ? "," : "", i);
    sprintf(doc + n, "]}}");
    csn_err err = compile(&policy, doc, false);
    ok(err == (count <= CSN_POLICY_NET_MAX ? CSN_ERR_OK : CSN_ERR_NO_MEMORY), "%u network rules", count);
    if (err == CSN_ERR_OK)
      ok(ask(&policy, "h17.test", 1) == CSN_ALLOW && ask(&policy, "h9999.test", 1) == CSN_DENY,
         "they answer");
    else
      ok(ask(&policy, "h17.test", 1) == CSN_DENY, "a table that was refused denies everything");
  }
  for (uint32_t count = CSN_POLICY_TOOL_MAX - 1; count <= CSN_POLICY_TOOL_MAX + 1; count++) {
    int n = sprintf(doc, "{\"tools\":{\"deny\":[");
    for (uint32_t i = 0; i < count; i++)
      n += sprintf(doc + n, "%s\"T%u\"", i ? "," : "", i);
    sprintf(doc + n, "]}}");
    ok(compile(&policy, doc, false) == (count <= CSN_POLICY_TOOL_MAX ? CSN_ERR_OK : CSN_ERR_NO_MEMORY),
       "%u tool rules", count);
  }
  for (uint32_t len = CSN_POLICY_PATTERN_MAX - 1; len <= CSN_POLICY_PATTERN_MAX + 1; len++) {
    int n = sprintf(doc, "{\"tools\":{\"deny\":[\"Bash(");
    memset(doc + n, 'a', len - 6);
    strcpy(doc + n + len - 6, ")\"]}}");
    ok(compile(&policy, doc, false) == (len <= CSN_POLICY_PATTERN_MAX ? CSN_ERR_OK : CSN_ERR_TOO_LONG),
       "a pattern of %u bytes", len);
  }
  for (uint32_t count = CSN_POLICY_INJECT_MAX - 1; count <= CSN_POLICY_INJECT_MAX + 1; count++) {
    int n = sprintf(doc, "{\"network\":{\"inject\":[");
    for (uint32_t i = 0; i < count; i++)
      n += sprintf(doc + n, "%s{\"host\":\"a.test\",\"secret\":\"S%u\"}", i ? "," : "", i);
    sprintf(doc + n, "]}}");
    ok(compile(&policy, doc, false) == (count <= CSN_POLICY_INJECT_MAX ? CSN_ERR_OK : CSN_ERR_NO_MEMORY),
       "%u injections", count);
  }
  memset(doc, ' ', sizeof doc);
  memcpy(doc, "{}", 2);
  csn_policy_dialect d = CSN_POLICY_AUTO;
  csn_fx report = {box, 4096, 0};
  for (uint32_t len = CSN_POLICY_DOC_MAX; len <= CSN_POLICY_DOC_MAX + 1; len++)
    ok(csn_policy_compile(&policy, &arena, csn_span_of(doc, len), &d, false, &report, &bad) ==
           (len <= CSN_POLICY_DOC_MAX ? CSN_ERR_OK : CSN_ERR_TOO_LONG),
       "a document of %u bytes", len);
}

static void layers(void) {
  csn_host a, b;
  csn_host_parse(csn_span_str("a.test"), &a);
  csn_host_parse(csn_span_str("b.a.test"), &b);
  ok(compile(&policy,
             "{\"network\":{\"allow\":[\"*.test\"],\"inject\":[{\"host\":\"*.test\",\"secret\":\"ONE\"}]}}",
             false) == CSN_ERR_OK,
     "an operator's preset");
  ok(compile(&policy,
             "{\"network\":{\"allow\":[\"*.test\"],\"deny\":[\"b.a.test\"],\"inject\":[{\"host\":\"a.test\","
             "\"secret\":\"TWO\"}]}}",
             true) == CSN_ERR_OK,
     "a session's document over it may repeat a rule");
  ok(ask(&policy, "a.test", 1) == CSN_ALLOW && ask(&policy, "b.a.test", 1) == CSN_DENY, "rules add up");
  ok(csn_policy_inject(&policy, &a, 443) == 3 && csn_policy_inject(&policy, &b, 443) == 1,
     "each injection for its own hosts");
  ok(compile(&policy, "{\"network\":{\"allow\":[\"*.*\"]}}", true) == CSN_ERR_BAD_VALUE &&
         ask(&policy, "a.test", 1) == CSN_DENY,
     "after an error everything is denied");
  csn_policy_init(&policy);
  ok(ask(&policy, "a.test", 443) == CSN_DENY && ask(&policy, "8.8.8.8", 443) == CSN_DENY,
     "an empty table denies");
}

static void cut_calls(void) {
  csn_tool_call call = {csn_span_str("Bash"), csn_span_str("git diff a"), csn_span_str("/workspace"),
                        csn_span_str("/home/user"), true};
  compile(&policy, "{\"tools\":{\"allow\":[\"Bash(git diff:*)\"]}}", false);
  ok(csn_policy_tool(&policy, &call, &arena).action == CSN_DENY,
     "a command of which only the head is known is not allowed by a pattern");
  compile(&policy, "{\"tools\":{\"deny\":[\"Bash(rm:*)\"]}}", false);
  csn_verdict v = csn_policy_tool(&policy, &call, &arena);
  ok(v.action == CSN_DENY && v.why == CSN_WHY_DOUBT, "nor when a deny rule speaks of the tool");
  call.cut = false;
  ok(csn_policy_tool(&policy, &call, &arena).action == CSN_ALLOW, "the whole command is judged");
  static uint8_t path[5000];
  memset(path, 'a', sizeof path);
  csn_tool_call longest = {csn_span_str("Read"), csn_span_of(path, sizeof path), csn_span_str("/workspace"),
                           csn_span_str("/home/user"), false};
  compile(&policy, "{\"tools\":{\"deny\":[\"Read(b)\"]}}", false);
  ok(csn_policy_tool(&policy, &longest, &arena).why == CSN_WHY_BAD_PATH,
     "a path that no kernel takes is denied");
  arena.used = 0;
  csn_arena tiny = {memory, 64, 0};
  longest.arg.len = 3;
  ok(csn_policy_tool(&policy, &longest, &tiny).action == CSN_DENY, "no room to judge in: denied");
}

static void glob(const char *pattern, const char *path, bool want) {
  ok(csn_glob_path(csn_span_str(pattern), csn_span_str(path)) == want, "%s %s %s", pattern,
     want ? "matches" : "does not match", path);
}

static void plain(const char *in, const char *want) {
  uint8_t out[64];
  uint32_t n = csn_path_plain(csn_span_str(in), csn_span_str("/w/d"), csn_span_str("/h"), out, sizeof out);
  ok(n == strlen(want) && memcmp(out, want, n) == 0, "%s is %s", in, want);
}

int main(void) {
  properties();
  bounds();
  layers();
  cut_calls();
  glob("**", "a/b", true);
  glob("a/**", "a/b/c", true);
  glob("a/**", "a", true);
  glob("**/b", "b", true);
  glob("**/b", "a/x/b", true);
  glob("a/**/b", "a/b", true);
  glob("a/**/b", "a/x/y/b", true);
  glob("a/*/b", "a/x/y/b", false);
  glob("*.c", "a.c", true);
  glob("*.c", "x/a.c", false);
  glob("a?c", "abc", true);
  glob("a?c", "a/c", false);
  glob("", "", true);
  glob("a", "", false);
  glob("a*b*c*d*e*f*g*h", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false);
  glob("**/a/**/a/**/a/**/b", "a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/c", false);
  plain("a", "/w/d/a");
  plain("./a//b/", "/w/d/a/b");
  plain("../../../x", "/x");
  plain("~/x", "/h/x");
  plain("~", "/h");
  plain("~x", "/w/d/~x");
  plain("/..", "/");
  plain("/a/./b/../c", "/a/c");
  uint8_t out[4];
  ok(csn_path_plain(csn_span_str("/abc"), csn_span_str("/"), csn_span_str("/"), out, 4) == 4,
     "a path that just fits");
  ok(csn_path_plain(csn_span_str("/abcd"), csn_span_str("/"), csn_span_str("/"), out, 4) == UINT32_MAX,
     "one byte more does not");
  return done();
}
