/** File watches and port watches. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { NO_SESSION, openEvents, sleep, startEngine } from "./harness.mjs";

let engine;
let box;
const streams = [];
before(async () => {
  engine = await startEngine();
  box = await engine.sandbox("watch");
});
after(() => {
  for (const s of streams) s.close();
  return engine.stop();
});

const open = async (path, body) => {
  const s = await openEvents(box, path, body);
  if (s.close) streams.push(s);
  return s;
};

/** A watch of /workspace/DIR that is established. */
async function watch(path, more = {}) {
  const s = await open("/api/watch", { path, ...more });
  assert.equal(s.status, 200, JSON.stringify(s.json));
  const first = await s.next();
  assert.deepEqual([first.type, first.path], ["watching", path.startsWith("/") ? path : `/workspace/${path}`]);
  assert.match(first.watchId, /^watch-\d+$/);
  return s;
}

/** Events until one of `kind` on `path` comes, as "kind path" with a slash behind directories. */
async function until(s, want) {
  const seen = [];
  for (;;) {
    const e = await s.next(5000).catch((error) => {
      throw new Error(`${error.message}; seen: ${seen.join(", ")}; wanted ${want}`);
    });
    assert.ok(e, `the stream ended; seen: ${seen.join(", ")}`);
    assert.equal(e.type, "event", JSON.stringify(e));
    assert.ok(!Number.isNaN(Date.parse(e.timestamp)));
    const text = `${e.eventType} ${e.path}${e.isDirectory ? "/" : ""}`;
    seen.push(text);
    if (text === want) return seen;
  }
}

