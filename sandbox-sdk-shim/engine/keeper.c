/* engine/keeper.c - see keeper.h. */
#define _GNU_SOURCE
#include "keeper.h"

#include "cgroup.h"
#include "engine.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SNAPSHOT_MS 200 /* how long one look at /proc serves */
#define HELD_MAX    4096u

static pid_t keeper_pid;
static int keeper_fd = -1;
static struct event *keeper_ev;
static void (*answer_fn)(const keeper_answer *a);

/* ---- in the helper: disk ---- */

typedef struct tally {
  uint64_t bytes, inodes, inode_max;
} tally;

/* Adds a directory's tree. A file with several names is shared out among them: all of them are in the
 * sandbox. Directories nested deeper than descriptors reach are counted up to there; each of them costs an
 * inode, so the count of inodes bounds them. */
static void walk(int parent, const char *name, tally *t, int depth) {
  int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  DIR *dir = fd < 0 ? NULL : fdopendir(fd);
  if (dir == NULL) {
    if (fd >= 0) close(fd);
    return;
  }
  for (struct dirent *de; t->inodes <= t->inode_max && (de = readdir(dir)) != NULL;) {
    struct stat st;
    if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0) continue;
    if (fstatat(dirfd(dir), de->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
    t->inodes++;
    bool tree = S_ISDIR(st.st_mode);
    t->bytes += (uint64_t)st.st_blocks * 512 / (tree || st.st_nlink == 0 ? 1 : st.st_nlink);
    if (tree && depth < 512) walk(dirfd(dir), de->d_name, t, depth + 1);
  }
  closedir(dir);
}

/* ---- in the helper: processes ---- */

typedef struct task {
  int32_t pid, parent;
  uint64_t resident; /* bytes of its own: neither files nor shared memory */
} task;

static task *tasks;
static size_t task_count;
static int64_t tasks_at_ms;

static bool read_task(int proc, const char *name, task *out) {
  char path[40], text[512];
  snprintf(path, sizeof path, "%.16s/stat", name);
  int fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (fd >= 0) close(fd);
  if (n <= 0) return false;
  text[n] = '\0';
  /* The command name may hold any byte: the last ')' ends it. */
  const char *end = strrchr(text, ')');
  int parent;
  if (end == NULL || sscanf(end + 1, " %*c %d", &parent) != 1) return false;
  *out = (task){.pid = (int32_t)atoi(name), .parent = parent};
  snprintf(path, sizeof path, "%.16s/statm", name);
  fd = openat(proc, path, O_RDONLY | O_CLOEXEC);
  n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (fd >= 0) close(fd);
  unsigned long long resident, shared;
  text[n > 0 ? n : 0] = '\0';
  if (sscanf(text, "%*s %llu %llu", &resident, &shared) == 2 && resident > shared)
    out->resident = (resident - shared) * (uint64_t)sysconf(_SC_PAGESIZE);
  return true;
}

static int by_pid(const void *a, const void *b) {
  int32_t x = ((const task *)a)->pid, y = ((const task *)b)->pid;
  return x < y ? -1 : x > y;
}

static void look(void) {
  if (tasks != NULL && csn_now_ms() - tasks_at_ms < SNAPSHOT_MS) return;
  DIR *dir = opendir("/proc");
  size_t cap = 0;
  free(tasks);
  tasks = NULL;
  task_count = 0;
  for (struct dirent *de; dir != NULL && (de = readdir(dir)) != NULL;) {
    if (de->d_name[0] < '1' || de->d_name[0] > '9') continue;
    if (task_count == cap) {
      cap = cap == 0 ? 256 : cap * 2;
      tasks = realloc(tasks, cap * sizeof *tasks);
      if (tasks == NULL) abort();
    }
    if (read_task(dirfd(dir), de->d_name, &tasks[task_count])) task_count++;
  }
  if (dir != NULL) closedir(dir);
  if (task_count > 0) qsort(tasks, task_count, sizeof *tasks, by_pid);
  tasks_at_ms = csn_now_ms();
}

/* Where `pid` stands in the sorted list; task_count when it is not there. */
static size_t find_task(int32_t pid) {
  size_t low = 0, high = task_count;
  while (low < high) {
    size_t mid = low + (high - low) / 2;
    if (tasks[mid].pid < pid)
      low = mid + 1;
    else
      high = mid;
  }
  return low < task_count && tasks[low].pid == pid ? low : task_count;
}

/* Calls fn for `top` and each of its descendants. */
static void each_in_tree(int32_t top, void (*fn)(const task *t, void *arg), void *arg) {
  look();
  for (size_t i = 0; i < task_count; i++) {
    size_t at = i;
    /* The list is no instant's truth: a pid that was used again could close a circle. */
    for (int steps = 0; at < task_count && tasks[at].pid != top && steps < 10000; steps++)
      at = tasks[at].parent > 1 ? find_task(tasks[at].parent) : task_count;
    if (at < task_count && tasks[at].pid == top) fn(&tasks[i], arg);
  }
}

typedef struct held {
  tally *t;
  dev_t dev[2]; /* of the root and of /usr */
  struct {
    dev_t dev;
    ino_t ino;
  } seen[HELD_MAX];
  size_t count;
} held;

/* Files without a name are on the disk as long as somebody has them open. */
static void add_held(const task *from, void *arg) {
  held *h = arg;
  char path[48];
  snprintf(path, sizeof path, "/proc/%d/fd", from->pid);
  DIR *dir = opendir(path);
  for (struct dirent *de; dir != NULL && (de = readdir(dir)) != NULL;) {
    struct stat st;
    if (de->d_name[0] == '.' || fstatat(dirfd(dir), de->d_name, &st, 0) != 0) continue;
    if (st.st_nlink != 0 || !S_ISREG(st.st_mode) || (st.st_dev != h->dev[0] && st.st_dev != h->dev[1]))
      continue;
    bool known = false;
    for (size_t i = 0; i < h->count && !known; i++)
      known = h->seen[i].dev == st.st_dev && h->seen[i].ino == st.st_ino;
    if (known || h->count == HELD_MAX) continue;
    h->seen[h->count].dev = st.st_dev;
    h->seen[h->count++].ino = st.st_ino;
    h->t->bytes += (uint64_t)st.st_blocks * 512;
    h->t->inodes++;
  }
  if (dir != NULL) closedir(dir);
}

static void measure_disk(const keeper_ask *ask, keeper_answer *a) {
  char path[4300];
  if (ask->in_memory != 0) {
    struct statvfs v;
    snprintf(path, sizeof path, "/proc/%d/root/", ask->guest);
    if (ask->guest <= 0 || statvfs(path, &v) != 0) return;
    a->bytes = (uint64_t)(v.f_blocks - v.f_bfree) * v.f_frsize;
    a->inodes = v.f_files - v.f_ffree;
    return;
  }
  static const char *const parts[] = {"upper", "work", "usr-upper", "usr-work"};
  tally t = {.inode_max = ask->inode_max};
  snprintf(path, sizeof path, "%s", sandbox_dir(ask->name));
  int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  for (size_t i = 0; dir >= 0 && i < sizeof parts / sizeof parts[0]; i++)
    walk(dir, parts[i], &t, 0);
  if (dir >= 0) close(dir);
  held *h = calloc(1, sizeof *h);
  struct stat root, usr;
  snprintf(path, sizeof path, "/proc/%d/root/", ask->guest);
  bool seen = ask->guest > 0 && h != NULL && stat(path, &root) == 0;
  snprintf(path, sizeof path, "/proc/%d/root/usr/", ask->guest);
  if (seen && stat(path, &usr) == 0) {
    *h = (held){.t = &t, .dev = {root.st_dev, usr.st_dev}};
    each_in_tree(ask->top, add_held, h);
  }
  free(h);
  a->bytes = t.bytes;
  a->inodes = t.inodes;
}

static void add_task(const task *from, void *arg) {
  keeper_answer *a = arg;
  a->processes++;
  a->bytes += from->resident;
}

static void measure_tasks(const keeper_ask *ask, keeper_answer *a) {
  static const char *const in_memory[] = {"tmp", "run", "dev/shm"};
  each_in_tree(ask->top, add_task, a);
  for (size_t i = 0; ask->guest > 0 && i < sizeof in_memory / sizeof in_memory[0]; i++) {
    char path[64];
    struct statvfs v;
    snprintf(path, sizeof path, "/proc/%d/root/%s", ask->guest, in_memory[i]);
    if (statvfs(path, &v) == 0) a->bytes += (uint64_t)(v.f_blocks - v.f_bfree) * v.f_frsize;
  }
}

/* ---- in the helper: life ---- */

/* The engine was killed, or is done. What stands in the state directory then is of no use to anyone: the
 * sandboxes ended with their engine. The lock says whether another engine has begun; then that one clears. */
static void clear_after_engine(void) {
  char path[4200];
  snprintf(path, sizeof path, "%s/lock", cfg.state_dir);
  int lock = open(path, O_RDWR | O_CLOEXEC);
  if (lock < 0) return;
  /* The end of the socket can be seen before the dead engine's lock is gone. */
  for (int tries = 0; flock(lock, LOCK_EX | LOCK_NB) != 0; tries++) {
    if (tries == 50) return;
    usleep(20000);
  }
  cgroups_clear(cfg.state_dir);
  if (!state_clear()) log_line(LOG_ERROR, "%s: could not be cleared completely", cfg.state_dir);
  close(lock);
}

static void keeper_main(int fd) __attribute__((noreturn));
static void keeper_main(int fd) {
  /* Not in the engine's process group or session: what ends that whole must leave the one that clears up. */
  setsid();
  for (int s = 1; s < 32; s++)
    signal(s, s == SIGTERM || s == SIGINT || s == SIGHUP ? SIG_IGN : SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  prctl(PR_SET_NAME, "caisson-keeper");
  if (nice(5) == -1) errno = 0; /* the lowest already */
  if (cfg.token != NULL) explicit_bzero(cfg.token, strlen(cfg.token));
  if (dup2(fd, 3) < 0) _exit(1);
  syscall(SYS_close_range, 4u, ~0u, 0u);
  /* Standard input and output belong to whoever reads the engine's. */
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null >= 0) {
    dup2(null, 0);
    dup2(null, 1);
  }
  keeper_ask ask;
  for (ssize_t n; (n = recv(3, &ask, sizeof ask, 0)) != 0;) {
    if (n < 0 && errno == EINTR) continue;
    if (n != (ssize_t)sizeof ask) break;
    ask.name[sizeof ask.name - 1] = '\0';
    keeper_answer a = {.kind = ask.kind, .generation = ask.generation};
    int64_t begun = csn_now_ms();
    if (ask.kind == KEEPER_DISK)
      measure_disk(&ask, &a);
    else
      measure_tasks(&ask, &a);
    a.took_ms = (uint64_t)(csn_now_ms() - begun);
    if (send(3, &a, sizeof a, MSG_NOSIGNAL) != (ssize_t)sizeof a) break;
  }
  clear_after_engine();
  _exit(0);
}

/* ---- in the engine ---- */

static void on_readable(evutil_socket_t fd, short what, void *arg) {
  (void)what;
  (void)arg;
  keeper_answer a;
  ssize_t n = recv(fd, &a, sizeof a, MSG_DONTWAIT);
  if (n == (ssize_t)sizeof a)
    answer_fn(&a);
  else if (n == 0 && keeper_ev != NULL)
    event_del(keeper_ev);
}

static void let_go(void) {
  if (keeper_ev != NULL) event_free(keeper_ev);
  keeper_ev = NULL;
  if (keeper_fd >= 0) close(keeper_fd);
  keeper_fd = -1;
}

bool keeper_start(void (*on_answer)(const keeper_answer *a)) {
  answer_fn = on_answer;
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) return false;
  sigset_t all, old;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &old);
  keeper_pid = fork();
  if (keeper_pid == 0) keeper_main(fds[1]);
  int err = errno;
  sigprocmask(SIG_SETMASK, &old, NULL);
  close(fds[1]);
  keeper_fd = fds[0];
  if (keeper_pid < 0) {
    let_go();
    errno = err;
    return false;
  }
  keeper_ev = event_new(base, keeper_fd, EV_READ | EV_PERSIST, on_readable, NULL);
  if (keeper_ev == NULL || event_add(keeper_ev, NULL) != 0) abort();
  return true;
}

bool keeper_ask_for(const keeper_ask *ask) {
  return keeper_fd >= 0 && send(keeper_fd, ask, sizeof *ask, MSG_NOSIGNAL | MSG_DONTWAIT) > 0;
}

bool keeper_reaped(pid_t pid) {
  if (pid != keeper_pid || pid <= 0) return false;
  log_line(LOG_WARN, "the keeper process ended; starting another");
  let_go();
  if (!keeper_start(answer_fn)) log_line(LOG_ERROR, "no keeper process: %s", strerror(errno));
  return true;
}

void keeper_stop(void) {
  let_go();
  int status;
  if (keeper_pid > 0)
    while (waitpid(keeper_pid, &status, 0) < 0 && errno == EINTR)
      continue;
  keeper_pid = 0;
}
