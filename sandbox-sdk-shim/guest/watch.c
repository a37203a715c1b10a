/* guest/watch.c - /api/watch and /api/watch/check: what changes below a directory of the workspace. */
#define _GNU_SOURCE
#include "watch.h"

#include "guest.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define QUEUE_BYTES  (4u * 1024 * 1024) /* events that a slow client has not taken */
#define NOTICE_BYTES (64u * 1024)       /* beyond that, for the last event and for saying what was lost */
#define PIECE_BYTES  (64u * 1024)
#define IDLE_MS      (10 * 60 * 1000) /* a change state that nobody asks for is forgotten */

typedef struct asker {
  exchange *x;
  const char *resync; /* the reason, or NULL */
} asker;

/* A watch that a client follows (out.req set), or one that only counts changes for /api/watch/check. */
struct watch {
  watch_filter filter;
  char *shown; /* the root as the client named it */
  char *key;   /* of a counting one: what it was asked for; NULL otherwise */
  unsigned id; /* in its versions; another one when changes were lost */
  unsigned scan_id;
  bool scanned;
  sse out;
  csn_buf queue;              /* events from queue_off on are unsent */
  size_t queue_off, last_off; /* last_off: where the last event starts, for telling repetitions */
  bool ending;
  bool told_lost;   /* that events were lost, until there is room again */
  uint64_t changes; /* counting: so far */
  int64_t asked_ms;
  asker *askers; /* counting: requests that wait for the scan */
  size_t asker_count;
  watch *next;
};

static watch *watches;
static unsigned last_id;
static int64_t begun_ms; /* tells versions of an earlier server from those of this one */

static const char *const kind_names[] = {"create", "modify", "delete", "move_from", "move_to", "attrib"};

/* ---- life ---- */

static void free_globs(char *const *globs) {
  if (globs == NULL) return;
  for (char *const *g = globs; *g != NULL; g++)
    free(*g);
  free((void *)(uintptr_t)globs);
}

static void free_watch(watch *w) {
  for (watch **at = &watches; *at != NULL; at = &(*at)->next) {
    if (*at != w) continue;
    *at = w->next;
    break;
  }
  free((void *)(uintptr_t)w->filter.root);
  free((void *)(uintptr_t)w->filter.only);
  free_globs(w->filter.include);
  free_globs(w->filter.exclude);
  free(w->shown);
  free(w->key);
  free(w->askers);
  csn_buf_free(&w->queue);
  free(w);
  watch_tree_trim();
}

bool watch_any_covers(const char *dir) {
  for (const watch *w = watches; w != NULL; w = w->next)
    if (watch_covers(&w->filter, dir)) return true;
  return false;
}

/* ---- the stream ---- */

static void on_more(void *arg) {
  watch *w = arg;
  if (w->out.busy) return;
  size_t left = w->queue.len - w->queue_off;
  if (left == 0 && w->ending) {
    sse_end(&w->out);
    free_watch(w);
    return;
  }
  if (left == 0) return;
  /* Whole events only: the next boundary behind PIECE_BYTES. */
  const char *at = w->queue.p + w->queue_off;
  size_t n = left;
  if (left > PIECE_BYTES) {
    const char *end = memmem(at + PIECE_BYTES, left - PIECE_BYTES, "\n\n", 2);
    if (end != NULL) n = (size_t)(end - at) + 2;
  }
  csn_buf b = {0};
  csn_buf_add(&b, at, n);
  w->queue_off += n;
  if (w->queue_off == w->queue.len) {
    csn_buf_free(&w->queue);
    w->queue_off = w->last_off = 0;
  } else if (w->queue_off > QUEUE_BYTES) {
    /* A client that is never quite up to date must not make it longer and longer. */
    w->queue.len -= w->queue_off;
    memmove(w->queue.p, w->queue.p + w->queue_off, w->queue.len);
    w->last_off -= w->queue_off;
    w->queue_off = 0;
  }
  sse_send(&w->out, &b);
}

static void on_gone(void *arg) {
  free_watch(arg);
}

static void add_event(watch *w, csn_buf *json) {
  if (w->queue.len - w->queue_off + json->len > QUEUE_BYTES + NOTICE_BYTES) return;
  w->last_off = w->queue.len;
  csn_buf_str(&w->queue, "data: ");
  csn_buf_add(&w->queue, json->p, json->len);
  csn_buf_str(&w->queue, "\n\n");
}

static void say(watch *w, const char *type, const char *field, const char *text) {
  csn_buf b = {0};
  csn_buf_fmt(&b, "{\"type\":\"%s\",\"%s\":", type, field);
  csn_json_cstr(&b, text);
  csn_buf_str(&b, "}");
  add_event(w, &b);
  csn_buf_free(&b);
}

static const char lost_text[] = "Too many changes at once: some were not seen; list the directory again";

