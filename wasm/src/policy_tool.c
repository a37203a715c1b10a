/* policy_tool.c - which tool calls of an agent the policy allows. The rules have Claude Code's form and,
 * where its documentation leaves room, the stricter reading. */
#include "csn/glob.h"
#include "policy_table.h"

#define COMMAND_PARTS_MAX                                                                                    \
  32u                      /* items: simple commands in one shell line; more of them are not taken apart     \
                            */
#define PATH_MAX_LEN 4096u /* bytes, as the kernel has it */

/* What a tool's specifier speaks of. */
enum spec_kind { SPEC_NONE, SPEC_COMMAND, SPEC_PATH, SPEC_URL, SPEC_TEXT };

static const struct {
  const char *name;
  uint8_t kind;
} tools[] = {
    {"Bash", SPEC_COMMAND},      {"Monitor", SPEC_COMMAND},   {"Read", SPEC_PATH},
    {"Edit", SPEC_PATH},         {"Write", SPEC_PATH},        {"MultiEdit", SPEC_PATH},
    {"NotebookEdit", SPEC_PATH}, {"NotebookRead", SPEC_PATH}, {"Glob", SPEC_PATH},
    {"Grep", SPEC_PATH},         {"LS", SPEC_PATH},           {"WebFetch", SPEC_URL},
    {"Task", SPEC_TEXT},         {"Agent", SPEC_TEXT},        {"Skill", SPEC_TEXT},
    {"WebSearch", SPEC_TEXT},
};

static enum spec_kind spec_kind_of(csn_span tool) {
  for (uint32_t i = 0; i < sizeof tools / sizeof *tools; i++)
    if (csn_span_is(tool, tools[i].name)) return (enum spec_kind)tools[i].kind;
  return SPEC_TEXT;
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
  static const char *const writers[] = {"Edit", "Write", "MultiEdit", "NotebookEdit"};
  static const char *const readers[] = {"Read", "Glob", "Grep", "LS", "NotebookRead"};
  if (same(rule, tool)) return true;
  if (rule.len > 0 && rule.ptr[rule.len - 1] == '*') return csn_glob_text(rule, tool);
  if (starts_with(rule, "mcp__") && tool.len > rule.len + 2 && memcmp(rule.ptr, tool.ptr, rule.len) == 0)
    return tool.ptr[rule.len] == '_' && tool.ptr[rule.len + 1] == '_';
  /* Monitor runs a command and reports what it prints. */
  if (csn_span_is(rule, "Bash") && csn_span_is(tool, "Monitor")) return true;
  bool is_edit = csn_span_is(rule, "Edit"), is_read = csn_span_is(rule, "Read");
  for (uint32_t i = 0; is_edit && i < sizeof writers / sizeof *writers; i++)
    if (csn_span_is(tool, writers[i])) return true;
  for (uint32_t i = 0; is_read && i < sizeof readers / sizeof *readers; i++)
    if (csn_span_is(tool, readers[i])) return true;
  return (csn_span_is(rule, "Task") && csn_span_is(tool, "Agent")) ||
         (csn_span_is(rule, "Agent") && csn_span_is(tool, "Task"));
}

static csn_span trim(csn_span s) {
  while (s.len > 0 && (s.ptr[0] == ' ' || s.ptr[0] == '\t'))
    s = csn_span_of(s.ptr + 1, s.len - 1);
  while (s.len > 0 && (s.ptr[s.len - 1] == ' ' || s.ptr[s.len - 1] == '\t'))
    s.len--;
  return s;
}

typedef struct command_parts {
  uint32_t count;
  bool doubt; /* substitution, redirection, an open quote, or too many parts */
  csn_span line;
  uint32_t off[COMMAND_PARTS_MAX], len[COMMAND_PARTS_MAX]; /* bytes in line */
} command_parts;

static csn_span part_of(const command_parts *parts, uint32_t i) {
  return csn_span_of(parts->line.ptr + parts->off[i], parts->len[i]);
}

