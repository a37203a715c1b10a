/* tests/engine/probe_processes.c - other processes: the sandbox's first, the host's, other sandboxes'. */
#define _GNU_SOURCE
#include "probe.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define NR_PIDFD_SEND_SIGNAL 424
#define NR_PIDFD_OPEN        434
#define NR_PIDFD_GETFD       438
#define NR_PROCESS_MADVISE   440

static int outcome(long rc) {
  return rc >= 0 ? 0 : errno;
}

static int try_attach_init(void) {
  return outcome(ptrace(PTRACE_ATTACH, 1, NULL, NULL));
}

static int try_seize_init(void) {
  return outcome(ptrace(PTRACE_SEIZE, 1, NULL, NULL));
}

static int try_read_init(void) {
  char room[8];
  struct iovec local = {room, sizeof room}, remote = {(void *)0x400000, sizeof room};
  return outcome(process_vm_readv(1, &local, 1, &remote, 1, 0));
}

static int try_write_init(void) {
  char room[8] = "";
  struct iovec local = {room, sizeof room}, remote = {(void *)0x400000, sizeof room};
  return outcome(process_vm_writev(1, &local, 1, &remote, 1, 0));
}

/* Whether something in a directory can be had; its names alone are nothing. Takes the descriptor. */
static bool holds_something(int fd) {
  DIR *dir = fdopendir(fd);
  bool found = false;
  for (struct dirent *de; dir != NULL && !found && (de = readdir(dir)) != NULL;) {
    char room[4];
    if (de->d_name[0] == '.') continue;
    int one = openat(dirfd(dir), de->d_name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    found = one >= 0 || readlinkat(dirfd(dir), de->d_name, room, sizeof room) >= 0;
    if (one >= 0) close(one);
  }
  if (dir != NULL) closedir(dir);
  return found;
}

static int try_init_files(void) {
  static const char *const paths[] = {
      "/proc/1/mem",        "/proc/1/environ",    "/proc/1/maps",      "/proc/1/auxv",   "/proc/1/syscall",
      "/proc/1/stack",      "/proc/1/io",         "/proc/1/fd/3",      "/proc/1/fd/4",   "/proc/1/root",
      "/proc/1/cwd",        "/proc/1/exe",        "/proc/1/map_files", "/proc/1/ns/mnt", "/proc/1/pagemap",
      "/proc/1/task/1/mem", "/proc/1/clear_refs", "/proc/1/fdinfo/3",  "/proc/1/root/.", "/proc/1/fd"};
  int last = ENOENT;
  for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
    char room[4];
    int fd = open(paths[i], O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    /* Some open for everyone and say nothing. */
    if (fd < 0) {
      last = errno;
      continue;
    }
    ssize_t n = read(fd, room, sizeof room);
    bool is_dir = n < 0 && errno == EISDIR;
    if (n > 0 || (is_dir && holds_something(fd))) {
      strcpy(probe_detail, paths[i]);
      return 0;
    }
    if (!is_dir) close(fd);
  }
  return last;
}

static int try_init_pidfd(void) {
  int fd = (int)syscall(NR_PIDFD_OPEN, 1, 0);
  if (fd < 0) return errno;
  for (int n = 0; n < 10; n++)
    if (syscall(NR_PIDFD_GETFD, fd, n, 0) >= 0) return 0;
  return errno;
}

static int try_init_limits(void) {
  struct rlimit l = {1, 1};
  return outcome(prlimit(1, RLIMIT_NOFILE, &l, NULL));
}

/* A signal to the first process may be accepted, but must not end it. */
static int try_kill_init(void) {
  static const int signals[] = {SIGKILL, SIGSTOP, SIGSEGV, SIGABRT, SIGILL};
  for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
    kill(1, signals[i]);
  usleep(100000);
  char state = '?', text[256] = "";
  int fd = open("/proc/1/stat", O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (n <= 0 || sscanf(strrchr(text, ')') + 1, " %c", &state) != 1) return 0;
  return state == 'T' || state == 'Z' ? 0 : EPERM;
}

static int signal_one(const char *item) {
  pid_t pid = (pid_t)atoi(item);
  if (kill(pid, 0) == 0) return 0;
  int fd = (int)syscall(NR_PIDFD_OPEN, pid, 0);
  return fd >= 0 ? 0 : errno;
}

/* PROBE_PIDS: of the host, not numbers in use inside. */
static int try_signal_host(void) {
  return each_item("PROBE_PIDS", signal_one);
}

/* All processes that can be seen must be descendants of the sandbox's first. */
static int try_see_host(void) {
  DIR *dir = opendir("/proc");
  int count = 0;
  for (struct dirent *de; dir != NULL && (de = readdir(dir)) != NULL;) {
    char path[280], text[256];
    if (de->d_name[0] < '1' || de->d_name[0] > '9') continue;
    count++;
    snprintf(path, sizeof path, "/proc/%s/comm", de->d_name);
    FILE *f = fopen(path, "re");
    bool known = f != NULL && fgets(text, sizeof text, f) != NULL;
    if (f != NULL) fclose(f);
    if (known && (strstr(text, "engine") != NULL || strstr(text, "bwrap") != NULL ||
                  strstr(text, "systemd") != NULL)) {
      strcpy(probe_detail, text);
      return 0;
    }
  }
  if (dir != NULL) closedir(dir);
  snprintf(probe_detail, sizeof probe_detail, "%d processes", count);
  return count > 0 && count < 20 ? ESRCH : 0;
}

/* Ids beyond its own. */
static int try_become(void) {
  static const uid_t ids[] = {0, 1, 65533, 4000000000u};
  uid_t before = getuid();
  for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
    if (ids[i] == before) continue;
    if (before != 0 && setresuid(ids[i], ids[i], ids[i]) == 0) return 0;
    /* Root inside may become its other ids, never one that is not mapped. */
    if (before == 0 && ids[i] > 65536 && setresuid(ids[i], ids[i], ids[i]) == 0 && getuid() != before)
      return 0;
    if (before != 0 && setresgid(ids[i], ids[i], ids[i]) == 0) return 0;
  }
  return errno == 0 ? EPERM : errno; /* said to be done, and not done */
}

/* PROBE_SHM: key of a System V segment of the host. */
static int shm_one(const char *item) {
  int id = shmget((key_t)strtol(item, NULL, 0), 0, 0);
  return id >= 0 ? 0 : errno;
}
static int try_host_shm(void) {
  return each_item("PROBE_SHM", shm_one);
}

/* Its own children may be traced: debuggers and strace work, and gain nothing. */
static int try_trace_gains(void) {
  pid_t child = fork();
  if (child == 0) {
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    raise(SIGSTOP);
    /* The tracer may change what it does, not what it may do: the filter is the child's too. */
    long rc = syscall(SYS_mount, "none", "/mnt", "tmpfs", 0, NULL);
    _exit(rc == 0 ? 0 : errno == EPERM ? 1 : 2);
  }
  int status;
  waitpid(child, &status, 0);
  if (!WIFSTOPPED(status)) return 0;
  /* Without its filter, which only a privileged tracer may ask for. */
  if (ptrace(PTRACE_SETOPTIONS, child, NULL, (void *)(1ul << 21) /* PTRACE_O_SUSPEND_SECCOMP */) == 0)
    return 0;
  int refused = errno;
  ptrace(PTRACE_CONT, child, NULL, NULL);
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 1 ? refused : 0;
}

static int try_process_madvise(void) {
  return outcome(syscall(NR_PROCESS_MADVISE, -1, NULL, 0, 0, 0));
}

const attempt process_attempts[] = {
    {"ptrace-init", try_attach_init},
    {"seize-init", try_seize_init},
    {"read-init", try_read_init},
    {"write-init", try_write_init},
    {"init-files", try_init_files},
    {"init-descriptors", try_init_pidfd},
    {"init-limits", try_init_limits},
    {"kill-init", try_kill_init},
    {"signal-host", try_signal_host},
    {"see-host", try_see_host},
    {"become-other", try_become},
    {"host-shm", try_host_shm},
    {"trace-own-child-gains", try_trace_gains},
    {"process_madvise", try_process_madvise},
    {NULL, NULL},
};
