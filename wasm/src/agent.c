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

uint32_t csn_agent_need(const csn_json *j) {
  uint32_t need = CSN_LINE_FX_MIN;
  for (uint32_t i = 0; i < j->item_count; i++) {
    const csn_json_item *item = &j->items[i];
    need += item->len + CSN_LINE_EVENT_MAX;
    if (item->cut) need += item->len;
  }
  return need;
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
