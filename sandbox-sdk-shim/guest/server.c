/* guest/server.c - HTTP front: route table, bodies, replies. */
#define _GNU_SOURCE
#include "guest.h"

#include <event2/bufferevent.h>
#include <event2/keyvalq_struct.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

static const route *const route_groups[] = {misc_routes, exec_routes,    process_routes,
                                            file_routes, session_routes, git_routes};

/* code -> HTTP status; a code that is not here is 500. */
static const struct {
  const char *code;
  int status;
} error_status[] = {
    {"FILE_NOT_FOUND", 404},
    {"COMMAND_NOT_FOUND", 404},
    {"PROCESS_NOT_FOUND", 404},
    {"UNKNOWN_ERROR", 404},
    {"IS_DIRECTORY", 400},
    {"NOT_DIRECTORY", 400},
    {"INVALID_COMMAND", 400},
    {"NAME_TOO_LONG", 400},
    {"VALIDATION_FAILED", 400},
    {"PERMISSION_DENIED", 403},
    {"READ_ONLY", 403},
    {"FILE_EXISTS", 409},
    {"RESOURCE_BUSY", 409},
    {"SESSION_ALREADY_EXISTS", 409},
    {"SESSION_DESTROYED", 410},
    {"SESSION_TERMINATED", 410},
    {"FILE_TOO_LARGE", 413},
    {"INVALID_GIT_URL", 400},
    {"GIT_AUTH_FAILED", 401},
    {"GIT_REPOSITORY_NOT_FOUND", 404},
    {"GIT_BRANCH_NOT_FOUND", 404},
    {"GIT_NETWORK_ERROR", 502},
    {"INVALID_BACKUP_CONFIG", 400},
    {"CONTEXT_NOT_FOUND", 404},
    {"PYTHON_NOT_AVAILABLE", 501},
    {"JAVASCRIPT_NOT_AVAILABLE", 501},
};

static void add_headers(struct evhttp_request *req, const char *type) {
  struct evkeyvalq *out = evhttp_request_get_output_headers(req);
  evhttp_add_header(out, "Content-Type", type);
  evhttp_add_header(out, "Access-Control-Allow-Origin", "*");
  evhttp_add_header(out, "Access-Control-Allow-Methods", "GET, POST, PUT, DELETE, OPTIONS");
  evhttp_add_header(out, "Access-Control-Allow-Headers",
                    "Content-Type, Authorization, X-Session-Id, X-Sandbox-Id, X-Trace-Id");
}

static void free_ref(const void *data, size_t len, void *arg) {
  (void)len;
  (void)arg;
  free((void *)(uintptr_t)data);
}

/* Moves the bytes into an evbuffer without a copy. */
static struct evbuffer *to_evbuffer(csn_buf *b) {
  struct evbuffer *ev = evbuffer_new();
  if (ev == NULL) abort();
  if (b->len > 0 && evbuffer_add_reference(ev, b->p, b->len, free_ref, NULL) == 0)
    *b = (csn_buf){0};
  else
    csn_buf_free(b);
  return ev;
}

void reply_json(struct evhttp_request *req, int status, csn_buf *json) {
  add_headers(req, "application/json");
  struct evbuffer *ev = to_evbuffer(json);
  evhttp_send_reply(req, status, NULL, ev);
  evbuffer_free(ev);
}

void add_timestamp(csn_buf *b) {
  char iso[32];
  csn_iso_time(iso, csn_wall_ms());
  csn_buf_fmt(b, "\"timestamp\":\"%s\"", iso);
}

void reply_stamped(struct evhttp_request *req, csn_buf *json) {
  add_timestamp(json);
  csn_buf_str(json, "}");
  reply_json(req, 200, json);
}

