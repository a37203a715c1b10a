/* engine/egress.c - requests that leave a sandbox.
 *
 * The launcher made a listening socket in the sandbox's own network; the engine accepts on
 * it. Each request for an intercepted host is sent to the Worker's loopback URL, with the
 * token and the URL that was asked for; anything else is refused. Nothing here opens a
 * connection to another address than loopback. */
#define _GNU_SOURCE
#include "engine.h"

#include <ctype.h>
#include <errno.h>
#include <event2/bufferevent.h>
#include <event2/keyvalq_struct.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define BEHIND_MAX (1024u * 1024) /* bytes of an answer that wait for the sandbox to read them */

struct forward {
  sandbox *sb;
  struct evhttp_request *down; /* from the sandbox; NULL once answered or gone */
  struct evhttp_request *up;   /* to the Worker; NULL once done */
  struct evhttp_connection *up_conn;
  bool started, no_body, paused;
  forward *next;
};

/* ---- settings ---- */

static char *dup_or_die(const char *s) {
  char *d = strdup(s);
  if (d == NULL) abort();
  return d;
}

void egress_free(egress_set *set) {
  free(set->url_host);
  free(set->authority);
  free(set->path);
  free(set->token);
  for (size_t i = 0; i < set->host_count; i++)
    free(set->hosts[i]);
  free(set->hosts);
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
  if (scheme == NULL || strcmp(scheme, "http") != 0 || host == NULL) {
    wrong = "egress.url must be an http URL";
  } else if (strcmp(host, "localhost") != 0 && strncmp(host, "127.", 4) != 0 && strcmp(host, "::1") != 0 &&
             strcmp(host, "[::1]") != 0) {
    /* The engine speaks for the sandbox there with its own network: nothing but loopback. */
    wrong = "egress.url must be on loopback";
  } else {
    int port = evhttp_uri_get_port(uri);
    set->port = port < 0 ? 80 : (unsigned)port;
    set->v6 = strchr(host, ':') != NULL;
    set->url_host = dup_or_die(strcmp(host, "localhost") == 0 ? "127.0.0.1" : set->v6 ? "::1" : host);
    if (asprintf(&set->authority, "%s:%u", set->v6 ? "[::1]" : host, set->port) < 0) abort();
    if (asprintf(&set->path, "%s%s%s", path == NULL || *path == '\0' ? "/" : path, query == NULL ? "" : "?",
                 query == NULL ? "" : query) < 0)
      abort();
    struct in_addr a4;
    if (!set->v6 && evutil_inet_pton(AF_INET, set->url_host, &a4) != 1)
      wrong = "egress.url must be on loopback";
  }
  evhttp_uri_free(uri);
  return wrong;
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
  const cJSON *hosts = cJSON_GetObjectItemCaseSensitive(v, "hosts");
  const cJSON *all = cJSON_GetObjectItemCaseSensitive(v, "all");
  if (url != NULL && !cJSON_IsNull(url))
    wrong = cJSON_IsString(url) ? parse_url(url->valuestring, &set) : "egress.url must be a string";
  if (wrong == NULL && token != NULL && !cJSON_IsNull(token)) {
    if (!cJSON_IsString(token) || !plain_text(token->valuestring) || strlen(token->valuestring) > 4096)
      wrong = "egress.token must be a printable string";
    else
      set.token = dup_or_die(token->valuestring);
  }
  if (wrong == NULL && hosts != NULL && !cJSON_IsNull(hosts)) {
    int n = cJSON_IsArray(hosts) ? cJSON_GetArraySize(hosts) : -1;
    if (n < 0 || n > (int)ENGINE_HOSTS_MAX) wrong = "egress.hosts must be an array of at most 256 strings";
    set.hosts = calloc((size_t)(n > 0 ? n : 1), sizeof *set.hosts);
    if (set.hosts == NULL) abort();
    const cJSON *h;
    if (wrong == NULL) cJSON_ArrayForEach(h, hosts) {
        char host[ENGINE_HOST_MAX + 1];
        unsigned port;
        const char *text = cJSON_IsString(h) ? h->valuestring : "";
        bool wild = strncmp(text, "*.", 2) == 0;
        if (!host_split(wild ? text + 2 : text, host, &port)) {
          wrong = "egress.hosts: not a host name";
          break;
        }
        char *copy = NULL;
        if (asprintf(&copy, "%s%s", wild ? "*." : "", host) < 0) abort();
        set.hosts[set.host_count++] = copy;
      }
  }
  set.all = cJSON_IsTrue(all);
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
  for (size_t i = 0; i < sb->egress.host_count; i++)
    if (sb->egress.hosts[i][0] != '*' && sb->egress.hosts[i][0] != '[')
      csn_buf_fmt(&b, EGRESS_ADDRESS " %s\n", sb->egress.hosts[i]);
  /* In place: the file is bind-mounted inside, and a new one would not be seen there. */
  int fd = openat(sb->dir_fd, "hosts", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0 || fchmod(fd, 0644) != 0 || pwrite(fd, b.p, b.len, 0) != (ssize_t)b.len ||
      ftruncate(fd, (off_t)b.len) != 0)
    log_line(LOG_WARN, "%s: cannot write hosts: %s", sb->name, strerror(errno));
  if (fd >= 0) close(fd);
  csn_buf_free(&b);
}

