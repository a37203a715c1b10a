#include "csn/session.h"

/* Every transition there is: what an event does in each state. */
/* clang-format off */
#define ILLEGAL CSN_TO_ILLEGAL
#define LATE    CSN_TO_LATE
#define OVER    CSN_TO_OVER
#define SAME    CSN_TO_SAME
#define QUEUE   CSN_TO_QUEUE
#define TO(state) (CSN_TO_STATE + CSN_ST_##state)
static const uint8_t table[CSN_EV_COLUMNS][CSN_ST_COUNT] = {
  /*                           NEW       STARTING    IDLE        LOADING        LAUNCHING       RUNNING         KILLING         COLLECTING  ENDING     ENDED */
  [CSN_EV_CREATE]          = {TO(STARTING), ILLEGAL, ILLEGAL,    ILLEGAL,       ILLEGAL,        ILLEGAL,        ILLEGAL,        ILLEGAL,    ILLEGAL,   OVER},
  [CSN_EV_SANDBOX_READY]   = {ILLEGAL,  QUEUE,       LATE,       LATE,          LATE,           LATE,           LATE,           LATE,       LATE,      OVER},
  [CSN_EV_SANDBOX_FAILED]  = {ILLEGAL,  TO(ENDED),   LATE,       LATE,          LATE,           LATE,           LATE,           LATE,       LATE,      OVER},
  [CSN_EV_SANDBOX_GONE]    = {ILLEGAL,  TO(ENDED),   TO(ENDED),  TO(ENDED),     TO(ENDED),      TO(ENDED),      TO(ENDED),      TO(ENDED),  TO(ENDED), OVER},
  [CSN_EV_RUN]             = {ILLEGAL,  SAME,        QUEUE,      SAME,          SAME,           SAME,           SAME,           SAME,       OVER,      OVER},
  [CSN_EV_RUN_LOADED]      = {ILLEGAL,  LATE,        LATE,       TO(LAUNCHING), LATE,           LATE,           LATE,           LATE,       LATE,      OVER},
  [CSN_EV_RUN_STARTED]     = {ILLEGAL,  LATE,        LATE,       ILLEGAL,       TO(RUNNING),    LATE,           SAME,           LATE,       LATE,      OVER},
  [CSN_EV_RUN_START_FAILED]= {ILLEGAL,  LATE,        LATE,       QUEUE,         QUEUE,          ILLEGAL,        QUEUE,          LATE,       LATE,      OVER},
  [CSN_EV_OUTPUT]          = {ILLEGAL,  LATE,        LATE,       LATE,          SAME,           SAME,           SAME,           LATE,       LATE,      OVER},
  [CSN_EV_RUN_EXIT]        = {ILLEGAL,  LATE,        LATE,       ILLEGAL,       TO(COLLECTING), TO(COLLECTING), TO(COLLECTING), LATE,       LATE,      OVER},
  [CSN_EV_COLLECTED]       = {ILLEGAL,  LATE,        LATE,       ILLEGAL,       ILLEGAL,        ILLEGAL,        ILLEGAL,        QUEUE,      LATE,      OVER},
  [CSN_EV_NOTE]            = {ILLEGAL,  SAME,        SAME,       SAME,          SAME,           SAME,           SAME,           SAME,       SAME,      OVER},
  [CSN_EV_CANCEL]          = {ILLEGAL,  ILLEGAL,     ILLEGAL,    QUEUE,         TO(KILLING),    TO(KILLING),    SAME,           ILLEGAL,    OVER,      OVER},
  [CSN_EV_TIMER]           = {SAME,     SAME,        SAME,       SAME,          SAME,           SAME,           SAME,           SAME,       SAME,      OVER},
  [CSN_EV_SET_TIMEOUT]     = {ILLEGAL,  SAME,        SAME,       SAME,          SAME,           SAME,           SAME,           SAME,       OVER,      OVER},
  [CSN_EV_DELETE]          = {ILLEGAL,  TO(ENDING),  TO(ENDING), TO(ENDING),    TO(ENDING),     TO(ENDING),     TO(ENDING),     TO(ENDING), SAME,      OVER},
  [CSN_EV_DIGEST_BEGIN]    = {SAME,     SAME,        SAME,       SAME,          SAME,           SAME,           SAME,           SAME,       SAME,      OVER},
  [CSN_EV_DIGEST_END]      = {SAME,     SAME,        SAME,       SAME,          SAME,           SAME,           SAME,           SAME,       SAME,      OVER},
  [CSN_EV_USAGE]           = {ILLEGAL,  LATE,        LATE,       LATE,          SAME,           SAME,           SAME,           SAME,       LATE,      OVER},
  [CSN_EV_SET_LIMITS]      = {ILLEGAL,  SAME,        SAME,       SAME,          SAME,           SAME,           SAME,           SAME,       OVER,      OVER},
  [CSN_EV_TOUCH]           = {ILLEGAL,  SAME,        SAME,       SAME,          SAME,           SAME,           SAME,           SAME,       SAME,      OVER},
  [CSN_EV_EXPIRED]         = {ILLEGAL,  TO(ENDING),  TO(ENDING), TO(ENDING),    TO(ENDING),     TO(ENDING),     TO(ENDING),     TO(ENDING), SAME,      OVER},
  [CSN_EV_OVERDUE]         = {ILLEGAL,  SAME,        SAME,       SAME,          TO(KILLING),    TO(KILLING),    SAME,           SAME,       SAME,      OVER},
  [CSN_EV_CANCEL_WAITING]  = {ILLEGAL,  SAME,        ILLEGAL,    SAME,          SAME,           SAME,           SAME,           SAME,       OVER,      OVER},
  [CSN_EV_IDLED]           = {ILLEGAL,  ILLEGAL,     TO(ENDING), ILLEGAL,       ILLEGAL,        ILLEGAL,        ILLEGAL,        ILLEGAL,    ILLEGAL,   OVER},
  [CSN_EV_OVER_BUDGET]     = {SAME,     SAME,        SAME,       SAME,          TO(KILLING),    TO(KILLING),    SAME,           SAME,       SAME,      OVER},
  [CSN_EV_SET_TOOLS]       = {ILLEGAL,  SAME,        SAME,       SAME,          SAME,           SAME,           SAME,           SAME,       OVER,      OVER},
  [CSN_EV_VIOLATION]       = {SAME,     SAME,        SAME,       SAME,          TO(KILLING),    TO(KILLING),    SAME,           SAME,       SAME,      OVER},
};
/* clang-format on */

