/* csn/usage.h - what a run has used of a model: counters that only grow and saturate.
 *
 * Memory: plain structs of the caller. Errors: none. Sums saturate at the type's maximum, so that no agent
 * can wrap a counter back below a limit. */
#ifndef CSN_USAGE_H
#define CSN_USAGE_H

#include "csn/base.h"

typedef struct csn_usage {
  uint64_t input_tokens; /* neither read from nor written to a cache */
  uint64_t output_tokens;
  uint64_t cache_read_tokens, cache_write_tokens;
  uint64_t cost_nano; /* 10^-9 US dollars: the part whose price is known */
  uint32_t turns;     /* of the main loop */
  uint32_t tool_calls;
  uint8_t cost_unknown; /* 1: cost_nano lacks something, because a model has no price */
} csn_usage;

uint64_t csn_add_sat(uint64_t a, uint64_t b);
uint64_t csn_mul_sat(uint64_t a, uint32_t b);
void csn_usage_add(csn_usage *to, const csn_usage *delta);
/* The larger of each counter; an unknown cost stays unknown. */
void csn_usage_max(csn_usage *to, const csn_usage *with);
/* All tokens: input, output and both sides of the cache. */
uint64_t csn_usage_tokens(const csn_usage *u);
/* `"input_tokens":...,"tool_calls":n`, without braces; "cost_usd" is null when it is not known. At most
 * CSN_USAGE_JSON_MAX bytes. */
#define CSN_USAGE_JSON_MAX 320u
void csn_put_usage(csn_fx *fx, const csn_usage *u);
/* `,"key":<dollars>`, or null when the cost is not known. */
void csn_put_cost(csn_fx *fx, const char *key, const csn_usage *u);

#endif
