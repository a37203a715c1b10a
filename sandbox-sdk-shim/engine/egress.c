/* engine/egress.c - what may leave a sandbox: settings, and the decisions that follow from them. */
#define _GNU_SOURCE
#include "egress.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- settings ---- */

static char *dup_or_die(const char *s) {
  char *d = strdup(s);
  if (d == NULL) abort();
  return d;
}

static void free_rules(egress_rules *r) {
  for (size_t i = 0; i < r->count; i++)
    free(r->list[i].glob);
  free(r->list);
}

void egress_free(egress_set *set) {
  free(set->url_host);
  free(set->authority);
  free(set->path);
  free(set->token);
  free_rules(&set->http);
  free_rules(&set->https);
  free(set->addresses);
  *set = (egress_set){0};
}

static bool plain_text(const char *s) {
  for (; *s != '\0'; s++)
    if ((unsigned char)*s <= ' ' || (unsigned char)*s >= 0x7f) return false;
  return true;
}

static const char *parse_url(const char *url, egress_set *set) {
  struct evhttp_uri *uri = plain_text(url) ? evhttp_uri_parse(url) : NULL;
  if (uri == NULL) return "egress.url is not a URL";
  const char *scheme = evhttp_uri_get_scheme(uri), *host = evhttp_uri_get_host(uri);
  const char *path = evhttp_uri_get_path(uri), *query = evhttp_uri_get_query(uri);
  const char *wrong = NULL;
  ip_addr address;
  if (scheme == NULL || strcmp(scheme, "http") != 0 || host == NULL) {
    wrong = "egress.url must be an http URL";
  } else if (strcmp(host, "localhost") != 0 &&
             (!ip_parse(host, &address) ||
              (ip_is_v4(&address) ? ip_v4(&address) >> 24 != 127
                                  : strcmp(host, "[::1]") != 0 && strcmp(host, "::1") != 0))) {
    /* The engine speaks for the sandbox there with its own network: nothing but loopback. */
    wrong = "egress.url must be on loopback";
  } else {
    int port = evhttp_uri_get_port(uri);
    bool v6 = strchr(host, ':') != NULL;
    set->port = port < 0 ? 80 : (unsigned)port;
    set->url_host = dup_or_die(strcmp(host, "localhost") == 0 ? "127.0.0.1" : v6 ? "::1" : host);
    if (asprintf(&set->authority, "%s:%u", v6 ? "[::1]" : host, set->port) < 0) abort();
    if (asprintf(&set->path, "%s%s%s", path == NULL || *path == '\0' ? "/" : path, query == NULL ? "" : "?",
                 query == NULL ? "" : query) < 0)
      abort();
  }
  evhttp_uri_free(uri);
  return wrong;
}

static bool glob_ok(const char *s) {
  size_t n = strlen(s);
  if (n == 0 || n > ENGINE_HOST_MAX) return false;
  for (; *s != '\0'; s++)
    if (!((*s >= 'a' && *s <= 'z') || (*s >= '0' && *s <= '9') || strchr("-_.*", *s) != NULL)) return false;
  return true;
}

/* "<address | network | host with stars>[:port]", as the platform's interceptOutboundHttp takes it. */
static bool parse_rule(const char *text, unsigned usual_port, egress_rule *out) {
  char room[ENGINE_HOST_MAX + 16];
  size_t n = strlen(text);
  egress_rule r = {.port = usual_port};
  if (n == 0 || n >= sizeof room) return false;
  for (size_t i = 0; i <= n; i++)
    room[i] = text[i] >= 'A' && text[i] <= 'Z' ? (char)(text[i] + 32) : text[i];
  if (ip_net_parse(room, &r.net)) {
    if (r.net.port != 0) r.port = r.net.port;
    r.net.port = 0;
    *out = r;
    return true;
  }
  char *colon = strchr(room, ':');
  if (colon != NULL) {
    *colon = '\0';
    if (!port_ok(colon + 1, &r.port)) return false;
  }
  n = strlen(room);
  if (n > 1 && room[n - 1] == '.') room[n - 1] = '\0';
  if (!glob_ok(room)) return false;
  r.glob = dup_or_die(room);
  *out = r;
  return true;
}

static bool parse_rules(const cJSON *v, unsigned usual_port, egress_rules *out) {
  if (v == NULL || cJSON_IsNull(v)) return true;
  int n = cJSON_IsArray(v) ? cJSON_GetArraySize(v) : -1;
  if (n < 0 || n > (int)ENGINE_HOSTS_MAX) return false;
  /* And one more for `all`. */
  out->list = calloc((size_t)n + 1, sizeof *out->list);
  if (out->list == NULL) abort();
  const cJSON *h;
  cJSON_ArrayForEach(h, v) {
    if (!cJSON_IsString(h) || !parse_rule(h->valuestring, usual_port, &out->list[out->count])) return false;
    out->count++;
  }
  return true;
}

