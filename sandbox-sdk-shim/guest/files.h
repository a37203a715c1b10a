/* guest/files.h - what the file routes share. */
#ifndef CAISSON_GUEST_FILES_H
#define CAISSON_GUEST_FILES_H

#include "guest.h"

#define FILE_PATH_CAP (2 * GUEST_PATH_MAX + 2)

/* The absolute path that a field names; relative ones start at the session's directory.
 * false, and the error sent, when the field is not a path. */
bool file_path(call *c, const char *field, char out[FILE_PATH_CAP]);
void file_error(call *c, const char *path, const char *operation, int err);
void file_post_read(call *c);
void file_post_read_stream(call *c);

#endif
