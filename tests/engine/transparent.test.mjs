/** Connections of programs that know of no proxy: each is caught, and routed or refused at once. */
import assert from "node:assert/strict";
import dgram from "node:dgram";
import { after, before, describe, test } from "node:test";
import { isRoot, sleep, startEngine } from "./harness.mjs";
import { egressLog, python, RAW, startHttp, startTcp, startWorker, TOKEN } from "./outside.mjs";

/** Python: `reach(host, port)` is "open", or why not, and the time it took must be short. */
const REACH = `
import socket, errno, time, sys
def reach(host, port, kind=socket.SOCK_STREAM, family=socket.AF_INET, data=b"x"):
    begun = time.time()
    s = socket.socket(family, kind); s.settimeout(4)
    try:
        s.connect((host, port))
        if kind == socket.SOCK_DGRAM: s.send(data); s.recv(10)
        got = "open"
    except socket.timeout: got = "silence"
    except OSError as e: got = errno.errorcode.get(e.errno, str(e))
    s.close()
    return got if time.time() - begun < 2 else got + " after %.1f s" % (time.time() - begun)
`;

for (const user of isRoot ? ["root", "nobody"] : ["self"]) {
  describe(`transparent as ${user}`, () => suite(user));
}

function suite(user) {
  let engine;
  let box;
  let open;
  let worker;
  let resolver;
  let echo;
  let forbidden;
  const secret = [];
  before(async () => {
    worker = await startWorker();
    echo = await startTcp((s) => {
      s.write("hello\n");
      s.pipe(s);
    });
    // Nobody may get here: it stands for a service of the host.
    forbidden = await startTcp((s) => {
      secret.push(s.remotePort);
      s.end("HOST-SECRET");
    });
    resolver = await startResolver();
    engine = await startEngine({ user, args: ["--resolver", `127.0.0.1:${resolver.port}`] });
    const egress = { url: worker.url, token: TOKEN, hosts: ["api.example.com"], https_hosts: ["api.example.com"] };
    box = await engine.sandbox("main", { egress });
    open = await engine.sandbox("open", {
      enable_internet: true,
      egress: { ...egress, allow_addresses: [`127.0.0.1:${echo.port}`] },
    });
  });
  after(async () => {
    await engine.stop();
    await Promise.all([worker.stop(), echo.stop(), forbidden.stop()]);
    resolver.stop();
  });
  const allow = (...ports) =>
    engine.api("PUT", "/v1/sandboxes/open/egress", {
      url: worker.url,
      token: TOKEN,
      hosts: ["api.example.com", ...ports.map((p) => `api.example.com:${p}`)],
      https_hosts: ["api.example.com", ...ports.map((p) => `api.example.com:${p}`)],
      allow_addresses: [echo.port, ...ports].map((p) => `127.0.0.1:${p}`),
    });

  test("without internet every way out is refused at once", async () => {
    const lines = await python(
      box,
      `${REACH}
tcp = [("1.1.1.1", 22), ("8.8.8.8", 8080), ("10.0.0.1", 3306), ("169.254.169.254", 8000), ("192.168.1.1", 5432), ("100.64.0.1", 1),
       ("198.18.0.1", 80 + 1), ("198.18.0.4", 61777), ("198.18.200.1", 443), ("240.0.0.1", 99), ("name.example", 22), ("name.example", 65535)]
print([reach(h, p) for h, p in tcp])
print([reach(h, p, socket.SOCK_DGRAM) for h, p in [("1.1.1.1", 443), ("8.8.8.8", 123), ("10.0.0.1", 5353), ("name.example", 4500)]])
six = [("2606:4700::1111", 443), ("::ffff:1.1.1.1", 22), ("64:ff9b::101:101", 80), ("fd00::1", 80), ("fe80::1", 80)]
print([reach(h, p, family=socket.AF_INET6) for h, p in six])
print([reach(h, p, socket.SOCK_DGRAM, socket.AF_INET6) for h, p in [("2606:4700::1111", 53), ("::ffff:9.9.9.9", 443)]])
s = socket.socket()
try: s.sendto(b"GET / HTTP/1.1\\r\\n\\r\\n", 0x20000000, ("1.1.1.1", 81)); print("sent")
except OSError as e: print(errno.errorcode[e.errno])
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.settimeout(3)
try: s.connect(("1.1.1.1", 81)); print("open")
except OSError as e: print(errno.errorcode[e.errno])
s = socket.socket(); s.setblocking(False)
try: s.connect(("1.1.1.1", 82))
except BlockingIOError: pass
import select; select.select([], [s], [], 3); print(errno.errorcode[s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])
`,
    );
    assert.equal(lines[0], JSON.stringify(Array(12).fill("ECONNREFUSED")).replaceAll('"', "'").replaceAll(",", ", "));
    assert.equal(lines[1], "['ECONNREFUSED', 'ECONNREFUSED', 'ECONNREFUSED', 'ECONNREFUSED']");
    assert.equal(lines[2], "['ENETUNREACH', 'ECONNREFUSED', 'ENETUNREACH', 'ENETUNREACH', 'EINVAL']");
    assert.equal(lines[3], "['ENETUNREACH', 'ECONNREFUSED']");
    assert.deepEqual(lines.slice(4), ["ECONNREFUSED", "ECONNREFUSED", "ECONNREFUSED"]);
    const log = await egressLog(engine, "main");
    assert.ok(log.every((e) => e.verdict === "denied" && e.reason.length > 5));
    assert.ok(log.some((e) => e.kind === "udp" && e.address === "8.8.8.8" && e.port === 123));
    assert.ok(log.some((e) => e.kind === "tcp" && e.host === "name.example" && e.port === 22));
  });
  test("addresses that were never handed out, and names that were forgotten, lead nowhere", async () => {
    const lines = await python(
      box,
      `${REACH}
first = socket.gethostbyname("first.example")
for i in range(4200):
    try: socket.gethostbyname("n%d.example" % i)
    except OSError: pass
print(reach(first, 80), reach(socket.gethostbyname("first.example"), 80), socket.gethostbyname("first.example") != first)
`,
      { timeoutMs: 60_000 },
    );
    assert.deepEqual(lines, ["ECONNREFUSED open True"]);
  });
  test("a sandbox keeps all ports for itself, and talks to itself", async () => {
    const lines = await python(
      box,
      `${REACH}
kept = []
for port in (53, 80, 443, 3000 + 1, 65535):
    s = socket.socket(); s.bind(("0.0.0.0", port)); s.listen(); kept.append(s)
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("0.0.0.0", port)); kept.append(u)
    six = socket.socket(socket.AF_INET6); six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1); six.bind(("::", port)); six.listen(); kept.append(six)
print([reach(h, 80) for h in ("127.0.0.1", "127.9.9.9", "198.18.0.2", "localhost")], reach("::1", 443, family=socket.AF_INET6))
u.setblocking(True)
c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); c.sendto(b"self", ("127.0.0.1", 65535)); print(u.recv(10).decode())
`,
    );
    assert.deepEqual(lines, ["['open', 'open', 'open', 'open'] open", "self"]);
    assert.equal((await box.exec("curl -s http://api.example.com/still")).stdout, "GET 0");
  });
  test("with internet a connection passes: who speaks first, half-closes, refusals", async () => {
    const closed = await startTcp(() => {});
    await closed.stop();
    await engine.api("PUT", "/v1/sandboxes/open/egress", {
      url: worker.url,
      token: TOKEN,
      allow_addresses: [echo.port, closed.port].map((p) => `127.0.0.1:${p}`),
    });
    const lines = await python(
      open,
      `${REACH}
s = socket.create_connection(("echo.test", ${echo.port}), 5)
f = s.makefile("rwb"); print(f.readline().decode().strip())
f.write(b"line\\n"); f.flush(); print(f.readline().decode().strip())
s.sendall(b"last"); s.shutdown(socket.SHUT_WR); print(f.read().decode())
print(reach("echo.test", ${closed.port}))
print("named", socket.gethostbyname("echo.test").startswith("198.18."))
`,
    );
    assert.deepEqual(lines, ["hello", "line", "last", "ECONNREFUSED", "named True"]);
    const log = await egressLog(engine, "open");
    const passed = log.find((e) => e.verdict === "passed");
    assert.deepEqual(
      [passed.kind, passed.host, passed.address, passed.port, passed.bytes_up, passed.bytes_down],
      ["tcp", "echo.test", "127.0.0.1", echo.port, 9, 15],
    );
  });
  test("200 MB pass whole, and 100 connections at once", async () => {
    const lines = await python(
      open,
      `
import socket, hashlib, threading
def once(size, out):
    s = socket.create_connection(("echo.test", ${echo.port}), 10)
    data = bytes(range(256)) * (size // 256)
    sent, got, n = hashlib.sha256(data).hexdigest(), hashlib.sha256(), -6
    def send(): s.sendall(data); s.shutdown(socket.SHUT_WR)
    t = threading.Thread(target=send); t.start()
    s.recv(6, socket.MSG_WAITALL)
    while True:
        d = s.recv(1 << 20)
        if not d: break
        got.update(d)
    t.join(); out.append(sent == got.hexdigest())
out = []; once(100 << 20, out); print(out)
out = []; ts = [threading.Thread(target=once, args=(1 << 18, out)) for i in range(100)]
for t in ts: t.start()
for t in ts: t.join()
print(len(out), all(out))
`,
      { timeoutMs: 60_000 },
    );
    assert.deepEqual(lines, ["[True]", "100 True"]);
  });
  test("one source port again and again, and thousands of connections", async () => {
    const lines = await python(
      open,
      `
import socket
for i in range(5):
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("0.0.0.0", 45678)); s.settimeout(5)
    s.connect((socket.gethostbyname("echo.test"), ${echo.port})); assert s.recv(6) == b"hello\\n"
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0"); s.close()
for i in range(5000):
    s = socket.create_connection((socket.gethostbyname("echo.test"), ${echo.port}), 5)
    if i % 50 == 0: assert s.recv(6) == b"hello\\n"
    s.close()
print("done")
`,
      { timeoutMs: 60_000 },
    );
    assert.deepEqual(lines, ["done"]);
  });
  test("names that stand for addresses of the host, private or special ones are refused, in every family", async () => {
    await allow();
    const names = [
      "private",
      "metadata",
      "loopback",
      "zero",
      "ula",
      "linklocal",
      "mapped",
      "nat64",
      "sixtofour",
      "multicast",
      "nothing",
    ];
    const lines = await python(
      open,
      `${REACH}
import sys
for n in ${JSON.stringify(names)}:
    try: a = socket.gethostbyname(n + ".test"); print(n, reach(a, ${forbidden.port}), reach(a, 22))
    except OSError as e: print(n, "no name")
`,
      { timeoutMs: 60_000 },
    );
    assert.deepEqual(
      lines,
      names.map((n) => (n === "nothing" ? "nothing no name" : `${n} ECONNREFUSED ECONNREFUSED`)),
    );
    for (const literal of ["10.1.2.3", "169.254.169.254", "192.168.0.1", "172.16.0.1", "100.64.0.1", "203.0.113.1"])
      assert.equal((await open.exec(`curl -s -m 3 http://${literal}:${forbidden.port}/`)).exitCode, 7, literal);
    assert.equal((await open.exec("curl -s -o /dev/null -w '%{http_code}' -m 3 http://private.test/")).stdout, "403");
    assert.deepEqual(secret, []);
    const log = await egressLog(engine, "open");
    assert.ok(log.some((e) => e.host === "metadata.test" && /not on the internet/.test(e.reason)));
  });
  test("a name that changes its address between look-up, check and connect gains nothing", async () => {
    await allow();
    const before = resolver.asked.get("rebind.test") ?? 0;
    const lines = await python(
      open,
      `${REACH}
got = {}
for i in range(30):
    try: r = reach(socket.gethostbyname("rebind.test"), ${forbidden.port})
    except OSError: r = "no name"
    got[r] = got.get(r, 0) + 1
print(set(got) <= {"ECONNREFUSED", "open"} and got.get("ECONNREFUSED", 0) > 0)
import subprocess
print(set(subprocess.run(["curl", "-s", "-m", "3", "-o", "/dev/null", "-w", "%{http_code}", "http://rebind.test/"], capture_output=True, text=True).stdout for i in range(6)))
a = socket.gethostbyname("several.test")
s = socket.create_connection((a, ${echo.port}), 5); print(s.recv(6).decode().strip())
`,
      { timeoutMs: 60_000 },
    );
    // Whatever it was when it was asked for, it was asked once for the program (A and AAAA) and once for the connection, which went there or nowhere.
    assert.ok((resolver.asked.get("rebind.test") ?? 0) - before <= 4 * 30 + 6 * 6);
    assert.deepEqual(lines.slice(0, 2), ["True", "{'403'}"]);
    assert.equal(lines[2], "hello");
    assert.deepEqual(secret, [], "the host's service was not reached");
  });
  test("HTTP passes request by request where others are intercepted on its port", async () => {
    const seen = [];
    const web = await startHttp((req, res) => {
      seen.push([req.method, req.url, req.headers.host]);
      req.pipe(res);
      if (req.method === "GET") res.end("direct");
    });
    web.server.on("upgrade", (_req, socket) => {
      socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
      socket.pipe(socket);
    });
    await allow(web.port);
    const url = `echo.test:${web.port}`;
    const r = await open.exec(
      `curl -s http://${url}/a?b=1 http://${url}/c; curl -s --data-binary hello http://${url}/post; curl -s http://api.example.com:${web.port}/i; ` +
        `curl -s -o /dev/null -w ' %{http_code}' -H 'Host: evil.test' http://${url}/; curl -s -o /dev/null -w ' %{http_code}' -H 'Host: evil.test:${web.port}' http://${url}/; ` +
        `curl -s -o /dev/null -w ' %{http_code}' -x http://${url} http://evil.test:${web.port}/; curl -s -H 'Host: api.example.com:${web.port}' http://${url}/`,
    );
    assert.equal(r.stdout, "directdirecthelloGET 0 421 421 421GET 0");
    assert.deepEqual(seen, [
      ["GET", "/a?b=1", url],
      ["GET", "/c", url],
      ["POST", "/post", url],
    ]);
    const lines = await python(
      open,
      `${RAW}
s = socket.create_connection(("echo.test", ${web.port}))
s.sendall(b"GET /ws HTTP/1.1\\r\\nHost: ${url}\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n")
print(s.recv(1000).split(b" ")[1].decode()); s.sendall(b"ping"); print(s.recv(10).decode())
print("not HTTP:", status(talk(b"SSH-2.0-x\\r\\n", "echo.test", ${web.port}, half=True)))
`,
    );
    assert.deepEqual(lines, ["101", "ping", "not HTTP: 400"]);
    const log = await egressLog(engine, "open");
    assert.ok(
      log.some((e) => e.kind === "http" && e.verdict === "passed" && e.host === "echo.test" && e.path === "/a"),
    );
    await web.stop();
  });
  test("on a looked-at port a protocol in which the server speaks first passes too", async () => {
    await allow(echo.port);
    const begun = Date.now();
    const lines = await python(
      open,
      `
import socket
s = socket.create_connection(("echo.test", ${echo.port}), 10); print(s.recv(6).decode().strip())
`,
    );
    assert.deepEqual(lines, ["hello"]);
    assert.ok(Date.now() - begun < 8000);
    await allow();
  });
  test("connections end with their sandbox, and it with the engine's memory of it", async () => {
    const b = await engine.sandbox("brief", {
      enable_internet: true,
      egress: {
        url: worker.url,
        token: TOKEN,
        hosts: ["api.example.com"],
        allow_addresses: [`127.0.0.1:${echo.port}`],
      },
    });
    const count = echo.sockets.size;
    await b.call("POST", "/api/process/start", {
      command: `python3 -c 'import socket,time; s=[socket.create_connection(("echo.test",${echo.port})) for i in range(20)]; time.sleep(60)'`,
      sessionId: "__DISABLE_SESSION__",
    });
    for (let i = 0; i < 100 && echo.sockets.size < count + 20; i += 1) await sleep(50);
    assert.ok(echo.sockets.size >= count + 20);
    await engine.api("DELETE", "/v1/sandboxes/brief");
    for (let i = 0; i < 100 && echo.sockets.size > count; i += 1) await sleep(50);
    assert.ok(echo.sockets.size <= count);
  });
}

