#include "csn/dialect.h"

/* node, parent, step, key, captured, verbatim, cap */
#define NODES(X)                                                                                             \
  X(ROOT, ROOT, KEY, "", 0, 0, 0)                                                                            \
  X(TYPE, ROOT, KEY, "type", 1, 0, 64)                                                                       \
  X(SUBTYPE, ROOT, KEY, "subtype", 1, 0, 64)                                                                 \
  X(SESSION_ID, ROOT, KEY, "session_id", 1, 0, CSN_ID_CAP)                                                   \
  X(PARENT, ROOT, KEY, "parent_tool_use_id", 1, 0, 128)                                                      \
  X(ERROR, ROOT, KEY, "error", 1, 0, 256)                                                                    \
  X(CWD, ROOT, KEY, "cwd", 1, 0, 4096)                                                                       \
  X(MODEL, ROOT, KEY, "model", 1, 0, 256)                                                                    \
  X(PERMISSION_MODE, ROOT, KEY, "permissionMode", 1, 0, 64)                                                  \
  X(VERSION, ROOT, KEY, "claude_code_version", 1, 0, 64)                                                     \
  X(TOOLS, ROOT, KEY, "tools", 1, 1, 16384)                                                                  \
  X(MCP_SERVERS, ROOT, KEY, "mcp_servers", 1, 1, 8192)                                                       \
  X(MCP_SERVER, MCP_SERVERS, ANY_INDEX, "", 1, 0, 8)                                                         \
  X(MCP_NAME, MCP_SERVER, KEY, "name", 1, 0, 128)                                                            \
  X(MCP_STATUS, MCP_SERVER, KEY, "status", 1, 0, 64)                                                         \
  X(MCP_SOURCE, MCP_SERVER, KEY, "source", 1, 0, 64)                                                         \
  X(TOOL_NAME, ROOT, KEY, "tool_name", 1, 0, 256)                                                            \
  X(TOOL_USE_ID, ROOT, KEY, "tool_use_id", 1, 0, 128)                                                        \
  X(META, ROOT, KEY, "tool_result_meta", 0, 0, 0)                                                            \
  X(META_ANY, META, ANY_INDEX, "", 0, 0, 0)                                                                  \
  X(META_ID, META_ANY, KEY, "id", 1, 0, 128)                                                                 \
  X(META_KIND, META_ANY, KEY, "non_execution_kind", 1, 0, 64)                                                \
  X(META_PERMISSION, META_ANY, KEY, "permission_decision", 0, 0, 0)                                          \
  X(META_DECISION, META_PERMISSION, KEY, "decision", 1, 0, 64)                                               \
  X(ATTEMPT, ROOT, KEY, "attempt", 1, 0, 32)                                                                 \
  X(MAX_RETRIES, ROOT, KEY, "max_retries", 1, 0, 32)                                                         \
  X(RETRY_DELAY, ROOT, KEY, "retry_delay_ms", 1, 0, 32)                                                      \
  X(ERROR_STATUS, ROOT, KEY, "error_status", 1, 0, 32)                                                       \
  X(TASK_ID, ROOT, KEY, "task_id", 1, 0, 128)                                                                \
  X(DESCRIPTION, ROOT, KEY, "description", 1, 0, 1024)                                                       \
  X(STATUS, ROOT, KEY, "status", 1, 0, 64)                                                                   \
  X(SUMMARY, ROOT, KEY, "summary", 1, 0, 8192)                                                               \
  X(TASK_TYPE, ROOT, KEY, "task_type", 1, 0, 64)                                                             \
  X(SUBAGENT_TYPE, ROOT, KEY, "subagent_type", 1, 0, 128)                                                    \
  X(TASKS, ROOT, KEY, "tasks", 1, 1, 8192)                                                                   \
  X(HOOK_NAME, ROOT, KEY, "hook_name", 1, 0, 256)                                                            \
  X(HOOK_EVENT, ROOT, KEY, "hook_event", 1, 0, 64)                                                           \
  X(HOOK_ID, ROOT, KEY, "hook_id", 1, 0, 128)                                                                \
  X(HOOK_OUTPUT, ROOT, KEY, "output", 1, 0, 8192)                                                            \
  X(HOOK_OUTCOME, ROOT, KEY, "outcome", 1, 0, 64)                                                            \
  X(EXIT_CODE, ROOT, KEY, "exit_code", 1, 0, 32)                                                             \
  X(SYSTEM_TEXT, ROOT, KEY, "content", 1, 0, CSN_MESSAGE_CAP)                                                \
  X(COMPACT, ROOT, KEY, "compact_metadata", 0, 0, 0)                                                         \
  X(COMPACT_TRIGGER, COMPACT, KEY, "trigger", 1, 0, 64)                                                      \
  X(COMPACT_BEFORE, COMPACT, KEY, "pre_tokens", 1, 0, 32)                                                    \
  X(COMPACT_AFTER, COMPACT, KEY, "post_tokens", 1, 0, 32)                                                    \
  X(COMPACT_RESULT, ROOT, KEY, "compact_result", 1, 0, 64)                                                   \
  X(COMPACT_ERROR, ROOT, KEY, "compact_error", 1, 0, CSN_MESSAGE_CAP)                                        \
  X(PATCH, ROOT, KEY, "patch", 0, 0, 0)                                                                      \
  X(PATCH_STATUS, PATCH, KEY, "status", 1, 0, 64)                                                            \
  X(IS_ERROR, ROOT, KEY, "is_error", 1, 0, 8)                                                                \
  X(NUM_TURNS, ROOT, KEY, "num_turns", 1, 0, 32)                                                             \
  X(DURATION, ROOT, KEY, "duration_ms", 1, 0, 32)                                                            \
  X(RESULT, ROOT, KEY, "result", 1, 0, CSN_FIELD_MAX)                                                        \
  X(TERMINAL_REASON, ROOT, KEY, "terminal_reason", 1, 0, 64)                                                 \
  X(API_STATUS, ROOT, KEY, "api_error_status", 1, 0, 32)                                                     \
  X(STOP_REASON, ROOT, KEY, "stop_reason", 1, 0, 64)                                                         \
  X(COST, ROOT, KEY, "total_cost_usd", 1, 0, 64)                                                             \
  X(ERRORS, ROOT, KEY, "errors", 0, 0, 0)                                                                    \
  X(ERRORS_ANY, ERRORS, ANY_INDEX, "", 1, 0, CSN_MESSAGE_CAP)                                                \
  X(USAGE, ROOT, KEY, "usage", 0, 0, 0)                                                                      \
  X(USAGE_IN, USAGE, KEY, "input_tokens", 1, 0, 32)                                                          \
  X(USAGE_OUT, USAGE, KEY, "output_tokens", 1, 0, 32)                                                        \
  X(USAGE_READ, USAGE, KEY, "cache_read_input_tokens", 1, 0, 32)                                             \
  X(USAGE_WRITE, USAGE, KEY, "cache_creation_input_tokens", 1, 0, 32)                                        \
  X(TOTAL, ROOT, KEY, "modelUsage", 1, 0, 0)                                                                 \
  X(TOTAL_ANY, TOTAL, ANY_KEY, "", 0, 0, 0)                                                                  \
  X(TOTAL_IN, TOTAL_ANY, KEY, "inputTokens", 1, 0, 32)                                                       \
  X(TOTAL_OUT, TOTAL_ANY, KEY, "outputTokens", 1, 0, 32)                                                     \
  X(TOTAL_READ, TOTAL_ANY, KEY, "cacheReadInputTokens", 1, 0, 32)                                            \
  X(TOTAL_WRITE, TOTAL_ANY, KEY, "cacheCreationInputTokens", 1, 0, 32)                                       \
  X(DELTA, ROOT, KEY, "model_usage_since_last_result", 1, 0, 0)                                              \
  X(DELTA_ANY, DELTA, ANY_KEY, "", 0, 0, 0)                                                                  \
  X(DELTA_IN, DELTA_ANY, KEY, "inputTokens", 1, 0, 32)                                                       \
  X(DELTA_OUT, DELTA_ANY, KEY, "outputTokens", 1, 0, 32)                                                     \
  X(DELTA_READ, DELTA_ANY, KEY, "cacheReadInputTokens", 1, 0, 32)                                            \
  X(DELTA_WRITE, DELTA_ANY, KEY, "cacheCreationInputTokens", 1, 0, 32)                                       \
  X(DELTA_COST, DELTA_ANY, KEY, "costUSD", 1, 0, 64)                                                         \
  X(DENIALS, ROOT, KEY, "permission_denials", 0, 0, 0)                                                       \
  X(DENIAL, DENIALS, ANY_INDEX, "", 1, 0, 8)                                                                 \
  X(DENIAL_TOOL, DENIAL, KEY, "tool_name", 1, 0, 256)                                                        \
  X(DENIAL_ID, DENIAL, KEY, "tool_use_id", 1, 0, 128)                                                        \
  X(EVENT, ROOT, KEY, "event", 0, 0, 0)                                                                      \
  X(EVENT_TYPE, EVENT, KEY, "type", 1, 0, 64)                                                                \
  X(EVENT_DELTA, EVENT, KEY, "delta", 0, 0, 0)                                                               \
  X(EVENT_DELTA_TYPE, EVENT_DELTA, KEY, "type", 1, 0, 64)                                                    \
  X(EVENT_DELTA_TEXT, EVENT_DELTA, KEY, "text", 1, 0, CSN_FIELD_MAX)                                         \
  X(EVENT_DELTA_THINKING, EVENT_DELTA, KEY, "thinking", 1, 0, CSN_FIELD_MAX)                                 \
  X(MESSAGE, ROOT, KEY, "message", 1, 0, 8192)                                                               \
  X(MESSAGE_ID, MESSAGE, KEY, "id", 1, 0, 128)                                                               \
  X(MESSAGE_MODEL, MESSAGE, KEY, "model", 1, 0, CSN_MODEL_MAX)                                               \
  X(MESSAGE_USAGE, MESSAGE, KEY, "usage", 0, 0, 0)                                                           \
  X(MESSAGE_IN, MESSAGE_USAGE, KEY, "input_tokens", 1, 0, 32)                                                \
  X(MESSAGE_OUT, MESSAGE_USAGE, KEY, "output_tokens", 1, 0, 32)                                              \
  X(MESSAGE_READ, MESSAGE_USAGE, KEY, "cache_read_input_tokens", 1, 0, 32)                                   \
  X(MESSAGE_WRITE, MESSAGE_USAGE, KEY, "cache_creation_input_tokens", 1, 0, 32)                              \
  X(CONTENT, MESSAGE, KEY, "content", 1, 0, CSN_FIELD_MAX)                                                   \
  X(BLOCK, CONTENT, ANY_INDEX, "", 1, 0, 8)                                                                  \
  X(BLOCK_TYPE, BLOCK, KEY, "type", 1, 0, 64)                                                                \
  X(BLOCK_TEXT, BLOCK, KEY, "text", 1, 0, CSN_FIELD_MAX)                                                     \
  X(BLOCK_THINKING, BLOCK, KEY, "thinking", 1, 0, CSN_FIELD_MAX)                                             \
  X(BLOCK_ID, BLOCK, KEY, "id", 1, 0, 128)                                                                   \
  X(BLOCK_NAME, BLOCK, KEY, "name", 1, 0, 256)                                                               \
  X(BLOCK_INPUT, BLOCK, KEY, "input", 1, 1, CSN_FIELD_MAX)                                                   \
  X(INPUT_FILE, BLOCK_INPUT, KEY, "file_path", 1, 0, 4096)                                                   \
  X(INPUT_NOTEBOOK, BLOCK_INPUT, KEY, "notebook_path", 1, 0, 4096)                                           \
  X(INPUT_PATH, BLOCK_INPUT, KEY, "path", 1, 0, 4096)                                                        \
  X(INPUT_COMMAND, BLOCK_INPUT, KEY, "command", 1, 0, 16384)                                                 \
  X(INPUT_URL, BLOCK_INPUT, KEY, "url", 1, 0, 4096)                                                          \
  X(INPUT_QUERY, BLOCK_INPUT, KEY, "query", 1, 0, 4096)                                                      \
  X(INPUT_SUBAGENT, BLOCK_INPUT, KEY, "subagent_type", 1, 0, 256)                                            \
  X(INPUT_SKILL, BLOCK_INPUT, KEY, "skill", 1, 0, 256)                                                       \
  X(BLOCK_TOOL_USE_ID, BLOCK, KEY, "tool_use_id", 1, 0, 128)                                                 \
  X(BLOCK_IS_ERROR, BLOCK, KEY, "is_error", 1, 0, 8)                                                         \
  X(BLOCK_CONTENT, BLOCK, KEY, "content", 1, 0, CSN_FIELD_MAX)                                               \
  X(PART, BLOCK_CONTENT, ANY_INDEX, "", 0, 0, 0)                                                             \
  X(PART_TEXT, PART, KEY, "text", 1, 0, CSN_FIELD_MAX)

