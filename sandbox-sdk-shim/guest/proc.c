/* guest/proc.c - process records: what was started, its logs, who follows them.
 *
 * Output goes from the pipes into two logs (proc_log.c). Every follower has its own offsets there, so a slow
 * client costs no memory. */
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#define PIECE_BYTES (256u * 1024)
/* A program that writes byte by byte would else cost its reader a message for each, and the Worker can take a
 * few thousand of those a second: less than this much output waits until the last piece is this old. */
#define PACE_BYTES (16u * 1024)
#define PACE_MS    5

struct follower {
  proc *p;
  sse out;
  enum follow_mode mode;
  uint64_t off[2];
  int64_t sent_ms; /* when the last piece of output left */
  struct event *pace;
  bool ending;
  follower *next;
};

static proc *procs; /* newest first */
static char piece_room[PIECE_BYTES];

proc *proc_first(void) {
  return procs;
}

proc *proc_find(const char *id) {
  for (proc *p = procs; p != NULL; p = p->next)
    if (strcmp(p->id, id) == 0) return p;
  return NULL;
}

const char *proc_status(const proc *p) {
  if (!p->ended) return "running";
  if (p->killed || p->code == 137 || p->code == 143) return "killed";
  return p->code == 0 ? "completed" : "failed";
}

/* ---- followers ---- */

static void drop_follower(follower *f) {
  for (follower **at = &f->p->followers; *at != NULL; at = &(*at)->next) {
    if (*at != f) continue;
    *at = f->next;
    break;
  }
  if (f->pace != NULL) event_free(f->pace);
  free(f);
}

static bool lagging(const proc *p) {
  if (p->killed) return false; /* its end must not wait for a reader */
  for (const follower *f = p->followers; f != NULL; f = f->next)
    if (f->mode == FOLLOW_EXEC)
      for (int w = 0; w < 2; w++)
        if (p->log[w].end - f->off[w] > GUEST_LOG_WINDOW) return true;
  return false;
}

static void on_gone(void *arg) {
  follower *f = arg;
  proc *p = f->p;
  drop_follower(f);
  if (p->j != NULL && !lagging(p)) job_resume(p->j);
}

/* Adds one event for what is new in a stream; false when there is nothing. */
static bool add_piece(follower *f, int w, csn_buf *b) {
  proc *p = f->p;
  proc_log *log = &p->log[w];
  if (f->off[w] < log->base) f->off[w] = log->base; /* a reader of logs fell behind what is kept */
  uint64_t have = log->end - f->off[w];
  if (have == 0) return false;
  size_t want = have < sizeof piece_room ? (size_t)have : sizeof piece_room;
  ssize_t n = proc_log_pread(log, piece_room, want, f->off[w]);
  if (n <= 0) {
    f->off[w] = log->end;
    return false;
  }
  bool last = p->ended && (uint64_t)n == have;
  size_t cut = last ? (size_t)n : csn_utf8_cut(piece_room, (size_t)n);
  if (cut == 0) return false; /* the rest of the character is still to come */
  csn_buf_fmt(b, "data: {\"type\":\"%s\",\"data\":\"", w == 0 ? "stdout" : "stderr");
  csn_json_raw(b, piece_room, cut);
  csn_buf_str(b, "\",");
  if (f->mode == FOLLOW_LOGS) {
    csn_buf_str(b, "\"processId\":");
    csn_json_cstr(b, p->id);
    csn_buf_str(b, ",");
  }
  add_timestamp(b);
  csn_buf_str(b, "}\n\n");
  f->off[w] += cut;
  return true;
}

static void add_last(follower *f, csn_buf *b) {
  proc *p = f->p;
  if (f->mode == FOLLOW_EXEC) {
    csn_buf_fmt(b, "data: {\"type\":\"complete\",\"exitCode\":%d,", p->code);
  } else {
    csn_buf_str(b, "data: {\"type\":\"exit\",\"processId\":");
    csn_json_cstr(b, p->id);
    csn_buf_fmt(b, ",\"exitCode\":%d,\"data\":\"Process completed with exit code %d\",", p->code, p->code);
  }
  add_timestamp(b);
  csn_buf_str(b, "}\n\n");
}

