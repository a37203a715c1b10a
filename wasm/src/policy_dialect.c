/* policy_dialect.c - the settings of other sandboxes, mapped to the same table. Facts:
 *   Claude Code      settings.json, `sandbox` and `permissions` (code.claude.com/docs: settings, sandboxing,
 * iam) E2B              `network` of Sandbox.create: allowOut, denyOut, rules, allowPublicTraffic
 * (e2b.dev/docs) Docker sandboxes `docker sandbox network proxy` options (docs.docker.com/ai/sandboxes)
 *   sandbox-runtime  ~/.srt-settings.json (github.com/anthropic-experimental/sandbox-runtime)
 * What has no equal here is reported, never guessed. A pattern that cannot be read is an error. */
#include "policy_table.h"

#include "cJSON.h"

void csn_policy_unmapped(csn_policy_reader *r, const char *why) {
  csn_fx *fx = r->report;
  uint32_t why_len = csn_str_len(why);
  if (csn_fx_room(fx) < 6u * (r->bad->len + why_len) + 64u) return;
  if (fx->len > r->report_start) csn_put_str(fx, ",");
  csn_put_str(fx, "{\"pointer\":\"");
  csn_put_escaped(fx, csn_span_of(r->bad->bytes, r->bad->len));
  csn_put_str(fx, "\",\"why\":\"");
  csn_put_escaped(fx, csn_span_of(why, why_len));
  csn_put_str(fx, "\"}");
}

typedef csn_err (*item_fn)(csn_policy_reader *r, csn_span text, uint32_t index, int arg);

/* Every text of an array. */
static csn_err texts(csn_policy_reader *r, const cJSON *array, item_fn fn, int arg) {
  if (!cJSON_IsArray(array)) return CSN_ERR_BAD_TYPE;
  uint32_t base = r->bad->len, index = 0;
  for (const cJSON *item = array->child; item != NULL; item = item->next, index++) {
    csn_span text;
    r->bad->len = base;
    csn_pointer_push_index(r->bad, index);
    csn_err err = csn_doc_text(item, 1, CSN_POLICY_PATTERN_MAX, &text);
    if (err == CSN_ERR_OK) err = fn(r, text, index, arg);
    if (err != CSN_ERR_OK) return err;
  }
  r->bad->len = base;
  return CSN_ERR_OK;
}

static bool every_address(csn_span text) {
  return csn_span_is(text, "0.0.0.0/0") || csn_span_is(text, "::/0") || csn_span_is(text, "*");
}

static csn_err net(csn_policy_reader *r, csn_span text, uint32_t index, int action) {
  if (every_address(text)) text = csn_span_str("*");
  return csn_policy_add_net(r->p, text, (csn_action)action, index, r->source, false);
}

static csn_err tool(csn_policy_reader *r, csn_span text, uint32_t index, int action) {
  return csn_policy_add_tool(r->p, text, (csn_action)action, index, r->source);
}

/* A path that may not be read or written, as a rule for the tool of that name. */
static csn_err path_rule(csn_policy_reader *r, csn_span path, uint32_t index, const char *name) {
  uint32_t name_len = csn_str_len(name);
  bool absolute = path.ptr[0] == '/';
  uint32_t len = name_len + 2 + path.len + (absolute ? 1 : 0);
  uint8_t *rule = csn_arena_take(r->arena, len);
  if (rule == NULL) return CSN_ERR_NO_MEMORY;
  uint32_t at = name_len;
  memcpy(rule, name, name_len);
  rule[at++] = '(';
  if (absolute) rule[at++] = '/'; /* //path is absolute in a rule; /path is from the workspace */
  memcpy(rule + at, path.ptr, path.len);
  rule[len - 1] = ')';
  return csn_policy_add_tool(r->p, csn_span_of(rule, len), CSN_DENY, index, r->source);
}
static csn_err deny_read(csn_policy_reader *r, csn_span path, uint32_t index, int arg) {
  (void)arg;
  return path_rule(r, path, index, "Read");
}
static csn_err deny_write(csn_policy_reader *r, csn_span path, uint32_t index, int arg) {
  (void)arg;
  return path_rule(r, path, index, "Edit");
}

