/** The control server's WebSocket framing and the `websocket` transport on /ws. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { NO_SESSION, sleep, startEngine } from "./harness.mjs";
import { frame, OP, openSocket } from "./ws-client.mjs";

let engine;
let box;
before(async () => {
  engine = await startEngine();
  box = await engine.sandbox("ws");
});
after(() => engine.stop());

/** Sends a request; resolves to {status, body, events} when its response has come. Messages of other ids are kept apart by `inbox`. */
async function ask(ws, id, method, path, body, more = {}) {
  ws.json({ type: "request", id, method, path, body, ...more });
  const events = [];
  for (;;) {
    const m = await ws.message();
    assert.equal(m.id, id, JSON.stringify(m).slice(0, 200));
    if (m.type === "stream") events.push(JSON.parse(m.data));
    else return { ...m, events };
  }
}

describe("framing", () => {
  test("handshake: what is not one is refused", async () => {
    const plain = await box.call("GET", "/ws");
    assert.deepEqual([plain.status, plain.json.code], [426, "UPGRADE_REQUIRED"]);
    for (const headers of [
      { "sec-websocket-key": "short" },
      { "sec-websocket-version": "8" },
      { "sec-websocket-key": "!!!!!!!!!!!!!!!!!!!!!!==" },
    ]) {
      const res = await openSocket(box, "/ws", { headers });
      assert.equal(res.status, 400, JSON.stringify(headers));
    }
    assert.equal((await openSocket(box, "/nothing")).status, 404);
    assert.equal(
      (await openSocket(box, "/api/ping")).status,
      200,
      "an upgrade that a route does not know is no matter",
    );
  });
  test("ping is answered, fragments are joined, control frames come between them", async () => {
    const ws = await openSocket(box, "/ws");
    ws.raw(frame(OP.ping, "are you there"));
    assert.deepEqual(await ws.next(), { op: OP.pong, data: Buffer.from("are you there") });
    const text = JSON.stringify({ type: "request", id: "é", method: "GET", path: "/api/ping" });
    const bytes = Buffer.from(text);
    ws.raw(frame(OP.text, bytes.subarray(0, 25), { fin: false }));
    ws.raw(frame(OP.ping, "x"));
    for (let i = 25; i < bytes.length - 1; i += 1)
      ws.raw(frame(OP.continuation, bytes.subarray(i, i + 1), { fin: false }));
    ws.raw(frame(OP.continuation, bytes.subarray(-1)));
    assert.equal((await ws.next()).op, OP.pong);
    const answer = await ws.message();
    assert.deepEqual([answer.type, answer.id, answer.status, answer.done], ["response", "é", 200, true]);
    assert.equal(answer.body.success, true);
    assert.equal(await ws.close(1000), 1000);
  });
  test("one byte at a time", async () => {
    const ws = await openSocket(box, "/api/ws");
    const bytes = frame(OP.text, JSON.stringify({ type: "request", id: "1", method: "GET", path: "/api/ping" }));
    ws.socket.setNoDelay(true);
    for (const b of bytes) {
      ws.raw(Buffer.from([b]));
      await new Promise((r) => setImmediate(r));
    }
    assert.equal((await ws.message()).status, 200);
    ws.socket.destroy();
  });
  const wrong = {
    "an unmasked frame": [frame(OP.text, "{}", { mask: false }), 1002],
    "a reserved bit": [frame(OP.text, "{}", { rsv: 4 }), 1002],
    "an unknown opcode": [frame(3, ""), 1002],
    "an unknown control opcode": [frame(11, ""), 1002],
    "a continuation of nothing": [frame(OP.continuation, "x"), 1002],
    "a message inside a message": [Buffer.concat([frame(OP.text, "a", { fin: false }), frame(OP.text, "b")]), 1002],
    "a fragmented control frame": [frame(OP.ping, "a", { fin: false }), 1002],
    "a control frame of 126 bytes": [frame(OP.ping, "a".repeat(126)), 1002],
    "a close frame of one byte": [frame(OP.close, "a"), 1002],
    "a close code that must not be sent": [frame(OP.close, Buffer.from([3, 237])), 1002],
    "a message of 193 MiB announced": [frame(OP.text, "", { length: 193 * 1024 * 1024 }), 1009],
    "a length above 2^63": [Buffer.from([0x81, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]), 1002],
    "text that is not UTF-8": [frame(OP.text, Buffer.from([0xff])), 1007],
  };
  for (const [name, [bytes, code]] of Object.entries(wrong)) {
    test(`${name} ends the connection with ${code}`, async () => {
      const ws = await openSocket(box, "/ws");
      ws.raw(bytes);
      assert.equal(await ws.closed, code);
    });
  }
  test("nothing of it harmed the server", async () => {
    assert.equal((await box.call("GET", "/api/ping")).status, 200);
  });
});