void reply_error(struct evhttp_request *req, const char *code, const char *context, const char *fmt, ...) {
  int status = 500;
  for (size_t i = 0; i < sizeof error_status / sizeof error_status[0]; i++)
    if (strcmp(code, error_status[i].code) == 0) status = error_status[i].status;
  char *message = NULL;
  va_list ap;
  va_start(ap, fmt);
  if (vasprintf(&message, fmt, ap) < 0) abort();
  va_end(ap);
  csn_buf b = {0};
  csn_buf_fmt(&b, "{\"code\":\"%s\",\"message\":", code);
  csn_json_cstr(&b, message);
  csn_buf_fmt(&b, ",\"context\":%s,\"httpStatus\":%d,", context == NULL ? "{}" : context, status);
  add_timestamp(&b);
  csn_buf_str(&b, "}");
  free(message);
  reply_json(req, status, &b);
}

void reply_invalid(struct evhttp_request *req, const char *field, const char *message) {
  csn_buf ctx = {0};
  csn_buf_str(&ctx, "{\"validationErrors\":[{\"field\":");
  csn_json_cstr(&ctx, field);
  csn_buf_str(&ctx, ",\"message\":");
  csn_json_cstr(&ctx, message);
  csn_buf_str(&ctx, ",\"code\":\"invalid\"}]}");
  reply_error(req, "VALIDATION_FAILED", csn_buf_cstr(&ctx), "%s: %s", field, message);
  csn_buf_free(&ctx);
}

const char *body_text(const call *c, const char *name) {
  return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(c->body, name));
}

bool ok_text(call *c, const char *name, bool required, size_t max_len) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(c->body, name);
  if (v == NULL || cJSON_IsNull(v)) {
    if (required) reply_invalid(c->req, name, "is required");
    return !required;
  }
  if (!cJSON_IsString(v)) {
    reply_invalid(c->req, name, "must be a string");
    return false;
  }
  if (strlen(v->valuestring) > max_len) {
    reply_invalid(c->req, name, "is too long");
    return false;
  }
  return true;
}

bool body_ms(call *c, const char *name, int64_t *out) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(c->body, name);
  *out = 0;
  if (v == NULL || cJSON_IsNull(v)) return true;
  if (!cJSON_IsNumber(v) || !(v->valuedouble >= 0 && v->valuedouble <= 4e9)) {
    reply_invalid(c->req, name, "must be a number of milliseconds");
    return false;
  }
  *out = (int64_t)v->valuedouble;
  return true;
}

/* ---- replies in pieces ---- */

static void sse_drained(struct evhttp_connection *conn, void *arg) {
  (void)conn;
  sse *s = arg;
  s->busy = false;
  s->more(s->arg);
}

static void sse_closed(struct evhttp_connection *conn, void *arg) {
  (void)conn;
  sse *s = arg;
  struct evhttp_request *req = s->req;
  s->req = NULL;
  s->busy = false;
  /* Off its connection already: ending the reply only frees the request. Still on it: the
   * connection frees it. */
  if (req != NULL && evhttp_request_get_connection(req) == NULL) evhttp_send_reply_end(req);
  s->gone(s->arg);
}

void sse_start(sse *s, struct evhttp_request *req) {
  s->req = req;
  s->busy = false;
  add_headers(req, "text/event-stream");
  evhttp_add_header(evhttp_request_get_output_headers(req), "Cache-Control", "no-cache");
  struct evhttp_connection *conn = evhttp_request_get_connection(req);
  if (conn != NULL) evhttp_connection_set_closecb(conn, sse_closed, s);
  evhttp_send_reply_start(req, 200, NULL);
}

void sse_send(sse *s, csn_buf *piece) {
  if (piece->len == 0 || s->req == NULL) {
    csn_buf_free(piece);
    return;
  }
  struct evbuffer *ev = to_evbuffer(piece);
  s->busy = true;
  evhttp_send_reply_chunk_with_cb(s->req, ev, sse_drained, s);
  evbuffer_free(ev);
}

void sse_end(sse *s) {
  struct evhttp_request *req = s->req;
  s->req = NULL;
  if (req == NULL) return;
  struct evhttp_connection *conn = evhttp_request_get_connection(req);
  if (conn != NULL) evhttp_connection_set_closecb(conn, NULL, NULL);
  evhttp_send_reply_end(req);
}

/* ---- dispatch ---- */