csn_target csn_session_target(csn_state state, uint32_t column) {
  CSN_INVARIANT(state < CSN_ST_COUNT && column < CSN_EV_COLUMNS);
  return (csn_target)table[column][state];
}

const char *csn_state_name(csn_state state) {
  static const char *const names[CSN_ST_COUNT] = {"NEW",     "STARTING", "IDLE",       "LOADING", "LAUNCHING",
                                                  "RUNNING", "KILLING",  "COLLECTING", "ENDING",  "ENDED"};
  return names[state];
}

static const char *const end_reasons[CSN_END_COUNT] = {
    "", "deleted", "timeout", "sandbox_failed", "sandbox_lost", "idle"};

void csn_session_init(csn_session *s) {
  memset(s, 0, offsetof(csn_session, arena)); /* scratch needs no clearing */
  csn_streams_reset(s);
}

static bool in_run(const csn_session *s) {
  return s->state >= CSN_ST_LOADING && s->state <= CSN_ST_COLLECTING;
}

static csn_arena arena_of(csn_session *s) {
  return (csn_arena){s->arena, CSN_ARENA_CAP, 0};
}

csn_emit csn_session_emitter(csn_session *s, csn_fx *fx, uint32_t run) {
  return (csn_emit){.fx = fx, .seq = &s->seq, .time_ms = s->now_ms, .run = run};
}

csn_err csn_bad_field(csn_fx *fx, csn_err err, const csn_pointer *at) {
  csn_fx_emit(fx, CSN_FX_BAD_FIELD, 0, err, csn_span_of(at->bytes, at->len));
  return err;
}

static csn_err bad_field_str(csn_fx *fx, csn_err err, const char *at) {
  csn_pointer p;
  csn_pointer_set(&p, at);
  return csn_bad_field(fx, err, &p);
}

/* --- payloads read with the streaming reader, which stands in the arena --- */

static const csn_json_node text_nodes[] = {{0, CSN_JS_KEY, 1, 0, CSN_MESSAGE_CAP, ""}};
static const csn_json_node note_nodes[] = {
    {0, CSN_JS_KEY, 1, 0, 0, ""},    {0, CSN_JS_KEY, 2, 0, 8, "seq"},  {0, CSN_JS_KEY, 2, 0, 8, "time_ms"},
    {0, CSN_JS_KEY, 2, 0, 8, "run"}, {0, CSN_JS_KEY, 2, 0, 8, "type"},
};

/* Returns NULL when `text` is not one JSON value. */
static const csn_json *read_json(csn_session *s, csn_span text, csn_json_table nodes) {
  csn_arena a = arena_of(s);
  csn_json *j = csn_arena_take(&a, sizeof *j);
  CSN_INVARIANT(j != NULL);
  csn_json_init(j, nodes);
  csn_json_push(j, text);
  return csn_json_end(j) == CSN_JSON_OK ? j : NULL;
}

