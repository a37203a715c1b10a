/* policy_print.c - verdicts in words, and the table as a document. */
#include "policy_table.h"

static void put_span(csn_fx *out, csn_span s) {
  csn_fx_put(out, s.ptr, s.len);
}

/* A rule's pattern in our own dialect. */
static void put_net(const csn_policy *p, const csn_net_rule *r, csn_fx *out) {
  uint8_t text[CSN_HOST_TEXT_MAX];
  bool v6 = r->kind == CSN_NET_CIDR && !(csn_addr_is_v4(&r->net) && r->bits >= 96);
  switch ((enum csn_net_kind)r->kind) {
  case CSN_NET_NAME:
    put_span(out, csn_policy_text(p, r->host));
    break;
  case CSN_NET_WILD:
    csn_put_str(out, "*.");
    put_span(out, csn_policy_text(p, r->host));
    break;
  case CSN_NET_CIDR:
    if (v6 && r->port != 0) csn_put_str(out, "[");
    put_span(out, csn_span_of(text, csn_addr_text(&r->net, text)));
    if (r->bits != 128) {
      csn_put_str(out, "/");
      csn_put_u64(out, v6 ? r->bits : r->bits - 96u);
    }
    if (v6 && r->port != 0) csn_put_str(out, "]");
    break;
  case CSN_NET_ANY:
    csn_put_str(out, "*");
    break;
  }
  if (r->port != 0) {
    csn_put_str(out, ":");
    csn_put_u64(out, r->port);
  }
}

/* Tool(specifier) */
static void put_tool(const csn_tool_table *t, const csn_tool_rule *r, csn_fx *out, bool escaped) {
  csn_span tool = csn_tool_text(t, r->tool), spec = csn_tool_text(t, r->spec);
  put_span(out, tool);
  if (spec.len == 0) return;
  csn_put_str(out, "(");
  if (escaped)
    csn_put_escaped(out, spec);
  else
    put_span(out, spec);
  csn_put_str(out, ")");
}

static bool of_tool(csn_verdict v) {
  return v.list == CSN_LIST_TOOL_ALLOW || v.list == CSN_LIST_TOOL_DENY || v.list == CSN_LIST_TOOL_ASK;
}

void csn_policy_rule_name(csn_verdict v, csn_fx *out) {
  static const char *const lists[] = {"network.allow", "network.deny",   "tools.allow",   "tools.deny",
                                      "tools.ask",     "git.push.allow", "git.push.deny", "git.push.ask"};
  switch ((csn_why)v.why) {
  case CSN_WHY_DEFAULT:
    csn_put_str(out, "network.default");
    break;
  case CSN_WHY_RULE:
    csn_put_str(out, lists[v.list]);
    if (v.rule == CSN_POLICY_NO_RULE) break;
    csn_put_str(out, "[");
    csn_put_u64(out, v.rule);
    csn_put_str(out, "]");
    break;
  case CSN_WHY_RANGE:
    csn_put_str(out, "network.private_ranges");
    break;
  case CSN_WHY_BAD_HOST:
    csn_put_str(out, "network.host");
    break;
  case CSN_WHY_BAD_PATH:
    csn_put_str(out, "tools.path");
    break;
  case CSN_WHY_DOUBT:
    csn_put_str(out, "tools.command");
    break;
  case CSN_WHY_UNLISTED:
    csn_put_str(out, "tools.allow");
    break;
  case CSN_WHY_NO_RULES:
    csn_put_str(out, "tools");
    break;
  case CSN_WHY_PUSH:
    csn_put_str(out, "git.push_approval");
    break;
  }
}

static bool of_push(csn_verdict v) {
  return v.list == CSN_LIST_PUSH_ALLOW || v.list == CSN_LIST_PUSH_DENY || v.list == CSN_LIST_PUSH_ASK;
}

