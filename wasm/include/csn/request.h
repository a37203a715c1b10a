/* csn/request.h - the requests that create sessions and runs: strict JSON documents.
 *
 * Input:  payloads of EV_CREATE, EV_RUN, EV_RUN_LOADED, EV_SET_LIMITS and EV_USAGE.
 * Output: values whose spans lie in the arena, or an error of the -300 band with the JSON pointer of the
 * field. Memory: the arena only; it is reset by every call, so the spans live until the next one. Errors:
 * unknown field, wrong type, out of range, duplicate key, NUL in a text: nothing is guessed. */
#ifndef CSN_REQUEST_H
#define CSN_REQUEST_H

#include "csn/agent.h"
#include "csn/base.h"
#include "csn/budget.h"
#include "csn/doc.h"

#define CSN_DOC_VALUES_MAX 768u /* items: values in a request */
/* bytes: csn_option ... of a session; each has a tag and a NUL */
#define CSN_OPTIONS_CAP (CSN_MCP_BYTES_MAX + CSN_TOOL_RULES_BYTES_MAX + 2u * CSN_DOC_VALUES_MAX)

/* The `limits` of a request. Bit n of `given` says that limit n is in it; bit 0 stands for idle_s. A limit of
 * 0 is one that is null: lifted. */
typedef struct csn_limits_request {
  csn_limits limits;
  uint32_t idle_s;
  uint16_t given;
} csn_limits_request;

typedef struct csn_session_request {
  csn_agent agent;
  csn_span template, system_prompt, model; /* empty when not given */
  csn_span env;                            /* name NUL value NUL ... */
  csn_span options;                        /* csn_option ... */
  uint32_t timeout_s;
  csn_limits_request limits;
  csn_prices *prices;    /* the operator's own, in the arena; NULL when not given */
  csn_tool_store *tools; /* the policy's tool rules, in the arena; NULL when not given */
} csn_session_request;

typedef struct csn_run_request {
  csn_span prompt, command; /* exactly one is given */
  csn_span model;           /* empty when not given */
  uint32_t max_turns;       /* 0 when not given */
  uint32_t timeout_s;
  csn_limits limits;
  bool is_command;
  bool resume;
  csn_span resume_id; /* empty: the conversation that was last in use */
  bool fork, partial;
  csn_format format;
} csn_run_request;

/* What one request to a model used, as EV_USAGE has it. */
typedef struct csn_usage_request {
  csn_span model;  /* empty when not given */
  csn_usage usage; /* cost_nano when has_cost */
  bool has_cost;
} csn_usage_request;

csn_err csn_request_session(csn_arena *a, csn_span doc, csn_session_request *out, csn_pointer *bad);
/* `agent` is the session's. */
csn_err csn_request_run(csn_arena *a, csn_span doc, csn_agent agent, csn_run_request *out, csn_pointer *bad);
/* `{"limits":{...}}` of EV_SET_LIMITS. */
csn_err csn_request_limits(csn_arena *a, csn_span doc, csn_limits_request *out, csn_pointer *bad);
/* `{"tools":{...}}` of EV_SET_TOOLS. */
csn_err csn_request_tools(csn_arena *a, csn_span doc, const csn_tool_store **out, csn_pointer *bad);
csn_err csn_request_usage(csn_arena *a, csn_span doc, csn_usage_request *out, csn_pointer *bad);

/* Parts of requests. `bad` is the pointer of `item` on the way in. */
#define CSN_LIMITS_IDLE 1u /* idle_s is allowed */
#define CSN_LIMITS_NULL 2u /* null is allowed */
csn_err csn_read_limits(const struct cJSON *item, uint32_t allow, csn_limits_request *out, csn_pointer *bad);
csn_err csn_read_prices(const struct cJSON *item, csn_prices *out, csn_pointer *bad);
/* A model's name: it must not look like an option, for it is an argument of the agent's command line. */
csn_err csn_read_model(const struct cJSON *item, csn_span *out);
void csn_limits_apply(const csn_limits_request *r, csn_limits *limits, uint32_t *idle_s);

#endif
