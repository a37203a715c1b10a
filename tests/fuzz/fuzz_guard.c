/* fuzz_guard.c - bytes as questions to the guard: kind, code, id, two bytes of length, payload. Oracles: a
 * question is answered once or not at all; what is JSON is valid; a bad field is named in the -300 band
 * alone; after a policy that was refused everything is denied; what was sealed opens again, where it was
 * sealed and only there; nothing else ever opens. */
#include "csn/guard.h"

#include "csn/json.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static csn_guard g;
static csn_json reader;
static _Alignas(8) uint8_t memory[CSN_ARENA_CAP], box[CSN_GUARD_OUT_CAP], kept[CSN_GUARD_OUT_CAP];
static csn_arena arena = {memory, sizeof memory, 0};
static csn_rec got; /* the record that came, kind 0 for none */
static csn_span answer;

static csn_err ask(csn_ask kind, int32_t code, uint32_t id, const uint8_t *bytes, size_t len) {
  csn_rec rec = {0, (uint16_t)kind, 0, id, code, (uint32_t)len, 0, 1700000000000u};
  csn_fx fx = {box, sizeof box, 0};
  uint8_t *exact = malloc(len > 0 ? len : 1); /* so that a read beyond it is seen */
  if (exact == NULL) abort();
  if (len > 0) memcpy(exact, bytes, len);
  csn_err err = csn_guard_ask(&g, &rec, csn_span_of(exact, (uint32_t)len), &arena, &fx);
  free(exact);
  got = (csn_rec){0};
  if (fx.len > 0) memcpy(&got, box, sizeof got);
  if (fx.len != got.size) __builtin_trap(); /* one record or none */
  answer = csn_span_of(box + sizeof got, got.payload_len);
  if (err == CSN_ERR_OK ? got.kind != CSN_FX_ANSWER : got.kind != 0 && got.kind != CSN_FX_BAD_FIELD)
    __builtin_trap();
  if (got.kind == CSN_FX_BAD_FIELD && (err > -300 || err <= -400)) __builtin_trap();
  return err;
}

static bool tells_json(csn_ask kind) {
  return kind == CSN_ASK_POLICY || kind == CSN_ASK_POLICY_PRINT || kind == CSN_ASK_NET ||
         kind == CSN_ASK_TOOL || kind == CSN_ASK_TOKEN || kind == CSN_ASK_API_KEY || kind == CSN_ASK_WIRE_END;
}

/* What SEAL answered, asked back: in its place, and in another. */
static void unseals(const uint8_t *payload, size_t len) {
  static uint8_t question[CSN_GUARD_OUT_CAP];
  const uint8_t *place = payload + CSN_SEAL_NONCE;
  size_t head = strnlen((const char *)place, len - CSN_SEAL_NONCE) + 1;
  head += strnlen((const char *)place + head, len - CSN_SEAL_NONCE - head) + 1;
  size_t secret = len - CSN_SEAL_NONCE - head, sealed = answer.len;
  memcpy(kept, answer.ptr, sealed);
  memcpy(question, place, head);
  memcpy(question + head, kept, sealed);
  if (ask(CSN_ASK_UNSEAL, 0, 0, question, head + sealed) != CSN_ERR_OK || answer.len != secret ||
      memcmp(answer.ptr, place + head, secret) != 0)
    __builtin_trap();
  for (size_t i = 0; i < head + sealed; i += 1 + sealed / 8) {
    question[i] ^= 0x20;
    if (ask(CSN_ASK_UNSEAL, 0, 0, question, head + sealed) == CSN_ERR_OK) __builtin_trap();
    question[i] ^= 0x20;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  csn_guard_init(&g);
  while (size >= 5) {
    csn_ask kind = (csn_ask)(data[0] % (CSN_ASK_END + 1u));
    int32_t code = (int32_t)data[1] - 1;
    uint32_t id = data[2] & 1;
    size_t len = (size_t)data[3] | (size_t)data[4] << 8;
    data += 5;
    size -= 5;
    if (len > size) len = size;
    csn_err err = ask(kind, code, id, data, len);
    if (err == CSN_ERR_OK && tells_json(kind) && !csn_json_is_valid(&reader, answer)) __builtin_trap();
    if (err == CSN_ERR_OK && kind == CSN_ASK_UNSEAL) __builtin_trap();
    if (err == CSN_ERR_OK && kind == CSN_ASK_SEAL) unseals(data, len);
    if (err != CSN_ERR_OK && kind == CSN_ASK_POLICY && err != CSN_ERR_BAD_RECORD) {
      static const char *const hosts[] = {"a.test:443", "8.8.8.8:53", "10.0.0.1:80@10.0.0.1"};
      for (uint32_t i = 0; i < 3; i++)
        if (ask(CSN_ASK_NET, 0, 0, (const uint8_t *)hosts[i], strlen(hosts[i])) != CSN_ERR_OK ||
            got.code != CSN_DENY)
          __builtin_trap();
    }
    data += len;
    size -= len;
  }
  return 0;
}
