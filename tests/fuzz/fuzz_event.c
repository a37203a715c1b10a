/* fuzz_event.c - bytes as a sequence of host events.
 * Oracles: a refused event changes nothing and has no effect but BAD_FIELD; a session loaded from the
 * snapshot gives the same effects as the one it was taken from; every event is valid JSON; numbers have no
 * gap. */
#include "drive.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static drive a, b;
static csn_json reader;
static uint8_t before[CSN_SNAPSHOT_MAX], after[CSN_SNAPSHOT_MAX];

static const char *const payloads[] = {
    "",
    "{\"agent\":\"claude-code\",\"timeout_s\":60}",
    "{\"agent\":\"shell\",\"env\":{\"A\":\"b\"}}",
    "{\"prompt\":\"x\"}",
    "{\"command\":\"x\",\"timeout_s\":1}",
    EXITED_0,
    "{\"reason\":\"killed\",\"exit_code\":null,\"signal\":9}",
    "\"why\"",
    "{}",
    "{\"type\":\"result\",\"is_error\":false,\"session_id\":\"s\",\"result\":\"r\",\"total_cost_usd\":1.5}\n",
    "{\"type\":\"system\",\"subtype\":\"init\",\"session_id\":\"s\"}\n{\"ha",
    "plain text\n",
};

static void check_events(const drive *d) {
  for (const char *p = d->log; p != NULL && *p != 0;) {
    if (*p != '@') return; /* effects with binary payloads are not looked at */
    const char *end = strchr(p, '\n'), *json = strchr(p, ' ') + 1;
    if (!csn_json_is_valid(&reader, csn_span_of(json, (uint32_t)(end - json)))) __builtin_trap();
    p = end + 1;
  }
  if (d->gap) __builtin_trap();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  drive_init(&a);
  while (size >= 6) {
    uint32_t kind = data[0] % (CSN_EV_END + 1u), id = data[1] % 8u;
    int32_t code = (int32_t)(data[2] | data[3] << 8) - 8;
    csn_span payload = csn_span_str(payloads[data[5] % (sizeof payloads / sizeof payloads[0])]);
    a.now_ms += (uint64_t)data[4] * data[4];
    data += 6;
    size -= 6;
    if (data[-1] >= 0xc0) { /* the next bytes are the payload */
      uint32_t n = data[-1] & 0x3f;
      if (n > size) n = (uint32_t)size;
      payload = csn_span_of(data, n);
      data += n;
      size -= n;
    }
    if (kind == CSN_EV_OUTPUT) {
      if (payload.len > 0) drive_feed(&a, 1 + id % 3, id / 2, payload.ptr, payload.len, 7);
      drive_clear(&a);
      continue;
    }
    int32_t before_len = csn_session_save(&a.s, before, sizeof before);
    bool whole = a.s.fed[0] == a.s.cursor[0] && a.s.fed[1] == a.s.cursor[1] && !a.s.digest_open;
    drive_clear(&a);
    csn_err err = drive_event(&a, (csn_ev)kind, id, code, payload);
    int32_t after_len = csn_session_save(&a.s, after, sizeof after);
    if (err != CSN_ERR_OK) {
      if (before_len != after_len || memcmp(before, after, (size_t)after_len) != 0) __builtin_trap();
      if (err > -300 ? a.log_len != 0 : strncmp(a.log, "bad_field ", 10) != 0) __builtin_trap();
    } else {
      check_events(&a);
    }
    if (!whole) continue;
    drive_init(&b);
    b.now_ms = a.now_ms;
    b.next_seq = a.next_seq;
    if (csn_session_load(&b.s, csn_span_of(before, (uint32_t)before_len)) != CSN_ERR_OK) __builtin_trap();
    drive_clear(&b);
    if (drive_event(&b, (csn_ev)kind, id, code, payload) != err) __builtin_trap();
    if (a.log_len != b.log_len || memcmp(a.log, b.log, a.log_len) != 0) __builtin_trap();
    int32_t b_len = csn_session_save(&b.s, before, sizeof before);
    if (b_len != after_len || memcmp(before, after, (size_t)after_len) != 0) __builtin_trap();
  }
  return 0;
}
