/* csn/abi.h - the wire between the core and its host, and the only place where it is defined.
 *
 * Every table below is an X-macro: wasm/abi/gen_abi_ts.c prints worker/src/core/abi.gen.ts from it.
 * Values are frozen: append, never renumber. Raise CSN_ABI_VERSION when the meaning of a value changes.
 *
 * A record is a 32-byte little-endian header, `payload_len` bytes of payload, then zero padding to a
 * multiple of 8. Fields that a kind does not name are 0 on the way in and unspecified on the way out. */
#ifndef CSN_ABI_H
#define CSN_ABI_H

#include <stdint.h>

#define CSN_ABI_MAGIC   0x314e5343u /* "CSN1" */
#define CSN_ABI_VERSION 1u

/* --- bounds (name, value, unit and meaning) ------------------------------------------------------- */
#define CSN_BOUND_TABLE(X)                                                                                   \
  X(IN_CAP, 393216u, "bytes: in-box, one record with its payload")                                           \
  X(OUT_CAP, 786432u, "bytes: out-box, all effects of one call")                                             \
  X(PROMPT_MAX, 262144u, "bytes of UTF-8: prompt of a run")                                                  \
  X(COMMAND_MAX, 65536u, "bytes of UTF-8: command of a run")                                                 \
  X(SYSTEM_PROMPT_MAX, 32768u, "bytes of UTF-8: system prompt of a session")                                 \
  X(MODEL_MAX, 128u, "bytes: model name")                                                                    \
  X(TEMPLATE_MAX, 64u, "bytes: name of a sandbox template")                                                  \
  X(ENV_COUNT_MAX, 64u, "items: environment variables of a session")                                         \
  X(ENV_BYTES_MAX, 32768u, "bytes: all names and values of a session's environment")                         \
  X(QUEUE_MAX, 16u, "items: runs waiting behind the running one")                                            \
  X(RUN_MAX, 10000u, "items: runs of one session")                                                           \
  X(TIMEOUT_S_MIN, 1u, "seconds")                                                                            \
  X(TIMEOUT_S_MAX, 86400u, "seconds: session and run time-out")                                              \
  X(SESSION_TIMEOUT_S_DEFAULT, 3600u, "seconds")                                                             \
  X(RUN_TIMEOUT_S_DEFAULT, 1800u, "seconds")                                                                 \
  X(LIMIT_MAX, 2000000000u, "items, tokens or bytes: a limit on any of them")                                \
  X(COST_USD_MAX, 1000000u, "US dollars: a limit on cost")                                                   \
  X(MAX_TURNS_MAX, 1000u, "items: max_turns of a run")                                                       \
  X(MCP_COUNT_MAX, 16u, "items: MCP servers of a session")                                                   \
  X(MCP_BYTES_MAX, 16384u, "bytes of UTF-8: all texts of a session's MCP servers")                           \
  X(TOOL_RULES_COUNT_MAX, 128u, "items: tool rules of a session")                                            \
  X(TOOL_RULES_BYTES_MAX, 8192u, "bytes of UTF-8: all tool rules of a session")                              \
  X(FEED_MAX, 65536u, "bytes: agent output in one feed")                                                     \
  X(FIELD_MAX, 32768u, "bytes: one captured field of an agent line; longer ones are cut and flagged")        \
  X(OUTPUT_MAX_BYTES, 268435456u, "bytes: stdout or stderr of one run, enforced by the runner")              \
  X(GRACE_MS, 3000u, "milliseconds between SIGTERM and SIGKILL of a run")                                    \
  X(WATCHDOG_MS, 10000u, "milliseconds between wake-ups while a run is under way")                           \
  X(REDACT_IN_MAX, 65536u, "bytes: one piece of a stream that is redacted")                                  \
  X(REDACT_VALUE_MIN, 8u,                                                                                    \
    "bytes of UTF-8: a secret value that is registered; a shorter one is ordinary text")                     \
  X(REDACT_VALUE_MAX, 4096u, "bytes of UTF-8: a secret value that is registered")                            \
  X(REDACT_VALUES_MAX, 256u, "items: registered values")                                                     \
  X(REDACT_STREAMS, 8u, "items: streams under way in one redactor")

