/* Limits and counters: of a run, of its session, in any chunking, over a snapshot. */
#include "drive.h"

static drive d;

#define TURN(id, in, out)                                                                                    \
  "{\"type\":\"assistant\",\"message\":{\"id\":\"" id                                                        \
  "\",\"model\":\"claude-opus-5-5\",\"content\":[{\"type\":\"tool_use\",\"id\":\"t" id                       \
  "\",\"name\":\"Bash\",\"input\":{}}],\"usage\":{\"input_tokens\":" #in ",\"output_tokens\":" #out "}}}\n"
#define TOOL(id)                                                                                             \
  "{\"type\":\"user\",\"message\":{\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"t" id            \
  "\",\"content\":\"x\"}]}}\n"
#define RESULT(in, out, cost, turns)                                                                         \
  "{\"type\":\"result\",\"is_error\":false,\"result\":\"r\",\"num_turns\":" #turns                           \
  ",\"total_cost_usd\":" #cost ",\"usage\":{\"input_tokens\":" #in ",\"output_tokens\":" #out "}}\n"

/* A session with `limits` whose run 1, with `run_limits`, runs; both as JSON objects. */
static void begin(const char *agent, const char *limits, const char *run_limits) {
  char text[1000], run[1000];
  drive_init(&d);
  d.now_ms = 1000;
  snprintf(text, sizeof text, "{\"agent\":\"%s\",\"limits\":%s}", agent, limits);
  snprintf(run, sizeof run, "{\"%s\":\"-\",\"limits\":%s}",
           strcmp(agent, "shell") == 0 ? "command" : "prompt", run_limits);
  if (drive_ev(&d, CSN_EV_CREATE, 0, text) != CSN_ERR_OK) printf("# refused: %s\n", text);
  drive_ev(&d, CSN_EV_SANDBOX_READY, 0, "");
  if (drive_ev(&d, CSN_EV_RUN, 0, run) != CSN_ERR_OK) printf("# refused: %s\n", run);
  drive_ev(&d, CSN_EV_RUN_LOADED, 1, run);
  drive_ev(&d, CSN_EV_RUN_STARTED, 1, "");
  drive_clear(&d);
}

static void say(const char *text) {
  drive_clear(&d);
  drive_feed(&d, CSN_STREAM_STDOUT, 1, text, strlen(text), CSN_FEED_MAX);
}

static bool told(const char *text) {
  return strstr(d.budget, text) != NULL;
}

static int count(const char *text) {
  int n = 0;
  for (const char *p = d.log; p != NULL && (p = strstr(p, text)) != NULL; p++)
    n++;
  return n;
}

#define WARNING "\"type\":\"limit.warning\","

static void test_turns(void) {
  begin("claude-code", "{}", "{\"turns\":2}");
  say(TURN("a", 1, 1));
  ok(!has(&d, "limit.warning") && told("\"turns\":{\"used\":1,\"max\":2,\"remaining\":1}") &&
         told("\"may_call\":true"),
     "a turn of two: %s", d.budget);
  say(TOOL("a"));
  ok(!has(&d, "run_kill"), "its tool");
  say(TURN("b", 1, 1));
  ok(has(&d, WARNING "\"limit\":\"turns\",\"scope\":\"run\",\"used\":2,\"max\":2}") && !has(&d, "run_kill"),
     "the last turn is warned of, and may end: %s", d.log);
  ok(d.budget_code == CSN_LIMIT_TURNS && told("\"may_call\":false,\"reached\":\"turns\""),
     "no call of the model after it");
  say(TOOL("b"));
  ok(has(&d, "run_kill 1 3 ") && !has(&d, "limit.warning") && d.s.state == CSN_ST_KILLING,
     "another turn would follow: stopped");
  drive_clear(&d);
  drive_end(&d, 1, "{\"reason\":\"killed\",\"exit_code\":null,\"signal\":15,\"detail\":\"over budget\"}");
  ok(has(&d, "\"run.over_budget\",\"reason\":\"turns\"") &&
         has(&d, "\"budget\":{\"limit\":\"turns\",\"scope\":\"run\",\"used\":2,\"max\":2}") &&
         !has(&d, "\"error\""),
     "the outcome says which: %s", d.log);

  begin("claude-code", "{}", "{\"turns\":2}");
  say(TURN("a", 1, 1) TOOL("a") TURN("b", 1, 1) RESULT(2, 2, 0.1, 2));
  drive_end(&d, 1, EXITED_0);
  ok(has(&d, "run.succeeded") && !has(&d, "run_kill") && !has(&d, "\"budget\":{\"limit\""),
     "a run that ends with its last turn succeeds");

  begin("claude-code", "{}", "{\"turns\":1}");
  say(TURN("a", 1, 1) TURN("a", 1, 1) TURN("b", 1, 1));
  ok(has(&d, "run_kill") && count("agent.turn") == 2, "a turn beyond the limit stops it, seen or not");

  begin("claude-code", "{}", "{\"tool_calls\":1}");
  say(TURN("a", 1, 1));
  ok(has(&d, WARNING "\"limit\":\"tool_calls\"") && !has(&d, "run_kill"), "the last tool call is made");
  say(TURN("b", 1, 1));
  ok(has(&d, "run_kill"), "one more stops the run");
}

