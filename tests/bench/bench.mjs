#!/usr/bin/env node
/**
 * `make bench`: what a user waits for, and what the pieces cost. Prints a table and writes build/bench.json.
 * Times are milliseconds; each ratio is between two measurements of this same run.
 * usage: tests/bench/bench.mjs [PART…]   a part is a file in tests/bench/parts; without a name, all of them.
 * Run with names, the keys of the other parts stay in build/bench.json as they are. When a part fails, the others are still
 * measured and written; exit status 1.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { build } from "./measure.mjs";

const parts = readdirSync(new URL("parts/", import.meta.url))
  .filter((f) => f.endsWith(".mjs"))
  .map((f) => f.slice(0, -4))
  .sort();
const wanted = process.argv.slice(2);
for (const name of wanted) {
  if (!parts.includes(name)) {
    console.error(`bench: no part ${name}; there are: ${parts.join(" ")}`);
    process.exit(64);
  }
}
const results =
  wanted.length > 0 && existsSync(build("bench.json")) ? JSON.parse(readFileSync(build("bench.json"), "utf8")) : {};
/** Records one figure. Thousandths are kept. */
function put(key, value) {
  results[key] = Math.round(value * 1000) / 1000;
  console.log(`${key.padEnd(28)} ${results[key]}`);
}
const failed = [];
for (const name of wanted.length > 0 ? wanted : parts) {
  console.log(`\n${name}`);
  try {
    const part = await import(new URL(`parts/${name}.mjs`, import.meta.url));
    await part.default(put);
  } catch (error) {
    console.error(`bench: ${name} failed: ${error instanceof Error ? error.stack : error}`);
    failed.push(name);
  }
}
writeFileSync(build("bench.json"), `${JSON.stringify(results, null, 2)}\n`);
console.log("\nwritten to build/bench.json");
if (failed.length > 0) {
  console.error(`bench: without ${failed.join(", ")}, which failed`);
  process.exitCode = 1;
}
