/** What leaves a sandbox: the session's verdict, the credentials put in, the log; and that secrets are nowhere else. */
import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { afterEach, describe, expect, it, vi } from "vitest";
import { gate, replaced } from "../../sandbox-sdk-shim/src/gate.js";
import type { Env } from "../../worker/src/env.js";
import type { CreateSessionBody } from "../../worker/src/routes/schemas.js";
import type { Result, SessionRpc } from "../../worker/src/session/api.js";
import { EGRESS_EVENTS_MAX } from "../../worker/src/session/session.js";
import { env } from "./env.js";
import { script } from "./fake-sandbox.js";

type Stub = DurableObjectStub & SessionRpc;
const SECRET = "s3cr3t-value-0123456789";
let count = 0;

afterEach(() => {
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
});

function value<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(`${result.code}: ${result.detail}`);
  return result.value;
}

async function created(body: Partial<CreateSessionBody>): Promise<{ id: string; session: Stub; containerId: string }> {
  count += 1;
  const id = `ses_gate${count}`;
  const session = env.SESSION.get(env.SESSION.idFromName(id)) as unknown as Stub;
  value(await session.create(id, { agent: "shell", ...body }));
  await vi.waitFor(async () => expect(value(await session.view()).state).toBe("idle"), { timeout: 8_000 });
  expect(script(`ses-gate${count}`).owner).toBe(id);
  return { id, session, containerId: env.SANDBOX.idFromName(`ses-gate${count}`).toString() };
}

/** Stubs the network; the answer says what arrived. */
function network(answer: (request: Request) => Promise<Response> | Response): Request[] {
  const seen: Request[] = [];
  vi.stubGlobal("fetch", async (input: RequestInfo, init?: RequestInit) => {
    const request = new Request(input, init);
    seen.push(request.clone() as Request);
    return await answer(request);
  });
  return seen;
}

const through = (containerId: string, url: string, init?: RequestInit) =>
  gate(new Request(url, init), env as unknown as Env, { containerId });

const POLICY = {
  network: {
    allow: ["api.example.com:443", "*.allowed.example", "hooks.example.com"],
    inject: [
      { host: "api.example.com", header: "authorization", secret: "API_TOKEN", format: "Bearer {}" },
      { host: "hooks.example.com", secret: "API_TOKEN", body: true },
    ],
  },
};

