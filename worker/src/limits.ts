/**
 * Every bound the HTTP side puts on what it receives: unit, reason, and where it is enforced.
 */
import { BOUND } from "./core/abi.gen.js";

/** Bounds of the core, checked here first so that a bad request costs no call to an object. Enforced in routes/schemas.ts. */
export const CORE_BOUNDS = BOUND;

const MIB = 1024 * 1024;

export const LIMITS = {
  /** bytes: a JSON body without files; twice the longest prompt with every byte escaped fits. routes/body.ts */
  JSON_BODY_MAX: 2 * MIB,
  /** bytes: a JSON body with files; half of the 32 MiB that one Durable Object call carries. routes/body.ts */
  JSON_FILES_BODY_MAX: 16 * MIB,
  /** bytes: PUT of one file; it is held in memory while it is written, and the container server reads back no more at once. routes/files.ts */
  FILE_PUT_MAX: 32 * MIB,
  /** items: files of one request. routes/schemas.ts */
  FILES_COUNT_MAX: 1_000,
  /** characters: a path; the container server's own bound. routes/paths.ts */
  PATH_MAX: 4_096,
  /** bytes of UTF-8: code of a one-shot. routes/schemas.ts */
  CODE_MAX: 4 * MIB,
  /** bytes of UTF-8: standard input of an exec or a one-shot. routes/schemas.ts */
  STDIN_MAX: 8 * MIB,
  /** items and bytes: metadata of a session, kept in D1. routes/schemas.ts */
  METADATA_COUNT_MAX: 32,
  METADATA_KEY_MAX: 64,
  METADATA_VALUE_MAX: 512,
  /** items: argv of an exec. routes/schemas.ts */
  ARGV_COUNT_MAX: 1_024,
  /** seconds: an exec. routes/schemas.ts */
  EXEC_TIMEOUT_S_DEFAULT: 120,
  EXEC_TIMEOUT_S_MAX: 3_600,
  /** seconds: a one-shot. routes/schemas.ts */
  EXECUTE_TIMEOUT_S_DEFAULT: 30,
  EXECUTE_TIMEOUT_S_MAX: 300,
  /** UTF-16 units of each of stdout and stderr kept for a JSON answer; the rest is read and dropped. routes/exec.ts */
  EXEC_OUTPUT_MAX: 16 * MIB,
  /** items: one page of sessions. routes/sessions.ts */
  SESSION_PAGE_DEFAULT: 20,
  SESSION_PAGE_MAX: 100,
  /** items: one page of events. routes/runs.ts */
  EVENT_PAGE_DEFAULT: 100,
  EVENT_PAGE_MAX: 1_000,
  /** characters: Idempotency-Key. routes/idempotency.ts */
  IDEMPOTENCY_KEY_MAX: 255,
  /** seconds: how long `Prefer: wait` holds a request. routes/runs.ts */
  WAIT_S_MAX: 300,
  /** milliseconds: how long the engine may take to answer its health check. routes/engine.ts */
  ENGINE_HEALTH_MS: 1_500,
  /** bytes of UTF-8: question of POST /execute. routes/schemas.ts */
  QUESTION_MAX: 65_536,
  /** milliseconds: after which a session counts as over for its tenant's quota whatever became of it (TIMEOUT_S_MAX and an hour). Enforced in identity/tenant.ts. */
  SESSION_ALIVE_MS_MAX: 90_000_000,
  /** milliseconds: the same for a one-shot. */
  ONESHOT_ALIVE_MS_MAX: 3_600_000,
  /** seconds: life of a token minted by POST /v1/tokens; the guard has the same bound. */
  TOKEN_LIFE_S_MAX: 31_622_400,
  /** seconds: life of a share link. */
  SHARE_LIFE_S_MAX: 31_622_400,
  /** characters: a policy document; the guard has the same bound in bytes. routes/schemas.ts */
  POLICY_MAX: 131_072,
  /** items: secrets of a session. routes/schemas.ts */
  SECRETS_COUNT_MAX: 32,
  /** items: one page of the egress log. routes/policy.ts */
  EGRESS_PAGE_MAX: 1_000,
  /** items: ports of a session that have a preview. sandbox-sdk-shim/src/previews.ts */
  PORTS_MAX: 16,
  /** seconds: life of a preview URL; the longest is a session's longest. routes/ports.ts */
  PREVIEW_LIFE_S_DEFAULT: 3_600,
  PREVIEW_LIFE_S_MAX: 86_400,
  /** items: terminal connections of a session at once; below REDACT_STREAMS, of which each takes one. session/terminals.ts */
  TERMINALS_MAX: 6,
  /** seconds in which nothing is typed or printed, after which a terminal connection is closed. routes/terminal.ts */
  TERMINAL_IDLE_S_DEFAULT: 1_800,
  TERMINAL_IDLE_S_MAX: 86_400,
  /** bytes: one frame of typed text; the platform's own bound of a message. session/terminals.ts */
  TERMINAL_MESSAGE_MAX: MIB,
  /** UTF-16 units: one control message. session/terminals.ts */
  TERMINAL_CONTROL_MAX: 4_096,
  /** bytes that one end of a terminal may be ahead of the other; times TERMINALS_MAX below an object's 128 MB. session/terminals.ts */
  TERMINAL_AHEAD_MAX: 16 * MIB,
  /** bytes that a client may be behind before output is skipped. session/terminals.ts */
  TERMINAL_SKIP_AT: 2 * MIB,
} as const;
