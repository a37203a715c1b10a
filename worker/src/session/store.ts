/**
 * The session's tables in the object's SQLite. Nothing here decides anything; session.ts groups the writes of one step
 * into one transaction.
 *
 *   meta       key, value                   the core's snapshot, cursors, the session's own fields
 *   events     seq, type, run, json, raw    the log; `raw` is the agent's line as JSON text, kept with its first event
 *   runs       n, request, state, …         one row a run, derived from its events
 *   budgets    run, json                    counters and limits of runs that are over; those of the session and of the running run are in meta
 *   summaries  run, json                    counts and files of runs that are over, once somebody has asked
 *   artifacts  run, path, …                 files in R2
 *   changed    run, path                    which changed files have been reported, so that a repeated collection says nothing twice
 *   files      n, part, …                   files of the session request until the sandbox has them
 *   pending    id, kind, run, payload       effects that have not been answered; carried out again after an eviction
 */
import type { Effect, LogEvent } from "../core/core.js";
import type { WorkspaceFile } from "../effects/sandbox.js";
import { type LogPage, PAGE_BYTES } from "../transport/log.js";
import type { ArtifactView, EventText, RunState, Usage } from "./api.js";

/** bytes: SQLite of a Durable Object takes values up to 2 MB. */
const PART = 1_500_000;

export interface RunRow {
  [column: string]: SqlStorageValue;
  n: number;
  request: string;
  idempotency_key: string | null;
  state: string;
  created_ms: number;
  started_ms: number | null;
  ended_ms: number | null;
  exit_code: number | null;
  reason: string | null;
  result: string | null;
  usage: string | null;
  tree: string | null;
}

export type PendingKind = "sandboxStart" | "sandboxDestroy" | "runLoad" | "runStart" | "runKill" | "collect";
export interface Pending {
  readonly id: number;
  readonly kind: PendingKind;
  readonly run: number;
  readonly payload: string;
}

/** Tables that came after the others. */
const LATER = `
  CREATE TABLE IF NOT EXISTS budgets (run INTEGER PRIMARY KEY, json TEXT NOT NULL) STRICT, WITHOUT ROWID;
  CREATE TABLE IF NOT EXISTS summaries (run INTEGER PRIMARY KEY, json TEXT NOT NULL) STRICT, WITHOUT ROWID`;

const OUTCOMES = new Set([
  "succeeded",
  "failed",
  "interrupted",
  "cancelled",
  "timed_out",
  "over_budget",
  "policy_violation",
]);

export class Store {
  readonly #sql: SqlStorage;
  #exists: boolean;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
    this.#exists = [...sql.exec("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'meta'")].length > 0;
    if (this.#exists) sql.exec(LATER); // A session of a Worker that had no such tables.
  }

  /** Whether a session was ever created here; an object that was only asked for one stores nothing. */
  get exists(): boolean {
    return this.#exists;
  }

