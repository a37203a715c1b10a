/* engine/gate.c - how much of the engine one sandbox's outbound requests may hold.
 *
 * evhttp takes every connection, keeps an unfinished request for as long as it lasts, and
 * tells of neither. The gate is therefore put where a connection's buffer is made: it counts
 * descriptors and the bytes that arrive, and finds out by looking which connections are gone. */
#define _GNU_SOURCE
#include "engine.h"

#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONNS_MAX 256u                 /* connections of one sandbox at once */
#define HELD_MAX  (256u * 1024 * 1024) /* bytes of requests not yet answered, of one sandbox */
#define LOOK_MS   50                   /* between two looks for a free place while all are taken */

typedef struct gate_conn {
  gate *g;
  struct bufferevent *bev; /* referenced, until fd is known */
  int fd;
  ino_t socket; /* what fd stood for: the number is used again */
  size_t held;  /* bytes since the last answer */
  bool cut;     /* its end is on its way */
  struct gate_conn *next;
} gate_conn;

struct gate {
  const char *name;
  struct evconnlistener *listener;
  struct event *note, *look;
  gate_conn *conns;
  unsigned count;
};

/* The socket's own number, 0 where fd is closed. */
static ino_t socket_of(int fd) {
  struct stat st;
  return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode) ? st.st_ino : 0;
}

/* Forgets connections that are closed; their buffers, which pointed to them, are gone then. Returns the
 * bytes that the others hold. */
static size_t sweep(gate *g) {
  size_t held = 0;
  for (gate_conn **at = &g->conns; *at != NULL;) {
    gate_conn *c = *at;
    if (c->bev != NULL || socket_of(c->fd) == c->socket) {
      held += c->held;
      at = &c->next;
      continue;
    }
    *at = c->next;
    g->count--;
    free(c);
  }
  return held;
}

/* After the accept: evhttp gives a buffer its descriptor only then. */
static void on_note(evutil_socket_t unused, short what, void *arg) {
  (void)unused;
  (void)what;
  gate *g = arg;
  for (gate_conn *c = g->conns; c != NULL && c->bev != NULL; c = c->next) {
    c->fd = bufferevent_getfd(c->bev);
    c->socket = socket_of(c->fd);
    bufferevent_decref(c->bev);
    c->bev = NULL;
  }
}

static void on_look(evutil_socket_t unused, short what, void *arg) {
  (void)unused;
  (void)what;
  gate *g = arg;
  sweep(g);
  struct timeval tv = {0, LOOK_MS * 1000};
  if (g->count < CONNS_MAX)
    evconnlistener_enable(g->listener);
  else
    event_add(g->look, &tv);
}

static void on_input(struct evbuffer *buf, const struct evbuffer_cb_info *info, void *arg) {
  (void)buf;
  gate_conn *c = arg;
  c->held += info->n_added;
  /* Only a large one is looked at: all the small ones together stay below the limit. */
  if (c->cut || info->n_added == 0 || c->held < HELD_MAX / CONNS_MAX || sweep(c->g) <= HELD_MAX) return;
  c->cut = true;
  log_line(LOG_WARN, "%s: too many bytes of outbound requests at once", c->g->name);
  /* evhttp sees the end and lets go of all of it; the sandbox sees a reset at once. */
  const struct linger reset = {1, 0};
  setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  shutdown(c->fd, SHUT_RD);
}

static struct bufferevent *on_accept(struct event_base *loop, void *arg) {
  gate *g = arg;
  struct bufferevent *bev = bufferevent_socket_new(loop, -1, BEV_OPT_CLOSE_ON_FREE);
  gate_conn *c = calloc(1, sizeof *c);
  if (bev == NULL || c == NULL) abort();
  bufferevent_incref(bev);
  *c = (gate_conn){.g = g, .bev = bev, .fd = -1, .next = g->conns};
  g->conns = c;
  evbuffer_add_cb(bufferevent_get_input(bev), on_input, c);
  event_active(g->note, EV_TIMEOUT, 0);
  if (++g->count < CONNS_MAX) return bev;
  /* Full: others wait in the sandbox's own kernel queue. */
  evconnlistener_disable(g->listener);
  event_active(g->look, EV_TIMEOUT, 0);
  return bev;
}

gate *gate_new(const char *name, struct evhttp *http, struct evhttp_bound_socket *bound) {
  gate *g = calloc(1, sizeof *g);
  if (g == NULL) abort();
  g->name = name;
  g->listener = evhttp_bound_socket_get_listener(bound);
  g->note = event_new(base, -1, 0, on_note, g);
  g->look = event_new(base, -1, 0, on_look, g);
  if (g->note == NULL || g->look == NULL) abort();
  evhttp_set_bevcb(http, on_accept, g);
  return g;
}

void gate_answered(gate *g, struct evhttp_connection *conn) {
  int fd = bufferevent_getfd(evhttp_connection_get_bufferevent(conn));
  for (gate_conn *c = g->conns; c != NULL; c = c->next)
    if (c->bev == NULL && c->fd == fd) c->held = 0;
}

void gate_free(gate *g) {
  on_note(-1, 0, g); /* drops the references */
  event_free(g->note);
  event_free(g->look);
  while (g->conns != NULL) {
    gate_conn *c = g->conns;
    g->conns = c->next;
    free(c);
  }
  free(g);
}
