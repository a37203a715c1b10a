/* fuzz_frames.c - bytes as a WebSocket client's frames. Oracles: the split does not matter; a message stays
 * below its bound; nothing comes after an end. */
#include "../../sandbox-sdk-shim/guest/ws_frame.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#define MESSAGE_MAX 300u

static void run(const uint8_t *data, size_t size, size_t chunk, csn_buf *log) {
  ws_reader r = {.message_max = MESSAGE_MAX};
  bool over = false;
  for (size_t off = 0; off < size;) {
    size_t n = size - off < chunk ? size - off : chunk;
    /* A block of its own: one byte too many read is seen. */
    char *copy = malloc(n);
    if (copy == NULL) abort();
    memcpy(copy, data + off, n);
    const char *at = copy;
    size_t left = n;
    for (ws_item item; (item = ws_read(&r, &at, &left)) != WS_NONE;) {
      if (over) __builtin_trap();
      over = item == WS_CLOSED || item == WS_BAD;
      csn_buf_fmt(log, "%d %u ", (int)item, over ? r.code : 0u);
      if (over) continue;
      if (r.len > MESSAGE_MAX) __builtin_trap();
      if (item == WS_TEXT && !csn_utf8_valid(r.text, r.len)) __builtin_trap();
      csn_buf_add(log, r.text, r.len);
    }
    if (left != 0 || at != copy + n) __builtin_trap();
    free(copy);
    off += n;
  }
  ws_reader_free(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1) return 0;
  csn_buf whole = {0}, split = {0};
  run(data + 1, size - 1, size, &whole);
  run(data + 1, size - 1, 1u + data[0] % 17u, &split);
  if (whole.len != split.len || (whole.len > 0 && memcmp(whole.p, split.p, whole.len) != 0)) __builtin_trap();
  csn_buf_free(&whole);
  csn_buf_free(&split);
  return 0;
}
