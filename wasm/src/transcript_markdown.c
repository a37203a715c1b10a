#include "transcript_write.h"

/* Every line of a subagent's turns begins with "> ", once for each level. */
static void md(csn_transcript *v, csn_fx *fx, const void *bytes, uint32_t len) {
  const uint8_t *p = bytes;
  uint32_t depth = v->at == CSN_TRANSCRIPT_NONE ? 0 : v->nodes[v->at].depth, i = 0;
  while (i < len) {
    uint32_t n = i;
    while (n < len && p[n] != '\n')
      n++;
    if (v->line_start)
      for (uint32_t k = 0; k < depth; k++)
        csn_put_str(fx, "> ");
    if (v->line_start && v->indent) csn_put_str(fx, "    ");
    v->line_start = n < len;
    if (n < len) n++;
    csn_fx_put(fx, p + i, n - i);
    i = n;
  }
}

static void str(csn_transcript *v, csn_fx *fx, const char *text) {
  md(v, fx, text, csn_str_len(text));
}

static void u64(csn_transcript *v, csn_fx *fx, uint64_t n) {
  char digits[20];
  uint32_t at = sizeof digits;
  do {
    digits[--at] = (char)('0' + n % 10);
    n /= 10;
  } while (n > 0);
  md(v, fx, digits + at, (uint32_t)sizeof digits - at);
}

static uint32_t hex4(const uint8_t *p) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < 4; i++) {
    uint32_t c = p[i];
    n = n << 4 | (c <= '9' ? c - '0' : (c | 32u) - 'a' + 10u);
  }
  return n;
}

static uint32_t put_utf8(uint8_t out[4], uint32_t c) {
  if (c < 0x80) {
    out[0] = (uint8_t)c;
    return 1;
  }
  if (c < 0x800) {
    out[0] = (uint8_t)(0xc0 | c >> 6);
    out[1] = (uint8_t)(0x80 | (c & 63));
    return 2;
  }
  if (c < 0x10000) {
    out[0] = (uint8_t)(0xe0 | c >> 12);
    out[1] = (uint8_t)(0x80 | (c >> 6 & 63));
    out[2] = (uint8_t)(0x80 | (c & 63));
    return 3;
  }
  out[0] = (uint8_t)(0xf0 | c >> 18);
  out[1] = (uint8_t)(0x80 | (c >> 12 & 63));
  out[2] = (uint8_t)(0x80 | (c >> 6 & 63));
  out[3] = (uint8_t)(0x80 | (c & 63));
  return 4;
}

/* What steers a terminal: C0 but newline and tabulator, DEL, C1. */
static bool is_control(uint32_t c) {
  return (c < 0x20 && c != '\n' && c != '\t') || (c >= 0x7f && c < 0xa0);
}

/* A raw byte at which a reader of escaped texts has to look closer. */
static bool is_special(uint8_t b) {
  return b == '\\' || b == 0x7f || b == 0xc2 || b < 0x20;
}

/* One character of a valid escaped text; returns the bytes it takes there. A control character, and half of a
 * surrogate pair, becomes U+FFFD. Of a longer character that is no control the first byte is given. */
static uint32_t unescape(csn_span s, uint8_t out[4], uint32_t *len) {
  uint32_t used = 2, c = s.ptr[0];
  if (c != '\\' || s.len < 2) {
    if (c == 0xc2 && s.len >= 2 && s.ptr[1] < 0xa0) { /* U+0080 to U+009F */
      *len = put_utf8(out, 0xfffd);
      return 2;
    }
    if (c < 0x80 && is_control(c)) {
      *len = put_utf8(out, 0xfffd);
      return 1;
    }
    out[0] = (uint8_t)c;
    *len = 1;
    return 1;
  }
  switch (s.ptr[1]) {
  case 'n':
    c = '\n';
    break;
  case 't':
    c = '\t';
    break;
  case 'r':
  case 'b':
  case 'f':
    c = 0xfffd;
    break;
  case 'u':
    if (s.len < 6) {
      c = 0xfffd;
      break;
    }
    c = hex4(s.ptr + 2);
    used = 6;
    if (c >= 0xd800 && c < 0xdc00 && s.len >= 12 && s.ptr[6] == '\\' && s.ptr[7] == 'u') {
      uint32_t low = hex4(s.ptr + 8);
      if (low >= 0xdc00 && low < 0xe000) {
        c = 0x10000u + ((c - 0xd800u) << 10) + (low - 0xdc00u);
        used = 12;
      }
    }
    if (is_control(c) || (c >= 0xd800 && c < 0xe000)) c = 0xfffd;
    break;
  default:
    c = s.ptr[1];
    break;
  }
  *len = put_utf8(out, c);
  return used;
}

