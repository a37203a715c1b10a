/* guest/guest.h - the control server inside a sandbox: what its files share.
 *
 * One thread, one event loop. PID 1 of the sandbox: every orphan is reaped here.
 * Requests come over descriptor 3 (a listening socket that exists outside only),
 * the engine's own messages over descriptor 4. */
#ifndef CAISSON_GUEST_H
#define CAISSON_GUEST_H

#include "../common/buf.h"
#include "exchange.h"

#include <cJSON.h>
#include <event2/event.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define GUEST_VERSION         "0.12.10"           /* of the SDK whose protocol this is */
#define GUEST_OUTPUT_MAX      (64u * 1024 * 1024) /* /api/execute: stdout + stderr, bytes */
#define GUEST_LOG_MAX         (64u * 1024 * 1024) /* kept of each stream of a process, bytes */
#define GUEST_LOG_MEM_MAX     (16u * 1024 * 1024) /* of that, when only memory takes it; more than the window */
#define GUEST_LOG_WINDOW      (8u * 1024 * 1024)  /* how far an execStream client may be behind, bytes */
#define GUEST_FILE_MAX        (32u * 1024 * 1024) /* /api/read, bytes */
#define GUEST_PATH_MAX        4096u               /* bytes */
#define GUEST_ID_MAX          128u                /* session and process ids, bytes */
#define GUEST_SESSIONS_MAX    256u
#define GUEST_PROCS_MAX       1024u /* records; finished ones make room */
#define GUEST_KILL_GRACE_MS   5000  /* SIGTERM to SIGKILL for a process that is killed */
#define GUEST_EXPIRE_GRACE_MS 500   /* the same for a command past its time */
#define GUEST_NO_SESSION      "__DISABLE_SESSION__"
#define GUEST_PATH_ENV        "/opt/caisson/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

extern struct event_base *guest_base;

extern const route misc_routes[], session_routes[], exec_routes[], process_routes[], file_routes[];
extern const route git_routes[], backup_routes[], interp_routes[], ws_routes[], pty_routes[], watch_routes[],
    port_routes[];

/* ---- job.c: one command under its supervisor ---- */

typedef struct job job;
typedef struct job_spec {
  const char *const *argv; /* NULL-terminated; argv[0] is a path */
  char *const *envp;
  const char *cwd;
  int stdin_fd;  /* -1: /dev/null. Stays the caller's. */
  bool terminal; /* stdin_fd is a terminal: it becomes output too, and the one that controls the command */
  int extra_fd;  /* becomes descriptor 3 of the command; -1: none. Stays the caller's. */
  void (*on_data)(job *j, int which, const char *data, size_t len); /* which: 0 stdout, 1 stderr */
  void (*on_end)(job *j);                                           /* all output delivered; j dies after */
  void *arg;
} job_spec;

struct job {
  pid_t pid; /* of the supervisor; 0 once reaped */
  int fd[2]; /* read ends, -1 at end */
  struct event *ev[2];
  struct event *linger;
  int64_t exited_at_ms;
  int code;   /* exit code, valid once exited; 128 + signal when a signal ended it */
  int signal; /* that ended it, 0 if none */
  bool exited, paused, ended;
  void (*on_data)(job *j, int which, const char *data, size_t len);
  void (*on_end)(job *j);
  void *arg;
  job *next;
};

/* NULL with errno. Output pipes are made only when on_data is set. */
job *job_start(const job_spec *spec);
/* Ends the whole tree: SIGTERM, after grace_ms SIGKILL, also for what left its session. */
void job_kill(job *j, int grace_ms);
void job_pause(job *j);
/* Delivers what the command has written so far, unless it is paused. */
void job_poll(job *j);
void job_resume(job *j);
/* From the SIGCHLD handler; false if pid is no job. */
bool job_reaped(pid_t pid, int wait_status);
void job_kill_all(void);
/* fork() whose child starts with every signal blocked. The event loop's handlers write to a socket that
 * parent and child share: a SIGTERM that met the child before it resets them would end the sandbox. */
pid_t fork_blocked(void);
/* Takes a non-blocking pipe and reads it to its end, for nobody. */
void job_drain(int fd);

/* ---- env.c: environments and paths ---- */

/* A NULL-terminated block: the sandbox's base environment with `over` (a JSON object of
 * strings, or NULL) on top. Free with env_free. NULL with *bad set to the offending name. */
char **env_make(const cJSON *over, const char **bad);
void env_free(char **env);
bool env_name_ok(const char *name);
/* A duration that a variable of the sandbox sets, milliseconds; 0 when it is absent or no such number. */
int64_t env_ms(const char *name);