/* "Why" of the host: a JSON string, or nothing. */
static csn_err read_why(csn_session *s, csn_span payload, csn_fx *fx, csn_words *why) {
  *why = (csn_words){0};
  if (payload.len == 0) return CSN_ERR_OK;
  const csn_json *j = read_json(s, payload, (csn_json_table){text_nodes, 1});
  const csn_json_item *item = j != NULL ? csn_json_get(j, 1, 0) : NULL;
  if (item == NULL || item->kind != CSN_JK_STRING) return bad_field_str(fx, CSN_ERR_BAD_JSON, "");
  *why = (csn_words){csn_json_text(j, item), item->true_len};
  return CSN_ERR_OK;
}

/* --- effects that several events share --- */

void csn_session_wake(csn_session *s, csn_fx *fx) {
  uint64_t want = s->state == CSN_ST_NEW || s->state >= CSN_ST_ENDING ? 0 : s->expires_ms;
  if (in_run(s)) {
    uint64_t soon = s->now_ms + CSN_WATCHDOG_MS,
             room = csn_budget_room(&s->budget, CSN_LIMIT_WALL, s->budget.run.wall_ms);
    if (s->wake_ms > s->now_ms && s->wake_ms < soon) soon = s->wake_ms; /* one that is set already will do */
    if (s->started && room < soon - s->now_ms) soon = s->now_ms + room;
    uint64_t refusal = csn_watch_due(&s->watch);
    if (refusal > s->now_ms && refusal < soon) soon = refusal;
    if (soon < want) want = soon;
  }
  if (s->state == CSN_ST_IDLE && s->idle_s > 0) {
    uint64_t idled = s->idle_since_ms + (uint64_t)s->idle_s * 1000u;
    if (idled < want) want = idled;
  }
  if (want == s->wake_ms) return;
  s->wake_ms = want;
  csn_fx_emit_time(fx, CSN_FX_WAKE_AT, want);
}

static void enter(csn_session *s, csn_state state) {
  s->state = (uint8_t)state;
}

static void forget_run(csn_session *s) {
  s->run = 0;
  s->kill = CSN_KILL_NONE;
  s->started = 0;
  s->is_command = 0;
  s->deadline_ms = 0;
  s->err_mid_line = 0;
  s->is_plain = 0;
  s->cursor[0] = s->cursor[1] = 0;
  memset(&s->outcome, 0, sizeof s->outcome);
  memset(&s->watch, 0, sizeof s->watch);
  memset(&s->result, 0, sizeof s->result);
  csn_streams_reset(s);
}

/* The outcome of a run without an exit record. */
static void set_outcome(csn_session *s, csn_type type, const char *reason) {
  csn_span text = csn_span_str(reason);
  memset(&s->outcome, 0, sizeof s->outcome);
  s->outcome.type = (uint8_t)type;
  s->outcome.duration_ms = s->started ? s->now_ms - s->started_ms : 0;
  s->outcome.reason.len = (uint8_t)text.len;
  memcpy(s->outcome.reason.bytes, text.ptr, text.len);
}

static void tell_outcome(csn_session *s, csn_fx *fx) {
  csn_session_count(s, fx, false);
  s->budget_dirty = 1;
  csn_session_tell_budget(s, fx);
  csn_emit e = csn_session_emitter(s, fx, s->run);
  csn_outcome_emit(s, &e);
  csn_budget_end(&s->budget);
  forget_run(s);
}

/* A run that never became the current one. `why`: JSON text without its quotes, empty for none. */
static void end_waiting(csn_session *s, csn_fx *fx, uint32_t run, csn_type type, const char *reason,
                        const csn_words *why) {
  csn_emit e = csn_session_emitter(s, fx, run);
  uint32_t at = csn_event_open(&e, type);
  csn_put_field_raw(fx, "reason", csn_span_str(reason));
  csn_put_str(fx, ",\"exit_code\":null,\"signal\":null,\"duration_ms\":0");
  if (why->text.len > 0) {
    csn_put_str(fx, ",\"error\":{\"message\":\"");
    csn_fx_put(fx, why->text.ptr, why->text.len);
    csn_put_str(fx, "\"");
    if (why->true_len > why->text.len) csn_put_field_u64(fx, "message_len", why->true_len);
    csn_put_str(fx, "}");
  }
  csn_put_str(fx, ",\"usage\":{");
  csn_put_counters(fx, &(csn_counters){0});
  csn_put_str(fx, "}");
  if (type == CSN_T_RUN_OVER_BUDGET) {
    csn_put_str(fx, ",\"budget\":{");
    csn_put_spent(fx, &s->budget, csn_budget_spent(&s->budget));
    csn_put_str(fx, "}");
  }
  csn_event_close(&e, at);
}

/* Ends the current run, if any, and all that wait. A run that has an outcome keeps it. `why` is told of the
 * current run, or where there is none, of all: behind what a run leaves there is no room in the out-box for
 * so many. */