describe("watching files", () => {
  test("every kind of change, below and at any depth", async () => {
    await box.exec("mkdir -p /workspace/a/b/c; echo 1 > /workspace/a/old");
    const s = await watch("a");
    await box.exec("cd /workspace/a; echo x > b/c/new; chmod 600 old; mv old older; rm b/c/new; rmdir b/c; touch last");
    assert.deepEqual(await until(s, "create /workspace/a/last"), [
      "create /workspace/a/b/c/new",
      "modify /workspace/a/b/c/new",
      "attrib /workspace/a/old",
      "move_from /workspace/a/old",
      "move_to /workspace/a/older",
      "delete /workspace/a/b/c/new",
      "delete /workspace/a/b/c/",
      "create /workspace/a/last",
    ]);
    s.close();
  });
  test("new directories are watched at once: what appears in them is told exactly once", async () => {
    await box.exec("mkdir -p /workspace/fresh");
    const s = await watch("/workspace/fresh");
    const n = 300;
    await box.exec(
      `cd /workspace/fresh; for i in $(seq ${n}); do mkdir -p d$i/e/f; : > d$i/x; : > d$i/e/y; : > d$i/e/f/z; done; touch end`,
    );
    const seen = await until(s, "create /workspace/fresh/end");
    await sleep(200);
    await box.exec("touch /workspace/fresh/really");
    seen.push(...(await until(s, "create /workspace/fresh/really")));
    const created = seen.filter((e) => e.startsWith("create"));
    assert.equal(new Set(created).size, created.length, "nothing twice");
    const want = [];
    for (let i = 1; i <= n; i += 1)
      for (const p of ["/", "/x", "/e/", "/e/y", "/e/f/", "/e/f/z"]) want.push(`create /workspace/fresh/d${i}${p}`);
    for (const w of want) assert.ok(created.includes(w), w);
    s.close();
  });
  test("a directory that is moved stays watched, under its new name; one that leaves is not", async () => {
    await box.exec("mkdir -p /workspace/m/one/deep /workspace/outside");
    const s = await watch("m");
    await box.exec(
      "cd /workspace/m; mv one two; echo x > two/deep/file; mv two ../outside/; touch ../outside/two/deep/no; touch t",
    );
    assert.deepEqual(await until(s, "create /workspace/m/t"), [
      "move_from /workspace/m/one/",
      "move_to /workspace/m/two/",
      "create /workspace/m/two/deep/file",
      "modify /workspace/m/two/deep/file",
      "move_from /workspace/m/two/",
      "create /workspace/m/t",
    ]);
    await box.exec("cd /workspace; mv outside/two m/three; touch m/three/deep/yes; sleep 0.2; touch m/three/deep/more");
    const seen = await until(s, "create /workspace/m/three/deep/more");
    assert.equal(seen.filter((e) => !e.endsWith("/m/t"))[0], "move_to /workspace/m/three/");
    assert.ok(seen.includes("create /workspace/m/three/deep/yes"), seen.join());
    s.close();
  });
  test("a directory takes the name of one that has just left, and stays watched", async () => {
    await box.exec("mkdir -p /workspace/left/d /tmp/away");
    const s = await watch("left");
    await box.exec(
      `python3 -c 'import os; os.rename("/workspace/left/d", "/workspace/gone"); os.mkdir("/workspace/left/d")'`,
    );
    await until(s, "create /workspace/left/d/");
    await sleep(100);
    await box.exec("touch /workspace/gone/unseen; touch /workspace/left/d/new");
    assert.deepEqual(await until(s, "create /workspace/left/d/new"), ["create /workspace/left/d/new"]);
    s.close();
  });
  test("a watched directory that is moved within another one's watch is told as gone", async () => {
    await box.exec("mkdir -p /workspace/outer/inner/deep");
    const outer = await watch("outer");
    const deep = await watch("outer/inner/deep");
    await box.exec("mv /workspace/outer/inner /workspace/outer/other");
    await until(outer, "move_to /workspace/outer/other/");
    const e = await deep.next();
    assert.deepEqual([e.type, await deep.next()], ["stopped", null]);
    await box.exec("touch /workspace/outer/other/deep/x");
    assert.deepEqual(await until(outer, "create /workspace/outer/other/deep/x"), [
      "create /workspace/outer/other/deep/x",
    ]);
    outer.close();
  });
  test("a file that the server wrote elsewhere does not lend its name to a move", async () => {
    await box.exec("mkdir -p /workspace/here /workspace/there");
    const s = await watch("here");
    await box.call("POST", "/api/write", { path: "/workspace/there/same", content: "x" });
    await box.exec("mv /workspace/there/same /workspace/here/same");
    assert.deepEqual(await until(s, "move_to /workspace/here/same"), ["move_to /workspace/here/same"]);
    s.close();
  });
  test("include, exclude, and what is excluded by default", async () => {
    await box.exec("mkdir -p /workspace/g/src /workspace/g/node_modules/p /workspace/g/.git /workspace/g/build/x");
    const only = await watch("g", { include: ["*.ts", "src/?.md"] });
    const not = await watch("g", { exclude: ["build", "*.log"] });
    const usual = await watch("g");
    const flat = await watch("g", { recursive: false });
    await box.exec(
      "cd /workspace/g; : > a.js; : > b.ts; : > src/c.ts; : > src/d.md; : > src/ee.md; : > build/x/f; : > g.log; : > node_modules/p/h; : > .git/i; : > .DS_Store; : > end.ts",
    );
    const names = async (s) =>
      (await until(s, "create /workspace/g/end.ts")).map((e) => e.replace("create /workspace/g/", "")).join(" ");
    assert.equal(await names(only), "b.ts src/c.ts src/d.md end.ts");
    assert.equal(await names(not), "a.js b.ts src/c.ts src/d.md src/ee.md node_modules/p/h .git/i .DS_Store end.ts");
    assert.equal(await names(usual), "a.js b.ts src/c.ts src/d.md src/ee.md build/x/f g.log end.ts");
    assert.equal(await names(flat), "a.js b.ts g.log end.ts");
    for (const s of [only, not, usual, flat]) s.close();
  });
  test("a file is watched through its replacement; a watched directory's end is told", async () => {
    await box.exec("mkdir -p /workspace/f; echo 1 > /workspace/f/file");
    const s = await watch("f/file");
    await box.exec("cd /workspace/f; echo 2 > other; mv other file; echo 3 >> file");
    assert.deepEqual(await until(s, "modify /workspace/f/file"), [
      "move_to /workspace/f/file",
      "modify /workspace/f/file",
    ]);
    const dir = await watch("f");
    await box.exec("rm -r /workspace/f");
    let e;
    do e = await dir.next();
    while (e?.type === "event");
    assert.equal(e.type, "stopped");
    assert.match(e.reason, /deleted/);
    assert.equal(await dir.next(), null, "and the stream ends");
  });
  test("paths that must not be watched, and requests that are wrong", async () => {
    await box.exec("mkdir -p /workspace/w; ln -sfn /etc /workspace/w/out; ln -sfn / /workspace/w/root");
    const cases = [
      [{ path: "/etc" }, 403, "PERMISSION_DENIED"],
      [{ path: "../etc" }, 403, "PERMISSION_DENIED"],
      [{ path: "/workspace/../tmp" }, 403, "PERMISSION_DENIED"],
      [{ path: "/workspacex" }, 403, "PERMISSION_DENIED"],
      [{ path: "w/out" }, 403, "PERMISSION_DENIED"],
      [{ path: "w/root/workspace/../etc" }, 403, "PERMISSION_DENIED"],
      [{ path: "nothing" }, 404, "FILE_NOT_FOUND"],
      [{ path: "" }, 400, "VALIDATION_FAILED"],
      [{ path: 7 }, 400, "VALIDATION_FAILED"],
      [{}, 400, "VALIDATION_FAILED"],
      [{ path: "w", include: ["*"], exclude: ["x"] }, 400, "VALIDATION_FAILED"],
      [{ path: "w", include: "x" }, 400, "VALIDATION_FAILED"],
      [{ path: "w", include: [""] }, 400, "VALIDATION_FAILED"],
      [{ path: "w", include: [5] }, 400, "VALIDATION_FAILED"],
      [{ path: "w", exclude: ["[ab]"] }, 400, "VALIDATION_FAILED"],
      [{ path: "w", exclude: ["{a,b}"] }, 400, "VALIDATION_FAILED"],
      [{ path: "w", exclude: Array(65).fill("x") }, 400, "VALIDATION_FAILED"],
      [{ path: "w", recursive: "yes" }, 400, "VALIDATION_FAILED"],
      [{ path: "w", since: "yesterday" }, 400, "VALIDATION_FAILED", "/api/watch/check"],
    ];
    for (const [body, status, code, path] of cases) {
      const s = await open(path ?? "/api/watch", body);
      assert.deepEqual([s.status, s.json?.code], [status, code], JSON.stringify(body));
    }
    const fine = await watch("w/root/workspace/w");
    fine.close();
    const default_ = await watch("/workspace");
    default_.close();
  });
  test("a client that goes away ends its watch; the number of watches is bounded", async () => {
    await box.exec("mkdir -p /workspace/many");
    const all = [];
    for (;;) {
      const s = await open("/api/watch", { path: "many" });
      if (s.status !== 200) {
        assert.match(s.json.message, /watches already/);
        break;
      }
      all.push(s);
    }
    assert.equal(all.length, 128);
    for (const s of all) s.close();
    await sleep(200);
    const again = await watch("many");
    again.close();
    await sleep(100);
    const fds = await box.exec("cat /proc/1/fdinfo/* 2>/dev/null | grep -c '^inotify wd'; true");
    if (fds.stdout.trim() !== "0") assert.fail(`inotify watches are left: ${fds.stdout}`);
  });
  test("a slow client misses events only knowingly, and costs bounded memory", async () => {
    await box.exec("mkdir -p /workspace/flood");
    const s = await watch("flood");
    s.pause();
    await box.exec("cd /workspace/flood; n=$(printf %0200d 0); for i in $(seq 45000); do : > $n$i; done");
    const rss = await box.exec("grep VmRSS /proc/1/status");
    assert.ok(Number(rss.stdout.match(/\d+/)[0]) < 24_576, rss.stdout);
    s.resume();
    let lost = 0;
    for (;;) {
      const e = await s.next(1000).catch(() => null);
      if (e === null) break;
      if (e.type === "error") lost += 1;
    }
    await box.exec("touch /workspace/flood/after");
    await until(s, "create /workspace/flood/after");
    assert.ok(lost >= 1 && lost < 10, `${lost} notices`);
    s.close();
  });
});

