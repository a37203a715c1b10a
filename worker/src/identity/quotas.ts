/**
 * How much a tenant may use. CAISSON_QUOTAS is a JSON object: class → limits; `default` is for tokens without a class. A limit
 * that is absent does not hold; without the variable none does.
 */
import { z } from "@hono/zod-openapi";
import type { Env } from "../env.js";
import { Problem, problem } from "../errors.js";
import type { Caller } from "./caller.js";
import type { Refused, TenantRpc } from "./tenant.js";

export const QuotaSchema = z.strictObject({
  /** items: sessions and one-shots alive at once */
  sessions_alive: z.int().min(0).optional(),
  /** items: sessions and one-shots begun within a minute */
  starts_per_minute: z.int().min(0).optional(),
  /** items: requests within a second */
  requests_per_second: z.int().min(1).optional(),
  /** dollars within a day (UTC), as the sessions have counted them */
  spend_usd_per_day: z.number().min(0).optional(),
});
export type Quota = z.infer<typeof QuotaSchema>;

let held: { readonly text: string; readonly quotas: Record<string, Quota> } | null = null;

/** The caller's limits, null when none hold. Throws a problem for a document that cannot be read. */
export function quotaOf(env: Pick<Env, "CAISSON_QUOTAS">, caller: Pick<Caller, "quota">): Quota | null {
  const text = env.CAISSON_QUOTAS ?? "";
  if (text === "") return null;
  if (held?.text !== text) held = { text, quotas: read(text) };
  const { quotas } = held;
  const name = caller.quota === "" ? "default" : caller.quota;
  // A class that nobody defined would otherwise be one without limits.
  const quota = Object.hasOwn(quotas, name) ? quotas[name] : undefined;
  if (quota !== undefined) return quota;
  if (name === "default") return null;
  throw problem("quota_exceeded", `The token's quota class "${name.slice(0, 64)}" is not defined by the operator.`);
}

function read(text: string): Record<string, Quota> {
  try {
    return z.record(z.string(), QuotaSchema).parse(JSON.parse(text));
  } catch (error) {
    throw problem(
      "bad_keys",
      `CAISSON_QUOTAS cannot be read: ${error instanceof Error ? error.message.slice(0, 300) : ""}`,
    );
  }
}

export function tenantObject(env: Env, tenant: string): TenantRpc {
  return env.TENANT.get(env.TENANT.idFromName(tenant)) as unknown as TenantRpc;
}

/** Counts a request. Throws a 429 when the tenant has made as many as it may. */
export async function countRequest(env: Env, caller: Caller): Promise<void> {
  const quota = quotaOf(env, caller);
  if (quota?.requests_per_second === undefined) return;
  const refused = await tenantObject(env, caller.tenant).request(quota);
  if (refused !== null) throw exceeded(refused);
}

/** Counts the start of a session or a one-shot. Throws a 429 when a limit is reached. Whether this call counted it. */
export async function admit(env: Env, caller: Caller, startId: string, aliveMs: number): Promise<boolean> {
  const quota = quotaOf(env, caller);
  if (quota === null) return false;
  const { refused, counted } = await tenantObject(env, caller.tenant).admit(quota, startId, aliveMs);
  if (refused !== null) throw exceeded(refused);
  return counted;
}

function exceeded({ limit, max, retryAfterS }: Refused): Problem {
  const detail = `The tenant's limit ${limit} (${max}) is reached; try again in ${retryAfterS} s.`;
  return new Problem(429, "quota_exceeded", detail, {
    headers: { "retry-after": String(retryAfterS) },
    extra: { limit, max },
  });
}

/** A session or a one-shot has ended. */
export async function released(env: Env, caller: Caller, startId: string): Promise<void> {
  if (quotaOf(env, caller) !== null) await tenantObject(env, caller.tenant).ended(startId);
}
