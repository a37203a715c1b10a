/* engine/net.c - every packet that leaves a sandbox.
 *
 * The sandbox's network namespace has loopback only, with NET_SELF on it and a default route to it. A packet
 * for any other address runs round in loopback and would be dropped there, because it is for nobody. The
 * launcher has put a packet socket on loopback, which sees exactly these packets, and a listening socket;
 * both are here.
 *
 *   TCP   the packet is sent back in, rewritten so that the connection arrives at the listener: the kernel's
 * own TCP ends it there. Its answers leave in the same way and are rewritten so that they come from the
 * address that the program meant. DNS   is answered, whatever resolver was asked. else  is refused at once,
 * by a reset or an ICMP message.
 *
 * This needs no device, no netfilter and no right that an ordinary user does not have in a namespace of its
 * own. The packets are made by the sandbox's kernel, since nothing inside may open a raw socket; they are
 * checked as hostile all the same. */
#define _GNU_SOURCE
#include "egress.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUCKETS      256u
#define FLOWS_MAX    4096u /* at once, those that are ending included */
#define SYN_MAX      256u  /* bytes of a held first packet: headers with all options, no data */
#define PACKETS_TURN 64u   /* handled before other sandboxes get their turn */
#define TICK_S       5
#define ACCEPT_MS    20000 /* from admission to accept */
#define LINGER_MS    65000 /* a closed connection's last packets; the kernel forgets it after 60 s */
#define FIRST_PORT   1024u
#define LO_INDEX     1 /* in every network namespace */

typedef enum flow_state { FLOW_HELD, FLOW_OPEN, FLOW_ACCEPTED, FLOW_LINGER } flow_state;

struct flow {
  netns *net;
  flow_state state;
  uint32_t src, dst; /* as the program sees it */
  uint16_t sport, dport;
  uint16_t number; /* the port at NET_PEER that stands for it */
  int64_t since_ms;
  conn *conn;
  flow *by_number, *by_ends; /* chains */
  uint8_t *syn;              /* FLOW_HELD: the frame */
  size_t syn_len;
};

struct netns {
  sandbox *sb;
  int packets, listener;
  struct event *packet_ev, *accept_ev, *tick;
  flow *numbers[BUCKETS], *ends[BUCKETS];
  unsigned count;
  uint16_t next_number;
  dns_job *dns_jobs; /* of UDP questions that wait for an answer */
  unsigned dns_count;
};

/* ---- closing ---- */

/* Closing a packet socket waits until no processor looks at it any more, some 10 ms, which would be
 * everyone's. A thread that does nothing else does it. */
static int closer_fd = -1;

static void *closer(void *arg) {
  const int from = *(int *)arg;
  int fd;
  while (read(from, &fd, sizeof fd) == (ssize_t)sizeof fd)
    close(fd);
  return NULL;
}

static void close_elsewhere(int fd) {
  static int ends[2];
  if (closer_fd < 0 && pipe2(ends, O_CLOEXEC) == 0) {
    pthread_t id;
    pthread_attr_t attr;
    sigset_t all, old;
    /* Signals are the event loop's. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    /* The least is 128 KiB on arm64; less is refused, and the thread would get as much as a program. */
    const size_t least = (size_t)PTHREAD_STACK_MIN;
    pthread_attr_setstacksize(&attr, least > 65536 ? least : 65536);
    if (pthread_create(&id, &attr, closer, &ends[0]) == 0) closer_fd = ends[1];
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
  }
  if (closer_fd < 0 || write(closer_fd, &fd, sizeof fd) != (ssize_t)sizeof fd) close(fd);
}

/* ---- flows ---- */

static unsigned hash_ends(uint32_t src, uint32_t dst, unsigned sport, unsigned dport) {
  uint32_t h = (src ^ dst * 2654435761u) + sport * 40503u + dport;
  return (h ^ h >> 16 ^ h >> 8) % BUCKETS;
}

static flow *find_ends(netns *n, const packet *p) {
  flow *f = n->ends[hash_ends(p->src, p->dst, p->sport, p->dport)];
  while (f != NULL && (f->src != p->src || f->dst != p->dst || f->sport != p->sport || f->dport != p->dport))
    f = f->by_ends;
  return f;
}

static flow *find_number(netns *n, unsigned number) {
  flow *f = n->numbers[number % BUCKETS];
  while (f != NULL && f->number != number)
    f = f->by_number;
  return f;
}

