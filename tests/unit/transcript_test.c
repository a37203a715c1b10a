/* A run's events folded: pairs, nesting, bounds, and both forms. */
#include "csn/transcript.h"
#include "drive.h"

static csn_transcript v;
static drive d;
static csn_json reader;
static char *out;
static size_t out_len;
/* Events by number. */
static const char *events[20000];
static uint32_t event_count;
static uint32_t wants;

static void begin(void) {
  event_count = 0;
}

static void ev(const char *json) {
  events[event_count++] = json;
}

static void put(const void *p, size_t len) {
  out = realloc(out, out_len + len + 1);
  if (out == NULL) abort();
  memcpy(out + out_len, p, len);
  out_len += len;
  out[out_len] = 0;
}

/* Event n of the list has the number n + 1. */
static const char *write_view(csn_transcript_format form) {
  static _Alignas(8) uint8_t box[CSN_TRANSCRIPT_FX_MIN + 64];
  csn_span given = csn_span_of(NULL, 0);
  csn_transcript_init(&v, form);
  for (uint32_t i = 0; i < event_count; i++) {
    uint32_t len = (uint32_t)strlen(events[i]);
    uint8_t *p = guarded(events[i], len);
    if (csn_transcript_event(&v, csn_span_of(p, len)) != CSN_ERR_OK) abort();
    unguard(p, len);
  }
  out_len = 0;
  wants = 0;
  put("", 0);
  bool more = true;
  for (uint32_t calls = 0; more && calls < 100000; calls++) {
    csn_fx fx = {box, CSN_TRANSCRIPT_FX_MIN, 0};
    more = csn_transcript_next(&v, given, &fx);
    given = csn_span_of(NULL, 0);
    for (uint32_t at = 0; at < fx.len;) {
      csn_rec rec;
      memcpy(&rec, box + at, sizeof rec);
      if (rec.kind == CSN_FX_TRANSCRIPT_TEXT) put(box + at + sizeof rec, rec.payload_len);
      if (rec.kind == CSN_FX_TRANSCRIPT_WANT) {
        wants++;
        if (rec.id <= event_count && rec.id > 0) given = csn_span_str(events[rec.id - 1]);
      }
      at += rec.size;
    }
  }
  if (more) put("(no end)", 8);
  return out;
}

static bool valid(const char *json) {
  return csn_json_is_valid(&reader, csn_span_str(json));
}

static bool says(const char *text) {
  return strstr(out, text) != NULL;
}

#define E(n, type, fields)                                                                                   \
  "{\"seq\":" #n ",\"time_ms\":" #n "000,\"run\":\"run_3\",\"type\":\"" type "\"" fields "}"

