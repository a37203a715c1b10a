#include "csn/session.h"

csn_watching csn_session_watching(csn_session *s) {
  return (csn_watching){.watch = &s->watch,
                        .tools = &s->tools,
                        .options = csn_span_of(s->options, s->options_len),
                        .scratch = {s->arena + CSN_ARENA_CAP - CSN_CALL_SCRATCH, CSN_CALL_SCRATCH, 0}};
}

/* The sentence about a call, in the scratch memory. */
static csn_span sentence_of(csn_session *s, const csn_watched *call) {
  csn_fx words = {s->arena + CSN_ARENA_CAP - CSN_CALL_SCRATCH, CSN_POLICY_SENTENCE_MAX, 0};
  csn_tool_table table = csn_tools_table(&s->tools);
  csn_tools_sentence(&table, call->verdict, csn_span_of(call->what, call->what_len), &words);
  return csn_span_of(words.base, words.len);
}

void csn_session_blame(csn_session *s, const csn_watched *call) {
  csn_watch *w = &s->watch;
  if (w->rule_len > 0) return;
  csn_fx rule = {w->rule, sizeof w->rule, 0};
  csn_policy_rule_name(call->verdict, &rule);
  w->rule_len = (uint8_t)rule.len;
  csn_span words = sentence_of(s, call);
  uint8_t *escaped = s->arena + CSN_ARENA_CAP - CSN_CALL_SCRATCH + CSN_POLICY_SENTENCE_MAX;
  csn_fx text = {escaped, CSN_POLICY_SENTENCE_MAX * 6u, 0};
  csn_put_escaped(&text, words);
  w->message_len = (uint16_t)csn_json_cut(csn_span_of(escaped, text.len), sizeof w->message);
  memcpy(w->message, escaped, w->message_len);
  w->message_true_len = text.len;
}
_Static_assert(CSN_POLICY_SENTENCE_MAX * 7u <= CSN_CALL_SCRATCH, "a sentence, and the same escaped");

static void tell(csn_session *s, csn_fx *fx, const csn_watched *call) {
  csn_tool_table table = csn_tools_table(&s->tools);
  uint8_t room[CSN_POLICY_PATTERN_MAX + 16];
  csn_fx text = {room, sizeof room, 0};
  csn_emit e = csn_session_emitter(s, fx, s->run);
  uint32_t at = csn_event_open(&e, CSN_T_POLICY_VIOLATION);
  csn_put_field_text(fx, "tool_use_id", csn_span_of(call->text, call->id_len));
  csn_put_field_raw(fx, "call", csn_span_of(call->what, call->what_len));
  csn_policy_rule_name(call->verdict, &text);
  csn_put_field_raw(fx, "rule", csn_span_of(room, text.len));
  text.len = 0;
  csn_tools_pattern(&table, call->verdict, &text);
  if (text.len > 0) csn_put_field_raw(fx, "pattern", csn_span_of(room, text.len));
  csn_put_field_raw(fx, "reason", sentence_of(s, call));
  csn_event_close(&e, at);
}

void csn_session_violations(csn_session *s, csn_fx *fx, bool all) {
  csn_watched *call;
  for (bool more = true; more && (call = csn_watch_next(&s->watch)) != NULL; more = all) {
    csn_session_blame(s, call);
    tell(s, fx, call);
    csn_watch_drop(&s->watch, call);
    csn_target to = csn_session_target((csn_state)s->state, CSN_EV_VIOLATION);
    if (to == (csn_target)(CSN_TO_STATE + CSN_ST_KILLING)) csn_session_kill(s, fx, CSN_KILL_POLICY_VIOLATION);
  }
}

csn_err csn_session_on_set_tools(csn_session *s, csn_span payload, csn_fx *fx) {
  csn_pointer bad;
  csn_arena a = {s->arena, CSN_ARENA_CAP, 0};
  const csn_tool_store *store;
  csn_err err = csn_request_tools(&a, payload, &store, &bad);
  if (err != CSN_ERR_OK) return csn_bad_field(fx, err, &bad);
  s->tools = *store;
  csn_watch_rules_changed(&s->watch);
  return CSN_ERR_OK;
}