static const char *parse_addresses(const cJSON *v, egress_set *set) {
  if (v == NULL || cJSON_IsNull(v)) return NULL;
  int n = cJSON_IsArray(v) ? cJSON_GetArraySize(v) : -1;
  if (n < 0 || n > (int)ENGINE_HOSTS_MAX)
    return "egress.allow_addresses must be an array of at most 256 strings";
  set->addresses = calloc((size_t)n + 1, sizeof *set->addresses);
  if (set->addresses == NULL) abort();
  const cJSON *a;
  cJSON_ArrayForEach(a, v) {
    if (!cJSON_IsString(a) || !ip_net_parse(a->valuestring, &set->addresses[set->address_count]))
      return "egress.allow_addresses: not ADDRESS[/BITS][:PORT]";
    set->address_count++;
  }
  return NULL;
}

const char *egress_parse(const cJSON *v, egress_set *out) {
  egress_set set = {0};
  const char *wrong = NULL;
  if (v == NULL || cJSON_IsNull(v)) {
    egress_free(out);
    return NULL;
  }
  if (!cJSON_IsObject(v)) return "egress must be an object";
  const cJSON *url = cJSON_GetObjectItemCaseSensitive(v, "url");
  const cJSON *token = cJSON_GetObjectItemCaseSensitive(v, "token");
  if (url != NULL && !cJSON_IsNull(url))
    wrong = cJSON_IsString(url) ? parse_url(url->valuestring, &set) : "egress.url must be a string";
  if (wrong == NULL && token != NULL && !cJSON_IsNull(token)) {
    if (!cJSON_IsString(token) || !plain_text(token->valuestring) || strlen(token->valuestring) > 4096)
      wrong = "egress.token must be a printable string";
    else
      set.token = dup_or_die(token->valuestring);
  }
  if (wrong == NULL && (!parse_rules(cJSON_GetObjectItemCaseSensitive(v, "hosts"), 80, &set.http) ||
                        !parse_rules(cJSON_GetObjectItemCaseSensitive(v, "https_hosts"), 443, &set.https)))
    wrong = "egress.hosts and egress.https_hosts must be arrays of at most 256 hosts, addresses or networks, "
            "each with an optional port";
  if (wrong == NULL && cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(v, "all"))) {
    if (set.http.list == NULL && (set.http.list = calloc(1, sizeof *set.http.list)) == NULL) abort();
    set.http.list[set.http.count++] = (egress_rule){.glob = dup_or_die("*"), .port = 80};
  }
  if (wrong == NULL) wrong = parse_addresses(cJSON_GetObjectItemCaseSensitive(v, "allow_addresses"), &set);
  if (wrong != NULL) {
    egress_free(&set);
    return wrong;
  }
  egress_free(out);
  *out = set;
  return NULL;
}

void egress_write_hosts(const sandbox *sb) {
  csn_buf b = {0};
  csn_buf_str(&b, "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
  csn_buf_fmt(&b, "127.0.0.1 %s\n", sb->name);
  int fd = openat(sb->dir_fd, "hosts", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0 || fchmod(fd, 0644) != 0 || !csn_write_all(fd, b.p, b.len))
    log_line(LOG_WARN, "%s: cannot write hosts: %s", sb->name, strerror(errno));
  if (fd >= 0) close(fd);
  csn_buf_free(&b);
}

void egress_changed(sandbox *sb) {
  sb->rules++;
  idle_forget_hosts(sb);
}

void egress_close(sandbox *sb) {
  out_close(sb);
  idle_close(sb);
  net_close(sb);
  namemap_free(sb->names);
  sb->names = NULL;
}

/* ---- decisions ---- */

static bool matches(const egress_rules *rules, const char *host, unsigned port) {
  ip_addr address;
  const bool literal = ip_parse(host, &address);
  for (size_t i = 0; i < rules->count; i++) {
    const egress_rule *r = &rules->list[i];
    if (r->port != port) continue;
    if (r->glob != NULL ? host_matches(r->glob, host) : literal && ip_net_has(&r->net, &address, port))
      return true;
  }
  return false;
}

egress_verdict egress_decide(const sandbox *sb, bool tls, const char *host, unsigned port) {
  const egress_set *set = &sb->egress;
  if (set->url_host != NULL && matches(tls ? &set->https : &set->http, host, port)) return EGRESS_INTERCEPT;
  return sb->internet ? EGRESS_PASS : EGRESS_DENY;
}

bool egress_has_port(const sandbox *sb, unsigned port) {
  const egress_rules *const both[] = {&sb->egress.http, &sb->egress.https};
  for (int k = 0; k < 2; k++)
    for (size_t i = 0; i < both[k]->count; i++)
      if (both[k]->list[i].port == port) return true;
  return false;
}

/* Whether this machine has the address itself: its own services may trust whoever comes from inside. */
static bool is_local(const ip_addr *a) {
  struct sockaddr_storage sa;
  socklen_t len = ip_to_sockaddr(a, 0, &sa);
  int fd = socket(sa.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  bool local = fd >= 0 && bind(fd, (const struct sockaddr *)&sa, len) == 0;
  if (fd >= 0) close(fd);
  return local;
}

bool egress_address_ok(const sandbox *sb, const ip_addr *a, unsigned port) {
  for (size_t i = 0; i < sb->egress.address_count; i++)
    if (ip_net_has(&sb->egress.addresses[i], a, port)) return true;
  return ip_public(a) && !is_local(a);
}
