/** Terminals through the API: a real shell in a real sandbox, over the SDK's PTY. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { SandboxAddon } from "@cloudflare/sandbox/xterm";
import WebSocket from "ws";
import { connectSocket } from "../conformance/socket.mjs";
import { as, assertProblem, IDENTITY, openStack, operator } from "./lib.mjs";

const SECRET = "terminal-secret-7d20c1f9a6b84e";
let stack;
let session;
const mint = (claims) => stack.api.mint(claims);
const openFor = (id, query = {}, headers = operator) =>
  connectSocket(`${stack.url}/v1/sessions/${id}/terminal?${new URLSearchParams(query)}`, { headers });
const open = async (query, headers) => {
  const socket = await openFor(session.id, query, headers);
  await socket.until(({ control }) => control().some(({ type }) => type === "ready"), "ready");
  return socket;
};
/** Types a line and waits for what it prints: the marker is put together by the shell, so that the echo is not it. */
const type = async (socket, line, marker) => {
  socket.send(Buffer.from(`${line}; printf 'E%s\\n' ${marker}\n`));
  await socket.until(({ output }) => output().includes(`E${marker}`), `the end of ${line}`);
  return socket.output();
};
const acts = async () => {
  const { bytes } = await stack.api.ok("GET", "/v1/audit", undefined, operator);
  return bytes
    .toString()
    .trim()
    .split("\n")
    .map(JSON.parse)
    .filter(({ act }) => act?.startsWith("terminal."));
};

before(async () => {
  stack = await openStack({
    vars: {
      ...IDENTITY,
      CAISSON_SEAL_KEY: `1:${Buffer.alloc(32, 9).toString("base64url")}`,
      CAISSON_CORS_ORIGINS: "https://desk.example",
    },
  });
  session = (await stack.api.ok("POST", "/v1/sessions", { agent: "shell", secrets: { TOKEN: SECRET } }, operator)).body;
});
after(() => stack?.close());

