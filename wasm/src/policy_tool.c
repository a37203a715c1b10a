/* policy_tool.c - which tool calls of an agent the policy allows. The rules have Claude Code's form and,
 * where its documentation leaves room, the stricter reading. */
#include "csn/glob.h"
#include "policy_shell.h"
#include "policy_table.h"

#define PATH_MAX_LEN 4096u /* bytes, as the kernel has it */

/* What a tool's specifier speaks of. */
enum spec_kind { SPEC_COMMAND, SPEC_PATH, SPEC_URL, SPEC_TEXT };

static const char readers[] = "Read Glob Grep LS NotebookRead",
                  writers[] = "Edit Write MultiEdit NotebookEdit";

static enum spec_kind spec_kind_of(csn_span tool) {
  if (csn_word_in(tool, "Bash Monitor")) return SPEC_COMMAND;
  if (csn_word_in(tool, readers) || csn_word_in(tool, writers)) return SPEC_PATH;
  return csn_span_is(tool, "WebFetch") ? SPEC_URL : SPEC_TEXT;
}

static bool same(csn_span a, csn_span b) {
  return a.len == b.len && memcmp(a.ptr, b.ptr, a.len) == 0;
}

static bool starts_with(csn_span s, const char *text) {
  uint32_t n = csn_str_len(text);
  return s.len >= n && memcmp(s.ptr, text, n) == 0;
}

/* Rules for Edit hold for every tool that writes files, rules for Read for every tool that reads them, as
 * Claude Code has it. mcp__server names all tools of that server. */
static bool tool_fits(csn_span rule, csn_span tool) {
  if (same(rule, tool)) return true;
  if (rule.len > 0 && rule.ptr[rule.len - 1] == '*') return csn_glob_text(rule, tool);
  if (starts_with(rule, "mcp__") && tool.len > rule.len + 2 && memcmp(rule.ptr, tool.ptr, rule.len) == 0)
    return tool.ptr[rule.len] == '_' && tool.ptr[rule.len + 1] == '_';
  /* Monitor runs a command and reports what it prints. */
  if (csn_span_is(rule, "Bash") && csn_span_is(tool, "Monitor")) return true;
  if (csn_span_is(rule, "Edit")) return csn_word_in(tool, writers);
  if (csn_span_is(rule, "Read")) return csn_word_in(tool, readers);
  return csn_word_in(rule, "Task Agent") && csn_word_in(tool, "Task Agent");
}

static csn_span trim(csn_span s) {
  while (s.len > 0 && (s.ptr[0] == ' ' || s.ptr[0] == '\t'))
    s = csn_span_of(s.ptr + 1, s.len - 1);
  while (s.len > 0 && (s.ptr[s.len - 1] == ' ' || s.ptr[s.len - 1] == '\t'))
    s.len--;
  return s;
}

static bool is_word_end(csn_span s, uint32_t at) {
  return at >= s.len || s.ptr[at] == ' ' || s.ptr[at] == '\t';
}

/* `git diff:*` is the command `git diff`, alone or followed by a space; a pattern with `*` matches as a wild
 * card; else the text is the whole command. */
static bool command_fits(csn_span spec, csn_span command) {
  if (spec.len >= 2 && spec.ptr[spec.len - 1] == '*' && spec.ptr[spec.len - 2] == ':') {
    csn_span prefix = csn_span_of(spec.ptr, spec.len - 2);
    if (command.len < prefix.len || memcmp(command.ptr, prefix.ptr, prefix.len) != 0) return false;
    return is_word_end(command, prefix.len);
  }
  if (csn_glob_text(spec, command)) return true;
  /* "ls *" is also plain "ls". */
  return spec.len >= 2 && spec.ptr[spec.len - 1] == '*' && spec.ptr[spec.len - 2] == ' ' &&
         same(csn_span_of(spec.ptr, spec.len - 2), command);
}

/* //abs, ~/home, /from the workspace, ./ or bare: from the working directory, as .gitignore patterns: a bare
 * name matches at any depth, and a directory stands for all below it. `pattern` has PATH_MAX_LEN + 8 bytes of
 * room. */
