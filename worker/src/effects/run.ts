/** A run inside the sandbox: started by our runner, followed from its spool, killed through it (docs/DESIGN.md 11.2). */
import { type ExecEvent, parseSSEStream } from "@cloudflare/sandbox";
import { BOUND, STREAM } from "../core/abi.gen.js";
import type { KillReason } from "../core/core.js";
import { lastLine, run, type SandboxStub } from "./sandbox.js";
import { gitScript, sh } from "./workspace.js";

const RUNNER = "/opt/caisson/bin/caisson-run";
/** milliseconds between two tries to take up a stream that broke. */
const BACKOFF_MS = [100, 250, 500, 1_000, 2_000, 5_000] as const;

export function spoolDir(runNumber: number): string {
  return `/var/lib/caisson/runs/run_${runNumber}`;
}

/**
 * Starts the run's program and answers the workspace's tree from just before. Started twice it answers again and starts
 * nothing.
 */
export async function startRun(sandbox: SandboxStub, runNumber: number, spec: string, prompt: string): Promise<string> {
  const dir = spoolDir(runNumber);
  // The prompt goes as a file: never through a command line, which every process of the sandbox can read.
  await Promise.all([sandbox.writeFile(`${dir}/spec.json`, spec), sandbox.writeFile(`${dir}/prompt`, prompt)]);
  // Under its name only when it is whole: a second start may come while the first one is still at it.
  const name = sh(`${dir}/tree`);
  const tree = `if [ ! -f ${name} ]; then init_baseline; write_tree >${name}.$$; mv -f ${name}.$$ ${name}; fi`;
  // In a subshell: the program must not inherit what points git at the baseline.
  const script = `(\n${gitScript(tree)}\n) && ${RUNNER} start ${sh(dir)} >&2 && cat ${name}`;
  const { stdout } = await run(sandbox, script);
  return lastLine(stdout);
}

export async function killRun(sandbox: SandboxStub, runNumber: number, reason: KillReason): Promise<void> {
  await run(sandbox, `${RUNNER} kill ${sh(spoolDir(runNumber))} ${reason} ${BOUND.GRACE_MS}`);
}

/** What following a run needs of the session. */
export interface RunSink {
  /** Stream offset of the next byte that has not been fed. */
  position(stream: number): number;
  /** Takes the bytes at `offset`, which is `position(stream)`; persists what comes of them before it returns. */
  feed(stream: number, offset: number, bytes: Uint8Array): void;
  /** For the log. */
  warn(what: string, error?: unknown): void;
}

/** Thrown by RunSink.feed when the output cannot be taken, however often it is tried: the run is given up. */
export class UnreadableOutput extends Error {
  constructor(message: string) {
    super(message);
    this.name = "UnreadableOutput";
  }
}

export type RunEnd =
  /** The runner's exit record, as JSON; everything before it has been fed. */
  | { readonly kind: "exit"; readonly record: string }
  /** The sandbox is proven gone. */
  | { readonly kind: "gone"; readonly why: string }
  | { readonly kind: "stopped" };

/**
 * Follows a run from the sink's position to its end. A broken stream is taken up again; the run is over only when the
 * runner says so or the sandbox that held the spool is not there any more. `boot` names the start of the sandbox in
 * which the run was started: the SDK starts a fresh, empty one on any request, and that one knows nothing of the run.
 */
