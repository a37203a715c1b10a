/* guest/tool.c - see tool.h. */
#define _GNU_SOURCE
#include "tool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct tool {
  job *j;
  struct event *expire;
  csn_buf out, err;
  size_t out_max;
  bool timed_out, cut;
  tool_done *done;
  void *arg;
} tool;

static void on_data(job *j, int which, const char *data, size_t len) {
  tool *t = j->arg;
  if (which == 0) {
    size_t room = t->out_max - t->out.len;
    if (len > room) t->cut = true;
    csn_buf_add(&t->out, data, len < room ? len : room);
    return;
  }
  csn_buf_add(&t->err, data, len);
  if (t->err.len <= 2 * TOOL_OUTPUT_MAX) return;
  memmove(t->err.p, t->err.p + t->err.len - TOOL_OUTPUT_MAX, TOOL_OUTPUT_MAX);
  t->err.len = TOOL_OUTPUT_MAX;
}

static void on_end(job *j) {
  tool *t = j->arg;
  if (t->expire != NULL) event_free(t->expire);
  if (t->err.len > TOOL_OUTPUT_MAX) {
    memmove(t->err.p, t->err.p + t->err.len - TOOL_OUTPUT_MAX, TOOL_OUTPUT_MAX);
    t->err.len = TOOL_OUTPUT_MAX;
  }
  const tool_end end = {.code = t->timed_out ? 124 : j->code,
                        .timed_out = t->timed_out,
                        .cut = t->cut,
                        .out = &t->out,
                        .err = &t->err};
  t->done(t->arg, &end);
  csn_buf_free(&t->out);
  csn_buf_free(&t->err);
  free(t);
}

static void on_expire(evutil_socket_t fd, short what, void *arg) {
  (void)fd;
  (void)what;
  tool *t = arg;
  if (t->j->exited) return;
  t->timed_out = true;
  job_kill(t->j, TOOL_GRACE_MS);
}

bool tool_run(const tool_spec *spec, tool_done *done, void *arg) {
  const char *bad;
  char **own = spec->envp == NULL ? env_make(NULL, &bad) : NULL;
  tool *t = calloc(1, sizeof *t);
  if (t == NULL) abort();
  *t = (tool){.out_max = spec->out_max == 0 ? TOOL_OUTPUT_MAX : spec->out_max, .done = done, .arg = arg};
  const job_spec js = {.argv = spec->argv,
                       .envp = own == NULL ? spec->envp : own,
                       .cwd = spec->cwd,
                       .stdin_fd = spec->stdin_fd,
                       .extra_fd = spec->extra_fd,
                       .on_data = on_data,
                       .on_end = on_end,
                       .arg = t};
  t->j = job_start(&js);
  int saved = errno;
  env_free(own);
  if (t->j == NULL) {
    free(t);
    errno = saved;
    return false;
  }
  if (spec->timeout_ms > 0) {
    t->expire = evtimer_new(guest_base, on_expire, t);
    if (t->expire == NULL) abort();
    struct timeval tv = {spec->timeout_ms / 1000, spec->timeout_ms % 1000 * 1000};
    event_add(t->expire, &tv);
  }
  return true;
}

const char *tool_find(const char *name) {
  return tool_find_in(GUEST_PATH_ENV, name);
}

const char *tool_find_in(const char *at, const char *name) {
  static char room[GUEST_PATH_MAX];
  while (*at != '\0') {
    size_t n = strcspn(at, ":");
    snprintf(room, sizeof room, "%.*s/%s", (int)n, at, name);
    if (access(room, X_OK) == 0) return room;
    at += n + (at[n] == ':');
  }
  return NULL;
}

int tool_text_fd(const char *text, size_t len) {
  int fd = memfd_create("text", MFD_CLOEXEC);
  if (fd < 0) return -1;
  if (csn_write_all(fd, text, len) && lseek(fd, 0, SEEK_SET) == 0) return fd;
  const int saved = errno;
  close(fd);
  errno = saved;
  return -1;
}
