/**
 * The core of one session beside its storage: gives it events and output, and commits what it says.
 *
 * Order of a step: core → one transaction (events, snapshot, cursors, pending effects) → listeners → effects. An event that a
 * client has seen, and an effect that was started, is therefore always in storage. What comes in is redacted before the core
 * sees it, so nothing that it says needs to be.
 */
import module from "../../../build/core.wasm";
import guardModule from "../../../build/guard.wasm";
import { LINE, STREAM, T } from "../core/abi.gen.js";
import { Core, CoreError, type CoreEvent, CoreTrap, type Effect } from "../core/core.js";
import { Guard } from "../core/guard.js";
import { addFound } from "../core/redact.js";
import type { Digest } from "../effects/artifacts.js";
import { report } from "../effects/report.js";
import { UnreadableOutput } from "../effects/run.js";
import type { EventLog } from "../transport/log.js";
import { flushSockets } from "../transport/ws.js";
import { applyEvent } from "./derive.js";
import { Flow } from "./flow.js";
import { LineWindow, rawText } from "./lines.js";
import type { Mask } from "./mask.js";
import { Notifier } from "./notifier.js";
import { eventText, outcomeOf, pendingOf, type Store } from "./store.js";

/** milliseconds: how long a caller is held while the sandbox starts or ends. */
const WAIT_MS = 60_000;
/** milliseconds between two portions of a backlog for WebSockets. */
const FLUSH_PAUSE_MS = 5;
/** milliseconds: an object that dies with effects unanswered is awake again after at most so long. */
const PENDING_WAKE_MS = 15_000;
/** items: traps of the core on the same output before the run is given up. */
const FEED_TRAPS_MAX = 3;
/** Key of what was masked of the running run's output, by form. */
const MASKED = "masked";
const OUTPUTS = [STREAM.STDOUT, STREAM.STDERR] as const;

/** Runs first inside the transaction of a step. */
export type StepTx = (nowMs: number, effects: Effect[]) => void;

/** What is done after a commit. */
export interface MachineHooks {
  /** There may be effects to be carried out. */
  readonly committed: () => void;
  /** The session's row in the index is older than the session. */
  readonly changed: () => void;
  /** See EventLog. */
  readonly readerEnded: EventLog["ended"];
}

export class Machine {
  readonly #ctx: DurableObjectState;
  readonly #store: Store;
  readonly #mask: Mask;
  readonly #hooks: MachineHooks;
  readonly #grown = new Notifier();
  #core: Core | null = null;
  #guard: Guard | null = null;
  /** Bytes of the running run's streams since their current lines began, redacted. */
  readonly #windows = new Map<number, LineWindow>();
  /** The same streams before that; also where each is to be taken up. */
  readonly #flows = new Map<number, Flow>();
  #feedTraps = 0;
  /** Another portion of the log for the sockets is due. */
  #flushing = false;
  #digestId = 0;
  /** What clients see of the log: the store, and the wake-up after each transaction. */
  readonly log: EventLog = {
    ended: (reader) => this.#hooks.readerEnded(reader),
    page: (after, limit, withRaw, run) => this.#store.page(after, limit, withRaw, run),
    changed: (timeoutMs) => this.#grown.wait(timeoutMs),
  };

  constructor(ctx: DurableObjectState, store: Store, mask: Mask, hooks: MachineHooks) {
    this.#ctx = ctx;
    this.#store = store;
    this.#mask = mask;
    this.#hooks = hooks;
  }

  /** A core without a session, for the first step. */
  start(): void {
    this.#core = new Core(module);
  }

