/* guard_exports.c - the exports of guard.wasm: one guard, two boxes, the descriptor. It checks every length
 * before the guard sees it. */
#include "csn/guard.h"

#include "abi_digest.h"

#define CSN_EXPORT(name) __attribute__((export_name(name)))

static _Alignas(8) uint8_t in_buf[CSN_GUARD_IN_CAP];
static _Alignas(8) uint8_t out_buf[CSN_GUARD_OUT_CAP];
static _Alignas(8) uint8_t scratch[CSN_ARENA_CAP];
static csn_guard guard;
static csn_abi_desc desc;

/* Also begins anew: no key, no policy. */
CSN_EXPORT("csn_abi") const csn_abi_desc *export_abi(void) {
  csn_guard_init(&guard);
  desc = (csn_abi_desc){CSN_ABI_MAGIC,
                        CSN_ABI_VERSION,
                        CSN_ABI_DIGEST,
                        (uint32_t)(uintptr_t)in_buf,
                        (uint32_t)sizeof in_buf,
                        (uint32_t)(uintptr_t)out_buf,
                        (uint32_t)sizeof out_buf,
                        0};
  return &desc;
}

/* The question stands in the in-box; `len` is its whole size. The in-box and the scratch memory are wiped
 * afterwards: a key or a secret lies nowhere but where the guard keeps it, and in the answer until the next
 * question. */
CSN_EXPORT("csn_ask") int32_t export_ask(uint32_t len) {
  csn_rec rec;
  desc.out_len = 0;
  if (len < sizeof rec || len > sizeof in_buf) return CSN_ERR_BAD_RECORD;
  memcpy(&rec, in_buf, sizeof rec);
  if (rec.size != len || rec.payload_len > len - sizeof rec) return CSN_ERR_BAD_RECORD;
  csn_fx fx = {out_buf, sizeof out_buf, 0};
  csn_arena arena = {scratch, sizeof scratch, 0};
  csn_err err = csn_guard_ask(&guard, &rec, csn_span_of(in_buf + sizeof rec, rec.payload_len), &arena, &fx);
  if (rec.kind >= CSN_ASK_KEYS && rec.kind <= CSN_ASK_UNSEAL) {
    memset(in_buf, 0, len);
    memset(scratch, 0, arena.used);
  }
  desc.out_len = fx.len;
  return err;
}
