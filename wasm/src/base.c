#include "csn/base.h"

#include "simd.h"

uint32_t csn_str_len(const char *text) {
  uint32_t n = 0;
  while (text[n] != 0)
    n++;
  return n;
}

csn_span csn_span_str(const char *text) {
  return csn_span_of(text, csn_str_len(text));
}

uint32_t csn_span_find(csn_span s, uint8_t byte) {
  uint32_t i = 0;
  while (i < s.len && s.ptr[i] != byte)
    i++;
  return i;
}

static bool take(csn_reader *r, uint32_t len, const uint8_t **out) {
  if (len > r->in.len - r->pos) return false;
  *out = r->in.ptr + r->pos;
  r->pos += len;
  return true;
}

static uint64_t little_endian(const uint8_t *p, uint32_t len) {
  uint64_t v = 0;
  for (uint32_t i = len; i > 0; i--)
    v = v << 8 | p[i - 1];
  return v;
}

bool csn_rd_u8(csn_reader *r, uint8_t *out) {
  const uint8_t *p;
  if (!take(r, 1, &p)) return false;
  *out = p[0];
  return true;
}

bool csn_rd_u16(csn_reader *r, uint16_t *out) {
  const uint8_t *p;
  if (!take(r, 2, &p)) return false;
  *out = (uint16_t)little_endian(p, 2);
  return true;
}

bool csn_rd_u32(csn_reader *r, uint32_t *out) {
  const uint8_t *p;
  if (!take(r, 4, &p)) return false;
  *out = (uint32_t)little_endian(p, 4);
  return true;
}

bool csn_rd_u64(csn_reader *r, uint64_t *out) {
  const uint8_t *p;
  if (!take(r, 8, &p)) return false;
  *out = little_endian(p, 8);
  return true;
}

bool csn_rd_bytes(csn_reader *r, uint32_t len, csn_span *out) {
  const uint8_t *p;
  if (!take(r, len, &p)) return false;
  *out = csn_span_of(p, len);
  return true;
}

void *csn_arena_take(csn_arena *a, size_t bytes) {
  if (bytes > a->cap) return NULL;
  uint32_t need = ((uint32_t)bytes + 7u) & ~7u;
  if (need > a->cap - a->used) return NULL;
  void *p = a->base + a->used;
  a->used += need;
  return p;
}

static uint8_t *grow(csn_fx *fx, uint32_t len) {
  CSN_INVARIANT(len <= fx->cap - fx->len);
  uint8_t *p = fx->base + fx->len;
  fx->len += len;
  return p;
}

uint32_t csn_fx_open(csn_fx *fx, csn_fx_kind kind, uint32_t id, int32_t code, uint32_t stream,
                     uint64_t time_ms) {
  uint32_t at = fx->len;
  csn_rec rec = {0};
  rec.kind = (uint16_t)kind;
  rec.id = id;
  rec.code = code;
  rec.stream = stream;
  rec.time_ms = time_ms;
  memcpy(grow(fx, sizeof rec), &rec, sizeof rec);
  return at;
}

void csn_copy_long(uint8_t *to, const uint8_t *from, uint32_t len) {
  if (len > 1024) {
    memcpy(to, from, len);
    return;
  }
  for (uint32_t i = 0; i + CSN_V < len; i += CSN_V)
    csn_v_store(to + i, csn_v_load(from + i));
  csn_v_store(to + len - CSN_V, csn_v_load(from + len - CSN_V));
}

void csn_fx_put(csn_fx *fx, const void *ptr, uint32_t len) {
  if (len > 0) csn_copy(grow(fx, len), ptr, len);
}

void csn_fx_close(csn_fx *fx, uint32_t at) {
  static const uint64_t zero;
  uint32_t payload_len = fx->len - at - (uint32_t)sizeof(csn_rec);
  uint32_t pad = (8u - (payload_len & 7u)) & 7u;
  csn_copy(grow(fx, pad), (const uint8_t *)&zero, pad);
  uint32_t size = fx->len - at;
  memcpy(fx->base + at + offsetof(csn_rec, size), &size, sizeof size);
  memcpy(fx->base + at + offsetof(csn_rec, payload_len), &payload_len, sizeof payload_len);
}

