#include "drive.h"

static drive d;
static char *big;

/* A document with the text `fill` repeated `n` times in place of %s. */
static const char *repeat(const char *format, const char *fill, uint32_t n) {
  size_t unit = strlen(fill), cap = unit * n + strlen(format) + 1;
  const char *hole = strstr(format, "%s");
  big = realloc(big, cap);
  char *p = big;
  memcpy(p, format, (size_t)(hole - format));
  p += hole - format;
  for (uint32_t i = 0; i < n; i++, p += unit)
    memcpy(p, fill, unit);
  strcpy(p, hole + 2);
  return big;
}

static void refused(csn_ev kind, const char *doc, csn_err want, const char *pointer) {
  d.pointer[0] = 1;
  static uint8_t before[CSN_SNAPSHOT_MAX], after[CSN_SNAPSHOT_MAX];
  int32_t before_len = csn_session_save(&d.s, before, sizeof before);
  csn_err got = drive_ev(&d, kind, 0, doc);
  int32_t after_len = csn_session_save(&d.s, after, sizeof after);
  bool same = before_len == after_len && memcmp(before, after, (size_t)before_len) == 0;
  ok(got == want && strcmp(d.pointer, pointer) == 0 && same, "%d at %s: %.60s (got %d at %s)", want, pointer,
     doc, got, d.pointer);
}

static void create(const char *doc, csn_err want, const char *pointer) {
  drive_init(&d);
  if (want != CSN_ERR_OK)
    refused(CSN_EV_CREATE, doc, want, pointer);
  else
    ok(drive_ev(&d, CSN_EV_CREATE, 0, doc) == CSN_ERR_OK, "created: %.60s", doc);
}

static void run(const char *agent, const char *doc, csn_err want, const char *pointer) {
  char text[64];
  drive_init(&d);
  snprintf(text, sizeof text, "{\"agent\":\"%s\"}", agent);
  drive_ev(&d, CSN_EV_CREATE, 0, text);
  if (want != CSN_ERR_OK)
    refused(CSN_EV_RUN, doc, want, pointer);
  else
    ok(drive_ev(&d, CSN_EV_RUN, 0, doc) == CSN_ERR_OK, "queued: %.60s", doc);
}

static char *env_of(uint32_t count, uint32_t bytes_each) {
  static char text[1u << 17];
  char *p = text + sprintf(text, "{\"agent\":\"shell\",\"env\":{");
  for (uint32_t i = 0; i < count; i++) {
    p += sprintf(p, "%s\"A%02u\":\"", i == 0 ? "" : ",", i);
    memset(p, 'v', bytes_each - 3);
    p += bytes_each - 3;
    p += sprintf(p, "\"");
  }
  sprintf(p, "}}");
  return text;
}

#define AGENT "{\"agent\":\"claude-code\","

