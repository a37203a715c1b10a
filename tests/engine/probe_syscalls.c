/* tests/engine/probe_syscalls.c - system calls that give power over the kernel or widen its surface. */
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* The same number on every architecture, newer than the oldest headers that this is built with. */
#define NR_OPEN_TREE      428
#define NR_MOVE_MOUNT     429
#define NR_FSOPEN         430
#define NR_FSCONFIG       431
#define NR_FSMOUNT        432
#define NR_FSPICK         433
#define NR_CLONE3         435
#define NR_MOUNT_SETATTR  442
#define NR_QUOTACTL_FD    443
#define NR_OPEN_TREE_ATTR 467
#define NR_IO_URING_SETUP 425

static int outcome(long rc) {
  return rc >= 0 ? 0 : errno;
}

#define PLAIN(fn, ...)                                                                                       \
  static int fn(void) {                                                                                      \
    return outcome(syscall(__VA_ARGS__));                                                                    \
  }

PLAIN(try_mount_tmpfs, SYS_mount, "none", "/mnt", "tmpfs", 0, NULL)
PLAIN(try_mount_bind, SYS_mount, "/", "/mnt", NULL, MS_BIND, NULL)
PLAIN(try_mount_remount, SYS_mount, NULL, "/etc/ssl", NULL, MS_REMOUNT | MS_BIND, NULL)
PLAIN(try_mount_proc, SYS_mount, "proc", "/mnt", "proc", 0, NULL)
PLAIN(try_mount_move, SYS_mount, "/tmp", "/mnt", NULL, MS_MOVE, NULL)
PLAIN(try_mount_shared, SYS_mount, NULL, "/workspace", NULL, MS_SHARED | MS_REC, NULL)
PLAIN(try_umount, SYS_umount2, "/etc/hosts", MNT_DETACH)
PLAIN(try_pivot_root, SYS_pivot_root, ".", ".")
PLAIN(try_chroot, SYS_chroot, "/tmp")
PLAIN(try_open_tree, NR_OPEN_TREE, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */)
PLAIN(try_open_tree_attr, NR_OPEN_TREE_ATTR, AT_FDCWD, "/", 1, NULL, 0)
PLAIN(try_move_mount, NR_MOVE_MOUNT, AT_FDCWD, "/tmp", AT_FDCWD, "/mnt", 0)
PLAIN(try_fsopen, NR_FSOPEN, "tmpfs", 0)
PLAIN(try_fsconfig, NR_FSCONFIG, 0, 6, NULL, NULL, 0)
PLAIN(try_fsmount, NR_FSMOUNT, 0, 0, 0)
PLAIN(try_fspick, NR_FSPICK, AT_FDCWD, "/", 0)
PLAIN(try_unshare_user, SYS_unshare, CLONE_NEWUSER)
PLAIN(try_unshare_mount, SYS_unshare, CLONE_NEWNS)
PLAIN(try_unshare_net, SYS_unshare, CLONE_NEWNET)
PLAIN(try_unshare_files, SYS_unshare, CLONE_NEWUSER | CLONE_FILES | CLONE_FS)
PLAIN(try_keyctl, SYS_keyctl, 0 /* GET_KEYRING_ID */, -3, 1)
PLAIN(try_add_key, SYS_add_key, "user", "probe", "x", 1, -2)
PLAIN(try_request_key, SYS_request_key, "user", "probe", NULL, -2)
PLAIN(try_userfaultfd, SYS_userfaultfd, 1 /* UFFD_USER_MODE_ONLY */)
PLAIN(try_kexec_load, SYS_kexec_load, 0, 0, NULL, 0)
PLAIN(try_kexec_file_load, SYS_kexec_file_load, -1, -1, 0, NULL, 4)
PLAIN(try_init_module, SYS_init_module, "", 0, "")
PLAIN(try_finit_module, SYS_finit_module, 0, "", 0)
PLAIN(try_delete_module, SYS_delete_module, "no-such-module", O_NONBLOCK)
PLAIN(try_reboot, SYS_reboot, 0xfee1dead, 672274793, 0 /* no command */, NULL)
PLAIN(try_swapon, SYS_swapon, "/tmp", 0)
PLAIN(try_swapoff, SYS_swapoff, "/tmp")
PLAIN(try_acct, SYS_acct, NULL)
PLAIN(try_quotactl, SYS_quotactl, 0x80000100u, NULL, 0, NULL)
PLAIN(try_quotactl_fd, NR_QUOTACTL_FD, 0, 0, 0, NULL)
PLAIN(try_syslog, SYS_syslog, 3, NULL, 0)
PLAIN(try_vhangup, SYS_vhangup)
PLAIN(try_fanotify, SYS_fanotify_init, 0x200, 0)
PLAIN(try_handle, SYS_open_by_handle_at, AT_FDCWD, NULL, O_RDONLY)
PLAIN(try_name_to_handle, SYS_name_to_handle_at, AT_FDCWD, "/", NULL, NULL, 0)
PLAIN(try_migrate_pages, SYS_migrate_pages, 0, 0, NULL, NULL)
PLAIN(try_move_pages, SYS_move_pages, 0, 0, NULL, NULL, NULL, 0)

