/* engine/sandbox.c - the life of a sandbox: start, ready, end, removal. */
#define _GNU_SOURCE
#include "engine.h"

#include "../common/link.h"
#include "cgroup.h"
#include "keeper.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static sandbox *sandboxes;
static uint64_t last_generation;
static unsigned removers; /* children that remove storage */
static bool shutting_down;
static bool slots[ENGINE_SLOTS]; /* that are taken */

/* A child that removes one directory, and who waits for that. */
typedef struct remover {
  pid_t pid;
  request_list waiting;
  char name[ENGINE_NAME_MAX + 1];
  struct remover *next;
} remover;
static remover *remover_list;

sandbox *sandbox_find(const char *name) {
  for (sandbox *sb = sandboxes; sb != NULL; sb = sb->next)
    if (strcmp(sb->name, name) == 0) return sb;
  return NULL;
}

sandbox *sandbox_first(void) {
  return sandboxes;
}

size_t sandbox_count(void) {
  size_t n = 0;
  for (sandbox *sb = sandboxes; sb != NULL; sb = sb->next)
    if (sb->state != SB_ENDED) n++;
  return n;
}

/* ---- requests that wait ---- */

static void on_waiter_gone(struct evhttp_connection *conn, void *arg);

static void list_add(request_list *l, struct evhttp_request *req, sandbox *sb) {
  struct evhttp_request **more = realloc(l->req, (l->count + 1) * sizeof *more);
  if (more == NULL) abort();
  l->req = more;
  l->req[l->count++] = req;
  evhttp_connection_set_closecb(evhttp_request_get_connection(req), on_waiter_gone, sb);
}

static void list_drop_gone(request_list *l) {
  size_t kept = 0;
  for (size_t i = 0; i < l->count; i++) {
    if (evhttp_request_get_connection(l->req[i]) == NULL)
      evhttp_send_reply(l->req[i], 200, NULL, NULL); /* only frees it */
    else
      l->req[kept++] = l->req[i];
  }
  l->count = kept;
}

static void on_waiter_gone(struct evhttp_connection *conn, void *arg) {
  (void)conn;
  sandbox *sb = arg;
  list_drop_gone(&sb->starters);
  list_drop_gone(&sb->waiters);
  list_drop_gone(&sb->deleters);
}

typedef void fill_answer(sandbox *sb, csn_buf *b);

static void list_answer(request_list *l, int status, sandbox *sb, fill_answer *fill) {
  for (size_t i = 0; i < l->count; i++) {
    struct evhttp_connection *conn = evhttp_request_get_connection(l->req[i]);
    if (conn != NULL) evhttp_connection_set_closecb(conn, NULL, NULL);
    csn_buf b = {0};
    fill(sb, &b);
    api_json(l->req[i], status, &b);
  }
  free(l->req);
  *l = (request_list){0};
}

static void fill_running(sandbox *sb, csn_buf *b) {
  csn_buf_fmt(b, "{\"name\":\"%s\",\"generation\":%llu,\"running\":true", sb->name,
              (unsigned long long)sb->generation);
  const unsigned host_port = sb->open_port == 0 ? 0 : ports_open(sb, sb->open_port);
  if (host_port != 0) csn_buf_fmt(b, ",\"port\":%u,\"token\":\"%s\"", host_port, sb->port_token);
  csn_buf_str(b, "}");
}

static void fill_end(sandbox *sb, csn_buf *b) {
  if (sb->exit_signal != 0)
    csn_buf_fmt(b, "{\"exit_code\":null,\"signal\":%d", sb->exit_signal);
  else
    csn_buf_fmt(b, "{\"exit_code\":%d,\"signal\":null", sb->exit_code);
  csn_buf_fmt(b, ",\"reason\":\"%s\"", sb->reason);
  if (strcmp(sb->reason, "start_failed") == 0 || sb->limit_reason != NULL) {
    csn_buf_str(b, ",\"detail\":");
    csn_json_str(b, sb->detail.p, sb->detail.len);
  }
  csn_buf_str(b, "}");
}

