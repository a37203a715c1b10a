/* engine/limits.c - see limits.h. */
#include "limits.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Lowest values: below them a shell and the guest server do not run. Highest: what the kernel's own
 * counters take. */
static const struct limit_field {
  const char *key;
  size_t off;
  double min, max;
  uint32_t scale; /* of the stored number to the written one; above 1 fractions are allowed */
} fields[] = {
    {"memory_mb", offsetof(limits, memory_mb), 16, 16777216, 1},
    {"cpus", offsetof(limits, cpu_milli), 0.01, 4096, 1000},
    {"processes", offsetof(limits, processes), 8, 4194304, 1},
    {"disk_mb", offsetof(limits, disk_mb), 1, 16777216, 1},
    {"inodes", offsetof(limits, inodes), 256, 100000000, 1},
    {"file_size_mb", offsetof(limits, file_size_mb), 1, 16777216, 1},
    {"open_files", offsetof(limits, open_files), 64, 1048576, 1},
};
#define FIELDS (sizeof fields / sizeof fields[0])
#define ROOM   160

static uint32_t *at(limits *l, const struct limit_field *f) {
  return (uint32_t *)(void *)((char *)l + f->off);
}

limits limits_default(uint64_t ram_mb, unsigned cpus) {
  uint64_t most = ram_mb / 4 * 3;
  limits l = {.cpu_milli = (cpus == 0 ? 1 : cpus) * 1000,
              .processes = 2048,
              .disk_mb = 8192,
              .inodes = 1000000,
              .file_size_mb = 8192,
              .open_files = 65536};
  l.memory_mb = most > 4096 ? 4096 : most < 16 ? 16 : (uint32_t)most;
  return l;
}

static const char *set(limits *l, const char *key, double value, char *room) {
  for (size_t i = 0; i < FIELDS; i++) {
    const struct limit_field *f = &fields[i];
    if (strcmp(f->key, key) != 0) continue;
    /* Written so that NaN is refused too. */
    if (!(value >= f->min && value <= f->max) || (f->scale == 1 && value != floor(value))) {
      snprintf(room, ROOM, "limits: %s must be a%s number from %g to %.0f", key,
               f->scale == 1 ? " whole" : "", f->min, f->max);
      return room;
    }
    *at(l, f) = (uint32_t)(value * f->scale + 0.5);
    return NULL;
  }
  int n = snprintf(room, ROOM, "limits: there is no %.24s; there are", key);
  for (size_t i = 0; i < FIELDS && n < ROOM; i++)
    n += snprintf(room + n, (size_t)(ROOM - n), " %s", fields[i].key);
  return room;
}

/* A limit that was not named follows the one that bounds it. */
static void settle(limits *l, bool own_file_size) {
  if (!own_file_size || l->file_size_mb > l->disk_mb) l->file_size_mb = l->disk_mb;
}

const char *limits_parse(const cJSON *v, limits *l, char *room) {
  if (v == NULL || cJSON_IsNull(v)) return NULL;
  if (!cJSON_IsObject(v)) return "limits must be an object of numbers";
  limits next = *l;
  bool own = l->file_size_mb != l->disk_mb;
  const cJSON *item;
  cJSON_ArrayForEach(item, v) {
    if (!cJSON_IsNumber(item)) {
      snprintf(room, ROOM, "limits: %.24s must be a number", item->string);
      return room;
    }
    const char *wrong = set(&next, item->string, item->valuedouble, room);
    if (wrong != NULL) return wrong;
    own |= strcmp(item->string, "file_size_mb") == 0;
  }
  settle(&next, own);
  *l = next;
  return NULL;
}

const char *limits_lower(const cJSON *v, limits *l, char *room) {
  limits asked = *l;
  const char *wrong = limits_parse(v, &asked, room);
  if (wrong != NULL) return wrong;
  for (size_t i = 0; i < FIELDS; i++) {
    uint32_t *have = at(l, &fields[i]), want = *at(&asked, &fields[i]);
    if (want < *have) *have = want;
  }
  return NULL;
}

const char *limits_option(const char *text, limits *l, char *room) {
  char key[32];
  const char *eq = strchr(text, '=');
  if (eq == NULL || (size_t)(eq - text) >= sizeof key) return "a limit is written KEY=NUMBER";
  memcpy(key, text, (size_t)(eq - text));
  key[eq - text] = '\0';
  char *end;
  double value = strtod(eq + 1, &end);
  if (end == eq + 1 || *end != '\0') return "a limit is written KEY=NUMBER";
  bool own = l->file_size_mb != l->disk_mb || strcmp(key, "file_size_mb") == 0;
  const char *wrong = set(l, key, value, room);
  if (wrong == NULL) settle(l, own);
  return wrong;
}

void limits_json(csn_buf *b, const limits *l) {
  csn_buf_fmt(
      b,
      "{\"memory_mb\":%u,\"cpus\":%g,\"processes\":%u,\"disk_mb\":%u,\"inodes\":%u,\"file_size_mb\":%u,"
      "\"open_files\":%u}",
      l->memory_mb, (double)l->cpu_milli / 1000, l->processes, l->disk_mb, l->inodes, l->file_size_mb,
      l->open_files);
}

uint64_t limits_disk_in_memory(const limits *l) {
  return l->disk_mb <= LIMITS_DISK_IN_MEMORY_MB ? (uint64_t)l->disk_mb << 20 : 0;
}
