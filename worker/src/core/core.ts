/**
 * The host side of the core: the only file that reads or writes wasm memory.
 *
 * One `Core` per Durable Object. Views never leave this file: payloads are copied out before the next call. A trap
 * poisons the instance: every later call throws, and the owner starts a new one from its last snapshot.
 */

import type { ErrName, EvName } from "./abi.gen.js";
import { ABI, BOUND, ERR, ERR_TEXT, EV, FX, FXE, LINE, REC, TYPE_TEXT } from "./abi.gen.js";

/** An event for the core. Fields that a kind does not name are left out. */
export interface CoreEvent {
  readonly kind: Exclude<EvName, "OUTPUT">;
  /** Run number, or the id that ties an effect to its answer. */
  readonly id?: number;
  readonly code?: number;
  readonly payload?: string | Uint8Array;
}

/** An event of the session's log as the core numbered it. */
export interface LogEvent {
  readonly kind: "event";
  readonly seq: number;
  /** `run.started`, `agent.text`, … */
  readonly type: string;
  /** Run number, 0 for session events. */
  readonly run: number;
  readonly timeMs: number;
  /** The event as one JSON object. */
  readonly json: string;
  /** The agent's line it came from; null when it did not come from a line. */
  readonly line: {
    readonly off: number;
    readonly len: number;
    readonly stderr: boolean;
    readonly first: boolean;
    readonly isJSON: boolean;
  } | null;
}

export type Effect =
  | LogEvent
  | { readonly kind: "sandboxStart" }
  | { readonly kind: "sandboxDestroy" }
  | { readonly kind: "runLoad"; readonly run: number }
  | { readonly kind: "runStart"; readonly run: number; readonly spec: string }
  | { readonly kind: "runKill"; readonly run: number; readonly reason: KillReason }
  | { readonly kind: "collect"; readonly run: number }
  | { readonly kind: "wakeAt"; readonly timeMs: number }
  | { readonly kind: "cursor"; readonly run: number; readonly stream: number; readonly offset: number }
  | { readonly kind: "digest"; readonly id: number; readonly sha256: Uint8Array }
  /** Counters and limits as one JSON object; of the session, and of the run it names (0: none). */
  | { readonly kind: "budget"; readonly run: number; readonly json: string };

export type KillReason = "cancelled" | "timed_out" | "over_budget";

/** The core refused an event; nothing changed. */
export class CoreError extends Error {
  readonly errName: ErrName;
  /** JSON pointer of the field at fault, for errors of the -300 band. */
  readonly field: string | undefined;

  constructor(errName: ErrName, field?: string) {
    super(ERR_TEXT[errName]);
    this.name = "CoreError";
    this.errName = errName;
    this.field = field;
  }
}

/** The instance is unusable: a broken invariant inside, or a module that does not speak this wire. */
export class CoreTrap extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "CoreTrap";
  }
}

interface CoreExports {
  readonly memory: WebAssembly.Memory;
  _initialize(): void;
  csn_abi(): number;
  csn_init(len: number): number;
  csn_event(len: number): number;
  csn_feed(off: number, len: number): number;
  csn_save(): number;
  csn_load(len: number): number;
}

const KILL_REASONS: Readonly<Record<number, KillReason>> = { 1: "cancelled", 2: "timed_out", 3: "over_budget" };
const errNames = new Map<number, ErrName>(Object.entries(ERR).map(([name, value]) => [value, name as ErrName]));
const typeTexts: Readonly<Record<number, string>> = TYPE_TEXT;
const utf8 = new TextEncoder();
const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Bytes of a feed: the in-box less the record header, and never more than the core promises to take at once. */
const FEED_CAP = Math.min(BOUND.FEED_MAX, BOUND.IN_CAP - ABI.recSize);

export class Core {
  readonly #exports: CoreExports;
  readonly #desc: Uint32Array;
  readonly #in: Uint8Array;
  readonly #inView: DataView;
  readonly #out: Uint8Array;
  readonly #outView: DataView;
  #trap: CoreTrap | null = null;

