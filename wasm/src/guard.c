#include "csn/guard.h"

#include "cJSON.h"
#include "csn/audit.h"
#include "csn/doc.h"
#include "csn/price.h"
#include "csn/request.h"

void csn_guard_init(csn_guard *g) {
  memset(g, 0, sizeof *g);
  csn_policy_init(&g->policy);
}

static void answer(csn_fx *fx, int32_t code, csn_span payload) {
  csn_fx_emit(fx, CSN_FX_ANSWER, 0, code, payload);
}

/* Takes what stands before the next NUL. */
static bool take_text(csn_span *rest, csn_span *out) {
  uint32_t n = 0;
  while (n < rest->len && rest->ptr[n] != 0)
    n++;
  if (n == rest->len) return false;
  *out = csn_span_of(rest->ptr, n);
  *rest = csn_span_of(rest->ptr + n + 1, rest->len - n - 1);
  return true;
}

/* `,"key":"` what `write` puts `"`; text of the policy module is escaped here. */
static void put_words(csn_fx *fx, const char *key, const uint8_t *text, uint32_t len) {
  csn_put_field_raw(fx, key, csn_span_of(text, len));
}

static void put_inject(const csn_policy *p, uint32_t mask, csn_fx *fx) {
  bool first = true;
  csn_put_str(fx, ",\"inject\":[");
  for (uint32_t i = 0; i < p->inject_count; i++) {
    if ((mask >> i & 1) == 0) continue;
    const csn_inject_rule *r = &p->inject[i];
    csn_put_str(fx, first ? "{\"body\":" : ",{\"body\":");
    first = false;
    csn_put_str(fx, r->flags & CSN_INJECT_BODY ? "true" : "false");
    csn_put_field_raw(fx, "secret", csn_span_of(p->text + r->secret.off, r->secret.len));
    if (r->header.len > 0)
      csn_put_field_raw(fx, "header", csn_span_of(p->text + r->header.off, r->header.len));
    if (r->format.len > 0)
      csn_put_field_raw(fx, "format", csn_span_of(p->text + r->format.off, r->format.len));
    csn_put_str(fx, "}");
  }
  csn_put_str(fx, "]");
}

/* The words are made in the arena first, because a record's text is escaped as it is written. */
static csn_err put_verdict(csn_guard *g, csn_arena *a, csn_verdict v, csn_span what, bool network,
                           uint32_t inject, csn_fx *fx) {
  static const char *const names[] = {"deny", "allow", "ask"};
  uint8_t *words = csn_arena_take(a, CSN_POLICY_SENTENCE_MAX);
  if (words == NULL) return CSN_ERR_NO_MEMORY;
  csn_fx text = {words, CSN_POLICY_SENTENCE_MAX, 0};
  uint32_t at = csn_fx_open(fx, CSN_FX_ANSWER, 0, v.action, 0, 0);
  csn_put_str(fx, "{\"verdict\":\"");
  csn_put_str(fx, names[v.action]);
  csn_put_str(fx, "\"");
  csn_policy_rule_name(v, &text);
  put_words(fx, "rule", words, text.len);
  text.len = 0;
  csn_policy_pattern(&g->policy, v, &text);
  if (text.len > 0) put_words(fx, "pattern", words, text.len);
  text.len = 0;
  csn_policy_sentence(&g->policy, v, what, &text);
  put_words(fx, "reason", words, text.len);
  if (network) put_inject(&g->policy, inject, fx);
  csn_put_str(fx, "}");
  csn_fx_close(fx, at);
  return CSN_ERR_OK;
}