describe("a terminal", () => {
  test("is a shell in the workspace, of the size asked for, that can be resized", async () => {
    const socket = await open({ cols: 100, rows: 30 });
    const output = await type(socket, 'tty; echo "$TERM $PWD"; stty size', "nd1");
    assert.match(output, /\/dev\/pts\/\d+/);
    assert.match(output, /xterm-256color \/workspace/);
    assert.match(output, /30 100/);
    assert.match(await type(socket, 'echo "is $TOKEN"', "nd0"), /is caisson-secret-[0-9a-f]{32}\r\n/);
    socket.sendJSON({ type: "resize", cols: 132, rows: 43 });
    await socket.until(() => {
      socket.send(Buffer.from("stty size\n"));
      return socket.output().includes("43 132");
    }, "the new size");
    socket.sendJSON({ type: "resize", cols: 0, rows: 1 });
    await socket.until(({ control }) => control().some(({ type }) => type === "error"), "a refusal");
    await socket.close();
  });

  test("is taken up again by whoever asks for it by name", async () => {
    const one = await open({ terminal: "build" });
    await type(one, "kept=there", "nd2");
    one.vanish();
    const two = await open({ terminal: "build" });
    assert.match(two.output(), /End2/, "what was printed before");
    assert.match(await type(two, "echo is-$kept", "nd3"), /is-there/);
    const three = await open({ terminal: "build" });
    two.send(Buffer.from("echo both-$((40 + 2))\n"));
    await three.until(({ output }) => output().includes("both-42"), "the other's output");
    const other = await open({ terminal: "other" });
    assert.ok(!(await type(other, 'echo "none-$kept-"', "nd4")).includes("none-there-"));
    for (const socket of [two, three, other]) await socket.close();
  });

  test("tells how its shell ended, and gives a new one after that", async () => {
    const socket = await open({ terminal: "ends" });
    socket.send(Buffer.from("exit 3\n"));
    const exit = await socket.until(({ control }) => control().find(({ type }) => type === "exit"), "an exit");
    assert.equal(exit.code, 3);
    const closed = await socket.until(({ closed }) => closed, "the close");
    assert.deepEqual(closed, { code: 1000, reason: "the shell has exited" });
    const next = await open({ terminal: "ends", shell: "sh" });
    assert.match(await type(next, "readlink /proc/$$/exe", "nd5"), /\/(dash|sh|busybox)\r\n/);
    await next.close();
    const none = await openFor(session.id, { terminal: "none", shell: "/no/such/shell" });
    const failed = await none.until(({ control }) => control().find(({ type }) => type === "error"), "an error");
    assert.match(failed.message, /no such shell/);
    assert.equal((await none.until(({ closed }) => closed, "the close")).code, 1011);
  });

  test("shows no secret, whole or in pieces, and echoes at once what is none", async () => {
    const socket = await open({ terminal: "quiet" });
    const half = SECRET.length / 2;
    const parts = `printf %s ${SECRET.slice(0, half)}; printf '%s\\n' ${SECRET.slice(half)}`;
    await type(socket, parts, "nd6");
    await type(socket, `printf %s ${SECRET.slice(0, 5)}"${SECRET.slice(5)}" | base64`, "nd7");
    const output = socket.output();
    const plain = output.replaceAll(/\s/g, "");
    assert.ok(!plain.includes(SECRET), output);
    assert.ok(!plain.includes(Buffer.from(SECRET).toString("base64").slice(0, -4)), output);
    // The beginning of a secret alone is none; it is shown after a moment.
    socket.send(Buffer.from(SECRET.slice(0, 4)));
    await socket.until(({ output }) => output().endsWith(SECRET.slice(0, 4)), "the echo", 2_000);
    socket.send(Buffer.from("\x15"));
    // A byte every tenth of a second, by a program and as an echo.
    const slowly =
      "for (const c of process.argv[1]) { process.stdout.write(c); Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100); }";
    const [one, two] = [SECRET.slice(0, 5), SECRET.slice(5)];
    const program = socket.output().length;
    await type(socket, `/opt/caisson/bin/node -e '${slowly}' ${one}"${two}"; echo`, "nd10");
    const dripped = socket.output().slice(program).replaceAll(/\s/g, "");
    assert.ok(!dripped.includes(SECRET.slice(3)), dripped);
    assert.ok(dripped.includes(SECRET.slice(0, 3) + "*".repeat(SECRET.length - 3)), dripped);
    await socket.close();
    const again = await open({ terminal: "quiet" });
    assert.ok(!again.output().replaceAll(/\s/g, "").includes(SECRET), "what is shown again");
    await again.close();
  });

  test("serves the SDK's xterm addon", async () => {
    const token = await mint({ scopes: ["terminal"] });
    // The addon gives its socket no subprotocols; a page with a token gives it one that does.
    class Authorized extends WebSocket {
      constructor(url) {
        super(url, ["caisson", `caisson.bearer.${Buffer.from(token).toString("base64url")}`]);
      }
    }
    const screen = { text: "", cols: 91, rows: 27, write: (data) => (screen.text += Buffer.from(data)) };
    const listening = (name) => (listener) => {
      screen[name] = listener;
      return { dispose() {} };
    };
    Object.assign(screen, { clear() {}, focus() {}, onData: listening("type"), onResize: listening("resize") });
    const before = { WebSocket: globalThis.WebSocket, location: globalThis.location };
    Object.assign(globalThis, { WebSocket: Authorized, location: new URL(stack.url) });
    const states = [];
    const addon = new SandboxAddon({
      getWebSocketUrl: ({ sandboxId, sessionId, origin }) =>
        `${origin}/v1/sessions/${sandboxId}/terminal?terminal=${sessionId}`,
      onStateChange: (state, error) => states.push([state, error?.message]),
      reconnect: false,
    });
    try {
      addon.activate(screen);
      addon.connect({ sandboxId: session.id, sessionId: "addon" });
      await stack.api.until(() => addon.state === "connected", "the connection");
      screen.type("stty size\r");
      await stack.api.until(() => screen.text.includes("27 91"), "the addon's size");
      screen.resize({ cols: 70, rows: 20 });
      await stack.api.until(() => {
        screen.type("stty size\r");
        return screen.text.includes("20 70");
      }, "the new size");
      screen.type("exit 4\r");
      await stack.api.until(() => states.some(([, message]) => /exited with code 4/.test(message)), "the exit");
    } finally {
      addon.dispose();
      Object.assign(globalThis, before);
    }
  });

  test("is closed when nothing happens, or when its client shows no sign of reading", async () => {
    const idle = await open({ terminal: "idle", idle_s: 1 });
    assert.equal((await idle.until(({ closed }) => closed, "the close", 5_000)).code, 4408);
    const flood = await open({ terminal: "flood" });
    flood.send(Buffer.from("yes 0123456789012345678901234567890123456789\n"));
    assert.equal((await flood.until(({ closed }) => closed, "the close", 180_000)).code, 4429);
    const bytes = flood.messages.reduce((sum, m) => sum + (typeof m === "string" ? 0 : m.length), 0);
    assert.ok(bytes <= 17 * 1_048_576, `${bytes} bytes for a client that said nothing`);
    const again = await open({ terminal: "flood" });
    again.send(Buffer.from("\x03"));
    await again.close();
  });

  test("skips what a client is too slow for, and says so", async () => {
    const socket = await open({ terminal: "read" });
    let bytes = 0;
    socket.ws.on("message", (data, binary) => {
      if (binary) bytes += data.length;
      socket.sendJSON({ type: "ack", bytes });
    });
    const total = 40_000_000;
    socket.send(Buffer.from(`head -c ${total} /dev/zero | tr '\\0' x; printf '\\nE%s\\n' nd8\n`));
    const last = ({ messages }) => Buffer.concat(messages.filter((m) => typeof m !== "string").slice(-20)).toString();
    await socket.until((s) => s.closed || last(s).slice(-2_000).includes("End8"), "the end of it", 60_000);
    assert.equal(socket.closed, null);
    const skipped = socket.control().filter(({ type }) => type === "skipped");
    const sum = bytes + skipped.reduce((all, one) => all + one.bytes, 0);
    assert.ok(sum >= total && sum < total + 10_000, `${bytes} bytes read, ${JSON.stringify(skipped)}`);
    await socket.close();
  });

  test("takes frames up to a bound", async () => {
    const long = await open({ terminal: "long" });
    long.send(Buffer.alloc(1_048_577, "x"));
    assert.equal((await long.until(({ closed }) => closed, "the close")).code, 1009);
  });
});

