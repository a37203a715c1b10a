/* guest/interp.c - see interp.h. */
#define _GNU_SOURCE
#include "interp.h"

#include "../common/tree.h"
#include "interp_event.h"
#include "tool.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Why a run is being ended before it ends by itself. */
enum stop { STOP_NONE, STOP_TIMEOUT, STOP_OUTPUT, STOP_GONE, STOP_DELETED, STOP_GARBAGE };

typedef struct run {
  sse out;
  struct interp_process *p; /* NULL once the run has ended and only its last events wait for the client */
  uint64_t number;
  char *code;
  int64_t timeout_ms;
  csn_buf pending; /* events that the client has not room for yet */
  csn_buf held[2]; /* the start of a character whose rest has not come */
  uint64_t bytes;  /* of output and results so far */
  enum stop stop;
  bool gone;        /* no client any more */
  bool reminded;    /* of the interrupt, by a second one */
  struct run *next; /* in the queue */
} run;

enum state { STATE_COLD, STATE_STARTING, STATE_IDLE, STATE_BUSY };

typedef struct interp_process {
  context *c; /* NULL once deleted */
  enum state state;
  job *j;
  pid_t group; /* of the interpreter and its children, 0 before it is ready */
  struct bufferevent *channel;
  size_t scanned; /* bytes of the channel's input that have no line feed */
  struct event *timer, *beat;
  run *current, *queue;
  uint64_t run_count;  /* numbers of runs, over all processes of the context */
  uint64_t cell_count; /* runs in this process */
  csn_buf stray[2];    /* output between runs; before the first one, what a failing start says */
  exchange *creator;   /* waits for the start */
  exchange *deleter;   /* waits for the end */
  bool held;           /* not read from: the client of the current run is slow */
  bool deaf;           /* it has closed its channel */
  bool dying;          /* it has ended: nothing more is given to it */
  char deleted_id[37];
} interp_process;

static context *contexts;

static void pump(interp_process *p);
static void drain_channel(interp_process *p);

context *interp_first(void) {
  return contexts;
}

context *interp_find(const char *id) {
  for (context *c = contexts; c != NULL; c = c->next)
    if (strcmp(c->id, id) == 0) return c;
  return NULL;
}

static const struct {
  const char *name;
  enum interp_language language;
} names[] = {{"python", LANGUAGE_PYTHON},         {"javascript", LANGUAGE_JAVASCRIPT},
             {"typescript", LANGUAGE_TYPESCRIPT}, {"python3", LANGUAGE_PYTHON},
             {"js", LANGUAGE_JAVASCRIPT},         {"node", LANGUAGE_JAVASCRIPT},
             {"ts", LANGUAGE_TYPESCRIPT}};

enum interp_language interp_language_of(const char *name) {
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (strcasecmp(name, names[i].name) == 0) return names[i].language;
  return LANGUAGE_NONE;
}

const char *interp_language_name(enum interp_language language) {
  return names[language].name;
}

/* ---- one run's answer ---- */

static void free_run(run *r) {
  csn_buf_free(&r->pending);
  csn_buf_free(&r->held[0]);
  csn_buf_free(&r->held[1]);
  free(r->code);
  free(r);
}

static void hold(interp_process *p, bool yes) {
  if (p->held == yes) return;
  p->held = yes;
  if (p->j != NULL) (yes ? job_pause : job_resume)(p->j);
  if (p->channel != NULL) (yes ? bufferevent_disable : bufferevent_enable)(p->channel, EV_READ);
  /* Lines that came before the pause stand in the buffer; no event will tell of them. */
  if (!yes && p->channel != NULL)
    bufferevent_trigger(p->channel, EV_READ, BEV_TRIG_IGNORE_WATERMARKS | BEV_TRIG_DEFER_CALLBACKS);
}