/* An escaped text as it is meant. A carriage return before a newline is left out. */
static void text(csn_transcript *v, csn_fx *fx, csn_span s) {
  uint32_t done = 0, i = 0;
  while (i < s.len) {
    if (!is_special(s.ptr[i])) {
      i++;
      continue;
    }
    uint8_t out[4];
    uint32_t n;
    md(v, fx, s.ptr + done, i - done);
    csn_span rest = csn_span_of(s.ptr + i, s.len - i);
    uint32_t used = unescape(rest, out, &n);
    bool crlf = rest.len >= 4 && memcmp(rest.ptr, "\\r\\n", 4) == 0;
    if (!crlf) md(v, fx, out, n);
    i += used;
    done = i;
  }
  if (done < s.len) md(v, fx, s.ptr + done, s.len - done);
}

/* JSON text as it stands, controls apart. */
static void json_text(csn_transcript *v, csn_fx *fx, csn_span s) {
  for (uint32_t i = 0; i < s.len;) {
    uint8_t out[4];
    uint32_t n = 1, used = 1;
    out[0] = s.ptr[i];
    if (out[0] != '\\' && is_special(out[0])) used = unescape(csn_span_of(s.ptr + i, s.len - i), out, &n);
    md(v, fx, out, n);
    i += used;
  }
}

/* The same on one line, for headings and lists: newlines are spaces, and nothing ends the code span. */
static void line_text(csn_transcript *v, csn_fx *fx, csn_span s, bool code) {
  for (uint32_t i = 0; i < s.len;) {
    uint8_t out[4] = {0};
    uint32_t n, used = unescape(csn_span_of(s.ptr + i, s.len - i), out, &n);
    if (out[0] == '\n' || out[0] == '\t') out[0] = ' ';
    if (code && out[0] == '`') out[0] = '\'';
    md(v, fx, out, n);
    i += used;
  }
}

static void end_line(csn_transcript *v, csn_fx *fx) {
  if (!v->line_start) str(v, fx, "\n");
}

static void blank(csn_transcript *v, csn_fx *fx) {
  end_line(v, fx);
  str(v, fx, "\n");
}

/* A fence that nothing inside can close: one backtick more than the longest run there. */
static uint32_t fence_of(csn_span s) {
  uint32_t longest = 2, run = 0;
  for (uint32_t i = 0; i < s.len;) {
    uint8_t out[4] = {0};
    uint32_t n;
    i += unescape(csn_span_of(s.ptr + i, s.len - i), out, &n);
    run = out[0] == '`' ? run + 1 : 0;
    if (run > longest) longest = run;
  }
  return longest + 1;
}

static void put_fence(csn_transcript *v, csn_fx *fx, uint32_t ticks, const char *language) {
  end_line(v, fx);
  for (uint32_t i = 0; i < ticks; i++)
    str(v, fx, "`");
  str(v, fx, language);
  str(v, fx, "\n");
}

static void fenced(csn_transcript *v, csn_fx *fx, csn_span s, const char *language) {
  uint32_t ticks = fence_of(s);
  put_fence(v, fx, ticks, language);
  text(v, fx, s);
  put_fence(v, fx, ticks, "");
}

static void cut_note(csn_transcript *v, csn_fx *fx, uint64_t shown, uint64_t all) {
  if (all <= shown) return;
  end_line(v, fx);
  str(v, fx, "*cut: ");
  u64(v, fx, shown);
  str(v, fx, " of ");
  u64(v, fx, all);
  str(v, fx, " bytes*\n");
}

static uint64_t number(const csn_transcript *v, uint32_t field) {
  uint64_t n = 0;
  const csn_json_item *item = csn_transcript_get(v, field);
  if (item->kind == CSN_JK_NUMBER && !item->cut) csn_json_u64(csn_json_text(&v->json, item), &n);
  return n;
}

/* Full length of a text: what the event says, else what it holds. */
static uint64_t full_len(const csn_transcript *v, uint32_t field, uint32_t len_field) {
  uint64_t said = number(v, len_field);
  const csn_json_item *item = csn_transcript_get(v, field);
  return said > item->true_len ? said : item->true_len;
}