static void test_tokens_and_cost(void) {
  begin("claude-code", "{}", "{\"tokens\":100}");
  say(TURN("a", 79, 0));
  ok(!has(&d, "limit.warning"), "79 of 100 tokens");
  say(TURN("b", 1, 0));
  ok(has(&d, "\"limit\":\"tokens\",\"scope\":\"run\",\"used\":80,\"max\":100") && !has(&d, "run_kill"), "80");
  say(TURN("c", 19, 0));
  ok(!has(&d, "limit.warning") && !has(&d, "run_kill"), "99: warned once");
  say(TURN("d", 0, 1));
  ok(has(&d, "run_kill 1 3 "), "100");
  say(TURN("e", 100, 0));
  ok(!has(&d, "run_kill") && told("\"tokens\":{\"used\":200,\"max\":100,\"remaining\":0}"),
     "it is stopped once; what it still uses counts");

  begin("claude-code", "{}", "{\"output_tokens\":10,\"cost_usd\":0.004}");
  say(TURN("a", 799, 0));
  ok(!has(&d, "limit.warning") &&
         told("\"cost_usd\":{\"used\":0.003196,\"max\":0.004,\"remaining\":0.000804}"),
     "priced by the table: %s", d.budget);
  say(TURN("b", 1, 0));
  ok(has(&d, "\"limit\":\"cost_usd\",\"scope\":\"run\",\"used\":0.0032,\"max\":0.004"), "80 %% of the cost");
  say(TURN("c", 150, 10));
  ok(has(&d, "run_kill") && has(&d, "\"limit\":\"output_tokens\""), "two limits in one line");
  drive_clear(&d);
  drive_end(&d, 1, EXITED_0);
  ok(has(&d, "\"reason\":\"output_tokens\""), "the first of them is the reason: %s", d.log);

  begin("claude-code", "{}", "{\"cost_usd\":1}");
  say(TURN("a", 1, 1) RESULT(10, 10, 2.5, 1));
  ok(has(&d, WARNING "\"limit\":\"cost_usd\",\"scope\":\"run\",\"used\":2.5,\"max\":1") &&
         !has(&d, "run_kill"),
     "the agent's own figure comes with its end: nothing is left to be stopped");
  say(TURN("b", 1, 1));
  ok(has(&d, "run_kill"), "but if it goes on");
  begin("claude-code", "{}", "{\"cost_usd\":1}");
  say(TURN("a", 1, 1) RESULT(10, 10, 2.5, 1));
  drive_clear(&d);
  drive_end(&d, 1, EXITED_0);
  ok(has(&d, "run.succeeded") &&
         has(&d, "\"budget\":{\"limit\":\"cost_usd\",\"scope\":\"run\",\"used\":2.5,\"max\":1}"),
     "a run that ended by itself says that it went over: %s", d.log);
}

