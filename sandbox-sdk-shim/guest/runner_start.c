/* runner_start.c - `start` and `kill`: the supervisor from outside. */
#define _GNU_SOURCE
#include "runner.h"

#include "../common/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

static int print_pid(pid_t pid) {
  printf("{\"pid\":%d}\n", (int)pid);
  return RUN_OK;
}

/* Another start has the lock: its supervisor's pid stands in the file as soon as it has one. */
static int started_already(int dir_fd, const char *dir) {
  for (int i = 0; i < 500; i++) {
    pid_t pid;
    run_state_of(dir_fd, &pid);
    if (pid > 0) return print_pid(pid);
    usleep(10000);
  }
  return run_error(RUN_FAILED, "start_failed", dir, "another start holds the lock and names no supervisor");
}

int run_start(const char *dir) {
  int dir_fd = run_open_dir(dir);
  if (dir_fd < 0) return RUN_FAILED;
  int lock = openat(dir_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (lock < 0) return run_error(RUN_FAILED, "start_failed", dir, strerror(errno));
  if (flock(lock, LOCK_EX | LOCK_NB) != 0) return started_already(dir_fd, dir);
  char text[24];
  ssize_t n = read(lock, text, sizeof text - 1);
  if (n > 0) {
    /* It ran before and is over, or was lost: a run is started once. */
    text[n] = '\0';
    return print_pid((pid_t)strtol(text, NULL, 10));
  }
  run_spec spec;
  int rc = run_spec_read(dir_fd, &spec);
  if (rc == RUN_OK) rc = run_files_write(&spec);
  if (rc != RUN_OK) return rc;
  fflush(NULL);
  pid_t pid = fork();
  if (pid < 0) return run_error(RUN_FAILED, "start_failed", dir, strerror(errno));
  if (pid == 0) {
    /* The caller's pipes must not stay open for as long as the program runs. */
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < 3; fd++)
      if (null >= 0) dup2(null, fd);
    setsid();
    run_supervise(dir_fd, &spec);
    _exit(0);
  }
  int len = snprintf(text, sizeof text, "%d\n", (int)pid);
  if (pwrite(lock, text, (size_t)len, 0) != len) {
    int saved = errno;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return run_error(RUN_FAILED, "start_failed", dir, strerror(saved));
  }
  return print_pid(pid); /* the child shares the lock's open file: it stays held */
}

int run_kill(const char *dir, run_reason reason, int64_t grace_ms) {
  int dir_fd = run_open_dir(dir);
  if (dir_fd < 0) return RUN_FAILED;
  pid_t pid;
  run_state state = run_state_of(dir_fd, &pid);
  /* Only a held lock proves that the pid is still the supervisor's. */
  if (state == RUN_ST_RUNNING && pid > 0) {
    union sigval value = {.sival_int = (int)(grace_ms << 4 | (int64_t)reason)};
    if (sigqueue(pid, SIGTERM, value) != 0 && errno != ESRCH)
      return run_error(RUN_FAILED, "kill_failed", dir, strerror(errno));
    int64_t deadline = csn_now_ms() + grace_ms + 15000;
    while ((state = run_state_of(dir_fd, &pid)) == RUN_ST_RUNNING) {
      if (csn_now_ms() > deadline)
        return run_error(RUN_FAILED, "kill_failed", dir, "the supervisor does not end");
      usleep(5000);
    }
  }
  close(dir_fd);
  return run_status(dir);
}