/* Sends what waits; ends the answer, and the run, when it has ended and nothing waits. */
static void flush(run *r) {
  if (r->gone) {
    if (r->p == NULL) free_run(r);
    return;
  }
  if (r->out.busy) return;
  if (r->pending.len > 0) {
    csn_buf piece = r->pending;
    r->pending = (csn_buf){0};
    sse_send(&r->out, &piece);
  } else if (r->p == NULL) {
    sse_end(&r->out);
    free_run(r);
  }
}

static void on_more(void *arg) {
  run *r = arg;
  interp_process *p = r->p;
  flush(r);
  if (p != NULL && p->current == r && r->pending.len < INTERP_PENDING_HIGH) hold(p, false);
}

static void flush_held(run *r, int which) {
  if (r->held[which].len == 0) return;
  interp_add_text(&r->pending, which, r->held[which].p, r->held[which].len, csn_wall_ms());
  r->held[which].len = 0;
}

/* The run is over: its last event is in `pending`. It leaves the context and lives on until the client has it
 * all. */
static void end_run(interp_process *p) {
  run *r = p->current;
  p->current = NULL;
  r->p = NULL;
  event_del(p->timer);
  event_del(p->beat);
  hold(p, false);
  flush(r);
}

static void fail_run(interp_process *p, const interp_line *line, const char *ename, const char *evalue) {
  run *r = p->current;
  flush_held(r, 0);
  flush_held(r, 1);
  interp_add_error(&r->pending, line, ename, evalue);
  end_run(p);
}

/* A client that has gone is often noticed only when something is sent to it: a Worker learns of its own
 * client's end that way. A comment is no event. */
static void on_beat(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  interp_process *p = arg;
  run *r = p->current;
  if (r == NULL || r->gone || r->out.busy || r->pending.len > 0) return;
  csn_buf comment = {0};
  csn_buf_str(&comment, ":\n\n");
  sse_send(&r->out, &comment);
}

static void arm(interp_process *p, int64_t ms) {
  struct timeval tv = {ms / 1000, ms % 1000 * 1000};
  event_add(p->timer, &tv);
}

/* Ends the current run: by an interrupt, which leaves the context its variables, or at once with the process.
 */
static void stop_run(interp_process *p, enum stop why) {
  run *r = p->current;
  if (r == NULL || r->stop != STOP_NONE) return;
  r->stop = why;
  if (p->j == NULL) return;
  hold(p, false);
  if (why == STOP_GARBAGE || p->group <= 0) {
    job_kill(p->j, 0);
    return;
  }
  /* The whole group, as a terminal does it: os.system() ignores the signal while its child has not got it. */
  kill(-p->group, SIGINT);
  arm(p, INTERP_GRACE_MS / 2);
}

/* Python gives an interrupt to whatever runs just then: in a finalizer or a callback, as there are in an
 * import, it is printed and forgotten. The driver drops the second one where the cell cleans up after the
 * first; the programs that a clean-up may run do not get it at all. false: it has been reminded, or there is
 * nothing to remind. */
static bool remind(interp_process *p) {
  run *r = p->current;
  if (p->deaf || r == NULL || r->stop == STOP_NONE || r->stop == STOP_GARBAGE || r->reminded) return false;
  r->reminded = true;
  if (p->c != NULL && p->c->language == LANGUAGE_PYTHON && p->group > 0) kill(p->group, SIGINT);
  arm(p, INTERP_GRACE_MS / 2);
  return true;
}

static void on_gone(void *arg) {
  run *r = arg;
  r->gone = true;
  csn_buf_free(&r->pending);
  interp_process *p = r->p;
  if (p == NULL) {
    free_run(r);
    return;
  }
  if (p->current == r) {
    stop_run(p, STOP_GONE);
    return;
  }
  for (run **at = &p->queue; *at != NULL; at = &(*at)->next) {
    if (*at != r) continue;
    *at = r->next;
    break;
  }
  free_run(r);
}

static void count_bytes(interp_process *p, run *r, size_t n) {
  r->bytes += n;
  if (r->bytes > INTERP_OUTPUT_MAX) stop_run(p, STOP_OUTPUT);
}

