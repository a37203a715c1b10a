/* guest/session.c - persistent shells.
 *
 * A session is one bash that reads its script from a pipe. For each command the server
 * makes two FIFOs, opens their read ends and writes one line of script that evaluates the
 * command with its output in the FIFOs and reports the status on descriptor 3. FIFOs
 * of its own keep a command's output apart from what earlier background jobs write. */
#define _GNU_SOURCE
#include "guest.h"

#include "../common/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RUN_DIR       "/run/caisson"
#define INLINE_MAX    2048 /* longer commands go through a file: bash reads a pipe byte by byte */
#define BYSTANDER_MAX 64
#define READ_BYTES    (256 * 1024)

typedef struct command {
  char *text, *cwd;
  cJSON *env;
  int64_t timeout_ms;
  session_done *done;
  void *arg;
  struct command *next;
} command;

struct session {
  char *id;
  job *shell;
  pid_t shell_pid; /* reported by the shell; 0 before */
  int control_fd;  /* script goes in here */
  int status_fd;   /* status lines come out here */
  struct event *status_ev;
  struct event *control_ev; /* while script waits to be written */
  csn_buf script;
  size_t script_off;
  csn_buf status_line;
  int64_t default_timeout_ms;
  cJSON *env; /* it was created with */
  command *running, *queue, **queue_tail;
  char base[64]; /* path prefix of the running command's FIFOs */
  int fifo[2];
  struct event *fifo_ev[2];
  csn_buf out[2];
  struct event *expire;
  pid_t bystanders[BYSTANDER_MAX]; /* children that the shell had before a timed command */
  size_t bystander_count;
  const char *failure; /* why the running command fails, decided before its status came */
  int expire_round;
  bool dead, destroyed;
  session *next;
};

static session *sessions;
static unsigned command_serial;
static char read_room[READ_BYTES];

static void next_command(session *s);

session *session_find(const char *id) {
  for (session *s = sessions; s != NULL; s = s->next)
    if (!s->dead && strcmp(s->id, id) == 0) return s;
  return NULL;
}

void session_list(csn_buf *json) {
  csn_buf_str(json, "[");
  bool first = true;
  for (session *s = sessions; s != NULL; s = s->next) {
    if (s->dead) continue;
    if (!first) csn_buf_str(json, ",");
    first = false;
    csn_json_cstr(json, s->id);
  }
  csn_buf_str(json, "]");
}

static void free_command(command *c) {
  free(c->text);
  free(c->cwd);
  cJSON_Delete(c->env);
  free(c);
}

static void close_fifo(session *s, int w, bool drain) {
  if (s->fifo_ev[w] != NULL) event_free(s->fifo_ev[w]);
  s->fifo_ev[w] = NULL;
  if (s->fifo[w] >= 0) {
    if (drain)
      job_drain(s->fifo[w]);
    else
      close(s->fifo[w]);
  }
  s->fifo[w] = -1;
}

/* Reads what is there. False at the end of the stream. */
static bool read_fifo(session *s, int w) {
  for (;;) {
    ssize_t n = read(s->fifo[w], read_room, sizeof read_room);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno == EAGAIN;
    if (n == 0) return false;
    if (s->out[0].len + s->out[1].len + (size_t)n <= GUEST_OUTPUT_MAX) {
      csn_buf_add(&s->out[w], read_room, (size_t)n);
    } else if (s->failure == NULL) {
      s->failure = "output";
      struct timeval soon = {0, 0};
      event_add(s->expire, &soon);
    }
  }
}

static void on_fifo(evutil_socket_t fd, short what, void *arg) {
  (void)what;
  session *s = arg;
  int w = fd == s->fifo[1] ? 1 : 0;
  /* End of stream is legal before the status: the command may close its descriptors. A
   * FIFO that nobody has opened yet also reads as ended, so the event stays only
   * while there is data: it is edge-triggered. */
  (void)read_fifo(s, w);
}

static void unlink_fifos(session *s) {
  static const char *const suffix[] = {"o", "e", "c"};
  for (size_t i = 0; i < 3; i++) {
    char path[80];
    snprintf(path, sizeof path, "%s%s", s->base, suffix[i]);
    unlink(path);
  }
}

