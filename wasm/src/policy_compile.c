/* policy_compile.c - a policy document becomes the table. */
#include "policy_table.h"

#include "cJSON.h"

csn_err csn_policy_add_text(csn_policy *p, csn_span text, csn_text_ref *out) {
  if (text.len > CSN_POLICY_TEXT_CAP - p->text_len || text.len > UINT16_MAX) return CSN_ERR_NO_MEMORY;
  if (text.len > 0) memcpy(p->text + p->text_len, text.ptr, text.len);
  *out = (csn_text_ref){(uint16_t)p->text_len, (uint16_t)text.len};
  p->text_len += text.len;
  return CSN_ERR_OK;
}

/* Splits "pattern:port" of a CIDR or of anything else; an IPv6 text with a port stands in brackets. */
static csn_err split_port(csn_span *pattern, uint16_t *port) {
  uint32_t colons = 0, at = 0;
  *port = 0;
  for (uint32_t i = 0; i < pattern->len; i++) {
    if (pattern->ptr[i] != ':') continue;
    colons++;
    at = i;
  }
  bool bracket = pattern->len > 0 && pattern->ptr[0] == '[' && at > 0 && pattern->ptr[at - 1] == ']';
  if (!bracket && colons != 1) return CSN_ERR_OK;
  csn_span digits = csn_span_of(pattern->ptr + at + 1, pattern->len - at - 1);
  pattern->len = at;
  if (digits.len == 1 && digits.ptr[0] == '*') return CSN_ERR_OK;
  return csn_port_parse(digits, port);
}

csn_err csn_policy_parse_net(csn_policy *p, csn_span pattern, csn_net_rule *out) {
  csn_host h;
  bool slash = false;
  *out = (csn_net_rule){0};
  if (pattern.len == 0) return CSN_ERR_BAD_VALUE;
  if (pattern.len > CSN_POLICY_PATTERN_MAX) return CSN_ERR_TOO_LONG;
  csn_err err = split_port(&pattern, &out->port);
  if (err != CSN_ERR_OK) return err;
  for (uint32_t i = 0; i < pattern.len; i++)
    slash = slash || pattern.ptr[i] == '/';
  if (pattern.len == 1 && pattern.ptr[0] == '*') {
    out->kind = CSN_NET_ANY;
    return CSN_ERR_OK;
  }
  if (slash) {
    out->kind = CSN_NET_CIDR;
    if (pattern.ptr[0] == '[' && pattern.ptr[pattern.len - 1] == ']')
      pattern = csn_span_of(pattern.ptr + 1, pattern.len - 2);
    err = csn_cidr_parse(pattern, &out->net, &out->bits);
    /* Every address: "*" says that, and says it of names too. */
    bool all = out->bits == 0 || (out->bits == 96 && csn_addr_is_v4(&out->net));
    return err == CSN_ERR_OK && all ? CSN_ERR_BAD_VALUE : err;
  }
  bool wild = pattern.len > 2 && pattern.ptr[0] == '*' && pattern.ptr[1] == '.';
  if (wild) pattern = csn_span_of(pattern.ptr + 2, pattern.len - 2);
  err = csn_host_parse(pattern, &h);
  if (err != CSN_ERR_OK || (wild && h.is_addr)) return CSN_ERR_BAD_VALUE;
  if (h.is_addr) {
    out->kind = CSN_NET_CIDR;
    out->net = h.addr;
    out->bits = 128;
    return CSN_ERR_OK;
  }
  out->kind = wild ? CSN_NET_WILD : CSN_NET_NAME;
  return csn_policy_add_text(p, csn_span_of(h.name, h.len), &out->host);
}

bool csn_policy_same_net(const csn_policy *p, const csn_net_rule *a, const csn_net_rule *b) {
  csn_span x = csn_policy_text(p, a->host), y = csn_policy_text(p, b->host);
  return a->kind == b->kind && a->port == b->port && a->bits == b->bits &&
         memcmp(&a->net, &b->net, sizeof a->net) == 0 && x.len == y.len && memcmp(x.ptr, y.ptr, x.len) == 0;
}

