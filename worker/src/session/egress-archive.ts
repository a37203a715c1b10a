/**
 * The egress log in R2: lines of JSON in portions, `sessions/<id>/egress/<first entry's number>.ndjson`, while the session lives, and
 * the rest at its end. The object's own log keeps the newest entries only.
 */
import { report } from "../effects/report.js";
import type { Env } from "../env.js";
import type { Gate } from "./gate.js";
import type { Store } from "./store.js";

/** items: entries of a portion. Far fewer than the log keeps, so that none is dropped before it is archived. */
export const PORTION = 500;
/** milliseconds: a request that is open longer is archived as it is, so that the entries after it are too. */
const OPEN_MAX_MS = 600_000;
/**
 * items: so many entries do not wait for one that is open, half of what the log keeps: else a program could have what it asks for
 * dropped, unarchived, behind an answer that it does not let end.
 */
export const BEHIND_MAX = 5_000;

/** What the keys of a session's portions begin with; they sort as the entries do. */
export const archivePrefix = (sessionId: string): string => `sessions/${sessionId}/egress/`;

/** Number of the first entry of the portion with this key. */
export const archivedFirst = (key: string): number => Number(/(\d+)\.ndjson$/.exec(key)?.[1]);

export class EgressArchive {
  readonly #ctx: DurableObjectState;
  readonly #env: Env;
  readonly #store: Store;
  readonly #gate: Gate;
  #writing: Promise<void> | null = null;
  /** `last`, once it was read: nobody else writes it. */
  #last: number | null = null;

  constructor(ctx: DurableObjectState, env: Env, store: Store, gate: Gate) {
    this.#ctx = ctx;
    this.#env = env;
    this.#store = store;
    this.#gate = gate;
  }

  /** Number of the last entry that is archived. */
  get last(): number {
    this.#last ??= this.#store.number("egress_archived") ?? 0;
    return this.#last;
  }

  /** Something was logged: writes a portion when there is one. */
  note(): void {
    if (this.#writing !== null || this.#gate.lastEntry - this.last < PORTION) return;
    this.#ctx.waitUntil(this.#start(Date.now() - OPEN_MAX_MS, false));
  }

  /** Writes all that there is, whether it is complete or not. A failure is said, and leaves the entries in the object's log. */
  async finish(): Promise<void> {
    await this.#writing;
    await this.#start(Number.MAX_SAFE_INTEGER, true);
  }

  #start(openSinceMs: number, all: boolean): Promise<void> {
    this.#writing = this.#write(openSinceMs, all)
      .catch((error: unknown) =>
        report(
          (text) => this.#gate.mask.text(text),
          "error",
          `session ${this.#store.text("id")}: egress archive`,
          error,
        ),
      )
      .finally(() => {
        this.#writing = null;
      });
    return this.#writing;
  }

  /** `openSinceMs`: an entry without an end that began before is taken as it is. `all`: what makes no portion too. */
  async #write(openSinceMs: number, all: boolean): Promise<void> {
    for (;;) {
      const entries = this.#gate.log(this.last, PORTION);
      if (!all && entries.length < PORTION) return;
      const since = this.#gate.lastEntry - this.last >= BEHIND_MAX ? Number.MAX_SAFE_INTEGER : openSinceMs;
      const open = entries.findIndex(
        ({ verdict, status, time }) => verdict === "allow" && status === null && Date.parse(time) >= since,
      );
      const ready = open < 0 ? entries : entries.slice(0, open);
      const [first, last] = [ready[0], ready.at(-1)];
      if (first === undefined || last === undefined) return;
      const key = `${archivePrefix(this.#store.text("id") ?? "")}${String(first.id).padStart(10, "0")}.ndjson`;
      const lines = ready.map((entry) => `${JSON.stringify(entry)}\n`).join("");
      await this.#env.ARTIFACTS.put(key, lines, { httpMetadata: { contentType: "application/x-ndjson" } });
      this.#store.set("egress_archived", last.id);
      this.#last = last.id;
      if (open >= 0) return;
    }
  }
}
