/* guest/git_url.c - see git_url.h. */
#define _GNU_SOURCE
#include "git_url.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECRET_MIN                                                                                           \
  4u /* bytes: a shorter secret is no secret, and replacing it everywhere makes text unreadable */

static bool is_control(const char *s, size_t len) {
  for (size_t i = 0; i < len; i++)
    if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f) return true;
  return false;
}

static bool starts(const char *s, const char *prefix) {
  return strncmp(s, prefix, strlen(prefix)) == 0;
}

static char *copy(const char *s, size_t len) {
  char *p = strndup(s, len);
  if (p == NULL) abort();
  return p;
}

static int hex(char c) {
  return c >= '0' && c <= '9'   ? c - '0'
         : c >= 'a' && c <= 'f' ? c - 'a' + 10
         : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                : -1;
}

/* Percent-decoded, or NULL when it holds a byte that would break git's line-based credential protocol. */
static char *decode(const char *s, size_t len) {
  char *out = copy(s, len);
  size_t n = 0;
  for (size_t i = 0; i < len; i++) {
    int hi = s[i] == '%' && i + 2 < len ? hex(s[i + 1]) : -1;
    int lo = hi >= 0 ? hex(s[i + 2]) : -1;
    if (lo >= 0) i += 2;
    out[n++] = lo >= 0 ? (char)(hi * 16 + lo) : s[i];
  }
  out[n] = '\0';
  if (!is_control(out, n) && strlen(out) == n) return out;
  free(out);
  return NULL;
}

/* host, host:port or [v6]:port. A host that starts with "-" would be an option of ssh. */
static bool authority_ok(const char *s, size_t len) {
  size_t i = 0;
  if (len == 0 || *s == '-') return false;
  if (*s == '[') {
    for (i = 1; i < len && s[i] != ']'; i++)
      if (hex(s[i]) < 0 && s[i] != ':' && s[i] != '.') return false;
    if (i == len || i == 1) return false;
    i++;
  } else {
    for (; i < len && s[i] != ':'; i++)
      if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') || (s[i] >= '0' && s[i] <= '9') ||
            s[i] == '.' || s[i] == '-' || s[i] == '_'))
        return false;
    if (i == 0) return false;
  }
  if (i == len) return true;
  if (s[i++] != ':' || i == len || len - i > 5) return false;
  for (; i < len; i++)
    if (s[i] < '0' || s[i] > '9') return false;
  return true;
}

static void set_name(git_url *u, const char *path) {
  size_t len = strcspn(path, "?#");
  while (len > 0 && path[len - 1] == '/')
    len--;
  if (len > 4 && memcmp(path + len - 4, ".git", 4) == 0) len -= 4;
  while (len > 0 && path[len - 1] == '/')
    len--;
  size_t start = len;
  while (start > 0 && path[start - 1] != '/' && path[start - 1] != ':')
    start--;
  snprintf(u->name, sizeof u->name, "%.*s", (int)(len - start), path + start);
  if (u->name[0] == '\0' || strcmp(u->name, ".") == 0 || strcmp(u->name, "..") == 0)
    snprintf(u->name, sizeof u->name, "repository");
}

static const char *parse_http(const char *text, size_t scheme_len, git_url *u) {
  const char *at = text + scheme_len;
  size_t len = strcspn(at, "/?#"), host = 0;
  for (size_t i = 0; i < len; i++)
    if (at[i] == '@') host = i + 1;
  if (!authority_ok(at + host, len - host)) return "the host is missing or not valid";
  if (host > 0) {
    const char *colon = memchr(at, ':', host - 1);
    size_t user_len = colon == NULL ? host - 1 : (size_t)(colon - at);
    u->raw_user_pass = copy(at, host - 1);
    u->user = decode(at, user_len);
    u->pass = colon == NULL ? copy("", 0) : decode(colon + 1, host - 1 - user_len - 1);
    if (u->user == NULL || u->pass == NULL) return "the user name or password has a control character";
  }
  if (asprintf(&u->clean, "%.*s%s", (int)scheme_len, text, at + host) < 0) abort();
  if (host > 0 && asprintf(&u->scope, "%.*s%.*s", (int)scheme_len, text, (int)(len - host), at + host) < 0)
    abort();
  set_name(u, at + len);
  return NULL;
}