csn_err csn_policy_add_net(csn_policy *p, csn_span pattern, csn_action action, uint32_t rule, uint8_t source,
                           bool strict) {
  csn_net_rule r;
  csn_err err = csn_policy_parse_net(p, pattern, &r);
  if (err != CSN_ERR_OK) return err;
  if (p->net_count == CSN_POLICY_NET_MAX) return CSN_ERR_NO_MEMORY;
  r.action = (uint8_t)action;
  r.rule = (uint16_t)rule;
  r.source = source;
  for (uint32_t i = 0; i < p->net_count; i++) {
    const csn_net_rule *o = &p->net[i];
    if (o->action != r.action || !csn_policy_same_net(p, o, &r)) continue;
    return strict && o->source == source ? CSN_ERR_BAD_VALUE : CSN_ERR_OK;
  }
  p->net[p->net_count++] = r;
  return CSN_ERR_OK;
}

csn_err csn_policy_add_tool(csn_policy *p, csn_span text, csn_action action, uint32_t rule, uint8_t source) {
  csn_tool_rule r = {{0, 0}, {0, 0}, (uint16_t)rule, (uint8_t)action, source};
  csn_span tool, spec;
  csn_err err = csn_tool_split(text, &tool, &spec);
  if (err != CSN_ERR_OK) return err;
  if (p->tool_count == CSN_POLICY_TOOL_MAX) return CSN_ERR_NO_MEMORY;
  err = csn_policy_add_text(p, tool, &r.tool);
  if (err == CSN_ERR_OK) err = csn_policy_add_text(p, spec, &r.spec);
  if (err == CSN_ERR_OK) p->tools[p->tool_count++] = r;
  return err;
}

/* More bits first, then with a port, then deny. */
static bool cidr_before(const csn_net_rule *a, const csn_net_rule *b) {
  if (a->bits != b->bits) return a->bits > b->bits;
  if ((a->port != 0) != (b->port != 0)) return a->port != 0;
  return a->action < b->action;
}

void csn_policy_index(csn_policy *p) {
  memset(p->slots, 0, sizeof p->slots);
  p->any = 0;
  p->cidr_count = 0;
  for (uint16_t i = 0; i < p->net_count; i++) {
    csn_net_rule *r = &p->net[i];
    if (r->kind == CSN_NET_CIDR) {
      uint32_t at = p->cidr_count++;
      for (; at > 0 && cidr_before(r, &p->net[p->cidr[at - 1]]); at--)
        p->cidr[at] = p->cidr[at - 1];
      p->cidr[at] = i;
      continue;
    }
    uint16_t *head = &p->any;
    if (r->kind != CSN_NET_ANY)
      head = &p->slots[csn_policy_hash_name(csn_policy_text(p, r->host)) % CSN_POLICY_SLOTS];
    r->next = *head;
    *head = (uint16_t)(i + 1);
  }
}

/* --- our own dialect
 * ------------------------------------------------------------------------------------------- */

typedef csn_err (*item_fn)(csn_policy_reader *r, const cJSON *item, uint32_t index, int arg);

/* Every item of an array, with the pointer at it. */
static csn_err each(csn_policy_reader *r, const cJSON *array, item_fn fn, int arg) {
  if (!cJSON_IsArray(array)) return CSN_ERR_BAD_TYPE;
  uint32_t base = r->bad->len, index = 0;
  for (const cJSON *item = array->child; item != NULL; item = item->next, index++) {
    r->bad->len = base;
    csn_pointer_push_index(r->bad, index);
    if (index >= CSN_POLICY_NO_RULE) return CSN_ERR_TOO_LONG;
    csn_err err = fn(r, item, index, arg);
    if (err != CSN_ERR_OK) return err;
  }
  r->bad->len = base;
  return CSN_ERR_OK;
}

static csn_err net_item(csn_policy_reader *r, const cJSON *item, uint32_t index, int action) {
  csn_span text;
  csn_err err = csn_doc_text(item, 1, CSN_POLICY_PATTERN_MAX, &text);
  return err != CSN_ERR_OK ? err : csn_policy_add_net(r->p, text, (csn_action)action, index, r->source, true);
}

static csn_err tool_item(csn_policy_reader *r, const cJSON *item, uint32_t index, int action) {
  csn_span text;
  csn_err err = csn_doc_text(item, 1, CSN_POLICY_PATTERN_MAX, &text);
  return err != CSN_ERR_OK ? err : csn_policy_add_tool(r->p, text, (csn_action)action, index, r->source);
}

