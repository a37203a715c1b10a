/* engine/hello.h - the name in a TLS ClientHello (RFC 8446 4.1.2, RFC 6066 3). Pure. */
#ifndef CAISSON_ENGINE_HELLO_H
#define CAISSON_ENGINE_HELLO_H

#include <stddef.h>
#include <stdint.h>

#define HELLO_MAX      16384u /* bytes of records that a hello may take */
#define HELLO_NAME_MAX 253u

typedef enum hello_result {
  HELLO_MORE,    /* a prefix of a hello: read on */
  HELLO_NOT_TLS, /* something else */
  HELLO_BAD,     /* TLS, but not a hello that can be relied on */
  HELLO_OK,
} hello_result;

/* `name` gets the host name in lower case, "" when there is none. The hello may be split over records and
 * over reads. A name with a byte that no host name has is HELLO_BAD, and so is a second one: what reads
 * differently at two places passes the wrong rule. */
hello_result hello_peek(const uint8_t *data, size_t len, char name[HELLO_NAME_MAX + 1]);

#endif
