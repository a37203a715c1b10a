/** `make demo` itself, as a user types it: on a free port, to the end, with what it promises to print. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { freePort, ROOT } from "../../scripts/local.mjs";

test("the demo shows the whole line and leaves nothing running", async () => {
  const env = { ...process.env, PORT: String(await freePort()), NO_COLOR: "1" };
  delete env.ANTHROPIC_API_KEY;
  delete env.PROMPT;
  const before = mine();
  const run = spawnSync("node", [join(ROOT, "scripts/demo.mjs")], {
    cwd: ROOT,
    env,
    encoding: "utf8",
    timeout: 120_000,
  });
  assert.equal(run.status, 0, run.stdout + run.stderr);
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
    assert.match(run.stdout, part);
  const left = mine().filter((line) => !before.includes(line));
  assert.deepEqual(left, [], "processes are left running");
});

/** Engines, guests and Workers that are alive. */
function mine() {
  const list = spawnSync("ps", ["-eo", "args"], { encoding: "utf8" }).stdout.split("\n");
  return list.filter((line) => /caisson-engine|caisson-guest|workerd serve/.test(line)).sort();
}
