#include "csn/dialect.h"

/* OpenCode, `run --format json`. A step is one request to the model; nothing marks the end of a run but the
 * step that ended by "stop", if no other follows. */

/* node, parent, step, key, captured, verbatim, cap */
#define NODES(X)                                                                                             \
  X(ROOT, ROOT, KEY, "", 0, 0, 0)                                                                            \
  X(TYPE, ROOT, KEY, "type", 1, 0, 64)                                                                       \
  X(SESSION_ID, ROOT, KEY, "sessionID", 1, 0, CSN_ID_CAP)                                                    \
  X(ERROR, ROOT, KEY, "error", 0, 0, 0)                                                                      \
  X(ERROR_NAME, ERROR, KEY, "name", 1, 0, 64)                                                                \
  X(ERROR_DATA, ERROR, KEY, "data", 0, 0, 0)                                                                 \
  X(ERROR_MESSAGE, ERROR_DATA, KEY, "message", 1, 0, CSN_MESSAGE_CAP)                                        \
  X(ERROR_STATUS, ERROR_DATA, KEY, "statusCode", 1, 0, 32)                                                   \
  X(PART, ROOT, KEY, "part", 0, 0, 0)                                                                        \
  X(PART_MESSAGE, PART, KEY, "messageID", 1, 0, 128)                                                         \
  X(TEXT, PART, KEY, "text", 1, 0, CSN_FIELD_MAX)                                                            \
  X(TOOL, PART, KEY, "tool", 1, 0, 256)                                                                      \
  X(CALL_ID, PART, KEY, "callID", 1, 0, 128)                                                                 \
  X(STATE, PART, KEY, "state", 0, 0, 0)                                                                      \
  X(STATUS, STATE, KEY, "status", 1, 0, 64)                                                                  \
  X(INPUT, STATE, KEY, "input", 1, 1, CSN_FIELD_MAX)                                                         \
  X(INPUT_FILE, INPUT, KEY, "filePath", 1, 0, 4096)                                                          \
  X(INPUT_PATH, INPUT, KEY, "path", 1, 0, 4096)                                                              \
  X(INPUT_COMMAND, INPUT, KEY, "command", 1, 0, 16384)                                                       \
  X(INPUT_URL, INPUT, KEY, "url", 1, 0, 4096)                                                                \
  X(INPUT_QUERY, INPUT, KEY, "query", 1, 0, 4096)                                                            \
  X(INPUT_SUBAGENT, INPUT, KEY, "subagent_type", 1, 0, 256)                                                  \
  X(INPUT_SKILL, INPUT, KEY, "name", 1, 0, 256)                                                              \
  X(OUTPUT, STATE, KEY, "output", 1, 0, CSN_FIELD_MAX)                                                       \
  X(TOOL_ERROR, STATE, KEY, "error", 1, 0, CSN_FIELD_MAX)                                                    \
  X(METADATA, STATE, KEY, "metadata", 0, 0, 0)                                                               \
  X(EXIT_CODE, METADATA, KEY, "exit", 1, 0, 32)                                                              \
  X(REASON, PART, KEY, "reason", 1, 0, 64)                                                                   \
  X(COST, PART, KEY, "cost", 1, 0, 64)                                                                       \
  X(TOKENS, PART, KEY, "tokens", 0, 0, 0)                                                                    \
  X(TOKENS_IN, TOKENS, KEY, "input", 1, 0, 32)                                                               \
  X(TOKENS_OUT, TOKENS, KEY, "output", 1, 0, 32)                                                             \
  X(TOKENS_THOUGHT, TOKENS, KEY, "reasoning", 1, 0, 32)                                                      \
  X(CACHE, TOKENS, KEY, "cache", 0, 0, 0)                                                                    \
  X(CACHE_READ, CACHE, KEY, "read", 1, 0, 32)                                                                \
  X(CACHE_WRITE, CACHE, KEY, "write", 1, 0, 32)

enum node { NODES(CSN_NODE_ENUM) N_END };
static const csn_json_node nodes[N_END] = {NODES(CSN_NODE_ROW)};
_Static_assert(N_END <= CSN_JSON_NODE_MAX, "table too large");

