/* guest/routes_exec.c - /api/execute, /api/execute/stream, /api/process/start. */
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A command whose answer is sent when it has ended. */
typedef struct exec_wait {
  exchange *req;
  char *command, *session_id;
  csn_buf out[2];
  struct event *expire;
  job *j;
  int64_t timeout_ms;
  bool timed_out, too_much;
} exec_wait;

/* What a request to run something says. */
typedef struct exec_ask {
  const char *command, *session_id, *cwd;
  const cJSON *env;
  int64_t timeout_ms;
  bool sessionless;
} exec_ask;

const char *request_session(call *c) {
  const char *id = body_text(c, "sessionId");
  if (id == NULL) id = c->req->session;
  return id == NULL || *id == '\0' ? "default" : id;
}

static bool read_ask(call *c, exec_ask *a) {
  if (!ok_text(c, "command", true, GUEST_BODY_MAX) || !ok_text(c, "sessionId", false, GUEST_ID_MAX) ||
      !ok_text(c, "cwd", false, GUEST_PATH_MAX) || !body_ms(c, "timeoutMs", &a->timeout_ms))
    return false;
  a->command = body_text(c, "command");
  a->session_id = request_session(c);
  if (strlen(a->session_id) > GUEST_ID_MAX) {
    reply_invalid(c->req, "sessionId", "is too long");
    return false;
  }
  a->cwd = body_text(c, "cwd");
  a->env = cJSON_GetObjectItemCaseSensitive(c->body, "env");
  a->sessionless = strcmp(a->session_id, GUEST_NO_SESSION) == 0;
  const cJSON *v;
  cJSON_ArrayForEach(v, a->env) {
    if (cJSON_IsNull(v)) continue;
    if (cJSON_IsString(v) && v->string != NULL && env_name_ok(v->string)) continue;
    reply_invalid(c->req, "env", "a name or value is not valid");
    return false;
  }
  return true;
}

