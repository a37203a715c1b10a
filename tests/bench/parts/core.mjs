/**
 * The core: size, start, and its speed against JavaScript doing the same job in the same process, in Node and inside
 * workerd. What each contender does is told in ../core/contenders.mjs. Times are CPU times, so that other programs on the
 * machine do not count, and the best of several rounds in which the contenders take turns: in Node that of the thread, for
 * workerd that of the process, looked at from outside because its own clock stands still while a request computes.
 */
import { execFileSync, spawn } from "node:child_process";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { get } from "node:http";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { isDeepStrictEqual } from "node:util";
import { build as bundle } from "esbuild";
import workerd from "workerd";
import { ROOT } from "../../../scripts/local.mjs";
import { readerSource } from "../core/reader.mjs";
import { build, quantile, timed } from "../measure.mjs";

const AGENTS = { "claude-code": 1, codex: 3, gemini: 4, opencode: 5 };
const ROUNDS = 5;
/** milliseconds */
const SAMPLE_MS = 200;
/** bytes: a small corpus is repeated until it is this long. */
const LONG = 4e6;

/** The input whose events JavaScript writes as well. */
const REWRITTEN = "gemini";

/** Throws unless JavaScript and the core make the same events of an input. */
function sameEvents(all, name) {
  const [want, got] = [[], []];
  all.rewrite(name, want);
  all.normalize(name, got);
  for (let i = 0; i < Math.max(want.length, got.length); i++)
    if (!isDeepStrictEqual(JSON.parse(want[i] ?? "null"), JSON.parse(got[i] ?? "null")))
      throw new Error(`${name}: event ${i} is ${want[i]} in JavaScript, ${got[i]} of the core`);
}

/** Whether a key stands twice in an object: JSON.parse gives the last value, the core sees both. */
function namesTwice(line) {
  const named = [...line.matchAll(/"(?:[^"\\]|\\.)*"\s*(:?)/g)].filter(([, colon]) => colon !== "").length;
  let kept = -1; // the reviver sees the whole, too
  JSON.parse(line, function count(_key, value) {
    if (!Array.isArray(this)) kept += 1;
    return value;
  });
  return named !== kept;
}

/** The big session, and every transcript of each dialect one after another, without the lines that say a thing twice. */
function load() {
  const inputs = {
    big: {
      agent: "claude-code",
      bytes: execFileSync("xz", ["-dc", join(ROOT, "tests/fixtures/bench/claude-code-big.jsonl.xz")], {
        maxBuffer: 1 << 28,
      }),
    },
  };
  for (const agent of Object.keys(AGENTS)) {
    const dir = join(ROOT, "tests/fixtures/transcripts", agent);
    const all = readdirSync(dir).filter((f) => f.endsWith(".jsonl"));
    const lines = all.flatMap((f) => readFileSync(join(dir, f), "utf8").split("\n"));
    const one = Buffer.from(
      lines
        .filter((line) => line !== "" && !namesTwice(line))
        .join("\n")
        .concat("\n"),
    );
    inputs[agent] = { agent, bytes: Buffer.concat(Array(Math.ceil(LONG / one.length)).fill(one)) };
  }
  return inputs;
}

/** Best time of each contender in milliseconds; all of them in every round. */
async function race(runs) {
  const best = runs.map(() => Number.POSITIVE_INFINITY);
  for (let round = 0; round <= ROUNDS; round++) {
    for (const [i, run] of runs.entries()) {
      const ms = await run();
      if (round > 0) best[i] = Math.min(best[i], ms); // the first one warms up
    }
  }
  return best;
}

/** Writes what the bundle imports and bundles the contenders for Node and for workerd. */
async function prepare(inputs) {
  const out = build("bench");
  mkdirSync(out, { recursive: true });
  const bench = readFileSync(build("bench.wasm"));
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bench), {});
  exports._initialize();
  const readers = Object.entries(AGENTS).map(([agent, number]) => {
    const table = Buffer.from(exports.memory.buffer, exports.in(), exports.describe(number)).toString();
    return `${JSON.stringify(agent)}: ${readerSource(table)}`;
  });
  writeFileSync(join(out, "readers.gen.mjs"), `export const readers = {\n${readers.join(",\n")}\n};\n`);
  const names = Object.keys(inputs);
  writeFileSync(
    join(out, "inputs.gen.mjs"),
    `${names.map((name, i) => `import d${i} from "./${name}.bin";`).join("\n")}\nexport const inputs = {${names
      .map((name, i) => `${JSON.stringify(name)}: { agent: "${inputs[name].agent}", bytes: new Uint8Array(d${i}) }`)
      .join(", ")}};\n`,
  );
  const common = {
    bundle: true,
    format: "esm",
    outdir: out,
    outExtension: { ".js": ".mjs" },
    logLevel: "error",
    external: ["*.wasm", "*.bin", "node:*"],
    plugins: [
      {
        name: "generated",
        setup: (b) => b.onResolve({ filter: /\.gen\.mjs$/ }, ({ path }) => ({ path: join(out, path) })),
      },
    ],
  };
  const source = (name) => join(ROOT, "tests/bench/core", name);
  await bundle({ ...common, entryPoints: [source("contenders.mjs"), source("worker.mjs")] });
  return out;
}

/** One request on a connection of its own: between two of them workerd may close one that is kept. */
function getJSON(url) {
  return new Promise((resolve, reject) => {
    get(url, { agent: false }, (answer) => {
      answer.setEncoding("utf8");
      let text = "";
      answer.on("data", (part) => {
        text += part;
      });
      answer.on("end", () => resolve(JSON.parse(text)));
    }).on("error", reject);
  });
}

