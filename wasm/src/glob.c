#include "csn/glob.h"

bool csn_word_in(csn_span word, const char *list) {
  while (*list != 0) {
    uint32_t n = 0;
    while (list[n] != 0 && list[n] != ' ')
      n++;
    if (n == word.len && memcmp(word.ptr, list, n) == 0) return true;
    list += n + (list[n] != 0);
  }
  return false;
}

/* `one`: whether `?` stands for one byte. */
static bool match(csn_span pattern, csn_span text, bool one) {
  uint32_t p = 0, t = 0, star = UINT32_MAX, mark = 0;
  while (t < text.len) {
    if (p < pattern.len && pattern.ptr[p] == '*') {
      star = p++;
      mark = t;
    } else if (p < pattern.len && (pattern.ptr[p] == text.ptr[t] || (one && pattern.ptr[p] == '?'))) {
      p++;
      t++;
    } else if (star != UINT32_MAX) {
      p = star + 1;
      t = ++mark;
      /* On to where the next byte of the pattern stands. */
      uint8_t next = p < pattern.len ? pattern.ptr[p] : '*';
      if (next == '*' || (one && next == '?')) continue;
      while (t < text.len && text.ptr[t] != next)
        t++;
      mark = t;
    } else {
      return false;
    }
  }
  while (p < pattern.len && pattern.ptr[p] == '*')
    p++;
  return p == pattern.len;
}

bool csn_glob_text(csn_span pattern, csn_span text) {
  return match(pattern, text, false);
}

/* One segment: no slashes in either. */
static bool segment(csn_span pattern, csn_span text) {
  return match(pattern, text, true);
}

/* The segment that starts at `at`; *next is where the following one starts, or len + 1 after the last. */
static csn_span segment_at(csn_span s, uint32_t at, uint32_t *next) {
  uint32_t end = at;
  while (end < s.len && s.ptr[end] != '/')
    end++;
  *next = end + 1;
  return csn_span_of(s.ptr + at, end - at);
}

/* The same backtracking over segments: only the last `**` is ever tried again. */
bool csn_glob_path(csn_span pattern, csn_span path) {
  uint32_t p = 0, t = 0, star = UINT32_MAX, mark = 0, p_next, t_next;
  while (t <= path.len) {
    csn_span text = segment_at(path, t, &t_next);
    csn_span want = p <= pattern.len ? segment_at(pattern, p, &p_next) : csn_span_of(NULL, 0);
    bool has = p <= pattern.len;
    if (has && want.len == 2 && want.ptr[0] == '*' && want.ptr[1] == '*') {
      star = p_next;
      p = p_next;
      mark = t;
    } else if (has && segment(want, text)) {
      p = p_next;
      t = t_next;
    } else if (star != UINT32_MAX) {
      p = star;
      segment_at(path, mark, &t_next);
      mark = t_next;
      t = mark;
    } else {
      return false;
    }
  }
  while (p <= pattern.len) {
    csn_span want = segment_at(pattern, p, &p_next);
    if (want.len != 2 || want.ptr[0] != '*' || want.ptr[1] != '*') return false;
    p = p_next;
  }
  return true;
}

static bool push(csn_span part, uint8_t *out, uint32_t cap, uint32_t *len) {
  for (uint32_t at = 0, next; at <= part.len; at = next) {
    csn_span s = segment_at(part, at, &next);
    if (s.len == 0 || (s.len == 1 && s.ptr[0] == '.')) continue;
    if (s.len == 2 && s.ptr[0] == '.' && s.ptr[1] == '.') {
      while (*len > 0 && out[*len - 1] != '/')
        --*len;
      if (*len > 0) --*len;
      continue;
    }
    if (s.len + 1 > cap - *len) return false;
    out[(*len)++] = '/';
    memcpy(out + *len, s.ptr, s.len);
    *len += s.len;
  }
  return true;
}

uint32_t csn_path_plain(csn_span path, csn_span cwd, csn_span home, uint8_t *out, uint32_t cap) {
  uint32_t len = 0;
  bool tilde = path.len > 0 && path.ptr[0] == '~' && (path.len == 1 || path.ptr[1] == '/');
  bool absolute = path.len > 0 && path.ptr[0] == '/';
  if (tilde) path = csn_span_of(path.ptr + 1, path.len - 1);
  if (tilde && !push(home, out, cap, &len)) return UINT32_MAX;
  if (!tilde && !absolute && !push(cwd, out, cap, &len)) return UINT32_MAX;
  if (!push(path, out, cap, &len)) return UINT32_MAX;
  if (len == 0) {
    if (cap == 0) return UINT32_MAX;
    out[len++] = '/';
  }
  return len;
}
