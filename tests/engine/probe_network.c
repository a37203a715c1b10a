/* tests/engine/probe_network.c - addresses that are not the sandbox's, and sockets that see more than it may.
 *
 * A connection that is accepted is no escape by itself: outbound requests are answered by the engine. What
 * counts is whether a server of the host was reached, so those say HOST-SECRET to whoever connects. */
#define _GNU_SOURCE
#include "probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static int outcome(long rc) {
  return rc >= 0 ? 0 : errno;
}

/* "address/port" to a socket address. */
static socklen_t parse(const char *item, struct sockaddr_storage *out) {
  char host[64];
  const char *slash = strrchr(item, '/');
  if (slash == NULL || (size_t)(slash - item) >= sizeof host) return 0;
  memcpy(host, item, (size_t)(slash - item));
  host[slash - item] = '\0';
  memset(out, 0, sizeof *out);
  struct sockaddr_in *v4 = (struct sockaddr_in *)out;
  struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
  in_port_t port = htons((uint16_t)atoi(slash + 1));
  if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = port;
    return sizeof *v4;
  }
  if (inet_pton(AF_INET6, host, &v6->sin6_addr) != 1) return 0;
  v6->sin6_family = AF_INET6;
  v6->sin6_port = port;
  return sizeof *v6;
}

static int listen_to(int fd) {
  static const char ask[] = "GET / HTTP/1.0\r\nHost: probe\r\n\r\n";
  (void)!write(fd, ask, sizeof ask - 1);
  char text[512];
  size_t have = 0;
  struct pollfd p = {fd, POLLIN, 0};
  while (have < sizeof text - 1 && poll(&p, 1, 1000) > 0) {
    ssize_t n = read(fd, text + have, sizeof text - 1 - have);
    if (n <= 0) break;
    have += (size_t)n;
  }
  text[have] = '\0';
  return strstr(text, "HOST-SECRET") != NULL ? 0 : ECONNREFUSED;
}

static int connect_one(const char *item) {
  struct sockaddr_storage a;
  socklen_t len = parse(item, &a);
  int fd = socket(a.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (len == 0 || fd < 0) return len == 0 ? 0 : errno;
  int err = 0;
  if (connect(fd, (struct sockaddr *)&a, len) != 0) {
    struct pollfd p = {fd, POLLOUT, 0};
    socklen_t n = sizeof err;
    if (errno != EINPROGRESS) {
      err = errno;
    } else if (poll(&p, 1, 1000) == 0) {
      err = ETIMEDOUT;
    } else {
      getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &n);
    }
  }
  if (err == 0) err = listen_to(fd);
  close(fd);
  return err;
}
/* PROBE_TCP: address/port of servers of the host, of other sandboxes, and of nobody. */
static int try_tcp(void) {
  return each_item("PROBE_TCP", connect_one);
}

static int send_one(const char *item) {
  struct sockaddr_storage a;
  socklen_t len = parse(item, &a);
  int fd = socket(a.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (len == 0 || fd < 0) return len == 0 ? 0 : errno;
  /* Whether it arrived is for the test to see. */
  if (sendto(fd, "PROBE", 5, 0, (struct sockaddr *)&a, len) < 0) return errno;
  int err = EAGAIN;
  struct pollfd p = {fd, POLLIN, 0};
  char text[32] = "";
  if (poll(&p, 1, 300) > 0 && recv(fd, text, sizeof text - 1, 0) > 0 && strstr(text, "HOST-SECRET") != NULL)
    err = 0;
  close(fd);
  return err;
}
static int try_udp(void) {
  return each_item("PROBE_UDP", send_one);
}

static int abstract_one(const char *item) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  size_t n = strlen(item);
  memcpy(a.sun_path + 1, item, n);
  return outcome(
      connect(fd, (struct sockaddr *)&a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n)));
}
/* PROBE_ABSTRACT: names of sockets that the host has without a file. */
static int try_abstract(void) {
  return each_item("PROBE_ABSTRACT", abstract_one);
}

static int unix_one(const char *item) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  snprintf(a.sun_path, sizeof a.sun_path, "%s", item);
  return outcome(connect(fd, (struct sockaddr *)&a, sizeof a));
}
static int try_unix(void) {
  return each_item("PROBE_UNIX", unix_one);
}

static int socket_of(int family, int type, int protocol) {
  int fd = socket(family, type, protocol);
  if (fd < 0) return errno;
  snprintf(probe_detail, sizeof probe_detail, "family %d type %d protocol %d", family, type, protocol);
  close(fd);
  return 0;
}

static int try_raw(void) {
  return socket_of(AF_INET, SOCK_RAW, IPPROTO_ICMP);
}
static int try_raw6(void) {
  return socket_of(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6);
}
static int try_packet(void) {
  return socket_of(AF_PACKET, SOCK_RAW, 0x300);
}

