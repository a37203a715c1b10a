/** The sandbox as the routes use it, and its errors as problems. */
import type { ISandbox } from "@cloudflare/sandbox";
import { operatorMask, report } from "../effects/report.js";
import { sessionSandbox } from "../effects/sandbox.js";
import type { Env } from "../env.js";
import { engineUnavailable, Problem, type ProblemCode, problem } from "../errors.js";
import type { CommandAccess } from "../session/api.js";
import { engineHealth } from "./engine.js";
import { type SessionRef, sessionObject, unwrap } from "./session-object.js";

/** What the routes call of the SDK. */
export type SandboxHandle = Pick<
  ISandbox,
  | "execStream"
  | "listProcesses"
  | "killProcess"
  | "writeFile"
  | "readFileStream"
  | "deleteFile"
  | "mkdir"
  | "listFiles"
  | "exists"
  | "exec"
>;

/** The sandbox of a session; throws the Session's own refusal when there is none to use. */
export async function sandboxOfSession(env: Env, session: SessionRef): Promise<SandboxHandle> {
  const sandboxId = unwrap(await sessionObject(env, session).sandboxId());
  return sessionSandbox(env, sandboxId);
}

/** The same for a command: with what goes into its environment and what must not come out. */
export async function commandsOfSession(
  env: Env,
  session: SessionRef,
): Promise<{ sandbox: SandboxHandle; access: CommandAccess }> {
  const access = unwrap(await sessionObject(env, session).commands());
  return { sandbox: sessionSandbox(env, access.sandboxId), access };
}

/** Masks by the session's own redactor, which knows its secrets. */
export function sessionMask(env: Env, session: SessionRef): (text: string) => Promise<string> {
  return (text) => sessionObject(env, session).masked(text);
}

/** Writes a text file. Text with NUL goes as base64: the local container server's JSON strings end at the first one. */
export async function writeText(sandbox: SandboxHandle, path: string, text: string): Promise<void> {
  if (text.includes("\0")) {
    await sandbox.writeFile(path, Buffer.from(text, "utf-8").toString("base64"), { encoding: "base64" });
  } else {
    await sandbox.writeFile(path, text, { encoding: "utf-8" });
  }
}

/** `text` as one word of a POSIX shell, whatever is in it. */
export function shellQuote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Codes of the container server (its error bodies and the SDK's error classes carry them) → ours. */
const CODES: Record<string, ProblemCode> = {
  FILE_NOT_FOUND: "file_not_found",
  IS_DIRECTORY: "is_directory",
  NOT_DIRECTORY: "not_a_directory",
  NAME_TOO_LONG: "too_long",
  PERMISSION_DENIED: "permission_denied",
  READ_ONLY: "permission_denied",
  FILE_EXISTS: "file_exists",
  FILE_TOO_LARGE: "file_too_large",
  SANDBOX_RETIRED: "session_ended",
};

/**
 * The problem for an error that came out of the SDK, or the 503 when what is behind it is that the engine has gone: a running
 * sandbox's object then reports whatever broke first. `mask` takes out of its words what they must not have.
 */
export async function sandboxFailure(
  env: Env,
  error: unknown,
  subject: string,
  mask: (text: string) => string | Promise<string> = operatorMask(env),
): Promise<Problem> {
  const told = sandboxProblem(error, subject);
  // Its words are those of a program in the sandbox, as far as it chose to.
  const found = new Problem(told.status, told.code, await mask(told.message), told.options);
  if (found.code === "sandbox_error" && !(error instanceof Problem))
    report(operatorMask(env), "error", `sandbox: ${found.message}`);
  if (found.code !== "sandbox_error") return found;
  const health = await engineHealth(env);
  return health.ok ? found : engineUnavailable(health.detail);
}

/**
 * The problem for an error that came out of the SDK. Its class and its getters are lost on the way through RPC: what stays is
 * the own property `errorResponse`, or the text.
 */
function sandboxProblem(error: unknown, subject: string): Problem {
  if (error instanceof Problem) return error;
  const message = error instanceof Error ? error.message : String(error);
  const code = errorCode(error);
  // Under the server's code for whatever else a file can have, its words, those of the system, say more.
  const told = code === undefined || code === "FILESYSTEM_ERROR" ? codeInText(message) : code;
  if (told === "CONTAINER_UNAVAILABLE") return engineUnavailable("The sandbox could not be reached.");
  const known = told === undefined ? undefined : CODES[told];
  if (known !== undefined) return problem(known, `${subject}: ${message.slice(0, 500)}`, { field: "path" });
  return problem("sandbox_error", `${subject}: ${message.slice(0, 500)}`);
}

function errorCode(error: unknown): string | undefined {
  for (const holder of [ownValue(error, "errorResponse"), error]) {
    const code = ownValue(holder, "code");
    if (typeof code === "string") return code;
  }
  return undefined;
}

function codeInText(message: string): string | undefined {
  const patterns: [RegExp, string][] = [
    [/not found|no such file|ENOENT/i, "FILE_NOT_FOUND"],
    [/not a directory|ENOTDIR|cannot overwrite non-directory|create directory .*: File exists/i, "NOT_DIRECTORY"],
    [/is a directory|EISDIR|cannot overwrite directory|directory not empty|subdirectory of itself/i, "IS_DIRECTORY"],
    [/permission denied|EACCES|EPERM/i, "PERMISSION_DENIED"],
    [/name too long|ENAMETOOLONG/i, "NAME_TOO_LONG"],
    [/destroyed with its session/i, "SANDBOX_RETIRED"],
    [/no container instance|container is not running|not listening/i, "CONTAINER_UNAVAILABLE"],
  ];
  return patterns.find(([pattern]) => pattern.test(message))?.[1];
}

function ownValue(holder: unknown, name: string): unknown {
  return typeof holder === "object" && holder !== null ? Reflect.get(holder, name) : undefined;
}
