#include "drive.h"

static drive d;

static const char *const event_names[CSN_EV_COLUMNS] = {
#define X(name, value, text) [value] = #name,
    CSN_EV_TABLE(X)
#undef X
        [CSN_EV_EXPIRED] = "(TIMER: session over)",
    [CSN_EV_OVERDUE] = "(TIMER: run overdue)",
    [CSN_EV_CANCEL_WAITING] = "(CANCEL of a waiting run)",
    [CSN_EV_IDLED] = "(TIMER: idle for long)",
    [CSN_EV_OVER_BUDGET] = "(a limit is over)",
    [CSN_EV_VIOLATION] = "(a forbidden call)",
};

/* The transition table as tests/golden/transitions.txt holds it. */
static void print_table(void) {
  static const char *const to[] = {"-", "over", "late", "same", "queue"};
  printf("%-26s", "event");
  for (uint32_t s = 0; s < CSN_ST_COUNT; s++)
    printf("%-11s", csn_state_name((csn_state)s));
  printf("\n");
  for (uint32_t e = 1; e < CSN_EV_COLUMNS; e++) {
    printf("%-26s", event_names[e]);
    for (uint32_t s = 0; s < CSN_ST_COUNT; s++) {
      csn_target t = csn_session_target((csn_state)s, e);
      printf("%-11s", t < CSN_TO_STATE ? to[t] : csn_state_name((csn_state)(t - CSN_TO_STATE)));
    }
    printf("\n");
  }
}

/* Brings a fresh session into `state`; run 1 is current where there is one, run 2 waits. */
static void bring(csn_state state) {
  drive_init(&d);
  d.now_ms = 1;
  if (state == CSN_ST_NEW) return;
  drive_ev(&d, CSN_EV_CREATE, 0, "{\"agent\":\"claude-code\",\"timeout_s\":600}");
  if (state == CSN_ST_STARTING) return;
  drive_ev(&d, CSN_EV_SANDBOX_READY, 0, "");
  if (state >= CSN_ST_LOADING && state <= CSN_ST_COLLECTING) {
    drive_ev(&d, CSN_EV_RUN, 0, "{\"prompt\":\"a\"}");
    drive_ev(&d, CSN_EV_RUN, 0, "{\"prompt\":\"b\"}");
  }
  if (state >= CSN_ST_LAUNCHING && state <= CSN_ST_COLLECTING)
    drive_ev(&d, CSN_EV_RUN_LOADED, 1, "{\"prompt\":\"a\"}");
  if (state >= CSN_ST_RUNNING && state <= CSN_ST_COLLECTING) drive_ev(&d, CSN_EV_RUN_STARTED, 1, "");
  if (state == CSN_ST_KILLING) drive_ev(&d, CSN_EV_CANCEL, 1, "");
  if (state == CSN_ST_COLLECTING) drive_ev(&d, CSN_EV_RUN_EXIT, 1, EXITED_0);
  if (state >= CSN_ST_ENDING) drive_ev(&d, CSN_EV_DELETE, 0, "");
  if (state == CSN_ST_ENDED) drive_ev(&d, CSN_EV_SANDBOX_GONE, 0, "");
  if (d.s.state != state) abort();
}

static const char *payload_of(uint32_t kind) {
  switch (kind) {
  case CSN_EV_CREATE:
    return "{\"agent\":\"shell\"}";
  case CSN_EV_RUN:
  case CSN_EV_RUN_LOADED:
    return "{\"prompt\":\"x\"}";
  case CSN_EV_RUN_EXIT:
    return EXITED_0;
  case CSN_EV_NOTE:
    return "{}";
  case CSN_EV_USAGE:
    return "{\"input_tokens\":1}";
  case CSN_EV_SET_TOOLS:
    return "{\"tools\":{\"deny\":[\"Bash(rm:*)\"]}}";
  case CSN_EV_SET_LIMITS:
    return "{\"limits\":{\"turns\":9}}";
  case CSN_EV_RUN_START_FAILED:
  case CSN_EV_SANDBOX_FAILED:
  case CSN_EV_SANDBOX_GONE:
    return "\"why\"";
  default:
    return "";
  }
}

