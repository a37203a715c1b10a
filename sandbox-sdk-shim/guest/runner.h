/* runner.h - caisson-run: starts one program, spools its output, owns its process tree, records its end.
 *
 * The files of a spool directory and the meaning of every exit reason are in docs/DESIGN.md 11.2.
 * The directory is written by the caller (spec.json, prompt) before `start`; all else is written here.
 * Everything in it may have been tampered with by the sandbox's other programs: sizes are bounded before
 * reads, and nothing in it is trusted beyond this one run. */
#ifndef CAISSON_RUNNER_H
#define CAISSON_RUNNER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define RUN_SPEC_MAX                                                                                         \
  (1024 * 1024)               /* bytes of spec.json: argv and environment of the core's bounds, escaped */
#define RUN_RECORD_MAX   4096 /* bytes of exit.json; taken on disk before the program starts */
#define RUN_ARG_MAX      256  /* items: argv and environment each */
#define RUN_FILE_MAX     16   /* items: files of a spec */
#define RUN_PIECE        (48 * 1024) /* raw bytes in one line of `follow`; 64 KiB as base64 */
#define RUN_HEARTBEAT_MS 5000
#define RUN_GRACE_MAX_MS 60000

/* Exit statuses. */
enum { RUN_OK = 0, RUN_BAD_CALL = 64, RUN_BAD_SPEC = 65, RUN_FAILED = 70 };

typedef enum run_reason {
  RUN_EXITED,
  RUN_SIGNALLED,
  RUN_TIMED_OUT,
  RUN_KILLED,
  RUN_SPAWN_FAILED,
  RUN_OUTPUT_LIMIT,
  RUN_DISK_FULL,
  RUN_RUNNER_LOST,
  RUN_OVER_BUDGET,
  RUN_POLICY_VIOLATION
} run_reason;

/* A file that is there, readable by its owner alone, before the program starts. */
typedef struct run_file {
  const char *path; /* absolute, without "." and ".." */
  const char *text;
} run_file;

typedef struct run_spec {
  char *argv[RUN_ARG_MAX + 1]; /* NULL-terminated; argv[0] is looked up in PATH */
  char *env[RUN_ARG_MAX + 1];  /* NULL-terminated NAME=value, laid over the caller's environment */
  char *cwd;
  run_file files[RUN_FILE_MAX];
  size_t file_count;
  bool stdin_prompt;        /* standard input is the file `prompt`; else /dev/null */
  int64_t wall_ms;          /* > 0 */
  int64_t grace_ms;         /* 0..RUN_GRACE_MAX_MS */
  int64_t output_max_bytes; /* > 0; of stdout and of stderr, each */
} run_spec;

typedef struct run_record {
  run_reason reason;
  int exit_code; /* -1: none */
  int sig;       /* 0: none */
  char detail[256];
  int64_t started_ms, ended_ms; /* Unix time */
  int64_t stdout_bytes, stderr_bytes;
  int64_t max_rss_kb;
} run_record;

/* State of a spool as the outside sees it. */
typedef enum run_state { RUN_ST_MISSING, RUN_ST_RUNNING, RUN_ST_EXITED, RUN_ST_LOST } run_state;

/* Prints {"error","path","detail"} on stderr and returns `status`. */
int run_error(int status, const char *error, const char *path, const char *detail);

/* Reads DIR/spec.json into *spec, whose strings live as long as the process.
 * Returns RUN_OK, or has printed why and returns RUN_BAD_SPEC or RUN_FAILED. */
int run_spec_read(int dir_fd, run_spec *spec);

/* Writes the spec's files, making the directories they need. Returns RUN_OK, or has printed why and returns
 * RUN_FAILED. */
int run_files_write(const run_spec *spec);

/* Opens the spool directory; -1 after printing why. */
int run_open_dir(const char *path);

/* State of the spool; *pid is the supervisor's when RUN_ST_RUNNING, RUN_ST_LOST or RUN_ST_EXITED and known,
 * else 0. */
run_state run_state_of(int dir_fd, pid_t *pid);

/* Reads exit.json into text (NUL-terminated, without a line end). false: there is none. */
bool run_record_read(int dir_fd, char text[RUN_RECORD_MAX + 1]);
/* Takes the record's room on disk. Returns its descriptor, or -1 with errno. */
int run_record_reserve(int dir_fd);
/* Writes the record into the reserved room and publishes it whole. */
void run_record_publish(int dir_fd, int fd, const run_record *record);

/* The subcommands; each returns an exit status. */
int run_start(const char *dir);
int run_follow(const char *dir, int64_t out_off, int64_t err_off);
int run_kill(const char *dir, run_reason reason, int64_t grace_ms);
int run_status(const char *dir);

/* The supervisor's life: starts the program, spools, ends the tree, publishes the record. */
void run_supervise(int dir_fd, const run_spec *spec);

#endif