static void put_push(const csn_policy *p, const csn_push_rule *r, csn_fx *out) {
  put_net(p, &r->match, out);
  if (r->path.len == 0) return;
  csn_put_str(out, "/");
  put_span(out, csn_policy_text(p, r->path));
}

void csn_tools_pattern(const csn_tool_table *t, csn_verdict v, csn_fx *out) {
  if (v.why != CSN_WHY_RULE || v.slot == CSN_POLICY_NO_RULE) return;
  CSN_INVARIANT(v.slot < t->count);
  put_tool(t, &t->rules[v.slot], out, false);
}

void csn_policy_pattern(const csn_policy *p, csn_verdict v, csn_fx *out) {
  if (v.why != CSN_WHY_RULE) return;
  if (of_tool(v)) {
    csn_tool_table t = csn_policy_tools(p);
    csn_tools_pattern(&t, v, out);
  } else if (of_push(v)) {
    CSN_INVARIANT(v.slot < p->push_count);
    put_push(p, &p->push[v.slot], out);
  } else {
    CSN_INVARIANT(v.slot < p->net_count);
    put_net(p, &p->net[v.slot], out);
  }
}

/* `pattern` is the rule's own text, empty when it is not known any more. */
static void put_sentence(csn_verdict v, csn_span what, csn_span pattern, csn_fx *out) {
  static const char *const verbs[] = {"is denied", "is allowed", "needs an approval"};
  uint32_t what_max = CSN_POLICY_SENTENCE_MAX - CSN_POLICY_PATTERN_MAX - 512u;
  if (what.len > what_max) what.len = csn_utf8_whole(csn_span_of(what.ptr, what_max));
  put_span(out, what);
  csn_put_str(out, " ");
  csn_put_str(out, verbs[v.action]);
  switch ((csn_why)v.why) {
  case CSN_WHY_DEFAULT:
    if (v.action == CSN_ALLOW) {
      csn_put_str(out, ": network.default is allow and no rule names it.");
    } else {
      csn_put_str(out, ": no rule allows it and network.default is deny. To allow it, add \"");
      put_span(out, what);
      csn_put_str(out, "\" to network.allow of the session's policy.");
    }
    break;
  case CSN_WHY_RULE:
    csn_put_str(out, " by ");
    csn_policy_rule_name(v, out);
    if (pattern.len > 0) {
      csn_put_str(out, " \"");
      put_span(out, pattern);
      csn_put_str(out, "\"");
    }
    csn_put_str(out, ".");
    if (v.action == CSN_DENY) csn_put_str(out, " Only a change of the session's policy can allow it.");
    break;
  case CSN_WHY_RANGE:
    csn_put_str(out, ": the address is ");
    csn_put_str(out, csn_addr_class_text((csn_addr_class)v.class));
    csn_put_str(out, " and no rule names that range. To allow it, add the address or its CIDR block to "
                     "network.allow of the session's policy.");
    break;
  case CSN_WHY_BAD_HOST:
    csn_put_str(out, ": this is no host name, address or port that a policy can judge.");
    break;
  case CSN_WHY_BAD_PATH:
    csn_put_str(out, ": the path is too long to be judged.");
    break;
  case CSN_WHY_DOUBT:
    csn_put_str(out, ": the command has parts that the rules cannot judge (substitution, redirection, "
                     "grouping, a variable or a pipe that says what is run, or too long). "
                     "Run its parts one by one.");
    break;
  case CSN_WHY_UNLISTED:
    csn_put_str(out, ": tools.allow does not name it. To allow it, add a rule for it to tools.allow of the "
                     "session's policy.");
    break;
  case CSN_WHY_NO_RULES:
    csn_put_str(out, ": no rule speaks of it and there is no tools.allow.");
    break;
  case CSN_WHY_PUSH:
    csn_put_str(out, v.action == CSN_ASK
                         ? ": git.push_approval is set and no rule of git.push allows it."
                         : ": git.push_approval is not set and no rule of git.push names it.");
    break;
  }
}

