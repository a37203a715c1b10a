/* engine/ids.c - see launch.h. */
#define _GNU_SOURCE
#include "launch.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void write_map(pid_t pid, const char *which, uid_t first) {
  char path[64], text[96];
  snprintf(path, sizeof path, "/proc/%d/%s", pid, which);
  int n = snprintf(text, sizeof text, "0 %u %u\n65534 %u 1\n", (unsigned)first, IDS_COUNT - 1,
                   (unsigned)first + IDS_COUNT - 1);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, text, (size_t)n) != n) launch_die("write %s", path);
  close(fd);
}

int ids_make(uid_t first) {
  int ready[2];
  if (pipe2(ready, O_CLOEXEC) != 0) launch_die("pipe");
  /* A namespace is somebody's: this one's first member only waits to be looked at. */
  pid_t pid = fork();
  if (pid < 0) launch_die("fork");
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (unshare(CLONE_NEWUSER) != 0) launch_die("unshare: a user namespace");
    if (write(ready[1], "x", 1) != 1) _exit(1);
    for (;;)
      pause();
  }
  close(ready[1]);
  char x, path[64];
  if (read(ready[0], &x, 1) != 1) launch_die("a user namespace for the template's ids");
  close(ready[0]);
  write_map(pid, "uid_map", first);
  write_map(pid, "gid_map", first);
  /* Which can be written once, and by anyone: before the sandbox does. */
  write_map(pid, "projid_map", first);
  snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) launch_die("open %s", path);
  kill(pid, SIGKILL);
  waitpid(pid, NULL, 0);
  return fd;
}