static void end_all_runs(csn_session *s, csn_fx *fx, csn_type type, const char *reason,
                         const csn_words *why) {
  const csn_words *why_waiting = s->run == 0 ? why : &(csn_words){0};
  if (s->run != 0) {
    csn_emit e = csn_session_emitter(s, fx, s->run);
    csn_streams_flush(s, &e);
    if (s->outcome.type == 0) {
      set_outcome(s, type, reason);
      if (why->text.len > 0) csn_run_message(&s->result, why);
    }
    tell_outcome(s, fx);
  }
  for (uint32_t i = 0; i < s->queue_len; i++)
    end_waiting(s, fx, s->queue[i], CSN_T_RUN_CANCELLED, reason, why_waiting);
  s->queue_len = 0;
}

static void to_queue(csn_session *s, csn_fx *fx) {
  csn_limit spent = csn_budget_spent(&s->budget);
  for (uint32_t i = 0; spent != CSN_LIMIT_NONE && i < s->queue_len; i++)
    end_waiting(s, fx, s->queue[i], CSN_T_RUN_OVER_BUDGET, csn_limit_key(spent), &(csn_words){0});
  if (spent != CSN_LIMIT_NONE) s->queue_len = 0;
  if (s->queue_len == 0) {
    enter(s, CSN_ST_IDLE);
    s->idle_since_ms = s->now_ms;
    csn_emit e = csn_session_emitter(s, fx, 0);
    csn_event_close(&e, csn_event_open(&e, CSN_T_SESSION_IDLE));
    return;
  }
  s->run = s->queue[0];
  s->queue_len--;
  memmove(s->queue, s->queue + 1, s->queue_len * sizeof s->queue[0]);
  csn_streams_reset(s);
  enter(s, CSN_ST_LOADING);
  csn_fx_emit(fx, CSN_FX_RUN_LOAD, s->run, 0, csn_span_of(NULL, 0));
}

static void end_session(csn_session *s, csn_fx *fx, csn_end reason, const csn_words *why) {
  csn_emit e = csn_session_emitter(s, fx, 0);
  uint32_t at = csn_event_open(&e, CSN_T_SESSION_ENDED);
  csn_put_field_raw(fx, "reason", csn_span_str(end_reasons[reason]));
  if (why->text.len > 0) csn_put_words(fx, "message", why);
  csn_event_close(&e, at);
  enter(s, CSN_ST_ENDED);
}

void csn_session_kill(csn_session *s, csn_fx *fx, csn_kill kill) {
  if (s->kill == CSN_KILL_NONE) s->kill = (uint8_t)kill;
  s->deadline_ms = s->now_ms + CSN_OVERDUE_MS;
  enter(s, CSN_ST_KILLING);
  csn_fx_emit(fx, CSN_FX_RUN_KILL, s->run, (int32_t)s->kill, csn_span_of(NULL, 0));
}

/* --- events, checked before anything changes --- */

static csn_err on_create(csn_session *s, csn_span payload, csn_fx *fx) {
  csn_session_request r;
  csn_pointer bad;
  csn_arena a = arena_of(s);
  csn_err err = csn_request_session(&a, payload, &r, &bad);
  if (err != CSN_ERR_OK) return csn_bad_field(fx, err, &bad);
  s->agent = (uint8_t)r.agent;
  csn_streams_reset(s);
  s->timeout_s = r.timeout_s;
  s->expires_ms = s->now_ms + (uint64_t)r.timeout_s * 1000u;
  s->system_prompt_len = r.system_prompt.len;
  s->model_len = r.model.len;
  s->env_len = r.env.len;
  if (r.system_prompt.len > 0) memcpy(s->system_prompt, r.system_prompt.ptr, r.system_prompt.len);
  if (r.model.len > 0) memcpy(s->model, r.model.ptr, r.model.len);
  if (r.env.len > 0) memcpy(s->env, r.env.ptr, r.env.len);
  s->options_len = r.options.len;
  if (r.options.len > 0) memcpy(s->options, r.options.ptr, r.options.len);
  if (r.prices != NULL) s->prices = *r.prices;
  if (r.tools != NULL) s->tools = *r.tools;
  csn_limits_apply(&r.limits, &s->budget.limits[CSN_SCOPE_SESSION], &s->idle_s);
  s->budget_dirty = 1;
  enter(s, CSN_ST_STARTING);
  csn_emit e = csn_session_emitter(s, fx, 0);
  uint32_t at = csn_event_open(&e, CSN_T_SESSION_CREATED);
  csn_put_field_raw(fx, "agent", csn_span_str(csn_agent_name(r.agent)));
  csn_event_close(&e, at);
  csn_fx_emit(fx, CSN_FX_SANDBOX_START, 0, 0, r.template);
  return CSN_ERR_OK;
}