/* A network pattern is longer than it was written when its address was shortened. */
#define PATTERN_CAP (CSN_POLICY_PATTERN_MAX + 64u)

void csn_policy_sentence(const csn_policy *p, csn_verdict v, csn_span what, csn_fx *out) {
  uint8_t pattern[PATTERN_CAP];
  csn_fx text = {pattern, sizeof pattern, 0};
  csn_policy_pattern(p, v, &text);
  put_sentence(v, what, csn_span_of(pattern, text.len), out);
}

void csn_tools_sentence(const csn_tool_table *t, csn_verdict v, csn_span what, csn_fx *out) {
  uint8_t pattern[PATTERN_CAP];
  csn_fx text = {pattern, sizeof pattern, 0};
  csn_tools_pattern(t, v, &text);
  put_sentence(v, what, csn_span_of(pattern, text.len), out);
}

/* --- the table as a document
 * -------------------------------------------------------------------------------------- */

static void key(csn_fx *out, bool *first, const char *name) {
  csn_put_str(out, *first ? "\"" : ",\"");
  *first = false;
  csn_put_str(out, name);
  csn_put_str(out, "\":");
}

static void put_net_list(const csn_policy *p, csn_action action, csn_fx *out) {
  bool first = true;
  csn_put_str(out, "[");
  for (uint32_t i = 0; i < p->net_count; i++) {
    if (p->net[i].action != action) continue;
    csn_put_str(out, first ? "\"" : ",\"");
    first = false;
    put_net(p, &p->net[i], out);
    csn_put_str(out, "\"");
  }
  csn_put_str(out, "]");
}

static void put_tool_list(const csn_policy *p, csn_action action, csn_fx *out) {
  csn_tool_table t = csn_policy_tools(p);
  bool first = true;
  csn_put_str(out, "[");
  for (uint32_t i = 0; i < p->tool_count; i++) {
    if (p->tools[i].action != action) continue;
    csn_put_str(out, first ? "\"" : ",\"");
    first = false;
    put_tool(&t, &p->tools[i], out, true);
    csn_put_str(out, "\"");
  }
  csn_put_str(out, "]");
}

static void put_push_list(const csn_policy *p, const char *name, csn_action action, csn_fx *out) {
  bool first = true;
  csn_put_str(out, name);
  for (uint32_t i = 0; i < p->push_count; i++) {
    if (p->push[i].match.action != action) continue;
    csn_put_str(out, first ? "\"" : ",\"");
    first = false;
    put_push(p, &p->push[i], out);
    csn_put_str(out, "\"");
  }
  csn_put_str(out, "]");
}

static void put_text(const csn_policy *p, csn_text_ref ref, csn_fx *out) {
  csn_put_str(out, "\"");
  csn_put_escaped(out, csn_policy_text(p, ref));
  csn_put_str(out, "\"");
}

static void put_inject(const csn_policy *p, csn_fx *out) {
  csn_put_str(out, "[");
  for (uint32_t i = 0; i < p->inject_count; i++) {
    const csn_inject_rule *r = &p->inject[i];
    csn_put_str(out, i == 0 ? "{\"host\":\"" : ",{\"host\":\"");
    put_net(p, &r->match, out);
    csn_put_str(out, "\"");
    if (r->header.len > 0) {
      csn_put_str(out, ",\"header\":");
      put_text(p, r->header, out);
    }
    csn_put_str(out, ",\"secret\":");
    put_text(p, r->secret, out);
    if (r->format.len > 0) {
      csn_put_str(out, ",\"format\":");
      put_text(p, r->format, out);
    }
    if (r->flags & CSN_INJECT_BODY) csn_put_str(out, ",\"body\":true");
    csn_put_str(out, "}");
  }
  csn_put_str(out, "]");
}

static void put_globs(const csn_policy *p, const csn_text_ref *list, uint32_t count, csn_fx *out) {
  csn_put_str(out, "[");
  for (uint32_t i = 0; i < count; i++) {
    if (i > 0) csn_put_str(out, ",");
    put_text(p, list[i], out);
  }
  csn_put_str(out, "]");
}

