/** Placeholders for secrets, over many made-up headers and bodies: every one of them is replaced, and nothing else is. */
import { describe, expect, it } from "vitest";
import { replaced } from "../../sandbox-sdk-shim/src/gate.js";

/** mulberry32: the same numbers on every run. */
function numbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

const jsonText = (text: string): string => JSON.stringify(text).slice(1, -1);
const PIECES = ["$&", "$1", "\\", '"', "caisson-secret-", "é", "\u2028", "a", "0", " ", "{}", "\n"];

describe("placeholders", () => {
  it("are replaced wherever they stand, by the secret as it is", () => {
    for (let seed = 1; seed <= 500; seed++) {
      const next = numbers(seed);
      const text = (): string => Array.from({ length: next(8) }, () => PIECES[next(PIECES.length)]).join("");
      const hex = (): string => Array.from({ length: 32 }, () => next(16).toString(16)).join("");
      const pairs = Array.from({ length: 1 + next(3) }, () => [`caisson-secret-${hex()}`, text()] as const);
      const parts = Array.from({ length: next(10) }, () => (next(2) === 0 ? text() : pairs[next(pairs.length)]));
      const given = parts.map((part) => (typeof part === "string" ? part : (part?.[0] ?? ""))).join("");
      const wanted = parts.map((part) => (typeof part === "string" ? part : (part?.[1] ?? ""))).join("");
      expect(replaced(given, pairs)).toBe(wanted);
      // In a JSON text the secret becomes the inside of a string, whatever it is.
      const body = JSON.stringify({ a: given, [given]: [given] });
      expect(JSON.parse(replaced(body, pairs, jsonText))).toEqual({ a: wanted, [wanted]: [wanted] });
    }
  });

  it("that are cut, changed or of another session are left alone", () => {
    const placeholder = `caisson-secret-${"5f".repeat(16)}`;
    const near = [
      placeholder.slice(0, -1),
      placeholder.toUpperCase(),
      placeholder.replace("5", "6"),
      "caisson-secret-",
    ];
    for (const text of near) expect(replaced(text, [[placeholder, "real"]])).toBe(text);
    expect(replaced(placeholder, [])).toBe(placeholder);
  });
});
