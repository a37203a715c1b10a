#include "csn/agent.h"

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
  X(TOOL_NAME, ROOT, KEY, "tool_name", 1, 0, 256)                                                            \
  X(TOOL_USE_ID, ROOT, KEY, "tool_use_id", 1, 0, 128)                                                        \
  X(ATTEMPT, ROOT, KEY, "attempt", 1, 0, 32)                                                                 \
  X(MAX_RETRIES, ROOT, KEY, "max_retries", 1, 0, 32)                                                         \
  X(RETRY_DELAY, ROOT, KEY, "retry_delay_ms", 1, 0, 32)                                                      \
  X(ERROR_STATUS, ROOT, KEY, "error_status", 1, 0, 32)                                                       \
  X(TASK_ID, ROOT, KEY, "task_id", 1, 0, 128)                                                                \
  X(DESCRIPTION, ROOT, KEY, "description", 1, 0, 1024)                                                       \
  X(STATUS, ROOT, KEY, "status", 1, 0, 64)                                                                   \
  X(SUMMARY, ROOT, KEY, "summary", 1, 0, 8192)                                                               \
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
  X(EVENT, ROOT, KEY, "event", 0, 0, 0)                                                                      \
  X(EVENT_TYPE, EVENT, KEY, "type", 1, 0, 64)                                                                \
  X(EVENT_DELTA, EVENT, KEY, "delta", 0, 0, 0)                                                               \
  X(EVENT_DELTA_TYPE, EVENT_DELTA, KEY, "type", 1, 0, 64)                                                    \
  X(EVENT_DELTA_TEXT, EVENT_DELTA, KEY, "text", 1, 0, CSN_FIELD_MAX)                                         \
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
  X(INPUT_COMMAND, BLOCK_INPUT, KEY, "command", 1, 0, 4096)                                                  \
  X(BLOCK_TOOL_USE_ID, BLOCK, KEY, "tool_use_id", 1, 0, 128)                                                 \
  X(BLOCK_IS_ERROR, BLOCK, KEY, "is_error", 1, 0, 8)                                                         \
  X(BLOCK_CONTENT, BLOCK, KEY, "content", 1, 0, CSN_FIELD_MAX)                                               \
  X(PART, BLOCK_CONTENT, ANY_INDEX, "", 0, 0, 0)                                                             \
  X(PART_TEXT, PART, KEY, "text", 1, 0, CSN_FIELD_MAX)

