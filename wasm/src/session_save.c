#include "csn/session.h"

/* One walk for both directions, so that they cannot differ. */
typedef struct walk {
  bool loading, ok;
  uint32_t version; /* of the snapshot */
  uint8_t *out;     /* saving */
  uint32_t cap, len;
  csn_reader in; /* loading */
} walk;

static void bytes(walk *w, void *p, uint32_t len) {
  if (!w->ok || len == 0) return;
  if (w->loading) {
    csn_span got;
    w->ok = csn_rd_bytes(&w->in, len, &got);
    if (w->ok) memcpy(p, got.ptr, len);
  } else {
    w->ok = len <= w->cap - w->len;
    if (w->ok) memcpy(w->out + w->len, p, len);
    if (w->ok) w->len += len;
  }
}

/* An unsigned number of `size` bytes, 0..max. */
static uint64_t number(walk *w, uint64_t value, uint32_t size, uint64_t max) {
  uint8_t raw[8];
  for (uint32_t i = 0; i < size; i++)
    raw[i] = (uint8_t)(value >> (8 * i));
  bytes(w, raw, size);
  if (!w->loading || !w->ok) return value;
  value = 0;
  for (uint32_t i = size; i > 0; i--)
    value = value << 8 | raw[i - 1];
  if (value > max) w->ok = false;
  return w->ok ? value : 0;
}

static void u8(walk *w, uint8_t *p, uint8_t max) {
  *p = (uint8_t)number(w, *p, 1, max);
}
static void u16(walk *w, uint16_t *p, uint16_t max) {
  *p = (uint16_t)number(w, *p, 2, max);
}
static void u32(walk *w, uint32_t *p, uint32_t max) {
  *p = (uint32_t)number(w, *p, 4, max);
}
static void u64(walk *w, uint64_t *p) {
  *p = number(w, *p, 8, UINT64_MAX);
}

static void text64(walk *w, csn_text64 *t) {
  u8(w, &t->len, sizeof t->bytes);
  bytes(w, t->bytes, t->len);
}

static void usage(walk *w, csn_usage *u) {
  u64(w, &u->input_tokens);
  u64(w, &u->output_tokens);
  u64(w, &u->cache_read_tokens);
  u64(w, &u->cache_write_tokens);
  u64(w, &u->cost_nano);
  u32(w, &u->turns, UINT32_MAX);
  u32(w, &u->tool_calls, UINT32_MAX);
  u8(w, &u->cost_unknown, 1);
}

static void agent_run(walk *w, csn_agent_run *r) {
  u8(w, &r->has_result, 1);
  u8(w, &r->is_error, 1);
  u8(w, &r->result_cut, 1);
  u16(w, &r->error_status, UINT16_MAX);
  text64(w, &r->reason);
  text64(w, &r->kind);
  usage(w, &r->usage);
  u8(w, &r->id_len, CSN_ID_CAP);
  bytes(w, r->agent_session_id, r->id_len);
  u16(w, &r->message_len, CSN_MESSAGE_CAP);
  bytes(w, r->message, r->message_len);
  u32(w, &r->result_true_len, UINT32_MAX);
  u32(w, &r->result_len, CSN_FIELD_MAX);
  bytes(w, r->result, r->result_len);
  u8(w, &r->is_fork, 1);
  u8(w, &r->denied, 1);
  u64(w, &r->open_items);
  for (uint32_t i = 0; i < sizeof r->tasks / sizeof r->tasks[0]; i++)
    u32(w, &r->tasks[i], UINT32_MAX);
  text64(w, &r->refusal);
  usage(w, &r->live);
  u8(w, &r->more, 1);
  u8(w, &r->busy, 1);
  u8(w, &r->model_len, CSN_MODEL_MAX);
  bytes(w, r->model, r->model_len);
  u8(w, &r->seen.count, CSN_SEEN_MAX);
  u8(w, &r->seen.next, CSN_SEEN_MAX - 1);
  for (uint32_t i = 0; i < r->seen.count; i++)
    u64(w, &r->seen.hash[i]);
}

static void prices(walk *w, csn_prices *p) {
  u32(w, &p->count, CSN_PRICE_ROWS_MAX);
  for (uint32_t i = 0; i < p->count; i++) {
    csn_price_row *row = &p->rows[i];
    u8(w, &row->name_len, CSN_PRICE_NAME_MAX);
    bytes(w, row->name, row->name_len);
    u8(w, &row->prefix, 1);
    u32(w, &row->rate.input, UINT32_MAX);
    u32(w, &row->rate.cache_read, UINT32_MAX);
    u32(w, &row->rate.cache_write, UINT32_MAX);
    u32(w, &row->rate.output, UINT32_MAX);
    u32(w, &row->rate.above, UINT32_MAX);
  }
}