static void on_more(void *arg);

static void on_pace(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  on_more(arg);
}

/* Whether the next piece waits for more output; a timer then comes back to it. */
static bool paced(follower *f) {
  const proc *p = f->p;
  uint64_t have = p->log[0].end - f->off[0] + (p->log[1].end - f->off[1]);
  int64_t age = csn_now_ms() - f->sent_ms;
  if (p->ended || have >= PACE_BYTES || age >= PACE_MS) return false;
  if (have > 0) {
    if (f->pace == NULL) f->pace = evtimer_new(guest_base, on_pace, f);
    if (f->pace == NULL) abort();
    struct timeval tv = {0, (PACE_MS - age) * 1000};
    if (!evtimer_pending(f->pace, NULL)) event_add(f->pace, &tv);
  }
  return true;
}

/* Sends the next piece if none is on its way. May free f. */
static void on_more(void *arg) {
  follower *f = arg;
  if (f->out.busy || paced(f)) return;
  proc *p = f->p;
  if (f->ending) {
    sse_end(&f->out);
    drop_follower(f);
    return;
  }
  csn_buf b = {0};
  bool any = add_piece(f, 0, &b);
  any |= add_piece(f, 1, &b);
  if (any) f->sent_ms = csn_now_ms();
  if (!any && p->ended) {
    add_last(f, &b);
    f->ending = true;
  }
  sse_send(&f->out, &b);
  if (p->j != NULL && !lagging(p)) job_resume(p->j);
}

static void wake_followers(proc *p) {
  for (follower *f = p->followers, *next; f != NULL; f = next) {
    next = f->next;
    on_more(f);
  }
}

void proc_follow(proc *p, exchange *req, enum follow_mode mode) {
  follower *f = calloc(1, sizeof *f);
  if (f == NULL) abort();
  f->p = p;
  f->mode = mode;
  f->out.more = on_more;
  f->out.gone = on_gone;
  f->out.arg = f;
  if (!sse_start(&f->out, req)) {
    free(f);
    return;
  }
  f->next = p->followers;
  p->followers = f;
  csn_buf b = {0};
  if (mode == FOLLOW_EXEC) {
    csn_buf_str(&b, "data: {\"type\":\"start\",\"command\":");
    csn_json_cstr(&b, p->command);
    csn_buf_str(&b, ",\"processId\":");
    csn_json_cstr(&b, p->id);
  } else {
    csn_buf_str(&b, "data: {\"type\":\"process_info\",\"processId\":");
    csn_json_cstr(&b, p->id);
    csn_buf_str(&b, ",\"command\":");
    csn_json_cstr(&b, p->command);
    csn_buf_fmt(&b, ",\"status\":\"%s\"", proc_status(p));
  }
  csn_buf_str(&b, ",");
  add_timestamp(&b);
  csn_buf_str(&b, "}\n\n");
  sse_send(&f->out, &b);
}

/* ---- the process ---- */

static void on_data(job *j, int which, const char *data, size_t len) {
  proc *p = j->arg;
  proc_log_add(&p->log[which], data, len);
  wake_followers(p);
  if (lagging(p)) job_pause(j);
}

static void on_end(job *j) {
  proc *p = j->arg;
  p->code = j->code;
  p->ended = true;
  p->end_ms = csn_wall_ms();
  p->j = NULL;
  if (p->expire != NULL) event_free(p->expire);
  p->expire = NULL;
  for (size_t i = 0; i < p->killer_count; i++) {
    csn_buf b = {0};
    csn_buf_str(&b, "{\"success\":true,\"processId\":");
    csn_json_cstr(&b, p->id);
    csn_buf_str(&b, ",");
    reply_stamped(p->killers[i], &b);
  }
  free(p->killers);
  p->killers = NULL;
  p->killer_count = 0;
  port_watch_process_ended(p);
  wake_followers(p);
}