/* --- errors: name, value, meaning ------------------------------------------------------------------ */
#define CSN_ERR_TABLE(X)                                                                                     \
  X(OK, 0, "no error")                                                                                       \
  X(AGAIN, -1, "not enough output room; nothing applied")                                                    \
  X(BAD_RECORD, -2, "record size, kind or length out of range")                                              \
  X(BAD_STATE, -3, "event not legal in this state")                                                          \
  X(BAD_SNAPSHOT, -4, "snapshot is not one of this version or the one before")                               \
  X(NO_RUN, -200, "no run with this number")                                                                 \
  X(RUN_OVER, -201, "the run has ended already")                                                             \
  X(QUEUE_FULL, -202, "too many runs are waiting")                                                           \
  X(RUNS_EXHAUSTED, -203, "the session has had its last run")                                                \
  X(SESSION_OVER, -204, "the session has ended")                                                             \
  X(OVER_BUDGET, -205, "the session has used up one of its limits")                                          \
  X(BAD_JSON, -300, "payload is not a JSON object")                                                          \
  X(UNKNOWN_FIELD, -301, "field is not known")                                                               \
  X(BAD_TYPE, -302, "field has the wrong type")                                                              \
  X(BAD_VALUE, -303, "field value is not allowed")                                                           \
  X(MISSING_FIELD, -304, "field is required")                                                                \
  X(TOO_LONG, -305, "field is longer than its bound")                                                        \
  X(OUT_OF_RANGE, -306, "number is out of range")                                                            \
  X(UNKNOWN_AGENT, -307, "no such agent")                                                                    \
  X(NO_MEMORY, -308, "document is too large for the arena")                                                  \
  X(UNSUPPORTED, -309, "the session's agent has no such option")                                             \
  X(BAD_TOKEN, -400, "not a token that is verified here")                                                    \
  X(BAD_SIGNATURE, -401, "the token's signature, or the key, is not right")                                  \
  X(UNKNOWN_KEY, -402, "the token names a key that is not in use")                                           \
  X(TOKEN_EXPIRED, -403, "the token has expired")                                                            \
  X(TOKEN_NOT_YET, -404, "the token is not valid yet")                                                       \
  X(WRONG_ISSUER, -405, "the token is from another issuer")                                                  \
  X(WRONG_AUDIENCE, -406, "the token is for another audience")                                               \
  X(BAD_SEAL, -407, "the sealed value was changed, or is not from here")

/* --- events, host to core -------------------------------------------------------------------------- */
#define CSN_EV_TABLE(X)                                                                                      \
  X(CREATE, 1,                                                                                               \
    "payload: session request JSON {agent, template?, system_prompt?, model?, env?, mcp?, tools?, "          \
    "timeout_s?, "                                                                                           \
    "limits?, prices?, policy_tools?}; policy_tools as in SET_TOOLS")                                        \
  X(SANDBOX_READY, 2, "the sandbox answers and the workspace is laid out")                                   \
  X(SANDBOX_FAILED, 3, "payload: JSON string, why; the session ends")                                        \
  X(SANDBOX_GONE, 4, "the sandbox is proven gone; payload: JSON string, why")                                \
  X(RUN, 5,                                                                                                  \
    "payload: run request JSON {prompt | command, model?, max_turns?, timeout_s?, resume?, fork?, "          \
    "partial_messages?, output_format?, limits?}; "                                                          \
    "queued as the next run number, named by the run.queued event")                                          \
  X(RUN_LOADED, 6, "answer to FX_RUN_LOAD; id: run; payload: the same request JSON")                         \
  X(RUN_STARTED, 7, "id: run; the runner has started the program")                                           \
  X(RUN_START_FAILED, 8, "id: run; payload: JSON string, why; also when the request cannot be loaded")       \
  X(OUTPUT, 9, "only through csn_feed; stream: CSN_STREAM_*; id: run (digest: its id)")                      \
  X(RUN_EXIT, 10, "id: run; payload: exit.json; all output has been fed before")                             \
  X(COLLECTED, 11, "answer to FX_COLLECT; id: run")                                                          \
  X(NOTE, 12, "id: run or 0; code: CSN_T_* of a type the host may report; payload: JSON object of fields")   \
  X(CANCEL, 13, "id: run")                                                                                   \
  X(TIMER, 14, "time has passed; sent when the WAKE_AT time has come, harmless at any other")                \
  X(SET_TIMEOUT, 15, "code: seconds from now after which the session ends")                                  \
  X(DELETE, 16, "end the session: cancel everything, destroy the sandbox")                                   \
  X(DIGEST_BEGIN, 17, "id: chosen by the host; starts SHA-256; one at a time")                               \
  X(DIGEST_END, 18, "id: as begun; answered by FX_DIGEST")                                                   \
  X(USAGE, 19,                                                                                               \
    "id: run; one request to a model as seen on the wire; payload: JSON {model?, input_tokens?, "            \
    "output_tokens?, cache_read_tokens?, cache_write_tokens?, cost_usd?}")                                   \
  X(SET_LIMITS, 20, "payload: JSON {limits}; a limit that is null is lifted, one that is absent stays")      \
  X(TOUCH, 21, "somebody uses the session without a run: its idle time begins anew")                         \
  X(SET_TOOLS, 22,                                                                                           \
    "payload: JSON {tools: {allow?, deny?, ask?}}: the policy's tool rules; they replace those before and "  \
    "hold for the running run")

