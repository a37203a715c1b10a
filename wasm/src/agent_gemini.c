#include "csn/dialect.h"

/* Gemini CLI, `--output-format stream-json`. Text comes in pieces without a message id: the run's text
 * gathers them until something else comes, which is when agent.text is told. */

/* node, parent, step, key, captured, verbatim, cap */
#define NODES(X)                                                                                             \
  X(ROOT, ROOT, KEY, "", 0, 0, 0)                                                                            \
  X(TYPE, ROOT, KEY, "type", 1, 0, 64)                                                                       \
  X(SESSION_ID, ROOT, KEY, "session_id", 1, 0, CSN_ID_CAP)                                                   \
  X(MODEL, ROOT, KEY, "model", 1, 0, CSN_MODEL_MAX)                                                          \
  X(ROLE, ROOT, KEY, "role", 1, 0, 64)                                                                       \
  X(CONTENT, ROOT, KEY, "content", 1, 0, CSN_FIELD_MAX)                                                      \
  X(TOOL_NAME, ROOT, KEY, "tool_name", 1, 0, 256)                                                            \
  X(TOOL_ID, ROOT, KEY, "tool_id", 1, 0, 256)                                                                \
  X(PARAMETERS, ROOT, KEY, "parameters", 1, 1, CSN_FIELD_MAX)                                                \
  X(INPUT_FILE, PARAMETERS, KEY, "file_path", 1, 0, 4096)                                                    \
  X(INPUT_ABSOLUTE, PARAMETERS, KEY, "absolute_path", 1, 0, 4096)                                            \
  X(INPUT_PATH, PARAMETERS, KEY, "path", 1, 0, 4096)                                                         \
  X(INPUT_COMMAND, PARAMETERS, KEY, "command", 1, 0, 16384)                                                  \
  X(INPUT_DIR, PARAMETERS, KEY, "dir_path", 1, 0, 4096)                                                      \
  X(INPUT_QUERY, PARAMETERS, KEY, "query", 1, 0, 4096)                                                       \
  X(INPUT_URL, PARAMETERS, KEY, "url", 1, 0, 4096)                                                           \
  X(INPUT_SKILL, PARAMETERS, KEY, "name", 1, 0, 256)                                                         \
  X(STATUS, ROOT, KEY, "status", 1, 0, 64)                                                                   \
  X(OUTPUT, ROOT, KEY, "output", 1, 0, CSN_FIELD_MAX)                                                        \
  X(ERROR, ROOT, KEY, "error", 0, 0, 0)                                                                      \
  X(ERROR_TYPE, ERROR, KEY, "type", 1, 0, 64)                                                                \
  X(ERROR_MESSAGE, ERROR, KEY, "message", 1, 0, CSN_MESSAGE_CAP)                                             \
  X(SEVERITY, ROOT, KEY, "severity", 1, 0, 64)                                                               \
  X(MESSAGE, ROOT, KEY, "message", 1, 0, CSN_MESSAGE_CAP)                                                    \
  X(STATS, ROOT, KEY, "stats", 1, 0, 0)                                                                      \
  X(STATS_TOTAL, STATS, KEY, "total_tokens", 1, 0, 32)                                                       \
  X(STATS_IN, STATS, KEY, "input_tokens", 1, 0, 32)                                                          \
  X(STATS_OUT, STATS, KEY, "output_tokens", 1, 0, 32)                                                        \
  X(STATS_CACHED, STATS, KEY, "cached", 1, 0, 32)                                                            \
  X(STATS_DURATION, STATS, KEY, "duration_ms", 1, 0, 32)

enum node { NODES(CSN_NODE_ENUM) N_END };
static const csn_json_node nodes[N_END] = {NODES(CSN_NODE_ROW)};
_Static_assert(N_END <= CSN_JSON_NODE_MAX, "table too large");

/* --- the command --- */

/* It takes a settings file only from where root alone can write, or from its home: this is that. */
#define HOME  "/var/lib/caisson/agents/gemini"
#define SHELL "run_shell_command"

