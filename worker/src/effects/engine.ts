/** Whether sandboxes can be had at all, asked before anything is started. */
import type { Env } from "../env.js";

/** milliseconds: the engine is on this machine. */
const HEALTH_MS = 1_500;

/** Thrown where a sandbox is wanted and the local engine does not answer; the routes make it a 503. */
export class EngineUnavailable extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "EngineUnavailable";
  }
}

/**
 * Throws EngineUnavailable when a local engine is configured and does not answer its health check. The SDK repeats a
 * failing start for up to two minutes, so this is asked first. In production it returns at once.
 */
export async function checkEngine(env: Env): Promise<void> {
  if (env.CAISSON_ENGINE_URL === undefined || env.CAISSON_ENGINE_URL === "") return;
  const url = env.CAISSON_ENGINE_URL.replace(/\/$/, "");
  let status: number;
  try {
    const response = await fetch(`${url}/v1/health`, {
      headers: { authorization: `Bearer ${env.CAISSON_ENGINE_TOKEN ?? ""}` },
      signal: AbortSignal.timeout(HEALTH_MS),
    });
    await response.body?.cancel();
    status = response.status;
  } catch (cause) {
    throw new EngineUnavailable(`the local sandbox engine at ${url} does not answer: run \`make dev\``, { cause });
  }
  if (status !== 200) {
    throw new EngineUnavailable(`the local sandbox engine at ${url} answered ${status}: restart it with \`make dev\``);
  }
}