static void exec_failed(exchange *req, const char *command, const char *stderr_text, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static void exec_failed(exchange *req, const char *command, const char *stderr_text, const char *fmt, ...) {
  char *text = NULL;
  va_list ap;
  va_start(ap, fmt);
  if (vasprintf(&text, fmt, ap) < 0) abort();
  va_end(ap);
  csn_buf ctx = {0};
  csn_buf_str(&ctx, "{\"command\":");
  csn_json_cstr(&ctx, command);
  csn_buf_str(&ctx, ",\"stderr\":");
  csn_json_cstr(&ctx, stderr_text);
  csn_buf_str(&ctx, "}");
  reply_error(req, "COMMAND_EXECUTION_ERROR", csn_buf_cstr(&ctx), "%s", text);
  csn_buf_free(&ctx);
  free(text);
}

static void send_result(exec_wait *w, int code, const csn_buf *out, const csn_buf *err) {
  csn_buf b = {0};
  csn_buf_fmt(&b, "{\"success\":%s,\"exitCode\":%d,\"stdout\":", code == 0 ? "true" : "false", code);
  csn_json_str(&b, out->p, out->len);
  csn_buf_str(&b, ",\"stderr\":");
  csn_json_str(&b, err->p, err->len);
  csn_buf_str(&b, ",\"command\":");
  csn_json_cstr(&b, w->command);
  csn_buf_str(&b, ",\"duration\":0,\"sessionId\":");
  csn_json_cstr(&b, w->session_id);
  csn_buf_str(&b, ",");
  reply_stamped(w->req, &b);
}

static exec_wait *new_wait(call *c, const exec_ask *a) {
  exec_wait *w = calloc(1, sizeof *w);
  if (w == NULL) abort();
  w->req = c->req;
  w->command = strdup(a->command);
  w->session_id = strdup(a->session_id);
  if (w->command == NULL || w->session_id == NULL) abort();
  w->timeout_ms = a->timeout_ms;
  return w;
}

static void free_wait(exec_wait *w) {
  if (w->expire != NULL) event_free(w->expire);
  csn_buf_free(&w->out[0]);
  csn_buf_free(&w->out[1]);
  free(w->command);
  free(w->session_id);
  free(w);
}

/* ---- without a session ---- */

static void on_data(job *j, int which, const char *data, size_t len) {
  exec_wait *w = j->arg;
  if (w->out[0].len + w->out[1].len + len > GUEST_OUTPUT_MAX) {
    if (!w->too_much) job_kill(j, 0);
    w->too_much = true;
    return;
  }
  csn_buf_add(&w->out[which], data, len);
}

static void on_end(job *j) {
  exec_wait *w = j->arg;
  if (w->too_much) {
    exec_failed(w->req, w->command, "", "Command output is larger than %u bytes; use a stream",
                GUEST_OUTPUT_MAX);
  } else if (w->timed_out) {
    csn_buf_fmt(&w->out[1], "Command timed out after %lldms", (long long)w->timeout_ms);
    send_result(w, 124, &w->out[0], &w->out[1]);
  } else {
    send_result(w, j->code, &w->out[0], &w->out[1]);
  }
  free_wait(w);
}

static void on_expire(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  exec_wait *w = arg;
  if (w->j->exited) return; /* in time; only a background child still holds the output */
  w->timed_out = true;
  job_kill(w->j, GUEST_EXPIRE_GRACE_MS);
}

static bool directory_ok(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* A directory for a request: relative ones start at the session's. */
static const char *resolve_cwd(const exec_ask *a, char *room, size_t cap) {
  char base[GUEST_PATH_MAX + 1];
  session_cwd(a->sessionless ? NULL : a->session_id, base, sizeof base);
  if (a->cwd == NULL || *a->cwd == '\0') {
    snprintf(room, cap, "%s", base);
  } else if (*a->cwd == '/') {
    snprintf(room, cap, "%s", a->cwd);
  } else {
    snprintf(room, cap, "%s/%s", base, a->cwd);
  }
  return room;
}

static void run_sessionless(call *c, const exec_ask *a) {
  char room[2 * GUEST_PATH_MAX + 2];
  const char *cwd = resolve_cwd(a, room, sizeof room);
  if (!directory_ok(cwd)) {
    exec_failed(c->req, a->command, "", "Failed to change directory to '%s'", cwd);
    return;
  }
  const char *bad;
  char **env = env_make(a->env, &bad);
  exec_wait *w = new_wait(c, a);
  const char *const argv[] = {"/bin/bash", "-c", a->command, NULL};
  const job_spec spec = {.argv = argv,
                         .envp = env,
                         .cwd = cwd,
                         .stdin_fd = -1,
                         .extra_fd = -1,
                         .on_data = on_data,
                         .on_end = on_end,
                         .arg = w};
  w->j = env == NULL ? NULL : job_start(&spec);
  int saved = errno;
  env_free(env);
  if (w->j == NULL) {
    exec_failed(c->req, a->command, "", "Failed to start the command: %s", strerror(saved));
    free_wait(w);
    return;
  }
  if (a->timeout_ms > 0) {
    w->expire = evtimer_new(guest_base, on_expire, w);
    if (w->expire == NULL) abort();
    struct timeval tv = {a->timeout_ms / 1000, a->timeout_ms % 1000 * 1000};
    event_add(w->expire, &tv);
  }
}

/* ---- in a session ---- */

/* The real server loses exactly one newline at the end; callers have come to rely on it. */
static void cut_newline(csn_buf *b) {
  if (b->len > 0 && b->p[b->len - 1] == '\n') b->len--;
}

static void on_session_done(void *arg, int code, csn_buf *out, csn_buf *err, const char *failure) {
  exec_wait *w = arg;
  if (failure == NULL || strcmp(failure, "cwd") == 0) {
    cut_newline(out);
    cut_newline(err);
    if (failure != NULL) {
      csn_buf_str(err, "Failed to change directory to '");
      csn_buf_str(err, (const char *)w->out[0].p);
      csn_buf_str(err, "'");
    }
    send_result(w, code, out, err);
  } else if (strcmp(failure, "timeout") == 0) {
    exec_failed(w->req, w->command, csn_buf_cstr(err),
                "Failed to execute command '%s' in session '%s': Command timeout after %lldms", w->command,
                w->session_id, (long long)w->timeout_ms);
  } else if (strcmp(failure, "terminated") == 0 || strcmp(failure, "destroyed") == 0) {
    bool gone = *failure == 'd';
    csn_buf ctx = {0};
    csn_buf_str(&ctx, "{\"sessionId\":");
    csn_json_cstr(&ctx, w->session_id);
    csn_buf_fmt(&ctx, ",\"exitCode\":%d}", code);
    reply_error(w->req, gone ? "SESSION_DESTROYED" : "SESSION_TERMINATED", csn_buf_cstr(&ctx),
                gone ? "Session '%s' was destroyed" : "Session '%s' ended: its shell exited with code %d",
                w->session_id, code);
    csn_buf_free(&ctx);
  } else if (strcmp(failure, "output") == 0) {
    exec_failed(w->req, w->command, "", "Command output is larger than %u bytes; use a stream",
                GUEST_OUTPUT_MAX);
  } else {
    exec_failed(w->req, w->command, "", "Failed to execute command '%s' in session '%s'", w->command,
                w->session_id);
  }
  free_wait(w);
}

static session *need_session(call *c, const exec_ask *a) {
  session *s = session_get(a->session_id);
  if (s == NULL) exec_failed(c->req, a->command, "", "No session '%s': %s", a->session_id, strerror(errno));
  return s;
}

static void post_start(call *c);

static void post_execute(call *c) {
  exec_ask a = {0};
  if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(c->body, "background"))) {
    post_start(c);
    return;
  }
  if (!read_ask(c, &a)) return;
  if (a.sessionless) {
    if (a.timeout_ms == 0) a.timeout_ms = env_ms("COMMAND_TIMEOUT_MS");
    run_sessionless(c, &a);
    return;
  }
  session *s = need_session(c, &a);
  if (s == NULL) return;
  if (a.timeout_ms == 0) a.timeout_ms = session_timeout_ms(s);
  exec_wait *w = new_wait(c, &a);
  if (a.cwd != NULL) {
    csn_buf_str(&w->out[0], a.cwd);
    csn_buf_cstr(&w->out[0]);
  }
  session_run(s, a.command, a.cwd, a.env, a.timeout_ms, on_session_done, w);
}

