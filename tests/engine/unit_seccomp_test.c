/* tests/engine/unit_seccomp_test.c - the filter of a sandbox, compiled as the engine does it and run here as
 * the kernel would, on calls whose numbers are this architecture's by the kernel's own headers; under ASan
 * and UBSan. TAP. */
#define _GNU_SOURCE
#include "../../sandbox-sdk-shim/engine/engine.h"
#include "../unit/tap.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define OWN_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OWN_ARCH AUDIT_ARCH_AARCH64
#else
#error "which AUDIT_ARCH is this?"
#endif

#define ALLOW      SECCOMP_RET_ALLOW
#define REFUSE(no) (SECCOMP_RET_ERRNO | (unsigned)(no))
#define BROKEN     0xdeadu /* no answer of a filter */

static void gave(bool good, const char *what, uint32_t got) {
  ok(good, good ? "%s" : "%s (0x%x)", what, (unsigned)got);
}

static struct sock_filter code[4096];
static size_t code_len;

static void load(bool emulate_root) {
  int fd = seccomp_compile(emulate_root);
  if (fd < 0) perror("# seccomp_compile");
  ssize_t n = fd < 0 ? -1 : pread(fd, code, sizeof code, 0);
  code_len = n > 0 ? (size_t)n / sizeof code[0] : 0;
  gave(n > 0 && (size_t)n < sizeof code, emulate_root ? "compiled for a template" : "compiled", 0);
  if (fd >= 0) close(fd);
}

/* What the program answers: the instructions that libseccomp writes. */
static uint32_t run(const struct seccomp_data *data) {
  uint32_t a = 0;
  for (size_t pc = 0; pc < code_len; pc++) {
    const struct sock_filter *f = &code[pc];
    bool jump = false;
    switch (f->code) {
    case BPF_LD | BPF_W | BPF_ABS:
      if (f->k > sizeof *data - sizeof a) return BROKEN;
      memcpy(&a, (const char *)data + f->k, sizeof a);
      continue;
    case BPF_ALU | BPF_AND | BPF_K:
      a &= f->k;
      continue;
    case BPF_JMP | BPF_JA:
      pc += f->k;
      continue;
    case BPF_JMP | BPF_JEQ | BPF_K:
      jump = a == f->k;
      break;
    case BPF_JMP | BPF_JGT | BPF_K:
      jump = a > f->k;
      break;
    case BPF_JMP | BPF_JGE | BPF_K:
      jump = a >= f->k;
      break;
    case BPF_JMP | BPF_JSET | BPF_K:
      jump = (a & f->k) != 0;
      break;
    case BPF_RET | BPF_K:
      return f->k;
    default:
      return BROKEN;
    }
    pc += jump ? f->jt : f->jf;
  }
  return BROKEN;
}

static uint32_t call(long nr, uint64_t a0, uint64_t a1, uint64_t a2) {
  return run(&(struct seccomp_data){.nr = (int)nr, .arch = OWN_ARCH, .args = {a0, a1, a2}});
}

static void expect(uint32_t want, const char *what, long nr, uint64_t a0, uint64_t a1, uint64_t a2) {
  uint32_t got = call(nr, a0, a1, a2);
  gave(got == want, what, got);
}

