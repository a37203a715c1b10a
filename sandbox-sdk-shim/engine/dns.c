/* engine/dns.c - names, as a sandbox sees them.
 *
 * Whatever resolver a program asks, the engine answers. A name gets an address of its own (namemap.h), so
 * that a connection to it is known by name. With no way out to the internet nothing is asked outside: a
 * look-up could carry data. Otherwise a name that does not exist is said not to. */
#define _GNU_SOURCE
#include "dnsmsg.h"
#include "egress.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TTL_S        60
#define QUESTION_MAX 4096u /* bytes, over TCP */

struct dns_job {
  sandbox *sb;
  dns_query query;
  uint8_t question[DNS_NAME_MAX + 8];
  dns_reply *reply;
  void *arg;
  lookup *lookup;
};

static uint32_t address_of(sandbox *sb, const char *name) {
  if (sb->names == NULL) sb->names = namemap_new();
  return namemap_address(sb->names, name);
}

static void on_lookup(void *arg, const ip_addr *list, size_t count, int error) {
  (void)list;
  dns_job *j = arg;
  uint8_t out[DNS_ANSWER_MAX];
  size_t n;
  if (count == 0)
    n = dns_answer_empty(&j->query, error == ENOENT ? DNS_NXDOMAIN : DNS_SERVFAIL, out);
  else if (j->query.type == DNS_A || j->query.type == DNS_ANY)
    n = dns_answer_a(&j->query, address_of(j->sb, j->query.name), TTL_S, out);
  else
    n = dns_answer_empty(&j->query, DNS_OK, out);
  j->reply(j->arg, out, n);
  free(j);
}

static bool ends_with(const char *name, const char *suffix) {
  size_t n = strlen(name), m = strlen(suffix);
  return n >= m && strcmp(name + n - m, suffix) == 0 && (n == m || name[n - m - 1] == '.');
}

/* Whether the outside is asked if the name exists. */
static bool must_look(const sandbox *sb, const char *name) {
  return sb->internet && egress_decide(sb, false, name, 80) != EGRESS_INTERCEPT &&
         egress_decide(sb, true, name, 443) != EGRESS_INTERCEPT;
}

/* 0 when the outside must be asked. */
static size_t answer_now(sandbox *sb, const dns_query *q, uint8_t *out) {
  uint32_t reverse;
  if (q->opcode != 0) return dns_answer_empty(q, DNS_NOTIMP, out);
  if (!q->internet) return dns_answer_empty(q, DNS_REFUSED, out);
  if (q->type == DNS_PTR && dns_reverse_name(q->name, &reverse)) {
    const char *name = namemap_name(sb->names, reverse);
    return name == NULL ? dns_answer_empty(q, DNS_NXDOMAIN, out) : dns_answer_ptr(q, name, TTL_S, out);
  }
  /* RFC 6761: these never leave, and "invalid" never exists. */
  if (ends_with(q->name, "localhost"))
    return q->type == DNS_A ? dns_answer_a(q, 0x7f000001u, TTL_S, out) : dns_answer_empty(q, DNS_OK, out);
  if (q->name[0] == '\0') return dns_answer_empty(q, DNS_OK, out);
  ip_addr literal;
  if (!q->text || ends_with(q->name, "invalid") || ip_parse(q->name, &literal))
    return dns_answer_empty(q, DNS_NXDOMAIN, out);
  if (must_look(sb, q->name)) return 0;
  if (q->type == DNS_A || q->type == DNS_ANY) return dns_answer_a(q, address_of(sb, q->name), TTL_S, out);
  return dns_answer_empty(q, DNS_OK, out);
}

dns_job *dns_ask(sandbox *sb, const uint8_t *msg, size_t len, dns_reply *reply, void *arg) {
  dns_query q;
  uint8_t out[DNS_ANSWER_MAX];
  if (!dns_parse(msg, len, &q)) {
    reply(arg, NULL, 0);
    return NULL;
  }
  size_t n = answer_now(sb, &q, out);
  if (n > 0) {
    reply(arg, out, n);
    return NULL;
  }
  dns_job *j = calloc(1, sizeof *j);
  if (j == NULL) abort();
  *j = (dns_job){.sb = sb, .query = q, .reply = reply, .arg = arg};
  memcpy(j->question, q.question, q.question_len);
  j->query.question = j->question;
  j->lookup = lookup_start(q.name, on_lookup, j);
  return j;
}

void dns_cancel(dns_job *j) {
  lookup_cancel(j->lookup);
  free(j);
}

/* ---- over TCP: each message behind its length, one answered after the other ---- */

static void on_tcp_answer(void *arg, const void *msg, size_t len) {
  conn *c = arg;
  const uint8_t front[2] = {(uint8_t)(len >> 8), (uint8_t)len};
  const bool later = c->dns != NULL;
  c->dns = NULL;
  if (len > 0) {
    stream_put(c->down, front, sizeof front);
    stream_put(c->down, msg, len);
  } else {
    c->down_ended = true;
  }
  if (later) conn_run(c);
}

run dns_run(conn *c) {
  size_t have;
  const uint8_t *in = (const uint8_t *)stream_input(c->down, &have);
  size_t len = have < 2 ? 0 : (size_t)in[0] << 8 | in[1];
  /* No question is that long; waiting for one would hold the connection. */
  if (len > QUESTION_MAX) return conn_free(c, true);
  if (c->dns != NULL) return RUN_WAIT;
  if (have < 2 || have < 2 + len)
    return stream_has_ended(c->down) || c->down_ended ? conn_free(c, false) : RUN_WAIT;
  if (stream_room(c->down) < DNS_ANSWER_MAX + 2) return RUN_WAIT;
  uint8_t msg[QUESTION_MAX];
  memcpy(msg, in + 2, len);
  stream_take(c->down, 2 + len);
  c->dns = dns_ask(c->sb, msg, len, on_tcp_answer, c);
  return RUN_MORE;
}