/* --- the command --- */

#define INSTRUCTIONS "/var/lib/caisson/agents/opencode/instructions.md"

/* Whether an earlier rule of the list names the same tool. */
CSN_RARE static bool named_before(csn_span options, csn_option_tag tag, csn_span rule) {
  csn_span other, tool = csn_rule_tool(rule);
  while (csn_option_find(&options, tag, &other) && other.ptr != rule.ptr) {
    csn_span have = csn_rule_tool(other);
    if (have.len == tool.len && memcmp(have.ptr, tool.ptr, tool.len) == 0) return true;
  }
  return false;
}

CSN_RARE static bool names(csn_span options, csn_option_tag tag, csn_span tool) {
  csn_span rule;
  while (csn_option_find(&options, tag, &rule)) {
    csn_span have = csn_rule_tool(rule);
    if (have.len == tool.len && memcmp(have.ptr, tool.ptr, tool.len) == 0) return true;
  }
  return false;
}

/* The patterns of one tool with one verdict. Returns whether a rule names the whole tool. */
CSN_RARE static bool put_patterns(csn_fx *fx, csn_span options, csn_option_tag tag, csn_span tool) {
  csn_span rule;
  bool whole = false;
  while (csn_option_find(&options, tag, &rule)) {
    csn_span have = csn_rule_tool(rule), args = csn_rule_args(rule);
    if (have.len != tool.len || memcmp(have.ptr, tool.ptr, tool.len) != 0) continue;
    if (args.len == 0) whole = true;
    if (fx == NULL || args.len == 0) continue;
    csn_put_doc(fx, ",");
    csn_put_doc_string(fx, args);
    csn_put_doc(fx, tag == CSN_OPT_ALLOW ? ":\"allow\"" : ":\"deny\"");
  }
  return whole;
}

/* `"tool":{"*":...,"pattern":...}`: of the patterns that fit, the last one counts, so denials come last. */
CSN_RARE static void put_tool(csn_fx *fx, csn_span options, csn_span tool, bool listed) {
  csn_put_doc(fx, ",");
  csn_put_doc_string(fx, tool);
  bool allowed = !listed || put_patterns(NULL, options, CSN_OPT_ALLOW, tool);
  bool denied = put_patterns(NULL, options, CSN_OPT_DENY, tool);
  csn_put_doc(fx, allowed && !denied ? ":{\"*\":\"allow\"" : ":{\"*\":\"deny\"");
  if (!denied) put_patterns(fx, options, CSN_OPT_ALLOW, tool);
  put_patterns(fx, options, CSN_OPT_DENY, tool);
  csn_put_doc(fx, "}");
}

CSN_RARE static void put_permission(csn_fx *fx, csn_span options) {
  bool listed = csn_option_has(options, CSN_OPT_ALLOW);
  csn_span rest = options, rule;
  if (!listed && !csn_option_has(options, CSN_OPT_DENY)) return;
  csn_put_doc(fx, listed ? ",\"permission\":{\"*\":\"deny\"" : ",\"permission\":{\"*\":\"allow\"");
  while (csn_option_find(&rest, CSN_OPT_ALLOW, &rule))
    if (!named_before(options, CSN_OPT_ALLOW, rule)) put_tool(fx, options, csn_rule_tool(rule), true);
  rest = options;
  while (csn_option_find(&rest, CSN_OPT_DENY, &rule))
    if (!named_before(options, CSN_OPT_DENY, rule) && !names(options, CSN_OPT_ALLOW, csn_rule_tool(rule)))
      put_tool(fx, options, csn_rule_tool(rule), listed);
  csn_put_doc(fx, "}");
}

