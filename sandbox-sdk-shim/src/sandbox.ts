/**
 * The Sandbox class: the SDK's own, over the platform's `ctx.container` in production and over the local engine where
 * CAISSON_ENGINE_URL is set.
 */
import { ContainerProxy, Sandbox as SDKSandbox } from "@cloudflare/sandbox";
import { operatorMask, report } from "../../worker/src/effects/report.js";
import type { Env } from "../../worker/src/env.js";
import { problem, problemResponse } from "../../worker/src/errors.js";
import type { PortView, SessionRpc } from "../../worker/src/session/api.js";
import { EGRESS_ENDED_HEADER, EGRESS_TOKEN_HEADER, egressAllowed } from "./egress.js";
import { gate } from "./gate.js";
import { LocalContainer } from "./local-container.js";
import { Cut } from "./preview-connections.js";
import { PREVIEW_HEADER, Previews, type PreviewVerdict } from "./previews.js";

/** The SDK hands outbound requests to this entrypoint: the Worker's main module must export it. */
export { ContainerProxy };

/** Whether the sandbox runs, and which start of it this is. Asking never starts one. */
export interface RuntimeState {
  readonly running: boolean;
  readonly boot: string | null;
}

const BOOT_KEY = "caisson:boot";
const OWNER_KEY = "caisson:owner";
const RETIRED_KEY = "caisson:retired";
/** Where the SDK opens the WebSocket that carries its calls, where that transport is chosen. */
const CONTROL_URL = "http://localhost:3000/ws";
/** Where it opens a capnweb session, with the transport "rpc". */
const RPC_URL = "http://localhost:3000/rpc";
/** WebSocket close code: the endpoint goes away. */
const GOING_AWAY = 1001;

export class Sandbox extends SDKSandbox<Env> {
  /** No route out except through the gate below. */
  override enableInternet = false;
  override interceptHttps = true;
  readonly #local: LocalContainer | null;
  readonly #env: Env;
  readonly #previews: Previews;
  /** The SDK's WebSocket to what runs, when its calls go over one. */
  #control: WebSocket | null = null;

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
    this.#previews = new Previews(this, ctx.storage.kv);
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

  /**
   * Said before the sandbox starts: limits that hold where they are stricter than the engine's own. In production the
   * platform's instance type is what bounds a sandbox, and no single one of them can be given less.
   */
  async setLimits(limits: { readonly [name: string]: number }): Promise<void> {
    this.#local?.setLimits(limits);
  }

  /**
   * Destroys the sandbox for good. The SDK starts one anew for every call, so a call that was under way, or comes late, would
   * leave one running that nobody ends.
   */
  async retire(): Promise<void> {
    this.ctx.storage.kv.put(RETIRED_KEY, true);
    await this.destroy();
  }

