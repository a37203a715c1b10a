/* engine/idle.c - connections that wait for another request of the same sandbox.
 *
 * To hosts: after an answer that leaves the connection usable, so that the next request needs no connect and
 * no TLS handshake. What was judged for the one holds for the other: it is taken only for the same name, port
 * and, where an address was judged, the same address. To the Worker: opened by itself through the door
 * (out.c), each for one request after the other, past the server in front of it. */
#define _GNU_SOURCE
#include "egress.h"

#include <stdlib.h>
#include <string.h>

#define HOSTS_MAX   16u /* connections to hosts of one sandbox; the oldest go */
#define SERVERS_MAX 64u /* and of its Worker's */
/* Shorter than servers wait for another request themselves (Node: 5 s), so that few end just as one comes. */
#define IDLE_HOST_MS 4000

struct idle {
  sandbox *sb;
  idle *prev, *next; /* the newest first */
  stream *s;
  struct event *timer;
  idle_key key;
  ip_addr reached;
  int64_t seen_ms;
};

static idle **list_of(sandbox *sb, bool server) {
  return server ? &sb->idle_servers : &sb->idle_hosts;
}

/* Forgets the entry; what becomes of the stream is the caller's. */
static stream *unlink_idle(idle *i) {
  stream *s = i->s;
  if (i->prev != NULL)
    i->prev->next = i->next;
  else
    *list_of(i->sb, i->key.server) = i->next;
  if (i->next != NULL) i->next->prev = i->prev;
  event_free(i->timer);
  free(i);
  return s;
}

/* Nothing is to come while nothing is asked: whatever it is, the connection is of no use any more. */
static void on_change(void *arg) {
  idle *i = arg;
  size_t have;
  (void)stream_input(i->s, &have);
  if (have > 0 || stream_has_ended(i->s) || stream_error(i->s) != 0) stream_free(unlink_idle(i), false);
}

static void on_timer(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  stream_free(unlink_idle(arg), false);
}

void idle_put(sandbox *sb, stream *s, const idle_key *key, const ip_addr *reached, int64_t seen_ms) {
  size_t have;
  (void)stream_input(s, &have);
  /* Bytes behind an answer could only be the beginning of one that nobody has asked for. */
  if (have > 0 || stream_has_ended(s) || stream_error(s) != 0) {
    stream_free(s, false);
    return;
  }
  size_t count = 0;
  idle *last = NULL, **list = list_of(sb, key->server);
  for (idle *i = *list; i != NULL; i = i->next, count++)
    last = i;
  if (count >= (key->server ? SERVERS_MAX : HOSTS_MAX)) stream_free(unlink_idle(last), false);
  idle *i = calloc(1, sizeof *i);
  if (i == NULL) abort();
  *i = (idle){.sb = sb, .s = s, .key = *key, .reached = *reached, .seen_ms = seen_ms, .next = *list};
  i->timer = evtimer_new(base, on_timer, i);
  if (i->timer == NULL) abort();
  if (i->next != NULL) i->next->prev = i;
  *list = i;
  if (!key->server) event_add(i->timer, &(struct timeval){IDLE_HOST_MS / 1000, 0});
  stream_flush(s);
  stream_rest(s);
  stream_set_ready(s, on_change, i);
}

static bool same(const idle_key *a, const idle_key *b) {
  if (a->server || b->server) return a->server == b->server;
  return a->tls == b->tls && a->port == b->port && a->judged == b->judged &&
         (!a->judged || ip_equal(&a->address, &b->address)) && strcmp(a->host, b->host) == 0;
}

stream *idle_take(sandbox *sb, const idle_key *key, ip_addr *reached, int64_t *seen_ms) {
  for (idle *i = *list_of(sb, key->server); i != NULL; i = i->next) {
    if (!same(&i->key, key)) continue;
    *reached = i->reached;
    *seen_ms = i->seen_ms;
    return unlink_idle(i);
  }
  return NULL;
}

const ip_addr *idle_address(const sandbox *sb, bool tls, const char *host, unsigned port, int64_t since_ms) {
  for (const idle *i = sb->idle_hosts; i != NULL; i = i->next)
    if (i->seen_ms > since_ms && i->key.judged && i->key.tls == tls && i->key.port == port &&
        strcmp(i->key.host, host) == 0)
      return &i->key.address;
  return NULL;
}

void idle_seen(sandbox *sb, const char *host, const ip_addr *list, size_t count) {
  for (idle *i = sb->idle_hosts; i != NULL; i = i->next) {
    if (strcmp(i->key.host, host) != 0) continue;
    for (size_t k = 0; k < count; k++)
      if (ip_equal(&i->reached, &list[k])) i->seen_ms = csn_now_ms();
  }
}

void idle_forget_hosts(sandbox *sb) {
  while (sb->idle_hosts != NULL)
    stream_free(unlink_idle(sb->idle_hosts), false);
}

void idle_close(sandbox *sb) {
  idle_forget_hosts(sb);
  while (sb->idle_servers != NULL)
    stream_free(unlink_idle(sb->idle_servers), false);
}
