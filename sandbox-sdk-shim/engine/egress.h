/* engine/egress.h - what the files of the way out of a sandbox share.
 *
 *   net.c      every packet that leaves: catches TCP, answers DNS, refuses the rest
 *   conn.c     one caught connection: what it is, where it may go, tunnels
 *   relay.c    HTTP on it: requests one by one to the Worker or to their host
 *   out.c      the Worker's own requests to the outside
 *   idle.c     connections that wait for another request
 *   reach.c    connecting to the outside: resolve once, check, connect to what was checked
 *   egress.c   settings and decisions
 *   egress_log.c   what was decided */
#ifndef CAISSON_ENGINE_EGRESS_H
#define CAISSON_ENGINE_EGRESS_H

#include "addr.h"
#include "engine.h"
#include "http1.h"
#include "namemap.h"
#include "packet.h"
#include "stream.h"

/* Inside every sandbox; addresses of RFC 2544's range in host order. */
#define NET_RESOLVER 0xc6120001u /* 198.18.0.1, named in /etc/resolv.conf */
#define NET_SELF     0xc6120002u /* 198.18.0.2, the sandbox */
#define NET_PEER     0xc6120004u /* 198.18.0.4: as which connections arrive at the engine's listener */
#define NET_PORT     61777u      /* of that listener, at NET_SELF: above the ephemeral range */

#define CONNS_MAX 256u /* connections of one sandbox at once */
#define REACH_MAX 8u   /* addresses of one name that are tried */

/* ---- egress.c ---- */
typedef enum egress_verdict { EGRESS_DENY, EGRESS_PASS, EGRESS_INTERCEPT } egress_verdict;

/* Where a request or connection wants to go. `host`: a name in lower case, or the text of an address. */
egress_verdict egress_decide(const sandbox *sb, bool tls, const char *host, unsigned port);
/* Whether any host is intercepted on that port. */
bool egress_has_port(const sandbox *sb, unsigned port);
/* Whether the engine may connect to an address for this sandbox. */
bool egress_address_ok(const sandbox *sb, const ip_addr *a, unsigned port);

/* ---- net.c ---- */
typedef struct flow flow;
typedef struct conn conn;

/* The held first packet goes on to the listener: an accept follows. */
void net_admit(flow *f);
/* The connection is refused, `error` an errno value; forgets f. */
void net_refuse(flow *f, int error);
/* The accepted socket is closed, or will never be: what is left of the connection is the kernel's. */
void net_release(flow *f);
void net_send_udp(netns *n, const packet *query, const void *data, size_t len);

/* ---- idle.c ---- */
typedef struct idle idle;
/* What a connection may be used for. `server`: requests to the Worker; nothing else is looked at then. */
typedef struct idle_key {
  bool server, tls;
  bool judged; /* only `address` will do */
  char host[ENGINE_HOST_MAX + 1];
  unsigned port;
  ip_addr address;
} idle_key;
/* Keeps the stream, which is the caller's no more, or closes it where it is of no use. It was made at
 * seen_ms. */
void idle_put(sandbox *sb, stream *s, const idle_key *key, const ip_addr *reached, int64_t seen_ms);
/* A connection for that, the caller's; NULL when there is none. *reached: its address. */
stream *idle_take(sandbox *sb, const idle_key *key, ip_addr *reached, int64_t *seen_ms);
/* The judged address of one to that host, tls and port, if the host has been seen to have it after since_ms;
 * else NULL. Until the next call here. */
const ip_addr *idle_address(const sandbox *sb, bool tls, const char *host, unsigned port, int64_t since_ms);
/* A look-up has found these addresses. */
void idle_seen(sandbox *sb, const char *host, const ip_addr *list, size_t count);
/* Ends those to hosts: what holds for this sandbox has changed. */
void idle_forget_hosts(sandbox *sb);
void idle_close(sandbox *sb);

#define OUT_ENTRY_MAX 20u /* bytes: a decimal number */

