/**
 * One object per tenant: what its sessions use together, counted where two requests cannot race, and its audit log of
 * administrative acts.
 */
import { DurableObject } from "cloudflare:workers";
import module from "../../../build/guard.wasm";
import { Guard } from "../core/guard.js";
import type { Env } from "../env.js";
import { type AuditPage, auditHead } from "./audit.js";
import type { Quota } from "./quotas.js";

const SECOND_MS = 1_000;
const MINUTE_MS = 60_000;
const DAY_MS = 86_400_000;
/** characters: a page of the audit log ends after the line that passes this. */
const AUDIT_PAGE_MAX = 1 << 20;

export interface Refused {
  readonly limit: keyof Quota;
  readonly max: number;
  readonly retryAfterS: number;
}

/** What became of asking for room: refused, or let in, and whether this call is what counted it. */
export interface Admission {
  readonly refused: Refused | null;
  readonly counted: boolean;
}

export interface TenantRpc {
  /** Counts a request. Null: go on. */
  request(quota: Quota): Promise<Refused | null>;
  /**
   * Counts a start that is alive for at most `aliveMs`. Nothing is counted when it is refused, nor when it is known: a creation
   * that is repeated with its Idempotency-Key is no second session.
   */
  admit(quota: Quota, startId: string, aliveMs: number): Promise<Admission>;
  /** What was started lives until then at the longest. */
  alive(startId: string, untilMs: number): Promise<void>;
  ended(startId: string): Promise<void>;
  /** What a session has cost in all so far; told again it counts once. Whether the tenant's day has cost `maxUsd` with it. */
  spent(sessionId: string, microUsd: number, maxUsd?: number): Promise<boolean>;
  /** Adds an administrative act to the audit log. */
  act(fields: Record<string, unknown>): Promise<void>;
  /** What the log's first line names. */
  auditId(): Promise<string>;
  /** Acts after the `after`th. */
  audit(after: number): Promise<AuditPage>;
}

