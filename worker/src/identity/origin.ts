/**
 * Pages of other origins. CAISSON_CORS_ORIGINS lists those that may call, separated by commas; `*` is any. Off by default: a
 * browser then keeps answers from pages elsewhere, and a WebSocket, which browsers do not guard, is refused here. A preview is
 * never among them: what it serves was written in a sandbox.
 */
import { problem } from "../errors.js";
import { isPreviewHost, type PreviewEnv } from "./preview-host.js";

export interface OriginEnv extends PreviewEnv {
  readonly CAISSON_CORS_ORIGINS?: string;
}

const METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE";
const HEADERS = "authorization, content-type, idempotency-key, last-event-id, prefer, if-none-match";
const EXPOSED = "location, x-request-id, etag, retry-after, preference-applied, x-caisson-run";
const MAX_AGE_S = "600";

function allowed(origin: string, env: OriginEnv): boolean {
  const names = (env.CAISSON_CORS_ORIGINS ?? "").split(",").map((name) => name.trim());
  if (URL.canParse(origin) && isPreviewHost(new URL(origin).hostname, env)) return false;
  return names.includes("*") || names.includes(origin);
}

/** Throws for a WebSocket handshake from a page of another origin: the page would speak with the caller's rights. */
export function refuseOrigin(request: Request, env: OriginEnv): void {
  const origin = request.headers.get("origin");
  if (origin === null || request.headers.get("upgrade")?.toLowerCase() !== "websocket") return;
  if (origin === new URL(request.url).origin || allowed(origin, env)) return;
  throw problem(
    "origin_not_allowed",
    "Pages of this origin may not connect; CAISSON_CORS_ORIGINS lists those that may.",
  );
}

/** The answer to a preflight request, or null when it is none or from nowhere that is allowed. */
export function preflight(request: Request, env: OriginEnv): Response | null {
  const origin = request.headers.get("origin");
  if (request.method !== "OPTIONS" || origin === null || !request.headers.has("access-control-request-method"))
    return null;
  if (!allowed(origin, env)) return null;
  return new Response(null, {
    status: 204,
    headers: {
      "access-control-allow-methods": METHODS,
      "access-control-allow-headers": HEADERS,
      "access-control-max-age": MAX_AGE_S,
    },
  });
}

/** Lets the page that asked read the answer, when its origin is listed. */
export function allowOrigin(request: Request, headers: Headers, env: OriginEnv): void {
  const origin = request.headers.get("origin");
  if (!env.CAISSON_CORS_ORIGINS) return;
  headers.append("vary", "origin");
  if (origin === null || !allowed(origin, env)) return;
  headers.set("access-control-allow-origin", origin);
  headers.set("access-control-expose-headers", EXPOSED);
}

/** The subprotocol that is answered; a browser refuses a connection of whose subprotocols none is taken. */
const SUBPROTOCOL = "caisson";
export const TOKEN_PROTOCOL = "caisson.bearer.";

function subprotocols(request: Request): string[] {
  if (request.headers.get("upgrade")?.toLowerCase() !== "websocket") return [];
  return (request.headers.get("sec-websocket-protocol") ?? "").split(",").map((name) => name.trim());
}

/**
 * The token that a page sends with a WebSocket, for which it can set no header: `new WebSocket(url, ["caisson",
 * "caisson.bearer.<token in base64url>"])`. Unlike a URL, subprotocols are not written into logs and histories.
 */
export function socketToken(request: Request): string | undefined {
  const offered = subprotocols(request).find((name) => name.startsWith(TOKEN_PROTOCOL));
  return offered === undefined ? undefined : Buffer.from(offered.slice(TOKEN_PROTOCOL.length), "base64url").toString();
}

/** A handshake's answer, with the subprotocol when it was offered. */
export function acceptSubprotocol(response: Response, request: Request | undefined): Response {
  if (request === undefined || !subprotocols(request).includes(SUBPROTOCOL)) return response;
  const headers = { "sec-websocket-protocol": SUBPROTOCOL };
  return new Response(null, { status: 101, webSocket: response.webSocket, headers });
}
