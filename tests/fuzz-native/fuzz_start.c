/* tests/fuzz-native/fuzz_start.c - bodies of the engine's API as a Worker sends them: a start, limits,
 * labels, an egress object; and what the guest server is told of them.
 *
 * Oracle: the variables and the words of the entrypoint that were accepted are told one for one, so that
 * none can be read as another; what the limits became is read back as the same. */
#define _GNU_SOURCE
#include "../../sandbox-sdk-shim/engine/engine.h"
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

config cfg = {.state_dir = "/state", .guest = "/guest", .seccomp_fd = -1, .seccomp_root_fd = -1};
struct event_base *base;

/* `at` begins with these bytes; where they end. */
static const char *require_bytes(const char *at, const char *end, const char *bytes, size_t len) {
  REQUIRE((size_t)(end - at) >= len && memcmp(at, bytes, len) == 0);
  return at + len;
}

/* What the guest server is told: it reads the texts in this order, by these counts. */
static void require_description(const cJSON *body) {
  const cJSON *env = cJSON_GetObjectItemCaseSensitive(body, "env");
  const cJSON *entry = cJSON_GetObjectItemCaseSensitive(body, "entrypoint");
  sandbox sb = {.slot = 1, .limits = cfg.limits, .template_fd = -1};
  REQUIRE(start_describe(&sb, env, entry));
  static char text[8192];
  ssize_t size = pread(sb.begin_fd, text, sizeof text, 0);
  REQUIRE(size >= 0 && (size_t)size < sizeof text);
  const char *at = text, *end = text + size;
  unsigned variables = 0, words = 0;
  const cJSON *v;
  cJSON_ArrayForEach(v, env) {
    at = require_bytes(at, end, v->string, strlen(v->string));
    at = require_bytes(at, end, "=", 1);
    at = require_bytes(at, end, v->valuestring, strlen(v->valuestring) + 1);
    variables++;
  }
  cJSON_ArrayForEach(v, entry) {
    at = require_bytes(at, end, v->valuestring, strlen(v->valuestring) + 1);
    words++;
  }
  REQUIRE(at == end && sb.begin_variables == variables && sb.begin_words == words);
  REQUIRE(pwrite(sb.begin_fd, "x", 1, 0) < 0);
  close(sb.begin_fd);
  csn_buf_free(&sb.detail);
}

static void require_limits(const limits *l) {
  csn_buf b = {0};
  limits_json(&b, l);
  cJSON *v = cJSON_ParseWithLength(b.p, b.len);
  limits again = cfg.limits;
  char room[160];
  REQUIRE(v != NULL && limits_parse(v, &again, room) == NULL && memcmp(&again, l, sizeof again) == 0);
  cJSON_Delete(v);
  csn_buf_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (cfg.limits.memory_mb == 0) cfg.limits = limits_default(16384, 4);
  cJSON *body = cJSON_ParseWithLength((const char *)data, size);
  if (!cJSON_IsObject(body)) {
    cJSON_Delete(body);
    return 0;
  }
  if (sandbox_check(body) == NULL) require_description(body);
  limits l = cfg.limits;
  char room[160];
  if (limits_parse(cJSON_GetObjectItemCaseSensitive(body, "limits"), &l, room) == NULL) require_limits(&l);
  (void)labels_check(cJSON_GetObjectItemCaseSensitive(body, "labels"));
  egress_set set = {0};
  if (egress_parse(cJSON_GetObjectItemCaseSensitive(body, "egress"), &set) == NULL) egress_free(&set);
  cJSON_Delete(body);
  return 0;
}
