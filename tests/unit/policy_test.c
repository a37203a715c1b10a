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

/* The pattern without its port; `port` gets that, 0 when there is none. */
static void take_port(const char *pattern, char *bare, uint32_t *port) {
  const char *colon = strrchr(pattern, ':');
  bool has_port = colon != NULL && (strchr(pattern, ':') == colon || colon[-1] == ']');
  *port = has_port ? (uint32_t)atoi(colon + 1) : 0;
  size_t len = has_port ? (size_t)(colon - pattern) : strlen(pattern);
  bool bracket = pattern[0] == '[';
  memcpy(bare, pattern + bracket, len - 2 * bracket);
  bare[len - 2 * bracket] = 0;
}

/* How specific the pattern is for this host by docs/POLICY.md, read from its text and compared as text; 0: it
 * does not match. The port counts last: a name with any port goes before *.name with the right one. */
static uint32_t rank(const char *pattern, const csn_host *h, const char *host, uint32_t port) {
  char bare[64];
  uint32_t own;
  csn_addr net;
  uint8_t bits;
  take_port(pattern, bare, &own);
  if (own != 0 && own != port) return 0;
  uint32_t with_port = own != 0 ? 1 : 0;
  if (strcmp(bare, "*") == 0) return 2 + with_port;
  if (strncmp(bare, "*.", 2) == 0) {
    size_t want = strlen(bare) - 1, has = strlen(host);
    bool under = !h->is_addr && has > want && strcmp(host + has - want, bare + 1) == 0;
    return under ? 2 * (10 + (uint32_t)want) + with_port : 0;
  }
  if (!h->is_addr) return strcmp(bare, host) == 0 ? 2 * 1000 + with_port : 0;
  if (strchr(bare, '/') == NULL) {
    csn_host at;
    bool is = csn_host_parse(csn_span_str(bare), &at) == CSN_ERR_OK && at.is_addr &&
              memcmp(&at.addr, &h->addr, sizeof at.addr) == 0;
    return is ? 2 * (1000 + 128) + with_port : 0;
  }
  bool within =
      csn_cidr_parse(csn_span_str(bare), &net, &bits) == CSN_ERR_OK && csn_addr_within(&h->addr, &net, bits);
  return within ? 2 * (1000 + (uint32_t)bits) + with_port : 0;
}

/* The verdict that docs/POLICY.md gives, found by looking at every pattern. */
static csn_action expected(uint32_t allow, uint32_t denied, bool open, bool private, const char *host,
                           uint16_t port) {
  csn_host h;
  uint32_t best = 0, best_at = 0;
  csn_action action = open ? CSN_ALLOW : CSN_DENY;
  if (csn_host_parse(csn_span_str(host), &h) != CSN_ERR_OK) abort();
  for (uint32_t i = 0; i < COUNT(patterns); i++) {
    bool in_deny = denied & 1u << i;
    if (!in_deny && !(allow & 1u << i)) continue;
    uint32_t r = rank(patterns[i], &h, host, port);
    if (r < best || r == 0) continue;
    /* Two patterns of one rank for one host are the same one; it may be in both lists. */
    best = r;
    best_at = i;
    action = in_deny ? CSN_DENY : CSN_ALLOW;
  }
  if (!h.is_addr) return action;
  csn_addr_class class = csn_addr_classify(&h.addr);
  bool lax = private && (class == CSN_ADDR_PRIVATE || class == CSN_ADDR_LOOPBACK || class == CSN_ADDR_ULA);
  if (class == CSN_ADDR_PUBLIC || lax) return action;
  /* Of the patterns above every block that has a special address lies in one range, but for link-local's,
   * which holds the metadata address of another. */
  bool named =
      best >= 2 * 1000 && !(class == CSN_ADDR_METADATA && strcmp(patterns[best_at], "169.254.0.0/16") == 0);
  return named ? action : CSN_DENY;
}

/* The most specific pattern decides, whatever the order and the number of the others. */
static void specificity(void) {
  static char doc[4096];
  uint32_t asked = 0, allowed = 0, wrong = 0;
  for (uint32_t round = 0; round < 4000; round++) {
    uint32_t allow = rnd(1u << 20) & (rnd(2) ? ~0u : rnd(1u << 20));
    uint32_t denied = rnd(1u << 20) & (rnd(2) ? ~0u : rnd(1u << 20));
    bool open = rnd(2), private = rnd(2);
    random_doc(doc, allow | (private ? 1u << 30 : 0), denied, open, UINT32_MAX);
    if (compile(&policy, doc, false) != CSN_ERR_OK) abort();
    for (uint32_t i = 0; i < 2 * COUNT(hosts); i++) {
      const char *host = hosts[i / 2];
      uint16_t port = i % 2 ? 443 : 80;
      csn_action want = expected(allow, denied, open, private, host, port), got = ask(&policy, host, port);
      asked++;
      allowed += want == CSN_ALLOW;
      if (want != got && wrong++ == 0) fprintf(stderr, "# %s:%u of %s\n", host, port, doc);
    }
  }
  ok(wrong == 0, "the most specific of the patterns decides: %u of %u answers differ", wrong, asked);
  ok(allowed > asked / 8 && allowed < asked - asked / 8, "%u of them are allowed", allowed);
}