static csn_err ask_policy(csn_guard *g, const csn_rec *rec, csn_span doc, csn_arena *a, csn_fx *fx) {
  csn_pointer bad;
  if (rec->code < CSN_POLICY_AUTO || rec->code > CSN_POLICY_SANDBOX_RUNTIME) return CSN_ERR_BAD_RECORD;
  csn_policy_dialect d = (csn_policy_dialect)rec->code;
  /* The report is written behind the room that its own head takes. */
  uint32_t head = 4096;
  csn_fx report = {fx->base + head, fx->cap - 2 * head, 0};
  csn_err err = csn_policy_compile(&g->policy, a, doc, &d, rec->id == 1, &report, &bad);
  if (err != CSN_ERR_OK) {
    csn_fx_emit(fx, CSN_FX_BAD_FIELD, 0, 0, csn_span_of(bad.bytes, bad.len));
    return err;
  }
  uint8_t *copy = csn_arena_take(a, report.len);
  if (copy == NULL) return CSN_ERR_NO_MEMORY;
  memcpy(copy, report.base, report.len);
  uint32_t at = csn_fx_open(fx, CSN_FX_ANSWER, 0, 0, 0, 0);
  csn_put_str(fx, "{\"dialect\":\"");
  csn_put_str(fx, csn_policy_dialect_text(d));
  csn_put_str(fx, "\",\"unmapped\":[");
  csn_fx_put(fx, copy, report.len);
  csn_put_str(fx, "]}");
  csn_fx_close(fx, at);
  return CSN_ERR_OK;
}

static csn_err ask_net(csn_guard *g, csn_span what, csn_arena *a, csn_fx *fx) {
  csn_host host, at = {0};
  uint16_t port = 0;
  uint32_t split = 0;
  csn_verdict v = {CSN_DENY,          CSN_WHY_BAD_HOST,   CSN_ADDR_PUBLIC,
                   CSN_LIST_NET_DENY, CSN_POLICY_NO_RULE, CSN_POLICY_NO_RULE};
  while (split < what.len && what.ptr[split] != '@')
    split++;
  bool resolved = split < what.len;
  csn_span name = csn_span_of(what.ptr, split);
  csn_err err = csn_hostport_parse(name, &host, &port);
  if (err == CSN_ERR_OK && resolved)
    err = csn_host_parse(csn_span_of(what.ptr + split + 1, what.len - split - 1), &at);
  bool good = err == CSN_ERR_OK && (!resolved || at.is_addr);
  if (good) v = csn_policy_net(&g->policy, &host, port, resolved ? &at.addr : NULL);
  uint32_t inject = v.action == CSN_ALLOW ? csn_policy_inject(&g->policy, &host, port) : 0;
  return put_verdict(g, a, v, name, true, inject, fx);
}

static csn_err ask_push(csn_guard *g, csn_span rest, csn_arena *a, csn_fx *fx) {
  csn_span where;
  csn_host host;
  uint16_t port = 0;
  if (!take_text(&rest, &where)) return CSN_ERR_BAD_RECORD;
  csn_verdict v = {CSN_DENY,          CSN_WHY_BAD_HOST,   CSN_ADDR_PUBLIC,
                   CSN_LIST_NET_DENY, CSN_POLICY_NO_RULE, CSN_POLICY_NO_RULE};
  if (csn_hostport_parse(where, &host, &port) == CSN_ERR_OK)
    v = csn_policy_push(&g->policy, &host, port, rest);
  uint8_t *words = csn_arena_take(a, where.len + 32);
  if (words == NULL) return CSN_ERR_NO_MEMORY;
  csn_fx text = {words, where.len + 32, 0};
  csn_put_str(&text, "A push to ");
  csn_fx_put(&text, where.ptr, where.len);
  return put_verdict(g, a, v, csn_span_of(words, text.len), false, 0, fx);
}

static csn_err ask_tool(csn_guard *g, int32_t code, csn_span rest, csn_arena *a, csn_fx *fx) {
  csn_tool_call call = {{0}, {0}, {0}, {0}, code == 1};
  if (!take_text(&rest, &call.tool) || !take_text(&rest, &call.arg) || !take_text(&rest, &call.cwd))
    return CSN_ERR_BAD_RECORD;
  call.home = rest;
  csn_verdict v = csn_policy_tool(&g->policy, &call, a);
  csn_span what = call.tool;
  if (call.arg.len > 0) {
    uint32_t n = call.arg.len < 512 ? call.arg.len : csn_utf8_whole(csn_span_of(call.arg.ptr, 512));
    uint8_t *words = csn_arena_take(a, call.tool.len + n + 8);
    if (words == NULL) return CSN_ERR_NO_MEMORY;
    csn_fx text = {words, call.tool.len + n + 8, 0};
    csn_fx_put(&text, call.tool.ptr, call.tool.len);
    csn_put_str(&text, "(");
    csn_fx_put(&text, call.arg.ptr, n);
    csn_put_str(&text, n < call.arg.len ? "...)" : ")");
    what = csn_span_of(words, text.len);
  }
  return put_verdict(g, a, v, what, false, 0, fx);
}

