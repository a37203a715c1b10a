/* csn/agent.h - what the dialects of the agents share: lines, results, usage; and the dialects themselves.
 *
 * A dialect builds the runner's spec for a run and turns the agent's output into normalized events. Its state
 * is csn_agent_run, which changes only at the end of a line, so that a snapshot plus the offset of the first
 * unread line is enough to go on. Memory: all caller-owned, fixed size, no pointers. Errors: none; what is
 * not understood becomes a `raw` event. */
#ifndef CSN_AGENT_H
#define CSN_AGENT_H

#include "csn/base.h"
#include "csn/json.h"
#include "csn/price.h"
#include "csn/usage.h"
#include "csn/watch.h"

#define CSN_ID_CAP       128u  /* bytes: an agent's session id, escaped as in its line */
#define CSN_REASON_CAP   64u   /* bytes: reason of an outcome */
#define CSN_KIND_CAP     64u   /* bytes: kind of an agent's error */
#define CSN_MESSAGE_CAP  1024u /* bytes: message of an agent's error, escaped */
#define CSN_RAW_TEXT_CAP 2048u /* bytes: text of a line that is not JSON, before escaping */
#define CSN_TEXT_CHUNK   8192u /* bytes: one output.stdout or output.stderr event, before escaping */

typedef enum csn_agent {
  CSN_AGENT_NONE = 0,
  CSN_AGENT_CLAUDE_CODE,
  CSN_AGENT_SHELL,
  CSN_AGENT_CODEX,
  CSN_AGENT_GEMINI,
  CSN_AGENT_OPENCODE,
  CSN_AGENT_END,
} csn_agent;
/* The name in requests: "claude-code", "shell", "codex", "gemini", "opencode". */
const char *csn_agent_name(csn_agent agent);
csn_agent csn_agent_by_name(csn_span name);

/* Short text, escaped as it stood in the agent's line. */
typedef struct csn_text64 {
  uint8_t len;
  uint8_t bytes[64];
} csn_text64;

/* A text as far as it was kept, escaped as in the agent's line, and how long it was there. */
typedef struct csn_words {
  csn_span text;
  uint32_t true_len; /* bytes; more than text.len when it was cut */
} csn_words;
/* A string field; `KEY_len` behind it when the text was cut. */
void csn_put_key_words(csn_fx *fx, const char *key, uint32_t key_len, const csn_words *words);
CSN_INLINE void csn_put_words(csn_fx *fx, const char *key, const csn_words *words) {
  csn_put_key_words(fx, key, csn_len_of(key), words);
}

/* The last answers of a model that were counted, by a hash of their ids: an answer comes in several lines,
 * and those of subagents come in between. */
#define CSN_SEEN_MAX 16u
typedef struct csn_seen {
  uint8_t next;  /* 0..CSN_SEEN_MAX - 1: the place that is taken next */
  uint8_t count; /* 0..CSN_SEEN_MAX */
  uint64_t hash[CSN_SEEN_MAX];
} csn_seen;

/* What a run's output has told so far.
 *
 * usage is the agent's own account, which for most dialects comes with the end of a turn only: a dialect adds
 * to it what a line says was used since the line before (a cumulative figure less the one it remembers). live
 * is what the run has used for certain so far: csn_run_turn adds to it while the run goes on, and it is
 * never less than usage. Limits are held against live. */
typedef struct csn_agent_run {
  uint8_t has_result;    /* the dialect's end marker has come */
  uint8_t is_error;      /* of the last result */
  uint8_t result_cut;    /* result[] is not all of it */
  uint8_t id_len;        /* bytes of agent_session_id */
  uint8_t is_fork;       /* the run's conversation is a copy of the one that was last in use */
  uint8_t denied;        /* a permission was refused in the step under way */
  uint16_t error_status; /* HTTP status of the model's interface, 0 when none */
  uint16_t message_len;  /* bytes of message[] */
  uint8_t more;          /* a tool's result has come: the main loop is about to ask the model again */
  uint8_t busy;          /* a model has answered since the last end marker */
  uint8_t model_len;     /* bytes of model[] */
  uint32_t result_len;   /* bytes of result[] */
  uint32_t result_true_len,
      message_true_len; /* bytes, of all that result[] and message[] are the beginning of */
  uint64_t open_items;  /* tool calls without their result: a dialect's own bit set */
  uint32_t tasks[8];    /* background tasks that are no subagents: a dialect's own hashes of their ids */
  csn_text64 reason;    /* why the result is what it is */
  csn_text64 kind;      /* kind of the agent's last error */
  csn_text64 refusal;   /* why the agent said on stderr that it cannot run at all */
  csn_usage usage, live;
  csn_seen seen;
  uint8_t model[CSN_MODEL_MAX]; /* asked for by the request, then the one the agent names; for its price */
  uint8_t agent_session_id[CSN_ID_CAP];
  uint8_t message[CSN_MESSAGE_CAP];
  uint8_t result[CSN_FIELD_MAX]; /* final text, escaped; a dialect may gather a text in it before the end */
} csn_agent_run;

