/* guest/write_file.c - /api/write: a file's new content, taken as it arrives.
 *
 * The content goes into a file beside the one that is written and takes its place when it is whole: a client
 * that goes away, a full disk or bad base64 costs nothing that was there. What cannot be replaced (a device,
 * a file with other names, a directory that is not ours to write) is written in place, from a copy that is
 * complete. The SDK names the encoding behind the content, so what may be base64 is decoded on trial: whole
 * groups of four digits can be turned back into exactly the same text. */
#define _GNU_SOURCE
#include "files.h"
#include "jsonin.h"
#include "watch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HOLD_BYTES   (256u * 1024) /* of content in memory before it goes to the disk */
#define ENCODING_MAX 16u
#define LINKS_MAX    40 /* symbolic links that are followed, one after another */

typedef enum form { FORM_TRIAL, FORM_BASE64, FORM_TEXT } form;

/* A short text member of the request. */
typedef struct member {
  csn_buf text;
  bool seen, other; /* other: it is there, but no string; null counts as absent */
  bool too_long;
} member;

typedef struct writer {
  exchange *x;
  jsonin in;
  member path, session, encoding;
  bool content_seen, content_other, twice, bad_base64;
  form form;
  csn_b64_in b64;
  csn_buf hold;
  int fd;                        /* what has left `hold`, -1 while nothing has */
  char temp[FILE_PATH_CAP + 32]; /* name of fd, "" when it has none */
  bool existed;
  char target[FILE_PATH_CAP]; /* what temp is to replace */
  int err;
} writer;

/* ---- where the content goes ---- */

/* Follows the symbolic links that `path` names, so that the file behind them is written and they stay. */
static bool follow_links(char path[FILE_PATH_CAP]) {
  for (int i = 0; i < LINKS_MAX; i++) {
    char to[GUEST_PATH_MAX + 1], next[FILE_PATH_CAP];
    ssize_t n = readlink(path, to, sizeof to - 1);
    if (n < 0) return true; /* not a link, or not there yet */
    to[n] = '\0';
    const char *slash = strrchr(path, '/');
    int len = *to == '/' ? snprintf(next, sizeof next, "%s", to)
                         : snprintf(next, sizeof next, "%.*s/%s", (int)(slash - path), path, to);
    if (len < 0 || (size_t)len >= sizeof next) break;
    memcpy(path, next, (size_t)len + 1);
  }
  errno = ELOOP;
  return false;
}

static int make_parent(const char *path) {
  char parent[FILE_PATH_CAP];
  snprintf(parent, sizeof parent, "%s", path);
  char *slash = strrchr(parent, '/');
  if (slash == NULL || slash == parent) return 0;
  *slash = '\0';
  return file_make_directories(parent, 0755);
}

/* Opens a file beside the target that is to take its place. False with errno when that is not how it can be
 * written; *in_place tells that there is another way. */
static bool open_beside(writer *w, const char *path, bool *in_place) {
  struct stat st;
  *in_place = false;
  snprintf(w->target, sizeof w->target, "%s", path);
  if (!follow_links(w->target)) return false;
  bool exists = stat(w->target, &st) == 0;
  if (!exists && errno != ENOENT) return false;
  if (exists && S_ISDIR(st.st_mode)) {
    errno = EISDIR;
    return false;
  }
  /* Who may not write the file must not replace it. */
  if (exists && access(w->target, W_OK) != 0) return false;
  *in_place = w->existed = exists;
  if (exists && (!S_ISREG(st.st_mode) || st.st_nlink > 1)) return false;
  const char *slash = strrchr(w->target, '/');
  int err = 0;
  for (int tries = 0; tries < 2; tries++) {
    snprintf(w->temp, sizeof w->temp, "%.*s/" FILE_TEMP_PREFIX "XXXXXX", (int)(slash - w->target), w->target);
    w->fd = mkostemp(w->temp, O_CLOEXEC);
    err = errno;
    if (w->fd >= 0 || err != ENOENT || make_parent(w->target) != 0) break;
  }
  if (w->fd < 0) {
    w->temp[0] = '\0';
    errno = err;
    return false;
  }
  fchmod(w->fd, exists ? st.st_mode & 07777 : 0644);
  if (exists && (st.st_uid != geteuid() || st.st_gid != getegid()))
    (void)!fchown(w->fd, st.st_uid, st.st_gid);
  return true;
}

/* A file without a name, for content whose place is not known yet. */
static int open_spool(void) {
  int fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0) return fd;
  char path[] = "/var/tmp/" FILE_TEMP_PREFIX "XXXXXX";
  fd = mkostemp(path, O_CLOEXEC);
  if (fd >= 0) unlink(path);
  return fd;
}

/* The path as far as it is known: true when it is final. */
static bool known_path(const writer *w, char out[FILE_PATH_CAP]) {
  if (!w->path.seen || w->path.other || w->path.too_long || w->path.text.len == 0) return false;
  const char *path = w->path.text.p;
  if (memchr(path, 0, w->path.text.len) != NULL) return false;
  if (*path != '/' && !w->session.seen) return false;
  return file_resolve(path, w->session.seen ? w->session.text.p : NULL, out);
}