static int try_sethostname(void) {
  char have[65] = "";
  gethostname(have, sizeof have - 1);
  return outcome(sethostname(have, strlen(have)));
}

static int try_setdomainname(void) {
  char have[65] = "";
  if (getdomainname(have, sizeof have - 1) != 0) return errno;
  return outcome(setdomainname(have, strlen(have)));
}

static int try_clone_user(void) {
  pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, 0);
  if (pid == 0) _exit(0);
  return outcome(pid);
}

static int try_clone_net(void) {
  pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWNET | CLONE_NEWNS | SIGCHLD, NULL, NULL, NULL, 0);
  if (pid == 0) _exit(0);
  return outcome(pid);
}

static int try_clone3_user(void) {
  uint64_t args[11] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD};
  pid_t pid = (pid_t)syscall(NR_CLONE3, args, sizeof args);
  if (pid == 0) _exit(0);
  return outcome(pid);
}

static int setns_of(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  return fd < 0 ? errno : outcome(syscall(SYS_setns, fd, 0));
}

static int try_setns(void) {
  static const char *const paths[] = {"/proc/1/ns/mnt", "/proc/self/ns/mnt", "/proc/self/ns/user",
                                      "/proc/self/ns/net", "/proc/1/ns/user"};
  int result = ENOENT;
  for (size_t i = 0; i < sizeof paths / sizeof paths[0] && result != 0; i++)
    result = setns_of(paths[i]);
  return result;
}

/* The owner of the network namespace, and parents: descriptors of namespaces outside. */
static int try_ns_parent(void) {
  static const struct {
    const char *path;
    unsigned long what;
  } list[] = {{"/proc/self/ns/net", 0xb701 /* NS_GET_USERNS */},
              {"/proc/self/ns/user", 0xb702 /* NS_GET_PARENT */},
              {"/proc/self/ns/pid", 0xb702}};
  for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
    int fd = open(list[i].path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && ioctl(fd, list[i].what) >= 0) {
      strcpy(probe_detail, list[i].path);
      return 0;
    }
  }
  return errno;
}

static int try_bpf(void) {
  uint64_t attr[16] = {1 /* type and key size of an array map */, 0};
  return outcome(syscall(SYS_bpf, 0, attr, sizeof attr));
}

static int try_perf(void) {
  char attr[112] = {0};
  attr[4] = 112;
  attr[0] = 1; /* a software clock of this process */
  return outcome(syscall(SYS_perf_event_open, attr, 0, -1, -1, 0));
}

static int try_io_uring(void) {
  char params[120] = {0};
  return outcome(syscall(NR_IO_URING_SETUP, 4, params));
}

static int try_io_uring_others(void) {
  int first = outcome(syscall(426, -1, 0, 0, 0, NULL, 0));
  int second = outcome(syscall(427, -1, 0, NULL, 0));
  /* Not that the descriptor is wrong: that the call is not there. */
  return first == ENOSYS && second == ENOSYS ? ENOSYS : 0;
}

static int try_clock_settime(void) {
  /* To what it is. */
  struct timespec ts;
  clock_gettime(CLOCK_REALTIME, &ts);
  return outcome(syscall(SYS_clock_settime, CLOCK_REALTIME, &ts));
}

static int try_settimeofday(void) {
  struct timeval tv;
  gettimeofday(&tv, NULL);
  return outcome(syscall(SYS_settimeofday, &tv, NULL));
}

