#include "csn/dialect.h"
#include "csn/glob.h"

/* Appends one option; what no longer fits is left out: the calls are watched in any case. */
static void put(csn_rule_out *o, bool deny, const csn_span *parts, uint32_t count) {
  uint32_t len = 2;
  for (uint32_t i = 0; i < count; i++)
    len += parts[i].len;
  if (len > o->cap - o->len) return;
  o->base[o->len++] = deny ? CSN_OPT_DENY : CSN_OPT_ALLOW;
  for (uint32_t i = 0; i < count; i++) {
    if (parts[i].len > 0) memcpy(o->base + o->len, parts[i].ptr, parts[i].len);
    o->len += parts[i].len;
  }
  o->base[o->len++] = 0;
}

void csn_rule_put(csn_rule_out *o, bool deny, csn_span tool, csn_span a, csn_span b, csn_span c) {
  csn_span parts[6] = {tool, csn_span_str("("), a, b, c, csn_span_str(")")};
  bool whole = a.len + b.len + c.len == 0;
  put(o, deny, parts, whole ? 1 : 6);
}

bool csn_rule_prefix(csn_span spec, csn_span *head) {
  if (spec.len < 3 || spec.ptr[spec.len - 1] != '*' || spec.ptr[spec.len - 2] != ':') return false;
  *head = csn_span_of(spec.ptr, spec.len - 2);
  return true;
}

/* A byte of `server__`. */
static uint8_t at(csn_span server, uint32_t i) {
  return i < server.len ? server.ptr[i] : '_';
}

csn_span csn_rule_mcp(csn_span rule, csn_span server) {
  csn_span none = csn_span_of(NULL, 0), all = csn_span_str("*");
  if (!csn_span_starts(rule, "mcp__")) return none;
  csn_span rest = csn_span_of(rule.ptr + 5, rule.len - 5);
  uint32_t same = 0, end = server.len + 2;
  while (same < rest.len && same < end && rest.ptr[same] == at(server, same))
    same++;
  if (same == end && rest.len > end) return csn_span_of(rest.ptr + end, rest.len - end);
  if (same + 1 == rest.len && rest.ptr[same] == '*') return all;
  bool covers =
      same == rest.len && same <= server.len && at(server, same) == '_' && at(server, same + 1) == '_';
  return covers ? all : none;
}

bool csn_rule_is_path(csn_span tool) {
  return csn_word_in(tool, "Read Edit Write MultiEdit NotebookEdit NotebookRead Glob Grep LS");
}

csn_span csn_rules_options(const csn_dialect *d, csn_span options, const csn_tool_store *store,
                           csn_arena *a) {
  if (d->rule == NULL || !csn_tools_any(store)) return options;
  csn_tool_table t = csn_tools_table(store);
  csn_rule_out o = {.cap = CSN_RULES_CAP, .table = &t, .options = options};
  o.base = csn_arena_take(a, o.cap + options.len);
  CSN_INVARIANT(o.base != NULL);
  /* Two lists of what is allowed have no meaning for an agent: it gets the request's, and what only that one
   * allows is found in the stream. */
  bool own_list = csn_option_has(options, CSN_OPT_ALLOW), allowed = false;
  for (uint32_t i = 0; i < t.count; i++) {
    const csn_tool_rule *r = &t.rules[i];
    bool deny = r->action != CSN_ALLOW; /* nobody is there to be asked */
    if (!deny && own_list) continue;
    allowed = allowed || !deny;
    d->rule(&o, deny, csn_tool_text(&t, r->tool), csn_tool_text(&t, r->spec));
  }
  csn_span none = csn_span_of(NULL, 0);
  if (t.listed && !own_list && !allowed) /* an empty list of what is allowed is a list, too */
    csn_rule_put(&o, false, csn_span_str("mcp__caisson__nothing"), none, none, none);
  if (t.listed && d->unlisted != NULL) d->unlisted(&o);
  if (options.len > 0) memcpy(o.base + o.len, options.ptr, options.len);
  return csn_span_of(o.base, o.len + options.len);
}
