#include "csn/price.h"

#include "prices.h"

typedef struct known {
  const char *name;
  csn_rate rate;
} known;
static const known table[] = {
#define X(name, input, cache_read, cache_write, output, above)                                               \
  {name, {input, cache_read, cache_write, output, above}},
    CSN_PRICE_TABLE(X)
#undef X
};

const char *csn_price_version(void) {
  return CSN_PRICE_TABLE_VERSION;
}

static bool digits(csn_span s) {
  for (uint32_t i = 0; i < s.len; i++)
    if (s.ptr[i] < '0' || s.ptr[i] > '9') return false;
  return true;
}

static csn_span part(csn_span s, uint32_t from, uint32_t len) {
  return csn_span_of(s.ptr + from, len);
}

/* Takes off "-20251101" or "-2025-11-01". */
static csn_span without_date(csn_span s) {
  if (s.len > 9 && s.ptr[s.len - 9] == '-' && digits(part(s, s.len - 8, 8))) return part(s, 0, s.len - 9);
  if (s.len > 11 && s.ptr[s.len - 11] == '-' && s.ptr[s.len - 6] == '-' && s.ptr[s.len - 3] == '-' &&
      digits(part(s, s.len - 10, 4)) && digits(part(s, s.len - 5, 2)) && digits(part(s, s.len - 2, 2)))
    return part(s, 0, s.len - 11);
  return s;
}

static csn_span bare_name(csn_span model) {
  uint32_t from = 0;
  for (uint32_t i = 0; i < model.len; i++)
    if (model.ptr[i] == '/') from = i + 1;
  csn_span s = csn_span_of(model.ptr + from, model.len - from);
  if (s.len > 4 && memcmp(s.ptr + s.len - 4, "[1m]", 4) == 0) s.len -= 4;
  return without_date(s);
}

static bool same(csn_span s, const uint8_t *name, uint32_t len) {
  return s.len == len && memcmp(s.ptr, name, len) == 0;
}

/* csn_span_is, which would count the bytes of every name first. */
static bool is_name(csn_span s, const char *name) {
  uint32_t i = 0;
  while (i < s.len && s.ptr[i] == (uint8_t)name[i] && name[i] != 0)
    i++;
  return i == s.len && name[i] == 0;
}

/* A row of the operator's: the name as it is or bare, or what it begins with. */
static bool row_matches(const csn_price_row *row, csn_span model, csn_span bare) {
  if (same(model, row->name, row->name_len) || same(bare, row->name, row->name_len)) return true;
  if (!row->prefix) return false;
  return (model.len >= row->name_len && memcmp(model.ptr, row->name, row->name_len) == 0) ||
         (bare.len >= row->name_len && memcmp(bare.ptr, row->name, row->name_len) == 0);
}

/* Whether `with` says more of this prompt than `have`. */
static bool better(const csn_rate *have, const csn_rate *with, uint64_t prompt_tokens) {
  if (with->above > 0 && prompt_tokens <= with->above) return false;
  return have == NULL || with->above > have->above;
}

const csn_rate *csn_price_find(const csn_prices *own, csn_span model, uint64_t prompt_tokens) {
  if (model.len == 0) return NULL;
  csn_span bare = bare_name(model);
  const csn_rate *found = NULL;
  const csn_price_row *by = NULL;
  for (uint32_t i = 0; own != NULL && i < own->count; i++) {
    const csn_price_row *row = &own->rows[i];
    if (!row_matches(row, model, bare)) continue;
    /* The longest name decides; of rows with that name, the one for this length of prompt. */
    bool longer = by == NULL || row->name_len > by->name_len;
    if (longer ? !better(NULL, &row->rate, prompt_tokens)
               : row->name_len != by->name_len || !better(found, &row->rate, prompt_tokens))
      continue;
    found = &row->rate;
    by = row;
  }
  for (uint32_t i = 0; by == NULL && i < sizeof table / sizeof table[0]; i++)
    if (is_name(bare, table[i].name) && better(found, &table[i].rate, prompt_tokens)) found = &table[i].rate;
  return found;
}

void csn_price_usage(const csn_prices *own, csn_span model, bool one_request, csn_usage *u) {
  u->cost_nano = 0;
  u->cost_unknown = 0;
  if (csn_usage_tokens(u) == 0) return;
  uint64_t prompt = csn_add_sat(u->input_tokens, csn_add_sat(u->cache_read_tokens, u->cache_write_tokens));
  const csn_rate *rate = csn_price_find(own, model, one_request ? prompt : 0);
  if (rate == NULL) {
    u->cost_unknown = 1;
    return;
  }
  /* Micro-dollars a million tokens are pico-dollars a token. */
  uint64_t pico = csn_add_sat(
      csn_add_sat(csn_mul_sat(u->input_tokens, rate->input), csn_mul_sat(u->output_tokens, rate->output)),
      csn_add_sat(csn_mul_sat(u->cache_read_tokens, rate->cache_read),
                  csn_mul_sat(u->cache_write_tokens, rate->cache_write)));
  u->cost_nano = pico / 1000u + (pico % 1000u >= 500u ? 1u : 0u);
}
