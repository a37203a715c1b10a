/* engine/hello.c - see hello.h. */
#include "hello.h"

#include <stdbool.h>
#include <string.h>

#define RECORD_HEAD      5u
#define RECORD_HANDSHAKE 22u
#define RECORD_MAX       16384u
#define TYPE_HELLO       1u
#define EXT_SERVER_NAME  0u

/* A part of the hello that is read from its front. */
typedef struct part {
  const uint8_t *p;
  size_t n;
} part;

static bool take(part *from, size_t n, part *out) {
  if (n > from->n) return false;
  *out = (part){from->p, n};
  from->p += n;
  from->n -= n;
  return true;
}

/* A number of `width` bytes, big end first. */
static bool number(part *from, unsigned width, size_t *out) {
  part p;
  if (!take(from, width, &p)) return false;
  size_t v = 0;
  for (unsigned i = 0; i < width; i++)
    v = v << 8 | p.p[i];
  *out = v;
  return true;
}

/* A part with its length, of `width` bytes, in front. */
static bool vector(part *from, unsigned width, part *out) {
  size_t n;
  return number(from, width, &n) && take(from, n, out);
}

static bool copy_name(part from, char name[HELLO_NAME_MAX + 1]) {
  if (from.n == 0 || from.n > HELLO_NAME_MAX) return false;
  for (size_t i = 0; i < from.n; i++) {
    char c = (char)from.p[i];
    if (c >= 'A' && c <= 'Z') c = (char)(c + 32);
    if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.')) return false;
    name[i] = c;
  }
  size_t n = from.n;
  if (n > 1 && name[n - 1] == '.') n--;
  name[n] = '\0';
  return true;
}

static bool read_server_name(part ext, char name[HELLO_NAME_MAX + 1]) {
  part list, entry;
  size_t type;
  /* One entry: the format allows more, nobody sends them, and readers differ in which they take. */
  return vector(&ext, 2, &list) && ext.n == 0 && number(&list, 1, &type) && type == 0 &&
         vector(&list, 2, &entry) && list.n == 0 && copy_name(entry, name);
}

static bool read_hello(part hello, char name[HELLO_NAME_MAX + 1]) {
  part skip, extensions;
  if (!take(&hello, 2 + 32, &skip) || !vector(&hello, 1, &skip) || !vector(&hello, 2, &skip) ||
      !vector(&hello, 1, &skip))
    return false;
  if (hello.n == 0) return true;
  if (!vector(&hello, 2, &extensions) || hello.n != 0) return false;
  bool seen = false;
  while (extensions.n > 0) {
    size_t type;
    part ext;
    if (!number(&extensions, 2, &type) || !vector(&extensions, 2, &ext)) return false;
    if (type != EXT_SERVER_NAME) continue;
    if (seen || !read_server_name(ext, name)) return false;
    seen = true;
  }
  return true;
}

hello_result hello_peek(const uint8_t *data, size_t len, char name[HELLO_NAME_MAX + 1]) {
  uint8_t joined[HELLO_MAX];
  size_t have = 0;
  name[0] = '\0';
  for (size_t at = 0;;) {
    if (have >= 4) {
      size_t need = 4 + ((size_t)joined[1] << 16 | (size_t)joined[2] << 8 | joined[3]);
      if (joined[0] != TYPE_HELLO || need > sizeof joined) return HELLO_BAD;
      if (have >= need) return read_hello((part){joined + 4, need - 4}, name) ? HELLO_OK : HELLO_BAD;
    }
    const uint8_t *r = data + at;
    size_t left = len - at;
    if (left > 0 && r[0] != RECORD_HANDSHAKE) return at == 0 ? HELLO_NOT_TLS : HELLO_BAD;
    if (left > 1 && r[1] != 3) return at == 0 ? HELLO_NOT_TLS : HELLO_BAD;
    if (left < RECORD_HEAD) return HELLO_MORE;
    size_t size = (size_t)r[3] << 8 | r[4];
    if (size == 0 || size > RECORD_MAX) return HELLO_BAD;
    size_t body = left - RECORD_HEAD < size ? left - RECORD_HEAD : size;
    if (body > sizeof joined - have) return HELLO_BAD;
    memcpy(joined + have, r + RECORD_HEAD, body);
    have += body;
    if (body < size) {
      if (have > 0 && joined[0] != TYPE_HELLO) return HELLO_BAD;
      /* What is there of this record may already end the hello only if the record is whole. */
      return HELLO_MORE;
    }
    at += RECORD_HEAD + size;
  }
}
