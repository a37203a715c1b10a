/* guest/routes_backup.c - /api/backup: squashfs archives of a directory, made, restored, uploaded. */
#define _GNU_SOURCE
#include "backup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXCLUDES_MAX 10000               /* patterns */
#define IGNORED_MAX  (16u * 1024 * 1024) /* bytes of git's list of ignored paths */
#define THREADS_MAX  64

void backup_refuse(call *c, const char *operation, const char *field, const char *why) {
  csn_buf ctx = {0};
  csn_buf_fmt(&ctx, "{\"operation\":\"%s\",\"reason\":\"%s ", operation, field);
  csn_json_raw(&ctx, why, strlen(why));
  csn_buf_str(&ctx, "\"}");
  reply_error(c->req, "INVALID_BACKUP_CONFIG", csn_buf_cstr(&ctx), "%s %s", field, why);
  csn_buf_free(&ctx);
}

const char *backup_body_path(call *c, const char *operation, const char *field,
                             const char *(*check)(const char *)) {
  const char *path = body_text(c, field);
  const char *why = path == NULL || *path == '\0' ? "is required" : check(path);
  if (why == NULL) return path;
  backup_refuse(c, operation, field, why);
  return NULL;
}

/* ---- create ---- */

typedef struct backup {
  exchange *req;
  char *dir, *archive;
  char *temp; /* restore: the directory beside the old content, relative to dir */
  const char *format;
  int threads;
  csn_buf excludes;
} backup;

static void free_backup(backup *k) {
  csn_buf_free(&k->excludes);
  free(k->dir);
  free(k->archive);
  free(k->temp);
  free(k);
}

