/* engine/http1.h - HTTP/1.1 message heads and bodies (RFC 9112), read strictly. Pure.
 *
 * A reader of our own, because a gateway must refuse what a tolerant library would guess at: two readers that
 * frame one stream differently are how requests are smuggled. What passes here is written out anew for the
 * next hop and never copied. */
#ifndef CAISSON_ENGINE_HTTP1_H
#define CAISSON_ENGINE_HTTP1_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_HEAD_MAX   61440u /* bytes of a head with its empty line */
#define HTTP_FIELDS_MAX 128u
#define HTTP_TRAIL_MAX  16384u /* bytes of trailers, and of chunk extensions, in one body */

typedef struct http_span {
  const char *p; /* into the buffer that was parsed */
  size_t n;
} http_span;

typedef struct http_field {
  http_span name, value;
} http_field;

typedef enum http_framing { BODY_NONE, BODY_LENGTH, BODY_CHUNKED, BODY_TO_END } http_framing;

typedef struct http_head {
  http_span method, target; /* of a request */
  int status;               /* of a response, 100..999 */
  http_span reason;
  int minor; /* HTTP/1.minor, 0 or 1 */
  http_field fields[HTTP_FIELDS_MAX];
  size_t count;
  http_framing framing;
  uint64_t length; /* BODY_LENGTH */
  bool keep_alive; /* the connection may be used again */
  bool expect;     /* Expect: 100-continue */
  bool websocket;  /* asks for, or agrees to, the websocket protocol */
  http_span host;  /* n 0: no Host field */
} http_head;

typedef enum http_result { HTTP1_MORE, HTTP1_OK, HTTP1_BAD } http_result;

/* Reads the head at the front of data. HTTP1_OK: *used bytes are the head. HTTP1_BAD: *why says what is
 * wrong, in words for the client. */
http_result http_request(const char *data, size_t len, http_head *out, size_t *used, const char **why);
/* `head_only`: the answer to HEAD, or to CONNECT. */
http_result http_response(const char *data, size_t len, bool head_only, http_head *out, size_t *used,
                          const char **why);

bool http_is(http_span s, const char *text); /* letter by letter */
bool http_is_nocase(http_span s, const char *text);
/* NULL when there is none; the first of several. */
const http_field *http_find(const http_head *h, const char *name);
/* Whether a field belongs to this connection and is not passed on: those of RFC 9110 7.6.1, and those that
 * Connection names. */
bool http_hop_by_hop(const http_head *h, const http_field *f);

/* The body behind a head. */
typedef struct http_body {
  http_framing framing;
  uint64_t left; /* of the length, or of the current chunk */
  unsigned state;
  size_t extra; /* bytes of trailers and extensions so far */
  bool line;    /* the current trailer line has a byte */
  bool done;
} http_body;

void http_body_start(http_body *b, const http_head *h);
/* Looks at the next bytes. *data..*n: body bytes among them, may be none. Returns how many bytes of `in` were
 * used, `in` bytes up to the end of *data included; -1 when they are not a body. Sets b->done at its end.
 * Bodies of BODY_TO_END end when the caller sees the end of the connection. */
ptrdiff_t http_body_next(http_body *b, const char *in, size_t len, const char **data, size_t *n);

#endif
