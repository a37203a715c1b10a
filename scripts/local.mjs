/**
 * The local stack: scripted model (when there is no key), sandbox engine, `wrangler dev`. One `startLocal` serves
 * `make demo`, `make dev`, the end-to-end tests and the benchmarks.
 */
import { spawn, spawnSync } from "node:child_process";
import { randomBytes, randomInt } from "node:crypto";
import { existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join, resolve } from "node:path";
import { loadScripts, startModel } from "./model/server.mjs";

export const ROOT = resolve(import.meta.dirname, "..");
const BUILD = join(ROOT, "build");
const WRANGLER = join(ROOT, "node_modules/.bin/wrangler");
/** What is not up by then, on the slowest machine, does not come up. */
const START_MS = 120_000;

/** A failure whose message is all that a user needs. */
export class LocalError extends Error {}

function need(path, make) {
  if (!existsSync(path)) throw new LocalError(`${path} is missing; run \`make ${make}\``);
  return path;
}

/** A port of 127.0.0.1 that nobody listens on. */
export async function freePort() {
  // Below the kernel's own range: wrangler listens on it seconds later, and any connection or listener of this machine
  // could have been given it meanwhile.
  for (let tries = 0; tries < 100; tries += 1) {
    const port = randomInt(20_000, 32_000);
    if (await portIsFree(port)) return port;
  }
  throw new LocalError("no free port between 20000 and 32000");
}

function portIsFree(port) {
  const server = createServer();
  return new Promise((done) => {
    server.once("error", () => done(false));
    server.listen(port, "127.0.0.1", () => server.close(() => done(true)));
  });
}

/** What the sandbox sees read-only under /opt/caisson. */
function binds() {
  const arch = process.arch === "arm64" ? "arm64" : "x64";
  const list = [
    [need(join(BUILD, "caisson-run"), "build"), "/opt/caisson/bin/caisson-run"],
    [need(join(ROOT, `node_modules/node-linux-${arch}/bin/node`), "build"), "/opt/caisson/bin/node"],
    [need(join(BUILD, "agents/claude-code/claude"), "build"), "/opt/caisson/bin/claude"],
  ];
  for (const name of OPTIONAL_AGENTS) {
    if (!hasAgent(name)) continue;
    list.push([join(BUILD, "agents", name, "node_modules"), `/opt/caisson/agents/${name}/node_modules`]);
    list.push([join(ROOT, "sandbox-sdk-shim/agents", name, name), `/opt/caisson/bin/${name}`]);
  }
  return list;
}

/** The agents that `make agents` installs. */
export const OPTIONAL_AGENTS = ["codex", "gemini", "opencode"];

/** Whether an optional agent is installed: the stamp of its whole installation is there. */
export function hasAgent(name) {
  return existsSync(join(BUILD, ".setup", `${name}.lock`)) && existsSync(join(BUILD, "agents", name, "node_modules"));
}

/** Starts a program in a group of its own that gets SIGTERM when this process dies, however it dies. */
function spawnBound(program, args, options) {
  return spawn("setpriv", ["--pdeathsig", "TERM", program, ...args], { ...options, detached: true });
}

/** Ends a process group: TERM, then KILL after `graceMs`. Resolves when it is gone. */
export async function endGroup(child, graceMs) {
  const send = (signal) => {
    try {
      process.kill(-child.pid, signal);
    } catch {
      // gone already
    }
  };
  // A leader that was killed leaves its group behind.
  if (child.exitCode !== null || child.signalCode !== null) return send("SIGKILL");
  const gone = new Promise((done) => child.once("exit", done));
  send("SIGTERM");
  const timer = setTimeout(() => send("SIGKILL"), graceMs);
  await gone;
  clearTimeout(timer);
  send("SIGKILL"); // what the leader left of its group
}

/** First line of a program's stdout, as JSON; its failure with the end of its log otherwise. */
function firstLine(child, what, logPath, ms) {
  return new Promise((done, fail) => {
    let text = "";
    const timer = setTimeout(() => fail(new LocalError(`${what} did not start in ${ms / 1000} s; see ${logPath}`)), ms);
    child.stdout.on("data", (data) => {
      text += data;
      const end = text.indexOf("\n");
      if (end >= 0) {
        clearTimeout(timer);
        done(JSON.parse(text.slice(0, end)));
      }
    });
    child.once("exit", (code, signal) => {
      clearTimeout(timer);
      const tail = readFileSync(logPath, "utf8").trimEnd().split("\n").slice(-8).join("\n");
      fail(new LocalError(`${what} ended (${signal ?? code}):\n${tail}`));
    });
  });
}