  createTables(): void {
    this.#sql.exec(`
      CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;
      CREATE TABLE events (seq INTEGER PRIMARY KEY, type TEXT NOT NULL, run INTEGER NOT NULL, time_ms INTEGER NOT NULL, json TEXT NOT NULL, raw TEXT) STRICT;
      CREATE INDEX events_by_run ON events (run, seq);
      CREATE TABLE runs (n INTEGER PRIMARY KEY, request TEXT NOT NULL, idempotency_key TEXT UNIQUE, state TEXT NOT NULL, created_ms INTEGER NOT NULL,
        started_ms INTEGER, ended_ms INTEGER, exit_code INTEGER, reason TEXT, result TEXT, usage TEXT, tree TEXT) STRICT;
      ${LATER};
      CREATE TABLE artifacts (run INTEGER NOT NULL, path TEXT NOT NULL, size INTEGER NOT NULL, sha256 TEXT NOT NULL, mode TEXT NOT NULL, r2_key TEXT NOT NULL, PRIMARY KEY (run, path)) STRICT, WITHOUT ROWID;
      CREATE TABLE changed (run INTEGER NOT NULL, path TEXT NOT NULL, PRIMARY KEY (run, path)) STRICT, WITHOUT ROWID;
      CREATE TABLE files (n INTEGER NOT NULL, part INTEGER NOT NULL, path TEXT NOT NULL, mode TEXT, bytes BLOB NOT NULL, PRIMARY KEY (n, part)) STRICT;
      CREATE TABLE pending (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, run INTEGER NOT NULL, payload TEXT NOT NULL) STRICT;
    `);
    this.#exists = true;
  }

  /** A transaction that made the tables was rolled back. */
  rolledBack(): void {
    this.#exists = [...this.#sql.exec("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'meta'")].length > 0;
  }

  /* --- meta --- */

  #meta(key: string): SqlStorageValue {
    return (
      [...this.#sql.exec<{ value: SqlStorageValue }>("SELECT value FROM meta WHERE key = ?", key)][0]?.value ?? null
    );
  }

  text(key: string): string | null {
    const value = this.#meta(key);
    return typeof value === "string" ? value : null;
  }

  number(key: string): number | null {
    const value = this.#meta(key);
    return typeof value === "number" ? value : null;
  }

  bytes(key: string): Uint8Array | null {
    const value = this.#meta(key);
    return value instanceof ArrayBuffer ? new Uint8Array(value) : null;
  }

  set(key: string, value: string | number | Uint8Array | null): void {
    if (value === null) this.#sql.exec("DELETE FROM meta WHERE key = ?", key);
    else
      this.#sql.exec(
        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = ?2",
        key,
        value,
      );
  }

  /* --- events --- */

  addEvent(event: LogEvent, raw: string | null): void {
    this.#sql.exec(
      "INSERT INTO events (seq, type, run, time_ms, json, raw) VALUES (?, ?, ?, ?, ?, ?)",
      event.seq,
      event.type,
      event.run,
      event.timeMs,
      event.json,
      raw,
    );
  }

  /** The events of a run without the agent's lines, oldest first; deltas are left out, their texts come again. */
  *runEvents(run: number): Generator<string> {
    const rows = this.#sql.exec<{ json: string }>(
      "SELECT json FROM events WHERE run = ? AND type != 'agent.text_delta' ORDER BY seq",
      run,
    );
    for (const { json } of rows) yield json;
  }

  eventText(seq: number): string | null {
    return [...this.#sql.exec<{ json: string }>("SELECT json FROM events WHERE seq = ?", seq)][0]?.json ?? null;
  }

  get lastSeq(): number {
    return [...this.#sql.exec<{ seq: number | null }>("SELECT max(seq) AS seq FROM events")][0]?.seq ?? 0;
  }

  /** A page of the log; see EventLog.page. */
  page(after: number, limit: number, withRaw: boolean, run: number | null): LogPage {
    const rows = this.#sql.exec<{ seq: number; type: string; json: string; raw: string | null }>(
      run === null
        ? "SELECT seq, type, json, raw FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2"
        : "SELECT seq, type, json, raw FROM events WHERE run = ?3 AND seq > ?1 ORDER BY seq LIMIT ?2",
      ...(run === null ? [after, limit] : [after, limit, run]),
    );
    const events: EventText[] = [];
    let next = after;
    let bytes = 0;
    for (const row of rows) {
      const json = eventText(row.json, withRaw ? row.raw : null);
      events.push({ seq: row.seq, type: row.type, json });
      next = row.seq;
      bytes += json.length;
      if (bytes >= PAGE_BYTES) break;
    }
    return { events, next, done: this.#isDone(next, run) };
  }

  /** Whether nothing can follow `seq`: the session, or the run that is looked at, has had its last event. */
  #isDone(seq: number, run: number | null): boolean {
    if (this.text("state") === "ended" && seq >= this.lastSeq) return true;
    if (run === null) return false;
    const row = this.run(run);
    if (row === null || !OUTCOMES.has(row.state)) return this.text("state") === "ended";
    return [...this.#sql.exec("SELECT 1 FROM events WHERE run = ? AND seq > ? LIMIT 1", run, seq)].length === 0;
  }

  /* --- runs --- */

  addRun(n: number, request: string, idempotencyKey: string | null, nowMs: number): void {
    this.#sql.exec(
      "INSERT INTO runs (n, request, idempotency_key, state, created_ms) VALUES (?, ?, ?, 'queued', ?)",
      n,
      request,
      idempotencyKey,
      nowMs,
    );
  }

  run(n: number): RunRow | null {
    return [...this.#sql.exec<RunRow>("SELECT * FROM runs WHERE n = ?", n)][0] ?? null;
  }

  runByKey(idempotencyKey: string): RunRow | null {
    return [...this.#sql.exec<RunRow>("SELECT * FROM runs WHERE idempotency_key = ?", idempotencyKey)][0] ?? null;
  }

  runs(): RunRow[] {
    return [...this.#sql.exec<RunRow>("SELECT * FROM runs ORDER BY n")];
  }

  get runCount(): number {
    return [...this.#sql.exec<{ count: number }>("SELECT count(*) AS count FROM runs")][0]?.count ?? 0;
  }

  runStarted(n: number, nowMs: number): void {
    this.#sql.exec("UPDATE runs SET state = 'running', started_ms = ? WHERE n = ?", nowMs, n);
  }

  setRequest(n: number, request: string): void {
    this.#sql.exec("UPDATE runs SET request = ? WHERE n = ?", request, n);
  }

  setTree(n: number, tree: string): void {
    this.#sql.exec("UPDATE runs SET tree = ? WHERE n = ?", tree, n);
  }

  runEnded(
    n: number,
    state: RunState,
    nowMs: number,
    exitCode: number | null,
    reason: string | null,
    result: string | null,
    usage: Usage | null,
  ): void {
    this.#sql.exec(
      "UPDATE runs SET state = ?, ended_ms = ?, exit_code = ?, reason = ?, result = ?, usage = ? WHERE n = ?",
      state,
      nowMs,
      exitCode,
      reason,
      result,
      usage === null ? null : JSON.stringify(usage),
      n,
    );
  }

  addBudget(n: number, json: string): void {
    this.#sql.exec("INSERT OR REPLACE INTO budgets (run, json) VALUES (?, ?)", n, json);
  }

  budget(n: number): string | null {
    return [...this.#sql.exec<{ json: string }>("SELECT json FROM budgets WHERE run = ?", n)][0]?.json ?? null;
  }

  addSummary(n: number, json: string): void {
    this.#sql.exec("INSERT OR REPLACE INTO summaries (run, json) VALUES (?, ?)", n, json);
  }

  summary(n: number): string | null {
    return [...this.#sql.exec<{ json: string }>("SELECT json FROM summaries WHERE run = ?", n)][0]?.json ?? null;
  }

  /* --- artifacts --- */

  addArtifact(run: number, artifact: { path: string; size: number; sha256: string; mode: string; key: string }): void {
    this.#sql.exec(
      "INSERT OR REPLACE INTO artifacts (run, path, size, sha256, mode, r2_key) VALUES (?, ?, ?, ?, ?, ?)",
      run,
      artifact.path,
      artifact.size,
      artifact.sha256,
      artifact.mode,
      artifact.key,
    );
  }

  hasArtifact(run: number, path: string): boolean {
    return [...this.#sql.exec("SELECT 1 FROM artifacts WHERE run = ? AND path = ?", run, path)].length > 0;
  }

  artifacts(): ArtifactView[] {
    const rows = this.#sql.exec<{
      run: number;
      path: string;
      size: number;
      sha256: string;
      mode: string;
      r2_key: string;
    }>("SELECT run, path, size, sha256, mode, r2_key FROM artifacts ORDER BY run, path");
    return [...rows].map(({ run, r2_key, ...rest }) => ({ run_id: `run_${run}`, ...rest, key: r2_key }));
  }

  addChanged(run: number, path: string): void {
    this.#sql.exec("INSERT OR IGNORE INTO changed (run, path) VALUES (?, ?)", run, path);
  }

  hasChanged(run: number, path: string): boolean {
    return [...this.#sql.exec("SELECT 1 FROM changed WHERE run = ? AND path = ?", run, path)].length > 0;
  }

  /* --- files of the request --- */

  addFile(n: number, file: WorkspaceFile): void {
    let part = 0;
    do {
      const bytes = file.bytes.slice(part * PART, (part + 1) * PART);
      this.#sql.exec(
        "INSERT INTO files (n, part, path, mode, bytes) VALUES (?, ?, ?, ?, ?)",
        n,
        part,
        file.path,
        file.mode,
        bytes,
      );
      part += 1;
    } while (part * PART < file.bytes.byteLength);
  }

  files(): WorkspaceFile[] {
    const files = new Map<number, { path: string; mode: string | null; parts: Uint8Array[] }>();
    for (const row of this.#sql.exec<{ n: number; path: string; mode: string | null; bytes: ArrayBuffer }>(
      "SELECT n, path, mode, bytes FROM files ORDER BY n, part",
    )) {
      const file = files.get(row.n) ?? { path: row.path, mode: row.mode, parts: [] };
      file.parts.push(new Uint8Array(row.bytes));
      files.set(row.n, file);
    }
    return [...files.values()].map(({ path, mode, parts }) => ({ path, mode, bytes: Buffer.concat(parts) }));
  }

  dropFiles(): void {
    this.#sql.exec("DELETE FROM files");
  }

  /* --- pending effects --- */

  addPending(kind: PendingKind, run: number, payload: string): void {
    this.#sql.exec("INSERT INTO pending (kind, run, payload) VALUES (?, ?, ?)", kind, run, payload);
  }

  nextPending(): Pending | null {
    const row = [
      ...this.#sql.exec<{ id: number; kind: string; run: number; payload: string }>(
        "SELECT * FROM pending ORDER BY id LIMIT 1",
      ),
    ][0];
    return row === undefined ? null : { ...row, kind: row.kind as PendingKind };
  }

  dropPending(id: number): void {
    this.#sql.exec("DELETE FROM pending WHERE id = ?", id);
  }
}

/** An event as clients and the audit log see it: with the agent's line, when there is one. */
export function eventText(json: string, raw: string | null): string {
  return raw === null ? json : `${json.slice(0, -1)},"raw":${raw}}`;
}

/** The state in a run's outcome type, or null: `run.timed_out` → `timed_out`. */
export function outcomeOf(type: string): RunState | null {
  const state = type.startsWith("run.") ? type.slice(4) : "";
  return OUTCOMES.has(state) ? (state as RunState) : null;
}

/** An effect to be carried out and answered, as a row of `pending`; null for one that is done at once. */
export function pendingOf(effect: Effect): Omit<Pending, "id"> | null {
  switch (effect.kind) {
    case "sandboxStart":
      return { kind: effect.kind, run: 0, payload: effect.template };
    case "sandboxDestroy":
      return { kind: effect.kind, run: 0, payload: "" };
    case "runLoad":
    case "collect":
      return { kind: effect.kind, run: effect.run, payload: "" };
    case "runStart":
      return { kind: effect.kind, run: effect.run, payload: effect.spec };
    case "runKill":
      return { kind: effect.kind, run: effect.run, payload: effect.reason };
    case "event":
    case "wakeAt":
    case "cursor":
    case "digest":
    case "budget":
      return null;
    default: {
      const unknown: never = effect;
      throw new Error(`unknown effect ${JSON.stringify(unknown)}`);
    }
  }
}