void csn_fx_emit(csn_fx *fx, csn_fx_kind kind, uint32_t id, int32_t code, csn_span payload) {
  uint32_t at = csn_fx_open(fx, kind, id, code, 0, 0);
  csn_fx_put(fx, payload.ptr, payload.len);
  csn_fx_close(fx, at);
}

void csn_fx_emit_time(csn_fx *fx, csn_fx_kind kind, uint64_t time_ms) {
  csn_fx_close(fx, csn_fx_open(fx, kind, 0, 0, 0, time_ms));
}

void csn_fx_emit_cursor(csn_fx *fx, uint32_t stream, uint32_t id, uint64_t off) {
  uint32_t at = csn_fx_open(fx, CSN_FX_CURSOR, id, 0, stream, 0);
  csn_fx_put(fx, &off, sizeof off);
  csn_fx_close(fx, at);
}

void csn_put_u64(csn_fx *fx, uint64_t value) {
  static const char pairs[] =
      "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
      "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
      "8081828384858687888990919293949596979899";
  uint8_t digits[20];
  uint32_t at = sizeof digits;
  /* Eight digits at a time in 32 bits: a 64-bit division for each would be slow in wasm. */
  while (value > UINT32_MAX) {
    uint32_t low = (uint32_t)(value % 100000000u);
    value /= 100000000u;
    for (uint32_t i = 0; i < 4; i++, low /= 100) {
      at -= 2;
      memcpy(digits + at, pairs + low % 100 * 2, 2);
    }
  }
  uint32_t rest = (uint32_t)value;
  for (; rest >= 10; rest /= 100) {
    at -= 2;
    memcpy(digits + at, pairs + rest % 100 * 2, 2);
  }
  if (rest > 0 || at == sizeof digits) digits[--at] = (uint8_t)('0' + rest);
  csn_fx_put(fx, digits + at, (uint32_t)sizeof digits - at);
}

void csn_put_i64(csn_fx *fx, int64_t value) {
  if (value < 0) {
    csn_put_str(fx, "-");
    csn_put_u64(fx, (uint64_t)0 - (uint64_t)value);
  } else {
    csn_put_u64(fx, (uint64_t)value);
  }
}

uint32_t csn_utf8_len(csn_span s, uint32_t *bad) {
  uint8_t b = s.ptr[0];
  uint32_t need;
  uint8_t low = 0x80, high = 0xbf;
  *bad = 1;
  if (b < 0x80) return 1;
  if (b >= 0xc2 && b <= 0xdf) {
    need = 2;
  } else if (b >= 0xe0 && b <= 0xef) {
    need = 3;
    if (b == 0xe0) low = 0xa0;  /* overlong */
    if (b == 0xed) high = 0x9f; /* surrogates */
  } else if (b >= 0xf0 && b <= 0xf4) {
    need = 4;
    if (b == 0xf0) low = 0x90;
    if (b == 0xf4) high = 0x8f; /* above U+10FFFF */
  } else {
    return 0;
  }
  for (uint32_t i = 1; i < need; i++) {
    *bad = i;
    if (i >= s.len || s.ptr[i] < low || s.ptr[i] > high) return 0;
    low = 0x80;
    high = 0xbf;
  }
  return need;
}

uint32_t csn_utf8_whole(csn_span raw) {
  uint32_t back = raw.len < 3 ? raw.len : 3;
  for (uint32_t i = 1; i <= back; i++) {
    uint8_t b = raw.ptr[raw.len - i];
    if (b < 0x80) return raw.len;
    if (b < 0xc0) continue;
    uint32_t need = b >= 0xf0 ? 4 : b >= 0xe0 ? 3 : 2;
    if (need <= i || b > 0xf4 || b < 0xc2) return raw.len;
    uint32_t bad;
    csn_span tail = csn_span_of(raw.ptr + raw.len - i, i);
    if (csn_utf8_len(tail, &bad) == 0 && bad < i) return raw.len; /* cannot become well-formed */
    return raw.len - i;
  }
  return raw.len;
}

