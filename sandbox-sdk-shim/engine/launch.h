/* engine/launch.h - what the launcher's files share: the child that composes a sandbox and becomes bwrap.
 *
 * Failure ends the process: the text goes to descriptor 2, which the engine reads. */
#ifndef CAISSON_ENGINE_LAUNCH_H
#define CAISSON_ENGINE_LAUNCH_H

#include "engine.h"

/* Prints the text and what errno says, and ends the process with status 125. */
void launch_die(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* ---- root.c ---- */
/* Carries out the plan's operations. `owner`: the host's id of the sandbox's user, taken where the plan says
 * `owned`; has no meaning unless `root`. `ids`: a user namespace to map the plan's template through, -1 for
 * none. */
void root_build(const plan *p, bool root, int ids);

/* ---- inside.c: paths of a root that somebody else made ----
 *
 * A template's links are resolved as if its root were the machine's: one that says /etc must not lead
 * the launcher to the host's. `root` is a descriptor of the root, `path` has no leading slash. */
/* An O_PATH descriptor, -1 with errno. `flags`: O_DIRECTORY, or INSIDE_REAL. */
#define INSIDE_REAL 0x40000000 /* no link on the way: what bwrap mounts there it looks up by itself */
int inside_open(int root, const char *path, int flags);
/* Who owns what the next two make; (uid_t)-1, as at the start: whoever runs this. */
void inside_own(uid_t uid);
/* The directory, made with its parents where it is missing; *made tells whether. */
int inside_dir(int root, const char *path, int flags, bool *made);
/* The same for a file, empty when made; a link that leads nowhere makes room for it. */
int inside_file(int root, const char *path);
/* "/proc/self/fd/N"; static room, two calls deep. */
const char *inside_magic(int fd);

/* ---- ids.c ---- */
/* A user namespace in which 0..IDS_COUNT-2 are the host's `first` and up, and 65534 is the last of them.
 * Needs root. A descriptor. */
int ids_make(uid_t first);

#endif
