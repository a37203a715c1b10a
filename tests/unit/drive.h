/* drive.h - a session under test: sends events, keeps the effects as text, one line each. */
#ifndef DRIVE_H
#define DRIVE_H

#include "csn/session.h"

#include "tap.h"

typedef struct drive {
  csn_session s;
  uint64_t now_ms;
  uint64_t cursor[3];                   /* by stream */
  uint32_t fx_cap;                      /* out-box of feeds */
  uint32_t next_seq;                    /* seq expected of the next event */
  bool gap;                             /* a seq did not come */
  char pointer[300];                    /* of the last BAD_FIELD */
  char budget[CSN_BUDGET_JSON_MAX + 1]; /* of the last BUDGET: how many there are depends on chunking */
  int32_t budget_code;
  bool feeding; /* how often the wake-up of a refusal is told depends on chunking, too */
  char *log;    /* kinds of effects, JSON of events */
  size_t log_len, log_cap;
} drive;

static _Alignas(8) uint8_t drive_box[CSN_OUT_CAP];

__attribute__((unused)) static void drive_init(drive *d) {
  free(d->log);
  memset(d, 0, sizeof *d);
  csn_session_init(&d->s);
  d->fx_cap = CSN_OUT_CAP;
  d->next_seq = 1;
}

__attribute__((unused)) static void drive_log(drive *d, const void *p, size_t len) {
  if (d->log_cap - d->log_len < len + 1) {
    d->log_cap = (d->log_cap + len + 1) * 2;
    d->log = realloc(d->log, d->log_cap);
    if (d->log == NULL) abort();
  }
  memcpy(d->log + d->log_len, p, len);
  d->log_len += len;
  d->log[d->log_len] = 0;
}

__attribute__((unused)) static void drive_clear(drive *d) {
  d->log_len = 0;
  drive_log(d, "", 0);
}

__attribute__((unused)) static void drive_drain(drive *d, const csn_fx *fx) {
  static const char *const names[] = {"",         "event",     "sandbox_start", "sandbox_destroy",
                                      "run_load", "run_start", "run_kill",      "collect",
                                      "wake_at",  "cursor",    "digest",        "bad_field"};
  for (uint32_t at = 0; at < fx->len;) {
    csn_rec rec;
    char line[128];
    memcpy(&rec, fx->base + at, sizeof rec);
    const uint8_t *payload = fx->base + at + sizeof rec;
    if (rec.kind == CSN_FX_EVENT) {
      csn_fx_event head;
      memcpy(&head, payload, sizeof head);
      if (head.seq != d->next_seq++) d->gap = true;
      int n = snprintf(line, sizeof line, "@%llu+%u:%u ", (unsigned long long)head.line_off, head.line_len,
                       head.line_flags);
      drive_log(d, line, (size_t)n);
      drive_log(d, payload + sizeof head, rec.payload_len - sizeof head);
      drive_log(d, "\n", 1);
    } else if (rec.kind == CSN_FX_CURSOR) {
      memcpy(&d->cursor[rec.stream], payload, 8);
    } else if (rec.kind == CSN_FX_BUDGET) {
      if (rec.payload_len > CSN_BUDGET_JSON_MAX) abort();
      memcpy(d->budget, payload, rec.payload_len);
      d->budget[rec.payload_len] = 0;
      d->budget_code = rec.code;
    } else if (rec.kind != CSN_FX_WAKE_AT || !d->feeding) {
      int n = snprintf(line, sizeof line, "%s %u %d %llu ", names[rec.kind], rec.id, rec.code,
                       (unsigned long long)rec.time_ms);
      drive_log(d, line, (size_t)n);
      drive_log(d, payload, rec.payload_len);
      drive_log(d, "\n", 1);
      if (rec.kind == CSN_FX_BAD_FIELD) {
        memcpy(d->pointer, payload, rec.payload_len);
        d->pointer[rec.payload_len] = 0;
      }
    }
    at += rec.size;
  }
}