/* Ends the running command and starts the next. */
static void finish_command(session *s, int code, const char *failure) {
  command *c = s->running;
  if (c == NULL) return;
  for (int w = 0; w < 2; w++) {
    bool more = s->fifo[w] >= 0 && read_fifo(s, w);
    close_fifo(s, w, more);
  }
  unlink_fifos(s);
  event_del(s->expire);
  s->running = NULL;
  csn_buf out = s->out[0], err = s->out[1];
  s->out[0] = s->out[1] = (csn_buf){0};
  /* A deleted session's command may die, and its status be told, before the shell does. */
  if (s->destroyed) failure = "destroyed";
  c->done(c->arg, code, &out, &err, s->failure != NULL ? s->failure : failure);
  s->failure = NULL;
  csn_buf_free(&out);
  csn_buf_free(&err);
  free_command(c);
  if (!s->dead) next_command(s);
}

static void on_status(evutil_socket_t fd, short what, void *arg) {
  (void)what;
  session *s = arg;
  char text[256];
  ssize_t n = read(fd, text, sizeof text);
  if (n <= 0) {
    if (n == 0) event_del(s->status_ev); /* the shell is gone: its job says how */
    return;
  }
  for (ssize_t i = 0; i < n; i++) {
    if (text[i] != '\n') {
      if (s->status_line.len < 64) csn_buf_add(&s->status_line, &text[i], 1);
      continue;
    }
    const char *line = csn_buf_cstr(&s->status_line);
    int value = s->status_line.len > 2 ? atoi(line + 2) : 0;
    char kind = line[0];
    s->status_line.len = 0;
    if (kind == 'p') s->shell_pid = value;
    if (kind == 's') finish_command(s, value & 255, NULL);
    if (kind == 'c') finish_command(s, 1, "cwd");
    if (s->dead) return;
  }
}

static void on_control(evutil_socket_t fd, short what, void *arg) {
  (void)what;
  session *s = arg;
  while (s->script_off < s->script.len) {
    ssize_t n = write(fd, s->script.p + s->script_off, s->script.len - s->script_off);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      if (errno == EAGAIN) event_add(s->control_ev, NULL);
      return; /* otherwise the shell is gone */
    }
    s->script_off += (size_t)n;
  }
  s->script.len = s->script_off = 0;
}

static void quote(csn_buf *b, const char *text) {
  csn_buf_str(b, "'");
  for (const char *at = text;;) {
    size_t n = strcspn(at, "'");
    csn_buf_add(b, at, n);
    if (at[n] == '\0') break;
    csn_buf_str(b, "'\\''");
    at += n + 1;
  }
  csn_buf_str(b, "'");
}

static bool write_file(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return false;
  size_t len = strlen(text), off = 0;
  while (off < len) {
    ssize_t n = write(fd, text + off, len - off);
    if (n <= 0) break;
    off += (size_t)n;
  }
  close(fd);
  return off == len;
}

static bool open_fifos(session *s) {
  for (int w = 0; w < 2; w++) {
    char path[80];
    snprintf(path, sizeof path, "%s%s", s->base, w == 0 ? "o" : "e");
    if (mkfifo(path, 0600) != 0) return false;
    s->fifo[w] = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (s->fifo[w] < 0) return false;
    (void)fcntl(s->fifo[w], F_SETPIPE_SZ, 1024 * 1024);
    s->fifo_ev[w] = event_new(guest_base, s->fifo[w], EV_READ | EV_ET | EV_PERSIST, on_fifo, s);
    if (s->fifo_ev[w] == NULL) abort();
    event_add(s->fifo_ev[w], NULL);
  }
  return true;
}