/* A block that is allowed lets to special addresses only when no address in it is public. Of every address of
 * a list the blocks around it, by every prefix; what lies in a block is looked for in the list. */
static void special_ranges(void) {
  static const char *const places[] = {"0.0.0.0",
                                       "8.8.8.8",
                                       "9.255.255.255",
                                       "10.0.0.0",
                                       "11.0.0.0",
                                       "100.63.0.1",
                                       "100.64.0.1",
                                       "100.128.0.1",
                                       "126.1.1.1",
                                       "127.0.0.1",
                                       "128.1.1.1",
                                       "169.253.0.1",
                                       "169.254.169.254",
                                       "169.254.1.1",
                                       "172.16.0.1",
                                       "172.15.0.1",
                                       "192.0.0.5",
                                       "192.0.1.1",
                                       "192.168.1.1",
                                       "192.167.1.1",
                                       "198.41.0.4",
                                       "198.51.100.1",
                                       "223.255.1.1",
                                       "224.0.0.1",
                                       "240.0.0.1",
                                       "255.255.255.255",
                                       "::",
                                       "::1",
                                       "::8.8.8.8",
                                       "::10.0.0.1",
                                       "64:ff9b::1",
                                       "64:ff9b::808:808",
                                       "64:ff9b::ffff:ffff",
                                       "2001:db8::1",
                                       "2001:db9::1",
                                       "2001:1::1",
                                       "2001:200::1",
                                       "2002::1",
                                       "2002:808:808::1",
                                       "2002:ffff:ffff::1",
                                       "2606:4700::1",
                                       "3fff::1",
                                       "3fff:1000::1",
                                       "4000::1",
                                       "fc00::1",
                                       "fd00:ec2::254",
                                       "fe80::1",
                                       "fec0::1",
                                       "ff02::1",
                                       "ffff::1",
                                       "168.63.129.16",
                                       "168.63.129.17",
                                       "203.0.113.9",
                                       "203.0.114.1",
                                       "1fff::1"};
  static char doc[200];
  uint32_t wrong = 0, allowed = 0;
  for (uint32_t i = 0; i < COUNT(places); i++)
    for (uint32_t bits = 1; bits <= 128; bits++) {
      csn_host at[COUNT(places)];
      bool has_public = false;
      uint8_t text[CSN_HOST_TEXT_MAX];
      for (uint32_t k = 0; k < COUNT(places); k++)
        if (csn_host_parse(csn_span_str(places[k]), &at[k]) != CSN_ERR_OK) abort();
      csn_addr net = at[i].addr;
      for (uint32_t b = bits; b < 128; b++)
        net.bytes[b / 8] &= (uint8_t) ~(0x80u >> (b % 8));
      uint32_t len = csn_addr_text(&net, text);
      snprintf(doc, sizeof doc, "{\"network\":{\"allow\":[\"%.*s/%u\"]}}", (int)len, (char *)text,
               csn_addr_is_v4(&net) ? bits - 96 : bits);
      if (csn_addr_is_v4(&net) && bits == 96) continue; /* 0.0.0.0/0 is written as * */
      if (compile(&policy, doc, false) != CSN_ERR_OK) abort();
      for (uint32_t k = 0; k < COUNT(places); k++)
        has_public = has_public || (csn_addr_within(&at[k].addr, &net, (uint8_t)bits) &&
                                    csn_addr_classify(&at[k].addr) == CSN_ADDR_PUBLIC);
      for (uint32_t k = 0; k < COUNT(places); k++) {
        bool special = csn_addr_classify(&at[k].addr) != CSN_ADDR_PUBLIC;
        bool passes = csn_policy_net(&policy, &at[k], 80, NULL).action == CSN_ALLOW;
        allowed += special && passes;
        bool own = k == i && bits == 128;
        if (((special && passes && has_public) || (own && !passes)) && wrong++ == 0)
          fprintf(stderr, "# %s of %s\n", places[k], doc);
      }
    }
  ok(wrong == 0, "no block with public addresses in it lets to a special one, each address names itself");
  ok(allowed > 500, "what lies inside a special range names it: %u times", allowed);
}

