/* caisson_events.c - reads a raw agent stream on standard input and prints the normalized events as JSON
 * lines; the last line is the outcome of the run. It drives the session module as the Worker does, with the
 * clock at 0. */
#include "csn/session.h"
#include "csn/transcript.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage_text[] =
    "usage: caisson-events --agent NAME [--stderr FILE] [--chunk N] [--exit-code N] [--raw] [--offsets]\n"
    "                      [--effects] [--view md|json|summary] [--tools JSON] < stream\n"
    "\n"
    "Prints the normalized events of an agent's raw output as JSON lines; the last line is the run's "
    "outcome.\n"
    "\n"
    "  --agent NAME     claude-code, codex, gemini, opencode or shell\n"
    "  --stderr FILE    what the agent wrote to standard error, fed behind its standard output\n"
    "  --chunk N        feed N bytes at a time, 1 to 65536 (default 65536)\n"
    "  --tools JSON     tool rules of a policy, {\"allow\"?,\"deny\"?,\"ask\"?}: calls that they forbid stop "
    "the run\n"
    "  --exit-code N    how the agent's process ended (default 0; -N: killed by signal N)\n"
    "  --raw            add the agent's own line to its first event, as \"raw\"\n"
    "  --offsets        put @OFFSET+LENGTH:FLAGS of the line before each event\n"
    "  --effects        write the core's effect records, binary, instead of events\n"
    "  --view FORM      print the run's transcript instead of its events: md, json or summary\n"
    "  --help           this text\n"
    "\n"
    "Exit status: 0 when the stream could be read, 64 for a bad call, 74 for a read error.\n";

static csn_session session;
static _Alignas(8) uint8_t out_box[CSN_OUT_CAP];
static struct {
  bool raw, offsets, effects;
  csn_transcript_format view;
} options;
static csn_transcript view;
/* Events that a view may ask for, by number; kept only for --view. */
static struct {
  char *json;
  size_t len;
} * kept;
static size_t kept_count;
static uint8_t *input;
static size_t input_len;

static void keep_event(uint64_t seq, const uint8_t *json, size_t len) {
  if (seq >= kept_count) {
    size_t count = kept_count == 0 ? 1024 : kept_count * 2;
    kept = realloc(kept, count * sizeof *kept);
    if (kept != NULL) memset(kept + kept_count, 0, (count - kept_count) * sizeof *kept);
    kept_count = count;
  }
  char *copy = malloc(len + 1);
  if (kept == NULL || copy == NULL) {
    fputs("caisson-events: out of memory\n", stderr);
    exit(70);
  }
  memcpy(copy, json, len);
  kept[seq].json = copy;
  kept[seq].len = len;
  csn_transcript_event(&view, csn_span_of(copy, (uint32_t)len));
}

/* Writes the transcript, giving the view what it asks for. */
static void print_view(void) {
  csn_span given = csn_span_of(NULL, 0);
  bool more = true;
  while (more) {
    csn_fx fx = {out_box, sizeof out_box, 0};
    more = csn_transcript_next(&view, given, &fx);
    given = csn_span_of(NULL, 0);
    for (uint32_t at = 0; at < fx.len;) {
      csn_rec rec;
      memcpy(&rec, fx.base + at, sizeof rec);
      if (rec.kind == CSN_FX_TRANSCRIPT_TEXT) fwrite(fx.base + at + sizeof rec, 1, rec.payload_len, stdout);
      if (rec.kind == CSN_FX_TRANSCRIPT_WANT && rec.id < kept_count)
        given = csn_span_of(kept[rec.id].json, (uint32_t)kept[rec.id].len);
      at += rec.size;
    }
  }
  if (options.view == CSN_TRANSCRIPT_SUMMARY) putchar('\n');
}

