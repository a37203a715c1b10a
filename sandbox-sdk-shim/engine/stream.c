/* engine/stream.c - see stream.h. */
#define _GNU_SOURCE
#include "stream.h"

#include "ca.h"
#include "engine.h"
#include "roots.h"

#include <bearssl.h>
#include <errno.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RECORD_MAX    16384u /* plaintext of one record */
#define RECORD_EXTRA  64u    /* head, nonce and tag around it, rounded up */
#define SESSIONS_SIZE 65536u /* bytes of sessions that can be resumed, of all sandboxes together */

typedef struct tls {
  br_ssl_engine_context *eng; /* of the one that is used */
  union {
    br_ssl_server_context sc;
    br_ssl_client_context cc;
  };
  br_x509_minimal_context xc; /* of a client */
  size_t held;                /* bytes put and not yet in a record */
  unsigned char room[BR_SSL_BUFSIZE_BIDI];
  uint8_t der[X509_CERT_MAX];
  br_x509_certificate chain[1];
} tls;

struct stream {
  int fd, error;
  struct event *rd, *wr;
  stream_ready *ready;
  void *arg;
  tls *tls;
  char *in, *out;
  size_t in_off, in_len, out_off, out_len;
  char *early; /* read before TLS began, not yet given to it */
  size_t early_off, early_len;
  bool connecting, got_end, ending, shut;
};

static br_ssl_session_cache_lru sessions;
static unsigned char sessions_room[SESSIONS_SIZE];

/* ---- TLS ---- */

static void send_out(stream *s);

bool stream_start_tls(stream *s, const char *name) {
  static bool sessions_ready;
  if (!sessions_ready) br_ssl_session_cache_lru_init(&sessions, sessions_room, sizeof sessions_room);
  sessions_ready = true;
  /* Fast first: the hardware's AES where there is one. Forward secret and authenticated only. */
  static const uint16_t suites[] = {BR_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                                    BR_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                                    BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256};
  static const char *const protocols[] = {"http/1.1"};
  tls *t = calloc(1, sizeof *t);
  if (t == NULL) abort();
  size_t len;
  if (!ca_leaf(name, t->der, &len)) {
    free(t);
    return false;
  }
  t->chain[0] = (br_x509_certificate){t->der, len};
  br_ssl_server_init_full_ec(&t->sc, t->chain, 1, BR_KEYTYPE_EC, &ca_leaf_key()->secret);
  br_ssl_engine_context *eng = t->eng = &t->sc.eng;
  br_ssl_engine_set_versions(eng, BR_TLS12, BR_TLS12);
  br_ssl_engine_set_suites(eng, suites, sizeof suites / sizeof suites[0]);
  br_ssl_engine_add_flags(eng, BR_OPT_ENFORCE_SERVER_PREFERENCES | BR_OPT_NO_RENEGOTIATION);
  br_ssl_engine_set_protocol_names(eng, (const char **)(uintptr_t)protocols, 1);
  br_ssl_server_set_cache(&t->sc, &sessions.vtable);
  br_ssl_engine_set_buffer(eng, t->room, sizeof t->room, 1);
  if (br_ssl_server_reset(&t->sc) == 0) {
    free(t);
    return false;
  }
  s->tls = t;
  if (s->in_len > 0) {
    s->early = s->in;
    s->early_off = s->in_off;
    s->early_len = s->in_len;
    s->in = NULL;
    s->in_off = s->in_len = 0;
  }
  event_active(s->rd, EV_READ, 0);
  return true;
}

bool stream_connect_tls(stream *s, const char *name) {
  static const char *const protocols[] = {"http/1.1"};
  size_t count;
  const br_x509_trust_anchor *trusted = roots(&count);
  tls *t = calloc(1, sizeof *t);
  if (t == NULL) abort();
  br_ssl_client_init_full(&t->cc, &t->xc, trusted, count);
  br_ssl_engine_context *eng = t->eng = &t->cc.eng;
  br_ssl_engine_set_versions(eng, BR_TLS12, BR_TLS12);
  br_ssl_engine_add_flags(eng, BR_OPT_NO_RENEGOTIATION);
  br_ssl_engine_set_protocol_names(eng, (const char **)(uintptr_t)protocols, 1);
  br_ssl_engine_set_buffer(eng, t->room, sizeof t->room, 1);
  if (br_ssl_client_reset(&t->cc, name, 0) == 0) {
    free(t);
    return false;
  }
  s->tls = t;
  send_out(s);
  return true;
}

