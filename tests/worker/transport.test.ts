import { evictDurableObject } from "cloudflare:test";
import { describe, expect, it, vi } from "vitest";
import type { EventText, Result, SessionRpc } from "../../worker/src/session/api.js";
import type { EventLog } from "../../worker/src/transport/log.js";
import { serveSSE } from "../../worker/src/transport/sse.js";
import { env } from "./env.js";
import { type FakeScript, script } from "./fake-sandbox.js";

type Stub = DurableObjectStub & SessionRpc;
let count = 0;

async function session(): Promise<{ session: Stub; fake: FakeScript }> {
  count += 1;
  const id = `ses_stream${count}`;
  const session = env.SESSION.get(env.SESSION.idFromName(id)) as unknown as Stub;
  value(await session.create(id, { agent: "shell" }));
  return { session, fake: script(`ses-stream${count}`) };
}

function value<T>(result: Result<T>): T {
  if (!result.ok) throw new Error(`${result.code}: ${result.detail}`);
  return result.value;
}

/** A session with one finished run of `lines` lines of output. */
async function withRun(lines: number): Promise<{ session: Stub; fake: FakeScript }> {
  const made = await session();
  value(await made.session.createRun({ command: "x" }));
  for (let i = 0; i < lines; i += 1) made.fake.output(1, `line ${i}\n`);
  made.fake.exit(1, { reason: "exited", exit_code: 0 });
  await vi.waitFor(async () => expect(value(await made.session.run("run_1")).state).toBe("succeeded"), {
    timeout: 8_000,
  });
  return made;
}

function get(session: Stub, query = "", headers: Record<string, string> = {}): Promise<Response> {
  return session.fetch(
    new Request(`http://session/events${query}`, { headers: { accept: "text/event-stream", ...headers } }),
  );
}

interface Frame {
  readonly id: number;
  readonly event: string;
  readonly data: Record<string, unknown>;
}

function frames(text: string): Frame[] {
  return text
    .split("\n\n")
    .filter((frame) => frame.startsWith("id: "))
    .map((frame) => {
      const field = (name: string): string =>
        frame
          .split("\n")
          .find((line) => line.startsWith(`${name}: `))
          ?.slice(name.length + 2) ?? "";
      return {
        id: Number(field("id")),
        event: field("event"),
        data: JSON.parse(field("data")) as Record<string, unknown>,
      };
    });
}

/** Reads a stream until `enough`, then lets go. */
async function readUntil(response: Response, enough: (text: string) => boolean): Promise<string> {
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  const decoder = new TextDecoder();
  let text = "";
  while (!enough(text)) {
    const { done, value: bytes } = await reader.read();
    if (done) break;
    text += decoder.decode(bytes, { stream: true });
  }
  await reader.cancel();
  return text;
}

describe("SSE", () => {
  it("sends the whole log, then ends with the session", async () => {
    const { session } = await withRun(300);
    value(await session.end());
    const response = await get(session);
    expect(response.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    const text = await response.text();
    expect(text.startsWith("retry: ")).toBe(true);
    const got = frames(text);
    expect(got.map(({ id }) => id)).toEqual(got.map((_, i) => i + 1));
    expect(got.length).toBeGreaterThan(300);
    for (const { id, event, data } of got) expect([data["seq"], data["type"]]).toEqual([id, event]);
    expect(got.at(-1)?.event).toBe("session.ended");
  });

  it("resumes after Last-Event-ID, which counts more than ?after=", async () => {
    const { session } = await withRun(5);
    value(await session.end());
    const all = frames(await (await get(session)).text());
    for (const after of [0, 1, 4, all.length - 1]) {
      expect(frames(await (await get(session, `?after=${after}`)).text())).toEqual(all.slice(after));
      expect(frames(await (await get(session, "?after=0", { "last-event-id": String(after) })).text())).toEqual(
        all.slice(after),
      );
    }
    expect(frames(await (await get(session, `?after=${all.length}`)).text())).toEqual([]);
    expect(frames(await (await get(session, "?after=999999")).text())).toEqual([]);
  });

  it.each(["?after=x", "?after=-1", "?run=1", "?after=1.5"])("refuses %s", async (query) => {
    const { session } = await withRun(0);
    const response = await get(session, query);
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ ok: false, code: "invalid_value" });
  });

  it("delivers live, to clients that came at different times, each event once", async () => {
    const { session: object, fake } = await session();
    const early = await get(object);
    value(await object.createRun({ command: "x" }));
    fake.output(1, "one\n");
    const late = get(object);
    fake.output(1, "two\n");
    fake.exit(1, { reason: "exited", exit_code: 0 });
    await vi.waitFor(async () => expect(value(await object.run("run_1")).state).toBe("succeeded"), { timeout: 8_000 });
    value(await object.end());
    const [a, b] = await Promise.all([early.text(), late.then((response) => response.text())]);
    expect(frames(a)).toEqual(frames(b));
    expect(frames(a).map(({ id }) => id)).toEqual(frames(a).map((_, i) => i + 1));
  });

  it("of one run ends with its outcome, while the session goes on", async () => {
    const { session } = await withRun(3);
    const got = frames(await (await get(session, "?run=run_1")).text());
    expect(got[0]?.event).toBe("run.queued");
    expect(got.at(-1)?.event).toBe("run.succeeded");
    expect(value(await session.view()).state).toBe("idle");
  });

  it("survives a client that goes away", async () => {
    const { session: object, fake } = await session();
    await readUntil(await get(object), (text) => text.includes("session.created"));
    value(await object.createRun({ command: "x" }));
    fake.exit(1, { reason: "exited", exit_code: 0 });
    await vi.waitFor(async () => expect(value(await object.run("run_1")).state).toBe("succeeded"), { timeout: 8_000 });
  });

  it("sends a comment when nothing happens, and reads no further than its client", async () => {
    let pages = 0;
    const events: EventText[] = Array.from({ length: 10 }, (_, i) => ({
      seq: i + 1,
      type: "raw",
      json: `{"x":"${"y".repeat(100_000)}"}`,
    }));
    const quiet: EventLog = {
      ended: () => null,
      page: (after) => {
        pages += 1;
        return { events: events.slice(after, after + 1), next: Math.min(after + 1, 10), done: false };
      },
      changed: () => Promise.resolve(false),
    };
    const response = serveSSE(quiet, { after: 0, withRaw: false, run: null, reader: { share: "", untilMs: null } }, 10);
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    await reader.read();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(pages).toBeLessThanOrEqual(2);
    reader.releaseLock();
    expect(await readUntil(response, (text) => text.includes(": heartbeat\n\n"))).toContain("id: 10\n");
  });
});

