/* runner_main.c - command line of caisson-run. */
#include "runner.h"

#include "../common/buf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
    "usage: caisson-run start DIR\n"
    "       caisson-run follow DIR STDOUT_OFFSET STDERR_OFFSET\n"
    "       caisson-run kill DIR cancelled|timed_out|over_budget|policy_violation GRACE_MS\n"
    "       caisson-run status DIR\n"
    "\n"
    "start   reads DIR/spec.json, starts the program under a supervisor that outlives\n"
    "        this call, prints {\"pid\":n}; started twice it prints the first pid again\n"
    "follow  prints 'o OFFSET BASE64' and 'e OFFSET BASE64' for each piece of output,\n"
    "        'h' in silence, and last 'x' with the exit record\n"
    "kill    SIGTERM to the program, SIGKILL to its tree after GRACE_MS; waits for the end\n"
    "status  prints {\"state\":\"running\"|\"exited\"|\"lost\"|\"missing\"}\n"
    "\n"
    "exit status: 0 done, 64 bad call, 65 bad spec, 70 anything else\n";

int run_error(int status, const char *error, const char *path, const char *detail) {
  csn_buf b = {0};
  csn_buf_str(&b, "{\"error\":");
  csn_json_cstr(&b, error);
  csn_buf_str(&b, ",\"path\":");
  csn_json_cstr(&b, path);
  csn_buf_str(&b, ",\"detail\":");
  csn_json_cstr(&b, detail);
  csn_buf_str(&b, "}\n");
  if (write(STDERR_FILENO, b.p, b.len) < 0) status = RUN_FAILED;
  csn_buf_free(&b);
  return status;
}

static int bad_call(void) {
  fputs(usage, stderr);
  return RUN_BAD_CALL;
}

/* A decimal number in 0..max; false otherwise. */
static bool parse_number(const char *text, int64_t max, int64_t *out) {
  if (text[0] < '0' || text[0] > '9') return false;
  char *end;
  errno = 0;
  long long value = strtoll(text, &end, 10);
  if (errno != 0 || *end != '\0' || value > max) return false;
  *out = value;
  return true;
}

int main(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "--help") == 0) {
    fputs(usage, stdout);
    return RUN_OK;
  }
  if (argc < 3) return bad_call();
  const char *dir = argv[2];
  if (strcmp(argv[1], "start") == 0 && argc == 3) return run_start(dir);
  if (strcmp(argv[1], "status") == 0 && argc == 3) return run_status(dir);
  int64_t a, b;
  if (strcmp(argv[1], "follow") == 0 && argc == 5 && parse_number(argv[3], INT64_MAX, &a) &&
      parse_number(argv[4], INT64_MAX, &b))
    return run_follow(dir, a, b);
  if (strcmp(argv[1], "kill") == 0 && argc == 5 && parse_number(argv[4], RUN_GRACE_MAX_MS, &a)) {
    if (strcmp(argv[3], "cancelled") == 0) return run_kill(dir, RUN_KILLED, a);
    if (strcmp(argv[3], "timed_out") == 0) return run_kill(dir, RUN_TIMED_OUT, a);
    if (strcmp(argv[3], "over_budget") == 0) return run_kill(dir, RUN_OVER_BUDGET, a);
    if (strcmp(argv[3], "policy_violation") == 0) return run_kill(dir, RUN_POLICY_VIOLATION, a);
  }
  return bad_call();
}
