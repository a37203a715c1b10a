#include "csn/request.h"

#include "csn/doc.h"

#include "cJSON.h"

csn_err csn_read_model(const cJSON *item, csn_span *out) {
  csn_err err = csn_doc_text(item, 1, CSN_MODEL_MAX, out);
  if (err != CSN_ERR_OK) return err;
  if (out->ptr[0] == '-') return CSN_ERR_BAD_VALUE;
  for (uint32_t i = 0; i < out->len; i++) {
    uint8_t c = out->ptr[i];
    bool name = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    bool sign = c == '-' || c == '.' || c == '_' || c == ':' || c == '/' || c == '@' || c == '[' || c == ']';
    if (!name && !sign) return CSN_ERR_BAD_VALUE;
  }
  return CSN_ERR_OK;
}

/* It becomes the name of a directory: no dot and no slash, so that it cannot leave its parent. */
static csn_err read_template(const cJSON *item, csn_span *out) {
  csn_err err = csn_doc_text(item, 1, CSN_TEMPLATE_MAX, out);
  for (uint32_t i = 0; err == CSN_ERR_OK && i < out->len; i++) {
    uint8_t c = out->ptr[i];
    bool ok = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
    /* A name that begins with a sign looks like an option. */
    if (!ok || (i == 0 && (c == '-' || c == '_'))) err = CSN_ERR_BAD_VALUE;
  }
  return err;
}

static bool is_env_name(const char *name) {
  uint32_t i = 0;
  for (; name[i] != 0; i++) {
    char c = name[i];
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    if (!letter && !(i > 0 && c >= '0' && c <= '9')) return false;
  }
  return i > 0;
}

static csn_err read_env(csn_arena *a, const cJSON *env, csn_span *out, csn_pointer *bad) {
  if (!cJSON_IsObject(env)) return CSN_ERR_BAD_TYPE;
  uint32_t base = bad->len, bytes = 0, count = 0, used = 0;
  for (const cJSON *item = env->child; item != NULL; item = item->next) {
    bad->len = base;
    csn_pointer_push(bad, item->string);
    if (!cJSON_IsString(item)) return CSN_ERR_BAD_TYPE;
    if (!is_env_name(item->string) || csn_doc_seen_before(env, item)) return CSN_ERR_BAD_VALUE;
    bytes += csn_str_len(item->string) + csn_str_len(item->valuestring);
    if (bytes > CSN_ENV_BYTES_MAX) return CSN_ERR_TOO_LONG;
    count++;
  }
  bad->len = base;
  if (count > CSN_ENV_COUNT_MAX) return CSN_ERR_TOO_LONG;
  uint8_t *flat = csn_arena_take(a, bytes + 2u * count);
  if (flat == NULL) return CSN_ERR_NO_MEMORY;
  for (const cJSON *item = env->child; item != NULL; item = item->next) {
    uint32_t name_len = csn_str_len(item->string) + 1, value_len = csn_str_len(item->valuestring) + 1;
    memcpy(flat + used, item->string, name_len);
    memcpy(flat + used + name_len, item->valuestring, value_len);
    used += name_len + value_len;
  }
  *out = csn_span_of(flat, used);
  return CSN_ERR_OK;
}

/* --- what is kept as options --- */

typedef struct flat {
  uint8_t *base;
  uint32_t cap, len;
  uint32_t bytes; /* of texts, without tags and NULs */
} flat;

static csn_err put_option(flat *f, csn_option_tag tag, csn_span text, uint32_t bytes_max) {
  f->bytes += text.len;
  if (f->bytes > bytes_max || text.len + 2u > f->cap - f->len) return CSN_ERR_TOO_LONG;
  f->base[f->len++] = (uint8_t)tag;
  if (text.len > 0) memcpy(f->base + f->len, text.ptr, text.len);
  f->len += text.len;
  f->base[f->len++] = 0;
  return CSN_ERR_OK;
}

