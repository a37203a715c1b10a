/* guest/http.c - see http.h. */
#define _GNU_SOURCE
#include "http.h"

#include "guest.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <fcntl.h>
#include <http_parser.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_BYTES    (256u * 1024)
#define PENDING_MAX   (64u * 1024) /* bytes of later requests that wait for the answer to this one */
#define SMALL_BODY    4096u        /* bytes: copied beside its head instead of referred to */
#define CLOSE_WAIT_MS 5000         /* for the peer to take the last bytes */
#define ACCEPT_MS     50           /* between two tries while descriptors are short */

/* Header fields that something here reads. */
enum {
  FIELD_SESSION,
  FIELD_AUTHORIZATION,
  FIELD_EXPECT,
  FIELD_WS_KEY,
  FIELD_WS_VERSION,
  FIELD_UPGRADE,
  FIELD_COUNT
};
static const char *const field_names[FIELD_COUNT] = {"x-session-id",      "authorization",         "expect",
                                                     "sec-websocket-key", "sec-websocket-version", "upgrade"};

struct conn {
  int fd;
  struct event *rd, *wr, *later;
  struct evbuffer *out;
  http_parser parser;
  /* The request being read. */
  size_t head_len;
  csn_buf target, name, value[FIELD_COUNT];
  int field; /* index into value, -1 for a header that nobody reads */
  bool in_value;
  inbound *in;
  bool complete; /* the parser has seen the end of a request */
  csn_buf pending;
  /* The answer being given. */
  exchange *x; /* NULL: none is owed */
  bool chunked, head_only, keep_alive, wants_room;
  bool closing; /* no more requests; over when `out` is empty */
  bool eof;     /* the peer sends no more */
  bool broken;  /* the socket is dead */
  /* An upgraded connection. */
  const raw_handler *raw;
  void *raw_arg;
  bool held;
  int64_t close_at_ms; /* when the peer has had time enough to take the last bytes; 0: no limit */
};

static char read_room[READ_BYTES];
static const transport http_transport;

static void run_later(conn *c) {
  event_active(c->later, EV_TIMEOUT, 0);
}

static void free_conn(conn *c) {
  event_free(c->rd);
  event_free(c->wr);
  event_free(c->later);
  evbuffer_free(c->out);
  close(c->fd);
  csn_buf_free(&c->target);
  csn_buf_free(&c->name);
  csn_buf_free(&c->pending);
  for (size_t i = 0; i < FIELD_COUNT; i++)
    csn_buf_free(&c->value[i]);
  free(c);
}

/* Cuts the connection off from whatever it serves and frees it. */
static void drop_conn(conn *c) {
  inbound *in = c->in;
  exchange *x = c->x;
  const raw_handler *raw = c->raw;
  void *raw_arg = c->raw_arg;
  free_conn(c);
  if (in != NULL)
    inbound_drop(in); /* owns x */
  else if (x != NULL)
    exchange_lost(x);
  if (raw != NULL) raw->closed(raw_arg);
}

/* ---- writing ---- */

static size_t unsent(const conn *c) {
  return evbuffer_get_length(c->out);
}

/* Writes what the kernel takes. Consequences come from on_later(), never from inside a handler's call. */
static void flush(conn *c) {
  while (unsent(c) > 0 && !c->broken) {
    int n = evbuffer_write_atmost(c->out, c->fd, HTTP_OUT_HIGH);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      event_add(c->wr, NULL);
      break;
    }
    if (n < 0) c->broken = true;
  }
  if (c->broken || (c->wants_room && unsent(c) <= HTTP_OUT_LOW) || (c->closing && unsent(c) == 0))
    run_later(c);
}

static void on_writable(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  flush(arg);
}

static void free_ref(const void *data, size_t len, void *arg) {
  (void)len;
  (void)arg;
  free((void *)(uintptr_t)data);
}

/* Moves the bytes into the output; large ones without a copy. */
static void put(conn *c, csn_buf *b) {
  if (b->len > SMALL_BODY && evbuffer_add_reference(c->out, b->p, b->len, free_ref, NULL) == 0) {
    *b = (csn_buf){0};
    return;
  }
  if (b->len > 0 && evbuffer_add(c->out, b->p, b->len) != 0) abort();
  csn_buf_free(b);
}

