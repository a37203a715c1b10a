/* runner_record.c - exit.json, the lock, and what they say about a spool. */
#include "runner.h"

#include "../common/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static const char *const reason_text[] = {
    [RUN_EXITED] = "exited",
    [RUN_SIGNALLED] = "signalled",
    [RUN_TIMED_OUT] = "timed_out",
    [RUN_KILLED] = "killed",
    [RUN_SPAWN_FAILED] = "spawn_failed",
    [RUN_OUTPUT_LIMIT] = "output_limit",
    [RUN_DISK_FULL] = "disk_full",
    [RUN_RUNNER_LOST] = "runner_lost",
    [RUN_OVER_BUDGET] = "over_budget",
    [RUN_POLICY_VIOLATION] = "policy_violation",
};

int run_open_dir(const char *path) {
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) run_error(RUN_FAILED, "no_spool", path, strerror(errno));
  return fd;
}

static bool read_small(int dir_fd, const char *name, char *text, size_t cap) {
  int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return false;
  ssize_t n = read(fd, text, cap - 1);
  close(fd);
  if (n < 0) return false;
  text[n] = '\0';
  return true;
}

bool run_record_read(int dir_fd, char text[RUN_RECORD_MAX + 1]) {
  if (!read_small(dir_fd, "exit.json", text, RUN_RECORD_MAX + 1)) return false;
  text[strcspn(text, "\n")] = '\0';
  return text[0] == '{';
}

run_state run_state_of(int dir_fd, pid_t *pid) {
  char text[RUN_RECORD_MAX + 1];
  *pid = 0;
  int fd = openat(dir_fd, "lock", O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return run_record_read(dir_fd, text) ? RUN_ST_EXITED : RUN_ST_MISSING;
  bool held = flock(fd, LOCK_SH | LOCK_NB) != 0;
  char number[24];
  ssize_t n = read(fd, number, sizeof number - 1);
  close(fd);
  if (n > 0) {
    number[n] = '\0';
    long value = strtol(number, NULL, 10);
    if (value > 1 && value < INT32_MAX) *pid = (pid_t)value;
  }
  /* The record is published while the lock is still held, so it is looked at after the lock. */
  if (run_record_read(dir_fd, text)) return RUN_ST_EXITED;
  if (held) return RUN_ST_RUNNING;
  /* A refused start leaves a lock that names nobody. */
  return *pid > 0 ? RUN_ST_LOST : RUN_ST_MISSING;
}

int run_record_reserve(int dir_fd) {
  int fd = openat(dir_fd, ".exit.tmp", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (fd < 0) return -1;
  char room[RUN_RECORD_MAX];
  memset(room, ' ', sizeof room);
  if (write(fd, room, sizeof room) != (ssize_t)sizeof room || fsync(fd) != 0) {
    int saved = errno;
    close(fd);
    errno = saved == 0 ? ENOSPC : saved;
    return -1;
  }
  return fd;
}

void run_record_publish(int dir_fd, int fd, const run_record *r) {
  csn_buf b = {0};
  csn_buf_fmt(&b, "{\"reason\":\"%s\"", reason_text[r->reason]);
  if (r->exit_code >= 0)
    csn_buf_fmt(&b, ",\"exit_code\":%d", r->exit_code);
  else
    csn_buf_str(&b, ",\"exit_code\":null");
  if (r->sig > 0)
    csn_buf_fmt(&b, ",\"signal\":%d", r->sig);
  else
    csn_buf_str(&b, ",\"signal\":null");
  csn_buf_str(&b, ",\"detail\":");
  csn_json_cstr(&b, r->detail);
  csn_buf_fmt(&b,
              ",\"started_ms\":%lld,\"ended_ms\":%lld,\"stdout_bytes\":%lld,\"stderr_bytes\":%lld,\"max_rss_"
              "kb\":%lld}\n",
              (long long)r->started_ms, (long long)r->ended_ms, (long long)r->stdout_bytes,
              (long long)r->stderr_bytes, (long long)r->max_rss_kb);
  /* detail is at most 255 bytes, six each when escaped: the record fits its room. */
  bool ok = b.len <= RUN_RECORD_MAX && pwrite(fd, b.p, b.len, 0) == (ssize_t)b.len &&
            ftruncate(fd, (off_t)b.len) == 0;
  if (ok) renameat(dir_fd, ".exit.tmp", dir_fd, "exit.json");
  close(fd);
  csn_buf_free(&b);
}

int run_status(const char *dir) {
  pid_t pid;
  int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  run_state state = fd < 0 ? RUN_ST_MISSING : run_state_of(fd, &pid);
  char text[RUN_RECORD_MAX + 1];
  switch (state) {
  case RUN_ST_MISSING:
    puts("{\"state\":\"missing\"}");
    break;
  case RUN_ST_RUNNING:
    printf("{\"state\":\"running\",\"pid\":%d}\n", (int)pid);
    break;
  case RUN_ST_LOST:
    printf("{\"state\":\"lost\",\"pid\":%d}\n", (int)pid);
    break;
  case RUN_ST_EXITED:
    if (run_record_read(fd, text)) printf("{\"state\":\"exited\",\"exit\":%s}\n", text);
    break;
  }
  return RUN_OK;
}