/* A text in a fence, at most CSN_TRANSCRIPT_BRIEF_MAX of it. */
static void brief(csn_transcript *v, csn_fx *fx, uint32_t field, const char *language) {
  csn_span s = csn_transcript_text(v, field);
  uint64_t all = full_len(v, field, CSN_VF_TEXT_LEN);
  s.len = csn_json_cut(s, CSN_TRANSCRIPT_BRIEF_MAX);
  if (s.len == 0 && all == 0) return;
  fenced(v, fx, s, language);
  cut_note(v, fx, s.len, all);
}

static void begin(csn_transcript *v, csn_fx *fx) {
  v->line_start = 1;
  str(v, fx, "# Run ");
  u64(v, fx, v->run);
  str(v, fx, "\n\n");
}

static void init(csn_transcript *v, csn_fx *fx, bool there) {
  if (!there || csn_transcript_text(v, CSN_VF_MODEL).len == 0) return;
  str(v, fx, "- Agent: ");
  line_text(v, fx, csn_transcript_text(v, CSN_VF_MODEL), false);
  if (csn_transcript_text(v, CSN_VF_VERSION).len > 0) {
    str(v, fx, ", version ");
    line_text(v, fx, csn_transcript_text(v, CSN_VF_VERSION), false);
  }
  end_line(v, fx);
}

/* The members of a flat JSON object of numbers: `"turns":3,"cost_usd":0.1` becomes a list. */
static void put_usage(csn_transcript *v, csn_fx *fx, csn_span json) {
  for (uint32_t i = 1; i + 1 < json.len; i++) {
    uint8_t c = json.ptr[i];
    if (c == ',')
      str(v, fx, ", ");
    else if (c == '_' || c == ':')
      str(v, fx, " ");
    else if (c >= 0x20 && c < 0x7f && c != '"')
      md(v, fx, &c, 1);
  }
}

static void outcome(csn_transcript *v, csn_fx *fx, bool there) {
  if (!there) {
    str(v, fx, "- Outcome: none yet\n");
    return;
  }
  str(v, fx, "- Outcome: **");
  str(v, fx, csn_transcript_state(v));
  str(v, fx, "** (");
  line_text(v, fx, csn_transcript_text(v, CSN_VF_REASON), false);
  str(v, fx, ")\n- Time: ");
  u64(v, fx, number(v, CSN_VF_DURATION));
  str(v, fx, " ms\n");
  const csn_json_item *usage = csn_transcript_get(v, CSN_VF_USAGE);
  if (usage->kind == CSN_JK_OBJECT && !usage->cut) {
    str(v, fx, "- Usage: ");
    put_usage(v, fx, csn_json_text(&v->json, usage));
    end_line(v, fx);
  }
  csn_span error = csn_transcript_text(v, CSN_VF_ERROR_MESSAGE),
           result = csn_transcript_text(v, CSN_VF_RESULT);
  if (error.len > 0) {
    str(v, fx, "\n## Error\n\n");
    fenced(v, fx, error, "");
  }
  if (result.len > 0) {
    str(v, fx, "\n## Result\n\n");
    text(v, fx, result);
    cut_note(v, fx, result.len, full_len(v, CSN_VF_RESULT, CSN_VF_RESULT_LEN));
    end_line(v, fx);
  }
}

static void count(csn_transcript *v, csn_fx *fx, const char *what, uint32_t n) {
  if (n == 0) return;
  str(v, fx, "- ");
  u64(v, fx, n);
  str(v, fx, what);
  str(v, fx, "\n");
}

