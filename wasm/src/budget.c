#include "csn/budget.h"

#include "csn/price.h"

const char *csn_limit_key(csn_limit limit) {
  static const char *const keys[CSN_LIMIT_END] = {"",
#define X(name, value, key, max) key,
                                                  CSN_LIMIT_TABLE(X)
#undef X
  };
  CSN_INVARIANT(limit < CSN_LIMIT_END);
  return keys[limit];
}

uint64_t csn_counter(const csn_counters *c, csn_limit limit) {
  switch (limit) {
  case CSN_LIMIT_WALL:
    return c->wall_ms;
  case CSN_LIMIT_TURNS:
    return c->usage.turns;
  case CSN_LIMIT_TOOL_CALLS:
    return c->usage.tool_calls;
  case CSN_LIMIT_TOKENS:
    return csn_usage_tokens(&c->usage);
  case CSN_LIMIT_OUTPUT_TOKENS:
    return c->usage.output_tokens;
  case CSN_LIMIT_COST:
    return c->usage.cost_nano;
  case CSN_LIMIT_OUTPUT_BYTES:
    return c->output_bytes;
  case CSN_LIMIT_NONE:
  case CSN_LIMIT_END:
    break;
  }
  CSN_INVARIANT(false);
  return 0;
}

static csn_counters counters_of(const csn_budget *b, csn_scope scope) {
  csn_counters c = b->run;
  if (scope == CSN_SCOPE_RUN) return c;
  csn_usage_add(&c.usage, &b->ended.usage);
  c.output_bytes = csn_add_sat(c.output_bytes, b->ended.output_bytes);
  c.wall_ms = csn_add_sat(c.wall_ms, b->ended.wall_ms);
  return c;
}

/* The smallest use that is at least 80 % of max. */
static uint64_t warn_at(uint64_t max) {
  return max - max / 5u;
}

static bool is_unknown(const csn_counters *c, csn_limit limit) {
  return limit == CSN_LIMIT_COST && c->usage.cost_unknown;
}

/* Used up: nothing may begin that uses more of it. */
static bool is_spent(const csn_counters *c, const csn_limits *l, csn_limit limit) {
  return l->max[limit] > 0 && (is_unknown(c, limit) || csn_counter(c, limit) >= l->max[limit]);
}

/* What runs has to stop. The last turn and the last tool call that a limit allows may be brought to their
 * end. */
static bool is_over(const csn_counters *c, const csn_limits *l, csn_limit limit, bool more) {
  uint64_t max = l->max[limit], used = csn_counter(c, limit);
  if (max == 0) return false;
  if (limit == CSN_LIMIT_TURNS) return used > max || (used == max && more);
  if (limit == CSN_LIMIT_TOOL_CALLS) return used > max;
  return is_spent(c, l, limit);
}

void csn_budget_begin(csn_budget *b, const csn_limits *limits) {
  b->limits[CSN_SCOPE_RUN] = *limits;
  b->warned[CSN_SCOPE_RUN] = 0;
  memset(&b->run, 0, sizeof b->run);
  memset(&b->wire, 0, sizeof b->wire);
  b->more = 0;
  b->over = 0;
  b->over_scope = 0;
  b->over_used = b->over_max = 0;
}

void csn_budget_end(csn_budget *b) {
  b->ended = counters_of(b, CSN_SCOPE_SESSION);
  csn_budget_begin(b, &(csn_limits){0});
}

void csn_budget_count(csn_budget *b, const csn_usage *live, bool more, uint64_t output_bytes,
                      uint64_t wall_ms) {
  csn_usage_max(&b->run.usage, live);
  csn_usage_max(&b->run.usage, &b->wire);
  b->more = more;
  if (output_bytes > b->run.output_bytes) b->run.output_bytes = output_bytes;
  if (wall_ms > b->run.wall_ms) b->run.wall_ms = wall_ms;
}

void csn_budget_wire(csn_budget *b, const csn_usage *request) {
  csn_usage_add(&b->wire, request);
  csn_usage_max(&b->run.usage, &b->wire);
}

static void put_key(csn_fx *fx, const char *key) {
  csn_put_str(fx, "\"");
  csn_put_str(fx, key);
  csn_put_str(fx, "\":");
}

/* A counter in the unit of its key. */
static void put_amount(csn_fx *fx, csn_limit limit, uint64_t value) {
  if (limit == CSN_LIMIT_COST)
    csn_put_nano(fx, value);
  else if (limit == CSN_LIMIT_WALL)
    csn_put_nano(fx, csn_mul_sat(value, 1000000u));
  else
    csn_put_u64(fx, value);
}