/* Its patterns know one `*`, which stands for any text, and are held against a path as it was given. */
__attribute__((noinline)) static void put_path(csn_rule_out *o, bool deny, csn_span tool, csn_span spec) {
  uint8_t flat[CSN_POLICY_PATTERN_MAX];
  uint32_t len = 0;
  for (uint32_t i = 0; i < spec.len && len < sizeof flat; i++)
    if (spec.ptr[i] != '*' || len == 0 || flat[len - 1] != '*') flat[len++] = spec.ptr[i];
  csn_span path = csn_span_of(flat, len), none = csn_span_of(NULL, 0), all = csn_span_str("/*");
  const char *roots[2] = {"", ""};
  if (csn_span_starts(path, "//")) {
    path = csn_span_of(flat + 1, len - 1);
  } else if (csn_span_starts(path, "/")) {
    path = csn_span_of(flat + 1, len - 1);
    roots[1] = CSN_TOOLS_CWD "/";
  } else if (csn_span_starts(path, "~/")) {
    path = csn_span_of(flat + 1, len - 1);
    roots[0] = roots[1] = CSN_TOOLS_HOME;
  } else {
    roots[1] = csn_span_has(path, "/") ? CSN_TOOLS_CWD "/" : "*/";
  }
  for (uint32_t i = 0; i < (roots[0] == roots[1] ? 1u : 2u); i++) {
    csn_rule_put(o, deny, tool, csn_span_str(roots[i]), path, none);
    if (len > 0 && flat[len - 1] != '*') csn_rule_put(o, deny, tool, csn_span_str(roots[i]), path, all);
  }
}

CSN_RARE static void put_server_tool(csn_rule_out *o, bool deny, csn_span server, csn_span tool) {
  uint8_t name[CSN_WATCH_NAME_CAP + 2];
  csn_fx text = {name, sizeof name, 0};
  if (server.len + 1 + tool.len > sizeof name) return;
  csn_fx_put(&text, server.ptr, server.len);
  csn_put_str(&text, "_");
  csn_fx_put(&text, tool.ptr, tool.len);
  csn_rule_put(o, deny, csn_span_of(name, text.len), csn_span_of(NULL, 0), csn_span_of(NULL, 0),
               csn_span_of(NULL, 0));
}

/* server_tool; server_* stands for all of its tools. A star in the name of the server would reach tools that
 * are no server's: it stands for those that the run has. */
CSN_RARE static void put_mcp(csn_rule_out *o, bool deny, csn_span tool) {
  csn_span server = csn_span_of(tool.ptr + 5, tool.len - 5), rest = csn_span_after(server, "__");
  csn_span all = csn_span_str("*"), options = o->options;
  if (rest.len < server.len) {
    put_server_tool(o, deny, csn_span_of(server.ptr, server.len - rest.len - 2), rest);
  } else if (server.len == 0 || server.ptr[server.len - 1] != '*') {
    put_server_tool(o, deny, server, all);
  } else {
    while (csn_option_find(&options, CSN_OPT_SERVER, &server))
      if (csn_span_is(csn_rule_mcp(tool, server), "*")) put_server_tool(o, deny, server, all);
  }
}

CSN_RARE static void rule(csn_rule_out *o, bool deny, csn_span tool, csn_span spec) {
  static const csn_tool_alias names[] = {{"bash", "Bash"},
                                         {"read", "Read"},
                                         {"glob", "Read"},
                                         {"grep", "Read"},
                                         {"list", "Read"},
                                         {"glob", "Glob"},
                                         {"grep", "Grep"},
                                         {"list", "LS"},
                                         {"edit", "Edit"},
                                         {"edit", "Write"},
                                         {"edit", "MultiEdit"},
                                         {"webfetch", "WebFetch"},
                                         {"task", "Task"},
                                         {"task", "Agent"},
                                         {"websearch", "WebSearch"},
                                         {"skill", "Skill"},
                                         {"todowrite", "TodoWrite"},
                                         {"todoread", "TodoRead"},
                                         {NULL, NULL}};
  csn_span none = csn_span_of(NULL, 0), head;
  if (csn_span_starts(tool, "mcp__")) {
    put_mcp(o, deny, tool);
    return;
  }
  for (const csn_tool_alias *n = names; n->own != NULL; n++) {
    if (!csn_span_is(tool, n->rule)) continue;
    csn_span own = csn_span_str(n->own);
    if (spec.len == 0) {
      csn_rule_put(o, deny, own, none, none, none);
    } else if (csn_span_is(own, "bash")) {
      bool prefix = csn_rule_prefix(spec, &head);
      csn_rule_put(o, deny, own, prefix ? head : spec, none, none);
      if (prefix) csn_rule_put(o, deny, own, head, csn_span_str(" *"), none);
    } else if (csn_span_is(own, "read") || csn_span_is(own, "edit")) {
      put_path(o, deny, own, spec);
    } else if (csn_span_starts(spec, "domain:")) {
      csn_span domain = csn_span_of(spec.ptr + 7, spec.len - 7);
      csn_rule_put(o, deny, own, csn_span_str("http://"), domain, csn_span_str("*"));
      csn_rule_put(o, deny, own, csn_span_str("https://"), domain, csn_span_str("*"));
    } else if (!csn_rule_is_path(tool)) {
      csn_rule_put(o, deny, own, spec, none, none);
    } else if (!deny) { /* what it searches in is not in its pattern */
      csn_rule_put(o, deny, own, none, none, none);
    }
  }
}

