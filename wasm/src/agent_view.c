#include "csn/dialect.h"

const csn_json_item *csn_view_get(const csn_view *v, uint32_t node, uint32_t index) {
  return csn_json_get(v->j, node, index);
}

csn_span csn_view_text(const csn_view *v, uint32_t node, uint32_t index) {
  const csn_json_item *item = csn_view_get(v, node, index);
  return item->kind == CSN_JK_STRING ? csn_json_text(v->j, item) : csn_span_of(NULL, 0);
}

static csn_words words_of(const csn_view *v, const csn_json_item *item) {
  bool string = item->kind == CSN_JK_STRING;
  return (csn_words){string ? csn_json_text(v->j, item) : csn_span_of(NULL, 0), string ? item->true_len : 0};
}

csn_words csn_view_words(const csn_view *v, uint32_t node, uint32_t index) {
  return words_of(v, csn_view_get(v, node, index));
}

bool csn_view_same(const csn_view *v, uint32_t node, uint32_t index, const char *text, uint32_t len) {
  const csn_json_item *item = csn_view_get(v, node, index);
  return item->kind == CSN_JK_STRING && item->len == len &&
         csn_same(csn_json_text(v->j, item).ptr, (const uint8_t *)text, len);
}

csn_span csn_view_id(const csn_view *v, uint32_t node) {
  csn_span id = csn_view_text(v, node, 0);
  bool whole = !csn_view_get(v, node, 0)->cut && csn_is_conversation_id(id);
  return whole ? id : csn_span_of(NULL, 0);
}

bool csn_view_u64(const csn_view *v, uint32_t node, uint32_t index, uint64_t *out) {
  const csn_json_item *item = csn_view_get(v, node, index);
  return item->kind == CSN_JK_NUMBER && !item->cut && csn_json_u64(csn_json_text(v->j, item), out);
}

uint64_t csn_view_count(const csn_view *v, uint32_t node) {
  uint64_t n;
  return csn_view_u64(v, node, 0, &n) ? n : 0;
}

void csn_put_raw_event(csn_view *v, const char *reason, csn_span a, csn_span b) {
  csn_fx *fx = v->e->fx;
  uint32_t at = csn_event_open(v->e, CSN_T_RAW);
  csn_put_field_text(fx, "reason", csn_span_str(reason)); /* nothing in it to escape */
  if (a.len > 0) {
    csn_put_str(fx, ",\"agent_type\":\"");
    csn_fx_put(fx, a.ptr, a.len);
    if (b.len > 0) csn_put_str(fx, "/");
    csn_fx_put(fx, b.ptr, b.len);
    csn_put_str(fx, "\"");
  }
  csn_event_close(v->e, at);
}

CSN_RARE void csn_put_key_len(csn_fx *fx, const char *key, uint32_t key_len, uint64_t len) {
  csn_put_str(fx, ",\"");
  csn_fx_put(fx, key, key_len);
  csn_put_str(fx, "_len\":");
  csn_put_u64(fx, len);
}

CSN_RARE void csn_put_key_words(csn_fx *fx, const char *key, uint32_t key_len, const csn_words *words) {
  csn_put_key_text(fx, key, key_len, words->text.ptr, words->text.len);
  if (words->true_len > words->text.len) csn_put_key_len(fx, key, key_len, words->true_len);
}

void csn_put_key_string(csn_view *v, const char *key, uint32_t key_len, uint32_t node, uint32_t index) {
  const csn_json_item *item = csn_view_get(v, node, index);
  if (item->kind == CSN_JK_STRING) csn_put_key_long(v, key, key_len, item);
}

void csn_put_key_long(csn_view *v, const char *key, uint32_t key_len, const csn_json_item *item) {
  bool string = item->kind == CSN_JK_STRING;
  csn_put_key_text(v->e->fx, key, key_len, csn_json_text(v->j, item).ptr, string ? item->len : 0);
  if (string && item->cut) csn_put_key_len(v->e->fx, key, key_len, item->true_len);
}

