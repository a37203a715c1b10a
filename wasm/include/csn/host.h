/* csn/host.h - host names, addresses and ports as a policy sees them: one spelling for each.
 *
 * Input:  hostile text: names from a policy, from a request line, a Host header or a TLS ClientHello.
 * Output: a csn_host; two texts that mean the same host give equal values.
 * Memory: values only.
 * Errors: CSN_ERR_BAD_VALUE for what is no host. What a resolver might read in two ways is no host.
 *
 * Names:     RFC 1123 letters, digits and hyphens, plus the underscore that is found in practice; lower case;
 *            one trailing dot is dropped. A name in another script is written in its ASCII form (xn--...).
 * Addresses: IPv4 in every form that inet_aton and the WHATWG URL parser take (decimal, octal, hexadecimal,
 *            one to four parts), IPv6 by RFC 4291 with or without brackets, no zone. A name whose last label
 *            is a number is an address or nothing, as in the URL standard: 1.2.3.4.5 cannot pass as a name.
 */
#ifndef CSN_HOST_H
#define CSN_HOST_H

#include "csn/base.h"

#define CSN_HOST_MAX      253u /* bytes: a name without the trailing dot, RFC 1035 */
#define CSN_HOST_TEXT_MAX 48u  /* bytes: an address as csn_addr_text writes it */

/* IPv4 a.b.c.d is held as ::ffff:a.b.c.d, so a v4-mapped address cannot pass a rule for IPv4. */
typedef struct csn_addr {
  uint8_t bytes[16]; /* network order */
} csn_addr;

typedef struct csn_host {
  bool is_addr;
  csn_addr addr; /* when is_addr */
  uint32_t len;  /* bytes of name; 0 when is_addr */
  uint8_t name[CSN_HOST_MAX];
} csn_host;

/* What an address is for, RFC 6890 and its registries. Addresses that carry an IPv4 address inside (NAT64
 * 64:ff9b::/96, 6to4 2002::/16, the deprecated ::a.b.c.d) are what the inner address is. */
typedef enum csn_addr_class {
  CSN_ADDR_PUBLIC,
  CSN_ADDR_PRIVATE,    /* 10/8, 172.16/12, 192.168/16, 100.64/10 */
  CSN_ADDR_LOOPBACK,   /* 127/8, ::1 */
  CSN_ADDR_LINK_LOCAL, /* 169.254/16, fe80::/10 */
  CSN_ADDR_METADATA,   /* 169.254.169.254, 169.254.170.2, fd00:ec2::254, 100.100.100.200, 168.63.129.16 */
  CSN_ADDR_ULA,        /* fc00::/7, fec0::/10 */
  CSN_ADDR_MULTICAST,  /* 224/4, ff00::/8 */
  CSN_ADDR_RESERVED /* 0/8, 192.0.0/24, documentation, benchmarks, 240/4, broadcast, ::, other special blocks
                     */
} csn_addr_class;

/* A host without a port; `[v6]` and bare v6 both. */
csn_err csn_host_parse(csn_span text, csn_host *out);
/* `host`, `host:port`, `[v6]:port`, bare v6. *port is 0 when none is given; port 0 is refused. */
csn_err csn_hostport_parse(csn_span text, csn_host *out, uint16_t *port);
/* Decimal digits, 1..65535, at most five of them. */
csn_err csn_port_parse(csn_span text, uint16_t *out);
/* `address/bits`, or an address alone for the longest prefix. Bits are of 128 in *bits, also for IPv4 (+96).
 * Bits set behind the prefix are CSN_ERR_BAD_VALUE: 10.1.2.3/8 is a slip, and guessing could widen it. */
csn_err csn_cidr_parse(csn_span text, csn_addr *out, uint8_t *bits);
bool csn_addr_within(const csn_addr *addr, const csn_addr *net, uint8_t bits);
bool csn_addr_is_v4(const csn_addr *addr);
csn_addr_class csn_addr_classify(const csn_addr *addr);
/* The same, and in *bits, of 128, the prefix of the special block that the address lies in (the smallest one:
 * 169.254.169.254/32, not 169.254.0.0/16; of an IPv4 address inside another one, with what stands before it);
 * 0 for a public address. */
csn_addr_class csn_addr_block(const csn_addr *addr, uint8_t *bits);
const char *csn_addr_class_text(csn_addr_class c);
/* RFC 5952 text, IPv4 as a.b.c.d. Returns its length; `out` has CSN_HOST_TEXT_MAX bytes. */
uint32_t csn_addr_text(const csn_addr *addr, uint8_t *out);
/* The host as text: name or address, IPv6 without brackets. `out` has CSN_HOST_MAX bytes. */
uint32_t csn_host_text(const csn_host *h, uint8_t *out);
bool csn_host_equal(const csn_host *a, const csn_host *b);

#endif
