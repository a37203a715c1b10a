/* runner_files.c - the files that a spec lays out before its program starts. */
#define _GNU_SOURCE
#include "runner.h"

#include "../common/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Makes every directory that the path needs. */
static bool make_parents(char *path) {
  for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
    *slash = '\0';
    bool ok = mkdir(path, 0700) == 0 || errno == EEXIST;
    *slash = '/';
    if (!ok) return false;
  }
  return true;
}

/* Under its name only when it is whole; what had the name before, a link or a pipe even, is replaced and not
 * written to. */
static bool write_file(const run_file *file) {
  char path[PATH_MAX], fresh[PATH_MAX];
  int n = snprintf(path, sizeof path, "%s", file->path);
  int m = snprintf(fresh, sizeof fresh, "%s.%d", file->path, (int)getpid());
  if (n < 0 || (size_t)n >= sizeof path || m < 0 || (size_t)m >= sizeof fresh) {
    errno = ENAMETOOLONG;
    return false;
  }
  if (!make_parents(path)) return false;
  int fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return false;
  bool ok = csn_write_all(fd, file->text, strlen(file->text));
  int saved = errno;
  if (close(fd) != 0 && ok) {
    ok = false;
    saved = errno;
  }
  if (ok && rename(fresh, path) == 0) return true;
  if (ok) saved = errno;
  unlink(fresh);
  errno = saved;
  return false;
}

int run_files_write(const run_spec *spec) {
  for (size_t i = 0; i < spec->file_count; i++)
    if (!write_file(&spec->files[i]))
      return run_error(RUN_FAILED, "file_failed", spec->files[i].path, strerror(errno));
  return RUN_OK;
}
