/** The module as the host meets it: exports, imports, memory, descriptor, bad calls at the boundary. Prints TAP. */
import { readFileSync, statSync } from "node:fs";
import { Core } from "../diff/core.mjs";
import { done, ok } from "../tap.mjs";

const [wasm = "build/core.wasm"] = process.argv.slice(2);
const lines = (path) =>
  readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => line !== "");
const module = new WebAssembly.Module(readFileSync(wasm));
const exports = WebAssembly.Module.exports(module)
  .map((e) => `${e.name} ${e.kind}`)
  .sort();
const imports = WebAssembly.Module.imports(module)
  .map((e) => `${e.module} ${e.name} ${e.kind}`)
  .sort();
ok(JSON.stringify(exports) === JSON.stringify(lines("wasm/abi/exports.txt")), `exports: ${exports.join(", ")}`);
ok(
  JSON.stringify(imports) === JSON.stringify(lines("wasm/abi/imports.txt")),
  `imports: ${imports.join(", ") || "none"}`,
);
const guard = new WebAssembly.Module(readFileSync(wasm.replace("core.wasm", "guard.wasm")));
const guardExports = WebAssembly.Module.exports(guard).map((e) => `${e.name} ${e.kind}`);
ok(
  guardExports.sort().join() === "_initialize function,csn_abi function,csn_ask function,memory memory",
  `exports of the guard: ${guardExports.join(", ")}`,
);
ok(WebAssembly.Module.imports(guard).length === 0, "the guard imports nothing");
const transcript = new WebAssembly.Module(readFileSync(wasm.replace("core.wasm", "transcript.wasm")));
const transcriptExports = WebAssembly.Module.exports(transcript).map((e) => `${e.name} ${e.kind}`);
ok(
  transcriptExports.sort().join() === "_initialize function,csn_abi function,csn_transcript function,memory memory",
  `exports of the transcript: ${transcriptExports.join(", ")}`,
);
ok(WebAssembly.Module.imports(transcript).length === 0, "the transcript imports nothing");
ok(statSync(wasm).size <= 150 * 1024, `${statSync(wasm).size} bytes`);

const ts = readFileSync("worker/src/core/abi.gen.ts", "utf8");
const constant = (name) => Number(ts.match(new RegExp(`\\b${name}: (-?\\d+)`))?.[1]);
const core = new Core(wasm);
const [magic, version, digest, inOff, inCap, outOff, outCap] = core.desc;
ok(
  magic === constant("magic") && version === constant("version") && digest === constant("digest"),
  "magic, version and digest are those of abi.gen.ts",
);
ok(inCap === constant("IN_CAP") && outCap === constant("OUT_CAP") && inOff % 8 === 0 && outOff % 8 === 0, "boxes");
const pages = core.x.memory.buffer.byteLength;
ok(pages <= 2.5 * 1024 * 1024, `${pages} bytes of memory`);
let grew = true;
try {
  core.x.memory.grow(1);
} catch {
  grew = false;
}
ok(!grew, "memory does not grow");

ok(
  core.x.csn_event(0) === -2 && core.x.csn_event(31) === -2 && core.x.csn_event(inCap + 8) === -2,
  "lengths out of range",
);
const len = core.write(14, {});
ok(core.x.csn_event(len + 8) === -2, "a size that is not the length");
core.inBox.writeUInt32LE(1, 16);
ok(core.x.csn_event(len) === -2, "a payload beyond the record");
ok(core.x.csn_event(-1 >>> 0) === -2, "a length of 2^32 - 1");
core.write(14, {});
ok(core.x.csn_feed(0, 1) === -2, "a feed without an OUTPUT record");
core.write(9, { id: 1, stream: 1 });
ok(
  core.x.csn_feed(inCap, 1) === -2 &&
    core.x.csn_feed(0, 65537) === -2 &&
    core.x.csn_feed(-1 >>> 0, -1 >>> 0) === -2 &&
    core.x.csn_feed(inCap - 32 - 7, 8) === -2,
  "feeds out of range",
);
ok(core.x.csn_feed(0, 1) === -3, "a feed without a session");
ok(
  core.x.csn_load(inCap + 1) === -2 && core.x.csn_load(0) === -4 && core.x.csn_load(7) === -4,
  "snapshots that are none",
);
ok(core.x.csn_init(len) === -2 || core.x.csn_init(0) === 0, "init");
core.write(0, {});
ok(core.x.csn_init(32) === 0 && core.x.csn_init(16) === -2, "an empty config record");
done();