enum node {
#define X(node, parent, step, key, captured, verbatim, cap) N_##node,
  NODES(X)
#undef X
      N_END
};
static const csn_json_node nodes[N_END] = {
#define X(node, parent, step, key, captured, verbatim, cap)                                                  \
  {N_##parent, CSN_JS_##step, (captured) ? N_##node : 0, verbatim, cap, key},
    NODES(X)
#undef X
};
_Static_assert(N_END <= CSN_JSON_NODE_MAX, "table too large");
const csn_json_table csn_claude_code_table = {nodes, N_END};

/* --- the command --- */

void csn_claude_code_spec(csn_fx *fx, const csn_spec_in *in) {
  static const char *const fixed[] = {"ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "IS_SANDBOX", NULL};
  csn_put_str(fx, "{\"argv\":[\"claude\",\"-p\",\"--output-format\",\"stream-json\",\"--verbose\","
                  "\"--dangerously-skip-permissions\"");
  if (in->model.len > 0) {
    csn_put_str(fx, ",\"--model\",\"");
    csn_put_escaped(fx, in->model);
    csn_put_str(fx, "\"");
  }
  if (in->max_turns > 0) {
    csn_put_str(fx, ",\"--max-turns\",\"");
    csn_put_u64(fx, in->max_turns);
    csn_put_str(fx, "\"");
  }
  if (in->system_prompt.len > 0) {
    csn_put_str(fx, ",\"--append-system-prompt\",\"");
    csn_put_escaped(fx, in->system_prompt);
    csn_put_str(fx, "\"");
  }
  if (in->resume_id.len > 0) {
    csn_put_str(fx, ",\"--resume\",\"");
    csn_fx_put(fx, in->resume_id.ptr, in->resume_id.len);
    csn_put_str(fx, "\"");
  }
  csn_put_str(fx, "],\"env\":{\"IS_SANDBOX\":\"1\","
                  "\"ANTHROPIC_BASE_URL\":\"http://model.caisson.internal\","
                  "\"ANTHROPIC_API_KEY\":\"caisson-placeholder\"");
  csn_spec_env(fx, in->env, fixed, false);
  static const char *const defaults[][2] = {{"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"},
                                            {"DISABLE_AUTOUPDATER", "1"},
                                            {"CLAUDE_CODE_MAX_RETRIES", "3"}};
  for (uint32_t i = 0; i < 3; i++)
    if (!csn_env_has(in->env, defaults[i][0]))
      csn_put_field_raw(fx, defaults[i][0], csn_span_str(defaults[i][1]));
  csn_put_str(fx, "}");
  csn_spec_tail(fx, in, true);
  csn_put_str(fx, "}");
}

/* --- the stream --- */

typedef struct view {
  csn_emit *e;
  const csn_json *j;
  const csn_line *line;
  csn_agent_run *run;
  csn_agent_memory *memory;
  uint32_t events; /* of this line */
} view;

static const csn_json_item *get(const view *v, uint32_t node, uint32_t index) {
  return csn_json_get(v->j, node, index);
}

static csn_span text_of(const view *v, uint32_t node, uint32_t index) {
  const csn_json_item *item = get(v, node, index);
  return item->kind == CSN_JK_STRING ? csn_json_text(v->j, item) : csn_span_of(NULL, 0);
}

static bool is(const view *v, uint32_t node, uint32_t index, const char *text) {
  const csn_json_item *item = get(v, node, index);
  return item->kind == CSN_JK_STRING && csn_span_is(csn_json_text(v->j, item), text);
}

static uint32_t open_event(view *v, csn_type type) {
  v->events++;
  return csn_event_open(v->e, type);
}

static void raw(view *v, const char *reason, csn_span a, csn_span b) {
  v->events++;
  csn_agent_raw(v->e, reason, a, b);
}

/* A string field, left out when the line has none. */
static void put_text(view *v, const char *key, uint32_t node, uint32_t index) {
  const csn_json_item *item = get(v, node, index);
  if (item->kind == CSN_JK_STRING) csn_put_field_text(v->e->fx, key, csn_json_text(v->j, item));
}

/* A string field that is always there, with its true length when it was cut. */
static void put_long_text(view *v, const char *key, const char *len_key, const csn_json_item *item) {
  bool string = item->kind == CSN_JK_STRING;
  csn_put_field_text(v->e->fx, key, string ? csn_json_text(v->j, item) : csn_span_of(NULL, 0));
  if (string && item->cut) csn_put_field_u64(v->e->fx, len_key, item->true_len);
}

/* A number or truth value verbatim, else null. */
static void put_scalar(view *v, const char *key, uint32_t node, uint32_t index) {
  const csn_json_item *item = get(v, node, index);
  bool fits =
      (item->kind == CSN_JK_NUMBER || item->kind == CSN_JK_TRUE || item->kind == CSN_JK_FALSE) && !item->cut;
  csn_put_field_json(v->e->fx, key, fits ? csn_json_text(v->j, item) : csn_span_str("null"));
}

static void put_text_or_null(view *v, const char *key, uint32_t node) {
  const csn_json_item *item = get(v, node, 0);
  if (item->kind == CSN_JK_STRING)
    csn_put_field_text(v->e->fx, key, csn_json_text(v->j, item));
  else
    csn_put_field_json(v->e->fx, key, csn_span_str("null"));
}

/* JSON text verbatim when all of it was captured. */
static void put_json(view *v, const char *key, const char *head_key, const char *len_key,
                     const csn_json_item *item) {
  if (item->kind == CSN_JK_NONE) return;
  csn_span json = csn_json_text(v->j, item);
  if (!item->cut) {
    csn_put_field_json(v->e->fx, key, json);
    return;
  }
  if (head_key != NULL) csn_put_field_raw(v->e->fx, head_key, json);
  csn_put_field_u64(v->e->fx, len_key, item->true_len);
}

static void put_parent(view *v) {
  put_text(v, "parent_tool_use_id", N_PARENT, 0);
}

static void set_text64(csn_text64 *t, csn_span escaped) {
  t->len = (uint8_t)csn_json_cut(escaped, sizeof t->bytes);
  if (t->len > 0) memcpy(t->bytes, escaped.ptr, t->len);
}

static void set_session_id(view *v) {
  const csn_json_item *item = get(v, N_SESSION_ID, 0);
  if (item->kind != CSN_JK_STRING || item->cut || item->len == 0) return;
  v->run->id_len = (uint8_t)item->len;
  memcpy(v->run->agent_session_id, csn_json_text(v->j, item).ptr, item->len);
}

static bool is_remembered(const view *v) {
  return v->memory->id_len > 0 && v->memory->id_len == v->run->id_len &&
         memcmp(v->memory->id, v->run->agent_session_id, v->run->id_len) == 0;
}

static void on_init(view *v) {
  set_session_id(v);
  const csn_json_item *model = get(v, N_MODEL, 0);
  if (!model->cut) csn_agent_set_model(v->run, text_of(v, N_MODEL, 0));
  if (v->run->id_len > 0 && !is_remembered(v)) {
    v->memory->total = (csn_usage){0};
    v->memory->id_len = v->run->id_len;
    memcpy(v->memory->id, v->run->agent_session_id, v->run->id_len);
  }
  uint32_t at = open_event(v, CSN_T_AGENT_INIT);
  put_text(v, "agent_session_id", N_SESSION_ID, 0);
  put_text(v, "model", N_MODEL, 0);
  put_text(v, "version", N_VERSION, 0);
  put_text(v, "cwd", N_CWD, 0);
  put_text(v, "permission_mode", N_PERMISSION_MODE, 0);
  put_json(v, "tools", NULL, "tools_len", get(v, N_TOOLS, 0));
  put_json(v, "mcp_servers", NULL, "mcp_servers_len", get(v, N_MCP_SERVERS, 0));
  csn_event_close(v->e, at);
}

static void on_permission_denied(view *v) {
  uint32_t at = open_event(v, CSN_T_AGENT_PERMISSION_DENIED);
  put_text(v, "tool", N_TOOL_NAME, 0);
  put_text(v, "tool_use_id", N_TOOL_USE_ID, 0);
  put_long_text(v, "message", "message_len", get(v, N_MESSAGE, 0));
  csn_event_close(v->e, at);
}

static void on_retry(view *v) {
  uint32_t at = open_event(v, CSN_T_AGENT_RETRY);
  put_scalar(v, "attempt", N_ATTEMPT, 0);
  put_scalar(v, "max_retries", N_MAX_RETRIES, 0);
  put_scalar(v, "delay_ms", N_RETRY_DELAY, 0);
  put_scalar(v, "status", N_ERROR_STATUS, 0);
  put_text(v, "error", N_ERROR, 0);
  csn_event_close(v->e, at);
  set_text64(&v->run->kind, text_of(v, N_ERROR, 0));
}

static void on_task(view *v, const char *phase) {
  uint32_t at = open_event(v, CSN_T_AGENT_SUBAGENT);
  csn_put_field_raw(v->e->fx, "phase", csn_span_str(phase));
  put_text(v, "task_id", N_TASK_ID, 0);
  put_text(v, "tool_use_id", N_TOOL_USE_ID, 0);
  put_text(v, "description", N_DESCRIPTION, 0);
  put_text(v, "status", get(v, N_STATUS, 0)->kind == CSN_JK_STRING ? N_STATUS : N_PATCH_STATUS, 0);
  put_text(v, "summary", N_SUMMARY, 0);
  csn_event_close(v->e, at);
}

static void on_system(view *v) {
  if (is(v, N_SUBTYPE, 0, "init"))
    on_init(v);
  else if (is(v, N_SUBTYPE, 0, "permission_denied"))
    on_permission_denied(v);
  else if (is(v, N_SUBTYPE, 0, "api_retry"))
    on_retry(v);
  else if (is(v, N_SUBTYPE, 0, "task_started"))
    on_task(v, "started");
  else if (is(v, N_SUBTYPE, 0, "task_progress"))
    on_task(v, "progress");
  else if (is(v, N_SUBTYPE, 0, "task_updated"))
    on_task(v, "updated");
  else if (is(v, N_SUBTYPE, 0, "task_notification"))
    on_task(v, "ended");
  else
    raw(v, "unmapped", text_of(v, N_TYPE, 0), text_of(v, N_SUBTYPE, 0));
}

static void put_text_event(view *v, csn_type type, const csn_json_item *item) {
  uint32_t at = open_event(v, type);
  put_long_text(v, "text", "text_len", item);
  put_text(v, "message_id", N_MESSAGE_ID, 0);
  put_parent(v);
  csn_event_close(v->e, at);
}

static void on_tool_call(view *v, uint32_t index) {
  static const uint8_t files[3] = {N_INPUT_FILE, N_INPUT_NOTEBOOK, N_INPUT_PATH};
  csn_usage_add(&v->run->usage, &(csn_usage){.tool_calls = 1});
  uint32_t at = open_event(v, CSN_T_AGENT_TOOL_CALL);
  put_text(v, "tool_use_id", N_BLOCK_ID, index);
  put_text(v, "tool", N_BLOCK_NAME, index);
  put_json(v, "input", "input_head", "input_len", get(v, N_BLOCK_INPUT, index));
  for (uint32_t i = 0; i < 3; i++) {
    if (get(v, files[i], index)->kind != CSN_JK_STRING) continue;
    put_text(v, "file", files[i], index);
    break;
  }
  put_text(v, "command", N_INPUT_COMMAND, index);
  put_text(v, "message_id", N_MESSAGE_ID, 0);
  put_parent(v);
  csn_event_close(v->e, at);
}

/* The text of a tool's result: a string, or the texts of an array of blocks with a newline between them. */
static void put_result_text(view *v, uint32_t index) {
  const csn_json_item *whole = get(v, N_BLOCK_CONTENT, index);
  if (whole->kind != CSN_JK_ARRAY) {
    put_long_text(v, "text", "text_len", whole);
    return;
  }
  csn_fx *fx = v->e->fx;
  uint64_t true_len = 0;
  bool cut = false, first = true;
  csn_put_str(fx, ",\"text\":\"");
  for (uint32_t i = 0; i < v->j->item_count; i++) {
    const csn_json_item *item = &v->j->items[i];
    if (item->field != N_PART_TEXT || item->index != index || item->kind != CSN_JK_STRING) continue;
    if (!first) {
      csn_put_str(fx, "\\n");
      true_len += 2;
    }
    first = false;
    csn_fx_put(fx, csn_json_text(v->j, item).ptr, item->len);
    true_len += item->true_len;
    if (item->cut) cut = true;
  }
  csn_put_str(fx, "\"");
  if (cut) csn_put_field_u64(fx, "text_len", true_len);
}

static void on_tool_result(view *v, uint32_t index) {
  uint32_t at = open_event(v, CSN_T_AGENT_TOOL_RESULT);
  put_text(v, "tool_use_id", N_BLOCK_TOOL_USE_ID, index);
  csn_put_field_bool(v->e->fx, "is_error", get(v, N_BLOCK_IS_ERROR, index)->kind == CSN_JK_TRUE);
  put_result_text(v, index);
  put_parent(v);
  csn_event_close(v->e, at);
  if (text_of(v, N_PARENT, 0).len == 0) csn_agent_more(v->run);
}

static void on_block(view *v, uint32_t index, bool assistant) {
  if (assistant && is(v, N_BLOCK_TYPE, index, "text"))
    put_text_event(v, CSN_T_AGENT_TEXT, get(v, N_BLOCK_TEXT, index));
  else if (assistant && is(v, N_BLOCK_TYPE, index, "thinking"))
    put_text_event(v, CSN_T_AGENT_THINKING, get(v, N_BLOCK_THINKING, index));
  else if (assistant &&
           (is(v, N_BLOCK_TYPE, index, "tool_use") || is(v, N_BLOCK_TYPE, index, "server_tool_use") ||
            is(v, N_BLOCK_TYPE, index, "mcp_tool_use")))
    on_tool_call(v, index);
  else if (!assistant && is(v, N_BLOCK_TYPE, index, "tool_result"))
    on_tool_result(v, index);
  else
    raw(v, "unmapped", text_of(v, N_TYPE, 0), text_of(v, N_BLOCK_TYPE, index));
}

static uint64_t sum_of(const view *v, uint32_t node) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < v->j->item_count; i++) {
    const csn_json_item *item = &v->j->items[i];
    uint64_t n;
    if (item->field == node && item->kind == CSN_JK_NUMBER && !item->cut &&
        csn_json_u64(csn_json_text(v->j, item), &n) && n <= UINT64_MAX - sum)
      sum += n;
  }
  return sum;
}

