/* agent_test.c - dialects over several runs: what is resumed, what each run used, how the command is written.
 */
#include "drive.h"

static drive d;

static void feed_transcript(const char *name, uint32_t run) {
  char path[200];
  size_t len;
  snprintf(path, sizeof path, "tests/fixtures/transcripts/%s.jsonl", name);
  uint8_t *bytes = slurp(path, &len);
  drive_feed(&d, CSN_STREAM_STDOUT, run, bytes, len, 4096);
  free(bytes);
}

/* Runs a request as run `id` with a transcript as its output; the log then holds that run alone. */
static void run_with(uint32_t id, const char *request, const char *transcript) {
  drive_clear(&d);
  drive_ev(&d, CSN_EV_RUN, 0, request);
  drive_ev(&d, CSN_EV_RUN_LOADED, id, request);
  drive_ev(&d, CSN_EV_RUN_STARTED, id, "");
  if (transcript != NULL) feed_transcript(transcript, id);
  drive_end(&d, id, EXITED_0);
}

static void create(const char *request) {
  drive_init(&d);
  drive_ev(&d, CSN_EV_CREATE, 0, request);
  drive_ev(&d, CSN_EV_SANDBOX_READY, 0, "");
}

/* Every size of the out-box, and a new instance for every feed, give the same events. */
static void sizes_and_reloads(const char *agent, const char *name) {
  static uint8_t image[CSN_SNAPSHOT_MAX];
  char path[200];
  size_t len;
  snprintf(path, sizeof path, "tests/fixtures/transcripts/%s/%s.jsonl", agent, name);
  uint8_t *bytes = slurp(path, &len);
  drive_run(&d, agent);
  drive_clear(&d);
  drive_feed(&d, CSN_STREAM_STDOUT, 1, bytes, len, CSN_FEED_MAX);
  drive_end(&d, 1, EXITED_0);
  char *want = strdup(d.log);
  bool same = true;
  for (uint32_t cap = CSN_FEED_FX_MIN; cap <= CSN_OUT_CAP; cap += 40000) {
    drive_run(&d, agent);
    drive_clear(&d);
    d.fx_cap = cap;
    drive_feed(&d, CSN_STREAM_STDOUT, 1, bytes, len, 1000);
    drive_end(&d, 1, EXITED_0);
    same = same && strcmp(want, d.log) == 0 && !d.gap;
  }
  ok(same, "%s/%s: every size of the out-box gives the same effects", agent, name);
  drive_run(&d, agent);
  drive_clear(&d);
  size_t at = 0;
  for (size_t line = 0; line < len; line++) {
    if (bytes[line] != '\n') continue;
    drive_feed(&d, CSN_STREAM_STDOUT, 1, bytes + at, line + 1 - at, CSN_FEED_MAX);
    at = line + 1;
    int32_t size = csn_session_save(&d.s, image, sizeof image);
    if (csn_session_load(&d.s, csn_span_of(image, (uint32_t)size)) != CSN_ERR_OK) break;
  }
  drive_end(&d, 1, EXITED_0);
  ok(strcmp(want, d.log) == 0 && !d.gap, "%s/%s: a new instance behind every line changes nothing", agent,
     name);
  free(want);
  free(bytes);
}

/* Usage is cumulative over the thread (24, 48, 60 tokens of input): each run reports its own part. */
static void codex_resumes(void) {
  create("{\"agent\":\"codex\",\"model\":\"gpt-5.5\"}");
  run_with(1, "{\"prompt\":\"-\"}", "codex/success");
  ok(!has(&d, "\"resume\"") && !has(&d, "\"fork\""), "codex: the first run is a new thread");
  ok(has(&d, "\"input_tokens\":24,\"output_tokens\":46,"), "codex: usage of the first run");
  ok(has(&d, "\"cost_usd\":0.0015,"),
     "codex: priced by the model that was asked for: 24 x 5 + 46 x 30 micro-dollars");
  run_with(2, "{\"prompt\":\"-\"}", "codex/resume");
  ok(has(&d, "\"argv\":[\"codex\",\"exec\",\"resume\",\"01a1fbf3-3179-7db3-87e2-206b98610987\","),
     "codex: the second run resumes the thread");
  ok(has(&d, "\"input_tokens\":24,\"output_tokens\":29,"), "codex: 48 less 24, 75 less 46");
  run_with(3, "{\"prompt\":\"-\"}", "codex/resume-last");
  ok(has(&d, "\"input_tokens\":12,\"output_tokens\":10,"), "codex: 60 less 48, 85 less 75");
  run_with(4, "{\"prompt\":\"-\",\"resume\":false}", "codex/mcp");
  ok(!has(&d, "\"resume\"") && has(&d, "\"input_tokens\":36,\"output_tokens\":45,"),
     "codex: a new thread counts from zero");
  run_with(5, "{\"prompt\":\"-\"}", NULL);
  ok(has(&d, "\"resume\",\"01a1fbf8-6427-7aa3-ba47-82a210ece32c\""), "codex: the newest thread is resumed");
}