static csn_err glob_item(csn_policy_reader *r, const cJSON *item, uint32_t index, int exclude) {
  csn_span text;
  (void)index;
  csn_err err = csn_doc_text(item, 1, CSN_POLICY_PATTERN_MAX, &text);
  if (err != CSN_ERR_OK) return err;
  if (text.ptr[0] == '/') return CSN_ERR_BAD_VALUE; /* paths are relative to the workspace */
  if (r->p->include_count + r->p->exclude_count >= CSN_POLICY_GLOB_MAX) return CSN_ERR_NO_MEMORY;
  csn_text_ref *to = exclude ? &r->p->exclude[r->p->exclude_count] : &r->p->include[r->p->include_count];
  err = csn_policy_add_text(r->p, text, to);
  if (err != CSN_ERR_OK) return err;
  if (exclude)
    r->p->exclude_count++;
  else
    r->p->include_count++;
  return CSN_ERR_OK;
}

bool csn_policy_is_token(csn_span s) {
  for (uint32_t i = 0; i < s.len; i++) {
    uint8_t c = s.ptr[i];
    bool plain =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
    if (!plain) return false;
  }
  return s.len > 0;
}

/* One "{}", and nothing that would end a header line. */
static bool is_format(csn_span s) {
  uint32_t holes = 0;
  for (uint32_t i = 0; i < s.len; i++) {
    if (s.ptr[i] < 0x20 || s.ptr[i] > 0x7e) return false;
    if (s.ptr[i] == '{' && i + 1 < s.len && s.ptr[i + 1] == '}') holes++;
  }
  return holes == 1;
}

static csn_err inject_item(csn_policy_reader *r, const cJSON *item, uint32_t index, int arg) {
  csn_inject_rule in = {0};
  csn_span text = {0};
  bool host = false, secret = false;
  uint32_t base = r->bad->len;
  (void)arg;
  if (!cJSON_IsObject(item)) return CSN_ERR_BAD_TYPE;
  if (r->p->inject_count == CSN_POLICY_INJECT_MAX) return CSN_ERR_NO_MEMORY;
  for (const cJSON *f = item->child; f != NULL; f = f->next) {
    csn_span key = csn_span_str(f->string);
    csn_err err;
    r->bad->len = base;
    csn_pointer_push(r->bad, f->string);
    if (csn_doc_seen_before(item, f)) return CSN_ERR_BAD_VALUE;
    if (csn_span_is(key, "body")) {
      if (!cJSON_IsBool(f)) return CSN_ERR_BAD_TYPE;
      if (cJSON_IsTrue(f)) in.flags |= CSN_INJECT_BODY;
      continue;
    }
    err = csn_doc_text(f, 1, CSN_POLICY_PATTERN_MAX, &text);
    if (err != CSN_ERR_OK) return err;
    if (csn_span_is(key, "host")) {
      host = true;
      err = csn_policy_parse_net(r->p, text, &in.match);
      /* A credential for every host, or for a whole network, is a credential for an attacker's. */
      if (err == CSN_ERR_OK &&
          (in.match.kind == CSN_NET_ANY || (in.match.kind == CSN_NET_CIDR && in.match.bits != 128)))
        err = CSN_ERR_BAD_VALUE;
    } else if (csn_span_is(key, "header")) {
      err = csn_policy_is_token(text) ? csn_policy_add_text(r->p, text, &in.header) : CSN_ERR_BAD_VALUE;
    } else if (csn_span_is(key, "secret")) {
      secret = true;
      err = csn_policy_is_token(text) ? csn_policy_add_text(r->p, text, &in.secret) : CSN_ERR_BAD_VALUE;
    } else if (csn_span_is(key, "format")) {
      err = is_format(text) ? csn_policy_add_text(r->p, text, &in.format) : CSN_ERR_BAD_VALUE;
    } else {
      err = CSN_ERR_UNKNOWN_FIELD;
    }
    if (err != CSN_ERR_OK) return err;
  }
  r->bad->len = base;
  if (!host || !secret) {
    csn_pointer_push(r->bad, host ? "secret" : "host");
    return CSN_ERR_MISSING_FIELD;
  }
  if (in.format.len > 0 && in.header.len == 0) {
    csn_pointer_push(r->bad, "format");
    return CSN_ERR_BAD_VALUE;
  }
  in.match.rule = (uint16_t)index;
  in.match.source = r->source;
  r->p->inject[r->p->inject_count++] = in;
  return CSN_ERR_OK;
}