static bool is_word(csn_span s, const char *signs) {
  for (uint32_t i = 0; i < s.len; i++) {
    uint8_t c = s.ptr[i];
    bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    for (const char *p = signs; !ok && *p != 0; p++)
      ok = c == (uint8_t)*p;
    if (!ok) return false;
  }
  return s.len > 0;
}

/* No line breaks and the like: in a header they would begin another one. */
static bool is_printable(csn_span s) {
  for (uint32_t i = 0; i < s.len; i++)
    if (s.ptr[i] < 0x20 || s.ptr[i] == 0x7f) return false;
  return true;
}

static bool is_url(csn_span s) {
  bool http = s.len > 7 && memcmp(s.ptr, "http://", 7) == 0;
  bool https = s.len > 8 && memcmp(s.ptr, "https://", 8) == 0;
  for (uint32_t i = 0; i < s.len; i++)
    if (s.ptr[i] <= 0x20 || s.ptr[i] >= 0x7f) return false;
  return http || https;
}

/* A server's variables or headers. */
static csn_err read_map(const cJSON *map, csn_option_tag tag, flat *f, csn_pointer *bad) {
  if (!cJSON_IsObject(map)) return CSN_ERR_BAD_TYPE;
  uint32_t base = bad->len;
  for (const cJSON *item = map->child; item != NULL; item = item->next) {
    bad->len = base;
    csn_pointer_push(bad, item->string);
    csn_span name = csn_span_str(item->string), value;
    csn_err err = csn_doc_text(item, 0, CSN_MCP_BYTES_MAX, &value);
    if (err != CSN_ERR_OK) return err;
    bool named = tag == CSN_OPT_ENV ? is_env_name(item->string) : is_word(name, "-_");
    if (!named || csn_doc_seen_before(map, item)) return CSN_ERR_BAD_VALUE;
    if (tag == CSN_OPT_HEADER && !is_printable(value)) return CSN_ERR_BAD_VALUE;
    err = put_option(f, tag, name, CSN_MCP_BYTES_MAX);
    if (err == CSN_ERR_OK) err = put_option(f, CSN_OPT_VALUE, value, CSN_MCP_BYTES_MAX);
    if (err != CSN_ERR_OK) return err;
  }
  bad->len = base;
  return CSN_ERR_OK;
}

static csn_err read_args(const cJSON *list, flat *f, csn_pointer *bad) {
  if (!cJSON_IsArray(list)) return CSN_ERR_BAD_TYPE;
  uint32_t base = bad->len, i = 0;
  for (const cJSON *item = list->child; item != NULL; item = item->next, i++) {
    csn_span text;
    bad->len = base;
    csn_pointer_push_index(bad, i);
    csn_err err = csn_doc_text(item, 0, CSN_MCP_BYTES_MAX, &text);
    if (err == CSN_ERR_OK) err = put_option(f, CSN_OPT_ARG, text, CSN_MCP_BYTES_MAX);
    if (err != CSN_ERR_OK) return err;
  }
  bad->len = base;
  return CSN_ERR_OK;
}

