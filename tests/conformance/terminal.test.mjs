/** terminal(): a PTY over a WebSocket, shared by those who come back to it. */
import assert from "node:assert/strict";
import { before, it } from "node:test";
import { client, freshId, perTransport, sleep } from "./lib.mjs";

perTransport("terminal", (make, transport) => {
  let sandbox;
  let id;
  const open = async (query = {}) => {
    const socket = await client.socket("/terminal", { id, ...query });
    await socket.until(
      ({ messages }) => messages.some((m) => typeof m === "string" && JSON.parse(m).type === "ready"),
      "ready",
    );
    return socket;
  };
  /** Types a line and waits for what it prints: the marker is put together by the shell, so that the echo is not it. */
  const type = async (socket, line, marker) => {
    socket.send(Buffer.from(`${line}; printf 'E%s\\n' ${marker}\n`));
    await socket.until(({ output }) => output().includes(`E${marker}`), `the end of ${line}`);
    return socket.output();
  };
  before(async () => {
    id = freshId(`term-${transport}`);
    sandbox = make({}, { id });
    await sandbox.exec("true");
  });

  it("is a shell with a terminal", async () => {
    const socket = await open();
    const output = await type(socket, 'tty; echo "$TERM $PWD"; stty size', "nd1");
    assert.match(output, /\/dev\/pts\/\d+/);
    assert.match(output, /xterm-256color \/workspace/);
    assert.match(output, /24 80/);
    await socket.close();
  });

  it("has the size asked for, and changes it", async () => {
    const session = await sandbox.createSession({ id: "sized", cwd: "/tmp" });
    assert.equal(session.id, "sized");
    const socket = await open({ session: "sized", cols: 132, rows: 43 });
    assert.match(await type(socket, "stty size; pwd", "nd2"), /43 132\r\n\/tmp/);
    socket.send(Buffer.from("trap 'echo changed' WINCH\n"));
    socket.sendJSON({ type: "resize", cols: 100, rows: 30 });
    await sleep(100);
    assert.match(await type(socket, "stty size", "nd3"), /30 100/);
    for (const bad of [
      { type: "resize", cols: 0, rows: 10 },
      { type: "resize", cols: -1, rows: 1 },
      { type: "nope" },
      "not json",
    ]) {
      const before = socket.control().length;
      if (typeof bad === "string") socket.send(bad);
      else socket.sendJSON(bad);
      const control = await socket.until(({ control }) => control().length > before && control(), "an error");
      assert.equal(control.at(-1).type, "error");
      assert.ok(control.at(-1).message);
    }
    assert.match(await type(socket, "stty size", "nd4"), /30 100/);
    await socket.close();
  });

  it("passes keys: interrupt, end of file, bytes", async () => {
    await sandbox.createSession({ id: "keys" });
    const socket = await open({ session: "keys" });
    socket.send(Buffer.from("sleep 100\n"));
    await sleep(300);
    socket.send(Buffer.from("\x03"));
    await type(socket, "echo interrupted", "nd5");
    socket.send(Buffer.from("cat\n"));
    await sleep(200);
    socket.send(Buffer.from("übér \u{1f680}\n\x04"));
    await type(socket, "true", "nd6");
    assert.ok(socket.output().includes("übér \u{1f680}"));
    await socket.close();
  });

  it("goes on without its client, and shows what was missed", async () => {
    await sandbox.createSession({ id: "back" });
    const first = await open({ session: "back" });
    await type(first, "V=kept", "nd7");
    first.send(Buffer.from("sleep 0.5; printf 'missed-%s\\n' output\n"));
    first.vanish();
    await sleep(1200);
    const second = await open({ session: "back" });
    await second.until(({ output }) => output().includes("missed-output"), "the buffer");
    // The buffer comes before `ready`.
    const ready = second.messages.findIndex((m) => typeof m === "string");
    assert.ok(ready > 0, "ready came first");
    assert.match(await type(second, "echo $V", "nd8"), /kept/);
    await second.close();
  });

  it("is shared by all who look", async () => {
    await sandbox.createSession({ id: "shared" });
    const [a, b] = [await open({ session: "shared" }), await open({ session: "shared" })];
    a.send(Buffer.from("printf 'seen-%s\\n' both\n"));
    for (const socket of [a, b]) await socket.until(({ output }) => output().includes("seen-both"), "the output");
    a.vanish();
    await type(b, "echo still", "nd9");
    await b.close();
  });

  it("bounds what it keeps, and the reader sets the pace", async () => {
    await sandbox.createSession({ id: "flood" });
    const socket = await open({ session: "flood" });
    socket.send(Buffer.from("seq 1 200000; printf 'E%s\\n' flood\n"));
    await socket.until(({ output }) => output().includes("Eflood"), "all of it", 30_000);
    assert.ok(socket.output().includes("199999\r\n200000\r\n"));
    socket.vanish();
    const again = await open({ session: "flood" });
    const size = Buffer.byteLength(again.output());
    assert.ok(size > 1000 && size <= 256 * 1024 + 4096, `${size} bytes kept`);
    assert.equal((await sandbox.exec("echo alive")).stdout, "alive");
    await again.close();
  });

  it("tells how the shell ended", async () => {
    await sandbox.createSession({ id: "exits" });
    const socket = await open({ session: "exits" });
    socket.send(Buffer.from("exit 3\n"));
    const control = await socket.until(({ control }) => control().find((m) => m.type === "exit"), "an exit");
    assert.equal(control.code, 3);
    await socket.until(({ closed }) => closed, "the close");
    const next = await open({ session: "exits" });
    await type(next, "echo a new shell", "nd10");
    await next.close();
  });

  it("runs the shell asked for", async () => {
    await sandbox.createSession({ id: "sh" });
    const socket = await open({ session: "sh", shell: "/bin/sh" });
    assert.match(await type(socket, "readlink /proc/$$/exe", "nd11"), /\/(dash|sh|busybox)\r\n/);
    await socket.close();
    await sandbox.createSession({ id: "nosh" });
    const failed = await client
      .socket("/terminal", { id, session: "nosh", shell: "/no/such/shell" })
      .catch((error) => error);
    if (failed.until) {
      await failed.until(
        ({ control, closed }) => closed || control().some((m) => ["error", "exit"].includes(m.type)),
        "a failure",
      );
      await failed.close();
    } else {
      assert.ok(failed.status >= 400);
    }
    assert.equal((await sandbox.exec("echo alive")).stdout, "alive");
  });
});
