/* watch_test.c - tool rules of a policy: what they make of an agent's calls, refusals and silence; what
 * agents are told of them. */
#include "drive.h"

static drive d;

/* A session whose run is under way; `tools` is the inside of policy_tools. */
static void begin(const char *agent, const char *tools) {
  char text[8192];
  drive_init(&d);
  d.now_ms = 1000;
  snprintf(text, sizeof text, "{\"agent\":\"%s\",\"policy_tools\":{%s}}", agent, tools);
  csn_err err = drive_ev(&d, CSN_EV_CREATE, 0, text);
  if (err != CSN_ERR_OK) printf("# %s: %d at %s\n", text, err, d.pointer);
  drive_ev(&d, CSN_EV_SANDBOX_READY, 0, "");
  drive_next_run(&d, 1);
  drive_clear(&d);
}

static void line(const char *text) {
  drive_feed(&d, CSN_STREAM_STDOUT, 1, text, strlen(text), CSN_FEED_MAX);
  drive_feed(&d, CSN_STREAM_STDOUT, 1, "\n", 1, CSN_FEED_MAX);
}

static void call_by(const char *id, const char *parent, const char *tool, const char *input) {
  char text[70000];
  snprintf(
      text, sizeof text,
      "{\"type\":\"assistant\",\"parent_tool_use_id\":%s,\"message\":{\"id\":\"m%s\",\"content\":[{\"type\":"
      "\"tool_use\",\"id\":\"%s\",\"name\":\"%s\",\"input\":%s}]}}",
      parent, id, id, tool, input);
  line(text);
}

static void call(const char *id, const char *command) {
  char input[300];
  snprintf(input, sizeof input, "{\"command\":\"%s\"}", command);
  call_by(id, "null", "Bash", input);
}

/* `meta` is the rest of the CLI's own record of the call; NULL: there is none. */
static void result(const char *id, const char *meta) {
  char text[500], record[200] = "";
  if (meta != NULL) snprintf(record, sizeof record, ",\"tool_result_meta\":[{\"id\":\"%s\",%s}]", id, meta);
  snprintf(text, sizeof text,
           "{\"type\":\"user\",\"message\":{\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"%s\","
           "\"is_error\":"
           "true,\"content\":\"<tool_use_error>Error: No such tool available: x\"}]}%s}",
           id, record);
  line(text);
}

#define ACCEPT  "\"permission_decision\":{\"decision\":\"accept\"}"
#define REJECT  "\"permission_decision\":{\"decision\":\"reject\"}"
#define DENY_RM "\"deny\":[\"Bash(rm:*)\"]"

static void timer(uint64_t now_ms) {
  d.now_ms = now_ms;
  drive_ev(&d, CSN_EV_TIMER, 0, "");
}

