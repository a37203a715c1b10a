/* engine/ca.h - this machine's certificate authority, and the certificates of intercepted hosts. */
#ifndef CAISSON_ENGINE_CA_H
#define CAISSON_ENGINE_CA_H

#include "x509.h"

/* Inside a sandbox; the platform's path. */
#define CA_INSIDE     "/etc/cloudflare/certs/cloudflare-containers-ca.crt"
#define CA_BUNDLE     "/etc/ssl/certs/ca-certificates.crt"
#define CA_LEAVES_MAX 512u /* certificates kept for the next connection to a host */

/* Reads DIR/ca/ca.key and ca.crt, or makes them (0600, each complete or absent) when they are missing,
 * unreadable or about to expire; writes DIR/ca/bundle.crt: what the host trusts, and this authority. NULL, or
 * what is wrong. */
const char *ca_open(const char *dir);
/* The chain and key for a server `name` (a host name in lower case, or the text of an IP address). They live
 * until the process ends or CA_LEAVES_MAX other names were asked for: for a handshake that starts at once
 * they are copied by the caller. false: it cannot be made. */
bool ca_leaf(const char *name, uint8_t der[X509_CERT_MAX], size_t *len);
/* The key of every leaf. */
const x509_key *ca_leaf_key(void);

#endif