/* --- streams of csn_feed --------------------------------------------------------------------------- */
#define CSN_STREAM_TABLE(X)                                                                                  \
  X(STDOUT, 1, "the agent's standard output")                                                                \
  X(STDERR, 2, "the agent's standard error")                                                                 \
  X(DIGEST, 3, "bytes to be hashed")

/* --- effects, core to host, carried out strictly in order ------------------------------------------ */
#define CSN_FX_TABLE(X)                                                                                      \
  X(EVENT, 1, "persist, then publish; payload: csn_fx_event header, then the event as one JSON object")      \
  X(SANDBOX_START, 2,                                                                                        \
    "start the sandbox, lay out the workspace; payload: name of the template, empty for the default root; "  \
    "answer SANDBOX_READY or SANDBOX_FAILED")                                                                \
  X(SANDBOX_DESTROY, 3, "destroy the sandbox; answer SANDBOX_GONE")                                          \
  X(RUN_LOAD, 4, "id: run; answer RUN_LOADED with the stored request")                                       \
  X(RUN_START, 5, "id: run; payload: spec.json; answer RUN_STARTED or RUN_START_FAILED, then follow")        \
  X(RUN_KILL, 6,                                                                                             \
    "id: run; code: 1 cancelled, 2 timed_out, 3 over_budget, 4 policy_violation; the end arrives as "        \
    "RUN_EXIT")                                                                                              \
  X(COLLECT, 7, "id: run; list changed files, store artifacts; answer COLLECTED")                            \
  X(WAKE_AT, 8, "time_ms: when to send TIMER, 0 for never; replaces the one before")                         \
  X(CURSOR, 9, "stream; id: run; payload: u64 offset in that stream from which a new instance is fed")       \
  X(DIGEST, 10, "id; payload: 32 bytes of SHA-256")                                                          \
  X(BAD_FIELD, 11, "with an error of the -300 band; payload: JSON pointer (RFC 6901) of the field")          \
  X(ANSWER, 12, "only from the guard: the answer to a question")                                             \
  X(BUDGET, 13,                                                                                              \
    "id: run whose counters are in it, 0 for none; code: 0 when the model may be called, else the limit "    \
    "that forbids it; payload: JSON {price_table, may_call, reached, session, run}; replaces the one "       \
    "before")                                                                                                \
  X(TRANSCRIPT_TEXT, 14, "payload: a piece of a transcript, UTF-8")                                          \
  X(TRANSCRIPT_WANT, 15, "id: seq of the event that the transcript needs next; answer NEXT with it")

/* --- records of csn_transcript, the export of transcript.wasm ---------------- */
#define CSN_TRANSCRIPT_OP_TABLE(X)                                                                           \
  X(OPEN, 1, "code: 1 JSON, 2 Markdown, 3 summary; the instance becomes a transcript")                       \
  X(EVENT, 2, "payload: one event of the run, JSON, without raw; in order, before the first NEXT")           \
  X(NEXT, 3, "payload: the event that was asked for, or empty when it is not there any more")