static void refusals(void) {
  begin("claude-code", DENY_RM);
  call("a", "rm x");
  ok(!has(&d, "policy.violation") && !has(&d, "run_kill"),
     "a call alone is no violation: the agent may refuse it");
  result("a", REJECT);
  ok(!has(&d, "policy.violation") && d.s.watch.count == 0, "refused: %s", d.log);
  call("b", "rm x");
  line(
      "{\"type\":\"system\",\"subtype\":\"permission_denied\",\"tool_name\":\"Bash\",\"tool_use_id\":\"b\"}");
  result("b", ACCEPT);
  ok(!has(&d, "policy.violation"), "refused by an event of its own");
  call("c", "rm x");
  result("c", NULL);
  ok(!has(&d, "policy.violation"), "no such tool");
  call("d", "rm x");
  result("d", "\"non_execution_kind\":\"user-rejected\"");
  ok(!has(&d, "policy.violation"), "not carried out");
  call("e", "ls");
  result("e", ACCEPT);
  ok(!has(&d, "policy.violation") && d.s.watch.count == 0, "an allowed call");
  call("f", "rm x");
  result("f", ACCEPT);
  ok(has(&d,
         "\"type\":\"policy.violation\",\"tool_use_id\":\"f\",\"call\":\"Bash(rm "
         "x)\",\"rule\":\"tools.deny[0]\","
         "\"pattern\":\"Bash(rm:*)\",\"reason\":\"Bash(rm x) is denied by tools.deny[0] \\\"Bash(rm:*)\\\". "
         "Only a "
         "change of the session's policy can allow it.\"") &&
         has(&d, "run_kill 1 4 "),
     "a result that follows no refusal: the call was made: %s", d.log);
  drive_clear(&d);
  drive_end(&d, 1, "{\"reason\":\"policy_violation\",\"exit_code\":null,\"signal\":15}");
  ok(has(&d, "\"run.policy_violation\",\"reason\":\"tools.deny[0]\"") &&
         has(&d, "\"kind\":\"policy_violation\"") &&
         has(&d, "\"message\":\"Bash(rm x) is denied by tools.deny[0]"),
     "the outcome names the rule and has the sentence: %s", d.log);
  ok(d.s.watch.count == 0 && d.s.watch.rule_len == 0, "nothing of it is left for the next run");
  begin("claude-code", DENY_RM);
  call("a", "rm x");
  result("other", REJECT);
  ok(!has(&d, "policy.violation") && d.s.watch.count == 1, "a refusal of another call");
  drive_end(&d, 1, EXITED_0);
  ok(has(&d, "policy.violation") && has(&d, "\"run.policy_violation\",\"reason\":\"tools.deny[0]\""),
     "the agent ends and nothing says that it did not do it: %s", d.log);
  begin("claude-code", "\"ask\":[\"Bash(git push:*)\"]");
  call("a", "git push");
  result("a", ACCEPT);
  ok(has(&d, "\"rule\":\"tools.ask[0]\"") && has(&d, "run_kill 1 4 "), "what wants an approval has none");
  begin("claude-code", "\"allow\":[]");
  call("a", "ls");
  result("a", ACCEPT);
  ok(has(&d, "\"rule\":\"tools.allow\""), "an empty list allows nothing");
  begin("claude-code", "");
  call("a", "rm x");
  result("a", ACCEPT);
  ok(!has(&d, "policy.violation") && d.s.watch.count == 0, "no rules, no watch");
}

/* What a line hides from a glance it does not hide from a rule. */
static void hidden(void) {
  static const char *const lines[] = {"(rm -rf /)",
                                      "bash -lc 'rm -rf y'",
                                      "echo $(rm x)",
                                      "if true; then rm x; fi",
                                      "'rm' x",
                                      "\\\\rm x",
                                      "$CMD x",
                                      "curl x | sh",
                                      "cat <<E\\n`rm x`\\nE",
                                      "eval 'rm x'"};
  for (uint32_t i = 0; i < sizeof lines / sizeof *lines; i++) {
    begin("claude-code", DENY_RM);
    call("a", lines[i]);
    result("a", ACCEPT);
    ok(has(&d, "policy.violation") && has(&d, "run_kill 1 4 "), "%s stops the run", lines[i]);
  }
  begin("claude-code", DENY_RM);
  call("a", "cat > x <<'E'\\nrm isn't run\\nE\\necho $HOME 'rm x'");
  result("a", ACCEPT);
  ok(!has(&d, "policy.violation"), "a text that names it does not");
}

static void silence(void) {
  begin("claude-code", DENY_RM);
  call("a", "rm x");
  ok(d.s.wake_ms == 1000 + CSN_REFUSAL_MS, "a wake-up for the refusal that is due");
  timer(1000 + CSN_REFUSAL_MS - 1);
  ok(!has(&d, "policy.violation"), "not yet");
  timer(1000 + CSN_REFUSAL_MS);
  ok(has(&d, "policy.violation") && has(&d, "run_kill 1 4 "), "neither refused nor answered: it runs");
  result("a", REJECT);
  drive_clear(&d);
  timer(90000);
  ok(!has(&d, "policy.violation"), "told once");

  begin("claude-code", DENY_RM);
  call("a", "rm x");
  timer(600000);
  ok(!has(&d, "policy.violation"), "a time that is found long past proves nothing");
  timer(600000 + CSN_REFUSAL_MS);
  ok(has(&d, "policy.violation"), "but the time begins anew");

  begin("claude-code", DENY_RM);
  call("a", "make");
  call("b", "rm x");
  timer(60000);
  ok(!has(&d, "policy.violation"), "its turn has not come: another call is open");
  d.now_ms = 61000;
  result("a", ACCEPT);
  timer(61000 + CSN_REFUSAL_MS - 1);
  ok(!has(&d, "policy.violation"), "its turn");
  timer(61000 + CSN_REFUSAL_MS);
  ok(has(&d, "policy.violation"), "and no refusal");

  begin("claude-code", DENY_RM);
  call_by("t", "null", "Agent", "{\"subagent_type\":\"x\"}");
  call_by("a", "\"t\"", "Bash", "{\"command\":\"rm x\"}");
  timer(1000 + CSN_REFUSAL_MS);
  ok(has(&d, "policy.violation"), "a subagent's call does not wait for the call that started the subagent");

  begin("claude-code", DENY_RM);
  call("a", "rm x");
  drive_ev(&d, CSN_EV_CANCEL, 1, "");
  result("a", ACCEPT);
  drive_end(&d, 1, "{\"reason\":\"killed\",\"exit_code\":null,\"signal\":15}");
  ok(has(&d, "policy.violation") && has(&d, "run.cancelled"),
     "told of a run that is being cancelled, which it stays");
}

