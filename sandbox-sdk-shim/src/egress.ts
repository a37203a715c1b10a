/**
 * How an outbound request of a local sandbox gets to its Sandbox object: guest → engine → this Worker's egress route → the
 * object, whose local container knows the handler that the SDK registered for the host.
 */
import type { Env } from "../../worker/src/env.js";

export const EGRESS_TOKEN_HEADER = "x-caisson-egress-token";
export const EGRESS_URL_HEADER = "x-caisson-egress-url";
export const EGRESS_ENDED_HEADER = "x-caisson-egress-ended";
export const EGRESS_PATH = "/__caisson/egress/";

const UTF8 = new TextEncoder();
/** items: tokens kept once they were derived. */
const TOKENS_MAX = 1_000;
const tokens = new Map<string, string>();

/** The token that authorizes egress requests of one sandbox; the Worker can derive it, so nothing need be stored. */
export async function egressToken(engineToken: string, name: string): Promise<string> {
  const key = `${engineToken}:${name}`;
  const known = tokens.get(key);
  if (known !== undefined) return known;
  const token = await derive(engineToken, name);
  if (tokens.size >= TOKENS_MAX) tokens.clear();
  tokens.set(key, token);
  return token;
}

async function derive(engineToken: string, name: string): Promise<string> {
  const key = await crypto.subtle.importKey("raw", UTF8.encode(engineToken), { name: "HMAC", hash: "SHA-256" }, false, [
    "sign",
  ]);
  const mac = await crypto.subtle.sign("HMAC", key, UTF8.encode(`egress:${name}`));
  return Array.from(new Uint8Array(mac), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Whether an egress request carries the token of the sandbox `name`; takes the same time for every wrong token. */
export async function egressAllowed(request: Request, engineToken: string, name: string): Promise<boolean> {
  return sameToken(request.headers.get(EGRESS_TOKEN_HEADER) ?? "", await egressToken(engineToken, name));
}

/** Compares in a time that tells nothing of where they differ. */
export function sameToken(given: string, right: string): boolean {
  const [a, b] = [UTF8.encode(given), UTF8.encode(right)];
  return a.byteLength === b.byteLength && crypto.subtle.timingSafeEqual(a, b);
}

/**
 * The Worker's route for intercepted outbound requests of local sandboxes: `/__caisson/egress/<object id>`. Answers null
 * for every other path. The routes mount it before everything else; where no engine is configured it does not exist.
 * `namespaces`: those of every Sandbox class that the Worker has.
 */
export async function handleEgress(
  request: Request,
  env: Env,
  namespaces: readonly Env["SANDBOX"][] = [env.SANDBOX],
): Promise<Response | null> {
  const { pathname } = new URL(request.url);
  if (!pathname.startsWith(EGRESS_PATH)) return null;
  const name = pathname.slice(EGRESS_PATH.length);
  if (env.CAISSON_ENGINE_URL === undefined || env.CAISSON_ENGINE_URL === "" || !/^[0-9a-f]{64}$/.test(name))
    return refused(404, "not found");
  if (!(await egressAllowed(request, env.CAISSON_ENGINE_TOKEN ?? "", name))) return refused(403, "forbidden");
  for (const namespace of namespaces) {
    let id: DurableObjectId;
    try {
      id = namespace.idFromString(name);
    } catch {
      continue; // an id of another class
    }
    return await namespace.get(id).fetch(request);
  }
  return refused(404, "not found");
}

function refused(status: number, text: string): Response {
  return new Response(`${text}\n`, {
    status,
    headers: { "x-content-type-options": "nosniff", "cache-control": "no-store" },
  });
}
