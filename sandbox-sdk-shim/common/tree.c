/* common/tree.c - see tree.h. */
#define _GNU_SOURCE
#include "tree.h"

#include "buf.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct proc_entry {
  pid_t pid, ppid;
  bool in_tree;
  bool zombie;
  bool skipped;
} proc_entry;

static bool read_entry(int proc_fd, const char *name, proc_entry *out) {
  char path[32], text[512];
  snprintf(path, sizeof path, "%.16s/stat", name);
  int fd = openat(proc_fd, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  if (n <= 0) return false;
  text[n] = '\0';
  /* The command name may hold any byte, parentheses too: the last ')' ends it. */
  char *end = strrchr(text, ')');
  char state;
  int ppid;
  if (end == NULL || sscanf(end + 1, " %c %d", &state, &ppid) != 2) return false;
  *out = (proc_entry){.pid = (pid_t)atoi(name), .ppid = (pid_t)ppid, .zombie = state == 'Z' || state == 'X'};
  return true;
}

static proc_entry *snapshot(size_t *count) {
  *count = 0;
  DIR *dir = opendir("/proc");
  if (dir == NULL) return NULL;
  proc_entry *list = NULL;
  size_t len = 0, cap = 0;
  struct dirent *de;
  while ((de = readdir(dir)) != NULL) {
    if (de->d_name[0] < '1' || de->d_name[0] > '9') continue;
    if (len == cap) {
      cap = cap == 0 ? 64 : cap * 2;
      proc_entry *more = realloc(list, cap * sizeof *list);
      if (more == NULL) abort();
      list = more;
    }
    if (read_entry(dirfd(dir), de->d_name, &list[len])) len++;
  }
  closedir(dir);
  *count = len;
  return list;
}

size_t csn_tree_signal(pid_t root, int sig, const pid_t *skip, size_t skip_count) {
  size_t count, live = 0;
  proc_entry *list = snapshot(&count);
  /* Marks to a fixed point: pids wrap, so a child may have a smaller pid than its parent. */
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = 0; i < count; i++) {
      if (list[i].in_tree || list[i].skipped) continue;
      for (size_t k = 0; k < skip_count; k++)
        if (list[i].pid == skip[k]) list[i].skipped = true;
      if (list[i].skipped) continue;
      bool child = list[i].ppid == root;
      for (size_t j = 0; !child && j < count; j++)
        child = list[j].in_tree && list[j].pid == list[i].ppid;
      if (child) list[i].in_tree = changed = true;
    }
  }
  for (size_t i = count; i-- > 0;) {
    if (!list[i].in_tree || list[i].zombie) continue;
    live++;
    if (sig != 0) kill(list[i].pid, sig);
  }
  free(list);
  return live;
}

size_t csn_tree_children(pid_t parent, pid_t *out, size_t cap) {
  size_t count, n = 0;
  proc_entry *list = snapshot(&count);
  for (size_t i = 0; i < count && n < cap; i++)
    if (list[i].ppid == parent) out[n++] = list[i].pid;
  free(list);
  return n;
}

static void sleep_ms(long ms) {
  struct timespec ts = {ms / 1000, ms % 1000 * 1000000L};
  nanosleep(&ts, NULL);
}

void csn_tree_kill_all(int *main_status, pid_t main_pid) {
  for (;;) {
    /* Whoever forks between the walk and the signal is caught by the next round; SIGSTOP
     * first would only help against a fork bomb, which the process limit ends. */
    csn_tree_signal(getpid(), SIGKILL, NULL, 0);
    for (;;) {
      int status;
      pid_t pid = waitpid(-1, &status, WNOHANG);
      if (pid == 0) break;
      if (pid < 0) {
        if (errno == EINTR) continue;
        return;
      }
      if (pid == main_pid && main_status != NULL) *main_status = status;
    }
    sleep_ms(1);
  }
}

int csn_tree_supervise(pid_t main_pid, bool *asked) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigaddset(&set, SIGTERM);
  int64_t kill_at_ms = 0;
  bool ended = false;
  int main_status = 0;
  *asked = false;
  for (;;) {
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
      if (pid != main_pid) continue;
      ended = true;
      main_status = status;
      if (!*asked) return main_status;
    }
    if (pid < 0 && errno == ECHILD) return main_status;
    siginfo_t info;
    int sig;
    if (*asked) {
      int64_t left = kill_at_ms - csn_now_ms();
      if (left <= 0) {
        csn_tree_kill_all(&main_status, ended ? 0 : main_pid);
        return main_status;
      }
      struct timespec ts = {left / 1000, left % 1000 * 1000000};
      sig = sigtimedwait(&set, &info, &ts);
    } else {
      sig = sigwaitinfo(&set, &info);
    }
    if (sig == SIGTERM && !*asked) {
      int grace = info.si_code == SI_QUEUE ? info.si_value.sival_int : 5000;
      if (grace < 0 || grace > 600000) grace = 5000;
      *asked = true;
      kill_at_ms = csn_now_ms() + grace;
      csn_tree_signal(getpid(), SIGTERM, NULL, 0);
    }
  }
}

int csn_exit_code(int wait_status) {
  if (WIFSIGNALED(wait_status)) return 128 + WTERMSIG(wait_status);
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 1;
}