static void bounds(void) {
  begin("claude-code", DENY_RM);
  for (uint32_t i = 0; i < CSN_WATCH_MAX + 5; i++) {
    char id[16];
    snprintf(id, sizeof id, "a%u", i);
    call(id, "ls");
  }
  call("x", "rm x");
  ok(d.s.watch.count == CSN_WATCH_MAX, "the oldest allowed call is forgotten first");
  result("x", ACCEPT);
  ok(has(&d, "policy.violation"), "the forbidden one is not");
  begin("claude-code", DENY_RM);
  for (uint32_t i = 0; i < CSN_WATCH_MAX; i++) {
    char id[16];
    snprintf(id, sizeof id, "a%u", i);
    call(id, "rm x");
  }
  ok(!has(&d, "policy.violation"), "as many forbidden calls as are kept");
  call("x", "rm x");
  ok(has(&d, "policy.violation"), "one more: nobody refuses so many");

  static char big[40000];
  begin("claude-code", DENY_RM ",\"allow\":[\"Bash\",\"Write(/src/**)\"]");
  memset(big, 'x', sizeof big);
  memcpy(big, "{\"command\":\"", 12);
  memcpy(big + 36000, "\"}", 3);
  call_by("a", "null", "Bash", big);
  result("a", ACCEPT);
  ok(has(&d, "\"rule\":\"tools.command\""), "a command that was cut, where a rule speaks of commands");
  begin("claude-code", "\"deny\":[\"Read\"],\"allow\":[\"Bash\"]");
  call_by("a", "null", "Bash", big);
  result("a", ACCEPT);
  ok(!has(&d, "policy.violation"), "where none does: allowed");
  begin("claude-code", "\"allow\":[\"Write(/src/**)\"]");
  memset(big, 'x', sizeof big);
  memcpy(big, "{\"content\":\"", 12);
  strcpy(big + 36000, "\",\"file_path\":\"/workspace/src/a\"}");
  call_by("a", "null", "Write", big);
  result("a", ACCEPT);
  ok(has(&d, "\"rule\":\"tools.allow\""), "a path behind what is kept of an input is none");
  begin("claude-code", "\"allow\":[\"Write(/src/**)\"]");
  memset(big, 'x', sizeof big);
  static const char path[] = "{\"file_path\":\"/workspace/src/a\",\"content\":\"";
  memcpy(big, path, sizeof path - 1);
  strcpy(big + 36000, "\"}");
  call_by("a", "null", "Write", big);
  result("a", ACCEPT);
  ok(!has(&d, "policy.violation"), "one before a long text is read");
  begin("claude-code", "\"allow\":[\"Write(/src/**)\"]");
  call_by("a", "null", "Write", "{\"content\":\"x\"}");
  result("a", ACCEPT);
  ok(has(&d, "\"rule\":\"tools.allow\""), "a call without its path matches no rule for paths");

  /* Names and commands of any bytes; the bytes of a name that is not UTF-8 cannot stand in JSON. */
  begin("claude-code", "\"allow\":[\"Bash(ls:*)\"]");
  call_by("a", "null", "\\u0000\\ud800x", "{}");
  result("a", ACCEPT);
  ok(has(&d, "\"call\":\"\\u0000\357\277\275x\""), "a name of odd bytes: %s", d.log);
}