static void put_claim(csn_fx *fx, const char *name, csn_span text) {
  if (text.len > 0) csn_put_field_raw(fx, name, text);
}

static void put_claims(const csn_claims *c, csn_fx *fx) {
  uint32_t at = csn_fx_open(fx, CSN_FX_ANSWER, 0, 0, 0, 0);
  csn_put_str(fx, "{\"exp\":");
  csn_put_u64(fx, c->expires_s);
  put_claim(fx, "sub", c->subject);
  put_claim(fx, "tenant", c->tenant);
  put_claim(fx, "quota", c->quota);
  put_claim(fx, "jti", c->id);
  put_claim(fx, "kid", c->kid);
  put_claim(fx, "scope", c->scopes);
  csn_put_str(fx, "}");
  csn_fx_close(fx, at);
}

static csn_err ask_seal_keys(csn_guard *g, csn_span payload, csn_fx *fx) {
  uint32_t each = 1 + sizeof g->seals.key[0].key;
  if (payload.len == 0 || payload.len % each != 0 || payload.len / each > CSN_SEAL_KEYS_MAX)
    return CSN_ERR_BAD_RECORD;
  bool seen[256] = {true}; /* 0 is no version, and of two keys of one version only one could open */
  for (uint32_t at = 0; at < payload.len; at += each) {
    if (seen[payload.ptr[at]]) return CSN_ERR_BAD_RECORD;
    seen[payload.ptr[at]] = true;
  }
  memset(&g->seals, 0, sizeof g->seals);
  for (uint32_t i = 0; i < payload.len / each; i++) {
    const uint8_t *p = payload.ptr + i * each;
    g->seals.key[i].version = p[0];
    memcpy(g->seals.key[i].key, p + 1, sizeof g->seals.key[i].key);
  }
  answer(fx, 0, csn_span_of(NULL, 0));
  return CSN_ERR_OK;
}

static csn_err ask_seal(csn_guard *g, csn_span rest, csn_arena *a, csn_fx *fx) {
  csn_span session, name;
  if (rest.len < CSN_SEAL_NONCE) return CSN_ERR_BAD_RECORD;
  const uint8_t *nonce = rest.ptr;
  rest = csn_span_of(rest.ptr + CSN_SEAL_NONCE, rest.len - CSN_SEAL_NONCE);
  if (!take_text(&rest, &session) || !take_text(&rest, &name) || session.len == 0) return CSN_ERR_BAD_RECORD;
  if (rest.len > CSN_SECRET_MAX) return CSN_ERR_TOO_LONG;
  uint8_t *sealed = csn_arena_take(a, rest.len + CSN_SEAL_OVERHEAD);
  if (sealed == NULL) return CSN_ERR_NO_MEMORY;
  uint32_t n = csn_seal(&g->seals, session, name, nonce, rest, sealed);
  if (n == 0) return CSN_ERR_BAD_SEAL;
  answer(fx, 0, csn_span_of(sealed, n));
  return CSN_ERR_OK;
}

static csn_err ask_unseal(csn_guard *g, csn_span rest, csn_arena *a, csn_fx *fx) {
  csn_span session, name;
  uint32_t n;
  if (!take_text(&rest, &session) || !take_text(&rest, &name)) return CSN_ERR_BAD_RECORD;
  uint8_t *secret = csn_arena_take(a, rest.len);
  if (secret == NULL) return CSN_ERR_NO_MEMORY;
  csn_err err = csn_unseal(&g->seals, session, name, rest, secret, &n);
  if (err == CSN_ERR_OK) answer(fx, 0, csn_span_of(secret, n));
  memset(secret, 0, rest.len);
  return err;
}

