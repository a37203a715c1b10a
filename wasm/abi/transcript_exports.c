/* transcript_exports.c - the exports of transcript.wasm: one transcript, two boxes, the descriptor. It checks
 * every length before the transcript sees it. */
#include "csn/transcript.h"

#include "boxes.h"

static _Alignas(8) uint8_t in_buf[CSN_IN_CAP];
static _Alignas(8) uint8_t out_buf[CSN_TRANSCRIPT_FX_MIN + 64u];
static csn_transcript transcript;
static bool is_open;
static csn_abi_desc desc;

CSN_EXPORT("csn_abi") const csn_abi_desc *export_abi(void) {
  is_open = false;
  desc = CSN_ABI_DESC(in_buf, out_buf);
  return &desc;
}

/* One record (CSN_TRANSCRIPT_OP_*) in the in-box; `len` is its whole size. NEXT answers 1 while there is more
 * to come, 0 at the end. */
CSN_EXPORT("csn_transcript") int32_t export_transcript(uint32_t len) {
  csn_rec rec;
  csn_span payload;
  desc.out_len = 0;
  if (!csn_box_record(in_buf, sizeof in_buf, len, &rec, &payload)) return CSN_ERR_BAD_RECORD;
  if (rec.kind == CSN_TRANSCRIPT_OP_OPEN) {
    if (rec.code <= 0 || rec.code >= (int32_t)CSN_TRANSCRIPT_FORMAT_END) return CSN_ERR_BAD_RECORD;
    csn_transcript_init(&transcript, (csn_transcript_format)rec.code);
    is_open = true;
    return CSN_ERR_OK;
  }
  if (!is_open) return CSN_ERR_BAD_STATE;
  if (rec.kind == CSN_TRANSCRIPT_OP_EVENT) return csn_transcript_event(&transcript, payload);
  if (rec.kind != CSN_TRANSCRIPT_OP_NEXT) return CSN_ERR_BAD_RECORD;
  csn_fx fx = {out_buf, sizeof out_buf, 0};
  bool more = csn_transcript_next(&transcript, payload, &fx);
  desc.out_len = fx.len;
  return more ? 1 : 0;
}
