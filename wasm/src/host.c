#include "csn/host.h"

static const uint8_t v4_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static csn_addr addr_v4(uint32_t v) {
  csn_addr a;
  memcpy(a.bytes, v4_prefix, sizeof v4_prefix);
  for (uint32_t i = 0; i < 4; i++)
    a.bytes[12 + i] = (uint8_t)(v >> (24 - 8 * i));
  return a;
}

bool csn_addr_is_v4(const csn_addr *addr) {
  return memcmp(addr->bytes, v4_prefix, sizeof v4_prefix) == 0;
}

static uint32_t read_v4(const uint8_t *p) {
  return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static bool is_digit(uint8_t c) {
  return c >= '0' && c <= '9';
}
static int32_t hex_value(uint8_t c) {
  if (is_digit(c)) return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One part of an IPv4 text: decimal, 0octal or 0xhex. False when it is no number or does not fit 32 bits. */
static bool v4_part(csn_span s, uint64_t *out) {
  uint32_t base = 10, i = 0;
  if (s.len == 0) return false;
  if (s.len >= 2 && s.ptr[0] == '0') {
    bool hex = (s.ptr[1] | 0x20) == 'x';
    base = hex ? 16 : 8;
    i = hex ? 2 : 1;
  }
  uint64_t v = 0;
  for (; i < s.len; i++) {
    int32_t d = hex_value(s.ptr[i]);
    if (d < 0 || (uint32_t)d >= base) return false;
    v = v * base + (uint32_t)d;
    if (v > UINT32_MAX) return false;
  }
  *out = v;
  return true;
}

/* Whether the last label makes the whole an IPv4 address or nothing: all digits, or 0x and hexadecimal
 * digits. */
static bool ends_in_number(csn_span s) {
  uint32_t at = s.len;
  while (at > 0 && s.ptr[at - 1] != '.')
    at--;
  csn_span last = csn_span_of(s.ptr + at, s.len - at);
  if (last.len == 0) return false;
  bool digits = true;
  for (uint32_t i = 0; i < last.len; i++)
    digits = digits && is_digit(last.ptr[i]);
  if (digits) return true;
  if (last.len < 2 || last.ptr[0] != '0' || (last.ptr[1] | 0x20) != 'x') return false;
  for (uint32_t i = 2; i < last.len; i++)
    if (hex_value(last.ptr[i]) < 0) return false;
  return true;
}

/* One to four parts; the last one fills what is left. */
static bool parse_v4(csn_span s, uint32_t *out) {
  uint64_t parts[4];
  uint32_t count = 0, start = 0;
  for (uint32_t i = 0; i <= s.len; i++) {
    if (i < s.len && s.ptr[i] != '.') continue;
    if (count == 4 || !v4_part(csn_span_of(s.ptr + start, i - start), &parts[count])) return false;
    count++;
    start = i + 1;
  }
  uint64_t v = 0;
  for (uint32_t i = 0; i + 1 < count; i++) {
    if (parts[i] > 255) return false;
    v |= parts[i] << (24 - 8 * i);
  }
  uint64_t last_max = (uint64_t)UINT32_MAX >> (8 * (count - 1));
  if (parts[count - 1] > last_max) return false;
  *out = (uint32_t)(v | parts[count - 1]);
  return true;
}

/* Exactly four decimal parts without leading zeros, as the tail of an IPv6 text must be. */
static bool parse_v4_strict(csn_span s, uint8_t *out) {
  uint32_t part = 0, value = 0, digits = 0;
  for (uint32_t i = 0; i <= s.len; i++) {
    if (i < s.len && is_digit(s.ptr[i])) {
      if (digits > 0 && value == 0) return false;
      value = value * 10 + (uint32_t)(s.ptr[i] - '0');
      if (++digits > 3 || value > 255) return false;
    } else {
      if (digits == 0 || part > 3 || (i < s.len && s.ptr[i] != '.')) return false;
      out[part++] = (uint8_t)value;
      value = digits = 0;
    }
  }
  return part == 4;
}

static bool parse_v6(csn_span s, csn_addr *out) {
  uint8_t bytes[16] = {0};
  uint32_t n = 0, gap = UINT32_MAX, i = 0;
  if (s.len < 2) return false;
  if (s.ptr[0] == ':') {
    if (s.ptr[1] != ':') return false;
    gap = 0;
    i = 2;
  }
  while (i < s.len) {
    uint32_t end = i;
    while (end < s.len && s.ptr[end] != ':')
      end++;
    bool last = end == s.len, dotted = false;
    for (uint32_t k = i; k < end; k++)
      dotted = dotted || s.ptr[k] == '.';
    if (dotted) {
      if (!last || n > 12 || !parse_v4_strict(csn_span_of(s.ptr + i, end - i), bytes + n)) return false;
      n += 4;
      i = end;
      break;
    }
    if (end == i || end - i > 4 || n > 14) return false;
    uint32_t v = 0;
    for (uint32_t k = i; k < end; k++) {
      int32_t d = hex_value(s.ptr[k]);
      if (d < 0) return false;
      v = v << 4 | (uint32_t)d;
    }
    bytes[n++] = (uint8_t)(v >> 8);
    bytes[n++] = (uint8_t)v;
    i = end;
    if (last) break;
    i++; /* the colon */
    if (i == s.len) return false;
    if (s.ptr[i] == ':') {
      if (gap != UINT32_MAX) return false;
      gap = n;
      i++;
    }
  }
  if (gap == UINT32_MAX) {
    if (n != 16) return false;
  } else {
    if (n > 14) return false;
    memmove(bytes + 16 - (n - gap), bytes + gap, n - gap);
    memset(bytes + gap, 0, 16 - n);
  }
  memcpy(out->bytes, bytes, sizeof bytes);
  return true;
}

static bool parse_name(csn_span s, csn_host *out) {
  uint32_t label = 0;
  if (s.len == 0 || s.len > CSN_HOST_MAX) return false;
  for (uint32_t i = 0; i < s.len; i++) {
    uint8_t c = s.ptr[i];
    if (c >= 'A' && c <= 'Z') c |= 0x20;
    if (c == '.') {
      if (label == 0 || out->name[i - 1] == '-') return false;
      label = 0;
    } else {
      bool plain = (c >= 'a' && c <= 'z') || is_digit(c) || c == '_';
      if (!plain && !(c == '-' && label > 0)) return false;
      if (++label > 63) return false;
    }
    out->name[i] = c;
  }
  if (label == 0 || out->name[s.len - 1] == '-') return false;
  out->len = s.len;
  return true;
}

csn_err csn_host_parse(csn_span text, csn_host *out) {
  memset(out, 0, sizeof *out);
  bool colon = false;
  for (uint32_t i = 0; i < text.len; i++)
    colon = colon || text.ptr[i] == ':';
  if (colon) {
    if (text.len >= 2 && text.ptr[0] == '[' && text.ptr[text.len - 1] == ']')
      text = csn_span_of(text.ptr + 1, text.len - 2);
    out->is_addr = true;
    return parse_v6(text, &out->addr) ? CSN_ERR_OK : CSN_ERR_BAD_VALUE;
  }
  if (text.len > 1 && text.ptr[text.len - 1] == '.') text.len--;
  if (ends_in_number(text)) {
    uint32_t v;
    if (!parse_v4(text, &v)) return CSN_ERR_BAD_VALUE;
    out->is_addr = true;
    out->addr = addr_v4(v);
    return CSN_ERR_OK;
  }
  return parse_name(text, out) ? CSN_ERR_OK : CSN_ERR_BAD_VALUE;
}

csn_err csn_port_parse(csn_span text, uint16_t *out) {
  uint32_t v = 0;
  if (text.len == 0 || text.len > 5) return CSN_ERR_BAD_VALUE;
  for (uint32_t i = 0; i < text.len; i++) {
    if (!is_digit(text.ptr[i])) return CSN_ERR_BAD_VALUE;
    v = v * 10 + (uint32_t)(text.ptr[i] - '0');
  }
  if (v == 0 || v > 65535) return CSN_ERR_BAD_VALUE;
  *out = (uint16_t)v;
  return CSN_ERR_OK;
}

csn_err csn_hostport_parse(csn_span text, csn_host *out, uint16_t *port) {
  uint32_t colons = 0, at = 0;
  *port = 0;
  for (uint32_t i = 0; i < text.len; i++) {
    if (text.ptr[i] != ':') continue;
    colons++;
    at = i;
  }
  bool bracket = text.len > 0 && text.ptr[0] == '[';
  bool has_port = bracket ? at > 0 && text.ptr[at - 1] == ']' : colons == 1;
  if (!has_port) return csn_host_parse(text, out);
  csn_err err = csn_host_parse(csn_span_of(text.ptr, at), out);
  return err != CSN_ERR_OK ? err : csn_port_parse(csn_span_of(text.ptr + at + 1, text.len - at - 1), port);
}

csn_err csn_cidr_parse(csn_span text, csn_addr *out, uint8_t *bits) {
  uint32_t slash = 0;
  while (slash < text.len && text.ptr[slash] != '/')
    slash++;
  csn_host h;
  csn_err err = csn_host_parse(csn_span_of(text.ptr, slash), &h);
  if (err != CSN_ERR_OK || !h.is_addr) return CSN_ERR_BAD_VALUE;
  /* ::ffff:10.0.0.0/104 is 10.0.0.0/8 in its v4-mapped form: there the prefix counts from 128 already. */
  bool v4_text = true;
  for (uint32_t i = 0; i < slash; i++)
    v4_text = v4_text && text.ptr[i] != ':';
  uint32_t n = 128, base = v4_text ? 96 : 0;
  if (slash < text.len) {
    csn_span digits = csn_span_of(text.ptr + slash + 1, text.len - slash - 1);
    if (digits.len == 0 || digits.len > 3) return CSN_ERR_BAD_VALUE;
    n = 0;
    for (uint32_t i = 0; i < digits.len; i++) {
      if (!is_digit(digits.ptr[i])) return CSN_ERR_BAD_VALUE;
      n = n * 10 + (uint32_t)(digits.ptr[i] - '0');
    }
    if (n > 128 - base) return CSN_ERR_BAD_VALUE;
    n += base;
  }
  *out = h.addr;
  *bits = (uint8_t)n;
  for (uint32_t i = 0; i < 16; i++) {
    uint32_t keep = n > 8 * i ? n - 8 * i : 0;
    uint8_t behind = (uint8_t)(keep >= 8 ? 0u : 0xffu >> keep);
    if ((h.addr.bytes[i] & behind) != 0) return CSN_ERR_BAD_VALUE;
  }
  return CSN_ERR_OK;
}

bool csn_addr_within(const csn_addr *addr, const csn_addr *net, uint8_t bits) {
  uint32_t whole = bits / 8, rest = bits % 8;
  if (memcmp(addr->bytes, net->bytes, whole) != 0) return false;
  if (rest == 0) return true;
  return ((addr->bytes[whole] ^ net->bytes[whole]) >> (8 - rest)) == 0;
}

/* A block of special purpose, by the first 32 bits of its addresses. */
typedef struct block {
  uint32_t net;
  uint8_t bits, class;
} block;

/* The IPv4 special-purpose blocks; the first that matches decides. */
static const block v4_blocks[] = {
    {0xa9fea9fe, 32, CSN_ADDR_METADATA}, {0xa9feaa02, 32, CSN_ADDR_METADATA},
    {0x646464c8, 32, CSN_ADDR_METADATA}, {0xa83f8110, 32, CSN_ADDR_METADATA},
    {0x7f000000, 8, CSN_ADDR_LOOPBACK},  {0x0a000000, 8, CSN_ADDR_PRIVATE},
    {0xac100000, 12, CSN_ADDR_PRIVATE},  {0xc0a80000, 16, CSN_ADDR_PRIVATE},
    {0x64400000, 10, CSN_ADDR_PRIVATE},  {0xa9fe0000, 16, CSN_ADDR_LINK_LOCAL},
    {0xe0000000, 4, CSN_ADDR_MULTICAST}, {0x00000000, 8, CSN_ADDR_RESERVED},
    {0xc0000000, 24, CSN_ADDR_RESERVED}, {0xc0000200, 24, CSN_ADDR_RESERVED},
    {0xc0586300, 24, CSN_ADDR_RESERVED}, {0xc6120000, 15, CSN_ADDR_RESERVED},
    {0xc6336400, 24, CSN_ADDR_RESERVED}, {0xcb007100, 24, CSN_ADDR_RESERVED},
    {0xf0000000, 4, CSN_ADDR_RESERVED},
};

/* IPv6: what is not global unicast (2000::/3), in the blocks of IANA's registry of the address space; in it
 * 2001::/23 (Teredo, ORCHID, ...) and documentation. */
static const block v6_blocks[] = {
    {0xfc000000, 7, CSN_ADDR_ULA},       {0xfe800000, 10, CSN_ADDR_LINK_LOCAL},
    {0xfec00000, 10, CSN_ADDR_ULA},      {0xff000000, 8, CSN_ADDR_MULTICAST},
    {0x20010000, 23, CSN_ADDR_RESERVED}, {0x20010db8, 32, CSN_ADDR_RESERVED},
    {0x3fff0000, 20, CSN_ADDR_RESERVED}, {0x00000000, 8, CSN_ADDR_RESERVED},
    {0x01000000, 8, CSN_ADDR_RESERVED},  {0x02000000, 7, CSN_ADDR_RESERVED},
    {0x04000000, 6, CSN_ADDR_RESERVED},  {0x08000000, 5, CSN_ADDR_RESERVED},
    {0x10000000, 4, CSN_ADDR_RESERVED},  {0x40000000, 3, CSN_ADDR_RESERVED},
    {0x60000000, 3, CSN_ADDR_RESERVED},  {0x80000000, 3, CSN_ADDR_RESERVED},
    {0xa0000000, 3, CSN_ADDR_RESERVED},  {0xc0000000, 3, CSN_ADDR_RESERVED},
    {0xe0000000, 4, CSN_ADDR_RESERVED},  {0xf0000000, 5, CSN_ADDR_RESERVED},
    {0xf8000000, 6, CSN_ADDR_RESERVED},  {0xfe000000, 9, CSN_ADDR_RESERVED},
};

#define BLOCKS(table) table, sizeof table / sizeof *table

/* The block of `v`, whose bits come behind `before` others of the address. */
static csn_addr_class find_block(const block *blocks, uint32_t count, uint32_t v, uint32_t before,
                                 uint8_t *bits) {
  for (uint32_t i = 0; i < count; i++) {
    if ((v ^ blocks[i].net) >> (32 - blocks[i].bits) != 0) continue;
    *bits = (uint8_t)(before + blocks[i].bits);
    return (csn_addr_class)blocks[i].class;
  }
  *bits = 0;
  return CSN_ADDR_PUBLIC;
}

csn_addr_class csn_addr_block(const csn_addr *addr, uint8_t *bits) {
  static const uint8_t zero[16] = {0};
  static const uint8_t nat64[12] = {0x00, 0x64, 0xff, 0x9b};
  static const uint8_t imds[16] = {0xfd, 0x00, 0x0e, 0xc2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x54};
  const uint8_t *b = addr->bytes;
  *bits = 128;
  if (memcmp(b, zero, 15) == 0 && b[15] <= 1) return b[15] == 1 ? CSN_ADDR_LOOPBACK : CSN_ADDR_RESERVED;
  if (memcmp(b, imds, 16) == 0) return CSN_ADDR_METADATA;
  /* Addresses that a translator would turn into the inner IPv4 address are not a way around its class. */
  if (csn_addr_is_v4(addr) || memcmp(b, zero, 12) == 0 || memcmp(b, nat64, 12) == 0)
    return find_block(BLOCKS(v4_blocks), read_v4(b + 12), 96, bits);
  if (b[0] == 0x20 && b[1] == 0x02) return find_block(BLOCKS(v4_blocks), read_v4(b + 2), 16, bits);
  return find_block(BLOCKS(v6_blocks), read_v4(b), 0, bits);
}

csn_addr_class csn_addr_classify(const csn_addr *addr) {
  uint8_t bits;
  return csn_addr_block(addr, &bits);
}

const char *csn_addr_class_text(csn_addr_class c) {
  switch (c) {
  case CSN_ADDR_PUBLIC:
    return "public";
  case CSN_ADDR_PRIVATE:
    return "private";
  case CSN_ADDR_LOOPBACK:
    return "loopback";
  case CSN_ADDR_LINK_LOCAL:
    return "link-local";
  case CSN_ADDR_METADATA:
    return "metadata";
  case CSN_ADDR_ULA:
    return "unique local";
  case CSN_ADDR_MULTICAST:
    return "multicast";
  case CSN_ADDR_RESERVED:
    return "reserved";
  }
  __builtin_trap();
}

static uint32_t put_decimal(uint8_t *out, uint32_t v) {
  uint8_t digits[3];
  uint32_t n = 0;
  do {
    digits[n++] = (uint8_t)('0' + v % 10);
    v /= 10;
  } while (v > 0 && n < sizeof digits);
  for (uint32_t i = 0; i < n; i++)
    out[i] = digits[n - 1 - i];
  return n;
}

uint32_t csn_addr_text(const csn_addr *addr, uint8_t *out) {
  static const char hex[] = "0123456789abcdef";
  const uint8_t *b = addr->bytes;
  uint32_t n = 0;
  if (csn_addr_is_v4(addr)) {
    for (uint32_t i = 0; i < 4; i++) {
      if (i > 0) out[n++] = '.';
      n += put_decimal(out + n, b[12 + i]);
    }
    return n;
  }
  /* The longest run of two or more zero groups, the first of equals, is written as "::". */
  uint32_t best = 8, best_len = 1;
  for (uint32_t i = 0; i < 8; i++) {
    uint32_t len = 0;
    while (i + len < 8 && b[2 * (i + len)] == 0 && b[2 * (i + len) + 1] == 0)
      len++;
    if (len > best_len) {
      best = i;
      best_len = len;
    }
  }
  for (uint32_t i = 0; i < 8; i++) {
    if (i == best) {
      out[n++] = ':';
      out[n++] = ':';
      i += best_len - 1;
      continue;
    }
    if (i > 0 && out[n - 1] != ':') out[n++] = ':';
    uint32_t v = (uint32_t)b[2 * i] << 8 | b[2 * i + 1];
    for (uint32_t shift = 16; shift > 0; shift -= 4)
      if (shift == 4 || v >> (shift - 4) != 0) out[n++] = (uint8_t)hex[v >> (shift - 4) & 15];
  }
  return n;
}

uint32_t csn_host_text(const csn_host *h, uint8_t *out) {
  if (h->is_addr) return csn_addr_text(&h->addr, out);
  memcpy(out, h->name, h->len);
  return h->len;
}

bool csn_host_equal(const csn_host *a, const csn_host *b) {
  if (a->is_addr != b->is_addr) return false;
  if (a->is_addr) return memcmp(a->addr.bytes, b->addr.bytes, 16) == 0;
  return a->len == b->len && memcmp(a->name, b->name, a->len) == 0;
}
