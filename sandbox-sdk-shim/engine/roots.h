/* engine/roots.h - the authorities that this machine trusts, for connections of the engine's own to the
 * outside. */
#ifndef CAISSON_ENGINE_ROOTS_H
#define CAISSON_ENGINE_ROOTS_H

#include <bearssl.h>
#include <stdbool.h>

/* Certificates of FILE (PEM) are trusted as well as the machine's. false: it has none that can be read. */
bool roots_add(const char *file);
/* Every authority: those of SSL_CERT_FILE or CA_BUNDLE, read at the first call, and those that were added.
 * They live until the process ends. */
const br_x509_trust_anchor *roots(size_t *count);

#endif