static csn_err on_run(csn_session *s, csn_span payload, csn_fx *fx) {
  csn_run_request r;
  csn_pointer bad;
  csn_arena a = arena_of(s);
  csn_err err = csn_request_run(&a, payload, (csn_agent)s->agent, &r, &bad);
  if (err != CSN_ERR_OK) return csn_bad_field(fx, err, &bad);
  if (r.resume_id.len > 0 && !csn_memory_has(&s->memory, r.resume_id))
    return bad_field_str(fx, CSN_ERR_BAD_VALUE, "/resume");
  /* Only a stream of events shows the calls that are held against the rules. */
  if (r.format != CSN_FORMAT_EVENTS && csn_tools_any(&s->tools))
    return bad_field_str(fx, CSN_ERR_BAD_VALUE, "/output_format");
  if (s->run_count == CSN_RUN_MAX) return CSN_ERR_RUNS_EXHAUSTED;
  if (s->queue_len == CSN_QUEUE_MAX) return CSN_ERR_QUEUE_FULL;
  if (csn_budget_spent(&s->budget) != CSN_LIMIT_NONE) return CSN_ERR_OVER_BUDGET;
  s->queue[s->queue_len++] = ++s->run_count;
  csn_emit e = csn_session_emitter(s, fx, s->run_count);
  csn_event_close(&e, csn_event_open(&e, CSN_T_RUN_QUEUED));
  if (s->state == CSN_ST_IDLE) to_queue(s, fx);
  return CSN_ERR_OK;
}

static csn_err on_run_loaded(csn_session *s, csn_span payload, csn_fx *fx) {
  csn_run_request r;
  csn_pointer bad;
  csn_arena a = arena_of(s);
  csn_err err = csn_request_run(&a, payload, (csn_agent)s->agent, &r, &bad);
  if (err != CSN_ERR_OK) return csn_bad_field(fx, err, &bad);
  if (r.resume_id.len > 0) csn_memory_use(&s->memory, r.resume_id);
  const csn_conversation *last = csn_memory_last(&s->memory);
  s->is_command = r.is_command;
  s->is_plain = !r.is_command && r.format == CSN_FORMAT_TEXT;
  s->result.is_fork = r.fork && last != NULL;
  s->run_timeout_s = r.timeout_s;
  s->deadline_ms = s->now_ms + (uint64_t)r.timeout_s * 1000u + CSN_OVERDUE_MS;
  csn_budget_begin(&s->budget, &r.limits);
  s->budget_dirty = 1;
  csn_agent_set_model(&s->result, r.model.len > 0 ? r.model : csn_span_of(s->model, s->model_len));
  const csn_dialect *d = csn_dialect_of(r.is_command ? CSN_AGENT_SHELL : (csn_agent)s->agent);
  csn_spec_in in = {
      .system_prompt = csn_span_of(s->system_prompt, s->system_prompt_len),
      .model = r.model.len > 0 ? r.model : csn_span_of(s->model, s->model_len),
      .env = csn_span_of(s->env, s->env_len),
      .command = r.command,
      .resume_id = r.resume && last != NULL ? csn_span_of(last->id, last->id_len) : csn_span_of(NULL, 0),
      .options = csn_rules_options(d, csn_span_of(s->options, s->options_len), &s->tools, &a),
      .fork = r.fork,
      .partial = r.partial,
      .format = r.format,
      .max_turns = r.max_turns,
      .wall_ms = (uint64_t)r.timeout_s * 1000u,
  };
  csn_agent_set_model(&s->result, in.model);
  uint32_t at = csn_fx_open(fx, CSN_FX_RUN_START, s->run, 0, 0, 0);
  d->spec(fx, &in);
  csn_fx_close(fx, at);
  enter(s, CSN_ST_LAUNCHING);
  return CSN_ERR_OK;
}

static void on_run_started(csn_session *s, csn_fx *fx) {
  if (!s->started) {
    s->started = 1;
    s->started_ms = s->now_ms;
    csn_emit e = csn_session_emitter(s, fx, s->run);
    csn_event_close(&e, csn_event_open(&e, CSN_T_RUN_STARTED));
  }
  if (s->state != CSN_ST_LAUNCHING) return;
  s->deadline_ms = s->now_ms + (uint64_t)s->run_timeout_s * 1000u + CSN_OVERDUE_MS;
  enter(s, CSN_ST_RUNNING);
}

static csn_err on_start_failed(csn_session *s, csn_span payload, csn_fx *fx) {
  csn_words why;
  csn_err err = read_why(s, payload, fx, &why);
  if (err != CSN_ERR_OK) return err;
  if (s->kill == CSN_KILL_CANCELLED)
    set_outcome(s, CSN_T_RUN_CANCELLED, "cancelled");
  else if (s->kill == CSN_KILL_TIMED_OUT)
    set_outcome(s, CSN_T_RUN_TIMED_OUT, "timeout");
  else if (s->kill == CSN_KILL_OVER_BUDGET)
    set_outcome(s, CSN_T_RUN_OVER_BUDGET, csn_limit_key((csn_limit)s->budget.over));
  else if (s->kill == CSN_KILL_POLICY_VIOLATION)
    set_outcome(s, CSN_T_RUN_POLICY_VIOLATION, "policy_violation");
  else
    set_outcome(s, CSN_T_RUN_FAILED, "start_failed");
  csn_run_message(&s->result, &why);
  tell_outcome(s, fx);
  to_queue(s, fx);
  return CSN_ERR_OK;
}