enum node { NODES(CSN_NODE_ENUM) N_END };
static const csn_json_node nodes[N_END] = {NODES(CSN_NODE_ROW)};
_Static_assert(N_END <= CSN_JSON_NODE_MAX, "table too large");

/* --- the command --- */

/* Rules of its own settings. With an allow list what no rule allows, and what it would ask about, is refused.
 */
static void put_permissions(csn_fx *fx, csn_span options) {
  bool allow = csn_option_has(options, CSN_OPT_ALLOW), deny = csn_option_has(options, CSN_OPT_DENY);
  if (allow)
    csn_put_str(fx, ",\"--permission-mode\",\"dontAsk\"");
  else
    csn_put_str(fx, ",\"--dangerously-skip-permissions\"");
  if (!allow && !deny) return;
  csn_put_str(fx, ",\"--settings\",\"");
  csn_put_doc(fx, "{\"permissions\":{\"allow\":");
  csn_put_rules(fx, options, CSN_OPT_ALLOW);
  csn_put_doc(fx, ",\"deny\":");
  csn_put_rules(fx, options, CSN_OPT_DENY);
  csn_put_doc(fx, "}}");
  csn_put_str(fx, "\"");
}

/* The rules have its own form; only the root of "/..." is another one in a settings file. */
static void rule(csn_rule_out *o, bool deny, csn_span tool, csn_span spec) {
  bool rooted =
      csn_rule_is_path(tool) && spec.len > 0 && spec.ptr[0] == '/' && (spec.len < 2 || spec.ptr[1] != '/');
  csn_rule_put(o, deny, tool, csn_span_str(rooted ? "/" CSN_TOOLS_CWD : ""), spec, csn_span_of(NULL, 0));
}

