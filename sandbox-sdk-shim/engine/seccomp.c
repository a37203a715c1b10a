/* engine/seccomp.c - system calls that no program of a sandbox needs and that widen the
 * kernel's attack surface. A deny list: agents bring their own runtimes, and an allow list
 * would break them with every release. */
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/sched.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static const int denied[] = {
    SCMP_SYS(mount),
    SCMP_SYS(umount2),
    SCMP_SYS(pivot_root),
    SCMP_SYS(move_mount),
    SCMP_SYS(open_tree),
    SCMP_SYS(fsopen),
    SCMP_SYS(fsconfig),
    SCMP_SYS(fsmount),
    SCMP_SYS(fspick),
    SCMP_SYS(mount_setattr),
    SCMP_SYS(chroot),
    SCMP_SYS(setns),
    SCMP_SYS(unshare),
    SCMP_SYS(open_by_handle_at),
    SCMP_SYS(name_to_handle_at),
    SCMP_SYS(keyctl),
    SCMP_SYS(add_key),
    SCMP_SYS(request_key),
    SCMP_SYS(bpf),
    SCMP_SYS(userfaultfd),
    SCMP_SYS(perf_event_open),
    SCMP_SYS(kexec_load),
    SCMP_SYS(kexec_file_load),
    SCMP_SYS(init_module),
    SCMP_SYS(finit_module),
    SCMP_SYS(delete_module),
    SCMP_SYS(reboot),
    SCMP_SYS(swapon),
    SCMP_SYS(swapoff),
    SCMP_SYS(acct),
    SCMP_SYS(quotactl),
    SCMP_SYS(quotactl_fd),
    SCMP_SYS(syslog),
    SCMP_SYS(vhangup),
    SCMP_SYS(lookup_dcookie),
    SCMP_SYS(iopl),
    SCMP_SYS(ioperm),
    SCMP_SYS(modify_ldt),
    SCMP_SYS(settimeofday),
    SCMP_SYS(clock_settime),
    SCMP_SYS(adjtimex),
    SCMP_SYS(clock_adjtime),
    SCMP_SYS(nfsservctl),
    SCMP_SYS(fanotify_init),
    SCMP_SYS(process_madvise),
    SCMP_SYS(move_pages),
    SCMP_SYS(mbind),
    SCMP_SYS(migrate_pages),
    467, /* open_tree_attr: newer than libseccomp's names, the same number everywhere */
};

/* ENOSYS: programs fall back. clone3 hides its flags behind a pointer, so that a filter cannot
 * see CLONE_NEWUSER in it; libc then uses clone. */
static const int absent[] = {SCMP_SYS(io_uring_setup), SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_register),
                             SCMP_SYS(clone3)};

/* Sockets only of the families that a network namespace confines and that programs use. AF_VSOCK is the
 * reason: it reaches the hypervisor from every network namespace. The rest, AF_ALG first, is attack
 * surface. The kernel looks at the low 32 bits and has no family above 63. */
static int deny_socket_families(scmp_filter_ctx ctx) {
  static const bool kept[] = {[AF_UNIX] = true, [AF_INET] = true, [AF_INET6] = true, [AF_NETLINK] = true};
  const unsigned count = sizeof kept / sizeof kept[0];
  int rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1,
                            SCMP_A0(SCMP_CMP_MASKED_EQ, 0xffffffe0u, 0x20));
  for (unsigned family = 1; rc == 0 && family < 32; family++)
    if (family >= count || !kept[family])
      rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1,
                            SCMP_A0(SCMP_CMP_MASKED_EQ, 0xffffffffu, family));
  return rc;
}

/* Of netlink: routes, lists of sockets, device events, and the generic kind that programs look for. The
 * others are for administrators, and have had their share of kernel bugs. */
