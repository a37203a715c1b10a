/* tests/engine/probe_files.c - files that are not the sandbox's: by path, by link, by descriptor, by device.
 */
#define _GNU_SOURCE
#include "probe.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

/* A directory of the sandbox's own to work in. */
static const char *own(const char *name) {
  static char path[128];
  snprintf(path, sizeof path, "/workspace/.probe-%d-%s", getpid(), name);
  return path;
}

static int read_one(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return errno;
  close(fd);
  snprintf(probe_detail, sizeof probe_detail, "%s", path);
  return 0;
}

/* PROBE_SECRETS: paths that exist on the host. */
static int try_secrets(void) {
  return each_item("PROBE_SECRETS", read_one);
}

static int above_one(const char *path) {
  static const char *const tops[] = {"/proc/self/root",
                                     "/proc/1/root",
                                     "/proc/self/root/..",
                                     "/proc/1/cwd/../../..",
                                     "/proc/self/cwd/../../../..",
                                     "/../../..",
                                     "/proc/thread-self/root",
                                     "/dev/fd/0/../..",
                                     "/proc/self/task/1/root"};
  int last = ENOENT;
  for (size_t i = 0; i < sizeof tops / sizeof tops[0]; i++) {
    char room[1024];
    snprintf(room, sizeof room, "%s%s", tops[i], path);
    if ((last = read_one(room)) == 0) break;
  }
  return last;
}
static int try_above_root(void) {
  return each_item("PROBE_SECRETS", above_one);
}

/* Links that are followed by someone else would matter; followed here they lead nowhere. */
static int symlink_one(const char *path) {
  const char *link = own("symlink");
  if (symlink(path, link) != 0) return errno;
  int rc = read_one(link);
  unlink(link);
  return rc;
}
static int try_symlinks(void) {
  return each_item("PROBE_SECRETS", symlink_one);
}

/* A second name for what it may not write: with the first name removed, or the file system left, it would
 * have it for itself. */
static int link_one(const char *path) {
  char name[128];
  snprintf(name, sizeof name, "%s", own("hardlink"));
  if (link(path, name) == 0) {
    unlink(name);
    return 0;
  }
  int fd = open(path, O_PATH | O_CLOEXEC);
  if (fd < 0) return errno;
  char magic[64];
  snprintf(magic, sizeof magic, "/proc/self/fd/%d", fd);
  if (linkat(AT_FDCWD, magic, AT_FDCWD, name, AT_SYMLINK_FOLLOW) == 0) return 0;
  if (linkat(fd, "", AT_FDCWD, name, AT_EMPTY_PATH) == 0) return 0;
  return errno;
}
static int try_hard_links(void) {
  return each_item("PROBE_READONLY", link_one);
}

/* Not only said to be done, as it is where ids are pretended. */
static bool chowned(const char *path) {
  struct stat before, after;
  if (stat(path, &before) != 0 || chown(path, getuid(), getgid()) != 0 || stat(path, &after) != 0)
    return false;
  return before.st_ctim.tv_sec != after.st_ctim.tv_sec || before.st_ctim.tv_nsec != after.st_ctim.tv_nsec;
}

/* PROBE_READONLY: files that are the host's own and can be seen. */
static int change_one(const char *path) {
  static const int flags[] = {O_WRONLY, O_RDWR, O_WRONLY | O_TRUNC};
  for (size_t i = 0; i < 3; i++)
    if (open(path, flags[i] | O_CLOEXEC) >= 0) return 0;
  /* By a descriptor that was opened for reading, or as a path only. */
  int fd = open(path, O_RDONLY | O_CLOEXEC), handle = open(path, O_PATH | O_CLOEXEC);
  char magic[64];
  snprintf(magic, sizeof magic, "/proc/self/fd/%d", fd);
  if (fd >= 0 && open(magic, O_WRONLY | O_CLOEXEC) >= 0) return 0;
  snprintf(magic, sizeof magic, "/proc/self/fd/%d", handle);
  if (handle >= 0 && open(magic, O_RDWR | O_CLOEXEC) >= 0) return 0;
  if (chmod(path, 0777) == 0 || chowned(path) || truncate(path, 0) == 0) return 0;
  if (unlink(path) == 0 || rename(path, own("renamed")) == 0) return 0;
  if (setxattr(path, "user.probe", "x", 1, 0) == 0 || setxattr(path, "trusted.probe", "x", 1, 0) == 0)
    return 0;
  return errno;
}
static int try_change(void) {
  return each_item("PROBE_READONLY", change_one);
}

static int try_own_descriptors(void) {
  /* Standard input, output, error, and the directory being read. */
  DIR *dir = opendir("/proc/self/fd");
  for (struct dirent *de; dir != NULL && (de = readdir(dir)) != NULL;) {
    int fd = atoi(de->d_name);
    if (de->d_name[0] == '.' || fd <= 2 || fd == dirfd(dir)) continue;
    snprintf(probe_detail, sizeof probe_detail, "descriptor %d", fd);
    return 0;
  }
  return EBADF;
}

