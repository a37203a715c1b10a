/** gitCheckout: what is asked for is there, and what fails says why. */
import assert from "node:assert/strict";
import { before, it } from "node:test";
import { perTransport, rejects } from "./lib.mjs";

/** A repository in the sandbox: three commits, a branch, a tag; served over git's own file transport. */
const MAKE = `(
set -e
git init -q -b main /srv-repo && cd /srv-repo
git config user.email t@example.com && git config user.name t
for i in 1 2 3; do echo $i >file; git add file; git commit -qm "commit $i"; done
git checkout -q -b other && echo other >file && git commit -qam other && git tag v1 && git checkout -q main
git clone -q --bare /srv-repo /workspace/origin.git )`;

perTransport("gitCheckout", (make, transport) => {
  let sandbox;
  before(async () => {
    sandbox = make();
    const made = await sandbox.exec(MAKE.replaceAll("/srv-repo", "/tmp/srv-repo"));
    assert.equal(made.exitCode, 0, made.stderr);
  });
  const url = "file:///workspace/origin.git";

  it("clones into /workspace under the repository's name", async () => {
    const result = await sandbox.gitCheckout("file:///workspace/origin.git/");
    assert.deepEqual([result.success, result.branch, result.targetDir], [true, "main", "/workspace/origin"]);
    assert.equal((await sandbox.readFile("/workspace/origin/file")).content, "3\n");
    assert.equal((await sandbox.exec("git -C /workspace/origin log --oneline | wc -l")).stdout.trim(), "3");
  });

  it("checks out a branch, a tag, a depth, into a directory", async () => {
    const other = await sandbox.gitCheckout(url, { branch: "other", targetDir: "/workspace/a b/other" });
    assert.deepEqual([other.branch, other.targetDir], ["other", "/workspace/a b/other"]);
    assert.equal((await sandbox.readFile("/workspace/a b/other/file")).content, "other\n");
    await sandbox.gitCheckout(url, { branch: "v1", targetDir: "/workspace/tag" });
    assert.equal((await sandbox.readFile("/workspace/tag/file")).content, "other\n");
    await sandbox.gitCheckout(url, { depth: 1, targetDir: "/workspace/shallow" });
    assert.equal((await sandbox.exec("git -C /workspace/shallow log --oneline | wc -l")).stdout.trim(), "1");
  });

  it("works in a session and without one", async () => {
    const session = await sandbox.createSession({ id: `git-${transport}`, cwd: "/tmp" });
    assert.equal((await session.gitCheckout(url, { targetDir: "/tmp/by-session" })).success, true);
    const bare = make({ enableDefaultSession: false });
    await bare.exec(MAKE.replaceAll("/srv-repo", "/tmp/srv-repo"));
    assert.equal((await bare.gitCheckout(url, { targetDir: "/workspace/by-bare" })).success, true);
  });

  it("says what failed by its code", async () => {
    const missing = await rejects(sandbox.gitCheckout("file:///nowhere/at-all.git"), {});
    assert.ok(
      ["GIT_OPERATION_FAILED", "GIT_REPOSITORY_NOT_FOUND", "GIT_CLONE_FAILED"].includes(missing.code),
      missing.code,
    );
    await rejects(sandbox.gitCheckout(url, { branch: "no-such-branch", targetDir: "/workspace/nb" }), {
      code: "GIT_BRANCH_NOT_FOUND",
    });
    for (const bad of ["", "not a url", "ext::sh -c 'touch /tmp/owned'", "--upload-pack=touch /tmp/owned"])
      await rejects(sandbox.gitCheckout(bad, { targetDir: "/workspace/bad" }), {});
    await rejects(
      sandbox.gitCheckout(url, { branch: "--upload-pack=touch /tmp/owned", targetDir: "/workspace/bad" }),
      {},
    );
    await rejects(sandbox.gitCheckout(url, { targetDir: "/tmp/srv-repo" }), {});
    assert.equal((await sandbox.exists("/tmp/owned")).exists, false);
  });

  it("leaves no credentials in errors, processes or the clone's configuration", async () => {
    const secret = "s3cr3t-token-value";
    const error = await rejects(
      sandbox.gitCheckout(`http://user:${secret}@127.0.0.1:1/x.git`, { cloneTimeoutMs: 10_000 }),
      {},
    );
    assert.ok(!JSON.stringify([error.message, error.context]).includes(secret), JSON.stringify(error.context));
    assert.equal((await sandbox.exec("ps axo args | grep -c s3cr3t-token[-]value")).stdout, "0");
  });

  it("ends a clone that takes too long, and git with it", async () => {
    // A server that accepts and never answers.
    const server = await sandbox.startProcess(
      'exec python3 -c \'import socket,time; s=socket.socket(); s.bind(("127.0.0.1",8099)); s.listen(); print("up",flush=True); time.sleep(600)\'',
    );
    await server.waitForLog("up");
    await rejects(
      sandbox.gitCheckout("git://127.0.0.1:8099/x.git", { cloneTimeoutMs: 700, targetDir: "/workspace/slow" }),
      {
        code: "GIT_NETWORK_ERROR",
      },
    );
    // The other tests of this sandbox run git too.
    assert.equal((await sandbox.exec("pgrep -fc 'git.*127.0.0.1:[8]099'")).stdout, "0");
    await server.kill();
  });
});
