/** The limits of a session's policy beside those that its caller asks for: of two, the stricter one holds. */
import { BOUND } from "../core/abi.gen.js";
import type { Limits } from "../routes/schemas.js";

/** What the core counts (its SET_LIMITS). */
const BUDGET = [
  "wall_s",
  "idle_s",
  "turns",
  "tool_calls",
  "tokens",
  "output_tokens",
  "cost_usd",
  "output_bytes",
] as const;
/** What the sandbox is started with. */
const SANDBOX = ["memory_mb", "cpus", "processes", "disk_mb"] as const;

/** `limits` of a compiled policy. */
export type PolicyLimits = { readonly [name in (typeof BUDGET)[number] | (typeof SANDBOX)[number]]?: number };
export type SandboxLimits = { readonly [name in (typeof SANDBOX)[number]]?: number };
/** A change of limits: null lifts one. */
export type LimitsChange = { readonly [name in keyof Limits]?: Limits[name] | null };

/** The limits that hold. */
export function strictest(asked: Limits, policy: PolicyLimits): Limits {
  const limits: Record<string, number> = {};
  for (const name of BUDGET) {
    const most = name === "output_bytes" ? BOUND.LIMIT_MAX : Number.POSITIVE_INFINITY;
    const both = [asked[name], policy[name]].filter((limit) => limit !== undefined);
    if (both.length > 0) limits[name] = Math.min(...both, most);
  }
  return limits;
}

/** What was asked for, after a change. */
export function changed(asked: Limits, change: LimitsChange): Limits {
  const merged = Object.entries({ ...asked, ...change }).filter(([, limit]) => limit !== null && limit !== undefined);
  return Object.fromEntries(merged) as Limits;
}

/** The payload of SET_LIMITS that makes these the limits: the others are lifted. */
export function setLimits(limits: Limits): string {
  return JSON.stringify({ limits: Object.fromEntries(BUDGET.map((name) => [name, limits[name] ?? null])) });
}

export function sandboxLimits(policy: PolicyLimits): SandboxLimits {
  const named = SANDBOX.filter((name) => policy[name] !== undefined);
  return Object.fromEntries(named.map((name) => [name, policy[name]]));
}
