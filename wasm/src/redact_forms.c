/* redact_forms.c - the forms of a registered value, written into the automaton byte by byte. */
#include "csn/redact.h"

/* How an encoder writes a JSON string. */
#define SLASH_ESCAPED 1u  /* `/` as `\/` */
#define ASCII_ONLY    2u  /* other than ASCII as \uXXXX */
#define HTML_SAFE     4u  /* `<`, `>`, `&`, `'` as \uXXXX */
#define STYLES        8u  /* these in all combinations */
#define OUTER_SLASH   8u  /* `/` as `\/` by the second encoder */
#define GO            16u /* `<`, `>`, `&`, U+2028 and U+2029 as \uXXXX, but not `'` */

/* A byte of the text that the first encoder wrote; the second encoder, when there is one, writes it again. */
static void put_outer(csn_redact_path *path, uint8_t c, bool twice, uint32_t style) {
  if (twice && (c == '\\' || c == '"' || (c == '/' && (style & OUTER_SLASH) != 0)))
    csn_redact_path_put(path, '\\');
  csn_redact_path_put(path, c);
}

static void put_unicode(csn_redact_path *path, uint32_t unit, bool twice, uint32_t style) {
  put_outer(path, '\\', twice, style);
  put_outer(path, 'u', twice, style);
  for (int shift = 12; shift >= 0; shift -= 4)
    put_outer(path, (uint8_t) "0123456789abcdef"[unit >> shift & 15], twice, style);
}

static void put_json_byte(csn_redact_path *path, uint8_t c, bool twice, uint32_t style) {
  static const char short_escapes[] = "\"\"\\\\\bb\ff\nn\rr\tt";
  for (const char *p = short_escapes; *p != 0; p += 2) {
    if (c != (uint8_t)*p) continue;
    put_outer(path, '\\', twice, style);
    put_outer(path, (uint8_t)p[1], twice, style);
    return;
  }
  bool html = c == '<' || c == '>' || c == '&';
  if (c < 0x20 || (html && (style & (HTML_SAFE | GO)) != 0) || (c == '\'' && (style & HTML_SAFE) != 0)) {
    put_unicode(path, c, twice, style);
    return;
  }
  if (c == '/' && (style & SLASH_ESCAPED) != 0) put_outer(path, '\\', twice, style);
  put_outer(path, c, twice, style);
}

/* The code point of a well-formed sequence. */
static uint32_t code_point(const uint8_t *p, uint32_t len) {
  uint32_t value = len == 2 ? p[0] & 0x1fu : len == 3 ? p[0] & 0x0fu : p[0] & 0x07u;
  for (uint32_t i = 1; i < len; i++)
    value = value << 6 | (p[i] & 0x3fu);
  return value;
}

static bool put_json(csn_redact_set *set, csn_span value, bool twice, uint32_t style) {
  csn_redact_path path = csn_redact_path_of(set);
  for (uint32_t i = 0; i < value.len;) {
    uint32_t bad = 0, len = 1;
    if (value.ptr[i] >= 0x80 && (style & (ASCII_ONLY | GO)) != 0)
      len = csn_utf8_len(csn_span_of(value.ptr + i, value.len - i), &bad);
    uint32_t point = len < 2 ? 0 : code_point(value.ptr + i, len);
    if (len < 2 || ((style & ASCII_ONLY) == 0 && point != 0x2028 && point != 0x2029)) {
      put_json_byte(&path, value.ptr[i], twice, style);
      i++;
      continue;
    }
    if (point >= 0x10000) {
      put_unicode(&path, 0xd800 + ((point - 0x10000) >> 10), twice, style);
      put_unicode(&path, 0xdc00 + ((point - 0x10000) & 0x3ff), twice, style);
    } else {
      put_unicode(&path, point, twice, style);
    }
    i += len;
  }
  return csn_redact_path_end(&path, CSN_REDACT_JSON_FORM);
}

