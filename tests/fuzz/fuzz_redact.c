/* Values and a text from the input, in any chunking. Oracle: a naive search with encoders of its own finds no
 * form of a value in what comes out, no byte is changed that no form, shape or escape accounts for, and one
 * chunk gives the same as many. With releases in between, no more than the first half of a form comes out.
 *
 * Input: number of values (1..4), each with its length (8..40) and bytes, then the text, in which 0xff n form
 * puts a form of value n. */
#include "csn/redact.h"

#include <stdio.h>
#include <stdlib.h>

/* The length of the next piece: 1 to `most` bytes, of those that are left. */
static uint32_t next_part(uint32_t *seed, uint32_t most, uint32_t left) {
  *seed = *seed * 1664525u + 1013904223u;
  uint32_t part = 1 + (*seed >> 16) % most;
  return part < left ? part : left;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define VALUES 4u
#define TEXT   16384u
#define FORMS  9u

static csn_redact_set set;
static csn_redact_stream stream;
static uint8_t text[TEXT + 512], once[TEXT * 2 + CSN_REDACT_HELD_MAX], many[TEXT * 2 + CSN_REDACT_HELD_MAX];
static bool may_mask[TEXT + 512];

static bool plain(uint8_t c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* One form of a value into `out`, at most 512 bytes; its length. */
static uint32_t encode(uint32_t form, csn_span v, uint8_t *out) {
  static const char b64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  uint32_t n = 0;
  for (uint32_t i = 0; i < v.len && form < 5; i++) {
    uint8_t c = v.ptr[i];
    char buf[16] = {(char)c, 0};
    if (form == 1 && c < 0x20)
      snprintf(buf, sizeof buf,
               c == '\n'   ? "\\n"
               : c == '\t' ? "\\t"
               : c == '\r' ? "\\r"
               : c == '\b' ? "\\b"
               : c == '\f' ? "\\f"
                           : "\\u%04X",
               c);
    if (form == 1 && (c == '"' || c == '\\')) snprintf(buf, sizeof buf, "\\%c", c);
    if (form == 2) snprintf(buf, sizeof buf, "%02X", c);
    if (form == 3 || (form == 4 && !plain(c) && (c == 0 || strchr("-_.~", c) == NULL)))
      snprintf(buf, sizeof buf, "%%%02x", c);
    uint32_t len = (uint32_t)strlen(buf);
    if (len == 0) len = 1; /* NUL as it is */
    memcpy(out + n, buf, len);
    n += len;
  }
  if (form >= 5 && form < 8) {
    uint8_t bits[64] = {0};
    uint32_t before = form - 5;
    memcpy(bits + before, v.ptr, v.len);
    uint32_t count = (before + v.len) * 8 / 6;
    for (uint32_t i = before == 0 ? 0 : before + 1; i < count; i++) {
      uint32_t sextet = 0;
      for (uint32_t b = i * 6; b < i * 6 + 6; b++)
        sextet = sextet << 1 | (bits[b / 8] >> (7 - b % 8) & 1u);
      out[n++] = (uint8_t)b64[sextet];
    }
  }
  if (form == 8) { /* escaped twice */
    uint8_t inner[512];
    uint32_t len = encode(1, v, inner);
    for (uint32_t i = 0; i < len && n < 500; i++) {
      if (inner[i] == '"' || inner[i] == '\\') out[n++] = '\\';
      out[n++] = inner[i];
    }
  }
  return n;
}

static bool same_folded(const uint8_t *a, const uint8_t *b, uint32_t len) {
  for (uint32_t i = 0; i < len; i++)
    if (csn_redact_fold(a[i]) != csn_redact_fold(b[i])) return false;
  return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  csn_reader r = {csn_span_of(data, (uint32_t)size), 0};
  csn_span values[VALUES];
  uint8_t count, len;
  if (!csn_rd_u8(&r, &count)) return 0;
  count = (uint8_t)(1 + count % VALUES);
  csn_redact_init(&set);
  for (uint32_t i = 0; i < count; i++) {
    if (!csn_rd_u8(&r, &len) || !csn_rd_bytes(&r, 8 + len % 33u, &values[i])) return 0;
    /* A value that the mask itself would be part of tells nothing. */
    if (csn_span_find(values[i], CSN_REDACT_MASK) != values[i].len) return 0;
    if (csn_redact_add(&set, values[i]) != CSN_ERR_OK) abort();
  }
  csn_redact_build(&set);
  uint32_t n = 0;
  for (uint8_t c, which, form; n < TEXT && csn_rd_u8(&r, &c);) {
    if (c == 0xff && csn_rd_u8(&r, &which) && csn_rd_u8(&r, &form))
      n += encode(form % FORMS, values[which % count], text + n);
    else
      text[n++] = c;
  }

  csn_redact_begin(&stream, true);
  uint32_t a = csn_redact_push(&set, &stream, csn_span_of(text, n), once);
  a += csn_redact_flush(&stream, once + a);
  csn_redact_begin(&stream, true);
  uint32_t b = 0, seed = (uint32_t)size;
  for (uint32_t at = 0; at < n;) {
    uint32_t part = next_part(&seed, (size & 1) != 0 ? 4 : 100, n - at);
    b += csn_redact_push(&set, &stream, csn_span_of(text + at, part), many + b);
    at += part;
  }
  b += csn_redact_flush(&stream, many + b);
  if (a != n || b != n || memcmp(once, many, n) != 0) abort();

  for (uint32_t v = 0; v < count; v++)
    for (uint32_t form = 0; form < FORMS; form++) {
      uint8_t want[512];
      uint32_t want_len = encode(form, values[v], want);
      if (want_len >= 500) continue;
      bool lines = false; /* LF and CR stay: a value of nothing else is not hidden */
      for (uint32_t i = 0; i < want_len; i++)
        lines = lines || want[i] == '\n' || want[i] == '\r';
      for (uint32_t i = 0; i + want_len <= n; i++)
        if (!lines && same_folded(once + i, want, want_len)) abort();
    }

  /* Released after some pieces: the second half of every form is masked all the same. */
  csn_redact_begin(&stream, false);
  b = 0;
  for (uint32_t at = 0; at < n;) {
    uint32_t part = next_part(&seed, (size & 1) != 0 ? 4 : 100, n - at);
    b += csn_redact_push(&set, &stream, csn_span_of(text + at, part), many + b);
    at += part;
    if (csn_redact_begun(&set, &stream) > at) abort();
    if ((seed >> 30) == 0) continue;
    b += csn_redact_release(&set, &stream, many + b);
    if (b != at) abort();
  }
  b += csn_redact_release(&set, &stream, many + b);
  if (b != n) abort();
  for (uint32_t i = 0; i < n; i++)
    if (many[i] != text[i] && many[i] != CSN_REDACT_MASK) abort();
  for (uint32_t v = 0; v < count; v++)
    for (uint32_t form = 0; form < FORMS; form++) {
      uint8_t want[512];
      uint32_t want_len = encode(form, values[v], want);
      for (uint32_t i = 0; want_len < 500 && i + want_len <= n; i++) {
        if (!same_folded(text + i, want, want_len)) continue;
        for (uint32_t k = want_len / 2; k < want_len; k++)
          if (many[i + k] != CSN_REDACT_MASK && text[i + k] != '\n' && text[i + k] != '\r') abort();
      }
    }

  /* Shapes too: they mask more, never less, and nothing but keys' own bytes. */
  csn_redact_begin(&stream, false);
  a = csn_redact_push(&set, &stream, csn_span_of(text, n), many);
  a += csn_redact_flush(&stream, many + a);
  if (a != n) abort();
  for (uint32_t i = 0; i < n; i++) {
    if (once[i] != text[i] && (once[i] != CSN_REDACT_MASK || text[i] == '\n' || text[i] == '\r')) abort();
    if (many[i] != text[i] && many[i] != CSN_REDACT_MASK) abort();
  }

  /* Without values that are in the text in any form the text stays as it is: a mask needs a form. The
   * automaton knows more forms than this oracle, so only texts of forms that both know, and of bytes below
   * 0x20, are looked at. */
  memset(may_mask, 0, n);
  bool simple = true;
  for (uint32_t v = 0; v < count; v++)
    for (uint32_t i = 0; i < values[v].len; i++)
      simple = simple && plain(values[v].ptr[i]);
  for (uint32_t v = 0; v < count && simple; v++)
    for (uint32_t form = 0; form < FORMS; form++) {
      uint8_t want[512];
      uint32_t want_len = encode(form, values[v], want);
      for (uint32_t i = 0; i + want_len <= n; i++)
        if (same_folded(text + i, want, want_len)) memset(may_mask + i, 1, want_len);
    }
  for (uint32_t i = 0; i < n && simple; i++) {
    /* An escape that a form begins within is masked too. */
    bool near = may_mask[i];
    for (uint32_t k = 1; k <= 5 && i + k < n; k++)
      near = near || may_mask[i + k];
    if (once[i] != text[i] && !near) abort();
    if (may_mask[i] && once[i] != CSN_REDACT_MASK) abort();
  }
  return 0;
}
