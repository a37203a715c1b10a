/**
 * Model requests on their way out of a sandbox. The sandbox holds a placeholder; the key is added here.
 */
import type { Env } from "../../worker/src/env.js";

/**
 * Hosts that stand for the model. An agent that is given the second as its base URL does not take it for the vendor's own
 * service: Claude Code asks that for managed settings and policy limits over HTTPS first, which is not intercepted, and
 * repeats itself for 17 s before it starts.
 */
export const MODEL_HOSTS = ["api.anthropic.com", "model.caisson.internal"] as const;
const DEFAULT_UPSTREAM = "https://api.anthropic.com";

/** Headers that the sandbox may not choose, or that belong to the connection it used. */
const DROPPED = [
  "x-api-key",
  "authorization",
  "proxy-authorization",
  "host",
  "connection",
  "accept-encoding",
  "cf-connecting-ip",
];

/** Forwards a request for one of MODEL_HOSTS, streaming both ways. Only paths under /v1/ leave. */
export async function modelEgress(request: Request, env: Env): Promise<Response> {
  const url = new URL(request.url);
  if (!url.pathname.startsWith("/v1/"))
    return modelError(403, "permission_error", "only /v1/ of this host is reachable from a sandbox");
  // An empty variable is an absent one: an empty header would only hide what is missing.
  const key = env.ANTHROPIC_API_KEY || undefined;
  if (key === undefined && env.ANTHROPIC_UPSTREAM === undefined) {
    return modelError(401, "authentication_error", "this Worker has no model key: set ANTHROPIC_API_KEY");
  }
  const headers = new Headers();
  for (const [name, value] of request.headers) {
    if (!DROPPED.includes(name) && !name.startsWith("x-caisson-")) headers.append(name, value);
  }
  if (key !== undefined) headers.set("x-api-key", key);
  const upstream = new URL(env.ANTHROPIC_UPSTREAM ?? DEFAULT_UPSTREAM);
  upstream.pathname = upstream.pathname.replace(/\/$/, "") + url.pathname;
  upstream.search = url.search;
  try {
    return await fetch(upstream, {
      method: request.method,
      headers,
      body: request.body,
      redirect: "manual",
      signal: request.signal,
    });
  } catch (error) {
    console.error("model egress:", error);
    return modelError(502, "api_error", `the model endpoint ${upstream.origin} does not answer`);
  }
}

/** An error in the shape of the Anthropic API, so that its clients report it in words. */
function modelError(status: number, type: string, message: string): Response {
  return Response.json({ type: "error", error: { type, message } }, { status });
}
