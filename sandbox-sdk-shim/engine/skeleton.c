/* engine/skeleton.c - the lower directory of every root, and removal of trees. */
#define _GNU_SOURCE
#include "engine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const directories[] = {"etc",
                                          "etc/ssl",
                                          "etc/cloudflare",
                                          "etc/cloudflare/certs",
                                          "etc/alternatives",
                                          "etc/fonts",
                                          "etc/ld.so.conf.d",
                                          "usr",
                                          "proc",
                                          "dev",
                                          "tmp",
                                          "run",
                                          "root",
                                          "home",
                                          "var",
                                          "var/lib",
                                          "var/cache",
                                          "var/log",
                                          "opt",
                                          "opt/caisson",
                                          "opt/caisson/bin",
                                          "media",
                                          "sys",
                                          NULL};

static const struct {
  const char *path, *text;
} files[] = {
    {"etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"
                   "user:x:1000:1000:user:/home/user:/bin/bash\n"
                   "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"},
    {"etc/group", "root:x:0:\ntty:x:5:\nuser:x:1000:\nnogroup:x:65534:\n"},
    {"etc/hosts", "127.0.0.1 localhost\n"},
    {"etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\n"
                          "protocols: files\nservices: files\n"},
    {"etc/resolv.conf", "nameserver 198.18.0.1\noptions timeout:5 attempts:2\n"}, /* NET_RESOLVER */
    {"etc/hostname", "sandbox\n"},
    {"etc/shells", "/bin/sh\n/bin/bash\n"},
    {"etc/profile", "PS1='\\u@\\h:\\w\\$ '\n[ -f /etc/bash.bashrc ] && . /etc/bash.bashrc\n"},
    {"etc/bash.bashrc", "[ -z \"$PS1\" ] || PS1='\\u@\\h:\\w\\$ '\n"},
    {"etc/machine-id", "00000000000000000000000000000000\n"},
    {"etc/os-release", ""},
};

/* Copied from the host when they are there: none tells anything private. */
static const char *const copies[] = {"etc/ld.so.cache",
                                     "etc/ld.so.conf",
                                     "etc/protocols",
                                     "etc/services",
                                     "etc/mime.types",
                                     "etc/inputrc",
                                     "etc/matplotlibrc",
                                     "etc/fonts/fonts.conf",
                                     "etc/localtime",
                                     "etc/timezone",
                                     "etc/os-release",
                                     "etc/debian_version",
                                     NULL};