static const char *const tool_rules[] = {
    "Bash",           "Bash(git:*)",   "Bash(git push:*)",        "Bash(rm:*)",  "Bash(ls *)",
    "Read",           "Read(/src/**)", "Read(~/.ssh/**)",         "Edit(*.md)",  "Edit",
    "mcp__db__query", "mcp__db__*",    "WebFetch(domain:a.test)", "Task(helper)"};
static const char *const calls[][2] = {{"Bash", "git status"},
                                       {"Bash", "git push -f"},
                                       {"Bash", "ls; rm -rf /"},
                                       {"Bash", "ls -l"},
                                       {"Bash", "ls > x"},
                                       {"Bash", "make"},
                                       {"Read", "src/a.c"},
                                       {"Read", "~/.ssh/id"},
                                       {"Grep", "a/b"},
                                       {"Edit", "README.md"},
                                       {"Write", "src/../x.c"},
                                       {"mcp__db__query", ""},
                                       {"mcp__db__drop", ""},
                                       {"WebFetch", "https://a.test/"},
                                       {"WebFetch", "https://b.test/"},
                                       {"Task", "helper"},
                                       {"TodoWrite", ""}};

static void random_tools(char *out, const uint32_t lists[3], bool listed, uint32_t deny) {
  static const char *const names[] = {"allow", "deny", "ask"};
  int n = sprintf(out, "{\"tools\":{");
  const char *between = "";
  for (uint32_t list = 0; list < 3; list++) {
    if (list == 0 && !listed) continue;
    n += sprintf(out + n, "%s\"%s\":[", between, names[list]);
    const char *comma = "";
    for (uint32_t i = 0; i < COUNT(tool_rules); i++)
      if (lists[list] & 1u << i || (list == 1 && i == deny))
        n += sprintf(out + n, "%s\"%s\"", comma, tool_rules[i]), comma = ",";
    n += sprintf(out + n, "]");
    between = ",";
  }
  sprintf(out + n, "}}");
}

static csn_action ask_tool(const csn_policy *p, const char *const call[2]) {
  csn_arena scratch = {memory, sizeof memory, 0};
  csn_tool_call c = {csn_span_str(call[0]), csn_span_str(call[1]), csn_span_str("/workspace"),
                     csn_span_str("/home/user"), false};
  return (csn_action)csn_policy_tool(p, &c, &scratch).action;
}

