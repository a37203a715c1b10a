/**
 * Transcripts of recorded runs: what the native tool writes is compared with tests/golden/transcripts/NAME.md and NAME.json (made
 * readable), and with what transcript.wasm writes, byte for byte. `--update` writes the files; read the diff before you commit it.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { Core } from "../diff/core.mjs";

const FORMS = { json: 1, md: 2, summary: 3 };
/** agent/transcript → exit status of the recorded process. */
const VIEWS = {
  "claude-code/subagent": 0,
  "claude-code/thinking-parallel-tools": 0,
  "claude-code/perm-default-denied": 0,
  "claude-code/project-files": 0,
  "claude-code/err-529-forever": 1,
  "claude-code/err-max-turns": 1,
  "claude-code/kill-sigkill-during-tool": -9,
  "claude-code/large-output": 0,
  "codex/tools-gpt-5.5": 0,
  "codex/mcp": 0,
  "codex/err-401": 1,
  "gemini/success": 0,
  "gemini/denied-default-mode": 0,
  "opencode/success": 0,
  "opencode/err-401": 1,
};
const args = process.argv.slice(2).filter((a) => !a.startsWith("--"));
const update = process.argv.includes("--update");
const [tool = "build/caisson-events", wasm = "build/core.wasm"] = args;
let count = 0;
let failed = 0;
function ok(cond, name) {
  count++;
  if (!cond) failed++;
  console.log(`${cond ? "ok" : "not ok"} ${count} - ${name}`);
}

function native(agent, input, exit, form) {
  const args = ["--agent", agent, "--exit-code", String(exit), "--view", form];
  return execFileSync(tool, args, { input, maxBuffer: 1 << 28 });
}

/** The run's events as the core tells them, fed in pieces of an odd size. */
function eventsOf(agent, input, exit) {
  const core = new Core(wasm);
  const events = new Map();
  const keep = (fx) => {
    for (const f of fx) if (f.kind === "event" && f.event.run) events.set(f.event.seq, f.json);
  };
  const run = agent === "shell" ? '{"command":"true"}' : '{"prompt":"-"}';
  for (const [kind, id, payload] of [
    ["CREATE", 0, `{"agent":"${agent}"}`],
    ["SANDBOX_READY", 0, ""],
    ["RUN", 0, run],
    ["RUN_LOADED", 1, run],
    ["RUN_STARTED", 1, ""],
  ])
    keep(core.event(kind, { id, payload }).fx);
  for (let at = 0; at < input.length; at += 4099) keep(core.feed(1, 1, input.subarray(at, at + 4099)));
  const record = { reason: exit < 0 ? "signalled" : "exited", exit_code: exit < 0 ? null : exit, signal: exit < 0 ? -exit : null };
  keep(core.event("RUN_EXIT", { id: 1, payload: JSON.stringify(record) }).fx);
  keep(core.event("COLLECTED", { id: 1 }).fx);
  return events;
}

function inWasm(events, form) {
  const view = new Core(wasm.replace("core.wasm", "transcript.wasm"));
  view.transcript("OPEN", { code: FORMS[form] });
  for (const json of events.values()) view.transcript("EVENT", { payload: json });
  const pieces = [];
  for (let more = true, given = ""; more; ) {
    const { rc, fx } = view.transcript("NEXT", { payload: given });
    if (rc < 0) throw new Error(`view: ${rc}`);
    given = "";
    more = rc === 1;
    for (const f of fx) {
      if (f.kind === "transcript_text") pieces.push(f.payload);
      else if (f.kind === "transcript_want") given = events.get(f.id) ?? "";
    }
  }
  return Buffer.concat(pieces);
}

for (const [path, exit] of Object.entries(VIEWS)) {
  const [agent, name] = path.split("/");
  const input = readFileSync(`tests/fixtures/transcripts/${path}.jsonl`);
  const events = eventsOf(agent, input, exit);
  for (const form of Object.keys(FORMS)) {
    const out = native(agent, input, exit, form);
    const same = inWasm(events, form);
    ok((form === "summary" ? `${same}\n` : String(same)) === String(out), `${path}: transcript.wasm writes the same ${form}`);
    if (form === "summary") continue;
    const file = `tests/golden/transcripts/${agent}-${name}.${form}`;
    const text = form === "json" ? `${JSON.stringify(JSON.parse(out), null, 1)}\n` : String(out);
    if (update) writeFileSync(file, text);
    ok(existsSync(file) && readFileSync(file, "utf8") === text, `${path}: ${file}`);
  }
}
console.log(`1..${count}`);
process.exit(failed > 0 ? 1 : 0);
