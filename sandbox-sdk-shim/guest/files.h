/* guest/files.h - what the file routes share. */
#ifndef CAISSON_GUEST_FILES_H
#define CAISSON_GUEST_FILES_H

#include "guest.h"

#define FILE_PATH_CAP (2 * GUEST_PATH_MAX + 2)
#define FILE_TEMP_PREFIX                                                                                     \
  ".caisson-" /* of files that are to take another one's place; watches do not tell of them */

/* The absolute path that a field names; relative ones start at the session's directory.
 * false, and the error sent, when the field is not a path. */
bool file_path(call *c, const char *field, char out[FILE_PATH_CAP]);
/* The same for a path and a session id (NULL: the default session); false when it does not fit. */
bool file_resolve(const char *path, const char *session_id, char out[FILE_PATH_CAP]);
void file_error(exchange *x, const char *path, const char *operation, int err);
/* mkdir -p. 0 or -1 with errno. */
int file_make_directories(const char *path, mode_t mode);
void file_post_read(call *c);
void file_post_read_stream(call *c);

#endif
