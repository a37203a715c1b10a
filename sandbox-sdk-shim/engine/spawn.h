/* engine/spawn.h - launchers that begin inside a prepared control group.
 *
 * To move a process between control groups of version 1 the kernel waits for every processor, tens of
 * milliseconds on a busy machine. A few threads of the engine therefore stand in empty groups beforehand:
 * what such a thread forks is in its group from the start. The thread then moves on to the next empty one,
 * while nobody waits for it. With version 2, whose groups cannot hold single threads of a process, and
 * without control groups there are none. */
#ifndef CAISSON_ENGINE_SPAWN_H
#define CAISSON_ENGINE_SPAWN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

typedef struct spawner spawner;

/* After cgroups_init. Failure leaves less spawners, or none. */
void spawn_init(void);
/* A thread that is ready, and the name of the group that it stands in, which is the caller's from now on;
 * NULL when there is none. One of the next two must follow. */
spawner *spawn_take(char *dir, size_t cap);
/* Forks there; in the child calls child(arg), which does not return. The process id, or -1 with errno. */
pid_t spawn_fork(spawner *s, void (*child)(void *arg), void *arg);
void spawn_drop(spawner *s);
/* Ends them: whatever they forked and that still lives gets its parent-death signal. Before the groups are
 * removed. */
void spawn_stop(void);

#endif
