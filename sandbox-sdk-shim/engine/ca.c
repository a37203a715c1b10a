/* engine/ca.c - see ca.h. */
#define _GNU_SOURCE
#include "ca.h"

#include "engine.h"
#include "pem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DAY_S      86400
#define CA_DAYS    3650
#define CA_RENEW   60 /* days before its end that it is made anew */
#define LEAF_DAYS  90
#define FILE_MAX   65536u
#define BUNDLE_MAX (8u * 1024 * 1024)
#define COMMON_MAX 64 /* upper bound of a common name, RFC 5280 */
#define BUCKETS    256u

typedef struct leaf {
  char name[ENGINE_HOST_MAX + 1];
  uint8_t der[X509_CERT_MAX];
  size_t len;
  int64_t until_s;
  struct leaf *chain;
} leaf;

static struct {
  x509_key key, leaf_key;
  char name[COMMON_MAX + 1];
} ca;
static leaf *leaves[CA_LEAVES_MAX]; /* the oldest is replaced */
static unsigned next_leaf;
static leaf *buckets[BUCKETS];

static int64_t now_s(void) {
  return csn_wall_ms() / 1000;
}

/* ---- files ---- */

/* The whole file or the old one: a reader never sees half a key. */
static bool write_file(int dir, const char *name, mode_t mode, const void *data, size_t len) {
  char fresh[64];
  snprintf(fresh, sizeof fresh, ".%s.new", name);
  (void)unlinkat(dir, fresh, 0);
  int fd = openat(dir, fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
  if (fd < 0) return false;
  const bool good = fchmod(fd, mode) == 0 && csn_write_all(fd, data, len) && fsync(fd) == 0;
  close(fd);
  return good && renameat(dir, fresh, dir, name) == 0;
}

static void pem(csn_buf *out, const char *banner, const void *data, size_t len) {
  size_t n = br_pem_encode(NULL, NULL, len, banner, BR_PEM_LINE64);
  (void)br_pem_encode(csn_buf_room(out, n + 1), data, len, banner, BR_PEM_LINE64);
  out->len += n;
}

/* ---- reading back ---- */

static bool keep(void *arg, const csn_buf *der) {
  csn_buf_add(arg, der->p, der->len);
  return false;
}

/* The first object of that name in a file. */
static bool read_pem(int dir, const char *name, const char *banner, csn_buf *out) {
  csn_buf text = {0};
  if (pem_file(dir, name, FILE_MAX, &text)) pem_each(&text, banner, keep, out);
  if (text.p != NULL) explicit_bzero(text.p, text.cap);
  csn_buf_free(&text);
  return out->len > 0;
}

/* Part of the public key tells the authorities of several state directories apart. */
static void set_name(void) {
  const unsigned char *q = ca.key.public.q;
  snprintf(ca.name, sizeof ca.name, "Caisson local CA %02x%02x%02x%02x", q[1], q[2], q[3], q[4]);
}

/* Reads the key and the certificate, and checks that they belong together and are good for a while. */
static bool load(int dir) {
  csn_buf key_der = {0}, cert_der = {0};
  bool good = read_pem(dir, "ca.key", BR_ENCODE_PEM_EC_RAW, &key_der) &&
              read_pem(dir, "ca.crt", "CERTIFICATE", &cert_der);
  if (good) {
    br_skey_decoder_context sk;
    br_skey_decoder_init(&sk);
    br_skey_decoder_push(&sk, key_der.p, key_der.len);
    const br_ec_private_key *ec = br_skey_decoder_get_ec(&sk);
    good = ec != NULL && ec->curve == BR_EC_secp256r1 && x509_key_set(&ca.key, ec->x, ec->xlen);
    explicit_bzero(&sk, sizeof sk);
  }
  if (good) {
    br_x509_decoder_context xd;
    br_x509_decoder_init(&xd, NULL, NULL);
    br_x509_decoder_push(&xd, cert_der.p, cert_der.len);
    br_x509_pkey *pk = br_x509_decoder_get_pkey(&xd);
    good = pk != NULL && br_x509_decoder_isCA(&xd) && pk->key_type == BR_KEYTYPE_EC &&
           pk->key.ec.qlen == ca.key.public.qlen &&
           memcmp(pk->key.ec.q, ca.key.public.q, pk->key.ec.qlen) == 0;
    /* BearSSL counts days from the year 0. */
    int64_t until = ((int64_t)xd.notafter_days - 719528) * DAY_S + xd.notafter_seconds;
    good = good && until - now_s() > CA_RENEW * DAY_S;
  }
  if (key_der.p != NULL) explicit_bzero(key_der.p, key_der.cap);
  csn_buf_free(&key_der);
  csn_buf_free(&cert_der);
  if (good) set_name();
  return good;
}

static const char *make(int dir) {
  uint8_t der[X509_CERT_MAX];
  if (!x509_key_make(&ca.key)) return "no randomness for a key";
  set_name();
  int64_t now = now_s();
  size_t len = x509_write(&(x509_spec){.subject = ca.name,
                                       .issuer = ca.name,
                                       .subject_key = &ca.key,
                                       .issuer_key = &ca.key,
                                       .authority = true,
                                       .from_s = now - DAY_S,
                                       .until_s = now + (int64_t)CA_DAYS * DAY_S},
                          der);
  unsigned char raw[BR_EC_KBUF_PRIV_MAX_SIZE + 256];
  size_t raw_len = br_encode_ec_raw_der(raw, &ca.key.secret, &ca.key.public);
  if (len == 0 || raw_len == 0 || raw_len > sizeof raw) return "the certificate cannot be written";
  csn_buf key = {0}, cert = {0};
  pem(&key, BR_ENCODE_PEM_EC_RAW, raw, raw_len);
  pem(&cert, "CERTIFICATE", der, len);
  /* The certificate last: without it nobody uses the key. */
  (void)unlinkat(dir, "ca.crt", 0);
  bool good =
      write_file(dir, "ca.key", 0600, key.p, key.len) && write_file(dir, "ca.crt", 0600, cert.p, cert.len);
  explicit_bzero(raw, sizeof raw);
  explicit_bzero(key.p, key.cap);
  csn_buf_free(&key);
  csn_buf_free(&cert);
  return good ? NULL : strerror(errno);
}

/* What a sandbox gets to see: world-readable copies of the certificate alone, and of the host's bundle with
 * it. */
static bool write_public(int dir) {
  csn_buf cert = {0}, bundle = {0};
  bool good =
      pem_file(dir, "ca.crt", FILE_MAX, &cert) && write_file(dir, "public.crt", 0644, cert.p, cert.len);
  if (!pem_file(AT_FDCWD, CA_BUNDLE, BUNDLE_MAX, &bundle)) bundle.len = 0;
  if (bundle.len > 0 && bundle.p[bundle.len - 1] != '\n') csn_buf_str(&bundle, "\n");
  if (good) csn_buf_add(&bundle, cert.p, cert.len);
  good = good && write_file(dir, "bundle.crt", 0644, bundle.p, bundle.len);
  csn_buf_free(&cert);
  csn_buf_free(&bundle);
  return good;
}

const char *ca_open(const char *state_dir) {
  char path[4200];
  snprintf(path, sizeof path, "%s/ca", state_dir);
  if (mkdir(path, 0700) != 0 && errno != EEXIST) return strerror(errno);
  int dir = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (dir < 0) return strerror(errno);
  const char *wrong = load(dir) ? NULL : make(dir);
  if (wrong == NULL && !write_public(dir)) wrong = strerror(errno);
  close(dir);
  if (wrong == NULL && !x509_key_make(&ca.leaf_key)) wrong = "no randomness for a key";
  return wrong;
}

/* ---- leaves ---- */

const x509_key *ca_leaf_key(void) {
  return &ca.leaf_key;
}

static unsigned bucket_of(const char *name) {
  uint32_t h = 2166136261u;
  for (; *name != '\0'; name++)
    h = (h ^ (uint8_t)*name) * 16777619u;
  return h % BUCKETS;
}

static void forget(leaf *l) {
  for (leaf **at = &buckets[bucket_of(l->name)]; *at != NULL; at = &(*at)->chain) {
    if (*at != l) continue;
    *at = l->chain;
    break;
  }
}

bool ca_leaf(const char *name, uint8_t der[X509_CERT_MAX], size_t *len) {
  if (strlen(name) > ENGINE_HOST_MAX) return false;
  unsigned bucket = bucket_of(name);
  int64_t now = now_s();
  leaf *l = buckets[bucket];
  while (l != NULL && strcmp(l->name, name) != 0)
    l = l->chain;
  if (l == NULL || l->until_s - now < LEAF_DAYS / 2 * DAY_S) {
    leaf fresh = {.until_s = now + (int64_t)LEAF_DAYS * DAY_S};
    snprintf(fresh.name, sizeof fresh.name, "%s", name);
    fresh.len = x509_write(&(x509_spec){.subject = strlen(name) <= COMMON_MAX ? name : "",
                                        .issuer = ca.name,
                                        .subject_key = &ca.leaf_key,
                                        .issuer_key = &ca.key,
                                        .name = name,
                                        .from_s = now - DAY_S,
                                        .until_s = fresh.until_s},
                           fresh.der);
    if (fresh.len == 0) return false;
    if (l == NULL) {
      leaf **slot = &leaves[next_leaf++ % CA_LEAVES_MAX];
      if (*slot != NULL)
        forget(*slot);
      else if ((*slot = malloc(sizeof **slot)) == NULL)
        abort();
      l = *slot;
      fresh.chain = buckets[bucket];
      buckets[bucket] = l;
    } else {
      fresh.chain = l->chain;
    }
    *l = fresh;
  }
  memcpy(der, l->der, l->len);
  *len = l->len;
  return true;
}
