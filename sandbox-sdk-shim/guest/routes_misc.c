/* guest/routes_misc.c - readiness, version, commands. */
#include "guest.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void get_root(call *c) {
  csn_buf b = {0};
  csn_buf_fmt(&b, "Caisson sandbox control server %s\n", GUEST_VERSION);
  reply_text(c->req, 200, "text/plain;charset=utf-8", &b);
}

static void get_ping(call *c) {
  csn_buf b = {0};
  csn_buf_str(&b, "{\"success\":true,\"status\":\"healthy\",\"message\":\"pong\",");
  reply_stamped(c->req, &b);
}

static void get_version(call *c) {
  csn_buf b = {0};
  csn_buf_fmt(&b, "{\"success\":true,\"version\":\"%s\",", GUEST_VERSION);
  reply_stamped(c->req, &b);
}

/* Names of the programs on PATH, in PATH order, each once per directory. */
static void get_commands(call *c) {
  csn_buf b = {0};
  csn_buf_str(&b, "{\"success\":true,\"availableCommands\":[");
  char path[] = GUEST_PATH_ENV;
  bool first = true;
  char *save = NULL;
  for (char *dir = strtok_r(path, ":", &save); dir != NULL; dir = strtok_r(NULL, ":", &save)) {
    /* /sbin and /bin are links into /usr. */
    DIR *d = strncmp(dir, "/usr", 4) == 0 || strncmp(dir, "/opt", 4) == 0 ? opendir(dir) : NULL;
    if (d == NULL) continue;
    for (struct dirent *de; (de = readdir(d)) != NULL;) {
      if (de->d_name[0] == '.') continue;
      if (!first) csn_buf_str(&b, ",");
      first = false;
      csn_json_cstr(&b, de->d_name);
    }
    closedir(d);
  }
  csn_buf_str(&b, "],");
  reply_stamped(c->req, &b);
}

const route misc_routes[] = {
    {METHOD_GET, "/", get_root},
    {METHOD_GET, "/api/ping", get_ping},
    {METHOD_GET, "/api/version", get_version},
    {METHOD_GET, "/api/commands", get_commands},
    {0, NULL, NULL},
};
