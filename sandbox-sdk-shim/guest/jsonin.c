/* guest/jsonin.c - see jsonin.h. */
#include "jsonin.h"

#include <string.h>

enum {
  S_START,      /* before the object */
  S_KEY_OR_END, /* after { */
  S_KEY,        /* after , in the object itself */
  S_COLON,
  S_VALUE,
  S_STRING, /* the object's own key or string value */
  S_ESCAPE,
  S_HEX,
  S_WORD, /* a number or literal of the object */
  S_NEXT, /* after a value of the object */
  S_DEEP, /* inside a nested container, outside strings */
  S_DEEP_STRING,
  S_DEEP_ESCAPE,
  S_DONE,
};

void jsonin_init(jsonin *j) {
  *j = (jsonin){.text = j->text, .other = j->other, .arg = j->arg};
}

static bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void give(jsonin *j, const char *p, size_t len) {
  if (!j->in_key) {
    if (len > 0) j->text(j->arg, j->key, p, len, false);
    return;
  }
  size_t room = JSONIN_KEY_MAX - j->key_len;
  if (len > room) len = room;
  memcpy(j->key + j->key_len, p, len);
  j->key_len = (uint8_t)(j->key_len + len);
}

static void give_char(jsonin *j, uint32_t c) {
  char out[4];
  size_t n = 0;
  if (c < 0x80) {
    out[n++] = (char)c;
  } else if (c < 0x800) {
    out[n++] = (char)(0xc0 | c >> 6);
    out[n++] = (char)(0x80 | (c & 63));
  } else if (c < 0x10000) {
    out[n++] = (char)(0xe0 | c >> 12);
    out[n++] = (char)(0x80 | (c >> 6 & 63));
    out[n++] = (char)(0x80 | (c & 63));
  } else {
    out[n++] = (char)(0xf0 | c >> 18);
    out[n++] = (char)(0x80 | (c >> 12 & 63));
    out[n++] = (char)(0x80 | (c >> 6 & 63));
    out[n++] = (char)(0x80 | (c & 63));
  }
  give(j, out, n);
}

/* A high surrogate whose partner did not come. */
static void flush_high(jsonin *j) {
  if (j->high != 0) give_char(j, 0xfffd);
  j->high = 0;
}

static void take_unit(jsonin *j, uint16_t unit) {
  if (unit >= 0xdc00 && unit <= 0xdfff) {
    if (j->high != 0)
      give_char(j, 0x10000u + ((uint32_t)(j->high - 0xd800) << 10) + (uint32_t)(unit - 0xdc00));
    else
      give_char(j, 0xfffd);
    j->high = 0;
    return;
  }
  flush_high(j);
  if (unit >= 0xd800 && unit <= 0xdbff)
    j->high = unit;
  else
    give_char(j, unit);
}

static void end_string(jsonin *j) {
  flush_high(j);
  if (j->in_key) {
    j->key[j->key_len] = '\0';
    j->in_key = false;
    j->state = S_COLON;
  } else {
    j->text(j->arg, j->key, "", 0, true);
    j->state = S_NEXT;
  }
}

/* Takes a run of the string's plain bytes; returns how many bytes were used. */
static size_t string_run(jsonin *j, const char *p, size_t len) {
  size_t n = 0;
  while (n < len && p[n] != '"' && p[n] != '\\' && (uint8_t)p[n] >= 0x20)
    n++;
  if (n > 0) {
    flush_high(j);
    give(j, p, n);
  }
  if (n == len) return n;
  if (p[n] == '"')
    end_string(j);
  else if (p[n] == '\\')
    j->state = S_ESCAPE;
  else
    j->failed = true; /* a control character */
  return n + 1;
}

static int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

static void escape(jsonin *j, char c) {
  static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
  const char *at = c == '\0' ? NULL : strchr(from, c);
  j->state = S_STRING;
  if (c == 'u') {
    j->hex = 0;
    j->hex_left = 4;
    j->state = S_HEX;
  } else if (at != NULL) {
    flush_high(j);
    give(j, &to[at - from], 1);
  } else {
    j->failed = true;
  }
}