static void add_output(interp_process *p, int which, const char *data, size_t len) {
  run *r = p->current;
  count_bytes(p, r, len);
  /* What is being stopped is not held back any more, so that it can end; a slow client then misses some. */
  bool stopping = r->stop != STOP_NONE;
  if (r->gone || (stopping && r->pending.len > INTERP_PENDING_HIGH)) return;
  csn_buf *held = &r->held[which];
  if (held->len > 0) {
    /* At most three bytes of one character: complete it, and the rest needs no copy. */
    csn_buf_add(held, data, len);
    data = held->p;
    len = held->len;
  }
  size_t cut = csn_utf8_cut(data, len);
  if (cut > 0) interp_add_text(&r->pending, which, data, cut, csn_wall_ms());
  csn_buf rest = {0};
  csn_buf_add(&rest, data + cut, len - cut);
  csn_buf_free(held);
  *held = rest;
  if (r->pending.len > INTERP_PENDING_HIGH && !stopping) hold(p, true);
  flush(r);
}

static void on_data(job *j, int which, const char *data, size_t len) {
  interp_process *p = j->arg;
  if (p->current != NULL && p->state == STATE_BUSY) {
    add_output(p, which, data, len);
    return;
  }
  csn_buf *stray = &p->stray[which];
  size_t room = INTERP_STRAY_MAX - stray->len;
  csn_buf_add(stray, data, len < room ? len : room);
}

/* ---- the process ---- */

static void close_channel(interp_process *p) {
  if (p->channel != NULL) bufferevent_free(p->channel);
  p->channel = NULL;
  p->scanned = 0;
}

static void free_process(interp_process *p) {
  close_channel(p);
  event_free(p->timer);
  event_free(p->beat);
  csn_buf_free(&p->stray[0]);
  csn_buf_free(&p->stray[1]);
  free(p);
}

static void free_context(context *c) {
  for (context **at = &contexts; *at != NULL; at = &(*at)->next) {
    if (*at != c) continue;
    *at = c->next;
    break;
  }
  env_free(c->env);
  free(c->cwd);
  free(c);
}

static void say_end(csn_buf *text, int code) {
  if (code > 128 && code < 160)
    csn_buf_fmt(text, "The interpreter was ended by signal %d (%s)", code - 128,
                sigabbrev_np(code - 128) == NULL ? "?" : sigabbrev_np(code - 128));
  else
    csn_buf_fmt(text, "The interpreter exited with code %d", code);
}

/* The process has ended during a run: tells the client why. */
static void explain(interp_process *p, int code) {
  static const char lost[] = "; the context's variables are lost, and its next run starts a new interpreter";
  run *r = p->current;
  csn_buf text = {0};
  const char *ename = "InterpreterExited";
  switch (r->stop) {
  case STOP_TIMEOUT:
    ename = "TimeoutError";
    csn_buf_fmt(&text, "Execution timed out after %lld ms and did not end on an interrupt%s",
                (long long)r->timeout_ms, lost);
    break;
  case STOP_OUTPUT:
    ename = "OutputLimitExceeded";
    csn_buf_fmt(&text, "The run printed more than %u MiB and did not end on an interrupt%s",
                INTERP_OUTPUT_MAX >> 20, lost);
    break;
  case STOP_DELETED:
    ename = "ContextDeleted";
    csn_buf_str(&text, "The context was deleted during the run");
    break;
  case STOP_GARBAGE:
    csn_buf_fmt(&text, "The interpreter's own channel was closed or written to by the code%s", lost);
    break;
  case STOP_NONE:
  case STOP_GONE:
    say_end(&text, code);
    csn_buf_str(&text, lost);
    break;
  }
  fail_run(p, NULL, ename, csn_buf_cstr(&text));
  csn_buf_free(&text);
}

