#include "csn/dialect.h"

static bool same_id(const csn_conversation *c, csn_span id) {
  return c->id_len == id.len && csn_same(c->id, id.ptr, id.len);
}

void csn_run_id(csn_agent_run *run, csn_span id) {
  if (id.len == 0 || id.len > CSN_ID_CAP) return;
  run->id_len = (uint8_t)id.len;
  memcpy(run->agent_session_id, id.ptr, id.len);
}

bool csn_is_conversation_id(csn_span id) {
  if (id.len == 0 || id.len > CSN_ID_CAP) return false;
  for (uint32_t i = 0; i < id.len; i++) {
    uint32_t c = id.ptr[i];
    bool name = (c | 0x20u) - 'a' < 26 || c - '0' < 10 || c == '_';
    /* What comes from the sandbox must not become an option of the next run's command line. */
    if (!name && (i == 0 || (c != '-' && c != '.' && c != ':'))) return false;
  }
  return true;
}

static uint32_t place_of(const csn_agent_memory *memory, csn_span id) {
  uint32_t i = 0;
  while (i < CSN_CONVERSATION_MAX && !same_id(&memory->at[i], id))
    i++;
  return i;
}

CSN_RARE bool csn_memory_has(const csn_agent_memory *memory, csn_span id) {
  return id.len > 0 && place_of(memory, id) < CSN_CONVERSATION_MAX;
}

/* The entry comes first, a new one with `total`. */
CSN_RARE static void bring_up(csn_agent_memory *memory, csn_span id, csn_usage total) {
  csn_conversation *at = memory->at, entry = {.total = total};
  uint32_t i = place_of(memory, id);
  if (i < CSN_CONVERSATION_MAX) {
    entry = at[i];
  } else {
    i = CSN_CONVERSATION_MAX - 1;
    entry.id_len = (uint8_t)id.len;
    memcpy(entry.id, id.ptr, id.len);
  }
  memmove(at + 1, at, i * sizeof at[0]);
  at[0] = entry;
}

CSN_RARE void csn_memory_use(csn_agent_memory *memory, csn_span id) {
  bring_up(memory, id, (csn_usage){0});
}

CSN_RARE void csn_run_conversation(csn_view *v, csn_span id) {
  static const csn_usage none;
  csn_agent_run *run = v->run;
  if (id.len == 0 || id.len > CSN_ID_CAP || (run->id_len > 0 && same_id(&v->memory->at[0], id))) return;
  csn_run_id(run, id);
  /* A copy counts on from where the original stood. */
  bring_up(v->memory, id, run->is_fork ? v->memory->at[0].total : none);
  run->is_fork = 0;
}

CSN_RARE csn_conversation *csn_run_entry(csn_view *v) {
  csn_conversation *first = &v->memory->at[0];
  csn_span id = csn_span_of(v->run->agent_session_id, v->run->id_len);
  return id.len > 0 && same_id(first, id) ? first : NULL;
}

static uint64_t since(uint64_t now, uint64_t before) {
  return now >= before ? now - before : now;
}

csn_usage csn_usage_since(const csn_usage *now, const csn_usage *before) {
  return (csn_usage){
      .input_tokens = since(now->input_tokens, before->input_tokens),
      .output_tokens = since(now->output_tokens, before->output_tokens),
      .cache_read_tokens = since(now->cache_read_tokens, before->cache_read_tokens),
      .cache_write_tokens = since(now->cache_write_tokens, before->cache_write_tokens),
      .cost_nano = since(now->cost_nano, before->cost_nano),
  };
}

void csn_run_usage(csn_view *v, const csn_usage *delta) {
  csn_fx *fx = v->e->fx;
  csn_usage_add(&v->run->usage, delta);
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_USAGE);
  csn_put_field_u64(fx, "input_tokens", delta->input_tokens);
  csn_put_field_u64(fx, "output_tokens", delta->output_tokens);
  csn_put_field_u64(fx, "cache_read_tokens", delta->cache_read_tokens);
  csn_put_field_u64(fx, "cache_write_tokens", delta->cache_write_tokens);
  csn_put_cost(fx, "cost_usd", delta);
  csn_put_field_u64(fx, "turns", delta->turns);
  csn_event_close(v->e, at);
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

void csn_run_answered(csn_agent_run *run) {
  if (run->has_result && run->is_error) return;
  run->kind.len = 0;
  csn_run_error(run, &(csn_words){0}, 0);
}