static csn_err on_run_exit(csn_session *s, csn_span payload, csn_fx *fx) {
  const csn_json *j = read_json(s, payload, csn_exit_table);
  if (j == NULL) return bad_field_str(fx, CSN_ERR_BAD_JSON, "");
  const csn_json_item *reason = csn_json_get(j, CSN_EXIT_REASON, 0);
  if (reason->kind == CSN_JK_NONE) return bad_field_str(fx, CSN_ERR_MISSING_FIELD, "/reason");
  if (reason->kind != CSN_JK_STRING) return bad_field_str(fx, CSN_ERR_BAD_TYPE, "/reason");
  if (!csn_exit_reason_known(csn_json_text(j, reason)))
    return bad_field_str(fx, CSN_ERR_BAD_VALUE, "/reason");
  csn_emit e = csn_session_emitter(s, fx, s->run);
  csn_streams_flush(s, &e);
  if (s->kill == CSN_KILL_NONE) csn_watch_end(&s->watch);
  const csn_watched *made = csn_watch_next(&s->watch);
  if (made != NULL && s->kill == CSN_KILL_NONE) {
    csn_session_blame(s, made); /* told with COLLECTED, where there is room for it */
    s->kill = CSN_KILL_POLICY_VIOLATION;
  }
  csn_outcome_decide(s, j);
  s->deadline_ms = 0;
  enter(s, CSN_ST_COLLECTING);
  csn_fx_emit(fx, CSN_FX_COLLECT, s->run, 0, csn_span_of(NULL, 0));
  return CSN_ERR_OK;
}

static csn_err on_note(csn_session *s, const csn_rec *ev, csn_span payload, csn_fx *fx) {
  if (!csn_type_is_host(ev->code)) return CSN_ERR_BAD_RECORD;
  if (ev->id > s->run_count) return CSN_ERR_NO_RUN;
  const csn_json *j = read_json(s, payload, (csn_json_table){note_nodes, 5});
  if (j == NULL || csn_json_get(j, 1, 0)->kind != CSN_JK_OBJECT)
    return bad_field_str(fx, CSN_ERR_BAD_JSON, "");
  if (csn_json_get(j, 2, 0)->kind != CSN_JK_NONE) return bad_field_str(fx, CSN_ERR_BAD_VALUE, "");
  const uint8_t *p = payload.ptr;
  uint32_t from = 0, to = payload.len;
  while (p[from] != '{')
    from++;
  while (p[to - 1] != '}')
    to--;
  /* An event is one line of text. */
  for (uint32_t i = from; i < to; i++)
    if (p[i] == '\n' || p[i] == '\r') return bad_field_str(fx, CSN_ERR_BAD_JSON, "");
  csn_emit e = csn_session_emitter(s, fx, ev->id);
  uint32_t at = csn_event_open(&e, (csn_type)ev->code);
  if (j->value_count > 1) {
    csn_put_str(fx, ",");
    csn_fx_put(fx, p + from + 1, to - from - 2);
  }
  csn_event_close(&e, at);
  return CSN_ERR_OK;
}

static void on_cancel_waiting(csn_session *s, uint32_t run, csn_fx *fx) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < s->queue_len; i++)
    if (s->queue[i] != run) s->queue[kept++] = s->queue[i];
  s->queue_len = kept;
  end_waiting(s, fx, run, CSN_T_RUN_CANCELLED, "cancelled", &(csn_words){0});
}

static void on_cancel(csn_session *s, csn_fx *fx) {
  if (s->state == CSN_ST_LOADING) {
    set_outcome(s, CSN_T_RUN_CANCELLED, "cancelled");
    tell_outcome(s, fx);
    to_queue(s, fx);
  } else if (s->state != CSN_ST_KILLING) {
    csn_session_kill(s, fx, CSN_KILL_CANCELLED);
  }
}

static csn_err on_set_timeout(csn_session *s, int32_t seconds, csn_fx *fx) {
  if (seconds < (int32_t)CSN_TIMEOUT_S_MIN || seconds > (int32_t)CSN_TIMEOUT_S_MAX)
    return bad_field_str(fx, CSN_ERR_OUT_OF_RANGE, "/timeout_s");
  s->timeout_s = (uint32_t)seconds;
  s->expires_ms = s->now_ms + (uint64_t)s->timeout_s * 1000u;
  csn_emit e = csn_session_emitter(s, fx, 0);
  uint32_t at = csn_event_open(&e, CSN_T_SESSION_UPDATED);
  csn_put_field_u64(fx, "timeout_s", s->timeout_s);
  csn_put_field_u64(fx, "expires_ms", s->expires_ms);
  csn_event_close(&e, at);
  return CSN_ERR_OK;
}

