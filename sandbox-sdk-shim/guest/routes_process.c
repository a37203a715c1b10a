/* guest/routes_process.c - /api/process: list, get, kill, logs, stream. */
#include "guest.h"

#include <stdlib.h>
#include <string.h>

static void add_record(csn_buf *b, const proc *p, bool with_end) {
  char iso[32];
  csn_buf_str(b, "{\"id\":");
  csn_json_cstr(b, p->id);
  csn_buf_fmt(b, ",\"pid\":%d,\"command\":", (int)p->pid);
  csn_json_cstr(b, p->command);
  csn_iso_time(iso, p->start_ms);
  csn_buf_fmt(b, ",\"status\":\"%s\",\"startTime\":\"%s\"", proc_status(p), iso);
  if (p->ended) {
    csn_iso_time(iso, p->end_ms);
    if (with_end) csn_buf_fmt(b, ",\"endTime\":\"%s\"", iso);
    csn_buf_fmt(b, ",\"exitCode\":%d", p->code);
  }
  csn_buf_str(b, "}");
}

static void not_found(call *c, const char *code) {
  csn_buf ctx = {0};
  csn_buf_str(&ctx, "{\"processId\":");
  csn_json_cstr(&ctx, c->arg);
  csn_buf_str(&ctx, "}");
  reply_error(c->req, code, csn_buf_cstr(&ctx), "Process not found: %s", c->arg);
  csn_buf_free(&ctx);
}

static void get_list(call *c) {
  char *status = call_query(c, "status");
  csn_buf b = {0};
  csn_buf_str(&b, "{\"success\":true,\"processes\":[");
  bool first = true;
  for (const proc *p = proc_first(); p != NULL; p = p->next) {
    if (status != NULL && strcmp(status, proc_status(p)) != 0) continue;
    if (!first) csn_buf_str(&b, ",");
    first = false;
    add_record(&b, p, false);
  }
  free(status);
  csn_buf_str(&b, "],");
  reply_stamped(c->req, &b);
}

static void get_one(call *c) {
  const proc *p = proc_find(c->arg);
  if (p == NULL) {
    not_found(c, "PROCESS_NOT_FOUND");
    return;
  }
  csn_buf b = {0};
  csn_buf_str(&b, "{\"success\":true,\"process\":");
  add_record(&b, p, true);
  csn_buf_str(&b, ",");
  reply_stamped(c->req, &b);
}

static void delete_one(call *c) {
  proc *p = proc_find(c->arg);
  if (p == NULL || p->ended) {
    not_found(c, p == NULL ? "PROCESS_NOT_FOUND" : "COMMAND_NOT_FOUND");
    return;
  }
  exchange **more = realloc(p->killers, (p->killer_count + 1) * sizeof(*more));
  if (more == NULL) abort();
  p->killers = more;
  p->killers[p->killer_count++] = c->req; /* answered at the end of the process */
  proc_kill(p);
}

static void delete_all(call *c) {
  unsigned count = 0;
  for (proc *p = proc_first(); p != NULL; p = p->next) {
    if (p->ended) continue;
    count++;
    proc_kill(p);
  }
  csn_buf b = {0};
  csn_buf_fmt(&b, "{\"success\":true,\"cleanedCount\":%u,", count);
  reply_stamped(c->req, &b);
}

static void add_log(csn_buf *b, const proc *p, int which) {
  csn_buf raw = {0};
  uint64_t off = p->log[which].base;
  while (raw.len < GUEST_OUTPUT_MAX) {
    size_t n = proc_log_read(p, which, off, &raw, 1024 * 1024);
    if (n == 0) break;
    off += n;
  }
  csn_json_str(b, raw.p, raw.len);
  csn_buf_free(&raw);
}

static void get_logs(call *c) {
  const proc *p = proc_find(c->arg);
  if (p == NULL) {
    not_found(c, "PROCESS_NOT_FOUND");
    return;
  }
  csn_buf b = {0};
  csn_buf_str(&b, "{\"success\":true,\"processId\":");
  csn_json_cstr(&b, p->id);
  csn_buf_str(&b, ",\"stdout\":");
  add_log(&b, p, 0);
  csn_buf_str(&b, ",\"stderr\":");
  add_log(&b, p, 1);
  csn_buf_str(&b, ",");
  reply_stamped(c->req, &b);
}

static void get_stream(call *c) {
  proc *p = proc_find(c->arg);
  if (p == NULL)
    not_found(c, "PROCESS_NOT_FOUND");
  else
    proc_follow(p, c->req, FOLLOW_LOGS);
}

const route process_routes[] = {
    {METHOD_GET, "/api/process/list", get_list},
    {METHOD_DELETE, "/api/process/kill-all", delete_all},
    {METHOD_GET, "/api/process/*", get_one},
    {METHOD_DELETE, "/api/process/*", delete_one},
    {METHOD_GET, "/api/process/*/logs", get_logs},
    {METHOD_GET, "/api/process/*/stream", get_stream},
    {0, NULL, NULL},
};
