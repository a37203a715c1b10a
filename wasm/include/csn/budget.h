/* csn/budget.h - counters of a run and of its session, and the limits that they are held against.
 *
 * Input:  what a run has used so far, as absolute figures: from the agent (csn_agent_run.live), from the wire
 *         (csn_budget_wire) and from the runner (bytes, time).
 * Output: `limit.warning` events at 80 % of a limit, once for each; the limit that is over, if any; JSON.
 * Rule:   a counter is the largest figure that any source gives. It never falls within a run, and saturates.
 * Memory: csn_budget is the caller's, fixed size, no pointers. Errors: none. */
#ifndef CSN_BUDGET_H
#define CSN_BUDGET_H

#include "csn/usage.h"

/* name, value, key in requests and events, largest value in a request */
#define CSN_LIMIT_TABLE(X)                                                                                   \
  X(WALL, 1, "wall_s", CSN_TIMEOUT_S_MAX) /* held in milliseconds */                                         \
  X(TURNS, 2, "turns", CSN_LIMIT_MAX)                                                                        \
  X(TOOL_CALLS, 3, "tool_calls", CSN_LIMIT_MAX)                                                              \
  X(TOKENS, 4, "tokens", CSN_LIMIT_MAX) /* input, output and both sides of the cache */                      \
  X(OUTPUT_TOKENS, 5, "output_tokens", CSN_LIMIT_MAX)                                                        \
  X(COST, 6, "cost_usd", CSN_COST_USD_MAX)          /* held in nano-dollars */                               \
  X(OUTPUT_BYTES, 7, "output_bytes", CSN_LIMIT_MAX) /* stdout and stderr */
#define CSN_X_LIMIT(name, value, key, max) CSN_LIMIT_##name = value,
typedef enum csn_limit { CSN_LIMIT_NONE = 0, CSN_LIMIT_TABLE(CSN_X_LIMIT) CSN_LIMIT_END } csn_limit;
#undef CSN_X_LIMIT
const char *csn_limit_key(csn_limit limit);

typedef enum csn_scope { CSN_SCOPE_SESSION = 0, CSN_SCOPE_RUN, CSN_SCOPE_COUNT } csn_scope;

/* By csn_limit, in the unit the counter is held in; 0: no limit. */
typedef struct csn_limits {
  uint64_t max[CSN_LIMIT_END];
} csn_limits;

typedef struct csn_counters {
  csn_usage usage;
  uint64_t output_bytes, wall_ms;
} csn_counters;
uint64_t csn_counter(const csn_counters *c, csn_limit limit);

typedef struct csn_budget {
  csn_limits limits[CSN_SCOPE_COUNT];
  uint16_t warned[CSN_SCOPE_COUNT]; /* bit n: limit n has been warned of */
  csn_counters ended;               /* sum over the runs that are over */
  csn_counters run;                 /* of the current run */
  csn_usage wire;                   /* of the current run, as counted on its way to the model */
  uint8_t more;                     /* the current run is about to ask the model again */
  uint8_t over, over_scope;         /* csn_limit and csn_scope that is over, first one first; 0: none */
  uint64_t over_used, over_max;
} csn_budget;

/* A run begins with these limits; zeros for none. */
void csn_budget_begin(csn_budget *b, const csn_limits *limits);
/* Raises the current run's counters to these figures. */
void csn_budget_count(csn_budget *b, const csn_usage *live, bool more, uint64_t output_bytes,
                      uint64_t wall_ms);
/* Adds what one request was seen to use on the wire. */
void csn_budget_wire(csn_budget *b, const csn_usage *request);
/* Whether there is a limit that csn_budget_check could find warning-worthy or over, or one that is over
 * already. */
bool csn_budget_limited(const csn_budget *b);
/* Tells the warnings that are due and notes the first limit that is over. At most CSN_BUDGET_WARNINGS_MAX
 * bytes. A limit is over when it is used up; turns and tool calls may be used up, and are over with the next
 * one. A cost that is not known is over any limit on cost: it could be anything. */
#define CSN_BUDGET_WARNINGS_MAX (14u * (CSN_EVENT_HEAD_MAX + 160u))
void csn_budget_check(csn_budget *b, csn_emit *e);
/* The run is over: its counters join those of the session. */
void csn_budget_end(csn_budget *b);
/* The limit that leaves no room for another run (of the session), or for another call of the model (of the
 * session or the current run); CSN_LIMIT_NONE when there is room. */
csn_limit csn_budget_spent(const csn_budget *b);
csn_limit csn_budget_call(const csn_budget *b);
/* New limits of the session. What is below 80 % again will be warned of again. `stopped`: a run is being
 * stopped already, and what stopped it stays. */
void csn_budget_set(csn_budget *b, const csn_limits *limits, bool stopped);
/* How far a counter may go from `now`, the current run's, until a limit on it asks for attention: at 80 % and
 * at 100 % of it. At least 1; UINT64_MAX when none will. `now` may be behind the counter: bytes are fed again
 * after a load. */
uint64_t csn_budget_room(const csn_budget *b, csn_limit limit, uint64_t now);

/* `"limit":"turns","scope":"run","used":3,"max":3` of the limit that is over. */
void csn_put_over(csn_fx *fx, const csn_budget *b);
/* The same for a session that has no room for another run. */
void csn_put_spent(csn_fx *fx, const csn_budget *b, csn_limit limit);
/* `"input_tokens":...,"output_bytes":n,"wall_ms":n`: usage with all counters. */
void csn_put_counters(csn_fx *fx, const csn_counters *c);
/* `{"turns":3,...}`: the limits that there are. */
void csn_put_limits(csn_fx *fx, const csn_limits *limits, uint32_t idle_s);
/* The whole state as one JSON object; `run` 0 leaves the run's part null. At most CSN_BUDGET_JSON_MAX bytes:
 * {"price_table","may_call","reached","session":{"usage","limits","budget"},"run":{"id",...}|null} */
#define CSN_BUDGET_JSON_MAX 4096u
void csn_put_budget(csn_fx *fx, const csn_budget *b, uint32_t run, uint32_t idle_s);

#endif
