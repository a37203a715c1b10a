/** exec and execStream: everything a command writes, its status, its end. */
import assert from "node:assert/strict";
import { before, it } from "node:test";
import { client, perTransport, rejects, until } from "./lib.mjs";
import { callback, signal, UNDEFINED } from "./sdk.mjs";

const text = (events, type) =>
  events
    .filter((event) => event.type === type)
    .map((event) => event.data)
    .join("");

perTransport("exec", (make) => {
  let sandbox;
  let bare;
  before(async () => {
    sandbox = make();
    bare = make({ enableDefaultSession: false });
    await Promise.all([sandbox.exec("true"), bare.exec("true")]);
  });

  it("answers with the fields of ExecResult", async () => {
    const result = await sandbox.exec("echo hi");
    assert.equal(result.success, true);
    assert.equal(result.exitCode, 0);
    assert.equal(result.stdout, "hi");
    assert.equal(result.stderr, "");
    assert.equal(result.command, "echo hi");
    assert.equal(typeof result.duration, "number");
    assert.ok(Math.abs(Date.parse(result.timestamp) - Date.now()) < 60_000, result.timestamp);
    assert.match(result.sessionId, /^sandbox-/);
  });

  it("loses one newline at the end in a session and none without", async () => {
    assert.equal((await sandbox.exec("printf 'x\\n\\n'")).stdout, "x\n");
    assert.equal((await sandbox.exec("printf 'a\\n\\nb'")).stdout, "a\n\nb");
    const result = await bare.exec("printf 'x\\n\\n'");
    assert.equal(result.stdout, "x\n\n");
    assert.equal(result.sessionId, undefined);
  });

  it("keeps stdout and stderr apart", async () => {
    for (const target of [sandbox, bare]) {
      const result = await target.exec("printf out; printf err >&2; printf out; printf err >&2");
      assert.deepEqual([result.stdout, result.stderr], ["outout", "errerr"]);
    }
  });

  it("gives the exit status of what failed, without an error", async () => {
    for (const target of [sandbox, bare]) {
      assert.equal((await target.exec("false")).exitCode, 1);
      assert.equal((await target.exec("(exit 42)")).exitCode, 42);
      const missing = await target.exec("no-such-program-here");
      assert.equal(missing.exitCode, 127);
      assert.equal(missing.success, false);
      assert.match(missing.stderr, /not found/);
      assert.equal((await target.exec("sh -c 'kill -9 $$'")).exitCode, 137);
      assert.equal((await target.exec("/etc/passwd")).exitCode, 126);
      assert.equal((await target.exec("if then")).success, false);
    }
    assert.equal((await bare.exec("exit 7")).exitCode, 7);
  });

  it("loses nothing of the fastest commands", async () => {
    const results = await Promise.all(Array.from({ length: 40 }, (_, i) => bare.exec(`echo ${i}; echo ${i} >&2`)));
    for (const [i, result] of results.entries()) assert.deepEqual([result.stdout, result.stderr], [`${i}\n`, `${i}\n`]);
    for (let i = 0; i < 20; i++) assert.equal((await sandbox.exec(`echo ${i}`)).stdout, String(i));
  });

  it("has cwd and env for one command only", async () => {
    const options = { cwd: "/tmp", env: { A: "1 'quoted' $HOME `x` \n line", B: "ü" } };
    for (const target of [sandbox, bare]) {
      assert.equal(
        (await target.exec('printf "%s|%s|%s" "$PWD" "$A" "$B"', options)).stdout,
        `/tmp|${options.env.A}|ü`,
      );
      assert.equal((await target.exec('printf "%s|%s" "$PWD" "$A"')).stdout, "/workspace|");
    }
    assert.equal((await sandbox.exec("echo $SKIPPED-$KEPT", { env: { SKIPPED: UNDEFINED, KEPT: "k" } })).stdout, "-k");
  });

  it("says that a working directory is missing", async () => {
    const result = await sandbox.exec("pwd", { cwd: "/nope" });
    assert.equal(result.exitCode, 1);
    assert.match(result.stderr, /Failed to change directory to '\/nope'/);
    await rejects(bare.exec("pwd", { cwd: "/nope" }), { code: "COMMAND_EXECUTION_ERROR" });
  });

  it("refuses a variable whose name is none", async () => {
    for (const name of ["1A", "A-B", "A;touch /tmp/owned", "", "A\nB", "ü"])
      await rejects(sandbox.exec("true", { env: { [name]: "x" } }), {});
    assert.equal((await sandbox.exists("/tmp/owned")).exists, false);
  });

  it("gives no standard input", async () => {
    for (const target of [sandbox, bare])
      assert.equal((await target.exec("cat; read -t 5 x; echo $?")).stdout.trim(), "1");
  });

  it("passes bytes of any script", async () => {
    const word = "日本語 – \u{1f680} – é";
    assert.equal((await sandbox.exec(`echo '${word}'`)).stdout, word);
    assert.equal((await sandbox.exec(`printf '%s' '${"\t\x01\x1b[31m"}'`)).stdout, "\t\x01\x1b[31m");
    // Not UTF-8: replaced, not lost and not an error.
    assert.equal((await sandbox.exec("printf 'a\\xffb'")).stdout, "a\ufffdb");
    assert.equal((await sandbox.exec("cat <<'END'\n$HOME 'x' \"y\"\nEND")).stdout, "$HOME 'x' \"y\"");
  });

  it("takes a command of 1 MB", async () => {
    const long = "x".repeat(1 << 20);
    assert.equal((await sandbox.exec(`printf %s '${long}' | wc -c`)).stdout.trim(), String(1 << 20));
  });

  it("gives 8 MB of output whole", async () => {
    for (const target of [sandbox, bare]) {
      const { stdout, stderr } = await target.exec(
        "head -c 6000000 /dev/zero | tr '\\0' a; head -c 2000000 /dev/zero | tr '\\0' b >&2",
      );
      assert.equal(stdout.length, 6_000_000);
      assert.equal(stderr.length, 2_000_000);
      assert.ok(/^a*$/.test(stdout) && /^b*$/.test(stderr));
    }
  });

  it("kills the whole tree of a command that takes too long", async () => {
    const own = make();
    const nap = "4321.5";
    const left = `pgrep -ax sleep | grep -c ${nap}`;
    const tree = `(sleep ${nap} & setsid sleep ${nap} & sleep ${nap}) & sleep ${nap}`;
    await rejects(own.exec(tree, { timeout: 400 }), {
      code: "COMMAND_EXECUTION_ERROR",
      message: /timeout after 400ms/i,
    });
    await until(async () => (await own.exec(left)).stdout === "0", "the tree is gone");
    assert.equal((await own.exec("echo usable")).stdout, "usable");

    const without = make({ enableDefaultSession: false });
    const result = await without.exec(`echo before; ${tree}`, { timeout: 400 });
    assert.equal(result.exitCode, 124);
    assert.equal(result.stdout, "before\n");
    assert.match(result.stderr, /timed out after 400ms/i);
    await until(async () => (await without.exec(left)).stdout === "0\n", "the tree is gone");
  });

  it("calls onOutput and onComplete as a streaming exec goes", async () => {
    const result = await sandbox.exec("echo one; echo two >&2; echo three", {
      stream: true,
      onOutput: callback("output"),
      onComplete: callback("complete"),
    });
    const output = result.callbacks.filter((call) => call.name === "output").map((call) => call.args);
    assert.equal(
      output
        .filter(([which]) => which === "stdout")
        .map(([, data]) => data)
        .join(""),
      "one\nthree\n",
    );
    assert.equal(
      output
        .filter(([which]) => which === "stderr")
        .map(([, data]) => data)
        .join(""),
      "two\n",
    );
    assert.equal(result.stdout, "one\nthree\n");
    assert.equal(result.callbacks.filter((call) => call.name === "complete").length, 1);
  });

  it("does not run a command whose signal is aborted", async () => {
    const command = "touch /tmp/aborted";
    await rejects(sandbox.exec(command, { signal: signal(0) }), { message: /abort/i });
    assert.equal((await sandbox.exists("/tmp/aborted")).exists, false);
  });
});

