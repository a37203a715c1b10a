/* csn/policy.h - what a sandbox may do: one document, compiled once, asked often.
 *
 * Input:  policy documents (docs/POLICY.md): our own, or the settings of other sandboxes mapped to the same
 * table; then questions: may it connect, may the agent call this tool, is this path an artifact. Output: a
 * csn_verdict that names the rule that decided, and a sentence that a person or a model can act on. Memory:
 * csn_policy is the caller's, fixed size, without pointers; compiling works in an arena. Errors: the -300
 * band with the JSON pointer of the field at fault; the table is then empty, which denies everything.
 *
 * Default and every ambiguity is deny. Adding a deny rule never allows more. */
#ifndef CSN_POLICY_H
#define CSN_POLICY_H

#include "csn/doc.h"
#include "csn/host.h"

#define CSN_POLICY_DOC_MAX      131072u /* bytes: one document */
#define CSN_POLICY_VALUES_MAX   4096u   /* items: values in one document */
#define CSN_POLICY_NET_MAX      512u    /* items: network rules */
#define CSN_POLICY_INJECT_MAX   32u  /* items: credentials put in on the way out; one bit each in an answer */
#define CSN_POLICY_TOOL_MAX     256u /* items: tool rules */
#define CSN_POLICY_PUSH_MAX     64u  /* items: rules for git pushes */
#define CSN_POLICY_GLOB_MAX     64u  /* items: artifact globs, include and exclude together */
#define CSN_POLICY_PATTERN_MAX  512u /* bytes: one pattern */
#define CSN_POLICY_TEXT_CAP     49152u  /* bytes: all patterns and names of a table */
#define CSN_POLICY_SENTENCE_MAX 2048u   /* bytes: what csn_policy_sentence writes at most */
#define CSN_POLICY_PRINT_MAX    262144u /* bytes: what csn_policy_print writes at most */
#define CSN_POLICY_NO_RULE      0xffffu

typedef enum csn_action { CSN_DENY = 0, CSN_ALLOW = 1, CSN_ASK = 2 } csn_action;

/* Why a verdict is what it is. */
typedef enum csn_why {
  CSN_WHY_DEFAULT,  /* no rule matched */
  CSN_WHY_RULE,     /* verdict.rule decided */
  CSN_WHY_RANGE,    /* the address is in a special range and no rule names it; verdict.class says which */
  CSN_WHY_BAD_HOST, /* what was asked for is no host or no port */
  CSN_WHY_BAD_PATH, /* a path that is too long to be judged */
  CSN_WHY_DOUBT,    /* a shell command that cannot be taken apart safely, or whose commands cannot be seen */
  CSN_WHY_UNLISTED, /* tools.allow is there and does not name it */
  CSN_WHY_NO_RULES, /* there are no rules of this kind: allowed */
  CSN_WHY_PUSH      /* a push that no rule names: git.push_approval decided */
} csn_why;

typedef struct csn_verdict {
  uint8_t action; /* csn_action */
  uint8_t why;    /* csn_why */
  uint8_t class;  /* csn_addr_class of the address, CSN_ADDR_PUBLIC when there is none */
  uint8_t list;   /* CSN_LIST_* of the rule */
  uint16_t rule;  /* index in its list of the document, CSN_POLICY_NO_RULE when no rule decided */
  uint16_t slot;  /* index in the table */
} csn_verdict;

enum csn_list {
  CSN_LIST_NET_ALLOW,
  CSN_LIST_NET_DENY,
  CSN_LIST_TOOL_ALLOW,
  CSN_LIST_TOOL_DENY,
  CSN_LIST_TOOL_ASK,
  CSN_LIST_PUSH_ALLOW,
  CSN_LIST_PUSH_DENY,
  CSN_LIST_PUSH_ASK
};

typedef struct csn_text_ref {
  uint16_t off, len; /* bytes in csn_policy.text */
} csn_text_ref;

enum csn_net_kind { CSN_NET_NAME, CSN_NET_WILD, CSN_NET_CIDR, CSN_NET_ANY };