/* A line of an answer. Its usage is the one that the answer began with: the same in all of its lines. What
 * the CLI makes up itself ("<synthetic>") no model has answered. */
static void on_answer(view *v) {
  csn_span id = text_of(v, N_MESSAGE_ID, 0), model = text_of(v, N_MESSAGE_MODEL, 0);
  if (id.len == 0 || (model.len > 0 && model.ptr[0] == '<')) return;
  csn_turn turn = {.id = id, .model = model, .parent = text_of(v, N_PARENT, 0)};
  turn.usage.input_tokens = sum_of(v, N_MESSAGE_IN);
  turn.usage.output_tokens = sum_of(v, N_MESSAGE_OUT);
  turn.usage.cache_read_tokens = sum_of(v, N_MESSAGE_READ);
  turn.usage.cache_write_tokens = sum_of(v, N_MESSAGE_WRITE);
  if (csn_agent_turn(v->e, v->line, v->run, &turn)) v->events++;
}

static void on_message(view *v, bool assistant) {
  if (assistant) on_answer(v);
  const csn_json_item *error = get(v, N_ERROR, 0);
  if (assistant && error->kind == CSN_JK_STRING) set_text64(&v->run->kind, csn_json_text(v->j, error));
  const csn_json_item *content = get(v, N_CONTENT, 0);
  if (content->kind == CSN_JK_STRING && assistant) {
    put_text_event(v, CSN_T_AGENT_TEXT, content);
    return;
  }
  uint32_t blocks = content->kind == CSN_JK_ARRAY ? csn_json_index_end(v->j, N_BLOCK, N_BLOCK) : 0;
  for (uint32_t i = 0; i < blocks; i++)
    on_block(v, i, assistant);
  if (blocks == 0) raw(v, "unmapped", text_of(v, N_TYPE, 0), csn_span_of(NULL, 0));
}