/* What it would do without asking. A tool that is denied as a whole is not offered to the model at all. */
static void unlisted(csn_rule_out *o) {
  static const char *const tools[] = {
      "Bash",           "Monitor",        "Read",        "Edit",       "Write",
      "NotebookEdit",   "Glob",           "Grep",        "WebFetch",   "WebSearch",
      "Task",           "Skill",          "CronCreate",  "CronDelete", "CronList",
      "EnterWorktree",  "ExitWorktree",   "ListAgents",  "TodoWrite",  "TaskStop",
      "ReportFindings", "ScheduleWakeup", "SendMessage", "ToolSearch", "Workflow"};
  csn_span none = csn_span_of(NULL, 0);
  for (uint32_t i = 0; i < sizeof tools / sizeof tools[0]; i++) {
    csn_span tool = csn_span_str(tools[i]);
    if (!csn_tools_name(o->table, tool, CSN_ALLOW)) csn_rule_put(o, true, tool, none, none, none);
  }
}

static void put_servers(csn_fx *fx, csn_span options) {
  static const csn_mcp_style style = {.is = ":",
                                      .local = "\"type\":\"stdio\",",
                                      .remote = "\"type\":\"http\",",
                                      .args = "args",
                                      .env = "env",
                                      .url = "url",
                                      .headers = "headers",
                                      /* a variable that nobody has, and its default */
                                      .dollar = "${__:-$}",
                                      .dollar_in_map = "${__:-$}"};
  if (!csn_option_has(options, CSN_OPT_SERVER)) return;
  csn_put_str(fx, ",\"--mcp-config\",\"");
  csn_put_doc(fx, "{\"mcpServers\":");
  csn_put_mcp_servers(fx, options, &style);
  csn_put_doc(fx, "}");
  csn_put_str(fx, "\",\"--strict-mcp-config\"");
}

