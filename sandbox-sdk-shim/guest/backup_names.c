/* guest/backup_names.c - see backup_names.h. */
#define _GNU_SOURCE
#include "backup_names.h"

#include <stdlib.h>
#include <string.h>

#define PATH_BYTES_MAX 4096u

static const char *path_check(const char *path) {
  if (*path != '/') return "must be an absolute path";
  if (strlen(path) > PATH_BYTES_MAX) return "is too long";
  for (const char *at = path; *at != '\0'; at++) {
    if ((unsigned char)*at < 0x20) return "has a control character";
    if (*at == '/' && at[1] == '.' && at[2] == '.' && (at[3] == '/' || at[3] == '\0'))
      return "must not contain \"..\"";
  }
  return NULL;
}

static bool below(const char *path, const char *top) {
  size_t n = strlen(top);
  return strncmp(path, top, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

const char *backup_dir_check(const char *dir) {
  static const char *const tops[] = {"/workspace", "/home", "/tmp", "/var/tmp", "/app"};
  const char *why = path_check(dir);
  if (why != NULL) return why;
  for (size_t i = 0; i < sizeof tops / sizeof tops[0]; i++)
    if (below(dir, tops[i])) return NULL;
  return "must be inside /workspace, /home, /tmp, /var/tmp or /app";
}

const char *backup_archive_check(const char *path) {
  const char *why = path_check(path);
  if (why != NULL) return why;
  size_t len = strlen(path);
  if (!below(path, BACKUP_DIR) || len <= sizeof BACKUP_DIR || path[len - 1] == '/')
    return "must be a file in " BACKUP_DIR;
  return NULL;
}

/* The exclude file's reader trims white space and takes a first "#" for a comment; a bracket hides both. */
static void add_line(csn_buf *out, const char *prefix, const char *s, size_t len) {
  csn_buf_str(out, prefix);
  for (size_t i = 0; i < len; i++) {
    bool edge = i == 0 || i + 1 == len;
    if (edge && (s[i] == ' ' || s[i] == '\t' || (i == 0 && s[i] == '#')))
      csn_buf_fmt(out, "[%c]", s[i]);
    else
      csn_buf_add(out, s + i, 1);
  }
  csn_buf_str(out, "\n");
}

static bool ends_with(const char *s, size_t len, const char *tail) {
  size_t n = strlen(tail);
  return len >= n && memcmp(s + len - n, tail, n) == 0;
}

const char *backup_add_glob(csn_buf *out, const char *glob) {
  size_t len = strlen(glob);
  if (len > PATH_BYTES_MAX) return "a pattern is too long";
  for (size_t i = 0; i < len; i++)
    if ((unsigned char)glob[i] < 0x20 || glob[i] == 0x7f) return "a pattern has a control character";
  bool any_depth = false, anchored = false;
  if (strncmp(glob, "... ", 4) == 0) { /* mksquashfs's own way to say it */
    any_depth = true;
    glob += 4;
  }
  while (strncmp(glob, "**/", 3) == 0) {
    any_depth = true;
    glob += 3;
  }
  while (*glob == '/' || strncmp(glob, "./", 2) == 0) {
    anchored = true;
    glob += *glob == '/' ? 1 : 2;
  }
  char *text = strdup(glob);
  if (text == NULL) abort();
  len = strlen(text);
  /* A final slash, or one with two stars, excludes what the name before it does; two stars in the middle are
   * taken for nothing between. */
  for (size_t before = len + 1; before != len;) {
    before = len;
    if (ends_with(text, len, "/**")) len -= 3;
    if (ends_with(text, len, "/")) len--;
  }
  text[len] = '\0';
  for (char *mid; (mid = strstr(text, "/**/")) != NULL;)
    memmove(mid, mid + 3, strlen(mid + 3) + 1);
  len = strlen(text);
  if (strchr(text, '/') == NULL && !anchored) any_depth = true;
  if (len > 0 && strcmp(text, "**") != 0) {
    add_line(out, "", text, len);
    if (any_depth) add_line(out, "... ", text, len);
  }
  free(text);
  return NULL;
}

bool backup_add_path(csn_buf *out, const char *path, size_t len) {
  while (len > 0 && path[len - 1] == '/')
    len--;
  if (len == 0 || memchr(path, '\n', len) != NULL) return false;
  csn_buf b = {0};
  for (size_t i = 0; i < len; i++) {
    if (strchr("*?[]\\", path[i]) != NULL) csn_buf_str(&b, "\\");
    csn_buf_add(&b, path + i, 1);
  }
  /* An escaped last character and a bracketed space cannot meet: only plain ones are bracketed. */
  add_line(out, "", b.p, b.len);
  csn_buf_free(&b);
  return true;
}

static bool has(const char *line, size_t len, const char *what) {
  return memmem(line, len, what, strlen(what)) != NULL;
}

const char *backup_left_out(const char *text, size_t *len) {
  while (*text != '\0') {
    *len = strcspn(text, "\n");
    bool loss = has(text, *len, "creating empty file") || has(text, *len, "skipping") ||
                has(text, *len, "gnoring") || has(text, *len, "Failed to read");
    if (loss && !has(text, *len, "No such file or directory")) return text;
    text += *len;
    text += *text == '\n';
  }
  return NULL;
}
