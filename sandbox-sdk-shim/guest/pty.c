/* guest/pty.c - /ws/pty: a terminal for a session, shared by all who attach to it.
 *
 * The shell's output goes into a ring, and every viewer has its own place in it. The shell waits for whoever
 * reads, however slowly; one who has not read for a while is not waited for and misses what leaves the ring
 * meanwhile. When nobody who is attached reads, the shell waits for all of them. */
#define _GNU_SOURCE
#include "guest.h"
#include "ws.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define RING_BYTES  (256u * 1024) /* output kept for those who attach later */
#define LAG_BYTES   (128u * 1024) /* how far a viewer may be behind before the shell waits */
#define STALL_MS    1000          /* a viewer whose connection was full for so long does not read */
#define PIECE_BYTES (64u * 1024)  /* of one message */
#define INPUT_MAX                                                                                            \
  (64u * 1024)         /* typed bytes that the terminal has not taken; more waits in the connection          \
                        */
#define READS       16 /* of the terminal for one message */
#define MESSAGE_MAX (8u * 1024 * 1024) /* bytes: a paste */
#define PTYS_MAX    64u
#define SHELL_MAX   256u /* bytes of the shell's name */
#define END_MS      200  /* SIGTERM to SIGKILL when a session is deleted */

typedef struct pty pty;
typedef struct viewer {
  pty *on;
  ws *w;
  uint64_t seen;         /* bytes of output sent */
  int64_t full_since_ms; /* 0: the connection takes more */
  struct viewer *next;
} viewer;

struct pty {
  char *session;
  job *shell; /* NULL once it has ended */
  int master;
  struct event *rd, *wr;
  struct event *look; /* after a while: is who was waited for still reading? */
  char *ring;
  uint64_t end;  /* bytes of output ever read; the ring holds the last RING_BYTES */
  csn_buf input; /* from input_off on: typed, not yet taken by the terminal */
  size_t input_off;
  bool held; /* viewers wait with more input */
  viewer *viewers;
  pty *next;
};

static pty *ptys;

static void say_error(ws *w, const char *message) {
  csn_buf b = {0};
  csn_buf_str(&b, "{\"type\":\"error\",\"message\":");
  csn_json_cstr(&b, message);
  csn_buf_str(&b, "}");
  ws_send_buf(w, WS_OP_TEXT, &b);
}

/* ---- output ---- */

/* Sends what a viewer has not seen, as much as fits. */
static void show(viewer *v) {
  pty *p = v->on;
  if (p->end - v->seen > RING_BYTES) v->seen = p->end - RING_BYTES;
  while (v->seen < p->end && !ws_full(v->w)) {
    size_t at = (size_t)(v->seen % RING_BYTES);
    uint64_t n = p->end - v->seen;
    if (n > RING_BYTES - at) n = RING_BYTES - at;
    if (n > PIECE_BYTES) n = PIECE_BYTES;
    ws_send(v->w, WS_OP_BINARY, p->ring + at, (size_t)n);
    v->seen += n;
  }
  if (!ws_full(v->w))
    v->full_since_ms = 0;
  else if (v->full_since_ms == 0)
    v->full_since_ms = csn_now_ms();
}

/* Reads on unless somebody has to be waited for. */
static void want_output(pty *p) {
  if (p->rd == NULL) return;
  bool reader_behind = false, all_behind = p->viewers != NULL;
  for (const viewer *v = p->viewers; v != NULL; v = v->next) {
    bool behind = p->end - v->seen >= LAG_BYTES;
    bool stalled = v->full_since_ms != 0 && csn_now_ms() - v->full_since_ms >= STALL_MS;
    if (!behind) all_behind = false;
    if (behind && !stalled) reader_behind = true;
  }
  if (!reader_behind && !all_behind) {
    event_add(p->rd, NULL);
    return;
  }
  event_del(p->rd);
  struct timeval tv = {STALL_MS / 1000, STALL_MS % 1000 * 1000};
  if (reader_behind && !evtimer_pending(p->look, NULL)) event_add(p->look, &tv);
}

