/* boxes.h - what the exports of every module share: the descriptor of its two boxes, and the record that a
 * call finds in its in-box. Only files of wasm/abi include this. */
#ifndef CSN_ABI_BOXES_H
#define CSN_ABI_BOXES_H

#include "csn/base.h"

#include "abi_digest.h"

#define CSN_EXPORT(name) __attribute__((export_name(name)))

/* The descriptor of a module whose boxes are the arrays `in` and `out`. */
#define CSN_ABI_DESC(in, out)                                                                                \
  ((csn_abi_desc){CSN_ABI_MAGIC, CSN_ABI_VERSION, CSN_ABI_DIGEST, (uint32_t)(uintptr_t)(in),                 \
                  (uint32_t)sizeof(in), (uint32_t)(uintptr_t)(out), (uint32_t)sizeof(out), 0})

/* Reads the record of `len` bytes at the beginning of an in-box of `cap`. False unless its header says that
 * very length and its payload lies within it. */
static inline bool csn_box_record(const uint8_t *in, size_t cap, uint32_t len, csn_rec *rec,
                                  csn_span *payload) {
  if (len < sizeof *rec || len > cap) return false;
  memcpy(rec, in, sizeof *rec);
  if (rec->size != len || rec->payload_len > len - sizeof *rec) return false;
  *payload = csn_span_of(in + sizeof *rec, rec->payload_len);
  return true;
}

#endif
