/* policy_table.h - what the parts of the policy module share; not public. */
#ifndef CSN_POLICY_TABLE_H
#define CSN_POLICY_TABLE_H

#include "csn/policy.h"

#define CSN_POLICY_SLOTS     1024u /* heads of csn_policy.slots; twice CSN_POLICY_NET_MAX keeps chains short */
#define CSN_POLICY_HASH_SEED 2166136261u

/* The text lies in p. */
csn_span csn_policy_text(const csn_policy *p, csn_text_ref ref);
/* Names are hashed from their end, so that the hash of a suffix is met on the way. */
uint32_t csn_policy_hash(uint32_t h, uint8_t c);
uint32_t csn_policy_hash_name(csn_span name);
bool csn_policy_rule_matches(const csn_policy *p, const csn_net_rule *r, const csn_host *host, uint16_t port);

/* Appends; CSN_ERR_NO_MEMORY when the table is full. */
csn_err csn_policy_add_text(csn_policy *p, csn_span text, csn_text_ref *out);
/* A host pattern of our own dialect: name, *.name, address, CIDR, "*", each with an optional port. `strict`
 * refuses a rule that the same list of the same document has already (CSN_ERR_BAD_VALUE); else it is dropped.
 */
csn_err csn_policy_add_net(csn_policy *p, csn_span pattern, csn_action action, uint32_t rule, uint8_t source,
                           bool strict);
csn_err csn_policy_parse_net(csn_policy *p, csn_span pattern, csn_net_rule *out);
bool csn_policy_same_net(const csn_policy *p, const csn_net_rule *a, const csn_net_rule *b);
/* A rule for pushes: HOST[:PORT][/PATH], PATH as csn_glob_path has it. The same one twice in a list of one
 * document is CSN_ERR_BAD_VALUE. */
csn_err csn_policy_add_push(csn_policy *p, csn_span text, csn_action action, uint32_t rule, uint8_t source);
/* A header's or a secret's name: letters, digits, - and _, a part of what RFC 9110 allows in a field name. */
bool csn_policy_is_token(csn_span s);
/* A tool rule of Claude Code's form: Tool or Tool(specifier). */
csn_err csn_policy_add_tool(csn_policy *p, csn_span text, csn_action action, uint32_t rule, uint8_t source);
/* Brings the index of names and the order of CIDR rules up to date. */
void csn_policy_index(csn_policy *p);

/* The dialects other than our own (policy_dialect.c). */
struct cJSON;
typedef struct csn_policy_reader {
  csn_policy *p;
  csn_arena *arena;
  csn_fx *report;
  csn_pointer *bad;
  uint32_t report_start; /* bytes of report before the first entry */
  uint8_t source;
} csn_policy_reader;
csn_err csn_policy_read_claude(csn_policy_reader *r, const struct cJSON *root);
csn_err csn_policy_read_e2b(csn_policy_reader *r, const struct cJSON *root);
csn_err csn_policy_read_docker(csn_policy_reader *r, const struct cJSON *root);
csn_err csn_policy_read_runtime(csn_policy_reader *r, const struct cJSON *root);
/* One entry of the report, for the field that r->bad points at. */
void csn_policy_unmapped(csn_policy_reader *r, const char *why);

#endif
