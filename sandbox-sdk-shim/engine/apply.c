/* engine/apply.c - carries a plan out in the child and becomes bwrap.
 *
 * Order, with reasons: control group first, then namespaces (nothing below may be seen by the host); sources
 * opened before /tmp is covered (the state directory may lie there); mounts; network, whose listening socket
 * goes to the engine before anything of the sandbox runs; limits; privileges dropped last, because mounts of
 * directories that the sandbox's user cannot reach need them. */
#define _GNU_SOURCE
#include "engine.h"

#include "cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

/* Newer than the oldest headers and C libraries that this is built with; the same on every architecture. */
#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#ifndef MOUNT_ATTR_RDONLY
#define MOUNT_ATTR_RDONLY 0x1u
#define MOUNT_ATTR_NOSUID 0x2u
#define MOUNT_ATTR_NODEV  0x4u
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

#define STAGE_DIR "/tmp" /* covered by a private tmpfs: PLAN_TMPFS */

static void die(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));
static void die(const char *fmt, ...) {
  int err = errno;
  va_list ap;
  va_start(ap, fmt);
  vdprintf(2, fmt, ap);
  va_end(ap);
  dprintf(2, ": %s\n", strerror(err));
  _exit(125);
}

static void write_proc(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) die("write %s", path);
  close(fd);
}

static void enter_namespaces(bool root) {
  uid_t uid = geteuid();
  gid_t gid = getegid();
  if (unshare((root ? 0 : CLONE_NEWUSER) | CLONE_NEWNS | CLONE_NEWNET) != 0) {
    int err = errno;
    dprintf(
        2,
        "This kernel does not let this user make namespaces. Check: sysctl "
        "kernel.unprivileged_userns_clone=1 "
        "(Debian), kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), user.max_user_namespaces > 0; "
        "inside a chroot the kernel always refuses: use a mount namespace (unshare -m, pivot_root) there.\n");
    errno = err;
    die("unshare");
  }
  if (root) return;
  char map[64];
  write_proc("/proc/self/setgroups", "deny");
  snprintf(map, sizeof map, "%u %u 1", (unsigned)uid, (unsigned)uid);
  write_proc("/proc/self/uid_map", map);
  snprintf(map, sizeof map, "%u %u 1", (unsigned)gid, (unsigned)gid);
  write_proc("/proc/self/gid_map", map);
}

/* The text "/proc/self/fd/N" of a source, opened before the mounts hide it. */
static char *open_source(const char *path, bool optional) {
  int fd = open(path, O_PATH | O_CLOEXEC);
  if (fd < 0) {
    if (optional) return NULL;
    die("open %s", path);
  }
  char *text = NULL;
  if (asprintf(&text, "/proc/self/fd/%d", fd) < 0) abort();
  return text;
}

