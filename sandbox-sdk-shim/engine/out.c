/* engine/out.c - the Worker's requests to the outside.
 *
 * The Worker decides about what a sandbox asks for, and its own fetch would look the name up again, where
 * nobody sees the address. So it sends the request here, to a listener on loopback of that sandbox's own: the
 * engine looks the name up once, checks the addresses, connects to one of exactly those (reach.c), and does
 * TLS with the name (stream.c). relay.c passes the rest, as it does for what comes from inside. */
#define _GNU_SOURCE
#include "egress.h"

#include <arpa/inet.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define TOLD_S 5 /* for the Worker to take a word that nobody waits for */

struct out_door {
  sandbox *sb;
  struct evconnlistener *listener;
  unsigned port;
};

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *sa, int len, void *arg) {
  (void)l;
  (void)sa;
  (void)len;
  out_door *d = arg;
  conn_from_worker(d->sb, fd);
}

unsigned out_open(sandbox *sb) {
  if (sb->out != NULL) return sb->out->port;
  struct sockaddr_in a = {.sin_family = AF_INET};
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t len = sizeof a;
  out_door *d = calloc(1, sizeof *d);
  if (d == NULL) abort();
  d->sb = sb;
  d->listener = evconnlistener_new_bind(base, on_accept, d,
                                        LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_REUSEABLE,
                                        512, (struct sockaddr *)&a, sizeof a);
  if (d->listener == NULL ||
      getsockname(evconnlistener_get_fd(d->listener), (struct sockaddr *)&a, &len) != 0) {
    if (d->listener != NULL) evconnlistener_free(d->listener);
    free(d);
    return 0;
  }
  d->port = ntohs(a.sin_port);
  sb->out = d;
  return d->port;
}

void out_close(sandbox *sb) {
  if (sb->out == NULL) return;
  evconnlistener_free(sb->out->listener);
  free(sb->out);
  sb->out = NULL;
}

/* The field's value as text in `room`; false when it is not there once, or too long. */
static bool text_of(const http_head *h, const char *name, char *room, size_t size) {
  const http_field *f = http_find(h, name);
  if (f == NULL || f->value.n >= size) return false;
  memcpy(room, f->value.p, f->value.n);
  room[f->value.n] = '\0';
  return true;
}

static void free_told(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  evhttp_connection_free(arg);
}

/* The connection is freed from the loop, as libevent still uses it here; and not by
 * evhttp_connection_free_on_completion, which libevent 2.1.12 forgets when nobody takes the connection. */
static void on_told(struct evhttp_request *req, void *arg) {
  if (event_base_once(base, -1, EV_TIMEOUT, free_told, arg, NULL) != 0) abort();
  const int status = req == NULL ? 0 : evhttp_request_get_response_code(req);
  if (status < 200 || status >= 300) log_line(LOG_INFO, "the Worker did not take how a WebSocket ended");
}

void out_told(const conn *c) {
  const egress_set *set = &c->sb->egress;
  if (set->url_host == NULL) return;
  struct evhttp_connection *to =
      evhttp_connection_base_new(base, NULL, set->url_host, (ev_uint16_t)set->port);
  if (to == NULL) abort();
  evhttp_connection_set_timeout(to, TOLD_S);
  struct evhttp_request *req = evhttp_request_new(on_told, to);
  if (req == NULL) abort();
  csn_buf said = {0};
  csn_buf_fmt(&said, "%s %llu %llu %lld", c->entry, (unsigned long long)(c->up_bytes - c->switched_up),
              (unsigned long long)(c->down_bytes - c->switched_down),
              (long long)(csn_now_ms() - c->switched_ms));
  struct evkeyvalq *head = evhttp_request_get_output_headers(req);
  evhttp_add_header(head, "Host", set->authority);
  evhttp_add_header(head, "Content-Length", "0");
  evhttp_add_header(head, "Connection", "close");
  if (set->token != NULL) evhttp_add_header(head, "X-Caisson-Egress-Token", set->token);
  evhttp_add_header(head, "X-Caisson-Egress-Ended", csn_buf_cstr(&said));
  /* It answers on_told, now or later, unless it says otherwise. */
  if (evhttp_make_request(to, req, EVHTTP_REQ_POST, set->path) != 0) evhttp_connection_free(to);
  csn_buf_free(&said);
}

const char *out_read(const sandbox *sb, const http_head *h, out_target *t) {
  char room[ENGINE_HOST_MAX + 8];
  *t = (out_target){0};
  /* Any process of the host can connect to a loopback port; only the token's holder may use it. */
  if (!text_of(h, "X-Caisson-Out-Token", room, sizeof room) || !csn_ct_equal(room, sb->out_token))
    return "missing or wrong X-Caisson-Out-Token";
  t->serve = http_find(h, "X-Caisson-Out-Serve") != NULL;
  if (t->serve) return h->framing == BODY_NONE ? NULL : "a connection that serves begins without a body";
  const http_field *url = http_find(h, "X-Caisson-Out-URL");
  if (url == NULL) return "X-Caisson-Out-URL is missing";
  static const char *const schemes[] = {"http://", "https://"};
  http_span at = url->value;
  size_t n = 0;
  for (int i = 0; i < 2; i++) {
    size_t len = strlen(schemes[i]);
    if (at.n <= len || strncasecmp(at.p, schemes[i], len) != 0) continue;
    t->tls = i == 1;
    n = len;
  }
  if (n == 0) return "X-Caisson-Out-URL is neither http nor https";
  at.p += n;
  at.n -= n;
  const char *slash = memchr(at.p, '/', at.n);
  if (slash == NULL) return "X-Caisson-Out-URL has no path";
  n = (size_t)(slash - at.p);
  if (n >= sizeof room) return "the host is too long";
  memcpy(room, at.p, n);
  room[n] = '\0';
  if (!host_split(room, t->host, &t->port)) return "X-Caisson-Out-URL names no valid host";
  t->authority = (http_span){at.p, n};
  if (t->port == 0) t->port = t->tls ? 443 : 80;
  t->path = (http_span){slash, at.n - n};
  if (memchr(t->path.p, '#', t->path.n) != NULL || memchr(t->path.p, ' ', t->path.n) != NULL)
    return "X-Caisson-Out-URL is not well formed";
  if (http_find(h, "X-Caisson-Out-Entry") != NULL) {
    if (!text_of(h, "X-Caisson-Out-Entry", t->entry, sizeof t->entry) ||
        t->entry[strspn(t->entry, "0123456789")] != '\0')
      return "X-Caisson-Out-Entry is not a number";
  }
  t->resolve = http_find(h, "X-Caisson-Out-Resolve") != NULL;
  if (http_find(h, "X-Caisson-Out-Address") != NULL) {
    if (!text_of(h, "X-Caisson-Out-Address", room, sizeof room) || !ip_parse(room, &t->address))
      return "X-Caisson-Out-Address is not an address";
    t->judged = true;
  }
  return NULL;
}