static const char *parse_ssh(const char *text, size_t scheme_len, git_url *u) {
  const char *at = text + scheme_len;
  size_t len = strcspn(at, "/?#"), host = 0;
  for (size_t i = 0; i < len; i++)
    if (at[i] == '@') host = i + 1;
  if (host > 0 && memchr(at, ':', host) != NULL) return "an ssh URL cannot carry a password";
  if (*at == '-' || !authority_ok(at + host, len - host)) return "the host is missing or not valid";
  u->clean = copy(text, strlen(text));
  set_name(u, at + len);
  return NULL;
}

static const char *parse_scp(const char *text, git_url *u) {
  static const char no[] =
      "not an address that git clone takes: use https://host/path, user@host:path or an absolute path";
  const char *colon = strchr(text, ':');
  if (colon == NULL || memchr(text, '/', (size_t)(colon - text)) != NULL || colon[1] == ':') return no;
  const char *host = text;
  for (const char *c = text; c < colon; c++)
    if (*c == '@') host = c + 1;
  if (!authority_ok(host, (size_t)(colon - host)) || colon[1] == '\0' || colon[1] == '-') return no;
  u->clean = copy(text, strlen(text));
  set_name(u, colon + 1);
  return NULL;
}

const char *git_url_parse(const char *text, git_url *u) {
  *u = (git_url){0};
  size_t len = strlen(text);
  if (len == 0) return "must not be empty";
  if (len > GIT_URL_MAX) return "is too long";
  if (is_control(text, len)) return "has a control character";
  if (*text == '-') return "must not start with \"-\"";
  if (starts(text, "https://")) return parse_http(text, 8, u);
  if (starts(text, "http://")) return parse_http(text, 7, u);
  if (starts(text, "ssh://")) return parse_ssh(text, 6, u);
  if (starts(text, "git://")) return parse_ssh(text, 6, u);
  bool path = *text == '/' || starts(text, "./") || starts(text, "../");
  if (path || starts(text, "file:///")) {
    u->clean = copy(text, len);
    set_name(u, text);
    return NULL;
  }
  if (strstr(text, "://") != NULL) return "this protocol is not allowed: use https, http, ssh, git or file";
  return parse_scp(text, u);
}

void git_url_free(git_url *u) {
  char *const secrets[] = {u->user, u->pass, u->raw_user_pass};
  for (size_t i = 0; i < sizeof secrets / sizeof secrets[0]; i++) {
    if (secrets[i] != NULL) explicit_bzero(secrets[i], strlen(secrets[i]));
    free(secrets[i]);
  }
  free(u->clean);
  free(u->scope);
  *u = (git_url){0};
}

const char *git_branch_check(const char *b) {
  size_t len = strlen(b);
  if (len == 0) return "must not be empty";
  if (len > 255) return "is too long";
  if (*b == '-') return "must not start with \"-\"";
  if (is_control(b, len) || strpbrk(b, " ~^:?*[\\") != NULL) return "has a character that no branch name has";
  if (*b == '/' || b[len - 1] == '/' || b[len - 1] == '.' || strstr(b, "..") != NULL ||
      strstr(b, "//") != NULL || strstr(b, "@{") != NULL || strcmp(b, "@") == 0)
    return "is not a valid branch name";
  for (const char *part = b; part != NULL; part = strchr(part, '/') == NULL ? NULL : strchr(part, '/') + 1) {
    size_t n = strcspn(part, "/");
    if (*part == '.' || (n >= 5 && memcmp(part + n - 5, ".lock", 5) == 0))
      return "is not a valid branch name";
  }
  return NULL;
}

/* ---- redaction ---- */

static void replace_all(csn_buf *b, const char *secret) {
  size_t n = secret == NULL ? 0 : strlen(secret);
  if (n < SECRET_MIN || b->len < n) return;
  csn_buf out = {0};
  size_t from = 0;
  for (size_t i = 0; i + n <= b->len;) {
    if (memcmp(b->p + i, secret, n) != 0) {
      i++;
      continue;
    }
    csn_buf_add(&out, b->p + from, i - from);
    csn_buf_str(&out, "***");
    i += n;
    from = i;
  }
  csn_buf_add(&out, b->p + from, b->len - from);
  csn_buf_free(b);
  *b = out;
}