static void changes(void) {
  static uint8_t image[CSN_SNAPSHOT_MAX];
  begin("claude-code", "");
  ok(drive_ev(&d, CSN_EV_SET_TOOLS, 0, "{\"tools\":{\"deny\":[\"Write\",\"Bash(rm:*)\"]}}") == CSN_ERR_OK,
     "new rules");
  call("a", "rm x");
  call("b", "make");
  int32_t len = csn_session_save(&d.s, image, sizeof image);
  bool loaded = len > 0 && csn_session_load(&d.s, csn_span_of(image, (uint32_t)len)) == CSN_ERR_OK;
  ok(loaded && d.s.watch.count == 2 && d.s.tools.count == 2, "a snapshot keeps rules and calls");
  drive_ev(&d, CSN_EV_SET_TOOLS, 0, "{\"tools\":{}}");
  result("a", ACCEPT);
  ok(has(&d, "\"rule\":\"tools.deny[1]\",\"reason\":\"Bash(rm x) is denied by tools.deny[1].") &&
         has(&d, "run_kill 1 4 "),
     "a call is judged by the rules of its time: %s", d.log);
  len = csn_session_save(&d.s, image, sizeof image);
  ok(csn_session_load(&d.s, csn_span_of(image, (uint32_t)len)) == CSN_ERR_OK && d.s.watch.rule_len > 0,
     "a run that is being stopped for it");
  static const struct {
    const char *payload, *pointer;
    csn_err err;
  } bad[] = {
      {"{}", "/tools", CSN_ERR_MISSING_FIELD},
      {"{\"tools\":[]}", "/tools", CSN_ERR_BAD_TYPE},
      {"{\"tools\":{\"x\":[]}}", "/tools/x", CSN_ERR_UNKNOWN_FIELD},
      {"{\"tools\":{\"deny\":\"Bash\"}}", "/tools/deny", CSN_ERR_BAD_TYPE},
      {"{\"tools\":{\"deny\":[],\"deny\":[]}}", "/tools/deny", CSN_ERR_BAD_VALUE},
      {"{\"tools\":{\"deny\":[\"Read\",\"Bash(\"]}}", "/tools/deny/1", CSN_ERR_BAD_VALUE},
      {"{\"tools\":{\"ask\":[\"a b\"]}}", "/tools/ask/0", CSN_ERR_BAD_VALUE},
      {"{\"tools\":{\"allow\":[\"Bash(a\\nb)\"]}}", "/tools/allow/0", CSN_ERR_BAD_VALUE},
      {"{\"tools\":{},\"more\":1}", "/more", CSN_ERR_UNKNOWN_FIELD},
  };
  begin("claude-code", DENY_RM);
  for (uint32_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    csn_err err = drive_ev(&d, CSN_EV_SET_TOOLS, 0, bad[i].payload);
    ok(err == bad[i].err && strcmp(d.pointer, bad[i].pointer) == 0 && d.s.tools.count == 1, "%s: %d at %s",
       bad[i].payload, err, d.pointer);
  }
  for (int over = -1; over <= 1; over++) {
    static char doc[CSN_IN_CAP];
    char *p = doc + sprintf(doc, "{\"tools\":{\"deny\":[\"Read\"");
    for (int i = 1; i < (int)CSN_TOOL_RULES_COUNT_MAX + over; i++)
      p += sprintf(p, ",\"T%d\"", i);
    strcpy(p, "]}}");
    csn_err err = drive_ev(&d, CSN_EV_SET_TOOLS, 0, doc);
    ok(err == (over > 0 ? CSN_ERR_TOO_LONG : CSN_ERR_OK), "%d rules: %d",
       (int)CSN_TOOL_RULES_COUNT_MAX + over, err);
    p = doc + sprintf(doc, "{\"tools\":{\"deny\":[");
    int left = (int)CSN_TOOL_RULES_BYTES_MAX + over;
    for (int i = 0; left > 0; i++) {
      int n = left < 400 ? left : 400;
      p += sprintf(p, "%s\"T%03d(%0*d)\"", i > 0 ? "," : "", i, n - 4, 1);
      left -= n;
    }
    strcpy(p, "]}}");
    err = drive_ev(&d, CSN_EV_SET_TOOLS, 0, doc);
    ok(err == (over > 0 ? CSN_ERR_TOO_LONG : CSN_ERR_OK), "%d bytes of rules: %d",
       (int)CSN_TOOL_RULES_BYTES_MAX + over, err);
  }
  begin("claude-code", DENY_RM);
  drive_end(&d, 1, EXITED_0);
  ok(drive_ev(&d, CSN_EV_RUN, 0, "{\"prompt\":\"-\",\"output_format\":\"text\"}") == CSN_ERR_BAD_VALUE &&
         strcmp(d.pointer, "/output_format") == 0,
     "a format that shows no calls is refused");
  drive_init(&d);
  ok(drive_ev(&d, CSN_EV_CREATE, 0, "{\"agent\":\"codex\",\"policy_tools\":{\"deny\":[\"\"]}}") !=
             CSN_ERR_OK &&
         strcmp(d.pointer, "/policy_tools/deny/0") == 0,
     "bad rules of a new session");
}

