/* tests/fuzz-native/fuzz_start.c - bodies of the engine's API as a Worker sends them: a start, limits,
 * labels, an egress object; and the plan that is made of them.
 *
 * Oracle: what was accepted becomes bwrap's arguments one for one, so that no variable can be an option of
 * bwrap's; what the limits became is read back as the same. */
#define _GNU_SOURCE
#include "../../sandbox-sdk-shim/engine/engine.h"
#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

config cfg = {.state_dir = "/state", .guest = "/guest", .seccomp_fd = -1, .seccomp_root_fd = -1};
struct event_base *base;

/* The argument behind `at`, NULL at the end. */
static const char *next_arg(const plan *p, const char *at) {
  const char *next = at + strlen(at) + 1;
  return next < p->bwrap.p + p->bwrap.len ? next : NULL;
}

static size_t arg_count(const plan *p) {
  size_t n = 0;
  for (const char *a = p->bwrap.p; a != NULL; a = next_arg(p, a))
    n++;
  return n;
}

static size_t overridden(const cJSON *env, bool in_template) {
  static const char *const usual[] = {"SSL_CERT_FILE",
                                      "CURL_CA_BUNDLE",
                                      "REQUESTS_CA_BUNDLE",
                                      "GIT_SSL_CAINFO",
                                      "NODE_EXTRA_CA_CERTS",
                                      "HOME",
                                      "USER",
                                      "LOGNAME"};
  size_t n = 0;
  for (size_t i = 0; i < (in_template ? 8 : 5); i++)
    n += cJSON_GetObjectItemCaseSensitive(env, usual[i]) != NULL;
  return n;
}

static void require_plan(const cJSON *body, bool in_template) {
  sandbox sb = {.slot = 1, .limits = cfg.limits, .template_fd = -1};
  strcpy(sb.name, "fuzz");
  if (in_template) {
    strcpy(sb.template, "t");
    sb.template_dir = (char[]){"/templates/t"};
  }
  const cJSON *env = cJSON_GetObjectItemCaseSensitive(body, "env");
  const cJSON *entry = cJSON_GetObjectItemCaseSensitive(body, "entrypoint");
  plan *bare = plan_make(&sb, NULL, NULL), *p = plan_make(&sb, env, entry);
  size_t given = cJSON_IsObject(env) ? (size_t)cJSON_GetArraySize(env) : 0;
  REQUIRE(arg_count(p) + 3 * overridden(env, in_template) == arg_count(bare) + 3 * given);
  size_t words = 0;
  while (p->command[words] != NULL)
    words++;
  REQUIRE(words == 1 + (cJSON_IsArray(entry) ? (size_t)cJSON_GetArraySize(entry) : 0));
  REQUIRE(p->count == bare->count);
  plan_free(bare);
  plan_free(p);
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
  if (sandbox_check(body) == NULL) {
    require_plan(body, false);
    require_plan(body, true);
  }
  limits l = cfg.limits;
  char room[160];
  if (limits_parse(cJSON_GetObjectItemCaseSensitive(body, "limits"), &l, room) == NULL) require_limits(&l);
  (void)labels_check(cJSON_GetObjectItemCaseSensitive(body, "labels"));
  egress_set set = {0};
  if (egress_parse(cJSON_GetObjectItemCaseSensitive(body, "egress"), &set) == NULL) egress_free(&set);
  cJSON_Delete(body);
  return 0;
}
