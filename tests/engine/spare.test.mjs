/** Sandboxes that stand ready before they are asked for: handed out once, whole, and to nobody whom they do not fit. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  constants,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { BUILD, isRoot, sleep, startEngine, until } from "./harness.mjs";

for (const user of isRoot ? ["root", "nobody"] : ["self"]) {
  describe(`spares as ${user}`, () => suite(user));
}

/** Host process ids of the control servers below this engine. */
function guests(engine) {
  const rows = spawnSync("ps", ["axo", "pid=,ppid=,stat=,comm="], { encoding: "utf8" }).stdout.trim().split("\n");
  const all = rows
    .map((row) => row.trim().split(/\s+/))
    .map(([pid, ppid, stat, comm]) => ({ pid: Number(pid), ppid: Number(ppid), stat, comm }));
  const parent = new Map(all.map((p) => [p.pid, p.ppid]));
  const ours = ({ pid }) => {
    let at = pid;
    while (at > 1 && at !== engine.child.pid) at = parent.get(at) ?? 0;
    return at === engine.child.pid;
  };
  return all
    .filter((p) => p.comm === "caisson-guest" && !p.stat.startsWith("Z") && ours(p))
    .map((p) => p.pid)
    .sort((a, b) => a - b);
}

/** Sets a soft limit of the engine's, as the user that it runs as; the exit status. */
const limit = (engine, user, option) =>
  spawnSync("prlimit", ["--pid", String(engine.child.pid), option], user === "nobody" ? { uid: 65534, gid: 65534 } : {})
    .status;
const gone = (pid) => !existsSync(`/proc/${pid}`);
const spareDirs = (engine) => readdirSync(join(engine.home, "state/spares"));