static void start_failed(interp_process *p, const char *what) {
  exchange *x = p->creator;
  p->creator = NULL;
  csn_buf ctx = {0};
  csn_buf_str(&ctx, "{\"language\":");
  csn_json_cstr(&ctx, interp_language_name(p->c->language));
  csn_buf_str(&ctx, ",\"stderr\":");
  csn_json_str(&ctx, p->stray[1].p, p->stray[1].len);
  csn_buf_str(&ctx, "}");
  if (x != NULL)
    reply_error(x, "INTERNAL_ERROR", csn_buf_cstr(&ctx), "Failed to create code context: %s", what);
  csn_buf_free(&ctx);
}

static void fail_queue(interp_process *p, const char *ename, const char *evalue) {
  while (p->queue != NULL) {
    p->current = p->queue;
    p->queue = p->current->next;
    fail_run(p, NULL, ename, evalue);
  }
}

static void on_end(job *j) {
  interp_process *p = j->arg;
  int code = j->code;
  bool starting = p->state == STATE_STARTING;
  p->dying = true;
  drain_channel(p);
  p->dying = false;
  p->deaf = false;
  p->j = NULL;
  p->group = 0;
  p->held = false;
  p->state = STATE_COLD;
  close_channel(p);
  event_del(p->timer);
  if (p->current != NULL) explain(p, code);
  if (p->c == NULL) {
    fail_queue(p, "ContextDeleted", "The context was deleted");
    if (p->deleter != NULL) {
      csn_buf b = {0};
      csn_buf_str(&b, "{\"success\":true,\"contextId\":");
      csn_json_cstr(&b, p->deleted_id);
      csn_buf_str(&b, ",");
      reply_stamped(p->deleter, &b);
    }
    free_process(p);
    return;
  }
  if (starting) {
    csn_buf text = {0};
    say_end(&text, code);
    csn_buf_str(&text, " before it was ready");
    if (p->creator != NULL) {
      start_failed(p, csn_buf_cstr(&text));
      free_context(p->c);
      free_process(p);
    } else {
      fail_queue(p, "InterpreterExited", csn_buf_cstr(&text));
    }
    csn_buf_free(&text);
    return;
  }
  pump(p);
}

static void on_timer(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  interp_process *p = arg;
  if (p->j == NULL || p->j->exited) return;
  if (p->deaf && p->current != NULL && p->current->stop == STOP_NONE) p->current->stop = STOP_GARBAGE;
  if (p->state == STATE_BUSY && p->current != NULL && p->current->stop == STOP_NONE) {
    stop_run(p, STOP_TIMEOUT);
    return;
  }
  if (remind(p)) return;
  /* The interrupt did nothing, or the start never ends. */
  hold(p, false);
  job_kill(p->j, 0);
}

static void send_code(interp_process *p) {
  run *r = p->queue;
  p->queue = r->next;
  p->current = r;
  p->state = STATE_BUSY;
  r->number = ++p->run_count;
  p->cell_count++;
  for (int w = 0; w < 2; w++) {
    csn_buf stray = p->stray[w];
    p->stray[w] = (csn_buf){0};
    if (stray.len > 0) add_output(p, w, stray.p, stray.len);
    csn_buf_free(&stray);
  }
  csn_buf b = {0};
  csn_buf_fmt(&b, "{\"run\":%llu,\"typescript\":%s,\"code\":", (unsigned long long)r->number,
              p->c->language == LANGUAGE_TYPESCRIPT ? "true" : "false");
  csn_json_cstr(&b, r->code);
  csn_buf_str(&b, "}\n");
  free(r->code);
  r->code = NULL;
  bufferevent_write(p->channel, b.p, b.len);
  csn_buf_free(&b);
  if (r->timeout_ms > 0) arm(p, r->timeout_ms);
  struct timeval tv = {INTERP_BEAT_MS / 1000, INTERP_BEAT_MS % 1000 * 1000};
  event_add(p->beat, &tv);
}

static void answer_created(interp_process *p) {
  exchange *x = p->creator;
  p->creator = NULL;
  csn_buf b = {0};
  csn_buf_str(&b, "{\"success\":true,\"contextId\":");
  csn_json_cstr(&b, p->c->id);
  csn_buf_fmt(&b, ",\"language\":\"%s\",\"cwd\":", interp_language_name(p->c->language));
  csn_json_cstr(&b, p->c->cwd);
  csn_buf_str(&b, ",");
  reply_stamped(x, &b);
}