/* What came on top of `before`; a total that fell has started anew. */
static uint64_t since(uint64_t now, uint64_t before) {
  return now >= before ? now - before : now;
}

/* Usage of this result alone. Cost and modelUsage are cumulative over an agent session, also across --resume.
 */
static csn_usage usage_of(view *v) {
  csn_usage total = {0}, delta = {0};
  const csn_json_item *cost = get(v, N_COST, 0);
  uint64_t turns = 0;
  if (cost->kind == CSN_JK_NUMBER && !cost->cut) {
    if (!csn_json_nano(csn_json_text(v->j, cost), &total.cost_nano)) total.cost_nano = 0;
  }
  total.input_tokens = sum_of(v, N_TOTAL_IN);
  total.output_tokens = sum_of(v, N_TOTAL_OUT);
  total.cache_read_tokens = sum_of(v, N_TOTAL_READ);
  total.cache_write_tokens = sum_of(v, N_TOTAL_WRITE);
  csn_usage before = is_remembered(v) ? v->memory->total : (csn_usage){0};
  delta.cost_nano = since(total.cost_nano, before.cost_nano);
  if (get(v, N_DELTA, 0)->kind == CSN_JK_OBJECT) {
    delta.input_tokens = sum_of(v, N_DELTA_IN);
    delta.output_tokens = sum_of(v, N_DELTA_OUT);
    delta.cache_read_tokens = sum_of(v, N_DELTA_READ);
    delta.cache_write_tokens = sum_of(v, N_DELTA_WRITE);
  } else if (get(v, N_TOTAL, 0)->kind == CSN_JK_OBJECT) {
    delta.input_tokens = since(total.input_tokens, before.input_tokens);
    delta.output_tokens = since(total.output_tokens, before.output_tokens);
    delta.cache_read_tokens = since(total.cache_read_tokens, before.cache_read_tokens);
    delta.cache_write_tokens = since(total.cache_write_tokens, before.cache_write_tokens);
  } else {
    delta.input_tokens = sum_of(v, N_USAGE_IN);
    delta.output_tokens = sum_of(v, N_USAGE_OUT);
    delta.cache_read_tokens = sum_of(v, N_USAGE_READ);
    delta.cache_write_tokens = sum_of(v, N_USAGE_WRITE);
  }
  if (csn_json_u64(csn_json_text(v->j, get(v, N_NUM_TURNS, 0)), &turns) && turns <= UINT32_MAX)
    delta.turns = (uint32_t)turns;
  if (is_remembered(v)) v->memory->total = total;
  return delta;
}

