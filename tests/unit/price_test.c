/* Prices and counters: exact, saturating, never guessed. */
#include "csn/price.h"

#include "tap.h"

static csn_prices own;

static csn_usage priced(const csn_prices *p, const char *model, bool one, uint64_t in, uint64_t read,
                        uint64_t write, uint64_t out) {
  csn_usage u = {
      .input_tokens = in, .cache_read_tokens = read, .cache_write_tokens = write, .output_tokens = out};
  csn_price_usage(p, csn_span_str(model), one, &u);
  return u;
}

static bool costs(csn_usage u, uint64_t nano) {
  return !u.cost_unknown && u.cost_nano == nano;
}

static void row(const char *name, bool prefix, uint32_t input, uint32_t above) {
  csn_price_row *r = &own.rows[own.count++];
  r->name_len = (uint8_t)csn_str_len(name);
  memcpy(r->name, name, r->name_len);
  r->prefix = prefix;
  r->rate = (csn_rate){input, input, input, input, above};
}

static void test_table(void) {
  /* 36 in and 119 out of claude-opus-5-5: what Claude Code says in basic-stream.jsonl. */
  ok(costs(priced(NULL, "claude-opus-5-5", true, 36, 0, 0, 119), 2524000), "Claude Code's own figure");
  ok(costs(priced(NULL, "claude-opus-5-5", true, 1000000, 1000000, 1000000, 1000000), 29200000000u),
     "each column counts");
  ok(costs(priced(NULL, "claude-opus-4-5-20251101", true, 1, 0, 0, 0), 5000), "a date at the end");
  ok(costs(priced(NULL, "gpt-5.5-2026-04-23", true, 1, 0, 0, 0), 5000), "a date with dashes");
  ok(costs(priced(NULL, "claude-opus-5-5[1m]", true, 1, 0, 0, 0), 4000), "a context suffix");
  ok(costs(priced(NULL, "openrouter/anthropic/claude-opus-5-5", true, 1, 0, 0, 0), 4000),
     "a provider before it");
  ok(costs(priced(NULL, "gemini-2.5-flash-lite", true, 3, 0, 0, 0), 300), "a small price");
  ok(costs(priced(NULL, "claude-haiku-5-5", true, 0, 1, 0, 0), 10), "a hundredth of a micro-dollar");
  static const char *const unknown[] = {
      "",     "claude-opus-5-6", "claude-opus-5-5x", "gpt-5.55",
      "gpt-", "<synthetic>",     "fake-model",       "claude-opus-5-5-2025110",
      "/",    "-20251101"};
  for (uint32_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
    csn_usage u = priced(NULL, unknown[i], true, 1, 0, 0, 0);
    ok(u.cost_unknown && u.cost_nano == 0, "no price for \"%s\"", unknown[i]);
  }
  ok(costs(priced(NULL, "fake-model", true, 0, 0, 0, 0), 0), "no tokens cost nothing");
}

static void test_long_prompts(void) {
  ok(costs(priced(NULL, "gpt-6-sol", true, 272000, 0, 0, 0), 544000000), "up to the threshold");
  ok(costs(priced(NULL, "gpt-6-sol", true, 272001, 0, 0, 0), 1088004000), "beyond it");
  ok(costs(priced(NULL, "gpt-6-sol", true, 1, 272000, 0, 0), 108804000), "the cache counts as prompt");
  ok(costs(priced(NULL, "gpt-6-sol", false, 272001, 0, 0, 0), 544002000), "a sum is not a prompt");
  ok(costs(priced(NULL, "gpt-6-sol", true, 0, 0, 0, 300000), 3000000000u), "output is not prompt");
}

