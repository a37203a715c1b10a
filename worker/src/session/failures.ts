/** Core errors and object-side refusals in the terms of the HTTP API. */
import type { ErrName } from "../core/abi.gen.js";
import { CoreError, CoreTrap } from "../core/core.js";
import type { Failure } from "./api.js";

/** HTTP status of each core error; an error without one does not compile. */
const STATUS = {
  OK: 500,
  AGAIN: 503,
  BAD_RECORD: 500,
  BAD_STATE: 409,
  BAD_SNAPSHOT: 500,
  NO_RUN: 404,
  RUN_OVER: 409,
  QUEUE_FULL: 429,
  RUNS_EXHAUSTED: 409,
  SESSION_OVER: 409,
  OVER_BUDGET: 409,
  BAD_JSON: 400,
  UNKNOWN_FIELD: 400,
  BAD_TYPE: 400,
  BAD_VALUE: 400,
  MISSING_FIELD: 400,
  TOO_LONG: 400,
  OUT_OF_RANGE: 400,
  UNKNOWN_AGENT: 400,
  NO_MEMORY: 413,
  UNSUPPORTED: 400,
  BAD_TOKEN: 401,
  BAD_SIGNATURE: 401,
  UNKNOWN_KEY: 401,
  TOKEN_EXPIRED: 401,
  TOKEN_NOT_YET: 401,
  WRONG_ISSUER: 401,
  WRONG_AUDIENCE: 401,
  BAD_SEAL: 500,
} as const satisfies Record<ErrName, number>;

/** Stable codes of the API where they differ from the lower-case name of the core's error. */
const CODE: Partial<Record<ErrName, string>> = {
  NO_RUN: "run_not_found",
  SESSION_OVER: "session_ended",
  BAD_JSON: "malformed_json",
  BAD_TYPE: "invalid_type",
  BAD_VALUE: "invalid_value",
};

export function fail(status: number, code: string, detail: string, field?: string): Failure {
  return field === undefined ? { ok: false, status, code, detail } : { ok: false, status, code, detail, field };
}

/** A thrown error as a failure value; anything that is not the core's is a 500 without its text. */
export function failureOf(error: unknown, report: (what: string, error: unknown) => void): Failure {
  if (error instanceof CoreError) {
    return fail(
      STATUS[error.errName],
      CODE[error.errName] ?? error.errName.toLowerCase(),
      error.message,
      error.field || undefined,
    );
  }
  if (error instanceof CoreTrap)
    return fail(500, "core_trap", "the session's core stopped and was restarted; try again");
  report("a call failed", error);
  return fail(500, "internal", "the session object failed; see the Worker's log");
}

export const NOT_FOUND: Failure = fail(404, "session_not_found", "there is no session with this id");
