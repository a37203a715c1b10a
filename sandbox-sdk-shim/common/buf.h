/* common/buf.h - growable byte buffer, JSON writing, base64, UTF-8 and file helpers.
 *
 * Memory: csn_buf owns p; csn_buf_free() releases it. Out of memory aborts the
 * process: the callers bound what they put in, so it means the machine is out.
 * Threads: one buffer, one thread. */
#ifndef CAISSON_COMMON_BUF_H
#define CAISSON_COMMON_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct csn_buf {
  char *p;    /* NULL while cap is 0 */
  size_t len; /* bytes in use */
  size_t cap; /* bytes allocated */
} csn_buf;

/* Makes room for at least `n` more bytes and returns where they go; the caller adds to len. */
char *csn_buf_room(csn_buf *b, size_t n);
void csn_buf_add(csn_buf *b, const void *data, size_t len);
void csn_buf_str(csn_buf *b, const char *s);
void csn_buf_fmt(csn_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Appends a NUL that len does not count, and returns p. */
char *csn_buf_cstr(csn_buf *b);
void csn_buf_free(csn_buf *b);

/* Appends `s` as a quoted JSON string. Bytes that are not valid UTF-8 become U+FFFD. */
void csn_json_str(csn_buf *b, const char *s, size_t len);
void csn_json_cstr(csn_buf *b, const char *s);
/* Appends the escaped form without quotes. */
void csn_json_raw(csn_buf *b, const char *s, size_t len);

/* Length of the longest prefix that does not end inside a UTF-8 sequence that more
 * bytes could complete. At most 3 bytes are held back; invalid bytes are not. */
size_t csn_utf8_cut(const char *s, size_t len);
bool csn_utf8_valid(const char *s, size_t len);

/* Appends the base64 form, with padding. */
void csn_b64_encode(csn_buf *b, const void *data, size_t len);
/* Appends the decoded bytes. false, and nothing appended, unless `s` is base64 with
 * correct padding (or none) and no other byte. */
bool csn_b64_decode(csn_buf *b, const char *s, size_t len);

/* Decodes base64 that arrives in pieces. Zero is the initial state. Only whole groups of four digits are
 * decoded; the rest is held, so that the text can be written back digit by digit. */
typedef struct csn_b64_in {
  char held[4]; /* digits and padding of the group that is not decoded */
  uint8_t held_len;
} csn_b64_in;
/* Appends what `s` decodes to. Returns how many bytes were taken: less than len means that the next one
 * cannot stand there in base64. */
size_t csn_b64_push(csn_b64_in *in, csn_buf *b, const char *s, size_t len);
/* Appends the last bytes; false when the text ended in the middle. */
bool csn_b64_end(const csn_b64_in *in, csn_buf *b);

/* Writes all of it; false with errno set when less could be written. For files and memfds: a descriptor that
 * does not block fails with EAGAIN. */
bool csn_write_all(int fd, const void *data, size_t len);

/* Compares two strings in time that depends on the length of `given` only. */
bool csn_ct_equal(const char *given, const char *secret);

/* Milliseconds: monotonic, and since 1970. */
int64_t csn_now_ms(void);
int64_t csn_wall_ms(void);
/* Writes an RFC 3339 time with milliseconds in UTC, 24 characters and a NUL. */
void csn_iso_time(char out[32], int64_t wall_ms);

#endif
