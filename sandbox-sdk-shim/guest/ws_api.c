/* guest/ws_api.c - /ws: requests of the HTTP routes, multiplexed over one WebSocket.
 *
 * A request is dispatched like one that came over HTTP; only the way back is another. */
#define _GNU_SOURCE
#include "guest.h"
#include "jsonin.h"
#include "ws.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MESSAGE_MAX  (192u * 1024 * 1024) /* bytes: an archive of 144 MiB in base64 */
#define REQUESTS_MAX 256u                 /* of one connection, unanswered */
#define ID_MAX       256u                 /* bytes of a request's id */

typedef struct channel channel;
typedef struct request {
  channel *on;
  exchange *x;
  char *id;
  bool wants_room;
  unsigned round; /* of give_room() that served it last */
  struct request *next;
} request;

struct channel {
  ws *w;
  request *requests;
  size_t count;
  unsigned round;
  struct event *later;
};

/* What a message says. */
typedef struct envelope {
  char type[16], method[8], id[ID_MAX + 1], target[GUEST_TARGET_MAX + 1];
  size_t type_len, method_len, id_len, target_len;
  bool has_id, too_long, text_body;
  uint64_t body_from, body_to, headers_from, headers_to;
} envelope;

static void add_id(csn_buf *b, const char *id) {
  csn_buf_str(b, ",\"id\":");
  csn_json_cstr(b, id);
}

static void send_error(channel *ch, const char *id, const char *code, int status, const char *message) {
  csn_buf b = {0};
  csn_buf_str(&b, "{\"type\":\"error\"");
  if (id != NULL) add_id(&b, id);
  csn_buf_fmt(&b, ",\"code\":\"%s\",\"message\":", code);
  csn_json_cstr(&b, message);
  csn_buf_fmt(&b, ",\"status\":%d}", status);
  ws_send_buf(ch->w, WS_OP_TEXT, &b);
}

static void forget(request *r) {
  channel *ch = r->on;
  for (request **at = &ch->requests; *at != NULL; at = &(*at)->next) {
    if (*at != r) continue;
    *at = r->next;
    break;
  }
  ch->count--;
  free(r->id);
  free(r);
}

/* ---- the way back ---- */

static void respond(request *r, int status, const char *type, csn_buf *body) {
  csn_buf b = {0};
  csn_buf_str(&b, "{\"type\":\"response\"");
  add_id(&b, r->id);
  csn_buf_fmt(&b, ",\"status\":%d", status);
  if (body != NULL) {
    csn_buf_str(&b, ",\"body\":");
    if (strcmp(type, "application/json") == 0)
      csn_buf_add(&b, body->p, body->len);
    else
      csn_json_str(&b, body->p, body->len);
    csn_buf_free(body);
  }
  csn_buf_str(&b, ",\"done\":true}");
  ws_send_buf(r->on->w, WS_OP_TEXT, &b);
  forget(r);
}

static void api_answer(exchange *x, int status, const char *type, csn_buf *body) {
  respond(x->link, status, type, body);
}

static void api_open(exchange *x) {
  (void)x; /* the first event opens the stream */
}

static void api_piece(exchange *x, csn_buf *events) {
  request *r = x->link;
  static const char start[] = "data: ";
  const char *at = events->p, *end = events->p + events->len;
  while (at < end) {
    const char *line_end = memchr(at, '\n', (size_t)(end - at)); /* JSON holds no newline of its own */
    if (line_end == NULL) line_end = end;
    bool comment = *at == ':'; /* an empty event, which the SDK skips like a comment */
    size_t skip = comment ? (size_t)(line_end - at) : sizeof start - 1;
    if (comment || (size_t)(line_end - at) > skip) {
      csn_buf b = {0};
      csn_buf_str(&b, "{\"type\":\"stream\"");
      add_id(&b, r->id);
      csn_buf_str(&b, ",\"data\":");
      csn_json_str(&b, at + skip, (size_t)(line_end - at) - skip);
      csn_buf_str(&b, "}");
      ws_send_buf(r->on->w, WS_OP_TEXT, &b);
    }
    at = line_end + 1;
  }
  csn_buf_free(events);
  r->wants_room = true;
  if (!ws_full(r->on->w)) event_active(r->on->later, EV_TIMEOUT, 0);
}

static void api_end(exchange *x) {
  respond(x->link, 200, NULL, NULL);
}

static const transport api_transport = {api_answer, api_open, api_piece, api_end};

static request *next_waiting(channel *ch) {
  for (request *r = ch->requests; r != NULL; r = r->next)
    if (r->wants_room && r->round != ch->round) return r;
  return NULL;
}

/* One piece for each stream that waits, as long as there is room. */
static void give_room(channel *ch) {
  ch->round++;
  for (request *r; !ws_full(ch->w) && (r = next_waiting(ch)) != NULL;) {
    r->round = ch->round;
    r->wants_room = false;
    exchange_room(r->x); /* may be the request's end */
  }
}

static void on_later(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  give_room(arg);
}

static void on_room(void *arg) {
  give_room(arg);
}

/* ---- messages ---- */

static bool same(const char *key, const char *name) {
  return strcmp(key, name) == 0;
}

