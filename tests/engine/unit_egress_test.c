/* tests/engine/unit_egress_test.c - what reads and writes bytes on the way out of a sandbox, under ASan and
 * UBSan. TAP. */
#define _GNU_SOURCE
#include "../../sandbox-sdk-shim/engine/addr.h"
#include "../../sandbox-sdk-shim/engine/dnsmsg.h"
#include "../../sandbox-sdk-shim/engine/hello.h"
#include "../../sandbox-sdk-shim/engine/http1.h"
#include "../../sandbox-sdk-shim/engine/namemap.h"
#include "../../sandbox-sdk-shim/engine/packet.h"
#include "../../sandbox-sdk-shim/engine/pem.h"
#include "../../sandbox-sdk-shim/engine/x509.h"
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A copy at the very end of its block: one byte too many read is seen by ASan. */
static uint8_t *tight(const void *s, size_t len) {
  uint8_t *p = malloc(len == 0 ? 1 : len);
  if (p == NULL) abort();
  memcpy(p, s, len);
  return p;
}

/* ---- addresses ---- */

static bool is_public(const char *text) {
  ip_addr a;
  if (!ip_parse(text, &a)) abort();
  return ip_public(&a);
}

static void test_addresses(void) {
  static const char *const inside[] = {"0.0.0.0",
                                       "10.1.2.3",
                                       "100.64.0.1",
                                       "100.127.255.255",
                                       "127.0.0.1",
                                       "127.255.0.1",
                                       "169.254.169.254",
                                       "172.16.0.1",
                                       "172.31.255.255",
                                       "192.0.0.1",
                                       "192.168.1.1",
                                       "198.18.0.1",
                                       "198.19.255.255",
                                       "203.0.113.9",
                                       "224.0.0.1",
                                       "239.1.2.3",
                                       "240.0.0.1",
                                       "255.255.255.255",
                                       "::",
                                       "::1",
                                       "::ffff:10.0.0.1",
                                       "::ffff:127.0.0.1",
                                       "::ffff:169.254.169.254",
                                       "::127.0.0.1",
                                       "64:ff9b::7f00:1",
                                       "64:ff9b::a00:1",
                                       "64:ff9b:1::1",
                                       "fc00::1",
                                       "fd12:3456::1",
                                       "fe80::1",
                                       "fec0::1",
                                       "ff02::1",
                                       "2001:db8::1",
                                       "2001::1",
                                       "2002:7f00:1::",
                                       "2002:a00:1::",
                                       "3fff::1",
                                       "100::1"};
  static const char *const outside[] = {
      "1.1.1.1",          "8.8.8.8",         "9.255.255.255", "11.0.0.0",        "100.63.255.255",
      "100.128.0.0",      "126.255.255.255", "128.0.0.0",     "172.15.255.255",  "172.32.0.0",
      "192.169.0.0",      "198.17.255.255",  "198.20.0.0",    "223.255.255.255", "::ffff:8.8.8.8",
      "64:ff9b::808:808", "2606:4700::1111", "2a00:1450::1",  "2002:808:808::"};
  bool good = true;
  for (size_t i = 0; i < sizeof inside / sizeof inside[0]; i++)
    if (is_public(inside[i])) good = (printf("# %s is taken for public\n", inside[i]), false);
  check(good, "no special address is the internet");
  good = true;
  for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++)
    if (!is_public(outside[i])) good = (printf("# %s is taken for private\n", outside[i]), false);
  check(good, "the internet is, up to its borders");
  static const char *const bad[] = {
      "",     "1.2.3", "1.2.3.4.5", "0x7f.0.0.1", "2130706433", "010.0.0.1", "1.2.3.256", "1.2.3.4 ",
      "[::1", ":::",   "1::2::3",   "a.b.c.d",    "fe80::1%lo", "[1.2.3.4]", "127.1"};
  good = true;
  ip_addr a;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    if (ip_parse(bad[i], &a)) good = (printf("# %s is taken for an address\n", bad[i]), false);
  check(good, "other spellings are no addresses");
  ip_net n;
  char text[IP_TEXT_MAX];
  check(ip_parse("[2606:4700::1111]", &a) && (ip_format(&a, text), strcmp(text, "2606:4700::1111") == 0) &&
            ip_parse("::ffff:1.2.3.4", &a) && ip_is_v4(&a) &&
            (ip_format(&a, text), strcmp(text, "1.2.3.4") == 0),
        "text and back");
  ip_addr b;
  if (!ip_parse("10.255.0.1", &a) || !ip_parse("11.0.0.1", &b)) abort();
  check(ip_net_parse("10.0.0.0/8", &n) && ip_net_has(&n, &a, 1) && !ip_net_has(&n, &b, 1) &&
            ip_net_parse("10.255.0.1:80", &n) && ip_net_has(&n, &a, 80) && !ip_net_has(&n, &a, 81) &&
            ip_net_parse("0.0.0.0/0", &n) && ip_net_has(&n, &b, 5) && ip_net_parse("10.255.0.0/31", &n) &&
            ip_net_has(&n, &a, 5) && ip_net_parse("10.255.0.0/32:7", &n) && !ip_net_has(&n, &a, 7),
        "IPv4 networks");
  if (!ip_parse("fd00::1", &a) || !ip_parse("1.2.3.4", &b)) abort();
  check(ip_net_parse("fd00::/8", &n) && ip_net_has(&n, &a, 1) && !ip_net_has(&n, &b, 1) &&
            ip_net_parse("[fd00::1]:443", &n) && ip_net_has(&n, &a, 443) && !ip_net_has(&n, &a, 80) &&
            ip_net_parse("[fd00::]/16", &n) && ip_net_parse("0.0.0.0/0", &n) && !ip_net_has(&n, &a, 1),
        "IPv6 networks");
  check(!ip_net_parse("10.0.0.1/8", &n) && !ip_net_parse("10.0.0.0/33", &n) &&
            !ip_net_parse("10.0.0.0/", &n) && !ip_net_parse("10.0.0.0/-1", &n) &&
            !ip_net_parse("1.2.3.4:0", &n) && !ip_net_parse("fd00::1/8", &n) &&
            !ip_net_parse("example.com", &n) && !ip_net_parse("*", &n),
        "no networks");
}