CSN_RARE static void put_settings(csn_fx *fx, const csn_spec_in *in) {
  static const csn_mcp_style style = {.is = ":",
                                      .local = "\"trust\":true,",
                                      .remote = "\"trust\":true,",
                                      .args = "args",
                                      .env = "env",
                                      .url = "httpUrl",
                                      .headers = "headers",
                                      /* a variable that nobody has, and its default; maps are read twice */
                                      .dollar = "${.:-$}",
                                      .dollar_in_map = "\\\\${.:-$}"};
  csn_put_str(fx, ",\"files\":{\"" HOME "/.gemini/settings.json\":\"");
  csn_put_doc(fx, "{\"security\":{\"auth\":{\"selectedType\":\"gemini-api-key\"}},"
                  "\"general\":{\"disableAutoUpdate\":true,\"enableAutoUpdate\":false},"
                  "\"privacy\":{\"usageStatisticsEnabled\":false}");
  if (in->max_turns > 0) {
    csn_put_doc(fx, ",\"model\":{\"maxSessionTurns\":");
    csn_put_u64(fx, in->max_turns);
    csn_put_doc(fx, "}");
  }
  if (csn_option_has(in->options, CSN_OPT_ALLOW)) {
    csn_put_doc(fx, ",\"tools\":{\"core\":");
    csn_put_rules(fx, in->options, CSN_OPT_ALLOW);
    csn_put_doc(fx, "}");
  }
  if (csn_option_has(in->options, CSN_OPT_SERVER)) {
    csn_put_doc(fx, ",\"mcpServers\":");
    csn_put_mcp_servers(fx, in->options, &style);
  }
  csn_put_doc(fx, "}");
  csn_put_str(fx, "\"");
}

/* Denials go by its policy engine: the list of excluded tools does not look at what a tool is called with. */
CSN_RARE static void put_policy(csn_fx *fx, csn_span options) {
  csn_span rule;
  csn_put_str(fx, ",\"" HOME "/policy.toml\":\"");
  while (csn_option_find(&options, CSN_OPT_DENY, &rule)) {
    csn_span args = csn_rule_args(rule);
    csn_put_doc(fx, "[[rule]]\ntoolName = ");
    csn_put_doc_string(fx, csn_rule_tool(rule));
    if (args.len > 0) {
      csn_put_doc(fx, "\ncommandPrefix = ");
      csn_put_doc_string(fx, args);
    }
    csn_put_doc(fx, "\ndecision = \"deny\"\npriority = 900\n");
  }
  csn_put_str(fx, "\"");
}

/* By name, and commands by how they begin. A path is judged in the stream alone. */
CSN_RARE static void rule(csn_rule_out *o, bool deny, csn_span tool, csn_span spec) {
  static const csn_tool_alias names[] = {{SHELL, "Bash"},
                                         {"read_file", "Read"},
                                         {"read_many_files", "Read"},
                                         {"glob", "Read"},
                                         {"grep_search", "Read"},
                                         {"search_file_content", "Read"},
                                         {"list_directory", "Read"},
                                         {"glob", "Glob"},
                                         {"grep_search", "Grep"},
                                         {"search_file_content", "Grep"},
                                         {"list_directory", "LS"},
                                         {"replace", "Edit"},
                                         {"write_file", "Edit"},
                                         {"write_file", "Write"},
                                         {"web_fetch", "WebFetch"},
                                         {"google_web_search", "WebSearch"},
                                         {"write_todos", "TodoWrite"},
                                         {"activate_skill", "Skill"},
                                         {NULL, NULL}};
  csn_span none = csn_span_of(NULL, 0), head = spec;
  bool prefix = csn_rule_prefix(spec, &head);
  for (const csn_tool_alias *n = names; n->own != NULL; n++) {
    if (!csn_span_is(tool, n->rule)) continue;
    csn_span own = csn_span_str(n->own);
    if (spec.len > 0 && csn_span_is(own, SHELL)) {
      if (!prefix) head.len = csn_span_find(spec, '*');
      if (prefix || !deny) csn_rule_put(o, deny, own, head, none, none);
    } else if (spec.len == 0 || !deny) {
      csn_rule_put(o, deny, own, none, none, none);
    }
  }
}

