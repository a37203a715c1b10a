#include "csn/audit.h"

#include "bearssl_hash.h"

void csn_audit_init(csn_audit *a, csn_span id) {
  static const char domain[] = "caisson audit 1\n";
  br_sha256_context ctx;
  a->count = 0;
  br_sha256_init(&ctx);
  br_sha256_update(&ctx, domain, sizeof domain - 1);
  br_sha256_update(&ctx, id.ptr, id.len);
  br_sha256_out(&ctx, a->head);
}

void csn_audit_push(csn_audit *a, csn_span line) {
  br_sha256_context ctx;
  br_sha256_init(&ctx);
  br_sha256_update(&ctx, a->head, sizeof a->head);
  br_sha256_update(&ctx, line.ptr, line.len);
  br_sha256_update(&ctx, "\n", 1);
  br_sha256_out(&ctx, a->head);
  a->count++;
}
