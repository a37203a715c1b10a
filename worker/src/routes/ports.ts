/** Ports of a session's sandbox that have a preview URL. */
import { z } from "@hono/zod-openapi";
import type { Env } from "../env.js";
import { problem } from "../errors.js";
import { tenantObject } from "../identity/quotas.js";
import { LIMITS } from "../limits.js";
import { type App, endpoint } from "./endpoint.js";
import { json } from "./json.js";
import { sessionObject, unwrap } from "./session-object.js";

/** The container server's own. */
const RESERVED = 3_000;
const PORT_MIN = 1_024;
const PORT_MAX = 65_535;

const OpenPortSchema = z
  .strictObject({
    port: z
      .int()
      .min(PORT_MIN)
      .max(PORT_MAX)
      .refine((port) => port !== RESERVED, { message: "is the sandbox's own control port" })
      .openapi({ description: `Any but ${RESERVED}` }),
    name: z.string().min(1).max(64).optional(),
    expires_in_s: z
      .int()
      .min(1)
      .max(LIMITS.PREVIEW_LIFE_S_MAX)
      .optional()
      .openapi({ description: `${LIMITS.PREVIEW_LIFE_S_DEFAULT} when absent` }),
  })
  .openapi("OpenPort");
const PortSchema = z
  .object({
    port: z.int(),
    name: z.string().nullable(),
    url: z.string().openapi({ description: "Whoever has it is served: its host name has a token" }),
    created_at: z.string(),
    expires_at: z.string().openapi({ description: "After this the URL is one of nothing" }),
  })
  .openapi("Port");

export function registerPorts(app: App): void {
  endpoint(app, {
    method: "post",
    path: "/v1/sessions/{id}/ports",
    tag: "Sandbox",
    scope: "preview",
    summary: "Open a port of the sandbox under a preview URL",
    description:
      "HTTP and WebSockets, with a host name of its own. Nothing need listen there yet. A port that is open stays so under the same " +
      "URL, with the new name and end; once it was closed it gets another one. Ends with the session.",
    body: OpenPortSchema,
    answers: { 201: { description: "The port", content: { "application/json": PortSchema } } },
    problems: [409, 502, 503],
    async handler({ env, request, caller, session, body }) {
      const { port, name = null, expires_in_s = LIMITS.PREVIEW_LIFE_S_DEFAULT } = body;
      const expires = Date.now() + expires_in_s * 1_000;
      const opened = unwrap(await sessionObject(env, session).openPort(port, previewHost(request, env), name, expires));
      const { expires_at } = opened;
      const by = caller.subject;
      await tenantObject(env, caller.tenant).act({ act: "port.opened", by, session: session.id, port, expires_at });
      return json(opened, 201, { location: `/v1/sessions/${session.id}/ports/${port}` });
    },
  });

  endpoint(app, {
    method: "get",
    path: "/v1/sessions/{id}/ports",
    tag: "Sandbox",
    scope: "preview",
    summary: "The ports that have a preview URL",
    answers: {
      200: { description: "The ports", content: { "application/json": z.object({ ports: z.array(PortSchema) }) } },
    },
    problems: [409, 502, 503],
    async handler({ env, request, session }) {
      return json({ ports: unwrap(await sessionObject(env, session).ports(previewHost(request, env))) });
    },
  });

  endpoint(app, {
    method: "delete",
    path: "/v1/sessions/{id}/ports/{port}",
    tag: "Sandbox",
    scope: "preview",
    summary: "Close a port",
    description:
      "Its URL is one of nothing from then on. What is under way through it ends at once: WebSockets are closed with 1001 and the reason, " +
      "answers break off, and requests that wait for one get 404. So it is when its time is over, and with the session.",
    answers: { 204: { description: "It is closed" } },
    problems: [409, 502, 503],
    async handler({ env, caller, session, params }) {
      const port = /^\d{4,5}$/.test(params.port) ? Number(params.port) : 0;
      unwrap(await sessionObject(env, session).closePort(port));
      const by = caller.subject;
      await tenantObject(env, caller.tenant).act({ act: "port.closed", by, session: session.id, port });
      return new Response(null, { status: 204 });
    },
  });
}

/** Host and port below which previews are reached. Not taken from the request but on the machine itself: whoever calls could choose it. */
function previewHost(request: Request, env: Env): string {
  const { hostname, port } = new URL(request.url);
  const configured = env.CAISSON_PREVIEW_HOST ?? "";
  if (configured !== "" && !configured.endsWith(".workers.dev")) return configured;
  if (configured === "" && (["localhost", "127.0.0.1", "[::1]"].includes(hostname) || hostname.endsWith(".localhost")))
    return port === "" ? "localhost" : `localhost:${port}`;
  throw problem(
    "no_preview_host",
    "Previews need a domain with a wildcard that leads to this Worker, which workers.dev has not: name it in CAISSON_PREVIEW_HOST.",
  );
}
