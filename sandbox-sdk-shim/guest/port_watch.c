/* guest/port_watch.c - /api/port-watch: tells when a port of the sandbox answers.
 *
 * A port is ready when a connection to it is accepted and, in http mode, when a GET is answered with a status
 * in range. A port that refuses is asked again soon: a try costs microseconds; an answer with another status
 * after the caller's interval. */
#define _GNU_SOURCE
#include "guest.h"

#include <arpa/inet.h>
#include <errno.h>
#include <http_parser.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define INTERVAL_MIN_MS 100
#define INTERVAL_MAX_MS 10000
#define FIRST_WAIT_MS   10 /* after the first refusal; doubled up to the interval */
#define TRY_MS          5000
#define HEAD_MAX        65536u /* bytes of an answer before its status must have come */

typedef struct port_watch {
  sse out;
  csn_buf last; /* the event that ends the stream, once known */
  bool ending;
  uint16_t port;
  bool http, v6;
  int status_min, status_max, status;
  int64_t interval_ms, wait_ms;
  char *process; /* whose end ends the watch, or NULL */
  csn_buf request;
  size_t sent, head_len;
  int fd;
  struct event *io, *timer; /* timer: the next try, or the end of this one */
  bool trying;
  http_parser parser;
  struct port_watch *next;
} port_watch;

static port_watch *port_watches;

static void try_now(port_watch *w);

static void hang_up(port_watch *w) {
  if (w->io != NULL) event_free(w->io);
  w->io = NULL;
  if (w->fd >= 0) close(w->fd);
  w->fd = -1;
  w->trying = false;
}

static void free_watch(port_watch *w) {
  for (port_watch **at = &port_watches; *at != NULL; at = &(*at)->next) {
    if (*at != w) continue;
    *at = w->next;
    break;
  }
  hang_up(w);
  event_free(w->timer);
  csn_buf_free(&w->last);
  csn_buf_free(&w->request);
  free(w->process);
  free(w);
}

static void on_gone(void *arg) {
  free_watch(arg);
}

static void on_more(void *arg) {
  port_watch *w = arg;
  if (w->out.busy) return;
  if (w->ending) {
    sse_end(&w->out);
    free_watch(w);
  } else if (w->last.len > 0) {
    w->ending = true;
    sse_send(&w->out, &w->last);
  }
}

/* The stream's last event; may free w. */
static void finish(port_watch *w, const char *type, const char *more) {
  if (w->last.len > 0 || w->ending) return;
  hang_up(w);
  event_del(w->timer);
  csn_buf_fmt(&w->last, "data: {\"type\":\"%s\",\"port\":%u%s}\n\n", type, w->port, more);
  on_more(w);
}

/* ---- one try ---- */

static void again(port_watch *w, int64_t wait_ms) {
  hang_up(w);
  struct timeval tv = {wait_ms / 1000, wait_ms % 1000 * 1000};
  event_add(w->timer, &tv);
}

static void refused(port_watch *w) {
  if (!w->v6) { /* some servers listen on ::1 only */
    w->v6 = true;
    hang_up(w);
    try_now(w);
    return;
  }
  w->v6 = false;
  again(w, w->wait_ms);
  w->wait_ms = w->wait_ms * 2 < w->interval_ms ? w->wait_ms * 2 : w->interval_ms;
}

static int on_status(http_parser *p) {
  port_watch *w = p->data;
  w->status = (int)p->status_code;
  return 1; /* no more is needed */
}

static void on_answer(evutil_socket_t fd, short what, void *arg) {
  (void)what;
  port_watch *w = arg;
  char room[4096];
  ssize_t n = read(fd, room, sizeof room);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  static const http_parser_settings settings = {.on_headers_complete = on_status};
  if (n > 0) {
    http_parser_execute(&w->parser, &settings, room, (size_t)n);
    w->head_len += (size_t)n;
  }
  if (w->status >= w->status_min && w->status <= w->status_max) {
    char more[32];
    snprintf(more, sizeof more, ",\"statusCode\":%d", w->status);
    finish(w, "ready", more);
  } else if (w->status != 0 || n <= 0 || HTTP_PARSER_ERRNO(&w->parser) != HPE_OK || w->head_len > HEAD_MAX) {
    w->v6 = false;
    again(w, w->interval_ms); /* it answers, but not as wished */
  }
}

/* A connection to a port of the ephemeral range on which nobody listens may be answered by its own other end.
 */
static bool is_own_echo(int fd) {
  struct sockaddr_in6 own = {0}, peer = {0};
  socklen_t own_len = sizeof own, peer_len = sizeof peer;
  return getsockname(fd, (struct sockaddr *)&own, &own_len) == 0 &&
         getpeername(fd, (struct sockaddr *)&peer, &peer_len) == 0 && own.sin6_port == peer.sin6_port;
}

static void on_connected(evutil_socket_t fd, short what, void *arg) {
  (void)what;
  port_watch *w = arg;
  int err = 0;
  socklen_t len = sizeof err;
  if (w->sent == 0 &&
      (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0 || err != 0 || is_own_echo(fd))) {
    refused(w);
    return;
  }
  if (!w->http) {
    finish(w, "ready", "");
    return;
  }
  ssize_t n = send(fd, w->request.p + w->sent, w->request.len - w->sent, MSG_NOSIGNAL);
  if (n < 0 && errno != EAGAIN && errno != EINTR) {
    refused(w);
    return;
  }
  if (n > 0) w->sent += (size_t)n;
  if (w->sent < w->request.len) {
    event_add(w->io, NULL);
    return;
  }
  event_free(w->io);
  w->io = event_new(guest_base, fd, EV_READ | EV_PERSIST, on_answer, w);
  if (w->io == NULL) abort();
  event_add(w->io, NULL);
}

