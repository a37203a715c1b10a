#include "csn/watch.h"

#include "csn/doc.h"

#include "cJSON.h"

/* --- rules --- */

bool csn_tools_any(const csn_tool_store *s) {
  return s->listed || s->count > 0;
}

csn_tool_table csn_tools_table(const csn_tool_store *s) {
  return (csn_tool_table){s->rules, s->text, s->count, s->text_len, s->listed != 0};
}

static csn_text_ref keep(csn_tool_store *s, csn_span text) {
  csn_text_ref ref = {(uint16_t)s->text_len, (uint16_t)text.len};
  if (text.len > 0) memcpy(s->text + s->text_len, text.ptr, text.len);
  s->text_len += text.len;
  return ref;
}

/* Control characters are refused: the rules go into configuration files of the agents, where a line break
 * would begin another setting. */
static csn_err add_rule(csn_tool_store *s, csn_span rule, csn_action action, uint32_t index) {
  csn_span tool, spec;
  csn_err err = csn_tool_split(rule, &tool, &spec);
  if (err != CSN_ERR_OK) return err;
  for (uint32_t i = 0; i < rule.len; i++)
    if (rule.ptr[i] < 0x20 || rule.ptr[i] == 0x7f) return CSN_ERR_BAD_VALUE;
  if (tool.len > CSN_WATCH_NAME_CAP || s->count == CSN_TOOL_RULES_COUNT_MAX ||
      tool.len + spec.len > sizeof s->text - s->text_len)
    return CSN_ERR_TOO_LONG;
  csn_tool_rule *r = &s->rules[s->count++];
  *r = (csn_tool_rule){.rule = (uint16_t)index, .action = (uint8_t)action};
  r->tool = keep(s, tool);
  r->spec = keep(s, spec);
  return CSN_ERR_OK;
}

static csn_err read_list(const cJSON *list, csn_tool_store *s, csn_action action, csn_pointer *bad) {
  if (!cJSON_IsArray(list)) return CSN_ERR_BAD_TYPE;
  uint32_t base = bad->len, index = 0;
  for (const cJSON *item = list->child; item != NULL; item = item->next, index++) {
    csn_span rule;
    bad->len = base;
    csn_pointer_push_index(bad, index);
    csn_err err = csn_doc_text(item, 1, CSN_POLICY_PATTERN_MAX, &rule);
    if (err == CSN_ERR_OK) err = add_rule(s, rule, action, index);
    if (err != CSN_ERR_OK) return err;
  }
  bad->len = base;
  return CSN_ERR_OK;
}

static csn_err read_lists(const cJSON *item, csn_tool_store *s, csn_pointer *bad) {
  static const struct {
    const char *key;
    csn_action action;
  } lists[] = {{"allow", CSN_ALLOW}, {"deny", CSN_DENY}, {"ask", CSN_ASK}};
  if (!cJSON_IsObject(item)) return CSN_ERR_BAD_TYPE;
  uint32_t base = bad->len;
  for (const cJSON *m = item->child; m != NULL; m = m->next) {
    uint32_t i = 0;
    bad->len = base;
    csn_pointer_push(bad, m->string);
    if (csn_doc_seen_before(item, m)) return CSN_ERR_BAD_VALUE;
    while (i < 3 && !csn_span_is(csn_span_str(m->string), lists[i].key))
      i++;
    if (i == 3) return CSN_ERR_UNKNOWN_FIELD;
    csn_err err = read_list(m, s, lists[i].action, bad);
    if (err != CSN_ERR_OK) return err;
    if (lists[i].action == CSN_ALLOW) s->listed = 1;
  }
  bad->len = base;
  return CSN_ERR_OK;
}

csn_err csn_tools_read(const cJSON *item, csn_tool_store *s, csn_pointer *bad) {
  memset(s, 0, sizeof *s);
  csn_err err = read_lists(item, s, bad);
  if (err != CSN_ERR_OK) memset(s, 0, sizeof *s);
  return err;
}

/* --- calls --- */

static uint64_t hash_of(csn_span id) {
  uint64_t h = UINT64_C(14695981039346656037); /* FNV-1a */
  for (uint32_t i = 0; i < id.len; i++)
    h = (h ^ id.ptr[i]) * UINT64_C(1099511628211);
  return h;
}

/* Starts the clock of forbidden calls that no call of the same loop before them holds up any more. */
static void start_clocks(csn_watch *w, uint64_t now_ms) {
  for (uint32_t i = 0; i < w->count; i++) {
    csn_watched *c = &w->calls[i];
    bool held_up = false;
    for (uint32_t j = 0; j < i; j++)
      held_up = held_up || w->calls[j].parent == c->parent;
    if (c->forbidden && c->due_ms == 0 && !held_up) c->due_ms = now_ms + CSN_REFUSAL_MS;
  }
}

void csn_watch_drop(csn_watch *w, csn_watched *call) {
  uint32_t at = (uint32_t)(call - w->calls);
  CSN_INVARIANT(at < w->count);
  w->count--;
  memmove(call, call + 1, (w->count - at) * sizeof *call);
}