static bool path_fits(const csn_tool_call *call, csn_span spec, csn_span path, uint8_t *pattern) {
  csn_span root = csn_span_str("/"), none = csn_span_of(NULL, 0), rest = spec;
  uint32_t len;
  bool slash = false;
  for (uint32_t i = 0; i + 1 < spec.len; i++)
    slash = slash || spec.ptr[i] == '/';
  if (starts_with(spec, "//")) {
    len = csn_path_plain(csn_span_of(spec.ptr + 1, spec.len - 1), root, call->home, pattern, PATH_MAX_LEN);
  } else if (starts_with(spec, "~/") || (slash && !starts_with(spec, "/"))) {
    len = csn_path_plain(spec, call->cwd, call->home, pattern, PATH_MAX_LEN);
  } else if (starts_with(spec, "/")) {
    rest = csn_span_of(spec.ptr + 1, spec.len - 1);
    len = csn_path_plain(rest, call->cwd, none, pattern, PATH_MAX_LEN);
  } else {
    /* a bare name: at any depth, anywhere */
    if (spec.len > PATH_MAX_LEN - 4) return false;
    memcpy(pattern, "/**/", 4);
    memcpy(pattern + 4, spec.ptr, spec.len);
    len = spec.len + 4;
    if (pattern[len - 1] == '/') len--;
  }
  if (len == UINT32_MAX) return false;
  if (csn_glob_path(csn_span_of(pattern, len), path)) return true;
  if (len == 1) len = 0; /* the root itself */
  memcpy(pattern + len, "/**", 3);
  return csn_glob_path(csn_span_of(pattern, len + 3), path);
}

/* domain:example.com and domain:*.example.com against the host of a URL. */
__attribute__((noinline)) static bool url_fits(csn_span spec, csn_span url) {
  if (!starts_with(spec, "domain:")) return csn_glob_text(spec, url);
  csn_span want = csn_span_of(spec.ptr + 7, spec.len - 7);
  uint32_t at = 0;
  while (at + 2 < url.len && memcmp(url.ptr + at, "://", 3) != 0)
    at++;
  if (at + 2 >= url.len) return false;
  csn_span host = csn_span_of(url.ptr + at + 3, url.len - at - 3);
  for (uint32_t i = 0; i < host.len; i++)
    if (host.ptr[i] == '/' || host.ptr[i] == '?' || host.ptr[i] == '#' || host.ptr[i] == '\\') host.len = i;
  /* user@evil.example: the host is what follows the last @. */
  for (uint32_t i = host.len; i > 0; i--)
    if (host.ptr[i - 1] == '@') {
      host = csn_span_of(host.ptr + i, host.len - i);
      break;
    }
  csn_host asked, ruled;
  uint16_t port;
  if (csn_hostport_parse(host, &asked, &port) != CSN_ERR_OK) return false;
  if (starts_with(want, "*.")) {
    if (csn_host_parse(csn_span_of(want.ptr + 2, want.len - 2), &ruled) != CSN_ERR_OK) return false;
    return !asked.is_addr && !ruled.is_addr && asked.len > ruled.len + 1 &&
           asked.name[asked.len - ruled.len - 1] == '.' &&
           memcmp(asked.name + asked.len - ruled.len, ruled.name, ruled.len) == 0;
  }
  return csn_host_parse(want, &ruled) == CSN_ERR_OK && csn_host_equal(&asked, &ruled);
}

/* What the rules make of the commands of a line. */
typedef struct command_verdict {
  const csn_tool_table *table;
  csn_span tool;
  uint32_t hit[CSN_POLICY_TOOL_MAX / 32]; /* rules that deny or ask, and hold for one of them; bit by bit */
  uint32_t allowing;                      /* the rule that allows the last one */
  bool some, unlisted;                    /* commands were seen; one that no rule allows */
  bool odd;                               /* no rule for commands allows the line */
  bool doubt;                             /* a rule that denies or asks may hold */
} command_verdict;

static bool is_hit(const command_verdict *d, uint32_t rule) {
  return (d->hit[rule / 32] >> (rule % 32) & 1) != 0;
}

/* Whether the shell could make a command of this one for which the rule holds. Behind a wild card that is not
 * asked. */