void watch_lost(void) {
  for (watch *w = watches; w != NULL; w = w->next) {
    w->id = ++last_id; /* every version given so far is void */
    if (w->out.req == NULL || !w->scanned || w->ending) continue;
    say(w, "error", "error", lost_text);
    on_more(w);
  }
}

void watch_event(watch_kind kind, const char *path, bool is_directory) {
  for (watch *w = watches, *next; w != NULL; w = next) {
    next = w->next;
    if (w->ending || !watch_matches(&w->filter, path)) continue;
    w->changes++;
    if (w->out.req == NULL || !w->scanned) continue;
    csn_buf b = {0};
    csn_buf_fmt(&b, "{\"type\":\"event\",\"eventType\":\"%s\",\"path\":", kind_names[kind]);
    csn_buf shown = {0};
    csn_buf_str(&shown, strcmp(w->shown, "/") == 0 ? "" : w->shown);
    if (w->filter.only == NULL) csn_buf_str(&shown, path + strlen(w->filter.root));
    csn_json_str(&b, shown.p, shown.len);
    csn_buf_free(&shown);
    csn_buf_fmt(&b, ",\"isDirectory\":%s,", is_directory ? "true" : "false");
    size_t same_len = b.len;
    /* Many writes to one file while the client is busy are one change. */
    bool again = kind == WATCH_MODIFY && w->queue.len > w->queue_off && w->last_off >= w->queue_off &&
                 w->queue.len - w->last_off > same_len + 6 &&
                 memcmp(w->queue.p + w->last_off + 6, b.p, same_len) == 0;
    bool full = w->queue.len - w->queue_off > QUEUE_BYTES;
    if (!again && !full) {
      add_timestamp(&b);
      csn_buf_str(&b, "}");
      add_event(w, &b);
    } else if (full && !w->told_lost) {
      say(w, "error", "error", lost_text);
    }
    w->told_lost = full;
    csn_buf_free(&b);
    on_more(w);
  }
}

static void stop(watch *w, const char *reason) {
  if (w->ending) return;
  say(w, "stopped", "reason", reason);
  w->ending = true;
  on_more(w);
}

static void refuse_path(exchange *x, const char *path, int err) {
  csn_buf ctx = {0};
  csn_buf_str(&ctx, "{\"path\":");
  csn_json_cstr(&ctx, path);
  csn_buf_str(&ctx, "}");
  if (err == EACCES)
    reply_error(x, "PERMISSION_DENIED", csn_buf_cstr(&ctx), "Only paths in %s can be watched, not %s",
                WATCH_ROOT, path);
  else if (err == ENOENT)
    reply_error(x, "FILE_NOT_FOUND", csn_buf_cstr(&ctx), "File not found: %s", path);
  else
    reply_error(x, "FILESYSTEM_ERROR", csn_buf_cstr(&ctx), "Cannot watch %s: %s", path, strerror(err));
  csn_buf_free(&ctx);
}

void watch_root_gone(const char *dir) {
  for (watch *w = watches, *next; w != NULL; w = next) {
    next = w->next;
    if (!watch_within(dir, w->filter.root)) continue;
    if (w->out.req != NULL) {
      stop(w, "The watched directory was deleted or moved");
      continue;
    }
    for (size_t i = 0; i < w->asker_count; i++)
      refuse_path(w->askers[i].x, w->shown, ENOENT);
    free_watch(w); /* the next check finds no state and says so */
  }
}

/* ---- change states ---- */

static void answer_check(watch *w, exchange *x, const char *status, const char *reason) {
  csn_buf b = {0};
  csn_buf_fmt(&b, "{\"success\":true,\"status\":\"%s\",", status);
  if (reason != NULL) csn_buf_fmt(&b, "\"reason\":\"%s\",", reason);
  csn_buf_fmt(&b, "\"version\":\"watch-%u-%lld:%llu\",", w->id, (long long)begun_ms,
              (unsigned long long)w->changes);
  reply_stamped(x, &b);
}

static void forget_idle(void) {
  for (watch *w = watches, *next; w != NULL; w = next) {
    next = w->next;
    if (w->key != NULL && w->asker_count == 0 && csn_now_ms() - w->asked_ms > IDLE_MS) free_watch(w);
  }
}

/* ---- requests ---- */

static void scan_failed(watch *w, exchange *x, int err) {
  csn_buf ctx = {0};
  csn_buf_str(&ctx, "{\"path\":");
  csn_json_cstr(&ctx, w->shown);
  csn_buf_str(&ctx, "}");
  reply_error(x, "WATCH_START_ERROR", csn_buf_cstr(&ctx),
              err == ENOSPC
                  ? "Cannot watch %s: too many directories for inotify (fs.inotify.max_user_watches, at most "
                    "65536 here); exclude some"
              : err == EMFILE ? "Cannot watch %s: no inotify instance is free (fs.inotify.max_user_instances)"
                              : "Cannot watch %s: inotify is not available",
              w->shown);
  csn_buf_free(&ctx);
}

