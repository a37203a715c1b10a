/* bench_core.c - build/bench.wasm: the tokenizer of core.wasm, the same objects, with a consumer that reads
 * the captured fields and nothing else. tests/bench/parts/core.mjs measures it against JSON.parse. */
#include "csn/agent.h"

#ifndef EXPORT
#define EXPORT(name) __attribute__((export_name(name)))
#endif

static _Alignas(16) uint8_t in_box[CSN_FEED_MAX];
static csn_json line;
static uint64_t fields, bytes, lines;

EXPORT("in") uint32_t bench_in(void) {
  return (uint32_t)(uintptr_t)in_box;
}

/* `agent` is a csn_agent; 0 stands for Claude Code. */
EXPORT("reset") void bench_reset(uint32_t agent) {
  csn_json_init(&line, csn_dialect_of(agent > 0 ? (csn_agent)agent : CSN_AGENT_CLAUDE_CODE)->table);
  fields = bytes = lines = 0;
}

/* What JavaScript does with the object that JSON.parse gave it: looks at every field of the dialect's table.
 */
static void consume(void) {
  if (csn_json_end(&line) != CSN_JSON_OK) return;
  lines++;
  for (uint32_t i = 0; i < line.item_count; i++) {
    const csn_json_item *item = &line.items[i];
    if (item->kind != CSN_JK_STRING) continue;
    csn_span text = csn_json_text(&line, item);
    fields++;
    if (text.len > 0) bytes += text.ptr[0];
  }
}

EXPORT("parse") void bench_parse(uint32_t len) {
  uint32_t used = 0;
  while (used < len) {
    bool ended;
    used += csn_json_push_line(&line, csn_span_of(in_box + used, len - used), &ended);
    if (!ended) return;
    consume();
    csn_json_reset(&line);
    used++;
  }
}

EXPORT("fields") double bench_fields(void) {
  return (double)fields;
}
EXPORT("lines") double bench_lines(void) {
  return (double)lines;
}
EXPORT("checksum") double bench_checksum(void) {
  return (double)bytes;
}
