/* tap.h - the little that a TAP test needs: ok(), done(), guarded memory, traps observed in a child. */
#ifndef TAP_H
#define TAP_H

#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static int tap_count, tap_failed;

__attribute__((format(printf, 2, 3), unused)) static bool ok(bool cond, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  if (!cond) tap_failed++;
  printf("%s %d - ", cond ? "ok" : "not ok", ++tap_count);
  vprintf(format, ap);
  putchar('\n');
  va_end(ap);
  return cond;
}

__attribute__((unused)) static int done(void) {
  printf("1..%d\n", tap_count);
  return tap_failed > 0;
}

/* A copy of bytes that ends at a page which must not be touched. */
__attribute__((unused)) static uint8_t *guarded(const void *bytes, size_t len) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (len + page - 1) / page;
  uint8_t *map = mmap(NULL, (pages + 1) * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED || mprotect(map + pages * page, page, PROT_NONE) != 0) abort();
  uint8_t *p = map + pages * page - len;
  if (len > 0) memcpy(p, bytes, len);
  return p;
}

__attribute__((unused)) static void unguard(uint8_t *p, size_t len) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (len + page - 1) / page;
  munmap(p + len - pages * page, (pages + 1) * page);
}

/* Whether fn() ends the process by a trap. */
__attribute__((unused)) static bool traps(void (*fn)(void)) {
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    signal(SIGILL, SIG_DFL);
    signal(SIGTRAP, SIG_DFL);
    fclose(stderr);
    fn();
    _exit(0);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFSIGNALED(status) && (WTERMSIG(status) == SIGILL || WTERMSIG(status) == SIGTRAP);
}

#endif
