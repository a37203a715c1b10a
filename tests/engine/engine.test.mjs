/** The engine and the control server together: life of a sandbox, commands, files, ports. */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { existsSync, readdirSync } from "node:fs";
import http from "node:http";
import net from "node:net";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { exchange, isRoot, NO_SESSION, parseEvents, sleep, startEngine } from "./harness.mjs";

for (const user of isRoot ? ["root", "nobody"] : ["self"]) {
  describe(`as ${user}`, () => suite(user));
}

function suite(user) {
  let engine;
  let box;
  before(async () => {
    engine = await startEngine({ user });
    box = await engine.sandbox("main", { env: { GREETING: "hello" } });
  });
  after(() => engine.stop());

  describe("API", () => {
    test("health, and a token is needed", async () => {
      const ok = await engine.api("GET", "/v1/health");
      assert.equal(ok.status, 200);
      assert.equal(ok.json.ok, true);
      for (const authorization of ["", "Bearer x", `Bearer ${engine.token}x`, `Bearer ${engine.token.slice(1)}`]) {
        assert.equal((await engine.api("GET", "/v1/health", undefined, { authorization })).status, 401);
      }
    });
    test("bad calls are named", async () => {
      const cases = [
        ["GET", "/v1/nope", undefined, 404, "NOT_FOUND"],
        ["POST", "/v1/health", {}, 405, "METHOD_NOT_ALLOWED"],
        ["PUT", "/v1/sandboxes/bad", "{", 400, "BAD_JSON"],
        ["PUT", "/v1/sandboxes/bad", "[]", 400, "BAD_JSON"],
        ["PUT", "/v1/sandboxes/Bad", {}, 400, "BAD_NAME"],
        ["PUT", "/v1/sandboxes/..", {}, 400, "BAD_NAME"],
        ["PUT", "/v1/sandboxes/%2e%2e", {}, 400, "BAD_NAME"],
        ["PUT", `/v1/sandboxes/${"a".repeat(65)}`, {}, 400, "BAD_NAME"],
        ["PUT", "/v1/sandboxes/bad", { env: { A: 1 } }, 400, "BAD_REQUEST"],
        ["PUT", "/v1/sandboxes/bad", { entrypoint: "sh" }, 400, "BAD_REQUEST"],
        ["PUT", "/v1/sandboxes/bad", { egress: { url: "http://10.0.0.1/" } }, 400, "BAD_REQUEST"],
        ["PUT", "/v1/sandboxes/bad", { egress: { url: "http://127.evil.example/" } }, 400, "BAD_REQUEST"],
        ["PUT", "/v1/sandboxes/bad", { egress: { url: "http://localhost.evil.example/" } }, 400, "BAD_REQUEST"],
        ["PUT", "/v1/sandboxes/bad", { egress: { hosts: ["a b"] } }, 400, "BAD_REQUEST"],
        ["PUT", "/v1/sandboxes/bad", { egress: { https_hosts: ["a:0"] } }, 400, "BAD_REQUEST"],
        ["PUT", "/v1/sandboxes/bad", { egress: { https_hosts: "*" } }, 400, "BAD_REQUEST"],
        ["PUT", "/v1/sandboxes/bad", { egress: { allow_addresses: ["localhost"] } }, 400, "BAD_REQUEST"],
        ["PUT", "/v1/sandboxes/bad", { egress: { allow_addresses: ["10.0.0.1/8"] } }, 400, "BAD_REQUEST"],
        ["GET", "/v1/sandboxes/missing", undefined, 404, "NOT_FOUND"],
        ["GET", "/v1/sandboxes/main/ports/0", undefined, 400, "BAD_PORT"],
        ["GET", "/v1/sandboxes/main/ports/65536", undefined, 400, "BAD_PORT"],
        ["POST", "/v1/sandboxes/main/signal", { signal: 0 }, 400, "BAD_REQUEST"],
      ];
      for (const [method, path, body, status, code] of cases) {
        const res = await engine.api(method, path, body);
        assert.deepEqual([res.status, res.json?.error?.code], [status, code], `${method} ${path}`);
      }
      assert.equal((await engine.api("GET", "/v1/sandboxes/bad")).status, 404, "nothing was started");
    });
    test("a running sandbox is adopted", async () => {
      const again = await engine.api("PUT", "/v1/sandboxes/main", {});
      assert.deepEqual(again.json, { name: "main", generation: box.generation, running: true });
    });
    test("several wait for the end; delete removes everything", async () => {
      const b = await engine.sandbox("gone");
      const waits = [1, 2, 3].map(() => engine.api("GET", `/v1/sandboxes/gone/wait?generation=${b.generation}`));
      await sleep(50);
      assert.equal((await engine.api("DELETE", "/v1/sandboxes/gone")).status, 200);
      for (const w of await Promise.all(waits)) assert.equal(w.json.reason, "destroyed");
      assert.equal((await engine.api("GET", "/v1/sandboxes/gone")).status, 404);
      if (isRoot) assert.deepEqual(readdirSync(join(engine.home, "state/sandboxes")), ["main"]);
      assert.equal((await engine.api("DELETE", "/v1/sandboxes/gone")).status, 200);
    });
    test("SIGTERM ends it with code 0, and a new generation has a fresh disk", async () => {
      const b = await engine.sandbox("again");
      await b.exec("echo x > /workspace/left");
      await engine.api("POST", "/v1/sandboxes/again/signal", { signal: 15 });
      const end = await engine.api("GET", `/v1/sandboxes/again/wait?generation=${b.generation}`);
      assert.deepEqual(end.json, { exit_code: 0, signal: null, reason: "exited" });
      const c = await engine.sandbox("again");
      assert.ok(c.generation > b.generation);
      assert.equal((await c.exec("ls /workspace")).stdout, "");
      const old = await engine.api("GET", `/v1/sandboxes/again/wait?generation=${b.generation}`);
      assert.equal(old.status, 200);
      await engine.api("DELETE", "/v1/sandboxes/again");
    });
    test("SIGKILL is reported as a signal", async () => {
      const b = await engine.sandbox("killed");
      await engine.api("POST", "/v1/sandboxes/killed/signal", { signal: 9 });
      const end = await engine.api("GET", `/v1/sandboxes/killed/wait?generation=${b.generation}`);
      assert.deepEqual(end.json, { exit_code: null, signal: 9, reason: "signalled" });
      await engine.api("DELETE", "/v1/sandboxes/killed");
    });
    test("an entrypoint that fails ends the sandbox with its code", async () => {
      const b = await engine.sandbox("entry", { entrypoint: ["/bin/sh", "-c", "sleep 0.2; exit 7"] });
      const end = await engine.api("GET", `/v1/sandboxes/entry/wait?generation=${b.generation}`);
      assert.deepEqual(end.json, { exit_code: 7, signal: null, reason: "exited" });
      await engine.api("DELETE", "/v1/sandboxes/entry");
    });
    test("two engines do not share a state directory", async () => {
      await assert.rejects(startEngine({ user, dir: engine.home, keep: true }), /in use by another engine/);
    });
  });

  describe("commands", () => {
    test("output verbatim, streams apart, status true", async () => {
      const r = await box.exec("printf 'hi\\n\\n'; echo err >&2; exit 3");
      assert.equal(r.status, 200);
      assert.deepEqual([r.success, r.exitCode, r.stdout, r.stderr], [false, 3, "hi\n\n", "err\n"]);
      assert.equal((await box.exec("nosuchcommand")).exitCode, 127);
      assert.equal((await box.exec("kill -9 $$")).exitCode, 137);
      assert.equal((await box.exec("cat")).stdout, "", "stdin is /dev/null");
    });
    test("environment and directory", async () => {
      const r = await box.exec("echo $GREETING $A $HOME $PWD $USER $LANG; echo $PATH", {
        env: { A: "a'b c" },
        cwd: "/etc",
      });
      assert.equal(
        r.stdout,
        "hello a'b c /home/user /etc user C.UTF-8\n" +
          "/opt/caisson/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
      );
      const bad = await box.call("POST", "/api/execute", { command: "true", sessionId: NO_SESSION, cwd: "/nope" });
      assert.deepEqual([bad.status, bad.json.code, bad.json.httpStatus], [500, "COMMAND_EXECUTION_ERROR", 500]);
      const env = await box.call("POST", "/api/execute", {
        command: "true",
        sessionId: NO_SESSION,
        env: { "A-B": "" },
      });
      assert.equal(env.json.code, "VALIDATION_FAILED");
    });
    test("bytes that are not UTF-8 become U+FFFD; a character is never split", async () => {
      const r = await box.exec("printf 'a\\xffb\\xc3'; printf '\\xa9'; printf '\\x00'");
      assert.equal(r.stdout, "a\ufffdbé\0");
      const events = await box.events("POST", "/api/execute/stream", {
        command:
          "for i in 1 2 3 4 5; do printf '\\xf0\\x9f'; sleep 0.02; printf '\\x98\\x80'; sleep 0.02; done; printf '\\xe2\\x82'",
        sessionId: NO_SESSION,
      });
      const text = events.map((e) => (e.type === "stdout" ? e.data : "")).join("");
      assert.equal(text, `${"😀".repeat(5)}\ufffd\ufffd`);
    });
    test("a time-out ends the whole tree, also what left its session", async () => {
      const at = Date.now();
      const r = await box.exec("(setsid sleep 4711 &); trap '' TERM; sleep 4712", { timeoutMs: 300 });
      assert.deepEqual([r.exitCode, r.stderr], [124, "Command timed out after 300ms"]);
      assert.ok(Date.now() - at < 2500);
      assert.equal((await box.exec("pgrep -fx 'sleep 471[12]'")).stdout, "");
    });
    test("a background child neither holds the answer nor dies of it", async () => {
      const at = Date.now();
      const r = await box.exec("(for i in 1 2 3 4 5 6; do echo tick; sleep 0.2; done; touch /tmp/bg-done) & echo now");
      assert.ok(r.stdout.includes("now") && Date.now() - at < 1000);
      await sleep(1600);
      assert.equal((await box.exec("test -e /tmp/bg-done")).exitCode, 0);
    });
    test("output over the limit is an error, not a crash", async () => {
      const r = await box.exec("head -c 70000000 /dev/zero");
      assert.deepEqual([r.status, r.code], [500, "COMMAND_EXECUTION_ERROR"]);
      assert.match(r.message, /larger than/);
    });
    test("the fastest commands, 200 times: nothing lost, always complete", async () => {
      for (let i = 0; i < 200; i += 1) {
        const events = await box.events("POST", "/api/execute/stream", {
          command: `echo ${i}; echo e${i} >&2; exit ${i % 100}`,
          sessionId: i % 2 ? NO_SESSION : "fast",
        });
        const text = (type) => events.map((e) => (e.type === type ? e.data : "")).join("");
        assert.equal(events[0].type, "start");
        assert.deepEqual([text("stdout"), text("stderr")], [`${i}\n`, `e${i}\n`]);
        assert.deepEqual([events.at(-1).type, events.at(-1).exitCode], ["complete", i % 100]);
      }
    });
    test("a large stream arrives byte for byte", async () => {
      const command = "yes 'line of text é' | head -c 20000000";
      const events = await box.events("POST", "/api/execute/stream", { command, sessionId: NO_SESSION });
      const hash = createHash("sha256");
      for (const e of events) if (e.type === "stdout") hash.update(e.data);
      const unit = Buffer.from("line of text é\n");
      const want = Buffer.alloc(20_000_000);
      for (let i = 0; i < want.length; i += unit.length) unit.copy(want, i);
      assert.equal(hash.digest("hex"), createHash("sha256").update(want.toString()).digest("hex"));
      assert.equal(events.at(-1).exitCode, 0);
    });
    test("an answer of many sizes arrives to its last byte on a connection that stays open", async () => {
      const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
      for (let size = 900_000; size < 1_300_000; size += 10_007) {
        const got = await new Promise((done, fail) => {
          const options = {
            host: "127.0.0.1",
            port: box.port,
            agent,
            method: "POST",
            path: "/api/execute",
            timeout: 5000,
          };
          const req = http.request({ ...options, headers: box.headers }, (res) => {
            let text = "";
            res.on("data", (d) => {
              text += d;
            });
            res.on("end", () => done(JSON.parse(text).stdout.length));
          });
          req.on("timeout", () => req.destroy(new Error(`${size}: the end is missing`)));
          req.on("error", fail);
          req.end(JSON.stringify({ command: `head -c ${size} /dev/zero | tr '\\0' x`, sessionId: NO_SESSION }));
        });
        assert.equal(got, size);
      }
      agent.destroy();
    });
    test("a slow reader blocks nobody, a vanished one leaves the process running", async () => {
      const body = JSON.stringify({ command: "yes | head -c 200000000; touch /tmp/flood-done", sessionId: NO_SESSION });
      const socket = net.connect(box.port, "127.0.0.1");
      socket.write(
        `POST /api/execute/stream HTTP/1.1\r\nHost: x\r\nX-Caisson-Port-Token: ${box.token}\r\n` +
          `Content-Length: ${body.length}\r\n\r\n${body}`,
      );
      await new Promise((r) => socket.once("data", r));
      socket.pause();
      await sleep(300);
      const at = Date.now();
      assert.equal((await box.exec("echo still")).stdout, "still\n");
      assert.ok(Date.now() - at < 500);
      assert.notEqual((await box.exec("test -e /tmp/flood-done")).exitCode, 0, "held back");
      socket.destroy();
      for (let i = 0; i < 100 && (await box.exec("test -e /tmp/flood-done")).exitCode !== 0; i += 1) await sleep(50);
      assert.equal((await box.exec("test -e /tmp/flood-done")).exitCode, 0, "goes on without a reader");
      const rss = await box.exec("grep VmRSS /proc/1/status");
      assert.ok(Number(rss.stdout.match(/\d+/)[0]) < 8192, rss.stdout);
    });
    test("requests that are wrong", async () => {
      const cases = [
        ["/api/execute", {}, 400, "VALIDATION_FAILED"],
        ["/api/execute", { command: 5 }, 400, "VALIDATION_FAILED"],
        ["/api/execute", { command: "true", timeoutMs: -1 }, 400, "VALIDATION_FAILED"],
        ["/api/execute/stream", { command: "  ", sessionId: NO_SESSION }, 400, "INVALID_COMMAND"],
        ["/api/nothing", {}, 404, "UNKNOWN_ERROR"],
      ];
      for (const [path, body, status, code] of cases) {
        const r = await box.call("POST", path, body);
        assert.deepEqual([r.status, r.json.code], [status, code], path);
        assert.ok(r.json.timestamp && r.json.context && r.json.message);
      }
      const raw = await exchange(box.port, "POST", "/api/execute", { headers: box.headers, body: "{nope" });
      assert.equal(raw.status, 500);
      assert.match(JSON.parse(raw.body).message, /Failed to parse request body/);
    });
  });

  describe("sessions", () => {
    const run = (command, more = {}) =>
      box
        .call("POST", "/api/execute", { command, sessionId: "s", ...more })
        .then((r) => ({ http: r.status, ...r.json }));
    test("cd, export, functions and variables persist; one newline is lost", async () => {
      assert.equal((await box.call("POST", "/api/session/create", { id: "s", env: { S: "1" } })).status, 200);
      await run("cd /tmp; export X='a b'; y=2; f() { echo f$1; }");
      assert.equal((await run("echo $X $y $S $PWD; f 3")).stdout, "a b 2 1 /tmp\nf3");
      assert.equal((await run("printf 'x\\n\\n'")).stdout, "x\n");
      assert.equal((await run("cat; echo $(cat)")).stdout, "");
      const twice = await box.call("POST", "/api/session/create", { id: "s" });
      assert.deepEqual(
        [twice.status, twice.json.code, twice.json.context.sessionId],
        [409, "SESSION_ALREADY_EXISTS", "s"],
      );
    });
    test("cwd and env of one command do not stay", async () => {
      await run("cd /tmp; export X=old; unset Y");
      assert.equal((await run("echo $X $Y $PWD", { cwd: "/etc", env: { X: "new", Y: "q'q" } })).stdout, "new q'q /etc");
      assert.equal((await run("echo $X [$Y] $PWD")).stdout, "old [] /tmp");
      const bad = await run("echo no", { cwd: "/nope" });
      assert.deepEqual([bad.exitCode, bad.stderr], [1, "Failed to change directory to '/nope'"]);
    });
    test("commands of one session wait for each other, sessions do not", async () => {
      const at = Date.now();
      const two = await Promise.all([run("sleep 0.3; echo 1"), run("echo 2")]);
      assert.deepEqual(
        two.map((r) => r.stdout),
        ["1", "2"],
      );
      assert.ok(Date.now() - at >= 300);
      const slow = run("sleep 0.5");
      const other = await box.call("POST", "/api/execute", { command: "echo quick", sessionId: "t" });
      assert.equal(other.json.stdout, "quick");
      await slow;
    });
    test("a time-out kills the command and keeps the shell", async () => {
      await run("export KEPT=yes");
      const at = Date.now();
      const late = await run("sleep 4713; sleep 4713; echo never", { timeoutMs: 300 });
      assert.deepEqual([late.http, late.code], [500, "COMMAND_EXECUTION_ERROR"]);
      assert.match(late.message, /Command timeout after 300ms/);
      assert.ok(Date.now() - at < 1500);
      assert.equal((await run("echo $KEPT")).stdout, "yes");
      const spin = await run("while :; do :; done", { timeoutMs: 200 });
      assert.equal(spin.code, "COMMAND_EXECUTION_ERROR");
      assert.equal((await run("echo alive")).stdout, "alive", "a shell that does not come back is replaced");
    });
    test("long commands, quotes, heredocs", async () => {
      assert.equal((await run(`echo ${"x".repeat(100_000)} | wc -c`)).stdout, "100001");
      assert.equal((await run("cat <<'E'\nit's \"$X\" \\\nE\necho 'a'\\''b'")).stdout, "it's \"$X\" \\\na'b");
      assert.equal((await run("if true; then")).exitCode !== 0, true);
      assert.equal((await run("echo after")).stdout, "after");
    });
    test("streams and processes see the session's state, and its shell stays free", async () => {
      await run("cd /etc; export Z=zed; g() { echo g; }");
      const events = await box.events("POST", "/api/execute/stream", {
        command: "echo $Z $PWD; g; exit 9",
        sessionId: "s",
      });
      assert.equal(events.map((e) => (e.type === "stdout" ? e.data : "")).join(""), "zed /etc\ng\n");
      assert.deepEqual([events.at(-1).type, events.at(-1).exitCode], ["complete", 9]);
      await box.call("POST", "/api/process/start", { command: "sleep 2", sessionId: "s" });
      const at = Date.now();
      await run("true");
      assert.ok(Date.now() - at < 1000);
    });
    test("exit, delete, list", async () => {
      const out = await run("exit 5");
      assert.deepEqual([out.http, out.code, out.context], [410, "SESSION_TERMINATED", { sessionId: "s", exitCode: 5 }]);
      assert.equal((await run("echo fresh $Z")).stdout, "fresh");
      assert.ok((await box.call("GET", "/api/session/list")).json.data.includes("s"));
      const waiting = run("sleep 100");
      await sleep(100);
      assert.equal((await box.call("POST", "/api/session/delete", { sessionId: "s" })).json.sessionId, "s");
      assert.equal((await waiting).code, "SESSION_DESTROYED");
      const missing = await box.call("POST", "/api/session/delete", { sessionId: "none" });
      assert.deepEqual([missing.status, missing.json.context.originalError], [500, "Session not found"]);
    });
  });

  describe("processes", () => {
    test("start, list, get, logs, stream, kill", async () => {
      const script = "echo out; echo err >&2; (setsid sleep 4714 &); sleep 4714";
      const p = (
        await box.call("POST", "/api/process/start", { command: script, processId: "p1", sessionId: NO_SESSION })
      ).json;
      assert.equal(p.processId, "p1");
      assert.ok(p.pid > 1);
      const list = (await box.call("GET", "/api/process/list?status=running")).json.processes;
      assert.equal(list.find((e) => e.id === "p1").status, "running");
      const live = box.events("GET", "/api/process/p1/stream");
      await sleep(200);
      const logs = (await box.call("GET", "/api/process/p1/logs")).json;
      assert.deepEqual([logs.stdout, logs.stderr], ["out\n", "err\n"]);
      assert.equal((await box.call("DELETE", "/api/process/p1")).json.success, true);
      assert.equal((await box.exec("pgrep -fx 'sleep 4714'")).stdout, "");
      const events = await live;
      assert.deepEqual([events[0].type, events.at(-1).type, events.at(-1).exitCode], ["process_info", "exit", 143]);
      const one = (await box.call("GET", "/api/process/p1")).json.process;
      assert.deepEqual([one.status, one.exitCode], ["killed", 143]);
      const again = await box.call("DELETE", "/api/process/p1");
      assert.deepEqual([again.status, again.json.code], [404, "COMMAND_NOT_FOUND"]);
      const unknown = await box.call("GET", "/api/process/none");
      assert.deepEqual(
        [unknown.status, unknown.json.code, unknown.json.context.processId],
        [404, "PROCESS_NOT_FOUND", "none"],
      );
      assert.equal((await box.events("GET", "/api/process/p1/stream")).at(-1).type, "exit");
    });
    test("a kill that meets a process at its very start ends that process, not the sandbox", async () => {
      for (let i = 0; i < 100; i += 1) {
        await box.call("POST", "/api/process/start", { command: "sleep 4721", sessionId: NO_SESSION });
        assert.equal((await box.call("DELETE", "/api/process/kill-all")).status, 200);
      }
      for (let i = 0; i < 100 && (await box.exec("pgrep -fx 'sleep 4721'")).stdout !== ""; i += 1) await sleep(50);
      assert.equal((await box.exec("pgrep -fx 'sleep 4721'")).stdout, "");
    });
    test("kill-all and time-out", async () => {
      for (const processId of ["k1", "k2"])
        await box.call("POST", "/api/process/start", { command: "sleep 4715", processId, sessionId: NO_SESSION });
      const all = (await box.call("DELETE", "/api/process/kill-all")).json;
      assert.ok(all.cleanedCount >= 2);
      await box.call("POST", "/api/process/start", {
        command: "sleep 4716",
        processId: "k3",
        timeoutMs: 200,
        sessionId: NO_SESSION,
      });
      await sleep(900);
      for (const id of ["k1", "k2", "k3"])
        assert.equal((await box.call("GET", `/api/process/${id}`)).json.process.status, "killed");
    });
  });

  describe("files", () => {
    const files = (path, body) => box.call("POST", path, { sessionId: NO_SESSION, ...body });
    test("10 MB of random bytes, both ways, both forms", async () => {
      const data = randomBytes(10_000_000);
      const content = data.toString("base64");
      assert.equal(
        (await files("/api/write", { path: "/workspace/a/b/big.bin", content, encoding: "base64" })).status,
        200,
      );
      const read = (await files("/api/read", { path: "/workspace/a/b/big.bin", encoding: "base64" })).json;
      assert.deepEqual([read.size, read.isBinary, read.content === content], [data.length, true, true]);
      const events = parseEvents((await files("/api/read/stream", { path: "a/b/big.bin" })).text);
      assert.deepEqual(
        [events[0].type, events[0].size, events.at(-1).bytesRead],
        ["metadata", data.length, data.length],
      );
      const chunks = events.filter((e) => e.type === "chunk").map((e) => Buffer.from(e.data, "base64"));
      assert.ok(Buffer.concat(chunks).equals(data));
      assert.ok(chunks.slice(0, -1).every((c) => c.length === 65535));
    });
    test("text is never split inside a character", async () => {
      const text = "é€😀".repeat(30_000);
      await files("/api/write", { path: "t.txt", content: text });
      const events = parseEvents((await files("/api/read/stream", { path: "/workspace/t.txt" })).text);
      assert.equal(events[0].encoding, "utf-8");
      assert.equal(
        events
          .filter((e) => e.type === "chunk")
          .map((e) => e.data)
          .join(""),
        text,
      );
      assert.equal((await files("/api/read", { path: "t.txt" })).json.content, text);
    });
    test("list, mkdir, rename, move, delete, exists", async () => {
      await files("/api/mkdir", { path: "/workspace/d/e", recursive: true });
      await files("/api/write", { path: "/workspace/d/.hidden", content: "h" });
      await files("/api/write", { path: "/workspace/d/e/x.json", content: "{}" });
      await box.exec("ln -s e /workspace/d/link; chmod 640 /workspace/d/e/x.json");
      const plain = (await files("/api/list-files", { path: "/workspace/d" })).json;
      assert.deepEqual(plain.files.map((f) => [f.name, f.type]).sort(), [
        ["e", "directory"],
        ["link", "symlink"],
      ]);
      const deep = (await files("/api/list-files", { path: "d", options: { recursive: true, includeHidden: true } }))
        .json;
      const x = deep.files.find((f) => f.relativePath === "e/x.json");
      assert.deepEqual([deep.count, x.absolutePath, x.mode, x.size], [4, "/workspace/d/e/x.json", "rw-r-----", 2]);
      assert.equal(
        (await files("/api/rename", { oldPath: "/workspace/d/e/x.json", newPath: "/workspace/d/y.json" })).status,
        200,
      );
      assert.equal(
        (await files("/api/move", { sourcePath: "/workspace/d/y.json", destinationPath: "/tmp/y.json" })).status,
        200,
      );
      assert.equal((await files("/api/exists", { path: "/tmp/y.json" })).json.exists, true);
      assert.equal((await files("/api/delete", { path: "/tmp/y.json" })).status, 200);
      assert.equal((await files("/api/exists", { path: "/tmp/y.json" })).json.exists, false);
      await box.exec("echo old > /workspace/full; mkfifo /workspace/d/pipe; echo new > /tmp/new; chmod 4750 /tmp/new");
      for (const to of ["/workspace/d/pipe", "/workspace/full"]) {
        await box.exec("cp -p /tmp/new /tmp/moved");
        const moved = await files("/api/move", { sourcePath: "/tmp/moved", destinationPath: to });
        assert.equal(moved.status, 200, `to another file system, onto ${to}`);
        assert.equal((await box.exec(`cat ${to}; stat -c %a ${to}`)).stdout, "new\n4750\n");
      }
      assert.equal((await box.exec("ls -A /workspace | grep caisson")).stdout, "");
      const root = (await files("/api/list-files", { path: "/" })).json;
      assert.ok(root.files.some((f) => f.name === "workspace"));
    });
    test("errors carry the protocol's codes", async () => {
      const pid = (await box.exec("mkdir -m 0 /workspace/locked; sleep 30 >/dev/null 2>&1 & echo $!")).stdout.trim();
      const cases = [
        ["/api/read", { path: `/proc/${pid}/mem` }, 500, "FILESYSTEM_ERROR"],
        ["/api/list-files", { path: "/workspace/locked" }, 403, "PERMISSION_DENIED"],
        ["/api/read", { path: "/none" }, 404, "FILE_NOT_FOUND"],
        ["/api/read", { path: "/workspace" }, 404, "FILE_NOT_FOUND"],
        ["/api/read", { path: "" }, 400, "VALIDATION_FAILED"],
        ["/api/read", { path: `/${"x".repeat(5000)}` }, 400, "VALIDATION_FAILED"],
        ["/api/delete", { path: "/workspace" }, 400, "IS_DIRECTORY"],
        ["/api/delete", { path: "/none" }, 404, "FILE_NOT_FOUND"],
        ["/api/mkdir", { path: "/workspace" }, 500, "FILESYSTEM_ERROR"],
        ["/api/list-files", { path: "/etc/passwd" }, 400, "NOT_DIRECTORY"],
        ["/api/list-files", { path: "/none" }, 404, "FILE_NOT_FOUND"],
        ["/api/rename", { oldPath: "/none", newPath: "/tmp/q" }, 404, "FILE_NOT_FOUND"],
        ["/api/write", { path: "/workspace/q", content: "*", encoding: "base64" }, 400, "VALIDATION_FAILED"],
        ["/api/write", { path: "/proc/x", content: "" }, 404, "FILE_NOT_FOUND"],
      ];
      for (const [path, body, status, code] of cases) {
        const r = await files(path, body);
        assert.deepEqual([r.status, r.json.code], [status, code], `${path} ${JSON.stringify(body).slice(0, 60)}`);
      }
      await box.exec("truncate -s 33M /workspace/huge; mkfifo /workspace/fifo");
      assert.equal((await files("/api/read", { path: "/workspace/huge" })).json.code, "FILE_TOO_LARGE");
      const at = Date.now();
      await files("/api/read", { path: "/workspace/fifo" });
      await files("/api/write", { path: "/workspace/fifo", content: "x" });
      assert.ok(Date.now() - at < 1000, "a FIFO does not stop the server");
      const missing = parseEvents((await files("/api/read/stream", { path: "/none" })).text);
      assert.deepEqual(missing, [{ type: "error", error: "File not found: /none" }]);
    });
  });

  describe("ports", () => {
    test("a server inside is reached; nothing there is 502; the token is needed", async () => {
      await box.call("POST", "/api/process/start", {
        command: "cd /etc && exec python3 -m http.server 8123 --bind 127.0.0.1",
        processId: "web",
        sessionId: NO_SESSION,
      });
      const { port, token } = (await engine.api("GET", "/v1/sandboxes/main/ports/8123")).json;
      const headers = { "x-caisson-port-token": token };
      let res;
      for (let i = 0; i < 100; i += 1) {
        res = await exchange(port, "GET", "/hostname", { headers });
        if (res.status !== 502) break;
        await sleep(50);
      }
      assert.deepEqual([res.status, res.body.toString()], [200, "sandbox\n"]);
      assert.deepEqual((await engine.api("GET", "/v1/sandboxes/main/ports/8123")).json, { port, token });
      assert.equal((await exchange(port, "GET", "/", {})).status, 403);
      assert.equal(
        (await exchange(port, "GET", "/", { headers: { "x-caisson-port-token": `${token}x` } })).status,
        403,
      );
      assert.equal((await exchange(box.port, "GET", "/", {})).status, 403);
      const none = (await engine.api("GET", "/v1/sandboxes/main/ports/8124")).json;
      const refused = await exchange(none.port, "GET", "/", { headers });
      assert.deepEqual([refused.status, refused.body.toString()], [502, "the container is not listening"]);
      await box.call("DELETE", "/api/process/web");
    });
    test("raw bytes both ways, half-close, large and fast; the token is not passed on", async () => {
      await box.call("POST", "/api/write", {
        path: "/tmp/echo.py",
        content: `import socket,threading
s=socket.create_server(("127.0.0.1",8200))
def run(c):
    data=b""
    while b"\\r\\n\\r\\n" not in data: data+=c.recv(65536)
    head,rest=data.split(b"\\r\\n\\r\\n",1)
    c.sendall(b"token" if b"oken" in head else b"clean")
    n=len(rest)
    while True:
        d=c.recv(1<<20)
        if not d: break
        n+=len(d)
    c.sendall(b" %d "%n)
    c.sendall(b"z"*(60*1000*1000))
    c.close()
while True:
    c,_=s.accept(); threading.Thread(target=run,args=(c,)).start()
`,
      });
      await box.call("POST", "/api/process/start", {
        command: "python3 /tmp/echo.py",
        processId: "echo",
        sessionId: NO_SESSION,
      });
      for (let i = 0; i < 100; i += 1) {
        if ((await box.exec("grep -q ':2008 ' /proc/net/tcp")).exitCode === 0) break;
        await sleep(50);
      }
      const { port, token } = (await engine.api("GET", "/v1/sandboxes/main/ports/8200")).json;
      const got = await new Promise((done, fail) => {
        const socket = net.connect({ port, host: "127.0.0.1", allowHalfOpen: true });
        let head = "";
        let bytes = 0;
        socket.on("data", (d) => {
          if (head.length < 40) head += d.subarray(0, 40).toString();
          bytes += d.length;
        });
        socket.on("end", () => done({ head, bytes }));
        socket.on("error", fail);
        socket.write(
          `POST / HTTP/1.1\r\nX-Caisson-Port-Token: ${token}\r\nHost: x\r\nContent-Length: 40000000\r\n\r\n`,
        );
        socket.end(Buffer.alloc(40_000_000, "y"));
      });
      assert.match(got.head, /^clean 40000000 z/);
      assert.equal(got.bytes, "clean 40000000 ".length + 60_000_000);
      await box.call("DELETE", "/api/process/echo");
    });
    test("a program that refuses a WebSocket sees no token in what comes after", async () => {
      await box.call("POST", "/api/write", {
        path: "/tmp/refuse.py",
        content: `import socket
s=socket.create_server(("127.0.0.1",8201))
while True:
    c,_=s.accept(); data=b""; seen=0
    while True:
        d=c.recv(65536)
        if not d: break
        data+=d
        while b"\\r\\n\\r\\n" in data:
            head,data=data.split(b"\\r\\n\\r\\n",1)
            seen+=1
            body=b"%d %s;"%(seen,b"token" if b"oken" in head else b"clean")
            c.sendall(b"HTTP/1.1 426 Upgrade Required\\r\\nContent-Length: %d\\r\\n\\r\\n%s"%(len(body),body))
`,
      });
      const command = "python3 /tmp/refuse.py";
      await box.call("POST", "/api/process/start", { command, processId: "refuse", sessionId: NO_SESSION });
      for (let i = 0; i < 100; i += 1) {
        if ((await box.exec("grep -q ':2009 ' /proc/net/tcp")).exitCode === 0) break;
        await sleep(50);
      }
      const { port, token } = (await engine.api("GET", "/v1/sandboxes/main/ports/8201")).json;
      const upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
      const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";
      const request = (more) => `GET / HTTP/1.1\r\nHost: x\r\nX-Caisson-Port-Token: ${token}\r\n${more}\r\n`;
      const text = await new Promise((done, fail) => {
        const socket = net.connect({ port, host: "127.0.0.1" });
        const asked = [request(upgrade + key), request(""), request(upgrade + key), request("")];
        let got = "";
        socket.on("data", (d) => {
          got += d;
          // One after the other, as who keeps a connection sends them.
          const answers = got.split(";").length - 1;
          if (answers === asked.length) socket.destroy();
          else if (answers > 0 && got.endsWith(";")) socket.write(asked[answers]);
        });
        socket.on("close", () => done(got)).on("error", fail);
        socket.write(asked[0]);
      });
      assert.deepEqual(text.match(/\d \w+;/g), ["1 clean;", "2 clean;", "3 clean;", "4 clean;"], text);
      await box.call("DELETE", "/api/process/refuse");
    });
    test("a start may ask for a port, which its answer names", async () => {
      const start = (body) => engine.api("PUT", "/v1/sandboxes/opened", body);
      for (const open_port of [0, 65536, 1.5, "3000", []])
        assert.equal((await start({ open_port })).status, 400, `${open_port}`);
      const first = (await start({ open_port: 3000 })).json;
      const asked = (await engine.api("GET", "/v1/sandboxes/opened/ports/3000")).json;
      assert.deepEqual({ port: first.port, token: first.token }, asked);
      const headers = { "x-caisson-port-token": first.token };
      assert.equal((await exchange(first.port, "GET", "/", { headers })).status, 200);
      assert.equal((await start({ open_port: 8000 })).json.port !== first.port, true, "one that runs, too");
      await engine.api("DELETE", "/v1/sandboxes/opened");
      assert.deepEqual(Object.keys((await start({})).json).sort(), ["generation", "name", "running"]);
      await engine.api("DELETE", "/v1/sandboxes/opened");
    });
    test("a head that is too long or never comes is refused", async () => {
      const res = await new Promise((done) => {
        const socket = net.connect(box.port, "127.0.0.1");
        let text = "";
        socket.on("data", (d) => {
          text += d;
        });
        socket.on("close", () => done(text));
        socket.on("error", () => {});
        socket.write(`GET / HTTP/1.1\r\nX: ${"a".repeat(20_000)}`);
      });
      assert.match(res, /^HTTP\/1.1 431 /);
    });
  });

  if (user === "root")
    test("the state directory is the engine's alone", () => assert.ok(existsSync(join(engine.home, "state/lock"))));
}
