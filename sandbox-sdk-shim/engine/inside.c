/* engine/inside.c - see launch.h. */
#define _GNU_SOURCE
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int inside_open(int root, const char *path, int flags) {
  struct open_how how = {.flags = (uint64_t)(O_PATH | O_CLOEXEC | (flags & ~INSIDE_REAL)),
                         .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
  if ((flags & INSIDE_REAL) != 0) how.resolve |= RESOLVE_NO_SYMLINKS;
  return (int)syscall(SYS_openat2, root, path, &how, sizeof how);
}

static uid_t owner = (uid_t)-1;

void inside_own(uid_t uid) {
  owner = uid;
}

int inside_dir(int root, const char *path, int flags, bool *made) {
  char room[4096];
  *made = false;
  if (snprintf(room, sizeof room, "%s", path) >= (int)sizeof room) {
    errno = ENAMETOOLONG;
    return -1;
  }
  int parent = inside_open(root, ".", O_DIRECTORY);
  for (char *at = room; parent >= 0 && at != NULL;) {
    char *slash = strchr(at, '/');
    if (slash != NULL) *slash = '\0';
    int fd = inside_open(root, room, O_DIRECTORY | flags);
    if (fd < 0 && errno == ENOENT && mkdirat(parent, at, 0755) == 0) {
      *made = true;
      fd = inside_open(root, room, O_DIRECTORY | flags);
      if (fd >= 0 && owner != (uid_t)-1 && fchownat(fd, "", owner, owner, AT_EMPTY_PATH) != 0)
        launch_die("chown /%s", room);
    }
    int err = errno;
    close(parent);
    errno = err;
    parent = fd;
    if (slash != NULL) *slash = '/';
    at = slash == NULL ? NULL : slash + 1;
  }
  return parent;
}

int inside_file(int root, const char *path) {
  int fd = inside_open(root, path, 0);
  if (fd >= 0 || errno != ENOENT) return fd;
  char room[4096];
  if (snprintf(room, sizeof room, "%s", path) >= (int)sizeof room) return -1;
  char *slash = strrchr(room, '/');
  bool made;
  if (slash != NULL) *slash = '\0';
  int parent = slash == NULL ? inside_open(root, ".", O_DIRECTORY) : inside_dir(root, room, 0, &made);
  if (parent < 0) return -1;
  const char *name = slash == NULL ? room : slash + 1;
  const int how = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
  fd = openat(parent, name, how, 0644);
  /* A link to what is there on a running machine only, as /etc/resolv.conf often is. */
  if (fd < 0 && errno == EEXIST && unlinkat(parent, name, 0) == 0) fd = openat(parent, name, how, 0644);
  if (fd >= 0 && owner != (uid_t)-1 && fchown(fd, owner, owner) != 0) launch_die("chown /%s", path);
  int err = errno;
  close(parent);
  if (fd < 0) {
    errno = err;
    return -1;
  }
  close(fd);
  return inside_open(root, path, 0);
}

const char *inside_magic(int fd) {
  static char rooms[4][32];
  static unsigned next;
  char *room = rooms[next++ % 4];
  snprintf(room, sizeof rooms[0], "/proc/self/fd/%d", fd);
  return room;
}
