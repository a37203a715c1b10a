/**
 * Previews: what a program in a session's sandbox serves on a port, under a host name of its own. Whoever has the URL is served;
 * its token is in the name. What is served was written in a sandbox and is no part of the API.
 */
import { proxyToSandbox } from "@cloudflare/sandbox";
import type { Sandbox } from "../../../sandbox-sdk-shim/src/sandbox.js";
import { operatorMask, report } from "../effects/report.js";
import type { Env } from "../env.js";
import { Problem, problem, problemResponse } from "../errors.js";
import { isCredential } from "../identity/authenticate.js";
import { TOKEN_PROTOCOL } from "../identity/origin.js";
import { isPreviewHost, previewName } from "../identity/preview-host.js";
import { requestId } from "./app.js";

/** The answer to a request for a preview's host; null for every other one. */
export async function handlePreview(request: Request, env: Env): Promise<Response | null> {
  const { hostname } = new URL(request.url);
  if (!isPreviewHost(hostname, env)) return null;
  try {
    return await preview(request, env, hostname);
  } catch (error) {
    const found = error instanceof Problem ? error : problem("sandbox_error", "The preview could not be reached.");
    if (!(error instanceof Problem)) report(operatorMask(env), "error", "preview", error);
    return finished(problemResponse(found, requestId(request)));
  }
}

async function preview(request: Request, env: Env, hostname: string): Promise<Response> {
  const name = previewName(hostname, env);
  const unknown = problem(
    "preview_not_found",
    "The URL is none of a preview, or of one that was closed or has expired.",
  );
  if (name === null) throw unknown;
  const object = env.SANDBOX.get(env.SANDBOX.idFromName(name.sandbox)) as unknown as Pick<Sandbox, "previewVerdict">;
  const verdict = await object.previewVerdict(name.port, name.token);
  if (verdict === "unknown") throw unknown;
  if (verdict === "over") throw problem("preview_over", "The session's sandbox has stopped.");
  const answer = await proxyToSandbox(await withoutCredentials(request, env), { Sandbox: env.SANDBOX });
  if (answer === null) throw unknown;
  return finished(answer);
}

/** The request without what is the API's own: a sandbox must not get a caller's key because somebody sent it to the wrong host. */
export async function withoutCredentials(request: Request, env: Env): Promise<Request> {
  const headers = new Headers(request.headers);
  for (const header of request.headers.keys()) if (header.startsWith("x-caisson-")) headers.delete(header);
  const given = /^Bearer +(\S+)\s*$/i.exec(headers.get("authorization") ?? "")?.[1];
  if (given !== undefined && (await isCredential(given, env))) headers.delete("authorization");
  const protocols = headers.get("sec-websocket-protocol");
  if (protocols?.includes(TOKEN_PROTOCOL)) {
    const others = protocols.split(",").filter((name) => !name.trim().startsWith(TOKEN_PROTOCOL));
    if (others.length > 0) headers.set("sec-websocket-protocol", others.join(","));
    else headers.delete("sec-websocket-protocol");
  }
  const url = new URL(request.url);
  const share = url.searchParams.get("share");
  if (share !== null && (await isCredential(share, env))) url.searchParams.delete("share");
  return new Request(url, new Request(request, { headers }));
}

/** The answer as a page of the preview's host alone. */
function finished(response: Response): Response {
  if (response.webSocket !== null) return response;
  const answer = new Response(response.body, response);
  const { headers } = answer;
  // A cookie for the domain would reach the previews of others, and the API.
  const cookies = headers.getSetCookie();
  headers.delete("set-cookie");
  for (const cookie of cookies) headers.append("set-cookie", cookie.replaceAll(/;\s*domain\s*=[^;]*/gi, ""));
  // The host's name has the token: no other site may learn it from a link, no search engine from a crawl.
  headers.set("referrer-policy", "same-origin");
  headers.set("x-robots-tag", "noindex");
  return answer;
}