/* The line of script for a command. Names start with __csn so that they collide with nothing. */
static bool add_script(session *s, const command *c) {
  csn_buf *b = &s->script;
  int restore = 0;
  if (c->cwd != NULL) {
    csn_buf_str(b, "__csn_d=$PWD;if builtin cd -- ");
    quote(b, c->cwd);
    csn_buf_str(b, " 2>/dev/null;then ");
  }
  const cJSON *v;
  cJSON_ArrayForEach(v, c->env) {
    if (!cJSON_IsString(v)) continue;
    csn_buf_fmt(b, "__csn_h%d=${%s+x};__csn_v%d=${%s-};export %s=", restore, v->string, restore, v->string,
                v->string);
    quote(b, v->valuestring);
    csn_buf_str(b, ";");
    restore++;
  }
  if (strlen(c->text) <= INLINE_MAX) {
    csn_buf_str(b, "builtin eval ");
    quote(b, c->text);
  } else {
    char path[80];
    snprintf(path, sizeof path, "%sc", s->base);
    if (!write_file(path, c->text)) return false;
    csn_buf_fmt(b, "builtin eval \"$(<%s)\"", path);
  }
  csn_buf_fmt(b, " 3>&- </dev/null >%so 2>%se;__csn_s=$?;", s->base, s->base);
  restore = 0;
  cJSON_ArrayForEach(v, c->env) {
    if (!cJSON_IsString(v)) continue;
    csn_buf_fmt(b, "if [[ $__csn_h%d ]];then export %s=\"$__csn_v%d\";else unset %s;fi;", restore, v->string,
                restore, v->string);
    restore++;
  }
  if (c->cwd != NULL) csn_buf_str(b, "builtin cd -- \"$__csn_d\" 2>/dev/null;");
  csn_buf_str(b, "builtin echo s $__csn_s >&3");
  if (c->cwd != NULL) csn_buf_str(b, ";else builtin echo c 1 >&3;fi");
  csn_buf_str(b, "\n");
  return true;
}

static void next_command(session *s) {
  if (s->running != NULL || s->queue == NULL || s->dead) return;
  command *c = s->queue;
  s->queue = c->next;
  if (s->queue == NULL) s->queue_tail = &s->queue;
  s->running = c;
  s->expire_round = 0;
  mkdir(RUN_DIR, 0700);
  snprintf(s->base, sizeof s->base, RUN_DIR "/%u.", ++command_serial);
  if (!open_fifos(s) || !add_script(s, c)) {
    finish_command(s, 1, "setup");
    return;
  }
  int64_t limit = c->timeout_ms > 0 ? c->timeout_ms : s->default_timeout_ms;
  s->bystander_count = 0;
  if (limit > 0) {
    if (s->shell_pid > 0) s->bystander_count = csn_tree_children(s->shell_pid, s->bystanders, BYSTANDER_MAX);
    struct timeval tv = {limit / 1000, limit % 1000 * 1000};
    event_add(s->expire, &tv);
  }
  on_control(s->control_fd, EV_WRITE, s);
}

/* The running command is past its time, or writes too much. What it started is killed, again and
 * again while the shell goes on to the next part of its list; a shell that does not come
 * back is ended, and with it the session. */
static void on_expire(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  session *s = arg;
  if (s->running == NULL || s->dead) return;
  if (s->failure == NULL) s->failure = "timeout";
  int round = s->expire_round++;
  if (round < 50 && s->shell_pid > 0)
    csn_tree_signal(s->shell_pid, round < 10 ? SIGTERM : SIGKILL, s->bystanders, s->bystander_count);
  else
    job_kill(s->shell, 0);
  if (round <= 50) {
    struct timeval tv = {0, 20000};
    event_add(s->expire, &tv);
  }
}

static void free_session(session *s) {
  for (session **at = &sessions; *at != NULL; at = &(*at)->next) {
    if (*at != s) continue;
    *at = s->next;
    break;
  }
  event_free(s->status_ev);
  event_free(s->control_ev);
  event_free(s->expire);
  close(s->control_fd);
  close(s->status_fd);
  csn_buf_free(&s->script);
  csn_buf_free(&s->status_line);
  cJSON_Delete(s->env);
  free(s->id);
  free(s);
}

static void on_shell_end(job *j) {
  session *s = j->arg;
  s->dead = true;
  const char *failure = s->destroyed ? "destroyed" : "terminated";
  finish_command(s, j->code, failure);
  while (s->queue != NULL) {
    command *c = s->queue;
    s->queue = c->next;
    csn_buf none[2] = {{0}, {0}};
    c->done(c->arg, j->code, &none[0], &none[1], failure);
    free_command(c);
  }
  free_session(s);
}