/* "://user:password@" anywhere: the address of a redirect or of a submodule. */
static void replace_userinfo(csn_buf *b) {
  if (b->len == 0) return;
  csn_buf out = {0};
  size_t from = 0;
  for (size_t i = 0; i + 3 <= b->len; i++) {
    if (memcmp(b->p + i, "://", 3) != 0) continue;
    size_t start = i + 3, end = start, at = 0;
    for (; end < b->len && strchr("/?# \t\r\n'\"", b->p[end]) == NULL; end++)
      if (b->p[end] == '@') at = end;
    if (at == 0) continue;
    csn_buf_add(&out, b->p + from, start - from);
    csn_buf_str(&out, "***");
    from = at;
    i = at;
  }
  csn_buf_add(&out, b->p + from, b->len - from);
  csn_buf_free(b);
  *b = out;
}

void git_redact(csn_buf *out, const git_url *u, const char *text, size_t len) {
  csn_buf b = {0};
  csn_buf_add(&b, text, len);
  if (u->user != NULL) {
    csn_buf pair = {0}, base64 = {0};
    csn_buf_fmt(&pair, "%s:%s", u->user, u->pass);
    csn_b64_encode(&base64, pair.p, pair.len);
    replace_all(&b, csn_buf_cstr(&base64));
    replace_all(&b, u->raw_user_pass);
    /* A user alone is a token; with a password it is a name like "git", which texts are full of. */
    replace_all(&b, *u->pass != '\0' ? u->pass : u->user);
    const char *colon = strchr(u->raw_user_pass, ':');
    replace_all(&b, colon == NULL || colon[1] == '\0' ? NULL : colon + 1);
    csn_buf_free(&pair);
    csn_buf_free(&base64);
  }
  replace_userinfo(&b);
  csn_buf_add(out, b.p, b.len);
  csn_buf_free(&b);
}

/* ---- errors ---- */

const char *git_error_code(int code, const char *err) {
  /* In this order: a refused login is also "repository not found" on some hosts' last line. */
  static const struct {
    const char *code, *text;
  } says[] = {
      {"GIT_BRANCH_NOT_FOUND", "remote branch"},
      {"GIT_AUTH_FAILED", "authentication failed"},
      {"GIT_AUTH_FAILED", "could not read username"},
      {"GIT_AUTH_FAILED", "could not read password"},
      {"GIT_AUTH_FAILED", "terminal prompts disabled"},
      {"GIT_AUTH_FAILED", "permission denied (publickey"},
      {"GIT_AUTH_FAILED", "http basic: access denied"},
      {"GIT_AUTH_FAILED", "returned error: 401"},
      {"GIT_AUTH_FAILED", "returned error: 403"},
      {"GIT_REPOSITORY_NOT_FOUND", "repository not found"},
      {"GIT_REPOSITORY_NOT_FOUND", "does not exist"},
      {"GIT_REPOSITORY_NOT_FOUND", "does not appear to be a git repository"},
      {"GIT_REPOSITORY_NOT_FOUND", "' not found"},
      {"GIT_REPOSITORY_NOT_FOUND", "not valid: is this a git repository"},
      {"GIT_NETWORK_ERROR", "could not resolve"},
      {"GIT_NETWORK_ERROR", "couldn't resolve"},
      {"GIT_NETWORK_ERROR", "failed to connect"},
      {"GIT_NETWORK_ERROR", "couldn't connect"},
      {"GIT_NETWORK_ERROR", "unable to connect"},
      {"GIT_NETWORK_ERROR", "connection refused"},
      {"GIT_NETWORK_ERROR", "connection timed out"},
      {"GIT_NETWORK_ERROR", "connection reset"},
      {"GIT_NETWORK_ERROR", "connection was reset"},
      {"GIT_NETWORK_ERROR", "recv failure"},
      {"GIT_NETWORK_ERROR", "empty reply from server"},
      {"GIT_NETWORK_ERROR", "network is unreachable"},
      {"GIT_NETWORK_ERROR", "no route to host"},
      {"GIT_NETWORK_ERROR", "returned error: 5"},
      {"GIT_NETWORK_ERROR", "ssl "},
      {"GIT_NETWORK_ERROR", "early eof"},
      {"GIT_NETWORK_ERROR", "rpc failed"},
      {"GIT_NETWORK_ERROR", "hung up unexpectedly"},
      {"GIT_CLONE_FAILED", "already exists and is not an empty directory"},
  };
  if (code == 124) return "GIT_NETWORK_ERROR";
  for (size_t i = 0; i < sizeof says / sizeof says[0]; i++)
    if (strcasestr(err, says[i].text) != NULL) return says[i].code;
  return code == 128 ? "GIT_OPERATION_FAILED" : "GIT_CLONE_FAILED";
}
