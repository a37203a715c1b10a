/**
 * The floor of the benchmark: the same class as everywhere, over a `ctx.container` that is up at once and whose control server
 * answers at once. What a request costs here is what wrangler, the SDK and the Durable Objects cost.
 */
import { Sandbox } from "../../sandbox-sdk-shim/src/sandbox.js";
import type { Env } from "../../worker/src/env.js";

class StandIn {
  running = false;
  readonly #origin: string;

  constructor(origin: string) {
    this.#origin = origin;
  }

  start(): void {
    this.running = true;
  }

  /** It never ends by itself. */
  monitor(): Promise<void> {
    return new Promise(() => {});
  }

  async destroy(): Promise<void> {
    this.running = false;
  }

  signal(): void {
    this.running = false;
  }

  async interceptOutboundHttp(): Promise<void> {}
  async interceptOutboundHttps(): Promise<void> {}
  async interceptAllOutboundHttp(): Promise<void> {}

  getTcpPort(): { fetch(input: RequestInfo | URL, init?: RequestInit | Request): Promise<Response> } {
    return {
      fetch: async (input, init) => {
        const request = new Request(input, init as RequestInit);
        const { pathname, search } = new URL(request.url);
        return await fetch(`${this.#origin}${pathname}${search}`, {
          method: request.method,
          headers: request.headers,
          body: request.body,
          redirect: "manual",
          signal: request.signal,
        });
      },
    };
  }
}

export class Floor extends Sandbox {
  constructor(ctx: DurableObjectState, env: Env & { readonly FLOOR_URL?: string }) {
    Object.defineProperty(ctx, "container", { value: new StandIn(env.FLOOR_URL ?? ""), configurable: true });
    super(ctx, { ...env, CAISSON_ENGINE_URL: "" });
  }
}

// The SDK registers handlers by class name: the floor pays for the same ones.
Floor.outboundByHost = { ...Sandbox.outboundByHost };