/* {command, args?, env?} or {url, headers?}: its first option is the command or the URL. */
static csn_err read_server(const cJSON *server, flat *f, csn_pointer *bad) {
  if (!cJSON_IsObject(server)) return CSN_ERR_BAD_TYPE;
  const cJSON *found[5] = {0};
  static const char *const keys[5] = {"command", "url", "args", "env", "headers"};
  enum { COMMAND, URL, ARGS, ENV, HEADERS };
  uint32_t base = bad->len;
  for (const cJSON *item = server->child; item != NULL; item = item->next) {
    uint32_t k = 0;
    bad->len = base;
    csn_pointer_push(bad, item->string);
    if (csn_doc_seen_before(server, item)) return CSN_ERR_BAD_VALUE;
    while (k < 5 && !csn_span_is(csn_span_str(item->string), keys[k]))
      k++;
    if (k == 5) return CSN_ERR_UNKNOWN_FIELD;
    found[k] = item;
  }
  bool remote = found[URL] != NULL;
  const cJSON *first = remote ? found[URL] : found[COMMAND];
  const cJSON *odd = remote ? (found[COMMAND] != NULL ? found[COMMAND]
                               : found[ARGS] != NULL  ? found[ARGS]
                                                      : found[ENV])
                            : found[HEADERS];
  bad->len = base;
  csn_pointer_push(bad, odd != NULL ? odd->string : remote ? "url" : "command");
  if (odd != NULL) return CSN_ERR_BAD_VALUE;
  if (first == NULL) return CSN_ERR_MISSING_FIELD;
  csn_span text;
  csn_err err = csn_doc_text(first, 1, CSN_MCP_BYTES_MAX, &text);
  if (err == CSN_ERR_OK && remote && !is_url(text)) err = CSN_ERR_BAD_VALUE;
  if (err == CSN_ERR_OK) err = put_option(f, remote ? CSN_OPT_URL : CSN_OPT_COMMAND, text, CSN_MCP_BYTES_MAX);
  for (uint32_t k = ARGS; k <= HEADERS && err == CSN_ERR_OK; k++) {
    if (found[k] == NULL) continue;
    bad->len = base;
    csn_pointer_push(bad, keys[k]);
    err = k == ARGS ? read_args(found[k], f, bad)
                    : read_map(found[k], k == ENV ? CSN_OPT_ENV : CSN_OPT_HEADER, f, bad);
  }
  if (err == CSN_ERR_OK) bad->len = base;
  return err;
}

static csn_err read_mcp(const cJSON *mcp, flat *f, csn_pointer *bad) {
  if (!cJSON_IsObject(mcp)) return CSN_ERR_BAD_TYPE;
  uint32_t base = bad->len, count = 0;
  f->bytes = 0;
  for (const cJSON *item = mcp->child; item != NULL; item = item->next) {
    csn_span name = csn_span_str(item->string);
    bad->len = base;
    csn_pointer_push(bad, item->string);
    if (!is_word(name, "-_") || name.ptr[0] == '-' || name.len > 64 || csn_doc_seen_before(mcp, item))
      return CSN_ERR_BAD_VALUE;
    csn_err err = put_option(f, CSN_OPT_SERVER, name, CSN_MCP_BYTES_MAX);
    if (err == CSN_ERR_OK) err = read_server(item, f, bad);
    if (err != CSN_ERR_OK) return err;
    count++;
  }
  bad->len = base;
  return count > CSN_MCP_COUNT_MAX ? CSN_ERR_TOO_LONG : CSN_ERR_OK;
}

/* A tool's name, perhaps with something in parentheses behind it: Read, mcp__server__*, Bash(git diff:*). */
static bool is_rule(csn_span rule) {
  csn_span tool = csn_span_of(rule.ptr, 0);
  while (tool.len < rule.len && rule.ptr[tool.len] != '(')
    tool.len++;
  if (!is_word(tool, "_-.*") || tool.ptr[0] == '-' || !is_printable(rule)) return false;
  if (tool.len == rule.len) return true;
  return rule.len - tool.len > 2 && rule.ptr[rule.len - 1] == ')';
}

static csn_err read_rules(const cJSON *list, csn_option_tag tag, flat *f, uint32_t *count, csn_pointer *bad) {
  if (!cJSON_IsArray(list)) return CSN_ERR_BAD_TYPE;
  uint32_t base = bad->len, i = 0;
  for (const cJSON *item = list->child; item != NULL; item = item->next, i++) {
    csn_span rule;
    bad->len = base;
    csn_pointer_push_index(bad, i);
    csn_err err = csn_doc_text(item, 1, CSN_TOOL_RULES_BYTES_MAX, &rule);
    if (err == CSN_ERR_OK && !is_rule(rule)) err = CSN_ERR_BAD_VALUE;
    if (err == CSN_ERR_OK) err = put_option(f, tag, rule, CSN_TOOL_RULES_BYTES_MAX);
    if (err == CSN_ERR_OK && ++*count > CSN_TOOL_RULES_COUNT_MAX) err = CSN_ERR_TOO_LONG;
    if (err != CSN_ERR_OK) return err;
  }
  bad->len = base;
  return CSN_ERR_OK;
}

