/** Calls to the Session object that an id names. */
import type { Env } from "../env.js";
import { failureProblem } from "../errors.js";
import type { Result, SessionRpc } from "../session/api.js";

/** The object's stub, typed by the contract and not by the RPC wrapper types, which cannot express it. */
export function sessionObject(env: Env, sessionId: string): SessionRpc {
  return env.SESSION.get(env.SESSION.idFromName(sessionId)) as unknown as SessionRpc;
}

/** The value, or the failure thrown as a problem. */
export function unwrap<T>(result: Result<T>): T {
  if (result.ok) return result.value;
  throw failureProblem(result);
}
