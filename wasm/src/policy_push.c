/* policy_push.c - which git pushes pass, wait for an approval, or are denied. */
#include "policy_table.h"

#include "csn/glob.h"

/* bytes: a repository's path; a longer one is crooked */
#define PATH_MAX_BYTES 512u

static const char service[] = "/git-receive-pack";

static bool is_plain(uint8_t c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
         c == '-' || c == '~' || c == '@' || c == '+';
}

/* Segments of plain bytes, none of them empty, "." or "..": there is no second way to write such a path but
 * by the case of its letters. */
static bool is_straight(csn_span path, bool is_pattern) {
  uint32_t begin = 0;
  if (path.len == 0) return false;
  for (uint32_t i = 0; i <= path.len; i++) {
    if (i < path.len && path.ptr[i] != '/') {
      bool wild = is_pattern && (path.ptr[i] == '*' || path.ptr[i] == '?');
      if (!is_plain(path.ptr[i]) && !wild) return false;
      continue;
    }
    csn_span segment = csn_span_of(path.ptr + begin, i - begin);
    if (segment.len == 0 || csn_span_is(segment, ".") || csn_span_is(segment, "..")) return false;
    begin = i + 1;
  }
  return true;
}

/* Hosts serve a repository with and without this. */
static csn_span without_git(csn_span path) {
  if (path.len > 4 && memcmp(path.ptr + path.len - 4, ".git", 4) == 0) path.len -= 4;
  return path;
}

static void lower(csn_span from, uint8_t *to) {
  for (uint32_t i = 0; i < from.len; i++) {
    uint8_t c = from.ptr[i];
    to[i] = c >= 'A' && c <= 'Z' ? (uint8_t)(c | 0x20) : c;
  }
}

/* The repository in a request's path; false for one that could be meant in more than one way. */
static bool repository(csn_span path, csn_span *out) {
  uint32_t tail = sizeof service - 1;
  if (path.len < tail + 2 || path.ptr[0] != '/') return false;
  if (memcmp(path.ptr + path.len - tail, service, tail) != 0) return false;
  csn_span inner = csn_span_of(path.ptr + 1, path.len - tail - 1);
  if (inner.len > PATH_MAX_BYTES || !is_straight(inner, false)) return false;
  *out = without_git(inner);
  return true;
}

csn_err csn_policy_add_push(csn_policy *p, csn_span text, csn_action action, uint32_t rule, uint8_t source) {
  uint8_t path[CSN_POLICY_PATTERN_MAX];
  csn_push_rule r = {0};
  uint32_t slash = csn_span_find(text, '/');
  csn_span where = csn_span_of(text.ptr, slash);
  csn_err err = csn_policy_parse_net(p, where, &r.match);
  if (err != CSN_ERR_OK) return err;
  if (slash < text.len) {
    csn_span given = csn_span_of(text.ptr + slash + 1, text.len - slash - 1);
    if (!is_straight(given, true)) return CSN_ERR_BAD_VALUE;
    given = without_git(given);
    /* What is held or denied is so however its letters are written; what passes, only as the rule has it. */
    if (action == CSN_ALLOW)
      memcpy(path, given.ptr, given.len);
    else
      lower(given, path);
    err = csn_policy_add_text(p, csn_span_of(path, given.len), &r.path);
    if (err != CSN_ERR_OK) return err;
  }
  if (p->push_count == CSN_POLICY_PUSH_MAX) return CSN_ERR_NO_MEMORY;
  r.match.action = (uint8_t)action;
  r.match.rule = (uint16_t)rule;
  r.match.source = source;
  for (uint32_t i = 0; i < p->push_count; i++) {
    const csn_push_rule *o = &p->push[i];
    csn_span a = csn_policy_text(p, o->path), b = csn_policy_text(p, r.path);
    if (o->match.action != action || !csn_policy_same_net(p, &o->match, &r.match) || a.len != b.len) continue;
    if (a.len > 0 && memcmp(a.ptr, b.ptr, a.len) != 0) continue;
    return o->match.source == source ? CSN_ERR_BAD_VALUE : CSN_ERR_OK;
  }
  p->push[p->push_count++] = r;
  return CSN_ERR_OK;
}

csn_verdict csn_policy_push(const csn_policy *p, const csn_host *host, uint16_t port, csn_span path) {
  static const uint8_t order[] = {CSN_DENY, CSN_ASK, CSN_ALLOW};
  static const uint8_t lists[] = {
      [CSN_DENY] = CSN_LIST_PUSH_DENY, [CSN_ALLOW] = CSN_LIST_PUSH_ALLOW, [CSN_ASK] = CSN_LIST_PUSH_ASK};
  uint8_t lowered[PATH_MAX_BYTES];
  csn_span as_is = csn_span_of(NULL, 0);
  bool straight = repository(path, &as_is);
  lower(as_is, lowered);
  for (uint32_t turn = 0; turn < sizeof order; turn++) {
    for (uint16_t i = 0; i < p->push_count; i++) {
      const csn_push_rule *r = &p->push[i];
      if (r->match.action != order[turn] || !csn_policy_rule_matches(p, &r->match, host, port)) continue;
      csn_span pattern = csn_policy_text(p, r->path);
      bool allow = r->match.action == CSN_ALLOW;
      /* A second spelling must not lead past a rule: a crooked path is every repository to what denies or
       * holds, and none to what allows. */
      bool fits = !straight ? !allow
                            : pattern.len == 0 ||
                                  csn_glob_path(pattern, allow ? as_is : csn_span_of(lowered, as_is.len));
      if (fits) return (csn_verdict){order[turn], CSN_WHY_RULE, 0, lists[order[turn]], r->match.rule, i};
    }
  }
  uint8_t action = p->push_approval ? CSN_ASK : CSN_ALLOW;
  return (csn_verdict){action, CSN_WHY_PUSH, 0, CSN_LIST_PUSH_ASK, CSN_POLICY_NO_RULE, CSN_POLICY_NO_RULE};
}
