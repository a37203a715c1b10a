/**
 * Replays every recorded transcript and compares the outcome with AGENT-outcomes.md, a table written by hand from
 * docs/reference/AGENT-EVENTS.md. Prints TAP. usage: outcomes.mjs [caisson-events] [--update]
 * `--update` writes what the tool says into the rows that are there; read the diff before you commit it.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { done, ok } from "../tap.mjs";

const [tool = "build/caisson-events"] = process.argv.slice(2).filter((a) => !a.startsWith("--"));
const update = process.argv.includes("--update");
const ROW = /^\| [\w.-]+\.(jsonl?|txt) \|/;
const cells = (line) =>
  line
    .split("|")
    .slice(1, -1)
    .map((cell) => cell.trim());

/** The events of a transcript, its stderr included. */
function replay(agent, path, exit) {
  const errors = path.replace(/\.\w+$/, ".stderr.txt");
  const args = ["--agent", agent, "--exit-code", exit, ...(existsSync(errors) ? ["--stderr", errors] : [])];
  const out = execFileSync(tool, args, { input: readFileSync(path), maxBuffer: 1 << 28 });
  return out
    .toString()
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
}

function rowOf(name, exit, end) {
  const u = end.usage;
  const status = end.error?.status ?? "-";
  return [
    name,
    exit,
    end.type.replace("run.", ""),
    end.reason,
    status,
    end.agent_session_id ?? "-",
    u.input_tokens,
    u.output_tokens,
    u.cache_read_tokens,
    u.cache_write_tokens,
    u.cost_usd,
    u.turns,
    u.tool_calls,
  ].map(String);
}

for (const file of readdirSync("tests/golden").filter((name) => name.endsWith("-outcomes.md"))) {
  const agent = file.replace("-outcomes.md", "");
  const dir = `tests/fixtures/transcripts/${agent}/`;
  const text = readFileSync(`tests/golden/${file}`, "utf8");
  const named = new Set();
  const lines = text.split("\n").map((line) => {
    if (!ROW.test(line)) return line;
    const want = cells(line);
    named.add(want[0]);
    const events = replay(agent, dir + want[0], want[1]);
    const end = events.at(-1);
    const got = rowOf(want[0], String(end.signal === null ? end.exit_code : -end.signal), end);
    if (update) return `| ${got.join(" | ")} |`;
    ok(got.join("|") === want.join("|"), `${agent}: ${got.join(" | ")}`);
    ok(
      events.every((event, i) => i === 0 || event.seq === events[i - 1].seq + 1),
      `${agent}/${want[0]}: seq has no gap`,
    );
    return line;
  });
  const missing = readdirSync(dir).filter(
    (name) => /\.(jsonl?|txt)$/.test(name) && !/\.std(err|in)\.txt$/.test(name) && !named.has(name),
  );
  ok(missing.length === 0, `${agent}: every transcript has a row ${missing.join(" ")}`);
  if (update) writeFileSync(`tests/golden/${file}`, lines.join("\n"));
}
done();
