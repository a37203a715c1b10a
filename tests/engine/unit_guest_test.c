/* tests/engine/unit_guest_test.c - the guest's pure parsing functions, under ASan and UBSan. TAP. */
#define _GNU_SOURCE
#include "../../sandbox-sdk-shim/guest/backup_names.h"
#include "../../sandbox-sdk-shim/guest/git_url.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int count, failed;

static void check(bool good, const char *what) {
  count++;
  if (!good) failed++;
  printf("%s %d - %s\n", good ? "ok" : "not ok", count, what);
}

/* A copy at the very end of its block: one byte too many read is seen by ASan. */
static char *tight(const char *s) {
  size_t len = strlen(s) + 1;
  char *p = malloc(len);
  if (p == NULL) abort();
  memcpy(p, s, len);
  return p;
}

static bool same(const char *a, const char *b) {
  return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static void test_git_urls(void) {
  static const struct {
    const char *text, *clean, *scope, *user, *pass, *name;
  } good[] = {
      {"https://h/a/b.git", "https://h/a/b.git", NULL, NULL, NULL, "b"},
      {"https://h", "https://h", NULL, NULL, NULL, "repository"},
      {"http://u:p@h:80/r/", "http://h:80/r/", "http://h:80", "u", "p", "r"},
      {"https://u:p@q@h/r", "https://h/r", "https://h", "u", "p@q", "r"},
      {"https://tok@h/r.git?x=a@b", "https://h/r.git?x=a@b", "https://h", "tok", "", "r"},
      {"https://a%40b:c%3Ad%2f%@h/r", "https://h/r", "https://h", "a@b", "c:d/%", "r"},
      {"https://:@h/r", "https://h/r", "https://h", "", "", "r"},
      {"https://[::1]:8/r", "https://[::1]:8/r", NULL, NULL, NULL, "r"},
      {"ssh://git@h:22/a/r.git", "ssh://git@h:22/a/r.git", NULL, NULL, NULL, "r"},
      {"git://h/r", "git://h/r", NULL, NULL, NULL, "r"},
      {"git@h:a/r.git", "git@h:a/r.git", NULL, NULL, NULL, "r"},
      {"h:r", "h:r", NULL, NULL, NULL, "r"},
      {"/srv/.git", "/srv/.git", NULL, NULL, NULL, "srv"},
      {"/", "/", NULL, NULL, NULL, "repository"},
      {"./..", "./..", NULL, NULL, NULL, "repository"},
      {"../x.git/", "../x.git/", NULL, NULL, NULL, "x"},
      {"file:///a/b", "file:///a/b", NULL, NULL, NULL, "b"},
  };
  for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
    char *text = tight(good[i].text);
    git_url u;
    const char *why = git_url_parse(text, &u);
    bool ok = why == NULL && same(u.clean, good[i].clean) && same(u.scope, good[i].scope) &&
              same(u.user, good[i].user) && same(u.pass, good[i].pass) && same(u.name, good[i].name);
    if (!ok) printf("# %s: %s | %s %s %s %s %s\n", text, why, u.clean, u.scope, u.user, u.pass, u.name);
    check(ok, good[i].text);
    git_url_free(&u);
    free(text);
  }
  static const char *const bad[] = {"",
                                    "-x",
                                    "x",
                                    "a/b:c",
                                    "ext::sh",
                                    "a::b",
                                    "h:",
                                    "h:-x",
                                    "-h:x",
                                    "u@-h:x",
                                    "https://",
                                    "https:///x",
                                    "https://u@/x",
                                    "https://-h/x",
                                    "https://h:/x",
                                    "https://h:1234567/x",
                                    "https://h:1a/x",
                                    "https://[::1/x",
                                    "https://[]/x",
                                    "https://[zz]/x",
                                    "https://h h/x",
                                    "https://u:%00@h/x",
                                    "https://u%0d:p@h/x",
                                    "https://h/\x7f",
                                    "https://h/a\nb",
                                    "ssh://u:p@h/x",
                                    "ssh://-o/x",
                                    "ftp://h/x",
                                    "file://h/x",
                                    "Https://h/x"};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    char *text = tight(bad[i]);
    git_url u;
    const char *why = git_url_parse(text, &u);
    if (why == NULL) printf("# accepted: %s\n", bad[i]);
    check(why != NULL, "an address that is refused");
    git_url_free(&u);
    free(text);
  }
}

static void test_git_branches(void) {
  static const char *const good[] = {"main", "feature/x", "v1.0", "a@b", "-"};
  for (size_t i = 0; i + 1 < sizeof good / sizeof good[0]; i++)
    check(git_branch_check(good[i]) == NULL, good[i]);
  static const char *const bad[] = {"",   "-b", "a b", "a..b", "a~1", "a^",     "a:b",
                                    "a?", "a*", "[",   "\\",   "@{u", "a.lock", "a.lock/b",
                                    ".a", "a/", "/a",  "a//b", "a.",  "@",      "a\x01"};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    char *text = tight(bad[i]);
    if (git_branch_check(text) == NULL) printf("# accepted: %s\n", bad[i]);
    check(git_branch_check(text) != NULL, "a branch that is refused");
    free(text);
  }
}

static bool redacts(const char *url, const char *text, const char *want) {
  git_url u;
  git_url_parse(url, &u);
  csn_buf out = {0};
  char *copy = malloc(strlen(text) == 0 ? 1 : strlen(text));
  if (copy == NULL) abort();
  memcpy(copy, text, strlen(text));
  git_redact(&out, &u, copy, strlen(text));
  bool ok = strcmp(csn_buf_cstr(&out), want) == 0;
  if (!ok) printf("# got %s\n", out.p);
  csn_buf_free(&out);
  git_url_free(&u);
  free(copy);
  return ok;
}