static void forget(flow *f) {
  netns *n = f->net;
  flow **at = &n->numbers[f->number % BUCKETS];
  while (*at != f)
    at = &(*at)->by_number;
  *at = f->by_number;
  at = &n->ends[hash_ends(f->src, f->dst, f->sport, f->dport)];
  while (*at != f)
    at = &(*at)->by_ends;
  *at = f->by_ends;
  n->count--;
  free(f->syn);
  free(f);
}

/* Makes room by forgetting the connection that ended first. */
static void forget_oldest(netns *n) {
  flow *oldest = NULL;
  for (unsigned i = 0; i < BUCKETS; i++)
    for (flow *f = n->numbers[i]; f != NULL; f = f->by_number)
      if (f->state == FLOW_LINGER && (oldest == NULL || f->since_ms < oldest->since_ms)) oldest = f;
  if (oldest != NULL) forget(oldest);
}

static flow *make_flow(netns *n, const packet *p) {
  if (n->count >= FLOWS_MAX) forget_oldest(n);
  if (n->count >= FLOWS_MAX) return NULL;
  flow *f = calloc(1, sizeof *f);
  if (f == NULL) abort();
  /* In turn over the whole range: a number that comes again soon would meet the old connection's end. */
  do
    n->next_number = n->next_number < FIRST_PORT ? (uint16_t)FIRST_PORT : (uint16_t)(n->next_number + 1);
  while (n->next_number < FIRST_PORT || find_number(n, n->next_number) != NULL);
  *f = (flow){.net = n,
              .src = p->src,
              .dst = p->dst,
              .sport = (uint16_t)p->sport,
              .dport = (uint16_t)p->dport,
              .number = n->next_number,
              .since_ms = csn_now_ms()};
  f->by_number = n->numbers[f->number % BUCKETS];
  n->numbers[f->number % BUCKETS] = f;
  flow **end = &n->ends[hash_ends(f->src, f->dst, f->sport, f->dport)];
  f->by_ends = *end;
  *end = f;
  n->count++;
  if (n->count == 1) event_add(n->tick, &(struct timeval){TICK_S, 0});
  return f;
}

/* ---- sending ---- */

static void inject(netns *n, const void *frame, size_t len) {
  const struct sockaddr_ll to = {
      .sll_family = AF_PACKET, .sll_protocol = htons(ETHERTYPE_IP), .sll_ifindex = LO_INDEX, .sll_halen = 6};
  /* One that is lost is TCP's to send again, or the asking program's. */
  ssize_t sent = sendto(n->packets, frame, len, MSG_DONTWAIT, (const struct sockaddr *)&to, sizeof to);
  (void)sent;
}

/* Multicast and broadcast. */
static bool to_many(uint32_t dst) {
  return dst >> 28 == 14 || dst == 0xffffffffu;
}

static void refuse_packet(netns *n, const packet *p) {
  uint8_t out[PACKET_ANSWER_MAX];
  /* Nobody answers what was sent to many. */
  if (to_many(p->dst)) return;
  size_t len = 0;
  if (p->protocol == PACKET_TCP && (p->flags & PACKET_RST) == 0)
    len = packet_reset(p, out);
  else if (p->protocol == PACKET_UDP)
    len = packet_unreachable(p, PACKET_UNREACH_PORT, out);
  else if (p->protocol != PACKET_TCP && p->protocol != PACKET_ICMP)
    len = packet_unreachable(p, PACKET_UNREACH_FILTERED, out);
  if (len > 0) inject(n, out, len);
}

static void to_listener(flow *f, packet *p) {
  packet_redirect(p, NET_PEER, f->number, NET_SELF, NET_PORT);
  inject(f->net, p->frame, p->frame_len);
}

void net_admit(flow *f) {
  packet p;
  f->state = FLOW_OPEN;
  f->since_ms = csn_now_ms();
  if (packet_parse(f->syn, f->syn_len, &p)) to_listener(f, &p);
  free(f->syn);
  f->syn = NULL;
}

void net_refuse(flow *f, int error) {
  uint8_t out[PACKET_ANSWER_MAX];
  packet p;
  if (packet_parse(f->syn, f->syn_len, &p)) {
    bool far = error == EHOSTUNREACH || error == ENETUNREACH || error == ETIMEDOUT;
    inject(f->net, out, far ? packet_unreachable(&p, PACKET_UNREACH_HOST, out) : packet_reset(&p, out));
  }
  forget(f);
}