static void a_run(void) {
  begin();
  ev(E(1, "run.started", ""));
  ev(E(2, "agent.init", ",\"agent_session_id\":\"s\",\"model\":\"m\",\"version\":\"2\""));
  ev(E(3, "agent.turn",
       ",\"turn\":1,\"message_id\":\"a\",\"model\":\"m\",\"input_tokens\":5,\"output_tokens\":1"));
  ev(E(4, "agent.thinking", ",\"text\":\"hm\",\"message_id\":\"a\""));
  ev(E(5, "agent.text", ",\"text\":\"I will.\",\"message_id\":\"a\""));
  ev(E(6, "agent.tool_call",
       ",\"tool_use_id\":\"t1\",\"tool\":\"Edit\",\"input\":{\"file_path\":\"/workspace/a.c\","
       "\"old_string\":\"one\\ntwo\\nthree\\n\",\"new_string\":\"one\\n2\\nthree\\n\"},"
       "\"file\":\"/workspace/a.c\""));
  ev(E(7, "agent.tool_call", ",\"tool_use_id\":\"t2\",\"tool\":\"Task\",\"input\":{\"prompt\":\"look\"}"));
  ev(E(8, "agent.tool_result", ",\"tool_use_id\":\"t1\",\"is_error\":false,\"text\":\"done\""));
  ev(E(9, "agent.turn", ",\"message_id\":\"s1\",\"parent_tool_use_id\":\"t2\""));
  ev(E(10, "agent.tool_call",
       ",\"tool_use_id\":\"t3\",\"tool\":\"Bash\",\"input\":{\"command\":\"ls\"},"
       "\"command\":\"ls\",\"parent_tool_use_id\":\"t2\""));
  ev(E(11, "agent.tool_result",
       ",\"tool_use_id\":\"t3\",\"is_error\":true,\"text\":\"no\",\"parent_tool_use_id\":\"t2\""));
  ev(E(12, "agent.turn", ",\"message_id\":\"s2\",\"parent_tool_use_id\":\"t2\""));
  ev(E(13, "agent.text", ",\"text\":\"nothing\",\"parent_tool_use_id\":\"t2\""));
  ev(E(14, "agent.subagent",
       ",\"phase\":\"ended\",\"tool_use_id\":\"t2\",\"status\":\"completed\",\"summary\":\"none\""));
  ev(E(15, "agent.tool_result", ",\"tool_use_id\":\"t2\",\"is_error\":false,\"text\":\"none\""));
  ev(E(16, "agent.retry",
       ",\"attempt\":1,\"max_retries\":3,\"delay_ms\":5,\"status\":529,\"error\":\"overloaded\""));
  ev(E(17, "agent.turn", ",\"turn\":2,\"message_id\":\"b\""));
  ev(E(18, "agent.tool_call", ",\"tool_use_id\":\"t4\",\"tool\":\"Bash\",\"input\":{},\"command\":\"rm\""));
  ev(E(19, "agent.permission_denied", ",\"tool_use_id\":\"t4\",\"tool\":\"Bash\",\"message\":\"no\""));
  ev(E(20, "limit.warning", ",\"limit\":\"turns\",\"scope\":\"run\",\"used\":2,\"max\":2"));
  ev(E(21, "agent.usage", ",\"input_tokens\":9,\"output_tokens\":8,\"cost_usd\":0.5"));
  ev(E(22, "agent.result", ",\"is_error\":true,\"text\":\"went wrong\""));
  ev(E(23, "raw", ",\"reason\":\"not_json\",\"text\":\"x\""));
  ev(E(24, "raw", ",\"reason\":\"unmapped\""));
  ev(E(25, "file.changed", ",\"path\":\"a.c\",\"status\":\"modified\",\"size\":4"));
  ev(E(26, "file.changed", ",\"path\":\"b.c\",\"status\":\"added\",\"size\":4"));
  ev(E(27, "run.failed",
       ",\"reason\":\"api_error\",\"exit_code\":1,\"duration_ms\":77,\"error\":{\"message\":\"bad\"},"
       "\"usage\":{\"turns\":2}"));
}

static void test_json(void) {
  a_run();
  const char *json = write_view(CSN_TRANSCRIPT_JSON);
  ok(valid(json), "it is JSON");
  ok(says("{\"format\":\"caisson.transcript/"
          "1\",\"run\":\"run_3\",\"agent\":{\"model\":\"m\",\"version\":\"2\","
          "\"session_id\":\"s\"},\"state\":\"failed\",\"reason\":\"api_error\",\"exit_code\":1,\"duration_"
          "ms\":77,"
          "\"error\":{\"message\":\"bad\"},\"usage\":{\"turns\":2}"),
     "the head: %.400s", json);
  ok(says("\"counts\":{\"turns\":2,\"tool_calls\":4,\"tool_errors\":1,\"denials\":1,\"subagents\":0,"
          "\"retries\":1,"
          "\"errors\":1,\"unparsed\":1}"),
     "the counts");
  ok(says("\"files\":[{\"path\":\"a.c\",\"reads\":0,\"edits\":1,\"status\":\"modified\"},{\"path\":\"b.c\","
          "\"reads\":0,"
          "\"edits\":0,\"status\":\"added\"}],\"truncated\":null"),
     "files by tools and by what changed");
  ok(says("\"diff\":\"--- /workspace/a.c\\n+++ /workspace/a.c\\n@@\\n one\\n-two\\n+2\\n three\\n\""),
     "a diff");
  ok(says("\"result\":{\"seq\":8,\"time_ms\":8000,\"is_error\":false,\"text\":\"done\"}}"),
     "a call with its result");
  ok(says("\"result\":{\"seq\":15,\"time_ms\":15000,\"is_error\":false,\"text\":\"none\"},\"subagent\":{"
          "\"seq\":14,"
          "\"status\":\"completed\",\"summary\":\"none\"},\"turns\":[{\"turn\":1,\"seq\":9"),
     "a subagent under its call");
  ok(says("{\"turn\":2,\"seq\":12,") &&
         says("\"items\":[{\"type\":\"text\",\"seq\":13,\"time_ms\":13000,\"text\":\"nothing\"}]}]}"),
     "with turns of its own");
  ok(says("\"denied\":true,\"result\":null"), "a call that was denied and has no result");
  ok(says("{\"type\":\"retry\",\"seq\":16,\"time_ms\":16000,\"attempt\":1,\"max_retries\":3,\"delay_ms\":5,"
          "\"status\":529,"
          "\"error\":\"overloaded\"}"),
     "a retry");
  ok(says("{\"type\":\"warning\",\"seq\":20,\"time_ms\":20000,\"limit\":\"turns\",\"scope\":\"run\",\"used\":"
          "2,\"max\":2}"),
     "a warning");
  ok(says("\"usage\":{\"input_tokens\":9,\"output_tokens\":8,\"cost_usd\":0.5},\"items\":"),
     "usage of a turn");
  ok(wants == 21, "each event is asked for once: %u", wants);
  write_view(CSN_TRANSCRIPT_SUMMARY);
  ok(valid(out) && wants == 0 && says("\"files\":[") && !says("\"items\":[") && out[out_len - 1] == '}',
     "a summary asks for nothing: %s", out);
}

