/* engine/spare.c - sandboxes that stand ready before anyone asks for one.
 *
 * A spare is a sandbox like any other, started in the same way, up to the point where its guest server waits
 * to be told what it is (link.h: BEGIN): nothing of the sandbox has run, and no name, environment, label,
 * token or way out belongs to it yet. A start that wants what was fixed when the spare was started (the
 * default root, the engine's own limits, the same sources of its mounts) gets it, once; every other start is
 * made as ever.
 *
 * Spares are made one at a time, and only when nobody has asked the engine for anything for a while: a start
 * in a burst must not wait for one. */
#define _GNU_SOURCE
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUIET_MS     100 /* without a request, before a spare is made */
#define BETWEEN_MS   20  /* from one that is up to the next */
#define FIRST_WAIT_S 1   /* after one that ended by itself; doubled each time */
#define LAST_WAIT_S  64

static sandbox *spares;
static struct event *refill;
static unsigned wait_s; /* 0: the last one came up, and stays */
static bool off;

size_t spare_count(void) {
  size_t n = 0;
  for (const sandbox *sb = spares; sb != NULL; sb = sb->next)
    if (sb->state == SB_SPARE && !sb->destroy_asked) n++;
  return n;
}

size_t spare_left(void) {
  size_t n = 0;
  for (const sandbox *sb = spares; sb != NULL; sb = sb->next)
    n++;
  return n;
}

sandbox *spare_of(pid_t pid) {
  sandbox *sb = spares;
  while (sb != NULL && sb->pid != pid)
    sb = sb->next;
  return sb;
}

static void unlink_spare(const sandbox *sb) {
  for (sandbox **at = &spares; *at != NULL; at = &(*at)->next) {
    if (*at != sb) continue;
    *at = sb->next;
    return;
  }
}

static void again_in(unsigned ms) {
  if (off || refill == NULL || spare_left() >= cfg.spares) return;
  const struct timeval tv = {ms / 1000, ms % 1000 * 1000};
  event_add(refill, &tv);
}

void spare_quiet(void) {
  if (wait_s == 0) again_in(QUIET_MS);
}

static void on_refill(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  (void)arg;
  static unsigned serial;
  char name[32];
  if (off || spare_left() >= cfg.spares) return;
  for (const sandbox *sb = sandbox_first(); sb != NULL; sb = sb->next) {
    if (sb->state != SB_STARTING) continue;
    again_in(QUIET_MS);
    return;
  }
  /* The dot: no sandbox has such a name. */
  snprintf(name, sizeof name, ".spare-%u", ++serial);
  sandbox *sb = sandbox_new(name, &cfg.limits);
  if (sb == NULL) return;
  sb->spare = true;
  sb->next = spares;
  spares = sb;
  if (!sandbox_launch(sb)) sandbox_end(sb);
}

void spare_is_up(sandbox *sb) {
  /* The name of the machine is the one thing that is changed from outside; where it cannot be, every start is
   * made as ever. */
  const start_renamed renamed = start_rename(sb, "sandbox");
  if (renamed == START_MAY_NOT_RENAME) {
    log_line(LOG_WARN, "no spare sandboxes: the host name of one that runs cannot be set here");
    spare_shutdown();
    return;
  }
  if (renamed != START_RENAMED) {
    /* It is of no use; another one may be. */
    csn_buf_str(&sb->detail, "its host name could not be set just then");
    sandbox_kill(sb);
    return;
  }
  event_del(sb->start_timer);
  sb->state = SB_SPARE;
  wait_s = 0;
  again_in(BETWEEN_MS);
}

void spare_gone(const sandbox *sb) {
  unlink_spare(sb);
  if (off || sb->destroy_asked) {
    again_in(QUIET_MS);
    return;
  }
  /* Not at once: what ends it may end the next one, too. */
  wait_s = wait_s == 0 ? FIRST_WAIT_S : wait_s < LAST_WAIT_S ? wait_s * 2 : LAST_WAIT_S;
  log_line(LOG_WARN, "%s ended; another one in %u s: %s", sb->name, wait_s,
           csn_buf_cstr((csn_buf *)&sb->detail));
  again_in(wait_s * 1000);
}

static bool is_current(const sandbox *sb) {
  plan *p = plan_make(sb);
  const bool same = plan_sources(p) == sb->sources;
  plan_free(p);
  return same;
}

static void discard(sandbox *sb) {
  sb->destroy_asked = true;
  sandbox_kill(sb);
}

/* Names the machine and moves its storage. false: it is good for nothing any more. */
static bool become(sandbox *sb, const char *name) {
  char from[4200];
  snprintf(from, sizeof from, "%s", sandbox_dir(sb->name));
  if (start_rename(sb, name) != START_RENAMED || rename(from, sandbox_dir(name)) != 0) return false;
  memcpy(sb->name, name, strlen(name) + 1);
  return true;
}

sandbox *spare_take(const char *name, const limits *l) {
  for (sandbox *sb = spares, *next; sb != NULL; sb = next) {
    next = sb->next;
    if (sb->state != SB_SPARE || sb->destroy_asked || memcmp(&sb->limits, l, sizeof *l) != 0) continue;
    if (!start_guest_alive(sb) || !is_current(sb) || !become(sb, name)) {
      discard(sb);
      continue;
    }
    unlink_spare(sb);
    sb->next = NULL;
    sb->spare = false;
    sb->was_spare = true;
    sb->state = SB_STARTING;
    sandbox_await(sb);
    spare_quiet(); /* for its successor: there may be no other request for long */
    return sb;
  }
  return NULL;
}

void spare_shutdown(void) {
  off = true;
  if (refill != NULL) event_del(refill);
  for (sandbox *sb = spares; sb != NULL; sb = sb->next)
    discard(sb);
}

void spare_init(void) {
  refill = evtimer_new(base, on_refill, NULL);
  if (refill == NULL) abort();
  again_in(QUIET_MS);
}
