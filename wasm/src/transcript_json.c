#include "transcript_write.h"

/* Members begin with a comma, as csn_put_field_* write them; so the first of an object is written by hand. */

static void put_text_field(csn_transcript *v, csn_fx *fx, const char *key, uint32_t field) {
  const csn_json_item *item = csn_transcript_get(v, field);
  if (item->kind == CSN_JK_STRING) csn_put_field_text(fx, key, csn_json_text(&v->json, item));
}

static void put_scalar(csn_transcript *v, csn_fx *fx, const char *key, uint32_t field) {
  const csn_json_item *item = csn_transcript_get(v, field);
  if (item->kind == CSN_JK_NONE || item->cut) return;
  if (item->kind == CSN_JK_STRING)
    csn_put_field_text(fx, key, csn_json_text(&v->json, item));
  else if (item->kind == CSN_JK_NULL || item->kind == CSN_JK_OBJECT || item->kind == CSN_JK_ARRAY)
    csn_put_field_null(fx, key);
  else
    csn_put_field_json(fx, key, csn_json_text(&v->json, item));
}

/* A value that was captured verbatim. */
static void put_json(csn_transcript *v, csn_fx *fx, const char *key, uint32_t field) {
  const csn_json_item *item = csn_transcript_get(v, field);
  if (item->kind != CSN_JK_NONE && !item->cut) csn_put_field_json(fx, key, csn_json_text(&v->json, item));
}

/* A text with its full length where not all of it is there. */
static void put_long_text(csn_transcript *v, csn_fx *fx, const char *key, const char *len_key, uint32_t field,
                          uint32_t len_field) {
  const csn_json_item *item = csn_transcript_get(v, field);
  put_text_field(v, fx, key, field);
  if (csn_transcript_get(v, len_field)->kind == CSN_JK_NUMBER)
    put_scalar(v, fx, len_key, len_field);
  else if (item->kind == CSN_JK_STRING && item->cut)
    csn_put_field_u64(fx, len_key, item->true_len);
}

static void comma(csn_transcript *v, csn_fx *fx) {
  if (v->comma) csn_put_str(fx, ",");
  v->comma = 1;
}

static void begin(csn_transcript *v, csn_fx *fx) {
  csn_put_str(fx, "{\"format\":\"caisson.transcript/1\",\"run\":");
  if (v->run == 0) {
    csn_put_str(fx, "null");
    return;
  }
  csn_put_str(fx, "\"run_");
  csn_put_u64(fx, v->run);
  csn_put_str(fx, "\"");
}

static void init(csn_transcript *v, csn_fx *fx, bool there) {
  csn_put_str(fx, ",\"agent\":");
  if (!there) {
    csn_put_str(fx, "null");
    return;
  }
  csn_span model = csn_transcript_text(v, CSN_VF_MODEL);
  csn_put_str(fx, model.len > 0 ? "{\"model\":\"" : "{\"model\":null");
  csn_fx_put(fx, model.ptr, model.len);
  if (model.len > 0) csn_put_str(fx, "\"");
  put_text_field(v, fx, "version", CSN_VF_VERSION);
  put_text_field(v, fx, "session_id", CSN_VF_SESSION_ID);
  csn_put_str(fx, "}");
}

static void outcome(csn_transcript *v, csn_fx *fx, bool there) {
  csn_put_str(fx, ",\"state\":");
  if (!there) {
    csn_put_str(fx, "null");
    return;
  }
  csn_put_str(fx, "\"");
  csn_put_str(fx, csn_transcript_state(v));
  csn_put_str(fx, "\"");
  put_scalar(v, fx, "reason", CSN_VF_REASON);
  put_scalar(v, fx, "exit_code", CSN_VF_EXIT);
  put_scalar(v, fx, "duration_ms", CSN_VF_DURATION);
  put_long_text(v, fx, "result", "result_len", CSN_VF_RESULT, CSN_VF_RESULT_LEN);
  put_json(v, fx, "error", CSN_VF_ERROR);
  put_json(v, fx, "usage", CSN_VF_USAGE);
  put_json(v, fx, "budget", CSN_VF_BUDGET);
}