/* `"used":` and `"max":`; how much was used may not be known. */
static void put_used(csn_fx *fx, csn_limit limit, uint64_t used, uint64_t max, bool unknown) {
  csn_put_str(fx, "\"used\":");
  if (unknown)
    csn_put_str(fx, "null");
  else
    put_amount(fx, limit, used);
  csn_put_str(fx, ",\"max\":");
  put_amount(fx, limit, max);
}

static void put_use(csn_fx *fx, csn_limit limit, csn_scope scope, uint64_t used, uint64_t max, bool unknown) {
  put_key(fx, "limit");
  csn_put_str(fx, "\"");
  csn_put_str(fx, csn_limit_key(limit));
  csn_put_str(fx, scope == CSN_SCOPE_RUN ? "\",\"scope\":\"run\"," : "\",\"scope\":\"session\",");
  put_used(fx, limit, used, max, unknown);
  if (unknown) csn_put_field_raw(fx, "detail", csn_span_str("the price of a model is not known"));
}

/* An unknown use is kept as UINT64_MAX, which no other use of money comes near. */
void csn_put_over(csn_fx *fx, const csn_budget *b) {
  bool unknown = b->over == CSN_LIMIT_COST && b->over_used == UINT64_MAX;
  put_use(fx, (csn_limit)b->over, (csn_scope)b->over_scope, b->over_used, b->over_max, unknown);
}

void csn_put_spent(csn_fx *fx, const csn_budget *b, csn_limit limit) {
  csn_counters c = counters_of(b, CSN_SCOPE_SESSION);
  put_use(fx, limit, CSN_SCOPE_SESSION, csn_counter(&c, limit), b->limits[CSN_SCOPE_SESSION].max[limit],
          is_unknown(&c, limit));
}

bool csn_budget_limited(const csn_budget *b) {
  uint64_t any = b->over;
  for (uint32_t s = 0; s < CSN_SCOPE_COUNT; s++)
    for (uint32_t i = 1; i < CSN_LIMIT_END; i++)
      any |= b->limits[s].max[i];
  return any != 0;
}

void csn_budget_check(csn_budget *b, csn_emit *e) {
  if (!csn_budget_limited(b)) return;
  for (uint32_t s = CSN_SCOPE_COUNT; s-- > 0;) {
    csn_counters c = counters_of(b, (csn_scope)s);
    const csn_limits *l = &b->limits[s];
    for (uint32_t i = 1; i < CSN_LIMIT_END; i++) {
      csn_limit limit = (csn_limit)i;
      uint64_t max = l->max[i], used = csn_counter(&c, limit);
      bool unknown = is_unknown(&c, limit);
      if (max == 0 || (used < warn_at(max) && !unknown)) continue;
      if (!(b->warned[s] >> i & 1)) {
        b->warned[s] = (uint16_t)(b->warned[s] | 1u << i);
        uint32_t at = csn_event_open(e, CSN_T_LIMIT_WARNING);
        csn_put_str(e->fx, ",");
        put_use(e->fx, limit, (csn_scope)s, used, max, unknown);
        csn_event_close(e, at);
      }
      if (b->over != 0 || !is_over(&c, l, limit, b->more != 0)) continue;
      b->over = (uint8_t)i;
      b->over_scope = (uint8_t)s;
      b->over_used = unknown ? UINT64_MAX : used;
      b->over_max = max;
    }
  }
}

csn_limit csn_budget_spent(const csn_budget *b) {
  csn_counters c = counters_of(b, CSN_SCOPE_SESSION);
  for (uint32_t i = 1; i < CSN_LIMIT_END; i++)
    if (is_spent(&c, &b->limits[CSN_SCOPE_SESSION], (csn_limit)i)) return (csn_limit)i;
  return CSN_LIMIT_NONE;
}

csn_limit csn_budget_call(const csn_budget *b) {
  for (uint32_t i = 1; i < CSN_LIMIT_END; i++)
    if (is_spent(&b->run, &b->limits[CSN_SCOPE_RUN], (csn_limit)i)) return (csn_limit)i;
  return csn_budget_spent(b);
}

