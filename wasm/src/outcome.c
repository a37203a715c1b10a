#include "csn/session.h"

/* exit.json of the runner (DESIGN 11.2). What it says beyond these fields is not looked at. */
enum { N_ROOT, N_REASON, N_CODE, N_SIGNAL, N_DETAIL, N_STARTED, N_ENDED, N_END };
static const csn_json_node nodes[N_END] = {
    {N_ROOT, CSN_JS_KEY, 0, 0, 0, ""},
    {N_ROOT, CSN_JS_KEY, CSN_EXIT_REASON, 0, 32, "reason"},
    {N_ROOT, CSN_JS_KEY, CSN_EXIT_CODE, 0, 32, "exit_code"},
    {N_ROOT, CSN_JS_KEY, CSN_EXIT_SIGNAL, 0, 32, "signal"},
    {N_ROOT, CSN_JS_KEY, CSN_EXIT_DETAIL, 0, CSN_MESSAGE_CAP, "detail"},
    {N_ROOT, CSN_JS_KEY, CSN_EXIT_STARTED, 0, 32, "started_ms"},
    {N_ROOT, CSN_JS_KEY, CSN_EXIT_ENDED, 0, 32, "ended_ms"},
};
const csn_json_table csn_exit_table = {nodes, N_END};

bool csn_exit_reason_known(csn_span reason) {
  static const char *const known[] = {"exited",       "signalled",       "timed_out", "killed",
                                      "spawn_failed", "output_limit",    "disk_full", "runner_lost",
                                      "over_budget",  "policy_violation"};
  for (uint32_t i = 0; i < sizeof known / sizeof known[0]; i++)
    if (csn_span_is(reason, known[i])) return true;
  return false;
}

static bool number(const csn_json *j, uint32_t field, uint64_t *out) {
  const csn_json_item *item = csn_json_get(j, field, 0);
  return item->kind == CSN_JK_NUMBER && !item->cut && csn_json_u64(csn_json_text(j, item), out);
}

static void set(csn_outcome *o, csn_type type, csn_span reason) {
  o->type = (uint8_t)type;
  o->reason.len = (uint8_t)csn_json_cut(reason, sizeof o->reason.bytes);
  if (o->reason.len > 0) memcpy(o->reason.bytes, reason.ptr, o->reason.len);
}

/* The agent's own word: its result, else how its process ended. */
static void decide_by_agent(csn_session *s, csn_span reason) {
  csn_outcome *o = &s->outcome;
  const csn_agent_run *r = &s->result;
  bool lost = csn_span_is(reason, "runner_lost") || csn_span_is(reason, "killed") ||
              csn_span_is(reason, "over_budget") || csn_span_is(reason, "policy_violation");
  const csn_dialect *d = csn_dialect_of((csn_agent)s->agent);
  if (s->is_plain && d->end_text != NULL && csn_span_is(reason, "exited") && o->has_exit_code)
    d->end_text(&s->result, o->exit_code);
  if (s->is_command) {
    if (lost)
      set(o, CSN_T_RUN_INTERRUPTED, reason);
    else if (csn_span_is(reason, "signalled"))
      set(o, CSN_T_RUN_FAILED, reason);
    else if (o->has_exit_code && o->exit_code == 0)
      set(o, CSN_T_RUN_SUCCEEDED, csn_span_str("completed"));
    else
      set(o, CSN_T_RUN_FAILED, csn_span_str("exit_code"));
  } else if (r->has_result) {
    set(o, r->is_error ? CSN_T_RUN_FAILED : CSN_T_RUN_SUCCEEDED, csn_span_of(r->reason.bytes, r->reason.len));
  } else if (r->refusal.len > 0 && csn_span_is(reason, "exited") && o->has_exit_code && o->exit_code != 0) {
    set(o, CSN_T_RUN_FAILED, csn_span_of(r->refusal.bytes, r->refusal.len)); /* it never began */
  } else {
    set(o, CSN_T_RUN_INTERRUPTED, csn_span_is(reason, "exited") ? csn_span_str("no_result") : reason);
  }
}

