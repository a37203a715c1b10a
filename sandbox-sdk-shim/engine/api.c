/* engine/api.c - the HTTP API on loopback. */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <event2/keyvalq_struct.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

void random_token(char *out) {
  uint8_t bytes[32];
  if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes) abort();
  csn_buf b = {0};
  csn_b64_encode(&b, bytes, sizeof bytes);
  for (size_t i = 0; i < ENGINE_TOKEN_CHARS; i++)
    out[i] = b.p[i] == '+' ? '-' : b.p[i] == '/' ? '_' : b.p[i];
  out[ENGINE_TOKEN_CHARS] = '\0';
  csn_buf_free(&b);
}

void api_json(struct evhttp_request *req, int status, csn_buf *json) {
  evhttp_add_header(evhttp_request_get_output_headers(req), "Content-Type", "application/json");
  struct evbuffer *body = evbuffer_new();
  if (body == NULL) abort();
  evbuffer_add(body, json->p, json->len);
  csn_buf_free(json);
  evhttp_send_reply(req, status, NULL, body);
  evbuffer_free(body);
}

void api_error(struct evhttp_request *req, int status, const char *code, const char *fmt, ...) {
  char *message = NULL;
  va_list ap;
  va_start(ap, fmt);
  if (vasprintf(&message, fmt, ap) < 0) abort();
  va_end(ap);
  csn_buf b = {0};
  csn_buf_fmt(&b, "{\"error\":{\"code\":\"%s\",\"message\":", code);
  csn_json_cstr(&b, message);
  csn_buf_str(&b, "}}");
  free(message);
  api_json(req, status, &b);
}

/* What a handler gets: the path's variable parts, already checked. */
typedef struct api_call {
  struct evhttp_request *req;
  char name[ENGINE_NAME_MAX + 1];
  sandbox *sb; /* NULL when there is none of that name */
  unsigned port;
  const cJSON *body; /* NULL without one */
} api_call;

static void get_health(api_call *c) {
  csn_buf b = {0};
  csn_buf_fmt(&b, "{\"ok\":true,\"version\":\"" ENGINE_VERSION "\",\"sandboxes\":%zu,\"spares\":%zu}",
              sandbox_count(), spare_count());
  api_json(c->req, 200, &b);
}

static void get_templates(api_call *c) {
  csn_buf b = {0};
  csn_buf_str(&b, "{\"templates\":");
  templates_json(&b);
  csn_buf_str(&b, "}");
  api_json(c->req, 200, &b);
}

static void get_sandboxes(api_call *c) {
  csn_buf b = {0};
  csn_buf_str(&b, "{\"sandboxes\":[");
  for (const sandbox *sb = sandbox_first(); sb != NULL; sb = sb->next) {
    if (sb != sandbox_first()) csn_buf_str(&b, ",");
    describe(sb, false, &b);
  }
  csn_buf_str(&b, "]}");
  api_json(c->req, 200, &b);
}

static void get_sandbox(api_call *c) {
  csn_buf b = {0};
  describe(c->sb, true, &b);
  api_json(c->req, 200, &b);
}

static void put_sandbox(api_call *c) {
  sandbox_put(c->name, c->body, c->req);
}

static void delete_sandbox(api_call *c) {
  if (c->sb != NULL) {
    sandbox_delete(c->sb, c->req);
    return;
  }
  csn_buf b = {0};
  csn_buf_fmt(&b, "{\"name\":\"%s\",\"running\":false}", c->name);
  api_json(c->req, 200, &b);
}

static void get_wait(api_call *c) {
  const char *query = evhttp_uri_get_query(evhttp_request_get_evhttp_uri(c->req));
  struct evkeyvalq params;
  unsigned long long generation = c->sb->generation;
  if (query != NULL && evhttp_parse_query_str(query, &params) == 0) {
    const char *text = evhttp_find_header(&params, "generation");
    if (text != NULL) generation = strtoull(text, NULL, 10);
    evhttp_clear_headers(&params);
  }
  if (generation == c->sb->generation) {
    sandbox_wait(c->sb, c->req);
    return;
  }
  /* An earlier one ended before this one began; how is no longer known. */
  if (generation > c->sb->generation) {
    api_error(c->req, 404, "NOT_FOUND", "no generation %llu of sandbox %s", generation, c->name);
    return;
  }
  csn_buf b = {0};
  csn_buf_str(&b, "{\"exit_code\":null,\"signal\":null,\"reason\":\"destroyed\"}");
  api_json(c->req, 200, &b);
}

