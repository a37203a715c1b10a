/* guest/interp_event.c - see interp_event.h. */
#define _GNU_SOURCE
#include "interp_event.h"

#include <cJSON.h>
#include <stdio.h>
#include <string.h>

static bool is_object(const char *json, size_t len) {
  const char *end = NULL;
  cJSON *v = cJSON_ParseWithLengthOpts(json, len, &end, false);
  bool ok = cJSON_IsObject(v) && end == json + len;
  cJSON_Delete(v);
  return ok;
}

interp_line interp_read(const char *line, size_t len, uint64_t run) {
  const interp_line bad = {.kind = INTERP_BAD};
  interp_line out = bad;
  if (len < 2 || line[1] != ' ') return bad;
  char kind = line[0];
  if (kind != 'H' && kind != 'R' && kind != 'D' && kind != 'E') return bad;
  size_t at = 2;
  if (kind != 'H') {
    uint64_t number = 0;
    size_t digits = 0;
    for (; at < len && line[at] >= '0' && line[at] <= '9' && digits < 19; at++, digits++)
      number = number * 10 + (uint64_t)(line[at] - '0');
    if (digits == 0) return bad;
    if (number != run || run == 0) {
      out.kind = INTERP_STALE;
      return out;
    }
    if (kind == 'D') {
      out.kind = at == len ? INTERP_DONE : INTERP_BAD;
      return out;
    }
    if (at >= len || line[at++] != ' ') return bad;
  }
  out.kind = kind == 'H' ? INTERP_HELLO : kind == 'R' ? INTERP_RESULT : INTERP_ERROR;
  if (at >= len || line[at] != '{' || !is_object(line + at, len - at)) return bad;
  out.body = line + at;
  out.body_len = len - at;
  return out;
}

static size_t sequence_length(unsigned char first) {
  return first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
}

void interp_ascii(csn_buf *out, const char *json, size_t len) {
  size_t from = 0;
  for (size_t i = 0; i < len;) {
    unsigned char c = (unsigned char)json[i];
    if (c >= 0x20 && c < 0x80) {
      i++;
      continue;
    }
    csn_buf_add(out, json + from, i - from);
    size_t n = c < 0x80 ? 1 : sequence_length(c);
    if (c < 0x80) { /* inside a string it is not legal bare; outside it is only space */
      csn_buf_str(out, " ");
    } else if (n > len - i || !csn_utf8_valid(json + i, n)) {
      n = 1;
      csn_buf_str(out, "\\ufffd");
    } else {
      uint32_t code = n == 2 ? c & 0x1fu : n == 3 ? c & 0xfu : c & 0x7u;
      for (size_t k = 1; k < n; k++)
        code = code << 6 | ((unsigned char)json[i + k] & 0x3fu);
      if (code < 0x10000)
        csn_buf_fmt(out, "\\u%04x", (unsigned)code);
      else
        csn_buf_fmt(out, "\\u%04x\\u%04x", (unsigned)(0xd800 + ((code - 0x10000) >> 10)),
                    (unsigned)(0xdc00 + ((code - 0x10000) & 0x3ff)));
    }
    i += n;
    from = i;
  }
  csn_buf_add(out, json + from, len - from);
}

static void add_string(csn_buf *out, const char *text, size_t len) {
  csn_buf quoted = {0};
  csn_json_str(&quoted, text, len);
  interp_ascii(out, quoted.p, quoted.len);
  csn_buf_free(&quoted);
}

void interp_add_text(csn_buf *out, int which, const char *text, size_t len, int64_t wall_ms) {
  csn_buf_fmt(out, "data: {\"type\":\"%s\",\"text\":", which == 0 ? "stdout" : "stderr");
  add_string(out, text, len);
  csn_buf_fmt(out, ",\"timestamp\":%lld}\n\n", (long long)wall_ms);
}

void interp_add_result(csn_buf *out, const interp_line *line) {
  /* What stands last wins where a name stands twice: the body cannot name another type. */
  csn_buf_str(out, "data: ");
  interp_ascii(out, line->body, line->body_len - 1);
  bool empty = true; /* cJSON takes every byte up to the space for one */
  for (size_t i = 1; i + 1 < line->body_len; i++)
    if ((unsigned char)line->body[i] > 0x20) empty = false;
  csn_buf_str(out, empty ? "\"metadata\":{},\"type\":\"result\"}\n\n"
                         : ",\"metadata\":{},\"type\":\"result\"}\n\n");
}

void interp_add_done(csn_buf *out, uint64_t count) {
  csn_buf_fmt(out, "data: {\"type\":\"execution_complete\",\"execution_count\":%llu}\n\n",
              (unsigned long long)count);
}

static void add_text_of(csn_buf *out, const cJSON *body, const char *name, const char *instead) {
  const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(body, name));
  text = text == NULL ? instead : text;
  add_string(out, text, strlen(text));
}

void interp_add_error(csn_buf *out, const interp_line *line, const char *ename, const char *evalue) {
  bool has = line != NULL && line->kind == INTERP_ERROR;
  cJSON *body = has ? cJSON_ParseWithLength(line->body, line->body_len) : NULL;
  csn_buf_str(out, "data: {\"type\":\"error\",\"ename\":");
  if (ename != NULL)
    add_string(out, ename, strlen(ename));
  else
    add_text_of(out, body, "ename", "Error");
  csn_buf_str(out, ",\"evalue\":");
  if (evalue != NULL)
    add_string(out, evalue, strlen(evalue));
  else
    add_text_of(out, body, "evalue", "");
  csn_buf_str(out, ",\"traceback\":[");
  const cJSON *v;
  bool first = true;
  cJSON_ArrayForEach(v, cJSON_GetObjectItemCaseSensitive(body, "traceback")) {
    if (!cJSON_IsString(v)) continue;
    if (!first) csn_buf_str(out, ",");
    first = false;
    add_string(out, v->valuestring, strlen(v->valuestring));
  }
  csn_buf_str(out, "]}\n\n");
  cJSON_Delete(body);
}
