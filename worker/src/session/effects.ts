/**
 * Carries out the core's effects, strictly in order, and answers each. An effect that was not answered when the object died
 * is carried out again by the next instance.
 */
import { T } from "../core/abi.gen.js";
import { CoreError, type CoreEvent, type KillReason } from "../core/core.js";
import { type CollectSink, collect } from "../effects/artifacts.js";
import { EngineUnavailable } from "../effects/engine.js";
import { killRun, startRun } from "../effects/run.js";
import { startSandbox } from "../effects/sandbox.js";
import type { Env } from "../env.js";
import type { Follower } from "./follower.js";
import type { Machine } from "./machine.js";
import type { Mask } from "./mask.js";
import type { OwnSandbox } from "./own-sandbox.js";
import type { Pending, Store } from "./store.js";
import { within } from "./within.js";

/** milliseconds: an effect that takes longer is taken for failed. */
const TIMEOUT_MS = {
  sandboxStart: 180_000,
  sandboxDestroy: 60_000,
  runLoad: 5_000,
  runStart: 180_000,
  runKill: 60_000,
  collect: 1_800_000,
} as const;
/** items: attempts to carry out an effect before it is answered with its failure. */
const TRIES = 3;

export class Effects {
  readonly #ctx: DurableObjectState;
  readonly #env: Env;
  readonly #store: Store;
  readonly #machine: Machine;
  readonly #sandbox: OwnSandbox;
  readonly #follower: Follower;
  readonly #mask: Mask;
  readonly #archived: () => Promise<void>;
  #draining: Promise<void> | null = null;

  /** `archived` puts away what is left of the egress log, when the sandbox can add nothing to it. */
  constructor(
    ctx: DurableObjectState,
    env: Env,
    store: Store,
    machine: Machine,
    sandbox: OwnSandbox,
    follower: Follower,
    mask: Mask,
    archived: () => Promise<void>,
  ) {
    this.#archived = archived;
    this.#ctx = ctx;
    this.#env = env;
    this.#store = store;
    this.#machine = machine;
    this.#sandbox = sandbox;
    this.#follower = follower;
    this.#mask = mask;
  }

