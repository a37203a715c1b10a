/* engine/watch.c - limits that the kernel does not keep by itself: what disk a sandbox takes, and its memory
 * where there are no control groups. Measured by the keeper; a sandbox that is over a limit is ended, with
 * the limit's name as the reason. Control groups that could not be removed at once are removed here. */
#define _GNU_SOURCE
#include "engine.h"

#include "cgroup.h"
#include "keeper.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define TICK_MS    200
#define TASKS_MS   1000  /* between two looks at a sandbox's processes */
#define DISK_MS    30000 /* between two measurements of a sandbox, however little the disk as a whole grew */
#define DISK_SOON  200   /* the least time between two, and at most a fifth of the time goes into it */
#define ENDED_MS   3600000 /* that an ended sandbox's record is kept */
#define INODE_COST 1024    /* bytes that an inode takes at least: where a file system does not count them */

/* Used space of the file system that holds the storage. */
static uint64_t fs_bytes, fs_inodes;

typedef struct leftover {
  char dir[CGROUP_NAME_MAX];
  struct leftover *next;
} leftover;
static leftover *leftovers;

void watch_remove_cgroup(const char *dir) {
  if (dir[0] == '\0' || cgroup_remove(dir)) return;
  leftover *l = calloc(1, sizeof *l);
  if (l == NULL) abort();
  snprintf(l->dir, sizeof l->dir, "%s", dir);
  l->next = leftovers;
  leftovers = l;
}

static void retry_leftovers(void) {
  for (leftover **at = &leftovers; *at != NULL;) {
    leftover *l = *at;
    if (!cgroup_remove(l->dir)) {
      at = &l->next;
      continue;
    }
    *at = l->next;
    free(l);
  }
}

static uint64_t grown(uint64_t now, uint64_t then) {
  return now > then ? now - then : 0;
}

/* Whether it could be over its limit: all that the file system as a whole grew by could be its own. Others
 * that free space hide growth, so each is measured now and then in any case. */
static bool disk_is_due(const sandbox *sb, int64_t now) {
  const sandbox_watch *w = &sb->watch;
  if (w->disk_asked || now < w->disk_not_before_ms) return false;
  if (now - w->disk_at_ms >= DISK_MS) return true;
  uint64_t limit = (uint64_t)sb->limits.disk_mb << 20;
  return w->disk_bytes + grown(fs_bytes, w->fs_bytes) > limit ||
         w->disk_inodes + grown(fs_inodes, w->fs_inodes) > sb->limits.inodes;
}

static void ask_disk(sandbox *sb) {
  keeper_ask ask = {.kind = KEEPER_DISK,
                    .inode_max = sb->limits.inodes,
                    .generation = sb->generation,
                    .top = sb->pid,
                    .guest = sb->guest_pid,
                    .in_memory = limits_disk_in_memory(&sb->limits) > 0};
  memcpy(ask.name, sb->name, strlen(sb->name) + 1);
  if (!keeper_ask_for(&ask)) return;
  sb->watch.disk_asked = true;
  sb->watch.fs_bytes = fs_bytes;
  sb->watch.fs_inodes = fs_inodes;
}

static void ask_tasks(sandbox *sb, int64_t now) {
  keeper_ask ask = {
      .kind = KEEPER_TASKS, .generation = sb->generation, .top = sb->pid, .guest = sb->guest_pid};
  if (!keeper_ask_for(&ask)) return;
  sb->watch.tasks_asked = true;
  sb->watch.tasks_at_ms = now;
}