static csn_err read_tools(const cJSON *tools, flat *f, csn_pointer *bad) {
  if (!cJSON_IsObject(tools)) return CSN_ERR_BAD_TYPE;
  uint32_t base = bad->len, count = 0;
  f->bytes = 0;
  for (const cJSON *item = tools->child; item != NULL; item = item->next) {
    bad->len = base;
    csn_pointer_push(bad, item->string);
    bool allow = csn_span_is(csn_span_str(item->string), "allow");
    if (!allow && !csn_span_is(csn_span_str(item->string), "deny")) return CSN_ERR_UNKNOWN_FIELD;
    if (csn_doc_seen_before(tools, item)) return CSN_ERR_BAD_VALUE;
    csn_err err = read_rules(item, allow ? CSN_OPT_ALLOW : CSN_OPT_DENY, f, &count, bad);
    if (err != CSN_ERR_OK) return err;
  }
  bad->len = base;
  return CSN_ERR_OK;
}

/* What this agent has no means for is refused: an option that is silently left out would be a promise. */
static csn_err check_options(csn_agent agent, csn_span options, csn_pointer *bad) {
  const csn_dialect *d = csn_dialect_of(agent);
  csn_option o;
  uint32_t index[2] = {0, 0};
  while (csn_option_next(&options, &o)) {
    bool allow = o.tag == CSN_OPT_ALLOW;
    if (o.tag == CSN_OPT_SERVER && !(d->can & CSN_CAN_MCP)) {
      csn_pointer_set(bad, "/mcp");
      return CSN_ERR_UNSUPPORTED;
    }
    if (!allow && o.tag != CSN_OPT_DENY) continue;
    csn_pointer_set(bad, "/tools");
    if (!(d->can & CSN_CAN_TOOLS)) return CSN_ERR_UNSUPPORTED;
    uint32_t n = 0;
    while (n < o.text.len && o.text.ptr[n] != '(')
      n++;
    bool args = n < o.text.len;
    bool fits = (d->can & CSN_CAN_TOOL_ARGS) != 0 &&
                (d->args_of == NULL || csn_span_is(csn_span_of(o.text.ptr, n), d->args_of));
    if (args && !fits) {
      csn_pointer_set(bad, allow ? "/tools/allow" : "/tools/deny");
      csn_pointer_push_index(bad, index[allow]);
      return CSN_ERR_UNSUPPORTED;
    }
    index[allow]++;
  }
  return CSN_ERR_OK;
}