describe("WebSocket", () => {
  async function open(
    session: Stub,
    query = "",
  ): Promise<{ socket: WebSocket; got: Record<string, unknown>[]; closed: Promise<CloseEvent> }> {
    const response = await session.fetch(
      new Request(`http://session/events${query}`, { headers: { upgrade: "websocket" } }),
    );
    expect(response.status).toBe(101);
    const socket = response.webSocket as WebSocket;
    const got: Record<string, unknown>[] = [];
    socket.addEventListener("message", (event) =>
      got.push(JSON.parse(event.data as string) as Record<string, unknown>),
    );
    const closed = new Promise<CloseEvent>((resolve) => socket.addEventListener("close", resolve));
    socket.accept();
    return { socket, got, closed };
  }

  it("sends the log after ?after=, one event a frame, and closes with 1000 after the last", async () => {
    const { session } = await withRun(300);
    const { got, closed } = await open(session, "?after=2");
    value(await session.end());
    expect((await closed).code).toBe(1000);
    expect(got.map(({ seq }) => seq)).toEqual(got.map((_, i) => i + 3));
    expect(got.at(-1)?.["type"]).toBe("session.ended");
  });

  it("sends a long backlog in portions, whole and in order", async () => {
    const { session } = await withRun(3_000);
    const last = value(await session.end()).last_seq;
    const { got, closed } = await open(session);
    expect((await closed).code).toBe(1000);
    expect(got.map(({ seq }) => seq)).toEqual(Array.from({ length: last }, (_, i) => i + 1));
  });

  it("closes at once when everything was had", async () => {
    const { session } = await withRun(1);
    const last = value(await session.end()).last_seq;
    const { got, closed } = await open(session, `?after=${last}`);
    expect((await closed).code).toBe(1000);
    expect(got).toEqual([]);
  });

  it("goes on where it was after its object was evicted", async () => {
    const { session: object, fake } = await session();
    await vi.waitFor(async () => expect(value(await object.view()).state).toBe("idle"), { timeout: 8_000 });
    const { got, closed } = await open(object);
    await vi.waitFor(() => expect(got.length).toBe(3));
    await evictDurableObject(object);
    value(await object.createRun({ command: "x" }));
    fake.output(1, "after the eviction\n");
    fake.exit(1, { reason: "exited", exit_code: 0 });
    await vi.waitFor(async () => expect(value(await object.run("run_1")).state).toBe("succeeded"), { timeout: 8_000 });
    value(await object.end());
    expect((await closed).code).toBe(1000);
    expect(got.map(({ seq }) => seq)).toEqual(got.map((_, i) => i + 1));
    expect(got.some(({ text }) => text === "after the eviction\n")).toBe(true);
  });

  it("answers pings without waking anything", async () => {
    const { session: object } = await session();
    const response = await object.fetch(new Request("http://session/events", { headers: { upgrade: "websocket" } }));
    const socket = response.webSocket as WebSocket;
    const pong = new Promise<unknown>((resolve) => {
      socket.addEventListener("message", (event) => {
        if (event.data === "pong") resolve(event.data);
      });
    });
    socket.accept();
    socket.send("ping");
    expect(await pong).toBe("pong");
    socket.close(1000);
  });

  it("reports bad parameters instead of upgrading", async () => {
    const { session: object } = await session();
    const response = await object.fetch(
      new Request("http://session/events?after=x", { headers: { upgrade: "websocket" } }),
    );
    expect(response.status).toBe(400);
  });
});
