/* engine/start.c - from a sandbox's record to its launcher, and what the guest then waits for. */
#define _GNU_SOURCE
#include "engine.h"

#include "../common/link.h"
#include "cgroup.h"
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int guest_listener(const sandbox *sb) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_un a = {.sun_family = AF_UNIX};
  snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/guest.sock", sb->dir_fd);
  mode_t old = umask(0177);
  int rc = fd < 0 ? -1 : bind(fd, (struct sockaddr *)&a, sizeof a);
  umask(old);
  if (rc == 0) rc = listen(fd, 1024);
  if (rc != 0 && fd >= 0) {
    close(fd);
    fd = -1;
  }
  return fd;
}

typedef struct launch_job {
  const plan *p;
  const launch_fds *fds;
  pid_t engine;
} launch_job;

static void launch_child(void *arg) {
  const launch_job *job = arg;
  apply_and_exec(job->p, job->fds, job->engine);
}

/* `in`: of the sandbox's control group; NULL for none. */
static bool launch_in(sandbox *sb, spawner *in) {
  int link[2] = {-1, -1}, err[2] = {-1, -1}, one = 1;
  int guest = open(cfg.guest, O_PATH | O_CLOEXEC);
  int listener = guest_listener(sb);
  if (guest < 0 || listener < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, link) != 0 ||
      socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, err) != 0) {
    csn_buf_fmt(&sb->detail, "descriptors: %s", strerror(errno));
    if (guest >= 0) close(guest);
    if (listener >= 0) close(listener);
    if (link[0] >= 0) close(link[0]);
    if (link[1] >= 0) close(link[1]);
    if (in != NULL) spawn_drop(in);
    return false;
  }
  /* The kernel then tells who sent a record: that is how PID 1's host pid becomes known. */
  setsockopt(link[0], SOL_SOCKET, SO_PASSCRED, &one, sizeof one);
  plan *p = plan_make(sb);
  sb->sources = plan_sources(p);
  const launch_fds fds = {listener, link[1], guest, err[1], in != NULL};
  launch_job job = {p, &fds, getpid()};
  /* Until the child has reset its handlers: they write to a socket that it shares with the event loop. */
  sigset_t all, old;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &old);
  sb->pid = in != NULL ? spawn_fork(in, launch_child, &job) : fork();
  if (sb->pid == 0) launch_child(&job);
  int saved = errno;
  sigprocmask(SIG_SETMASK, &old, NULL);
  plan_free(p);
  close(guest);
  close(listener);
  close(link[1]);
  close(err[1]);
  sb->link_fd = link[0];
  sb->err_fd = err[0];
  if (sb->pid < 0) {
    sb->pid = 0;
    csn_buf_fmt(&sb->detail, "fork: %s", strerror(saved));
    return false;
  }
  evutil_make_socket_nonblocking(sb->link_fd);
  evutil_make_socket_nonblocking(sb->err_fd);
  return true;
}

bool start_launch(sandbox *sb) {
  spawner *in = spawn_take(sb->cgroup, sizeof sb->cgroup);
  if (in == NULL) {
    snprintf(sb->cgroup, sizeof sb->cgroup, "%llu", (unsigned long long)sb->generation);
    if (!cgroup_make(sb->cgroup, &sb->detail)) return false;
  }
  if (cgroup_limit(sb->cgroup, &sb->limits, &sb->detail)) return launch_in(sb, in);
  if (in != NULL) spawn_drop(in);
  return false;
}

/* ---- what the guest waits for ---- */

bool start_describe(sandbox *sb, const cJSON *env, const cJSON *entrypoint) {
  csn_buf b = {0};
  const cJSON *v;
  sb->begin_variables = sb->begin_words = 0;
  cJSON_ArrayForEach(v, env) {
    csn_buf_fmt(&b, "%s=%s", v->string, v->valuestring);
    csn_buf_add(&b, "", 1);
    sb->begin_variables++;
  }
  cJSON_ArrayForEach(v, entrypoint) {
    csn_buf_add(&b, v->valuestring, strlen(v->valuestring) + 1);
    sb->begin_words++;
  }
  /* A file: there may be more of it than a socket takes, and nobody reads yet. */
  sb->begin_fd = memfd_create("begin", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  bool good = sb->begin_fd >= 0 && csn_write_all(sb->begin_fd, b.p, b.len) &&
              fcntl(sb->begin_fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) == 0;
  if (!good) csn_buf_fmt(&sb->detail, "environment: %s", strerror(errno));
  /* Variables may be secrets. */
  if (b.p != NULL) explicit_bzero(b.p, b.cap);
  csn_buf_free(&b);
  return good;
}

bool start_begin(sandbox *sb) {
  if (csn_link_send(sb->link_fd, CSN_LINK_BEGIN, sb->begin_variables, sb->begin_words, 0, sb->begin_fd) == 0)
    return true;
  csn_buf_fmt(&sb->detail, "tell the guest what it is: %s\n", strerror(errno));
  return false;
}

bool start_guest_alive(const sandbox *sb) {
  struct pollfd p = {.fd = sb->guest_fd, .events = POLLIN};
  return sb->guest_fd >= 0 && poll(&p, 1, 0) == 0;
}

/* Not the machine's own: a process id that was used again would lead there. */
static bool is_guests(const sandbox *sb, int uts) {
  struct stat theirs, own;
  return start_guest_alive(sb) && fstat(uts, &theirs) == 0 && stat("/proc/self/ns/uts", &own) == 0 &&
         theirs.st_ino != own.st_ino;
}

static bool no_room(int error) {
  return error == EMFILE || error == ENFILE || error == ENOMEM || error == EAGAIN || error == ENOSPC;
}

start_renamed start_rename(sandbox *sb, const char *hostname) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/ns/uts", (int)sb->guest_pid);
  const int uts = open(path, O_RDONLY | O_CLOEXEC);
  if (uts < 0 || !is_guests(sb, uts)) {
    if (uts >= 0) close(uts);
    return START_NOT_RENAMED;
  }
  const int user = ioctl(uts, NS_GET_USERNS);
  if (user < 0) {
    const int error = errno;
    close(uts);
    return no_room(error) ? START_NOT_RENAMED : START_MAY_NOT_RENAME;
  }
  sigset_t all, old;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &old);
  /* In a process of its own: an ordinary user may do it from within the sandbox's user namespace only, which
   * nobody leaves again. There is nobody in it yet but our guest server. */
  const pid_t pid = fork();
  if (pid == 0) {
    if (cfg.token != NULL) explicit_bzero(cfg.token, strlen(cfg.token));
    _exit(setns(user, CLONE_NEWUSER) == 0 && setns(uts, CLONE_NEWUTS) == 0 &&
                  sethostname(hostname, strlen(hostname)) == 0
              ? 0
              : errno);
  }
  int status = -1;
  while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
    continue;
  sigprocmask(SIG_SETMASK, &old, NULL);
  close(uts);
  close(user);
  if (pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0) return START_RENAMED;
  return pid > 0 && WIFEXITED(status) && !no_room(WEXITSTATUS(status)) ? START_MAY_NOT_RENAME
                                                                       : START_NOT_RENAMED;
}