static bool allowed(const egress_set *set, const char *host) {
  if (set->url_host == NULL) return false;
  if (set->all) return true;
  for (size_t i = 0; i < set->host_count; i++)
    if (host_matches(set->hosts[i], host)) return true;
  return false;
}

/* ---- forwarding ---- */

static void free_if_done(forward *f) {
  if (f->down != NULL || f->up != NULL) return;
  for (forward **at = &f->sb->forwards; *at != NULL; at = &(*at)->next) {
    if (*at != f) continue;
    *at = f->next;
    break;
  }
  free(f);
}

static void answer_error(struct evhttp_request *req, int status, const char *code, const char *host,
                         const char *text) {
  csn_buf b = {0};
  csn_buf_fmt(&b, "{\"error\":{\"code\":\"%s\",\"message\":", code);
  csn_json_cstr(&b, text);
  csn_buf_str(&b, ",\"host\":");
  csn_json_cstr(&b, host);
  csn_buf_str(&b, "}}");
  struct evkeyvalq *h = evhttp_request_get_output_headers(req);
  evhttp_add_header(h, "Content-Type", "application/json");
  evhttp_add_header(h, "Connection", "close");
  if (status == 403) evhttp_add_header(h, "X-Caisson-Denied", "egress");
  struct evbuffer *body = evbuffer_new();
  if (body == NULL) abort();
  evbuffer_add(body, b.p, b.len);
  csn_buf_free(&b);
  evhttp_send_reply(req, status, NULL, body);
  evbuffer_free(body);
}

static void on_down_closed(struct evhttp_connection *conn, void *arg) {
  (void)conn;
  forward *f = arg;
  struct evhttp_request *down = f->down;
  f->down = NULL;
  /* Off its connection already: answering only frees it. */
  if (down != NULL && evhttp_request_get_connection(down) == NULL) evhttp_send_reply_end(down);
  if (f->up != NULL) {
    f->up = NULL;
    evhttp_connection_free(f->up_conn); /* no callback comes from this */
  }
  free_if_done(f);
}

static void release_down(forward *f) {
  struct evhttp_connection *conn = f->down == NULL ? NULL : evhttp_request_get_connection(f->down);
  if (conn != NULL) evhttp_connection_set_closecb(conn, NULL, NULL);
}

static bool hop_by_hop(const char *name, const char *connection) {
  static const char *const list[] = {"Connection",
                                     "Keep-Alive",
                                     "Proxy-Authenticate",
                                     "Proxy-Authorization",
                                     "Proxy-Connection",
                                     "TE",
                                     "Trailer",
                                     "Transfer-Encoding",
                                     "Upgrade",
                                     NULL};
  for (size_t i = 0; list[i] != NULL; i++)
    if (strcasecmp(name, list[i]) == 0) return true;
  size_t n = strlen(name);
  for (const char *at = connection; at != NULL && *at != '\0';) {
    at += strspn(at, " \t,");
    size_t len = strcspn(at, " \t,");
    if (len == n && strncasecmp(at, name, n) == 0) return true;
    at += len;
  }
  return false;
}

static void on_down_drained(struct evhttp_connection *conn, void *arg) {
  (void)conn;
  forward *f = arg;
  if (!f->paused || f->up == NULL) return;
  f->paused = false;
  bufferevent_enable(evhttp_connection_get_bufferevent(f->up_conn), EV_READ);
}

static int on_up_headers(struct evhttp_request *up, void *arg) {
  forward *f = arg;
  int status = evhttp_request_get_response_code(up);
  if (f->down == NULL || status < 200) return 0;
  struct evkeyvalq *in = evhttp_request_get_input_headers(up),
                   *out = evhttp_request_get_output_headers(f->down);
  const char *connection = evhttp_find_header(in, "Connection");
  for (struct evkeyval *h = in->tqh_first; h != NULL; h = h->next.tqe_next)
    if (!hop_by_hop(h->key, connection)) evhttp_add_header(out, h->key, h->value);
  f->started = true;
  f->no_body = status == 204 || status == 304 || evhttp_request_get_command(f->down) == EVHTTP_REQ_HEAD;
  evhttp_send_reply_start(f->down, status, evhttp_request_get_response_code_line(up));
  return 0;
}

