/** Limits of a sandbox: each is reached from inside, holds, is reported as such, and the neighbour goes on working. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { isRoot, sleep, startEngine } from "./harness.mjs";

for (const user of isRoot ? ["root", "nobody"] : ["self"]) {
  describe(`limits as ${user}`, () => suite(user));
}

const CGROUP = "/sys/fs/cgroup";
const version2 = existsSync(`${CGROUP}/cgroup.controllers`) && readFileSync(`${CGROUP}/cgroup.controllers`, "utf8");
describe("an engine in a container", {
  skip: !(isRoot && /\bmemory\b/.test(version2)) && "needs root and control groups of version 2",
}, () => {
  const group = `${CGROUP}/caisson-test-${process.pid}`;
  const container = (first) => {
    const inner = `umount -l ${CGROUP}; mount -t cgroup2 none ${CGROUP}; exec "$0" "$@"`;
    const outer = `echo $$ >${group}/cgroup.procs; ${first} exec unshare -Cm sh -c '${inner}' "$0" "$@"`;
    return startEngine({ user: "root", wrap: ["sh", "-c", outer] });
  };
  before(() => {
    for (const c of ["memory", "pids", "cpu"]) writeFileSync(`${CGROUP}/cgroup.subtree_control`, `+${c}`);
    mkdirSync(group);
  });
  after(() => rmdirSync(group)); // so nothing is left in it

  test("that it has for itself bounds its sandboxes below its own control group", async () => {
    const engine = await container("");
    try {
      const b = await engine.sandbox("inner", { limits: { memory_mb: 64 } });
      const by = (await engine.api("GET", "/v1/sandboxes/inner")).json.limits_by;
      assert.deepEqual([by.memory, by.processes, by.cpus], ["cgroup2", "cgroup2", "cgroup2"]);
      assert.equal((await b.exec("python3 -c 'bytearray(200 << 20)'")).exitCode, 137);
      assert.equal(readFileSync(`${group}/cgroup.procs`, "utf8"), "");
    } finally {
      await engine.stop();
    }
  });
  test("that it shares says that there is no control group, and leaves that one as it was", async () => {
    const engine = await container("sleep 600 >/dev/null 2>&1 &");
    try {
      await engine.sandbox("inner");
      const by = (await engine.api("GET", "/v1/sandboxes/inner")).json.limits_by;
      assert.equal(by.memory, "measured");
      assert.match(engine.log(), /no control groups for memory and processes/);
      assert.equal(readFileSync(`${group}/cgroup.subtree_control`, "utf8").trim(), "");
      assert.equal(readFileSync(`${group}/cgroup.type`, "utf8"), "domain\n");
    } finally {
      await engine.stop();
      writeFileSync(`${group}/cgroup.kill`, "1");
      while (/populated 1/.test(readFileSync(`${group}/cgroup.events`, "utf8"))) await sleep(20);
    }
  });
});

function suite(user) {
  let engine;
  let neighbour;
  before(async () => {
    engine = await startEngine({ user, args: ["--limit", "open_files=512"] });
    neighbour = await engine.sandbox("neighbour");
  });
  after(() => engine.stop());
  const shown = async (name) => (await engine.api("GET", `/v1/sandboxes/${name}`)).json;
  const ended = async (name, generation) =>
    (await engine.api("GET", `/v1/sandboxes/${name}/wait?generation=${generation}`)).json;
  const fine = async () => assert.equal((await neighbour.exec("echo fine")).stdout, "fine\n");
  /** A sandbox for one test. */
  const box = async (t, name, limits) => {
    t.after(() => engine.api("DELETE", `/v1/sandboxes/${name}`));
    return await engine.sandbox(name, { limits });
  };

  test("limits, labels and usage are shown", async (t) => {
    t.after(() => engine.api("DELETE", "/v1/sandboxes/shown"));
    const labels = { team: "a", 'with "quotes"': "é" };
    const limits = { memory_mb: 128, cpus: 0.5, processes: 60, disk_mb: 512 };
    await engine.sandbox("shown", { limits, labels });
    const s = await shown("shown");
    assert.deepEqual(s.labels, labels);
    assert.deepEqual(s.limits, { ...limits, inodes: 1_000_000, file_size_mb: 512, open_files: 512 });
    assert.deepEqual(Object.keys(s.limits_by), ["memory", "processes", "cpus", "disk"]);
    assert.equal(s.limits_by.disk, "measured");
    const expected = user !== "nobody" && process.env.CAISSON_LIMITS_BY;
    if (expected) assert.equal(s.limits_by.memory, expected);
    assert.ok(Math.abs(Date.now() - s.started_ms) < 60_000);
    // Where no control group counts, usage is measured from time to time; the first time may be in the middle of the start.
    let now = await shown("shown");
    for (let i = 0; i < 30 && (now.usage.memory_bytes === 0 || now.usage.processes === 0); i += 1) {
      await sleep(100);
      now = await shown("shown");
    }
    const { usage, events } = now;
    assert.ok(usage.memory_bytes > 0 && usage.memory_bytes < 128 * 2 ** 20, JSON.stringify(usage));
    assert.equal(usage.processes, 1);
    assert.deepEqual(events, { oom_kills: 0, process_limit_hits: 0 });
    const listed = (await engine.api("GET", "/v1/sandboxes")).json.sandboxes.find((x) => x.name === "shown");
    assert.deepEqual(listed.labels, labels);
  });
  test("what is not a limit or a label is refused with its name", async () => {
    const wrong = [
      [{ limits: [] }, /object of numbers/],
      [{ limits: { memory: 1 } }, /there is no memory; there are memory_mb cpus/],
      [{ limits: { memory_mb: "1" } }, /memory_mb must be a number/],
      [{ limits: { memory_mb: 15 } }, /memory_mb must be a whole number from 16/],
      [{ limits: { memory_mb: 1.5e12 } }, /memory_mb must be/],
      [{ limits: { processes: 20.5 } }, /processes must be a whole number/],
      [{ limits: { cpus: 0 } }, /cpus must be a number from 0.01/],
      [{ limits: { cpus: -1 } }, /cpus must be/],
      [{ labels: { a: 1 } }, /labels must be an object of strings/],
      [{ labels: { "": "x" } }, /labels: a name has/],
      [{ labels: { a: "x".repeat(257) } }, /labels: a name has/],
      [{ labels: Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`l${i}`, ""])) }, /too many/],
    ];
    for (const [body, text] of wrong) {
      const r = await engine.api("PUT", "/v1/sandboxes/wrong", body);
      assert.equal(r.status, 400, JSON.stringify(body));
      assert.match(r.json.error.message, text);
    }
    assert.equal((await engine.api("GET", "/v1/sandboxes/wrong")).status, 404);
  });
  test("memory: the process that wants too much is ended, or the sandbox, and it says so", async (t) => {
    const b = await box(t, "memory", { memory_mb: 100 });
    const { limits_by } = await shown("memory");
    const eat = "python3 -c 'x = [bytearray(40 << 20) for i in range(5)]; import time; time.sleep(20)'";
    if (limits_by.memory === "measured") {
      // No control group: one process meets its own limit, several together are seen by the engine.
      assert.match((await b.exec(eat)).stderr, /MemoryError/);
      const less = eat.replace("range(5)", "range(2)");
      b.exec(`${less} & ${less}`).catch(() => {});
    } else {
      const r = await b.exec(eat);
      assert.equal(r.exitCode, 137, r.stderr);
      assert.ok((await shown("memory")).events.oom_kills >= 1);
      assert.equal((await b.exec("echo on")).stdout, "on\n", "the sandbox itself goes on");
      return await fine();
    }
    const end = await ended("memory", b.generation);
    assert.equal(end.reason, "memory_limit");
    assert.match(end.detail, /the limit is 100 MiB/);
    await fine();
  });
  test("memory: files under /tmp, /run and /dev/shm are bounded, and /dev takes none", async (t) => {
    const b = await box(t, "files", { memory_mb: 64 });
    const r = await b.exec(
      `for d in /tmp /run/user/1000 /dev/shm; do head -c 80M /dev/zero > $d/x; rm -f $d/x; done
       for d in /tmp /run/user/1000 /dev/shm; do (cd $d; seq 1 20000 | xargs touch 2>&1 | grep -c 'No space left'); done
       touch /dev/x`,
      { timeoutMs: 60_000 },
    );
    assert.equal(r.stderr.match(/No space left on device/g)?.length, 3, r.stderr);
    assert.match(r.stderr, /\/dev\/x.*Read-only/);
    assert.doesNotMatch(r.stdout, /^0$/m);
    await fine();
  });
  test("processes: a fork bomb stays in its sandbox, which can still be asked and ended", async (t) => {
    const b = await box(t, "bomb", { processes: 50 });
    const r = await b.exec(`python3 - <<'P'
import os, signal
kept = []
try:
    for i in range(80):
        pid = os.fork()
        if pid == 0: signal.pause()
        kept.append(pid)
except OSError as e: print(e.strerror, len(kept) < 50)
for pid in kept: os.kill(pid, signal.SIGKILL)
P`);
    assert.equal(r.stdout, "Resource temporarily unavailable True\n", r.stderr);
    const s = await shown("bomb");
    if (s.limits_by.processes !== "rlimit") assert.ok(s.events.process_limit_hits > 0);
    const bomb = b.exec("b() { b | b & }; b; sleep 10", { timeoutMs: 3000 }).catch(() => undefined);
    await sleep(500);
    await fine();
    assert.ok((await shown("bomb")).usage.processes <= 52);
    assert.equal((await engine.api("DELETE", "/v1/sandboxes/bomb")).status, 200);
    await bomb;
  });
  test("disk: more than the limit ends the sandbox, the host's disk is not filled", async (t) => {
    const b = await box(t, "disk", { disk_mb: 300 });
    // Each file below the limit; and one that has no name any more.
    b.exec(`cd /workspace; head -c 200M /dev/zero > a
      python3 -c 'import os,time; f=open("b","wb"); os.unlink("b"); [f.write(bytes(1<<20)) for i in range(200)]; f.flush(); time.sleep(30)'`).catch(
      () => {},
    );
    const end = await ended("disk", b.generation);
    assert.equal(end.reason, "disk_limit");
    assert.match(end.detail, /took \d+ MiB of disk, the limit is 300 MiB/);
    assert.equal((await engine.api("DELETE", "/v1/sandboxes/disk")).status, 200);
    await fine();
  });
  test("disk: one endless file ends its writer", async (t) => {
    const b = await box(t, "file", { disk_mb: 300, file_size_mb: 5 });
    const r = await b.exec("head -c 100M /dev/zero > /workspace/x; echo $?; stat -c %s /workspace/x");
    assert.equal(r.stdout, `${128 + 25}\n${5 << 20}\n`);
  });
  test("inodes: more than the limit ends the sandbox", async (t) => {
    const b = await box(t, "inodes", { inodes: 1000 });
    b.exec("cd /workspace; for i in $(seq 40); do mkdir d$i; (cd d$i; seq 1 200 | xargs touch); done; sleep 30").catch(
      () => {},
    );
    const end = await ended("inodes", b.generation);
    assert.equal(end.reason, "disk_limit");
    assert.match(end.detail, /more files than the limit of 1000/);
  });
  test("a small disk is exact: no space left, and nothing is ended", async (t) => {
    const b = await box(t, "small", { disk_mb: 20, inodes: 500 });
    assert.equal((await shown("small")).limits_by.disk, "in_memory");
    const r = await b.exec("head -c 50M /dev/zero > /workspace/x; stat -c %s /workspace/x; rm /workspace/x");
    assert.match(r.stderr, /No space left on device/);
    assert.ok(Number(r.stdout) > 15 << 20 && Number(r.stdout) <= 20 << 20, r.stdout);
    const usr = await b.exec("head -c 50M /dev/zero > /usr/local/x; rm -f /usr/local/x");
    assert.match(usr.stderr, /No space left on device|Permission denied|Read-only/);
    assert.match((await b.exec("cd /workspace; seq 1 1000 | xargs touch 2>&1 | head -1")).stdout, /No space left/);
    assert.equal((await b.exec("rm -rf /workspace/*; echo ok")).stdout, "ok\n");
  });
  test("descriptors: a process has as many as it may", async () => {
    const r = await neighbour.exec(`python3 - <<'P'
import os
kept = []
try:
    while True: kept.append(os.open("/dev/null", 0))
except OSError as e: print(e.errno, len(kept) < 512)
P
ulimit -n 100000 || echo stays`);
    assert.equal(r.stdout, "24 True\nstays\n");
  });
  test("processors: a busy sandbox keeps to its share", async (t) => {
    const b = await box(t, "busy", { cpus: 0.5 });
    const { limits_by } = await shown("busy");
    const spin = "for i in 1 2 3 4; do timeout 2 sh -c 'while :; do :; done' & done; wait; times | tail -1";
    if (limits_by.cpus === "priority") {
      const nice = Number((await b.exec("nice")).stdout);
      assert.ok(nice >= 5, `nice ${nice}`);
      assert.notEqual((await b.exec(`renice -n ${nice - 1} $$`)).exitCode, 0);
      return;
    }
    const before = (await shown("busy")).usage.cpu_ms;
    const begun = Date.now();
    const busy = b.exec(spin, { timeoutMs: 20_000 });
    await fine();
    await busy;
    const share = ((await shown("busy")).usage.cpu_ms - before) / (Date.now() - begun);
    assert.ok(share < 0.7, `took ${share} processors`);
  });
}
