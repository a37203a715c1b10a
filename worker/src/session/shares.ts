/** Links that let others read a session. The token is not kept: only its id, which can be revoked. */
import type { ShareView } from "./api.js";

/** items: links of one session that have not expired. */
export const SHARES_MAX = 100;

interface Row {
  [column: string]: SqlStorageValue;
  id: string;
  created_ms: number;
  expires_ms: number;
  revoked_ms: number | null;
}

export class Shares {
  readonly #sql: SqlStorage;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
  }

  #table(): void {
    this.#sql.exec(
      "CREATE TABLE IF NOT EXISTS shares (id TEXT PRIMARY KEY, created_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, revoked_ms INTEGER) STRICT, WITHOUT ROWID",
    );
  }

  /** False when there are too many. */
  add(id: string, nowMs: number, expiresMs: number): boolean {
    this.#table();
    this.#sql.exec("DELETE FROM shares WHERE expires_ms <= ?", nowMs);
    if (this.list().length >= SHARES_MAX) return false;
    this.#sql.exec("INSERT INTO shares (id, created_ms, expires_ms) VALUES (?, ?, ?)", id, nowMs, expiresMs);
    return true;
  }

  list(): ShareView[] {
    this.#table();
    return [...this.#sql.exec<Row>("SELECT * FROM shares ORDER BY created_ms, id")].map((row) => ({
      id: row.id,
      created_at: new Date(row.created_ms).toISOString(),
      expires_at: new Date(row.expires_ms).toISOString(),
      revoked_at: row.revoked_ms === null ? null : new Date(row.revoked_ms).toISOString(),
    }));
  }

  /** False when there is none with this id. */
  revoke(id: string, nowMs: number): boolean {
    this.#table();
    return (
      this.#sql.exec("UPDATE shares SET revoked_ms = coalesce(revoked_ms, ?) WHERE id = ?", nowMs, id).rowsWritten > 0
    );
  }

  isLive(id: string, nowMs: number): boolean {
    this.#table();
    const query = "SELECT 1 FROM shares WHERE id = ? AND revoked_ms IS NULL AND expires_ms > ?";
    return [...this.#sql.exec(query, id, nowMs)].length > 0;
  }
}