static void spec(csn_fx *fx, const csn_spec_in *in) {
  static const char *const fixed[] = {"ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "IS_SANDBOX", NULL};
  static const char *const formats[CSN_FORMAT_END] = {"stream-json", "json", "text"};
  csn_put_str(fx, "{\"argv\":[\"claude\",\"-p\",\"--output-format\"");
  csn_spec_arg_str(fx, formats[in->format]);
  csn_spec_arg_str(fx, "--verbose");
  if (in->partial) csn_spec_arg_str(fx, "--include-partial-messages");
  put_permissions(fx, in->options);
  put_servers(fx, in->options);
  if (in->model.len > 0) {
    csn_spec_arg_str(fx, "--model");
    csn_spec_arg(fx, in->model);
  }
  if (in->max_turns > 0) {
    csn_spec_arg_str(fx, "--max-turns");
    csn_put_str(fx, ",\"");
    csn_put_u64(fx, in->max_turns);
    csn_put_str(fx, "\"");
  }
  if (in->system_prompt.len > 0) {
    csn_spec_arg_str(fx, "--append-system-prompt");
    csn_spec_arg(fx, in->system_prompt);
  }
  if (in->resume_id.len > 0) {
    csn_spec_arg_str(fx, "--resume");
    csn_spec_arg_escaped(fx, in->resume_id);
    if (in->fork) csn_spec_arg_str(fx, "--fork-session");
  }
  csn_put_str(fx, "],\"env\":{\"IS_SANDBOX\":\"1\","
                  "\"ANTHROPIC_BASE_URL\":\"http://model.caisson.internal\","
                  "\"ANTHROPIC_API_KEY\":\"caisson-placeholder\"");
  csn_spec_env(fx, in->env, fixed, false);
  csn_spec_default(fx, in->env, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1");
  csn_spec_default(fx, in->env, "DISABLE_AUTOUPDATER", "1");
  csn_spec_default(fx, in->env, "CLAUDE_CODE_MAX_RETRIES", "3");
  csn_put_str(fx, "}");
  csn_spec_tail(fx, in, true);
  csn_put_str(fx, "}");
}

/* --- the stream --- */

static void put_parent(csn_view *v) {
  csn_put_text(v, "parent_tool_use_id", N_PARENT, 0);
}

static void on_mcp_server(csn_view *v, uint32_t index) {
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_MCP);
  csn_put_text(v, "server", N_MCP_NAME, index);
  csn_put_text(v, "status", N_MCP_STATUS, index);
  csn_put_text(v, "source", N_MCP_SOURCE, index);
  csn_event_close(v->e, at);
}

static void on_init(csn_view *v) {
  csn_run_conversation(v, csn_view_id(v, N_SESSION_ID));
  if (!csn_view_get(v, N_MODEL, 0)->cut) csn_agent_set_model(v->run, csn_view_text(v, N_MODEL, 0));
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_INIT);
  csn_put_text(v, "agent_session_id", N_SESSION_ID, 0);
  csn_put_text(v, "model", N_MODEL, 0);
  csn_put_text(v, "version", N_VERSION, 0);
  csn_put_text(v, "cwd", N_CWD, 0);
  csn_put_text(v, "permission_mode", N_PERMISSION_MODE, 0);
  csn_put_json(v, "tools", NULL, "tools_len", csn_view_get(v, N_TOOLS, 0));
  csn_put_json(v, "mcp_servers", NULL, "mcp_servers_len", csn_view_get(v, N_MCP_SERVERS, 0));
  csn_event_close(v->e, at);
  uint32_t servers = csn_json_index_end(v->j, N_MCP_SERVER, N_MCP_SERVER);
  for (uint32_t i = 0; i < servers; i++)
    on_mcp_server(v, i);
}

static void on_permission_denied(csn_view *v) {
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_PERMISSION_DENIED);
  csn_put_text(v, "tool", N_TOOL_NAME, 0);
  csn_put_text(v, "tool_use_id", N_TOOL_USE_ID, 0);
  csn_put_long_text(v, "message", csn_view_get(v, N_MESSAGE, 0));
  csn_event_close(v->e, at);
  csn_see_refused(v, csn_view_text(v, N_TOOL_USE_ID, 0));
  v->run->denied = 1;
}

/* A result names all that was refused. Only where no line has told of one before (the output format json, an
 * answer of the host) it is new. */
static void on_denials(csn_view *v) {
  uint32_t count = csn_json_index_end(v->j, N_DENIAL, N_DENIAL);
  for (uint32_t i = 0; i < count && !v->run->denied; i++) {
    uint32_t at = csn_event_open(v->e, CSN_T_AGENT_PERMISSION_DENIED);
    csn_put_text(v, "tool", N_DENIAL_TOOL, i);
    csn_put_text(v, "tool_use_id", N_DENIAL_ID, i);
    csn_put_field_text(v->e->fx, "message", csn_span_of(NULL, 0));
    csn_event_close(v->e, at);
  }
  v->run->denied = 0;
}

static void on_retry(csn_view *v) {
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_RETRY);
  csn_put_scalar(v, "attempt", N_ATTEMPT, 0);
  csn_put_scalar(v, "max_retries", N_MAX_RETRIES, 0);
  csn_put_scalar(v, "delay_ms", N_RETRY_DELAY, 0);
  csn_put_scalar(v, "status", N_ERROR_STATUS, 0);
  csn_put_text(v, "error", N_ERROR, 0);
  csn_event_close(v->e, at);
  csn_text64_set(&v->run->kind, csn_view_text(v, N_ERROR, 0));
}

/* FNV-1a; never 0. */
static uint32_t hash_of(csn_span id) {
  uint32_t h = 2166136261u;
  for (uint32_t i = 0; i < id.len; i++)
    h = (h ^ id.ptr[i]) * 16777619u;
  return h != 0 ? h : 1;
}

/* Whether the line's task is a subagent. Only the line that starts a task says what it is: the others are
 * kept in mind, as many as there is room for. */
static bool is_subagent(csn_view *v, bool starts) {
  uint32_t *tasks = v->run->tasks, hash = hash_of(csn_view_text(v, N_TASK_ID, 0));
  if (csn_view_get(v, N_SUBAGENT_TYPE, 0)->kind == CSN_JK_STRING) return true;
  csn_span type = csn_view_text(v, N_TASK_TYPE, 0);
  if (starts && type.len > 0 && !csn_span_is(type, "local_agent")) {
    memmove(tasks + 1, tasks, sizeof v->run->tasks - sizeof tasks[0]);
    tasks[0] = hash;
    return false;
  }
  for (uint32_t i = 0; i < sizeof v->run->tasks / sizeof tasks[0]; i++)
    if (tasks[i] == hash) return false;
  return true;
}