/* Typing into a terminal, also with a request number that only its low half makes equal. */
static int try_tiocsti(void) {
  int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC), number = -1, zero = 0;
  char path[32];
  if (master < 0 || ioctl(master, TIOCSPTLCK, &zero) != 0 || ioctl(master, TIOCGPTN, &number) != 0) return 0;
  snprintf(path, sizeof path, "/dev/pts/%d", number);
  setsid();
  int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return 0;
  if (syscall(SYS_ioctl, fd, 0x5412ul, "x") == 0) return 0;
  return outcome(syscall(SYS_ioctl, fd, 0x100005412ul, "x"));
}

static int try_tioclinux(void) {
  char what = 2;
  return outcome(ioctl(0, 0x541C, &what));
}

static int try_capset(void) {
  struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct d[2] = {{0}};
  d[0].effective = d[0].permitted = 1u << CAP_SYS_ADMIN | 1u << CAP_NET_ADMIN;
  return outcome(syscall(SYS_capset, &h, d));
}

static int try_ambient(void) {
  return outcome(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN, 0, 0));
}

static int try_new_privs(void) {
  /* It can only be set. */
  if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) return 0;
  return outcome(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0));
}

static int try_priority(void) {
  struct sched_param sp = {.sched_priority = 10};
  if (sched_setscheduler(0, SCHED_FIFO, &sp) == 0) return 0;
  int have = getpriority(PRIO_PROCESS, 0);
  return outcome(setpriority(PRIO_PROCESS, 0, have - 1));
}

static int try_raise_limits(void) {
  static const int what[] = {RLIMIT_NOFILE, RLIMIT_NPROC, RLIMIT_CORE};
  for (size_t i = 0; i < sizeof what / sizeof what[0]; i++) {
    struct rlimit l;
    getrlimit((__rlimit_resource_t)what[i], &l);
    if (l.rlim_max == RLIM_INFINITY) continue;
    l.rlim_max++;
    if (setrlimit((__rlimit_resource_t)what[i], &l) == 0) {
      getrlimit((__rlimit_resource_t)what[i], &l);
      if (what[i] != RLIMIT_CORE || l.rlim_max != 1) return 0;
    }
  }
  return EPERM;
}

/* The machine's crash handler runs as its root for any limit but 1, and a program must not get another. */
static int try_core_limit(void) {
  struct rlimit none = {0, 0}, have;
  (void)setrlimit(RLIMIT_CORE, &none);
  (void)syscall(SYS_prlimit64, 0, RLIMIT_CORE, &none, NULL);
  return getrlimit(RLIMIT_CORE, &have) == 0 && have.rlim_cur == 1 ? EPERM : 0;
}

#if defined(__x86_64__)
static int try_iopl(void) {
  return outcome(syscall(SYS_iopl, 3));
}
static int try_ioperm(void) {
  return outcome(syscall(SYS_ioperm, 0x60, 1, 1));
}
static int try_modify_ldt(void) {
  char room[16];
  return outcome(syscall(SYS_modify_ldt, 0, room, sizeof room));
}
/* The other ways into the kernel have numbers of their own, which a filter for the first would misread. */
static int try_int80(void) {
  long rc;
  __asm__ volatile("int $0x80" : "=a"(rc) : "a"(20 /* getpid */) : "memory", "r8", "r9", "r10", "r11");
  if (rc >= 0) return 0;
  return (int)-rc;
}
static int try_int80_mount(void) {
  long rc;
  __asm__ volatile("int $0x80"
                   : "=a"(rc)
                   : "a"(21 /* mount */), "b"(0), "c"(0), "d"(0)
                   : "memory", "r8", "r9", "r10", "r11");
  if (rc >= 0) return 0;
  return (int)-rc;
}
static int try_x32(void) {
  return outcome(syscall(0x40000000 | SYS_getpid));
}
static int try_x32_mount(void) {
  return outcome(syscall(0x40000000 | SYS_mount, 0, 0, 0, 0, 0));
}
#endif

#if defined(__aarch64__)
/* A program for 32 bits has calls with numbers of their own, which a filter for 64 would misread: number 20
 * is getpid there, and epoll_create1 here. It ends with 42 when it was answered. Where the processor or the
 * kernel runs no such program: ENOEXEC. */