static void mcp_requests(void) {
  create(AGENT "\"mcp\":{}}", CSN_ERR_OK, "");
  create(AGENT "\"mcp\":{\"a-b_1\":{\"command\":\"node\",\"args\":[\"x\",\"\"],\"env\":{\"K\":\"v\"}},"
               "\"r\":{\"headers\":{\"X-Y\":\"\"},\"url\":\"https://h/p\"}}}",
         CSN_ERR_OK, "");
  create(AGENT "\"mcp\":[]}", CSN_ERR_BAD_TYPE, "/mcp");
  create(AGENT "\"mcp\":{\"a\":1}}", CSN_ERR_BAD_TYPE, "/mcp/a");
  create(AGENT "\"mcp\":{\"a\":{}}}", CSN_ERR_MISSING_FIELD, "/mcp/a/command");
  create(AGENT "\"mcp\":{\"a b\":{\"command\":\"x\"}}}", CSN_ERR_BAD_VALUE, "/mcp/a b");
  create(AGENT "\"mcp\":{\"-a\":{\"command\":\"x\"}}}", CSN_ERR_BAD_VALUE, "/mcp/-a");
  create(AGENT "\"mcp\":{\"a\":{\"command\":\"x\"},\"a\":{\"command\":\"x\"}}}", CSN_ERR_BAD_VALUE, "/mcp/a");
  create(AGENT "\"mcp\":{\"a\":{\"command\":\"\"}}}", CSN_ERR_BAD_VALUE, "/mcp/a/command");
  create(AGENT "\"mcp\":{\"a\":{\"command\":\"x\",\"cwd\":\"/\"}}}", CSN_ERR_UNKNOWN_FIELD, "/mcp/a/cwd");
  create(AGENT "\"mcp\":{\"a\":{\"command\":\"x\",\"command\":\"y\"}}}", CSN_ERR_BAD_VALUE, "/mcp/a/command");
  create(AGENT "\"mcp\":{\"a\":{\"command\":\"x\",\"url\":\"http://h\"}}}", CSN_ERR_BAD_VALUE,
         "/mcp/a/command");
  create(AGENT "\"mcp\":{\"a\":{\"url\":\"http://h\",\"env\":{}}}}", CSN_ERR_BAD_VALUE, "/mcp/a/env");
  create(AGENT "\"mcp\":{\"a\":{\"command\":\"x\",\"headers\":{}}}}", CSN_ERR_BAD_VALUE, "/mcp/a/headers");
  create(AGENT "\"mcp\":{\"a\":{\"command\":\"x\",\"args\":\"y\"}}}", CSN_ERR_BAD_TYPE, "/mcp/a/args");
  create(AGENT "\"mcp\":{\"a\":{\"command\":\"x\",\"args\":[\"y\",2]}}}", CSN_ERR_BAD_TYPE, "/mcp/a/args/1");
  create(AGENT "\"mcp\":{\"a\":{\"command\":\"x\",\"env\":{\"A=\":\"\"}}}}", CSN_ERR_BAD_VALUE,
         "/mcp/a/env/A=");
  create(AGENT "\"mcp\":{\"a\":{\"url\":\"file:///etc\"}}}", CSN_ERR_BAD_VALUE, "/mcp/a/url");
  create(AGENT "\"mcp\":{\"a\":{\"url\":\"http://h/ x\"}}}", CSN_ERR_BAD_VALUE, "/mcp/a/url");
  create(AGENT "\"mcp\":{\"a\":{\"url\":\"http://h\",\"headers\":{\"a\":\"x\\r\\ny: z\"}}}}",
         CSN_ERR_BAD_VALUE, "/mcp/a/headers/a");
  create(AGENT "\"mcp\":{\"a\":{\"url\":\"http://h\",\"headers\":{\"a b\":\"\"}}}}", CSN_ERR_BAD_VALUE,
         "/mcp/a/headers/a b");
  create(repeat(AGENT "\"mcp\":{\"a\":{\"command\":\"%s\"}}}", "c", CSN_MCP_BYTES_MAX - 1), CSN_ERR_OK, "");
  create(repeat(AGENT "\"mcp\":{\"a\":{\"command\":\"%s\"}}}", "c", CSN_MCP_BYTES_MAX), CSN_ERR_TOO_LONG,
         "/mcp/a/command");
  char servers[2000];
  for (uint32_t count = CSN_MCP_COUNT_MAX; count <= CSN_MCP_COUNT_MAX + 1; count++) {
    char *p = servers + sprintf(servers, AGENT "\"mcp\":{");
    for (uint32_t i = 0; i < count; i++)
      p += sprintf(p, "%s\"s%u\":{\"command\":\"x\"}", i == 0 ? "" : ",", i);
    strcpy(p, "}}");
    create(servers, count > CSN_MCP_COUNT_MAX ? CSN_ERR_TOO_LONG : CSN_ERR_OK, "/mcp");
  }
}

