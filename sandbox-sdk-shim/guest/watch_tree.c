/* guest/watch_tree.c - see watch.h: one inotify instance for all watches.
 *
 * A directory is watched before it is read: what appears in between is reported by the kernel, what was there
 * before by the reading, and what both report is told once. Large trees are read a few milliseconds at a
 * time. */
#define _GNU_SOURCE
#include "files.h"
#include "watch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BUCKETS    1024u
#define READ_BYTES 65536u
#define TURN_MS    4 /* of reading directories, before others get their turn */
#define MASK                                                                                                 \
  (IN_CREATE | IN_MODIFY | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ATTRIB | IN_DELETE_SELF |            \
   IN_MOVE_SELF)

/* A name that a reading has told of, until the kernel's own word on it must have come. */
typedef struct told {
  struct told *next;
  char name[];
} told;

typedef struct node {
  int wd;
  char *path;
  told *names;
  struct node *next;
} node;

/* A directory to be watched and read. */
typedef struct task {
  char *path;
  unsigned id; /* of the scan, 0 for a directory that appeared later: its entries are told as created */
  struct task *next;
} task;

/* A directory that has left its place and may turn up in another one. Until then its nodes have a name that
 * is no path: another directory may have its old one already. */
typedef struct move {
  uint32_t cookie;
  char *path; /* that name */
  struct move *next;
} move;

/* A rename of the server's own that its event has not come for. */
typedef struct replaced {
  struct replaced *next;
  bool existed;
  char name[];
} replaced;

static int inotify_fd = -1;
static struct event *readable, *turn;
static node *buckets[BUCKETS];
static size_t node_count;
static task *tasks, **tasks_tail = &tasks;
static move *moves;
static replaced *own_renames, **own_tail = &own_renames;
static bool any_told;

static node *find_node(int wd) {
  node *n = buckets[(unsigned)wd % BUCKETS];
  while (n != NULL && n->wd != wd)
    n = n->next;
  return n;
}

static void clear_told(node *n) {
  while (n->names != NULL) {
    told *t = n->names;
    n->names = t->next;
    free(t);
  }
}

static void free_node(node *n) {
  for (node **at = &buckets[(unsigned)n->wd % BUCKETS]; *at != NULL; at = &(*at)->next) {
    if (*at != n) continue;
    *at = n->next;
    break;
  }
  node_count--;
  clear_told(n);
  free(n->path);
  free(n);
}

/* Calls `each` for every node; it may free the node. */
static void for_nodes(void (*each)(node *n, const void *arg), const void *arg) {
  for (size_t b = 0; b < BUCKETS; b++) {
    for (node *n = buckets[b], *next; n != NULL; n = next) {
      next = n->next;
      each(n, arg);
    }
  }
}

/* Takes it off the list, if it is there. */
static bool take_told(node *n, const char *name) {
  for (told **at = &n->names; *at != NULL; at = &(*at)->next) {
    if (strcmp((*at)->name, name) != 0) continue;
    told *t = *at;
    *at = t->next;
    free(t);
    return true;
  }
  return false;
}

static void add_told(node *n, const char *name) {
  told *t = malloc(sizeof *t + strlen(name) + 1);
  if (t == NULL) abort();
  strcpy(t->name, name);
  t->next = n->names;
  n->names = t;
  any_told = true;
}

static char *join(const char *dir, const char *name) {
  char *path = NULL;
  if (asprintf(&path, "%s/%s", dir, name) < 0) abort();
  return path;
}

/* ---- reading directories ---- */

static void add_task(char *path, unsigned id) {
  task *t = malloc(sizeof *t);
  if (t == NULL || path == NULL) abort();
  *t = (task){.path = path, .id = id};
  *tasks_tail = t;
  tasks_tail = &t->next;
  event_active(turn, EV_TIMEOUT, 0);
}

/* A symbolic link anywhere on the way could lead out of the workspace. */
static int open_directory(const char *path) {
  struct open_how how = {.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK,
                         .resolve = RESOLVE_NO_SYMLINKS};
  int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
  if (fd < 0 && (errno == ENOSYS || errno == EPERM))
    fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  return fd;
}

/* The node of an open directory, watched from now on. NULL with errno. */
static node *watch_directory(int fd, const char *path, bool *is_new) {
  char link[40];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  *is_new = false;
  if (node_count >= WATCH_DIRS_MAX) {
    errno = ENOSPC;
    return NULL;
  }
  int wd = inotify_add_watch(inotify_fd, link, MASK | IN_ONLYDIR);
  if (wd < 0) return NULL;
  node *n = find_node(wd);
  if (n != NULL) return n;
  n = calloc(1, sizeof *n);
  if (n == NULL) abort();
  n->wd = wd;
  n->path = strdup(path);
  if (n->path == NULL) abort();
  n->next = buckets[(unsigned)wd % BUCKETS];
  buckets[(unsigned)wd % BUCKETS] = n;
  node_count++;
  *is_new = true;
  return n;
}

