// Printed by wasm/abi/gen_abi_ts.c from wasm/include/csn/abi.h. Do not edit: run `make abi`.

export const ABI = {
  magic: 827216707,
  version: 1,
  digest: 4183168951,
  recSize: 32,
  fxEventSize: 32,
  descSize: 32,
} as const;

/** Events, host to core. */
export const EV = {
  /** payload: session request JSON {agent, template?, system_prompt?, model?, env?, mcp?, tools?, timeout_s?, limits?, prices?, policy_tools?}; policy_tools as in SET_TOOLS */
  CREATE: 1,
  /** the sandbox answers and the workspace is laid out */
  SANDBOX_READY: 2,
  /** payload: JSON string, why; the session ends */
  SANDBOX_FAILED: 3,
  /** the sandbox is proven gone; payload: JSON string, why */
  SANDBOX_GONE: 4,
  /** payload: run request JSON {prompt | command, model?, max_turns?, timeout_s?, resume?, fork?, partial_messages?, output_format?, limits?}; queued as the next run number, named by the run.queued event */
  RUN: 5,
  /** answer to FX_RUN_LOAD; id: run; payload: the same request JSON */
  RUN_LOADED: 6,
  /** id: run; the runner has started the program */
  RUN_STARTED: 7,
  /** id: run; payload: JSON string, why; also when the request cannot be loaded */
  RUN_START_FAILED: 8,
  /** only through csn_feed; stream: CSN_STREAM_*; id: run (digest: its id) */
  OUTPUT: 9,
  /** id: run; payload: exit.json; all output has been fed before */
  RUN_EXIT: 10,
  /** answer to FX_COLLECT; id: run */
  COLLECTED: 11,
  /** id: run or 0; code: CSN_T_* of a type the host may report; payload: JSON object of fields */
  NOTE: 12,
  /** id: run */
  CANCEL: 13,
  /** time has passed; sent when the WAKE_AT time has come, harmless at any other */
  TIMER: 14,
  /** code: seconds from now after which the session ends */
  SET_TIMEOUT: 15,
  /** end the session: cancel everything, destroy the sandbox */
  DELETE: 16,
  /** id: chosen by the host; starts SHA-256; one at a time */
  DIGEST_BEGIN: 17,
  /** id: as begun; answered by FX_DIGEST */
  DIGEST_END: 18,
  /** id: run; one request to a model as seen on the wire; payload: JSON {model?, input_tokens?, output_tokens?, cache_read_tokens?, cache_write_tokens?, cost_usd?} */
  USAGE: 19,
  /** payload: JSON {limits}; a limit that is null is lifted, one that is absent stays */
  SET_LIMITS: 20,
  /** somebody uses the session without a run: its idle time begins anew */
  TOUCH: 21,
  /** payload: JSON {tools: {allow?, deny?, ask?}}: the policy's tool rules; they replace those before and hold for the running run */
  SET_TOOLS: 22,
} as const;

/** Effects, core to host, carried out strictly in order. */
export const FX = {
  /** persist, then publish; payload: csn_fx_event header, then the event as one JSON object */
  EVENT: 1,
  /** start the sandbox, lay out the workspace; payload: name of the template, empty for the default root; answer SANDBOX_READY or SANDBOX_FAILED */
  SANDBOX_START: 2,
  /** destroy the sandbox; answer SANDBOX_GONE */
  SANDBOX_DESTROY: 3,
  /** id: run; answer RUN_LOADED with the stored request */
  RUN_LOAD: 4,
  /** id: run; payload: spec.json; answer RUN_STARTED or RUN_START_FAILED, then follow */
  RUN_START: 5,
  /** id: run; code: 1 cancelled, 2 timed_out, 3 over_budget, 4 policy_violation; the end arrives as RUN_EXIT */
  RUN_KILL: 6,
  /** id: run; list changed files, store artifacts; answer COLLECTED */
  COLLECT: 7,
  /** time_ms: when to send TIMER, 0 for never; replaces the one before */
  WAKE_AT: 8,
  /** stream; id: run; payload: u64 offset in that stream from which a new instance is fed */
  CURSOR: 9,
  /** id; payload: 32 bytes of SHA-256 */
  DIGEST: 10,
  /** with an error of the -300 band; payload: JSON pointer (RFC 6901) of the field */
  BAD_FIELD: 11,
  /** only from the guard: the answer to a question */
  ANSWER: 12,
  /** id: run whose counters are in it, 0 for none; code: 0 when the model may be called, else the limit that forbids it; payload: JSON {price_table, may_call, reached, session, run}; replaces the one before */
  BUDGET: 13,
  /** payload: a piece of a transcript, UTF-8 */
  TRANSCRIPT_TEXT: 14,
  /** id: seq of the event that the transcript needs next; answer NEXT with it */
  TRANSCRIPT_WANT: 15,
} as const;

