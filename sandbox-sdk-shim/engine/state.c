/* engine/state.c - the state directory: one engine at a time, and nothing in it from an earlier one. */
#define _GNU_SOURCE
#include "engine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_TRIES 150 /* times 20 ms: an engine that was killed is being cleared up after */

static const char *const kept_in[] = {"sandboxes", "spares", "trash", "base", NULL};

/* bwrap's child waits for its parent before it has asked to die with it: killed in that moment, the parent
 * leaves it waiting for ever. It is known by the name that the launcher gave bwrap. */
static unsigned kill_strays(void) {
  DIR *proc = opendir("/proc");
  unsigned found = 0;
  for (struct dirent *de; proc != NULL && (de = readdir(proc)) != NULL;) {
    char path[40], name[sizeof cfg.id] = "";
    if (de->d_name[0] < '1' || de->d_name[0] > '9') continue;
    snprintf(path, sizeof path, "%.16s/cmdline", de->d_name);
    int fd = openat(dirfd(proc), path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, name, sizeof name - 1);
    if (fd >= 0) close(fd);
    if (n > 0 && strcmp(name, cfg.id) == 0 && kill((pid_t)atoi(de->d_name), SIGKILL) == 0) found++;
  }
  if (proc != NULL) closedir(proc);
  return found;
}

bool state_clear(void) {
  for (int tries = 0; cfg.id[0] != '\0' && tries < 100 && kill_strays() > 0; tries++)
    usleep(10000);
  int dir = open(cfg.state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  bool good = dir >= 0;
  int err = errno;
  for (size_t i = 0; dir >= 0 && kept_in[i] != NULL; i++) {
    /* More than once: the last processes of it may be dying still. */
    for (int tries = 0; remove_tree(dir, kept_in[i]) != 0; tries++) {
      err = errno;
      if (tries == 50) {
        log_line(LOG_ERROR, "%s/%s: cannot be removed: %s", cfg.state_dir, kept_in[i], strerror(err));
        good = false;
        break;
      }
      usleep(20000);
    }
  }
  if (dir >= 0) close(dir);
  errno = err;
  return good;
}

const char *state_prepare(struct stat *st) {
  static char wrong[4400];
  char path[4200];
#define FAIL(...)                                                                                            \
  do {                                                                                                       \
    snprintf(wrong, sizeof wrong, __VA_ARGS__);                                                              \
    return wrong;                                                                                            \
  } while (0)
  if (mkdir(cfg.state_dir, 0700) != 0 && errno != EEXIST) FAIL("%s: %s", cfg.state_dir, strerror(errno));
  char *real = realpath(cfg.state_dir, NULL);
  /* 0700: other users of the machine must not reach guest.sock or the sandboxes' files. */
  if (real == NULL || chmod(real, 0700) != 0) FAIL("%s: %s", cfg.state_dir, strerror(errno));
  cfg.state_dir = real;
  snprintf(path, sizeof path, "%s/lock", real);
  int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (lock < 0) FAIL("%s: %s", path, strerror(errno));
  for (int tries = 0; flock(lock, LOCK_EX | LOCK_NB) != 0; tries++) {
    if (errno != EWOULDBLOCK) FAIL("%s: %s", path, strerror(errno));
    if (tries == LOCK_TRIES)
      FAIL("%s is in use by another engine, or one that was killed is still being cleared up after", real);
    usleep(20000);
  }
  if (stat(real, st) != 0) FAIL("%s: %s", real, strerror(errno));
  uint64_t mix = ((uint64_t)st->st_ino * 0x9e3779b97f4a7c15u) ^ (uint64_t)st->st_dev;
  snprintf(cfg.id, sizeof cfg.id, "caisson-%012llx", (unsigned long long)(mix >> 16) & 0xffffffffffffu);
  if (!state_clear()) FAIL("%s: what an earlier engine left cannot be removed: %s", real, strerror(errno));
  for (size_t i = 0; i < 3; i++) {
    snprintf(path, sizeof path, "%s/%s", real, kept_in[i]);
    if (mkdir(path, 0700) != 0) FAIL("%s: %s", path, strerror(errno));
  }
  snprintf(path, sizeof path, "%s/base", real);
  if (skeleton_make(path) != 0) FAIL("%s: %s", path, strerror(errno));
  return NULL;
#undef FAIL
}
