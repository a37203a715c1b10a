#include "csn/dialect.h"

/* Codex, `codex exec --json`. One conversation is a "thread"; an item is a message, a tool call, an error. */

/* node, parent, step, key, captured, verbatim, cap */
#define NODES(X)                                                                                             \
  X(ROOT, ROOT, KEY, "", 0, 0, 0)                                                                            \
  X(TYPE, ROOT, KEY, "type", 1, 0, 64)                                                                       \
  X(THREAD_ID, ROOT, KEY, "thread_id", 1, 0, CSN_ID_CAP)                                                     \
  X(MESSAGE, ROOT, KEY, "message", 1, 0, CSN_MESSAGE_CAP)                                                    \
  X(ERROR, ROOT, KEY, "error", 0, 0, 0)                                                                      \
  X(ERROR_MESSAGE, ERROR, KEY, "message", 1, 0, CSN_MESSAGE_CAP)                                             \
  X(USAGE, ROOT, KEY, "usage", 1, 0, 0)                                                                      \
  X(USAGE_IN, USAGE, KEY, "input_tokens", 1, 0, 32)                                                          \
  X(USAGE_READ, USAGE, KEY, "cached_input_tokens", 1, 0, 32)                                                 \
  X(USAGE_WRITE, USAGE, KEY, "cache_write_input_tokens", 1, 0, 32)                                           \
  X(USAGE_OUT, USAGE, KEY, "output_tokens", 1, 0, 32)                                                        \
  X(ITEM, ROOT, KEY, "item", 0, 0, 0)                                                                        \
  X(ITEM_ID, ITEM, KEY, "id", 1, 0, 128)                                                                     \
  X(ITEM_TYPE, ITEM, KEY, "type", 1, 0, 64)                                                                  \
  X(ITEM_TEXT, ITEM, KEY, "text", 1, 0, CSN_FIELD_MAX)                                                       \
  X(ITEM_MESSAGE, ITEM, KEY, "message", 1, 0, CSN_MESSAGE_CAP)                                               \
  X(STATUS, ITEM, KEY, "status", 1, 0, 64)                                                                   \
  X(COMMAND, ITEM, KEY, "command", 1, 0, 8192) /* written twice */                                           \
  X(OUTPUT, ITEM, KEY, "aggregated_output", 1, 0, CSN_FIELD_MAX)                                             \
  X(EXIT_CODE, ITEM, KEY, "exit_code", 1, 0, 32)                                                             \
  X(CHANGES, ITEM, KEY, "changes", 1, 1, CSN_FIELD_MAX)                                                      \
  X(CHANGE, CHANGES, ANY_INDEX, "", 0, 0, 0)                                                                 \
  X(CHANGE_PATH, CHANGE, KEY, "path", 1, 0, 4096)                                                            \
  X(SERVER, ITEM, KEY, "server", 1, 0, 128)                                                                  \
  X(TOOL, ITEM, KEY, "tool", 1, 0, 256)                                                                      \
  X(ARGUMENTS, ITEM, KEY, "arguments", 1, 1, CSN_FIELD_MAX)                                                  \
  X(RESULT, ITEM, KEY, "result", 0, 0, 0)                                                                    \
  X(RESULT_CONTENT, RESULT, KEY, "content", 0, 0, 0)                                                         \
  X(RESULT_PART, RESULT_CONTENT, ANY_INDEX, "", 0, 0, 0)                                                     \
  X(RESULT_TEXT, RESULT_PART, KEY, "text", 1, 0, CSN_FIELD_MAX)                                              \
  X(ITEM_ERROR, ITEM, KEY, "error", 0, 0, 0)                                                                 \
  X(ITEM_ERROR_MESSAGE, ITEM_ERROR, KEY, "message", 1, 0, CSN_FIELD_MAX)                                     \
  X(QUERY, ITEM, KEY, "query", 1, 0, 4096)                                                                   \
  X(ITEMS, ITEM, KEY, "items", 1, 1, 16384)                                                                  \
  X(PROMPT, ITEM, KEY, "prompt", 1, 0, 8192)                                                                 \
  X(RECEIVERS, ITEM, KEY, "receiver_thread_ids", 0, 0, 0)                                                    \
  X(RECEIVER, RECEIVERS, ANY_INDEX, "", 1, 0, 128)

