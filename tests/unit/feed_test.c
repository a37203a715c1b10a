#include "drive.h"

static drive d;
static char *want;

static void keep_log(void) {
  free(want);
  want = strdup(d.log);
}

static void replay(const uint8_t *bytes, size_t len, uint32_t chunk, uint32_t cap) {
  drive_run(&d, "claude-code");
  drive_clear(&d);
  d.fx_cap = cap;
  if (!drive_feed(&d, CSN_STREAM_STDOUT, 1, bytes, len, chunk)) drive_log(&d, "no progress", 11);
  drive_end(&d, 1, EXITED_0);
}

/* After every feed the instance is thrown away; a new one is loaded and fed again from the cursor. */
static void replay_reloading(const uint8_t *bytes, size_t len, uint32_t chunk) {
  static uint8_t image[CSN_SNAPSHOT_MAX];
  drive_run(&d, "claude-code");
  drive_clear(&d);
  size_t at = 0;
  bool again = false;
  while (at < len) {
    uint32_t n = len - at < chunk ? (uint32_t)(len - at) : chunk;
    if (!drive_feed(&d, CSN_STREAM_STDOUT, 1, bytes + at, n, n)) break;
    int32_t size = csn_session_save(&d.s, image, sizeof image);
    if (csn_session_load(&d.s, csn_span_of(image, (uint32_t)size)) != CSN_ERR_OK) break;
    /* A line longer than the chunk is fed whole once more bytes are there. */
    again = d.cursor[CSN_STREAM_STDOUT] == at && n == chunk;
    chunk = again ? chunk * 2 : chunk;
    at = d.cursor[CSN_STREAM_STDOUT];
    if (!again && at < len && len - at <= chunk && n == len - at) break;
  }
  if (at < len) drive_feed(&d, CSN_STREAM_STDOUT, 1, bytes + at, len - at, chunk);
  drive_end(&d, 1, EXITED_0);
}

static void transcripts(void) {
  static const char *const files[] = {"thinking-parallel-tools", "project-files", "err-401", "subagent",
                                      "large-output"};
  for (uint32_t i = 0; i < sizeof files / sizeof files[0]; i++) {
    char path[200];
    size_t len;
    snprintf(path, sizeof path, FIXTURES "%s.jsonl", files[i]);
    uint8_t *bytes = slurp(path, &len);
    replay(bytes, len, CSN_FEED_MAX, CSN_OUT_CAP);
    keep_log();
    bool same = true;
    for (uint32_t cap = CSN_FEED_FX_MIN; cap <= CSN_OUT_CAP; cap += 20000) {
      replay(bytes, len, CSN_FEED_MAX, cap);
      same = same && strcmp(want, d.log) == 0 && !d.gap;
    }
    ok(same, "%s: every size of the out-box gives the same effects", files[i]);
    replay_reloading(bytes, len, 1000);
    ok(strcmp(want, d.log) == 0 && !d.gap, "%s: a new instance for every feed: no event lost, none twice",
       files[i]);
    free(bytes);
  }
}

/* One assistant line with a text of n bytes. */
static void text_of(uint32_t n, const char *format, char fill) {
  char *line = malloc(n + strlen(format));
  const char *hole = strstr(format, "%s");
  size_t at = (size_t)(hole - format);
  memcpy(line, format, at);
  memset(line + at, fill, n);
  strcpy(line + at + n, hole + 2);
  drive_run(&d, "claude-code");
  drive_clear(&d);
  drive_feed(&d, CSN_STREAM_STDOUT, 1, line, strlen(line), CSN_FEED_MAX);
  free(line);
}

#define TEXT_LINE "{\"type\":\"assistant\",\"message\":{\"content\":[{\"type\":\"text\",\"text\":\"%s\"}]}}\n"
#define TOOL_LINE                                                                                            \
  "{\"type\":\"assistant\",\"message\":{\"content\":[{\"type\":\"tool_use\",\"input\":{\"file_path\":\"f\"," \
  "\"x\":\"%s\"}}]}}\n"
#define RESULT_LINE "{\"is_error\":false,\"result\":\"%s\",\"type\":\"result\"}\n"

