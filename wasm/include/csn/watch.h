/* csn/watch.h - the tool rules of a policy, held against the calls that an agent makes.
 *
 * Input:  the rules (a member of EV_CREATE, the payload of EV_SET_TOOLS); from the dialects each call, each
 * refusal and each result that the agent's stream tells. Output: which call the agent made although the rules
 * forbid it. Memory: caller-owned, fixed size, no pointers; part of a session's snapshot. Errors: the -300
 * band for rules.
 *
 * An agent that knows the rules refuses a forbidden call itself, and its stream says so: that call is
 * forgotten. One whose result comes without a refusal was made. So was one that is neither refused nor
 * answered within CSN_REFUSAL_MS, counted from when no call before it is open: agents that run calls one
 * after the other judge a call when its turn comes. */
#ifndef CSN_WATCH_H
#define CSN_WATCH_H

#include "csn/policy.h"

#define CSN_WATCH_MAX         16u /* items: calls without a result; the oldest allowed one is forgotten first */
#define CSN_WATCH_ID_CAP      128u  /* bytes: a call's id, escaped */
#define CSN_WATCH_WHAT_CAP    192u  /* bytes of UTF-8: a call as the sentence about it has it */
#define CSN_WATCH_NAME_CAP    256u  /* bytes of UTF-8: the name of a tool in a rule */
#define CSN_WATCH_MESSAGE_CAP 1024u /* bytes: the sentence about a call, escaped and cut */
#define CSN_REFUSAL_MS        5000u /* milliseconds that an agent has for refusing a call */
#define CSN_TOOLS_CWD         "/workspace"
#define CSN_TOOLS_HOME        "/home/user"

/* The rules, with their texts. */
typedef struct csn_tool_store {
  uint8_t listed;    /* tools.allow was given */
  uint16_t count;    /* rules */
  uint32_t text_len; /* bytes of text[] */
  csn_tool_rule rules[CSN_TOOL_RULES_COUNT_MAX];
  uint8_t text[CSN_TOOL_RULES_BYTES_MAX];
} csn_tool_store;

/* A call without a result. */
typedef struct csn_watched {
  uint64_t id, parent; /* hashes of the call's id and of the subagent's that makes it */
  uint64_t due_ms;     /* when it counts as made, 0 while a call before it is open or it is allowed */
  uint8_t forbidden;
  uint8_t made;   /* although it is forbidden: to be told */
  uint8_t id_len; /* only of a forbidden call, as is all that follows */
  uint8_t what_len;
  csn_verdict verdict;
  uint8_t text[CSN_WATCH_ID_CAP];
  uint8_t what[CSN_WATCH_WHAT_CAP]; /* raw UTF-8: Bash(rm -rf /) */
} csn_watched;

typedef struct csn_watch {
  uint8_t count; /* 0..CSN_WATCH_MAX */
  uint8_t rule_len;
  uint8_t rule[48]; /* the rule that the run is stopped for, as csn_policy_rule_name has it; empty while none
                       is */
  uint16_t message_len;
  uint32_t message_true_len;              /* bytes: of the whole sentence, escaped */
  uint8_t message[CSN_WATCH_MESSAGE_CAP]; /* the sentence about it, escaped */
  csn_watched calls[CSN_WATCH_MAX];
} csn_watch;

/* What a dialect needs for it. */
typedef struct csn_watching {
  csn_watch *watch;
  const csn_tool_store *tools;
  csn_span options; /* csn_option ...: the names of MCP servers stand in them */
  csn_arena
      scratch; /* CSN_WATCH_SCRATCH bytes and the texts of one call, CSN_FIELD_MAX + CSN_WATCH_NAME_CAP */
} csn_watching;

/* Whether there is anything to hold calls against. */
bool csn_tools_any(const csn_tool_store *s);
csn_tool_table csn_tools_table(const csn_tool_store *s);
/* {"allow"?, "deny"?, "ask"?}: arrays of rules. *s is untouched on an error, and *bad points at the rule.
 * `bad` is the pointer of `item` on the way in. */
struct cJSON;
csn_err csn_tools_read(const struct cJSON *item, csn_tool_store *s, csn_pointer *bad);

/* A call, as a dialect understands it. The tool has the name that rules have for it; arg is what they speak
 * of. */
typedef struct csn_call {
  csn_span id, parent; /* escaped, as in the agent's line; parent is empty in the main loop */
  csn_span tool, arg;  /* raw bytes */
  bool cut;            /* arg is not all of it, or may be missing because the line was not read whole */
  bool more;           /* another argument of the same call follows unless this one is forbidden */
} csn_call;
/* `scratch` needs CSN_WATCH_SCRATCH bytes; it is as before afterwards. */
#define CSN_WATCH_SCRATCH (CSN_TOOL_SCRATCH + 64u)
/* Whether it is forbidden. */
bool csn_watch_call(csn_watch *w, const csn_tool_store *s, const csn_call *call, uint64_t now_ms,
                    csn_arena *scratch);
/* The agent says that it did not carry the call out. */
void csn_watch_refused(csn_watch *w, csn_span id, uint64_t now_ms);
/* It says what came of it. */
void csn_watch_result(csn_watch *w, csn_span id, uint64_t now_ms);
/* Time has passed. A time that is found long past proves nothing, because nobody was reading: it begins anew.
 */
void csn_watch_time(csn_watch *w, uint64_t now_ms);
/* The agent has ended: what was not refused may have been done. */
void csn_watch_end(csn_watch *w);
/* When csn_watch_time is due; 0 for never. */
uint64_t csn_watch_due(const csn_watch *w);
/* The next call that was made against the rules; NULL when there is none. The caller tells it and drops it.
 */
csn_watched *csn_watch_next(csn_watch *w);
void csn_watch_drop(csn_watch *w, csn_watched *call);
/* The rules were replaced: what was found by the old ones no longer names a rule of the table. */
void csn_watch_rules_changed(csn_watch *w);

#endif
