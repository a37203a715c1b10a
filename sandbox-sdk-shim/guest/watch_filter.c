/* guest/watch_filter.c - see watch.h: which paths a watch is about. No I/O. */
#define _GNU_SOURCE
#include "watch.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

bool watch_glob_ok(const char *glob) {
  size_t len = strlen(glob);
  return len > 0 && len <= WATCH_GLOB_MAX && strpbrk(glob, "[]{}\\") == NULL;
}

bool watch_within(const char *root, const char *path) {
  size_t n = strlen(root);
  if (n == 1) return *path == '/'; /* the root directory */
  return strncmp(root, path, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

/* `rel` is a path below the root; a glob with a slash is about all of it, another about names. */
static bool any_part_matches(char *const *globs, const char *rel) {
  for (; *globs != NULL; globs++) {
    if (strchr(*globs, '/') != NULL) {
      if (fnmatch(*globs, rel, FNM_PATHNAME | FNM_LEADING_DIR) == 0) return true;
      continue;
    }
    for (const char *at = rel; *at != '\0';) {
      char name[256];
      size_t n = strcspn(at, "/");
      snprintf(name, sizeof name, "%.*s", (int)n, at);
      if (fnmatch(*globs, name, 0) == 0) return true;
      at += n + (at[n] == '/');
    }
  }
  return false;
}

static bool included(char *const *globs, const char *rel) {
  if (*globs == NULL) return true;
  const char *slash = strrchr(rel, '/');
  for (; *globs != NULL; globs++) {
    if (strchr(*globs, '/') != NULL ? fnmatch(*globs, rel, FNM_PATHNAME) == 0
                                    : fnmatch(*globs, slash == NULL ? rel : slash + 1, 0) == 0)
      return true;
  }
  return false;
}

/* What of `path` lies below the root: "" for the root itself, NULL when it does not. */
static const char *below(const watch_filter *f, const char *path) {
  if (!watch_within(f->root, path)) return NULL;
  const char *rel = path + strlen(f->root);
  return *rel == '/' ? rel + 1 : rel;
}

bool watch_covers(const watch_filter *f, const char *dir) {
  const char *rel = below(f, dir);
  if (rel == NULL) return false;
  if (*rel == '\0') return true;
  return f->recursive && f->only == NULL && !any_part_matches(f->exclude, rel);
}

bool watch_matches(const watch_filter *f, const char *path) {
  const char *rel = below(f, path);
  if (rel == NULL || *rel == '\0') return false;
  if (f->only != NULL) return strcmp(rel, f->only) == 0;
  if (!f->recursive && strchr(rel, '/') != NULL) return false;
  return !any_part_matches(f->exclude, rel) && included(f->include, rel);
}

bool watch_normalize(const char *base, const char *path, char *out, size_t cap) {
  char joined[8448];
  int n = *path == '/' ? snprintf(joined, sizeof joined, "%s", path)
                       : snprintf(joined, sizeof joined, "%s/%s", base, path);
  if (n < 0 || (size_t)n >= sizeof joined) return false;
  size_t len = 0;
  for (const char *at = joined; *at != '\0';) {
    size_t part = strcspn(at, "/");
    if (part == 2 && at[0] == '.' && at[1] == '.') {
      while (len > 0 && out[--len] != '/')
        ;
    } else if (part > 0 && !(part == 1 && at[0] == '.')) {
      if (part + 2 > cap - len) return false;
      out[len++] = '/';
      memcpy(out + len, at, part);
      len += part;
    }
    at += part + (at[part] == '/');
  }
  if (len == 0) out[len++] = '/';
  out[len] = '\0';
  return true;
}