static void open_output(writer *w) {
  char path[FILE_PATH_CAP];
  bool in_place;
  if (known_path(w, path) && open_beside(w, path, &in_place)) return;
  w->fd = open_spool();
  if (w->fd < 0) w->err = errno;
}

static int write_all(int fd, const char *data, size_t len) {
  for (size_t off = 0; off < len;) {
    ssize_t n = write(fd, data + off, len - off);
    if (n >= 0)
      off += (size_t)n;
    else if (errno != EINTR)
      return errno;
  }
  return 0;
}

static void flush_hold(writer *w) {
  if (w->fd < 0 && w->err == 0) open_output(w);
  if (w->err == 0) w->err = write_all(w->fd, w->hold.p, w->hold.len);
  w->hold.len = 0;
}

/* ---- the content ---- */

/* Calls write for all of a file, in steps that base64 can encode one by one. */
static int copy_out(int from, int to, bool encode) {
  static char room[192 * 1024];
  if (lseek(from, 0, SEEK_SET) < 0) return errno;
  csn_buf b = {0};
  int err = 0;
  for (size_t have = 0;;) {
    ssize_t n = read(from, room + have, sizeof room - have);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) err = errno;
    if (n > 0) have += (size_t)n;
    if (n > 0 && have < sizeof room) continue;
    if (err == 0 && have > 0) {
      if (encode) csn_b64_encode(&b, room, have);
      err = encode ? write_all(to, b.p, b.len) : write_all(to, room, have);
      b.len = 0;
    }
    have = 0;
    if (n <= 0 || err != 0) break;
  }
  csn_buf_free(&b);
  return err;
}

/* What was decoded on trial is text after all: back into its digits. */
static void become_text(writer *w) {
  w->form = FORM_TEXT;
  if (w->fd >= 0 && w->err == 0) {
    flush_hold(w);
    int from = w->fd;
    char old[sizeof w->temp];
    memcpy(old, w->temp, sizeof old);
    w->fd = -1;
    w->temp[0] = '\0';
    open_output(w);
    if (w->err == 0) w->err = copy_out(from, w->fd, true);
    close(from);
    if (*old != '\0') unlink(old);
  }
  csn_buf text = {0};
  csn_b64_encode(&text, w->hold.p, w->hold.len);
  csn_buf_add(&text, w->b64.held, w->b64.held_len);
  csn_buf_free(&w->hold);
  w->hold = text;
}

static void take_content(writer *w, const char *piece, size_t len) {
  if (w->form != FORM_TEXT && !w->bad_base64) {
    size_t used = csn_b64_push(&w->b64, &w->hold, piece, len);
    if (used < len && w->form == FORM_BASE64) w->bad_base64 = true;
    if (used < len && w->form == FORM_TRIAL) become_text(w);
    piece += used;
    len -= used;
  }
  if (w->form == FORM_TEXT) csn_buf_add(&w->hold, piece, len);
  if (w->hold.len >= HOLD_BYTES) flush_hold(w);
}

/* ---- the request ---- */

static member *member_of(writer *w, const char *key) {
  return strcmp(key, "path") == 0        ? &w->path
         : strcmp(key, "sessionId") == 0 ? &w->session
         : strcmp(key, "encoding") == 0  ? &w->encoding
                                         : NULL;
}

static bool is_encoding(const writer *w, const char *name) {
  return w->encoding.seen && strcmp(w->encoding.text.p, name) == 0;
}

static void on_text(void *arg, const char *key, const char *piece, size_t len, bool last) {
  writer *w = arg;
  if (strcmp(key, "content") == 0) {
    if (!w->content_seen && len > 0 && w->encoding.seen)
      w->form = is_encoding(w, "base64") ? FORM_BASE64 : FORM_TEXT;
    if (w->twice || w->content_other) return;
    take_content(w, piece, len);
    if (last && w->content_seen) w->twice = true;
    if (last) w->content_seen = true;
    return;
  }
  member *m = member_of(w, key);
  if (m == NULL) return;
  size_t max = m == &w->path ? GUEST_PATH_MAX : m == &w->session ? GUEST_ID_MAX : ENCODING_MAX;
  if (m->seen) w->twice = true;
  if (w->twice || m->too_long || len > max - m->text.len) {
    m->too_long = true;
    return;
  }
  csn_buf_add(&m->text, piece, len);
  if (!last) return;
  csn_buf_cstr(&m->text);
  m->seen = true;
}

static void on_other(void *arg, const char *key, uint64_t from, uint64_t to) {
  writer *w = arg;
  (void)from;
  (void)to;
  member *m = member_of(w, key);
  if (m != NULL) m->other = true;
  if (strcmp(key, "content") == 0) w->content_other = true;
}

static void *begin(exchange *x) {
  writer *w = calloc(1, sizeof *w);
  if (w == NULL) abort();
  w->x = x;
  w->fd = -1;
  w->in = (jsonin){.text = on_text, .other = on_other, .arg = w};
  jsonin_init(&w->in);
  return w;
}