enum node { NODES(CSN_NODE_ENUM) N_END };
static const csn_json_node nodes[N_END] = {NODES(CSN_NODE_ROW)};
_Static_assert(N_END <= CSN_JSON_NODE_MAX, "table too large");

/* --- the command --- */

/* -c KEY="VALUE", the value as a TOML string. */
static void put_config(csn_fx *fx, const char *key, csn_span value) {
  csn_put_str(fx, ",\"-c\",\"");
  csn_put_str(fx, key);
  csn_put_str(fx, "=\\\"");
  csn_put_nested(fx, value);
  csn_put_str(fx, "\\\"\"");
}

static bool names_tool(csn_span tool) {
  return tool.len > 0 && tool.ptr[tool.len - 1] != '*';
}

/* Takes away what the rules deny of a server: all of it, or some of its tools, which it knows by their whole
 * names only. */
static void put_denied_tools(csn_fx *fx, csn_span options, csn_span server) {
  csn_span rest = options, rule, tool;
  bool some = false, all = false;
  while (csn_option_find(&rest, CSN_OPT_DENY, &rule)) {
    tool = csn_rule_mcp(rule, server);
    all = all || csn_span_is(tool, "*");
    some = some || names_tool(tool);
  }
  if (!some && !all) return;
  csn_put_str(fx, ",\"-c\",\"mcp_servers.");
  csn_put_escaped(fx, server);
  csn_put_str(fx, all ? ".enabled=false\"" : ".disabled_tools=[");
  const char *comma = "";
  while (!all && csn_option_find(&options, CSN_OPT_DENY, &rule)) {
    tool = csn_rule_mcp(rule, server);
    if (!names_tool(tool)) continue;
    csn_put_doc(fx, comma);
    csn_put_doc_string(fx, tool);
    comma = ",";
  }
  if (!all) csn_put_str(fx, "]\"");
}

static void put_servers(csn_fx *fx, csn_span options) {
  static const csn_mcp_style style = {.is = "=",
                                      .local = "",
                                      .remote = "",
                                      .args = "args",
                                      .env = "env",
                                      .url = "url",
                                      .headers = "http_headers"};
  csn_span all = options, name;
  while (csn_option_find(&options, CSN_OPT_SERVER, &name)) {
    csn_put_str(fx, ",\"-c\",\"mcp_servers.");
    csn_put_escaped(fx, name); /* letters, digits, - and _: a key as it is */
    csn_put_str(fx, "=");
    csn_put_mcp_server(fx, &options, &style);
    csn_put_str(fx, "\"");
    put_denied_tools(fx, all, name);
  }
}

/* --- rules of the policy --- */

#define SHELL   "shell_tool" /* the feature */
#define SEARCH  "web_search"
#define COMMAND "prefix_rule"
/* Rules are read from its home alone. One that the caller moves (HOME, CODEX_HOME) has none: calls are
 * watched. */
#define RULES CSN_TOOLS_HOME "/.codex/rules/caisson.rules"

/* Whether the text is words that stand for themselves, one space between them: those of a rule for commands.
 */
static bool is_words(csn_span text) {
  static const char marks[] = "-_./:=+,@%^";
  bool word = false;
  for (uint32_t i = 0; i < text.len; i++) {
    uint8_t c = text.ptr[i];
    bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                 csn_span_find(csn_span_str(marks), c) < sizeof marks - 1;
    if (!plain && (c != ' ' || !word)) return false;
    word = plain;
  }
  return word;
}

/* What it can be told not to do. There is nothing that allows: what no rule forbids, it does. */
static void rule(csn_rule_out *o, bool deny, csn_span tool, csn_span spec) {
  csn_span none = csn_span_of(NULL, 0), head;
  if (!deny) return;
  if (csn_span_is(tool, "Bash")) {
    if (spec.len == 0)
      csn_rule_put(o, deny, csn_span_str(SHELL), none, none, none);
    else if (csn_rule_prefix(spec, &head) && is_words(head))
      csn_rule_put(o, deny, csn_span_str(COMMAND), head, none, none);
  } else if (csn_span_is(tool, "WebSearch") && spec.len == 0) {
    csn_rule_put(o, deny, csn_span_str(SEARCH), none, none, none);
  } else if (csn_span_starts(tool, "mcp__")) {
    csn_rule_put(o, deny, tool, none, none, none);
  }
}

