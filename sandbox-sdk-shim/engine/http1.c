/* engine/http1.c - see http1.h. */
#include "http1.h"

#include <string.h>
#include <strings.h>

static bool token_char(char c) {
  if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) return true;
  return c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL;
}

/* Visible, blank, tab, or above ASCII: no control character can change what another reader sees. */
static bool value_char(char c) {
  return c == '\t' || ((unsigned char)c >= ' ' && c != 0x7f);
}

static bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool http_is(http_span s, const char *text) {
  return strlen(text) == s.n && memcmp(s.p, text, s.n) == 0;
}

bool http_is_nocase(http_span s, const char *text) {
  return strlen(text) == s.n && strncasecmp(s.p, text, s.n) == 0;
}

const http_field *http_find(const http_head *h, const char *name) {
  for (size_t i = 0; i < h->count; i++)
    if (http_is_nocase(h->fields[i].name, name)) return &h->fields[i];
  return NULL;
}

/* The next word of a comma-separated list; false at its end. */
static bool next_word(http_span *list, http_span *word) {
  while (list->n > 0) {
    const char *comma = memchr(list->p, ',', list->n);
    size_t n = comma == NULL ? list->n : (size_t)(comma - list->p);
    http_span w = {list->p, n};
    size_t step = comma == NULL ? n : n + 1;
    list->p += step;
    list->n -= step;
    while (w.n > 0 && (w.p[0] == ' ' || w.p[0] == '\t')) {
      w.p++;
      w.n--;
    }
    while (w.n > 0 && (w.p[w.n - 1] == ' ' || w.p[w.n - 1] == '\t'))
      w.n--;
    if (w.n == 0) continue;
    *word = w;
    return true;
  }
  return false;
}

/* Whether any field of that name lists the word. */
static bool lists(const http_head *h, const char *name, http_span wanted) {
  for (size_t i = 0; i < h->count; i++) {
    if (!http_is_nocase(h->fields[i].name, name)) continue;
    http_span list = h->fields[i].value, word;
    while (next_word(&list, &word))
      if (word.n == wanted.n && strncasecmp(word.p, wanted.p, word.n) == 0) return true;
  }
  return false;
}

static bool lists_text(const http_head *h, const char *name, const char *wanted) {
  return lists(h, name, (http_span){wanted, strlen(wanted)});
}

