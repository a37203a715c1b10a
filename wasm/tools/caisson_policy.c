/* caisson_policy.c - asks a policy document questions and prints it as the core understands it. */
#include "csn/policy.h"

#include "cJSON.h"
#include "error_text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage_text[] =
    "usage: caisson-policy check   [OPTION]... POLICY.json QUESTION...\n"
    "       caisson-policy explain [OPTION]... POLICY.json\n"
    "\n"
    "check prints a verdict and its reason for each question; explain prints the compiled table as a "
    "document of\n"
    "Caisson's own dialect, and what of the document has no equal there. POLICY.json is Caisson's own "
    "document,\n"
    "or the settings of Claude Code, E2B, Docker sandboxes or sandbox-runtime; - reads standard input.\n"
    "\n"
    "A question is\n"
    "  HOST:PORT          may the sandbox connect?   api.example.com:443, 10.0.0.1:22, [2001:db8::1]:443\n"
    "  HOST:PORT@ADDRESS  the same, with the address that the name resolved to\n"
    "  TOOL or TOOL(ARG)  may the agent call it?     'Bash(git diff --stat)', 'Read(~/.ssh/id_rsa)', "
    "mcp__files__read\n"
    "  push HOST/PATH     may git push there?        'push git.example/acme/site.git', push "
    "git.example:8443/x\n"
    "  PATH               is it an artifact?         ./src/main.c, relative to the workspace\n"
    "\n"
    "  --dialect NAME  caisson, claude-code, e2b, docker-sandbox, sandbox-runtime (default: told by the "
    "members)\n"
    "  --presets FILE  the operator's presets as CAISSON_POLICIES has them, an object of policies by name: "
    "the one that\n"
    "                  POLICY.json names is put below it, as the Worker does; each of them is checked\n"
    "  --below FILE    one document that POLICY.json is laid over\n"
    "  --cwd DIR       working directory of tool calls (default /workspace)\n"
    "  --home DIR      home directory of tool calls (default /home/user)\n"
    "  --json          one JSON object per verdict\n"
    "  --help          this text\n"
    "\n"
    "Exit status: 0 all allowed, 1 something is denied, 64 for a bad call, 65 for a bad document, 66 when a "
    "file\n"
    "cannot be read.\n";

#define PRESETS_MAX        8388608u  /* bytes: a file of presets */
#define PRESETS_VALUES_MAX 262144u   /* items: values in it */
#define TREE_CAP           33554432u /* bytes: such a file as cJSON holds it */

static csn_policy policy;
/* What the questions work in; the file of presets and the policy as trees, which are used to the end. */
static csn_arena arena, presets_tree, policy_tree;
static uint8_t report_box[65536];
static _Alignas(8) uint8_t print_box[CSN_POLICY_PRINT_MAX];
static struct {
  bool json;
  const char *cwd, *home;
} options = {false, "/workspace", "/home/user"};

static void fail(int status, const char *what, const char *detail) {
  fprintf(stderr, "caisson-policy: %s: %s\n", what, detail);
  exit(status);
}

/* At most max + 1 bytes, so that a longer file is seen to be one. The caller frees it. */
static char *read_file(const char *name, size_t max, size_t *len) {
  FILE *f = strcmp(name, "-") == 0 ? stdin : fopen(name, "rb");
  if (f == NULL) fail(66, name, strerror(errno));
  char *text = malloc(max + 1);
  if (text == NULL) abort();
  *len = fread(text, 1, max + 1, f);
  if (ferror(f)) fail(66, name, strerror(errno));
  if (f != stdin) fclose(f);
  return text;
}

static csn_arena new_arena(size_t cap) {
  csn_arena a = {malloc(cap), (uint32_t)cap, 0};
  if (a.base == NULL) abort();
  return a;
}

/* `above`: what the text is a member of, for the message; empty for a file of its own. */
static void compile(const char *name, const char *above, csn_span text, csn_policy_dialect dialect, bool add,
                    csn_fx *report, csn_policy_dialect *found) {
  csn_pointer bad;
  *found = dialect;
  csn_err err = csn_policy_compile(&policy, &arena, text, found, add, report, &bad);
  if (err == CSN_ERR_OK) return;
  fprintf(stderr, "caisson-policy: %s: at \"%s%s%.*s\": %s\n", name, *above ? "/" : "", above, (int)bad.len,
          (const char *)bad.bytes, error_text(err));
  exit(65);
}

