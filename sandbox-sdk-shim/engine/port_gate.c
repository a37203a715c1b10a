/* engine/port_gate.c - takes the token's line out of every request on its way to a program in the sandbox.
 *
 * The Worker cannot tell which of its requests opens a connection, so each carries the token. The first is
 * checked before the sandbox's side is opened (ports.c); what follows on the connection goes through here.
 *
 * Whether a program has agreed to a WebSocket is read from what the Worker sends next and not from the
 * program's answer: a program that could make this gate and the Worker read its answers differently would be
 * shown the token of the requests that follow. */
#define _GNU_SOURCE
#include "engine.h"
#include "http1.h"

#include <stdlib.h>
#include <string.h>

struct port_gate {
  char token[72];
  csn_buf held; /* a head that is not complete */
  http_body body;
  bool in_body;
  bool asked; /* for a WebSocket: its first frame comes next, or another request if it was refused */
  bool raw;   /* WebSocket frames from here on */
};

port_gate *port_gate_new(const char *token) {
  port_gate *g = calloc(1, sizeof *g);
  if (g == NULL || strlen(token) >= sizeof g->token) abort();
  memcpy(g->token, token, strlen(token) + 1);
  return g;
}

void port_gate_free(port_gate *g) {
  if (g == NULL) return;
  csn_buf_free(&g->held);
  free(g);
}

static bool token_right(const port_gate *g, http_span value) {
  char given[sizeof g->token];
  if (value.n >= sizeof given) return false;
  memcpy(given, value.p, value.n);
  given[value.n] = '\0';
  return csn_ct_equal(given, g->token);
}

/* Copies a head without the token's line. */
static bool put_head(const port_gate *g, csn_buf *out, const http_head *h, const char *head, size_t len) {
  const char *from = head, *end = head + len;
  for (size_t i = 0; i < h->count; i++) {
    const http_field *f = &h->fields[i];
    if (!http_is_nocase(f->name, PORT_TOKEN_HEADER)) continue;
    if (!token_right(g, f->value)) return false;
    const char *line_end = memmem(f->name.p, (size_t)(end - f->name.p), "\r\n", 2);
    if (line_end == NULL) return false;
    csn_buf_add(out, from, (size_t)(f->name.p - from));
    from = line_end + 2;
  }
  csn_buf_add(out, from, (size_t)(end - from));
  return true;
}

/* One step: a head or a part of a body. Returns how many bytes of `in` it used, 0 for an incomplete head, -1
 * for what is not HTTP. */
static ptrdiff_t step(port_gate *g, csn_buf *out, const char *in, size_t len) {
  if (g->in_body) {
    const char *data;
    size_t n;
    ptrdiff_t used = http_body_next(&g->body, in, len, &data, &n);
    if (used > 0) csn_buf_add(out, in, (size_t)used);
    if (g->body.done) g->in_body = false;
    return used;
  }
  http_head h;
  size_t used = 0;
  const char *why;
  switch (http_request(in, len, &h, &used, &why)) {
  case HTTP1_MORE:
    return len > HTTP_HEAD_MAX ? -1 : 0;
  case HTTP1_BAD:
    return -1;
  case HTTP1_OK:
    break;
  }
  /* A tunnel's bytes would be another connection's, with a token of its own: nobody here asks for one. */
  if (http_is(h.method, "CONNECT")) return -1;
  if (!put_head(g, out, &h, in, used)) return -1;
  g->asked = h.websocket;
  http_body_start(&g->body, &h);
  g->in_body = !g->body.done;
  return (ptrdiff_t)used;
}

bool port_gate_pass(void *arg, csn_buf *out, const char *in, size_t len) {
  port_gate *g = arg;
  csn_buf joined = {0};
  if (g->held.len > 0) {
    joined = g->held;
    g->held = (csn_buf){0};
    csn_buf_add(&joined, in, len);
    in = joined.p;
    len = joined.len;
  }
  bool good = true;
  while (len > 0 && good) {
    if (g->raw) {
      csn_buf_add(out, in, len);
      break;
    }
    if (g->asked && !g->in_body) {
      if (len < 2) {
        csn_buf_add(&g->held, in, len);
        break;
      }
      /* RFC 6455 5.1: a client's frame is masked, which is the top bit of its second byte. No head has it. */
      g->raw = ((unsigned char)in[1] & 0x80) != 0;
      g->asked = false;
      continue;
    }
    ptrdiff_t used = step(g, out, in, len);
    good = used >= 0;
    if (used == 0) {
      csn_buf_add(&g->held, in, len);
      break;
    }
    if (good) {
      in += used;
      len -= (size_t)used;
    }
  }
  csn_buf_free(&joined);
  return good;
}