static void test_markdown(void) {
  a_run();
  write_view(CSN_TRANSCRIPT_MARKDOWN);
  ok(says("# Run 3\n\n- Agent: m, version 2\n- Outcome: **failed** (api_error)\n- Time: 77 ms\n- Usage: "
          "turns 2\n"),
     "head");
  ok(says("## Error\n\n```\nbad\n```\n") && says("- `a.c`: modified, 1 edit\n- `b.c`: added\n"),
     "error and files");
  ok(says("- 1 lines of output that are no events\n"), "what is left out is said");
  ok(says("**Edit** `/workspace/a.c`\n\n```diff\n--- /workspace/a.c\n+++ /workspace/a.c\n@@\n "
          "one\n-two\n+2\n three\n```\n\n"
          "```\ndone\n```\n"),
     "an edit: %s", strstr(out, "**Edit**"));
  ok(says("> **Subagent, turn 1**\n> \n> **Bash**\n> \n> ```sh\n> ls\n> ```\n> \n> *Failed:*\n> \n> ```\n> "
          "no\n> ```\n"),
     "a subagent is quoted: %s", strstr(out, "> **Sub"));
  ok(says("**Bash** (denied)\n\n```sh\nrm\n```\n\n*no result*\n"), "denied");
  begin();
  ev(E(1, "agent.text", ",\"text\":\"a\\u0000b\\u001b[2J\\ud83d\\ude00\\ud800\\r\\n\\u00e9\\u009b\""));
  ev(E(2, "agent.tool_call",
       ",\"tool_use_id\":\"x\",\"tool\":\"a`b\\nc\",\"input\":{},\"file\":\"q`\\n\",\"command\":\"echo ```` "
       "x\""));
  ev(E(3, "agent.tool_result", ",\"tool_use_id\":\"x\",\"text\":\"```\\n```````\\n\\u0060\""));
  write_view(CSN_TRANSCRIPT_MARKDOWN);
  ok(says("a\xef\xbf\xbd"
          "b\xef\xbf\xbd[2J\xf0\x9f\x98\x80\xef\xbf\xbd\n\xc3\xa9\xef\xbf\xbd"),
     "nothing steers a terminal");
  ok(says("**a`b c** `q' `\n"), "a name stays on its line and in its quotes: %s", strstr(out, "**a"));
  ok(says("`````sh\necho ```` x\n`````\n") && says("````````\n```\n```````\n`\n````````\n"),
     "a fence that cannot be closed: %s", out);
  static char long_text[CSN_TRANSCRIPT_BRIEF_MAX + 600];
  char *p = long_text +
            sprintf(long_text, "{\"seq\":2,\"run\":\"run_3\",\"type\":\"agent.tool_result\",\"text\":\"");
  memset(p, 'r', CSN_TRANSCRIPT_BRIEF_MAX + 1);
  strcpy(p + CSN_TRANSCRIPT_BRIEF_MAX + 1, "\",\"text_len\":99999}");
  begin();
  ev(E(1, "agent.text", ",\"text\":\"t\",\"text_len\":70000"));
  ev(long_text);
  write_view(CSN_TRANSCRIPT_MARKDOWN);
  ok(says("*cut: 1 of 70000 bytes*") && says("*cut: 4096 of 99999 bytes*"), "what is cut says so");
}

