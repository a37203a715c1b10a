/**
 * Redaction: what is masked, held against encoders that are not ours, and the native tool against redact.wasm through its host.
 *
 * Property: whatever the chunking, no registered value is in what comes out, in no form that JSON.stringify, encodeURIComponent,
 * URLSearchParams, Buffer's base64 and hex make; length and every other byte stay; a text without secrets stays as it is.
 * Prints TAP.
 */
import { execFileSync, spawnSync } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { importBundled } from "../bundle.mjs";
import { scratch } from "../scratch.mjs";
import { insideBase64 } from "../secret-forms.ts";
import { done, ok } from "../tap.mjs";

const [tool = "build/caisson-redact", wasm = "build/redact.wasm", out = "build/redact-host.mjs"] =
  process.argv.slice(2);
const { Redactor } = await importBundled("worker/src/core/redact.ts", out);
const module = new WebAssembly.Module(readFileSync(wasm));
const dir = scratch("redact");

let seed = 20260801;
/** 0 … n-1, the same in every run. */
function random(n) {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return Math.floor((seed / 2 ** 32) * n);
}
const pick = (list) => list[random(list.length)];

const ALPHABETS = {
  token: [..."ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"],
  base64: [..."ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="],
  ascii: Array.from({ length: 94 }, (_, i) => String.fromCharCode(33 + i)).filter((c) => c !== "*"),
  unicode: [..."aβ中🔑é\"\\/<&>'\tz0\u2028\u2029 "],
};
function value(kind, length) {
  let text = "";
  while (Buffer.byteLength(text) < length) text += pick(ALPHABETS[kind]);
  return text.trim().padEnd(8, "x");
}
const unicode = (json, set) => json.replace(set, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
const ascii = (json) => json.replace(/[^\x20-\x7e]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
/** Every form that is promised. */
function formsOf(text) {
  const json = JSON.stringify(text).slice(1, -1);
  const slashed = json.replaceAll("/", "\\/");
  const twice = JSON.stringify(json).slice(1, -1);
  // encoding/json of Go: its own five, `'` as it is.
  const go = unicode(json, /[<>&\u2028\u2029]/g);
  const bytes = [...Buffer.from(text)];
  const full = (digits) => bytes.map((b) => `%${digits(b.toString(16).padStart(2, "0"))}`).join("");
  const lower = (s) => s.replace(/%[0-9A-F]{2}/g, (c) => c.toLowerCase());
  const forms = [
    text,
    json,
    slashed,
    ascii(json),
    ascii(json).replace(/\\u[0-9a-f]{4}/g, (c) => `\\u${c.slice(2).toUpperCase()}`),
    ascii(slashed),
    twice,
    JSON.stringify(slashed).slice(1, -1),
    JSON.stringify(ascii(json)).slice(1, -1),
    unicode(json, /[<>&']/g),
    go,
    JSON.stringify(go).slice(1, -1),
    encodeURIComponent(text),
    lower(encodeURIComponent(text)),
    encodeURI(text),
    new URLSearchParams({ k: text }).toString().slice(2),
    full((d) => d),
    full((d) => d.toUpperCase()),
    Buffer.from(text).toString("hex"),
    Buffer.from(text).toString("hex").toUpperCase(),
  ];
  for (const before of [0, 1, 2]) {
    forms.push(insideBase64(text, before));
    forms.push(insideBase64(text, before).replaceAll("+", "-").replaceAll("/", "_"));
  }
  return [...new Set(forms)];
}

/** The whole input through a stream of its own, in pieces that `cut` chooses. */
function inWasm(redactor, input, cut, valuesOnly = false) {
  const stream = redactor.open(valuesOnly);
  const parts = [];
  for (let at = 0; at < input.length; ) {
    const n = cut(input.length - at);
    parts.push(stream.push(input.subarray(at, at + n)));
    at += n;
  }
  parts.push(stream.flush());
  const found = stream.found();
  stream.close();
  return { bytes: Buffer.concat(parts), found };
}
const whole = (left) => left;
function redactorOf(values) {
  const redactor = new Redactor(module);
  for (const v of values) redactor.add(v);
  return redactor;
}
function inTool(values, input, chunk) {
  const file = join(dir, "values");
  writeFileSync(file, values.map((v) => `${v}\n`).join(""));
  return execFileSync(tool, ["--secrets", file, "--chunk", String(chunk)], {
    input,
    maxBuffer: 1 << 28,
    stdio: "pipe",
  });
}
/** What is wrong with an answer, or "". */
function fault(input, output, values) {
  if (output.length !== input.length) return `${output.length} bytes of ${input.length}`;
  for (let i = 0; i < input.length; i++)
    if (output[i] !== input[i] && (output[i] !== 0x2a || input[i] === 10 || input[i] === 13))
      return `byte ${i} changed`;
  const text = output.toString("latin1");
  for (const v of values)
    for (const form of formsOf(v))
      if (text.includes(Buffer.from(form).toString("latin1")))
        return `${JSON.stringify(form)} of ${JSON.stringify(v)} is left`;
  return "";
}

// Every split of every form, in short texts.
for (const kind of Object.keys(ALPHABETS)) {
  let wrong = "";
  for (let round = 0; round < 12 && wrong === ""; round++) {
    const values = [value(kind, 8 + random(12)), value(kind, 8 + random(40))];
    const redactor = redactorOf(values);
    for (const v of values) {
      for (const form of formsOf(v)) {
        const input = Buffer.from(`{"k":"a ${form} b"}\n`);
        const once = inWasm(redactor, input, whole).bytes;
        wrong ||= fault(input, once, values);
        for (let split = 1; split < input.length; split++) {
          let first = true;
          const cut = (left) => {
            const n = first ? split : left;
            first = false;
            return n;
          };
          if (!inWasm(redactor, input, cut).bytes.equals(once))
            wrong ||= `split at ${split} of ${JSON.stringify(form)}`;
        }
      }
    }
  }
  ok(wrong === "", `${kind}: no form of a value passes, wherever it is split ${wrong}`);
}

// Long texts: transcripts with secrets put anywhere, JSON lines that stay JSON.
const TRANSCRIPTS = "tests/fixtures/transcripts/claude-code/";
const lines = readdirSync(TRANSCRIPTS)
  .filter((f) => f.endsWith(".jsonl"))
  .flatMap((f) => readFileSync(TRANSCRIPTS + f, "utf8").split("\n"))
  .filter((line) => line !== "");
{
  const wrong = [];
  for (let round = 0; round < 20; round++) {
    const values = Array.from({ length: 1 + random(50) }, () =>
      value(pick(["token", "base64", "ascii"]), 8 + random(100)),
    );
    const planted = [];
    const text = Array.from({ length: 60 }, () => {
      const line = pick(lines);
      if (!line.startsWith("{") || random(2) === 0) return line;
      // Inside of a JSON string: what an agent prints of a tool's output.
      const v = pick(values);
      const form = pick([v, JSON.stringify(v).slice(1, -1), insideBase64(v, random(3)), encodeURIComponent(v)]);
      planted.push(form);
      return `{"planted":${JSON.stringify(`x ${form}\n`)},${line.slice(1)}`;
    });
    const input = Buffer.from(`${text.join("\n")}\n`);
    const redactor = redactorOf(values);
    const once = inWasm(redactor, input, whole);
    const why = fault(input, once.bytes, values);
    if (why !== "") wrong.push(why);
    const parses = once.bytes
      .toString()
      .split("\n")
      .every((line, i) => {
        try {
          return line === "" || JSON.parse(line) !== undefined;
        } catch {
          return !text[i]?.startsWith("{");
        }
      });
    if (!parses) wrong.push("a line is no JSON any more");
    const some = inWasm(redactor, input, (left) => Math.min(left, 1 + random(pick([3, 100, 70000]))));
    if (!some.bytes.equals(once.bytes) || JSON.stringify(some.found) !== JSON.stringify(once.found))
      wrong.push(`in pieces: ${JSON.stringify(some.found)} for ${JSON.stringify(once.found)}`);
    for (const chunk of [65536, 61])
      if (!inTool(values, input, chunk).equals(once.bytes)) wrong.push(`the native tool differs, pieces of ${chunk}`);
    if (planted.length > 0 && Object.keys(once.found).length === 0) wrong.push("nothing was found");
  }
  ok(
    wrong.length === 0,
    `transcripts with secrets: masked, still JSON, the same in any pieces, natively and in wasm ${wrong.slice(0, 3).join("; ")}`,
  );
}
{
  const input = Buffer.from(`${lines.join("\n")}\n`);
  const values = Array.from({ length: 50 }, () => value("token", 40));
  const { bytes, found } = inWasm(redactorOf(values), input, whole);
  ok(
    bytes.equals(input) && Object.keys(found).length === 0,
    `${input.length} bytes of transcripts without secrets stay as they are ${JSON.stringify(found)}`,
  );
}

// Shapes, against regular expressions.
{
  const CLASS = {
    ALNUM: "A-Za-z0-9",
    DIGIT: "A-Za-z0-9",
    WORD: "A-Za-z0-9_",
    SLUG: "A-Za-z0-9_-",
    UPPER: "A-Z0-9",
    DOT: "A-Za-z0-9_.-",
    B64: "A-Za-z0-9+/=",
  };
  const shapes = execFileSync(tool, ["--shapes"], { encoding: "utf8" })
    .trim()
    .split("\n")
    .map((line) => line.split("\t"));
  const redactor = redactorOf([]);
  const wrong = [];
  for (const [prefix, name, min] of shapes) {
    const klass = CLASS[name];
    if (klass === undefined) continue;
    const letters = Array.from({ length: 94 }, (_, i) => String.fromCharCode(33 + i)).filter((c) =>
      new RegExp(`[${klass}]`).test(c),
    );
    for (const length of [Number(min) - 1, Number(min), Number(min) + 20]) {
      let body = "";
      while (body.length < length) body += pick(letters);
      if (name === "DIGIT") body = `7${body.slice(1)}`;
      // Behind it a byte that is of no class.
      const text = `key: ${prefix}${body} end`;
      const expected = length < Number(min) ? text : `key: ${"*".repeat(prefix.length + length)} end`;
      const got = inWasm(redactor, Buffer.from(text), (left) => Math.min(left, 1 + random(5))).bytes.toString();
      // A body may hold another shape by chance.
      if (got !== expected && !shapes.some(([other]) => body.includes(other))) wrong.push(`${text} → ${got}`);
    }
  }
  ok(
    wrong.length === 0,
    `${shapes.length} shapes: from the least length on, to the end of the class ${wrong.slice(0, 2).join("; ")}`,
  );
}

{
  const shapes = execFileSync(tool, ["--shapes"], { encoding: "utf8" });
  const documented = [
    ...readFileSync("docs/SECURITY.md", "utf8").matchAll(/^\| `([^`]+)` \| (\d+) \| ([A-Z0-9]+) \|/gm),
  ]
    .map(([, prefix, min, name]) => `${prefix}\t${name}\t${min}\n`)
    .join("");
  ok(documented === shapes, "docs/SECURITY.md lists the shapes");
}

{
  const statusOf = (...args) => spawnSync(tool, args, { input: "" }).status;
  const statuses = [
    statusOf("--help"),
    statusOf("--nonsense"),
    statusOf("--chunk", "0"),
    statusOf("--secrets", join(dir, "none")),
  ];
  ok(statuses.join() === "0,64,64,66", `exit statuses: ${statuses}`);
}

// The host.
{
  const redactor = redactorOf([" \n correct horse battery \n"]);
  ok(
    redactor.text("a correct horse battery b") === `a ${"*".repeat(21)} b`,
    "white space around a value does not count",
  );
  ok(redactor.text("plain ä\ud800") === "plain ä\ud800", "a text without secrets is the same string");
  const errors = ["1234567", "x".repeat(4097)].map((v) => {
    try {
      redactor.add(v);
      return "added";
    } catch (error) {
      return error.errName;
    }
  });
  ok(errors.join() === "BAD_VALUE,TOO_LONG", `values out of bounds: ${errors}`);
  const open = Array.from({ length: 8 }, () => redactor.open());
  let refused = false;
  try {
    redactor.open();
  } catch (error) {
    refused = error.errName === "AGAIN";
  }
  for (const stream of open) stream.close();
  ok(
    refused && redactor.text("x correct horse battery").endsWith("*"),
    "eight streams at once, and again when they are closed",
  );
  const a = redactor.open();
  const b = redactor.open();
  const parts = [a.push(Buffer.from("1 correct hor")), b.push(Buffer.from("2 correct ho"))];
  parts.push(a.push(Buffer.from("se battery")), b.push(Buffer.from("rn")), a.flush(), b.flush());
  ok(
    Buffer.concat(parts.filter((_, i) => i % 2 === 0)).toString() === `1 ${"*".repeat(21)}` &&
      Buffer.concat(parts.filter((_, i) => i % 2 === 1)).toString() === "2 correct horn",
    "streams do not mix",
  );
  const names = WebAssembly.Module.exports(module)
    .map((e) => e.name)
    .sort();
  ok(
    names.join() ===
      "_initialize,csn_abi,csn_redact_add,csn_redact_begin,csn_redact_begun,csn_redact_flush,csn_redact_found,csn_redact_push,csn_redact_release,memory",
    `exports: ${names}`,
  );
  ok(WebAssembly.Module.imports(module).length === 0, "the module imports nothing");
  const { exports } = new WebAssembly.Instance(module, {});
  exports._initialize();
  exports.csn_abi();
  const bad = [
    exports.csn_redact_push(8, 1),
    exports.csn_redact_push(0, 65537),
    exports.csn_redact_begin(-1, 0),
    exports.csn_redact_begin(0, 2),
    exports.csn_redact_add(-1),
    exports.csn_redact_flush(8),
    exports.csn_redact_release(8),
  ];
  ok(
    bad.every((rc) => rc === -2) &&
      exports.csn_redact_found(8, 0) === 0 &&
      exports.csn_redact_found(0, 6) === 0 &&
      exports.csn_redact_begun(8) === 0,
    `numbers out of range: ${bad}`,
  );
  ok(
    readFileSync(wasm).length <= 150 * 1024 && exports.memory.buffer.byteLength <= 3 * 1024 * 1024,
    `${readFileSync(wasm).length} bytes, memory of ${exports.memory.buffer.byteLength}`,
  );
}
done();
