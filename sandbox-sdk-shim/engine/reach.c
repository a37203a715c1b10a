/* engine/reach.c - connecting to the outside.
 *
 * A name is resolved once. The addresses that come back are checked, and the connection goes to one of
 * exactly those: there is no second look-up between the check and the connect in which a name could be given
 * another address (DNS rebinding). */
#define _GNU_SOURCE
#include "egress.h"

#include <errno.h>
#include <event2/dns.h>
#include <event2/util.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TRY_MS        5000 /* for one address */
#define OVERRIDES_MAX 64u
#define RESOLV_CONF   "/etc/resolv.conf"

/* ---- names ---- */

struct lookup {
  lookup_done *done;
  void *arg;
  struct evdns_getaddrinfo_request *req;
  struct event *later;
  ip_addr list[REACH_MAX];
  size_t count;
  int error;
  bool cancelled;
};

static struct {
  char name[ENGINE_HOST_MAX + 1];
  ip_addr address;
} overrides[OVERRIDES_MAX];
static size_t override_count;

bool reach_override(const char *text) {
  const char *colon = strchr(text, ':');
  if (colon == NULL || override_count == OVERRIDES_MAX) return false;
  char name[ENGINE_HOST_MAX + 1];
  size_t n = (size_t)(colon - text);
  unsigned port;
  if (n == 0 || n > ENGINE_HOST_MAX) return false;
  memcpy(name, text, n);
  name[n] = '\0';
  if (!host_split(name, overrides[override_count].name, &port)) return false;
  if (!ip_parse(colon + 1, &overrides[override_count].address)) return false;
  override_count++;
  return true;
}

static char *own_resolver;

bool reach_resolver(const char *text) {
  struct sockaddr_storage sa;
  int len = sizeof sa;
  if (evutil_parse_sockaddr_port(text, (struct sockaddr *)&sa, &len) != 0) return false;
  free(own_resolver);
  own_resolver = strdup(text);
  return own_resolver != NULL;
}

/* The machine's resolver, read again when the machine has moved to another network. */
static struct evdns_base *resolver(void) {
  static struct evdns_base *dns;
  static struct timespec changed;
  struct stat st = {0};
  (void)stat(RESOLV_CONF, &st);
  if (dns != NULL && st.st_mtim.tv_sec == changed.tv_sec && st.st_mtim.tv_nsec == changed.tv_nsec) return dns;
  changed = st.st_mtim;
  if (dns == NULL) {
    dns = evdns_base_new(base, EVDNS_BASE_DISABLE_WHEN_INACTIVE);
    if (dns == NULL) abort();
    /* Some servers do not return the case that they were asked in. */
    evdns_base_set_option(dns, "randomize-case:", "0");
    evdns_base_set_option(dns, "timeout:", "3");
  } else {
    evdns_base_clear_nameservers_and_suspend(dns);
  }
  if (own_resolver != NULL)
    evdns_base_nameserver_ip_add(dns, own_resolver);
  else if (evdns_base_resolv_conf_parse(dns, DNS_OPTIONS_ALL, RESOLV_CONF) != 0)
    log_line(LOG_WARN, "no resolver: " RESOLV_CONF " cannot be read; names of the outside are not found");
  evdns_base_resume(dns);
  return dns;
}

static void answer_lookup(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  lookup *l = arg;
  event_free(l->later);
  if (!l->cancelled) l->done(l->arg, l->list, l->count, l->error);
  free(l);
}

static void finish_lookup(lookup *l, int error) {
  l->req = NULL;
  l->error = error;
  event_active(l->later, EV_TIMEOUT, 0);
}

static void on_addresses(int result, struct evutil_addrinfo *list, void *arg) {
  lookup *l = arg;
  for (struct evutil_addrinfo *ai = list; ai != NULL && l->count < REACH_MAX; ai = ai->ai_next) {
    ip_addr a;
    bool known = !ip_from_sockaddr(ai->ai_addr, &a);
    for (size_t i = 0; i < l->count && !known; i++)
      known = ip_equal(&a, &l->list[i]);
    if (!known) l->list[l->count++] = a;
  }
  if (list != NULL) evutil_freeaddrinfo(list);
  int error = EHOSTUNREACH;
  if (result == EVUTIL_EAI_NONAME || result == EVUTIL_EAI_NODATA) error = ENOENT;
  finish_lookup(l, l->count > 0 ? 0 : error);
}

