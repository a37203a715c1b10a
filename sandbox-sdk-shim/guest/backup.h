/* guest/backup.h - what the backup routes share. */
#ifndef CAISSON_GUEST_BACKUP_H
#define CAISSON_GUEST_BACKUP_H

#include "backup_names.h"
#include "tool.h"

#define BACKUP_TIMEOUT_MS 1800000 /* of one archive or one part, as the real server's */

/* 400 INVALID_BACKUP_CONFIG: `field` and `why` make the sentence. */
void backup_refuse(call *c, const char *operation, const char *field, const char *why);
/* A path of the body that `check` accepts, or NULL with the error sent. */
const char *backup_body_path(call *c, const char *operation, const char *field,
                             const char *(*check)(const char *));
void backup_post_upload(call *c);

#endif