static void test_shapes(void) {
  begin();
  write_view(CSN_TRANSCRIPT_JSON);
  ok(valid(out) && says("\"run\":null,\"agent\":null,\"state\":null,") && says("\"turns\":[]}"),
     "no events: %s", out);
  begin();
  ev(E(1, "output.stdout", ",\"text\":\"a\\n\""));
  ev(E(2, "output.stdout", ",\"text\":\"b\\n\""));
  ev(E(3, "output.stderr", ",\"text\":\"e\\n\""));
  ev(E(4, "output.stdout", ",\"text\":\"c\\n\""));
  write_view(CSN_TRANSCRIPT_JSON);
  ok(valid(out) && says("\"stream\":\"stdout\",\"text\":\"a\\nb\\n\"}") &&
         says("\"stream\":\"stderr\",\"text\":\"e\\n\"}"),
     "pieces of output are joined: %s", out);
  write_view(CSN_TRANSCRIPT_MARKDOWN);
  ok(says("*Output*\n\n    a\n    b\n\n*Standard error*\n\n    e\n\n*Output*\n\n    c\n"), "as text: %s",
     out);
  begin();
  ev(E(1, "output.stderr", ",\"text\":\"warming up\""));
  ev(E(2, "agent.text", ",\"text\":\"one\""));
  ev(E(3, "agent.tool_call", ",\"tool\":\"t\",\"tool_use_id\":\"i\""));
  ev(E(4, "agent.tool_result", ",\"tool_use_id\":\"i\",\"text\":\"\""));
  ev(E(5, "agent.text", ",\"text\":\"two\""));
  ev(E(6, "agent.tool_result", ",\"tool_use_id\":\"none\",\"text\":\"lost\""));
  ev(E(7, "agent.tool_call", ",\"tool\":\"t\",\"tool_use_id\":\"i\""));
  ev(E(8, "agent.tool_result", ",\"tool_use_id\":\"i\",\"text\":\"again\""));
  write_view(CSN_TRANSCRIPT_JSON);
  ok(valid(out) && says("\"counts\":{\"turns\":3,") &&
         says("{\"turn\":0,\"seq\":1,\"items\":[{\"type\":\"output\"") &&
         says("{\"turn\":1,\"seq\":2,\"items\":[{\"type\":\"text\",\"seq\":2,\"time_ms\":2000,\"text\":"
              "\"one\"},{\"type\":\"tool_call\""),
     "a dialect without agent.turn: %s", out);
  ok(says("{\"type\":\"tool_result\",\"seq\":6,\"time_ms\":6000,\"id\":\"none\",\"is_error\":false,\"text\":"
          "\"lost\"}"),
     "a result without a call");
  ok(says("\"result\":{\"seq\":8,"), "an id that is used again means the last call");
  begin();
  ev("{");
  ev("[]");
  ev("{\"type\":\"agent.text\"}");
  ev(E(9, "agent.text", ",\"text\":\"x\""));
  ev(E(9, "agent.text", ",\"text\":\"again\""));
  ev(E(3, "agent.text", ",\"text\":\"back\""));
  ev(E(4294967296, "agent.text", ",\"text\":\"far\""));
  ev(E(10, "nobody.knows", ""));
  write_view(CSN_TRANSCRIPT_JSON);
  ok(valid(out) && says("\"truncated\":{\"items\":0,\"files\":0,\"events\":6}"),
     "events that are none, or out of order: %s", out);
  ok(says("{\"type\":\"text\",\"seq\":9}"), "an event that is not there any more");
  begin();
  ev(E(1, "agent.text", ",\"text\":{\"a\":[]},\"message_id\":[1],\"text_len\":{}"));
  ev(E(2, "run.failed", ",\"reason\":{},\"exit_code\":[],\"usage\":3,\"duration_ms\":null"));
  write_view(CSN_TRANSCRIPT_JSON);
  ok(valid(out), "fields of other types: %s", out);
  write_view(CSN_TRANSCRIPT_MARKDOWN);
  ok(csn_transcript_event(&v, csn_span_str("{}")) == CSN_ERR_BAD_STATE, "no event once it is being written");
}

