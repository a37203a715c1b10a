/* fuzz_http.c - bytes as what a client sends on one connection: HTTP requests, an upgrade, WebSocket
 * messages. The server is the real one but for its routes. Oracle: the split does not matter; nothing is left
 * behind. */
#define _GNU_SOURCE
#include "../../sandbox-sdk-shim/guest/guest.h"
#include "../../sandbox-sdk-shim/guest/http.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int64_t __wrap_csn_wall_ms(void);

struct event_base *guest_base;
static int live; /* sinks that have not ended */

int64_t __wrap_csn_wall_ms(void) {
  return 0; /* or two runs would differ */
}

static void echo(call *c) {
  csn_buf b = {0};
  char *q = call_query(c, "q");
  csn_buf_str(&b, "{\"arg\":");
  csn_json_cstr(&b, c->arg == NULL ? "" : c->arg);
  csn_buf_str(&b, ",\"q\":");
  csn_json_cstr(&b, q == NULL ? "" : q);
  csn_buf_str(&b, ",\"session\":");
  csn_json_cstr(&b, c->req->session == NULL ? "" : c->req->session);
  free(q);
  csn_buf_str(&b, ",");
  if (c->body != NULL && !ok_text(c, "text", true, 100)) {
    csn_buf_free(&b);
    return;
  }
  reply_stamped(c->req, &b);
}

typedef struct counted {
  sse out;
  int left;
} counted;

static void more(void *arg) {
  counted *s = arg;
  if (s->left-- == 0) {
    sse_end(&s->out);
    live--;
    free(s);
    return;
  }
  csn_buf b = {0};
  csn_buf_str(&b, "data: {\"n\":1}\n\ndata: {\"n\":2}\n\n");
  sse_send(&s->out, &b);
}

static void gone(void *arg) {
  live--;
  free(arg);
}

static void stream(call *c) {
  counted *s = calloc(1, sizeof *s);
  if (s == NULL) abort();
  live++;
  *s = (counted){.out = {.more = more, .gone = gone, .arg = s}, .left = 2};
  if (sse_start(&s->out, c->req))
    more(s);
  else
    gone(s);
}

typedef struct sunk {
  exchange *x;
  size_t len;
} sunk;

static void *sink_begin(exchange *x) {
  sunk *s = calloc(1, sizeof *s);
  if (s == NULL) abort();
  s->x = x;
  live++;
  return s;
}

static void sink_data(void *arg, const char *bytes, size_t len) {
  for (size_t i = 0; i < len; i++)
    ((sunk *)arg)->len += bytes[i] != 0;
}

static void sink_drop(void *arg) {
  live--;
  free(arg);
}

static void sink_end(void *arg) {
  sunk *s = arg;
  csn_buf b = {0};
  csn_buf_fmt(&b, "{\"len\":%zu,", s->len);
  reply_stamped(s->x, &b);
  sink_drop(s);
}

static const route none[] = {{0, NULL, NULL}};
const route misc_routes[] = {{METHOD_GET, "/e", echo},
                             {METHOD_POST, "/e", echo},
                             {METHOD_DELETE, "/e/*", echo},
                             {METHOD_GET, "/s", stream},
                             {0, NULL, NULL}};
const route *const route_groups[] = {misc_routes, ws_routes, none, NULL};
const sink_route sink_routes[] = {{METHOD_POST, "/k", sink_begin, sink_data, sink_end, sink_drop},
                                  {0, NULL, NULL, NULL, NULL, NULL}};

static void drain(int fd, csn_buf *out) {
  for (;;) {
    char *room = csn_buf_room(out, 4096);
    ssize_t n = recv(fd, room, 4096, MSG_DONTWAIT);
    if (n <= 0) return;
    out->len += (size_t)n;
  }
}

static void run(const uint8_t *data, size_t size, size_t chunk, csn_buf *out) {
  int s[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s) != 0) abort();
  http_adopt(s[0]);
  for (size_t off = 0; off < size; off += chunk) {
    size_t n = size - off < chunk ? size - off : chunk;
    if (send(s[1], data + off, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) break;
    for (int i = 0; i < 8; i++)
      event_base_loop(guest_base, EVLOOP_NONBLOCK);
    drain(s[1], out);
  }
  shutdown(s[1], SHUT_WR);
  for (int i = 0; i < 40; i++)
    event_base_loop(guest_base, EVLOOP_NONBLOCK);
  drain(s[1], out);
  close(s[1]);
  for (int i = 0; i < 8; i++)
    event_base_loop(guest_base, EVLOOP_NONBLOCK);
  if (live != 0) __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (guest_base == NULL) guest_base = event_base_new();
  if (size < 1) return 0;
  csn_buf whole = {0}, split = {0};
  run(data + 1, size - 1, size, &whole);
  run(data + 1, size - 1, 1u + data[0] % 29u, &split);
  bool upgraded = whole.len > 0 && memmem(whole.p, whole.len, "HTTP/1.1 101 ", 13) != NULL;
  bool same = whole.len == split.len && (whole.len == 0 || memcmp(whole.p, split.p, whole.len) == 0);
  if (!upgraded && !same) __builtin_trap();
  csn_buf_free(&whole);
  csn_buf_free(&split);
  return 0;
}