static bool denies(csn_span options, const char *what) {
  csn_span rule;
  while (csn_option_find(&options, CSN_OPT_DENY, &rule))
    if (csn_span_is(rule, what)) return true;
  return false;
}

/* The file is written for every run: what the run before it was told may hold no more. */
static void put_rules(csn_fx *fx, csn_span options) {
  csn_span rule;
  csn_put_str(fx, ",\"files\":{\"" RULES "\":\"");
  while (csn_option_find(&options, CSN_OPT_DENY, &rule)) {
    if (!csn_span_is(csn_rule_tool(rule), COMMAND)) continue;
    csn_span words = csn_rule_args(rule);
    csn_put_doc(fx, "prefix_rule(pattern=[\"");
    for (uint32_t i = 0; i < words.len; i++) {
      if (words.ptr[i] == ' ')
        csn_put_doc(fx, "\",\"");
      else
        csn_fx_put(fx, words.ptr + i, 1);
    }
    csn_put_doc(fx, "\"],decision=\"forbidden\",justification=\"the policy denies it\")\n");
  }
  csn_put_str(fx, "\"}");
}

static void spec(csn_fx *fx, const csn_spec_in *in) {
  static const char *const fixed[] = {"OPENAI_API_KEY", "CODEX_API_KEY", "CODEX_ACCESS_TOKEN", NULL};
  csn_put_str(fx, "{\"argv\":[\"codex\",\"exec\"");
  if (in->resume_id.len > 0) {
    csn_spec_arg_str(fx, in->fork ? "fork" : "resume");
    csn_spec_arg_escaped(fx, in->resume_id);
  }
  /* A provider of our own: the built-in one would also ask for the vendor's other services. */
  csn_put_str(fx, ",\"--json\",\"--skip-git-repo-check\",\"--dangerously-bypass-approvals-and-sandbox\","
                  "\"-c\",\"model_provider=caisson\",\"-c\",\"model_providers.caisson={"
                  "name=\\\"OpenAI through Caisson\\\","
                  "base_url=\\\"http://openai.model.caisson.internal/v1\\\","
                  "env_key=\\\"OPENAI_API_KEY\\\",wire_api=\\\"responses\\\","
                  "request_max_retries=3,stream_max_retries=3}\","
                  "\"-c\",\"check_for_update_on_startup=false\",\"-c\",\"analytics.enabled=false\"");
  if (in->model.len > 0) {
    csn_spec_arg_str(fx, "-m");
    csn_spec_arg(fx, in->model);
  }
  if (in->system_prompt.len > 0) put_config(fx, "developer_instructions", in->system_prompt);
  if (denies(in->options, SHELL)) csn_put_str(fx, ",\"-c\",\"features." SHELL "=false\"");
  if (denies(in->options, SEARCH)) csn_put_str(fx, ",\"-c\",\"" SEARCH "=\\\"disabled\\\"\"");
  put_servers(fx, in->options);
  csn_spec_arg_str(fx, "-"); /* the prompt is on standard input */
  csn_put_str(fx, "],\"env\":{\"OPENAI_API_KEY\":\"caisson-placeholder\"");
  csn_spec_env(fx, in->env, fixed, false);
  csn_put_str(fx, "}");
  put_rules(fx, in->options);
  csn_spec_tail(fx, in, true);
  csn_put_str(fx, "}");
}

/* --- errors, which come as words only --- */

typedef struct problem {
  const char *words, *kind, *reason;
} problem;

