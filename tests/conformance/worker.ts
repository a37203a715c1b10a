/**
 * A Worker that lets a test outside make any call of the SDK: `POST /call` names a sandbox and a chain of methods, the answer is
 * what the last one gave. Nothing of the SDK is replaced; what runs here is what a user's Worker would run.
 */
import {
  collectFile,
  getSandbox,
  parseSSEStream,
  proxyToSandbox,
  type SandboxOptions,
  streamFile,
} from "@cloudflare/sandbox";
import { handleEgress } from "../../sandbox-sdk-shim/src/egress.js";
import type { Sandbox } from "../../sandbox-sdk-shim/src/sandbox.js";
import type { Env } from "../../worker/src/env.js";
import { type Callback, decode, encode, errorOf } from "./wire.js";

export { ContainerProxy, Sandbox } from "../../sandbox-sdk-shim/src/sandbox.js";
export { Hooked, Hosts, Online, Outbound } from "./classes.js";
export { Floor } from "./floor.js";

type Namespaces = "SANDBOX" | "HOOKED" | "OUTBOUND" | "HOSTS" | "ONLINE" | "FLOOR";
type TestEnv = Env & Record<Namespaces, DurableObjectNamespace<Sandbox>> & { readonly FILES: R2Bucket };

/** A sandbox, and what is done with it. */
interface Call {
  readonly namespace?: Namespaces;
  readonly id: string;
  readonly options?: SandboxOptions;
  /** Each step is a method's name and its arguments; the next step is called on what it gave. */
  readonly chain: [string, ...unknown[]][];
  /** How the last result is answered: as JSON (default), as the stream it is, or digested here. */
  readonly as?: "json" | "stream" | "file" | "digest" | "events" | "response";
}

/** milliseconds */
const CALLBACK_MS = 100;

type Target = Record<string, (...args: unknown[]) => unknown>;

function sandboxOf(env: TestEnv, call: Pick<Call, "namespace" | "id" | "options">): Sandbox {
  return getSandbox(env[call.namespace ?? "SANDBOX"], call.id, call.options);
}

async function run(env: TestEnv, call: Call, callbacks: Callback[]): Promise<unknown> {
  let value: unknown = sandboxOf(env, call);
  for (const [method, ...args] of call.chain) {
    const target = value as Target;
    if (target === null || target === undefined) throw new TypeError(`nothing to call ${method} on`);
    value = await target[method]?.(...args.map((arg) => decode(arg, callbacks)));
  }
  return value;
}

async function digest(stream: ReadableStream<Uint8Array>): Promise<unknown> {
  const hash = new crypto.DigestStream("SHA-256");
  const writer = hash.getWriter();
  let bytes = 0;
  let chunks = 0;
  for await (const chunk of streamFile(stream)) {
    const data = typeof chunk === "string" ? new TextEncoder().encode(chunk) : chunk;
    bytes += data.byteLength;
    chunks += 1;
    await writer.write(data);
  }
  await writer.close();
  const sum = Array.from(new Uint8Array(await hash.digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { bytes, chunks, sha256: sum };
}

async function answer(env: TestEnv, call: Call): Promise<Response> {
  const callbacks: Callback[] = [];
  try {
    const value = await run(env, call, callbacks);
    switch (call.as ?? "json") {
      case "stream":
        return new Response(value as ReadableStream, { headers: { "content-type": "application/octet-stream" } });
      case "response":
        return value as Response;
      case "file":
        return Response.json({ value: encode(await collectFile(value as ReadableStream)) });
      case "digest":
        return Response.json({ value: await digest(value as ReadableStream) });
      case "events": {
        const events: unknown[] = [];
        for await (const event of parseSSEStream(value as ReadableStream)) events.push(event);
        return Response.json({ value: encode(events), callbacks });
      }
      case "json":
        // The SDK does not wait for the callbacks that it calls, and they come over RPC.
        if (call.chain.some((step) => JSON.stringify(step).includes('"$":"callback"')))
          await scheduler.wait(CALLBACK_MS);
        return Response.json({ value: encode(value), callbacks });
    }
  } catch (error) {
    return Response.json({ error: errorOf(error), callbacks });
  }
}

async function route(request: Request, env: TestEnv): Promise<Response> {
  const egress = await handleEgress(request, env, [env.SANDBOX, env.HOOKED, env.OUTBOUND, env.HOSTS, env.ONLINE]);
  if (egress !== null) return egress;
  const preview = await proxyToSandbox(request, { Sandbox: env.SANDBOX });
  if (preview !== null) return preview;

  const url = new URL(request.url);
  const query = (name: string): string | undefined => url.searchParams.get(name) ?? undefined;
  const id = query("id") ?? "";
  const namespace = (query("namespace") ?? "SANDBOX") as Namespaces;
  switch (url.pathname) {
    case "/health":
      return new Response("ok\n");
    case "/call":
      return await answer(env, (await request.json()) as Call);
    case "/object":
      return new Response(env[namespace].idFromName(id).toString());
    case "/terminal": {
      const sandbox = sandboxOf(env, { namespace, id });
      const session = query("session");
      const size = { cols: Number(query("cols") ?? 80), rows: Number(query("rows") ?? 24) };
      const options = { ...size, ...(query("shell") === undefined ? {} : { shell: query("shell") as string }) };
      const target = session === undefined ? sandbox : await sandbox.getSession(session);
      return await (target as unknown as { terminal(r: Request, o: object): Promise<Response> }).terminal(
        request,
        options,
      );
    }
    case "/connect": {
      const inner = new Request(new URL(query("path") ?? "/", "http://sandbox.test"), request);
      return await sandboxOf(env, { namespace, id }).wsConnect(inner, Number(query("port")));
    }
    case "/fetch": {
      const inner = new Request(new URL(query("path") ?? "/", "http://sandbox.test"), request);
      return await sandboxOf(env, { namespace, id }).containerFetch(inner, Number(query("port")));
    }
    case "/bucket": {
      const key = query("key") ?? "";
      if (request.method === "PUT") return Response.json(await env.FILES.put(key, await request.arrayBuffer()));
      if (request.method === "DELETE") return Response.json(await env.FILES.delete(key));
      const object = await env.FILES.get(key);
      return object === null ? new Response("no such key\n", { status: 404 }) : new Response(object.body);
    }
    default:
      return new Response("not found\n", { status: 404 });
  }
}

export default {
  async fetch(request: Request, env: TestEnv): Promise<Response> {
    try {
      return await route(request, env);
    } catch (error) {
      // wrangler dev answers an exception itself, and of exceptions on WebSocket upgrades only every other one.
      return Response.json({ error: errorOf(error) }, { status: 500 });
    }
  },
} satisfies ExportedHandler<TestEnv>;
