/** `make dev` when a part of it is killed: the rest ends, and no sandbox stays. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { freePort, ROOT } from "../../scripts/local.mjs";
import { client } from "./lib.mjs";
import { rows, treeOf } from "./processes.mjs";

const sleep = (ms) => new Promise((r) => setTimeout(r, ms));
/** A command that no other test run on this machine has. */
const marker = (n) => `sleep ${n}.${process.pid}`;

const cases = {
  "wrangler dev": (dev, tree) => tree.find((r) => r.ppid === dev.pid && r.args.includes("wrangler")).pid,
  "the engine": (_dev, tree) => tree.find((r) => r.args.includes("caisson-engine --port")).pid,
  "the script itself": (dev) => dev.pid,
};

/** The development server with one session, whose sandbox runs `sleep` beyond any process group. */
async function open(t, n) {
  const dir = mkdtempSync(join(ROOT, "build", "e2e-left-"));
  const port = await freePort();
  const env = { ...process.env, PORT: String(port), CAISSON_DIR: dir, NO_COLOR: "1" };
  delete env.ANTHROPIC_API_KEY;
  const dev = spawn("node", [join(ROOT, "scripts/dev.mjs")], { cwd: ROOT, env, stdio: ["ignore", "pipe", "pipe"] });
  const exited = new Promise((done) => dev.once("exit", done));
  t.after(async () => {
    dev.kill("SIGTERM");
    await exited;
    if (!process.env.KEEP) rmSync(dir, { recursive: true, force: true });
  });
  let text = "";
  await new Promise((done, fail) => {
    for (const stream of [dev.stdout, dev.stderr])
      stream.on("data", (data) => {
        text += data;
        if (text.includes("Caisson is ready")) done();
      });
    exited.then(() => fail(new Error(`dev ended: ${text}`)));
  });
  const { ok, call } = client(`http://localhost:${port}`);
  const session = (await ok("POST", "/v1/sessions", { agent: "shell" })).body;
  const exec = (command) => call("POST", `/v1/sessions/${session.id}/exec`, { command });
  assert.equal((await exec(`(setsid ${marker(n)} >/dev/null 2>&1 &); true`)).status, 200);
  const mine = () => rows().filter((r) => r.args === marker(n));
  assert.equal(mine().length, 1);
  return { dev, exec, mine };
}

for (const [n, [what, choose]] of Object.entries(cases).entries()) {
  test(`kill -9 of ${what}: everything ends, no sandbox stays`, async (t) => {
    const { dev, mine } = await open(t, 4760 + n);
    const tree = treeOf(dev.pid);
    process.kill(choose(dev, tree), "SIGKILL");
    const alive = () => {
      const now = new Map(rows().map((r) => [r.pid, r.args]));
      return tree.filter((r) => now.get(r.pid) === r.args).concat(mine());
    };
    for (let i = 0; i < 200 && alive().length > 0; i += 1) await sleep(50);
    assert.deepEqual(alive(), []);
  });
}

test("kill -9 of the Workers runtime: wrangler starts another, the sandbox goes on", async (t) => {
  const { dev, exec, mine } = await open(t, 4769);
  const runtimes = () => treeOf(dev.pid).filter((r) => r.args.includes("workerd serve"));
  // The one that runs the Worker; the other is wrangler's own proxy.
  const worker = runtimes().find((r) => r.args.includes("entry=127.0.0.1:0"));
  process.kill(worker.pid, "SIGKILL");
  let answer;
  for (let i = 0; i < 300; i += 1) {
    answer = await exec("echo still here").catch(() => undefined);
    if (answer?.status === 200) break;
    await sleep(100);
  }
  assert.equal(answer?.body?.stdout, "still here\n", JSON.stringify(answer?.body));
  assert.equal(mine().length, 1, "the same sandbox");
  assert.ok(!runtimes().some((r) => r.pid === worker.pid));
});
