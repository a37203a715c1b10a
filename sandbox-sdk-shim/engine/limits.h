/* engine/limits.h - how much of the machine one sandbox may use. Pure: numbers in, numbers out. */
#ifndef CAISSON_ENGINE_LIMITS_H
#define CAISSON_ENGINE_LIMITS_H

#include "../common/buf.h"

#include <cJSON.h>
#include <stdbool.h>
#include <stdint.h>

/* Up to this much disk is a file system in memory of exactly that size; more is the state directory's own,
 * measured from time to time. MiB. */
#define LIMITS_DISK_IN_MEMORY_MB 256u

typedef struct limits {
  uint32_t memory_mb;    /* all of it: programs, page cache they dirty, files under /tmp, /run and /dev/shm */
  uint32_t cpu_milli;    /* thousandths of a processor */
  uint32_t processes;    /* threads counted, as the kernel counts them */
  uint32_t disk_mb;      /* files written over the root */
  uint32_t inodes;       /* how many */
  uint32_t file_size_mb; /* of any single file */
  uint32_t open_files;   /* of any single process */
} limits;

/* What a sandbox gets when nothing is said, on a machine of `ram_mb` MiB and `cpus` processors: at most
 * three quarters of its memory, all its processors (shared fairly with the other sandboxes). */
limits limits_default(uint64_t ram_mb, unsigned cpus);
/* Reads the "limits" object of a request over what *l holds. NULL, or the text of what is wrong (static, or
 * in `room`, at least 160 bytes); *l is then untouched. NULL and JSON null change nothing. A file may be as
 * large as the disk unless the object says otherwise. */
const char *limits_parse(const cJSON *v, limits *l, char *room);
/* The same of the "at_most" object, whose numbers hold only where they are lower than those of *l. */
const char *limits_lower(const cJSON *v, limits *l, char *room);
/* The same for "key=value" of the command line. */
const char *limits_option(const char *text, limits *l, char *room);
/* Appends the object. */
void limits_json(csn_buf *b, const limits *l);
/* Bytes of the file system in memory that holds the sandbox's changes; 0: it has none. */
uint64_t limits_disk_in_memory(const limits *l);

#endif