static void on_task(csn_view *v, const char *phase) {
  bool subagent = is_subagent(v, csn_span_is(csn_span_str(phase), "started"));
  uint32_t at = csn_event_open(v->e, subagent ? CSN_T_AGENT_SUBAGENT : CSN_T_AGENT_TASK);
  csn_put_field_raw(v->e->fx, "phase", csn_span_str(phase));
  csn_put_text(v, "task_id", N_TASK_ID, 0);
  csn_put_text(v, "task_type", N_TASK_TYPE, 0);
  csn_put_text(v, "subagent_type", N_SUBAGENT_TYPE, 0);
  csn_put_text(v, "tool_use_id", N_TOOL_USE_ID, 0);
  csn_put_text(v, "description", N_DESCRIPTION, 0);
  csn_put_text(v, "status", csn_view_get(v, N_STATUS, 0)->kind == CSN_JK_STRING ? N_STATUS : N_PATCH_STATUS,
               0);
  csn_put_text(v, "summary", N_SUMMARY, 0);
  csn_event_close(v->e, at);
}

/* All tasks that are in the background, each time that one comes or goes. */
static void on_task_list(csn_view *v) {
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_TASK);
  csn_put_field_raw(v->e->fx, "phase", csn_span_str("list"));
  csn_put_json(v, "tasks", NULL, "tasks_len", csn_view_get(v, N_TASKS, 0));
  csn_event_close(v->e, at);
}

static void on_hook(csn_view *v, const char *phase) {
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_HOOK);
  csn_put_field_raw(v->e->fx, "phase", csn_span_str(phase));
  csn_put_text(v, "hook_id", N_HOOK_ID, 0);
  csn_put_text(v, "hook", N_HOOK_NAME, 0);
  csn_put_text(v, "event", N_HOOK_EVENT, 0);
  if (!csn_span_is(csn_span_str(phase), "started")) {
    csn_put_long_text(v, "output", csn_view_get(v, N_HOOK_OUTPUT, 0));
    csn_put_scalar(v, "exit_code", N_EXIT_CODE, 0);
    csn_put_text(v, "outcome", N_HOOK_OUTCOME, 0);
  }
  csn_event_close(v->e, at);
}

static void on_compaction(csn_view *v, const char *phase) {
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_COMPACTION);
  csn_put_field_raw(v->e->fx, "phase", csn_span_str(phase));
  csn_put_text(v, "trigger", N_COMPACT_TRIGGER, 0);
  if (csn_view_get(v, N_COMPACT_BEFORE, 0)->kind == CSN_JK_NUMBER) {
    csn_put_scalar(v, "tokens_before", N_COMPACT_BEFORE, 0);
    csn_put_scalar(v, "tokens_after", N_COMPACT_AFTER, 0);
  }
  csn_put_text(v, "message", N_COMPACT_ERROR, 0);
  csn_event_close(v->e, at);
}

/* Most of them say that a request is on its way; of a compaction they tell the beginning and the failure, its
 * success comes as compact_boundary. */
static void on_status(csn_view *v) {
  if (csn_view_is(v, N_STATUS, 0, "compacting"))
    on_compaction(v, "started");
  else if (csn_view_is(v, N_COMPACT_RESULT, 0, "failed"))
    on_compaction(v, "failed");
  else
    csn_put_raw_event(v, "unmapped", csn_view_text(v, N_TYPE, 0), csn_view_text(v, N_SUBTYPE, 0));
}

static void on_refusal(csn_view *v) {
  csn_words words = csn_view_words(v, N_SYSTEM_TEXT, 0);
  csn_put_error_event(v, &(csn_words){csn_span_str("refusal"), 0}, &words, 0);
}

static void on_system(csn_view *v) {
  static const struct {
    const char *subtype, *phase;
  } tasks[] = {{"task_started", "started"},
               {"task_progress", "progress"},
               {"task_updated", "updated"},
               {"task_notification", "ended"}},
    hooks[] = {{"hook_started", "started"}, {"hook_progress", "progress"}, {"hook_response", "ended"}};
  csn_span subtype = csn_view_text(v, N_SUBTYPE, 0);
  for (uint32_t i = 0; i < sizeof tasks / sizeof tasks[0]; i++) {
    if (!csn_span_is(subtype, tasks[i].subtype)) continue;
    on_task(v, tasks[i].phase);
    return;
  }
  for (uint32_t i = 0; i < sizeof hooks / sizeof hooks[0]; i++) {
    if (!csn_span_is(subtype, hooks[i].subtype)) continue;
    on_hook(v, hooks[i].phase);
    return;
  }
  if (csn_span_is(subtype, "init"))
    on_init(v);
  else if (csn_span_is(subtype, "permission_denied"))
    on_permission_denied(v);
  else if (csn_span_is(subtype, "api_retry"))
    on_retry(v);
  else if (csn_span_is(subtype, "background_tasks_changed"))
    on_task_list(v);
  else if (csn_span_is(subtype, "compact_boundary"))
    on_compaction(v, "ended");
  else if (csn_span_is(subtype, "status"))
    on_status(v);
  else if (csn_span_is(subtype, "model_refusal_no_fallback"))
    on_refusal(v);
  else
    csn_put_raw_event(v, "unmapped", csn_view_text(v, N_TYPE, 0), subtype);
}

static void put_text_event(csn_view *v, csn_type type, const csn_json_item *item) {
  uint32_t at = csn_event_open(v->e, type);
  csn_put_long_text(v, "text", item);
  csn_put_text(v, "message_id", N_MESSAGE_ID, 0);
  put_parent(v);
  csn_event_close(v->e, at);
}

