/* guest/main.c - PID 1 of a sandbox.
 *
 * Usage: caisson-guest
 * Inherits descriptor 3, a listening stream socket, and 4, the link to the engine. Over the link comes what
 * the sandbox is (environment, entrypoint), at once or after a long wait; until then nothing is served or
 * started. Exit status: 0 after SIGTERM or SIGINT, the entrypoint's when that fails, 64 without those
 * descriptors. */
#define _GNU_SOURCE
#include "guest.h"

#include "../common/tree.h"
#include "http.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LISTEN_FD 3
#define LINK_FD   4
#define BEGIN_MAX (4 * 1024 * 1024) /* bytes of an environment and an entrypoint */

struct event_base *guest_base;
static pid_t entrypoint_pid;

void guest_exit(int code) {
  _exit(code); /* the kernel kills everything else in the namespace */
}

static void on_child(evutil_socket_t sig, short what, void *arg) {
  (void)sig;
  (void)what;
  (void)arg;
  int status;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    if (job_reaped(pid, status)) continue;
    if (pid == entrypoint_pid && csn_exit_code(status) != 0) guest_exit(csn_exit_code(status));
  }
}

static void on_deadline(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  (void)arg;
  if (csn_tree_signal(1, 0, NULL, 0) == 0 || csn_now_ms() - *(int64_t *)arg > 2000) guest_exit(0);
}

static void on_terminate(evutil_socket_t sig, short what, void *arg) {
  (void)sig;
  (void)what;
  (void)arg;
  static int64_t asked_ms;
  static struct event *tick;
  if (tick != NULL) guest_exit(0);
  asked_ms = csn_now_ms();
  job_kill_all();
  csn_tree_signal(1, SIGTERM, NULL, 0);
  tick = event_new(guest_base, -1, EV_PERSIST, on_deadline, &asked_ms);
  struct timeval tv = {0, 20000};
  event_add(tick, &tv);
}

static void start_entrypoint(char **argv) {
  entrypoint_pid = fork_blocked();
  if (entrypoint_pid != 0) return;
  for (int s = 1; s < 32; s++)
    signal(s, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  setsid();
  if (chdir("/workspace") != 0) _exit(1);
  const char *bad;
  char **env = env_make(NULL, &bad);
  execvpe(argv[0], argv, env);
  _exit(127);
}

/* Ends this process where the file is not as it must be: nothing has been started, and the engine says so. */
void guest_begin(int fd, unsigned variables, unsigned words) {
  struct stat st;
  if (fstat(fd, &st) != 0 || st.st_size > BEGIN_MAX || variables > BEGIN_MAX || words > BEGIN_MAX)
    guest_exit(1);
  const size_t size = (size_t)st.st_size;
  char *text = malloc(size + 1), **argv = calloc(words + 1u, sizeof *argv), *at = text;
  if (text == NULL || argv == NULL || pread(fd, text, size, 0) != (ssize_t)size) guest_exit(1);
  text[size] = '\0';
  for (unsigned i = 0; i < variables + words; i++, at += strlen(at) + 1) {
    if (at >= text + size) guest_exit(1);
    if (i >= variables) {
      argv[i - variables] = at;
      continue;
    }
    char *eq = strchr(at, '=');
    if (eq == NULL) guest_exit(1);
    *eq = '\0';
    /* bwrap has said where it is, over whatever was asked for. */
    if (strcmp(at, "PWD") != 0 && setenv(at, eq + 1, 1) != 0) guest_exit(1);
    at = eq + 1;
  }
  http_serve(LISTEN_FD);
  /* Before the entrypoint runs: a sandbox that ends without this word is started anew, and it must not run
   * twice. */
  link_ready();
  if (words > 0) start_entrypoint(argv);
  /* They may be secrets. */
  explicit_bzero(text, size);
  free(text);
  free(argv);
}

static void add_signal(int sig, event_callback_fn fn) {
  struct event *ev = evsignal_new(guest_base, sig, fn, NULL);
  if (ev == NULL || event_add(ev, NULL) != 0) abort();
}

/* What this process does not have, nothing that it starts may get: root of a template would otherwise have
 * only no-new-privileges between it and what the kernel gives to root at execve. */
static void drop_bounding_set(void) {
  struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2] = {0};
  if (syscall(SYS_capget, &head, data) != 0) return;
  for (unsigned cap = 0; cap < 64; cap++)
    if ((data[cap / 32].permitted & 1u << cap % 32) == 0 && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1)
      prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
}

static bool is_socket(int fd) {
  struct stat st;
  return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "--version") == 0) {
    puts("caisson-guest " GUEST_VERSION);
    return 0;
  }
  if (!is_socket(LISTEN_FD) || !is_socket(LINK_FD)) {
    fputs("caisson-guest is the first process of a sandbox: caisson-engine starts it, with its sockets\n",
          stderr);
    return 64;
  }
  /* bwrap was given a descriptor's path to execute; that is no name for a process list. */
  size_t room = strlen(argv[0]);
  if (room >= sizeof "caisson-guest" - 1) {
    memset(argv[0], 0, room);
    memcpy(argv[0], "caisson-guest", sizeof "caisson-guest" - 1);
  }
  prctl(PR_SET_NAME, "caisson-guest");
  /* Not dumpable: the sandbox's user has the same id and must not ptrace this process or
   * take its sockets through /proc/1/fd. */
  prctl(PR_SET_DUMPABLE, 0);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  drop_bounding_set();
  signal(SIGPIPE, SIG_IGN);
  /* The usual one: what commands make must not be writable by everyone. */
  umask(022);
  /* The path that was executed is a descriptor of a host file; the entrypoint must not get it. */
  syscall(SYS_close_range, LINK_FD + 1u, ~0u, 0u);
  /* Descriptors may be inherited from whatever started the engine; commands get none. */
  fcntl(LISTEN_FD, F_SETFD, FD_CLOEXEC);
  fcntl(LINK_FD, F_SETFD, FD_CLOEXEC);
  /* One arena, large blocks back to the kernel at once: an idle server stays small. */
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_MMAP_THRESHOLD, 128 * 1024);
  mallopt(M_TRIM_THRESHOLD, 128 * 1024);
  struct event_config *cfg = event_config_new();
  if (cfg == NULL) abort();
  event_config_set_flag(cfg, EVENT_BASE_FLAG_PRECISE_TIMER);
  guest_base = event_base_new_with_config(cfg);
  event_config_free(cfg);
  if (guest_base == NULL) abort();
  add_signal(SIGCHLD, on_child);
  add_signal(SIGTERM, on_terminate);
  add_signal(SIGINT, on_terminate);
  link_init(LINK_FD);
  event_base_dispatch(guest_base);
  return 1;
}
