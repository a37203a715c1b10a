/* Policies of other tools: what each setting becomes, what is said to have no equal, and what is refused. The
 * printed table is what is compared: it answers all questions. */
#include "csn/policy.h"

#include "csn/json.h"
#include "tap.h"

static csn_policy policy, again;
static csn_json reader;
static _Alignas(8) uint8_t memory[CSN_ARENA_CAP], box[CSN_POLICY_PRINT_MAX], box2[CSN_POLICY_PRINT_MAX];
static csn_arena arena = {memory, sizeof memory, 0};
static csn_pointer bad;
static char report[8192];

static csn_err compile(csn_policy *p, csn_policy_dialect d, csn_span doc) {
  uint8_t *copy = guarded(doc.ptr, doc.len);
  csn_fx out = {(uint8_t *)report, sizeof report - 1, 0};
  csn_err err = csn_policy_compile(p, &arena, csn_span_of(copy, doc.len), &d, false, &out, &bad);
  report[out.len] = 0;
  unguard(copy, doc.len);
  return err;
}

static csn_span print(csn_policy *p, uint8_t *room) {
  csn_fx out = {room, CSN_POLICY_PRINT_MAX, 0};
  csn_policy_print(p, &out);
  return csn_span_of(room, out.len);
}

/* The pointers of the report, in order, each behind a space. */
static const char *pointers(void) {
  static char all[8192];
  size_t n = 0;
  for (const char *at = report; (at = strstr(at, "\"pointer\":\"")) != NULL;) {
    at += 11;
    size_t len = strcspn(at, "\"");
    n += (size_t)snprintf(all + n, sizeof all - n, " %.*s", (int)len, at);
  }
  all[n] = 0;
  return all;
}

/* `doc` becomes `network` and `tools` (parts of the printed table) and leaves `unmapped`. */
static void reads(csn_policy_dialect d, const char *doc, const char *network, const char *tools,
                  const char *unmapped) {
  csn_err err = compile(&policy, d, csn_span_str(doc));
  csn_span text = print(&policy, box);
  static char whole[CSN_POLICY_PRINT_MAX + 1];
  memcpy(whole, text.ptr, text.len);
  whole[text.len] = 0;
  bool valid = csn_json_is_valid(&reader, text);
  bool same = compile(&again, CSN_POLICY_OWN, text) == CSN_ERR_OK;
  csn_span second = print(&again, box2);
  same = same && second.len == text.len && memcmp(second.ptr, text.ptr, text.len) == 0;
  err = err == CSN_ERR_OK ? compile(&policy, d, csn_span_str(doc)) : err;
  bool good = err == CSN_ERR_OK && valid && strstr(whole, network) != NULL && strstr(whole, tools) != NULL &&
              strcmp(pointers(), unmapped) == 0;
  if (!good || !same) printf("# %d at %.*s\n# %s\n#%s\n", err, (int)bad.len, bad.bytes, whole, pointers());
  ok(good, "%s", doc);
  ok(same, "printed, compiled again and printed it is the same");
}

static void refuses(csn_policy_dialect d, const char *doc, csn_err want, const char *pointer) {
  csn_err err = compile(&policy, d, csn_span_str(doc));
  csn_host host;
  csn_host_parse(csn_span_str("a.test"), &host);
  bool denies = csn_policy_net(&policy, &host, 443, NULL).action == CSN_DENY;
  bool at = bad.len == strlen(pointer) && memcmp(bad.bytes, pointer, bad.len) == 0;
  ok(err == want && at && denies, "%s: %d at %.*s, and everything is denied", doc, err, (int)bad.len,
     bad.bytes);
}

