/** What waits for somebody's word before it leaves the sandbox: git pushes, where the policy says so. */
import type { ApprovalDecision, ApprovalView, PushedRef } from "./api.js";

/** items: approvals that wait at the same time; a push that finds so many is refused. */
const PENDING_MAX = 16;
/** items: approvals that are kept; the oldest go. With DIFF_KEPT_MAX, what one list can be. */
const KEPT_MAX = 50;
/** bytes of a push's diff that are kept. */
export const DIFF_KEPT_MAX = 262_144;

interface Row {
  [column: string]: SqlStorageValue;
  n: number;
  id: string;
  host: string;
  path: string;
  refs: string;
  diff: string;
  diff_cut: number;
  state: string;
  created_ms: number;
  expires_ms: number;
  resolved_ms: number | null;
  resolved_by: string;
  reason: string;
}

export interface NewApproval {
  readonly host: string;
  readonly path: string;
  readonly refs: readonly PushedRef[];
  readonly diff: string;
  readonly diffCut: boolean;
}

export class Approvals {
  readonly #sql: SqlStorage;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
  }

  #table(): void {
    this.#sql.exec(
      `CREATE TABLE IF NOT EXISTS approvals (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, host TEXT NOT NULL, path TEXT NOT NULL, refs TEXT NOT NULL,
        diff TEXT NOT NULL, diff_cut INTEGER NOT NULL, state TEXT NOT NULL, created_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL,
        resolved_ms INTEGER, resolved_by TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL DEFAULT '') STRICT`,
    );
  }

  get isFull(): boolean {
    this.#table();
    const query = "SELECT count(*) AS n FROM approvals WHERE state = 'pending'";
    return ([...this.#sql.exec<{ n: number }>(query)][0]?.n ?? 0) >= PENDING_MAX;
  }

  add(id: string, { host, path, refs, diff, diffCut }: NewApproval, nowMs: number, expiresMs: number): ApprovalView {
    this.#table();
    this.#sql.exec(
      "INSERT INTO approvals (id, host, path, refs, diff, diff_cut, state, created_ms, expires_ms) VALUES (?, ?, ?, ?, ?, ?, 'pending', ?, ?)",
      id,
      host,
      path,
      JSON.stringify(refs),
      diff,
      diffCut ? 1 : 0,
      nowMs,
      expiresMs,
    );
    this.#sql.exec(
      "DELETE FROM approvals WHERE state <> 'pending' AND n <= (SELECT max(n) FROM approvals) - ?",
      KEPT_MAX,
    );
    return this.get(id) as ApprovalView;
  }

  get(id: string): ApprovalView | null {
    this.#table();
    return [...this.#sql.exec<Row>("SELECT * FROM approvals WHERE id = ?", id)].map(view)[0] ?? null;
  }

  list(): ApprovalView[] {
    this.#table();
    return [...this.#sql.exec<Row>("SELECT * FROM approvals ORDER BY n")].map(view);
  }

  /** Those that wait and whose time is over. */
  due(nowMs: number): ApprovalView[] {
    this.#table();
    const query = "SELECT * FROM approvals WHERE state = 'pending' AND expires_ms <= ?";
    return [...this.#sql.exec<Row>(query, nowMs)].map(view);
  }

  resolve(id: string, state: ApprovalDecision, by: string, reason: string, nowMs: number): void {
    this.#sql.exec(
      "UPDATE approvals SET state = ?, resolved_by = ?, reason = ?, resolved_ms = ? WHERE id = ? AND state = 'pending'",
      state,
      by,
      reason,
      nowMs,
      id,
    );
  }
}

function view(row: Row): ApprovalView {
  return {
    id: row.id,
    kind: "git_push",
    state: row.state as ApprovalView["state"],
    host: row.host,
    path: row.path,
    refs: JSON.parse(row.refs) as PushedRef[],
    diff: row.diff,
    diff_truncated: row.diff_cut === 1,
    created_at: new Date(row.created_ms).toISOString(),
    expires_at: new Date(row.expires_ms).toISOString(),
    resolved_at: row.resolved_ms === null ? null : new Date(row.resolved_ms).toISOString(),
    resolved_by: row.resolved_by,
    reason: row.reason,
  };
}
