#!/usr/bin/env node
/**
 * Runs the suites one after another and closes with "N passed, N failed" (and ", N skipped" when some were).
 * usage: scripts/test.mjs [SUITE…]   suites: core fuzz engine worker conformance e2e
 */
import { spawn } from "node:child_process";
import { createWriteStream, existsSync, mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "./local.mjs";

const RESULTS = join(ROOT, "build/test-results");

/** How each suite is run, and how its counts are read from what it printed. */
const SUITES = {
  core: {
    what: "core: unit, golden, native against wasm, ABI",
    command: ["make", "--no-print-directory", "test-core"],
    counts: counted("core"),
  },
  fuzz: {
    what: "fuzz smoke",
    command: ["make", "--no-print-directory", "fuzz-smoke", "fuzz-native-smoke"],
    counts: null,
  },
  engine: {
    what: "engine, guest and runner",
    command: ["make", "--no-print-directory", "test-engine"],
    counts: counted("engine"),
  },
  worker: { what: "Worker, in workerd", command: ["vitest", "run", "--reporter=default"], counts: vitest },
  conformance: {
    what: "conformance: the real SDK in a Worker under wrangler dev",
    command: ["node", "tests/conformance/run.mjs"],
    counts: nodeTest,
  },
  e2e: {
    what: "end to end: wrangler dev, engine, Claude Code",
    command: [
      "node",
      "--test",
      "--test-timeout=900000",
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

function run(name, suite) {
  return new Promise((done) => {
    const begun = Date.now();
    const log = createWriteStream(join(RESULTS, `${name}.log`));
    const child = spawn(suite.command[0], suite.command.slice(1), {
      cwd: ROOT,
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, FORCE_COLOR: "0" },
    });
    let text = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (data) => {
        text += data;
        log.write(data);
        process.stdout.write(data);
      });
    }
    child.on("close", (code) => {
      log.end();
      const seconds = ((Date.now() - begun) / 1000).toFixed(1);
      // A suite without counts of its own is one test: its exit status.
      let counts =
        suite.counts === null
          ? { passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1, skipped: 0 }
          : suite.counts(text);
      counts ??= { passed: 0, failed: 1, skipped: 0 };
      if (code !== 0 && counts.failed === 0) counts.failed = 1;
      if (counts.passed + counts.failed + counts.skipped === 0) counts.failed = 1;
      done({ name, seconds, ...counts });
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