/* The call as the policy's rules have it. */
static void see_call(csn_view *v, uint32_t index) {
  static const csn_tool_alias aliases[] = {
      {"web_search", "WebSearch"}, {"web_fetch", "WebFetch"}, {"bash", "Bash"}, {NULL, NULL}};
  static const struct {
    const char *tool;
    uint8_t node;
    const char *missing;
  } args[] = {
      {"Bash", N_INPUT_COMMAND, NULL},
      {"Monitor", N_INPUT_COMMAND, NULL},
      {"Read", N_INPUT_FILE, NULL},
      {"Edit", N_INPUT_FILE, NULL},
      {"Write", N_INPUT_FILE, NULL},
      {"MultiEdit", N_INPUT_FILE, NULL},
      {"NotebookEdit", N_INPUT_NOTEBOOK, NULL},
      {"NotebookRead", N_INPUT_NOTEBOOK, NULL},
      {"Glob", N_INPUT_PATH, "."},
      {"Grep", N_INPUT_PATH, "."},
      {"LS", N_INPUT_PATH, "."},
      {"WebFetch", N_INPUT_URL, NULL},
      {"web_fetch", N_INPUT_URL, NULL},
      {"WebSearch", N_INPUT_QUERY, NULL},
      {"web_search", N_INPUT_QUERY, NULL},
      {"Task", N_INPUT_SUBAGENT, NULL},
      {"Agent", N_INPUT_SUBAGENT, NULL},
      {"Skill", N_INPUT_SKILL, NULL},
      {"bash", N_INPUT_COMMAND, NULL},
  };
  if (!csn_sees_calls(v)) return;
  csn_seen_call call = {.id = csn_view_text(v, N_BLOCK_ID, index),
                        .parent = csn_view_text(v, N_PARENT, 0),
                        .tool = csn_view_text(v, N_BLOCK_NAME, index),
                        .aliases = aliases,
                        .part = csn_view_get(v, N_BLOCK_INPUT, index)->cut || v->j->lost};
  for (uint32_t i = 0; i < sizeof args / sizeof args[0]; i++) {
    if (!csn_span_is(call.tool, args[i].tool)) continue;
    call.arg = csn_view_get(v, args[i].node, index);
    call.missing = args[i].missing;
  }
  csn_see_call(v, &call);
}

static void on_tool_call(csn_view *v, uint32_t index) {
  static const uint8_t files[3] = {N_INPUT_FILE, N_INPUT_NOTEBOOK, N_INPUT_PATH};
  csn_usage_add(&v->run->usage, &(csn_usage){.tool_calls = 1});
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_TOOL_CALL);
  csn_put_text(v, "tool_use_id", N_BLOCK_ID, index);
  csn_put_text(v, "tool", N_BLOCK_NAME, index);
  csn_put_json(v, "input", "input_head", "input_len", csn_view_get(v, N_BLOCK_INPUT, index));
  for (uint32_t i = 0; i < 3; i++) {
    if (csn_view_get(v, files[i], index)->kind != CSN_JK_STRING) continue;
    csn_put_text(v, "file", files[i], index);
    break;
  }
  csn_put_text(v, "command", N_INPUT_COMMAND, index);
  csn_put_text(v, "message_id", N_MESSAGE_ID, 0);
  put_parent(v);
  csn_event_close(v->e, at);
  see_call(v, index);
}

/* Whether the CLI says that it did not carry the call out: by its own record of the permission, or, where
 * there is none because there is no such tool, by its words. What a tool prints cannot pass for that: its
 * call has a record. */
static bool is_refused(const csn_view *v, uint32_t index) {
  csn_span id = csn_view_text(v, N_BLOCK_TOOL_USE_ID, index);
  uint32_t metas = csn_json_index_end(v->j, N_META_ID, N_META_DECISION);
  for (uint32_t i = 0; i < metas; i++) {
    csn_span of = csn_view_text(v, N_META_ID, i);
    if (of.len != id.len || memcmp(of.ptr, id.ptr, id.len) != 0) continue;
    return csn_view_is(v, N_META_DECISION, i, "reject") || csn_view_text(v, N_META_KIND, i).len > 0;
  }
  return metas == 0 && !v->j->lost && csn_view_get(v, N_BLOCK_IS_ERROR, index)->kind == CSN_JK_TRUE &&
         csn_span_starts(csn_view_text(v, N_BLOCK_CONTENT, index),
                         "<tool_use_error>Error: No such tool available: ");
}

/* The text of a tool's result: a string, or the texts of an array of blocks with a newline between them. */
static void put_result_text(csn_view *v, uint32_t index) {
  const csn_json_item *whole = csn_view_get(v, N_BLOCK_CONTENT, index);
  if (whole->kind == CSN_JK_ARRAY)
    csn_put_joined(v, N_PART_TEXT, index);
  else
    csn_put_long_text(v, "text", whole);
}

static void on_tool_result(csn_view *v, uint32_t index) {
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_TOOL_RESULT);
  csn_put_text(v, "tool_use_id", N_BLOCK_TOOL_USE_ID, index);
  csn_put_field_bool(v->e->fx, "is_error", csn_view_get(v, N_BLOCK_IS_ERROR, index)->kind == CSN_JK_TRUE);
  put_result_text(v, index);
  put_parent(v);
  csn_event_close(v->e, at);
  csn_span id = csn_view_text(v, N_BLOCK_TOOL_USE_ID, index);
  if (is_refused(v, index)) csn_see_refused(v, id);
  csn_see_result(v, id);
  if (csn_view_text(v, N_PARENT, 0).len == 0) csn_run_more(v->run);
}

static void on_block(csn_view *v, uint32_t index, bool assistant) {
  if (assistant && csn_view_is(v, N_BLOCK_TYPE, index, "text"))
    put_text_event(v, CSN_T_AGENT_TEXT, csn_view_get(v, N_BLOCK_TEXT, index));
  else if (assistant && csn_view_is(v, N_BLOCK_TYPE, index, "thinking"))
    put_text_event(v, CSN_T_AGENT_THINKING, csn_view_get(v, N_BLOCK_THINKING, index));
  else if (assistant && (csn_view_is(v, N_BLOCK_TYPE, index, "tool_use") ||
                         csn_view_is(v, N_BLOCK_TYPE, index, "server_tool_use") ||
                         csn_view_is(v, N_BLOCK_TYPE, index, "mcp_tool_use")))
    on_tool_call(v, index);
  else if (!assistant && csn_view_is(v, N_BLOCK_TYPE, index, "tool_result"))
    on_tool_result(v, index);
  else
    csn_put_raw_event(v, "unmapped", csn_view_text(v, N_TYPE, 0), csn_view_text(v, N_BLOCK_TYPE, index));
}

