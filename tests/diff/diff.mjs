/**
 * The same bytes through the native tool, the same built without SIMD, and core.wasm: the effect records must be the
 * same, byte for byte.
 * Corpus: every transcript and the seeds of the agent fuzzer, at several chunk sizes. Prints TAP.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { Core } from "./core.mjs";

const [tool = "build/caisson-events", wasm = "build/core.wasm", scalar = "build/scalar/caisson-events"] =
  process.argv.slice(2);
const sha256 = (parts) => parts.reduce((hash, part) => hash.update(part), createHash("sha256")).digest("hex");

function inWasm(agent, input, chunk) {
  const core = new Core(wasm);
  const parts = [];
  const event = (kind, id, payload) => {
    const r = core.event(kind, { id, payload });
    if (r.rc !== 0) throw new Error(`${kind}: ${r.rc}`);
    parts.push(r.raw);
  };
  const run = agent === "shell" ? '{"command":"true"}' : '{"prompt":"-"}';
  event("CREATE", 0, `{"agent":"${agent}"}`);
  event("SANDBOX_READY", 0, "");
  event("RUN", 0, run);
  event("RUN_LOADED", 1, run);
  event("RUN_STARTED", 1, "");
  for (let at = 0; at < input.length; at += chunk) {
    const piece = input.subarray(at, at + chunk);
    core.write(9, { id: 1, stream: 1, payload: piece });
    for (let off = 0; off < piece.length; ) {
      const used = core.x.csn_feed(off, piece.length - off);
      if (used <= 0) throw new Error(`csn_feed answered ${used}`);
      parts.push(core.drain().raw);
      off += used;
    }
  }
  event("RUN_EXIT", 1, '{"reason":"exited","exit_code":0,"signal":null}');
  event("COLLECTED", 1, "");
  return sha256(parts);
}

const list = (dir) =>
  readdirSync(dir)
    .filter((f) => !f.endsWith(".md"))
    .map((f) => dir + f)
    .sort();
const TRANSCRIPTS = "tests/fixtures/transcripts/";
const seeds = list("tests/fuzz/corpus/agent/");
let count = 0;
let failed = 0;
for (const agent of ["claude-code", "codex", "gemini", "opencode", "shell"]) {
  const files = [...list(`${TRANSCRIPTS}${agent === "shell" ? "claude-code" : agent}/`), ...seeds];
  for (const chunk of [65536, 4096, 61, 1]) {
    const wrong = [];
    for (const file of files) {
      const input = readFileSync(file);
      if (chunk === 1 && input.length > 20000) continue;
      const [native, plain] = [tool, scalar].map((path) =>
        sha256([
          execFileSync(path, ["--agent", agent, "--chunk", String(chunk), "--effects"], { input, maxBuffer: 1 << 28 }),
        ]),
      );
      if (native !== inWasm(agent, input, chunk) || native !== plain) wrong.push(file);
    }
    count++;
    if (wrong.length > 0) failed++;
    console.log(
      `${wrong.length === 0 ? "ok" : "not ok"} ${count} - ${agent}, chunks of ${chunk}: native, scalar and wasm agree on ${files.length} streams ${wrong.join(" ")}`,
    );
  }
}
console.log(`1..${count}`);
process.exit(failed > 0 ? 1 : 0);