/* terminal_reason where it says something, else the subtype. */
static csn_span reason_of(const view *v, bool is_error) {
  csn_span terminal = text_of(v, N_TERMINAL_REASON, 0);
  if (!is_error) return terminal.len > 0 ? terminal : csn_span_str("completed");
  if (terminal.len > 0 && !csn_span_is(terminal, "completed")) return terminal;
  csn_span subtype = text_of(v, N_SUBTYPE, 0);
  return subtype.len > 0 && !csn_span_is(subtype, "success") ? subtype : csn_span_str("agent_error");
}

static void remember_result(view *v, bool is_error) {
  csn_agent_run *run = v->run;
  const csn_json_item *result = get(v, N_RESULT, 0);
  const csn_json_item *message = result->kind == CSN_JK_STRING ? result : get(v, N_ERRORS_ANY, 0);
  uint64_t status = 0;
  run->has_result = 1;
  run->is_error = is_error;
  set_text64(&run->reason, reason_of(v, is_error));
  run->result_len = 0;
  run->result_true_len = 0;
  run->result_cut = 0;
  run->message_len = 0;
  run->error_status = 0;
  if (!is_error) {
    if (result->kind != CSN_JK_STRING) return;
    run->result_len = result->len;
    run->result_true_len = result->true_len;
    run->result_cut = result->cut;
    memcpy(run->result, csn_json_text(v->j, result).ptr, result->len);
    return;
  }
  if (message->kind == CSN_JK_STRING) {
    run->message_len = (uint16_t)csn_json_cut(csn_json_text(v->j, message), CSN_MESSAGE_CAP);
    memcpy(run->message, csn_json_text(v->j, message).ptr, run->message_len);
  }
  if (csn_json_u64(csn_json_text(v->j, get(v, N_API_STATUS, 0)), &status) && status <= UINT16_MAX)
    run->error_status = (uint16_t)status;
}

