/* guest/exchange.h - a request on its way in, and the answer it is owed.
 *
 * A route answers an exchange and does not know what carries it: HTTP (http.c), a WebSocket that multiplexes
 * requests (ws_api.c) or an RPC session. A transport makes an exchange and an inbound for each request, feeds
 * the body and is called back with the answer.
 * Threads: one. Memory: an exchange lives until its answer is complete; it outlives its client, so that a
 * handler may always answer. */
#ifndef CAISSON_GUEST_EXCHANGE_H
#define CAISSON_GUEST_EXCHANGE_H

#include "../common/buf.h"

#include <cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GUEST_BODY_MAX   (32u * 1024 * 1024) /* request body that a handler gets whole, bytes */
#define GUEST_MS_MAX     4000000000LL        /* any duration of a request or variable, ms */
#define GUEST_TARGET_MAX 8192u               /* path and query of a request, bytes */

typedef struct exchange exchange;
typedef struct sse sse;

/* How an answer travels back. None of these calls exchange_room() or exchange_lost() from inside: a handler
 * that sends is never called back before it has returned. */
typedef struct transport {
  /* Sends a whole answer; `body` is consumed. The exchange is freed by the caller. */
  void (*answer)(exchange *x, int status, const char *type, csn_buf *body);
  /* Starts an answer of server-sent events, status 200. */
  void (*open)(exchange *x);
  /* Sends one or more whole events, "data: JSON\n\n" each, or a comment, ":\n\n"; consumed. exchange_room()
   * follows when the next ones may come. */
  void (*piece)(exchange *x, csn_buf *events);
  /* Ends the stream. The exchange is freed by the caller. */
  void (*end)(exchange *x);
} transport;

struct exchange {
  const transport *via; /* NULL: the client is gone, the answer goes nowhere */
  void *link;           /* the transport's own */
  char *session;        /* session id that a header names, NULL if none */
  char *query;          /* what stands behind the `?`, still encoded; NULL if nothing */
  sse *stream;          /* the stream that answers it, NULL before */
};

/* `link` stays the transport's. */
exchange *exchange_new(const transport *via, void *link);
/* For the transport: the stream may send its next piece. */
void exchange_room(exchange *x);
/* For the transport: the client is gone. A stream is told and x freed; otherwise x stays until it is
 * answered. */
void exchange_lost(exchange *x);
/* For a transport that takes x over (a WebSocket): frees it without an answer. */
void exchange_free(exchange *x);

/* ---- answers ---- */

/* Sends `json` (consumed) as an answer. */
void reply_json(exchange *x, int status, csn_buf *json);
/* Appends `"timestamp":"..."}` and sends: the end of nearly every answer. */
void reply_stamped(exchange *x, csn_buf *json);
/* Sends a body (consumed) of another type. */
void reply_text(exchange *x, int status, const char *type, csn_buf *body);
/* Sends the error body of the protocol. `context` is JSON text or NULL for {}. */
void reply_error(exchange *x, const char *code, const char *context, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* 400 VALIDATION_FAILED naming a field. */
void reply_invalid(exchange *x, const char *field, const char *message);
void add_timestamp(csn_buf *b);

/* An answer that is sent in pieces with back pressure. */
struct sse {
  exchange *req;           /* NULL before the start, after the end and when the client is gone */
  void (*more)(void *arg); /* the last piece has left: send the next */
  void (*gone)(void *arg); /* the client has vanished: forget the answer; sse_end must not follow */
  void *arg;
  bool busy; /* a piece is on its way; more() will come */
};

/* False when the client is gone already: x is freed, gone() is not called, nothing may be sent. */
bool sse_start(sse *s, exchange *x);
/* Sends whole events (consumed; empty is legal and does nothing). */
void sse_send(sse *s, csn_buf *events);
void sse_end(sse *s);

/* ---- requests ---- */

enum { METHOD_GET = 1, METHOD_POST, METHOD_PUT, METHOD_DELETE };

/* One request being handled. Valid until the handler returns, except `req`, which lives until it is answered.
 */
typedef struct call {
  exchange *req;
  cJSON *body; /* the JSON object of a POST, NULL otherwise; freed after the handler */
  char *arg;   /* decoded text of the route's `*`, NULL if it has none; freed after the handler */
} call;

typedef struct route {
  int method;
  const char *path; /* a `*` stands for one segment; the first match wins */
  void (*handle)(call *c);
} route;

/* A route that reads its body as it arrives, however long it is. */
typedef struct sink_route {
  int method;
  const char *path;
  void *(*begin)(exchange *x);
  void (*data)(void *arg, const char *bytes, size_t len);
  void (*end)(void *arg);  /* the body is whole: answers; arg dies */
  void (*drop)(void *arg); /* the client is gone before the end; arg dies, x is freed by the caller */
} sink_route;

/* The groups of routes, NULL at the end; each group ends with a path of NULL, and so do the sinks. */
extern const route *const route_groups[];
extern const sink_route sink_routes[];

/* Strings of the body: NULL when absent (or null). ok_text() is false, and the error sent,
 * when present with another type. */
const char *body_text(const call *c, const char *name);
bool ok_text(call *c, const char *name, bool required, size_t max_len);
/* The session that a request names in its body or a header, "default" otherwise. */
const char *request_session(call *c);
/* A number of milliseconds: 0 when absent. false, and the error sent, when out of range. */
bool body_ms(call *c, const char *name, int64_t *out);
/* The decoded value of a query parameter; NULL when absent. The caller frees it. */
char *call_query(const call *c, const char *name);

typedef struct inbound inbound;
/* A request for `target` (path and query). Owns x until inbound_end() or inbound_drop(). */
inbound *inbound_new(exchange *x, int method, const char *target);
/* A hint: this many bytes of body are to come. */
void inbound_expect(inbound *in, uint64_t len);
void inbound_body(inbound *in, const char *bytes, size_t len);
/* The request is complete: it is dispatched, perhaps answered. `in` dies. */
void inbound_end(inbound *in);
/* The client is gone before the end. `in` and its exchange die. */
void inbound_drop(inbound *in);

/* Decodes %XX in place; false for a malformed sequence or a NUL. */
bool percent_decode(char *s);
/* True when JSON text holds the escape of U+0000. */
bool has_nul_escape(const char *json, size_t len);

#endif