/* What stands in the specification of a run. */
static bool is_told(const char *agent, const char *more, const char *tools, const char *want) {
  char text[4096];
  drive_init(&d);
  snprintf(text, sizeof text, "{\"agent\":\"%s\"%s,\"policy_tools\":{%s}}", agent, more, tools);
  drive_ev(&d, CSN_EV_CREATE, 0, text);
  drive_ev(&d, CSN_EV_SANDBOX_READY, 0, "");
  drive_ev(&d, CSN_EV_RUN, 0, "{\"prompt\":\"-\"}");
  drive_clear(&d);
  drive_ev(&d, CSN_EV_RUN_LOADED, 1, "{\"prompt\":\"-\"}");
  return has(&d, want);
}

static void told(const char *agent, const char *more, const char *tools, const char *want) {
  bool found = is_told(agent, more, tools, want);
  ok(found, "%s is told %s", agent, tools);
  if (!found) printf("# wanted %s\n# in %s\n", want, d.log);
}

static void untold(const char *agent, const char *more, const char *tools, const char *what) {
  bool found = is_told(agent, more, tools, what);
  ok(!found, "%s is not told %s", agent, tools);
  if (found) printf("# did not want %s\n# in %s\n", what, d.log);
}

static void forms(void) {
  told("claude-code", "",
       "\"deny\":[\"Bash(rm:*)\",\"Read(/a/**)\",\"Read(~/.ssh/**)\",\"Edit(//etc/x)\"],\"ask\":[\"Bash(git "
       "push:*)\"]",
       "\"--dangerously-skip-permissions\",\"--settings\",\"{\\\"permissions\\\":{\\\"allow\\\":[],"
       "\\\"deny\\\":["
       "\\\"Bash(rm:*)\\\",\\\"Read(//workspace/a/**)\\\",\\\"Read(~/.ssh/**)\\\",\\\"Edit(//etc/x)\\\","
       "\\\"Bash(git push:*)\\\"]}}\"");
  told("claude-code", "", "\"allow\":[\"Read\",\"Bash(ls:*)\"]",
       "\"--permission-mode\",\"dontAsk\",\"--settings\",\"{\\\"permissions\\\":{\\\"allow\\\":[\\\"Read\\\","
       "\\\"Bash(ls:*)\\\"],\\\"deny\\\":[\\\"Edit\\\",\\\"Write\\\",\\\"NotebookEdit\\\",\\\"WebFetch\\\"");
  told("claude-code", "", "\"allow\":[]",
       "\\\"allow\\\":[\\\"mcp__caisson__nothing\\\"],\\\"deny\\\":[\\\"Bash\\\",\\\"Monitor\\\","
       "\\\"Read\\\"");
  told("claude-code", ",\"tools\":{\"allow\":[\"Read\"],\"deny\":[\"Write\"]}",
       "\"allow\":[\"Bash\"],\"deny\":[\"Edit\"]",
       "\\\"allow\\\":[\\\"Read\\\"],\\\"deny\\\":[\\\"Edit\\\",");
  told("claude-code", "", "\"deny\":[\"Bash(echo \\\"x\\\\\\\\y\\\")\"]",
       "Bash(echo \\\\\\\"x\\\\\\\\\\\\\\\\y\\\\\\\")");
  told(
      "opencode", "",
      "\"deny\":[\"Bash(rm:*)\",\"Edit(/src/**)\",\"mcp__db__drop\",\"mcp__files\",\"WebFetch(domain:x.y)\"]",
      "\\\"permission\\\":{\\\"*\\\":\\\"allow\\\",\\\"bash\\\":{\\\"*\\\":\\\"allow\\\",\\\"rm\\\":"
      "\\\"deny\\\",\\\"rm "
      "*\\\":\\\"deny\\\"},\\\"edit\\\":{\\\"*\\\":\\\"allow\\\",\\\"src/*\\\":\\\"deny\\\",\\\"/workspace/"
      "src/*\\\":"
      "\\\"deny\\\"},\\\"db_drop\\\":{\\\"*\\\":\\\"deny\\\"},\\\"files_*\\\":{\\\"*\\\":\\\"deny\\\"},"
      "\\\"webfetch\\\":"
      "{\\\"*\\\":\\\"allow\\\",\\\"http://x.y*\\\":\\\"deny\\\",\\\"https://x.y*\\\":\\\"deny\\\"}}");
  told("gemini", "", "\"deny\":[\"Bash(rm:*)\",\"WebFetch\",\"Read(~/.ssh/**)\"]",
       "[[rule]]\\ntoolName = \\\"run_shell_command\\\"\\ncommandPrefix = \\\"rm\\\"\\ndecision = "
       "\\\"deny\\\"\\npriority = 900\\n[[rule]]\\ntoolName = \\\"web_fetch\\\"\\ndecision = \\\"deny\\\"");
  told("gemini", "", "\"allow\":[\"Bash(git diff:*)\",\"Read(/src/**)\"]",
       "\\\"tools\\\":{\\\"core\\\":[\\\"run_shell_command(git diff)\\\",\\\"read_file\\\",");
#define RULES ",\"files\":{\"/home/user/.codex/rules/caisson.rules\":\""
#define FORBID(words)                                                                                        \
  "prefix_rule(pattern=[" words "],decision=\\\"forbidden\\\",justification=" REASON ")\\n"
#define REASON "\\\"the policy denies it\\\""
  told("codex", "", "\"allow\":[\"Bash\"]", RULES "\"}");
  told("codex", "",
       "\"deny\":[\"Bash(rm:*)\",\"Bash(git push origin:*)\",\"Bash(npm test)\",\"Bash(ls *)\",\"Bash(a  "
       "b:*)\",\"Bash(a "
       "'b':*)\",\"Bash( :*)\",\"Read(x)\"],\"ask\":[\"Bash(a.b/c:*)\"]",
       RULES FORBID("\\\"rm\\\"") FORBID("\\\"git\\\",\\\"push\\\",\\\"origin\\\"")
           FORBID("\\\"a.b/c\\\"") "\"}");
  told("codex", "", "\"deny\":[\"Bash\",\"WebSearch\"]",
       "\"-c\",\"features.shell_tool=false\",\"-c\",\"web_search=\\\"disabled\\\"\",\"-\"]");
  told("codex",
       ",\"mcp\":{\"a\":{\"command\":\"x\"},\"a_b\":{\"command\":\"y\"},\"c\":{\"url\":\"http://c/\"}}",
       "\"deny\":[\"mcp__a__drop\",\"mcp__a__rm\",\"mcp__c\",\"mcp__c__one\"]",
       "\"-c\",\"mcp_servers.a.disabled_tools=[\\\"drop\\\",\\\"rm\\\"]\",\"-c\",\"mcp_servers.a_b={"
       "\\\"command\\\"="
       "\\\"y\\\",\\\"args\\\"=[],\\\"env\\\"={}}\",\"-c\",\"mcp_servers.c={\\\"url\\\"=\\\"http://c/"
       "\\\",\\\"http_headers\\\"={}}\",\"-c\",\"mcp_servers.c.enabled=false\"");
  told("codex", ",\"mcp\":{\"c\":{\"command\":\"x\"}}", "\"deny\":[\"mcp__c__*\"]",
       "\"mcp_servers.c.enabled=false\"");
#define TWO         ",\"mcp\":{\"db\":{\"command\":\"x\"},\"docs\":{\"command\":\"y\"}}"
#define OFF(server) "\"mcp_servers." server ".enabled=false\""
  untold("codex", TWO, "\"deny\":[\"mcp__e*\",\"mcp__dbx\",\"mcp__d\",\"mcp__db__q*\",\"mcp__dbx__*\"]",
         "\"mcp_servers.db.");
  untold("codex", TWO, "\"deny\":[\"mcp__db__q*\"]", "disabled_tools");
  told("codex", TWO, "\"deny\":[\"mcp__*\"]", OFF("db"));
  told("codex", TWO, "\"deny\":[\"mcp__*\"]", OFF("docs"));
  told("codex", TWO, "\"deny\":[\"mcp__d*\"]", OFF("db"));
  told("codex", TWO, "\"deny\":[\"mcp__d*\"]", OFF("docs"));
  told("codex", TWO, "\"deny\":[\"mcp__db*\"]", OFF("db"));
  untold("codex", TWO, "\"deny\":[\"mcp__db*\"]", OFF("docs"));
  told("codex", TWO, "\"deny\":[\"mcp__db_*\"]", OFF("db"));
  told("codex", TWO, "\"deny\":[\"mcp__db__q*\",\"mcp__db__drop\"]",
       "\"mcp_servers.db.disabled_tools=[\\\"drop\\\"]\"");
  told("codex", ",\"mcp\":{\"a__b\":{\"command\":\"x\"}}", "\"deny\":[\"mcp__a\"]", OFF("a__b"));
#define GONE(tools) ",\\\"" tools "\\\":{\\\"*\\\":\\\"deny\\\"}"
  told("opencode", TWO, "\"deny\":[\"mcp__*\"]",
       "\\\"permission\\\":{\\\"*\\\":\\\"allow\\\"" GONE("db_*") GONE("docs_*") "}");
  told("opencode", TWO, "\"deny\":[\"mcp__do*\",\"mcp__db__q*\"]",
       "{\\\"*\\\":\\\"allow\\\"" GONE("docs_*") GONE("db_q*") "}");
  untold("opencode", TWO, "\"deny\":[\"Edit\",\"mcp__b*\"]", "\\\"b*");
  told("opencode", TWO, "\"allow\":[\"mcp__*\"]",
       "\\\"permission\\\":{\\\"*\\\":\\\"deny\\\",\\\"db_*\\\":{\\\"*\\\":\\\"allow\\\"}");
}

