/* engine/root.c - composes the root file system of a sandbox. See launch.h.
 *
 * Sources are opened before /tmp is covered: the state directory may lie there. What lies below the new root
 * is reached through inside.c only. */
#define _GNU_SOURCE
#include "launch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Newer than the oldest headers and C libraries that this is built with; the same on every architecture. */
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#ifndef SYS_open_tree
#define SYS_open_tree 428
#endif
#ifndef SYS_move_mount
#define SYS_move_mount 429
#endif
#ifndef MOUNT_ATTR_RDONLY
#define MOUNT_ATTR_RDONLY 0x1u
#define MOUNT_ATTR_NOSUID 0x2u
#define MOUNT_ATTR_NODEV  0x4u
#endif
#ifndef MOUNT_ATTR_IDMAP
#define MOUNT_ATTR_IDMAP 0x100000u
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

#define STAGE_DIR "/tmp" /* covered by a private tmpfs: PLAN_TMPFS */

/* The text "/proc/self/fd/N" of a source, opened before the mounts hide it. */
static char *open_source(const char *path, bool optional) {
  int fd = open(path, O_PATH | O_CLOEXEC);
  if (fd < 0) {
    if (optional) return NULL;
    launch_die("open %s", path);
  }
  char *text = NULL;
  if (asprintf(&text, "/proc/self/fd/%d", fd) < 0) abort();
  return text;
}

static bool try_overlay(const plan_op *op, const char *lower, const char *upper, const char *work,
                        bool root) {
  char options[512];
  snprintf(options, sizeof options, "%slowerdir=%s,upperdir=%s,workdir=%s", root ? "" : "userxattr,", lower,
           upper, work);
  return mount("overlay", op->dst, "overlay", MS_NOSUID | MS_NODEV, options) == 0;
}

/* A bind mount of the lower directory alone: where other mounts lie below it, a user namespace may not
 * clone it as it is. */
static const char *stage_lower(const char *lower, char *room, size_t cap) {
  static int serial;
  snprintf(room, cap, STAGE_DIR "/lower%d", ++serial);
  if (mkdir(room, 0700) != 0) return NULL;
  if (mount(lower, room, NULL, MS_BIND, NULL) == 0 || mount(lower, room, NULL, MS_BIND | MS_REC, NULL) == 0)
    return room;
  return NULL;
}

/* Makes both where the plan has put a file system in memory. */
static void make_upper(const char *upper, const char *work) {
  if (mkdir(upper, 0755) != 0) launch_die("mkdir %s", upper);
  if (mkdir(work, 0755) != 0) launch_die("mkdir %s", work);
}

/* An upper and a work directory in memory, where the state directory cannot hold them: on one file system
 * that has the size of the disk limit. */
static void stage_upper(const limits *l, char *upper, char *work, size_t cap) {
  static int serial;
  static const char stage[] = STAGE_DIR "/changes";
  if (serial++ == 0) {
    char options[64];
    snprintf(options, sizeof options, "mode=0700,size=%um,nr_inodes=%u", l->disk_mb, l->inodes);
    if (mkdir(stage, 0700) != 0 || mount("tmpfs", stage, "tmpfs", MS_NOSUID | MS_NODEV, options) != 0)
      launch_die("tmpfs on %s", stage);
  }
  snprintf(upper, cap, "%s/upper%d", stage, serial);
  snprintf(work, cap, "%s/work%d", stage, serial);
  make_upper(upper, work);
}

/* Also for the mounts below `path`: a remount changes one mount only, and a sandbox could write to the
 * others. */
static bool read_only_tree(const char *path) {
  const uint64_t attr[4] = {MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV}; /* struct mount_attr */
  return syscall(SYS_mount_setattr, AT_FDCWD, path, AT_RECURSIVE, attr, sizeof attr) == 0;
}

/* One mount. */
static bool read_only_alone(const char *path) {
  /* Flags that the source has are locked in a user namespace and must be named again. */
  struct statvfs vfs;
  unsigned long flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV;
  if (statvfs(path, &vfs) == 0) {
    if (vfs.f_flag & ST_NOEXEC) flags |= MS_NOEXEC;
    if (vfs.f_flag & ST_NOATIME) flags |= MS_NOATIME;
    if (vfs.f_flag & ST_NODIRATIME) flags |= MS_NODIRATIME;
    if (vfs.f_flag & ST_RELATIME) flags |= MS_RELATIME;
  }
  return mount(NULL, path, NULL, flags, NULL) == 0;
}