/** Questions to the guard. */
export const ASK = {
  /** payload: policy document; code: csn_policy_dialect; id 1: laid over the present one; answer: {dialect, unmapped} */
  POLICY: 1,
  /** answer: the policy as a canonical document */
  POLICY_PRINT: 2,
  /** payload: host:port or host:port@address; answer: a verdict */
  NET: 3,
  /** payload: tool NUL arg NUL cwd NUL home; code 1: arg is cut; answer: a verdict */
  TOOL: 4,
  /** payload: path in the workspace; answer: code 1 when it is kept */
  ARTIFACT: 5,
  /** payload: keys document (csn/token.h); answer: empty */
  KEYS: 6,
  /** payload: bearer token; answer: claims {sub, tenant, quota, jti, kid, scope, exp} */
  TOKEN: 7,
  /** payload: static key; answer: claims */
  API_KEY: 8,
  /** payload: claims {sub?, tenant?, quota?, jti?, scopes, expires_in_s}; answer: the token */
  MINT: 9,
  /** payload: scopes NUL wanted NUL id; answer: code 1 when allowed */
  SCOPE: 10,
  /** payload: 1 to 4 times version byte (1..255, each once) and 32 bytes of key, newest first; answer: empty */
  SEAL_KEYS: 11,
  /** payload: 12 random bytes, session NUL name NUL secret; answer: the sealed bytes */
  SEAL: 12,
  /** payload: session NUL name NUL sealed bytes; answer: the secret */
  UNSEAL: 13,
  /** payload: id of the log; answer: head (32 bytes) and count (u64) */
  AUDIT_BEGIN: 14,
  /** payload: head and count as answered, then entries, each ended by a newline; answer: head and count */
  AUDIT_PUSH: 15,
  /** a model's answer begins; code: 1 for server-sent events, 0 for one JSON text */
  WIRE_BEGIN: 16,
  /** payload: bytes of the answer; answer: empty */
  WIRE_PUSH: 17,
  /** answer: {seen, model, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, unread, final, estimate} */
  WIRE_END: 18,
  /** payload: the operator's {prices: [...]}, or empty, NUL {model, input_tokens?, output_tokens?, cache_read_tokens?, cache_write_tokens?} of one request; answer: {prices, cost_usd}, null when the model has no price */
  PRICE: 19,
  /** payload: host:port NUL path of a git-receive-pack request; answer: a verdict */
  PUSH: 20,
} as const;

/** Records of csn_transcript. */
export const TRANSCRIPT = {
  /** code: 1 JSON, 2 Markdown, 3 summary; the instance becomes a transcript */
  OPEN: 1,
  /** payload: one event of the run, JSON, without raw; in order, before the first NEXT */
  EVENT: 2,
  /** payload: the event that was asked for, or empty when it is not there any more */
  NEXT: 3,
} as const;

