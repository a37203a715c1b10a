/** Sandboxes of sessions: getting one, starting it, laying out its workspace, destroying it. */
import { getSandbox } from "@cloudflare/sandbox";
import type { Sandbox } from "../../../sandbox-sdk-shim/src/sandbox.js";
import type { Env } from "../env.js";
import type { SandboxLimits } from "../session/limits.js";
import { checkEngine } from "./engine.js";
import { gitScript, sh } from "./workspace.js";

/** What the effects use of a sandbox; getSandbox() gives it. */
export type SandboxStub = Pick<
  Sandbox,
  | "exec"
  | "execStream"
  | "writeFile"
  | "readFile"
  | "readFileStream"
  | "mkdir"
  | "retire"
  | "runtime"
  | "setOwner"
  | "setTemplate"
  | "setLimits"
  | "openPreview"
  | "previews"
  | "closePreview"
  | "createSession"
  | "fetch"
>;

/** A file of the session request, decoded. */
export interface WorkspaceFile {
  /** Absolute and normalized, inside /workspace or /tmp. */
  readonly path: string;
  readonly bytes: Uint8Array;
  /** Octal permission bits, or null for the default. */
  readonly mode: string | null;
}

export interface StartedSandbox {
  /** Which start of the sandbox this is; see Sandbox.runtime(). */
  readonly boot: string | null;
  /** Git tree of the workspace as laid out. */
  readonly tree: string;
}

/**
 * A session's sandbox lives until the session ends it; the SDK's own idle time-out only has to be longer than the longest
 * session (TIMEOUT_S_MAX is a day).
 */
const SLEEP_AFTER = "25h";
/** items: files written at the same time. */
const WRITE_PARALLEL = 6;
/** bytes: longest command that is surely accepted (one argument of execve is bounded by 128 KiB). */
const COMMAND_CAP = 96 * 1024;

/** The sandbox `id`, commands without a shell session, so that output is verbatim and commands run in parallel. */
export function sessionSandbox(env: Env, id: string): Sandbox {
  return getSandbox(env.SANDBOX, id, { enableDefaultSession: false, sleepAfter: SLEEP_AFTER });
}

/** Starts the sandbox for the Session object `owner` on `template` ("" for the default root) with the `limits` of its policy, writes the files, records the workspace's first tree. Doing it again does no harm. */
export async function startSandbox(
  env: Env,
  sandbox: SandboxStub,
  owner: string,
  template: string,
  limits: SandboxLimits,
  files: readonly WorkspaceFile[],
): Promise<StartedSandbox> {
  await checkEngine(env);
  await sandbox.setOwner(owner);
  if (template !== "") await sandbox.setTemplate(template);
  if (Object.keys(limits).length > 0) await sandbox.setLimits(limits);
  await run(sandbox, `mkdir -p /workspace /var/lib/caisson/runs`);
  const queue = [...files];
  const writer = async (): Promise<void> => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      await sandbox.writeFile(file.path, Buffer.from(file.bytes).toString("base64"), { encoding: "base64" });
    }
  };
  await Promise.all(Array.from({ length: Math.min(WRITE_PARALLEL, files.length) }, writer));
  for (const command of chmodCommands(files)) await run(sandbox, command);
  const { stdout } = await run(sandbox, gitScript(`init_baseline; write_tree`));
  const { boot } = await sandbox.runtime();
  return { boot, tree: lastLine(stdout) };
}

/** chmod commands for the files that ask for a mode, each short enough for one execve. */
function chmodCommands(files: readonly WorkspaceFile[]): string[] {
  const commands: string[] = [];
  let command = "";
  for (const { path, mode } of files) {
    if (mode === null) continue;
    const part = `chmod ${sh(mode)} ${sh(path)}`;
    if (command !== "" && command.length + part.length > COMMAND_CAP) {
      commands.push(command);
      command = "";
    }
    command = command === "" ? part : `${command} && ${part}`;
  }
  return command === "" ? commands : [...commands, command];
}

/** Runs a command that must succeed; throws with its standard error when it does not. */
export async function run(
  sandbox: Pick<SandboxStub, "exec">,
  command: string,
): Promise<{ stdout: string; stderr: string }> {
  const result = await sandbox.exec(command, { origin: "internal" });
  if (result.exitCode !== 0) {
    const why = (result.stderr || result.stdout).trim().slice(-500);
    throw new Error(`a command in the sandbox failed with status ${result.exitCode}: ${why}`);
  }
  return { stdout: result.stdout, stderr: result.stderr };
}

export function lastLine(text: string): string {
  return text.trimEnd().split("\n").at(-1) ?? "";
}
