/* guest/exchange.c - see exchange.h: answers, whole or in pieces. */
#define _GNU_SOURCE
#include "exchange.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* HTTP status of each error code; one that is not here is 500. 503 makes the SDK repeat the request. */
static const struct {
  int status;
  const char *codes;
} error_status[] = {
    {400, " IS_DIRECTORY NOT_DIRECTORY INVALID_COMMAND NAME_TOO_LONG VALIDATION_FAILED INVALID_GIT_URL "
          "INVALID_BACKUP_CONFIG "},
    {401, " GIT_AUTH_FAILED "},
    {403, " PERMISSION_DENIED READ_ONLY "},
    {404, " FILE_NOT_FOUND COMMAND_NOT_FOUND PROCESS_NOT_FOUND UNKNOWN_ERROR GIT_REPOSITORY_NOT_FOUND "
          "GIT_BRANCH_NOT_FOUND CONTEXT_NOT_FOUND WATCH_NOT_FOUND BACKUP_NOT_FOUND "},
    {409, " FILE_EXISTS RESOURCE_BUSY SESSION_ALREADY_EXISTS OPERATION_INTERRUPTED "},
    {410, " SESSION_DESTROYED SESSION_TERMINATED "},
    {413, " FILE_TOO_LARGE REQUEST_TOO_LARGE "},
    {426, " UPGRADE_REQUIRED "},
    {501, " PYTHON_NOT_AVAILABLE JAVASCRIPT_NOT_AVAILABLE "},
    {502, " GIT_NETWORK_ERROR "},
    {503, " INTERPRETER_NOT_READY "},
};

static int status_of(const char *code) {
  char word[64];
  snprintf(word, sizeof word, " %s ", code);
  for (size_t i = 0; i < sizeof error_status / sizeof error_status[0]; i++)
    if (strstr(error_status[i].codes, word) != NULL) return error_status[i].status;
  return 500;
}

exchange *exchange_new(const transport *via, void *link) {
  exchange *x = calloc(1, sizeof *x);
  if (x == NULL) abort();
  x->via = via;
  x->link = link;
  return x;
}

void exchange_free(exchange *x) {
  free(x->session);
  free(x->query);
  free(x);
}

void exchange_room(exchange *x) {
  sse *s = x->stream;
  if (s == NULL || !s->busy) return;
  s->busy = false;
  s->more(s->arg);
}

void exchange_lost(exchange *x) {
  x->via = NULL;
  sse *s = x->stream;
  if (s == NULL) return;
  s->req = NULL;
  s->busy = false;
  exchange_free(x);
  s->gone(s->arg);
}

void reply_text(exchange *x, int status, const char *type, csn_buf *body) {
  if (x->via != NULL)
    x->via->answer(x, status, type, body);
  else
    csn_buf_free(body);
  exchange_free(x);
}

void reply_json(exchange *x, int status, csn_buf *json) {
  reply_text(x, status, "application/json", json);
}

void add_timestamp(csn_buf *b) {
  char iso[32];
  csn_iso_time(iso, csn_wall_ms());
  csn_buf_fmt(b, "\"timestamp\":\"%s\"", iso);
}

void reply_stamped(exchange *x, csn_buf *json) {
  add_timestamp(json);
  csn_buf_str(json, "}");
  reply_json(x, 200, json);
}

void reply_error(exchange *x, const char *code, const char *context, const char *fmt, ...) {
  int status = status_of(code);
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
  reply_json(x, status, &b);
}

void reply_invalid(exchange *x, const char *field, const char *message) {
  csn_buf ctx = {0};
  csn_buf_str(&ctx, "{\"validationErrors\":[{\"field\":");
  csn_json_cstr(&ctx, field);
  csn_buf_str(&ctx, ",\"message\":");
  csn_json_cstr(&ctx, message);
  csn_buf_str(&ctx, ",\"code\":\"invalid\"}]}");
  reply_error(x, "VALIDATION_FAILED", csn_buf_cstr(&ctx), "%s: %s", field, message);
  csn_buf_free(&ctx);
}

bool sse_start(sse *s, exchange *x) {
  s->req = NULL;
  s->busy = false;
  if (x->via == NULL) {
    exchange_free(x);
    return false;
  }
  s->req = x;
  x->stream = s;
  x->via->open(x);
  return true;
}

void sse_send(sse *s, csn_buf *events) {
  if (events->len == 0 || s->req == NULL) {
    csn_buf_free(events);
    return;
  }
  s->busy = true;
  s->req->via->piece(s->req, events);
}

void sse_end(sse *s) {
  exchange *x = s->req;
  s->req = NULL;
  s->busy = false;
  if (x == NULL) return;
  x->via->end(x);
  exchange_free(x);
}