describe("checking for changes", () => {
  const check = async (body) => (await box.call("POST", "/api/watch/check", body)).json;
  test("unchanged, changed, and a version of another time", async () => {
    await box.exec("mkdir -p /workspace/v/sub");
    const first = await check({ path: "v" });
    assert.equal(first.status, "unchanged");
    assert.match(first.version, /^watch-\d+-\d+:0$/);
    assert.equal((await check({ path: "v", since: first.version })).status, "unchanged");
    await box.exec("touch /workspace/v/sub/x");
    await sleep(50);
    const second = await check({ path: "v", since: first.version });
    assert.equal(second.status, "changed");
    assert.notEqual(second.version, first.version);
    assert.equal((await check({ path: "v", since: second.version })).status, "unchanged");
    assert.equal((await check({ path: "v", since: first.version })).status, "changed");
    assert.equal((await check({ path: "v", include: ["*.md"], since: first.version })).status, "resync");
    const old = await check({ path: "v", since: "watch-1-12345:0" });
    assert.deepEqual([old.status, old.reason], ["resync", "restarted"]);
    const future = await check({ path: "v", since: second.version.replace(/\d+$/, "99") });
    assert.deepEqual([future.status, future.reason], ["resync", "expired"]);
    await box.exec("rm -r /workspace/v; mkdir /workspace/v");
    await sleep(50);
    const gone = await check({ path: "v", since: second.version });
    assert.deepEqual([gone.status, gone.reason], ["resync", "expired"]);
  });
  test("a state that is kept can be asked when there are as many watches as there may be", async () => {
    await box.exec("mkdir -p /workspace/kept");
    const { version } = await check({ path: "kept" });
    const all = [];
    for (let s; s === undefined || s.status === 200; ) {
      s = await open("/api/watch", { path: "kept" });
      if (s.status === 200) all.push(s);
    }
    assert.equal((await check({ path: "kept", since: version })).status, "unchanged");
    assert.match((await check({ path: "kept", include: ["*.md"] })).message, /watches already/);
    for (const s of all) s.close();
    await box.exec("rm -r /workspace/kept");
  });
});

