/**
 * Is there an engine behind the sandboxes? In production there always is (the platform); locally it is a daemon that may not
 * have been started, and the SDK would then try for two minutes before it says so.
 */
import type { Env } from "../env.js";
import { engineUnavailable, type Problem } from "../errors.js";
import { LIMITS } from "../limits.js";

export interface EngineHealth {
  readonly ok: boolean;
  readonly detail: string;
}

export async function engineHealth(env: Env): Promise<EngineHealth> {
  const base = env.CAISSON_ENGINE_URL;
  if (base === undefined || base === "") return { ok: true, detail: "Cloudflare Containers" };
  try {
    const response = await fetch(new URL("/v1/health", base), {
      headers: { authorization: `Bearer ${env.CAISSON_ENGINE_TOKEN ?? ""}` },
      signal: AbortSignal.timeout(LIMITS.ENGINE_HEALTH_MS),
    });
    const text = await response.text();
    if (response.ok) return { ok: true, detail: `The local engine answers at ${base}: ${text.trim().slice(0, 200)}` };
    return { ok: false, detail: `The local engine at ${base} answers ${response.status}.` };
  } catch {
    return { ok: false, detail: `The local engine does not answer at ${base}.` };
  }
}

/** milliseconds: an answer of a running sandbox takes less, so the engine is asked only when something is slow. */
const PATIENCE_MS = 400;

/**
 * The result of a call into a sandbox, or the 503 when the call is slow and the engine is away. Costs nothing while calls are
 * quick: no health check stands in their way.
 */
export async function guarded<T>(env: Env, call: Promise<T>): Promise<T> {
  if (env.CAISSON_ENGINE_URL === undefined || env.CAISSON_ENGINE_URL === "") return call;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const away = new Promise<Problem>((resolve) => {
    timer = setTimeout(() => {
      void engineHealth(env).then((health) => {
        if (!health.ok) resolve(engineUnavailable(health.detail));
      });
    }, PATIENCE_MS);
  });
  try {
    const first = await Promise.race([call.then((value) => ({ value })), away.then((problem) => ({ problem }))]);
    if ("value" in first) return first.value;
    call.catch(() => undefined);
    throw first.problem;
  } finally {
    clearTimeout(timer);
  }
}