static csn_err ask_audit(csn_span payload, bool begin, csn_fx *fx) {
  csn_audit log;
  uint8_t out[40];
  if (begin) {
    csn_audit_init(&log, payload);
  } else {
    csn_reader r = {payload, 0};
    csn_span head;
    if (!csn_rd_bytes(&r, sizeof log.head, &head) || !csn_rd_u64(&r, &log.count)) return CSN_ERR_BAD_RECORD;
    memcpy(log.head, head.ptr, sizeof log.head);
    if (payload.len > r.pos && payload.ptr[payload.len - 1] != '\n') return CSN_ERR_BAD_RECORD;
    while (r.pos < payload.len) {
      csn_span rest = csn_span_of(payload.ptr + r.pos, payload.len - r.pos);
      uint32_t len = csn_span_find(rest, '\n');
      csn_audit_push(&log, csn_span_of(rest.ptr, len));
      r.pos += len + 1;
    }
  }
  memcpy(out, log.head, sizeof log.head);
  for (uint32_t i = 0; i < 8; i++)
    out[32 + i] = (uint8_t)(log.count >> (8 * i));
  answer(fx, 0, csn_span_of(out, sizeof out));
  return CSN_ERR_OK;
}

/* Keys, tokens, scopes. */
static csn_err ask_identity(csn_guard *g, const csn_rec *rec, csn_span payload, csn_arena *a, csn_fx *fx) {
  csn_claims claims;
  csn_span token, scopes, want;
  csn_pointer bad;
  csn_err err;
  if (rec->kind == CSN_ASK_SCOPE) {
    if (!take_text(&payload, &scopes) || !take_text(&payload, &want)) return CSN_ERR_BAD_RECORD;
    answer(fx, csn_scope_allows(scopes, want, payload) ? 1 : 0, csn_span_of(NULL, 0));
    return CSN_ERR_OK;
  }
  if (rec->kind == CSN_ASK_TOKEN || rec->kind == CSN_ASK_API_KEY) {
    err = rec->kind == CSN_ASK_TOKEN ? csn_token_verify(&g->keys, a, payload, rec->time_ms / 1000, &claims)
                                     : csn_api_key_check(&g->keys, payload, &claims);
    if (err == CSN_ERR_OK) put_claims(&claims, fx);
    return err;
  }
  token = csn_span_of(NULL, 0);
  err = rec->kind == CSN_ASK_MINT ? csn_token_mint(&g->keys, a, payload, rec->time_ms / 1000, &token, &bad)
                                  : csn_keys_read(&g->keys, a, payload, &bad);
  if (err == CSN_ERR_OK)
    answer(fx, 0, token);
  else if (err != CSN_ERR_UNKNOWN_KEY)
    csn_fx_emit(fx, CSN_FX_BAD_FIELD, 0, 0, csn_span_of(bad.bytes, bad.len));
  return err;
}

static void put_wire(const csn_wire *w, csn_fx *fx) {
  uint32_t at = csn_fx_open(fx, CSN_FX_ANSWER, 0, 0, 0, 0);
  csn_put_str(fx, "{\"seen\":");
  csn_put_str(fx, w->seen ? "true" : "false");
  csn_put_field_text(fx, "model", csn_span_of(w->model, w->model_len));
  csn_put_field_u64(fx, "input_tokens", w->input_tokens);
  csn_put_field_u64(fx, "output_tokens", w->output_tokens);
  csn_put_field_u64(fx, "cache_read_tokens", w->cache_read_tokens);
  csn_put_field_u64(fx, "cache_write_tokens", w->cache_write_tokens);
  csn_put_field_u64(fx, "unread", w->unread);
  csn_put_field_json(fx, "final", csn_span_str(w->final ? "true" : "false"));
  csn_put_field_u64(fx, "estimate", w->estimate);
  csn_put_str(fx, "}");
  csn_fx_close(fx, at);
}

static csn_err ask_wire(csn_guard *g, const csn_rec *rec, csn_span payload, csn_fx *fx) {
  if (rec->kind == CSN_ASK_WIRE_BEGIN) csn_wire_init(&g->wire, rec->code == 1);
  /* Without a beginning there is no table to read by. */
  if (g->wire.json.table.count == 0) return CSN_ERR_BAD_STATE;
  if (rec->kind == CSN_ASK_WIRE_PUSH) csn_wire_push(&g->wire, payload);
  if (rec->kind == CSN_ASK_WIRE_END) {
    csn_wire_end(&g->wire);
    put_wire(&g->wire, fx);
  } else {
    answer(fx, 0, csn_span_of(NULL, 0));
  }
  return CSN_ERR_OK;
}