void net_release(flow *f) {
  f->conn = NULL;
  f->since_ms = csn_now_ms();
  f->state = FLOW_LINGER;
}

/* ---- receiving ---- */

static void on_first_packet(netns *n, packet *p) {
  flow *f = p->frame_len <= SYN_MAX ? make_flow(n, p) : NULL;
  conn *c = NULL;
  conn_start start = f == NULL ? CONN_REFUSE : conn_open(n->sb, f, p->dst, p->dport, &c);
  if (start == CONN_REFUSE) {
    refuse_packet(n, p);
    if (f != NULL) forget(f);
    return;
  }
  f->conn = c;
  if (start == CONN_TAKE) {
    f->state = FLOW_OPEN;
    to_listener(f, p);
    return;
  }
  f->state = FLOW_HELD;
  f->syn = malloc(p->frame_len);
  if (f->syn == NULL) abort();
  memcpy(f->syn, p->frame, p->frame_len);
  f->syn_len = p->frame_len;
}

static void on_tcp(netns *n, packet *p) {
  bool first = (p->flags & (PACKET_SYN | PACKET_ACK | PACKET_RST)) == PACKET_SYN;
  flow *f = find_ends(n, p);
  if (f != NULL && first && f->state == FLOW_LINGER) {
    /* The program uses its port again. */
    forget(f);
    f = NULL;
  }
  if (f == NULL) {
    if (first)
      on_first_packet(n, p);
    else
      refuse_packet(n, p);
  } else if ((p->flags & PACKET_RST) != 0) {
    /* The program has let go of it and may use its port again at once. */
    conn *c = f->conn;
    const bool accepted = f->state == FLOW_ACCEPTED;
    if (f->state != FLOW_HELD) to_listener(f, p);
    forget(f);
    if (accepted)
      conn_detach(c);
    else
      conn_drop(c);
  } else if (f->state != FLOW_HELD) {
    to_listener(f, p);
  }
}

/* From the listener, or a connection that it accepted; or a program that found this address out. */
static void on_answer(netns *n, packet *p) {
  flow *f = p->protocol == PACKET_TCP && p->src == NET_SELF && p->sport == NET_PORT ? find_number(n, p->dport)
                                                                                    : NULL;
  if (f == NULL) {
    refuse_packet(n, p);
    return;
  }
  packet_redirect(p, f->dst, f->dport, f->src, f->sport);
  inject(n, p->frame, p->frame_len);
}

/* ---- DNS over UDP ---- */

#define UDP_JOBS_MAX 256u

typedef struct udp_question {
  netns *net;
  packet packet; /* its addresses; the frame is gone */
  dns_job *job;
  struct udp_question *prev, *next;
} udp_question;

static udp_question *questions; /* of all sandboxes */

static void end_question(udp_question *q) {
  if (q->prev != NULL)
    q->prev->next = q->next;
  else
    questions = q->next;
  if (q->next != NULL) q->next->prev = q->prev;
  q->net->dns_count--;
  free(q);
}

void net_send_udp(netns *n, const packet *query, const void *data, size_t len) {
  uint8_t out[PACKET_FRONT + 28 + 1024];
  size_t all = packet_udp_answer(query, data, len, out, sizeof out);
  if (all > 0) inject(n, out, all);
}

static void on_udp_answer(void *arg, const void *msg, size_t len) {
  udp_question *q = arg;
  if (len > 0) net_send_udp(q->net, &q->packet, msg, len);
  end_question(q);
}

static void on_dns(netns *n, const packet *p) {
  /* More at once than any resolver library asks: a flood is not answered. */
  if (n->dns_count >= UDP_JOBS_MAX) return;
  udp_question *q = calloc(1, sizeof *q);
  if (q == NULL) abort();
  q->net = n;
  q->packet = *p;
  q->packet.payload = NULL;
  q->packet.payload_len = 0;
  q->next = questions;
  if (q->next != NULL) q->next->prev = q;
  questions = q;
  n->dns_count++;
  dns_job *job = dns_ask(n->sb, p->payload, p->payload_len, on_udp_answer, q);
  if (job != NULL) q->job = job;
}

