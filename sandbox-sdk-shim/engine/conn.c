/* engine/conn.c - one caught connection.
 *
 * Where anything may be intercepted on its port, or refused in words, it is taken at once and its first bytes
 * tell what it is. Everything else is held: the program's connect succeeds or fails as the connect to the
 * outside does. */
#define _GNU_SOURCE
#include "egress.h"

#include "hello.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SNIFF_MS 15000 /* until the first bytes must be there */
#define SILENT_MS                                                                                            \
  3000 /* after which a program that says nothing is taken for one that waits for the server */
#define DRAIN_MS 2000
#define HALF_MS  60000 /* of silence, after one side of a tunnel has ended */
#define HTTPS    443u
#define RECORD   22 /* first byte of a TLS handshake */

static void on_timeout(evutil_socket_t fd, short what, void *arg);

static conn *new_conn(sandbox *sb, flow *f, uint32_t dst, unsigned port) {
  conn *c = calloc(1, sizeof *c);
  if (c == NULL) abort();
  c->sb = sb;
  c->flow = f;
  c->dst = ip_from_v4(dst);
  c->port = port;
  c->begun_ms = csn_now_ms();
  c->timer = evtimer_new(base, on_timeout, c);
  if (c->timer == NULL) abort();
  const char *name = namemap_name(sb->names, dst);
  c->named = name != NULL;
  if (c->named)
    memcpy(c->name, name, strlen(name) + 1);
  else
    ip_format(&c->dst, c->name);
  memcpy(c->host, c->name, sizeof c->host);
  c->next = sb->outbound;
  if (c->next != NULL) c->next->prev = c;
  sb->outbound = c;
  /* Of the sandbox's doing: each of the Worker's is there for one of those. */
  if (f != NULL) sb->outbound_count++;
  c->out = f == NULL;
  return c;
}

run conn_free(conn *c, bool reset) {
  if (c->switched && c->entry[0] != '\0') out_told(c);
  relay_clear(c);
  reach_cancel(c->reach);
  if (c->dns != NULL) dns_cancel(c->dns);
  lookup_cancel(c->lookup);
  stream_free(c->down, reset);
  stream_free(c->up, reset);
  event_free(c->timer);
  if (c->flow != NULL) net_release(c->flow);
  if (c->prev != NULL)
    c->prev->next = c->next;
  else
    c->sb->outbound = c->next;
  if (c->next != NULL) c->next->prev = c->prev;
  if (!c->out) c->sb->outbound_count--;
  free(c);
  return RUN_GONE;
}

void conn_drop(conn *c) {
  if (c == NULL) return;
  c->flow = NULL;
  conn_free(c, true);
}

void conn_detach(conn *c) {
  if (c != NULL) c->flow = NULL;
}

void conns_close(sandbox *sb) {
  while (sb->outbound != NULL)
    conn_free(sb->outbound, true);
}

void conn_timeout(conn *c, unsigned ms) {
  const struct timeval tv = {ms / 1000, ms % 1000 * 1000};
  if (ms == 0)
    event_del(c->timer);
  else
    event_add(c->timer, &tv);
}

void conn_log(conn *c, egress_verdict verdict, const char *reason) {
  static const ip_addr none;
  const bool reached = !ip_equal(&c->reached, &none);
  egress_log_add(c->sb, &(egress_entry){.kind = "tcp",
                                        .host = c->named || strcmp(c->host, c->name) != 0 ? c->host : "",
                                        .address = reached    ? &c->reached
                                                   : c->named ? NULL
                                                              : &c->dst,
                                        .port = c->port,
                                        .verdict = verdict,
                                        .reason = reason,
                                        .up = c->up_bytes,
                                        .down = c->down_bytes,
                                        .begun_ms = c->begun_ms});
}

/* ---- tunnels ---- */

/* From one side to the other. */
static bool move(stream *from, stream *to, uint64_t *count) {
  size_t have, room = stream_room(to);
  const char *in = stream_input(from, &have);
  if (have > room) have = room;
  if (have == 0) return false;
  stream_put(to, in, have);
  stream_take(from, have);
  *count += have;
  return true;
}

/* A name that TLS asks for in the clear must be the one that was looked up: one that may be reached must not
 * cover for one that may not (domain fronting). */
static run check_first(conn *c) {
  char name[HELLO_NAME_MAX + 1];
  size_t have;
  const char *in = stream_input(c->down, &have);
  if (have == 0 && !stream_at_end(c->down)) return RUN_WAIT;
  if (have > 0 && c->named) {
    hello_result r = hello_peek((const uint8_t *)in, have, name);
    if (r == HELLO_MORE && have < STREAM_IN_ROOM && !stream_has_ended(c->down)) return RUN_WAIT;
    if (r == HELLO_BAD || (r == HELLO_OK && name[0] != '\0' && strcmp(name, c->name) != 0)) {
      conn_log(c, EGRESS_DENY, "TLS asks for another name than the one that was looked up");
      return conn_free(c, true);
    }
  }
  c->unchecked = false;
  return RUN_MORE;
}

