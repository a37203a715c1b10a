#include "csn/session.h"

enum { OUT = 0, ERR = 1 };

static csn_agent dialect_of(const csn_session *s) {
  return s->is_command ? CSN_AGENT_SHELL : (csn_agent)s->agent;
}

/* Which of the current run's streams is the agent's event stream; all others are plain text. */
static bool is_events(const csn_session *s, int stream) {
  return stream == OUT && !s->is_plain && csn_dialect_of(dialect_of(s))->line != NULL;
}

/* Text of a shell is passed on as it comes; text of an agent line by line. */
static bool is_live_text(const csn_session *s) {
  return csn_dialect_of(dialect_of(s))->line == NULL;
}

static void next_line(csn_session *s) {
  csn_json_reset(&s->line);
  s->head_len = 0;
  s->last_byte = 0;
}

void csn_streams_reset(csn_session *s) {
  csn_json_init(&s->line, csn_dialect_of((csn_agent)s->agent)->table);
  s->head_len = 0;
  s->last_byte = 0;
  for (int i = 0; i < 2; i++) {
    s->fed[i] = s->cursor[i];
    s->text[i].len = 0;
  }
}

/* The line before s->fed[OUT] is complete, or the stream has ended after it. */
static void end_line(csn_session *s, csn_emit *e, csn_json_verdict verdict, csn_span head, bool ended) {
  csn_watching watching = csn_session_watching(s);
  csn_line line = {&s->line, verdict, ended, head, &s->prices, &watching};
  e->line_off = s->cursor[OUT];
  e->line_len = (uint32_t)(s->fed[OUT] - s->cursor[OUT]);
  e->line_flags = CSN_LINE_FIRST;
  if (s->last_byte == '\r') { /* CR LF ends a line like LF */
    if (s->line.cr_count > 0) s->line.cr_count--;
    e->line_len--;
  }
  csn_agent_line(dialect_of(s), e, &line, &s->result, &s->memory);
  csn_usage_max(&s->result.live, &s->result.usage);
  next_line(s);
}

/* Keeps the first bytes of a line that goes on behind the chunk. */
static void keep_head(csn_session *s, csn_span piece) {
  uint32_t n = CSN_RAW_TEXT_CAP - s->head_len;
  if (n > piece.len) n = piece.len;
  if (n > 0) memcpy(s->head + s->head_len, piece.ptr, n);
  s->head_len += n;
}

static uint32_t feed_events(csn_session *s, csn_span in, csn_fx *fx) {
  uint32_t used = 0;
  csn_emit e = csn_session_emitter(s, fx, s->run);
  bool limited = csn_budget_limited(&s->budget);
  while (used < in.len) {
    bool ended;
    const uint8_t *p = in.ptr + used;
    uint32_t n = csn_json_push_line(&s->line, csn_span_of(p, in.len - used), &ended);
    if (n > 0) s->last_byte = p[n - 1];
    s->fed[OUT] += n;
    used += n;
    if (!ended || csn_fx_room(fx) < csn_agent_need(&s->line, &s->result) + CSN_LINE_TAIL_FX) {
      keep_head(s, csn_span_of(p, n));
      csn_json_keep(&s->line);
      break;
    }
    csn_json_verdict verdict = csn_json_end(&s->line);
    csn_span head = csn_span_of(p, n < CSN_RAW_TEXT_CAP ? n : CSN_RAW_TEXT_CAP);
    if (s->head_len > 0) {
      keep_head(s, csn_span_of(p, n));
      head = csn_span_of(s->head, s->head_len);
    }
    /* A newline inside a value ends the line all the same: JSONL has none. */
    if (verdict == CSN_JSON_PARTIAL) verdict = CSN_JSON_INVALID;
    end_line(s, &e, verdict, head, true);
    s->fed[OUT] += 1;
    s->cursor[OUT] = s->fed[OUT];
    used += 1;
    if (s->watch.count > 0) csn_session_violations(s, fx, false);
    if (limited) csn_session_count(s, fx, true); /* else once, by csn_session_feed */
  }
  return used;
}

static void emit_text(csn_session *s, csn_emit *e, int stream, uint32_t len) {
  csn_text_stream *t = &s->text[stream];
  if (len == 0) return;
  e->line_off = s->cursor[stream];
  e->line_len = t->bytes[len - 1] == '\n' ? len - 1 : len;
  e->line_flags = stream == ERR ? CSN_LINE_STDERR : 0;
  uint32_t at = csn_event_open(e, stream == ERR ? CSN_T_OUTPUT_STDERR : CSN_T_OUTPUT_STDOUT);
  csn_put_field_raw(e->fx, "text", csn_span_of(t->bytes, len));
  csn_event_close(e, at);
  if (stream == OUT && s->is_plain) csn_agent_plain(&s->result, csn_span_of(t->bytes, len));
  if (stream == ERR) {
    if (!s->err_mid_line)
      csn_agent_err_line(dialect_of(s), e, csn_span_of(t->bytes, e->line_len), &s->result, &s->memory);
    s->err_mid_line = t->bytes[len - 1] != '\n';
  }
  s->cursor[stream] += len;
  t->len -= len;
  memmove(t->bytes, t->bytes + len, t->len);
}

