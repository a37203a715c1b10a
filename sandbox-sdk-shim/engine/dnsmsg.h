/* engine/dnsmsg.h - DNS messages: one question in, one answer out (RFC 1035, EDNS of RFC 6891). Pure. */
#ifndef CAISSON_ENGINE_DNSMSG_H
#define CAISSON_ENGINE_DNSMSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DNS_NAME_MAX   253u /* as text, without a final dot */
#define DNS_ANSWER_MAX 600u /* header, question (255 + 4), one record, OPT */
#define DNS_MSG_MAX    65535u

enum { DNS_A = 1, DNS_PTR = 12, DNS_AAAA = 28, DNS_ANY = 255 };
enum { DNS_OK = 0, DNS_FORMERR = 1, DNS_SERVFAIL = 2, DNS_NXDOMAIN = 3, DNS_NOTIMP = 4, DNS_REFUSED = 5 };

typedef struct dns_query {
  uint16_t id;
  unsigned type;
  unsigned opcode;
  bool internet;  /* class IN */
  bool recursion; /* RD */
  bool edns;
  bool text;                   /* name consists of letters, digits, - and _ only: may be a host's */
  char name[DNS_NAME_MAX + 1]; /* lower case, no final dot; "" is the root */
  const uint8_t *question;     /* as it came; points into the message */
  size_t question_len;
} dns_query;

/* false: not a query with exactly one question, to be dropped without an answer. */
bool dns_parse(const uint8_t *msg, size_t len, dns_query *out);
/* Writes an answer with no record; `out` has DNS_ANSWER_MAX bytes. Returns its length. */
size_t dns_answer_empty(const dns_query *q, unsigned rcode, uint8_t *out);
/* One A record. `address` in host order, `ttl` in seconds. */
size_t dns_answer_a(const dns_query *q, uint32_t address, uint32_t ttl, uint8_t *out);
/* One PTR record; `name` as text of at most DNS_NAME_MAX bytes, labels of at most 63. */
size_t dns_answer_ptr(const dns_query *q, const char *name, uint32_t ttl, uint8_t *out);
/* "4.3.2.1.in-addr.arpa" to 1.2.3.4. */
bool dns_reverse_name(const char *name, uint32_t *address);

#endif
