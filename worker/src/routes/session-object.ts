/** Calls to the Session object of one session. */
import type { Env } from "../env.js";
import { failureProblem } from "../errors.js";
import type { Failure, Result, SessionRpc } from "../session/api.js";

declare const owned: unique symbol;

/** A session of the caller's tenant. Only `sessionRef` makes one, from the caller: an id alone names no object. */
export interface SessionRef {
  readonly id: string;
  readonly tenant: string;
  readonly [owned]: true;
}

export function sessionRef(tenant: string, id: string): SessionRef {
  return { id, tenant } as SessionRef;
}

/**
 * The object's stub, typed by the contract and not by the RPC wrapper types, which cannot express it. The tenant is part of the
 * object's name, so that another tenant's id names an object that has no session.
 */
export function sessionObject(env: Env, { id, tenant }: SessionRef): SessionRpc {
  const name = tenant === "" ? id : `${tenant}/${id}`;
  return env.SESSION.get(env.SESSION.idFromName(name)) as unknown as SessionRpc;
}

/** The value, or the failure thrown as a problem. */
export function unwrap<T>(result: Result<T>): T {
  if (result.ok) return result.value;
  throw failureProblem(result);
}

/** The object's answer to a request, its refusal as a problem. */
export async function live(response: Response): Promise<Response> {
  if (response.status < 400) return response;
  throw failureProblem((await response.json()) as Failure);
}
