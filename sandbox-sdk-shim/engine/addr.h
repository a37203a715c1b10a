/* engine/addr.h - IP addresses and networks, and which of them are the internet. Pure.
 *
 * One form for both families: 16 bytes, IPv4 as ::ffff:a.b.c.d. A rule for an IPv4 address thus also
 * covers its v4-mapped spelling. */
#ifndef CAISSON_ENGINE_ADDR_H
#define CAISSON_ENGINE_ADDR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define IP_TEXT_MAX 46 /* with the NUL */

typedef struct ip_addr {
  uint8_t b[16]; /* network order */
} ip_addr;

/* ADDRESS[/BITS], then optionally :PORT. */
typedef struct ip_net {
  ip_addr addr;
  unsigned bits; /* 0..128, counted in the 16-byte form */
  unsigned port; /* 0: any */
} ip_net;

ip_addr ip_from_v4(uint32_t host_order);
bool ip_is_v4(const ip_addr *a);
/* Host order; only of an IPv4 address. */
uint32_t ip_v4(const ip_addr *a);
bool ip_equal(const ip_addr *a, const ip_addr *b);
/* A dotted quad of four decimal numbers, or IPv6 with or without brackets; nothing else, in particular none
 * of the other spellings that inet_aton takes. */
bool ip_parse(const char *text, ip_addr *out);
/* IPv6 comes without brackets. */
void ip_format(const ip_addr *a, char out[IP_TEXT_MAX]);
bool ip_from_sockaddr(const struct sockaddr *sa, ip_addr *out);
socklen_t ip_to_sockaddr(const ip_addr *a, unsigned port, struct sockaddr_storage *out);

/* Whether it is an address of the public internet: false for private, shared, loopback, link-local (which
 * holds the metadata services), unique-local, documentation, benchmark, multicast and reserved ranges, in
 * every form that carries an IPv4 address inside an IPv6 one. */
bool ip_public(const ip_addr *a);

/* "10.0.0.0/8", "127.0.0.1:8443", "[fd00::1]:80", "fd00::/8". Bits beyond the prefix must be 0. */
bool ip_net_parse(const char *text, ip_net *out);
bool ip_net_has(const ip_net *net, const ip_addr *a, unsigned port);

#endif
