/* guest/routes_git.c - /api/git/checkout.
 *
 * The credentials of an address never reach a command line, a file or an answer: git gets the address without
 * them, and asks a credential helper that reads them from an inherited descriptor and answers for that one
 * host only. So .git/config holds the bare address. */
#define _GNU_SOURCE
#include "files.h"
#include "git_url.h"
#include "tool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_TIMEOUT_MS 600000  /* as the SDK's */
#define DEPTH_MAX          2147483 /* commits */

/* What stood at the target before: decides what is removed after a failure. */
enum target_state { TARGET_ABSENT, TARGET_EMPTY, TARGET_OTHER };

typedef struct checkout {
  exchange *req;
  git_url url;
  char *repo; /* the address as asked for, redacted */
  char *target, *branch, *cwd;
  int depth;
  int64_t timeout_ms;
  enum target_state before;
  csn_buf err; /* git's words, redacted */
  int code;
  struct checkout *next;
} checkout;

static checkout *active; /* two clones into one directory would remove each other's files */

static void free_checkout(checkout *k) {
  for (checkout **at = &active; *at != NULL; at = &(*at)->next) {
    if (*at != k) continue;
    *at = k->next;
    break;
  }
  git_url_free(&k->url);
  csn_buf_free(&k->err);
  free(k->repo);
  free(k->target);
  free(k->branch);
  free(k->cwd);
  free(k);
}

static void add_context(csn_buf *ctx, const checkout *k) {
  csn_buf_str(ctx, "{\"repository\":");
  csn_json_cstr(ctx, k->repo);
  csn_buf_str(ctx, ",\"targetDir\":");
  csn_json_cstr(ctx, k->target);
  if (k->branch != NULL) {
    csn_buf_str(ctx, ",\"branch\":");
    csn_json_cstr(ctx, k->branch);
  }
  csn_buf_fmt(ctx, ",\"exitCode\":%d,\"stderr\":", k->code);
  csn_json_str(ctx, k->err.p, k->err.len);
  csn_buf_str(ctx, "}");
}

static void send_failure(checkout *k) {
  csn_buf ctx = {0};
  add_context(&ctx, k);
  const char *said = csn_buf_cstr(&k->err);
  const char *code = git_error_code(k->code, said);
  if (k->code == 124)
    reply_error(k->req, code, csn_buf_cstr(&ctx), "Failed to clone repository '%s': timed out after %lld ms",
                k->repo, (long long)k->timeout_ms);
  else
    reply_error(k->req, code, csn_buf_cstr(&ctx), "Failed to clone repository '%s': %s", k->repo,
                *said == '\0' ? "git ended without a word" : said);
  csn_buf_free(&ctx);
  free_checkout(k);
}

static void on_removed(void *arg, const tool_end *end) {
  (void)end;
  send_failure(arg);
}

/* Takes away what a clone left that failed: a directory that it made, or what it put into an empty one. */
static void clear_target(checkout *k) {
  const char *const whole[] = {"/bin/rm", "-rf", "--", k->target, NULL};
  const char *const inside[] = {"/usr/bin/find", k->target, "-mindepth", "1", "-delete", NULL};
  const tool_spec spec = {
      .argv = k->before == TARGET_ABSENT ? whole : inside, .cwd = "/", .stdin_fd = -1, .extra_fd = -1};
  if (!tool_run(&spec, on_removed, k)) send_failure(k);
}

/* The branch that was checked out, from .git/HEAD; NULL for a detached one (a tag). Caller frees. */
static char *current_branch(const char *target) {
  static const char ref[] = "ref: refs/heads/";
  char path[FILE_PATH_CAP + 16], head[512];
  snprintf(path, sizeof path, "%s/.git/HEAD", target);
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  ssize_t n = fd < 0 ? -1 : read(fd, head, sizeof head - 1);
  if (fd >= 0) close(fd);
  if (n < (ssize_t)sizeof ref) return NULL;
  head[n] = '\0';
  if (strncmp(head, ref, sizeof ref - 1) != 0) return NULL;
  head[strcspn(head, "\n")] = '\0';
  return strdup(head + sizeof ref - 1);
}