static void test_unknown_price(void) {
  begin("claude-code", "{\"cost_usd\":5}", "{}");
  drive_ev(&d, CSN_EV_USAGE, 1, "{\"model\":\"nobody-knows\",\"input_tokens\":1}");
  ok(has(&d, "\"used\":null,\"max\":5,\"detail\":\"the price of a model is not known\"") &&
         has(&d, "run_kill"),
     "a cost that is not known is over any limit: %s", d.log);
  drive_clear(&d);
  drive_end(&d, 1, EXITED_0);
  ok(has(&d, "\"cost_usd\":null") &&
         has(&d, "\"budget\":{\"limit\":\"cost_usd\",\"scope\":\"session\",\"used\":null"),
     "and never invented: %s", d.log);
  ok(drive_ev(&d, CSN_EV_RUN, 0, "{\"prompt\":\"-\"}") == CSN_ERR_OVER_BUDGET, "nor forgotten");
  begin("claude-code", "{}", "{}");
  drive_ev(&d, CSN_EV_USAGE, 1, "{\"model\":\"nobody-knows\",\"input_tokens\":1}");
  ok(!has(&d, "run_kill") && told("\"may_call\":true") && told("\"cost_usd\":null"),
     "without a limit it is null");
  begin("claude-code", "{\"cost_usd\":5}", "{}");
  drive_ev(&d, CSN_EV_USAGE, 1, "{\"model\":\"nobody-knows\",\"input_tokens\":1,\"cost_usd\":0.25}");
  ok(!has(&d, "run_kill") && told("\"used\":0.25,"), "unless the wire says it");
}

static void test_time_and_output(void) {
  begin("claude-code", "{}", "{\"wall_s\":10}");
  ok(d.s.wake_ms == 9000, "awake at 80 %% of the time: %llu", (unsigned long long)d.s.wake_ms);
  d.now_ms = 8999;
  drive_ev(&d, CSN_EV_TIMER, 0, "");
  ok(!has(&d, "limit.warning"), "a millisecond before");
  d.now_ms = 9000;
  drive_ev(&d, CSN_EV_TIMER, 0, "");
  ok(has(&d, "\"limit\":\"wall_s\",\"scope\":\"run\",\"used\":8,\"max\":10") && d.s.wake_ms == 11000,
     "80 %%: %s", d.log);
  d.now_ms = 11000;
  drive_ev(&d, CSN_EV_TIMER, 0, "");
  ok(has(&d, "run_kill 1 3 "), "100 %%");
  drive_clear(&d);
  drive_end(
      &d, 1,
      "{\"reason\":\"killed\",\"exit_code\":null,\"signal\":15,\"started_ms\":1000,\"ended_ms\":11500}");
  ok(has(&d, "\"reason\":\"wall_s\"") && has(&d, "\"wall_ms\":10500}"), "the runner's clock: %s", d.log);

  begin("claude-code", "{\"output_bytes\":2000}", "{}");
  static char line[3000];
  memset(line, 'x', sizeof line);
  line[1599] = 0;
  say(line);
  ok(!has(&d, "limit.warning"), "1599 bytes of 2000, in no line yet");
  line[1599] = 'x';
  drive_feed(&d, CSN_STREAM_STDERR, 1, "e", 1, 1);
  ok(has(&d, "\"limit\":\"output_bytes\",\"scope\":\"session\",\"used\":1600,\"max\":2000"),
     "both streams count");
  drive_clear(&d);
  drive_feed(&d, CSN_STREAM_STDOUT, 1, line, 1000, 1000);
  ok(has(&d, "run_kill") && d.s.budget.over_used == 2000, "the very byte stops it");
}