static void fail(backup *k, const char *code, int exit_code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
static void fail(backup *k, const char *code, int exit_code, const char *fmt, ...) {
  char *text = NULL;
  va_list ap;
  va_start(ap, fmt);
  if (vasprintf(&text, fmt, ap) < 0) abort();
  va_end(ap);
  csn_buf ctx = {0};
  csn_buf_str(&ctx, "{\"dir\":");
  csn_json_cstr(&ctx, k->dir);
  csn_buf_str(&ctx, ",\"archivePath\":");
  csn_json_cstr(&ctx, k->archive);
  csn_buf_fmt(&ctx, ",\"exitCode\":%d,\"stderr\":", exit_code);
  csn_json_cstr(&ctx, text);
  csn_buf_str(&ctx, "}");
  reply_error(k->req, code, csn_buf_cstr(&ctx), "%s", text);
  csn_buf_free(&ctx);
  free(text);
  free_backup(k);
}

static const char *words(const tool_end *end) {
  while (end->err->len > 0 && end->err->p[end->err->len - 1] == '\n')
    end->err->len--;
  const char *text = csn_buf_cstr(end->err);
  return *text != '\0' ? text : csn_buf_cstr(end->out);
}

static void on_archived(void *arg, const tool_end *end) {
  backup *k = arg;
  size_t len = 0;
  const char *said = words(end);
  const char *lost = end->code == 0 ? backup_left_out(said, &len) : NULL;
  struct stat st;
  if (end->code != 0 || lost != NULL || stat(k->archive, &st) != 0) {
    unlink(k->archive);
    if (end->timed_out)
      fail(k, "BACKUP_CREATE_FAILED", end->code, "mksquashfs took longer than %d s",
           BACKUP_TIMEOUT_MS / 1000);
    else if (lost != NULL) /* mksquashfs goes on and calls that success; a backup without the file is none */
      fail(k, "BACKUP_CREATE_FAILED", end->code, "The backup would not be complete: %.*s", (int)len, lost);
    else
      fail(k, "BACKUP_CREATE_FAILED", end->code, "mksquashfs failed: %s", said);
    return;
  }
  csn_buf b = {0};
  csn_buf_fmt(&b, "{\"success\":true,\"sizeBytes\":%lld,\"archivePath\":", (long long)st.st_size);
  csn_json_cstr(&b, k->archive);
  csn_buf_str(&b, ",");
  reply_stamped(k->req, &b);
  free_backup(k);
}

static void archive(backup *k) {
  char threads[16];
  const char *argv[24];
  size_t n = 0;
  int excludes = -1;
  snprintf(threads, sizeof threads, "%d", k->threads);
  argv[n++] = "/usr/bin/mksquashfs";
  argv[n++] = k->dir;
  argv[n++] = k->archive;
  argv[n++] = "-comp";
  argv[n++] = k->format;
  argv[n++] = "-processors";
  argv[n++] = threads;
  argv[n++] = "-mem"; /* its own choice is a quarter of the machine */
  argv[n++] = "256M";
  argv[n++] = "-noappend";
  argv[n++] = "-no-progress";
  argv[n++] = "-quiet";
  /* A socket without its listener is dead, and unsquashfs cannot put it over a live one. */
  argv[n++] = "-action";
  argv[n++] = "exclude()@type(s)";
  if (k->excludes.len > 0) {
    excludes = tool_text_fd(k->excludes.p, k->excludes.len);
    argv[n++] = "-wildcards";
    argv[n++] = "-ef";
    argv[n++] = "/proc/self/fd/3";
  }
  argv[n] = NULL;
  const tool_spec spec = {
      .argv = argv, .cwd = "/", .stdin_fd = -1, .extra_fd = excludes, .timeout_ms = BACKUP_TIMEOUT_MS};
  bool started = (k->excludes.len == 0 || excludes >= 0) && tool_run(&spec, on_archived, k);
  int saved = errno;
  if (excludes >= 0) close(excludes);
  if (!started) fail(k, "BACKUP_CREATE_FAILED", 126, "Cannot start mksquashfs: %s", strerror(saved));
}

static void on_ignored(void *arg, const tool_end *end) {
  backup *k = arg;
  /* 128: not in a repository, so there are no rules. */
  if (end->code == 0 && end->cut) {
    fail(k, "BACKUP_CREATE_FAILED", 0,
         "git names more than %u MiB of ignored paths; exclude their directories", IGNORED_MAX >> 20);
    return;
  }
  const char *at = end->out->p;
  for (size_t left = end->code == 0 ? end->out->len : 0; left > 0;) {
    size_t n = strnlen(at, left);
    backup_add_path(&k->excludes, at, n);
    n += n < left;
    at += n;
    left -= n;
  }
  archive(k);
}

static void find_ignored(backup *k) {
  const char *git = tool_find("git");
  const char *const argv[] = {git,
                              "-c",
                              "safe.directory=*",
                              "-c",
                              "core.fsmonitor=false",
                              "-C",
                              k->dir,
                              "ls-files",
                              "-z",
                              "-i",
                              "-o",
                              "--exclude-standard",
                              "--directory",
                              "--",
                              ".",
                              NULL};
  const tool_spec spec = {.argv = argv,
                          .cwd = "/",
                          .stdin_fd = -1,
                          .extra_fd = -1,
                          .timeout_ms = BACKUP_TIMEOUT_MS,
                          .out_max = IGNORED_MAX};
  if (git == NULL || !tool_run(&spec, on_ignored, k)) archive(k);
}

/* Fills in format and threads. */
static bool read_compression(call *c, backup *k) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(c->body, "compression");
  k->format = "lz4";
  k->threads = 8;
  if (v == NULL || cJSON_IsNull(v)) return true;
  static const char *const formats[] = {"lz4", "gzip", "zstd"};
  const cJSON *format = cJSON_GetObjectItemCaseSensitive(v, "format");
  const cJSON *threads = cJSON_GetObjectItemCaseSensitive(v, "threads");
  if (!cJSON_IsObject(v)) {
    backup_refuse(c, "backup.create", "compression", "must be an object");
    return false;
  }
  if (format != NULL) {
    const char *text = cJSON_GetStringValue(format);
    k->format = NULL;
    for (size_t i = 0; text != NULL && i < sizeof formats / sizeof formats[0]; i++)
      if (strcmp(text, formats[i]) == 0) k->format = formats[i];
    if (k->format == NULL) {
      backup_refuse(c, "backup.create", "compression.format", "must be one of: gzip, lz4, zstd");
      return false;
    }
  }
  if (threads == NULL) return true;
  double t = cJSON_IsNumber(threads) ? threads->valuedouble : 0;
  if (!(t >= 1 && t <= 1e6) || t != (double)(int)t) {
    backup_refuse(c, "backup.create", "compression.threads", "must be a positive integer");
    return false;
  }
  k->threads = t > THREADS_MAX ? THREADS_MAX : (int)t;
  return true;
}

static bool read_excludes(call *c, backup *k) {
  const cJSON *list = cJSON_GetObjectItemCaseSensitive(c->body, "excludes"), *v;
  if (list == NULL || cJSON_IsNull(list)) return true;
  const char *why = !cJSON_IsArray(list)                      ? "must be an array of strings"
                    : cJSON_GetArraySize(list) > EXCLUDES_MAX ? "has too many patterns"
                                                              : NULL;
  if (why == NULL) {
    cJSON_ArrayForEach(v, list) {
      why = cJSON_IsString(v) ? backup_add_glob(&k->excludes, v->valuestring) : "must be an array of strings";
      if (why != NULL) break;
    }
  }
  if (why != NULL) backup_refuse(c, "backup.create", "excludes", why);
  return why == NULL;
}

