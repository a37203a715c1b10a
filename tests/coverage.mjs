#!/usr/bin/env node
/**
 * Lines of the core (wasm/src) that its tests reach, natively: unit tests, goldens, and the corpora of the fuzzers. Prints a table
 * and the total, writes build/coverage.json, and fails below the goal or when a test fails.
 * usage: node tests/coverage.mjs DIR [--missing] [FILE…]   DIR: programs built with -fprofile-instr-generate (make coverage);
 * --missing lists the lines that nothing reached, of the files named (json.c) or of all.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";

/** percent of lines */
const GOAL = 95;
const args = process.argv.slice(2).filter((a) => !a.startsWith("--"));
const [dir = "build/coverage", ...only] = args;
const PROFILES = join(dir, "profiles");
const PROFDATA = join(dir, "merged.profdata");

function run(command, argv, env = {}) {
  const done = spawnSync(command, argv, { env: { ...process.env, ...env }, maxBuffer: 1 << 28, encoding: "utf8" });
  if (done.error) fail(`${command}: ${done.error.message}`);
  return done;
}

function fail(why) {
  console.error(`coverage: ${why}`);
  process.exit(1);
}

/** One test under measurement; its own verdict counts too. */
function measured(name, command, argv) {
  // %m: every process adds to the file of its program, so that a thousand runs leave a few files.
  const done = run(command, argv, { LLVM_PROFILE_FILE: join(PROFILES, "%2m.profraw") });
  if (done.status === 0) return;
  const notOk = done.stdout.split("\n").filter((line) => line.startsWith("not ok"));
  fail(`${name} failed\n${(notOk.length > 0 ? notOk : [done.stdout, done.stderr]).join("\n").slice(-4000)}`);
}

rmSync(PROFILES, { recursive: true, force: true });
mkdirSync(PROFILES, { recursive: true });
const programs = readdirSync(dir).filter((name) => /^(.*_test|fuzz_.*|caisson-[a-z]+|replay)$/.test(name));
const tool = (name) => join(dir, name);
for (const name of programs.filter((one) => one.endsWith("_test"))) measured(name, tool(name), []);
for (const name of programs.filter((one) => one.startsWith("fuzz_"))) {
  measured(name, tool(name), [
    "-runs=0",
    `-artifact_prefix=${dir}/`,
    `tests/fuzz/corpus/${name.slice("fuzz_".length)}`,
  ]);
}
const node = process.execPath;
measured("table", tool("session_test"), ["--table"]);
measured("outcomes", node, ["tests/golden/outcomes.mjs", tool("caisson-events")]);
measured("golden", node, ["tests/golden/golden.mjs", tool("caisson-events"), "build/core.wasm", tool("replay")]);
measured("transcripts", node, ["tests/golden/transcripts.mjs", tool("caisson-events"), "build/core.wasm"]);
measured("policy", node, ["tests/golden/policy.mjs", tool("caisson-policy")]);
measured("redact", node, [
  "tests/diff/redact.mjs",
  tool("caisson-redact"),
  "build/redact.wasm",
  join(dir, "redact-host.mjs"),
]);
measured("identity", node, ["tests/golden/identity.mjs", tool("caisson-token"), tool("caisson-audit")]);

const profiles = readdirSync(PROFILES).map((name) => join(PROFILES, name));
const merged = run("llvm-profdata", ["merge", "-sparse", "-o", PROFDATA, ...profiles]);
if (merged.status !== 0) fail(merged.stderr);
const objects = programs.flatMap((name, i) => (i === 0 ? [tool(name)] : ["-object", tool(name)]));
const exported = run("llvm-cov", ["export", "-format=lcov", "-instr-profile", PROFDATA, ...objects]);
if (exported.status !== 0) fail(exported.stderr);

/** file → its lines that hold code, each with whether it was reached. */
const files = new Map();
let lines = null;
for (const line of exported.stdout.split("\n")) {
  const file = /^SF:.*?\/(wasm\/src\/[^/]+\.c)$/.exec(line)?.[1];
  if (line.startsWith("SF:"))
    lines = file === undefined ? null : (files.get(file) ?? files.set(file, new Map()).get(file));
  const [, number, count] = /^DA:(\d+),(\d+)/.exec(line) ?? [];
  if (number !== undefined) lines?.set(Number(number), (lines.get(Number(number)) ?? false) || count !== "0");
}
const sources = readdirSync("wasm/src").filter((name) => name.endsWith(".c"));
for (const name of sources) {
  if (!files.has(`wasm/src/${name}`)) fail(`nothing is known of wasm/src/${name}; it is not in ${dir}`);
}

const percent = (hit, all) => (all === 0 ? 100 : (100 * hit) / all);
const rows = [...files].sort().map(([file, reached]) => {
  const missed = [...reached].filter(([, hit]) => !hit).map(([number]) => number);
  return { file, lines: reached.size, reached: reached.size - missed.length, missed };
});
const sum = (field) => rows.reduce((n, row) => n + row[field], 0);
const total = percent(sum("reached"), sum("lines"));
for (const { file, lines: all, reached } of rows) {
  console.log(
    `${basename(file).padEnd(28)} ${String(reached).padStart(5)} of ${String(all).padStart(5)} lines  ${percent(reached, all).toFixed(1).padStart(5)} %`,
  );
}
if (process.argv.includes("--missing")) {
  for (const { file, missed } of rows) {
    if (missed.length === 0 || (only.length > 0 && !only.includes(basename(file)))) continue;
    const text = readFileSync(file, "utf8").split("\n");
    for (const number of missed.sort((a, b) => a - b)) console.log(`${file}:${number}: ${text[number - 1]}`);
  }
}
writeFileSync(
  "build/coverage.json",
  `${JSON.stringify({ lines: sum("lines"), reached: sum("reached"), percent: Number(total.toFixed(2)), files: Object.fromEntries(rows.map(({ file, lines: all, reached }) => [file, { lines: all, reached }])) }, null, 1)}\n`,
);
console.log(`coverage: ${sum("reached")} of ${sum("lines")} lines of wasm/src, ${total.toFixed(2)} % (goal ${GOAL} %)`);
if (total < GOAL) fail(`below the goal; the lines that nothing reaches: node tests/coverage.mjs ${dir} --missing`);
