/* guest/job.c - one command: a supervisor process, the program, its output pipes.
 *
 * The supervisor is a fork of this server that becomes a child subreaper. Whatever the
 * command starts, in whatever session, stays below it, so that a time-out or a kill ends
 * all of it. It leaves with the command's exit code. */
#define _GNU_SOURCE
#include "guest.h"

#include "../common/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PIPE_BYTES    (1024 * 1024)
#define READ_BYTES    (256 * 1024)
#define LINGER_MS     40   /* silence after the exit that ends the output of a command whose */
#define LINGER_MAX_MS 2000 /* background children keep the pipe; and the longest wait for it */

static job *jobs;
static char read_room[READ_BYTES];

static void close_from(unsigned first) {
  syscall(SYS_close_range, first, ~0u, 0u);
}

static void say(const char *what, const char *name, int err) {
  csn_buf b = {0};
  csn_buf_fmt(&b, "%s: %s: %s\n", what, name, strerror(err));
  ssize_t n = write(2, b.p, b.len);
  (void)n;
  csn_buf_free(&b);
}

/* In the command's process: never returns. */
static void exec_program(const job_spec *spec, int out, int err, const sigset_t *none) {
  setsid();
  int in = spec->stdin_fd >= 0 ? spec->stdin_fd : open("/dev/null", O_RDONLY);
  int null_out = -1;
  if (spec->terminal) {
    out = err = in;
    ioctl(in, TIOCSCTTY, 0);
  }
  if (out < 0 || err < 0) null_out = open("/dev/null", O_WRONLY);
  /* Clear of 0..3 first, so that no dup2 overwrites a source. */
  in = fcntl(in, F_DUPFD, 10);
  out = fcntl(out < 0 ? null_out : out, F_DUPFD, 10);
  err = fcntl(err < 0 ? null_out : err, F_DUPFD, 10);
  int extra = spec->extra_fd >= 0 ? fcntl(spec->extra_fd, F_DUPFD, 10) : -1;
  dup2(in, 0);
  dup2(out, 1);
  dup2(err, 2);
  if (extra >= 0) dup2(extra, 3);
  close_from(extra >= 0 ? 4 : 3);
  sigprocmask(SIG_SETMASK, none, NULL);
  if (chdir(spec->cwd) != 0) {
    say("cd", spec->cwd, errno);
    _exit(1);
  }
  execve(spec->argv[0], (char *const *)(uintptr_t)spec->argv, spec->envp);
  int failed = errno;
  say("exec", spec->argv[0], failed);
  _exit(failed == ENOENT ? 127 : 126);
}

static void run_supervisor(const job_spec *spec, int out, int err) {
  sigset_t all, none, wanted;
  sigemptyset(&none);
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
  for (int s = 1; s < 32; s++)
    signal(s, SIG_DFL);
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  prctl(PR_SET_NAME, "caisson-job");
  /* The program must not take the sandbox's control socket with it. */
  pid_t child = fork();
  if (child == 0) exec_program(spec, out, err, &none);
  if (child < 0) {
    if (err >= 0) {
      dup2(err, 2);
      say("fork", spec->argv[0], errno);
    }
    _exit(126);
  }
  close_from(0);
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGCHLD);
  sigaddset(&wanted, SIGTERM);
  bool asked;
  int status = csn_tree_supervise(child, &asked);
  /* A signal is passed on as one, so that 128 + n is told from an exit with that code. */
  if (WIFSIGNALED(status) && !asked) {
    sigprocmask(SIG_SETMASK, &none, NULL);
    raise(WTERMSIG(status));
  }
  _exit(csn_exit_code(status));
}

static void free_job(job *j) {
  for (int w = 0; w < 2; w++) {
    if (j->ev[w] != NULL) event_free(j->ev[w]);
    if (j->fd[w] >= 0) close(j->fd[w]);
  }
  if (j->linger != NULL) event_free(j->linger);
  for (job **at = &jobs; *at != NULL; at = &(*at)->next) {
    if (*at != j) continue;
    *at = j->next;
    break;
  }
  free(j);
}

/* Reads and forgets what a background child still writes, so that it does not die of
 * SIGPIPE because the command that started it is over. */
static void on_leftover(evutil_socket_t fd, short what, void *arg) {
  (void)what;
  ssize_t n = read(fd, read_room, sizeof read_room);
  if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR))) return;
  struct event **ev = arg;
  event_free(*ev);
  free(ev);
  close(fd);
}

void job_drain(int fd) {
  struct event **ev = malloc(sizeof *ev);
  if (ev == NULL) abort();
  *ev = event_new(guest_base, fd, EV_READ | EV_PERSIST, on_leftover, ev);
  if (*ev == NULL) abort();
  event_add(*ev, NULL);
}

static void finish(job *j) {
  if (j->ended) return;
  j->ended = true;
  for (int w = 0; w < 2; w++) {
    if (j->ev[w] != NULL) event_free(j->ev[w]);
    j->ev[w] = NULL;
    if (j->fd[w] >= 0) job_drain(j->fd[w]);
    j->fd[w] = -1;
  }
  j->on_end(j);
  free_job(j);
}