static void claude(void) {
  const csn_policy_dialect d = CSN_POLICY_CLAUDE;
  reads(d,
        "{\"$schema\":\"x\",\"sandbox\":{\"enabled\":true,\"failIfUnavailable\":true,\"excludedCommands\":["
        "\"docker\"],"
        "\"allowUnsandboxedCommands\":false,\"new\":1,\"network\":{\"allowedDomains\":[\"a.test\",\"*.b."
        "test\"],"
        "\"deniedDomains\":[\"x.b.test\"],\"allowLocalBinding\":true,\"allowUnixSockets\":[],"
        "\"allowAllUnixSockets\":true,\"httpProxyPort\":1}},\"model\":\"m\"}",
        "\"allow\":[\"a.test\",\"*.b.test\"],\"deny\":[\"x.b.test\"]", "\"tools\":{\"deny\":[]",
        " /sandbox/enabled /sandbox/failIfUnavailable /sandbox/excludedCommands "
        "/sandbox/allowUnsandboxedCommands /sandbox/new /sandbox/network/allowLocalBinding "
        "/sandbox/network/allowUnixSockets /sandbox/network/allowAllUnixSockets "
        "/sandbox/network/httpProxyPort /model");
  reads(
      d,
      "{\"sandbox\":{\"filesystem\":{\"denyRead\":[\"/etc/shadow\",\"~/.ssh\"],\"denyWrite\":[\"secret/**\"],"
      "\"allowWrite\":[\"/tmp\"]}}}",
      "\"allow\":[]", "\"deny\":[\"Read(//etc/shadow)\",\"Read(~/.ssh)\",\"Edit(secret/**)\"]",
      " /sandbox/filesystem/allowWrite");
#define FREE "\"Read\",\"Glob\",\"Grep\",\"LS\",\"TodoWrite\",\"Task\",\"ExitPlanMode\",\"BashOutput\"]"
  reads(d,
        "{\"permissions\":{\"allow\":[\"Bash(ls:*)\"],\"deny\":[\"WebFetch\"],\"ask\":[\"Bash(git:*)\"],"
        "\"additionalDirectories\":[]}}",
        "",
        "\"tools\":{\"allow\":[\"Bash(ls:*)\"," FREE ",\"deny\":[\"WebFetch\"],\"ask\":[\"Bash(git:*)\"]}",
        " /permissions/additionalDirectories");
  reads(d, "{\"permissions\":{\"defaultMode\":\"acceptEdits\"}}", "", "\"tools\":{\"allow\":[\"Edit\"," FREE,
        "");
  reads(d, "{\"permissions\":{\"defaultMode\":\"dontAsk\"}}", "", "\"tools\":{\"allow\":[" FREE, "");
  reads(d, "{\"permissions\":{\"defaultMode\":\"plan\"}}", "", "\"tools\":{\"allow\":[" FREE,
        " /permissions/defaultMode");
  reads(d, "{\"permissions\":{\"defaultMode\":\"bypassPermissions\",\"deny\":[\"Bash(rm:*)\"]}}", "",
        "\"tools\":{\"deny\":[\"Bash(rm:*)\"]", "");
  refuses(d, "{\"sandbox\":[]}", CSN_ERR_BAD_TYPE, "/sandbox");
  refuses(d, "{\"sandbox\":{\"network\":1}}", CSN_ERR_BAD_TYPE, "/sandbox/network");
  refuses(d, "{\"sandbox\":{\"network\":{\"allowedDomains\":[\"a b\"]}}}", CSN_ERR_BAD_VALUE,
          "/sandbox/network/allowedDomains/0");
  refuses(d, "{\"sandbox\":{\"filesystem\":7}}", CSN_ERR_BAD_TYPE, "/sandbox/filesystem");
  refuses(d, "{\"sandbox\":{\"filesystem\":{\"denyRead\":[\"a\",3]}}}", CSN_ERR_BAD_TYPE,
          "/sandbox/filesystem/denyRead/1");
  refuses(d, "{\"permissions\":\"all\"}", CSN_ERR_BAD_TYPE, "/permissions");
  refuses(d, "{\"permissions\":{\"defaultMode\":1}}", CSN_ERR_BAD_TYPE, "/permissions/defaultMode");
  refuses(d, "{\"permissions\":{\"allow\":[\"a.test\",\"Bash(\"]}}", CSN_ERR_BAD_VALUE,
          "/permissions/allow/1");
  refuses(d, "{\"sandbox\":{},\"sandbox\":{}}", CSN_ERR_BAD_VALUE, "/sandbox");
}