CSN_RARE static void spec(csn_fx *fx, const csn_spec_in *in) {
  static const char *const fixed[] = {"GEMINI_API_KEY",
                                      "GOOGLE_API_KEY",
                                      "GOOGLE_GEMINI_BASE_URL",
                                      "GEMINI_CLI_HOME",
                                      "GEMINI_CLI_TRUST_WORKSPACE",
                                      "GEMINI_CLI_SYSTEM_SETTINGS_PATH",
                                      NULL};
  bool deny = csn_option_has(in->options, CSN_OPT_DENY);
  csn_put_str(fx, "{\"argv\":[\"gemini\",\"--output-format\",\"stream-json\",\"--approval-mode\",\"yolo\","
                  "\"--skip-trust\"");
  if (deny) csn_put_str(fx, ",\"--policy\",\"" HOME "/policy.toml\"");
  if (in->model.len > 0) { /* without one it asks another model which to take */
    csn_spec_arg_str(fx, "--model");
    csn_spec_arg(fx, in->model);
  }
  if (in->resume_id.len > 0) {
    csn_spec_arg_str(fx, "--resume");
    csn_spec_arg_escaped(fx, in->resume_id);
  }
  csn_put_str(fx, "],\"env\":{\"GEMINI_API_KEY\":\"caisson-placeholder\","
                  "\"GOOGLE_GEMINI_BASE_URL\":\"http://gemini.model.caisson.internal\","
                  "\"GEMINI_CLI_HOME\":\"" HOME "\"");
  csn_spec_env(fx, in->env, fixed, false);
  /* Else it starts itself a second time, for a larger heap. */
  csn_spec_default(fx, in->env, "GEMINI_CLI_NO_RELAUNCH", "true");
  csn_put_str(fx, "}");
  put_settings(fx, in);
  if (deny) put_policy(fx, in->options);
  if (in->system_prompt.len > 0) csn_put_field_raw(fx, HOME "/.gemini/GEMINI.md", in->system_prompt);
  csn_put_str(fx, "}");
  csn_spec_tail(fx, in, true);
  csn_put_str(fx, "}");
}

/* --- the stream --- */

/* Tells the text that was gathered. */
static void end_text(csn_view *v, bool keep) {
  csn_agent_run *run = v->run;
  if (run->result_len == 0) return;
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_TEXT);
  csn_put_field_text(v->e->fx, "text", csn_span_of(run->result, run->result_len));
  if (run->result_cut) csn_put_field_u64(v->e->fx, "text_len", run->result_true_len);
  csn_event_close(v->e, at);
  if (!keep) csn_run_no_text(run);
}

/* Whether what comes now begins the run, or goes on behind a result, whose text was kept. */
static bool begin(csn_view *v) {
  if (!v->run->busy) csn_run_no_text(v->run);
  return !v->run->busy;
}

static void on_init(csn_view *v) {
  csn_run_conversation(v, csn_view_id(v, N_SESSION_ID));
  if (!csn_view_get(v, N_MODEL, 0)->cut) csn_agent_set_model(v->run, csn_view_text(v, N_MODEL, 0));
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_INIT);
  csn_put_text(v, "agent_session_id", N_SESSION_ID, 0);
  csn_put_text(v, "model", N_MODEL, 0);
  csn_event_close(v->e, at);
}

static void on_message(csn_view *v) {
  if (!csn_view_is(v, N_ROLE, 0, "assistant")) {
    csn_put_raw_event(v, "unmapped", csn_view_text(v, N_TYPE, 0), csn_view_text(v, N_ROLE, 0));
    return;
  }
  begin(v);
  csn_run_said(v);
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_TEXT_DELTA);
  csn_put_long_text(v, "text", csn_view_get(v, N_CONTENT, 0));
  csn_event_close(v->e, at);
  csn_run_text(v, N_CONTENT, true);
}

/* The call as the policy's rules have it. What web_fetch asks for stands in a prompt: no rule can judge it.
 */
CSN_RARE static void see_call(csn_view *v) {
  static const csn_tool_alias aliases[] = {{SHELL, "Bash"},
                                           {"read_file", "Read"},
                                           {"read_many_files", "Read"},
                                           {"write_file", "Write"},
                                           {"replace", "Edit"},
                                           {"list_directory", "LS"},
                                           {"glob", "Glob"},
                                           {"search_file_content", "Grep"},
                                           {"grep_search", "Grep"},
                                           {"web_fetch", "WebFetch"},
                                           {"google_web_search", "WebSearch"},
                                           {"write_todos", "TodoWrite"},
                                           {"activate_skill", "Skill"},
                                           {NULL, NULL}};
  static const struct {
    const char *tool;
    uint8_t nodes[3];
    const char *missing;
  } args[] = {{SHELL, {N_INPUT_COMMAND, 0, 0}, NULL},
              {"read_file", {N_INPUT_FILE, N_INPUT_ABSOLUTE, N_INPUT_PATH}, NULL},
              {"read_many_files", {N_INPUT_FILE, 0, 0}, NULL},
              {"write_file", {N_INPUT_FILE, 0, 0}, NULL},
              {"replace", {N_INPUT_FILE, 0, 0}, NULL},
              {"list_directory", {N_INPUT_DIR, N_INPUT_PATH, 0}, "."},
              {"glob", {N_INPUT_DIR, N_INPUT_PATH, 0}, "."},
              {"search_file_content", {N_INPUT_DIR, N_INPUT_PATH, 0}, "."},
              {"grep_search", {N_INPUT_DIR, N_INPUT_PATH, 0}, "."},
              {"web_fetch", {N_INPUT_URL, 0, 0}, NULL},
              {"google_web_search", {N_INPUT_QUERY, 0, 0}, NULL},
              {"activate_skill", {N_INPUT_SKILL, 0, 0}, NULL}};
  if (!csn_sees_calls(v)) return;
  csn_seen_call call = {.id = csn_view_text(v, N_TOOL_ID, 0),
                        .tool = csn_view_text(v, N_TOOL_NAME, 0),
                        .aliases = aliases,
                        .part = csn_view_get(v, N_PARAMETERS, 0)->cut || v->j->lost};
  if (csn_span_is(call.tool, "read_many_files") || csn_span_is(call.tool, "web_fetch")) call.part = true;
  for (uint32_t i = 0; i < sizeof args / sizeof args[0]; i++) {
    if (!csn_span_is(call.tool, args[i].tool)) continue;
    call.missing = args[i].missing;
    for (uint32_t k = 0; k < 3 && args[i].nodes[k] != 0; k++)
      if (call.arg == NULL || call.arg->kind == CSN_JK_NONE) call.arg = csn_view_get(v, args[i].nodes[k], 0);
  }
  csn_see_call(v, &call);
}

