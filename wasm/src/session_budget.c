#include "csn/session.h"

/* The agent has said its last word and nothing has begun since: only time and output can still be stopped. */
static bool has_finished(const csn_session *s) {
  return s->result.has_result && !s->result.busy;
}

static bool same_counters(const csn_counters *a, const csn_counters *b) {
  for (uint32_t i = CSN_LIMIT_TURNS; i < CSN_LIMIT_END; i++)
    if (csn_counter(a, (csn_limit)i) != csn_counter(b, (csn_limit)i)) return false;
  return a->usage.input_tokens == b->usage.input_tokens &&
         a->usage.cache_read_tokens == b->usage.cache_read_tokens &&
         a->usage.cost_unknown == b->usage.cost_unknown;
}

static void count_run(csn_session *s) {
  csn_counters before = s->budget.run;
  uint64_t wall_ms = s->started ? s->now_ms - s->started_ms : 0;
  if (s->outcome.type != 0) wall_ms = s->outcome.duration_ms;
  csn_budget_count(&s->budget, &s->result.live, s->result.more != 0, csn_add_sat(s->fed[0], s->fed[1]),
                   wall_ms);
  if (!same_counters(&before, &s->budget.run)) s->budget_dirty = 1;
}

void csn_session_count(csn_session *s, csn_fx *fx, bool may_stop) {
  csn_budget *b = &s->budget;
  if (s->state == CSN_ST_NEW || s->state >= CSN_ST_ENDING) return;
  if (s->run != 0) count_run(s);
  csn_emit e = csn_session_emitter(s, fx, s->run);
  csn_budget_check(b, &e);
  if (s->run == 0) b->over = 0; /* there is nothing to be stopped; csn_budget_spent refuses the next run */
  if (b->over == 0 || !may_stop) return;
  bool passing = b->over == CSN_LIMIT_WALL || b->over == CSN_LIMIT_OUTPUT_BYTES;
  if (has_finished(s) && !passing) return;
  csn_target to = csn_session_target((csn_state)s->state, CSN_EV_OVER_BUDGET);
  if (to == (csn_target)(CSN_TO_STATE + CSN_ST_KILLING)) csn_session_kill(s, fx, CSN_KILL_OVER_BUDGET);
}

void csn_session_tell_budget(csn_session *s, csn_fx *fx) {
  if (!s->budget_dirty) return;
  s->budget_dirty = 0;
  uint32_t at = csn_fx_open(fx, CSN_FX_BUDGET, s->run, (int32_t)csn_budget_call(&s->budget), 0, 0);
  csn_put_budget(fx, &s->budget, s->run, s->idle_s);
  csn_fx_close(fx, at);
}

csn_err csn_session_on_usage(csn_session *s, csn_span payload, csn_fx *fx) {
  csn_usage_request r;
  csn_pointer bad;
  csn_arena a = {s->arena, CSN_ARENA_CAP, 0};
  csn_err err = csn_request_usage(&a, payload, &r, &bad);
  if (err != CSN_ERR_OK) return csn_bad_field(fx, err, &bad);
  csn_span model = r.model.len > 0 ? r.model : csn_span_of(s->result.model, s->result.model_len);
  if (!r.has_cost) csn_price_usage(&s->prices, model, true, &r.usage);
  csn_budget_wire(&s->budget, &r.usage);
  s->budget_dirty = 1;
  return CSN_ERR_OK;
}

csn_err csn_session_on_set_limits(csn_session *s, csn_span payload, csn_fx *fx) {
  csn_limits_request r;
  csn_pointer bad;
  csn_arena a = {s->arena, CSN_ARENA_CAP, 0};
  csn_err err = csn_request_limits(&a, payload, &r, &bad);
  if (err != CSN_ERR_OK) return csn_bad_field(fx, err, &bad);
  csn_limits limits = s->budget.limits[CSN_SCOPE_SESSION];
  csn_limits_apply(&r, &limits, &s->idle_s);
  csn_budget_set(&s->budget, &limits, s->kill == CSN_KILL_OVER_BUDGET);
  s->budget_dirty = 1;
  csn_emit e = csn_session_emitter(s, fx, 0);
  uint32_t at = csn_event_open(&e, CSN_T_SESSION_UPDATED);
  csn_put_str(fx, ",\"limits\":");
  csn_put_limits(fx, &limits, s->idle_s);
  csn_event_close(&e, at);
  return CSN_ERR_OK;
}