static void e2b(void) {
  const csn_policy_dialect d = CSN_POLICY_E2B;
  reads(d, "{\"network\":{\"allowOut\":[\"a.test\",\"8.8.8.8\"],\"denyOut\":[\"0.0.0.0/0\"]}}",
        "\"default\":\"allow\",\"allow\":[\"a.test\",\"8.8.8.8\"],\"deny\":[\"*\"]", "", "");
  reads(d, "{\"network\":{\"allow_out\":[\"a.test\"]},\"allow_internet_access\":false}",
        "\"default\":\"deny\",\"allow\":[\"a.test\"]", "", "");
  reads(d, "{\"network\":{\"deny_out\":[\"b.test\"],\"maskRequestHost\":\"x\"}}",
        "\"default\":\"allow\",\"allow\":[],\"deny\":[\"b.test\"]", "", " /network/maskRequestHost");
  reads(d,
        "{\"network\":{\"denyOut\":[\"b.test\"],\"rules\":{\"api.test\":[{\"transform\":{\"headers\":"
        "{\"authorization\":\"Bearer ${TOKEN}!\",\"x-plain\":\"value\",\"x-open\":\"${\",\"x-none\":\"${}\","
        "\"x-bad\":\"${a b}\"}}},"
        "{\"transform\":[{\"headers\":{\"x-key\":\"${K_2}\"}}]},{\"else\":1}]}}}",
        "\"inject\":[{\"host\":\"api.test\",\"header\":\"authorization\",\"secret\":\"TOKEN\",\"format\":"
        "\"Bearer "
        "{}!\"},{\"host\":\"api.test\",\"header\":\"x-key\",\"secret\":\"K_2\",\"format\":\"{}\"}]",
        "",
        " /network/rules/api.test/0/transform/headers/x-plain "
        "/network/rules/api.test/0/transform/headers/x-open "
        "/network/rules/api.test/0/transform/headers/x-none "
        "/network/rules/api.test/0/transform/headers/x-bad /network/rules/api.test/2");
  reads(d, "{\"allowOut\":[\"a.test\"]}", "\"default\":\"allow\",\"allow\":[\"a.test\"]", "", " ");
  refuses(d, "{\"network\":[]}", CSN_ERR_BAD_TYPE, "/network");
  refuses(d, "{\"network\":{\"allowOut\":[\"http://x\"]}}", CSN_ERR_BAD_VALUE, "/network/allowOut/0");
  refuses(d, "{\"network\":{\"rules\":[]}}", CSN_ERR_BAD_TYPE, "/network/rules");
  refuses(d, "{\"network\":{\"rules\":{\"a.test\":{}}}}", CSN_ERR_BAD_TYPE, "/network/rules/a.test");
  refuses(d, "{\"network\":{\"rules\":{\"a.test\":[{\"transform\":{\"headers\":[]}}]}}}", CSN_ERR_BAD_TYPE,
          "/network/rules/a.test/0/transform/headers");
  refuses(d, "{\"network\":{\"rules\":{\"a.test\":[{\"transform\":{\"headers\":{\"x\":1}}}]}}}",
          CSN_ERR_BAD_TYPE, "/network/rules/a.test/0/transform/headers/x");
  /* A credential for every host is one for an attacker's. */
  refuses(d, "{\"network\":{\"rules\":{\"*\":[{\"transform\":{\"headers\":{\"x\":\"${K}\"}}}]}}}",
          CSN_ERR_BAD_VALUE, "/network/rules/*/0/transform/headers/x");
  /* A name that would end its line is a second header. */
  refuses(d,
          "{\"network\":{\"rules\":{\"a.test\":[{\"transform\":{\"headers\":{\"x: 1\\r\\ny\":\"${K}\"}}}]}}}",
          CSN_ERR_BAD_VALUE, "/network/rules/a.test/0/transform/headers/x: 1\r\ny");
}

static void docker(void) {
  const csn_policy_dialect d = CSN_POLICY_DOCKER;
  reads(d,
        "{\"docker\":[\"--policy\",\"deny\",\"--allow-host=a.test\",\"--allow-cidr\",\"10.0.0.0/8\","
        "\"--block-host\",\"b.test:25\",\"--bypass-host=c.test\",\"--block-cidr=8.8.8.0/24\"]}",
        "\"default\":\"deny\",\"allow\":[\"a.test\",\"10.0.0.0/"
        "8\",\"c.test\"],\"deny\":[\"b.test:25\",\"8.8.8.0/24\"]",
        "", " /docker/7");
  reads(d, "{\"docker\":[]}", "\"default\":\"allow\",\"allow\":[]", "", "");
  refuses(d, "{\"docker\":{}}", CSN_ERR_BAD_TYPE, "/docker");
  refuses(d, "{\"docker\":[\"--nope=1\"]}", CSN_ERR_UNKNOWN_FIELD, "/docker/0");
  refuses(d, "{\"docker\":[\"--policy=deny\",\"--allow-host\"]}", CSN_ERR_MISSING_FIELD, "/docker/1");
  refuses(d, "{\"docker\":[\"--policy\",\"maybe\"]}", CSN_ERR_BAD_VALUE, "/docker/0");
  refuses(d, "{\"docker\":[1]}", CSN_ERR_BAD_TYPE, "/docker/0");
  refuses(d, "{\"docker\":[\"--allow-host\",1]}", CSN_ERR_BAD_TYPE, "/docker/0");
  refuses(d, "{\"docker\":[\"--allow-host=a b\"]}", CSN_ERR_BAD_VALUE, "/docker/0");
}

