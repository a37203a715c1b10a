/** caisson-run from outside: every reason a run can end with, the spool, and following it. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { after, describe, test } from "node:test";
import { scratch } from "../scratch.mjs";
import { nap } from "./harness.mjs";

const RUNNER = resolve(import.meta.dirname, "../../build/caisson-run");
const root = scratch("run");
after(() => rmSync(root, { recursive: true, force: true }));

let count = 0;
function spool(spec, prompt) {
  count += 1;
  const dir = join(root, `run_${count}`);
  spawnSync("mkdir", [dir]);
  const whole = { cwd: "/tmp", env: {}, stdin: null, wall_ms: 20_000, grace_ms: 500, output_max_bytes: 1e8, ...spec };
  writeFileSync(join(dir, "spec.json"), JSON.stringify(whole));
  if (prompt !== undefined) writeFileSync(join(dir, "prompt"), prompt);
  return dir;
}
const call = (...args) =>
  spawnSync(RUNNER, args.map(String), { encoding: "utf8", timeout: 30_000, maxBuffer: 1 << 26 });
const bash = (script, more = {}) => spool({ argv: ["bash", "-c", script], ...more });

/** Parses what `follow` printed: the bytes of each stream by offset, and the exit record. */
function pieces(text, outFrom = 0, errFrom = 0) {
  const at = { o: outFrom, e: errFrom };
  const bytes = { o: [], e: [] };
  let record;
  for (const line of text.trimEnd().split("\n")) {
    assert.equal(record, undefined, "nothing comes after the exit record");
    const [kind, offset, data] = line.split(" ");
    if (kind === "x") record = JSON.parse(line.slice(2));
    else if (kind !== "h") {
      assert.equal(Number(offset), at[kind], "no hole, no overlap");
      bytes[kind].push(Buffer.from(data, "base64"));
      at[kind] += bytes[kind].at(-1).length;
    }
  }
  return { out: Buffer.concat(bytes.o), err: Buffer.concat(bytes.e), record };
}
function started(dir) {
  const start = call("start", dir);
  assert.equal(start.status, 0, start.stderr);
  return JSON.parse(start.stdout).pid;
}
function ran(dir) {
  started(dir);
  const follow = call("follow", dir, 0, 0);
  assert.equal(follow.status, 0, follow.stderr);
  return pieces(follow.stdout);
}
const alive = (pattern) =>
  spawnSync("ps", ["-eo", "args"], { encoding: "utf8" })
    .stdout.split("\n")
    .some((l) => l.startsWith(pattern));
async function until(check, what) {
  for (let i = 0; i < 200; i++) {
    if (check()) return;
    await new Promise((r) => setTimeout(r, 25));
  }
  assert.fail(what);
}

