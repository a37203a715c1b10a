/** Sessions: a shell whose state stays, apart from every other session's. */
import assert from "node:assert/strict";
import { before, it } from "node:test";
import { perTransport, rejects, sleep } from "./lib.mjs";
import { UNDEFINED } from "./sdk.mjs";

perTransport("sessions", (make) => {
  let sandbox;
  before(async () => {
    sandbox = make();
    await sandbox.exec("true");
  });

  it("keep directory, variables, functions, options and aliases", async () => {
    const session = await sandbox.createSession({ id: "keeps" });
    await session.exec("cd /tmp && mkdir -p deep && cd deep");
    await session.exec('export EXPORTED=1; plain=2; f() { echo "f $1"; }; set -o noclobber; declare -A map=([k]=v)');
    const result = await session.exec('echo "$PWD $EXPORTED $plain"; f x; echo $-; declare -p map');
    assert.match(result.stdout, /^\/tmp\/deep 1 2\nf x\n.*C.*\n.*\[k\]="v"/);
    assert.equal((await session.exec("env | grep -c ^EXPORTED=")).stdout, "1");
    assert.equal((await session.exec("cd ..; pwd; cd - >/dev/null; pwd")).stdout, "/tmp\n/tmp/deep");
    // A failed command changes nothing.
    assert.equal((await session.exec("cd /nope")).exitCode, 1);
    assert.equal((await session.exec("pwd")).stdout, "/tmp/deep");
  });

  it("do not see each other's state", async () => {
    const [a, b] = await Promise.all(["apart-a", "apart-b"].map((id) => sandbox.createSession({ id })));
    await a.exec("cd /tmp; V=a; f() { :; }");
    await b.exec("V=b");
    assert.equal((await a.exec('echo "$PWD $V"')).stdout, "/tmp a");
    assert.equal((await b.exec('echo "$PWD $V"; type f 2>&1 | head -1')).stdout.split("\n")[0], "/workspace b");
    assert.equal((await b.exec("f")).exitCode, 127);
    assert.equal((await sandbox.exec("echo $V")).stdout, "");
    // But they share the file system.
    await a.writeFile("/tmp/shared", "from a");
    assert.equal((await b.readFile("/tmp/shared")).content, "from a");
  });

  it("are created with a directory and variables", async () => {
    const session = await sandbox.createSession({ id: "made", cwd: "/usr", env: { A: "x y'z\"", U: UNDEFINED } });
    assert.equal(session.id, "made");
    assert.equal((await session.exec('echo "$PWD|$A|$U"')).stdout, "/usr|x y'z\"|");
    const fallback = await sandbox.createSession({ id: "no-cwd", cwd: "/does/not/exist" });
    assert.equal((await fallback.exec("pwd; echo $HOME")).stdout.split("\n").length, 2);
    const named = await sandbox.createSession();
    assert.match(named.id, /^session-\d+$/);
    assert.equal((await named.exec("echo $LANG")).stdout, "C.UTF-8");
  });

  it("are found again by their id", async () => {
    await (await sandbox.createSession({ id: "again" })).exec("V=kept");
    const session = await sandbox.getSession("again");
    assert.equal((await session.exec("echo $V")).stdout, "kept");
    await rejects(sandbox.createSession({ id: "again" }), { code: "SESSION_ALREADY_EXISTS" });
    assert.equal((await session.exec("echo $V")).stdout, "kept");
  });

  it("tell that their shell ended, and begin anew", async () => {
    const session = await sandbox.createSession({ id: "ends" });
    await session.exec("V=lost");
    const error = await rejects(session.exec("exit 5"), { code: "SESSION_TERMINATED", name: "SessionTerminatedError" });
    assert.deepEqual([error.context.sessionId, error.context.exitCode, error.httpStatus], ["ends", 5, 410]);
    assert.equal((await session.exec("echo [$V]")).stdout, "[]");
    await rejects(session.exec("kill -9 $$"), { code: "SESSION_TERMINATED" });
    assert.equal((await session.exec("echo back")).stdout, "back");
    const own = make();
    await rejects(own.exec("exit 1"), { code: "SESSION_TERMINATED" });
    assert.equal((await own.exec("echo default")).stdout, "default");
  });

  it("end what waits when they are deleted", async () => {
    const session = await sandbox.createSession({ id: "deleted" });
    const waiting = rejects(session.exec("sleep 60"), { code: "SESSION_DESTROYED" });
    await sleep(300);
    const result = await sandbox.deleteSession("deleted");
    assert.deepEqual([result.success, result.sessionId], [true, "deleted"]);
    await waiting;
    await rejects(sandbox.deleteSession("deleted"), { code: "INTERNAL_ERROR", message: /not found/i });
    await rejects(sandbox.deleteSession("never-made"), { code: "INTERNAL_ERROR" });
  });

  it("refuse reserved, empty and default ids", async () => {
    await rejects(sandbox.createSession({ id: "__DISABLE_SESSION__" }), { message: /reserved/ });
    const { sessionId } = await sandbox.exec("true");
    await rejects(sandbox.deleteSession(sessionId), { message: /default session/ });
    await rejects(sandbox.listProcesses("  "), { message: /must not be empty/ });
  });

  it("take odd ids for what they are: names", async () => {
    for (const id of ["../../etc", "a b", "ü", "a/b", "$(touch /tmp/owned)", "x".repeat(120)]) {
      const session = await sandbox.createSession({ id });
      assert.equal((await session.exec("V=1; echo $V")).stdout, "1", id);
      assert.equal((await session.exec("echo $V")).stdout, "1", id);
      assert.equal((await sandbox.deleteSession(id)).success, true);
    }
    await rejects(sandbox.createSession({ id: "x".repeat(5000) }), { code: "VALIDATION_FAILED" });
    assert.equal((await sandbox.exists("/tmp/owned")).exists, false);
  });

  it("bound every command with commandTimeoutMs", async () => {
    const session = await sandbox.createSession({ id: "bounded", commandTimeoutMs: 400 });
    await rejects(session.exec("sleep 30"), { code: "COMMAND_EXECUTION_ERROR", message: /timeout after 400ms/i });
    assert.equal((await session.exec("echo after")).stdout, "after");
    assert.equal((await session.exec("sleep 1; echo own", { timeout: 5000 })).stdout, "own");
    for (const options of [{}, { enableDefaultSession: false }]) {
      const own = make(options);
      await own.setEnvVars({ COMMAND_TIMEOUT_MS: "300" });
      const result = await own.exec("sleep 30").catch((error) => error);
      assert.ok(result.exitCode === 124 || result.code === "COMMAND_EXECUTION_ERROR", JSON.stringify(result));
    }
  });

  it("survive what breaks shells", async () => {
    const session = await sandbox.createSession({ id: "tough" });
    for (const command of [
      "exec 2>&-",
      "exec 1>&-",
      "unset IFS PATH",
      "IFS=0123456789",
      "trap 'echo trapped' DEBUG",
      "set -x",
    ])
      await session.exec(command);
    assert.match((await session.exec("echo out")).stdout, /out/);
    const errexit = await sandbox.createSession({ id: "errexit" });
    await errexit.exec("set -u");
    await errexit.exec("echo $UNSET_VARIABLE").catch(() => {});
    assert.equal((await errexit.exec("echo usable")).stdout, "usable");
    for (const command of ["eval '", "((", "cat <<EOF", "}", "fi", "case x in", "\\"]) await errexit.exec(command);
    assert.equal((await errexit.exec("echo usable")).stdout, "usable");
  });

  it("run each command in a shell of its own where the default session is off", async () => {
    const bare = make({ enableDefaultSession: false });
    await bare.exec("cd /tmp; export V=1");
    assert.equal((await bare.exec('echo "$PWD [$V]"')).stdout, "/workspace []\n");
    const session = await bare.createSession({ id: "explicit" });
    await session.exec("cd /tmp");
    assert.equal((await session.exec("pwd")).stdout, "/tmp");
  });

  it("have the variables of setEnvVars", async () => {
    const own = make();
    const value = "a 'b' \"c\" $HOME\nline";
    await own.setEnvVars({ BEFORE: value, GONE: "1" });
    assert.equal((await own.exec('printf "%s" "$BEFORE"')).stdout, value);
    await own.setEnvVars({ AFTER: "2", GONE: UNDEFINED });
    assert.equal((await own.exec('echo "$AFTER [$GONE]"')).stdout, "2 []");
    const later = await own.createSession({ id: "later" });
    assert.equal((await later.exec('echo "$AFTER"')).stdout, "2");
    await later.setEnvVars({ ONLY: "here" });
    assert.equal((await later.exec("echo $ONLY")).stdout, "here");
    assert.equal((await own.exec("echo [$ONLY]")).stdout, "[]");

    const bare = make({ enableDefaultSession: false });
    await bare.setEnvVars({ BARE: value });
    assert.equal((await bare.exec('printf "%s" "$BARE"')).stdout, value);
  });

  it("give no placement id locally", async () => {
    const own = make();
    assert.equal(await own.getContainerPlacementId(), undefined);
    await own.exec("true");
    assert.equal(await own.getContainerPlacementId(), null);
  });
});
