/* csn/doc.h - strict JSON documents read into an arena, and the place of what is wrong in them.
 *
 * Input:  a whole document. csn_json decides whether it is JSON by RFC 8259; cJSON then builds the tree.
 * Memory: the arena only; csn_doc_parse resets it, so a tree and its texts live until the next parse.
 * Errors: the -300 band. A caller refuses what it does not know: nothing is guessed. */
#ifndef CSN_DOC_H
#define CSN_DOC_H

#include "csn/base.h"
#include "csn/json.h"

/* bytes: the longest request as cJSON holds it (its texts once, and CSN_DOC_VALUES_MAX nodes), and a
 * csn_json */
#define CSN_ARENA_CAP   458752u
#define CSN_POINTER_CAP 256u /* bytes: JSON pointer of a field at fault; longer ones are cut */

struct cJSON;

typedef struct csn_pointer { /* RFC 6901 */
  uint32_t len;              /* bytes */
  uint8_t bytes[CSN_POINTER_CAP];
} csn_pointer;

void csn_pointer_set(csn_pointer *p, const char *text);
/* Appends /key with ~ and / escaped; an over-long key is cut between characters. */
void csn_pointer_push(csn_pointer *p, const char *key);
/* Appends /index, or nothing when there is no room. */
void csn_pointer_push_index(csn_pointer *p, uint32_t index);

/* Parses an object of at most `values_max` values, texts without NUL. CSN_ERR_BAD_JSON, CSN_ERR_BAD_VALUE
 * (NUL) or CSN_ERR_NO_MEMORY (too many values, or no room in the arena). */
csn_err csn_doc_parse(csn_arena *a, csn_span doc, uint32_t values_max, const struct cJSON **out);
/* Whether a member of `object` before `item` has the same key. */
bool csn_doc_seen_before(const struct cJSON *object, const struct cJSON *item);
/* A text of at most `max` bytes; `min` 1 refuses the empty one. The span lies in the arena. */
csn_err csn_doc_text(const struct cJSON *item, uint32_t min, uint32_t max, csn_span *out);
/* A whole number from `min` to `max`. */
csn_err csn_doc_number(const struct cJSON *item, uint32_t min, uint32_t max, uint32_t *out);
/* A decimal number times 10^9, from `min_nano` to `max` x 10^9, digits beyond the ninth rounded half up.
 * `max` is at most 10^6: a double then tells any two decimals with nine digits apart, so the result is exact.
 */
csn_err csn_doc_nano(const struct cJSON *item, uint64_t min_nano, uint32_t max, uint64_t *out);

#endif
