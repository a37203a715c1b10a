/** What a program in a sandbox must not be able to do, each attempted; and what stays when the engine is killed. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { scratch } from "../scratch.mjs";
import { hostProcesses, isRoot, nap, sleep, startEngine } from "./harness.mjs";

for (const user of isRoot ? ["root", "nobody"] : ["self"]) {
  describe(`isolation as ${user}`, () => suite(user));
}

function suite(user) {
  let engine;
  let box;
  let other;
  let secretDir;
  before(async () => {
    secretDir = scratch("host-secret");
    writeFileSync(join(secretDir, "file"), "HOST-SECRET");
    engine = await startEngine({ user, binds: ["/usr/share/doc:/opt/doc"], spares: 2 });
    box = await engine.sandbox("iso");
    other = await engine.sandbox("other");
  });
  after(async () => {
    await engine.stop();
    rmSync(secretDir, { recursive: true, force: true });
  });
  const fails = async (command) => {
    const r = await box.exec(command, { timeoutMs: 10_000 });
    assert.notEqual(r.exitCode, 0, `${command}: ${r.stdout}`);
    assert.notEqual(r.exitCode, 124, `${command} hangs`);
    return r;
  };

  test("host files, other sandboxes' files, the engine's token and sockets are not there", async () => {
    for (const path of [
      secretDir,
      engine.home,
      "/work",
      "/boot/.",
      "/root/.ssh",
      "/etc/shadow",
      "/home/cloudsdk",
      "/lost+found",
    ])
      await fails(`ls ${path}`);
    await other.exec("echo theirs > /workspace/theirs; echo theirs > /tmp/theirs");
    assert.equal((await box.exec("ls /workspace /tmp | grep theirs")).stdout, "");
    const grep = await box.exec(
      `find / -xdev \\( -name guest.sock -o -name token -newer /etc/hostname \\) 2>/dev/null`,
    );
    assert.equal(grep.stdout, "");
    const find = await box.exec(
      "grep -ls HOST-SECRET /tmp/* /var/tmp/* /proc/*/environ /proc/*/root/tmp/*/file 2>/dev/null",
    );
    assert.equal(find.stdout, "");
    await fails("cat /proc/1/environ");
    await fails("ls /proc/1/fd/");
    await fails("ls /proc/1/root/");
    assert.equal(
      (await box.exec("ls -d /proc/self/fd/* | wc -l; ls -l /proc/self/fd")).stdout.includes("socket:"),
      false,
    );
  });
  test("neither host processes nor other sandboxes' are seen or signalled", async () => {
    await other.call("POST", "/api/process/start", { command: "sleep 4717", sessionId: "__DISABLE_SESSION__" });
    const ps = await box.exec("ps axo args");
    assert.ok(!ps.stdout.includes("4717") && !ps.stdout.includes("caisson-engine"));
    assert.ok(ps.stdout.trim().split("\n").length < 12, ps.stdout);
    await fails(`kill -0 ${process.pid}`);
    await fails("kill -9 1; sleep 0.2; kill -0 1 && false");
    assert.equal((await box.exec("echo alive")).stdout, "alive\n");
    await fails(`python3 -c 'import ctypes;import sys;sys.exit(0 if ctypes.CDLL(None).ptrace(16,1,0,0)==0 else 1)'`);
  });
  test("host loopback, other addresses and other sandboxes are out of reach", async () => {
    const server = http.createServer((_req, res) => res.end("HOST"));
    await new Promise((r) => server.listen(0, "127.0.0.1", r));
    const port = server.address().port;
    await fails(`curl -s -m 3 http://127.0.0.1:${port}/`);
    await fails(`curl -s -m 3 http://127.0.0.1:${engine.port}/v1/health`);
    for (const address of ["1.1.1.1", "169.254.169.254", "10.0.0.1", "192.168.0.1", "[2606:4700:4700::1111]"])
      await fails(`curl -sf -m 3 http://${address}/`);
    await other.call("POST", "/api/process/start", {
      command: "python3 -m http.server 8300 --bind 127.0.0.1",
      sessionId: "__DISABLE_SESSION__",
    });
    const up = await other.exec("until curl -s -m 1 -o /dev/null http://127.0.0.1:8300/; do sleep 0.05; done", {
      timeoutMs: 10_000,
    });
    assert.equal(up.exitCode, 0, "the other one reaches its own server");
    await fails("curl -s -m 3 http://127.0.0.1:8300/");
    await fails("python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)'");
    await fails("python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)'");
    server.close();
  });
  test("no privilege: ids, capabilities, setuid, namespaces, mounts", async () => {
    const status = (await box.exec("cat /proc/self/status")).stdout;
    assert.match(status, /^Uid:\s+1000\s/m);
    for (const set of ["CapInh", "CapPrm", "CapEff", "CapAmb"])
      assert.match(status, new RegExp(`^${set}:\\s+0+$`, "m"));
    assert.match(status, /^NoNewPrivs:\s+1$/m);
    assert.match(status, /^Seccomp:\s+2$/m);
    await fails("unshare -U true");
    await fails("unshare -r true");
    await fails("mount -t tmpfs none /mnt");
    await fails("umount /etc/hosts");
    await fails("chroot / true");
    await fails("mknod /tmp/sda b 8 0");
    await fails("su -c true");
    await fails("cp /bin/bash /tmp/sh; chmod u+s /tmp/sh; chown 0 /tmp/sh");
    await fails("echo x >> /etc/hosts");
    await fails("touch /opt/doc/x");
    await fails("touch /etc/ssl/x");
    await fails("echo 1 > /proc/sys/kernel/core_pattern");
    await fails("echo b > /proc/sysrq-trigger");
  });
  test("mounts below a read-only bind are read-only too", { skip: !isRoot && "needs root to mount" }, async (t) => {
    const top = scratch("bind");
    spawnSync("mkdir", ["-m", "777", join(top, "below")]);
    assert.equal(spawnSync("mount", ["-t", "tmpfs", "-o", "mode=777", "none", join(top, "below")]).status, 0);
    spawnSync("chmod", ["755", top]);
    t.after(() => {
      spawnSync("umount", [join(top, "below")]);
      rmSync(top, { recursive: true });
    });
    const bound = await startEngine({ user, binds: [`${top}:/opt/bound`] });
    t.after(() => bound.stop());
    const b = await bound.sandbox("bound");
    const r = await b.exec("touch /opt/bound/below/x || grep -c ' /opt/bound/below ' /proc/self/mounts");
    assert.match(r.stderr, /Read-only file system/);
    assert.equal(r.stdout, "1\n");
  });
  test("an entrypoint inherits no descriptor of the host", async () => {
    const b = await engine.sandbox("entryfds", {
      entrypoint: ["/bin/sh", "-c", "ls /proc/self/fd > /tmp/.fds; mv /tmp/.fds /tmp/fds; sleep 60"],
    });
    const r = await b.exec("until cat /tmp/fds; do sleep 0.05; done 2>/dev/null", { timeoutMs: 10_000 });
    assert.equal(r.stdout, "0\n1\n2\n3\n");
    await engine.api("DELETE", "/v1/sandboxes/entryfds");
  });
  test("directories nested deeper than there are descriptors are removed", async (t) => {
    const few = await startEngine({ user, wrap: ["prlimit", "--nofile=300:300"], keep: true });
    t.after(() => rmSync(few.home, { recursive: true, force: true }));
    const b = await few.sandbox("deep");
    const nest = "import os\nos.chdir('/workspace')\nfor i in range(2000): os.mkdir('.deep-0'); os.chdir('.deep-0')";
    assert.equal((await b.exec(`python3 -c "${nest}"`)).exitCode, 0);
    assert.equal((await few.api("DELETE", "/v1/sandboxes/deep")).status, 200);
    assert.deepEqual(readdirSync(join(few.home, "state/trash")), []);
    await few.stop();
  });
  test("one sandbox's outbound connections do not take the engine", async () => {
    const descriptors = () => readdirSync(`/proc/${engine.child.pid}/fd`).length;
    const hoard = `
import socket
kept, sent = [], 0
for i in range(600):
    s = socket.socket(); s.setblocking(False); kept.append(s)
    try: s.connect(("1.1.1.1", 80))
    except BlockingIOError: pass
print(len(kept), flush=True)
input()
for s in kept: s.close()
`;
    await box.call("POST", "/api/write", { path: "/tmp/hoard.py", content: hoard });
    await box.exec(
      "mkfifo /tmp/go; (python3 /tmp/hoard.py < /tmp/go > /tmp/hoard &) 2>/dev/null; exec 8>/tmp/go; (sleep 3 >&8 &)",
    );
    await box.exec("until grep -q 600 /tmp/hoard; do sleep 0.05; done", { timeoutMs: 10_000 });
    await sleep(300);
    if (isRoot) assert.ok(descriptors() < 350, `${descriptors()} descriptors`);
    const refused = "curl -s -m 10 -o /dev/null -w '%{http_code}' http://1.1.1.1/";
    assert.equal((await other.exec(refused)).stdout, "403");
    assert.equal((await engine.api("GET", "/v1/health")).status, 200);
    for (let i = 0; i < 100 && (await box.exec(refused)).stdout !== "403"; i += 1) await sleep(100);
    assert.equal((await box.exec(refused)).stdout, "403", "its own come through again");
  });
  test("what people need works: git, node, python threads, /dev, writable places", async () => {
    for (const command of [
      "cd /workspace && git init -q r && cd r && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x && git log --oneline",
      'node -e \'new (require("worker_threads").Worker)("1",{eval:true}); require("fs").watch("/workspace").close()\'',
      "python3 -c 'import threading; t=threading.Thread(target=print); t.start(); t.join()'",
      "echo x > /dev/null; head -c 1 /dev/urandom | wc -c; : > /dev/shm/x; test -c /dev/ptmx",
      "for d in /workspace /home/user /tmp /var/tmp /var/lib/caisson/runs /var/backups /run/user/1000; do touch $d/.w || exit 1; done",
      "ls /opt/doc | head -1",
      "python3 -c 'import socket; s=socket.create_server((\"127.0.0.1\",81))'",
      "bash -c 'exec 5<>/dev/ptmx'",
    ]) {
      const r = await box.exec(command, { timeoutMs: 20_000 });
      assert.equal(r.exitCode, 0, `${command}: ${r.stderr}`);
    }
  });
  test("the environment does not stand in the host's process list", async () => {
    await engine.sandbox("envy", { env: { HIDDEN: "placeholder-4718" } });
    assert.deepEqual(hostProcesses("placeholder-4718"), []);
    await engine.api("DELETE", "/v1/sandboxes/envy");
  });
  test("a start that fails says why and leaves nothing", async () => {
    const r = await engine.api("PUT", "/v1/sandboxes/broken", { entrypoint: ["/nonexistent"] });
    // The server is up before its entrypoint fails.
    assert.equal(r.status, 200);
    const end = await engine.api("GET", `/v1/sandboxes/broken/wait?generation=${r.json.generation}`);
    assert.deepEqual([end.json.exit_code, end.json.reason], [127, "exited"]);
  });
  test("kill -9 of bwrap from outside: ended, reported, nothing left", async () => {
    const b = await engine.sandbox("outside");
    await b.call("POST", "/api/process/start", { command: `setsid ${nap(4719)}`, sessionId: "__DISABLE_SESSION__" });
    for (let i = 0; i < 200 && hostProcesses(nap(4719)).length === 0; i += 1) await sleep(50);
    assert.notDeepEqual(hostProcesses(nap(4719)), [], "there is something to be left");
    let mine = 0;
    for (let i = 0; i < 100 && mine === 0; i += 1) {
      await sleep(50);
      mine = bwrapOf(engine.child.pid);
    }
    assert.ok(mine, "found its bwrap");
    process.kill(mine, "SIGKILL");
    const end = await engine.api("GET", `/v1/sandboxes/outside/wait?generation=${b.generation}`);
    assert.deepEqual([end.json.signal, end.json.reason], [9, "signalled"]);
    for (let i = 0; i < 40 && hostProcesses(nap(4719)).length; i += 1) await sleep(50);
    assert.deepEqual(hostProcesses(nap(4719)), []);
    await engine.api("DELETE", "/v1/sandboxes/outside");
  });
}