/* The interpreter is there. False when it is of no use, and on its way out. */
static bool greet(interp_process *p, const interp_line *line) {
  cJSON *body = cJSON_ParseWithLength(line->body, line->body_len);
  const char *version = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(body, "version"));
  bool typescript = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(body, "typescript"));
  bool good = p->c->language != LANGUAGE_TYPESCRIPT || typescript;
  pid_t child;
  /* No code of the caller has run yet: the supervisor's one child is the interpreter. */
  if (csn_tree_children(p->j->pid, &child, 1) == 1) p->group = child;
  event_del(p->timer);
  if (!good && p->creator != NULL) {
    exchange *x = p->creator;
    p->creator = NULL;
    reply_error(x, "JAVASCRIPT_NOT_AVAILABLE", NULL,
                "TypeScript needs Node 22.13 or newer in the sandbox; it has %s",
                version == NULL ? "another" : version);
  } else if (p->creator != NULL && p->creator->via == NULL) {
    good = false; /* nobody will ever use or delete it */
    exchange_free(p->creator);
    p->creator = NULL;
  } else if (p->creator != NULL) {
    answer_created(p);
  }
  cJSON_Delete(body);
  if (good) {
    p->state = STATE_IDLE;
    p->stray[0].len = p->stray[1].len = 0;
    pump(p);
    return true;
  }
  free_context(p->c);
  p->c = NULL;
  job_kill(p->j, 0);
  return false;
}

/* One line of the interpreter's. False when no more may be read. */
static bool handle(interp_process *p, const char *text, size_t len) {
  run *r = p->current;
  const interp_line line = interp_read(text, len, r == NULL ? 0 : r->number);
  if (line.kind == INTERP_STALE) return true;
  if (line.kind == INTERP_HELLO && p->state == STATE_STARTING) return greet(p, &line);
  if (line.kind == INTERP_BAD || line.kind == INTERP_HELLO || p->state != STATE_BUSY || r == NULL) {
    stop_run(p, STOP_GARBAGE);
    job_kill(p->j, 0);
    return false;
  }
  if (line.kind == INTERP_RESULT) {
    count_bytes(p, r, len);
    bool stopping = r->stop != STOP_NONE;
    static const char ack[] = "{\"ack\":true}\n";
    if (!p->dying) bufferevent_write(p->channel, ack, sizeof ack - 1);
    if (r->gone || (stopping && r->pending.len > INTERP_PENDING_HIGH)) return true;
    flush_held(r, 0);
    flush_held(r, 1);
    interp_add_result(&r->pending, &line);
    if (r->pending.len > INTERP_PENDING_HIGH && !stopping) hold(p, true);
    flush(r);
    return true;
  }
  p->state = STATE_IDLE;
  csn_buf why = {0};
  if (r->stop == STOP_TIMEOUT) {
    csn_buf_fmt(&why, "Execution timed out after %lld ms", (long long)r->timeout_ms);
    fail_run(p, &line, "TimeoutError", csn_buf_cstr(&why));
  } else if (r->stop == STOP_OUTPUT) {
    csn_buf_fmt(&why, "The run printed more than %u MiB", INTERP_OUTPUT_MAX >> 20);
    fail_run(p, &line, "OutputLimitExceeded", csn_buf_cstr(&why));
  } else if (line.kind == INTERP_ERROR) {
    fail_run(p, &line, NULL, NULL);
  } else {
    flush_held(r, 0);
    flush_held(r, 1);
    interp_add_done(&r->pending, p->cell_count);
    end_run(p);
  }
  csn_buf_free(&why);
  pump(p);
  return true;
}