/* What is wrong by the words of a message; the first that fits. */
static const problem problems[] = {
    {"ran out of room in the model's context window", "context_length_exceeded", "prompt_too_long"},
    {"Quota exceeded", "billing_error", "api_error"},
    {"model does not exist", "model_not_found", "api_error"},
    {"stream disconnected", "connection_failed", "api_error"},
    {"Connection failed", "connection_failed", "api_error"},
    {"Missing environment variable", "authentication_failed", "api_error"},
    {"unexpected status ", NULL, "api_error"},
    {"last status: ", NULL, "api_error"},
};

static uint64_t status_of(csn_span message) {
  uint64_t status;
  if (csn_number_after(message, "unexpected status ", &status)) return status;
  return csn_number_after(message, "last status: ", &status) ? status : 0;
}

static const problem *problem_of(csn_span message) {
  static const problem unknown = {"", NULL, "agent_error"};
  for (uint32_t i = 0; i < sizeof problems / sizeof problems[0]; i++)
    if (csn_span_has(message, problems[i].words)) return &problems[i];
  return &unknown;
}

static csn_span kind_of(csn_span message) {
  const char *kind = problem_of(message)->kind;
  if (kind == NULL) kind = csn_kind_of_status(status_of(message));
  return kind != NULL ? csn_span_str(kind) : csn_span_of(NULL, 0);
}

/* `Reconnecting... 1/3 (why)` or `Reconnecting... waiting for network (why)`. */
static void on_retry(csn_view *v, const csn_words *words) {
  csn_fx *fx = v->e->fx;
  csn_span message = words->text;
  uint64_t attempt, of, status = status_of(message);
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_RETRY);
  if (csn_number_after(message, "Reconnecting... ", &attempt)) {
    csn_put_field_u64(fx, "attempt", attempt);
    if (csn_number_after(message, "/", &of)) csn_put_field_u64(fx, "max_retries", of);
  } else {
    csn_put_field_null(fx, "attempt");
  }
  csn_put_field_null(fx, "delay_ms");
  if (status > 0)
    csn_put_field_u64(fx, "status", status);
  else
    csn_put_field_null(fx, "status");
  csn_put_words(fx, "error", words);
  csn_event_close(v->e, at);
  csn_text64_set(&v->run->kind, kind_of(message));
}

static void on_error(csn_view *v) {
  csn_words words = csn_view_words(v, N_MESSAGE, 0);
  csn_span message = words.text;
  if (csn_span_starts(message, "Reconnecting... "))
    on_retry(v, &words);
  else
    csn_put_error_event(v, &(csn_words){kind_of(message), 0}, &words, status_of(message));
}

/* --- items --- */

/* Tool items by their type: an item that begins opens a call, one that ends closes it. Most come twice, but
 * some only when they are over. */
static uint64_t item_bit(const csn_view *v) {
  csn_span id = csn_view_text(v, N_ITEM_ID, 0);
  uint32_t h =
      2166136261u; /* FNV-1a: ids are item_0, item_1 ..., but those of web searches are the model's */
  for (uint32_t i = 0; i < id.len; i++)
    h = (h ^ id.ptr[i]) * 16777619u;
  return UINT64_C(1) << (h >> 26);
}

static void put_item_id(csn_view *v) {
  csn_put_text(v, "tool_use_id", N_ITEM_ID, 0);
}

__attribute__((noinline)) static void put_part(csn_fx *fx, bool cut, csn_span part) {
  if (cut)
    csn_put_escaped(fx, part);
  else
    csn_fx_put(fx, part.ptr, part.len);
}

/* The input of a tool that has one value in it, {"KEY":VALUE}: verbatim, or its head. */
static void put_input(csn_view *v, const char *key, const csn_json_item *value) {
  csn_fx *fx = v->e->fx;
  bool cut = value->cut, string = value->kind == CSN_JK_STRING;
  csn_span name = csn_span_of(key, csn_str_len(key));
  csn_put_str(fx, cut ? ",\"input_head\":\"" : ",\"input\":");
  put_part(fx, cut, csn_span_of("{\"", 2));
  put_part(fx, cut, name);
  put_part(fx, cut, csn_span_of("\":\"", string ? 3 : 2));
  put_part(fx, cut, csn_json_text(v->j, value));
  if (cut || string) csn_put_str(fx, "\""); /* of the head, or of the value */
  if (!cut) csn_put_str(fx, "}");
  if (cut) csn_put_field_u64(fx, "input_len", name.len + (string ? 7u : 5u) + (uint64_t)value->true_len);
}

