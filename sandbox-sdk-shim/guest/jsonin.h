/* guest/jsonin.h - one JSON object read as it arrives: its members, the text of long strings in pieces.
 *
 * Input:  the bytes of one JSON object (RFC 8259), in any chunking (what is reported does not depend on it,
 * but for how strings are cut into pieces). Output: the object's own members; what lies deeper is only
 * skipped, or found by its place. Memory: fixed. No string is held: each piece is reported as it is decoded.
 * Errors: sticky; the first one decides. */
#ifndef CAISSON_GUEST_JSONIN_H
#define CAISSON_GUEST_JSONIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JSONIN_KEY_MAX   63u /* bytes of a key, decoded; a longer one is reported cut */
#define JSONIN_DEPTH_MAX 64u /* nested containers */

typedef struct jsonin {
  /* A piece of a member whose value is a string: decoded UTF-8, which may hold NUL; what was no UTF-8 stays
   * so, half a surrogate pair becomes U+FFFD. The last piece has `last` set and may be empty. */
  void (*text)(void *arg, const char *key, const char *piece, size_t len, bool last);
  /* A member with another value, whose JSON stands at [from, to) of the input. */
  void (*other)(void *arg, const char *key, uint64_t from, uint64_t to);
  void *arg;
  /* private */
  uint64_t at; /* bytes of input before the current one */
  uint64_t from;
  uint8_t state, back, key_len, hex_left, depth, word_len;
  bool failed, in_key;
  uint16_t hex, high; /* \uXXXX being read; a high surrogate that waits for its low one */
  char key[JSONIN_KEY_MAX + 1];
  char word[8]; /* a literal or the start of a number */
  uint8_t is_array[JSONIN_DEPTH_MAX / 8];
} jsonin;

/* Zero-fills the private part. */
void jsonin_init(jsonin *j);
void jsonin_push(jsonin *j, const char *bytes, size_t len);
/* True when the input was one whole object, with nothing but white space around it. */
bool jsonin_end(const jsonin *j);

#endif
