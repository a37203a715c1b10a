/* guest/routes_interp.c - the code interpreter's routes. */
#define _GNU_SOURCE
#include "interp.h"

#include "tool.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The real server's shape, {error, code, details}, with the members of every other error beside them. */
static void not_found(exchange *x, const char *id) {
  csn_buf b = {0}, text = {0};
  csn_buf_fmt(&text, "Context %.100s not found", id);
  csn_buf_str(&b, "{\"error\":");
  csn_json_cstr(&b, csn_buf_cstr(&text));
  csn_buf_str(&b, ",\"code\":\"CONTEXT_NOT_FOUND\",\"message\":");
  csn_json_cstr(&b, text.p);
  csn_buf_str(&b, ",\"details\":{\"contextId\":");
  csn_json_cstr(&b, id);
  csn_buf_str(&b, "},\"context\":{\"contextId\":");
  csn_json_cstr(&b, id);
  csn_buf_str(&b, "},\"httpStatus\":404,");
  add_timestamp(&b);
  csn_buf_str(&b, "}");
  csn_buf_free(&text);
  reply_json(x, 404, &b);
}

static void post_contexts(call *c) {
  if (!ok_text(c, "language", false, 32) || !ok_text(c, "cwd", false, GUEST_PATH_MAX)) return;
  const char *name = body_text(c, "language"), *cwd = body_text(c, "cwd");
  enum interp_language language = interp_language_of(name == NULL || *name == '\0' ? "python" : name);
  if (language == LANGUAGE_NONE) {
    reply_invalid(c->req, "language", "must be python, javascript or typescript");
    return;
  }
  if (cwd == NULL || *cwd == '\0') cwd = "/workspace";
  struct stat st;
  if (*cwd != '/' || stat(cwd, &st) != 0 || !S_ISDIR(st.st_mode)) {
    reply_invalid(c->req, "cwd", "must be the absolute path of a directory");
    return;
  }
  size_t count = 0;
  for (const context *k = interp_first(); k != NULL; k = k->next)
    count++;
  if (count >= INTERP_CONTEXTS_MAX) {
    reply_error(c->req, "RESOURCE_BUSY", NULL, "There are %u code contexts; delete one first",
                INTERP_CONTEXTS_MAX);
    return;
  }
  const cJSON *over = cJSON_GetObjectItemCaseSensitive(c->body, "env_vars");
  const char *bad;
  char **env = over == NULL || cJSON_IsNull(over) || cJSON_IsObject(over) ? env_make(over, &bad) : NULL;
  if (env == NULL)
    reply_invalid(c->req, "env_vars", "a name or value is not valid");
  else
    interp_create(c->req, language, cwd, env);
}

static void get_contexts(call *c) {
  csn_buf b = {0};
  bool first = true;
  csn_buf_str(&b, "{\"success\":true,\"contexts\":[");
  for (const context *k = interp_first(); k != NULL; k = k->next) {
    csn_buf_fmt(&b, "%s{\"id\":\"%s\",\"language\":\"%s\",\"cwd\":", first ? "" : ",", k->id,
                interp_language_name(k->language));
    csn_json_cstr(&b, k->cwd);
    csn_buf_str(&b, "}");
    first = false;
  }
  csn_buf_str(&b, "],");
  reply_stamped(c->req, &b);
}

static void delete_context(call *c) {
  context *k = interp_find(c->arg);
  if (k == NULL)
    not_found(c->req, c->arg);
  else
    interp_delete(k, c->req);
}

static void post_code(call *c) {
  int64_t timeout_ms;
  if (!ok_text(c, "context_id", true, GUEST_ID_MAX) || !ok_text(c, "code", true, INTERP_CODE_MAX) ||
      !ok_text(c, "language", false, 32) || !body_ms(c, "timeout_ms", &timeout_ms))
    return;
  context *k = interp_find(body_text(c, "context_id"));
  if (k == NULL) {
    not_found(c->req, body_text(c, "context_id"));
    return;
  }
  const char *name = body_text(c, "language");
  if (name != NULL && *name != '\0' && interp_language_of(name) != k->language) {
    reply_error(c->req, "VALIDATION_FAILED", NULL,
                "Context %s was created for %s and does not run %.32s code", k->id,
                interp_language_name(k->language), name);
    return;
  }
  if (timeout_ms == 0) timeout_ms = env_ms("INTERPRETER_EXECUTION_TIMEOUT_MS");
  interp_execute(k, c->req, body_text(c, "code"), timeout_ms);
}

static void get_health(call *c) {
  csn_buf b = {0};
  bool python = tool_find("python3") != NULL;
  bool node = tool_find("node") != NULL;
  csn_buf_fmt(&b, "{\"success\":true,\"status\":\"healthy\",\"python\":%s,\"node\":%s,",
              python ? "true" : "false", node ? "true" : "false");
  reply_stamped(c->req, &b);
}

const route interp_routes[] = {
    {METHOD_POST, "/api/contexts", post_contexts},       {METHOD_GET, "/api/contexts", get_contexts},
    {METHOD_DELETE, "/api/contexts/*", delete_context},  {METHOD_POST, "/api/execute/code", post_code},
    {METHOD_GET, "/api/interpreter/health", get_health}, {0, NULL, NULL},
};
