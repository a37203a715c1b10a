#!/usr/bin/env node
/**
 * Runs the suites one after another and closes with "N passed, N failed" (and ", N skipped" when some were).
 * A suite that takes longer than its limit is ended and fails, with what was still running, so that the others run and the
 * whole ends (suite.mjs). CAISSON_TEST_PATIENCE=N multiplies the limits (a slow machine, an emulator).
 * usage: scripts/test.mjs [SUITE…]   suites: core fuzz engine worker conformance e2e
 */
import { closeSync, mkdirSync, openSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "./local.mjs";
import { startSuite } from "./suite.mjs";

const RESULTS = join(ROOT, "build/test-results");

const PATIENCE = Number(process.env.CAISSON_TEST_PATIENCE || 1);
if (!(PATIENCE > 0)) {
  console.error(`CAISSON_TEST_PATIENCE=${process.env.CAISSON_TEST_PATIENCE}: must be a number above 0`);
  process.exit(64);
}

/** What all suites may take together; a CI that ends a run at 90 minutes still gets its report. */
const ALL_S = 4800;

/** How each suite is run, its limit (four times what 2 cores take, or more), and how its counts are read from what it printed. */
const SUITES = {
  core: {
    what: "core: unit, golden, native against wasm, ABI",
    limit_s: 1500,
    command: ["make", "--no-print-directory", "test-core"],
    counts: counted("core"),
  },
  fuzz: {
    what: "fuzz smoke",
    limit_s: 500 + 14 * seconds("FUZZ_SECONDS", 12) + 6 * seconds("FUZZ_NATIVE_SECONDS", 6),
    command: ["make", "--no-print-directory", "fuzz-smoke", "fuzz-native-smoke"],
    counts: null,
  },
  engine: {
    what: "engine, guest and runner",
    limit_s: 2000,
    command: ["make", "--no-print-directory", "test-engine"],
    counts: counted("engine"),
  },
  worker: {
    what: "Worker, in workerd",
    limit_s: 800,
    command: ["vitest", "run"],
    counts: vitest,
  },
  conformance: {
    what: "conformance: the real SDK in a Worker under wrangler dev",
    limit_s: 800,
    command: ["node", "tests/conformance/run.mjs"],
    counts: nodeTest,
  },
  e2e: {
    what: "end to end: wrangler dev, engine, Claude Code",
    limit_s: 1500,
    command: [
      "node",
      "--import=./tests/deadline.mjs",
      "--test",
      "--test-timeout=400000",
      "--test-concurrency=1",
      "--test-reporter=spec",
      "tests/e2e/*.test.mjs",
    ],
    counts: nodeTest,
  },
};

/** Of a variable that says how long something is done. */
function seconds(name, absent) {
  const value = Number(process.env[name] || absent);
  return value > 0 ? value : absent;
}

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

/** What runs now. */
let current;
let stopping = false;
async function stop(status) {
  const again = stopping;
  stopping = true;
  await current?.stop();
  if (!again) process.exit(status);
}
for (const [signal, number] of [
  ["SIGHUP", 1],
  ["SIGINT", 2],
  ["SIGTERM", 15],
])
  process.on(signal, () => stop(128 + number));
let reader = true;
process.stdout.on("error", () => {
  if (reader) stop(128 + 13);
  reader = false;
});

async function run(name, suite) {
  const begun = Date.now();
  const left_s = Math.max(ALL_S * PATIENCE - performance.now() / 1000, 1);
  const log = openSync(join(RESULTS, `${name}.log`), "w");
  const show = (text) => {
    writeSync(log, text);
    if (reader) process.stdout.write(text);
  };
  current = startSuite(suite.command, {
    cwd: ROOT,
    limitMs: Math.ceil(Math.min(suite.limit_s * PATIENCE, left_s)) * 1000,
    show,
  });
  const { code, printed, wrong } = await current.done;
  current = undefined;
  if (stopping) await new Promise(() => {});
  closeSync(log);
  // A suite without counts of its own is one test: its exit status.
  const good = code === 0 && wrong === null;
  let counts = suite.counts === null ? { passed: good ? 1 : 0, failed: 0, skipped: 0 } : suite.counts(printed);
  counts ??= { passed: 0, failed: 1, skipped: 0 };
  if (!good && counts.failed === 0) counts.failed = 1;
  if (counts.passed + counts.failed + counts.skipped === 0) counts.failed = 1;
  return { name, seconds: ((Date.now() - begun) / 1000).toFixed(1), wrong, ...counts };
}

const names = process.argv.slice(2);
for (const name of names) {
  if (!(name in SUITES)) {
    console.error(`no suite ${name}; there are: ${Object.keys(SUITES).join(" ")}`);
    process.exit(64);
  }
}
mkdirSync(RESULTS, { recursive: true });
const results = [];
for (const name of names.length ? names : Object.keys(SUITES)) {
  rmSync(join(RESULTS, `${name}.log`), { force: true });
  console.log(`\n== ${SUITES[name].what}`);
  results.push(await run(name, SUITES[name]));
}
console.log("");
const sum = (field) => results.reduce((n, r) => n + r[field], 0);
for (const r of results) {
  const where = r.failed ? `  build/test-results/${r.name}.log` : "";
  const why = r.wrong === null ? "" : `  It ${r.wrong}.`;
  console.log(
    `${r.failed === 0 ? "ok  " : "FAIL"}  ${r.name.padEnd(11)} ${r.passed} passed, ${r.failed} failed, ${r.skipped} skipped  (${r.seconds} s)${where}${why}`,
  );
}
if (results.some((r) => r.wrong?.startsWith("takes longer")))
  console.log("CAISSON_TEST_PATIENCE=N multiplies the time that suites may take, on a slow machine.");
const skipped = sum("skipped");
console.log(`${sum("passed")} passed, ${sum("failed")} failed${skipped ? `, ${skipped} skipped` : ""}`);
process.exit(sum("failed") === 0 ? 0 : 1);
