/**
 * What is measured against each other, the same code in Node and inside workerd. Every contender reads the whole input in
 * chunks of 64 KiB, as a stream comes, and answers what it saw, so that it can be checked that they did the same.
 *
 *   javascript  `TextDecoder` stream + `split("\n")` + `JSON.parse` + reading every text that the dialect's table names
 *   parse       the core's tokenizer: copy into wasm memory, validation, captures, reading the same texts
 *   normalize   the core as the Worker uses it: `Core.feed`, every event read back as a string
 *   rewrite     `javascript` that makes the same events of Gemini's lines as `normalize` does, and writes them as JSON
 */
import { Core } from "../../../worker/src/core/core.ts";
import { geminiNormalizer } from "./gemini.mjs";
import { readers } from "./readers.gen.mjs";

const CHUNK = 65_536;
export const AGENTS = { "claude-code": 1, codex: 3, gemini: 4, opencode: 5 };

/** seq of the first event that comes of a line: the session and its run have had theirs. */
const FIRST_SEQ = 6;

/** Reads of every event what the Worker stores of it. `keep`: gets their texts, to be compared. */
function look(effects, seen, keep) {
  for (const effect of effects) {
    if (effect.kind !== "event") continue;
    seen.events += 1;
    seen.chars += effect.json.length;
    seen.sum += effect.seq + effect.timeMs + effect.run + effect.type.length;
    if (keep !== undefined) keep.push(effect.json);
  }
}

export function contenders(modules, inputs) {
  const { exports: bench } = new WebAssembly.Instance(modules.bench, {});
  bench._initialize();
  const box = new Uint8Array(bench.memory.buffer, bench.in(), CHUNK);
  const core = new Core(modules.core);
  const running = {};
  /** Makes the core one whose first run of the agent has just started. */
  function start(agent) {
    if (running[agent] === undefined) {
      const run = '{"prompt":"-"}';
      const fresh = new Core(modules.core);
      fresh.event({ kind: "CREATE", payload: JSON.stringify({ agent }) }, 1);
      fresh.event({ kind: "SANDBOX_READY" }, 1);
      fresh.event({ kind: "RUN", payload: run }, 1);
      fresh.event({ kind: "RUN_LOADED", id: 1, payload: run }, 1);
      fresh.event({ kind: "RUN_STARTED", id: 1 }, 1);
      running[agent] = fresh.save();
    }
    core.load(running[agent]);
  }
  return {
    javascript(name) {
      const { agent, bytes } = inputs[name];
      const read = readers[agent];
      const decoder = new TextDecoder();
      const seen = { lines: 0, fields: 0, sum: 0 };
      let rest = "";
      for (let at = 0; at < bytes.length; at += CHUNK) {
        const lines = (rest + decoder.decode(bytes.subarray(at, at + CHUNK), { stream: true })).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          if (line === "") continue;
          read(JSON.parse(line), seen);
          seen.lines += 1;
        }
      }
      return { lines: seen.lines, fields: seen.fields };
    },
    parse(name) {
      const { agent, bytes } = inputs[name];
      bench.reset(AGENTS[agent]);
      for (let at = 0; at < bytes.length; at += CHUNK) {
        const chunk = bytes.subarray(at, at + CHUNK);
        box.set(chunk);
        bench.parse(chunk.length);
      }
      return { lines: bench.lines(), fields: bench.fields() };
    },
    normalize(name, keep) {
      const { agent, bytes } = inputs[name];
      start(agent);
      const seen = { events: 0, chars: 0, sum: 0 };
      for (let at = 0; at < bytes.length; at += CHUNK)
        look(core.feed(1, 1, bytes.subarray(at, at + CHUNK), 2), seen, keep);
      return seen;
    },
    rewrite(name, keep) {
      const { bytes } = inputs[name];
      const decoder = new TextDecoder();
      const normalize = geminiNormalizer(2, FIRST_SEQ);
      const seen = { events: 0, chars: 0, sum: 0 };
      let rest = "";
      for (let at = 0; at < bytes.length; at += CHUNK) {
        const lines = (rest + decoder.decode(bytes.subarray(at, at + CHUNK), { stream: true })).split("\n");
        rest = lines.pop();
        const events = [];
        for (const line of lines) if (line !== "") normalize(JSON.parse(line), events);
        look(events, seen, keep);
      }
      return seen;
    },
  };
}
