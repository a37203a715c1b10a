/** The session's row in D1, which follows the session. */
import { writeIndex } from "../effects/index-d1.js";
import type { Store } from "./store.js";
import { sessionView } from "./views.js";

/** milliseconds: pause after which a row that D1 refused is written again. */
const RETRY_MS = 5_000;

export class IndexRow {
  readonly #ctx: DurableObjectState;
  readonly #db: D1Database;
  readonly #store: Store;
  #writing: Promise<void> | null = null;
  /** The row is older than the session. */
  #due = false;

  constructor(ctx: DurableObjectState, db: D1Database, store: Store) {
    this.#ctx = ctx;
    this.#db = db;
    this.#store = store;
  }

  /** Whether a row was ever written. */
  get known(): boolean {
    return this.#store.number("index_seq") !== null;
  }

  /** Whether the row, as far as is known, says what the session says. */
  get current(): boolean {
    return this.known && !this.#due && this.#store.text("index_state") === this.#store.text("state");
  }

  /** Brings the row up to date; a refused write is repeated by the alarm. */
  write(): Promise<void> {
    this.#due = true;
    this.#writing ??= this.#writeNow().finally(() => {
      this.#writing = null;
    });
    return this.#writing;
  }

  async #writeNow(): Promise<void> {
    try {
      while (this.#due) {
        this.#due = false;
        const view = sessionView(this.#store);
        await writeIndex(this.#db, view, new Date().toISOString());
        this.#store.set("index_seq", view.last_seq);
        this.#store.set("index_state", view.state);
      }
    } catch (error) {
      this.#due = true;
      console.error(`session ${this.#store.text("id")}: index:`, error);
      const due = await this.#ctx.storage.getAlarm();
      if (due === null || due > Date.now() + RETRY_MS) await this.#ctx.storage.setAlarm(Date.now() + RETRY_MS);
    }
  }
}
