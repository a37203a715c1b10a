/* guest/routes_file.c - files: write, list, mkdir, delete, rename, move, exists. */
#define _GNU_SOURCE
#include "files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* entries of one listing, which is made in memory: about 300 bytes each. More is said to be left out. */
#define LIST_MAX 200000u

bool file_resolve(const char *path, const char *session_id, char out[FILE_PATH_CAP]) {
  char base[GUEST_PATH_MAX + 1] = "";
  if (*path != '/') session_cwd(session_id == NULL ? "default" : session_id, base, sizeof base);
  int n = snprintf(out, FILE_PATH_CAP, "%s%s%s", strcmp(base, "/") == 0 ? "" : base, *path == '/' ? "" : "/",
                   path);
  return n >= 0 && (size_t)n < FILE_PATH_CAP;
}

bool file_path(call *c, const char *field, char out[FILE_PATH_CAP]) {
  if (!ok_text(c, field, true, GUEST_PATH_MAX)) return false;
  if (!ok_text(c, "sessionId", false, GUEST_ID_MAX)) return false;
  const char *path = body_text(c, field);
  if (*path == '\0') {
    reply_invalid(c->req, field, "must not be empty");
    return false;
  }
  return file_resolve(path, body_text(c, "sessionId"), out);
}

void file_error(exchange *x, const char *path, const char *operation, int err) {
  const char *code = err == ENOENT                    ? "FILE_NOT_FOUND"
                     : err == ENOTDIR                 ? "NOT_DIRECTORY"
                     : err == EISDIR                  ? "IS_DIRECTORY"
                     : err == EEXIST                  ? "FILE_EXISTS"
                     : err == EACCES || err == EPERM  ? "PERMISSION_DENIED"
                     : err == EROFS                   ? "READ_ONLY"
                     : err == ENAMETOOLONG            ? "NAME_TOO_LONG"
                     : err == ENOSPC || err == EDQUOT ? "NO_SPACE"
                     : err == EFBIG                   ? "FILE_TOO_LARGE"
                                                      : "FILESYSTEM_ERROR";
  csn_buf ctx = {0};
  csn_buf_str(&ctx, "{\"path\":");
  csn_json_cstr(&ctx, path);
  csn_buf_fmt(&ctx, ",\"operation\":\"%s\",\"stderr\":", operation);
  csn_json_cstr(&ctx, strerror(err));
  csn_buf_str(&ctx, "}");
  if (err == ENOENT)
    reply_error(x, code, csn_buf_cstr(&ctx), "File not found: %s", path);
  else
    reply_error(x, code, csn_buf_cstr(&ctx), "%s: %s: %s", operation, path, strerror(err));
  csn_buf_free(&ctx);
}

static csn_buf ok_path(const char *path) {
  csn_buf b = {0};
  csn_buf_str(&b, "{\"success\":true,\"path\":");
  csn_json_cstr(&b, path);
  csn_buf_str(&b, ",");
  return b;
}

int file_make_directories(const char *path, mode_t mode) {
  char room[FILE_PATH_CAP];
  snprintf(room, sizeof room, "%s", path);
  for (char *at = room + 1;; at++) {
    if (*at != '/' && *at != '\0') continue;
    char saved = *at;
    *at = '\0';
    if (mkdir(room, mode) != 0 && errno != EEXIST) return -1;
    *at = saved;
    if (saved == '\0') break;
  }
  struct stat st;
  if (stat(room, &st) != 0) return -1;
  if (S_ISDIR(st.st_mode)) return 0;
  errno = ENOTDIR;
  return -1;
}

static void post_delete(call *c) {
  char path[FILE_PATH_CAP];
  struct stat st;
  if (!file_path(c, "path", path)) return;
  if (lstat(path, &st) != 0) {
    file_error(c->req, path, "file.delete", errno);
  } else if (S_ISDIR(st.st_mode)) {
    file_error(c->req, path, "file.delete", EISDIR);
  } else if (unlink(path) != 0) {
    file_error(c->req, path, "file.delete", errno);
  } else {
    csn_buf b = ok_path(path);
    reply_stamped(c->req, &b);
  }
}

/* A move between file systems. The copy is made beside the destination and takes its place whole: a full
 * disk costs nothing that was there, and what stands there (a FIFO without a reader) is never opened. */