static void body(csn_transcript *v, csn_fx *fx) {
  static const char *const status[] = {"null", "\"added\"", "\"modified\"", "\"deleted\""};
  csn_put_str(fx, ",\"counts\":{\"turns\":");
  csn_put_u64(fx, v->turns);
  csn_put_field_u64(fx, "tool_calls", v->tool_calls);
  csn_put_field_u64(fx, "tool_errors", v->tool_errors);
  csn_put_field_u64(fx, "denials", v->denials);
  csn_put_field_u64(fx, "subagents", v->subagents);
  csn_put_field_u64(fx, "retries", v->retries);
  csn_put_field_u64(fx, "errors", v->errors);
  csn_put_field_u64(fx, "unparsed", v->raws);
  csn_put_str(fx, "},\"files\":[");
  for (uint32_t i = 0; i < v->file_count; i++) {
    const csn_transcript_file *f = &v->files[i];
    csn_put_str(fx, i == 0 ? "{\"path\":\"" : ",{\"path\":\"");
    csn_fx_put(fx, v->paths + f->off, f->len);
    csn_put_str(fx, "\"");
    csn_put_field_u64(fx, "reads", f->reads);
    csn_put_field_u64(fx, "edits", f->edits);
    csn_put_field_json(fx, "status", csn_span_str(status[f->status]));
    csn_put_str(fx, "}");
  }
  csn_put_str(fx, "],\"truncated\":");
  if (v->lost_nodes == 0 && v->lost_files == 0 && v->bad_events == 0) {
    csn_put_str(fx, "null");
  } else {
    csn_put_str(fx, "{\"items\":");
    csn_put_u64(fx, v->lost_nodes);
    csn_put_field_u64(fx, "files", v->lost_files);
    csn_put_field_u64(fx, "events", v->bad_events);
    csn_put_str(fx, "}");
  }
  if (v->format == CSN_TRANSCRIPT_JSON) csn_put_str(fx, ",\"turns\":[");
  v->comma = 0;
}

static void put_tokens(csn_transcript *v, csn_fx *fx, const char *key) {
  csn_put_str(fx, ",\"");
  csn_put_str(fx, key);
  csn_put_str(fx, "\":{\"input_tokens\":");
  const csn_json_item *in = csn_transcript_get(v, CSN_VF_IN);
  csn_span n = in->kind == CSN_JK_NUMBER && !in->cut ? csn_json_text(&v->json, in) : csn_span_str("0");
  csn_fx_put(fx, n.ptr, n.len);
  put_scalar(v, fx, "output_tokens", CSN_VF_OUT);
  put_scalar(v, fx, "cache_read_tokens", CSN_VF_READ);
  put_scalar(v, fx, "cache_write_tokens", CSN_VF_WRITE);
  put_scalar(v, fx, "cost_usd", CSN_VF_COST);
  csn_put_str(fx, "}");
}

static void open_turn(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n, bool there) {
  csn_put_str(fx, "{\"turn\":");
  csn_put_u64(fx, n->id);
  csn_put_field_u64(fx, "seq", n->seq);
  if (!there) return;
  put_scalar(v, fx, "time_ms", CSN_VF_TIME);
  put_text_field(v, fx, "message_id", CSN_VF_MESSAGE_ID);
  put_text_field(v, fx, "model", CSN_VF_MODEL);
  put_tokens(v, fx, "tokens");
}

static void open_item(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n, const char *type) {
  csn_put_str(fx, "{\"type\":\"");
  csn_put_str(fx, type);
  csn_put_str(fx, "\"");
  csn_put_field_u64(fx, "seq", n->seq);
  put_scalar(v, fx, "time_ms", CSN_VF_TIME);
}

static void open_call(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n) {
  open_item(v, fx, n, "tool_call");
  put_text_field(v, fx, "id", CSN_VF_ID);
  put_text_field(v, fx, "tool", CSN_VF_TOOL);
  put_json(v, fx, "input", CSN_VF_INPUT);
  put_text_field(v, fx, "input_head", CSN_VF_INPUT_HEAD);
  put_scalar(v, fx, "input_len", CSN_VF_INPUT_LEN);
  put_text_field(v, fx, "file", CSN_VF_FILE);
  put_text_field(v, fx, "command", CSN_VF_COMMAND);
  if (csn_transcript_has_diff(v)) {
    csn_put_str(fx, ",\"diff\":\"");
    csn_transcript_put_diff(v, fx);
    csn_put_str(fx, "\"");
  }
  if (n->is_denied) csn_put_field_bool(fx, "denied", true);
  if (n->other == 0) csn_put_field_null(fx, "result");
}