CSN_RARE static csn_span plain_model(csn_span model) {
  for (uint32_t i = 0; i < model.len; i++)
    if (model.ptr[i] == '/') return csn_span_of(NULL, 0);
  return model;
}

/* All of the vendors that it knows go through the model gateway, and a model without a vendor is asked for by
 * Chat Completions. Its own cloud is left out. */
CSN_RARE static void put_config(csn_fx *fx, const csn_spec_in *in) {
  static const csn_mcp_style style = {
      .is = ":",
      .local = "\"type\":\"local\",\"enabled\":true,",
      .remote = "\"type\":\"remote\",\"enabled\":true,",
      .args = NULL,
      .env = "environment",
      .url = "url",
      .headers = "headers",
      .brace = "\\u007b"}; /* {env:NAME} and {file:PATH} are read before the JSON is */
  csn_span plain = plain_model(in->model);
  csn_put_str(fx, ",\"OPENCODE_CONFIG_CONTENT\":\"");
  csn_put_doc(fx, "{\"autoupdate\":false,\"share\":\"disabled\","
                  "\"enabled_providers\":[\"anthropic\",\"openai\",\"google\",\"caisson\"],\"provider\":{"
                  "\"anthropic\":{\"options\":{\"baseURL\":\"http://model.caisson.internal/v1\","
                  "\"apiKey\":\"caisson-placeholder\"}},"
                  "\"openai\":{\"options\":{\"baseURL\":\"http://openai.model.caisson.internal/v1\","
                  "\"apiKey\":\"caisson-placeholder\"}},"
                  "\"google\":{\"options\":{\"baseURL\":\"http://gemini.model.caisson.internal/v1beta\","
                  "\"apiKey\":\"caisson-placeholder\"}}");
  if (plain.len > 0) {
    csn_put_doc(fx, ",\"caisson\":{\"npm\":\"@ai-sdk/openai-compatible\",\"name\":\"Caisson\",\"options\":{"
                    "\"baseURL\":\"http://openai.model.caisson.internal/v1\","
                    "\"apiKey\":\"caisson-placeholder\"},\"models\":{");
    csn_put_doc_string(fx, plain);
    csn_put_doc(fx, ":{}}}");
  }
  csn_put_doc(fx, "}");
  if (in->system_prompt.len > 0) csn_put_doc(fx, ",\"instructions\":[\"" INSTRUCTIONS "\"]");
  if (csn_option_has(in->options, CSN_OPT_SERVER)) {
    csn_put_doc(fx, ",\"mcp\":");
    csn_put_mcp_servers(fx, in->options, &style);
  }
  put_permission(fx, in->options);
  csn_put_doc(fx, "}");
  csn_put_str(fx, "\"");
}

