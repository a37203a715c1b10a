/** Terminals: /ws/pty. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { NO_SESSION, sleep, startEngine } from "./harness.mjs";
import { frame, OP, openSocket } from "./ws-client.mjs";

let engine;
let box;
before(async () => {
  engine = await startEngine();
  box = await engine.sandbox("pty");
});
const open = [];
after(() => {
  for (const t of open) t.socket.destroy();
  return engine.stop();
});

/** A terminal: output() is the last of it, bytes() how much it was, until(text) waits for output, control() gives the next text message. */
async function terminal(query) {
  const ws = await openSocket(box, `/ws/pty?${query}`);
  if (ws.status !== 101) throw new Error(`no terminal: ${ws.status} ${ws.body}`);
  open.push(ws);
  let tail = Buffer.alloc(0);
  let count = 0;
  const texts = [];
  let wake = () => {};
  const pump = (async () => {
    for (;;) {
      const f = await ws.next(60_000);
      if (f.op === OP.binary) {
        tail = Buffer.concat([tail, f.data]).subarray(-10_000);
        count += f.data.length;
      }
      if (f.op === OP.text) texts.push(JSON.parse(f.data.toString()));
      wake();
    }
  })().catch(() => wake());
  const wait = async (ready, what) => {
    const end = Date.now() + 10_000;
    while (!ready()) {
      if (Date.now() > end)
        throw new Error(`${what} did not come; output was ${JSON.stringify(tail.toString().slice(-500))}`);
      await new Promise((r) => {
        wake = r;
        setTimeout(r, 100);
      });
    }
  };
  return {
    ...ws,
    pump,
    output: () => tail.toString(),
    bytes: () => count,
    type: (text) => ws.send(Buffer.from(text)),
    until: (text) => wait(() => (text.test ? text.test(tail.toString()) : tail.includes(text)), text),
    control: async () => {
      await wait(() => texts.length > 0, "a control message");
      return texts.shift();
    },
  };
}