static run tunnel_run(conn *c) {
  bool moved = false;
  if (stream_error(c->down) != 0 || stream_error(c->up) != 0) {
    conn_log(c, c->x.verdict, "cut");
    return conn_free(c, true);
  }
  if (c->unchecked) {
    run r = check_first(c);
    if (r == RUN_GONE) return r;
  }
  if (!c->unchecked) moved = move(c->down, c->up, &c->up_bytes);
  moved |= move(c->up, c->down, &c->down_bytes);
  if (!c->unchecked && stream_at_end(c->down)) stream_end(c->up);
  if (stream_at_end(c->up)) stream_end(c->down);
  if (stream_at_end(c->up) && stream_at_end(c->down) && !c->unchecked && stream_is_flushed(c->up) &&
      stream_is_flushed(c->down)) {
    conn_log(c, c->x.verdict, "closed");
    return conn_free(c, false);
  }
  /* A program that was killed looks like one that has said all and listens on. */
  if (stream_at_end(c->up) || stream_at_end(c->down)) conn_timeout(c, HALF_MS);
  return moved ? RUN_MORE : RUN_WAIT;
}

run conn_tunnel(conn *c) {
  c->mode = CONN_TUNNEL;
  conn_timeout(c, 0);
  return RUN_MORE;
}

static void on_change(void *arg) {
  conn_run(arg);
}

static void on_reached(void *arg, stream *s, const ip_addr *address, int error) {
  conn *c = arg;
  c->reach = NULL;
  if (s == NULL) {
    conn_log(c, EGRESS_DENY,
             error == EACCES ? "the address is not on the internet" : "the host cannot be reached");
    if (c->mode == CONN_WAITING) {
      flow *f = c->flow;
      c->flow = NULL;
      net_refuse(f, error);
    }
    conn_free(c, true);
    return;
  }
  c->up = s;
  c->reached = *address;
  c->x.verdict = EGRESS_PASS;
  c->unchecked = true;
  stream_set_ready(s, on_change, c);
  if (c->mode == CONN_WAITING) {
    net_admit(c->flow);
    return;
  }
  c->mode = CONN_TUNNEL;
  conn_run(c);
}

/* ---- what it is ---- */

static run start_reaching(conn *c) {
  c->mode = CONN_REACHING;
  conn_timeout(c, 0);
  c->reach = reach_host(c->sb, c->name, c->port, on_reached, c);
  return RUN_WAIT;
}

static run start_http(conn *c, bool tls) {
  if (tls && !stream_start_tls(c->down, c->host)) {
    conn_log(c, EGRESS_DENY, "no certificate can be made for the name");
    return conn_free(c, true);
  }
  c->tls = tls;
  c->mode = CONN_HTTP;
  conn_timeout(c, SNIFF_MS);
  return RUN_MORE;
}

static run sniff_tls(conn *c, const char *in, size_t have) {
  char name[HELLO_NAME_MAX + 1];
  hello_result r = hello_peek((const uint8_t *)in, have, name);
  if (r == HELLO_MORE) return stream_has_ended(c->down) ? conn_free(c, true) : RUN_WAIT;
  if (r != HELLO_OK) {
    conn_log(c, EGRESS_DENY, "not a TLS hello that can be relied on");
    return conn_free(c, true);
  }
  if (name[0] != '\0') memcpy(c->host, name, sizeof name);
  switch (egress_decide(c->sb, true, c->host, c->port)) {
  case EGRESS_PASS:
    /* By address: then the address must be allowed, whatever name is given for it. */
    if (c->named || egress_decide(c->sb, true, c->name, c->port) == EGRESS_PASS) return start_reaching(c);
    break;
  case EGRESS_INTERCEPT:
    return start_http(c, true);
  case EGRESS_DENY:
    break;
  }
  /* Refused in words where the sandbox trusts our word. */
  if (egress_has_port(c->sb, c->port)) return start_http(c, true);
  conn_log(c, EGRESS_DENY, "the host is not allowed");
  return conn_free(c, true);
}

/* A method and a blank: what speaks first and is not HTTP, ssh for one, looks otherwise. */
static bool http_like(const char *in, size_t have) {
  size_t n = 0;
  while (n < have && n < 20 && in[n] >= 'A' && in[n] <= 'Z')
    n++;
  return n > 0 && (n == have || in[n] == ' ');
}

static run sniff(conn *c) {
  size_t have;
  const char *in = stream_input(c->down, &have);
  if (have == 0) return stream_at_end(c->down) ? conn_free(c, false) : RUN_WAIT;
  if (in[0] == RECORD) return sniff_tls(c, in, have);
  bool passes = egress_decide(c->sb, false, c->name, c->port) == EGRESS_PASS;
  if (passes && !http_like(in, have)) return start_reaching(c);
  return start_http(c, false);
}

