/** The smallest host of core.wasm: writes records, calls exports, decodes the out-box. Used by the tests only. */
import { readFileSync } from "node:fs";

const EV = {
  CREATE: 1,
  SANDBOX_READY: 2,
  SANDBOX_FAILED: 3,
  SANDBOX_GONE: 4,
  RUN: 5,
  RUN_LOADED: 6,
  RUN_STARTED: 7,
  RUN_START_FAILED: 8,
  OUTPUT: 9,
  RUN_EXIT: 10,
  COLLECTED: 11,
  NOTE: 12,
  CANCEL: 13,
  TIMER: 14,
  SET_TIMEOUT: 15,
  DELETE: 16,
  DIGEST_BEGIN: 17,
  DIGEST_END: 18,
  USAGE: 19,
  SET_LIMITS: 20,
  TOUCH: 21,
  SET_TOOLS: 22,
};
const FX = { EVENT: 1, CURSOR: 9, DIGEST: 10 };
const FX_NAME = [
  "",
  "event",
  "sandbox_start",
  "sandbox_destroy",
  "run_load",
  "run_start",
  "run_kill",
  "collect",
  "wake_at",
  "cursor",
  "digest",
  "bad_field",
  "answer",
  "budget",
  "transcript_text",
  "transcript_want",
];
const TRANSCRIPT = { OPEN: 1, EVENT: 2, NEXT: 3 };

export class Core {
  constructor(path) {
    const instance = new WebAssembly.Instance(new WebAssembly.Module(readFileSync(path)), {});
    this.x = instance.exports;
    this.x._initialize();
    this.desc = new Uint32Array(this.x.memory.buffer, this.x.csn_abi(), 8);
    const [, , , inOff, inCap, outOff, outCap] = this.desc;
    this.inBox = Buffer.from(this.x.memory.buffer, inOff, inCap);
    this.outBox = Buffer.from(this.x.memory.buffer, outOff, outCap);
    if (this.x.csn_init !== undefined && this.x.csn_init(0) !== 0) throw new Error("csn_init failed");
  }

  write(kind, { id = 0, code = 0, stream = 0, time = 0, payload = "" } = {}) {
    const bytes = Buffer.isBuffer(payload) ? payload : Buffer.from(payload);
    const size = (32 + bytes.length + 7) & ~7;
    const b = this.inBox;
    b.fill(0, 0, 32);
    b.writeUInt32LE(size, 0);
    b.writeUInt16LE(kind, 4);
    b.writeUInt32LE(id, 8);
    b.writeInt32LE(code, 12);
    b.writeUInt32LE(bytes.length, 16);
    b.writeUInt32LE(stream, 20);
    b.writeBigUInt64LE(BigInt(time), 24);
    bytes.copy(b, 32);
    b.fill(0, 32 + bytes.length, size);
    return size;
  }

  /** Bytes of the out-box, and the records in it. */
  drain() {
    const raw = Buffer.from(this.outBox.subarray(0, this.desc[7]));
    const fx = [];
    for (let at = 0; at < raw.length; ) {
      const size = raw.readUInt32LE(at);
      const kind = raw.readUInt16LE(at + 4);
      const len = raw.readUInt32LE(at + 16);
      if (size < 32 || size % 8 !== 0 || len > size - 32) throw new Error("malformed record");
      const payload = raw.subarray(at + 32, at + 32 + len);
      const one = {
        kind: FX_NAME[kind],
        id: raw.readUInt32LE(at + 8),
        code: raw.readInt32LE(at + 12),
        stream: raw.readUInt32LE(at + 20),
        time: Number(raw.readBigUInt64LE(at + 24)),
        payload,
      };
      if (kind === FX.EVENT) {
        one.json = payload.subarray(32).toString();
        one.event = JSON.parse(one.json);
        one.line = {
          off: Number(payload.readBigUInt64LE(8)),
          len: payload.readUInt32LE(16),
          flags: payload.readUInt32LE(28),
        };
      }
      if (kind === FX.CURSOR) one.offset = Number(payload.readBigUInt64LE(0));
      fx.push(one);
      at += size;
    }
    return { raw, fx };
  }

  event(kind, fields) {
    const len = this.write(EV[kind], fields);
    const rc = this.x.csn_event(len);
    return { rc, ...this.drain() };
  }

  feed(stream, id, bytes, time = 0) {
    const fx = [];
    this.write(EV.OUTPUT, { id, stream, time, payload: bytes });
    for (let off = 0; off < bytes.length; ) {
      const used = this.x.csn_feed(off, bytes.length - off);
      if (used <= 0) throw new Error(`csn_feed answered ${used}`);
      fx.push(...this.drain().fx);
      off += used;
    }
    return fx;
  }

  /** One record of a transcript. */
  transcript(op, fields) {
    const rc = this.x.csn_transcript(this.write(TRANSCRIPT[op], fields));
    return { rc, ...this.drain() };
  }

  save() {
    const len = this.x.csn_save();
    if (len < 0) throw new Error(`csn_save answered ${len}`);
    return Buffer.from(this.outBox.subarray(0, len));
  }

  load(snapshot) {
    snapshot.copy(this.inBox);
    return this.x.csn_load(snapshot.length);
  }
}
