/** The way out of a sandbox: what HTTPS interception lets through, and what it adds until the first byte of an answer. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { ROOT, startLocal } from "../../../scripts/local.mjs";
import { makeCertificate, ownAddress } from "../../e2e/outside.mjs";
import { startEngine } from "../../engine/harness.mjs";
import { scratch } from "../../scratch.mjs";
import { quantile, timed } from "../measure.mjs";

const BULK = 256 * 1024 * 1024;
const SMALL = 500;

async function startUpstream(args) {
  const child = spawn(process.execPath, [join(import.meta.dirname, "../upstream.mjs"), ...args], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const ports = JSON.parse((await once(child.stdout, "data"))[0].toString());
  return { ports, stop: () => child.stdin.end() };
}

/** n requests on one connection: from the request to the first byte of its answer, and to the last, of each in milliseconds. */
const small = (url, n, more = "") =>
  `curl -sS ${more} -o /dev/null -w '%{time_pretransfer} %{time_starttransfer} %{time_total}\\n' '${url}/[1-${n}]'`;
function took(times, text) {
  for (const line of text.trim().split("\n")) {
    const [sent, first, last] = line.split(" ").map(Number);
    times.first.push((first - sent) * 1000);
    times.whole.push((last - sent) * 1000);
  }
}
const bulk = (url, more = "") => `curl -sS ${more} -o /dev/null -w '%{speed_download}' ${url}/${BULK}`;

const ADDRESS = ownAddress();
const NAME = "bench.example";

const host = (command) => {
  const { status, stdout, stderr } = spawnSync("sh", ["-c", command], { encoding: "utf8" });
  if (status !== 0) throw new Error(`${command}: ${stderr}`);
  return stdout;
};

/** Fetches in turn without and with interception, by the same program: {rate, direct} in MB/s, {added, whole} in milliseconds. */
async function compare(inside, direct) {
  const rates = { ours: [], direct: [] };
  for (let i = 0; i < 3; i++) {
    rates.direct.push(Number(host(bulk(`https://${NAME}`, direct))) / 1e6);
    rates.ours.push(Number(await inside(bulk(`https://${NAME}`))) / 1e6);
  }
  const times = { ours: { first: [], whole: [] }, direct: { first: [], whole: [] } };
  for (let i = 0; i < 5; i++) {
    took(times.direct, host(small(`https://${NAME}`, SMALL / 5, direct)));
    took(times.ours, await inside(small(`https://${NAME}`, SMALL / 5)));
  }
  const added = (what) => quantile(times.ours[what], 0.5) - quantile(times.direct[what], 0.5);
  return {
    rate: quantile(rates.ours, 0.5),
    direct: quantile(rates.direct, 0.5),
    added: added("first"),
    whole: added("whole"),
  };
}

/** The engine alone: in the Worker's place a server that answers by itself. */
async function engineAlone(upstream, direct) {
  const engine = await startEngine();
  try {
    const box = await engine.sandbox("bench", {
      egress: { url: `http://localhost:${upstream.http}/`, https_hosts: ["*"], token: "bench" },
    });
    return await compare(async (command) => {
      const { stdout, stderr, exitCode } = await box.exec(command, { timeoutMs: 120_000 });
      if (exitCode !== 0) throw new Error(`${command}: ${stderr}`);
      return stdout;
    }, direct);
  } finally {
    await engine.stop();
  }
}

/** All of it: sandbox, engine, Worker with the session's policy, engine, upstream. */
async function throughWorker(trust, direct) {
  const state = mkdtempSync(join(ROOT, "build", "bench-"));
  const local = await startLocal({
    dir: state,
    port: 0,
    apiKey: null,
    engineArgs: ["--resolve", `${NAME}:${ADDRESS}`, "--trust", trust],
  });
  try {
    const post = async (path, body) => {
      const headers = { "content-type": "application/json" };
      const response = await fetch(local.url + path, { method: "POST", headers, body: JSON.stringify(body) });
      const text = await response.text();
      if (!response.ok) throw new Error(`${path}: ${response.status} ${text}`);
      return JSON.parse(text);
    };
    const session = await post("/v1/sessions", { agent: "shell", policy: { network: { allow: [NAME, ADDRESS] } } });
    // What the server in front of the Worker takes for a request that the Worker refuses at once.
    const route = async () => {
      await (await fetch(`${local.url}/__caisson/egress/none`)).arrayBuffer();
    };
    await timed(SMALL / 5, route);
    const front = await timed(SMALL, route);
    const found = await compare(async (command) => {
      const { stdout, stderr, exit_code } = await post(`/v1/sessions/${session.id}/exec`, { command, timeout_s: 120 });
      if (exit_code !== 0) throw new Error(`${command}: ${stderr}`);
      return stdout;
    }, direct);
    return { ...found, front: quantile(front, 0.5) };
  } finally {
    await local.stop();
    rmSync(state, { recursive: true, force: true });
  }
}

export default async function egress(put) {
  const dir = scratch("bench");
  const { file } = makeCertificate(dir, [NAME]);
  const upstream = await startUpstream([ADDRESS, join(dir, "upstream-key.pem"), file]);
  try {
    if (upstream.ports === null) return console.log("  this user may not listen on port 443: not measured");
    const direct = `--cacert ${file} --resolve ${NAME}:443:${ADDRESS}`;
    const engine = await engineAlone(upstream.ports, direct);
    put("egress_engine_https_mb_s", engine.rate);
    put("egress_engine_added_ms", engine.added);
    const all = await throughWorker(file, direct);
    put("egress_direct_https_mb_s", all.direct);
    put("egress_https_mb_s", all.rate);
    put("egress_added_ms", all.added);
    put("egress_whole_added_ms", all.whole);
    put("egress_front_route_ms", all.front);
  } finally {
    upstream.stop();
    rmSync(dir, { recursive: true, force: true });
  }
}