export class Tenant extends DurableObject<Env> implements TenantRpc {
  readonly #sql: SqlStorage;
  /** Times of the requests let in within a second, oldest first; a new instance begins with none. */
  #requests: number[] = [];

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    this.#sql = ctx.storage.sql;
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS alive (id TEXT PRIMARY KEY, until_ms INTEGER NOT NULL) STRICT, WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS starts (at_ms INTEGER NOT NULL) STRICT;
      CREATE TABLE IF NOT EXISTS spend (session TEXT PRIMARY KEY, day INTEGER NOT NULL, before_micro INTEGER NOT NULL, micro INTEGER NOT NULL) STRICT, WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS acts (n INTEGER PRIMARY KEY, line TEXT NOT NULL) STRICT;
      CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;
    `);
  }

  async request(quota: Quota): Promise<Refused | null> {
    const max = quota.requests_per_second;
    if (max === undefined) return null;
    const now = Date.now();
    // Not by the second of the clock: twice as many would pass around its turn.
    const since = this.#requests.findIndex((time) => time > now - SECOND_MS);
    this.#requests = since < 0 ? [] : this.#requests.slice(since);
    if (this.#requests.length >= max) return { limit: "requests_per_second", max, retryAfterS: 1 };
    this.#requests.push(now);
    return null;
  }

  // Between the question and the count nothing is awaited, so no other call comes between them.
  async admit(quota: Quota, startId: string, aliveMs: number): Promise<Admission> {
    const now = Date.now();
    this.#sql.exec("DELETE FROM alive WHERE until_ms <= ?", now);
    this.#sql.exec("DELETE FROM starts WHERE at_ms <= ?", now - MINUTE_MS);
    if (this.#number("SELECT count(*) AS n FROM alive WHERE id = ?", startId) > 0)
      return { refused: null, counted: false };
    const refused = this.#refuseStart(quota, now);
    if (refused !== null) return { refused, counted: false };
    this.#sql.exec("INSERT INTO alive (id, until_ms) VALUES (?, ?)", startId, now + aliveMs);
    this.#sql.exec("INSERT INTO starts (at_ms) VALUES (?)", now);
    return { refused: null, counted: true };
  }

  #number(query: string, ...values: (string | number)[]): number {
    return [...this.#sql.exec<{ n: number | null }>(query, ...values)][0]?.n ?? 0;
  }

  #refuseStart(quota: Quota, now: number): Refused | null {
    if (quota.sessions_alive !== undefined && this.#number("SELECT count(*) AS n FROM alive") >= quota.sessions_alive)
      return { limit: "sessions_alive", max: quota.sessions_alive, retryAfterS: 30 };
    if (
      quota.starts_per_minute !== undefined &&
      this.#number("SELECT count(*) AS n FROM starts") >= quota.starts_per_minute
    ) {
      const oldest = this.#number("SELECT min(at_ms) AS n FROM starts") || now;
      const retryAfterS = Math.max(1, Math.ceil((oldest + MINUTE_MS - now) / 1_000));
      return { limit: "starts_per_minute", max: quota.starts_per_minute, retryAfterS };
    }
    if (quota.spend_usd_per_day !== undefined && this.#isSpent(quota.spend_usd_per_day, now)) {
      const retryAfterS = Math.ceil(((Math.floor(now / DAY_MS) + 1) * DAY_MS - now) / 1_000);
      return { limit: "spend_usd_per_day", max: quota.spend_usd_per_day, retryAfterS };
    }
    return null;
  }

  #isSpent(maxUsd: number, now: number): boolean {
    const query = "SELECT total(micro - before_micro) AS n FROM spend WHERE day = ?";
    return this.#number(query, Math.floor(now / DAY_MS)) >= maxUsd * 1e6;
  }

  async alive(startId: string, untilMs: number): Promise<void> {
    this.#sql.exec("INSERT OR REPLACE INTO alive (id, until_ms) VALUES (?, ?)", startId, untilMs);
  }

  async ended(startId: string): Promise<void> {
    this.#sql.exec("DELETE FROM alive WHERE id = ?", startId);
  }

  async spent(sessionId: string, microUsd: number, maxUsd?: number): Promise<boolean> {
    const now = Date.now();
    const day = Math.floor(now / DAY_MS);
    // A session over midnight counts for each day what it cost on that day.
    this.#sql.exec(
      `INSERT INTO spend (session, day, before_micro, micro) VALUES (?1, ?2, 0, ?3)
       ON CONFLICT (session) DO UPDATE SET before_micro = CASE WHEN day = ?2 THEN before_micro ELSE micro END, day = ?2, micro = max(micro, ?3)`,
      sessionId,
      day,
      microUsd,
    );
    this.#sql.exec("DELETE FROM spend WHERE day < ?", day - 1);
    return maxUsd !== undefined && this.#isSpent(maxUsd, now);
  }

  async act(fields: Record<string, unknown>): Promise<void> {
    const guard = new Guard(module);
    this.ctx.storage.transactionSync(() => {
      const n = ([...this.#sql.exec<{ n: number | null }>("SELECT max(n) AS n FROM acts")][0]?.n ?? 0) + 1;
      const line = JSON.stringify({ n, time: new Date().toISOString(), ...fields });
      const head = guard.auditPush(this.#head(guard), new TextEncoder().encode(`${line}\n`));
      this.#sql.exec("INSERT INTO acts (n, line) VALUES (?, ?)", n, line);
      this.#sql.exec("INSERT OR REPLACE INTO meta (key, value) VALUES ('audit', ?)", head);
    });
  }

  get #auditName(): string {
    return `tenant ${this.ctx.id.toString()}`;
  }

  async auditId(): Promise<string> {
    return this.#auditName;
  }

  async audit(after: number): Promise<AuditPage> {
    const query = "SELECT n, line FROM acts WHERE n > ? ORDER BY n";
    const lines: string[] = [];
    let next = after;
    let bytes = 0;
    for (const { n, line } of this.#sql.exec<{ n: number; line: string }>(query, after)) {
      if (bytes > AUDIT_PAGE_MAX) return { lines, next, head: null };
      lines.push(line);
      bytes += line.length;
      next = n;
    }
    return { lines, next, head: auditHead(this.#head(new Guard(module))) };
  }

  #head(guard: Guard): Uint8Array {
    const row = [...this.#sql.exec<{ value: ArrayBuffer }>("SELECT value FROM meta WHERE key = 'audit'")][0];
    return row === undefined ? guard.auditBegin(this.#auditName) : new Uint8Array(row.value);
  }
}