void csn_budget_set(csn_budget *b, const csn_limits *limits, bool stopped) {
  csn_counters c = counters_of(b, CSN_SCOPE_SESSION);
  b->limits[CSN_SCOPE_SESSION] = *limits;
  for (uint32_t i = 1; i < CSN_LIMIT_END; i++)
    if (limits->max[i] == 0 || csn_counter(&c, (csn_limit)i) < warn_at(limits->max[i]))
      b->warned[CSN_SCOPE_SESSION] &= (uint16_t) ~(1u << i);
  if (!stopped && b->over != 0 && b->over_scope == CSN_SCOPE_SESSION &&
      !is_over(&c, limits, (csn_limit)b->over, b->more != 0))
    b->over = 0;
}

uint64_t csn_budget_room(const csn_budget *b, csn_limit limit, uint64_t now) {
  uint64_t room = UINT64_MAX;
  for (uint32_t s = 0; s < CSN_SCOPE_COUNT; s++) {
    csn_counters c = counters_of(b, (csn_scope)s);
    uint64_t max = b->limits[s].max[limit], used = csn_counter(&c, limit);
    if (max == 0 || used >= max) continue;
    uint64_t next = used < warn_at(max) ? warn_at(max) : max;
    uint64_t behind = csn_counter(&b->run, limit);
    behind = now < behind ? behind - now : 0;
    if (next - used + behind < room) room = next - used + behind;
  }
  return room;
}

void csn_put_counters(csn_fx *fx, const csn_counters *c) {
  csn_put_usage(fx, &c->usage);
  csn_put_field_u64(fx, "output_bytes", c->output_bytes);
  csn_put_field_u64(fx, "wall_ms", c->wall_ms);
}

void csn_put_limits(csn_fx *fx, const csn_limits *limits, uint32_t idle_s) {
  const char *comma = "";
  csn_put_str(fx, "{");
  for (uint32_t i = 1; i < CSN_LIMIT_END; i++) {
    if (limits->max[i] == 0) continue;
    csn_put_str(fx, comma);
    put_key(fx, csn_limit_key((csn_limit)i));
    put_amount(fx, (csn_limit)i, limits->max[i]);
    comma = ",";
  }
  if (idle_s > 0) {
    csn_put_str(fx, comma);
    put_key(fx, "idle_s");
    csn_put_u64(fx, idle_s);
  }
  csn_put_str(fx, "}");
}

static void put_scope(csn_fx *fx, const csn_budget *b, csn_scope scope, uint32_t idle_s) {
  csn_counters c = counters_of(b, scope);
  const csn_limits *l = &b->limits[scope];
  const char *comma = "";
  csn_put_str(fx, "\"usage\":{");
  csn_put_counters(fx, &c);
  csn_put_str(fx, "},\"limits\":");
  csn_put_limits(fx, l, idle_s);
  csn_put_str(fx, ",\"budget\":{");
  for (uint32_t i = 1; i < CSN_LIMIT_END; i++) {
    csn_limit limit = (csn_limit)i;
    uint64_t max = l->max[i], used = csn_counter(&c, limit);
    bool unknown = is_unknown(&c, limit);
    if (max == 0) continue;
    csn_put_str(fx, comma);
    put_key(fx, csn_limit_key(limit));
    csn_put_str(fx, "{");
    put_used(fx, limit, used, max, unknown);
    csn_put_str(fx, ",\"remaining\":");
    put_amount(fx, limit, used < max && !unknown ? max - used : 0);
    csn_put_str(fx, "}");
    comma = ",";
  }
  csn_put_str(fx, "}");
}

void csn_put_budget(csn_fx *fx, const csn_budget *b, uint32_t run, uint32_t idle_s) {
  csn_limit call = csn_budget_call(b);
  csn_put_str(fx, "{\"price_table\":\"");
  csn_put_str(fx, csn_price_version());
  csn_put_str(fx, "\",\"may_call\":");
  csn_put_str(fx, call == CSN_LIMIT_NONE ? "true" : "false");
  csn_put_str(fx, ",\"reached\":");
  if (call == CSN_LIMIT_NONE) {
    csn_put_str(fx, "null");
  } else {
    csn_put_str(fx, "\"");
    csn_put_str(fx, csn_limit_key(call));
    csn_put_str(fx, "\"");
  }
  csn_put_str(fx, ",\"session\":{");
  put_scope(fx, b, CSN_SCOPE_SESSION, idle_s);
  csn_put_str(fx, "},\"run\":");
  if (run == 0) {
    csn_put_str(fx, "null}");
    return;
  }
  csn_put_str(fx, "{\"id\":\"run_");
  csn_put_u64(fx, run);
  csn_put_str(fx, "\",");
  put_scope(fx, b, CSN_SCOPE_RUN, 0);
  csn_put_str(fx, "}}");
}
