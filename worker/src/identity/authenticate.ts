/**
 * Who calls the API.
 *
 * With CAISSON_API_KEY or CAISSON_KEYS every call carries a bearer token: that key, a static key of the document, or a
 * token signed with one of its keys. Without either only the machine itself is served: the address must be a loopback name
 * in the URL and in `Host`, which a page on another site cannot forge through DNS rebinding, and a request that a browser
 * marks as coming from another site is refused, because the browser would send it from this machine.
 */
import { timingSafeEqual } from "node:crypto";
import { CoreError } from "../core/core.js";
import type { Guard } from "../core/guard.js";
import { Problem, problem } from "../errors.js";
import { type Caller, callerBy, LINK_PATH, NOBODY, OPERATOR } from "./caller.js";
import { keyring } from "./keyring.js";
import { type OriginEnv, refuseOrigin, socketToken } from "./origin.js";
import { isPreviewHost } from "./preview-host.js";

/** Addresses that say nothing about anybody's sessions. */
const PUBLIC_PATHS: ReadonlySet<string> = new Set(["/", "/health", "/openapi.json"]);

export interface IdentityEnv extends OriginEnv {
  readonly CAISSON_API_KEY?: string;
  readonly CAISSON_KEYS?: string;
}

/** The caller and the guard that knows the keys. Throws the problem with which to refuse the request. */
export async function authenticate(request: Request, env: IdentityEnv): Promise<{ caller: Caller; guard: Guard }> {
  const url = new URL(request.url);
  const guard = keyring(env.CAISSON_KEYS);
  if (guard instanceof Problem) throw guard;
  if (!env.CAISSON_API_KEY && !env.CAISSON_KEYS) {
    refuseRemote(request, url, env);
    refuseOrigin(request, env);
    return { caller: OPERATOR, guard };
  }
  refuseOrigin(request, env);
  // A link's address is its own credential, which the endpoint checks.
  if (PUBLIC_PATHS.has(url.pathname) || url.pathname.startsWith(LINK_PATH)) return { caller: NOBODY, guard };
  const given = bearer(request, url);
  if (given === undefined) throw unauthorized("Send a key or a token as `Authorization: Bearer <token>`.");
  if (env.CAISSON_API_KEY && (await equalInConstantTime(given, env.CAISSON_API_KEY)))
    return { caller: OPERATOR, guard };
  return { caller: callerOf(guard, given), guard };
}

/** The token of the header, of a WebSocket's subprotocols, or of a share link, which is read only and so works where no header can be set. */
function bearer(request: Request, url: URL): string | undefined {
  const given = /^Bearer +(\S+)\s*$/i.exec(request.headers.get("authorization") ?? "")?.[1];
  if (given !== undefined || request.headers.has("authorization")) return given;
  const offered = socketToken(request);
  if (offered !== undefined) return offered;
  return request.method === "GET" ? (url.searchParams.get("share") ?? undefined) : undefined;
}

/** Whether a text is a key or a token that this API takes. */
export async function isCredential(text: string, env: IdentityEnv): Promise<boolean> {
  if (env.CAISSON_API_KEY && (await equalInConstantTime(text, env.CAISSON_API_KEY))) return true;
  const guard = keyring(env.CAISSON_KEYS);
  if (guard instanceof Problem || !env.CAISSON_KEYS) return false;
  try {
    callerOf(guard, text);
    return true;
  } catch {
    return false;
  }
}

function callerOf(guard: Guard, token: string): Caller {
  try {
    const claims = /^[\w-]+\.[\w-]+\.[\w-]+$/.test(token)
      ? guard.verifyToken(token, Date.now())
      : guard.checkAPIKey(token);
    return callerBy(claims);
  } catch (error) {
    if (!(error instanceof CoreError)) throw error;
    // Which of the two it was not is of use to nobody who has a right one.
    const why = ["TOKEN_EXPIRED", "TOKEN_NOT_YET"].includes(error.errName) ? error.message : "It is not one of ours";
    throw unauthorized(`The key or token is refused: ${why}.`);
  }
}

function unauthorized(detail: string): Problem {
  return problem("unauthorized", detail, { headers: { "www-authenticate": 'Bearer realm="caisson"' } });
}

function refuseRemote(request: Request, url: URL, env: IdentityEnv): void {
  const host = request.headers.get("host");
  const origin = request.headers.get("origin");
  const fromHere =
    isLoopback(url.hostname) &&
    (host === null || isLoopback(hostnameOf(`http://${host}`))) &&
    // A preview's page has a loopback name too, and was written in a sandbox.
    (origin === null || (isLoopback(hostnameOf(origin)) && !isPreviewHost(hostnameOf(origin), env))) &&
    request.headers.get("sec-fetch-site") !== "cross-site";
  if (fromHere) return;
  const detail =
    "Without CAISSON_API_KEY or CAISSON_KEYS only requests to localhost from this machine are served. Set one with " +
    "`wrangler secret put` (or in .dev.vars) and send `Authorization: Bearer <key>`.";
  throw problem("no_api_key_configured", detail);
}

/** The host name of a URL; "" for anything else, an opaque origin ("null") among them. */
function hostnameOf(text: string): string {
  return URL.canParse(text) ? new URL(text).hostname : "";
}

function isLoopback(hostname: string): boolean {
  return (
    hostname === "localhost" || hostname === "127.0.0.1" || hostname === "[::1]" || hostname.endsWith(".localhost")
  );
}

/** Compares digests, so that neither the length nor the first difference shows in the time taken. */
async function equalInConstantTime(a: string, b: string): Promise<boolean> {
  const utf8 = new TextEncoder();
  const [left, right] = await Promise.all([
    crypto.subtle.digest("SHA-256", utf8.encode(a)),
    crypto.subtle.digest("SHA-256", utf8.encode(b)),
  ]);
  return timingSafeEqual(new Uint8Array(left), new Uint8Array(right));
}