/* `network` of Claude Code and of sandbox-runtime. */
static csn_err domains(csn_policy_reader *r, const cJSON *network) {
  if (!cJSON_IsObject(network)) return CSN_ERR_BAD_TYPE;
  uint32_t base = r->bad->len;
  for (const cJSON *item = network->child; item != NULL; item = item->next) {
    csn_span key = csn_span_str(item->string);
    csn_err err = CSN_ERR_OK;
    r->bad->len = base;
    csn_pointer_push(r->bad, item->string);
    if (csn_span_is(key, "allowedDomains"))
      err = texts(r, item, net, CSN_ALLOW);
    else if (csn_span_is(key, "deniedDomains"))
      err = texts(r, item, net, CSN_DENY);
    else if (csn_span_is(key, "allowLocalBinding"))
      csn_policy_unmapped(r, "a sandbox has a loopback of its own; binding there is always allowed");
    else if (csn_span_is(key, "allowUnixSockets") || csn_span_is(key, "allowAllUnixSockets"))
      csn_policy_unmapped(r, "no socket of the host is in a sandbox, and its own are always allowed");
    else
      csn_policy_unmapped(r, "no equal here");
    if (err != CSN_ERR_OK) return err;
  }
  r->bad->len = base;
  return CSN_ERR_OK;
}

static csn_err filesystem(csn_policy_reader *r, const cJSON *fs) {
  if (!cJSON_IsObject(fs)) return CSN_ERR_BAD_TYPE;
  uint32_t base = r->bad->len;
  for (const cJSON *item = fs->child; item != NULL; item = item->next) {
    csn_span key = csn_span_str(item->string);
    csn_err err = CSN_ERR_OK;
    r->bad->len = base;
    csn_pointer_push(r->bad, item->string);
    if (csn_span_is(key, "denyRead"))
      err = texts(r, item, deny_read, 0);
    else if (csn_span_is(key, "denyWrite"))
      err = texts(r, item, deny_write, 0);
    else
      csn_policy_unmapped(
          r, "a sandbox's file system is its own: nothing of the host's is in it to be kept from it");
    if (err != CSN_ERR_OK) return err;
  }
  r->bad->len = base;
  return CSN_ERR_OK;
}

/* --- Claude Code
 * -------------------------------------------------------------------------------------------------- */

/* What Claude Code's mode allows without a rule. */
static csn_err claude_mode(csn_policy_reader *r, const cJSON *item, bool *listed) {
  if (!cJSON_IsString(item)) return CSN_ERR_BAD_TYPE;
  csn_span mode = csn_span_str(item->valuestring);
  if (csn_span_is(mode, "bypassPermissions")) {
    *listed = false;
  } else if (csn_span_is(mode, "acceptEdits")) {
    return csn_policy_add_tool(r->p, csn_span_str("Edit"), CSN_ALLOW, CSN_POLICY_NO_RULE, r->source);
  } else if (!csn_span_is(mode, "default") && !csn_span_is(mode, "dontAsk")) {
    csn_policy_unmapped(r, "this mode has no equal here; read as default");
  }
  return CSN_ERR_OK;
}

static csn_err claude_permissions(csn_policy_reader *r, const cJSON *permissions) {
  /* What Claude Code runs without asking in its default mode. */
  static const char *const free_tools[] = {"Read",      "Glob", "Grep",         "LS",
                                           "TodoWrite", "Task", "ExitPlanMode", "BashOutput"};
  bool listed = true;
  csn_err err = CSN_ERR_OK;
  if (!cJSON_IsObject(permissions)) return CSN_ERR_BAD_TYPE;
  uint32_t base = r->bad->len;
  for (const cJSON *item = permissions->child; item != NULL; item = item->next) {
    csn_span key = csn_span_str(item->string);
    r->bad->len = base;
    csn_pointer_push(r->bad, item->string);
    if (csn_span_is(key, "allow"))
      err = texts(r, item, tool, CSN_ALLOW);
    else if (csn_span_is(key, "deny"))
      err = texts(r, item, tool, CSN_DENY);
    else if (csn_span_is(key, "ask"))
      err = texts(r, item, tool, CSN_ASK);
    else if (csn_span_is(key, "defaultMode"))
      err = claude_mode(r, item, &listed);
    else
      csn_policy_unmapped(r, "no equal here");
    if (err != CSN_ERR_OK) return err;
  }
  r->bad->len = base;
  r->p->tools_listed = listed ? 1 : 0;
  for (uint32_t i = 0; listed && err == CSN_ERR_OK && i < sizeof free_tools / sizeof *free_tools; i++)
    err = csn_policy_add_tool(r->p, csn_span_str(free_tools[i]), CSN_ALLOW, CSN_POLICY_NO_RULE, r->source);
  return err;
}