/* A descriptor at the root of the tree, and up from there. */
static int try_fchdir_up(void) {
  struct stat root, up;
  if (chdir("/") != 0 || stat(".", &root) != 0) return 0;
  for (int i = 0; i < 50; i++)
    if (chdir("..") != 0) return errno;
  return stat(".", &up) == 0 && up.st_ino == root.st_ino && up.st_dev == root.st_dev ? EXDEV : 0;
}

static int mknod_one(mode_t kind, unsigned major, unsigned minor) {
  static const char *const dirs[] = {"/workspace", "/tmp", "/dev/shm", "/var/tmp", "/run/user/1000"};
  int last = ENOENT;
  for (size_t i = 0; i < sizeof dirs / sizeof dirs[0]; i++) {
    char path[64];
    snprintf(path, sizeof path, "%s/.probe-node", dirs[i]);
    unlink(path);
    int made = mknod(path, kind | 0666, makedev(major, minor));
    if (made != 0) last = errno;
    /* Made is not yet usable: the mounts take no devices. */
    if (made == 0) {
      int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
      last = fd < 0 ? errno : 0;
      unlink(path);
    }
    if (last == 0) {
      snprintf(probe_detail, sizeof probe_detail, "%s", path);
      return 0;
    }
  }
  return last;
}
static int try_mknod_block(void) {
  return mknod_one(S_IFBLK, 8, 0);
}
static int try_mknod_char(void) {
  return mknod_one(S_IFCHR, 1, 1);
}
static int try_mknod_null(void) {
  return mknod_one(S_IFCHR, 1, 3);
}

/* Only the harmless ones, and terminals of its own. */
static int try_devices(void) {
  static const char *const kept[] = {"null", "zero", "full",  "random", "urandom", "tty",  "ptmx",   "pts",
                                     "shm",  "fd",   "stdin", "stdout", "stderr",  "core", "console"};
  DIR *dir = opendir("/dev");
  for (struct dirent *de; dir != NULL && (de = readdir(dir)) != NULL;) {
    bool known = de->d_name[0] == '.';
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
      known |= strcmp(kept[i], de->d_name) == 0;
    if (known) continue;
    snprintf(probe_detail, sizeof probe_detail, "/dev/%s", de->d_name);
    return 0;
  }
  if (dir != NULL) closedir(dir);
  return read_one("/dev/console") == 0 ? 0 : read_one("/dev/tty");
}

/* Every mount: no set-user-id, and no device but the bound ones under /dev. */
static int try_mount_flags(void) {
  FILE *f = fopen("/proc/self/mounts", "re");
  char line[1024];
  int count = 0;
  while (f != NULL && fgets(line, sizeof line, f) != NULL) {
    char on[512], type[64];
    struct statvfs v;
    if (sscanf(line, "%*s %511s %63s", on, type) != 2 || statvfs(on, &v) != 0) continue;
    count++;
    bool device = strncmp(on, "/dev/", 5) == 0 && strcmp(on, "/dev/shm") != 0;
    if ((v.f_flag & ST_NOSUID) != 0 && ((v.f_flag & ST_NODEV) != 0 || device)) continue;
    snprintf(probe_detail, sizeof probe_detail, "%s", on);
    return 0;
  }
  return count > 3 ? EPERM : 0;
}

/* A program with the bit set runs as who starts it: asks `id` through a copy that has it. */
static int try_setuid(void) {
  char path[128];
  snprintf(path, sizeof path, "%s", own("setuid"));
  int from = open(access("/usr/bin/id", R_OK) == 0 ? "/usr/bin/id" : "/bin/id", O_RDONLY | O_CLOEXEC);
  int to = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
  char room[65536];
  ssize_t n;
  while ((n = read(from, room, sizeof room)) > 0)
    if (write(to, room, (size_t)n) != n) break;
  close(to);
  bool other = chown(path, getuid() == 0 ? 1 : 0, getgid()) == 0;
  (void)chmod(path, 06755);
  char command[256];
  snprintf(command, sizeof command, "%s -u", path);
  FILE *out = popen(command, "re");
  char text[32] = "";
  if (out != NULL && fgets(text, sizeof text, out) == NULL) text[0] = '\0';
  if (out != NULL) pclose(out);
  unlink(path);
  if (text[0] == '\0') return 0;
  snprintf(probe_detail, sizeof probe_detail, "owner changed %d, ran as %s", other, text);
  return (uid_t)strtoul(text, NULL, 10) == getuid() ? EPERM : 0;
}

static unsigned long long permitted(const char *command) {
  FILE *out = popen(command, "re");
  char line[256];
  unsigned long long caps = ~0ull;
  while (out != NULL && fgets(line, sizeof line, out) != NULL)
    sscanf(line, "CapPrm: %llx", &caps);
  if (out != NULL) pclose(out);
  return caps;
}