static void put_egress(api_call *c) {
  const char *wrong = egress_parse(c->body, &c->sb->egress);
  if (wrong == NULL) egress_changed(c->sb);
  if (wrong != NULL) {
    api_error(c->req, 400, "BAD_REQUEST", "%s", wrong);
    return;
  }
  get_sandbox(c);
}

static void get_egress_log(api_call *c) {
  const char *query = evhttp_uri_get_query(evhttp_request_get_evhttp_uri(c->req));
  struct evkeyvalq params;
  unsigned long long after = 0;
  if (query != NULL && evhttp_parse_query_str(query, &params) == 0) {
    const char *text = evhttp_find_header(&params, "after");
    if (text != NULL) after = strtoull(text, NULL, 10);
    evhttp_clear_headers(&params);
  }
  csn_buf b = {0};
  egress_log_print(c->sb, after, &b);
  struct evbuffer *body = evbuffer_new();
  if (body == NULL) abort();
  evbuffer_add(body, b.p, b.len);
  csn_buf_free(&b);
  evhttp_add_header(evhttp_request_get_output_headers(c->req), "Content-Type", "application/x-ndjson");
  evhttp_send_reply(c->req, 200, NULL, body);
  evbuffer_free(body);
}

static void post_signal(api_call *c) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(c->body, "signal");
  if (!cJSON_IsNumber(v) || v->valueint < 1 || v->valueint > 64) {
    api_error(c->req, 400, "BAD_REQUEST", "signal must be a number from 1 to 64");
    return;
  }
  int err = sandbox_signal(c->sb, v->valueint);
  if (err != 0)
    api_error(c->req, err == ESRCH ? 409 : 500, err == ESRCH ? "NOT_RUNNING" : "INTERNAL", "%s",
              strerror(err));
  else
    get_sandbox(c);
}

static void get_port(api_call *c) {
  if (c->sb->state != SB_RUNNING && c->sb->state != SB_STARTING) {
    api_error(c->req, 409, "NOT_RUNNING", "sandbox %s is not running", c->name);
    return;
  }
  unsigned host_port = ports_open(c->sb, c->port);
  if (host_port == 0) {
    api_error(c->req, 500, "INTERNAL", "cannot listen: %s", strerror(errno));
    return;
  }
  csn_buf b = {0};
  csn_buf_fmt(&b, "{\"port\":%u,\"token\":\"%s\"}", host_port, c->sb->port_token);
  api_json(c->req, 200, &b);
}

/* `%` stands for a sandbox's name, `#` for a port. */
static const struct api_route {
  const char *path;
  enum evhttp_cmd_type method;
  bool must_exist, has_body;
  void (*handle)(api_call *c);
} api_routes[] = {
    {"/v1/health", EVHTTP_REQ_GET, false, false, get_health},
    {"/v1/sandboxes", EVHTTP_REQ_GET, false, false, get_sandboxes},
    {"/v1/templates", EVHTTP_REQ_GET, false, false, get_templates},
    {"/v1/sandboxes/%", EVHTTP_REQ_PUT, false, true, put_sandbox},
    {"/v1/sandboxes/%", EVHTTP_REQ_GET, true, false, get_sandbox},
    {"/v1/sandboxes/%", EVHTTP_REQ_DELETE, false, false, delete_sandbox},
    {"/v1/sandboxes/%/wait", EVHTTP_REQ_GET, true, false, get_wait},
    {"/v1/sandboxes/%/egress", EVHTTP_REQ_PUT, true, true, put_egress},
    {"/v1/sandboxes/%/egress/log", EVHTTP_REQ_GET, true, false, get_egress_log},
    {"/v1/sandboxes/%/signal", EVHTTP_REQ_POST, true, true, post_signal},
    {"/v1/sandboxes/%/ports/#", EVHTTP_REQ_GET, true, false, get_port},
};

typedef enum match { MATCH_NO, MATCH_YES, MATCH_BAD_NAME, MATCH_BAD_PORT } match;

