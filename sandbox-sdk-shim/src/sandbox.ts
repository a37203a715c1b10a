/**
 * The Sandbox class: the SDK's own, over the platform's `ctx.container` in production and over the local engine where
 * CAISSON_ENGINE_URL is set.
 */
import { ContainerProxy, Sandbox as SDKSandbox } from "@cloudflare/sandbox";
import type { Env } from "../../worker/src/env.js";
import { EGRESS_TOKEN_HEADER, egressAllowed } from "./egress.js";
import { gate } from "./gate.js";
import { LocalContainer } from "./local-container.js";

/** The SDK hands outbound requests to this entrypoint: the Worker's main module must export it. */
export { ContainerProxy };

/** Whether the sandbox runs, and which start of it this is. Asking never starts one. */
export interface RuntimeState {
  readonly running: boolean;
  readonly boot: string | null;
}

const BOOT_KEY = "caisson:boot";
const OWNER_KEY = "caisson:owner";

export class Sandbox extends SDKSandbox<Env> {
  /** No route out except through the gate below. */
  override enableInternet = false;
  override interceptHttps = true;
  readonly #local: LocalContainer | null;
  readonly #env: Env;

  constructor(ctx: DurableObjectState, env: Env) {
    const local = localContainer(ctx, env);
    if (local !== null) {
      Object.defineProperty(ctx, "container", { value: local, configurable: true });
      // Queued before the SDK's own: it must not see a sandbox as running that ended while this object was evicted.
      void ctx.blockConcurrencyWhile(() => local.verify());
    }
    super(ctx as DurableObjectState<Record<string, never>>, env);
    this.#local = local;
    this.#env = env;
  }

  /** Whether the sandbox runs and since which start; unlike every other method it never starts one. */
  async runtime(): Promise<RuntimeState> {
    if (this.#local !== null) return { running: this.#local.running, boot: this.#local.generation };
    return { running: this.ctx.container?.running === true, boot: this.ctx.storage.kv.get<string>(BOOT_KEY) ?? null };
  }

  /** Name of the Session object that decides what this sandbox may reach; "" when there is none. */
  async owner(): Promise<string> {
    return this.ctx.storage.kv.get<string>(OWNER_KEY) ?? "";
  }

  /** Said once, by the session, before the sandbox starts. Another owner is refused: a sandbox serves one session. */
  async setOwner(name: string): Promise<void> {
    const known = await this.owner();
    if (known !== "" && known !== name) throw new Error("this sandbox belongs to another session");
    this.ctx.storage.kv.put(OWNER_KEY, name);
  }

  /** Said once, before the sandbox starts, of a sandbox that is not to have the default root. Throws in production. */
  async setTemplate(name: string): Promise<void> {
    if (this.#local === null) throw new Error("a template needs the local engine");
    this.#local.setTemplate(name);
  }

  override async onStart(): Promise<void> {
    this.ctx.storage.kv.put(BOOT_KEY, crypto.randomUUID());
    await super.onStart();
  }

  override async fetch(request: Request): Promise<Response> {
    if (this.#local !== null && request.headers.has(EGRESS_TOKEN_HEADER)) {
      const allowed = await egressAllowed(request, this.#env.CAISSON_ENGINE_TOKEN ?? "", this.ctx.id.toString());
      return allowed ? await this.#local.egress(request) : new Response("forbidden\n", { status: 403 });
    }
    return await super.fetch(request);
  }
}

// Assigned, not declared: the SDK keeps handlers in a table that an inherited static setter fills, and a static field
// would define a property of its own beside it.
Sandbox.outbound = (request: Request, env: unknown, ctx: { containerId: string }) => gate(request, env as Env, ctx);

function localContainer(ctx: DurableObjectState, env: Env): LocalContainer | null {
  if (env.CAISSON_ENGINE_URL === undefined || env.CAISSON_ENGINE_URL === "") return null;
  return new LocalContainer({
    engineURL: env.CAISSON_ENGINE_URL.replace(/\/$/, ""),
    engineToken: env.CAISSON_ENGINE_TOKEN ?? "",
    workerURL: (env.CAISSON_WORKER_URL ?? "").replace(/\/$/, ""),
    name: ctx.id.toString(),
    kv: ctx.storage.kv,
  });
}
