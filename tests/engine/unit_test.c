/* tests/engine/unit_test.c - the pure helpers of engine, guest and runner, under ASan and UBSan. TAP. */
#define _GNU_SOURCE
#include "../../sandbox-sdk-shim/common/buf.h"
#include "../../sandbox-sdk-shim/common/link.h"
#include "../../sandbox-sdk-shim/common/tree.h"
#include "../../sandbox-sdk-shim/engine/engine.h"
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* A copy at the very end of its block: one byte too many read is seen by ASan. */
static char *tight(const char *s, size_t len) {
  char *p = malloc(len == 0 ? 1 : len);
  if (p == NULL) abort();
  memcpy(p, s, len);
  return p;
}

static bool json_is(const char *in, size_t len, const char *want) {
  csn_buf b = {0};
  char *copy = tight(in, len);
  csn_json_str(&b, copy, len);
  bool same = strcmp(csn_buf_cstr(&b), want) == 0;
  if (!same) printf("# got %s\n", b.p);
  csn_buf_free(&b);
  free(copy);
  return same;
}

static void test_json(void) {
  check(json_is("", 0, "\"\""), "empty string");
  check(json_is("a\"\\\n\t\x01\x7f/", 8, "\"a\\\"\\\\\\n\\t\\u0001\\u007f/\""), "escapes");
  check(json_is("\0x", 2, "\"\\u0000x\""), "NUL");
  check(json_is("\xc3\xa9\xf0\x9f\x98\x80", 6, "\"\xc3\xa9\xf0\x9f\x98\x80\""), "valid UTF-8 is copied");
  check(json_is("\xff\xc0\x80\xed\xa0\x80", 6,
                "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""),
        "invalid, overlong and surrogate bytes are replaced one by one");
  check(json_is("\xf0\x9f", 2, "\"\xef\xbf\xbd\xef\xbf\xbd\""), "a cut sequence at the end");
  /* Sequences across the writer's blocks of 4096. */
  char *long_text = malloc(8200);
  if (long_text == NULL) abort();
  memset(long_text, 'x', 8200);
  memcpy(long_text + 4094, "\xf0\x9f\x98\x80", 4);
  csn_buf b = {0};
  csn_json_raw(&b, long_text, 8200);
  check(b.len == 8200 && memcmp(b.p, long_text, 8200) == 0, "a sequence over a block's edge");
  csn_buf_free(&b);
  free(long_text);
}

static size_t cut_of(const char *s, size_t len) {
  char *copy = tight(s, len);
  size_t n = csn_utf8_cut(copy, len);
  free(copy);
  return n;
}

static void test_cut(void) {
  check(cut_of("", 0) == 0, "cut: empty");
  check(cut_of("abc", 3) == 3, "cut: ASCII");
  check(cut_of("a\xc3", 2) == 1, "cut: one of two");
  check(cut_of("a\xc3\xa9", 3) == 3, "cut: two of two");
  check(cut_of("\xf0\x9f\x98", 3) == 0, "cut: three of four");
  check(cut_of("\xf0\x9f\x98\x80", 4) == 4, "cut: four of four");
  check(cut_of("\x80\x80\x80\x80", 4) == 4, "cut: stray bytes are not held back");
  check(cut_of("a\xff", 2) == 2, "cut: a byte that starts nothing is not held back");
  check(cut_of("\xe0\x80", 2) == 2, "cut: an overlong start is not held back");
  check(csn_utf8_valid("\xed\x9f\xbf\xee\x80\x80", 6) && !csn_utf8_valid("\xed\xa0\x80", 3), "surrogates");
}

static bool decode_is(const char *in, const char *want, size_t want_len, bool good) {
  csn_buf b = {0};
  size_t n = strlen(in);
  char *copy = tight(in, n);
  bool ok = csn_b64_decode(&b, copy, n);
  bool same = ok == good && b.len == (good ? want_len : 0) && (b.len == 0 || memcmp(b.p, want, b.len) == 0);
  csn_buf_free(&b);
  free(copy);
  return same;
}

static void test_base64(void) {
  check(decode_is("", "", 0, true) && decode_is("YQ==", "a", 1, true) && decode_is("YWI=", "ab", 2, true) &&
            decode_is("YWJj", "abc", 3, true) && decode_is("YWI", "ab", 2, true),
        "base64 with and without padding");
  check(decode_is("Y", "", 0, false) && decode_is("Y===", "", 0, false) && decode_is("YW=j", "", 0, false) &&
            decode_is("YWJj\n", "", 0, false) && decode_is("YW-_", "", 0, false),
        "what is not base64 is refused");
  bool same = true;
  for (size_t len = 0; len < 300; len++) {
    char raw[300];
    for (size_t i = 0; i < len; i++)
      raw[i] = (char)(i * 7 + len);
    csn_buf e = {0}, d = {0};
    csn_b64_encode(&e, raw, len);
    same &= csn_b64_decode(&d, e.p, e.len) && d.len == len && (len == 0 || memcmp(d.p, raw, len) == 0);
    csn_buf_free(&e);
    csn_buf_free(&d);
  }
  check(same, "base64 both ways at every length");
}

static void test_names(void) {
  char max[ENGINE_NAME_MAX + 2];
  memset(max, 'a', sizeof max);
  max[ENGINE_NAME_MAX + 1] = '\0';
  check(!name_ok(max), "name: one too long");
  max[ENGINE_NAME_MAX] = '\0';
  check(name_ok(max) && name_ok("a") && name_ok("a-b_9"), "name: good ones");
  check(!name_ok("") && !name_ok(".") && !name_ok("..") && !name_ok("a/b") && !name_ok("A") &&
            !name_ok("a b"),
        "name: bad ones");
  unsigned port;
  check(port_ok("1", &port) && port_ok("65535", &port) && port == 65535, "port: good ones");
  check(!port_ok("0", &port) && !port_ok("65536", &port) && !port_ok("", &port) && !port_ok("8a", &port) &&
            !port_ok("-1", &port) && !port_ok("080", &port) && !port_ok("999999", &port),
        "port: bad ones");
  char host[ENGINE_HOST_MAX + 1];
  check(host_split("API.Example.com:8080", host, &port) && strcmp(host, "api.example.com") == 0 &&
            port == 8080,
        "host: lower case, port");
  check(host_split("a.b.", host, &port) && strcmp(host, "a.b") == 0 && port == 0, "host: final dot");
  check(host_split("[::1]:81", host, &port) && strcmp(host, "[::1]") == 0 && port == 81, "host: IPv6");
  check(!host_split("", host, &port) && !host_split("a@b", host, &port) && !host_split("a:b", host, &port) &&
            !host_split("a b", host, &port) && !host_split("a\r\nx", host, &port) &&
            !host_split("a/b", host, &port) && !host_split("[::1", host, &port) &&
            !host_split("a:0", host, &port) && !host_split(":80", host, &port),
        "host: bad ones");
  check(host_matches("a.b", "a.b") && !host_matches("a.b", "x.a.b") && host_matches("*.a.b", "x.y.a.b") &&
            !host_matches("*.a.b", "a.b") && !host_matches("*.a.b", "xa.b") && host_matches("*", "a") &&
            host_matches("a*b*c", "axxbybc") && !host_matches("a*b*c", "axxbyb") && host_matches("a*", "a") &&
            !host_matches("", "a") && host_matches("**", "") && !host_matches("a", ""),
        "host: patterns");
}

static void test_secrets(void) {
  check(csn_ct_equal("secret", "secret") && !csn_ct_equal("secre", "secret") &&
            !csn_ct_equal("secrets", "secret") && !csn_ct_equal("", "secret") && !csn_ct_equal("", "") &&
            !csn_ct_equal("a", ""),
        "constant-time compare; an empty secret matches nothing");
}

static int open_fds(void) {
  int n = 0;
  for (int fd = 0; fd < 256; fd++)
    n += fcntl(fd, F_GETFD) >= 0;
  return n;
}

/* Sends raw bytes with `fds` descriptors and receives them as a record. */
static int raw_record(const void *data, size_t len, int fds, int *got) {
  int s[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s) != 0) abort();
  struct iovec iov = {(void *)(uintptr_t)data, len};
  union {
    struct cmsghdr align;
    char room[CMSG_SPACE(sizeof(int) * 8)];
  } ctl;
  memset(&ctl, 0, sizeof ctl);
  struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
  if (fds > 0) {
    mh.msg_control = &ctl;
    mh.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)fds);
    struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)fds);
    for (int i = 0; i < fds; i++)
      memcpy(CMSG_DATA(c) + (size_t)i * sizeof(int), &(int){1}, sizeof(int));
  }
  if (sendmsg(s[0], &mh, 0) < 0) abort();
  csn_link_msg msg;
  pid_t peer;
  int rc = csn_link_recv(s[1], &msg, got, &peer);
  close(s[0]);
  close(s[1]);
  return rc;
}

