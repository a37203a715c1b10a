/** Terminals of the real Session object, over a scripted shell; with a real one: tests/e2e/terminal.test.mjs. */
import { afterEach, describe, expect, it, vi } from "vitest";
import type { TenantRpc } from "../../worker/src/identity/tenant.js";
import { LIMITS } from "../../worker/src/limits.js";
import { askTerminal, type TerminalRequest } from "../../worker/src/session/terminals.js";
import { env } from "./env.js";
import { created, eventually, type Fixture, value } from "./session-fixture.js";

const SECRET = "s3cr3t-value-0123456789";
const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const sockets: WebSocket[] = [];

afterEach(() => {
  for (const socket of sockets.splice(0)) socket.close();
});

interface Client {
  readonly socket: WebSocket;
  readonly control: { type: string; bytes?: number }[];
  closed: { code: number; reason: string } | null;
  /** What was printed, one character a byte. */
  printed: string;
}

async function open({ session }: Fixture, asked: Partial<TerminalRequest> = {}): Promise<Client> {
  const all = { terminal: "main", idle_s: 60, by: "ann", until: null, ...asked };
  const answer = await session.fetch(askTerminal(all));
  const socket = answer.webSocket;
  if (socket === null) throw new Error(`${answer.status}: ${await answer.text()}`);
  sockets.push(socket);
  const client: Client = { socket, control: [], closed: null, printed: "" };
  socket.binaryType = "arraybuffer";
  socket.accept();
  socket.addEventListener("message", ({ data }) => {
    if (typeof data === "string") client.control.push(JSON.parse(data));
    else client.printed += Buffer.from(data as ArrayBuffer).toString("latin1");
  });
  socket.addEventListener("close", ({ code, reason }) => {
    client.closed = { code, reason };
  });
  return client;
}

async function idle(): Promise<Fixture> {
  const fixture = await created({ secrets: { TOKEN: SECRET } });
  await eventually(async () => expect(value(await fixture.session.view()).state).toBe("idle"));
  return fixture;
}

/** Ends the session while a terminal is being opened, which is then refused for that. */
async function endsWhileOpening(fixture: Awaited<ReturnType<typeof idle>>): Promise<void> {
  const { fake, session } = fixture;
  const before = fake.terminals.length;
  fake.slowShell = true;
  const opening = open(fixture).catch((error: Error) => error.message);
  await eventually(async () => expect(fake.terminals).toHaveLength(before + 1));
  const ending = session.end();
  await eventually(async () => expect(fake.retired).toBe(true));
  fake.slowShell = false;
  fake.wake();
  expect(await opening).toMatch(/^409: .*session_ended/);
  expect(value(await ending).state).toBe("ended");
}

