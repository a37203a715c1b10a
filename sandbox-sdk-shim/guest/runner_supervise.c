/* runner_supervise.c - the supervisor: one program, its output, its tree, its end. */
#define _GNU_SOURCE
#include "runner.h"

#include "../common/buf.h"
#include "../common/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define PIECE_BYTES 65536

typedef struct spool {
  int pipe_fd;   /* read end; -1 at its end */
  int file_fd;   /* -1 after a failed write */
  int64_t bytes; /* written */
} spool;

typedef struct run {
  const run_spec *spec;
  run_record record;
  spool out, err;
  pid_t pid;
  int status; /* wait status; valid when gone */
  bool gone;
  bool ending;        /* SIGTERM was sent */
  bool killed;        /* SIGKILL was sent to the tree */
  int64_t kill_at_ms; /* monotonic; valid while ending */
} run;

/* What the child tells when it could not become the program. */
typedef struct spawn_failure {
  int code; /* errno */
  int step; /* 'c' chdir, 'x' exec */
} spawn_failure;

/* In the child: everything up to exec. Never returns. */
static void become(const run_spec *spec, int in, int out, int err, int report) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  signal(SIGPIPE, SIG_DFL);
  setsid();
  /* A supervisor that is killed must not leave the program running unrecorded. */
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  dup2(in, 0);
  dup2(out, 1);
  dup2(err, 2);
  for (char *const *e = spec->env; *e != NULL; e++)
    putenv(*e);
  spawn_failure failure = {0, 'c'};
  if (chdir(spec->cwd) == 0) {
    failure.step = 'x';
    execvp(spec->argv[0], spec->argv);
  }
  failure.code = errno;
  if (write(report, &failure, sizeof failure) < 0) _exit(126);
  _exit(127);
}

