/**
 * The host side of a session's core. One `Core` per Durable Object; after a trap its owner starts a new one from its last
 * snapshot.
 */

import type { ErrName, EvName } from "./abi.gen.js";
import { ABI, BOUND, ERR, ERR_TEXT, EV, FX, FXE, REC, REC_FLAG, TYPE_TEXT } from "./abi.gen.js";
import { CoreTrap, Instance } from "./instance.js";

export { CoreTrap };

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
  /** The agent's line it came from, by its first byte in the stream; `lineLen` is 0 when it did not come from a line. */
  readonly lineOff: number;
  readonly lineLen: number;
  /** LINE.* */
  readonly lineFlags: number;
}

export type Effect =
  | LogEvent
  /** `template` is "" for the default root. */
  | { readonly kind: "sandboxStart"; readonly template: string }
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

export type KillReason = "cancelled" | "timed_out" | "over_budget" | "policy_violation";

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

const KILL_REASONS: Readonly<Record<number, KillReason>> = {
  1: "cancelled",
  2: "timed_out",
  3: "over_budget",
  4: "policy_violation",
};
const errNames = new Map<number, ErrName>(Object.entries(ERR).map(([name, value]) => [value, name as ErrName]));
const typeTexts: readonly (string | undefined)[] = Object.assign([], TYPE_TEXT);
const utf8 = new TextEncoder();

/** Bytes of a feed: the in-box less the record header, and never more than the core promises to take at once. */
const FEED_CAP = Math.min(BOUND.FEED_MAX, BOUND.IN_CAP - ABI.recSize);

/** Where in the in-box a text may stand while a feed is going on. */
const UTF16_OFF = (ABI.recSize + BOUND.FEED_MAX + 7) & ~7;

/** bytes: longer strings are more expensive to make, as engines put them elsewhere. */
const LATIN1_BATCH = 98_304;
const UTF16_BATCH = 65_536;
/** bytes: a record that is not ASCII and longer is not copied beside others that are. */
const SKIP_MIN = 1_024;

interface SessionExports {
  csn_init(len: number): number;
  csn_event(len: number): number;
  csn_feed(off: number, len: number): number;
  csn_save(): number;
  csn_load(len: number): number;
  csn_utf16(from: number, len: number, to: number): number;
}

export class Core {
  readonly #instance: Instance<SessionExports>;