/* File capabilities on a file of its own: refused, or without effect for who may set them. */
static int try_file_capability(void) {
  char path[128], command[512];
  snprintf(path, sizeof path, "%s", own("cap"));
  snprintf(command, sizeof command, "cp /bin/cat %s 2>/dev/null || cat /bin/cat >%s; chmod 755 %s", path,
           path, path);
  if (system(command) != 0) return 0;
  const unsigned char all[24] = {0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff};
  int rc = setxattr(path, "security.capability", all, 20, 0) == 0 ? 0 : errno;
  snprintf(command, sizeof command, "%s /proc/self/status", path);
  if (rc == 0 && permitted(command) == permitted("cat /proc/self/status")) rc = EPERM;
  unlink(path);
  return rc;
}

static int writable_files;
static int visit(const char *path, const struct stat *st, int type, struct FTW *at) {
  (void)st;
  (void)at;
  if (type != FTW_F) return 0;
  int fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return 0;
  close(fd);
  writable_files++;
  snprintf(probe_detail, sizeof probe_detail, "%s", path);
  return 0;
}

static int try_proc_sys(void) {
  nftw("/proc/sys", visit, 32, FTW_PHYS);
  return writable_files == 0 ? EACCES : 0;
}

/* What /proc has beside the processes. */
static int try_proc_files(void) {
  DIR *dir = opendir("/proc");
  for (struct dirent *de; dir != NULL && (de = readdir(dir)) != NULL;) {
    char path[280];
    struct stat st;
    if (de->d_name[0] == '.' || (de->d_name[0] >= '0' && de->d_name[0] <= '9')) continue;
    snprintf(path, sizeof path, "/proc/%s", de->d_name);
    if (lstat(path, &st) != 0 || S_ISLNK(st.st_mode)) continue;
    if (S_ISREG(st.st_mode)) visit(path, &st, FTW_F, NULL);
    if (S_ISDIR(st.st_mode) && strcmp(de->d_name, "sys") != 0) nftw(path, visit, 32, FTW_PHYS);
  }
  if (dir != NULL) closedir(dir);
  return writable_files == 0 ? EACCES : 0;
}

static int try_sys(void) {
  if (access("/sys/kernel", F_OK) != 0) return errno;
  nftw("/sys", visit, 32, FTW_PHYS);
  return writable_files == 0 ? EACCES : 0;
}

static int try_kernel_memory(void) {
  static const char *const paths[] = {
      "/proc/kcore",       "/proc/kmsg",       "/proc/kpagecount", "/dev/mem",     "/dev/kmem",
      "/dev/port",         "/dev/kmsg",        "/proc/kpageflags", "/proc/vmcore", "/dev/kvm",
      "/dev/fuse",         "/dev/net/tun",     "/dev/vda",         "/dev/sda",     "/dev/loop0",
      "/dev/loop-control", "/dev/userfaultfd", "/dev/vsock",       "/dev/dri",     "/dev/cpu"};
  int last = ENOENT;
  for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
    if ((last = read_one(paths[i])) == 0) return 0;
  return last;
}

static int try_core_pattern(void) {
  return open("/proc/sys/kernel/core_pattern", O_WRONLY | O_CLOEXEC) >= 0 ? 0 : errno;
}

static int try_own_maps(void) {
  static const char *const paths[] = {"/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/projid_map"};
  int last = ENOENT;
  for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
    int fd = open(paths[i], O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write(fd, "0 0 4294967295", 14) > 0) return 0;
    last = errno;
  }
  int fd = open("/proc/self/setgroups", O_WRONLY | O_CLOEXEC);
  if (fd >= 0 && getuid() != 0 && write(fd, "allow", 5) > 0) return 0;
  return last;
}

/* A whiteout written by hand would hide, or show, the lower layer's files of everyone; the overlay refuses
 * its own marks. */
static int try_overlay_marks(void) {
  char path[128];
  snprintf(path, sizeof path, "%s", own("mark"));
  if (mknod(path, S_IFCHR, makedev(0, 0)) == 0) return 0;
  mkdir(path, 0755);
  int rc = setxattr(path, "trusted.overlay.opaque", "y", 1, 0) == 0 ||
                   setxattr(path, "trusted.overlay.redirect", "/etc", 4, 0) == 0
               ? 0
               : errno;
  rmdir(path);
  return rc;
}

const attempt file_attempts[] = {
    {"secrets", try_secrets},
    {"above-root", try_above_root},
    {"symlinks", try_symlinks},
    {"hard-links", try_hard_links},
    {"change-host-files", try_change},
    {"own-descriptors", try_own_descriptors},
    {"directory-up", try_fchdir_up},
    {"mknod-block", try_mknod_block},
    {"mknod-memory", try_mknod_char},
    {"mknod-null", try_mknod_null},
    {"devices", try_devices},
    {"mount-flags", try_mount_flags},
    {"setuid-file", try_setuid},
    {"file-capability", try_file_capability},
    {"write-proc-sys", try_proc_sys},
    {"write-proc", try_proc_files},
    {"write-sys", try_sys},
    {"kernel-memory", try_kernel_memory},
    {"core_pattern", try_core_pattern},
    {"own-id-maps", try_own_maps},
    {"overlay-marks", try_overlay_marks},
    {NULL, NULL},
};
