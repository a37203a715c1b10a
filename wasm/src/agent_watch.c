#include "csn/dialect.h"
#include "csn/glob.h"

/* --- texts --- */

static uint32_t hex4(const uint8_t *p) {
  uint32_t value = 0;
  for (uint32_t i = 0; i < 4; i++) {
    uint32_t digit = p[i] <= '9' ? p[i] - (uint32_t)'0' : (p[i] | 0x20u) - (uint32_t)'a' + 10u;
    value = value << 4 | (digit & 15u);
  }
  return value;
}

static uint32_t put_utf8(uint8_t *out, uint32_t c) {
  if (c < 0x80) {
    out[0] = (uint8_t)c;
    return 1;
  }
  if (c < 0x800) {
    out[0] = (uint8_t)(0xc0u | c >> 6);
    out[1] = (uint8_t)(0x80u | (c & 63u));
    return 2;
  }
  if (c < 0x10000) {
    out[0] = (uint8_t)(0xe0u | c >> 12);
    out[1] = (uint8_t)(0x80u | (c >> 6 & 63u));
    out[2] = (uint8_t)(0x80u | (c & 63u));
    return 3;
  }
  out[0] = (uint8_t)(0xf0u | c >> 18);
  out[1] = (uint8_t)(0x80u | (c >> 12 & 63u));
  out[2] = (uint8_t)(0x80u | (c >> 6 & 63u));
  out[3] = (uint8_t)(0x80u | (c & 63u));
  return 4;
}

/* The inside of a JSON string that is known to be well-formed, as raw bytes: never more than there are. Half
 * of a surrogate pair becomes U+FFFD. */
static uint32_t unescape(csn_span in, uint8_t *out) {
  static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
  uint32_t len = 0;
  for (uint32_t i = 0; i < in.len; i++) {
    uint8_t b = in.ptr[i];
    if (b != '\\' || i + 1 >= in.len) {
      out[len++] = b;
      continue;
    }
    b = in.ptr[++i];
    if (b == 'u' && in.len - i > 4) {
      uint32_t c = hex4(in.ptr + i + 1);
      i += 4;
      if (c >= 0xd800 && c < 0xdc00 && in.len - i > 6 && in.ptr[i + 1] == '\\' && in.ptr[i + 2] == 'u') {
        uint32_t low = hex4(in.ptr + i + 3);
        if (low >= 0xdc00 && low < 0xe000) {
          c = 0x10000u + ((c - 0xd800u) << 10) + (low - 0xdc00u);
          i += 6;
        }
      }
      len += put_utf8(out + len, c >= 0xd800 && c < 0xe000 ? 0xfffdu : c);
      continue;
    }
    for (uint32_t k = 0; k < 5; k++)
      if (b == (uint8_t)from[k]) b = (uint8_t)to[k];
    out[len++] = b;
  }
  return len;
}

static csn_span raw_of(csn_arena *a, csn_span escaped) {
  uint8_t *out = csn_arena_take(a, escaped.len);
  CSN_INVARIANT(out != NULL);
  return csn_span_of(out, unescape(escaped, out));
}

/* --- bash -lc '...' --- */

/* One word of the shell at the start of `in`, its quotes taken away, into `out`, which has room for in.len
 * bytes. The word must be all of `in`: UINT32_MAX otherwise. */
static uint32_t shell_word(csn_span in, uint8_t *out) {
  uint32_t len = 0;
  uint8_t quote = 0;
  for (uint32_t i = 0; i < in.len; i++) {
    uint8_t b = in.ptr[i];
    if (quote != 0 && b == quote) {
      quote = 0;
    } else if (quote == 0 && (b == '\'' || b == '"')) {
      quote = b;
    } else if (b == '\\' && quote != '\'') {
      if (++i == in.len) return UINT32_MAX;
      uint8_t next = in.ptr[i];
      if (quote == '"' && next != '"' && next != '\\' && next != '$' && next != '`') out[len++] = '\\';
      out[len++] = next;
    } else if (quote == 0 && (b == ' ' || b == '\t' || b == '\n' || b == ';' || b == '&' || b == '|')) {
      return UINT32_MAX;
    } else {
      out[len++] = b;
    }
  }
  return quote == 0 && len > 0 ? len : UINT32_MAX;
}

