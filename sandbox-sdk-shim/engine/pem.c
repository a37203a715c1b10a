/* engine/pem.c - see pem.h. */
#define _GNU_SOURCE
#include "pem.h"

#include <bearssl.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define PIECE 65536u

bool pem_file(int dir, const char *name, size_t max, csn_buf *out) {
  int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t n;
  while ((n = read(fd, csn_buf_room(out, PIECE), PIECE)) > 0 && out->len + (size_t)n <= max)
    out->len += (size_t)n;
  int saved = n > 0 ? EFBIG : errno;
  close(fd);
  errno = saved;
  return n == 0;
}

static void append(void *arg, const void *data, size_t len) {
  csn_buf_add(arg, data, len);
}

void pem_each(const csn_buf *text, const char *banner, pem_object *each, void *arg) {
  br_pem_decoder_context pd;
  csn_buf der = {0};
  /* Room for all of it: growing would leave copies of a key behind. */
  csn_buf_room(&der, text->len + 1);
  br_pem_decoder_init(&pd);
  bool wanted = false, more = true, ended = false;
  for (size_t off = 0; more && !ended;) {
    /* The line end behind the text closes a last line that has none. */
    ended = off == text->len;
    if (ended)
      (void)br_pem_decoder_push(&pd, "\n", 1);
    else
      off += br_pem_decoder_push(&pd, text->p + off, text->len - off);
    switch (br_pem_decoder_event(&pd)) {
    case BR_PEM_BEGIN_OBJ:
      wanted = strcmp(br_pem_decoder_name(&pd), banner) == 0;
      der.len = 0;
      br_pem_decoder_setdest(&pd, wanted ? append : NULL, &der);
      break;
    case BR_PEM_END_OBJ:
      if (wanted) more = each(arg, &der);
      wanted = false;
      break;
    case BR_PEM_ERROR:
      wanted = false;
      break;
    }
  }
  explicit_bzero(der.p, der.cap);
  explicit_bzero(&pd, sizeof pd);
  csn_buf_free(&der);
}