/* ---- packets ---- */

static unsigned sum(const uint8_t *p, size_t len, uint32_t start) {
  uint32_t s = start;
  for (size_t i = 0; i < len; i++)
    s += i % 2 == 0 ? (uint32_t)p[i] << 8 : p[i];
  while (s >> 16 != 0)
    s = (s & 0xffff) + (s >> 16);
  return s;
}

static bool ip_sum_ok(const uint8_t *frame) {
  const uint8_t *ip = frame + PACKET_FRONT;
  return sum(ip, (size_t)(ip[0] & 15) * 4, 0) == 0xffff;
}

static bool tcp_sum_ok(const uint8_t *frame) {
  const uint8_t *ip = frame + PACKET_FRONT;
  size_t head = (size_t)(ip[0] & 15) * 4, len = ((size_t)ip[2] << 8 | ip[3]) - head;
  uint32_t pseudo = sum(ip + 12, 8, 0) + 6 + (uint32_t)len;
  return sum(ip + head, len, pseudo) == 0xffff;
}

/* A TCP packet 198.18.0.2:40000 to 1.2.3.4:443 with good checksums and `extra` bytes of data. */
static size_t make_tcp(uint8_t *frame, unsigned flags, size_t extra, bool partial) {
  size_t len = 40 + extra;
  memset(frame, 0, PACKET_FRONT + len);
  frame[0] = partial ? 1 : 0;
  uint8_t *ip = frame + PACKET_FRONT, *tcp = ip + 20;
  const uint8_t head[20] = {
      0x45, 0, (uint8_t)(len >> 8), (uint8_t)len, 0, 1, 0x40, 0, 64, 6, 0, 0, 198, 18, 0, 2, 1, 2, 3, 4};
  memcpy(ip, head, 20);
  unsigned s = ~sum(ip, 20, 0);
  ip[10] = (uint8_t)(s >> 8);
  ip[11] = (uint8_t)s;
  const uint8_t t[20] = {0x9c, 0x40, 1, 0xbb, 0, 0, 0, 9, 0, 0, 0, 7, 5 << 4, (uint8_t)flags};
  memcpy(tcp, t, 20);
  memset(tcp + 20, 'x', extra);
  uint32_t pseudo = sum(ip + 12, 8, 0) + 6 + (uint32_t)(20 + extra);
  s = partial ? sum(ip, 0, pseudo) : ~sum(tcp, 20 + extra, pseudo);
  tcp[16] = (uint8_t)(s >> 8);
  tcp[17] = (uint8_t)s;
  return PACKET_FRONT + len;
}

/* What a network card would do with a partial checksum. */
static void complete(uint8_t *frame) {
  uint8_t *ip = frame + PACKET_FRONT, *tcp = ip + 20;
  size_t len = ((size_t)ip[2] << 8 | ip[3]) - 20;
  unsigned s = ~sum(tcp, len, 0);
  tcp[16] = (uint8_t)(s >> 8);
  tcp[17] = (uint8_t)s;
}