static void on_look(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  want_output(arg);
}

/* Reads once. False when there is nothing, for now or for good. */
static bool read_output(pty *p) {
  size_t at = (size_t)(p->end % RING_BYTES);
  ssize_t n;
  do
    n = read(p->master, p->ring + at, RING_BYTES - at);
  while (n < 0 && errno == EINTR);
  if (n > 0) {
    p->end += (uint64_t)n;
    return true;
  }
  /* EIO: no process has the terminal open any more. */
  if (n == 0 || errno != EAGAIN) {
    event_free(p->rd);
    p->rd = NULL;
  }
  return false;
}

static void on_output(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  pty *p = arg;
  /* A terminal gives 4 KiB at most: several reads make one message. */
  for (int i = 0; i < READS && read_output(p); i++)
    ;
  for (viewer *v = p->viewers; v != NULL; v = v->next)
    show(v);
  want_output(p);
}

/* ---- input ---- */

static void hold_viewers(pty *p, bool hold) {
  p->held = hold;
  for (viewer *v = p->viewers; v != NULL; v = v->next)
    ws_hold(v->w, hold);
}

static void write_input(pty *p) {
  while (p->input_off < p->input.len) {
    ssize_t n = write(p->master, p->input.p + p->input_off, p->input.len - p->input_off);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {
      event_add(p->wr, NULL);
      break;
    }
    p->input_off = n < 0 ? p->input.len : p->input_off + (size_t)n; /* after an error nobody will read it */
  }
  size_t left = p->input.len - p->input_off;
  if (left == 0) {
    p->input.len = p->input_off = 0;
    if (p->input.cap > PIECE_BYTES) csn_buf_free(&p->input);
  }
  if (p->held != (left >= INPUT_MAX)) hold_viewers(p, !p->held);
}

static void on_writable(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  write_input(arg);
}

static bool resize(pty *p, double cols, double rows) {
  if (!(cols >= 1 && cols <= 65535 && rows >= 1 && rows <= 65535)) return false;
  struct winsize size = {.ws_col = (unsigned short)cols, .ws_row = (unsigned short)rows};
  (void)ioctl(p->master, TIOCSWINSZ, &size); /* the kernel tells the shell */
  return true;
}

static void on_message(void *arg, bool text, char *data, size_t len) {
  viewer *v = arg;
  pty *p = v->on;
  if (!text) {
    csn_buf_add(&p->input, data, len);
    if (p->input.len > 0) write_input(p);
    return;
  }
  cJSON *m = cJSON_ParseWithLength(data, len);
  const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(m, "type"));
  const cJSON *cols = cJSON_GetObjectItemCaseSensitive(m, "cols");
  const cJSON *rows = cJSON_GetObjectItemCaseSensitive(m, "rows");
  if (type == NULL || strcmp(type, "resize") != 0)
    say_error(v->w, "Invalid control message");
  else if (!cJSON_IsNumber(cols) || !cJSON_IsNumber(rows) || !resize(p, cols->valuedouble, rows->valuedouble))
    say_error(v->w, "Invalid dimensions: cols and rows must be positive");
  cJSON_Delete(m);
}

/* ---- viewers ---- */

static void on_room(void *arg) {
  viewer *v = arg;
  v->full_since_ms = 0;
  show(v);
  want_output(v->on);
}

static void on_closed(void *arg) {
  viewer *v = arg;
  pty *p = v->on;
  for (viewer **at = &p->viewers; *at != NULL; at = &(*at)->next) {
    if (*at != v) continue;
    *at = v->next;
    break;
  }
  free(v);
  want_output(p);
}

static const ws_handler pty_handler = {MESSAGE_MAX, on_message, on_room, on_closed};

/* ---- the shell ---- */

static void free_pty(pty *p) {
  for (pty **at = &ptys; *at != NULL; at = &(*at)->next) {
    if (*at != p) continue;
    *at = p->next;
    break;
  }
  if (p->rd != NULL) event_free(p->rd);
  if (p->wr != NULL) event_free(p->wr);
  if (p->look != NULL) event_free(p->look);
  if (p->master >= 0) close(p->master);
  csn_buf_free(&p->input);
  free(p->ring);
  free(p->session);
  free(p);
}

