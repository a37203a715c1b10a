/**
 * Every row of the error tables in docs/reference/AGENT-EVENTS.md has a golden, every type of its tables of events stands in one, and
 * every dialect has one of broken input. Prints TAP.
 * A row names its transcripts in its last cell: `name`, `name-*`, or `, -suffix` for the name before with a suffix.
 * A golden stands for a transcript when it has its name or replays its fixture. usage: rows.mjs
 */
import { readdirSync, readFileSync } from "node:fs";
import { basename, extname } from "node:path";
import { done, ok } from "../tap.mjs";

const SECTIONS = { "Claude Code": "claude-code", "Codex CLI": "codex", "Gemini CLI": "gemini", OpenCode: "opencode" };
/** Rows that name no transcript but a log. */
const ALIAS = { "logs/orphans.txt": "kill-group" };

/** agent → names that its goldens stand for */
const goldens = new Map(Object.values(SECTIONS).map((agent) => [agent, new Set()]));
/** agent → types of events in the inputs of its goldens, as the tables write them */
const types = new Map([...goldens.keys()].map((agent) => [agent, new Set()]));

/** `type`, and `type / what tells it apart`. */
function typesOf(line) {
  let event;
  try {
    event = JSON.parse(line);
  } catch {
    return [];
  }
  const { type, subtype, item, role, status, request } = event ?? {};
  const kinds = [subtype, event?.event?.type, item?.type, role, status, request?.subtype];
  return [type, ...kinds.filter((kind) => typeof kind === "string").map((kind) => `${type} / ${kind}`)];
}

for (const file of readdirSync("tests/golden", { recursive: true }).filter((name) => name.endsWith(".md"))) {
  const text = readFileSync(`tests/golden/${file}`, "utf8");
  const agent = /^agent: *(.*)$/m.exec(text)?.[1];
  if (!/^```events\n[^`]/m.test(text) || !goldens.has(agent)) continue;
  goldens.get(agent).add(basename(file, ".md"));
  const fixture = /^fixture: *(.*)$/m.exec(text)?.[1];
  if (fixture !== undefined) goldens.get(agent).add(basename(fixture, extname(fixture)));
  const input =
    fixture !== undefined ? readFileSync(fixture, "utf8") : (/^```jsonl\n([\s\S]*?)^```$/m.exec(text)?.[1] ?? "");
  for (const type of input.split("\n").flatMap(typesOf)) types.get(agent).add(type);
}

function namesOf(cell) {
  const names = [];
  for (const name of cell.split(",").map((one) => one.trim())) {
    names.push(name.startsWith("-") ? `${names.at(-1)}${name}` : (ALIAS[name] ?? name));
  }
  return names;
}

let agent;
let inTable = false;
let inTypes = false;
let events = 0;
const rows = new Map([...goldens.keys()].map((name) => [name, 0]));
for (const line of readFileSync("docs/reference/AGENT-EVENTS.md", "utf8").split("\n")) {
  const section = /^## \d+\. (.*?) [\d.]+$/.exec(line)?.[1];
  if (section !== undefined) agent = SECTIONS[section];
  if (/^\| situation \|.*\| transcript \|$/.test(line)) {
    inTable = true;
    continue;
  }
  if (line.startsWith("| event | seen |")) {
    inTypes = true;
    continue;
  }
  if (!line.startsWith("|")) inTable = inTypes = false;
  const type = inTypes ? /^\| `([^`]+)` \|/.exec(line)?.[1] : undefined;
  if (type !== undefined) {
    events++;
    ok(types.get(agent).has(type), `${agent}: event ${type}`);
    continue;
  }
  if (!inTable || line.startsWith("| ---") || line.startsWith("|---")) continue;
  const cells = line
    .split("|")
    .slice(1, -1)
    .map((cell) => cell.trim());
  rows.set(agent, rows.get(agent) + 1);
  for (const name of namesOf(cells.at(-1))) {
    const has = [...goldens.get(agent)].some((one) =>
      name.endsWith("*") ? one.startsWith(name.slice(0, -1)) : one === name,
    );
    ok(has, `${agent}: ${cells[0]}: ${name}`);
  }
}
ok(events > 50, `${events} types of events were read`);
for (const [name, n] of rows) ok(n >= 6, `${name}: ${n} rows were read`);
for (const [name, has] of goldens) ok(has.has("broken"), `${name}: broken input`);
done();