static uint32_t feed_text(csn_session *s, int stream, csn_span in, csn_fx *fx) {
  csn_text_stream *t = &s->text[stream];
  csn_emit e = csn_session_emitter(s, fx, s->run);
  uint32_t used = 0;
  while (used < in.len) {
    const uint8_t *p = in.ptr + used;
    uint32_t rest = in.len - used, n = 0;
    if (rest > CSN_TEXT_CHUNK - t->len) rest = CSN_TEXT_CHUNK - t->len;
    while (n < rest && p[n] != '\n')
      n++;
    bool newline = n < rest;
    if (newline) n++;
    bool full = t->len + n == CSN_TEXT_CHUNK;
    bool last = n == in.len - used;
    bool emits = newline || full || (last && is_live_text(s));
    if (emits && csn_fx_room(fx) < CSN_TEXT_FX_MAX + CSN_CURSOR_FX + CSN_BUDGET_FX) break;
    memcpy(t->bytes + t->len, p, n);
    t->len += n;
    s->fed[stream] += n;
    used += n;
    if (newline)
      emit_text(s, &e, stream, t->len);
    else if (emits)
      emit_text(s, &e, stream, csn_utf8_whole(csn_span_of(t->bytes, t->len)));
  }
  return used;
}

void csn_streams_flush(csn_session *s, csn_emit *e) {
  if (is_events(s, OUT)) {
    if (s->fed[OUT] > s->cursor[OUT]) {
      csn_json_verdict verdict = csn_json_end(&s->line);
      end_line(s, e, verdict, csn_span_of(s->head, s->head_len), false);
      s->cursor[OUT] = s->fed[OUT];
    }
  } else {
    emit_text(s, e, OUT, s->text[OUT].len);
  }
  emit_text(s, e, ERR, s->text[ERR].len);
  e->line_off = 0;
  e->line_len = 0;
  e->line_flags = 0;
  csn_agent_end(dialect_of(s), e, &s->result, &s->memory);
}

int64_t csn_session_feed(csn_session *s, uint32_t stream, uint32_t id, uint64_t time_ms, csn_span in,
                         csn_fx *fx) {
  if (in.len > CSN_FEED_MAX) return CSN_ERR_BAD_RECORD;
  if (csn_fx_room(fx) < CSN_FEED_FX_MIN) return CSN_ERR_AGAIN;
  csn_target to = csn_session_target((csn_state)s->state, CSN_EV_OUTPUT);
  if (stream == CSN_STREAM_DIGEST) {
    if (to == CSN_TO_OVER) return CSN_ERR_SESSION_OVER;
    if (!s->digest_open || s->digest_id != id) return CSN_ERR_BAD_STATE;
    br_sha256_update(&s->digest, in.ptr, in.len);
    return in.len;
  }
  if (stream != CSN_STREAM_STDOUT && stream != CSN_STREAM_STDERR) return CSN_ERR_BAD_RECORD;
  if (to == CSN_TO_ILLEGAL) return CSN_ERR_BAD_STATE;
  if (to == CSN_TO_OVER) return CSN_ERR_SESSION_OVER;
  if (id == 0 || id > s->run_count) return CSN_ERR_NO_RUN;
  if (id != s->run || to == CSN_TO_LATE) {
    for (uint32_t i = 0; i < s->queue_len; i++)
      if (s->queue[i] == id) return CSN_ERR_BAD_STATE;
    if (id == s->run && s->state == CSN_ST_LOADING) return CSN_ERR_BAD_STATE;
    if (s->late_count < UINT32_MAX) s->late_count++;
    return in.len;
  }
  if (time_ms > s->now_ms) s->now_ms = time_ms;
  /* A limit on output is found at the very byte, so that what it does never depends on chunking. */
  uint64_t room = csn_budget_room(&s->budget, CSN_LIMIT_OUTPUT_BYTES, csn_add_sat(s->fed[0], s->fed[1]));
  if (room < in.len) in.len = (uint32_t)room;
  int at = stream == CSN_STREAM_STDERR ? ERR : OUT;
  uint32_t used = is_events(s, at) ? feed_events(s, in, fx) : feed_text(s, at, in, fx);
  csn_session_count(s, fx, true);
  csn_session_tell_budget(s, fx);
  if (csn_watch_due(&s->watch) != 0) csn_session_wake(s, fx);
  csn_fx_emit_cursor(fx, stream, id, s->cursor[at]);
  return used;
}