/* Cost and modelUsage of Claude Code are cumulative as well; Gemini's and OpenCode's usage is not. */
static void others_resume(void) {
  create("{\"agent\":\"claude-code\"}");
  run_with(1, "{\"prompt\":\"-\"}", "claude-code/resume-1-first");
  run_with(2, "{\"prompt\":\"-\"}", "claude-code/resume-2-followup");
  ok(has(&d, "\"--resume\",\"11111111-2222-4333-8444-555555555555\"") && has(&d, "\"cost_usd\":0.000856,"),
     "claude-code: 0.00336 less 0.002504");
  create("{\"agent\":\"gemini\"}");
  run_with(1, "{\"prompt\":\"-\"}", "gemini/success");
  run_with(2, "{\"prompt\":\"-\"}", "gemini/resume-by-id");
  ok(has(&d, "\"--resume\",\"6eaacadb-ca70-4920-92b9-6a732ba2cdfe\"") &&
         has(&d, "\"input_tokens\":12,\"output_tokens\":10,"),
     "gemini: usage of the run alone");
  create("{\"agent\":\"opencode\"}");
  run_with(1, "{\"prompt\":\"-\"}", "opencode/success");
  run_with(2, "{\"prompt\":\"-\"}", "opencode/resume-continue");
  ok(has(&d, "\"--session\",\"ses_e0407b32dffeqRsRK9euMsimKL\"") &&
         has(&d, "\"input_tokens\":12,\"output_tokens\":9,"),
     "opencode: usage of the run alone");
}

/* The system prompt is data in every command, whatever it holds. */
static void quoting(void) {
  create("{\"agent\":\"codex\",\"system_prompt\":\"a\\\"b\\\\c\\n\\u0001\\u007fd'=\"}");
  run_with(1, "{\"prompt\":\"-\",\"model\":\"gpt-5.5\"}", NULL);
  ok(has(&d, "\"-c\",\"developer_instructions=\\\"a\\\\\\\"b\\\\\\\\c\\\\u000a\\\\u0001\\\\u007fd'=\\\"\""),
     "codex: the system prompt as a TOML string");
  ok(has(&d, ",\"-m\",\"gpt-5.5\"") &&
         has(&d, ",\"-\"],\"env\":{\"OPENAI_API_KEY\":\"caisson-placeholder\"},") &&
         has(&d, "\"stdin\":\"prompt\""),
     "codex: the prompt is on standard input, the key a placeholder");
  create("{\"agent\":\"gemini\",\"env\":{\"GEMINI_API_KEY\":\"mine\",\"A\":\"b\"}}");
  run_with(1, "{\"prompt\":\"-\"}", NULL);
  ok(has(&d, "\"GEMINI_API_KEY\":\"caisson-placeholder\"") && !has(&d, "mine") && has(&d, "\"A\":\"b\""),
     "gemini: a key of the caller's own stays outside");
}

/* A copy of a conversation counts on from where the original stood; both can be gone on with. */
static void forks(void) {
  create("{\"agent\":\"codex\",\"model\":\"gpt-5.5\"}");
  run_with(1, "{\"prompt\":\"-\",\"fork\":true}", "codex/fork-1-first");
  ok(!has(&d, "\"fork\"") && has(&d, "\"input_tokens\":300,\"output_tokens\":49,"),
     "codex: a fork of nothing is a new thread");
  run_with(2, "{\"prompt\":\"-\",\"fork\":true}", "codex/fork-2-fork");
  ok(has(&d, "\"argv\":[\"codex\",\"exec\",\"fork\",\"01a1fd2f-7de3-7552-bf2e-09fe692cb8bc\","),
     "codex: a fork of the thread");
  ok(has(&d, "\"input_tokens\":10,\"output_tokens\":1,"), "codex: usage of the fork alone");
  run_with(3, "{\"prompt\":\"-\"}", NULL);
  ok(has(&d, "\"resume\",\"01a1fd2f-8060-76e0-bb2e-51082c94451c\""), "codex: the fork is gone on with");
  run_with(4, "{\"prompt\":\"-\",\"resume\":\"01a1fd2f-7de3-7552-bf2e-09fe692cb8bc\"}",
           "codex/fork-3-original");
  ok(has(&d, "\"resume\",\"01a1fd2f-7de3-7552-bf2e-09fe692cb8bc\"") &&
         has(&d, "\"input_tokens\":10,\"output_tokens\":1,"),
     "codex: the original is gone on with, and counts from where it stood");
  create("{\"agent\":\"claude-code\"}");
  run_with(1, "{\"prompt\":\"-\"}", "claude-code/resume-1-first");
  run_with(2, "{\"prompt\":\"-\",\"fork\":true}", NULL);
  ok(has(&d, "\"--resume\",\"11111111-2222-4333-8444-555555555555\",\"--fork-session\""),
     "claude-code: a fork");
  create("{\"agent\":\"opencode\"}");
  run_with(1, "{\"prompt\":\"-\"}", "opencode/success");
  run_with(2, "{\"prompt\":\"-\",\"fork\":true}", NULL);
  ok(has(&d, "\"--session\",\"ses_e0407b32dffeqRsRK9euMsimKL\",\"--fork\""), "opencode: a fork");
}

