/* engine/cgroup.h - control groups: the kernel's own bounds and counters for all processes of a sandbox.
 *
 * Version 2 where it has the controllers and a place that we may write (root, or a tree delegated to the
 * user), else version 1, else none: then `has` is false for everything and limits.c's numbers are kept in
 * other ways (sandbox.c, keeper.c). Each sandbox has one directory, in every hierarchy that is used, below
 * one directory of this engine. */
#ifndef CAISSON_ENGINE_CGROUP_H
#define CAISSON_ENGINE_CGROUP_H

#include "../common/buf.h"
#include "limits.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum cgroup_kind { CG_MEMORY, CG_PIDS, CG_CPU, CG_CPUACCT, CG_KINDS } cgroup_kind;

#define CGROUP_NAME_MAX 40u /* of a sandbox's directory, bytes with the NUL */

typedef struct cgroup_usage {
  uint64_t memory_bytes; /* without page cache that the kernel drops when it needs room */
  uint64_t cpu_ms;
  uint32_t processes;
  uint32_t oom_kills;    /* processes that the memory limit ended */
  uint32_t process_hits; /* refused forks */
} cgroup_usage;

/* Finds out what is usable, removes what an earlier engine of this state directory left, says in the log what
 * limits rest on. `name`, which begins with "caisson-", is our directory's in each hierarchy; `state_dir`
 * keeps a list of them for the next start. */
void cgroups_init(const char *state_dir, const char *name);
bool cgroup_has(cgroup_kind kind);
/* "cgroup2", "cgroup1" or "none". */
const char *cgroup_version(void);
/* Makes `dir`. false with the reason in `why`. */
bool cgroup_make(const char *dir, csn_buf *why);
/* Sets its limits. false with the reason in `why`. */
bool cgroup_limit(const char *dir, const limits *l, csn_buf *why);
/* Makes `dir` and moves the calling thread, not its process, into it: version 1 only. For any thread. */
bool cgroup_prepare(const char *dir);
/* Moves the calling process in. 0 or -1 with errno. */
int cgroup_enter(const char *dir);
/* Reads the counters; those that are not kept stay 0. */
void cgroup_read(const char *dir, cgroup_usage *u);
/* false: processes are still ending in it; ask again. */
bool cgroup_remove(const char *dir);
/* Ends and removes all that is in the directories named in state_dir's list. Safe in a process that has
 * only that path. */
void cgroups_clear(const char *state_dir);

#endif