/* --- questions to the guard (guard.wasm): name, value, payload and answer ---------------------------- */
/* Each is answered by one FX_ANSWER, or by an error and, in the -300 band, FX_BAD_FIELD. A verdict's answer
 * has the action in `code` (0 deny, 1 allow, 2 ask) and the payload {"verdict","rule","pattern","reason"},
 * for a network question also "inject":[{"header"?,"secret","format"?,"body"?}]. */
#define CSN_ASK_TABLE(X)                                                                                     \
  X(POLICY, 1,                                                                                               \
    "payload: policy document; code: csn_policy_dialect; id 1: laid over the present one; answer: "          \
    "{dialect, unmapped}")                                                                                   \
  X(POLICY_PRINT, 2, "answer: the policy as a canonical document")                                           \
  X(NET, 3, "payload: host:port or host:port@address; answer: a verdict")                                    \
  X(TOOL, 4, "payload: tool NUL arg NUL cwd NUL home; code 1: arg is cut; answer: a verdict")                \
  X(ARTIFACT, 5, "payload: path in the workspace; answer: code 1 when it is kept")                           \
  X(KEYS, 6, "payload: keys document (csn/token.h); answer: empty")                                          \
  X(TOKEN, 7, "payload: bearer token; answer: claims {sub, tenant, quota, jti, kid, scope, exp}")            \
  X(API_KEY, 8, "payload: static key; answer: claims")                                                       \
  X(MINT, 9, "payload: claims {sub?, tenant?, quota?, jti?, scopes, expires_in_s}; answer: the token")       \
  X(SCOPE, 10, "payload: scopes NUL wanted NUL id; answer: code 1 when allowed")                             \
  X(SEAL_KEYS, 11,                                                                                           \
    "payload: 1 to 4 times version byte (1..255, each once) and 32 bytes of key, newest first; answer: "     \
    "empty")                                                                                                 \
  X(SEAL, 12, "payload: 12 random bytes, session NUL name NUL secret; answer: the sealed bytes")             \
  X(UNSEAL, 13, "payload: session NUL name NUL sealed bytes; answer: the secret")                            \
  X(AUDIT_BEGIN, 14, "payload: id of the log; answer: head (32 bytes) and count (u64)")                      \
  X(AUDIT_PUSH, 15,                                                                                          \
    "payload: head and count as answered, then entries, each ended by a newline; answer: head and count")    \
  X(WIRE_BEGIN, 16, "a model's answer begins; code: 1 for server-sent events, 0 for one JSON text")          \
  X(WIRE_PUSH, 17, "payload: bytes of the answer; answer: empty")                                            \
  X(WIRE_END, 18,                                                                                            \
    "answer: {seen, model, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, unread, "     \
    "final, estimate}")                                                                                      \
  X(PRICE, 19,                                                                                               \
    "payload: the operator's {prices: [...]}, or empty, NUL {model, input_tokens?, output_tokens?, "         \
    "cache_read_tokens?, cache_write_tokens?} of one request; answer: {prices, cost_usd}, null when the "    \
    "model has no price")                                                                                    \
  X(PUSH, 20, "payload: host:port NUL path of a git-receive-pack request; answer: a verdict")

/* --- forms in which a secret is found (csn/redact.h) -------------------------------------------------- */
#define CSN_REDACT_FORM_TABLE(X)                                                                             \
  X(VALUE, 0, "as it is")                                                                                    \
  X(JSON, 1, "escaped in a JSON string, once or twice")                                                      \
  X(PERCENT, 2, "percent-encoded")                                                                           \
  X(BASE64, 3, "in base64")                                                                                  \
  X(HEX, 4, "in hex")                                                                                        \
  X(SHAPE, 5, "no registered value, but the shape of a well-known kind of key")