static void test_link(void) {
  int before = open_fds(), got, s[2];
  csn_link_msg m = {CSN_LINK_MAGIC, CSN_LINK_CONNECTED, 7, 80, 0, 0}, bad;
  check(raw_record(&m, sizeof m, 0, &got) == 1 && got == -1, "record without a descriptor");
  check(raw_record(&m, sizeof m, 1, &got) == 1 && got >= 0, "record with one");
  close(got);
  check(raw_record(&m, sizeof m, 2, &got) == -1 && got == -1, "two descriptors are refused");
  check(raw_record(&m, sizeof m, 8, &got) == -1 && got == -1, "eight descriptors are refused");
  check(raw_record(&m, sizeof m - 1, 1, &got) == -1, "a short record is refused");
  char big[sizeof m + 8] = {0};
  memcpy(big, &m, sizeof m);
  check(raw_record(big, sizeof big, 1, &got) == -1, "a long record is refused");
  bad = m;
  bad.magic ^= 1;
  check(raw_record(&bad, sizeof bad, 1, &got) == -1, "a wrong magic is refused");
  bad = m;
  bad.zero = 1;
  check(raw_record(&bad, sizeof bad, 1, &got) == -1, "a non-zero reserved field is refused");
  check(open_fds() == before, "no descriptor stays open");
  if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s) != 0) abort();
  pid_t peer;
  csn_link_msg msg;
  errno = 0;
  check(csn_link_recv(s[0], &msg, &got, &peer) == -1 && errno == EAGAIN, "nothing there");
  check(csn_link_send(s[0], CSN_LINK_SIGNAL, 1, 2, 15, -1) == 0 &&
            csn_link_recv(s[1], &msg, &got, &peer) == 1 && msg.kind == CSN_LINK_SIGNAL && msg.code == 15,
        "there and back");
  close(s[0]);
  check(csn_link_recv(s[1], &msg, &got, &peer) == 0, "the end");
  close(s[1]);
}

