/* engine/cgroup.c - see cgroup.h. */
#define _GNU_SOURCE
#include "cgroup.h"

#include "engine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATH_ROOM  4200
#define PERIOD_US  100000u /* of a processor quota */
#define CLEAR_WAIT 100     /* times 10 ms: killed processes end */

static const char *const kind_names[CG_KINDS] = {"memory", "pids", "cpu", "cpuacct"};

/* One per hierarchy that is used; version 2 has one for all kinds. */
static struct hierarchy {
  char path[PATH_ROOM]; /* of this engine's directory */
  int fd;
} used[CG_KINDS];
static int used_count, version;
static struct hierarchy *by_kind[CG_KINDS];

bool cgroup_has(cgroup_kind kind) {
  return by_kind[kind] != NULL;
}

const char *cgroup_version(void) {
  return version == 2 ? "cgroup2" : version == 1 ? "cgroup1" : "none";
}

/* ---- small files ---- */

static int write_at(int dir, const char *sub, const char *file, const char *text) {
  char path[PATH_ROOM];
  snprintf(path, sizeof path, "%s/%s", sub, file);
  int fd = openat(dir, path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t n = write(fd, text, strlen(text));
  int err = errno;
  close(fd);
  errno = err;
  return n == (ssize_t)strlen(text) ? 0 : -1;
}

/* The file's text, at most cap - 1 bytes; "" when it cannot be read. */
static const char *read_at(int dir, const char *sub, const char *file, char *room, size_t cap) {
  char path[PATH_ROOM];
  snprintf(path, sizeof path, "%s/%s", sub, file);
  int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? 0 : read(fd, room, cap - 1);
  if (fd >= 0) close(fd);
  room[n > 0 ? n : 0] = '\0';
  return room;
}

/* The number behind a key that begins a line. */
static uint64_t field(const char *text, const char *key) {
  size_t n = strlen(key);
  for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
    if (*line == '\n') line++;
    if (strncmp(line, key, n) == 0 && line[n] == ' ') return strtoull(line + n + 1, NULL, 10);
  }
  return 0;
}

/* Whether a list, separated by blanks or commas, has `word`. */
static bool has_word(const char *list, const char *word) {
  size_t n = strlen(word);
  for (const char *at = list; (at = strstr(at, word)) != NULL; at += n) {
    bool begins = at == list || strchr(" ,:", at[-1]) != NULL;
    if (begins && strchr(" ,:\n", at[n]) != NULL) return true; /* '\0' too */
  }
  return false;
}

/* ---- where ---- */

/* Mount point of the hierarchy with this controller (NULL: version 2) and the calling process's directory
 * below it. The last mount wins: it is the one on top. */
static bool find_mount(const char *controller, char top[PATH_ROOM], char own[PATH_ROOM]) {
  char line[PATH_ROOM * 2], root[PATH_ROOM] = "", path[PATH_ROOM] = "";
  FILE *f = fopen("/proc/self/cgroup", "re");
  while (f != NULL && fgets(line, sizeof line, f) != NULL) {
    char *names = strchr(line, ':'), *at = names == NULL ? NULL : strchr(names + 1, ':');
    if (at == NULL) continue;
    *at++ = '\0';
    at[strcspn(at, "\n")] = '\0';
    if (controller == NULL ? names[1] == '\0' : has_word(names + 1, controller))
      snprintf(path, sizeof path, "%s", at);
  }
  if (f != NULL) fclose(f);
  f = fopen("/proc/self/mountinfo", "re");
  bool found = false;
  while (f != NULL && fgets(line, sizeof line, f) != NULL) {
    char in[2048], on[2048], type[32], options[1024] = "";
    const char *rest = strstr(line, " - ");
    if (rest == NULL || sscanf(line, "%*s %*s %*s %2047s %2047s", in, on) != 2) continue;
    if (sscanf(rest, " - %31s %*s %1023s", type, options) < 1) continue;
    if (strcmp(type, controller == NULL ? "cgroup2" : "cgroup") != 0) continue;
    if (controller != NULL && !has_word(options, controller)) continue;
    if (strchr(on, '\\') != NULL) continue;
    snprintf(root, sizeof root, "%s", in);
    snprintf(top, PATH_ROOM, "%s", on);
    found = true;
  }
  if (f != NULL) fclose(f);
  if (!found) return false;
  size_t n = strcmp(root, "/") == 0 ? 0 : strlen(root);
  const char *below = strncmp(path, root, n) == 0 ? path + n : "";
  snprintf(own, PATH_ROOM, "%s%s", top, strcmp(below, "/") == 0 ? "" : below);
  return true;
}

