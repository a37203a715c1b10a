/** Sandbox classes as a user of the SDK writes them: hooks, outbound handlers, host lists, internet. */
import { Sandbox } from "../../sandbox-sdk-shim/src/sandbox.js";

/** Keeps the lifecycle hooks that ran, and lets a test see the container's state. */
export class Hooked extends Sandbox {
  override sleepAfter = "2s";

  #note(hook: string, detail?: unknown): void {
    const kept = this.ctx.storage.kv.get<unknown[]>("hooks") ?? [];
    kept.push(detail === undefined ? { hook } : { hook, detail });
    this.ctx.storage.kv.put("hooks", kept);
  }

  override async onStart(): Promise<void> {
    this.#note("start");
    await super.onStart();
  }

  override async onStop(params?: { exitCode: number; reason: string }): Promise<void> {
    this.#note("stop", params);
    await super.onStop(params as Parameters<Sandbox["onStop"]>[0]);
  }

  override onError(error: unknown): void {
    this.#note("error", error instanceof Error ? error.message : String(error));
    super.onError(error);
  }

  /** What a process's callbacks were called with, up to its exit. */
  async callbacks(command: string): Promise<unknown[]> {
    const calls: unknown[] = [];
    await new Promise<void>((resolve, reject) => {
      const onExit = (code: number | null): void => {
        calls.push(["exit", code]);
        resolve();
      };
      this.startProcess(command, {
        onOutput: (which, data) => calls.push([which, data]),
        onExit,
        onError: reject,
      }).catch(reject);
    });
    return calls;
  }

  /** The hooks that ran since the object exists, oldest first. */
  async hooks(): Promise<unknown[]> {
    return this.ctx.storage.kv.get<unknown[]>("hooks") ?? [];
  }
}

interface OutboundContext {
  readonly containerId: string;
  readonly params?: unknown;
}

/** What a handler saw, as the response that the program in the sandbox reads. */
async function seen(handler: string, request: Request, context?: OutboundContext): Promise<Response> {
  const body = request.body === null ? "" : await request.text();
  return Response.json({
    handler,
    method: request.method,
    url: request.url,
    header: request.headers.get("x-test"),
    body: body.length > 1000 ? { length: body.length } : body,
    ...(context?.params === undefined ? {} : { params: context.params }),
  });
}

/** Queries of requests to slow.example that may go on. */
const released = new Set<string>();

/** Every outbound request is answered here, HTTP and HTTPS. */
export class Outbound extends Sandbox {
  override enableInternet = false;
  override interceptHttps = true;
}

Outbound.outboundByHost = {
  "by-host.example": (request: Request) => seen("by-host", request),
  "*.glob.example": (request: Request) => seen("glob", request),
  "echo.example": async (request: Request) => new Response(request.body, { headers: { "x-echo": "1" } }),
  // Its second part comes when /go?id has been asked for.
  "slow.example": async (request: Request) => {
    const { pathname, search } = new URL(request.url);
    if (pathname === "/go") {
      released.add(search);
      return new Response("gone\n");
    }
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
    const feed = async (): Promise<void> => {
      const writer = writable.getWriter();
      await writer.write(new TextEncoder().encode("first\n"));
      while (!released.has(search)) await scheduler.wait(20);
      await writer.write(new TextEncoder().encode("second\n"));
      await writer.close();
    };
    void feed();
    return new Response(readable);
  },
  "socket.example": (request: Request) => {
    const [client, server] = Object.values(new WebSocketPair()) as [WebSocket, WebSocket];
    server.accept();
    server.send(new URL(request.url).pathname);
    server.addEventListener("message", ({ data }) => {
      if (data === "close me") server.close(4001, "why");
      else server.send(data);
    });
    return new Response(null, { status: 101, webSocket: client });
  },
  "broken.example": () => {
    throw new Error("the handler broke");
  },
};
Outbound.outboundHandlers = {
  named: (request: Request, _env: unknown, context: OutboundContext) => seen("named", request, context),
};
Outbound.outbound = (request: Request, _env: unknown, context: OutboundContext) => seen("outbound", request, context);

/** Only listed hosts get to the handlers; deny wins. */
export class Hosts extends Sandbox {
  override enableInternet = false;
  override allowedHosts = ["allowed.example", "*.wild.example", "denied.wild.example"];
  override deniedHosts = ["denied.wild.example"];
}

Hosts.outboundByHost = {
  "allowed.example": (request: Request) => seen("allowed", request),
  "a.wild.example": (request: Request) => seen("wild", request),
  "denied.wild.example": (request: Request) => seen("denied", request),
  "other.example": (request: Request) => seen("other", request),
};

/** A sandbox with the way out that the SDK gives by default. */
export class Online extends Sandbox {
  override enableInternet = true;
}