perTransport("execStream", (make) => {
  let sandbox;
  let bare;
  before(async () => {
    sandbox = make();
    bare = make({ enableDefaultSession: false });
    await Promise.all([sandbox.exec("true"), bare.exec("true")]);
  });

  it("sends start, output and complete, also for the fastest commands", async () => {
    for (const target of [sandbox, bare]) {
      for (let i = 0; i < 10; i++) {
        const events = await (await target.stream.execStream(`echo ${i}; echo e${i} >&2`)).all();
        assert.equal(events[0].type, "start");
        assert.equal(events[0].command, `echo ${i}; echo e${i} >&2`);
        assert.equal(text(events, "stdout"), `${i}\n`);
        assert.equal(text(events, "stderr"), `e${i}\n`);
        assert.equal(events.at(-1).type, "complete");
        assert.equal(events.at(-1).exitCode, 0);
      }
    }
  });

  it("completes with the status, also of exit and of a signal", async () => {
    for (const target of [sandbox, bare]) {
      for (const [command, code] of [
        ["exit 3", 3],
        ["false", 1],
        ["kill -9 $$", 137],
        ["no-such-program-here", 127],
        ["exec sh -c 'exit 9'", 9],
      ]) {
        const events = await (await target.stream.execStream(command)).all();
        assert.deepEqual([events.at(-1).type, events.at(-1).exitCode], ["complete", code], command);
      }
    }
    assert.equal((await sandbox.exec("echo alive")).stdout, "alive");
  });

  it("sends output as it comes", async () => {
    // What is awaited is made once the first output is here.
    const stream = await sandbox.stream.execStream(
      "echo first; until [ -e /tmp/as-it-comes ]; do sleep 0.05; done; echo second",
    );
    const seen = [];
    for await (const event of stream) {
      if (event.type !== "stdout") continue;
      seen.push(event.data);
      if (seen.length === 1) await sandbox.writeFile("/tmp/as-it-comes", "");
    }
    assert.deepEqual(seen, ["first\n", "second\n"]);
  });

  it("ends with the command, not with what it left behind", async () => {
    const events = await (await sandbox.stream.execStream("sleep 600 & echo done")).all();
    assert.equal(text(events, "stdout"), "done\n");
    assert.equal(events.at(-1).exitCode, 0);
  });

  it("runs in the session's directory and environment, beside its commands", async () => {
    const session = await sandbox.createSession({ id: "stream-env", env: { FROM: "create" } });
    await session.exec("cd /tmp; export LATER=1; f() { echo function; }");
    const stream = await session.stream.execStream(
      'echo "$PWD $FROM $LATER"; f; until [ -e /tmp/not-blocked ]; do sleep 0.05; done',
    );
    assert.equal((await session.exec(">/tmp/not-blocked; echo not blocked")).stdout, "not blocked");
    assert.equal(text(await stream.all(), "stdout"), "/tmp create 1\nfunction\n");
  });

  it("has cwd and env of its own", async () => {
    const options = { cwd: "/tmp", env: { A: "b c" } };
    for (const target of [sandbox, bare]) {
      const events = await (await target.stream.execStream('echo "$PWD $A"', options)).all();
      assert.equal(text(events, "stdout"), "/tmp b c\n");
    }
  });

  it("ends a command at its time-out, with its tree", async () => {
    for (const target of [sandbox, bare]) {
      const events = await (await target.stream.execStream("sleep 987.6 & sleep 987.6", { timeout: 300 })).all();
      assert.equal(events.at(-1).type, "complete");
      assert.notEqual(events.at(-1).exitCode, 0);
      await until(
        async () => (await target.exec("pgrep -fc 'sleep 987.6$'")).stdout.trim() === "0",
        "the tree is gone",
      );
    }
  });

  it("refuses an empty command", async () => {
    for (const command of ["", "   ", "\n"])
      await rejects(sandbox.stream.execStream(command), { code: "INVALID_COMMAND" });
  });

  it("streams 20 MB, every byte", async () => {
    for (const target of [sandbox, bare]) {
      const stream = await target.stream.execStream("seq 1 2500000");
      let lines = 0;
      let rest = "";
      let last;
      for await (const event of stream) {
        if (event.type === "stdout") {
          const parts = (rest + event.data).split("\n");
          rest = parts.pop();
          for (const part of parts) assert.equal(Number(part), ++lines);
        }
        last = event;
      }
      assert.equal(lines, 2_500_000);
      assert.deepEqual([last.type, last.exitCode], ["complete", 0]);
    }
  });

  it("is not held up by a client that does not read, nor by one that goes away", async () => {
    const sandbox = make();
    const slow = await sandbox.stream.execStream("head -c 50000000 /dev/zero | tr '\\0' x");
    const gone = await sandbox.stream.execStream("while :; do echo y; done");
    const reader = gone.body.getReader();
    await reader.read();
    gone.cancel();
    await reader.read().catch(() => {});
    for (let i = 0; i < 10; i++) assert.equal((await sandbox.exec(`echo ${i}`)).stdout, String(i));
    const other = await (await sandbox.stream.execStream("seq 1 1000")).all();
    assert.equal(other.at(-1).exitCode, 0);
    slow.cancel();
  });

  it("is read by the SDK's own parser in the Worker", async () => {
    const { events } = await sandbox.events.execStream("echo a; exit 4");
    assert.equal(text(events, "stdout"), "a\n");
    assert.equal(events.at(-1).exitCode, 4);
  });

  it("refuses a stream whose signal is aborted", async () => {
    await rejects(sandbox.stream.execStream("echo", { signal: signal(0) }), { message: /abort/i });
  });
});

// One object serves several clients at once: none waits for another's command.
perTransport("exec of several clients", (make) => {
  it("runs sessions in parallel and the commands of one in order", async () => {
    const sandbox = make();
    const names = ["p1", "p2", "p3"];
    const sessions = await Promise.all(names.map((id) => sandbox.createSession({ id })));
    // Each waits for the others.
    const meet = (id) => `>/tmp/${id}; until [ -e /tmp/p1 -a -e /tmp/p2 -a -e /tmp/p3 ]; do sleep 0.05; done; echo met`;
    const met = await Promise.all(sessions.map((session, i) => session.exec(meet(names[i]))));
    assert.deepEqual(
      met.map(({ stdout }) => stdout),
      ["met", "met", "met"],
    );
    await Promise.all(
      Array.from({ length: 10 }, (_, i) => sessions[0].exec(`sleep 0.0$((RANDOM % 5)); echo ${i} >>/tmp/order`)),
    );
    const order = (await sandbox.exec("cat /tmp/order")).stdout.split("\n").map(Number);
    assert.deepEqual(
      order.toSorted((a, b) => a - b),
      Array.from({ length: 10 }, (_, i) => i),
    );
    assert.equal(client.url.startsWith("http://localhost:"), true);
  });
});