/* `src` and all that is mounted below it, on `dst`, read-only; on a kernel before 5.12 without the mounts
 * below, which would stay writable. `open_dst` opens the destination, and the mount once it lies there. */
static void mount_read_only(const char *src, int (*open_dst)(const void *arg), const void *arg,
                            const char *name) {
  for (int below = 1; below >= 0; below--) {
    int at = open_dst(arg);
    if (at < 0 || mount(src, inside_magic(at), NULL, MS_BIND | (below ? MS_REC : 0), NULL) != 0)
      launch_die("bind on %s", name);
    close(at);
    at = open_dst(arg);
    if (at < 0) launch_die("open %s", name);
    const char *path = inside_magic(at);
    bool good = below ? read_only_tree(path) : read_only_alone(path);
    if (!good && (!below || umount2(path, MNT_DETACH) != 0)) launch_die("read-only %s", name);
    close(at);
    if (good) return;
  }
}

static int open_plain(const void *path) {
  return open(path, O_PATH | O_CLOEXEC);
}

static void mount_overlay(const plan *p, const plan_op *op, const char *lower, const char *upper,
                          const char *work, bool root) {
  char room[64], up[80], wk[80];
  const limits *l = &p->limits;
  if (op->in_stage) make_upper(upper, work);
  /* The root directory itself is as its upper one: who is root inside owns it. */
  if (root && p->template_root && chown(upper, p->uid, p->uid) != 0) launch_die("chown %s", op->upper);
  if (try_overlay(op, lower, upper, work, root)) return;
  int first = errno;
  const char *staged = stage_lower(lower, room, sizeof room);
  if (staged != NULL && try_overlay(op, staged, upper, work, root)) return;
  /* An upper directory on an overlay, or on a file system without the attributes. */
  stage_upper(l, up, wk, sizeof up);
  if (root && p->template_root && chown(up, p->uid, p->uid) != 0) launch_die("chown %s", up);
  if (!try_overlay(op, lower, up, wk, root) && (staged == NULL || !try_overlay(op, staged, up, wk, root))) {
    /* In a user namespace nothing that has other mounts below it can be a lower directory. */
    mount_read_only(lower, open_plain, op->dst, op->dst);
    dprintf(2, "note: %s cannot be overlaid (%s); it is read-only in the sandbox\n", op->src,
            strerror(first));
    return;
  }
  dprintf(2, "note: %s cannot hold an overlay (%s); changes to %s are kept in memory\n", op->upper,
          strerror(first), op->dst);
}

/* The part of a destination below the root that is composed; NULL for one outside. */
static const char *below(const plan *p, const char *dst) {
  size_t n = strlen(p->root);
  return strncmp(dst, p->root, n) == 0 && dst[n] == '/' ? dst + n + 1 : NULL;
}

typedef struct inner {
  int top;
  const char *path;
} inner;

static int open_inner(const void *arg) {
  const inner *in = arg;
  return inside_open(in->top, in->path, 0);
}

static void bind_read_only(const plan *p, const plan_op *op, const char *src, int top) {
  struct stat st;
  const inner in = {top, below(p, op->dst)};
  if (in.path == NULL) abort(); /* plan.c binds nowhere else */
  if (stat(src, &st) != 0) launch_die("stat %s", op->src);
  bool made;
  int at = S_ISDIR(st.st_mode) ? inside_dir(top, in.path, 0, &made) : inside_file(top, in.path);
  if (at < 0) launch_die("make /%s", in.path);
  close(at);
  mount_read_only(src, open_inner, &in, op->dst);
}

static void make_dir(const plan *p, const plan_op *op, bool root, int top) {
  const char *path = below(p, op->dst);
  bool made = true;
  int fd = -1;
  if (path == NULL) {
    if (mkdir(op->dst, op->mode) != 0 && errno != EEXIST) launch_die("mkdir %s", op->dst);
    fd = open(op->dst, O_PATH | O_DIRECTORY | O_CLOEXEC);
  } else {
    fd = inside_dir(top, path, op->real ? INSIDE_REAL : 0, &made);
  }
  if (fd < 0) launch_die("make %s", path == NULL ? op->dst : path);
  /* What a template has keeps its owner and its mode. */
  if (made || !p->template_root) {
    if (op->owned && root && fchownat(fd, "", p->uid, p->uid, AT_EMPTY_PATH) != 0)
      launch_die("chown %s", op->dst);
    if (chmod(inside_magic(fd), op->mode) != 0) launch_die("chmod %s", op->dst);
  }
  close(fd);
}

