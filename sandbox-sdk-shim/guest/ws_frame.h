/* guest/ws_frame.h - WebSocket framing (RFC 6455), server side, without I/O.
 *
 * Input:  bytes of a client, in any chunking (the result does not depend on chunk boundaries).
 * Output: whole messages and control frames, one at a time.
 * Memory: one message, at most message_max bytes; nothing is set aside on a length's word alone.
 * Errors: sticky; the reader then takes nothing any more. No extension is spoken, so reserved bits are
 * errors. */
#ifndef CAISSON_GUEST_WS_FRAME_H
#define CAISSON_GUEST_WS_FRAME_H

#include "../common/buf.h"

#define WS_CONTROL_MAX 125u /* payload of a control frame, bytes */
#define WS_HEAD_MAX    10u  /* head of a server's frame, bytes */
#define WS_CLOSE_TEXT  123u /* reason in a close frame, bytes */

enum { WS_OP_TEXT = 1, WS_OP_BINARY = 2, WS_OP_CLOSE = 8, WS_OP_PING = 9, WS_OP_PONG = 10 };

typedef enum ws_item {
  WS_NONE = 0, /* all input is used up */
  WS_TEXT,     /* a message: text[0..len), valid UTF-8 */
  WS_BINARY,   /* a message: text[0..len) */
  WS_PING,     /* text[0..len) is to be sent back in a pong */
  WS_PONG,
  WS_CLOSED, /* the client says goodbye with `code`, 1005 when it gave none */
  WS_BAD,    /* the client broke the protocol: close with `code` */
} ws_item;

typedef struct ws_reader { /* zero is the initial state, except message_max */
  size_t message_max;      /* bytes */
  /* Of the last item. Valid until the next call. */
  char *text;
  size_t len;
  uint16_t code;
  /* private */
  bool failed, finished, fin, in_frame;
  uint8_t head[14], head_len, op, message_op;
  uint8_t mask[4];
  uint32_t mask_at;
  uint64_t left; /* bytes of the frame's payload still to come */
  csn_buf message;
  uint8_t control_len;
  char control[WS_CONTROL_MAX + 1];
} ws_reader;

/* Uses up a prefix of (*at, *left) and returns the next item. Call until WS_NONE. After WS_CLOSED and WS_BAD
 * all input is used up and nothing comes any more. */
ws_item ws_read(ws_reader *r, const char **at, size_t *left);
void ws_reader_free(ws_reader *r);

/* Writes the head of an unfragmented frame of a server; returns its length. */
size_t ws_head(uint8_t out[WS_HEAD_MAX], uint8_t op, uint64_t len);

#endif