static void test_session(void) {
  begin("claude-code", "{\"turns\":4}", "{}");
  say(TURN("a", 1, 1) RESULT(10, 20, 0.5, 1));
  ok(drive_ev(&d, CSN_EV_RUN, 0, "{\"prompt\":\"-\"}") == CSN_ERR_OK, "a second run waits");
  ok(drive_ev(&d, CSN_EV_RUN, 0, "{\"prompt\":\"-\"}") == CSN_ERR_OK, "and a third");
  drive_end(&d, 1, EXITED_0);
  drive_ev(&d, CSN_EV_RUN_LOADED, 2, "{\"prompt\":\"-\",\"limits\":{\"turns\":100}}");
  drive_ev(&d, CSN_EV_RUN_STARTED, 2, "");
  drive_clear(&d);
  static const char two[] = TURN("b", 1, 1) TOOL("b") TURN("c", 1, 1) TOOL("c");
  drive_feed(&d, CSN_STREAM_STDOUT, 2, two, strlen(two), 100);
  ok(!has(&d, "limit.warning") && told("\"session\":{\"usage\":{\"input_tokens\":12,"), "3 of 4: %s",
     d.budget);
  static const char last[] = TURN("d", 1, 1) TOOL("d");
  drive_feed(&d, CSN_STREAM_STDOUT, 2, last, strlen(last), 100);
  ok(has(&d, "\"scope\":\"session\",\"used\":4,\"max\":4") && has(&d, "run_kill 2 3 "),
     "the session's limit");
  drive_clear(&d);
  drive_end(&d, 2, EXITED_0);
  ok(has(&d, "\"run\":\"run_2\",\"type\":\"run.over_budget\",\"reason\":\"turns\"") &&
         has(&d, "\"run\":\"run_3\",\"type\":\"run.over_budget\",\"reason\":\"turns\"") &&
         has(&d, "session.idle") && !has(&d, "run_load"),
     "what waits does not begin: %s", d.log);
  drive_clear(&d);
  ok(drive_ev(&d, CSN_EV_RUN, 0, "{\"prompt\":\"-\"}") == CSN_ERR_OVER_BUDGET && d.log_len == 0,
     "nor does anything else");
  ok(drive_ev(&d, CSN_EV_SET_LIMITS, 0, "{\"limits\":{\"turns\":10}}") == CSN_ERR_OK &&
         has(&d, "\"session.updated\",\"limits\":{\"turns\":10}") && told("\"may_call\":true"),
     "the limit is raised: %s", d.log);
  drive_next_run(&d, 4);
  drive_clear(&d);
  static const char four[] =
      TURN("e", 1, 1) TOOL("e") TURN("f", 1, 1) TOOL("f") TURN("g", 1, 1) TOOL("g") TURN("h", 1, 1);
  drive_feed(&d, CSN_STREAM_STDOUT, 4, four, strlen(four), 100);
  ok(count("limit.warning") == 1 && has(&d, "\"used\":8,\"max\":10"),
     "warned of again at 80 %% of the new one");
  drive_clear(&d);
  drive_ev(&d, CSN_EV_SET_LIMITS, 0, "{\"limits\":{\"turns\":7}}");
  ok(has(&d, "run_kill 4 3 "), "lowered below what is used: the running run is stopped");
  drive_ev(&d, CSN_EV_SET_LIMITS, 0, "{\"limits\":{\"turns\":null}}");
  drive_clear(&d);
  drive_end(&d, 4, EXITED_0);
  ok(has(&d, "\"run.over_budget\",\"reason\":\"turns\"") && has(&d, "\"used\":8,\"max\":7"),
     "what stopped it stays, lifted or not: %s", d.log);
  ok(drive_ev(&d, CSN_EV_RUN, 0, "{\"prompt\":\"-\"}") == CSN_ERR_OK, "a session without limits goes on");
}

