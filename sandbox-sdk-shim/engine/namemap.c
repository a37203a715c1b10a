/* engine/namemap.c - see namemap.h. */
#include "namemap.h"

#include <stdlib.h>
#include <string.h>

#define BUCKETS 1024u

typedef struct entry {
  uint32_t index; /* address - NAMEMAP_FIRST */
  struct entry *chain;
  char name[]; /* NUL-terminated */
} entry;

struct namemap {
  uint32_t next;               /* index of the next new name */
  entry *slots[NAMEMAP_NAMES]; /* by index modulo their number */
  entry *buckets[BUCKETS];     /* by name */
};

namemap *namemap_new(void) {
  namemap *m = calloc(1, sizeof *m);
  if (m == NULL) abort();
  return m;
}

void namemap_free(namemap *m) {
  if (m == NULL) return;
  for (unsigned i = 0; i < NAMEMAP_NAMES; i++)
    free(m->slots[i]);
  free(m);
}

static entry **bucket_of(namemap *m, const char *name) {
  uint32_t h = 2166136261u;
  for (; *name != '\0'; name++)
    h = (h ^ (uint8_t)*name) * 16777619u;
  return &m->buckets[(h ^ h >> 16) % BUCKETS];
}

static void forget(namemap *m, entry *e) {
  for (entry **at = bucket_of(m, e->name); *at != NULL; at = &(*at)->chain) {
    if (*at != e) continue;
    *at = e->chain;
    break;
  }
  free(e);
}

uint32_t namemap_address(namemap *m, const char *name) {
  entry **bucket = bucket_of(m, name);
  for (entry *e = *bucket; e != NULL; e = e->chain)
    if (strcmp(e->name, name) == 0) return NAMEMAP_FIRST + e->index;
  entry **slot = &m->slots[m->next % NAMEMAP_NAMES];
  if (*slot != NULL) forget(m, *slot);
  size_t n = strlen(name) + 1;
  entry *e = malloc(sizeof *e + n);
  if (e == NULL) abort();
  memcpy(e->name, name, n);
  e->index = m->next;
  e->chain = *bucket;
  *bucket = *slot = e;
  m->next = (m->next + 1) % NAMEMAP_COUNT;
  return NAMEMAP_FIRST + e->index;
}

bool namemap_is_ours(uint32_t address) {
  return address - NAMEMAP_FIRST < NAMEMAP_COUNT;
}

const char *namemap_name(const namemap *m, uint32_t address) {
  if (m == NULL || !namemap_is_ours(address)) return NULL;
  uint32_t index = address - NAMEMAP_FIRST;
  const entry *e = m->slots[index % NAMEMAP_NAMES];
  return e != NULL && e->index == index ? e->name : NULL;
}