static int copy_file(const char *from, const char *to, const struct stat *st) {
  char temp[FILE_PATH_CAP + 32];
  const char *slash = strrchr(to, '/'); /* file_path() makes it absolute */
  snprintf(temp, sizeof temp, "%.*s/.caisson-XXXXXX", (int)(slash - to), to);
  int in = open(from, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
  if (in < 0) return -1;
  int out = mkostemp(temp, O_CLOEXEC);
  int err = out < 0 ? errno : 0;
  static char room[256 * 1024];
  for (ssize_t n = 1; err == 0 && n > 0;) {
    n = read(in, room, sizeof room);
    if (n < 0) err = errno;
    for (ssize_t off = 0, put; err == 0 && off < n; off += put)
      if ((put = write(out, room + off, (size_t)(n - off))) < 0) err = errno;
  }
  close(in);
  if (err == 0 && fchmod(out, st->st_mode & 07777) != 0) err = errno;
  if (out >= 0 && close(out) != 0 && err == 0) err = errno;
  if (err == 0 && rename(temp, to) != 0) err = errno;
  if (err != 0 && out >= 0) unlink(temp);
  if (err == 0 && unlink(from) != 0) err = errno;
  errno = err;
  return err == 0 ? 0 : -1;
}

static void relocate(call *c, const char *from_field, const char *to_field, const char *operation) {
  char from[FILE_PATH_CAP], to[FILE_PATH_CAP];
  struct stat st;
  if (!file_path(c, from_field, from) || !file_path(c, to_field, to)) return;
  int rc = lstat(from, &st);
  if (rc == 0) rc = rename(from, to);
  /* /tmp is a file system of its own. */
  if (rc != 0 && errno == EXDEV && S_ISREG(st.st_mode)) rc = copy_file(from, to, &st);
  if (rc != 0) {
    file_error(c->req, from, operation, errno);
    return;
  }
  csn_buf b = ok_path(from);
  csn_buf_str(&b, "\"newPath\":");
  csn_json_cstr(&b, to);
  csn_buf_str(&b, ",");
  reply_stamped(c->req, &b);
}

static void post_rename(call *c) {
  relocate(c, "oldPath", "newPath", "file.rename");
}
static void post_move(call *c) {
  relocate(c, "sourcePath", "destinationPath", "file.move");
}

static void post_mkdir(call *c) {
  char path[FILE_PATH_CAP];
  if (!file_path(c, "path", path)) return;
  bool recursive = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(c->body, "recursive"));
  if ((recursive ? file_make_directories(path, 0755) : mkdir(path, 0755)) != 0) {
    int err = errno;
    csn_buf ctx = {0};
    csn_buf_str(&ctx, "{\"path\":");
    csn_json_cstr(&ctx, path);
    csn_buf_fmt(&ctx,
                ",\"options\":{\"recursive\":%s},\"exitCode\":1,\"stderr\":", recursive ? "true" : "false");
    csn_json_cstr(&ctx, strerror(err));
    csn_buf_str(&ctx, "}");
    reply_error(c->req, "FILESYSTEM_ERROR", csn_buf_cstr(&ctx), "mkdir: cannot create directory '%s': %s",
                path, strerror(err));
    csn_buf_free(&ctx);
    return;
  }
  csn_buf b = ok_path(path);
  csn_buf_fmt(&b, "\"recursive\":%s,", recursive ? "true" : "false");
  reply_stamped(c->req, &b);
}

static void post_exists(call *c) {
  char path[FILE_PATH_CAP];
  struct stat st;
  if (!file_path(c, "path", path)) return;
  bool exists = stat(path, &st) == 0;
  csn_buf b = ok_path(path);
  csn_buf_fmt(&b, "\"exists\":%s,", exists ? "true" : "false");
  reply_stamped(c->req, &b);
}

/* ---- listing ---- */

typedef struct listing {
  csn_buf json;
  char path[FILE_PATH_CAP];
  size_t root_len;
  unsigned count;
  bool recursive, hidden, truncated;
} listing;