static void put_tool(csn_view *v, csn_span type) {
  csn_fx *fx = v->e->fx;
  if (csn_span_is(type, "mcp_tool_call")) {
    csn_words server = csn_view_words(v, N_SERVER, 0), tool = csn_view_words(v, N_TOOL, 0);
    csn_put_str(fx, ",\"tool\":\"mcp__");
    csn_fx_put(fx, server.text.ptr, server.text.len);
    csn_put_str(fx, "__");
    csn_fx_put(fx, tool.text.ptr, tool.text.len);
    csn_put_str(fx, "\"");
    if (server.true_len > server.text.len || tool.true_len > tool.text.len)
      csn_put_field_u64(fx, "tool_len", (uint64_t)7 + server.true_len + tool.true_len);
    csn_put_json(v, "input", "input_head", "input_len", csn_view_get(v, N_ARGUMENTS, 0));
    return;
  }
  csn_put_field_text(fx, "tool", type);
  if (csn_span_is(type, "command_execution")) {
    const csn_json_item *command = csn_view_get(v, N_COMMAND, 0);
    if (command->kind == CSN_JK_STRING) put_input(v, "command", command);
    csn_put_text(v, "command", N_COMMAND, 0);
  } else if (csn_span_is(type, "file_change")) {
    const csn_json_item *changes = csn_view_get(v, N_CHANGES, 0);
    if (changes->kind != CSN_JK_NONE) put_input(v, "changes", changes);
    csn_put_text(v, "file", N_CHANGE_PATH, 0);
  } else {
    const csn_json_item *query = csn_view_get(v, N_QUERY, 0);
    if (query->kind == CSN_JK_STRING)
      put_input(v, "query", query);
    else
      csn_put_str(fx, ",\"input\":{\"query\":\"\"}");
  }
}

/* The call as the policy's rules have it; of a change each of its files. */
static void see_call(csn_view *v, csn_span type) {
  static const csn_tool_alias aliases[] = {
      {"command_execution", "Bash"}, {"file_change", "Edit"}, {"web_search", "WebSearch"}, {NULL, NULL}};
  csn_seen_call call = {
      .id = csn_view_text(v, N_ITEM_ID, 0), .tool = type, .aliases = aliases, .part = v->j->lost};
  if (csn_span_is(type, "command_execution")) {
    call.arg = csn_view_get(v, N_COMMAND, 0);
    call.shell = true;
  } else if (csn_span_is(type, "web_search")) {
    call.arg = csn_view_get(v, N_QUERY, 0);
  } else if (csn_span_is(type, "mcp_tool_call")) {
    csn_span server = csn_view_text(v, N_SERVER, 0), tool = csn_view_text(v, N_TOOL, 0);
    uint8_t name[5 + 128 + 2 + 256];
    memcpy(name, "mcp__", 5);
    csn_copy(name + 5, server.ptr, server.len);
    memcpy(name + 5 + server.len, "__", 2);
    csn_copy(name + 7 + server.len, tool.ptr, tool.len);
    call.tool = csn_span_of(name, 7 + server.len + tool.len);
    csn_see_call(v, &call);
    return;
  }
  uint32_t files = csn_json_index_end(v->j, N_CHANGE_PATH, N_CHANGE_PATH);
  if (!csn_span_is(type, "file_change") || files == 0) {
    if (csn_span_is(type, "file_change")) call.arg = csn_view_get(v, N_CHANGE_PATH, 0);
    call.part = true;
    csn_see_call(v, &call);
    return;
  }
  for (uint32_t i = 0; i < files; i++) {
    call.arg = csn_view_get(v, N_CHANGE_PATH, i);
    call.more = i + 1 < files;
    if (csn_see_call(v, &call)) return;
  }
  call.arg = csn_view_get(v, N_CHANGE_PATH, files);
  if (v->j->lost) csn_see_call(v, &call);
}

