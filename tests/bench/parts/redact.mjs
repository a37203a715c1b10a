/**
 * Redaction in redact.wasm, in Node, through its host: 50 secrets, the big session's output in pieces as the Worker feeds them.
 * CPU time, the best of several rounds.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "../../../scripts/local.mjs";
import { importBundled } from "../../bundle.mjs";
import { build } from "../measure.mjs";

const SECRETS = 50;
const PIECE = 65_536;
const ROUNDS = 12;

export default async function redact(put) {
  const { Redactor } = await importBundled(join(ROOT, "worker/src/core/redact.ts"), build("bench/redact.mjs"));
  const wasm = readFileSync(build("redact.wasm"));
  const redactor = new Redactor(new WebAssembly.Module(wasm));
  for (let i = 0; i < SECRETS; i++) redactor.add(createHash("sha256").update(`${i}`).digest("base64"));
  const input = execFileSync("xz", ["-dc", join(ROOT, "tests/fixtures/bench/claude-code-big.jsonl.xz")], {
    maxBuffer: 1 << 28,
  });
  let best = Number.POSITIVE_INFINITY;
  for (let round = 0; round < ROUNDS; round++) {
    const stream = redactor.open();
    let length = 0;
    const before = process.threadCpuUsage();
    for (let at = 0; at < input.length; at += PIECE) length += stream.push(input.subarray(at, at + PIECE)).byteLength;
    length += stream.flush().byteLength;
    const { user, system } = process.threadCpuUsage(before);
    stream.close();
    if (length !== input.length) throw new Error(`${length} bytes of ${input.length}`);
    best = Math.min(best, (user + system) / 1e3);
  }
  put("redact_mb_s", input.length / 1e3 / best);
  put("redact_wasm_bytes", wasm.length);
}
