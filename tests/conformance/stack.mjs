/** Engine and test Worker for the conformance tests: one of each for the whole suite, more where a test needs its own. */
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { endGroup, engineVars, freePort, ROOT, startEngine, startWorker } from "../../scripts/local.mjs";

const PROJECT = import.meta.dirname;

/** A Worker of this project over `engine`; `name` makes it another Worker, with objects of its own. */
export async function openWorker({ dir, engine, vars = {}, name }) {
  const port = await freePort();
  const url = `http://localhost:${port}`;
  let config;
  if (name !== undefined) {
    // Beside the original: paths in it are relative.
    config = join(PROJECT, `.wrangler-${name}-${process.pid}.toml`);
    const original = readFileSync(join(PROJECT, "wrangler.toml"), "utf8");
    writeFileSync(config, original.replace(/^name = .*$/m, `name = "${name}"`));
  }
  const worker = await startWorker({
    dir,
    cwd: PROJECT,
    port,
    config,
    vars: { ...engineVars(engine, engine.token, url), ...vars },
  });
  return {
    url,
    port,
    child: worker.child,
    logPath: worker.logPath,
    async stop() {
      await worker.stop();
      if (config) rmSync(config, { force: true });
    },
  };
}

/** An engine of its own in `dir`; start it again on the same port with `port` and `token`. */
export async function openEngine({ dir, port = 0, token = randomBytes(32).toString("hex"), args }) {
  const engine = await startEngine({ dir, port, token, args });
  return { ...engine, token, stop: () => endGroup(engine.child, 5000) };
}

/** Both, with fresh state; close() ends them and removes the state. */
export async function openStack({ vars, name, engineArgs } = {}) {
  const dir = mkdtempSync(join(ROOT, "build", "conformance-"));
  const started = [];
  const close = async () => {
    for (const end of started.splice(0).reverse()) await end();
    if (!process.env.KEEP) rmSync(dir, { recursive: true, force: true });
  };
  try {
    const stack = { dir, close };
    stack.engine = await openEngine({ dir, args: engineArgs });
    started.push(() => stack.engine.stop());
    stack.worker = await openWorker({ dir: join(dir, "w"), engine: stack.engine, vars, name });
    started.push(() => stack.worker.stop());
    return stack;
  } catch (error) {
    await close();
    throw error;
  }
}

/** One call of the engine's own API. */
export async function engineApi(engine, method, path) {
  const response = await fetch(`http://127.0.0.1:${engine.port}/v1${path}`, {
    method,
    headers: { authorization: `Bearer ${engine.token}` },
    signal: AbortSignal.timeout(60_000),
  });
  return { status: response.status, body: await response.json() };
}

/** Live processes of this machine whose command line contains `text`. */
export function hostProcesses(text) {
  const out = spawnSync("ps", ["axo", "pid,stat,args"], { encoding: "utf8" }).stdout;
  return out.split("\n").filter((line) => line.includes(text) && !line.includes("ps axo") && !/^\s*\d+\s+Z/.test(line));
}

export const has = (program) =>
  spawnSync("sh", ["-c", `command -v ${program}`], { stdio: "ignore" }).status === 0 && existsSync("/usr/bin");
