/* fuzz_load.c - bytes as a snapshot, then a fixed walk through every event.
 * Oracles: what loads saves to the same bytes (of the present version); what does not load leaves a fresh
 * session; no event traps. */
#include "drive.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static drive d;
static uint8_t image[CSN_SNAPSHOT_MAX];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const char *const payloads[] = {"",     "{\"prompt\":\"x\"}", "{\"command\":\"x\"}", EXITED_0, "{}",
                                         "\"w\""};
  drive_init(&d);
  if (csn_session_load(&d.s, csn_span_of(data, (uint32_t)size)) != CSN_ERR_OK) {
    if (d.s.state != CSN_ST_NEW || d.s.seq != 0) __builtin_trap();
    return 0;
  }
  int32_t len = csn_session_save(&d.s, image, sizeof image);
  bool current = data[4] == CSN_SNAPSHOT_VERSION; /* an older one is saved anew */
  if (current && (len != (int32_t)size || memcmp(image, data, size) != 0)) __builtin_trap();
  uint32_t run = d.s.run;
  for (uint32_t round = 0; round < 3; round++) {
    for (uint32_t kind = 1; kind < CSN_EV_END; kind++) {
      if (kind == CSN_EV_OUTPUT || (kind == CSN_EV_DELETE && round < 2) ||
          (kind == CSN_EV_SANDBOX_GONE && round < 2))
        continue;
      for (uint32_t i = 0; i < sizeof payloads / sizeof payloads[0]; i++) {
        drive_feed(&d, CSN_STREAM_STDOUT, run, "{\"type\":\"result\",\"is_error\":false}\nhalf", 39, 64);
        drive_event(&d, (csn_ev)kind, run, CSN_T_FILE_CHANGED, csn_span_str(payloads[i]));
        run = d.s.run != 0 ? d.s.run : run;
      }
    }
    d.now_ms = d.s.now_ms + 20000;
  }
  return 0;
}
