/* engine/x509.h - writes X.509 version 3 certificates (RFC 5280) with P-256 keys, signed with ECDSA and
 * SHA-256 through BearSSL, which reads certificates but does not write them. */
#ifndef CAISSON_ENGINE_X509_H
#define CAISSON_ENGINE_X509_H

#include <bearssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define X509_CERT_MAX   1536u /* bytes of DER: all parts below at their longest come to about 1,100 */
#define X509_KEY_ID_LEN 20u

/* A P-256 key pair; the private part points into the struct. Not to be copied. */
typedef struct x509_key {
  br_ec_private_key secret;
  br_ec_public_key public;
  unsigned char secret_room[BR_EC_KBUF_PRIV_MAX_SIZE], public_room[BR_EC_KBUF_PUB_MAX_SIZE];
} x509_key;

/* false: the system has no randomness, or `x` is not a key. */
bool x509_key_make(x509_key *key);
bool x509_key_set(x509_key *key, const unsigned char *x, size_t len);

typedef struct x509_spec {
  const char *subject;         /* common name; "" leaves the subject empty */
  const char *issuer;          /* common name */
  const x509_key *subject_key; /* its public part is certified */
  const x509_key *issuer_key;  /* signs */
  bool authority;              /* may sign certificates of servers, no further authorities */
  const char *name;        /* of a server: a host name, or the text of an IP address; NULL for an authority */
  int64_t from_s, until_s; /* seconds since 1970; years 1970 to 9999 */
} x509_spec;

/* Writes the DER form; returns its length, 0 when it cannot be made. */
size_t x509_write(const x509_spec *spec, uint8_t out[X509_CERT_MAX]);

#endif