static void on_tool_call(csn_view *v, csn_span type) {
  csn_run_answered(v->run);
  if (!v->run->busy) csn_run_said(v);
  csn_usage_add(&v->run->usage, &(csn_usage){.tool_calls = 1});
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_TOOL_CALL);
  put_item_id(v);
  put_tool(v, type);
  csn_event_close(v->e, at);
  see_call(v, type);
}

static void on_tool_result(csn_view *v, csn_span type) {
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_TOOL_RESULT);
  put_item_id(v);
  csn_put_field_bool(v->e->fx, "is_error", csn_view_is(v, N_STATUS, 0, "failed"));
  if (csn_span_is(type, "command_execution")) {
    csn_put_long_text(v, "text", csn_view_get(v, N_OUTPUT, 0));
    csn_put_scalar(v, "exit_code", N_EXIT_CODE, 0);
  } else if (csn_view_get(v, N_ITEM_ERROR_MESSAGE, 0)->kind == CSN_JK_STRING) {
    csn_put_long_text(v, "text", csn_view_get(v, N_ITEM_ERROR_MESSAGE, 0));
  } else {
    csn_put_joined(v, N_RESULT_TEXT, 0);
  }
  csn_event_close(v->e, at);
  if (csn_view_is(v, N_STATUS, 0, "declined")) csn_see_refused(v, csn_view_text(v, N_ITEM_ID, 0));
  csn_see_result(v, csn_view_text(v, N_ITEM_ID, 0));
  csn_run_more(v->run);
}

static void on_tool(csn_view *v, csn_span type, bool completed) {
  uint64_t bit = item_bit(v);
  if (!completed || (v->run->open_items & bit) == 0) on_tool_call(v, type);
  v->run->open_items = completed ? v->run->open_items & ~bit : v->run->open_items | bit;
  if (completed) on_tool_result(v, type);
}

/* A call of the tools that start other threads, talk to them and wait for them. */
static void on_collab(csn_view *v, bool completed) {
  if (!completed) csn_run_answered(v->run);
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_SUBAGENT);
  csn_put_field_raw(v->e->fx, "phase", csn_span_str(completed ? "ended" : "started"));
  csn_put_text(v, "task_id", N_RECEIVER, 0);
  put_item_id(v);
  csn_put_text(v, "tool", N_TOOL, 0);
  csn_put_text(v, "description", N_PROMPT, 0);
  csn_put_text(v, "status", N_STATUS, 0);
  csn_event_close(v->e, at);
}

static void on_text(csn_view *v, csn_type type) {
  csn_run_said(v);
  uint32_t at = csn_event_open(v->e, type);
  csn_put_long_text(v, "text", csn_view_get(v, N_ITEM_TEXT, 0));
  csn_put_text(v, "message_id", N_ITEM_ID, 0);
  csn_event_close(v->e, at);
}

static void on_plan(csn_view *v) {
  csn_run_answered(v->run);
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_PLAN);
  csn_put_json(v, "items", NULL, "items_len", csn_view_get(v, N_ITEMS, 0));
  csn_event_close(v->e, at);
}

static void on_item(csn_view *v, bool started, bool completed) {
  csn_span type = csn_view_text(v, N_ITEM_TYPE, 0);
  bool tool = csn_span_is(type, "command_execution") || csn_span_is(type, "file_change") ||
              csn_span_is(type, "mcp_tool_call") || csn_span_is(type, "web_search");
  if (tool && (started || completed)) {
    on_tool(v, type, completed);
  } else if (csn_span_is(type, "collab_tool_call") && (started || completed)) {
    on_collab(v, completed);
  } else if (csn_span_is(type, "todo_list")) {
    on_plan(v);
  } else if (csn_span_is(type, "agent_message") && completed) {
    on_text(v, CSN_T_AGENT_TEXT);
    csn_run_text(v, N_ITEM_TEXT, false);
  } else if (csn_span_is(type, "reasoning") && completed) {
    on_text(v, CSN_T_AGENT_THINKING);
  } else if (csn_span_is(type, "error") && completed) {
    csn_words words = csn_view_words(v, N_ITEM_MESSAGE, 0);
    csn_put_error_event(v, &(csn_words){0}, &words, 0);
  } else {
    csn_put_raw_event(v, "unmapped", csn_view_text(v, N_TYPE, 0), type);
  }
}