__attribute__((unused)) static csn_err drive_event(drive *d, csn_ev kind, uint32_t id, int32_t code,
                                                   csn_span payload) {
  csn_fx fx = {drive_box, sizeof drive_box, 0};
  csn_rec rec = {.kind = (uint16_t)kind, .id = id, .code = code, .time_ms = d->now_ms};
  uint8_t *p = guarded(payload.ptr, payload.len);
  csn_err err = csn_session_event(&d->s, &rec, csn_span_of(p, payload.len), &fx);
  unguard(p, payload.len);
  drive_drain(d, &fx);
  return err;
}

__attribute__((unused)) static csn_err drive_ev(drive *d, csn_ev kind, uint32_t id, const char *payload) {
  return drive_event(d, kind, id, 0, csn_span_str(payload));
}

/* Feeds in pieces of `chunk` bytes. Returns false when the core refuses or makes no progress. */
__attribute__((unused)) static bool drive_feed(drive *d, uint32_t stream, uint32_t id, const void *bytes,
                                               size_t len, uint32_t chunk) {
  size_t at = 0;
  while (at < len) {
    uint32_t piece = len - at < chunk ? (uint32_t)(len - at) : chunk, done = 0;
    while (done < piece) {
      csn_fx fx = {drive_box, d->fx_cap, 0};
      csn_span in = csn_span_of((const uint8_t *)bytes + at + done, piece - done);
      int64_t used = csn_session_feed(&d->s, stream, id, d->now_ms, in, &fx);
      if (used <= 0 || used > piece - done || fx.len > fx.cap) return false;
      d->feeding = true;
      drive_drain(d, &fx);
      d->feeding = false;
      done += (uint32_t)used;
    }
    at += piece;
  }
  return true;
}

__attribute__((unused)) static bool has(const drive *d, const char *text) {
  return d->log != NULL && strstr(d->log, text) != NULL;
}

/* A session whose run 1 runs. */
__attribute__((unused)) static void drive_run(drive *d, const char *agent) {
  const char *run = strcmp(agent, "shell") == 0 ? "{\"command\":\"true\"}" : "{\"prompt\":\"-\"}";
  char text[100];
  drive_init(d);
  snprintf(text, sizeof text, "{\"agent\":\"%s\"}", agent);
  drive_ev(d, CSN_EV_CREATE, 0, text);
  drive_ev(d, CSN_EV_SANDBOX_READY, 0, "");
  drive_ev(d, CSN_EV_RUN, 0, run);
  drive_ev(d, CSN_EV_RUN_LOADED, 1, run);
  drive_ev(d, CSN_EV_RUN_STARTED, 1, "");
}

__attribute__((unused)) static void drive_next_run(drive *d, uint32_t id) {
  drive_ev(d, CSN_EV_RUN, 0, "{\"prompt\":\"-\"}");
  drive_ev(d, CSN_EV_RUN_LOADED, id, "{\"prompt\":\"-\"}");
  drive_ev(d, CSN_EV_RUN_STARTED, id, "");
}

__attribute__((unused)) static void drive_end(drive *d, uint32_t id, const char *exit_record) {
  drive_ev(d, CSN_EV_RUN_EXIT, id, exit_record);
  drive_ev(d, CSN_EV_COLLECTED, id, "");
}

__attribute__((unused)) static uint8_t *slurp(const char *path, size_t *len) {
  FILE *f = fopen(path, "rb");
  if (f == NULL) {
    fprintf(stderr, "cannot open %s\n", path);
    exit(2);
  }
  uint8_t *p = malloc(1u << 20);
  *len = p != NULL ? fread(p, 1, 1u << 20, f) : 0;
  fclose(f);
  return p;
}

#define EXITED_0 "{\"reason\":\"exited\",\"exit_code\":0,\"signal\":null,\"started_ms\":5,\"ended_ms\":12}"
#define FIXTURES "tests/fixtures/transcripts/claude-code/"

#endif
