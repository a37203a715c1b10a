/* engine/main.c - options, state directory, event loop. */
#define _GNU_SOURCE
#include "engine.h"
#include "roots.h"

#include "cgroup.h"
#include "keeper.h"
#include "spawn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

config cfg = {.seccomp_fd = -1, .seccomp_root_fd = -1, .spares = 2, .lease_ms = 30 * 60000};
struct event_base *base;

static const char usage[] =
    "caisson-engine - runs Caisson's sandboxes on this machine\n"
    "\n"
    "  --token-file FILE   the API's bearer token is the first line of FILE (made if missing)\n"
    "  --state-dir DIR     sandboxes' storage; one engine per directory\n"
    "  --guest FILE        the caisson-guest binary (caisson-run beside it is bound in too)\n"
    "  --port N            loopback port of the API; 0, the default: any\n"
    "  --bind-ro SRC:DST   read-only bind mount in every sandbox; repeatable\n"
    "  --limit KEY=NUMBER  what a sandbox gets unless its start says otherwise; repeatable:\n"
    "                      memory_mb, cpus, processes, disk_mb, inodes, file_size_mb, open_files\n"
    "  --resolve NAME:ADDR address of a host for sandboxes, instead of the resolver's; repeatable\n"
    "  --lease SECONDS     a sandbox that no Worker asks about for so long is ended; default 1800, 0: never\n"
    "  --spares N          sandboxes that are kept ready for a start without a template or limits of its "
    "own,\n"
    "                      about 1 MB each; at most 16, default 2, 0: none\n"
    "  --resolver ADDR     where names are looked up for sandboxes, ADDRESS[:PORT]; default "
    "/etc/resolv.conf\n"
    "  --trust FILE        authorities (PEM) that the engine trusts as well as the machine's; repeatable\n"
    "  --templates DIR     roots that `make template` made\n"
    "  --log-level LEVEL   error, warn, info (default) or debug\n"
    "  --dry-run NAME      print the plan of a sandbox and leave\n"
    "\n"
    "Prints {\"ready\":true,\"port\":n} when it serves. SIGTERM removes all sandboxes and ends it.\n"
    "Exit status: 0 after SIGTERM, 64 for a bad call, 1 when it cannot serve.\n";

static void fail(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));
/* The status that fail() leaves: a bad call, until the options are read. */
static int failure = 64;

static void fail(const char *fmt, ...) {
  va_list ap;
  va_start(ap, fmt);
  fputs("caisson-engine: ", stderr);
  vfprintf(stderr, fmt, ap);
  fputc('\n', stderr);
  va_end(ap);
  exit(failure);
}

static void add_bind(char *text) {
  char *colon = strrchr(text, ':');
  if (colon == NULL || text[0] != '/' || colon[1] != '/' || strstr(colon, "/..") != NULL)
    fail("--bind-ro wants SRC:DST with absolute paths, not %s", text);
  if (cfg.bind_count == sizeof cfg.binds / sizeof cfg.binds[0]) fail("too many --bind-ro");
  *colon = '\0';
  if (access(text, F_OK) != 0) fail("--bind-ro %s: %s", text, strerror(errno));
  cfg.binds[cfg.bind_count++] = (bind_ro){text, colon + 1};
}

static char *absolute(const char *path) {
  char *real = realpath(path, NULL);
  if (real == NULL) fail("%s: %s", path, strerror(errno));
  return real;
}

