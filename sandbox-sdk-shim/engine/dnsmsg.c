/* engine/dnsmsg.c - see dnsmsg.h. */
#include "dnsmsg.h"

#include <string.h>

#define HEADER    12u
#define LABEL_MAX 63u
#define CLASS_IN  1u
#define TYPE_OPT  41u
#define UDP_SIZE  1232u

static unsigned get16(const uint8_t *p) {
  return (unsigned)p[0] << 8 | p[1];
}

static uint8_t *put16(uint8_t *p, unsigned v) {
  p[0] = (uint8_t)(v >> 8);
  p[1] = (uint8_t)v;
  return p + 2;
}

static uint8_t *put32(uint8_t *p, uint32_t v) {
  return put16(put16(p, v >> 16), v & 0xffff);
}

/* Reads a name without compression at msg + at, which a question has no use for. Returns the offset behind
 * it, 0 when it is not one. */
static size_t read_name(const uint8_t *msg, size_t len, size_t at, dns_query *q) {
  size_t used = 0;
  q->text = true;
  while (at < len) {
    size_t n = msg[at++];
    if (n == 0) {
      q->name[used] = '\0';
      return at;
    }
    /* 0xc0 is a pointer, 0x40 and 0x80 are no label at all: both are above 63. */
    if (n > LABEL_MAX || n > len - at || used + n + 1 > DNS_NAME_MAX) return 0;
    if (used > 0) q->name[used++] = '.';
    for (size_t i = 0; i < n; i++) {
      char c = (char)msg[at + i];
      if (c >= 'A' && c <= 'Z') c = (char)(c + 32);
      if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_')) q->text = false;
      q->name[used++] = c;
    }
    at += n;
  }
  return 0;
}

bool dns_parse(const uint8_t *msg, size_t len, dns_query *out) {
  dns_query q = {0};
  if (len < HEADER || len > DNS_MSG_MAX) return false;
  unsigned flags = get16(msg + 2);
  /* An answer that were answered could go round for ever. */
  if ((flags & 0x8000) != 0 || get16(msg + 4) != 1) return false;
  q.id = (uint16_t)get16(msg);
  q.opcode = flags >> 11 & 15;
  q.recursion = (flags & 0x0100) != 0;
  size_t end = read_name(msg, len, HEADER, &q);
  if (end == 0 || len - end < 4) return false;
  q.type = get16(msg + end);
  q.internet = get16(msg + end + 2) == CLASS_IN;
  end += 4;
  q.question = msg + HEADER;
  q.question_len = end - HEADER;
  /* EDNS is the first additional record of everyone who sends it: root name, type OPT. */
  q.edns = get16(msg + 6) == 0 && get16(msg + 8) == 0 && get16(msg + 10) > 0 && len - end >= 11 &&
           msg[end] == 0 && get16(msg + end + 1) == TYPE_OPT;
  *out = q;
  return true;
}

static uint8_t *start(const dns_query *q, unsigned rcode, unsigned answers, uint8_t *out) {
  uint8_t *p = put16(out, q->id);
  /* QR and RA, the opcode and RD of the question. */
  p = put16(p, 0x8080u | q->opcode << 11 | (q->recursion ? 0x0100u : 0) | rcode);
  p = put16(p, 1);
  p = put16(p, answers);
  p = put16(p, 0);
  p = put16(p, q->edns ? 1 : 0);
  memcpy(p, q->question, q->question_len);
  return p + q->question_len;
}

static size_t finish(const dns_query *q, uint8_t *out, uint8_t *p) {
  if (q->edns) {
    *p++ = 0;
    p = put16(p, TYPE_OPT);
    p = put16(p, UDP_SIZE);
    p = put32(p, 0);
    p = put16(p, 0);
  }
  return (size_t)(p - out);
}

/* Owner (a pointer to the question), type, class, time to live. */
static uint8_t *record(uint8_t *p, unsigned type, uint32_t ttl) {
  p = put16(p, 0xc000u | HEADER);
  p = put16(p, type);
  p = put16(p, CLASS_IN);
  return put32(p, ttl);
}

size_t dns_answer_empty(const dns_query *q, unsigned rcode, uint8_t *out) {
  return finish(q, out, start(q, rcode, 0, out));
}

size_t dns_answer_a(const dns_query *q, uint32_t address, uint32_t ttl, uint8_t *out) {
  uint8_t *p = record(start(q, DNS_OK, 1, out), DNS_A, ttl);
  p = put16(p, 4);
  return finish(q, out, put32(p, address));
}

size_t dns_answer_ptr(const dns_query *q, const char *name, uint32_t ttl, uint8_t *out) {
  uint8_t *p = record(start(q, DNS_OK, 1, out), DNS_PTR, ttl), *size = p;
  p += 2;
  for (const char *at = name; *at != '\0';) {
    size_t n = strcspn(at, ".");
    if (n == 0 || n > LABEL_MAX) return dns_answer_empty(q, DNS_SERVFAIL, out);
    *p++ = (uint8_t)n;
    memcpy(p, at, n);
    p += n;
    at += n;
    if (*at == '.') at++;
  }
  *p++ = 0;
  put16(size, (unsigned)(p - size - 2));
  return finish(q, out, p);
}

bool dns_reverse_name(const char *name, uint32_t *address) {
  uint32_t v = 0;
  for (unsigned i = 0; i < 4; i++) {
    unsigned n = 0, digits = 0;
    while (*name >= '0' && *name <= '9' && digits < 3) {
      n = n * 10 + (unsigned)(*name++ - '0');
      digits++;
    }
    if (digits == 0 || n > 255 || *name++ != '.') return false;
    v |= n << (8 * i);
  }
  *address = v;
  return strcmp(name, "in-addr.arpa") == 0;
}