/* Room for one more; NULL when only forbidden calls are open, of which the oldest has then been made. */
static csn_watched *take(csn_watch *w) {
  if (w->count < CSN_WATCH_MAX) return &w->calls[w->count++];
  for (uint32_t i = 0; i < w->count; i++) {
    if (w->calls[i].forbidden) continue;
    csn_watch_drop(w, &w->calls[i]);
    return &w->calls[w->count++];
  }
  w->calls[0].made = 1;
  return NULL;
}

static void append(csn_watched *c, csn_span text, uint32_t max) {
  bool cut = text.len > max;
  uint32_t n = cut ? csn_utf8_whole(csn_span_of(text.ptr, max)) : text.len;
  csn_span parts[2] = {csn_span_of(text.ptr, n), csn_span_str(cut ? "..." : "")};
  for (uint32_t i = 0; i < 2; i++) {
    CSN_INVARIANT(parts[i].len <= CSN_WATCH_WHAT_CAP - c->what_len);
    if (parts[i].len > 0) memcpy(c->what + c->what_len, parts[i].ptr, parts[i].len);
    c->what_len = (uint8_t)(c->what_len + parts[i].len);
  }
}

/* Tool(argument), cut; what is not UTF-8 is escaped when it is told. */
static void describe(csn_watched *c, const csn_call *call) {
  append(c, call->tool, 64);
  if (call->arg.len == 0) return;
  append(c, csn_span_str("("), 1);
  append(c, call->arg, CSN_WATCH_WHAT_CAP - 64 - 3 - 1 - 3 - 1);
  append(c, csn_span_str(")"), 1);
}

bool csn_watch_call(csn_watch *w, const csn_tool_store *s, const csn_call *call, uint64_t now_ms,
                    csn_arena *scratch) {
  if (!csn_tools_any(s)) return false;
  csn_tool_table table = csn_tools_table(s);
  csn_tool_call question = {call->tool, call->arg, csn_span_str(CSN_TOOLS_CWD), csn_span_str(CSN_TOOLS_HOME),
                            call->cut};
  /* Nobody is there to be asked: what wants an approval is denied. */
  csn_verdict v = csn_tools_check(&table, &question, scratch);
  if (v.action == CSN_ALLOW && call->more) return false;
  csn_watched *c = take(w);
  if (c == NULL) return true;
  memset(c, 0, sizeof *c);
  c->id = hash_of(call->id);
  c->parent = hash_of(call->parent);
  c->forbidden = v.action != CSN_ALLOW;
  if (c->forbidden) {
    c->verdict = v;
    c->id_len = (uint8_t)csn_json_cut(call->id, CSN_WATCH_ID_CAP);
    if (c->id_len > 0) memcpy(c->text, call->id.ptr, c->id_len);
    describe(c, call);
  }
  start_clocks(w, now_ms);
  return c->forbidden;
}

static csn_watched *find(csn_watch *w, csn_span id) {
  if (w->count == 0) return NULL;
  uint64_t hash = hash_of(id);
  for (uint32_t i = 0; i < w->count; i++)
    if (w->calls[i].id == hash && !w->calls[i].made) return &w->calls[i];
  return NULL;
}

void csn_watch_refused(csn_watch *w, csn_span id, uint64_t now_ms) {
  csn_watched *c = find(w, id);
  if (c == NULL) return;
  csn_watch_drop(w, c);
  start_clocks(w, now_ms);
}

void csn_watch_result(csn_watch *w, csn_span id, uint64_t now_ms) {
  csn_watched *c = find(w, id);
  if (c == NULL) return;
  if (c->forbidden) {
    c->made = 1;
    return;
  }
  csn_watch_drop(w, c);
  start_clocks(w, now_ms);
}

void csn_watch_time(csn_watch *w, uint64_t now_ms) {
  for (uint32_t i = 0; i < w->count; i++) {
    csn_watched *c = &w->calls[i];
    if (c->due_ms == 0 || now_ms < c->due_ms) continue;
    if (now_ms - c->due_ms > CSN_REFUSAL_MS)
      c->due_ms = now_ms + CSN_REFUSAL_MS;
    else
      c->made = 1;
  }
}

void csn_watch_end(csn_watch *w) {
  for (uint32_t i = 0; i < w->count; i++)
    w->calls[i].made = w->calls[i].forbidden;
}

uint64_t csn_watch_due(const csn_watch *w) {
  uint64_t due = 0;
  for (uint32_t i = 0; i < w->count; i++)
    if (w->calls[i].due_ms != 0 && (due == 0 || w->calls[i].due_ms < due)) due = w->calls[i].due_ms;
  return due;
}

csn_watched *csn_watch_next(csn_watch *w) {
  for (uint32_t i = 0; i < w->count; i++)
    if (w->calls[i].made) return &w->calls[i];
  return NULL;
}

void csn_watch_rules_changed(csn_watch *w) {
  for (uint32_t i = 0; i < w->count; i++)
    w->calls[i].verdict.slot = CSN_POLICY_NO_RULE;
}