/* A value of a tree as text again; it lives until the next call. */
static csn_span printed(const cJSON *item) {
  static char *box = NULL;
  free(box);
  box = malloc(PRESETS_MAX + 1);
  if (box == NULL) abort();
  /* The tree does not change. */
  if (!cJSON_PrintPreallocated((cJSON *)(uintptr_t)item, box, (int)PRESETS_MAX, false)) abort();
  return csn_span_str(box);
}

/* Compiles the operator's presets one by one, each of which must be good by itself, and answers their object.
 */
static const cJSON *read_presets(const char *name) {
  size_t len;
  const cJSON *root;
  csn_policy_dialect found;
  char *text = read_file(name, PRESETS_MAX, &len);
  if (len > PRESETS_MAX) fail(65, name, "the file is longer than 8 MiB");
  presets_tree = new_arena(TREE_CAP);
  csn_err err = csn_doc_parse(&presets_tree, csn_span_of(text, (uint32_t)len), PRESETS_VALUES_MAX, &root);
  free(text);
  if (err != CSN_ERR_OK) fail(65, name, error_text(err));
  if (!cJSON_IsObject(root)) fail(65, name, "presets are a JSON object of policies by name");
  for (const cJSON *item = root->child; item != NULL; item = item->next) {
    csn_fx report = {report_box, sizeof report_box, 0};
    if (csn_doc_seen_before(root, item)) fail(65, name, "two presets have the same name");
    compile(name, item->string, printed(item), CSN_POLICY_AUTO, false, &report, &found);
  }
  return root;
}

/* Compiles POLICY.json over the preset of the operator's that it names, or as it is when it names none of
 * them. */
static void compile_over(const char *name, csn_span text, csn_policy_dialect dialect, const cJSON *presets,
                         csn_fx *report, csn_policy_dialect *found) {
  const cJSON *root;
  policy_tree = new_arena(CSN_ARENA_CAP);
  csn_err err = text.len > CSN_POLICY_DOC_MAX
                    ? CSN_ERR_TOO_LONG
                    : csn_doc_parse(&policy_tree, text, CSN_POLICY_VALUES_MAX, &root);
  const cJSON *named = err == CSN_ERR_OK ? cJSON_GetObjectItemCaseSensitive(root, "preset") : NULL;
  const cJSON *preset =
      cJSON_IsString(named) ? cJSON_GetObjectItemCaseSensitive(presets, named->valuestring) : NULL;
  if (preset != NULL) {
    csn_fx unread = {report_box, sizeof report_box, 0};
    compile("preset", named->valuestring, printed(preset), CSN_POLICY_AUTO, false, &unread, found);
    cJSON_DetachItemViaPointer((cJSON *)(uintptr_t)root, (cJSON *)(uintptr_t)named);
    text = printed(root);
  }
  compile(name, "", text, dialect, preset != NULL, report, found);
}

static void print_verdict(csn_verdict v, csn_span what) {
  static const char *const words[] = {"deny", "allow", "ask"};
  csn_fx out = {print_box, sizeof print_box, 0};
  if (options.json) {
    static _Alignas(8) uint8_t sentence[CSN_POLICY_SENTENCE_MAX];
    csn_fx s = {sentence, sizeof sentence, 0};
    csn_put_str(&out, "{\"question\":\"");
    csn_put_escaped(&out, what);
    csn_put_str(&out, "\",\"verdict\":\"");
    csn_put_str(&out, words[v.action]);
    csn_put_str(&out, "\",\"rule\":\"");
    csn_policy_rule_name(v, &out);
    csn_policy_sentence(&policy, v, what, &s);
    csn_put_str(&out, "\",\"reason\":\"");
    csn_put_escaped(&out, csn_span_of(sentence, s.len));
    csn_put_str(&out, "\"}");
  } else {
    csn_put_str(&out, words[v.action]);
    csn_put_str(&out, v.action == CSN_ALLOW ? "  " : v.action == CSN_ASK ? "    " : "   ");
    csn_policy_sentence(&policy, v, what, &out);
  }
  fwrite(print_box, 1, out.len, stdout);
  putchar('\n');
}

