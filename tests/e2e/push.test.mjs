/** A private repository by an injected credential, and pushes that wait for an approval, against git's own server. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { scratch } from "../scratch.mjs";
import { as, assertProblem, IDENTITY, openStack, operator } from "./lib.mjs";
import { gitBackend, makeCertificate, ownAddress, startSite } from "./outside.mjs";
import { storedFiles } from "./stored.mjs";

const CREDENTIAL = "tester:e2e-git-password-77aa01c9d4";
const BASIC = Buffer.from(CREDENTIAL).toString("base64");
const address = ownAddress();
const seen = [];
let dir;
let root;
let site;
let stack;
let api;

const git = (...args) => {
  const { status, stdout, stderr } = spawnSync("git", ["-c", "safe.directory=*", ...args], { encoding: "utf8" });
  assert.equal(status, 0, `git ${args.join(" ")}: ${stderr}`);
  return stdout.trim();
};

before(async () => {
  dir = scratch("push");
  root = join(dir, "repositories");
  const seed = join(dir, "seed");
  git("init", "-q", "-b", "main", seed);
  for (const [key, value] of [
    ["user.name", "Tester"],
    ["user.email", "tester@example"],
  ])
    git("-C", seed, "config", key, value);
  spawnSync("sh", ["-c", "echo private > README; git add . && git commit -qm first"], { cwd: seed });
  git("clone", "-q", "--bare", seed, join(root, "private.git"));
  git("-C", join(root, "private.git"), "config", "http.receivepack", "true");
  const tls = makeCertificate(dir, ["git.example"]);
  site = await startSite(address, gitBackend(root, CREDENTIAL, seen), tls);
  if (site === null) return;
  stack = await openStack({
    vars: {
      CAISSON_SEAL_KEY: `1:${Buffer.alloc(32, 9).toString("base64url")}`,
      ...IDENTITY,
      CAISSON_APPROVAL_WAIT_S: "6",
    },
    engineArgs: ["--resolve", `git.example:${address}`, "--trust", tls.file],
  });
  api = stack.api;
});
after(async () => {
  await stack?.close();
  await site?.stop();
  rmSync(dir, { recursive: true, force: true });
});

const session = async (more = {}) =>
  (
    await api.ok(
      "POST",
      "/v1/sessions",
      {
        agent: "shell",
        secrets: { GIT_BASIC: BASIC },
        policy: {
          network: {
            allow: ["git.example:443", address],
            inject: [{ host: "git.example", header: "authorization", format: "Basic {}", secret: "GIT_BASIC" }],
          },
          ...more,
        },
      },
      operator,
    )
  ).body;
const run = async ({ id }, command) =>
  (await api.ok("POST", `/v1/sessions/${id}/exec`, { command, timeout_s: 60 }, operator)).body;
const good = async (at, command) => {
  const { exit_code, stdout, stderr } = await run(at, command);
  assert.equal(exit_code, 0, `${command}: ${stdout}${stderr}`);
  return stdout;
};
const CLONE =
  "cd /workspace && git clone -q https://git.example/private.git p && cd p && git config user.name a && git config user.email a@b";
const commit = (text) => `cd /workspace/p && echo ${text} >> README && git commit -qam '${text}'`;
const pending = ({ id }) =>
  api.until(async () => {
    const { body } = await api.ok("GET", `/v1/sessions/${id}/approvals`, undefined, operator);
    return body.approvals.find(({ state }) => state === "pending");
  }, "an approval that waits");
const decide = ({ id }, approval, body, headers = operator) =>
  api.call("POST", `/v1/sessions/${id}/approvals/${approval}`, body, headers);
const head = () => git("-C", join(root, "private.git"), "log", "-1", "--format=%s", "main");

describe("a private repository", () => {
  test("is cloned, fetched and pushed with a credential that the sandbox never sees", async (t) => {
    if (site === null) return t.skip("this user may not listen on ports 80 and 443");
    const at = await session();
    await good(at, CLONE);
    assert.equal(await good(at, "cat /workspace/p/README"), "private\n");
    await good(at, `${commit("second")} && git push -q`);
    assert.equal(head(), "second");
    await good(at, "cd /workspace/p && git fetch -q && git status -sb");
    // A pack that does not fit git's buffer goes in chunks, after a question with an empty list.
    await good(
      at,
      "cd /workspace/p && head -c 3000000 /dev/urandom > big && git add big && git commit -qm big && git push -q",
    );
    assert.equal(head(), "big");
    // In two halves: the search must not find itself.
    const forms = [BASIC, CREDENTIAL].map((text) => `-e ${text.slice(0, 9)}""${text.slice(9)}`).join(" ");
    const inside = await good(
      at,
      `{ cat /proc/[0-9]*/environ 2>/dev/null; grep -rhas ${forms} /workspace /tmp /root /home /var /run; } | grep -ac ${forms} || true`,
    );
    assert.equal(inside.trim(), "0");
    await api.ok("DELETE", `/v1/sessions/${at.id}`, undefined, operator);
    const found = [];
    for (const [path, bytes] of storedFiles(stack.dir))
      if ([BASIC, CREDENTIAL].some((text) => bytes.includes(text))) found.push(path);
    assert.deepEqual(found, []);
    const { body } = await api.ok("GET", `/v1/sessions/${at.id}/egress`, undefined, operator);
    assert.ok(body.egress.some((e) => e.path === "/private.git/git-receive-pack" && e.address === address));
  });

  test("is not there for a session without the credential", async (t) => {
    if (site === null) return t.skip("this user may not listen on ports 80 and 443");
    const { body } = await api.ok(
      "POST",
      "/v1/sessions",
      { agent: "shell", policy: { network: { allow: ["git.example:443", address] } } },
      operator,
    );
    const { exit_code } = await run(body, "GIT_TERMINAL_PROMPT=0 git clone -q https://git.example/private.git /tmp/q");
    assert.notEqual(exit_code, 0);
  });
});

describe("a push that is held", () => {
  let at;
  before(async () => {
    if (site === null) return;
    at = await session({ git: { push_approval: true } });
    await good(at, CLONE);
  });

  test("waits, is shown with its diff, and goes through when it is approved", async (t) => {
    if (site === null) return t.skip("this user may not listen on ports 80 and 443");
    const pushed = good(at, `${commit("held")} && git push 2>&1`);
    const waiting = await pending(at);
    assert.notEqual(head(), "held");
    assert.equal(waiting.host, "git.example");
    assert.equal(waiting.path, "/private.git/git-receive-pack");
    assert.deepEqual(
      waiting.refs.map(({ ref }) => ref),
      ["refs/heads/main"],
    );
    assert.match(waiting.diff, /^\+held$/m);
    assert.equal(waiting.diff_truncated, false);
    // Another scope is not enough, and neither is another session's id.
    const ann = async (scopes) => as(await api.mint({ sub: "ann", scopes, expires_in_s: 300 }));
    const writer = await ann(["sessions:write"]);
    assertProblem(await decide(at, waiting.id, { decision: "approve" }, writer), 403, "insufficient_scope");
    assertProblem(await decide(at, "apr_unknown", { decision: "approve" }), 404, "approval_not_found");
    assertProblem(await decide(at, waiting.id, { decision: "maybe" }), 400, "invalid_value", "/decision");
    const approver = await ann([`approve:${at.id}`]);
    const answer = await decide(at, waiting.id, { decision: "approve" }, approver);
    assert.deepEqual([answer.status, answer.body.state, answer.body.resolved_by], [200, "approved", "ann"]);
    await pushed;
    assert.equal(head(), "held");
    assertProblem(await decide(at, waiting.id, { decision: "deny" }), 409, "approval_resolved");
    const audit = await (await fetch(`${api.url}/v1/audit`, { headers: operator })).text();
    assert.match(audit, /"act":"approval\.approved","by":"ann"/);
    const { events } = (await api.ok("GET", `/v1/sessions/${at.id}/events?limit=1000`, undefined, operator)).body;
    assert.deepEqual(
      events.filter(({ type }) => type.startsWith("approval.")).map(({ type, state = null }) => [type, state]),
      [
        ["approval.requested", null],
        ["approval.resolved", "approved"],
      ],
    );
  });

  test("is refused in git's own words when it is denied", async (t) => {
    if (site === null) return t.skip("this user may not listen on ports 80 and 443");
    const pushed = run(at, `${commit("refused")} && git push 2>&1`);
    const waiting = await pending(at);
    await decide(at, waiting.id, { decision: "deny", reason: "not on a Friday" });
    const { exit_code, stdout } = await pushed;
    assert.notEqual(exit_code, 0);
    assert.match(stdout, /remote: Caisson: This push needs an approval .*it was denied: not on a Friday/);
    assert.match(stdout, /! \[remote rejected\] main -> main \(not approved\)/);
    assert.notEqual(head(), "refused");
  });

  test("is refused when nobody answers in time", async (t) => {
    if (site === null) return t.skip("this user may not listen on ports 80 and 443");
    const { exit_code, stdout } = await run(at, "cd /workspace/p && git push 2>&1");
    assert.notEqual(exit_code, 0);
    assert.match(stdout, /nobody approved it in time/);
    assert.notEqual(head(), "refused");
    const { body } = await api.ok("GET", `/v1/sessions/${at.id}/approvals`, undefined, operator);
    assert.equal(body.approvals.at(-1).state, "expired");
  });

  test("is one that the policy's rules name, by host and repository; others pass, or are denied", async (t) => {
    if (site === null) return t.skip("this user may not listen on ports 80 and 443");
    const rules = async (git_) =>
      await api.ok(
        "PUT",
        `/v1/sessions/${at.id}/policy`,
        {
          network: {
            allow: ["git.example:443", address],
            inject: [{ host: "git.example", header: "authorization", format: "Basic {}", secret: "GIT_BASIC" }],
          },
          git: git_,
        },
        operator,
      );
    await rules({ push_approval: true, push: { allow: ["git.example/private.git"] } });
    await good(
      at,
      `cd /workspace/p && git fetch -q && git reset -q --hard origin/main; ${commit("free")} && git push -q`,
    );
    assert.equal(head(), "free");
    // The same repository, but not as the rule is written.
    const odd = "cd /workspace/p && git push https://git.example/%70rivate.git HEAD:main 2>&1";
    await good(at, commit("crooked"));
    const held = run(at, odd);
    await decide(at, (await pending(at)).id, { decision: "deny", reason: "another spelling" });
    assert.match((await held).stdout, /it was denied: another spelling/);
    await rules({ push: { ask: ["git.example/private"] } });
    const asked = run(at, "cd /workspace/p && git push 2>&1");
    await decide(at, (await pending(at)).id, { decision: "approve" });
    assert.equal((await asked).exit_code, 0);
    assert.equal(head(), "crooked");
    await rules({ push: { deny: ["git.example/PRIVATE"] } });
    const { exit_code, stdout } = await run(at, `${commit("denied")} && git push 2>&1`);
    assert.notEqual(exit_code, 0);
    assert.match(stdout, /403/);
    assert.equal(head(), "crooked");
    const { body } = await api.ok("GET", `/v1/sessions/${at.id}/egress?limit=1000`, undefined, operator);
    const last = body.egress.filter(({ path }) => path === "/private.git/git-receive-pack").at(-1);
    assert.deepEqual([last.verdict, last.rule], ["deny", "git.push.deny[0]"]);
    await rules({ push_approval: true });
  });

  test("cannot hide in the spelling of its path, in its encoding or behind git's empty question", async (t) => {
    if (site === null) return t.skip("this user may not listen on ports 80 and 443");
    const before = seen.filter((line) => line.startsWith("POST")).length;
    const post = (args) =>
      run(at, `curl -sS -m 20 -o /tmp/answer -w '%{http_code}' ${args} && head -c 200 /tmp/answer | tr -d '\\0'`);
    const curl = (path) => `-X POST --data-binary 0011garbage https://git.example/private.git/${path}`;
    for (const path of ["git-receive-pack", "%67it-receive-pack", "git-receive-pack/", "%2567it-receive-pack"])
      assert.match((await post(curl(path))).stdout, /^403Caisson: this push cannot be read/, path);
    const typed = "-H 'Content-Type: application/x-git-receive-pack-request' -H 'Content-Encoding: gzip'";
    assert.match((await post(`${typed} ${curl("other")}`)).stdout, /^403/);
    assert.equal(seen.filter((line) => line.startsWith("POST")).length, before, "none of them arrived");
    // What follows an empty list is not sent on.
    const zero = "0".repeat(40);
    const hidden = `0000$(printf '%04x' 103)${zero} ${"1".repeat(40)} refs/heads/hidden`;
    await post(`-X POST --data-binary "${hidden}" https://git.example/private.git/git-receive-pack`);
    assert.equal(git("-C", join(root, "private.git"), "for-each-ref", "--format=%(refname)"), "refs/heads/main");
  });
});
