/** Lifecycle: start, hooks, stop, sleep, destroy; and how the ends of a sandbox look to its callers. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { describe, it } from "node:test";
import { client, engine, freshId, perTransport, rejects, sandboxes, sleep, until } from "./lib.mjs";
import { engineApi } from "./stack.mjs";

const running = async () => (await engineApi(engine, "GET", "/sandboxes")).body.sandboxes.filter((box) => box.running);

perTransport("lifecycle", (make, transport) => {
  const hooked = (options = {}) => make(options, { namespace: "HOOKED" });

  it("starts on first use, once for many callers", async () => {
    const sandbox = hooked({ sleepAfter: "10m" });
    assert.deepEqual(await sandbox.hooks(), []);
    const results = await Promise.all(Array.from({ length: 8 }, (_, i) => sandbox.exec(`echo ${i}`)));
    assert.deepEqual(
      results.map((result) => result.stdout),
      ["0", "1", "2", "3", "4", "5", "6", "7"],
    );
    assert.deepEqual(await sandbox.hooks(), [{ hook: "start" }]);
    assert.equal((await sandbox.getState()).status, "healthy");
  });

  it("destroys at once, with everything in it", async () => {
    const sandbox = hooked({ sleepAfter: "10m" });
    await sandbox.exec("echo data >/workspace/f");
    await sandbox.startProcess("sleep 1000");
    await sandbox.destroy();
    assert.equal((await sandbox.getState()).status.startsWith("stopped"), true);
    await until(async () => (await sandbox.hooks()).at(-1).hook === "stop", "onStop ran");
    assert.equal((await sandbox.exists("/workspace/f")).exists, false, "storage outlived destroy()");
    assert.deepEqual((await sandbox.listProcesses()).length, 0);
    await sandbox.destroy();
    await sandbox.destroy();
    assert.equal((await sandbox.exec("echo again")).stdout, "again");
  });

  it("never starts again once it is retired, not for calls under way or late", async () => {
    const sandbox = hooked({ sleepAfter: "10m" });
    await sandbox.exec("true");
    const late = Promise.allSettled(
      Array.from({ length: 12 }, async (_, i) => {
        await sleep(i * 10);
        return await sandbox.exec(`sleep 0.0${i}`);
      }),
    );
    await sleep(50);
    await sandbox.retire();
    await late;
    await rejects(sandbox.exec("true"), /destroyed with its session/);
    await rejects(sandbox.writeFile("/workspace/f", "x"), /destroyed with its session/);
    await until(async () => (await sandbox.runtime()).running === false, "it stays away");
    await sleep(300);
    assert.equal((await sandbox.runtime()).running, false);
    // Of a start that was under way there may be a second pair of hooks; whatever started has stopped.
    await until(async () => (await sandbox.hooks()).at(-1).hook === "stop", "onStop ran");
  });

  it("runs onStop with the exit code, of a signal, too", async () => {
    for (const [signal, codes] of [
      ["SIGTERM", [0, 143]],
      ["SIGKILL", [137]],
    ]) {
      const sandbox = hooked({ sleepAfter: "10m" });
      await sandbox.exec("true");
      await sandbox.stop(signal);
      const stop = await until(async () => (await sandbox.hooks()).find((call) => call.hook === "stop"), "onStop");
      assert.ok(codes.includes(stop.detail.exitCode), `${signal}: ${JSON.stringify(stop)}`);
      assert.equal((await sandbox.exec("echo back")).stdout, "back");
      assert.equal((await sandbox.hooks()).filter((call) => call.hook === "start").length, 2);
    }
  });

  it("sleeps when nothing happens, and not while something does", async () => {
    // It starts with time enough: on a busy machine a start may take longer than the two seconds. The SDK looks at the time again
    // when the one that it knew is over, or three minutes are.
    const id = freshId(transport);
    await make({ sleepAfter: "20s" }, { namespace: "HOOKED", id }).exec("true");
    const sandbox = make({ sleepAfter: "2s" }, { namespace: "HOOKED", id });
    assert.equal((await sandbox.exec("sleep 4; echo long")).stdout, "long");
    const stop = await until(async () => (await sandbox.hooks()).find((call) => call.hook === "stop"), "it slept");
    assert.ok([0, 143].includes(stop.detail.exitCode), JSON.stringify(stop));
    assert.equal((await sandbox.exec("echo awake")).stdout, "awake");
  });

  it("stays with keepAlive", async () => {
    const sandbox = hooked({ sleepAfter: "1s", keepAlive: true });
    await sandbox.exec("echo kept >/workspace/f");
    await sleep(5000);
    assert.deepEqual(
      (await sandbox.hooks()).map((call) => call.hook),
      ["start"],
    );
    assert.equal((await sandbox.readFile("/workspace/f")).content, "kept\n");
    await sandbox.setKeepAlive(false);
    await until(async () => (await sandbox.hooks()).some((call) => call.hook === "stop"), "it slept at last");
  });

  it("ends what waits when the sandbox ends", async () => {
    const sandbox = make();
    for (const [method, ...args] of [["destroy"], ["stop"], ["stop", "SIGKILL"]]) {
      await sandbox.exec("true");
      const command = sandbox.exec("sleep 600");
      // SIGTERM is the commands' before it is their server's: one that it ends may still be answered, truly.
      const answered = (r) => assert.deepEqual([r.exitCode, r.success], [143, false]);
      const gently = method === "stop" && args.length === 0;
      const waiting = gently ? command.then(answered, () => rejects(command, {})) : rejects(command, {});
      await sleep(300);
      await sandbox[method](...args);
      await waiting;
      await until(async () => (await sandbox.getState()).status.startsWith("stopped"), "it has stopped");
    }
    assert.equal((await sandbox.exec("echo new")).stdout, "new");
  });

  it("takes labels, and variables before the start", async () => {
    const sandbox = make({ labels: { team: "a", "with space": "é" } });
    await sandbox.setEnvVars({ EARLY: "1" });
    assert.equal((await sandbox.exec("echo $EARLY")).stdout, "1");
    const process = await sandbox.startProcess("echo $EARLY");
    await process.waitForExit();
    assert.equal((await process.getLogs()).stdout, "1\n");
  });

  it("takes its options again and again", async () => {
    const id = freshId(transport);
    for (let i = 0; i < 5; i++) {
      const sandbox = make({ sleepAfter: 60 + i, containerTimeouts: { instanceGetTimeoutMS: 10_000 + i } }, { id });
      assert.equal((await sandbox.exec(`echo ${i}`)).stdout, String(i));
    }
    await rejects(make({ containerTimeouts: { waitIntervalMS: 1 } }).setContainerTimeouts({ waitIntervalMS: 1 }), {
      message: /between/,
    });
  });

  it("keeps sandboxes apart", async () => {
    const [a, b] = [make(), make()];
    await Promise.all([a.writeFile("/workspace/f", "a"), b.writeFile("/workspace/f", "b")]);
    await a.writeFile("/tmp/only-a", "1");
    await a.startProcess("sleep 3210.1");
    assert.equal((await b.readFile("/workspace/f")).content, "b");
    assert.equal((await b.exists("/tmp/only-a")).exists, false);
    assert.equal((await b.exec("pgrep -ax sleep | grep -c 3210.1")).stdout, "0");
    await a.destroy();
    assert.equal((await b.readFile("/workspace/f")).content, "b");
  });
});

describe("the engine behind", () => {
  const make = sandboxes();

  it("names each sandbox by its object's id, and forgets it with destroy()", async () => {
    const ids = Array.from({ length: 10 }, () => freshId());
    const many = ids.map((id) => make({}, { id }));
    await Promise.all(many.map((sandbox) => sandbox.exec("true")));
    const objects = await Promise.all(
      ids.map(async (id) => (await fetch(`${client.url}/object?${new URLSearchParams({ id })}`)).text()),
    );
    assert.ok(objects.every((name) => /^[0-9a-f]{64}$/.test(name)));
    const ours = async () => (await running()).filter(({ name }) => objects.includes(name)).map(({ name }) => name);
    assert.deepEqual((await ours()).sort(), objects.toSorted());
    await Promise.all(many.map((sandbox) => sandbox.destroy()));
    assert.deepEqual(await ours(), []);
    const own = await Promise.all(many.map((sandbox) => sandbox.getState()));
    assert.ok(own.every((state) => state.status.startsWith("stopped")));
  });

  it("asks for its token", async () => {
    const url = `http://127.0.0.1:${engine.port}/v1/sandboxes`;
    for (const authorization of [
      undefined,
      "Bearer ",
      "Bearer x",
      `Bearer ${createHash("sha256").update("").digest("hex")}`,
    ]) {
      const response = await fetch(url, { headers: authorization ? { authorization } : {} });
      assert.equal(response.status, 401);
    }
    assert.ok(client.url);
  });
});
