/** One-shots: a sandbox for one piece of code, destroyed when the code has ended. */
import { checkEngine } from "../effects/engine.js";
import { withEphemeralSandbox } from "../effects/oneshot.js";
import { templateRefusal } from "../effects/template.js";
import type { Env } from "../env.js";
import { problem } from "../errors.js";
import type { Caller } from "../identity/caller.js";
import { admit, quotaOf, released, tenantObject } from "../identity/quotas.js";
import { LIMITS } from "../limits.js";
import { type CommandSpec, runCommand } from "./command.js";
import { type App, endpoint } from "./endpoint.js";
import { collect, EXEC_SSE_TEXT, kept, streamed } from "./exec.js";
import { newOneshotId } from "./ids.js";
import { json, wantsSSE } from "./json.js";
import { codeFor, requireModel, requirePrice } from "./model.js";
import { type SandboxHandle, sandboxFailure, shellQuote, writeText } from "./sandbox.js";
import {
  type ExecuteBody,
  ExecuteBodySchema,
  ExecuteResultSchema,
  type FileBody,
  type Language,
  QuestionBodySchema,
  QuestionResultSchema,
} from "./schemas.js";

/** Where the code goes and what runs it. Node strips TypeScript's types by itself. */
const RUNNERS: Record<Language, { extension: string; argv: readonly string[]; env: Record<string, string> }> = {
  python: { extension: "py", argv: ["python3"], env: { PYTHONUNBUFFERED: "1" } },
  javascript: {
    extension: "js",
    argv: ["/opt/caisson/bin/node", "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON"],
    env: {},
  },
  typescript: {
    extension: "ts",
    argv: [
      "/opt/caisson/bin/node",
      "--disable-warning=ExperimentalWarning",
      "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON",
    ],
    env: {},
  },
  bash: { extension: "sh", argv: ["/bin/bash"], env: {} },
};

export function registerExecute(app: App): void {
  endpoint(app, {
    method: "post",
    path: "/v1/execute",
    tag: "One-shots",
    scope: "execute",
    summary: "Run code in a sandbox of its own",
    description: `The sandbox is destroyed when the code has ended, also after an error or when the client leaves. ${EXEC_SSE_TEXT}`,
    body: ExecuteBodySchema,
    bodyMax: LIMITS.JSON_FILES_BODY_MAX,
    headers: { Accept: "`text/event-stream` for a stream" },
    answers: {
      200: {
        description: "The code has ended, whatever its exit code",
        content: { "application/json": ExecuteResultSchema, "text/event-stream": null },
      },
    },
    problems: [429, 502, 503],
    async handler({ c, env, request, caller, body }) {
      const id = newOneshotId();
      const own = { language: body.language, sandbox_id: id };
      await requireTemplate(env, body.template);
      if (!wantsSSE(request)) {
        const work = admitted(env, caller, id, () =>
          withEphemeralSandbox(env, id, body.template, (sandbox) =>
            prepared(env, sandbox, body, (spec) => collect(env, sandbox, spec, request.signal)),
          ),
        );
        const result = await kept(c, work);
        return json({ ...result, ...own });
      }
      await checkEngine(env);
      // Before the answer begins: over its quota a tenant gets a 429 here, too.
      await admit(env, caller, id, LIMITS.ONESHOT_ALIVE_MS_MAX);
      return streamed(
        env,
        async (sink, gone) => {
          const work = withEphemeralSandbox(env, id, body.template, (sandbox) =>
            prepared(env, sandbox, body, (spec) => runCommand(env, sandbox, spec, sink, gone)),
          );
          const end = await work.finally(() => released(env, caller, id));
          return { ...end, ...own };
        },
        (work) => c.executionCtx.waitUntil(work),
      );
    },
  });

  endpoint(app, {
    method: "post",
    path: "/execute",
    tag: "One-shots",
    scope: "execute",
    summary: "Answer a question with code that a model writes",
    description:
      "The endpoint of the claude-code-templates Cloudflare worker. The model writes the code, a sandbox of its own runs it. " +
      "Problem documents carry the text in `error` as well, where clients of that worker look for it.",
    body: QuestionBodySchema,
    answers: { 200: { description: "The code has run", content: { "application/json": QuestionResultSchema } } },
    problems: [429, 502, 503],
    async handler({ c, env, request, caller, body }) {
      const started = Date.now();
      const language = body.language ?? "python";
      requireModel(env);
      await checkEngine(env);
      const id = newOneshotId();
      const timeoutMs = body.timeout || LIMITS.EXECUTE_TIMEOUT_S_DEFAULT * 1000;
      // The model is asked within the quota as well: it is what costs.
      const work = admitted(env, caller, id, async () => {
        const spend = spender(env, caller, id);
        const code = await codeFor(env, body.question, language, body.maxTokens ?? 0, spend);
        const result = await withEphemeralSandbox(env, id, undefined, (sandbox) =>
          prepared(env, sandbox, { language, code }, (spec) =>
            collect(env, sandbox, { ...spec, timeoutMs }, request.signal),
          ),
        );
        return { code, result };
      });
      const { code, result } = await kept(c, work);
      const late = result.timed_out ? `The code was ended after ${timeoutMs} ms.` : "";
      return json({
        success: result.exit_code === 0 && !result.timed_out,
        question: body.question,
        code,
        output: result.stdout,
        error: [result.stderr, late].filter((text) => text !== "").join("\n"),
        sandboxId: id,
        executionTime: Date.now() - started,
      });
    },
  });
}