  /** Carries out what is pending, unless that is being done. */
  drain(): void {
    if (this.#draining !== null || this.#store.nextPending() === null) return;
    this.#draining = this.#carryOutAll().finally(() => {
      this.#draining = null;
    });
    this.#ctx.waitUntil(this.#draining);
  }

  /** Carries the pending effects out, strictly in order, each until it is answered. */
  async #carryOutAll(): Promise<void> {
    let tries = 0;
    for (let pending = this.#store.nextPending(); pending !== null; pending = this.#store.nextPending()) {
      try {
        await within(TIMEOUT_MS[pending.kind], pending.kind, this.#carryOut(pending));
        tries = 0;
      } catch (error) {
        tries += 1;
        this.#machine.report("error", `${pending.kind}, attempt ${tries}`, error);
        // Trying again cannot start an engine or give back a sandbox.
        if (tries >= TRIES || error instanceof EngineUnavailable || error instanceof CoreError) {
          tries = 0;
          this.#giveUp(pending, error);
        } else {
          await new Promise((resolve) => setTimeout(resolve, 500 * tries));
        }
      }
    }
  }

  /** Carries out one effect and answers it; the answer and the end of the effect are one transaction. */
  async #carryOut(pending: Pending): Promise<void> {
    const { run } = pending;
    const store = this.#store;
    const machine = this.#machine;
    const done = (): void => store.dropPending(pending.id);
    switch (pending.kind) {
      case "sandboxStart": {
        const owner = this.#ctx.id.name ?? store.text("id") ?? "";
        const { boot, tree } = await startSandbox(
          this.#env,
          this.#sandbox.stub,
          owner,
          pending.payload,
          JSON.parse(store.text("sandbox_limits") ?? "{}"),
          store.files(),
        );
        machine.step({ kind: "SANDBOX_READY" }, () => {
          done();
          store.set("boot", boot);
          store.set("tree", tree);
          store.dropFiles();
        });
        return;
      }
      case "sandboxDestroy":
        this.#follower.stop();
        await this.#sandbox.saveDiff();
        await this.#sandbox.stub.retire();
        await this.#archived();
        machine.step({ kind: "SANDBOX_GONE", payload: JSON.stringify("destroyed") }, () => {
          done();
          store.set("active_run", null);
        });
        return;
      case "runLoad":
        machine.step({ kind: "RUN_LOADED", id: run, payload: store.run(run)?.request ?? "" }, done);
        return;
      case "runStart": {
        const prompt = promptOf(store.run(run)?.request);
        const tree = await this.#sandbox.alive((sandbox) => startRun(sandbox, run, pending.payload, prompt));
        if (tree === null) {
          this.#sandbox.gone("the sandbox has stopped", pending.id);
          return;
        }
        machine.step({ kind: "RUN_STARTED", id: run }, () => {
          done();
          store.setTree(run, tree);
          store.set("active_run", run);
          machine.resetCursors();
        });
        machine.openStreams();
        this.#follower.follow(run);
        return;
      }
      case "runKill": {
        await this.#sandbox.alive((sandbox) => killRun(sandbox, run, pending.payload as KillReason));
        done();
        return;
      }
      case "collect":
        await this.#sandbox.alive((sandbox) => collect(sandbox, this.#collectSink(run)));
        machine.step({ kind: "COLLECTED", id: run }, done);
        return;
      default: {
        const unknown: never = pending.kind;
        throw new Error(`unknown effect ${unknown}`);
      }
    }
  }

  /** Answers an effect that cannot be carried out with its failure. A core that no longer waits for the answer is content. */
  #giveUp(pending: Pending, error: unknown): void {
    const what = this.#machine.redact(error instanceof Error ? error.message : String(error));
    const why = JSON.stringify(what.slice(0, 1_000));
    const done = (): void => this.#store.dropPending(pending.id);
    const answers: Record<Pending["kind"], CoreEvent | null> = {
      sandboxStart: { kind: "SANDBOX_FAILED", payload: why },
      sandboxDestroy: { kind: "SANDBOX_GONE", payload: why },
      runLoad: { kind: "RUN_START_FAILED", id: pending.run, payload: why },
      runStart: { kind: "RUN_START_FAILED", id: pending.run, payload: why },
      runKill: null,
      collect: { kind: "COLLECTED", id: pending.run },
    };
    const answer = error instanceof CoreError ? null : answers[pending.kind];
    try {
      if (pending.kind === "collect" && answer !== null) {
        this.#machine.note(pending.run, T.LIMIT_WARNING, {
          limit: "artifacts",
          detail: `collecting failed: ${JSON.parse(why)}`,
        });
      }
      if (answer !== null) this.#machine.step(answer, done);
      else done();
      if (pending.kind === "sandboxStart" && !(error instanceof EngineUnavailable)) this.#sandbox.sweep();
    } catch (cause) {
      this.#machine.report("error", `${pending.kind} could not be answered`, cause);
      done();
    }
  }

  #collectSink(run: number): CollectSink {
    const store = this.#store;
    const machine = this.#machine;
    return {
      sessionId: store.text("id") ?? "",
      run,
      bucket: this.#env.ARTIFACTS,
      sessionTree: store.text("tree") ?? "",
      runTree: store.run(run)?.tree ?? store.text("tree") ?? "",
      digest: () => machine.digest(),
      open: (valuesOnly) => this.#mask.open(valuesOnly),
      name: (path) => this.#mask.text(path),
      hasChange: (path) => store.hasChanged(run, path),
      hasArtifact: (path) => store.hasArtifact(run, path),
      artifacts: () => store.artifacts().filter(({ run_id }) => run_id === `run_${run}`),
      changed: ({ path, status, size }) => {
        const fields = { path, status, ...(size === null ? {} : { size }) };
        machine.note(run, T.FILE_CHANGED, fields, () => store.addChanged(run, path));
      },
      stored: (artifact) => {
        const { path, size, sha256 } = artifact;
        machine.note(run, T.ARTIFACT_STORED, { path, size, sha256 }, () => store.addArtifact(run, artifact));
      },
      masked: (found) => machine.note(run, T.SECRET_MASKED, { in: "artifacts", ...found }),
      warn: (fields) => machine.note(run, T.LIMIT_WARNING, fields),
    };
  }
}

function promptOf(request: string | undefined): string {
  const body = JSON.parse(request ?? "{}") as { prompt?: string };
  return body.prompt ?? "";
}
