/* engine/packet.h - IPv4 packets as a packet socket hands them over: read, rewrite, answer. Pure.
 *
 * A frame is a virtio_net_hdr (PACKET_VNET_HDR), an Ethernet header and the packet. The headers in front tell
 * whether the transport checksum is complete; a rewritten frame keeps them as they are. */
#ifndef CAISSON_ENGINE_PACKET_H
#define CAISSON_ENGINE_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PACKET_FRONT      24u /* bytes before the IP header: 10 and 14 */
#define PACKET_FRAME_MAX  (PACKET_FRONT + 65535u)
#define PACKET_ANSWER_MAX (PACKET_FRONT + 96u) /* of a reset or an ICMP message */

enum { PACKET_TCP = 6, PACKET_UDP = 17, PACKET_ICMP = 1 };
enum { PACKET_FIN = 1, PACKET_SYN = 2, PACKET_RST = 4, PACKET_ACK = 16 };
enum { PACKET_UNREACH_HOST = 1, PACKET_UNREACH_PORT = 3, PACKET_UNREACH_FILTERED = 13 };

typedef struct packet {
  uint8_t *frame;
  size_t frame_len; /* up to the packet's end */
  uint8_t *ip;
  size_t ip_len;   /* total length */
  size_t head_len; /* of the IP header */
  uint8_t protocol;
  uint32_t src, dst;      /* host order */
  unsigned sport, dport;  /* TCP and UDP, else 0 */
  unsigned flags;         /* TCP */
  const uint8_t *payload; /* behind the TCP or UDP header */
  size_t payload_len;
  bool partial; /* the transport checksum covers the pseudo header only so far */
} packet;

/* false: not a whole, unfragmented IPv4 packet. */
bool packet_parse(uint8_t *frame, size_t len, packet *out);
/* Changes both ends of a TCP packet in place. */
void packet_redirect(packet *p, uint32_t src, unsigned sport, uint32_t dst, unsigned dport);
/* Write a frame that answers p, as from its destination; return its length. `out`: PACKET_ANSWER_MAX bytes.
 */
size_t packet_reset(const packet *p, uint8_t *out);
size_t packet_unreachable(const packet *p, unsigned code, uint8_t *out);
/* A UDP datagram in answer to p. 0 when it does not fit in cap. */
size_t packet_udp_answer(const packet *p, const void *data, size_t len, uint8_t *out, size_t cap);

#endif
