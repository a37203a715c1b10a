/* fuzz_transcript.c - lines of bytes as the events of a run. The first byte chooses the form and what is
 * answered when the view asks for an event: the right one, another one, or nothing. Oracles: the fold ends,
 * asks for each event at most once for each of its parts, JSON is valid, Markdown has no control characters
 * and is UTF-8 where the events are. */
#include "csn/transcript.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static csn_transcript view;
static csn_json reader;
static _Alignas(8) uint8_t box[CSN_TRANSCRIPT_FX_MIN + 64];
static char *out;
static size_t out_len, out_cap;

static void put(const void *p, size_t len) {
  if (out_cap - out_len < len + 1) {
    out_cap = (out_cap + len + 1) * 2;
    out = realloc(out, out_cap);
    if (out == NULL) abort();
  }
  memcpy(out + out_len, p, len);
  out_len += len;
}

typedef struct line {
  const uint8_t *at;
  uint32_t len;
} line;
static line lines[512];

static void check_markdown(void) {
  for (size_t i = 0; i < out_len;) {
    uint32_t bad, n = csn_utf8_len(csn_span_of(out + i, (uint32_t)(out_len - i)), &bad);
    uint8_t c = (uint8_t)out[i];
    if (n == 0 || (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) __builtin_trap();
    i += n;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1) return 0;
  csn_transcript_format form = (csn_transcript_format)(1 + data[0] % 3);
  uint32_t answer = data[0] / 3 % 4, count = 0, wants = 0;
  const uint8_t *p = data + 1, *end = data + size;
  while (p < end && count < 512) {
    const uint8_t *stop = memchr(p, '\n', (size_t)(end - p));
    if (stop == NULL) stop = end;
    lines[count++] = (line){p, (uint32_t)(stop - p)};
    p = stop < end ? stop + 1 : end;
  }
  csn_transcript_init(&view, form);
  for (uint32_t i = 0; i < count; i++)
    if (csn_transcript_event(&view, csn_span_of(lines[i].at, lines[i].len)) != CSN_ERR_OK) __builtin_trap();
  csn_span given = csn_span_of(NULL, 0);
  out_len = 0;
  for (bool more = true; more;) {
    csn_fx fx = {box, CSN_TRANSCRIPT_FX_MIN, 0};
    more = csn_transcript_next(&view, given, &fx);
    given = csn_span_of(NULL, 0);
    for (uint32_t at = 0; at < fx.len;) {
      csn_rec rec;
      memcpy(&rec, box + at, sizeof rec);
      if (rec.kind == CSN_FX_TRANSCRIPT_TEXT) put(box + at + sizeof rec, rec.payload_len);
      if (rec.kind == CSN_FX_TRANSCRIPT_WANT) {
        if (wants++ > 4 * count + 2) __builtin_trap();
        uint32_t n = answer == 0 ? rec.id - 1 : answer == 1 ? wants * 7 : answer == 2 ? wants : UINT32_MAX;
        if (count > 0 && n != UINT32_MAX) given = csn_span_of(lines[n % count].at, lines[n % count].len);
      }
      at += rec.size;
    }
  }
  if (form == CSN_TRANSCRIPT_MARKDOWN)
    check_markdown();
  else if (!csn_json_is_valid(&reader, csn_span_of(out, (uint32_t)out_len)))
    __builtin_trap();
  return 0;
}