export async function startEngine({ dir, stateDir = join(dir, "engine"), port = 0, token, args: more = [] }) {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const tokenFile = join(dir, "engine.token");
  rmSync(tokenFile, { force: true });
  writeFileSync(tokenFile, token, { mode: 0o600 });
  const logPath = join(dir, "engine.log");
  const args = [
    "--port",
    String(port),
    "--token-file",
    tokenFile,
    "--state-dir",
    stateDir,
    "--guest",
    need(join(BUILD, "caisson-guest"), "build"),
    ...more,
  ];
  args.push("--templates", process.env.CAISSON_TEMPLATES || join(BUILD, "templates"));
  for (const [from, to] of binds()) args.push("--bind-ro", `${from}:${to}`);
  const child = spawnBound(need(join(BUILD, "caisson-engine"), "build"), args, {
    stdio: ["ignore", "pipe", openSync(logPath, "a")],
  });
  try {
    const ready = await firstLine(child, "the sandbox engine", logPath, START_MS);
    return { child, port: ready.port, logPath };
  } catch (error) {
    await endGroup(child, 5000);
    throw error;
  }
}

/** The variables by which a Worker at `url` finds the engine, and the engine the Worker. */
export function engineVars(engine, token, url) {
  return {
    CAISSON_ENGINE_URL: `http://127.0.0.1:${engine.port}`,
    CAISSON_ENGINE_TOKEN: token,
    CAISSON_WORKER_URL: url,
    SANDBOX_LOG_LEVEL: "error",
  };
}

/**
 * `wrangler dev` of the project in `cwd`, up when /health is well.
 *
 * dir      state and logs
 * vars     the Worker's variables
 * config   the configuration file, where it is not wrangler.toml
 * prepare  called with wrangler's environment before it starts
 * Returns {child, logPath, stop()}.
 */
