/**
 * The JavaScript side of the code interpreter: cells in, output and results out.
 *
 * Started by the guest server as `node --input-type=module - caisson-interpreter` with this text on descriptor 0 and a
 * socket on descriptor 3. A line of JSON comes in for each cell, {"run": n, "code": text, "typescript": bool}. Out go
 * lines too: once `H {"version", "typescript"}`, then for each cell any number of `R n {format: value, ...}`, each of
 * which {"ack": true} answers, and one `D n` or `E n {"ename", "evalue", "traceback"}`.
 * What a cell prints goes to descriptors 1 and 2 and is no part of this. SIGINT interrupts a cell.
 *
 * Cells run in V8's own REPL mode, which the inspector offers: top-level await, const and let that a later cell may
 * declare again, and the value of the last expression, without a parser of ours.
 */
import { createHook } from "node:async_hooks";
import fs from "node:fs";
import { Session } from "node:inspector";
import * as nodeModule from "node:module";
import net from "node:net";
import path from "node:path";
import { pathToFileURL } from "node:url";
import util from "node:util";
import vm from "node:vm";

const TEXT_MAX = 1 << 20; // characters of a result's text
const RESULT_MAX = 12 << 20; // characters of one result, all its formats together
const TRACEBACK_MAX = 100_000; // characters
const FORMATS = {
  "text/html": "html",
  "text/markdown": "markdown",
  "image/svg+xml": "svg",
  "image/png": "png",
  "image/jpeg": "jpeg",
  "text/latex": "latex",
  "application/json": "json",
  "application/javascript": "javascript",
  "text/plain": "text",
};
const { stripTypeScriptTypes } = nodeModule;

// ---- messages ----

fs.closeSync(0);
fs.openSync("/dev/null", "r"); // the lowest free descriptor: 0
const channel = new net.Socket({ fd: 3, readable: true, writable: true });

function send(kind, run, body) {
  const parts = run === undefined ? [kind] : [kind, run];
  // JSON.stringify escapes only surrogates that have no other half: no characters, and not to be read back.
  if (body !== undefined)
    parts.push(JSON.stringify(body).replace(/(?<!\\)((?:\\\\)*)\\ud[89a-f][0-9a-f]{2}/g, "$1\\ufffd"));
  channel.write(`${parts.join(" ")}\n`);
}

// ---- results ----

function inspect(value) {
  try {
    const text = util.inspect(value, { depth: 8, maxArrayLength: 1000, maxStringLength: TEXT_MAX });
    return text.length > TEXT_MAX
      ? `${text.slice(0, TEXT_MAX)}\n... (${text.length - TEXT_MAX} more characters)`
      : text;
  } catch (error) {
    return `<inspect failed: ${error?.name ?? "error"}>`;
  }
}

function toJSON(value) {
  if (typeof value !== "object" || value === null) return undefined;
  const prototype = Object.getPrototypeOf(value);
  if (
    !Array.isArray(value) &&
    prototype !== Object.prototype &&
    prototype !== null &&
    typeof value.toJSON !== "function"
  )
    return undefined;
  const text = JSON.stringify(value);
  return text === undefined || text.length > RESULT_MAX ? undefined : JSON.parse(text);
}

function fromBundle(bundle) {
  const data = {};
  for (const [mime, content] of Object.entries(bundle ?? {}))
    if (mime in FORMATS)
      data[FORMATS[mime]] = content instanceof Uint8Array ? Buffer.from(content).toString("base64") : content;
  return data;
}

async function describe(value) {
  const data = {};
  try {
    const own = value?.[Symbol.for("Jupyter.display")]; // as in Deno: a method that gives {mime: content}
    if (typeof own === "function") Object.assign(data, fromBundle(await own.call(value)));
  } catch {
    // it has no richer form then
  }
  try {
    if (Object.keys(data).length === 0) data.json = toJSON(value);
  } catch {
    // circular, or a BigInt in it
  }
  data.text ??= inspect(value);
  return bounded(data);
}