static void runtime(void) {
  const csn_policy_dialect d = CSN_POLICY_SANDBOX_RUNTIME;
  reads(d,
        "{\"network\":{\"allowedDomains\":[\"a.test\"]},\"filesystem\":{\"denyRead\":[\"~/"
        ".aws\"],\"denyWrite\":[]},"
        "\"ignoreViolations\":{}}",
        "\"allow\":[\"a.test\"]", "\"deny\":[\"Read(~/.aws)\"]", " /ignoreViolations");
  refuses(d, "{\"network\":0}", CSN_ERR_BAD_TYPE, "/network");
  refuses(d, "{\"filesystem\":{\"denyWrite\":\"x\"}}", CSN_ERR_BAD_TYPE, "/filesystem/denyWrite");
  refuses(d, "{\"network\":{},\"network\":{}}", CSN_ERR_BAD_VALUE, "/network");
}

/* What its own dialect has and the others have not. */
static void own(void) {
  const csn_policy_dialect d = CSN_POLICY_OWN;
  reads(d,
        "{\"limits\":{\"wall_s\":60,\"idle_s\":30,\"turns\":5,\"cost_usd\":1.25,\"output_bytes\":1000,"
        "\"memory_mb\":512,\"cpus\":0.5,\"processes\":64,\"disk_mb\":100},\"git\":{\"push_approval\":true}}",
        "\"limits\":{\"wall_s\":60,\"idle_s\":30,\"turns\":5,\"cost_usd\":1.25,\"output_bytes\":1000,"
        "\"memory_mb\":512,\"cpus\":0.5,\"processes\":64,\"disk_mb\":100}",
        "\"git\":{\"push_approval\":true}", "");
  reads(d, "{\"git\":{\"push\":{\"ask\":[\"A.test:8443/X/*.git\"],\"allow\":[\"a.test/X\",\"[::1]/y\"]}}}",
        "\"git\":{\"push_approval\":false,\"push\":{\"allow\":[\"a.test/X\",\"::1/y\"],\"deny\":[],"
        "\"ask\":[\"a.test:8443/x/*\"]}}",
        "", "");
  reads(d,
        "{\"network\":{\"allow\":[\"[2001:db8::1]:443\",\"2001:db8::/32\",\"10.0.0.0/"
        "8\"],\"inject\":[{\"host\":"
        "\"a.test\",\"secret\":\"S\",\"body\":true}]}}",
        "\"allow\":[\"[2001:db8::1]:443\",\"2001:db8::/32\",\"10.0.0.0/8\"]",
        "\"secret\":\"S\",\"body\":true}", "");
  refuses(d, "{\"limits\":{\"cpus\":0}}", CSN_ERR_OUT_OF_RANGE, "/limits/cpus");
  refuses(d, "{\"limits\":{\"cpus\":\"1\"}}", CSN_ERR_BAD_TYPE, "/limits/cpus");
  refuses(d, "{\"limits\":{\"cost_usd\":0.0000001}}", CSN_ERR_OUT_OF_RANGE, "/limits/cost_usd");
  refuses(d, "{\"limits\":{\"beer\":1}}", CSN_ERR_UNKNOWN_FIELD, "/limits/beer");
  refuses(d, "{\"git\":{\"force\":true}}", CSN_ERR_UNKNOWN_FIELD, "/git/force");
  refuses(d, "{\"git\":{\"push_approval\":1}}", CSN_ERR_BAD_TYPE, "/git/push_approval");
  refuses(d, "{\"tools\":{\"maybe\":[]}}", CSN_ERR_UNKNOWN_FIELD, "/tools/maybe");
  refuses(d, "{\"artifacts\":{\"maybe\":[]}}", CSN_ERR_UNKNOWN_FIELD, "/artifacts/maybe");
  refuses(d, "{\"network\":{\"inject\":[{\"host\":\"a.test\",\"secret\":\"S\",\"body\":1}]}}",
          CSN_ERR_BAD_TYPE, "/network/inject/0/body");
  refuses(d, "{\"network\":{\"inject\":[{\"host\":\"a.test\",\"secret\":\"S\",\"x\":\"1\"}]}}",
          CSN_ERR_UNKNOWN_FIELD, "/network/inject/0/x");
  refuses(d, "{\"network\":{\"inject\":[{\"host\":\"a.test\",\"secret\":\"S\",\"format\":\"{}\"}]}}",
          CSN_ERR_BAD_VALUE, "/network/inject/0/format");
}

int main(void) {
  claude();
  e2b();
  docker();
  runtime();
  own();
  return done();
}
