import { afterEach, describe, expect, it, vi } from "vitest";
import module from "../../build/core.wasm";
import { ABI, BOUND, ERR, EV, FX, FXE, LINE, REC, STREAM, T } from "../../worker/src/core/abi.gen.js";
import { Core, CoreError, CoreTrap, type Effect } from "../../worker/src/core/core.js";

const NOW = 1_700_000_000_000;

function created(agent = "shell"): Core {
  const core = new Core(module);
  core.event({ kind: "CREATE", payload: JSON.stringify({ agent }) }, NOW);
  return core;
}

/** A core that tests write: exports over a memory of their own, in the place of an instance. */
class FakeExports {
  readonly memory = { buffer: new ArrayBuffer(65_536) };
  readonly desc = new Uint32Array(this.memory.buffer, 0, 8);
  readonly view = new DataView(this.memory.buffer);
  event: (len: number) => number = () => 0;
  feed: (off: number, len: number) => number = (_, len) => len;

  constructor(digest: number = ABI.digest) {
    this.desc.set([ABI.magic, ABI.version, digest, 1_024, 16_384, 32_768, 16_384, 0]);
  }

  /** Puts one record into the out-box. */
  put(kind: number, payload: Uint8Array, size?: number): void {
    const at = 32_768;
    const whole = size ?? (ABI.recSize + payload.byteLength + 7) & ~7;
    this.view.setUint32(at + REC.size, whole, true);
    this.view.setUint16(at + REC.kind, kind, true);
    this.view.setUint32(at + REC.payloadLen, payload.byteLength, true);
    new Uint8Array(this.memory.buffer).set(payload, at + ABI.recSize);
    this.desc[7] = (ABI.recSize + payload.byteLength + 7) & ~7;
  }

  start(): Core {
    const exports = {
      memory: this.memory,
      _initialize: () => {},
      csn_abi: () => 0,
      csn_init: () => 0,
      csn_event: (len: number) => this.event(len),
      csn_feed: (off: number, len: number) => this.feed(off, len),
      csn_save: () => 0,
      csn_load: () => 0,
      csn_utf16: () => -2,
    };
    vi.spyOn(WebAssembly, "Instance").mockImplementation(function instance() {
      return { exports } as unknown as WebAssembly.Instance;
    } as never);
    return new Core(module);
  }
}

afterEach(() => {
  vi.restoreAllMocks();
});

