/* guest/watch.h - what the parts of the file watch share.
 *
 * watch_filter.c decides which paths a watch is about; watch_tree.c keeps one inotify instance for all of
 * them; watch.c speaks the protocol. */
#ifndef CAISSON_GUEST_WATCH_H
#define CAISSON_GUEST_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WATCH_ROOT      "/workspace"
#define WATCH_GLOBS_MAX 64u    /* of one watch */
#define WATCH_GLOB_MAX  256u   /* bytes */
#define WATCH_DIRS_MAX  65536u /* directories watched at once, by all watches together */
#define WATCH_MAX       128u   /* watches at once */

/* ---- watch_filter.c ---- */

typedef struct watch_filter {
  const char *root; /* directory, absolute, no slash at the end */
  const char *only; /* the one name in it that is meant, NULL for all */
  bool recursive;
  char *const *include; /* NULL-terminated; empty: everything */
  char *const *exclude; /* NULL-terminated */
} watch_filter;

/* True for a glob that means something: not empty, in bounds, `*` and `?` its only special characters. */
bool watch_glob_ok(const char *glob);
/* True when entries of directory `dir` may matter: it is the root, or below it with nothing excluded on the
 * way. */
bool watch_covers(const watch_filter *f, const char *dir);
/* True when an event on `path` is to be told. */
bool watch_matches(const watch_filter *f, const char *path);
/* Writes `path`, taken from `base` when relative, without `.`, `..` and double slashes; false when it does
 * not fit. */
bool watch_normalize(const char *base, const char *path, char *out, size_t cap);
/* True for `path` itself and what lies below it. */
bool watch_within(const char *root, const char *path);

/* ---- watch_tree.c ---- */

typedef enum watch_kind {
  WATCH_CREATE,
  WATCH_MODIFY,
  WATCH_DELETE,
  WATCH_MOVE_FROM,
  WATCH_MOVE_TO,
  WATCH_ATTRIB,
} watch_kind;

typedef struct watch watch;

/* Called by watch_tree.c, implemented by watch.c. */
bool watch_any_covers(const char *dir);
void watch_event(watch_kind kind, const char *path, bool is_directory);
/* Events were lost: every watch is told. */
void watch_lost(void);
/* The directory itself is gone from its place, and with it all below. */
void watch_root_gone(const char *dir);
/* A scan that watch_tree_scan() started has ended; err 0 or errno of its root, or ENOSPC when the kernel or
 * WATCH_DIRS_MAX allows no more. */
void watch_scanned(unsigned id, int err);

/* Starts watching the directories at and below `dir` that some watch covers; watch_scanned(id) follows, never
 * from inside. False with errno when there is no inotify. */
bool watch_tree_scan(const char *dir, unsigned id);
/* The server itself has put a new content in the place of `path`, or of nothing, by a rename: that is told as
 * what it means. */
void watch_tree_replaced(const char *path, bool existed);
/* Stops watching the directories that no watch covers any more. */
void watch_tree_trim(void);

#endif