  get #retired(): boolean {
    return this.ctx.storage.kv.get<boolean>(RETIRED_KEY) === true;
  }

  override async start(...args: Parameters<SDKSandbox["start"]>): Promise<void> {
    if (this.#retired) throw new Error(RETIRED);
    await super.start(...args);
  }

  override async startAndWaitForPorts(...args: Parameters<SDKSandbox["startAndWaitForPorts"]>): Promise<void> {
    if (this.#retired) throw new Error(RETIRED);
    await super.startAndWaitForPorts(...args);
  }

  /** See previews.ts. */
  async openPreview(port: number, hostname: string, name: string | null, expiresMs: number): Promise<PortView | null> {
    return await this.#previews.open(port, hostname, name, expiresMs);
  }

  async previews(hostname: string): Promise<PortView[]> {
    return await this.#previews.list(hostname);
  }

  async closePreview(port: number): Promise<boolean> {
    return await this.#previews.close(port);
  }

  async previewVerdict(port: number, token: string): Promise<PreviewVerdict> {
    return await this.#previews.verdict(port, token);
  }

  /** The SDK only refuses what comes later. */
  override async unexposePort(port: number): Promise<void> {
    await super.unexposePort(port);
    this.#previews.cut(port, "the port was closed");
  }

  override async onStart(): Promise<void> {
    this.ctx.storage.kv.put(BOOT_KEY, crypto.randomUUID());
    await super.onStart();
    // It was being started when it was retired.
    if (this.#retired) this.ctx.waitUntil(super.destroy());
  }

  override async onStop(params?: Parameters<SDKSandbox["onStop"]>[0]): Promise<void> {
    this.#endAll("the sandbox has stopped");
    await super.onStop(params as Parameters<SDKSandbox["onStop"]>[0]);
  }

  override async destroy(): Promise<void> {
    this.#endAll("the sandbox is destroyed");
    await super.destroy();
  }

  #endAll(reason: string): void {
    this.#endCalls(reason);
    this.#previews.cut(null, reason);
  }

  /**
   * Fails the calls that wait on the SDK's WebSocket. Told to disconnect, the SDK forgets them with their time-outs, and
   * their callers would wait for ever; a connection that closes it takes as their end.
   */
  #endCalls(reason: string): void {
    const control = this.#control;
    this.#control = null;
    if (control === null) return;
    control.dispatchEvent(new CloseEvent("close", { code: GOING_AWAY, reason, wasClean: true }));
    try {
      control.close(GOING_AWAY, reason);
    } catch {
      // closed already
    }
  }

  /** Of a start that failed for good the SDK says no more than that, in an answer of its own: this one says why. */
  override async containerFetch(...args: Parameters<SDKSandbox["containerFetch"]>): Promise<Response> {
    if (this.#retired) {
      const body = {
        code: RETIRED_CODE,
        message: RETIRED,
        context: {},
        httpStatus: 410,
        timestamp: new Date().toISOString(),
      };
      return Response.json(body, { status: 410 });
    }
    const response = await super.containerFetch(...args);
    const failure = response.status === 500 && this.#local?.running === false ? this.#local.failure : null;
    if (failure === null) return response;
    const body = (await response.json()) as { readonly context?: { readonly phase?: string } };
    const message = body.context?.phase === "startup" ? { message: failure } : {};
    return Response.json({ ...body, ...message }, { status: 500 });
  }

  override async fetch(request: Request): Promise<Response> {
    if (this.#local !== null && request.headers.has(EGRESS_TOKEN_HEADER)) {
      const allowed = await egressAllowed(request, this.#env.CAISSON_ENGINE_TOKEN ?? "", this.ctx.id.toString());
      if (!allowed) return new Response("forbidden\n", { status: 403 });
      const ended = request.headers.get(EGRESS_ENDED_HEADER);
      if (ended !== null) return await this.#webSocketEnded(ended);
      // A session takes its sandbox's requests itself.
      return await this.#local.egress(request, (await this.owner()) === "");
    }
    if (this.#local !== null && request.url === RPC_URL) throw noRPC();
    if (request.headers.get(PREVIEW_HEADER) === "1") return await this.#preview(request);
    const response = await super.fetch(request);
    if (request.url === CONTROL_URL && response.webSocket !== null) this.#control = response.webSocket;
    return response;
  }

  /** The engine's word of a WebSocket to the outside that has ended: `<entry> <bytes up> <bytes down> <milliseconds>`. */
  async #webSocketEnded(text: string): Promise<Response> {
    const [entry = -1, up = -1, down = -1, ms = -1, ...more] = text.split(" ").map(Number);
    if (more.length > 0 || ![entry, up, down, ms].every((n) => Number.isSafeInteger(n) && n >= 0))
      return new Response("not understood\n", { status: 400 });
    const owner = await this.owner();
    if (owner === "") return new Response("no session\n", { status: 404 });
    const session = this.#env.SESSION.get(this.#env.SESSION.idFromName(owner)) as unknown as SessionRpc;
    const told = await session.webSocketEnded(entry, up, down, ms);
    return new Response(null, { status: told.ok ? 204 : 404 });
  }

  /** A request of a preview URL; the SDK only says of a failure that there was one. */
  async #preview(request: Request): Promise<Response> {
    try {
      return await this.#previews.serve(request, (asked) => super.fetch(asked));
    } catch (error) {
      if (error instanceof Cut)
        return problemResponse(problem("preview_not_found", `Meanwhile ${error.message}.`), crypto.randomUUID());
      const why = error instanceof Error ? error.message : String(error);
      const detail = NOT_LISTENING.test(why)
        ? "Nothing in the sandbox listens on this port. Start the program, and let it listen on 0.0.0.0 or localhost."
        : "The program on this port did not answer.";
      const code = NOT_LISTENING.test(why) ? "port_not_listening" : "sandbox_error";
      return problemResponse(problem(code, detail), crypto.randomUUID());
    }
  }
}

/** What a call gets that comes to a retired sandbox. */
const RETIRED_CODE = "SANDBOX_RETIRED";
const RETIRED = "the sandbox was destroyed with its session";

/** The words of the platform, and of the local container, for a port that nobody listens on. */
const NOT_LISTENING = /not listening/i;

/** In the shape that the SDK hands on to the caller as it is; it takes every other failure for one that a retry mends. */
function noRPC(): Error {
  const message =
    'the local engine does not serve the transport "rpc": choose "http" (the default) or "websocket", ' +
    "in getSandbox(…, { transport }) or the variable SANDBOX_TRANSPORT";
  const context = { kind: "upgrade_failed", originalMessage: message, errorName: "Error" };
  return Object.assign(new Error(message), { code: "RPC_TRANSPORT_ERROR", context });
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
    report: (what, error) => report(operatorMask(env), "error", what, error),
  });
}
