/**
 * Replays the goldens (tests/golden, its directories but transcripts included) at chunk sizes 1..64 and whole, natively and through
 * core.wasm. usage: golden.mjs [caisson-events] [core.wasm] [replay] [--update]
 *
 * A golden names `agent:` and `exit:`, its input is a ```jsonl block (`\xNN` stands for that byte, `\*N(TEXT)` for
 * N times TEXT) or a line `fixture: PATH`, then perhaps a ```stderr block or a line `stderr: PATH`; its expectation is an ```events block:
 * one line per event, `@offset+length:flags json`. Plain text is passed on as it comes, so for `text: joined`
 * neighbouring pieces of one stream are joined first; a character that comes 200 times or more in a row is written as in the input.
 * `tools: JSON` names tool rules of a policy, which the stream is held against.
 * `--update` writes what the native tool prints into the events blocks; read the diff before you commit it.
 */
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join as joinPath } from "node:path";
import { Core, exitRecord, linesOf } from "../diff/core.mjs";
import { scratch } from "../scratch.mjs";
import { done, ok } from "../tap.mjs";

const args = process.argv.slice(2).filter((a) => !a.startsWith("--"));
const update = process.argv.includes("--update");
const [tool = "build/caisson-events", wasm = "build/core.wasm", replayer = ""] = args;
const work = scratch("golden");

function decoded(coded) {
  const text = coded.replace(/\\\*(\d+)\(([^)]*)\)/g, (_, n, what) => what.repeat(Number(n)));
  const parts = text.split(/\\x([0-9a-f]{2})/);
  return Buffer.concat(parts.map((part, i) => (i % 2 === 0 ? Buffer.from(part) : Buffer.from(part, "hex"))));
}

function parse(file) {
  const text = readFileSync(file, "utf8");
  const field = (name) => text.match(new RegExp(`^${name}: *(.*)$`, "m"))?.[1];
  const fixture = field("fixture");
  const block = text.match(/^```jsonl\n([\s\S]*?)^```$/m)?.[1] ?? "";
  const half = field("newline") === "none";
  const stderrFile = field("stderr");
  const stderr = stderrFile ? readFileSync(stderrFile) : decoded(text.match(/^```stderr\n([\s\S]*?)^```$/m)?.[1] ?? "");
  return {
    file,
    text,
    agent: field("agent") ?? "claude-code",
    exit: Number(field("exit") ?? 0),
    joined: field("text") === "joined",
    tools: field("tools"),
    input: fixture ? readFileSync(fixture) : decoded(half ? block.slice(0, -1) : block),
    stderr,
    errors: joinPath(work, "stderr"),
    output: joinPath(work, "stdout"),
    expect: text.match(/^```events\n([\s\S]*?)^```$/m)?.[1] ?? "",
  };
}

function native(golden, chunk) {
  const stderr = golden.stderr.length > 0 ? ["--stderr", golden.errors] : [];
  const tools = golden.tools === undefined ? [] : ["--tools", golden.tools];
  const out = execFileSync(
    tool,
    [
      ...tools,
      "--agent",
      golden.agent,
      "--exit-code",
      String(golden.exit),
      "--offsets",
      "--chunk",
      String(chunk),
      ...stderr,
    ],
    { input: golden.input, maxBuffer: 1 << 28 },
  );
  return out.toString();
}

/** The chunk sizes of 1..64 at which the native core says something else than for the whole stream. */
function wrongSizes(golden) {
  const stderr = golden.stderr.length > 0 || golden.tools !== undefined ? [golden.errors] : [];
  if (golden.tools !== undefined) stderr.push(golden.tools);
  return execFileSync(replayer, [golden.agent, exitRecord(golden.exit), "64", golden.output, ...stderr]).toString();
}

function inWasm(golden, chunk) {
  const core = new Core(wasm);
  const fx = core.begin(golden.agent).flatMap((answer) => answer.fx);
  if (golden.tools !== undefined) fx.push(...core.sure("SET_TOOLS", { payload: `{"tools":${golden.tools}}` }).fx);
  for (let at = 0; at < golden.input.length; at += chunk)
    fx.push(...core.feed(1, 1, golden.input.subarray(at, at + chunk)));
  for (let at = 0; at < golden.stderr.length; at += chunk)
    fx.push(...core.feed(2, 1, golden.stderr.subarray(at, at + chunk)));
  fx.push(...core.finish(golden.exit).flatMap((answer) => answer.fx));
  return linesOf(fx)
    .map((line) => `${line}\n`)
    .join("");
}

/** Writes a character that comes 200 times or more in a row as `\*N(c)`. */
function runs(out) {
  return out.replace(/([^\\()])\1{199,}/g, (run, c) => `\\*${run.length}(${c})`);
}

/** Joins neighbouring texts; numbers and offsets, which depend on the pieces, are left out. */
function join(out) {
  const joined = [];
  for (const line of out.trimEnd().split("\n")) {
    const { seq, time_ms, run, ...event } = JSON.parse(line.slice(line.indexOf("{")));
    if (event.type === joined.at(-1)?.type && event.text !== undefined) joined.at(-1).text += event.text;
    else joined.push(event);
  }
  return `${joined.map((event) => JSON.stringify(event)).join("\n")}\n`;
}

const CHUNKS = [65536, ...Array.from({ length: 64 }, (_, i) => i + 1)];
const names = readdirSync("tests/golden", { recursive: true }).filter(
  (name) => name.endsWith(".md") && !name.endsWith("-outcomes.md") && !name.startsWith("transcripts/"),
);
for (const name of names.sort()) {
  const golden = parse(`tests/golden/${name}`);
  writeFileSync(golden.errors, golden.stderr);
  writeFileSync(golden.output, golden.input);
  const shape = (out) => runs(golden.joined ? join(out) : out);
  if (update) {
    const block = `\`\`\`events\n${shape(native(golden, 65536))}\`\`\``;
    writeFileSync(
      golden.file,
      golden.text.replace(/^```events\n[\s\S]*?^```$/m, () => block),
    );
    continue;
  }
  const check = (where, replay, chunks) => {
    const wrong = chunks.filter((chunk) => shape(replay(golden, chunk)) !== golden.expect);
    ok(
      wrong.length === 0,
      `${name} ${where}, chunks of 1..64 bytes and whole`,
      wrong.length > 0 ? `wrong at chunk sizes ${wrong.slice(0, 8).join(" ")}\n${shape(replay(golden, wrong[0]))}` : "",
    );
  };
  const inOne = replayer !== "" && !golden.joined;
  check("native", native, inOne ? [65536] : CHUNKS);
  if (inOne) ok(wrongSizes(golden) === "", `${name} native, the chunk size does not matter`, wrongSizes(golden));
  check("wasm", inWasm, CHUNKS);
}
if (!update) done();