static bool is_tool(const char *q) {
  return strchr(q, '(') != NULL || strncmp(q, "mcp__", 5) == 0 ||
         (q[0] >= 'A' && q[0] <= 'Z' && strpbrk(q, ".:/") == NULL);
}

static csn_verdict ask_tool(const char *q) {
  csn_tool_call call = {
      csn_span_str(q), {NULL, 0}, csn_span_str(options.cwd), csn_span_str(options.home), false};
  const char *open = strchr(q, '(');
  if (open != NULL) {
    call.tool.len = (uint32_t)(open - q);
    call.arg = csn_span_str(open + 1);
    if (call.arg.len > 0 && call.arg.ptr[call.arg.len - 1] == ')') call.arg.len--;
  }
  arena.used = 0;
  return csn_policy_tool(&policy, &call, &arena);
}

static csn_verdict ask_net(csn_span q) {
  csn_host host, at;
  uint16_t port = 0;
  uint32_t split = 0;
  while (split < q.len && q.ptr[split] != '@')
    split++;
  csn_verdict bad = {CSN_DENY, CSN_WHY_BAD_HOST, CSN_ADDR_PUBLIC, 0, CSN_POLICY_NO_RULE, CSN_POLICY_NO_RULE};
  if (csn_hostport_parse(csn_span_of(q.ptr, split), &host, &port) != CSN_ERR_OK || port == 0) return bad;
  if (split == q.len) return csn_policy_net(&policy, &host, port, NULL);
  if (csn_host_parse(csn_span_of(q.ptr + split + 1, q.len - split - 1), &at) != CSN_ERR_OK || !at.is_addr)
    return bad;
  return csn_policy_net(&policy, &host, port, &at.addr);
}

/* What stands before the path is a host with or without a port, as in a URL. */
static csn_verdict ask_push(csn_span q) {
  static char path[8192];
  csn_host host;
  uint16_t port = 0;
  uint32_t slash = csn_span_find(q, '/');
  csn_verdict bad = {CSN_DENY, CSN_WHY_BAD_HOST, CSN_ADDR_PUBLIC, 0, CSN_POLICY_NO_RULE, CSN_POLICY_NO_RULE};
  csn_span where = csn_span_of(q.ptr, slash);
  if (csn_hostport_parse(where, &host, &port) != CSN_ERR_OK) return bad;
  int n =
      snprintf(path, sizeof path, "%.*s/git-receive-pack", (int)(q.len - slash), (const char *)q.ptr + slash);
  if (n < 0 || (size_t)n >= sizeof path) return bad;
  return csn_policy_push(&policy, &host, port == 0 ? 443 : port, csn_span_str(path));
}

static csn_verdict ask_artifact(csn_span path) {
  if (path.len > 2 && path.ptr[0] == '.' && path.ptr[1] == '/')
    path = csn_span_of(path.ptr + 2, path.len - 2);
  bool yes = csn_policy_artifact(&policy, path);
  return (csn_verdict){yes ? CSN_ALLOW : CSN_DENY, 0, 0, 0, CSN_POLICY_NO_RULE, CSN_POLICY_NO_RULE};
}

static bool check(const char *q) {
  csn_span what = csn_span_str(q);
  csn_verdict v;
  if (strncmp(q, "push ", 5) == 0) {
    v = ask_push(csn_span_str(q + 5));
  } else if (is_tool(q)) {
    v = ask_tool(q);
  } else if (q[0] != '.' && strchr(q, ':') != NULL) {
    v = ask_net(what);
  } else {
    v = ask_artifact(what);
    if (options.json)
      printf("{\"question\":\"%s\",\"verdict\":\"%s\",\"rule\":\"artifacts\"}\n", q,
             v.action == CSN_ALLOW ? "allow" : "deny");
    else
      printf("%s%s %s an artifact by the policy's include and exclude globs.\n",
             v.action == CSN_ALLOW ? "allow  " : "deny   ", q, v.action == CSN_ALLOW ? "is" : "is not");
    return v.action == CSN_ALLOW;
  }
  print_verdict(v, what);
  return v.action == CSN_ALLOW;
}