static void test_tree(void) {
  pid_t child = fork();
  if (child == 0) {
    if (fork() == 0) pause();
    if (fork() == 0) {
      setsid();
      pause();
    }
    pause();
  }
  usleep(100000);
  pid_t kids[4];
  check(csn_tree_children(child, kids, 4) == 2, "children");
  check(csn_tree_signal(getpid(), 0, NULL, 0) == 3, "a tree of three");
  check(csn_tree_signal(getpid(), 0, &child, 1) == 0, "a subtree that is skipped");
  check(csn_tree_signal(child, SIGKILL, NULL, 0) == 2, "descendants, not the root");
  usleep(50000);
  check(csn_tree_signal(child, 0, NULL, 0) == 0, "zombies do not count");
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  check(csn_exit_code(SIGKILL) == 137 && csn_exit_code(3 << 8) == 3, "exit codes");
}

/* What limits_parse answers to a JSON text, "" for nothing wrong. */
static const char *limits_of(const char *json, limits *l) {
  static char room[160];
  cJSON *v = cJSON_Parse(json);
  const char *wrong = limits_parse(v, l, room);
  if (wrong != NULL && wrong != room) wrong = strcpy(room, wrong);
  cJSON_Delete(v);
  return wrong == NULL ? "" : wrong;
}

