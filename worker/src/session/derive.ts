/** Rows that follow from events: the session's state and its runs. Called inside the event's transaction. */
import type { LogEvent } from "../core/core.js";
import type { Limits } from "../routes/schemas.js";
import type { Budget, Reached, Usage } from "./api.js";
import { outcomeOf, type Store } from "./store.js";

/** Fields of the events that are read here; all of them may be absent. */
interface Fields {
  readonly reason?: unknown;
  readonly detail?: unknown;
  readonly result?: unknown;
  readonly exit_code?: unknown;
  readonly timeout_s?: unknown;
  readonly expires_ms?: unknown;
  readonly usage?: unknown;
  readonly budget?: unknown;
}

/** FX_BUDGET's payload. */
export interface BudgetState {
  readonly price_table: string;
  readonly may_call: boolean;
  readonly reached: string | null;
  readonly session: BudgetScope;
  readonly run: (BudgetScope & { readonly id: string }) | null;
}
export interface BudgetScope {
  readonly usage: Usage;
  readonly limits: Limits;
  readonly budget: Budget;
}

/** Counters and limits as the core last told them; null in a session that is older than they are. */
export function budgetState(store: Store): BudgetState | null {
  const text = store.text("budget");
  return text === null ? null : (JSON.parse(text) as BudgetState);
}

/** Applies one event; answers whether the session's row in the index changes with it. */
export function applyEvent(store: Store, event: LogEvent, nowMs: number): boolean {
  switch (event.type) {
    case "session.created":
      setExpiry(store, event, nowMs);
      store.set("state", "starting");
      return true;
    case "session.updated":
      setExpiry(store, event, nowMs);
      return true;
    case "session.started":
    case "session.idle":
      if (store.text("state") !== "ending") store.set("state", "idle");
      return true;
    case "session.ended": {
      const fields = JSON.parse(event.json) as Fields;
      store.set("state", "ended");
      store.set("ended_ms", event.timeMs || nowMs);
      store.set("ended_reason", text(fields.reason) ?? text(fields.detail));
      store.set("active_run", null);
      return true;
    }
    case "run.started":
      store.runStarted(event.run, event.timeMs || nowMs);
      if (store.text("state") !== "ending") store.set("state", "running");
      return true;
    default: {
      const outcome = outcomeOf(event.type);
      if (outcome === null) return false;
      const fields = JSON.parse(event.json) as Fields;
      const usage = usageOf(fields.usage);
      keepBudget(store, event.run, fields.budget);
      store.runEnded(
        event.run,
        outcome,
        event.timeMs || nowMs,
        number(fields.exit_code),
        text(fields.reason),
        text(fields.result),
        usage,
      );
      return true;
    }
  }
}

function setExpiry(store: Store, event: LogEvent, nowMs: number): void {
  const fields = JSON.parse(event.json) as Fields;
  const timeoutS = number(fields.timeout_s);
  if (timeoutS !== null) store.set("timeout_s", timeoutS);
  const expires = number(fields.expires_ms) ?? (timeoutS === null ? null : (event.timeMs || nowMs) + timeoutS * 1_000);
  if (expires !== null) store.set("expires_ms", expires);
}

/** The running run's counters become those of a run that is over. The core tells them just before the outcome. */
function keepBudget(store: Store, run: number, reached: unknown): void {
  const state = budgetState(store)?.run;
  const own = state?.id === `run_${run}` ? { limits: state.limits, budget: state.budget } : {};
  store.addBudget(run, JSON.stringify({ ...own, reached: (reached ?? null) as Reached | null }));
}

/** The usage object with every counter present; null when the outcome carries none. */
function usageOf(value: unknown): Usage | null {
  if (typeof value !== "object" || value === null) return null;
  const given = value as Record<string, unknown>;
  const usage = emptyUsage();
  for (const name of Object.keys(usage) as (keyof Usage)[]) usage[name] = number(given[name]) ?? 0;
  if (given["cost_usd"] === null) usage.cost_usd = null;
  return usage;
}

export function emptyUsage(): Usage {
  return {
    input_tokens: 0,
    output_tokens: 0,
    cache_read_tokens: 0,
    cache_write_tokens: 0,
    cost_usd: 0,
    turns: 0,
    tool_calls: 0,
    output_bytes: 0,
    wall_ms: 0,
  };
}

function text(value: unknown): string | null {
  return typeof value === "string" ? value : null;
}

function number(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}
