/**
 * The same bytes through the native tool, the same built without SIMD, and core.wasm: the effect records must be the
 * same, byte for byte.
 * Corpus: every transcript and the seeds of the dialects' fuzzers, at several chunk sizes. Prints TAP.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { done, ok } from "../tap.mjs";
import { Core } from "./core.mjs";

const [tool = "build/caisson-events", wasm = "build/core.wasm", scalar = "build/scalar/caisson-events"] =
  process.argv.slice(2);
const sha256 = (parts) => parts.reduce((hash, part) => hash.update(part), createHash("sha256")).digest("hex");

function inWasm(agent, input, chunk) {
  const core = new Core(wasm);
  const answers = core.begin(agent);
  for (let at = 0; at < input.length; at += chunk)
    answers.push(...core.feedParts(1, 1, input.subarray(at, at + chunk)));
  answers.push(...core.finish());
  return sha256(answers.map(({ raw }) => raw));
}

const list = (dir) =>
  readdirSync(dir)
    .filter((f) => !f.endsWith(".md"))
    .map((f) => dir + f)
    .sort();
const TRANSCRIPTS = "tests/fixtures/transcripts/";
const AGENTS = ["claude-code", "codex", "gemini", "opencode", "shell"];
const seeds = AGENTS.flatMap((agent) => list(`tests/fuzz/corpus/${agent}/`));
for (const agent of AGENTS) {
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
    ok(
      wrong.length === 0,
      `${agent}, chunks of ${chunk}: native, scalar and wasm agree on ${files.length} streams ${wrong.join(" ")}`,
    );
  }
}
done();
