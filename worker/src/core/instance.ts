/**
 * One instance of a module of the core: its exports and its two boxes. Views of its memory never leave this directory: payloads are copied
 * out before the next call. A trap poisons the instance: every later call throws.
 */
import { Buffer } from "node:buffer";
import { ABI, REC } from "./abi.gen.js";

/** The instance is unusable: a broken invariant inside, or a module that does not speak this wire. */
export class CoreTrap extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "CoreTrap";
  }
}

interface CommonExports {
  readonly memory: WebAssembly.Memory;
  _initialize(): void;
  csn_abi(): number;
}

/** A record of the out-box; `at` and `len` are the place of its payload there. */
export type TakeRecord = (
  kind: number,
  id: number,
  code: number,
  stream: number,
  timeMs: number,
  at: number,
  len: number,
  flags: number,
) => void;

const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** `E`: the exports beyond those that every module has. */
export class Instance<E extends object> {
  readonly #exports: E;
  readonly in: Uint8Array;
  readonly out: Uint8Array;
  readonly outView: DataView;
  /** The out-box as 32-bit words; records are aligned to 8 bytes. */
  readonly outWords: Uint32Array;
  readonly #inView: DataView;
  readonly #inBuffer: Buffer;
  readonly #outBuffer: Buffer;
  readonly #desc: Uint32Array;
  #trap: CoreTrap | null = null;

  /** Throws CoreTrap when the module's wire is not the one that abi.gen.ts was printed from. */
  constructor(module: WebAssembly.Module) {
    const instance = new WebAssembly.Instance(module, {});
    const exports = instance.exports as unknown as CommonExports & E;
    exports._initialize();
    const desc = new Uint32Array(exports.memory.buffer, exports.csn_abi(), 8);
    const [magic, version, digest, inOff = 0, inCap = 0, outOff = 0, outCap = 0] = desc;
    if (magic !== ABI.magic || version !== ABI.version || digest !== ABI.digest) {
      throw new CoreTrap(
        `the module speaks ABI ${version}/${hex(digest)}, the Worker ${ABI.version}/${hex(ABI.digest)}: run make`,
      );
    }
    this.#exports = exports;
    this.#desc = desc;
    this.in = new Uint8Array(exports.memory.buffer, inOff, inCap);
    this.#inView = new DataView(exports.memory.buffer, inOff, inCap);
    this.out = new Uint8Array(exports.memory.buffer, outOff, outCap);
    this.outView = new DataView(exports.memory.buffer, outOff, outCap);
    this.outWords = new Uint32Array(exports.memory.buffer, outOff, outCap >> 2);
    this.#inBuffer = Buffer.from(exports.memory.buffer, inOff, inCap);
    this.#outBuffer = Buffer.from(exports.memory.buffer, outOff, outCap);
  }

  /** Runs an export; a WebAssembly exception poisons the instance. */
  call(fn: (exports: E) => number): number {
    if (this.#trap !== null) throw this.#trap;
    try {
      return fn(this.#exports);
    } catch (cause) {
      throw this.poison(`core trapped: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
    }
  }

  /** The error after which nothing can be called any more. */
  poison(message: string, options?: ErrorOptions): CoreTrap {
    this.#trap = new CoreTrap(message, options);
    return this.#trap;
  }

  malformed(): CoreTrap {
    return this.poison("core wrote a malformed effect record");
  }

  /** Whether a payload of so many bytes fits the in-box. */
  fits(payloadBytes: number): boolean {
    return ABI.recSize + payloadBytes <= this.in.byteLength;
  }

  /** Writes a record into the in-box and returns its size. */
  write(kind: number, id: number, code: number, stream: number, nowMs: number, payload: Uint8Array): number {
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
    this.in.set(payload, ABI.recSize);
    this.in.fill(0, ABI.recSize + payload.byteLength, size);
    return size;
  }

  /** Bytes of the out-box that records take. */
  get outLen(): number {
    return this.#desc[7] ?? 0;
  }

  /** Shows `take` the records of the out-box, in order. */
  records(take: TakeRecord): void {
    const outLen = this.outLen;
    const v = this.outView;
    let at = 0;
    while (at < outLen) {
      const size = v.getUint32(at + REC.size, true);
      const len = v.getUint32(at + REC.payloadLen, true);
      if (outLen > this.out.byteLength || size < ABI.recSize || size > outLen - at || len > size - ABI.recSize) {
        throw this.malformed();
      }
      take(
        v.getUint16(at + REC.kind, true),
        v.getUint32(at + REC.id, true),
        v.getInt32(at + REC.code, true),
        v.getUint32(at + REC.stream, true),
        this.u64(at + REC.timeMs),
        at + ABI.recSize,
        len,
        v.getUint16(at + REC.flags, true),
      );
      at += size;
    }
  }

  /** A number of the out-box; exact up to 2^53. */
  u64(at: number): number {
    return this.outView.getUint32(at, true) + this.outView.getUint32(at + 4, true) * 0x1_0000_0000;
  }

  text(at: number, len: number): string {
    return text.decode(this.out.subarray(at, at + len));
  }

  /** Bytes of the out-box, a character for each. */
  latin1(at: number, end: number): string {
    return this.#outBuffer.toString("latin1", at, end);
  }

  /** A text of UTF-16 in the in-box; `len` in bytes. */
  utf16(at: number, len: number): string {
    return this.#inBuffer.toString("utf16le", at, at + len);
  }

  bytes(at: number, len: number): Uint8Array {
    return this.out.slice(at, at + len);
  }
}

function hex(value: number | undefined): string {
  return (value ?? 0).toString(16).padStart(8, "0");
}