static void on_ending(csn_session *s, csn_end reason, csn_fx *fx) {
  if (reason == CSN_END_TIMEOUT)
    end_all_runs(s, fx, CSN_T_RUN_TIMED_OUT, "session_timeout", &(csn_words){0});
  else
    end_all_runs(s, fx, CSN_T_RUN_CANCELLED, "session_deleted", &(csn_words){0});
  s->end_reason = (uint8_t)reason;
  enter(s, CSN_ST_ENDING);
  csn_fx_emit(fx, CSN_FX_SANDBOX_DESTROY, 0, 0, csn_span_of(NULL, 0));
}

static csn_err on_sandbox_end(csn_session *s, csn_span payload, csn_end reason, csn_fx *fx) {
  csn_words why;
  csn_err err = read_why(s, payload, fx, &why);
  if (err != CSN_ERR_OK) return err;
  if (s->state == CSN_ST_ENDING) {
    end_session(s, fx, (csn_end)s->end_reason, &(csn_words){0}); /* it was meant to go */
    return CSN_ERR_OK;
  }
  end_all_runs(s, fx, CSN_T_RUN_INTERRUPTED, end_reasons[reason], &why);
  end_session(s, fx, reason, &why);
  return CSN_ERR_OK;
}

static csn_err on_digest(csn_session *s, const csn_rec *ev, csn_fx *fx) {
  if (ev->kind == CSN_EV_DIGEST_BEGIN) {
    br_sha256_init(&s->digest);
    s->digest_id = ev->id;
    s->digest_open = 1;
    return CSN_ERR_OK;
  }
  if (!s->digest_open || s->digest_id != ev->id) return CSN_ERR_BAD_STATE;
  uint8_t sum[br_sha256_SIZE];
  br_sha256_out(&s->digest, sum);
  s->digest_open = 0;
  csn_fx_emit(fx, CSN_FX_DIGEST, ev->id, 0, csn_span_of(sum, sizeof sum));
  return CSN_ERR_OK;
}

/* --- the step --- */

static bool is_waiting(const csn_session *s, uint32_t run) {
  for (uint32_t i = 0; i < s->queue_len; i++)
    if (s->queue[i] == run) return true;
  return false;
}

static bool is_answer(uint32_t kind) {
  return kind == CSN_EV_RUN_LOADED || kind == CSN_EV_RUN_STARTED || kind == CSN_EV_RUN_START_FAILED ||
         kind == CSN_EV_RUN_EXIT || kind == CSN_EV_COLLECTED || kind == CSN_EV_USAGE;
}

/* The column of the table that an event stands for; an error for a CANCEL of a run that cannot be cancelled.
 */
static csn_err column_of(const csn_session *s, const csn_rec *ev, uint64_t now_ms, uint32_t *column) {
  *column = ev->kind;
  if (s->state == CSN_ST_ENDED) return CSN_ERR_SESSION_OVER;
  if (ev->kind == CSN_EV_TIMER && s->state != CSN_ST_NEW) {
    if (now_ms >= s->expires_ms)
      *column = CSN_EV_EXPIRED;
    else if (s->state >= CSN_ST_LAUNCHING && s->state <= CSN_ST_KILLING && s->deadline_ms != 0 &&
             now_ms >= s->deadline_ms)
      *column = CSN_EV_OVERDUE;
    else if (s->state == CSN_ST_IDLE && s->idle_s > 0 &&
             now_ms >= s->idle_since_ms + (uint64_t)s->idle_s * 1000u)
      *column = CSN_EV_IDLED;
  }
  if (ev->kind == CSN_EV_CANCEL && s->state != CSN_ST_NEW && s->state < CSN_ST_ENDING) {
    if (ev->id == 0 || ev->id > s->run_count) return CSN_ERR_NO_RUN;
    if (is_waiting(s, ev->id))
      *column = CSN_EV_CANCEL_WAITING;
    else if (ev->id != s->run || s->state == CSN_ST_COLLECTING)
      return CSN_ERR_RUN_OVER;
  }
  return CSN_ERR_OK;
}

