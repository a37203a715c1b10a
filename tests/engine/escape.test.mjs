/**
 * Attempts to get out of a sandbox, made by a program inside (probe*.c), each shown to be refused; with real files, servers
 * and processes of the host to be found.
 */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import dgram from "node:dgram";
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import net from "node:net";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { scratch } from "../scratch.mjs";
import { exchange, hostProcesses, isRoot, NO_SESSION, nap, sleep, startEngine } from "./harness.mjs";

/** What the host has that a sandbox must not reach. */
class Host {
  dir = scratch("host");
  secret = join(this.dir, "secret");
  unix = join(this.dir, "unix.sock");
  abstract = `caisson-probe-${process.pid}`;
  heard = [];
  #open = [];
  tcp = [];
  udp = [];

  async start() {
    writeFileSync(this.secret, "HOST-SECRET", { mode: 0o666 });
    const addresses = Object.values(networkInterfaces())
      .flat()
      .map((i) => i.address)
      .filter((a) => !a.startsWith("fe80"));
    for (const address of addresses) {
      const server = net.createServer((s) => {
        this.heard.push(`tcp ${address}`);
        s.on("error", () => {}).end("HOST-SECRET");
      });
      await new Promise((done) => server.listen(0, address, done));
      this.tcp.push(`${address}/${server.address().port}`);
      const socket = dgram.createSocket(address.includes(":") ? "udp6" : "udp4");
      socket.on("message", (_data, from) => {
        this.heard.push(`udp ${address}`);
        socket.send("HOST-SECRET", from.port, from.address);
      });
      await new Promise((done) => socket.bind(0, address, done));
      this.udp.push(`${address}/${socket.address().port}`);
      this.#open.push(server, socket);
    }
    for (const path of [this.unix, `\0${this.abstract}`]) {
      const server = net.createServer((s) => {
        this.heard.push(`unix ${path}`);
        s.end("HOST-SECRET");
      });
      await new Promise((done) => server.listen(path, done));
      this.#open.push(server);
    }
    this.shm = Number(spawnSync("ipcmk", ["-M", "4096", "-p", "0666"], { encoding: "utf8" }).stdout.match(/\d+/)?.[0]);
    const row = readFileSync("/proc/sysvipc/shm", "utf8")
      .split("\n")
      .map((line) => line.trim().split(/\s+/))
      .find((fields) => Number(fields[1]) === this.shm);
    this.shmKey = row?.[0];
    return this;
  }