static match match_path(const char *pattern, const char *path, api_call *c) {
  match result = MATCH_YES;
  for (; *pattern != '\0'; pattern++) {
    if (*pattern != '%' && *pattern != '#') {
      if (*path++ != *pattern) return MATCH_NO;
      continue;
    }
    char room[ENGINE_NAME_MAX + 2];
    size_t n = strcspn(path, "/");
    snprintf(room, sizeof room, "%.*s", (int)(n < sizeof room ? n : sizeof room - 1), path);
    path += n;
    if (*pattern == '%') {
      if (name_ok(room))
        memcpy(c->name, room, n + 1);
      else
        result = MATCH_BAD_NAME;
    } else if (!port_ok(room, &c->port)) {
      result = MATCH_BAD_PORT;
    }
  }
  return *path == '\0' ? result : MATCH_NO;
}

static bool authorized(struct evhttp_request *req) {
  const char *h = evhttp_find_header(evhttp_request_get_input_headers(req), "Authorization");
  return h != NULL && strncmp(h, "Bearer ", 7) == 0 && csn_ct_equal(h + 7, cfg.token);
}

static void run(const struct api_route *r, api_call *c) {
  if (r->must_exist && c->sb == NULL) {
    api_error(c->req, 404, "NOT_FOUND", "no sandbox %s", c->name);
    return;
  }
  cJSON *body = NULL;
  if (r->has_body) {
    struct evbuffer *in = evhttp_request_get_input_buffer(c->req);
    size_t len = evbuffer_get_length(in);
    body =
        len == 0 ? cJSON_CreateObject() : cJSON_ParseWithLength((const char *)evbuffer_pullup(in, -1), len);
    if (!cJSON_IsObject(body)) {
      cJSON_Delete(body);
      api_error(c->req, 400, "BAD_JSON", "the body is not a JSON object");
      return;
    }
    c->body = body;
  }
  r->handle(c);
  cJSON_Delete(body);
}

static void on_request(struct evhttp_request *req, void *unused) {
  (void)unused;
  const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
  const char *path = uri == NULL ? NULL : evhttp_uri_get_path(uri);
  if (path == NULL) {
    evhttp_send_error(req, HTTP_BADREQUEST, NULL);
    return;
  }
  if (!authorized(req)) {
    api_error(req, 401, "UNAUTHORIZED", "missing or wrong token");
    return;
  }
  bool other_method = false;
  for (size_t i = 0; i < sizeof api_routes / sizeof api_routes[0]; i++) {
    api_call c = {.req = req};
    match m = match_path(api_routes[i].path, path, &c);
    if (m == MATCH_NO) continue;
    if (api_routes[i].method != evhttp_request_get_command(req)) {
      other_method = true;
      continue;
    }
    /* Who looks whether there are spares yet is not to put them off. */
    if (api_routes[i].handle != get_health) spare_quiet();
    if (m == MATCH_BAD_NAME) {
      api_error(req, 400, "BAD_NAME", "a sandbox name is 1 to 64 of a-z 0-9 _ -");
    } else if (m == MATCH_BAD_PORT) {
      api_error(req, 400, "BAD_PORT", "a port is a number from 1 to 65535");
    } else {
      c.sb = c.name[0] == '\0' ? NULL : sandbox_find(c.name);
      if (c.sb != NULL) c.sb->used_ms = csn_now_ms();
      run(&api_routes[i], &c);
    }
    return;
  }
  if (other_method)
    api_error(req, 405, "METHOD_NOT_ALLOWED", "not with this method");
  else
    api_error(req, 404, "NOT_FOUND", "no such endpoint");
}

void api_init(int listen_fd) {
  struct evhttp *http = evhttp_new(base);
  if (http == NULL || evhttp_accept_socket(http, listen_fd) != 0) abort();
  evhttp_set_gencb(http, on_request, NULL);
  evhttp_set_max_headers_size(http, 32 * 1024);
  evhttp_set_max_body_size(http, ENGINE_BODY_MAX);
  evhttp_set_allowed_methods(http, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_PUT | EVHTTP_REQ_DELETE |
                                       EVHTTP_REQ_HEAD | EVHTTP_REQ_OPTIONS | EVHTTP_REQ_PATCH);
  /* `wait` holds a request as long as its sandbox lives. */
  struct timeval forever = {10 * 365 * 86400, 0};
  evhttp_set_timeout_tv(http, &forever);
}
