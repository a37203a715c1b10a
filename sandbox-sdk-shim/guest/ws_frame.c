/* guest/ws_frame.c - see ws_frame.h. */
#include "ws_frame.h"

#include <string.h>

#define KEEP_BYTES 65536u /* a message buffer above this is given back after the message */

static ws_item fail(ws_reader *r, uint16_t code) {
  r->failed = true;
  r->code = code;
  csn_buf_free(&r->message);
  return WS_BAD;
}

/* Bytes of the frame's head, as far as it is known. */
static size_t head_need(const ws_reader *r) {
  if (r->head_len < 2) return 2;
  size_t len = r->head[1] & 127;
  return 2u + (len == 126 ? 2u : len == 127 ? 8u : 0u) + 4u;
}

/* The head is complete: checks it. 0, or the close code. */
static uint16_t open_frame(ws_reader *r) {
  uint8_t first = r->head[0], op = first & 15;
  r->fin = (first & 0x80) != 0;
  r->op = op;
  if ((first & 0x70) != 0) return 1002;
  uint64_t len = r->head[1] & 127;
  size_t at = 2;
  if (len == 126) {
    len = (uint64_t)r->head[2] << 8 | r->head[3];
    if (len < 126) return 1002; /* not the shortest form */
    at = 4;
  } else if (len == 127) {
    len = 0;
    for (size_t i = 0; i < 8; i++)
      len = len << 8 | r->head[2 + i];
    if (len < 65536 || len >> 63 != 0) return 1002;
    at = 10;
  }
  memcpy(r->mask, r->head + at, 4);
  r->mask_at = 0;
  r->left = len;
  if (op >= 8) {
    if (op > WS_OP_PONG || !r->fin || len > WS_CONTROL_MAX) return 1002;
    r->control_len = 0;
    return 0;
  }
  if (op > WS_OP_BINARY) return 1002;
  if ((op == 0) != (r->message_op != 0))
    return 1002; /* a continuation of nothing, or a message in a message */
  if (op != 0) r->message_op = op;
  /* The attack is a length that claims memory before any byte of it was sent. */
  if (len > r->message_max - r->message.len) return 1009;
  return 0;
}

static void unmask(ws_reader *r, char *to, const char *from, size_t len) {
  uint8_t key[8];
  for (size_t i = 0; i < 8; i++)
    key[i] = r->mask[(r->mask_at + i) & 3];
  uint64_t wide, k;
  memcpy(&k, key, 8);
  size_t i = 0;
  for (; len - i >= 8; i += 8) {
    memcpy(&wide, from + i, 8);
    wide ^= k;
    memcpy(to + i, &wide, 8);
  }
  for (; i < len; i++)
    to[i] = (char)((uint8_t)from[i] ^ key[i & 7]);
  r->mask_at = (uint32_t)((r->mask_at + len) & 3);
}

static bool close_code_ok(uint16_t code) {
  return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) || (code >= 3000 && code <= 4999);
}

static ws_item end_control(ws_reader *r) {
  r->text = r->control;
  r->len = r->control_len;
  if (r->op == WS_OP_PING) return WS_PING;
  if (r->op == WS_OP_PONG) return WS_PONG;
  r->code = 1005;
  if (r->control_len == 1) return fail(r, 1002);
  if (r->control_len >= 2) {
    r->code = (uint16_t)((uint8_t)r->control[0] << 8 | (uint8_t)r->control[1]);
    if (!close_code_ok(r->code)) return fail(r, 1002);
    if (!csn_utf8_valid(r->control + 2, r->control_len - 2u)) return fail(r, 1007);
  }
  r->finished = true;
  return WS_CLOSED;
}

static ws_item end_data(ws_reader *r) {
  if (!r->fin) return WS_NONE;
  ws_item kind = r->message_op == WS_OP_TEXT ? WS_TEXT : WS_BINARY;
  r->message_op = 0;
  r->text = csn_buf_cstr(&r->message);
  r->len = r->message.len;
  if (kind == WS_TEXT && !csn_utf8_valid(r->text, r->len)) return fail(r, 1007);
  return kind;
}

ws_item ws_read(ws_reader *r, const char **at, size_t *left) {
  if (!r->in_frame && r->message_op == 0 && r->head_len == 0) {
    /* The message given last is done with. */
    if (r->message.cap > KEEP_BYTES) csn_buf_free(&r->message);
    r->message.len = 0;
  }
  for (;;) {
    if (r->failed || r->finished) {
      *at += *left;
      *left = 0;
      return WS_NONE;
    }
    if (!r->in_frame) {
      size_t need = head_need(r);
      while (r->head_len<need && * left> 0) {
        r->head[r->head_len++] = (uint8_t) * (*at)++;
        (*left)--;
        /* An unmasked frame may be bytes that a page made a browser send to another protocol. */
        if (r->head_len == 2 && (r->head[1] & 0x80) == 0) return fail(r, 1002);
        need = head_need(r);
      }
      if (r->head_len < need) return WS_NONE;
      uint16_t code = open_frame(r);
      if (code != 0) return fail(r, code);
      r->head_len = 0;
      r->in_frame = true;
    }
    size_t n = *left < r->left ? *left : (size_t)r->left;
    if (n > 0) {
      if (r->op >= 8) {
        unmask(r, r->control + r->control_len, *at, n);
        r->control_len = (uint8_t)(r->control_len + n);
      } else {
        unmask(r, csn_buf_room(&r->message, n), *at, n);
        r->message.len += n;
      }
      *at += n;
      *left -= n;
      r->left -= n;
    }
    if (r->left > 0) return WS_NONE;
    r->in_frame = false;
    ws_item item = r->op >= 8 ? end_control(r) : end_data(r);
    if (item != WS_NONE) return item;
  }
}

void ws_reader_free(ws_reader *r) {
  csn_buf_free(&r->message);
}

size_t ws_head(uint8_t out[WS_HEAD_MAX], uint8_t op, uint64_t len) {
  out[0] = (uint8_t)(0x80 | op);
  if (len < 126) {
    out[1] = (uint8_t)len;
    return 2;
  }
  size_t bytes = len < 65536 ? 2 : 8;
  out[1] = bytes == 2 ? 126 : 127;
  for (size_t i = 0; i < bytes; i++)
    out[2 + i] = (uint8_t)(len >> (8 * (bytes - 1 - i)));
  return 2 + bytes;
}