static void fill_start_failed(sandbox *sb, csn_buf *b) {
  csn_buf_str(b, "{\"error\":{\"code\":\"START_FAILED\",\"message\":");
  csn_buf text = {0};
  csn_buf_str(&text, "the sandbox did not start: ");
  csn_buf_add(&text, sb->detail.p, sb->detail.len);
  while (text.len > 0 && text.p[text.len - 1] == '\n')
    text.len--;
  csn_json_str(b, text.p, text.len);
  csn_buf_free(&text);
  csn_buf_str(b, "}}");
}

/* A generation comes from the clock: one of an earlier engine is never used again. */
static uint64_t next_generation(void) {
  uint64_t now = (uint64_t)csn_wall_ms();
  return last_generation = now > last_generation ? now : last_generation + 1;
}

/* ---- storage ---- */

const char *sandbox_dir(const char *name) {
  static char room[4200];
  if (name[0] == '.')
    snprintf(room, sizeof room, "%s/spares/%s", cfg.state_dir, name + 1);
  else
    snprintf(room, sizeof room, "%s/sandboxes/%s", cfg.state_dir, name);
  return room;
}

static bool make_storage(sandbox *sb) {
  const char *dir = sandbox_dir(sb->name);
  static const char *const subs[] = {"upper", "work", "usr-upper", "usr-work", NULL};
  if (mkdir(dir, 0700) != 0) {
    csn_buf_fmt(&sb->detail, "mkdir %s: %s", dir, strerror(errno));
    return false;
  }
  sb->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  for (size_t i = 0; sb->dir_fd >= 0 && subs[i] != NULL; i++) {
    if (mkdirat(sb->dir_fd, subs[i], 0755) == 0 && fchmodat(sb->dir_fd, subs[i], 0755, 0) == 0) continue;
    csn_buf_fmt(&sb->detail, "mkdir %s/%s: %s", dir, subs[i], strerror(errno));
    return false;
  }
  return sb->dir_fd >= 0;
}

/* Moves the storage out of the way at once, so that the name can be used again, and lets a
 * child remove it: a large workspace must not stop the engine. */
static void remove_storage(sandbox *sb) {
  if (sb->dir_fd >= 0) close(sb->dir_fd);
  sb->dir_fd = -1;
  char from[4200], to[4300];
  snprintf(from, sizeof from, "%s", sandbox_dir(sb->name));
  snprintf(to, sizeof to, "%s/trash/%s.%llu", cfg.state_dir, sb->name, (unsigned long long)sb->generation);
  if (rename(from, to) != 0) {
    if (errno != ENOENT) log_line(LOG_ERROR, "%s: %s", from, strerror(errno));
    return;
  }
  /* Until the child is alone with its tree: a signal that met it here would end the engine, whose event
   * loop it shares. Its copies of the engine's descriptors go too: they would keep the state directory
   * locked and the API's port taken after the engine's end. */
  sigset_t all, old;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &old);
  pid_t engine = getpid(), pid = fork();
  int saved = errno;
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != engine) _exit(1);
    syscall(SYS_close_range, 3u, ~0u, 0u);
    for (int i = 0; i < 50; i++) {
      if (remove_tree(AT_FDCWD, to) == 0) _exit(0);
      usleep(20000);
    }
    _exit(1);
  }
  sigprocmask(SIG_SETMASK, &old, NULL);
  if (pid < 0) {
    log_line(LOG_ERROR, "%s: storage stays in trash: %s", sb->name, strerror(saved));
    return;
  }
  remover *r = calloc(1, sizeof *r);
  if (r == NULL) abort();
  r->pid = pid;
  memcpy(r->name, sb->name, sizeof r->name);
  r->next = remover_list;
  remover_list = r;
  removers++;
}

/* ---- the end ---- */

static void close_link(sandbox *sb) {
  if (sb->link_ev != NULL) event_free(sb->link_ev);
  sb->link_ev = NULL;
  if (sb->link_fd >= 0) close(sb->link_fd);
  sb->link_fd = -1;
}

