#include "csn/request.h"

#include "csn/doc.h"

#include "cJSON.h"

/* A model's name is an argument of the agent's command line: it must not look like an option. */
static csn_err read_model(const cJSON *item, csn_span *out) {
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

csn_err csn_request_session(csn_arena *a, csn_span doc, csn_session_request *out, csn_pointer *bad) {
  const cJSON *root;
  *out = (csn_session_request){0};
  out->timeout_s = CSN_SESSION_TIMEOUT_S_DEFAULT;
  csn_pointer_set(bad, "");
  csn_err err = csn_doc_parse(a, doc, CSN_DOC_VALUES_MAX, &root);
  for (const cJSON *item = err == CSN_ERR_OK ? root->child : NULL; item != NULL; item = item->next) {
    csn_span key = csn_span_str(item->string);
    csn_pointer_set(bad, "");
    csn_pointer_push(bad, item->string);
    if (csn_doc_seen_before(root, item)) return CSN_ERR_BAD_VALUE;
    if (csn_span_is(key, "agent")) {
      if (!cJSON_IsString(item)) return CSN_ERR_BAD_TYPE;
      out->agent = csn_agent_by_name(csn_span_str(item->valuestring));
      if (out->agent == CSN_AGENT_NONE) return CSN_ERR_UNKNOWN_AGENT;
    } else if (csn_span_is(key, "system_prompt")) {
      err = csn_doc_text(item, 0, CSN_SYSTEM_PROMPT_MAX, &out->system_prompt);
    } else if (csn_span_is(key, "model")) {
      err = read_model(item, &out->model);
    } else if (csn_span_is(key, "env")) {
      err = read_env(a, item, &out->env, bad);
    } else if (csn_span_is(key, "timeout_s")) {
      err = csn_doc_number(item, CSN_TIMEOUT_S_MIN, CSN_TIMEOUT_S_MAX, &out->timeout_s);
    } else {
      err = CSN_ERR_UNKNOWN_FIELD;
    }
    if (err != CSN_ERR_OK) return err;
  }
  if (err != CSN_ERR_OK) return err;
  csn_pointer_set(bad, "/agent");
  return out->agent == CSN_AGENT_NONE ? CSN_ERR_MISSING_FIELD : CSN_ERR_OK;
}

csn_err csn_request_run(csn_arena *a, csn_span doc, csn_agent agent, csn_run_request *out, csn_pointer *bad) {
  const cJSON *root;
  bool has_prompt = false, has_max_turns = false, has_model = false;
  *out = (csn_run_request){0};
  out->timeout_s = CSN_RUN_TIMEOUT_S_DEFAULT;
  out->resume = true;
  csn_pointer_set(bad, "");
  csn_err err = csn_doc_parse(a, doc, CSN_DOC_VALUES_MAX, &root);
  for (const cJSON *item = err == CSN_ERR_OK ? root->child : NULL; item != NULL; item = item->next) {
    csn_span key = csn_span_str(item->string);
    csn_pointer_set(bad, "");
    csn_pointer_push(bad, item->string);
    if (csn_doc_seen_before(root, item)) return CSN_ERR_BAD_VALUE;
    if (csn_span_is(key, "prompt")) {
      has_prompt = true;
      err = csn_doc_text(item, 1, CSN_PROMPT_MAX, &out->prompt);
    } else if (csn_span_is(key, "command")) {
      out->is_command = true;
      err = csn_doc_text(item, 1, CSN_COMMAND_MAX, &out->command);
    } else if (csn_span_is(key, "model")) {
      has_model = true;
      err = read_model(item, &out->model);
    } else if (csn_span_is(key, "max_turns")) {
      has_max_turns = true;
      err = csn_doc_number(item, 1, CSN_MAX_TURNS_MAX, &out->max_turns);
    } else if (csn_span_is(key, "timeout_s")) {
      err = csn_doc_number(item, CSN_TIMEOUT_S_MIN, CSN_TIMEOUT_S_MAX, &out->timeout_s);
    } else if (csn_span_is(key, "resume")) {
      if (!cJSON_IsBool(item)) return CSN_ERR_BAD_TYPE;
      out->resume = cJSON_IsTrue(item);
    } else {
      err = CSN_ERR_UNKNOWN_FIELD;
    }
    if (err != CSN_ERR_OK) return err;
  }
  if (err != CSN_ERR_OK) return err;
  csn_pointer_set(bad, "/prompt");
  if (!has_prompt && !out->is_command) return CSN_ERR_MISSING_FIELD;
  if (has_prompt && agent == CSN_AGENT_SHELL) return CSN_ERR_BAD_VALUE;
  csn_pointer_set(bad, "/command");
  if (has_prompt && out->is_command) return CSN_ERR_BAD_VALUE;
  /* What only an agent understands has no meaning beside a command. */
  if (out->is_command && (has_model || has_max_turns)) {
    csn_pointer_set(bad, has_model ? "/model" : "/max_turns");
    return CSN_ERR_BAD_VALUE;
  }
  return CSN_ERR_OK;
}