static void print_event(const uint8_t *payload, uint32_t len) {
  csn_fx_event head;
  memcpy(&head, payload, sizeof head);
  if (options.view != 0) {
    if (head.run != 0) keep_event(head.seq, payload + sizeof head, len - sizeof head);
    return;
  }
  bool outcome = head.type >= CSN_T_RUN_SUCCEEDED && head.type <= CSN_T_RUN_POLICY_VIOLATION;
  if (head.type < CSN_T_AGENT_INIT && !outcome) return;
  if (options.offsets)
    printf("@%llu+%u:%u ", (unsigned long long)head.line_off, head.line_len, head.line_flags);
  const uint8_t *json = payload + sizeof head;
  size_t json_len = len - sizeof head;
  uint32_t raw_flags = CSN_LINE_FIRST | CSN_LINE_JSON;
  if (options.raw && (head.line_flags & raw_flags) == raw_flags &&
      head.line_off + head.line_len <= input_len) {
    fwrite(json, 1, json_len - 1, stdout);
    fputs(",\"raw\":", stdout);
    fwrite(input + head.line_off, 1, head.line_len, stdout);
    putchar('}');
  } else {
    fwrite(json, 1, json_len, stdout);
  }
  putchar('\n');
}

static void drain(csn_fx *fx) {
  if (options.effects) {
    fwrite(fx->base, 1, fx->len, stdout);
    fx->len = 0;
    return;
  }
  for (uint32_t at = 0; at < fx->len;) {
    csn_rec rec;
    memcpy(&rec, fx->base + at, sizeof rec);
    if (rec.kind == CSN_FX_EVENT) print_event(fx->base + at + sizeof rec, rec.payload_len);
    at += rec.size;
  }
  fx->len = 0;
}

static void event(csn_ev kind, uint32_t id, const char *payload) {
  csn_fx fx = {out_box, sizeof out_box, 0};
  csn_rec rec = {0};
  rec.kind = (uint16_t)kind;
  rec.id = id;
  csn_err err = csn_session_event(&session, &rec, csn_span_str(payload), &fx);
  if (err != CSN_ERR_OK) {
    fprintf(stderr, "caisson-events: the core refused event %d with %d\n", (int)kind, (int)err);
    exit(70);
  }
  drain(&fx);
}

static void feed(uint32_t stream, const uint8_t *bytes, uint32_t len) {
  uint32_t done = 0;
  while (done < len) {
    csn_fx fx = {out_box, sizeof out_box, 0};
    int64_t used = csn_session_feed(&session, stream, 1, 0, csn_span_of(bytes + done, len - done), &fx);
    if (used <= 0) {
      fprintf(stderr, "caisson-events: the core refused output with %lld\n", (long long)used);
      exit(70);
    }
    drain(&fx);
    done += (uint32_t)used;
  }
}

/* Reads all of standard input, feeding it in pieces of `chunk` bytes; with --raw it is all kept. */
static void feed_input(size_t chunk) {
  size_t cap = 1u << 20, fed = 0;
  input = malloc(cap);
  for (;;) {
    if (input == NULL) {
      fputs("caisson-events: out of memory\n", stderr);
      exit(70);
    }
    ssize_t n = read(STDIN_FILENO, input + input_len, cap - input_len);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      perror("caisson-events: read");
      exit(74);
    }
    input_len += (size_t)n;
    while (fed < input_len && (n == 0 || input_len - fed >= chunk)) {
      size_t piece = input_len - fed < chunk ? input_len - fed : chunk;
      feed(CSN_STREAM_STDOUT, input + fed, (uint32_t)piece);
      fed += piece;
    }
    if (n == 0) return;
    if (!options.raw && fed > 0) {
      memmove(input, input + fed, input_len - fed);
      input_len -= fed;
      fed = 0;
    }
    if (input_len == cap) input = realloc(input, cap *= 2);
  }
}

/* Returns false when the file cannot be read. */
static bool feed_file(const char *path, size_t chunk) {
  static uint8_t piece[CSN_FEED_MAX];
  FILE *f = fopen(path, "rb");
  if (f == NULL) return false;
  size_t n;
  while ((n = fread(piece, 1, chunk, f)) > 0)
    feed(CSN_STREAM_STDERR, piece, (uint32_t)n);
  bool ok = !ferror(f);
  fclose(f);
  return ok;
}