static void on_shell_end(job *j) {
  pty *p = j->arg;
  p->shell = NULL;
  /* What the shell wrote last is in the terminal; what others still write is not waited for. */
  for (uint64_t from = p->end; p->rd != NULL && p->end - from < RING_BYTES && read_output(p);)
    ;
  csn_buf b = {0};
  csn_buf_fmt(&b, "{\"type\":\"exit\",\"code\":%d", j->code);
  if (j->signal != 0) {
    const char *name = sigabbrev_np(j->signal);
    csn_buf_fmt(&b, ",\"signal\":\"SIG%s\"", name == NULL ? "?" : name);
  }
  csn_buf_str(&b, "}");
  while (p->viewers != NULL) {
    viewer *v = p->viewers;
    p->viewers = v->next;
    show(v);
    ws_send(v->w, WS_OP_TEXT, b.p, b.len);
    ws_close(v->w, 1000, "the shell has exited");
    free(v);
  }
  csn_buf_free(&b);
  free_pty(p);
}

/* The program that `name` stands for: a path, or the first of that name on PATH. */
static bool find_shell(const char *name, char *out, size_t cap) {
  if (strchr(name, '/') != NULL) {
    snprintf(out, cap, "%s", name);
    return *name == '/' && access(out, X_OK) == 0;
  }
  for (const char *dir = GUEST_PATH_ENV; *dir != '\0';) {
    size_t n = strcspn(dir, ":");
    snprintf(out, cap, "%.*s/%s", (int)n, dir, name);
    if (*name != '\0' && access(out, X_OK) == 0) return true;
    dir += n + (dir[n] == ':');
  }
  return false;
}

static char **make_env(const char *id, const char *shell) {
  const cJSON *own = session_env(id);
  cJSON *over = own == NULL ? cJSON_CreateObject() : cJSON_Duplicate(own, true);
  if (cJSON_GetObjectItemCaseSensitive(over, "TERM") == NULL)
    cJSON_AddStringToObject(over, "TERM", "xterm-256color");
  if (cJSON_GetObjectItemCaseSensitive(over, "SHELL") == NULL) cJSON_AddStringToObject(over, "SHELL", shell);
  const char *bad;
  char **env = env_make(over, &bad);
  cJSON_Delete(over);
  return env;
}

static int open_master(int *slave) {
  int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (master < 0) return -1;
  *slave = unlockpt(master) != 0 ? -1 : ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (*slave >= 0) return master;
  int saved = errno;
  close(master);
  errno = saved;
  return -1;
}

/* NULL with errno. */
static pty *start_pty(const char *id, const char *shell) {
  size_t count = 0;
  for (pty *p = ptys; p != NULL; p = p->next)
    count++;
  if (count >= PTYS_MAX) {
    errno = EAGAIN;
    return NULL;
  }
  int slave, master = open_master(&slave);
  if (master < 0) return NULL;
  char cwd[GUEST_PATH_MAX + 1];
  session_cwd(id, cwd, sizeof cwd);
  struct stat st;
  if (stat(cwd, &st) != 0 || !S_ISDIR(st.st_mode)) snprintf(cwd, sizeof cwd, "/");
  pty *p = calloc(1, sizeof *p);
  if (p == NULL) abort();
  p->master = master;
  p->session = strdup(id);
  p->ring = malloc(RING_BYTES);
  p->rd = event_new(guest_base, master, EV_READ | EV_PERSIST, on_output, p);
  p->wr = event_new(guest_base, master, EV_WRITE, on_writable, p);
  p->look = evtimer_new(guest_base, on_look, p);
  if (p->session == NULL || p->ring == NULL || p->rd == NULL || p->wr == NULL || p->look == NULL) abort();
  p->next = ptys;
  ptys = p;
  char **env = make_env(id, shell);
  const char *const argv[] = {shell, NULL};
  const job_spec spec = {.argv = argv,
                         .envp = env,
                         .cwd = cwd,
                         .stdin_fd = slave,
                         .extra_fd = -1,
                         .terminal = true,
                         .on_end = on_shell_end,
                         .arg = p};
  resize(p, 80, 24);
  p->shell = job_start(&spec);
  int saved = errno;
  env_free(env);
  close(slave);
  if (p->shell == NULL) {
    free_pty(p);
    errno = saved;
    return NULL;
  }
  want_output(p);
  return p;
}