static void test_packets(void) {
  uint8_t frame[PACKET_FRONT + 200];
  packet p;
  bool good = true;
  for (unsigned i = 0; i < 64 && good; i++) {
    size_t len = make_tcp(frame, PACKET_ACK, i, i % 2 == 1);
    good = packet_parse(frame, len, &p) && p.src == 0xc6120002u && p.dst == 0x01020304u && p.sport == 40000 &&
           p.dport == 443 && p.payload_len == i && p.flags == PACKET_ACK;
    packet_redirect(&p, 0xc6120004u + i * 7919u, 1024 + i, 0xc6120002u, 61777);
    if (i % 2 == 1) complete(frame);
    good = good && ip_sum_ok(frame) && tcp_sum_ok(frame);
  }
  check(good, "a rewritten TCP packet has good checksums, complete or partial");
  uint8_t out[PACKET_ANSWER_MAX];
  size_t len = make_tcp(frame, PACKET_SYN, 0, false);
  good = packet_parse(frame, len, &p);
  size_t n = packet_reset(&p, out);
  packet r;
  check(good && packet_parse(out, n, &r) && r.flags == (PACKET_RST | PACKET_ACK) && r.src == 0x01020304u &&
            r.dst == 0xc6120002u && r.sport == 443 && r.dport == 40000 && ip_sum_ok(out) && tcp_sum_ok(out) &&
            memcmp(out + PACKET_FRONT + 28, "\0\0\0\x0a", 4) == 0,
        "a reset that answers a first packet");
  len = make_tcp(frame, PACKET_ACK, 3, false);
  good = packet_parse(frame, len, &p);
  n = packet_reset(&p, out);
  check(good && packet_parse(out, n, &r) && r.flags == PACKET_RST && tcp_sum_ok(out) &&
            memcmp(out + PACKET_FRONT + 24, "\0\0\0\x07", 4) == 0,
        "a reset that answers a later one");
  n = packet_unreachable(&p, PACKET_UNREACH_PORT, out);
  check(n == PACKET_FRONT + 20 + 8 + 28 && ip_sum_ok(out) && out[PACKET_FRONT + 20] == 3 &&
            out[PACKET_FRONT + 21] == 3 && sum(out + PACKET_FRONT + 20, 36, 0) == 0xffff &&
            memcmp(out + PACKET_FRONT + 28, p.ip, 28) == 0,
        "an ICMP message quotes what it is about");
  /* Every length, every header size: nothing is read or written beyond. */
  good = true;
  for (size_t cut = 0; cut <= len; cut++) {
    for (unsigned ihl = 0; ihl < 16; ihl++) {
      uint8_t *copy = tight(frame, cut);
      if (cut > PACKET_FRONT) copy[PACKET_FRONT] = (uint8_t)(0x40 | ihl);
      if (packet_parse(copy, cut, &r)) {
        good = good && r.frame_len <= cut;
        (void)packet_unreachable(&r, 3, out);
        if (r.protocol == PACKET_TCP) {
          (void)packet_reset(&r, out);
          packet_redirect(&r, 1, 2, 3, 4);
        }
      }
      free(copy);
    }
  }
  check(good && !packet_parse(frame, len - 1, &r), "cut packets are refused, odd headers bounded");
  frame[PACKET_FRONT + 6] = 0x20;
  check(!packet_parse(frame, len, &r), "a fragment is refused");
  const uint8_t udp[] = {0x45, 0, 0, 32, 0, 0, 0, 0,  64, 17, 0, 0, 198, 18,  0,   2,
                         9,    9, 9, 9,  4, 0, 0, 53, 0,  12, 0, 0, 'a', 'b', 'c', 'd'};
  memset(frame, 0, PACKET_FRONT);
  memcpy(frame + PACKET_FRONT, udp, sizeof udp);
  uint8_t answer[PACKET_FRONT + 28 + 4];
  check(packet_parse(frame, PACKET_FRONT + sizeof udp, &p) && p.dport == 53 && p.payload_len == 4 &&
            memcmp(p.payload, "abcd", 4) == 0 &&
            packet_udp_answer(&p, "1234", 4, answer, sizeof answer) == sizeof answer &&
            packet_parse(answer, sizeof answer, &r) && r.src == 0x09090909u && r.sport == 53 &&
            r.dport == 1024 && memcmp(r.payload, "1234", 4) == 0 &&
            packet_udp_answer(&p, "12345", 5, answer, sizeof answer) == 0,
        "a UDP answer, and one that does not fit");
  frame[PACKET_FRONT + 25] = 13;
  check(!packet_parse(frame, PACKET_FRONT + sizeof udp, &p), "a UDP length beyond the packet is refused");
}