csn_err csn_request_session(csn_arena *a, csn_span doc, csn_session_request *out, csn_pointer *bad) {
  const cJSON *root;
  *out = (csn_session_request){0};
  out->timeout_s = CSN_SESSION_TIMEOUT_S_DEFAULT;
  csn_pointer_set(bad, "");
  csn_err err = csn_doc_parse(a, doc, CSN_DOC_VALUES_MAX, &root);
  flat options = {.cap = CSN_OPTIONS_CAP};
  if (err == CSN_ERR_OK && (options.base = csn_arena_take(a, CSN_OPTIONS_CAP)) == NULL)
    return CSN_ERR_NO_MEMORY;
  for (const cJSON *item = err == CSN_ERR_OK ? root->child : NULL; item != NULL; item = item->next) {
    csn_span key = csn_span_str(item->string);
    csn_pointer_set(bad, "");
    csn_pointer_push(bad, item->string);
    if (csn_doc_seen_before(root, item)) return CSN_ERR_BAD_VALUE;
    if (csn_span_is(key, "agent")) {
      if (!cJSON_IsString(item)) return CSN_ERR_BAD_TYPE;
      out->agent = csn_agent_by_name(csn_span_str(item->valuestring));
      if (out->agent == CSN_AGENT_NONE) return CSN_ERR_UNKNOWN_AGENT;
    } else if (csn_span_is(key, "template")) {
      err = read_template(item, &out->template);
    } else if (csn_span_is(key, "system_prompt")) {
      err = csn_doc_text(item, 0, CSN_SYSTEM_PROMPT_MAX, &out->system_prompt);
    } else if (csn_span_is(key, "model")) {
      err = csn_read_model(item, &out->model);
    } else if (csn_span_is(key, "env")) {
      err = read_env(a, item, &out->env, bad);
    } else if (csn_span_is(key, "mcp")) {
      err = read_mcp(item, &options, bad);
    } else if (csn_span_is(key, "tools")) {
      err = read_tools(item, &options, bad);
    } else if (csn_span_is(key, "timeout_s")) {
      err = csn_doc_number(item, CSN_TIMEOUT_S_MIN, CSN_TIMEOUT_S_MAX, &out->timeout_s);
    } else if (csn_span_is(key, "limits")) {
      err = csn_read_limits(item, CSN_LIMITS_IDLE, &out->limits, bad);
    } else if (csn_span_is(key, "prices")) {
      out->prices = csn_arena_take(a, sizeof *out->prices);
      err = out->prices == NULL ? CSN_ERR_NO_MEMORY : csn_read_prices(item, out->prices, bad);
    } else if (csn_span_is(key, "policy_tools")) {
      out->tools = csn_arena_take(a, sizeof *out->tools);
      err = out->tools == NULL ? CSN_ERR_NO_MEMORY : csn_tools_read(item, out->tools, bad);
    } else {
      err = CSN_ERR_UNKNOWN_FIELD;
    }
    if (err != CSN_ERR_OK) return err;
  }
  if (err != CSN_ERR_OK) return err;
  csn_pointer_set(bad, "/agent");
  if (out->agent == CSN_AGENT_NONE) return CSN_ERR_MISSING_FIELD;
  out->options = csn_span_of(options.base, options.len);
  return check_options(out->agent, out->options, bad);
}

/* true, false, or the id of a conversation. */
static csn_err read_resume(const cJSON *item, csn_run_request *out) {
  if (cJSON_IsBool(item)) {
    out->resume = cJSON_IsTrue(item);
    return CSN_ERR_OK;
  }
  csn_err err = csn_doc_text(item, 1, CSN_ID_CAP, &out->resume_id);
  return err == CSN_ERR_OK && !csn_is_conversation_id(out->resume_id) ? CSN_ERR_BAD_VALUE : err;
}

static csn_err read_bool(const cJSON *item, bool *out) {
  if (!cJSON_IsBool(item)) return CSN_ERR_BAD_TYPE;
  *out = cJSON_IsTrue(item);
  return CSN_ERR_OK;
}

static csn_err read_format(const cJSON *item, csn_format *out) {
  static const char *const names[CSN_FORMAT_END] = {"stream-json", "json", "text"};
  csn_span text;
  csn_err err = csn_doc_text(item, 1, 32, &text);
  if (err != CSN_ERR_OK) return err;
  for (uint32_t i = 0; i < CSN_FORMAT_END; i++) {
    if (!csn_span_is(text, names[i])) continue;
    *out = (csn_format)i;
    return CSN_ERR_OK;
  }
  return CSN_ERR_BAD_VALUE;
}

/* Fields that only an agent understands, and not every one: bits of `seen`, what the agent must be able to.
 */
static const struct {
  const char *key;
  uint32_t can;
} agent_fields[] = {{"model", 0},
                    {"max_turns", CSN_CAN_MAX_TURNS},
                    {"fork", CSN_CAN_FORK},
                    {"partial_messages", CSN_CAN_PARTIAL},
                    {"output_format", CSN_CAN_FORMAT}};
enum { F_MODEL, F_MAX_TURNS, F_FORK, F_PARTIAL, F_FORMAT, F_COUNT };

