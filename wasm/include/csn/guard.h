/* csn/guard.h - policy, identity, sealed secrets and the audit chain behind one call. It is a module of its
 * own (guard.wasm), so that keys never lie in the memory in which an agent's output is read.
 *
 * Input:  one question (csn/abi.h CSN_ASK_*) with its payload.
 * Output: one FX_ANSWER in the out-box.
 * Memory: csn_guard is the caller's; the arena is scratch for one question, at least CSN_ARENA_CAP bytes.
 * Errors: as the question's module has them; CSN_ERR_BAD_RECORD for a payload that is not in its form. */
#ifndef CSN_GUARD_H
#define CSN_GUARD_H

#include "csn/policy.h"
#include "csn/seal.h"
#include "csn/token.h"
#include "csn/wire.h"

/* bytes: room that every answer fits in */
#define CSN_GUARD_OUT_CAP (CSN_POLICY_PRINT_MAX + 65536u)
#define CSN_GUARD_IN_CAP  (CSN_POLICY_DOC_MAX + 65536u)

typedef struct csn_guard {
  csn_keys keys;
  csn_seal_keys seals;
  csn_policy policy;
  csn_wire wire; /* one answer at a time: the egress path has a guard for each */
} csn_guard;

/* Denies everything, knows no key. */
void csn_guard_init(csn_guard *g);
/* `rec`: kind CSN_ASK_*, code, id and time_ms as the kind says. fx has CSN_GUARD_OUT_CAP bytes and is empty.
 */
csn_err csn_guard_ask(csn_guard *g, const csn_rec *rec, csn_span payload, csn_arena *arena, csn_fx *fx);

#endif
