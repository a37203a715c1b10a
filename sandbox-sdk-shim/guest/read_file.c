/* guest/read_file.c - /api/read and /api/read/stream, and what kind of file it is. */
#define _GNU_SOURCE
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK_BYTES  65535u /* raw bytes of one chunk event, as the real server sends */
#define BURST_CHUNKS 4      /* chunk events of one write */

static const struct {
  const char *extension, *mime;
  bool binary;
} mime_types[] = {
    {"txt", "text/plain", false},       {"md", "text/markdown", false},
    {"html", "text/html", false},       {"htm", "text/html", false},
    {"css", "text/css", false},         {"csv", "text/csv", false},
    {"js", "text/javascript", false},   {"mjs", "text/javascript", false},
    {"ts", "text/plain", false},        {"json", "application/json", false},
    {"xml", "application/xml", false},  {"yaml", "application/yaml", false},
    {"yml", "application/yaml", false}, {"toml", "application/toml", false},
    {"py", "text/x-python", false},     {"sh", "text/x-shellscript", false},
    {"c", "text/x-c", false},           {"h", "text/x-c", false},
    {"svg", "image/svg+xml", false},    {"png", "image/png", true},
    {"jpg", "image/jpeg", true},        {"jpeg", "image/jpeg", true},
    {"gif", "image/gif", true},         {"webp", "image/webp", true},
    {"ico", "image/x-icon", true},      {"pdf", "application/pdf", true},
    {"zip", "application/zip", true},   {"gz", "application/gzip", true},
    {"tar", "application/x-tar", true}, {"wasm", "application/wasm", true},
    {"mp3", "audio/mpeg", true},        {"mp4", "video/mp4", true},
    {"woff2", "font/woff2", true},      {"sqsh", "application/octet-stream", true},
};

/* The first bytes of formats that come without an extension as often as with one. */
static const struct {
  const char *magic;
  size_t len;
  const char *mime;
} signatures[] = {
    {"\x89PNG\r\n\x1a\n", 8, "image/png"},
    {"\xff\xd8\xff", 3, "image/jpeg"},
    {"GIF8", 4, "image/gif"},
    {"%PDF-", 5, "application/pdf"},
    {"PK\x03\x04", 4, "application/zip"},
    {"\x1f\x8b", 2, "application/gzip"},
    {"\0asm", 4, "application/wasm"},
    {"\x7f"
     "ELF",
     4, "application/x-executable"},
    {"hsqs", 4, "application/octet-stream"},
};

/* By extension first, else by the first bytes. A text extension on bytes that are not
 * text is not believed: the bytes would not survive the trip as text. */
static const char *kind_of(const char *path, const char *head, size_t len, bool *binary) {
  size_t cut = csn_utf8_cut(head, len);
  bool text = len == 0 || (csn_utf8_valid(head, cut) && memchr(head, 0, len) == NULL);
  const char *dot = strrchr(path, '.');
  if (dot != NULL && strchr(dot, '/') == NULL) {
    for (size_t i = 0; i < sizeof mime_types / sizeof mime_types[0]; i++) {
      if (strcasecmp(dot + 1, mime_types[i].extension) != 0) continue;
      *binary = mime_types[i].binary || !text;
      return mime_types[i].mime;
    }
  }
  *binary = !text;
  for (size_t i = 0; i < sizeof signatures / sizeof signatures[0]; i++) {
    if (len < signatures[i].len || memcmp(head, signatures[i].magic, signatures[i].len) != 0) continue;
    *binary = true;
    return signatures[i].mime;
  }
  return len == 0 ? "inode/x-empty" : text ? "text/plain" : "application/octet-stream";
}

/* A regular file's descriptor, or -1 with errno. */
static int open_regular(const char *path, struct stat *st) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return -1;
  /* A device has no end and a pipe may never have a writer: neither is read on a caller's word. */
  int err = fstat(fd, st) != 0 ? errno : S_ISREG(st->st_mode) ? 0 : ENOENT;
  if (err != 0) {
    close(fd);
    errno = err; /* the real server reports a directory as not found */
    return -1;
  }
  return fd;
}

/* Less than `want` is the end of the file, or *err tells why not. */
static size_t read_up_to(int fd, char *room, size_t want, int *err) {
  size_t got = 0;
  while (got < want) {
    ssize_t n = read(fd, room + got, want - got);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) *err = errno;
    if (n <= 0) break;
    got += (size_t)n;
  }
  return got;
}

