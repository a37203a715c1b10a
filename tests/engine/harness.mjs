/** What the engine's tests share: a real engine on an ephemeral port, and callers for its API and the guest's. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { chmodSync, chownSync, copyFileSync, existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import http from "node:http";
import { basename, join, resolve } from "node:path";
import { scratch } from "../scratch.mjs";

export const BUILD = resolve(import.meta.dirname, "../../build");
export const NO_SESSION = "__DISABLE_SESSION__";
const NOBODY = 65534;
/** An engine that takes longer to begin or to end does not do so. */
const ENGINE_MS = 60_000;

export const sleep = (ms) => new Promise((r) => setTimeout(r, ms));

/** Waits until `good()`, looked at `tries` times 50 ms apart; else fails with `what`, a text or what makes one. */
export async function until(what, good, tries = 100) {
  for (let i = 0; i < tries; i += 1) {
    if (await good()) return;
    await sleep(50);
  }
  assert.fail(typeof what === "string" ? what : what());
}

/** One HTTP exchange on a connection of its own: {status, headers, body: Buffer}. */
export function exchange(port, method, path, { headers = {}, body, timeout = 60_000, onData } = {}) {
  return new Promise((done, fail) => {
    const req = http.request({ host: "127.0.0.1", port, method, path, headers, agent: false, timeout }, (res) => {
      const parts = [];
      res.on("data", (d) => {
        parts.push(d);
        onData?.(d, req);
      });
      res.on("end", () => done({ status: res.statusCode, headers: res.headers, body: Buffer.concat(parts) }));
      res.on("error", fail);
    });
    req.on("timeout", () => req.destroy(new Error(`${method} ${path}: no answer in ${timeout} ms`)));
    req.on("error", fail);
    req.end(body);
  });
}

/**
 * Starts an engine. `user`: "root" or "nobody"; binaries and state then stand in a directory that user can read.
 * `binds` are "SRC:DST" of read-only mounts; `wrap` is a command put before the engine's own, `args` are more options, `probe` puts the escape probe at
 * /opt/probe; `spares` is how many sandboxes it keeps ready, and it is waited for them. stop() ends it and removes its files.
 */
export async function startEngine({
  user = "root",
  binds = [],
  dir,
  keep = false,
  wrap = [],
  args: more = [],
  probe = false,
  spares,
} = {}) {
  const home = dir ?? scratch("engine");
  const bin = join(home, "bin");
  const ordinary = user === "nobody";
  mkdirSync(bin, { recursive: true });
  for (const name of ["caisson-engine", "caisson-guest", "caisson-run", "native/probe"]) {
    const from = join(BUILD, name);
    const to = join(bin, basename(name));
    if (existsSync(from) && !existsSync(to)) copyFileSync(from, to);
  }
  chmodSync(home, 0o755);
  if (ordinary) chownSync(home, NOBODY, NOBODY);
  const args = ["--token-file", join(home, "token"), "--state-dir", join(home, "state")];
  args.push("--guest", join(bin, "caisson-guest"), "--log-level", "debug", ...more);
  if (spares !== undefined) args.push("--spares", String(spares));
  for (const bind of probe ? [...binds, `${join(bin, "probe")}:/opt/probe`] : binds) args.push("--bind-ro", bind);
  const options = { stdio: ["ignore", "pipe", "pipe"], ...(ordinary ? { uid: NOBODY, gid: NOBODY } : {}), cwd: "/" };
  // It must not outlive a test run that crashes.
  const child = spawn("setpriv", ["--pdeathsig", "TERM", ...wrap, join(bin, "caisson-engine"), ...args], options);
  let log = "";
  child.stderr.on("data", (d) => {
    log += d;
  });
  const exited = new Promise((r) => child.once("exit", (code, signal) => r({ code, signal })));
  const port = await new Promise((done, fail) => {
    let text = "";
    const timer = setTimeout(() => {
      child.kill("SIGKILL");
      fail(new Error(`the engine is not ready after ${ENGINE_MS} ms: ${log}`));
    }, ENGINE_MS);
    child.stdout.on("data", (d) => {
      text += d;
      if (!text.includes("\n")) return;
      clearTimeout(timer);
      done(JSON.parse(text).port);
    });
    exited.then((end) => {
      clearTimeout(timer);
      fail(new Error(`engine ended ${JSON.stringify(end)}: ${log}`));
    });
  });
  const token = readFileSync(join(home, "token"), "utf8").trim();
  const engine = { child, port, token, home, exited, log: () => log };

  engine.api = async (method, path, body, headers = { authorization: `Bearer ${token}` }) => {
    const payload = body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body);
    const res = await exchange(port, method, path, { headers, body: payload });
    let json;
    try {
      json = JSON.parse(res.body.toString());
    } catch {
      json = undefined;
    }
    return { status: res.status, json, text: res.body.toString() };
  };
  engine.sandbox = async (name, body = {}) => {
    const res = await engine.api("PUT", `/v1/sandboxes/${name}`, body);
    if (res.status !== 200) throw new Error(`start ${name}: ${res.status} ${res.text}\n${log}`);
    const { port: guestPort, token: portToken } = (await engine.api("GET", `/v1/sandboxes/${name}/ports/3000`)).json;
    return guestOf(engine, name, res.json.generation, guestPort, portToken);
  };
  /** Waits until so many sandboxes stand ready. */
  engine.ready = async (n) => {
    for (let i = 0; i < 1000; i += 1) {
      if ((await engine.spares()) === n) return;
      await sleep(20);
    }
    throw new Error(`there are not ${n} spare sandboxes:\n${log}`);
  };
  engine.spares = async () => (await engine.api("GET", "/v1/health")).json.spares;
  engine.stop = async () => {
    child.kill("SIGTERM");
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      child.kill("SIGKILL");
    }, ENGINE_MS);
    const end = await exited;
    clearTimeout(timer);
    if (!keep) rmSync(home, { recursive: true, force: true });
    assert.ok(!late, `the engine did not end within ${ENGINE_MS} ms of SIGTERM: ${log.slice(-2000)}`);
    return end;
  };
  if (spares > 0) await engine.ready(spares);
  return engine;
}