/* Halves, ends of texts in the middle of an escape, and what has lost its other half. */
static void test_parts(void) {
  begin();
  ev(E(1, "agent.permission_denied", ",\"tool_use_id\":\"gone\",\"tool\":\"Bash\",\"message\":\"no *way*\""));
  ev(E(2, "agent.permission_denied", ",\"message\":\"and no\""));
  write_view(CSN_TRANSCRIPT_JSON);
  ok(valid(out) && says("\"denials\":2") &&
         says("{\"type\":\"denied\",\"seq\":1,\"time_ms\":1000,\"id\":\"gone\",\"tool\":\"Bash\",\"message\":"
              "\"no "
              "*way*\"}") &&
         says("{\"type\":\"denied\",\"seq\":2,\"time_ms\":2000,\"message\":\"and no\"}"),
     "a denial without its call: %s", out);
  write_view(CSN_TRANSCRIPT_MARKDOWN);
  ok(says("*Denied:* no *way*\n") && says("*Denied:* and no\n"), "and in Markdown: %s", out);

  static const struct {
    const char *text, *want;
  } escapes[] = {
      {"\\ud800\\u0041", "\xef\xbf\xbd"
                         "A"},       /* a half before another character */
      {"\\udc00x", "\xef\xbf\xbdx"}, /* the other half alone */
      {"\\ud83d\\ud83d\\ude00", "\xef\xbf\xbd\xf0\x9f\x98\x80"},
      {"\\u00E9\\u2028\\uFFFD", "\xc3\xa9\xe2\x80\xa8\xef\xbf\xbd"},
      {"\\/\\b\\f\\t|", "/\xef\xbf\xbd\xef\xbf\xbd\t|"},
      {"\\\"q\\\"\\\\n", "\"q\"\\n"},
  };
  for (uint32_t i = 0; i < sizeof escapes / sizeof escapes[0]; i++) {
    char text[200];
    snprintf(text, sizeof text, "{\"seq\":1,\"type\":\"agent.text\",\"text\":\"<%s>\"}", escapes[i].text);
    begin();
    ev(text);
    write_view(CSN_TRANSCRIPT_MARKDOWN);
    char want[100];
    snprintf(want, sizeof want, "<%s>", escapes[i].want);
    ok(says(want), "%s: %s", escapes[i].text, strstr(out, "<"));
  }

  begin();
  ev(E(1, "agent.tool_call",
       ",\"tool_use_id\":\"t\",\"tool\":\"T\",\"input_head\":\"{\\\"a\\\":\\\"xyz\",\"input_len\":70000"));
  write_view(CSN_TRANSCRIPT_MARKDOWN);
  ok(says("```json\n{\"a\":\"xyz\n```\n") && says("*cut: 12 of 70000 bytes*"), "the head of an input: %s",
     out);
  write_view(CSN_TRANSCRIPT_JSON);
  ok(valid(out) && says("\"input_head\":\"{\\\"a\\\":\\\"xyz\",\"input_len\":70000,\"result\":null"),
     "and in JSON");
  static char big[3 * CSN_TRANSCRIPT_BRIEF_MAX];
  char *p =
      big + sprintf(big,
                    "{\"seq\":1,\"type\":\"agent.tool_call\",\"tool_use_id\":\"t\",\"tool\":\"T\",\"input\":{"
                    "\"ab\":\"");
  for (uint32_t i = 0; i < CSN_TRANSCRIPT_BRIEF_MAX; i++)
    p += sprintf(p, "\xc3\xa9");
  strcpy(p, "\"}}");
  begin();
  ev(big);
  write_view(CSN_TRANSCRIPT_MARKDOWN);
  uint32_t bad = 0;
  for (uint32_t i = 0; i < out_len;) {
    uint32_t wrong, n = csn_utf8_len(csn_span_of(out + i, (uint32_t)out_len - i), &wrong);
    bad += n == 0;
    i += n > 0 ? n : 1;
  }
  ok(bad == 0 && out_len < 2 * CSN_TRANSCRIPT_BRIEF_MAX && says("*cut: 4095 of 8201 bytes*"),
     "a long input is cut between characters");

  /* A text longer than what a reader keeps says its length, though no event did. */
  static char far[CSN_FIELD_MAX + 400];
  p = far + sprintf(far, "{\"seq\":1,\"type\":\"agent.text\",\"text\":\"");
  memset(p, 'f', CSN_FIELD_MAX + 3);
  strcpy(p + CSN_FIELD_MAX + 3, "\"}");
  begin();
  ev(far);
  write_view(CSN_TRANSCRIPT_JSON);
  ok(valid(out) && says("f\",\"text_len\":32771}"), "a text beyond the reader's bound");

  /* The call's result is not there any more when it is asked for; nor is the call. */
  begin();
  ev(E(1, "agent.tool_call", ",\"tool_use_id\":\"t\",\"tool\":\"T\",\"input\":{}"));
  ev(E(77, "agent.tool_result", ",\"tool_use_id\":\"t\",\"text\":\"x\""));
  write_view(CSN_TRANSCRIPT_JSON);
  ok(valid(out) && says("\"tool\":\"T\",\"input\":{},\"result\":null}"), "a result that is gone: %s", out);
  begin();
  ev(E(78, "agent.tool_call", ",\"tool_use_id\":\"t\",\"tool\":\"T\",\"input\":{}"));
  ev(E(79, "agent.retry", ",\"attempt\":1"));
  write_view(CSN_TRANSCRIPT_MARKDOWN);
  ok(says("*the event is not there any more*\n"), "events that are gone: %s", out);
}

