/** The session's row in D1, which follows the session. */
import { writeIndex } from "../effects/index-d1.js";
import { report } from "../effects/report.js";
import type { Env } from "../env.js";
import { quotaOf, tenantObject } from "../identity/quotas.js";
import type { SessionView } from "./api.js";
import type { Mask } from "./mask.js";
import type { Store } from "./store.js";
import { sessionView } from "./views.js";

/** milliseconds: a session may take so long to end once its time is up before its tenant may have another one. */
const ENDING_MS = 3_600_000;
/** milliseconds: pause after which a row that D1 refused is written again. */
const RETRY_MS = 5_000;
/** Key of the micro-dollars of answers that came when their run was over. */
const LATE = "late_micro";

export class IndexRow {
  readonly #ctx: DurableObjectState;
  readonly #env: Env;
  readonly #store: Store;
  readonly #mask: Mask;
  #writing: Promise<void> | null = null;
  /** The row is older than the session. */
  #due = false;

  constructor(ctx: DurableObjectState, env: Env, store: Store, mask: Mask) {
    this.#mask = mask;
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
    if (this.#microUsd(view) > 0) await object.spent(view.id, this.#microUsd(view));
    if (view.state === "ended") await object.ended(view.id);
    else if (view.expires_at !== null) await object.alive(view.id, Date.parse(view.expires_at) + ENDING_MS);
  }

  /** Tells the tenant what the session has cost so far; whether the tenant has spent on this day what it may. */
  async isSpent(): Promise<boolean> {
    let maxUsd: number | undefined;
    try {
      maxUsd = quotaOf(this.#env, { quota: this.#store.text("quota") ?? "" })?.spend_usd_per_day;
    } catch {
      return true; // A class that the operator has taken away since allows nothing.
    }
    if (maxUsd === undefined) return false;
    const view = sessionView(this.#store);
    const tenant = tenantObject(this.#env, this.#store.text("tenant") ?? "");
    const over = await tenant.spent(view.id, this.#microUsd(view), maxUsd);
    // Where money is limited, a model without a price would be one without limit.
    return over || view.usage.cost_usd === null;
  }

  /** Counts for the tenant what no counter of the session has. */
  async countLate(costUsd: number): Promise<void> {
    if (!this.#env.CAISSON_QUOTAS || costUsd <= 0) return;
    this.#store.set(LATE, this.#late + Math.round(costUsd * 1e6));
    const view = sessionView(this.#store);
    await tenantObject(this.#env, this.#store.text("tenant") ?? "").spent(view.id, this.#microUsd(view));
  }

  get #late(): number {
    return this.#store.number(LATE) ?? 0;
  }

  /** What is known of the cost. */
  #microUsd({ usage }: SessionView): number {
    return Math.round((usage.cost_usd ?? 0) * 1e6) + this.#late;
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
      report((text) => this.#mask.text(text), "error", `session ${this.#store.text("id")}: index`, error);
      const due = await this.#ctx.storage.getAlarm();
      if (due === null || due > Date.now() + RETRY_MS) await this.#ctx.storage.setAlarm(Date.now() + RETRY_MS);
    }
  }
}
