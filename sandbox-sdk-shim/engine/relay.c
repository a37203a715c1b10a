/* engine/relay.c - the HTTP requests of one connection, one after the other.
 *
 * A request is read strictly (http1.h), decided on, and written anew to the Worker or to its host; so is the
 * answer back. Bodies pass in pieces, never whole. A request that came in behind another waits in the input
 * buffer until the one before it is answered. */
#define _GNU_SOURCE
#include "egress.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define HEAD_MS   30000  /* from a request's first byte to its head's last */
#define IDLE_MS   300000 /* between requests */
#define CHUNK_PAD 24u    /* bytes around a chunk: size, two line ends */
#define OWN_MAX   2048u  /* bytes of an answer that nobody is asked for, and of what goes before another's */

void relay_clear(conn *c) {
  csn_buf_free(&c->x.head);
  c->x = (exchange){.state = EX_IDLE, .verdict = c->x.verdict};
}

static void log_exchange(conn *c, const char *reason) {
  static const ip_addr none;
  const exchange *x = &c->x;
  const bool reached = x->verdict == EGRESS_PASS && !ip_equal(&c->reached, &none);
  egress_log_add(c->sb, &(egress_entry){.kind = c->tls || x->up_tls ? "https" : "http",
                                        .host = x->host,
                                        .address = reached ? &c->reached : NULL,
                                        .port = c->port,
                                        .method = x->method,
                                        .path = x->path,
                                        .status = x->status,
                                        .verdict = x->verdict,
                                        .reason = reason,
                                        .up = c->up_bytes - x->up_start,
                                        .down = c->down_bytes - x->down_start,
                                        .begun_ms = x->begun_ms});
}

/* ---- answers of our own ---- */

static const char *status_words(int status) {
  switch (status) {
  case 400:
    return "Bad Request";
  case 403:
    return "Forbidden";
  case 405:
    return "Method Not Allowed";
  case 408:
    return "Request Timeout";
  case 421:
    return "Misdirected Request";
  case 431:
    return "Request Header Fields Too Large";
  case 502:
    return "Bad Gateway";
  default:
    return "Error";
  }
}

/* Tells the Worker which address it was. */
static void add_address(csn_buf *b, const ip_addr *a) {
  static const ip_addr none;
  char text[IP_TEXT_MAX];
  if (ip_equal(a, &none)) return;
  ip_format(a, text);
  csn_buf_fmt(b, "X-Caisson-Out-Address: %s\r\n", text);
}

static bool is_ours(const http_field *f) {
  return f->name.n >= 10 && strncasecmp(f->name.p, "X-Caisson-", 10) == 0;
}

/* Answers in words and ends the connection: what else the client has sent belongs to a request that is
 * refused. */
static run answer_error(conn *c, int status, const char *code, const char *host, const char *text) {
  csn_buf body = {0}, head = {0};
  csn_buf_fmt(&body, "{\"error\":{\"code\":\"%s\",\"message\":", code);
  csn_json_cstr(&body, text);
  csn_buf_str(&body, ",\"host\":");
  csn_json_cstr(&body, host);
  csn_buf_str(&body, "}}\n");
  csn_buf_fmt(&head, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n", status,
              status_words(status), body.len);
  if (status == 403) csn_buf_str(&head, "X-Caisson-Denied: egress\r\n");
  if (c->out) {
    csn_buf_fmt(&head, "X-Caisson-Out-Error: %s\r\n", code);
    add_address(&head, &c->reached);
  }
  csn_buf_str(&head, "Connection: close\r\n\r\n");
  if (!c->x.head_only) csn_buf_add(&head, body.p, body.len);
  if (stream_room(c->down) >= head.len) stream_put(c->down, head.p, head.len);
  csn_buf_free(&body);
  csn_buf_free(&head);
  c->x.status = status;
  if (status == 403 || status == 405 || status == 421) c->x.verdict = EGRESS_DENY;
  log_exchange(c, text);
  return conn_drain(c);
}

/* ---- the request's head ---- */

/* For the log: a query may hold secrets. */
static void set_path(exchange *x, http_span target) {
  size_t shown = 0;
  while (shown < target.n && shown < sizeof x->path - 1 && target.p[shown] != '?')
    shown++;
  memcpy(x->path, target.p, shown);
  x->path[shown] = '\0';
}

