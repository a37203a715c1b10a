/* engine/plan.c - what a sandbox is made of, as data. No effects here. */
#define _GNU_SOURCE
#include "ca.h"
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STAGE      "/tmp" /* a private tmpfs covers it in the launcher's mount namespace */
#define ROOT       STAGE "/root"
#define STAGE_DISK STAGE "/disk"

/* In a template: its own bundle belongs to its package manager, which replaces the file. */
#define BUNDLE_BESIDE "/opt/caisson/ca/bundle.crt"

static char *format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static char *format(const char *fmt, ...) {
  char *s = NULL;
  va_list ap;
  va_start(ap, fmt);
  if (vasprintf(&s, fmt, ap) < 0) abort();
  va_end(ap);
  return s;
}

static plan_op *add(plan *p, plan_kind kind, char *dst) {
  plan_op *more = realloc(p->ops, (p->count + 1) * sizeof *more);
  if (more == NULL) abort();
  p->ops = more;
  plan_op *op = &p->ops[p->count++];
  *op = (plan_op){.kind = kind, .dst = dst};
  return op;
}

static void add_dir(plan *p, const char *path, mode_t mode, bool owned) {
  plan_op *op = add(p, PLAN_DIR, format(ROOT "%s", path));
  op->mode = mode;
  op->owned = owned;
}

static plan_op *add_overlay(plan *p, const char *lower, const char *dir, const char *prefix,
                            const char *dst) {
  plan_op *op = add(p, PLAN_OVERLAY, strdup(dst));
  op->src = strdup(lower);
  op->upper = format("%s/%supper", dir, prefix);
  op->work = format("%s/%swork", dir, prefix);
  op->in_stage = strcmp(dir, STAGE_DISK) == 0;
  return op;
}

/* An inode costs the kernel about a KiB: one for each 8 KiB of room bounds that to an eighth more. */
static plan_op *add_tmpfs(plan *p, const char *dst, mode_t mode, uint64_t bytes) {
  plan_op *op = add(p, PLAN_TMPFS, strdup(dst));
  op->mode = mode;
  op->bytes = bytes;
  op->inodes = bytes / 8192 < 64 ? 64 : bytes / 8192;
  op->owned = true;
  return op;
}

static uint64_t least(uint64_t a, uint64_t b) {
  return a < b ? a : b;
}

static void add_bind(plan *p, const char *src, const char *dst, bool optional) {
  plan_op *op = add(p, PLAN_BIND_RO, format(ROOT "%s", dst));
  op->src = strdup(src);
  op->optional = optional;
}

static void arg(plan *p, const char *s) {
  csn_buf_add(&p->bwrap, s, strlen(s) + 1);
}
#define ARGS(p, ...)                                                                                         \
  do {                                                                                                       \
    const char *const list_[] = {__VA_ARGS__};                                                               \
    for (size_t i_ = 0; i_ < sizeof list_ / sizeof list_[0]; i_++)                                           \
      arg(p, list_[i_]);                                                                                     \
  } while (0)

/* What root of a container has elsewhere, too, less what seccomp refuses in any case: it is root over files
 * and ids of its own namespace. */
static void root_args(plan *p) {
  static const char *const kept[] = {"CAP_CHOWN",  "CAP_DAC_OVERRIDE", "CAP_FOWNER",
                                     "CAP_FSETID", "CAP_KILL",         "CAP_SETGID",
                                     "CAP_SETUID", "CAP_SETPCAP",      "CAP_SETFCAP"};
  if (!p->own_ids) ARGS(p, "--unshare-user", "--uid", "0", "--gid", "0");
  ARGS(p, "--cap-drop", "ALL");
  for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
    ARGS(p, "--cap-add", kept[i]);
}

