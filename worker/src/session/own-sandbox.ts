/** The session's sandbox: whether it still is the one that was started, its diff, and its loss. */
import { DIFF_MAX, runDiffKey, sessionDiffKey, storeSessionDiff } from "../effects/artifacts.js";
import { checkEngine } from "../effects/engine.js";
import { run as exec, type SandboxStub, sessionSandbox } from "../effects/sandbox.js";
import { diffNowScript } from "../effects/workspace.js";
import type { Env } from "../env.js";
import type { Result } from "./api.js";
import { fail } from "./failures.js";
import type { Machine } from "./machine.js";
import type { Mask } from "./mask.js";
import type { Store } from "./store.js";
import { runNumber, sandboxName } from "./views.js";
import { within } from "./within.js";

/** milliseconds: the last diff of a session may take this long before its sandbox is destroyed without it. */
const SAVE_DIFF_MS = 15_000;

export class OwnSandbox {
  readonly #ctx: DurableObjectState;
  readonly #env: Env;
  readonly #store: Store;
  readonly #machine: Machine;
  readonly #mask: Mask;
  readonly #lost: () => void;

  /** `lost` is called when the sandbox is found gone, before the session is told. */
  constructor(ctx: DurableObjectState, env: Env, store: Store, machine: Machine, mask: Mask, lost: () => void) {
    this.#ctx = ctx;
    this.#env = env;
    this.#store = store;
    this.#machine = machine;
    this.#mask = mask;
    this.#lost = lost;
  }

  get stub(): SandboxStub {
    return sessionSandbox(this.#env, sandboxName(this.#store));
  }

  /** Runs `fn` in the sandbox that the session started; null when that one is gone (the SDK would start another). */
  async alive<R>(fn: (sandbox: SandboxStub) => Promise<R>): Promise<R | null> {
    const sandbox = this.stub;
    const { running, boot } = await sandbox.runtime();
    if (!running || boot !== this.#store.text("boot")) return null;
    return await fn(sandbox);
  }

  /** The sandbox is proven gone; `pendingId` is the effect that found out. */
  gone(why: string, pendingId?: number): void {
    this.#lost();
    this.#machine.step({ kind: "SANDBOX_GONE", payload: JSON.stringify(why) }, () => {
      if (pendingId !== undefined) this.#store.dropPending(pendingId);
      this.#store.set("active_run", null);
    });
    this.sweep();
  }

  /** The session has lost its sandbox: nothing that bears its name may stay, started by halves or by the SDK's own doing. */
  sweep(): void {
    const work = this.stub.retire();
    this.#ctx.waitUntil(work.catch((error: unknown) => this.#machine.report("error", "destroy", error)));
  }

  /** The sandbox once it has started; a failure when there is none to be used. */
  async usable(): Promise<Result<SandboxStub>> {
    await this.#machine.until(() => this.#store.text("state") !== "starting");
    const state = this.#store.text("state");
    if (state === "starting") return fail(503, "sandbox_starting", "the sandbox is still starting; try again");
    if (state === "ended" || state === "ending") return fail(409, "session_ended", "the session has ended");
    const sandbox = await this.alive(async (stub) => stub);
    if (sandbox !== null) {
      this.touch();
      return { ok: true, value: sandbox };
    }
    await checkEngine(this.#env);
    this.gone("the sandbox has stopped");
    return fail(409, "sandbox_gone", "the session's sandbox has stopped; the session ends");
  }

  /** An idle session that somebody uses without a run is not idle. */
  touch(): void {
    if (this.#store.text("budget")?.includes('"idle_s":')) this.#machine.step({ kind: "TOUCH" });
  }

  /** See SessionRpc.diff. */
  async diff(runId?: string): Promise<Result<Uint8Array>> {
    const id = this.#store.text("id") ?? "";
    if (runId !== undefined) {
      const row = this.#store.run(runNumber(runId));
      if (row === null) return fail(404, "run_not_found", "there is no run with this id");
      if (row.ended_ms !== null) return { ok: true, value: await this.#stored(runDiffKey(id, row.n)) };
      return row.tree === null ? { ok: true, value: new Uint8Array() } : await this.#diffNow(row.tree);
    }
    await this.#machine.until(() => this.#store.text("state") !== "starting");
    const tree = this.#store.text("tree");
    if (this.#store.text("state") === "ended" || tree === null)
      return { ok: true, value: await this.#stored(sessionDiffKey(id)) };
    return await this.#diffNow(tree);
  }

  /** Keeps the session's whole diff before its sandbox goes; the end of a session does not depend on it. */
  async saveDiff(): Promise<void> {
    const tree = this.#store.text("tree");
    const id = this.#store.text("id") ?? "";
    if (tree === null) return;
    try {
      const save = this.alive((sandbox) => storeSessionDiff(sandbox, this.#env.ARTIFACTS, id, tree, this.#mask.open()));
      await within(SAVE_DIFF_MS, "the session's diff", save);
    } catch (error) {
      this.#machine.report("warn", "diff", error);
    }
  }

  async #diffNow(tree: string): Promise<Result<Uint8Array>> {
    const usable = await this.usable();
    if (!usable.ok) return usable;
    const { stdout } = await exec(usable.value, diffNowScript(tree, DIFF_MAX));
    return { ok: true, value: this.#mask.bytes(Buffer.from(stdout, "base64")) };
  }

  async #stored(key: string): Promise<Uint8Array> {
    const object = await this.#env.ARTIFACTS.get(key);
    return object === null ? new Uint8Array() : await object.bytes();
  }
}