static void on_up_data(struct evhttp_request *up, void *arg) {
  forward *f = arg;
  struct evbuffer *in = evhttp_request_get_input_buffer(up);
  if (f->down == NULL || !f->started || f->no_body || evbuffer_get_length(in) == 0) return;
  evhttp_send_reply_chunk_with_cb(f->down, in, on_down_drained, f);
  struct evhttp_connection *conn = f->down == NULL ? NULL : evhttp_request_get_connection(f->down);
  if (conn == NULL) return;
  struct bufferevent *bev = evhttp_connection_get_bufferevent(conn);
  if (evbuffer_get_length(bufferevent_get_output(bev)) > BEHIND_MAX) {
    f->paused = true;
    bufferevent_disable(evhttp_connection_get_bufferevent(f->up_conn), EV_READ);
  }
}

static void on_up_error(enum evhttp_request_error error, void *arg) {
  forward *f = arg;
  (void)error;
  f->no_body = true; /* tells on_up_done that the answer is not whole */
  f->paused = false;
  f->up = NULL;
}

static void on_up_done(struct evhttp_request *up, void *arg) {
  forward *f = arg;
  bool failed = up == NULL || evhttp_request_get_response_code(up) == 0 || f->up == NULL;
  f->up = NULL;
  struct evhttp_request *down = f->down;
  if (down != NULL) {
    release_down(f);
    f->down = NULL;
    struct evhttp_connection *conn = evhttp_request_get_connection(down);
    if (conn != NULL) gate_answered(f->sb->egress_gate, conn);
    if (!f->started) {
      answer_error(down, 502, "EGRESS_UNREACHABLE", "",
                   "the Worker that handles outbound requests does not answer");
    } else if (failed && conn != NULL) {
      /* A proper end would make half an answer look whole. */
      evhttp_connection_free(conn);
    } else {
      evhttp_send_reply_end(down);
    }
  }
  free_if_done(f);
}

/* Which loopback family the Worker listens on: wrangler's `localhost` may be either. */
static const char *reachable_host(egress_set *set) {
  if (strncmp(set->authority, "localhost:", 10) != 0) return set->url_host;
  for (int tries = 0; tries < 2; tries++) {
    struct sockaddr_in a4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)set->port)};
    struct sockaddr_in6 a6 = {
        .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)set->port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    a4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(set->v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int rc = fd < 0    ? -1
             : set->v6 ? connect(fd, (struct sockaddr *)&a6, sizeof a6)
                       : connect(fd, (struct sockaddr *)&a4, sizeof a4);
    bool refused = rc != 0 && errno != EINPROGRESS;
    if (!refused && rc != 0) {
      /* On loopback the answer is there at once. */
      int err = 0;
      socklen_t len = sizeof err;
      refused = getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) == 0 && err != 0;
    }
    if (fd >= 0) close(fd);
    if (!refused) break;
    set->v6 = !set->v6;
  }
  return set->v6 ? "::1" : "127.0.0.1";
}

static void send_up(forward *f, const char *host, unsigned port, const char *path) {
  egress_set *set = &f->sb->egress;
  f->up_conn = evhttp_connection_base_new(base, NULL, reachable_host(set), (uint16_t)set->port);
  f->up = evhttp_request_new(on_up_done, f);
  if (f->up_conn == NULL || f->up == NULL) abort();
  struct timeval forever = {10 * 365 * 86400, 0};
  evhttp_connection_set_timeout_tv(f->up_conn, &forever);
  evhttp_connection_free_on_completion(f->up_conn);
  evhttp_request_set_header_cb(f->up, on_up_headers);
  evhttp_request_set_chunked_cb(f->up, on_up_data);
  evhttp_request_set_error_cb(f->up, on_up_error);
  struct evkeyvalq *in = evhttp_request_get_input_headers(f->down),
                   *out = evhttp_request_get_output_headers(f->up);
  const char *connection = evhttp_find_header(in, "Connection");
  for (struct evkeyval *h = in->tqh_first; h != NULL; h = h->next.tqe_next) {
    if (hop_by_hop(h->key, connection) || strcasecmp(h->key, "Host") == 0 ||
        strcasecmp(h->key, "Content-Length") == 0 || strcasecmp(h->key, "Expect") == 0)
      continue;
    /* The sandbox must not speak with the engine's voice. */
    if (strncasecmp(h->key, "X-Caisson-", 10) == 0) continue;
    evhttp_add_header(out, h->key, h->value);
  }
  evhttp_add_header(out, "Host", set->authority);
  evhttp_add_header(out, "Connection", "close");
  if (set->token != NULL) evhttp_add_header(out, "X-Caisson-Egress-Token", set->token);
  csn_buf url = {0};
  csn_buf_fmt(&url, "http://%s", host);
  if (port != 80) csn_buf_fmt(&url, ":%u", port);
  csn_buf_str(&url, path);
  evhttp_add_header(out, "X-Caisson-Egress-URL", csn_buf_cstr(&url));
  csn_buf_free(&url);
  struct evbuffer *body = evhttp_request_get_input_buffer(f->down);
  enum evhttp_cmd_type method = evhttp_request_get_command(f->down);
  if (evbuffer_get_length(body) > 0 || method == EVHTTP_REQ_POST || method == EVHTTP_REQ_PUT ||
      method == EVHTTP_REQ_PATCH) {
    char len[32];
    snprintf(len, sizeof len, "%zu", evbuffer_get_length(body));
    evhttp_add_header(out, "Content-Length", len);
  }
  evbuffer_add_buffer(evhttp_request_get_output_buffer(f->up), body);
  const char *name = f->sb->name;
  if (evhttp_make_request(f->up_conn, f->up, method, set->path) != 0) {
    /* No socket to be had. evhttp owned the request and has dropped it. */
    log_line(LOG_WARN, "%s: egress request could not be made", name);
    on_up_done(NULL, f);
  }
}