/** Errors. */
export const ERR = {
  /** no error */
  OK: 0,
  /** not enough output room; nothing applied */
  AGAIN: -1,
  /** record size, kind or length out of range */
  BAD_RECORD: -2,
  /** event not legal in this state */
  BAD_STATE: -3,
  /** snapshot is not one of this version or the one before */
  BAD_SNAPSHOT: -4,
  /** no run with this number */
  NO_RUN: -200,
  /** the run has ended already */
  RUN_OVER: -201,
  /** too many runs are waiting */
  QUEUE_FULL: -202,
  /** the session has had its last run */
  RUNS_EXHAUSTED: -203,
  /** the session has ended */
  SESSION_OVER: -204,
  /** the session has used up one of its limits */
  OVER_BUDGET: -205,
  /** payload is not a JSON object */
  BAD_JSON: -300,
  /** field is not known */
  UNKNOWN_FIELD: -301,
  /** field has the wrong type */
  BAD_TYPE: -302,
  /** field value is not allowed */
  BAD_VALUE: -303,
  /** field is required */
  MISSING_FIELD: -304,
  /** field is longer than its bound */
  TOO_LONG: -305,
  /** number is out of range */
  OUT_OF_RANGE: -306,
  /** no such agent */
  UNKNOWN_AGENT: -307,
  /** document is too large for the arena */
  NO_MEMORY: -308,
  /** the session's agent has no such option */
  UNSUPPORTED: -309,
  /** not a token that is verified here */
  BAD_TOKEN: -400,
  /** the token's signature, or the key, is not right */
  BAD_SIGNATURE: -401,
  /** the token names a key that is not in use */
  UNKNOWN_KEY: -402,
  /** the token has expired */
  TOKEN_EXPIRED: -403,
  /** the token is not valid yet */
  TOKEN_NOT_YET: -404,
  /** the token is from another issuer */
  WRONG_ISSUER: -405,
  /** the token is for another audience */
  WRONG_AUDIENCE: -406,
  /** the sealed value was changed, or is not from here */
  BAD_SEAL: -407,
} as const;

export const ERR_TEXT = {
  OK: "no error",
  AGAIN: "not enough output room; nothing applied",
  BAD_RECORD: "record size, kind or length out of range",
  BAD_STATE: "event not legal in this state",
  BAD_SNAPSHOT: "snapshot is not one of this version or the one before",
  NO_RUN: "no run with this number",
  RUN_OVER: "the run has ended already",
  QUEUE_FULL: "too many runs are waiting",
  RUNS_EXHAUSTED: "the session has had its last run",
  SESSION_OVER: "the session has ended",
  OVER_BUDGET: "the session has used up one of its limits",
  BAD_JSON: "payload is not a JSON object",
  UNKNOWN_FIELD: "field is not known",
  BAD_TYPE: "field has the wrong type",
  BAD_VALUE: "field value is not allowed",
  MISSING_FIELD: "field is required",
  TOO_LONG: "field is longer than its bound",
  OUT_OF_RANGE: "number is out of range",
  UNKNOWN_AGENT: "no such agent",
  NO_MEMORY: "document is too large for the arena",
  UNSUPPORTED: "the session's agent has no such option",
  BAD_TOKEN: "not a token that is verified here",
  BAD_SIGNATURE: "the token's signature, or the key, is not right",
  UNKNOWN_KEY: "the token names a key that is not in use",
  TOKEN_EXPIRED: "the token has expired",
  TOKEN_NOT_YET: "the token is not valid yet",
  WRONG_ISSUER: "the token is from another issuer",
  WRONG_AUDIENCE: "the token is for another audience",
  BAD_SEAL: "the sealed value was changed, or is not from here",
} as const satisfies Record<keyof typeof ERR, string>;

/** Streams of csn_feed. */
export const STREAM = {
  /** the agent's standard output */
  STDOUT: 1,
  /** the agent's standard error */
  STDERR: 2,
  /** bytes to be hashed */
  DIGEST: 3,
} as const;

/** Forms in which a secret is found. */
export const REDACT_FORM = {
  /** as it is */
  VALUE: 0,
  /** escaped in a JSON string, once or twice */
  JSON: 1,
  /** percent-encoded */
  PERCENT: 2,
  /** in base64 */
  BASE64: 3,
  /** in hex */
  HEX: 4,
  /** no registered value, but the shape of a well-known kind of key */
  SHAPE: 5,
} as const;