/* ---- DNS ---- */

static size_t make_query(uint8_t *out, const char *name, unsigned type, bool edns) {
  const uint8_t head[12] = {0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, edns ? 1 : 0};
  memcpy(out, head, 12);
  uint8_t *p = out + 12;
  while (*name != '\0') {
    size_t n = strcspn(name, ".");
    *p++ = (uint8_t)n;
    memcpy(p, name, n);
    p += n;
    name += n;
    if (*name == '.') name++;
  }
  const uint8_t tail[] = {0, (uint8_t)(type >> 8), (uint8_t)type, 0, 1};
  memcpy(p, tail, sizeof tail);
  p += sizeof tail;
  const uint8_t opt[11] = {0, 0, 41, 4, 208};
  if (edns) memcpy(p, opt, sizeof opt);
  return (size_t)(p - out) + (edns ? sizeof opt : 0);
}

static void test_dns(void) {
  uint8_t msg[600], out[DNS_ANSWER_MAX];
  dns_query q;
  size_t len = make_query(msg, "API.Example.com", DNS_A, true);
  check(dns_parse(msg, len, &q) && strcmp(q.name, "api.example.com") == 0 && q.type == DNS_A && q.internet &&
            q.text && q.recursion && q.edns && q.id == 0x1234 && q.opcode == 0,
        "a question is read");
  size_t n = dns_answer_a(&q, 0x01020304u, 60, out);
  /* Header, question as it came, pointer, A, IN, 60, 4 bytes; OPT. */
  check(n == 12 + q.question_len + 16 + 11 && out[2] == 0x81 && out[3] == 0x80 && out[7] == 1 &&
            memcmp(out + 12, q.question, q.question_len) == 0 &&
            memcmp(out + 12 + q.question_len, "\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\1\2\3\4", 16) == 0 &&
            memcmp(out + n - 11, "\0\0\x29\x04\xd0\0\0\0\0\0\0", 11) == 0,
        "an address is answered");
  n = dns_answer_empty(&q, DNS_NXDOMAIN, out);
  check(n == 12 + q.question_len + 11 && out[3] == 0x83 && out[7] == 0, "an empty answer");
  n = dns_answer_ptr(&q, "a.bc", 9, out);
  check(n > 0 && memcmp(out + 12 + q.question_len + 12, "\1a\2bc\0", 6) == 0 &&
            out[12 + q.question_len + 11] == 6,
        "a name is answered");
  bool good = true;
  for (size_t cut = 0; cut < len - 11; cut++) {
    uint8_t *copy = tight(msg, cut);
    good = good && !dns_parse(copy, cut, &q);
    free(copy);
  }
  check(good, "a cut question is refused at every length");
  char name[300] = "";
  for (int i = 0; i < 127; i++)
    strcat(name, i < 126 ? "a." : "a");
  len = make_query(msg, name, DNS_A, true);
  good = dns_parse(msg, len, &q) && strlen(q.name) == DNS_NAME_MAX &&
         dns_answer_ptr(&q, name, 1, out) <= DNS_ANSWER_MAX;
  strcat(name, ".a");
  len = make_query(msg, name, DNS_A, false);
  check(good && !dns_parse(msg, len, &q), "the longest name, and one that is longer");
  len = make_query(msg, "a.b", DNS_A, false);
  msg[12] = 0xc0;
  good = !dns_parse(msg, len, &q);
  msg[12] = 64;
  good = good && !dns_parse(msg, len, &q);
  msg[12] = 1;
  msg[13] = 0;
  good = good && dns_parse(msg, len, &q) && !q.text;
  msg[13] = 'a';
  msg[2] = 0x81;
  good = good && !dns_parse(msg, len, &q);
  msg[2] = 1;
  msg[5] = 2;
  check(good && !dns_parse(msg, len, &q), "pointers, odd labels, odd bytes, answers and two questions");
  uint32_t a;
  check(dns_reverse_name("4.3.2.1.in-addr.arpa", &a) && a == 0x01020304u &&
            !dns_reverse_name("4.3.2.256.in-addr.arpa", &a) && !dns_reverse_name("3.2.1.in-addr.arpa", &a) &&
            !dns_reverse_name("4.3.2.1.in-addr.arpa.x", &a) && !dns_reverse_name("", &a) &&
            !dns_reverse_name("4444.3.2.1.in-addr.arpa", &a),
        "reverse names");
}

