/** HTTPS on its way out of a sandbox: ended by the engine, trusted by the programs inside. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { scratch } from "../scratch.mjs";
import { isRoot, startEngine } from "./harness.mjs";
import { egressLog, python, RAW, startWorker, TOKEN } from "./outside.mjs";

const CA = "/etc/cloudflare/certs/cloudflare-containers-ca.crt";
const BUNDLE = "/etc/ssl/certs/ca-certificates.crt";
const LONG = `${"a".repeat(50)}.${"b".repeat(50)}.long.example`;

for (const user of isRoot ? ["root", "nobody"] : ["self"]) {
  describe(`https as ${user}`, () => suite(user));
}

function suite(user) {
  let engine;
  let box;
  let worker;
  let work;
  before(async () => {
    work = scratch("tls");
    worker = await startWorker();
    engine = await startEngine({ user });
    box = await engine.sandbox("main", {
      egress: {
        url: worker.url,
        token: TOKEN,
        https_hosts: ["*.example.com", "1.2.3.4", "*.long.example", "port.example:8443"],
      },
    });
  });
  after(async () => {
    await engine.stop();
    await worker.stop();
    rmSync(work, { recursive: true, force: true });
  });
  const has = async (program) => (await box.exec(`command -v ${program}`)).exitCode === 0;

  test("curl, python and node trust it, with and without the variables that point to it", async (t) => {
    const clients = {
      curl: [
        "curl -sS --fail https://api.example.com/v1?q=1",
        "env -u CURL_CA_BUNDLE -u SSL_CERT_FILE curl -sS --fail https://api.example.com/v1?q=1",
      ],
      python3: [
        `python3 -c 'import urllib.request as u; print(u.urlopen("https://api.example.com/v1?q=1").read().decode())'`,
        `env -u SSL_CERT_FILE python3 -c 'import urllib.request as u; print(u.urlopen("https://api.example.com/v1?q=1").read().decode())'`,
      ],
      node: [
        `node -e 'require("https").get("https://api.example.com/v1?q=1", (r) => r.on("data", (d) => console.log(String(d))))'`,
      ],
      wget: ["wget -qO- https://api.example.com/v1?q=1"],
    };
    for (const [program, commands] of Object.entries(clients)) {
      if (!(await has(program))) {
        t.diagnostic(`${program} is not on this machine`);
        continue;
      }
      for (const command of commands) {
        const r = await box.exec(command, { timeoutMs: 20_000 });
        assert.equal(r.exitCode, 0, `${command}: ${r.stderr}`);
        assert.match(r.stdout, /GET 0/, command);
        assert.equal(worker.last().asked, "https://api.example.com/v1?q=1", command);
      }
    }
    assert.equal(worker.last().headers["x-caisson-egress-token"], TOKEN);
  });
  test("a large answer arrives whole as fast as it comes, with a length and in chunks", async () => {
    const piece = Buffer.alloc(1_000_003, "0123456789abcdef");
    const pieces = 64;
    const expected = createHash("sha256");
    for (let i = 0; i < pieces; i++) expected.update(piece);
    const answer = (headers) => (_req, res) => {
      res.writeHead(200, headers);
      for (let i = 0; i < pieces; i++) res.write(piece);
      res.end();
    };
    worker.on["/large"] = answer({ "content-length": piece.length * pieces });
    worker.on["/large-chunked"] = answer({});
    const digest = expected.digest("hex");
    for (const path of ["large", "large-chunked"]) {
      const r = await box.exec(`curl -sS --fail https://api.example.com/${path} | sha256sum`, { timeoutMs: 60_000 });
      assert.equal(r.stdout.split(" ")[0], digest, `${path}: ${r.stderr}`);
    }
  });
  test("git clones over it", async () => {
    const repo = join(work, "r.git");
    const script = `set -e; git init -q --bare ${repo}; git init -q ${work}/w; cd ${work}/w; echo hello > f; git add f
      git -c user.name=a -c user.email=a@b commit -qm x; git push -q ${repo} HEAD:refs/heads/main; cd ${repo}; git symbolic-ref HEAD refs/heads/main; git update-server-info`;
    assert.equal(spawnSync("sh", ["-c", script]).status, 0);
    worker.files["/r.git"] = repo;
    const r = await box.exec("cd /tmp && rm -rf r && git clone -q https://git.example.com/r.git && cat r/f");
    assert.deepEqual([r.exitCode, r.stdout], [0, "hello\n"], r.stderr);
  });
  test("the certificate is for the name, and verifies as strictly as one can ask", async () => {
    const names = ["api.example.com", LONG, "x_y.example.com", "xn--bcher-kva.example.com"];
    const lines = await python(
      box,
      `
import ssl, socket
for host in ${JSON.stringify(names)}:
    ctx = ssl.create_default_context()
    ctx.verify_flags |= ssl.VERIFY_X509_STRICT
    ctx.minimum_version = ssl.TLSVersion.TLSv1_2
    ctx.set_alpn_protocols(["h2", "http/1.1"])
    s = ctx.wrap_socket(socket.create_connection((host, 443), 10), server_hostname=host)
    c = s.getpeercert()
    print(c["subjectAltName"], s.version(), s.selected_alpn_protocol(), s.cipher()[0])
try:
    ctx.wrap_socket(socket.create_connection(("api.example.com", 443), 10), server_hostname="other.example.com").getpeercert()
    print("took another name")
except ssl.SSLError as e: print("refused", e.reason)
`,
    );
    for (const [i, name] of names.entries())
      assert.match(lines[i], new RegExp(`^\\(\\('DNS', '${name}'\\),\\) TLSv1.2 http/1.1 ECDHE-ECDSA-(AES|CHACHA)`));
  });
  test("openssl verifies chain, key, purpose; sessions resume; TLS 1.3 alone is refused at once", async (t) => {
    if (!(await has("openssl"))) return t.skip("openssl is not on this machine");
    const connect = "openssl s_client -connect api.example.com:443 -servername api.example.com -verify_return_error";
    const r = await box.exec(
      `echo | ${connect} -verify_hostname api.example.com -purpose sslserver 2>&1; openssl x509 -in ${CA} -noout -text`,
    );
    assert.match(r.stdout, /Verify return code: 0 \(ok\)/);
    assert.match(r.stdout, /CA:TRUE, pathlen:0/);
    assert.match(r.stdout, /Certificate Sign, CRL Sign/);
    const again = await box.exec(
      `${connect} -tls1_2 -sess_out /tmp/sess </dev/null >/dev/null 2>&1; ${connect} -tls1_2 -sess_in /tmp/sess </dev/null 2>&1 | grep -E '^(New|Reused)'`,
    );
    assert.match(again.stdout, /^Reused/);
    const begun = Date.now();
    const only13 = await box.exec(`echo | ${connect} -tls1_3 2>&1`);
    assert.notEqual(only13.exitCode, 0);
    assert.ok(Date.now() - begun < 5000);
  });
  test("without a name in TLS the address is the host", async () => {
    const lines = await python(
      box,
      `
import ssl, socket
ctx = ssl.create_default_context()
s = ctx.wrap_socket(socket.create_connection(("1.2.3.4", 443), 10), server_hostname="1.2.3.4")
print(s.getpeercert()["subjectAltName"])
s.sendall(b"GET /ip HTTP/1.1\\r\\nHost: 1.2.3.4\\r\\nConnection: close\\r\\n\\r\\n"); print(s.recv(1000).split(b" ")[1].decode())
ctx.check_hostname = False
s = ctx.wrap_socket(socket.create_connection(("api.example.com", 443), 10))
s.sendall(b"GET /nosni HTTP/1.1\\r\\nHost: api.example.com\\r\\nConnection: close\\r\\n\\r\\n"); print(s.recv(1000).split(b" ")[1].decode())
`,
    );
    assert.deepEqual(lines, ["(('IP Address', '1.2.3.4'),)", "201", "201"]);
    assert.deepEqual(
      worker.seen.slice(-2).map((s) => s.asked),
      ["https://1.2.3.4/ip", "https://api.example.com/nosni"],
    );
  });
  test("a request for another host than TLS named is misdirected", async () => {
    const before = worker.seen.length;
    const r = await box.exec(
      "curl -s -i -H 'Host: other.example.com' https://api.example.com/; curl -s -o /dev/null -w '%{http_code}' -H 'Host: evil.example' https://api.example.com/; " +
        "curl -s -o /dev/null -w ' %{http_code}' --request-target http://api.example.com/ https://api.example.com/; " +
        "curl -s -o /dev/null -w ' %{http_code}' --request-target https://other.example.com/ -H 'Host: other.example.com' https://api.example.com/",
    );
    assert.match(r.stdout, /^HTTP\/1.1 421 .*"MISDIRECTED".*\n421 400 421$/s);
    assert.equal(worker.seen.length, before);
  });
  test("hosts that are not allowed are refused in words, plain HTTP on the port too", async () => {
    const r = await box.exec("curl -s -w '%{http_code}' https://evil.example/");
    assert.match(r.stdout, /"HOST_NOT_ALLOWED".*"evil.example".*403$/s);
    assert.match((await box.exec("curl -s -w '%{http_code}' http://api.example.com:443/")).stdout, /403$/);
    assert.equal((await box.exec("curl -s https://api.example.com:8443/")).stdout.includes("HOST_NOT_ALLOWED"), true);
    assert.equal((await box.exec("curl -s https://port.example:8443/")).stdout, "GET 0");
    assert.equal(worker.last().asked, "https://port.example:8443/");
    const last = (await egressLog(engine, "main")).filter((e) => e.host === "evil.example").at(-1);
    assert.deepEqual([last.kind, last.verdict, last.status], ["https", "denied", 403]);
  });
  test("a program that does not trust it fails, and the log says why", async () => {
    const r = await box.exec("curl -sS --cacert /etc/hostname --capath /nowhere https://api.example.com/");
    assert.notEqual(r.exitCode, 0);
    const insecure = await box.exec(
      "SSL_CERT_FILE=/dev/null python3 -c 'import urllib.request as u; u.urlopen(\"https://api.example.com/\")'",
    );
    assert.match(insecure.stderr, /CERTIFICATE_VERIFY_FAILED/);
    assert.match((await egressLog(engine, "main")).at(-1).reason, /does not trust/);
  });
  test("large bodies arrive whole both ways, a byte at a time too", async () => {
    worker.on["/sum"] = (req, res) => {
      const h = createHash("sha256");
      req.on("data", (d) => h.update(d));
      req.on("end", () => res.end(h.digest("hex")));
    };
    worker.on["/bytes"] = (_req, res) => res.end(Buffer.alloc(30_000_000, "z"));
    const r = await box.exec(
      "head -c 30000000 /dev/urandom > /tmp/big; curl -s -T /tmp/big https://api.example.com/sum; echo; sha256sum < /tmp/big; curl -s https://api.example.com/bytes | tr -d z | wc -c",
      { timeoutMs: 60_000 },
    );
    const [there, here, left] = r.stdout.trim().split("\n");
    assert.equal(there, here.split(" ")[0]);
    assert.equal(left.trim(), "0");
    const lines = await python(
      box,
      `
import ssl, socket, time
ctx = ssl.create_default_context()
i, o = ssl.MemoryBIO(), ssl.MemoryBIO()
t = ctx.wrap_bio(i, o, server_hostname="api.example.com")
s = socket.create_connection(("api.example.com", 443), 10)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
def pump(f):
    while True:
        try: r = f(); done = True
        except ssl.SSLWantReadError: done = False
        for b in o.read(): s.send(bytes([b]))
        if done: return r
        i.write(s.recv(1))
pump(t.do_handshake)
pump(lambda: t.write(b"GET /slow HTTP/1.1\\r\\nHost: api.example.com\\r\\n\\r\\n"))
print(pump(lambda: t.read(12)).decode())
`,
    );
    assert.deepEqual(lines, ["HTTP/1.1 201"]);
  });
  test("a WebSocket within TLS, and keep-alive", async () => {
    worker.upgrades["/wss"] = (_req, socket) => {
      socket.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
      socket.on("data", (d) => socket.write(d.toString().toUpperCase()));
      return true;
    };
    const lines = await python(
      box,
      `
import ssl, socket
s = ssl.create_default_context().wrap_socket(socket.create_connection(("api.example.com", 443), 10), server_hostname="api.example.com")
for i in range(3):
    s.sendall(b"GET /k%d HTTP/1.1\\r\\nHost: api.example.com\\r\\n\\r\\n" % i)
    got = b""
    while b"GET 0" not in got: got += s.recv(1000)
s.sendall(b"GET /wss HTTP/1.1\\r\\nHost: api.example.com\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n")
print(s.recv(1000).split(b" ")[1].decode())
s.sendall(b"hello"); print(s.recv(100).decode())
`,
    );
    assert.deepEqual(lines, ["101", "HELLO"]);
  });
  test("garbage in place of TLS ends the connection", async () => {
    const lines = await python(
      box,
      `${RAW}
import os
for data in (b"\\x16\\x03\\x01\\xff\\xff" + b"x" * 100, b"\\x16\\x03\\x01\\x00\\x05\\x02aaaa", b"\\x16\\x03\\x01" + os.urandom(500), b"\\x16"):
    print(len(talk(data, port=443, half=True)) < 60)
`,
    );
    assert.deepEqual(lines, ["True", "True", "True", "True"]);
    assert.equal((await box.exec("curl -s https://api.example.com/")).stdout, "GET 0");
  });
  test("only the certificate is inside; the key is the engine's alone, and stays over a restart", async () => {
    const dir = join(engine.home, "state/ca");
    for (const file of ["ca.key", "ca.crt"]) assert.equal(statSync(join(dir, file)).mode & 0o777, 0o600);
    assert.equal(statSync(dir).mode & 0o777, 0o700);
    const key = readFileSync(join(dir, "ca.key"), "utf8").split("\n")[1];
    const inside = await box.exec(
      `cat ${CA}; grep -rls '${key}' /etc /opt /var /usr/local /home /tmp /run 2>/dev/null; echo end`,
    );
    assert.equal(inside.stdout, `${readFileSync(join(dir, "ca.crt"), "utf8")}end\n`);
    assert.ok(!inside.stdout.includes("PRIVATE"));
    const bundle = (await box.exec(`cat ${BUNDLE}`)).stdout;
    assert.ok(bundle.endsWith(readFileSync(join(dir, "ca.crt"), "utf8")));
    if (existsSync(BUNDLE))
      assert.ok(bundle.startsWith(readFileSync(BUNDLE, "utf8")), "what the host trusts is trusted");
    assert.ok(!readFileSync(BUNDLE, "utf8").includes(key));

    const keeper = await startEngine({ user, keep: true });
    const path = join(keeper.home, "state/ca/ca.crt");
    const first = readFileSync(path, "utf8");
    await keeper.stop();
    const second = await startEngine({ user, dir: keeper.home, keep: true });
    assert.equal(readFileSync(path, "utf8"), first, "kept");
    await second.stop();
    writeFileSync(join(keeper.home, "state/ca/ca.key"), "rubbish");
    const third = await startEngine({ user, dir: keeper.home });
    assert.notEqual(readFileSync(path, "utf8"), first, "made anew");
    const other = await third.sandbox("other", { egress: { url: worker.url, token: TOKEN, https_hosts: ["*"] } });
    assert.equal((await other.exec("curl -sS https://api.example.com/")).stdout, "GET 0");
    await third.stop();
  });
  test("variables that the caller sets are not replaced", async () => {
    const own = await engine.sandbox("own", { env: { NODE_EXTRA_CA_CERTS: "/mine.crt" } });
    assert.equal((await own.exec("echo $NODE_EXTRA_CA_CERTS $SSL_CERT_FILE")).stdout, `/mine.crt ${BUNDLE}\n`);
    await engine.api("DELETE", "/v1/sandboxes/own");
  });
}