/* --- the turn --- */

static void on_thread(csn_view *v) {
  csn_run_conversation(v, csn_view_id(v, N_THREAD_ID));
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_INIT);
  csn_put_text(v, "agent_session_id", N_THREAD_ID, 0);
  if (v->run->model_len > 0)
    csn_put_field_text(v->e->fx, "model", csn_span_of(v->run->model, v->run->model_len));
  csn_event_close(v->e, at);
}

static uint64_t less(uint64_t from, uint64_t what) {
  return from >= what ? from - what : 0;
}

/* Usage is cumulative over a thread, also across resumes; input_tokens has the cached ones in it. */
static csn_usage usage_of(csn_view *v) {
  static const csn_usage none;
  uint64_t read = csn_view_count(v, N_USAGE_READ), write = csn_view_count(v, N_USAGE_WRITE);
  csn_usage total = {.input_tokens = less(less(csn_view_count(v, N_USAGE_IN), read), write),
                     .output_tokens = csn_view_count(v, N_USAGE_OUT),
                     .cache_read_tokens = read,
                     .cache_write_tokens = write};
  csn_conversation *entry = csn_run_entry(v);
  csn_usage delta = csn_usage_since(&total, entry != NULL ? &entry->total : &none);
  csn_price_usage(v->prices, csn_span_of(v->run->model, v->run->model_len), false, &delta);
  delta.turns = v->run->live.turns - v->run->usage.turns;
  if (entry != NULL) entry->total = total;
  return delta;
}

static void on_completed(csn_view *v) {
  csn_usage delta = usage_of(v);
  csn_run_usage(v, &delta);
  csn_run_result(v->run, false, csn_span_str("completed"));
  csn_put_result_event(v);
}

static void on_failed(csn_view *v) {
  csn_words words = csn_view_words(v, N_ERROR_MESSAGE, 0);
  csn_span message = words.text;
  csn_run_result(v->run, true, csn_span_str(problem_of(message)->reason));
  csn_run_error(v->run, &words, status_of(message));
  csn_text64_set(&v->run->kind, kind_of(message));
  csn_run_no_text(v->run);
  csn_put_result_event(v);
}

static void line(csn_view *v) {
  csn_span type = csn_view_text(v, N_TYPE, 0);
  if (csn_span_is(type, "item.started"))
    on_item(v, true, false);
  else if (csn_span_is(type, "item.completed"))
    on_item(v, false, true);
  else if (csn_span_is(type, "item.updated"))
    on_item(v, false, false);
  else if (csn_span_is(type, "thread.started"))
    on_thread(v);
  else if (csn_span_is(type, "turn.completed"))
    on_completed(v);
  else if (csn_span_is(type, "turn.failed"))
    on_failed(v);
  else if (csn_span_is(type, "error"))
    on_error(v);
  else
    csn_put_raw_event(v, "unmapped", type, csn_span_of(NULL, 0));
}

/* A call that is refused gives no event on stdout. */
static void err_line(csn_view *v, csn_span text) {
  if (csn_span_has(text, " ERROR codex_core::tools::router: error=")) {
    bool denied = csn_span_has(text, "rejected");
    uint32_t at = csn_event_open(v->e, denied ? CSN_T_AGENT_PERMISSION_DENIED : CSN_T_AGENT_ERROR);
    if (!denied) csn_put_field_raw(v->e->fx, "kind", csn_span_str("tool_refused"));
    csn_put_plain(v->e->fx, "message", csn_span_after(text, " error="));
    csn_event_close(v->e, at);
  } else if (csn_span_has(text, "no rollout found for thread id")) {
    csn_put_refusal(v, "session_not_found", text);
  }
}

const csn_dialect csn_codex_dialect = {.can = CSN_CAN_MCP | CSN_CAN_FORK,
                                       .rule = rule,
                                       .spec = spec,
                                       .table = {nodes, N_END},
                                       .line = line,
                                       .err_line = err_line};
