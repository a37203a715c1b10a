#include "csn/transcript.h"

#include "transcript_write.h"

/* Texts are compared and printed as they are escaped: equal lines are escaped equally by one agent. */

/* The first line of `rest` without its newline; moves `rest` behind it. Returns false at the end. */
static bool next_line(csn_span *rest, csn_span *line) {
  if (rest->len == 0) return false;
  uint32_t n = 0;
  while (n < rest->len) {
    if (rest->ptr[n] != '\\') {
      n++;
      continue;
    }
    if (n + 1 < rest->len && rest->ptr[n + 1] == 'n') {
      *line = csn_span_of(rest->ptr, n);
      *rest = csn_span_of(rest->ptr + n + 2, rest->len - n - 2);
      return true;
    }
    n += n + 1 < rest->len ? 2 : 1;
  }
  *line = *rest;
  *rest = csn_span_of(rest->ptr + rest->len, 0);
  return true;
}

static bool same(csn_span a, csn_span b) {
  return a.len == b.len && memcmp(a.ptr, b.ptr, a.len) == 0;
}

static uint32_t count_lines(csn_span text) {
  csn_span line;
  uint32_t n = 0;
  while (next_line(&text, &line))
    n++;
  return n;
}

static void put_line(csn_transcript *v, csn_fx *fx, const char *mark, csn_span line) {
  if (v->format == CSN_TRANSCRIPT_MARKDOWN)
    csn_transcript_markdown_line(v, fx, mark, line);
  else
    csn_transcript_json_line(fx, mark, line);
}

static void put_lines(csn_transcript *v, csn_fx *fx, csn_span text, uint32_t from, uint32_t to,
                      const char *mark) {
  csn_span line;
  for (uint32_t i = 0; next_line(&text, &line); i++) {
    if (i < from || i >= to) continue;
    put_line(v, fx, mark, line);
  }
}

/* What both begin with and what both end with is left out, but for lines next to the change. */
enum { CONTEXT = 3 };

static void put_hunk(csn_transcript *v, csn_fx *fx, csn_span before, csn_span after) {
  uint32_t olds = count_lines(before), news = count_lines(after), head = 0, tail = 0;
  csn_span a = before, b = after, x, y;
  while (next_line(&a, &x) && next_line(&b, &y) && same(x, y))
    head++;
  /* Lines from the end have no cheap order: both are walked from the line where as many are left. */
  uint32_t most = (olds < news ? olds : news) - head;
  a = before;
  b = after;
  for (uint32_t i = 0; i < olds - most; i++)
    next_line(&a, &x);
  for (uint32_t i = 0; i < news - most; i++)
    next_line(&b, &y);
  for (uint32_t i = 0; i < most && next_line(&a, &x) && next_line(&b, &y); i++)
    tail = same(x, y) ? tail + 1 : 0;
  uint32_t from = head > CONTEXT ? head - CONTEXT : 0, kept = tail > CONTEXT ? CONTEXT : tail;
  put_line(v, fx, "@@", csn_span_of(NULL, 0));
  put_lines(v, fx, before, from, head, " ");
  put_lines(v, fx, before, head, olds - tail, "-");
  put_lines(v, fx, after, head, news - tail, "+");
  put_lines(v, fx, before, olds - tail, olds - tail + kept, " ");
}

static csn_span field(const csn_transcript *v, uint32_t at, uint32_t index, bool *is_cut) {
  const csn_json_item *item = csn_json_get(&v->json, at, index);
  if (item->kind == CSN_JK_STRING && item->cut) *is_cut = true;
  return item->kind == CSN_JK_STRING ? csn_json_text(&v->json, item) : csn_span_of(NULL, 0);
}

static bool is_text(const csn_transcript *v, uint32_t at) {
  return csn_json_get(&v->json, at, 0)->kind == CSN_JK_STRING;
}

bool csn_transcript_has_diff(const csn_transcript *v) {
  return is_text(v, CSN_VF_OLD) || is_text(v, CSN_VF_OLD_CAMEL) ||
         (is_text(v, CSN_VF_CONTENT) && is_text(v, CSN_VF_FILE)) || is_text(v, CSN_VF_PATCH) ||
         csn_json_index_end(&v->json, CSN_VF_EDIT_OLD, CSN_VF_EDIT_NEW) > 0;
}

void csn_transcript_put_diff(csn_transcript *v, csn_fx *fx) {
  bool is_cut = false;
  csn_span file = field(v, CSN_VF_FILE, 0, &is_cut);
  if (is_text(v, CSN_VF_PATCH)) { /* a diff already */
    csn_span patch = field(v, CSN_VF_PATCH, 0, &is_cut), line;
    while (next_line(&patch, &line))
      put_line(v, fx, "", line);
  } else {
    put_line(v, fx, "--- ", file);
    put_line(v, fx, "+++ ", file);
    uint32_t edits = csn_json_index_end(&v->json, CSN_VF_EDIT_OLD, CSN_VF_EDIT_NEW);
    for (uint32_t i = 0; i < edits; i++)
      put_hunk(v, fx, field(v, CSN_VF_EDIT_OLD, i, &is_cut), field(v, CSN_VF_EDIT_NEW, i, &is_cut));
    if (edits == 0) {
      bool camel = is_text(v, CSN_VF_OLD_CAMEL), replaces = camel || is_text(v, CSN_VF_OLD);
      csn_span before = field(v, camel ? CSN_VF_OLD_CAMEL : CSN_VF_OLD, 0, &is_cut);
      csn_span after = field(v,
                             !replaces ? CSN_VF_CONTENT
                             : camel   ? CSN_VF_NEW_CAMEL
                                       : CSN_VF_NEW,
                             0, &is_cut);
      put_hunk(v, fx, before, after);
    }
  }
  if (is_cut) put_line(v, fx, "(cut: the input is longer than what is kept)", csn_span_of(NULL, 0));
}
