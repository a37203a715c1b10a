/** /api/git/checkout against git servers inside the sandbox: what is cloned, where credentials go, what is refused. */
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { NO_SESSION, nap, sleep, startEngine } from "./harness.mjs";

const SERVER = readFileSync(join(import.meta.dirname, "programs/git_server.py"), "utf8");
const PORT = 8417;
const HOST = `127.0.0.1:${PORT}`;
const SECRET = "s3cret/word+x";
const ENCODED = "s3cret%2Fword%2Bx";
const BASE64 = Buffer.from(`alice:${SECRET}`).toString("base64");

describe("git checkout", () => {
  let engine;
  let box;
  const checkout = (body) =>
    box.call("POST", "/api/git/checkout", { sessionId: NO_SESSION, timeoutMs: 60_000, ...body });
  const sh = async (command, more) => {
    const r = await box.exec(command, more);
    assert.equal(r.exitCode, 0, `${command}: ${r.stderr}`);
    return r.stdout.trim();
  };
  const listing = () => sh("ls -A /workspace");

  before(async () => {
    engine = await startEngine();
    box = await engine.sandbox("git");
    await box.call("POST", "/api/write", { path: "/tmp/git_server.py", content: SERVER });
    await sh(
      "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b; set -e\n" +
        "mkdir -p /srv/git; git init -q -b main /tmp/seed; cd /tmp/seed\n" +
        "for i in 1 2 3; do echo $i > file; git add file; git commit -q -m $i; done; git tag v1\n" +
        "git checkout -q -b feature/x; echo x > file; git commit -q -a -m x; git checkout -q main\n" +
        "git clone -q --bare /tmp/seed /srv/git/repo.git",
    );
    await box.call("POST", "/api/process/start", {
      command: `python3 /tmp/git_server.py ${PORT} /srv/git /tmp/requests.log`,
      sessionId: NO_SESSION,
    });
    const up = `for i in $(seq 100); do (exec 3<>/dev/tcp/127.0.0.1/${PORT}) 2>/dev/null && exit 0; sleep 0.1; done; exit 1`;
    await sh(up);
  });
  after(() => engine.stop());

  test("over http: the default branch, into /workspace/<name>", async () => {
    const r = await checkout({ repoUrl: `http://${HOST}/public/repo.git` });
    assert.equal(r.status, 200, r.text);
    assert.deepEqual(
      { ...r.json, timestamp: undefined },
      {
        success: true,
        repoUrl: `http://${HOST}/public/repo.git`,
        branch: "main",
        targetDir: "/workspace/repo",
        timestamp: undefined,
      },
    );
    assert.equal(await sh("cat /workspace/repo/file; git -C /workspace/repo rev-list --count HEAD"), "3\n3");
    await sh("rm -rf /workspace/repo");
  });

  test("branch, tag, depth, a target of its own, file:// and plain paths", async () => {
    const branch = await checkout({
      repoUrl: "file:///srv/git/repo.git",
      branch: "feature/x",
      depth: 1,
      targetDir: "/workspace/a/b c",
    });
    assert.deepEqual(
      [branch.status, branch.json.branch, branch.json.targetDir],
      [200, "feature/x", "/workspace/a/b c"],
    );
    assert.equal(await sh("git -C '/workspace/a/b c' rev-list --count HEAD"), "1");
    const tag = await checkout({ repoUrl: "/srv/git/repo.git", branch: "v1", depth: 2, targetDir: "/workspace/tag" });
    assert.deepEqual([tag.status, tag.json.branch], [200, "v1"]);
    assert.equal(await sh("git -C /workspace/tag rev-list --count HEAD"), "2", "a plain path honours the depth");
    await sh("rm -rf /workspace/a /workspace/tag");
  });

  test("in a session: its directory and its variables", async () => {
    await box.call("POST", "/api/session/create", { id: "s", cwd: "/workspace" });
    const inSession = (command) => box.call("POST", "/api/execute", { command, sessionId: "s" });
    await inSession("mkdir -p /workspace/in; cd /workspace/in; export GIT_CONFIG_COUNT=1");
    await inSession("export GIT_CONFIG_KEY_0=clone.defaultRemoteName GIT_CONFIG_VALUE_0=upstream");
    const r = await checkout({ repoUrl: `http://${HOST}/public/repo.git`, targetDir: "here", sessionId: "s" });
    assert.deepEqual([r.status, r.json.targetDir], [200, "/workspace/in/here"], r.text);
    assert.equal(await sh("git -C /workspace/in/here remote"), "upstream");
    const busy = inSession("sleep 0.5; echo done");
    const after = await checkout({ repoUrl: `http://${HOST}/public/repo.git`, targetDir: "there", sessionId: "s" });
    assert.equal(after.status, 200);
    assert.equal((await busy).json.stdout, "done");
    await sh("rm -rf /workspace/in");
  });

  test("credentials work, and are nowhere afterwards", async () => {
    const repoUrl = `http://alice:${ENCODED}@${HOST}/private/repo.git`;
    const watch = box.call("POST", "/api/execute", {
      command: `for i in $(seq 40); do cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'; sleep 0.01; done`,
      sessionId: NO_SESSION,
    });
    const r = await checkout({ repoUrl, targetDir: "/workspace/private" });
    assert.equal(r.status, 200, r.text);
    assert.equal(r.json.repoUrl, `http://***@${HOST}/private/repo.git`);
    const processes = (await watch).json.stdout;
    assert.match(processes, /git-remote-http|clone/, "the clone was seen");
    const config = await sh("cat /workspace/private/.git/config; grep -r . /workspace/private/.git/logs");
    assert.match(config, new RegExp(`url = http://${HOST}/private/repo.git`));
    for (const text of [r.text, processes, config, engine.log()])
      for (const secret of [SECRET, ENCODED, BASE64]) assert.ok(!text.includes(secret), `${secret} in ${text}`);
    assert.match(await sh("cat /tmp/requests.log"), /alice:s3cret\/word\+x/, "the server got them");
    await sh("rm -rf /workspace/private; ls -A /home/user");
  });

  test("a token as user name", async () => {
    const r = await checkout({ repoUrl: `http://tok_1234567890@${HOST}/token/repo.git`, targetDir: "/workspace/t" });
    assert.equal(r.status, 200, r.text);
    assert.ok(!r.text.includes("tok_1234567890"));
    assert.ok(!(await sh("cat /workspace/t/.git/config")).includes("tok_1234567890"));
    await sh("rm -rf /workspace/t");
  });

  test("a redirect to another host gets no credentials", async () => {
    await sh(": > /tmp/requests.log");
    const r = await checkout({ repoUrl: `http://alice:${ENCODED}@${HOST}/redirect/repo.git` });
    assert.deepEqual([r.status, r.json.code], [401, "GIT_AUTH_FAILED"], r.text);
    const log = await sh("cat /tmp/requests.log");
    assert.match(log, /localhost:/, "the redirect was followed");
    for (const line of log.split("\n")) if (line.includes(" localhost:")) assert.doesNotMatch(line, /s3cret/);
  });

  test("failures: code, status, redacted context, nothing left", async () => {
    const cases = [
      [{ repoUrl: `http://${HOST}/public/nope.git` }, 404, "GIT_REPOSITORY_NOT_FOUND"],
      [{ repoUrl: "/srv/git/nope.git" }, 404, "GIT_REPOSITORY_NOT_FOUND"],
      [{ repoUrl: "file:///tmp" }, 404, "GIT_REPOSITORY_NOT_FOUND"],
      [{ repoUrl: `http://${HOST}/public/repo.git`, branch: "nope" }, 404, "GIT_BRANCH_NOT_FOUND"],
      [{ repoUrl: `http://${HOST}/private/repo.git` }, 401, "GIT_AUTH_FAILED"],
      [{ repoUrl: `http://alice:wrongwrong@${HOST}/private/repo.git` }, 401, "GIT_AUTH_FAILED"],
      [{ repoUrl: "http://127.0.0.1:1/x.git" }, 502, "GIT_NETWORK_ERROR"],
      [{ repoUrl: "http://no-such-host.invalid/x.git" }, 502, "GIT_NETWORK_ERROR"],
      // The sandbox has the host's programs.
      ...(existsSync("/usr/bin/ssh")
        ? [[{ repoUrl: "user@no-such-host.invalid:x.git" }, 502, "GIT_NETWORK_ERROR"]]
        : []),
    ];
    for (const [body, status, code] of cases) {
      const r = await checkout({ targetDir: "/workspace/fail", ...body });
      assert.deepEqual([r.status, r.json.code], [status, code], `${JSON.stringify(body)}: ${r.text}`);
      assert.equal(r.json.context.targetDir, "/workspace/fail");
      assert.ok(r.json.context.exitCode > 0 && r.json.context.stderr.length > 0, r.text);
      assert.ok(!r.text.includes("wrongwrong"), r.text);
      assert.equal(await listing(), "", "no partial target");
    }
  });

  test("a target that is not empty stays as it was", async () => {
    await sh("mkdir /workspace/full /workspace/empty; echo mine > /workspace/full/mine; echo f > /workspace/file");
    const full = await checkout({ repoUrl: "/srv/git/repo.git", targetDir: "/workspace/full" });
    assert.deepEqual([full.status, full.json.code], [500, "GIT_CLONE_FAILED"], full.text);
    const file = await checkout({ repoUrl: "/srv/git/repo.git", targetDir: "/workspace/file" });
    assert.equal(file.status, 500);
    const empty = await checkout({ repoUrl: "/srv/git/nope.git", targetDir: "/workspace/empty" });
    assert.equal(empty.status, 404);
    assert.equal(await sh("cd /workspace; find . -type f | sort; ls -d empty"), "./file\n./full/mine\nempty");
    const good = await checkout({ repoUrl: "/srv/git/repo.git", targetDir: "/workspace/empty" });
    assert.equal(good.status, 200);
    await sh("rm -rf /workspace/*");
  });

  test("past its time: 502, the whole tree killed, no partial target", async () => {
    const begun = Date.now();
    const r = await checkout({ repoUrl: `http://${HOST}/slow/repo.git`, targetDir: "/workspace/slow", timeoutMs: 700 });
    assert.deepEqual([r.status, r.json.code, r.json.context.exitCode], [502, "GIT_NETWORK_ERROR", 124], r.text);
    assert.match(r.json.message, /timed out after 700 ms/);
    assert.ok(Date.now() - begun < 10_000);
    assert.equal(await listing(), "");
    assert.equal((await box.exec("ps -eo args | grep -c '[g]it-remote-http'")).stdout.trim(), "0");
    // git that ignores SIGTERM, with a child in a session of its own.
    await sh("mkdir -p /tmp/fake");
    const git = `#!/bin/bash\ntrap '' TERM\nfor a; do last=$a; done\nmkdir -p "$last/part"\nsetsid ${nap(999)} &\n${nap(999)}\n`;
    await box.call("POST", "/api/write", { path: "/tmp/fake/git", content: git });
    await sh("chmod +x /tmp/fake/git");
    await box.call("POST", "/api/session/create", { id: "fake", env: { PATH: "/tmp/fake:/usr/bin:/bin" } });
    const stuck = await checkout({
      repoUrl: "/srv/git/repo.git",
      targetDir: "/workspace/stuck",
      timeoutMs: 300,
      sessionId: "fake",
    });
    assert.deepEqual([stuck.status, stuck.json.context.exitCode], [502, 124], stuck.text);
    assert.equal(await listing(), "");
    assert.equal((await box.exec(`ps -eo args | grep -c '[s]leep 999'`)).stdout.trim(), "0");
  });

  test("two clones into one directory: the second is refused", async () => {
    const slow = checkout({ repoUrl: `http://${HOST}/slow/repo.git`, targetDir: "/workspace/one", timeoutMs: 1500 });
    await sleep(300);
    const second = await checkout({ repoUrl: "/srv/git/repo.git", targetDir: "/workspace/one" });
    assert.deepEqual([second.status, second.json.code], [409, "RESOURCE_BUSY"]);
    assert.equal((await slow).status, 502);
    const third = await checkout({ repoUrl: "/srv/git/repo.git", targetDir: "/workspace/one" });
    assert.equal(third.status, 200);
    await sh("rm -rf /workspace/one");
  });

  test("nothing that an argument says is run or taken for an option", async () => {
    const urls = [
      "--upload-pack=touch /workspace/pwned",
      "-u",
      "ext::sh -c 'touch /workspace/pwned'",
      "ext::sh%20-c%20touch%20/workspace/pwned",
      "fd::3",
      "hg::http://x/y",
      "ssh://-oProxyCommand=touch%20pwned/x",
      "ssh://git@-oProxyCommand=x/x",
      "-oProxyCommand=touch:x",
      "git@-oProxyCommand=touch pwned:x",
      "git@host:-x",
      "ssh://user:password@host/x",
      "HTTPS://host/x",
      "ftp://host/x",
      "http:///x",
      "http://a b/x",
      "http://host:port/x",
      "http://u:p%0ahost=evil@host/x",
      "http://host/x\nhost=evil",
      "repo",
      "",
      `http://host/${"a".repeat(5000)}`,
    ];
    for (const repoUrl of urls) {
      const r = await checkout({ repoUrl, targetDir: "/workspace/bad" });
      assert.equal(r.status, 400, `${repoUrl}: ${r.text}`);
      assert.match(r.json.code, /^(INVALID_GIT_URL|VALIDATION_FAILED)$/);
    }
    const redacted = await checkout({ repoUrl: "gopher://alice:hunter22@host/x" });
    assert.ok(!redacted.text.includes("hunter22"), redacted.text);
    for (const branch of ["--upload-pack=x", "-b", "a b", "a..b", "", "x".repeat(300), "a:b", "@", "a.lock", ".a/b"]) {
      const r = await checkout({ repoUrl: "/srv/git/repo.git", branch, targetDir: "/workspace/bad" });
      assert.deepEqual([r.status, r.json.code], [400, "VALIDATION_FAILED"], branch);
    }
    for (const body of [
      { depth: 0 },
      { depth: -1 },
      { depth: 1.5 },
      { depth: "1" },
      { timeoutMs: -1 },
      { targetDir: 1 },
    ]) {
      const r = await checkout({ repoUrl: "/srv/git/repo.git", targetDir: "/workspace/bad", ...body });
      assert.deepEqual([r.status, r.json.code], [400, "VALIDATION_FAILED"], JSON.stringify(body));
    }
    const dash = await checkout({ repoUrl: "/srv/git/repo.git", targetDir: "--template=x" });
    assert.deepEqual([dash.status, dash.json.targetDir], [200, "/workspace/--template=x"]);
    assert.equal(await sh("cd /workspace; rm -rf -- ./--template=x; ls -A"), "");
  });

  test("a submodule or configuration that names a command is not run", async () => {
    await sh(
      "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b; set -e\n" +
        "git init -q -b main /tmp/evil; cd /tmp/evil\n" +
        "printf '[submodule \"x\"]\\n path = x\\n url = ext::touch /workspace/pwned\\n' > .gitmodules\n" +
        "git update-index --add --cacheinfo 160000,$(git -C /tmp/seed rev-parse HEAD),x; git add .gitmodules; git commit -q -m x",
    );
    await box.call("POST", "/api/session/create", {
      id: "evil",
      env: {
        GIT_CONFIG_COUNT: "2",
        GIT_CONFIG_KEY_0: "submodule.recurse",
        GIT_CONFIG_VALUE_0: "true",
        GIT_CONFIG_KEY_1: "protocol.ext.allow",
        GIT_CONFIG_VALUE_1: "always",
      },
    });
    const r = await checkout({ repoUrl: "file:///tmp/evil", targetDir: "/workspace/evil", sessionId: "evil" });
    assert.ok(r.status === 200 || r.json.code.startsWith("GIT_"), r.text);
    assert.equal((await box.exec("ls /workspace/pwned")).exitCode, 2);
    await sh("rm -rf /workspace/*");
  });
});