async function requireTemplate(env: Env, name: string | undefined): Promise<void> {
  if (name === undefined) return;
  await checkEngine(env);
  const refusal = await templateRefusal(env, name);
  if (refusal !== null) throw problem(refusal.code, refusal.detail, { field: "/template" });
}

/** Counts what the one-shot `id` costs against the caller's day. Throws where that cannot be known. */
function spender(env: Env, caller: Caller, id: string): (costUsd: number) => Promise<void> {
  const limited = quotaOf(env, caller)?.spend_usd_per_day !== undefined;
  if (limited) requirePrice(env);
  return async (costUsd) => {
    if (limited) await tenantObject(env, caller.tenant).spent(id, Math.round(costUsd * 1e6));
  };
}

/** Does the work of the one-shot `id` within the caller's quota, and gives its place back. */
async function admitted<T>(env: Env, caller: Caller, id: string, work: () => Promise<T>): Promise<T> {
  await admit(env, caller, id, LIMITS.ONESHOT_ALIVE_MS_MAX);
  try {
    return await work();
  } finally {
    await released(env, caller, id);
  }
}

/** Lays out the files and the code, then hands on the command that runs it. */
async function prepared<T>(
  env: Env,
  sandbox: SandboxHandle,
  body: ExecuteBody,
  run: (spec: CommandSpec) => Promise<T>,
): Promise<T> {
  const runner = RUNNERS[body.language];
  const files = body.files ?? [];
  const code = freeName(runner.extension, files);
  try {
    // The first call starts the sandbox; the others may then go side by side.
    await writeText(sandbox, code, body.code);
    await Promise.all(
      files.map(async (file) => {
        if (file.encoding === "base64") await sandbox.writeFile(file.path, file.content, { encoding: "base64" });
        else await writeText(sandbox, file.path, file.content);
      }),
    );
    const modes = files.flatMap((file) =>
      file.mode === undefined ? [] : [`chmod ${file.mode} -- ${shellQuote(file.path)}`],
    );
    for (let at = 0; at < modes.length; at += CHMODS_PER_COMMAND) {
      await sandbox.exec(modes.slice(at, at + CHMODS_PER_COMMAND).join(" && "), { origin: "internal" });
    }
  } catch (error) {
    throw await sandboxFailure(env, error, "the files");
  }
  return run({
    command: [...runner.argv, code].map(shellQuote).join(" "),
    cwd: "/workspace",
    env: { ...runner.env, ...body.env },
    stdin: body.stdin,
    timeoutMs: (body.timeout_s ?? LIMITS.EXECUTE_TIMEOUT_S_DEFAULT) * 1000,
    masksShapes: true,
  });
}

/** items: so many longest paths, quoted, fit into one command. */
const CHMODS_PER_COMMAND = 6;

/** `main.<extension>`, or the first `main-<n>` that none of the caller's files takes. */
function freeName(extension: string, files: readonly FileBody[]): string {
  const taken = new Set(files.map((file) => file.path));
  for (let n = 0; ; n += 1) {
    const path = `/workspace/main${n === 0 ? "" : `-${n}`}.${extension}`;
    if (!taken.has(path)) return path;
  }
}
