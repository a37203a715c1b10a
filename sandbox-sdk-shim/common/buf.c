/* common/buf.c - see buf.h. */
#include "buf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

char *csn_buf_room(csn_buf *b, size_t n) {
  if (n > SIZE_MAX / 2 - b->len) abort();
  size_t need = b->len + n;
  if (need > b->cap) {
    size_t cap = b->cap < 256 ? 256 : b->cap;
    while (cap < need)
      cap *= 2;
    char *p = realloc(b->p, cap);
    if (p == NULL) abort();
    b->p = p;
    b->cap = cap;
  }
  return b->p + b->len;
}

void csn_buf_add(csn_buf *b, const void *data, size_t len) {
  if (len == 0) return;
  memcpy(csn_buf_room(b, len), data, len);
  b->len += len;
}

void csn_buf_str(csn_buf *b, const char *s) {
  csn_buf_add(b, s, strlen(s));
}

void csn_buf_fmt(csn_buf *b, const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  va_list again;
  va_copy(again, ap);
  int n = vsnprintf(NULL, 0, fmt, ap);
  va_end(ap);
  if (n < 0) abort();
  char *at = csn_buf_room(b, (size_t)n + 1);
  vsnprintf(at, (size_t)n + 1, fmt, again);
  va_end(again);
  b->len += (size_t)n;
}

char *csn_buf_cstr(csn_buf *b) {
  *csn_buf_room(b, 1) = '\0';
  return b->p;
}

void csn_buf_free(csn_buf *b) {
  free(b->p);
  *b = (csn_buf){0};
}

/* Bytes of the valid UTF-8 sequence at s, 0 if invalid; *partial says that the input
 * ends before the sequence does and is valid so far. */
static size_t sequence_len(const uint8_t *s, size_t len, bool *partial) {
  *partial = false;
  uint8_t c = s[0];
  if (c < 0x80) return 1;
  size_t need;
  uint8_t lo = 0x80, hi = 0xbf;
  if (c >= 0xc2 && c <= 0xdf) {
    need = 2;
  } else if (c >= 0xe0 && c <= 0xef) {
    need = 3;
    if (c == 0xe0) lo = 0xa0;
    if (c == 0xed) hi = 0x9f;
  } else if (c >= 0xf0 && c <= 0xf4) {
    need = 4;
    if (c == 0xf0) lo = 0x90;
    if (c == 0xf4) hi = 0x8f;
  } else {
    return 0;
  }
  for (size_t i = 1; i < need; i++) {
    if (i == len) {
      *partial = true;
      return 0;
    }
    if (s[i] < lo || s[i] > hi) return 0;
    lo = 0x80;
    hi = 0xbf;
  }
  return need;
}

size_t csn_utf8_cut(const char *str, size_t len) {
  const uint8_t *s = (const uint8_t *)str;
  size_t back = len < 3 ? len : 3;
  for (size_t i = 1; i <= back; i++) {
    uint8_t c = s[len - i];
    if (c < 0x80) return len;
    if (c >= 0xc0) {
      bool partial;
      (void)sequence_len(s + len - i, i, &partial);
      return partial ? len - i : len;
    }
  }
  return len;
}

bool csn_utf8_valid(const char *str, size_t len) {
  const uint8_t *s = (const uint8_t *)str;
  for (size_t i = 0; i < len;) {
    if (s[i] < 0x80) {
      i++;
      continue;
    }
    bool partial;
    size_t n = sequence_len(s + i, len - i, &partial);
    if (n == 0) return false;
    i += n;
  }
  return true;
}

/* 0: copied as it is; 1: needs \u00XX; 2: non-ASCII; otherwise the letter after the backslash. */
static const uint8_t escape_class[256] = {
    [0] = 1,    [1] = 1,    [2] = 1,     [3] = 1,       [4] = 1,    [5] = 1,
    [6] = 1,    [7] = 1,    [8] = 'b',   [9] = 't',     [10] = 'n', [11] = 1,
    [12] = 'f', [13] = 'r', [14] = 1,    [15] = 1,      [16] = 1,   [17] = 1,
    [18] = 1,   [19] = 1,   [20] = 1,    [21] = 1,      [22] = 1,   [23] = 1,
    [24] = 1,   [25] = 1,   [26] = 1,    [27] = 1,      [28] = 1,   [29] = 1,
    [30] = 1,   [31] = 1,   ['"'] = '"', ['\\'] = '\\', [0x7f] = 1, [0x80 ... 0xff] = 2,
};