static void on_tool_use(csn_view *v) {
  static const uint8_t files[3] = {N_INPUT_FILE, N_INPUT_ABSOLUTE, N_INPUT_PATH};
  csn_run_answered(v->run);
  if (begin(v)) csn_run_said(v);
  end_text(v, false);
  csn_usage_add(&v->run->usage, &(csn_usage){.tool_calls = 1});
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_TOOL_CALL);
  csn_put_text(v, "tool_use_id", N_TOOL_ID, 0);
  csn_put_text(v, "tool", N_TOOL_NAME, 0);
  csn_put_json(v, "input", "input_head", "input_len", csn_view_get(v, N_PARAMETERS, 0));
  for (uint32_t i = 0; i < 3; i++) {
    if (csn_view_get(v, files[i], 0)->kind != CSN_JK_STRING) continue;
    csn_put_text(v, "file", files[i], 0);
    break;
  }
  csn_put_text(v, "command", N_INPUT_COMMAND, 0);
  csn_event_close(v->e, at);
  see_call(v);
}

static void on_tool_result(csn_view *v) {
  bool is_error = !csn_view_is(v, N_STATUS, 0, "success");
  bool has_output = csn_view_text(v, N_OUTPUT, 0).len > 0;
  if (is_error && csn_view_is(v, N_ERROR_TYPE, 0, "policy_violation")) {
    uint32_t denied = csn_event_open(v->e, CSN_T_AGENT_PERMISSION_DENIED);
    csn_put_text(v, "tool_use_id", N_TOOL_ID, 0);
    csn_put_text(v, "message", N_ERROR_MESSAGE, 0);
    csn_event_close(v->e, denied);
  }
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_TOOL_RESULT);
  csn_put_text(v, "tool_use_id", N_TOOL_ID, 0);
  csn_put_field_bool(v->e->fx, "is_error", is_error);
  csn_put_long_text(v, "text", csn_view_get(v, is_error && !has_output ? N_ERROR_MESSAGE : N_OUTPUT, 0));
  csn_event_close(v->e, at);
  if (is_error && (csn_view_is(v, N_ERROR_TYPE, 0, "policy_violation") ||
                   csn_view_is(v, N_ERROR_TYPE, 0, "tool_not_registered")))
    csn_see_refused(v, csn_view_text(v, N_TOOL_ID, 0));
  csn_see_result(v, csn_view_text(v, N_TOOL_ID, 0));
  csn_run_more(v->run);
}

/* --- the end --- */

/* The API's answer stands in the words: `[API Error: {"error":{"code":401,...`, here with escaped quotes. */
static uint64_t status_of(csn_span message) {
  uint64_t status;
  return csn_number_after(message, "\\\"code\\\":", &status) && status >= 100 && status <= 599 ? status : 0;
}

static const char *reason_of(csn_span type, uint64_t status) {
  if (csn_span_is(type, "FatalTurnLimitedError")) return "max_turns";
  if (csn_span_is(type, "FatalCancellationError")) return "aborted";
  return status > 0 ? "api_error" : "agent_error";
}

/* An error on the way. The last one is why the run failed, where its result does not say so itself. */
CSN_RARE static void on_error(csn_view *v) {
  csn_words message = csn_view_words(v, N_MESSAGE, 0), severity = csn_view_words(v, N_SEVERITY, 0);
  uint64_t status = status_of(message.text);
  csn_put_error_event(v, &severity, &message, status);
  if (csn_view_is(v, N_SEVERITY, 0, "error")) csn_run_error(v->run, &message, status);
}