/* Splits what was asked for into host, as text in x->host, and path. NULL, or what is wrong. */
static const char *read_target(conn *c, const http_head *h, http_span *path) {
  exchange *x = &c->x;
  static const char *const schemes[] = {"http://", "https://"};
  const char *scheme = schemes[c->tls];
  http_span authority = h->host, target = h->target;
  char room[ENGINE_HOST_MAX + 8];
  unsigned port = 0;
  if (target.p[0] != '/') {
    /* The form for a proxy. It must say the same as the Host field: two readers would choose differently. */
    size_t n = strlen(scheme);
    if (target.n <= n || strncasecmp(target.p, scheme, n) != 0)
      return "the request target is neither a path nor a URL of this connection";
    target.p += n;
    target.n -= n;
    const char *slash = memchr(target.p, '/', target.n);
    http_span named = {target.p, slash == NULL ? target.n : (size_t)(slash - target.p)};
    if (memchr(named.p, '?', named.n) != NULL || memchr(named.p, '#', named.n) != NULL)
      return "the request target has no path";
    if (authority.n != 0 && (authority.n != named.n || strncasecmp(authority.p, named.p, named.n) != 0))
      return "the request target and the Host field name different hosts";
    authority = named;
    target.p += named.n;
    target.n -= named.n;
  }
  if (memchr(target.p, '#', target.n) != NULL) return "the request target has a fragment";
  if (authority.n == 0) authority = (http_span){c->host, strlen(c->host)};
  if (authority.n >= sizeof room) return "the host is too long";
  memcpy(room, authority.p, authority.n);
  room[authority.n] = '\0';
  if (!host_split(room, x->host, &port)) return "the request names no valid host";
  if (port != 0 && port != c->port) return "the Host field names another port than the connection's";
  if (target.n == 0) target = (http_span){"/", 1};
  *path = target;
  set_path(x, target);
  return NULL;
}

static void add_fields(csn_buf *b, const http_head *h, bool drop_ours) {
  for (size_t i = 0; i < h->count; i++) {
    const http_field *f = &h->fields[i];
    if (http_hop_by_hop(h, f) || http_is_nocase(f->name, "Content-Length") ||
        http_is_nocase(f->name, "Expect"))
      continue;
    /* The URL carries the host, and the sandbox must not speak with the engine's voice. */
    if (drop_ours && (http_is_nocase(f->name, "Host") || is_ours(f))) continue;
    csn_buf_add(b, f->name.p, f->name.n);
    csn_buf_str(b, ": ");
    csn_buf_add(b, f->value.p, f->value.n);
    csn_buf_str(b, "\r\n");
  }
}

static void add_framing(csn_buf *b, const http_head *h) {
  if (h->framing == BODY_CHUNKED)
    csn_buf_str(b, "Transfer-Encoding: chunked\r\n");
  else if (h->framing == BODY_LENGTH)
    csn_buf_fmt(b, "Content-Length: %llu\r\n", (unsigned long long)h->length);
}

static void finish_head(conn *c, const http_head *h, bool drop_ours) {
  csn_buf *b = &c->x.head;
  add_fields(b, h, drop_ours);
  add_framing(b, h);
  csn_buf_str(b, c->x.websocket ? "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
                 : c->x.keep_up ? "\r\n"
                                : "Connection: close\r\n\r\n");
}

static void write_head(conn *c, const http_head *h, http_span path) {
  exchange *x = &c->x;
  const egress_set *set = &c->sb->egress;
  const bool worker = x->verdict == EGRESS_INTERCEPT;
  const unsigned usual = c->tls ? 443 : 80;
  csn_buf *b = &x->head;
  char port[8] = "";
  if (c->port != usual) snprintf(port, sizeof port, ":%u", c->port);
  csn_buf_fmt(b, "%s ", x->method);
  if (worker) {
    csn_buf_fmt(b, "%s HTTP/1.1\r\nHost: %s\r\n", set->path, set->authority);
    if (set->token != NULL) csn_buf_fmt(b, "X-Caisson-Egress-Token: %s\r\n", set->token);
    csn_buf_fmt(b, "X-Caisson-Egress-URL: %s://%s%s", c->tls ? "https" : "http", x->host, port);
    csn_buf_add(b, path.p, path.n);
    csn_buf_str(b, "\r\n");
    csn_buf_fmt(b, "X-Caisson-Out: %u %s", out_open(c->sb), c->sb->out_token);
    /* A program that opens a connection has the name looked up anew, as it would without us. */
    const ip_addr *open = x->again ? idle_address(c->sb, c->tls, x->host, c->port, c->begun_ms) : NULL;
    char text[IP_TEXT_MAX];
    if (open != NULL) {
      ip_format(open, text);
      csn_buf_fmt(b, " %s", text);
    }
    csn_buf_str(b, "\r\n");
  } else {
    csn_buf_add(b, path.p, path.n);
    csn_buf_str(b, " HTTP/1.1\r\n");
    if (h->host.n == 0) csn_buf_fmt(b, "Host: %s%s\r\n", x->host, port);
  }
  finish_head(c, h, worker);
}