/** Callers for one sandbox's control server. */
function guestOf(engine, name, generation, port, token) {
  const headers = { "x-caisson-port-token": token, "content-type": "application/json" };
  const call = async (method, path, body, more = {}) => {
    const res = await exchange(port, method, path, {
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      ...more,
    });
    const text = res.body.toString();
    return { status: res.status, text, json: text.startsWith("{") ? JSON.parse(text) : undefined };
  };
  const exec = async (command, more = {}) => {
    const res = await call("POST", "/api/execute", { command, sessionId: NO_SESSION, ...more });
    return { status: res.status, ...res.json };
  };
  const events = async (method, path, body, more) => parseEvents((await call(method, path, body, more)).text);
  return { engine, name, generation, port, token, headers, call, exec, events };
}

/**
 * Opens a stream of server-sent events: {next, close, status}. next() gives the next event, null at the end, and rejects after
 * `timeout` ms; an answer that is no stream gives {status, json}.
 */
export function openEvents(box, path, body, method = "POST") {
  return new Promise((done, fail) => {
    const options = { host: "127.0.0.1", port: box.port, method, path, headers: box.headers, agent: false };
    const req = http.request(options, (res) => {
      let text = "";
      const events = [];
      const waiting = [];
      let over = false;
      const give = () => {
        while (waiting.length > 0 && (events.length > 0 || over)) waiting.shift()(events.shift() ?? null);
      };
      res.on("data", (d) => {
        text += d;
        const blocks = text.split("\n\n");
        text = blocks.pop();
        if (res.headers["content-type"] === "text/event-stream") for (const b of blocks) events.push(...parseEvents(b));
        give();
      });
      const end = () => {
        over = true;
        if (res.headers["content-type"] !== "text/event-stream")
          done({ status: res.statusCode, json: JSON.parse(text) });
        give();
      };
      res.on("end", end);
      res.on("error", () => {});
      res.on("close", () => {
        over = true;
        give();
      });
      const next = (timeout = 10_000) =>
        new Promise((ok, no) => {
          const timer = setTimeout(() => {
            waiting.splice(waiting.indexOf(take), 1);
            no(new Error(`no event in ${timeout} ms`));
          }, timeout);
          const take = (e) => {
            clearTimeout(timer);
            ok(e);
          };
          waiting.push(take);
          give();
        });
      if (res.headers["content-type"] === "text/event-stream")
        done({
          status: res.statusCode,
          next,
          close: () => req.destroy(),
          pause: () => res.pause(),
          resume: () => res.resume(),
        });
    });
    req.on("error", fail);
    req.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

export const parseEvents = (text) =>
  text
    .split("\n\n")
    .filter((block) => block !== "" && !block.startsWith(":")) // a comment is no event
    .map((block) => JSON.parse(block.replace(/^data: /, "")));

/** A command that is looked for, and killed, machine-wide: no other test run on this machine has the same. */
export const nap = (seconds) => `sleep ${seconds}.${process.pid}`;

/** Processes of the host whose command line or name contains `text`. */
export function hostProcesses(text) {
  const out = spawnSync("ps", ["axo", "pid,stat,comm,args"], { encoding: "utf8" }).stdout;
  return out.split("\n").filter((line) => line.includes(text) && !line.includes("ps axo") && !/^\s*\d+\s+Z/.test(line));
}

export const isRoot = process.getuid() === 0;