/* ---- conn.c ---- */
typedef enum conn_start { CONN_REFUSE, CONN_TAKE, CONN_HOLD } conn_start;
/* A connection begins. CONN_TAKE: *c is there and waits for conn_accepted(). CONN_HOLD: it will call
 * net_admit() or net_refuse(). CONN_REFUSE: *c is NULL. */
conn_start conn_open(sandbox *sb, flow *f, uint32_t dst, unsigned port, conn **c);
void conn_accepted(conn *c, int fd);
/* Ends it; the flow is the caller's. */
void conn_drop(conn *c);
/* The flow is gone; the socket tells how that is to be taken. */
void conn_detach(conn *c);
void conns_close(sandbox *sb);
/* A connection of the Worker's (out.c). */
void conn_from_worker(sandbox *sb, int fd);

typedef enum conn_mode {
  CONN_WAITING, /* for the accept, and what is reached out for */
  CONN_DNS,
  CONN_SNIFFING, /* for the first bytes, which tell what it is */
  CONN_HTTP,
  CONN_REACHING, /* of a tunnel that was accepted already */
  CONN_TUNNEL,
  CONN_DRAINING, /* answered and ended; reads on so that the answer is not lost to a reset */
} conn_mode;

/* One request and its answer on a connection. */
typedef struct exchange {
  enum { EX_IDLE, EX_REACHING, EX_SECURING, EX_RUNNING } state;
  csn_buf head; /* for the upstream */
  http_body request, response;
  bool chunk_up, chunk_down; /* how the body is passed on */
  bool answered;             /* the response's head has gone to the client */
  bool keep_alive, old;      /* of the client; `old`: HTTP/1.0 */
  bool head_only, websocket, expect, linger;
  bool up_tls;    /* the upstream is to be TLS */
  bool reused;    /* the upstream has answered before: it may have ended meanwhile */
  bool keep_up;   /* it may be used again afterwards */
  bool again;     /* asking twice does no harm */
  idle_key key;   /* of it */
  unsigned rules; /* of the sandbox, when it was decided on */
  char host[ENGINE_HOST_MAX + 1], method[33], path[256];
  int status;
  egress_verdict verdict;
  const char *reason;
  int64_t begun_ms;
  uint64_t up_start, down_start;
} exchange;

struct conn {
  sandbox *sb;
  flow *flow;
  conn *prev, *next;
  ip_addr dst;
  unsigned port;
  bool out;           /* the Worker's: no flow, and each request names its host */
  bool named;         /* dst stands for a name that was looked up */
  bool tls;           /* ended here */
  bool unchecked;     /* a tunnel whose first bytes have not been seen */
  bool passes_silent; /* may become a tunnel when nothing is said */
  bool down_ended;    /* nothing more is to be said to the client */
  bool reading;       /* a head has begun to come */
  bool asked;         /* a request has come */
  size_t drained;
  char name[ENGINE_HOST_MAX + 1]; /* that name, or dst as text */
  char host[ENGINE_HOST_MAX + 1]; /* what it counts as: name, or the name that TLS asks for */
  conn_mode mode;
  stream *down, *up;
  struct event *timer;
  struct reach *reach;
  struct dns_job *dns;
  struct lookup *lookup;
  exchange x;
  uint64_t up_bytes, down_bytes; /* to and from the outside */
  int64_t begun_ms;
  ip_addr reached; /* all zero: none */
  int64_t seen_ms; /* when its host was last seen to have that address */
  /* Of a WebSocket of the Worker's, from when it was switched to: what it calls the request, empty where it
   * does not want to know, and what had passed before. */
  char entry[OUT_ENTRY_MAX + 1];
  bool switched;
  uint64_t switched_up, switched_down;
  int64_t switched_ms;
};

/* What a step came to: nothing to do until something happens, call it again, or c is no more. */
typedef enum run { RUN_WAIT, RUN_MORE, RUN_GONE } run;

