/* engine/spawn.c - see spawn.h. */
#define _GNU_SOURCE
#include "spawn.h"

#include "cgroup.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SPAWNERS 2 /* ready at once; a burst of more starts moves its processes as ever */

enum spawn_state { SPAWN_PREPARE, SPAWN_READY, SPAWN_TAKEN, SPAWN_FORK, SPAWN_FORKED, SPAWN_BROKEN };

struct spawner {
  pthread_t thread;
  enum spawn_state state;
  char dir[24];
  void (*child)(void *arg);
  void *arg;
  pid_t pid;
  int error;
};

static struct spawner spawners[SPAWNERS];
static unsigned count, serial;
static bool stopping;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void set_state(spawner *s, enum spawn_state state) {
  s->state = state;
  pthread_cond_broadcast(&changed);
}

static void wait_while(const spawner *s, enum spawn_state state) {
  while (s->state == state && !stopping)
    pthread_cond_wait(&changed, &lock);
}

/* Lives as long as the engine: what it forked is killed when it ends. */
static void *work(void *arg) {
  spawner *s = arg;
  pthread_mutex_lock(&lock);
  while (!stopping) {
    snprintf(s->dir, sizeof s->dir, "p%u", ++serial);
    pthread_mutex_unlock(&lock);
    bool good = cgroup_prepare(s->dir);
    pthread_mutex_lock(&lock);
    set_state(s, good ? SPAWN_READY : SPAWN_BROKEN);
    wait_while(s, SPAWN_BROKEN);
    wait_while(s, SPAWN_READY);
    wait_while(s, SPAWN_TAKEN);
    if (s->state == SPAWN_FORK) {
      s->pid = fork();
      if (s->pid == 0) s->child(s->arg);
      s->error = errno;
      set_state(s, SPAWN_FORKED);
      wait_while(s, SPAWN_FORKED);
    }
  }
  pthread_mutex_unlock(&lock);
  return NULL;
}

void spawn_init(void) {
  if (strcmp(cgroup_version(), "cgroup1") != 0) return;
  /* Signals are the event loop's. */
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  for (; count < SPAWNERS; count++)
    if (pthread_create(&spawners[count].thread, NULL, work, &spawners[count]) != 0) break;
  pthread_sigmask(SIG_SETMASK, &old, NULL);
}

spawner *spawn_take(char *dir, size_t cap) {
  spawner *found = NULL;
  pthread_mutex_lock(&lock);
  for (unsigned i = 0; i < count && found == NULL; i++)
    if (spawners[i].state == SPAWN_READY) found = &spawners[i];
  if (found != NULL) {
    snprintf(dir, cap, "%s", found->dir);
    set_state(found, SPAWN_TAKEN);
  }
  pthread_mutex_unlock(&lock);
  return found;
}

pid_t spawn_fork(spawner *s, void (*child)(void *arg), void *arg) {
  pthread_mutex_lock(&lock);
  s->child = child;
  s->arg = arg;
  set_state(s, SPAWN_FORK);
  wait_while(s, SPAWN_FORK);
  pid_t pid = s->pid;
  int err = s->error;
  set_state(s, SPAWN_PREPARE);
  pthread_mutex_unlock(&lock);
  errno = err;
  return pid;
}

void spawn_drop(spawner *s) {
  pthread_mutex_lock(&lock);
  set_state(s, SPAWN_PREPARE);
  pthread_mutex_unlock(&lock);
}

void spawn_stop(void) {
  pthread_mutex_lock(&lock);
  stopping = true;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
  while (count > 0)
    pthread_join(spawners[--count].thread, NULL);
}
