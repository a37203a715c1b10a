/* guest/ws.h - WebSocket connections: handshake, messages both ways, the closing handshake.
 *
 * Memory: what is unsent is bounded by its senders: above HTTP_OUT_HIGH they wait for room(), and reading
 * stops. */
#ifndef CAISSON_GUEST_WS_H
#define CAISSON_GUEST_WS_H

#include "exchange.h"
#include "ws_frame.h"

typedef struct ws ws;
typedef struct ws_handler {
  size_t message_max; /* of a client's message, bytes */
  /* A message; the bytes are the handler's until it returns and end with a NUL that len does not count. */
  void (*message)(void *arg, bool text, char *data, size_t len);
  /* Output has fallen to HTTP_OUT_LOW after ws_full() was true. */
  void (*room)(void *arg);
  /* The connection is over; `w` must not be used any more. */
  void (*closed)(void *arg);
} ws_handler;

/* Accepts the upgrade that a call asks for. NULL, and the error sent, when it asks for none. Nothing is
 * called back from inside. */
ws *ws_accept(call *c, const ws_handler *h, void *arg);
/* Sends one message; `op` is WS_OP_TEXT or WS_OP_BINARY. The second form consumes the buffer. */
void ws_send(ws *w, uint8_t op, const void *data, size_t len);
void ws_send_buf(ws *w, uint8_t op, csn_buf *b);
bool ws_full(const ws *w);
/* Stops and restarts taking messages. */
void ws_hold(ws *w, bool hold);
/* Closes after what was sent. The handler is called no more and w must not be used any more. */
void ws_close(ws *w, uint16_t code, const char *reason);

#endif