static void on_text(void *arg, const char *key, const char *piece, size_t len, bool last) {
  envelope *e = arg;
  char *to = NULL;
  size_t cap = 0, *used = NULL;
  if (same(key, "type")) to = e->type, cap = sizeof e->type, used = &e->type_len;
  if (same(key, "method")) to = e->method, cap = sizeof e->method, used = &e->method_len;
  if (same(key, "id")) to = e->id, cap = sizeof e->id, used = &e->id_len;
  if (same(key, "path")) to = e->target, cap = sizeof e->target, used = &e->target_len;
  if (same(key, "body")) e->text_body = true;
  if (to == NULL) return;
  if (len > cap - 1 - *used || memchr(piece, 0, len) != NULL) {
    e->too_long = true;
    return;
  }
  memcpy(to + *used, piece, len);
  *used += len;
  if (last && same(key, "id")) e->has_id = true;
}

static void on_other(void *arg, const char *key, uint64_t from, uint64_t to) {
  envelope *e = arg;
  if (same(key, "body")) {
    e->body_from = from;
    e->body_to = to;
  } else if (same(key, "headers")) {
    e->headers_from = from;
    e->headers_to = to;
  }
}

static request *find(channel *ch, const char *id) {
  for (request *r = ch->requests; r != NULL; r = r->next)
    if (strcmp(r->id, id) == 0) return r;
  return NULL;
}

static int method_of(const char *name) {
  static const struct {
    const char *name;
    int method;
  } known[] = {{"GET", METHOD_GET}, {"POST", METHOD_POST}, {"PUT", METHOD_PUT}, {"DELETE", METHOD_DELETE}};
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
    if (strcmp(name, known[i].name) == 0) return known[i].method;
  return 0;
}

/* The session that a header of the request names, NULL if none does. */
static char *session_of(const char *json, size_t len) {
  cJSON *headers = cJSON_ParseWithLength(json, len);
  char *found = NULL;
  const cJSON *v;
  cJSON_ArrayForEach(v, headers) {
    if (found != NULL || v->string == NULL || !cJSON_IsString(v)) continue;
    const char *text = v->valuestring;
    if (strcasecmp(v->string, "x-session-id") == 0)
      found = strdup(text);
    else if (strcasecmp(v->string, "authorization") == 0 && strncasecmp(text, "Bearer ", 7) == 0)
      found = strdup(text + 7);
  }
  cJSON_Delete(headers);
  return found;
}

static void start_request(channel *ch, const envelope *e, const char *data) {
  int method = method_of(e->method);
  const char *id = e->has_id && e->id_len > 0 ? e->id : NULL;
  if (id == NULL || method == 0 || e->target[0] != '/' || e->text_body) {
    send_error(ch, id, "INVALID_REQUEST", 400,
               id == NULL     ? "a request needs an id"
               : method == 0  ? "the method must be GET, POST, PUT or DELETE"
               : e->text_body ? "the body must be JSON, not text"
                              : "the path must start with a slash");
  } else if (find(ch, id) != NULL) {
    send_error(ch, NULL, "INVALID_REQUEST", 400, "a request with this id is not answered yet");
  } else if (ch->count >= REQUESTS_MAX) {
    send_error(ch, id, "INVALID_REQUEST", 429, "too many requests of this connection are unanswered");
  } else {
    request *r = calloc(1, sizeof *r);
    if (r == NULL) abort();
    r->on = ch;
    r->id = strdup(id);
    if (r->id == NULL) abort();
    r->x = exchange_new(&api_transport, r);
    r->x->session = session_of(data + e->headers_from, (size_t)(e->headers_to - e->headers_from));
    r->next = ch->requests;
    ch->requests = r;
    ch->count++;
    inbound *in = inbound_new(r->x, method, e->target);
    inbound_body(in, data + e->body_from, (size_t)(e->body_to - e->body_from));
    inbound_end(in);
  }
}

static void on_message(void *arg, bool text, char *data, size_t len) {
  channel *ch = arg;
  static envelope e; /* too large for the stack; one message at a time */
  e = (envelope){0};
  jsonin j = {.text = on_text, .other = on_other, .arg = &e};
  jsonin_init(&j);
  if (text) jsonin_push(&j, data, len);
  if (!text || !jsonin_end(&j)) {
    send_error(ch, NULL, "PARSE_ERROR", 400, "a message must be one JSON object");
  } else if (e.too_long) {
    send_error(ch, NULL, "INVALID_REQUEST", 400, "type, id, method or path is too long");
  } else if (same(e.type, "cancel")) {
    request *r = find(ch, e.id);
    if (r == NULL) return; /* it was answered meanwhile */
    exchange *x = r->x;
    forget(r);
    exchange_lost(x);
  } else if (same(e.type, "request")) {
    start_request(ch, &e, data);
  } else {
    send_error(ch, e.has_id ? e.id : NULL, "INVALID_REQUEST", 400, "type must be request or cancel");
  }
}

static void on_closed(void *arg) {
  channel *ch = arg;
  while (ch->requests != NULL) {
    exchange *x = ch->requests->x;
    forget(ch->requests);
    exchange_lost(x);
  }
  event_free(ch->later);
  free(ch);
}

static const ws_handler api_handler = {MESSAGE_MAX, on_message, on_room, on_closed};

static void get_ws(call *c) {
  channel *ch = calloc(1, sizeof *ch);
  if (ch == NULL) abort();
  ch->w = ws_accept(c, &api_handler, ch);
  if (ch->w == NULL) {
    free(ch);
    return;
  }
  ch->later = evtimer_new(guest_base, on_later, ch);
  if (ch->later == NULL) abort();
}

const route ws_routes[] = {
    {METHOD_GET, "/ws", get_ws},
    {METHOD_GET, "/api/ws", get_ws},
    {0, NULL, NULL},
};
