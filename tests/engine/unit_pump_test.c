/* tests/engine/unit_pump_test.c - what goes into a pump comes out, however it was cut, less the token; under
 * ASan and UBSan. TAP. */
#define _GNU_SOURCE
#include "../../sandbox-sdk-shim/engine/engine.h"
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct event_base *base;

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
  pump *p = pump_start(in[1], out[1], NULL, 0, NULL, NULL, on_done, &done);
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

#define TOKEN "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define LINE  "x-caisson-port-token: " TOKEN "\r\n"

/* Every cut of `in` into two, and byte by byte, gives `want`; NULL: the stream is refused. */
static void test_gate(const char *what, const char *in, const char *want) {
  size_t len = strlen(in);
  bool good = true;
  for (size_t cut = 0; cut <= len + 1; cut++) {
    port_gate *g = port_gate_new(TOKEN);
    csn_buf out = {0};
    bool passed = true;
    if (cut > len) {
      for (size_t i = 0; i < len && passed; i++)
        passed = port_gate_pass(g, &out, in + i, 1);
    } else {
      passed = port_gate_pass(g, &out, in, cut) && port_gate_pass(g, &out, in + cut, len - cut);
    }
    if (passed != (want != NULL) || (want != NULL && strcmp(csn_buf_cstr(&out), want) != 0)) good = false;
    csn_buf_free(&out);
    port_gate_free(g);
  }
  check(good, what);
}

static void test_gates(void) {
  test_gate("a head without a body", "GET / HTTP/1.1\r\n" LINE "Host: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
  test_gate("the line at the end of the head", "GET / HTTP/1.1\r\nHost: a\r\n" LINE "\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
  test_gate("no line", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
  test_gate("each of several requests, bodies between them",
            "POST /1 HTTP/1.1\r\nHost: a\r\n" LINE "Content-Length: 5\r\n\r\n"
            "hello"
            "POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" LINE "\r\n"
            "3\r\nabc\r\n0\r\n\r\n"
            "GET /3 HTTP/1.1\r\n" LINE "Host: a\r\n\r\n",
            "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"
            "hello"
            "POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            "3\r\nabc\r\n0\r\n\r\n"
            "GET /3 HTTP/1.1\r\nHost: a\r\n\r\n");
  test_gate("a body that looks like the line",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 88\r\n\r\n" LINE,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 88\r\n\r\n" LINE);
  test_gate("everything after a WebSocket's head",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" LINE "\r\n"
            "\x81\x85\r\n\r\n" LINE,
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            "\x81\x85\r\n\r\n" LINE);
  test_gate("requests after a WebSocket's that was refused, and then one that was not",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" LINE "\r\n"
            "GET /2 HTTP/1.1\r\n" LINE "Host: a\r\n\r\n"
            "GET /3 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n" LINE "Upgrade: websocket\r\n\r\n"
            "BIND /4 HTTP/1.1\r\n" LINE "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            "A\x85" LINE,
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            "GET /2 HTTP/1.1\r\nHost: a\r\n\r\n"
            "GET /3 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            "BIND /4 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            "A\x85" LINE);
  test_gate("a wrong token after a WebSocket's request that was refused",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            "GET /2 HTTP/1.1\r\nHost: a\r\nX-Caisson-Port-Token: 1\r\n\r\n",
            NULL);
  test_gate("a tunnel", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", NULL);
  test_gate("a wrong token", "GET / HTTP/1.1\r\nHost: a\r\nX-Caisson-Port-Token: 1\r\n\r\n", NULL);
  test_gate("what is not HTTP", "\x16\x03\x01 hello\r\n\r\n", NULL);
  test_gate("two lengths",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            NULL);
}

int main(void) {
  base = event_base_new();
  if (base == NULL) abort();
  for (int n = 0; n <= 20; n++) {
    test_packets(n, false);
    test_packets(n, true);
  }
  test_gates();
  event_base_free(base);
  return done();
}