/* Makes controllers available to the children of `dir`, memory first: where that is refused because processes
 * stand in `dir`, the others would not be, and would make it a root of threads, in which nobody can make an
 * ordinary group any more. */
static void enable(int dir) {
  char have[512], on[512];
  read_at(dir, ".", "cgroup.controllers", have, sizeof have);
  read_at(dir, ".", "cgroup.subtree_control", on, sizeof on);
  for (int k = 0; k < CG_CPUACCT; k++) {
    char text[16];
    snprintf(text, sizeof text, "+%s", kind_names[k]);
    if (has_word(on, kind_names[k])) continue;
    bool good = has_word(have, kind_names[k]) && write_at(dir, ".", "cgroup.subtree_control", text) == 0;
    if (!good && k == CG_MEMORY) return;
  }
}

static bool controls(int dir, const char *controller) {
  char on[512];
  return has_word(read_at(dir, ".", "cgroup.subtree_control", on, sizeof on), controller);
}

/* ---- what an earlier engine left ---- */

static void kill_all_in(int dir) {
  /* All at once where the kernel can (5.14); a fork bomb outruns the list. */
  if (write_at(dir, ".", "cgroup.kill", "1") == 0) return;
  FILE *f = NULL;
  int fd = openat(dir, "cgroup.procs", O_RDONLY | O_CLOEXEC);
  if (fd < 0 || (f = fdopen(fd, "r")) == NULL) {
    if (fd >= 0) close(fd);
    return;
  }
  long pid;
  while (fscanf(f, "%ld", &pid) == 1)
    if (pid > 1 && pid != getpid()) kill((pid_t)pid, SIGKILL);
  fclose(f);
}

static void clear_path(const char *path) {
  for (int tries = 0; tries < CLEAR_WAIT; tries++) {
    DIR *dir = opendir(path);
    if (dir == NULL) return;
    bool left = false;
    for (struct dirent *de; (de = readdir(dir)) != NULL;) {
      if (de->d_type != DT_DIR || de->d_name[0] == '.') continue;
      if (unlinkat(dirfd(dir), de->d_name, AT_REMOVEDIR) == 0) continue;
      left = true;
      int sub = openat(dirfd(dir), de->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
      if (sub >= 0) kill_all_in(sub);
      if (sub >= 0) close(sub);
    }
    closedir(dir);
    if (!left && rmdir(path) == 0) return;
    usleep(10000);
  }
  log_line(LOG_WARN, "%s: cannot be removed: %s", path, strerror(errno));
}

/* Version 2 asks for more than the right to write: no border of a delegated tree may lie between. */
static bool can_enter(int dir) {
  if (mkdirat(dir, "try", 0755) != 0) return false;
  pid_t pid = fork();
  if (pid == 0) _exit(write_at(dir, "try", "cgroup.procs", "0") == 0 ? 0 : 1);
  int status = 1;
  while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
    ;
  return unlinkat(dir, "try", AT_REMOVEDIR) == 0 && pid > 0 && status == 0;
}

/* Makes our directory in `parent`. For version 2 it must be able to hand on memory and pids. */
static bool settle_in(const char *parent, const char *name, bool v2) {
  struct hierarchy *h = &used[used_count];
  int dir = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir < 0) return false;
  h->fd = -1;
  if (v2) enable(dir);
  if (snprintf(h->path, sizeof h->path, "%s/%s", parent, name) < (int)sizeof h->path)
    clear_path(h->path); /* named after the state directory, which is ours: nobody else's */
  if ((!v2 || (controls(dir, "memory") && controls(dir, "pids"))) &&
      (mkdirat(dir, name, 0755) == 0 || errno == EEXIST))
    h->fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  close(dir);
  if (h->fd < 0) return false;
  if (v2) enable(h->fd);
  /* A place where a process cannot be put is of no use. */
  bool good = faccessat(h->fd, "cgroup.procs", W_OK, AT_EACCESS) == 0 &&
              (!v2 || (controls(h->fd, "memory") && controls(h->fd, "pids") && can_enter(h->fd)));
  if (!good) {
    close(h->fd);
    rmdir(h->path);
    return false;
  }
  used_count++;
  return true;
}

/* A group that holds processes hands no controllers on. Where this process has one for itself, as a
 * container's or a service's main program has, it moves into a group below; step_back moves it back. */
static char stepped_from[PATH_ROOM];
#define STEP "caisson-engine"

static void step_back(void) {
  int dir = stepped_from[0] == '\0' ? -1 : open(stepped_from, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir < 0) return;
  for (int k = 0; k < CG_CPUACCT; k++) {
    char text[16];
    snprintf(text, sizeof text, "-%s", kind_names[k]);
    (void)write_at(dir, ".", "cgroup.subtree_control", text);
  }
  /* Refused while another process stands below: it is the one that removes the group, or its manager does. */
  if (write_at(dir, ".", "cgroup.procs", "0") == 0) (void)unlinkat(dir, STEP, AT_REMOVEDIR);
  close(dir);
  stepped_from[0] = '\0';
}