static void take(void *arg, const char *bytes, size_t len) {
  writer *w = arg;
  jsonin_push(&w->in, bytes, len);
}

static void drop(void *arg) {
  writer *w = arg;
  if (w->fd >= 0) close(w->fd);
  if (w->temp[0] != '\0') unlink(w->temp);
  csn_buf_free(&w->path.text);
  csn_buf_free(&w->session.text);
  csn_buf_free(&w->encoding.text);
  csn_buf_free(&w->hold);
  free(w);
}

/* The field that is wrong, and why; NULL when the request is good. */
static const char *complaint(const writer *w, const char **why) {
  const struct {
    const char *name;
    const member *m;
    bool required;
  } members[] = {
      {"path", &w->path, true}, {"sessionId", &w->session, false}, {"encoding", &w->encoding, false}};
  for (size_t i = 0; i < 3; i++) {
    const member *m = members[i].m;
    *why = w->twice                                               ? "is given twice"
           : m->too_long                                          ? "is too long"
           : m->seen && memchr(m->text.p, 0, m->text.len) != NULL ? "must not contain the character U+0000"
           : !m->seen && members[i].required ? (m->other ? "must be a string" : "is required")
           : m->seen && members[i].required && m->text.len == 0 ? "must not be empty"
                                                                : NULL;
    if (*why != NULL) return w->twice ? "body" : members[i].name;
  }
  *why = w->content_other   ? "must be a string"
         : !w->content_seen ? "is required"
         : w->bad_base64    ? "is not valid base64"
                            : NULL;
  if (*why != NULL) return "content";
  *why = "must be utf-8 or base64";
  bool known =
      !w->encoding.seen || is_encoding(w, "base64") || is_encoding(w, "utf-8") || is_encoding(w, "utf8");
  return known ? NULL : "encoding";
}

/* The content is whole: decodes or encodes what is left to. False when it is no base64 but should be. */
static bool finish_content(writer *w) {
  bool base64 = is_encoding(w, "base64");
  if (base64 && w->form == FORM_TEXT) return w->bad_base64 = true, false;
  if (!base64 && w->form != FORM_TEXT) become_text(w);
  return !base64 || csn_b64_end(&w->b64, &w->hold);
}

/* Writes what is in hold and in the file w->fd over the target as it stands. */
static int write_in_place(writer *w) {
  /* O_NONBLOCK: a FIFO without a reader must not stop the server. */
  int to = open(w->target, O_WRONLY | O_TRUNC | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (to < 0) return errno;
  int err = w->fd < 0 ? 0 : copy_out(w->fd, to, false);
  if (err == 0) err = write_all(to, w->hold.p, w->hold.len);
  if (close(to) != 0 && err == 0) err = errno;
  return err;
}

/* 0 or errno. */
static int commit(writer *w, const char *path) {
  if (w->err != 0) return w->err;
  bool in_place = false;
  if (w->temp[0] == '\0') {
    int spool = w->fd;
    w->fd = -1;
    bool beside = open_beside(w, path, &in_place);
    int err = beside ? 0 : errno;
    if (!beside) {
      w->fd = spool;
      return in_place ? write_in_place(w) : err;
    }
    if (spool >= 0) {
      w->err = copy_out(spool, w->fd, false);
      close(spool);
      if (w->err != 0) return w->err;
    }
  }
  int err = write_all(w->fd, w->hold.p, w->hold.len);
  if (close(w->fd) != 0 && err == 0) err = errno;
  w->fd = -1;
  if (err == 0 && rename(w->temp, w->target) != 0) err = errno;
  if (err != 0) return err;
  w->temp[0] = '\0';
  watch_tree_replaced(w->target, w->existed);
  return 0;
}

static void end(void *arg) {
  writer *w = arg;
  exchange *x = w->x;
  const char *why;
  char path[FILE_PATH_CAP];
  if (!jsonin_end(&w->in)) {
    reply_error(x, "INTERNAL_ERROR", "{\"stack\":\"\"}", "Failed to parse request body: not a JSON object");
    drop(w);
    return;
  }
  const char *field = complaint(w, &why);
  if (field == NULL && !finish_content(w)) {
    field = "content";
    why = "is not valid base64";
  }
  if (field != NULL) {
    reply_invalid(x, field, why);
  } else if (!file_resolve(w->path.text.p, w->session.seen ? w->session.text.p : NULL, path)) {
    reply_invalid(x, "path", "is too long");
  } else {
    int err = commit(w, path);
    if (err != 0) {
      file_error(x, path, "file.write", err);
    } else {
      csn_buf b = {0};
      csn_buf_str(&b, "{\"success\":true,\"path\":");
      csn_json_cstr(&b, path);
      csn_buf_str(&b, ",");
      reply_stamped(x, &b);
    }
  }
  drop(w);
}

const sink_route sink_routes[] = {
    {METHOD_POST, "/api/write", begin, take, end, drop},
    {0, NULL, NULL, NULL, NULL, NULL},
};