const char *stream_tls_trouble(const stream *s) {
  switch (s->tls == NULL ? BR_ERR_OK : br_ssl_engine_last_error(s->tls->eng)) {
  case BR_ERR_OK:
    return "the connection ended";
  case BR_ERR_X509_NOT_TRUSTED:
    return "its certificate is signed by no authority that this machine trusts";
  case BR_ERR_X509_EXPIRED:
    return "its certificate has expired or is not valid yet";
  case BR_ERR_X509_BAD_SERVER_NAME:
    return "its certificate is for another name";
  case BR_ERR_RECV_FATAL_ALERT + BR_ALERT_PROTOCOL_VERSION:
  case BR_ERR_BAD_VERSION:
  case BR_ERR_UNSUPPORTED_VERSION:
    return "it does not speak TLS 1.2";
  default:
    return "the TLS handshake failed";
  }
}

/* Records that are ready to go, as far as there is room for them. */
static void tls_collect(stream *s) {
  br_ssl_engine_context *eng = s->tls->eng;
  for (;;) {
    size_t len;
    unsigned char *p = br_ssl_engine_sendrec_buf(eng, &len);
    if (p == NULL) return;
    if (s->out == NULL && (s->out = malloc(STREAM_OUT_ROOM)) == NULL) abort();
    if (s->out_off > 0) {
      memmove(s->out, s->out + s->out_off, s->out_len);
      s->out_off = 0;
    }
    if (len > STREAM_OUT_ROOM - s->out_len) len = STREAM_OUT_ROOM - s->out_len;
    if (len == 0) return;
    memcpy(s->out + s->out_len, p, len);
    s->out_len += len;
    br_ssl_engine_sendrec_ack(eng, len);
  }
}

/* ---- input ---- */

static size_t in_room(stream *s) {
  if (s->in == NULL && (s->in = malloc(STREAM_IN_ROOM)) == NULL) abort();
  if (s->in_len == 0) {
    s->in_off = 0;
  } else if (s->in_off > 0 && s->in_off + s->in_len == STREAM_IN_ROOM) {
    memmove(s->in, s->in + s->in_off, s->in_len);
    s->in_off = 0;
  }
  return STREAM_IN_ROOM - s->in_off - s->in_len;
}

/* recv, from what was read early first. -1 with EAGAIN when there is none, 0 at the end. */
static ssize_t source(stream *s, void *to, size_t cap) {
  if (s->early != NULL) {
    size_t n = s->early_len < cap ? s->early_len : cap;
    memcpy(to, s->early + s->early_off, n);
    s->early_off += n;
    s->early_len -= n;
    if (s->early_len == 0) {
      free(s->early);
      s->early = NULL;
    }
    return (ssize_t)n;
  }
  ssize_t n;
  do
    n = recv(s->fd, to, cap, MSG_DONTWAIT);
  while (n < 0 && errno == EINTR);
  return n;
}

static void fail(stream *s, int error) {
  if (s->error == 0) s->error = error;
  s->in_len = 0;
}

static void fill_plain(stream *s) {
  for (int turns = 0; turns < 2; turns++) {
    size_t room = in_room(s);
    if (room == 0) return;
    ssize_t n = source(s, s->in + s->in_off + s->in_len, room);
    if (n > 0) {
      s->in_len += (size_t)n;
      if ((size_t)n < room) return;
    } else {
      if (n == 0)
        s->got_end = true;
      else if (errno != EAGAIN)
        fail(s, errno);
      return;
    }
  }
}

/* Plaintext that is there. */
static void tls_take_app(stream *s) {
  br_ssl_engine_context *eng = s->tls->eng;
  size_t len;
  unsigned char *p;
  while ((p = br_ssl_engine_recvapp_buf(eng, &len)) != NULL) {
    size_t room = in_room(s);
    if (room == 0) return;
    if (len > room) len = room;
    memcpy(s->in + s->in_off + s->in_len, p, len);
    s->in_len += len;
    br_ssl_engine_recvapp_ack(eng, len);
  }
}