describe("the websocket transport", () => {
  test("every kind of route answers as over HTTP", async () => {
    const ws = await openSocket(box, "/ws");
    const exec = await ask(ws, "e", "POST", "/api/execute", { command: "echo hi; exit 3", sessionId: NO_SESSION });
    assert.deepEqual([exec.status, exec.body.stdout, exec.body.exitCode, exec.done], [200, "hi\n", 3, true]);
    const missing = await ask(ws, "m", "POST", "/api/read", { path: "/nope" });
    assert.deepEqual([missing.status, missing.body.code], [404, "FILE_NOT_FOUND"]);
    const write = await ask(ws, "w", "POST", "/api/write", { path: "/workspace/w.txt", content: 'a"b\\é\n' });
    assert.equal(write.status, 200);
    const read = await ask(ws, "r", "POST", "/api/read", { path: "/workspace/w.txt" });
    assert.equal(read.body.content, 'a"b\\é\n');
    const list = await ask(ws, "l", "GET", "/api/process/list?status=running");
    assert.deepEqual(list.body.processes, []);
    assert.equal((await ask(ws, "root", "GET", "/")).body.startsWith("Caisson"), true);
    assert.equal((await ask(ws, "none", "GET", "/api/nothing")).status, 404);
    const header = await ask(
      ws,
      "h",
      "POST",
      "/api/execute",
      { command: "true" },
      { headers: { "X-Session-Id": "wsx" } },
    );
    assert.equal(header.body.sessionId, "wsx");
    ws.socket.destroy();
  });
  test("a stream is one message an event, then its response", async () => {
    const ws = await openSocket(box, "/ws");
    const r = await ask(ws, "s", "POST", "/api/execute/stream", {
      command: "echo out; echo err >&2; exit 4",
      sessionId: NO_SESSION,
    });
    assert.deepEqual([r.status, r.body, r.done], [200, undefined, true]);
    const types = r.events.map((e) => e.type);
    assert.deepEqual([types[0], types.at(-1), r.events.at(-1).exitCode], ["start", "complete", 4]);
    assert.equal(r.events.find((e) => e.type === "stderr").data, "err\n");
    const bad = await ask(ws, "b", "POST", "/api/execute/stream", { command: " ", sessionId: NO_SESSION });
    assert.deepEqual([bad.status, bad.body.code, bad.events.length], [400, "INVALID_COMMAND", 0]);
    ws.socket.destroy();
  });
  test("requests are multiplexed: a slow one does not hold up a fast one", async () => {
    const ws = await openSocket(box, "/ws");
    const send = (id, command) =>
      ws.json({
        type: "request",
        id,
        method: "POST",
        path: "/api/execute",
        body: { command, sessionId: NO_SESSION },
      });
    send("slow", "sleep 1; echo slow");
    for (let i = 0; i < 50; i += 1) send(`f${i}`, `echo ${i}`);
    const order = [];
    for (let i = 0; i < 51; i += 1) {
      const m = await ws.message();
      order.push(m.id);
      if (m.id !== "slow") assert.equal(m.body.stdout, `${m.id.slice(1)}\n`);
    }
    assert.equal(order.at(-1), "slow");
    assert.equal(new Set(order).size, 51);
    ws.socket.destroy();
  });
  test("cancel ends a stream, closing ends all of them, and the processes live on", async () => {
    const ws = await openSocket(box, "/ws");
    const start = { command: "while :; do echo tick; sleep 0.02; done", sessionId: NO_SESSION };
    const started = (await box.call("POST", "/api/process/start", { ...start, processId: "ticker" })).json;
    assert.equal(started.processId, "ticker");
    ws.json({ type: "request", id: "t", method: "GET", path: "/api/process/ticker/stream" });
    assert.equal((await ws.message()).id, "t");
    ws.json({ type: "cancel", id: "t" });
    ws.json({ type: "cancel", id: "unknown" });
    ws.json({ type: "request", id: "after", method: "GET", path: "/api/ping" });
    for (let m = await ws.message(); m.id !== "after"; m = await ws.message()) assert.equal(m.id, "t");
    await assert.rejects(ws.message(300), /no frame/);
    ws.json({ type: "request", id: "t2", method: "GET", path: "/api/process/ticker/stream" });
    await ws.message();
    ws.socket.destroy();
    await sleep(100);
    assert.equal((await box.call("GET", "/api/process/ticker")).json.process.status, "running");
    await box.call("DELETE", "/api/process/ticker");
  });
  test("messages that are wrong are answered, and the connection goes on", async () => {
    const ws = await openSocket(box, "/ws");
    const cases = [
      ["{nope", "PARSE_ERROR", undefined],
      ["[]", "PARSE_ERROR", undefined],
      [Buffer.from("{}"), "PARSE_ERROR", undefined],
      [JSON.stringify({ type: "request", method: "GET", path: "/api/ping" }), "INVALID_REQUEST", undefined],
      [JSON.stringify({ type: "request", id: "1", method: "TRACE", path: "/" }), "INVALID_REQUEST", "1"],
      [JSON.stringify({ type: "request", id: "2", method: "GET", path: "nopath" }), "INVALID_REQUEST", "2"],
      [
        JSON.stringify({ type: "request", id: "3", method: "GET", path: "/".repeat(9000) }),
        "INVALID_REQUEST",
        undefined,
      ],
      [
        JSON.stringify({ type: "request", id: "4", method: "POST", path: "/api/execute", body: "text" }),
        "INVALID_REQUEST",
        "4",
      ],
      [JSON.stringify({ type: "dance", id: "5" }), "INVALID_REQUEST", "5"],
    ];
    for (const [text, code, id] of cases) {
      ws.send(text);
      const m = await ws.message();
      assert.deepEqual([m.type, m.code, m.id, m.status], ["error", code, id, 400], String(text));
    }
    const empty = await ask(ws, "6", "POST", "/api/execute");
    assert.equal(empty.status, 500);
    assert.equal((await ask(ws, "7", "GET", "/api/ping")).status, 200);
    const upgrade = await ask(ws, "8", "GET", "/ws");
    assert.equal(upgrade.status, 426);
    ws.json({
      type: "request",
      id: "dup",
      method: "POST",
      path: "/api/execute",
      body: { command: "sleep 0.3", sessionId: NO_SESSION },
    });
    ws.json({ type: "request", id: "dup", method: "GET", path: "/api/ping" });
    assert.equal((await ws.message()).code, "INVALID_REQUEST");
    assert.equal((await ws.message()).id, "dup");
    ws.socket.destroy();
  });
  test("a client that does not read holds back its streams, nobody else, and costs little memory", async () => {
    const ws = await openSocket(box, "/ws");
    ws.socket.pause();
    for (let i = 0; i < 4; i += 1)
      ws.json({
        type: "request",
        id: `flood${i}`,
        method: "POST",
        path: "/api/execute/stream",
        body: { command: "yes | head -c 25000000", sessionId: NO_SESSION },
      });
    await sleep(500);
    assert.equal((await box.exec("echo still")).stdout, "still\n");
    const held = await box.exec("grep -lxs head /proc/[0-9]*/comm | wc -l");
    assert.equal(held.stdout.trim(), "4", "the streams were read to their ends meanwhile");
    const rss = await box.exec("grep VmRSS /proc/1/status");
    assert.ok(Number(rss.stdout.match(/\d+/)[0]) < 16_384, rss.stdout);
    ws.socket.resume();
    const bytes = {};
    for (let done = 0; done < 4; ) {
      const m = await ws.message(30_000);
      if (m.type === "response") done += 1;
      const event = m.type === "stream" ? JSON.parse(m.data) : {};
      if (event.type === "stdout") bytes[m.id] = (bytes[m.id] ?? 0) + event.data.length;
    }
    assert.deepEqual(Object.values(bytes), [25_000_000, 25_000_000, 25_000_000, 25_000_000]);
    ws.socket.destroy();
  });
});
