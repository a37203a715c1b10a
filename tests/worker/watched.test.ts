/** Bodies on their way: counted, and not whole for the reader before their end is told. */
import { describe, expect, it } from "vitest";
import { watched } from "../../sandbox-sdk-shim/src/watched.js";

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const text = (piece: Uint8Array | undefined): string => new TextDecoder().decode(piece);

/** A body that is given by hand. */
function source(): {
  body: ReadableStream<Uint8Array>;
  give: (text: string) => Promise<void>;
  end: () => Promise<void>;
} {
  const { readable, writable } = new IdentityTransformStream();
  const to = writable.getWriter();
  return { body: readable, give: (piece) => to.write(bytes(piece)), end: () => to.close() };
}

const soon = <T>(promise: Promise<T>): Promise<T | "waits"> =>
  Promise.race([promise, scheduler.wait(50).then(() => "waits" as const)]);

describe("a body that is watched", () => {
  it("of a known length keeps its last piece until its end is told", async () => {
    const { body, give, end } = source();
    const seen: string[] = [];
    let release = (): void => {};
    const told = new Promise<void>((resolve) => {
      release = resolve;
    });
    let ends = 0;
    const over = async (): Promise<void> => {
      ends += 1;
      await told;
    };
    const from = watched(body, 8, { see: (piece) => seen.push(text(piece)), over }).getReader();
    void give("first");
    expect(text((await from.read()).value)).toBe("first");
    expect(ends).toBe(0);
    void give("end").then(end);
    const last = from.read();
    expect(await soon(last)).toBe("waits");
    expect([seen, ends]).toEqual([["first", "end"], 1]);
    release();
    expect(text((await last).value)).toBe("end");
    expect((await from.read()).done).toBe(true);
    expect(ends).toBe(1);
  });

  it("of no known length passes whole, and ends when its end is told", async () => {
    const { body, give, end } = source();
    let release = (): void => {};
    const told = new Promise<void>((resolve) => {
      release = resolve;
    });
    const from = watched(body, null, { see: () => {}, over: () => told }).getReader();
    void give("all").then(end);
    expect(text((await from.read()).value)).toBe("all");
    const last = from.read();
    expect(await soon(last)).toBe("waits");
    release();
    expect((await last).done).toBe(true);
  });

  it("that is cut is told once, and never whole for the reader", async () => {
    const { readable, writable } = new IdentityTransformStream();
    const to = writable.getWriter();
    let ends = 0;
    const over = async (): Promise<void> => {
      ends += 1;
    };
    const from = watched(readable, 8, { see: () => {}, over }).getReader();
    void to.write(bytes("first"));
    expect(text((await from.read()).value)).toBe("first");
    void to.abort(new Error("scripted: the host is gone"));
    await expect(from.read()).rejects.toThrow();
    await expect.poll(() => ends).toBe(1);
  });
});