static void parse_options(int argc, char **argv) {
  static const struct option options[] = {{"port", 1, NULL, 'p'},      {"token-file", 1, NULL, 't'},
                                          {"state-dir", 1, NULL, 's'}, {"guest", 1, NULL, 'g'},
                                          {"bind-ro", 1, NULL, 'b'},   {"log-level", 1, NULL, 'l'},
                                          {"dry-run", 1, NULL, 'd'},   {"limit", 1, NULL, 'm'},
                                          {"help", 0, NULL, 'h'},      {"version", 0, NULL, 'v'},
                                          {"resolve", 1, NULL, 'r'},   {"lease", 1, NULL, 'e'},
                                          {"resolver", 1, NULL, 'R'},  {"trust", 1, NULL, 'T'},
                                          {"templates", 1, NULL, 'M'}, {"spares", 1, NULL, 'S'},
                                          {NULL, 0, NULL, 0}};
  for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
    unsigned port = 0;
    switch (c) {
    case 'p':
      if (strcmp(optarg, "0") != 0 && !port_ok(optarg, &port)) fail("--port %s: not a port", optarg);
      cfg.port = (int)port;
      break;
    case 't':
      cfg.token_file = optarg;
      break;
    case 's':
      cfg.state_dir = optarg;
      break;
    case 'g':
      cfg.guest = optarg;
      break;
    case 'b':
      add_bind(optarg);
      break;
    case 'l':
      log_level(optarg);
      break;
    case 'R':
      if (!reach_resolver(optarg)) fail("--resolver %s: not ADDRESS[:PORT]", optarg);
      break;
    case 'T':
      if (!roots_add(optarg)) fail("--trust %s: no authority's certificate in it", optarg);
      break;
    case 'r':
      if (!reach_override(optarg)) fail("--resolve %s: not NAME:ADDRESS", optarg);
      break;
    case 'M':
      cfg.templates = realpath(optarg, NULL);
      if (cfg.templates == NULL && errno != ENOENT) fail("--templates %s: %s", optarg, strerror(errno));
      /* It may be made later. */
      if (cfg.templates == NULL && asprintf(&cfg.templates, "%s", optarg) < 0) abort();
      break;
    case 'd':
      cfg.dry_run = optarg;
      break;
    case 'e': {
      char *end;
      long seconds = strtol(optarg, &end, 10);
      if (end == optarg || *end != '\0' || seconds < 0 || seconds > 100000000)
        fail("--lease %s: not a number of seconds", optarg);
      cfg.lease_ms = (int64_t)seconds * 1000;
      break;
    }
    case 'S': {
      char *end;
      unsigned long n = strtoul(optarg, &end, 10);
      if (optarg[0] < '0' || optarg[0] > '9' || *end != '\0' || n > ENGINE_SPARES_MAX)
        fail("--spares %s: not a number from 0 to %u", optarg, ENGINE_SPARES_MAX);
      cfg.spares = (unsigned)n;
      break;
    }
    case 'm': {
      char room[160];
      const char *wrong = limits_option(optarg, &cfg.limits, room);
      if (wrong != NULL) fail("--limit %s: %s", optarg, wrong);
      break;
    }
    case 'h':
      fputs(usage, stdout);
      exit(0);
    case 'v':
      puts("caisson-engine " ENGINE_VERSION);
      exit(0);
    default:
      fail("see --help");
    }
  }
  if (optind < argc) fail("unknown argument %s; see --help", argv[optind]);
  if (cfg.state_dir == NULL || cfg.guest == NULL || (cfg.token_file == NULL && cfg.dry_run == NULL))
    fail("--state-dir, --token-file and --guest are needed; see --help");
  failure = 1;
}

static char *find_bwrap(void) {
  const char *path = getenv("PATH");
  char *dirs = strdup(path == NULL ? "/usr/bin:/bin" : path), *save = NULL, *found = NULL;
  if (dirs == NULL) abort();
  for (char *d = strtok_r(dirs, ":", &save); d != NULL && found == NULL; d = strtok_r(NULL, ":", &save)) {
    char *file = NULL;
    if (asprintf(&file, "%s/bwrap", d) < 0) abort();
    if (access(file, X_OK) == 0)
      found = file;
    else
      free(file);
  }
  free(dirs);
  if (found == NULL) fail("bwrap is not installed; on Debian or Ubuntu: apt-get install bubblewrap");
  return found;
}