session *session_create(const char *id, const char *cwd, const cJSON *env, int64_t timeout_ms) {
  size_t count = 0;
  for (session *s = sessions; s != NULL; s = s->next)
    count++;
  if (count >= GUEST_SESSIONS_MAX) {
    errno = EAGAIN;
    return NULL;
  }
  int control[2], status[2];
  if (pipe2(control, O_CLOEXEC) != 0) return NULL;
  if (pipe2(status, O_CLOEXEC) != 0) {
    close(control[0]);
    close(control[1]);
    return NULL;
  }
  fcntl(control[1], F_SETFL, O_NONBLOCK);
  fcntl(status[0], F_SETFL, O_NONBLOCK);
  struct stat st;
  if (cwd == NULL) cwd = "/workspace";
  if (stat(cwd, &st) != 0 || !S_ISDIR(st.st_mode)) cwd = "/home/user";
  session *s = calloc(1, sizeof *s);
  if (s == NULL) abort();
  const char *bad;
  char **envp = env_make(env, &bad);
  static const char *const argv[] = {"/bin/bash", "--norc", "--noprofile", NULL};
  const job_spec spec = {.argv = argv,
                         .envp = envp,
                         .cwd = cwd,
                         .stdin_fd = control[0],
                         .extra_fd = status[1],
                         .on_end = on_shell_end,
                         .arg = s};
  s->shell = envp == NULL ? NULL : job_start(&spec);
  int saved = envp == NULL ? EINVAL : errno;
  env_free(envp);
  close(control[0]);
  close(status[1]);
  if (s->shell == NULL) {
    close(control[1]);
    close(status[0]);
    free(s);
    errno = saved;
    return NULL;
  }
  s->id = strdup(id);
  if (s->id == NULL) abort();
  s->control_fd = control[1];
  s->status_fd = status[0];
  s->fifo[0] = s->fifo[1] = -1;
  s->default_timeout_ms = timeout_ms > 0 ? timeout_ms : env_ms("COMMAND_TIMEOUT_MS");
  s->env = env == NULL ? NULL : cJSON_Duplicate(env, true);
  s->queue_tail = &s->queue;
  s->status_ev = event_new(guest_base, s->status_fd, EV_READ | EV_PERSIST, on_status, s);
  s->control_ev = event_new(guest_base, s->control_fd, EV_WRITE, on_control, s);
  s->expire = evtimer_new(guest_base, on_expire, s);
  if (s->status_ev == NULL || s->control_ev == NULL || s->expire == NULL) abort();
  event_add(s->status_ev, NULL);
  s->next = sessions;
  sessions = s;
  csn_buf_str(&s->script, "builtin echo p $$ >&3\n");
  on_control(s->control_fd, EV_WRITE, s);
  return s;
}

session *session_get(const char *id) {
  session *s = session_find(id);
  return s != NULL ? s : session_create(id, NULL, NULL, 0);
}

bool session_delete(const char *id) {
  session *s = session_find(id);
  if (s == NULL) return false;
  s->dead = true; /* out of sight at once; freed when its processes are gone */
  s->destroyed = true;
  job_kill(s->shell, 200);
  pty_end(id);
  return true;
}

const cJSON *session_env(const char *id) {
  session *s = session_find(id);
  return s == NULL ? NULL : s->env;
}

void session_cwd(const char *id, char *out, size_t cap) {
  snprintf(out, cap, "/workspace");
  session *s = id == NULL ? NULL : session_find(id);
  if (s == NULL || s->shell_pid <= 0) return;
  char link[40];
  snprintf(link, sizeof link, "/proc/%d/cwd", (int)s->shell_pid);
  char target[GUEST_PATH_MAX + 1];
  ssize_t n = readlink(link, target, sizeof target - 1);
  if (n <= 0 || target[0] != '/' || (size_t)n >= cap) return;
  target[n] = '\0';
  snprintf(out, cap, "%s", target);
}

int64_t session_timeout_ms(const session *s) {
  return s->default_timeout_ms;
}

void session_run(session *s, const char *text, const char *cwd, const cJSON *env, int64_t timeout_ms,
                 session_done *done, void *arg) {
  command *c = calloc(1, sizeof *c);
  if (c == NULL) abort();
  c->text = strdup(text);
  c->cwd = cwd == NULL ? NULL : strdup(cwd);
  c->env = env == NULL ? NULL : cJSON_Duplicate(env, 1);
  c->timeout_ms = timeout_ms;
  c->done = done;
  c->arg = arg;
  *s->queue_tail = c;
  s->queue_tail = &c->next;
  next_command(s);
}

void session_snapshot(session *s, session_done *done, void *arg) {
  session_run(s, "builtin declare -px; builtin declare -f", NULL, NULL, 0, done, arg);
}
