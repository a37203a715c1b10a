/* engine/keeper.h - the engine's one helper process.
 *
 * It measures what may take long or must be read from /proc (the disk that a sandbox's files take, the
 * memory of sandboxes that no control group bounds), and it outlives an engine that is killed: then it
 * removes what that left, control groups and storage, and ends. */
#ifndef CAISSON_ENGINE_KEEPER_H
#define CAISSON_ENGINE_KEEPER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef enum keeper_kind {
  KEEPER_DISK = 1, /* directories of the sandbox, and deleted files that its processes hold open */
  KEEPER_TASKS,    /* its processes and their memory, and its file systems in memory */
} keeper_kind;

typedef struct keeper_ask {
  uint32_t kind;
  uint32_t inode_max; /* KEEPER_DISK: counting stops above it */
  uint64_t generation;
  int32_t top;       /* outermost process of the sandbox, as seen by the engine */
  int32_t guest;     /* its PID 1, 0 while unknown */
  int32_t in_memory; /* KEEPER_DISK: its changes lie on a file system in memory */
  char name[68];
} keeper_ask;

typedef struct keeper_answer {
  uint32_t kind;
  uint32_t processes;
  uint64_t generation;
  uint64_t bytes; /* of disk or of memory */
  uint64_t inodes;
  uint64_t took_ms;
} keeper_answer;

/* Starts it; its answers come to `on_answer` from the event loop. false with errno. */
bool keeper_start(void (*on_answer)(const keeper_answer *a));
/* false: it has too much to do already; ask later. */
bool keeper_ask_for(const keeper_ask *ask);
/* To be called for every child that ended. true: it was the keeper, and there is a new one. */
bool keeper_reaped(pid_t pid);
/* Ends it and waits for that. */
void keeper_stop(void);

#endif