static void test_wire(void) {
  begin("claude-code", "{}", "{\"tokens\":1000}");
  drive_ev(&d, CSN_EV_USAGE, 1, "{\"model\":\"claude-opus-5-5\",\"input_tokens\":100,\"output_tokens\":50}");
  ok(told("\"tokens\":{\"used\":150,") && told("\"cost_usd\":0.0014,"), "counted on the wire: %s", d.budget);
  say(TURN("a", 100, 1));
  ok(told("\"tokens\":{\"used\":150,"), "the agent says less: the wire counts");
  say(RESULT(100, 300, 0.5, 1));
  ok(told("\"tokens\":{\"used\":400,") && told("\"cost_usd\":0.5,"), "the agent says more: it counts");
  drive_ev(&d, CSN_EV_USAGE, 1, "{\"input_tokens\":650}");
  ok(told("\"input_tokens\":750,\"output_tokens\":300") && has(&d, "\"limit\":\"tokens\"") &&
         d.budget_code == CSN_LIMIT_TOKENS,
     "each counter by itself: %s", d.budget);
  drive_clear(&d);
  ok(drive_ev(&d, CSN_EV_USAGE, 2, "{}") == CSN_ERR_OK && d.s.late_count == 1, "of another run: late");
  ok(drive_ev(&d, CSN_EV_USAGE, 1, "{\"input_tokens\":-1}") == CSN_ERR_OUT_OF_RANGE &&
         strcmp(d.pointer, "/input_tokens") == 0,
     "a negative count");
  ok(drive_ev(&d, CSN_EV_USAGE, 1, "{\"input_tokens\":1.5}") == CSN_ERR_BAD_VALUE, "half a token");
  ok(drive_ev(&d, CSN_EV_USAGE, 1, "{\"tokens\":1}") == CSN_ERR_UNKNOWN_FIELD, "an unknown count");
  ok(drive_ev(&d, CSN_EV_USAGE, 1, "[]") == CSN_ERR_BAD_JSON, "no object");
}

static void test_idle(void) {
  drive_init(&d);
  d.now_ms = 1000;
  drive_ev(&d, CSN_EV_CREATE, 0, "{\"agent\":\"shell\",\"limits\":{\"idle_s\":10}}");
  d.now_ms = 5000;
  drive_ev(&d, CSN_EV_SANDBOX_READY, 0, "");
  ok(d.s.wake_ms == 15000 && told("\"limits\":{\"idle_s\":10}"), "awake when it has been idle");
  d.now_ms = 14000;
  drive_ev(&d, CSN_EV_TOUCH, 0, "");
  ok(d.s.wake_ms == 24000, "a touch begins it anew");
  d.now_ms = 15000;
  drive_ev(&d, CSN_EV_TIMER, 0, "");
  ok(d.s.state == CSN_ST_IDLE, "not yet");
  drive_ev(&d, CSN_EV_RUN, 0, "{\"command\":\"x\"}");
  drive_ev(&d, CSN_EV_RUN_LOADED, 1, "{\"command\":\"x\"}");
  drive_ev(&d, CSN_EV_RUN_STARTED, 1, "");
  d.now_ms = 60000;
  drive_ev(&d, CSN_EV_TIMER, 0, "");
  ok(d.s.state == CSN_ST_RUNNING, "a run is not idle");
  drive_end(&d, 1, EXITED_0);
  ok(d.s.wake_ms == 70000, "from its end");
  drive_ev(&d, CSN_EV_SET_LIMITS, 0, "{\"limits\":{\"idle_s\":20}}");
  ok(d.s.wake_ms == 80000, "changed");
  d.now_ms = 80000;
  drive_clear(&d);
  drive_ev(&d, CSN_EV_TIMER, 0, "");
  ok(d.s.state == CSN_ST_ENDING && has(&d, "sandbox_destroy"), "over");
  drive_ev(&d, CSN_EV_SANDBOX_GONE, 0, "\"destroyed\"");
  ok(has(&d, "\"session.ended\",\"reason\":\"idle\""), "and says why: %s", d.log);
}

static void refused(const char *what, const char *doc, csn_err want, const char *pointer) {
  char text[6000];
  drive_init(&d);
  snprintf(text, sizeof text, "{\"agent\":\"shell\",%s}", doc);
  csn_err err = drive_ev(&d, CSN_EV_CREATE, 0, text);
  ok(err == want && (want == CSN_ERR_OK || strcmp(d.pointer, pointer) == 0), "%s: %d %s", what, err,
     d.pointer);
}

