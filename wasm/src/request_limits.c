#include "csn/request.h"

#include "cJSON.h"

/* The smallest limit on cost: below it nothing could run. */
#define COST_MIN_NANO 1000u

static csn_err read_limit(const cJSON *item, csn_limit limit, uint32_t max, uint64_t *out) {
  if (limit == CSN_LIMIT_COST) return csn_doc_nano(item, COST_MIN_NANO, max, out);
  uint32_t value = 0;
  csn_err err = csn_doc_number(item, 1, max, &value);
  *out = limit == CSN_LIMIT_WALL ? (uint64_t)value * 1000u : value;
  return err;
}

csn_err csn_read_limits(const cJSON *item, uint32_t allow, csn_limits_request *out, csn_pointer *bad) {
  static const struct {
    csn_limit limit;
    const char *key;
    uint32_t max;
  } known[] = {
#define X(name, value, key, max) {CSN_LIMIT_##name, key, max},
      CSN_LIMIT_TABLE(X)
#undef X
  };
  uint32_t base = bad->len;
  *out = (csn_limits_request){0};
  if (!cJSON_IsObject(item)) return CSN_ERR_BAD_TYPE;
  for (const cJSON *m = item->child; m != NULL; m = m->next) {
    csn_span key = csn_span_str(m->string);
    csn_err err = CSN_ERR_UNKNOWN_FIELD;
    uint32_t bit = 0;
    bad->len = base;
    csn_pointer_push(bad, m->string);
    if (csn_doc_seen_before(item, m)) return CSN_ERR_BAD_VALUE;
    bool lifted = cJSON_IsNull(m) && (allow & CSN_LIMITS_NULL) != 0;
    if (csn_span_is(key, "idle_s") && (allow & CSN_LIMITS_IDLE) != 0) {
      err = lifted ? CSN_ERR_OK : csn_doc_number(m, CSN_TIMEOUT_S_MIN, CSN_TIMEOUT_S_MAX, &out->idle_s);
    } else {
      for (uint32_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (!csn_span_is(key, known[i].key)) continue;
        bit = known[i].limit;
        err = lifted ? CSN_ERR_OK : read_limit(m, known[i].limit, known[i].max, &out->limits.max[bit]);
      }
    }
    if (err != CSN_ERR_OK) return err;
    out->given = (uint16_t)(out->given | 1u << bit);
  }
  bad->len = base;
  return CSN_ERR_OK;
}

void csn_limits_apply(const csn_limits_request *r, csn_limits *limits, uint32_t *idle_s) {
  if ((r->given & 1u) != 0) *idle_s = r->idle_s;
  for (uint32_t i = 1; i < CSN_LIMIT_END; i++)
    if ((r->given >> i & 1u) != 0) limits->max[i] = r->limits.max[i];
}

/* A request with one member. */
static csn_err read_only(csn_arena *a, csn_span doc, const char *name, const cJSON **item, csn_pointer *bad) {
  const cJSON *root;
  csn_pointer_set(bad, "");
  csn_err err = csn_doc_parse(a, doc, CSN_DOC_VALUES_MAX, &root);
  if (err != CSN_ERR_OK) return err;
  csn_pointer_push(bad, name);
  *item = root->child;
  if (root->child == NULL) return CSN_ERR_MISSING_FIELD;
  for (const cJSON *m = root->child; m != NULL; m = m->next) {
    bool named = csn_span_is(csn_span_str(m->string), name);
    if (m == root->child && named) continue;
    csn_pointer_set(bad, "");
    csn_pointer_push(bad, m->string);
    return named ? CSN_ERR_BAD_VALUE : CSN_ERR_UNKNOWN_FIELD;
  }
  return CSN_ERR_OK;
}

csn_err csn_request_tools(csn_arena *a, csn_span doc, const csn_tool_store **out, csn_pointer *bad) {
  const cJSON *item;
  csn_err err = read_only(a, doc, "tools", &item, bad);
  if (err != CSN_ERR_OK) return err;
  csn_tool_store *store = csn_arena_take(a, sizeof *store);
  if (store == NULL) return CSN_ERR_NO_MEMORY;
  *out = store;
  return csn_tools_read(item, store, bad);
}

csn_err csn_request_limits(csn_arena *a, csn_span doc, csn_limits_request *out, csn_pointer *bad) {
  const cJSON *item;
  csn_err err = read_only(a, doc, "limits", &item, bad);
  return err != CSN_ERR_OK ? err : csn_read_limits(item, CSN_LIMITS_IDLE | CSN_LIMITS_NULL, out, bad);
}

/* Dollars for a million tokens, as micro-dollars. */
static csn_err read_rate(const cJSON *item, uint32_t *out) {
  uint64_t nano;
  csn_err err = csn_doc_nano(item, 0, 4000, &nano);
  if (err != CSN_ERR_OK) return err;
  *out = (uint32_t)((nano + 500u) / 1000u);
  return CSN_ERR_OK;
}

/* {"model":"gpt-5.5*","input":5,"output":30,"cache_read":0.5,"cache_write":5,"above_tokens":272000}. Without
 * prices for the cache, both sides of it cost what input costs. */
