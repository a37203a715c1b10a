/** Rows as the API shows them. */
import { BOUND } from "../core/abi.gen.js";
import type { AgentName, Limits } from "../routes/schemas.js";
import type { Budget, Reached, RunState, RunView, SessionState, SessionView, Usage } from "./api.js";
import { budgetState, emptyUsage } from "./derive.js";
import type { RunRow, Store } from "./store.js";

export function sessionView(store: Store): SessionView {
  const state = budgetState(store);
  return {
    id: store.text("id") ?? "",
    agent: store.text("agent") as AgentName,
    template: store.text("template"),
    state: (store.text("state") ?? "starting") as SessionState,
    created_at: time(store.number("created_ms")) ?? "",
    expires_at: time(store.number("expires_ms")),
    ended_at: time(store.number("ended_ms")),
    ended_reason: store.text("ended_reason"),
    timeout_s: store.number("timeout_s") ?? BOUND.SESSION_TIMEOUT_S_DEFAULT,
    metadata: JSON.parse(store.text("metadata") ?? "{}") as Record<string, string>,
    runs: store.runCount,
    last_seq: store.lastSeq,
    usage: state?.session.usage ?? emptyUsage(),
    limits: state?.session.limits ?? {},
    budget: state?.session.budget ?? {},
    price_table: state?.price_table ?? null,
  };
}

export function runView(store: Store, row: RunRow): RunView {
  const request = JSON.parse(row.request) as { prompt?: string; command?: string; limits?: Limits };
  const kept = store.budget(row.n);
  const state = budgetState(store)?.run;
  const own: { limits?: Limits; budget?: Budget; reached?: Reached | null; usage?: Usage } =
    kept !== null ? JSON.parse(kept) : state?.id === `run_${row.n}` ? state : {};
  return {
    id: `run_${row.n}`,
    session_id: store.text("id") ?? "",
    state: row.state as RunState,
    ...(request.prompt === undefined ? {} : { prompt: request.prompt }),
    ...(request.command === undefined ? {} : { command: request.command }),
    created_at: time(row.created_ms) ?? "",
    started_at: time(row.started_ms),
    ended_at: time(row.ended_ms),
    exit_code: row.exit_code,
    reason: row.reason,
    result: row.result,
    usage: parseUsage(row.usage) ?? own.usage ?? null,
    limits: own.limits ?? request.limits ?? {},
    budget: own.budget ?? {},
    reached: own.reached ?? null,
  };
}

/** Number in `run_N`; 0, which no run has, for anything else. */
export function runNumber(runId: string): number {
  const match = /^run_([1-9]\d{0,8})$/.exec(runId);
  return match === null ? 0 : Number(match[1]);
}

/** Name of the session's sandbox: letters, digits and dashes, as host names want it. */
export function sandboxName(store: Store): string {
  return (store.text("id") ?? "").toLowerCase().replace(/[^a-z0-9-]/g, "-");
}

function parseUsage(text: string | null): Usage | null {
  return text === null ? null : (JSON.parse(text) as Usage);
}

function time(ms: number | null): string | null {
  return ms === null ? null : new Date(ms).toISOString();
}