CSN_RARE bool csn_run_turn(csn_view *v, const csn_turn *turn) {
  csn_agent_run *run = v->run;
  csn_emit *e = v->e;
  if (turn->parent.text.len == 0) csn_run_answered(run);
  if (turn->id.text.len > 0 && !seen_add(&run->seen, turn->id.text)) return false;
  csn_words known = {csn_span_of(run->model, run->model_len), run->model_len};
  const csn_words *model = turn->model.text.len > 0 ? &turn->model : &known;
  csn_usage used = turn->usage;
  csn_price_usage(v->prices, model->text, true, &used);
  used.cost_unknown = 0; /* the agent may still report it */
  used.turns = turn->parent.text.len == 0 ? 1 : 0;
  csn_usage_add(&run->live, &used);
  run->busy = 1;
  if (turn->parent.text.len == 0) run->more = 0;
  uint32_t at = csn_event_open(e, CSN_T_AGENT_TURN);
  if (turn->parent.text.len == 0) csn_put_field_u64(e->fx, "turn", run->live.turns);
  if (turn->id.text.len > 0) csn_put_words(e->fx, "message_id", &turn->id);
  if (model->text.len > 0) csn_put_words(e->fx, "model", model);
  csn_put_field_u64(e->fx, "input_tokens", used.input_tokens);
  csn_put_field_u64(e->fx, "output_tokens", used.output_tokens);
  csn_put_field_u64(e->fx, "cache_read_tokens", used.cache_read_tokens);
  csn_put_field_u64(e->fx, "cache_write_tokens", used.cache_write_tokens);
  if (turn->parent.text.len > 0) csn_put_words(e->fx, "parent_tool_use_id", &turn->parent);
  csn_event_close(e, at);
  return true;
}

void csn_run_more(csn_agent_run *run) {
  run->more = 1;
}

void csn_run_said(csn_view *v) {
  static const csn_turn turn;
  csn_run_answered(v->run);
  if (v->run->more || !v->run->busy) csn_run_turn(v, &turn);
}

void csn_agent_set_model(csn_agent_run *run, csn_span model) {
  if (model.len == 0 || model.len > sizeof run->model) return;
  run->model_len = (uint8_t)model.len;
  memcpy(run->model, model.ptr, model.len);
}

void csn_run_no_text(csn_agent_run *run) {
  run->result_len = run->result_true_len = run->result_cut = 0;
}

void csn_run_text(csn_view *v, uint32_t node, bool append) {
  csn_agent_run *run = v->run;
  const csn_json_item *item = csn_view_get(v, node, 0);
  csn_span text = csn_view_text(v, node, 0);
  uint32_t true_len = item->kind == CSN_JK_STRING ? item->true_len : 0;
  if (!append) csn_run_no_text(run);
  /* Behind a cut nothing can follow. */
  uint32_t len = run->result_cut ? 0 : csn_json_cut(text, CSN_FIELD_MAX - run->result_len);
  if (len > 0) memcpy(run->result + run->result_len, text.ptr, len);
  run->result_len += len;
  if (len < true_len) run->result_cut = 1;
  run->result_true_len =
      true_len <= UINT32_MAX - run->result_true_len ? run->result_true_len + true_len : UINT32_MAX;
}

void csn_run_result(csn_agent_run *run, bool is_error, csn_span reason) {
  run->has_result = 1;
  run->more = run->busy = 0;
  run->is_error = is_error;
  if (!is_error) csn_run_answered(run);
  csn_text64_set(&run->reason, reason);
}

void csn_run_message(csn_agent_run *run, const csn_words *words) {
  run->message_len = (uint16_t)csn_json_cut(words->text, CSN_MESSAGE_CAP);
  if (run->message_len > 0) memcpy(run->message, words->text.ptr, run->message_len);
  run->message_true_len = words->true_len;
}

void csn_run_error(csn_agent_run *run, const csn_words *message, uint64_t status) {
  csn_run_message(run, message);
  run->error_status = status <= UINT16_MAX ? (uint16_t)status : 0;
}

CSN_RARE void csn_put_result_event(csn_view *v) {
  const csn_agent_run *run = v->run;
  csn_fx *fx = v->e->fx;
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_RESULT);
  csn_put_field_null(fx, "subtype");
  csn_put_field_bool(fx, "is_error", run->is_error);
  csn_put_field_text(fx, "terminal_reason", csn_text64_span(&run->reason));
  csn_words text = {csn_span_of(run->result, run->result_len), run->result_true_len};
  if (run->is_error) text = (csn_words){csn_span_of(run->message, run->message_len), run->message_true_len};
  csn_put_words(fx, "text", &text);
  csn_put_field_null(fx, "num_turns");
  csn_put_field_null(fx, "duration_ms");
  if (run->error_status > 0)
    csn_put_field_u64(fx, "api_error_status", run->error_status);
  else
    csn_put_field_null(fx, "api_error_status");
  csn_put_field_null(fx, "stop_reason");
  csn_put_field_null(fx, "total_cost_usd");
  csn_event_close(v->e, at);
}