static void on_result(view *v) {
  /* Anything but a plain false counts as an error: success must be said, not guessed. */
  bool is_error = get(v, N_IS_ERROR, 0)->kind != CSN_JK_FALSE;
  if (v->run->id_len == 0) set_session_id(v);
  csn_usage delta = usage_of(v);
  csn_usage_add(&v->run->usage, &delta);
  remember_result(v, is_error);

  csn_fx *fx = v->e->fx;
  uint32_t at = open_event(v, CSN_T_AGENT_USAGE);
  csn_put_field_u64(fx, "input_tokens", delta.input_tokens);
  csn_put_field_u64(fx, "output_tokens", delta.output_tokens);
  csn_put_field_u64(fx, "cache_read_tokens", delta.cache_read_tokens);
  csn_put_field_u64(fx, "cache_write_tokens", delta.cache_write_tokens);
  csn_put_cost(fx, "cost_usd", &delta);
  csn_put_field_u64(fx, "turns", delta.turns);
  csn_event_close(v->e, at);

  at = open_event(v, CSN_T_AGENT_RESULT);
  put_text_or_null(v, "subtype", N_SUBTYPE);
  csn_put_field_bool(fx, "is_error", is_error);
  put_text_or_null(v, "terminal_reason", N_TERMINAL_REASON);
  const csn_json_item *result = get(v, N_RESULT, 0);
  put_long_text(v, "text", "text_len", result->kind == CSN_JK_STRING ? result : get(v, N_ERRORS_ANY, 0));
  put_scalar(v, "num_turns", N_NUM_TURNS, 0);
  put_scalar(v, "duration_ms", N_DURATION, 0);
  put_scalar(v, "api_error_status", N_API_STATUS, 0);
  put_text_or_null(v, "stop_reason", N_STOP_REASON);
  put_scalar(v, "total_cost_usd", N_COST, 0);
  csn_event_close(v->e, at);
}