/* 0 or errno. */
static int read_directory(const char *path, unsigned id) {
  int fd = open_directory(path);
  if (fd < 0) return errno;
  bool is_new;
  node *n = watch_directory(fd, path, &is_new);
  int err = n == NULL ? errno : 0;
  /* One that is watched already was read when it came. */
  bool tell = id == 0 && is_new;
  DIR *dir = err == 0 && (id != 0 || is_new) ? fdopendir(fd) : NULL;
  if (dir == NULL) {
    close(fd);
    return err;
  }
  for (struct dirent *de; (de = readdir(dir)) != NULL;) {
    if (strcmp(de->d_name, ".") == 0 || strcmp(de->d_name, "..") == 0) continue;
    bool is_directory = de->d_type == DT_DIR;
    struct stat st;
    if (de->d_type == DT_UNKNOWN)
      is_directory = fstatat(dirfd(dir), de->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
    char *entry = join(path, de->d_name);
    if (tell) {
      add_told(n, de->d_name);
      watch_event(WATCH_CREATE, entry, is_directory);
    }
    if (is_directory && watch_any_covers(entry))
      add_task(entry, id);
    else
      free(entry);
  }
  closedir(dir);
  return 0;
}

static bool scan_goes_on(unsigned id) {
  for (const task *t = tasks; t != NULL; t = t->next)
    if (t->id == id) return true;
  return false;
}

static void drop_tasks(unsigned id) {
  for (task **at = &tasks; *at != NULL;) {
    task *t = *at;
    if (t->id != id) {
      at = &t->next;
      continue;
    }
    *at = t->next;
    free(t->path);
    free(t);
  }
  tasks_tail = &tasks;
  while (*tasks_tail != NULL)
    tasks_tail = &(*tasks_tail)->next;
}

static void on_turn(evutil_socket_t unused, short what, void *arg) {
  (void)unused;
  (void)what;
  (void)arg;
  int64_t begun = csn_now_ms();
  while (tasks != NULL && csn_now_ms() - begun < TURN_MS) {
    task *t = tasks;
    tasks = t->next;
    if (tasks == NULL) tasks_tail = &tasks;
    int err = watch_any_covers(t->path) ? read_directory(t->path, t->id) : 0;
    bool lost = err == ENOSPC || err == EMFILE || err == ENFILE;
    unsigned id = t->id;
    free(t->path);
    free(t);
    if (id == 0) {
      if (lost) watch_lost(); /* changes in it cannot be seen */
    } else if (lost) {
      drop_tasks(id);
      watch_scanned(id, ENOSPC);
    } else if (!scan_goes_on(id)) {
      watch_scanned(id, 0); /* a directory that went away meanwhile is no error */
    }
  }
  event_active(tasks != NULL ? turn : readable, tasks != NULL ? EV_TIMEOUT : EV_READ, 0);
}

/* ---- files that take another one's place ---- */

void watch_tree_replaced(const char *path, bool existed) {
  if (node_count == 0) return;
  const char *name = strrchr(path, '/') + 1;
  replaced *r = malloc(sizeof *r + strlen(name) + 1);
  if (r == NULL) abort();
  r->next = NULL;
  r->existed = existed;
  strcpy(r->name, name);
  *own_tail = r;
  own_tail = &r->next;
  /* Its event is there to be read, if it is of a watched directory; otherwise this is forgotten at once. */
  event_active(readable, EV_READ, 0);
}

/* What the arrival of `name` means: the end of a write by the server, or a move. */
static void tell_arrival(const char *path, const char *name, bool is_directory) {
  for (replaced **at = &own_renames; *at != NULL; at = &(*at)->next) {
    if (is_directory || strcmp((*at)->name, name) != 0) continue;
    replaced *r = *at;
    *at = r->next;
    if (own_tail == &r->next) own_tail = at;
    if (!r->existed) watch_event(WATCH_CREATE, path, false);
    watch_event(WATCH_MODIFY, path, false);
    free(r);
    return;
  }
  watch_event(WATCH_MOVE_TO, path, is_directory);
}

/* ---- the kernel's events ---- */

static void rename_path(char **path, const char *from, const char *to) {
  if (!watch_within(from, *path)) return;
  char *new_path = NULL;
  if (asprintf(&new_path, "%s%s", to, *path + strlen(from)) < 0) abort();
  free(*path);
  *path = new_path;
}

static void rename_node(node *n, const void *arg) {
  const char *const *names = arg;
  rename_path(&n->path, names[0], names[1]);
}

static void remove_node(node *n, const void *arg) {
  if (!watch_within(arg, n->path)) return;
  inotify_rm_watch(inotify_fd, n->wd);
  free_node(n);
}

static void remove_uncovered(node *n, const void *arg) {
  (void)arg;
  if (*n->path != '/' || watch_any_covers(n->path)) return; /* a move's end is not known yet */
  inotify_rm_watch(inotify_fd, n->wd);
  free_node(n);
}

static void rename_all(const char *from, const char *to) {
  const char *const names[2] = {from, to};
  for_nodes(rename_node, names);
  for (task *t = tasks; t != NULL; t = t->next)
    rename_path(&t->path, from, to);
}

static void moved_from(const char *path, uint32_t cookie) {
  move *m = malloc(sizeof *m);
  if (m == NULL) abort();
  *m = (move){.cookie = cookie, .next = moves};
  if (asprintf(&m->path, "moved:%u", (unsigned)cookie) < 0) abort();
  moves = m;
  rename_all(path, m->path);
  watch_root_gone(path);
}

static void free_move(move *m) {
  for (move **at = &moves; *at != NULL; at = &(*at)->next) {
    if (*at != m) continue;
    *at = m->next;
    break;
  }
  free(m->path);
  free(m);
}

/* A directory has come to `path`: from another place of the trees, where its watches stay and only their
 * names change, or from outside. */
static void moved_to(const char *path, uint32_t cookie) {
  for (move *m = moves; m != NULL; m = m->next) {
    if (m->cookie != cookie) continue;
    rename_all(m->path, path);
    free_move(m);
    for_nodes(remove_uncovered, NULL); /* its name may be an excluded one now */
    break;
  }
  if (watch_any_covers(path)) add_task(strdup(path), 0);
}

static void take_event(const struct inotify_event *ev) {
  if ((ev->mask & IN_Q_OVERFLOW) != 0) {
    watch_lost();
    return;
  }
  node *n = find_node(ev->wd);
  if (n == NULL) return;
  if ((ev->mask & IN_IGNORED) != 0) {
    free_node(n);
    return;
  }
  if ((ev->mask & (IN_DELETE_SELF | IN_MOVE_SELF)) != 0) {
    /* A directory below the root was told of by its parent. A move keeps the node; its parent's events name
     * it anew. */
    char *path = strdup(n->path);
    if (path == NULL) abort();
    if (access(path, F_OK) != 0 || (ev->mask & IN_DELETE_SELF) != 0) watch_root_gone(path);
    free(path);
    return;
  }
  if (ev->len == 0) return; /* of the directory itself */
  if (strncmp(ev->name, FILE_TEMP_PREFIX, sizeof FILE_TEMP_PREFIX - 1) == 0) return;
  bool is_directory = (ev->mask & IN_ISDIR) != 0;
  char *path = join(n->path, ev->name);
  if ((ev->mask & IN_CREATE) != 0) {
    bool known = take_told(n, ev->name);
    if (!known) watch_event(WATCH_CREATE, path, is_directory);
    if (!known && is_directory && watch_any_covers(path)) add_task(strdup(path), 0);
  } else if ((ev->mask & IN_DELETE) != 0) {
    take_told(n, ev->name);
    watch_event(WATCH_DELETE, path, is_directory);
  } else if ((ev->mask & IN_MOVED_FROM) != 0) {
    take_told(n, ev->name);
    watch_event(WATCH_MOVE_FROM, path, is_directory);
    if (is_directory) moved_from(path, ev->cookie);
  } else if ((ev->mask & IN_MOVED_TO) != 0) {
    take_told(n, ev->name);
    tell_arrival(path, ev->name, is_directory);
    if (is_directory) moved_to(path, ev->cookie);
  } else if ((ev->mask & IN_MODIFY) != 0) {
    watch_event(WATCH_MODIFY, path, is_directory);
  } else if ((ev->mask & IN_ATTRIB) != 0) {
    watch_event(WATCH_ATTRIB, path, is_directory);
  }
  free(path);
}

static void forget_told(node *n, const void *arg) {
  (void)arg;
  clear_told(n);
}

/* All that happened so far has been read. */
static void settle(void) {
  while (moves != NULL) { /* out of the trees */
    for_nodes(remove_node, moves->path);
    free_move(moves);
  }
  while (own_renames != NULL) {
    replaced *r = own_renames;
    own_renames = r->next;
    free(r);
  }
  own_tail = &own_renames;
  if (any_told) for_nodes(forget_told, NULL);
  any_told = false;
}

static void on_readable(evutil_socket_t fd, short what, void *arg) {
  (void)what;
  (void)arg;
  static char room[READ_BYTES] __attribute__((aligned(__alignof__(struct inotify_event))));
  ssize_t n = read(fd, room, sizeof room);
  if (n <= 0) {
    settle();
    return;
  }
  for (ssize_t at = 0; at < n;) {
    const struct inotify_event *ev = (const struct inotify_event *)(const void *)(room + at);
    take_event(ev);
    at += (ssize_t)(sizeof *ev + ev->len);
  }
  /* Come back also when nothing more is there: that is when it is settled. */
  event_active(readable, EV_READ, 0);
}

static bool open_inotify(void) {
  if (inotify_fd >= 0) return true;
  inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  if (inotify_fd < 0) return false;
  readable = event_new(guest_base, inotify_fd, EV_READ | EV_PERSIST, on_readable, NULL);
  turn = evtimer_new(guest_base, on_turn, NULL);
  if (readable == NULL || turn == NULL) abort();
  event_add(readable, NULL);
  return true;
}

bool watch_tree_scan(const char *dir, unsigned id) {
  if (!open_inotify()) return false;
  add_task(strdup(dir), id);
  return true;
}

void watch_tree_trim(void) {
  for_nodes(remove_uncovered, NULL);
}
