/* csn/audit.h - a log that shows when it was changed: every line is chained to all before it by SHA-256.
 *
 *   head(0) = SHA-256("caisson audit 1\n" + id)
 *   head(n) = SHA-256(head(n-1) + line(n) + "\n")
 *
 * A line is one entry as it is exported (NDJSON), without its newline. Whoever knows a head knows that the
 * lines up to it are complete, in order and unchanged.
 *
 * Memory: 32 bytes and a counter; both go into snapshots. */
#ifndef CSN_AUDIT_H
#define CSN_AUDIT_H

#include "csn/base.h"

typedef struct csn_audit {
  uint64_t count; /* lines so far */
  uint8_t head[32];
} csn_audit;

/* `id` is the session's, or another log's name. */
void csn_audit_init(csn_audit *a, csn_span id);
/* `line` has no newline in it. */
void csn_audit_push(csn_audit *a, csn_span line);

#endif
