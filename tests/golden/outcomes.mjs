/** Replays every recorded transcript and compares the outcome with claude-code-outcomes.md. Prints TAP. */
import { execFileSync } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";

const [tool = "build/caisson-events"] = process.argv.slice(2);
const dir = "tests/fixtures/transcripts/claude-code/";
const rows = readFileSync("tests/golden/claude-code-outcomes.md", "utf8")
  .split("\n")
  .filter((line) => /^\| [\w.-]+\.jsonl? \|/.test(line))
  .map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim()));
let count = 0;
let failed = 0;
function ok(cond, name) {
  count++;
  if (!cond) failed++;
  console.log(`${cond ? "ok" : "not ok"} ${count} - ${name}`);
}

for (const row of rows) {
  const out = execFileSync(tool, ["--agent", "claude-code", "--exit-code", row[1]], { input: readFileSync(dir + row[0]), maxBuffer: 1 << 28 });
  const lines = out.toString().trimEnd().split("\n").map((line) => JSON.parse(line));
  const end = lines.at(-1);
  const u = end.usage;
  const exit = end.signal === null ? end.exit_code : -end.signal;
  const got = [row[0], exit, end.type.replace("run.", ""), end.reason, end.agent_session_id ?? "-", u.input_tokens, u.output_tokens, u.cache_read_tokens, u.cache_write_tokens, u.cost_usd, u.turns, u.tool_calls];
  ok(got.every((value, i) => String(value) === row[i]), got.join(" | "));
  ok(lines.every((line, i) => i === 0 || line.seq === lines[i - 1].seq + 1), `${row[0]}: seq has no gap`);
}
const named = new Set(rows.map((row) => row[0]));
const missing = readdirSync(dir).filter((file) => /\.jsonl?$/.test(file) && !named.has(file));
ok(missing.length === 0, `every transcript has a row ${missing.join(" ")}`);
console.log(`1..${count}`);
process.exit(failed > 0 ? 1 : 0);