function suite(user) {
  let engine;
  before(async () => {
    engine = await startEngine({ user, spares: 2 });
  });
  after(() => engine.stop());
  const end = (t, name) => t.after(() => engine.api("DELETE", `/v1/sandboxes/${name}`));
  /** Does `work` while two spares stand ready, of which so many are handed out: their directories get the sandboxes' names. */
  const handedOut = async (work, count = 1) => {
    await engine.ready(2);
    const ready = guests(engine);
    const dirs = spareDirs(engine);
    assert.deepEqual([ready.length, dirs.length], [2 + (await sandboxes()), 2]);
    const box = await work();
    assert.equal(spareDirs(engine).filter((dir) => dirs.includes(dir)).length, 2 - count, "spares that were left");
    return { box, ready };
  };
  const sandboxes = async () => (await engine.api("GET", "/v1/sandboxes")).json.sandboxes.length;

  test("no sandbox of the API is one, and none is left over by the waiting", async () => {
    await engine.ready(2);
    assert.deepEqual((await engine.api("GET", "/v1/sandboxes")).json.sandboxes, []);
    assert.equal((await engine.api("GET", "/v1/health")).json.sandboxes, 0);
    const [one, two] = guests(engine);
    for (const name of ["spare-1", ".spare-1"])
      assert.ok([400, 404].includes((await engine.api("GET", `/v1/sandboxes/${name}`)).status), name);
    await sleep(700);
    assert.deepEqual(guests(engine), [one, two], "they stay");
    assert.equal(spareDirs(engine).length, 2);
  });
  test("one that is handed out is what was asked for", async (t) => {
    end(t, "asked");
    const env = { A: "1", MANY: "x\ny=z", SSL_CERT_FILE: "/own", PWD: "/etc", EMPTY: "" };
    const { box, ready } = await handedOut(() =>
      engine.sandbox("asked", {
        env,
        labels: { l: "v" },
        entrypoint: ["bash", "-c", 'echo "$A $(hostname) $PWD" > /tmp/entry; sleep 1000'],
      }),
    );
    const now = guests(engine);
    assert.ok(
      ready.every((pid) => now.includes(pid)),
      "both of them still run: one is the sandbox",
    );
    const said = await box.exec(
      'echo "$A|$MANY|$SSL_CERT_FILE|$CURL_CA_BUNDLE|$(printenv EMPTY || echo unset)|$(hostname)|$(uname -n)"; tail -1 /etc/hosts; id -u',
    );
    const bundle = "/etc/ssl/certs/ca-certificates.crt";
    assert.equal(said.stdout, `1|x\ny=z|/own|${bundle}||asked|asked\n127.0.0.1 asked\n1000\n`, said.stderr);
    await until("no entrypoint", async () => (await box.exec("cat /tmp/entry")).stdout === "1 asked /workspace\n");
    const shown = (await engine.api("GET", "/v1/sandboxes/asked")).json;
    assert.deepEqual([shown.name, shown.running, shown.labels], ["asked", true, { l: "v" }]);
    assert.ok(Date.now() - shown.started_ms < 60_000);
    // Its files are under its name, from the root of the sandbox to its home.
    await box.exec("echo x > /workspace/file; mkdir -p /home/user/d");
    for (const path of ["workspace/file", "home/user/d"])
      assert.ok(existsSync(join(engine.home, "state/sandboxes/asked/upper", path)), path);
    // Nothing in the host's process list tells what it was given.
    const list = spawnSync("ps", ["axwwo", "args"], { encoding: "utf8" }).stdout;
    assert.ok(!list.includes("y=z"));
    const launchers = list.split("\n").filter((args) => /^caisson-[0-9a-f]+ /.test(args));
    assert.ok(launchers.length >= 2);
    for (const args of launchers) assert.match(args, /^\S+ --args \d+ -- \/proc\/self\/fd\/\d+$/);
    await engine.ready(2);
    assert.equal(guests(engine).length, 3, "its place is taken by another");
  });
  test("one is used once: its process, its files, its user and its tokens are gone with it", async () => {
    const { box, ready } = await handedOut(() => engine.sandbox("once", { env: { SECRET: "first" } }));
    await box.exec("echo mine > /workspace/mine; echo t > /tmp/t; touch /dev/shm/s; (setsid sleep 1000 &)");
    assert.equal((await engine.api("DELETE", "/v1/sandboxes/once")).status, 200);
    await until("its guest stays", () => ready.filter(gone).length === 1);
    assert.ok(!existsSync(join(engine.home, "state/sandboxes/once")));
    const second = (await handedOut(() => engine.sandbox("once"))).box;
    const r = await second.exec('ls -A /workspace /tmp /dev/shm; echo "$SECRET"; ps ax | grep -c "[s]leep 1000"');
    assert.equal(r.stdout, "/dev/shm:\n\n/tmp:\n\n/workspace:\n\n0\n");
    assert.notEqual(second.token, box.token);
    assert.ok(Number(second.generation) > Number(box.generation));
    await engine.api("DELETE", "/v1/sandboxes/once");
  });
  test("limits of its own are a start's own: no spare has them", async (t) => {
    const bodies = [{ limits: { memory_mb: 128 } }, { at_most: { memory_mb: 128 } }, { at_most: { open_files: 100 } }];
    for (const [i, body] of bodies.entries()) {
      end(t, `limited${i}`);
      const { box, ready } = await handedOut(() => engine.sandbox(`limited${i}`, body), 0);
      assert.equal((await engine.api("GET", "/v1/health")).json.spares, 2);
      assert.ok(ready.every((pid) => guests(engine).includes(pid)) && guests(engine).length === ready.length + 1);
      const size = (await box.exec("df --output=size -m /tmp | tail -1; ulimit -n")).stdout
        .trim()
        .split(/\s+/)
        .map(Number);
      if (i < 2) assert.equal(size[0], 64);
      else assert.equal(size[1], 100);
    }
    // The same numbers as the engine's own are no difference.
    end(t, "same");
    const { memory_mb, open_files } = (await engine.api("GET", "/v1/sandboxes/limited0")).json.limits;
    assert.ok(memory_mb === 128);
    await handedOut(() => engine.sandbox("same", { at_most: { open_files, memory_mb: 16777216 } }));
  });
  test("what is refused takes none", async () => {
    await engine.ready(2);
    const ready = guests(engine);
    for (const body of [
      { template: "absent" },
      { env: { A: 1 } },
      { env: { A: "x".repeat(131072) } },
      { limits: { memory_mb: 1 } },
      { egress: { url: "ftp://x" } },
    ])
      assert.equal(
        (await engine.api("PUT", "/v1/sandboxes/refused", body)).status,
        400,
        JSON.stringify(body).slice(0, 50),
      );
    assert.deepEqual(guests(engine), ready);
    assert.equal(await engine.spares(), 2);
  });
  test("a burst gets the spares and then fresh ones, each its own", async () => {
    await engine.ready(2);
    const names = Array.from({ length: 8 }, (_, i) => `burst${i}`);
    const boxes = await Promise.all(names.map((name) => engine.sandbox(name, { env: { ME: name } })));
    const said = await Promise.all(
      boxes.map((b) => b.exec('echo "$ME $(hostname)"; touch /workspace/$ME; ls /workspace')),
    );
    for (const [i, name] of names.entries()) assert.equal(said[i].stdout, `${name} ${name}\n${name}\n`);
    assert.equal(new Set(boxes.map((b) => b.token)).size, 8);
    if (isRoot && user === "root") {
      const users = guests(engine).map((pid) => statSync(`/proc/${pid}`).uid);
      const of = guests(engine).map((pid) => readFileSync(`/proc/${pid}/status`, "utf8").match(/^Uid:\s+(\d+)/m)[1]);
      assert.equal(new Set(of).size, of.length, `a user of its own each: ${users} ${of}`);
    }
    await Promise.all(names.map((name) => engine.api("DELETE", `/v1/sandboxes/${name}`)));
    await engine.ready(2);
  });
  test("one that dies is noticed and replaced; a start right after its death works", async (t) => {
    await engine.ready(2);
    const [dead, other] = guests(engine);
    const dirs = spareDirs(engine);
    process.kill(dead, "SIGKILL");
    await until("still counted", async () => (await engine.spares()) === 1);
    await engine.ready(2);
    const now = guests(engine);
    assert.ok(now.includes(other) && !now.includes(dead) && now.length === 2);
    assert.equal(spareDirs(engine).filter((d) => dirs.includes(d)).length, 1, "its files are gone");
    assert.match(engine.log(), /\.spare-\d+ ended; another one in \d+ s/);
    end(t, "after");
    for (const pid of now) process.kill(pid, "SIGKILL");
    assert.equal((await (await engine.sandbox("after")).exec("hostname")).stdout, "after\n");
  });
  test("one that dies after it was handed out, before it ran, is made anew; its entrypoint runs once", async (t) => {
    await engine.ready(2);
    end(t, "anew");
    const stopped = guests(engine).slice(-2);
    const dirs = spareDirs(engine);
    for (const pid of stopped) process.kill(pid, "SIGSTOP");
    const entrypoint = ["sh", "-c", "echo run >> /workspace/runs; sleep 1000"];
    const asked = engine.api("PUT", "/v1/sandboxes/anew", { entrypoint, env: { A: "1" } });
    await until("none is handed out", () => spareDirs(engine).filter((d) => dirs.includes(d)).length === 1);
    for (const pid of stopped) process.kill(pid, "SIGKILL");
    const { status, text } = await asked;
    assert.equal(status, 200, text);
    assert.match(engine.log(), /anew: the spare has ended; started anew/);
    const box = await engine.sandbox("anew");
    await until("no entrypoint", async () => (await box.exec("cat /workspace/runs")).stdout === "run\n");
    assert.equal((await box.exec('echo "$A $(hostname)"')).stdout, "1 anew\n");
  });
  test("the engine's own view: no packet, no name, no way out before it is handed out", async (t) => {
    end(t, "closed");
    const { box } = await handedOut(() => engine.sandbox("closed"));
    const r = await box.exec("getent hosts example.com; curl -sS -m 5 http://1.1.1.1/", { timeoutMs: 20_000 });
    assert.match(r.stdout + r.stderr, /403|refused|Forbidden|not/i);
    const log = (await engine.api("GET", "/v1/sandboxes/closed/egress/log")).text.trim().split("\n").filter(Boolean);
    assert.ok(log.length > 0 && log.every((line) => JSON.parse(line).verdict === "denied"), log.join("\n"));
  });
}