/* --- event types: name, value, text in "type", may the host report it with EV_NOTE ------------------ */
#define CSN_TYPE_TABLE(X)                                                                                    \
  X(SESSION_CREATED, 1, "session.created", 0)                                                                \
  X(SESSION_STARTED, 2, "session.started", 0)                                                                \
  X(SESSION_IDLE, 3, "session.idle", 0)                                                                      \
  X(SESSION_PAUSED, 4, "session.paused", 0)                                                                  \
  X(SESSION_RESUMED, 5, "session.resumed", 0)                                                                \
  X(SESSION_ENDED, 6, "session.ended", 0)                                                                    \
  X(SESSION_UPDATED, 7, "session.updated", 0)                                                                \
  X(RUN_QUEUED, 16, "run.queued", 0)                                                                         \
  X(RUN_STARTED, 17, "run.started", 0)                                                                       \
  X(RUN_SUCCEEDED, 18, "run.succeeded", 0)                                                                   \
  X(RUN_FAILED, 19, "run.failed", 0)                                                                         \
  X(RUN_INTERRUPTED, 20, "run.interrupted", 0)                                                               \
  X(RUN_CANCELLED, 21, "run.cancelled", 0)                                                                   \
  X(RUN_TIMED_OUT, 22, "run.timed_out", 0)                                                                   \
  X(RUN_OVER_BUDGET, 23, "run.over_budget", 0)                                                               \
  X(RUN_POLICY_VIOLATION, 24, "run.policy_violation", 0)                                                     \
  X(AGENT_INIT, 32, "agent.init", 0)                                                                         \
  X(AGENT_TEXT, 33, "agent.text", 0)                                                                         \
  X(AGENT_TEXT_DELTA, 34, "agent.text_delta", 0)                                                             \
  X(AGENT_THINKING, 35, "agent.thinking", 0)                                                                 \
  X(AGENT_TOOL_CALL, 36, "agent.tool_call", 0)                                                               \
  X(AGENT_TOOL_RESULT, 37, "agent.tool_result", 0)                                                           \
  X(AGENT_PERMISSION_DENIED, 38, "agent.permission_denied", 0)                                               \
  X(AGENT_SUBAGENT, 39, "agent.subagent", 0)                                                                 \
  X(AGENT_USAGE, 40, "agent.usage", 0)                                                                       \
  X(AGENT_RETRY, 41, "agent.retry", 0)                                                                       \
  X(AGENT_RESULT, 42, "agent.result", 0)                                                                     \
  X(AGENT_TURN, 43, "agent.turn", 0)                                                                         \
  X(AGENT_MCP, 44, "agent.mcp", 0)                                                                           \
  X(AGENT_HOOK, 45, "agent.hook", 0)                                                                         \
  X(AGENT_TASK, 46, "agent.task", 0)                                                                         \
  X(AGENT_COMPACTION, 47, "agent.compaction", 0)                                                             \
  X(OUTPUT_STDOUT, 48, "output.stdout", 0)                                                                   \
  X(OUTPUT_STDERR, 49, "output.stderr", 0)                                                                   \
  X(FILE_CHANGED, 50, "file.changed", 1)                                                                     \
  X(EGRESS_ALLOWED, 51, "egress.allowed", 1)                                                                 \
  X(EGRESS_DENIED, 52, "egress.denied", 1)                                                                   \
  X(ARTIFACT_STORED, 53, "artifact.stored", 1)                                                               \
  X(CHECKPOINT_CREATED, 54, "checkpoint.created", 1)                                                         \
  X(LIMIT_WARNING, 55, "limit.warning", 1)                                                                   \
  X(AGENT_THINKING_DELTA, 56, "agent.thinking_delta", 0)                                                     \
  X(AGENT_PLAN, 57, "agent.plan", 0)                                                                         \
  X(AGENT_ERROR, 58, "agent.error", 0)                                                                       \
  X(APPROVAL_REQUESTED, 59, "approval.requested", 1)                                                         \
  X(APPROVAL_RESOLVED, 60, "approval.resolved", 1)                                                           \
  X(SECRET_MASKED, 61, "secret.masked", 1)                                                                   \
  X(POLICY_VIOLATION, 62, "policy.violation", 0)                                                             \
  X(RAW, 63, "raw", 0)