CSN_RARE void csn_put_error_event(csn_view *v, const csn_words *kind, const csn_words *message,
                                  uint64_t status) {
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_ERROR);
  if (kind->text.len > 0) csn_put_words(v->e->fx, "kind", kind);
  csn_put_words(v->e->fx, "message", message);
  if (status > 0) csn_put_field_u64(v->e->fx, "status", status);
  csn_event_close(v->e, at);
}

/* Length of a plain text when it is escaped. */
CSN_RARE __attribute__((noinline)) static uint32_t escaped_len(csn_span raw) {
  uint8_t room[64 * 6];
  uint32_t len = 0;
  while (raw.len > 0) {
    /* cppcheck-suppress legacyUninitvar ; it is written to, and only its length is read */
    csn_fx piece = {room, sizeof room, 0};
    uint32_t n = raw.len <= 64 ? raw.len : csn_utf8_whole(csn_span_of(raw.ptr, 64));
    csn_put_escaped(&piece, csn_span_of(raw.ptr, n));
    len += piece.len;
    raw = csn_span_of(raw.ptr + n, raw.len - n);
  }
  return len;
}

CSN_RARE void csn_agent_plain(csn_agent_run *run, csn_span raw) {
  uint32_t room = CSN_FIELD_MAX - run->result_len;
  uint32_t fits = raw.len <= room / 6u ? raw.len : csn_utf8_whole(csn_span_of(raw.ptr, room / 6u));
  if (run->result_cut) fits = 0; /* behind a cut nothing can follow */
  csn_fx text = {run->result, CSN_FIELD_MAX, run->result_len};
  csn_put_escaped(&text, csn_span_of(raw.ptr, fits)); /* at most six times as long */
  uint32_t len = text.len - run->result_len + escaped_len(csn_span_of(raw.ptr + fits, raw.len - fits));
  run->result_len = text.len;
  if (fits < raw.len) run->result_cut = 1;
  run->result_true_len = len <= UINT32_MAX - run->result_true_len ? run->result_true_len + len : UINT32_MAX;
}

/* Length of the ANSI control sequence at the start of `text`, 0 when there is none. */
CSN_RARE static uint32_t ansi_len(csn_span text) {
  if (text.len < 2 || text.ptr[0] != 0x1b || text.ptr[1] != '[') return 0;
  for (uint32_t i = 2; i < text.len; i++)
    if (text.ptr[i] >= 0x40 && text.ptr[i] <= 0x7e) return i + 1;
  return text.len;
}

/* Escapes the first `cap` bytes of a plain text, ANSI sequences left out. Returns how long all of it would
 * be. */
CSN_RARE __attribute__((noinline)) static uint32_t put_plain(csn_fx *fx, csn_span raw, uint32_t cap) {
  uint32_t len = 0, keep = raw.len <= cap ? raw.len : csn_utf8_whole(csn_span_of(raw.ptr, cap));
  while (raw.len > 0) {
    uint32_t skip = ansi_len(raw), n = 0;
    raw = csn_span_of(raw.ptr + skip, raw.len - skip);
    keep -= skip < keep ? skip : keep;
    while (n < raw.len && ansi_len(csn_span_of(raw.ptr + n, raw.len - n)) == 0)
      n++;
    uint32_t kept = n < keep ? n : keep, from = fx->len;
    csn_put_escaped(fx, csn_span_of(raw.ptr, kept));
    len += fx->len - from + escaped_len(csn_span_of(raw.ptr + kept, n - kept));
    keep -= kept;
    raw = csn_span_of(raw.ptr + n, raw.len - n);
  }
  return len;
}

CSN_RARE void csn_put_plain(csn_fx *fx, const char *key, csn_span raw) {
  csn_put_str(fx, ",\"");
  csn_put_str(fx, key);
  csn_put_str(fx, "\":\"");
  uint32_t from = fx->len, len = put_plain(fx, raw, CSN_MESSAGE_CAP);
  csn_put_str(fx, "\"");
  if (len >= fx->len - from) csn_put_key_len(fx, key, csn_str_len(key), len);
}

CSN_RARE void csn_put_refusal(csn_view *v, const char *reason, csn_span raw_line) {
  csn_agent_run *run = v->run;
  uint32_t at = csn_event_open(v->e, CSN_T_AGENT_ERROR);
  csn_put_field_raw(v->e->fx, "kind", csn_span_str(reason));
  csn_put_plain(v->e->fx, "message", raw_line);
  csn_event_close(v->e, at);
  csn_text64_set(&run->refusal, csn_span_str(reason));
  if (run->has_result) return;
  csn_fx words = {run->message, CSN_MESSAGE_CAP, 0};
  /* escapes make it at most six times as long */
  run->message_true_len = put_plain(&words, raw_line, CSN_MESSAGE_CAP / 6);
  run->message_len = (uint16_t)words.len;
}
