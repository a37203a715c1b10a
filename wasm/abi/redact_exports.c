/* redact_exports.c - the exports of redact.wasm: one set of patterns, REDACT_STREAMS streams, two boxes, the
 * descriptor. It checks every number and length before the filter sees it. */
#include "csn/redact.h"

#include "boxes.h"

static _Alignas(8) uint8_t in_buf[CSN_REDACT_IN_MAX];
static _Alignas(8) uint8_t out_buf[CSN_REDACT_IN_MAX + CSN_REDACT_HELD_MAX];
static csn_redact_set set;
static csn_redact_stream streams[CSN_REDACT_STREAMS];
static csn_abi_desc desc;

/* Also begins anew: no value, no stream. */
CSN_EXPORT("csn_abi") const csn_abi_desc *export_abi(void) {
  csn_redact_init(&set);
  for (uint32_t i = 0; i < CSN_REDACT_STREAMS; i++)
    csn_redact_begin(&streams[i], false);
  desc = CSN_ABI_DESC(in_buf, out_buf);
  return &desc;
}

/* The value stands in the in-box, which is wiped. */
CSN_EXPORT("csn_redact_add") int32_t export_add(uint32_t len) {
  desc.out_len = 0;
  if (len > sizeof in_buf) return CSN_ERR_BAD_RECORD;
  csn_err err = csn_redact_add(&set, csn_span_of(in_buf, len));
  memset(in_buf, 0, len);
  return err;
}

/* flags: 1 for registered values only. */
CSN_EXPORT("csn_redact_begin") int32_t export_begin(uint32_t stream, uint32_t flags) {
  desc.out_len = 0;
  if (stream >= CSN_REDACT_STREAMS || flags > 1) return CSN_ERR_BAD_RECORD;
  csn_redact_begin(&streams[stream], flags == 1);
  return CSN_ERR_OK;
}

/* The bytes stand in the in-box; what is certain is left in the out-box, out_len bytes. */
CSN_EXPORT("csn_redact_push") int32_t export_push(uint32_t stream, uint32_t len) {
  desc.out_len = 0;
  if (stream >= CSN_REDACT_STREAMS || len > sizeof in_buf) return CSN_ERR_BAD_RECORD;
  csn_redact_build(&set);
  desc.out_len = csn_redact_push(&set, &streams[stream], csn_span_of(in_buf, len), out_buf);
  return CSN_ERR_OK;
}

CSN_EXPORT("csn_redact_flush") int32_t export_flush(uint32_t stream) {
  desc.out_len = 0;
  if (stream >= CSN_REDACT_STREAMS) return CSN_ERR_BAD_RECORD;
  desc.out_len = csn_redact_flush(&streams[stream], out_buf);
  return CSN_ERR_OK;
}

/* What was held, and how much of a value has come; see csn_redact_release and csn_redact_begun. */
CSN_EXPORT("csn_redact_release") int32_t export_release(uint32_t stream) {
  desc.out_len = 0;
  if (stream >= CSN_REDACT_STREAMS) return CSN_ERR_BAD_RECORD;
  csn_redact_build(&set);
  desc.out_len = csn_redact_release(&set, &streams[stream], out_buf);
  return CSN_ERR_OK;
}

CSN_EXPORT("csn_redact_begun") uint32_t export_begun(uint32_t stream) {
  return stream < CSN_REDACT_STREAMS ? csn_redact_begun(&set, &streams[stream]) : 0;
}

/* Matches of a form since the stream began. */
CSN_EXPORT("csn_redact_found") uint32_t export_found(uint32_t stream, uint32_t form) {
  return stream < CSN_REDACT_STREAMS && form < CSN_REDACT_FORM_END ? streams[stream].found[form] : 0;
}