static void test_namemap(void) {
  namemap *m = namemap_new();
  uint32_t a = namemap_address(m, "a.example"), b = namemap_address(m, "b.example");
  bool good = a != b && namemap_is_ours(a) && namemap_address(m, "a.example") == a &&
              strcmp(namemap_name(m, a), "a.example") == 0 && namemap_name(m, b + 1) == NULL &&
              namemap_name(m, 0x08080808u) == NULL && namemap_name(NULL, a) == NULL;
  check(good, "names have addresses of their own");
  char name[32];
  for (unsigned i = 0; i < NAMEMAP_COUNT + 10; i++) {
    snprintf(name, sizeof name, "n%u.example", i);
    uint32_t at = namemap_address(m, name);
    good = good && namemap_is_ours(at) && strcmp(namemap_name(m, at), name) == 0;
    /* Its address does not lead to another name before it has gone round. */
    if (i == NAMEMAP_NAMES) good = good && namemap_name(m, a) == NULL;
  }
  check(good, "forgotten names leave no address behind that means another");
  namemap_free(m);
}

/* ---- ClientHello ---- */

static size_t make_hello(uint8_t *out, const char *name, size_t split) {
  uint8_t body[512], *p = body;
  *p++ = 3;
  *p++ = 3;
  memset(p, 7, 32);
  p += 32;
  *p++ = 0;
  const uint8_t suites[] = {0, 2, 0xc0, 0x2b, 1, 0};
  memcpy(p, suites, sizeof suites);
  p += sizeof suites;
  uint8_t *ext = p;
  p += 2;
  const uint8_t other[] = {0, 10, 0, 4, 0, 2, 0, 23};
  memcpy(p, other, sizeof other);
  p += sizeof other;
  if (name != NULL) {
    size_t n = strlen(name);
    const uint8_t sni[] = {0,
                           0,
                           (uint8_t)((n + 5) >> 8),
                           (uint8_t)(n + 5),
                           (uint8_t)((n + 3) >> 8),
                           (uint8_t)(n + 3),
                           0,
                           (uint8_t)(n >> 8),
                           (uint8_t)n};
    memcpy(p, sni, sizeof sni);
    p += sizeof sni;
    memcpy(p, name, n);
    p += n;
  }
  size_t ext_len = (size_t)(p - ext - 2);
  ext[0] = (uint8_t)(ext_len >> 8);
  ext[1] = (uint8_t)ext_len;
  size_t len = (size_t)(p - body), at = 0;
  uint8_t whole[600] = {1, 0, (uint8_t)(len >> 8), (uint8_t)len};
  memcpy(whole + 4, body, len);
  len += 4;
  uint8_t *o = out;
  while (at < len) {
    size_t n = len - at < split ? len - at : split;
    const uint8_t head[] = {22, 3, 1, (uint8_t)(n >> 8), (uint8_t)n};
    memcpy(o, head, 5);
    memcpy(o + 5, whole + at, n);
    o += 5 + n;
    at += n;
  }
  return (size_t)(o - out);
}

static void test_hello(void) {
  uint8_t data[4096];
  char name[HELLO_NAME_MAX + 1];
  bool good = true;
  for (size_t split = 1; split < 200; split += split < 8 ? 1 : 37) {
    size_t len = make_hello(data, "API.Example.com.", split);
    for (size_t cut = 1; cut <= len; cut++) {
      uint8_t *copy = tight(data, cut);
      hello_result r = hello_peek(copy, cut, name);
      free(copy);
      good = good && r == (cut < len ? HELLO_MORE : HELLO_OK);
    }
    good = good && strcmp(name, "api.example.com") == 0;
  }
  check(good, "the name of a hello in records of every size, cut everywhere");
  size_t len = make_hello(data, NULL, 500);
  check(hello_peek(data, len, name) == HELLO_OK && name[0] == '\0', "a hello without a name");
  good = true;
  static const char *const bad[] = {"a b", "a/b", "a\xc3\xa9", ""};
  for (size_t i = 0; i < 4; i++) {
    len = make_hello(data, bad[i], 500);
    good = good && hello_peek(data, len, name) == HELLO_BAD;
  }
  check(good, "names that are none");
  check(hello_peek((const uint8_t *)"GET / HTTP/1.1", 14, name) == HELLO_NOT_TLS &&
            hello_peek((const uint8_t *)"\x16\x02\x00", 3, name) == HELLO_NOT_TLS &&
            hello_peek((const uint8_t *)"\x16\x03\x01\x00\x00", 5, name) == HELLO_BAD &&
            hello_peek((const uint8_t *)"\x16\x03\x01\xff\xff", 5, name) == HELLO_BAD &&
            hello_peek((const uint8_t *)"\x16\x03\x01\x00\x04\x02\x00\x00\x00", 9, name) == HELLO_BAD,
        "what is no hello");
  /* Any one byte changed: an answer, and nothing read beyond. */
  len = make_hello(data, "api.example.com", 60);
  for (size_t i = 0; i < len; i++)
    for (unsigned v = 0; v < 256; v += 5) {
      uint8_t *copy = tight(data, len);
      copy[i] = (uint8_t)v;
      (void)hello_peek(copy, len, name);
      free(copy);
    }
  check(true, "a hello with any byte changed is read within its bounds");
}