static void open(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n, bool there) {
  comma(v, fx);
  switch ((csn_transcript_kind)n->kind) {
  case CSN_VN_TURN:
    open_turn(v, fx, n, there);
    break;
  case CSN_VN_TEXT:
  case CSN_VN_THINKING:
    open_item(v, fx, n, n->kind == CSN_VN_TEXT ? "text" : "thinking");
    put_long_text(v, fx, "text", "text_len", CSN_VF_TEXT, CSN_VF_TEXT_LEN);
    break;
  case CSN_VN_CALL:
    open_call(v, fx, n);
    break;
  case CSN_VN_RESULT:
    open_item(v, fx, n, "tool_result");
    put_text_field(v, fx, "id", CSN_VF_ID);
    csn_put_field_bool(fx, "is_error", csn_transcript_is_true(v, CSN_VF_IS_ERROR));
    put_long_text(v, fx, "text", "text_len", CSN_VF_TEXT, CSN_VF_TEXT_LEN);
    break;
  case CSN_VN_STDOUT:
  case CSN_VN_STDERR:
    open_item(v, fx, n, "output");
    csn_put_field_raw(fx, "stream", csn_span_str(n->kind == CSN_VN_STDOUT ? "stdout" : "stderr"));
    csn_put_str(fx, ",\"text\":\"");
    break;
  case CSN_VN_RETRY:
    open_item(v, fx, n, "retry");
    put_scalar(v, fx, "attempt", CSN_VF_ATTEMPT);
    put_scalar(v, fx, "max_retries", CSN_VF_MAX_RETRIES);
    put_scalar(v, fx, "delay_ms", CSN_VF_DELAY);
    put_scalar(v, fx, "status", CSN_VF_STATUS);
    put_json(v, fx, "error", CSN_VF_ERROR);
    break;
  case CSN_VN_DENIED:
    open_item(v, fx, n, "denied");
    put_text_field(v, fx, "id", CSN_VF_ID);
    put_text_field(v, fx, "tool", CSN_VF_TOOL);
    put_text_field(v, fx, "message", CSN_VF_MESSAGE);
    break;
  case CSN_VN_WARNING:
    open_item(v, fx, n, "warning");
    put_text_field(v, fx, "limit", CSN_VF_LIMIT);
    put_text_field(v, fx, "scope", CSN_VF_SCOPE);
    put_scalar(v, fx, "used", CSN_VF_USED);
    put_scalar(v, fx, "max", CSN_VF_MAX);
    put_text_field(v, fx, "detail", CSN_VF_DETAIL);
    break;
  case CSN_VN_ERROR:
    open_item(v, fx, n, "error");
    put_long_text(v, fx, "text", "text_len", CSN_VF_TEXT, CSN_VF_TEXT_LEN);
    break;
  }
}

static void result(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n, bool there) {
  if (n->kind == CSN_VN_TURN) {
    if (there) put_tokens(v, fx, "usage");
    return;
  }
  csn_put_str(fx, ",\"result\":");
  if (!there) {
    csn_put_str(fx, "null");
    return;
  }
  csn_put_str(fx, "{\"seq\":");
  csn_put_u64(fx, n->other);
  put_scalar(v, fx, "time_ms", CSN_VF_TIME);
  csn_put_field_bool(fx, "is_error", csn_transcript_is_true(v, CSN_VF_IS_ERROR));
  put_long_text(v, fx, "text", "text_len", CSN_VF_TEXT, CSN_VF_TEXT_LEN);
  csn_put_str(fx, "}");
}

static void extra(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n, bool there) {
  if (!there) return;
  csn_put_str(fx, ",\"subagent\":{\"seq\":");
  csn_put_u64(fx, n->extra);
  put_text_field(v, fx, "status", CSN_VF_STATUS);
  put_text_field(v, fx, "summary", CSN_VF_SUMMARY);
  csn_put_str(fx, "}");
}

static void piece(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n, bool there) {
  (void)n;
  csn_span text = csn_transcript_text(v, CSN_VF_TEXT);
  if (there) csn_fx_put(fx, text.ptr, text.len);
}

static bool is_output(const csn_transcript_node *n) {
  return n->kind == CSN_VN_STDOUT || n->kind == CSN_VN_STDERR;
}

static void items(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n) {
  if (is_output(n)) {
    csn_put_str(fx, "\"");
    if (n->id > v->shown) csn_put_field_u64(fx, "text_len", n->id);
  }
  if (n->kind == CSN_VN_TURN) csn_put_str(fx, ",\"items\":[");
  if (n->kind == CSN_VN_CALL && n->first != CSN_TRANSCRIPT_NONE) csn_put_str(fx, ",\"turns\":[");
  v->comma = 0;
}

static void close(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n) {
  bool list = n->kind == CSN_VN_TURN || (n->kind == CSN_VN_CALL && n->first != CSN_TRANSCRIPT_NONE);
  csn_put_str(fx, list ? "]}" : "}");
  v->comma = 1;
}

static void end(csn_transcript *v, csn_fx *fx) {
  csn_put_str(fx, v->format == CSN_TRANSCRIPT_JSON ? "]}\n" : "}");
}

void csn_transcript_json_line(csn_fx *fx, const char *mark, csn_span line) {
  csn_put_str(fx, mark);
  csn_fx_put(fx, line.ptr, line.len);
  csn_put_str(fx, "\\n");
}

const csn_transcript_form csn_transcript_json_form = {begin, init,  outcome, body,  open, result,
                                                      extra, piece, items,   close, end};