static void test_requests(void) {
  refused("limits that are no object", "\"limits\":[]", CSN_ERR_BAD_TYPE, "/limits");
  refused("an unknown limit", "\"limits\":{\"lines\":1}", CSN_ERR_UNKNOWN_FIELD, "/limits/lines");
  refused("a limit of 0", "\"limits\":{\"turns\":0}", CSN_ERR_OUT_OF_RANGE, "/limits/turns");
  refused("half a turn", "\"limits\":{\"turns\":1.5}", CSN_ERR_BAD_VALUE, "/limits/turns");
  refused("a text", "\"limits\":{\"tokens\":\"1\"}", CSN_ERR_BAD_TYPE, "/limits/tokens");
  refused("null, where nothing is to be lifted", "\"limits\":{\"tokens\":null}", CSN_ERR_BAD_TYPE,
          "/limits/tokens");
  refused("one twice", "\"limits\":{\"turns\":1,\"turns\":2}", CSN_ERR_BAD_VALUE, "/limits/turns");
  refused("the most", "\"limits\":{\"tokens\":2000000000}", CSN_ERR_OK, "");
  refused("one more", "\"limits\":{\"tokens\":2000000001}", CSN_ERR_OUT_OF_RANGE, "/limits/tokens");
  refused("the most dollars", "\"limits\":{\"cost_usd\":1000000}", CSN_ERR_OK, "");
  ok(told("\"limits\":{\"cost_usd\":1000000}"), "as they are");
  refused("more of them", "\"limits\":{\"cost_usd\":1000000.01}", CSN_ERR_OUT_OF_RANGE, "/limits/cost_usd");
  refused("a micro-dollar", "\"limits\":{\"cost_usd\":0.000001}", CSN_ERR_OK, "");
  refused("less", "\"limits\":{\"cost_usd\":0.0000009}", CSN_ERR_OUT_OF_RANGE, "/limits/cost_usd");
  static const char *const exact[] = {
      "0.1",         "0.2",       "0.3",         "4.35",        "1.005",
      "0.000001",    "999999.99", "123.456789",  "0.123456789", "999999.999999999",
      "2.675000001", "8.2",       "1000.000001", "64.1"};
  for (uint32_t i = 0; i < sizeof exact / sizeof exact[0]; i++) {
    char doc[100], want[100];
    snprintf(doc, sizeof doc, "\"limits\":{\"cost_usd\":%s}", exact[i]);
    snprintf(want, sizeof want, "\"limits\":{\"cost_usd\":%s},", exact[i]);
    refused("decimals", doc, CSN_ERR_OK, "");
    ok(told(want), "%s is kept to the digit", exact[i]);
  }
  refused("prices", "\"prices\":[{\"model\":\"m*\",\"input\":1,\"output\":2.5}]", CSN_ERR_OK, "");
  ok(d.s.prices.count == 1 && d.s.prices.rows[0].prefix && d.s.prices.rows[0].rate.output == 2500000 &&
         d.s.prices.rows[0].rate.cache_read == 1000000,
     "a price without the cache's");
  refused("a price with the cache's",
          "\"prices\":[{\"model\":\"m\",\"input\":1,\"output\":2,\"cache_read\":0.1,\"cache_write\":1.25,"
          "\"above_tokens\":200000}]",
          CSN_ERR_OK, "");
  ok(!d.s.prices.rows[0].prefix && d.s.prices.rows[0].rate.cache_read == 100000 &&
         d.s.prices.rows[0].rate.cache_write == 1250000 && d.s.prices.rows[0].rate.above == 200000,
     "a price with the cache's and a threshold");
  refused("a bad price of the cache",
          "\"prices\":[{\"model\":\"m\",\"input\":1,\"output\":2,\"cache_read\":\"x\"}]", CSN_ERR_BAD_TYPE,
          "/prices/0/cache_read");
  refused("a price without a model", "\"prices\":[{\"input\":1,\"output\":2}]", CSN_ERR_MISSING_FIELD,
          "/prices/0/model");
  refused("a price for all models", "\"prices\":[{\"model\":\"*\",\"input\":1,\"output\":2}]",
          CSN_ERR_BAD_VALUE, "/prices/0/model");
  refused("a price without output", "\"prices\":[{\"model\":\"m\",\"input\":1}]", CSN_ERR_MISSING_FIELD,
          "/prices/0/output");
  refused("a negative one", "\"prices\":[{\"model\":\"m\",\"input\":1,\"output\":-2}]", CSN_ERR_OUT_OF_RANGE,
          "/prices/0/output");
  refused("an unknown field of one", "\"prices\":[{\"model\":\"m\",\"input\":1,\"output\":2,\"x\":1}]",
          CSN_ERR_UNKNOWN_FIELD, "/prices/0/x");
  char many[5000] = "\"prices\":[";
  for (uint32_t i = 0; i <= CSN_PRICE_ROWS_MAX; i++) {
    strcat(many, i == 0 ? "" : ",");
    strcat(many, "{\"model\":\"m\",\"input\":1,\"output\":2}");
  }
  strcat(many, "]");
  refused("too many prices", many, CSN_ERR_TOO_LONG, "/prices");
  begin("shell", "{}", "{}");
  ok(drive_ev(&d, CSN_EV_SET_LIMITS, 0, "{}") == CSN_ERR_MISSING_FIELD && strcmp(d.pointer, "/limits") == 0,
     "no limits to set");
  ok(drive_ev(&d, CSN_EV_SET_LIMITS, 0, "{\"limits\":{\"turns\":0}}") == CSN_ERR_OUT_OF_RANGE &&
         strcmp(d.pointer, "/limits/turns") == 0,
     "a bad one");
  ok(drive_ev(&d, CSN_EV_SET_LIMITS, 0, "{\"limits\":{},\"x\":1}") == CSN_ERR_UNKNOWN_FIELD &&
         strcmp(d.pointer, "/x") == 0,
     "something else");
  ok(drive_ev(&d, CSN_EV_RUN, 0, "{\"command\":\"x\",\"limits\":{\"idle_s\":1}}") == CSN_ERR_UNKNOWN_FIELD &&
         strcmp(d.pointer, "/limits/idle_s") == 0,
     "a run is never idle");
}

