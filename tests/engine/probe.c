/* tests/engine/probe.c - runs the attempts of probe.h and prints one line for each:
 * "refused NAME ERRNO", "killed NAME SIGNAL" or "OPEN NAME detail". */
#define _GNU_SOURCE
#include "probe.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define TIME_S 20

char probe_detail[512];

int each_item(const char *variable, int (*fn)(const char *item)) {
  const char *list = getenv(variable);
  char *copy = strdup(list == NULL ? "" : list), *save = NULL;
  int result = ENOENT;
  for (char *item = strtok_r(copy, ",", &save); item != NULL; item = strtok_r(NULL, ",", &save)) {
    result = fn(item);
    if (result == 0) {
      if (probe_detail[0] == '\0') snprintf(probe_detail, sizeof probe_detail, "%s", item);
      break;
    }
  }
  free(copy);
  return result;
}

static void run(const attempt *a) {
  typedef struct shared {
    int result;
    char detail[sizeof probe_detail];
  } shared;
  shared *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (s == MAP_FAILED) abort();
  s->result = -1;
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    alarm(TIME_S);
    s->result = a->run();
    memcpy(s->detail, probe_detail, sizeof s->detail);
    _exit(0);
  }
  int status = 0;
  if (pid < 0 || waitpid(pid, &status, 0) != pid) abort();
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
    printf("OPEN %s no answer in %d s\n", a->name, TIME_S); /* a refusal is quick */
  else if (WIFSIGNALED(status))
    printf("killed %s %d\n", a->name, WTERMSIG(status));
  else if (s->result == 0)
    printf("OPEN %s %s\n", a->name, s->detail);
  else
    printf("refused %s %s\n", a->name, strerrorname_np(s->result) != NULL ? strerrorname_np(s->result) : "?");
  munmap(s, sizeof *s);
}

/* Outside a sandbox, and as root above all, the attempts would succeed: the clock set, file systems mounted.
 */
static bool confined(void) {
  char text[8192];
  FILE *f = fopen("/proc/self/status", "re");
  size_t n = f == NULL ? 0 : fread(text, 1, sizeof text - 1, f);
  if (f != NULL) fclose(f);
  text[n] = '\0';
  return strstr(text, "\nNoNewPrivs:\t1\n") != NULL && strstr(text, "\nSeccomp:\t2\n") != NULL &&
         access("/workspace", F_OK) == 0;
}

int main(int argc, char **argv) {
  if (!confined()) {
    fputs("probe: this is no sandbox\n", stderr);
    return 1;
  }
  static const struct {
    const char *name;
    const attempt *list;
  } groups[] = {{"syscalls", syscall_attempts},
                {"processes", process_attempts},
                {"files", file_attempts},
                {"network", network_attempts}};
  for (size_t i = 0; i < sizeof groups / sizeof groups[0]; i++)
    if (argc < 2 || strcmp(argv[1], groups[i].name) == 0)
      for (const attempt *a = groups[i].list; a->name != NULL; a++)
        run(a);
  puts("end");
  return 0;
}