static bool is_directory(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static bool need_program(call *c, const char *code, const char *path) {
  if (access(path, X_OK) == 0) return true;
  csn_buf ctx = {0};
  csn_buf_str(&ctx, "{\"binaryPath\":");
  csn_json_cstr(&ctx, path);
  csn_buf_str(&ctx, "}");
  reply_error(
      c->req, code, csn_buf_cstr(&ctx),
      "%s is not in this sandbox's root: install squashfs-tools and curl on the host or in the template",
      path);
  csn_buf_free(&ctx);
  return false;
}

static backup *new_backup(call *c, const char *dir, const char *archive_path) {
  backup *k = calloc(1, sizeof *k);
  if (k == NULL) abort();
  k->req = c->req;
  /* The directory itself, not the link that may name it. */
  char *real = realpath(dir, NULL);
  k->dir = real == NULL ? strdup(dir) : real;
  k->archive = strdup(archive_path);
  if (k->dir == NULL || k->archive == NULL) abort();
  return k;
}

static void post_create(call *c) {
  static const char op[] = "backup.create";
  const char *dir = backup_body_path(c, op, "dir", backup_dir_check);
  const char *path = dir == NULL ? NULL : backup_body_path(c, op, "archivePath", backup_archive_check);
  if (path == NULL) return;
  const cJSON *gitignore = cJSON_GetObjectItemCaseSensitive(c->body, "gitignore");
  if (gitignore != NULL && !cJSON_IsBool(gitignore) && !cJSON_IsNull(gitignore)) {
    backup_refuse(c, op, "gitignore", "must be a boolean");
    return;
  }
  if (!need_program(c, "BACKUP_CREATE_FAILED", "/usr/bin/mksquashfs")) return;
  backup *k = new_backup(c, dir, path);
  if (!read_compression(c, k) || !read_excludes(c, k)) {
    free_backup(k);
    return;
  }
  (void)mkdir(BACKUP_DIR, 0755); /* there already, unless a template lacks it; mksquashfs tells if not */
  if (!is_directory(k->dir))
    fail(k, "BACKUP_CREATE_FAILED", 1, "Source directory does not exist: %s", dir);
  else if (cJSON_IsTrue(gitignore))
    find_ignored(k);
  else
    archive(k);
}

/* ---- restore ----
 *
 * The real server lays a FUSE overlay of the archive over the directory, which then shows the archive's
 * content and nothing else. Without FUSE the same is reached by unpacking beside the old content and changing
 * places: a damaged archive leaves the directory as it was. */

/* Runs `find DIR …` to remove the temporary directory (keep false) or everything but it (keep true). */
static bool remove_in(backup *k, bool keep, tool_done *done) {
  /* A directory without the right to write cannot be emptied, by its owner either. */
  static const char script[] = "cd \"$1\" || exit 1\n"
                               "if [ \"$3\" = keep ]; then\n"
                               "find . -mindepth 1 \\( -path \"./$2\" -prune \\) -o -type d ! -perm -0700 "
                               "-exec chmod u+rwx {} + 2>/dev/null\n"
                               "exec find . -mindepth 1 -maxdepth 1 ! -name \"$2\" -exec rm -rf -- {} +\nfi\n"
                               "chmod -R u+rwX \"./$2\" 2>/dev/null; exec rm -rf -- \"./$2\"";
  const char *const argv[] = {"/bin/bash", "-c", script, "bash", k->dir, k->temp, keep ? "keep" : "drop",
                              NULL};
  const tool_spec spec = {.argv = argv, .cwd = "/", .stdin_fd = -1, .extra_fd = -1};
  return tool_run(&spec, done, k);
}

static void on_dropped(void *arg, const tool_end *end) {
  (void)end;
  backup *k = arg;
  fail(k, "BACKUP_RESTORE_FAILED", 1, "%s", csn_buf_cstr(&k->excludes));
}

static void restore_failed(backup *k, const char *fmt, const char *text) {
  /* The text outlives the clean-up in a buffer that a restore has no other use for. */
  k->excludes.len = 0;
  csn_buf_str(&k->excludes, fmt);
  csn_buf_str(&k->excludes, text);
  if (!remove_in(k, false, on_dropped)) on_dropped(k, NULL);
}

/* Moves every entry of the temporary directory into its parent. 0 or an errno. */
static int move_up(int dir, int temp) {
  DIR *d = fdopendir(dup(temp));
  if (d == NULL) return errno;
  int err = 0;
  struct stat st;
  for (struct dirent *de; err == 0 && (de = readdir(d)) != NULL;) {
    if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0) continue;
    /* Moving a directory to another parent needs the right to write in it. */
    bool locked = fstatat(temp, de->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode) &&
                  (st.st_mode & 0200) == 0;
    if (locked && fchmodat(temp, de->d_name, (st.st_mode & 07777) | 0200, 0) != 0) err = errno;
    if (err == 0 && renameat(temp, de->d_name, dir, de->d_name) != 0) err = errno;
    if (err == 0 && locked && fchmodat(dir, de->d_name, st.st_mode & 07777, 0) != 0) err = errno;
  }
  closedir(d);
  return err;
}