/* ---- HTTP ---- */

static http_result request(const char *text, http_head *h) {
  size_t used;
  const char *why;
  /* Kept: the head points into it. */
  static char *last;
  free(last);
  last = (char *)tight(text, strlen(text));
  return http_request(last, strlen(text), h, &used, &why);
}

static void test_http_heads(void) {
  http_head h;
  check(request("POST /a?b HTTP/1.1\r\nHost: x.y\r\ncontent-length: 12\r\nX:  v \r\n\r\n", &h) == HTTP1_OK &&
            http_is(h.method, "POST") && http_is(h.target, "/a?b") && http_is(h.host, "x.y") &&
            h.framing == BODY_LENGTH && h.length == 12 && h.keep_alive && h.minor == 1 &&
            http_is(http_find(&h, "x")->value, "v") && h.count == 3,
        "a request");
  check(request("GET / HTTP/1.0\r\n\r\n", &h) == HTTP1_OK && !h.keep_alive && h.host.n == 0 &&
            request("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", &h) == HTTP1_OK && h.keep_alive &&
            request("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n", &h) == HTTP1_OK &&
            !h.keep_alive,
        "versions and their connections");
  check(
      request("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n",
              &h) == HTTP1_OK &&
          h.websocket && request("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", &h) == HTTP1_OK &&
          !h.websocket,
      "websocket");
  check(request("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", &h) ==
                HTTP1_OK &&
            h.expect &&
            request("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n", &h) == HTTP1_OK && !h.expect,
        "expect");
  static const char *const bad[] = {
      "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 2\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n",
      "GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\n Transfer-Encoding: chunked\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
      "GET / HTTP/1.1\nHost: a\n\n",
      "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\nX: a\x01"
      "b\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
      "GET / HTTP/1.1\r\nHost:\r\n\r\n",
      "GET / HTTP/1.1\r\n\r\n",
      "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
      "GET / HTTP/1.10\r\nHost: a\r\n\r\n",
      "GET / http/1.1\r\nHost: a\r\n\r\n",
      "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
      "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
      " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
      "GET /\r\nHost: a\r\n\r\n",
      "G\xc3T / HTTP/1.1\r\nHost: a\r\n\r\n",
      "GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
      "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
  };
  bool good = true;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    if (request(bad[i], &h) != HTTP1_BAD) good = (printf("# passes: %s\n", bad[i]), false);
  check(good, "requests that two readers could take differently are refused");
  const char *whole = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
  good = true;
  for (size_t cut = 0; cut < strlen(whole); cut++) {
    char *copy = (char *)tight(whole, cut);
    size_t used;
    const char *why;
    good = good && http_request(copy, cut, &h, &used, &why) == HTTP1_MORE;
    free(copy);
  }
  check(good, "a cut head waits for more");
  char *large = malloc(HTTP_HEAD_MAX + 10);
  if (large == NULL) abort();
  memset(large, 'a', HTTP_HEAD_MAX + 10);
  size_t used;
  const char *why;
  check(http_request(large, HTTP_HEAD_MAX - 1, &h, &used, &why) == HTTP1_MORE &&
            http_request(large, HTTP_HEAD_MAX, &h, &used, &why) == HTTP1_BAD,
        "a head has an end");
  free(large);
  char many[8192] = "GET / HTTP/1.1\r\nHost: a\r\n";
  for (unsigned i = 1; i < HTTP_FIELDS_MAX; i++)
    strcat(many, "a: b\r\n");
  size_t at = strlen(many);
  strcpy(many + at, "\r\n");
  good = request(many, &h) == HTTP1_OK && h.count == HTTP_FIELDS_MAX;
  strcpy(many + at, "a: b\r\n\r\n");
  check(good && request(many, &h) == HTTP1_BAD, "and so have its fields");
  const char *answer =
      "HTTP/1.1 200\r\nConnection: X-Hop\r\nX-Hop: 1\r\nTE: x\r\nKeep-Alive: 5\r\nOther: 1\r\n\r\n";
  good = http_response(answer, strlen(answer), false, &h, &used, &why) == HTTP1_OK && h.status == 200 &&
         h.framing == BODY_TO_END && used == strlen(answer);
  unsigned hops = 0;
  for (size_t i = 0; i < h.count; i++)
    hops += http_hop_by_hop(&h, &h.fields[i]);
  check(good && hops == 4, "an answer, and the fields of its connection");
  answer = "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n";
  check(http_response(answer, strlen(answer), false, &h, &used, &why) == HTTP1_OK && h.framing == BODY_NONE &&
            http_response("HTTP/1.1 2x0 OK\r\n\r\n", 19, false, &h, &used, &why) == HTTP1_BAD &&
            http_response("HTTP/1.1 099 OK\r\n\r\n", 19, false, &h, &used, &why) == HTTP1_BAD &&
            http_response("ICY 200 OK\r\n\r\n", 14, false, &h, &used, &why) == HTTP1_BAD,
        "answers without a body, and what is no answer");
}