/* Every event in every state does what the table says, and a refused one changes nothing. */
static void sweep(void) {
  static uint8_t before[CSN_SNAPSHOT_MAX], after[CSN_SNAPSHOT_MAX];
  for (uint32_t s = 0; s < CSN_ST_COUNT; s++) {
    for (uint32_t k = 1; k < CSN_EV_END; k++) {
      if (k == CSN_EV_OUTPUT) continue;
      bring((csn_state)s);
      csn_target to = csn_session_target((csn_state)s, k);
      if (k == CSN_EV_DIGEST_END && s != CSN_ST_ENDED) {
        drive_ev(&d, CSN_EV_DIGEST_BEGIN, 1, "");
      }
      int32_t before_len = csn_session_save(&d.s, before, sizeof before);
      int32_t code = k == CSN_EV_NOTE ? CSN_T_FILE_CHANGED : k == CSN_EV_SET_TIMEOUT ? 5 : 0;
      uint32_t late = d.s.late_count;
      csn_err err = drive_event(&d, (csn_ev)k, k == CSN_EV_NOTE ? 0 : 1, code, csn_span_str(payload_of(k)));
      int32_t after_len = csn_session_save(&d.s, after, sizeof after);
      bool same = before_len == after_len && memcmp(before, after, (size_t)before_len) == 0;
      csn_err want = to == CSN_TO_OVER      ? CSN_ERR_SESSION_OVER
                     : to == CSN_TO_ILLEGAL ? CSN_ERR_BAD_STATE
                                            : CSN_ERR_OK;
      if (k == CSN_EV_CANCEL && (s == CSN_ST_STARTING || s == CSN_ST_IDLE)) want = CSN_ERR_NO_RUN;
      if (k == CSN_EV_CANCEL && s == CSN_ST_COLLECTING) want = CSN_ERR_RUN_OVER;
      bool answer = k == CSN_EV_RUN_LOADED || k == CSN_EV_RUN_STARTED || k == CSN_EV_RUN_START_FAILED ||
                    k == CSN_EV_RUN_EXIT || k == CSN_EV_COLLECTED || k == CSN_EV_USAGE;
      bool right = err == want && (want == CSN_ERR_OK || same) && !d.gap;
      if (want == CSN_ERR_OK && to == CSN_TO_LATE)
        right = right && d.s.late_count == late + 1 && d.s.state == s;
      if (want == CSN_ERR_OK && to == CSN_TO_SAME) right = right && d.s.state == s;
      if (want == CSN_ERR_OK && to > CSN_TO_STATE) right = right && d.s.state == to - CSN_TO_STATE;
      if (!right || answer)
        ok(right, "%s in %s: %d, then %s", event_names[k], csn_state_name((csn_state)s), err,
           csn_state_name((csn_state)d.s.state));
    }
  }
  ok(true, "every event in every state");
}

static void outcome(const char *agent, const char *line, const char *exit_record, const char *want) {
  drive_run(&d, agent);
  drive_feed(&d, CSN_STREAM_STDOUT, 1, line, strlen(line), 7);
  drive_clear(&d);
  drive_end(&d, 1, exit_record);
  ok(has(&d, want), "%s after %s: %s", want, exit_record, has(&d, want) ? "" : d.log);
}

#define RESULT(error)                                                                                        \
  "{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":" error ",\"result\":\"r\"}\n"
#define REASON(r) "{\"reason\":\"" r "\",\"exit_code\":null,\"signal\":null,\"detail\":\"why \\\"x\\\"\"}"

