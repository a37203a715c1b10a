/* fuzz_json.c - bytes as JSON lines. The first byte chooses how they are split.
 * Oracles: verdict, counts and every capture are the same read byte by byte, in pieces, line by line and with
 * shapes known from the lines before; the string scanner agrees with itself without SIMD and byte by byte; a
 * text that is valid stays so when its captures are looked at. */
#include "../../wasm/src/json_scan.h"
#include "json_table.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const uint8_t *scalar_scan_long(const uint8_t *p, const uint8_t *end, uint32_t *seen);

typedef struct outcome {
  csn_json_verdict verdict;
  uint32_t values, crs, lost, nul, len;
  uint8_t bytes[1u << 16];
} outcome;
static csn_json j, fresh;
static outcome want, got;

static void put(outcome *o, const void *p, uint32_t len) {
  if (len > sizeof o->bytes - o->len) len = (uint32_t)sizeof o->bytes - o->len;
  if (len > 0) memcpy(o->bytes + o->len, p, len);
  o->len += len;
}

static void describe(csn_json *r, outcome *o) {
  o->verdict = csn_json_end(r);
  o->values = r->value_count;
  o->crs = r->cr_count;
  o->lost = r->lost;
  o->nul = r->has_nul;
  o->len = 0;
  for (uint32_t i = 0; o->verdict == CSN_JSON_OK && i < r->item_count; i++) {
    const csn_json_item *item = &r->items[i];
    csn_span text = csn_json_text(r, item);
    uint32_t head[] = {item->field, item->kind, item->cut, item->index, item->len, item->true_len};
    put(o, head, sizeof head);
    put(o, text.ptr, text.len);
    if (csn_json_get(r, item->field, item->index)->kind == CSN_JK_NONE) __builtin_trap();
  }
}

static void compare(void) {
  if (want.verdict != got.verdict) __builtin_trap();
  if (want.verdict != CSN_JSON_OK) return;
  if (want.values != got.values || want.crs != got.crs || want.lost != got.lost || want.nul != got.nul)
    __builtin_trap();
  if (want.len != got.len || memcmp(want.bytes, got.bytes, want.len) != 0) __builtin_trap();
}

/* A copy of exactly these bytes, so that reading past them is found. */
static uint8_t *copy_of(const uint8_t *p, size_t len) {
  uint8_t *copy = malloc(len > 0 ? len : 1);
  if (copy == NULL) abort();
  if (len > 0) memcpy(copy, p, len);
  return copy;
}

/* One line, without its newline. */
static void one_line(const uint8_t *p, uint32_t len, uint32_t chunk) {
  csn_json_init(&fresh, table);
  for (uint32_t i = 0; i < len; i++)
    csn_json_push(&fresh, csn_span_of(p + i, 1));
  describe(&fresh, &want);

  csn_json_init(&fresh, table);
  for (uint32_t i = 0; i < len; i += chunk) {
    uint32_t n = len - i < chunk ? len - i : chunk;
    uint8_t *piece = copy_of(p + i, n);
    csn_json_push(&fresh, csn_span_of(piece, n));
    free(piece);
  }
  describe(&fresh, &got);
  compare();

  uint8_t *whole = copy_of(p, len);
  csn_json_init(&fresh, table);
  csn_json_push(&fresh, csn_span_of(whole, len));
  describe(&fresh, &got);
  compare();
  for (uint32_t at = 0; at < len; at = at * 2 + 1) {
    uint32_t seen[3] = {0};
    if ((whole[at] & 0xc0) == 0x80) continue;
    const uint8_t *q = csn_scan_bytes(whole + at, whole + len, &seen[0]);
    if (csn_scan_string(whole + at, whole + len, &seen[1]) != q || seen[1] != seen[0]) __builtin_trap();
    if (scalar_scan_long(whole + at, whole + len, &seen[2]) != q || seen[2] != seen[0]) __builtin_trap();
  }
  free(whole);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1) return 0;
  uint32_t chunk = 1u + data[0] % 41u, len = (uint32_t)size - 1;
  const uint8_t *text = data + 1;
  uint8_t *all = copy_of(text, len);
  csn_json_init(&j, table); /* keeps the shapes that it knows from line to line */
  uint32_t at = 0, piece_end = 0, begun = 0;
  while (at < len) {
    if (at == piece_end) piece_end = data[0] & 1 ? len : len - at < chunk ? len : at + chunk;
    bool ended;
    uint32_t n = csn_json_push_line(&j, csn_span_of(all + at, piece_end - at), &ended);
    if (n > piece_end - at || (!ended && n != piece_end - at)) __builtin_trap();
    at += n;
    if (!ended) continue;
    if (all[at] != '\n') __builtin_trap();
    if (data[0] & 2) csn_json_keep(&j);
    one_line(text + begun, at - begun, chunk);
    describe(&j, &got);
    if (got.verdict == CSN_JSON_PARTIAL) got.verdict = CSN_JSON_INVALID;
    if (want.verdict == CSN_JSON_PARTIAL) want.verdict = CSN_JSON_INVALID;
    compare();
    csn_json_reset(&j);
    at++;
    begun = at;
  }
  free(all);
  if (begun < len) one_line(text + begun, len - begun, chunk);
  return 0;
}