/* Reads one stream once. Returns bytes; 0 when there is nothing now or at the end. */
static size_t read_once(job *j, int w) {
  if (j->fd[w] < 0) return 0;
  ssize_t n;
  do
    n = read(j->fd[w], read_room, sizeof read_room);
  while (n < 0 && errno == EINTR);
  if (n > 0) {
    j->on_data(j, w, read_room, (size_t)n);
    return (size_t)n;
  }
  if (n < 0 && errno == EAGAIN) return 0;
  event_free(j->ev[w]);
  j->ev[w] = NULL;
  close(j->fd[w]);
  j->fd[w] = -1;
  return 0;
}

/* After the exit: everything the command itself wrote is in the pipes already. The end is
 * the end of both pipes or, when a background child keeps one open, a short silence. */
static void check_end(job *j, bool silence) {
  if (!j->exited || j->ended || j->paused) return;
  size_t got = 0;
  for (int w = 0; w < 2; w++) {
    /* More than a pipe holds is not the command's own: a child that writes without end must not keep the
     * server here. */
    size_t n, of_one = 0;
    while (!j->paused && of_one <= PIPE_BYTES && (n = read_once(j, w)) > 0)
      of_one += n;
    got += of_one;
  }
  if (j->paused) return; /* job_resume comes back here */
  bool over = j->fd[0] < 0 && j->fd[1] < 0;
  if (over || (silence && got == 0) || csn_now_ms() - j->exited_at_ms > LINGER_MAX_MS) {
    finish(j);
    return;
  }
  struct timeval tv = {0, LINGER_MS * 1000};
  event_add(j->linger, &tv);
}

static void on_linger(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  check_end(arg, true);
}

static void on_readable(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  job *j = arg;
  int w = fd == j->fd[1] ? 1 : 0;
  if (j->exited) {
    check_end(j, false);
    return;
  }
  read_once(j, w);
}

void job_poll(job *j) {
  for (int w = 0; w < 2; w++) {
    size_t n, of_one = 0;
    while (!j->paused && of_one <= PIPE_BYTES && (n = read_once(j, w)) > 0)
      of_one += n;
  }
}

static void add_events(job *j) {
  for (int w = 0; w < 2; w++)
    if (j->ev[w] != NULL) event_add(j->ev[w], NULL);
}

pid_t fork_blocked(void) {
  sigset_t all, old;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &old);
  pid_t pid = fork();
  if (pid != 0) sigprocmask(SIG_SETMASK, &old, NULL);
  return pid;
}

job *job_start(const job_spec *spec) {
  int pipes[2][2] = {{-1, -1}, {-1, -1}};
  job *j = calloc(1, sizeof *j);
  if (j == NULL) abort();
  j->fd[0] = j->fd[1] = -1;
  for (int w = 0; w < 2 && spec->on_data != NULL; w++) {
    if (pipe2(pipes[w], O_CLOEXEC) != 0) goto fail;
    /* Refused past the user's pipe limit; the default size works as well, slower. */
    (void)fcntl(pipes[w][0], F_SETPIPE_SZ, PIPE_BYTES);
    fcntl(pipes[w][0], F_SETFL, O_NONBLOCK);
  }
  j->pid = fork_blocked();
  if (j->pid < 0) goto fail;
  if (j->pid == 0) run_supervisor(spec, pipes[0][1], pipes[1][1]);
  j->on_data = spec->on_data;
  j->on_end = spec->on_end;
  j->arg = spec->arg;
  j->linger = evtimer_new(guest_base, on_linger, j);
  for (int w = 0; w < 2; w++) {
    if (pipes[w][0] < 0) continue;
    close(pipes[w][1]);
    j->fd[w] = pipes[w][0];
    j->ev[w] = event_new(guest_base, j->fd[w], EV_READ | EV_PERSIST, on_readable, j);
    if (j->ev[w] == NULL) abort();
  }
  j->next = jobs;
  jobs = j;
  add_events(j);
  return j;
fail:;
  int saved = errno;
  for (int w = 0; w < 2; w++)
    for (int e = 0; e < 2; e++)
      if (pipes[w][e] >= 0) close(pipes[w][e]);
  free(j);
  errno = saved;
  return NULL;
}

void job_kill(job *j, int grace_ms) {
  if (j->pid > 0) sigqueue(j->pid, SIGTERM, (union sigval){.sival_int = grace_ms});
}

void job_pause(job *j) {
  if (j->paused) return;
  j->paused = true;
  for (int w = 0; w < 2; w++)
    if (j->ev[w] != NULL) event_del(j->ev[w]);
}

void job_resume(job *j) {
  if (!j->paused) return;
  j->paused = false;
  add_events(j);
  if (!j->exited) return;
  /* Not check_end() here: it may free j under the caller. */
  struct timeval soon = {0, 0};
  event_add(j->linger, &soon);
}

bool job_reaped(pid_t pid, int wait_status) {
  for (job *j = jobs; j != NULL; j = j->next) {
    if (j->pid != pid) continue;
    j->pid = 0;
    j->exited = true;
    j->exited_at_ms = csn_now_ms();
    j->code = csn_exit_code(wait_status);
    j->signal = WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0;
    check_end(j, false);
    return true;
  }
  return false;
}

void job_kill_all(void) {
  for (job *j = jobs; j != NULL; j = j->next)
    job_kill(j, 1000);
}