static void outcomes(void) {
  outcome("claude-code", RESULT("false"), EXITED_0,
          "\"run.succeeded\",\"reason\":\"completed\",\"exit_code\":0,\"signal\":null,\"duration_ms\":7,"
          "\"result\":\"r\"");
  outcome("claude-code", RESULT("false"), "{\"reason\":\"exited\",\"exit_code\":1}", "\"run.succeeded\"");
  outcome("claude-code", RESULT("true"), EXITED_0, "\"run.failed\",\"reason\":\"agent_error\"");
  outcome("claude-code", "", EXITED_0, "\"run.interrupted\",\"reason\":\"no_result\"");
  outcome("claude-code", "", REASON("signalled"), "\"run.interrupted\",\"reason\":\"signalled\"");
  outcome("claude-code", "", REASON("killed"), "\"run.interrupted\",\"reason\":\"killed\"");
  outcome("claude-code", "", REASON("runner_lost"), "\"run.interrupted\",\"reason\":\"runner_lost\"");
  outcome("claude-code", RESULT("false"), REASON("runner_lost"), "\"run.succeeded\"");
  outcome("claude-code", RESULT("false"), REASON("timed_out"), "\"run.timed_out\",\"reason\":\"timeout\"");
  outcome("claude-code", "", REASON("spawn_failed"), "\"run.failed\",\"reason\":\"spawn_failed\"");
  outcome("claude-code", "", REASON("spawn_failed"), "\"error\":{\"message\":\"why \\\"x\\\"\"}");
  outcome("claude-code", RESULT("false"), REASON("disk_full"), "\"run.failed\",\"reason\":\"disk_full\"");
  outcome("claude-code", RESULT("false"), REASON("output_limit"),
          "\"run.failed\",\"reason\":\"output_limit\"");
  outcome("shell", "x", EXITED_0, "\"run.succeeded\",\"reason\":\"completed\"");
  outcome("shell", "x", "{\"reason\":\"exited\",\"exit_code\":3,\"signal\":null}",
          "\"run.failed\",\"reason\":\"exit_code\",\"exit_code\":3");
  outcome("shell", "x", "{\"reason\":\"signalled\",\"exit_code\":null,\"signal\":11}",
          "\"run.failed\",\"reason\":\"signalled\",\"exit_code\":null,\"signal\":11");
  outcome("shell", "x", REASON("killed"), "\"run.interrupted\",\"reason\":\"killed\"");
  outcome("shell", "x", "{\"reason\":\"exited\"}",
          "\"run.failed\",\"reason\":\"exit_code\",\"exit_code\":null");

  static const struct {
    const char *record;
    csn_err err;
    const char *pointer;
  } bad[] = {{"", CSN_ERR_BAD_JSON, ""},
             {"{\"reason\":\"exited\"", CSN_ERR_BAD_JSON, ""},
             {"{}", CSN_ERR_MISSING_FIELD, "/reason"},
             {"{\"reason\":1}", CSN_ERR_BAD_TYPE, "/reason"},
             {"{\"reason\":\"bored\"}", CSN_ERR_BAD_VALUE, "/reason"}};
  for (uint32_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    drive_run(&d, "shell");
    csn_err err = drive_ev(&d, CSN_EV_RUN_EXIT, 1, bad[i].record);
    ok(err == bad[i].err && strcmp(d.pointer, bad[i].pointer) == 0 && d.s.state == CSN_ST_RUNNING,
       "exit record %s: %d", bad[i].record, err);
  }
}

static void cancels(void) {
  bring(CSN_ST_RUNNING);
  drive_clear(&d);
  ok(drive_ev(&d, CSN_EV_CANCEL, 2, "") == CSN_ERR_OK &&
         has(&d, "\"run\":\"run_2\",\"type\":\"run.cancelled\",\"reason\":\"cancelled\"") &&
         !has(&d, "run_kill"),
     "a waiting run is cancelled at once");
  ok(drive_ev(&d, CSN_EV_CANCEL, 2, "") == CSN_ERR_RUN_OVER, "twice: RUN_OVER");
  ok(drive_ev(&d, CSN_EV_CANCEL, 3, "") == CSN_ERR_NO_RUN &&
         drive_ev(&d, CSN_EV_CANCEL, 0, "") == CSN_ERR_NO_RUN,
     "unknown: NO_RUN");
  ok(drive_ev(&d, CSN_EV_CANCEL, 1, "") == CSN_ERR_OK && has(&d, "run_kill 1 1 "),
     "the current run is killed");
  drive_clear(&d);
  ok(drive_ev(&d, CSN_EV_CANCEL, 1, "") == CSN_ERR_OK && d.log_len == 0, "cancelling again says nothing");
  drive_feed(&d, CSN_STREAM_STDOUT, 1, RESULT("false"), strlen(RESULT("false")), 99);
  drive_end(&d, 1, REASON("killed"));
  ok(has(&d, "\"run.cancelled\",\"reason\":\"cancelled\"") && has(&d, "session.idle"),
     "cancelled, though a result came before the end");
  bring(CSN_ST_LOADING);
  drive_clear(&d);
  ok(drive_ev(&d, CSN_EV_CANCEL, 1, "") == CSN_ERR_OK && has(&d, "run.cancelled") && has(&d, "run_load 2"),
     "a run that is being loaded is cancelled, the next is loaded");
  ok(drive_ev(&d, CSN_EV_RUN_LOADED, 1, "{\"prompt\":\"x\"}") == CSN_ERR_OK && d.s.state == CSN_ST_LOADING,
     "the late answer is ignored");
  bring(CSN_ST_LAUNCHING);
  drive_ev(&d, CSN_EV_CANCEL, 1, "");
  drive_clear(&d);
  ok(drive_ev(&d, CSN_EV_RUN_START_FAILED, 1, "\"no\"") == CSN_ERR_OK && has(&d, "run.cancelled") &&
         has(&d, "run_load 2"),
     "cancelled while the runner starts, which then fails");
  bring(CSN_ST_LAUNCHING);
  drive_clear(&d);
  ok(drive_ev(&d, CSN_EV_RUN_START_FAILED, 1, "\"no \\\"runner\\\"\"") == CSN_ERR_OK &&
         has(&d, "\"run.failed\",\"reason\":\"start_failed\"") &&
         has(&d, "\"message\":\"no \\\"runner\\\"\""),
     "start failed");
  bring(CSN_ST_LAUNCHING);
  ok(drive_ev(&d, CSN_EV_RUN_START_FAILED, 1, "no json") == CSN_ERR_BAD_JSON && d.s.state == CSN_ST_LAUNCHING,
     "why must be JSON");
}