#define MCP                                                                                                  \
  "\"mcp\":{\"a\":{\"command\":\"no\\\"de\",\"args\":[\"x\",\"y "                                            \
  "z\"],\"env\":{\"K\":\"v\\\\\"}},\"r\":{\"url\":\"http://h/\","                                            \
  "\"headers\":{\"X-Y\":\"q\"}},\"n\":{\"command\":\"c\"}}"

/* MCP servers, in the words of each agent. */
static void servers(void) {
  create("{\"agent\":\"claude-code\"," MCP "}");
  run_with(1, "{\"prompt\":\"-\"}", NULL);
  ok(has(&d, "\"--mcp-config\",\"{\\\"mcpServers\\\":{"
             "\\\"a\\\":{\\\"type\\\":\\\"stdio\\\",\\\"command\\\":\\\"no\\\\\\\"de\\\",\\\"args\\\":["
             "\\\"x\\\",\\\"y z\\\"],"
             "\\\"env\\\":{\\\"K\\\":\\\"v\\\\\\\\\\\"}},"
             "\\\"r\\\":{\\\"type\\\":\\\"http\\\",\\\"url\\\":\\\"http://h/"
             "\\\",\\\"headers\\\":{\\\"X-Y\\\":\\\"q\\\"}},"
             "\\\"n\\\":{\\\"type\\\":\\\"stdio\\\",\\\"command\\\":\\\"c\\\",\\\"args\\\":[],\\\"env\\\":{}}"
             "}}\","
             "\"--strict-mcp-config\""),
     "claude-code: a JSON argument");
  create("{\"agent\":\"codex\"," MCP "}");
  run_with(1, "{\"prompt\":\"-\"}", NULL);
  ok(has(&d,
         "\"-c\",\"mcp_servers.a={\\\"command\\\"=\\\"no\\\\\\\"de\\\",\\\"args\\\"=[\\\"x\\\",\\\"y z\\\"],"
         "\\\"env\\\"={\\\"K\\\"=\\\"v\\\\\\\\\\\"}}\",\"-c\",\"mcp_servers.r={\\\"url\\\"=\\\"http://h/\\\","
         "\\\"http_headers\\\"={\\\"X-Y\\\"=\\\"q\\\"}}\",\"-c\",\"mcp_servers.n="),
     "codex: TOML arguments");
  create("{\"agent\":\"gemini\"," MCP ",\"system_prompt\":\"be \\\"kind\\\"\"}");
  run_with(1, "{\"prompt\":\"-\",\"max_turns\":7}", NULL);
  ok(has(&d, "\\\"maxSessionTurns\\\":7}") &&
         has(&d, "\\\"r\\\":{\\\"trust\\\":true,\\\"httpUrl\\\":\\\"http://h/\\\"") &&
         has(&d, "/.gemini/GEMINI.md\":\"be \\\"kind\\\"\"}"),
     "gemini: a settings file, and the system prompt beside it");
  create("{\"agent\":\"opencode\"," MCP ",\"system_prompt\":\"p\",\"model\":\"m-1\"}");
  run_with(1, "{\"prompt\":\"-\"}", NULL);
  ok(has(&d, "\\\"command\\\":[\\\"no\\\\\\\"de\\\",\\\"x\\\",\\\"y z\\\"],\\\"environment\\\":{") &&
         has(&d, "\\\"command\\\":[\\\"c\\\"],") && has(&d, "\"--model\",\"caisson/m-1\"") &&
         has(&d, "\\\"models\\\":{\\\"m-1\\\":{}}") && has(&d, "/instructions.md\":\"p\"}"),
     "opencode: a configuration in the environment");
}

