/* fuzz_agent.c - bytes as an agent's output, built once for each dialect: FUZZ_AGENT is its name. The first
 * byte chooses the stream (bit 0) and how the bytes are split (bits 4 to 7). Oracles: the split does not
 * matter, nor that the instance is thrown away and a new one, loaded from its snapshot, fed again from the
 * cursor; every event is one line of valid JSON, numbers have no gap, feeds progress. Tool rules hold for the
 * calls. */
#include "drive.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static drive a, b;
static csn_json reader;

static void check_events(const drive *d) {
  for (const char *p = d->log; p != NULL && *p != 0;) {
    const char *end = strchr(p, '\n');
    const char *json = strchr(p, ' ') + 1;
    if (end == NULL) __builtin_trap();
    if (*p == '@' && !csn_json_is_valid(&reader, csn_span_of(json, (uint32_t)(end - json)))) __builtin_trap();
    for (const char *c = json; *p == '@' && c < end; c++)
      if ((uint8_t)*c < 0x20 && *c != '\t') __builtin_trap();
    p = end + 1;
  }
  if (d->gap) __builtin_trap();
}

static void begin(drive *d) {
  static const char rules[] =
      "{\"tools\":{\"allow\":[\"Bash(ls:*)\",\"Edit(/src/**)\",\"WebFetch(domain:a.b)\","
      "\"mcp__x__*\",\"Read\"],\"deny\":[\"Read(~/.ssh/**)\",\"Bash(rm:*)\"],"
      "\"ask\":[\"Task(x*)\"]}}";
  drive_run(d, FUZZ_AGENT);
  if (drive_ev(d, CSN_EV_SET_TOOLS, 0, rules) != CSN_ERR_OK) __builtin_trap();
  drive_clear(d);
}

static void run(drive *d, uint32_t stream, const uint8_t *data, size_t size, uint32_t chunk) {
  begin(d);
  if (!drive_feed(d, stream, 1, data, size, chunk)) __builtin_trap();
  drive_end(d, 1, EXITED_0);
  check_events(d);
}

/* As run(), with a new instance after each of the first feeds. */
static void run_reloading(drive *d, uint32_t stream, const uint8_t *data, size_t size, uint32_t chunk) {
  static uint8_t image[CSN_SNAPSHOT_MAX], copy[CSN_SNAPSHOT_MAX];
  size_t at = 0;
  begin(d);
  for (int loads = 0; at < size && loads < 6; loads++) {
    uint32_t n = size - at < chunk ? (uint32_t)(size - at) : chunk;
    if (!drive_feed(d, stream, 1, data + at, n, n)) __builtin_trap();
    int32_t len = csn_session_save(&d->s, image, sizeof image);
    if (len <= 0 || csn_session_load(&d->s, csn_span_of(image, (uint32_t)len)) != CSN_ERR_OK)
      __builtin_trap();
    if (csn_session_save(&d->s, copy, sizeof copy) != len || memcmp(image, copy, (size_t)len) != 0)
      __builtin_trap();
    if (d->cursor[stream] < at || d->cursor[stream] > at + n) __builtin_trap();
    /* A line longer than the piece begins again with a longer piece. */
    if (d->cursor[stream] == at) chunk *= 4;
    at = d->cursor[stream];
  }
  if (!drive_feed(d, stream, 1, data + at, size - at, chunk)) __builtin_trap();
  drive_end(d, 1, EXITED_0);
  check_events(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1) return 0;
  uint8_t how = data[0];
  const bool splits_show = strcmp(FUZZ_AGENT, "shell") == 0; /* its output is told as it comes */
  uint32_t stream = how & 1 ? CSN_STREAM_STDERR : CSN_STREAM_STDOUT;
  run(&a, stream, data + 1, size - 1, CSN_FEED_MAX);
  run(&b, stream, data + 1, size - 1, 1u + (how >> 4) * 5u);
  if (!splits_show && (a.log_len != b.log_len || memcmp(a.log, b.log, a.log_len) != 0)) __builtin_trap();
  run_reloading(&b, stream, data + 1, size - 1, 16u + (how >> 4) * 64u);
  if (!splits_show && (a.log_len != b.log_len || memcmp(a.log, b.log, a.log_len) != 0)) __builtin_trap();
  return 0;
}
