/* engine/apply.c - the launcher: the child that carries a plan out and becomes bwrap.
 *
 * Order, with reasons: control group first, then namespaces (nothing below may be seen by the host); sources
 * opened before /tmp is covered (the state directory may lie there); mounts; network, whose listening socket
 * goes to the engine before anything of the sandbox runs; limits; privileges dropped last, because mounts of
 * directories that the sandbox's user cannot reach need them. */
#define _GNU_SOURCE
#include "launch.h"

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
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

void launch_die(const char *fmt, ...) {
  int err = errno;
  va_list ap;
  va_start(ap, fmt);
  vdprintf(2, fmt, ap);
  va_end(ap);
  dprintf(2, ": %s\n", strerror(err));
  _exit(125);
}

static void refused(const char *what) {
  int err = errno;
  dprintf(
      2,
      "This kernel does not let this user make namespaces. Check: sysctl "
      "kernel.unprivileged_userns_clone=1 "
      "(Debian), kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), user.max_user_namespaces > 0; "
      "inside a chroot the kernel always refuses: use a mount namespace (unshare -m, pivot_root) there.\n");
  errno = err;
  launch_die("%s", what);
}

/* AppArmor lets a user make a namespace and refuses every right in it: these are the first that need one. */
static void write_map(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) refused(path);
  close(fd);
}

static void enter_namespaces(bool root) {
  uid_t uid = geteuid();
  gid_t gid = getegid();
  if (unshare((root ? 0 : CLONE_NEWUSER) | CLONE_NEWNS | CLONE_NEWNET) != 0) refused("unshare");
  if (root) return;
  char map[64];
  write_map("/proc/self/setgroups", "deny");
  snprintf(map, sizeof map, "%u %u 1", (unsigned)uid, (unsigned)uid);
  write_map("/proc/self/uid_map", map);
  snprintf(map, sizeof map, "%u %u 1", (unsigned)gid, (unsigned)gid);
  write_map("/proc/self/gid_map", map);
}

static void set_limit(int what, rlim_t value) {
  struct rlimit have, want = {value, value};
  if (getrlimit(what, &have) == 0 && have.rlim_max < value) want.rlim_cur = want.rlim_max = have.rlim_max;
  if (setrlimit(what, &want) != 0) launch_die("setrlimit");
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
  if (fd < 0 || !csn_write_all(fd, p->bwrap.p, p->bwrap.len) || lseek(fd, 0, SEEK_SET) != 0)
    launch_die("memfd");
  return fd;
}

/* The filter anew: bwrap reads from the file's offset, which duplicates share between launches. */
static int open_filter(int compiled) {
  char path[40];
  snprintf(path, sizeof path, "/proc/self/fd/%d", compiled);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) launch_die("seccomp filter");
  return fd;
}

/* Puts descriptors where bwrap and the guest expect them and closes all others. */
static void place_fds(const launch_fds *fds, int args, int filter) {
  const int want[] = {fds->listen, fds->link, fds->guest, args, filter};
  int high[5];
  for (int i = 0; i < 5; i++) {
    high[i] = want[i] < 0 ? -1 : fcntl(want[i], F_DUPFD, 64);
    if (want[i] >= 0 && high[i] < 0) launch_die("dup");
  }
  for (int i = 0; i < 5; i++)
    if (high[i] >= 0 && dup2(high[i], 3 + i) < 0) launch_die("dup2");
  syscall(SYS_close_range, 8u, ~0u, 0u);
}

void apply_and_exec(const plan *p, const launch_fds *fds, pid_t engine) {
  sigset_t none;
  sigemptyset(&none);
  dup2(fds->err, 2);
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0) launch_die("/dev/null");
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
  if (!fds->in_cgroup && p->cgroup[0] != '\0' && cgroup_enter(p->cgroup) != 0)
    launch_die("control group %s", p->cgroup);
  enter_namespaces(cfg.root);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  int filter = open_filter(p->emulate_root ? cfg.seccomp_root_fd : cfg.seccomp_fd);
  int ids = p->own_ids ? ids_make(p->uid) : -1;
  root_build(p, cfg.root, ids);
  const char *wrong = netns_make(fds->link);
  if (wrong != NULL) launch_die("network: %s", wrong);
  set_limits(&p->limits, cfg.root);
  /* In a template the sandbox's user is root: of a namespace whose ids mean nothing outside. */
  if (ids >= 0 && setns(ids, CLONE_NEWUSER) != 0) launch_die("enter the user namespace");
  uid_t uid = ids >= 0 ? 0 : p->uid;
  /* Groups before the ids: afterwards there is no right to drop them. */
  if (cfg.root && (setgroups(0, NULL) != 0 || setresgid(uid, uid, uid) != 0 || setresuid(uid, uid, uid) != 0))
    launch_die("drop to uid %u", (unsigned)uid);
  /* Changing ids cleared it. */
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != engine) _exit(125);
  if (chdir("/") != 0) launch_die("chdir");
  place_fds(fds, args_file(p), filter);
  /* The name is what state.c looks for. */
  char *argv[] = {cfg.id, (char[]){"--args"}, (char[]){"6"}, (char[]){"--"}, (char[]){PLAN_COMMAND}, NULL};
  char *envp[] = {(char[]){"PATH=/usr/bin:/bin"}, NULL};
  execve(cfg.bwrap, argv, envp);
  launch_die("exec %s", cfg.bwrap);
}