/* More than there is room for. */
static void test_bounds(void) {
  static char text[20000][160];
  begin();
  for (uint32_t i = 0; i < CSN_TRANSCRIPT_NODES_MAX + 10; i++) {
    snprintf(text[i], sizeof text[i],
             "{\"seq\":%u,\"run\":\"run_1\",\"type\":\"agent.tool_call\",\"tool_use_id\":\"t%u\",\"tool\":"
             "\"T\",\"file\":\"f%u\"}",
             i + 1, i, i);
    ev(text[i]);
  }
  write_view(CSN_TRANSCRIPT_JSON);
  ok(valid(out) && says("\"truncated\":{\"items\":11,\"files\":7690,\"events\":0}") &&
         says("\"tool_calls\":8202"),
     "more calls and files than fit: %.300s", out);
  write_view(CSN_TRANSCRIPT_MARKDOWN);
  ok(says("- 11 items beyond what a transcript holds\n- 7690 files beyond"), "and in Markdown");
  begin();
  for (uint32_t i = 0; i < 40; i++) {
    snprintf(text[i], sizeof text[i],
             "{\"seq\":%u,\"type\":\"agent.tool_call\",\"tool_use_id\":\"t%u\",\"tool\":\"T\",\"parent_tool_"
             "use_id\":\"t%d\"}",
             i + 1, i, (int)i - 1);
    ev(text[i]);
  }
  write_view(CSN_TRANSCRIPT_JSON);
  ok(valid(out) && wants == 40 && v.lost_nodes == 0, "40 subagents in each other");
  uint32_t deepest = 0;
  for (uint32_t i = 0; i < v.node_count; i++)
    if (v.nodes[i].depth > deepest) deepest = v.nodes[i].depth;
  ok(deepest == CSN_TRANSCRIPT_DEPTH_MAX, "shown %u deep", deepest);
  begin();
  static char piece[9000];
  char *p = piece + sprintf(piece, "{\"seq\":1,\"type\":\"output.stdout\",\"text\":\"");
  memset(p, 'o', 8192);
  strcpy(p + 8192, "\"}");
  static char pieces[20][9000];
  for (uint32_t i = 0; i < 20; i++) {
    int n = sprintf(pieces[i], "{\"seq\":%u", i + 1);
    memcpy(pieces[i] + n, piece + 8, strlen(piece + 8) + 1);
    ev(pieces[i]);
  }
  write_view(CSN_TRANSCRIPT_JSON);
  ok(valid(out) && says("\"text_len\":163840}") && out_len < 70000 && wants == 8, "a long output is cut: %zu",
     out_len);
  write_view(CSN_TRANSCRIPT_MARKDOWN);
  ok(says("*cut: 65536 of 163840 bytes*"), "and says so");
  /* The event with the longest transcript: an input of newlines, eight subagents deep. */
  begin();
  for (uint32_t i = 0; i < 9; i++)
    ev(text[i]);
  static char heavy[3 * CSN_FIELD_MAX];
  p = heavy + sprintf(heavy, "{\"seq\":10,\"type\":\"agent.tool_call\",\"tool_use_id\":\"h\",\"parent_tool_"
                             "use_id\":\"t8\",\"input\":{\"old_string\":\"");
  for (uint32_t i = 0; i < CSN_FIELD_MAX / 4 - 100; i++)
    p += sprintf(p, "\\n");
  p += sprintf(p, "x\",\"new_string\":\"y");
  for (uint32_t i = 0; i < CSN_FIELD_MAX / 4 - 100; i++)
    p += sprintf(p, "\\n");
  sprintf(p, "\"}}");
  ev(heavy);
  write_view(CSN_TRANSCRIPT_MARKDOWN);
  ok(says("> > > > > > > > +y\n") && !says("(no end)"), "the heaviest event: %zu bytes", out_len);
}