void csn_outcome_decide(csn_session *s, const csn_json *record) {
  csn_outcome *o = &s->outcome;
  csn_span reason = csn_json_text(record, csn_json_get(record, CSN_EXIT_REASON, 0));
  const csn_json_item *detail = csn_json_get(record, CSN_EXIT_DETAIL, 0);
  uint64_t value, from, to;
  *o = (csn_outcome){0};
  if (number(record, CSN_EXIT_CODE, &value) && value <= INT32_MAX) {
    o->has_exit_code = 1;
    o->exit_code = (int32_t)value;
  }
  if (number(record, CSN_EXIT_SIGNAL, &value) && value > 0 && value <= 255) {
    o->has_signal = 1;
    o->signal = (uint32_t)value;
  }
  if (number(record, CSN_EXIT_STARTED, &from) && number(record, CSN_EXIT_ENDED, &to) && to >= from)
    o->duration_ms = to - from;
  else if (s->started)
    o->duration_ms = s->now_ms - s->started_ms;

  bool broken = csn_span_is(reason, "spawn_failed") || csn_span_is(reason, "disk_full") ||
                csn_span_is(reason, "output_limit");
  if (s->kill == CSN_KILL_CANCELLED)
    set(o, CSN_T_RUN_CANCELLED, csn_span_str("cancelled"));
  else if (s->kill == CSN_KILL_OVER_BUDGET)
    set(o, CSN_T_RUN_OVER_BUDGET, csn_span_str(csn_limit_key((csn_limit)s->budget.over)));
  else if (s->kill == CSN_KILL_POLICY_VIOLATION)
    set(o, CSN_T_RUN_POLICY_VIOLATION, csn_span_of(s->watch.rule, s->watch.rule_len));
  else if (s->kill == CSN_KILL_TIMED_OUT || csn_span_is(reason, "timed_out"))
    set(o, CSN_T_RUN_TIMED_OUT, csn_span_str("timeout"));
  else if (broken)
    set(o, CSN_T_RUN_FAILED, reason);
  else
    decide_by_agent(s, reason);
  if (o->type == CSN_T_RUN_POLICY_VIOLATION) { /* whatever the agent has said */
    s->result.error_status = 0;
    static const char kind[] = "policy_violation";
    s->result.kind.len = sizeof kind - 1;
    memcpy(s->result.kind.bytes, kind, sizeof kind - 1);
    csn_run_message(&s->result, &(csn_words){csn_span_of(s->watch.message, s->watch.message_len),
                                             s->watch.message_true_len});
  }
  if (s->result.message_len == 0 && detail->kind == CSN_JK_STRING && detail->len > 0 &&
      o->type != CSN_T_RUN_SUCCEEDED && o->type != CSN_T_RUN_CANCELLED && o->type != CSN_T_RUN_OVER_BUDGET)
    csn_run_message(&s->result, &(csn_words){csn_json_text(record, detail), detail->true_len});
}

static void put_error(csn_fx *fx, const csn_agent_run *r) {
  const char *comma = "";
  csn_put_str(fx, ",\"error\":{");
  if (r->error_status > 0) {
    csn_put_str(fx, "\"status\":");
    csn_put_u64(fx, r->error_status);
    comma = ",";
  }
  if (r->kind.len > 0) {
    csn_put_str(fx, comma);
    csn_put_str(fx, "\"kind\":\"");
    csn_fx_put(fx, r->kind.bytes, r->kind.len);
    csn_put_str(fx, "\"");
    comma = ",";
  }
  if (r->message_len > 0) {
    csn_put_str(fx, comma);
    csn_put_str(fx, "\"message\":\"");
    csn_fx_put(fx, r->message, r->message_len);
    csn_put_str(fx, "\"");
    if (r->message_true_len > r->message_len) csn_put_field_u64(fx, "message_len", r->message_true_len);
  }
  csn_put_str(fx, "}");
}

void csn_outcome_emit(csn_session *s, csn_emit *e) {
  const csn_outcome *o = &s->outcome;
  const csn_agent_run *r = &s->result;
  csn_fx *fx = e->fx;
  uint32_t at = csn_event_open(e, (csn_type)o->type);
  csn_put_field_text(fx, "reason", csn_span_of(o->reason.bytes, o->reason.len));
  csn_put_str(fx, ",\"exit_code\":");
  if (o->has_exit_code)
    csn_put_i64(fx, o->exit_code);
  else
    csn_put_str(fx, "null");
  csn_put_str(fx, ",\"signal\":");
  if (o->has_signal)
    csn_put_u64(fx, o->signal);
  else
    csn_put_str(fx, "null");
  csn_put_field_u64(fx, "duration_ms", o->duration_ms);
  if (r->result_len > 0 && r->has_result && !r->is_error) {
    csn_put_field_text(fx, "result", csn_span_of(r->result, r->result_len));
    if (r->result_cut) csn_put_field_u64(fx, "result_len", r->result_true_len);
  }
  bool failed = o->type != CSN_T_RUN_SUCCEEDED && o->type != CSN_T_RUN_CANCELLED;
  if (failed && (r->error_status > 0 || r->kind.len > 0 || r->message_len > 0)) put_error(fx, r);
  if (r->id_len > 0) csn_put_field_text(fx, "agent_session_id", csn_span_of(r->agent_session_id, r->id_len));
  csn_put_str(fx, ",\"usage\":{");
  csn_put_counters(fx, &s->budget.run);
  csn_put_str(fx, "}");
  if (s->budget.over != 0) {
    csn_put_str(fx, ",\"budget\":{");
    csn_put_over(fx, &s->budget);
    csn_put_str(fx, "}");
  }
  csn_event_close(e, at);
}
