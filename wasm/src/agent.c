#include "csn/dialect.h"

static const char *const names[CSN_AGENT_END] = {"", "claude-code", "shell", "codex", "gemini", "opencode"};

const char *csn_agent_name(csn_agent agent) {
  CSN_INVARIANT(agent > CSN_AGENT_NONE && agent < CSN_AGENT_END);
  return names[agent];
}

csn_agent csn_agent_by_name(csn_span name) {
  for (uint32_t i = CSN_AGENT_NONE + 1; i < CSN_AGENT_END; i++)
    if (csn_span_is(name, names[i])) return (csn_agent)i;
  return CSN_AGENT_NONE;
}

const csn_dialect *csn_dialect_of(csn_agent agent) {
  static const csn_dialect *const dialects[CSN_AGENT_END] = {
      &csn_shell_dialect, /* of a session that is not created yet */
      &csn_claude_code_dialect, &csn_shell_dialect,    &csn_codex_dialect,
      &csn_gemini_dialect,      &csn_opencode_dialect,
  };
  CSN_INVARIANT(agent < CSN_AGENT_END);
  return dialects[agent];
}

const csn_conversation *csn_memory_last(const csn_agent_memory *memory) {
  return memory->at[0].id_len > 0 ? &memory->at[0] : NULL;
}

/* Captures inside a verbatim one share its bytes, and a cut capture is escaped once more. A text that was
 * gathered may be told twice: as itself and as the run's result. The dialects that gather have no verbatim
 * captures beside it to speak of, so that all of it fits CSN_LINE_FX_MAX. */
uint32_t csn_agent_need(const csn_json *j, const csn_agent_run *run) {
  uint32_t need = CSN_LINE_FX_MIN + j->item_count * CSN_LINE_EVENT_MAX + j->pool_len * 3u +
                  2u * (run->result_len + CSN_LINE_EVENT_MAX);
  return need < CSN_LINE_FX_MAX ? need : CSN_LINE_FX_MAX;
}

/* The `raw` event of a line that is not one whole JSON value. */
static void raw_line(csn_emit *e, const csn_line *line) {
  const char *reason = line->verdict == CSN_JSON_TOO_DEEP ? "too_deep"
                       : line->ended                      ? "not_json"
                                                          : "half_line";
  uint32_t at = csn_event_open(e, CSN_T_RAW);
  csn_put_field_raw(e->fx, "reason", csn_span_str(reason));
  csn_span text = line->head; /* with the CR that the line's length is without */
  if (text.len > e->line_len) text.len = e->line_len;
  if (e->line_len > text.len) text.len = csn_utf8_whole(text);
  csn_put_field_raw(e->fx, "text", text);
  if (e->line_len > text.len) csn_put_field_u64(e->fx, "text_len", e->line_len);
  csn_event_close(e, at);
}

void csn_agent_line(csn_agent agent, csn_emit *e, const csn_line *line, csn_agent_run *run,
                    csn_agent_memory *memory) {
  if (line->verdict == CSN_JSON_EMPTY) return;
  if (line->verdict != CSN_JSON_OK) {
    raw_line(e, line);
    return;
  }
  csn_view v = {e, line->json, run, memory, line->prices, line->watching};
  if (line->json->cr_count == 0) e->line_flags |= CSN_LINE_JSON;
  csn_dialect_of(agent)->line(&v);
  if (line->json->lost) csn_put_raw_event(&v, "too_many_fields", csn_span_of(NULL, 0), csn_span_of(NULL, 0));
}

void csn_agent_err_line(csn_agent agent, csn_emit *e, csn_span line, csn_agent_run *run,
                        csn_agent_memory *memory) {
  csn_view v = {e, NULL, run, memory, NULL, NULL};
  const csn_dialect *d = csn_dialect_of(agent);
  if (d->err_line != NULL) d->err_line(&v, line);
}

void csn_agent_end(csn_agent agent, csn_emit *e, csn_agent_run *run, csn_agent_memory *memory) {
  csn_view v = {e, NULL, run, memory, NULL, NULL};
  const csn_dialect *d = csn_dialect_of(agent);
  if (d->end != NULL) d->end(&v);
}
