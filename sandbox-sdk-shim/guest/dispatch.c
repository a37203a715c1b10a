/* guest/dispatch.c - see exchange.h: from a request's target and body to its handler. */
#define _GNU_SOURCE
#include "exchange.h"

#include <stdlib.h>
#include <string.h>

struct inbound {
  exchange *x;
  const route *r;      /* NULL: none fits, or a sink */
  const sink_route *s; /* NULL: none */
  void *sink;          /* what its begin() returned */
  char *arg;
  csn_buf body;
  bool bad_target, too_large;
};

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool percent_decode(char *s) {
  char *to = s;
  for (const char *at = s; *at != '\0'; at++) {
    if (*at != '%') {
      *to++ = *at;
      continue;
    }
    int high = hex_digit(at[1]), low = high < 0 ? -1 : hex_digit(at[2]);
    if (low < 0 || high + low == 0) return false;
    *to++ = (char)(high * 16 + low);
    at += 2;
  }
  *to = '\0';
  return true;
}

bool has_nul_escape(const char *json, size_t len) {
  if (len == 0) return false;
  const char *at = json, *end = json + len;
  while ((at = memmem(at, (size_t)(end - at), "\\u0000", 6)) != NULL) {
    size_t slashes = 1;
    while (at - slashes >= json && at[-(ptrdiff_t)slashes] == '\\')
      slashes++;
    if (slashes % 2 == 1) return true; /* otherwise the backslash itself is escaped */
    at += 6;
  }
  return false;
}

char *call_query(const call *c, const char *name) {
  size_t name_len = strlen(name);
  for (const char *at = c->req->query; at != NULL && *at != '\0';) {
    size_t len = strcspn(at, "&");
    if (len > name_len && strncmp(at, name, name_len) == 0 && at[name_len] == '=') {
      char *value = strndup(at + name_len + 1, len - name_len - 1);
      if (value == NULL) abort();
      for (char *p = value; *p != '\0'; p++)
        if (*p == '+') *p = ' ';
      if (percent_decode(value)) return value;
      free(value);
      return NULL;
    }
    at += len + (at[len] == '&');
  }
  return NULL;
}

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

static void find_route(inbound *in, int method, const char *path) {
  const char *arg;
  size_t arg_len;
  for (const sink_route *s = sink_routes; s->path != NULL; s++) {
    if (s->method != method || !route_matches(s->path, path, &arg, &arg_len)) continue;
    in->s = s;
    return;
  }
  for (const route *const *group = route_groups; *group != NULL; group++) {
    for (const route *r = *group; r->path != NULL; r++) {
      if (r->method != method || !route_matches(r->path, path, &arg, &arg_len)) continue;
      in->r = r;
      if (arg == NULL) return;
      in->arg = strndup(arg, arg_len);
      if (in->arg == NULL) abort();
      in->bad_target = !percent_decode(in->arg);
      return;
    }
  }
}

inbound *inbound_new(exchange *x, int method, const char *target) {
  inbound *in = calloc(1, sizeof *in);
  size_t path_len = strcspn(target, "?#");
  char *path = strndup(path_len == 0 ? "/" : target, path_len == 0 ? 1 : path_len);
  if (in == NULL || path == NULL) abort();
  in->x = x;
  if (target[path_len] == '?') {
    x->query = strndup(target + path_len + 1, strcspn(target + path_len + 1, "#"));
    if (x->query == NULL) abort();
  }
  find_route(in, method, path);
  free(path);
  if (in->s != NULL) in->sink = in->s->begin(x);
  return in;
}

void inbound_expect(inbound *in, uint64_t len) {
  /* Only memory that is likely to be used: a client may announce more than it sends. */
  if (in->r != NULL && in->body.cap == 0 && len <= 1024 * 1024) csn_buf_room(&in->body, (size_t)len + 1);
}

void inbound_body(inbound *in, const char *bytes, size_t len) {
  if (in->s != NULL) {
    in->s->data(in->sink, bytes, len);
  } else if (in->r == NULL || in->r->method != METHOD_POST) {
    return; /* read and forgotten */
  } else if (in->too_large || len > GUEST_BODY_MAX - in->body.len) {
    in->too_large = true;
    csn_buf_free(&in->body);
  } else {
    csn_buf_add(&in->body, bytes, len);
  }
}

static void free_inbound(inbound *in) {
  csn_buf_free(&in->body);
  free(in->arg);
  free(in);
}

/* Parses the body of a POST; false, and the error sent, when there is none that a handler could use. */
static bool parse_body(inbound *in, call *c) {
  if (in->too_large) {
    reply_error(in->x, "REQUEST_TOO_LARGE", NULL, "The request body is larger than %u bytes", GUEST_BODY_MAX);
    return false;
  }
  /* cJSON ends a string at U+0000: a command or a path would be cut and mean something else. */
  if (has_nul_escape(in->body.p, in->body.len)) {
    reply_invalid(in->x, "body", "must not contain the character U+0000");
    return false;
  }
  c->body = cJSON_ParseWithLength(in->body.len == 0 ? "" : in->body.p, in->body.len);
  csn_buf_free(&in->body);
  if (cJSON_IsObject(c->body)) return true;
  cJSON_Delete(c->body);
  reply_error(in->x, "INTERNAL_ERROR", "{\"stack\":\"\"}", "Failed to parse request body: not a JSON object");
  return false;
}

void inbound_end(inbound *in) {
  call c = {.req = in->x};
  if (in->s != NULL) {
    in->s->end(in->sink);
  } else if (in->r == NULL) {
    reply_error(in->x, "UNKNOWN_ERROR", NULL, "The requested endpoint was not found");
  } else if (in->bad_target) {
    reply_invalid(in->x, "path", "is not percent-encoded text");
  } else if (in->r->method != METHOD_POST || parse_body(in, &c)) {
    c.arg = in->arg;
    in->r->handle(&c);
    cJSON_Delete(c.body);
  }
  free_inbound(in);
}

void inbound_drop(inbound *in) {
  if (in->s != NULL) in->s->drop(in->sink);
  exchange_free(in->x);
  free_inbound(in);
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
  if (!cJSON_IsNumber(v) || !(v->valuedouble >= 0 && v->valuedouble <= (double)GUEST_MS_MAX)) {
    reply_invalid(c->req, name, "must be a number of milliseconds");
    return false;
  }
  *out = (int64_t)v->valuedouble;
  return true;
}