static void long_fields(void) {
  text_of(CSN_FIELD_MAX - 1, TEXT_LINE, 'x');
  ok(!has(&d, "text_len"), "a text of FIELD_MAX - 1 bytes is whole");
  text_of(CSN_FIELD_MAX, TEXT_LINE, 'x');
  ok(!has(&d, "text_len"), "FIELD_MAX too");
  text_of(CSN_FIELD_MAX + 1, TEXT_LINE, 'x');
  ok(has(&d, "\"text_len\":32769}"), "FIELD_MAX + 1 is cut, with its length");
  uint32_t around = (uint32_t)strlen("{\"file_path\":\"f\",\"x\":\"\"}");
  text_of(CSN_FIELD_MAX - around, TOOL_LINE, 'x');
  ok(has(&d, "\"input\":{\"file_path\":\"f\"") && has(&d, "\"file\":\"f\""),
     "an input of FIELD_MAX bytes is passed on");
  text_of(CSN_FIELD_MAX - around + 1, TOOL_LINE, 'x');
  ok(!has(&d, "\"input\":") && has(&d, "\"input_head\":\"{\\\"file_path\\\":") &&
         has(&d, "\"input_len\":32769") && has(&d, "\"file\":\"f\""),
     "a longer one as its head");
  text_of(CSN_FIELD_MAX + 1, RESULT_LINE, 'r');
  drive_clear(&d);
  drive_end(&d, 1, EXITED_0);
  ok(has(&d, "\"result_len\":32769,"), "a long result is cut in the outcome");
  text_of(CSN_FIELD_MAX, RESULT_LINE, 'r');
  drive_clear(&d);
  drive_end(&d, 1, EXITED_0);
  ok(has(&d, "rrr\",\"usage\""), "one of FIELD_MAX bytes is not");
  text_of(20u << 20, TEXT_LINE, 'y');
  ok(has(&d, "\"text_len\":20971520}") && !d.gap, "a line of 20 MB");
  text_of(CSN_RAW_TEXT_CAP, "%s\n", 'z');
  ok(has(&d, "\"not_json\",\"text\":\"zzz") && !has(&d, "text_len"),
     "garbage of RAW_TEXT_CAP bytes is whole");
  text_of(CSN_RAW_TEXT_CAP + 1, "%s\n", 'z');
  ok(has(&d, "\"text_len\":2049}"), "one more is cut");
  text_of(CSN_RAW_TEXT_CAP, "%s\n", 7);
  ok(has(&d, "\\u0007\\u0007"), "the longest escape");
}

/* A line that fills the pool, the items and the out-box as far as any can. */
static void heaviest_line(void) {
  char *line = malloc(4u << 20), *p = line;
  p += sprintf(p, "{\"type\":\"assistant\",\"message\":{\"content\":[");
  for (int i = 0; i < 700; i++) {
    p += sprintf(p, "%s{\"type\":\"tool_use\",\"id\":\"i\",\"name\":\"n\",\"input\":{\"file_path\":\"",
                 i == 0 ? "" : ",");
    for (int k = 0; k < (i < 40 ? 1200 : 4); k++)
      p += sprintf(p, "\\\"");
    p += sprintf(p, "\",\"command\":\"c\"}}");
  }
  p += sprintf(p, "]}}\n");
  drive_run(&d, "claude-code");
  drive_clear(&d);
  d.fx_cap = CSN_FEED_FX_MIN;
  ok(drive_feed(&d, CSN_STREAM_STDOUT, 1, line, (size_t)(p - line), 333) && has(&d, "too_many_fields") &&
         !d.gap,
     "a line with more fields than there is room for says so");
  p = line +
      sprintf(line,
              "{\"type\":\"assistant\",\"message\":{\"content\":[{\"type\":\"tool_use\",\"input\":{\"a\":\"");
  for (int k = 0; k < 40000; k++)
    p += sprintf(p, "\\\"");
  p += sprintf(p, "\"}}]}}\n");
  drive_clear(&d);
  ok(drive_feed(&d, CSN_STREAM_STDOUT, 1, line, (size_t)(p - line), 65536) && has(&d, "input_head") && !d.gap,
     "an input of quotes");
  free(line);
}

/* Far more effects than the out-box holds: feeds are short, and nothing changes but their number. */
static void tiny_lines(void) {
  static char lines[CSN_FEED_MAX];
  for (uint32_t i = 0; i < sizeof lines; i++)
    lines[i] = i % 2 == 0 ? '1' : '\n';
  replay((const uint8_t *)lines, sizeof lines, CSN_FEED_MAX, CSN_OUT_CAP);
  keep_log();
  bool same = !d.gap && has(&d, "\"seq\":32773,");
  for (uint32_t cap = CSN_FEED_FX_MIN; cap <= CSN_OUT_CAP; cap += 9992) {
    replay((const uint8_t *)lines, sizeof lines, CSN_FEED_MAX - cap % 1000, cap);
    same = same && strcmp(want, d.log) == 0 && !d.gap;
  }
  ok(same, "32768 lines in one feed");
}

