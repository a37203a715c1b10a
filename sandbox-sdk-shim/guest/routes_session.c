/* guest/routes_session.c - /api/session. */
#include "guest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void add_placement(csn_buf *b) {
  const char *id = getenv("CLOUDFLARE_PLACEMENT_ID");
  csn_buf_str(b, "\"containerPlacementId\":");
  if (id == NULL)
    csn_buf_str(b, "null");
  else
    csn_json_cstr(b, id);
}

static void post_create(call *c) {
  int64_t timeout_ms;
  if (!ok_text(c, "id", false, GUEST_ID_MAX) || !ok_text(c, "cwd", false, GUEST_PATH_MAX) ||
      !body_ms(c, "commandTimeoutMs", &timeout_ms))
    return;
  const char *id = body_text(c, "id");
  if (id == NULL) id = "default";
  const cJSON *env = cJSON_GetObjectItemCaseSensitive(c->body, "env");
  const char *bad;
  char **check = env_make(env, &bad);
  if (check == NULL) {
    reply_invalid(c->req, "env", "a name or value is not valid");
    return;
  }
  env_free(check);
  csn_buf ctx = {0};
  csn_buf_str(&ctx, "{\"sessionId\":");
  csn_json_cstr(&ctx, id);
  csn_buf_str(&ctx, ",");
  add_placement(&ctx);
  csn_buf_str(&ctx, "}");
  if (session_find(id) != NULL) {
    reply_error(c->req, "SESSION_ALREADY_EXISTS", csn_buf_cstr(&ctx), "Session '%s' already exists", id);
  } else if (session_create(id, body_text(c, "cwd"), env, timeout_ms) == NULL) {
    reply_error(c->req, "INTERNAL_ERROR", csn_buf_cstr(&ctx), "Failed to create session '%s': %s", id,
                strerror(errno));
  } else {
    csn_buf b = {0};
    csn_buf_str(&b, "{\"success\":true,\"data\":{\"id\":");
    csn_json_cstr(&b, id);
    csn_buf_str(&b, "},");
    add_placement(&b);
    csn_buf_str(&b, ",");
    reply_stamped(c->req, &b);
  }
  csn_buf_free(&ctx);
}

static void get_list(call *c) {
  csn_buf b = {0};
  csn_buf_str(&b, "{\"success\":true,\"data\":");
  session_list(&b);
  csn_buf_str(&b, ",");
  reply_stamped(c->req, &b);
}

static void post_delete(call *c) {
  if (!ok_text(c, "sessionId", true, GUEST_ID_MAX)) return;
  const char *id = body_text(c, "sessionId");
  csn_buf b = {0};
  if (!session_delete(id)) {
    csn_buf_str(&b, "{\"sessionId\":");
    csn_json_cstr(&b, id);
    csn_buf_str(&b, ",\"originalError\":\"Session not found\"}");
    reply_error(c->req, "INTERNAL_ERROR", csn_buf_cstr(&b), "Session '%s' not found", id);
    csn_buf_free(&b);
    return;
  }
  csn_buf_str(&b, "{\"success\":true,\"sessionId\":");
  csn_json_cstr(&b, id);
  csn_buf_str(&b, ",");
  reply_stamped(c->req, &b);
}

const route session_routes[] = {
    {METHOD_POST, "/api/session/create", post_create},
    {METHOD_GET, "/api/session/list", get_list},
    {METHOD_POST, "/api/session/delete", post_delete},
    {0, NULL, NULL},
};