static void body(csn_transcript *v, csn_fx *fx) {
  static const char *const status[] = {"", "added", "modified", "deleted"};
  if (v->file_count > 0) str(v, fx, "\n## Files\n\n");
  for (uint32_t i = 0; i < v->file_count; i++) {
    const csn_transcript_file *f = &v->files[i];
    str(v, fx, "- `");
    line_text(v, fx, csn_span_of(v->paths + f->off, f->len), true);
    str(v, fx, "`");
    const char *mark = ": ";
    if (f->status != 0) {
      str(v, fx, mark);
      str(v, fx, status[f->status]);
      mark = ", ";
    }
    if (f->edits > 0) {
      str(v, fx, mark);
      u64(v, fx, f->edits);
      str(v, fx, f->edits == 1 ? " edit" : " edits");
      mark = ", ";
    }
    if (f->reads > 0) {
      str(v, fx, mark);
      u64(v, fx, f->reads);
      str(v, fx, f->reads == 1 ? " read" : " reads");
    }
    str(v, fx, "\n");
  }
  if (v->lost_nodes > 0 || v->lost_files > 0 || v->bad_events > 0 || v->raws > 0)
    str(v, fx, "\n## Left out\n\n");
  count(v, fx, " items beyond what a transcript holds", v->lost_nodes);
  count(v, fx, " files beyond what a transcript holds", v->lost_files);
  count(v, fx, " events that cannot be read", v->bad_events);
  count(v, fx, " lines of output that are no events", v->raws);
  if (v->root_first != CSN_TRANSCRIPT_NONE) str(v, fx, "\n## Transcript\n");
}

static void open_turn(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n) {
  blank(v, fx);
  if (n->depth > 0) {
    str(v, fx, "**Subagent, turn ");
    u64(v, fx, n->id);
    str(v, fx, "**\n");
  } else if (n->id > 0) {
    str(v, fx, "### Turn ");
    u64(v, fx, n->id);
    str(v, fx, "\n");
  }
}

static void open_call(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n) {
  csn_span tool = csn_transcript_text(v, CSN_VF_TOOL), file = csn_transcript_text(v, CSN_VF_FILE);
  str(v, fx, "**");
  line_text(v, fx, tool, false);
  str(v, fx, "**");
  if (file.len > 0) {
    str(v, fx, " `");
    line_text(v, fx, file, true);
    str(v, fx, "`");
  }
  if (n->is_denied) str(v, fx, " (denied)");
  str(v, fx, "\n\n");
  csn_span command = csn_transcript_text(v, CSN_VF_COMMAND);
  if (csn_transcript_has_diff(v)) {
    /* What a diff holds stands in the input, whose longest run of backticks bounds that of its parts. */
    uint32_t ticks = fence_of(csn_json_text(&v->json, csn_transcript_get(v, CSN_VF_INPUT)));
    put_fence(v, fx, ticks, "diff");
    csn_transcript_put_diff(v, fx);
    put_fence(v, fx, ticks, "");
  } else if (command.len > 0) {
    fenced(v, fx, command, "sh");
    cut_note(v, fx, command.len, csn_transcript_get(v, CSN_VF_COMMAND)->true_len);
  } else if (csn_transcript_get(v, CSN_VF_INPUT_HEAD)->kind == CSN_JK_STRING) {
    csn_span head = csn_transcript_text(v, CSN_VF_INPUT_HEAD);
    head.len = csn_json_cut(head, CSN_TRANSCRIPT_BRIEF_MAX);
    fenced(v, fx, head, "json");
    cut_note(v, fx, head.len, number(v, CSN_VF_INPUT_LEN));
  } else if (csn_transcript_get(v, CSN_VF_INPUT)->kind == CSN_JK_OBJECT && file.len == 0) {
    csn_span json = csn_json_text(&v->json, csn_transcript_get(v, CSN_VF_INPUT));
    uint32_t all = json.len, ticks;
    if (json.len > CSN_TRANSCRIPT_BRIEF_MAX) {
      json.len = CSN_TRANSCRIPT_BRIEF_MAX;
      json.len = csn_utf8_whole(json);
    }
    ticks = fence_of(json);
    put_fence(v, fx, ticks, "json");
    json_text(v, fx, json);
    put_fence(v, fx, ticks, "");
    cut_note(v, fx, json.len, all);
  }
  if (n->other != 0) return;
  blank(v, fx);
  str(v, fx, "*no result*\n");
}

static void put_warning(csn_transcript *v, csn_fx *fx) {
  str(v, fx, "*Limit ");
  line_text(v, fx, csn_transcript_text(v, CSN_VF_LIMIT), false);
  const csn_json_item *used = csn_transcript_get(v, CSN_VF_USED), *max = csn_transcript_get(v, CSN_VF_MAX);
  if (max->kind == CSN_JK_NUMBER) {
    csn_span a = csn_json_text(&v->json, used), b = csn_json_text(&v->json, max);
    str(v, fx, ": ");
    if (used->kind == CSN_JK_NUMBER)
      md(v, fx, a.ptr, a.len);
    else
      str(v, fx, "an unknown part");
    str(v, fx, " of ");
    md(v, fx, b.ptr, b.len);
  }
  str(v, fx, "* ");
  line_text(v, fx, csn_transcript_text(v, CSN_VF_DETAIL), false);
  end_line(v, fx);
}