/* bash -lc '...' and what only looks like it. */
static void shells(void) {
  static const struct {
    const char *command;
    bool denied;
  } rows[] = {
      {"/bin/bash -lc 'rm x'", true},
      {"bash -lc \\\"rm 'x'\\\"", true},
      {"/bin/bash -lc ls", false},
      {"/bin/bash -lc 'echo '\\\"'\\\"'rm'\\\"'\\\"", false},
      {"/usr/bin/zsh -c 'a && rm x'", true},
      {"/bin/bash -lc 'ls' rm", true}, /* more than one word: nobody knows what it does */
      {"/bin/bash -lc 'ls", true},     /* an open quote */
      {"/bin/bash script.sh", true},
      {"rm x", true},
      {"cat bash -lc 'rm x'", false},
  };
  for (uint32_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    char text[400];
    begin("codex", DENY_RM);
    snprintf(text, sizeof text,
             "{\"type\":\"item.started\",\"item\":{\"id\":\"i\",\"type\":\"command_execution\",\"command\":"
             "\"%s\"}}",
             rows[i].command);
    line(text);
    ok(d.s.watch.count == 1 && d.s.watch.calls[0].forbidden == rows[i].denied, "codex: %s", rows[i].command);
  }
  begin("codex", "\"deny\":[\"Edit(*.md)\"]");
  line("{\"type\":\"item.completed\",\"item\":{\"id\":\"i\",\"type\":\"file_change\",\"changes\":[{\"path\":"
       "\"/workspace/"
       "a.c\"},{\"path\":\"/workspace/b.md\"},{\"path\":\"/workspace/c\"}],\"status\":\"completed\"}}");
  ok(has(&d, "\"call\":\"Edit(/workspace/b.md)\""), "codex: any file of a change");
  begin("codex", "\"deny\":[\"mcp__db__*\",\"Bash\"]");
  line("{\"type\":\"item.completed\",\"item\":{\"id\":\"i\",\"type\":\"mcp_tool_call\",\"server\":\"db\","
       "\"tool\":\"drop\","
       "\"status\":\"completed\"}}");
  ok(has(&d, "\"call\":\"mcp__db__drop\""), "codex: a tool of an MCP server");
  begin("codex", "\"deny\":[\"Bash\"]");
  line("{\"type\":\"item.completed\",\"item\":{\"id\":\"i\",\"type\":\"command_execution\",\"command\":"
       "\"ls\",\"status\":"
       "\"declined\"}}");
  ok(!has(&d, "policy.violation"), "codex: declined");
}