static void bwrap_args(plan *p, const sandbox *sb) {
  ARGS(p, "--bind", p->root, "/", "--proc", "/proc", "--dev", "/dev");
  /* What the kernel lets the owner of a namespace write there is nobody's business inside. */
  ARGS(p, "--ro-bind", "/proc/sys", "/proc/sys", "--ro-bind-try", "/proc/pressure", "/proc/pressure");
  /* Its owner is the sandbox's user and its size is of the kernel's choosing: nothing may be written there.
   */
  ARGS(p, "--bind", STAGE "/shm", "/dev/shm", "--remount-ro", "/dev", "--perms", "0700", "--dir",
       "/run/caisson");
  ARGS(p, "--perms", "1777", "--dir", "/run/lock");
  if (p->template_root)
    root_args(p);
  else
    ARGS(p, "--perms", "0700", "--dir", "/run/user/1000", "--unshare-user", "--uid", "1000", "--gid", "1000",
         "--cap-drop", "ALL");
  /* Not --unshare-net: the launcher has made the network namespace, where it alone holds rights. */
  ARGS(p, "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try", "--hostname",
       sb->spare ? "sandbox" : sb->name);
  ARGS(p, "--die-with-parent", "--as-pid-1", "--new-session", "--chdir", "/workspace", "--clearenv");
  /* What the sandbox's own environment says comes later, over the link, and holds. */
  const char *bundle = p->template_root ? BUNDLE_BESIDE : CA_BUNDLE;
  static const char *const trust[] = {"SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE",
                                      "GIT_SSL_CAINFO"};
  for (size_t i = 0; i < sizeof trust / sizeof trust[0]; i++)
    ARGS(p, "--setenv", trust[i], bundle);
  ARGS(p, "--setenv", "NODE_EXTRA_CA_CERTS", CA_INSIDE);
  if (p->template_root)
    ARGS(p, "--setenv", "HOME", "/root", "--setenv", "USER", "root", "--setenv", "LOGNAME", "root");
  ARGS(p, "--seccomp", "7");
}

/* The machine's own authority, where the platform puts it and among what the host trusts. */
static void add_trust(plan *p) {
  char *ca = format("%s/ca/public.crt", cfg.state_dir), *bundle = format("%s/ca/bundle.crt", cfg.state_dir);
  add_bind(p, ca, CA_INSIDE, true);
  if (p->template_root) add_bind(p, bundle, BUNDLE_BESIDE, true);
  /* Over the host's file, which therefore must be there: below a read-only mount none can be made. */
  else if (access(CA_BUNDLE, F_OK) == 0 || access("/etc/ssl", F_OK) != 0)
    add_bind(p, bundle, CA_BUNDLE, true);
  free(ca);
  free(bundle);
}

static void add_dirs(plan *p) {
  static const struct {
    const char *path;
    mode_t mode;
    bool in_template;
  } owned[] = {{"/home/user", 0750, false},
               {"/workspace", 0755, true},
               {"/var/lib/caisson", 0755, true},
               {"/var/lib/caisson/runs", 0755, true},
               {"/var/tmp", 01777, true},
               {"/var/backups", 0755, false},
               {"/srv", 0755, false},
               {"/mnt", 0755, false}};
  for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++)
    if (owned[i].in_template || !p->template_root) add_dir(p, owned[i].path, owned[i].mode, true);
}

static void add_template_files(plan *p, const char *hosts) {
  /* bwrap mounts there by itself: in a template they must be what they are elsewhere. */
  static const char *const real[] = {"/proc", "/dev"};
  for (size_t i = 0; i < sizeof real / sizeof real[0]; i++) {
    add_dir(p, real[i], 0755, false);
    p->ops[p->count - 1].real = true;
  }
  add_trust(p);
  char *resolv = format("%s/base/etc/resolv.conf", cfg.state_dir);
  add_bind(p, resolv, "/etc/resolv.conf", false);
  free(resolv);
  add_bind(p, hosts, "/etc/hosts", false);
  if (!p->emulate_root) return;
  /* apt checks that it became its own user, for which there is no id. */
  plan_op *op = add(p, PLAN_TEXT, strdup(ROOT "/etc/apt/apt.conf.d/99caisson"));
  op->text = "APT::Sandbox::User \"root\";\n";
}

