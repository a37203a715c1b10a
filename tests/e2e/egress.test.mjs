/**
 * The way out of a sandbox as it is used for long: on one connection, past the server in front of the Worker. What changes
 * holds from the next request on, and the log has what a program was told.
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { after, before, describe, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { gzipSync } from "node:zlib";
import { openStack } from "./lib.mjs";
import { ownAddress, startSite } from "./outside.mjs";
import { storedFiles } from "./stored.mjs";

const site = ownAddress();
const TEXT = "the same line again and again\n".repeat(1000);
const ALLOWED = { network: { allow: ["app.example", site] } };
const NOTHING = { network: { deny: ["app.example"] } };

let server;
/** The paths that the site was asked for. */
const seen = [];
/** What happens outside before the site answers a path. */
const meanwhile = {};

const options = (more = {}) => ({ engineArgs: ["--resolve", `app.example:${site}`], ...more });

before(async () => {
  server = await startSite(site, async (req, res) => {
    seen.push(req.url);
    req.resume();
    await meanwhile[req.url]?.();
    if (req.url !== "/gzip") return res.end(`here ${req.url}\n`);
    const body = gzipSync(TEXT);
    res.writeHead(200, { "content-encoding": "gzip", "content-length": body.length }).end(body);
  });
});
after(() => server?.stop());

/** A program that asks for the paths, one after the other on one connection, and prints what came: [status, rule] of each. */
const asks = (...paths) => `python3 - <<'PY'
import http.client, json
c = http.client.HTTPConnection("app.example", timeout=20)
said = []
for path in ${JSON.stringify(paths)}:
    c.request("GET", path)
    a = c.getresponse()
    a.read()
    said.append([a.status, a.getheader("x-caisson-denied")])
print(json.dumps(said))
PY`;

async function inside({ api }, session, command) {
  const { body } = await api.ok("POST", `/v1/sessions/${session.id}/exec`, { command, timeout_s: 60 });
  assert.equal(body.exit_code, 0, body.stderr);
  return body.stdout.trim();
}

describe("the way out, on connections that are kept", () => {
  let stack;
  let api;
  before(async () => {
    stack = await openStack(options());
    api = stack.api;
  });
  after(() => stack.close());
  const log = async (session) => (await api.ok("GET", `/v1/sessions/${session.id}/egress`)).body.egress;
  /** How many requests came by the server in front of the Worker. */
  const byTheFront = () => readFileSync(join(stack.dir, "wrangler.log"), "utf8").split("/__caisson/egress/").length - 1;

  test("a change of policy holds for the next request, also of a connection that is open", async (t) => {
    if (server === null) return t.skip("this user may not listen on port 80");
    const session = await api.session({ agent: "shell", policy: ALLOWED });
    const change = (policy) => async () => void (await api.ok("PUT", `/v1/sessions/${session.id}/policy`, policy));
    meanwhile["/deny"] = change(NOTHING);
    const before = seen.length;
    const said = JSON.parse(await inside(stack, session, asks("/1", "/2", "/deny", "/3", "/4")));
    assert.deepEqual(said, [
      [200, null],
      [200, null],
      [200, null],
      [403, "network.deny[0]"],
      [403, "network.deny[0]"],
    ]);
    assert.deepEqual(seen.slice(before), ["/1", "/2", "/deny"]);
    assert.deepEqual(
      (await log(session)).map(({ path, verdict, status }) => [path, verdict, status]),
      [
        ["/1", "allow", 200],
        ["/2", "allow", 200],
        ["/deny", "allow", 200],
        ["/3", "deny", null],
        ["/4", "deny", null],
      ],
    );
    await change(ALLOWED)();
    assert.deepEqual(JSON.parse(await inside(stack, session, asks("/5"))), [[200, null]]);
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
  });

  test("a session that is over lets nothing more out", async (t) => {
    if (server === null) return t.skip("this user may not listen on port 80");
    const session = await api.session({ agent: "shell", policy: ALLOWED });
    await inside(
      stack,
      session,
      `(python3 -c '
import http.client
c = http.client.HTTPConnection("app.example", timeout=20)
while True:
    c.request("GET", "/loop")
    c.getresponse().read()' >/dev/null 2>&1 &)`,
    );
    const loops = () => seen.filter((path) => path === "/loop").length;
    await api.until(async () => loops() > 20, "the program asks again and again");
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
    const last = loops();
    await pause(300);
    assert.equal(loops(), last);
  });

  test("a run that has spent its budget gets no further model call", async () => {
    const session = await api.session({ agent: "shell", limits: { tokens: 1 } });
    const call = `curl -s -o /dev/null -w '%{http_code}\\n' http://model.caisson.internal/v1/messages -H 'content-type: application/json' -d '{"model":"claude-opus-5-5","max_tokens":5,"messages":[{"role":"user","content":"[script:hello] hello"}]}'`;
    const before = stack.modelLog.length;
    const { outcome } = await api.run(session.id, { command: `for i in 1 2 3 4 5 6; do ${call}; done` });
    assert.deepEqual([outcome.type, outcome.reason], ["run.over_budget", "tokens"]);
    assert.equal(stack.modelLog.length, before + 1, JSON.stringify(stack.modelLog.slice(before)));
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
  });

  test("denied bodies, of any length, use up no connection", async (t) => {
    if (server === null) return t.skip("this user may not listen on port 80");
    const session = await api.session({ agent: "shell", policy: ALLOWED });
    await inside(stack, session, "curl -sS http://app.example/first");
    const before = byTheFront();
    const said = await inside(
      stack,
      session,
      `head -c 1000 /dev/zero >/tmp/small; head -c 300000 /dev/zero >/tmp/large
for i in $(seq 80); do for f in small large; do
  curl -s -o /dev/null -w '%{http_code}\\n' --data-binary @/tmp/$f http://denied.example/$f
done; done | sort | uniq -c
curl -sS http://app.example/last`,
    );
    assert.match(said, /^\s*160 403\nhere \/last$/);
    assert.equal((await log(session)).filter(({ verdict }) => verdict === "deny").length, 160);
    assert.equal(byTheFront(), before, "by the server in front");
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
  });

  test("an encoded body passes as it is, and its bytes are counted", async (t) => {
    if (server === null) return t.skip("this user may not listen on port 80");
    const session = await api.session({ agent: "shell", policy: ALLOWED });
    for (let i = 0; i < 2; i++) {
      const got = await inside(
        stack,
        session,
        "curl -sS --compressed -D /tmp/head http://app.example/gzip | sha256sum; grep -ic '^content-encoding: gzip' /tmp/head",
      );
      assert.equal(got, await inside(stack, session, `printf '%s' '${TEXT}' | sha256sum; echo 1`));
    }
    const bytes = (await log(session)).map(({ bytes_down }) => bytes_down);
    assert.deepEqual(bytes, [gzipSync(TEXT).length, gzipSync(TEXT).length]);
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
  });
});

