/** Background processes: start, list, logs, readiness, end. */
import assert from "node:assert/strict";
import { before, it } from "node:test";
import { freshId, perTransport, rejects, sleep, until } from "./lib.mjs";
import { callback, regexp } from "./sdk.mjs";

perTransport("processes", (make, transport) => {
  let sandbox;
  let bare;
  before(async () => {
    sandbox = make();
    bare = make({ enableDefaultSession: false });
    await Promise.all([sandbox.exec("true"), bare.exec("true")]);
  });

  it("start, are found and end", async () => {
    for (const target of [sandbox, bare]) {
      const command = "echo begun; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo ended; exit 3";
      const process = await target.startProcess(command);
      assert.equal(process.status, "running");
      assert.ok(process.pid > 0 && process.id, JSON.stringify(process));
      assert.equal(process.command, command);
      assert.ok(Math.abs(process.startTime - Date.now()) < 60_000);
      assert.equal(await process.getStatus(), "running");
      assert.equal((await target.exec(`kill -0 ${process.pid}; echo $?`)).stdout.trim(), "0");
      await target.writeFile("/tmp/go", "");
      assert.deepEqual(await process.waitForExit(), { exitCode: 3 });
      const after = await target.getProcess(process.id);
      assert.deepEqual([after.status, after.exitCode, after.pid], ["failed", 3, process.pid]);
      assert.ok(after.endTime >= after.startTime);
      assert.deepEqual(await process.getLogs(), { stdout: "begun\nended\n", stderr: "" });
    }
  });

  it("have a status that says how they ended", async () => {
    for (const [command, status, code] of [
      ["true", "completed", 0],
      ["exit 1", "failed", 1],
      ["kill -9 $$", "killed", 137],
      ["no-such-program", "failed", 127],
    ]) {
      const process = await sandbox.startProcess(command);
      assert.equal((await process.waitForExit()).exitCode, code, command);
      assert.equal(await process.getStatus(), status, command);
    }
  });

  it("are listed, whatever started them", async () => {
    const own = make();
    const one = await own.startProcess("sleep 30", { processId: "named" });
    assert.equal(one.id, "named");
    const two = await own.startProcess("true");
    await two.waitForExit();
    const stream = await own.stream.execStream("echo streamed; sleep 30");
    const list = await until(async () => {
      const all = await own.listProcesses();
      return all.length === 3 && all;
    }, "three processes");
    const byId = Object.fromEntries(list.map((process) => [process.id, process]));
    assert.equal(byId.named.status, "running");
    assert.equal(byId[two.id].status, "completed");
    assert.equal(byId[two.id].exitCode, 0);
    assert.ok(list.every((process) => process.startTime instanceof Date));
    stream.cancel();
    assert.equal(await own.killAllProcesses(), 2);
    await until(async () => (await own.listProcesses()).every((process) => process.status !== "running"), "all ended");
    assert.equal(await own.cleanupCompletedProcesses(), 0);
  });

  it("that do not exist are null, or an error", async () => {
    assert.equal(await sandbox.getProcess("nope"), null);
    await rejects(sandbox.killProcess("nope"), { code: "PROCESS_NOT_FOUND", context: { processId: "nope" } });
    await rejects(sandbox.getProcessLogs("nope"), { code: "PROCESS_NOT_FOUND" });
    await rejects(sandbox.stream.streamProcessLogs("nope"), { code: "PROCESS_NOT_FOUND" });
    for (const id of ["../x", "a/b", "%2e%2e", "a b", "ü", "x".repeat(300)])
      assert.equal(await sandbox.getProcess(id).catch((error) => error.code && null), null, id);
  });

  it("keep their output apart, by line and by stream", async () => {
    const process = await sandbox.startProcess("echo out; echo err >&2; printf 'no newline'");
    await process.waitForExit();
    const logs = await sandbox.getProcessLogs(process.id);
    assert.equal(logs.processId, process.id);
    assert.equal(logs.stderr, "err\n");
    assert.match(logs.stdout, /^out\nno newline\n?$/);
  });

  it("stream what was and what comes, then the exit", async () => {
    const process = await sandbox.startProcess("echo early; sleep 0.5; echo late >&2; exit 2");
    await sleep(200);
    const events = await (await sandbox.stream.streamProcessLogs(process.id)).all();
    assert.equal(events[0].type, "process_info");
    const data = (type) =>
      events
        .filter((event) => event.type === type)
        .map((event) => event.data)
        .join("");
    assert.equal(data("stdout"), "early\n");
    assert.equal(data("stderr"), "late\n");
    assert.deepEqual([events.at(-1).type, events.at(-1).exitCode], ["exit", 2]);
    assert.ok(events.every((event) => event.processId === process.id));
    const again = await (await sandbox.stream.streamProcessLogs(process.id)).all();
    assert.equal(again.at(-1).exitCode, 2);
    assert.equal(
      again
        .filter((event) => event.type === "stdout")
        .map((event) => event.data)
        .join(""),
      "early\n",
    );
  });

  it("have several readers of their log, of which one may go away", async () => {
    const process = await sandbox.startProcess("for i in 1 2 3 4 5 6; do echo $i; sleep 0.2; done");
    const [a, b, c] = await Promise.all([1, 2, 3].map(() => sandbox.stream.streamProcessLogs(process.id)));
    const reader = c.body.getReader();
    await reader.read();
    c.cancel();
    await reader.read().catch(() => {});
    for (const events of await Promise.all([a.all(), b.all()])) {
      const out = events
        .filter((event) => event.type === "stdout")
        .map((event) => event.data)
        .join("");
      assert.equal(out, "1\n2\n3\n4\n5\n6\n");
      assert.equal(events.at(-1).type, "exit");
    }
  });

  it("call back as they start, write and exit", async () => {
    const process = await sandbox.startProcess("true", { onStart: callback("start") });
    assert.deepEqual(
      process.callbacks.map((call) => [call.name, call.args[0].id]),
      [["start", process.id]],
    );
    // The later ones only reach who lives on beside the SDK: RPC drops a caller's functions when startProcess() returns.
    const calls = await make({}, { namespace: "HOOKED" }).callbacks("echo called; echo err >&2; exit 6");
    assert.deepEqual(calls.toSorted(), [
      ["exit", 6],
      ["stderr", "err\n"],
      ["stdout", "called\n"],
    ]);
  });

  it("are killed with their tree", async () => {
    const nap = "7654.3";
    for (const target of [sandbox, bare]) {
      const process = await target.startProcess(`(setsid sleep ${nap} & sleep ${nap}) & sleep ${nap}`);
      await until(
        async () => (await target.exec(`pgrep -ax sleep | grep -c ${nap}`)).stdout.trim() === "3",
        "three sleep",
      );
      await process.kill();
      assert.equal((await target.exec(`pgrep -ax sleep | grep -c ${nap}`)).stdout.trim(), "0");
      assert.equal(await process.getStatus(), "killed");
      assert.equal((await target.getProcess(process.id)).exitCode, 143);
    }
  });

  it("are killed though they ignore the signal", async () => {
    const process = await sandbox.startProcess("trap '' TERM INT; while :; do sleep 0.1; done");
    await sleep(300);
    await process.kill();
    assert.equal((await sandbox.getProcess(process.id)).exitCode, 137);
    await rejects(process.kill(), { code: "COMMAND_NOT_FOUND" });
  });

  it("end at their time-out", async () => {
    const process = await sandbox.startProcess("sleep 60", { timeout: 300 });
    const { exitCode } = await process.waitForExit(10_000);
    assert.notEqual(exitCode, 0);
  });

  it("have a directory, variables and a session", async () => {
    const session = await sandbox.createSession({ id: "proc-session", cwd: "/tmp", env: { S: "session" } });
    const process = await session.startProcess('echo "$PWD $S $E"', { env: { E: "own" } });
    await process.waitForExit();
    assert.equal((await process.getLogs()).stdout, "/tmp session own\n");
    const elsewhere = await sandbox.startProcess("pwd", { cwd: "/usr" });
    await elsewhere.waitForExit();
    assert.equal((await elsewhere.getLogs()).stdout, "/usr\n");
    await rejects(sandbox.startProcess("true", { cwd: "/nope" }), {});
    for (const command of ["", "  "]) await rejects(sandbox.startProcess(command), { code: "INVALID_COMMAND" });
  });

  it("outlive the request that started them, and the session's commands", async () => {
    const process = await sandbox.startProcess("while sleep 0.1; do date +%s%N >/tmp/alive; done");
    await sandbox.exec("true");
    const first = (await sandbox.readFile("/tmp/alive").catch(() => ({ content: "" }))).content;
    await until(async () => (await sandbox.readFile("/tmp/alive")).content !== first, "it still runs");
    await process.kill();
  });

  it("wait for a line of the log", async () => {
    const process = await sandbox.startProcess("echo starting; sleep 0.3; echo 'listening on port 8123' >&2; sleep 30");
    assert.deepEqual(await process.waitForLog("starting"), { line: "starting" });
    const found = await process.waitForLog(regexp(/port (\d+)/), 10_000);
    assert.equal(found.line, "listening on port 8123");
    assert.equal(found.match[1], "8123");
    await rejects(process.waitForLog("never", 400), {
      name: "ProcessReadyTimeoutError",
      code: "PROCESS_READY_TIMEOUT",
    });
    await process.kill();
    const short = await sandbox.startProcess("echo only; sleep 0.3; exit 4");
    const error = await rejects(short.waitForLog("never"), { code: "PROCESS_EXITED_BEFORE_READY" });
    assert.equal(error.context.exitCode, 4);
    assert.deepEqual(await short.waitForLog("only"), { line: "only" });
  });

  it("wait for the exit, with a time-out", async () => {
    const process = await sandbox.startProcess("sleep 30");
    await rejects(process.waitForExit(300), { code: "PROCESS_READY_TIMEOUT" });
    await process.kill();
    assert.equal((await process.waitForExit()).exitCode, 143);
  });

  it("take a huge log, and give it back", async () => {
    const process = await sandbox.startProcess("seq 1 300000");
    assert.equal((await process.waitForExit()).exitCode, 0);
    const { stdout } = await process.getLogs();
    assert.equal(stdout.length, 1_988_895);
    assert.ok(stdout.startsWith("1\n2\n") && stdout.endsWith("300000\n"));
  });

  it("use again the id of one that ended, not of one that runs", async () => {
    const processId = freshId(`again-${transport}`);
    await (await sandbox.startProcess("echo first", { processId })).waitForExit();
    const second = await sandbox.startProcess("echo second; sleep 30", { processId });
    assert.equal((await second.waitForLog("second")).line, "second");
    await rejects(sandbox.startProcess("true", { processId }), { code: "RESOURCE_BUSY" });
    await second.kill();
  });
});
