/* guest/http.h - HTTP/1.1 connections, as a transport and as a carrier of upgraded protocols.
 *
 * Parsing is http_parser's; reading, writing, back pressure and the order of requests are here.
 * One request of a connection is answered before the next one is looked at. */
#ifndef CAISSON_GUEST_HTTP_H
#define CAISSON_GUEST_HTTP_H

#include "exchange.h"

#define HTTP_HEAD_MAX (64u * 1024)   /* request line and headers, bytes */
#define HTTP_OUT_HIGH (1024u * 1024) /* bytes unsent above which an answer in pieces waits, */
#define HTTP_OUT_LOW  (256u * 1024)  /* and at which it goes on */

/* Accepts on `listen_fd` from now on. Aborts when that is no listening socket. */
void http_serve(int listen_fd);
/* Serves one connected, non-blocking socket, which it owns from now on. */
void http_adopt(int fd);

/* ---- upgraded connections ---- */

typedef struct conn conn;
typedef struct raw_handler {
  void (*data)(void *arg, char *bytes, size_t len); /* may change the bytes in place */
  void (*room)(void *arg); /* unsent bytes have fallen to HTTP_OUT_LOW after they were above HTTP_OUT_HIGH */
  void (*closed)(void *arg); /* the peer is gone; c must not be used any more */
} raw_handler;

/* Header fields of a request that asks for an upgrade. */
typedef struct upgrade {
  bool websocket;      /* Upgrade: websocket, with Connection: upgrade, GET, HTTP/1.1 */
  const char *key;     /* Sec-WebSocket-Key, or NULL; valid until the upgrade */
  const char *version; /* Sec-WebSocket-Version, or NULL */
} upgrade;

/* What the request of x asks for; all zero when x does not come over HTTP. */
upgrade http_upgrade_asked(const exchange *x);
/* Takes the connection over: sends `head` (a whole 101 answer), frees x; what the peer sends goes to `h`,
 * never from inside this call. */
conn *http_upgrade(exchange *x, const char *head, const raw_handler *h, void *arg);
/* Sends a head (copied) and a body (consumed). Nothing is called back from inside. */
void http_raw_send(conn *c, const void *head, size_t head_len, csn_buf *body);
/* Bytes not yet handed to the kernel. */
size_t http_raw_unsent(const conn *c);
/* Stops and restarts reading. */
void http_raw_hold(conn *c, bool hold);
/* Closes after what is unsent has been sent, within a few seconds. No handler is called any more; c must not
 * be used any more. */
void http_raw_close(conn *c);

#endif
