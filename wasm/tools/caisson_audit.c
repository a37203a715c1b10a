/* caisson_audit.c - checks an exported log against its audit chain, offline. */
#define _POSIX_C_SOURCE 200809L
#include "csn/audit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage_text[] =
    "usage: caisson-audit verify [--head HEX] FILE\n"
    "\n"
    "FILE is an exported log (NDJSON); - reads standard input. Its first line is {\"audit\":\"caisson audit "
    "1\",\"id\":\"...\"};\n"
    "lines {\"audit_head\":\"HEX\",\"count\":N} state the chain's head after the N entries before them; "
    "every other line is an entry.\n"
    "Every stated head is checked, and the last one against --head, the head that was kept elsewhere.\n"
    "\n"
    "Exit status: 0 unchanged, 1 at the first break, which is named by line, 64 for a bad call, 65 for a "
    "file that is no such log,\n"
    "66 when it cannot be read.\n";

static void hex(const uint8_t head[32], char out[65]) {
  static const char digits[] = "0123456789abcdef";
  for (int i = 0; i < 32; i++) {
    out[2 * i] = digits[head[i] >> 4];
    out[2 * i + 1] = digits[head[i] & 15];
  }
  out[64] = 0;
}

static char *line; /* getline's */

static int broken(unsigned long number, const char *why) {
  free(line);
  printf("broken at line %lu: %s\n", number, why);
  return 1;
}

int main(int argc, char **argv) {
  static const char first_head[] = "{\"audit\":\"caisson audit 1\",\"id\":\"",
                    stated_head[] = "{\"audit_head\":\"";
  const char *want = NULL, *file = NULL;
  if (argc < 2 || strcmp(argv[1], "--help") == 0) {
    fputs(usage_text, argc < 2 ? stderr : stdout);
    return argc < 2 ? 64 : 0;
  }
  for (int i = 2; i < argc; i++) {
    if (strcmp(argv[i], "--head") == 0 && i + 1 < argc)
      want = argv[++i];
    else if (file == NULL && (argv[i][0] != '-' || argv[i][1] == 0))
      file = argv[i];
    else
      file = "";
  }
  if (strcmp(argv[1], "verify") != 0 || file == NULL || file[0] == 0 ||
      (want != NULL && strlen(want) != 64)) {
    fputs(usage_text, stderr);
    return 64;
  }
  FILE *f = strcmp(file, "-") == 0 ? stdin : fopen(file, "rb");
  if (f == NULL) {
    fprintf(stderr, "caisson-audit: %s: %s\n", file, strerror(errno));
    return 66;
  }
  char head[65];
  size_t cap = 0;
  ssize_t len;
  unsigned long number = 0;
  bool stated = false;
  csn_audit chain;
  while ((len = getline(&line, &cap, f)) > 0) {
    number++;
    if (line[len - 1] != '\n') return broken(number, "the last line is cut");
    len--;
    if (len > (ssize_t)UINT32_MAX) return broken(number, "a line of over 4 GiB");
    if (number == 1) {
      size_t at = sizeof first_head - 1;
      char *end = (size_t)len > at && strncmp(line, first_head, at) == 0
                      ? memchr(line + at, '"', (size_t)len - at)
                      : NULL;
      if (end == NULL) {
        free(line);
        fprintf(stderr, "caisson-audit: %s: the first line is not that of an exported log\n", file);
        return 65;
      }
      csn_audit_init(&chain, csn_span_of(line + at, (uint32_t)(end - line - (ptrdiff_t)at)));
      continue;
    }
    if (strncmp(line, stated_head, sizeof stated_head - 1) == 0) {
      char mark[160];
      hex(chain.head, head);
      int n = snprintf(mark, sizeof mark, "{\"audit_head\":\"%s\",\"count\":%llu}", head,
                       (unsigned long long)chain.count);
      if (n != len || memcmp(mark, line, (size_t)n) != 0)
        return broken(number, "the entries before it are not those that the chain was made of");
      stated = true;
      continue;
    }
    stated = false;
    csn_audit_push(&chain, csn_span_of(line, (uint32_t)len));
  }
  if (ferror(f)) {
    fprintf(stderr, "caisson-audit: %s: %s\n", file, strerror(errno));
    return 66;
  }
  if (number == 0) return broken(1, "the file is empty");
  hex(chain.head, head);
  if (want != NULL && strcmp(want, head) != 0)
    return broken(number, "the log ends before, or after, the head that was given");
  if (!stated && want == NULL) return broken(number, "entries at the end that no head covers");
  free(line);
  printf("unchanged: %llu entries, head %s\n", (unsigned long long)chain.count, head);
  return 0;
}
