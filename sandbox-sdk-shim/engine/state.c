/* engine/state.c - the state directory: one engine at a time, and nothing in it from an earlier one. */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_TRIES 150 /* times 20 ms: an engine that was killed is being cleared up after */

static const char *const kept_in[] = {"sandboxes", "trash", "base", NULL};

bool state_clear(void) {
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
  if (!state_clear()) FAIL("%s: what an earlier engine left cannot be removed: %s", real, strerror(errno));
  for (size_t i = 0; i < 2; i++) {
    snprintf(path, sizeof path, "%s/%s", real, kept_in[i]);
    if (mkdir(path, 0700) != 0) FAIL("%s: %s", path, strerror(errno));
  }
  snprintf(path, sizeof path, "%s/base", real);
  if (skeleton_make(path) != 0) FAIL("%s: %s", path, strerror(errno));
  if (stat(real, st) != 0) FAIL("%s: %s", real, strerror(errno));
  return NULL;
#undef FAIL
}
