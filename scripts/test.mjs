#!/usr/bin/env node
/**
 * Runs the suites one after another and closes with "N passed, N failed" (and ", N skipped" when some were).
 * A suite that takes longer than its limit is ended and fails, with what was still running, so that the others run and the
 * whole ends. CAISSON_TEST_PATIENCE=N multiplies the limits (a slow machine, an emulator).
 * usage: scripts/test.mjs [SUITE…]   suites: core fuzz engine worker conformance e2e
 */
import { spawn, spawnSync } from "node:child_process";
import { createWriteStream, existsSync, mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "./local.mjs";

const RESULTS = join(ROOT, "build/test-results");

const PATIENCE = Number(process.env.CAISSON_TEST_PATIENCE || 1);
/** How long whoever holds a suite's output open after its end is waited for. */
const GRACE_MS = 10_000;

/** How each suite is run, its limit (three times what 2 cores take, or more), and how its counts are read from what it printed. */
const SUITES = {
  core: {
    what: "core: unit, golden, native against wasm, ABI",
    limit_s: 1000,
    command: ["make", "--no-print-directory", "test-core"],
    counts: counted("core"),
  },
  fuzz: {
    what: "fuzz smoke",
    limit_s: 500,
    command: ["make", "--no-print-directory", "fuzz-smoke", "fuzz-native-smoke"],
    counts: null,
  },
  engine: {
    what: "engine, guest and runner",
    limit_s: 1300,
    command: ["make", "--no-print-directory", "test-engine"],
    counts: counted("engine"),
  },
  worker: {
    what: "Worker, in workerd",
    limit_s: 400,
    command: ["vitest", "run"],
    counts: vitest,
  },
  conformance: {
    what: "conformance: the real SDK in a Worker under wrangler dev",
    limit_s: 400,
    command: ["node", "tests/conformance/run.mjs"],
    counts: nodeTest,
  },
  e2e: {
    what: "end to end: wrangler dev, engine, Claude Code",
    limit_s: 1000,
    command: [
      "node",
      "--import=./tests/deadline.mjs",
      "--test",
      "--test-timeout=200000",
      "--test-concurrency=1",
      "--test-reporter=spec",
      "tests/e2e/*.test.mjs",
    ],
    counts: nodeTest,
  },
};

/** Counts from the line "SUITE: N passed, N failed[, N skipped]". */
function counted(name) {
  return (text) => {
    const m = [...text.matchAll(new RegExp(`^${name}: (\\d+) passed, (\\d+) failed(?:, (\\d+) skipped)?`, "gm"))].at(
      -1,
    );
    return m && { passed: Number(m[1]), failed: Number(m[2]), skipped: Number(m[3] ?? 0) };
  };
}

function vitest(text) {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: colours are what is removed
  const line = text.replace(/\x1b\[[0-9;]*m/g, "").match(/^\s*Tests\s+(.*)$/m)?.[1];
  if (line === undefined) return undefined;
  const n = (word) => Number(line.match(new RegExp(`(\\d+) ${word}`))?.[1] ?? 0);
  return { passed: n("passed"), failed: n("failed"), skipped: n("skipped") };
}

/** Sums over the runs of node's test runner in the text. */
function nodeTest(text) {
  const found = (word) => [...text.matchAll(new RegExp(`^ℹ ${word} (\\d+)$`, "gm"))];
  const n = (word) => found(word).reduce((sum, m) => sum + Number(m[1]), 0);
  if (found("pass").length === 0) return undefined;
  return { passed: n("pass"), failed: n("fail") + n("cancelled"), skipped: n("skipped") };
}

/** The process `pid` and all below it, as `ps` lines. */
function tree(pid) {
  const lines = spawnSync("ps", ["-eo", "pid=,ppid=,etimes=,stat=,wchan:20=,args="], { encoding: "utf8" }).stdout ?? "";
  const all = lines
    .split("\n")
    .map((line) => ({ line, id: Number(line.trim().split(/\s+/)[0]), above: Number(line.trim().split(/\s+/)[1]) }));
  const found = new Set([pid]);
  for (let before = 0; before !== found.size; ) {
    before = found.size;
    for (const p of all) if (found.has(p.above)) found.add(p.id);
  }
  return all.filter((p) => found.has(p.id));
}

function end(pid, signal) {
  try {
    process.kill(pid, signal);
  } catch {
    // It has ended.
  }
}

/** What runs now, for a signal to end. */
let current;
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
  process.on(signal, () => {
    if (current) for (const p of tree(current.pid)) end(p.id, "SIGTERM");
    process.exit(128 + { SIGINT: 2, SIGTERM: 15, SIGHUP: 1 }[signal]);
  });
}

function run(name, suite) {
  return new Promise((done) => {
    const begun = Date.now();
    const log = createWriteStream(join(RESULTS, `${name}.log`));
    const child = spawn(suite.command[0], suite.command.slice(1), {
      cwd: ROOT,
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, FORCE_COLOR: "0" },
    });
    current = child;
    let text = "";
    const show = (data) => {
      text += data;
      log.write(data);
      process.stdout.write(data);
    };
    child.stdout.on("data", show);
    child.stderr.on("data", show);
    const seconds = suite.limit_s * PATIENCE;
    let late = false;
    const limit = setTimeout(() => {
      late = true;
      const running = tree(child.pid);
      show(
        `\nnot ok - ${name} takes longer than ${seconds} s (CAISSON_TEST_PATIENCE multiplies that). Still running:\n`,
      );
      for (const p of running) show(`  ${p.line.slice(0, 300)}\n`);
      for (const p of running) end(p.id, "SIGTERM");
      setTimeout(() => {
        for (const p of tree(child.pid)) end(p.id, "SIGKILL");
        for (const p of running) end(p.id, "SIGKILL");
      }, GRACE_MS);
    }, seconds * 1000);
    // "close" waits for every process that has the output open, "exit" for none.
    child.on("exit", () => {
      setTimeout(() => {
        if (child.stdout.destroyed && child.stderr.destroyed) return;
        late = true;
        show(`\nnot ok - ${name} has ended, but a process that it left still holds its output\n`);
        child.stdout.destroy();
        child.stderr.destroy();
      }, GRACE_MS).unref();
    });
    child.on("close", (code) => {
      clearTimeout(limit);
      current = undefined;
      log.end();
      const took = ((Date.now() - begun) / 1000).toFixed(1);
      // A suite without counts of its own is one test: its exit status.
      let counts =
        suite.counts === null
          ? { passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1, skipped: 0 }
          : suite.counts(text);
      counts ??= { passed: 0, failed: 1, skipped: 0 };
      if ((code !== 0 || late) && counts.failed === 0) counts.failed = 1;
      if (counts.passed + counts.failed + counts.skipped === 0) counts.failed = 1;
      done({ name, seconds: took, ...counts });
    });
  });
}

const names = process.argv.slice(2);
for (const name of names) {
  if (!(name in SUITES)) {
    console.error(`no suite ${name}; there are: ${Object.keys(SUITES).join(" ")}`);
    process.exit(64);
  }
}
if (!existsSync(RESULTS)) mkdirSync(RESULTS, { recursive: true });
const results = [];
for (const name of names.length ? names : Object.keys(SUITES)) {
  rmSync(join(RESULTS, `${name}.log`), { force: true });
  console.log(`\n== ${SUITES[name].what}`);
  results.push(await run(name, SUITES[name]));
}
console.log("");
const sum = (field) => results.reduce((n, r) => n + r[field], 0);
for (const r of results)
  console.log(
    `${r.failed === 0 ? "ok  " : "FAIL"}  ${r.name.padEnd(11)} ${r.passed} passed, ${r.failed} failed, ${r.skipped} skipped  (${r.seconds} s)${r.failed ? `  build/test-results/${r.name}.log` : ""}`,
  );
const skipped = sum("skipped");
console.log(`${sum("passed")} passed, ${sum("failed")} failed${skipped ? `, ${skipped} skipped` : ""}`);
process.exit(sum("failed") === 0 ? 0 : 1);