/* Starts the program; false with record.detail set when it could not. */
static bool spawn(run *r, int dir_fd) {
  int out[2], err[2], report[2];
  int in = r->spec->stdin_prompt ? openat(dir_fd, "prompt", O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
                                 : open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (in < 0) {
    snprintf(r->record.detail, sizeof r->record.detail, "standard input: %s", strerror(errno));
    return false;
  }
  if (pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0 || pipe2(report, O_CLOEXEC) != 0) {
    snprintf(r->record.detail, sizeof r->record.detail, "pipe: %s", strerror(errno));
    return false;
  }
  r->pid = fork();
  if (r->pid < 0) {
    snprintf(r->record.detail, sizeof r->record.detail, "fork: %s", strerror(errno));
    return false;
  }
  if (r->pid == 0) become(r->spec, in, out[1], err[1], report[1]);
  close(in);
  close(out[1]);
  close(err[1]);
  close(report[1]);
  r->out.pipe_fd = out[0];
  r->err.pipe_fd = err[0];
  spawn_failure failure;
  ssize_t n = read(report[0], &failure, sizeof failure); /* end of file: exec has closed it */
  close(report[0]);
  if (n == (ssize_t)sizeof failure) {
    const char *path = failure.step == 'c' ? r->spec->cwd : r->spec->argv[0];
    snprintf(r->record.detail, sizeof r->record.detail, "%.180s: %s", path, strerror(failure.code));
    waitpid(r->pid, NULL, 0);
    return false;
  }
  fcntl(out[0], F_SETFL, O_NONBLOCK);
  fcntl(err[0], F_SETFL, O_NONBLOCK);
  return true;
}

/* The first reason to end a run is the one that counts. */
static void end_run(run *r, run_reason reason, const char *detail, int64_t grace_ms) {
  if (r->ending) return;
  r->record.reason = reason;
  snprintf(r->record.detail, sizeof r->record.detail, "%s", detail);
  r->ending = true;
  r->kill_at_ms = csn_now_ms() + grace_ms;
  if (!r->gone) kill(r->pid, SIGTERM);
}

/* Moves one piece from the pipe into the file. After a failed write the pipe is still emptied, so that
 * nothing blocks. */
static void pump(run *r, spool *s) {
  static char piece[PIECE_BYTES];
  ssize_t n = read(s->pipe_fd, piece, sizeof piece);
  if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (n <= 0) {
    close(s->pipe_fd);
    s->pipe_fd = -1;
    return;
  }
  size_t room = (size_t)(r->spec->output_max_bytes - s->bytes);
  size_t keep = (size_t)n > room ? room : (size_t)n;
  for (size_t done = 0; s->file_fd >= 0 && done < keep;) {
    ssize_t w = write(s->file_fd, piece + done, keep - done);
    if (w < 0 && errno == EINTR) continue;
    if (w <= 0) {
      end_run(r, RUN_DISK_FULL, strerror(errno), r->spec->grace_ms);
      close(s->file_fd);
      s->file_fd = -1;
      break;
    }
    done += (size_t)w;
    s->bytes += w;
  }
  if (keep < (size_t)n) end_run(r, RUN_OUTPUT_LIMIT, "more output than output_max_bytes", r->spec->grace_ms);
}

static void reap(run *r) {
  int status;
  struct rusage usage;
  pid_t pid;
  while ((pid = wait4(-1, &status, WNOHANG, &usage)) > 0) {
    if (pid != r->pid) continue;
    r->gone = true;
    r->status = status;
    r->record.max_rss_kb = usage.ru_maxrss;
  }
}

static void on_signal(run *r, int signal_fd) {
  struct signalfd_siginfo info;
  while (read(signal_fd, &info, sizeof info) == (ssize_t)sizeof info) {
    if (info.ssi_signo == SIGCHLD) continue; /* reap() is called anyway */
    if (info.ssi_code == SI_QUEUE) {         /* run_kill(): grace in ms << 4 | reason */
      int64_t grace_ms = (info.ssi_int >> 4) & 0xffff;
      int reason = info.ssi_int & 15;
      if (reason == RUN_TIMED_OUT)
        end_run(r, RUN_TIMED_OUT, "ended by the caller's time-out", grace_ms);
      else if (reason == RUN_OVER_BUDGET)
        end_run(r, RUN_OVER_BUDGET, "a limit of its budget was reached", grace_ms);
      else if (reason == RUN_POLICY_VIOLATION)
        end_run(r, RUN_POLICY_VIOLATION, "a call was made that the policy forbids", grace_ms);
      else
        end_run(r, RUN_KILLED, "cancelled", grace_ms);
    } else {
      end_run(r, RUN_KILLED, "the supervisor was asked to end", r->spec->grace_ms);
    }
  }
}

static int spool_file(int dir_fd, const char *name) {
  return openat(dir_fd, name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0644);
}

/* Pieces that a pipe can hold, and one. */
static int pieces_in(int pipe_fd) {
  int bytes = pipe_fd < 0 ? 0 : fcntl(pipe_fd, F_GETPIPE_SZ);
  return bytes / PIECE_BYTES + 1;
}

static void supervise(run *r, int signal_fd) {
  int64_t wall_at_ms = csn_now_ms() + r->spec->wall_ms;
  int turns_left = -1; /* once the tree is gone */
  while (!r->gone || r->out.pipe_fd >= 0 || r->err.pipe_fd >= 0) {
    int64_t now = csn_now_ms();
    if (now >= wall_at_ms) end_run(r, RUN_TIMED_OUT, "wall_ms is over", r->spec->grace_ms);
    /* The program is over, or its grace time is: whatever it left goes with it, so that the pipes end. */
    bool alone = false;
    if (r->gone || (r->ending && now >= r->kill_at_ms)) {
      alone = csn_tree_signal(getpid(), SIGKILL, NULL, 0) == 0;
      r->killed = true;
    }
    int64_t next = r->killed ? now + 20 : r->ending ? r->kill_at_ms : wall_at_ms;
    int64_t wait_ms = next - now < 0 ? 0 : next - now > 60000 ? 60000 : next - now;
    struct pollfd p[3] = {{.fd = signal_fd, .events = POLLIN},
                          {.fd = r->out.pipe_fd, .events = POLLIN},
                          {.fd = r->err.pipe_fd, .events = POLLIN}};
    poll(p, 3, (int)wait_ms);
    /* With the tree gone, only a stranger that opened a pipe through /proc can keep it open. What the
     * program wrote is in the pipes by then: the run waits for no more than they hold. */
    if (r->gone && alone) {
      if (turns_left < 0) turns_left = pieces_in(r->out.pipe_fd) + pieces_in(r->err.pipe_fd);
      if ((p[1].revents == 0 && p[2].revents == 0) || turns_left-- == 0) break;
    }
    if (p[0].revents != 0) on_signal(r, signal_fd);
    if (r->out.pipe_fd >= 0 && p[1].revents != 0) pump(r, &r->out);
    if (r->err.pipe_fd >= 0 && p[2].revents != 0) pump(r, &r->err);
    reap(r);
  }
  /* What closed its output but lives on. */
  csn_tree_kill_all(NULL, 0);
}

void run_supervise(int dir_fd, const run_spec *spec) {
  run r = {.spec = spec, .out = {-1, -1, 0}, .err = {-1, -1, 0}};
  r.record = (run_record){.reason = RUN_EXITED, .exit_code = -1, .started_ms = csn_wall_ms()};
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGHUP);
  sigprocmask(SIG_BLOCK, &set, NULL);
  int signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  int record_fd = run_record_reserve(dir_fd);
  if (record_fd < 0 || signal_fd < 0) return; /* no room for a record: from outside this is runner_lost */
  r.out.file_fd = spool_file(dir_fd, "stdout");
  r.err.file_fd = spool_file(dir_fd, "stderr");
  if (r.out.file_fd < 0 || r.err.file_fd < 0) {
    r.record.reason = errno == ENOSPC || errno == EDQUOT ? RUN_DISK_FULL : RUN_SPAWN_FAILED;
    snprintf(r.record.detail, sizeof r.record.detail, "spool: %s", strerror(errno));
  } else if (!spawn(&r, dir_fd)) {
    r.record.reason = RUN_SPAWN_FAILED;
  } else {
    supervise(&r, signal_fd);
    if (WIFEXITED(r.status)) r.record.exit_code = WEXITSTATUS(r.status);
    if (WIFSIGNALED(r.status)) r.record.sig = WTERMSIG(r.status);
    if (r.record.reason == RUN_EXITED && r.record.sig > 0) r.record.reason = RUN_SIGNALLED;
  }
  r.record.stdout_bytes = r.out.bytes;
  r.record.stderr_bytes = r.err.bytes;
  r.record.ended_ms = csn_wall_ms();
  run_record_publish(dir_fd, record_fd, &r.record);
}