static void tls_check(stream *s) {
  br_ssl_engine_context *eng = s->tls->eng;
  if (br_ssl_engine_current_state(eng) != BR_SSL_CLOSED) return;
  int why = br_ssl_engine_last_error(eng);
  tls_collect(s); /* the alert that says so */
  s->got_end = true;
  if (why != BR_ERR_OK && s->error == 0) {
    log_line(LOG_DEBUG, "TLS ended: BearSSL error %d", why);
    /* In the clear of what came before it nothing is wrong; what follows will not come. */
    fail(s, EPROTO);
  }
}

static void fill_tls(stream *s) {
  br_ssl_engine_context *eng = s->tls->eng;
  for (int turns = 0; turns < 16 && s->error == 0; turns++) {
    tls_take_app(s);
    tls_collect(s);
    size_t len;
    unsigned char *p = br_ssl_engine_recvrec_buf(eng, &len);
    if (p == NULL) break;
    ssize_t n = source(s, p, len);
    if (n <= 0) {
      if (n == 0)
        s->got_end = true;
      else if (errno != EAGAIN)
        fail(s, errno);
      break;
    }
    br_ssl_engine_recvrec_ack(eng, (size_t)n);
  }
  tls_take_app(s);
  tls_collect(s);
  tls_check(s);
}

static void fill(stream *s) {
  if (s->connecting || s->error != 0 || s->got_end) return;
  if (s->tls != NULL)
    fill_tls(s);
  else
    fill_plain(s);
}

/* The socket is watched while there is room for what it may bring. */
static void watch_input(stream *s) {
  bool room = s->in_len < STREAM_IN_ROOM;
  if (s->error == 0 && !s->got_end && !s->connecting && room)
    event_add(s->rd, NULL);
  else
    event_del(s->rd);
}

/* ---- output ---- */

static void send_out(stream *s) {
  while (s->error == 0 && !s->connecting) {
    if (s->tls != NULL) tls_collect(s);
    if (s->out_len == 0) break;
    ssize_t n = send(s->fd, s->out + s->out_off, s->out_len, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      event_add(s->wr, NULL);
      return;
    }
    if (n < 0) {
      /* The peer takes no more, but its last words, which may say why, can still be read. */
      s->out_len = 0;
      s->ending = s->shut = true;
      if (s->got_end) fail(s, errno);
      return;
    }
    s->out_off += (size_t)n;
    s->out_len -= (size_t)n;
    if (s->out_len == 0) s->out_off = 0;
  }
  if (s->ending && !s->shut && s->error == 0 && !s->connecting) {
    s->shut = true;
    shutdown(s->fd, SHUT_WR);
  }
}

static void on_read(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  stream *s = arg;
  fill(s);
  if (s->out_len > 0) send_out(s);
  watch_input(s);
  s->ready(s->arg);
}

static void on_write(evutil_socket_t fd, short what, void *arg) {
  (void)what;
  stream *s = arg;
  if (s->connecting) {
    int error = 0;
    socklen_t len = sizeof error;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0) error = errno;
    s->connecting = false;
    if (error != 0) fail(s, error);
  }
  send_out(s);
  watch_input(s);
  s->ready(s->arg);
}

/* ---- life ---- */

stream *stream_new(int fd, stream_ready *ready, void *arg) {
  stream *s = calloc(1, sizeof *s);
  if (s == NULL) abort();
  int one = 1;
  s->fd = fd;
  s->ready = ready;
  s->arg = arg;
  evutil_make_socket_nonblocking(fd);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  s->rd = event_new(base, fd, EV_READ | EV_PERSIST, on_read, s);
  s->wr = event_new(base, fd, EV_WRITE, on_write, s);
  if (s->rd == NULL || s->wr == NULL) abort();
  event_add(s->rd, NULL);
  return s;
}

stream *stream_connect(const struct sockaddr *sa, socklen_t len, stream_ready *ready, void *arg) {
  int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return NULL;
  if (connect(fd, sa, len) != 0 && errno != EINPROGRESS) {
    int saved = errno;
    close(fd);
    errno = saved;
    return NULL;
  }
  stream *s = stream_new(fd, ready, arg);
  s->connecting = true;
  event_del(s->rd);
  event_add(s->wr, NULL);
  return s;
}

