/* The first line is a document, the rest are questions. Oracles: nothing is over-run; a printed table answers
 * as the first one did and prints the same; one more deny never allows more; keywords hide nothing from a
 * deny rule. */
#include "csn/policy.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static csn_policy one, two;
static _Alignas(8) uint8_t memory[CSN_ARENA_CAP], text[CSN_POLICY_PRINT_MAX], text2[CSN_POLICY_PRINT_MAX],
    report[512];

static csn_err compile(csn_policy *p, csn_span doc, csn_policy_dialect d, bool add) {
  csn_arena a = {memory, sizeof memory, 0};
  csn_fx r = {report, sizeof report, 0};
  csn_pointer bad;
  return csn_policy_compile(p, &a, doc, &d, add, &r, &bad);
}

static csn_span line(const uint8_t *data, size_t size, size_t *at) {
  size_t end = *at;
  while (end < size && data[end] != '\n')
    end++;
  csn_span s = csn_span_of(data + *at, (uint32_t)(end - *at));
  *at = end + 1;
  return s;
}

static csn_tool_call tool_call(csn_span q) {
  uint32_t split = csn_span_find(q, ' ');
  return (csn_tool_call){csn_span_of(q.ptr, split), csn_span_of(q.ptr + split, q.len - split),
                         csn_span_str("/workspace"), csn_span_str("/home/user"), false};
}

/* In memory of its own that ends with the copy of the command, where a sanitizer sees a byte behind it. */
static void in_exact_room(const csn_tool_call *call, csn_action want) {
  if (!csn_span_is(call->tool, "Bash")) return;
  uint32_t cap = (call->arg.len + 7u) & ~7u;
  csn_arena a = {malloc(cap), cap, 0};
  if (a.base != NULL && csn_policy_tool(&one, call, &a).action != want) abort();
  free(a.base);
}

/* Under the rules that only deny. What is put around the command closes nothing that it leaves open. */
static void behind_keywords(csn_span command) {
  static const char before[] = "! if ", after[] = "\nthen :; fi";
  const uint32_t head = sizeof before - 1, tail = sizeof after - 1;
  static uint8_t line[16384];
  /* A backslash at the end would take the newline away. */
  if (command.len == 0 || command.len > sizeof line - head - tail || command.ptr[command.len - 1] == '\\')
    return;
  csn_arena a = {memory, sizeof memory, 0};
  csn_tool_call call = {csn_span_str("Bash"), command, csn_span_str("/"), csn_span_str("/"), false};
  if (csn_policy_tool(&two, &call, &a).action == CSN_ALLOW) return;
  memcpy(line, before, head);
  memcpy(line + head, command.ptr, command.len);
  memcpy(line + head + command.len, after, tail);
  call.arg = csn_span_of(line, head + command.len + tail);
  if (csn_policy_tool(&two, &call, &a).action == CSN_ALLOW) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  size_t at = 0;
  csn_span doc = line(data, size, &at);
  if (compile(&one, doc, CSN_POLICY_AUTO, false) != CSN_ERR_OK) return 0;
  csn_fx out = {text, sizeof text, 0}, out2 = {text2, sizeof text2, 0};
  csn_policy_print(&one, &out);
  if (compile(&two, csn_span_of(text, out.len), CSN_POLICY_OWN, false) != CSN_ERR_OK)
    return 0; /* mapped lists may repeat a rule of a preset */
  csn_policy_print(&two, &out2);
  if (out.len != out2.len || memcmp(text, text2, out.len) != 0) abort();
  while (at < size) {
    csn_span q = line(data, size, &at);
    csn_host h;
    uint16_t port;
    csn_arena a = {memory, sizeof memory, 0};
    static uint8_t words[CSN_POLICY_SENTENCE_MAX];
    csn_fx sentence = {words, sizeof words, 0};
    if (csn_hostport_parse(q, &h, &port) == CSN_ERR_OK) {
      csn_verdict v = csn_policy_net(&one, &h, port, NULL), w = csn_policy_net(&two, &h, port, NULL);
      if (v.action != w.action) abort();
      csn_policy_sentence(&one, v, q, &sentence);
      csn_policy_inject(&one, &h, port);
    }
    uint32_t slash = csn_span_find(q, '/');
    if (csn_hostport_parse(csn_span_of(q.ptr, slash), &h, &port) == CSN_ERR_OK) {
      csn_span path = csn_span_of(q.ptr + slash, q.len - slash);
      csn_verdict v = csn_policy_push(&one, &h, port, path), w = csn_policy_push(&two, &h, port, path);
      if (v.action != w.action) abort();
      sentence.len = 0;
      csn_policy_sentence(&one, v, q, &sentence);
    }
    csn_tool_call call = tool_call(q);
    csn_verdict t = csn_policy_tool(&one, &call, &a), u = csn_policy_tool(&two, &call, &a);
    if (t.action != u.action) abort();
    in_exact_room(&call, (csn_action)t.action);
    sentence.len = 0;
    csn_policy_sentence(&one, t, q, &sentence);
    csn_policy_artifact(&one, q);
  }
  static const char deny[] =
      "{\"network\":{\"deny\":[\"*.test\",\"10.0.0.0/8\"]},\"tools\":{\"deny\":[\"Bash(rm:*)\","
      "\"Read(~/.ssh/**)\",\"mcp__x__*\",\"WebFetch(domain:a.test)\"]},"
      "\"git\":{\"push\":{\"deny\":[\"*.test/x\",\"git.example/a*/**\"],\"ask\":[\"git.example\"]}}}";
  if (compile(&two, csn_span_of(text, out.len), CSN_POLICY_OWN, false) != CSN_ERR_OK) return 0;
  if (compile(&two, csn_span_str(deny), CSN_POLICY_OWN, true) != CSN_ERR_OK) return 0;
  for (at = doc.len + 1; at < size;) {
    csn_span q = line(data, size, &at);
    csn_host h;
    uint16_t port;
    csn_arena a = {memory, sizeof memory, 0};
    csn_tool_call call = tool_call(q);
    if (csn_policy_tool(&two, &call, &a).action == CSN_ALLOW &&
        csn_policy_tool(&one, &call, &a).action != CSN_ALLOW)
      abort();
    /* What is cut can only be judged more strictly. */
    call.cut = true;
    if (csn_policy_tool(&one, &call, &a).action == CSN_ALLOW) {
      call.cut = false;
      if (csn_policy_tool(&one, &call, &a).action != CSN_ALLOW) abort();
    }
    uint32_t slash = csn_span_find(q, '/');
    if (csn_hostport_parse(csn_span_of(q.ptr, slash), &h, &port) == CSN_ERR_OK) {
      csn_span path = csn_span_of(q.ptr + slash, q.len - slash);
      csn_action before = (csn_action)csn_policy_push(&one, &h, port, path).action;
      csn_action after = (csn_action)csn_policy_push(&two, &h, port, path).action;
      if (after == CSN_ALLOW && before != CSN_ALLOW) abort();
      if (after == CSN_ASK && before == CSN_DENY) abort();
    }
    if (csn_hostport_parse(q, &h, &port) != CSN_ERR_OK) continue;
    if (csn_policy_net(&two, &h, port, NULL).action == CSN_ALLOW &&
        csn_policy_net(&one, &h, port, NULL).action != CSN_ALLOW)
      abort();
  }
  if (compile(&two, csn_span_str(deny), CSN_POLICY_OWN, false) != CSN_ERR_OK) abort();
  for (at = doc.len + 1; at < size;)
    behind_keywords(line(data, size, &at));
  return 0;
}