function bounded(data) {
  const size = (name) =>
    typeof data[name] === "string" ? data[name].length : (JSON.stringify(data[name])?.length ?? 0);
  const names = Object.keys(data).sort((a, b) => size(b) - size(a));
  let total = names.reduce((n, name) => n + size(name), 0);
  for (const name of names) {
    if (total <= RESULT_MAX) break;
    total -= size(name);
    const note = `<${name} of ${size(name)} characters: more than a result may have>`;
    delete data[name];
    data.text ??= note;
  }
  return data;
}

// ---- imports: REPL mode runs scripts, which have none of their own ----

const IMPORT = "__caissonImport";
const STATIC =
  /import\s*(?:([\w$]+)\s*(,\s*)?)?(?:\*\s*as\s+([\w$]+)\s*|\{([^}]*)\}\s*)?(?:from\s*)?(["'])([^"'\n]+)\5[ \t]*(?:with\s*\{[^}]*\})?[ \t]*;?/y;
const BEFORE_REGEX = new Set(
  "return typeof case in of delete void throw new await yield else do instanceof".split(" "),
);

function bindings(match) {
  const [text, first, , namespace, named, , specifier] = match;
  const call = `await ${IMPORT}(${JSON.stringify(specifier)})`;
  const parts = (named ?? "")
    .split(",")
    .map((part) => part.trim().replace(/^type\s+/, ""))
    .filter(Boolean)
    .map((part) => part.replace(/\s+as\s+/, ": "));
  if (first !== undefined) parts.unshift(`default: ${first}`);
  let out = namespace !== undefined ? `const ${namespace} = ${call};` : "";
  if (parts.length > 0) out += `const { ${parts.join(", ")} } = ${call};`;
  if (out === "") out = `${call};`;
  return out + "\n".repeat(text.split("\n").length - 1);
}

/** The cell with import statements and import() made calls, and `export` taken off declarations. */
function withoutModuleSyntax(code) {
  if (!/\b(?:import|export)\b/.test(code)) return code;
  let out = "";
  let last = ""; // the last token that is no space or comment
  let depth = 0;
  const templates = []; // depth at which each open `${` closes
  let i = 0;
  const copy = (end) => {
    out += code.slice(i, end);
    i = end;
  };
  const until = (pattern, from) => {
    pattern.lastIndex = from;
    const found = pattern.exec(code);
    return found === null ? code.length : pattern.lastIndex;
  };
  const template = () => {
    const end = until(/(?:[^`\\$]|\\[\s\S]|\$(?!\{))*(?:`|\$\{)/y, i);
    if (code.slice(i, end).endsWith("${")) templates.push(depth);
    last = ")";
    copy(end);
  };
  while (i < code.length) {
    const c = code[i];
    const two = code.slice(i, i + 2);
    if (/\s/.test(c)) copy(i + 1);
    else if (two === "//") copy(until(/\n|$/g, i));
    else if (two === "/*") copy(until(/\*\/|$/g, i));
    else if (c === '"' || c === "'") {
      copy(until(c === '"' ? /"(?:[^"\\\n]|\\[\s\S])*(?:"|$)/y : /'(?:[^'\\\n]|\\[\s\S])*(?:'|$)/y, i));
      last = ")";
    } else if (c === "`") {
      copy(i + 1);
      template();
    } else if (c === "}" && templates.at(-1) === depth) {
      templates.pop();
      copy(i + 1);
      template();
    } else if (c === "/" && (last === "" || BEFORE_REGEX.has(last) || /^[^\w$)\]}]$/.test(last))) {
      copy(
        until(/\/(?:[^/\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+\/[a-z]*/y, i) === code.length
          ? i + 1
          : until(/\/(?:[^/\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+\/[a-z]*/y, i),
      );
      last = ")";
    } else if (/[\w$]/.test(c)) {
      const end = until(/[\w$]+/y, i);
      const word = code.slice(i, end);
      const rest = code.slice(end);
      if (word === "import" && last !== "." && /^\s*\(/.test(rest)) {
        out += IMPORT;
        i = end;
      } else if (word === "import" && depth === 0 && last !== ".") {
        STATIC.lastIndex = i;
        const found = STATIC.exec(code);
        if (found === null) copy(end);
        else {
          out += bindings(found);
          i += found[0].length;
        }
      } else if (word === "export" && depth === 0 && /^\s+(?:const|let|var|function|class|async)\b/.test(rest)) {
        out += "      ";
        i = end;
      } else copy(end);
      last = word;
    } else {
      if ("([{".includes(c)) depth++;
      if (")]}".includes(c)) depth--;
      last = c;
      copy(i + 1);
    }
  }
  return out;
}

// ---- the cells' world ----

const base = path.join(process.cwd(), "cell.js");
const hide = (name, value) =>
  Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false });
hide("require", nodeModule.createRequire(base));
hide("module", { exports: {} });
hide("exports", globalThis.module.exports);
hide("__dirname", process.cwd());
hide("__filename", base);
hide(
  IMPORT,
  (specifier, options) =>
    import(/^\.{0,2}\//.test(specifier) ? pathToFileURL(path.resolve(specifier)).href : specifier, options),
);
/** Shows values as results of the cell, in the richest form that they know. */
hide("display", async (...values) => {
  const run = current;
  for (const value of values) {
    send("R", run, await describe(value));
    // What is printed after an awaited display() must not overtake the result.
    await new Promise((done) => acks.push(done));
  }
});

// ---- running ----

const inspector = new Session();
inspector.connect();
let self; // the inspector's name of globalThis
inspector.post("Runtime.evaluate", { expression: "globalThis" }, (_, answer) => {
  self = answer.result.objectId;
});

/** The value itself of what the inspector describes. */
function handed(remote) {
  if (remote === undefined || (remote.type === "undefined" && remote.objectId === undefined)) return undefined;
  let got;
  hide(HANDOVER, (value) => {
    got = value;
  });
  const argument =
    remote.objectId !== undefined
      ? { objectId: remote.objectId }
      : remote.unserializableValue !== undefined
        ? { unserializableValue: remote.unserializableValue }
        : { value: remote.value };
  const functionDeclaration = `function (value) { this.${HANDOVER}(value); }`;
  inspector.post("Runtime.callFunctionOn", { functionDeclaration, objectId: self, arguments: [argument] });
  delete globalThis[HANDOVER];
  return got;
}
const HANDOVER = "__caissonHandover";

class Interrupted extends Error {
  name = "InterruptedError";
}
class Thrown {
  constructor(value, details) {
    this.value = value;
    this.details = details;
  }
}

const acks = []; // who waits for the answer to a result
let current; // number of the run under way
let count = 0;
let interrupt = () => {};
const onSignal = () => interrupt();
let evaluateNow;
// V8 ends the process when the promise of a cell is collected before it is settled, and a cell that was interrupted in an
// await never is. The first promise that is made while a cell starts is the cell's own: it is kept.
let cellPromise;
const abandoned = [];
const hook = createHook({
  init(_id, type, _trigger, resource) {
    if (type !== "PROMISE" || cellPromise !== undefined) return;
    cellPromise = resource;
    hook.disable();
  },
});
hide("__caissonGo", () => evaluateNow());
// SIGINT ends what runs inside, however it loops, with an exception.
const go = new vm.Script("__caissonGo()", { filename: "caisson" });

async function evaluate(source, name) {
  // As in other consoles, {a: 1} is an object and no block.
  let expression = source;
  if (/^\s*\{[\s\S]*\}\s*$/.test(source)) {
    try {
      new vm.Script(`(async () => (${source}\n))`);
      expression = `(${source}\n)`;
    } catch {
      // a block after all
    }
  }
  expression += `\n//# sourceURL=${name}`;
  const stopped = new Promise((_, fail) => {
    interrupt = () => fail(new Interrupted("Execution was interrupted"));
  });
  stopped.catch(() => {});
  const answered = new Promise((done, fail) => {
    evaluateNow = () => {
      cellPromise = undefined;
      hook.enable();
      inspector.post(
        "Runtime.evaluate",
        { expression, replMode: true, awaitPromise: true, objectGroup: "cell", silent: true },
        (error, answer) => (error ? fail(error) : done(answer)),
      );
      hook.disable();
    };
  });
  answered.catch(() => {});
  try {
    go.runInThisContext({ breakOnSigint: true });
  } catch (error) {
    if (error?.code === "ERR_SCRIPT_EXECUTION_INTERRUPTED") throw new Interrupted("Execution was interrupted");
    throw error;
  }
  const answer = await Promise.race([answered, stopped]);
  if (answer?.exceptionDetails !== undefined)
    throw new Thrown(handed(answer.exceptionDetails.exception), answer.exceptionDetails);
  const value = handed(answer?.result);
  // A promise as the last value is waited for: nobody wants to see "Promise { <pending> }".
  return typeof value?.then === "function" ? Promise.race([value, stopped]) : value;
}

/** The stack down to the last frame of a cell: what is below is this program. */
function userFrames(stack) {
  const lines = stack.split("\n");
  const at = lines.findLastIndex((line) => /^\s+at .*\bcell-\d+:\d+/.test(line));
  const first = lines.findIndex((line) => /^\s+at /.test(line));
  if (at >= 0) return lines.slice(0, at + 1);
  return first < 0 ? lines : lines.slice(0, first);
}

function failure(error, source) {
  const thrown = error instanceof Thrown ? error.value : error;
  const details = error instanceof Thrown ? error.details : undefined;
  try {
    if (typeof thrown !== "object" || thrown === null || typeof thrown.stack !== "string")
      return { ename: "Error", evalue: `Uncaught ${inspect(thrown)}`, traceback: [`Uncaught ${inspect(thrown)}`] };
    const traceback = userFrames(thrown.stack.slice(0, TRACEBACK_MAX));
    if (thrown instanceof SyntaxError && details !== undefined && !traceback.some((line) => /^\s+at /.test(line))) {
      const line = source.split("\n")[details.lineNumber];
      if (line !== undefined)
        traceback.push(`    ${line.slice(0, 500)}`, `    ${" ".repeat(Math.min(details.columnNumber, 500))}^`);
      traceback.push(`    at cell-${count}:${details.lineNumber + 1}:${details.columnNumber + 1}`);
    }
    if (thrown.cause instanceof Error) traceback.push(...userFrames(`Caused by: ${thrown.cause.stack}`));
    return { ename: String(thrown.name ?? "Error"), evalue: String(thrown.message ?? ""), traceback };
  } catch {
    return { ename: "Error", evalue: "(the error cannot be described)", traceback: [] };
  }
}

function javascriptOf(code) {
  try {
    return stripTypeScriptTypes(code, { mode: "strip" });
  } catch (error) {
    // Enums, namespaces and parameter properties are more than types.
    if (error?.code === "ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX") return stripTypeScriptTypes(code, { mode: "transform" });
    throw error;
  }
}

async function runCell(message) {
  current = message.run;
  count++;
  if (!process.listeners("SIGINT").includes(onSignal)) process.on("SIGINT", onSignal);
  let answer;
  let source = message.code;
  try {
    if (message.typescript) source = javascriptOf(source);
    source = withoutModuleSyntax(source);
    const value = await evaluate(source, `cell-${count}`);
    if (value !== undefined) {
      hide("_", value);
      send("R", message.run, await describe(value));
      acks.push(() => {});
    }
  } catch (error) {
    if (error instanceof Interrupted) abandoned.push(cellPromise);
    answer = failure(error, source);
  }
  interrupt = () => {};
  inspector.post("Runtime.releaseObjectGroup", { objectGroup: "cell" });
  if (answer === undefined) send("D", message.run);
  else send("E", message.run, answer);
}

const report = (error) => process.stderr.write(`Uncaught ${failure(error, "").traceback.join("\n")}\n`);
process.on("SIGINT", onSignal);
process.on("uncaughtException", report);
process.on("unhandledRejection", report);
process.removeAllListeners("warning");
process.on("warning", (warning) => {
  if (warning.name !== "ExperimentalWarning") process.stderr.write(`${warning.name}: ${warning.message}\n`);
});

let held = "";
channel.setEncoding("utf8");
channel.on("data", (text) => {
  held += text;
  for (let end = held.indexOf("\n"); end >= 0; end = held.indexOf("\n")) {
    const line = held.slice(0, end);
    held = held.slice(end + 1);
    const message = JSON.parse(line);
    if (message.ack) acks.shift()?.();
    else runCell(message);
  }
});
channel.on("close", () => process.exit(0));
channel.on("error", () => process.exit(0));
send("H", undefined, { version: `Node ${process.version}`, typescript: typeof stripTypeScriptTypes === "function" });