describe("Core over core.wasm", () => {
  it("imports nothing and exports the contract", () => {
    expect(WebAssembly.Module.imports(module)).toEqual([]);
    expect(
      WebAssembly.Module.exports(module)
        .map(({ name }) => name)
        .sort(),
    ).toEqual([
      "_initialize",
      "csn_abi",
      "csn_event",
      "csn_feed",
      "csn_init",
      "csn_load",
      "csn_save",
      "csn_utf16",
      "memory",
    ]);
  });

  it("creates a session: event 1, then the sandbox", () => {
    const core = new Core(module);
    const effects = core.event({ kind: "CREATE", payload: '{"agent":"shell"}' }, NOW);
    const first = effects[0];
    expect(first).toMatchObject({ kind: "event", seq: 1, type: "session.created", run: 0, lineLen: 0 });
    expect(JSON.parse((first as { json: string }).json)).toMatchObject({ seq: 1, type: "session.created" });
    expect(effects).toContainEqual({ kind: "sandboxStart", template: "" });
    const named = new Core(module).event({ kind: "CREATE", payload: '{"agent":"shell","template":"deb-12"}' }, NOW);
    expect(named).toContainEqual({ kind: "sandboxStart", template: "deb-12" });
  });

  it.each([
    ["not json", "BAD_JSON", ""],
    ['{"agent":"nobody"}', "UNKNOWN_AGENT", "/agent"],
    ['{"agent":"shell","x":1}', "UNKNOWN_FIELD", "/x"],
    ['{"agent":"shell","timeout_s":0}', "OUT_OF_RANGE", "/timeout_s"],
    ['{"agent":"shell","timeout_s":"9"}', "BAD_TYPE", "/timeout_s"],
    ["{}", "MISSING_FIELD", "/agent"],
  ])("refuses %s with its error and field, and goes on", (payload, name, field) => {
    const core = new Core(module);
    const error = thrown(() => core.event({ kind: "CREATE", payload }, NOW));
    expect(error).toBeInstanceOf(CoreError);
    expect([(error as CoreError).errName, (error as CoreError).field]).toEqual([name, field]);
    expect(core.event({ kind: "CREATE", payload: '{"agent":"shell"}' }, NOW)[0]).toMatchObject({ seq: 1 });
  });

  it("refuses an event that the state does not allow", () => {
    expect(
      (thrown(() => created().event({ kind: "CREATE", payload: '{"agent":"shell"}' }, NOW)) as CoreError).errName,
    ).toBe("BAD_STATE");
  });

  it("refuses a payload larger than the in-box without touching it", () => {
    const core = created();
    const error = thrown(() => core.event({ kind: "RUN", payload: new Uint8Array(BOUND.IN_CAP) }, NOW));
    expect((error as CoreError).errName).toBe("TOO_LONG");
    core.event({ kind: "TIMER" }, NOW);
  });

  it("goes on from a snapshot as the same session", () => {
    const core = created();
    const other = new Core(module);
    other.load(core.save());
    const a = core.event({ kind: "SANDBOX_READY" }, NOW + 5);
    const b = other.event({ kind: "SANDBOX_READY" }, NOW + 5);
    expect(b).toEqual(a);
    expect(other.save()).toEqual(core.save());
    expect((thrown(() => new Core(module).load(new Uint8Array(40))) as CoreError).errName).toBe("BAD_SNAPSHOT");
  });

  it("computes SHA-256 of more bytes than one feed takes", async () => {
    const core = created();
    const bytes = new Uint8Array(3 * BOUND.FEED_MAX + 17).map((_, i) => (i * 31) & 255);
    core.event({ kind: "DIGEST_BEGIN", id: 5 }, NOW);
    core.feed(STREAM.DIGEST, 5, bytes.subarray(0, 1_000), NOW);
    core.feed(STREAM.DIGEST, 5, bytes.subarray(1_000), NOW);
    const [digest] = core.event({ kind: "DIGEST_END", id: 5 }, NOW);
    expect(digest).toEqual({
      kind: "digest",
      id: 5,
      sha256: new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)),
    });
  });

  it("numbers events without a gap however the output is cut", () => {
    const run = (cut: number): Effect[] => {
      const core = created();
      core.event({ kind: "SANDBOX_READY" }, NOW);
      core.event({ kind: "RUN", payload: '{"command":"x"}' }, NOW);
      core.event({ kind: "RUN_LOADED", id: 1, payload: '{"command":"x"}' }, NOW);
      core.event({ kind: "RUN_STARTED", id: 1 }, NOW);
      const bytes = new TextEncoder().encode("first\nsecond line\nthird ü\n");
      const effects: Effect[] = [];
      for (let at = 0; at < bytes.byteLength; at += cut)
        effects.push(...core.feed(STREAM.STDOUT, 1, bytes.subarray(at, at + cut), NOW));
      return effects.filter(({ kind }) => kind === "event");
    };
    const whole = run(1_000);
    expect(whole.length).toBeGreaterThan(0);
    for (const cut of [1, 2, 3, 7])
      expect(run(cut).map((e) => (e as { seq: number }).seq)).toEqual(
        run(cut).map((_, i) => (whole[0] as { seq: number }).seq + i),
      );
  });
});

describe("the text of an event", () => {
  const echo = (line: string): string => {
    const core = created();
    core.event({ kind: "SANDBOX_READY" }, NOW);
    core.event({ kind: "RUN", payload: '{"command":"x"}' }, NOW);
    core.event({ kind: "RUN_LOADED", id: 1, payload: '{"command":"x"}' }, NOW);
    core.event({ kind: "RUN_STARTED", id: 1 }, NOW);
    const effects = core.feed(STREAM.STDOUT, 1, new TextEncoder().encode(`${line}\n`), NOW);
    return effects.map((e) => (e.kind === "event" ? JSON.parse(e.json).text : "")).join("");
  };

  it.each([
    "plain",
    "żółw",
    "日本語 and more text than a block holds",
    "🐢🐢",
    "\ufeffbom",
    "\u2028",
    "é".repeat(3_000),
  ])("arrives as it was: %s", (line) => {
    expect(echo(line)).toBe(`${line}\n`);
  });

  it("arrives as it was wherever in it something is not ASCII, ASCII before it and behind it", () => {
    const lines = Array.from({ length: 80 }, (_, n) => `${"x".repeat(n)}é${"y".repeat(79 - n)}`);
    const text = lines.flatMap((line) => [line, "plain"]).join("\n");
    expect(echo(text)).toBe(`${text}\n`);
  });
});

