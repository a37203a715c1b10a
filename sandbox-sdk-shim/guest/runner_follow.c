/* runner_follow.c - `follow`: the spool as lines on stdout, from given offsets to the exit record. */
#define _GNU_SOURCE
#include "runner.h"

#include "../common/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

typedef struct follower {
  int fd; /* -1 while the file does not exist yet */
  const char *name;
  char kind;
  int64_t off;
} follower;

/* false: the reader is gone. */
static bool emit(csn_buf *b) {
  size_t done = 0;
  while (done < b->len) {
    ssize_t n = write(STDOUT_FILENO, b->p + done, b->len - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += (size_t)n;
  }
  b->len = 0;
  return true;
}

/* Prints what the file holds beyond the offset. Returns bytes, or -1 when the reader is gone. */
static int64_t drain(int dir_fd, follower *f, csn_buf *b) {
  static char piece[RUN_PIECE];
  int64_t total = 0;
  if (f->fd < 0) f->fd = openat(dir_fd, f->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (f->fd < 0) return 0;
  for (;;) {
    ssize_t n = pread(f->fd, piece, sizeof piece, f->off);
    if (n <= 0) return total;
    csn_buf_fmt(b, "%c %lld ", f->kind, (long long)f->off);
    csn_b64_encode(b, piece, (size_t)n);
    csn_buf_str(b, "\n");
    if (!emit(b)) return -1;
    f->off += n;
    total += n;
  }
}

int run_follow(const char *dir, int64_t out_off, int64_t err_off) {
  int dir_fd = run_open_dir(dir);
  if (dir_fd < 0) return RUN_FAILED;
  int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  bool watching = watch >= 0 && inotify_add_watch(watch, dir, IN_MODIFY | IN_CREATE | IN_MOVED_TO) >= 0;
  follower streams[2] = {{-1, "stdout", 'o', out_off}, {-1, "stderr", 'e', err_off}};
  csn_buf b = {0};
  char record[RUN_RECORD_MAX + 1];
  int64_t spoken_ms = csn_now_ms();
  for (;;) {
    /* State before output: all output is in the files when the record is there. */
    pid_t pid;
    run_state state = run_state_of(dir_fd, &pid);
    int64_t fresh = 0;
    for (int i = 0; i < 2; i++) {
      int64_t n = drain(dir_fd, &streams[i], &b);
      if (n < 0) return RUN_OK;
      fresh += n;
    }
    if (fresh > 0) spoken_ms = csn_now_ms();
    if (state == RUN_ST_EXITED || state == RUN_ST_LOST) {
      bool have = state == RUN_ST_EXITED && run_record_read(dir_fd, record);
      csn_buf_str(&b, "x ");
      csn_buf_str(&b, have ? record
                           : "{\"reason\":\"runner_lost\",\"exit_code\":null,\"signal\":null,"
                             "\"detail\":\"the supervisor ended without an exit record\"}");
      csn_buf_str(&b, "\n");
      emit(&b);
      return RUN_OK;
    }
    if (state == RUN_ST_MISSING)
      return run_error(RUN_FAILED, "not_started", dir, "there is no run in this directory");
    if (fresh > 0) continue;
    if (csn_now_ms() - spoken_ms >= RUN_HEARTBEAT_MS) {
      csn_buf_str(&b, "h\n");
      if (!emit(&b)) return RUN_OK;
      spoken_ms = csn_now_ms();
    }
    /* A killed supervisor touches no file: the lock is looked at every half second. */
    struct pollfd p[2] = {{.fd = watching ? watch : -1, .events = POLLIN},
                          {.fd = STDOUT_FILENO, .events = 0}};
    poll(p, 2, watching ? 500 : 20);
    if ((p[1].revents & (POLLERR | POLLHUP)) != 0) return RUN_OK;
    char events[4096] __attribute__((aligned(8)));
    while (watching && read(watch, events, sizeof events) > 0)
      continue;
  }
}
