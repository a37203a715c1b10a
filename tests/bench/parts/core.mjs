/** The core: size, start, and parsing against JavaScript doing the same job in the same process. */
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "../../../scripts/local.mjs";
import { build, quantile, timed } from "../measure.mjs";

export default async function core(put) {
  const wasm = readFileSync(build("core.wasm"));
  put("wasm_bytes", wasm.length);
  const module = new WebAssembly.Module(wasm);
  put("instantiate_ms", quantile(await timed(200, () => new WebAssembly.Instance(module, {})), 0.5));

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
}