typedef struct csn_net_rule {
  csn_addr net;      /* CIDR */
  csn_text_ref host; /* NAME: the name; WILD: what follows "*." */
  uint16_t port;     /* 0: every port */
  uint16_t rule;     /* index in its list of the document it came from */
  uint16_t next;     /* next rule with the same hash slot + 1, 0 at the end */
  uint8_t kind;      /* csn_net_kind */
  uint8_t action;    /* csn_action */
  uint8_t bits;      /* CIDR: of 128 */
  uint8_t source;    /* 0: the document itself; 1: a preset below it */
} csn_net_rule;

enum csn_inject_flag { CSN_INJECT_BODY = 1 };

/* A credential. With a header name: that header is set on requests to the host. Without: the secret's
 * placeholder is replaced in headers, and with CSN_INJECT_BODY in small JSON bodies too. */
typedef struct csn_inject_rule {
  csn_net_rule match;
  csn_text_ref header, secret;
  csn_text_ref format; /* empty, or a text with one "{}" where the secret goes */
  uint8_t flags;
} csn_inject_rule;

typedef struct csn_push_rule {
  csn_net_rule match; /* action: any csn_action */
  csn_text_ref path;  /* of the repository, without ".git"; empty: every one. Lower case unless it allows */
} csn_push_rule;

typedef struct csn_tool_rule {
  csn_text_ref tool; /* may end in '*' for MCP servers */
  csn_text_ref spec; /* between the parentheses; empty: every call */
  uint16_t rule;     /* index in its list */
  uint8_t action;
  uint8_t source;
} csn_tool_rule;

/* The tool rules of a policy, wherever they are kept. */
typedef struct csn_tool_table {
  const csn_tool_rule *rules;
  const uint8_t *text; /* the rules' references point into it */
  uint32_t count, text_len;
  bool listed; /* tools.allow was given: what it does not name is denied */
} csn_tool_table;

/* 0 where the policy does not say. */
typedef struct csn_policy_limits {
  uint32_t wall_s, idle_s, turns, memory_mb, cpus_milli, processes, disk_mb;
  uint32_t tool_calls, tokens, output_tokens;
  uint64_t cost_micro_usd, output_bytes;
} csn_policy_limits;

typedef struct csn_policy {
  uint8_t network_default; /* csn_action: DENY or ALLOW */
  uint8_t private_allowed; /* private, unique local and loopback addresses need no rule of their own */
  uint8_t tools_listed;    /* tools.allow was given: what it does not name is denied */
  uint8_t websockets;      /* WebSocket upgrades are let through to allowed hosts */
  uint8_t push_approval;   /* git pushes that no rule names wait for an approval */
  uint16_t push_count;
  uint16_t net_count, inject_count, tool_count, include_count, exclude_count, cidr_count;
  uint32_t text_len;
  csn_policy_limits limits;
  uint16_t slots[1024];              /* net rule + 1 by hash of the reversed name */
  uint16_t any;                      /* first ANY rule + 1, chained by next */
  uint16_t cidr[CSN_POLICY_NET_MAX]; /* CIDR rules, most specific first */
  csn_net_rule net[CSN_POLICY_NET_MAX];
  csn_inject_rule inject[CSN_POLICY_INJECT_MAX];
  csn_push_rule push[CSN_POLICY_PUSH_MAX];
  csn_tool_rule tools[CSN_POLICY_TOOL_MAX];
  csn_text_ref include[CSN_POLICY_GLOB_MAX], exclude[CSN_POLICY_GLOB_MAX];
  uint8_t text[CSN_POLICY_TEXT_CAP];
} csn_policy;

/* Denies everything. */
void csn_policy_init(csn_policy *p);

/* The dialects of csn_policy_compile. AUTO tells them apart by their top-level members. */
typedef enum csn_policy_dialect {
  CSN_POLICY_AUTO,
  CSN_POLICY_OWN,            /* docs/POLICY.md */
  CSN_POLICY_CLAUDE,         /* Claude Code settings.json: sandbox.network, permissions */
  CSN_POLICY_E2B,            /* E2B `network` */
  CSN_POLICY_DOCKER,         /* {"docker": ["--policy", "deny", "--allow-host", ...]} */
  CSN_POLICY_SANDBOX_RUNTIME /* sandbox-runtime settings: network, filesystem */
} csn_policy_dialect;
const char *csn_policy_dialect_text(csn_policy_dialect d);