/* ---- session.c: persistent shells ---- */

typedef struct session session;
typedef void session_done(void *arg, int code, csn_buf *out, csn_buf *err, const char *failure);

session *session_find(const char *id);
/* Creates it. NULL with errno; `cwd` NULL or missing directory: the default. */
session *session_create(const char *id, const char *cwd, const cJSON *env, int64_t timeout_ms);
/* The session for a request: found, or created for a new id. */
session *session_get(const char *id);
bool session_delete(const char *id);
void session_list(csn_buf *json);
/* Current directory of the session's shell, "/workspace" when unknown. */
void session_cwd(const char *id, char *out, size_t cap);
/* The variables that a session was created with, NULL when there are none. The session's. */
const cJSON *session_env(const char *id);
/* How long a command of this session may take that names no time of its own; 0: as long as it likes. */
int64_t session_timeout_ms(const session *s);
/* Queues a command. `done` is called once: failure NULL, or a reason: "terminated" (the
 * shell exited with `code`), "destroyed", "timeout", "output", "cwd". */
void session_run(session *s, const char *command, const char *cwd, const cJSON *env, int64_t timeout_ms,
                 session_done *done, void *arg);
/* The shell's variables and functions as a script that restores them, then `done` as above
 * with the script in `out`. */
void session_snapshot(session *s, session_done *done, void *arg);

/* ---- proc.c: process records ---- */

typedef struct proc proc;
struct proc_start {
  const char *id; /* NULL: made here */
  const char *command, *prelude, *cwd;
  char *const *envp;
  int64_t timeout_ms;
};
/* One stream's output (proc_log.c). Offsets count from the stream's first byte. */
typedef struct proc_log {
  int fd;         /* unlinked file; -1: none */
  int mem;        /* memory file for what the disk did not take; -1: none */
  uint64_t split; /* first offset that is in mem; valid with mem */
  uint64_t base;  /* first offset that is kept */
  uint64_t end;   /* one past the last */
} proc_log;

void proc_log_open(proc_log *log);
void proc_log_close(proc_log *log);
/* Appends. On a full disk (or with no file to begin with) the bytes go to memory: what a program says must
 * reach who follows it. Keeps the last GUEST_LOG_MAX bytes, in memory GUEST_LOG_MEM_MAX. */
void proc_log_add(proc_log *log, const char *data, size_t len);
/* Reads up to len bytes at off, base <= off. The count may be less than what is there; 0: nothing, negative:
 * errno. */
ssize_t proc_log_pread(const proc_log *log, char *out, size_t len, uint64_t off);
typedef struct follower follower;
struct proc {
  char *id, *command;
  job *j; /* NULL once ended */
  pid_t pid;
  int64_t start_ms, end_ms;
  int code;
  bool ended, killed;
  proc_log log[2];
  struct event *expire;
  follower *followers;
  exchange **killers; /* kill requests that wait for the end */
  size_t killer_count;
  proc *next;
};
enum follow_mode { FOLLOW_EXEC, FOLLOW_LOGS };

proc *proc_start(const struct proc_start *ps);
proc *proc_find(const char *id);
proc *proc_first(void);
const char *proc_status(const proc *p);
void proc_kill(proc *p);
/* Streams the record to a client until its end. FOLLOW_EXEC holds the process back when
 * the client is slow; FOLLOW_LOGS never does. */
void proc_follow(proc *p, exchange *req, enum follow_mode mode);
/* Appends up to `max` kept bytes of one stream from `off`. */
size_t proc_log_read(const proc *p, int which, uint64_t off, csn_buf *out, size_t max);

/* ---- port_watch.c ---- */

/* Ends the watches that wait for a port of this process. */
void port_watch_process_ended(const proc *p);

/* ---- pty.c: terminals ---- */

/* Ends the terminal of a session, if it has one, and all that runs in it. */
void pty_end(const char *id);

/* ---- link_guest.c ---- */
/* Tells the engine that this process is up; the engine's BEGIN leads to guest_begin. */
void link_init(int fd);
/* Tells the engine that this is the sandbox now and serves. */
void link_ready(void);

/* ---- main.c ---- */
/* Makes this the sandbox that the file `fd` describes (link.h: BEGIN), the caller's still: takes over its
 * environment, serves, says READY, starts its entrypoint. Called once. */
void guest_begin(int fd, unsigned variables, unsigned words);

/* Ends the sandbox. */
void guest_exit(int code) __attribute__((noreturn));

#endif