describe("Core over a module that misbehaves", () => {
  it("refuses another ABI", () => {
    expect(thrown(() => new FakeExports(ABI.digest ^ 1).start())).toBeInstanceOf(CoreTrap);
  });

  it("is poisoned by a trap: every later call fails and none reaches the instance", () => {
    const fake = new FakeExports();
    let calls = 0;
    fake.event = () => {
      calls += 1;
      throw new WebAssembly.RuntimeError("unreachable");
    };
    const core = fake.start();
    expect(thrown(() => core.event({ kind: "TIMER" }, NOW))).toBeInstanceOf(CoreTrap);
    for (const call of [
      () => core.event({ kind: "TIMER" }, NOW),
      () => core.feed(STREAM.STDOUT, 1, new Uint8Array(1), NOW),
      () => core.save(),
      () => core.load(new Uint8Array()),
    ]) {
      expect(thrown(call)).toBeInstanceOf(CoreTrap);
    }
    expect(calls).toBe(1);
  });

  it("feeds the rest after a short answer, and gives up without progress", () => {
    const fake = new FakeExports();
    const seen: [number, number][] = [];
    fake.feed = (off, len) => {
      seen.push([off, len]);
      return Math.min(3, len);
    };
    const core = fake.start();
    core.feed(STREAM.STDOUT, 1, new Uint8Array(8), NOW);
    expect(seen).toEqual([
      [0, 8],
      [3, 5],
      [6, 2],
    ]);
    fake.feed = () => 0;
    expect((thrown(() => core.feed(STREAM.STDOUT, 1, new Uint8Array(8), NOW)) as CoreError).errName).toBe("AGAIN");
    fake.feed = () => ERR.BAD_STATE;
    expect((thrown(() => core.feed(STREAM.STDOUT, 1, new Uint8Array(8), NOW)) as CoreError).errName).toBe("BAD_STATE");
  });

  it.each([
    ["an unknown effect", 99, new Uint8Array(), undefined],
    ["a record larger than the box", FX.RUN_START, new Uint8Array(8), 1 << 20],
    ["a record smaller than its header", FX.RUN_START, new Uint8Array(8), 8],
    ["a payload larger than its record", FX.RUN_START, new Uint8Array(8), 32],
    ["an unknown event type", FX.EVENT, new Uint8Array(ABI.fxEventSize), undefined],
  ])("traps on %s", (_, kind, payload, size) => {
    const fake = new FakeExports();
    const core = fake.start();
    fake.put(kind, payload, size);
    expect(thrown(() => core.event({ kind: "TIMER" }, NOW))).toBeInstanceOf(CoreTrap);
    expect(thrown(() => core.save())).toBeInstanceOf(CoreTrap);
  });

  it("traps on an error that is not in the table", () => {
    const fake = new FakeExports();
    fake.event = () => -77;
    expect(thrown(() => fake.start().event({ kind: "TIMER" }, NOW))).toBeInstanceOf(CoreTrap);
  });

  it("copies payloads out and takes 64-bit numbers as they are", () => {
    const fake = new FakeExports();
    const core = fake.start();
    const payload = new Uint8Array(ABI.fxEventSize + 2);
    const view = new DataView(payload.buffer);
    view.setBigUint64(FXE.seq, 2n ** 40n, true);
    view.setBigUint64(FXE.lineOff, 2n ** 33n, true);
    view.setUint32(FXE.lineLen, 9, true);
    view.setUint32(FXE.type, T.RAW, true);
    view.setUint32(FXE.lineFlags, 7, true);
    payload.set(new TextEncoder().encode("{}"), ABI.fxEventSize);
    fake.put(FX.EVENT, payload);
    const [event] = core.event({ kind: "TIMER" }, NOW);
    new Uint8Array(fake.memory.buffer).fill(0, 1_024);
    expect(event).toMatchObject({
      seq: 2 ** 40,
      type: "raw",
      json: "{}",
      lineOff: 2 ** 33,
      lineLen: 9,
      lineFlags: LINE.STDERR | LINE.FIRST | LINE.JSON,
    });
    expect(new DataView(fake.memory.buffer).getUint16(1_024 + REC.kind, true)).toBe(0);
    expect(EV.TIMER).toBeGreaterThan(0);
  });
});

function thrown(fn: () => unknown): unknown {
  try {
    fn();
  } catch (error) {
    return error;
  }
  return undefined;
}