static void read_detail(sandbox *sb) {
  char text[1024];
  ssize_t n;
  /* At most what fits its socket's buffer: an entrypoint that writes without end must not hold the engine. */
  for (int turns = 0; turns < 256 && sb->err_fd >= 0; turns++) {
    if ((n = read(sb->err_fd, text, sizeof text)) <= 0) break;
    log_line(sb->state == SB_STARTING ? LOG_INFO : LOG_DEBUG, "%s: %.*s", sb->name, (int)n, text);
    if (sb->detail.len + (size_t)n <= ENGINE_DETAIL_MAX) csn_buf_add(&sb->detail, text, (size_t)n);
  }
}

void sandbox_forget(sandbox *sb) {
  for (sandbox **at = &sandboxes; *at != NULL; at = &(*at)->next) {
    if (*at != sb) continue;
    *at = sb->next;
    break;
  }
  csn_buf_free(&sb->detail);
  egress_free(&sb->egress);
  cJSON_Delete(sb->labels);
  egress_log_free(sb);
  free(sb);
}

static void maybe_stop(void) {
  if (shutting_down && sandbox_count() == 0 && spare_left() == 0 && removers == 0) event_base_loopbreak(base);
}

static void set_detail(sandbox *sb, const char *fmt, va_list ap) {
  char *text = NULL;
  if (vasprintf(&text, fmt, ap) < 0) abort();
  sb->detail.len = 0;
  csn_buf_str(&sb->detail, text);
  free(text);
}

void sandbox_kill(sandbox *sb) {
  if (sb->guest_fd >= 0)
    syscall(SYS_pidfd_send_signal, sb->guest_fd, SIGKILL, NULL, 0);
  else if (sb->pid > 0)
    kill(sb->pid, SIGKILL);
}

void sandbox_over_limit(sandbox *sb, const char *reason, const char *fmt, ...) {
  if (sb->limit_reason != NULL || sb->destroy_asked) return;
  va_list ap;
  va_start(ap, fmt);
  set_detail(sb, fmt, ap);
  va_end(ap);
  sb->limit_reason = reason;
  log_line(LOG_WARN, "%s: %s: %s", sb->name, reason, csn_buf_cstr(&sb->detail));
  sandbox_kill(sb);
}

/* Memory ran out and the kernel's choice was a process without which there is no sandbox. */
static void look_for_oom(sandbox *sb) {
  cgroup_usage u = {0};
  if (sb->cgroup[0] == '\0') return;
  cgroup_read(sb->cgroup, &u);
  if (sb->exit_signal == SIGKILL && !sb->kill_asked && u.oom_kills > 0)
    sandbox_over_limit(sb, "memory_limit",
                       "out of memory: the limit is %u MiB, %u processes were ended for it",
                       sb->limits.memory_mb, u.oom_kills);
}

/* What the engine holds of its processes, which are gone. */
static void release(sandbox *sb) {
  watch_remove_cgroup(sb->cgroup);
  sb->cgroup[0] = '\0';
  close_link(sb);
  if (sb->err_ev != NULL) event_free(sb->err_ev);
  sb->err_ev = NULL;
  if (sb->err_fd >= 0) close(sb->err_fd);
  sb->err_fd = -1;
  if (sb->start_timer != NULL) event_free(sb->start_timer);
  sb->start_timer = NULL;
  if (sb->guest_fd >= 0) close(sb->guest_fd);
  sb->guest_fd = -1;
  sb->pid = sb->guest_pid = 0;
  ports_close(sb);
  egress_close(sb);
}

static void close_begin(sandbox *sb) {
  if (sb->begin_fd >= 0) close(sb->begin_fd);
  sb->begin_fd = -1;
}

static void on_link(evutil_socket_t fd, short what, void *arg);

/* What the guest said last comes before its end, though the loop has heard of the end first: a sandbox that
 * has begun is never started anew, and did not fail to start. */
static void hear_last(sandbox *sb) {
  /* At most what a start is said with: PACKETS, EGRESS, UP, READY. */
  for (int i = 0; i < 4 && !sb->spare && sb->state == SB_STARTING && sb->link_ev != NULL; i++)
    on_link(sb->link_fd, EV_READ, sb);
}