static void add_entry(listing *l, const char *name, const struct stat *st) {
  static const char bits[] = "rwxrwxrwx";
  mode_t m = st->st_mode;
  char mode[10];
  for (unsigned i = 0; i < 9; i++)
    mode[i] = (m & (0400u >> i)) != 0 ? bits[i] : '-';
  mode[9] = '\0';
  struct tm tm;
  localtime_r(&st->st_mtim.tv_sec, &tm);
  char when[40];
  size_t n = strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &tm);
  snprintf(when + n, sizeof when - n, ".%09ld", st->st_mtim.tv_nsec);
  csn_buf *b = &l->json;
  csn_buf_str(b, l->count++ == 0 ? "{\"name\":" : ",{\"name\":");
  csn_json_cstr(b, name);
  csn_buf_str(b, ",\"absolutePath\":");
  csn_json_cstr(b, l->path);
  csn_buf_str(b, ",\"relativePath\":");
  csn_json_cstr(b, l->path + l->root_len + 1);
  csn_buf_fmt(
      b,
      ",\"type\":\"%s\",\"size\":%lld,\"modifiedAt\":\"%s\",\"mode\":\"%s\",\"permissions\":{\"readable\":%s,"
      "\"writable\":%s,\"executable\":%s}}",
      S_ISREG(m)   ? "file"
      : S_ISDIR(m) ? "directory"
      : S_ISLNK(m) ? "symlink"
                   : "other",
      (long long)st->st_size, when, mode, m & S_IRUSR ? "true" : "false", m & S_IWUSR ? "true" : "false",
      m & S_IXUSR ? "true" : "false");
}

/* Goes as deep as a path is long. */
static void list_directory(listing *l, size_t path_len) {
  DIR *dir = opendir(l->path);
  if (dir == NULL) {
    l->truncated |= errno == ENAMETOOLONG || errno == EMFILE || errno == ENFILE || errno == ENOMEM;
    return;
  }
  for (struct dirent *de; (de = readdir(dir)) != NULL;) {
    const char *name = de->d_name;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) continue;
    size_t n = strlen(name);
    struct stat st;
    bool shown = l->hidden || name[0] != '.';
    if (path_len + n + 2 > sizeof l->path || (shown && l->count == LIST_MAX)) {
      l->truncated = true;
      if (l->count == LIST_MAX) break;
      continue;
    }
    if (fstatat(dirfd(dir), name, &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
    l->path[path_len] = '/';
    memcpy(l->path + path_len + 1, name, n + 1);
    if (shown) add_entry(l, name, &st);
    if (l->recursive && S_ISDIR(st.st_mode)) list_directory(l, path_len + 1 + n);
    l->path[path_len] = '\0';
  }
  closedir(dir);
}

static void post_list(call *c) {
  static listing l; /* too large for the stack; one request at a time */
  struct stat st;
  l = (listing){0};
  if (!file_path(c, "path", l.path)) return;
  const cJSON *options = cJSON_GetObjectItemCaseSensitive(c->body, "options");
  l.recursive = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(options, "recursive"));
  l.hidden = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(options, "includeHidden"));
  if (stat(l.path, &st) != 0) {
    file_error(c->req, l.path, "directory.list", errno);
    return;
  }
  if (!S_ISDIR(st.st_mode)) {
    file_error(c->req, l.path, "directory.list", ENOTDIR);
    return;
  }
  /* What cannot be read must not look empty. */
  if (access(l.path, R_OK | X_OK) != 0) {
    file_error(c->req, l.path, "directory.list", errno);
    return;
  }
  size_t len = strlen(l.path);
  while (len > 0 && l.path[len - 1] == '/')
    l.path[--len] = '\0';
  l.root_len = len;
  csn_buf_str(&l.json, "{\"success\":true,\"path\":");
  csn_json_cstr(&l.json, len == 0 ? "/" : l.path);
  csn_buf_str(&l.json, ",\"files\":[");
  if (len == 0) {
    /* opendir("") would fail; "/." names the same directory and keeps the paths right. */
    l.path[0] = '/';
    l.path[1] = '.';
    l.path[2] = '\0';
    l.root_len = 2;
    len = 2;
  }
  list_directory(&l, len);
  csn_buf_fmt(&l.json, "],\"count\":%u,%s", l.count, l.truncated ? "\"truncated\":true," : "");
  reply_stamped(c->req, &l.json);
}

const route file_routes[] = {
    {METHOD_POST, "/api/read", file_post_read},
    {METHOD_POST, "/api/read/stream", file_post_read_stream},
    {METHOD_POST, "/api/list-files", post_list},
    {METHOD_POST, "/api/mkdir", post_mkdir},
    {METHOD_POST, "/api/delete", post_delete},
    {METHOD_POST, "/api/rename", post_rename},
    {METHOD_POST, "/api/move", post_move},
    {METHOD_POST, "/api/exists", post_exists},
    {0, NULL, NULL},
};