void pty_end(const char *id) {
  for (pty *p = ptys; p != NULL; p = p->next)
    if (strcmp(p->session, id) == 0 && p->shell != NULL) job_kill(p->shell, END_MS);
}

/* ---- the route ---- */

/* A dimension of the query: 0 when absent, -1 when it is no number. */
static double dimension(call *c, const char *name) {
  char *text = call_query(c, name);
  if (text == NULL) return 0;
  char *end;
  double v = strtod(text, &end);
  if (*text == '\0' || *end != '\0') v = -1;
  free(text);
  return v;
}

/* Why the session has no terminal, or NULL and v is attached to it. */
static const char *attach(viewer *v, const char *id, const char *shell_name, double cols, double rows) {
  pty *p = ptys;
  while (p != NULL && (p->shell == NULL || strcmp(p->session, id) != 0))
    p = p->next;
  if (p == NULL) {
    char shell[GUEST_PATH_MAX + SHELL_MAX + 2];
    if (!find_shell(shell_name, shell, sizeof shell)) return "Failed to open a terminal: no such shell";
    p = start_pty(id, shell);
    if (p == NULL) return errno == EAGAIN ? "Failed to open a terminal: too many of them" : strerror(errno);
  }
  if (cols > 0) resize(p, cols, rows);
  v->on = p;
  v->seen = p->end < RING_BYTES ? 0 : p->end - RING_BYTES;
  /* Not in the middle of a character. */
  while (v->seen > 0 && v->seen < p->end && (p->ring[v->seen % RING_BYTES] & 0xc0) == 0x80)
    v->seen++;
  v->next = p->viewers;
  p->viewers = v;
  return NULL;
}

static void get_pty(call *c) {
  char *id = call_query(c, "sessionId"), *shell = call_query(c, "shell");
  double cols = dimension(c, "cols"), rows = dimension(c, "rows");
  bool size_ok = (cols == 0 && rows == 0) || (cols >= 1 && cols <= 65535 && rows >= 1 && rows <= 65535);
  if (cols == 0 && rows >= 1) cols = 80, size_ok = rows <= 65535;
  if (rows == 0 && cols >= 1) rows = 24, size_ok = cols <= 65535;
  viewer *v = NULL;
  if (id == NULL || *id == '\0' || strlen(id) > GUEST_ID_MAX) {
    reply_invalid(c->req, "sessionId", id == NULL || *id == '\0' ? "is required" : "is too long");
  } else if (shell != NULL && strlen(shell) > SHELL_MAX) {
    reply_invalid(c->req, "shell", "is too long");
  } else {
    v = calloc(1, sizeof *v);
    if (v == NULL) abort();
    v->w = ws_accept(c, &pty_handler, v);
  }
  if (v != NULL && v->w == NULL) {
    free(v);
  } else if (v != NULL) {
    const char *failure = !size_ok
                              ? "Invalid dimensions: cols and rows must be positive"
                              : attach(v, id, shell == NULL || *shell == '\0' ? "bash" : shell, cols, rows);
    if (failure != NULL) {
      say_error(v->w, failure);
      ws_close(v->w, 1011, failure);
      free(v);
    } else {
      static const char ready[] = "{\"type\":\"ready\"}";
      show(v);
      ws_send(v->w, WS_OP_TEXT, ready, sizeof ready - 1);
      if (v->on->held) ws_hold(v->w, true);
    }
  }
  free(id);
  free(shell);
}

const route pty_routes[] = {{METHOD_GET, "/ws/pty", get_pty}, {0, NULL, NULL}};
