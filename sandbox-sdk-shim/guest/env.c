/* guest/env.c - environments of commands. */
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

/* What every command sees unless the sandbox's own environment says otherwise. */
static const char *const defaults[] = {"PATH=" GUEST_PATH_ENV, "HOME=/home/user", "USER=user",
                                       "LOGNAME=user",         "SHELL=/bin/bash", "TERM=dumb",
                                       "LANG=C.UTF-8",         "LC_ALL=C.UTF-8",  NULL};

bool env_name_ok(const char *name) {
  if (*name == '\0' || (*name >= '0' && *name <= '9')) return false;
  for (; *name != '\0'; name++)
    if (!((*name >= 'a' && *name <= 'z') || (*name >= 'A' && *name <= 'Z') ||
          (*name >= '0' && *name <= '9') || *name == '_'))
      return false;
  return true;
}

int64_t env_ms(const char *name) {
  const char *text = getenv(name);
  if (text == NULL || *text < '0' || *text > '9') return 0;
  char *end;
  errno = 0;
  long long ms = strtoll(text, &end, 10);
  return errno != 0 || *end != '\0' || ms > GUEST_MS_MAX ? 0 : ms;
}

static bool same_name(const char *a, const char *b) {
  size_t n = strcspn(a, "=");
  return strncmp(a, b, n) == 0 && b[n] == '=';
}

/* Puts "NAME=value" (consumed) into the block, over an entry of the same name. */
static void put(char **env, size_t *count, char *entry) {
  if (entry == NULL) abort();
  for (size_t i = 0; i < *count; i++) {
    if (!same_name(entry, env[i])) continue;
    free(env[i]);
    env[i] = entry;
    return;
  }
  env[(*count)++] = entry;
}

char **env_make(const cJSON *over, const char **bad) {
  *bad = NULL;
  size_t cap = sizeof defaults / sizeof defaults[0] + 1, count = 0;
  for (char **e = environ; *e != NULL; e++)
    cap++;
  const cJSON *v;
  cJSON_ArrayForEach(v, over) cap++;
  char **env = calloc(cap, sizeof *env);
  if (env == NULL) abort();
  for (size_t i = 0; defaults[i] != NULL; i++)
    put(env, &count, strdup(defaults[i]));
  for (char **e = environ; *e != NULL; e++)
    if (strchr(*e, '=') != NULL) put(env, &count, strdup(*e));
  cJSON_ArrayForEach(v, over) {
    if (cJSON_IsNull(v)) continue;
    if (!cJSON_IsString(v) || !env_name_ok(v->string)) {
      *bad = v->string;
      env_free(env);
      return NULL;
    }
    char *entry = NULL;
    size_t n = strlen(v->string), m = strlen(v->valuestring);
    entry = malloc(n + m + 2);
    if (entry == NULL) abort();
    memcpy(entry, v->string, n);
    entry[n] = '=';
    memcpy(entry + n + 1, v->valuestring, m + 1);
    put(env, &count, entry);
  }
  return env;
}

void env_free(char **env) {
  if (env == NULL) return;
  for (char **e = env; *e != NULL; e++)
    free(*e);
  free(env);
}