export async function startWorker({ dir, cwd = ROOT, port, vars, config, prepare = () => {} }) {
  mkdirSync(dir, { recursive: true });
  // In a file of our own: a command line would show the keys to every user of the machine.
  const varsFile = join(dir, "worker.vars");
  rmSync(varsFile, { force: true });
  // The reader of such files does not undo an escaped quote.
  const lines = Object.entries(vars).map(([k, v]) => `${k}=${v.includes('"') ? `'${v}'` : JSON.stringify(v)}\n`);
  writeFileSync(varsFile, lines.join(""), { mode: 0o600 });
  let child;
  const stop = async () => {
    if (child) await endGroup(child, 5000);
    rmSync(varsFile, { force: true });
  };
  try {
    need(WRANGLER, "build");
    const env = {
      ...process.env,
      PATH: `${join(ROOT, "node_modules/.bin")}:${process.env.PATH}`,
      WRANGLER_SEND_METRICS: "false",
      WRANGLER_LOG_PATH: join(dir, "wrangler-logs"),
      // Its traces keep each URL whole, the queries of what sandboxes ask for included, and its explorer shows storage to
      // whoever reaches the port; the traces also cost more than what they trace: a synced transaction for each request.
      X_LOCAL_OBSERVABILITY: "false",
      X_LOCAL_EXPLORER: "false",
      NO_COLOR: "1",
    };
    for (const name of ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"]) delete env[name];
    prepare(env);
    const logPath = join(dir, "wrangler.log");
    const log = openSync(logPath, "a");
    const args = ["dev", "--port", String(port), "--ip", "127.0.0.1", "--inspector-port", String(await freePort())];
    args.push("--persist-to", join(dir, "worker"), "--env-file", varsFile, "--show-interactive-dev-session=false");
    if (config !== undefined) args.push("--config", config);
    child = spawnBound(WRANGLER, args, { cwd, env, stdio: ["ignore", log, log] });
    const deadline = Date.now() + START_MS;
    for (;;) {
      if (child.exitCode !== null || Date.now() > deadline) {
        const tail = readFileSync(logPath, "utf8").trimEnd().split("\n").slice(-15).join("\n");
        throw new LocalError(`wrangler dev did not come up; the end of ${logPath}:\n${tail}`);
      }
      try {
        const health = await fetch(`http://localhost:${port}/health`, { signal: AbortSignal.timeout(2000) });
        if (health.ok) break;
      } catch {
        // not listening yet
      }
      await new Promise((r) => setTimeout(r, 50));
    }
    return { child, logPath, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** Applies the D1 migrations once per state directory and set of migration files. */
function migrate(dir, env) {
  const source = join(ROOT, "worker/migrations");
  const stamp = join(dir, "migrations.done");
  const listing = spawnSync("sh", ["-c", "cat *.sql | cksum"], { cwd: source, encoding: "utf8" }).stdout;
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === listing) return;
  const run = spawnSync(
    WRANGLER,
    ["d1", "migrations", "apply", "INDEX", "--local", "--persist-to", join(dir, "worker")],
    {
      cwd: ROOT,
      env: { ...env, CI: "1" },
      encoding: "utf8",
      timeout: START_MS,
    },
  );
  if (run.status !== 0)
    throw new LocalError(`the D1 migrations failed (${run.error?.code ?? run.status}):\n${run.stdout}${run.stderr}`);
  writeFileSync(stamp, listing);
}

/**
 * Starts everything and waits until /health is well.
 *
 * dir      state and logs; kept between runs
 * port     of the Worker; 0 for any
 * vars     more Worker variables
 * engineDir where the sandboxes' files are
 * engineArgs more options of the engine
 * model    {fallback, paceMs, scriptsDir}; a scripted model is used for each vendor whose key is absent
 * apiKey   of Anthropic; null for the scripted model whatever the environment says
 * otherKeys {OPENAI_API_KEY, GEMINI_API_KEY}
 * Returns {url, dir, modelKind, modelLog, engine, stop()}; stop() ends all that was started.
 */
export async function startLocal({
  dir,
  port = 8787,
  vars = {},
  apiKey = process.env.ANTHROPIC_API_KEY,
  otherKeys = apiKey === null ? {} : process.env,
  model = {},
  engineDir = join(dir, "engine"),
  engineArgs = [],
  onStep = () => {},
}) {
  const started = [];
  const stop = async () => {
    for (const end of started.splice(0).reverse()) await end();
  };
  try {
    mkdirSync(dir, { recursive: true });
    if (port === 0) port = await freePort();
    else if (!(await portIsFree(port)))
      throw new LocalError(
        `port ${port} is in use; stop what listens there or choose another: make dev PORT=${port + 1}`,
      );

    const modelLog = [];
    const workerVars = { ...vars };
    const keys = {
      ANTHROPIC: apiKey,
      OPENAI: otherKeys.OPENAI_API_KEY,
      GEMINI: otherKeys.GEMINI_API_KEY,
    };
    if (apiKey && process.env.ANTHROPIC_BASE_URL && !vars.ANTHROPIC_UPSTREAM)
      workerVars.ANTHROPIC_UPSTREAM = process.env.ANTHROPIC_BASE_URL;
    onStep("starting the scripted model server");
    const scriptedKey = `sk-ant-scripted-${randomBytes(16).toString("hex")}`;
    const server = await startModel({
      scripts: loadScripts(model.scriptsDir ?? join(ROOT, "tests/fixtures/model-scripts")),
      fallback: model.fallback ?? "demo",
      paceMs: model.paceMs ?? 0,
      key: scriptedKey,
      log: (entry) => modelLog.push(entry),
    });
    started.push(() => server.close());
    for (const [vendor, key] of Object.entries(keys)) {
      workerVars[`${vendor}_API_KEY`] = key || scriptedKey;
      if (!key) workerVars[`${vendor}_UPSTREAM`] = `http://127.0.0.1:${server.port}`;
    }

    onStep("starting the sandbox engine");
    const token = randomBytes(32).toString("hex");
    const engine = await startEngine({ dir, stateDir: engineDir, token, args: engineArgs });
    started.push(() => endGroup(engine.child, 5000));

    onStep("starting wrangler dev");
    const url = `http://localhost:${port}`;
    Object.assign(workerVars, engineVars(engine, token, url));
    need(join(BUILD, "core.wasm"), "build");
    const worker = await startWorker({ dir, port, vars: workerVars, prepare: (env) => migrate(dir, env) });
    started.push(worker.stop);
    return {
      url,
      dir,
      port,
      modelKind: apiKey ? "real" : "scripted",
      modelKey: workerVars.ANTHROPIC_API_KEY,
      modelLog,
      engine: { ...engine, token },
      worker: worker.child,
      stop,
    };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** The files of a directory as the `files` of a session request. */
export function filesOf(dir) {
  const list = spawnSync(
    "find",
    [".", "-type", "f", "-not", "-path", "./.git/*", "-not", "-path", "./node_modules/*"],
    { cwd: dir, encoding: "utf8" },
  );
  return list.stdout
    .trim()
    .split("\n")
    .sort()
    .map((path) => ({
      path: path.slice(2),
      content: readFileSync(join(dir, path)).toString("base64"),
      encoding: "base64",
    }));
}

/** Server-sent events of a response, one {id, event, data} at a time. */
export async function* sse(response) {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of response.body) {
    text += decoder.decode(chunk, { stream: true });
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const fields = {};
      for (const line of text.slice(0, end).split("\n")) {
        const colon = line.indexOf(":");
        if (colon > 0) {
          const value = line.slice(colon + 1).replace(/^ /, "");
          const name = line.slice(0, colon);
          fields[name] = name in fields ? `${fields[name]}\n${value}` : value;
        }
      }
      text = text.slice(end + 2);
      if (fields.data !== undefined) yield fields;
    }
  }
}
