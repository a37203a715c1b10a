/* guest/ws.c - see ws.h. */
#define _GNU_SOURCE
#include "ws.h"

#include "guest.h"
#include "http.h"

#include <bearssl_hash.h>
#include <stdlib.h>
#include <string.h>

#define KEY_CHARS     24u  /* Sec-WebSocket-Key: 16 bytes in base64 */
#define GOODBYE_MS    3000 /* for the peer's half of the closing handshake */
#define ACCEPT_SUFFIX "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" /* RFC 6455, 4.2.2 */

struct ws {
  conn *c;
  ws_reader in;
  const ws_handler *h; /* NULL once closed by us */
  void *arg;
  struct event *goodbye;
  bool held_by_handler;
};

static void free_ws(ws *w) {
  ws_reader_free(&w->in);
  if (w->goodbye != NULL) event_free(w->goodbye);
  free(w);
}

static void put_frame(ws *w, uint8_t op, csn_buf *payload) {
  uint8_t head[WS_HEAD_MAX];
  http_raw_send(w->c, head, ws_head(head, op, payload->len), payload);
}

static void put_close(ws *w, uint16_t code, const char *reason) {
  csn_buf b = {0};
  if (code != 1005) {
    const char bytes[2] = {(char)(code >> 8), (char)code};
    csn_buf_add(&b, bytes, 2);
    size_t len = strlen(reason);
    if (len > WS_CLOSE_TEXT) len = csn_utf8_cut(reason, WS_CLOSE_TEXT);
    csn_buf_add(&b, reason, len);
  }
  put_frame(w, WS_OP_CLOSE, &b);
}

/* The end that the peer's bytes brought: nothing more is read. */
static void finish(ws *w) {
  const ws_handler *h = w->h;
  void *arg = w->arg;
  http_raw_close(w->c);
  free_ws(w);
  if (h != NULL) h->closed(arg);
}

static void on_data(void *arg, char *bytes, size_t len) {
  ws *w = arg;
  const char *at = bytes;
  for (;;) {
    ws_item item = ws_read(&w->in, &at, &len);
    switch (item) {
    case WS_NONE:
      /* A client that does not read its answers may not ask for more of them. */
      if (w->h != NULL && ws_full(w)) http_raw_hold(w->c, true);
      return;
    case WS_TEXT:
    case WS_BINARY:
      if (w->h != NULL) w->h->message(w->arg, item == WS_TEXT, w->in.text, w->in.len);
      break;
    case WS_PING:
      if (w->h != NULL && !ws_full(w)) {
        csn_buf b = {0};
        csn_buf_add(&b, w->in.text, w->in.len);
        put_frame(w, WS_OP_PONG, &b);
      }
      break;
    case WS_PONG:
      break;
    case WS_CLOSED:
      if (w->h != NULL) put_close(w, w->in.code, "");
      finish(w);
      return;
    case WS_BAD:
      if (w->h != NULL)
        put_close(w, w->in.code,
                  w->in.code == 1009   ? "the message is too large"
                  : w->in.code == 1007 ? "text is not UTF-8"
                                       : "not the WebSocket protocol");
      finish(w);
      return;
    }
  }
}

static void on_room(void *arg) {
  ws *w = arg;
  http_raw_hold(w->c, w->held_by_handler);
  if (w->h != NULL) w->h->room(w->arg);
}

static void on_closed(void *arg) {
  ws *w = arg;
  const ws_handler *h = w->h;
  void *handler_arg = w->arg;
  free_ws(w);
  if (h != NULL) h->closed(handler_arg);
}

static const raw_handler raw = {on_data, on_room, on_closed};

static bool key_ok(const char *key) {
  csn_buf bytes = {0};
  bool ok =
      key != NULL && strlen(key) == KEY_CHARS && csn_b64_decode(&bytes, key, KEY_CHARS) && bytes.len == 16;
  csn_buf_free(&bytes);
  return ok;
}

ws *ws_accept(call *c, const ws_handler *h, void *arg) {
  upgrade u = http_upgrade_asked(c->req);
  if (!u.websocket) {
    reply_error(c->req, "UPGRADE_REQUIRED", NULL, "This endpoint speaks WebSocket only");
    return NULL;
  }
  if (!key_ok(u.key) || u.version == NULL || strcmp(u.version, "13") != 0) {
    reply_invalid(c->req, "Sec-WebSocket-Key", "is not a WebSocket handshake of version 13");
    return NULL;
  }
  ws *w = calloc(1, sizeof *w);
  if (w == NULL) abort();
  w->h = h;
  w->arg = arg;
  w->in.message_max = h->message_max;
  br_sha1_context sha;
  uint8_t digest[br_sha1_SIZE];
  br_sha1_init(&sha);
  br_sha1_update(&sha, u.key, KEY_CHARS);
  br_sha1_update(&sha, ACCEPT_SUFFIX, sizeof ACCEPT_SUFFIX - 1);
  br_sha1_out(&sha, digest);
  csn_buf head = {0};
  csn_buf_str(&head, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: "
                     "Upgrade\r\nSec-WebSocket-Accept: ");
  csn_b64_encode(&head, digest, sizeof digest);
  csn_buf_str(&head, "\r\n\r\n");
  w->c = http_upgrade(c->req, csn_buf_cstr(&head), &raw, w);
  csn_buf_free(&head);
  return w;
}

void ws_send_buf(ws *w, uint8_t op, csn_buf *b) {
  put_frame(w, op, b);
}

void ws_send(ws *w, uint8_t op, const void *data, size_t len) {
  csn_buf b = {0};
  csn_buf_add(&b, data, len);
  put_frame(w, op, &b);
}

bool ws_full(const ws *w) {
  return http_raw_unsent(w->c) > HTTP_OUT_HIGH;
}

void ws_hold(ws *w, bool hold) {
  w->held_by_handler = hold;
  http_raw_hold(w->c, hold || ws_full(w));
}

static void on_goodbye(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  finish(arg);
}

void ws_close(ws *w, uint16_t code, const char *reason) {
  put_close(w, code, reason);
  w->h = NULL;
  http_raw_hold(w->c, false);
  w->goodbye = evtimer_new(guest_base, on_goodbye, w);
  if (w->goodbye == NULL) abort();
  struct timeval tv = {GOODBYE_MS / 1000, 0};
  event_add(w->goodbye, &tv);
}
