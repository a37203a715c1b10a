/* guest/backup_upload.c - /api/backup/upload-parts: byte ranges of an archive, each put to a presigned URL by
 * curl.
 *
 * A presigned URL is a key: it reaches curl through a descriptor, never through the process list. */
#define _GNU_SOURCE
#include "backup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define PARTS_MAX 10000 /* S3's limit */
#define URL_MAX   8192u /* bytes */

typedef struct upload {
  exchange *req;
  cJSON *body;     /* keeps the parts */
  const cJSON *at; /* the part under way */
  const char *archive;
  csn_buf answer;
  size_t done;
} upload;

static void free_upload(upload *u) {
  cJSON_Delete(u->body);
  csn_buf_free(&u->answer);
  free(u);
}

static double number(const cJSON *part, const char *name) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(part, name);
  return cJSON_IsNumber(v) ? v->valuedouble : -1;
}

static bool whole(double d, double min) {
  return d >= min && d <= 9e15 && d == (double)(int64_t)d;
}

static const char *url_of(const cJSON *part) {
  return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(part, "url"));
}

static const char *part_check(const cJSON *part, int64_t archive_size) {
  const char *url = url_of(part);
  if (!cJSON_IsObject(part)) return "must be objects";
  if (!whole(number(part, "partNumber"), 1)) return "must have a partNumber that is a positive integer";
  if (url == NULL || strncmp(url, "https://", 8) != 0) return "must have an https url";
  if (strlen(url) > URL_MAX) return "have a url that is too long";
  for (const char *c = url; *c != '\0'; c++)
    if ((unsigned char)*c <= 0x20 || *c == 0x7f) return "have a url with a space or control character";
  double offset = number(part, "offset"), size = number(part, "size");
  if (!whole(offset, 0)) return "must have an offset that is a non-negative integer";
  if (!whole(size, 1)) return "must have a size that is a positive integer";
  if (offset + size > (double)archive_size) return "reach past the end of the archive";
  return NULL;
}

static void upload_failed(upload *u, const char *why, const char *more) {
  csn_buf ctx = {0};
  csn_buf_str(&ctx, "{\"archivePath\":");
  csn_json_cstr(&ctx, u->archive);
  csn_buf_str(&ctx, "}");
  reply_error(u->req, "BACKUP_CREATE_FAILED", csn_buf_cstr(&ctx), "Multipart upload failed: part %.0f: %s%s",
              number(u->at, "partNumber"), why, more);
  csn_buf_free(&ctx);
  free_upload(u);
}

/* The last ETag of the response heads that curl printed: one for each attempt. Cut out in place, or NULL. */
static char *find_etag(char *heads) {
  char *etag = NULL;
  for (char *line = heads; line != NULL && *line != '\0';) {
    char *next = strchr(line, '\n');
    if (next != NULL) *next++ = '\0';
    if (strncasecmp(line, "etag:", 5) == 0) {
      etag = line + 5 + strspn(line + 5, " \t");
      etag[strcspn(etag, "\r")] = '\0';
    }
    line = next;
  }
  return etag != NULL && *etag != '\0' ? etag : NULL;
}

static void next_part(upload *u);

static void on_put(void *arg, const tool_end *end) {
  upload *u = arg;
  char *etag = end->code == 0 ? find_etag(csn_buf_cstr(end->out)) : NULL;
  if (end->code != 0) {
    upload_failed(u, end->timed_out ? "timed out" : "", end->timed_out ? "" : csn_buf_cstr(end->err));
    return;
  }
  if (etag == NULL) {
    upload_failed(u, "the answer has no ETag header", "");
    return;
  }
  csn_buf_fmt(&u->answer, "%s{\"partNumber\":%.0f,\"etag\":", u->done++ == 0 ? "" : ",",
              number(u->at, "partNumber"));
  csn_json_cstr(&u->answer, etag);
  csn_buf_str(&u->answer, "}");
  u->at = u->at->next;
  next_part(u);
}

