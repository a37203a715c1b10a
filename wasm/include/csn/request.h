/* csn/request.h - the requests that create sessions and runs: strict JSON documents.
 *
 * Input:  payloads of EV_CREATE, EV_RUN and EV_RUN_LOADED.
 * Output: values whose spans lie in the arena, or an error of the -300 band with the JSON pointer of the
 * field. Memory: the arena only; it is reset by every call, so the spans live until the next one. Errors:
 * unknown field, wrong type, out of range, duplicate key, NUL in a text: nothing is guessed. */
#ifndef CSN_REQUEST_H
#define CSN_REQUEST_H

#include "csn/agent.h"
#include "csn/base.h"
#include "csn/doc.h"

#define CSN_DOC_VALUES_MAX 512u /* items: values in a request */
/* bytes: csn_option ... of a session; each has a tag and a NUL */
#define CSN_OPTIONS_CAP (CSN_MCP_BYTES_MAX + CSN_TOOL_RULES_BYTES_MAX + 2u * CSN_DOC_VALUES_MAX)

typedef struct csn_session_request {
  csn_agent agent;
  csn_span system_prompt, model; /* empty when not given */
  csn_span env;                  /* name NUL value NUL ... */
  csn_span options;              /* csn_option ... */
  uint32_t timeout_s;
} csn_session_request;

typedef struct csn_run_request {
  csn_span prompt, command; /* exactly one is given */
  csn_span model;           /* empty when not given */
  uint32_t max_turns;       /* 0 when not given */
  uint32_t timeout_s;
  bool is_command;
  bool resume;
  csn_span resume_id; /* empty: the conversation that was last in use */
  bool fork, partial;
  csn_format format;
} csn_run_request;

csn_err csn_request_session(csn_arena *a, csn_span doc, csn_session_request *out, csn_pointer *bad);
/* `agent` is the session's. */
csn_err csn_request_run(csn_arena *a, csn_span doc, csn_agent agent, csn_run_request *out, csn_pointer *bad);

#endif