/** Event types. */
export const T = {
  SESSION_CREATED: 1,
  SESSION_STARTED: 2,
  SESSION_IDLE: 3,
  SESSION_PAUSED: 4,
  SESSION_RESUMED: 5,
  SESSION_ENDED: 6,
  SESSION_UPDATED: 7,
  RUN_QUEUED: 16,
  RUN_STARTED: 17,
  RUN_SUCCEEDED: 18,
  RUN_FAILED: 19,
  RUN_INTERRUPTED: 20,
  RUN_CANCELLED: 21,
  RUN_TIMED_OUT: 22,
  RUN_OVER_BUDGET: 23,
  RUN_POLICY_VIOLATION: 24,
  AGENT_INIT: 32,
  AGENT_TEXT: 33,
  AGENT_TEXT_DELTA: 34,
  AGENT_THINKING: 35,
  AGENT_TOOL_CALL: 36,
  AGENT_TOOL_RESULT: 37,
  AGENT_PERMISSION_DENIED: 38,
  AGENT_SUBAGENT: 39,
  AGENT_USAGE: 40,
  AGENT_RETRY: 41,
  AGENT_RESULT: 42,
  AGENT_TURN: 43,
  AGENT_MCP: 44,
  AGENT_HOOK: 45,
  AGENT_TASK: 46,
  AGENT_COMPACTION: 47,
  OUTPUT_STDOUT: 48,
  OUTPUT_STDERR: 49,
  FILE_CHANGED: 50,
  EGRESS_ALLOWED: 51,
  EGRESS_DENIED: 52,
  ARTIFACT_STORED: 53,
  CHECKPOINT_CREATED: 54,
  LIMIT_WARNING: 55,
  AGENT_THINKING_DELTA: 56,
  AGENT_PLAN: 57,
  AGENT_ERROR: 58,
  APPROVAL_REQUESTED: 59,
  APPROVAL_RESOLVED: 60,
  SECRET_MASKED: 61,
  POLICY_VIOLATION: 62,
  RAW: 63,
} as const;

/** The text of an event type, as it stands in the event's `type`. */
export const TYPE_TEXT = {
  1: "session.created",
  2: "session.started",
  3: "session.idle",
  4: "session.paused",
  5: "session.resumed",
  6: "session.ended",
  7: "session.updated",
  16: "run.queued",
  17: "run.started",
  18: "run.succeeded",
  19: "run.failed",
  20: "run.interrupted",
  21: "run.cancelled",
  22: "run.timed_out",
  23: "run.over_budget",
  24: "run.policy_violation",
  32: "agent.init",
  33: "agent.text",
  34: "agent.text_delta",
  35: "agent.thinking",
  36: "agent.tool_call",
  37: "agent.tool_result",
  38: "agent.permission_denied",
  39: "agent.subagent",
  40: "agent.usage",
  41: "agent.retry",
  42: "agent.result",
  43: "agent.turn",
  44: "agent.mcp",
  45: "agent.hook",
  46: "agent.task",
  47: "agent.compaction",
  48: "output.stdout",
  49: "output.stderr",
  50: "file.changed",
  51: "egress.allowed",
  52: "egress.denied",
  53: "artifact.stored",
  54: "checkpoint.created",
  55: "limit.warning",
  56: "agent.thinking_delta",
  57: "agent.plan",
  58: "agent.error",
  59: "approval.requested",
  60: "approval.resolved",
  61: "secret.masked",
  62: "policy.violation",
  63: "raw",
} as const;

/** Event types that the host may report with EV.NOTE. */
export const TYPE_HOST = [50, 51, 52, 53, 54, 55, 59, 60, 61] as const;

