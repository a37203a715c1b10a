/** What the service says about itself: landing page, health, OpenAPI. */
import { z } from "@hono/zod-openapi";
import { type App, endpoint } from "./endpoint.js";
import { engineHealth } from "./engine.js";
import { json } from "./json.js";

export const VERSION = "0.1.0";

const HealthSchema = z
  .object({ ok: z.boolean(), version: z.string(), engine: z.object({ ok: z.boolean(), detail: z.string() }) })
  .openapi("Health");

export function registerMeta(app: App): void {
  let described: object | undefined;
  endpoint(app, {
    method: "get",
    path: "/health",
    tag: "Service",
    scope: null,
    summary: "Does it work?",
    answers: {
      200: { description: "Yes", content: { "application/json": HealthSchema } },
      503: { description: "No: `engine.detail` says what to do", content: { "application/json": HealthSchema } },
    },
    async handler({ env }) {
      const health = await engineHealth(env);
      const engine = health.ok
        ? health
        : { ok: false, detail: `${health.detail} Start it with \`make dev\` in the repository.` };
      const headers: Record<string, string> = health.ok ? {} : { "retry-after": "2" };
      return json({ ok: health.ok, version: VERSION, engine }, health.ok ? 200 : 503, headers);
    },
  });

  endpoint(app, {
    method: "get",
    path: "/openapi.json",
    tag: "Service",
    scope: null,
    summary: "This document",
    answers: {
      200: { description: "OpenAPI 3.1", content: { "application/json": z.looseObject({ openapi: z.string() }) } },
    },
    handler({ request }) {
      described ??= openapiDocument(app);
      return json({ ...described, servers: [{ url: new URL(request.url).origin }] });
    },
  });

  endpoint(app, {
    method: "get",
    path: "/",
    tag: "Service",
    scope: null,
    summary: "Where to look",
    answers: {
      200: {
        description: "Names and addresses",
        content: { "application/json": z.looseObject({ name: z.string() }), "text/html": null },
      },
    },
    handler({ request }) {
      const { origin } = new URL(request.url);
      if (/(^|,)\s*text\/html\b/i.test(request.headers.get("accept") ?? "")) {
        return new Response(landingPage(), {
          headers: {
            "content-type": "text/html; charset=utf-8",
            "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
          },
        });
      }
      return json({
        name: "caisson",
        version: VERSION,
        what: "Runs coding agents and untrusted code in isolated sandboxes.",
        openapi: `${origin}/openapi.json`,
        health: `${origin}/health`,
        try: `curl -s ${origin}/v1/execute -H 'content-type: application/json' -d '{"language":"python","code":"print(6*7)"}'`,
      });
    },
  });
}

function landingPage(): string {
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Caisson</title>
<style>:root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem}
pre{overflow:auto;padding:.75rem;border:1px solid}</style>
<h1>Caisson ${VERSION}</h1>
<p>Runs coding agents and untrusted code in isolated sandboxes, driven over HTTP.</p>
<ul>
<li><a href="/openapi.json">/openapi.json</a>: every endpoint, with its bodies, answers and errors</li>
<li><a href="/health">/health</a>: whether it works, and what to do when it does not</li>
<li><a href="/v1/sessions">/v1/sessions</a>: the sessions</li>
</ul>
<pre>curl -s /v1/execute -H 'content-type: application/json' \\
  -d '{"language":"python","code":"print(6*7)"}'</pre>
</html>
`;
}

const DESCRIPTION =
  "Runs coding agents and untrusted code in isolated sandboxes.\n\n" +
  "Errors are problem documents (RFC 9457, `application/problem+json`) with a stable `code`. Unknown fields and parameters are " +
  "refused with a 400 that names them. Times are RFC 3339; durations carry their unit in the name. Every answer has " +
  "`x-request-id`. When CAISSON_API_KEY or CAISSON_KEYS is set every call but `/`, `/health` and `/openapi.json` sends that key, a " +
  "static key or a token as `Authorization: Bearer`, or with a WebSocket as the subprotocol `caisson.bearer.<it in base64url>` beside `caisson`; when neither is, only requests from the machine itself are served. A token " +
  "allows its scopes, for the sessions of its tenant; another tenant's id is not there (404).";

/** All but `servers`. Building it takes some 20 ms: once for each isolate, when every route is registered. */
function openapiDocument(app: App): object {
  return app.getOpenAPI31Document({
    openapi: "3.1.0",
    info: {
      title: "Caisson",
      version: VERSION,
      description: DESCRIPTION,
      license: { name: "Apache-2.0", url: "https://www.apache.org/licenses/LICENSE-2.0" },
    },
    security: [{ bearer: [] }],
    tags: [
      { name: "Sessions", description: "An agent, its sandbox, its log" },
      { name: "Runs", description: "Prompts and commands, one at a time" },
      { name: "Events", description: "What happened, live or later" },
      { name: "Sandbox", description: "Commands beside the agent" },
      { name: "Files", description: "The workspace" },
      { name: "Results", description: "Diff and artifacts" },
      { name: "One-shots", description: "A sandbox for one piece of code" },
      { name: "Policy", description: "What a sandbox may do, and what it asked for" },
      { name: "Identity", description: "Tokens, share links, audit" },
      { name: "Service", description: "About the service itself" },
    ],
  });
}