static void on_outbound(struct evhttp_request *req, void *arg) {
  sandbox *sb = arg;
  const char *raw = evhttp_request_get_uri(req);
  const struct evhttp_uri *uri = evhttp_request_get_evhttp_uri(req);
  struct evkeyvalq *in = evhttp_request_get_input_headers(req);
  if (raw == NULL || uri == NULL || !plain_text(raw)) {
    evhttp_send_error(req, HTTP_BADREQUEST, NULL);
    return;
  }
  const char *path = raw, *host_text = evhttp_find_header(in, "Host");
  csn_buf authority = {0};
  if (raw[0] != '/') {
    /* The form a proxy gets: the host in the URI counts, whatever the header says. */
    const char *after = strncasecmp(raw, "http://", 7) == 0 ? raw + 7 : "";
    size_t n = strcspn(after, "/?");
    csn_buf_add(&authority, after, n);
    host_text = csn_buf_cstr(&authority);
    path = after[n] == '/' ? after + n : "/";
  }
  char host[ENGINE_HOST_MAX + 1];
  unsigned port;
  bool good = host_text != NULL && host_split(host_text, host, &port);
  csn_buf_free(&authority);
  if (!good) {
    answer_error(req, 400, "BAD_HOST", "", "the request names no valid host");
    return;
  }
  if (!allowed(&sb->egress, host)) {
    log_line(LOG_INFO, "%s: egress to %s refused", sb->name, host);
    csn_buf text = {0};
    csn_buf_fmt(&text, "host %s is not allowed by this sandbox's network policy", host);
    answer_error(req, 403, "HOST_NOT_ALLOWED", host, csn_buf_cstr(&text));
    csn_buf_free(&text);
    return;
  }
  forward *f = calloc(1, sizeof *f);
  if (f == NULL) abort();
  f->sb = sb;
  f->down = req;
  f->next = sb->forwards;
  sb->forwards = f;
  evhttp_connection_set_closecb(evhttp_request_get_connection(req), on_down_closed, f);
  send_up(f, host, port, path);
}

bool egress_listen(sandbox *sb, int fd) {
  if (sb->egress_http != NULL || evutil_make_socket_nonblocking(fd) != 0) return false;
  struct evhttp *http = evhttp_new(base);
  struct evhttp_bound_socket *bound = http == NULL ? NULL : evhttp_accept_socket_with_handle(http, fd);
  if (bound == NULL) {
    if (http != NULL) evhttp_free(http);
    return false;
  }
  struct timeval forever = {10 * 365 * 86400, 0};
  evhttp_set_timeout_tv(http, &forever);
  evhttp_set_max_headers_size(http, 64 * 1024);
  evhttp_set_max_body_size(http, ENGINE_EGRESS_BODY);
  evhttp_set_allowed_methods(http, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD | EVHTTP_REQ_PUT |
                                       EVHTTP_REQ_DELETE | EVHTTP_REQ_OPTIONS | EVHTTP_REQ_PATCH);
  evhttp_set_gencb(http, on_outbound, sb);
  sb->egress_http = http;
  sb->egress_gate = gate_new(sb->name, http, bound);
  return true;
}

void egress_close(sandbox *sb) {
  if (sb->egress_http != NULL) evhttp_free(sb->egress_http); /* closes each connection: on_down_closed */
  sb->egress_http = NULL;
  if (sb->egress_gate != NULL) gate_free(sb->egress_gate);
  sb->egress_gate = NULL;
}
