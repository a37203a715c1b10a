/**
 * The Session object: loops event → effects. The core decides; this persists what it says, shows it, and has the effects
 * carried out.
 *
 * Order of a step: core → one transaction (events, snapshot, cursors, pending effects) → listeners → effects, one after the
 * other. An event that a client has seen, and an effect that was started, is therefore always in storage; an effect that was
 * not answered when the object died is carried out again by the next instance.
 */
import { DurableObject } from "cloudflare:workers";
import module from "../../../build/core.wasm";
import { BOUND, STREAM, T } from "../core/abi.gen.js";
import { Core, CoreError, type CoreEvent, CoreTrap, type Effect } from "../core/core.js";
import {
  type CollectSink,
  collect,
  DIFF_MAX,
  type Digest,
  runDiffKey,
  sessionDiffKey,
  storeSessionDiff,
} from "../effects/artifacts.js";
import { checkEngine, EngineUnavailable } from "../effects/engine.js";
import { writeIndex } from "../effects/index-d1.js";
import { followRun, killRun, lostRecord, type RunEnd, startRun, UnreadableOutput } from "../effects/run.js";
import { run as exec, type SandboxStub, sessionSandbox, startSandbox } from "../effects/sandbox.js";
import { diffNowScript } from "../effects/workspace.js";
import type { Env } from "../env.js";
import type { CreateRunBody, CreateSessionBody } from "../routes/schemas.js";
import type { EventLog } from "../transport/log.js";
import { readOptions } from "../transport/log.js";
import { serveSSE } from "../transport/sse.js";
import { acceptSocket, flushSockets } from "../transport/ws.js";
import type { ArtifactView, EventText, Result, RunView, SessionRpc, SessionView } from "./api.js";
import { applyEvent } from "./derive.js";
import { fail, failureOf, NOT_FOUND } from "./failures.js";
import { LineWindow, rawText } from "./lines.js";
import { Notifier } from "./notifier.js";
import { coreRequest, workspaceFiles } from "./request.js";
import { type Pending, pendingOf, Store } from "./store.js";
import { runNumber, runView, sandboxName, sessionView } from "./views.js";

/** milliseconds: how long a caller is held while the sandbox starts or ends. */
const WAIT_MS = 60_000;
/** milliseconds: an effect that takes longer is taken for failed. */
const EFFECT_TIMEOUT_MS = {
  sandboxStart: 180_000,
  sandboxDestroy: 60_000,
  runLoad: 5_000,
  runStart: 180_000,
  runKill: 60_000,
  collect: 1_800_000,
} as const;
/** milliseconds: the last diff of a session may take this long before its sandbox is destroyed without it. */
const SAVE_DIFF_MS = 15_000;
/** milliseconds between two portions of a backlog for WebSockets. */
const FLUSH_PAUSE_MS = 5;
/** milliseconds: an object that dies with effects unanswered is awake again after at most so long. */
const PENDING_WAKE_MS = 15_000;
/** items: attempts to carry out an effect before it is answered with its failure. */
const EFFECT_TRIES = 3;
/** milliseconds: pause after which a row that D1 refused is written again. */
const INDEX_RETRY_MS = 5_000;
/** items: traps of the core on the same output before the run is given up. */
const FEED_TRAPS_MAX = 3;

interface Following {
  readonly run: number;
  readonly abort: AbortController;
}