static void tool_requests(void) {
  create(AGENT "\"tools\":{\"allow\":[\"Read\",\"Bash(git diff:*)\",\"mcp__a__*\"],\"deny\":[]}}", CSN_ERR_OK,
         "");
  create(AGENT "\"tools\":[]}", CSN_ERR_BAD_TYPE, "/tools");
  create(AGENT "\"tools\":{\"ask\":[]}}", CSN_ERR_UNKNOWN_FIELD, "/tools/ask");
  create(AGENT "\"tools\":{\"deny\":[],\"deny\":[]}}", CSN_ERR_BAD_VALUE, "/tools/deny");
  create(AGENT "\"tools\":{\"deny\":\"Bash\"}}", CSN_ERR_BAD_TYPE, "/tools/deny");
  create(AGENT "\"tools\":{\"deny\":[\"Bash\",1]}}", CSN_ERR_BAD_TYPE, "/tools/deny/1");
  static const char *const bad[] = {"",       "-x",       "(x)", "Bash(",    "Bash()",
                                    "Bash(x", "Bash(x)y", "a b", "Bash(\\n)"};
  for (uint32_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    char text[100];
    sprintf(text, AGENT "\"tools\":{\"deny\":[\"%s\"]}}", bad[i]);
    create(text, CSN_ERR_BAD_VALUE, "/tools/deny/0");
  }
  char rules[2000];
  for (uint32_t count = CSN_TOOL_RULES_COUNT_MAX; count <= CSN_TOOL_RULES_COUNT_MAX + 1; count++) {
    char *p = rules + sprintf(rules, AGENT "\"tools\":{\"deny\":[");
    for (uint32_t i = 0; i < count; i++)
      p += sprintf(p, "%s\"R%u\"", i == 0 ? "" : ",", i);
    strcpy(p, "]}}");
    create(rules, count > CSN_TOOL_RULES_COUNT_MAX ? CSN_ERR_TOO_LONG : CSN_ERR_OK, "/tools/deny/128");
  }
  create(repeat(AGENT "\"tools\":{\"deny\":[\"%s\"]}}", "R", CSN_TOOL_RULES_BYTES_MAX), CSN_ERR_OK, "");
  create(repeat(AGENT "\"tools\":{\"deny\":[\"%s\"]}}", "R", CSN_TOOL_RULES_BYTES_MAX + 1), CSN_ERR_TOO_LONG,
         "/tools/deny/0");
}

/* What an agent has no means for is refused by name, wherever "agent" stands in the document. */
static void unsupported(void) {
  create("{\"mcp\":{\"a\":{\"command\":\"x\"}},\"agent\":\"shell\"}", CSN_ERR_UNSUPPORTED, "/mcp");
  create("{\"tools\":{\"deny\":[\"x\"]},\"agent\":\"codex\"}", CSN_ERR_UNSUPPORTED, "/tools");
  create("{\"agent\":\"codex\",\"tools\":{}}", CSN_ERR_OK, "");
  create("{\"agent\":\"gemini\",\"tools\":{\"allow\":[\"read_file\"],\"deny\":[\"x\",\"run_shell_command(rm)"
         "\"]}}",
         CSN_ERR_OK, "");
  create("{\"agent\":\"gemini\",\"tools\":{\"allow\":[\"read_file\"],\"deny\":[\"x\",\"write_file(a)\"]}}",
         CSN_ERR_UNSUPPORTED, "/tools/deny/1");
  run("codex", "{\"prompt\":\"x\",\"max_turns\":1}", CSN_ERR_UNSUPPORTED, "/max_turns");
  run("opencode", "{\"prompt\":\"x\",\"max_turns\":1}", CSN_ERR_UNSUPPORTED, "/max_turns");
  run("gemini", "{\"prompt\":\"x\",\"max_turns\":1}", CSN_ERR_OK, "");
  run("gemini", "{\"prompt\":\"x\",\"fork\":true}", CSN_ERR_UNSUPPORTED, "/fork");
  run("codex", "{\"prompt\":\"x\",\"fork\":true}", CSN_ERR_OK, "");
  run("opencode", "{\"prompt\":\"x\",\"partial_messages\":true}", CSN_ERR_UNSUPPORTED, "/partial_messages");
  run("codex", "{\"prompt\":\"x\",\"output_format\":\"json\"}", CSN_ERR_UNSUPPORTED, "/output_format");
  run("claude-code", "{\"prompt\":\"x\",\"output_format\":\"yaml\"}", CSN_ERR_BAD_VALUE, "/output_format");
  run("claude-code", "{\"prompt\":\"x\",\"output_format\":\"json\",\"partial_messages\":true}",
      CSN_ERR_BAD_VALUE, "/partial_messages");
  run("claude-code", "{\"prompt\":\"x\",\"partial_messages\":1}", CSN_ERR_BAD_TYPE, "/partial_messages");
  run("claude-code", "{\"prompt\":\"x\",\"fork\":true,\"resume\":false}", CSN_ERR_BAD_VALUE, "/fork");
  run("claude-code", "{\"prompt\":\"x\",\"resume\":\"nobody\"}", CSN_ERR_BAD_VALUE, "/resume");
  run("claude-code", "{\"prompt\":\"x\",\"resume\":\"--help\"}", CSN_ERR_BAD_VALUE, "/resume");
  run("claude-code", "{\"prompt\":\"x\",\"resume\":\"\"}", CSN_ERR_BAD_VALUE, "/resume");
  run("claude-code", "{\"prompt\":\"x\",\"resume\":7}", CSN_ERR_BAD_TYPE, "/resume");
  run("claude-code", "{\"command\":\"x\",\"fork\":true}", CSN_ERR_BAD_VALUE, "/fork");
  run("claude-code", "{\"command\":\"x\",\"resume\":\"a\"}", CSN_ERR_BAD_VALUE, "/resume");
}

