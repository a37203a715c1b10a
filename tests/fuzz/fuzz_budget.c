/* fuzz_budget.c - bytes as limits, answers, results, requests seen on the wire, changes of limits and time.
 * Oracles: no counter of a run or of the session goes down; a run is stopped at most once, after a warning of
 * the limit that stops it; a run over budget says which; a session loaded from its snapshot goes on the same;
 * what the core tells is valid JSON. */
#include "drive.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static drive d, other;
static csn_json reader;
static uint8_t image[CSN_SNAPSHOT_MAX], copy[CSN_SNAPSHOT_MAX];

static bool never_less(const csn_counters *now, const csn_counters *before) {
  for (uint32_t i = 1; i < CSN_LIMIT_END; i++)
    if (csn_counter(now, (csn_limit)i) < csn_counter(before, (csn_limit)i)) return false;
  return now->usage.cost_unknown >= before->usage.cost_unknown;
}

static csn_counters total(const csn_session *s) {
  csn_counters c = s->budget.ended;
  csn_usage_add(&c.usage, &s->budget.run.usage);
  c.output_bytes = csn_add_sat(c.output_bytes, s->budget.run.output_bytes);
  c.wall_ms = csn_add_sat(c.wall_ms, s->budget.run.wall_ms);
  return c;
}

static int count(const char *text) {
  int n = 0;
  for (const char *p = d.log; p != NULL && (p = strstr(p, text)) != NULL; p++)
    n++;
  return n;
}

static void limits_of(char *text, size_t cap, uint8_t which, uint8_t value) {
  static const char *const keys[] = {"wall_s",        "turns",    "tool_calls",  "tokens",
                                     "output_tokens", "cost_usd", "output_bytes"};
  size_t n = (size_t)snprintf(text, cap, "{");
  for (uint32_t i = 0; i < 7; i++)
    if (which >> i & 1)
      n += (size_t)snprintf(text + n, cap - n, "%s\"%s\":%s%u", n > 1 ? "," : "", keys[i], i == 5 ? "0." : "",
                            value + 1u);
  snprintf(text + n, cap - n, "}");
}