/* "allow" or "deny". */
static csn_err read_action(const cJSON *item, uint8_t *out) {
  if (!cJSON_IsString(item)) return CSN_ERR_BAD_TYPE;
  csn_span text = csn_span_str(item->valuestring);
  if (!csn_span_is(text, "allow") && !csn_span_is(text, "deny")) return CSN_ERR_BAD_VALUE;
  *out = csn_span_is(text, "allow") ? CSN_ALLOW : CSN_DENY;
  return CSN_ERR_OK;
}

static csn_err read_bool(const cJSON *item, uint8_t *out) {
  if (!cJSON_IsBool(item)) return CSN_ERR_BAD_TYPE;
  *out = cJSON_IsTrue(item) ? 1 : 0;
  return CSN_ERR_OK;
}

typedef csn_err (*member_fn)(csn_policy_reader *r, csn_span key, const cJSON *item);

/* Every member of an object, with the pointer at it. */
static csn_err members(csn_policy_reader *r, const cJSON *object, member_fn fn) {
  if (!cJSON_IsObject(object)) return CSN_ERR_BAD_TYPE;
  uint32_t base = r->bad->len;
  for (const cJSON *item = object->child; item != NULL; item = item->next) {
    r->bad->len = base;
    csn_pointer_push(r->bad, item->string);
    csn_err err =
        csn_doc_seen_before(object, item) ? CSN_ERR_BAD_VALUE : fn(r, csn_span_str(item->string), item);
    if (err != CSN_ERR_OK) return err;
  }
  r->bad->len = base;
  return CSN_ERR_OK;
}

static csn_err network_member(csn_policy_reader *r, csn_span key, const cJSON *item) {
  if (csn_span_is(key, "default")) return read_action(item, &r->p->network_default);
  if (csn_span_is(key, "allow")) return each(r, item, net_item, CSN_ALLOW);
  if (csn_span_is(key, "deny")) return each(r, item, net_item, CSN_DENY);
  if (csn_span_is(key, "inject")) return each(r, item, inject_item, 0);
  if (csn_span_is(key, "private_ranges")) return read_action(item, &r->p->private_allowed);
  if (csn_span_is(key, "websockets")) return read_action(item, &r->p->websockets);
  return CSN_ERR_UNKNOWN_FIELD;
}

static csn_err tools_member(csn_policy_reader *r, csn_span key, const cJSON *item) {
  if (csn_span_is(key, "allow")) {
    r->p->tools_listed = 1;
    return each(r, item, tool_item, CSN_ALLOW);
  }
  if (csn_span_is(key, "deny")) return each(r, item, tool_item, CSN_DENY);
  if (csn_span_is(key, "ask")) return each(r, item, tool_item, CSN_ASK);
  return CSN_ERR_UNKNOWN_FIELD;
}

static csn_err artifacts_member(csn_policy_reader *r, csn_span key, const cJSON *item) {
  if (csn_span_is(key, "include")) return each(r, item, glob_item, 0);
  if (csn_span_is(key, "exclude")) return each(r, item, glob_item, 1);
  return CSN_ERR_UNKNOWN_FIELD;
}

static csn_err push_item(csn_policy_reader *r, const cJSON *item, uint32_t index, int action) {
  csn_span text;
  csn_err err = csn_doc_text(item, 1, CSN_POLICY_PATTERN_MAX, &text);
  return err != CSN_ERR_OK ? err : csn_policy_add_push(r->p, text, (csn_action)action, index, r->source);
}

static csn_err push_member(csn_policy_reader *r, csn_span key, const cJSON *item) {
  if (csn_span_is(key, "allow")) return each(r, item, push_item, CSN_ALLOW);
  if (csn_span_is(key, "deny")) return each(r, item, push_item, CSN_DENY);
  if (csn_span_is(key, "ask")) return each(r, item, push_item, CSN_ASK);
  return CSN_ERR_UNKNOWN_FIELD;
}