void csn_json_raw(csn_buf *b, const char *str, size_t len) {
  static const char hex[] = "0123456789abcdef";
  const uint8_t *s = (const uint8_t *)str;
  /* Six output bytes for one of input is the worst case; reserving a block at a time
   * keeps the growth proportional to the text. */
  for (size_t i = 0; i < len;) {
    size_t block = len - i < 4096 ? len - i : 4096;
    size_t end = i + block;
    char *out = csn_buf_room(b, block * 6 + 8);
    char *o = out;
    while (i < end) {
      size_t from = i;
      while (i < end && escape_class[s[i]] == 0)
        i++;
      memcpy(o, s + from, i - from);
      o += i - from;
      if (i == end) break;
      uint8_t class = escape_class[s[i]];
      if (class == 2) {
        bool partial;
        size_t n = sequence_len(s + i, len - i, &partial);
        if (n == 0) {
          memcpy(o, "\xef\xbf\xbd", 3);
          o += 3;
          i++;
        } else {
          memcpy(o, s + i, n);
          o += n;
          i += n;
        }
      } else if (class == 1) {
        memcpy(o, "\\u00", 4);
        o[4] = hex[s[i] >> 4];
        o[5] = hex[s[i] & 15];
        o += 6;
        i++;
      } else {
        o[0] = '\\';
        o[1] = (char)class;
        o += 2;
        i++;
      }
    }
    b->len += (size_t)(o - out);
  }
}

void csn_json_str(csn_buf *b, const char *s, size_t len) {
  csn_buf_add(b, "\"", 1);
  csn_json_raw(b, s, len);
  csn_buf_add(b, "\"", 1);
}

void csn_json_cstr(csn_buf *b, const char *s) {
  csn_json_str(b, s, strlen(s));
}

static const char b64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void csn_b64_encode(csn_buf *b, const void *data, size_t len) {
  const uint8_t *s = data;
  char *o = csn_buf_room(b, (len / 3 + 1) * 4);
  char *start = o;
  size_t i = 0;
  for (; len - i >= 3; i += 3, o += 4) {
    uint32_t v = (uint32_t)s[i] << 16 | (uint32_t)s[i + 1] << 8 | s[i + 2];
    o[0] = b64_digits[v >> 18];
    o[1] = b64_digits[v >> 12 & 63];
    o[2] = b64_digits[v >> 6 & 63];
    o[3] = b64_digits[v & 63];
  }
  if (len - i == 1) {
    uint32_t v = (uint32_t)s[i] << 16;
    o[0] = b64_digits[v >> 18];
    o[1] = b64_digits[v >> 12 & 63];
    o[2] = o[3] = '=';
    o += 4;
  } else if (len - i == 2) {
    uint32_t v = (uint32_t)s[i] << 16 | (uint32_t)s[i + 1] << 8;
    o[0] = b64_digits[v >> 18];
    o[1] = b64_digits[v >> 12 & 63];
    o[2] = b64_digits[v >> 6 & 63];
    o[3] = '=';
    o += 4;
  }
  b->len += (size_t)(o - start);
}

/* The digit's six bits at their place in a group of four; the top bit is set for what is no digit. */
#define B64_BAD 0x80000000u
static uint32_t b64_value[4][256];

static void make_b64_values(void) {
  memset(b64_value, 0xff, sizeof b64_value);
  for (uint32_t i = 0; i < 64; i++)
    for (uint32_t place = 0; place < 4; place++)
      b64_value[place][(uint8_t)b64_digits[i]] = i << (18 - 6 * place);
}