static void explain(csn_policy_dialect found, const csn_fx *report) {
  csn_fx out = {print_box, sizeof print_box, 0};
  csn_put_str(&out, "{\"dialect\":\"");
  csn_put_str(&out, csn_policy_dialect_text(found));
  csn_put_str(&out, "\",\"policy\":");
  csn_policy_print(&policy, &out);
  csn_put_str(&out, ",\"unmapped\":[");
  if (report->len > csn_fx_room(&out) - 8) fail(70, "explain", "the report is too long");
  csn_fx_put(&out, report->base, report->len);
  csn_put_str(&out, "]}");
  fwrite(print_box, 1, out.len, stdout);
  putchar('\n');
}

static csn_policy_dialect dialect_by_name(const char *name) {
  for (int d = CSN_POLICY_OWN; d <= CSN_POLICY_SANDBOX_RUNTIME; d++)
    if (strcmp(name, csn_policy_dialect_text((csn_policy_dialect)d)) == 0) return (csn_policy_dialect)d;
  fail(64, "--dialect", "caisson, claude-code, e2b, docker-sandbox or sandbox-runtime");
  return CSN_POLICY_AUTO;
}

int main(int argc, char **argv) {
  csn_policy_dialect dialect = CSN_POLICY_AUTO, found;
  csn_fx report = {report_box, sizeof report_box, 0};
  const char *below = NULL, *presets = NULL;
  int at = 2;
  if (argc < 2 || strcmp(argv[1], "--help") == 0) {
    fputs(usage_text, argc < 2 ? stderr : stdout);
    return argc < 2 ? 64 : 0;
  }
  bool checking = strcmp(argv[1], "check") == 0;
  if (!checking && strcmp(argv[1], "explain") != 0) fail(64, argv[1], "check or explain; --help says more");
  for (; at < argc && argv[at][0] == '-' && argv[at][1] == '-'; at++) {
    const char *name = argv[at];
    if (strcmp(name, "--help") == 0) return fputs(usage_text, stdout), 0;
    if (strcmp(name, "--json") == 0) {
      options.json = true;
      continue;
    }
    if (at + 1 >= argc) fail(64, name, "needs a value, or is no option; --help says more");
    const char *value = argv[++at];
    if (strcmp(name, "--dialect") == 0)
      dialect = dialect_by_name(value);
    else if (strcmp(name, "--below") == 0)
      below = value;
    else if (strcmp(name, "--presets") == 0)
      presets = value;
    else if (strcmp(name, "--cwd") == 0)
      options.cwd = value;
    else if (strcmp(name, "--home") == 0)
      options.home = value;
    else
      fail(64, name, "no such option; --help says more");
  }
  if (at >= argc) fail(64, argv[1], "which POLICY.json?");
  if (below != NULL && presets != NULL) fail(64, "--below", "not together with --presets");
  arena = new_arena(CSN_ARENA_CAP);
  size_t len;
  char *text;
  if (below != NULL) {
    text = read_file(below, CSN_POLICY_DOC_MAX, &len);
    compile(below, "", csn_span_of(text, (uint32_t)len), CSN_POLICY_AUTO, false, &report, &found);
    free(text);
  }
  const cJSON *named = presets != NULL ? read_presets(presets) : NULL;
  const char *file = argv[at++];
  text = read_file(file, CSN_POLICY_DOC_MAX, &len);
  if (named != NULL)
    compile_over(file, csn_span_of(text, (uint32_t)len), dialect, named, &report, &found);
  else
    compile(file, "", csn_span_of(text, (uint32_t)len), dialect, below != NULL, &report, &found);
  free(text);
  if (!checking) {
    if (at < argc) fail(64, argv[at], "explain takes no question");
    explain(found, &report);
    return 0;
  }
  if (at >= argc) fail(64, "check", "what is the question? --help says more");
  bool all = true;
  for (; at < argc; at++)
    all = check(argv[at]) && all;
  return all ? 0 : 1;
}
