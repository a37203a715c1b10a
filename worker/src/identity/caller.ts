/** Who a request comes from, and what that caller may do. */

import type { Claims, Guard } from "../core/guard.js";
import { problem } from "../errors.js";

export interface Caller {
  /** The tenant whose objects are served; "" is the operator's own. Another tenant's ids are not there. */
  readonly tenant: string;
  readonly subject: string;
  /** Separated by spaces. */
  readonly scopes: string;
  /** Class of quotas; "" for the default one. */
  readonly quota: string;
  /** Token id; a share link's begins with `shr_`. */
  readonly tokenId: string;
  /** Unix seconds: when the token ends; null for a key, which does not. */
  readonly expires: number | null;
}

/** What an endpoint asks of its caller. `sessions:write` includes `sessions:read`, `admin` everything. */
export type Scope = "admin" | "execute" | "sessions:read" | "sessions:write" | "preview" | "terminal" | "approve";

/** Whoever may call when no key is configured, and the holder of CAISSON_API_KEY. */
export const OPERATOR: Caller = {
  tenant: "",
  subject: "operator",
  scopes: "admin",
  quota: "",
  tokenId: "",
  expires: null,
};
export const NOBODY: Caller = { tenant: "", subject: "", scopes: "", quota: "", tokenId: "", expires: null };

/** Whom a token that has been verified stands for. */
export function callerBy({ tenant = "", sub = "", quota = "", scope = "", jti = "", exp }: Claims): Caller {
  const expires = Number.isSafeInteger(exp) ? exp : null;
  return { tenant, subject: sub, scopes: scope, quota, tokenId: jti, expires };
}

/** Of ids of links to a session, and of links to one artifact. */
export const SHARE_PREFIX = "shr_";
export const ARTIFACT_LINK_PREFIX = "art_";
/** The only scope of an artifact link's token: no endpoint asks for it, so that the token opens nothing but its link. */
export const ARTIFACT_SCOPE = "artifact";
/** Where artifact links lead; the rest of the address is the token. */
export const LINK_PATH = "/v1/links/";

/** Throws unless the caller has the scope, for this session or for all. */
export function requireScope(guard: Guard, caller: Caller, scope: Scope, sessionId: string): void {
  if (guard.allows(caller.scopes, scope, sessionId)) return;
  const detail = `This needs the scope ${scope}; the token has ${caller.scopes === "" ? "none" : caller.scopes}.`;
  throw problem("insufficient_scope", detail, {
    headers: { "www-authenticate": `Bearer realm="caisson", error="insufficient_scope", scope="${scope}"` },
  });
}
