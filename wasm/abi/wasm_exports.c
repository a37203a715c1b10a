/* wasm_exports.c - the exports of core.wasm. The only file with statics: one session, two boxes, the
 * descriptor. It checks every offset and length before the core sees it. */
#include "csn/session.h"

#include "boxes.h"

static _Alignas(8) uint8_t in_buf[CSN_IN_CAP];
static _Alignas(8) uint8_t out_buf[CSN_OUT_CAP];
static csn_session session;
static csn_abi_desc desc;

CSN_EXPORT("csn_abi") const csn_abi_desc *export_abi(void) {
  desc = CSN_ABI_DESC(in_buf, out_buf);
  return &desc;
}

/* The config record has no fields in this version. */
CSN_EXPORT("csn_init") int32_t export_init(uint32_t len) {
  csn_rec rec;
  csn_span payload;
  desc.out_len = 0;
  if (len != 0 && (!csn_box_record(in_buf, sizeof in_buf, len, &rec, &payload) || payload.len != 0))
    return CSN_ERR_BAD_RECORD;
  csn_session_init(&session);
  return CSN_ERR_OK;
}

CSN_EXPORT("csn_event") int32_t export_event(uint32_t len) {
  csn_rec rec;
  csn_span payload;
  desc.out_len = 0;
  if (!csn_box_record(in_buf, sizeof in_buf, len, &rec, &payload)) return CSN_ERR_BAD_RECORD;
  csn_fx fx = {out_buf, sizeof out_buf, 0};
  csn_err err = csn_session_event(&session, &rec, payload, &fx);
  desc.out_len = fx.len;
  return err;
}

/* The OUTPUT record stands at in_off, its bytes behind the header; [off, off + len) of them are fed. */
CSN_EXPORT("csn_feed") int32_t export_feed(uint32_t off, uint32_t len) {
  csn_rec rec;
  desc.out_len = 0;
  memcpy(&rec, in_buf, sizeof rec);
  uint32_t cap = (uint32_t)(sizeof in_buf - sizeof rec);
  if (rec.kind != CSN_EV_OUTPUT || off > cap || len > cap - off || len > CSN_FEED_MAX)
    return CSN_ERR_BAD_RECORD;
  csn_fx fx = {out_buf, sizeof out_buf, 0};
  csn_span bytes = csn_span_of(in_buf + sizeof rec + off, len);
  int64_t used = csn_session_feed(&session, rec.stream, rec.id, rec.time_ms, bytes, &fx);
  desc.out_len = fx.len;
  return (int32_t)used;
}

/* The text at [from, from + len) of the out-box as UTF-16 at `to` of the in-box, which must not be in use
 * there: csn_utf16. */
CSN_EXPORT("csn_utf16") int32_t export_utf16(uint32_t from, uint32_t len, uint32_t to) {
  if (from > sizeof out_buf || len > sizeof out_buf - from) return CSN_ERR_BAD_RECORD;
  if (to > sizeof in_buf || len > (sizeof in_buf - to) / 2) return CSN_ERR_BAD_RECORD;
  return csn_utf16(csn_span_of(out_buf + from, len), in_buf + to);
}

/* The snapshot stands at out_off. */
CSN_EXPORT("csn_save") int32_t export_save(void) {
  desc.out_len = 0;
  return csn_session_save(&session, out_buf, sizeof out_buf);
}

/* The snapshot stands at in_off. */
CSN_EXPORT("csn_load") int32_t export_load(uint32_t len) {
  desc.out_len = 0;
  if (len > sizeof in_buf) return CSN_ERR_BAD_RECORD;
  return csn_session_load(&session, csn_span_of(in_buf, len));
}