/* What an agent would take for a variable reaches the server as it is. */
static void dollars(void) {
#define DOLLARS                                                                                              \
  "\"mcp\":{\"a\":{\"command\":\"c\",\"args\":[\"$A\"],\"env\":{\"K\":\"{$B\"}},\"r\":{\"url\":\"http://h/"  \
  "$C\"}}"
  create("{\"agent\":\"claude-code\"," DOLLARS "}");
  run_with(1, "{\"prompt\":\"-\"}", NULL);
  ok(has(&d, "\\\"${__:-$}A\\\"") && has(&d, ":\\\"{${__:-$}B\\\"") && has(&d, "http://h/${__:-$}C"),
     "claude-code: $");
  create("{\"agent\":\"gemini\"," DOLLARS "}");
  run_with(1, "{\"prompt\":\"-\"}", NULL);
  ok(has(&d, "\\\"${.:-$}A\\\"") && has(&d, ":\\\"{\\\\\\\\${.:-$}B\\\"") && has(&d, "http://h/${.:-$}C"),
     "gemini: $");
  create("{\"agent\":\"opencode\"," DOLLARS "}");
  run_with(1, "{\"prompt\":\"-\"}", NULL);
  ok(has(&d, "\\\"$A\\\"") && has(&d, ":\\\"\\\\u007b$B\\\"") && has(&d, "http://h/$C"), "opencode: {");
  create("{\"agent\":\"codex\"," DOLLARS "}");
  run_with(1, "{\"prompt\":\"-\"}", NULL);
  ok(has(&d, "\\\"$A\\\"") && has(&d, "=\\\"{$B\\\""), "codex: as it is");
}

/* Tool rules, in the words of each agent. */
static void tools(void) {
  create("{\"agent\":\"claude-code\",\"tools\":{\"deny\":[\"Bash(rm:*)\"]}}");
  run_with(1, "{\"prompt\":\"-\"}", NULL);
  ok(has(&d, "\"--dangerously-skip-permissions\",\"--settings\",\"{\\\"permissions\\\":{\\\"allow\\\":[],"
             "\\\"deny\\\":[\\\"Bash(rm:*)\\\"]}}\""),
     "claude-code: all but what is denied");
  create("{\"agent\":\"claude-code\",\"tools\":{\"allow\":[\"Read\"]}}");
  run_with(1, "{\"prompt\":\"-\"}", NULL);
  ok(has(&d, "\"--permission-mode\",\"dontAsk\"") && !has(&d, "skip-permissions"),
     "claude-code: nothing but what is allowed");
  create("{\"agent\":\"gemini\",\"tools\":{\"allow\":[\"run_shell_command(ls)\"],\"deny\":[\"run_shell_"
         "command(rm -rf)\",\"x\"]}}");
  run_with(1, "{\"prompt\":\"-\"}", NULL);
  ok(has(&d, "\\\"tools\\\":{\\\"core\\\":[\\\"run_shell_command(ls)\\\"]}") && has(&d, "\"--policy\",") &&
         has(&d, "/policy.toml\":\"[[rule]]\\ntoolName = \\\"run_shell_command\\\"\\ncommandPrefix = \\\"rm "
                 "-rf\\\"\\n"
                 "decision = \\\"deny\\\"\\npriority = 900\\n[[rule]]\\ntoolName = \\\"x\\\"\\ndecision"),
     "gemini: a list of tools and a policy");
  create("{\"agent\":\"opencode\",\"tools\":{\"allow\":[\"bash(echo *)\",\"read\",\"bash(ls)\"],"
         "\"deny\":[\"bash(echo b)\",\"edit\"]}}");
  run_with(1, "{\"prompt\":\"-\"}", NULL);
  ok(has(&d, "\\\"permission\\\":{\\\"*\\\":\\\"deny\\\",\\\"bash\\\":{\\\"*\\\":\\\"deny\\\",\\\"echo "
             "*\\\":\\\"allow\\\","
             "\\\"ls\\\":\\\"allow\\\",\\\"echo b\\\":\\\"deny\\\"},\\\"read\\\":{\\\"*\\\":\\\"allow\\\"},"
             "\\\"edit\\\":{\\\"*\\\":\\\"deny\\\"}}"),
     "opencode: patterns by tool, denials last");
}

