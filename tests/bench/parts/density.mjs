/**
 * Many sandboxes: ten started at once, through the SDK, beside ten of the floor (floor.mjs tells what that is); as many alive
 * at once as the issue asks for, over the engine's own API, and what each takes; and what a thousand that came and went leave.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { freemem } from "node:os";
import { join } from "node:path";
import { endGroup, ROOT, startEngine } from "../../../scripts/local.mjs";
import { withFloor } from "../floor-stack.mjs";
import { quantile } from "../measure.mjs";

const ROUNDS = 7;
const ALIVE = 500;
const CYCLES = 1000;
/** kB that must stay free: this is a measurement, not an attack. */
const RESERVE_KB = 2 * 1024 * 1024;
const TOKEN = "density-benchmark-token";

const field = (path, name) => Number(readFileSync(path, "utf8").match(new RegExp(`^${name}:\\s+(\\d+)`, "m"))[1]);

async function tenAtOnce(put) {
  await withFloor(async (client, rested) => {
    const ten = async (namespace, round) => {
      await rested();
      const all = Array.from({ length: 10 }, (_, i) => client.sandbox(`ten-${round}-${i}`, undefined, namespace));
      const begun = performance.now();
      const said = await Promise.all(all.map((sandbox) => sandbox.exec("echo hi")));
      const ms = performance.now() - begun;
      if (said.some((r) => r.stdout !== "hi")) throw new Error(JSON.stringify(said));
      await Promise.all(all.map((sandbox) => sandbox.destroy()));
      return ms;
    };
    const times = { FLOOR: [], SANDBOX: [] };
    for (let round = -1; round < ROUNDS; round++) {
      const order = round % 2 === 0 ? ["FLOOR", "SANDBOX"] : ["SANDBOX", "FLOOR"];
      for (const namespace of order) {
        const ms = await ten(namespace, round);
        if (round >= 0) times[namespace].push(ms);
      }
    }
    const [bare, ours] = [quantile(times.FLOOR, 0.5), quantile(times.SANDBOX, 0.5)];
    put("ten_at_once_floor_ms", bare);
    put("ten_at_once_all_ms", ours);
    put("ten_at_once_ms", ours - bare);
  });
}

/** An engine alone, and its API. */
async function withEngine(work) {
  const dir = mkdtempSync(join(ROOT, "build", "bench-density-"));
  const engine = await startEngine({ dir, token: TOKEN });
  const api = async (method, path, body) => {
    const response = await fetch(`http://127.0.0.1:${engine.port}/v1${path}`, {
      method,
      headers: { authorization: `Bearer ${TOKEN}` },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return JSON.parse(text);
  };
  try {
    await work({ api, pid: engine.child.pid });
  } finally {
    await endGroup(engine.child, 60_000);
    rmSync(dir, { recursive: true, force: true });
  }
}

async function alive(put) {
  await withEngine(async ({ api, pid }) => {
    await api("PUT", "/sandboxes/warm-up", {});
    const own = field(`/proc/${pid}/status`, "VmRSS");
    let count = 0;
    for (; count < ALIVE && freemem() / 1024 > RESERVE_KB; count++) await api("PUT", `/sandboxes/s${count}`, {});
    const { sandboxes } = await api("GET", "/sandboxes");
    put("alive_count", sandboxes.filter((s) => s.running && s.name !== "warm-up").length);
    // Control groups count all that a sandbox has of the kernel, too; without them its processes are counted.
    let kb = 0;
    for (let i = 0; i < count; i++) kb += (await api("GET", `/sandboxes/s${i}`)).usage.memory_bytes / 1024;
    put("kb_per_sandbox", (kb + field(`/proc/${pid}/status`, "VmRSS") - own) / count);
    put("engine_kb_per_sandbox", (field(`/proc/${pid}/status`, "VmRSS") - own) / count);
  });
}

async function cycles(put) {
  await withEngine(async ({ api, pid }) => {
    const holds = () => ({
      kb: field(`/proc/${pid}/status`, "VmRSS"),
      descriptors: readdirSync(`/proc/${pid}/fd`).length,
      mounts: readFileSync("/proc/self/mounts", "utf8").split("\n").length,
      processes: readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ").length,
    });
    const cycle = async (i) => {
      await api("PUT", `/sandboxes/c${i % 7}`, {});
      await api("DELETE", `/sandboxes/c${i % 7}`);
    };
    // As many sandboxes ready before as after.
    const rested = async () => {
      do await new Promise((r) => setTimeout(r, 500));
      while ((await api("GET", "/health")).spares < 2);
    };
    for (let i = 0; i < 50; i++) await cycle(i);
    await rested();
    const before = holds();
    const begun = performance.now();
    for (let i = 0; i < CYCLES; i++) await cycle(i);
    put("cycle_ms", (performance.now() - begun) / CYCLES);
    await rested();
    for (const [name, value] of Object.entries(holds())) put(`cycles_growth_${name}`, value - before[name]);
  });
}

export default async function density(put) {
  await tenAtOnce(put);
  await alive(put);
  await cycles(put);
}
