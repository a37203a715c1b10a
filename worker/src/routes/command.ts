/**
 * One command in a sandbox, its output as it comes.
 *
 * Everything runs without an SDK shell session: the output is verbatim, commands do not wait for each other, and `exit` in one
 * ends that one. The container server of production ignores the time-out of a streamed command, so the clock is kept here and
 * the process tree is killed through the server's process list, where a comment that is this command's own marks it.
 */
import { type ExecEvent, parseSSEStream } from "@cloudflare/sandbox";
import module from "../../../build/redact.wasm";
import type { Redactor, RedactStream } from "../core/redact.js";
import { borrowRedactor, operatorRedactor, register, returnRedactor } from "../effects/redactor.js";
import { type MaskText, report } from "../effects/report.js";
import type { Env } from "../env.js";
import { Problem, problem } from "../errors.js";
import { guarded } from "./engine.js";
import { type SandboxHandle, sandboxFailure, writeText } from "./sandbox.js";

export interface CommandSpec {
  /** Shell text; run by bash. */
  readonly command: string;
  readonly cwd: string;
  readonly env: Record<string, string>;
  readonly stdin?: string | undefined;
  readonly timeoutMs: number;
  /** Masked in the output beside the operator's keys. */
  readonly secrets?: readonly string[];
  /** So is what has the shape of a key, not values only. */
  readonly masksShapes?: boolean;
}

export interface CommandEnd {
  readonly exit_code: number;
  readonly duration_ms: number;
  readonly timed_out: boolean;
}

export type OutputStream = "stdout" | "stderr";
/** Takes a piece of output; the command's output waits until it resolves. */
export type OutputSink = (stream: OutputStream, data: string) => Promise<void> | void;

/** Exit status of a command that its time-out ended, as timeout(1) gives it. */
const TIMED_OUT = 124;
/** milliseconds: the server, which may keep the same clock, is given this long to end the command first. */
const CLOCK_SLACK_MS = 150;
/** milliseconds: how long a killed tree may take to be reported; the server escalates to SIGKILL after 5 s. */
const KILL_WAIT_MS = 8_000;

/**
 * Runs the command to its end, its time-out, or until `gone` aborts (the client has left), and in the last two cases kills its
 * process tree. Throws a problem when it could not be started or the sandbox was lost.
 */
export async function runCommand(
  env: Env,
  sandbox: SandboxHandle,
  spec: CommandSpec,
  sink: OutputSink,
  gone?: AbortSignal,
): Promise<CommandEnd> {
  const redacted = new RedactedOutput(env, spec, sink);
  try {
    return await runUnredacted(env, sandbox, spec, redacted, gone);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    throw new Problem(error.status, error.code, redacted.text(error.message), error.options);
  } finally {
    await redacted.end();
  }
}

/** Output without keys; what may still be the beginning of one waits for what follows it. */
class RedactedOutput {
  readonly #env: Env;
  readonly #sink: OutputSink;
  readonly #redactor: Redactor;
  /** It knows the operator's keys alone, and may be lent to the next command. */
  readonly #isLent: boolean;
  readonly #streams: Record<OutputStream, { redacted: RedactStream; text: TextDecoder }>;

  constructor(env: Env, { secrets = [], masksShapes = false }: CommandSpec, sink: OutputSink) {
    this.#isLent = secrets.length === 0;
    const redactor = this.#isLent ? borrowRedactor(module, env) : operatorRedactor(module, env);
    for (const secret of secrets) register(redactor, secret);
    const open = (): { redacted: RedactStream; text: TextDecoder } => ({
      redacted: redactor.open(!masksShapes),
      text: new TextDecoder("utf-8", { fatal: false, ignoreBOM: true }),
    });
    this.#env = env;
    this.#sink = sink;
    this.#redactor = redactor;
    this.#streams = { stdout: open(), stderr: open() };
  }

  async push(stream: OutputStream, data: string): Promise<void> {
    const { redacted, text } = this.#streams[stream];
    const out = text.decode(redacted.push(utf8.encode(data)), { stream: true });
    if (out !== "") await this.#sink(stream, out);
  }

  /** A text that is not the command's output. */
  text(value: string): string {
    return this.#redactor.text(value);
  }

