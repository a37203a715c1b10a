/**
 * A sandbox that does what a test tells it: answers the commands that the session's effects run, out of a script that tests
 * change while it is used. Tests and objects share one isolate, so the script is plain memory, found by the object's name.
 */
import { DurableObject } from "cloudflare:workers";
import { Previews } from "../../sandbox-sdk-shim/src/previews.js";
import type { PortView } from "../../worker/src/session/api.js";

export interface FakeRun {
  stdout: Uint8Array;
  stderr: Uint8Array;
  /** exit.json, once the run is over. */
  exit: string | null;
  started: boolean;
  killed: string | null;
}

export interface FakeChange {
  path: string;
  status: "A" | "M" | "D";
  content: Uint8Array;
  /** `git diff-tree` mode after the change; 100644 when absent. */
  mode?: string;
}

export class FakeScript {
  running = false;
  boot = 0;
  /** What the session said it is. */
  owner = "";
  /** The limits of its policy that it was told. */
  limits: Record<string, number> | null = null;
  readonly commands: string[] = [];
  readonly files = new Map<string, string>();
  readonly runs = new Map<string, FakeRun>();
  changes: FakeChange[] = [];
  /** One character a byte. */
  diff = "";
  /** Fails the next commands that contain this text, so many times. */
  failing: { text: string; times: number } | null = null;
  /** Ends each follow stream without an exit record after so many bytes of it; null: never. */
  cutAfter: number | null = null;
  follows = 0;
  /** The next batch of files breaks off in the middle of the one with this index. */
  cutFiles: number | null = null;
  /** What a terminal prints at once, and then in answer to what is typed; a string is a control frame. */
  terminal: { readonly first: (string | Uint8Array)[]; readonly answer: (typed: string) => (string | Uint8Array)[] } = {
    first: ['{"type":"ready"}'],
    answer: (typed) => [new TextEncoder().encode(typed)],
  };
  /** The addresses at which terminals were asked for. */
  readonly terminals: string[] = [];
  /** retire() does not return while this is set. */
  stuck = false;
  /** retire() was called. */
  retired = false;
  /** No shell is given while this is set. */
  slowShell = false;
  /** With these words instead of a shell a terminal is refused. */
  noShell: string | null = null;
  /** Counts changes; see changed(). */
  #version = 0;

  run(n: number): FakeRun {
    const dir = `/var/lib/caisson/runs/run_${n}`;
    let run = this.runs.get(dir);
    if (run === undefined) {
      run = { stdout: new Uint8Array(), stderr: new Uint8Array(), exit: null, started: false, killed: null };
      this.runs.set(dir, run);
    }
    return run;
  }

  /** Appends to the spool of run `n`. */
  output(n: number, text: string | Uint8Array, stream: "stdout" | "stderr" = "stdout"): void {
    const run = this.run(n);
    const bytes = typeof text === "string" ? new TextEncoder().encode(text) : text;
    run[stream] = Buffer.concat([run[stream], bytes]);
    this.wake();
  }

  exit(n: number, record: Record<string, unknown>): void {
    this.run(n).exit = JSON.stringify({ signal: null, detail: "", started_ms: 1, ended_ms: 2, ...record });
    this.wake();
  }

  /** The sandbox dies; the next request that the SDK would have sent starts an empty one. */
  die(): void {
    this.running = false;
    this.runs.clear();
    this.files.clear();
    this.wake();
  }

  start(): void {
    if (this.retired) throw new Error("the sandbox was destroyed with its session");
    if (this.running) return;
    this.running = true;
    this.boot += 1;
  }

  wake(): void {
    this.#version += 1;
  }

