/* guest/tool.h - a program of the sandbox that the server itself needs (git, mksquashfs, curl): run to its
 * end with a time limit, its output kept within a bound. */
#ifndef CAISSON_GUEST_TOOL_H
#define CAISSON_GUEST_TOOL_H

#include "guest.h"

#define TOOL_OUTPUT_MAX (256u * 1024) /* kept of each stream unless the spec says otherwise, bytes */
#define TOOL_GRACE_MS   2000          /* SIGTERM to SIGKILL past the time limit */

typedef struct tool_spec {
  const char *const *argv; /* NULL-terminated; argv[0] is a path */
  char *const *envp;       /* NULL: the sandbox's own */
  const char *cwd;
  int stdin_fd;       /* -1: /dev/null. Stays the caller's. */
  int extra_fd;       /* becomes descriptor 3; -1: none. Stays the caller's. */
  int64_t timeout_ms; /* 0: none */
  size_t out_max;     /* bytes of stdout kept; 0: TOOL_OUTPUT_MAX */
} tool_spec;

/* How it ended. `out` is the head of stdout, `err` the tail of stderr: what matters is said last. The
 * receiver may take the buffers. */
typedef struct tool_end {
  int code; /* in the shell's manner; 124 past the time limit */
  bool timed_out;
  bool cut; /* stdout was longer than out_max */
  csn_buf *out, *err;
} tool_end;
typedef void tool_done(void *arg, const tool_end *end);

/* Starts it; `done` is called once, from the event loop. false with errno, and no call, when it cannot be
 * started. */
bool tool_run(const tool_spec *spec, tool_done *done, void *arg);
/* The path of an executable of the sandbox, found along GUEST_PATH_ENV, or NULL. Static text, valid until the
 * next call. */
const char *tool_find(const char *name);
/* The same along another PATH. */
const char *tool_find_in(const char *path, const char *name);
/* A descriptor (close-on-exec) from which `text` is read: a secret that reaches a program so is in no process
 * list and no file. -1 with errno. */
int tool_text_fd(const char *text, size_t len);

#endif