static uint64_t sum_of(const csn_view *v, uint32_t node) {
  uint64_t sum = 0;
  for (uint32_t at = v->j->latest[node]; at != 0; at = v->j->items[at - 1].earlier) {
    const csn_json_item *item = &v->j->items[at - 1];
    uint64_t n;
    if (item->kind == CSN_JK_NUMBER && !item->cut && csn_json_u64(csn_json_text(v->j, item), &n) &&
        n <= UINT64_MAX - sum)
      sum += n;
  }
  return sum;
}

/* A line of an answer. Its usage is the one that the answer began with: the same in all of its lines. What
 * the CLI makes up itself ("<synthetic>") no model has answered. */
static void on_answer(csn_view *v) {
  csn_turn turn = {.id = csn_view_words(v, N_MESSAGE_ID, 0),
                   .model = csn_view_words(v, N_MESSAGE_MODEL, 0),
                   .parent = csn_view_words(v, N_PARENT, 0)};
  csn_span model = turn.model.text;
  if (turn.id.text.len == 0 || (model.len > 0 && model.ptr[0] == '<')) return;
  turn.usage.input_tokens = sum_of(v, N_MESSAGE_IN);
  turn.usage.output_tokens = sum_of(v, N_MESSAGE_OUT);
  turn.usage.cache_read_tokens = sum_of(v, N_MESSAGE_READ);
  turn.usage.cache_write_tokens = sum_of(v, N_MESSAGE_WRITE);
  csn_run_turn(v, &turn);
}

static void on_message(csn_view *v, bool assistant) {
  if (assistant) on_answer(v);
  const csn_json_item *error = csn_view_get(v, N_ERROR, 0);
  if (assistant && error->kind == CSN_JK_STRING) csn_text64_set(&v->run->kind, csn_json_text(v->j, error));
  const csn_json_item *content = csn_view_get(v, N_CONTENT, 0);
  if (content->kind == CSN_JK_STRING && assistant) {
    put_text_event(v, CSN_T_AGENT_TEXT, content);
    return;
  }
  uint32_t blocks = content->kind == CSN_JK_ARRAY ? csn_json_index_end(v->j, N_BLOCK, N_BLOCK) : 0;
  for (uint32_t i = 0; i < blocks; i++)
    on_block(v, i, assistant);
  if (blocks == 0) csn_put_raw_event(v, "unmapped", csn_view_text(v, N_TYPE, 0), csn_span_of(NULL, 0));
}

static csn_usage sum_of_models(const csn_view *v, uint32_t in, uint32_t out, uint32_t read, uint32_t write) {
  return (csn_usage){.input_tokens = sum_of(v, in),
                     .output_tokens = sum_of(v, out),
                     .cache_read_tokens = sum_of(v, read),
                     .cache_write_tokens = sum_of(v, write)};
}

/* Sum of money, 0 when there is none to read. */
static uint64_t cost_of(const csn_view *v, uint32_t node) {
  uint64_t sum = 0, nano;
  for (uint32_t i = 0; i < v->j->item_count; i++) {
    const csn_json_item *item = &v->j->items[i];
    if (item->field == node && item->kind == CSN_JK_NUMBER && !item->cut &&
        csn_json_nano(csn_json_text(v->j, item), &nano))
      sum = csn_add_sat(sum, nano);
  }
  return sum;
}

/* Usage of this result alone. Cost and modelUsage are cumulative over a conversation, also across --resume
 * and --fork-session; model_usage_since_last_result and usage are not, but the latter leaves out subagents.
 * Of a conversation whose total is not known, the cost is that since the last result as well. */
static csn_usage usage_of(csn_view *v) {
  static const csn_usage none;
  csn_usage total = sum_of_models(v, N_TOTAL_IN, N_TOTAL_OUT, N_TOTAL_READ, N_TOTAL_WRITE);
  total.cost_nano = cost_of(v, N_COST);
  csn_conversation *entry = csn_run_entry(v);
  csn_usage on_top = csn_usage_since(&total, entry != NULL ? &entry->total : &none), delta;
  if (csn_view_get(v, N_DELTA, 0)->kind == CSN_JK_OBJECT)
    delta = sum_of_models(v, N_DELTA_IN, N_DELTA_OUT, N_DELTA_READ, N_DELTA_WRITE);
  else if (csn_view_get(v, N_TOTAL, 0)->kind == CSN_JK_OBJECT)
    delta = on_top;
  else
    delta = sum_of_models(v, N_USAGE_IN, N_USAGE_OUT, N_USAGE_READ, N_USAGE_WRITE);
  uint64_t since_last = cost_of(v, N_DELTA_COST);
  bool known = entry != NULL && entry->total.cost_nano > 0;
  delta.cost_nano = known || since_last == 0 ? on_top.cost_nano : since_last;
  uint64_t turns = csn_view_count(v, N_NUM_TURNS);
  delta.turns = turns <= UINT32_MAX ? (uint32_t)turns : 0;
  if (entry != NULL) entry->total = total;
  return delta;
}

/* terminal_reason where it says something, else the subtype. */
static csn_span reason_of(const csn_view *v, bool is_error) {
  csn_span terminal = csn_view_text(v, N_TERMINAL_REASON, 0);
  if (!is_error) return terminal.len > 0 ? terminal : csn_span_str("completed");
  if (terminal.len > 0 && !csn_span_is(terminal, "completed")) return terminal;
  csn_span subtype = csn_view_text(v, N_SUBTYPE, 0);
  return subtype.len > 0 && !csn_span_is(subtype, "success") ? subtype : csn_span_str("agent_error");
}

/* Whether a failed run ended by what the model's interface said, which has come before with the error's name.
 */