  /** Polled: a promise made in one object must not be settled from another, or from the test. */
  async changed(): Promise<void> {
    const before = this.#version;
    while (this.#version === before) await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

const scripts = new Map<string, FakeScript>();

export function script(name: string): FakeScript {
  let found = scripts.get(name);
  if (found === undefined) {
    found = new FakeScript();
    scripts.set(name, found);
  }
  return found;
}

interface ExecAnswer {
  success: boolean;
  exitCode: number;
  stdout: string;
  stderr: string;
}

export class FakeSandbox extends DurableObject {
  get #script(): FakeScript {
    return script(this.ctx.id.name ?? "");
  }

  configure(): void {}

  setLimits(limits: Record<string, number>): void {
    this.#script.limits = limits;
  }

  setOwner(name: string): void {
    this.#script.owner = name;
  }

  owner(): string {
    return this.#script.owner;
  }

  runtime(): { running: boolean; boot: string | null } {
    const { running, boot } = this.#script;
    return { running, boot: boot === 0 ? null : String(boot) };
  }

  /** Exposed ports, as the SDK's class keeps them: port → token. */
  readonly #exposed = new Map<number, string>();
  readonly #previews = new Previews(
    {
      exposePort: async (port, { hostname }) => {
        const token = this.#exposed.get(port) ?? `token${port}`;
        this.#exposed.set(port, token);
        return { url: `https://${port}-${token}.${hostname}/` };
      },
      unexposePort: async (port) => {
        this.#exposed.delete(port);
      },
      getExposedPorts: async (hostname) =>
        [...this.#exposed].map(([port, token]) => ({ port, url: `https://${port}-${token}.${hostname}/` })),
      isPortExposed: async (port) => this.#script.running && this.#exposed.has(port),
      validatePortToken: async (port, token) => this.#exposed.get(port) === token,
    },
    this.ctx.storage.kv,
  );

  async openPreview(port: number, hostname: string, name: string | null, expiresMs: number): Promise<PortView | null> {
    return await this.#previews.open(port, hostname, name, expiresMs);
  }

  async previews(hostname: string): Promise<PortView[]> {
    return await this.#previews.list(hostname);
  }

  async closePreview(port: number): Promise<boolean> {
    return await this.#previews.close(port);
  }

  async previewVerdict(port: number, token: string): Promise<string> {
    return await this.#previews.verdict(port, token);
  }

  createSession({ id }: { id: string }): { id: string } {
    return { id };
  }

  override async fetch(request: Request): Promise<Response> {
    const s = this.#script;
    s.terminals.push(request.url);
    while (s.slowShell) await s.changed();
    if (s.noShell !== null) return new Response(s.noShell, { status: 503 });
    const { 0: client, 1: server } = new WebSocketPair();
    server.binaryType = "arraybuffer";
    server.accept();
    server.addEventListener("message", ({ data }) => {
      const typed = typeof data === "string" ? data : new TextDecoder().decode(data as ArrayBuffer);
      for (const piece of s.terminal.answer(typed)) server.send(piece);
    });
    for (const piece of s.terminal.first) server.send(piece);
    return new Response(null, { status: 101, webSocket: client });
  }

  writeFile(path: string, content: string): { success: boolean } {
    this.#script.start();
    this.#script.files.set(path, content);
    return { success: true };
  }

  async retire(): Promise<void> {
    this.#script.retired = true;
    while (this.#script.stuck) await this.#script.changed();
    this.#script.die();
  }

  execWithSessionToken(command: string): ExecAnswer {
    const s = this.#script;
    s.start();
    s.commands.push(command);
    if (s.failing !== null && s.failing.times > 0 && command.includes(s.failing.text)) {
      s.failing.times -= 1;
      return { success: false, exitCode: 1, stdout: "", stderr: "scripted failure" };
    }
    return { success: true, exitCode: 0, stdout: this.#answer(s, command), stderr: "" };
  }

  #answer(s: FakeScript, command: string): string {
    const runner = /caisson-run (start|kill|status) '([^']+)'(?: (\w+))?/.exec(command);
    if (runner !== null) {
      const [, verb, dir = "", reason = ""] = runner;
      const n = Number(/run_(\d+)$/.exec(dir)?.[1]);
      if (verb === "status") {
        const run = s.runs.get(dir);
        return JSON.stringify({ state: run === undefined ? "missing" : run.exit === null ? "running" : "exited" });
      }
      if (verb === "kill") {
        s.run(n).killed = reason;
        s.exit(n, { reason: "killed", exit_code: null, signal: 15, detail: reason });
        return "";
      }
      s.run(n).started = true;
      return `${"b".repeat(40)}\n`;
    }
    if (command.includes("git diff-tree -r -z")) {
      const raw = s.changes.map(({ path, status, mode }) => {
        const after = status === "D" ? "000000" : (mode ?? "100644");
        return `:${status === "A" ? "000000" : "100644"} ${after} ${"0".repeat(40)} ${blob(path)} ${status}\0${path}\0`;
      });
      const sizes = s.changes.map(({ path, content }) => `${blob(path)} ${content.byteLength}`);
      return `${"c".repeat(40)}\n${Buffer.from(raw.join("")).toString("base64")}\n--\n${sizes.join("\n")}\n`;
    }
    if (command.includes("now=$(write_tree); git diff-tree")) return Buffer.from(s.diff, "latin1").toString("base64");
    return `${"a".repeat(40)}\n`;
  }

  execStreamWithSessionToken(command: string): ReadableStream<Uint8Array> {
    const s = this.#script;
    s.start();
    s.commands.push(command);
    const follow = /caisson-run follow '([^']+)' (\d+) (\d+)/.exec(command);
    if (follow !== null) return stream(this.#follow(s, follow[1] ?? "", Number(follow[2]), Number(follow[3])));
    return stream(this.#collect(s, command));
  }

  async *#follow(s: FakeScript, dir: string, outOff: number, errOff: number): AsyncGenerator<string> {
    s.follows += 1;
    const boot = s.boot;
    const at = { stdout: outOff, stderr: errOff };
    let sent = 0;
    for (;;) {
      const run = s.runs.get(dir);
      if (run === undefined || s.boot !== boot) return;
      for (const name of ["stdout", "stderr"] as const) {
        while (at[name] < run[name].byteLength) {
          if (s.cutAfter !== null && sent >= s.cutAfter) return;
          const room = s.cutAfter === null ? 60_000 : Math.min(60_000, s.cutAfter - sent);
          const piece = run[name].subarray(at[name], at[name] + room);
          yield `${name === "stdout" ? "o" : "e"} ${at[name]} ${Buffer.from(piece).toString("base64")}\n`;
          at[name] += piece.byteLength;
          sent += piece.byteLength;
        }
      }
      if (run.exit !== null) {
        yield `x ${run.exit}\n`;
        return;
      }
      if (!s.running) return;
      await s.changed();
    }
  }