/* One conversation of the agent, which a later run resumes or forks. */
typedef struct csn_conversation {
  uint8_t id_len;         /* 0: none */
  uint8_t id[CSN_ID_CAP]; /* escaped as in the agent's line */
  csn_usage total;        /* cumulative usage that the agent last reported for it */
} csn_conversation;

/* What outlives a run: the session's conversations, the one last in use first. */
#define CSN_CONVERSATION_MAX 8u /* items; the one that was longest out of use is forgotten first */
typedef struct csn_agent_memory {
  csn_conversation at[CSN_CONVERSATION_MAX];
} csn_agent_memory;

/* A finished line, seen by a dialect. */
typedef struct csn_line {
  const csn_json *json;     /* captures; meaningful for CSN_JSON_OK */
  csn_json_verdict verdict; /* of the whole line */
  bool ended;               /* false: the stream ended before the newline */
  csn_span head;            /* first bytes of the line, at most CSN_RAW_TEXT_CAP */
  const csn_prices *prices; /* the operator's own; may be NULL */
  csn_watching *watching;   /* NULL: nobody looks at tool calls */
} csn_line;

/* The parts of a session's configuration that are lists, one behind the other: a tag, a text, a NUL. */
typedef enum csn_option_tag {
  CSN_OPT_ALLOW = '+',   /* a tool rule, in the agent's own words */
  CSN_OPT_DENY = '-',    /* the same */
  CSN_OPT_SERVER = 's',  /* name of an MCP server; what follows is its */
  CSN_OPT_COMMAND = 'c', /* program to start ... */
  CSN_OPT_ARG = 'a',     /* ... its arguments in order */
  CSN_OPT_ENV = 'e',     /* ... a variable's name, then CSN_OPT_VALUE */
  CSN_OPT_URL = 'u',     /* or where it listens ... */
  CSN_OPT_HEADER = 'h',  /* ... a header's name, then CSN_OPT_VALUE */
  CSN_OPT_VALUE = 'v',
} csn_option_tag;
typedef struct csn_option {
  uint8_t tag;
  csn_span text;
} csn_option;
/* Takes the first option off `rest`; false when there is none. */
bool csn_option_next(csn_span *rest, csn_option *out);

/* How an agent prints its stream. */
typedef enum csn_format {
  CSN_FORMAT_EVENTS = 0,
  CSN_FORMAT_RESULT,
  CSN_FORMAT_TEXT,
  CSN_FORMAT_END
} csn_format;

/* Agent configuration that a spec needs. Texts are UTF-8, not escaped. */
typedef struct csn_spec_in {
  csn_span system_prompt, model; /* empty: not given */
  csn_span env;                  /* name NUL value NUL ... */
  csn_span command;              /* shell only */
  csn_span options;              /* csn_option ... */
  csn_span resume_id;            /* escaped; empty: a new conversation */
  bool fork;                     /* go on with a copy of resume_id */
  bool partial;                  /* texts in pieces as well */
  csn_format format;
  uint32_t max_turns; /* 0: not given */
  uint64_t wall_ms;
} csn_spec_in;

typedef struct csn_view csn_view; /* csn/dialect.h */

/* What an agent can be asked for. */
enum csn_can {
  CSN_CAN_MCP = 1,
  CSN_CAN_TOOLS = 2,     /* rules by the tool's name */
  CSN_CAN_TOOL_ARGS = 4, /* and by what it is called with: Name(pattern) */
  CSN_CAN_MAX_TURNS = 8,
  CSN_CAN_FORK = 16,
  CSN_CAN_PARTIAL = 32,
  CSN_CAN_FORMAT = 64,
};

typedef struct csn_rule_out csn_rule_out; /* csn/dialect.h */

