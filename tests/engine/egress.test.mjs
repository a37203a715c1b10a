/** HTTP on its way out of a sandbox: to the Worker, streaming both ways, and what is refused of it. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { isRoot, sleep, startEngine } from "./harness.mjs";
import { egressLog, python, RAW, startWorker, TOKEN } from "./outside.mjs";

for (const user of isRoot ? ["root", "nobody"] : ["self"]) {
  describe(`egress as ${user}`, () => suite(user));
}

function suite(user) {
  let engine;
  let box;
  let worker;
  const set = (more) =>
    engine.api("PUT", "/v1/sandboxes/main/egress", { url: worker.url, token: TOKEN, hosts: [], ...more });
  before(async () => {
    worker = await startWorker();
    engine = await startEngine({ user });
    box = await engine.sandbox("main", {
      egress: { url: worker.url, token: TOKEN, hosts: ["api.example.com", "*.wild.example"], all: false },
    });
  });
  after(async () => {
    await engine.stop();
    await worker.stop();
  });

  test("an intercepted request arrives with method, headers, body and the URL asked for", async () => {
    const r = await box.exec(
      "curl -s -i -X PUT -H 'X-Mine: 1' -H 'X-Caisson-Egress-Token: forged' -H 'x-caisson-egress-url: http://evil/' " +
        "-H 'Connection: keep-alive, X-Hop' -H 'X-Hop: 1' --data-binary hello 'http://api.example.com/v1/x?y=1&z=%20'",
    );
    assert.match(r.stdout, /^HTTP\/1.1 201 /);
    assert.match(r.stdout, /x-up: 1/i);
    assert.match(r.stdout, /PUT 5$/);
    const last = worker.last();
    assert.deepEqual([last.method, last.url, last.body], ["PUT", "/egress?box=1", "hello"]);
    assert.equal(last.headers["x-caisson-egress-token"], TOKEN);
    assert.equal(last.asked, "http://api.example.com/v1/x?y=1&z=%20");
    assert.deepEqual([last.headers["x-mine"], last.headers["x-hop"]], ["1", undefined]);
    assert.equal(last.headers["content-length"], "5");
  });
  test("every method and header name passes, and a HEAD has no body", async () => {
    await box.exec("curl -s -X PROPFIND http://api.example.com/dav");
    assert.equal(worker.last().method, "PROPFIND");
    const r = await box.exec("curl -sI http://api.example.com/head; curl -s http://api.example.com/after");
    assert.match(r.stdout, /201 .*GET 0$/s);
  });
  test("server-sent events pass at once: each is read before the next is sent", async () => {
    let seen;
    worker.on["/seen"] = (_req, res) => {
      seen();
      res.end();
    };
    worker.on["/sse"] = async (_req, res) => {
      res.writeHead(200, { "content-type": "text/event-stream" });
      for (let i = 0; i < 4; i += 1) {
        const read = new Promise((done) => {
          seen = done;
        });
        res.write(`data: ${i}\n\n`);
        await read;
      }
      res.end();
    };
    const r = await box.exec(
      'curl -sNm 30 http://api.example.com/sse | while read -r l; do [ "$l" ] && echo $l && curl -s http://api.example.com/seen; done',
    );
    assert.deepEqual(r.stdout.trim().split("\n"), ["data: 0", "data: 1", "data: 2", "data: 3"]);
  });
  test("a request's body streams: its first piece is there before its last is sent", async () => {
    const pieces = [];
    worker.on["/up"] = (req, res) => {
      req.on("data", (d) => pieces.push([Date.now(), d.toString()]));
      req.on("end", () => res.end("done"));
    };
    const [text] = await python(
      box,
      `${RAW}
import time
s = socket.create_connection(("api.example.com", 80))
s.sendall(b"POST /up HTTP/1.1\\r\\nHost: api.example.com\\r\\nTransfer-Encoding: chunked\\r\\nConnection: close\\r\\n\\r\\n5\\r\\nfirst\\r\\n")
time.sleep(0.5)
s.sendall(b"4;ext=1\\r\\nlast\\r\\n0\\r\\nX-Trailer: 1\\r\\n\\r\\n")
print(s.makefile("rb").read().decode().split("\\r\\n")[-1])
`,
    );
    assert.equal(text, "done");
    assert.equal(pieces.map((p) => p[1]).join(""), "firstlast");
    assert.ok(pieces.at(-1)[0] - pieces[0][0] > 300);
  });
  test("100 MB each way arrive whole, and neither side holds them", async () => {
    const hash = () => createHash("sha256");
    worker.on["/sum"] = (req, res) => {
      const h = hash();
      req.on("data", (d) => h.update(d));
      req.on("end", () => res.end(h.digest("hex")));
    };
    const r = await box.exec(
      "head -c 100000000 /dev/zero > /tmp/big; curl -s -T /tmp/big -H 'Expect:' http://api.example.com/sum; echo; sha256sum < /tmp/big",
      { timeoutMs: 60_000 },
    );
    const [there, here] = r.stdout.trim().split("\n");
    assert.equal(there, here.split(" ")[0]);
    worker.on["/down"] = (_req, res) => {
      const piece = Buffer.alloc(1_000_000, "y");
      let left = 100;
      const more = () => {
        while (left > 0) {
          left -= 1;
          if (!res.write(piece)) return res.once("drain", more);
        }
        res.end();
      };
      more();
    };
    const down = await box.exec("curl -s http://api.example.com/down | tr -d y | wc -c; rm /tmp/big");
    assert.equal(down.stdout.trim(), "0");
  });
  test("a side that does not read stops the other: nothing piles up in the engine", async () => {
    const rss = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${engine.child.pid}/status`, "utf8"))[1]);
    let sent = 0;
    const held = [];
    worker.on["/stuck-up"] = (req) => held.push(req.pause());
    worker.on["/stuck-down"] = (_req, res) => {
      held.push(res);
      const piece = Buffer.alloc(1_000_000);
      const more = () => {
        while (sent < 500) {
          sent += 1;
          if (!res.write(piece)) return res.once("drain", more);
        }
      };
      more();
    };
    const before = rss();
    const lines = await python(
      box,
      `${RAW}
import time
kept, total = [], 0
for i in range(4):
    s = socket.create_connection(("api.example.com", 80)); kept.append(s)
    s.sendall(b"POST /stuck-up HTTP/1.1\\r\\nHost: api.example.com\\r\\nContent-Length: 200000000\\r\\n\\r\\n")
    s.settimeout(0.5)
    try:
        while True: total += s.send(b"x" * 100000)
    except socket.timeout: pass
d = socket.create_connection(("api.example.com", 80))
d.sendall(b"GET /stuck-down HTTP/1.1\\r\\nHost: api.example.com\\r\\n\\r\\n")
time.sleep(1)
print(total)
`,
    );
    assert.ok(Number(lines[0]) < 64e6, `${lines[0]} bytes went up`);
    assert.ok(sent < 64, `${sent} MB went down`);
    assert.ok(rss() - before < 16_000, `grew by ${rss() - before} kB`);
    for (const h of held) h.destroy();
  });
  test("an answer cut short is seen as such", async () => {
    for (const [path, head] of [
      ["/cut", { "content-length": "1000" }],
      ["/cut-chunked", {}],
    ]) {
      worker.on[path] = async (_req, res) => {
        res.writeHead(200, head);
        res.write("half");
        await sleep(50);
        res.destroy();
      };
      assert.notEqual((await box.exec(`curl -s http://api.example.com${path}`)).exitCode, 0);
    }
  });
  test("a client that goes away takes its request with it", async () => {
    let closed;
    const gone = new Promise((r) => {
      closed = r;
    });
    worker.on["/long"] = (req, res) => {
      res.writeHead(200);
      res.write("x");
      req.on("close", closed);
    };
    assert.equal((await box.exec("curl -s -m 0.5 http://api.example.com/long")).exitCode, 28);
    await gone;
  });
  test("Expect: 100-continue, HTTP/1.0, keep-alive and pipelining", async () => {
    const expected = await box.exec(
      "head -c 3000000 /dev/zero | curl -sv -H 'Expect: 100-continue' --data-binary @- http://api.example.com/e 2>&1 | grep -aE '^< HTTP|POST 3'",
    );
    assert.match(expected.stdout, /100 Continue.*201.*POST 3000000/s);
    const lines = await python(
      box,
      `${RAW}
old = talk(b"GET /old HTTP/1.0\\r\\n\\r\\n")
print(status(old), "chunked" in old, old.split("\\r\\n\\r\\n")[1])
old = talk(b"GET /old HTTP/1.0\\r\\nHost: api.example.com\\r\\n\\r\\n", half=True)
print(status(old), "chunked" in old, old.split("\\r\\n\\r\\n")[1])
many = b"".join(b"POST /p%d HTTP/1.1\\r\\nHost: api.example.com\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (i, i, b"x" * i) for i in range(20))
got = talk(many + b"GET /last HTTP/1.1\\r\\nHost: api.example.com\\r\\nConnection: close\\r\\n\\r\\n")
print([p.split("\\r\\n")[0] for p in got.split("POST ")[1:]])
print(got.count("HTTP/1.1 201"), "GET 0" in got[-30:])
`,
    );
    assert.deepEqual(lines.slice(0, 2), ["201 False GET 0", "201 False GET 0"]);
    const numbers = lines[2].match(/\d+(?='|HTTP)/g).map(Number);
    assert.deepEqual(numbers, [...Array(20).keys()]);
    assert.equal(lines[3], "21 True");
  });
  test("requests that could be read in two ways are refused", async () => {
    const before = worker.seen.length;
    const host = "Host: api.example.com";
    const smuggled = `GET /smuggled HTTP/1.1\\r\\n${host}\\r\\n\\r\\n`;
    const cases = {
      "400 both": `POST / HTTP/1.1\\r\\n${host}\\r\\nContent-Length: 4\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n${smuggled}`,
      "400 two lengths": `POST / HTTP/1.1\\r\\n${host}\\r\\nContent-Length: 0\\r\\nContent-Length: 9\\r\\n\\r\\n${smuggled}`,
      "400 odd coding": `POST / HTTP/1.1\\r\\n${host}\\r\\nTransfer-Encoding: chunked, identity\\r\\n\\r\\n0\\r\\n\\r\\n${smuggled}`,
      "400 blank": `POST / HTTP/1.1\\r\\n${host}\\r\\nTransfer-Encoding : chunked\\r\\n\\r\\n0\\r\\n\\r\\n${smuggled}`,
      "400 folded": `POST / HTTP/1.1\\r\\n${host}\\r\\nX: 1\\r\\n Transfer-Encoding: chunked\\r\\n\\r\\n${smuggled}`,
      "400 bare LF": `GET / HTTP/1.1\\n${host}\\n\\n${smuggled}`,
      "400 two hosts": `GET / HTTP/1.1\\r\\n${host}\\r\\nHost: evil.example\\r\\n\\r\\n${smuggled}`,
      "400 no host": `GET / HTTP/1.1\\r\\n\\r\\n${smuggled}`,
      "400 absolute and host": `GET http://evil.example/ HTTP/1.1\\r\\n${host}\\r\\n\\r\\n${smuggled}`,
      "400 absolute https": `GET https://api.example.com/ HTTP/1.1\\r\\n${host}\\r\\n\\r\\n${smuggled}`,
      "400 user in host": `GET http://api.example.com@evil.example/ HTTP/1.1\\r\\nHost: api.example.com@evil.example\\r\\n\\r\\n${smuggled}`,
      "400 port": `GET / HTTP/1.1\\r\\nHost: api.example.com:8080\\r\\n\\r\\n${smuggled}`,
      "405 CONNECT": `CONNECT evil.example:443 HTTP/1.1\\r\\nHost: evil.example:443\\r\\n\\r\\n${smuggled}`,
      "405 TRACE": `TRACE / HTTP/1.1\\r\\n${host}\\r\\n\\r\\n${smuggled}`,
      "400 star": `OPTIONS * HTTP/1.1\\r\\n${host}\\r\\n\\r\\n${smuggled}`,
      "403 other host": `GET / HTTP/1.1\\r\\nHost: evil.example\\r\\n\\r\\n${smuggled}`,
      "403 other ending": `GET / HTTP/1.1\\r\\nHost: api.example.com.evil\\r\\n\\r\\n${smuggled}`,
      "403 other beginning": `GET / HTTP/1.1\\r\\nHost: evilapi.example.com\\r\\n\\r\\n${smuggled}`,
      "403 apex": `GET / HTTP/1.1\\r\\nHost: wild.example\\r\\n\\r\\n${smuggled}`,
      "431 endless": `GET / HTTP/1.1\\r\\n${host}\\r\\nX: ${"x".repeat(70_000)}`,
    };
    const lines = await python(
      box,
      `${RAW}\n${Object.entries(cases)
        .map(([name, data]) => `t = talk(b"${data}"); print(status(t), "${name.slice(4)}", t.count("HTTP/1.1 "))`)
        .join("\n")}`,
    );
    assert.deepEqual(
      lines,
      Object.keys(cases).map((name) => `${name} 1`),
    );
    assert.equal(worker.seen.length, before, "none of it reached the Worker");
    const absolute = await python(
      box,
      `${RAW}\nprint(status(talk(b"GET http://api.example.com/abs HTTP/1.1\\r\\n${host}\\r\\nConnection: close\\r\\n\\r\\n")))`,
    );
    assert.deepEqual([absolute[0], worker.last().asked], ["201", "http://api.example.com/abs"]);
    const bad = await python(
      box,
      `${RAW}\nprint(status(talk(b"POST / HTTP/1.1\\r\\n${host}\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\nzz\\r\\n")))`,
    );
    assert.equal(bad[0], "400");
  });
  test("a refusal says what and why", async () => {
    const r = await box.exec("curl -s -i http://other.example/some/path?secret=1");
    assert.match(r.stdout, /^HTTP\/1.1 403 Forbidden/);
    assert.match(r.stdout, /X-Caisson-Denied: egress/i);
    assert.match(r.stdout, /Connection: close/i);
    const { error } = JSON.parse(r.stdout.split("\r\n\r\n")[1]);
    assert.deepEqual([error.code, error.host], ["HOST_NOT_ALLOWED", "other.example"]);
    const last = (await egressLog(engine, "main")).at(-1);
    assert.deepEqual(
      [last.kind, last.host, last.port, last.method, last.path, last.status, last.verdict],
      ["http", "other.example", 80, "GET", "/some/path", 403, "denied"],
    );
    assert.ok(!JSON.stringify(await egressLog(engine, "main")).includes("secret=1"));
  });
  test("a WebSocket passes both ways until both sides have ended", async () => {
    worker.upgrades["/ws"] = (req, socket) => {
      assert.equal(req.headers["x-caisson-egress-token"], TOKEN);
      socket.write(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: abc\r\n\r\nfirst:",
      );
      socket.on("data", (d) => socket.write(d.toString().toUpperCase()));
      socket.on("end", () => socket.end("bye"));
      return true;
    };
    const lines = await python(
      box,
      `${RAW}
s = socket.create_connection(("api.example.com", 80))
s.sendall(b"GET /ws HTTP/1.1\\r\\nHost: api.example.com\\r\\nConnection: keep-alive, Upgrade\\r\\nUpgrade: websocket\\r\\nSec-WebSocket-Key: abc\\r\\n\\r\\nearly")
got = b""
while not got.endswith(b"EARLY"): got += s.recv(1000)
head, _, rest = got.partition(b"\\r\\n\\r\\n")
print(head.split(b" ")[1].decode(), b"upgrade: websocket" in head.lower(), rest.decode())
s.sendall(b"more"); print(s.recv(100).decode())
s.shutdown(socket.SHUT_WR); print(s.recv(100).decode(), s.recv(100))
`,
    );
    assert.deepEqual(lines, ["101 True first:EARLY", "MORE", "bye b''"]);
    // What is not asked for is not switched to, and what is refused is an ordinary answer.
    worker.on["/not-ws"] = (_req, res) => res.writeHead(426).end("no");
    const plain = await python(
      box,
      `${RAW}
up = b"GET /%s HTTP/1.1\\r\\nHost: api.example.com\\r\\nConnection: Upgrade\\r\\nUpgrade: %s\\r\\n\\r\\n"
s = socket.create_connection(("api.example.com", 80))
s.sendall(up % (b"h2c", b"h2c")); print(status(s.recv(1000).decode()))
print(worker_saw := "ok")
`,
    );
    assert.deepEqual(plain, ["201", "ok"]);
    assert.equal(worker.last().headers.upgrade, undefined);
  });
  test("the set can be replaced while the sandbox runs", async () => {
    await set({ hosts: ["second.example"] });
    assert.match((await box.exec("curl -s http://second.example/")).stdout, /^GET 0$/);
    assert.match((await box.exec("curl -s http://api.example.com/")).stdout, /HOST_NOT_ALLOWED/);
    await set({ all: true });
    assert.equal((await box.exec("curl -s http://any.example/ && curl -s http://9.9.9.9/")).stdout, "GET 0GET 0");
    await set({ hosts: ["10.0.0.0/8", "1.2.3.4:9999", "port.example:8080"] });
    const r = await box.exec(
      "for u in 10.1.2.3 1.2.3.4:9999 port.example:8080 1.2.3.4 port.example; do curl -s -o /dev/null -w '%{http_code} ' http://$u/; done; curl -s http://11.0.0.1:9998/; echo $?",
    );
    assert.equal(r.stdout, "201 201 201 403 403 7\n");
    assert.deepEqual(
      worker.seen.slice(-3).map((s) => s.asked),
      ["http://10.1.2.3/", "http://1.2.3.4:9999/", "http://port.example:8080/"],
    );
  });
  test("a Worker that is away is a 502", async () => {
    await engine.api("PUT", "/v1/sandboxes/main/egress", { url: "http://localhost:1/", token: "t", all: true });
    const r = await box.exec("curl -s -w '%{http_code}' http://api.example.com/");
    assert.match(r.stdout, /EGRESS_UNREACHABLE.*502$/s);
  });
}
