/* engine/pem.h - reading PEM files. */
#ifndef CAISSON_ENGINE_PEM_H
#define CAISSON_ENGINE_PEM_H

#include "../common/buf.h"

#include <stdbool.h>
#include <stddef.h>

/* Appends a file of at most `max` bytes. false, with errno where the system says why, when it cannot be read
 * whole. */
bool pem_file(int dir, const char *name, size_t max, csn_buf *out);

/* Told of one object; false: no more are wanted. `der` is pem_each()'s, and wiped afterwards. */
typedef bool pem_object(void *arg, const csn_buf *der);
/* Calls `each` for every object of that name in a PEM text, in their order. What is malformed is passed over.
 */
void pem_each(const csn_buf *text, const char *banner, pem_object *each, void *arg);

#endif