static run drain(conn *c) {
  size_t have;
  (void)stream_input(c->down, &have);
  stream_take(c->down, have);
  c->drained += have;
  if (stream_at_end(c->down) || c->drained > STREAM_IN_ROOM * 16u) return conn_free(c, false);
  return RUN_WAIT;
}

run conn_drain(conn *c) {
  relay_clear(c);
  stream_free(c->up, true);
  c->up = NULL;
  c->mode = CONN_DRAINING;
  stream_end(c->down);
  conn_timeout(c, DRAIN_MS);
  return RUN_MORE;
}

static run step(conn *c) {
  switch (c->mode) {
  case CONN_DNS:
    return dns_run(c);
  case CONN_SNIFFING:
    return sniff(c);
  case CONN_HTTP:
    return relay_run(c);
  case CONN_TUNNEL:
    return tunnel_run(c);
  case CONN_DRAINING:
    return drain(c);
  case CONN_WAITING:
  case CONN_REACHING:
    break;
  }
  return RUN_WAIT;
}

void conn_run(conn *c) {
  for (;;) {
    run r = RUN_MORE;
    while (r == RUN_MORE) {
      /* Relay and tunnel look at errors themselves: there may be an answer to give. */
      if (c->down != NULL && stream_error(c->down) != 0 && c->mode != CONN_HTTP && c->mode != CONN_TUNNEL)
        r = conn_free(c, true);
      else
        r = step(c);
    }
    if (r == RUN_GONE) return;
    /* Sending is put off until all is said that can be said now: fewer, larger packets. */
    bool busy = false;
    stream *const both[] = {c->down, c->up};
    for (int i = 0; i < 2; i++) {
      if (both[i] == NULL) continue;
      bool had = !stream_is_flushed(both[i]);
      stream_flush(both[i]);
      busy |= had && (stream_is_flushed(both[i]) || stream_error(both[i]) != 0);
    }
    if (!busy) return;
  }
}

static void on_timeout(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  conn *c = arg;
  size_t have = 0;
  switch (c->mode) {
  case CONN_SNIFFING:
    if (c->down != NULL) (void)stream_input(c->down, &have);
    if (have == 0 && c->passes_silent) {
      start_reaching(c);
      return;
    }
    conn_log(c, EGRESS_DENY, "nothing was asked");
    conn_free(c, true);
    return;
  case CONN_HTTP:
    if (relay_timeout(c) == RUN_MORE) conn_run(c);
    return;
  case CONN_TUNNEL:
    conn_log(c, c->x.verdict, "one side ended and the other said no more");
    conn_free(c, true);
    return;
  default:
    conn_free(c, true);
  }
}

/* ---- the beginning ---- */

conn_start conn_open(sandbox *sb, flow *f, uint32_t dst, unsigned port, conn **out) {
  if (sb->outbound_count >= CONNS_MAX) {
    log_line(LOG_WARN, "%s: more than %u outbound connections at once", sb->name, CONNS_MAX);
    return CONN_REFUSE;
  }
  conn *c = new_conn(sb, f, dst, port);
  bool stale = namemap_is_ours(dst) && !c->named;
  if (port == 53) {
    c->mode = CONN_DNS;
    *out = c;
    return CONN_TAKE;
  }
  bool sniffed = egress_has_port(sb, port) || (port == 80 && !sb->internet);
  if (sniffed && !stale) {
    c->mode = CONN_SNIFFING;
    c->passes_silent = egress_decide(sb, false, c->name, port) == EGRESS_PASS &&
                       egress_decide(sb, true, c->name, port) == EGRESS_PASS;
    *out = c;
    return CONN_TAKE;
  }
  if (!stale && egress_decide(sb, port == HTTPS, c->name, port) == EGRESS_PASS) {
    c->mode = CONN_WAITING;
    c->reach = reach_host(sb, c->name, port, on_reached, c);
    *out = c;
    return CONN_HOLD;
  }
  conn_log(c, EGRESS_DENY,
           stale ? "the name behind this address is no longer known" : "the host is not allowed");
  c->flow = NULL;
  conn_free(c, false);
  return CONN_REFUSE;
}

void conn_from_worker(sandbox *sb, int fd) {
  conn *c = new_conn(sb, NULL, 0, 0);
  c->down = stream_new(fd, on_change, c);
  c->mode = CONN_HTTP;
  conn_timeout(c, SNIFF_MS);
}

void conn_accepted(conn *c, int fd) {
  c->down = stream_new(fd, on_change, c);
  switch (c->mode) {
  case CONN_WAITING:
    /* The other side may have spoken already. */
    c->mode = CONN_TUNNEL;
    conn_run(c);
    return;
  case CONN_SNIFFING:
    conn_timeout(c, c->passes_silent ? SILENT_MS : SNIFF_MS);
    break;
  default:
    conn_timeout(c, SNIFF_MS);
  }
}