/* Whatever the chunks, and whether or not an instance is thrown away after each: the same counters, which
 * never go down. */
static uint64_t random_state = 88172645463325252u;
static uint32_t rnd(uint32_t n) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return (uint32_t)(random_state % n);
}

static bool never_less(const csn_counters *now, const csn_counters *before) {
  for (uint32_t i = 1; i < CSN_LIMIT_END; i++)
    if (csn_counter(now, (csn_limit)i) < csn_counter(before, (csn_limit)i)) return false;
  return now->usage.cost_unknown >= before->usage.cost_unknown;
}

static void test_chunks(void) {
  static char stream[20000];
  static uint8_t image[CSN_SNAPSHOT_MAX];
  bool same = true, rising = true, saved = true;
  for (uint32_t round = 0; round < 60; round++) {
    size_t len = 0;
    for (uint32_t i = 0; i < 30; i++) {
      uint64_t in = rnd(6) == 0 ? UINT64_MAX - rnd(5) : rnd(2000);
      if (rnd(8) == 0)
        len += (size_t)sprintf(
            stream + len,
            "{\"type\":\"result\",\"is_error\":false,\"num_turns\":%u,\"total_cost_usd\":%u.%03u,"
            "\"usage\":{\"input_tokens\":%llu,\"output_tokens\":%u}}\n",
            rnd(4), rnd(3), rnd(1000), (unsigned long long)in, rnd(900));
      else
        len += (size_t)sprintf(
            stream + len,
            "{\"type\":\"assistant\",\"message\":{\"id\":\"m%u\",\"model\":\"claude-opus-5-5\",\"content\":["
            "{\"type\":\"tool_use\"}],\"usage\":{\"input_tokens\":%llu,\"output_tokens\":%u}}}\n" TOOL("m"),
            rnd(12), (unsigned long long)in, rnd(90));
    }
    char *first = NULL;
    for (uint32_t how = 0; how < 4; how++) {
      begin("claude-code", "{\"turns\":9,\"output_bytes\":1500}", "{\"tokens\":9000,\"cost_usd\":0.05}");
      size_t at = 0;
      while (at < len) {
        uint32_t n = how == 0 ? (uint32_t)(len - at) : how == 1 ? 1 : 1 + rnd(how == 2 ? 50 : 3000);
        if (n > len - at) n = (uint32_t)(len - at);
        csn_counters before = d.s.budget.run;
        drive_feed(&d, CSN_STREAM_STDOUT, 1, stream + at, n, n);
        rising = rising && never_less(&d.s.budget.run, &before);
        at += n;
        if (how != 3) continue;
        csn_counters kept = d.s.budget.run;
        int32_t size = csn_session_save(&d.s, image, sizeof image);
        if (csn_session_load(&d.s, csn_span_of(image, (uint32_t)size)) != CSN_ERR_OK) saved = false;
        saved = saved && memcmp(&kept, &d.s.budget.run, sizeof kept) == 0;
        at = d.cursor[CSN_STREAM_STDOUT];
        if (n < 3000 && at + n < len && d.s.fed[0] == at) { /* a line longer than the chunk: all of it */
          const char *end = memchr(stream + at, '\n', len - at);
          drive_feed(&d, CSN_STREAM_STDOUT, 1, stream + at, (size_t)(end - stream) + 1 - at, 40000);
          at = (size_t)(end - stream) + 1;
        }
      }
      drive_end(&d, 1, EXITED_0);
      if (first == NULL)
        first = strdup(d.log);
      else if (strcmp(first, d.log) != 0 || d.gap)
        same = false;
      rising = rising && d.s.budget.ended.usage.turns <= 90;
    }
    free(first);
  }
  ok(same, "the same events for any chunks, also with a new instance after each");
  ok(rising, "no counter ever goes down");
  ok(saved, "a snapshot keeps them all");
}