  stop() {
    for (const server of this.#open) server.close();
    if (this.shmKey !== undefined) spawnSync("ipcrm", ["-m", String(this.shm)]);
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** Addresses where something of a network could be: the cloud's metadata, private ranges, the world. */
const ELSEWHERE = [
  ["169.254.169.254", "10.0.0.1", "172.16.0.1", "172.17.0.1", "192.168.0.1", "100.64.0.1", "1.1.1.1", "224.0.0.1"],
  ["255.255.255.255", "0.0.0.0", "fd00::1", "fe80::1", "2606:4700:4700::1111", "::ffff:127.0.0.1", "ff02::1"],
].flat();

/** Runs a group of attempts inside; one line of the answer is one test. */
async function attempts(t, box, group, variables = {}, expected = {}) {
  const env = Object.entries(variables)
    .map(([name, list]) => `PROBE_${name}='${list.join(",")}'`)
    .join(" ");
  const r = await box.exec(`env ${env} /opt/probe ${group}`, { timeoutMs: 50_000 });
  const lines = (r.stdout ?? "").trim().split("\n");
  assert.equal(lines.pop(), "end", `${r.stdout}\n${r.stderr}`);
  assert.ok(lines.length > 10);
  for (const line of lines) {
    const [verdict, name, ...rest] = line.split(" ");
    await t.test(`${group}: ${name}`, () => {
      assert.notEqual(verdict, "OPEN", line);
      if (expected[name]) assert.match(rest.join(" "), expected[name], line);
    });
  }
}

/** With `spares`, the sandbox stood ready before anyone asked for it. */
function suite(user, spares) {
  let engine;
  let box;
  let other;
  const host = new Host();
  before(async () => {
    await host.start();
    engine = await startEngine({ user, probe: true, spares });
    const dirs = readdirSync(join(engine.home, "state/spares"));
    box = await engine.sandbox("probe");
    const left = readdirSync(join(engine.home, "state/spares")).filter((dir) => dirs.includes(dir));
    assert.deepEqual([dirs.length, left.length], spares > 0 ? [spares, spares - 1] : [0, 0], "it was a spare");
    other = await engine.sandbox("other");
    await other.exec("echo theirs > /workspace/theirs; echo theirs > /tmp/theirs");
    await other.call("POST", "/api/process/start", {
      command: `cd /workspace && python3 -m http.server 8300 --bind 0.0.0.0`,
      sessionId: NO_SESSION,
    });
    await other.exec("until curl -s http://127.0.0.1:8300/ >/dev/null; do sleep 0.05; done", { timeoutMs: 10_000 });
  });
  after(async () => {
    await engine.stop();
    host.stop();
  });

  test("system calls", (t) => {
    // Arguments that would do no harm where the call is open: the reason tells which check refused it.
    const refused = {
      reboot: /^EPERM/,
      delete_module: /^EPERM/,
      acct: /^EPERM/,
      kexec_load: /^EPERM/,
      io_uring_setup: /^ENOSYS/,
      "clone3-user": /^ENOSYS/,
      int80: /^31$/,
      x32: /^31$/,
      arm32: /^(31|ENOEXEC)$/,
    };
    return attempts(t, box, "syscalls", {}, refused);
  });
  test("processes", (t) => {
    const pids = [process.pid, process.ppid, engine.child.pid];
    for (const name of readdirSync("/proc")) if (Number(name) > 1000 && pids.length < 200) pids.push(Number(name));
    return attempts(t, box, "processes", { PIDS: pids, SHM: host.shmKey ? [host.shmKey] : [] });
  });
  test("files", async (t) => {
    const state = join(engine.home, "state");
    const secrets = [host.secret, engine.home, join(engine.home, "token"), state, join(state, "lock")];
    secrets.push(join(state, "sandboxes/other/guest.sock"), join(state, "sandboxes/other/upper/workspace/theirs"));
    secrets.push(
      "/workspace/theirs",
      "/tmp/theirs",
      "/etc/shadow",
      "/root/.ssh",
      "/root/.bashrc",
      "/boot/.",
      "/lost+found",
    );
    for (const path of secrets.slice(0, 7)) assert.ok(existsSync(path), path);
    const own = ["/etc/hosts", "/opt/probe", "/usr/bin/env", "/bin/sh", "/etc/ssl/openssl.cnf"];
    const before = own.slice(2).map((path) => existsSync(path) && [statSync(path).mtimeMs, statSync(path).mode]);
    await attempts(t, box, "files", { SECRETS: secrets, READONLY: own });
    const since = own.slice(2).map((path) => existsSync(path) && [statSync(path).mtimeMs, statSync(path).mode]);
    assert.deepEqual(since, before, "the host's files are as they were");
    assert.equal(readFileSync(host.secret, "utf8"), "HOST-SECRET");
  });
  test("network", async (t) => {
    const elsewhere = [80, 443, 8300].flatMap((port) => ELSEWHERE.map((address) => `${address}/${port}`));
    if (nested)
      assert.ok(host.tcp.some((item) => item.startsWith("169.254.169.254/")) && host.tcp.length >= 10, host.tcp);
    const tcp = [...host.tcp, `127.0.0.1/${engine.port}`, "127.0.0.1/8300", ...elsewhere];
    const udp = [...host.udp, ...ELSEWHERE.map((address) => `${address}/53`)];
    await attempts(t, box, "network", {
      TCP: tcp,
      UDP: udp,
      ABSTRACT: [host.abstract],
      UNIX: [
        host.unix,
        join(engine.home, "state/sandboxes/other/guest.sock"),
        "/run/systemd/private",
        "/var/run/docker.sock",
      ],
      INTERFACES: Object.keys(networkInterfaces()).filter((name) => name !== "lo"),
    });
    assert.deepEqual(host.heard, [], "no server of the host was reached");
  });
  test("a link in the sandbox's files does not lead the engine out of them", async () => {
    const kept = join(host.dir, "kept");
    writeFileSync(kept, "kept");
    const b = await engine.sandbox("links");
    const r = await b.exec(
      `cd /workspace; ln -s ${host.dir} dir; ln -s ${host.secret} file; ln -s / root; mkdir -p a/b; ln -s ../../../../../.. a/b/up; ls -a`,
    );
    assert.equal(r.exitCode, 0);
    assert.equal((await engine.api("DELETE", "/v1/sandboxes/links")).status, 200);
    assert.deepEqual(readdirSync(join(engine.home, "state/trash")), []);
    assert.equal(readFileSync(kept, "utf8"), "kept");
  });
  test("ports: nothing is held after the end, and an old token opens nothing", async () => {
    const b = await engine.sandbox("holder");
    const server =
      "import http.server; http.server.test(http.server.SimpleHTTPRequestHandler, port=8400, bind='127.0.0.1')";
    await b.exec(`cd /tmp; setsid nohup python3 -c "${server}" >/dev/null 2>&1 & (setsid ${nap(4731)} &) `);
    await b.exec("until curl -s http://127.0.0.1:8400/ >/dev/null; do sleep 0.05; done", { timeoutMs: 10_000 });
    const { port, token } = (await engine.api("GET", "/v1/sandboxes/holder/ports/8400")).json;
    const headers = { "x-caisson-port-token": token };
    assert.equal((await exchange(port, "GET", "/", { headers })).status, 200);
    assert.ok(hostProcesses(nap(4731)).length > 0);
    assert.equal((await engine.api("DELETE", "/v1/sandboxes/holder")).status, 200);
    assert.deepEqual(hostProcesses(nap(4731)), [], "processes end before the answer");
    await assert.rejects(exchange(port, "GET", "/", { headers }), /ECONNREFUSED/);
    // The port is the host's again.
    await new Promise((done, fail) => {
      const taker = net.createServer().once("error", fail);
      taker.listen(port, "127.0.0.1", () => taker.close(done));
    });
    await engine.sandbox("holder");
    const next = (await engine.api("GET", "/v1/sandboxes/holder/ports/8400")).json;
    assert.notEqual(next.token, token);
    assert.equal((await exchange(next.port, "GET", "/", { headers })).status, 403);
  });
  test("the engine's connection to a sandbox cannot be had by another program of the host", async () => {
    // Guest server: the token is asked for; without one there is an answer but no way in.
    assert.equal((await exchange(box.port, "POST", "/api/execute", { body: '{"command":"id"}' })).status, 403);
    assert.equal((await engine.api("GET", "/v1/sandboxes", undefined, {})).status, 401);
    if (!isRoot || user !== "root") return;
    // Another user of the machine: neither token nor sockets nor files.
    const token = join(engine.home, "token");
    for (const path of [
      token,
      join(engine.home, "state/lock"),
      join(engine.home, "state/sandboxes/other/guest.sock"),
    ]) {
      const r = spawnSync("setpriv", ["--reuid", "65534", "--regid", "65534", "--clear-groups", "head", "-c1", path]);
      assert.notEqual(r.status, 0, path);
    }
  });
  test("what an ended sandbox's processes had open is closed with them", {
    skip: !isRoot && "only root may look into the engine",
  }, async () => {
    await engine.ready(spares);
    const before = readdirSync(`/proc/${engine.child.pid}/fd`).length;
    for (let i = 0; i < 5; i += 1) {
      const b = await engine.sandbox(`fds${i}`);
      await b.exec("(setsid sleep 100 &) ; true");
      await engine.api("DELETE", `/v1/sandboxes/fds${i}`);
    }
    await engine.ready(spares);
    await sleep(200);
    const now = readdirSync(`/proc/${engine.child.pid}/fd`).length;
    assert.ok(now <= before + 1, `${before} descriptors, then ${now}`);
  });
  test("an outside process group and its tools do not meet the sandbox's", async () => {
    // A stop or kill of the sandbox's own group must not reach the engine's.
    const marker = spawn("sleep", ["30"], { stdio: "ignore" });
    const r = await box.exec("kill -STOP 0; kill -9 -- -1; echo never", { timeoutMs: 3000 });
    assert.notEqual(r.exitCode, 0);
    assert.equal((await engine.api("GET", "/v1/health")).status, 200);
    assert.equal(marker.exitCode, null);
    marker.kill();
    assert.equal((await box.exec("echo back")).stdout, "back\n");
  });
}

const nested = process.env.CAISSON_TEST_NETWORK !== undefined;
// In a user namespace of one's own one is root, but can be nobody else.
const self = process.env.CAISSON_TEST_NETWORK === "self" || !isRoot;
for (const user of self ? ["self"] : ["root", "nobody"])
  for (const spares of [0, 2]) describe(`escape attempts as ${user}, ${spares} spares`, () => suite(user, spares));
describe("where the host has every kind of address", { skip: nested }, () => {
  test("metadata, private ranges, the world: servers there are not reached", (t) => {
    const enter = isRoot ? ["-n"] : ["-Urn"];
    if (spawnSync("unshare", [...enter, "true"]).status !== 0) return t.skip("no network namespaces for this user");
    const again = `python3 ${join(import.meta.dirname, "addresses.py")} && exec "$0" --test --test-force-exit --test-name-pattern=network "$1"`;
    const args = [...enter, "sh", "-c", again, process.execPath, import.meta.filename];
    // Without the variable node would take it for a part of this run and print nothing to read.
    const { NODE_TEST_CONTEXT: _, ...env } = process.env;
    const r = spawnSync("unshare", args, {
      encoding: "utf8",
      timeout: 300_000,
      env: { ...env, CAISSON_TEST_NETWORK: isRoot ? "root" : "self" },
    });
    assert.equal(r.status, 0, r.stdout + r.stderr);
    assert.match(r.stdout, /network: tcp/);
  });
});
