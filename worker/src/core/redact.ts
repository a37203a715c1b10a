/**
 * The host side of redact.wasm: masks registered secrets and known key shapes in what is stored or sent (wasm/include/csn/redact.h).
 *
 * One `Redactor` per owner: a Session object keeps one for its secrets and the operator's keys, the front Worker one for the
 * operator's. What comes out has the length of what went in. A trap poisons the instance: every later call throws, so that
 * nothing passes unseen.
 */
import type { ErrName } from "./abi.gen.js";
import { ABI, BOUND, DESC, ERR, REDACT_FORM } from "./abi.gen.js";
import { CoreError, CoreTrap } from "./core.js";

/** Matches by form, lower-case names of REDACT_FORM; forms without one are left out. */
export type Found = Readonly<Partial<Record<Lowercase<keyof typeof REDACT_FORM>, number>>>;

interface RedactExports {
  readonly memory: WebAssembly.Memory;
  _initialize(): void;
  csn_abi(): number;
  csn_redact_add(len: number): number;
  csn_redact_begin(stream: number, flags: number): number;
  csn_redact_push(stream: number, len: number): number;
  csn_redact_flush(stream: number): number;
  csn_redact_release(stream: number): number;
  csn_redact_begun(stream: number): number;
  csn_redact_found(stream: number, form: number): number;
}

const errNames = new Map<number, ErrName>(Object.entries(ERR).map(([name, value]) => [value, name as ErrName]));
const forms = Object.entries(REDACT_FORM).map(([name, value]) => [name.toLowerCase() as keyof Found, value] as const);
const utf8 = new TextEncoder();
const text = new TextDecoder("utf-8", { fatal: false, ignoreBOM: true });

export class Redactor {
  readonly #exports: RedactExports;
  readonly #desc: Uint32Array;
  readonly #in: Uint8Array;
  readonly #out: Uint8Array;
  readonly #free: number[];
  #trap: CoreTrap | null = null;

  /** Throws CoreTrap when the module's wire is not the one that abi.gen.ts was printed from. */
  constructor(module: WebAssembly.Module) {
    const exports = new WebAssembly.Instance(module, {}).exports as unknown as RedactExports;
    exports._initialize();
    const { buffer } = exports.memory;
    const desc = new Uint32Array(buffer, exports.csn_abi(), ABI.descSize / 4);
    const field = (offset: number): number => desc[offset / 4] ?? 0;
    if (field(DESC.magic) !== ABI.magic || field(DESC.version) !== ABI.version || field(DESC.digest) !== ABI.digest) {
      throw new CoreTrap("redact.wasm speaks another ABI than the Worker: run make");
    }
    this.#exports = exports;
    this.#desc = desc;
    this.#in = new Uint8Array(buffer, field(DESC.inOff), field(DESC.inCap));
    this.#out = new Uint8Array(buffer, field(DESC.outOff), field(DESC.outCap));
    this.#free = Array.from({ length: BOUND.REDACT_STREAMS }, (_, i) => i).reverse();
  }

  /**
   * Registers a value; white space around it does not count. CoreError `BAD_VALUE`: shorter than REDACT_VALUE_MIN bytes;
   * `TOO_LONG`: longer than REDACT_VALUE_MAX; `NO_MEMORY`: no room for another one.
   */
  add(value: string): void {
    const bytes = utf8.encode(value.trim());
    if (bytes.byteLength > BOUND.REDACT_VALUE_MAX) throw new CoreError("TOO_LONG");
    this.#in.set(bytes);
    const rc = this.#call(() => this.#exports.csn_redact_add(bytes.byteLength));
    if (rc !== ERR.OK) throw new CoreError(errNames.get(rc) ?? "BAD_RECORD");
  }

  /** A new stream; at most REDACT_STREAMS are open at a time. `valuesOnly`: key shapes are left. */
  open(valuesOnly = false): RedactStream {
    const slot = this.#free.pop();
    if (slot === undefined) throw new CoreError("AGAIN");
    this.#call(() => this.#exports.csn_redact_begin(slot, valuesOnly ? 1 : 0));
    return {
      push: (bytes) => this.#push(slot, bytes),
      flush: () => {
        this.#call(() => this.#exports.csn_redact_flush(slot));
        return this.#taken();
      },
      release: () => {
        this.#call(() => this.#exports.csn_redact_release(slot));
        return this.#taken();
      },
      begun: () => this.#call(() => this.#exports.csn_redact_begun(slot)),
      found: () => this.#found(slot),
      close: () => {
        if (!this.#free.includes(slot)) this.#free.push(slot);
      },
    };
  }

  /** The whole of `bytes`, redacted. */
  bytes(bytes: Uint8Array, valuesOnly = false): { bytes: Uint8Array; found: Found } {
    const stream = this.open(valuesOnly);
    try {
      const out = new Uint8Array(bytes.byteLength);
      const head = stream.push(bytes);
      out.set(head);
      out.set(stream.flush(), head.byteLength);
      return { bytes: out, found: stream.found() };
    } finally {
      stream.close();
    }
  }

  /** A text, redacted; the same string when there is nothing to mask. */
  text(value: string): string {
    const { bytes, found } = this.bytes(utf8.encode(value));
    return Object.keys(found).length === 0 ? value : text.decode(bytes);
  }

  #push(slot: number, bytes: Uint8Array): Uint8Array {
    const cap = this.#in.byteLength;
    const parts: Uint8Array[] = [];
    for (let at = 0; at < bytes.byteLength; at += cap) {
      const part = bytes.subarray(at, at + cap);
      this.#in.set(part);
      this.#call(() => this.#exports.csn_redact_push(slot, part.byteLength));
      parts.push(this.#taken());
    }
    return parts.length === 1 && parts[0] !== undefined ? parts[0] : Buffer.concat(parts);
  }

  #taken(): Uint8Array {
    return this.#out.slice(0, this.#desc[DESC.outLen / 4] ?? 0);
  }

  #found(slot: number): Found {
    const found: Partial<Record<keyof Found, number>> = {};
    for (const [name, form] of forms) {
      const n = this.#exports.csn_redact_found(slot, form) >>> 0;
      if (n > 0) found[name] = n;
    }
    return found;
  }

  #call(fn: () => number): number {
    if (this.#trap !== null) throw this.#trap;
    try {
      return fn();
    } catch (cause) {
      this.#trap = new CoreTrap(`redactor trapped: ${cause instanceof Error ? cause.message : String(cause)}`, {
        cause,
      });
      throw this.#trap;
    }
  }
}

export interface RedactStream {
  /** What is certain after these bytes; the rest, at most some 28 KiB, comes with what follows. */
  push(bytes: Uint8Array): Uint8Array;
  /** The stream has ended: the rest. */
  flush(): Uint8Array;
  /**
   * Nothing follows for now: the rest, but of what begins a registered value at most the first half of it, and masked what is
   * behind that. The stream goes on, and the rest of a value is masked when it comes.
   */
  release(): Uint8Array;
  /** bytes at the end of what was pushed that begin a registered value, also those that have been released. */
  begun(): number;
  /** What was masked since it was opened. */
  found(): Found;
  /** Gives the slot back. */
  close(): void;
}

/** Adds up what was found. */
export function addFound(to: Record<string, number>, found: Found, from: Found = {}): boolean {
  let more = false;
  for (const [form, n] of Object.entries(found) as [keyof Found, number][]) {
    const added = n - (from[form] ?? 0);
    if (added <= 0) continue;
    to[form] = (to[form] ?? 0) + added;
    more = true;
  }
  return more;
}
