#include "csn/agent.h"

static const char *const names[CSN_AGENT_END] = {"", "claude-code", "shell"};

const char *csn_agent_name(csn_agent agent) {
  CSN_INVARIANT(agent > CSN_AGENT_NONE && agent < CSN_AGENT_END);
  return names[agent];
}

csn_agent csn_agent_by_name(csn_span name) {
  for (uint32_t i = CSN_AGENT_NONE + 1; i < CSN_AGENT_END; i++)
    if (csn_span_is(name, names[i])) return (csn_agent)i;
  return CSN_AGENT_NONE;
}

/* The part of `rest` before its first NUL; moves `rest` behind that NUL. */
static csn_span next_text(csn_span *rest) {
  uint32_t n = 0;
  while (n < rest->len && rest->ptr[n] != 0)
    n++;
  csn_span text = csn_span_of(rest->ptr, n);
  uint32_t skip = n < rest->len ? n + 1 : n;
  *rest = csn_span_of(rest->ptr + skip, rest->len - skip);
  return text;
}

bool csn_env_has(csn_span env, const char *name) {
  while (env.len > 0) {
    csn_span have = next_text(&env);
    next_text(&env);
    if (csn_span_is(have, name)) return true;
  }
  return false;
}

void csn_spec_env(csn_fx *fx, csn_span env, const char *const *fixed, bool first) {
  while (env.len > 0) {
    csn_span name = next_text(&env);
    csn_span value = next_text(&env);
    bool skip = false;
    for (uint32_t i = 0; fixed[i] != NULL; i++)
      if (csn_span_is(name, fixed[i])) skip = true;
    if (skip) continue;
    if (!first) csn_put_str(fx, ",");
    first = false;
    csn_put_str(fx, "\"");
    csn_put_escaped(fx, name);
    csn_put_str(fx, "\":\"");
    csn_put_escaped(fx, value);
    csn_put_str(fx, "\"");
  }
}

void csn_spec_tail(csn_fx *fx, const csn_spec_in *in, bool prompt_on_stdin) {
  csn_put_field_text(fx, "cwd", csn_span_str("/workspace"));
  csn_put_field_json(fx, "stdin", csn_span_str(prompt_on_stdin ? "\"prompt\"" : "null"));
  csn_put_field_u64(fx, "wall_ms", in->wall_ms);
  csn_put_field_u64(fx, "grace_ms", CSN_GRACE_MS);
  csn_put_field_u64(fx, "output_max_bytes", CSN_OUTPUT_MAX_BYTES);
}

/* FNV-1a. An id that collides would go uncounted; with 16 of 64 bits that does not happen by chance. */
static uint64_t hash_of(csn_span s) {
  uint64_t h = 0xcbf29ce484222325u;
  for (uint32_t i = 0; i < s.len; i++)
    h = (h ^ s.ptr[i]) * 0x100000001b3u;
  return h;
}

/* Returns false when the id is there already. */
static bool seen_add(csn_seen *s, csn_span id) {
  uint64_t h = hash_of(id);
  for (uint32_t i = 0; i < s->count; i++)
    if (s->hash[i] == h) return false;
  s->hash[s->next] = h;
  s->next = (uint8_t)((s->next + 1u) % CSN_SEEN_MAX);
  if (s->count < CSN_SEEN_MAX) s->count++;
  return true;
}

bool csn_agent_turn(csn_emit *e, const csn_line *line, csn_agent_run *run, const csn_turn *turn) {
  if (turn->id.len > 0 && !seen_add(&run->seen, turn->id)) return false;
  csn_span model = turn->model.len > 0 ? turn->model : csn_span_of(run->model, run->model_len);
  csn_usage used = turn->usage;
  csn_price_usage(line->prices, model, true, &used);
  used.cost_unknown = 0; /* the agent may still report it */
  used.turns = turn->parent.len == 0 ? 1 : 0;
  csn_usage_add(&run->live, &used);
  if (turn->parent.len == 0) run->more = 0;
  uint32_t at = csn_event_open(e, CSN_T_AGENT_TURN);
  if (turn->parent.len == 0) csn_put_field_u64(e->fx, "turn", run->live.turns);
  if (turn->id.len > 0) csn_put_field_text(e->fx, "message_id", turn->id);
  if (model.len > 0) csn_put_field_text(e->fx, "model", model);
  csn_put_field_u64(e->fx, "input_tokens", used.input_tokens);
  csn_put_field_u64(e->fx, "output_tokens", used.output_tokens);
  csn_put_field_u64(e->fx, "cache_read_tokens", used.cache_read_tokens);
  csn_put_field_u64(e->fx, "cache_write_tokens", used.cache_write_tokens);
  if (turn->parent.len > 0) csn_put_field_text(e->fx, "parent_tool_use_id", turn->parent);
  csn_event_close(e, at);
  return true;
}

void csn_agent_more(csn_agent_run *run) {
  run->more = 1;
}

void csn_agent_set_model(csn_agent_run *run, csn_span model) {
  if (model.len == 0 || model.len > sizeof run->model) return;
  run->model_len = (uint8_t)model.len;
  memcpy(run->model, model.ptr, model.len);
}

/* Captures inside a verbatim one share its bytes, and a cut capture is escaped once more. */
uint32_t csn_agent_need(const csn_json *j) {
  return CSN_LINE_FX_MIN + j->item_count * CSN_LINE_EVENT_MAX + j->pool_len * 3u;
}

void csn_agent_raw(csn_emit *e, const char *reason, csn_span a, csn_span b) {
  uint32_t at = csn_event_open(e, CSN_T_RAW);
  csn_put_field_raw(e->fx, "reason", csn_span_str(reason));
  if (a.len > 0) {
    csn_put_str(e->fx, ",\"agent_type\":\"");
    csn_fx_put(e->fx, a.ptr, a.len);
    if (b.len > 0) csn_put_str(e->fx, "/");
    csn_fx_put(e->fx, b.ptr, b.len);
    csn_put_str(e->fx, "\"");
  }
  csn_event_close(e, at);
}

void csn_agent_raw_line(csn_emit *e, const csn_line *line) {
  const char *reason = line->verdict == CSN_JSON_TOO_DEEP ? "too_deep"
                       : line->ended                      ? "not_json"
                                                          : "half_line";
  uint32_t at = csn_event_open(e, CSN_T_RAW);
  csn_put_field_raw(e->fx, "reason", csn_span_str(reason));
  csn_span text = line->head;
  if (e->line_len > text.len) text.len = csn_utf8_whole(text);
  csn_put_field_raw(e->fx, "text", text);
  if (e->line_len > text.len) csn_put_field_u64(e->fx, "text_len", e->line_len);
  csn_event_close(e, at);
}