static csn_err git_member(csn_policy_reader *r, csn_span key, const cJSON *item) {
  if (csn_span_is(key, "push")) return members(r, item, push_member);
  if (csn_span_is(key, "push_approval")) return read_bool(item, &r->p->push_approval);
  return CSN_ERR_UNKNOWN_FIELD;
}

/* A number with up to `digits` decimals, in units of 10^-digits. */
static csn_err read_decimal(const cJSON *item, double max, uint32_t scale, uint64_t *out) {
  if (!cJSON_IsNumber(item)) return CSN_ERR_BAD_TYPE;
  double v = item->valuedouble;
  if (!(v > 0 && v <= max)) return CSN_ERR_OUT_OF_RANGE;
  double scaled = v * (double)scale + 0.5;
  uint64_t n = (uint64_t)scaled;
  if (n == 0) return CSN_ERR_OUT_OF_RANGE;
  *out = n;
  return CSN_ERR_OK;
}

static csn_err limits_member(csn_policy_reader *r, csn_span key, const cJSON *item) {
  csn_policy_limits *l = &r->p->limits;
  uint64_t wide = 0;
  /* The bounds are those of the core's counters and of the engine: what is accepted here is accepted there.
   */
  const struct {
    const char *key;
    uint32_t min, max, *out;
  } whole[] = {{"wall_s", CSN_TIMEOUT_S_MIN, CSN_TIMEOUT_S_MAX, &l->wall_s},
               {"idle_s", CSN_TIMEOUT_S_MIN, CSN_TIMEOUT_S_MAX, &l->idle_s},
               {"turns", 1, CSN_LIMIT_MAX, &l->turns},
               {"tool_calls", 1, CSN_LIMIT_MAX, &l->tool_calls},
               {"tokens", 1, CSN_LIMIT_MAX, &l->tokens},
               {"output_tokens", 1, CSN_LIMIT_MAX, &l->output_tokens},
               {"memory_mb", 16, 1048576, &l->memory_mb},
               {"processes", 8, 1048576, &l->processes},
               {"disk_mb", 1, 16777216, &l->disk_mb}};
  for (uint32_t i = 0; i < sizeof whole / sizeof whole[0]; i++)
    if (csn_span_is(key, whole[i].key)) return csn_doc_number(item, whole[i].min, whole[i].max, whole[i].out);
  if (csn_span_is(key, "cost_usd")) return read_decimal(item, 1e6, 1000000, &l->cost_micro_usd);
  if (csn_span_is(key, "output_bytes")) return read_decimal(item, 1e12, 1, &l->output_bytes);
  if (csn_span_is(key, "cpus")) {
    csn_err err = read_decimal(item, 1024, 1000, &wide);
    if (err == CSN_ERR_OK && wide < 10) return CSN_ERR_OUT_OF_RANGE;
    if (err == CSN_ERR_OK) l->cpus_milli = (uint32_t)wide;
    return err;
  }
  return CSN_ERR_UNKNOWN_FIELD;
}

/* The presets that need no operator. Each is what its name says with nothing of the session's added. */
static csn_err read_preset(csn_policy_reader *r, const cJSON *item) {
  static const char *const model_hosts[] = {"api.anthropic.com:443", "api.openai.com:443",
                                            "generativelanguage.googleapis.com:443", "*.caisson.internal"};
  csn_span name;
  csn_err err = csn_doc_text(item, 1, 64, &name);
  if (err != CSN_ERR_OK) return err;
  r->p->network_default = csn_span_is(name, "open") ? CSN_ALLOW : CSN_DENY;
  if (csn_span_is(name, "offline") || csn_span_is(name, "open")) return CSN_ERR_OK;
  if (!csn_span_is(name, "model-only")) return CSN_ERR_BAD_VALUE;
  for (uint32_t i = 0; i < sizeof model_hosts / sizeof *model_hosts && err == CSN_ERR_OK; i++)
    err = csn_policy_add_net(r->p, csn_span_str(model_hosts[i]), CSN_ALLOW, i, 1, false);
  return err;
}

