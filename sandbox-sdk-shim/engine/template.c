/* engine/template.c - roots made by `make template`: DIR/<name> is a link to one of its versions.
 *
 * A version is held by a shared lock as long as a sandbox stands on it; scripts/template.py removes only
 * versions that nobody holds. */
#define _GNU_SOURCE
#include "engine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define LIST_MAX 256 /* bytes of names in a message */
#define ROOM     400

static int is_template(const struct dirent *de) {
  return name_ok(de->d_name);
}

void templates_json(csn_buf *b) {
  struct dirent **list = NULL;
  int n = cfg.templates == NULL ? 0 : scandir(cfg.templates, &list, is_template, alphasort);
  csn_buf_str(b, "[");
  for (int i = 0; i < n; i++) {
    csn_buf_fmt(b, "%s\"%s\"", i == 0 ? "" : ",", list[i]->d_name);
    free(list[i]);
  }
  free(list);
  csn_buf_str(b, "]");
}

const char *template_hold(sandbox *sb, const char *name, char *room) {
  char path[4200];
  if (!name_ok(name)) return "template: a name is 1 to 64 of a-z 0-9 _ -";
  snprintf(path, sizeof path, "%s/%s", cfg.templates == NULL ? "" : cfg.templates, name);
  char *real = NULL;
  int fd = -1;
  /* Another version may take its place, and this one be removed, until the lock is held. */
  for (int tries = 0; tries < 3 && cfg.templates != NULL && fd < 0; tries++) {
    free(real);
    real = realpath(path, NULL);
    fd = real == NULL ? -1 : open(real, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || (flock(fd, LOCK_SH | LOCK_NB) == 0 && access(real, F_OK) == 0)) continue;
    close(fd);
    fd = -1;
  }
  if (fd < 0) {
    csn_buf have = {0};
    templates_json(&have);
    if (have.len > LIST_MAX) have.len = LIST_MAX;
    snprintf(room, ROOM,
             "there is no template %s; make it with: make template NAME=%s FROM=... (there are: %s)", name,
             name, csn_buf_cstr(&have));
    csn_buf_free(&have);
    free(real);
    return room;
  }
  memcpy(sb->template, name, strlen(name) + 1);
  sb->template_dir = real;
  sb->template_fd = fd;
  return NULL;
}

void template_release(sandbox *sb) {
  if (sb->template_fd >= 0) close(sb->template_fd);
  sb->template_fd = -1;
  free(sb->template_dir);
  sb->template_dir = NULL;
}