static void on_cleaned(void *arg, const tool_end *end) {
  backup *k = arg;
  if (end->code != 0) {
    restore_failed(k, "Cannot remove the directory's old content: ", words(end));
    return;
  }
  int dir = open(k->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int temp = dir < 0 ? -1 : openat(dir, k->temp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  struct stat st;
  int err = temp < 0 ? errno : 0;
  if (err == 0 && fstat(temp, &st) != 0) err = errno;
  if (err == 0) (void)fchmod(temp, 0700);
  if (err == 0) err = move_up(dir, temp);
  if (err == 0 && unlinkat(dir, k->temp, AT_REMOVEDIR) != 0) err = errno;
  if (err == 0) {
    (void)fchmod(dir, st.st_mode & 07777);
    const struct timespec times[2] = {st.st_atim, st.st_mtim};
    (void)futimens(dir, times);
  }
  if (temp >= 0) close(temp);
  if (dir >= 0) close(dir);
  if (err != 0) {
    fail(k, "BACKUP_RESTORE_FAILED", 1, "Cannot put the restored files in their place: %s; they are in %s/%s",
         strerror(err), k->dir, k->temp);
    return;
  }
  csn_buf b = {0};
  csn_buf_str(&b, "{\"success\":true,\"dir\":");
  csn_json_cstr(&b, k->dir);
  csn_buf_str(&b, ",");
  reply_stamped(k->req, &b);
  free_backup(k);
}

static void on_unpacked(void *arg, const tool_end *end) {
  backup *k = arg;
  if (end->code != 0)
    restore_failed(k, end->timed_out ? "unsquashfs took too long: " : "unsquashfs failed: ", words(end));
  else if (!remove_in(k, true, on_cleaned))
    restore_failed(k, "Cannot start a program: ", strerror(errno));
}

static int make_directories(const char *path) {
  char *room = strdup(path);
  if (room == NULL) abort();
  int rc = 0;
  for (char *at = room + 1; rc == 0; at++) {
    if (*at != '/' && *at != '\0') continue;
    char saved = *at;
    *at = '\0';
    if (mkdir(room, 0755) != 0 && errno != EEXIST) rc = -1;
    *at = saved;
    if (saved == '\0') break;
  }
  free(room);
  return rc;
}

static void post_restore(call *c) {
  static const char op[] = "backup.restore";
  const char *dir = backup_body_path(c, op, "dir", backup_dir_check);
  const char *path = dir == NULL ? NULL : backup_body_path(c, op, "archivePath", backup_archive_check);
  if (path == NULL || !need_program(c, "BACKUP_RESTORE_FAILED", "/usr/bin/unsquashfs")) return;
  int made = make_directories(dir) == 0 ? 0 : errno;
  backup *k = new_backup(c, dir, path);
  char *temp = NULL;
  if (access(path, R_OK) != 0) {
    fail(k, "BACKUP_RESTORE_FAILED", 1, "Archive not found: %s", path);
    return;
  }
  if (asprintf(&temp, "%s/.caisson-restore-XXXXXX", k->dir) < 0) abort();
  if (made != 0 || mkdtemp(temp) == NULL) {
    fail(k, "BACKUP_RESTORE_FAILED", 1, "Cannot write to %s: %s", dir, strerror(made != 0 ? made : errno));
    free(temp);
    return;
  }
  k->temp = strdup(strrchr(temp, '/') + 1);
  if (k->temp == NULL) abort();
  const char *const argv[] = {"/usr/bin/unsquashfs", "-q", "-n", "-f", "-d", temp, k->archive, NULL};
  const tool_spec spec = {
      .argv = argv, .cwd = "/", .stdin_fd = -1, .extra_fd = -1, .timeout_ms = BACKUP_TIMEOUT_MS};
  if (!tool_run(&spec, on_unpacked, k)) restore_failed(k, "Cannot start unsquashfs: ", strerror(errno));
  free(temp);
}

const route backup_routes[] = {
    {METHOD_POST, "/api/backup/create", post_create},
    {METHOD_POST, "/api/backup/restore", post_restore},
    {METHOD_POST, "/api/backup/upload-parts", backup_post_upload},
    {0, NULL, NULL},
};