void stream_set_ready(stream *s, stream_ready *ready, void *arg) {
  s->ready = ready;
  s->arg = arg;
}

void stream_free(stream *s, bool reset) {
  if (s == NULL) return;
  const struct linger at_once = {1, 0};
  if (reset) setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  event_free(s->rd);
  event_free(s->wr);
  close(s->fd);
  /* Keys, and what they protected. */
  if (s->tls != NULL) explicit_bzero(s->tls, sizeof *s->tls);
  free(s->tls);
  free(s->early);
  free(s->in);
  free(s->out);
  free(s);
}

bool stream_is_up(const stream *s) {
  return !s->connecting && s->error == 0;
}

int stream_error(const stream *s) {
  return s->error;
}

const char *stream_input(const stream *s, size_t *len) {
  *len = s->in_len;
  return s->in == NULL ? "" : s->in + s->in_off;
}

void stream_take(stream *s, size_t len) {
  if (len == 0) return;
  s->in_off += len;
  s->in_len -= len;
  if (s->in_len == 0) s->in_off = 0;
  /* Plaintext that had no room until now comes without the socket's doing. */
  if (s->tls != NULL && s->error == 0 && s->in_len < STREAM_IN_ROOM / 2) tls_take_app(s);
  watch_input(s);
}

bool stream_has_ended(const stream *s) {
  return s->got_end;
}

bool stream_at_end(const stream *s) {
  return s->got_end && s->in_len == 0;
}

size_t stream_room(const stream *s) {
  if (s->error != 0 || s->connecting || s->ending) return 0;
  size_t left = STREAM_OUT_ROOM - s->out_len;
  if (s->tls == NULL) return left;
  left = left > s->tls->held ? left - s->tls->held : 0;
  /* Before the handshake is over nothing can be sent; afterwards each record costs a little. */
  if ((br_ssl_engine_current_state(s->tls->eng) & BR_SSL_SENDAPP) == 0) return 0;
  size_t extra = (left / RECORD_MAX + 2) * RECORD_EXTRA;
  return left > extra ? left - extra : 0;
}

static void put_tls(stream *s, const char *data, size_t len) {
  br_ssl_engine_context *eng = s->tls->eng;
  while (len > 0) {
    size_t room;
    unsigned char *p = br_ssl_engine_sendapp_buf(eng, &room);
    if (p == NULL) {
      tls_check(s);
      fail(s, EPROTO);
      return;
    }
    size_t n = room < len ? room : len;
    memcpy(p, data, n);
    br_ssl_engine_sendapp_ack(eng, n);
    /* A record that is full goes out by itself. */
    s->tls->held = n == room ? 0 : s->tls->held + n;
    data += n;
    len -= n;
    tls_collect(s);
  }
}

void stream_put(stream *s, const void *data, size_t len) {
  if (len == 0 || s->error != 0) return;
  if (s->out == NULL && (s->out = malloc(STREAM_OUT_ROOM)) == NULL) abort();
  if (s->tls != NULL) {
    put_tls(s, data, len);
    return;
  }
  if (len > STREAM_OUT_ROOM - s->out_len) abort();
  if (s->out_off > 0 && s->out_off + s->out_len + len > STREAM_OUT_ROOM) {
    memmove(s->out, s->out + s->out_off, s->out_len);
    s->out_off = 0;
  }
  memcpy(s->out + s->out_off + s->out_len, data, len);
  s->out_len += len;
}

static void seal_record(stream *s) {
  br_ssl_engine_flush(s->tls->eng, 0);
  s->tls->held = 0;
}

void stream_flush(stream *s) {
  if (s->error != 0 || s->connecting) return;
  if (s->tls != NULL) seal_record(s);
  send_out(s);
}

bool stream_is_flushed(const stream *s) {
  return s->out_len == 0;
}

void stream_end(stream *s) {
  if (s->ending) return;
  if (s->tls != NULL && s->error == 0) {
    seal_record(s);
    br_ssl_engine_close(s->tls->eng);
  }
  s->ending = true;
  send_out(s);
}

void stream_rest(stream *s) {
  if (s->in_len == 0) {
    free(s->in);
    s->in = NULL;
    s->in_off = 0;
  }
  if (s->out_len == 0) {
    free(s->out);
    s->out = NULL;
    s->out_off = 0;
  }
}