  async end(): Promise<void> {
    for (const [stream, { redacted, text }] of Object.entries(this.#streams)) {
      const out = text.decode(redacted.flush());
      redacted.close();
      if (out !== "") await this.#sink(stream as OutputStream, out);
    }
    if (this.#isLent) returnRedactor(this.#env, this.#redactor);
  }
}
const utf8 = new TextEncoder();

async function runUnredacted(
  env: Env,
  sandbox: SandboxHandle,
  spec: CommandSpec,
  redacted: RedactedOutput,
  gone?: AbortSignal,
): Promise<CommandEnd> {
  const sink: OutputSink = (stream, data) => redacted.push(stream, data);
  const mask = (text: string): string => redacted.text(text);
  const mark = `caisson-exec-${crypto.randomUUID()}`;
  const text = await withStdin(env, sandbox, spec, mark, mask);
  const started = Date.now();
  const reading = new AbortController();
  const events = await openEvents(env, sandbox, text, spec, reading.signal, mask);
  const clock = new Clock(spec.timeoutMs + CLOCK_SLACK_MS, gone);
  let killed = false;
  let next = events.next();
  try {
    for (;;) {
      const first = await clock.race(next);
      if (first === "timeout" || first === "gone") {
        if (killed) return ended(TIMED_OUT, started, true);
        await killMarked(sandbox, mark, mask);
        if (first === "gone") return ended(TIMED_OUT, started, false);
        killed = true;
        clock.restart(KILL_WAIT_MS);
        continue;
      }
      const end = await take(first, sink);
      if (end !== null) {
        const late = Date.now() - started >= spec.timeoutMs;
        const timedOut = killed || (late && [TIMED_OUT, 137, 143].includes(end.exitCode));
        return ended(timedOut ? TIMED_OUT : end.exitCode, started, timedOut);
      }
      next = events.next();
    }
  } catch (error) {
    throw await sandboxFailure(env, error, "the command", mask);
  } finally {
    clock.stop();
    next.catch(() => undefined);
    reading.abort();
  }
}

function ended(exitCode: number, started: number, timedOut: boolean): CommandEnd {
  return { exit_code: exitCode, duration_ms: Math.max(0, Date.now() - started), timed_out: timedOut };
}

/** Passes one event on; answers the end when it is one, else null. */
async function take(event: IteratorResult<ExecEvent, unknown>, sink: OutputSink): Promise<{ exitCode: number } | null> {
  if (event.done === true) throw new Error("the sandbox was lost while the command ran");
  const value = event.value;
  switch (value.type) {
    case "stdout":
    case "stderr":
      if (value.data !== undefined && value.data !== "") await sink(value.type, value.data);
      return null;
    case "complete":
      return { exitCode: value.exitCode ?? 0 };
    case "error":
      throw problem(
        "sandbox_error",
        `The command could not be run: ${(value.error ?? value.data ?? "").slice(0, 500)}`,
      );
    case "start":
      return null;
  }
}

/**
 * The command with its mark, reading from its own file when there is standard input. The prefix stands on the command's first
 * line, so that line numbers in error messages stay true; nothing of the caller's is spliced into it.
 */
async function withStdin(
  env: Env,
  sandbox: SandboxHandle,
  spec: CommandSpec,
  mark: string,
  mask: MaskText,
): Promise<string> {
  const marked = `${spec.command}\n# ${mark}`;
  if (spec.stdin === undefined || spec.stdin === "") return marked;
  const path = `/tmp/.${mark}`;
  try {
    await guarded(env, writeText(sandbox, path, spec.stdin));
  } catch (error) {
    throw await sandboxFailure(env, error, "standard input", mask);
  }
  return `exec <${path} && rm -f ${path}; ${marked}`;
}

async function openEvents(
  env: Env,
  sandbox: SandboxHandle,
  text: string,
  spec: CommandSpec,
  reading: AbortSignal,
  mask: MaskText,
): Promise<AsyncIterator<ExecEvent, unknown>> {
  try {
    const call = sandbox.execStream(text, { cwd: spec.cwd, env: spec.env, timeout: spec.timeoutMs });
    return parseSSEStream<ExecEvent>(await guarded(env, call), reading)[Symbol.asyncIterator]();
  } catch (error) {
    const message = error instanceof Error ? error.message : "";
    if (/directory|cwd|chdir|ENOENT/i.test(message)) {
      throw problem("invalid_cwd", `There is no directory "${spec.cwd}" in the sandbox.`, { field: "/cwd" });
    }
    throw await sandboxFailure(env, error, "the command", mask);
  }
}

/** Kills the tree of the process whose command carries the mark. Its absence means that it has ended. */
async function killMarked(sandbox: SandboxHandle, mark: string, mask: MaskText): Promise<void> {
  try {
    const processes = await sandbox.listProcesses();
    const ours = processes.filter((process) => process.command.includes(mark));
    await Promise.all(ours.map((process) => sandbox.killProcess(process.id, "SIGKILL")));
  } catch (error) {
    report(mask, "warn", "kill", error);
  }
}

type Interrupt = "timeout" | "gone";

/** Interrupts waiting when the time is up or the client leaves; `restart` gives a new time. */
class Clock {
  #fired: Interrupt | null = null;
  #notify: ((interrupt: Interrupt) => void) | null = null;
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #gone: AbortSignal | undefined;
  readonly #onGone = (): void => this.#fire("gone");

  constructor(ms: number, gone: AbortSignal | undefined) {
    this.#gone = gone;
    this.restart(ms);
    gone?.addEventListener("abort", this.#onGone, { once: true });
  }

  restart(ms: number): void {
    clearTimeout(this.#timer);
    this.#fired = this.#gone?.aborted === true ? "gone" : null;
    this.#timer = setTimeout(() => this.#fire("timeout"), ms);
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#gone?.removeEventListener("abort", this.#onGone);
  }

  /**
   * What comes first, `next` or the interrupt. Not Promise.race: its reactions on the side that stays pending would pile up
   * with every event of a long output.
   */
  race<T>(next: Promise<T>): Promise<T | Interrupt> {
    if (this.#fired !== null) return Promise.resolve(this.#fired);
    return new Promise((resolve, reject) => {
      this.#notify = resolve;
      next.then(resolve, reject);
    });
  }

  #fire(interrupt: Interrupt): void {
    this.#fired = interrupt;
    this.#notify?.(interrupt);
  }
}