static csn_err claude_sandbox(csn_policy_reader *r, const cJSON *sandbox) {
  if (!cJSON_IsObject(sandbox)) return CSN_ERR_BAD_TYPE;
  uint32_t base = r->bad->len;
  for (const cJSON *item = sandbox->child; item != NULL; item = item->next) {
    csn_span key = csn_span_str(item->string);
    csn_err err = CSN_ERR_OK;
    r->bad->len = base;
    csn_pointer_push(r->bad, item->string);
    if (csn_span_is(key, "network"))
      err = domains(r, item);
    else if (csn_span_is(key, "filesystem"))
      err = filesystem(r, item);
    else if (csn_span_is(key, "enabled") || csn_span_is(key, "failIfUnavailable"))
      csn_policy_unmapped(r, "every command runs in a sandbox here; it cannot be switched off");
    else if (csn_span_is(key, "excludedCommands") || csn_span_is(key, "allowUnsandboxedCommands"))
      csn_policy_unmapped(r, "no command runs outside the sandbox here");
    else
      csn_policy_unmapped(r, "no equal here");
    if (err != CSN_ERR_OK) return err;
  }
  r->bad->len = base;
  return CSN_ERR_OK;
}

csn_err csn_policy_read_claude(csn_policy_reader *r, const cJSON *root) {
  for (const cJSON *item = root->child; item != NULL; item = item->next) {
    csn_span key = csn_span_str(item->string);
    csn_err err = CSN_ERR_OK;
    csn_pointer_set(r->bad, "");
    csn_pointer_push(r->bad, item->string);
    if (csn_doc_seen_before(root, item)) return CSN_ERR_BAD_VALUE;
    if (csn_span_is(key, "sandbox"))
      err = claude_sandbox(r, item);
    else if (csn_span_is(key, "permissions"))
      err = claude_permissions(r, item);
    else if (!csn_span_is(key, "$schema"))
      csn_policy_unmapped(r, "not a setting of the sandbox or the permissions");
    if (err != CSN_ERR_OK) return err;
  }
  return CSN_ERR_OK;
}

/* --- E2B
 * ----------------------------------------------------------------------------------------------------------
 */

/* "text ${NAME} text": the secret's name, and the text with "{}" in its place. False when there is no such
 * reference. */
static bool secret_reference(csn_arena *a, csn_span value, csn_span *secret, csn_span *format) {
  uint32_t open = 0, close;
  while (open + 1 < value.len && !(value.ptr[open] == '$' && value.ptr[open + 1] == '{'))
    open++;
  if (open + 1 >= value.len) return false;
  for (close = open + 2; close < value.len && value.ptr[close] != '}'; close++) {
    uint8_t c = value.ptr[close];
    if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'))
      return false;
  }
  if (close >= value.len || close == open + 2) return false;
  uint32_t tail = value.len - close - 1;
  uint8_t *text = csn_arena_take(a, open + 2 + tail);
  if (text == NULL) return false;
  memcpy(text, value.ptr, open);
  memcpy(text + open, "{}", 2);
  memcpy(text + open + 2, value.ptr + close + 1, tail);
  *secret = csn_span_of(value.ptr + open + 2, close - open - 2);
  *format = csn_span_of(text, open + 2 + tail);
  for (uint32_t i = 0; i < format->len; i++)
    if (text[i] < 0x20 || text[i] > 0x7e) return false;
  return true;
}