static void on_answer(const keeper_answer *a) {
  sandbox *sb = sandbox_first();
  while (sb != NULL && sb->generation != a->generation)
    sb = sb->next;
  if (sb == NULL) return;
  sandbox_watch *w = &sb->watch;
  int64_t now = csn_now_ms();
  if (a->kind == KEEPER_TASKS) {
    w->tasks_asked = false;
    w->memory_bytes = a->bytes;
    w->processes = a->processes;
    if (sb->state == SB_RUNNING && a->bytes > (uint64_t)sb->limits.memory_mb << 20)
      sandbox_over_limit(sb, "memory_limit", "its processes took %llu MiB of memory, the limit is %u MiB",
                         (unsigned long long)(a->bytes >> 20), sb->limits.memory_mb);
    return;
  }
  w->disk_asked = false;
  w->disk_at_ms = now;
  w->disk_not_before_ms =
      now +
      (a->took_ms * 4 > DISK_SOON ? (int64_t)(a->took_ms < 60000 ? a->took_ms * 4 : 240000) : DISK_SOON);
  w->disk_bytes = a->bytes;
  w->disk_inodes = a->inodes;
  if (sb->state != SB_RUNNING || limits_disk_in_memory(&sb->limits) > 0) return;
  if (a->bytes > (uint64_t)sb->limits.disk_mb << 20)
    sandbox_over_limit(sb, "disk_limit", "its files took %llu MiB of disk, the limit is %u MiB",
                       (unsigned long long)(a->bytes >> 20), sb->limits.disk_mb);
  else if (a->inodes > sb->limits.inodes)
    sandbox_over_limit(sb, "disk_limit", "it made more files than the limit of %u", sb->limits.inodes);
}

static void look_at_disk(void) {
  struct statvfs v;
  if (statvfs(cfg.state_dir, &v) != 0) return;
  fs_bytes = (uint64_t)(v.f_blocks - v.f_bfree) * v.f_frsize;
  fs_inodes = v.f_files > v.f_ffree ? v.f_files - v.f_ffree : fs_bytes / INODE_COST;
}

/* Whoever started it holds a `wait` while it lives, or asks now and then: a Worker that was killed does
 * neither. What is known of an ended one is kept as long for who asks about its end. */
static void end_unused(int64_t now) {
  for (sandbox *sb = sandbox_first(), *next; sb != NULL; sb = next) {
    next = sb->next;
    if (sb->waiters.count > 0 || sb->conns != NULL) continue;
    if (sb->state == SB_ENDED && now - sb->used_ms > ENDED_MS) {
      sandbox_forget(sb);
    } else if (sb->state == SB_RUNNING && cfg.lease_ms > 0 && now - sb->used_ms > cfg.lease_ms) {
      sandbox_over_limit(sb, "abandoned", "nobody asked about it for %lld s", (long long)cfg.lease_ms / 1000);
    }
  }
}

static void on_tick(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  (void)arg;
  retry_leftovers();
  if (sandbox_first() == NULL) return;
  look_at_disk();
  int64_t now = csn_now_ms();
  end_unused(now);
  for (sandbox *sb = sandbox_first(); sb != NULL; sb = sb->next) {
    if (sb->state != SB_RUNNING) continue;
    if (disk_is_due(sb, now)) ask_disk(sb);
    if (!cgroup_has(CG_MEMORY) && !sb->watch.tasks_asked && now - sb->watch.tasks_at_ms >= TASKS_MS)
      ask_tasks(sb, now);
  }
}

void watch_init(void) {
  if (!keeper_start(on_answer)) log_line(LOG_ERROR, "no keeper process: %s", strerror(errno));
  struct event *tick = event_new(base, -1, EV_PERSIST, on_tick, NULL);
  struct timeval tv = {0, TICK_MS * 1000};
  if (tick == NULL || event_add(tick, &tv) != 0) abort();
}

void watch_keeper_lost(void) {
  for (sandbox *sb = sandbox_first(); sb != NULL; sb = sb->next)
    sb->watch.disk_asked = sb->watch.tasks_asked = false;
}

void watch_begin(sandbox *sb) {
  look_at_disk();
  /* What was there before it cannot be its own. The first regular look is spread over the interval. */
  sb->watch = (sandbox_watch){.fs_bytes = fs_bytes,
                              .fs_inodes = fs_inodes,
                              .disk_at_ms = csn_now_ms() - (int64_t)(sb->generation % (DISK_MS / 2))};
}
