#include "csn/doc.h"

#include "cJSON.h"

/* cJSON is compiled with these names for its allocator (wasm.mk). It has no context argument, hence the one
 * static of the core; it is set for the length of one parse. */
static csn_arena *parse_arena;

void *csn_cjson_malloc(size_t bytes);
void *csn_cjson_realloc(void *p, size_t bytes);
void csn_cjson_free(void *p);
double csn_cjson_strtod(const char *text, char **end);

void *csn_cjson_malloc(size_t bytes) {
  return csn_arena_take(parse_arena, bytes);
}
/* Parsing never grows a buffer. */
void *csn_cjson_realloc(void *p, size_t bytes) {
  (void)p;
  (void)bytes;
  return NULL;
}
void csn_cjson_free(void *p) {
  (void)p;
}

/* A number by RFC 8259. Exact up to 15 digits and 22 decimal places, more than any field has a use for;
 * beyond them off by some units in the last place. libc's own is 8 KB of wasm. */
double csn_cjson_strtod(const char *text, char **end) {
  const char *p = text + (*text == '-');
  uint64_t digits = 0;
  int32_t exponent = 0;
  bool fraction = false;
  for (; *p == '.' || (*p >= '0' && *p <= '9'); p++) {
    if (*p == '.') {
      fraction = true;
    } else if (digits < 100000000000000000u) {
      digits = digits * 10 + (uint64_t)(*p - '0');
      exponent -= fraction;
    } else {
      exponent += !fraction;
    }
  }
  if (*p == 'e' || *p == 'E') {
    bool minus = *++p == '-';
    int32_t e = 0;
    for (p += minus || *p == '+'; *p >= '0' && *p <= '9'; p++)
      if (e < 10000) e = e * 10 + (*p - '0');
    exponent += minus ? -e : e;
  }
  *end = (char *)(uintptr_t)p;
  double v = (double)digits;
  while (exponent != 0 && v > 0 && v < 1e300) {
    double power = 1;
    bool up = exponent > 0;
    for (uint32_t i = 0; i < 22 && exponent != 0; i++, exponent += up ? -1 : 1)
      power *= 10;
    v = up ? v * power : v / power;
  }
  if (exponent > 0 && v > 0) v = __builtin_inf();
  return *text == '-' ? -v : v;
}

void csn_pointer_set(csn_pointer *p, const char *text) {
  p->len = csn_str_len(text);
  CSN_INVARIANT(p->len <= CSN_POINTER_CAP);
  memcpy(p->bytes, text, p->len);
}

void csn_pointer_push(csn_pointer *p, const char *key) {
  csn_span rest = csn_span_str(key);
  if (p->len < CSN_POINTER_CAP) p->bytes[p->len++] = '/';
  while (rest.len > 0) {
    uint32_t bad;
    uint32_t n = csn_utf8_len(rest, &bad);
    if (n == 0) n = bad;
    bool special = rest.ptr[0] == '~' || rest.ptr[0] == '/';
    if ((special ? 2 : n) > CSN_POINTER_CAP - p->len) return;
    if (special) {
      p->bytes[p->len++] = '~';
      p->bytes[p->len++] = rest.ptr[0] == '~' ? '0' : '1';
    } else {
      memcpy(p->bytes + p->len, rest.ptr, n);
      p->len += n;
    }
    rest = csn_span_of(rest.ptr + n, rest.len - n);
  }
}

void csn_pointer_push_index(csn_pointer *p, uint32_t index) {
  uint8_t text[11]; /* '/' and ten digits */
  uint32_t at = sizeof text;
  do {
    text[--at] = (uint8_t)('0' + index % 10);
    index /= 10;
  } while (index > 0);
  text[--at] = '/';
  uint32_t n = (uint32_t)sizeof text - at;
  if (n > CSN_POINTER_CAP - p->len) return;
  memcpy(p->bytes + p->len, text + at, n);
  p->len += n;
}

/* cJSON is lenient; the strict reader decides what is a document first, and bounds the number of nodes, so
 * that the verdict does not depend on the size of a pointer. */
csn_err csn_doc_parse(csn_arena *a, csn_span doc, uint32_t values_max, const cJSON **out) {
  a->used = 0;
  csn_json *j = csn_arena_take(a, sizeof *j);
  if (j == NULL) return CSN_ERR_NO_MEMORY;
  if (!csn_json_is_valid(j, doc)) return CSN_ERR_BAD_JSON;
  bool has_nul = j->has_nul != 0;
  bool too_many = j->value_count > values_max;
  a->used = 0;
  if (too_many) return CSN_ERR_NO_MEMORY;
  parse_arena = a;
  const cJSON *root = cJSON_ParseWithLengthOpts((const char *)doc.ptr, doc.len, NULL, 0);
  parse_arena = NULL;
  if (root == NULL || !cJSON_IsObject(root)) return CSN_ERR_BAD_JSON;
  if (has_nul) return CSN_ERR_BAD_VALUE;
  *out = root;
  return CSN_ERR_OK;
}

bool csn_doc_seen_before(const cJSON *object, const cJSON *item) {
  for (const cJSON *o = object->child; o != item; o = o->next)
    if (csn_span_is(csn_span_str(o->string), item->string)) return true;
  return false;
}

csn_err csn_doc_text(const cJSON *item, uint32_t min, uint32_t max, csn_span *out) {
  if (!cJSON_IsString(item)) return CSN_ERR_BAD_TYPE;
  *out = csn_span_str(item->valuestring);
  if (out->len > max) return CSN_ERR_TOO_LONG;
  return out->len < min ? CSN_ERR_BAD_VALUE : CSN_ERR_OK;
}

csn_err csn_doc_number(const cJSON *item, uint32_t min, uint32_t max, uint32_t *out) {
  if (!cJSON_IsNumber(item)) return CSN_ERR_BAD_TYPE;
  double v = item->valuedouble;
  if (!(v >= (double)min && v <= (double)max)) return CSN_ERR_OUT_OF_RANGE;
  *out = (uint32_t)v;
  return (double)*out == v ? CSN_ERR_OK : CSN_ERR_BAD_VALUE;
}

csn_err csn_doc_nano(const cJSON *item, uint64_t min_nano, uint32_t max, uint64_t *out) {
  CSN_INVARIANT(max <= 1000000u);
  if (!cJSON_IsNumber(item)) return CSN_ERR_BAD_TYPE;
  double v = item->valuedouble;
  if (!(v >= 0 && v <= (double)max)) return CSN_ERR_OUT_OF_RANGE;
  *out = (uint64_t)(v * 1e9 + 0.5);
  return *out < min_nano ? CSN_ERR_OUT_OF_RANGE : CSN_ERR_OK;
}