  /** A new core from the last snapshot, and the streams from the last cursors. */
  reload(): void {
    const snapshot = this.#store.exists ? this.#store.bytes("snapshot") : null;
    this.#core = null;
    this.#windows.clear();
    for (const flow of this.#flows.values()) flow.close();
    this.#flows.clear();
    if (snapshot === null) return;
    const core = new Core(module);
    core.load(snapshot);
    this.#core = core;
    for (const stream of OUTPUTS) this.#openStream(stream, this.#store.number(cursorKey(stream)) ?? 0);
  }

  #openStream(stream: number, offset: number): void {
    this.#windows.set(stream, new LineWindow(offset));
    this.#flows.get(stream)?.close();
    this.#flows.delete(stream);
    // Nothing flows outside of a run, and what is masked is not asked for before it is needed.
    if (this.#store.number("active_run") === null) return;
    try {
      this.#flows.set(stream, new Flow(this.#mask.open(), offset));
    } catch (error) {
      // The run is given up when output comes; the session stays usable, so that it can be ended.
      this.report("error", "secrets", error);
    }
  }

  /** Says something of this session in the Worker's log. */
  report(level: "error" | "warn", what: string, error?: unknown): void {
    report((text) => this.#mask.text(text), level, `session ${this.#store.text("id")}: ${what}`, error);
  }

  /** Gives the core an event and commits what it says. */
  step(event: CoreEvent, tx?: StepTx): void {
    if (event.kind === "RUN_EXIT" || event.kind === "SANDBOX_GONE") this.#endStreams();
    const nowMs = Date.now();
    let effects: Effect[];
    try {
      effects = this.#requireCore().event(this.#redacted(event), nowMs);
    } catch (error) {
      if (error instanceof CoreTrap) this.reload();
      throw error;
    }
    this.#commit(effects, nowMs, tx);
  }

  /** The event without what must not be told. A run is started from its request as it was made, which is loaded for that. */
  #redacted(event: CoreEvent): CoreEvent {
    if (event.kind === "CREATE" || event.kind === "RUN_LOADED" || typeof event.payload !== "string") return event;
    return { ...event, payload: this.#mask.text(event.payload) };
  }

  /** A text of the session's, to be cut or kept. */
  redact(text: string): string {
    return this.#mask.text(text);
  }

  /** Output is over: what was held back, and how much was masked. */
  #endStreams(): void {
    const run = this.#store.number("active_run");
    if (run === null) return;
    for (const [stream, flow] of this.#flows) {
      try {
        const rest = flow.flush();
        if (rest.byteLength > 0) this.#feedClean(run, stream, rest);
      } catch (error) {
        this.report("error", `the end of a stream of run_${run}`, error);
      }
    }
    const masked = this.#store.text(MASKED);
    if (masked === null) return;
    try {
      this.note(run, T.SECRET_MASKED, { in: "output", ...JSON.parse(masked) }, () => this.#store.set(MASKED, null));
    } catch (error) {
      this.report("error", "what was masked", error);
    }
  }

  /** Reports an event that the host has seen. */
  note(run: number, type: number, fields: Record<string, string | number | boolean | null>, tx?: () => void): void {
    this.step({ kind: "NOTE", id: run, code: type, payload: JSON.stringify(fields) }, tx);
  }

  /** The streams of a run that starts: `resetCursors` belongs into its transaction, `openStreams` after it. */
  resetCursors(): void {
    for (const stream of OUTPUTS) this.#store.set(cursorKey(stream), 0);
    this.#store.set(MASKED, null);
  }

  openStreams(): void {
    for (const stream of OUTPUTS) this.#openStream(stream, 0);
    this.#feedTraps = 0;
  }

  /** Stream offset of the next byte that is wanted. */
  position(stream: number): number {
    return this.#flows.get(stream)?.position ?? 0;
  }

  /** Feeds output of the running run. Throws UnreadableOutput when trying again cannot help. */
  feed(run: number, stream: number, bytes: Uint8Array): void {
    const flow = this.#flows.get(stream);
    if (flow === undefined) throw new UnreadableOutput("a stored secret cannot be opened, so no output may be kept");
    const clean = flow.push(bytes);
    if (clean.byteLength > 0) this.#feedClean(run, stream, clean);
  }

  #feedClean(run: number, stream: number, bytes: Uint8Array): void {
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
      this.reload();
      if (error instanceof CoreError || this.#feedTraps >= FEED_TRAPS_MAX) throw new UnreadableOutput(String(error));
      throw error;
    }
    this.#commit(effects, nowMs, () => this.#countMasked(stream));
  }

  /** Keeps count of what was masked, beside what came of it. */
  #countMasked(stream: number): void {
    const flow = this.#flows.get(stream);
    if (flow === undefined) return;
    const { now, before } = flow.found();
    const masked = JSON.parse(this.#store.text(MASKED) ?? "{}") as Record<string, number>;
    if (addFound(masked, now, before)) this.#store.set(MASKED, JSON.stringify(masked));
  }

  /** SHA-256 by the core. One at a time: files are collected one after the other. */
  digest(): Digest {
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
          this.setAlarm();
        }
      }
      return sha256;
    };
    tell("DIGEST_BEGIN");
    return { update: (bytes) => void core.feed(STREAM.DIGEST, id, bytes, Date.now()), end: () => tell("DIGEST_END") };
  }

  /** Waits until `holds`, at most WAIT_MS. */
  async until(holds: () => boolean): Promise<void> {
    const deadline = Date.now() + WAIT_MS;
    while (!holds() && Date.now() < deadline) await this.#grown.wait(deadline - Date.now());
  }

  /** Somebody may not read any more: ends what they have open. */
  readersChanged(): void {
    this.#grown.wake();
    this.flushSockets();
  }

  /** Sends the sockets the next portion, and the rest in turns of the event loop. */
  flushSockets(): void {
    if (this.#flushing || !flushSockets(this.#ctx, this.log)) return;
    this.#flushing = true;
    setTimeout(() => {
      this.#flushing = false;
      this.flushSockets();
    }, FLUSH_PAUSE_MS);
  }

  /**
   * Sets the alarm for what comes first: the core's time, or another look at the effects that have no answer. The core wants
   * none in a session that ends, and nobody else would wake an evicted object whose sandbox is still to be destroyed.
   */
  setAlarm(): void {
    const times = [this.#store.number("wake_at") ?? 0];
    if (this.#store.nextPending() !== null) times.push(Date.now() + PENDING_WAKE_MS);
    const due = Math.min(...times.filter((time) => time > 0));
    void (Number.isFinite(due) ? this.#ctx.storage.setAlarm(due) : this.#ctx.storage.deleteAlarm());
  }

  #requireCore(): Core {
    if (this.#core === null) throw new CoreTrap("the session has no core");
    return this.#core;
  }

  #commit(effects: Effect[], nowMs: number, tx?: StepTx): void {
    const store = this.#store;
    let alarm = false;
    let logged = false;
    let stateChanged = false;
    const lines: string[] = [];
    try {
      this.#ctx.storage.transactionSync(() => {
        tx?.(nowMs, effects);
        for (const effect of effects) {
          if (effect.kind === "event") {
            const raw = this.#rawOf(effect);
            store.addEvent(effect, raw);
            lines.push(eventText(effect.json, raw));
            stateChanged = applyEvent(store, effect, nowMs) || stateChanged;
            // The program has what the request says: from here on nobody needs a secret that is in it.
            if (effect.type === "run.started" || outcomeOf(effect.type) !== null)
              store.setRequest(effect.run, this.#mask.text(store.run(effect.run)?.request ?? ""));
            logged = true;
          } else if (effect.kind === "cursor") {
            store.set(cursorKey(effect.stream), effect.offset);
          } else if (effect.kind === "wakeAt") {
            store.set("wake_at", effect.timeMs);
            alarm = true;
          } else if (effect.kind === "budget") {
            store.set("budget", effect.json);
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
        if (lines.length > 0) this.#chain(lines);
        if (effects.length > 0 || tx !== undefined) store.set("snapshot", this.#requireCore().save());
      });
    } catch (error) {
      // The core is ahead of storage, or trapped while it was saved.
      store.rolledBack();
      this.reload();
      throw error;
    }
    if (alarm) this.setAlarm();
    if (logged) {
      this.#grown.wake();
      this.flushSockets();
    }
    if (stateChanged) this.#hooks.changed();
    this.#hooks.committed();
  }

  /** Chains the events as they are exported, in the transaction that stores them. */
  #chain(lines: readonly string[]): void {
    this.#guard ??= new Guard(guardModule);
    const state = this.#store.bytes("audit") ?? this.#guard.auditBegin(this.#store.text("id") ?? "");
    const bytes = new TextEncoder().encode(`${lines.join("\n")}\n`);
    this.#store.set("audit", this.#guard.auditPush(state, bytes));
  }

  /** The agent's line for the event that carries it, as JSON text. */
  #rawOf(effect: Effect): string | null {
    if (effect.kind !== "event" || effect.lineLen === 0 || (effect.lineFlags & LINE.FIRST) === 0) return null;
    const { lineOff: off, lineLen: len, lineFlags } = effect;
    const stderr = (lineFlags & LINE.STDERR) !== 0;
    const isJSON = (lineFlags & LINE.JSON) !== 0;
    const line = this.#windows.get(stderr ? STREAM.STDERR : STREAM.STDOUT)?.line(off, len) ?? null;
    if (line === null) return null;
    const archive = `sessions/${this.#store.text("id")}/runs/run_${effect.run}/${stderr ? "stderr.txt" : "stdout.jsonl"}`;
    return rawText(line, len, off, isJSON, archive);
  }
}

function cursorKey(stream: number): string {
  return `cursor_${stream}`;
}
