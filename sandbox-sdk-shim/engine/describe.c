/* engine/describe.c - a sandbox as the API shows it. */
#include "engine.h"

#include "cgroup.h"

#include <string.h>

const char *labels_check(const cJSON *v) {
  if (v == NULL || cJSON_IsNull(v)) return NULL;
  if (!cJSON_IsObject(v)) return "labels must be an object of strings";
  if (cJSON_GetArraySize(v) > (int)ENGINE_LABELS_MAX) return "labels has too many entries";
  const cJSON *item;
  cJSON_ArrayForEach(item, v) {
    if (!cJSON_IsString(item)) return "labels must be an object of strings";
    if (item->string[0] == '\0' || strlen(item->string) > ENGINE_LABEL_MAX ||
        strlen(item->valuestring) > ENGINE_LABEL_MAX)
      return "labels: a name has 1 to 256 bytes, a value up to 256";
  }
  return NULL;
}

static void add_usage(const sandbox *sb, csn_buf *b) {
  cgroup_usage u = {0};
  if (sb->cgroup[0] != '\0') cgroup_read(sb->cgroup, &u);
  if (!cgroup_has(CG_MEMORY)) u.memory_bytes = sb->watch.memory_bytes;
  if (!cgroup_has(CG_PIDS)) u.processes = sb->watch.processes;
  /* bwrap, outside, is not the sandbox's. */
  if (u.processes > 0) u.processes--;
  csn_buf_fmt(b,
              ",\"usage\":{\"memory_bytes\":%llu,\"processes\":%u,\"cpu_ms\":%llu,\"disk_bytes\":%llu,"
              "\"inodes\":%llu},\"events\":{\"oom_kills\":%u,\"process_limit_hits\":%u}",
              (unsigned long long)u.memory_bytes, u.processes, (unsigned long long)u.cpu_ms,
              (unsigned long long)sb->watch.disk_bytes, (unsigned long long)sb->watch.disk_inodes,
              u.oom_kills, u.process_hits);
}

void describe(const sandbox *sb, bool usage, csn_buf *b) {
  bool running = sb->state == SB_RUNNING;
  csn_buf_fmt(b, "{\"name\":\"%s\",\"running\":%s,\"generation\":%llu,\"started_ms\":%lld,\"labels\":{",
              sb->name, running ? "true" : "false", (unsigned long long)sb->generation,
              (long long)sb->started_ms);
  const cJSON *item;
  const char *comma = "";
  cJSON_ArrayForEach(item, sb->labels) {
    csn_buf_str(b, comma);
    csn_json_cstr(b, item->string);
    csn_buf_str(b, ":");
    csn_json_cstr(b, item->valuestring);
    comma = ",";
  }
  csn_buf_str(b, "},\"template\":");
  if (sb->template[0] == '\0')
    csn_buf_str(b, "null");
  else
    csn_json_cstr(b, sb->template);
  csn_buf_str(b, ",\"limits\":");
  limits_json(b, &sb->limits);
  csn_buf_fmt(b, ",\"limits_by\":{\"memory\":\"%s\",\"processes\":\"%s\",\"cpus\":\"%s\",\"disk\":\"%s\"}",
              cgroup_has(CG_MEMORY) ? cgroup_version() : "measured",
              cgroup_has(CG_PIDS) ? cgroup_version() : "rlimit",
              cgroup_has(CG_CPU) ? cgroup_version() : "priority",
              limits_disk_in_memory(&sb->limits) > 0 ? "in_memory" : "measured");
  if (running && usage) add_usage(sb, b);
  csn_buf_str(b, "}");
}
