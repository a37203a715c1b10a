/** What stays when a sandbox, its engine or its helper ends, by itself or by kill -9: nothing. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { hostProcesses, isRoot, NO_SESSION, nap, sleep, startEngine, until } from "./harness.mjs";

for (const user of isRoot ? ["root", "nobody"] : ["self"]) {
  describe(`leftovers as ${user}`, () => suite(user));
}

/** The control groups that this engine has, from its own list. */
function groupsOf(home) {
  const list = join(home, "state/cgroups");
  return existsSync(list) ? readFileSync(list, "utf8").trim().split("\n").filter(Boolean) : [];
}

/** Processes whose parent chain led to this engine cannot be found once it is gone: they are found by what they hold. */
const held = (home) => hostProcesses(home);

/** Mounts below the engine's directory that any process of the machine sees. */
function mountsOf(home) {
  const found = new Set();
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      for (const line of readFileSync(`/proc/${pid}/mountinfo`, "utf8").split("\n"))
        if (line.includes(home)) found.add(line);
    } catch {
      // gone, or not ours to read
    }
  }
  return [...found];
}

async function nothingLeft(home, groups, marker, { state = true } = {}) {
  await until(
    () => `processes stay: ${hostProcesses(marker).concat(held(home)).join("\n")}`,
    () => hostProcesses(marker).length === 0 && held(home).length === 0,
  );
  await until(
    () => `control groups stay: ${groups.filter(existsSync)}`,
    () => !groups.some(existsSync),
  );
  assert.deepEqual(mountsOf(home), []);
  if (!state) return;
  for (const dir of ["sandboxes", "spares", "trash", "base"])
    await until(
      () => `${dir} stays`,
      () => !existsSync(join(home, "state", dir)),
    );
}

function writable(path) {
  try {
    accessSync(path, constants.W_OK);
    return true;
  } catch {
    return false;
  }
}

/** A test that fails leaves its engine: it ends with it. */
function remove(engine) {
  engine.child.kill("SIGKILL");
  rmSync(engine.home, { recursive: true, force: true });
}

