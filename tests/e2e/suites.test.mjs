/** How `make test` runs a suite (scripts/suite.mjs): it ends in time, and nothing that it started stays. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { startSuite } from "../../scripts/suite.mjs";
import { rows } from "./processes.mjs";

/** `sleep` that no other test run on this machine has. */
const sleeper = (n) => `sleep ${9300 + n}.${process.pid}`;
const running = (n) => rows().filter((r) => r.args === sleeper(n));

/** Runs a line of the shell: what became of it, and all that was shown. */
async function suite(line, more = {}) {
  let shown = "";
  const show = (text) => {
    shown += text;
  };
  const started = startSuite(["bash", "-c", line], { cwd: "/", limitMs: 60_000, graceMs: 1_000, show, ...more });
  const { code, printed, wrong } = await started.done;
  return { code, printed, wrong, shown };
}

test("one that ends: its status and what it printed, character by character", async () => {
  const r = await suite("printf '\\342'; sleep 0.2; printf '\\204\\271 pass 1\\n'; echo other >&2; exit 3");
  assert.deepEqual([r.code, r.printed, r.wrong], [3, "ℹ pass 1\n", null]);
  assert.match(r.shown, /other\n/);
  assert.doesNotMatch(r.shown, /not ok|left running/);
});

test("a program that is not there", async () => {
  const { done } = startSuite(["caisson-no-such-program"], { cwd: "/", limitMs: 9_000, show: () => {} });
  // 126 where PATH has a directory that this user may not look into.
  assert.match(String((await done).code), /^12[67]$/);
});

test("one that hangs is ended; what it did then is said", async () => {
  const r = await suite(`echo begun; (${sleeper(1)} & wait); echo never`, { limitMs: 500 });
  assert.deepEqual([r.wrong, r.printed], ["takes longer than 0.5 s", "begun\n"]);
  assert.match(r.shown, new RegExp(`not ok - it takes longer than 0.5 s. Still running:\n.* ${sleeper(1)}\n`, "s"));
  assert.deepEqual(running(1), []);
});

test("of a long command line the end is said, too", async () => {
  const r = await suite("exec node -e 'setInterval(() => {}, 1e6)' $(seq 1000) tests/last.test.mjs", { limitMs: 500 });
  assert.match(r.shown, /^.{0,230}node -e .{0,200} \.\.\. .* 1000 tests\/last\.test\.mjs$/m);
});

test("one that ignores SIGTERM, and its children with it, is killed", async () => {
  const r = await suite(`trap '' TERM; ${sleeper(2)} & while :; do sleep 0.1; done`, { limitMs: 300 });
  assert.match(r.wrong, /takes longer/);
  assert.equal(r.code, null);
  assert.deepEqual(running(2), []);
});

test("the processes of one that hangs are ended in sessions of their own, too", async () => {
  const line = `(setsid ${sleeper(3)} >/dev/null 2>&1 &); (setsid sh -c 'trap "" TERM; ${sleeper(3)}; :' >/dev/null 2>&1 &); sleep 60`;
  const r = await suite(line, { limitMs: 500 });
  assert.equal(r.shown.split(` ${sleeper(3)}\n`).length, 3, r.shown);
  assert.deepEqual(running(3), []);
});

test("a daemon that holds the output: the suite fails, the daemon is named and ended", async () => {
  const r = await suite(`(setsid ${sleeper(4)} &); echo done`);
  assert.deepEqual([r.code, r.printed], [0, "done\n"]);
  assert.match(r.wrong, /still holds its output/);
  assert.match(r.shown, new RegExp(` ${sleeper(4)}\n`));
  assert.deepEqual(running(4), []);
});

test("a daemon that holds nothing is named and ended, and what it runs with another environment", async () => {
  const r = await suite(`(setsid sh -c 'env -i ${sleeper(5)}; :' >/dev/null 2>&1 &)`);
  assert.deepEqual([r.code, r.wrong], [0, null]);
  assert.match(r.shown, new RegExp(`left running:\n.* ${sleeper(5)}\n`, "s"));
  assert.deepEqual(running(5), []);
});

test("a process of the suite that ends by itself soon is waited for", async () => {
  const r = await suite("(setsid sleep 0.4 >/dev/null 2>&1 &)", { graceMs: 20_000 });
  assert.deepEqual([r.code, r.wrong, r.shown], [0, null, ""]);
});

test("others' processes are left alone", async (t) => {
  const other = startSuite(["bash", "-c", `exec ${sleeper(6)}`], { cwd: "/", limitMs: 60_000, show: () => {} });
  t.after(() => other.stop());
  await suite("sleep 60", { limitMs: 300 });
  assert.equal(running(6).length, 1);
});

for (const [n, times, what] of [
  [7, 1, "ended, and killed when that does not help"],
  [8, 2, "told again, it is killed at once"],
])
  test(`one that is to stop: ${what}`, async () => {
    const line = `trap '' TERM INT; (setsid ${sleeper(n)} >/dev/null 2>&1 &); echo begun; while :; do sleep 0.1; done`;
    let begun;
    const ready = new Promise((done) => {
      begun = done;
    });
    // The test's own time is over before a second word that does nothing would be noticed.
    const graceMs = times > 1 ? 1_000_000 : 1_000;
    const run = startSuite(["bash", "-c", line], { cwd: "/", limitMs: 2_000_000, graceMs, show: begun });
    await ready;
    await Promise.all(Array.from({ length: times }, () => run.stop()));
    assert.deepEqual(running(n), []);
    assert.equal((await run.done).code, null);
  });