static void on_change(void *arg) {
  conn_run(arg);
}

static void on_reached(void *arg, stream *s, const ip_addr *address, int error) {
  conn *c = arg;
  exchange *x = &c->x;
  c->reach = NULL;
  if (s == NULL) {
    char text[640];
    run r;
    c->reached = *address;
    if (x->verdict == EGRESS_INTERCEPT) {
      r = answer_error(c, 502, "EGRESS_UNREACHABLE", x->host,
                       "the Worker that handles outbound requests does not answer");
    } else if (error == EACCES) {
      snprintf(text, sizeof text, "host %s has no address that a sandbox may connect to", x->host);
      r = answer_error(c, 403, "ADDRESS_NOT_ALLOWED", x->host, text);
    } else {
      snprintf(text, sizeof text, "host %s cannot be reached: %s", x->host,
               error == ENOENT ? "no such name" : strerror(error));
      r = answer_error(c, 502, "HOST_UNREACHABLE", x->host, text);
    }
    if (r == RUN_MORE) conn_run(c);
    return;
  }
  c->up = s;
  c->reached = *address;
  c->seen_ms = csn_now_ms();
  stream_set_ready(s, on_change, c);
  if (x->up_tls && !stream_connect_tls(s, x->host)) {
    run r = answer_error(c, 502, "TLS_FAILED", x->host, "TLS cannot be begun");
    if (r == RUN_MORE) conn_run(c);
    return;
  }
  x->state = EX_SECURING;
  conn_timeout(c, x->up_tls ? HEAD_MS : 0);
  conn_run(c);
}

/* Connects to where the request is to go. */
static void reach_out(conn *c) {
  const exchange *x = &c->x;
  if (x->key.server)
    c->reach = reach_worker(c->sb, on_reached, c);
  else
    c->reach = x->key.judged ? reach_address(c->sb, &x->key.address, x->key.port, on_reached, c)
                             : reach_host(c->sb, x->key.host, x->key.port, on_reached, c);
}

/* Takes a connection that waits for such a request, if one does. */
static bool take_idle(conn *c) {
  exchange *x = &c->x;
  c->up = idle_take(c->sb, &x->key, &c->reached, &c->seen_ms);
  if (c->up == NULL) return false;
  x->reused = true;
  x->state = EX_SECURING;
  stream_set_ready(c->up, on_change, c);
  return true;
}

/* The connection had ended before the request came to it: another is made. */
static run start_again(conn *c) {
  stream_free(c->up, true);
  c->up = NULL;
  if (c->x.key.server && c->sb->egress.url_host == NULL)
    return answer_error(c, 403, "HOST_NOT_ALLOWED", c->x.host,
                        "the sandbox's network policy has changed: no Worker handles its requests any more");
  c->x.reused = false;
  /* One of the Worker's own is replaced by one to the server in front. */
  if (c->x.key.server) c->x.keep_up = false;
  c->x.state = EX_REACHING;
  reach_out(c);
  return RUN_WAIT;
}