static void test_own(void) {
  memset(&own, 0, sizeof own);
  row("claude-opus-5-5", false, 1000000, 0);
  row("local-", true, 2000000, 0);
  row("local-big", true, 3000000, 0);
  row("local-big", true, 9000000, 100);
  row("only-long", false, 9000000, 100);
  ok(costs(priced(&own, "claude-opus-5-5", true, 10, 0, 0, 0), 10000), "it goes before the table");
  ok(costs(priced(&own, "claude-opus-5-5-20260922", true, 10, 0, 0, 0), 10000), "for a dated name too");
  ok(costs(priced(&own, "claude-opus-5", true, 10, 0, 0, 0), 50000), "the table holds for the rest");
  ok(costs(priced(&own, "local-small", true, 10, 0, 0, 0), 20000), "a beginning");
  ok(costs(priced(&own, "local-bigger", true, 10, 0, 0, 0), 30000), "the longest beginning");
  ok(costs(priced(&own, "x/local-big", true, 101, 0, 0, 0), 909000), "its row for long prompts");
  ok(priced(&own, "local", true, 1, 0, 0, 0).cost_unknown, "shorter than the beginning");
  ok(priced(&own, "only-long", true, 100, 0, 0, 0).cost_unknown, "no row for short prompts");
  row("only-", true, 5000000, 0);
  ok(costs(priced(&own, "only-long", true, 100, 0, 0, 0), 500000), "then a shorter name's");
}

static void test_saturation(void) {
  csn_usage top = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT32_MAX, UINT32_MAX, 1};
  csn_usage u = {.input_tokens = 5, .turns = 7, .tool_calls = 1, .cost_nano = 9};
  csn_usage_add(&u, &top);
  ok(u.input_tokens == UINT64_MAX && u.turns == UINT32_MAX && u.tool_calls == UINT32_MAX &&
         u.cost_nano == UINT64_MAX && u.cost_unknown == 1,
     "a sum saturates");
  ok(csn_usage_tokens(&top) == UINT64_MAX, "so does the sum of all tokens");
  u = priced(NULL, "claude-opus-5-5", true, UINT64_MAX, 1, 1, 1);
  ok(u.cost_nano == UINT64_MAX / 1000u + 1u && !u.cost_unknown, "and a cost");
  csn_usage a = {.input_tokens = 3, .turns = 1, .cost_nano = 2}, b = {.input_tokens = 2, .turns = 4};
  csn_usage_max(&a, &b);
  ok(a.input_tokens == 3 && a.turns == 4 && a.cost_nano == 2, "the larger of each");
  ok(csn_mul_sat(UINT64_MAX, 0) == 0 && csn_mul_sat(UINT64_MAX, 1) == UINT64_MAX &&
         csn_mul_sat(UINT64_MAX / 2, 2) == UINT64_MAX - 1 &&
         csn_mul_sat(UINT64_MAX / 2 + 1, 2) == UINT64_MAX && csn_mul_sat(3, 7) == 21 &&
         csn_mul_sat(UINT32_MAX, UINT32_MAX) == 0xfffffffe00000001u &&
         csn_mul_sat(0x100000001u, UINT32_MAX) == UINT64_MAX &&
         csn_mul_sat(0x100000000u, UINT32_MAX) == UINT64_MAX - UINT32_MAX,
     "products");
}

static void test_json(void) {
  static _Alignas(8) uint8_t box[1024];
  csn_fx fx = {box, sizeof box, 0};
  csn_usage top = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT32_MAX, UINT32_MAX, 0};
  uint32_t at = csn_fx_open(&fx, CSN_FX_EVENT, 0, 0, 0, 0);
  uint32_t from = fx.len;
  csn_put_usage(&fx, &top);
  ok(fx.len - from <= CSN_USAGE_JSON_MAX, "the longest text fits: %u", fx.len - from);
  from = fx.len;
  top.cost_unknown = 1;
  csn_put_cost(&fx, "cost_usd", &top);
  ok(fx.len - from == 16 && memcmp(box + from, ",\"cost_usd\":null", 16) == 0, "an unknown cost is null");
  csn_fx_close(&fx, at);
  ok(csn_str_len(csn_price_version()) == 10 && csn_price_version()[4] == '-', "the table has a date");
}

int main(void) {
  test_table();
  test_long_prompts();
  test_own();
  test_saturation();
  test_json();
  return done();
}
