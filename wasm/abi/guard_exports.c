/* guard_exports.c - the exports of guard.wasm: one guard, two boxes, the descriptor. It checks every length
 * before the guard sees it. */
#include "csn/guard.h"

#include "boxes.h"

static _Alignas(8) uint8_t in_buf[CSN_GUARD_IN_CAP];
static _Alignas(8) uint8_t out_buf[CSN_GUARD_OUT_CAP];
static _Alignas(8) uint8_t scratch[CSN_ARENA_CAP];
static csn_guard guard;
static csn_abi_desc desc;

/* Also begins anew: no key, no policy. */
CSN_EXPORT("csn_abi") const csn_abi_desc *export_abi(void) {
  csn_guard_init(&guard);
  desc = CSN_ABI_DESC(in_buf, out_buf);
  return &desc;
}

/* The question stands in the in-box; `len` is its whole size. The in-box and the scratch memory are wiped
 * afterwards: a key or a secret lies nowhere but where the guard keeps it, and in the answer until the next
 * question. */
CSN_EXPORT("csn_ask") int32_t export_ask(uint32_t len) {
  csn_rec rec;
  csn_span payload;
  desc.out_len = 0;
  if (!csn_box_record(in_buf, sizeof in_buf, len, &rec, &payload)) return CSN_ERR_BAD_RECORD;
  csn_fx fx = {out_buf, sizeof out_buf, 0};
  csn_arena arena = {scratch, sizeof scratch, 0};
  csn_err err = csn_guard_ask(&guard, &rec, payload, &arena, &fx);
  if (rec.kind >= CSN_ASK_KEYS && rec.kind <= CSN_ASK_UNSEAL) {
    memset(in_buf, 0, len);
    memset(scratch, 0, arena.used);
  }
  desc.out_len = fx.len;
  return err;
}