describe("caisson-run", () => {
  test("exit status, both streams, environment, prompt on standard input", () => {
    const dir = spool(
      { argv: ["sh", "-c", 'cat; echo "$COLOUR" >&2; pwd; exit 3'], env: { COLOUR: "blue=1" }, stdin: "prompt" },
      "a\0é\n",
    );
    const { out, err, record } = ran(dir);
    assert.equal(out.toString(), "a\0é\n/tmp\n");
    assert.equal(err.toString(), "blue=1\n");
    assert.equal(record.reason, "exited");
    assert.equal(record.exit_code, 3);
    assert.equal(record.signal, null);
    assert.equal(record.stdout_bytes, out.length);
    assert.ok(record.ended_ms >= record.started_ms && record.max_rss_kb > 0);
  });

  test("files are laid out before the program starts, and a link in their place is not followed", () => {
    const at = join(root, "files");
    const victim = join(root, "victim");
    mkdirSync(at);
    writeFileSync(victim, "untouched");
    symlinkSync(victim, join(at, "link"));
    const files = { [join(at, "deep/er/a.json")]: '{"é":1}', [join(at, "link")]: "new", [join(at, "empty")]: "" };
    const { out } = ran(
      spool({ argv: ["sh", "-c", `cd ${at} && cat deep/er/a.json link empty && stat -c %a link deep`], files }),
    );
    assert.equal(out.toString(), '{"é":1}new600\n700\n');
    assert.equal(readFileSync(victim, "utf8"), "untouched");
    assert.deepEqual(readdirSync(at).sort(), ["deep", "empty", "link"]);
    const start = call("start", spool({ argv: ["true"], files: { [join(victim, "below")]: "" } }));
    assert.equal(start.status, 70);
    assert.equal(JSON.parse(start.stderr).path, join(victim, "below"));
  });

  test("output of the fastest programs is never lost", () => {
    for (let i = 0; i < 50; i++) assert.equal(ran(spool({ argv: ["echo", String(i)] })).out.toString(), `${i}\n`);
  });

  test("binary output of many pieces, and following from an offset", () => {
    const dir = bash("head -c 3000000 /dev/urandom");
    const { out } = ran(dir);
    assert.ok(out.equals(readFileSync(join(dir, "stdout"))));
    const again = pieces(call("follow", dir, 1_234_567, 0).stdout, 1_234_567);
    assert.ok(again.out.equals(out.subarray(1_234_567)));
    assert.equal(again.record.reason, "exited");
  });

  test("started twice is started once", () => {
    const dir = bash("echo x >> started; sleep 0.3");
    const pid = started(dir);
    assert.equal(started(dir), pid);
    call("follow", dir, 0, 0);
    assert.equal(started(dir), pid);
    assert.equal(JSON.parse(call("status", dir).stdout).state, "exited");
  });

  test("signals, spawn failures", () => {
    const { record } = ran(bash("kill -SEGV $$"));
    assert.equal(record.reason, "signalled");
    assert.equal(record.signal, 11);
    const missing = ran(spool({ argv: ["/no/such/program"] })).record;
    assert.equal(missing.reason, "spawn_failed");
    assert.match(missing.detail, /no\/such\/program.*No such file/);
    assert.match(ran(spool({ argv: ["true"], cwd: "/no/such/dir" })).record.detail, /no\/such\/dir/);
    assert.equal(ran(spool({ argv: ["true"], stdin: "prompt" })).record.reason, "spawn_failed");
  });

  test("the wall limit ends the whole tree, also what left the session", () => {
    const { record, out } = ran(
      bash(`echo go; setsid ${nap(321)} & (setsid ${nap(321)} &) ; trap '' TERM; ${nap(321)}; ${nap(321)}`, {
        wall_ms: 400,
        grace_ms: 300,
      }),
    );
    assert.equal(record.reason, "timed_out");
    assert.equal(record.signal, 9);
    assert.equal(out.toString(), "go\n");
    assert.ok(record.ended_ms - record.started_ms < 3000);
    assert.ok(!alive(nap(321)));
  });

  test("what a program leaves behind goes with it", () => {
    const begun = Date.now();
    const { record, out } = ran(bash(`setsid ${nap(322)} & echo done`));
    assert.equal(record.reason, "exited");
    assert.equal(out.toString(), "done\n");
    assert.ok(Date.now() - begun < 3000);
    assert.ok(!alive(nap(322)));
  });

  test("a stranger that holds a pipe of the run does not hold the run", async () => {
    const dir = bash("echo $$ > pid; until [ -e go ]; do sleep 0.02; done; echo last", { cwd: root });
    started(dir);
    await until(() => existsSync(join(root, "pid")) && readFileSync(join(root, "pid"), "utf8") !== "", "its pid");
    const pid = readFileSync(join(root, "pid"), "utf8").trim();
    const stranger = spawn("bash", ["-c", `exec 7>/proc/${pid}/fd/1; echo held; exec sleep 60`]);
    await new Promise((r) => stranger.stdout.once("data", r));
    writeFileSync(join(root, "go"), "");
    await until(() => existsSync(join(dir, "exit.json")), "the run ends");
    stranger.kill("SIGKILL");
    const { out, record } = pieces(call("follow", dir, 0, 0).stdout);
    assert.deepEqual([out.toString(), record.reason, record.exit_code], ["last\n", "exited", 0]);
  });

  test("cancel: SIGTERM first, its exit status is kept", async () => {
    const dir = bash("trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done");
    started(dir);
    await until(
      () => existsSync(join(dir, "stdout")) && readFileSync(join(dir, "stdout"), "utf8") === "up\n",
      "it is up",
    );
    const kill = call("kill", dir, "cancelled", 2000);
    assert.equal(kill.status, 0, kill.stderr);
    const { record, out } = pieces(call("follow", dir, 0, 0).stdout);
    assert.equal(record.reason, "killed");
    assert.equal(record.exit_code, 7);
    assert.equal(out.toString(), "up\nbye\n");
    assert.equal(call("kill", dir, "cancelled", 100).status, 0, "killing what is over is not an error");
  });

  test("over budget: the record says so", async () => {
    const dir = bash("echo up; while :; do sleep 0.05; done");
    started(dir);
    await until(
      () => existsSync(join(dir, "stdout")) && readFileSync(join(dir, "stdout"), "utf8") === "up\n",
      "it is up",
    );
    const kill = call("kill", dir, "over_budget", 2000);
    assert.equal(kill.status, 0, kill.stderr);
    const { record } = pieces(call("follow", dir, 0, 0).stdout);
    assert.deepEqual([record.reason, record.signal], ["over_budget", 15]);
    assert.match(record.detail, /a limit of its budget/);
    assert.equal(call("kill", dir, "overbudget", 100).status, 64);
  });

  test("the output limit", () => {
    const { record, out } = ran(bash("yes", { output_max_bytes: 100_000 }));
    assert.equal(record.reason, "output_limit");
    assert.equal(out.length, 100_000);
  });

  test("a full disk", { skip: process.getuid() !== 0 && "needs root to mount a small file system" }, () => {
    const small = join(root, "small");
    spawnSync("mkdir", [small]);
    assert.equal(spawnSync("mount", ["-t", "tmpfs", "-o", "size=256k", "tmpfs", small]).status, 0);
    try {
      writeFileSync(
        join(small, "spec.json"),
        JSON.stringify({
          argv: ["bash", "-c", "echo first; yes; true"],
          env: {},
          cwd: "/tmp",
          stdin: null,
          wall_ms: 10_000,
          grace_ms: 200,
          output_max_bytes: 1e8,
        }),
      );
      const { record, out } = ran(small);
      assert.equal(record.reason, "disk_full");
      assert.equal(out.subarray(0, 6).toString(), "first\n");
    } finally {
      spawnSync("umount", [small]);
    }
  });

  test("a supervisor that is killed leaves no program and no fabricated end", async () => {
    const dir = bash(`echo up; exec ${nap(323)}`);
    const pid = started(dir);
    await until(() => alive(nap(323)), "it runs");
    process.kill(pid, "SIGKILL");
    const { record } = pieces(call("follow", dir, 0, 0).stdout);
    assert.equal(record.reason, "runner_lost");
    assert.equal(record.exit_code, null);
    assert.equal(JSON.parse(call("status", dir).stdout).state, "lost");
    await until(() => !alive(nap(323)), "the program is gone");
    assert.equal(started(dir), pid, "a lost run is not started again");
    assert.equal(JSON.parse(call("status", dir).stdout).state, "lost");
  });

  test("following live: pieces come while the program runs, and many followers see the same", async () => {
    const dir = bash("for i in 1 2 3 4 5; do echo line $i; sleep 0.1; done");
    started(dir);
    const followers = await Promise.all(
      [0, 1, 2].map(
        () =>
          new Promise((done) => {
            const child = spawn(RUNNER, ["follow", dir, "0", "0"]);
            let text = "";
            const times = [];
            child.stdout.on("data", (data) => {
              text += data;
              times.push(Date.now());
            });
            child.on("close", () => done({ ...pieces(text), span: times.at(-1) - times[0] }));
          }),
      ),
    );
    for (const { out, record, span } of followers) {
      assert.equal(out.toString(), "line 1\nline 2\nline 3\nline 4\nline 5\n");
      assert.equal(record.reason, "exited");
      assert.ok(span > 200, "live");
    }
  });

  test("bad calls and bad specs say what is wrong and start nothing", () => {
    assert.equal(call().status, 64);
    assert.equal(call("follow", root, "-1", 0).status, 64);
    assert.equal(call("kill", root, "nicely", 0).status, 64);
    assert.equal(call("--help").status, 0);
    const cases = [
      [{ argv: [] }, "/argv"],
      [{ argv: "ls" }, "/argv"],
      [{ argv: ["ls", 1] }, "/argv"],
      [{ argv: ["ls"], env: { "A=B": "c" } }, "/env"],
      [{ argv: ["ls"], cwd: "relative" }, "/cwd"],
      [{ argv: ["ls"], files: ["a"] }, "/files"],
      [{ argv: ["ls"], files: { a: "relative" } }, "/files"],
      [{ argv: ["ls"], files: { "/tmp/../etc/a": "up" } }, "/files"],
      [{ argv: ["ls"], files: { "/tmp/a/": "no name" } }, "/files"],
      [{ argv: ["ls"], files: { "/tmp/a": 1 } }, "/files"],
      [{ argv: ["ls"], files: Object.fromEntries(Array.from({ length: 17 }, (_, i) => [`/tmp/a${i}`, ""])) }, "/files"],
      [{ argv: ["ls"], wall_ms: 0 }, "/wall_ms"],
      [{ argv: ["ls"], wall_ms: "1" }, "/wall_ms"],
      [{ argv: ["ls"], stdin: "/etc/passwd" }, "/stdin"],
      [{ argv: ["ls"], output_max_bytes: -1 }, "/output_max_bytes"],
    ];
    for (const [spec, path] of cases) {
      const dir = spool(spec);
      const start = call("start", dir);
      assert.equal(start.status, 65, JSON.stringify(spec));
      assert.equal(JSON.parse(start.stderr).path, path);
      assert.equal(existsSync(join(dir, "exit.json")), false);
    }
    const garbage = spool({ argv: ["ls"] });
    writeFileSync(join(garbage, "spec.json"), "{");
    assert.equal(call("start", garbage).status, 65);
    assert.equal(call("start", join(root, "nowhere")).status, 70);
    assert.equal(JSON.parse(call("status", join(root, "nowhere")).stdout).state, "missing");
    assert.equal(call("follow", garbage, 0, 0).status, 70);
  });
});