static bool step_down(const char *own) {
  char have[512], procs[64], alone[24];
  int dir = open(own, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (dir < 0) return false;
  snprintf(alone, sizeof alone, "%ld\n", (long)getpid());
  bool good = has_word(read_at(dir, ".", "cgroup.controllers", have, sizeof have), "memory") &&
              strcmp(read_at(dir, ".", "cgroup.procs", procs, sizeof procs), alone) == 0 &&
              (mkdirat(dir, STEP, 0755) == 0 || errno == EEXIST) &&
              write_at(dir, STEP, "cgroup.procs", "0") == 0;
  if (good) snprintf(stepped_from, sizeof stepped_from, "%s", own);
  if (!good) (void)unlinkat(dir, STEP, AT_REMOVEDIR);
  close(dir);
  return good;
}

/* The top first, where root finds the controllers on; then the calling process's own place and upwards,
 * where a delegated tree begins; then its own place with nobody in it. */
static bool settle(const char *controller, const char *name) {
  char top[PATH_ROOM], own[PATH_ROOM], first[PATH_ROOM];
  if (!find_mount(controller, top, own)) return false;
  snprintf(first, sizeof first, "%s", own);
  bool v2 = controller == NULL;
  if (settle_in(top, name, v2)) return true;
  size_t least = strlen(top);
  while (strlen(own) > least) {
    if (settle_in(own, name, v2)) return true;
    *strrchr(own, '/') = '\0';
  }
  if (v2 && step_down(first)) {
    if (settle_in(first, name, v2)) return true;
    step_back();
  }
  return false;
}

static void list_path(const char *state_dir, char out[PATH_ROOM]) {
  snprintf(out, PATH_ROOM, "%s/cgroups", state_dir);
}

void cgroups_clear(const char *state_dir) {
  char path[PATH_ROOM], line[PATH_ROOM];
  list_path(state_dir, path);
  FILE *f = fopen(path, "re");
  while (f != NULL && fgets(line, sizeof line, f) != NULL) {
    line[strcspn(line, "\n")] = '\0';
    /* Only what we can have made: the list lies in a directory that others cannot write, but a wrong line
     * would end processes. */
    const char *name = strrchr(line, '/');
    if (line[0] == '/' && name != NULL && strncmp(name, "/caisson-", 9) == 0) clear_path(line);
  }
  if (f != NULL) fclose(f);
  (void)unlink(path);
  step_back();
}

static void write_list(const char *state_dir) {
  char path[PATH_ROOM];
  list_path(state_dir, path);
  FILE *f = fopen(path, "we");
  for (int i = 0; f != NULL && i < used_count; i++)
    fprintf(f, "%s\n", used[i].path);
  if (f == NULL || fclose(f) != 0) log_line(LOG_WARN, "%s: %s", path, strerror(errno));
}

void cgroups_init(const char *state_dir, const char *name) {
  cgroups_clear(state_dir);
  if (settle(NULL, name)) {
    version = 2;
    for (int k = 0; k < CG_KINDS; k++)
      if (k == CG_CPUACCT || controls(used[0].fd, kind_names[k])) by_kind[k] = &used[0];
  } else {
    for (int k = 0; k < CG_KINDS; k++) {
      int before = used_count;
      if (!settle(kind_names[k], name)) continue;
      by_kind[k] = &used[before];
      for (int i = 0; i < before; i++) {
        if (strcmp(used[i].path, used[before].path) != 0) continue;
        /* Two controllers in one hierarchy. */
        close(used[before].fd);
        by_kind[k] = &used[i];
        used_count = before;
        break;
      }
    }
    if (used_count > 0) version = 1;
  }
  if (by_kind[CG_CPU] != NULL) {
    /* As much as the rest of the machine would get when all sandboxes are busy. */
    long weight = sysconf(_SC_NPROCESSORS_ONLN) * (version == 2 ? 100 : 1024);
    char text[24];
    snprintf(text, sizeof text, "%ld", version == 2 && weight > 10000 ? 10000 : weight);
    (void)write_at(by_kind[CG_CPU]->fd, ".", version == 2 ? "cpu.weight" : "cpu.shares", text);
  }
  if (used_count > 0) write_list(state_dir);
  for (int i = 0; i < used_count; i++)
    log_line(LOG_DEBUG, "control groups in %s", used[i].path);
  if (!cgroup_has(CG_MEMORY) || !cgroup_has(CG_PIDS))
    log_line(
        LOG_WARN,
        "no control groups for %s: memory is measured once a second instead of bounded, and processors are "
        "shared by priority. As an ordinary user start it with: systemd-run --user --scope COMMAND. In a "
        "container or a service give it a control group that it may write (Delegate=yes) for itself alone",
        cgroup_has(CG_PIDS) ? "memory" : "memory and processes");
}

/* ---- one sandbox ---- */

static bool set(cgroup_kind kind, const char *dir, const char *file, const char *text, csn_buf *why) {
  if (by_kind[kind] == NULL || write_at(by_kind[kind]->fd, dir, file, text) == 0) return true;
  csn_buf_fmt(why, "%s/%s/%s: cannot be set to %s: %s", by_kind[kind]->path, dir, file, text,
              strerror(errno));
  return false;
}

bool cgroup_make(const char *dir, csn_buf *why) {
  for (int i = 0; i < used_count; i++) {
    if (mkdirat(used[i].fd, dir, 0755) == 0) continue;
    csn_buf_fmt(why, "mkdir %s/%s: %s", used[i].path, dir, strerror(errno));
    return false;
  }
  return true;
}

bool cgroup_prepare(const char *dir) {
  for (int i = 0; i < used_count; i++)
    if (mkdirat(used[i].fd, dir, 0755) != 0 || write_at(used[i].fd, dir, "tasks", "0") != 0) return false;
  return true;
}

bool cgroup_limit(const char *dir, const limits *l, csn_buf *why) {
  char text[64];
  bool v2 = version == 2;
  snprintf(text, sizeof text, "%llu", (unsigned long long)l->memory_mb << 20);
  if (!set(CG_MEMORY, dir, v2 ? "memory.max" : "memory.limit_in_bytes", text, why)) return false;
  /* Without swap the limit is all of it. Absent where the kernel has no swap accounting. */
  csn_buf unused = {0};
  (void)set(CG_MEMORY, dir, v2 ? "memory.swap.max" : "memory.memsw.limit_in_bytes", v2 ? "0" : text, &unused);
  csn_buf_free(&unused);
  /* The launcher and bwrap outside, which wait for it, count too. */
  snprintf(text, sizeof text, "%u", l->processes + 2);
  if (!set(CG_PIDS, dir, "pids.max", text, why)) return false;
  if (l->cpu_milli / 1000 >= (uint32_t)sysconf(_SC_NPROCESSORS_ONLN)) return true;
  uint64_t quota = (uint64_t)PERIOD_US * l->cpu_milli / 1000;
  if (quota < 1000) quota = 1000; /* the kernel's least */
  if (v2) {
    snprintf(text, sizeof text, "%llu %u", (unsigned long long)quota, PERIOD_US);
    return set(CG_CPU, dir, "cpu.max", text, why);
  }
  snprintf(text, sizeof text, "%llu", (unsigned long long)quota);
  return set(CG_CPU, dir, "cpu.cfs_quota_us", text, why);
}

int cgroup_enter(const char *dir) {
  for (int i = 0; i < used_count; i++)
    if (write_at(used[i].fd, dir, "cgroup.procs", "0") != 0) return -1;
  return 0;
}

static uint64_t number(cgroup_kind kind, const char *dir, const char *file, const char *key) {
  char text[4096];
  if (by_kind[kind] == NULL) return 0;
  read_at(by_kind[kind]->fd, dir, file, text, sizeof text);
  return key == NULL ? strtoull(text, NULL, 10) : field(text, key);
}

void cgroup_read(const char *dir, cgroup_usage *u) {
  bool v2 = version == 2;
  uint64_t all = number(CG_MEMORY, dir, v2 ? "memory.current" : "memory.usage_in_bytes", NULL);
  uint64_t cache = number(CG_MEMORY, dir, "memory.stat", v2 ? "inactive_file" : "total_inactive_file");
  *u = (cgroup_usage){
      .memory_bytes = all > cache ? all - cache : 0,
      .cpu_ms = v2 ? number(CG_CPUACCT, dir, "cpu.stat", "usage_usec") / 1000
                   : number(CG_CPUACCT, dir, "cpuacct.usage", NULL) / 1000000,
      .processes = (uint32_t)number(CG_PIDS, dir, "pids.current", NULL),
      .oom_kills = (uint32_t)number(CG_MEMORY, dir, v2 ? "memory.events" : "memory.oom_control", "oom_kill"),
      .process_hits = (uint32_t)number(CG_PIDS, dir, "pids.events", "max"),
  };
}

bool cgroup_remove(const char *dir) {
  bool gone = true;
  for (int i = 0; i < used_count; i++)
    if (unlinkat(used[i].fd, dir, AT_REMOVEDIR) != 0 && errno != ENOENT) gone = false;
  return gone;
}