run conn_free(conn *c, bool reset); /* RUN_GONE */
/* Goes on with c after something happened. */
void conn_run(conn *c);
/* Sets when c gives up waiting; 0: never. */
void conn_timeout(conn *c, unsigned ms);
/* Joins both sides from now on. */
run conn_tunnel(conn *c);
/* Ends the client's side after what was put, and then the connection. */
run conn_drain(conn *c);
/* Writes the record of a tunnel, or of a connection that came to nothing. */
void conn_log(conn *c, egress_verdict verdict, const char *reason);

/* ---- relay.c ---- */
run relay_run(conn *c);
run relay_timeout(conn *c);
/* Forgets the request that is under way. */
void relay_clear(conn *c);

/* ---- out.c ---- */
typedef struct out_door out_door;
/* Where a request of the Worker's is to go. The spans are parts of its head. */
typedef struct out_target {
  bool tls, judged, resolve;
  bool serve; /* not a request: the connection is for requests to the Worker */
  char host[ENGINE_HOST_MAX + 1];
  unsigned port;
  http_span authority, path;
  ip_addr address;               /* judged: that and no other */
  char entry[OUT_ENTRY_MAX + 1]; /* what the Worker calls the request, when it wants to be told of its end */
} out_target;
/* The loopback port for the Worker's requests, opened if it is not yet; 0 when that fails. */
unsigned out_open(sandbox *sb);
void out_close(sandbox *sb);
/* Tells the Worker how a WebSocket has ended: the bytes of its frames both ways and how long it was. Nobody
 * waits for that, and it is not said twice. */
void out_told(const conn *c);
/* NULL, or what is wrong. */
const char *out_read(const sandbox *sb, const http_head *h, out_target *t);

/* ---- reach.c ---- */
typedef struct reach reach;
/* `s` is the caller's; NULL with `error`: EACCES when no address is allowed (`address` is one of them),
 * ENOENT when there is none. */
typedef void reach_done(void *arg, stream *s, const ip_addr *address, int error);
/* Connects to a host (a name, or the text of an address) for a sandbox. The callback comes later, once. */
reach *reach_host(const sandbox *sb, const char *host, unsigned port, reach_done *done, void *arg);
/* Connects to that address, which somebody else has judged. */
reach *reach_address(const sandbox *sb, const ip_addr *address, unsigned port, reach_done *done, void *arg);
/* Connects to the Worker. */
reach *reach_worker(const sandbox *sb, reach_done *done, void *arg);
void reach_cancel(reach *r);

typedef struct lookup lookup;
/* count 0: `error` is ENOENT when the name does not exist, else a failure. */
typedef void lookup_done(void *arg, const ip_addr *list, size_t count, int error);
/* Every address of a name. The callback comes later, once. */
lookup *lookup_start(const char *name, lookup_done *done, void *arg);
void lookup_cancel(lookup *l);

/* ---- dns.c ---- */
typedef struct dns_job dns_job;
typedef void dns_reply(void *arg, const void *msg, size_t len);
/* Answers a message; len 0 when it deserves no answer. The callback comes once: before dns_ask returns NULL,
 * or later with the job that it returned gone. */
dns_job *dns_ask(sandbox *sb, const uint8_t *msg, size_t len, dns_reply *reply, void *arg);
void dns_cancel(dns_job *j);
run dns_run(conn *c);

/* ---- egress_log.c ---- */
typedef struct egress_entry {
  const char *kind;       /* http, https, tcp, udp, dns */
  const char *host;       /* "" when only the address is known */
  const ip_addr *address; /* connected to, NULL if none */
  unsigned port;
  const char *method, *path; /* NULL unless HTTP; the path without its query */
  int status;                /* 0 unless HTTP */
  egress_verdict verdict;
  const char *reason;
  uint64_t up, down; /* bytes of bodies or of the stream, to and from the outside */
  int64_t begun_ms;
} egress_entry;
void egress_log_add(sandbox *sb, const egress_entry *e);

#endif