static csn_err read_price(const cJSON *item, csn_price_row *row, csn_pointer *bad) {
  bool has_input = false, has_output = false, has_read = false, has_write = false;
  uint32_t base = bad->len;
  if (!cJSON_IsObject(item)) return CSN_ERR_BAD_TYPE;
  for (const cJSON *m = item->child; m != NULL; m = m->next) {
    csn_span key = csn_span_str(m->string), name;
    csn_err err;
    bad->len = base;
    csn_pointer_push(bad, m->string);
    if (csn_doc_seen_before(item, m)) return CSN_ERR_BAD_VALUE;
    if (csn_span_is(key, "model")) {
      err = csn_doc_text(m, 1, CSN_PRICE_NAME_MAX, &name);
      if (err != CSN_ERR_OK) return err;
      row->prefix = name.ptr[name.len - 1] == '*';
      row->name_len = (uint8_t)(name.len - row->prefix);
      if (row->name_len == 0) return CSN_ERR_BAD_VALUE; /* a price for every model is none that is known */
      memcpy(row->name, name.ptr, row->name_len);
    } else if (csn_span_is(key, "input")) {
      has_input = true;
      err = read_rate(m, &row->rate.input);
    } else if (csn_span_is(key, "output")) {
      has_output = true;
      err = read_rate(m, &row->rate.output);
    } else if (csn_span_is(key, "cache_read")) {
      has_read = true;
      err = read_rate(m, &row->rate.cache_read);
    } else if (csn_span_is(key, "cache_write")) {
      has_write = true;
      err = read_rate(m, &row->rate.cache_write);
    } else if (csn_span_is(key, "above_tokens")) {
      err = csn_doc_number(m, 0, CSN_LIMIT_MAX, &row->rate.above);
    } else {
      err = CSN_ERR_UNKNOWN_FIELD;
    }
    if (err != CSN_ERR_OK) return err;
  }
  bad->len = base;
  if (row->name_len == 0 || !has_input || !has_output) {
    csn_pointer_push(bad, row->name_len == 0 ? "model" : !has_input ? "input" : "output");
    return CSN_ERR_MISSING_FIELD;
  }
  if (!has_read) row->rate.cache_read = row->rate.input;
  if (!has_write) row->rate.cache_write = row->rate.input;
  return CSN_ERR_OK;
}

csn_err csn_read_prices(const cJSON *item, csn_prices *out, csn_pointer *bad) {
  uint32_t base = bad->len;
  out->count = 0;
  if (!cJSON_IsArray(item)) return CSN_ERR_BAD_TYPE;
  for (const cJSON *m = item->child; m != NULL; m = m->next) {
    bad->len = base;
    if (out->count == CSN_PRICE_ROWS_MAX) return CSN_ERR_TOO_LONG;
    csn_price_row *row = &out->rows[out->count];
    *row = (csn_price_row){0};
    csn_pointer_push_index(bad, out->count);
    csn_err err = read_price(m, row, bad);
    if (err != CSN_ERR_OK) return err;
    out->count++;
  }
  bad->len = base;
  return CSN_ERR_OK;
}

csn_err csn_request_usage(csn_arena *a, csn_span doc, csn_usage_request *out, csn_pointer *bad) {
  const cJSON *root;
  *out = (csn_usage_request){0};
  csn_pointer_set(bad, "");
  csn_err err = csn_doc_parse(a, doc, CSN_DOC_VALUES_MAX, &root);
  for (const cJSON *item = err == CSN_ERR_OK ? root->child : NULL; item != NULL; item = item->next) {
    static const struct {
      const char *key;
      uint32_t at;
    } tokens[] = {
        {"input_tokens", offsetof(csn_usage, input_tokens)},
        {"output_tokens", offsetof(csn_usage, output_tokens)},
        {"cache_read_tokens", offsetof(csn_usage, cache_read_tokens)},
        {"cache_write_tokens", offsetof(csn_usage, cache_write_tokens)},
    };
    csn_span key = csn_span_str(item->string);
    csn_pointer_set(bad, "");
    csn_pointer_push(bad, item->string);
    if (csn_doc_seen_before(root, item)) return CSN_ERR_BAD_VALUE;
    err = CSN_ERR_UNKNOWN_FIELD;
    if (csn_span_is(key, "model")) err = csn_doc_text(item, 0, CSN_MODEL_MAX, &out->model);
    if (csn_span_is(key, "cost_usd")) {
      out->has_cost = true;
      err = csn_doc_nano(item, 0, CSN_COST_USD_MAX, &out->usage.cost_nano);
    }
    for (uint32_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
      uint32_t value = 0;
      if (!csn_span_is(key, tokens[i].key)) continue;
      err = csn_doc_number(item, 0, CSN_LIMIT_MAX, &value);
      uint64_t wide = value;
      memcpy((uint8_t *)&out->usage + tokens[i].at, &wide, sizeof wide);
    }
    if (err != CSN_ERR_OK) return err;
  }
  return err;
}
