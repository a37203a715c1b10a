/* engine/netns.c - the network namespace of a sandbox, made by the launcher before anything of it runs.
 *
 * Loopback only, and everything leads to it: net.c tells why. */
#define _GNU_SOURCE
#include "egress.h"

#include "../common/link.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

#define QUEUE_BYTES (8 * 1024 * 1024) /* of packets that wait for the engine */
#define SOCKET_BYTES                                                                                         \
  (256 * 1024)         /* each way of an accepted connection: bounds what one can have in that queue */
#define DST_OFFSET 30u /* of the destination, behind the Ethernet header */

static void set_sysctl(const char *path, const char *value) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  ssize_t n = write(fd, value, strlen(value));
  (void)n;
  close(fd);
}

static void set_address(struct ifreq *ifr, uint32_t address) {
  const struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(address)};
  memcpy(&ifr->ifr_addr, &a, sizeof a);
}

static const char *raise_loopback(int fd) {
  struct ifreq ifr = {.ifr_flags = IFF_UP | IFF_RUNNING};
  strcpy(ifr.ifr_name, "lo");
  if (ioctl(fd, SIOCSIFFLAGS, &ifr) != 0) return "raise loopback";
  memset(&ifr, 0, sizeof ifr);
  strcpy(ifr.ifr_name, "lo:1");
  set_address(&ifr, NET_SELF);
  if (ioctl(fd, SIOCSIFADDR, &ifr) != 0) return "give loopback an address";
  set_address(&ifr, 0xffffffffu);
  if (ioctl(fd, SIOCSIFNETMASK, &ifr) != 0) return "give loopback a netmask";
  struct rtentry route = {.rt_flags = RTF_UP, .rt_dev = (char[]){"lo"}};
  route.rt_dst.sa_family = route.rt_genmask.sa_family = AF_INET;
  if (ioctl(fd, SIOCADDRT, &route) != 0) return "set the default route";
  return NULL;
}

/* A socket that gets every IPv4 packet on loopback that is for another address than the sandbox's own. */
static const char *open_packets(int *out) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, DST_OFFSET),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NET_SELF, 3, 0),
      BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xff000000u),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x7f000000u, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, 0x40000),
      BPF_STMT(BPF_RET | BPF_K, 0),
  };
  const struct sock_fprog filter = {.len = sizeof code / sizeof code[0], .filter = code};
  const struct sockaddr_ll lo = {
      .sll_family = AF_PACKET, .sll_protocol = htons(ETHERTYPE_IP), .sll_ifindex = (int)if_nametoindex("lo")};
  int one = 1, queue = QUEUE_BYTES;
  /* Protocol 0: it gets nothing until it is bound, and the filter is there by then. */
  int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
  if (fd < 0) return "open a packet socket";
  *out = fd;
  if (setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one) != 0 ||
      setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) != 0 ||
      setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) != 0)
    return "set up a packet socket (Linux 4.20 or newer is needed)";
  /* As much as is allowed: packets that find no room are sent again, which costs time. */
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &queue, sizeof queue) != 0)
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &queue, sizeof queue);
  if (bind(fd, (const struct sockaddr *)&lo, sizeof lo) != 0) return "bind a packet socket";
  return NULL;
}

static const char *open_listener(int fd) {
  const struct sockaddr_in a = {
      .sin_family = AF_INET, .sin_port = htons(NET_PORT), .sin_addr.s_addr = htonl(NET_SELF)};
  int size = SOCKET_BYTES, one = 1;
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(fd, (const struct sockaddr *)&a, sizeof a) != 0 || listen(fd, 1024) != 0) return "listen";
  return NULL;
}

const char *netns_make(int link) {
  int packets = -1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0) return "open a socket";
  const char *wrong = raise_loopback(listener);
  if (wrong == NULL) wrong = open_packets(&packets);
  if (wrong == NULL) wrong = open_listener(listener);
  if (wrong == NULL && (csn_link_send(link, CSN_LINK_PACKETS, 0, 0, 0, packets) != 0 ||
                        csn_link_send(link, CSN_LINK_EGRESS, 0, NET_PORT, 0, listener) != 0))
    wrong = "hand over the sockets";
  if (packets >= 0) close(packets);
  close(listener);
  /* Programs in a sandbox expect to be able to use the small ports, as in a container. */
  set_sysctl("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
  /* A program that bound 127.0.0.1 and connects to the outside is to be told no, too. */
  set_sysctl("/proc/sys/net/ipv4/conf/lo/route_localnet", "1");
  return wrong;
}
