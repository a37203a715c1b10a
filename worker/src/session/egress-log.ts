/** The lines of the egress log that the object keeps: one for each request that was judged. */
import type { EgressEnd, EgressEntry } from "./api.js";
import type { Store } from "./store.js";

/** items: rows of the egress log; the oldest go, so many at a time. */
const LOG_MAX = 10_000;
const DROPPED_AT_ONCE = 100;
/**
 * milliseconds: an allowed request's line is written at most so long after the verdict. A verdict that waited for the disk would
 * make every request wait for it, and a line that is written together with what became of its request is half the writes.
 */
const WRITE_MS = 5;

/** A line as it begins. */
export type EgressLine = Pick<EgressEntry, "host" | "port" | "method" | "path" | "verdict" | "rule"> & {
  readonly time_ms: number;
};
type Row = Omit<EgressEntry, "time"> & { time_ms: number };

const OPEN = { status: null, bytes_up: null, bytes_down: null, duration_ms: null, address: null };

export class EgressLog {
  readonly #sql: SqlStorage;
  readonly #store: Store;
  readonly #warn: (error: unknown) => void;
  /** Lines that are not in the table yet, by their numbers, the oldest first. */
  readonly #waiting = new Map<number, Row>();
  #made = false;
  /** Number of the newest line that was added here. */
  #lastId = 0;
  /** Writing has failed, and has not succeeded since. */
  #failed = false;

  /** `warn` is told when lines could not be written. */
  constructor(sql: SqlStorage, store: Store, warn: (error: unknown) => void) {
    this.#sql = sql;
    this.#store = store;
    this.#warn = warn;
  }

  #table(): void {
    if (this.#made) return;
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS egress (id INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, host TEXT NOT NULL, port INTEGER NOT NULL, method TEXT NOT NULL,
        path TEXT NOT NULL, verdict TEXT NOT NULL, rule TEXT NOT NULL, status INTEGER, bytes_up INTEGER, bytes_down INTEGER, duration_ms INTEGER, address TEXT) STRICT;
    `);
    this.#made = true;
  }

  /** Number of the newest line, written or not; 0 before the first. */
  #newest(): number {
    this.#table();
    const written = [...this.#sql.exec<{ id: number | null }>("SELECT max(id) AS id FROM egress")][0]?.id ?? 0;
    return Math.max(this.#lastId, written);
  }

  /** Number of the new line. A denial is written at once; what is allowed soon, and before anything here is read. Throws while the log cannot be written. */
  add(line: EgressLine): number {
    if (this.#failed) this.#write();
    const id = this.#newest() + 1;
    this.#lastId = id;
    this.#waiting.set(id, { id, ...line, ...OPEN });
    if (line.verdict !== "allow") this.#write();
    else if (this.#waiting.size === 1) setTimeout(() => this.#writeLater(), WRITE_MS);
    return id;
  }

  #writeLater(): void {
    try {
      this.#write();
    } catch (error) {
      this.#warn(error);
    }
  }

  #write(): void {
    if (this.#waiting.size === 0 || !this.#store.exists) return;
    this.#failed = true;
    for (const [id, row] of this.#waiting) {
      const { time_ms, host, port, method, path, verdict, rule, status, bytes_up, bytes_down, duration_ms, address } =
        row;
      this.#sql.exec(
        "INSERT OR REPLACE INTO egress (id, time_ms, host, port, method, path, verdict, rule, status, bytes_up, bytes_down, duration_ms, address) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        ...[id, time_ms, host, port, method, path, verdict, rule, status, bytes_up, bytes_down, duration_ms, address],
      );
      if (id % DROPPED_AT_ONCE === 0) this.#sql.exec("DELETE FROM egress WHERE id <= ?", id - LOG_MAX);
    }
    this.#waiting.clear();
    this.#failed = false;
  }

  /** Number of the newest line, 0 before the first. */
  get last(): number {
    const id = this.#newest();
    this.#write();
    return id;
  }

  read(after: number, limit: number): EgressEntry[] {
    this.#table();
    this.#write();
    return [...this.#sql.exec<Row>("SELECT * FROM egress WHERE id > ? ORDER BY id LIMIT ?", after, limit)].map(shown);
  }

  line(id: number): EgressEntry | null {
    const line = this.read(id - 1, 1)[0];
    return line?.id === id ? line : null;
  }

  /** What became of an allowed request. Null: its line is not there any more. */
  ended(id: number, end: EgressEnd): EgressEntry | null {
    const waiting = this.#waiting.get(id);
    if (waiting !== undefined) {
      const row = { ...waiting, ...end };
      this.#waiting.set(id, row);
      this.#write();
      return shown(row);
    }
    this.#table();
    const set = "status = ?, bytes_up = ?, bytes_down = ?, duration_ms = ?, address = ?";
    const rows = this.#sql.exec<Row>(
      `UPDATE egress SET ${set} WHERE id = ? RETURNING *`,
      ...[end.status, end.bytes_up, end.bytes_down, end.duration_ms, end.address, id],
    );
    return [...rows].map(shown)[0] ?? null;
  }

  /** It was allowed by its name and denied by the address behind it. */
  denied(id: number, rule: string, address: string | null): void {
    this.#table();
    this.#write();
    this.#sql.exec("UPDATE egress SET verdict = 'deny', rule = ?, address = ? WHERE id = ?", rule, address, id);
  }
}

const shown = ({ time_ms, ...row }: Row): EgressEntry => ({ ...row, time: new Date(time_ms).toISOString() });