static void times(void) {
  bring(CSN_ST_RUNNING);
  ok(d.s.wake_ms == 10001, "watched every 10 s while a run is under way");
  d.now_ms = 9000;
  drive_clear(&d);
  drive_ev(&d, CSN_EV_TIMER, 0, "");
  ok(d.log_len == 0, "a timer before its time does nothing");
  d.now_ms = 10001;
  drive_ev(&d, CSN_EV_TIMER, 0, "");
  ok(has(&d, "wake_at 0 0 20001 "), "the next wake-up");
  d.now_ms = 100;
  drive_ev(&d, CSN_EV_NOTE, 0, "{}");
  ok(d.s.now_ms == 10001, "time does not run backwards");

  drive_init(&d);
  d.now_ms = 1;
  drive_ev(&d, CSN_EV_CREATE, 0, "{\"agent\":\"shell\",\"timeout_s\":86400}");
  drive_ev(&d, CSN_EV_SANDBOX_READY, 0, "");
  drive_ev(&d, CSN_EV_RUN, 0, "{\"command\":\"sleep 99\",\"timeout_s\":2}");
  drive_clear(&d);
  drive_ev(&d, CSN_EV_RUN_LOADED, 1, "{\"command\":\"sleep 99\",\"timeout_s\":2}");
  ok(has(&d, "\"stdin\":null,\"wall_ms\":2000,\"grace_ms\":3000,\"output_max_bytes\":268435456}"),
     "the runner enforces the time");
  drive_ev(&d, CSN_EV_RUN_STARTED, 1, "");
  drive_clear(&d);
  d.now_ms = 1 + 2000 + CSN_OVERDUE_MS - 1;
  drive_ev(&d, CSN_EV_TIMER, 0, "");
  ok(!has(&d, "run_kill"), "not yet overdue");
  d.now_ms += 1;
  drive_ev(&d, CSN_EV_TIMER, 0, "");
  ok(has(&d, "run_kill 1 2 "), "overdue: killed");
  drive_clear(&d);
  d.now_ms += CSN_OVERDUE_MS;
  drive_ev(&d, CSN_EV_TIMER, 0, "");
  ok(has(&d, "run_kill 1 2 "), "and again when nothing happens");
  drive_end(&d, 1, REASON("killed"));
  ok(has(&d, "\"run.timed_out\",\"reason\":\"timeout\""), "timed out");

  bring(CSN_ST_RUNNING);
  ok(drive_event(&d, CSN_EV_SET_TIMEOUT, 0, 0, csn_span_of(NULL, 0)) == CSN_ERR_OUT_OF_RANGE &&
         strcmp(d.pointer, "/timeout_s") == 0 &&
         drive_event(&d, CSN_EV_SET_TIMEOUT, 0, 86401, csn_span_of(NULL, 0)) == CSN_ERR_OUT_OF_RANGE &&
         drive_event(&d, CSN_EV_SET_TIMEOUT, 0, -1, csn_span_of(NULL, 0)) == CSN_ERR_OUT_OF_RANGE,
     "time-outs out of range");
  drive_clear(&d);
  ok(drive_event(&d, CSN_EV_SET_TIMEOUT, 0, 1, csn_span_of(NULL, 0)) == CSN_ERR_OK &&
         has(&d, "\"session.updated\",\"timeout_s\":1,\"expires_ms\":1001") && has(&d, "wake_at 0 0 1001"),
     "a shorter time-out");
  drive_clear(&d);
  d.now_ms = 1001;
  drive_ev(&d, CSN_EV_TIMER, 0, "");
  ok(has(&d, "run_1\",\"type\":\"run.timed_out\",\"reason\":\"session_timeout\"") &&
         has(&d, "run_2\",\"type\":\"run.cancelled\",\"reason\":\"session_timeout\"") &&
         has(&d, "sandbox_destroy") && has(&d, "wake_at 0 0 0") && d.s.state == CSN_ST_ENDING,
     "the session's time is over");
  ok(drive_ev(&d, CSN_EV_RUN, 0, "{\"prompt\":\"x\"}") == CSN_ERR_SESSION_OVER, "no run while it ends");
  drive_ev(&d, CSN_EV_SANDBOX_GONE, 0, "\"bye\"");
  ok(has(&d, "\"session.ended\",\"reason\":\"timeout\"}"), "ended by time-out");
}