function suite(user) {
  const busy = async (engine, name, seconds) => {
    const b = await engine.sandbox(name);
    await b.exec(
      "mkdir -p /workspace/x; echo y > /workspace/x/y; touch /usr/local/z 2>/dev/null; echo t > /tmp/t; mkdir -m 0 /workspace/closed",
    );
    await b.call("POST", "/api/process/start", { command: `setsid ${nap(seconds)}`, sessionId: NO_SESSION });
    await until(
      () => "did not start",
      () => hostProcesses(nap(seconds)).length > 0,
    );
    return b;
  };
  const keeperOf = (engine) =>
    spawnSync("ps", ["-o", "pid=,comm=", "--ppid", String(engine.child.pid)], { encoding: "utf8" })
      .stdout.split("\n")
      .filter((line) => line.includes("caisson-keeper"))
      .map((line) => Number.parseInt(line, 10));

  test("kill -9 of the engine: no process, mount, control group or directory", async (t) => {
    const engine = await startEngine({ user, keep: true });
    t.after(() => remove(engine));
    for (const name of ["one", "two", "three"]) await busy(engine, name, 4741);
    const groups = groupsOf(engine.home);
    if (isRoot && user === "root" && writable("/sys/fs/cgroup/memory")) assert.ok(groups.length > 0);
    engine.child.kill("SIGKILL");
    await engine.exited;
    await nothingLeft(engine.home, groups, nap(4741));
  });
  test("kill -9 of the engine while sandboxes start", async (t) => {
    const engine = await startEngine({ user, keep: true });
    t.after(() => remove(engine));
    const groups = groupsOf(engine.home);
    const starts = Array.from({ length: 12 }, (_, i) =>
      engine.api("PUT", `/v1/sandboxes/s${i}`, { entrypoint: ["sh", "-c", nap(4742)] }).catch(() => undefined),
    );
    await Promise.race(starts);
    engine.child.kill("SIGKILL");
    await Promise.all(starts);
    await engine.exited;
    await nothingLeft(engine.home, groups, nap(4742));
  });
  test("kill -9 of engine and helper together: the next engine clears", async (t) => {
    const engine = await startEngine({ user, keep: true });
    t.after(() => remove(engine));
    await busy(engine, "doomed", 4743);
    const groups = groupsOf(engine.home);
    const [keeper] = keeperOf(engine);
    assert.ok(keeper > 0, "there is a keeper");
    process.kill(keeper, "SIGSTOP");
    engine.child.kill("SIGKILL");
    await engine.exited;
    process.kill(keeper, "SIGKILL");
    await nothingLeft(engine.home, [], nap(4743), { state: false });
    assert.ok(existsSync(join(engine.home, "state/sandboxes/doomed")));
    const next = await startEngine({ user, dir: engine.home });
    assert.deepEqual(readdirSync(join(engine.home, "state/sandboxes")), []);
    assert.equal((await next.api("GET", "/v1/sandboxes/doomed")).status, 404);
    for (const group of groups) assert.deepEqual(taken(group, next), []);
    await next.stop();
    await nothingLeft(engine.home, groups, nap(4743), { state: false });
  });
  test("kill -9 of the helper: there is another, which measures and clears", async (t) => {
    const engine = await startEngine({ user, keep: true });
    t.after(() => remove(engine));
    const b = await busy(engine, "one", 4744);
    const groups = groupsOf(engine.home);
    const [keeper] = keeperOf(engine);
    process.kill(keeper, "SIGKILL");
    await until(
      () => "no other helper",
      () => keeperOf(engine).some((pid) => pid !== keeper),
    );
    const limited = await engine.sandbox("limited", { limits: { inodes: 300 } });
    limited.exec("cd /workspace; seq 1 600 | xargs touch; sleep 20").catch(() => {});
    const end = await engine.api("GET", `/v1/sandboxes/limited/wait?generation=${limited.generation}`);
    assert.equal(end.json.reason, "disk_limit");
    assert.equal((await b.exec("echo on")).stdout, "on\n");
    engine.child.kill("SIGKILL");
    await engine.exited;
    await nothingLeft(engine.home, groups, nap(4744));
  });
  test("kill -9 of a guest: reported, its storage and control groups go", async (t) => {
    const engine = await startEngine({ user, spares: 0 });
    t.after(() => engine.stop());
    const b = await busy(engine, "killed", 4745);
    // The first process inside: the parent of what it started.
    const nested = hostProcesses(nap(4745)).map((line) => Number.parseInt(line, 10));
    const rows = spawnSync("ps", ["axo", "pid=,ppid=,comm="], { encoding: "utf8" }).stdout.trim().split("\n");
    const parent = new Map(
      rows
        .map((row) => row.trim().split(/\s+/))
        .map(([pid, ppid, comm]) => [Number(pid), { ppid: Number(ppid), comm }]),
    );
    let guest = nested[0];
    while (parent.has(guest) && parent.get(guest).comm !== "caisson-guest") guest = parent.get(guest).ppid;
    assert.equal(parent.get(guest)?.comm, "caisson-guest");
    process.kill(guest, "SIGKILL");
    const end = await engine.api("GET", `/v1/sandboxes/killed/wait?generation=${b.generation}`);
    assert.deepEqual([end.json.signal, end.json.reason], [9, "signalled"]);
    await until(
      () => "stays",
      () => hostProcesses(nap(4745)).length === 0 && readdirSync(join(engine.home, "state/sandboxes")).length === 0,
    );
    await until(
      () => "control groups stay",
      () => groupsOf(engine.home).every((group) => taken(group, engine).length === 0),
    );
    assert.equal((await engine.sandbox("killed")).name, "killed");
  });
  test("SIGTERM of the engine: all is gone when it has ended, the helper too", async (t) => {
    const engine = await startEngine({ user, keep: true });
    t.after(() => remove(engine));
    for (const name of ["one", "two"]) await busy(engine, name, 4746);
    const groups = groupsOf(engine.home);
    const keepers = keeperOf(engine);
    assert.deepEqual(await engine.stop(), { code: 0, signal: null });
    assert.deepEqual(hostProcesses(nap(4746)), []);
    assert.deepEqual(groups.filter(existsSync), []);
    for (const pid of keepers) assert.ok(!existsSync(`/proc/${pid}`));
    for (const dir of ["sandboxes", "spares", "trash"])
      assert.deepEqual(readdirSync(join(engine.home, "state", dir)), []);
  });
  test("a sandbox that nobody asks about is ended; one that is waited for is not", async (t) => {
    const engine = await startEngine({ user, args: ["--lease", "1"] });
    t.after(() => engine.stop());
    const b = await engine.sandbox("abandoned");
    await engine.sandbox("awaited");
    const wait = engine.api("GET", "/v1/sandboxes/awaited/wait");
    await until(
      () => "still runs",
      () => engine.log().includes("abandoned: ended"),
    );
    const end = (await engine.api("GET", `/v1/sandboxes/abandoned/wait?generation=${b.generation}`)).json;
    assert.deepEqual([end.reason, end.detail], ["abandoned", "nobody asked about it for 1 s"]);
    assert.equal((await engine.api("GET", "/v1/sandboxes/awaited")).json.running, true);
    await engine.api("DELETE", "/v1/sandboxes/awaited");
    assert.equal((await wait).json.reason, "destroyed");
  });
  test("storage that cannot be removed is an error, and does not hold the name", {
    skip: user !== "root" && "needs root to set it up",
  }, async (t) => {
    const engine = await startEngine({ user });
    t.after(() => engine.stop());
    await engine.sandbox("stuck");
    // A mount in the way, as an administrator might leave one.
    const spot = join(engine.home, "state/sandboxes/stuck/upper/mounted");
    mkdirSync(spot);
    assert.equal(spawnSync("mount", ["-t", "tmpfs", "none", spot]).status, 0);
    writeFileSync(join(spot, "file"), "x");
    const gone = () => spawnSync("sh", ["-c", `umount '${engine.home}'/state/*/stuck*/upper/mounted`]);
    t.after(gone);
    const r = await engine.api("DELETE", "/v1/sandboxes/stuck");
    assert.deepEqual([r.status, r.json.error.code], [500, "STORAGE"]);
    assert.match(r.json.error.message, /could not be removed completely from .*\/trash/);
    assert.equal((await engine.sandbox("stuck")).name, "stuck");
    gone();
  });
  test("a hundred cycles: no growth of memory, descriptors, processes, control groups or files", async (t) => {
    const engine = await startEngine({ user, spares: 2 });
    t.after(() => engine.stop());
    const cycle = async (i) => {
      const b = await engine.sandbox(`c${i % 7}`);
      assert.equal((await b.exec("echo $((6 * 7))")).stdout, "42\n");
      assert.equal((await engine.api("DELETE", `/v1/sandboxes/c${i % 7}`)).status, 200);
    };
    for (let i = 0; i < 20; i += 1) await cycle(i);
    const before = await footprint(engine);
    for (let i = 0; i < 100; i += 1) await cycle(i);
    const now = await footprint(engine);
    for (const key of ["descriptors", "children", "mounts", "groups", "files"])
      assert.ok(now[key] <= before[key], `${key}: ${before[key]}, then ${now[key]}`);
    assert.ok(now.kb - before.kb <= 256, `memory: ${before.kb} kB, then ${now.kb} kB`);
  });
}