static int bad_call(const char *what) {
  fprintf(stderr, "caisson-events: %s\n%s", what, usage_text);
  return 64;
}

static bool number(const char *text, long min, long max, long *out) {
  char *end;
  if (text == NULL || *text == 0) return false;
  errno = 0;
  *out = strtol(text, &end, 10);
  return errno == 0 && *end == 0 && *out >= min && *out <= max;
}

int main(int argc, char **argv) {
  const char *agent = NULL, *errors = NULL, *tools = NULL;
  long chunk = CSN_FEED_MAX, exit_code = 0;
  for (int i = 1; i < argc; i++) {
    const char *a = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
    if (strcmp(a, "--help") == 0) {
      fputs(usage_text, stdout);
      return 0;
    } else if (strcmp(a, "--raw") == 0) {
      options.raw = true;
    } else if (strcmp(a, "--offsets") == 0) {
      options.offsets = true;
    } else if (strcmp(a, "--effects") == 0) {
      options.effects = true;
    } else if (strcmp(a, "--view") == 0) {
      static const char *const forms[] = {"json", "md", "summary"};
      for (uint32_t f = 0; value != NULL && f < 3; f++)
        if (strcmp(value, forms[f]) == 0) options.view = (csn_transcript_format)(f + 1);
      if (options.view == 0) return bad_call("--view wants md, json or summary");
      i++;
    } else if (strcmp(a, "--agent") == 0 && value != NULL) {
      agent = argv[++i];
    } else if (strcmp(a, "--tools") == 0 && value != NULL) {
      tools = argv[++i];
    } else if (strcmp(a, "--stderr") == 0 && value != NULL) {
      errors = argv[++i];
    } else if (strcmp(a, "--chunk") == 0) {
      if (!number(value, 1, CSN_FEED_MAX, &chunk)) return bad_call("--chunk wants a number from 1 to 65536");
      i++;
    } else if (strcmp(a, "--exit-code") == 0) {
      if (!number(value, -64, 255, &exit_code)) return bad_call("--exit-code wants a number from -64 to 255");
      i++;
    } else {
      return bad_call(a);
    }
  }
  if (agent == NULL) return bad_call("--agent is required");
  csn_agent known = csn_agent_by_name(csn_span_str(agent));
  if (known == CSN_AGENT_NONE) return bad_call("no such agent");
  const char *run = known == CSN_AGENT_SHELL ? "{\"command\":\"true\"}" : "{\"prompt\":\"-\"}";
  static char text[CSN_IN_CAP];
  if (tools != NULL && strlen(tools) > sizeof text - 128) return bad_call("--tools is too long");
  csn_session_init(&session);
  if (options.view != 0) csn_transcript_init(&view, options.view);
  snprintf(text, sizeof text, "{\"agent\":\"%s\"%s%s}", csn_agent_name(known),
           tools != NULL ? ",\"policy_tools\":" : "", tools != NULL ? tools : "");
  event(CSN_EV_CREATE, 0, text);
  event(CSN_EV_SANDBOX_READY, 0, "");
  event(CSN_EV_RUN, 0, run);
  event(CSN_EV_RUN_LOADED, 1, run);
  event(CSN_EV_RUN_STARTED, 1, "");
  feed_input((size_t)chunk);
  if (errors != NULL && !feed_file(errors, (size_t)chunk)) {
    perror(errors);
    return 74;
  }
  if (exit_code < 0)
    snprintf(text, sizeof text, "{\"reason\":\"signalled\",\"exit_code\":null,\"signal\":%ld}", -exit_code);
  else
    snprintf(text, sizeof text, "{\"reason\":\"exited\",\"exit_code\":%ld,\"signal\":null}", exit_code);
  event(CSN_EV_RUN_EXIT, 1, text);
  event(CSN_EV_COLLECTED, 1, "");
  free(input);
  if (options.view != 0) print_view();
  if (fflush(stdout) != 0 || ferror(stdout)) {
    perror("caisson-events: write");
    return 74;
  }
  return 0;
}