static void try_now(port_watch *w) {
  struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons(w->port)};
  struct sockaddr_in6 a6 = {
      .sin6_family = AF_INET6, .sin6_port = htons(w->port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  a4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  w->sent = w->head_len = 0;
  w->status = 0;
  w->trying = true;
  http_parser_init(&w->parser, HTTP_RESPONSE);
  w->parser.data = w;
  struct timeval tv = {TRY_MS / 1000, 0};
  event_add(w->timer, &tv);
  w->fd = socket(w->v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  int rc = w->fd < 0 ? -1
           : w->v6   ? connect(w->fd, (struct sockaddr *)&a6, sizeof a6)
                     : connect(w->fd, (struct sockaddr *)&a4, sizeof a4);
  if (rc != 0 && errno != EINPROGRESS) {
    refused(w);
    return;
  }
  w->io = event_new(guest_base, w->fd, EV_WRITE, on_connected, w);
  if (w->io == NULL) abort();
  event_add(w->io, NULL);
}

static void on_timer(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  port_watch *w = arg;
  if (w->trying)
    again(w, w->interval_ms); /* no answer in time */
  else
    try_now(w);
}

/* ---- its process ---- */

static void process_exited(port_watch *w, int code) {
  char more[32];
  snprintf(more, sizeof more, ",\"exitCode\":%d", code);
  finish(w, "process_exited", more);
}

void port_watch_process_ended(const proc *p) {
  for (port_watch *w = port_watches, *next; w != NULL; w = next) {
    next = w->next;
    if (w->process != NULL && strcmp(w->process, p->id) == 0) process_exited(w, p->code);
  }
}

/* ---- the request ---- */

/* A whole number of the body in low..high; false, and the error sent, otherwise. `fallback` when absent,
 * unless it is -1. */
static bool body_int(call *c, const char *name, int low, int high, int fallback, int *out) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(c->body, name);
  *out = fallback;
  if ((v == NULL || cJSON_IsNull(v)) && fallback != -1) return true;
  if (cJSON_IsNumber(v) && v->valuedouble >= low && v->valuedouble <= high && v->valuedouble == v->valueint) {
    *out = v->valueint;
    return true;
  }
  csn_buf b = {0};
  csn_buf_fmt(&b, "must be a whole number from %d to %d", low, high);
  reply_invalid(c->req, name, csn_buf_cstr(&b));
  csn_buf_free(&b);
  return false;
}

static bool path_ok(const char *path) {
  if (*path != '/') return false;
  for (; *path != '\0'; path++)
    if ((unsigned char)*path <= ' ' || *path == 0x7f)
      return false; /* it becomes part of a request's first line */
  return true;
}

static void post_port_watch(call *c) {
  int port, low, high, interval;
  if (!body_int(c, "port", 1, 65535, -1, &port) || !body_int(c, "statusMin", 100, 599, 200, &low) ||
      !body_int(c, "statusMax", 100, 599, 399, &high) ||
      !body_int(c, "interval", 0, 1000000000, 500, &interval) || !ok_text(c, "mode", false, 8) ||
      !ok_text(c, "path", false, GUEST_PATH_MAX) || !ok_text(c, "processId", false, GUEST_ID_MAX))
    return;
  const char *mode = body_text(c, "mode"), *path = body_text(c, "path"), *process = body_text(c, "processId");
  if (mode == NULL) mode = "tcp";
  if (path == NULL || *path == '\0') path = "/";
  if (strcmp(mode, "tcp") != 0 && strcmp(mode, "http") != 0) {
    reply_invalid(c->req, "mode", "must be tcp or http");
    return;
  }
  if (!path_ok(path)) {
    reply_invalid(c->req, "path", "must start with a slash and hold no white space");
    return;
  }
  port_watch *w = calloc(1, sizeof *w);
  if (w == NULL) abort();
  w->out = (sse){.more = on_more, .gone = on_gone, .arg = w};
  w->port = (uint16_t)port;
  w->http = *mode == 'h';
  w->status_min = low;
  w->status_max = high;
  w->interval_ms = interval < INTERVAL_MIN_MS   ? INTERVAL_MIN_MS
                   : interval > INTERVAL_MAX_MS ? INTERVAL_MAX_MS
                                                : interval;
  w->wait_ms = FIRST_WAIT_MS;
  w->fd = -1;
  w->process = process == NULL ? NULL : strdup(process);
  w->timer = evtimer_new(guest_base, on_timer, w);
  if (w->timer == NULL) abort();
  csn_buf_fmt(&w->request,
              "GET %s HTTP/1.1\r\nHost: localhost:%d\r\nUser-Agent: caisson\r\nConnection: close\r\n\r\n",
              path, port);
  w->next = port_watches;
  port_watches = w;
  if (!sse_start(&w->out, c->req)) {
    free_watch(w);
    return;
  }
  csn_buf b = {0};
  csn_buf_fmt(&b, "data: {\"type\":\"watching\",\"port\":%d}\n\n", port);
  sse_send(&w->out, &b);
  const proc *p = process == NULL ? NULL : proc_find(process);
  if (process != NULL && p == NULL)
    finish(w, "error", ",\"error\":\"Process not found\"");
  else if (p != NULL && p->ended)
    process_exited(w, p->code);
  else
    try_now(w);
}

const route port_routes[] = {{METHOD_POST, "/api/port-watch", post_port_watch}, {0, NULL, NULL}};