bool http_hop_by_hop(const http_head *h, const http_field *f) {
  static const char *const names[] = {"Connection",
                                      "Keep-Alive",
                                      "Proxy-Authenticate",
                                      "Proxy-Authorization",
                                      "Proxy-Connection",
                                      "TE",
                                      "Trailer",
                                      "Transfer-Encoding",
                                      "Upgrade"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (http_is_nocase(f->name, names[i])) return true;
  return lists(h, "Connection", f->name);
}

/* Finds the end of the head: *used is behind the empty line. A bare CR or LF is refused, because readers
 * differ in whether it ends a line. */
static http_result find_end(const char *data, size_t len, size_t *used, const char **why) {
  size_t top = len < HTTP_HEAD_MAX ? len : HTTP_HEAD_MAX;
  size_t line = 0;
  for (size_t i = 0; i < top; i++) {
    if (data[i] == '\n') {
      *why = "a line of the head ends without CR";
      return HTTP1_BAD;
    }
    if (data[i] != '\r') continue;
    if (i + 1 == len) return HTTP1_MORE;
    if (data[i + 1] != '\n') {
      *why = "a CR stands inside a line of the head";
      return HTTP1_BAD;
    }
    if (i == line) {
      *used = i + 2;
      return HTTP1_OK;
    }
    i++;
    line = i + 1;
  }
  if (len < HTTP_HEAD_MAX) return HTTP1_MORE;
  *why = "the head is too long";
  return HTTP1_BAD;
}

static bool read_version(http_span s, int *minor) {
  if (s.n != 8 || memcmp(s.p, "HTTP/1.", 7) != 0 || (s.p[7] != '0' && s.p[7] != '1')) return false;
  *minor = s.p[7] - '0';
  return true;
}

/* The part of *line before the next blank; *line goes behind it. */
static bool cut_blank(http_span *line, http_span *out) {
  const char *blank = memchr(line->p, ' ', line->n);
  if (blank == NULL) return false;
  *out = (http_span){line->p, (size_t)(blank - line->p)};
  line->n -= out->n + 1;
  line->p = blank + 1;
  return true;
}

static const char *read_request_line(http_span line, http_head *h) {
  if (!cut_blank(&line, &h->method) || !cut_blank(&line, &h->target))
    return "the request line is not three words";
  if (!read_version(line, &h->minor)) return "the version is not HTTP/1.0 or HTTP/1.1";
  if (h->method.n == 0 || h->method.n > 32) return "the method is not a token";
  for (size_t i = 0; i < h->method.n; i++)
    if (!token_char(h->method.p[i])) return "the method is not a token";
  if (h->target.n == 0) return "the request target is empty";
  for (size_t i = 0; i < h->target.n; i++)
    if ((unsigned char)h->target.p[i] <= ' ' || (unsigned char)h->target.p[i] >= 0x7f)
      return "the request target has a byte that is not visible ASCII";
  return NULL;
}

static const char *read_status_line(http_span line, http_head *h) {
  http_span version, code;
  if (!cut_blank(&line, &version) || !read_version(version, &h->minor))
    return "the version is not HTTP/1.0 or HTTP/1.1";
  /* The blank behind the status may be missing with the reason. */
  if (!cut_blank(&line, &code)) {
    code = line;
    line.n = 0;
  }
  if (code.n != 3 || !is_digit(code.p[0]) || !is_digit(code.p[1]) || !is_digit(code.p[2]) || code.p[0] == '0')
    return "the status is not a number";
  h->status = (code.p[0] - '0') * 100 + (code.p[1] - '0') * 10 + (code.p[2] - '0');
  for (size_t i = 0; i < line.n; i++)
    if (!value_char(line.p[i])) return "the reason has a control character";
  h->reason = line;
  return NULL;
}

static const char *read_field(http_span line, http_head *h) {
  if (line.p[0] == ' ' || line.p[0] == '\t') return "a field is folded over lines";
  const char *colon = memchr(line.p, ':', line.n);
  if (colon == NULL || colon == line.p) return "a line is not a field";
  if (h->count == HTTP_FIELDS_MAX) return "there are too many fields";
  http_field *f = &h->fields[h->count];
  f->name = (http_span){line.p, (size_t)(colon - line.p)};
  /* A blank before the colon is the classic: some readers take it for part of the name. */
  for (size_t i = 0; i < f->name.n; i++)
    if (!token_char(f->name.p[i])) return "a field's name is not a token";
  http_span v = {colon + 1, line.n - f->name.n - 1};
  while (v.n > 0 && (v.p[0] == ' ' || v.p[0] == '\t')) {
    v.p++;
    v.n--;
  }
  while (v.n > 0 && (v.p[v.n - 1] == ' ' || v.p[v.n - 1] == '\t'))
    v.n--;
  for (size_t i = 0; i < v.n; i++)
    if (!value_char(v.p[i])) return "a field's value has a control character";
  f->value = v;
  h->count++;
  return NULL;
}

static bool read_length(http_span s, uint64_t *out) {
  uint64_t v = 0;
  if (s.n == 0 || s.n > 18) return false;
  for (size_t i = 0; i < s.n; i++) {
    if (!is_digit(s.p[i])) return false;
    v = v * 10 + (uint64_t)(s.p[i] - '0');
  }
  *out = v;
  return true;
}

/* What the fields say of the body. Both a length and chunks, or two lengths, or a coding that is not exactly
 * "chunked": refused, each is a way to make the next hop see another request. */
static const char *read_framing(http_head *h) {
  const http_field *length = NULL, *coding = NULL;
  for (size_t i = 0; i < h->count; i++) {
    const http_field *f = &h->fields[i];
    if (http_is_nocase(f->name, "Content-Length")) {
      if (length != NULL) return "there are two Content-Length fields";
      length = f;
    } else if (http_is_nocase(f->name, "Transfer-Encoding")) {
      if (coding != NULL) return "there are two Transfer-Encoding fields";
      coding = f;
    }
  }
  if (length != NULL && coding != NULL) return "there are both Content-Length and Transfer-Encoding";
  if (coding != NULL) {
    if (!http_is_nocase(coding->value, "chunked")) return "the Transfer-Encoding is not chunked";
    if (h->minor == 0) return "HTTP/1.0 has no Transfer-Encoding";
    h->framing = BODY_CHUNKED;
  } else if (length != NULL) {
    if (!read_length(length->value, &h->length)) return "the Content-Length is not a number";
    h->framing = BODY_LENGTH;
  }
  return NULL;
}

static const char *read_fields(http_span rest, http_head *h) {
  while (rest.n > 2) {
    const char *end = memchr(rest.p, '\r', rest.n);
    http_span line = {rest.p, (size_t)(end - rest.p)};
    const char *wrong = read_field(line, h);
    if (wrong != NULL) return wrong;
    rest.p += line.n + 2;
    rest.n -= line.n + 2;
  }
  if (lists_text(h, "Connection", "close"))
    h->keep_alive = false;
  else
    h->keep_alive = h->minor == 1 || lists_text(h, "Connection", "keep-alive");
  h->websocket =
      h->minor == 1 && lists_text(h, "Connection", "upgrade") && lists_text(h, "Upgrade", "websocket");
  return read_framing(h);
}

typedef const char *first_line(http_span line, http_head *h);

static http_result read_head(const char *data, size_t len, first_line *first, http_head *h, size_t *used,
                             const char **why) {
  http_result r = find_end(data, len, used, why);
  if (r != HTTP1_OK) return r;
  h->count = 0;
  h->method = h->target = h->reason = h->host = (http_span){"", 0};
  h->status = 0;
  h->framing = BODY_NONE;
  h->length = 0;
  h->expect = h->websocket = false;
  const char *end = memchr(data, '\r', *used);
  http_span line = {data, (size_t)(end - data)};
  *why = first(line, h);
  if (*why == NULL) *why = read_fields((http_span){end + 2, *used - line.n - 2}, h);
  return *why == NULL ? HTTP1_OK : HTTP1_BAD;
}

http_result http_request(const char *data, size_t len, http_head *h, size_t *used, const char **why) {
  http_result r = read_head(data, len, read_request_line, h, used, why);
  if (r != HTTP1_OK) return r;
  for (size_t i = 0; i < h->count; i++) {
    if (!http_is_nocase(h->fields[i].name, "Host")) continue;
    if (h->host.n != 0 || h->fields[i].value.n == 0) {
      *why = "there is not exactly one Host field with a value";
      return HTTP1_BAD;
    }
    h->host = h->fields[i].value;
  }
  if (h->minor == 1 && h->host.n == 0) {
    *why = "there is no Host field";
    return HTTP1_BAD;
  }
  h->expect = h->minor == 1 && h->framing != BODY_NONE && lists_text(h, "Expect", "100-continue");
  if (h->framing == BODY_LENGTH && h->length == 0) h->expect = false;
  return HTTP1_OK;
}

http_result http_response(const char *data, size_t len, bool head_only, http_head *h, size_t *used,
                          const char **why) {
  http_result r = read_head(data, len, read_status_line, h, used, why);
  if (r != HTTP1_OK) return r;
  if (head_only || h->status < 200 || h->status == 204 || h->status == 304)
    h->framing = BODY_NONE;
  else if (h->framing == BODY_NONE)
    h->framing = BODY_TO_END;
  return HTTP1_OK;
}

/* ---- bodies ---- */

enum { IN_SIZE, IN_EXTENSION, IN_SIZE_LF, IN_DATA, IN_DATA_CR, IN_DATA_LF, IN_TRAILER, IN_TRAILER_LF };

#define CHUNK_DIGITS_MAX 15u

void http_body_start(http_body *b, const http_head *h) {
  *b = (http_body){.framing = h->framing, .state = IN_SIZE};
  if (h->framing == BODY_LENGTH) b->left = h->length;
  b->done = h->framing == BODY_NONE || (h->framing == BODY_LENGTH && h->length == 0);
}

static int hex(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/* One byte of what stands between chunks. `extra` counts the digits while a size is read. */
static bool chunk_byte(http_body *b, char c) {
  switch (b->state) {
  case IN_SIZE:
    if (hex(c) >= 0 && b->extra < CHUNK_DIGITS_MAX) {
      b->left = b->left << 4 | (unsigned)hex(c);
      b->extra++;
      return true;
    }
    if (b->extra == 0) return false;
    b->extra = 0;
    b->state = c == '\r' ? IN_SIZE_LF : IN_EXTENSION;
    return c == '\r' || c == ';' || c == ' ' || c == '\t';
  case IN_EXTENSION:
    if (c == '\r') b->state = IN_SIZE_LF;
    return c == '\r' || (value_char(c) && ++b->extra <= HTTP_TRAIL_MAX);
  case IN_SIZE_LF:
    b->extra = 0;
    b->line = false;
    b->state = b->left == 0 ? IN_TRAILER : IN_DATA;
    return c == '\n';
  case IN_DATA_CR:
    b->state = IN_DATA_LF;
    return c == '\r';
  case IN_DATA_LF:
    b->state = IN_SIZE;
    return c == '\n';
  case IN_TRAILER:
    if (c == '\r') {
      b->state = IN_TRAILER_LF;
      return true;
    }
    b->line = true;
    return value_char(c) && ++b->extra <= HTTP_TRAIL_MAX;
  case IN_TRAILER_LF:
    b->done = !b->line;
    b->line = false;
    b->state = IN_TRAILER;
    return c == '\n';
  default:
    return false;
  }
}

ptrdiff_t http_body_next(http_body *b, const char *in, size_t len, const char **data, size_t *n) {
  size_t at = 0;
  *data = in;
  *n = 0;
  if (b->done) return 0;
  if (b->framing == BODY_CHUNKED) {
    while (at < len && !b->done && b->state != IN_DATA)
      if (!chunk_byte(b, in[at++])) return -1;
    if (b->done || at == len) return (ptrdiff_t)at;
  }
  *data = in + at;
  *n = len - at;
  if (b->framing == BODY_TO_END) return (ptrdiff_t)len;
  if (*n > b->left) *n = (size_t)b->left;
  b->left -= *n;
  if (b->left == 0) {
    if (b->framing == BODY_LENGTH)
      b->done = true;
    else
      b->state = IN_DATA_CR;
  }
  return (ptrdiff_t)(at + *n);
}