/* Replaces *p; with `add`, lays the document (a session's own) over what is there (a preset): rules add up,
 * single values replace. `dialect` says what to read it as. `report` gets one JSON object per setting that
 * has no equal here, comma separated:
 * {"pointer":"/...","why":"..."}; it is cut, never over-run, when `report` is full. *dialect, AUTO going in,
 * is then the one that was found. On an error *p denies everything and *bad points at the field. */
csn_err csn_policy_compile(csn_policy *p, csn_arena *a, csn_span doc, csn_policy_dialect *dialect, bool add,
                           csn_fx *report, csn_pointer *bad);

/* May the sandbox connect to host:port? `addr` is the address that the connection would go, or went, to; NULL
 * when the host is a name that is not resolved (the answer then speaks of the name alone: ask again with the
 * address). */
csn_verdict csn_policy_net(const csn_policy *p, const csn_host *host, uint16_t port, const csn_addr *addr);
/* Bit i: inject rule i applies to host:port. Ask only after an ALLOW. */
uint32_t csn_policy_inject(const csn_policy *p, const csn_host *host, uint16_t port);

/* May this git push pass, once its host may be connected to? `path` is the request's, without its query:
 * /<repository>/git-receive-pack; one that can be written in several ways is taken for every repository by
 * rules that deny or hold, and for none by those that allow. ASK: it waits for an approval. */
csn_verdict csn_policy_push(const csn_policy *p, const csn_host *host, uint16_t port, csn_span path);

/* May the agent call this tool? `arg` is what the rules of that tool speak of: the command of Bash, the path
 * of Read, Edit, Write and their like, the URL of WebFetch, the name of a subagent; empty when there is none.
 * `cut`: arg is only the head of the real one, so that a rule that would allow it cannot. `cwd` and `home`
 * are absolute. */
typedef struct csn_tool_call {
  csn_span tool, arg, cwd, home;
  bool cut;
} csn_tool_call;
/* bytes of room that `scratch` needs; it is as before afterwards. A command that is longer is denied where a
 * rule denies commands. */
#define CSN_TOOL_SCRATCH 32768u
csn_verdict csn_policy_tool(const csn_policy *p, const csn_tool_call *call, csn_arena *scratch);
/* The same of rules that are kept elsewhere than in a csn_policy; they live as long as the table. */
csn_tool_table csn_policy_tools(const csn_policy *p);
csn_verdict csn_tools_check(const csn_tool_table *t, const csn_tool_call *call, csn_arena *scratch);
/* Whether a rule with this action names the tool, whatever it is called with. */
bool csn_tools_name(const csn_tool_table *t, csn_span tool, csn_action action);
csn_span csn_tool_text(const csn_tool_table *t, csn_text_ref ref);
/* Takes Tool or Tool(specifier) apart; an empty specifier stands for every call, as does (*). Tool names are
 * letters, digits, '_', '-', '.', and a '*' at the end of mcp__... */
csn_err csn_tool_split(csn_span rule, csn_span *tool, csn_span *spec);

/* Is this path, relative to the workspace, an artifact? Included by default. */
bool csn_policy_artifact(const csn_policy *p, csn_span path);

/* One sentence, plain text: the verdict, the rule, and for a denial how to ask for access. `what` is the host
 * with its port, the tool call or the path, as the reader knows it. */
void csn_policy_sentence(const csn_policy *p, csn_verdict v, csn_span what, csn_fx *out);
/* "network.allow[3]", "tools.deny[0]", "network.default", "network.private_ranges" ...; a rule's own pattern
 * follows in csn_policy_pattern. Fewer than 48 bytes. */
void csn_policy_rule_name(csn_verdict v, csn_fx *out);
void csn_policy_pattern(const csn_policy *p, csn_verdict v, csn_fx *out);
/* csn_policy_sentence and csn_policy_pattern for a verdict of csn_tools_check. */
void csn_tools_sentence(const csn_tool_table *t, csn_verdict v, csn_span what, csn_fx *out);
void csn_tools_pattern(const csn_tool_table *t, csn_verdict v, csn_fx *out);
/* The table as a document of our own dialect, canonical: compiling it again gives the same table. */
void csn_policy_print(const csn_policy *p, csn_fx *out);

#endif
