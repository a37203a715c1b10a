/* guest/interp.h - the code interpreter: contexts, each a process that keeps a language's state between runs.
 *
 * A context's runs come one after another. What a run prints and shows is sent as it happens, held back by a
 * slow client. A run that is over its time, or whose client has gone, gets SIGINT; if that does not end it
 * the process is killed, and the next run starts a new one. Python is sent a second SIGINT halfway, for what
 * swallowed the first; the cell's own clean-up has the whole time. */
#ifndef CAISSON_GUEST_INTERP_H
#define CAISSON_GUEST_INTERP_H

#include "guest.h"

#define INTERP_CONTEXTS_MAX 64u
#define INTERP_CODE_MAX     (16u * 1024 * 1024) /* one run's code, bytes */
#define INTERP_OUTPUT_MAX   (64u * 1024 * 1024) /* one run's output and results, bytes */
#define INTERP_STRAY_MAX    (64u * 1024)        /* kept of each stream between two runs, bytes */
#define INTERP_PENDING_HIGH                                                                                  \
  (1024u * 1024)              /* waiting for the client before the interpreter is held, bytes                \
                               */
#define INTERP_START_MS 60000 /* as the real server's INTERPRETER_SPAWN_TIMEOUT_MS */
#define INTERP_BEAT_MS  2000  /* between two comments of a silent run */
#define INTERP_GRACE_MS 2000  /* from SIGINT to the end of the process */

enum interp_language { LANGUAGE_PYTHON, LANGUAGE_JAVASCRIPT, LANGUAGE_TYPESCRIPT, LANGUAGE_NONE };

typedef struct context context;

/* The driver's source text, static. */
const char *interp_script(enum interp_language language, size_t *len);
/* LANGUAGE_NONE for a name that is no language or alias. */
enum interp_language interp_language_of(const char *name);
const char *interp_language_name(enum interp_language language);

struct context {
  char id[37]; /* UUID */
  enum interp_language language;
  char *cwd;
  char **env;
  context *next;
  struct interp_process *process; /* private to interp.c */
};

context *interp_first(void);
context *interp_find(const char *id);
/* Starts a context and answers x. Takes env. */
void interp_create(exchange *x, enum interp_language language, const char *cwd, char **env);
/* Ends a context and answers x when its processes are gone. */
void interp_delete(context *c, exchange *x);
/* Queues code and answers x with a stream of events. timeout_ms 0: the sandbox's
 * INTERPRETER_EXECUTION_TIMEOUT_MS, or none. */
void interp_execute(context *c, exchange *x, const char *code, int64_t timeout_ms);

#endif