static void chunks_of_text(void) {
  static char text[3 * CSN_TEXT_CHUNK];
  memset(text, 't', sizeof text);
  for (uint32_t n = CSN_TEXT_CHUNK - 1; n <= CSN_TEXT_CHUNK + 1; n++) {
    drive_run(&d, "shell");
    drive_clear(&d);
    drive_feed(&d, CSN_STREAM_STDOUT, 1, text, n, n);
    uint32_t events = 0;
    for (const char *p = d.log; (p = strstr(p, "output.stdout")) != NULL; p++)
      events++;
    ok(events == (n > CSN_TEXT_CHUNK ? 2 : 1) && d.cursor[CSN_STREAM_STDOUT] == n,
       "a text of %u bytes: %u events", n, events);
  }
  drive_run(&d, "shell");
  drive_clear(&d);
  d.fx_cap = CSN_FEED_FX_MIN;
  memset(text, 1, sizeof text);
  ok(drive_feed(&d, CSN_STREAM_STDERR, 1, text, sizeof text, 65536) && !d.gap,
     "control characters, the least out-box");

  drive_run(&d, "shell");
  drive_clear(&d);
  drive_feed(&d, CSN_STREAM_STDOUT, 1, "a\xf0\x9f\x98", 4, 4);
  ok(d.cursor[CSN_STREAM_STDOUT] == 1 && has(&d, "\"text\":\"a\"}"), "half a character is held back");
  drive_feed(&d, CSN_STREAM_STDOUT, 1, "\x80z", 2, 2);
  ok(d.cursor[CSN_STREAM_STDOUT] == 6 && has(&d, "\"text\":\"\xf0\x9f\x98\x80z\"}"),
     "until the rest is there");
  drive_feed(&d, CSN_STREAM_STDOUT, 1, "\xf0\x9f", 2, 2);
  drive_clear(&d);
  drive_end(&d, 1, EXITED_0);
  ok(has(&d, "\"text\":\"\xef\xbf\xbd\"}"), "or the program ends");

  drive_run(&d, "claude-code");
  drive_clear(&d);
  drive_feed(&d, CSN_STREAM_STDERR, 1, "warn", 4, 1);
  ok(d.log_len == 0 && d.cursor[CSN_STREAM_STDERR] == 0, "an agent's stderr is told line by line");
  drive_feed(&d, CSN_STREAM_STDERR, 1, "ing\nmore", 8, 3);
  ok(has(&d, "@0+7:4 ") && has(&d, "\"output.stderr\",\"text\":\"warning\\n\"}") &&
         d.cursor[CSN_STREAM_STDERR] == 8,
     "a line of it");
  drive_end(&d, 1, EXITED_0);
  ok(has(&d, "@8+4:4 ") && has(&d, "\"text\":\"more\"}"), "the rest at the end");
}

static void refusals(void) {
  csn_fx fx = {drive_box, CSN_OUT_CAP, 0};
  csn_span x = csn_span_of("x", 1);
  drive_init(&d);
  ok(csn_session_feed(&d.s, CSN_STREAM_STDOUT, 1, 0, x, &fx) == CSN_ERR_BAD_STATE, "no session: BAD_STATE");
  drive_run(&d, "shell");
  ok(csn_session_feed(&d.s, CSN_STREAM_STDOUT, 2, 0, x, &fx) == CSN_ERR_NO_RUN, "no such run");
  ok(csn_session_feed(&d.s, CSN_STREAM_STDOUT, 0, 0, x, &fx) == CSN_ERR_NO_RUN, "run 0");
  ok(csn_session_feed(&d.s, 9, 1, 0, x, &fx) == CSN_ERR_BAD_RECORD, "no such stream");
  drive_ev(&d, CSN_EV_RUN, 0, "{\"command\":\"x\"}");
  ok(csn_session_feed(&d.s, CSN_STREAM_STDOUT, 2, 0, x, &fx) == CSN_ERR_BAD_STATE, "a run that waits");
  drive_end(&d, 1, EXITED_0);
  uint32_t late = d.s.late_count;
  ok(csn_session_feed(&d.s, CSN_STREAM_STDOUT, 1, 0, x, &fx) == 1 && fx.len == 0 &&
         d.s.late_count == late + 1,
     "output of a run that is over is ignored and counted");
  ok(csn_session_feed(&d.s, CSN_STREAM_STDOUT, 2, 0, x, &fx) == CSN_ERR_BAD_STATE,
     "a run that is being loaded");
  fx.cap = CSN_FEED_FX_MIN - 1;
  ok(csn_session_feed(&d.s, CSN_STREAM_STDOUT, 1, 0, x, &fx) == CSN_ERR_AGAIN, "no room: AGAIN");
  static uint8_t many[CSN_FEED_MAX + 1];
  fx.cap = CSN_OUT_CAP;
  drive_run(&d, "shell");
  ok(csn_session_feed(&d.s, CSN_STREAM_STDOUT, 1, 0, csn_span_of(many, CSN_FEED_MAX + 1), &fx) ==
         CSN_ERR_BAD_RECORD,
     "FEED_MAX + 1");
  int64_t used = 0;
  while (used < CSN_FEED_MAX) {
    fx.len = 0;
    int64_t n = csn_session_feed(&d.s, CSN_STREAM_STDOUT, 1, 0,
                                 csn_span_of(many + used, CSN_FEED_MAX - (uint32_t)used), &fx);
    if (n <= 0) break;
    used += n;
  }
  ok(used == CSN_FEED_MAX, "FEED_MAX");
}

int main(void) {
  transcripts();
  long_fields();
  heaviest_line();
  tiny_lines();
  chunks_of_text();
  refusals();
  free(d.log);
  free(want);
  return done();
}
