/* tests/engine/probe.h - attempts to get out of a sandbox, for the tests only.
 *
 * An attempt returns 0 when it succeeded (the sandbox is open there), else the errno value that refused it.
 * Each runs in a process of its own, so that one that is killed for it is a refusal too. What depends on the
 * test comes in environment variables, lists separated by commas. */
#ifndef CAISSON_PROBE_H
#define CAISSON_PROBE_H

#include <stddef.h>

typedef struct attempt {
  const char *name;
  int (*run)(void);
} attempt;

extern const attempt syscall_attempts[], process_attempts[], file_attempts[], network_attempts[];

/* Sentence about the last success, for the report. */
extern char probe_detail[512];

/* Calls fn for each item of the list in the environment variable; the first 0, else the last errno, else
 * ENOENT for an empty list. */
int each_item(const char *variable, int (*fn)(const char *item));

#endif