/* A spare that died when it was handed out is no reason for a start to fail. */
static bool start_anew(sandbox *sb) {
  if (!sb->was_spare || sb->destroy_asked || sb->kill_asked || sb->limit_reason != NULL) return false;
  log_line(LOG_INFO, "%s: the spare has ended; started anew", sb->name);
  sb->was_spare = false;
  remove_storage(sb);
  sb->generation = next_generation();
  sb->exit_code = sb->exit_signal = 0;
  sb->detail.len = 0;
  if (!sandbox_launch(sb)) {
    release(sb);
    return false;
  }
  if (!start_begin(sb)) sandbox_kill(sb);
  return true;
}

void sandbox_end(sandbox *sb) {
  hear_last(sb);
  bool was_starting = sb->state == SB_STARTING;
  read_detail(sb);
  look_for_oom(sb);
  release(sb);
  if (was_starting && start_anew(sb)) return;
  close_begin(sb);
  slots[sb->slot] = false;
  template_release(sb);
  sb->reason = sb->destroy_asked          ? "destroyed"
               : sb->limit_reason != NULL ? sb->limit_reason
               : was_starting             ? "start_failed"
               : sb->exit_signal != 0     ? "signalled"
                                          : "exited";
  sb->state = SB_ENDED;
  sb->used_ms = csn_now_ms();
  log_line(LOG_INFO, "%s: ended, %s (code %d, signal %d)", sb->name, sb->reason, sb->exit_code,
           sb->exit_signal);
  remove_storage(sb);
  if (sb->spare) {
    spare_gone(sb);
    sandbox_forget(sb);
    maybe_stop();
    return;
  }
  list_answer(&sb->starters, 500, sb, fill_start_failed);
  list_answer(&sb->waiters, 200, sb, fill_end);
  if (sb->destroy_asked) {
    /* Deleters are answered when the storage is gone too. */
    for (size_t i = 0; i < sb->deleters.count; i++) {
      struct evhttp_connection *conn = evhttp_request_get_connection(sb->deleters.req[i]);
      if (conn != NULL) evhttp_connection_set_closecb(conn, NULL, NULL);
    }
    request_list l = sb->deleters;
    sb->deleters = (request_list){0};
    remover *r = remover_list;
    if (r != NULL && strcmp(r->name, sb->name) == 0) {
      r->waiting = l;
    } else {
      for (size_t i = 0; i < l.count; i++)
        api_error(l.req[i], 500, "INTERNAL", "storage could not be removed");
      free(l.req);
    }
    sandbox_forget(sb);
  }
  maybe_stop();
}

static void on_remover_end(pid_t pid, int status) {
  for (remover **at = &remover_list; *at != NULL; at = &(*at)->next) {
    remover *r = *at;
    if (r->pid != pid) continue;
    *at = r->next;
    removers--;
    if (status != 0) log_line(LOG_ERROR, "%s: storage was not removed completely", r->name);
    for (size_t i = 0; i < r->waiting.count; i++) {
      if (status != 0) {
        api_error(r->waiting.req[i], 500, "STORAGE",
                  "sandbox %s has ended, but its files could not be removed completely from %s/trash",
                  r->name, cfg.state_dir);
        continue;
      }
      csn_buf b = {0};
      csn_buf_fmt(&b, "{\"name\":\"%s\",\"running\":false}", r->name);
      api_json(r->waiting.req[i], 200, &b);
    }
    free(r->waiting.req);
    free(r);
    maybe_stop();
    return;
  }
}

static void on_child(evutil_socket_t sig, short what, void *arg) {
  (void)sig;
  (void)what;
  (void)arg;
  int status;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    if (keeper_reaped(pid)) {
      watch_keeper_lost();
      continue;
    }
    sandbox *sb = sandboxes;
    while (sb != NULL && sb->pid != pid)
      sb = sb->next;
    if (sb == NULL) sb = spare_of(pid);
    if (sb == NULL) {
      on_remover_end(pid, status);
      continue;
    }
    sb->pid = 0;
    if (WIFSIGNALED(status)) {
      sb->exit_signal = WTERMSIG(status);
    } else {
      /* bwrap passes on a signal of its child as 128 + n; our PID 1 never exits with that itself
       * unless an entrypoint did. */
      int code = WEXITSTATUS(status);
      sb->exit_code = code;
      if (code > 128 && code <= 128 + 64) sb->exit_signal = code - 128;
    }
    sandbox_end(sb);
  }
}

