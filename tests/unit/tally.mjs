/**
 * Adds up TAP files: tally.mjs RESULT NAME=FILE... A program that printed no plan, or fewer tests than planned, has
 * failed. Prints the failures and one line `core: N passed, N failed`, writes `N passed, N failed` to RESULT.
 */
import { readFileSync, writeFileSync } from "node:fs";

const [result, ...files] = process.argv.slice(2);
let passed = 0;
let failed = 0;
for (const arg of files) {
  const [name, file] = [arg.slice(0, arg.indexOf("=")), arg.slice(arg.indexOf("=") + 1)];
  let text = "";
  try {
    text = readFileSync(file, "utf8");
  } catch {
    // counted below: no plan
  }
  const good = text.match(/^ok /gm)?.length ?? 0;
  const bad = text.match(/^not ok /gm)?.length ?? 0;
  const plan = Number(text.match(/^1\.\.(\d+)$/m)?.[1] ?? Number.NaN);
  const lost = Number.isNaN(plan) ? 1 : Math.max(0, plan - good - bad);
  passed += good;
  failed += bad + lost;
  for (const line of text.match(/^not ok .*(\n {2}#.*)*/gm) ?? []) console.log(`${name}: ${line}`);
  if (lost > 0) console.log(`${name}: ended early\n${text.split("\n").slice(-15).join("\n")}`);
}
writeFileSync(result, `${passed} passed, ${failed} failed\n`);
console.log(`core: ${passed} passed, ${failed} failed`);
process.exit(failed > 0 ? 1 : 0);
