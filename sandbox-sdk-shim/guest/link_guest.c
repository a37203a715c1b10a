/* guest/link_guest.c - the engine's messages: begin, connect to a port here, take a signal. */
#define _GNU_SOURCE
#include "guest.h"

#include "../common/link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECT_MS 5000

typedef struct connecting {
  uint32_t id, port;
  int fd;
  bool v6; /* the second try: some servers listen on ::1 only */
  struct event *ev;
} connecting;

static int link_fd = -1;
static bool begun;

static void try_connect(connecting *c);

static void answer(connecting *c, int err) {
  if (err != 0 && !c->v6) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->v6 = true;
    try_connect(c);
    return;
  }
  (void)csn_link_send(link_fd, CSN_LINK_CONNECTED, c->id, c->port, err, err == 0 ? c->fd : -1);
  if (c->fd >= 0) close(c->fd); /* the engine has its own */
  free(c);
}

static void on_connected(evutil_socket_t fd, short what, void *arg) {
  connecting *c = arg;
  event_free(c->ev);
  c->ev = NULL;
  int err = ETIMEDOUT;
  socklen_t len = sizeof err;
  if ((what & EV_WRITE) != 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0) err = errno;
  answer(c, err);
}

static void try_connect(connecting *c) {
  struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)c->port)};
  struct sockaddr_in6 a6 = {
      .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)c->port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  a4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  c->fd = socket(c->v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  int rc = c->fd < 0 ? -1
           : c->v6   ? connect(c->fd, (struct sockaddr *)&a6, sizeof a6)
                     : connect(c->fd, (struct sockaddr *)&a4, sizeof a4);
  if (rc == 0 || errno != EINPROGRESS) {
    answer(c, rc == 0 ? 0 : errno);
    return;
  }
  c->ev = event_new(guest_base, c->fd, EV_WRITE, on_connected, c);
  if (c->ev == NULL) abort();
  struct timeval tv = {CONNECT_MS / 1000, 0};
  event_add(c->ev, &tv);
}

static void on_link(evutil_socket_t fd, short what, void *arg) {
  (void)what;
  (void)arg;
  csn_link_msg msg;
  int got;
  pid_t peer;
  int rc = csn_link_recv(fd, &msg, &got, &peer);
  if (rc == 0) guest_exit(1); /* the engine is gone */
  if (rc < 0) return;
  if (msg.kind == CSN_LINK_BEGIN && !begun) {
    begun = true;
    guest_begin(got, msg.id, msg.port);
  }
  if (got >= 0) close(got);
  if (msg.kind == CSN_LINK_CONNECT && msg.port >= 1 && msg.port <= 65535) {
    connecting *c = calloc(1, sizeof *c);
    if (c == NULL) abort();
    c->id = msg.id;
    c->port = msg.port;
    c->fd = -1;
    try_connect(c);
  } else if (msg.kind == CSN_LINK_SIGNAL && msg.code > 0 && msg.code < 65) {
    raise(msg.code);
  }
}

void link_ready(void) {
  (void)csn_link_send(link_fd, CSN_LINK_READY, 0, 0, 0, -1);
}

void link_init(int fd) {
  link_fd = fd;
  struct event *ev = event_new(guest_base, fd, EV_READ | EV_PERSIST, on_link, NULL);
  if (ev == NULL || evutil_make_socket_nonblocking(fd) < 0) abort();
  event_add(ev, NULL);
  (void)csn_link_send(fd, CSN_LINK_UP, 0, 0, 0, -1);
}