static void on_expire(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  proc *p = arg;
  if (p->j == NULL) return;
  p->killed = true;
  job_resume(p->j);
  job_kill(p->j, GUEST_EXPIRE_GRACE_MS);
}

static void free_proc(proc *p) {
  for (proc **at = &procs; *at != NULL; at = &(*at)->next) {
    if (*at != p) continue;
    *at = p->next;
    break;
  }
  for (int w = 0; w < 2; w++)
    proc_log_close(&p->log[w]);
  free(p->id);
  free(p->command);
  free(p);
}

/* Makes room in the table: the oldest record that has ended and that nobody reads. */
static void forget_oldest(void) {
  size_t count = 0;
  proc *oldest = NULL;
  for (proc *p = procs; p != NULL; p = p->next) {
    count++;
    if (p->ended && p->followers == NULL) oldest = p;
  }
  if (count >= GUEST_PROCS_MAX && oldest != NULL) free_proc(oldest);
}

static void new_id(char out[64]) {
  static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz";
  uint8_t random[6] = {0};
  if (getrandom(random, sizeof random, 0) < 0) random[0] = (uint8_t)csn_now_ms();
  int n = snprintf(out, 64, "proc_%lld_", (long long)csn_wall_ms());
  for (size_t i = 0; i < sizeof random; i++)
    out[(size_t)n + i] = digits[random[i] % 36];
  out[(size_t)n + sizeof random] = '\0';
}

proc *proc_start(const struct proc_start *ps) {
  forget_oldest();
  char made[64];
  if (ps->id == NULL) new_id(made);
  const char *id = ps->id == NULL ? made : ps->id;
  proc *old = proc_find(id);
  if (old != NULL) {
    if (!old->ended || old->followers != NULL) {
      errno = EEXIST;
      return NULL;
    }
    free_proc(old);
  }
  int prelude = -1;
  if (ps->prelude != NULL && *ps->prelude != '\0') {
    prelude = memfd_create("prelude", MFD_CLOEXEC);
    size_t len = strlen(ps->prelude);
    if (prelude >= 0 &&
        (write(prelude, ps->prelude, len) != (ssize_t)len || lseek(prelude, 0, SEEK_SET) != 0)) {
      close(prelude);
      prelude = -1;
    }
  }
  proc *p = calloc(1, sizeof *p);
  if (p == NULL) abort();
  const char *const plain[] = {"/bin/bash", "-c", ps->command, NULL};
  const char *const with_prelude[] = {
      "/bin/bash",
      "-c",
      ". /dev/fd/3 2>/dev/null; exec 3<&-; __csn_c=$1; shift; builtin eval \"$__csn_c\"",
      "bash",
      ps->command,
      NULL};
  const job_spec spec = {.argv = prelude >= 0 ? with_prelude : plain,
                         .envp = ps->envp,
                         .cwd = ps->cwd,
                         .stdin_fd = -1,
                         .extra_fd = prelude,
                         .on_data = on_data,
                         .on_end = on_end,
                         .arg = p};
  proc_log_open(&p->log[0]);
  proc_log_open(&p->log[1]);
  p->j = job_start(&spec);
  int saved = errno;
  if (prelude >= 0) close(prelude);
  if (p->j == NULL) {
    free_proc(p);
    errno = saved;
    return NULL;
  }
  p->id = strdup(id);
  p->command = strdup(ps->command);
  if (p->id == NULL || p->command == NULL) abort();
  p->pid = p->j->pid;
  p->start_ms = csn_wall_ms();
  if (ps->timeout_ms > 0) {
    p->expire = evtimer_new(guest_base, on_expire, p);
    if (p->expire == NULL) abort();
    struct timeval tv = {ps->timeout_ms / 1000, ps->timeout_ms % 1000 * 1000};
    event_add(p->expire, &tv);
  }
  p->next = procs;
  procs = p;
  return p;
}

void proc_kill(proc *p) {
  if (p->j == NULL) return;
  p->killed = true;
  job_resume(p->j);
  job_kill(p->j, GUEST_KILL_GRACE_MS);
}