static void test_json_bounds(void) {
  static _Alignas(8) uint8_t box[8192];
  csn_budget b = {0};
  csn_fx fx = {box, sizeof box, 0};
  uint64_t seq = UINT64_MAX - 99;
  csn_emit e = {.fx = &fx, .seq = &seq, .time_ms = UINT64_MAX, .run = CSN_RUN_MAX};
  csn_limits most;
  for (uint32_t i = 0; i < CSN_LIMIT_END; i++)
    most.max[i] = i == CSN_LIMIT_COST ? 999999999999999u : 1999999999u;
  b.limits[CSN_SCOPE_SESSION] = most;
  csn_budget_begin(&b, &most);
  csn_usage top = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX - 1, UINT32_MAX, UINT32_MAX, 0};
  csn_budget_count(&b, &top, true, UINT64_MAX, UINT64_MAX);
  csn_budget_check(&b, &e);
  ok(fx.len <= CSN_BUDGET_WARNINGS_MAX, "the longest warnings fit: %u", fx.len);
  fx.len = 0;
  uint32_t at = csn_fx_open(&fx, CSN_FX_BUDGET, 0, 0, 0, 0);
  csn_put_budget(&fx, &b, CSN_RUN_MAX, CSN_TIMEOUT_S_MAX);
  csn_fx_close(&fx, at);
  ok(fx.len <= CSN_BUDGET_JSON_MAX + sizeof(csn_rec), "so does the longest state: %u", fx.len);
  csn_budget_end(&b);
  csn_budget_count(&b, &top, true, UINT64_MAX, UINT64_MAX);
  csn_budget_end(&b);
  ok(b.ended.usage.input_tokens == UINT64_MAX && b.ended.output_bytes == UINT64_MAX &&
         b.ended.wall_ms == UINT64_MAX && csn_budget_spent(&b) == CSN_LIMIT_WALL,
     "sums saturate");
}

int main(void) {
  test_turns();
  test_tokens_and_cost();
  test_unknown_price();
  test_time_and_output();
  test_session();
  test_wire();
  test_idle();
  test_requests();
  test_chunks();
  test_json_bounds();
  free(d.log);
  return done();
}