/* The command line in `bash -lc '...'`; *doubt when there may be one that cannot be read. */
static csn_span shell_inner(csn_arena *a, csn_span line, bool *doubt) {
  uint32_t end = csn_span_find(line, ' '), start = end;
  while (start > 0 && line.ptr[start - 1] != '/')
    start--;
  if (end == line.len || !csn_word_in(csn_span_of(line.ptr + start, end - start), "bash sh zsh dash"))
    return line;
  csn_span rest = csn_span_of(line.ptr + end + 1, line.len - end - 1);
  uint32_t flag = csn_span_find(rest, ' ');
  if (flag < rest.len && csn_word_in(csn_span_of(rest.ptr, flag), "-lc -c")) {
    csn_span word = csn_span_of(rest.ptr + flag + 1, rest.len - flag - 1);
    uint8_t *out = csn_arena_take(a, word.len);
    CSN_INVARIANT(out != NULL);
    uint32_t len = shell_word(word, out);
    if (len != UINT32_MAX) return csn_span_of(out, len);
  }
  *doubt = true;
  return line;
}

/* --- the names of tools --- */

/* What stands behind `head` and an underscore, or two; empty when the name does not begin so. */
static csn_span behind(csn_span name, const char *before, csn_span head, uint32_t signs) {
  uint32_t n = csn_str_len(before);
  if (name.len <= n + head.len + signs || memcmp(name.ptr, before, n) != 0 ||
      memcmp(name.ptr + n, head.ptr, head.len) != 0)
    return csn_span_of(NULL, 0);
  for (uint32_t i = 0; i < signs; i++)
    if (name.ptr[n + head.len + i] != '_') return csn_span_of(NULL, 0);
  uint32_t at = n + head.len + signs;
  return csn_span_of(name.ptr + at, name.len - at);
}

/* mcp__server__tool of a tool of a server that the session has; agents write server_tool, server__tool or
 * mcp_server_tool. */
static csn_span mcp_name(csn_watching *w, csn_span name) {
  csn_span options = w->options, server;
  while (csn_option_find(&options, CSN_OPT_SERVER, &server)) {
    csn_span tool = behind(name, "mcp_", server, 1);
    if (tool.len == 0) tool = behind(name, "", server, 2);
    if (tool.len == 0) tool = behind(name, "", server, 1);
    if (tool.len == 0) continue;
    uint8_t *out = csn_arena_take(&w->scratch, server.len + tool.len + 7u);
    CSN_INVARIANT(out != NULL);
    memcpy(out, "mcp__", 5);
    memcpy(out + 5, server.ptr, server.len);
    memcpy(out + 5 + server.len, "__", 2);
    memcpy(out + 7 + server.len, tool.ptr, tool.len);
    return csn_span_of(out, server.len + tool.len + 7u);
  }
  return name;
}

static csn_span rule_name(csn_watching *w, const csn_seen_call *call) {
  csn_span name = raw_of(&w->scratch, call->tool);
  for (const csn_tool_alias *a = call->aliases; a != NULL && a->own != NULL; a++)
    if (csn_span_is(name, a->own)) return csn_span_str(a->rule);
  return csn_span_starts(name, "mcp__") ? name : mcp_name(w, name);
}

/* --- calls --- */

bool csn_sees_calls(const csn_view *v) {
  return v->watching != NULL && csn_tools_any(v->watching->tools);
}

bool csn_see_call(csn_view *v, const csn_seen_call *call) {
  csn_watching *w = v->watching;
  if (!csn_sees_calls(v)) return false;
  uint32_t used = w->scratch.used;
  const csn_json_item *arg = call->arg;
  csn_call c = {.id = call->id, .parent = call->parent, .tool = rule_name(w, call), .more = call->more};
  if (arg != NULL && arg->kind == CSN_JK_STRING) {
    c.arg = raw_of(&w->scratch, csn_json_text(v->j, arg));
    c.cut = arg->cut != 0;
    if (call->shell) c.arg = shell_inner(&w->scratch, c.arg, &c.cut);
  } else if (arg != NULL) {
    /* What is there and is no text, or may have been there, could be anything. */
    c.cut = call->part || arg->kind != CSN_JK_NONE;
    if (!c.cut && call->missing != NULL) c.arg = csn_span_str(call->missing);
  }
  bool forbidden = csn_watch_call(w->watch, w->tools, &c, v->e->time_ms, &w->scratch);
  w->scratch.used = used;
  return forbidden;
}

void csn_see_refused(csn_view *v, csn_span id) {
  if (v->watching != NULL) csn_watch_refused(v->watching->watch, id, v->e->time_ms);
}

void csn_see_result(csn_view *v, csn_span id) {
  if (v->watching != NULL) csn_watch_result(v->watching->watch, id, v->e->time_ms);
}