describe("a terminal", { timeout: 20_000 }, () => {
  it("asks the sandbox for what it was asked for", async () => {
    const fixture = await idle();
    await open(fixture, { terminal: "build", cols: 100, rows: 30, shell: "sh" });
    expect(new URL(fixture.fake.terminals[0] ?? "").search).toBe("?sessionId=terminal-build&cols=100&rows=30&shell=sh");
  });

  it("does not open when the session has ended meanwhile", async () => {
    await endsWhileOpening(await idle());
  });

  it("is refused in the sandbox's words, without the secrets in them, and as ended when the session has", async () => {
    const fixture = await idle();
    fixture.fake.noShell = `no pty is left: ${SECRET}`;
    const refused = await open(fixture).catch((error: Error) => error.message);
    expect(refused).toMatch(/^502: .*sandbox_error.*503 no pty is left: \*{23}"/);
    await endsWhileOpening(fixture);
  });

  it("hides a secret that comes in pieces, and shows after a moment what only begins like one", async () => {
    const fixture = await idle();
    const half = SECRET.length / 2;
    fixture.fake.terminal = {
      first: [bytes(`a ${SECRET.slice(0, half)}`), bytes(`${SECRET.slice(half)} b`), '{"type":"ready"}'],
      answer: (typed) => [bytes(typed)],
    };
    const client = await open(fixture);
    await eventually(async () => expect(client.printed).toHaveLength(SECRET.length + 4));
    expect(client.printed).not.toContain(SECRET.slice(0, 6));
    expect(client.printed).not.toContain(SECRET.slice(-6));
    client.socket.send(bytes(SECRET.slice(0, 6)));
    await eventually(async () => expect(client.printed.endsWith(SECRET.slice(0, 6))).toBe(true));
    expect(client.control).toEqual([{ type: "ready" }]);
  });

  it("hides a secret that comes a byte at a time, and lets no more than its beginning wait", async () => {
    const fixture = await idle();
    fixture.fake.terminal = { first: ['{"type":"ready"}'], answer: (typed) => [bytes(typed)] };
    const client = await open(fixture);
    await eventually(async () => expect(client.control).toEqual([{ type: "ready" }]));
    const drip = async (text: string, ms: number): Promise<void> => {
      for (const byte of text) {
        client.socket.send(bytes(byte));
        await new Promise((resolve) => setTimeout(resolve, ms));
      }
    };
    await drip(`${SECRET}!`, 100);
    expect(client.printed).toBe(`s3c${"*".repeat(SECRET.length - 3)}!`);
    // What begins no secret is not kept back, and a word that turns out to be none comes with the byte that tells.
    client.printed = "";
    client.socket.send(bytes("x"));
    await eventually(async () => expect(client.printed).toBe("x"));
    client.socket.send(bytes("s3cr"));
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(client.printed).toBe("x");
    client.socket.send(bytes("e"));
    await eventually(async () => expect(client.printed).toBe("xs3cre"));
    // However slowly, no more than the first half.
    client.printed = "";
    const half = Math.floor(SECRET.length / 2);
    client.socket.send(bytes(SECRET.slice(0, half + 2)));
    await eventually(async () => expect(client.printed).toBe(`${SECRET.slice(0, half)}**`));
    client.socket.send(bytes(SECRET.slice(half + 2)));
    await eventually(async () => expect(client.printed).toBe(SECRET.slice(0, half) + "*".repeat(SECRET.length - half)));
  });

  it("masks what control frames say, and tells what was kept back before the end", async () => {
    const fixture = await idle();
    fixture.fake.terminal = {
      first: [bytes(SECRET.slice(0, 6)), JSON.stringify({ type: "error", message: `no ${SECRET}` })],
      answer: () => [],
    };
    const client = await open(fixture);
    await eventually(async () => expect(client.control).toHaveLength(1));
    expect(client.printed).toBe(SECRET.slice(0, 6));
    expect(JSON.stringify(client.control)).not.toContain(SECRET.slice(3));
  });

  it("skips what a client has not acknowledged, but the end, and never the half of a secret", async () => {
    const fixture = await idle();
    const line = `${SECRET}\n`;
    const piece = bytes(line.repeat(20_000));
    const pieces = Math.ceil((4 * LIMITS.TERMINAL_SKIP_AT) / piece.byteLength);
    fixture.fake.terminal = {
      first: ['{"type":"ready"}'],
      answer: () => [...Array<Uint8Array>(pieces).fill(piece), bytes("the end\n")],
    };
    const client = await open(fixture);
    client.socket.send(bytes("go"));
    await eventually(async () => expect(client.printed.length).toBeGreaterThan(LIMITS.TERMINAL_SKIP_AT));
    client.socket.send(JSON.stringify({ type: "ack", bytes: 1 }));
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(client.printed).not.toContain("the end");
    client.socket.send(JSON.stringify({ type: "ack", bytes: client.printed.length }));
    await eventually(async () => expect(client.printed.endsWith("the end\n")).toBe(true));
    const skipped = client.control.find(({ type }) => type === "skipped")?.bytes ?? 0;
    expect(client.printed.length - "\x1bc".length + skipped).toBe(pieces * piece.byteLength + "the end\n".length);
    for (const part of [SECRET.slice(0, 8), SECRET.slice(-8)]) expect(client.printed).not.toContain(part);
  });

  it("does not show the rest of a secret with which an old screen begins", async () => {
    const fixture = await idle();
    const screen = `${SECRET.slice(4)}\n${"x".repeat(20_000)}\n`;
    fixture.fake.terminal = {
      first: [bytes(screen.slice(0, 10)), bytes(screen.slice(10)), '{"type":"ready"}'],
      answer: () => [],
    };
    const client = await open(fixture);
    await eventually(async () => expect(client.control).toEqual([{ type: "ready" }]));
    expect(client.printed).toBe(screen.slice(screen.indexOf("\n") + 1));
  });

  it("waits only so long to be told that all of an old screen is there", async () => {
    const fixture = await idle();
    fixture.fake.terminal = { first: [bytes("$ ")], answer: () => [] };
    const client = await open(fixture);
    await eventually(async () => expect(client.printed).toBe("$ "));
  });

  it("takes no more than it can hold", async () => {
    const fixture = await idle();
    fixture.fake.terminal = { first: [], answer: () => [] };
    const long = await open(fixture);
    long.socket.send(new Uint8Array(LIMITS.TERMINAL_MESSAGE_MAX + 1));
    await eventually(async () => expect(long.closed?.code).toBe(1009));
    const control = await open(fixture);
    control.socket.send(" ".repeat(LIMITS.TERMINAL_CONTROL_MAX + 1));
    await eventually(async () => expect(control.closed?.code).toBe(1009));
    const much = await open(fixture);
    for (let i = 0; i <= LIMITS.TERMINAL_AHEAD_MAX / LIMITS.TERMINAL_MESSAGE_MAX; i += 1)
      much.socket.send(new Uint8Array(LIMITS.TERMINAL_MESSAGE_MAX));
    await eventually(async () => expect(much.closed?.code).toBe(4429));
  });

  it("ends with its token, its silence and its session, which the audit log tells", async () => {
    const fixture = await idle();
    const token = await open(fixture, { until: Date.now() + 200, by: "token" });
    await eventually(async () => expect(token.closed).toEqual({ code: 1008, reason: "the token has expired" }));
    const past = await open(fixture, { until: Date.now() - 1, by: "past" });
    await eventually(async () => expect(past.closed?.code).toBe(1008));
    const silent = await open(fixture, { idle_s: 1, by: "silent" });
    await eventually(async () => expect(silent.closed?.code).toBe(4408));
    const last = await open(fixture, { by: "last" });
    last.socket.send(bytes("abc"));
    await eventually(async () => expect(last.printed).toBe("abc"));
    value(await fixture.session.end());
    await eventually(async () => expect(last.closed).toEqual({ code: 1001, reason: "the session has ended" }));
    const tenant = env.TENANT.get(env.TENANT.idFromName("")) as unknown as Pick<TenantRpc, "audit">;
    const acts = async () =>
      (await tenant.audit(0)).lines
        .map((line) => JSON.parse(line))
        .filter(({ session, by }) => session === fixture.id && by === "last");
    await vi.waitFor(async () => expect(await acts()).toHaveLength(2), { timeout: 5_000 });
    expect(await acts()).toMatchObject([
      { act: "terminal.opened", terminal: "main" },
      { act: "terminal.closed", code: 1001, reason: "the session has ended", bytes_typed: 3, bytes_printed: 3 },
    ]);
    await expect(open(fixture)).rejects.toThrow("409");
  });
});

describe("ports", () => {
  const host = "view.example";
  const soon = (): number => Date.now() + 60_000;

  it("stay what they are when they are opened again, and expire", async () => {
    const { session } = await idle();
    const first = value(await session.openPort(8080, host, "web", soon()));
    expect(first).toMatchObject({ port: 8080, name: "web", url: "https://8080-token8080.view.example/" });
    const again = value(await session.openPort(8080, host, null, soon()));
    expect([again.url, again.name, again.created_at]).toEqual([first.url, null, first.created_at]);
    expect(value(await session.ports(host))).toEqual([again]);
    value(await session.openPort(8081, host, null, Date.now() - 1));
    expect(value(await session.ports(host)).map(({ port }) => port)).toEqual([8080]);
    expect(value(await session.closePort(8080))).toBe(true);
    expect(await session.closePort(8080)).toMatchObject({ ok: false, status: 404, code: "port_not_found" });
  });

  it("have no secret for a name, and are not too many", async () => {
    const { session } = await idle();
    expect(JSON.stringify(value(await session.openPort(8080, host, `x ${SECRET}`, soon())))).not.toContain(SECRET);
    for (let n = 1; n < LIMITS.PORTS_MAX; n += 1) value(await session.openPort(9_000 + n, host, null, soon()));
    expect(await session.openPort(10_000, host, null, soon())).toMatchObject({ status: 409, code: "too_many_ports" });
    expect((await session.openPort(8080, host, null, soon())).ok).toBe(true);
  });

  it("are looked at without being changed", async () => {
    const { id, session, fake } = await idle();
    value(await session.openPort(8080, host, null, soon()));
    value(await session.openPort(8081, host, null, Date.now() + 50));
    const sandbox = env.SANDBOX.get(env.SANDBOX.idFromName(id.replace("_", "-")));
    const ask = async (port: number, token: string): Promise<string> => await sandbox.previewVerdict(port, token);
    expect(await ask(8080, "token8080")).toBe("open");
    expect(await ask(8080, "token8081")).toBe("unknown");
    expect(await ask(8082, "token8082")).toBe("unknown");
    await eventually(async () => expect(await ask(8081, "token8081")).toBe("unknown"));
    fake.running = false;
    expect(await ask(8080, "token8080")).toBe("over");
  });
});
