import { describe, expect, it } from "vitest";
import { LineWindow, RAW_HEAD, RAW_MAX, rawText } from "../../worker/src/session/lines.js";

const utf8 = new TextEncoder();

/** Feeds `stream` in pieces of `cut` bytes and asks for each line in the chunk that ends it, as the core does. */
function lines(stream: Uint8Array, cut: number, from = 0): { text: string; whole: boolean }[] {
  const window = new LineWindow(from);
  const got: { text: string; whole: boolean }[] = [];
  let start = 0;
  for (let at = 0; at < stream.byteLength; at += cut) {
    const chunk = stream.subarray(at, at + cut);
    window.push(chunk);
    for (let i = at; i < at + chunk.byteLength; i += 1) {
      if (stream[i] !== 0x0a) continue;
      const line = window.line(from + start, i - start);
      got.push(
        line === null
          ? { text: "null", whole: false }
          : { text: new TextDecoder().decode(line.bytes), whole: line.whole },
      );
      start = i + 1;
    }
    expect(window.end).toBe(from + at + chunk.byteLength);
  }
  return got;
}

describe("LineWindow", () => {
  it("gives every line, however the stream is cut", () => {
    const stream = utf8.encode("one\n\nthree is longer\nä\n");
    for (let cut = 1; cut <= stream.byteLength; cut += 1) {
      expect(lines(stream, cut, 1_000).map(({ text }) => text)).toEqual(["one", "", "three is longer", "ä"]);
    }
  });

  it.each([RAW_MAX - 1, RAW_MAX, RAW_MAX + 1, RAW_MAX + 70_000])("a line of %d bytes", (len) => {
    const stream = utf8.encode(`short\n${"x".repeat(len - 1)}y\nend\n`);
    for (const cut of [997, 65_536, stream.byteLength]) {
      const [first, long, last] = lines(stream, cut);
      expect(first?.text).toBe("short");
      expect(last?.text).toBe("end");
      expect(long?.whole).toBe(len <= RAW_MAX);
      expect(long?.text.length).toBe(len <= RAW_MAX ? len : RAW_HEAD);
      if (len <= RAW_MAX) expect(long?.text.at(-1)).toBe("y");
    }
  });

  it("knows nothing of bytes before it was opened", () => {
    const window = new LineWindow(100);
    window.push(utf8.encode("rest\n"));
    expect(window.line(90, 14)).toBeNull();
    expect(window.line(100, 4)?.bytes).toEqual(utf8.encode("rest"));
  });
});

describe("rawText", () => {
  const raw = (bytes: Uint8Array, isJSON: boolean): string =>
    rawText({ bytes, whole: true }, bytes.byteLength, 0, isJSON, "k");

  it("embeds JSON as it is, byte for byte", () => {
    const line = '{"n": 1.0e2,"s":"\\u00e4","n":2}';
    expect(raw(utf8.encode(line), true)).toBe(line);
  });

  it("makes a string of everything else", () => {
    expect(raw(utf8.encode('plain "text"\t'), false)).toBe('"plain \\"text\\"\\t"');
    expect(JSON.parse(raw(new Uint8Array([0x22, 0xff, 0x22]), true))).toBe('"\ufffd"');
  });

  it("tells length, offset and archive of a long line", () => {
    const text = rawText(
      { bytes: utf8.encode("head"), whole: false },
      100_000,
      7,
      true,
      "sessions/s/runs/run_1/stdout.jsonl",
    );
    expect(JSON.parse(text)).toEqual({
      head: "head",
      len: 100_000,
      off: 7,
      archive: "sessions/s/runs/run_1/stdout.jsonl",
    });
  });
});