static int try_arm32(void) {
  /* The file's header, then that of one segment, the whole file. */
  static const uint32_t program[] = {0x464c457f,
                                     0x00010101,
                                     0,
                                     0,
                                     0x00280002 /* a program for ARM */,
                                     1,
                                     0x10054 /* where it begins */,
                                     52,
                                     0,
                                     0x05000000,
                                     0x00200034,
                                     1,
                                     0,
                                     1,
                                     0,
                                     0x10000,
                                     0x10000,
                                     104,
                                     104,
                                     5,
                                     0x10000,
                                     0xe3a07014 /* mov r7, #20 */,
                                     0xef000000 /* svc #0 */,
                                     0xe3a0002a /* mov r0, #42 */,
                                     0xe3a07001 /* mov r7, #1 */,
                                     0xef000000};
  _Static_assert(sizeof program == 104, "the segment is the file");
  char *none[] = {NULL};
  int fd = memfd_create("arm", MFD_CLOEXEC), status = 0;
  if (fd < 0 || write(fd, program, sizeof program) != sizeof program) return ENOMEM;
  pid_t pid = fork();
  if (pid == 0) {
    fexecve(fd, none, none);
    _exit(errno);
  }
  if (pid < 0 || waitpid(pid, &status, 0) != pid) return ECHILD;
  if (WIFSIGNALED(status)) raise(WTERMSIG(status));
  return WEXITSTATUS(status) == 42 ? 0 : WEXITSTATUS(status);
}
#endif

const attempt syscall_attempts[] = {
    {"mount-tmpfs", try_mount_tmpfs},
    {"mount-bind", try_mount_bind},
    {"mount-remount", try_mount_remount},
    {"mount-proc", try_mount_proc},
    {"mount-move", try_mount_move},
    {"mount-shared", try_mount_shared},
    {"umount", try_umount},
    {"pivot_root", try_pivot_root},
    {"chroot", try_chroot},
    {"open_tree", try_open_tree},
    {"open_tree_attr", try_open_tree_attr},
    {"move_mount", try_move_mount},
    {"fsopen", try_fsopen},
    {"fsconfig", try_fsconfig},
    {"fsmount", try_fsmount},
    {"fspick", try_fspick},
    {"unshare-user", try_unshare_user},
    {"unshare-mount", try_unshare_mount},
    {"unshare-net", try_unshare_net},
    {"unshare-files", try_unshare_files},
    {"clone-user", try_clone_user},
    {"clone-net", try_clone_net},
    {"clone3-user", try_clone3_user},
    {"setns", try_setns},
    {"namespace-parents", try_ns_parent},
    {"keyctl", try_keyctl},
    {"add_key", try_add_key},
    {"request_key", try_request_key},
    {"bpf", try_bpf},
    {"userfaultfd", try_userfaultfd},
    {"perf_event_open", try_perf},
    {"io_uring_setup", try_io_uring},
    {"io_uring-others", try_io_uring_others},
    {"kexec_load", try_kexec_load},
    {"kexec_file_load", try_kexec_file_load},
    {"init_module", try_init_module},
    {"finit_module", try_finit_module},
    {"delete_module", try_delete_module},
    {"reboot", try_reboot},
    {"swapon", try_swapon},
    {"swapoff", try_swapoff},
    {"acct", try_acct},
    {"quotactl", try_quotactl},
    {"quotactl_fd", try_quotactl_fd},
    {"syslog", try_syslog},
    {"vhangup", try_vhangup},
    {"fanotify_init", try_fanotify},
    {"open_by_handle_at", try_handle},
    {"name_to_handle_at", try_name_to_handle},
    {"migrate_pages", try_migrate_pages},
    {"move_pages", try_move_pages},
    {"sethostname", try_sethostname},
    {"setdomainname", try_setdomainname},
    {"clock_settime", try_clock_settime},
    {"settimeofday", try_settimeofday},
    {"TIOCSTI", try_tiocsti},
    {"TIOCLINUX", try_tioclinux},
    {"capset", try_capset},
    {"ambient-capability", try_ambient},
    {"no_new_privs-off", try_new_privs},
    {"priority", try_priority},
    {"raise-limits", try_raise_limits},
    {"core-limit", try_core_limit},
#if defined(__x86_64__)
    {"iopl", try_iopl},
    {"ioperm", try_ioperm},
    {"modify_ldt", try_modify_ldt},
    {"int80", try_int80},
    {"int80-mount", try_int80_mount},
    {"x32", try_x32},
    {"x32-mount", try_x32_mount},
#endif
#if defined(__aarch64__)
    {"arm32", try_arm32},
#endif
    {NULL, NULL},
};