static bool may_fit(csn_span spec, csn_span command) {
  bool prefix = spec.len >= 2 && memcmp(spec.ptr + spec.len - 2, ":*", 2) == 0;
  if (prefix) spec.len -= 2;
  uint32_t star = csn_span_find(spec, '*');
  bool whole = !prefix && star == spec.len;
  return csn_shell_may_be(csn_span_of(spec.ptr, star), whole, command);
}

/* `raw` is as it is written in the line, where nothing is filled in: only there a rule may allow it. */
static void see_command(void *context, csn_span command, bool raw) {
  command_verdict *d = context;
  bool allowed = false;
  command = trim(command);
  if (command.len == 0) return;
  for (uint32_t i = 0; i < d->table->count; i++) {
    const csn_tool_rule *r = &d->table->rules[i];
    csn_span spec = csn_tool_text(d->table, r->spec);
    bool allows = r->action == CSN_ALLOW;
    if (allows ? !raw || allowed : spec.len == 0 || is_hit(d, i)) continue;
    if (!tool_fits(csn_tool_text(d->table, r->tool), d->tool)) continue;
    bool fits = command_fits(spec, command);
    if (allows) {
      allowed = fits;
      if (fits) d->allowing = i;
    } else if (fits) {
      d->hit[i / 32] |= 1u << (i % 32);
    } else if (!raw) {
      d->doubt = d->doubt || may_fit(spec, command);
    }
  }
  d->some = d->some || raw;
  d->unlisted = d->unlisted || (raw && !allowed);
}

/* One denied command denies the line, wherever the line hides it; to allow it, each must be allowed. */
static void judge_line(command_verdict *d, csn_span line, csn_arena *scratch) {
  uint32_t used = scratch->used;
  uint8_t *text = csn_arena_take(scratch, line.len);
  csn_shell_line seen = {true, true};
  see_command(d, line, true); /* a rule may be the whole line */
  d->some = d->unlisted = false;
  if (text != NULL) seen = csn_shell_commands(line, text, see_command, d);
  scratch->used = used;
  d->odd = seen.odd;
  d->doubt = d->doubt || seen.hidden;
}

typedef struct tool_question {
  const csn_tool_call *call;
  enum spec_kind kind;
  csn_span path;    /* plain, when kind is SPEC_PATH and there is an argument */
  uint8_t *pattern; /* PATH_MAX_LEN + 8 bytes of room */
} tool_question;

/* Whether a rule holds that does not speak of commands. */
static bool rule_fits(const tool_question *q, csn_span spec, bool allow) {
  const csn_tool_call *call = q->call;
  if (spec.len == 0) return true;
  if (allow && call->cut) return false;
  switch (q->kind) {
  case SPEC_PATH:
    return q->path.len > 0 && path_fits(call, spec, q->path, q->pattern);
  case SPEC_URL:
    return url_fits(spec, call->arg);
  case SPEC_COMMAND:
  case SPEC_TEXT:
    return csn_glob_text(spec, call->arg);
  }
  __builtin_trap();
}

csn_span csn_tool_text(const csn_tool_table *t, csn_text_ref ref) {
  CSN_INVARIANT(ref.off <= t->text_len && ref.len <= t->text_len - ref.off);
  return csn_span_of(t->text + ref.off, ref.len);
}