/* ---- the start ---- */

static void on_stderr(evutil_socket_t fd, short what, void *arg) {
  (void)what;
  sandbox *sb = arg;
  char c;
  read_detail(sb);
  if (recv(fd, &c, 1, MSG_PEEK) == 0 && sb->err_ev != NULL) event_del(sb->err_ev);
}

static void on_start_timeout(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  sandbox *sb = arg;
  csn_buf_fmt(&sb->detail, "not ready after %d ms", ENGINE_START_MS);
  sandbox_kill(sb);
}

static void became_up(sandbox *sb, pid_t guest) {
  if (sb->state != SB_STARTING || sb->guest_pid != 0) return;
  /* Once its end has been heard of, the number may be another process's. */
  sb->guest_fd = guest > 0 && sb->pid > 0 ? (int)syscall(SYS_pidfd_open, guest, 0) : -1;
  sb->guest_pid = guest;
  if (sb->spare) spare_is_up(sb);
}

static void became_ready(sandbox *sb) {
  if (sb->state != SB_STARTING || sb->spare) return;
  watch_begin(sb);
  sb->state = SB_RUNNING;
  sb->was_spare = false;
  close_begin(sb);
  event_free(sb->start_timer);
  sb->start_timer = NULL;
  log_line(LOG_INFO, "%s: running, generation %llu", sb->name, (unsigned long long)sb->generation);
  list_answer(&sb->starters, 200, sb, fill_running);
}

static void on_link(evutil_socket_t fd, short what, void *arg) {
  (void)what;
  sandbox *sb = arg;
  csn_link_msg msg;
  int got;
  pid_t peer;
  int rc = csn_link_recv(fd, &msg, &got, &peer);
  if (rc < 0 && errno == EAGAIN) return;
  if (rc <= 0) {
    /* The end, or a record that our guest never sends: somebody else speaks. */
    if (rc < 0) {
      log_line(LOG_WARN, "%s: bad record from the sandbox", sb->name);
      sandbox_kill(sb);
    }
    event_del(sb->link_ev);
    return;
  }
  switch (msg.kind) {
  case CSN_LINK_EGRESS:
    /* Once, and before the guest is up: only the launcher can have sent it. */
    if (sb->state == SB_STARTING && got >= 0 && net_listen(sb, got)) got = -1;
    break;
  case CSN_LINK_PACKETS:
    if (sb->state == SB_STARTING && got >= 0 && net_open(sb, got)) got = -1;
    break;
  case CSN_LINK_UP:
    became_up(sb, peer);
    break;
  case CSN_LINK_READY:
    became_ready(sb);
    break;
  case CSN_LINK_CONNECTED:
    ports_connected(sb, msg.id, msg.code, got);
    got = -1;
    break;
  default:
    log_line(LOG_WARN, "%s: unknown record %u", sb->name, msg.kind);
  }
  if (got >= 0) close(got);
}

void sandbox_await(sandbox *sb) {
  const struct timeval tv = {ENGINE_START_MS / 1000, 0};
  event_add(sb->start_timer, &tv);
}

bool sandbox_launch(sandbox *sb) {
  if (!make_storage(sb)) return false;
  egress_write_hosts(sb);
  if (!start_launch(sb)) return false;
  sb->link_ev = event_new(base, sb->link_fd, EV_READ | EV_PERSIST, on_link, sb);
  sb->err_ev = event_new(base, sb->err_fd, EV_READ | EV_PERSIST, on_stderr, sb);
  sb->start_timer = evtimer_new(base, on_start_timeout, sb);
  if (sb->link_ev == NULL || sb->err_ev == NULL || sb->start_timer == NULL) abort();
  event_add(sb->link_ev, NULL);
  event_add(sb->err_ev, NULL);
  sandbox_await(sb);
  return true;
}

