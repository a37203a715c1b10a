#include "csn/usage.h"

uint64_t csn_add_sat(uint64_t a, uint64_t b) {
  return b > UINT64_MAX - a ? UINT64_MAX : a + b;
}

/* By halves: a 128-bit product would want a function of the compiler's library. */
uint64_t csn_mul_sat(uint64_t a, uint32_t b) {
  uint64_t low = (a & UINT32_MAX) * b, high = (a >> 32) * b + (low >> 32);
  return high > UINT32_MAX ? UINT64_MAX : high << 32 | (low & UINT32_MAX);
}

static uint32_t add32(uint32_t a, uint32_t b) {
  return b > UINT32_MAX - a ? UINT32_MAX : a + b;
}

void csn_usage_add(csn_usage *to, const csn_usage *delta) {
  to->input_tokens = csn_add_sat(to->input_tokens, delta->input_tokens);
  to->output_tokens = csn_add_sat(to->output_tokens, delta->output_tokens);
  to->cache_read_tokens = csn_add_sat(to->cache_read_tokens, delta->cache_read_tokens);
  to->cache_write_tokens = csn_add_sat(to->cache_write_tokens, delta->cache_write_tokens);
  to->cost_nano = csn_add_sat(to->cost_nano, delta->cost_nano);
  to->turns = add32(to->turns, delta->turns);
  to->tool_calls = add32(to->tool_calls, delta->tool_calls);
  to->cost_unknown |= delta->cost_unknown;
}

static uint64_t max64(uint64_t a, uint64_t b) {
  return a > b ? a : b;
}

void csn_usage_max(csn_usage *to, const csn_usage *with) {
  to->input_tokens = max64(to->input_tokens, with->input_tokens);
  to->output_tokens = max64(to->output_tokens, with->output_tokens);
  to->cache_read_tokens = max64(to->cache_read_tokens, with->cache_read_tokens);
  to->cache_write_tokens = max64(to->cache_write_tokens, with->cache_write_tokens);
  to->cost_nano = max64(to->cost_nano, with->cost_nano);
  if (with->turns > to->turns) to->turns = with->turns;
  if (with->tool_calls > to->tool_calls) to->tool_calls = with->tool_calls;
  to->cost_unknown |= with->cost_unknown;
}

uint64_t csn_usage_tokens(const csn_usage *u) {
  return csn_add_sat(csn_add_sat(u->input_tokens, u->output_tokens),
                     csn_add_sat(u->cache_read_tokens, u->cache_write_tokens));
}

void csn_put_cost(csn_fx *fx, const char *key, const csn_usage *u) {
  if (u->cost_unknown) {
    csn_put_field_null(fx, key);
    return;
  }
  csn_put_key_json(fx, key, csn_str_len(key), NULL, 0);
  csn_put_nano(fx, u->cost_nano);
}

void csn_put_usage(csn_fx *fx, const csn_usage *u) {
  csn_put_str(fx, "\"input_tokens\":");
  csn_put_u64(fx, u->input_tokens);
  csn_put_field_u64(fx, "output_tokens", u->output_tokens);
  csn_put_field_u64(fx, "cache_read_tokens", u->cache_read_tokens);
  csn_put_field_u64(fx, "cache_write_tokens", u->cache_write_tokens);
  csn_put_cost(fx, "cost_usd", u);
  csn_put_field_u64(fx, "turns", u->turns);
  csn_put_field_u64(fx, "tool_calls", u->tool_calls);
}