/** A resolver of the outside, in which the operator of `rebind.test` is hostile. */
async function startResolver() {
  const v4 = {
    echo: "127.0.0.1",
    evil: "127.0.0.1",
    private: "10.1.2.3",
    metadata: "169.254.169.254",
    loopback: "127.0.0.1",
    zero: "0.0.0.0",
    multicast: "224.0.0.9",
  };
  const v6 = {
    ula: "fd000000000000000000000000000001",
    linklocal: "fe800000000000000000000000000001",
    mapped: "00000000000000000000ffff7f000001",
    nat64: "0064ff9b00000000000000007f000001",
    sixtofour: "20027f00000100000000000000000001",
  };
  const asked = new Map();
  const server = dgram.createSocket("udp4");
  server.on("message", (msg, from) => {
    let at = 12;
    const labels = [];
    for (; msg[at] > 0; at += msg[at] + 1) labels.push(msg.subarray(at + 1, at + 1 + msg[at]).toString());
    const type = msg.readUInt16BE(at + 1);
    const name = labels.join(".").toLowerCase();
    const kind = labels.at(-2);
    asked.set(name, (asked.get(name) ?? 0) + 1);
    const list = [];
    const quad = (text) => Buffer.from(text.split(".").map(Number));
    if (type === 1 && kind in v4) list.push(quad(v4[kind]));
    if (type === 1 && kind === "several") list.push(quad("10.0.0.1"), quad("169.254.169.254"), quad("127.0.0.1"));
    if (type === 1 && kind === "rebind") list.push(quad(asked.get(name) % 4 < 2 ? "10.9.9.9" : "127.0.0.1"));
    if (type === 28 && kind in v6) list.push(Buffer.from(v6[kind], "hex"));
    const known = kind in v4 || kind in v6 || kind === "several" || kind === "rebind";
    const head = Buffer.from(msg.subarray(0, at + 5));
    head.writeUInt16BE(0x8180 | (known ? 0 : 3), 2);
    head.writeUInt16BE(list.length, 6);
    head.writeUInt16BE(0, 8);
    head.writeUInt16BE(0, 10);
    const records = list.map((data) =>
      Buffer.concat([Buffer.from([0xc0, 12, 0, type, 0, 1, 0, 0, 0, 0, 0, data.length]), data]),
    );
    server.send(Buffer.concat([head, ...records]), from.port, from.address);
  });
  await new Promise((done) => server.bind(0, "127.0.0.1", done));
  return { port: server.address().port, asked, stop: () => server.close() };
}