describe("the egress log", () => {
  /** The lines of every session's log as they are on the disk of a Worker that was killed. */
  function onDisk(dir) {
    const lines = [];
    for (const [path] of storedFiles(join(dir, "worker"))) {
      if (!path.endsWith(".sqlite")) continue;
      const db = new DatabaseSync(path);
      try {
        if (db.prepare("SELECT 1 FROM sqlite_master WHERE name = 'egress'").get() === undefined) continue;
        lines.push(...db.prepare("SELECT path, verdict, status, bytes_down FROM egress ORDER BY id").all());
      } finally {
        db.close();
      }
    }
    return lines;
  }

  /** Of every file below `dir`; none while something there comes or goes. */
  function names(dir) {
    try {
      return readdirSync(dir, { recursive: true });
    } catch {
      return [];
    }
  }

  test("has what a program was told on disk when the Worker is killed", async (t) => {
    if (server === null) return t.skip("this user may not listen on port 80");
    const stack = await openStack(options());
    try {
      const told = [
        [NOTHING, { path: "/denied", verdict: "deny", status: null, bytes_down: null }],
        [ALLOWED, { path: "/whole", verdict: "allow", status: 200, bytes_down: 12 }],
      ];
      const ids = [];
      for (const [policy, { path }] of told) {
        const { id } = await stack.api.session({ agent: "shell", policy });
        ids.push(id);
        // The program says that it has its answer by a file: no request of the Worker's is between that and the kill.
        const command = `curl -sS http://app.example/warm >/tmp/warm; sleep 0.5; curl -sS http://app.example${path} >/tmp/got && mv /tmp/got /tmp/done-${id}`;
        stack.api.call("POST", `/v1/sessions/${id}/exec`, { command, timeout_s: 20 }).catch(() => {});
      }
      const done = () => {
        const files = names(join(stack.dir, "engine/sandboxes"));
        return ids.every((id) => files.some((name) => name.endsWith(`done-${id}`)));
      };
      for (const deadline = Date.now() + 15_000; !done() && Date.now() < deadline; ) await pause(1);
      process.kill(-stack.worker.pid, "SIGKILL");
      const lines = onDisk(stack.dir);
      for (const [, line] of told)
        assert.deepEqual({ ...lines.find(({ path }) => path === line.path) }, line, JSON.stringify(lines));
    } finally {
      await stack.close();
    }
  });
});
