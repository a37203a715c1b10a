/** The smallest host of core.wasm: writes records, calls exports, decodes the out-box. Used by the tests only. */
import { readFileSync } from "node:fs";
import { EV, FX, TRANSCRIPT } from "../../worker/src/core/abi.gen.ts";

const FX_NAME = Object.fromEntries(Object.entries(FX).map(([name, kind]) => [kind, name.toLowerCase()]));

/** exit.json of a program that ended with this status, or by the signal of its negative. */
export function exitRecord(exit) {
  const signalled = exit < 0;
  return JSON.stringify({
    reason: signalled ? "signalled" : "exited",
    exit_code: signalled ? null : exit,
    signal: signalled ? -exit : null,
  });
}

/** A run's events as `caisson-events --offsets` prints them; those of the session and of the run's beginning are left out. */
export function linesOf(fx) {
  return fx
    .filter((f) => f.kind === "event" && !/^(session|run\.(queued|started))/.test(f.event.type))
    .map((f) => `@${f.line.off}+${f.line.len}:${f.line.flags} ${f.json}`);
}

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

  /** The event, which must be accepted. */
  sure(kind, fields) {
    const answer = this.event(kind, fields);
    if (answer.rc !== 0) throw new Error(`${kind}: ${answer.rc}`);
    return answer;
  }

  /** A session of this agent whose first run has started; the answers on the way. */
  begin(agent) {
    const run = agent === "shell" ? '{"command":"true"}' : '{"prompt":"-"}';
    return [
      this.sure("CREATE", { payload: `{"agent":"${agent}"}` }),
      this.sure("SANDBOX_READY"),
      this.sure("RUN", { payload: run }),
      this.sure("RUN_LOADED", { id: 1, payload: run }),
      this.sure("RUN_STARTED", { id: 1 }),
    ];
  }

  /** The end of the first run; the answers on the way. */
  finish(exit = 0) {
    return [this.sure("RUN_EXIT", { id: 1, payload: exitRecord(exit) }), this.sure("COLLECTED", { id: 1 })];
  }

  /** What the agent printed, in one piece of at most the in-box; an answer for every part of it that was taken. */
  feedParts(stream, id, bytes, time = 0) {
    const parts = [];
    this.write(EV.OUTPUT, { id, stream, time, payload: bytes });
    for (let off = 0; off < bytes.length; ) {
      const used = this.x.csn_feed(off, bytes.length - off);
      if (used <= 0) throw new Error(`csn_feed answered ${used}`);
      parts.push(this.drain());
      off += used;
    }
    return parts;
  }

  feed(stream, id, bytes, time = 0) {
    return this.feedParts(stream, id, bytes, time).flatMap(({ fx }) => fx);
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
