/* engine/ports.c - TCP ports on the host's loopback that lead into a sandbox. */
#define _GNU_SOURCE
#include "engine.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/listener.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define GUEST_PORT 3000u
#define CONNS_MAX  1024u /* connections of one sandbox at once */

struct port_listener {
  sandbox *sb;
  unsigned port, host_port;
  struct evconnlistener *listener;
  port_listener *next;
};

/* One connection: first its head is read and checked, then the sandbox's side is opened, then
 * both are joined. */
struct port_conn {
  sandbox *sb;
  unsigned port;
  uint32_t id; /* of the connect message; 0 when none is out */
  int fd;
  struct event *ev;
  csn_buf head;
  pump *joined;
  port_gate *gate; /* NULL for the guest's own port: its server drops the line */
  port_conn *next;
};

static uint32_t next_id = 1;

static void drop(port_conn *c) {
  c->sb->used_ms = csn_now_ms();
  for (port_conn **at = &c->sb->conns; *at != NULL; at = &(*at)->next) {
    if (*at != c) continue;
    *at = c->next;
    break;
  }
  if (c->ev != NULL) event_free(c->ev);
  if (c->fd >= 0) close(c->fd);
  csn_buf_free(&c->head);
  port_gate_free(c->gate);
  free(c);
}

/* Answers and closes. The socket's buffer is empty, so the text always fits. */
static void refuse(port_conn *c, const char *status, const char *text) {
  char room[512];
  int n = snprintf(
      room, sizeof room,
      "HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s", status,
      strlen(text), text);
  ssize_t sent = send(c->fd, room, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
  (void)sent;
  shutdown(c->fd, SHUT_WR);
  /* Unread data at close() would make the kernel send a reset that overtakes the answer. */
  char junk[4096];
  for (int i = 0; i < 64 && recv(c->fd, junk, sizeof junk, MSG_DONTWAIT) > 0; i++)
    continue;
  drop(c);
}

static void on_joined_end(void *arg) {
  port_conn *c = arg;
  c->joined = NULL;
  drop(c);
}

static void join(port_conn *c, int other) {
  int fd = c->fd, one = 1;
  c->fd = -1; /* the pump owns both */
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(other, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* fails harmlessly on unix sockets */
  if (c->port != GUEST_PORT) c->gate = port_gate_new(c->sb->port_token);
  c->joined = pump_start(fd, other, c->head.p, c->head.len, c->gate == NULL ? NULL : port_gate_pass, c->gate,
                         on_joined_end, c);
  csn_buf_free(&c->head);
}

static int connect_guest(const sandbox *sb) {
  /* Not blocking: a guest that does not accept must cost its own sandbox, not the engine. */
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  /* By descriptor: state directories may be longer than a socket address. */
  snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/guest.sock", sb->dir_fd);
  if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
    close(fd);
    fd = -1;
  }
  return fd;
}

static const char not_listening[] = "the container is not listening";

/* Finds the token's line in the head, checks it and takes it out, so that the sandbox does not see
 * it. */
static bool check_token(port_conn *c) {
  static const char name[] = PORT_TOKEN_HEADER ":";
  char *text = csn_buf_cstr(&c->head);
  for (char *line = strstr(text, "\r\n"); line != NULL; line = strstr(line, "\r\n")) {
    line += 2;
    if (strncasecmp(line, name, sizeof name - 1) != 0) continue;
    char *value = line + sizeof name - 1;
    char *end = strstr(line, "\r\n");
    if (end == NULL) return false;
    while (*value == ' ' || *value == '\t')
      value++;
    char given[128];
    size_t n = (size_t)(end - value);
    if (n >= sizeof given) return false;
    memcpy(given, value, n);
    given[n] = '\0';
    if (!csn_ct_equal(given, c->sb->port_token)) return false;
    size_t cut = (size_t)(end + 2 - line);
    memmove(line, line + cut, c->head.len - (size_t)(line - text) - cut);
    c->head.len -= cut;
    return true;
  }
  return false;
}

static void head_complete(port_conn *c) {
  event_free(c->ev);
  c->ev = NULL;
  /* Any process of the host can connect to a loopback port; only the token's holder may use it. */
  if (!check_token(c)) {
    refuse(c, "403 Forbidden", "missing or wrong X-Caisson-Port-Token");
    return;
  }
  if (c->port == GUEST_PORT) {
    int fd = connect_guest(c->sb);
    if (fd < 0)
      refuse(c, "502 Bad Gateway", not_listening);
    else
      join(c, fd);
    return;
  }
  c->id = next_id++;
  if (next_id == 0) next_id = 1;
  if (!sandbox_connect(c->sb, c->id, c->port)) refuse(c, "502 Bad Gateway", not_listening);
}

static void on_head(evutil_socket_t fd, short what, void *arg) {
  port_conn *c = arg;
  if ((what & EV_TIMEOUT) != 0) {
    refuse(c, "408 Request Timeout", "no request");
    return;
  }
  char *at = csn_buf_room(&c->head, ENGINE_HEAD_MAX + 1);
  ssize_t n =
      recv(fd, at, ENGINE_HEAD_MAX - (c->head.len < ENGINE_HEAD_MAX ? c->head.len : ENGINE_HEAD_MAX) + 1,
           MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    drop(c);
    return;
  }
  c->head.len += (size_t)n;
  if (memmem(c->head.p, c->head.len, "\r\n\r\n", 4) != NULL) {
    head_complete(c);
  } else if (c->head.len > ENGINE_HEAD_MAX) {
    refuse(c, "431 Request Header Fields Too Large", "request head too long");
  }
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *sa, int len, void *arg) {
  (void)l;
  (void)sa;
  (void)len;
  port_listener *pl = arg;
  size_t count = 0;
  for (port_conn *c = pl->sb->conns; c != NULL; c = c->next)
    count++;
  if (count >= CONNS_MAX) {
    close(fd);
    return;
  }
  port_conn *c = calloc(1, sizeof *c);
  if (c == NULL) abort();
  c->sb = pl->sb;
  c->port = pl->port;
  c->fd = fd;
  c->next = pl->sb->conns;
  pl->sb->conns = c;
  c->ev = event_new(base, fd, EV_READ | EV_PERSIST, on_head, c);
  if (c->ev == NULL) abort();
  struct timeval tv = {ENGINE_HEAD_MS / 1000, 0};
  event_add(c->ev, &tv);
}

unsigned ports_open(sandbox *sb, unsigned port) {
  for (port_listener *pl = sb->ports; pl != NULL; pl = pl->next)
    if (pl->port == port) return pl->host_port;
  port_listener *pl = calloc(1, sizeof *pl);
  if (pl == NULL) abort();
  pl->sb = sb;
  pl->port = port;
  struct sockaddr_in a = {.sin_family = AF_INET};
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  pl->listener = evconnlistener_new_bind(base, on_accept, pl,
                                         LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | LEV_OPT_REUSEABLE,
                                         512, (struct sockaddr *)&a, sizeof a);
  socklen_t len = sizeof a;
  if (pl->listener == NULL ||
      getsockname(evconnlistener_get_fd(pl->listener), (struct sockaddr *)&a, &len) != 0) {
    int err = errno;
    if (pl->listener != NULL) evconnlistener_free(pl->listener);
    free(pl);
    errno = err;
    return 0;
  }
  pl->host_port = ntohs(a.sin_port);
  pl->next = sb->ports;
  sb->ports = pl;
  return pl->host_port;
}

void ports_close(sandbox *sb) {
  while (sb->conns != NULL) {
    port_conn *c = sb->conns;
    if (c->joined != NULL) pump_cancel(c->joined);
    drop(c);
  }
  while (sb->ports != NULL) {
    port_listener *pl = sb->ports;
    sb->ports = pl->next;
    evconnlistener_free(pl->listener);
    free(pl);
  }
}

/* The guest may send any descriptor: it must be a connected stream socket. */
static bool is_stream(int fd) {
  int type, domain, listening;
  socklen_t len = sizeof(int);
  if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) != 0 || type != SOCK_STREAM) return false;
  if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) != 0 || (domain != AF_INET && domain != AF_INET6))
    return false;
  return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) == 0 && listening == 0;
}

void ports_connected(sandbox *sb, uint32_t id, int err, int fd) {
  port_conn *c = sb->conns;
  while (c != NULL && (id == 0 || c->id != id))
    c = c->next;
  bool good = err == 0 && fd >= 0 && is_stream(fd);
  if (c == NULL || !good) {
    if (fd >= 0) close(fd);
    if (c != NULL) refuse(c, "502 Bad Gateway", not_listening);
    return;
  }
  c->id = 0;
  join(c, fd);
}
