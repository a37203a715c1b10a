/* guest/proc_log.c - what a process printed: an unlinked file for each stream, memory when the disk is full.
 *
 * Only the last GUEST_LOG_MAX bytes are kept; the room before them is given back to the file system. */
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PUNCH_BYTES (4u * 1024 * 1024)

static int open_file(void) {
  static const char *const dirs[] = {"/var/tmp", "/tmp", NULL};
  for (size_t i = 0; dirs[i] != NULL; i++) {
    int fd = open(dirs[i], O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0) return fd;
    char path[64];
    snprintf(path, sizeof path, "%s/.caisson-log-XXXXXX", dirs[i]);
    fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0) continue;
    unlink(path);
    return fd;
  }
  return -1;
}

void proc_log_open(proc_log *log) {
  *log = (proc_log){.fd = open_file(), .mem = -1};
}

void proc_log_close(proc_log *log) {
  if (log->fd >= 0) close(log->fd);
  if (log->mem >= 0) close(log->mem);
  log->fd = log->mem = -1;
}

/* Writes all of it at off; answers how much was taken. */
static size_t write_at(int fd, const char *data, size_t len, uint64_t off) {
  size_t done = 0;
  while (done < len) {
    ssize_t n = pwrite(fd, data + done, len - done, (off_t)(off + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    done += (size_t)n;
  }
  return done;
}

/* Gives the pages of [from, to) back. */
static bool punch(int fd, uint64_t from, uint64_t to) {
  return to <= from ||
         fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)(to - from)) == 0;
}

/* Forgets what is too old. A whole portion at a time: each is a system call. */
static void trim(proc_log *log) {
  uint64_t max = log->mem < 0 ? GUEST_LOG_MAX : GUEST_LOG_MEM_MAX;
  uint64_t floor = log->end > max ? log->end - max : 0;
  uint64_t held =
      log->mem < 0 || log->base > log->split ? log->base : log->split; /* in the fuller of the two */
  if (floor < held + PUNCH_BYTES) return;
  /* Of a page in part nothing is given back, and arm64 has pages of 16 and 64 KiB. */
  const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  floor -= floor % page;
  if (!punch(log->mem < 0 ? log->fd : log->mem, held - held % page, floor)) return;
  log->base = floor;
  if (log->mem < 0 || log->fd < 0) return;
  close(log->fd); /* all that it holds is older */
  log->fd = -1;
}

void proc_log_add(proc_log *log, const char *data, size_t len) {
  size_t done = 0;
  if (log->mem < 0) {
    if (log->fd >= 0) done = write_at(log->fd, data, len, log->end);
    if (done < len) {
      log->mem = memfd_create("log", MFD_CLOEXEC);
      log->split = log->end + done;
    }
  }
  if (log->mem >= 0) done += write_at(log->mem, data + done, len - done, log->end + done);
  log->end += len;
  if (done < len) log->base = log->end; /* neither disk nor memory: from here on */
  trim(log);
}

ssize_t proc_log_pread(const proc_log *log, char *out, size_t len, uint64_t off) {
  if (log->mem < 0 || off < log->split) {
    if (log->mem >= 0 && len > log->split - off) len = (size_t)(log->split - off);
    return log->fd < 0 ? 0 : pread(log->fd, out, len, (off_t)off);
  }
  return pread(log->mem, out, len, (off_t)off);
}

size_t proc_log_read(const proc *p, int which, uint64_t off, csn_buf *out, size_t max) {
  const proc_log *log = &p->log[which];
  if (off < log->base) off = log->base;
  size_t want = log->end - off < max ? (size_t)(log->end - off) : max;
  if (want == 0) return 0;
  ssize_t n = proc_log_pread(log, csn_buf_room(out, want), want, off);
  if (n <= 0) return 0;
  out->len += (size_t)n;
  return (size_t)n;
}
