/* tests/fuzz-native/fuzz_wire.c - what sandboxes and servers send the engine: DNS messages, HTTP/1 heads and
 * bodies, TLS hellos, IPv4 packets, addresses, and the link's records.
 *
 * The first byte chooses. Oracles: what was read lies within what came; a message's answer reads as that
 * message; a body's bytes are the same however they are cut; a hello that is whole stays what it is with more
 * behind it; no descriptor is left open. */
#define _GNU_SOURCE
#include "../../sandbox-sdk-shim/common/link.h"
#include "../../sandbox-sdk-shim/engine/addr.h"
#include "../../sandbox-sdk-shim/engine/dnsmsg.h"
#include "../../sandbox-sdk-shim/engine/hello.h"
#include "../../sandbox-sdk-shim/engine/http1.h"
#include "../../sandbox-sdk-shim/engine/packet.h"
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A copy of exactly this size: reading beyond it is an error that the sanitizer sees. */
static uint8_t *exact(const uint8_t *data, size_t size) {
  uint8_t *copy = malloc(size == 0 ? 1 : size);
  if (copy == NULL) abort();
  if (size > 0) memcpy(copy, data, size);
  return copy;
}

static void fuzz_dns(const uint8_t *msg, size_t len) {
  dns_query q, again;
  uint8_t out[DNS_ANSWER_MAX];
  if (!dns_parse(msg, len, &q)) return;
  REQUIRE(strlen(q.name) <= DNS_NAME_MAX);
  REQUIRE(q.question >= msg && q.question + q.question_len <= msg + len);
  size_t n = dns_answer_empty(&q, DNS_REFUSED, out);
  REQUIRE(n >= 12 && n <= sizeof out && (out[2] & 0x80) != 0);
  /* An answer is no query; turned into one it asks the same. */
  REQUIRE(!dns_parse(out, n, &again));
  out[2] &= 0x7f;
  if (dns_parse(out, n, &again))
    REQUIRE(again.id == q.id && again.type == q.type && strcmp(again.name, q.name) == 0);
  REQUIRE(dns_answer_a(&q, 0x7f000001, 60, out) <= sizeof out);
  uint32_t address;
  if (dns_reverse_name(q.name, &address)) REQUIRE(dns_answer_ptr(&q, "name.example", 60, out) <= sizeof out);
}

static void require_within(http_span s, const char *data, size_t used) {
  REQUIRE(s.n == 0 || (s.p >= data && s.p + s.n <= data + used));
}

/* The body's bytes, cut every `step` bytes; the state at the end in *end: 0 open, 1 done, 2 no body. */
static size_t read_body(const http_head *h, const char *in, size_t len, size_t step, char *out, int *end) {
  http_body b;
  size_t at = 0, have = 0, got = 0;
  http_body_start(&b, h);
  *end = 0;
  while (!b.done && at < len) {
    if (have < len) have = len - have < step ? len : have + step;
    const char *data = NULL;
    size_t n = 0;
    ptrdiff_t used = http_body_next(&b, in + at, have - at, &data, &n);
    if (used < 0) {
      *end = 2;
      return got;
    }
    REQUIRE((size_t)used <= have - at && (n == 0 || (data >= in + at && data + n <= in + at + used)));
    if (n > 0) memcpy(out + got, data, n);
    got += n;
    at += (size_t)used;
    if (used == 0 && have == len) break;
  }
  *end = b.done;
  return got;
}

static void fuzz_http(const char *data, size_t len, bool response) {
  static http_head h; /* large */
  size_t used = 0, cut_used = 0;
  const char *why = NULL;
  http_result r =
      response ? http_response(data, len, false, &h, &used, &why) : http_request(data, len, &h, &used, &why);
  REQUIRE(r != HTTP1_BAD || why != NULL);
  if (r != HTTP1_OK) return;
  REQUIRE(used > 0 && used <= len && h.count <= HTTP_FIELDS_MAX);
  require_within(h.method, data, used);
  require_within(h.target, data, used);
  require_within(h.reason, data, used);
  require_within(h.host, data, used);
  for (size_t i = 0; i < h.count; i++) {
    require_within(h.fields[i].name, data, used);
    require_within(h.fields[i].value, data, used);
    /* What is passed on must not begin another line. */
    for (size_t k = 0; k < h.fields[i].value.n; k++)
      REQUIRE(h.fields[i].value.p[k] != '\n' && h.fields[i].value.p[k] != '\r' &&
              h.fields[i].value.p[k] != '\0');
    (void)http_hop_by_hop(&h, &h.fields[i]);
  }
  static http_head part;
  http_result before = response ? http_response(data, used - 1, false, &part, &cut_used, &why)
                                : http_request(data, used - 1, &part, &cut_used, &why);
  REQUIRE(before == HTTP1_MORE);
  char *whole = malloc(len + 1), *cut = malloc(len + 1);
  if (whole == NULL || cut == NULL) abort();
  int end, cut_end;
  size_t n = read_body(&h, data + used, len - used, len, whole, &end);
  for (size_t step = 1; step < 8; step += 3) {
    size_t m = read_body(&h, data + used, len - used, step, cut, &cut_end);
    REQUIRE(end == cut_end && (end == 2 || (n == m && memcmp(whole, cut, n) == 0)));
  }
  free(whole);
  free(cut);
}