static void losses(void) {
  bring(CSN_ST_RUNNING);
  drive_feed(&d, CSN_STREAM_STDOUT, 1, "{\"half", 6, 6);
  drive_clear(&d);
  ok(drive_ev(&d, CSN_EV_SANDBOX_GONE, 0, "\"OOM\"") == CSN_ERR_OK &&
         has(&d, "\"raw\",\"reason\":\"half_line\",\"text\":\"{\\\"half\"") &&
         has(&d, "run_1\",\"type\":\"run.interrupted\",\"reason\":\"sandbox_lost\"") &&
         has(&d, "run_2\",\"type\":\"run.cancelled\",\"reason\":\"sandbox_lost\"") &&
         has(&d, ",\"error\":{\"message\":\"OOM\"},") &&
         has(&d, "\"session.ended\",\"reason\":\"sandbox_lost\",\"message\":\"OOM\"}") &&
         d.s.state == CSN_ST_ENDED,
     "the sandbox is lost");
  bring(CSN_ST_COLLECTING);
  drive_clear(&d);
  ok(drive_ev(&d, CSN_EV_SANDBOX_GONE, 0, "") == CSN_ERR_OK &&
         has(&d, "\"run.interrupted\",\"reason\":\"no_result\""),
     "a run whose end is known keeps its outcome");
  bring(CSN_ST_STARTING);
  drive_ev(&d, CSN_EV_RUN, 0, "{\"prompt\":\"x\"}");
  drive_clear(&d);
  ok(drive_ev(&d, CSN_EV_SANDBOX_FAILED, 0, "\"no engine\"") == CSN_ERR_OK &&
         has(&d, "\"run.cancelled\",\"reason\":\"sandbox_failed\"") &&
         has(&d, "\"duration_ms\":0,\"error\":{\"message\":\"no engine\"},\"usage\"") &&
         has(&d, "\"session.ended\",\"reason\":\"sandbox_failed\",\"message\":\"no engine\""),
     "the sandbox does not start");
  bring(CSN_ST_STARTING);
  drive_ev(&d, CSN_EV_DELETE, 0, "");
  ok(drive_ev(&d, CSN_EV_SANDBOX_READY, 0, "") == CSN_ERR_OK && d.s.state == CSN_ST_ENDING, "ready too late");
}

static void bounds(void) {
  bring(CSN_ST_RUNNING);
  csn_err err = CSN_ERR_OK;
  uint32_t n = 1; /* run 2 waits */
  while (n < CSN_QUEUE_MAX && err == CSN_ERR_OK) {
    err = drive_ev(&d, CSN_EV_RUN, 0, "{\"prompt\":\"x\"}");
    n++;
  }
  ok(err == CSN_ERR_OK && drive_ev(&d, CSN_EV_RUN, 0, "{\"prompt\":\"x\"}") == CSN_ERR_QUEUE_FULL,
     "the queue is full at %u", n);
  drive_clear(&d);
  drive_ev(&d, CSN_EV_DELETE, 0, "");
  uint32_t ends = 0;
  for (const char *p = d.log; (p = strstr(p, "run.cancelled")) != NULL; p++)
    ends++;
  ok(ends == CSN_QUEUE_MAX + 1 && !d.gap, "all %u are cancelled", ends);

  drive_init(&d);
  drive_ev(&d, CSN_EV_CREATE, 0, "{\"agent\":\"shell\"}");
  drive_ev(&d, CSN_EV_SANDBOX_READY, 0, "");
  for (uint32_t i = 1; i <= CSN_RUN_MAX; i++) {
    if (drive_ev(&d, CSN_EV_RUN, 0, "{\"command\":\"x\"}") != CSN_ERR_OK) break;
    drive_ev(&d, CSN_EV_CANCEL, i, "");
  }
  ok(d.s.run_count == CSN_RUN_MAX &&
         drive_ev(&d, CSN_EV_RUN, 0, "{\"command\":\"x\"}") == CSN_ERR_RUNS_EXHAUSTED,
     "runs are exhausted after %u", d.s.run_count);
}

