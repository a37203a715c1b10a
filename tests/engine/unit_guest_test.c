/* tests/engine/unit_guest_test.c - the guest's pure parsing functions, under ASan and UBSan. TAP. */
#define _GNU_SOURCE
#include "../../sandbox-sdk-shim/guest/backup_names.h"
#include "../../sandbox-sdk-shim/guest/git_url.h"
#include "../../sandbox-sdk-shim/guest/interp_event.h"
#include "check.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static interp_kind kind_of(const char *text, uint64_t run) {
  size_t len = strlen(text);
  char *line = malloc(len == 0 ? 1 : len);
  if (line == NULL) abort();
  memcpy(line, text, len);
  interp_line got = interp_read(line, len, run);
  free(line);
  return got.kind;
}

static void test_interp_lines(void) {
  check(kind_of("H {}", 0) == INTERP_HELLO && kind_of("H {\"version\":\"x\"}", 7) == INTERP_HELLO, "hello");
  check(kind_of("R 7 {\"text\":\"1\"}", 7) == INTERP_RESULT, "result");
  check(kind_of("D 7", 7) == INTERP_DONE && kind_of("E 7 {}", 7) == INTERP_ERROR, "ends");
  check(kind_of("R 6 {}", 7) == INTERP_STALE && kind_of("D 8", 7) == INTERP_STALE &&
            kind_of("D 0", 0) == INTERP_STALE,
        "other runs");
  static const char *const bad[] = {"",
                                    "D",
                                    "D ",
                                    "D x",
                                    "D 7 ",
                                    "D 7x",
                                    "X 7 {}",
                                    "H",
                                    "H x",
                                    "H []",
                                    "H {} x",
                                    "R 7",
                                    "R 7 ",
                                    "R 7 [1]",
                                    "R 7 {",
                                    "R 7 {}x",
                                    "R 7{}",
                                    "R7 {}",
                                    "R -7 {}",
                                    "E 7 \"s\"",
                                    "R 7 {\"a\":}",
                                    "R 7 \xff",
                                    "R 7 {\"a\":\"\\ud800\"}"};
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    if (kind_of(bad[i], 7) != INTERP_BAD) printf("# accepted: %s\n", bad[i]);
    check(kind_of(bad[i], 7) == INTERP_BAD, "a line that is refused");
  }
}

static bool event_is(csn_buf *out, const char *want) {
  bool ok = strcmp(csn_buf_cstr(out), want) == 0;
  if (!ok) printf("# got %s\n", out->p);
  csn_buf_free(out);
  return ok;
}

static bool ascii_is(const char *in, size_t len, const char *want) {
  csn_buf out = {0};
  char *copy = malloc(len == 0 ? 1 : len);
  if (copy == NULL) abort();
  memcpy(copy, in, len);
  interp_ascii(&out, copy, len);
  free(copy);
  return event_is(&out, want);
}

static void test_interp_events(void) {
  check(ascii_is("", 0, "") && ascii_is("{\"a\"}", 5, "{\"a\"}"), "ASCII stays");
  check(ascii_is("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9, "\\u00e9\\u20ac\\ud83d\\ude00"),
        "two, three, four bytes");
  check(ascii_is("\xff\xc3", 2, "\\ufffd\\ufffd") && ascii_is("\xf0\x9f", 2, "\\ufffd\\ufffd"),
        "broken and cut sequences");
  check(ascii_is("\xed\xa0\x80", 3, "\\ufffd\\ufffd\\ufffd"), "a surrogate");
  check(ascii_is("a\nb\x01", 4, "a b "), "control characters");
  csn_buf out = {0};
  interp_add_text(&out, 1, "h\xc3\xa9\n\xff", 5, 12);
  check(event_is(&out, "data: {\"type\":\"stderr\",\"text\":\"h\\u00e9\\n\\ufffd\",\"timestamp\":12}\n\n"),
        "output");
  static const char result[] = "R 1 {\"text\":\"x\",\"type\":\"stdout\"}";
  interp_line line = interp_read(result, sizeof result - 1, 1);
  interp_add_result(&out, &line);
  check(event_is(&out, "data: {\"text\":\"x\",\"type\":\"stdout\",\"metadata\":{},\"type\":\"result\"}\n\n"),
        "a result cannot name another type");
  line = interp_read("R 1 {}", 6, 1);
  interp_add_result(&out, &line);
  check(event_is(&out, "data: {\"metadata\":{},\"type\":\"result\"}\n\n"), "an empty result");
  line = interp_read("R 1 {  }", 8, 1);
  interp_add_result(&out, &line);
  check(event_is(&out, "data: {  \"metadata\":{},\"type\":\"result\"}\n\n"), "an empty result with space");
  line = interp_read("R 1 {\0\0}", 8, 1);
  interp_add_result(&out, &line);
  check(event_is(&out, "data: {  \"metadata\":{},\"type\":\"result\"}\n\n"),
        "an empty result with other bytes");
  interp_add_done(&out, 3);
  check(event_is(&out, "data: {\"type\":\"execution_complete\",\"execution_count\":3}\n\n"), "the end");
  static const char error[] = "E 1 {\"ename\":\"A\",\"evalue\":5,\"traceback\":[\"x\",1,\"y\"]}";
  line = interp_read(error, sizeof error - 1, 1);
  interp_add_error(&out, &line, NULL, NULL);
  check(
      event_is(&out,
               "data: {\"type\":\"error\",\"ename\":\"A\",\"evalue\":\"\",\"traceback\":[\"x\",\"y\"]}\n\n"),
      "an error");
  interp_add_error(&out, &line, "T", "t");
  check(
      event_is(&out,
               "data: {\"type\":\"error\",\"ename\":\"T\",\"evalue\":\"t\",\"traceback\":[\"x\",\"y\"]}\n\n"),
      "another name");
  interp_add_error(&out, NULL, "T", "t");
  check(event_is(&out, "data: {\"type\":\"error\",\"ename\":\"T\",\"evalue\":\"t\",\"traceback\":[]}\n\n"),
        "without a line");
}

int main(void) {
  test_interp_lines();
  test_interp_events();
  test_backup_paths();
  test_backup_excludes();
  test_backup_losses();
  test_git_urls();
  test_git_branches();
  test_git_redaction();
  test_git_errors();
  return done();
}