static int put_file(int dir, const char *path, const void *data, size_t len) {
  int fd = openat(dir, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return -1;
  const bool good = csn_write_all(fd, data, len) && fchmod(fd, 0644) == 0;
  const int saved = errno;
  close(fd);
  errno = saved;
  return good ? 0 : -1;
}

static int copy_from_host(int dir, const char *path) {
  char host[300];
  snprintf(host, sizeof host, "/%.250s", path);
  int fd = open(host, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  csn_buf b = {0};
  ssize_t n;
  while ((n = read(fd, csn_buf_room(&b, 65536), 65536)) > 0) {
    b.len += (size_t)n;
    if (b.len > 16 * 1024 * 1024) break;
  }
  close(fd);
  int rc = put_file(dir, path, b.p, b.len);
  csn_buf_free(&b);
  return rc;
}

/* /bin, /lib and so on: links into /usr where the host is merged. */
static int link_like_host(int dir, const char *name) {
  char host[32], target[256];
  snprintf(host, sizeof host, "/%s", name);
  ssize_t n = readlink(host, target, sizeof target - 1);
  if (n < 0) return errno == ENOENT || errno == EINVAL ? 0 : -1;
  target[n] = '\0';
  return symlinkat(target, dir, name);
}

int skeleton_make(const char *path) {
  if (mkdir(path, 0755) != 0) return -1;
  int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir < 0) return -1;
  int rc = 0;
  mode_t old = umask(022);
  for (size_t i = 0; rc == 0 && directories[i] != NULL; i++)
    rc = mkdirat(dir, directories[i], 0755);
  for (size_t i = 0; rc == 0 && i < sizeof files / sizeof files[0]; i++)
    rc = put_file(dir, files[i].path, files[i].text, strlen(files[i].text));
  for (size_t i = 0; rc == 0 && copies[i] != NULL; i++)
    rc = copy_from_host(dir, copies[i]);
  DIR *conf = opendir("/etc/ld.so.conf.d");
  for (struct dirent *de; rc == 0 && conf != NULL && (de = readdir(conf)) != NULL;) {
    char name[300];
    if (de->d_name[0] == '.') continue;
    snprintf(name, sizeof name, "etc/ld.so.conf.d/%s", de->d_name);
    rc = copy_from_host(dir, name);
  }
  if (conf != NULL) closedir(conf);
  static const char *const links[] = {"bin", "sbin", "lib", "lib32", "lib64", "libx32", NULL};
  for (size_t i = 0; rc == 0 && links[i] != NULL; i++)
    rc = link_like_host(dir, links[i]);
  if (rc == 0) rc = symlinkat("../run", dir, "var/run");
  if (rc == 0) rc = symlinkat("/proc/self/mounts", dir, "etc/mtab");
  umask(old);
  close(dir);
  return rc;
}

/* Levels that one walk goes down. A sandbox can nest directories far deeper than there are descriptors or
 * stack for a walk in one go: what lies deeper is moved up to the tree's top and removed from there. */
#define REMOVE_LEVELS 64

static int open_to_empty(int parent_fd, const char *name) {
  /* O_NOFOLLOW: what stands here was written by the sandbox. */
  int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0 && errno == EACCES) {
    /* overlayfs leaves directories of mode 0 in its work directory. */
    if (fchmodat(parent_fd, name, 0700, 0) != 0) return -1;
    fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  }
  /* Emptying it, and moving it as an ordinary user, both need the right to write. */
  if (fd >= 0) (void)fchmod(fd, 0700);
  return fd;
}

static int move_up(int dir_fd, const char *name, int top_fd) {
  static unsigned serial;
  char fresh[32];
  int rc;
  do {
    snprintf(fresh, sizeof fresh, ".deep-%u", serial++);
    rc = renameat(dir_fd, name, top_fd, fresh);
  } while (rc != 0 && (errno == EEXIST || errno == ENOTEMPTY || errno == ENOTDIR));
  return rc;
}

/* Removes one entry, `depth` levels below the top of the tree; top_fd is -1 for the top itself. *moved is
 * set when something was moved up into the top. */
static int remove_entry(int dir_fd, const char *name, int top_fd, int depth, bool *moved) {
  if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT) return 0;
  if (errno != EISDIR && errno != EPERM) return -1;
  int fd = open_to_empty(dir_fd, name);
  if (fd < 0) return -1;
  if (depth == REMOVE_LEVELS) {
    close(fd);
    if (move_up(dir_fd, name, top_fd) != 0) return -1;
    *moved = true;
    return 0;
  }
  DIR *dir = fdopendir(fd);
  if (dir == NULL) {
    close(fd);
    return -1;
  }
  int rc;
  bool again;
  do {
    rc = 0;
    again = false;
    rewinddir(dir);
    for (struct dirent *de; (de = readdir(dir)) != NULL;) {
      if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0) continue;
      bool *flag = top_fd < 0 ? &again : moved;
      if (remove_entry(fd, de->d_name, top_fd < 0 ? fd : top_fd, depth + 1, flag) != 0) rc = -1;
    }
  } while (again);
  closedir(dir);
  if (unlinkat(dir_fd, name, AT_REMOVEDIR) != 0 && errno != ENOENT) rc = -1;
  return rc;
}

int remove_tree(int parent_fd, const char *name) {
  return remove_entry(parent_fd, name, -1, 0, NULL);
}
