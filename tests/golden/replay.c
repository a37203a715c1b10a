/* replay.c - feeds a stream, and perhaps one of stderr behind it, at chunk sizes 1..N and whole, and prints
 * the sizes at which the events differ from those of the whole one; nothing when there is none.
 * usage: replay AGENT EXIT_RECORD N STDOUT_FILE [STDERR_FILE [TOOL_RULES]] */
#include "drive.h"

static drive whole, pieces;
static const char *tools; /* payload of SET_TOOLS */

static void run(drive *d, const char *const *argv, const uint8_t *out, size_t out_len, const uint8_t *err,
                size_t err_len, uint32_t chunk) {
  drive_run(d, argv[1]);
  if (tools != NULL && drive_ev(d, CSN_EV_SET_TOOLS, 0, tools) != CSN_ERR_OK) {
    fprintf(stderr, "replay: the core refused the tool rules\n");
    exit(1);
  }
  drive_clear(d);
  if (!drive_feed(d, CSN_STREAM_STDOUT, 1, out, out_len, chunk) ||
      !drive_feed(d, CSN_STREAM_STDERR, 1, err, err_len, chunk)) {
    fprintf(stderr, "replay: the core refused output at chunk size %u\n", chunk);
    exit(1);
  }
  drive_end(d, 1, argv[2]);
}

int main(int argc, char **argv) {
  if (argc < 5) return 64;
  size_t out_len, err_len = 0;
  uint8_t *out = slurp(argv[4], &out_len);
  uint8_t *err = argc > 5 ? slurp(argv[5], &err_len) : NULL;
  static char payload[65536];
  if (argc > 6) {
    snprintf(payload, sizeof payload, "{\"tools\":%s}", argv[6]);
    tools = payload;
  }
  run(&whole, (const char *const *)argv, out, out_len, err, err_len, CSN_FEED_MAX);
  for (uint32_t chunk = 1; chunk <= (uint32_t)atoi(argv[3]); chunk++) {
    run(&pieces, (const char *const *)argv, out, out_len, err, err_len, chunk);
    if (whole.log_len != pieces.log_len || memcmp(whole.log, pieces.log, whole.log_len) != 0)
      printf("%u ", chunk);
  }
  free(out);
  free(err);
  free(whole.log);
  free(pieces.log);
  return 0;
}
