/* guest/backup_names.h - what a backup may name: directories, archives, patterns. Pure: no I/O. */
#ifndef CAISSON_GUEST_BACKUP_NAMES_H
#define CAISSON_GUEST_BACKUP_NAMES_H

#include "../common/buf.h"

#define BACKUP_DIR "/var/backups" /* where archives stand */

/* NULL, or why the path is refused: absolute, without "..", under /workspace, /home, /tmp, /var/tmp or /app.
 */
const char *backup_dir_check(const char *dir);
/* NULL, or why the path is refused: a file in BACKUP_DIR or below, without "..". */
const char *backup_archive_check(const char *path);

/* Appends the lines of a mksquashfs exclude file (-wildcards -ef) for one glob of the caller. A glob without
 * a slash matches at every depth, one with a slash from the top; "**" before or after a slash is taken for
 * "at any depth" where mksquashfs can say so. NULL, or why it is refused. A glob that names nothing ("**")
 * adds no line. */
const char *backup_add_glob(csn_buf *out, const char *glob);
/* The same for a path, relative to the top, that stands for itself only; a final "/" is dropped. false, and
 * nothing appended, when no line can say it (it has a line feed). */
bool backup_add_path(csn_buf *out, const char *path, size_t len);

/* The line of mksquashfs's own words that tells of something it left out, or NULL; *len is its length. Files
 * that vanished meanwhile are none: they are no part of the directory any more. */
const char *backup_left_out(const char *text, size_t *len);

#endif
