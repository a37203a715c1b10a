/** The whole path, over the real wrangler dev and the real engine. The floor is wrangler's own front: an empty route. */
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { ROOT, startLocal } from "../../../scripts/local.mjs";
import { build, quantile, timed } from "../measure.mjs";

export default async function stack(put) {
  put("guest_bytes", statSync(build("caisson-guest")).size);
  put("runner_bytes", statSync(build("caisson-run")).size);
  const state = mkdtempSync(join(ROOT, "build", "bench-"));
  const begun = performance.now();
  const local = await startLocal({ dir: state, port: 0, apiKey: null });
  put("stack_start_ms", performance.now() - begun);
  try {
    const post = async (path, body) => {
      const response = await fetch(local.url + path, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
      });
      const text = await response.text();
      if (!response.ok) throw new Error(`${path}: ${response.status} ${text}`);
      return JSON.parse(text);
    };
    const floor = await timed(60, () => fetch(`${local.url}/`, { method: "HEAD" }).then((r) => r.arrayBuffer()));
    put("floor_p50_ms", quantile(floor, 0.5));
    await post("/v1/execute", { language: "bash", code: "echo hi" });
    const cold = await timed(20, async () => {
      const answer = await post("/v1/execute", { language: "bash", code: "echo hi" });
      if (answer.stdout !== "hi\n") throw new Error(JSON.stringify(answer));
    });
    put("execute_cold_p50_ms", quantile(cold, 0.5));
    put("execute_cold_p95_ms", quantile(cold, 0.95));
    const session = await post("/v1/sessions", { agent: "shell" });
    await post(`/v1/sessions/${session.id}/exec`, { command: "true" });
    const warm = await timed(60, () => post(`/v1/sessions/${session.id}/exec`, { command: "true" }));
    put("exec_warm_p50_ms", quantile(warm, 0.5));
    put("exec_warm_p95_ms", quantile(warm, 0.95));
    put("exec_warm_floor_ratio", quantile(warm, 0.5) / quantile(floor, 0.5));
  } finally {
    await local.stop();
    rmSync(state, { recursive: true, force: true });
  }
}