function children(group) {
  return existsSync(group)
    ? readdirSync(group, { withFileTypes: true })
        .filter((e) => e.isDirectory())
        .map((e) => e.name)
    : [];
}
/** Those of them that are a sandbox's: in the others stands nothing but a thread of the engine, which waits for the next one. */
function taken(group, engine) {
  return children(group).filter((name) => {
    const procs = readFileSync(join(group, name, "cgroup.procs"), "utf8").trim();
    return procs !== String(engine.child.pid);
  });
}

/** What an engine holds. */
async function footprint(engine) {
  await engine.ready(2);
  await sleep(300);
  const { pid } = engine.child;
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const state = join(engine.home, "state");
  // An ordinary process may not look into one that is not dumpable, even its own user's.
  const descriptors = isRoot ? readdirSync(`/proc/${pid}/fd`).length : 0;
  return {
    kb: Number(status.match(/^VmRSS:\s+(\d+)/m)[1]),
    descriptors,
    children: spawnSync("ps", ["-o", "pid=", "--ppid", String(pid)], { encoding: "utf8" })
      .stdout.trim()
      .split("\n").length,
    mounts: readFileSync("/proc/self/mounts", "utf8").split("\n").length,
    groups: groupsOf(engine.home).reduce((n, group) => n + children(group).length, 0),
    files:
      readdirSync(state).length +
      readdirSync(join(state, "sandboxes")).length +
      readdirSync(join(state, "spares")).length +
      readdirSync(join(state, "trash")).length,
  };
}