static void notes(void) {
  bring(CSN_ST_RUNNING);
  static const struct {
    int32_t code;
    uint32_t id;
    const char *payload;
    csn_err want;
  } rows[] = {
      {CSN_T_FILE_CHANGED, 1, "{\"path\":\"a\"}", CSN_ERR_OK},
      {CSN_T_LIMIT_WARNING, 0, " { } ", CSN_ERR_OK},
      {CSN_T_EGRESS_DENIED, 2, "{}", CSN_ERR_OK},
      {CSN_T_FILE_CHANGED, 3, "{}", CSN_ERR_NO_RUN},
      {CSN_T_AGENT_TEXT, 1, "{}", CSN_ERR_BAD_RECORD},
      {0, 1, "{}", CSN_ERR_BAD_RECORD},
      {CSN_T_FILE_CHANGED, 1, "[]", CSN_ERR_BAD_JSON},
      {CSN_T_FILE_CHANGED, 1, "", CSN_ERR_BAD_JSON},
      {CSN_T_FILE_CHANGED, 1, "{\"a\":1}}", CSN_ERR_BAD_JSON},
      {CSN_T_FILE_CHANGED, 1, "{\"seq\":1}", CSN_ERR_BAD_VALUE},
      {CSN_T_FILE_CHANGED, 1, "{\"a\":\n1}", CSN_ERR_BAD_JSON},
      {CSN_T_FILE_CHANGED, 1, "{\"t\\u0079pe\":1}", CSN_ERR_BAD_VALUE},
      {CSN_T_FILE_CHANGED, 1, "{\"a\":{\"seq\":1}}", CSN_ERR_OK},
  };
  for (uint32_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    drive_clear(&d);
    csn_err err = drive_event(&d, CSN_EV_NOTE, rows[i].id, rows[i].code, csn_span_str(rows[i].payload));
    ok(err == rows[i].want, "note %d of run %u %s: %d", rows[i].code, rows[i].id, rows[i].payload, err);
  }
  ok(has(&d, "\"type\":\"file.changed\",\"a\":{\"seq\":1}}"), "fields are passed on");
}

static void digests(void) {
  bring(CSN_ST_IDLE);
  ok(drive_ev(&d, CSN_EV_DIGEST_END, 1, "") == CSN_ERR_BAD_STATE, "no digest is open");
  drive_ev(&d, CSN_EV_DIGEST_BEGIN, 1, "");
  ok(!drive_feed(&d, CSN_STREAM_DIGEST, 2, "abc", 3, 3), "not this one");
  drive_feed(&d, CSN_STREAM_DIGEST, 1, "abc", 3, 2);
  drive_clear(&d);
  ok(drive_ev(&d, CSN_EV_DIGEST_END, 1, "") == CSN_ERR_OK && d.log_len > 32 &&
         memcmp(strchr(strchr(d.log, '1') + 4, ' ') + 1, "\xba\x78\x16\xbf\x8f\x01\xcf\xea", 8) == 0,
     "SHA-256 of abc");
  ok(drive_ev(&d, CSN_EV_DIGEST_END, 1, "") == CSN_ERR_BAD_STATE, "once only");
}

/* Cost and modelUsage are cumulative over --resume; each run has its own part. */
static void resumes(void) {
  size_t len;
  drive_run(&d, "claude-code");
  uint8_t *one = slurp(FIXTURES "resume-1-first.jsonl", &len);
  drive_feed(&d, CSN_STREAM_STDOUT, 1, one, len, 4096);
  drive_end(&d, 1, EXITED_0);
  drive_clear(&d);
  drive_next_run(&d, 2);
  ok(has(&d, "\"--resume\",\"11111111-2222-4333-8444-555555555555\""), "the second run resumes");
  uint8_t *two = slurp(FIXTURES "resume-2-followup.jsonl", &len);
  drive_feed(&d, CSN_STREAM_STDOUT, 2, two, len, 4096);
  drive_clear(&d);
  drive_end(&d, 2, EXITED_0);
  ok(has(&d, "\"input_tokens\":24,\"output_tokens\":38,\"cache_read_tokens\":0,\"cache_write_tokens\":0,"
             "\"cost_usd\":0.000856,\"turns\":2"),
     "the second run's own usage: %s", d.log);
  drive_clear(&d);
  drive_ev(&d, CSN_EV_RUN, 0, "{\"prompt\":\"-\",\"resume\":false}");
  drive_ev(&d, CSN_EV_RUN_LOADED, 3, "{\"prompt\":\"-\",\"resume\":false}");
  ok(has(&d, "run_start 3") && !has(&d, "--resume"), "resume false starts anew");
  drive_ev(&d, CSN_EV_RUN_STARTED, 3, "");
  uint8_t *fresh = slurp(FIXTURES "basic-stream.jsonl", &len);
  drive_feed(&d, CSN_STREAM_STDOUT, 3, fresh, len, 4096);
  drive_clear(&d);
  drive_end(&d, 3, EXITED_0);
  ok(has(&d, "\"cost_usd\":0.002524"), "a new agent session counts from 0");
  free(one);
  free(two);
  free(fresh);
}