typedef struct numbered {
  long nr;
  const char *name;
} numbered;
#define CALL(name)                                                                                           \
  { SYS_##name, #name }

static void every(uint32_t want, const char *what, const numbered *calls, size_t n) {
  for (size_t i = 0; i < n; i++) {
    char text[80];
    snprintf(text, sizeof text, "%s %s", calls[i].name, what);
    expect(want, text, calls[i].nr, 0, 0, 0);
  }
}
#define EVERY(want, what, calls) every(want, what, calls, sizeof(calls) / sizeof((calls)[0]))

static void test_denied(void) {
  static const numbered calls[] = {
    CALL(mount),
    CALL(umount2),
    CALL(pivot_root),
    CALL(move_mount),
    CALL(open_tree),
    CALL(fsopen),
    CALL(fsconfig),
    CALL(fsmount),
    CALL(fspick),
    CALL(mount_setattr),
    CALL(chroot),
    CALL(setns),
    CALL(unshare),
    CALL(open_by_handle_at),
    CALL(name_to_handle_at),
    CALL(keyctl),
    CALL(add_key),
    CALL(request_key),
    CALL(bpf),
    CALL(userfaultfd),
    CALL(perf_event_open),
    CALL(kexec_load),
    CALL(kexec_file_load),
    CALL(init_module),
    CALL(finit_module),
    CALL(delete_module),
    CALL(reboot),
    CALL(swapon),
    CALL(swapoff),
    CALL(acct),
    CALL(quotactl),
    CALL(quotactl_fd),
    CALL(syslog),
    CALL(vhangup),
    CALL(lookup_dcookie),
    CALL(settimeofday),
    CALL(clock_settime),
    CALL(adjtimex),
    CALL(clock_adjtime),
    CALL(nfsservctl),
    CALL(fanotify_init),
    CALL(process_madvise),
    CALL(move_pages),
    CALL(mbind),
    CALL(migrate_pages),
    {467, "open_tree_attr"},
#if defined(__x86_64__)
    CALL(iopl),
    CALL(ioperm),
    CALL(modify_ldt),
#endif
  };
  static const numbered absent[] = {CALL(clone3), CALL(io_uring_setup), CALL(io_uring_enter),
                                    CALL(io_uring_register)};
  static const numbered common[] = {
      CALL(read),      CALL(write),          CALL(openat),        CALL(close),     CALL(execve),
      CALL(execveat),  CALL(mmap),           CALL(futex),         CALL(ppoll),     CALL(epoll_create1),
      CALL(epoll_ctl), CALL(epoll_pwait),    CALL(pipe2),         CALL(dup3),      CALL(wait4),
      CALL(getpid),    CALL(rt_sigprocmask), CALL(inotify_init1), CALL(renameat2), CALL(ptrace),
      CALL(statx),     CALL(openat2),        CALL(faccessat2),    CALL(getrandom), CALL(memfd_create),
      CALL(clone),     CALL(rseq),           CALL(setpriority),   CALL(capget),    CALL(close_range),
  };
  EVERY(REFUSE(EPERM), "is refused", calls);
  EVERY(REFUSE(ENOSYS), "is not there", absent);
  EVERY(ALLOW, "is allowed", common);
}

static void test_arguments(void) {
  expect(REFUSE(EPERM), "clone of a user namespace", SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0);
  expect(REFUSE(EPERM), "clone of every namespace", SYS_clone, CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET, 0,
         0);
  expect(ALLOW, "clone of a thread", SYS_clone,
         CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SETTLS, 0x7f0000000000, 0);
  expect(ALLOW, "clone of a process whose stack has that bit in its address", SYS_clone, SIGCHLD,
         CLONE_NEWUSER, CLONE_NEWUSER);
  expect(REFUSE(EPERM), "TIOCSTI", SYS_ioctl, 0, TIOCSTI, 0);
  expect(REFUSE(EPERM), "TIOCSTI with high bits", SYS_ioctl, 0, 1ull << 32 | TIOCSTI, 0);
  expect(REFUSE(EPERM), "TIOCLINUX", SYS_ioctl, 0, TIOCLINUX, 0);
  expect(ALLOW, "TIOCGWINSZ", SYS_ioctl, 0, TIOCGWINSZ, 0);
  expect(REFUSE(0), "a limit on core dumps by setrlimit", SYS_setrlimit, RLIMIT_CORE, 0x1000, 0);
  expect(REFUSE(0), "a limit on core dumps by prlimit", SYS_prlimit64, 0, RLIMIT_CORE, 0x1000);
  expect(ALLOW, "reading the limit on core dumps", SYS_prlimit64, 0, RLIMIT_CORE, 0);
  expect(REFUSE(EPERM), "a limit of the guest server", SYS_prlimit64, 1, RLIMIT_NOFILE, 0x1000);
  expect(ALLOW, "a limit of one's own", SYS_prlimit64, 0, RLIMIT_NOFILE, 0x1000);
}

static void test_sockets(void) {
  uint32_t wrong = 0;
  for (uint64_t high = 0; high <= 1ull << 32; high += 1ull << 32)
    for (uint32_t family = 1; family < 64; family++) {
      bool kept = family == AF_UNIX || family == AF_INET || family == AF_INET6 || family == AF_NETLINK;
      if (call(SYS_socket, high | family, SOCK_STREAM, 0) != (kept ? ALLOW : REFUSE(EAFNOSUPPORT))) wrong++;
    }
  gave(wrong == 0, "sockets of four families only", wrong);
  wrong = 0;
  for (uint32_t protocol = 0; protocol < 32; protocol++) {
    bool kept = protocol == NETLINK_ROUTE || protocol == NETLINK_SOCK_DIAG ||
                protocol == NETLINK_KOBJECT_UEVENT || protocol == NETLINK_GENERIC;
    uint32_t want = kept ? ALLOW : REFUSE(EPROTONOSUPPORT);
    if (call(SYS_socket, AF_NETLINK, SOCK_RAW, protocol) != want) wrong++;
  }
  gave(wrong == 0, "netlink of four protocols only", wrong);
}

/* Where the kernel cannot end a process (QEMU's user mode has no filters at all), a thread is what libseccomp
 * ends. */
static uint32_t ending(void) {
  uint32_t action = SECCOMP_RET_KILL_PROCESS;
  return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0 ? action : SECCOMP_RET_KILL_THREAD;
}

static void test_architectures(void) {
  static const struct {
    uint32_t arch;
    const char *name;
  } all[] = {{AUDIT_ARCH_X86_64, "x86_64"}, {AUDIT_ARCH_I386, "i386"},       {AUDIT_ARCH_AARCH64, "arm64"},
             {AUDIT_ARCH_ARM, "arm"},       {AUDIT_ARCH_RISCV64, "riscv64"}, {0, "none"}};
  for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
    if (all[i].arch == OWN_ARCH) continue;
    char text[80];
    snprintf(text, sizeof text, "a call as of %s ends its caller", all[i].name);
    uint32_t got = run(&(struct seccomp_data){.nr = SYS_read, .arch = all[i].arch});
    gave(got == ending(), text, got);
  }
#if defined(__x86_64__)
  uint32_t got = call(0x40000000 | SYS_mount, 0, 0, 0);
  gave(got == ending(), "a call as of x32 ends its caller", got);
#endif
}

int main(void) {
  static const numbered ids[] = {
    CALL(fchown),
    CALL(fchownat),
    CALL(setgroups),
    CALL(setuid),
    CALL(setgid),
    CALL(setreuid),
    CALL(setregid),
    CALL(setresuid),
    CALL(setresgid),
    CALL(setfsuid),
    CALL(setfsgid),
#if defined(__x86_64__)
    CALL(chown),
    CALL(lchown),
#endif
  };
  for (int emulate_root = 0; emulate_root < 2; emulate_root++) {
    load(emulate_root != 0);
    test_denied();
    test_arguments();
    test_sockets();
    test_architectures();
    EVERY(emulate_root ? REFUSE(0) : ALLOW, emulate_root ? "is said to be done" : "is the kernel's to answer",
          ids);
  }
  return done();
}