static csn_err e2b_headers(csn_policy_reader *r, csn_span host, const cJSON *headers) {
  if (!cJSON_IsObject(headers)) return CSN_ERR_BAD_TYPE;
  uint32_t base = r->bad->len;
  for (const cJSON *h = headers->child; h != NULL; h = h->next) {
    csn_span value, secret, format;
    csn_inject_rule in = {0};
    r->bad->len = base;
    csn_pointer_push(r->bad, h->string);
    csn_err err = csn_doc_text(h, 1, CSN_POLICY_PATTERN_MAX, &value);
    if (err != CSN_ERR_OK) return err;
    if (!secret_reference(r->arena, value, &secret, &format)) {
      csn_policy_unmapped(r, "a value in the document is no secret any more: put it into the session's "
                             "secrets and write ${NAME}");
      continue;
    }
    /* A name with a line's end in it would add headers of its own. */
    if (!csn_policy_is_token(csn_span_str(h->string))) return CSN_ERR_BAD_VALUE;
    if (r->p->inject_count == CSN_POLICY_INJECT_MAX) return CSN_ERR_NO_MEMORY;
    err = csn_policy_parse_net(r->p, host, &in.match);
    if (err == CSN_ERR_OK &&
        (in.match.kind == CSN_NET_ANY || (in.match.kind == CSN_NET_CIDR && in.match.bits != 128)))
      err = CSN_ERR_BAD_VALUE;
    if (err == CSN_ERR_OK) err = csn_policy_add_text(r->p, csn_span_str(h->string), &in.header);
    if (err == CSN_ERR_OK) err = csn_policy_add_text(r->p, secret, &in.secret);
    if (err == CSN_ERR_OK) err = csn_policy_add_text(r->p, format, &in.format);
    if (err != CSN_ERR_OK) return err;
    in.match.rule = r->p->inject_count;
    r->p->inject[r->p->inject_count++] = in;
  }
  r->bad->len = base;
  return CSN_ERR_OK;
}

/* {"host": [{"transform": {"headers": {...}}}]} */
static csn_err e2b_rules(csn_policy_reader *r, const cJSON *rules) {
  if (!cJSON_IsObject(rules)) return CSN_ERR_BAD_TYPE;
  uint32_t base = r->bad->len;
  for (const cJSON *host = rules->child; host != NULL; host = host->next) {
    r->bad->len = base;
    csn_pointer_push(r->bad, host->string);
    if (!cJSON_IsArray(host)) return CSN_ERR_BAD_TYPE;
    uint32_t at_host = r->bad->len, index = 0;
    for (const cJSON *rule = host->child; rule != NULL; rule = rule->next, index++) {
      r->bad->len = at_host;
      csn_pointer_push_index(r->bad, index);
      const cJSON *transform = cJSON_GetObjectItemCaseSensitive(rule, "transform");
      if (cJSON_IsArray(transform)) transform = transform->child;
      const cJSON *headers = cJSON_GetObjectItemCaseSensitive(transform, "headers");
      if (headers == NULL) {
        csn_policy_unmapped(r, "only header transforms have an equal here");
        continue;
      }
      csn_pointer_push(r->bad, "transform");
      csn_pointer_push(r->bad, "headers");
      csn_err err = e2b_headers(r, csn_span_str(host->string), headers);
      if (err != CSN_ERR_OK) return err;
    }
  }
  r->bad->len = base;
  return CSN_ERR_OK;
}

static csn_err e2b_network(csn_policy_reader *r, const cJSON *network, bool *denies) {
  if (!cJSON_IsObject(network)) return CSN_ERR_BAD_TYPE;
  uint32_t base = r->bad->len;
  for (const cJSON *item = network->child; item != NULL; item = item->next) {
    csn_span key = csn_span_str(item->string);
    csn_err err = CSN_ERR_OK;
    r->bad->len = base;
    csn_pointer_push(r->bad, item->string);
    if (csn_span_is(key, "allowOut") || csn_span_is(key, "allow_out"))
      err = texts(r, item, net, CSN_ALLOW);
    else if (csn_span_is(key, "denyOut") || csn_span_is(key, "deny_out")) {
      *denies = true;
      err = texts(r, item, net, CSN_DENY);
    } else if (csn_span_is(key, "rules"))
      err = e2b_rules(r, item);
    else
      csn_policy_unmapped(r, "no equal here");
    if (err != CSN_ERR_OK) return err;
  }
  r->bad->len = base;
  return CSN_ERR_OK;
}