static void add_quoted(csn_buf *b, const char *name, const char *value) {
  csn_buf_fmt(b, "%s = \"", name);
  for (; *value != '\0'; value++) {
    if (*value == '"' || *value == '\\') csn_buf_str(b, "\\");
    csn_buf_add(b, value, 1);
  }
  csn_buf_str(b, "\"\n");
}

static void next_part(upload *u) {
  if (u->at == NULL) {
    csn_buf_str(&u->answer, "],");
    csn_buf b = u->answer;
    u->answer = (csn_buf){0};
    reply_stamped(u->req, &b);
    free_upload(u);
    return;
  }
  /* The range stands in a file of its own while it goes out: the store wants to know the length, and a retry
   * the beginning. */
  static const char script[] =
      "trap 'rm -f \"$2\"' EXIT\n"
      "dd if=\"$1\" of=\"$2\" bs=1M iflag=skip_bytes,count_bytes skip=\"$3\" count=\"$4\" "
      "status=none || exit\n"
      "curl --disable --config /proc/self/fd/3";
  char skip[32], length[32], file[96];
  snprintf(skip, sizeof skip, "%.0f", number(u->at, "offset"));
  snprintf(length, sizeof length, "%.0f", number(u->at, "size"));
  snprintf(file, sizeof file, BACKUP_DIR "/.caisson-part-%p", (void *)u);
  csn_buf config = {0};
  csn_buf_str(&config, "silent\nshow-error\nfail\nproto = \"=https\"\nretry = 2\nretry-connrefused\n"
                       "output = \"/dev/null\"\ndump-header = \"-\"\n"
                       "header = \"Content-Type: application/octet-stream\"\nheader = \"Expect:\"\n");
  add_quoted(&config, "upload-file", file);
  add_quoted(&config, "url", url_of(u->at));
  int fd = tool_text_fd(config.p, config.len);
  csn_buf_free(&config);
  const char *const argv[] = {"/bin/bash", "-c", script, "bash", u->archive, file, skip, length, NULL};
  const tool_spec spec = {
      .argv = argv, .cwd = "/", .stdin_fd = -1, .extra_fd = fd, .timeout_ms = BACKUP_TIMEOUT_MS};
  bool started = fd >= 0 && tool_run(&spec, on_put, u);
  int saved = errno;
  if (fd >= 0) close(fd);
  if (!started) upload_failed(u, strerror(saved), "");
}

void backup_post_upload(call *c) {
  static const char op[] = "backup.upload";
  const char *archive = backup_body_path(c, op, "archivePath", backup_archive_check);
  if (archive == NULL) return;
  const cJSON *parts = cJSON_GetObjectItemCaseSensitive(c->body, "parts"), *part;
  int n = cJSON_IsArray(parts) ? cJSON_GetArraySize(parts) : 0;
  struct stat st;
  bool there = stat(archive, &st) == 0 && S_ISREG(st.st_mode);
  const char *why = n == 0 ? "must be a non-empty array" : n > PARTS_MAX ? "are too many" : NULL;
  if (why == NULL) cJSON_ArrayForEach(part, parts) {
      why = part_check(part, there ? (int64_t)st.st_size : INT64_MAX);
      if (why != NULL) break;
    }
  if (why != NULL) {
    backup_refuse(c, op, "parts", why);
    return;
  }
  upload *u = calloc(1, sizeof *u);
  if (u == NULL) abort();
  *u = (upload){.req = c->req, .body = c->body, .at = parts->child, .archive = archive};
  c->body = NULL;
  if (!there)
    upload_failed(u, "the archive does not exist: ", archive);
  else if (tool_find("curl") == NULL)
    upload_failed(u, "curl is not in this sandbox's root: install it on the host or in the template", "");
  else {
    csn_buf_str(&u->answer, "{\"success\":true,\"parts\":[");
    next_part(u);
  }
}