static void mount_tmpfs(const plan *p, const plan_op *op, bool root, int top) {
  const char *path = below(p, op->dst), *at = op->dst;
  char options[128];
  int n = snprintf(options, sizeof options, "mode=%04o,size=%llu,nr_inodes=%llu", (unsigned)op->mode,
                   (unsigned long long)op->bytes, (unsigned long long)op->inodes);
  if (op->owned && root)
    snprintf(options + n, sizeof options - (size_t)n, ",uid=%u,gid=%u", (unsigned)p->uid, (unsigned)p->uid);
  int fd = -1;
  if (path != NULL) {
    bool made;
    fd = inside_dir(top, path, INSIDE_REAL, &made);
    if (fd < 0) launch_die("make /%s, which must be a directory and no link", path);
    at = inside_magic(fd);
  }
  if (mount("tmpfs", at, "tmpfs", MS_NOSUID | MS_NODEV, options) != 0) launch_die("tmpfs on %s", op->dst);
  if (fd >= 0) close(fd);
}

static void write_text(const plan *p, const plan_op *op, int top) {
  char dir[4096];
  snprintf(dir, sizeof dir, "%s", below(p, op->dst));
  char *name = strrchr(dir, '/');
  if (name == NULL) abort();
  *name++ = '\0';
  int parent = inside_open(top, dir, O_DIRECTORY);
  if (parent < 0) return; /* a template without that program */
  int fd = openat(parent, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
  if (fd < 0 || !csn_write_all(fd, op->text, strlen(op->text))) launch_die("write %s", op->dst);
  close(fd);
  close(parent);
}

/* The template as the sandbox's ids see it: its files belong to the ids that it was unpacked with, which
 * are the host's own; on this mount they are the sandbox's. */
static char *map_ids(const plan_op *op, const char *src, int ids) {
  static const char stage[] = STAGE_DIR "/template";
  struct {
    uint64_t set, clear, propagation, userns_fd;
  } attr = {MOUNT_ATTR_IDMAP | MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, 0, (uint64_t)ids};
  if (mkdir(stage, 0700) != 0) launch_die("mkdir %s", stage);
  int tree = (int)syscall(SYS_open_tree, AT_FDCWD, src, 1u /* OPEN_TREE_CLONE */ | (unsigned)O_CLOEXEC);
  if (tree < 0) launch_die("clone %s", op->src);
  if (syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof attr) != 0)
    launch_die("map the ids of %s (a template needs Linux 5.19 and a file system such as ext4, xfs or btrfs)",
               op->src);
  if (syscall(SYS_move_mount, tree, "", AT_FDCWD, stage, 4u /* MOVE_MOUNT_F_EMPTY_PATH */) != 0)
    launch_die("mount %s", op->src);
  close(tree);
  return strdup(stage);
}

typedef struct sources {
  char *src, *upper, *work;
} sources;

void root_build(const plan *p, bool root, int ids) {
  sources *from = calloc(p->count, sizeof *from);
  if (from == NULL) abort();
  for (size_t i = 0; i < p->count; i++) {
    const plan_op *op = &p->ops[i];
    if (op->src != NULL) from[i].src = open_source(op->src, op->optional);
    if (op->upper != NULL) from[i].upper = op->in_stage ? op->upper : open_source(op->upper, false);
    if (op->work != NULL) from[i].work = op->in_stage ? op->work : open_source(op->work, false);
  }
  umask(0);
  if (root && p->template_root) inside_own(p->uid);
  int top = -1; /* the root, once it is there */
  for (size_t i = 0; i < p->count; i++) {
    const plan_op *op = &p->ops[i];
    switch (op->kind) {
    case PLAN_PRIVATE:
      if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) launch_die("make mounts private");
      break;
    case PLAN_TMPFS:
      mount_tmpfs(p, op, root, top);
      break;
    case PLAN_DIR:
      make_dir(p, op, root, top);
      break;
    case PLAN_OVERLAY:
      if (op->map_ids && ids >= 0) from[i].src = map_ids(op, from[i].src, ids);
      mount_overlay(p, op, from[i].src, from[i].upper, from[i].work, root);
      if (strcmp(op->dst, p->root) == 0) top = open(p->root, O_PATH | O_DIRECTORY | O_CLOEXEC);
      break;
    case PLAN_TEXT:
      write_text(p, op, top);
      break;
    case PLAN_BIND_RO:
      if (from[i].src != NULL) bind_read_only(p, op, from[i].src, top);
      break;
    }
  }
}