/** CPU time in milliseconds of all threads of a process that are alive. */
function cpuMs(pid) {
  const dir = `/proc/${pid}/task`;
  let ns = 0;
  for (const task of readdirSync(dir)) ns += Number(readFileSync(`${dir}/${task}/schedstat`, "utf8").split(" ")[0]);
  return ns / 1e6;
}

async function inWorkerd(out, inputs) {
  const data = Object.entries(inputs).map(([name, { bytes }]) => {
    writeFileSync(join(out, `${name}.bin`), bytes);
    return `(name = "${name}.bin", data = embed "${name}.bin")`;
  });
  for (const name of ["bench.wasm", "core.wasm"]) copyFileSync(build(name), join(out, name));
  writeFileSync(
    join(out, "config.capnp"),
    `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .bench)],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")]);
const bench :Workerd.Worker = (
  modules = [(name = "worker.mjs", esModule = embed "worker.mjs"), (name = "bench.wasm", wasm = embed "bench.wasm"),
    (name = "core.wasm", wasm = embed "core.wasm"), ${data.join(", ")}],
  compatibilityDate = "2026-08-01", compatibilityFlags = ["nodejs_compat"]);
`,
  );
  const child = spawn(workerd.default ?? workerd, ["serve", "--control-fd=3", join(out, "config.capnp")], {
    stdio: ["ignore", "inherit", "inherit", "pipe"],
  });
  const port = await new Promise((resolve, reject) => {
    child.on("exit", (code) => reject(new Error(`workerd ended with ${code}`)));
    child.stdio[3].on("data", (line) => {
      const said = JSON.parse(line);
      if (said.event === "listen") resolve(said.port);
    });
  });
  const ask = async (what, input, n) => {
    const begun = cpuMs(child.pid);
    const seen = await getJSON(`http://127.0.0.1:${port}/?what=${what}&input=${input}&n=${n}`);
    return { ms: cpuMs(child.pid) - begun, seen };
  };
  /** Time of one run: what n more of them add. */
  const slope = async (what, input, n) => {
    const few = await ask(what, input, 1);
    const many = await ask(what, input, 1 + n);
    return (many.ms - few.ms) / n;
  };
  return { ask, slope, stop: () => child.kill() };
}

export default async function core(put) {
  const wasm = readFileSync(build("core.wasm"));
  put("wasm_bytes", wasm.length);
  const module = new WebAssembly.Module(wasm);
  put("instantiate_ms", quantile(await timed(200, () => new WebAssembly.Instance(module, {})), 0.5));

  const inputs = load();
  const out = await prepare(inputs);
  const { contenders } = await import(pathToFileURL(join(out, "contenders.mjs")));
  const all = contenders({ bench: new WebAssembly.Module(readFileSync(build("bench.wasm"))), core: module }, inputs);
  /** CPU time of one run, from as many as take SAMPLE_MS: the kernel's account of a running thread is a few ms behind. */
  const time = (what, name) => {
    const begun = performance.now();
    all[what](name);
    const n = Math.ceil(SAMPLE_MS / (performance.now() - begun));
    return () => {
      const before = process.threadCpuUsage();
      for (let i = 0; i < n; i++) all[what](name);
      const { user, system } = process.threadCpuUsage(before);
      return (user + system) / 1e3 / n;
    };
  };
  for (const [name, { bytes }] of Object.entries(inputs)) {
    const [want, got] = [all.javascript(name), all.parse(name)];
    if (want.lines !== got.lines || want.fields !== got.fields)
      throw new Error(`${name}: JavaScript read ${JSON.stringify(want)}, the core ${JSON.stringify(got)}`);
    const what = ["javascript", "parse", "normalize"];
    if (name === REWRITTEN) {
      sameEvents(all, name);
      what.push("rewrite");
    }
    const [js, parse, normalize, rewrite] = await race(what.map((w) => time(w, name)));
    const suffix = name === "big" ? "" : `_${name.replaceAll("-", "_")}`;
    put(`js_mb_s${suffix}`, bytes.length / 1e3 / js);
    put(`parse_mb_s${suffix}`, bytes.length / 1e3 / parse);
    put(`parse_ratio_node${suffix}`, js / parse);
    put(`normalize_ratio${suffix}`, js / normalize);
    if (rewrite !== undefined) put(`rewrite_ratio${suffix}`, rewrite / normalize);
  }

  const workerd = await inWorkerd(out, inputs);
  try {
    for (const name of Object.keys(inputs)) {
      const want = all.javascript(name);
      const { seen } = await workerd.ask("parse", name, 1);
      if (seen.fields !== want.fields) throw new Error(`${name}: workerd read ${JSON.stringify(seen)}`);
      const slopes = [
        () => workerd.slope("javascript", name, 4),
        () => workerd.slope("parse", name, 20),
        () => workerd.slope("normalize", name, 10),
      ];
      if (name === REWRITTEN) slopes.push(() => workerd.slope("rewrite", name, 4));
      const [js, parse, normalize, rewrite] = await race(slopes);
      const suffix = name === "big" ? "" : `_${name.replaceAll("-", "_")}`;
      put(`parse_ratio_workerd${suffix}`, js / parse);
      put(`normalize_ratio_workerd${suffix}`, js / normalize);
      if (rewrite !== undefined) put(`rewrite_ratio_workerd${suffix}`, rewrite / normalize);
    }
  } finally {
    workerd.stop();
  }
}