/* Families that a network namespace does not confine, or that only widen the kernel's surface. */
static int try_families(void) {
  int last = EAFNOSUPPORT;
  for (int family = 3; family < 64; family++) {
    if (family == AF_INET6 || family == AF_NETLINK) continue;
    for (int type = 1; type <= 5; type++) {
      last = socket_of(family, type, 0);
      if (last == 0) return 0;
    }
  }
  return last;
}

/* Netlink beyond routes, socket lists and device events. */
static int try_netlink_protocols(void) {
  int last = EPROTONOSUPPORT;
  for (int protocol = 1; protocol < 32; protocol++) {
    if (protocol == NETLINK_SOCK_DIAG || protocol == NETLINK_KOBJECT_UEVENT || protocol == NETLINK_GENERIC)
      continue;
    if ((last = socket_of(AF_NETLINK, SOCK_RAW, protocol)) == 0) return 0;
  }
  return last;
}

/* The kernel looks at the low half of the argument; a filter that looks at all of it is passed. */
static int try_family_high_bits(void) {
  return outcome(syscall(SYS_socket, (1ull << 32) | AF_ALG, SOCK_SEQPACKET, 0));
}

static int route_request(uint16_t type, uint16_t flags, const void *body, size_t len) {
  struct {
    struct nlmsghdr h;
    char body[128];
  } m = {.h = {(uint32_t)(NLMSG_HDRLEN + len), type, (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags), 1, 0}};
  memcpy(m.body, body, len);
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  if (fd < 0 || send(fd, &m, m.h.nlmsg_len, 0) < 0) return errno;
  char room[1024];
  ssize_t n = recv(fd, room, sizeof room, 0);
  close(fd);
  const struct nlmsghdr *h = (const struct nlmsghdr *)(const void *)room;
  if (n < (ssize_t)sizeof(struct nlmsghdr) + 4 || h->nlmsg_type != NLMSG_ERROR) return 0;
  int err = -((const struct nlmsgerr *)NLMSG_DATA(h))->error;
  return err;
}

static int try_new_link(void) {
  struct {
    struct ifinfomsg i;
    struct rtattr a;
    char kind[8];
  } body = {.i = {.ifi_family = AF_UNSPEC}, .a = {12, IFLA_IFNAME}, .kind = "probe0"};
  return route_request(RTM_NEWLINK, NLM_F_CREATE, &body, sizeof body);
}

static int try_new_address(void) {
  struct {
    struct ifaddrmsg i;
    struct rtattr a;
    uint32_t address;
  } body = {.i = {.ifa_family = AF_INET, .ifa_prefixlen = 32, .ifa_index = 1},
            .a = {8, IFA_LOCAL},
            .address = htonl(0x0a090807)};
  return route_request(RTM_NEWADDR, NLM_F_CREATE, &body, sizeof body);
}

static int try_new_route(void) {
  struct {
    struct rtmsg r;
    struct rtattr a;
    uint32_t index;
  } body = {.r = {.rtm_family = AF_INET,
                  .rtm_table = RT_TABLE_MAIN,
                  .rtm_protocol = RTPROT_STATIC,
                  .rtm_scope = RT_SCOPE_LINK,
                  .rtm_type = RTN_UNICAST},
            .a = {8, RTA_OIF},
            .index = 1};
  return route_request(RTM_NEWROUTE, NLM_F_CREATE, &body, sizeof body);
}

static int try_interface_flags(void) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  struct ifreq r = {0};
  strcpy(r.ifr_name, "lo");
  r.ifr_flags = 0;
  return outcome(ioctl(fd, SIOCSIFFLAGS, &r));
}

/* Only loopback, or what the engine put there; never the host's interfaces. */
static int try_host_interfaces(void) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  for (int index = 1; index < 64; index++) {
    struct ifreq r = {.ifr_ifindex = index};
    if (ioctl(fd, SIOCGIFNAME, &r) != 0) continue;
    const char *list = getenv("PROBE_INTERFACES");
    if (strcmp(r.ifr_name, "lo") != 0 && list != NULL && strstr(list, r.ifr_name) != NULL) {
      snprintf(probe_detail, sizeof probe_detail, "%s", r.ifr_name);
      return 0;
    }
  }
  return ENODEV;
}

const attempt network_attempts[] = {
    {"tcp", try_tcp},
    {"udp", try_udp},
    {"abstract-sockets", try_abstract},
    {"unix-sockets", try_unix},
    {"raw-socket", try_raw},
    {"raw-socket-v6", try_raw6},
    {"packet-socket", try_packet},
    {"socket-families", try_families},
    {"netlink-protocols", try_netlink_protocols},
    {"socket-family-high-bits", try_family_high_bits},
    {"new-interface", try_new_link},
    {"new-address", try_new_address},
    {"new-route", try_new_route},
    {"interface-down", try_interface_flags},
    {"host-interfaces", try_host_interfaces},
    {NULL, NULL},
};
