/* engine/packet.c - see packet.h. RFC 791, 792, 768, 9293; checksums are updated as in RFC 1624. */
#include "packet.h"

#include <string.h>

#define VNET_LEN        10u
#define VNET_NEEDS_CSUM 1u

static unsigned get16(const uint8_t *p) {
  return (unsigned)p[0] << 8 | p[1];
}

static uint32_t get32(const uint8_t *p) {
  return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put16(uint8_t *p, unsigned v) {
  p[0] = (uint8_t)(v >> 8);
  p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v) {
  put16(p, v >> 16);
  put16(p + 2, v & 0xffff);
}

bool packet_parse(uint8_t *frame, size_t len, packet *out) {
  if (len < PACKET_FRONT + 20) return false;
  uint8_t *ip = frame + PACKET_FRONT;
  size_t have = len - PACKET_FRONT, head = (size_t)(ip[0] & 15) * 4, total = get16(ip + 2);
  if (ip[0] >> 4 != 4 || head < 20 || total < head || total > have) return false;
  /* More fragments, or not the first: there are no ports to read. */
  if ((get16(ip + 6) & 0x3fff) != 0) return false;
  packet p = {.frame = frame,
              .frame_len = PACKET_FRONT + total,
              .ip = ip,
              .ip_len = total,
              .head_len = head,
              .protocol = ip[9],
              .src = get32(ip + 12),
              .dst = get32(ip + 16),
              .partial = (frame[0] & VNET_NEEDS_CSUM) != 0};
  const uint8_t *l4 = ip + head;
  size_t l4_len = total - head;
  if (p.protocol == PACKET_TCP) {
    if (l4_len < 20) return false;
    size_t offset = (size_t)(l4[12] >> 4) * 4;
    if (offset < 20 || offset > l4_len) return false;
    p.flags = l4[13];
    p.payload = l4 + offset;
    p.payload_len = l4_len - offset;
  } else if (p.protocol == PACKET_UDP) {
    if (l4_len < 8) return false;
    size_t udp_len = get16(l4 + 4);
    if (udp_len < 8 || udp_len > l4_len) return false;
    p.payload = l4 + 8;
    p.payload_len = udp_len - 8;
  }
  if (p.payload != NULL) {
    p.sport = get16(l4);
    p.dport = get16(l4 + 2);
  }
  *out = p;
  return true;
}

static unsigned fold(uint32_t sum) {
  while (sum >> 16 != 0)
    sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

static uint32_t words(uint32_t v) {
  return (v >> 16) + (v & 0xffff);
}

/* The sum's change when `was` becomes `is`, in ones' complement. */
static uint32_t change(uint32_t was, uint32_t is) {
  return fold(words(is) + words(~was));
}

static uint32_t sum_bytes(const uint8_t *p, size_t len) {
  uint32_t sum = 0;
  for (size_t i = 0; i + 1 < len; i += 2)
    sum += get16(p + i);
  if (len % 2 != 0) sum += (uint32_t)p[len - 1] << 8;
  return fold(sum);
}

void packet_redirect(packet *p, uint32_t src, unsigned sport, uint32_t dst, unsigned dport) {
  uint8_t *l4 = p->ip + p->head_len;
  uint32_t hosts = change(p->src, src) + change(p->dst, dst);
  uint32_t ports = change(p->sport, sport) + change(p->dport, dport);
  put16(p->ip + 10, ~fold((~get16(p->ip + 10) & 0xffff) + hosts) & 0xffff);
  /* A partial one is the sum of the pseudo header, not yet complemented, and without the ports. */
  if (p->partial)
    put16(l4 + 16, fold(get16(l4 + 16) + hosts));
  else
    put16(l4 + 16, ~fold((~get16(l4 + 16) & 0xffff) + hosts + ports) & 0xffff);
  put32(p->ip + 12, src);
  put32(p->ip + 16, dst);
  put16(l4, sport);
  put16(l4 + 2, dport);
  p->src = src;
  p->dst = dst;
  p->sport = sport;
  p->dport = dport;
}

/* Everything in front of the transport header, back from where p went. Returns the IP header. */
static uint8_t *start_answer(const packet *p, uint8_t *out, uint8_t protocol, size_t l4_len) {
  memset(out, 0, PACKET_FRONT + 20);
  put16(out + VNET_LEN + 12, 0x0800);
  uint8_t *ip = out + PACKET_FRONT;
  ip[0] = 0x45;
  put16(ip + 2, (unsigned)(20 + l4_len));
  ip[8] = 64;
  ip[9] = protocol;
  put32(ip + 12, p->dst);
  put32(ip + 16, p->src);
  put16(ip + 10, ~sum_bytes(ip, 20) & 0xffff);
  return ip;
}

size_t packet_reset(const packet *p, uint8_t *out) {
  const uint8_t *in = p->ip + p->head_len;
  uint8_t *ip = start_answer(p, out, PACKET_TCP, 20), *tcp = ip + 20;
  memset(tcp, 0, 20);
  put16(tcp, p->dport);
  put16(tcp + 2, p->sport);
  tcp[12] = 5 << 4;
  if ((p->flags & PACKET_ACK) != 0) {
    put32(tcp + 4, get32(in + 8));
    tcp[13] = PACKET_RST;
  } else {
    uint32_t used =
        (uint32_t)p->payload_len + ((p->flags & PACKET_SYN) != 0) + ((p->flags & PACKET_FIN) != 0);
    put32(tcp + 8, get32(in + 4) + used);
    tcp[13] = PACKET_RST | PACKET_ACK;
  }
  uint32_t sum = words(p->dst) + words(p->src) + PACKET_TCP + 20 + sum_bytes(tcp, 20);
  put16(tcp + 16, ~fold(sum) & 0xffff);
  return PACKET_FRONT + 40;
}

size_t packet_unreachable(const packet *p, unsigned code, uint8_t *out) {
  size_t quoted = p->head_len + 8 < p->ip_len ? p->head_len + 8 : p->ip_len;
  uint8_t *ip = start_answer(p, out, PACKET_ICMP, 8 + quoted), *icmp = ip + 20;
  memset(icmp, 0, 8);
  icmp[0] = 3;
  icmp[1] = (uint8_t)code;
  memcpy(icmp + 8, p->ip, quoted);
  put16(icmp + 2, ~sum_bytes(icmp, 8 + quoted) & 0xffff);
  return PACKET_FRONT + 20 + 8 + quoted;
}

size_t packet_udp_answer(const packet *p, const void *data, size_t len, uint8_t *out, size_t cap) {
  size_t all = PACKET_FRONT + 20 + 8 + len;
  if (all > cap || all > PACKET_FRAME_MAX) return 0;
  uint8_t *ip = start_answer(p, out, PACKET_UDP, 8 + len), *udp = ip + 20;
  put16(udp, p->dport);
  put16(udp + 2, p->sport);
  put16(udp + 4, (unsigned)(8 + len));
  put16(udp + 6, 0); /* no checksum: nothing between here and the reader can damage it */
  memcpy(udp + 8, data, len);
  return all;
}