static void open(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n, bool there) {
  if (n->kind != CSN_VN_TURN) blank(v, fx);
  switch ((csn_transcript_kind)n->kind) {
  case CSN_VN_TURN:
    open_turn(v, fx, n);
    break;
  case CSN_VN_TEXT:
    text(v, fx, csn_transcript_text(v, CSN_VF_TEXT));
    cut_note(v, fx, csn_transcript_text(v, CSN_VF_TEXT).len, full_len(v, CSN_VF_TEXT, CSN_VF_TEXT_LEN));
    break;
  case CSN_VN_THINKING:
    str(v, fx, "*Thinking*\n\n");
    brief(v, fx, CSN_VF_TEXT, "");
    break;
  case CSN_VN_CALL:
    open_call(v, fx, n);
    break;
  case CSN_VN_RESULT:
    str(v, fx, csn_transcript_is_true(v, CSN_VF_IS_ERROR) ? "*Failed:*\n\n" : "*Result:*\n\n");
    brief(v, fx, CSN_VF_TEXT, "");
    break;
  case CSN_VN_STDOUT:
  case CSN_VN_STDERR:
    str(v, fx, n->kind == CSN_VN_STDOUT ? "*Output*\n\n" : "*Standard error*\n\n");
    break;
  case CSN_VN_RETRY:
    str(v, fx, "*Retry ");
    u64(v, fx, number(v, CSN_VF_ATTEMPT));
    str(v, fx, " of ");
    u64(v, fx, number(v, CSN_VF_MAX_RETRIES));
    str(v, fx, ", status ");
    u64(v, fx, number(v, CSN_VF_STATUS));
    str(v, fx, "*\n");
    break;
  case CSN_VN_DENIED:
    str(v, fx, "*Denied:* ");
    line_text(v, fx, csn_transcript_text(v, CSN_VF_MESSAGE), false);
    end_line(v, fx);
    break;
  case CSN_VN_WARNING:
    put_warning(v, fx);
    break;
  case CSN_VN_ERROR:
    str(v, fx, "*Error*\n\n");
    brief(v, fx, CSN_VF_TEXT, "");
    break;
  }
  if (!there && n->kind != CSN_VN_TURN && n->kind != CSN_VN_STDOUT && n->kind != CSN_VN_STDERR)
    str(v, fx, "*the event is not there any more*\n");
}

static void result(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n, bool there) {
  if (!there || n->kind == CSN_VN_TURN) return;
  blank(v, fx);
  if (csn_transcript_is_true(v, CSN_VF_IS_ERROR)) str(v, fx, "*Failed:*\n\n");
  brief(v, fx, CSN_VF_TEXT, "");
}

static void extra(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n, bool there) {
  (void)n;
  if (!there) return;
  blank(v, fx);
  str(v, fx, "*Subagent ");
  line_text(v, fx, csn_transcript_text(v, CSN_VF_STATUS), false);
  str(v, fx, ":* ");
  line_text(v, fx, csn_transcript_text(v, CSN_VF_SUMMARY), false);
  end_line(v, fx);
}

static void piece(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n, bool there) {
  (void)n;
  /* Indented and not fenced: what closes a fence may come in the next piece. */
  v->indent = 1;
  if (there) text(v, fx, csn_transcript_text(v, CSN_VF_TEXT));
  v->indent = 0;
}

static void items(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n) {
  bool output = n->kind == CSN_VN_STDOUT || n->kind == CSN_VN_STDERR;
  if (output) cut_note(v, fx, v->shown, n->id);
}

static void close(csn_transcript *v, csn_fx *fx, const csn_transcript_node *n) {
  (void)n;
  end_line(v, fx);
}

static void end(csn_transcript *v, csn_fx *fx) {
  end_line(v, fx);
}

void csn_transcript_markdown_line(csn_transcript *v, csn_fx *fx, const char *mark, csn_span line) {
  str(v, fx, mark);
  line_text(v, fx, line, false);
  str(v, fx, "\n");
}

const csn_transcript_form csn_transcript_markdown_form = {begin, init,  outcome, body,  open, result,
                                                          extra, piece, items,   close, end};