describe("the gate", () => {
  it("sends an allowed request on with the credential, and logs both ends", async () => {
    const { session, containerId } = await created({ policy: POLICY, secrets: { API_TOKEN: SECRET } });
    const seen = network(async (request) => new Response(`got ${(await request.text()).length}`, { status: 201 }));
    const response = await through(containerId, "https://api.example.com/v1/x?token=1", {
      method: "POST",
      body: "12345",
      headers: { authorization: "whatever the sandbox sent", "x-caisson-forged": "1" },
    });
    expect([response.status, await response.text()]).toEqual([201, "got 5"]);
    expect(seen[0]?.headers.get("authorization")).toBe(`Bearer ${SECRET}`);
    expect(seen[0]?.headers.has("x-caisson-forged")).toBe(false);
    const [entry] = value(await session.egressLog(0, 10));
    expect(entry).toMatchObject({
      host: "api.example.com",
      port: 443,
      method: "POST",
      path: "/v1/x",
      verdict: "allow",
      rule: "network.allow[0]",
      status: 201,
      bytes_up: 5,
      bytes_down: 5,
    });
    const { events } = value(await session.events(0, 100, true));
    expect(events.map((event) => event.type)).toContain("egress.allowed");
    expect(JSON.stringify(events)).not.toContain(SECRET);
  });

  it("refuses in words, at once, and says which rule it was", async () => {
    const { session, containerId } = await created({ policy: POLICY });
    const seen = network(() => new Response("must not be reached"));
    for (const [url, rule] of [
      ["https://evil.example/", "network.default"],
      ["http://api.example.com/", "network.default"],
      ["http://169.254.169.254/latest/meta-data", "network.private_ranges"],
      ["http://[::ffff:127.0.0.1]/", "network.private_ranges"],
      ["http://0x7f.1/", "network.private_ranges"],
    ] as const) {
      const response = await through(containerId, url);
      expect([url, response.status, response.headers.get("x-caisson-denied")]).toEqual([url, 403, rule]);
      expect(await response.json()).toMatchObject({ code: "egress_denied", rule });
    }
    expect(seen).toEqual([]);
    const { events } = value(await session.events(0, 100, true));
    expect(events.filter((event) => event.type === "egress.denied")).toHaveLength(5);
  });

  it("replaces a placeholder for the host named and for no other", async () => {
    const { session, containerId } = await created({ policy: POLICY, secrets: { API_TOKEN: SECRET } });
    const placeholder = await runInDurableObject(session, (_, state) => {
      return (
        [...state.storage.sql.exec<{ placeholder: string }>("SELECT placeholder FROM secrets")][0]?.placeholder ?? ""
      );
    });
    expect(placeholder).toMatch(/^caisson-secret-[0-9a-f]{32}$/);
    const seen = network(async (request) => new Response(await request.text()));
    const body = JSON.stringify({ t: placeholder });
    const init = {
      method: "POST",
      body,
      headers: {
        "content-type": "application/json",
        "x-token": `a ${placeholder}`,
        "content-length": `${body.length}`,
      },
    };
    await (await through(containerId, "https://hooks.example.com/", init)).text();
    await (await through(containerId, "https://sub.allowed.example/", init)).text();
    expect(seen[0]?.headers.get("x-token")).toBe(`a ${SECRET}`);
    expect(await seen[0]?.json()).toEqual({ t: SECRET });
    expect(seen[1]?.headers.get("x-token")).toBe(`a ${placeholder}`);
    expect(await seen[1]?.json()).toEqual({ t: placeholder });
  });

  it("follows a change of the policy from the next request on", async () => {
    const { session, containerId } = await created({ policy: { preset: "offline" } });
    network(() => new Response("ok"));
    expect((await through(containerId, "https://a.example/")).status).toBe(403);
    expect(value(await session.setPolicy({ network: { allow: ["a.example"] } }))).toMatchObject({ dialect: "caisson" });
    expect((await through(containerId, "https://a.example/")).status).toBe(200);
    const refused = await session.setPolicy({ network: { allow: ["*.*"] } });
    expect(refused).toMatchObject({ ok: false, status: 400, code: "invalid_policy", field: "/policy/network/allow/0" });
    expect((await through(containerId, "https://a.example/")).status).toBe(200);
    expect(value(await session.policy())).toMatchObject({ policy: { network: { allow: ["a.example"] } } });
  });

  it("denies an address for a request that the log has no more, and tells of no other one", async () => {
    const { session } = await created({ policy: { preset: "open" } });
    const ask = async (host: string): Promise<number> =>
      value(
        await session.egress({ host, port: 443, method: "GET", path: "/", websocket: false, policy: null, door: null }),
      ).id;
    const gone = await ask("gone.example");
    await ask("other.example");
    await session.egressLog(0, 10);
    await runInDurableObject(
      session,
      (_, state) => void state.storage.sql.exec("DELETE FROM egress WHERE id = ?", gone),
    );
    expect(value(await session.egressAddress(gone, ["10.0.0.1"])).address).toBeNull();
    const { events } = value(await session.events(0, 100, false));
    expect(events.filter(({ type }) => type === "egress.denied")).toEqual([]);
  });

  it("lets nothing out of a sandbox that no session owns", async () => {
    const seen = network(() => new Response("must not be reached"));
    const response = await through(env.SANDBOX.idFromName("one-stray").toString(), "https://a.example/");
    expect([response.status, seen.length]).toEqual([403, 0]);
  });

  it("lets no header carry a secret that the runtime would refuse and print", async () => {
    const policy = {
      network: { allow: ["a.example"], inject: [{ host: "a.example", header: "x-key", secret: "TOKEN" }] },
    };
    const { session, containerId } = await created({ policy, secrets: { TOKEN: "café-secret-\u0001-0123" } });
    const seen = network(() => new Response("must not be reached"));
    const printed: unknown[] = [];
    for (const method of ["error", "warn", "log"] as const)
      vi.spyOn(console, method).mockImplementation((...words) => void printed.push(...words));
    const answer = await through(containerId, "https://a.example/");
    expect([answer.status, (await answer.json()) as object]).toEqual([
      403,
      expect.objectContaining({ rule: "network.inject", detail: expect.stringContaining("x-key") }),
    ]);
    expect(seen).toEqual([]);
    expect(JSON.stringify(printed)).not.toContain("café");
    expect(value(await session.egressLog(0, 1))[0]).toMatchObject({ status: 403 });
  });

  it("tells of so many requests in events, cut as in the log, and of the others in the log alone", async () => {
    const { session, containerId } = await created({});
    await through(containerId, `https://a.example/${"x".repeat(50_000)}`);
    const last = async () => value(await session.events(0, 1_000, false)).events.at(-1)?.json ?? "";
    expect(JSON.parse(await last()).path).toHaveLength(512);
    await runInDurableObject(session, (_, state) => {
      state.storage.sql.exec(
        "INSERT OR REPLACE INTO meta (key, value) VALUES ('egress_events', ?)",
        EGRESS_EVENTS_MAX - 1,
      );
    });
    await evictDurableObject(session);
    for (const path of ["/last", "/log"]) await through(containerId, `https://a.example${path}`);
    expect(JSON.parse(await last())).toMatchObject({ type: "egress.denied", path: "/last", last: true });
    expect(value(await session.egressLog(0, 9)).at(-1)).toMatchObject({ path: "/log" });
  });

  it("asks the policy about the vendor when a model's host of ours is meant, and answers in its shape", async () => {
    const open = await created({});
    const seen = network(() => Response.json({ ok: true }));
    const models = await through(open.containerId, "http://model.caisson.internal/v1/models");
    expect([models.status, seen.length]).toEqual([401, 0]);
    const idle = await through(open.containerId, "http://model.caisson.internal/v1/messages", {
      method: "POST",
      body: "{}",
    });
    expect([idle.status, await idle.text()]).toEqual([403, expect.stringContaining("none is under way")]);
    expect(value(await open.session.egressLog(1, 1))[0]).toMatchObject({
      verdict: "allow",
      status: 403,
      bytes_down: 0,
    });
    const closed = await created({ policy: { preset: "offline" } });
    const refused = await through(closed.containerId, "http://model.caisson.internal/v1/messages", {
      method: "POST",
      body: "{}",
    });
    expect(refused.status).toBe(403);
    expect(await refused.json()).toMatchObject({ type: "error", error: { type: "permission_error" } });
    expect(value(await closed.session.egressLog(0, 1))[0]).toMatchObject({ host: "api.anthropic.com", port: 443 });
  });

  it("counts what a model's answer says it used, and refuses the next call when that is too much", async () => {
    const { session, containerId } = await created({ limits: { tokens: 100 } });
    value(await session.createRun({ command: "work" }));
    await vi.waitFor(async () => expect(value(await session.run("run_1")).state).toBe("running"), { timeout: 8_000 });
    const events = [
      { type: "message_start", message: { model: "claude-x", usage: { input_tokens: 70, output_tokens: 1 } } },
      { type: "message_delta", usage: { output_tokens: 40 } },
    ];
    network(
      () =>
        new Response(events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join(""), {
          headers: { "content-type": "text/event-stream" },
        }),
    );
    const keyed = { ...(env as unknown as Env), ANTHROPIC_API_KEY: "k" };
    const call = () =>
      gate(new Request("http://model.caisson.internal/v1/messages", { method: "POST", body: "{}" }), keyed, {
        containerId,
      });
    const first = await call();
    expect([first.status, (await first.text()).includes("message_delta")]).toEqual([200, true]);
    expect(value(await session.view()).usage).toMatchObject({ input_tokens: 70, output_tokens: 40 });
    const second = await call();
    expect([second.status, await second.text()]).toEqual([403, expect.stringContaining("tokens")]);
  });

  it("counts an answer by its length that does not say what it used, or is left before it does", async () => {
    const { session, containerId } = await created({ limits: { tokens: 100_000 } });
    value(await session.createRun({ command: "work" }));
    await vi.waitFor(async () => expect(value(await session.run("run_1")).state).toBe("running"), { timeout: 8_000 });
    const keyed = { ...(env as unknown as Env), ANTHROPIC_API_KEY: "k", OPENAI_API_KEY: "k" };
    const ask = (host: string, path: string, body: string) =>
      gate(new Request(`http://${host}${path}`, { method: "POST", body }), keyed, { containerId });
    const sse = (events: string[]) =>
      new Response(events.map((event) => `data: ${event}\n\n`).join(""), {
        headers: { "content-type": "text/event-stream" },
      });
    network(() => sse([...Array(20).fill('{"choices":[{"delta":{"content":"word"}}]}'), "[DONE]"]));
    await (await ask("openai.model.caisson.internal", "/v1/chat/completions", "x".repeat(400))).text();
    expect(value(await session.view()).usage).toMatchObject({ input_tokens: 100, output_tokens: 21 });

    // A count of tokens generates nothing, and an error has cost nothing.
    network(() => Response.json({ input_tokens: 14 }));
    await (await ask("model.caisson.internal", "/v1/messages/count_tokens", "x".repeat(400))).text();
    network(() => Response.json({ error: {} }, { status: 529 }));
    await (await ask("model.caisson.internal", "/v1/messages", "x".repeat(400))).text();
    expect(value(await session.view()).usage).toMatchObject({ input_tokens: 100, output_tokens: 21 });

    const begin = `data: ${JSON.stringify({ type: "message_start", message: { usage: { input_tokens: 7, output_tokens: 1 } } })}\n\n`;
    const delta = `data: ${JSON.stringify({ type: "content_block_delta", delta: { text: "y".repeat(4_256) } })}\n\n`;
    network(() => {
      const body = new ReadableStream<Uint8Array>({
        start(controller) {
          controller.enqueue(new TextEncoder().encode(begin + delta));
        },
      });
      return new Response(body, { headers: { "content-type": "text/event-stream" } });
    });
    const reader = (await ask("model.caisson.internal", "/v1/messages", "{}")).body?.getReader();
    await reader?.read();
    await reader?.cancel();
    await vi.waitFor(async () => {
      const { input_tokens, output_tokens } = value(await session.view()).usage;
      expect(input_tokens).toBe(107);
      expect(output_tokens).toBeGreaterThan(1_000);
    });
  });

  it("counts a call that is left before its answer begins by the request's length", async () => {
    const { session, containerId } = await created({ limits: { tokens: 100_000 } });
    value(await session.createRun({ command: "work" }));
    await vi.waitFor(async () => expect(value(await session.run("run_1")).state).toBe("running"), { timeout: 8_000 });
    const keyed = { ...(env as unknown as Env), ANTHROPIC_API_KEY: "k" };
    const never = (request: Request): Promise<Response> =>
      new Promise((_, fail) => request.signal.addEventListener("abort", () => fail(request.signal.reason)));
    const seen = network(async (request) => {
      await request.text();
      return await never(request);
    });
    vi.spyOn(console, "error").mockImplementation(() => {});
    const leave = async (path: string): Promise<void> => {
      const gone = new AbortController();
      const body = '{"model":"house-model"}'.padEnd(400, "x");
      const init = { method: "POST", body, signal: gone.signal };
      const before = seen.length;
      const asked = gate(new Request(`http://model.caisson.internal${path}`, init), keyed, { containerId });
      await vi.waitFor(() => expect(seen.length).toBe(before + 1));
      await scheduler.wait(50);
      gone.abort(new Error("scripted: the program went away"));
      expect((await asked).status).toBe(502);
    };
    await leave("/v1/messages/count_tokens");
    expect(value(await session.view()).usage).toMatchObject({ input_tokens: 0 });
    await leave("/v1/messages");
    // At 1 dollar a million tokens of the model that the request names.
    expect(value(await session.view()).usage).toMatchObject({ input_tokens: 100, output_tokens: 0, cost_usd: 0.0001 });
  });

  it("reports a host that does not answer", async () => {
    const { session, containerId } = await created({ policy: { preset: "open" } });
    network(() => Promise.reject(new Error("connection refused")));
    expect((await through(containerId, "https://a.example/")).status).toBe(502);
    expect(value(await session.egressLog(0, 1))[0]).toMatchObject({ status: 502 });
  });

  it("leaves the bytes of a WebSocket open until somebody says them, once, and of nothing else", async () => {
    const { session, containerId } = await created({ policy: POLICY });
    network(() => {
      const { 0: client, 1: server } = new WebSocketPair();
      server.accept();
      return new Response(null, { status: 101, webSocket: client });
    });
    const response = await through(containerId, "https://a.allowed.example/ws", { headers: { upgrade: "websocket" } });
    expect(response.status).toBe(101);
    response.webSocket?.accept();
    response.webSocket?.close();
    network(() => new Response("x"));
    await (await through(containerId, "https://a.allowed.example/plain")).text();
    const bytes = async (): Promise<unknown[]> =>
      value(await session.egressLog(0, 10)).map((entry) => [entry.status, entry.bytes_up, entry.bytes_down]);
    await vi.waitFor(async () =>
      expect(await bytes()).toEqual([
        [101, null, null],
        [200, 0, 1],
      ]),
    );
    for (const [id, up, down] of [
      [1, 10, 20],
      [1, 99, 99],
      [2, 99, 99],
      [3, 99, 99],
    ] as const)
      value(await session.webSocketEnded(id, up, down, 5));
    expect(await bytes()).toEqual([
      [101, 10, 20],
      [200, 0, 1],
    ]);
    const { events } = value(await session.events(0, 100, false));
    expect(events.filter(({ type }) => type === "egress.allowed")).toHaveLength(3);
  });
  it("obeys network.websockets", async () => {
    const { containerId } = await created({ policy: { network: { allow: ["a.example"], websockets: "deny" } } });
    network(() => new Response("must not be reached"));
    const response = await through(containerId, "https://a.example/", { headers: { upgrade: "websocket" } });
    expect([response.status, response.headers.get("x-caisson-denied")]).toEqual([403, "network.websockets"]);
  });
});