static void check_json(void) {
  for (const char *p = d.log; p != NULL && *p == '@';) {
    const char *end = strchr(p, '\n'), *json = strchr(p, ' ') + 1;
    if (!csn_json_is_valid(&reader, csn_span_of(json, (uint32_t)(end - json)))) __builtin_trap();
    p = end + 1;
  }
  if (d.budget[0] != 0 && !csn_json_is_valid(&reader, csn_span_str(d.budget))) __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char limits[400], text[600];
  if (size < 4) return 0;
  drive_init(&d);
  d.now_ms = 1;
  limits_of(limits, sizeof limits, data[0], data[1]);
  snprintf(text, sizeof text, "{\"agent\":\"claude-code\",\"limits\":%s}", limits);
  drive_ev(&d, CSN_EV_CREATE, 0, text);
  drive_ev(&d, CSN_EV_SANDBOX_READY, 0, "");
  limits_of(limits, sizeof limits, data[2], data[3]);
  uint32_t run = 0;
  for (size_t at = 4; at + 4 <= size; at += 4) {
    const uint8_t *b = data + at;
    drive_clear(&d);
    csn_counters before_run = d.s.budget.run, before = total(&d.s);
    uint32_t current = d.s.run;
    bool killing = d.s.state == CSN_ST_KILLING;
    uint8_t warned = (uint8_t)(d.s.budget.warned[0] | d.s.budget.warned[1]);
    if (d.s.state == CSN_ST_ENDED || d.s.state == CSN_ST_ENDING) break;
    if (d.s.run == 0) {
      snprintf(text, sizeof text, "{\"prompt\":\"-\",\"limits\":%s}", limits);
      csn_err err = drive_ev(&d, CSN_EV_RUN, 0, text);
      if ((err == CSN_ERR_OVER_BUDGET) != (csn_budget_spent(&d.s.budget) != CSN_LIMIT_NONE)) __builtin_trap();
      if (err != CSN_ERR_OK) break;
      run = d.s.run;
      drive_ev(&d, CSN_EV_RUN_LOADED, run, text);
      drive_ev(&d, CSN_EV_RUN_STARTED, run, "");
      continue;
    }
    switch (b[0] % 8) {
    case 0:
    case 1:
      snprintf(text, sizeof text,
               "{\"type\":\"assistant\",\"message\":{\"id\":\"m%u\",\"model\":\"%s\",\"content\":[{\"type\":"
               "\"tool_use\"}],"
               "\"usage\":{\"input_tokens\":%llu,\"output_tokens\":%u}}}\n",
               b[1] % 32u, b[2] & 1 ? "claude-opus-5-5" : "x",
               b[2] == 255 ? (unsigned long long)UINT64_MAX : (unsigned long long)b[2] * 999u, b[3]);
      drive_feed(&d, CSN_STREAM_STDOUT, run, text, strlen(text), 1u + b[3]);
      break;
    case 2:
      strcpy(text, "{\"type\":\"user\",\"message\":{\"content\":[{\"type\":\"tool_result\"}]}}\n");
      drive_feed(&d, CSN_STREAM_STDOUT, run, text, strlen(text), 1u + b[3]);
      break;
    case 3:
      snprintf(text, sizeof text,
               "{\"type\":\"result\",\"is_error\":false,\"num_turns\":%u,\"total_cost_usd\":0.%u,\"usage\":{"
               "\"input_tokens\":%u}}\n",
               b[1], b[2], b[3]);
      drive_feed(&d, CSN_STREAM_STDOUT, run, text, strlen(text), 1u + b[3]);
      break;
    case 4:
      snprintf(text, sizeof text, "{\"model\":\"%s\",\"input_tokens\":%u,\"output_tokens\":%u}",
               b[1] > 250 ? "x" : "gpt-6-sol", b[2] * 4000u, b[3]);
      drive_ev(&d, CSN_EV_USAGE, run, text);
      break;
    case 5: {
      char changed[400];
      limits_of(changed, sizeof changed, b[1], b[2]);
      snprintf(text, sizeof text, "{\"limits\":%s}", changed);
      if (b[3] & 1) strcpy(text, "{\"limits\":{\"turns\":null,\"tokens\":null,\"cost_usd\":null}}");
      drive_ev(&d, CSN_EV_SET_LIMITS, 0, text);
      break;
    }
    case 6:
      d.now_ms += (uint64_t)b[1] * b[2];
      drive_ev(&d, CSN_EV_TIMER, 0, "");
      break;
    default:
      drive_end(&d, run, EXITED_0);
      if (has(&d, "run.over_budget") && !has(&d, "\"budget\":{\"limit\":\"")) __builtin_trap();
      break;
    }
    check_json();
    if (d.gap) __builtin_trap();
    csn_counters now = total(&d.s);
    if (!never_less(&now, &before)) __builtin_trap();
    if (d.s.run == current && current != 0 && !never_less(&d.s.budget.run, &before_run)) __builtin_trap();
    if (count("run_kill ") > 1) __builtin_trap();
    /* A run that will not end is told again; its limits may have been lifted by then. */
    if (has(&d, "run_kill ") && !killing) {
      uint8_t all = (uint8_t)(warned | d.s.budget.warned[0] | d.s.budget.warned[1]);
      if (d.s.kill == CSN_KILL_OVER_BUDGET && !(all >> d.s.budget.over & 1)) __builtin_trap();
    }
    /* A session that is loaded is the same. Now and then: it takes longer than all the rest. */
    if (at % 64 != 4) continue;
    int32_t len = csn_session_save(&d.s, image, sizeof image);
    drive_init(&other);
    if (csn_session_load(&other.s, csn_span_of(image, (uint32_t)len)) != CSN_ERR_OK) __builtin_trap();
    if (csn_session_save(&other.s, copy, sizeof copy) != len || memcmp(image, copy, (size_t)len) != 0)
      __builtin_trap();
  }
  return 0;
}