const char *sandbox_check(const cJSON *body) {
  const cJSON *env = cJSON_GetObjectItemCaseSensitive(body, "env");
  const cJSON *entry = cJSON_GetObjectItemCaseSensitive(body, "entrypoint");
  const cJSON *v;
  if (env != NULL && !cJSON_IsNull(env) && !cJSON_IsObject(env)) return "env must be an object of strings";
  if (cJSON_GetArraySize(env) > (int)ENGINE_ENV_MAX) return "env has too many entries";
  cJSON_ArrayForEach(v, env) {
    if (!cJSON_IsString(v)) return "env must be an object of strings";
    if (v->string[0] == '\0' || strchr(v->string, '=') != NULL) return "env: a name is not valid";
    if (strlen(v->string) + strlen(v->valuestring) + 2 > ENGINE_STRING_MAX)
      return "env: a name and its value together have at most 131070 bytes";
  }
  if (entry != NULL && !cJSON_IsNull(entry) && !cJSON_IsArray(entry))
    return "entrypoint must be an array of strings";
  cJSON_ArrayForEach(v, entry) if (!cJSON_IsString(v)) return "entrypoint must be an array of strings";
  v = cJSON_GetObjectItemCaseSensitive(body, "template");
  if (v != NULL && !cJSON_IsNull(v) && !cJSON_IsString(v)) return "template must be a name";
  v = cJSON_GetObjectItemCaseSensitive(body, "open_port");
  if (v != NULL && !cJSON_IsNull(v) &&
      (!cJSON_IsNumber(v) || v->valuedouble != v->valueint || v->valueint < 1 || v->valueint > 65535))
    return "open_port must be a port";
  return NULL;
}

sandbox *sandbox_new(const char *name, const limits *l) {
  unsigned slot = 0;
  while (slot < ENGINE_SLOTS && slots[slot])
    slot++;
  if (slot == ENGINE_SLOTS) return NULL;
  sandbox *sb = calloc(1, sizeof *sb);
  if (sb == NULL) abort();
  slots[slot] = true;
  sb->slot = slot;
  sb->template_fd = sb->guest_fd = sb->link_fd = sb->dir_fd = sb->err_fd = sb->begin_fd = -1;
  memcpy(sb->name, name, strlen(name) + 1);
  sb->limits = *l;
  sb->generation = next_generation();
  return sb;
}

