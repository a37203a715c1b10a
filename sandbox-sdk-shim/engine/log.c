/* engine/log.c - lines on stderr. */
#include "engine.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int threshold = LOG_INFO;
static const char *const names[] = {"error", "warn", "info", "debug"};

void log_level(const char *name) {
  for (int i = 0; i < 4; i++)
    if (strcmp(name, names[i]) == 0) threshold = i;
}

void log_line(int level, const char *fmt, ...) {
  if (level > threshold) return;
  char text[2048], when[32];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  csn_iso_time(when, csn_wall_ms());
  fprintf(stderr, "%s engine %s: %s\n", when, names[level], text);
}
