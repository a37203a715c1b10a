/**
 * Transcripts of recorded runs: what the native tool writes is compared with tests/golden/transcripts/NAME.md and NAME.json (made
 * readable), and with what transcript.wasm writes, byte for byte. `--update` writes the files; read the diff before you commit it.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { Core } from "../diff/core.mjs";
import { done, ok } from "../tap.mjs";

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

function native(agent, input, exit, form) {
  const args = ["--agent", agent, "--exit-code", String(exit), "--view", form];
  return execFileSync(tool, args, { input, maxBuffer: 1 << 28 });
}

/** The run's events as the core tells them, fed in pieces of an odd size. */
function eventsOf(agent, input, exit) {
  const core = new Core(wasm);
  const fx = core.begin(agent).flatMap((answer) => answer.fx);
  for (let at = 0; at < input.length; at += 4099) fx.push(...core.feed(1, 1, input.subarray(at, at + 4099)));
  fx.push(...core.finish(exit).flatMap((answer) => answer.fx));
  return new Map(fx.filter((f) => f.kind === "event" && f.event.run).map((f) => [f.event.seq, f.json]));
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
    ok(
      (form === "summary" ? `${same}\n` : String(same)) === String(out),
      `${path}: transcript.wasm writes the same ${form}`,
    );
    if (form === "summary") continue;
    const file = `tests/golden/transcripts/${agent}-${name}.${form}`;
    const text = form === "json" ? `${JSON.stringify(JSON.parse(out), null, 1)}\n` : String(out);
    if (update) writeFileSync(file, text);
    ok(existsSync(file) && readFileSync(file, "utf8") === text, `${path}: ${file}`);
  }
}
done();
