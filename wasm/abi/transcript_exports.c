/* transcript_exports.c - the exports of transcript.wasm: one transcript, two boxes, the descriptor. It checks
 * every length before the transcript sees it. */
#include "csn/transcript.h"

#include "abi_digest.h"

#define CSN_EXPORT(name) __attribute__((export_name(name)))

static _Alignas(8) uint8_t in_buf[CSN_IN_CAP];
static _Alignas(8) uint8_t out_buf[CSN_TRANSCRIPT_FX_MIN + 64u];
static csn_transcript transcript;
static bool is_open;
static csn_abi_desc desc;

CSN_EXPORT("csn_abi") const csn_abi_desc *export_abi(void) {
  is_open = false;
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

/* One record (CSN_TRANSCRIPT_OP_*) in the in-box; `len` is its whole size. NEXT answers 1 while there is more
 * to come, 0 at the end. */
CSN_EXPORT("csn_transcript") int32_t export_transcript(uint32_t len) {
  csn_rec rec;
  desc.out_len = 0;
  if (len < sizeof rec || len > sizeof in_buf) return CSN_ERR_BAD_RECORD;
  memcpy(&rec, in_buf, sizeof rec);
  if (rec.size != len || rec.payload_len > len - sizeof rec) return CSN_ERR_BAD_RECORD;
  csn_span payload = csn_span_of(in_buf + sizeof rec, rec.payload_len);
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