/** Bounds. */
export const BOUND = {
  /** bytes: in-box, one record with its payload */
  IN_CAP: 393216,
  /** bytes: out-box, all effects of one call */
  OUT_CAP: 786432,
  /** bytes of UTF-8: prompt of a run */
  PROMPT_MAX: 262144,
  /** bytes of UTF-8: command of a run */
  COMMAND_MAX: 65536,
  /** bytes of UTF-8: system prompt of a session */
  SYSTEM_PROMPT_MAX: 32768,
  /** bytes: model name */
  MODEL_MAX: 128,
  /** bytes: name of a sandbox template */
  TEMPLATE_MAX: 64,
  /** items: environment variables of a session */
  ENV_COUNT_MAX: 64,
  /** bytes: all names and values of a session's environment */
  ENV_BYTES_MAX: 32768,
  /** items: runs waiting behind the running one */
  QUEUE_MAX: 16,
  /** items: runs of one session */
  RUN_MAX: 10000,
  /** seconds */
  TIMEOUT_S_MIN: 1,
  /** seconds: session and run time-out */
  TIMEOUT_S_MAX: 86400,
  /** seconds */
  SESSION_TIMEOUT_S_DEFAULT: 3600,
  /** seconds */
  RUN_TIMEOUT_S_DEFAULT: 1800,
  /** items, tokens or bytes: a limit on any of them */
  LIMIT_MAX: 2000000000,
  /** US dollars: a limit on cost */
  COST_USD_MAX: 1000000,
  /** items: max_turns of a run */
  MAX_TURNS_MAX: 1000,
  /** items: MCP servers of a session */
  MCP_COUNT_MAX: 16,
  /** bytes of UTF-8: all texts of a session's MCP servers */
  MCP_BYTES_MAX: 16384,
  /** items: tool rules of a session */
  TOOL_RULES_COUNT_MAX: 128,
  /** bytes of UTF-8: all tool rules of a session */
  TOOL_RULES_BYTES_MAX: 8192,
  /** bytes: agent output in one feed */
  FEED_MAX: 65536,
  /** bytes: one captured field of an agent line; longer ones are cut and flagged */
  FIELD_MAX: 32768,
  /** bytes: stdout or stderr of one run, enforced by the runner */
  OUTPUT_MAX_BYTES: 268435456,
  /** milliseconds between SIGTERM and SIGKILL of a run */
  GRACE_MS: 3000,
  /** milliseconds between wake-ups while a run is under way */
  WATCHDOG_MS: 10000,
  /** bytes: one piece of a stream that is redacted */
  REDACT_IN_MAX: 65536,
  /** bytes of UTF-8: a secret value that is registered; a shorter one is ordinary text */
  REDACT_VALUE_MIN: 8,
  /** bytes of UTF-8: a secret value that is registered */
  REDACT_VALUE_MAX: 4096,
  /** items: registered values */
  REDACT_VALUES_MAX: 256,
  /** items: streams under way in one redactor */
  REDACT_STREAMS: 8,
} as const;

/** Flags of an effect's record. */
export const REC_FLAG = {
  /** the text of the event is ASCII: each byte is a character */
  ASCII: 1,
} as const;

/** Flags of an event's line. */
export const LINE = {
  /** first event of its line: the one that carries the raw line */
  FIRST: 1,
  /** the line is one complete JSON value by RFC 8259 without CR, so it can be embedded as it is */
  JSON: 2,
  /** the line stands in the stderr stream */
  STDERR: 4,
} as const;

/** Byte offsets of the fields of a record header. */
export const REC = {
  size: 0,
  kind: 4,
  flags: 6,
  id: 8,
  code: 12,
  payloadLen: 16,
  stream: 20,
  timeMs: 24,
} as const;

/** Byte offsets of the fields at the head of an FX.EVENT payload. */
export const FXE = {
  seq: 0,
  lineOff: 8,
  lineLen: 16,
  type: 20,
  run: 24,
  lineFlags: 28,
} as const;

/** Byte offsets of the fields of the descriptor that csn_abi() points to. */
export const DESC = {
  magic: 0,
  version: 4,
  digest: 8,
  inOff: 12,
  inCap: 16,
  outOff: 20,
  outCap: 24,
  outLen: 28,
} as const;

export type EvName = keyof typeof EV;
export type AskName = keyof typeof ASK;
export type FxName = keyof typeof FX;
export type ErrName = keyof typeof ERR;
export type StreamName = keyof typeof STREAM;
export type TypeName = keyof typeof T;
export type EventTypeName = (typeof TYPE_TEXT)[keyof typeof TYPE_TEXT];
