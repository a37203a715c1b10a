/** The HTTP API over the real wrangler dev and the real engine: commands, files, one-shots, streams, bad input. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { sse } from "../../scripts/local.mjs";
import { scratchMount } from "../scratch.mjs";
import { assertProblem, openStack } from "./lib.mjs";

describe("api", () => {
  let stack;
  let api;
  let id;
  before(async () => {
    stack = await openStack();
    api = stack.api;
    id = (await api.session({ agent: "shell", files: [{ path: "a/one.txt", content: "one\n" }] })).id;
  });
  after(() => stack?.close());

  const s = (path = "") => `/v1/sessions/${id}${path}`;

  test("health, landing page, openapi", async () => {
    const health = (await api.ok("GET", "/health")).body;
    assert.equal(health.ok, true);
    assert.equal(health.engine.ok, true);
    assert.equal((await api.call("GET", "/")).status, 200);
    const doc = (await api.ok("GET", "/openapi.json")).body;
    assert.match(doc.openapi, /^3\.1/);
    for (const path of [
      "/v1/sessions",
      "/v1/sessions/{id}",
      "/v1/sessions/{id}/runs",
      "/v1/sessions/{id}/events",
      "/v1/sessions/{id}/exec",
      "/v1/sessions/{id}/files",
      "/v1/sessions/{id}/diff",
      "/v1/sessions/{id}/artifacts",
      "/v1/execute",
      "/execute",
      "/health",
    ])
      assert.ok(path in doc.paths, `${path} is not in openapi.json: ${Object.keys(doc.paths)}`);
  });

  test("sessions: create, get, list, patch, delete", async () => {
    const created = await api.ok(
      "POST",
      "/v1/sessions",
      { agent: "shell", metadata: { ticket: "42" }, timeout_s: 100 },
      { "idempotency-key": "k-1" },
    );
    assert.equal(created.status, 201);
    const again = await api.ok(
      "POST",
      "/v1/sessions",
      { agent: "shell", metadata: { ticket: "42" }, timeout_s: 100 },
      { "idempotency-key": "k-1" },
    );
    assert.equal(again.body.id, created.body.id, "the same key is the same session");
    assert.equal(
      (await api.call("POST", "/v1/sessions", { agent: "shell" }, { "idempotency-key": "k-1" })).status,
      409,
    );
    const one = created.body;
    assert.equal(one.metadata.ticket, "42");
    const got = (await api.ok("GET", `/v1/sessions/${one.id}`)).body;
    assert.equal(got.id, one.id);
    const patched = (await api.ok("PATCH", `/v1/sessions/${one.id}`, { timeout_s: 500 })).body;
    assert.ok(Date.parse(patched.expires_at) > Date.now() + 400_000);
    const listed = await api.until(async () => {
      const { body } = await api.ok("GET", "/v1/sessions?limit=100");
      return (body.sessions ?? body.data).find((x) => x.id === one.id);
    }, "the session is in the list");
    assert.equal(listed.metadata.ticket, "42");
    await api.ok("DELETE", `/v1/sessions/${one.id}`);
    assert.equal((await api.ok("GET", `/v1/sessions/${one.id}`)).body.state, "ended");
    assertProblem(await api.call("POST", `/v1/sessions/${one.id}/runs`, { command: "true" }), 409, "session_ended");
  });

  test("a session ends when its time is over", async () => {
    const session = await api.session({ agent: "shell", timeout_s: 3 });
    const view = await api.until(
      async () => {
        const { body } = await api.ok("GET", `/v1/sessions/${session.id}`);
        return body.state === "ended" && body;
      },
      "the session has ended",
      15_000,
    );
    assert.equal(view.ended_reason, "timeout");
  });

  test("shell runs: output, exit status, spool over many kilobytes", async () => {
    const good = await api.run(id, { command: "echo hello; echo oops >&2; seq 1 20000" });
    assert.equal(good.outcome.type, "run.succeeded", JSON.stringify(good.outcome));
    const out = good.events
      .filter((e) => e.type === "output.stdout")
      .map((e) => e.text)
      .join("");
    assert.equal(out, `hello\n${Array.from({ length: 20000 }, (_, i) => `${i + 1}\n`).join("")}`);
    assert.equal(
      good.events
        .filter((e) => e.type === "output.stderr")
        .map((e) => e.text)
        .join(""),
      "oops\n",
    );
    const bad = await api.run(id, { command: "exit 7" });
    assert.equal(bad.outcome.type, "run.failed");
    assert.equal(bad.outcome.exit_code, 7);
    const list = (await api.ok("GET", s("/runs"))).body;
    assert.deepEqual(
      (list.runs ?? list.data)
        .map((r) => r.state)
        .slice(0, 2)
        .sort(),
      ["failed", "succeeded"],
    );
  });

  test("events: pages, SSE from Last-Event-ID, WebSocket", async () => {
    await api.run(id, { command: "echo for the log" });
    const all = (await api.ok("GET", s("/events?limit=1000"))).body.events;
    const last = all.at(-1).seq;
    assert.deepEqual(
      all.map((e) => e.seq),
      all.map((_, i) => i + 1),
    );
    const page = (await api.ok("GET", s(`/events?after=2&limit=3`))).body;
    assert.deepEqual(
      page.events.map((e) => e.seq),
      [3, 4, 5],
    );

    const abort = new AbortController();
    const response = await fetch(api.url + s("/events"), {
      headers: { accept: "text/event-stream", "last-event-id": String(last - 2) },
      signal: abort.signal,
    });
    const seen = [];
    for await (const message of sse(response)) {
      seen.push(Number(message.id));
      if (seen.length === 2) {
        // One more while the stream is open: live events follow the old ones.
        await api.ok("POST", s("/runs"), { command: "echo live" });
      }
      if (JSON.parse(message.data).type === "run.succeeded" && seen.length > 2) break;
    }
    abort.abort();
    assert.deepEqual(
      seen,
      seen.map((_, i) => last - 1 + i),
    );

    const frames = await new Promise((done, fail) => {
      const got = [];
      const socket = new WebSocket(`${api.url.replace("http", "ws")}${s(`/events?after=${last - 1}`)}`);
      const timer = setTimeout(() => fail(new Error(`only ${got.length} frames`)), 10_000);
      socket.onmessage = (message) => {
        got.push(JSON.parse(message.data));
        if (got.at(-1).seq === seen.at(-1)) {
          clearTimeout(timer);
          socket.close();
          done(got);
        }
      };
      socket.onerror = () => fail(new Error("WebSocket error"));
    });
    assert.deepEqual(
      frames.map((f) => f.seq),
      frames.map((_, i) => last + i),
    );
  });

  test("exec: output kept apart, stdin, env, cwd, time-out, SSE", async () => {
    const { body } = await api.ok("POST", s("/exec"), {
      command: "cat; echo err >&2; pwd; echo $COLOUR; exit 3",
      stdin: "in é\n",
      cwd: "/workspace/a",
      env: { COLOUR: "blue" },
    });
    assert.equal(body.stdout, "in é\n/workspace/a\nblue\n");
    assert.equal(body.stderr, "err\n");
    assert.equal(body.exit_code, 3);
    const late = (await api.ok("POST", s("/exec"), { command: "sleep 60 & sleep 60", timeout_s: 1 })).body;
    assert.equal(late.timed_out, true);
    assert.equal(late.exit_code, 124);
    const left = (await api.ok("POST", s("/exec"), { command: "cat /proc/[0-9]*/cmdline | tr '\\0' ' '" })).body.stdout;
    assert.doesNotMatch(left, /sleep 60/, "the time-out killed the whole tree");
    const response = await fetch(api.url + s("/exec"), {
      method: "POST",
      headers: { "content-type": "application/json", accept: "text/event-stream" },
      body: JSON.stringify({ command: "for i in 1 2 3; do echo $i; sleep 0.2; done; exit 4" }),
    });
    const events = [];
    const times = [];
    for await (const m of sse(response)) {
      events.push({ type: m.event, ...JSON.parse(m.data) });
      times.push(Date.now());
    }
    assert.equal(
      events
        .filter((e) => e.type === "stdout")
        .map((e) => e.data ?? e.text)
        .join(""),
      "1\n2\n3\n",
    );
    assert.equal(events.at(-1).exit_code, 4, JSON.stringify(events));
    assert.ok(times.at(-1) - times[0] >= 300, "output arrives while the command runs");
    const argv = (await api.ok("POST", s("/exec"), { argv: ["printf", "%s|", "a b", "$HOME", "'"] })).body;
    assert.equal(argv.stdout, "a b|$HOME|'|", "arguments are not interpreted");
  });

  test("files: binary round trip, list, delete, paths", async () => {
    const bytes = randomBytes(3_000_017);
    await api.ok("PUT", s("/files/bin/dir%20x/%C3%A9.bin"), new Uint8Array(bytes));
    const got = await api.ok("GET", s("/files/bin/dir%20x/%C3%A9.bin"));
    assert.ok(bytes.equals(got.bytes), "the bytes come back");
    const sum = (await api.ok("POST", s("/exec"), { command: "sha256sum < 'bin/dir x/é.bin'" })).body.stdout;
    assert.equal(sum.slice(0, 64), createHash("sha256").update(bytes).digest("hex"));
    const { body } = await api.ok("GET", s("/files?path=/workspace&recursive=true"));
    const files = body.files ?? body.data;
    assert.ok(
      files.some((f) => f.path === "/workspace/a/one.txt" && f.size === 4 && f.type === "file"),
      JSON.stringify(files),
    );
    assert.equal((await api.ok("GET", s("/files/a/one.txt"))).bytes.toString(), "one\n");
    await api.ok("PUT", s("/files/empty"), new Uint8Array(0));
    assert.equal((await api.ok("GET", s("/files/empty"))).bytes.length, 0);
    await api.ok("DELETE", s("/files/bin/dir%20x/%C3%A9.bin"));
    assertProblem(await api.call("GET", s("/files/bin/dir%20x/%C3%A9.bin")), 404, "file_not_found");
    for (const path of ["..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd"])
      assertProblem(await api.call("GET", s(`/files/${path}`)), 400, "path_outside_workspace");
    await api.ok("POST", s("/exec"), { command: "ln -sf /etc/passwd /workspace/link; mkfifo /workspace/pipe" });
    assert.notEqual((await api.call("GET", s("/files/pipe"))).status, 200, "a pipe must not hang the server");
  });

  test("diff and artifacts: added, changed, removed, ignored, tar.gz", async () => {
    const session = await api.session({
      agent: "shell",
      files: [
        { path: "keep.txt", content: "1\n2\n3\n" },
        { path: "gone.txt", content: "x\n" },
        { path: ".gitignore", content: "ignored/\n" },
      ],
    });
    const command =
      "sed -i s/2/two/ keep.txt; rm gone.txt; mkdir -p ignored deep/er; echo no > ignored/x; head -c 100000 /dev/urandom > deep/er/new.bin; printf '#!/bin/sh\\n' > run.sh; chmod +x run.sh; ln -s /etc/passwd evil";
    const { events, outcome, run } = await api.run(session.id, { command });
    assert.equal(outcome.type, "run.succeeded");
    assert.ok(events.some((e) => e.type === "file.changed" && e.path === "gone.txt"));
    const { body: diff } = await api.ok("GET", `/v1/sessions/${session.id}/diff`);
    assert.match(diff, /-2\n\+two/);
    assert.match(diff, /deleted file mode/);
    assert.doesNotMatch(diff, /ignored\/x/);
    const { artifacts } = (await api.ok("GET", `/v1/sessions/${session.id}/artifacts`)).body;
    assert.deepEqual(
      artifacts.map((a) => a.path).sort(),
      ["deep/er/new.bin", "keep.txt", "run.sh"],
      "a symbolic link is not followed out of the workspace",
    );
    const tar = await api.ok("GET", `/v1/sessions/${session.id}/artifacts.tar.gz`);
    const listing = spawnSync("tar", ["-tzvf", "-"], { input: tar.bytes, encoding: "utf8" });
    assert.equal(listing.status, 0, listing.stderr);
    assert.match(listing.stdout, /-rw-r--r--.* 100000 .*deep\/er\/new\.bin/);
    assert.match(listing.stdout, /-rwxr-xr-x.*run\.sh/);
    const one = spawnSync("tar", ["-xzOf", "-", "--wildcards", "*keep.txt"], { input: tar.bytes, encoding: "utf8" });
    assert.equal(one.stdout, "1\ntwo\n3\n");
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
    const after = await api.ok("GET", `/v1/sessions/${session.id}/artifacts/keep.txt?run=${run.id}`);
    assert.equal(after.bytes.toString(), "1\ntwo\n3\n", "artifacts outlive the sandbox");
  });

  test("/v1/execute: four languages, stdin, exit status, time-out, nothing left", async () => {
    const cases = [
      ["python", "import sys; print(6*7, sys.stdin.read())", "42 in\n"],
      ["javascript", "console.log(6*7, require('fs').readFileSync(0,'utf8'))", "42 in\n"],
      [
        "typescript",
        "import { readFileSync } from 'node:fs'; const n: number = 6*7; console.log(n, readFileSync(0,'utf8'));",
        "42 in\n",
      ],
      ["bash", "echo $((6*7)) $(cat)", "42 in\n"],
    ];
    for (const [language, code, expected] of cases) {
      const { body } = await api.ok("POST", "/v1/execute", { language, code, stdin: "in" });
      assert.equal(body.stdout, expected, `${language}: ${JSON.stringify(body)}`);
      assert.equal(body.exit_code, 0);
    }
    const failed = (await api.ok("POST", "/v1/execute", { language: "python", code: "raise SystemExit(5)" })).body;
    assert.equal(failed.exit_code, 5);
    const late = (await api.ok("POST", "/v1/execute", { language: "bash", code: "sleep 30", timeout_s: 1 })).body;
    assert.equal(late.timed_out, true);
    const engine = await fetch(`http://127.0.0.1:${stack.engine.port}/v1/sandboxes`, {
      headers: { authorization: `Bearer ${stack.engine.token}` },
    }).then((r) => r.json());
    assert.equal(engine.sandboxes.length, 1, "only this test's own session is left");
  });

  test("/execute: the claude-code-templates contract", async () => {
    const { body } = await api.ok("POST", "/execute", { question: "[script:code] What is the 10th Fibonacci number?" });
    assert.equal(body.success, true, JSON.stringify(body));
    assert.match(body.output, /55/);
    assert.match(body.code, /def fib/);
    assert.doesNotMatch(body.code, /```/);
    assert.equal(body.question, "[script:code] What is the 10th Fibonacci number?");
    assert.ok(body.sandboxId && body.executionTime !== undefined);
  });

  test("bad input is refused with a stable code, and nothing is started", async () => {
    const before = (await api.ok("GET", "/v1/sessions?limit=100")).body;
    const count = (list) => (list.sessions ?? list.data).length;
    const post = (path, body, headers) => api.call("POST", path, body, headers);
    assertProblem(await post("/v1/sessions", "{"), 400, "malformed_json");
    assertProblem(await post("/v1/sessions", { agent: "shell", colour: 1 }), 400, "unknown_field", "/colour");
    assertProblem(await post("/v1/sessions", { agent: "shell", timeout_s: "x" }), 400, "invalid_type", "/timeout_s");
    assertProblem(await post("/v1/sessions", { agent: "nobody" }), 400, "unknown_agent", "/agent");
    assertProblem(await post("/v1/sessions", { agent: "shell", timeout_s: 0 }), 400, "out_of_range", "/timeout_s");
    assertProblem(
      await post("/v1/sessions", { agent: "shell", files: [{ path: "../x", content: "" }] }),
      400,
      "path_outside_workspace",
      "/files/0/path",
    );
    assertProblem(await post(s("/runs"), { prompt: "" }), 400, "empty_prompt", "/prompt");
    assertProblem(await post(s("/runs"), { command: "true", timeout_s: 90_000 }), 400, "out_of_range", "/timeout_s");
    assert.equal((await post(s("/runs"), { prompt: "shell has no prompts" })).status, 400);
    assertProblem(await post("/v1/execute", { language: "cobol", code: "x" }), 400, "unknown_language", "/language");
    assertProblem(await api.call("GET", "/v1/sessions/ses_00000000000000000000"), 404, "session_not_found");
    assertProblem(await api.call("GET", "/v1/sessions/nonsense"), 404, "session_not_found");
    assertProblem(await api.call("GET", s("/runs/run_99")), 404, "run_not_found");
    assert.equal((await post("/v1/execute", { language: "bash", code: "x".repeat(20_000_000) })).status, 413);
    assert.equal((await api.call("GET", "/nowhere")).status, 404);
    assert.equal((await api.call("PUT", "/v1/sessions")).status, 405);
    assert.equal(count((await api.ok("GET", "/v1/sessions?limit=100")).body), count(before), "nothing was created");
  });
});

describe("engine", () => {
  test("not running: 503 that says what to do, soon", async () => {
    const stack = await openStack();
    try {
      process.kill(-stack.engine.child.pid, "SIGKILL");
      await new Promise((r) => setTimeout(r, 300));
      for (const [path, body] of [
        ["/v1/execute", { language: "bash", code: "true" }],
        ["/v1/sessions", { agent: "shell" }],
      ]) {
        const begun = Date.now();
        const answer = await stack.api.call("POST", path, body);
        assertProblem(answer, 503, "engine_unavailable");
        assert.match(answer.body.detail, /make dev/);
        assert.ok(Date.now() - begun < 10_000);
      }
    } finally {
      await stack.close();
    }
  });

  test("a full disk in the sandbox is a clear outcome", {
    skip: process.getuid() !== 0 && "needs root to mount a small file system",
  }, async () => {
    const stack = await openStack({ engineDir: scratchMount("full", 48) });
    try {
      const session = await stack.api.session({ agent: "shell" });
      const { outcome, events } = await stack.api.run(session.id, {
        command: "echo before; cat /dev/zero > /workspace/big; for i in $(seq 1000); do seq 1 10000; done",
      });
      assert.equal(outcome.type, "run.failed", JSON.stringify(outcome));
      assert.equal(outcome.reason, "disk_full");
      assert.ok(
        events.some((e) => e.type === "output.stdout" && e.text.startsWith("before")),
        "the events so far are kept",
      );
      const still = await stack.api.ok("POST", `/v1/sessions/${session.id}/exec`, {
        command: "echo still; echo here >&2",
      });
      assert.equal(still.body.stdout, "still\n", "output does not need the disk");
      assert.equal(still.body.stderr, "here\n");
    } finally {
      await stack.close();
    }
  });
});