static void specs(void) {
  drive_init(&d);
  drive_ev(&d, CSN_EV_CREATE, 0,
           "{\"agent\":\"claude-code\",\"model\":\"m1\",\"env\":{\"ANTHROPIC_API_KEY\":\"real\",\"IS_"
           "SANDBOX\":\"0\","
           "\"CLAUDE_CODE_MAX_RETRIES\":\"9\",\"X\":\"a\\nb\"}}");
  drive_ev(&d, CSN_EV_SANDBOX_READY, 0, "");
  drive_ev(&d, CSN_EV_RUN, 0, "{\"prompt\":\"-\",\"model\":\"m2\",\"max_turns\":3}");
  drive_clear(&d);
  drive_ev(&d, CSN_EV_RUN_LOADED, 1, "{\"prompt\":\"-\",\"model\":\"m2\",\"max_turns\":3}");
  ok(has(&d,
         "{\"argv\":[\"claude\",\"-p\",\"--output-format\",\"stream-json\",\"--verbose\",\"--dangerously-"
         "skip-permissions\","
         "\"--model\",\"m2\",\"--max-turns\",\"3\"],\"env\":{\"IS_SANDBOX\":\"1\",\"ANTHROPIC_BASE_URL\":"
         "\"http://model.caisson.internal\","
         "\"ANTHROPIC_API_KEY\":\"caisson-placeholder\",\"CLAUDE_CODE_MAX_RETRIES\":\"9\",\"X\":\"a\\nb\","
         "\"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC\":\"1\",\"DISABLE_AUTOUPDATER\":\"1\"},\"cwd\":\"/"
         "workspace\",\"stdin\":\"prompt\","
         "\"wall_ms\":1800000,\"grace_ms\":3000,\"output_max_bytes\":268435456}"),
     "spec: %s", d.log);
  bring(CSN_ST_IDLE);
  drive_ev(&d, CSN_EV_RUN, 0, "{\"command\":\"echo \\\"$HOME\\\"\"}");
  drive_clear(&d);
  drive_ev(&d, CSN_EV_RUN_LOADED, 1, "{\"command\":\"echo \\\"$HOME\\\"\"}");
  ok(has(&d, "{\"argv\":[\"/bin/bash\",\"-c\",\"echo "
             "\\\"$HOME\\\"\"],\"env\":{},\"cwd\":\"/workspace\",\"stdin\":null,"),
     "a command in an agent's session: %s", d.log);
  drive_ev(&d, CSN_EV_RUN_STARTED, 1, "");
  drive_clear(&d);
  drive_feed(&d, CSN_STREAM_STDOUT, 1, "{\"type\":\"result\"}\n", 18, 99);
  ok(has(&d, "\"output.stdout\",\"text\":\"{\\\"type\\\":\\\"result\\\"}\\n\""), "its output is plain text");
  drive_end(&d, 1, EXITED_0);
  ok(has(&d, "run.succeeded"), "and its exit status decides");
}

