/* engine/addr.c - see addr.h. */
#define _GNU_SOURCE
#include "addr.h"

#include "engine.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

ip_addr ip_from_v4(uint32_t v) {
  ip_addr a;
  memcpy(a.b, mapped, 12);
  for (int i = 0; i < 4; i++)
    a.b[12 + i] = (uint8_t)(v >> (24 - 8 * i));
  return a;
}

bool ip_is_v4(const ip_addr *a) {
  return memcmp(a->b, mapped, 12) == 0;
}

static uint32_t word_at(const uint8_t *b) {
  return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

uint32_t ip_v4(const ip_addr *a) {
  return word_at(a->b + 12);
}

bool ip_equal(const ip_addr *a, const ip_addr *b) {
  return memcmp(a->b, b->b, 16) == 0;
}

bool ip_parse(const char *text, ip_addr *out) {
  struct in_addr v4;
  /* inet_pton takes four decimal numbers without leading zeros only. */
  if (inet_pton(AF_INET, text, &v4) == 1) {
    *out = ip_from_v4(ntohl(v4.s_addr));
    return true;
  }
  char room[IP_TEXT_MAX];
  size_t n = strlen(text);
  if (n >= 2 && text[0] == '[' && text[n - 1] == ']') {
    text++;
    n -= 2;
  }
  if (n >= sizeof room) return false;
  memcpy(room, text, n);
  room[n] = '\0';
  return inet_pton(AF_INET6, room, out->b) == 1;
}

void ip_format(const ip_addr *a, char out[IP_TEXT_MAX]) {
  if (ip_is_v4(a))
    inet_ntop(AF_INET, a->b + 12, out, IP_TEXT_MAX);
  else
    inet_ntop(AF_INET6, a->b, out, IP_TEXT_MAX);
}

bool ip_from_sockaddr(const struct sockaddr *sa, ip_addr *out) {
  if (sa->sa_family == AF_INET) {
    struct sockaddr_in a4;
    memcpy(&a4, sa, sizeof a4);
    *out = ip_from_v4(ntohl(a4.sin_addr.s_addr));
    return true;
  }
  if (sa->sa_family != AF_INET6) return false;
  struct sockaddr_in6 a6;
  memcpy(&a6, sa, sizeof a6);
  memcpy(out->b, &a6.sin6_addr, 16);
  return true;
}

socklen_t ip_to_sockaddr(const ip_addr *a, unsigned port, struct sockaddr_storage *out) {
  memset(out, 0, sizeof *out);
  if (ip_is_v4(a)) {
    struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a4.sin_addr.s_addr = htonl(ip_v4(a));
    memcpy(out, &a4, sizeof a4);
    return sizeof a4;
  }
  struct sockaddr_in6 a6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
  memcpy(&a6.sin6_addr, a->b, 16);
  memcpy(out, &a6, sizeof a6);
  return sizeof a6;
}

/* IANA's special-purpose registry for IPv4, and multicast and reserved space. */
static const struct {
  uint32_t net;
  unsigned bits;
} special_v4[] = {
    {0x00000000u, 8},  {0x0a000000u, 8},  {0x64400000u, 10}, {0x7f000000u, 8},  {0xa9fe0000u, 16},
    {0xac100000u, 12}, {0xc0000000u, 24}, {0xc0000200u, 24}, {0xc0586300u, 24}, {0xc0a80000u, 16},
    {0xc6120000u, 15}, {0xc6336400u, 24}, {0xcb007100u, 24}, {0xe0000000u, 3},
};

static bool public_v4(uint32_t v) {
  for (size_t i = 0; i < sizeof special_v4 / sizeof special_v4[0]; i++)
    if (((v ^ special_v4[i].net) >> (32 - special_v4[i].bits)) == 0) return false;
  return true;
}

bool ip_public(const ip_addr *a) {
  if (ip_is_v4(a)) return public_v4(ip_v4(a));
  uint32_t w0 = word_at(a->b), w1 = word_at(a->b + 4), w2 = word_at(a->b + 8);
  /* NAT64: the gateway connects to the IPv4 address inside. */
  if (w0 == 0x0064ff9bu && w1 == 0 && w2 == 0) return public_v4(word_at(a->b + 12));
  /* Global unicast is 2000::/3; everything else is special. */
  if (w0 >> 29 != 1) return false;
  /* 6to4 carries an IPv4 address, Teredo one that is obscured; the documentation ranges. */
  if (w0 >> 16 == 0x2002) return public_v4(w0 << 16 | w1 >> 16);
  if (w0 == 0x20010000u || w0 == 0x20010db8u || w0 >> 12 == 0x3fff0) return false;
  return true;
}

static bool bits_clear(const ip_addr *a, unsigned from) {
  for (unsigned bit = from; bit < 128; bit++)
    if ((a->b[bit / 8] >> (7 - bit % 8) & 1) != 0) return false;
  return true;
}

bool ip_net_parse(const char *text, ip_net *out) {
  char room[64];
  size_t n = strlen(text);
  ip_net net = {.bits = 128};
  if (n >= sizeof room) return false;
  memcpy(room, text, n + 1);
  char *colon = strrchr(room, ':');
  /* A colon is a port's when it is the only one, or when it follows the brackets. */
  if (colon != NULL && (strchr(room, ':') == colon || (room[0] == '[' && strchr(colon, ']') == NULL))) {
    *colon = '\0';
    if (!port_ok(colon + 1, &net.port)) return false;
  }
  char *slash = strchr(room, '/');
  if (slash != NULL) *slash = '\0';
  if (!ip_parse(room, &net.addr)) return false;
  if (slash != NULL) {
    unsigned top = strchr(room, ':') == NULL ? 32 : 128;
    char *end;
    unsigned long bits = strtoul(slash + 1, &end, 10);
    if (slash[1] < '0' || slash[1] > '9' || *end != '\0' || bits > top) return false;
    net.bits = (unsigned)bits + 128 - top;
    if (!bits_clear(&net.addr, net.bits)) return false;
  }
  *out = net;
  return true;
}

bool ip_net_has(const ip_net *net, const ip_addr *a, unsigned port) {
  if (net->port != 0 && net->port != port) return false;
  unsigned whole = net->bits / 8, rest = net->bits % 8;
  if (memcmp(net->addr.b, a->b, whole) != 0) return false;
  return rest == 0 || ((net->addr.b[whole] ^ a->b[whole]) >> (8 - rest)) == 0;
}