/* A container opens inside the object. */
static void open_deep(jsonin *j, char c) {
  if (j->depth == JSONIN_DEPTH_MAX) {
    j->failed = true;
    return;
  }
  uint8_t bit = (uint8_t)(1u << (j->depth & 7));
  if (c == '[')
    j->is_array[j->depth >> 3] |= bit;
  else
    j->is_array[j->depth >> 3] &= (uint8_t)~bit;
  j->depth++;
  j->state = S_DEEP;
}

static void close_deep(jsonin *j, char c) {
  j->depth--;
  bool array = (j->is_array[j->depth >> 3] >> (j->depth & 7) & 1) != 0;
  if (array != (c == ']')) {
    j->failed = true;
  } else if (j->depth == 0) {
    j->other(j->arg, j->key, j->from, j->at + 1);
    j->state = S_NEXT;
  }
}

/* A number or literal is over. */
static void end_word(jsonin *j) {
  const char *w = j->word;
  bool literal = (j->word_len == 4 && (memcmp(w, "true", 4) == 0 || memcmp(w, "null", 4) == 0)) ||
                 (j->word_len == 5 && memcmp(w, "false", 5) == 0);
  bool number = w[0] == '-' || (w[0] >= '0' && w[0] <= '9');
  if (literal || number)
    j->other(j->arg, j->key, j->from, j->at);
  else
    j->failed = true;
  j->state = S_NEXT;
}

static void start_value(jsonin *j, char c) {
  j->from = j->at;
  if (c == '"') {
    j->state = S_STRING;
  } else if (c == '{' || c == '[') {
    open_deep(j, c);
  } else {
    j->word[0] = c;
    j->word_len = 1;
    j->state = S_WORD;
  }
}

static bool in_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '-' || c == '.' || c == 'E';
}

/* One byte outside of the strings' runs. False when it is to be looked at again in the new state. */
static bool step(jsonin *j, char c) {
  switch (j->state) {
  case S_START:
    if (c == '{')
      j->state = S_KEY_OR_END;
    else if (!is_space(c))
      j->failed = true;
    break;
  case S_KEY_OR_END:
  case S_KEY:
    if (c == '"') {
      j->in_key = true;
      j->key_len = 0;
      j->state = S_STRING;
    } else if (c == '}' && j->state == S_KEY_OR_END) {
      j->state = S_DONE;
    } else if (!is_space(c)) {
      j->failed = true;
    }
    break;
  case S_COLON:
    if (c == ':')
      j->state = S_VALUE;
    else if (!is_space(c))
      j->failed = true;
    break;
  case S_VALUE:
    if (!is_space(c)) start_value(j, c);
    break;
  case S_ESCAPE:
    escape(j, c);
    break;
  case S_HEX: {
    int v = hex_value(c);
    if (v < 0) {
      j->failed = true;
      break;
    }
    j->hex = (uint16_t)(j->hex << 4 | v);
    if (--j->hex_left > 0) break;
    j->state = S_STRING;
    take_unit(j, j->hex);
    break;
  }
  case S_WORD:
    if (!in_word(c)) {
      end_word(j);
      return false;
    }
    if (j->word_len < sizeof j->word) j->word[j->word_len++] = c;
    break;
  case S_NEXT:
    if (c == ',')
      j->state = S_KEY;
    else if (c == '}')
      j->state = S_DONE;
    else if (!is_space(c))
      j->failed = true;
    break;
  case S_DEEP:
    if (c == '"')
      j->state = S_DEEP_STRING;
    else if (c == '{' || c == '[')
      open_deep(j, c);
    else if (c == '}' || c == ']')
      close_deep(j, c);
    break;
  case S_DEEP_STRING:
    if (c == '"') j->state = S_DEEP;
    if (c == '\\') j->state = S_DEEP_ESCAPE;
    break;
  case S_DEEP_ESCAPE:
    j->state = S_DEEP_STRING;
    break;
  case S_DONE:
    if (!is_space(c)) j->failed = true;
    break;
  default:
    j->failed = true;
  }
  return true;
}

void jsonin_push(jsonin *j, const char *bytes, size_t len) {
  for (size_t i = 0; i < len && !j->failed;) {
    size_t used = 1;
    if (j->state == S_STRING)
      used = string_run(j, bytes + i, len - i);
    else
      used = step(j, bytes[i]) ? 1 : 0;
    i += used;
    j->at += used;
  }
}

bool jsonin_end(const jsonin *j) {
  return !j->failed && j->state == S_DONE;
}