/* Takes a shell line apart at ; & | and newlines outside quotes. */
static void take_apart(csn_span line, command_parts *out) {
  uint32_t start = 0;
  uint8_t quote = 0;
  *out = (command_parts){0};
  out->line = line;
  for (uint32_t i = 0; i <= line.len; i++) {
    uint8_t c = i < line.len ? line.ptr[i] : '\n';
    bool end = i == line.len;
    if (!end && quote == '\'') {
      if (c == '\'') quote = 0;
      continue;
    }
    if (!end && c == '\\') {
      i++;
      if (i >= line.len) out->doubt = true;
      continue;
    }
    if (!end &&
        (c == '`' || (c == '$' && i + 1 < line.len && (line.ptr[i + 1] == '(' || line.ptr[i + 1] == '{'))))
      out->doubt = true;
    if (!end && quote == '"') {
      if (c == '"') quote = 0;
      continue;
    }
    if (!end && (c == '\'' || c == '"')) {
      /* $'...' and $"..." have rules of their own. */
      if (i > 0 && line.ptr[i - 1] == '$') out->doubt = true;
      quote = c;
      continue;
    }
    /* A comment: its quotes are none, so that the next line may be a command. */
    if (c == '#' && (i == 0 || csn_span_find(csn_span_str(" \t\n;&|"), line.ptr[i - 1]) < 6))
      out->doubt = true;
    if (c == '<' || c == '>' || c == '(' || c == ')' || c == '{' || c == '}' || c == '\r' || c == 0)
      out->doubt = true;
    if (c != ';' && c != '&' && c != '|' && c != '\n') continue;
    uint32_t stop = i < line.len ? i : line.len;
    csn_span part =
        start <= stop ? trim(csn_span_of(line.ptr + start, stop - start)) : csn_span_of(line.ptr, 0);
    start = i + 1;
    if (part.len == 0) continue;
    if (out->count == COMMAND_PARTS_MAX) {
      out->doubt = true;
      continue;
    }
    out->off[out->count] = (uint32_t)(part.ptr - line.ptr);
    out->len[out->count++] = part.len;
  }
  if (quote != 0) out->doubt = true;
}

static bool is_word_end(csn_span s, uint32_t at) {
  return at >= s.len || s.ptr[at] == ' ' || s.ptr[at] == '\t';
}

