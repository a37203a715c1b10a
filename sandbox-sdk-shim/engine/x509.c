/* engine/x509.c - see x509.h. */
#include "x509.h"

#include "addr.h"

#include <string.h>
#include <time.h>

static const br_ec_impl *curves(void) {
  return br_ec_get_default();
}

static bool derive_public(x509_key *key) {
  return br_ec_compute_pub(curves(), &key->public, key->public_room, &key->secret) != 0;
}

bool x509_key_make(x509_key *key) {
  br_prng_seeder seeder = br_prng_seeder_system(NULL);
  br_hmac_drbg_context rng;
  br_hmac_drbg_init(&rng, &br_sha256_vtable, NULL, 0);
  if (seeder == NULL || !seeder(&rng.vtable)) return false;
  return br_ec_keygen(&rng.vtable, curves(), &key->secret, key->secret_room, BR_EC_secp256r1) != 0 &&
         derive_public(key);
}

bool x509_key_set(x509_key *key, const unsigned char *x, size_t len) {
  if (len == 0 || len > 32) return false;
  memcpy(key->secret_room, x, len);
  key->secret = (br_ec_private_key){BR_EC_secp256r1, key->secret_room, len};
  return derive_public(key);
}

/* ---- DER, written back to front: a length is known when what it counts has been written ---- */

typedef struct der {
  uint8_t room[X509_CERT_MAX];
  size_t at; /* first byte written */
  bool full;
} der;

static void put(der *d, const void *data, size_t len) {
  if (len > d->at) {
    d->full = true;
    return;
  }
  d->at -= len;
  memcpy(d->room + d->at, data, len);
}

static void put_byte(der *d, unsigned v) {
  const uint8_t b = (uint8_t)v;
  put(d, &b, 1);
}

/* Tag and length of everything written since `end`, an earlier value of at. */
static void wrap(der *d, unsigned tag, size_t end) {
  size_t len = end - d->at;
  if (len < 128) {
    put_byte(d, (unsigned)len);
  } else {
    unsigned bytes = 0;
    for (size_t v = len; v > 0; v >>= 8) {
      put_byte(d, v & 255);
      bytes++;
    }
    put_byte(d, 0x80 | bytes);
  }
  put_byte(d, tag);
}

static void put_tagged(der *d, unsigned tag, const void *data, size_t len) {
  size_t end = d->at;
  put(d, data, len);
  wrap(d, tag, end);
}

enum {
  BOOLEAN = 0x01,
  INTEGER = 0x02,
  BIT_STRING = 0x03,
  OCTETS = 0x04,
  OID = 0x06,
  UTF8 = 0x0c,
  UTC_TIME = 0x17,
  GENERAL_TIME = 0x18,
  SEQUENCE = 0x30,
  SET = 0x31,
};