CSN_RARE static void spec(csn_fx *fx, const csn_spec_in *in) {
  static const char *const fixed[] = {"OPENCODE_CONFIG_CONTENT",
                                      "ANTHROPIC_API_KEY",
                                      "OPENAI_API_KEY",
                                      "GEMINI_API_KEY",
                                      "GOOGLE_GENERATIVE_AI_API_KEY",
                                      NULL};
  csn_put_str(fx, "{\"argv\":[\"opencode\",\"run\",\"--format\",\"json\",\"--auto\",\"--thinking\"");
  if (in->model.len > 0) {
    csn_put_str(fx, ",\"--model\",\"");
    if (plain_model(in->model).len > 0) csn_put_str(fx, "caisson/");
    csn_put_escaped(fx, in->model);
    csn_put_str(fx, "\"");
  }
  if (in->resume_id.len > 0) {
    csn_spec_arg_str(fx, "--session");
    csn_spec_arg_escaped(fx, in->resume_id);
    if (in->fork) csn_spec_arg_str(fx, "--fork");
  }
  csn_put_str(fx, "],\"env\":{\"OPENCODE_DISABLE_AUTOUPDATE\":\"1\",\"OPENCODE_DISABLE_MODELS_FETCH\":\"1\"");
  put_config(fx, in);
  csn_spec_env(fx, in->env, fixed, false);
  csn_put_str(fx, "}");
  if (in->system_prompt.len > 0) {
    csn_put_str(fx, ",\"files\":{\"" INSTRUCTIONS "\":\"");
    csn_put_escaped(fx, in->system_prompt);
    csn_put_str(fx, "\"}");
  }
  csn_spec_tail(fx, in, true);
  csn_put_str(fx, "}");
}

/* --- the stream --- */

/* There is no first event of its own: any one names the conversation. */
static void meet(csn_view *v) {
  if (v->run->id_len > 0) return;
  csn_span id = csn_view_id(v, N_SESSION_ID);
  if (id.len == 0) return;
  csn_run_conversation(v, id);
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_INIT);
  csn_put_field_text(v->e->fx, "agent_session_id", id);
  if (v->run->model_len > 0)
    csn_put_field_text(v->e->fx, "model", csn_span_of(v->run->model, v->run->model_len));
  csn_event_close(v->e, at);
}

/* Whatever was taken for the end was not it. */
static void go_on(csn_view *v) {
  v->run->has_result = 0;
  v->run->is_error = 0;
  v->run->denied = 0;
  csn_run_answered(v->run);
  csn_run_no_text(v->run);
}

/* What went wrong stays the reason until another step begins. */
static bool has_failed(const csn_agent_run *run) {
  return run->has_result && run->is_error;
}

static void on_step_start(csn_view *v) {
  csn_turn turn = {.id = csn_view_words(v, N_PART_MESSAGE, 0)};
  go_on(v);
  csn_run_turn(v, &turn);
}

static void on_text(csn_view *v, csn_type type) {
  uint32_t at = csn_event_open(v->e, type);
  csn_put_long_text(v, "text", csn_view_get(v, N_TEXT, 0));
  csn_put_text(v, "message_id", N_PART_MESSAGE, 0);
  csn_event_close(v->e, at);
  if (type == CSN_T_AGENT_TEXT) csn_run_text(v, N_TEXT, false);
}

static bool is_rejected(const csn_view *v) {
  csn_span error = csn_view_text(v, N_TOOL_ERROR, 0);
  return csn_span_has(error, "rejected permission") ||
         csn_span_has(error, "rule which prevents you from using this specific tool call");
}

/* The call as the policy's rules have it, and what came of it. A call of a tool that was taken away is one of
 * the tool `invalid`, which does nothing. */