describe("a terminal needs", () => {
  const refused = async (promise) => {
    const error = await promise.then(
      () => assert.fail("it opened"),
      (failure) => failure,
    );
    assert.ok(error.status, String(error));
    return { status: error.status, body: JSON.parse(error.text), code: JSON.parse(error.text).code };
  };

  test("an upgrade", async () => {
    const answer = await stack.api.call("GET", `/v1/sessions/${session.id}/terminal`, undefined, operator);
    assertProblem(answer, 426, "upgrade_required");
  });

  test("its own scope, for this session", async () => {
    for (const scopes of [["sessions:write"], ["sessions:read"], ["preview"], ["execute"]]) {
      const answer = await refused(openFor(session.id, {}, as(await mint({ scopes }))));
      assert.deepEqual([answer.status, answer.code], [403, "insufficient_scope"]);
    }
    assert.equal((await refused(openFor(session.id, {}, {}))).status, 401);
    const own = await open({ terminal: "own" }, as(await mint({ scopes: [`terminal:${session.id}`], sub: "ann" })));
    await own.close();
    await stack.api.until(
      async () => (await acts()).some(({ act, by }) => act === "terminal.closed" && by === "ann"),
      "the act",
    );
    const opened = (await acts()).find(({ by }) => by === "ann");
    assert.deepEqual([opened.act, opened.session, opened.terminal], ["terminal.opened", session.id, "own"]);
  });

  test("a session of the caller's tenant", async () => {
    const foreign = await mint({ scopes: ["terminal"], tenant: "acme" });
    assert.deepEqual((await refused(openFor(session.id, {}, as(foreign)))).code, "session_not_found");
    assert.equal((await refused(openFor("ses_aaaaaaaaaaaaaaaaaaaa"))).status, 404);
  });

  test("a page that may call", async () => {
    for (const origin of ["https://evil.example", "null", "http://localhost:1"]) {
      const answer = await refused(openFor(session.id, {}, { ...operator, origin }));
      assert.deepEqual([answer.status, answer.code], [403, "origin_not_allowed"], origin);
    }
    for (const origin of ["https://desk.example", stack.url]) {
      const socket = await open({ terminal: "page" }, { ...operator, origin });
      await socket.close();
    }
  });

  test("a token, which a page sends as a subprotocol", async () => {
    const token = await mint({ scopes: ["terminal"] });
    const url = `${stack.url}/v1/sessions/${session.id}/terminal`;
    const offer = (text) => ["caisson", `caisson.bearer.${Buffer.from(text).toString("base64url")}`];
    const headers = { origin: "https://desk.example" };
    const socket = await connectSocket(url, { headers, protocols: offer(token) });
    assert.equal(socket.ws.protocol, "caisson");
    await type(socket, "true", "nd9");
    await socket.close();
    const reader = await mint({ scopes: ["sessions:read"] });
    const log = await connectSocket(url.replace("terminal", "events"), { headers, protocols: offer(reader) });
    assert.equal(log.ws.protocol, "caisson");
    await log.close();
    for (const [text, status] of [
      ["wrong", 401],
      [reader, 403],
    ])
      assert.equal((await refused(connectSocket(url, { headers, protocols: offer(text) }))).status, status);
  });

  test("a right question", async () => {
    for (const [field, value] of Object.entries({
      cols: "0",
      rows: "x",
      terminal: "../up",
      shell: "a b",
      idle_s: "0",
      other: "1",
    })) {
      const answer = await refused(openFor(session.id, { [field]: value }));
      assert.deepEqual([answer.status, answer.body.field], [400, field], field);
    }
  });

  test("no more than six connections at once", async () => {
    const sockets = [];
    for (let i = 0; i < 6; i += 1) sockets.push(await open({ terminal: "many" }));
    assert.equal((await refused(openFor(session.id, { terminal: "many" }))).code, "too_many_terminals");
    await sockets.pop().close();
    await stack.api.until(async () => {
      const socket = await openFor(session.id, { terminal: "many" }).catch(() => null);
      await socket?.close();
      return socket !== null;
    }, "room for another one");
    for (const socket of sockets) await socket.close();
  });

  test("a token that has not expired, and a session that has not ended", async () => {
    const short = await open({ terminal: "short" }, as(await mint({ scopes: ["terminal"], expires_in_s: 2 })));
    const expired = await short.until(({ closed }) => closed, "the close", 10_000);
    assert.deepEqual(expired, { code: 1008, reason: "the token has expired" });
    const socket = await open({ terminal: "last" });
    await stack.api.ok("DELETE", `/v1/sessions/${session.id}`, undefined, operator);
    const ended = await socket.until(({ closed }) => closed, "the close");
    assert.deepEqual(ended, { code: 1001, reason: "the session has ended" });
    const answer = await refused(openFor(session.id));
    assert.deepEqual([answer.status, answer.code], [409, "session_ended"]);
  });
});
