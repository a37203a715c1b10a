/** The way out of a sandbox: what HTTPS interception lets through, and what it adds until the first byte of an answer. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startEngine } from "../../engine/harness.mjs";
import { quantile } from "../measure.mjs";

const BULK = 512 * 1024 * 1024;
const SMALL = 1000;

/** A key and a certificate for `name` that nobody has signed: [key, certificate], paths of PEM files. */
function selfSigned(dir, name) {
  const [key, cert] = [join(dir, "key.pem"), join(dir, "cert.pem")];
  const args = `req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=${name} -addext subjectAltName=DNS:${name}`;
  const made = spawnSync("openssl", [...args.split(" "), "-keyout", key, "-out", cert], { encoding: "utf8" });
  if (made.status !== 0) throw new Error(`openssl: ${made.stderr}`);
  return [key, cert];
}

async function startUpstream(args) {
  const child = spawn(process.execPath, [join(import.meta.dirname, "../upstream.mjs"), ...args], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const ports = JSON.parse((await once(child.stdout, "data"))[0].toString());
  return { ports, stop: () => child.stdin.end() };
}

/** Seconds from the request to the first byte of its answer, for each of n requests on one connection, in milliseconds. */
const firstByte = (url, n, more = "") =>
  `curl -sS ${more} -o /dev/null -w '%{time_pretransfer} %{time_starttransfer}\\n' '${url}/[1-${n}]'`;
const firstBytes = (text) =>
  text
    .trim()
    .split("\n")
    .map((line) => line.split(" ").map(Number))
    .map(([sent, first]) => (first - sent) * 1000);
const bulk = (url, more = "") => `curl -sS ${more} -o /dev/null -w '%{speed_download}' ${url}/${BULK}`;

export default async function egress(put) {
  const dir = mkdtempSync(join(tmpdir(), "caisson-bench-"));
  const upstream = await startUpstream(selfSigned(dir, "bench.example"));
  const engine = await startEngine();
  try {
    const box = await engine.sandbox("bench", {
      egress: { url: `http://localhost:${upstream.ports.http}/`, https_hosts: ["*"], token: "bench" },
    });
    const inside = async (command) => {
      const { stdout, stderr, exitCode } = await box.exec(command, { timeoutMs: 120_000 });
      if (exitCode !== 0) throw new Error(`${command}: ${stderr}`);
      return stdout;
    };
    const host = (command) => {
      const { status, stdout, stderr } = spawnSync("sh", ["-c", command], { encoding: "utf8" });
      if (status !== 0) throw new Error(`${command}: ${stderr}`);
      return stdout;
    };
    const direct = `--cacert ${join(dir, "cert.pem")} --resolve bench.example:${upstream.ports.https}:127.0.0.1`;
    const directURL = `https://bench.example:${upstream.ports.https}`;
    const rates = [];
    const floor = [];
    for (let i = 0; i < 3; i++) {
      floor.push(Number(host(bulk(directURL, direct))) / 1e6);
      rates.push(Number(await inside(bulk("https://bench.example"))) / 1e6);
    }
    put("egress_engine_https_mb_s", quantile(rates, 0.5));
    put("egress_direct_https_mb_s", quantile(floor, 0.5));
    const times = { ours: [], direct: [] };
    for (let i = 0; i < 5; i++) {
      times.direct.push(...firstBytes(host(firstByte(directURL, SMALL / 5, direct))));
      times.ours.push(...firstBytes(await inside(firstByte("https://bench.example", SMALL / 5))));
    }
    put("egress_engine_added_ms", quantile(times.ours, 0.5) - quantile(times.direct, 0.5));
  } finally {
    await engine.stop();
    upstream.stop();
    rmSync(dir, { recursive: true, force: true });
  }
}
