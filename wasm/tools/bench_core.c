/* bench_core.c - build/bench.wasm: the tokenizer of core.wasm, the same objects, with a consumer that reads
 * the captured fields and nothing else. tests/bench/parts/core.mjs measures it against JSON.parse. */
#include "csn/agent.h"

#define EXPORT(name) __attribute__((export_name(name)))

static _Alignas(16) uint8_t in_box[CSN_FEED_MAX];
static csn_json line;
static uint32_t lines, fields, sum;

static csn_json_table table_of(uint32_t agent) {
  return csn_dialect_of((csn_agent)agent)->table;
}

EXPORT("in") uint32_t bench_in(void) {
  return (uint32_t)(uintptr_t)in_box;
}

/* agent: csn_agent */
EXPORT("reset") void bench_reset(uint32_t agent) {
  csn_json_init(&line, table_of(agent));
  lines = fields = sum = 0;
}

/* Writes the dialect's table into the box, `parent step captured key` a line; returns its length. */
EXPORT("describe") uint32_t bench_describe(uint32_t agent) {
  csn_json_table table = table_of(agent);
  csn_fx out = {in_box, sizeof in_box, 0};
  for (uint32_t i = 0; i < table.count; i++) {
    const csn_json_node *n = &table.nodes[i];
    csn_put_u64(&out, n->parent);
    csn_put_str(&out, " ");
    csn_put_u64(&out, n->step);
    csn_put_str(&out, n->field != 0 ? " 1 " : " 0 ");
    csn_put_str(&out, n->key);
    csn_put_str(&out, "\n");
  }
  return out.len;
}

/* What JavaScript does with the object that JSON.parse gave it: looks at every text that the table names. */
static void consume(void) {
  if (csn_json_end(&line) != CSN_JSON_OK) return;
  lines++;
  for (uint32_t i = 0; i < line.item_count; i++) {
    const csn_json_item *item = &line.items[i];
    if (item->kind != CSN_JK_STRING) continue;
    csn_span text = csn_json_text(&line, item);
    fields++;
    if (text.len > 0) sum += text.ptr[0];
  }
}

/* The next `len` bytes of the stream stand in the box. */
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

EXPORT("lines") uint32_t bench_lines(void) {
  return lines;
}
EXPORT("fields") uint32_t bench_fields(void) {
  return fields;
}
EXPORT("sum") uint32_t bench_sum(void) {
  return sum;
}
