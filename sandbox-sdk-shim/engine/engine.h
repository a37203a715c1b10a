/* engine/engine.h - the host side: what its files share.
 *
 * One thread, one event loop. A sandbox is a bubblewrap process with our guest server
 * as PID 1 inside; the engine talks to it over a unix socket (HTTP) and a packet
 * socket (link.h). Everything that comes from there is hostile input. */
#ifndef CAISSON_ENGINE_H
#define CAISSON_ENGINE_H

#include "../common/buf.h"
#include "addr.h"
#include "limits.h"

#include <cJSON.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#define ENGINE_VERSION     "0.1.0"
#define ENGINE_NAME_MAX    64u  /* of a sandbox, bytes */
#define ENGINE_SANDBOX_MAX 900u /* at once */
#define ENGINE_SPARES_MAX  16u
#define ENGINE_SLOTS       (ENGINE_SANDBOX_MAX + ENGINE_SPARES_MAX) /* below the uid range of one engine */
#define ENGINE_BODY_MAX    (1024u * 1024)                           /* of an API request, bytes */
#define ENGINE_ENV_MAX     512u                                     /* variables of one sandbox */
#define ENGINE_STRING_MAX  131072u /* of one variable with its NUL, bytes: execve(2) takes no more */
#define ENGINE_LABELS_MAX  64u     /* labels of one sandbox */
#define ENGINE_LABEL_MAX   256u    /* a label's name or value, bytes */
#define ENGINE_HOSTS_MAX   256u    /* intercepted hosts of one sandbox */
#define ENGINE_HOST_MAX    253u    /* a DNS name, bytes */
#define ENGINE_HEAD_MAX    16384u  /* first request head of a port connection, bytes */
#define ENGINE_HEAD_MS     10000   /* until that head must be complete */
#define ENGINE_START_MS    20000   /* until the guest must say that it is ready */
#define IDS_COUNT          8192u   /* host ids of one sandbox, where there are enough */
#define ENGINE_DETAIL_MAX  4096u   /* kept of what a launcher says on stderr, bytes */
#define ENGINE_TOKEN_CHARS 43      /* 32 random bytes, base64 */

typedef struct bind_ro {
  const char *src, *dst;
} bind_ro;

typedef struct config {
  int port;
  const char *state_dir, *guest, *token_file, *dry_run;
  char *token;
  char *bwrap;
  char *runner; /* caisson-run beside the guest, NULL if there is none */
  bind_ro binds[32];
  size_t bind_count;
  bool root;           /* effective uid 0 */
  uid_t uid_base;      /* root: sandboxes run as uid_base + slot */
  int seccomp_fd;      /* compiled filter */
  int seccomp_root_fd; /* the same for a root that has one id only */
  char *templates;     /* directory of templates, NULL for none */
  bool many_ids;       /* root: each slot has IDS_COUNT host ids, from uid_base + slot * IDS_COUNT on */
  limits limits;       /* of a sandbox whose start names none */
  char id[24]; /* "caisson-" and what tells this state directory from others: control groups, bwrap's name */
  unsigned spares;  /* sandboxes that are kept ready */
  int64_t lease_ms; /* a sandbox that nobody asks about for so long is ended; 0: never */
} config;

extern config cfg;
extern struct event_base *base;

