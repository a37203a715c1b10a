/** Follows the running run: its output goes into the core, its end becomes an event. */
import { CoreError } from "../core/core.js";
import { followRun, lostRecord, type RunEnd } from "../effects/run.js";
import type { Machine } from "./machine.js";
import type { OwnSandbox } from "./own-sandbox.js";
import type { Store } from "./store.js";

interface Following {
  readonly run: number;
  readonly abort: AbortController;
}

export class Follower {
  readonly #ctx: DurableObjectState;
  readonly #store: Store;
  readonly #machine: Machine;
  readonly #sandbox: OwnSandbox;
  #following: Following | null = null;

  constructor(ctx: DurableObjectState, store: Store, machine: Machine, sandbox: OwnSandbox) {
    this.#ctx = ctx;
    this.#store = store;
    this.#machine = machine;
    this.#sandbox = sandbox;
  }

  /** Follows `run` from where the machine's streams stand; nothing when it is followed already. */
  follow(run: number): void {
    if (this.#following?.run === run) return;
    this.stop();
    const following: Following = { run, abort: new AbortController() };
    this.#following = following;
    const sink = {
      position: (stream: number): number => this.#machine.position(stream),
      feed: (stream: number, _offset: number, bytes: Uint8Array): void => {
        if (!following.abort.signal.aborted) this.#machine.feed(run, stream, bytes);
      },
      warn: (what: string, error?: unknown): void => this.#machine.report("warn", what, error),
    };
    const work = followRun(this.#sandbox.stub, run, this.#store.text("boot"), sink, following.abort.signal)
      .then((end) => this.#ended(following, end))
      .catch((error) => this.#machine.report("error", `follow run_${run}`, error))
      .finally(() => {
        if (this.#following === following) this.#following = null;
      });
    this.#ctx.waitUntil(work);
  }

  stop(): void {
    this.#following?.abort.abort();
    this.#following = null;
  }

  #ended(following: Following, end: RunEnd): void {
    if (end.kind === "stopped" || following.abort.signal.aborted || this.#following !== following) return;
    this.#following = null;
    if (end.kind === "gone") {
      this.#sandbox.gone(end.why);
      return;
    }
    const exit = (payload: string): void =>
      this.#machine.step({ kind: "RUN_EXIT", id: following.run, payload }, () => this.#store.set("active_run", null));
    try {
      exit(end.record);
    } catch (error) {
      if (!(error instanceof CoreError)) throw error;
      // Written by the runner, but in a place that the agent can write to as well.
      exit(lostRecord(`the exit record is not one: ${error.message}`));
    }
  }
}