describe("waiting for a port", () => {
  const events = async (body) => {
    const s = await open("/api/port-watch", body);
    assert.equal(s.status, 200, JSON.stringify(s.json));
    assert.deepEqual(await s.next(), { type: "watching", port: body.port });
    return s;
  };
  const start = (processId, command) =>
    box.call("POST", "/api/process/start", { command, processId, sessionId: NO_SESSION });
  const server = (port, status, delay = 0, host = "127.0.0.1") =>
    `sleep ${delay}; python3 -c "
import http.server,socket,sys
class S(http.server.HTTPServer): address_family = socket.AF_INET6 if ':' in '${host}' else socket.AF_INET
class H(http.server.BaseHTTPRequestHandler):
  n = 0
  def do_GET(s):
    H.n += 1
    s.send_response(${status}); s.end_headers()
S(('${host}', ${port}), H).serve_forever()"`;
  test("tcp: ready when a connection is accepted, not before", async () => {
    await start("tcp", "sleep 0.4; exec python3 -m http.server 8101 --bind 127.0.0.1");
    const s = await events({ port: 8101, mode: "tcp", processId: "tcp" });
    const begun = Date.now();
    assert.deepEqual(await s.next(), { type: "ready", port: 8101 });
    assert.ok(Date.now() - begun > 200);
    assert.equal(await s.next(), null);
    assert.equal((await box.exec("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8101/")).stdout, "200");
    await box.call("DELETE", "/api/process/tcp");
  });
  test("http: the status has to be in range; ::1 counts", async () => {
    await start("h6", server(8102, "404 if H.n < 3 else 204", 0, "::1"));
    const s = await events({ port: 8102, mode: "http", path: "/up?x=1", interval: 100, processId: "h6" });
    assert.deepEqual(await s.next(), { type: "ready", port: 8102, statusCode: 204 });
    const not = await events({ port: 8102, mode: "http", statusMin: 500, statusMax: 599, interval: 100 });
    await assert.rejects(not.next(500), /no event/);
    await box.call("DELETE", "/api/process/h6");
    not.close();
  });
  test("its process's end ends the watch", async () => {
    await start("dies", "sleep 0.3; exit 7");
    const s = await events({ port: 8103, mode: "http", processId: "dies" });
    assert.deepEqual(await s.next(), { type: "process_exited", port: 8103, exitCode: 7 });
    assert.equal(await s.next(), null);
    const late = await events({ port: 8103, mode: "tcp", processId: "dies" });
    assert.equal((await late.next()).exitCode, 7);
    const none = await events({ port: 8103, mode: "tcp", processId: "nobody" });
    assert.deepEqual(await none.next(), { type: "error", port: 8103, error: "Process not found" });
    assert.equal(await none.next(), null);
  });
  test("a server that accepts and says nothing, or nonsense, is not ready over http", async () => {
    await start(
      "mute",
      `python3 -c "
import socket,time
s = socket.create_server(('127.0.0.1', 8104))
while True:
  c, _ = s.accept()
  c.sendall(b'SSH-2.0-x\\r\\n')
  c.close()"`,
    );
    const s = await events({ port: 8104, mode: "http", interval: 100, processId: "mute" });
    await assert.rejects(s.next(700), /no event/);
    await box.call("DELETE", "/api/process/mute");
    assert.equal((await s.next()).type, "process_exited");
  });
  test("an ephemeral port on which nobody listens is never ready", async () => {
    const s = await events({ port: 40_404, mode: "tcp", interval: 100 });
    await assert.rejects(s.next(1000), /no event/);
    s.close();
  });
  test("requests that are wrong", async () => {
    for (const body of [
      {},
      { port: 0 },
      { port: 65_536 },
      { port: 80.5 },
      { port: "80" },
      { port: 80, mode: "udp" },
      { port: 80, path: "x" },
      { port: 80, path: "/ HTTP/1.1\r\nX: y" },
      { port: 80, statusMin: 5 },
      { port: 80, interval: "x" },
    ]) {
      const s = await open("/api/port-watch", body);
      assert.deepEqual([s.status, s.json?.code], [400, "VALIDATION_FAILED"], JSON.stringify(body));
    }
  });
});
