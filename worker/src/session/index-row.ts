/** The session's row in D1, which follows the session. */
import { writeIndex } from "../effects/index-d1.js";
import type { Env } from "../env.js";
import { tenantObject } from "../identity/quotas.js";
import type { SessionView } from "./api.js";
import type { Store } from "./store.js";
import { sessionView } from "./views.js";

/** milliseconds: pause after which a row that D1 refused is written again. */
const RETRY_MS = 5_000;

export class IndexRow {
  readonly #ctx: DurableObjectState;
  readonly #env: Env;
  readonly #store: Store;
  #writing: Promise<void> | null = null;
  /** The row is older than the session. */
  #due = false;

  constructor(ctx: DurableObjectState, env: Env, store: Store) {
    this.#ctx = ctx;
    this.#env = env;
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

  /** What the tenant's quotas are counted from. */
  async #tellTenant(tenant: string, view: SessionView): Promise<void> {
    if (!this.#env.CAISSON_QUOTAS) return;
    const object = tenantObject(this.#env, tenant);
    // A cost that is not known is none that a quota could count; a limit on cost takes it for too much (docs/EVENTS.md).
    const cost = view.usage.cost_usd ?? 0;
    if (cost > 0) await object.spent(view.id, Math.round(cost * 1e6));
    if (view.state === "ended") await object.ended(view.id);
  }

  async #writeNow(): Promise<void> {
    try {
      while (this.#due) {
        this.#due = false;
        const view = sessionView(this.#store);
        const tenant = this.#store.text("tenant") ?? "";
        await writeIndex(this.#env.INDEX, tenant, view, new Date().toISOString());
        await this.#tellTenant(tenant, view);
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
