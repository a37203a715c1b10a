/** A sandbox for one request. */
import { getSandbox } from "@cloudflare/sandbox";
import type { Sandbox } from "../../../sandbox-sdk-shim/src/sandbox.js";
import type { Env } from "../env.js";
import { checkEngine } from "./engine.js";
import { operatorMask, report } from "./report.js";

/** Backstop for a Worker that dies before it destroys the sandbox. */
const SLEEP_AFTER = "10m";

/**
 * Gives `fn` a fresh sandbox named `id` (lower-case letters, digits and dashes) on `template`, or the default root, and destroys it whatever happens. Throws
 * EngineUnavailable when there is no engine to start it; commands run without a shell session.
 */
export async function withEphemeralSandbox<T>(
  env: Env,
  id: string,
  template: string | undefined,
  fn: (sandbox: Sandbox) => Promise<T>,
): Promise<T> {
  await checkEngine(env);
  const sandbox = getSandbox(env.SANDBOX, id, { enableDefaultSession: false, sleepAfter: SLEEP_AFTER });
  try {
    if (template !== undefined) await sandbox.setTemplate(template);
    return await fn(sandbox);
  } finally {
    await sandbox
      .destroy()
      .catch((error: unknown) => report(operatorMask(env), "error", `sandbox ${id}: destroy`, error));
  }
}