/* Decodes groups of four digits as long as there are such; returns the bytes used. `out` has room. */
static size_t b64_groups(uint8_t **out, const uint8_t *s, size_t len) {
  if (b64_value[0]['A'] != 0 || b64_value[0][0] != UINT32_MAX) make_b64_values();
  uint8_t *o = *out;
  size_t i = 0;
  for (; len - i >= 4; i += 4, o += 3) {
    uint32_t v =
        b64_value[0][s[i]] | b64_value[1][s[i + 1]] | b64_value[2][s[i + 2]] | b64_value[3][s[i + 3]];
    if ((v & B64_BAD) != 0) break;
    o[0] = (uint8_t)(v >> 16);
    o[1] = (uint8_t)(v >> 8);
    o[2] = (uint8_t)v;
  }
  *out = o;
  return i;
}

size_t csn_b64_push(csn_b64_in *in, csn_buf *b, const char *s, size_t len) {
  csn_buf_room(b, len / 4 * 3 + 6);
  size_t i = 0;
  while (i < len) {
    if (in->held_len == 0) {
      uint8_t *out = (uint8_t *)b->p + b->len;
      i += b64_groups(&out, (const uint8_t *)s + i, len - i);
      b->len = (size_t)(out - (uint8_t *)b->p);
      if (i == len) break;
    }
    bool padded = in->held_len > 0 && in->held[in->held_len - 1] == '=';
    bool digit = s[i] != '\0' && strchr(b64_digits, s[i]) != NULL;
    if (in->held_len == 4 || (s[i] == '=' ? in->held_len < 2 : padded || !digit)) return i;
    in->held[in->held_len++] = s[i++];
    if (in->held_len == 4 && in->held[3] != '=') {
      uint8_t *out = (uint8_t *)b->p + b->len;
      b64_groups(&out, (const uint8_t *)in->held, 4);
      b->len += 3;
      in->held_len = 0;
    }
  }
  return i;
}

bool csn_b64_end(const csn_b64_in *in, csn_buf *b) {
  size_t digits = 0;
  while (digits < in->held_len && in->held[digits] != '=')
    digits++;
  if (in->held_len == 0) return true;
  if (digits < 2 || (digits < in->held_len && in->held_len != 4)) return false;
  char group[4] = {'A', 'A', 'A', 'A'};
  memcpy(group, in->held, digits);
  uint8_t bytes[3], *out = bytes;
  b64_groups(&out, (const uint8_t *)group, 4);
  csn_buf_add(b, bytes, digits - 1);
  return true;
}

bool csn_b64_decode(csn_buf *b, const char *str, size_t len) {
  csn_b64_in in = {.held_len = 0};
  size_t before = b->len;
  if (csn_b64_push(&in, b, str, len) == len && csn_b64_end(&in, b)) return true;
  b->len = before;
  return false;
}

bool csn_write_all(int fd, const void *data, size_t len) {
  const char *at = data;
  while (len > 0) {
    const ssize_t n = write(fd, at, len);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    if (n == 0) {
      errno = EIO;
      return false;
    }
    at += n;
    len -= (size_t)n;
  }
  return true;
}

bool csn_ct_equal(const char *given, const char *secret) {
  size_t n = strlen(given), m = strlen(secret);
  unsigned diff = n == m && m > 0 ? 0u : 1u;
  for (size_t i = 0; i < n; i++)
    diff |= (unsigned)(uint8_t)given[i] ^ (unsigned)(uint8_t)secret[m ? i % m : 0];
  return diff == 0;
}

static int64_t clock_ms(clockid_t id) {
  struct timespec ts;
  clock_gettime(id, &ts);
  return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int64_t csn_now_ms(void) {
  return clock_ms(CLOCK_MONOTONIC);
}
int64_t csn_wall_ms(void) {
  return clock_ms(CLOCK_REALTIME);
}

void csn_iso_time(char out[32], int64_t wall_ms) {
  time_t s = (time_t)(wall_ms / 1000);
  struct tm tm;
  gmtime_r(&s, &tm);
  size_t n = strftime(out, 32, "%Y-%m-%dT%H:%M:%S", &tm);
  snprintf(out + n, 32 - n, ".%03dZ", (int)(wall_ms % 1000));
}