void file_post_read(call *c) {
  char path[FILE_PATH_CAP];
  struct stat st;
  if (!file_path(c, "path", path) || !ok_text(c, "encoding", false, 16)) return;
  const char *encoding = body_text(c, "encoding");
  bool want_base64 = encoding != NULL && strcmp(encoding, "base64") == 0;
  bool want_text = encoding != NULL && (strcmp(encoding, "utf-8") == 0 || strcmp(encoding, "utf8") == 0);
  if (encoding != NULL && !want_base64 && !want_text) {
    reply_invalid(c->req, "encoding", "must be utf-8 or base64");
    return;
  }
  int fd = open_regular(path, &st);
  if (fd < 0) {
    file_error(c->req, path, "file.read", errno);
    return;
  }
  if (st.st_size > (off_t)GUEST_FILE_MAX) {
    close(fd);
    file_error(c->req, path, "file.read", EFBIG);
    return;
  }
  csn_buf data = {0};
  int err = 0;
  /* Files of /proc say size 0: read to the end, with room for one more than the limit. */
  for (size_t n = 1; n > 0 && data.len <= GUEST_FILE_MAX;) {
    size_t step = st.st_size > 0 && data.len == 0 ? (size_t)st.st_size + 1 : 65536;
    n = read_up_to(fd, csn_buf_room(&data, step), step, &err);
    data.len += n;
    if (n < step) break;
  }
  close(fd);
  if (data.len > GUEST_FILE_MAX) err = EFBIG;
  if (err != 0) {
    csn_buf_free(&data);
    file_error(c->req, path, "file.read", err);
    return;
  }
  bool binary;
  const char *mime = kind_of(path, data.p, data.len, &binary);
  if (encoding != NULL) binary = want_base64;
  csn_buf b = {0};
  csn_buf_str(&b, "{\"success\":true,\"path\":");
  csn_json_cstr(&b, path);
  csn_buf_str(&b, ",\"content\":\"");
  if (binary)
    csn_b64_encode(&b, data.p, data.len);
  else
    csn_json_raw(&b, data.p, data.len);
  csn_buf_fmt(&b, "\",\"encoding\":\"%s\",\"isBinary\":%s,\"mimeType\":\"%s\",\"size\":%zu,",
              binary ? "base64" : "utf-8", binary ? "true" : "false", mime, data.len);
  csn_buf_free(&data);
  reply_stamped(c->req, &b);
}

/* ---- the stream ---- */

typedef struct file_stream {
  sse out;
  int fd;
  bool binary, ending;
  uint64_t sent;
  csn_buf held; /* the start of a character whose rest was not read yet */
} file_stream;

static void free_stream(void *arg) {
  file_stream *f = arg;
  if (f->fd >= 0) close(f->fd);
  csn_buf_free(&f->held);
  free(f);
}

static void send_more(void *arg) {
  file_stream *f = arg;
  if (f->ending) {
    sse_end(&f->out);
    free_stream(f);
    return;
  }
  static char room[CHUNK_BYTES];
  csn_buf b = {0};
  for (int i = 0; i < BURST_CHUNKS && !f->ending; i++) {
    size_t held = f->held.len;
    memcpy(room, held > 0 ? f->held.p : "", held);
    f->held.len = 0;
    int err = 0;
    size_t n = held + read_up_to(f->fd, room + held, sizeof room - held, &err);
    size_t cut = n < sizeof room || f->binary ? n : csn_utf8_cut(room, n);
    if (cut > 0) {
      csn_buf_str(&b, "data: {\"type\":\"chunk\",\"data\":\"");
      if (f->binary)
        csn_b64_encode(&b, room, cut);
      else
        csn_json_raw(&b, room, cut);
      csn_buf_str(&b, "\"}\n\n");
      csn_buf_add(&f->held, room + cut, n - cut);
      f->sent += cut;
    }
    if (err != 0) {
      csn_buf_str(&b, "data: {\"type\":\"error\",\"error\":");
      csn_json_cstr(&b, strerror(err));
      csn_buf_str(&b, "}\n\n");
      f->ending = true;
    } else if (n < sizeof room) {
      csn_buf_fmt(&b, "data: {\"type\":\"complete\",\"bytesRead\":%llu}\n\n", (unsigned long long)f->sent);
      f->ending = true;
    }
  }
  sse_send(&f->out, &b);
}

void file_post_read_stream(call *c) {
  char path[FILE_PATH_CAP];
  struct stat st;
  if (!file_path(c, "path", path)) return;
  file_stream *f = calloc(1, sizeof *f);
  if (f == NULL) abort();
  f->out = (sse){.more = send_more, .gone = free_stream, .arg = f};
  f->fd = open_regular(path, &st);
  int err = errno;
  if (!sse_start(&f->out, c->req)) {
    free_stream(f);
    return;
  }
  csn_buf b = {0};
  if (f->fd < 0) {
    csn_buf text = {0};
    csn_buf_fmt(&text, err == ENOENT ? "File not found: %s" : "Cannot read %s: %s", path, strerror(err));
    csn_buf_str(&b, "data: {\"type\":\"error\",\"error\":");
    csn_json_str(&b, text.p, text.len);
    csn_buf_str(&b, "}\n\n");
    csn_buf_free(&text);
    f->ending = true;
  } else {
    char head[8192];
    ssize_t n = pread(f->fd, head, sizeof head, 0);
    const char *mime = kind_of(path, head, n > 0 ? (size_t)n : 0, &f->binary);
    csn_buf_fmt(
        &b,
        "data: "
        "{\"type\":\"metadata\",\"mimeType\":\"%s\",\"size\":%lld,\"isBinary\":%s,\"encoding\":\"%s\"}\n\n",
        mime, (long long)st.st_size, f->binary ? "true" : "false", f->binary ? "base64" : "utf-8");
  }
  sse_send(&f->out, &b);
}
