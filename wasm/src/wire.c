#include "csn/wire.h"

/* field, parent, step, key, captured */
#define NODES(X)                                                                                             \
  X(ROOT, ROOT, KEY, "", 0)                                                                                  \
  X(ELEMENT, ROOT, ANY_INDEX, "", 0) /* Gemini without alt=sse: an array of answers */                       \
  X(MODEL, ROOT, KEY, "model", 1)                                                                            \
  X(MODEL_VERSION, ROOT, KEY, "modelVersion", 1)                                                             \
  X(MESSAGE, ROOT, KEY, "message", 0)                                                                        \
  X(MESSAGE_MODEL, MESSAGE, KEY, "model", 1)                                                                 \
  X(MESSAGE_USAGE, MESSAGE, KEY, "usage", 0)                                                                 \
  X(M_IN, MESSAGE_USAGE, KEY, "input_tokens", 1)                                                             \
  X(M_OUT, MESSAGE_USAGE, KEY, "output_tokens", 1)                                                           \
  X(M_READ, MESSAGE_USAGE, KEY, "cache_read_input_tokens", 1)                                                \
  X(M_WRITE, MESSAGE_USAGE, KEY, "cache_creation_input_tokens", 1)                                           \
  X(USAGE, ROOT, KEY, "usage", 0)                                                                            \
  X(U_IN, USAGE, KEY, "input_tokens", 1)                                                                     \
  X(U_OUT, USAGE, KEY, "output_tokens", 1)                                                                   \
  X(U_READ, USAGE, KEY, "cache_read_input_tokens", 1)                                                        \
  X(U_WRITE, USAGE, KEY, "cache_creation_input_tokens", 1)                                                   \
  X(U_DETAILS, USAGE, KEY, "input_tokens_details", 0)                                                        \
  X(U_CACHED, U_DETAILS, KEY, "cached_tokens", 1)                                                            \
  X(C_IN, USAGE, KEY, "prompt_tokens", 1)                                                                    \
  X(C_OUT, USAGE, KEY, "completion_tokens", 1)                                                               \
  X(C_DETAILS, USAGE, KEY, "prompt_tokens_details", 0)                                                       \
  X(C_CACHED, C_DETAILS, KEY, "cached_tokens", 1)                                                            \
  X(RESPONSE, ROOT, KEY, "response", 0)                                                                      \
  X(R_MODEL, RESPONSE, KEY, "model", 1)                                                                      \
  X(R_USAGE, RESPONSE, KEY, "usage", 0)                                                                      \
  X(R_IN, R_USAGE, KEY, "input_tokens", 1)                                                                   \
  X(R_OUT, R_USAGE, KEY, "output_tokens", 1)                                                                 \
  X(R_DETAILS, R_USAGE, KEY, "input_tokens_details", 0)                                                      \
  X(R_CACHED, R_DETAILS, KEY, "cached_tokens", 1)                                                            \
  X(G_USAGE, ROOT, KEY, "usageMetadata", 0)                                                                  \
  X(G_IN, G_USAGE, KEY, "promptTokenCount", 1)                                                               \
  X(G_OUT, G_USAGE, KEY, "candidatesTokenCount", 1)                                                          \
  X(G_THOUGHTS, G_USAGE, KEY, "thoughtsTokenCount", 1)                                                       \
  X(G_CACHED, G_USAGE, KEY, "cachedContentTokenCount", 1)                                                    \
  X(E_VERSION, ELEMENT, KEY, "modelVersion", 1)                                                              \
  X(E_USAGE, ELEMENT, KEY, "usageMetadata", 0)                                                               \
  X(E_IN, E_USAGE, KEY, "promptTokenCount", 1)                                                               \
  X(E_OUT, E_USAGE, KEY, "candidatesTokenCount", 1)                                                          \
  X(E_THOUGHTS, E_USAGE, KEY, "thoughtsTokenCount", 1)                                                       \
  X(E_CACHED, E_USAGE, KEY, "cachedContentTokenCount", 1)