lookup *lookup_start(const char *name, lookup_done *done, void *arg) {
  lookup *l = calloc(1, sizeof *l);
  if (l == NULL) abort();
  l->done = done;
  l->arg = arg;
  l->later = event_new(base, -1, 0, answer_lookup, l);
  if (l->later == NULL) abort();
  for (size_t i = 0; i < override_count; i++)
    if (strcmp(overrides[i].name, name) == 0 && l->count < REACH_MAX)
      l->list[l->count++] = overrides[i].address;
  if (l->count > 0) {
    finish_lookup(l, 0);
    return l;
  }
  const struct evutil_addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  /* May answer before it returns: then req stays NULL and nothing is to be cancelled. */
  struct evdns_getaddrinfo_request *req = evdns_getaddrinfo(resolver(), name, NULL, &hints, on_addresses, l);
  if (event_pending(l->later, EV_TIMEOUT, NULL) == 0) l->req = req;
  return l;
}

void lookup_cancel(lookup *l) {
  if (l == NULL) return;
  l->cancelled = true;
  /* Its callback comes with EVUTIL_EAI_CANCEL, and frees l from the loop. */
  if (l->req != NULL) evdns_getaddrinfo_cancel(l->req);
}

/* ---- connecting ---- */

struct reach {
  const sandbox *sb;
  unsigned port;
  reach_done *done;
  void *arg;
  lookup *lookup;
  ip_addr list[REACH_MAX];
  size_t count, next;
  stream *s;
  struct event *timer; /* of a try, and for the answer */
  ip_addr refused;
  int error;
};

static void free_reach(reach *r) {
  lookup_cancel(r->lookup);
  stream_free(r->s, true);
  event_free(r->timer);
  free(r);
}

void reach_cancel(reach *r) {
  if (r != NULL) free_reach(r);
}

static void answer(reach *r, stream *s) {
  reach_done *done = r->done;
  void *arg = r->arg;
  const ip_addr address = r->next > 0 ? r->list[r->next - 1] : r->refused;
  int error = r->error;
  r->s = NULL;
  free_reach(r);
  done(arg, s, &address, error);
}

static void on_try(void *arg);

static void try_next(reach *r) {
  while (r->next < r->count) {
    struct sockaddr_storage sa;
    socklen_t len = ip_to_sockaddr(&r->list[r->next++], r->port, &sa);
    r->s = stream_connect((const struct sockaddr *)&sa, len, on_try, r);
    if (r->s != NULL) {
      event_add(r->timer, &(struct timeval){TRY_MS / 1000, 0});
      return;
    }
    r->error = errno;
  }
  answer(r, NULL);
}

static void on_try(void *arg) {
  reach *r = arg;
  if (stream_is_up(r->s)) {
    r->error = 0;
    answer(r, r->s);
    return;
  }
  if (stream_error(r->s) == 0) return;
  r->error = stream_error(r->s);
  stream_free(r->s, true);
  r->s = NULL;
  try_next(r);
}

/* A try that takes too long; without one, the start. */
static void on_timer(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  reach *r = arg;
  if (r->s != NULL) r->error = ETIMEDOUT;
  stream_free(r->s, true);
  r->s = NULL;
  try_next(r);
}

static void on_found(void *arg, const ip_addr *list, size_t count, int error) {
  reach *r = arg;
  r->lookup = NULL;
  r->error = error;
  if (count > 0) {
    r->error = EACCES;
    r->refused = list[0];
  }
  for (size_t i = 0; i < count; i++)
    if (egress_address_ok(r->sb, &list[i], r->port)) r->list[r->count++] = list[i];
  try_next(r);
}

static reach *new_reach(const sandbox *sb, unsigned port, reach_done *done, void *arg) {
  reach *r = calloc(1, sizeof *r);
  if (r == NULL) abort();
  *r = (reach){.sb = sb, .port = port, .done = done, .arg = arg};
  r->timer = evtimer_new(base, on_timer, r);
  if (r->timer == NULL) abort();
  return r;
}

static void soon(reach *r) {
  event_add(r->timer, &(struct timeval){0, 0});
}

reach *reach_host(const sandbox *sb, const char *host, unsigned port, reach_done *done, void *arg) {
  reach *r = new_reach(sb, port, done, arg);
  ip_addr literal;
  if (!ip_parse(host, &literal)) {
    r->lookup = lookup_start(host, on_found, r);
    return r;
  }
  if (egress_address_ok(sb, &literal, port))
    r->list[r->count++] = literal;
  else {
    r->error = EACCES;
    r->refused = literal;
  }
  soon(r);
  return r;
}

reach *reach_address(const sandbox *sb, const ip_addr *address, unsigned port, reach_done *done, void *arg) {
  reach *r = new_reach(sb, port, done, arg);
  r->list[r->count++] = *address;
  soon(r);
  return r;
}

reach *reach_worker(const sandbox *sb, reach_done *done, void *arg) {
  const egress_set *set = &sb->egress;
  reach *r = new_reach(sb, set->port, done, arg);
  /* wrangler's `localhost` may be either family. */
  bool either = strncmp(set->authority, "localhost:", 10) == 0;
  if (ip_parse(set->url_host, &r->list[0])) r->count = 1;
  if (either) (void)ip_parse("::1", &r->list[r->count++]);
  soon(r);
  return r;
}
