/* tests/engine/unit_pump_test.c - what goes into a pump comes out, however it was cut, under ASan and UBSan.
 * TAP. */
#define _GNU_SOURCE
#include "../../sandbox-sdk-shim/engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct event_base *base;

static int count, failed;

static void check(bool good, const char *what) {
  count++;
  if (!good) failed++;
  printf("%s %d - %s\n", good ? "ok" : "not ok", count, what);
}

static void on_done(void *arg) {
  *(bool *)arg = true;
}

/* Packets, so that each read of the pump gets one: `n` of them are all there before it looks. */
static void test_packets(int n, bool end) {
  int in[2], out[2];
  bool done = false;
  if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, in) != 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, out) != 0)
    abort();
  for (int i = 0; i < n; i++)
    if (send(in[0], "packet", 6, 0) != 6) abort();
  if (end) shutdown(in[0], SHUT_WR);
  pump *p = pump_start(in[1], out[1], NULL, 0, on_done, &done);
  char room[4096];
  size_t got = 0;
  bool ended = false;
  for (int i = 0; i < 50; i++) {
    event_base_loop(base, EVLOOP_NONBLOCK);
    ssize_t r = recv(out[0], room + got, sizeof room - got, MSG_DONTWAIT);
    if (r > 0) got += (size_t)r;
    if (r == 0) ended = true;
  }
  char what[96];
  snprintf(what, sizeof what, "%d packets%s", n, end ? " and the end" : "");
  check(got == 6 * (size_t)n && ended == end, what);
  if (end) {
    shutdown(out[0], SHUT_WR);
    for (int i = 0; i < 50; i++)
      event_base_loop(base, EVLOOP_NONBLOCK);
    check(done, "both directions ended: done");
  } else {
    pump_cancel(p);
  }
  close(in[0]);
  close(out[0]);
}

int main(void) {
  base = event_base_new();
  if (base == NULL) abort();
  for (int n = 0; n <= 20; n++) {
    test_packets(n, false);
    test_packets(n, true);
  }
  event_base_free(base);
  printf("1..%d\n", count);
  return failed == 0 ? 0 : 1;
}