static void snapshots(void) {
  static uint8_t image[CSN_SNAPSHOT_MAX], copy[CSN_SNAPSHOT_MAX];
  static csn_session other;
  for (uint32_t s = 0; s < CSN_ST_COUNT; s++) {
    bring((csn_state)s);
    int32_t len = csn_session_save(&d.s, image, sizeof image);
    uint8_t *p = guarded(image, (size_t)len);
    bool same = csn_session_load(&other, csn_span_of(p, (uint32_t)len)) == CSN_ERR_OK &&
                csn_session_save(&other, copy, sizeof copy) == len && memcmp(image, copy, (size_t)len) == 0;
    ok(same, "snapshot of %s: %d bytes", csn_state_name((csn_state)s), len);
    bool refused = true;
    for (int32_t n = 0; n < len; n++)
      if (csn_session_load(&other, csn_span_of(p, (uint32_t)n)) != CSN_ERR_BAD_SNAPSHOT ||
          other.state != CSN_ST_NEW)
        refused = false;
    ok(refused && csn_session_save(&d.s, copy, (uint32_t)len - 1) == CSN_ERR_AGAIN,
       "any part of it is refused");
    unguard(p, (size_t)len);
  }
  /* The largest: every text at its bound. */
  static char doc[CSN_IN_CAP];
  char *p = doc + sprintf(doc, "{\"agent\":\"claude-code\",\"system_prompt\":\"");
  memset(p, 's', CSN_SYSTEM_PROMPT_MAX);
  p += CSN_SYSTEM_PROMPT_MAX;
  p += sprintf(p, "\",\"model\":\"%0*d\",\"env\":{\"E\":\"", (int)CSN_MODEL_MAX, 1);
  memset(p, 'e', CSN_ENV_BYTES_MAX - 1);
  p += CSN_ENV_BYTES_MAX - 1;
  p += sprintf(p, "\"},\"prices\":[");
  for (uint32_t i = 0; i < CSN_PRICE_ROWS_MAX; i++)
    p += sprintf(p, "%s{\"model\":\"%0*u\",\"input\":%u,\"output\":2,\"cache_read\":0.5,\"above_tokens\":9}",
                 i == 0 ? "" : ",", (int)CSN_PRICE_NAME_MAX, i, i + 1);
  strcpy(p, "]}");
  drive_init(&d);
  ok(drive_ev(&d, CSN_EV_CREATE, 0, doc) == CSN_ERR_OK, "the largest session request: %s", d.pointer);
  drive_ev(&d, CSN_EV_SANDBOX_READY, 0, "");
  drive_next_run(&d, 1);
  p = doc + sprintf(doc, "{\"type\":\"result\",\"is_error\":false,\"result\":\"");
  memset(p, 'r', CSN_FIELD_MAX + 1);
  strcpy(p + CSN_FIELD_MAX + 1, "\"}\n");
  drive_feed(&d, CSN_STREAM_STDOUT, 1, doc, strlen(doc), CSN_FEED_MAX);
  int32_t most = csn_session_save(&d.s, image, sizeof image);
  ok(most > 98000 && most <= (int32_t)CSN_SNAPSHOT_MAX &&
         csn_session_load(&other, csn_span_of(image, (uint32_t)most)) == CSN_ERR_OK &&
         csn_session_save(&other, copy, sizeof copy) == most && memcmp(image, copy, (size_t)most) == 0,
     "the largest snapshot: %d bytes", most);
  ok(other.prices.count == CSN_PRICE_ROWS_MAX &&
         memcmp(&other.prices, &d.s.prices, sizeof other.prices) == 0 &&
         other.prices.rows[31].rate.input == 32000000 && other.prices.rows[31].rate.above == 9,
     "its prices are those that were given");
  bring(CSN_ST_IDLE);
  int32_t len = csn_session_save(&d.s, image, sizeof image);
  image[len] = 0;
  ok(csn_session_load(&other, csn_span_of(image, (uint32_t)len + 1)) == CSN_ERR_BAD_SNAPSHOT,
     "a byte too many");
  image[4] = CSN_SNAPSHOT_VERSION + 1;
  ok(csn_session_load(&other, csn_span_of(image, (uint32_t)len)) == CSN_ERR_BAD_SNAPSHOT, "a later version");
  image[4] = CSN_SNAPSHOT_VERSION - 2;
  ok(csn_session_load(&other, csn_span_of(image, (uint32_t)len)) == CSN_ERR_BAD_SNAPSHOT, "two versions ago");
  /* Snapshots as the version before wrote them. */
  static const char *const old[] = {"idle", "running", "collecting"};
  for (uint32_t i = 0; i < 3; i++) {
    char path[100];
    size_t size;
    snprintf(path, sizeof path, "tests/fixtures/snapshots/v%u-%s", CSN_SNAPSHOT_VERSION - 1, old[i]);
    uint8_t *bytes = slurp(path, &size);
    bool loaded = csn_session_load(&d.s, csn_span_of(bytes, (uint32_t)size)) == CSN_ERR_OK;
    int32_t saved = csn_session_save(&d.s, image, sizeof image);
    ok(loaded && image[4] == CSN_SNAPSHOT_VERSION && d.s.now_ms > 0 &&
           csn_session_load(&other, csn_span_of(image, (uint32_t)saved)) == CSN_ERR_OK &&
           csn_session_save(&other, copy, sizeof copy) == saved && memcmp(image, copy, (size_t)saved) == 0,
       "a snapshot of the version before: %s", old[i]);
    free(bytes);
  }
}

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "--table") == 0) {
    print_table();
    return 0;
  }
  sweep();
  outcomes();
  cancels();
  times();
  losses();
  bounds();
  notes();
  digests();
  resumes();
  specs();
  snapshots();
  csn_fx small = {drive_box, CSN_EVENT_FX_MAX - 1, 0};
  csn_rec rec = {.kind = CSN_EV_TIMER};
  ok(csn_session_event(&d.s, &rec, csn_span_of(NULL, 0), &small) == CSN_ERR_AGAIN, "no room: AGAIN");
  csn_fx fx = {drive_box, CSN_EVENT_FX_MAX, 0};
  rec.kind = CSN_EV_END;
  ok(csn_session_event(&d.s, &rec, csn_span_of(NULL, 0), &fx) == CSN_ERR_BAD_RECORD, "unknown kind");
  rec.kind = CSN_EV_OUTPUT;
  ok(csn_session_event(&d.s, &rec, csn_span_of(NULL, 0), &fx) == CSN_ERR_BAD_RECORD, "output is fed");
  free(d.log);
  return done();
}
