/* fuzz_address.c - hosts, ports, blocks, globs and paths; one to a line, the first byte says which. Oracles:
 * what is written is read as the same again, in any case and with a trailing dot; a block holds its own first
 * and last address and nothing that differs before its prefix; special blocks lie inside each other or apart;
 * a plain path is plain; a text matches itself and what follows `**`. */
#include "csn/glob.h"
#include "csn/host.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void host(csn_span text) {
  csn_host h, again;
  uint16_t port;
  uint8_t out[CSN_HOST_MAX], other[CSN_HOST_MAX + 1];
  if (csn_hostport_parse(text, &h, &port) != CSN_ERR_OK) return;
  uint32_t len = csn_host_text(&h, out);
  if (csn_host_parse(csn_span_of(out, len), &again) != CSN_ERR_OK || !csn_host_equal(&h, &again)) abort();
  if (h.is_addr) {
    if (csn_addr_class_text(csn_addr_classify(&h.addr)) == NULL) abort();
    return;
  }
  for (uint32_t i = 0; i < len; i++)
    other[i] = out[i] >= 'a' && out[i] <= 'z' && i % 2 == 0 ? (uint8_t)(out[i] - 32) : out[i];
  other[len] = '.';
  if (csn_host_parse(csn_span_of(other, len + 1), &again) != CSN_ERR_OK || !csn_host_equal(&h, &again))
    abort();
}

static void block(csn_span text) {
  csn_addr net;
  uint8_t bits;
  if (csn_cidr_parse(text, &net, &bits) != CSN_ERR_OK) return;
  csn_addr last = net;
  for (uint32_t i = bits; i < 128; i++)
    last.bytes[i / 8] |= (uint8_t)(0x80 >> (i % 8));
  if (bits > 128 || !csn_addr_within(&net, &net, bits) || !csn_addr_within(&last, &net, bits)) abort();
  for (uint32_t i = 0; i < bits; i++) {
    csn_addr out = last;
    out.bytes[i / 8] ^= (uint8_t)(0x80 >> (i % 8));
    if (csn_addr_within(&out, &net, bits)) abort();
  }
  uint8_t first_bits, last_bits;
  csn_addr_class first = csn_addr_block(&net, &first_bits), other = csn_addr_block(&last, &last_bits);
  if (first_bits > 128 || (first == CSN_ADDR_PUBLIC) != (first_bits == 0)) abort();
  if (first != CSN_ADDR_PUBLIC && other == first && bits >= first_bits && last_bits < first_bits) abort();
}

static void path(csn_span text) {
  static uint8_t plain[4096], twice[4096], pattern[4100];
  csn_span cwd = csn_span_str("/workspace"), home = csn_span_str("/home/user");
  uint32_t len = csn_path_plain(text, cwd, home, plain, sizeof plain);
  if (len == UINT32_MAX) return;
  if (len == 0 || len > sizeof plain || plain[0] != '/' || (len > 1 && plain[len - 1] == '/')) abort();
  for (uint32_t i = 1; i <= len; i++) { /* every segment */
    uint32_t start = i;
    while (i < len && plain[i] != '/')
      i++;
    csn_span segment = csn_span_of(plain + start, i - start);
    if (len > 1 && (segment.len == 0 || csn_span_is(segment, ".") || csn_span_is(segment, ".."))) abort();
  }
  csn_span p = csn_span_of(plain, len);
  if (csn_path_plain(p, cwd, home, twice, sizeof twice) != len || memcmp(plain, twice, len) != 0) abort();
  memcpy(pattern, "/**", 3);
  if (!csn_glob_path(csn_span_of(pattern, 3), p)) abort();
  if (csn_span_find(p, '*') < len || csn_span_find(p, '?') < len) return;
  memcpy(pattern, plain, len);
  if (!csn_glob_path(csn_span_of(pattern, len), p) || !csn_glob_text(csn_span_of(pattern, len), p)) abort();
}

/* Pattern and text, a blank between them. */
static void glob(csn_span text) {
  uint32_t split = csn_span_find(text, ' ');
  csn_span pattern = csn_span_of(text.ptr, split);
  csn_span rest =
      split < text.len ? csn_span_of(text.ptr + split + 1, text.len - split - 1) : csn_span_of(NULL, 0);
  static uint8_t wider[8193];
  bool fits = csn_glob_text(pattern, rest);
  csn_glob_path(pattern, rest);
  if (pattern.len > sizeof wider - 1) return;
  memcpy(wider, pattern.ptr, pattern.len);
  wider[pattern.len] = '*';
  if (fits && !csn_glob_text(csn_span_of(wider, pattern.len + 1), rest))
    abort(); /* a wild card takes nothing away */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  for (size_t at = 0; at < size;) {
    size_t end = at;
    while (end < size && data[end] != '\n')
      end++;
    if (end > at) {
      csn_span text = csn_span_of(data + at + 1, (uint32_t)(end - at - 1));
      if (data[at] == 'h') host(text);
      if (data[at] == 'c') block(text);
      if (data[at] == 'p') path(text);
      if (data[at] == 'g') glob(text);
    }
    at = end + 1;
  }
  return 0;
}