plan *plan_make(const sandbox *sb) {
  plan *p = calloc(1, sizeof *p);
  if (p == NULL) abort();
  char *dir = strdup(sandbox_dir(sb->name));
  char *lower = format("%s/base", cfg.state_dir);
  char *hosts = format("%s/hosts", dir);
  p->root = strdup(ROOT);
  p->uid = cfg.root ? cfg.uid_base + sb->slot * (cfg.many_ids ? IDS_COUNT : 1) : 0;
  p->template_root = sb->template[0] != '\0';
  p->own_ids = p->template_root && cfg.root && cfg.many_ids;
  p->emulate_root = p->template_root && !p->own_ids;
  add(p, PLAN_PRIVATE, strdup("/"));
  p->limits = sb->limits;
  p->cgroup = strdup(sb->cgroup);
  add_tmpfs(p, STAGE, 0755, 1u << 20)->owned = false;
  add(p, PLAN_DIR, strdup(ROOT))->mode = 0755;
  uint64_t memory = (uint64_t)sb->limits.memory_mb << 20, disk = limits_disk_in_memory(&sb->limits);
  const char *over = dir;
  if (disk > 0) {
    over = STAGE_DISK;
    add(p, PLAN_DIR, strdup(over))->mode = 0700;
    plan_op *op = add_tmpfs(p, over, 0700, disk);
    op->inodes = least(sb->limits.inodes, op->inodes * 2);
    op->owned = false;
  }
  if (p->template_root) {
    add_overlay(p, sb->template_dir, over, "", ROOT)->map_ids = true;
  } else {
    add_overlay(p, lower, over, "", ROOT);
    add_overlay(p, "/usr", over, "usr-", ROOT "/usr");
  }
  /* All three together leave some of the sandbox's memory to its programs: files in memory cannot be killed.
   */
  add_tmpfs(p, ROOT "/tmp", 01777, least(2u << 30, memory / 2));
  add_tmpfs(p, ROOT "/run", 0755, least(256u << 20, memory / 16));
  add(p, PLAN_DIR, strdup(STAGE "/shm"))->mode = 0755;
  add_tmpfs(p, STAGE "/shm", 01777, least(1u << 30, memory / 4));
  add_dirs(p);
  if (p->template_root) {
    add_template_files(p, hosts);
  } else {
    add_bind(p, "/etc/ssl", "/etc/ssl", true);
    add_bind(p, "/etc/alternatives", "/etc/alternatives", true);
    add_trust(p);
    add_bind(p, hosts, "/etc/hosts", false);
  }
  for (size_t i = 0; i < cfg.bind_count; i++)
    add_bind(p, cfg.binds[i].src, cfg.binds[i].dst, false);
  if (cfg.runner != NULL) add_bind(p, cfg.runner, "/opt/caisson/bin/caisson-run", true);
  bwrap_args(p, sb);
  free(dir);
  free(lower);
  free(hosts);
  return p;
}

void plan_print(const plan *p) {
  static const char *const names[] = {"private", "tmpfs", "dir", "overlay", "text", "bind-ro"};
  for (size_t i = 0; i < p->count; i++) {
    const plan_op *op = &p->ops[i];
    printf("%-8s dst=%s", names[op->kind], op->dst);
    if (op->src != NULL) printf(" src=%s", op->src);
    if (op->upper != NULL) printf(" upper=%s work=%s", op->upper, op->work);
    if (op->mode != 0) printf(" mode=%04o", (unsigned)op->mode);
    if (op->bytes != 0)
      printf(" bytes=%llu inodes=%llu", (unsigned long long)op->bytes, (unsigned long long)op->inodes);
    if (op->owned) printf(" owner=%u", (unsigned)p->uid);
    printf("%s\n", op->optional ? " optional" : "");
  }
  csn_buf lim = {0};
  limits_json(&lim, &p->limits);
  printf("user     uid=%u\nlimits   %s\nbwrap   ", (unsigned)p->uid, csn_buf_cstr(&lim));
  csn_buf_free(&lim);
  for (size_t i = 0; i < p->bwrap.len; i += strlen(p->bwrap.p + i) + 1)
    printf(" %s", p->bwrap.p + i);
  printf(" -- %s\n", PLAN_COMMAND);
}

uint64_t plan_sources(const plan *p) {
  uint64_t all = 0;
  struct stat st;
  for (size_t i = 0; i < p->count; i++) {
    if (p->ops[i].src == NULL) continue;
    const bool there = stat(p->ops[i].src, &st) == 0;
    all = all * 0x9e3779b97f4a7c15u + (there ? (uint64_t)st.st_dev << 40 ^ (uint64_t)st.st_ino : 1);
  }
  /* It runs already, so that what is written over the file does not reach it. */
  if (stat(cfg.guest, &st) == 0)
    all = all * 0x9e3779b97f4a7c15u + ((uint64_t)st.st_ino ^ (uint64_t)st.st_ctim.tv_sec << 30 ^
                                       (uint64_t)st.st_ctim.tv_nsec << 8 ^ (uint64_t)st.st_size);
  return all;
}

void plan_free(plan *p) {
  for (size_t i = 0; i < p->count; i++) {
    free(p->ops[i].src);
    free(p->ops[i].upper);
    free(p->ops[i].work);
    free(p->ops[i].dst);
  }
  free(p->ops);
  free(p->root);
  free(p->cgroup);
  csn_buf_free(&p->bwrap);
  free(p);
}
