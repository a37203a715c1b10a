/* csn/price.h - what a model's tokens cost: the table in wasm/data/prices.h, and an operator's own prices.
 *
 * Input:  a model's name as the agent or the request gives it, and token counts.
 * Output: nano-dollars, or "not known": a price is never guessed.
 * Memory: csn_prices is the caller's, fixed size, no pointers. All arithmetic is on integers and saturates.
 */
#ifndef CSN_PRICE_H
#define CSN_PRICE_H

#include "csn/usage.h"

#define CSN_PRICE_ROWS_MAX    32u /* items: an operator's own prices */
#define CSN_PRICE_NAME_MAX    64u /* bytes: a model's name in them */
#define CSN_PRICE_VERSION_MAX 32u /* bytes */

/* Micro-dollars for a million tokens. */
typedef struct csn_rate {
  uint32_t input, cache_read, cache_write, output;
  uint32_t above; /* holds for requests whose prompt has more tokens than this */
} csn_rate;

/* An operator's own prices. They are looked at first. */
typedef struct csn_price_row {
  uint8_t name_len;
  uint8_t prefix; /* 1: any model whose name begins so */
  uint8_t name[CSN_PRICE_NAME_MAX];
  csn_rate rate;
} csn_price_row;
typedef struct csn_prices {
  uint32_t count;
  csn_price_row rows[CSN_PRICE_ROWS_MAX];
} csn_prices;

/* Date of the built-in table, as "2026-11-21". */
const char *csn_price_version(void);
/* Rate of `model` for a request with `prompt_tokens` tokens of input, caches included; NULL when the table
 * has none. A name matches whole, after "provider/", "[1m]" and a date at its end are taken off. `own` may be
 * NULL. Where a model is dearer beyond a number of tokens, the row with the highest number below the prompt's
 * counts. */
const csn_rate *csn_price_find(const csn_prices *own, csn_span model, uint64_t prompt_tokens);
/* Sets the cost of u's tokens: cost_nano, or cost_unknown when the model has no price. No tokens cost
 * nothing. `one_request` says that the tokens are those of one request, whose length may make it dearer. */
void csn_price_usage(const csn_prices *own, csn_span model, bool one_request, csn_usage *u);

#endif
