/** The lines of the egress log that the object keeps: one for each request that was judged. */
import type { EgressEnd, EgressEntry } from "./api.js";
import type { Store } from "./store.js";

/** items: rows of the egress log; the oldest go. */
const LOG_MAX = 10_000;
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

export class EgressLog {
  readonly #sql: SqlStorage;
  readonly #store: Store;
  readonly #warn: (error: unknown) => void;
  #waiting: (readonly [id: number, line: EgressLine])[] = [];
  #lastId = 0;
  /** Writing has failed, and has not succeeded since. */
  #failed = false;

  /** `warn` is told when lines could not be written. */
  constructor(sql: SqlStorage, store: Store, warn: (error: unknown) => void) {
    this.#sql = sql;
    this.#store = store;
    this.#warn = warn;
  }

  #tables(): void {
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS egress (id INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, host TEXT NOT NULL, port INTEGER NOT NULL, method TEXT NOT NULL,
        path TEXT NOT NULL, verdict TEXT NOT NULL, rule TEXT NOT NULL, status INTEGER, bytes_up INTEGER, bytes_down INTEGER, duration_ms INTEGER, address TEXT) STRICT;
    `);
  }

  /** Number of the new line. A denial is written at once; what is allowed soon, and before anything here is read. Throws while the log cannot be written. */
  add(line: EgressLine): number {
    this.#tables();
    if (this.#failed) this.#write();
    const id = Math.max(this.#lastId, this.#newest()) + 1;
    this.#lastId = id;
    this.#waiting.push([id, line]);
    if (line.verdict !== "allow") this.#write();
    else if (this.#waiting.length === 1) setTimeout(() => this.#writeLater(), WRITE_MS);
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
    if (this.#waiting.length === 0 || !this.#store.exists) return;
    this.#failed = true;
    for (const [id, { time_ms, host, port, method, path, verdict, rule }] of this.#waiting)
      this.#sql.exec(
        "INSERT OR IGNORE INTO egress (id, time_ms, host, port, method, path, verdict, rule) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        ...[id, time_ms, host, port, method, path, verdict, rule],
      );
    this.#sql.exec("DELETE FROM egress WHERE id <= ?", this.#lastId - LOG_MAX);
    this.#waiting = [];
    this.#failed = false;
  }

  #newest(): number {
    return [...this.#sql.exec<{ id: number | null }>("SELECT max(id) AS id FROM egress")][0]?.id ?? 0;
  }

  /** Number of the newest line, 0 before the first. */
  get last(): number {
    this.#tables();
    this.#write();
    return this.#newest();
  }

  read(after: number, limit: number): EgressEntry[] {
    this.#tables();
    this.#write();
    return [...this.#sql.exec<Row>("SELECT * FROM egress WHERE id > ? ORDER BY id LIMIT ?", after, limit)].map(
      ({ time_ms, ...row }) => ({ ...row, time: new Date(time_ms).toISOString() }),
    );
  }

  line(id: number): EgressEntry | null {
    const line = this.read(id - 1, 1)[0];
    return line?.id === id ? line : null;
  }

  /** What became of an allowed request. */
  ended(id: number, end: EgressEnd): void {
    this.#tables();
    this.#write();
    this.#sql.exec(
      "UPDATE egress SET status = ?, bytes_up = ?, bytes_down = ?, duration_ms = ?, address = ? WHERE id = ?",
      ...[end.status, end.bytes_up, end.bytes_down, end.duration_ms, end.address, id],
    );
  }

  /** It was allowed by its name and denied by the address behind it. */
  denied(id: number, rule: string, address: string | null): void {
    this.#tables();
    this.#write();
    this.#sql.exec("UPDATE egress SET verdict = 'deny', rule = ?, address = ? WHERE id = ?", rule, address, id);
  }
}