static const char *reason_of(int status) {
  switch (status) {
#define X(number, name, text)                                                                                \
  case number:                                                                                               \
    return #text;
    HTTP_STATUS_MAP(X)
#undef X
  default:
    return "Unknown";
  }
}

static void put_head(conn *c, int status, const char *type, const char *more) {
  evbuffer_add_printf(
      c->out,
      "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nAccess-Control-Allow-Origin: *\r\n"
      "Access-Control-Allow-Methods: GET, POST, PUT, DELETE, OPTIONS\r\n"
      "Access-Control-Allow-Headers: Content-Type, Authorization, X-Session-Id, X-Sandbox-Id, "
      "X-Trace-Id\r\n%s%s\r\n",
      status, reason_of(status), type, more, c->keep_alive ? "" : "Connection: close\r\n");
}

static void next_request(conn *c) {
  http_parser_init(&c->parser, HTTP_REQUEST);
  c->parser.data = c;
  c->head_len = c->target.len = c->name.len = 0;
  c->in_value = c->complete = false;
  for (size_t i = 0; i < FIELD_COUNT; i++)
    c->value[i].len = 0;
}

/* The answer is complete: on to the next request or to the end. */
static void answered(conn *c) {
  c->x = NULL;
  c->wants_room = false;
  if (!c->keep_alive || (c->eof && c->pending.len == 0)) c->closing = true;
  next_request(c);
  flush(c);
  if (c->pending.len > 0) run_later(c);
}

static void http_answer(exchange *x, int status, const char *type, csn_buf *body) {
  conn *c = x->link;
  char length[64];
  snprintf(length, sizeof length, "Content-Length: %zu\r\n", body->len);
  put_head(c, status, type, length);
  if (c->head_only)
    csn_buf_free(body);
  else
    put(c, body);
  answered(c);
}

static void http_open(exchange *x) {
  conn *c = x->link;
  if (c->eof) c->broken = true; /* nobody is left to read it */
  c->chunked = c->parser.http_major == 1 && c->parser.http_minor >= 1;
  if (!c->chunked) c->keep_alive = false; /* the end of the connection is the end of the stream */
  put_head(c, 200, "text/event-stream",
           c->chunked ? "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n"
                      : "Cache-Control: no-cache\r\n");
  flush(c);
}

static void http_piece(exchange *x, csn_buf *events) {
  conn *c = x->link;
  if (c->chunked) evbuffer_add_printf(c->out, "%zx\r\n", events->len);
  put(c, events);
  if (c->chunked) evbuffer_add(c->out, "\r\n", 2);
  c->wants_room = true;
  flush(c);
}

static void http_end(exchange *x) {
  conn *c = x->link;
  if (c->chunked) evbuffer_add(c->out, "0\r\n\r\n", 5);
  answered(c);
}

static const transport http_transport = {http_answer, http_open, http_piece, http_end};

/* ---- reading ---- */

static int on_url(http_parser *p, const char *at, size_t len) {
  conn *c = p->data;
  if (len > GUEST_TARGET_MAX - c->target.len) return 1;
  csn_buf_add(&c->target, at, len);
  return 0;
}

static int on_field(http_parser *p, const char *at, size_t len) {
  conn *c = p->data;
  if (c->in_value) c->name.len = 0;
  c->in_value = false;
  csn_buf_add(&c->name, at, len);
  return 0;
}

static int on_value(http_parser *p, const char *at, size_t len) {
  conn *c = p->data;
  if (!c->in_value) {
    c->in_value = true;
    c->field = -1;
    const char *name = csn_buf_cstr(&c->name);
    for (int i = 0; i < FIELD_COUNT; i++)
      if (strcasecmp(name, field_names[i]) == 0) c->field = i;
    if (c->field >= 0) c->value[c->field].len = 0;
  }
  if (c->field >= 0) csn_buf_add(&c->value[c->field], at, len);
  return 0;
}

static const char *field(conn *c, int which) {
  return c->value[which].len == 0 ? NULL : csn_buf_cstr(&c->value[which]);
}

static int method_of(const conn *c) {
  switch ((enum http_method)c->parser.method) {
  case HTTP_GET:
    return METHOD_GET;
  case HTTP_POST:
    return METHOD_POST;
  case HTTP_PUT:
    return METHOD_PUT;
  case HTTP_DELETE:
    return METHOD_DELETE;
  default:
    return 0; /* no route has it */
  }
}