static void read_channel(interp_process *p) {
  struct evbuffer *in = bufferevent_get_input(p->channel);
  for (;;) {
    struct evbuffer_ptr from;
    if (p->held || evbuffer_ptr_set(in, &from, p->scanned, EVBUFFER_PTR_SET) != 0) return;
    struct evbuffer_ptr end = evbuffer_search(in, "\n", 1, &from);
    if (end.pos < 0) {
      p->scanned = evbuffer_get_length(in);
      if (p->scanned <= INTERP_LINE_MAX) return;
      stop_run(p, STOP_GARBAGE);
      job_kill(p->j, 0);
      bufferevent_disable(p->channel, EV_READ);
      return;
    }
    /* What the cell printed before this line is in the pipes: it goes first. */
    p->scanned = (size_t)end.pos;
    job_poll(p->j);
    if (p->held) return;
    size_t len = (size_t)end.pos;
    char *line = malloc(len + 1);
    if (line == NULL) abort();
    evbuffer_remove(in, line, len);
    evbuffer_drain(in, 1);
    p->scanned = 0;
    bool more = handle(p, line, len);
    free(line);
    if (!more) {
      bufferevent_disable(p->channel, EV_READ);
      return;
    }
  }
}

/* The interpreter has ended. What it said last may still be in the socket. */
static void drain_channel(interp_process *p) {
  if (p->channel == NULL) return;
  struct evbuffer *in = bufferevent_get_input(p->channel);
  evbuffer_unfreeze(in, 0);
  while (evbuffer_get_length(in) <= INTERP_LINE_MAX &&
         evbuffer_read(in, bufferevent_getfd(p->channel), 256 * 1024) > 0) {
  }
  evbuffer_freeze(in, 0);
  read_channel(p);
}

static void on_channel(struct bufferevent *bev, void *arg) {
  (void)bev;
  read_channel(arg);
}

/* The interpreter has closed its side. It ends, or lives on without being of use. */
static void on_channel_event(struct bufferevent *bev, short what, void *arg) {
  interp_process *p = arg;
  if ((what & (BEV_EVENT_EOF | BEV_EVENT_ERROR)) == 0) return;
  bufferevent_disable(bev, EV_READ | EV_WRITE);
  if (p->j == NULL || p->j->exited) return;
  /* An exit closes it too, and then the exit code is the better story: it comes within a moment, or never. */
  p->deaf = true;
  arm(p, 100);
}

/* The interpreter's program, or NULL. Static text. */
static const char *find_program(const context *c) {
  const char *path = GUEST_PATH_ENV;
  for (char **e = c->env; *e != NULL; e++)
    if (strncmp(*e, "PATH=", 5) == 0) path = *e + 5;
  return tool_find_in(path, c->language == LANGUAGE_PYTHON ? "python3" : "node");
}

/* False with errno; ENOENT for a missing program. */
static bool start_process(interp_process *p) {
  context *c = p->c;
  const char *program = find_program(c);
  if (program == NULL) {
    errno = ENOENT;
    return false;
  }
  size_t len;
  const char *script = interp_script(c->language, &len);
  int pair[2];
  int text = tool_text_fd(script, len);
  if (text < 0) return false;
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
    close(text);
    return false;
  }
  const char *const python[] = {program, "-", "caisson-interpreter", NULL};
  const char *const node[] = {program, "--input-type=module", "-", "caisson-interpreter", NULL};
  /* A context that has deleted its directory goes on elsewhere. */
  struct stat st;
  const char *cwd = stat(c->cwd, &st) == 0 && S_ISDIR(st.st_mode) ? c->cwd : "/";
  const job_spec spec = {.argv = c->language == LANGUAGE_PYTHON ? python : node,
                         .envp = c->env,
                         .cwd = cwd,
                         .stdin_fd = text,
                         .extra_fd = pair[1],
                         .on_data = on_data,
                         .on_end = on_end,
                         .arg = p};
  p->j = job_start(&spec);
  int saved = errno;
  close(text);
  close(pair[1]);
  if (p->j == NULL) {
    close(pair[0]);
    errno = saved;
    return false;
  }
  evutil_make_socket_nonblocking(pair[0]);
  p->channel = bufferevent_socket_new(guest_base, pair[0], BEV_OPT_CLOSE_ON_FREE);
  if (p->channel == NULL) abort();
  bufferevent_set_max_single_read(p->channel, 256 * 1024);
  bufferevent_setwatermark(p->channel, EV_READ, 0, INTERP_LINE_MAX + 1);
  bufferevent_setcb(p->channel, on_channel, NULL, on_channel_event, p);
  bufferevent_enable(p->channel, EV_READ | EV_WRITE);
  p->state = STATE_STARTING;
  p->cell_count = 0;
  p->stray[0].len = p->stray[1].len = 0;
  arm(p, INTERP_START_MS);
  return true;
}

