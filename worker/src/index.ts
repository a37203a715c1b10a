/** The Worker: the HTTP API in front, the Durable Object classes behind. */
import { handleEgress } from "../../sandbox-sdk-shim/src/egress.js";
import type { Env } from "./env.js";
import { createApp, finish, requestId } from "./routes/app.js";
import { handlePreview } from "./routes/preview.js";

export { ContainerProxy, Sandbox } from "../../sandbox-sdk-shim/src/sandbox.js";
export { Tenant } from "./identity/tenant.js";
export { Session } from "./session/session.js";

const app = createApp();

export default {
  async fetch(request: Request, env: Env, ctx: ExecutionContext): Promise<Response> {
    // Sandboxes come in here with tokens of their own; nothing of the API's rules applies to them.
    const egress = await handleEgress(request, env);
    if (egress !== null) return egress;
    const preview = await handlePreview(request, env);
    if (preview !== null) return preview;
    return finish(await app.fetch(request, env, ctx), requestId(request), request, env);
  },
} satisfies ExportedHandler<Env>;
