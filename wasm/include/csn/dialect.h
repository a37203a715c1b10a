/* csn/dialect.h - what the files agent_*.c share: the captures of a line, the fields of an event, a run's
 * result and usage, the parts of a spec. Only they include it.
 *
 * Input:  captures of csn_json, which are escaped text, and the configuration of a run, which is not.
 * Output: fields of the event or of the spec that is open in the out-box.
 * Memory: nothing here holds any. Errors: none; what a line lacks is left out of the event. */
#ifndef CSN_DIALECT_H
#define CSN_DIALECT_H

#include "csn/agent.h"

/* --- a table of paths: rows X(node, parent, step, key, captured, verbatim, cap), the first one ROOT --- */
#define CSN_NODE_ENUM(node, parent, step, key, captured, verbatim, cap) N_##node,
#define CSN_NODE_ROW(node, parent, step, key, captured, verbatim, cap)                                       \
  {N_##parent, CSN_JS_##step, (captured) ? N_##node : 0, verbatim, cap, key},

/* --- a line --- */
struct csn_view {
  csn_emit *e;
  const csn_json *j; /* NULL for a line of stderr and for the end */
  csn_agent_run *run;
  csn_agent_memory *memory;
  const csn_prices *prices; /* the operator's own; may be NULL */
  csn_watching *watching;   /* NULL: nobody looks at tool calls */
};

const csn_json_item *csn_view_get(const csn_view *v, uint32_t node, uint32_t index);
/* The inside of a string; empty when the value is none. */
csn_span csn_view_text(const csn_view *v, uint32_t node, uint32_t index);
csn_words csn_view_words(const csn_view *v, uint32_t node, uint32_t index);
bool csn_view_same(const csn_view *v, uint32_t node, uint32_t index, const char *text, uint32_t len);
CSN_INLINE bool csn_view_is(const csn_view *v, uint32_t node, uint32_t index, const char *text) {
  return csn_view_same(v, node, index, text, csn_len_of(text));
}
/* A conversation's id; empty when it is none that can stand in a command line. */
csn_span csn_view_id(const csn_view *v, uint32_t node);
/* A whole, unsigned number; false when the value is none. */
bool csn_view_u64(const csn_view *v, uint32_t node, uint32_t index, uint64_t *out);
/* The number, 0 when there is none. */
uint64_t csn_view_count(const csn_view *v, uint32_t node);

/* --- an event --- */
/* One `raw` event. agent_type is written as `a` or `a/b` from escaped texts. */
void csn_put_raw_event(csn_view *v, const char *reason, csn_span a, csn_span b);
/* A string field, with its true length when it was cut; left out when the line has none. */
void csn_put_key_string(csn_view *v, const char *key, uint32_t key_len, uint32_t node, uint32_t index);
CSN_INLINE void csn_put_text(csn_view *v, const char *key, uint32_t node, uint32_t index) {
  csn_put_key_string(v, key, csn_len_of(key), node, index);
}
/* The same, empty when the line has none. */
void csn_put_key_long(csn_view *v, const char *key, uint32_t key_len, const csn_json_item *item);
CSN_INLINE void csn_put_long_text(csn_view *v, const char *key, const csn_json_item *item) {
  csn_put_key_long(v, key, csn_len_of(key), item);
}
/* `KEY_len`: the true length of a text that was cut. */
void csn_put_key_len(csn_fx *fx, const char *key, uint32_t key_len, uint64_t len);
/* A number or truth value verbatim, else null. */
void csn_put_key_scalar(csn_view *v, const char *key, uint32_t key_len, uint32_t node, uint32_t index);
CSN_INLINE void csn_put_scalar(csn_view *v, const char *key, uint32_t node, uint32_t index) {
  csn_put_key_scalar(v, key, csn_len_of(key), node, index);
}
void csn_put_text_or_null(csn_view *v, const char *key, uint32_t node);
/* JSON text verbatim when all of it was captured; else its head as a text (when head_key is not NULL) and its
 * length. */
void csn_put_json(csn_view *v, const char *key, const char *head_key, const char *len_key,
                  const csn_json_item *item);
/* The texts that `node` captured at array position `index`, joined by newlines, as field "text". */
void csn_put_joined(csn_view *v, uint32_t node, uint32_t index);
void csn_text64_set(csn_text64 *t, csn_span escaped);
csn_span csn_text64_span(const csn_text64 *t);

/* --- a run --- */
/* The id of the run's conversation, for the outcome; at most CSN_ID_CAP bytes, else nothing changes. */
void csn_run_id(csn_agent_run *run, csn_span id);
/* The conversation that the run is in. It becomes the one that was last in use. */
void csn_run_conversation(csn_view *v, csn_span id);
/* Its entry; NULL before csn_run_conversation. */
csn_conversation *csn_run_entry(csn_view *v);
/* The beginning of a model's answer. */
typedef struct csn_turn {
  csn_words id;     /* of the answer; empty: the dialect has none, every call is another answer */
  csn_words model;  /* empty: csn_agent_run.model */
  csn_words parent; /* tool call of the subagent that asked; empty in the main loop */
  csn_usage
      usage; /* tokens that the agent has named so far; usually all of the input, little of the output */
} csn_turn;
/* Counts an answer once, adds its tokens and their price to run->live, and tells `agent.turn`. Returns
 * whether it told one. */
bool csn_run_turn(csn_view *v, const csn_turn *turn);
/* The main loop's model has answered: what went wrong before, and was not the end, is not why the run ends.
 * Part of csn_run_turn and csn_run_said; for what else only an answer can bring. */
void csn_run_answered(csn_agent_run *run);
/* To be called by a dialect for a tool's result in the main loop: another turn follows. */
void csn_run_more(csn_agent_run *run);
/* For dialects that name no answers: a text or a thought of the main loop. The first one of the run, the
 * first one behind a tool's result and the first one behind an end marker begin an answer. */
void csn_run_said(csn_view *v);
/* What came on top of `before`, per number; a number that fell has started anew. turns, tool_calls and
 * cost_unknown are 0. */
csn_usage csn_usage_since(const csn_usage *now, const csn_usage *before);
/* Adds to the run's usage (tool_calls is not touched) and emits agent.usage. */
void csn_run_usage(csn_view *v, const csn_usage *delta);
/* The string of `node` becomes the run's text, or is put behind what is there; cut at CSN_FIELD_MAX. */
void csn_run_text(csn_view *v, uint32_t node, bool append);
void csn_run_no_text(csn_agent_run *run);
/* The dialect's end marker: the run has succeeded, which makes an earlier error forgotten, or failed for
 * `reason` (escaped). */
void csn_run_result(csn_agent_run *run, bool is_error, csn_span reason);
/* Words and HTTP status (0: none) of the run's error. */
void csn_run_error(csn_agent_run *run, const csn_words *message, uint64_t status);
/* agent.result of a run whose end marker has come, for agents whose marker has no fields of its own. `text`
 * is the run's text or the error's words. */
void csn_put_result_event(csn_view *v);
/* agent.error: what went wrong, whether or not it ends the run. `kind` may be empty, `status` 0. */
void csn_put_error_event(csn_view *v, const csn_words *kind, const csn_words *message, uint64_t status);
/* Anthropic's name for an HTTP status, as Claude Code reports it; NULL for one that is no error. */
const char *csn_kind_of_status(uint64_t status);
/* The first unsigned number behind `before` in the text; false when there is none. */
bool csn_number_after(csn_span text, const char *before, uint64_t *out);
bool csn_span_has(csn_span text, const char *part);
/* What follows the first `part`; the whole text when it is not there. */
csn_span csn_span_after(csn_span text, const char *part);
bool csn_span_starts(csn_span text, const char *start);
/* A field with a line of plain text: escaped, without ANSI sequences, cut after CSN_MESSAGE_CAP bytes,
 * then with its true length, escapes counted. */
void csn_put_plain(csn_fx *fx, const char *key, csn_span raw);
/* A line of plain text says why the agent cannot run: emits agent.error, and keeps reason and words for the
 * outcome. */
void csn_put_refusal(csn_view *v, const char *reason, csn_span raw_line);

/* --- rules of the policy, in the agent's own words --- */
struct csn_rule_out {
  uint8_t *base;
  uint32_t cap, len; /* bytes */
  const csn_tool_table *table;
  csn_span options; /* the run's own, which name its MCP servers */
};
/* `tool` or `tool(abc)`. */
void csn_rule_put(csn_rule_out *o, bool deny, csn_span tool, csn_span a, csn_span b, csn_span c);
/* Whether the specifier is `head:*`. */
bool csn_rule_prefix(csn_span spec, csn_span *head);
/* What a rule for tools of MCP servers, as mcp__SERVER__TOOL, says of this server: "*" when it is for all of
 * its tools, else what stands for TOOL, perhaps with a `*` at its end; empty when it is for another one. */
csn_span csn_rule_mcp(csn_span rule, csn_span server);
/* Whether the specifiers of the tool are paths. */
bool csn_rule_is_path(csn_span tool);

/* --- tool calls, for those who watch them --- */
/* What an agent calls a tool, and what rules call it. */
typedef struct csn_tool_alias {
  const char *own, *rule; /* NULL ends a list */
} csn_tool_alias;
/* A call. `tool` is escaped, as in the line; an alias is looked up. `arg` is what rules for that tool speak
 * of; one of kind CSN_JK_NONE is missing, which is fine as long as the input was read whole, and NULL stands
 * for a tool without one. `part`: the input was not read whole. */
typedef struct csn_seen_call {
  csn_span id, parent, tool;
  const csn_tool_alias *aliases;
  const csn_json_item *arg;
  const char *missing; /* what a missing argument stands for; may be NULL */
  bool part, more;     /* more: csn_call */
  bool shell;          /* arg is a command line of the shell with another one in it */
} csn_seen_call;
/* Whether there are rules: without any, csn_see_call has nothing to look at. */
bool csn_sees_calls(const csn_view *v);
/* Whether the call is forbidden. */
bool csn_see_call(csn_view *v, const csn_seen_call *call);
void csn_see_refused(csn_view *v, csn_span id);
void csn_see_result(csn_view *v, csn_span id);

/* --- spec.json --- */
/* `"NAME":"value"` for each variable that `fixed`, a list of names that ends with NULL, does not name; a
 * comma goes before each, except before the first one when `first` is true. */
void csn_spec_env(csn_fx *fx, csn_span env, const char *const *fixed, bool first);
/* `,"NAME":"value"` unless the variables have it already. `value` is not escaped. */
void csn_spec_default(csn_fx *fx, csn_span env, const char *name, const char *value);
/* `,"arg"`, an argument that is not escaped, resp. is already. */
void csn_spec_arg(csn_fx *fx, csn_span raw);
void csn_spec_arg_str(csn_fx *fx, const char *text);
void csn_spec_arg_escaped(csn_fx *fx, csn_span escaped);
/* All after "env". */
void csn_spec_tail(csn_fx *fx, const csn_spec_in *in, bool prompt_on_stdin);
/* The inside of a string, of JSON or of TOML, in a document that itself stands in a JSON string: at most 7 x
 * len bytes. `raw` is UTF-8. */
void csn_put_nested(csn_fx *fx, csn_span raw);
/* A piece of such a document, as it is written. */
void csn_put_doc(csn_fx *fx, const char *text);
/* A string of such a document, quotes included. */
void csn_put_doc_string(csn_fx *fx, csn_span raw);

/* How a document names the parts of an MCP server. */
typedef struct csn_mcp_style {
  const char *is;     /* between a key and its value */
  const char *local;  /* what every server with a command has besides, a comma at its end */
  const char *remote; /* the same for a URL */
  const char *args;   /* NULL: program and arguments are one list, "command" */
  const char *env, *url, *headers;
  /* An agent that reads variables into its configuration would change a text with `$` or `{` in it: what they
   * are written as, so that it gets them as they are; `dollar_in_map` in the values of env and headers. NULL:
   * themselves. */
  const char *dollar, *dollar_in_map, *brace;
} csn_mcp_style;
/* The body of the server whose options `rest` begins with, braces included; moves `rest` behind it. */
void csn_put_mcp_server(csn_fx *fx, csn_span *rest, const csn_mcp_style *style);
/* `{"name":{...},...}` of all servers. */
void csn_put_mcp_servers(csn_fx *fx, csn_span options, const csn_mcp_style *style);
/* Moves `rest` behind the next option with this tag, whose text it gives; false when there is none. */
bool csn_option_find(csn_span *rest, csn_option_tag tag, csn_span *text);
bool csn_option_has(csn_span options, csn_option_tag tag);
/* `["rule",...]` of all rules with the tag. */
void csn_put_rules(csn_fx *fx, csn_span options, csn_option_tag tag);
/* A rule's tool, and what stands in parentheses behind it: empty when nothing does. */
csn_span csn_rule_tool(csn_span rule);
csn_span csn_rule_args(csn_span rule);

#endif