describe("secrets", () => {
  it("are nowhere in what the session has stored", async () => {
    const { session } = await created({ policy: POLICY, secrets: { API_TOKEN: SECRET } });
    const dump = await runInDurableObject(session, (_, state) => {
      const { sql } = state.storage;
      const tables = [
        ...sql.exec<{ name: string }>(
          "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_cf%' ESCAPE '\\'",
        ),
      ];
      return tables
        .flatMap(({ name }) => [...sql.exec(`SELECT * FROM ${name}`)].flatMap((row) => Object.values(row)))
        .map((cell) => (cell instanceof ArrayBuffer ? Buffer.from(cell).toString("latin1") : String(cell)))
        .join("\n");
    });
    expect(dump).toContain("caisson-secret-");
    for (const form of [SECRET, Buffer.from(SECRET).toString("base64"), encodeURIComponent(SECRET)])
      expect(dump).not.toContain(form);
  });
  it("are refused without a key to seal them with, and beside a variable of that name", async () => {
    const id = "ses_gate_none";
    const session = env.SESSION.get(env.SESSION.idFromName(id)) as unknown as Stub;
    const both = await session.create(id, { agent: "shell", env: { A: "x" }, secrets: { A: "12345678" } });
    expect(both).toMatchObject({ ok: false, status: 400, code: "conflicting_fields", field: "/secrets/A" });
    const policy = await session.create(id, { agent: "shell", policy: { network: { allow: [1] } } });
    expect(policy).toMatchObject({ ok: false, status: 400, code: "invalid_policy", field: "/policy/network/allow/0" });
    expect(await session.view()).toMatchObject({ ok: false, status: 404 });
  });
});

describe("placeholders", () => {
  it("are replaced wherever they stand, and nothing else is", () => {
    const pairs = [
      ["caisson-secret-aa", "$&$1"],
      ["caisson-secret-bb", 'q"\\'],
    ] as const;
    expect(replaced("x caisson-secret-aa caisson-secret-aa", pairs)).toBe("x $&$1 $&$1");
    expect(replaced("caisson-secret-a", pairs)).toBe("caisson-secret-a");
    const json = replaced('{"a":"caisson-secret-bb"}', pairs, (text) => JSON.stringify(text).slice(1, -1));
    expect(JSON.parse(json)).toEqual({ a: 'q"\\' });
  });
});