/* Does what is next: starts the process, or hands it the next code. */
static void pump(interp_process *p) {
  if (p->queue == NULL || p->current != NULL || p->dying) return;
  if (p->state == STATE_IDLE)
    send_code(p);
  else if (p->state == STATE_COLD && !start_process(p))
    fail_queue(p, "InterpreterExited",
               errno == ENOENT ? "The interpreter's program is gone" : strerror(errno));
}

/* ---- contexts ---- */

static void new_uuid(char out[37]) {
  uint8_t b[16] = {0};
  if (getrandom(b, sizeof b, 0) != (ssize_t)sizeof b) abort();
  b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
  b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
  snprintf(out, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2],
           b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

void interp_create(exchange *x, enum interp_language language, const char *cwd, char **env) {
  context *c = calloc(1, sizeof *c);
  interp_process *p = calloc(1, sizeof *p);
  if (c == NULL || p == NULL) abort();
  new_uuid(c->id);
  c->language = language;
  c->cwd = strdup(cwd);
  c->env = env;
  c->process = p;
  p->c = c;
  p->creator = x;
  p->timer = evtimer_new(guest_base, on_timer, p);
  p->beat = event_new(guest_base, -1, EV_PERSIST, on_beat, p);
  if (c->cwd == NULL || p->timer == NULL || p->beat == NULL) abort();
  c->next = contexts;
  contexts = c;
  if (start_process(p)) return;
  int saved = errno;
  const char *program = language == LANGUAGE_PYTHON ? "python3" : "node";
  if (saved == ENOENT) {
    p->creator = NULL;
    reply_error(x, language == LANGUAGE_PYTHON ? "PYTHON_NOT_AVAILABLE" : "JAVASCRIPT_NOT_AVAILABLE", NULL,
                "%s is not in this sandbox's root: install it on the host or in the template", program);
  } else {
    start_failed(p, strerror(saved));
  }
  free_context(c);
  free_process(p);
}

void interp_delete(context *c, exchange *x) {
  interp_process *p = c->process;
  if (p->j == NULL) {
    csn_buf b = {0};
    csn_buf_str(&b, "{\"success\":true,\"contextId\":");
    csn_json_cstr(&b, c->id);
    csn_buf_str(&b, ",");
    free_context(c);
    free_process(p);
    reply_stamped(x, &b);
    return;
  }
  if (p->creator != NULL) start_failed(p, "deleted");
  p->deleter = x;
  p->c = NULL;
  if (p->current != NULL && p->current->stop == STOP_NONE) p->current->stop = STOP_DELETED;
  memcpy(p->deleted_id, c->id, sizeof p->deleted_id);
  free_context(c);
  hold(p, false);
  job_kill(p->j, 0);
}

void interp_execute(context *c, exchange *x, const char *code, int64_t timeout_ms) {
  run *r = calloc(1, sizeof *r);
  if (r == NULL) abort();
  r->p = c->process;
  r->timeout_ms = timeout_ms;
  r->code = strdup(code);
  if (r->code == NULL) abort();
  r->out = (sse){.more = on_more, .gone = on_gone, .arg = r};
  if (!sse_start(&r->out, x)) {
    free_run(r);
    return;
  }
  run **at = &c->process->queue;
  while (*at != NULL)
    at = &(*at)->next;
  *at = r;
  pump(c->process);
}