static void read_token(void) {
  int fd = open(cfg.token_file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd >= 0) {
    char made[ENGINE_TOKEN_CHARS + 2];
    random_token(made);
    strcat(made, "\n");
    if (write(fd, made, strlen(made)) != (ssize_t)strlen(made))
      fail("%s: %s", cfg.token_file, strerror(errno));
    close(fd);
  }
  char text[512];
  fd = open(cfg.token_file, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (n < 0) fail("%s: %s", cfg.token_file, strerror(errno));
  close(fd);
  text[n] = '\0';
  text[strcspn(text, "\r\n")] = '\0';
  if (strlen(text) < 16) fail("%s: a token has at least 16 characters", cfg.token_file);
  cfg.token = strdup(text);
}

/* Host uids of the sandboxes' users. A range of its own per state directory keeps the sandboxes of
 * two engines apart; where the id map is small (a container), a fixed range must do. Root of a user
 * namespace without ids to give away is as good as an ordinary user. */
static void choose_uids(const struct stat *st) {
  unsigned long inside = 0, outside = 0, count = 0;
  FILE *f = fopen("/proc/self/uid_map", "re");
  if (f == NULL || fscanf(f, "%lu %lu %lu", &inside, &outside, &count) != 3) count = 65536;
  if (f != NULL) fclose(f);
  uint64_t mix = ((uint64_t)st->st_ino * 0x9e3779b97f4a7c15u) ^ (uint64_t)st->st_dev;
  const unsigned long room = ENGINE_SLOTS * (unsigned long)IDS_COUNT;
  if (inside + count > 2147483647ul) {
    /* Above what systemd hands out, below the sign bit that some programs stumble over. */
    cfg.uid_base = (uid_t)(1900000000ul + (mix >> 32) % (245000000ul / room) * room);
    cfg.many_ids = true;
  } else if (inside + count > 64000 + ENGINE_SLOTS) {
    cfg.uid_base = 64000;
  } else {
    cfg.root = false;
  }
}

static void find_runner(void) {
  const char *slash = strrchr(cfg.guest, '/');
  if (asprintf(&cfg.runner, "%.*s/caisson-run", (int)(slash - cfg.guest), cfg.guest) < 0) abort();
  bool bound = false;
  for (size_t i = 0; i < cfg.bind_count; i++) {
    size_t n = strlen(cfg.binds[i].dst);
    bound |= strncmp("/opt/caisson/bin/caisson-run", cfg.binds[i].dst, n) == 0;
  }
  if (bound || access(cfg.runner, X_OK) != 0) {
    free(cfg.runner);
    cfg.runner = NULL;
  }
}

static int listen_loopback(int *port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
  struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)cfg.port)};
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t len = sizeof a;
  if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
      bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, 512) != 0 ||
      getsockname(fd, (struct sockaddr *)&a, &len) != 0)
    fail("port %d: %s", cfg.port, strerror(errno));
  *port = ntohs(a.sin_port);
  return fd;
}

static void on_terminate(evutil_socket_t sig, short what, void *arg) {
  (void)sig;
  (void)what;
  (void)arg;
  sandboxes_shutdown();
}

static void add_signal(int sig, event_callback_fn fn) {
  struct event *ev = evsignal_new(base, sig, fn, NULL);
  if (ev == NULL || event_add(ev, NULL) != 0) abort();
}

int main(int argc, char **argv) {
  long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  cfg.limits =
      limits_default((uint64_t)pages * (uint64_t)page >> 20, (unsigned)sysconf(_SC_NPROCESSORS_ONLN));
  parse_options(argc, argv);
  cfg.root = geteuid() == 0;
  cfg.guest = absolute(cfg.guest);
  cfg.bwrap = find_bwrap();
  find_runner();
  umask(022);
  if (cfg.dry_run != NULL) {
    if (!name_ok(cfg.dry_run)) fail("--dry-run %s: not a name", cfg.dry_run);
    sandbox sb = {.slot = 0, .limits = cfg.limits};
    memcpy(sb.name, cfg.dry_run, strlen(cfg.dry_run) + 1);
    cfg.uid_base = 64000;
    plan *p = plan_make(&sb);
    plan_print(p);
    plan_free(p);
    return 0;
  }
  read_token();
  struct stat st;
  const char *wrong = state_prepare(&st);
  if (wrong != NULL) fail("%s", wrong);
  choose_uids(&st);
  cgroups_init(cfg.state_dir, cfg.id);
  signal(SIGPIPE, SIG_IGN);
  /* The token is in this process's memory. */
  prctl(PR_SET_DUMPABLE, 0);
  /* A sandbox whose bwrap is killed from outside is ours to reap. */
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &files);
  }
  cfg.seccomp_fd = seccomp_compile(false);
  cfg.seccomp_root_fd = seccomp_compile(true);
  if (cfg.seccomp_fd < 0 || cfg.seccomp_root_fd < 0) fail("seccomp filter: %s", strerror(errno));
  struct event_config *ec = event_config_new();
  if (ec == NULL) abort();
  event_config_set_flag(ec, EVENT_BASE_FLAG_PRECISE_TIMER);
  base = event_base_new_with_config(ec);
  event_config_free(ec);
  if (base == NULL) fail("no event loop");
  wrong = ca_open(cfg.state_dir);
  if (wrong != NULL) fail("%s/ca: %s", cfg.state_dir, wrong);
  add_signal(SIGTERM, on_terminate);
  add_signal(SIGINT, on_terminate);
  sandboxes_init();
  watch_init();
  spawn_init();
  spare_init();
  int port;
  api_init(listen_loopback(&port));
  printf("{\"ready\":true,\"port\":%d}\n", port);
  fflush(stdout);
  event_base_dispatch(base);
  keeper_stop();
  spawn_stop();
  cgroups_clear(cfg.state_dir);
  return 0;
}