static csn_err read_agent_field(uint32_t field, const cJSON *item, csn_run_request *out) {
  switch (field) {
  case F_MODEL:
    return csn_read_model(item, &out->model);
  case F_MAX_TURNS:
    return csn_doc_number(item, 1, CSN_MAX_TURNS_MAX, &out->max_turns);
  case F_FORK:
    return read_bool(item, &out->fork);
  case F_PARTIAL:
    return read_bool(item, &out->partial);
  default:
    return read_format(item, &out->format);
  }
}

/* Fields that do not go together, once all have been read. */
static csn_err check_run(csn_agent agent, const csn_run_request *r, bool has_prompt, uint32_t seen,
                         csn_pointer *bad) {
  csn_pointer_set(bad, "/prompt");
  if (!has_prompt && !r->is_command) return CSN_ERR_MISSING_FIELD;
  if (has_prompt && agent == CSN_AGENT_SHELL) return CSN_ERR_BAD_VALUE;
  csn_pointer_set(bad, "/command");
  if (has_prompt && r->is_command) return CSN_ERR_BAD_VALUE;
  for (uint32_t i = 0; i < F_COUNT; i++) {
    if (!(seen & 1u << i)) continue;
    csn_pointer_set(bad, "");
    csn_pointer_push(bad, agent_fields[i].key);
    /* What only an agent understands has no meaning beside a command. */
    if (r->is_command) return CSN_ERR_BAD_VALUE;
    if ((csn_dialect_of(agent)->can & agent_fields[i].can) != agent_fields[i].can) return CSN_ERR_UNSUPPORTED;
  }
  csn_pointer_set(bad, "/resume");
  if (r->is_command && r->resume_id.len > 0) return CSN_ERR_BAD_VALUE;
  csn_pointer_set(bad, "/fork");
  if (r->fork && !r->resume) return CSN_ERR_BAD_VALUE;
  csn_pointer_set(bad, "/partial_messages");
  if (r->partial && r->format != CSN_FORMAT_EVENTS) return CSN_ERR_BAD_VALUE;
  return CSN_ERR_OK;
}

csn_err csn_request_run(csn_arena *a, csn_span doc, csn_agent agent, csn_run_request *out, csn_pointer *bad) {
  const cJSON *root;
  bool has_prompt = false;
  uint32_t seen = 0;
  *out = (csn_run_request){0};
  out->timeout_s = CSN_RUN_TIMEOUT_S_DEFAULT;
  out->resume = true;
  csn_pointer_set(bad, "");
  csn_err err = csn_doc_parse(a, doc, CSN_DOC_VALUES_MAX, &root);
  for (const cJSON *item = err == CSN_ERR_OK ? root->child : NULL; item != NULL; item = item->next) {
    csn_span key = csn_span_str(item->string);
    uint32_t field = 0;
    csn_pointer_set(bad, "");
    csn_pointer_push(bad, item->string);
    if (csn_doc_seen_before(root, item)) return CSN_ERR_BAD_VALUE;
    while (field < F_COUNT && !csn_span_is(key, agent_fields[field].key))
      field++;
    if (field < F_COUNT) {
      seen |= 1u << field;
      err = read_agent_field(field, item, out);
    } else if (csn_span_is(key, "prompt")) {
      has_prompt = true;
      err = csn_doc_text(item, 1, CSN_PROMPT_MAX, &out->prompt);
    } else if (csn_span_is(key, "command")) {
      out->is_command = true;
      err = csn_doc_text(item, 1, CSN_COMMAND_MAX, &out->command);
    } else if (csn_span_is(key, "timeout_s")) {
      err = csn_doc_number(item, CSN_TIMEOUT_S_MIN, CSN_TIMEOUT_S_MAX, &out->timeout_s);
    } else if (csn_span_is(key, "limits")) {
      csn_limits_request limits;
      err = csn_read_limits(item, 0, &limits, bad);
      out->limits = limits.limits;
    } else if (csn_span_is(key, "resume")) {
      err = read_resume(item, out);
    } else {
      err = CSN_ERR_UNKNOWN_FIELD;
    }
    if (err != CSN_ERR_OK) return err;
  }
  return err != CSN_ERR_OK ? err : check_run(agent, out, has_prompt, seen, bad);
}