#define CSN_X_ERR(name, value, text) CSN_ERR_##name = value,
typedef enum csn_err { CSN_ERR_TABLE(CSN_X_ERR) CSN_ERR_END_ = 1 } csn_err;
#undef CSN_X_ERR
#define CSN_X_EV(name, value, text) CSN_EV_##name = value,
typedef enum csn_ev { CSN_EV_TABLE(CSN_X_EV) CSN_EV_END } csn_ev;
#undef CSN_X_EV
#define CSN_X_FX(name, value, text) CSN_FX_##name = value,
typedef enum csn_fx_kind { CSN_FX_TABLE(CSN_X_FX) CSN_FX_END } csn_fx_kind;
#undef CSN_X_FX
#define CSN_X_STREAM(name, value, text) CSN_STREAM_##name = value,
typedef enum csn_stream { CSN_STREAM_TABLE(CSN_X_STREAM) CSN_STREAM_END } csn_stream;
#undef CSN_X_STREAM
#define CSN_X_ASK(name, value, text) CSN_ASK_##name = value,
typedef enum csn_ask { CSN_ASK_TABLE(CSN_X_ASK) CSN_ASK_END } csn_ask;
#undef CSN_X_ASK
#define CSN_X_TRANSCRIPT_OP(name, value, text) CSN_TRANSCRIPT_OP_##name = value,
typedef enum csn_transcript_op {
  CSN_TRANSCRIPT_OP_TABLE(CSN_X_TRANSCRIPT_OP) CSN_TRANSCRIPT_OP_END
} csn_transcript_op;
#undef CSN_X_TRANSCRIPT_OP
#define CSN_X_FORM(name, value, text) CSN_REDACT_##name##_FORM = value,
typedef enum csn_redact_form { CSN_REDACT_FORM_TABLE(CSN_X_FORM) CSN_REDACT_FORM_END } csn_redact_form;
#undef CSN_X_FORM
#define CSN_X_TYPE(name, value, text, note) CSN_T_##name = value,
typedef enum csn_type { CSN_TYPE_TABLE(CSN_X_TYPE) CSN_T_END } csn_type;
#undef CSN_X_TYPE
#define CSN_X_BOUND(name, value, text) CSN_##name = value,
enum csn_bound { CSN_BOUND_TABLE(CSN_X_BOUND) CSN_BOUND_END_ };
#undef CSN_X_BOUND

typedef struct csn_rec {
  uint32_t size;        /* bytes of the whole record, header and padding included; a multiple of 8 */
  uint16_t kind;        /* CSN_EV_* or CSN_FX_* */
  uint16_t flags;       /* CSN_REC_* of an effect; 0 on the way in */
  uint32_t id;          /* ties an effect to its answer; run number for run events */
  int32_t code;         /* small number whose meaning the kind gives */
  uint32_t payload_len; /* bytes, padding excluded */
  uint32_t stream;      /* CSN_STREAM_* */
  uint64_t time_ms;     /* Unix time in milliseconds */
} csn_rec;
_Static_assert(sizeof(csn_rec) == 32, "wire layout");

/* Head of an FX_EVENT's payload; the event's JSON text follows it. */
typedef struct csn_fx_event {
  uint64_t seq;        /* 1, 2, 3 ... without a gap, per session */
  uint64_t line_off;   /* first byte of the agent's line in its stream */
  uint32_t line_len;   /* bytes without the newline; 0 when the event did not come from a line */
  uint32_t type;       /* CSN_T_* */
  uint32_t run;        /* run number, 0 for session events */
  uint32_t line_flags; /* CSN_LINE_* */
} csn_fx_event;
_Static_assert(sizeof(csn_fx_event) == 32, "wire layout");

#define CSN_REC_FLAG_TABLE(X)       X(ASCII, 1, "the text of the event is ASCII: each byte is a character")
#define CSN_X_RF(name, value, text) CSN_REC_##name = value,
enum csn_rec_flag { CSN_REC_FLAG_TABLE(CSN_X_RF) CSN_REC_FLAG_END_ };
#undef CSN_X_RF

#define CSN_LINE_FLAG_TABLE(X)                                                                               \
  X(FIRST, 1, "first event of its line: the one that carries the raw line")                                  \
  X(JSON, 2, "the line is one complete JSON value by RFC 8259 without CR, so it can be embedded as it is")   \
  X(STDERR, 4, "the line stands in the stderr stream")

#define CSN_X_LF(name, value, text) CSN_LINE_##name = value,
enum csn_line_flag { CSN_LINE_FLAG_TABLE(CSN_X_LF) CSN_LINE_FLAG_END_ };
#undef CSN_X_LF

/* What csn_abi() points to: u32 fields in this order. */
typedef struct csn_abi_desc {
  uint32_t magic, version, digest, in_off, in_cap, out_off, out_cap, out_len;
} csn_abi_desc;

#endif
