/**
 * What the engine and the guest add to a request of the SDK. The floor is the same Worker and the same Sandbox class over a
 * `ctx.container` that answers at once (tests/conformance/floor.ts); each sample of ours stands beside one of the floor's.
 */
import { withFloor } from "../floor-stack.mjs";
import { quantile } from "../measure.mjs";

const COLD = 60;
const WARM = 200;

/** Docker's figures on a 2-core machine, by its own image of SDK 0.12: docs/DESIGN.md, section 9. */
const DOCKER = { cold_p50: 775, cold_p95: 937, warm_p50: 18, warm_p95: 62 };

/** Runs both once more and more, in turn; the order changes each time, so that what comes second gains nothing by it. */
async function interleaved(n, floor, ours) {
  const times = { floor: [], ours: [] };
  for (let i = 0; i < n; i++) {
    const pair = [
      ["floor", floor],
      ["ours", ours],
    ];
    for (const [name, work] of i % 2 === 0 ? pair : pair.reverse()) times[name].push(await work(i));
  }
  return times;
}

async function took(work) {
  const begun = performance.now();
  const result = await work();
  const ms = performance.now() - begun;
  if (result.stdout !== "hi") throw new Error(JSON.stringify(result));
  return ms;
}

/** Both quantiles of both, and what lies between them. */
function report(put, name, times) {
  for (const [key, q] of [
    ["p50", 0.5],
    ["p95", 0.95],
  ]) {
    const [bare, ours] = [quantile(times.floor, q), quantile(times.ours, q)];
    put(`${name}_floor_ms_${key}`, bare);
    put(`${name}_ms_${key}`, ours);
    put(`${name}_ratio_${key}`, ours / bare);
    const docker = DOCKER[`${name}_${key}`];
    if (docker === undefined) continue;
    console.log(
      `  Docker, on another machine: ${docker} ms (DESIGN.md 9); ours is ${(docker / ours).toFixed(1)} x faster`,
    );
  }
}

async function cold(client, rested) {
  const once = (namespace) => async (i) => {
    await rested();
    const sandbox = client.sandbox(`cold-${i}`, undefined, namespace);
    const ms = await took(() => sandbox.exec("echo hi"));
    await sandbox.destroy();
    return ms;
  };
  await interleaved(
    5,
    (i) => once("FLOOR")(`warm-up-${i}`),
    (i) => once("SANDBOX")(`warm-up-${i}`),
  );
  return await interleaved(COLD, once("FLOOR"), once("SANDBOX"));
}

export default async function floor(put) {
  await withFloor(async (client, rested) => {
    report(put, "cold", await cold(client, rested));
    const standing = { FLOOR: client.sandbox("warm", undefined, "FLOOR"), SANDBOX: client.sandbox("warm") };
    const warm = (namespace) => () => took(() => standing[namespace].exec("echo hi"));
    await interleaved(20, warm("FLOOR"), warm("SANDBOX"));
    report(put, "warm", await interleaved(WARM, warm("FLOOR"), warm("SANDBOX")));
    await Promise.all([standing.FLOOR.destroy(), standing.SANDBOX.destroy()]);
  });
  // Where no spare fits or none is left: everything is made when it is asked for.
  await withFloor(async (client, rested) => report(put, "cold_fresh", await cold(client, rested)), { spares: 0 });
}
