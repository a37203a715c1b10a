/**
 * The engine and the control server alone, over loopback and without wrangler: one sandbox, a client that only counts.
 * Every figure is the median of several runs except where it is a size.
 */
import { randomBytes } from "node:crypto";
import { statSync } from "node:fs";
import http from "node:http";
import { NO_SESSION, startEngine } from "../../engine/harness.mjs";
import { build, quantile, timed } from "../measure.mjs";

const EXECS = 300;
const STREAM_BYTES = 50_000_000;
const FILE_BYTES = 10_000_000;
const RUNS = 5;

/** One exchange over a connection that is kept: {status, bytes, first}, the answer's body counted, kept only when asked for. */
function ask(agent, box, path, payload, keep = false) {
  return new Promise((done, fail) => {
    const options = { host: "127.0.0.1", port: box.port, agent, method: "POST", path, headers: box.headers };
    const req = http.request(options, (res) => {
      let bytes = 0;
      const parts = [];
      res.on("data", (d) => {
        bytes += d.length;
        if (keep) parts.push(d);
      });
      res.on("end", () => done({ status: res.statusCode, bytes, text: Buffer.concat(parts).toString() }));
      res.on("error", fail);
    });
    req.on("error", fail);
    req.end(payload);
  });
}

export default async function guest(put) {
  const engine = await startEngine();
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  try {
    const box = await engine.sandbox("bench");
    const post = async (path, body, keep) => {
      const res = await ask(agent, box, path, typeof body === "string" ? body : JSON.stringify(body), keep);
      if (res.status !== 200) throw new Error(`${path}: HTTP ${res.status} ${res.text}`);
      return res;
    };
    const median = async (n, work) => quantile(await timed(n, work), 0.5);

    // Idle: before anything has run. Pages of the program itself are shared by all sandboxes and not counted.
    const memory = (await box.exec("grep -E '^Rss(Anon|Shmem)' /proc/1/status")).stdout;
    put(
      "guest_rss_kb",
      [...memory.matchAll(/(\d+) kB/g)].reduce((sum, m) => sum + Number(m[1]), 0),
    );
    put("guest_bytes", statSync(build("caisson-guest")).size);

    const exec = { command: "true", sessionId: "bench" };
    await timed(20, () => post("/api/execute", exec));
    put("guest_exec_ms_p50", await median(EXECS, () => post("/api/execute", exec)));
    const bare = { command: "true", sessionId: NO_SESSION };
    put("guest_exec_bare_ms_p50", await median(EXECS, () => post("/api/execute", bare)));

    const command = `yes 'a line of output such as a compiler or a test run prints, eighty characters long' | head -c ${STREAM_BYTES}`;
    for (const [key, sessionId] of [
      ["stream_session_mb_s", "bench"],
      ["stream_mb_s", NO_SESSION],
    ]) {
      const ms = await median(RUNS, async () => {
        const { bytes } = await post("/api/execute/stream", { command, sessionId });
        if (bytes < STREAM_BYTES) throw new Error(`only ${bytes} bytes arrived`);
      });
      put(key, STREAM_BYTES / 1e6 / (ms / 1000));
    }

    const content = randomBytes(FILE_BYTES).toString("base64");
    const write = JSON.stringify({ path: "/workspace/ten", content, sessionId: NO_SESSION, encoding: "base64" });
    put("file_write_10mb_ms", await median(RUNS, () => post("/api/write", write)));
    const read = JSON.stringify({ path: "/workspace/ten", sessionId: NO_SESSION, encoding: "base64" });
    put(
      "file_read_10mb_ms",
      await median(RUNS, async () => {
        const { bytes } = await post("/api/read", read);
        if (bytes < content.length) throw new Error(`only ${bytes} bytes arrived`);
      }),
    );
    const back = JSON.parse((await post("/api/read", read, true)).text).content;
    if (back !== content) throw new Error("what was read is not what was written");
  } finally {
    agent.destroy();
    await engine.stop();
  }
}