static csn_err own_member(csn_policy_reader *r, csn_span key, const cJSON *item) {
  if (csn_span_is(key, "preset")) return CSN_ERR_OK; /* read first */
  if (csn_span_is(key, "network")) return members(r, item, network_member);
  if (csn_span_is(key, "tools")) return members(r, item, tools_member);
  if (csn_span_is(key, "artifacts")) return members(r, item, artifacts_member);
  if (csn_span_is(key, "git")) return members(r, item, git_member);
  if (csn_span_is(key, "limits")) return members(r, item, limits_member);
  return CSN_ERR_UNKNOWN_FIELD;
}

static csn_err read_own(csn_policy_reader *r, const cJSON *root) {
  const cJSON *preset = cJSON_GetObjectItemCaseSensitive(root, "preset");
  csn_pointer_set(r->bad, "/preset");
  csn_err err = preset == NULL ? CSN_ERR_OK : read_preset(r, preset);
  if (err != CSN_ERR_OK) return err;
  csn_pointer_set(r->bad, "");
  return members(r, root, own_member);
}

static bool has(const cJSON *object, const char *key) {
  return cJSON_GetObjectItemCaseSensitive(object, key) != NULL;
}

static csn_policy_dialect detect(const cJSON *root) {
  const cJSON *network = cJSON_GetObjectItemCaseSensitive(root, "network");
  if (has(root, "docker")) return CSN_POLICY_DOCKER;
  if (has(root, "permissions") || has(root, "sandbox")) return CSN_POLICY_CLAUDE;
  if (has(root, "allowOut") || has(root, "denyOut") || has(root, "allow_out") || has(root, "deny_out"))
    return CSN_POLICY_E2B;
  if (has(root, "filesystem") || has(network, "allowedDomains") || has(network, "deniedDomains"))
    return CSN_POLICY_SANDBOX_RUNTIME;
  if (has(network, "allowOut") || has(network, "denyOut") || has(network, "rules")) return CSN_POLICY_E2B;
  return CSN_POLICY_OWN;
}

const char *csn_policy_dialect_text(csn_policy_dialect d) {
  switch (d) {
  case CSN_POLICY_AUTO:
    return "auto";
  case CSN_POLICY_OWN:
    return "caisson";
  case CSN_POLICY_CLAUDE:
    return "claude-code";
  case CSN_POLICY_E2B:
    return "e2b";
  case CSN_POLICY_DOCKER:
    return "docker-sandbox";
  case CSN_POLICY_SANDBOX_RUNTIME:
    return "sandbox-runtime";
  }
  __builtin_trap();
}

csn_err csn_policy_compile(csn_policy *p, csn_arena *a, csn_span doc, csn_policy_dialect *dialect, bool add,
                           csn_fx *report, csn_pointer *bad) {
  const cJSON *root;
  csn_policy_reader r = {p, a, report, bad, report->len, 0};
  csn_pointer_set(bad, "");
  if (!add) csn_policy_init(p);
  /* What was there counts as a preset from here on. */
  for (uint32_t i = 0; i < p->net_count; i++)
    p->net[i].source = 1;
  for (uint32_t i = 0; i < p->tool_count; i++)
    p->tools[i].source = 1;
  for (uint32_t i = 0; i < p->inject_count; i++)
    p->inject[i].match.source = 1;
  for (uint32_t i = 0; i < p->push_count; i++)
    p->push[i].match.source = 1;
  csn_err err =
      doc.len > CSN_POLICY_DOC_MAX ? CSN_ERR_TOO_LONG : csn_doc_parse(a, doc, CSN_POLICY_VALUES_MAX, &root);
  if (err == CSN_ERR_OK) {
    if (*dialect == CSN_POLICY_AUTO) *dialect = detect(root);
    switch (*dialect) {
    case CSN_POLICY_AUTO:
    case CSN_POLICY_OWN:
      err = read_own(&r, root);
      break;
    case CSN_POLICY_CLAUDE:
      err = csn_policy_read_claude(&r, root);
      break;
    case CSN_POLICY_E2B:
      err = csn_policy_read_e2b(&r, root);
      break;
    case CSN_POLICY_DOCKER:
      err = csn_policy_read_docker(&r, root);
      break;
    case CSN_POLICY_SANDBOX_RUNTIME:
      err = csn_policy_read_runtime(&r, root);
      break;
    }
  }
  if (err != CSN_ERR_OK) {
    csn_policy_init(p);
    return err;
  }
  csn_policy_index(p);
  return CSN_ERR_OK;
}
