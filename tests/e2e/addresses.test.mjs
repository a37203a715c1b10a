/** Names and the addresses behind them: what is judged is what is connected to, whatever a resolver says in between. */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { rmSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { scratch } from "../scratch.mjs";
import { openStack } from "./lib.mjs";
import { makeCertificate, ownAddress, startResolver, startSite } from "./outside.mjs";

const LARGE = randomBytes(20_000_003);
const site = ownAddress();
const other = ownAddress();
const names = {
  "app.example": [site],
  "mixed.example": ["10.255.255.1", site],
  "denied.example": [other],
  "loopback.example": ["127.0.0.1"],
  "ten.example": ["10.1.2.3"],
  "metadata.example": ["169.254.169.254"],
  "mapped.example": ["::ffff:127.0.0.1"],
  "unique.example": ["fd00::1"],
  "wrong-name.example": [site],
};
let dir;
let stack;
let api;
let resolver;
let server;
const seen = [];

before(async () => {
  dir = scratch("addresses");
  const tls = makeCertificate(dir, ["app.example", "rebound.example", "mixed.example", "stranger.example"]);
  resolver = await startResolver(names);
  const handler = (req, res) => {
    seen.push(`${req.headers.host}${req.url}`);
    const to = /^\/to\?(.*)$/.exec(req.url)?.[1];
    if (to !== undefined) return res.writeHead(302, { location: decodeURIComponent(to) }).end();
    if (req.url.startsWith("/large")) {
      res.writeHead(200, req.url === "/large" ? { "content-length": LARGE.length } : {});
      return res.end(LARGE);
    }
    if (req.url.startsWith("/cut")) {
      res.writeHead(200, req.url === "/cut" ? { "content-length": LARGE.length } : {});
      return res.write(LARGE.subarray(0, 300_000), () => setTimeout(() => res.destroy(), 100));
    }
    let bytes = 0;
    const sum = createHash("sha256");
    req.on("data", (d) => {
      bytes += d.length;
      sum.update(d);
    });
    if (req.url.startsWith("/sum")) return req.on("end", () => res.end(sum.digest("hex")));
    req.on("end", () => res.writeHead(200, { "x-caisson-forged": "1" }).end(`here ${req.method} ${bytes}\n`));
  };
  server = await startSite(site, handler, tls);
  for (const each of server?.servers ?? [])
    each.on("upgrade", (req, socket) => {
      const accept = createHash("sha1")
        .update(`${req.headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
        .digest("base64");
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n\x81\x05hello`,
      );
      socket.on("error", () => {}).resume();
    });
  stack = await openStack({ engineArgs: ["--resolver", resolver.at, "--trust", tls.file] });
  api = stack.api;
});
after(async () => {
  await stack.close();
  await server?.stop();
  resolver.stop();
  rmSync(dir, { recursive: true, force: true });
});

const run = async (session, command) =>
  (await api.ok("POST", `/v1/sessions/${session.id}/exec`, { command, timeout_s: 30 })).body;
const answer = async (session, args) => {
  const { stdout, stderr } = await run(session, `curl -sS -m 10 -i ${args}`);
  const [head, ...body] = stdout.split("\r\n\r\n");
  return {
    status: Number(/ (\d+)/.exec(head)?.[1]),
    rule: /x-caisson-denied: (\S+)/i.exec(head)?.[1],
    head,
    text: body.join("\r\n\r\n") + stderr,
  };
};
const log = async (session) => (await api.ok("GET", `/v1/sessions/${session.id}/egress`)).body.egress;

describe("a name that is allowed", () => {
  let session;
  before(async () => {
    session = await api.session({ agent: "shell", policy: { network: { allow: ["*.example"] } } });
  });

  test("is refused on its address, which the log names", async () => {
    for (const [name, address] of [
      ["loopback", "127.0.0.1"],
      ["ten", "10.1.2.3"],
      ["metadata", "169.254.169.254"],
      ["mapped", "127.0.0.1"],
      ["unique", "fd00::1"],
      ["app", site],
    ])
      for (const scheme of ["http", "https"]) {
        const got = await answer(session, `${scheme}://${name}.example/secret?q=1`);
        assert.deepEqual([name, got.status, got.rule], [name, 403, "network.private_ranges"], got.text);
        const entry = (await log(session)).at(-1);
        assert.deepEqual([entry.host, entry.address, entry.verdict], [`${name}.example`, address, "deny"]);
      }
    assert.deepEqual(seen, [], "nothing was reached");
    const { events } = (await api.ok("GET", `/v1/sessions/${session.id}/events?limit=1000`)).body;
    const denied = events.filter(({ type }) => type === "egress.denied");
    assert.equal(denied.length, 12);
    assert.deepEqual([denied[0].address, denied[0].rule], ["127.0.0.1", "network.private_ranges"]);
  });

  test("and does not exist is said not to", async () => {
    const got = await answer(session, "http://nowhere.example/");
    assert.deepEqual([got.status, /no such name/.test(got.text)], [502, true], got.text);
  });

  test("a name that is not allowed is not even looked up", async () => {
    const before = resolver.asked.length;
    assert.equal((await answer(session, "http://data-in-a-name.other/")).status, 403);
    assert.equal(resolver.asked.length, before);
  });
});

describe("an address that the policy names", () => {
  let session;
  before(async () => {
    session = await api.session({
      agent: "shell",
      policy: { network: { allow: ["*.example", `${site}/32`, other.replace(/\d+$/, "0/24")], deny: [other] } },
    });
  });

  test("is reached under its name, over HTTP and HTTPS, and the log says which it was", async (t) => {
    if (server === null) return t.skip("this user may not listen on ports 80 and 443");
    for (const scheme of ["http", "https"]) {
      const got = await answer(session, `${scheme}://app.example/a?b=c`);
      assert.deepEqual([got.status, got.text], [200, "here GET 0\n"]);
      assert.equal(seen.at(-1), "app.example/a?b=c");
      assert.ok(!/x-caisson/i.test(got.head), got.head);
      const entry = (await log(session)).at(-1);
      assert.deepEqual([entry.address, entry.path, entry.bytes_down], [site, "/a", 11]);
    }
    const sent = await answer(session, "-X POST --data-binary @/usr/bin/env https://app.example/up");
    assert.match(sent.text, /^here POST \d{5,}\n$/);
    assert.equal((await answer(session, "https://mixed.example/")).status, 200, "another address of the name is taken");
  });

  test("large bodies arrive whole both ways, with a length and in chunks, and one that is cut short is seen as such", async (t) => {
    if (server === null) return t.skip("this user may not listen on ports 80 and 443");
    const right = createHash("sha256").update(LARGE).digest("hex");
    for (const path of ["large", "large-chunked"]) {
      const { stdout, stderr } = await run(
        session,
        `curl -sS --fail https://app.example/${path} -o /tmp/l && sha256sum < /tmp/l`,
      );
      assert.equal(stdout.split(" ")[0], right, `${path}: ${stderr}`);
    }
    for (const form of ["", "-H 'transfer-encoding: chunked'"]) {
      const { stdout, stderr } = await run(
        session,
        `curl -sS --fail ${form} --data-binary @/tmp/l https://app.example/sum`,
      );
      assert.equal(stdout, right, `${form}: ${stderr}`);
    }
    for (const path of ["cut", "cut-chunked"])
      assert.notEqual(
        (await run(session, `curl -sS --fail -o /dev/null https://app.example/${path}`)).exit_code,
        0,
        path,
      );
  });

  test("a certificate that is not the name's is refused in words", async (t) => {
    if (server === null) return t.skip("this user may not listen on ports 80 and 443");
    const got = await answer(session, "https://wrong-name.example/");
    assert.equal(got.status, 502);
    assert.match(got.text, /certificate is for another name/);
  });

  test("a WebSocket opens there", async (t) => {
    if (server === null) return t.skip("this user may not listen on ports 80 and 443");
    const { stdout, stderr } = await run(
      session,
      `python3 - <<'PY'
import socket
s = socket.create_connection(("app.example", 80), 10)
s.sendall(b"GET /ws HTTP/1.1\\r\\nHost: app.example\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\nSec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n")
got = b""
while b"hello" not in got: got += s.recv(1000)
print(got.split(b"\\r\\n")[0].decode(), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in got)
PY`,
    );
    assert.equal(stdout, "HTTP/1.1 101 Switching Protocols True\n", stderr);
  });

  test("a deny for the address holds against an allow for the name", async () => {
    const got = await answer(session, "http://denied.example/");
    assert.deepEqual([got.status, got.rule], [403, "network.deny[0]"]);
  });

  test("a name that changes between check and connect is looked up once, and goes where it was checked", async (t) => {
    if (server === null) return t.skip("this user may not listen on ports 80 and 443");
    // The first answer is good, every later one is the machine itself.
    let turn = 0;
    names["rebound.example"] = () => (turn++ === 0 ? [site] : ["127.0.0.1"]);
    resolver.asked.length = 0;
    const got = await answer(session, "https://rebound.example/");
    assert.deepEqual([got.status, resolver.asked], [200, ["rebound.example"]]);
    assert.equal((await log(session)).at(-1).address, site);
    const again = await answer(session, "https://rebound.example/");
    assert.deepEqual([again.status, again.rule], [403, "network.private_ranges"]);
  });

  test("a redirect to an address inside is judged like any other request", async (t) => {
    if (server === null) return t.skip("this user may not listen on ports 80 and 443");
    for (const to of ["http://10.0.0.1/", "http://ten.example/", "http://169.254.169.254/latest/"]) {
      const { stdout } = await run(
        session,
        `curl -s -g -L -m 10 -o /dev/null -w '%{http_code} %{num_redirects}' 'http://app.example/to?${encodeURIComponent(to)}'`,
      );
      assert.match(stdout, /^(403|000) 1$/, to);
    }
  });
});

test("private_ranges: allow lifts the private ones, and not the metadata address", async (t) => {
  if (server === null) return t.skip("this user may not listen on ports 80 and 443");
  const session = await api.session({
    agent: "shell",
    policy: { network: { allow: ["*.example"], private_ranges: "allow" } },
  });
  assert.equal((await answer(session, "http://app.example/")).status, 200);
  assert.equal((await answer(session, "http://metadata.example/")).rule, "network.private_ranges");
});