describe("terminals", () => {
  test("ready, a shell with a terminal, size, resize", async () => {
    const t = await terminal("sessionId=a&cols=100&rows=30");
    assert.deepEqual(await t.control(), { type: "ready" });
    t.type("tty; stty size; echo $TERM-$PWD; PS1='P> '; echo ctl-$((1+1))\n");
    await t.until("ctl-2");
    assert.match(t.output(), /\/dev\/pts\/\d+\r\n30 100\r\nxterm-256color-\/workspace\r\n/);
    t.json({ type: "resize", cols: 132, rows: 43 });
    t.type("stty size\n");
    await t.until("43 132");
    t.type("sh -c 'echo to be interrupted; exec sleep 100'\n");
    await t.until("\rto be interrupted");
    t.type("\x03");
    await t.until(/\^C\r\n.*\S> $/s);
    t.type("echo after-$?\n");
    await t.until("after-130");
    assert.equal(await t.close(), 1000);
  });
  test("it is shared and outlives its viewers; what was shown is shown again", async () => {
    const one = await terminal("sessionId=b");
    await one.control();
    one.type("PS1=; X=kept; echo first-$X\n");
    await one.until("first-kept");
    const two = await terminal("sessionId=b");
    await two.until("first-kept");
    assert.deepEqual(await two.control(), { type: "ready" });
    two.type("echo both-$X\n");
    await Promise.all([one.until("both-kept"), two.until("both-kept")]);
    one.socket.destroy();
    await two.close();
    await sleep(50);
    const three = await terminal("sessionId=b");
    assert.deepEqual(await three.control(), { type: "ready" });
    assert.match(three.output(), /both-kept/);
    three.type("echo again-$X\n");
    await three.until("again-kept");
    three.socket.destroy();
  });
  test("no more than 256 KiB are kept for who comes later", async () => {
    const one = await terminal("sessionId=ring");
    await one.control();
    one.type("PS1=; stty -onlcr; head -c 1000000 /dev/zero | tr '\\0' x; printf '%s-%s' the end\n");
    await one.until("the-end");
    one.socket.destroy();
    const two = await terminal("sessionId=ring");
    await two.until("the-end");
    await two.control();
    assert.equal(two.bytes(), 256 * 1024);
    two.socket.destroy();
  });
  test("exit is reported and the connection closed; the next one has a new shell", async () => {
    const t = await terminal("sessionId=c");
    await t.control();
    t.type("exit 3\n");
    assert.deepEqual(await t.control(), { type: "exit", code: 3 });
    assert.equal(await t.closed, 1000);
    const again = await terminal("sessionId=c");
    assert.deepEqual(await again.control(), { type: "ready" });
    assert.ok(!again.output().includes("exit 3"));
    again.type("kill -KILL $$\n");
    assert.deepEqual(await again.control(), { type: "exit", code: 137, signal: "SIGKILL" });
    assert.equal(await again.closed, 1000);
  });
  test("the session gives directory and variables, and its end is the terminal's", async () => {
    await box.call("POST", "/api/session/create", { id: "d", cwd: "/tmp", env: { MINE: "m m" } });
    await box.call("POST", "/api/execute", { command: "cd /etc", sessionId: "d" });
    const t = await terminal("sessionId=d&shell=sh");
    await t.control();
    t.type("PS1=; echo $PWD-$MINE-$0; (setsid sleep 4731 &) ; sleep 4731 &\n");
    await t.until("/etc-m m-");
    await t.until(/sh\r\n/);
    await sleep(100);
    assert.equal((await box.exec("pgrep -cfx 'sleep 4731'")).stdout, "2\n");
    await box.call("POST", "/api/session/delete", { sessionId: "d" });
    assert.equal((await t.control()).type, "exit");
    assert.equal(await t.closed, 1000);
    assert.equal((await box.exec("pgrep -cfx 'sleep 4731'")).stdout, "0\n");
  });
  test("what is wrong is said", async () => {
    const none = await openSocket(box, "/ws/pty");
    assert.equal(none.status, 400);
    assert.match(none.body, /sessionId/);
    assert.equal((await box.call("GET", "/ws/pty?sessionId=x")).status, 426);
    const size = await terminal("sessionId=e&cols=0&rows=0x");
    assert.match((await size.control()).message, /Invalid dimensions/);
    assert.equal(await size.closed, 1011);
    const shell = await terminal("sessionId=e&shell=nosuchshell");
    assert.match((await shell.control()).message, /no such shell/);
    assert.equal(await shell.closed, 1011);
    const t = await terminal("sessionId=e");
    await t.control();
    for (const [text, message] of [
      ["{nope", "Invalid control message"],
      [JSON.stringify({ type: "dance" }), "Invalid control message"],
      [JSON.stringify({ type: "resize", cols: 0, rows: 5 }), "Invalid dimensions: cols and rows must be positive"],
      [JSON.stringify({ type: "resize", cols: -1, rows: 5 }), "Invalid dimensions: cols and rows must be positive"],
      [JSON.stringify({ type: "resize", cols: "80" }), "Invalid dimensions: cols and rows must be positive"],
      [JSON.stringify({ type: "resize", cols: 70_000, rows: 5 }), "Invalid dimensions: cols and rows must be positive"],
    ]) {
      t.send(text);
      assert.deepEqual(await t.control(), { type: "error", message });
    }
    t.raw(frame(OP.text, "x", { mask: false }));
    assert.equal(await t.closed, 1002);
  });
  test("a viewer who does not read holds up neither another nor the server", async () => {
    const slow = await terminal("sessionId=f");
    await slow.control();
    slow.socket.pause();
    const fast = await terminal("sessionId=f");
    await fast.control();
    fast.type("PS1=; stty -onlcr -echo\n");
    await fast.until("-echo\r\n");
    fast.type("clear; head -c 20000000 /dev/zero | tr '\\0' x; printf '%s-%s' flood over\n");
    await fast.until("flood-over");
    assert.ok(fast.bytes() >= 20_000_000, `${fast.bytes()}: the one who reads misses nothing`);
    // Alone and not reading, the viewer holds the shell back, and memory stays bounded.
    fast.socket.destroy();
    await box.exec("rm -f /tmp/flooded");
    const t = await terminal("sessionId=g");
    await t.control();
    t.socket.pause();
    t.type("head -c 100000000 /dev/zero | tr '\\0' x; touch /tmp/flooded\n");
    await sleep(700);
    assert.equal((await box.exec("test -e /tmp/flooded")).exitCode, 1);
    const rss = await box.exec("grep VmRSS /proc/1/status");
    assert.ok(Number(rss.stdout.match(/\d+/)[0]) < 16_384, rss.stdout);
    t.socket.destroy();
    for (let i = 0; i < 100 && (await box.exec("test -e /tmp/flooded")).exitCode !== 0; i += 1) await sleep(50);
    assert.equal((await box.exec("test -e /tmp/flooded")).exitCode, 0, "nobody looks: it goes on");
    slow.socket.destroy();
  });
  test("a paste that the program does not read waits, and arrives whole when it does", async () => {
    const t = await terminal("sessionId=h");
    await t.control();
    t.type("PS1=; stty raw -echo; echo rea''dy; sleep 0.5; head -c 3000000 | md5sum; stty sane\n");
    await t.until("ready");
    await sleep(100);
    t.type("0123456789".repeat(300_000));
    const want = (await box.exec("yes 0123456789 | tr -d '\\n' | head -c 3000000 | md5sum")).stdout.slice(0, 32);
    await t.until(want);
    t.socket.destroy();
  });
  test("no terminal is left behind by any of it", async () => {
    for (const id of ["a", "b", "ring", "e", "f", "g", "h"]) {
      const t = await terminal(`sessionId=${id}`);
      await t.control();
      t.type("\nexit\n");
      await Promise.race([t.closed, sleep(3000)]);
    }
    const ps = await box.exec("ps axo tty= | grep -c '^pts/' || true", { sessionId: NO_SESSION });
    assert.equal(ps.stdout, "0\n");
  });
});
