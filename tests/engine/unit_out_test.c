/* tests/engine/unit_out_test.c - what the engine tells the Worker of a WebSocket's end leaves nothing behind,
 * whatever the Worker does with it; under ASan and UBSan. TAP. */
#define _GNU_SOURCE
#include "../../sandbox-sdk-shim/engine/egress.h"
#include "check.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct event_base *base;

/* Of the rest of the engine. */
void conn_from_worker(sandbox *sb, int fd) {
  (void)sb;
  close(fd);
}

void log_line(int level, const char *fmt, ...) {
  (void)level;
  (void)fmt;
}

/* What libevent holds. */
static long held;

static void *take(size_t size) {
  held++;
  return malloc(size);
}

static void *retake(void *p, size_t size) {
  if (p == NULL) held++;
  return realloc(p, size);
}

static void give(void *p) {
  if (p != NULL) held--;
  free(p);
}

/* A loopback socket that listens, or only has a port where nobody does; *port: which. */
static int on_loopback(bool listens, unsigned *port) {
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof a;
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || (listens && listen(fd, 16) != 0) ||
      getsockname(fd, (struct sockaddr *)&a, &len) != 0)
    abort();
  *port = ntohs(a.sin_port);
  return fd;
}

/* Runs the loop for a while; who comes is answered with `answer`, NULL: hears the end. The requests in all.
 */
static int answer_all(int listener, const char *answer) {
  int requests = 0, at = -1;
  for (int i = 0; i < 200; i++) {
    char room[2048];
    event_base_loop(base, EVLOOP_NONBLOCK);
    if (at < 0) at = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (at >= 0 && recv(at, room, sizeof room, 0) > 0) {
      requests++;
      if (answer != NULL && send(at, answer, strlen(answer), MSG_NOSIGNAL) < 0) abort();
      close(at);
      at = -1;
    }
    usleep(1000);
  }
  if (at >= 0) close(at);
  return requests;
}

static void tell(const char *what, bool listens, const char *answer) {
  unsigned port;
  const int listener = on_loopback(listens, &port);
  char host[] = "127.0.0.1", authority[] = "localhost:1", path[] = "/egress?box=1", token[] = "token";
  sandbox sb = {
      .egress = {.url_host = host, .authority = authority, .path = path, .token = token, .port = port}};
  conn c = {.sb = &sb, .entry = "41"};
  long at[2];
  int requests = 0;
  /* The first round also makes what libevent keeps. */
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < 3; i++)
      out_told(&c);
    requests += answer_all(listener, answer);
    at[round] = held;
  }
  printf("# %d requests, %ld pieces before and %ld after\n", requests, at[0], at[1]);
  check(requests == (listens ? 6 : 0) && at[1] == at[0], what);
  close(listener);
}

int main(void) {
  event_set_mem_functions(take, retake, give);
  base = event_base_new();
  if (base == NULL) abort();
  tell("nobody listens", false, NULL);
  tell("the Worker closes", true, NULL);
  tell("the Worker answers", true, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
  tell("the Worker answers what is not HTTP", true, "no\r\n\r\n");
  event_base_free(base);
  int bad = done();
  fflush(stdout); /* before what ASan says of leaks */
  return bad;
}