static void on_cloned(void *arg, const tool_end *end) {
  checkout *k = arg;
  k->code = end->code;
  git_redact(&k->err, &k->url, end->err->p, end->err->len);
  while (k->err.len > 0 && (k->err.p[k->err.len - 1] == '\n' || k->err.p[k->err.len - 1] == '\r'))
    k->err.len--;
  if (k->code != 0) {
    /* A directory that somebody else filled meanwhile is theirs. */
    bool theirs = strstr(csn_buf_cstr(&k->err), "already exists and is not an empty directory") != NULL;
    struct stat st;
    if (k->before != TARGET_OTHER && !theirs && lstat(k->target, &st) == 0)
      clear_target(k);
    else
      send_failure(k);
    return;
  }
  char *branch = current_branch(k->target);
  csn_buf b = {0};
  csn_buf_str(&b, "{\"success\":true,\"repoUrl\":");
  csn_json_cstr(&b, k->repo);
  csn_buf_str(&b, ",\"branch\":");
  csn_json_cstr(&b, branch != NULL ? branch : k->branch != NULL ? k->branch : "HEAD");
  csn_buf_str(&b, ",\"targetDir\":");
  csn_json_cstr(&b, k->target);
  csn_buf_str(&b, ",");
  reply_stamped(k->req, &b);
  free(branch);
  free_checkout(k);
}

/* `prelude`: a script that brings the session's variables, or "". */
static void start_clone(checkout *k, const char *prelude, size_t prelude_len) {
  const char *argv[40];
  size_t n = 0;
  char depth[24], helper_key[600];
  csn_buf answer = {0};
  int prelude_fd = tool_text_fd(prelude, prelude_len), answer_fd = -1;
  argv[n++] = "/bin/bash";
  argv[n++] = "-c";
  argv[n++] = ". /dev/stdin 2>/dev/null; builtin exec \"$@\" </dev/null";
  argv[n++] = "bash";
  argv[n++] = "/usr/bin/env";
  /* Nobody is there to answer a question; a question must fail, not hang. */
  argv[n++] = "GIT_TERMINAL_PROMPT=0";
  argv[n++] = "GCM_INTERACTIVE=never";
  argv[n++] = "SSH_ASKPASS_REQUIRE=never";
  /* Also for redirects and submodules: "ext::" would run a command. */
  argv[n++] = "GIT_ALLOW_PROTOCOL=http:https:ssh:git:file";
  argv[n++] = "LC_ALL=C.UTF-8"; /* git_error_code() reads English */
  argv[n++] = "git";
  if (k->url.scope != NULL) {
    csn_buf_fmt(&answer, "username=%s\npassword=%s\n", k->url.user, k->url.pass);
    answer_fd = tool_text_fd(answer.p, answer.len);
    explicit_bzero(answer.p, answer.len);
    csn_buf_free(&answer);
    snprintf(helper_key, sizeof helper_key,
             "credential.%.300s.helper=!f() { test \"$1\" != get || cat /proc/self/fd/3; }; f", k->url.scope);
    argv[n++] = "-c";
    argv[n++] = "credential.helper="; /* no other helper is asked, and none told to store what worked */
    argv[n++] = "-c";
    argv[n++] = helper_key;
  }
  argv[n++] = "clone";
  if (k->branch != NULL) {
    argv[n++] = "--branch";
    argv[n++] = k->branch;
  }
  if (k->depth > 0) {
    snprintf(depth, sizeof depth, "--depth=%d", k->depth);
    argv[n++] = depth;
    argv[n++] = "--no-local"; /* a plain path would ignore the depth */
  }
  argv[n++] = "--";
  argv[n++] = k->url.clean;
  argv[n++] = k->target;
  argv[n] = NULL;
  const tool_spec spec = {.argv = argv,
                          .cwd = k->cwd,
                          .stdin_fd = prelude_fd,
                          .extra_fd = answer_fd,
                          .timeout_ms = k->timeout_ms};
  bool ready = prelude_fd >= 0 && (k->url.scope == NULL || answer_fd >= 0);
  bool started = ready && tool_run(&spec, on_cloned, k);
  int saved = errno;
  if (prelude_fd >= 0) close(prelude_fd);
  if (answer_fd >= 0) close(answer_fd);
  if (started) return;
  k->code = 126;
  csn_buf_str(&k->err, strerror(saved));
  send_failure(k);
}

static void on_variables(void *arg, int code, csn_buf *out, csn_buf *err, const char *failure) {
  (void)code;
  (void)err;
  /* A session that ended meanwhile has no variables to bring. */
  start_clone(arg, failure == NULL ? out->p : "", failure == NULL ? out->len : 0);
}