static void test_git_redaction(void) {
  static const char url[] = "https://alice:p%40ss@h/x";
  check(redacts(url, "", ""), "nothing");
  check(redacts(url, "p@ss and p%40ss, alice stays", "*** and ***, alice stays"), "plain and encoded");
  check(redacts(url, "alice:p%40ss", "***"), "the pair");
  check(redacts(url, "Basic YWxpY2U6cEBzcw==.", "Basic ***."), "base64");
  check(redacts(url, "p@s p@ssp@ss", "p@s ******"), "at the end, and twice");
  check(redacts("https://token99@h/x", "got token99", "got ***"), "a token without password");
  check(redacts("https://a:b@h/x", "a b a:b http://a:b@h", "a b a:b http://***@h"), "too short to be secret");
  check(redacts("/x", "to http://u:p@h/x and http://h/a@b", "to http://***@h/x and http://h/a@b"),
        "addresses of others");
  check(redacts("/x", "://", "://") && redacts("/x", "a://b@", "a://***@"), "at the edge");
}

static void test_git_errors(void) {
  check(same(git_error_code(124, ""), "GIT_NETWORK_ERROR"), "time-out");
  check(same(git_error_code(128, "fatal: Repository Not Found"), "GIT_REPOSITORY_NOT_FOUND"), "any case");
  check(same(git_error_code(128, "?"), "GIT_OPERATION_FAILED"), "128");
  check(same(git_error_code(1, ""), "GIT_CLONE_FAILED"), "else");
}

static void test_backup_paths(void) {
  static const char *const good[] = {"/workspace",  "/workspace/", "/home/user/..a",
                                     "/tmp/a..b/c", "/var/tmp",    "/app"};
  for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
    check(backup_dir_check(good[i]) == NULL, good[i]);
  static const char *const bad[] = {
      "",     "workspace",     "/",         "/etc", "/workspace/..", "/workspace/../etc",
      "/var", "/workspacefoo", "/tmp/a\nb", "/apps"};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    char *text = tight(bad[i]);
    check(backup_dir_check(text) != NULL, "a directory that is refused");
    free(text);
  }
  check(backup_archive_check("/var/backups/a.sqsh") == NULL &&
            backup_archive_check("/var/backups/a/b") == NULL,
        "archives");
  static const char *const no[] = {"/var/backups", "/var/backups/", "/var/backups/a/", "/var/backupsx/a",
                                   "/var/backups/../a"};
  for (size_t i = 0; i < sizeof no / sizeof no[0]; i++)
    check(backup_archive_check(no[i]) != NULL, "an archive that is refused");
}

static bool glob_is(const char *glob, const char *want) {
  csn_buf out = {0};
  char *text = tight(glob);
  const char *why = backup_add_glob(&out, text);
  bool ok = want == NULL ? why != NULL && out.len == 0 : why == NULL && strcmp(csn_buf_cstr(&out), want) == 0;
  if (!ok) printf("# %s gave %s\n", glob, csn_buf_cstr(&out));
  csn_buf_free(&out);
  free(text);
  return ok;
}

static bool path_is(const char *path, const char *want) {
  csn_buf out = {0};
  size_t len = strlen(path);
  char *text = malloc(len == 0 ? 1 : len);
  if (text == NULL) abort();
  memcpy(text, path, len);
  bool added = backup_add_path(&out, text, len);
  bool ok = want == NULL ? !added && out.len == 0 : added && strcmp(csn_buf_cstr(&out), want) == 0;
  csn_buf_free(&out);
  free(text);
  return ok;
}

static void test_backup_excludes(void) {
  check(glob_is("*.log", "*.log\n... *.log\n"), "a name, at every depth");
  check(glob_is("a/b", "a/b\n") && glob_is("/a", "a\n") && glob_is("./a", "a\n"), "from the top");
  check(glob_is("**/a/**", "a\n... a\n") && glob_is("a/**/b", "a/b\n"), "two stars");
  check(glob_is("... a/b", "a/b\n... a/b\n"), "mksquashfs's own form");
  check(glob_is("", "") && glob_is("**", "") && glob_is("**/", "") && glob_is("/", ""), "nothing");
  check(glob_is("#a ", "[#]a[ ]\n... [#]a[ ]\n") && glob_is(" ", "[ ]\n... [ ]\n"),
        "comment and white space");
  check(glob_is("a\nb", NULL) && glob_is("\x7f", NULL), "control characters");
  check(path_is("a/b/", "a/b\n") && path_is("*[x]?\\", "\\*\\[x\\]\\?\\\\\n"), "a path stands for itself");
  check(path_is(" a", "[ ]a\n") && path_is("", NULL) && path_is("/", NULL) && path_is("a\nb", NULL),
        "odd paths");
}

static void test_backup_losses(void) {
  size_t len = 0;
  static const char text[] = "all well\nFailed to read file x, creating empty file\nrest";
  const char *at = backup_left_out(text, &len);
  check(at == text + 9 && len == 42, "a lost file");
  check(backup_left_out("", &len) == NULL && backup_left_out("fine\n\n", &len) == NULL, "no loss");
  check(backup_left_out("Cannot stat dir/file x because No such file or directory, ignoring", &len) == NULL,
        "a file that vanished");
}

int main(void) {
  test_backup_paths();
  test_backup_excludes();
  test_backup_losses();
  test_git_urls();
  test_git_branches();
  test_git_redaction();
  test_git_errors();
  printf("1..%d\n", count);
  return failed == 0 ? 0 : 1;
}