#define PUT_OID(d, ...)                                                                                      \
  put_tagged(d, OID, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void put_name(der *d, const char *common) {
  size_t end = d->at;
  if (*common != '\0') {
    put_tagged(d, UTF8, common, strlen(common));
    PUT_OID(d, 0x55, 4, 3);
    wrap(d, SEQUENCE, end);
    wrap(d, SET, end);
  }
  wrap(d, SEQUENCE, end);
}

/* Years to 2049 in the short form, as RFC 5280 4.1.2.5 wants it. */
static void put_time(der *d, int64_t seconds) {
  time_t t = (time_t)seconds;
  struct tm tm;
  char text[32];
  if (gmtime_r(&t, &tm) == NULL) {
    d->full = true;
    return;
  }
  bool utc = tm.tm_year < 150;
  size_t n = strftime(text, sizeof text, "%Y%m%d%H%M%SZ", &tm);
  put_tagged(d, utc ? UTC_TIME : GENERAL_TIME, utc ? text + 2 : text, utc ? n - 2 : n);
}

static void put_algorithm(der *d) {
  size_t end = d->at;
  PUT_OID(d, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2); /* ecdsa-with-SHA256 */
  wrap(d, SEQUENCE, end);
}

static void put_public_key(der *d, const x509_key *key) {
  size_t end = d->at;
  put(d, key->public.q, key->public.qlen);
  put_byte(d, 0);
  wrap(d, BIT_STRING, end);
  size_t algorithm = d->at;
  PUT_OID(d, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7); /* prime256v1 */
  PUT_OID(d, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1);    /* id-ecPublicKey */
  wrap(d, SEQUENCE, algorithm);
  wrap(d, SEQUENCE, end);
}

/* RFC 5280 4.2.1.2, method 1. */
static void key_id(const x509_key *key, uint8_t out[X509_KEY_ID_LEN]) {
  br_sha1_context sha;
  br_sha1_init(&sha);
  br_sha1_update(&sha, key->public.q, key->public.qlen);
  br_sha1_out(&sha, out);
}

/* The extension around the value that was written since `end`; `last` is the end of its number in id-ce. */
static void wrap_extension(der *d, unsigned last, bool critical, size_t end) {
  wrap(d, OCTETS, end);
  if (critical) put_tagged(d, BOOLEAN, "\xff", 1);
  PUT_OID(d, 0x55, 0x1d, (uint8_t)last);
  wrap(d, SEQUENCE, end);
}

static void put_alternative_name(der *d, const x509_spec *spec) {
  size_t end = d->at;
  ip_addr ip;
  if (ip_parse(spec->name, &ip))
    put_tagged(d, 0x87, ip_is_v4(&ip) ? ip.b + 12 : ip.b, ip_is_v4(&ip) ? 4 : 16);
  else
    put_tagged(d, 0x82, spec->name, strlen(spec->name));
  wrap(d, SEQUENCE, end);
  /* With an empty subject this is the subject, which must be understood. */
  wrap_extension(d, 17, spec->subject[0] == '\0', end);
}

static void put_extensions(der *d, const x509_spec *spec) {
  size_t all = d->at, end = d->at;
  uint8_t id[X509_KEY_ID_LEN];
  key_id(spec->issuer_key, id);
  put_tagged(d, 0x80, id, sizeof id);
  wrap(d, SEQUENCE, end);
  wrap_extension(d, 35, false, end);
  end = d->at;
  key_id(spec->subject_key, id);
  put_tagged(d, OCTETS, id, sizeof id);
  wrap_extension(d, 14, false, end);
  if (spec->name != NULL) {
    put_alternative_name(d, spec);
    end = d->at;
    PUT_OID(d, 0x2b, 6, 1, 5, 5, 7, 3, 1); /* serverAuth */
    wrap(d, SEQUENCE, end);
    wrap_extension(d, 37, false, end);
  }
  end = d->at;
  /* digitalSignature; or keyCertSign and cRLSign. The first byte counts unused bits. */
  put_tagged(d, BIT_STRING, spec->authority ? "\x01\x06" : "\x07\x80", 2);
  wrap_extension(d, 15, true, end);
  end = d->at;
  if (spec->authority) {
    put_tagged(d, INTEGER, "\0", 1);
    put_tagged(d, BOOLEAN, "\xff", 1);
  }
  wrap(d, SEQUENCE, end);
  wrap_extension(d, 19, true, end);
  wrap(d, SEQUENCE, all);
  wrap(d, 0xa3, all);
}

/* Positive, and no two alike: a client that has seen one number twice from one issuer refuses. */
static bool put_serial(der *d) {
  uint8_t serial[16];
  br_prng_seeder seeder = br_prng_seeder_system(NULL);
  br_hmac_drbg_context rng;
  br_hmac_drbg_init(&rng, &br_sha256_vtable, NULL, 0);
  if (seeder == NULL || !seeder(&rng.vtable)) return false;
  br_hmac_drbg_generate(&rng, serial, sizeof serial);
  serial[0] = (uint8_t)((serial[0] & 0x3f) | 0x40);
  put_tagged(d, INTEGER, serial, sizeof serial);
  return true;
}

static bool put_to_be_signed(der *d, const x509_spec *spec) {
  size_t end = d->at;
  put_extensions(d, spec);
  put_public_key(d, spec->subject_key);
  put_name(d, spec->subject);
  size_t validity = d->at;
  put_time(d, spec->until_s);
  put_time(d, spec->from_s);
  wrap(d, SEQUENCE, validity);
  put_name(d, spec->issuer);
  put_algorithm(d);
  if (!put_serial(d)) return false;
  size_t version = d->at;
  put_tagged(d, INTEGER, "\x02", 1);
  wrap(d, 0xa0, version);
  wrap(d, SEQUENCE, end);
  return true;
}

size_t x509_write(const x509_spec *spec, uint8_t out[X509_CERT_MAX]) {
  der signed_part = {.at = X509_CERT_MAX}, d = {.at = X509_CERT_MAX};
  if (!put_to_be_signed(&signed_part, spec) || signed_part.full) return 0;
  const uint8_t *body = signed_part.room + signed_part.at;
  size_t body_len = X509_CERT_MAX - signed_part.at;
  unsigned char hash[br_sha256_SIZE], signature[80];
  br_sha256_context sha;
  br_sha256_init(&sha);
  br_sha256_update(&sha, body, body_len);
  br_sha256_out(&sha, hash);
  size_t n = br_ecdsa_sign_asn1_get_default()(curves(), &br_sha256_vtable, hash, &spec->issuer_key->secret,
                                              signature);
  if (n == 0) return 0;
  size_t end = d.at;
  put(&d, signature, n);
  put_byte(&d, 0);
  wrap(&d, BIT_STRING, end);
  put_algorithm(&d);
  put(&d, body, body_len);
  wrap(&d, SEQUENCE, end);
  if (d.full) return 0;
  memcpy(out, d.room + d.at, X509_CERT_MAX - d.at);
  return X509_CERT_MAX - d.at;
}