static void test_limits(void) {
  char room[160];
  limits l = limits_default(24000, 2), small = limits_default(20, 0);
  check(l.memory_mb == 4096 && l.cpu_milli == 2000 && l.file_size_mb == l.disk_mb, "limits: defaults");
  check(small.memory_mb == 16 && small.cpu_milli == 1000, "limits: defaults of a small machine");
  check(*limits_of("null", &l) == '\0' && *limits_of("{}", &l) == '\0', "limits: none");
  check(*limits_of("{\"memory_mb\":16,\"cpus\":0.25,\"disk_mb\":100}", &l) == '\0' && l.memory_mb == 16 &&
            l.cpu_milli == 250 && l.disk_mb == 100 && l.file_size_mb == 100,
        "limits: a file is as large as the disk");
  check(*limits_of("{\"file_size_mb\":7}", &l) == '\0' && *limits_of("{\"disk_mb\":200}", &l) == '\0' &&
            l.file_size_mb == 7,
        "limits: a file's own size stays");
  check(*limits_of("{\"disk_mb\":5}", &l) == '\0' && l.file_size_mb == 5, "limits: but not above the disk");
  limits before = l;
  static const char *const bad[] = {
      "[]",
      "1",
      "{\"memory_mb\":15}",
      "{\"memory_mb\":16777217}",
      "{\"memory_mb\":true}",
      "{\"processes\":8.5}",
      "{\"cpus\":0.001}",
      "{\"cpus\":1e999}",
      "{\"open_files\":64,\"nonsense\":1}",
      "{\"open_files\":64,\"an-extremely-long-name-that-does-not-fit-anywhere-at-all-in-any-message\":1}"};
  bool refused = true;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
    refused &= *limits_of(bad[i], &l) != '\0';
  check(refused && memcmp(&before, &l, sizeof l) == 0, "limits: a refused object changes nothing");
  limits lower = l;
  cJSON *most = cJSON_Parse("{\"memory_mb\":1048576,\"processes\":64}");
  check(limits_lower(most, &lower, room) == NULL && lower.processes == 64 && lower.memory_mb == l.memory_mb &&
            lower.cpu_milli == l.cpu_milli,
        "limits: at most lowers and never raises");
  cJSON_Delete(most);
  most = cJSON_Parse("{\"memory_mb\":1}");
  check(limits_lower(most, &lower, room) != NULL && lower.processes == 64, "limits: at most is checked");
  cJSON_Delete(most);
  check(limits_option("cpus=1.5", &l, room) == NULL && l.cpu_milli == 1500, "limits: an option");
  check(limits_option("cpus", &l, room) != NULL && limits_option("cpus=", &l, room) != NULL &&
            limits_option("cpus=1x", &l, room) != NULL && limits_option("cpus=nan", &l, room) != NULL &&
            limits_option("x=1", &l, room) != NULL && l.cpu_milli == 1500,
        "limits: options that are none");
  l.disk_mb = LIMITS_DISK_IN_MEMORY_MB;
  check(limits_disk_in_memory(&l) == 256u << 20, "limits: a small disk is in memory");
  l.disk_mb++;
  check(limits_disk_in_memory(&l) == 0, "limits: a larger one is not");
  csn_buf b = {0};
  limits_json(&b, &l);
  cJSON *v = cJSON_Parse(csn_buf_cstr(&b));
  limits back = limits_default(24000, 2);
  check(limits_parse(v, &back, room) == NULL && memcmp(&back, &l, sizeof l) == 0, "limits: written and read");
  cJSON_Delete(v);
  csn_buf_free(&b);
}

int main(void) {
  test_json();
  test_cut();
  test_base64();
  test_names();
  test_secrets();
  test_link();
  test_tree();
  test_limits();
  return done();
}