  async *#collect(s: FakeScript, command: string): AsyncGenerator<string> {
    if (command.includes('echo "f $i"')) {
      const paths = [...command.slice(0, command.indexOf("; do")).matchAll(/'\.\/((?:[^']|'\\'')*)'/g)];
      for (const [i, match] of paths.entries()) {
        const path = (match[1] ?? "").replaceAll("'\\''", "'");
        const change = s.changes.find((one) => one.path === path);
        yield `f ${i}\n`;
        if (s.cutFiles === i) {
          s.cutFiles = null;
          return;
        }
        if (change !== undefined) yield wrap(change.content);
        yield `e ${change === undefined ? 1 : 0}\n`;
      }
    } else if (command.includes("--binary")) {
      yield wrap(Buffer.from(s.diff, "latin1"));
    } else {
      const spool = /base64 '([^']+)\/(stdout|stderr)'/.exec(command);
      const run = s.runs.get(spool?.[1] ?? "");
      if (run !== undefined) yield wrap(run[spool?.[2] === "stderr" ? "stderr" : "stdout"]);
    }
  }
}

function blob(path: string): string {
  return Buffer.from(path).toString("hex").padEnd(40, "0").slice(0, 40);
}

/** As base64(1) prints: lines of 76 characters. */
function wrap(bytes: Uint8Array): string {
  return Buffer.from(bytes)
    .toString("base64")
    .replace(/.{1,76}/g, "$&\n");
}

/** The SDK's execStream framing around lines of standard output. */
function stream(lines: AsyncGenerator<string>): ReadableStream<Uint8Array> {
  const utf8 = new TextEncoder();
  const frame = (event: Record<string, unknown>): Uint8Array =>
    utf8.encode(`data: ${JSON.stringify({ ...event, timestamp: "2026-01-01T00:00:00Z" })}\n\n`);
  const { readable, writable } = new IdentityTransformStream();
  const pump = async (): Promise<void> => {
    const writer = writable.getWriter();
    await writer.write(frame({ type: "start" }));
    for await (const data of lines) if (data !== "") await writer.write(frame({ type: "stdout", data }));
    await writer.write(frame({ type: "complete", exitCode: 0 }));
    await writer.close();
  };
  // A reader that goes away ends the pump.
  pump().catch(() => {});
  return readable;
}