static void make_parents(const char *path) {
  char room[4096];
  snprintf(room, sizeof room, "%s", path);
  for (char *at = strchr(room + 1, '/'); at != NULL; at = strchr(at + 1, '/')) {
    *at = '\0';
    if (mkdir(room, 0755) != 0 && errno != EEXIST) die("mkdir %s", room);
    *at = '/';
  }
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
  if (mkdir(upper, 0755) != 0) die("mkdir %s", upper);
  if (mkdir(work, 0755) != 0) die("mkdir %s", work);
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
      die("tmpfs on %s", stage);
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

/* `src` and all that is mounted below it, on `dst`, read-only. */
static void mount_read_only(const char *src, const char *dst) {
  if (mount(src, dst, NULL, MS_BIND | MS_REC, NULL) != 0) die("bind on %s", dst);
  if (read_only_tree(dst)) return;
  /* A kernel before 5.12: without the mounts below, which would stay writable. */
  if (umount2(dst, MNT_DETACH) != 0 || mount(src, dst, NULL, MS_BIND, NULL) != 0) die("bind on %s", dst);
  /* Flags that the source has are locked in a user namespace and must be named again. */
  struct statvfs vfs;
  unsigned long flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV;
  if (statvfs(dst, &vfs) == 0) {
    if (vfs.f_flag & ST_NOEXEC) flags |= MS_NOEXEC;
    if (vfs.f_flag & ST_NOATIME) flags |= MS_NOATIME;
    if (vfs.f_flag & ST_NODIRATIME) flags |= MS_NODIRATIME;
    if (vfs.f_flag & ST_RELATIME) flags |= MS_RELATIME;
  }
  if (mount(NULL, dst, NULL, flags, NULL) != 0) die("read-only %s", dst);
}

static void mount_overlay(const plan_op *op, const limits *l, const char *lower, const char *upper,
                          const char *work, bool root) {
  char room[64], up[80], wk[80];
  if (op->in_stage) make_upper(upper, work);
  if (try_overlay(op, lower, upper, work, root)) return;
  int first = errno;
  const char *staged = stage_lower(lower, room, sizeof room);
  if (staged != NULL && try_overlay(op, staged, upper, work, root)) return;
  /* An upper directory on an overlay, or on a file system without the attributes. */
  stage_upper(l, up, wk, sizeof up);
  if (!try_overlay(op, lower, up, wk, root) && (staged == NULL || !try_overlay(op, staged, up, wk, root))) {
    /* In a user namespace nothing that has other mounts below it can be a lower directory. */
    mount_read_only(lower, op->dst);
    dprintf(2, "note: %s cannot be overlaid (%s); it is read-only in the sandbox\n", op->src,
            strerror(first));
    return;
  }
  dprintf(2, "note: %s cannot hold an overlay (%s); changes to %s are kept in memory\n", op->upper,
          strerror(first), op->dst);
}

static void bind_read_only(const plan_op *op, const char *src) {
  struct stat st, have;
  if (stat(src, &st) != 0) die("stat %s", op->src);
  if (stat(op->dst, &have) != 0) {
    make_parents(op->dst);
    if (S_ISDIR(st.st_mode)) {
      if (mkdir(op->dst, 0755) != 0) die("mkdir %s", op->dst);
    } else {
      int fd = open(op->dst, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
      if (fd < 0) die("create %s", op->dst);
      close(fd);
    }
  }
  mount_read_only(src, op->dst);
}

static void make_dir(const plan_op *op, const plan *p, bool root) {
  make_parents(op->dst);
  if (mkdir(op->dst, op->mode) != 0 && errno != EEXIST) die("mkdir %s", op->dst);
  if (op->owned && root && chown(op->dst, p->uid, p->uid) != 0) die("chown %s", op->dst);
  if (chmod(op->dst, op->mode) != 0) die("chmod %s", op->dst);
}

static void mount_tmpfs(const plan_op *op, const plan *p, bool root) {
  char options[128];
  int n = snprintf(options, sizeof options, "mode=%04o,size=%llu,nr_inodes=%llu", (unsigned)op->mode,
                   (unsigned long long)op->bytes, (unsigned long long)op->inodes);
  if (op->owned && root)
    snprintf(options + n, sizeof options - (size_t)n, ",uid=%u,gid=%u", (unsigned)p->uid, (unsigned)p->uid);
  if (mount("tmpfs", op->dst, "tmpfs", MS_NOSUID | MS_NODEV, options) != 0) die("tmpfs on %s", op->dst);
}

typedef struct sources {
  char *src, *upper, *work;
} sources;

static void build_root(const plan *p, bool root) {
  sources *from = calloc(p->count, sizeof *from);
  if (from == NULL) abort();
  for (size_t i = 0; i < p->count; i++) {
    const plan_op *op = &p->ops[i];
    if (op->src != NULL) from[i].src = open_source(op->src, op->optional);
    if (op->upper != NULL) from[i].upper = op->in_stage ? op->upper : open_source(op->upper, false);
    if (op->work != NULL) from[i].work = op->in_stage ? op->work : open_source(op->work, false);
  }
  umask(0);
  for (size_t i = 0; i < p->count; i++) {
    const plan_op *op = &p->ops[i];
    switch (op->kind) {
    case PLAN_PRIVATE:
      if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) die("make mounts private");
      break;
    case PLAN_TMPFS:
      mount_tmpfs(op, p, root);
      break;
    case PLAN_DIR:
      make_dir(op, p, root);
      break;
    case PLAN_OVERLAY:
      mount_overlay(op, &p->limits, from[i].src, from[i].upper, from[i].work, root);
      break;
    case PLAN_BIND_RO:
      if (from[i].src != NULL) bind_read_only(op, from[i].src);
      break;
    }
  }
}

static void set_limit(int what, rlim_t value) {
  struct rlimit have, want = {value, value};
  if (getrlimit(what, &have) == 0 && have.rlim_max < value) want.rlim_cur = want.rlim_max = have.rlim_max;
  if (setrlimit(what, &want) != 0) die("setrlimit");
}

/* From 5.14 on the kernel counts a user's processes per user namespace, so that an ordinary user's sandbox
 * has a count of its own; before, the limit would be the user's for the whole machine. */
static bool counts_by_namespace(void) {
  struct utsname u;
  unsigned major = 0, minor = 0;
  return uname(&u) == 0 && sscanf(u.release, "%u.%u", &major, &minor) == 2 &&
         (major > 5 || (major == 5 && minor >= 14));
}

static void set_limits(const limits *l, bool root) {
  /* 1 is special: no file, and the machine's crash handler is not started either (see seccomp.c). */
  set_limit(RLIMIT_CORE, 1);
  set_limit(RLIMIT_NOFILE, l->open_files);
  /* A full file system in memory says so itself; elsewhere one endless file ends its writer, not the sandbox.
   */
  if (limits_disk_in_memory(l) == 0 || l->file_size_mb < l->disk_mb)
    set_limit(RLIMIT_FSIZE, (rlim_t)l->file_size_mb << 20);
  /* Where a control group counts, it is the one that is reached and reported. */
  if (root || counts_by_namespace()) set_limit(RLIMIT_NPROC, l->processes + (cgroup_has(CG_PIDS) ? 64 : 2));
  /* One process cannot take it all between two measurements; more than one can. */
  if (!cgroup_has(CG_MEMORY)) set_limit(RLIMIT_DATA, (rlim_t)l->memory_mb << 20);
  if (!cgroup_has(CG_CPU) && nice(5) == -1) return; /* the lowest already */
}

static int args_file(const plan *p) {
  int fd = memfd_create("bwrap-args", MFD_CLOEXEC);
  for (size_t off = 0; fd >= 0 && off < p->bwrap.len;) {
    ssize_t n = write(fd, p->bwrap.p + off, p->bwrap.len - off);
    if (n <= 0) die("memfd");
    off += (size_t)n;
  }
  if (fd < 0 || lseek(fd, 0, SEEK_SET) != 0) die("memfd");
  return fd;
}

/* The filter anew: bwrap reads from the file's offset, which duplicates share between launches. */
static int open_filter(void) {
  if (cfg.seccomp_fd < 0) return -1;
  char path[40];
  snprintf(path, sizeof path, "/proc/self/fd/%d", cfg.seccomp_fd);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) die("seccomp filter");
  return fd;
}