static int on_head(http_parser *p) {
  conn *c = p->data;
  exchange *x = exchange_new(&http_transport, c);
  const char *id = field(c, FIELD_SESSION), *bearer = field(c, FIELD_AUTHORIZATION);
  if (id == NULL && bearer != NULL && strncasecmp(bearer, "Bearer ", 7) == 0) id = bearer + 7;
  if (id != NULL && (x->session = strdup(id)) == NULL) abort();
  c->head_only = p->method == HTTP_HEAD;
  c->keep_alive = http_should_keep_alive(p) != 0;
  c->x = x;
  c->in = inbound_new(x, method_of(c), csn_buf_cstr(&c->target));
  if (p->content_length != UINT64_MAX) inbound_expect(c->in, p->content_length);
  const char *expect = field(c, FIELD_EXPECT);
  if (expect != NULL && strcasecmp(expect, "100-continue") == 0) {
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    evbuffer_add(c->out, go_on, sizeof go_on - 1);
    flush(c);
  }
  return 0;
}

static int on_body(http_parser *p, const char *at, size_t len) {
  conn *c = p->data;
  inbound_body(c->in, at, len);
  return 0;
}

static int on_complete(http_parser *p) {
  conn *c = p->data;
  c->complete = true;
  http_parser_pause(p, 1);
  return 0;
}

static const http_parser_settings settings = {
    .on_url = on_url,
    .on_header_field = on_field,
    .on_header_value = on_value,
    .on_headers_complete = on_head,
    .on_body = on_body,
    .on_message_complete = on_complete,
};

static void refuse(conn *c, int status, const char *text) {
  if (c->in != NULL) inbound_drop(c->in);
  c->in = NULL;
  c->x = NULL;
  c->keep_alive = c->head_only = false;
  evbuffer_add_printf(
      c->out,
      "HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s",
      status, reason_of(status), strlen(text), text);
  answered(c);
}

/* Gives bytes to the parser; what lies behind a complete request is kept for later. */
static void feed(conn *c, const char *bytes, size_t len) {
  size_t used = http_parser_execute(&c->parser, &settings, bytes, len);
  enum http_errno err = HTTP_PARSER_ERRNO(&c->parser);
  if (!c->complete) {
    c->head_len += c->in == NULL ? used : 0;
    if (err != HPE_OK)
      refuse(c, err == HPE_HEADER_OVERFLOW ? 431 : 400, "the request is not valid HTTP\n");
    else if (c->head_len > HTTP_HEAD_MAX)
      refuse(c, 431, "the request's head is too large\n");
    return;
  }
  csn_buf_add(&c->pending, bytes + used, len - used);
  c->complete = false;
  inbound *in = c->in;
  c->in = NULL;
  inbound_end(in); /* answers now or later; c->x tells */
}

static void on_end_of_input(conn *c) {
  bool idle = c->x == NULL && c->pending.len == 0 && c->raw == NULL;
  bool stream = c->x != NULL && c->x->stream != NULL;
  if (c->raw != NULL || c->in != NULL || stream || (idle && unsent(c) == 0)) {
    drop_conn(c);
    return;
  }
  /* A client that closed only its sending side still reads the answer that it is owed. */
  c->eof = true;
  if (idle) c->closing = true;
  event_del(c->rd);
}

static void on_readable(evutil_socket_t fd, short what, void *arg) {
  (void)what;
  conn *c = arg;
  ssize_t n = read(fd, read_room, sizeof read_room);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n == 0) {
    on_end_of_input(c);
  } else if (n < 0) {
    drop_conn(c);
  } else if (c->closing) {
    return; /* nobody reads it */
  } else if (c->pending.len > 0 || (c->x != NULL && c->in == NULL)) {
    csn_buf_add(&c->pending, read_room, (size_t)n);
    if (c->pending.len > PENDING_MAX) event_del(c->rd);
  } else if (c->raw != NULL) {
    c->raw->data(c->raw_arg, read_room, (size_t)n);
  } else {
    feed(c, read_room, (size_t)n);
  }
}