/* What agents make of a server's name: the rule is told in one form. */
static void servers(void) {
  static const struct {
    const char *tool, *call;
  } rows[] = {
      {"mcp_my_db_drop", "mcp__my_db__drop"},
      {"my_db__drop", "mcp__my_db__drop"},
      {"my_db_drop", "mcp__my_db__drop"},
      {"mcp__my_db__drop", "mcp__my_db__drop"},
      {"my_db_", NULL},
      {"my_dbdrop", NULL},
      {"your_db_drop", NULL},
      {"mcp_your_db_drop", NULL},
      {"other_drop", NULL},
      {"my_db_list", NULL},
  };
  for (uint32_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    char text[500], want[100];
    drive_init(&d);
    d.now_ms = 1000;
    csn_err err = drive_ev(
        &d, CSN_EV_CREATE, 0,
        "{\"agent\":\"gemini\",\"mcp\":{\"other\":{\"command\":\"o\"},\"my_db\":{\"command\":\"x\"}},"
        "\"policy_tools\":{\"deny\":[\"mcp__my_db__drop\"]}}");
    drive_ev(&d, CSN_EV_SANDBOX_READY, 0, "");
    drive_next_run(&d, 1);
    drive_clear(&d);
    snprintf(text, sizeof text,
             "{\"type\":\"tool_use\",\"tool_name\":\"%s\",\"tool_id\":\"t\",\"parameters\":{}}\n"
             "{\"type\":\"tool_result\",\"tool_id\":\"t\",\"status\":\"success\",\"output\":\"ok\"}",
             rows[i].tool);
    line(text);
    snprintf(want, sizeof want, "\"call\":\"%s\"", rows[i].call != NULL ? rows[i].call : "");
    bool told = has(&d, "policy.violation");
    ok(err == CSN_ERR_OK && told == (rows[i].call != NULL) && (!told || has(&d, want)), "gemini: %s is %s",
       rows[i].tool, rows[i].call != NULL ? rows[i].call : "another tool");
  }
}