static bool says_api(const csn_view *v) {
  csn_span terminal = csn_view_text(v, N_TERMINAL_REASON, 0);
  return terminal.len == 0 ? csn_view_is(v, N_SUBTYPE, 0, "success")
                           : csn_span_is(terminal, "api_error") || csn_span_is(terminal, "prompt_too_long");
}

static void on_result(csn_view *v) {
  /* Anything but a plain false counts as an error: success must be said, not guessed. */
  bool is_error = csn_view_get(v, N_IS_ERROR, 0)->kind != CSN_JK_FALSE;
  const csn_json_item *result = csn_view_get(v, N_RESULT, 0);
  csn_words words = csn_view_words(v, result->kind == CSN_JK_STRING ? N_RESULT : N_ERRORS_ANY, 0);
  csn_agent_run *run = v->run;
  if (run->id_len == 0) { /* no init: all of the output is this line, or the conversation was not found */
    if (csn_view_text(v, N_TERMINAL_REASON, 0).len > 0)
      csn_run_conversation(v, csn_view_id(v, N_SESSION_ID));
    else
      csn_run_id(run, csn_view_id(v, N_SESSION_ID));
  }
  on_denials(v);
  csn_usage delta = usage_of(v);
  csn_run_usage(v, &delta);
  csn_run_result(run, is_error, reason_of(v, is_error));
  if (!says_api(v)) run->kind.len = 0;
  if (is_error) csn_run_error(run, &words, csn_view_count(v, N_API_STATUS));
  if (is_error)
    csn_run_no_text(run);
  else
    csn_run_text(v, N_RESULT, false);

  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_RESULT);
  csn_put_text_or_null(v, "subtype", N_SUBTYPE);
  csn_put_field_bool(v->e->fx, "is_error", is_error);
  csn_put_text_or_null(v, "terminal_reason", N_TERMINAL_REASON);
  csn_put_words(v->e->fx, "text", &words);
  csn_put_scalar(v, "num_turns", N_NUM_TURNS, 0);
  csn_put_scalar(v, "duration_ms", N_DURATION, 0);
  csn_put_scalar(v, "api_error_status", N_API_STATUS, 0);
  csn_put_text_or_null(v, "stop_reason", N_STOP_REASON);
  csn_put_scalar(v, "total_cost_usd", N_COST, 0);
  csn_event_close(v->e, at);
}

static void on_stream_event(csn_view *v) {
  bool delta = csn_view_is(v, N_EVENT_TYPE, 0, "content_block_delta");
  if (delta && v->run->kind.len > 0 && csn_view_text(v, N_PARENT, 0).len == 0) csn_run_answered(v->run);
  if (delta && csn_view_is(v, N_EVENT_DELTA_TYPE, 0, "text_delta"))
    put_text_event(v, CSN_T_AGENT_TEXT_DELTA, csn_view_get(v, N_EVENT_DELTA_TEXT, 0));
  else if (delta && csn_view_is(v, N_EVENT_DELTA_TYPE, 0, "thinking_delta"))
    put_text_event(v, CSN_T_AGENT_THINKING_DELTA, csn_view_get(v, N_EVENT_DELTA_THINKING, 0));
  else
    csn_put_raw_event(v, "unmapped", csn_view_text(v, N_TYPE, 0), csn_view_text(v, N_EVENT_TYPE, 0));
}

static void line(csn_view *v) {
  if (csn_view_is(v, N_TYPE, 0, "system"))
    on_system(v);
  else if (csn_view_is(v, N_TYPE, 0, "assistant"))
    on_message(v, true);
  else if (csn_view_is(v, N_TYPE, 0, "user"))
    on_message(v, false);
  else if (csn_view_is(v, N_TYPE, 0, "result"))
    on_result(v);
  else if (csn_view_is(v, N_TYPE, 0, "stream_event"))
    on_stream_event(v);
  else
    csn_put_raw_event(v, "unmapped", csn_view_text(v, N_TYPE, 0), csn_view_text(v, N_SUBTYPE, 0));
}

/* What it refuses to start with; stdout stays empty then. */
static void err_line(csn_view *v, csn_span text) {
  if (csn_span_starts(text, "Error: Session ID ") && csn_span_has(text, "is already in use"))
    csn_put_refusal(v, "session_in_use", text);
  else if (csn_span_starts(text, "No conversation found with session ID"))
    csn_put_refusal(v, "session_not_found", text);
  else if (csn_span_starts(text, "error: unknown option"))
    csn_put_refusal(v, "bad_option", text);
  else if (csn_span_starts(text, "--dangerously-skip-permissions cannot be used"))
    csn_put_refusal(v, "not_permitted", text);
  else if (csn_span_starts(text, "Error parsing streaming input line"))
    csn_put_refusal(v, "bad_input", text);
}

/* With the output format text there is the exit status, and words. SIGINT ends with status 0 as well, but
 * says "Execution error". */
static void end_text(csn_agent_run *run, int32_t exit_code) {
  csn_span text = csn_span_of(run->result, run->result_len);
  if (exit_code == 0) {
    if (csn_span_is(text, "Execution error") || csn_span_is(text, "Execution error\\n")) return;
    csn_run_result(run, false, csn_span_str("completed"));
    return;
  }
  bool turns = csn_span_starts(text, "Error: Reached max turns");
  csn_run_result(run, true, csn_span_str(turns ? "max_turns" : "agent_error"));
  csn_run_error(run, &(csn_words){text, run->result_true_len}, 0);
  csn_run_no_text(run);
}

const csn_dialect csn_claude_code_dialect = {.can = CSN_CAN_MCP | CSN_CAN_TOOLS | CSN_CAN_TOOL_ARGS |
                                                    CSN_CAN_MAX_TURNS | CSN_CAN_FORK | CSN_CAN_PARTIAL |
                                                    CSN_CAN_FORMAT,
                                             .rule = rule,
                                             .unlisted = unlisted,
                                             .spec = spec,
                                             .table = {nodes, N_END},
                                             .line = line,
                                             .err_line = err_line,
                                             .end_text = end_text};