static void outcome(walk *w, csn_outcome *o) {
  uint32_t code = (uint32_t)o->exit_code;
  u8(w, &o->type, CSN_T_RUN_POLICY_VIOLATION);
  u8(w, &o->has_exit_code, 1);
  u8(w, &o->has_signal, 1);
  u32(w, &code, INT32_MAX);
  o->exit_code = (int32_t)code;
  u32(w, &o->signal, 255);
  u64(w, &o->duration_ms);
  text64(w, &o->reason);
}

static void counters(walk *w, csn_counters *c) {
  usage(w, &c->usage);
  u64(w, &c->output_bytes);
  u64(w, &c->wall_ms);
}

static void budget(walk *w, csn_budget *b) {
  for (uint32_t scope = 0; scope < CSN_SCOPE_COUNT; scope++) {
    for (uint32_t i = 1; i < CSN_LIMIT_END; i++)
      u64(w, &b->limits[scope].max[i]);
    u16(w, &b->warned[scope], (1u << CSN_LIMIT_END) - 2u);
  }
  counters(w, &b->ended);
  counters(w, &b->run);
  usage(w, &b->wire);
  u8(w, &b->more, 1);
  u8(w, &b->over, CSN_LIMIT_END - 1);
  u8(w, &b->over_scope, CSN_SCOPE_COUNT - 1);
  u64(w, &b->over_used);
  u64(w, &b->over_max);
}

static void tools(walk *w, csn_tool_store *t) {
  u8(w, &t->listed, 1);
  u16(w, &t->count, CSN_TOOL_RULES_COUNT_MAX);
  u32(w, &t->text_len, sizeof t->text);
  bytes(w, t->text, t->text_len);
  for (uint32_t i = 0; i < t->count; i++) {
    csn_tool_rule *r = &t->rules[i];
    u8(w, &r->action, CSN_ASK);
    u16(w, &r->rule, UINT16_MAX);
    u16(w, &r->tool.off, UINT16_MAX);
    u16(w, &r->tool.len, CSN_WATCH_NAME_CAP);
    u16(w, &r->spec.off, UINT16_MAX);
    u16(w, &r->spec.len, CSN_POLICY_PATTERN_MAX);
    if (r->tool.off + r->tool.len > t->text_len || r->spec.off + r->spec.len > t->text_len) w->ok = false;
    if (!w->ok) return;
  }
}

static void watch(walk *w, csn_watch *c, uint16_t rules) {
  u8(w, &c->count, CSN_WATCH_MAX);
  u8(w, &c->rule_len, sizeof c->rule);
  bytes(w, c->rule, c->rule_len);
  u16(w, &c->message_len, sizeof c->message);
  bytes(w, c->message, c->message_len);
  for (uint32_t i = 0; i < c->count; i++) {
    csn_watched *call = &c->calls[i];
    u64(w, &call->id);
    u64(w, &call->parent);
    u64(w, &call->due_ms);
    u8(w, &call->forbidden, 1);
    u8(w, &call->made, call->forbidden);
    u8(w, &call->id_len, sizeof call->text);
    bytes(w, call->text, call->id_len);
    u8(w, &call->what_len, sizeof call->what);
    bytes(w, call->what, call->what_len);
    u8(w, &call->verdict.action, CSN_ASK);
    u8(w, &call->verdict.why, CSN_WHY_NO_RULES);
    u8(w, &call->verdict.list, CSN_LIST_TOOL_ASK);
    u16(w, &call->verdict.rule, UINT16_MAX);
    u16(w, &call->verdict.slot, UINT16_MAX);
    if (call->verdict.slot >= rules && call->verdict.slot != CSN_POLICY_NO_RULE) w->ok = false;
  }
}

