/**
 * Who may call the API.
 *
 * With CAISSON_API_KEY every call carries it as a bearer token. Without one only the machine itself is served: the address
 * must be a loopback name in the URL and in `Host`, which a page on another site cannot forge through DNS rebinding, and a
 * request that a browser marks as coming from another site is refused, because the browser would send it from this machine.
 */
import { timingSafeEqual } from "node:crypto";
import { type Problem, problem } from "./errors.js";

/** Addresses that say nothing about anybody's sessions. */
const PUBLIC_PATHS: ReadonlySet<string> = new Set(["/", "/health", "/openapi.json"]);

/** Answers the problem with which to refuse the request, or null when it may go on. */
export async function refuse(request: Request, apiKey: string | undefined): Promise<Problem | null> {
  const url = new URL(request.url);
  if (apiKey === undefined || apiKey === "") return refuseRemote(request, url);
  if (PUBLIC_PATHS.has(url.pathname)) return null;
  const given = /^Bearer +(\S+)\s*$/i.exec(request.headers.get("authorization") ?? "")?.[1];
  if (given !== undefined && (await equalInConstantTime(given, apiKey))) return null;
  const detail = "Send the value of CAISSON_API_KEY as `Authorization: Bearer <key>`.";
  return problem("unauthorized", detail, { headers: { "www-authenticate": 'Bearer realm="caisson"' } });
}

function refuseRemote(request: Request, url: URL): Problem | null {
  const host = request.headers.get("host");
  const origin = request.headers.get("origin");
  const fromHere =
    isLoopback(url.hostname) &&
    (host === null || isLoopback(hostnameOf(`http://${host}`))) &&
    (origin === null || isLoopback(hostnameOf(origin))) &&
    request.headers.get("sec-fetch-site") !== "cross-site";
  if (fromHere) return null;
  const detail =
    "Without CAISSON_API_KEY only requests to localhost from this machine are served. Set it with " +
    "`wrangler secret put CAISSON_API_KEY` (or in .dev.vars) and send `Authorization: Bearer <key>`.";
  return problem("no_api_key_configured", detail);
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
