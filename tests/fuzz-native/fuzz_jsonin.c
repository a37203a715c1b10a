/* fuzz_jsonin.c - bytes as a request body that is read as it arrives. Oracles: the split does not matter;
 * where cJSON reads the same object, the members' texts are the same. */
#include "../../sandbox-sdk-shim/common/buf.h"
#include "../../sandbox-sdk-shim/guest/jsonin.h"
#include "fuzz.h"

#include <cJSON.h>
#include <stdlib.h>
#include <string.h>

typedef struct seen {
  csn_buf log;      /* everything reported, pieces joined */
  csn_buf text;     /* of the member being read */
  const cJSON *all; /* what cJSON made of it, or NULL */
} seen;

static void on_text(void *arg, const char *key, const char *piece, size_t len, bool last) {
  seen *s = arg;
  csn_buf_add(&s->text, piece, len);
  if (!last) return;
  csn_buf_fmt(&s->log, "%s=%zu:", key, s->text.len);
  csn_buf_add(&s->log, s->text.p, s->text.len);
  int same_keys = 0;
  const cJSON *v, *found = NULL;
  cJSON_ArrayForEach(v, s->all) if (v->string != NULL && strcmp(v->string, key) == 0 && ++same_keys) found =
      v;
  /* cJSON ends a string at its first NUL. */
  if (same_keys == 1 && memchr(s->text.p == NULL ? "" : s->text.p, 0, s->text.len) == NULL &&
      strlen(key) < JSONIN_KEY_MAX &&
      (!cJSON_IsString(found) || strcmp(found->valuestring, csn_buf_cstr(&s->text)) != 0))
    __builtin_trap();
  s->text.len = 0;
}

static void on_other(void *arg, const char *key, uint64_t from, uint64_t to) {
  seen *s = arg;
  if (to <= from) __builtin_trap();
  csn_buf_fmt(&s->log, "%s@%llu-%llu;", key, (unsigned long long)from, (unsigned long long)to);
}

static bool run(const char *p, size_t size, size_t chunk, seen *s) {
  jsonin j = {.text = on_text, .other = on_other, .arg = s};
  jsonin_init(&j);
  for (size_t off = 0; off < size; off += chunk) {
    size_t n = size - off < chunk ? size - off : chunk;
    char *copy = malloc(n);
    if (copy == NULL) abort();
    memcpy(copy, p + off, n);
    jsonin_push(&j, copy, n);
    free(copy);
  }
  return jsonin_end(&j);
}

static void free_seen(seen *s) {
  csn_buf_free(&s->log);
  csn_buf_free(&s->text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2) return 0;
  const char *p = (const char *)data + 1;
  size--;
  seen whole = {0}, split = {0}, checked = {0};
  bool good = run(p, size, size, &whole);
  if (run(p, size, 1u + data[0] % 13u, &split) != good) __builtin_trap();
  if (whole.log.len != split.log.len ||
      (whole.log.len > 0 && memcmp(whole.log.p, split.log.p, whole.log.len) != 0))
    __builtin_trap();
  cJSON *all = good ? cJSON_ParseWithLength(p, size) : NULL;
  if (cJSON_IsObject(all)) {
    checked.all = all;
    run(p, size, size, &checked);
  }
  cJSON_Delete(all);
  free_seen(&whole);
  free_seen(&split);
  free_seen(&checked);
  return 0;
}