  /** Throws CoreTrap when the module's wire is not the one that abi.gen.ts was printed from. */
  constructor(module: WebAssembly.Module) {
    this.#instance = new Instance<SessionExports>(module);
    const len = this.#instance.write(0, 0, 0, 0, 0, new Uint8Array());
    this.#check(
      this.#instance.call((exports) => exports.csn_init(len)),
      [],
    );
  }

  /** Applies one event, all or nothing. Throws CoreError (nothing changed) or CoreTrap (instance is poisoned). */
  event(event: CoreEvent, nowMs: number): Effect[] {
    const payload =
      typeof event.payload === "string" ? utf8.encode(event.payload) : (event.payload ?? new Uint8Array());
    if (!this.#instance.fits(payload.byteLength)) throw new CoreError("TOO_LONG");
    const len = this.#instance.write(EV[event.kind], event.id ?? 0, event.code ?? 0, 0, nowMs, payload);
    const rc = this.#instance.call((exports) => exports.csn_event(len));
    const effects: Effect[] = [];
    this.#check(rc, this.#decode(effects));
    return effects;
  }

  /** Feeds bytes of one stream, in pieces the core can take, until all are used. */
  feed(stream: number, id: number, bytes: Uint8Array, nowMs: number): Effect[] {
    const effects: Effect[] = [];
    for (let at = 0; at < bytes.byteLength; at += FEED_CAP) {
      const piece = bytes.subarray(at, at + FEED_CAP);
      this.#instance.write(EV.OUTPUT, id, 0, stream, nowMs, piece);
      let off = 0;
      while (off < piece.byteLength) {
        const used = this.#instance.call((exports) => exports.csn_feed(off, piece.byteLength - off));
        const badField = this.#decode(effects);
        if (used <= 0) this.#check(used === 0 ? ERR.AGAIN : used, badField);
        off += used;
      }
    }
    return effects;
  }

  /** The whole state as bytes that `load` of this version, or of the next one, accepts. */
  save(): Uint8Array {
    const len = this.#instance.call((exports) => exports.csn_save());
    this.#check(Math.min(len, 0), []);
    return this.#instance.bytes(0, len);
  }

  load(snapshot: Uint8Array): void {
    if (snapshot.byteLength > this.#instance.in.byteLength) throw new CoreError("BAD_SNAPSHOT");
    this.#instance.in.set(snapshot);
    this.#check(
      this.#instance.call((exports) => exports.csn_load(snapshot.byteLength)),
      [],
    );
  }

  #check(rc: number, badField: readonly string[]): void {
    if (rc === ERR.OK) return;
    const name = errNames.get(rc);
    if (name === undefined) {
      throw this.#instance.poison(`core answered ${rc}, which is no error of this ABI`);
    }
    throw new CoreError(name, badField[0]);
  }

  /** Decodes the out-box: appends its effects in order, and returns the pointers of its BAD_FIELD records. */
  #decode(effects: Effect[]): string[] {
    const badField: string[] = [];
    const box = this.#instance;
    const words = box.outWords;
    const end = box.outLen;
    if (end > box.out.byteLength) throw box.malformed();
    // Events cut their texts from that of a whole stretch: a string made for each would cost more than the event.
    let text = "";
    let textAt = 0;
    let textEnd = 0;
    const wide: WideText[] = [];
    for (let at = 0; at < end; ) {
      const w = at >> 2;
      const size = u32(words, w + REC.size / 4);
      const len = u32(words, w + REC.payloadLen / 4);
      if (size < ABI.recSize || (size & 7) !== 0 || size > end - at || len > size - ABI.recSize) throw box.malformed();
      const kind = u32(words, w + REC.kind / 4) & 0xffff;
      const payload = at + ABI.recSize;
      const timeMs = u64(words, w + REC.timeMs / 4);
      if (kind === FX.EVENT) {
        const event = this.#logEvent(words, payload >> 2, timeMs);
        const from = payload + ABI.fxEventSize;
        if (isASCII(words, w)) {
          if (at >= textEnd) {
            textAt = at;
            textEnd = stretch(words, at, end);
            text = box.latin1(at, textEnd);
          }
          event.json = text.slice(from - textAt, payload + len - textAt);
        } else {
          wide.push({ event, from, len: payload + len - from });
        }
        effects.push(event);
      } else if (kind === FX.BAD_FIELD) {
        badField.push(box.text(payload, len));
      } else {
        const id = u32(words, w + REC.id / 4);
        const code = u32(words, w + REC.code / 4) | 0;
        const stream = u32(words, w + REC.stream / 4);
        effects.push(this.#effect(kind as SessionFx, id, code, stream, timeMs, payload, len));
      }
      at += size;
    }
    if (wide.length > 0) this.#widen(wide);
    return badField;
  }

  #effect(kind: SessionFx, id: number, code: number, stream: number, timeMs: number, at: number, len: number): Effect {
    switch (kind) {
      case FX.SANDBOX_START:
        return { kind: "sandboxStart", template: this.#instance.text(at, len) };
      case FX.SANDBOX_DESTROY:
        return { kind: "sandboxDestroy" };
      case FX.RUN_LOAD:
        return { kind: "runLoad", run: id };
      case FX.RUN_START:
        return { kind: "runStart", run: id, spec: this.#instance.text(at, len) };
      case FX.RUN_KILL:
        return { kind: "runKill", run: id, reason: KILL_REASONS[code] ?? "cancelled" };
      case FX.COLLECT:
        return { kind: "collect", run: id };
      case FX.WAKE_AT:
        return { kind: "wakeAt", timeMs };
      case FX.CURSOR:
        return { kind: "cursor", run: id, stream, offset: this.#instance.u64(at) };
      case FX.DIGEST:
        return { kind: "digest", id, sha256: this.#instance.bytes(at, len) };
      case FX.BUDGET:
        return { kind: "budget", run: id, json: this.#instance.text(at, len) };
      default: {
        const unknown: never = kind;
        throw this.#instance.poison(`core emitted effect ${String(unknown)}, which this ABI does not have`);
      }
    }
  }

  /**
   * Texts of events that are not all ASCII. Engines read such UTF-8 a byte at a time, at a tenth of the speed at which they
   * copy UTF-16, so that the core writes them as that; several are copied at once.
   */
  #widen(texts: readonly WideText[]): void {
    const box = this.#instance;
    for (let next = 0; next < texts.length; ) {
      const first = next;
      const ends: number[] = [];
      let to = UTF16_OFF;
      for (; next < texts.length && to < UTF16_OFF + UTF16_BATCH; next++) {
        const { from, len } = texts[next] as WideText;
        const bytes = box.call((exports) => exports.csn_utf16(from, len, to));
        if (bytes <= 0) break;
        to += bytes;
        ends.push((to - UTF16_OFF) / 2);
      }
      const text = ends.length > 0 ? box.utf16(UTF16_OFF, to - UTF16_OFF) : "";
      let at = 0;
      for (const [i, end] of ends.entries()) {
        (texts[first + i] as WideText).event.json = text.slice(at, end);
        at = end;
      }
      if (ends.length > 0 || next === texts.length) continue;
      // It does not fit, or is not UTF-8.
      const { event, from, len } = texts[next++] as WideText;
      event.json = box.text(from, len);
    }
  }

  #logEvent(words: Uint32Array, w: number, timeMs: number): Mutable<LogEvent> {
    const type = typeTexts[u32(words, w + FXE.type / 4)];
    if (type === undefined) {
      throw this.#instance.poison("core emitted an event type that this ABI does not have");
    }
    return {
      kind: "event",
      seq: u64(words, w + FXE.seq / 4),
      type,
      run: u32(words, w + FXE.run / 4),
      timeMs,
      json: "",
      lineOff: u64(words, w + FXE.lineOff / 4),
      lineLen: u32(words, w + FXE.lineLen / 4),
      lineFlags: u32(words, w + FXE.lineFlags / 4),
    };
  }
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** An event whose text still stands in the out-box. */
interface WideText {
  readonly event: Mutable<LogEvent>;
  readonly from: number;
  /** bytes */
  readonly len: number;
}

function u32(words: Uint32Array, w: number): number {
  return words[w] as number;
}

/** Exact up to 2^53. */
function u64(words: Uint32Array, w: number): number {
  return u32(words, w) + u32(words, w + 1) * 0x1_0000_0000;
}

function isASCII(words: Uint32Array, w: number): boolean {
  return ((u32(words, w + REC.kind / 4) >>> 16) & REC_FLAG.ASCII) !== 0;
}

/** Where the records from `at` on end whose bytes are worth being copied together. */
function stretch(words: Uint32Array, at: number, end: number): number {
  let to = at;
  while (to < end && to - at < LATIN1_BATCH) {
    const w = to >> 2;
    const size = u32(words, w + REC.size / 4);
    if (size < ABI.recSize || size > end - to) break;
    if (size > SKIP_MIN && !isASCII(words, w)) break;
    to += size;
  }
  return to;
}

/** Effects of a session but its events; the others are errors, of the guard, or of a transcript. */
type SessionFx = Exclude<
  (typeof FX)[keyof typeof FX],
  typeof FX.EVENT | typeof FX.BAD_FIELD | typeof FX.ANSWER | typeof FX.TRANSCRIPT_TEXT | typeof FX.TRANSCRIPT_WANT
>;