/* Claude Code's other formats. */
static void formats(void) {
  create("{\"agent\":\"claude-code\"}");
  run_with(1, "{\"prompt\":\"-\",\"partial_messages\":true}", NULL);
  ok(has(&d, "\"stream-json\",\"--verbose\",\"--include-partial-messages\""),
     "partial messages are asked for");
  run_with(2, "{\"prompt\":\"-\",\"output_format\":\"json\"}", NULL);
  ok(has(&d, "\"--output-format\",\"json\""), "one line at the end is asked for");
  static const struct {
    const char *text, *exit, *want;
  } ends[] = {
      {"Done: é\n", EXITED_0, "\"type\":\"run.succeeded\",\"reason\":\"completed\""},
      {"Execution error\n", EXITED_0, "\"type\":\"run.interrupted\",\"reason\":\"no_result\""},
      {"Invalid API key", "{\"reason\":\"exited\",\"exit_code\":1,\"signal\":null}",
       "\"type\":\"run.failed\",\"reason\":\"agent_error\""},
      {"Error: Reached max turns (1)", "{\"reason\":\"exited\",\"exit_code\":1,\"signal\":null}",
       "\"type\":\"run.failed\",\"reason\":\"max_turns\""},
      {"", "{\"reason\":\"signalled\",\"exit_code\":null,\"signal\":9}", "\"type\":\"run.interrupted\""},
  };
  for (uint32_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
    static const char request[] = "{\"prompt\":\"-\",\"output_format\":\"text\"}";
    uint32_t id = i + 3;
    drive_clear(&d);
    drive_ev(&d, CSN_EV_RUN, 0, request);
    drive_ev(&d, CSN_EV_RUN_LOADED, id, request);
    drive_ev(&d, CSN_EV_RUN_STARTED, id, "");
    drive_feed(&d, CSN_STREAM_STDOUT, id, ends[i].text, strlen(ends[i].text), 3);
    drive_end(&d, id, ends[i].exit);
    ok(has(&d, ends[i].want), "text: %s", ends[i].want);
  }
  static const char request[] = "{\"prompt\":\"-\",\"output_format\":\"text\"}";
  static char quotes[8000];
  memset(quotes, '"', sizeof quotes);
  uint32_t id = (uint32_t)(sizeof ends / sizeof ends[0]) + 3;
  drive_clear(&d);
  drive_ev(&d, CSN_EV_RUN, 0, request);
  drive_ev(&d, CSN_EV_RUN_LOADED, id, request);
  drive_ev(&d, CSN_EV_RUN_STARTED, id, "");
  drive_feed(&d, CSN_STREAM_STDOUT, id, quotes, sizeof quotes, CSN_FEED_MAX);
  drive_end(&d, id, EXITED_0);
  ok(has(&d, "\\\"\",\"result_len\":16000"), "text: what is cut says how long it was, escapes counted");
}

/* Gemini CLI tells of its retries on stderr alone. */
static void recovers(void) {
  static const char attempt[] = "Attempt 1 failed with status 503. Retrying with backoff...\n";
  static const char *const answers[] = {
      "{\"type\":\"message\",\"role\":\"assistant\",\"content\":\"good\",\"delta\":true}\n",
      "{\"type\":\"tool_use\",\"tool_name\":\"glob\",\"tool_id\":\"t\",\"parameters\":{}}\n"};
  for (uint32_t i = 0; i < 3; i++) {
    const char *answer = i < 2 ? answers[i] : "";
    drive_run(&d, "gemini");
    drive_clear(&d);
    drive_feed(&d, CSN_STREAM_STDOUT, 1, answers[0], strlen(answers[0]), CSN_FEED_MAX);
    drive_feed(&d, CSN_STREAM_STDERR, 1, attempt, strlen(attempt), CSN_FEED_MAX);
    drive_feed(&d, CSN_STREAM_STDOUT, 1, answer, strlen(answer), CSN_FEED_MAX);
    drive_end(&d, 1, "{\"reason\":\"signalled\",\"signal\":9}");
    ok(has(&d, "run.interrupted") && has(&d, "\"kind\":\"server_error\"") == (i == 2),
       "gemini: a retry, %s, and no end",
       i == 0   ? "an answer"
       : i == 1 ? "a call"
                : "no answer");
  }
}

int main(void) {
  forks();
  servers();
  dollars();
  tools();
  formats();
  sizes_and_reloads("codex", "tools-gpt-5.5");
  sizes_and_reloads("codex", "large-output");
  sizes_and_reloads("gemini", "success");
  sizes_and_reloads("opencode", "success");
  codex_resumes();
  others_resume();
  quoting();
  recovers();
  free(d.log);
  return done();
}