/* What must not happen inside a handler's call. */
static void on_later(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  conn *c = arg;
  if (c->broken) {
    drop_conn(c);
    return;
  }
  if (c->wants_room && unsent(c) <= HTTP_OUT_LOW) {
    c->wants_room = false;
    if (c->raw != NULL)
      c->raw->room(c->raw_arg);
    else if (c->x != NULL)
      exchange_room(c->x);
  }
  if (c->pending.len > 0 && c->x == NULL && !c->closing && !c->held) {
    csn_buf bytes = c->pending;
    c->pending = (csn_buf){0};
    if (!c->eof) event_add(c->rd, NULL);
    if (c->raw != NULL)
      c->raw->data(c->raw_arg, bytes.p, bytes.len);
    else
      feed(c, bytes.p, bytes.len);
    csn_buf_free(&bytes);
  }
  if (!c->closing) return;
  if (unsent(c) == 0 || (c->close_at_ms != 0 && csn_now_ms() >= c->close_at_ms)) free_conn(c);
}

/* ---- upgraded connections ---- */

upgrade http_upgrade_asked(const exchange *x) {
  upgrade u = {0};
  if (x->via != &http_transport) return u;
  conn *c = x->link;
  const char *to = field(c, FIELD_UPGRADE);
  u.websocket =
      c->parser.upgrade && c->parser.method == HTTP_GET && to != NULL && strcasecmp(to, "websocket") == 0;
  u.key = field(c, FIELD_WS_KEY);
  u.version = field(c, FIELD_WS_VERSION);
  return u;
}

conn *http_upgrade(exchange *x, const char *head, const raw_handler *h, void *arg) {
  conn *c = x->link;
  c->x = NULL;
  exchange_free(x);
  c->raw = h;
  c->raw_arg = arg;
  evbuffer_add(c->out, head, strlen(head));
  flush(c);
  if (c->pending.len > 0) run_later(c);
  return c;
}

void http_raw_send(conn *c, const void *head, size_t head_len, csn_buf *body) {
  if (evbuffer_add(c->out, head, head_len) != 0) abort();
  put(c, body);
  if (unsent(c) > HTTP_OUT_HIGH) c->wants_room = true;
  flush(c);
}

size_t http_raw_unsent(const conn *c) {
  return unsent(c);
}

void http_raw_hold(conn *c, bool hold) {
  if (c->held == hold || c->closing) return;
  c->held = hold;
  if (hold)
    event_del(c->rd);
  else
    event_add(c->rd, NULL);
  if (!hold && c->pending.len > 0) run_later(c);
}

void http_raw_close(conn *c) {
  c->raw = NULL;
  c->wants_room = false;
  c->closing = true;
  c->close_at_ms = csn_now_ms() + CLOSE_WAIT_MS;
  struct timeval tv = {CLOSE_WAIT_MS / 1000, 0};
  event_add(c->later, &tv);
  event_add(c->rd, NULL);
  flush(c);
}

/* ---- accepting ---- */

void http_adopt(int fd) {
  conn *c = calloc(1, sizeof *c);
  if (c == NULL) abort();
  c->fd = fd;
  c->out = evbuffer_new();
  c->rd = event_new(guest_base, fd, EV_READ | EV_PERSIST, on_readable, c);
  c->wr = event_new(guest_base, fd, EV_WRITE, on_writable, c);
  c->later = evtimer_new(guest_base, on_later, c);
  if (c->out == NULL || c->rd == NULL || c->wr == NULL || c->later == NULL) abort();
  next_request(c);
  event_add(c->rd, NULL);
}

static struct event *accept_ev;

static void on_accept_again(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  (void)arg;
  event_add(accept_ev, NULL);
}

static void on_accept(evutil_socket_t listen_fd, short what, void *arg) {
  (void)what;
  (void)arg;
  for (;;) {
    int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 && (errno == EINTR || errno == ECONNABORTED)) continue;
    if (fd < 0 && errno != EAGAIN) {
      /* Out of descriptors: the socket stays readable, so waiting for it would spin. */
      struct timeval tv = {0, ACCEPT_MS * 1000};
      event_base_once(guest_base, -1, EV_TIMEOUT, on_accept_again, NULL, &tv);
      event_del(accept_ev);
    }
    if (fd < 0) return;
    http_adopt(fd);
  }
}

void http_serve(int listen_fd) {
  if (evutil_make_socket_nonblocking(listen_fd) < 0) abort();
  accept_ev = event_new(guest_base, listen_fd, EV_READ | EV_PERSIST, on_accept, NULL);
  if (accept_ev == NULL || event_add(accept_ev, NULL) != 0) abort();
}
