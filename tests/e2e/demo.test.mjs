/** `make demo` itself, as a user types it: on a free port, to the end, with what it promises to print. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { freePort, ROOT } from "../../scripts/local.mjs";
import { rows, treeOf } from "./processes.mjs";

test("the demo shows the whole line and leaves nothing running", async () => {
  const env = { ...process.env, PORT: String(await freePort()), NO_COLOR: "1" };
  delete env.ANTHROPIC_API_KEY;
  delete env.PROMPT;
  const run = await demo(env);
  assert.equal(run.status, 0, run.text);
  for (const part of [
    /Model: a scripted server on loopback \(ANTHROPIC_API_KEY is not set\)/,
    /agent\.tool_call +Bash node --test/,
    /agent\.tool_call +Edit \/workspace\/src\/duration\.js/,
    /run\.succeeded/,
    /All four tests pass now/,
    /\+ {2}const m = Math\.floor\(\(seconds % 3600\) \/ 60\);/,
    /\d+ bytes {2}sha256:[0-9a-f]{64} {2}CHANGELOG\.md/,
    /\d+ tokens in, \d+ out/,
    /\$0\.\d{4}/,
  ])
    assert.match(run.text, part);
  // A guest server alone would not do: the engine keeps sandboxes ready.
  assert.ok(
    run.seen.some((r) => /claude.* --output-format stream-json/.test(r.args)),
    "the agent was never seen in a sandbox",
  );
  const left = rows().filter((r) => run.seen.some((s) => s.pid === r.pid && s.args === r.args));
  assert.deepEqual(left, [], "processes are left running");
});

/** Runs the demo; answers its status, what it printed, and every process that was below it. */
async function demo(env) {
  const child = spawn("node", [join(ROOT, "scripts/demo.mjs")], { cwd: ROOT, env, timeout: 120_000 });
  let text = "";
  child.stdout.on("data", (data) => (text += data));
  child.stderr.on("data", (data) => (text += data));
  const seen = new Map();
  const look = setInterval(() => {
    for (const r of treeOf(child.pid)) seen.set(`${r.pid} ${r.args}`, r);
  }, 200);
  const status = await new Promise((done) => child.on("close", done));
  clearInterval(look);
  return { status, text, seen: [...seen.values()] };
}