static void fuzz_hello(const uint8_t *data, size_t len) {
  char name[HELLO_NAME_MAX + 1], longer[HELLO_NAME_MAX + 1];
  hello_result r = hello_peek(data, len, name);
  if (r == HELLO_OK) {
    REQUIRE(strlen(name) <= HELLO_NAME_MAX);
    for (const char *c = name; *c != '\0'; c++)
      REQUIRE(!(*c >= 'A' && *c <= 'Z') && (unsigned char)*c > 0x20);
  }
  if (r == HELLO_MORE || len > HELLO_MAX / 2) return;
  uint8_t *more = malloc(len + 5);
  if (more == NULL) abort();
  memcpy(more, data, len);
  memset(more + len, 0x17, 5);
  hello_result again = hello_peek(more, len + 5, longer);
  REQUIRE(again == r && (r != HELLO_OK || strcmp(name, longer) == 0));
  free(more);
}

static void fuzz_packet(uint8_t *frame, size_t len) {
  packet p;
  uint8_t out[PACKET_ANSWER_MAX + 64];
  if (!packet_parse(frame, len, &p)) return;
  REQUIRE(p.ip >= frame && p.ip + p.ip_len <= frame + len && p.head_len <= p.ip_len);
  REQUIRE(p.payload_len == 0 || (p.payload >= p.ip && p.payload + p.payload_len <= p.ip + p.ip_len));
  REQUIRE(packet_unreachable(&p, PACKET_UNREACH_PORT, out) <= PACKET_ANSWER_MAX);
  if (p.protocol == PACKET_UDP) REQUIRE(packet_udp_answer(&p, "answer", 6, out, sizeof out) <= sizeof out);
  if (p.protocol != PACKET_TCP) return;
  REQUIRE(packet_reset(&p, out) <= PACKET_ANSWER_MAX);
  packet_redirect(&p, 0x0a000001, 1, 0x0a000002, 2);
  packet again;
  REQUIRE(packet_parse(frame, len, &again) && again.src == 0x0a000001 && again.dport == 2);
}

static void fuzz_address(const uint8_t *data, size_t len) {
  char *text = malloc(len + 1);
  if (text == NULL) abort();
  memcpy(text, data, len);
  text[len] = '\0';
  ip_addr a, again;
  ip_net net;
  char shown[IP_TEXT_MAX];
  if (ip_parse(text, &a)) {
    ip_format(&a, shown);
    REQUIRE(ip_parse(shown, &again) && ip_equal(&a, &again) && ip_public(&a) == ip_public(&again));
  }
  if (ip_net_parse(text, &net))
    REQUIRE(net.bits <= 128 && ip_net_has(&net, &net.addr, net.port == 0 ? 1 : net.port));
  free(text);
}

/* The bytes as one record of a hostile guest, with as many descriptors as the first byte says. */
static void fuzz_link(const uint8_t *data, size_t len) {
  int pair[2], fd, probe = dup(0), count = len == 0 ? 0 : data[0] % 6;
  pid_t peer;
  REQUIRE(probe >= 0 && close(probe) == 0);
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) abort();
  struct iovec iov = {(void *)(uintptr_t)(data + (len > 0)), len - (len > 0)};
  union {
    struct cmsghdr align;
    char room[CMSG_SPACE(sizeof(int) * 6)];
  } ctl = {.room = {0}};
  struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
  if (count > 0) {
    mh.msg_control = &ctl;
    mh.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count);
    struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
    for (int i = 0; i < count; i++)
      memcpy(CMSG_DATA(c) + sizeof(int) * (size_t)i, &(int){0}, sizeof(int));
  }
  csn_link_msg msg;
  if (sendmsg(pair[0], &mh, MSG_DONTWAIT) >= 0) {
    int rc = csn_link_recv(pair[1], &msg, &fd, &peer);
    REQUIRE(rc == 1 || fd == -1);
    if (rc == 1)
      REQUIRE(iov.iov_len == sizeof msg && msg.magic == CSN_LINK_MAGIC && msg.zero == 0 && count <= 1);
    if (fd >= 0) close(fd);
  }
  close(pair[0]);
  close(pair[1]);
  int after = dup(0);
  REQUIRE(after == probe && close(after) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  uint8_t *copy = exact(data + 1, size - 1);
  size_t len = size - 1;
  switch (data[0] % 7) {
  case 0:
    fuzz_dns(copy, len);
    break;
  case 1:
    fuzz_http((char *)copy, len, false);
    break;
  case 2:
    fuzz_http((char *)copy, len, true);
    break;
  case 3:
    fuzz_hello(copy, len);
    break;
  case 4:
    fuzz_packet(copy, len);
    break;
  case 5:
    fuzz_address(copy, len);
    break;
  default:
    fuzz_link(copy, len);
    break;
  }
  free(copy);
  return 0;
}