static csn_err apply(csn_session *s, const csn_rec *ev, uint32_t column, csn_span payload, csn_fx *fx) {
  switch (column) {
  case CSN_EV_CREATE:
    return on_create(s, payload, fx);
  case CSN_EV_SANDBOX_READY: {
    csn_emit e = csn_session_emitter(s, fx, 0);
    csn_event_close(&e, csn_event_open(&e, CSN_T_SESSION_STARTED));
    to_queue(s, fx);
    return CSN_ERR_OK;
  }
  case CSN_EV_SANDBOX_FAILED:
    return on_sandbox_end(s, payload, CSN_END_SANDBOX_FAILED, fx);
  case CSN_EV_SANDBOX_GONE:
    return on_sandbox_end(s, payload, CSN_END_SANDBOX_LOST, fx);
  case CSN_EV_RUN:
    return on_run(s, payload, fx);
  case CSN_EV_RUN_LOADED:
    return on_run_loaded(s, payload, fx);
  case CSN_EV_RUN_STARTED:
    on_run_started(s, fx);
    return CSN_ERR_OK;
  case CSN_EV_RUN_START_FAILED:
    return on_start_failed(s, payload, fx);
  case CSN_EV_RUN_EXIT:
    return on_run_exit(s, payload, fx);
  case CSN_EV_COLLECTED:
    csn_session_violations(s, fx, true);
    tell_outcome(s, fx);
    to_queue(s, fx);
    return CSN_ERR_OK;
  case CSN_EV_NOTE:
    return on_note(s, ev, payload, fx);
  case CSN_EV_CANCEL:
    on_cancel(s, fx);
    return CSN_ERR_OK;
  case CSN_EV_CANCEL_WAITING:
    on_cancel_waiting(s, ev->id, fx);
    return CSN_ERR_OK;
  case CSN_EV_TIMER:
    csn_watch_time(&s->watch, s->now_ms);
    csn_session_violations(s, fx, true);
    return CSN_ERR_OK;
  case CSN_EV_SET_TOOLS:
    return csn_session_on_set_tools(s, payload, fx);
  case CSN_EV_USAGE:
    return csn_session_on_usage(s, payload, fx);
  case CSN_EV_SET_LIMITS:
    return csn_session_on_set_limits(s, payload, fx);
  case CSN_EV_TOUCH:
    s->idle_since_ms = s->now_ms;
    return CSN_ERR_OK;
  case CSN_EV_IDLED:
    on_ending(s, CSN_END_IDLE, fx);
    return CSN_ERR_OK;
  case CSN_EV_EXPIRED:
    if (s->state != CSN_ST_ENDING) on_ending(s, CSN_END_TIMEOUT, fx);
    return CSN_ERR_OK;
  case CSN_EV_OVERDUE:
    csn_session_kill(s, fx, CSN_KILL_TIMED_OUT);
    return CSN_ERR_OK;
  case CSN_EV_SET_TIMEOUT:
    return on_set_timeout(s, ev->code, fx);
  case CSN_EV_DELETE:
    if (s->state != CSN_ST_ENDING) on_ending(s, CSN_END_DELETED, fx);
    return CSN_ERR_OK;
  case CSN_EV_DIGEST_BEGIN:
  case CSN_EV_DIGEST_END:
    return on_digest(s, ev, fx);
  default:
    CSN_INVARIANT(false);
    return CSN_ERR_BAD_RECORD;
  }
}

csn_err csn_session_event(csn_session *s, const csn_rec *ev, csn_span payload, csn_fx *fx) {
  uint32_t column;
  if (csn_fx_room(fx) < CSN_EVENT_FX_MAX) return CSN_ERR_AGAIN;
  if (ev->kind == 0 || ev->kind >= CSN_EV_END || ev->kind == CSN_EV_OUTPUT) return CSN_ERR_BAD_RECORD;
  uint64_t before_ms = s->now_ms;
  uint64_t now_ms = ev->time_ms > before_ms ? ev->time_ms : before_ms;
  csn_err err = column_of(s, ev, now_ms, &column);
  if (err != CSN_ERR_OK) return err;
  csn_target to = csn_session_target((csn_state)s->state, column);
  if (to == CSN_TO_OVER) return CSN_ERR_SESSION_OVER;
  bool late = is_answer(column) && ev->id != s->run && s->state != CSN_ST_NEW;
  if (to == CSN_TO_ILLEGAL && !late) return CSN_ERR_BAD_STATE;
  if (to == CSN_TO_LATE || late) {
    if (s->late_count < UINT32_MAX) s->late_count++;
    return CSN_ERR_OK;
  }
  s->now_ms = now_ms;
  err = apply(s, ev, column, payload, fx);
  if (err != CSN_ERR_OK) {
    s->now_ms = before_ms;
    return err;
  }
  CSN_INVARIANT(to < CSN_TO_STATE || s->state == (uint8_t)(to - CSN_TO_STATE));
  CSN_INVARIANT(to != CSN_TO_QUEUE || s->state == CSN_ST_IDLE || s->state == CSN_ST_LOADING);
  if (column == CSN_EV_TIMER && in_run(s)) s->budget_dirty = 1; /* time has passed */
  csn_session_count(s, fx, true);
  /* A digest is no step of the session: its host looks at nothing else. */
  if (column != CSN_EV_DIGEST_BEGIN && column != CSN_EV_DIGEST_END) csn_session_tell_budget(s, fx);
  csn_session_wake(s, fx);
  return CSN_ERR_OK;
}