/* How one agent is started and read. */
typedef struct csn_dialect {
  uint32_t can; /* csn_can */
  /* The one tool that a rule's pattern may stand behind; NULL: any. */
  const char *args_of;
  /* Writes a rule of the policy in the agent's own words, as options. NULL: it has no words for rules. */
  void (*rule)(csn_rule_out *o, bool deny, csn_span tool, csn_span spec);
  /* Denies what the policy's list of allowed tools does not name, where the agent would not ask. May be NULL.
   */
  void (*unlisted)(csn_rule_out *o);
  /* Writes spec.json into the open record: at most CSN_SPEC_MAX bytes. */
  void (*spec)(csn_fx *fx, const csn_spec_in *in);
  /* What is captured of a stdout line; no nodes: stdout is plain text. */
  csn_json_table table;
  /* A line that is one JSON value. NULL when stdout is plain text. */
  void (*line)(csn_view *v);
  /* A line of stderr, without its newline, at most CSN_TEXT_CHUNK bytes; for what an agent reports only
   * there. May emit one event of at most CSN_ERR_LINE_MAX bytes. May be NULL. */
  void (*err_line)(csn_view *v, csn_span line);
  /* The program has ended whose stdout was plain text, of which result[] has the beginning. May be NULL. */
  void (*end_text)(csn_agent_run *run, int32_t exit_code);
  /* Both streams have ended. May emit one event and what result[] holds. May be NULL. */
  void (*end)(csn_view *v);
} csn_dialect;
const csn_dialect *csn_dialect_of(csn_agent agent);
extern const csn_dialect csn_claude_code_dialect, csn_shell_dialect, csn_codex_dialect, csn_gemini_dialect,
    csn_opencode_dialect;

/* The options with the policy's rules before them, in the agent's own words; in the arena, of which it takes
 * at most CSN_RULES_CAP bytes more than the options have. */
csn_span csn_rules_options(const csn_dialect *d, csn_span options, const csn_tool_store *tools, csn_arena *a);
#define CSN_RULES_CAP 32768u

#define CSN_SPEC_MAX     785408u
#define CSN_ERR_LINE_MAX (CSN_MESSAGE_CAP * 6u + CSN_LINE_EVENT_MAX) /* bytes */

/* The conversation that a run resumes by default; NULL when there is none. */
const csn_conversation *csn_memory_last(const csn_agent_memory *memory);
/* Whether the session has had a conversation of this id. */
bool csn_memory_has(const csn_agent_memory *memory, csn_span id);
/* The conversation becomes the one that was last in use; one that is not known counts from zero. The id is
 * one that csn_is_conversation_id likes. */
void csn_memory_use(csn_agent_memory *memory, csn_span id);
/* Whether the text can be the id of a conversation, and an argument of a command line. */
bool csn_is_conversation_id(csn_span id);
/* The words of the run's error: cut to CSN_MESSAGE_CAP. */
void csn_run_message(csn_agent_run *run, const csn_words *words);
/* A piece of plain text that the agent printed: becomes part of result[]. */
void csn_agent_plain(csn_agent_run *run, csn_span raw);
/* A line, an end of the streams, or a line of stderr for the dialect of `agent`. The emitter's line fields
 * are the caller's. */
void csn_agent_line(csn_agent agent, csn_emit *e, const csn_line *line, csn_agent_run *run,
                    csn_agent_memory *memory);
void csn_agent_err_line(csn_agent agent, csn_emit *e, csn_span line, csn_agent_run *run,
                        csn_agent_memory *memory);
void csn_agent_end(csn_agent agent, csn_emit *e, csn_agent_run *run, csn_agent_memory *memory);

/* The model of the run's answers; an empty name, or one longer than CSN_MODEL_MAX, is ignored. */
void csn_agent_set_model(csn_agent_run *run, csn_span model);

/* Out-box room that a dialect needs for the line in j: CSN_LINE_FX_MIN to CSN_LINE_FX_MAX. */
uint32_t csn_agent_need(const csn_json *j, const csn_agent_run *run);

/* Room for the events of a line: its captures (an input that was cut is escaped once more, and the file and
 * command inside an input are written twice), what each event adds, and the text that was gathered before. */
#define CSN_LINE_EVENT_MAX 512u
#define CSN_LINE_FX_MIN    (CSN_RAW_TEXT_CAP * 6u + 8u * CSN_LINE_EVENT_MAX)
#define CSN_LINE_FX_MAX    (CSN_JSON_POOL_CAP * 3u + CSN_JSON_ITEM_MAX * CSN_LINE_EVENT_MAX + CSN_LINE_FX_MIN)

#endif