/* Usage is that of the run alone; input_tokens has the cached ones in it. Thoughts are in the total alone. It
 * says no cost. */
static csn_usage usage_of(csn_view *v) {
  uint64_t in = csn_view_count(v, N_STATS_IN), cached = csn_view_count(v, N_STATS_CACHED);
  uint64_t out = csn_view_count(v, N_STATS_OUT), total = csn_view_count(v, N_STATS_TOTAL);
  csn_usage delta = {.input_tokens = in >= cached ? in - cached : 0,
                     .output_tokens = total >= in && total - in > out ? total - in : out,
                     .cache_read_tokens = cached};
  csn_price_usage(v->prices, csn_span_of(v->run->model, v->run->model_len), false, &delta);
  delta.turns = v->run->live.turns - v->run->usage.turns;
  return delta;
}

static void on_result(csn_view *v) {
  csn_agent_run *run = v->run;
  /* Anything but a plain success counts as an error: success must be said, not guessed. */
  bool is_error = !csn_view_is(v, N_STATUS, 0, "success");
  end_text(v, true);
  csn_usage delta = usage_of(v);
  csn_run_usage(v, &delta);
  if (is_error) {
    csn_span type = csn_view_text(v, N_ERROR_TYPE, 0);
    csn_words message = csn_view_words(v, N_ERROR_MESSAGE, 0);
    uint64_t status = message.text.len > 0 ? status_of(message.text) : run->error_status;
    const char *kind = csn_span_is(type, "unknown") || type.len == 0 ? csn_kind_of_status(status) : NULL;
    csn_run_result(run, true, csn_span_str(reason_of(type, status)));
    if (message.text.len > 0) csn_run_error(run, &message, status);
    csn_text64_set(&run->kind, kind != NULL ? csn_span_str(kind) : type);
    csn_run_no_text(run);
  } else {
    csn_run_result(run, false, csn_span_str("completed"));
  }
  csn_put_result_event(v);
}

static void line(csn_view *v) {
  csn_span type = csn_view_text(v, N_TYPE, 0);
  if (csn_span_is(type, "init"))
    on_init(v);
  else if (csn_span_is(type, "message"))
    on_message(v);
  else if (csn_span_is(type, "tool_use"))
    on_tool_use(v);
  else if (csn_span_is(type, "tool_result"))
    on_tool_result(v);
  else if (csn_span_is(type, "error"))
    on_error(v);
  else if (csn_span_is(type, "result"))
    on_result(v);
  else
    csn_put_raw_event(v, "unmapped", type, csn_span_of(NULL, 0));
}

/* Retries and what it refuses to start with are told here alone. */
CSN_RARE static void err_line(csn_view *v, csn_span text) {
  uint64_t attempt, status;
  if (csn_span_starts(text, "Attempt ") && csn_number_after(text, "Attempt ", &attempt) &&
      csn_span_has(text, "Retrying")) {
    csn_fx *fx = v->e->fx;
    uint32_t at = csn_event_open(v->e, CSN_T_AGENT_RETRY);
    bool known = csn_number_after(text, "failed with status ", &status);
    const char *kind = known ? csn_kind_of_status(status) : "connection_failed";
    csn_put_field_u64(fx, "attempt", attempt);
    csn_put_field_null(fx, "delay_ms");
    if (known)
      csn_put_field_u64(fx, "status", status);
    else
      csn_put_field_null(fx, "status");
    csn_put_plain(fx, "error", text);
    csn_event_close(v->e, at);
    if (!v->run->has_result) csn_text64_set(&v->run->kind, csn_span_str(kind != NULL ? kind : ""));
  } else if (csn_span_starts(text, "Error resuming session")) {
    csn_put_refusal(v, "session_not_found", text);
  } else if (csn_span_has(text, "is not running in a trusted directory")) {
    csn_put_refusal(v, "untrusted_workspace", text);
  } else if (csn_span_starts(text, "Invalid auth method selected")) {
    csn_put_refusal(v, "no_auth_method", text);
  }
}

/* Text that nothing ended any more. */
static void end(csn_view *v) {
  if (!v->run->has_result || v->run->busy) end_text(v, v->run->has_result);
}

const csn_dialect csn_gemini_dialect = {.can = CSN_CAN_MCP | CSN_CAN_TOOLS | CSN_CAN_TOOL_ARGS |
                                               CSN_CAN_MAX_TURNS,
                                        .args_of = SHELL,
                                        .rule = rule,
                                        .spec = spec,
                                        .table = {nodes, N_END},
                                        .line = line,
                                        .err_line = err_line,
                                        .end = end};
