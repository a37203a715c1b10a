/** What every part of the benchmark uses. Times are milliseconds. */
import { join } from "node:path";
import { ROOT } from "../../scripts/local.mjs";

/** The path of a built file. */
export const build = (name) => join(ROOT, "build", name);

/** The value below which the share `q` (0..1) of the times lies. */
export function quantile(times, q) {
  const sorted = [...times].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
}

/** How long each of `n` calls of `work(i)`, one after another, took. */
export async function timed(n, work) {
  const times = [];
  for (let i = 0; i < n; i++) {
    const begun = performance.now();
    await work(i);
    times.push(performance.now() - begun);
  }
  return times;
}