/* Matches `path` to a route's pattern; *arg and *arg_len give the segment for `*`. */
static bool route_matches(const char *pattern, const char *path, const char **arg, size_t *arg_len) {
  *arg = NULL;
  *arg_len = 0;
  while (*pattern != '\0') {
    if (*pattern == '*') {
      *arg = path;
      *arg_len = strcspn(path, "/");
      if (*arg_len == 0) return false;
      path += *arg_len;
      pattern++;
    } else if (*pattern++ != *path++) {
      return false;
    }
  }
  return *path == '\0';
}

static void run_route(const route *r, struct evhttp_request *req, const char *arg, size_t arg_len) {
  call c = {.req = req};
  if (r->method == EVHTTP_REQ_POST) {
    struct evbuffer *in = evhttp_request_get_input_buffer(req);
    size_t len = evbuffer_get_length(in);
    const char *text = len == 0 ? "" : (const char *)evbuffer_pullup(in, -1);
    c.body = cJSON_ParseWithLength(text, len);
    /* A large body stands in memory twice while it is parsed; drop the first at once. */
    evbuffer_drain(in, len);
    if (!cJSON_IsObject(c.body)) {
      cJSON_Delete(c.body);
      reply_error(req, "INTERNAL_ERROR", "{\"stack\":\"\"}",
                  "Failed to parse request body: not a JSON object");
      return;
    }
  }
  if (arg != NULL) {
    char *raw = strndup(arg, arg_len);
    if (raw == NULL) abort();
    c.arg = evhttp_uridecode(raw, 0, NULL);
    free(raw);
  }
  r->handle(&c);
  cJSON_Delete(c.body);
  free(c.arg);
}

static void on_request(struct evhttp_request *req, void *unused) {
  (void)unused;
  const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
  const char *path = uri == NULL ? NULL : evhttp_uri_get_path(uri);
  if (path == NULL) {
    /* evhttp reports a request it could not read (too long, malformed) without a URI. */
    evhttp_send_error(req, HTTP_BADREQUEST, NULL);
    return;
  }
  if (*path == '\0') path = "/";
  for (size_t g = 0; g < sizeof route_groups / sizeof route_groups[0]; g++) {
    for (const route *r = route_groups[g]; r->path != NULL; r++) {
      const char *arg;
      size_t arg_len;
      if ((uint32_t)evhttp_request_get_command(req) != r->method) continue;
      if (!route_matches(r->path, path, &arg, &arg_len)) continue;
      run_route(r, req, arg, arg_len);
      return;
    }
  }
  reply_error(req, "UNKNOWN_ERROR", NULL, "The requested endpoint was not found");
}

static struct bufferevent *make_bufferevent(struct event_base *base, void *unused) {
  (void)unused;
  struct bufferevent *bev = bufferevent_socket_new(base, -1, BEV_OPT_CLOSE_ON_FREE);
  if (bev != NULL) {
    bufferevent_set_max_single_read(bev, 256 * 1024);
    bufferevent_set_max_single_write(bev, 1024 * 1024);
  }
  return bev;
}

void server_init(int listen_fd) {
  struct evhttp *http = evhttp_new(guest_base);
  if (http == NULL || evutil_make_socket_nonblocking(listen_fd) < 0) abort();
  evhttp_set_gencb(http, on_request, NULL);
  evhttp_set_bevcb(http, make_bufferevent, NULL);
  evhttp_set_max_headers_size(http, 64 * 1024);
  evhttp_set_max_body_size(http, GUEST_BODY_MAX);
  evhttp_set_allowed_methods(http, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_PUT | EVHTTP_REQ_DELETE |
                                       EVHTTP_REQ_HEAD | EVHTTP_REQ_OPTIONS);
  /* Commands may run for hours between two bytes; a client that goes away closes its
   * socket, which the loopback never loses. */
  struct timeval forever = {10 * 365 * 86400, 0};
  evhttp_set_timeout_tv(http, &forever);
  if (evhttp_accept_socket(http, listen_fd) != 0) abort();
}