static csn_span next_word(csn_span s) {
  uint32_t i = 0;
  while (!is_word_end(s, i))
    i++;
  return trim(csn_span_of(s.ptr + i, s.len - i));
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

/* Whether the word runs what follows it: FOO=bar, sudo, env, nohup and their like. */
static bool is_wrapper(csn_span word) {
  static const char *const names[] = {"sudo",    "env",    "nohup",   "nice",   "time",
                                      "command", "exec",   "builtin", "xargs",  "stdbuf",
                                      "timeout", "setsid", "doas",    "ionice", "eval"};
  for (uint32_t i = 1; i < word.len; i++)
    if (word.ptr[i] == '=') return true;
  for (uint32_t i = 0; i < sizeof names / sizeof *names; i++)
    if (csn_span_is(word, names[i])) return true;
  return false;
}

/* Whether a deny rule for `rm` holds for this command: rm, /bin/rm, or either behind wrappers. A word after a
 * wrapper's option may be the option's value or the command: `sudo -u root rm` must not pass as `root`. */
static bool denied_command(csn_span spec, csn_span s) {
  for (bool first = true, option = false; s.len > 0; first = false, s = next_word(s)) {
    uint32_t end = 0, name = 0;
    for (; !is_word_end(s, end); end++)
      if (s.ptr[end] == '/') name = end + 1;
    csn_span bare = csn_span_of(s.ptr + name, s.len - name);
    if (command_fits(spec, s) || command_fits(spec, bare)) return true;
    if (!first && s.ptr[0] == '-') {
      option = true;
      for (uint32_t i = 0; i < end; i++)
        if (s.ptr[i] == '=') option = false;
    } else if (is_wrapper(csn_span_of(bare.ptr, end - name)) || is_wrapper(csn_span_of(s.ptr, end))) {
      option = false;
    } else if (!first && s.ptr[0] >= '0' && s.ptr[0] <= '9') {
      option = false; /* seconds, a priority: never the command */
    } else if (option) {
      option = false;
    } else {
      return false;
    }
  }
  return false;
}

/* Every part of a shell line must be allowed; one denied part denies it. */
__attribute__((noinline)) static bool command_rule(csn_span spec, csn_span line, bool allow) {
  command_parts parts;
  take_apart(line, &parts);
  if (allow) {
    if (parts.doubt || parts.count == 0) return false;
    for (uint32_t i = 0; i < parts.count; i++)
      if (!command_fits(spec, part_of(&parts, i))) return false;
    return true;
  }
  if (command_fits(spec, trim(line))) return true;
  for (uint32_t i = 0; i < parts.count; i++)
    if (denied_command(spec, part_of(&parts, i))) return true;
  return false;
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

typedef struct tool_question {
  const csn_tool_call *call;
  enum spec_kind kind;
  csn_span path;    /* plain, when kind is SPEC_PATH and there is an argument */
  uint8_t *pattern; /* PATH_MAX_LEN + 8 bytes of room */
} tool_question;

/* Not inlined: the frames of the kinds would add up. */
__attribute__((noinline)) static bool rule_fits(const tool_question *q, csn_span spec, bool allow) {
  const csn_tool_call *call = q->call;
  if (spec.len == 0) return true;
  if (allow && call->cut) return false;
  switch (q->kind) {
  case SPEC_COMMAND:
    return command_rule(spec, call->arg, allow);
  case SPEC_PATH:
    return q->path.len > 0 && path_fits(call, spec, q->path, q->pattern);
  case SPEC_URL:
    return url_fits(spec, call->arg);
  case SPEC_NONE:
  case SPEC_TEXT:
    return csn_glob_text(spec, call->arg);
  }
  __builtin_trap();
}

csn_span csn_tool_text(const csn_tool_table *t, csn_text_ref ref) {
  CSN_INVARIANT(ref.off <= t->text_len && ref.len <= t->text_len - ref.off);
  return csn_span_of(t->text + ref.off, ref.len);
}

/* Two allowed commands joined by && may each match a rule of their own. */
static bool parts_allowed(const csn_tool_table *t, csn_span tool, const command_parts *parts,
                          uint16_t *slot) {
  for (uint32_t k = 0; k < parts->count; k++) {
    bool found = false;
    for (uint32_t i = 0; !found && i < t->count; i++) {
      const csn_tool_rule *r = &t->rules[i];
      if (r->action != CSN_ALLOW || !tool_fits(csn_tool_text(t, r->tool), tool)) continue;
      found = command_fits(csn_tool_text(t, r->spec), part_of(parts, k));
      if (found) *slot = (uint16_t)i;
    }
    if (!found) return false;
  }
  return parts->count > 0;
}

csn_verdict csn_tools_check(const csn_tool_table *t, const csn_tool_call *call, csn_arena *scratch) {
  static const uint8_t order[3][2] = {
      {CSN_DENY, CSN_LIST_TOOL_DENY}, {CSN_ASK, CSN_LIST_TOOL_ASK}, {CSN_ALLOW, CSN_LIST_TOOL_ALLOW}};
  csn_verdict v = {CSN_DENY,           CSN_WHY_BAD_PATH,   CSN_ADDR_PUBLIC,
                   CSN_LIST_TOOL_DENY, CSN_POLICY_NO_RULE, CSN_POLICY_NO_RULE};
  tool_question q = {call, spec_kind_of(call->tool), csn_span_of(NULL, 0), NULL};
  bool specific = false;
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
      if (!rule_fits(&q, spec, pass == 2)) continue;
      return (csn_verdict){r->action, CSN_WHY_RULE, CSN_ADDR_PUBLIC, order[pass][1], r->rule, (uint16_t)i};
    }
    /* A call that deny rules speak of and that cannot be read whole could hide what they forbid. */
    if (pass == 1 && specific && call->cut) {
      v.why = CSN_WHY_DOUBT;
      return v;
    }
  }
  command_parts parts = {0};
  uint16_t slot;
  if (q.kind == SPEC_COMMAND && !call->cut) take_apart(call->arg, &parts);
  if (!parts.doubt && parts_allowed(t, call->tool, &parts, &slot))
    return (csn_verdict){CSN_ALLOW,           CSN_WHY_RULE,        CSN_ADDR_PUBLIC,
                         CSN_LIST_TOOL_ALLOW, t->rules[slot].rule, slot};
  if (!t->listed) v.action = CSN_ALLOW;
  v.why = !t->listed ? CSN_WHY_NO_RULES : parts.doubt ? CSN_WHY_DOUBT : CSN_WHY_UNLISTED;
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