void csn_put_key_scalar(csn_view *v, const char *key, uint32_t key_len, uint32_t node, uint32_t index) {
  const csn_json_item *item = csn_view_get(v, node, index);
  bool fits =
      (item->kind == CSN_JK_NUMBER || item->kind == CSN_JK_TRUE || item->kind == CSN_JK_FALSE) && !item->cut;
  csn_span text = fits ? csn_json_text(v->j, item) : csn_span_of("null", 4);
  csn_put_key_json(v->e->fx, key, key_len, text.ptr, text.len);
}

void csn_put_text_or_null(csn_view *v, const char *key, uint32_t node) {
  if (csn_view_get(v, node, 0)->kind == CSN_JK_STRING)
    csn_put_text(v, key, node, 0);
  else
    csn_put_field_null(v->e->fx, key);
}

void csn_put_json(csn_view *v, const char *key, const char *head_key, const char *len_key,
                  const csn_json_item *item) {
  if (item->kind == CSN_JK_NONE) return;
  csn_span json = csn_json_text(v->j, item);
  if (!item->cut) {
    csn_put_field_json(v->e->fx, key, json);
    return;
  }
  if (head_key != NULL) csn_put_field_raw(v->e->fx, head_key, json);
  csn_put_field_u64(v->e->fx, len_key, item->true_len);
}

void csn_put_joined(csn_view *v, uint32_t node, uint32_t index) {
  csn_fx *fx = v->e->fx;
  uint64_t true_len = 0;
  bool cut = false, first = true;
  csn_put_str(fx, ",\"text\":\"");
  for (uint32_t i = 0; i < v->j->item_count; i++) {
    const csn_json_item *item = &v->j->items[i];
    if (item->field != node || item->index != index || item->kind != CSN_JK_STRING) continue;
    if (!first) {
      csn_put_str(fx, "\\n");
      true_len += 2;
    }
    first = false;
    csn_fx_put(fx, csn_json_text(v->j, item).ptr, item->len);
    true_len += item->true_len;
    if (item->cut) cut = true;
  }
  csn_put_str(fx, "\"");
  if (cut) csn_put_field_u64(fx, "text_len", true_len);
}

void csn_text64_set(csn_text64 *t, csn_span escaped) {
  t->len = (uint8_t)csn_json_cut(escaped, sizeof t->bytes);
  if (t->len > 0) memcpy(t->bytes, escaped.ptr, t->len);
}

csn_span csn_text64_span(const csn_text64 *t) {
  return csn_span_of(t->bytes, t->len);
}

/* --- texts --- */

/* Where `part`, which is not empty, begins in the text; its length when it is not there. */
static uint32_t find(csn_span text, const char *part) {
  uint32_t len = csn_str_len(part);
  if (len > text.len) return text.len;
  uint8_t first = (uint8_t)part[0];
  for (uint32_t i = 0; i <= text.len - len; i++)
    if (text.ptr[i] == first && csn_same(text.ptr + i, (const uint8_t *)part, len)) return i;
  return text.len;
}

bool csn_span_has(csn_span text, const char *part) {
  return find(text, part) < text.len;
}

csn_span csn_span_after(csn_span text, const char *part) {
  uint32_t at = find(text, part);
  if (at == text.len) return text;
  at += csn_str_len(part);
  return csn_span_of(text.ptr + at, text.len - at);
}

bool csn_span_starts(csn_span text, const char *start) {
  uint32_t len = csn_str_len(start);
  return len <= text.len && csn_same(text.ptr, (const uint8_t *)start, len);
}

bool csn_number_after(csn_span text, const char *before, uint64_t *out) {
  uint32_t at = find(text, before);
  if (at == text.len) return false;
  uint32_t from = at + csn_str_len(before), to = from;
  while (to < text.len && text.ptr[to] >= '0' && text.ptr[to] <= '9')
    to++;
  return to > from && csn_json_u64(csn_span_of(text.ptr + from, to - from), out);
}

const char *csn_kind_of_status(uint64_t status) {
  if (status == 401 || status == 403) return "authentication_failed";
  if (status == 402) return "billing_error";
  if (status == 404) return "model_not_found";
  if (status == 429) return "rate_limit";
  if (status >= 500 && status <= 599) return "server_error";
  return status >= 400 && status <= 499 ? "invalid_request" : NULL;
}