/* Reads a body in pieces of `step`; the data, or NULL when it is refused. Static room. */
static const char *read_body(http_framing framing, uint64_t length, const char *text, size_t step,
                             bool *done) {
  static char got[4096];
  size_t have = 0, len = strlen(text), at = 0;
  http_head h = {.framing = framing, .length = length};
  http_body b;
  http_body_start(&b, &h);
  while (at < len && !b.done) {
    size_t n = len - at < step ? len - at : step, data_len;
    char *copy = (char *)tight(text + at, n);
    const char *data;
    ptrdiff_t used = http_body_next(&b, copy, n, &data, &data_len);
    if (used >= 0) memcpy(got + have, data, data_len);
    free(copy);
    if (used < 0) return NULL;
    have += data_len;
    at += (size_t)used;
  }
  got[have] = '\0';
  *done = b.done;
  return got;
}

static void test_http_bodies(void) {
  const char *chunked = "5\r\nhello\r\n0A;x=\"y\"\r\n, world!!!\r\n0\r\nTrailer: x\r\n\r\nNEXT";
  bool good = true, done;
  for (size_t step = 1; step < 60; step++) {
    const char *got = read_body(BODY_CHUNKED, 0, chunked, step, &done);
    good = good && got != NULL && done && strcmp(got, "hello, world!!!") == 0;
  }
  check(good, "chunks in pieces of every size");
  for (size_t step = 1; step < 12; step++) {
    const char *got = read_body(BODY_LENGTH, 5, "helloNEXT", step, &done);
    good = good && got != NULL && done && strcmp(got, "hello") == 0;
    got = read_body(BODY_TO_END, 0, "to the end", step, &done);
    good = good && got != NULL && !done && strcmp(got, "to the end") == 0;
  }
  check(good, "a length, and to the end");
  static const char *const bad[] = {"\r\nx",           "g\r\n",
                                    "-1\r\n",          "5\nhello\r\n",
                                    "5\r\nhelloX\r\n", "5\r\nhello\n0\r\n",
                                    "5 x\n",           "1000000000000000\r\n",
                                    "0\r\nA\n",        "5\rhello",
                                    ";\r\n",           "0x5\r\nhello"};
  good = true;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    for (size_t step = 1; step < 20; step++)
      if (read_body(BODY_CHUNKED, 0, bad[i], step, &done) != NULL)
        good = (printf("# passes: %s\n", bad[i]), false);
  check(good, "chunks that are none");
  char *endless = malloc(HTTP_TRAIL_MAX + 100);
  if (endless == NULL) abort();
  memset(endless, 'x', HTTP_TRAIL_MAX + 99);
  endless[HTTP_TRAIL_MAX + 99] = '\0';
  memcpy(endless, "1;", 2);
  good = read_body(BODY_CHUNKED, 0, endless, 4096, &done) == NULL;
  memcpy(endless, "0\r\n", 3);
  check(good && read_body(BODY_CHUNKED, 0, endless, 4096, &done) == NULL,
        "extensions and trailers have an end");
  free(endless);
}

/* ---- certificates ---- */

static bool readable(const uint8_t *der, size_t len) {
  br_x509_decoder_context d;
  br_x509_decoder_init(&d, NULL, NULL);
  br_x509_decoder_push(&d, der, len);
  return br_x509_decoder_get_pkey(&d) != NULL;
}