describe("where namespaces are limited", () => {
  test("root of a user namespace with one id works like an ordinary user", async (t) => {
    const engine = await startEngine({ user: isRoot ? "nobody" : "self", wrap: ["unshare", "-Ur"] });
    t.after(() => engine.stop());
    const box = await engine.sandbox("nested");
    assert.match((await box.exec("id")).stdout, /^uid=1000\(user\)/);
  });
  // Where the machine itself refuses (scripts/cgroup2-vm.sh forbidden), nothing needs to be put in the way.
  const forbidden = !isRoot && spawnSync("unshare", ["-Ur", "true"]).status !== 0;
  const inside = (first) => (forbidden ? [] : ["unshare", "-Urm", "sh", "-c", `${first}; exec "$0" "$@"`]);
  for (const [what, wrap] of [
    ["refused namespaces", inside("echo 0 > /proc/sys/user/max_user_namespaces")],
    // As AppArmor does it: they can be made, and there is no right in them.
    ["namespaces without rights", inside("mount --bind /proc /proc; mount -o remount,bind,ro /proc")],
  ]) {
    test(`${what}: the message names what to enable`, async (t) => {
      const engine = await startEngine({ user: isRoot ? "nobody" : "self", wrap });
      t.after(() => engine.stop());
      const r = await engine.api("PUT", "/v1/sandboxes/none", {});
      assert.deepEqual([r.status, r.json.error.code], [500, "START_FAILED"]);
      assert.match(r.json.error.message, /kernel.unprivileged_userns_clone.*user.max_user_namespaces.*chroot/s);
      assert.equal((await engine.api("GET", "/v1/sandboxes/none/wait")).json.reason, "start_failed");
      assert.deepEqual(readdirSync(join(engine.home, "state/sandboxes")), []);
    });
  }
});

/** The bwrap under this engine whose tree holds the test's `sleep 4719`; others on the machine are none of our business. */
function bwrapOf(enginePid) {
  const list = spawnSync("ps", ["axo", "pid=,ppid=,comm=,args="], { encoding: "utf8" }).stdout.trim().split("\n");
  const rows = list
    .map((line) => line.trim().split(/\s+/))
    .map(([pid, ppid, comm, ...args]) => ({ pid, ppid, comm, args: args.join(" ") }));
  const treeOf = (root) => {
    const tree = new Set([root]);
    for (let grown = true; grown; ) {
      grown = false;
      for (const { pid, ppid } of rows) if (tree.has(ppid) && !tree.has(pid)) grown = tree.add(pid) !== undefined;
    }
    return rows.filter(({ pid }) => tree.has(pid));
  };
  const holds = (root) => treeOf(root).some(({ args }) => args === nap(4719));
  const found = treeOf(String(enginePid)).find(({ pid, comm }) => comm === "bwrap" && holds(pid));
  return found === undefined ? 0 : Number(found.pid);
}