static csn_err ask_price(csn_span payload, csn_arena *a, csn_fx *fx) {
  csn_span own;
  csn_pointer bad;
  csn_usage_request r;
  const cJSON *root;
  if (!take_text(&payload, &own)) return CSN_ERR_BAD_RECORD;
  csn_prices *prices = csn_arena_take(a, sizeof *prices);
  if (prices == NULL) return CSN_ERR_NO_MEMORY;
  prices->count = 0;
  /* Each document begins the scratch memory anew: the prices stand before it. */
  csn_arena docs = {a->base + a->used, a->cap - a->used, 0};
  csn_pointer_set(&bad, "");
  csn_err err = own.len == 0 ? CSN_ERR_OK : csn_doc_parse(&docs, own, CSN_DOC_VALUES_MAX, &root);
  if (err == CSN_ERR_OK && own.len > 0) {
    const cJSON *item = root->child;
    if (item == NULL || item->next != NULL || !csn_span_is(csn_span_str(item->string), "prices"))
      return CSN_ERR_BAD_RECORD;
    csn_pointer_push(&bad, "prices");
    err = csn_read_prices(item, prices, &bad);
  }
  if (err == CSN_ERR_OK) err = csn_request_usage(&docs, payload, &r, &bad);
  if (err != CSN_ERR_OK) {
    csn_fx_emit(fx, CSN_FX_BAD_FIELD, 0, 0, csn_span_of(bad.bytes, bad.len));
    return err;
  }
  if (!r.has_cost) csn_price_usage(prices, r.model, true, &r.usage);
  uint32_t at = csn_fx_open(fx, CSN_FX_ANSWER, 0, 0, 0, 0);
  csn_put_str(fx, "{\"prices\":\"");
  csn_put_str(fx, csn_price_version());
  csn_put_str(fx, "\"");
  csn_put_cost(fx, "cost_usd", &r.usage);
  csn_put_str(fx, "}");
  csn_fx_close(fx, at);
  return CSN_ERR_OK;
}

csn_err csn_guard_ask(csn_guard *g, const csn_rec *rec, csn_span payload, csn_arena *a, csn_fx *fx) {
  if (rec->kind == 0 || rec->kind >= CSN_ASK_END) return CSN_ERR_BAD_RECORD;
  a->used = 0;
  switch ((csn_ask)rec->kind) {
  case CSN_ASK_POLICY:
    return ask_policy(g, rec, payload, a, fx);
  case CSN_ASK_POLICY_PRINT: {
    uint32_t at = csn_fx_open(fx, CSN_FX_ANSWER, 0, 0, 0, 0);
    csn_policy_print(&g->policy, fx);
    csn_fx_close(fx, at);
    return CSN_ERR_OK;
  }
  case CSN_ASK_NET:
    return ask_net(g, payload, a, fx);
  case CSN_ASK_PUSH:
    return ask_push(g, payload, a, fx);
  case CSN_ASK_TOOL:
    return ask_tool(g, rec->code, payload, a, fx);
  case CSN_ASK_ARTIFACT:
    answer(fx, csn_policy_artifact(&g->policy, payload) ? 1 : 0, csn_span_of(NULL, 0));
    return CSN_ERR_OK;
  case CSN_ASK_KEYS:
  case CSN_ASK_TOKEN:
  case CSN_ASK_API_KEY:
  case CSN_ASK_MINT:
  case CSN_ASK_SCOPE:
    return ask_identity(g, rec, payload, a, fx);
  case CSN_ASK_SEAL_KEYS:
    return ask_seal_keys(g, payload, fx);
  case CSN_ASK_SEAL:
    return ask_seal(g, payload, a, fx);
  case CSN_ASK_UNSEAL:
    return ask_unseal(g, payload, a, fx);
  case CSN_ASK_WIRE_BEGIN:
  case CSN_ASK_WIRE_PUSH:
  case CSN_ASK_WIRE_END:
    return ask_wire(g, rec, payload, fx);
  case CSN_ASK_AUDIT_BEGIN:
    return ask_audit(payload, true, fx);
  case CSN_ASK_AUDIT_PUSH:
    return ask_audit(payload, false, fx);
  case CSN_ASK_PRICE:
    return ask_price(payload, a, fx);
  case CSN_ASK_END:
    break;
  }
  return CSN_ERR_BAD_RECORD;
}
