/**
 * Links that let others read a session, or download one of its artifacts. The token is not kept: only its id, which can be
 * revoked. A link is one or the other: a session's link opens no artifact link's door, and the other way round.
 */
import type { Reader } from "../transport/log.js";
import type { SharedArtifact, ShareView } from "./api.js";

/** items: links of one session that have not expired. */
export const SHARES_MAX = 100;

interface Row {
  [column: string]: SqlStorageValue;
  id: string;
  created_ms: number;
  expires_ms: number;
  revoked_ms: number | null;
  run_id: string | null;
  path: string | null;
}

const LIVE = "id = ? AND revoked_ms IS NULL AND expires_ms > ?";

export class Shares {
  readonly #sql: SqlStorage;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
  }

  #tables(): void {
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS shares (id TEXT PRIMARY KEY, created_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, revoked_ms INTEGER) STRICT, WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS shared_artifacts (share TEXT PRIMARY KEY, run_id TEXT NOT NULL, path TEXT NOT NULL) STRICT, WITHOUT ROWID;
    `);
  }

  /** False when there are too many. */
  add(id: string, nowMs: number, expiresMs: number, artifact: SharedArtifact | null = null): boolean {
    this.#tables();
    this.#sql.exec("DELETE FROM shared_artifacts WHERE share IN (SELECT id FROM shares WHERE expires_ms <= ?)", nowMs);
    this.#sql.exec("DELETE FROM shares WHERE expires_ms <= ?", nowMs);
    if (this.list().length >= SHARES_MAX) return false;
    this.#sql.exec("INSERT INTO shares (id, created_ms, expires_ms) VALUES (?, ?, ?)", id, nowMs, expiresMs);
    if (artifact !== null)
      this.#sql.exec(
        "INSERT INTO shared_artifacts (share, run_id, path) VALUES (?, ?, ?)",
        id,
        artifact.run_id,
        artifact.path,
      );
    return true;
  }

  list(): ShareView[] {
    this.#tables();
    const query = "SELECT * FROM shares LEFT JOIN shared_artifacts ON share = id ORDER BY created_ms, id";
    return [...this.#sql.exec<Row>(query)].map((row) => ({
      id: row.id,
      artifact: row.run_id === null || row.path === null ? null : { run_id: row.run_id, path: row.path },
      created_at: new Date(row.created_ms).toISOString(),
      expires_at: new Date(row.expires_ms).toISOString(),
      revoked_at: row.revoked_ms === null ? null : new Date(row.revoked_ms).toISOString(),
    }));
  }

  /** False when there is none with this id. */
  revoke(id: string, nowMs: number): boolean {
    this.#tables();
    return (
      this.#sql.exec("UPDATE shares SET revoked_ms = coalesce(revoked_ms, ?) WHERE id = ?", nowMs, id).rowsWritten > 0
    );
  }

  /** Whether the id is that of a link to the session which has neither expired nor been revoked. */
  isLive(id: string, nowMs: number): boolean {
    this.#tables();
    const query = `SELECT 1 FROM shares WHERE ${LIVE} AND id NOT IN (SELECT share FROM shared_artifacts)`;
    return [...this.#sql.exec(query, id, nowMs)].length > 0;
  }

  /** Why somebody who reads live may not go on; null when they may. */
  readerEnded({ share, untilMs }: Reader, nowMs: number): string | null {
    if (untilMs !== null && untilMs <= nowMs) return share === "" ? "the token has expired" : "the link has expired";
    return share === "" || this.isLive(share, nowMs) ? null : "the link was revoked";
  }

  /** What a live artifact link stands for; null for every other id. */
  artifact(id: string, nowMs: number): SharedArtifact | null {
    this.#tables();
    const query = `SELECT run_id, path FROM shares JOIN shared_artifacts ON share = id WHERE ${LIVE}`;
    return [...this.#sql.exec<{ run_id: string; path: string }>(query, id, nowMs)][0] ?? null;
  }
}