/* Sends the head when there is room for it: with TLS, after the handshake. */
static run secure_run(conn *c) {
  exchange *x = &c->x;
  if (stream_error(c->down) != 0) return conn_free(c, true);
  if (x->reused && (stream_error(c->up) != 0 || stream_has_ended(c->up))) return start_again(c);
  if (stream_error(c->up) != 0 || (x->up_tls && stream_has_ended(c->up))) {
    char text[640];
    snprintf(text, sizeof text, "%s: %s", x->host,
             x->up_tls ? stream_tls_trouble(c->up) : strerror(stream_error(c->up)));
    return answer_error(c, 502, x->up_tls ? "TLS_FAILED" : "HOST_UNREACHABLE", x->host, text);
  }
  if (stream_room(c->up) < x->head.len) return RUN_WAIT;
  stream_put(c->up, x->head.p, x->head.len);
  if (!x->reused || !x->again) csn_buf_free(&x->head);
  /* The client may wait for it before it sends what somebody is there to take. */
  if (x->expect) stream_put(c->down, "HTTP/1.1 100 Continue\r\n\r\n", 25);
  x->expect = false;
  x->state = EX_RUNNING;
  conn_timeout(c, 0);
  return RUN_MORE;
}

static bool method_ok(const char *method) {
  return strcmp(method, "CONNECT") != 0 && strcmp(method, "TRACE") != 0 && strcmp(method, "TRACK") != 0;
}

/* Whether a server that gets the request twice does what it would have done (RFC 9110 9.2.2). Nothing of a
 * body is kept to be sent again. */
static bool may_repeat(const conn *c, const http_head *h) {
  static const char *const methods[] = {"GET", "HEAD", "OPTIONS"};
  for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
    if (strcmp(c->x.method, methods[i]) == 0) return h->framing == BODY_NONE && !c->x.websocket;
  return false;
}

static run start(conn *c, const http_head *h, size_t used) {
  http_body_start(&c->x.request, h);
  c->x.chunk_up = h->framing == BODY_CHUNKED;
  stream_take(c->down, used);
  conn_timeout(c, 0);
  c->x.state = EX_REACHING;
  return RUN_WAIT;
}

/* ---- a request of the Worker's ---- */