void csn_put_escaped(csn_fx *fx, csn_span raw) {
  static const char hex[] = "0123456789abcdef";
  uint32_t done = 0; /* bytes before this are written */
  uint32_t i = 0;
  while (i < raw.len) {
    if (raw.len - i >= CSN_V) {
      uint32_t special = csn_v_special(csn_v_load(raw.ptr + i));
      i += special != 0 ? (uint32_t)__builtin_ctz(special) : CSN_V;
      if (special == 0) continue;
    }
    uint8_t b = raw.ptr[i];
    if (b >= 0x20 && b < 0x80 && b != '"' && b != '\\') {
      i++;
      continue;
    }
    if (b >= 0x80) {
      uint32_t bad;
      uint32_t n = csn_utf8_len(csn_span_of(raw.ptr + i, raw.len - i), &bad);
      if (n > 0) {
        i += n;
        continue;
      }
      csn_fx_put(fx, raw.ptr + done, i - done);
      csn_put_str(fx, "\xef\xbf\xbd");
      i += bad;
      done = i;
      continue;
    }
    csn_fx_put(fx, raw.ptr + done, i - done);
    if (b == '"' || b == '\\') {
      char two[2] = {'\\', (char)b};
      csn_fx_put(fx, two, 2);
    } else if (b == '\n') {
      csn_put_str(fx, "\\n");
    } else if (b == '\t') {
      csn_put_str(fx, "\\t");
    } else if (b == '\r') {
      csn_put_str(fx, "\\r");
    } else {
      char six[6] = {'\\', 'u', '0', '0', hex[b >> 4], hex[b & 15]};
      csn_fx_put(fx, six, 6);
    }
    i++;
    done = i;
  }
  csn_fx_put(fx, raw.ptr + done, raw.len - done);
}

/* `,"key":` and room for `more` bytes behind it, at which it points. */
__attribute__((noinline)) static uint8_t *put_key(csn_fx *fx, const char *key, uint32_t len, uint32_t more) {
  uint32_t room = csn_fx_room(fx);
  CSN_INVARIANT(more <= room && len + 4 <= room - more);
  uint8_t *p = fx->base + fx->len;
  fx->len += len + 4 + more;
  memcpy(p, ",\"", 2);
  csn_copy(p + 2, (const uint8_t *)key, len);
  memcpy(p + 2 + len, "\":", 2);
  return p + 4 + len;
}

void csn_put_key_raw(csn_fx *fx, const char *key, uint32_t key_len, csn_span raw) {
  *put_key(fx, key, key_len, 1) = '"';
  csn_put_escaped(fx, raw);
  csn_put_str(fx, "\"");
}

void csn_put_key_text(csn_fx *fx, const char *key, uint32_t key_len, const uint8_t *escaped, uint32_t len) {
  CSN_INVARIANT(len < UINT32_MAX - 2);
  uint8_t *p = put_key(fx, key, key_len, len + 2);
  p[0] = '"';
  csn_copy(p + 1, escaped, len);
  p[len + 1] = '"';
}

void csn_put_key_json(csn_fx *fx, const char *key, uint32_t key_len, const uint8_t *json, uint32_t len) {
  csn_copy(put_key(fx, key, key_len, len), json, len);
}

void csn_put_key_u64(csn_fx *fx, const char *key, uint32_t key_len, uint64_t value) {
  if (value < 10) {
    *put_key(fx, key, key_len, 1) = (uint8_t)('0' + value);
    return;
  }
  put_key(fx, key, key_len, 0);
  csn_put_u64(fx, value);
}

void csn_put_nano(csn_fx *fx, uint64_t nano) {
  uint64_t whole = nano < 1000000000u ? 0 : nano / 1000000000u;
  uint32_t rest = (uint32_t)(nano - whole * 1000000000u);
  csn_put_u64(fx, whole);
  if (rest == 0) return;
  char digits[10] = {'.'};
  for (uint32_t i = 9; i > 0; i--, rest /= 10)
    digits[i] = (char)('0' + rest % 10);
  uint32_t len = sizeof digits;
  while (digits[len - 1] == '0')
    len--;
  csn_fx_put(fx, digits, len);
}

const char *csn_type_text(csn_type type) {
#define ROW(name, value, text, host) [value] = text,
  static const char *const texts[CSN_T_END] = {CSN_TYPE_TABLE(ROW)};
#undef ROW
  CSN_INVARIANT(type < CSN_T_END && texts[type] != NULL);
  return texts[type];
}