CSN_RARE static void see_call(csn_view *v, bool refused) {
  static const csn_tool_alias aliases[] = {{"bash", "Bash"},
                                           {"read", "Read"},
                                           {"edit", "Edit"},
                                           {"write", "Write"},
                                           {"multiedit", "MultiEdit"},
                                           {"patch", "Edit"},
                                           {"apply_patch", "Edit"},
                                           {"glob", "Glob"},
                                           {"grep", "Grep"},
                                           {"list", "LS"},
                                           {"webfetch", "WebFetch"},
                                           {"websearch", "WebSearch"},
                                           {"task", "Task"},
                                           {"skill", "Skill"},
                                           {"todowrite", "TodoWrite"},
                                           {"todoread", "TodoRead"},
                                           {NULL, NULL}};
  static const struct {
    const char *tool;
    uint8_t node;
    const char *missing;
  } args[] = {{"bash", N_INPUT_COMMAND, NULL},     {"read", N_INPUT_FILE, NULL},
              {"edit", N_INPUT_FILE, NULL},        {"write", N_INPUT_FILE, NULL},
              {"multiedit", N_INPUT_FILE, NULL},   {"patch", N_INPUT_FILE, NULL},
              {"apply_patch", N_INPUT_FILE, NULL}, {"glob", N_INPUT_PATH, "."},
              {"grep", N_INPUT_PATH, "."},         {"list", N_INPUT_PATH, "."},
              {"webfetch", N_INPUT_URL, NULL},     {"websearch", N_INPUT_QUERY, NULL},
              {"task", N_INPUT_SUBAGENT, NULL},    {"skill", N_INPUT_SKILL, NULL}};
  csn_seen_call call = {.id = csn_view_text(v, N_CALL_ID, 0),
                        .tool = csn_view_text(v, N_TOOL, 0),
                        .aliases = aliases,
                        .part = csn_view_get(v, N_INPUT, 0)->cut || v->j->lost};
  if (csn_span_is(call.tool, "invalid")) return;
  /* A patch names its files in its own text. */
  if (csn_span_is(call.tool, "patch") || csn_span_is(call.tool, "apply_patch")) call.part = true;
  for (uint32_t i = 0; csn_sees_calls(v) && i < sizeof args / sizeof args[0]; i++) {
    if (!csn_span_is(call.tool, args[i].tool)) continue;
    call.arg = csn_view_get(v, args[i].node, 0);
    call.missing = args[i].missing;
  }
  csn_see_call(v, &call);
  if (refused) csn_see_refused(v, call.id);
  csn_see_result(v, call.id);
}

/* A call and its result come as one, when it is over. */
static void on_tool_use(csn_view *v) {
  csn_fx *fx = v->e->fx;
  bool is_error = !csn_view_is(v, N_STATUS, 0, "completed");
  csn_usage_add(&v->run->usage, &(csn_usage){.tool_calls = 1});
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_TOOL_CALL);
  csn_put_text(v, "tool_use_id", N_CALL_ID, 0);
  csn_put_text(v, "tool", N_TOOL, 0);
  csn_put_json(v, "input", "input_head", "input_len", csn_view_get(v, N_INPUT, 0));
  csn_put_text(v, "file",
               csn_view_get(v, N_INPUT_FILE, 0)->kind == CSN_JK_STRING ? N_INPUT_FILE : N_INPUT_PATH, 0);
  csn_put_text(v, "command", N_INPUT_COMMAND, 0);
  csn_put_text(v, "message_id", N_PART_MESSAGE, 0);
  csn_event_close(v->e, at);
  if (is_error && is_rejected(v)) {
    v->run->denied = 1;
    csn_words words = csn_view_words(v, N_TOOL_ERROR, 0);
    if (!has_failed(v->run)) csn_run_error(v->run, &words, 0);
    at = csn_event_open(v->e, CSN_T_AGENT_PERMISSION_DENIED);
    csn_put_text(v, "tool", N_TOOL, 0);
    csn_put_text(v, "tool_use_id", N_CALL_ID, 0);
    csn_put_text(v, "message", N_TOOL_ERROR, 0);
    csn_event_close(v->e, at);
  }
  at = csn_event_open(v->e, CSN_T_AGENT_TOOL_RESULT);
  csn_put_text(v, "tool_use_id", N_CALL_ID, 0);
  csn_put_field_bool(fx, "is_error", is_error);
  csn_put_long_text(v, "text", csn_view_get(v, is_error ? N_TOOL_ERROR : N_OUTPUT, 0));
  if (csn_view_get(v, N_EXIT_CODE, 0)->kind == CSN_JK_NUMBER) csn_put_scalar(v, "exit_code", N_EXIT_CODE, 0);
  csn_event_close(v->e, at);
  see_call(v, is_error && is_rejected(v));
  csn_run_more(v->run);
}