static void session(walk *w, csn_session *s) {
  uint32_t magic = CSN_ABI_MAGIC;
  u32(w, &magic, UINT32_MAX);
  u32(w, &w->version, CSN_SNAPSHOT_VERSION);
  if (magic != CSN_ABI_MAGIC || w->version < CSN_SNAPSHOT_VERSION - 1) w->ok = false;
  u8(w, &s->state, CSN_ST_COUNT - 1);
  u8(w, &s->agent, CSN_AGENT_END - 1);
  u8(w, &s->end_reason, CSN_END_COUNT - 1);
  u8(w, &s->is_command, 1);
  u8(w, &s->kill, CSN_KILL_POLICY_VIOLATION);
  u8(w, &s->started, 1);
  u8(w, &s->err_mid_line, 1);
  u8(w, &s->is_plain, 1);
  u32(w, &s->timeout_s, CSN_TIMEOUT_S_MAX);
  u32(w, &s->run_timeout_s, CSN_TIMEOUT_S_MAX);
  u32(w, &s->run_count, CSN_RUN_MAX);
  u32(w, &s->run, s->run_count);
  u32(w, &s->late_count, UINT32_MAX);
  u32(w, &s->queue_len, CSN_QUEUE_MAX);
  for (uint32_t i = 0; i < s->queue_len; i++)
    u32(w, &s->queue[i], s->run_count);
  u64(w, &s->seq);
  u64(w, &s->now_ms);
  u64(w, &s->expires_ms);
  u64(w, &s->wake_ms);
  u64(w, &s->started_ms);
  u64(w, &s->deadline_ms);
  u64(w, &s->cursor[0]);
  u64(w, &s->cursor[1]);
  outcome(w, &s->outcome);
  for (uint32_t i = 0; i < CSN_CONVERSATION_MAX; i++) {
    csn_conversation *c = &s->memory.at[i];
    u8(w, &c->id_len, CSN_ID_CAP);
    bytes(w, c->id, c->id_len);
    usage(w, &c->total);
  }
  agent_run(w, &s->result);
  u32(w, &s->system_prompt_len, sizeof s->system_prompt);
  bytes(w, s->system_prompt, s->system_prompt_len);
  u32(w, &s->model_len, sizeof s->model);
  bytes(w, s->model, s->model_len);
  u32(w, &s->env_len, sizeof s->env);
  bytes(w, s->env, s->env_len);
  prices(w, &s->prices);
  u32(w, &s->options_len, sizeof s->options);
  bytes(w, s->options, s->options_len);
  u64(w, &s->idle_since_ms);
  u32(w, &s->idle_s, CSN_TIMEOUT_S_MAX);
  budget(w, &s->budget);
  tools(w, &s->tools);
  watch(w, &s->watch, s->tools.count);
  if (w->version < 4) { /* texts that were cut did not say so */
    s->result.message_true_len = s->result.message_len;
    s->watch.message_true_len = s->watch.message_len;
    return;
  }
  u32(w, &s->result.message_true_len, UINT32_MAX);
  u32(w, &s->watch.message_true_len, UINT32_MAX);
}

int32_t csn_session_save(csn_session *s, uint8_t *out, uint32_t cap) {
  walk w = {.loading = false, .ok = true, .version = CSN_SNAPSHOT_VERSION, .out = out, .cap = cap};
  session(&w, s);
  CSN_INVARIANT(w.len <= CSN_SNAPSHOT_MAX);
  return w.ok ? (int32_t)w.len : CSN_ERR_AGAIN;
}

/* A run is current exactly in its phases, has an outcome exactly while its files are collected, and every
 * state but the first has an agent. */
static bool consistent(const csn_session *s) {
  bool phase = s->state >= CSN_ST_LOADING && s->state <= CSN_ST_COLLECTING;
  if ((s->run != 0) != phase) return false;
  if ((s->outcome.type != 0) != (s->state == CSN_ST_COLLECTING)) return false;
  if (s->outcome.type != 0 && s->outcome.type < CSN_T_RUN_SUCCEEDED) return false;
  if (s->kill == CSN_KILL_OVER_BUDGET && s->budget.over == CSN_LIMIT_NONE) return false;
  if (s->kill == CSN_KILL_POLICY_VIOLATION && s->watch.rule_len == 0) return false;
  if (s->run == 0 && (s->watch.count > 0 || s->watch.rule_len > 0)) return false;
  const csn_seen *seen = &s->result.seen;
  if (seen->count < CSN_SEEN_MAX && seen->next != seen->count) return false;
  if ((s->agent == CSN_AGENT_NONE) != (s->state == CSN_ST_NEW)) return false;
  if (s->agent == CSN_AGENT_SHELL && s->run != 0 && s->state > CSN_ST_LOADING && !s->is_command) return false;
  if ((s->end_reason != CSN_END_NONE) != (s->state == CSN_ST_ENDING) && s->state != CSN_ST_ENDED)
    return false;
  if (s->state != CSN_ST_NEW && (s->timeout_s < CSN_TIMEOUT_S_MIN || s->expires_ms == 0)) return false;
  if (s->queue_len > 0 && (s->state == CSN_ST_NEW || s->state == CSN_ST_IDLE || s->state >= CSN_ST_ENDING))
    return false;
  for (uint32_t i = 0; i < s->queue_len; i++)
    if (s->queue[i] <= (i == 0 ? s->run : s->queue[i - 1])) return false;
  return true;
}

csn_err csn_session_load(csn_session *s, csn_span snapshot) {
  walk w = {.loading = true, .ok = true, .in = {snapshot, 0}};
  csn_session_init(s);
  session(&w, s);
  if (!w.ok || w.in.pos != snapshot.len || !consistent(s)) {
    csn_session_init(s);
    return CSN_ERR_BAD_SNAPSHOT;
  }
  csn_streams_reset(s);
  return CSN_ERR_OK;
}