int main(void) {
  mcp_requests();
  tool_requests();
  unsupported();
  create("{\"agent\":\"claude-code\"}", CSN_ERR_OK, "");
  create(" {\"agent\" : \"shell\", \"timeout_s\": 1 } ", CSN_ERR_OK, "");
  create("{}", CSN_ERR_MISSING_FIELD, "/agent");
  create("", CSN_ERR_BAD_JSON, "");
  create("[]", CSN_ERR_BAD_JSON, "");
  create("null", CSN_ERR_BAD_JSON, "");
  create("{\"agent\":\"shell\"}x", CSN_ERR_BAD_JSON, "");
  create("{\"agent\":\"shell\",}", CSN_ERR_BAD_JSON, "");
  create("{\"agent\":\"\\ud800\"}", CSN_ERR_BAD_JSON, "");
  create("{\"agent\":\"\xff\"}", CSN_ERR_BAD_JSON, "");
  create("{\"agent\":\"emacs\"}", CSN_ERR_UNKNOWN_AGENT, "/agent");
  create("{\"agent\":\"\"}", CSN_ERR_UNKNOWN_AGENT, "/agent");
  create("{\"agent\":7}", CSN_ERR_BAD_TYPE, "/agent");
  create("{\"agent\":\"shell\",\"agent\":\"shell\"}", CSN_ERR_BAD_VALUE, "/agent");
  create("{\"agent\":\"shell\",\"Agent\":\"shell\"}", CSN_ERR_UNKNOWN_FIELD, "/Agent");
  create("{\"agent\":\"shell\",\"a/b~c\":1}", CSN_ERR_UNKNOWN_FIELD, "/a~1b~0c");
  create("{\"agent\":\"shell\",\"system_prompt\":\"a\\u0000b\"}", CSN_ERR_BAD_VALUE, "");
  create("{\"agent\":\"shell\",\"system_prompt\":null}", CSN_ERR_BAD_TYPE, "/system_prompt");
  create("{\"agent\":\"shell\",\"model\":\"\"}", CSN_ERR_BAD_VALUE, "/model");
  create("{\"agent\":\"shell\",\"model\":\"--help\"}", CSN_ERR_BAD_VALUE, "/model");
  create("{\"agent\":\"shell\",\"model\":\"a b\"}", CSN_ERR_BAD_VALUE, "/model");
  create("{\"agent\":\"shell\",\"model\":\"us.x/claude-4:1@2[1m]\"}", CSN_ERR_OK, "");
  create("{\"agent\":\"shell\",\"timeout_s\":0}", CSN_ERR_OUT_OF_RANGE, "/timeout_s");
  create("{\"agent\":\"shell\",\"timeout_s\":-1}", CSN_ERR_OUT_OF_RANGE, "/timeout_s");
  create("{\"agent\":\"shell\",\"timeout_s\":1.5}", CSN_ERR_BAD_VALUE, "/timeout_s");
  create("{\"agent\":\"shell\",\"timeout_s\":1e999}", CSN_ERR_OUT_OF_RANGE, "/timeout_s");
  create("{\"agent\":\"shell\",\"timeout_s\":\"60\"}", CSN_ERR_BAD_TYPE, "/timeout_s");
  create("{\"agent\":\"shell\",\"timeout_s\":86400}", CSN_ERR_OK, "");
  create("{\"agent\":\"shell\",\"timeout_s\":86401}", CSN_ERR_OUT_OF_RANGE, "/timeout_s");
  create("{\"agent\":\"shell\",\"env\":[]}", CSN_ERR_BAD_TYPE, "/env");
  create("{\"agent\":\"shell\",\"env\":{\"A\":1}}", CSN_ERR_BAD_TYPE, "/env/A");
  create("{\"agent\":\"shell\",\"env\":{\"A=B\":\"\"}}", CSN_ERR_BAD_VALUE, "/env/A=B");
  create("{\"agent\":\"shell\",\"env\":{\"1A\":\"\"}}", CSN_ERR_BAD_VALUE, "/env/1A");
  create("{\"agent\":\"shell\",\"env\":{\"\":\"\"}}", CSN_ERR_BAD_VALUE, "/env/");
  create("{\"agent\":\"shell\",\"env\":{\"A\":\"1\",\"A\":\"2\"}}", CSN_ERR_BAD_VALUE, "/env/A");
  create("{\"agent\":\"shell\",\"env\":{\"_a1\":\"\"}}", CSN_ERR_OK, "");
  create(env_of(CSN_ENV_COUNT_MAX, 8), CSN_ERR_OK, "");
  create(env_of(CSN_ENV_COUNT_MAX + 1, 8), CSN_ERR_TOO_LONG, "/env");
  create(env_of(1, CSN_ENV_BYTES_MAX - 1), CSN_ERR_OK, "");
  create(env_of(1, CSN_ENV_BYTES_MAX), CSN_ERR_OK, "");
  create(env_of(1, CSN_ENV_BYTES_MAX + 1), CSN_ERR_TOO_LONG, "/env/A00");
  create(repeat("{\"agent\":\"shell\",\"system_prompt\":\"%s\"}", "x", CSN_SYSTEM_PROMPT_MAX), CSN_ERR_OK,
         "");
  create(repeat("{\"agent\":\"shell\",\"system_prompt\":\"%s\"}", "x", CSN_SYSTEM_PROMPT_MAX + 1),
         CSN_ERR_TOO_LONG, "/system_prompt");
  create(repeat("{\"agent\":\"shell\",\"model\":\"%s\"}", "x", CSN_MODEL_MAX), CSN_ERR_OK, "");
  create(repeat("{\"agent\":\"shell\",\"model\":\"%s\"}", "x", CSN_MODEL_MAX + 1), CSN_ERR_TOO_LONG,
         "/model");
  create("{\"agent\":\"shell\",\"template\":\"debian-12_x\"}", CSN_ERR_OK, "");
  create("{\"agent\":\"shell\",\"template\":7}", CSN_ERR_BAD_TYPE, "/template");
  create("{\"agent\":\"shell\",\"template\":\"a\",\"template\":\"a\"}", CSN_ERR_BAD_VALUE, "/template");
  static const char *const names[] = {"", "-a", "_a", "A", "a.b", "a/b", "..", "a b", "a\\u00e9"};
  for (uint32_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    char text[100];
    sprintf(text, "{\"agent\":\"shell\",\"template\":\"%s\"}", names[i]);
    create(text, CSN_ERR_BAD_VALUE, "/template");
  }
  create(repeat("{\"agent\":\"shell\",\"template\":\"%s\"}", "x", CSN_TEMPLATE_MAX), CSN_ERR_OK, "");
  create(repeat("{\"agent\":\"shell\",\"template\":\"%s\"}", "x", CSN_TEMPLATE_MAX + 1), CSN_ERR_TOO_LONG,
         "/template");
  create(repeat("{\"agent\":\"shell\",\"x\":[1%s]}", ",1", CSN_DOC_VALUES_MAX - 4), CSN_ERR_UNKNOWN_FIELD,
         "/x");
  create(repeat("{\"agent\":\"shell\",\"x\":[1%s]}", ",1", CSN_DOC_VALUES_MAX), CSN_ERR_NO_MEMORY, "");
  drive_init(&d);
  drive_ev(&d, CSN_EV_CREATE, 0, repeat("{\"%s\":1}", "k\xc3\xa9", 200));
  ok(strlen(d.pointer) == CSN_POINTER_CAP - 1 || strlen(d.pointer) == CSN_POINTER_CAP,
     "an over-long pointer is cut");
  ok(csn_utf8_whole(csn_span_str(d.pointer)) == strlen(d.pointer), "between characters");

  run("claude-code", "{\"prompt\":\"x\"}", CSN_ERR_OK, "");
  run("claude-code", "{\"prompt\":\"x\",\"model\":\"m\",\"max_turns\":1000,\"timeout_s\":5,\"resume\":false}",
      CSN_ERR_OK, "");
  run("claude-code", "{\"command\":\"ls\"}", CSN_ERR_OK, "");
  run("shell", "{\"command\":\"ls\",\"timeout_s\":5}", CSN_ERR_OK, "");
  run("shell", "{\"prompt\":\"x\"}", CSN_ERR_BAD_VALUE, "/prompt");
  run("claude-code", "{}", CSN_ERR_MISSING_FIELD, "/prompt");
  run("claude-code", "{\"prompt\":\"\"}", CSN_ERR_BAD_VALUE, "/prompt");
  run("claude-code", "{\"prompt\":\"x\",\"command\":\"y\"}", CSN_ERR_BAD_VALUE, "/command");
  run("claude-code", "{\"command\":\"\"}", CSN_ERR_BAD_VALUE, "/command");
  run("claude-code", "{\"command\":\"y\",\"model\":\"m\"}", CSN_ERR_BAD_VALUE, "/model");
  run("claude-code", "{\"command\":\"y\",\"max_turns\":1}", CSN_ERR_BAD_VALUE, "/max_turns");
  run("claude-code", "{\"prompt\":\"x\",\"max_turns\":0}", CSN_ERR_OUT_OF_RANGE, "/max_turns");
  run("claude-code", "{\"prompt\":\"x\",\"max_turns\":1001}", CSN_ERR_OUT_OF_RANGE, "/max_turns");
  run("claude-code", "{\"prompt\":\"x\",\"resume\":1}", CSN_ERR_BAD_TYPE, "/resume");
  run("claude-code", "{\"prompt\":\"x\",\"stream\":true}", CSN_ERR_UNKNOWN_FIELD, "/stream");
  run("claude-code", repeat("{\"prompt\":\"%s\"}", "p", CSN_PROMPT_MAX), CSN_ERR_OK, "");
  run("claude-code", repeat("{\"prompt\":\"%s\"}", "p", CSN_PROMPT_MAX + 1), CSN_ERR_TOO_LONG, "/prompt");
  run("shell", repeat("{\"command\":\"%s\"}", "\\u0007", CSN_COMMAND_MAX - 4096), CSN_ERR_OK, "");
  run("shell", repeat("{\"command\":\"%s\"}", "p", CSN_COMMAND_MAX), CSN_ERR_OK, "");
  run("shell", repeat("{\"command\":\"%s\"}", "p", CSN_COMMAND_MAX + 1), CSN_ERR_TOO_LONG, "/command");

  /* The largest spec: every byte of the environment and of the command escaped. */
  static char doc[CSN_IN_CAP];
  drive_init(&d);
  ok(drive_ev(&d, CSN_EV_CREATE, 0,
              repeat("{\"agent\":\"shell\",\"env\":{\"A\":\"%s\"}}", "\\u0007", CSN_ENV_BYTES_MAX - 1)) ==
         CSN_ERR_OK,
     "an environment of control characters");
  drive_ev(&d, CSN_EV_SANDBOX_READY, 0, "");
  strcpy(doc, repeat("{\"command\":\"%s\"}", "\\u0007", 65500));
  ok(drive_ev(&d, CSN_EV_RUN, 0, doc) == CSN_ERR_OK, "a command of control characters");
  drive_clear(&d);
  ok(drive_ev(&d, CSN_EV_RUN_LOADED, 1, doc) == CSN_ERR_OK &&
         has(&d, "run_start 1 0 0 {\"argv\":[\"/bin/bash\",\"-c\",\""),
     "the spec of both is written: %zu bytes", d.log_len);
  free(big);
  return done();
}
