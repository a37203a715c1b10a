/* engine/pump.c - joins two stream sockets.
 *
 * Each direction has one fixed buffer: a full one stops reading, which is the back
 * pressure. The end of one direction is passed on as a half-close. */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ROOM (128u * 1024)

typedef struct lane {
  pump *p;
  int from, to;
  struct event *rd, *wr;
  char *room;
  csn_buf passed;   /* what the filter made of the room */
  const char *data; /* room, or passed */
  size_t off, len;
  bool ended;  /* `from` has no more */
  bool closed; /* and `to` has been told */
} lane;

struct pump {
  lane lane[2];
  pump_filter *filter; /* of lane 0 */
  void *filter_arg;
  struct event *end;
  void (*done)(void *arg);
  void *arg;
};

static void destroy(pump *p) {
  int a = p->lane[0].from, b = p->lane[0].to;
  for (int i = 0; i < 2; i++) {
    if (p->lane[i].rd != NULL) event_free(p->lane[i].rd);
    if (p->lane[i].wr != NULL) event_free(p->lane[i].wr);
    free(p->lane[i].room);
    csn_buf_free(&p->lane[i].passed);
  }
  if (p->end != NULL) event_free(p->end);
  close(a);
  close(b);
  free(p);
}

static void on_end(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  pump *p = arg;
  void (*done)(void *) = p->done;
  void *done_arg = p->arg;
  destroy(p);
  done(done_arg);
}

static void finish(pump *p) {
  for (int i = 0; i < 2; i++) {
    event_del(p->lane[i].rd);
    event_del(p->lane[i].wr);
  }
  struct timeval now = {0, 0};
  event_add(p->end, &now);
}

/* Takes what is in the room for sending. */
static bool take(lane *l, size_t len) {
  l->data = l->room;
  l->len = len;
  if (l->p->filter == NULL || l != &l->p->lane[0] || len == 0) return true;
  l->passed.len = 0;
  if (!l->p->filter(l->p->filter_arg, &l->passed, l->room, len)) return false;
  l->data = l->passed.p;
  l->len = l->passed.len;
  return true;
}

/* Moves what can be moved; false when the pair is broken. */
static bool move_lane(lane *l) {
  if (l->closed) return true;
  for (int turns = 0; turns < 8; turns++) {
    while (l->off < l->len) {
      ssize_t n = send(l->to, l->data + l->off, l->len - l->off, MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) {
        event_add(l->wr, NULL);
        return true;
      }
      if (n < 0) return false;
      l->off += (size_t)n;
    }
    l->off = l->len = 0;
    if (l->ended) {
      l->closed = true;
      shutdown(l->to, SHUT_WR);
      return true;
    }
    ssize_t n = recv(l->from, l->room, ROOM, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) break;
    if (n < 0) return false;
    if (n == 0) l->ended = true;
    if (!take(l, (size_t)n)) return false;
  }
  /* Turns are limited so that one fast pair does not starve the others. What the last one read, or the end
   * that it met, goes out when there is room: `from` may never be readable again. */
  event_add(l->off < l->len || l->ended ? l->wr : l->rd, NULL);
  return true;
}

static void on_ready(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  lane *l = arg;
  pump *p = l->p;
  if (!move_lane(l) || (p->lane[0].closed && p->lane[1].closed)) finish(p);
}

pump *pump_start(int a, int b, const void *head, size_t len, pump_filter *filter, void *filter_arg,
                 void (*done)(void *arg), void *arg) {
  pump *p = calloc(1, sizeof *p);
  if (p == NULL) abort();
  p->filter = filter;
  p->filter_arg = filter_arg;
  p->done = done;
  p->arg = arg;
  p->end = evtimer_new(base, on_end, p);
  for (int i = 0; i < 2; i++) {
    lane *l = &p->lane[i];
    l->p = p;
    l->from = i == 0 ? a : b;
    l->to = i == 0 ? b : a;
    l->room = malloc(ROOM);
    l->rd = event_new(base, l->from, EV_READ, on_ready, l);
    l->wr = event_new(base, l->to, EV_WRITE, on_ready, l);
    if (l->room == NULL || l->rd == NULL || l->wr == NULL || p->end == NULL) abort();
    evutil_make_socket_nonblocking(l->from);
  }
  if (len > ROOM) abort();
  if (len > 0) memcpy(p->lane[0].room, head, len);
  bool ok = take(&p->lane[0], len) && move_lane(&p->lane[0]);
  ok = move_lane(&p->lane[1]) && ok;
  if (!ok || (p->lane[0].closed && p->lane[1].closed)) finish(p);
  return p;
}

void pump_cancel(pump *p) {
  destroy(p);
}