/* ---- log.c ---- */
enum { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
void log_level(const char *name);
void log_line(int level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- names.c: pure checks ---- */
bool name_ok(const char *name);
bool port_ok(const char *text, unsigned *port);
/* A host with optional port as it stands in a Host header. On success `out` holds the host in
 * lower case without port, brackets kept; *port is 0 when absent. */
bool host_split(const char *text, char out[ENGINE_HOST_MAX + 1], unsigned *port);
/* `pattern`: a star in it stands for any characters, dots and none included. */
bool host_matches(const char *pattern, const char *host);

/* ---- plan.c, apply.c: from configuration to a root file system ---- */
typedef enum plan_kind {
  PLAN_PRIVATE, /* no mount event leaves or enters */
  PLAN_TMPFS,   /* dst, mode, bytes, inodes; owner as for PLAN_DIR */
  PLAN_DIR,     /* dst, mode; owner: the sandbox's user if `owned` */
  PLAN_OVERLAY, /* src lower, upper, work, dst */
  PLAN_TEXT,    /* dst, text: a file, where its directory is there */
  PLAN_BIND_RO, /* src, dst; made if missing; skipped when `optional` and src is missing */
} plan_kind;

typedef struct plan_op {
  plan_kind kind;
  char *src, *upper, *work, *dst;
  mode_t mode;
  bool owned, optional;
  bool real;        /* PLAN_DIR: no link on the way to it */
  bool map_ids;     /* PLAN_OVERLAY: the lower directory's ids become the sandbox's */
  const char *text; /* static */
  bool in_stage;    /* upper and work are made by the launcher on a file system that the plan mounts */
  uint64_t bytes, inodes;
} plan_op;

typedef struct plan {
  plan_op *ops;
  size_t count;
  char *root; /* the composed root */
  uid_t uid;  /* host uid of the sandbox's user */
  limits limits;
  char *cgroup;       /* of the sandbox; "" for none */
  bool template_root; /* the root is a template, in which the sandbox's user is root */
  bool own_ids;       /* ... of IDS_COUNT ids; else of one, and what needs others is said to have been done */
  bool emulate_root;
  csn_buf bwrap; /* bwrap's arguments, NUL after each; then `--` and PLAN_COMMAND */
} plan;
/* By descriptor: the guest server needs no place in the sandbox and none that its user can reach. */
#define PLAN_COMMAND "/proc/self/fd/5"

typedef struct sandbox sandbox;
plan *plan_make(const sandbox *sb);
/* A number that changes when another file or directory stands at one of the paths that the plan mounts, or
 * another guest server: what was started from the earlier ones is not what would be started now. */
uint64_t plan_sources(const plan *p);
void plan_print(const plan *p);
void plan_free(plan *p);

typedef struct launch_fds {
  int listen, link, guest, err;
  bool in_cgroup; /* the child is in its control group already */
} launch_fds;
/* In the child after fork: never returns. Prints what failed on descriptor 2. */
void apply_and_exec(const plan *p, const launch_fds *fds, pid_t engine) __attribute__((noreturn));

/* ---- skeleton.c ---- */
/* Makes D/base anew: the lower directory of every root. 0 or -1 with errno. */
int skeleton_make(const char *dir);
/* Removes a tree of any depth, also where directories have mode 0. Follows no link. */
int remove_tree(int parent_fd, const char *name);

/* ---- seccomp.c ---- */
/* A sealed memfd with the filter; -1 with errno. `emulate_root`: changes of owner and of ids are answered as
 * done without being done, for package managers in a namespace with one id. */
int seccomp_compile(bool emulate_root);

/* ---- sandbox.c ---- */
typedef enum sandbox_state {
  SB_STARTING,
  SB_SPARE, /* up, and nobody's: in spare.c's list */
  SB_RUNNING,
  SB_ENDED
} sandbox_state;

typedef struct request_list {
  struct evhttp_request **req;
  size_t count;
} request_list;

/* Which host, on which port, is intercepted. */
typedef struct egress_rule {
  char *glob; /* in lower case; NULL: `net` counts */
  ip_net net;
  unsigned port;
} egress_rule;

typedef struct egress_rules {
  egress_rule *list;
  size_t count;
} egress_rules;

typedef struct egress_set {
  char *url_host;  /* loopback address to connect to */
  char *authority; /* host:port for the Host header */
  char *path;      /* with query */
  char *token;
  unsigned port;
  egress_rules http, https;
  ip_net *addresses; /* that may be connected to though they are not on the internet */
  size_t address_count;
} egress_set;

/* What watch.c knows of a sandbox. Times: csn_now_ms. */
typedef struct sandbox_watch {
  bool disk_asked, tasks_asked;
  int64_t disk_at_ms, disk_not_before_ms, tasks_at_ms;
  uint64_t disk_bytes, disk_inodes; /* as last measured */
  uint64_t fs_bytes, fs_inodes;     /* of the whole file system, when that measurement was asked for */
  uint64_t memory_bytes;            /* without control groups only */
  uint32_t processes;
} sandbox_watch;

typedef struct port_listener port_listener;
typedef struct port_conn port_conn;
typedef struct netns netns;

struct sandbox {
  char name[ENGINE_NAME_MAX + 1]; /* of a spare: with a dot in front, which no other has */
  bool spare;
  uint64_t sources; /* plan_sources, when it was started */
  bool was_spare;   /* until it runs */
  int begin_fd;     /* what start_describe wrote, until it runs; -1 */
  uint32_t begin_variables, begin_words;
  uint64_t generation;
  unsigned slot;
  sandbox_state state;
  pid_t pid;    /* launcher, then bwrap; 0 once reaped */
  int guest_fd; /* pidfd of PID 1 inside, -1 */
  pid_t guest_pid;
  limits limits;
  sandbox_watch watch;
  char cgroup[24];                    /* its directory there, "" without */
  char template[ENGINE_NAME_MAX + 1]; /* "" for the default root */
  char *template_dir;                 /* its present version, held by template_fd */
  int template_fd;                    /* -1 */
  cJSON *labels;                      /* object of strings, or NULL */
  int64_t started_ms;                 /* wall clock */
  int64_t used_ms;                    /* csn_now_ms: the API was last asked about it, or its end */
  unsigned open_port;                 /* that a start's answer names; 0: none */
  bool kill_asked;                    /* SIGKILL came over the API */
  const char *limit_reason;           /* why the engine ended it, NULL if it did not */
  int link_fd;                        /* -1 */
  int dir_fd;                         /* D/sandboxes/<name>, -1 */
  struct event *link_ev, *err_ev, *start_timer;
  int err_fd;
  csn_buf detail; /* the last the launcher said */
  char port_token[ENGINE_TOKEN_CHARS + 1];
  bool destroy_asked;
  int exit_code, exit_signal;
  const char *reason; /* exited, signalled, destroyed, start_failed, memory_limit, disk_limit, abandoned */
  request_list starters, waiters, deleters;
  egress_set egress;
  unsigned rules; /* sets that were before this one */
  bool internet;  /* what is not intercepted may leave */
  netns *net;
  struct namemap *names;
  struct conn *outbound;
  struct out_door *out; /* NULL until it is needed */
  char out_token[ENGINE_TOKEN_CHARS + 1];
  struct idle *idle_hosts, *idle_servers; /* connections that wait for another request */
  unsigned outbound_count;
  struct egress_log *egress_log;
  port_listener *ports;
  port_conn *conns;
  sandbox *next;
};

void sandboxes_init(void);
sandbox *sandbox_find(const char *name);
size_t sandbox_count(void);
/* Head of the list of all sandboxes, linked by `next`; NULL when there is none. */
sandbox *sandbox_first(void);
/* Starts it, or adopts one that runs; answers `req` when it is ready or has failed. */
/* Environment, entrypoint and template of a start's body: NULL, or what is wrong (static). Pure. */
const char *sandbox_check(const cJSON *body);
void sandbox_put(const char *name, const cJSON *body, struct evhttp_request *req);
void sandbox_wait(sandbox *sb, struct evhttp_request *req);
void sandbox_delete(sandbox *sb, struct evhttp_request *req);
/* Ends it with `reason` (static) and a sentence for the answer of `wait`. */
/* Frees what is known of one that has ended. */
void sandbox_forget(sandbox *sb);
void sandbox_over_limit(sandbox *sb, const char *reason, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* 0 or an errno value. */
int sandbox_signal(sandbox *sb, int sig);
bool sandbox_connect(sandbox *sb, uint32_t id, unsigned port);
void sandboxes_shutdown(void);
const char *sandbox_dir(const char *name); /* static room */
/* A record, in no list. `name`: at most ENGINE_NAME_MAX bytes. NULL: there are too many. */
sandbox *sandbox_new(const char *name, const limits *l);
/* Makes its storage and starts its launcher. false: the reason is in `detail`, and sandbox_end must follow.
 */
bool sandbox_launch(sandbox *sb);
/* From now on its guest has ENGINE_START_MS to answer. */
void sandbox_await(sandbox *sb);
/* Ends it now. PID 1 inside is killed first: then bwrap, which waits for it, ends only when every process of
 * the sandbox is gone. */
void sandbox_kill(sandbox *sb);
/* Everything of the sandbox is gone (or never was). May free sb. */
void sandbox_end(sandbox *sb);

/* ---- start.c ---- */
/* Makes the control group and the launcher. false: the reason is in `detail`. */
bool start_launch(sandbox *sb);
/* Writes down in begin_fd what the sandbox is. `env`: an object of strings, `entrypoint`: an array of them,
 * as sandbox_check has found them; or NULL. false: the reason is in `detail`. */
bool start_describe(sandbox *sb, const cJSON *env, const cJSON *entrypoint);
/* Tells it to the guest, which waits for it, or will; it says READY then. false: the reason is in `detail`.
 */
bool start_begin(sandbox *sb);
bool start_guest_alive(const sandbox *sb);
typedef enum start_renamed {
  START_RENAMED,
  START_MAY_NOT_RENAME, /* nor any other one: the kernel or what this process may do is against it */
  START_NOT_RENAMED,    /* the guest has gone, or the machine had no room for a process or a descriptor */
} start_renamed;
/* Sets the host name that a guest sees which is up and has not begun. */
start_renamed start_rename(sandbox *sb, const char *hostname);

/* ---- spare.c ---- */
/* Begins to keep cfg.spares of them. */
void spare_init(void);
/* Somebody asked for something (other than health): from now on it must be quiet for a while before one is
 * made. */
void spare_quiet(void);
/* One that fits, now under this name and of the caller, who lists it, writes its hosts file and tells its
 * guest what it is; NULL when there is none. */
sandbox *spare_take(const char *name, const limits *l);
size_t spare_count(void); /* that are ready */
size_t spare_left(void);  /* and those that start or end */
/* The one whose outermost process this is, or NULL. */
sandbox *spare_of(pid_t pid);
/* Its guest is up; and: it has ended, its record is the caller's. */
void spare_is_up(sandbox *sb);
void spare_gone(const sandbox *sb);
/* Ends them all; there will be no more. */
void spare_shutdown(void);

/* ---- describe.c ---- */
/* Appends the object that GET answers with; `usage`: with what it uses, which costs some reads. */
void describe(const sandbox *sb, bool usage, csn_buf *b);
/* Checks a start's "labels"; NULL or what is wrong. */
const char *labels_check(const cJSON *v);

/* ---- template.c ---- */
/* Finds a template and holds its present version, so that it is not removed while in use. NULL, or what is
 * wrong (static or in `room`, at least 400 bytes). */
const char *template_hold(sandbox *sb, const char *name, char *room);
void template_release(sandbox *sb);
/* Appends the names, sorted, as a JSON array. */
void templates_json(csn_buf *b);

/* ---- state.c ---- */
/* Takes the state directory for this process and empties it; cfg.state_dir becomes absolute. NULL, or what
 * is wrong (static). */
const char *state_prepare(struct stat *st);
/* Ends what an engine of this state directory left running and removes all storage of sandboxes. false with
 * errno when something stayed. */
bool state_clear(void);

/* ---- watch.c ---- */
void watch_init(void);
void watch_begin(sandbox *sb);
/* The keeper is a new one: what it was asked is forgotten. */
void watch_keeper_lost(void);
/* At once, or as soon as the last process is out of it. */
void watch_remove_cgroup(const char *dir);

/* ---- egress.c ---- */
/* Reads the "egress" object. NULL, or the text of what is wrong; *set is complete or untouched. */
const char *egress_parse(const cJSON *v, egress_set *set);
void egress_free(egress_set *set);
/* The set of a running sandbox is another from now on. */
void egress_changed(sandbox *sb);
/* Writes the sandbox's hosts file. */
void egress_write_hosts(const sandbox *sb);
void egress_close(sandbox *sb);
/* Records of what left and what was refused, after the one numbered `after`; one JSON object a line. */
void egress_log_print(const sandbox *sb, uint64_t after, csn_buf *out);
void egress_log_free(sandbox *sb);

/* ---- netns.c, in the launcher ---- */
/* Sets up the new network namespace and sends its two sockets over `link`. Returns NULL, or what failed, with
 * errno. */
const char *netns_make(int link);

/* ---- net.c ---- */
/* Take the packet socket and the listening socket that the launcher made; false: not as expected, still the
 * caller's. */
bool net_open(sandbox *sb, int fd);
bool net_listen(sandbox *sb, int fd);
void net_close(sandbox *sb);

/* ---- ca.c, reach.c ---- */
const char *ca_open(const char *state_dir);
/* --resolve NAME:ADDRESS and --resolver ADDRESS[:PORT]; false: it is not. */
bool reach_override(const char *text);
bool reach_resolver(const char *text);

/* ---- ports.c, pump.c ---- */
/* The host port that leads to `port` of the sandbox; 0 with errno. */
unsigned ports_open(sandbox *sb, unsigned port);
void ports_close(sandbox *sb);
/* The guest's answer to a connect message; takes fd. */
void ports_connected(sandbox *sb, uint32_t id, int err, int fd);
/* What the bytes from `a` to `b` go through: appends what goes on to `out`; false ends the pair. */
typedef bool pump_filter(void *arg, csn_buf *out, const char *in, size_t len);
/* Joins two stream sockets until both directions have ended, then closes them. `head` (copied) goes
 * to `b` first, through `filter` if that is not NULL. `done` is called once, not from inside this call. */
typedef struct pump pump;
pump *pump_start(int a, int b, const void *head, size_t len, pump_filter *filter, void *filter_arg,
                 void (*done)(void *arg), void *arg);
void pump_cancel(pump *p);

/* ---- port_gate.c ---- */
#define PORT_TOKEN_HEADER "X-Caisson-Port-Token"
typedef struct port_gate port_gate;
port_gate *port_gate_new(const char *token); /* token: at most 71 characters, copied */
void port_gate_free(port_gate *g);           /* NULL is legal */
/* A pump_filter over a stream of HTTP/1.1 requests. What is not HTTP, CONNECT and a wrong token end the pair;
 * from the first frame of a WebSocket on everything passes. */
bool port_gate_pass(void *gate, csn_buf *out, const char *in, size_t len);

/* ---- api.c ---- */
void api_init(int listen_fd);
void api_json(struct evhttp_request *req, int status, csn_buf *json);
void api_error(struct evhttp_request *req, int status, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* Fills ENGINE_TOKEN_CHARS characters and a NUL. */
void random_token(char *out);

#endif