static enum target_state look_at(const char *target) {
  DIR *dir = opendir(target);
  if (dir == NULL) return errno == ENOENT ? TARGET_ABSENT : TARGET_OTHER;
  enum target_state state = TARGET_EMPTY;
  for (struct dirent *de; state == TARGET_EMPTY && (de = readdir(dir)) != NULL;)
    if (strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0) state = TARGET_OTHER;
  closedir(dir);
  return state;
}

static void refuse_url(call *c, const char *why) {
  csn_buf ctx = {0}, text = {0};
  git_url none = {0};
  const char *given = body_text(c, "repoUrl");
  git_redact(&text, &none, given, strnlen(given, GIT_URL_MAX));
  csn_buf_str(&ctx, "{\"validationErrors\":[{\"field\":\"repoUrl\",\"message\":");
  csn_json_cstr(&ctx, why);
  csn_buf_str(&ctx, ",\"code\":\"INVALID_GIT_URL\"}]}");
  reply_error(c->req, "INVALID_GIT_URL", csn_buf_cstr(&ctx), "Invalid Git URL '%s': %s", csn_buf_cstr(&text),
              why);
  csn_buf_free(&ctx);
  csn_buf_free(&text);
}

static bool read_depth(call *c, int *depth) {
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(c->body, "depth");
  *depth = 0;
  if (v == NULL || cJSON_IsNull(v)) return true;
  double d = cJSON_IsNumber(v) ? v->valuedouble : 0;
  if (d >= 1 && d <= DEPTH_MAX && d == (double)(int)d) {
    *depth = (int)d;
    return true;
  }
  reply_invalid(c->req, "depth", "must be a positive integer");
  return false;
}

static void post_checkout(call *c) {
  int64_t timeout_ms;
  int depth;
  if (!ok_text(c, "repoUrl", true, GIT_URL_MAX) || !ok_text(c, "branch", false, 255) ||
      !ok_text(c, "targetDir", false, GUEST_PATH_MAX) || !ok_text(c, "sessionId", false, GUEST_ID_MAX) ||
      !body_ms(c, "timeoutMs", &timeout_ms) || !read_depth(c, &depth))
    return;
  git_url url;
  const char *why = git_url_parse(body_text(c, "repoUrl"), &url);
  if (why != NULL) {
    refuse_url(c, why);
    git_url_free(&url);
    return;
  }
  const char *branch = body_text(c, "branch");
  if (branch != NULL && (why = git_branch_check(branch)) != NULL) {
    reply_invalid(c->req, "branch", why);
    git_url_free(&url);
    return;
  }
  char target[FILE_PATH_CAP], cwd[GUEST_PATH_MAX + 1];
  const char *given = body_text(c, "targetDir");
  if (given == NULL || *given == '\0')
    snprintf(target, sizeof target, "/workspace/%s", url.name);
  else if (!file_path(c, "targetDir", target)) {
    git_url_free(&url);
    return;
  }
  for (checkout *k = active; k != NULL; k = k->next) {
    if (strcmp(k->target, target) != 0) continue;
    reply_error(c->req, "RESOURCE_BUSY", NULL, "A clone into '%s' is under way", target);
    git_url_free(&url);
    return;
  }
  const char *id = request_session(c);
  struct stat st;
  bool sessionless = strcmp(id, GUEST_NO_SESSION) == 0;
  session *s = sessionless ? NULL : session_get(id);
  session_cwd(sessionless ? NULL : id, cwd, sizeof cwd);
  /* A session may stand in a directory that is gone; only a relative address would need it. */
  if (stat(cwd, &st) != 0) snprintf(cwd, sizeof cwd, "/");
  checkout *k = calloc(1, sizeof *k);
  if (k == NULL) abort();
  csn_buf repo = {0};
  git_redact(&repo, &url, body_text(c, "repoUrl"), strlen(body_text(c, "repoUrl")));
  *k = (checkout){.req = c->req,
                  .url = url,
                  .repo = csn_buf_cstr(&repo),
                  .target = strdup(target),
                  .branch = branch == NULL ? NULL : strdup(branch),
                  .cwd = strdup(cwd),
                  .depth = depth,
                  .timeout_ms = timeout_ms > 0 ? timeout_ms : DEFAULT_TIMEOUT_MS,
                  .before = look_at(target),
                  .next = active};
  active = k;
  if (s == NULL)
    start_clone(k, "", 0);
  else
    session_snapshot(s, on_variables, k);
}

const route git_routes[] = {
    {METHOD_POST, "/api/git/checkout", post_checkout},
    {0, NULL, NULL},
};