void watch_scanned(unsigned id, int err) {
  watch *w = watches;
  while (w != NULL && w->scan_id != id)
    w = w->next;
  if (w == NULL) return;
  w->scanned = true;
  if (access(w->filter.root, F_OK) != 0) { /* before it could be watched */
    watch_root_gone(w->filter.root);
    return;
  }
  if (w->out.req != NULL) {
    if (err != 0) {
      say(w, "error", "error",
          "Too many directories for inotify (fs.inotify.max_user_watches, at most 65536 here); "
          "exclude some");
      w->ending = true;
    } else {
      csn_buf b = {0};
      csn_buf_str(&b, "{\"type\":\"watching\",\"path\":");
      csn_json_cstr(&b, w->shown);
      csn_buf_fmt(&b, ",\"watchId\":\"watch-%u\"}", w->id);
      add_event(w, &b);
      csn_buf_free(&b);
    }
    on_more(w);
    return;
  }
  w->changes = 0;
  for (size_t i = 0; i < w->asker_count; i++) {
    const asker *a = &w->askers[i];
    if (err != 0)
      scan_failed(w, a->x, err);
    else
      answer_check(w, a->x, a->resync == NULL ? "unchanged" : "resync", a->resync);
  }
  w->asker_count = 0;
  if (err != 0) free_watch(w);
}

/* A list of globs; an empty one when absent. NULL, and the error sent, when it is none. */
static char **read_globs(call *c, const char *name) {
  const cJSON *list = cJSON_GetObjectItemCaseSensitive(c->body, name), *v;
  int count = cJSON_GetArraySize(list);
  const char *wrong = list != NULL && !cJSON_IsNull(list) && !cJSON_IsArray(list) ? "must be a list of globs"
                      : count > (int)WATCH_GLOBS_MAX                              ? "has too many globs"
                                                                                  : NULL;
  cJSON_ArrayForEach(v, list) {
    if (!cJSON_IsString(v) || !watch_glob_ok(v->valuestring))
      wrong = "must be globs with no special characters but * and ?";
  }
  if (wrong != NULL) {
    reply_invalid(c->req, name, wrong);
    return NULL;
  }
  char **globs = calloc((size_t)count + 1, sizeof *globs);
  if (globs == NULL) abort();
  size_t n = 0;
  cJSON_ArrayForEach(v, list) {
    globs[n] = strdup(v->valuestring);
    if (globs[n++] == NULL) abort();
  }
  return globs;
}

static char **default_excludes(void) {
  static const char *const names[] = {".git", "node_modules", ".DS_Store"};
  char **globs = calloc(4, sizeof *globs);
  if (globs == NULL) abort();
  for (size_t i = 0; i < 3; i++)
    if ((globs[i] = strdup(names[i])) == NULL) abort();
  return globs;
}

/* Fills in where the watch looks; false, and the error sent, when it must not. */
static bool resolve_root(call *c, watch *w) {
  char path[PATH_MAX], real[PATH_MAX];
  struct stat st;
  const char *asked = body_text(c, "path");
  if (!watch_normalize(WATCH_ROOT, asked, path, sizeof path)) {
    reply_invalid(c->req, "path", "is too long");
    return false;
  }
  int err = !watch_within(WATCH_ROOT, path)                        ? EACCES
            : realpath(path, real) == NULL || stat(real, &st) != 0 ? errno
            : !watch_within(WATCH_ROOT, real)                      ? EACCES /* a symbolic link leads out */
                                                                   : 0;
  if (err != 0) {
    refuse_path(c->req, path, err);
    return false;
  }
  w->shown = strdup(path);
  if (!S_ISDIR(st.st_mode)) {
    /* A file is watched through its directory: editors replace files. */
    char *slash = strrchr(real, '/');
    w->filter.only = strdup(slash + 1);
    *slash = '\0';
  }
  w->filter.root = strdup(real);
  if (w->shown == NULL || w->filter.root == NULL) abort();
  return true;
}

