#!/usr/bin/env node
/**
 * `make bench`: what a user waits for, and what the pieces cost. Prints a table and writes build/bench.json.
 * Times are milliseconds; each ratio is between two measurements of this same run.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT, startLocal } from "../../scripts/local.mjs";

const build = (name) => join(ROOT, "build", name);
const results = {};
const put = (key, value) => {
  results[key] = Math.round(value * 1000) / 1000;
  console.log(`${key.padEnd(28)} ${results[key]}`);
};

function quantile(times, q) {
  const sorted = [...times].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
}

async function timed(n, work) {
  const times = [];
  for (let i = 0; i < n; i++) {
    const begun = performance.now();
    await work(i);
    times.push(performance.now() - begun);
  }
  return times;
}

// The core: size, start, and parsing against JavaScript doing the same job in the same process.
const wasm = readFileSync(build("core.wasm"));
put("wasm_bytes", wasm.length);
const module = new WebAssembly.Module(wasm);
put("instantiate_ms", quantile(await timed(200, () => new WebAssembly.Instance(module, {})), 0.5));

const { readdirSync } = await import("node:fs");
const dir = join(ROOT, "tests/fixtures/transcripts/claude-code");
const lines = readdirSync(dir)
  .filter((f) => f.endsWith(".jsonl"))
  .map((f) => readFileSync(join(dir, f)));
const one = Buffer.concat(lines);
const input = Buffer.concat(Array.from({ length: Math.ceil(32e6 / one.length) }, () => one));
function javascript() {
  const decoder = new TextDecoder();
  let rest = "";
  let seen = 0;
  for (let at = 0; at < input.length; at += 65536) {
    const parts = (rest + decoder.decode(input.subarray(at, at + 65536), { stream: true })).split("\n");
    rest = parts.pop();
    for (const line of parts) if (line && JSON.parse(line).type) seen += 1;
  }
  return seen;
}
javascript();
const jsMs = quantile(await timed(3, javascript), 0.5);
put("js_parse_mb_s", input.length / 1e3 / jsMs);
const events = spawnSync(build("caisson-events"), ["--agent", "claude-code"], { input, maxBuffer: 1 << 30 });
if (events.status !== 0) throw new Error(events.stderr.toString());
const nativeMs = quantile(
  await timed(3, () => spawnSync(build("caisson-events"), ["--agent", "claude-code"], { input, maxBuffer: 1 << 30 })),
  0.5,
);
put("events_native_mb_s", input.length / 1e3 / nativeMs);
put("events_native_ratio", jsMs / nativeMs);

put("guest_bytes", statSync(build("caisson-guest")).size);
put("runner_bytes", statSync(build("caisson-run")).size);

// The whole path, over the real wrangler dev and the real engine. The floor is wrangler's own front: an empty route.
const state = mkdtempSync(join(ROOT, "build", "bench-"));
const begun = performance.now();
const local = await startLocal({ dir: state, port: 0, apiKey: null });
put("stack_start_ms", performance.now() - begun);
try {
  const post = async (path, body) => {
    const response = await fetch(local.url + path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${path}: ${response.status} ${text}`);
    return JSON.parse(text);
  };
  const floor = await timed(60, () =>
    fetch(`${local.url}/openapi.json`, { method: "HEAD" }).then((r) => r.arrayBuffer()),
  );
  put("floor_p50_ms", quantile(floor, 0.5));
  await post("/v1/execute", { language: "bash", code: "echo hi" });
  const cold = await timed(20, async () => {
    const answer = await post("/v1/execute", { language: "bash", code: "echo hi" });
    if (answer.stdout !== "hi\n") throw new Error(JSON.stringify(answer));
  });
  put("execute_cold_p50_ms", quantile(cold, 0.5));
  put("execute_cold_p95_ms", quantile(cold, 0.95));
  const session = await post("/v1/sessions", { agent: "shell" });
  await post(`/v1/sessions/${session.id}/exec`, { command: "true" });
  const warm = await timed(60, () => post(`/v1/sessions/${session.id}/exec`, { command: "true" }));
  put("exec_warm_p50_ms", quantile(warm, 0.5));
  put("exec_warm_p95_ms", quantile(warm, 0.95));
  put("exec_warm_floor_ratio", quantile(warm, 0.5) / quantile(floor, 0.5));
} finally {
  await local.stop();
  rmSync(state, { recursive: true, force: true });
}
writeFileSync(build("bench.json"), `${JSON.stringify(results, null, 2)}\n`);
console.log("written to build/bench.json");
