/** Ends that nobody asked for: of the engine, of the Worker, of a guest. Over stacks of their own. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { ROOT } from "../../scripts/local.mjs";
import { until } from "./lib.mjs";
import { sdk } from "./sdk.mjs";
import { hostProcesses, openEngine, openWorker } from "./stack.mjs";

/** Kills a process group's every member without a word and waits until it is gone. */
async function killed(child) {
  const gone = new Promise((done) => child.once("exit", done));
  process.kill(-child.pid, "SIGKILL");
  await gone;
}

describe("restarts", () => {
  let dir;
  let engine;
  let worker;
  let other;
  const start = async (name) =>
    openWorker({ dir: join(dir, name), engine, name: name === "first" ? undefined : `conformance-${name}` });
  before(async () => {
    dir = mkdtempSync(join(ROOT, "build", "conformance-"));
    engine = await openEngine({ dir });
    worker = await start("first");
  });
  after(async () => {
    await worker?.stop();
    await other?.stop();
    await engine?.stop();
    if (dir) {
      assert.deepEqual(hostProcesses(dir), [], "something was left running");
      rmSync(dir, { recursive: true, force: true });
    }
  });
  const hooks = async (sandbox, name) => (await sandbox.hooks()).filter((call) => call.hook === name);

  it("of a Worker: its sandboxes are found again, with what runs in them", async () => {
    const sandbox = sdk(worker.url).sandbox("kept");
    await sandbox.exec("cd /tmp; echo kept >/workspace/f; export V=1");
    const process = await sandbox.startProcess("sleep 1000", { processId: "lives" });
    for (const end of [() => worker.stop(), () => killed(worker.child)]) {
      await end();
      worker = await start("first");
      const again = sdk(worker.url).sandbox("kept");
      assert.equal((await again.readFile("/workspace/f")).content, "kept\n");
      assert.equal((await again.exec('echo "$PWD $V"')).stdout, "/tmp 1");
      const same = await again.getProcess("lives");
      assert.deepEqual([same.pid, same.status], [process.pid, "running"]);
    }
    await sdk(worker.url).sandbox("kept").destroy();
  });

  it("of one Worker do not touch another's sandboxes", async () => {
    other = await start("second");
    const [a, b] = [sdk(worker.url).sandbox("same"), sdk(other.url).sandbox("same")];
    await Promise.all([a.writeFile("/workspace/who", "first"), b.writeFile("/workspace/who", "second")]);
    assert.deepEqual(
      [(await a.readFile("/workspace/who")).content, (await b.readFile("/workspace/who")).content],
      ["first", "second"],
    );
    await a.destroy();
    assert.equal((await b.readFile("/workspace/who")).content, "second");
    await other.stop();
    other = undefined;
    assert.equal((await sdk(worker.url).sandbox("same").exec("echo here")).stdout, "here");
  });

  it("of the engine: the next call starts anew, and nothing stays of the old", async () => {
    for (const [name, end] of [
      ["term", () => engine.stop()],
      ["kill", () => killed(engine.child)],
    ]) {
      const sandbox = sdk(worker.url).sandbox(`engine-${name}`, { sleepAfter: "10m" }, "HOOKED");
      const nap = `sleep 5${name.length}43.${process.pid}`;
      await sandbox.exec(`echo old >/workspace/f; ${nap} >/dev/null 2>&1 &`);
      assert.equal(hostProcesses(nap).length > 0, true);
      await end();
      engine = await openEngine({ dir, port: engine.port, token: engine.token });
      await until(() => hostProcesses(nap).length === 0, `the sandbox died with its engine (${name})`);
      // The Worker learns of it within a moment; a call before that fails.
      const answer = await until(
        () => sandbox.exec("cat /workspace/f; echo anew").catch(() => null),
        "an answer",
        3000,
      );
      assert.equal(answer.stdout, "anew");
      await until(async () => (await hooks(sandbox, "start")).length === 2, "it was started again");
      await until(async () => (await hooks(sandbox, "stop")).length === 1, "onStop ran");
    }
  });

  it("that do not come: the engine is missed in words, at once", async () => {
    const sandbox = sdk(worker.url).sandbox("no-engine");
    const { port, token } = engine;
    await engine.stop();
    const error = await sandbox.exec("true").catch((caught) => caught);
    assert.match(error.message, /^the local engine at http:\/\/127\.0\.0\.1:\d+ does not answer: run `make dev`$/);
    engine = await openEngine({ dir, port, token });
    assert.equal((await sandbox.exec("echo there")).stdout, "there");
  });

  it("of a guest that was killed: the caller is told, the next call starts anew", async () => {
    const sandbox = sdk(worker.url).sandbox("guest", { sleepAfter: "10m" }, "HOOKED");
    await sandbox.exec("echo old >/workspace/f");
    const waiting = sandbox.exec("sleep 700.5").then(
      () => "answered",
      () => "failed",
    );
    const sleeper = await until(() => hostProcesses("sleep 700.5")[0], "the command runs");
    // Its ancestors up to the sandbox's init: the last one called caisson-guest.
    const pid = Number(sleeper.trim().split(/\s+/)[0]);
    const { readFileSync } = await import("node:fs");
    const stat = (p) => readFileSync(`/proc/${p}/stat`, "utf8").match(/^\d+ \((.*)\) \S (\d+)/);
    let at = pid;
    let guest = 0;
    while (at > 1) {
      const [, comm, parent] = stat(at);
      if (comm === "caisson-guest") guest = at;
      at = Number(parent);
    }
    assert.ok(guest > 0, "no guest above the command");
    process.kill(guest, "SIGKILL");
    assert.equal(await waiting, "failed");
    const stop = await until(async () => (await hooks(sandbox, "stop"))[0], "onStop");
    assert.equal(stop.detail.exitCode, 137);
    assert.equal((await sandbox.exec("cat /workspace/f; echo anew")).stdout, "anew");
  });
});