/* A number of units of 10^-digits as a decimal. */
static void put_decimal(csn_fx *out, uint64_t value, uint32_t digits) {
  uint64_t scale = 1;
  for (uint32_t i = 0; i < digits; i++)
    scale *= 10;
  /* cppcheck-suppress zerodivcond ; a power of ten */
  csn_put_u64(out, value / scale);
  value %= scale;
  if (value == 0) return;
  csn_put_str(out, ".");
  while (value > 0) {
    scale /= 10;
    /* cppcheck-suppress zerodivcond ; what is left of value is less than scale was, so scale is 1 or more */
    csn_put_u64(out, value / scale);
    value %= scale;
  }
}

static void put_limits(const csn_policy_limits *l, csn_fx *out) {
  bool first = true;
  const struct {
    const char *name;
    uint64_t value;
    uint32_t digits;
  } all[] = {{"wall_s", l->wall_s, 0},
             {"idle_s", l->idle_s, 0},
             {"turns", l->turns, 0},
             {"tool_calls", l->tool_calls, 0},
             {"tokens", l->tokens, 0},
             {"output_tokens", l->output_tokens, 0},
             {"cost_usd", l->cost_micro_usd, 6},
             {"output_bytes", l->output_bytes, 0},
             {"memory_mb", l->memory_mb, 0},
             {"cpus", l->cpus_milli, 3},
             {"processes", l->processes, 0},
             {"disk_mb", l->disk_mb, 0}};
  csn_put_str(out, "{");
  for (uint32_t i = 0; i < sizeof all / sizeof *all; i++) {
    if (all[i].value == 0) continue;
    key(out, &first, all[i].name);
    put_decimal(out, all[i].value, all[i].digits);
  }
  csn_put_str(out, "}");
}

void csn_policy_print(const csn_policy *p, csn_fx *out) {
  csn_put_str(out, "{\"network\":{\"default\":");
  csn_put_str(out, p->network_default == CSN_ALLOW ? "\"allow\"" : "\"deny\"");
  csn_put_str(out, ",\"allow\":");
  put_net_list(p, CSN_ALLOW, out);
  csn_put_str(out, ",\"deny\":");
  put_net_list(p, CSN_DENY, out);
  csn_put_str(out, ",\"private_ranges\":");
  csn_put_str(out, p->private_allowed ? "\"allow\"" : "\"deny\"");
  csn_put_str(out, ",\"websockets\":");
  csn_put_str(out, p->websockets ? "\"allow\"" : "\"deny\"");
  csn_put_str(out, ",\"inject\":");
  put_inject(p, out);
  csn_put_str(out, "},\"tools\":{");
  if (p->tools_listed) {
    csn_put_str(out, "\"allow\":");
    put_tool_list(p, CSN_ALLOW, out);
    csn_put_str(out, ",");
  }
  csn_put_str(out, "\"deny\":");
  put_tool_list(p, CSN_DENY, out);
  csn_put_str(out, ",\"ask\":");
  put_tool_list(p, CSN_ASK, out);
  csn_put_str(out, "},\"artifacts\":{\"include\":");
  put_globs(p, p->include, p->include_count, out);
  csn_put_str(out, ",\"exclude\":");
  put_globs(p, p->exclude, p->exclude_count, out);
  csn_put_str(out, "},\"git\":{\"push_approval\":");
  csn_put_str(out, p->push_approval ? "true" : "false");
  if (p->push_count > 0) {
    put_push_list(p, ",\"push\":{\"allow\":[", CSN_ALLOW, out);
    put_push_list(p, ",\"deny\":[", CSN_DENY, out);
    put_push_list(p, ",\"ask\":[", CSN_ASK, out);
    csn_put_str(out, "}");
  }
  csn_put_str(out, "},\"limits\":");
  put_limits(&p->limits, out);
  csn_put_str(out, "}");
}
