/** Commands in a session's sandbox. */
import { type MaskText, operatorMask, report } from "../effects/report.js";
import type { Env } from "../env.js";
import { PROBLEMS, Problem, problem } from "../errors.js";
import { LIMITS } from "../limits.js";
import { type CommandEnd, type CommandSpec, type OutputSink, runCommand } from "./command.js";
import { type App, type AppContext, endpoint } from "./endpoint.js";
import { STREAM_CACHE_CONTROL } from "./headers.js";
import { json, wantsSSE } from "./json.js";
import { normalizePath } from "./paths.js";
import { commandsOfSession, type SandboxHandle, shellQuote } from "./sandbox.js";
import { type ExecBody, ExecBodySchema, type ExecResult, ExecResultSchema } from "./schemas.js";

export const EXEC_SSE_TEXT =
  'With `Accept: text/event-stream` the output comes as it is made: events `stdout` and `stderr` with `{"data"}`, at the end ' +
  '`exit` with `{"exit_code","duration_ms","timed_out"}`, or `error` with a problem document.';

export function registerExec(app: App): void {
  endpoint(app, {
    method: "post",
    path: "/v1/sessions/{id}/exec",
    tag: "Sandbox",
    summary: "Run a command in the session's sandbox",
    description:
      `Beside the agent, in a process of its own, with the placeholders of the session's secrets in its environment; the secrets are masked in what it prints. ` +
      `${EXEC_SSE_TEXT} A client that leaves ends the command.`,
    body: ExecBodySchema,
    bodyMax: LIMITS.JSON_FILES_BODY_MAX,
    headers: { Accept: "`text/event-stream` for a stream" },
    answers: {
      200: {
        description: "The command has ended, whatever its exit code",
        content: { "application/json": ExecResultSchema, "text/event-stream": null },
      },
    },
    problems: [409, 502, 503],
    async handler({ c, env, session, request, body }) {
      const asked = execSpec(body);
      const { sandbox, access } = await commandsOfSession(env, session);
      // As a run has them: the placeholders, never what they stand for.
      const spec = { ...asked, env: { ...access.env, ...asked.env }, secrets: access.secrets };
      if (!wantsSSE(request)) return json(await kept(c, collect(env, sandbox, spec, request.signal)));
      return streamed(
        env,
        (sink, gone) => runCommand(env, sandbox, spec, sink, gone),
        (work) => c.executionCtx.waitUntil(work),
      );
    },
  });
}

/** bytes: one argument of execve(2) is at most 128 KiB, and the command is one; the rest is room for what is put around it. */
const SHELL_TEXT_MAX = 120 * 1024;

function execSpec(body: ExecBody): CommandSpec {
  const command = body.command ?? (body.argv ?? []).map(shellQuote).join(" ");
  if (new TextEncoder().encode(command).byteLength > SHELL_TEXT_MAX) {
    throw problem("too_long", `The arguments are together longer than ${SHELL_TEXT_MAX} bytes.`, { field: "/argv" });
  }
  const given = body.cwd ?? "/workspace";
  const cwd = normalizePath(given.startsWith("/") ? given : `/workspace/${given}`);
  return {
    command,
    cwd: cwd ?? "/",
    env: body.env ?? {},
    stdin: body.stdin,
    timeoutMs: (body.timeout_s ?? LIMITS.EXEC_TIMEOUT_S_DEFAULT) * 1000,
  };
}

/** Runs a command and keeps its output, of each stream at most EXEC_OUTPUT_MAX; the rest is read and dropped. */
export async function collect(
  env: Env,
  sandbox: SandboxHandle,
  spec: CommandSpec,
  gone: AbortSignal,
): Promise<ExecResult> {
  const kept = { stdout: [] as string[], stderr: [] as string[] };
  const length = { stdout: 0, stderr: 0 };
  let truncated = false;
  const keep: OutputSink = (stream, data) => {
    const room = LIMITS.EXEC_OUTPUT_MAX - length[stream];
    if (data.length > room) truncated = true;
    if (room <= 0) return;
    kept[stream].push(data.slice(0, room));
    length[stream] += data.length;
  };
  const end = await runCommand(env, sandbox, spec, keep, gone);
  const { exit_code, duration_ms, timed_out } = end;
  const output = { stdout: kept.stdout.join(""), stderr: kept.stderr.join("") };
  return { exit_code, ...output, duration_ms, timed_out, ...(truncated ? { truncated } : {}) };
}

/** The work's result; the work goes on to its end, which cleans up, also when the client has left. */
export function kept<T>(c: AppContext, work: Promise<T>): Promise<T> {
  c.executionCtx.waitUntil(work.catch(() => undefined));
  return work;
}

/** milliseconds of silence after which a comment is sent, so that proxies keep the connection and a client that left is noticed. */
const HEARTBEAT_MS = 5_000;

/**
 * Answers with the SSE form of a command. `run` gets a sink that waits for the client, and a signal that aborts when the
 * client leaves; `keep` is told of the work so that it may end after the answer has.
 */
export function streamed(
  env: Env,
  run: (sink: OutputSink, gone: AbortSignal) => Promise<CommandEnd>,
  keep: (work: Promise<void>) => void,
): Response {
  const { readable, writable } = new IdentityTransformStream();
  const writer = writable.getWriter();
  const gone = new AbortController();
  writer.closed.catch(() => gone.abort());
  const utf8 = new TextEncoder();
  const send = async (event: string, data: unknown): Promise<void> => {
    try {
      await writer.write(utf8.encode(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`));
    } catch {
      gone.abort();
    }
  };
  const work = async (): Promise<void> => {
    const heartbeat = setInterval(() => {
      writer.write(utf8.encode(": heartbeat\n\n")).catch(() => gone.abort());
    }, HEARTBEAT_MS);
    try {
      const end = await run((stream, data) => send(stream, { data }), gone.signal);
      await send("exit", end);
    } catch (error) {
      await send("error", problemMembers(error, operatorMask(env)));
    } finally {
      clearInterval(heartbeat);
      await writer.close().catch(() => undefined);
    }
  };
  keep(work());
  return new Response(readable, {
    headers: { "content-type": "text/event-stream; charset=utf-8", "cache-control": STREAM_CACHE_CONTROL },
  });
}

function problemMembers(error: unknown, mask: MaskText): Record<string, unknown> {
  if (error instanceof Problem) return { status: error.status, code: error.code, detail: error.message };
  report(mask, "error", "exec", error);
  return { status: 500, code: "internal", detail: `${PROBLEMS.internal.title}.` };
}
