/** The HTTP application: every endpoint, and what holds for all of them. */
import { OpenAPIHono } from "@hono/zod-openapi";
import { EngineUnavailable } from "../effects/engine.js";
import { type MaskText, operatorMask, report } from "../effects/report.js";
import type { Env } from "../env.js";
import { Problem, problem, problemResponse } from "../errors.js";
import { authenticate } from "../identity/authenticate.js";
import { acceptSubprotocol, allowOrigin, preflight } from "../identity/origin.js";
import { registerApprovals } from "./approvals.js";
import { registerArtifacts } from "./artifacts.js";
import { type App, type AppEnv, allowedMethods } from "./endpoint.js";
import { registerExec } from "./exec.js";
import { registerExecute } from "./execute.js";
import { registerFiles } from "./files.js";
import { setSecurityHeaders } from "./headers.js";
import { registerIdentity } from "./identity.js";
import { registerMeta } from "./meta.js";
import { registerPolicy } from "./policy.js";
import { registerPorts } from "./ports.js";
import { registerRuns } from "./runs.js";
import { registerSessions } from "./sessions.js";
import { registerTerminal } from "./terminal.js";

export function createApp(): App {
  const app: App = new OpenAPIHono<AppEnv>();
  app.openAPIRegistry.registerComponent("securitySchemes", "bearer", { type: "http", scheme: "bearer" });

  app.use("*", async (c, next) => {
    c.set("requestId", requestId(c.req.raw));
    const asked = preflight(c.req.raw, c.env);
    if (asked !== null) return asked;
    const { caller, guard } = await authenticate(c.req.raw, c.env);
    c.set("caller", caller);
    c.set("guard", guard);
    return next();
  });
  registerMeta(app);
  registerSessions(app);
  registerRuns(app);
  registerExec(app);
  registerTerminal(app);
  registerPorts(app);
  registerFiles(app);
  registerArtifacts(app);
  registerExecute(app);
  registerIdentity(app);
  registerApprovals(app);
  registerPolicy(app);

  app.notFound((c) => {
    const { pathname } = new URL(c.req.url);
    const allowed = allowedMethods(app, pathname);
    const id = c.get("requestId");
    if (allowed.length === 0) {
      return problemResponse(
        problem("not_found", `There is nothing at ${pathname.slice(0, 200)}; /openapi.json lists what there is.`),
        id,
      );
    }
    const allow = allowed.join(", ");
    return problemResponse(
      problem("method_not_allowed", `${c.req.method} is not allowed here; ${allow} are.`, { headers: { allow } }),
      id,
    );
  });
  app.onError((error, c) => {
    const found = asProblem(error, operatorMask(c.env));
    const legacy = new URL(c.req.url).pathname === "/execute";
    const shown = legacy ? new Problem(found.status, found.code, found.message, withError(found)) : found;
    return problemResponse(shown, c.get("requestId"));
  });
  return app;
}

/** Adds what every answer of the API carries. */
export function finish(response: Response, requestId: string, request: Request, env: Env): Response {
  // A WebSocket handshake must be passed on as the object it is.
  if (response.status === 101) return acceptSubprotocol(response, request);
  const answer = new Response(response.body, response);
  answer.headers.set("x-request-id", requestId);
  setSecurityHeaders(answer.headers, request.url);
  allowOrigin(request, answer.headers, env);
  return answer;
}

const requestIds = new WeakMap<Request, string>();

/** The platform's ray, or a fresh id; the same for every question about one request. */
export function requestId(request: Request): string {
  const known = requestIds.get(request);
  if (known !== undefined) return known;
  const ray = request.headers.get("cf-ray");
  const id = ray !== null && /^[\w-]{1,64}$/.test(ray) ? ray : crypto.randomUUID();
  requestIds.set(request, id);
  return id;
}

function asProblem(error: Error, mask: MaskText): Problem {
  if (error instanceof Problem) return error;
  if (error instanceof EngineUnavailable)
    return problem("engine_unavailable", error.message, { headers: { "retry-after": "2" } });
  report(mask, "error", "request failed", error);
  return problem("internal", "The request failed; the Worker's log has the reason under this request's id.");
}

/** Clients of the claude-code-templates worker read `error`. */
function withError(found: Problem): Problem["options"] {
  return { ...found.options, extra: { ...found.options.extra, error: found.message } };
}