static void on_resolved(void *arg, const ip_addr *list, size_t count, int error) {
  conn *c = arg;
  (void)error;
  c->lookup = NULL;
  idle_seen(c->sb, c->x.host, list, count);
  csn_buf b = {0};
  char text[IP_TEXT_MAX];
  csn_buf_str(&b, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Caisson-Out-Addresses: ");
  for (size_t i = 0; i < count; i++) {
    ip_format(&list[i], text);
    csn_buf_fmt(&b, "%s%s", i > 0 ? "," : "", text);
  }
  csn_buf_str(&b, "\r\n\r\n");
  stream_put(c->down, b.p, b.len);
  csn_buf_free(&b);
  relay_clear(c);
  conn_timeout(c, IDLE_MS);
  conn_run(c);
}

/* The connection is for requests to the Worker from now on. */
static run serve(conn *c, size_t used) {
  static const ip_addr none;
  stream *s = c->down;
  c->down = NULL;
  stream_take(s, used);
  idle_put(c->sb, s, &(idle_key){.server = true}, &none, 0);
  return conn_free(c, false);
}

static run begin_out(conn *c, const http_head *h, size_t used) {
  exchange *x = &c->x;
  out_target t;
  c->reached = (ip_addr){{0}};
  const char *wrong = out_read(c->sb, h, &t);
  memcpy(x->host, t.host, sizeof x->host);
  c->port = t.port;
  if (wrong != NULL) return answer_error(c, 400, "BAD_REQUEST", x->host, wrong);
  if (t.serve) return serve(c, used);
  x->verdict = EGRESS_PASS;
  x->up_tls = t.tls;
  if (t.resolve) {
    if (h->framing != BODY_NONE)
      return answer_error(c, 400, "BAD_REQUEST", x->host, "a look-up takes no body");
    (void)start(c, h, used);
    c->lookup = lookup_start(t.host, on_resolved, c);
    return RUN_WAIT;
  }
  set_path(x, t.path);
  x->key = (idle_key){.tls = t.tls, .judged = t.judged, .port = t.port, .address = t.address};
  memcpy(x->key.host, t.host, sizeof x->key.host);
  x->again = may_repeat(c, h);
  x->keep_up = !x->websocket;
  memcpy(c->entry, t.entry, sizeof c->entry);
  csn_buf_fmt(&x->head, "%s ", x->method);
  csn_buf_add(&x->head, t.path.p, t.path.n);
  csn_buf_str(&x->head, " HTTP/1.1\r\nHost: ");
  csn_buf_add(&x->head, t.authority.p, t.authority.n);
  csn_buf_str(&x->head, "\r\n");
  finish_head(c, h, true);
  const run r = start(c, h, used);
  /* What cannot be repeated goes out on a connection that is new. */
  if (x->again && take_idle(c)) return RUN_MORE;
  reach_out(c);
  return r;
}

/* ---- a request of the sandbox's ---- */

static run begin(conn *c, const http_head *h, size_t used) {
  exchange *x = &c->x;
  http_span path;
  char text[640];
  c->asked = true;
  *x = (exchange){.begun_ms = csn_now_ms(),
                  .up_start = c->up_bytes,
                  .down_start = c->down_bytes,
                  .keep_alive = h->keep_alive,
                  .old = h->minor == 0,
                  .expect = h->expect,
                  .head_only = http_is(h->method, "HEAD"),
                  /* Who says that this is the last request may end its side and still wait for the answer. */
                  .linger = !h->keep_alive,
                  .rules = c->sb->rules,
                  .verdict = EGRESS_DENY};
  memcpy(x->method, h->method.p, h->method.n);
  x->method[h->method.n] = '\0';
  x->websocket = h->websocket && h->framing == BODY_NONE && strcmp(x->method, "GET") == 0;
  memcpy(x->host, c->host, sizeof x->host);
  if (!method_ok(x->method))
    return answer_error(c, 405, "METHOD_NOT_ALLOWED", x->host, "this method does not leave a sandbox");
  if (c->out) return begin_out(c, h, used);
  const char *wrong = read_target(c, h, &path);
  if (wrong != NULL) return answer_error(c, 400, "BAD_REQUEST", x->host, wrong);
  /* TLS named one host and the request inside another (domain fronting). */
  if (c->tls && strcmp(x->host, c->host) != 0) {
    snprintf(text, sizeof text, "the connection is for %s and the request for %s", c->host, x->host);
    return answer_error(c, 421, "MISDIRECTED", x->host, text);
  }
  x->verdict = egress_decide(c->sb, c->tls, x->host, c->port);
  if (x->verdict == EGRESS_PASS) {
    /* Passed to the host that was looked up, so it must be the host that is asked for. By address: as it is
     * said. */
    if (c->named ? strcmp(x->host, c->name) != 0
                 : egress_decide(c->sb, c->tls, c->name, c->port) != EGRESS_PASS) {
      snprintf(text, sizeof text, "the connection is for %s and the request for %s", c->name, x->host);
      return answer_error(c, 421, "MISDIRECTED", x->host, text);
    }
  }
  if (x->verdict == EGRESS_DENY) {
    snprintf(text, sizeof text, "host %s is not allowed by this sandbox's network policy", x->host);
    return answer_error(c, 403, "HOST_NOT_ALLOWED", x->host, text);
  }
  x->key = (idle_key){.server = x->verdict == EGRESS_INTERCEPT, .port = c->port};
  memcpy(x->key.host, c->name, sizeof x->key.host);
  x->again = may_repeat(c, h);
  /* A connection that becomes a WebSocket's goes through the server in front. */
  const bool served = x->key.server && !x->websocket && take_idle(c);
  x->keep_up = served;
  write_head(c, h, path);
  (void)start(c, h, used);
  if (served) {
    x->state = EX_SECURING;
    return RUN_MORE;
  }
  reach_out(c);
  return RUN_WAIT;
}

static run read_request(conn *c) {
  static http_head h; /* large, and of use only until begin() returns */
  size_t have, used;
  const char *why, *in = stream_input(c->down, &have);
  if (have == 0) return stream_at_end(c->down) ? conn_free(c, false) : RUN_WAIT;
  /* Who asks and does not read must not fill more than the buffer. */
  if (stream_room(c->down) < OWN_MAX) return RUN_WAIT;
  switch (http_request(in, have, &h, &used, &why)) {
  case HTTP1_MORE:
    if (stream_has_ended(c->down)) return conn_free(c, false);
    if (!c->reading) conn_timeout(c, HEAD_MS);
    c->reading = true;
    return RUN_WAIT;
  case HTTP1_BAD:
    break;
  case HTTP1_OK:
    c->reading = false;
    return begin(c, &h, used);
  }
  relay_clear(c);
  c->x.begun_ms = csn_now_ms();
  c->x.up_start = c->up_bytes;
  c->x.down_start = c->down_bytes;
  memcpy(c->x.host, c->host, sizeof c->x.host);
  c->x.verdict = EGRESS_DENY;
  return answer_error(c, have >= HTTP_HEAD_MAX ? 431 : 400, "BAD_REQUEST", c->host, why);
}

/* ---- bodies ---- */

/* Passes on what there is of a body. false: it is not one. */
static bool pass_body(http_body *b, stream *from, stream *to, bool chunked, uint64_t *count, bool *moved) {
  while (!b->done) {
    size_t have, room = stream_room(to), n;
    const char *data, *in = stream_input(from, &have);
    if (have == 0 || room <= 2 * CHUNK_PAD) return true;
    if (have > room - 2 * CHUNK_PAD) have = room - 2 * CHUNK_PAD;
    ptrdiff_t used = http_body_next(b, in, have, &data, &n);
    if (used < 0) return false;
    if (n > 0 && chunked) {
      char size[CHUNK_PAD];
      stream_put(to, size, (size_t)snprintf(size, sizeof size, "%zx\r\n", n));
      stream_put(to, data, n);
      stream_put(to, "\r\n", 2);
    } else if (n > 0) {
      stream_put(to, data, n);
    }
    *count += n;
    stream_take(from, (size_t)used);
    *moved = true;
    if (b->done && chunked) stream_put(to, "0\r\n\r\n", 5);
  }
  return true;
}

static run finish(conn *c) {
  exchange *x = &c->x;
  log_exchange(c, "answered");
  /* Whole both ways, or the next answer would be read from the rest of this one. One to a host that other
   * rules let through than hold now would carry its next request past them. */
  if (x->keep_up && x->request.done && x->response.done && (x->key.server || x->rules == c->sb->rules))
    idle_put(c->sb, c->up, &x->key, &c->reached, c->seen_ms);
  else
    stream_free(c->up, false);
  c->up = NULL;
  bool again = x->keep_alive && x->request.done;
  relay_clear(c);
  if (!again) return conn_drain(c);
  stream_flush(c->down);
  stream_rest(c->down);
  conn_timeout(c, IDLE_MS);
  return RUN_MORE;
}

/* The answer cannot be completed: the client must not take it for whole. */
static run cut(conn *c, const char *reason) {
  exchange *x = &c->x;
  if (!x->answered) return answer_error(c, 502, "EGRESS_UNREACHABLE", x->host, reason);
  log_exchange(c, reason);
  return conn_free(c, true);
}

static run pass_answer_head(conn *c, const http_head *h) {
  exchange *x = &c->x;
  csn_buf b = {0};
  csn_buf_fmt(&b, "HTTP/1.1 %d %.*s\r\n", h->status, (int)h->reason.n, h->reason.p);
  x->status = h->status;
  x->answered = true;
  const bool switching = h->status == 101;
  x->keep_up = x->keep_up && h->keep_alive && h->framing != BODY_TO_END;
  if (c->out) add_address(&b, &c->reached);
  for (size_t i = 0; i < h->count; i++) {
    const http_field *f = &h->fields[i];
    if (http_hop_by_hop(h, f) || (c->out && is_ours(f))) continue;
    /* Without a body the length tells what it would be; otherwise it is written below. */
    if (http_is_nocase(f->name, "Content-Length") && (h->framing != BODY_NONE || switching)) continue;
    csn_buf_add(&b, f->name.p, f->name.n);
    csn_buf_str(&b, ": ");
    csn_buf_add(&b, f->value.p, f->value.n);
    csn_buf_str(&b, "\r\n");
  }
  if (switching) {
    csn_buf_str(&b, "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
  } else {
    if (h->framing == BODY_LENGTH) {
      csn_buf_fmt(&b, "Content-Length: %llu\r\n", (unsigned long long)h->length);
    } else if (h->framing != BODY_NONE) {
      x->chunk_down = !x->old;
      if (x->old) x->keep_alive = false;
      if (x->chunk_down) csn_buf_str(&b, "Transfer-Encoding: chunked\r\n");
    }
    if (!x->keep_alive)
      csn_buf_str(&b, "Connection: close\r\n");
    else if (x->old)
      csn_buf_str(&b, "Connection: keep-alive\r\n");
    csn_buf_str(&b, "\r\n");
  }
  stream_put(c->down, b.p, b.len);
  csn_buf_free(&b);
  if (!switching) {
    http_body_start(&x->response, h);
    return RUN_MORE;
  }
  log_exchange(c, "switched to websocket");
  c->switched = true;
  c->switched_up = c->up_bytes;
  c->switched_down = c->down_bytes;
  c->switched_ms = csn_now_ms();
  return conn_tunnel(c);
}

static run read_answer(conn *c) {
  static http_head h; /* as in read_request */
  exchange *x = &c->x;
  size_t have, used;
  const char *why, *in = stream_input(c->up, &have);
  if (have > 0) {
    switch (http_response(in, have, x->head_only, &h, &used, &why)) {
    case HTTP1_MORE:
      break;
    case HTTP1_BAD:
      return cut(c, "the answer to the request is not HTTP/1.1");
    case HTTP1_OK:
      if (h.status == 101 && (!x->websocket || !h.websocket))
        return cut(c, "the answer switches to a protocol that was not asked for");
      if (stream_room(c->down) < used + 256) return RUN_WAIT;
      if (h.status < 200 && h.status != 101) {
        stream_take(c->up, used);
        return RUN_MORE;
      }
      {
        run r = pass_answer_head(c, &h);
        stream_take(c->up, used);
        return r;
      }
    }
  }
  if (stream_has_ended(c->up) || stream_error(c->up) != 0 || have >= STREAM_IN_ROOM) {
    if (x->reused && x->again && have == 0) return start_again(c);
    return cut(c, "the connection ended before the answer");
  }
  return RUN_WAIT;
}

static run exchange_run(conn *c) {
  exchange *x = &c->x;
  bool moved = false;
  if (!x->request.done && !pass_body(&x->request, c->down, c->up, x->chunk_up, &c->up_bytes, &moved)) {
    if (!x->answered)
      return answer_error(c, 400, "BAD_REQUEST", x->host, "the body's chunks are not well formed");
    log_exchange(c, "the body's chunks are not well formed");
    return conn_free(c, true);
  }
  /* Gone, or it promised a body and did not send it. Who said that no request follows may have ended its
   * side. */
  if (stream_error(c->down) != 0 || (stream_at_end(c->down) && (!x->request.done || !x->linger))) {
    log_exchange(c, "the client went away");
    return conn_free(c, true);
  }
  if (!x->answered) {
    run r = read_answer(c);
    if (r != RUN_WAIT) return r;
    return moved ? RUN_MORE : RUN_WAIT;
  }
  if (!pass_body(&x->response, c->up, c->down, x->chunk_down, &c->down_bytes, &moved))
    return cut(c, "the answer's body is not well formed");
  if (!x->response.done && stream_at_end(c->up) && stream_error(c->up) == 0 &&
      x->response.framing == BODY_TO_END) {
    if (x->chunk_down) {
      if (stream_room(c->down) < CHUNK_PAD) return RUN_WAIT;
      stream_put(c->down, "0\r\n\r\n", 5);
    }
    x->response.done = true;
  }
  if (x->response.done) return finish(c);
  if (stream_error(c->up) != 0 || stream_at_end(c->up)) return cut(c, "the answer was cut short");
  return moved ? RUN_MORE : RUN_WAIT;
}

run relay_run(conn *c) {
  switch (c->x.state) {
  case EX_IDLE:
    if (stream_error(c->down) != 0) {
      if (!c->asked && c->tls)
        conn_log(c, EGRESS_DENY,
                 "the program does not trust the sandbox's certificate authority, or ended TLS");
      return conn_free(c, true);
    }
    return read_request(c);
  case EX_REACHING:
    return stream_error(c->down) != 0 ? conn_free(c, true) : RUN_WAIT;
  case EX_SECURING:
    return secure_run(c);
  case EX_RUNNING:
    return exchange_run(c);
  }
  return RUN_WAIT;
}

run relay_timeout(conn *c) {
  if (c->x.state == EX_SECURING)
    return answer_error(c, 502, "TLS_FAILED", c->x.host, "the TLS handshake takes too long");
  if (c->x.state != EX_IDLE) return RUN_WAIT;
  if (!c->reading) return conn_free(c, false);
  memcpy(c->x.host, c->host, sizeof c->x.host);
  c->x.begun_ms = csn_now_ms();
  return answer_error(c, 408, "REQUEST_TIMEOUT", c->host, "the request's head did not come");
}
