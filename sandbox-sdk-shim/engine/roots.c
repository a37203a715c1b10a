/* engine/roots.c - see roots.h. */
#define _GNU_SOURCE
#include "roots.h"

#include "ca.h"
#include "engine.h"
#include "pem.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define BUNDLE_MAX (8u << 20) /* bytes */
#define ROOTS_MAX  1024u      /* items */

static br_x509_trust_anchor *list;
static size_t count;
static bool read_machine;

static void append(void *arg, const void *data, size_t len) {
  csn_buf_add(arg, data, len);
}

static unsigned char *copy(const unsigned char *p, size_t len) {
  unsigned char *to = malloc(len > 0 ? len : 1);
  if (to == NULL) abort();
  memcpy(to, p, len);
  return to;
}

/* One certificate. What cannot be read, or signs nothing, is passed over: it vouches for nobody. */
static bool add(void *arg, const csn_buf *der) {
  (void)arg;
  br_x509_decoder_context xd;
  csn_buf name = {0};
  br_x509_decoder_init(&xd, append, &name);
  br_x509_decoder_push(&xd, der->p, der->len);
  const br_x509_pkey *pk = br_x509_decoder_get_pkey(&xd);
  if (pk == NULL || !br_x509_decoder_isCA(&xd) || name.len == 0 || count == ROOTS_MAX) {
    csn_buf_free(&name);
    return true;
  }
  br_x509_trust_anchor *more = reallocarray(list, count + 1, sizeof *more);
  if (more == NULL) abort();
  list = more;
  br_x509_trust_anchor *ta = &list[count++];
  *ta =
      (br_x509_trust_anchor){.dn = {(unsigned char *)name.p, name.len}, .flags = BR_X509_TA_CA, .pkey = *pk};
  if (pk->key_type == BR_KEYTYPE_RSA) {
    ta->pkey.key.rsa.n = copy(pk->key.rsa.n, pk->key.rsa.nlen);
    ta->pkey.key.rsa.e = copy(pk->key.rsa.e, pk->key.rsa.elen);
  } else {
    ta->pkey.key.ec.q = copy(pk->key.ec.q, pk->key.ec.qlen);
  }
  return true;
}

static bool read_bundle(const char *file) {
  const size_t before = count;
  csn_buf text = {0};
  if (pem_file(AT_FDCWD, file, BUNDLE_MAX, &text)) pem_each(&text, "CERTIFICATE", add, NULL);
  csn_buf_free(&text);
  return count > before;
}

bool roots_add(const char *file) {
  return read_bundle(file);
}

const br_x509_trust_anchor *roots(size_t *n) {
  if (!read_machine) {
    read_machine = true;
    const char *named = getenv("SSL_CERT_FILE");
    const char *file = named != NULL && *named != '\0' ? named : CA_BUNDLE;
    if (!read_bundle(file))
      log_line(LOG_WARN, "%s holds no authority: no HTTPS host of the outside is trusted", file);
  }
  *n = count;
  return list;
}