for (const user of isRoot ? ["root", "nobody"] : ["self"]) {
  describe(`spares of other engines as ${user}`, () => {
    test("what was put in another place since is seen by the next sandbox", async (t) => {
      const dir = mkdtempSync(join(tmpdir(), "caisson-bind-"));
      t.after(() => rmSync(dir, { recursive: true, force: true }));
      spawnSync("chmod", ["755", dir]);
      const file = join(dir, "tool");
      writeFileSync(file, "old");
      const engine = await startEngine({ user, spares: 1, binds: [`${file}:/opt/tool`] });
      t.after(() => engine.stop());
      assert.equal((await (await engine.sandbox("a")).exec("cat /opt/tool")).stdout, "old");
      await engine.ready(1);
      const [spare] = guests(engine).slice(-1);
      writeFileSync(join(dir, "new"), "new");
      renameSync(join(dir, "new"), file);
      assert.equal((await (await engine.sandbox("b")).exec("cat /opt/tool")).stdout, "new");
      await until("the old one stays", () => gone(spare));
      await engine.ready(1);
      assert.equal((await (await engine.sandbox("c")).exec("cat /opt/tool")).stdout, "new");
    });
    test("an entrypoint that ends at once has run once, and the start says that it ran", async (t) => {
      const dir = mkdtempSync(join(tmpdir(), "caisson-bind-"));
      t.after(() => rmSync(dir, { recursive: true, force: true }));
      const fifo = join(dir, "fifo");
      spawnSync("mkfifo", ["-m", "666", fifo]);
      spawnSync("chmod", ["755", dir]);
      const reader = new Socket({ fd: openSync(fifo, constants.O_RDWR | constants.O_NONBLOCK), writable: false });
      t.after(() => reader.destroy());
      let runs = "";
      reader.on("data", (data) => {
        runs += data;
      });
      const engine = await startEngine({ user, spares: 4, binds: [`${fifo}:/opt/fifo`] });
      t.after(() => engine.stop());
      const wanted = [];
      const ends = new Set();
      for (let round = 0; round < 10; round += 1) {
        await engine.ready(4);
        const names = Array.from({ length: 8 }, (_, i) => `run-${round}-${i}`);
        wanted.push(...names);
        const answers = await Promise.all(
          names.map(async (name) => {
            const entrypoint = ["sh", "-c", `echo ${name} >/opt/fifo; exit 3`];
            const { status, text } = await engine.api("PUT", `/v1/sandboxes/${name}`, { entrypoint });
            const end = (await engine.api("GET", `/v1/sandboxes/${name}/wait`)).json;
            ends.add(`${end.exit_code} ${end.reason}`);
            return `${status} ${status === 200 ? "" : text}`;
          }),
        );
        assert.deepEqual([...new Set(answers)], ["200 "]);
      }
      await until("not every entrypoint was run", () => runs.split("\n").length > wanted.length);
      assert.deepEqual(runs.trim().split("\n").sort(), wanted.sort());
      assert.deepEqual([...ends], ["3 exited"]);
    });
    test("the place of one that the last request took is taken by another", async (t) => {
      const engine = await startEngine({ user, spares: 1 });
      t.after(() => engine.stop());
      const dirs = spareDirs(engine);
      assert.equal((await engine.api("PUT", "/v1/sandboxes/a", {})).status, 200);
      await engine.ready(1);
      assert.ok(!dirs.includes(spareDirs(engine)[0]));
    });
    test("one that could not be told what it is: the start says what was wrong", async (t) => {
      const engine = await startEngine({ user, spares: 1, wrap: ["env", "--ignore-signal=XFSZ"] });
      t.after(() => engine.stop());
      const size = (n) => limit(engine, user, `--fsize=${n}:`);
      // Nothing of it can be written, and a part.
      for (const bytes of [0, 2]) {
        await engine.ready(1);
        assert.equal(size(bytes), 0);
        const { status, json } = await engine.api("PUT", "/v1/sandboxes/a", { env: { A: "1" } });
        assert.equal(size("unlimited"), 0);
        assert.deepEqual([status, json.error.code], [500, "START_FAILED"]);
        assert.match(json.error.message, /^the sandbox did not start: environment: File too large$/);
      }
      assert.equal((await (await engine.sandbox("b", { env: { A: "1" } })).exec("echo $A")).stdout, "1\n");
    });
    test("one that has no room for its host name is replaced; there are others later", async (t) => {
      // The engine's descriptors are hidden from its own user, too, and the test has to know which are free.
      if (user === "self") return t.skip("only root can count the engine's descriptors");
      const engine = await startEngine({ user, spares: 1 });
      const { pid } = engine.child;
      t.after(() => process.kill(pid, "SIGCONT"));
      t.after(() => engine.stop());
      const files = (n) => limit(engine, user, `--nofile=${n}:`);
      // The engine stands still from when one has been begun until its guest is up, which it then hears of with room for the
      // two sockets that come with it, and no more. When it stood still too early or too late, once more.
      const said = () => /ended; another one in \d+ s: its host name could not be set/.test(engine.log());
      for (let i = 0; i < 30 && !said(); i += 1) {
        await engine.ready(1);
        const dirs = spareDirs(engine);
        assert.equal((await engine.api("PUT", `/v1/sandboxes/a${i}`, {})).status, 200);
        const last = Date.now() + 10_000;
        while (!spareDirs(engine).some((dir) => !dirs.includes(dir))) assert.ok(Date.now() < last, "none is begun");
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1 + (i % 10));
        process.kill(pid, "SIGSTOP");
        await sleep(300);
        const taken = new Set(readdirSync(`/proc/${pid}/fd`).map(Number));
        const free = Array.from({ length: taken.size + 3 }, (_, fd) => fd).filter((fd) => !taken.has(fd));
        assert.equal(files(free[1] + 1), 0);
        process.kill(pid, "SIGCONT");
        await sleep(100);
        assert.equal(files(1024), 0);
        assert.doesNotMatch(engine.log(), /no spare sandboxes/);
      }
      assert.ok(said(), engine.log());
      await engine.ready(1);
    });
    test("--spares 0: none; a wrong number is refused", async (t) => {
      const engine = await startEngine({ user, spares: 0 });
      t.after(() => engine.stop());
      await engine.sandbox("a");
      await sleep(400);
      assert.equal(guests(engine).length, 1);
      assert.equal(await engine.spares(), 0);
      for (const n of ["17", "-1", "x", "", "1x"]) {
        const r = spawnSync(join(BUILD, "caisson-engine"), ["--spares", n], { encoding: "utf8" });
        assert.match(r.stderr, /--spares .*: not a number from 0 to 16/);
        assert.equal(r.status, 64);
      }
      assert.match(spawnSync(join(BUILD, "caisson-engine"), ["--help"], { encoding: "utf8" }).stdout, /--spares N/);
    });
    for (const signal of ["SIGKILL", "SIGTERM"])
      test(`${signal} of the engine: nothing of them is left`, async (t) => {
        const engine = await startEngine({ user, spares: 4, keep: true });
        t.after(() => {
          engine.child.kill("SIGKILL");
          rmSync(engine.home, { recursive: true, force: true });
        });
        const pids = guests(engine);
        assert.equal(pids.length, 4);
        const list = join(engine.home, "state/cgroups");
        const groups = existsSync(list) ? readFileSync(list, "utf8").trim().split("\n").filter(Boolean) : [];
        engine.child.kill(signal);
        await engine.exited;
        await until("processes stay", () => pids.every(gone));
        await until("control groups stay", () => !groups.some(existsSync));
        const spares = join(engine.home, "state/spares");
        await until("files stay", () => !existsSync(spares) || readdirSync(spares).length === 0);
      });
  });
}
