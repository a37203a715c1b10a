/** Rows that follow from events: the session's state and its runs. Called inside the event's transaction. */
import type { LogEvent } from "../core/core.js";
import type { Usage } from "./api.js";
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

/** The usage object with every counter present; null when the outcome carries none. */
function usageOf(value: unknown): Usage | null {
  if (typeof value !== "object" || value === null) return null;
  const given = value as Record<string, unknown>;
  const usage = emptyUsage();
  for (const name of Object.keys(usage) as (keyof Usage)[]) usage[name] = number(given[name]) ?? 0;
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
  };
}

function text(value: unknown): string | null {
  return typeof value === "string" ? value : null;
}

function number(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}