csn_err csn_policy_read_e2b(csn_policy_reader *r, const cJSON *root) {
  const cJSON *network = cJSON_GetObjectItemCaseSensitive(root, "network");
  const cJSON *internet = cJSON_GetObjectItemCaseSensitive(root, "allowInternetAccess");
  if (internet == NULL) internet = cJSON_GetObjectItemCaseSensitive(root, "allow_internet_access");
  bool denies = false;
  csn_pointer_set(r->bad, network != NULL ? "/network" : "");
  csn_err err = e2b_network(r, network != NULL ? network : root, &denies);
  if (err != CSN_ERR_OK) return err;
  /* E2B's sandboxes reach the internet unless they are told not to. */
  r->p->network_default = cJSON_IsFalse(internet) ? CSN_DENY : CSN_ALLOW;
  csn_pointer_set(r->bad, "");
  if (!denies && r->p->network_default == CSN_ALLOW)
    csn_policy_unmapped(r, "without denyOut everything public is allowed, as it is with E2B");
  return CSN_ERR_OK;
}

/* --- Docker sandboxes
 * --------------------------------------------------------------------------------------------- */

csn_err csn_policy_read_docker(csn_policy_reader *r, const cJSON *root) {
  static const struct {
    const char *flag;
    uint8_t action;
    bool bypass;
  } flags[] = {{"--allow-host", CSN_ALLOW, false}, {"--allow-cidr", CSN_ALLOW, false},
               {"--block-host", CSN_DENY, false},  {"--block-cidr", CSN_DENY, false},
               {"--bypass-host", CSN_ALLOW, true}, {"--bypass-cidr", CSN_ALLOW, true}};
  const cJSON *list = cJSON_GetObjectItemCaseSensitive(root, "docker");
  csn_pointer_set(r->bad, "/docker");
  if (!cJSON_IsArray(list)) return CSN_ERR_BAD_TYPE;
  uint32_t base = r->bad->len, index = 0;
  r->p->network_default = CSN_ALLOW; /* docker's own default */
  for (const cJSON *item = list->child; item != NULL; item = item->next, index++) {
    csn_span flag, value;
    r->bad->len = base;
    csn_pointer_push_index(r->bad, index);
    csn_err err = csn_doc_text(item, 1, CSN_POLICY_PATTERN_MAX, &flag);
    if (err != CSN_ERR_OK) return err;
    uint32_t equals = 0;
    while (equals < flag.len && flag.ptr[equals] != '=')
      equals++;
    if (equals < flag.len) {
      value = csn_span_of(flag.ptr + equals + 1, flag.len - equals - 1);
      flag.len = equals;
    } else {
      item = item->next;
      index++;
      if (item == NULL) return CSN_ERR_MISSING_FIELD;
      err = csn_doc_text(item, 1, CSN_POLICY_PATTERN_MAX, &value);
      if (err != CSN_ERR_OK) return err;
    }
    if (csn_span_is(flag, "--policy")) {
      if (!csn_span_is(value, "allow") && !csn_span_is(value, "deny")) return CSN_ERR_BAD_VALUE;
      r->p->network_default = csn_span_is(value, "allow") ? CSN_ALLOW : CSN_DENY;
      continue;
    }
    uint32_t i = 0;
    while (i < sizeof flags / sizeof *flags && !csn_span_is(flag, flags[i].flag))
      i++;
    if (i == sizeof flags / sizeof *flags) return CSN_ERR_UNKNOWN_FIELD;
    if (flags[i].bypass)
      csn_policy_unmapped(r, "allowed, but its connections are looked into like all others");
    err = net(r, value, index, flags[i].action);
    if (err != CSN_ERR_OK) return err;
  }
  return CSN_ERR_OK;
}

/* --- sandbox-runtime
 * ---------------------------------------------------------------------------------------------- */

csn_err csn_policy_read_runtime(csn_policy_reader *r, const cJSON *root) {
  for (const cJSON *item = root->child; item != NULL; item = item->next) {
    csn_span key = csn_span_str(item->string);
    csn_err err = CSN_ERR_OK;
    csn_pointer_set(r->bad, "");
    csn_pointer_push(r->bad, item->string);
    if (csn_doc_seen_before(root, item)) return CSN_ERR_BAD_VALUE;
    if (csn_span_is(key, "network"))
      err = domains(r, item);
    else if (csn_span_is(key, "filesystem"))
      err = filesystem(r, item);
    else
      csn_policy_unmapped(r, "no equal here");
    if (err != CSN_ERR_OK) return err;
  }
  return CSN_ERR_OK;
}