csn_verdict csn_tools_check(const csn_tool_table *t, const csn_tool_call *call, csn_arena *scratch) {
  static const uint8_t order[3][2] = {
      {CSN_DENY, CSN_LIST_TOOL_DENY}, {CSN_ASK, CSN_LIST_TOOL_ASK}, {CSN_ALLOW, CSN_LIST_TOOL_ALLOW}};
  csn_verdict v = {CSN_DENY,           CSN_WHY_BAD_PATH,   CSN_ADDR_PUBLIC,
                   CSN_LIST_TOOL_DENY, CSN_POLICY_NO_RULE, CSN_POLICY_NO_RULE};
  tool_question q = {call, spec_kind_of(call->tool), csn_span_of(NULL, 0), NULL};
  command_verdict commands = {.table = t, .tool = call->tool};
  bool specific = false;
  if (q.kind == SPEC_COMMAND) judge_line(&commands, call->arg, scratch);
  bool all = commands.some && !commands.unlisted && !commands.odd && !call->cut;
  if (q.kind == SPEC_PATH && call->arg.len > 0) {
    uint8_t *room = csn_arena_take(scratch, 2 * PATH_MAX_LEN + 8);
    if (room == NULL) return v;
    scratch->used -= 2 * PATH_MAX_LEN + 8;
    q.pattern = room + PATH_MAX_LEN;
    uint32_t len = csn_path_plain(call->arg, call->cwd, call->home, room, PATH_MAX_LEN);
    if (len == UINT32_MAX) return v;
    q.path = csn_span_of(room, len);
  }
  for (uint32_t pass = 0; pass < 3; pass++) {
    for (uint32_t i = 0; i < t->count; i++) {
      const csn_tool_rule *r = &t->rules[i];
      if (r->action != order[pass][0] || !tool_fits(csn_tool_text(t, r->tool), call->tool)) continue;
      csn_span spec = csn_tool_text(t, r->spec);
      specific = specific || (pass < 2 && spec.len > 0);
      /* Two allowed commands joined by && may each match a rule of their own. */
      bool holds = q.kind != SPEC_COMMAND || spec.len == 0 ? rule_fits(&q, spec, pass == 2)
                   : pass < 2                              ? is_hit(&commands, i)
                                                           : all && i == commands.allowing;
      if (!holds) continue;
      return (csn_verdict){r->action, CSN_WHY_RULE, CSN_ADDR_PUBLIC, order[pass][1], r->rule, (uint16_t)i};
    }
    /* A call that deny rules speak of and that cannot be read whole could hide what they forbid. */
    if (pass == 1 && specific && (call->cut || commands.doubt)) {
      v.why = CSN_WHY_DOUBT;
      return v;
    }
  }
  if (!t->listed) v.action = CSN_ALLOW;
  v.why = !t->listed ? CSN_WHY_NO_RULES : commands.odd && !call->cut ? CSN_WHY_DOUBT : CSN_WHY_UNLISTED;
  return v;
}

csn_tool_table csn_policy_tools(const csn_policy *p) {
  return (csn_tool_table){p->tools, p->text, p->tool_count, p->text_len, p->tools_listed != 0};
}

csn_verdict csn_policy_tool(const csn_policy *p, const csn_tool_call *call, csn_arena *scratch) {
  csn_tool_table t = csn_policy_tools(p);
  return csn_tools_check(&t, call, scratch);
}

bool csn_tools_name(const csn_tool_table *t, csn_span tool, csn_action action) {
  for (uint32_t i = 0; i < t->count; i++)
    if (t->rules[i].action == action && tool_fits(csn_tool_text(t, t->rules[i].tool), tool)) return true;
  return false;
}

csn_err csn_tool_split(csn_span rule, csn_span *tool, csn_span *spec) {
  uint32_t open = 0;
  if (rule.len == 0) return CSN_ERR_BAD_VALUE;
  if (rule.len > CSN_POLICY_PATTERN_MAX) return CSN_ERR_TOO_LONG;
  while (open < rule.len && rule.ptr[open] != '(')
    open++;
  *tool = csn_span_of(rule.ptr, open);
  *spec = csn_span_of(rule.ptr + rule.len, 0);
  if (open < rule.len) {
    if (rule.ptr[rule.len - 1] != ')' || rule.len - open < 3) return CSN_ERR_BAD_VALUE;
    *spec = csn_span_of(rule.ptr + open + 1, rule.len - open - 2);
  }
  if (spec->len == 1 && spec->ptr[0] == '*') spec->len = 0;
  if (tool->len == 0) return CSN_ERR_BAD_VALUE;
  for (uint32_t i = 0; i < tool->len; i++) {
    uint8_t c = tool->ptr[i];
    bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
                 c == '-' || c == '.';
    bool star = c == '*' && i + 1 == tool->len && i >= 5 && memcmp(tool->ptr, "mcp__", 5) == 0;
    if (!plain && !star) return CSN_ERR_BAD_VALUE;
  }
  return CSN_ERR_OK;
}