static void test_certificates(void) {
  x509_key ca, leaf, again;
  uint8_t der[X509_CERT_MAX], small[X509_CERT_MAX];
  check(x509_key_make(&ca) && x509_key_make(&leaf) && x509_key_set(&again, ca.secret.x, ca.secret.xlen) &&
            again.public.qlen == 65 && memcmp(again.public.q, ca.public.q, 65) == 0 &&
            !x509_key_set(&again, ca.secret.x, 33) && !x509_key_set(&again, ca.secret.x, 0),
        "keys are made and read back");
  char host[254];
  memset(host, 'a', 253);
  host[253] = '\0';
  size_t n =
      x509_write(&(x509_spec){.subject = "",
                              .issuer = "an authority whose name is as long as a common name may be, 64 b.",
                              .subject_key = &leaf,
                              .issuer_key = &ca,
                              .name = host,
                              .from_s = 0,
                              .until_s = 4102444800},
                 der);
  check(n > 0 && readable(der, n), "the largest certificate fits");
  n = x509_write(&(x509_spec){.subject = "1.2.3.4",
                              .issuer = "i",
                              .subject_key = &leaf,
                              .issuer_key = &ca,
                              .name = "1.2.3.4",
                              .from_s = 1,
                              .until_s = 2},
                 small);
  check(n > 0 && readable(small, n) && memmem(small, n, "\x87\x04\x01\x02\x03\x04", 6) != NULL,
        "an address stands as an address");
  /* Signed by whom it says. */
  br_sha256_context sha;
  unsigned char hash[32];
  size_t tbs_len = 4 + ((size_t)small[6] << 8 | small[7]);
  br_sha256_init(&sha);
  br_sha256_update(&sha, small + 4, tbs_len);
  br_sha256_out(&sha, hash);
  const uint8_t *sig = small + 4 + tbs_len + 12;
  size_t sig_len = (size_t)sig[1] - 1;
  check(small[4] == 0x30 && small[5] == 0x82 && sig[0] == 3 &&
            br_ecdsa_i31_vrfy_asn1(br_ec_get_default(), hash, 32, &ca.public, sig + 3, sig_len) == 1 &&
            br_ecdsa_i31_vrfy_asn1(br_ec_get_default(), hash, 32, &leaf.public, sig + 3, sig_len) == 0,
        "the signature is the authority's");
}

/* ---- PEM ---- */

static bool log_object(void *arg, const csn_buf *der) {
  csn_buf_add(arg, der->p, der->len);
  csn_buf_str(arg, ";");
  return true;
}

static bool first_object(void *arg, const csn_buf *der) {
  csn_buf_add(arg, der->p, der->len);
  return false;
}

static void test_pem(void) {
  static const char text[] = "words before\n-----BEGIN A-----\nb25l\n-----END A-----\n"
                             "-----BEGIN B-----\nbm90\n-----END B-----\n"
                             "-----BEGIN A-----\nb2*l\n-----END A-----\n"
                             "-----BEGIN A-----\ndHdv\n-----END A-----\n"
                             "-----BEGIN A-----\ndGhyZWU=\n-----END A-----";
  csn_buf in = {0}, got = {0};
  csn_buf_str(&in, text);
  pem_each(&in, "A", log_object, &got);
  check(strcmp(csn_buf_cstr(&got), "one;two;three;") == 0,
        "PEM: all of a name, without what is malformed, and a last line without its end");
  got.len = 0;
  pem_each(&in, "A", first_object, &got);
  check(strcmp(csn_buf_cstr(&got), "one") == 0, "PEM: the first is enough");
  got.len = in.len = 0;
  pem_each(&in, "A", log_object, &got);
  csn_buf_str(&in, "-----BEGIN A-----\nb25l\n");
  pem_each(&in, "A", log_object, &got);
  check(got.len == 0, "PEM: nothing, and an object without its end");
  char name[] = "/tmp/caisson-pem-XXXXXX";
  int fd = mkstemp(name);
  check(fd >= 0 && write(fd, text, sizeof text - 1) == (ssize_t)sizeof text - 1 &&
            pem_file(AT_FDCWD, name, sizeof text - 1, &got) && got.len == sizeof text - 1,
        "PEM: a file of as many bytes as there may be");
  got.len = 0;
  check(!pem_file(AT_FDCWD, name, sizeof text - 2, &got) && errno == EFBIG, "PEM: a file of one more");
  close(fd);
  unlink(name);
  check(!pem_file(AT_FDCWD, name, sizeof text, &got) && errno == ENOENT, "PEM: no file");
  csn_buf_free(&in);
  csn_buf_free(&got);
}

int main(void) {
  test_addresses();
  test_packets();
  test_dns();
  test_namemap();
  test_hello();
  test_http_heads();
  test_http_bodies();
  test_certificates();
  test_pem();
  return done();
}