#define ENUM(name, parent, step, key, captured) N_##name,
enum wire_node { NODES(ENUM) N_END };
#undef ENUM
/* A field's number is its node's; a number of tokens has few digits. */
#define ROW(name, parent, step, key, captured)                                                               \
  {N_##parent, CSN_JS_##step, captured ? N_##name : 0, 0, 128, key},
static const csn_json_node nodes[N_END] = {NODES(ROW)};
#undef ROW
_Static_assert(N_END <= CSN_JSON_NODE_MAX, "table too large");

/* States of a line of server-sent events: the field name is matched byte by byte; then data, or nothing of
 * use. */
enum { LINE_START = 0, LINE_DATA = 5, LINE_SKIP = 6 };
static const char data_field[] = "data:";

void csn_wire_init(csn_wire *w, bool streamed) {
  memset(w, 0, offsetof(csn_wire, json));
  w->streamed = streamed;
  csn_json_init(&w->json, (csn_json_table){nodes, N_END});
}

/* The last value of a counter, in whichever answer of an array it stands. */
static bool number(const csn_wire *w, uint32_t field, uint64_t *out) {
  for (uint32_t i = w->json.item_count; i > 0; i--) {
    const csn_json_item *item = &w->json.items[i - 1];
    if (item->field == field && item->kind == CSN_JK_NUMBER && !item->cut)
      return csn_json_u64(csn_json_text(&w->json, item), out);
  }
  return false;
}

static void raise_to(uint64_t *counter, uint64_t value) {
  if (value > *counter) *counter = value;
}

/* Input of OpenAI and Gemini includes what was read from the cache; Anthropic's does not. */
static void count(csn_wire *w, uint32_t in, uint32_t out, uint32_t extra_out, uint32_t read, uint32_t written,
                  bool inclusive, bool final) {
  uint64_t input, output, more = 0, cached = 0, value;
  bool has_in = number(w, in, &input), has_out = number(w, out, &output);
  if (!has_in && !has_out) return;
  w->seen = 1;
  if (final && has_out) w->final = 1;
  if (read != 0 && number(w, read, &cached)) raise_to(&w->cache_read_tokens, cached);
  if (written != 0 && number(w, written, &value)) raise_to(&w->cache_write_tokens, value);
  if (has_in) raise_to(&w->input_tokens, !inclusive ? input : input > cached ? input - cached : 0);
  if (extra_out != 0) number(w, extra_out, &more);
  if (has_out) raise_to(&w->output_tokens, output > UINT64_MAX - more ? UINT64_MAX : output + more);
}

static void name_of(csn_wire *w, uint32_t field) {
  for (uint32_t i = 0; i < w->json.item_count && w->model_len == 0; i++) {
    const csn_json_item *item = &w->json.items[i];
    if (item->field != field || item->kind != CSN_JK_STRING || item->cut || item->len == 0) continue;
    memcpy(w->model, csn_json_text(&w->json, item).ptr, item->len);
    w->model_len = (uint8_t)item->len;
  }
}

/* One JSON text has ended: a whole answer, or the data of one event. */
static void text_end(csn_wire *w) {
  static const uint8_t models[] = {N_MODEL, N_MESSAGE_MODEL, N_R_MODEL, N_MODEL_VERSION, N_E_VERSION};
  csn_json_verdict verdict = csn_json_end(&w->json);
  uint32_t words = w->text_len;
  if (w->streamed) words = words > CSN_WIRE_FRAME_BYTES ? words - CSN_WIRE_FRAME_BYTES : 0;
  if (verdict != CSN_JSON_EMPTY) w->estimate += words / CSN_WIRE_TOKEN_BYTES + (w->streamed ? 1u : 0u);
  w->text_len = 0;
  if (verdict == CSN_JSON_OK) {
    for (uint32_t i = 0; i < sizeof models; i++)
      name_of(w, models[i]);
    count(w, N_M_IN, N_M_OUT, 0, N_M_READ, N_M_WRITE, false, false);
    count(w, N_U_IN, N_U_OUT, 0, N_U_READ, N_U_WRITE, false, true);
    count(w, N_C_IN, N_C_OUT, 0, N_C_CACHED, 0, true, true);
    count(w, N_R_IN, N_R_OUT, 0, N_R_CACHED, 0, true, true);
    count(w, N_G_IN, N_G_OUT, N_G_THOUGHTS, N_G_CACHED, 0, true, true);
    count(w, N_E_IN, N_E_OUT, N_E_THOUGHTS, N_E_CACHED, 0, true, true);
    /* A whole response of OpenAI has Anthropic's names, but its input includes what was cached. */
    uint64_t cached;
    if (number(w, N_U_CACHED, &cached)) {
      raise_to(&w->cache_read_tokens, cached);
      w->input_tokens = w->input_tokens > cached ? w->input_tokens - cached : 0;
    }
  } else if (verdict != CSN_JSON_EMPTY) {
    w->unread++;
  }
  csn_json_reset(&w->json);
}

static void push_text(csn_wire *w, csn_span in) {
  w->text_len = in.len > UINT32_MAX - w->text_len ? UINT32_MAX : w->text_len + in.len;
  csn_json_push(&w->json, in);
}

void csn_wire_push(csn_wire *w, csn_span in) {
  if (!w->streamed) {
    push_text(w, in);
    return;
  }
  for (uint32_t i = 0; i < in.len;) {
    const uint8_t *at = in.ptr + i;
    if (w->state < LINE_DATA) {
      bool end = *at == '\n' || *at == '\r';
      if (end)
        w->state = LINE_START;
      else
        w->state = *at == (uint8_t)data_field[w->state] ? (uint8_t)(w->state + 1) : LINE_SKIP;
      i++;
      continue;
    }
    uint32_t len = csn_span_find(csn_span_of(at, in.len - i), '\n');
    if (w->state == LINE_DATA) push_text(w, csn_span_of(at, len));
    i += len;
    if (i == in.len) return;
    i++;
    if (w->state == LINE_DATA) text_end(w);
    w->state = LINE_START;
  }
}

void csn_wire_end(csn_wire *w) {
  if (!w->streamed || w->state == LINE_DATA) text_end(w);
  w->state = LINE_START;
}