static int deny_netlink_protocols(scmp_filter_ctx ctx) {
  int rc = 0;
  for (unsigned protocol = 1; rc == 0 && protocol < 32; protocol++) {
    if (protocol == NETLINK_SOCK_DIAG || protocol == NETLINK_KOBJECT_UEVENT || protocol == NETLINK_GENERIC)
      continue;
    rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPROTONOSUPPORT), SCMP_SYS(socket), 2,
                          SCMP_A0(SCMP_CMP_MASKED_EQ, 0xffffffffu, AF_NETLINK),
                          SCMP_A2(SCMP_CMP_MASKED_EQ, 0xffffffffu, protocol));
  }
  return rc;
}

static int deny_limits(scmp_filter_ctx ctx) {
  /* The limit on core dumps is 1: the one value for which the kernel does not start the machine's crash
   * handler, outside and as root. Who sets another is told that it is done. */
  int rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(0), SCMP_SYS(setrlimit), 1,
                            SCMP_A0(SCMP_CMP_MASKED_EQ, 0xffffffffu, RLIMIT_CORE));
  if (rc == 0)
    rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(0), SCMP_SYS(prlimit64), 2,
                          SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, RLIMIT_CORE), SCMP_A2(SCMP_CMP_NE, 0, 0));
  /* The guest server has the same user as what it runs: without descriptors it would serve no more. */
  for (unsigned what = 0; rc == 0 && what < RLIM_NLIMITS; what++)
    if (what != RLIMIT_CORE)
      rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(prlimit64), 3,
                            SCMP_A0(SCMP_CMP_MASKED_EQ, 0xffffffffu, 1),
                            SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, what), SCMP_A2(SCMP_CMP_NE, 0, 0));
  return rc;
}

/* Said to be done, and not done: in a namespace with one id there is no other owner to give a file to and no
 * other user to become, and package managers give up when they are told so. */
static int pretend_root(scmp_filter_ctx ctx) {
  static const int calls[] = {
      SCMP_SYS(chown),     SCMP_SYS(fchown),   SCMP_SYS(lchown),   SCMP_SYS(fchownat), SCMP_SYS(setgroups),
      SCMP_SYS(setuid),    SCMP_SYS(setgid),   SCMP_SYS(setreuid), SCMP_SYS(setregid), SCMP_SYS(setresuid),
      SCMP_SYS(setresgid), SCMP_SYS(setfsuid), SCMP_SYS(setfsgid)};
  int rc = 0;
  for (size_t i = 0; rc == 0 && i < sizeof calls / sizeof calls[0]; i++) {
    rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(0), calls[i], 0);
    if (rc == -EDOM) rc = 0; /* a call that this architecture does not have */
  }
  return rc;
}

int seccomp_compile(bool emulate_root) {
  scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
  if (ctx == NULL) return -1;
  int rc = 0;
  /* Numbers of another architecture's calls mean other things: whoever enters that way is not argued with. */
  (void)seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
  for (size_t i = 0; rc == 0 && i < sizeof denied / sizeof denied[0]; i++)
    rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), denied[i], 0);
  for (size_t i = 0; rc == 0 && i < sizeof absent / sizeof absent[0]; i++)
    rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), absent[i], 0);
  /* A user namespace of its own would give a program every capability over new namespaces. */
  if (rc == 0)
    rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                          SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_NEWUSER, CLONE_NEWUSER));
  /* Typing into the terminal of whoever started the engine. */
  if (rc == 0)
    rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1,
                          SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, 0x5412 /* TIOCSTI */));
  if (rc == 0)
    rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1,
                          SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, 0x541C /* TIOCLINUX */));
  if (rc == 0) rc = deny_socket_families(ctx);
  if (rc == 0) rc = deny_netlink_protocols(ctx);
  if (rc == 0) rc = deny_limits(ctx);
  if (rc == 0 && emulate_root) rc = pretend_root(ctx);
  int fd = rc == 0 ? memfd_create("seccomp", MFD_CLOEXEC) : -1;
  if (fd >= 0 && (seccomp_export_bpf(ctx, fd) != 0)) {
    close(fd);
    fd = -1;
  }
  seccomp_release(ctx);
  if (rc != 0) errno = -rc;
  return fd;
}