  /** Throws CoreTrap when the module's wire is not the one that abi.gen.ts was printed from. */
  constructor(module: WebAssembly.Module) {
    const instance = new WebAssembly.Instance(module, {});
    const exports = instance.exports as unknown as CoreExports;
    exports._initialize();
    const desc = new Uint32Array(exports.memory.buffer, exports.csn_abi(), 8);
    const [magic, version, digest, inOff = 0, inCap = 0, outOff = 0, outCap = 0] = desc;
    if (magic !== ABI.magic || version !== ABI.version || digest !== ABI.digest) {
      throw new CoreTrap(
        `core.wasm speaks ABI ${version}/${hex(digest)}, the Worker ${ABI.version}/${hex(ABI.digest)}: run make`,
      );
    }
    this.#exports = exports;
    this.#desc = desc;
    this.#in = new Uint8Array(exports.memory.buffer, inOff, inCap);
    this.#inView = new DataView(exports.memory.buffer, inOff, inCap);
    this.#out = new Uint8Array(exports.memory.buffer, outOff, outCap);
    this.#outView = new DataView(exports.memory.buffer, outOff, outCap);
    this.#check(
      this.#call(() => exports.csn_init(this.#writeRecord(0, 0, 0, 0, 0, new Uint8Array()))),
      [],
    );
  }

  /** Applies one event, all or nothing. Throws CoreError (nothing changed) or CoreTrap (instance is poisoned). */
  event(event: CoreEvent, nowMs: number): Effect[] {
    const payload =
      typeof event.payload === "string" ? utf8.encode(event.payload) : (event.payload ?? new Uint8Array());
    if (ABI.recSize + payload.byteLength > this.#in.byteLength) throw new CoreError("TOO_LONG");
    const len = this.#writeRecord(EV[event.kind], event.id ?? 0, event.code ?? 0, 0, nowMs, payload);
    const rc = this.#call(() => this.#exports.csn_event(len));
    const [effects, badField] = this.#decode();
    this.#check(rc, badField);
    return effects;
  }

  /** Feeds bytes of one stream, in pieces the core can take, until all are used. */
  feed(stream: number, id: number, bytes: Uint8Array, nowMs: number): Effect[] {
    const effects: Effect[] = [];
    for (let at = 0; at < bytes.byteLength; at += FEED_CAP) {
      const piece = bytes.subarray(at, at + FEED_CAP);
      this.#writeRecord(EV.OUTPUT, id, 0, stream, nowMs, piece);
      let off = 0;
      while (off < piece.byteLength) {
        const used = this.#call(() => this.#exports.csn_feed(off, piece.byteLength - off));
        const [some, badField] = this.#decode();
        effects.push(...some);
        if (used <= 0) this.#check(used === 0 ? ERR.AGAIN : used, badField);
        off += used;
      }
    }
    return effects;
  }

  /** The whole state as bytes that `load` of this version, or of the next one, accepts. */
  save(): Uint8Array {
    const len = this.#call(() => this.#exports.csn_save());
    this.#check(Math.min(len, 0), []);
    return this.#out.slice(0, len);
  }

  load(snapshot: Uint8Array): void {
    if (snapshot.byteLength > this.#in.byteLength) throw new CoreError("BAD_SNAPSHOT");
    this.#in.set(snapshot);
    this.#check(
      this.#call(() => this.#exports.csn_load(snapshot.byteLength)),
      [],
    );
  }

  /** Runs an export; a WebAssembly exception poisons the instance. */
  #call(fn: () => number): number {
    if (this.#trap !== null) throw this.#trap;
    try {
      return fn();
    } catch (cause) {
      this.#trap = new CoreTrap(`core trapped: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
      throw this.#trap;
    }
  }

  #check(rc: number, badField: readonly string[]): void {
    if (rc === ERR.OK) return;
    const name = errNames.get(rc);
    if (name === undefined) {
      this.#trap = new CoreTrap(`core answered ${rc}, which is no error of this ABI`);
      throw this.#trap;
    }
    throw new CoreError(name, badField[0]);
  }

  /** Writes a record into the in-box and returns its size. */
  #writeRecord(kind: number, id: number, code: number, stream: number, nowMs: number, payload: Uint8Array): number {
    const size = (ABI.recSize + payload.byteLength + 7) & ~7;
    const v = this.#inView;
    v.setUint32(REC.size, size, true);
    v.setUint16(REC.kind, kind, true);
    v.setUint16(REC.flags, 0, true);
    v.setUint32(REC.id, id, true);
    v.setInt32(REC.code, code, true);
    v.setUint32(REC.payloadLen, payload.byteLength, true);
    v.setUint32(REC.stream, stream, true);
    v.setBigUint64(REC.timeMs, BigInt(Math.max(0, Math.trunc(nowMs))), true);
    this.#in.set(payload, ABI.recSize);
    this.#in.fill(0, ABI.recSize + payload.byteLength, size);
    return size;
  }

  /** Decodes the out-box: effects in order, and the pointers of BAD_FIELD records. */
  #decode(): [effects: Effect[], badField: string[]] {
    const outLen = this.#desc[7] ?? 0;
    const effects: Effect[] = [];
    const badField: string[] = [];
    let at = 0;
    while (at < outLen) {
      const v = this.#outView;
      const size = v.getUint32(at + REC.size, true);
      const payloadLen = v.getUint32(at + REC.payloadLen, true);
      if (
        outLen > this.#out.byteLength ||
        size < ABI.recSize ||
        size > outLen - at ||
        payloadLen > size - ABI.recSize
      ) {
        this.#trap = new CoreTrap("core wrote a malformed effect record");
        throw this.#trap;
      }
      const payload = at + ABI.recSize;
      const kind = v.getUint16(at + REC.kind, true);
      const id = v.getUint32(at + REC.id, true);
      const code = v.getInt32(at + REC.code, true);
      const timeMs = Number(v.getBigUint64(at + REC.timeMs, true));
      if (kind === FX.BAD_FIELD) badField.push(this.#text(payload, payloadLen));
      else
        effects.push(
          this.#effect(kind as EffectKind, id, code, v.getUint32(at + REC.stream, true), timeMs, payload, payloadLen),
        );
      at += size;
    }
    return [effects, badField];
  }

  #effect(kind: EffectKind, id: number, code: number, stream: number, timeMs: number, at: number, len: number): Effect {
    switch (kind) {
      case FX.EVENT:
        return this.#logEvent(timeMs, at, len);
      case FX.SANDBOX_START:
        return { kind: "sandboxStart" };
      case FX.SANDBOX_DESTROY:
        return { kind: "sandboxDestroy" };
      case FX.RUN_LOAD:
        return { kind: "runLoad", run: id };
      case FX.RUN_START:
        return { kind: "runStart", run: id, spec: this.#text(at, len) };
      case FX.RUN_KILL:
        return { kind: "runKill", run: id, reason: KILL_REASONS[code] ?? "cancelled" };
      case FX.COLLECT:
        return { kind: "collect", run: id };
      case FX.WAKE_AT:
        return { kind: "wakeAt", timeMs };
      case FX.CURSOR:
        return { kind: "cursor", run: id, stream, offset: Number(this.#outView.getBigUint64(at, true)) };
      case FX.DIGEST:
        return { kind: "digest", id, sha256: this.#out.slice(at, at + len) };
      case FX.BUDGET:
        return { kind: "budget", run: id, json: this.#text(at, len) };
      default: {
        const unknown: never = kind;
        this.#trap = new CoreTrap(`core emitted effect ${String(unknown)}, which this ABI does not have`);
        throw this.#trap;
      }
    }
  }

  #logEvent(timeMs: number, at: number, len: number): LogEvent {
    const v = this.#outView;
    const flags = v.getUint32(at + FXE.lineFlags, true);
    const lineLen = v.getUint32(at + FXE.lineLen, true);
    const type = typeTexts[v.getUint32(at + FXE.type, true)];
    if (type === undefined) {
      this.#trap = new CoreTrap("core emitted an event type that this ABI does not have");
      throw this.#trap;
    }
    return {
      kind: "event",
      seq: Number(v.getBigUint64(at + FXE.seq, true)),
      type,
      run: v.getUint32(at + FXE.run, true),
      timeMs,
      json: this.#text(at + ABI.fxEventSize, len - ABI.fxEventSize),
      line:
        lineLen === 0
          ? null
          : {
              off: Number(v.getBigUint64(at + FXE.lineOff, true)),
              len: lineLen,
              stderr: (flags & LINE.STDERR) !== 0,
              first: (flags & LINE.FIRST) !== 0,
              isJSON: (flags & LINE.JSON) !== 0,
            },
    };
  }

  #text(at: number, len: number): string {
    return text.decode(this.#out.subarray(at, at + len));
  }
}

/** Kinds that become an `Effect`; ANSWER is the guard's. */
type EffectKind = Exclude<(typeof FX)[keyof typeof FX], typeof FX.BAD_FIELD | typeof FX.ANSWER>;

function hex(value: number | undefined): string {
  return (value ?? 0).toString(16).padStart(8, "0");
}