/* A command is judged by what the shell makes of it. */
static void words(void) {
  static const struct {
    const char *command;
    bool denied;
  } rows[] = {
      {"bash -lc \\\"rm \\\\\\\"a b\\\\\\\" x\\\"", true},
      {"bash -lc \\\"echo \\\\\\\"rm\\\\\\\"\\\"", false},
      {"sh -c rm\\\\ x", true},
      {"sh -c 'r'm\\\\ x", true},
      {"bash -c 'rm \\u00e9\\u20ac\\ud83d\\ude00'", true},
      {"bash -lc \\\"ls \\\\n\\\"", false},
  };
  for (uint32_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    char text[500];
    begin("codex", DENY_RM);
    snprintf(
        text, sizeof text,
        "{\"type\":\"item.started\",\"item\":{\"id\":\"i\",\"type\":\"command_execution\",\"command\":\"%s\","
        "\"status\":\"in_progress\"}}",
        rows[i].command);
    line(text);
    ok(d.s.watch.count == 1 && d.s.watch.calls[0].forbidden == rows[i].denied, "codex: %s", rows[i].command);
  }
}

int main(void) {
  refusals();
  hidden();
  silence();
  bounds();
  changes();
  forms();
  shells();
  servers();
  words();
  free(d.log);
  return done();
}
