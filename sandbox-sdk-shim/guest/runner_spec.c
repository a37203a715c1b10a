/* runner_spec.c - spec.json: what to run. */
#define _GNU_SOURCE
#include "runner.h"

#include "cJSON.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int bad(const char *field, const char *detail) {
  return run_error(RUN_BAD_SPEC, "bad_spec", field, detail);
}

/* The whole file, NUL-terminated; NULL when it cannot be read or is longer than `max` bytes. */
static char *slurp(int dir_fd, const char *name, size_t max) {
  int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return NULL;
  char *text = malloc(max + 2);
  if (text == NULL) abort();
  size_t len = 0;
  ssize_t n = 0;
  while (len <= max && (n = read(fd, text + len, max + 1 - len)) > 0)
    len += (size_t)n;
  close(fd);
  if (n < 0 || len > max) {
    free(text);
    return NULL;
  }
  text[len] = '\0';
  return text;
}

static int read_argv(const cJSON *list, run_spec *spec) {
  if (!cJSON_IsArray(list)) return bad("/argv", "must be an array of strings");
  size_t n = 0;
  const cJSON *item;
  cJSON_ArrayForEach(item, list) {
    if (!cJSON_IsString(item)) return bad("/argv", "must be an array of strings");
    if (n == RUN_ARG_MAX) return bad("/argv", "has too many items");
    spec->argv[n++] = item->valuestring;
  }
  if (n == 0 || spec->argv[0][0] == '\0') return bad("/argv", "must name a program");
  return RUN_OK;
}

static int read_env(const cJSON *object, run_spec *spec) {
  if (object == NULL) return RUN_OK;
  if (!cJSON_IsObject(object)) return bad("/env", "must be an object of strings");
  size_t n = 0;
  const cJSON *item;
  cJSON_ArrayForEach(item, object) {
    /* A name with '=' would set another variable than the one that was checked. */
    if (!cJSON_IsString(item) || item->string[0] == '\0' || strchr(item->string, '=') != NULL)
      return bad("/env", "must be an object of strings whose names have no '='");
    if (n == RUN_ARG_MAX) return bad("/env", "has too many items");
    if (asprintf(&spec->env[n++], "%s=%s", item->string, item->valuestring) < 0) abort();
  }
  return RUN_OK;
}

/* Absolute, and nothing in it that leads elsewhere than it says. */
static bool is_plain_path(const char *path) {
  if (path[0] != '/') return false;
  for (const char *part = path; *part == '/';) {
    part++;
    size_t len = strcspn(part, "/");
    if (len == 0 || (len == 1 && part[0] == '.') || (len == 2 && part[0] == '.' && part[1] == '.'))
      return false;
    part += len;
  }
  return true;
}

static int read_files(const cJSON *object, run_spec *spec) {
  if (object == NULL) return RUN_OK;
  if (!cJSON_IsObject(object)) return bad("/files", "must be an object of strings");
  const cJSON *item;
  cJSON_ArrayForEach(item, object) {
    if (!cJSON_IsString(item) || !is_plain_path(item->string))
      return bad("/files", "must be an object of strings whose names are absolute paths");
    if (spec->file_count == RUN_FILE_MAX) return bad("/files", "has too many items");
    spec->files[spec->file_count++] = (run_file){item->string, item->valuestring};
  }
  return RUN_OK;
}

/* A whole number in min..max; `absent` (when it is in range itself) if the field is not there. */
static bool read_number(const cJSON *root, const char *name, int64_t min, int64_t max, int64_t absent,
                        int64_t *out) {
  const cJSON *item = cJSON_GetObjectItemCaseSensitive(root, name);
  if (item == NULL) {
    *out = absent;
    return absent >= min;
  }
  if (!cJSON_IsNumber(item) || !(item->valuedouble >= (double)min && item->valuedouble <= (double)max))
    return false;
  *out = (int64_t)item->valuedouble;
  return true;
}

int run_spec_read(int dir_fd, run_spec *spec) {
  *spec = (run_spec){0};
  char *text = slurp(dir_fd, "spec.json", RUN_SPEC_MAX);
  if (text == NULL) return bad("spec.json", "cannot be read, or is longer than 1 MiB");
  cJSON *root = cJSON_ParseWithOpts(text, NULL, true);
  if (!cJSON_IsObject(root)) return bad("spec.json", "is not one JSON object");
  int rc = read_argv(cJSON_GetObjectItemCaseSensitive(root, "argv"), spec);
  if (rc == RUN_OK) rc = read_env(cJSON_GetObjectItemCaseSensitive(root, "env"), spec);
  if (rc == RUN_OK) rc = read_files(cJSON_GetObjectItemCaseSensitive(root, "files"), spec);
  if (rc != RUN_OK) return rc;
  const cJSON *cwd = cJSON_GetObjectItemCaseSensitive(root, "cwd");
  if (!cJSON_IsString(cwd) || cwd->valuestring[0] != '/') return bad("/cwd", "must be an absolute path");
  spec->cwd = cwd->valuestring;
  const cJSON *in = cJSON_GetObjectItemCaseSensitive(root, "stdin");
  if (cJSON_IsString(in) && strcmp(in->valuestring, "prompt") == 0)
    spec->stdin_prompt = true;
  else if (in != NULL && !cJSON_IsNull(in))
    return bad("/stdin", "must be null or \"prompt\"");
  if (!read_number(root, "wall_ms", 1, INT64_C(1) << 40, -1, &spec->wall_ms))
    return bad("/wall_ms", "must be milliseconds, at least 1");
  if (!read_number(root, "grace_ms", 0, RUN_GRACE_MAX_MS, 3000, &spec->grace_ms))
    return bad("/grace_ms", "must be milliseconds, at most 60000");
  if (!read_number(root, "output_max_bytes", 1, INT64_C(1) << 40, -1, &spec->output_max_bytes))
    return bad("/output_max_bytes", "must be bytes, at least 1");
  return RUN_OK; /* root and text stay: spec points into them */
}