static void diff_of(const char *input, const char *want) {
  char text[2000];
  begin();
  snprintf(text, sizeof text,
           "{\"seq\":1,\"type\":\"agent.tool_call\",\"tool_use_id\":\"t\",\"file\":\"f\",\"input\":%s}",
           input);
  ev(text);
  write_view(CSN_TRANSCRIPT_JSON);
  const char *at = strstr(out, "\"diff\":\"");
  ok(valid(out) && at != NULL && strncmp(at + 8, want, strlen(want)) == 0, "diff of %s: %.200s", input,
     at == NULL ? "none" : at);
}

#define NAMES "--- f\\n+++ f\\n@@\\n"
static void test_diffs(void) {
  diff_of("{\"old_string\":\"a\",\"new_string\":\"b\"}", NAMES "-a\\n+b\\n\"");
  diff_of("{\"oldString\":\"a\\nb\",\"newString\":\"a\\nc\"}", NAMES " a\\n-b\\n+c\\n\"");
  diff_of("{\"content\":\"x\\ny\\n\"}", NAMES "+x\\n+y\\n\"");
  diff_of("{\"old_string\":\"\",\"new_string\":\"n\"}", NAMES "+n\\n\"");
  diff_of("{\"old_string\":\"same\\n\",\"new_string\":\"same\\n\"}", NAMES " same\\n\"");
  diff_of("{\"old_string\":\"1\\n2\\n3\\n4\\n5\\n6\\n7\\n8\\n9\\n\",\"new_string\":"
          "\"1\\n2\\n3\\n4\\nX\\n6\\n7\\n8\\n9\\n\"}",
          NAMES " 2\\n 3\\n 4\\n-5\\n+X\\n 6\\n 7\\n 8\\n\"");
  diff_of("{\"old_string\":\"a\\na\\n\",\"new_string\":\"a\\na\\na\\n\"}", NAMES " a\\n a\\n+a\\n\"");
  diff_of("{\"old_string\":\"\\\\nq\\\\\",\"new_string\":\"\\\\nr\"}", NAMES "-\\\\nq\\\\\\n+\\\\nr\\n\"");
  diff_of(
      "{\"edits\":[{\"old_string\":\"a\",\"new_string\":\"b\"},{\"old_string\":\"c\",\"new_string\":\"d\"}]}",
      NAMES "-a\\n+b\\n@@\\n-c\\n+d\\n\"");
  diff_of("{\"patch\":\"*** Begin Patch\\n+x\\n\"}", "*** Begin Patch\\n+x\\n\"");
}

/* Real streams through the session: every transcript becomes valid JSON, each call with its result. */
static void test_streams(void) {
  static const char *const files[] = {"subagent", "thinking-parallel-tools", "project-files", "err-401",
                                      "large-output"};
  for (uint32_t f = 0; f < sizeof files / sizeof files[0]; f++) {
    char path[200];
    size_t len;
    snprintf(path, sizeof path, FIXTURES "%s.jsonl", files[f]);
    uint8_t *bytes = slurp(path, &len);
    drive_run(&d, "claude-code");
    drive_feed(&d, CSN_STREAM_STDOUT, 1, bytes, len, CSN_FEED_MAX);
    drive_end(&d, 1, EXITED_0);
    begin();
    char *log = strdup(d.log);
    for (char *line = strtok(log, "\n"); line != NULL; line = strtok(NULL, "\n"))
      if (line[0] == '@') ev(strchr(line, ' ') + 1);
    write_view(CSN_TRANSCRIPT_JSON);
    ok(valid(out) && says("\"truncated\":null") && !says("\"result\":null"), "%s", files[f]);
    free(log);
    free(bytes);
  }
}

int main(void) {
  test_json();
  test_markdown();
  test_shapes();
  test_parts();
  test_bounds();
  test_diffs();
  test_streams();
  free(out);
  free(d.log);
  return done();
}