/* Tokens and cost are those of the step alone. Thoughts are counted apart from the output. */
static csn_usage usage_of(csn_view *v) {
  csn_usage delta = {.input_tokens = csn_view_count(v, N_TOKENS_IN),
                     .output_tokens =
                         csn_add_sat(csn_view_count(v, N_TOKENS_OUT), csn_view_count(v, N_TOKENS_THOUGHT)),
                     .cache_read_tokens = csn_view_count(v, N_CACHE_READ),
                     .cache_write_tokens = csn_view_count(v, N_CACHE_WRITE),
                     .turns = 1};
  const csn_json_item *cost = csn_view_get(v, N_COST, 0);
  bool said = cost->kind == CSN_JK_NUMBER && !cost->cut &&
              csn_json_nano(csn_json_text(v->j, cost), &delta.cost_nano) && delta.cost_nano > 0;
  /* A model that its configuration has no price for costs 0. */
  if (!said) csn_price_usage(v->prices, csn_span_of(v->run->model, v->run->model_len), true, &delta);
  return delta;
}

static void on_step_finish(csn_view *v) {
  csn_agent_run *run = v->run;
  csn_span reason = csn_view_text(v, N_REASON, 0);
  csn_usage delta = usage_of(v);
  csn_run_usage(v, &delta);
  if (has_failed(run)) return;
  if (csn_span_is(reason, "stop")) {
    csn_run_result(run, false, csn_span_str("completed"));
  } else if (csn_span_is(reason, "tool-calls") || csn_span_is(reason, "unknown")) {
    /* Another step is to follow, except behind a refusal. */
    run->has_result = 0;
    if (!run->denied) return;
    csn_run_result(run, true, csn_span_str("permission_denied"));
    csn_run_no_text(run);
  } else {
    csn_run_result(run, true, reason.len > 0 ? reason : csn_span_str("agent_error"));
    csn_run_no_text(run);
  }
}

CSN_RARE static void on_error(csn_view *v) {
  csn_words name = csn_view_words(v, N_ERROR_NAME, 0), message = csn_view_words(v, N_ERROR_MESSAGE, 0);
  uint64_t status = csn_view_count(v, N_ERROR_STATUS);
  csn_put_error_event(v, &name, &message, status);
  csn_run_result(v->run, true, csn_span_str(status > 0 ? "api_error" : "agent_error"));
  csn_run_error(v->run, &message, status);
  csn_text64_set(&v->run->kind, name.text);
  csn_run_no_text(v->run);
}

static void line(csn_view *v) {
  csn_span type = csn_view_text(v, N_TYPE, 0);
  meet(v);
  if (csn_span_is(type, "step_start"))
    on_step_start(v);
  else if (csn_span_is(type, "text"))
    on_text(v, CSN_T_AGENT_TEXT);
  else if (csn_span_is(type, "reasoning"))
    on_text(v, CSN_T_AGENT_THINKING);
  else if (csn_span_is(type, "tool_use"))
    on_tool_use(v);
  else if (csn_span_is(type, "step_finish"))
    on_step_finish(v);
  else if (csn_span_is(type, "error"))
    on_error(v);
  else
    csn_put_raw_event(v, "unmapped", type, csn_span_of(NULL, 0));
}

CSN_RARE static void err_line(csn_view *v, csn_span text) {
  if (csn_span_has(text, "Session not found")) csn_put_refusal(v, "session_not_found", text);
}

static void end(csn_view *v) {
  if (v->run->has_result) csn_put_result_event(v);
}

const csn_dialect csn_opencode_dialect = {.can =
                                              CSN_CAN_MCP | CSN_CAN_TOOLS | CSN_CAN_TOOL_ARGS | CSN_CAN_FORK,
                                          .rule = rule,
                                          .spec = spec,
                                          .table = {nodes, N_END},
                                          .line = line,
                                          .err_line = err_line,
                                          .end = end};