export class Session extends DurableObject<Env> implements SessionRpc {
  readonly #store: Store;
  readonly #grown = new Notifier();
  #core: Core | null = null;
  /** Bytes of the running run's streams since their current lines began; also where each stream is to be taken up. */
  #windows = new Map<number, LineWindow>();
  #following: Following | null = null;
  #draining: Promise<void> | null = null;
  #indexing: Promise<void> | null = null;
  /** The row in the index is older than the session. */
  #indexDue = false;
  #feedTraps = 0;
  /** Another portion of the log for the sockets is due. */
  #flushing = false;
  #digestId = 0;
  /** What clients see of the log: the store, and the wake-up after each transaction. */
  readonly #log: EventLog = {
    page: (after, limit, withRaw, run) => this.#store.page(after, limit, withRaw, run),
    changed: (timeoutMs) => this.#grown.wait(timeoutMs),
  };

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    this.#store = new Store(ctx.storage.sql);
    ctx.setWebSocketAutoResponse(new WebSocketRequestResponsePair("ping", "pong"));
    void ctx.blockConcurrencyWhile(async () => {
      if (!this.#store.exists) return;
      this.#reload();
      this.#resume();
    });
  }

  /* --- RPC (api.ts) --- */

  async create(id: string, body: CreateSessionBody): Promise<Result<SessionView>> {
    try {
      const request = coreRequest(body);
      const whole = JSON.stringify(body);
      const bodyDigest = await digestOf(whole);
      if (this.#store.exists) return this.#createdWith(bodyDigest);
      const files = workspaceFiles(body.files ?? []);
      if (!Array.isArray(files)) return files;
      await checkEngine(this.env);
      // Two creations may have waited for the engine together: the second finds the first one's session.
      if (this.#store.exists) return this.#createdWith(bodyDigest);
      this.#core = new Core(module);
      this.#step({ kind: "CREATE", payload: JSON.stringify(request) }, (nowMs) => {
        this.#store.createTables();
        this.#store.set("id", id);
        this.#store.set("agent", body.agent);
        this.#store.set("metadata", JSON.stringify(body.metadata ?? {}));
        this.#store.set("body_digest", bodyDigest);
        this.#store.set("created_ms", nowMs);
        const timeoutS = body.timeout_s ?? BOUND.SESSION_TIMEOUT_S_DEFAULT;
        this.#store.set("timeout_s", timeoutS);
        this.#store.set("expires_ms", nowMs + timeoutS * 1_000);
        files.forEach((file, n) => {
          this.#store.addFile(n, file);
        });
      });
      return this.#view();
    } catch (error) {
      return failed(error);
    }
  }

  async view(): Promise<Result<SessionView>> {
    return this.#view();
  }

  async setTimeout(timeoutS: number): Promise<Result<SessionView>> {
    return this.#try(() => {
      this.#step({ kind: "SET_TIMEOUT", code: timeoutS });
      return this.#view();
    });
  }

  async end(): Promise<Result<SessionView>> {
    return this.#try(async () => {
      const state = this.#store.text("state");
      if (state !== "ended" && state !== "ending") this.#step({ kind: "DELETE" });
      await this.#until(() => this.#store.text("state") === "ended");
      if (this.#store.text("state") !== "ended")
        return fail(504, "still_ending", "the sandbox is still being destroyed; ask again");
      return this.#view();
    });
  }

  async createRun(body: CreateRunBody, idempotencyKey?: string): Promise<Result<RunView>> {
    return this.#try(() => {
      const request = JSON.stringify(body);
      const known = idempotencyKey === undefined ? null : this.#store.runByKey(idempotencyKey);
      if (known !== null) {
        if (known.request === request) return { ok: true, value: runView(this.#store, known) };
        return fail(409, "idempotency_mismatch", "the Idempotency-Key was used with another body");
      }
      let n = 0;
      this.#step({ kind: "RUN", payload: request }, (nowMs, effects) => {
        for (const effect of effects) {
          if (effect.kind !== "event" || effect.type !== "run.queued") continue;
          n = effect.run;
          this.#store.addRun(n, request, idempotencyKey ?? null, nowMs);
        }
      });
      return this.#runView(n);
    });
  }

  async run(runId: string): Promise<Result<RunView>> {
    return this.#try(() => this.#runView(runNumber(runId)));
  }

  async runs(): Promise<Result<RunView[]>> {
    return this.#try(() => ({ ok: true, value: this.#store.runs().map((row) => runView(this.#store, row)) }));
  }

  async cancelRun(runId: string): Promise<Result<RunView>> {
    return this.#try(() => {
      const n = runNumber(runId);
      const found = this.#runView(n);
      if (found.ok) this.#step({ kind: "CANCEL", id: n });
      return found.ok ? this.#runView(n) : found;
    });
  }

  async events(
    after: number,
    limit: number,
    withRaw: boolean,
    runId?: string,
  ): Promise<Result<{ events: EventText[]; last_seq: number; ended: boolean }>> {
    return this.#try(() => {
      const run = runId === undefined ? null : runNumber(runId);
      const { events, done } = this.#store.page(after, limit, withRaw, run);
      return { ok: true, value: { events, last_seq: this.#store.lastSeq, ended: done } };
    });
  }

  async artifacts(): Promise<Result<ArtifactView[]>> {
    return this.#try(() => ({ ok: true, value: this.#store.artifacts() }));
  }

  async sandboxId(): Promise<Result<string>> {
    return this.#try(async () => {
      const usable = await this.#usableSandbox();
      return usable.ok ? { ok: true, value: sandboxName(this.#store) } : usable;
    });
  }

  async diff(runId?: string): Promise<Result<Uint8Array>> {
    return this.#try(async () => {
      const id = this.#store.text("id") ?? "";
      if (runId !== undefined) {
        const row = this.#store.run(runNumber(runId));
        if (row === null) return fail(404, "run_not_found", "there is no run with this id");
        if (row.ended_ms !== null) return { ok: true, value: await this.#stored(runDiffKey(id, row.n)) };
        return row.tree === null ? { ok: true, value: new Uint8Array() } : await this.#diffNow(row.tree);
      }
      await this.#until(() => this.#store.text("state") !== "starting");
      const tree = this.#store.text("tree");
      if (this.#store.text("state") === "ended" || tree === null)
        return { ok: true, value: await this.#stored(sessionDiffKey(id)) };
      return await this.#diffNow(tree);
    });
  }

  override async fetch(request: Request): Promise<Response> {
    if (!this.#store.exists) return Response.json(NOT_FOUND, { status: NOT_FOUND.status });
    const options = readOptions(request);
    if ("fault" in options)
      return Response.json(fail(400, "invalid_value", options.fault, options.field), { status: 400 });
    if (request.headers.get("upgrade")?.toLowerCase() === "websocket") {
      const response = acceptSocket(this.ctx, options);
      this.#flushSockets();
      return response;
    }
    return serveSSE(this.#log, options);
  }

  /** Nothing is expected of a client but the automatic ping. */
  override webSocketMessage(): void {}

  override webSocketClose(socket: WebSocket, code: number): void {
    // 1005 and 1006 stand for "none given" and "lost" and may not be sent.
    socket.close(code === 1005 || code === 1006 ? 1000 : code);
  }

  override async alarm(): Promise<void> {
    if (!this.#store.exists) return;
    if (this.#store.text("state") !== "ended") this.#step({ kind: "TIMER" });
    this.#resume();
    const known = this.#store.number("index_seq") !== null && !this.#indexDue;
    if (!known || this.#store.text("index_state") !== this.#store.text("state")) await this.#writeIndex();
    // An alarm for the index or for effects replaces the core's, which says nothing about a time that has not come.
    if ((await this.ctx.storage.getAlarm()) === null) this.#setAlarm();
  }

  /* --- the step --- */

  /** Gives the core an event and commits what it says. `tx` runs first inside the transaction. */
  #step(event: CoreEvent, tx?: (nowMs: number, effects: Effect[]) => void): void {
    const nowMs = Date.now();
    let effects: Effect[];
    try {
      effects = this.#requireCore().event(event, nowMs);
    } catch (error) {
      if (error instanceof CoreTrap) this.#reload();
      throw error;
    }
    this.#commit(effects, nowMs, tx);
  }

  #commit(effects: Effect[], nowMs: number, tx?: (nowMs: number, effects: Effect[]) => void): void {
    const store = this.#store;
    let alarm = false;
    let logged = false;
    let stateChanged = false;
    try {
      this.ctx.storage.transactionSync(() => {
        tx?.(nowMs, effects);
        for (const effect of effects) {
          if (effect.kind === "event") {
            store.addEvent(effect, this.#rawOf(effect));
            stateChanged = applyEvent(store, effect, nowMs) || stateChanged;
            logged = true;
          } else if (effect.kind === "cursor") {
            store.set(cursorKey(effect.stream), effect.offset);
          } else if (effect.kind === "wakeAt") {
            store.set("wake_at", effect.timeMs);
            alarm = true;
          } else {
            const pending = pendingOf(effect);
            if (pending !== null) {
              store.addPending(pending.kind, pending.run, pending.payload);
              alarm = true;
            }
            if (effect.kind === "sandboxDestroy" && store.text("state") !== "ended") {
              store.set("state", "ending");
              stateChanged = true;
            }
          }
        }
        if (effects.length > 0 || tx !== undefined) store.set("snapshot", this.#requireCore().save());
      });
    } catch (error) {
      // The core is ahead of storage, or trapped while it was saved.
      store.rolledBack();
      this.#reload();
      throw error;
    }
    if (alarm) this.#setAlarm();
    if (logged) {
      this.#grown.wake();
      this.#flushSockets();
    }
    if (stateChanged) this.ctx.waitUntil(this.#writeIndex());
    this.#drain();
  }

  /** Sends the sockets the next portion, and the rest in turns of the event loop. */
  #flushSockets(): void {
    if (this.#flushing || !flushSockets(this.ctx, this.#log)) return;
    this.#flushing = true;
    setTimeout(() => {
      this.#flushing = false;
      this.#flushSockets();
    }, FLUSH_PAUSE_MS);
  }

  /**
   * Sets the alarm for what comes first: the core's time, or another look at the effects that have no answer. The core wants
   * none in a session that ends, and nobody else would wake an evicted object whose sandbox is still to be destroyed.
   */
  #setAlarm(): void {
    const times = [this.#store.number("wake_at") ?? 0];
    if (this.#store.nextPending() !== null) times.push(Date.now() + PENDING_WAKE_MS);
    const due = Math.min(...times.filter((time) => time > 0));
    void (Number.isFinite(due) ? this.ctx.storage.setAlarm(due) : this.ctx.storage.deleteAlarm());
  }

  /** The agent's line for the event that carries it, as JSON text. */
  #rawOf(effect: Effect): string | null {
    if (effect.kind !== "event" || effect.line === null || !effect.line.first) return null;
    const { off, len, stderr, isJSON } = effect.line;
    const line = this.#windows.get(stderr ? STREAM.STDERR : STREAM.STDOUT)?.line(off, len) ?? null;
    if (line === null) return null;
    const archive = `sessions/${this.#store.text("id")}/runs/run_${effect.run}/${stderr ? "stderr.txt" : "stdout.jsonl"}`;
    return rawText(line, len, off, isJSON, archive);
  }

  #requireCore(): Core {
    if (this.#core === null) throw new CoreTrap("the session has no core");
    return this.#core;
  }

  /** A new core from the last snapshot, and the streams from the last cursors. */
  #reload(): void {
    const snapshot = this.#store.exists ? this.#store.bytes("snapshot") : null;
    this.#core = null;
    this.#windows.clear();
    if (snapshot === null) return;
    const core = new Core(module);
    core.load(snapshot);
    this.#core = core;
    for (const stream of [STREAM.STDOUT, STREAM.STDERR]) {
      this.#windows.set(stream, new LineWindow(this.#store.number(cursorKey(stream)) ?? 0));
    }
  }

  /** Takes up what was under way: effects without an answer, and the output of a running run. */
  #resume(): void {
    const active = this.#store.number("active_run");
    if (active !== null) this.#follow(active);
    this.#drain();
    if (this.#store.number("index_seq") === null) this.ctx.waitUntil(this.#writeIndex());
  }

  /* --- effects --- */

  #drain(): void {
    if (this.#draining !== null || this.#store.nextPending() === null) return;
    this.#draining = this.#carryOutAll().finally(() => {
      this.#draining = null;
    });
    this.ctx.waitUntil(this.#draining);
  }

  /** Carries the pending effects out, strictly in order, each until it is answered. */
  async #carryOutAll(): Promise<void> {
    let tries = 0;
    for (let pending = this.#store.nextPending(); pending !== null; pending = this.#store.nextPending()) {
      try {
        await within(EFFECT_TIMEOUT_MS[pending.kind], pending.kind, this.#carryOut(pending));
        tries = 0;
      } catch (error) {
        tries += 1;
        console.error(`session ${this.#store.text("id")}: ${pending.kind}, attempt ${tries}:`, error);
        // Trying again cannot start an engine or give back a sandbox.
        if (tries >= EFFECT_TRIES || error instanceof EngineUnavailable || error instanceof CoreError) {
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
    const done = (): void => store.dropPending(pending.id);
    switch (pending.kind) {
      case "sandboxStart": {
        const { boot, tree } = await startSandbox(this.env, this.#sandbox(), store.files());
        this.#step({ kind: "SANDBOX_READY" }, () => {
          done();
          store.set("boot", boot);
          store.set("tree", tree);
          store.dropFiles();
        });
        return;
      }
      case "sandboxDestroy":
        this.#unfollow();
        await this.#saveDiff();
        await this.#sandbox().destroy();
        this.#step({ kind: "SANDBOX_GONE", payload: JSON.stringify("destroyed") }, () => {
          done();
          store.set("active_run", null);
        });
        return;
      case "runLoad":
        this.#step({ kind: "RUN_LOADED", id: run, payload: store.run(run)?.request ?? "" }, done);
        return;
      case "runStart": {
        const tree = await this.#alive(() =>
          startRun(this.#sandbox(), run, pending.payload, promptOf(store.run(run)?.request)),
        );
        if (tree === null) {
          this.#gone("the sandbox has stopped", pending.id);
          return;
        }
        this.#step({ kind: "RUN_STARTED", id: run }, () => {
          done();
          store.setTree(run, tree);
          store.set("active_run", run);
          for (const stream of [STREAM.STDOUT, STREAM.STDERR]) store.set(cursorKey(stream), 0);
        });
        for (const stream of [STREAM.STDOUT, STREAM.STDERR]) this.#windows.set(stream, new LineWindow(0));
        this.#feedTraps = 0;
        this.#follow(run);
        return;
      }
      case "runKill":
        await this.#alive(() =>
          killRun(this.#sandbox(), run, pending.payload === "timed_out" ? "timed_out" : "cancelled"),
        );
        done();
        return;
      case "collect":
        await this.#alive(() => collect(this.#sandbox(), this.#collectSink(run)));
        this.#step({ kind: "COLLECTED", id: run }, done);
        return;
      default: {
        const unknown: never = pending.kind;
        throw new Error(`unknown effect ${unknown}`);
      }
    }
  }

  /** Keeps the session's whole diff before its sandbox goes; the end of a session does not depend on it. */
  async #saveDiff(): Promise<void> {
    const tree = this.#store.text("tree");
    const id = this.#store.text("id") ?? "";
    if (tree === null) return;
    try {
      const save = this.#alive(() => storeSessionDiff(this.#sandbox(), this.env.ARTIFACTS, id, tree));
      await within(SAVE_DIFF_MS, "the session's diff", save);
    } catch (error) {
      console.warn(`session ${id}: diff:`, error);
    }
  }

  /** Answers an effect that cannot be carried out with its failure. A core that no longer waits for the answer is content. */
  #giveUp(pending: Pending, error: unknown): void {
    const why = JSON.stringify(error instanceof Error ? error.message.slice(0, 1_000) : String(error));
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
        this.#note(pending.run, T.LIMIT_WARNING, {
          limit: "artifacts",
          detail: `collecting failed: ${JSON.parse(why)}`,
        });
      }
      if (answer !== null) this.#step(answer, done);
      else done();
      if (pending.kind === "sandboxStart" && !(error instanceof EngineUnavailable)) this.#sweep();
    } catch (cause) {
      console.error(`session ${this.#store.text("id")}: ${pending.kind} could not be answered:`, cause);
      done();
    }
  }

  /** Runs `fn` in the sandbox that the session started; null when that one is gone (the SDK would start another). */
  async #alive<R>(fn: () => Promise<R>): Promise<R | null> {
    const { running, boot } = await this.#sandbox().runtime();
    if (!running || boot !== this.#store.text("boot")) return null;
    return await fn();
  }

  /** The sandbox is proven gone; `pendingId` is the effect that found out. */
  #gone(why: string, pendingId?: number): void {
    this.#step({ kind: "SANDBOX_GONE", payload: JSON.stringify(why) }, () => {
      if (pendingId !== undefined) this.#store.dropPending(pendingId);
      this.#store.set("active_run", null);
    });
    this.#sweep();
  }

  /** The session has lost its sandbox: nothing that bears its name may stay, started by halves or by the SDK's own doing. */
  #sweep(): void {
    const work = this.#sandbox().destroy();
    this.ctx.waitUntil(
      work.catch((error: unknown) => console.error(`session ${this.#store.text("id")}: destroy:`, error)),
    );
  }

  #sandbox(): SandboxStub {
    return sessionSandbox(this.env, sandboxName(this.#store));
  }

  /* --- the running run --- */

  #follow(run: number): void {
    if (this.#following?.run === run) return;
    this.#unfollow();
    const following: Following = { run, abort: new AbortController() };
    this.#following = following;
    const sink = {
      position: (stream: number): number => this.#windows.get(stream)?.end ?? 0,
      feed: (stream: number, _offset: number, bytes: Uint8Array): void => {
        if (!following.abort.signal.aborted) this.#feed(run, stream, bytes);
      },
    };
    const work = followRun(this.#sandbox(), run, this.#store.text("boot"), sink, following.abort.signal)
      .then((end) => this.#runEnded(following, end))
      .catch((error) => console.error(`session ${this.#store.text("id")}: follow run_${run}:`, error))
      .finally(() => {
        if (this.#following === following) this.#following = null;
      });
    this.ctx.waitUntil(work);
  }

  #unfollow(): void {
    this.#following?.abort.abort();
    this.#following = null;
  }

  #feed(run: number, stream: number, bytes: Uint8Array): void {
    const window = this.#windows.get(stream);
    if (window === undefined) throw new Error("the stream is not open");
    const nowMs = Date.now();
    window.push(bytes);
    let effects: Effect[];
    try {
      effects = this.#requireCore().feed(stream, run, bytes, nowMs);
    } catch (error) {
      if (!(error instanceof CoreError)) {
        this.#feedTraps += 1;
      }
      this.#reload();
      if (error instanceof CoreError || this.#feedTraps >= FEED_TRAPS_MAX) throw new UnreadableOutput(String(error));
      throw error;
    }
    this.#commit(effects, nowMs);
  }

  #runEnded(following: Following, end: RunEnd): void {
    if (end.kind === "stopped" || following.abort.signal.aborted || this.#following !== following) return;
    this.#following = null;
    if (end.kind === "gone") {
      this.#gone(end.why);
      return;
    }
    const exit = (payload: string): void =>
      this.#step({ kind: "RUN_EXIT", id: following.run, payload }, () => this.#store.set("active_run", null));
    try {
      exit(end.record);
    } catch (error) {
      if (!(error instanceof CoreError)) throw error;
      // Written by the runner, but in a place that the agent can write to as well.
      exit(lostRecord(`the exit record is not one: ${error.message}`));
    }
  }

  #note(run: number, type: number, fields: Record<string, string | number | null>, tx?: () => void): void {
    this.#step({ kind: "NOTE", id: run, code: type, payload: JSON.stringify(fields) }, tx);
  }

  #collectSink(run: number): CollectSink {
    const store = this.#store;
    return {
      sessionId: store.text("id") ?? "",
      run,
      bucket: this.env.ARTIFACTS,
      sessionTree: store.text("tree") ?? "",
      runTree: store.run(run)?.tree ?? store.text("tree") ?? "",
      digest: () => this.#digest(),
      hasChange: (path) => store.hasChanged(run, path),
      hasArtifact: (path) => store.hasArtifact(run, path),
      artifacts: () => store.artifacts().filter(({ run_id }) => run_id === `run_${run}`),
      changed: ({ path, status, size }) => {
        const fields = { path, status, ...(size === null ? {} : { size }) };
        this.#note(run, T.FILE_CHANGED, fields, () => store.addChanged(run, path));
      },
      stored: (artifact) => {
        const { path, size, sha256 } = artifact;
        this.#note(run, T.ARTIFACT_STORED, { path, size, sha256 }, () => store.addArtifact(run, artifact));
      },
      warn: (fields) => this.#note(run, T.LIMIT_WARNING, fields),
    };
  }

  /** SHA-256 by the core. One at a time: files are collected one after the other. */
  #digest(): Digest {
    const core = this.#requireCore();
    this.#digestId += 1;
    const id = this.#digestId;
    // Not a step: a digest is no part of the session's state. The watchdog's time may move with any event, though.
    const tell = (kind: "DIGEST_BEGIN" | "DIGEST_END"): string => {
      let sha256 = "";
      for (const effect of core.event({ kind, id }, Date.now())) {
        if (effect.kind === "digest") sha256 = Buffer.from(effect.sha256).toString("hex");
        else if (effect.kind === "wakeAt") {
          this.#store.set("wake_at", effect.timeMs);
          this.#setAlarm();
        }
      }
      return sha256;
    };
    tell("DIGEST_BEGIN");
    return { update: (bytes) => void core.feed(STREAM.DIGEST, id, bytes, Date.now()), end: () => tell("DIGEST_END") };
  }

  /* --- helpers --- */

  /** The session for a creation that is repeated, refused when it is another one. */
  #createdWith(bodyDigest: string): Result<SessionView> {
    if (this.#store.text("body_digest") === bodyDigest) return this.#view();
    return fail(409, "idempotency_mismatch", "this session was created with another body");
  }

  #view(): Result<SessionView> {
    return this.#store.exists ? { ok: true, value: sessionView(this.#store) } : NOT_FOUND;
  }

  #runView(n: number): Result<RunView> {
    const row = this.#store.run(n);
    return row === null
      ? fail(404, "run_not_found", "there is no run with this id")
      : { ok: true, value: runView(this.#store, row) };
  }

  /** Runs an RPC's body; a missing session and every error become values. */
  async #try<R>(fn: () => Result<R> | Promise<Result<R>>): Promise<Result<R>> {
    if (!this.#store.exists) return NOT_FOUND;
    try {
      return await fn();
    } catch (error) {
      return failed(error);
    }
  }

  /** Waits until `holds`, at most WAIT_MS. */
  async #until(holds: () => boolean): Promise<void> {
    const deadline = Date.now() + WAIT_MS;
    while (!holds() && Date.now() < deadline) await this.#grown.wait(deadline - Date.now());
  }

  async #usableSandbox(): Promise<Result<SandboxStub>> {
    await this.#until(() => this.#store.text("state") !== "starting");
    const state = this.#store.text("state");
    if (state === "starting") return fail(503, "sandbox_starting", "the sandbox is still starting; try again");
    if (state === "ended" || state === "ending") return fail(409, "session_ended", "the session has ended");
    const sandbox = await this.#alive(async () => this.#sandbox());
    if (sandbox !== null) return { ok: true, value: sandbox };
    await checkEngine(this.env);
    this.#unfollow();
    this.#gone("the sandbox has stopped");
    return fail(409, "sandbox_gone", "the session's sandbox has stopped; the session ends");
  }

  async #diffNow(tree: string): Promise<Result<Uint8Array>> {
    const usable = await this.#usableSandbox();
    if (!usable.ok) return usable;
    const { stdout } = await exec(usable.value, diffNowScript(tree, DIFF_MAX));
    return { ok: true, value: Buffer.from(stdout, "base64") };
  }

  async #stored(key: string): Promise<Uint8Array> {
    const object = await this.env.ARTIFACTS.get(key);
    return object === null ? new Uint8Array() : await object.bytes();
  }

  /** Brings the row in D1 up to date; a refused write is repeated by the alarm. */
  #writeIndex(): Promise<void> {
    this.#indexDue = true;
    this.#indexing ??= this.#writeIndexNow().finally(() => {
      this.#indexing = null;
    });
    return this.#indexing;
  }

  async #writeIndexNow(): Promise<void> {
    try {
      while (this.#indexDue) {
        this.#indexDue = false;
        const view = sessionView(this.#store);
        await writeIndex(this.env.INDEX, view, new Date().toISOString());
        this.#store.set("index_seq", view.last_seq);
        this.#store.set("index_state", view.state);
      }
    } catch (error) {
      this.#indexDue = true;
      console.error(`session ${this.#store.text("id")}: index:`, error);
      const due = await this.ctx.storage.getAlarm();
      if (due === null || due > Date.now() + INDEX_RETRY_MS)
        await this.ctx.storage.setAlarm(Date.now() + INDEX_RETRY_MS);
    }
  }
}

function cursorKey(stream: number): string {
  return `cursor_${stream}`;
}

function promptOf(request: string | undefined): string {
  const body = JSON.parse(request ?? "{}") as { prompt?: string };
  return body.prompt ?? "";
}

function failed(error: unknown): ReturnType<typeof failureOf> {
  return error instanceof EngineUnavailable ? fail(503, "engine_unavailable", error.message) : failureOf(error);
}

async function digestOf(text: string): Promise<string> {
  return Buffer.from(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text))).toString("hex");
}

/** `work`, or an error after `ms`; the work itself goes on and its result is dropped. */
async function within<R>(ms: number, what: string, work: Promise<R>): Promise<R> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took longer than ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