static bool is_alnum(uint8_t c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

/* `safe`: what is left as it is besides letters and digits; NULL: nothing is. */
static bool put_percent(csn_redact_set *set, csn_span value, const char *safe, bool plus) {
  csn_redact_path path = csn_redact_path_of(set);
  for (uint32_t i = 0; i < value.len; i++) {
    uint8_t c = value.ptr[i];
    bool left = safe != NULL && is_alnum(c);
    for (const char *p = safe; !left && p != NULL && *p != 0; p++)
      left = c == (uint8_t)*p;
    if (left || (plus && c == ' ')) {
      csn_redact_path_put(&path, c == ' ' ? '+' : c);
    } else {
      csn_redact_path_put(&path, '%');
      csn_redact_path_put(&path, (uint8_t) "0123456789abcdef"[c >> 4]);
      csn_redact_path_put(&path, (uint8_t) "0123456789abcdef"[c & 15]);
    }
  }
  return csn_redact_path_end(&path, CSN_REDACT_PERCENT_FORM);
}

/* The characters that `value` decides alone, when `before` bytes (0..2) of a group of three come first. */
static bool put_base64(csn_redact_set *set, csn_span value, uint32_t before) {
  static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  csn_redact_path path = csn_redact_path_of(set);
  uint32_t first = before == 0 ? 0 : before + 1, count = (before + value.len) * 8 / 6;
  for (uint32_t n = first; n < count; n++) {
    uint32_t bit = n * 6, at = bit / 8 - before, shift = bit % 8;
    uint32_t two = (uint32_t)value.ptr[at] << 8 | (at + 1 < value.len ? value.ptr[at + 1] : 0);
    csn_redact_path_put(&path, (uint8_t)alphabet[two >> (10 - shift) & 63]);
  }
  return csn_redact_path_end(&path, CSN_REDACT_BASE64_FORM);
}

/* Lines of base64, as base64(1) and PEM break them. */
static bool put_base64_lines(csn_redact_set *set, csn_span value, uint32_t bytes) {
  for (uint32_t at = 0; at < value.len; at += bytes) {
    uint32_t len = value.len - at < bytes ? value.len - at : bytes;
    if (!put_base64(set, csn_span_of(value.ptr + at, len), 0)) return false;
  }
  return true;
}

static bool put_hex(csn_redact_set *set, csn_span value) {
  csn_redact_path path = csn_redact_path_of(set);
  for (uint32_t i = 0; i < value.len; i++) {
    csn_redact_path_put(&path, (uint8_t) "0123456789abcdef"[value.ptr[i] >> 4]);
    csn_redact_path_put(&path, (uint8_t) "0123456789abcdef"[value.ptr[i] & 15]);
  }
  return csn_redact_path_end(&path, CSN_REDACT_HEX_FORM);
}

/* The styles that make a difference for this value; GO where that is another one than HTML_SAFE. */
static uint32_t styles_of(csn_span value) {
  uint32_t styles = 0;
  bool quote = false, html = false;
  for (uint32_t i = 0; i < value.len; i++) {
    uint8_t c = value.ptr[i];
    if (c == '/') styles |= SLASH_ESCAPED | OUTER_SLASH;
    if (c >= 0x80) styles |= ASCII_ONLY;
    html = html || c == '<' || c == '>' || c == '&';
    quote = quote || c == '\'';
    if (c == 0xe2 && value.len - i > 2 && value.ptr[i + 1] == 0x80 && (value.ptr[i + 2] | 1) == 0xa9)
      styles |= GO;
  }
  if (html || quote) styles |= HTML_SAFE;
  if (html && quote) styles |= GO;
  return styles;
}

bool csn_redact_forms(csn_redact_set *set, csn_span value) {
  csn_redact_path path = csn_redact_path_of(set);
  for (uint32_t i = 0; i < value.len; i++)
    csn_redact_path_put(&path, value.ptr[i]);
  bool fits = csn_redact_path_end(&path, CSN_REDACT_VALUE_FORM);

  for (uint32_t before = 0; before < 3; before++)
    fits = put_base64(set, value, before) && fits;
  if (value.len > 48) fits = put_base64_lines(set, value, 48) && fits;
  if (value.len > 57) fits = put_base64_lines(set, value, 57) && fits;
  fits = put_hex(set, value) && fits;

  /* What encodeURIComponent, RFC 3986, a form, a path and encodeURI leave as it is. */
  fits = put_percent(set, value, NULL, false) && fits;
  fits = put_percent(set, value, "-_.!~*'()", false) && fits;
  fits = put_percent(set, value, "-_.~", false) && fits;
  fits = put_percent(set, value, "-_.*", true) && fits;
  fits = put_percent(set, value, "-_.~", true) && fits;
  fits = put_percent(set, value, "-_.~/", false) && fits;
  fits = put_percent(set, value, "-_.!~*'();,/?:@&=+$#", false) && fits;

  uint32_t styles = styles_of(value);
  for (uint32_t style = 0; style < STYLES; style++) {
    if ((style & ~styles) != 0) continue;
    fits = put_json(set, value, false, style) && fits;
    fits = put_json(set, value, true, style) && fits;
    if ((styles & OUTER_SLASH) != 0) fits = put_json(set, value, true, style | OUTER_SLASH) && fits;
  }
  if ((styles & GO) != 0) {
    fits = put_json(set, value, false, GO) && fits;
    fits = put_json(set, value, true, GO) && fits;
  }
  return fits;
}

csn_err csn_redact_add(csn_redact_set *set, csn_span value) {
  if (value.len < CSN_REDACT_VALUE_MIN) return CSN_ERR_BAD_VALUE;
  if (value.len > CSN_REDACT_VALUE_MAX) return CSN_ERR_TOO_LONG;
  if (set->value_count == CSN_REDACT_VALUES_MAX) return CSN_ERR_NO_MEMORY;
  set->value_count++;
  return csn_redact_forms(set, value) ? CSN_ERR_OK : CSN_ERR_NO_MEMORY;
}