static void on_udp(netns *n, packet *p) {
  if (p->dport == 53) {
    on_dns(n, p);
    return;
  }
  refuse_packet(n, p);
  if (to_many(p->dst)) return;
  const ip_addr to = ip_from_v4(p->dst);
  const char *name = namemap_name(n->sb->names, p->dst);
  egress_log_add(n->sb, &(egress_entry){.kind = "udp",
                                        .host = name == NULL ? "" : name,
                                        .address = name == NULL ? &to : NULL,
                                        .port = p->dport,
                                        .verdict = EGRESS_DENY,
                                        .reason = "only DNS leaves over UDP",
                                        .begun_ms = csn_now_ms()});
}

static void on_packets(evutil_socket_t fd, short what, void *arg) {
  (void)what;
  static uint8_t frame[PACKET_FRAME_MAX];
  netns *n = arg;
  for (unsigned i = 0; i < PACKETS_TURN; i++) {
    ssize_t got = recv(fd, frame, sizeof frame, MSG_DONTWAIT | MSG_TRUNC);
    if (got <= 0) return;
    packet p;
    if ((size_t)got > sizeof frame || !packet_parse(frame, (size_t)got, &p)) continue;
    if (p.dst == NET_PEER)
      on_answer(n, &p);
    else if (p.protocol == PACKET_TCP)
      on_tcp(n, &p);
    else if (p.protocol == PACKET_UDP)
      on_udp(n, &p);
    else
      refuse_packet(n, &p);
  }
}

static void on_accept(evutil_socket_t listener, short what, void *arg) {
  (void)what;
  netns *n = arg;
  for (;;) {
    struct sockaddr_in from;
    socklen_t len = sizeof from;
    int fd = accept4(listener, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    flow *f = NULL;
    /* A program that connects to the listener itself has another address. */
    if (len >= sizeof from && from.sin_family == AF_INET && ntohl(from.sin_addr.s_addr) == NET_PEER)
      f = find_number(n, ntohs(from.sin_port));
    if (f == NULL || f->state != FLOW_OPEN || f->conn == NULL) {
      close(fd);
      continue;
    }
    f->state = FLOW_ACCEPTED;
    conn_accepted(f->conn, fd);
  }
}

static void on_tick(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  netns *n = arg;
  int64_t now = csn_now_ms();
  for (unsigned i = 0; i < BUCKETS; i++) {
    for (flow *f = n->numbers[i], *next; f != NULL; f = next) {
      next = f->by_number;
      if (f->state == FLOW_LINGER && now - f->since_ms > LINGER_MS) {
        forget(f);
      } else if (f->state == FLOW_OPEN && now - f->since_ms > ACCEPT_MS) {
        conn *c = f->conn;
        net_release(f);
        conn_drop(c);
      }
    }
  }
  if (n->count > 0) event_add(n->tick, &(struct timeval){TICK_S, 0});
}

bool net_listen(sandbox *sb, int fd) {
  netns *n = sb->net;
  int type = 0;
  socklen_t len = sizeof type;
  if (n == NULL || n->listener >= 0 || evutil_make_socket_nonblocking(fd) != 0) return false;
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &type, &len) != 0 || type == 0) return false;
  n->listener = fd;
  n->accept_ev = event_new(base, fd, EV_READ | EV_PERSIST, on_accept, n);
  if (n->accept_ev == NULL) abort();
  event_add(n->accept_ev, NULL);
  return true;
}

bool net_open(sandbox *sb, int fd) {
  if (sb->net != NULL) return false;
  netns *n = calloc(1, sizeof *n);
  if (n == NULL) abort();
  n->sb = sb;
  n->packets = fd;
  n->listener = -1;
  n->packet_ev = event_new(base, fd, EV_READ | EV_PERSIST, on_packets, n);
  n->tick = evtimer_new(base, on_tick, n);
  if (n->packet_ev == NULL || n->tick == NULL) abort();
  event_add(n->packet_ev, NULL);
  sb->net = n;
  return true;
}

void net_close(sandbox *sb) {
  netns *n = sb->net;
  conns_close(sb);
  if (n == NULL) return;
  for (udp_question *q = questions, *next; q != NULL; q = next) {
    next = q->next;
    if (q->net != n) continue;
    if (q->job != NULL) dns_cancel(q->job);
    end_question(q);
  }
  for (unsigned i = 0; i < BUCKETS; i++)
    while (n->numbers[i] != NULL)
      forget(n->numbers[i]);
  event_free(n->packet_ev);
  event_free(n->tick);
  if (n->accept_ev != NULL) event_free(n->accept_ev);
  if (n->listener >= 0) close(n->listener);
  close_elsewhere(n->packets);
  free(n);
  sb->net = NULL;
}