/* ---- processes ---- */

/* A process that waits for its session's variables. */
typedef struct start_wait {
  exchange *req;
  cJSON *body; /* keeps the strings of `a` */
  exec_ask a;
  char *cwd, *process_id;
  bool stream;
} start_wait;

static bool blank(const char *s) {
  return s[strspn(s, " \t\r\n")] == '\0';
}

static void launch(exchange *req, const exec_ask *a, const char *cwd, const char *id, const char *prelude,
                   bool stream) {
  const char *bad;
  char **env = env_make(a->env, &bad);
  if (!directory_ok(cwd)) {
    env_free(env);
    exec_failed(req, a->command, "", "Failed to change directory to '%s'", cwd);
    return;
  }
  const struct proc_start ps = {.id = id,
                                .command = a->command,
                                .prelude = prelude,
                                .cwd = cwd,
                                .envp = env,
                                .timeout_ms = a->timeout_ms};
  proc *p = env == NULL ? NULL : proc_start(&ps);
  int saved = errno;
  env_free(env);
  if (p == NULL) {
    if (saved == EEXIST)
      reply_error(req, "RESOURCE_BUSY", NULL, "A process with the id '%s' is running", id);
    else
      exec_failed(req, a->command, "", "Failed to start the command: %s", strerror(saved));
    return;
  }
  if (stream) {
    proc_follow(p, req, FOLLOW_EXEC);
    return;
  }
  csn_buf b = {0};
  csn_buf_str(&b, "{\"success\":true,\"processId\":");
  csn_json_cstr(&b, p->id);
  csn_buf_fmt(&b, ",\"pid\":%d,\"command\":", (int)p->pid);
  csn_json_cstr(&b, p->command);
  csn_buf_str(&b, ",");
  reply_stamped(req, &b);
}

static void add_quoted(csn_buf *script, const char *text) {
  csn_buf_str(script, "'");
  for (const char *at = text; *at != '\0'; at++) {
    if (*at == '\'')
      csn_buf_str(script, "'\\''");
    else
      csn_buf_add(script, at, 1);
  }
  csn_buf_str(script, "'");
}

/* The request's own directory and variables come after the session's, which the prelude exports: PWD is one
 * of them. */
static void add_own(csn_buf *script, const char *cwd, const cJSON *env) {
  if (cwd != NULL) {
    csn_buf_str(script, "\nbuiltin cd -- ");
    add_quoted(script, cwd);
  }
  const cJSON *v;
  cJSON_ArrayForEach(v, env) {
    if (!cJSON_IsString(v)) continue;
    csn_buf_fmt(script, "\nexport %s=", v->string);
    add_quoted(script, v->valuestring);
  }
}

static void on_snapshot(void *arg, int code, csn_buf *out, csn_buf *err, const char *failure) {
  (void)code;
  (void)err;
  start_wait *w = arg;
  if (failure != NULL) {
    exec_failed(w->req, w->a.command, "", "Session '%s' has ended", w->a.session_id);
  } else {
    add_own(out, w->a.cwd == NULL ? NULL : w->cwd, w->a.env);
    csn_buf_str(out, "\n");
    launch(w->req, &w->a, w->cwd, w->process_id, csn_buf_cstr(out), w->stream);
  }
  cJSON_Delete(w->body);
  free(w->cwd);
  free(w->process_id);
  free(w);
}

static void start(call *c, bool stream) {
  exec_ask a = {0};
  if (!ok_text(c, "processId", false, GUEST_ID_MAX) || !read_ask(c, &a)) return;
  const char *id = body_text(c, "processId");
  if (blank(a.command)) {
    reply_error(c->req, "INVALID_COMMAND", NULL, "Invalid command: empty");
    return;
  }
  if (id != NULL && (*id == '\0' || strchr(id, '/') != NULL)) {
    reply_invalid(c->req, "processId", "must be a name without a slash");
    return;
  }
  char room[2 * GUEST_PATH_MAX + 2];
  if (a.sessionless) {
    launch(c->req, &a, resolve_cwd(&a, room, sizeof room), id, NULL, stream);
    return;
  }
  session *s = need_session(c, &a);
  if (s == NULL) return;
  start_wait *w = calloc(1, sizeof *w);
  if (w == NULL) abort();
  w->req = c->req;
  w->a = a;
  w->body = c->body;
  c->body = NULL;
  w->cwd = strdup(resolve_cwd(&a, room, sizeof room));
  w->process_id = id == NULL ? NULL : strdup(id);
  w->stream = stream;
  session_snapshot(s, on_snapshot, w);
}

static void post_stream(call *c) {
  start(c, true);
}
static void post_start(call *c) {
  start(c, false);
}

const route exec_routes[] = {
    {METHOD_POST, "/api/execute", post_execute},
    {METHOD_POST, "/api/execute/stream", post_stream},
    {METHOD_POST, "/api/process/start", post_start},
    {0, NULL, NULL},
};