/* The same of tools: one more deny never allows more, and a printed table is the table. */
static void tool_properties(void) {
  static char doc[4096], text[65536];
  uint32_t looser = 0, unstable = 0, differs = 0, stricter = 0;
  for (uint32_t round = 0; round < 3000; round++) {
    const uint32_t lists[3] = {rnd(1u << 14), rnd(1u << 14) & rnd(1u << 14) & rnd(1u << 14),
                               rnd(1u << 14) & rnd(1u << 14) & rnd(1u << 14)};
    bool listed = rnd(2);
    random_tools(doc, lists, listed, UINT32_MAX);
    if (compile(&policy, doc, false) != CSN_ERR_OK) abort();
    random_tools(doc, lists, listed, rnd(COUNT(tool_rules)));
    if (compile(&second, doc, false) != CSN_ERR_OK) abort();
    for (uint32_t i = 0; i < COUNT(calls); i++) {
      csn_action before = ask_tool(&policy, calls[i]), after = ask_tool(&second, calls[i]);
      if (after == CSN_ALLOW && before != CSN_ALLOW) looser++;
      if (after == CSN_DENY && before != CSN_DENY) stricter++;
    }
    csn_fx one = {box, sizeof box - 1, 0}, two = {box2, sizeof box2, 0};
    csn_policy_print(&second, &one);
    box[one.len] = 0;
    memcpy(text, box, one.len + 1);
    if (compile(&policy, text, false) != CSN_ERR_OK) abort();
    csn_policy_print(&policy, &two);
    if (two.len != strlen(text) || memcmp(box2, text, two.len) != 0) unstable++;
    for (uint32_t i = 0; i < COUNT(calls); i++)
      if (ask_tool(&policy, calls[i]) != ask_tool(&second, calls[i])) differs++;
  }
  ok(looser == 0, "adding a deny for a tool never allows more");
  ok(stricter > 1000, "and denies where it should: %u times", stricter);
  ok(unstable == 0 && differs == 0, "tool rules compiled, printed and compiled again are the same");
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

/* What a `[` may open is told by the byte before it; here the line has none. Memory before the text is not
 * read. */
static void bracket_first(void) {
  static const char *const LINES[] = {"''[", "\"\"[a]=1; rm x", "[", "[a"};
  compile(&policy, "{\"tools\":{\"deny\":[\"Bash(rm:*)\"]}}", false);
  for (uint32_t i = 0; i < sizeof LINES / sizeof *LINES; i++) {
    csn_tool_call call = {csn_span_str("Bash"), csn_span_str(LINES[i]), csn_span_str("/workspace"),
                          csn_span_str("/home/user"), false};
    bool rm = strstr(LINES[i], "rm") != NULL;
    ok((csn_policy_tool(&policy, &call, &arena).action == CSN_DENY) == rm, "%s %s", LINES[i],
       rm ? "is denied" : "is allowed");
  }
}

/* Each of these runs what follows it to the line's end: what that comes to together is bounded. */
static void many_runners(void) {
  static uint8_t line[32768];
  uint32_t len = 0;
  compile(&policy, "{\"tools\":{\"deny\":[\"Bash(rm:*)\"]}}", false);
  for (uint32_t runners = 1; runners <= 8; runners++) {
    memcpy(line + len, "env ", 4);
    len += 4;
    memset(line + len, 'a', 30000);
    csn_tool_call call = {csn_span_str("Bash"), csn_span_of(line, len + 30000), csn_span_str("/workspace"),
                          csn_span_str("/home/user"), false};
    csn_verdict v = csn_policy_tool(&policy, &call, &arena);
    if (runners <= 2) ok(v.action == CSN_ALLOW, "%u programs before a long word: seen to the end", runners);
    if (runners == 8)
      ok(v.action == CSN_DENY && v.why == CSN_WHY_DOUBT, "%u are not: the line is denied", runners);
  }
}

/* Of a wild card the shell may make several words: `touch git push; *` runs `git push`. */
static void wild_words(void) {
  static const struct {
    const char *line;
    bool denied;
  } LINES[] = {{"*", true},       {"g* -f", true},        {"git *", true},      {"g?t -v push", true},
               {"ls *", false},   {"*.sh x", false},      {"git add *", false}, {"./*.py", false},
               {"gi*y x", false}, {"git status *", false}};
  compile(&policy, "{\"tools\":{\"deny\":[\"Bash(git push:*)\"]}}", false);
  for (uint32_t i = 0; i < sizeof LINES / sizeof *LINES; i++) {
    csn_tool_call call = {csn_span_str("Bash"), csn_span_str(LINES[i].line), csn_span_str("/workspace"),
                          csn_span_str("/home/user"), false};
    ok((csn_policy_tool(&policy, &call, &arena).action == CSN_DENY) == LINES[i].denied, "%s %s",
       LINES[i].line, LINES[i].denied ? "is denied" : "is allowed");
  }
}

/* Where `rm` hides, and what is close to it and hides nothing. */
static void hidden_commands(void) {
  static const char *const DENIED[] = {"echo $((#$(rm x)\n))",
                                       "echo $(( #$(rm x)\n))",
                                       "((#$(rm x)\n))",
                                       "echo $((1) # $(rm x)\n))",
                                       "a[1 #$(rm x)\n]=3",
                                       "a[b[1] #$(rm x)\n]=3",
                                       "a[b[1]+c[2] #$(rm x)\n]=3",
                                       "echo ${x:-<(rm x)}",
                                       "env =1 rm x",
                                       "env 'a b=1' rm x",
                                       "env -S'rm x'",
                                       "env -Srm x",
                                       "env -vSrm x",
                                       "echo \"`r\\\\\\\nm x`\"",
                                       "env --split-string=rm x",
                                       "env --split-string='rm x'",
                                       "su --command='rm x'",
                                       "script -c'rm x' f",
                                       "X='a; rm x'; sh -c \"echo $X\"",
                                       "X='a; rm x'; eval \"echo $X\"",
                                       "bash <(echo rm x)",
                                       "source <(echo rm x)",
                                       "source /dev/stdin <<< 'rm x'",
                                       "bash /dev/stdin < f",
                                       ". /proc/self/fd/3",
                                       "bash $X",
                                       "timeout .5 rm x",
                                       "timeout inf rm x",
                                       "bash rm x",
                                       "bash -e /bin/rm x",
                                       "x='$(rm y)'; echo ${x@P}",
                                       "[[ '#a' =~ (#a) && -z $(rm x) ]]",
                                       "[[ a =~ (a #b) && -z $(rm x) ]]",
                                       "ls @(#x|$(rm x))"};
  static const char *const ALLOWED[] = {"x=$((1+2)) # it is\nls",
                                        "a[0]=1 # x\nls",
                                        "a[b[1]]=2\nls",
                                        "x=$((1+2))\n(\n# a comment\nls\n)",
                                        "(a; (b)) # x\nls",
                                        "a=(\n# x\nb)",
                                        "if [[ -f a ]]; then\n# x\nls; fi",
                                        "timeout 5 make rm",
                                        "xargs -P$(nproc) -n1 -I{} -d'\\n' ls {}",
                                        "nice -n$N make",
                                        "sudo ./run.sh rm",
                                        "bash x.sh rm",
                                        "bash x.sh $X",
                                        "bash \"$D/x.sh\"",
                                        ". \"$D/bin/activate\"",
                                        "bash -euo pipefail x.sh",
                                        "env A=\"b $C\" make CFLAGS=\"-O2 -g\"",
                                        "timeout 5 curl -H \"a: $T\" u",
                                        "trap \"kill 1\" EXIT"};
  compile(&policy, "{\"tools\":{\"deny\":[\"Bash(rm:*)\"]}}", false);
  for (uint32_t i = 0; i < (sizeof DENIED + sizeof ALLOWED) / sizeof *DENIED; i++) {
    bool denied = i < sizeof DENIED / sizeof *DENIED;
    const char *line = denied ? DENIED[i] : ALLOWED[i - sizeof DENIED / sizeof *DENIED];
    csn_tool_call call = {csn_span_str("Bash"), csn_span_str(line), csn_span_str("/workspace"),
                          csn_span_str("/home/user"), false};
    ok((csn_policy_tool(&policy, &call, &arena).action == CSN_DENY) == denied, "%.*s is %s",
       (int)strcspn(line, "\n"), line, denied ? "denied" : "allowed");
  }
}

/* The copy of the line that is worked in has room for it and no more; a sanitizer sees a byte behind it. */
static void no_room_behind(void) {
  static const char *const LINES[] = {"setsid -", "nohup --", "setsid .", "setsid =", "setsid /",
                                      "bash -c ", ". source", "trap -- ", "eval -- ", "source .",
                                      "a | bash", "sh<<ABCD", "echo a\\b"};
  compile(&policy, "{\"tools\":{\"deny\":[\"Bash(rm:*)\"]}}", false);
  for (uint32_t i = 0; i < sizeof LINES / sizeof *LINES; i++) {
    csn_arena exact = {malloc(8), 8, 0};
    csn_tool_call call = {csn_span_str("Bash"), csn_span_str(LINES[i]), csn_span_str("/workspace"),
                          csn_span_str("/home/user"), false};
    csn_verdict v = csn_policy_tool(&policy, &call, &exact);
    ok(call.arg.len == 8 && v.why != CSN_WHY_RULE, "%s", LINES[i]);
    free(exact.base);
  }
}

/* What a wild card matches, by trying everything. */
static bool tried(const char *pattern, const char *text) {
  if (*pattern == 0) return *text == 0;
  if (*pattern == '*') return tried(pattern + 1, text) || (*text != 0 && tried(pattern, text + 1));
  return *text != 0 && (*pattern == '?' || *pattern == *text) && tried(pattern + 1, text + 1);
}

/* The `n`th text over the letters, the shorter ones first. */
static const char *nth(uint32_t n, const char *letters, char out[9]) {
  uint32_t base = (uint32_t)strlen(letters), len = 0;
  for (; n > 0 && len < 8; n = (n - 1) / base)
    out[len++] = letters[(n - 1) % base];
  out[len] = 0;
  return out;
}

static void globs_by_trying(void) {
  char pattern[9], text[9];
  uint32_t wrong = 0, matches = 0;
  for (uint32_t i = 0; i < 1365; i++)    /* up to five letters */
    for (uint32_t k = 0; k < 127; k++) { /* up to six */
      csn_span p = csn_span_str(nth(i, "ab*?", pattern)), t = csn_span_str(nth(k, "ab", text));
      bool want = tried(pattern, text);
      matches += want;
      wrong += csn_glob_path(p, t) != want;
      if (strchr(pattern, '?') == NULL) wrong += csn_glob_text(p, t) != want;
    }
  ok(wrong == 0 && matches > 1000, "wild cards match what trying everything finds (%u)", matches);
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
  specificity();
  special_ranges();
  tool_properties();
  bounds();
  layers();
  cut_calls();
  bracket_first();
  many_runners();
  wild_words();
  hidden_commands();
  no_room_behind();
  globs_by_trying();
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