/* Puts descriptors where bwrap and the guest expect them and closes all others. */
static void place_fds(const launch_fds *fds, int args, int filter) {
  const int want[] = {fds->listen, fds->link, fds->guest, args, filter};
  int high[5];
  for (int i = 0; i < 5; i++) {
    high[i] = want[i] < 0 ? -1 : fcntl(want[i], F_DUPFD, 64);
    if (want[i] >= 0 && high[i] < 0) die("dup");
  }
  for (int i = 0; i < 5; i++)
    if (high[i] >= 0 && dup2(high[i], 3 + i) < 0) die("dup2");
  syscall(SYS_close_range, 8u, ~0u, 0u);
}

void apply_and_exec(const plan *p, const launch_fds *fds, pid_t engine) {
  sigset_t none;
  sigemptyset(&none);
  dup2(fds->err, 2);
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0) die("/dev/null");
  for (int s = 1; s < 32; s++)
    signal(s, SIG_DFL);
  sigprocmask(SIG_SETMASK, &none, NULL);
  /* With the engine killed nothing of the sandbox may stay. */
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != engine) _exit(125);
  /* The engine is not dumpable, which would close /proc/self to its own user here. The
   * token has no business in this process. */
  if (cfg.token != NULL) explicit_bzero(cfg.token, strlen(cfg.token));
  prctl(PR_SET_DUMPABLE, 1);
  /* First: all that it does from here on counts as the sandbox's. */
  if (p->cgroup[0] != '\0' && cgroup_enter(p->cgroup) != 0) die("control group %s", p->cgroup);
  enter_namespaces(cfg.root);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  int filter = open_filter();
  build_root(p, cfg.root);
  const char *wrong = netns_make(fds->link);
  if (wrong != NULL) die("network: %s", wrong);
  set_limits(&p->limits, cfg.root);
  if (cfg.root) {
    /* Groups before the ids: afterwards there is no right to drop them. */
    if (setgroups(0, NULL) != 0 || setresgid(p->uid, p->uid, p->uid) != 0 ||
        setresuid(p->uid, p->uid, p->uid) != 0)
      die("drop to uid %u", (unsigned)p->uid);
  }
  /* Changing ids cleared it. */
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != engine) _exit(125);
  if (chdir("/") != 0) die("chdir");
  place_fds(fds, args_file(p), filter);
  size_t n = 0;
  while (p->command[n] != NULL)
    n++;
  char **argv = calloc(n + 5, sizeof *argv);
  if (argv == NULL) abort();
  argv[0] = cfg.id; /* state.c looks for it */
  argv[1] = (char[]){"--args"};
  argv[2] = (char[]){"6"};
  argv[3] = (char[]){"--"};
  memcpy(argv + 4, p->command, n * sizeof *argv);
  char *envp[] = {(char[]){"PATH=/usr/bin:/bin"}, NULL};
  execve(cfg.bwrap, argv, envp);
  die("exec %s", cfg.bwrap);
}
