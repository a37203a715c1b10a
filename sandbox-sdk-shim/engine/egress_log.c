/* engine/egress_log.c - what left a sandbox and what was refused, the newest of it. */
#include "egress.h"

#include <stdlib.h>
#include <string.h>

#define LOG_MAX 1024u /* records of one sandbox */

typedef struct record {
  uint64_t id;
  unsigned count; /* how many alike this stands for */
  char *kind_of;  /* tells which are alike */
  char *json;     /* without id and count, and without the closing brace */
} record;

struct egress_log {
  uint64_t last;
  record ring[LOG_MAX]; /* by id modulo their number; id 0: empty */
};

static const char *verdict_text(egress_verdict v) {
  switch (v) {
  case EGRESS_PASS:
    return "passed";
  case EGRESS_INTERCEPT:
    return "intercepted";
  case EGRESS_DENY:
    break;
  }
  return "denied";
}

static void add_text(csn_buf *b, const char *name, const char *value) {
  csn_buf_fmt(b, ",\"%s\":", name);
  if (value == NULL || *value == '\0')
    csn_buf_str(b, "null");
  else
    csn_json_cstr(b, value);
}

void egress_log_add(sandbox *sb, const egress_entry *e) {
  if (sb->egress_log == NULL && (sb->egress_log = calloc(1, sizeof *sb->egress_log)) == NULL) abort();
  struct egress_log *log = sb->egress_log;
  char address[IP_TEXT_MAX] = "", time[32];
  if (e->address != NULL) ip_format(e->address, address);
  csn_buf key = {0};
  csn_buf_fmt(&key, "%s %s %s %u %d %s", e->kind, e->host, address, e->port, (int)e->verdict, e->reason);
  csn_buf_cstr(&key);
  record *last = &log->ring[log->last % LOG_MAX];
  /* A program that tries the same over and over must not push everything else out. */
  if (e->verdict == EGRESS_DENY && e->method == NULL && last->id != 0 && strcmp(last->kind_of, key.p) == 0) {
    last->count++;
    csn_buf_free(&key);
    return;
  }
  const int64_t now = csn_now_ms();
  csn_buf b = {0};
  csn_iso_time(time, csn_wall_ms() - (now - e->begun_ms));
  csn_buf_fmt(&b, ",\"time\":\"%s\",\"kind\":\"%s\"", time, e->kind);
  add_text(&b, "host", e->host);
  add_text(&b, "address", address);
  csn_buf_fmt(&b, ",\"port\":%u", e->port);
  if (e->method != NULL) {
    add_text(&b, "method", e->method);
    add_text(&b, "path", e->path);
    csn_buf_fmt(&b, ",\"status\":%d", e->status);
  }
  csn_buf_fmt(&b, ",\"verdict\":\"%s\"", verdict_text(e->verdict));
  add_text(&b, "reason", e->reason);
  csn_buf_fmt(&b, ",\"bytes_up\":%llu,\"bytes_down\":%llu,\"duration_ms\":%lld", (unsigned long long)e->up,
              (unsigned long long)e->down, (long long)(now - e->begun_ms));
  csn_buf_cstr(&b);
  log_line(e->verdict == EGRESS_DENY ? LOG_INFO : LOG_DEBUG, "%s: egress {%s}", sb->name, b.p + 1);
  record *r = &log->ring[++log->last % LOG_MAX];
  free(r->kind_of);
  free(r->json);
  *r = (record){.id = log->last, .count = 1, .kind_of = key.p, .json = b.p};
}

void egress_log_print(const sandbox *sb, uint64_t after, csn_buf *out) {
  const struct egress_log *log = sb->egress_log;
  if (log == NULL) return;
  uint64_t first = log->last < LOG_MAX ? 1 : log->last - LOG_MAX + 1;
  for (uint64_t id = after + 1 > first ? after + 1 : first; id <= log->last && after < log->last; id++) {
    const record *r = &log->ring[id % LOG_MAX];
    csn_buf_fmt(out, "{\"id\":%llu,\"count\":%u%s}\n", (unsigned long long)r->id, r->count, r->json);
  }
}

void egress_log_free(sandbox *sb) {
  if (sb->egress_log == NULL) return;
  for (size_t i = 0; i < LOG_MAX; i++) {
    free(sb->egress_log->ring[i].kind_of);
    free(sb->egress_log->ring[i].json);
  }
  free(sb->egress_log);
  sb->egress_log = NULL;
}