void sandbox_put(const char *name, const cJSON *body, struct evhttp_request *req) {
  const char *wrong = sandbox_check(body);
  sandbox *sb = sandbox_find(name);
  egress_set egress = {0};
  limits lim = cfg.limits;
  char room[160];
  const cJSON *labels = cJSON_GetObjectItemCaseSensitive(body, "labels");
  if (wrong == NULL) wrong = labels_check(labels);
  if (wrong == NULL) wrong = limits_parse(cJSON_GetObjectItemCaseSensitive(body, "limits"), &lim, room);
  if (wrong == NULL) wrong = limits_lower(cJSON_GetObjectItemCaseSensitive(body, "at_most"), &lim, room);
  if (wrong == NULL) wrong = egress_parse(cJSON_GetObjectItemCaseSensitive(body, "egress"), &egress);
  if (wrong != NULL) {
    api_error(req, 400, "BAD_REQUEST", "%s", wrong);
    return;
  }
  const cJSON *port = cJSON_GetObjectItemCaseSensitive(body, "open_port");
  const unsigned open_port = cJSON_IsNumber(port) ? (unsigned)port->valueint : 0;
  if (sb != NULL && sb->state != SB_ENDED) {
    if (open_port != 0) sb->open_port = open_port;
    if (!sb->destroy_asked && cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(body, "egress"))) {
      /* A Worker that was restarted has another URL and token. */
      egress_free(&sb->egress);
      sb->egress = egress;
      egress_changed(sb);
    } else {
      egress_free(&egress);
    }
    if (sb->destroy_asked) {
      api_error(req, 409, "ENDING", "sandbox %s is being removed", name);
    } else if (sb->state == SB_RUNNING) {
      csn_buf b = {0};
      fill_running(sb, &b);
      api_json(req, 200, &b);
    } else {
      list_add(&sb->starters, req, sb);
    }
    return;
  }
  const cJSON *template = cJSON_GetObjectItemCaseSensitive(body, "template");
  const bool plain = !cJSON_IsString(template);
  const bool room_left = !shutting_down && sandbox_count() < ENGINE_SANDBOX_MAX;
  sandbox *fresh = room_left && plain ? spare_take(name, &lim) : NULL;
  const bool taken = fresh != NULL;
  if (room_left && !taken) fresh = sandbox_new(name, &lim);
  if (fresh == NULL) {
    egress_free(&egress);
    api_error(req, 503, "TOO_MANY", "no room for another sandbox");
    return;
  }
  char text[400];
  wrong = plain ? NULL : template_hold(fresh, template->valuestring, text);
  if (wrong != NULL) {
    egress_free(&egress);
    slots[fresh->slot] = false;
    free(fresh);
    api_error(req, 400, "NO_TEMPLATE", "%s", wrong);
    return;
  }
  if (sb != NULL) sandbox_forget(sb);
  sb = fresh;
  if (taken) sb->generation = next_generation();
  sb->open_port = open_port;
  sb->egress = egress;
  sb->labels = cJSON_IsObject(labels) ? cJSON_Duplicate(labels, 1) : NULL;
  sb->started_ms = csn_wall_ms();
  sb->internet = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(body, "enable_internet"));
  sb->used_ms = csn_now_ms();
  sb->next = sandboxes;
  sandboxes = sb;
  random_token(sb->port_token);
  random_token(sb->out_token);
  list_add(&sb->starters, req, sb);
  if (taken) egress_write_hosts(sb);
  if (!start_describe(sb, cJSON_GetObjectItemCaseSensitive(body, "env"),
                      cJSON_GetObjectItemCaseSensitive(body, "entrypoint")) ||
      (!taken && !sandbox_launch(sb))) {
    /* Not for a death of the spare's own: another one could not be told what it is, either. */
    sb->was_spare = false;
    if (taken)
      sandbox_kill(sb);
    else
      sandbox_end(sb);
    return;
  }
  if (!start_begin(sb)) sandbox_kill(sb);
}

void sandbox_wait(sandbox *sb, struct evhttp_request *req) {
  if (sb->state == SB_ENDED) {
    csn_buf b = {0};
    fill_end(sb, &b);
    api_json(req, 200, &b);
    return;
  }
  list_add(&sb->waiters, req, sb);
}

void sandbox_delete(sandbox *sb, struct evhttp_request *req) {
  sb->destroy_asked = true;
  if (sb->state == SB_ENDED) {
    csn_buf b = {0};
    csn_buf_fmt(&b, "{\"name\":\"%s\",\"running\":false}", sb->name);
    sandbox_forget(sb);
    api_json(req, 200, &b);
    return;
  }
  list_add(&sb->deleters, req, sb);
  sandbox_kill(sb);
}

int sandbox_signal(sandbox *sb, int sig) {
  if (sb->state != SB_RUNNING) return ESRCH;
  if (sig == SIGKILL) {
    sb->kill_asked = true;
    sandbox_kill(sb);
    return 0;
  }
  return csn_link_send(sb->link_fd, CSN_LINK_SIGNAL, 0, 0, sig, -1) == 0 ? 0 : errno;
}

bool sandbox_connect(sandbox *sb, uint32_t id, unsigned port) {
  return sb->link_fd >= 0 && csn_link_send(sb->link_fd, CSN_LINK_CONNECT, id, port, 0, -1) == 0;
}

void sandboxes_shutdown(void) {
  shutting_down = true;
  spare_shutdown();
  for (sandbox *sb = sandboxes; sb != NULL; sb = sb->next) {
    if (sb->state == SB_ENDED) continue;
    sb->destroy_asked = true;
    sandbox_kill(sb);
  }
  maybe_stop();
}

void sandboxes_init(void) {
  struct event *ev = evsignal_new(base, SIGCHLD, on_child, NULL);
  if (ev == NULL || event_add(ev, NULL) != 0) abort();
}