CSN_RARE csn_type csn_type_by_text(csn_span text) {
#define CASE(name, value, type_text, host)                                                                   \
  if (csn_span_is(text, type_text)) return CSN_T_##name;
  CSN_TYPE_TABLE(CASE)
#undef CASE
  return CSN_T_END;
}

CSN_RARE bool csn_type_is_host(int32_t type) {
#define CASE(name, value, text, host)                                                                        \
  if (type == (value)) return (host) != 0;
  CSN_TYPE_TABLE(CASE)
#undef CASE
  return false;
}

static void make_head(csn_emit *e) {
  csn_fx out = {e->head, sizeof e->head, 0};
  csn_put_str(&out, "{\"seq\":");
  csn_put_u64(&out, *e->seq);
  e->seq_end = out.len;
  csn_put_str(&out, ",\"time_ms\":");
  csn_put_u64(&out, e->time_ms);
  if (e->run != 0) {
    csn_put_str(&out, ",\"run\":\"run_");
    csn_put_u64(&out, e->run);
    csn_put_str(&out, "\"");
  }
  csn_put_str(&out, ",\"type\":\"");
  e->head_len = out.len;
}

/* Adds one to the number in the head; false when there is none, or it gets longer by it. */
static inline bool next_head(csn_emit *e) {
  if (e->head_len == 0 || e->head_seq + 1 != *e->seq) return false;
  uint32_t at = e->seq_end - 1;
  while (e->head[at] == '9')
    e->head[at--] = '0';
  if (e->head[at] == ':') return false;
  e->head[at]++;
  return true;
}

uint32_t csn_event_open(csn_emit *e, csn_type type) {
#define ROW(name, value, text, host) [value] = sizeof(text) - 1,
  static const uint8_t type_len[CSN_T_END] = {CSN_TYPE_TABLE(ROW)};
#undef ROW
  _Static_assert(sizeof(csn_rec) + sizeof(csn_fx_event) + sizeof e->head + 32 <= CSN_EVENT_HEAD_MAX, "head");
  csn_fx *fx = e->fx;
  uint32_t at = fx->len;
  CSN_INVARIANT(csn_fx_room(fx) >= CSN_EVENT_HEAD_MAX);
  *e->seq += 1;
  if (!next_head(e)) make_head(e);
  e->head_seq = *e->seq;
  uint8_t *p = fx->base + at;
  csn_rec rec = {.kind = CSN_FX_EVENT, .id = e->run, .time_ms = e->time_ms};
  memcpy(p, &rec, sizeof rec);
  csn_fx_event head = {*e->seq, e->line_off, e->line_len, (uint32_t)type, e->run, e->line_flags};
  memcpy(p + sizeof rec, &head, sizeof head);
  p += sizeof rec + sizeof head;
  for (uint32_t i = 0; i < e->head_len; i += CSN_V) /* to the end of a block: the type stands behind it */
    csn_v_store(p + i, csn_v_load(e->head + i));
  p += e->head_len;
  uint32_t len = type_len[type];
  csn_copy(p, (const uint8_t *)csn_type_text(type), len);
  p[len] = '"';
  fx->len = (uint32_t)(p + len + 1 - fx->base);
  return at;
}

/* len >= CSN_V */
static bool is_ascii(const uint8_t *p, uint32_t len) {
  csn_v all = csn_v_load(p + len - CSN_V);
  for (uint32_t i = 0; i + CSN_V < len; i += CSN_V)
    all = csn_v_or(all, csn_v_load(p + i));
  return csn_v_mask(all) == 0;
}

void csn_event_close(csn_emit *e, uint32_t at) {
  csn_fx *fx = e->fx;
  uint32_t text = at + (uint32_t)(sizeof(csn_rec) + sizeof(csn_fx_event));
  csn_put_str(fx, "}");
  if (is_ascii(fx->base + text, fx->len - text)) {
    uint16_t flags = CSN_REC_ASCII;
    memcpy(fx->base + at + offsetof(csn_rec, flags), &flags, sizeof flags);
  }
  csn_fx_close(fx, at);
  e->line_flags &= ~(uint32_t)CSN_LINE_FIRST;
}