export async function followRun(
  sandbox: SandboxStub,
  runNumber: number,
  boot: string | null,
  sink: RunSink,
  signal: AbortSignal,
): Promise<RunEnd> {
  const dir = spoolDir(runNumber);
  for (let misses = 0; !signal.aborted; misses += 1) {
    try {
      const runtime = await sandbox.runtime();
      if (!runtime.running) return { kind: "gone", why: "the sandbox has stopped" };
      if (runtime.boot !== boot) return { kind: "gone", why: "the sandbox was replaced by a fresh one" };
      const before = sink.position(STREAM.STDOUT) + sink.position(STREAM.STDERR);
      const record = await followOnce(sandbox, dir, sink, signal);
      if (signal.aborted) break;
      if (record !== null) return { kind: "exit", record };
      if (sink.position(STREAM.STDOUT) + sink.position(STREAM.STDERR) > before) misses = 0;
      const state = await runStatus(sandbox, dir);
      if (state === "missing") return { kind: "gone", why: "the run's spool is gone" };
      if (state === "lost" && misses >= 2) {
        return { kind: "exit", record: lostRecord("the runner was killed") };
      }
    } catch (error) {
      if (signal.aborted) break;
      if (error instanceof UnreadableOutput) {
        await killRun(sandbox, runNumber, "cancelled").catch((cause: unknown) => sink.warn(`kill ${dir}`, cause));
        return { kind: "exit", record: lostRecord(error.message) };
      }
      sink.warn(`follow ${dir}`, error);
    }
    await sleep(BACKOFF_MS[Math.min(misses, BACKOFF_MS.length - 1)] ?? 5_000, signal);
  }
  return { kind: "stopped" };
}

/** An exit record for a run whose runner cannot write one. */
export function lostRecord(detail: string): string {
  return JSON.stringify({ reason: "runner_lost", exit_code: null, signal: null, detail });
}

/** One `caisson-run follow`; answers the exit record, or null when the stream ended before it. */
async function followOnce(
  sandbox: SandboxStub,
  dir: string,
  sink: RunSink,
  signal: AbortSignal,
): Promise<string | null> {
  const from = `${sink.position(STREAM.STDOUT)} ${sink.position(STREAM.STDERR)}`;
  const stream = await sandbox.execStream(`exec ${RUNNER} follow ${sh(dir)} ${from}`);
  let carry = "";
  let stderr = "";
  for await (const event of parseSSEStream<ExecEvent>(stream, signal)) {
    if (event.type === "stdout") {
      const lines = (carry + (event.data ?? "")).split("\n");
      carry = lines.pop() ?? "";
      const record = takeLines(lines, sink);
      if (record !== null) return record;
    } else if (event.type === "stderr") {
      stderr = (stderr + (event.data ?? "")).slice(-1_000);
    } else if (event.type === "complete" || event.type === "error") {
      break;
    }
  }
  if (stderr !== "") sink.warn(`follow ${dir}: ${stderr.trim()}`);
  return null;
}

/** Feeds the pieces that the lines carry, neighbours together; answers the exit record when it is among them. */
function takeLines(lines: readonly string[], sink: RunSink): string | null {
  let pending: { stream: number; offset: number; parts: Uint8Array[]; len: number } | null = null;
  const flush = (): void => {
    if (pending === null) return;
    const { stream, offset, parts } = pending;
    pending = null;
    const bytes = parts.length === 1 && parts[0] !== undefined ? parts[0] : Buffer.concat(parts);
    // The runner may send again what was taken already: a piece is whole, the position may stand inside it.
    const skip = sink.position(stream) - offset;
    if (skip < 0) throw new Error(`the spool's stream has a hole of ${-skip} bytes`);
    if (skip < bytes.byteLength) sink.feed(stream, offset + skip, bytes.subarray(skip));
  };
  for (const line of lines) {
    const kind = line[0];
    if (kind === "o" || kind === "e") {
      const space = line.indexOf(" ", 2);
      const stream = kind === "o" ? STREAM.STDOUT : STREAM.STDERR;
      const offset = Number(line.slice(2, space));
      if (space < 0 || !Number.isSafeInteger(offset)) throw new Error("the runner's stream is malformed");
      const bytes = Buffer.from(line.slice(space + 1), "base64");
      if (
        pending !== null &&
        pending.stream === stream &&
        pending.offset + pending.len === offset &&
        pending.len < BOUND.FEED_MAX
      ) {
        pending.parts.push(bytes);
        pending.len += bytes.byteLength;
      } else {
        flush();
        pending = { stream, offset, parts: [bytes], len: bytes.byteLength };
      }
    } else if (kind === "x") {
      flush();
      return line.slice(2);
    }
  }
  flush();
  return null;
}

async function runStatus(sandbox: SandboxStub, dir: string): Promise<string> {
  const { stdout } = await run(sandbox, `${RUNNER} status ${sh(dir)}`);
  const status = JSON.parse(stdout) as { state?: string };
  return status.state ?? "";
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}