static void on_stream_event(view *v) {
  if (is(v, N_EVENT_TYPE, 0, "content_block_delta") && is(v, N_EVENT_DELTA_TYPE, 0, "text_delta"))
    put_text_event(v, CSN_T_AGENT_TEXT_DELTA, get(v, N_EVENT_DELTA_TEXT, 0));
  else
    raw(v, "unmapped", text_of(v, N_TYPE, 0), text_of(v, N_EVENT_TYPE, 0));
}

void csn_claude_code_line(csn_emit *e, const csn_line *line, csn_agent_run *run, csn_agent_memory *memory) {
  if (line->verdict == CSN_JSON_EMPTY) return;
  if (line->verdict != CSN_JSON_OK) {
    csn_agent_raw_line(e, line);
    return;
  }
  view v = {e, line->json, line, run, memory, 0};
  if (line->json->cr_count == 0) e->line_flags |= CSN_LINE_JSON;
  if (is(&v, N_TYPE, 0, "system"))
    on_system(&v);
  else if (is(&v, N_TYPE, 0, "assistant"))
    on_message(&v, true);
  else if (is(&v, N_TYPE, 0, "user"))
    on_message(&v, false);
  else if (is(&v, N_TYPE, 0, "result"))
    on_result(&v);
  else if (is(&v, N_TYPE, 0, "stream_event"))
    on_stream_event(&v);
  else
    raw(&v, "unmapped", text_of(&v, N_TYPE, 0), text_of(&v, N_SUBTYPE, 0));
  if (line->json->lost) raw(&v, "too_many_fields", csn_span_of(NULL, 0), csn_span_of(NULL, 0));
}