/* The watch that a request describes, not yet started. NULL, and the error sent, when it is wrong. */
static watch *read_watch(call *c) {
  if (!ok_text(c, "path", true, GUEST_PATH_MAX) || !ok_text(c, "sessionId", false, GUEST_ID_MAX)) return NULL;
  if (*body_text(c, "path") == '\0') {
    reply_invalid(c->req, "path", "must not be empty");
    return NULL;
  }
  const cJSON *recursive = cJSON_GetObjectItemCaseSensitive(c->body, "recursive");
  if (recursive != NULL && !cJSON_IsBool(recursive) && !cJSON_IsNull(recursive)) {
    reply_invalid(c->req, "recursive", "must be true or false");
    return NULL;
  }
  char **include = read_globs(c, "include");
  char **exclude = include == NULL ? NULL : read_globs(c, "exclude");
  if (exclude == NULL) {
    free_globs(include);
    return NULL;
  }
  if (include[0] != NULL && exclude[0] != NULL) {
    free_globs(include);
    free_globs(exclude);
    reply_invalid(c->req, "include", "cannot be used together with exclude");
    return NULL;
  }
  const cJSON *given = cJSON_GetObjectItemCaseSensitive(c->body, "exclude");
  if (include[0] == NULL && !cJSON_IsArray(given)) {
    free_globs(exclude);
    exclude = default_excludes();
  }
  watch *w = calloc(1, sizeof *w);
  if (w == NULL) abort();
  w->filter.include = include;
  w->filter.exclude = exclude;
  w->filter.recursive = !cJSON_IsFalse(recursive);
  if (resolve_root(c, w)) return w;
  free_watch(w);
  return NULL;
}

static bool too_many(call *c) {
  forget_idle();
  size_t count = 0;
  for (const watch *w = watches; w != NULL; w = w->next)
    count++;
  if (count < WATCH_MAX) return false;
  reply_error(c->req, "WATCH_START_ERROR", NULL, "There are %u watches already; end one first", WATCH_MAX);
  return true;
}

/* Lists the watch and has its directories read. False, with x answered and w freed, when that cannot be. */
static bool start(watch *w, exchange *x) {
  if (begun_ms == 0) begun_ms = csn_wall_ms();
  w->id = w->scan_id = ++last_id;
  w->next = watches;
  watches = w;
  if (watch_tree_scan(w->filter.root, w->scan_id)) return true;
  scan_failed(w, x, errno);
  free_watch(w);
  return false;
}

static void post_watch(call *c) {
  if (too_many(c)) return;
  watch *w = read_watch(c);
  if (w == NULL || !start(w, c->req)) return;
  w->out = (sse){.more = on_more, .gone = on_gone, .arg = w};
  if (!sse_start(&w->out, c->req)) free_watch(w);
}

static char *describe(const watch *w) {
  csn_buf b = {0};
  csn_json_cstr(&b, w->shown);
  csn_buf_str(&b, w->filter.recursive ? "r" : "-");
  for (char *const *g = w->filter.include; *g != NULL; g++)
    csn_json_cstr(&b, *g);
  csn_buf_str(&b, "|");
  for (char *const *g = w->filter.exclude; *g != NULL; g++)
    csn_json_cstr(&b, *g);
  return csn_buf_cstr(&b);
}

typedef struct version {
  unsigned id;
  long long begun_ms;
  unsigned long long changes;
} version;

/* False, and the error sent, when `since` is no version. */
static bool read_version(call *c, version *v) {
  const char *text = body_text(c, "since");
  int end = 0;
  *v = (version){0};
  if (text == NULL) return true;
  if (sscanf(text, "watch-%9u-%18lld:%18llu%n", &v->id, &v->begun_ms, &v->changes, &end) == 3 &&
      text[end] == '\0')
    return true;
  reply_invalid(c->req, "since", "is not a version that a check returned");
  return false;
}

static void post_check(call *c) {
  version since;
  if (!ok_text(c, "since", false, 128) || !read_version(c, &since)) return;
  watch *asked = read_watch(c);
  if (asked == NULL) return;
  char *key = describe(asked);
  watch *w = watches;
  while (w != NULL && (w->key == NULL || strcmp(w->key, key) != 0))
    w = w->next;
  bool known = body_text(c, "since") != NULL;
  if (w == NULL) {
    if (too_many(c)) {
      free_watch(asked);
      free(key);
      return;
    }
    w = asked;
    w->key = key;
    if (!start(w, c->req)) return;
  } else {
    free_watch(asked); /* it is not in the list */
    free(key);
  }
  w->asked_ms = csn_now_ms();
  bool stale = known && (since.id != w->id || since.begun_ms != begun_ms || since.changes > w->changes);
  const char *reason = !stale ? NULL : since.begun_ms == begun_ms ? "expired" : "restarted";
  if (!w->scanned) {
    asker *more = realloc(w->askers, (w->asker_count + 1) * sizeof(*more));
    if (more == NULL) abort();
    w->askers = more;
    w->askers[w->asker_count++] = (asker){c->req, reason};
  } else if (stale) {
    answer_check(w, c->req, "resync", reason);
  } else {
    answer_check(w, c->req, known && since.changes != w->changes ? "changed" : "unchanged", NULL);
  }
}

const route watch_routes[] = {
    {METHOD_POST, "/api/watch", post_watch},
    {METHOD_POST, "/api/watch/check", post_check},
    {0, NULL, NULL},
};
