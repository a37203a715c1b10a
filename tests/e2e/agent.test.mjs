/** The real Claude Code CLI in a real sandbox, through the real wrangler dev; only the model is scripted. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { filesOf, ROOT } from "../../scripts/local.mjs";
import { openStack } from "./lib.mjs";

describe("claude-code", () => {
  let stack;
  let api;
  before(async () => {
    stack = await openStack();
    api = stack.api;
  });
  after(() => stack?.close());

  test("mends the sample repository: events, diff, artifacts, usage", async () => {
    const session = await api.session({
      agent: "claude-code",
      files: filesOf(join(ROOT, "tests/fixtures/sample-repo")),
    });
    const { run, events, outcome } = await api.run(session.id, { prompt: "Fix the failing test." });
    assert.equal(outcome.type, "run.succeeded", JSON.stringify(outcome));
    assert.match(outcome.result, /All four tests pass now/);
    assert.equal(outcome.usage.tool_calls, 5);
    assert.ok(outcome.usage.input_tokens > 1000 && outcome.usage.output_tokens > 100 && outcome.usage.cost_usd > 0);

    const types = events.map((e) => e.type);
    for (const type of [
      "run.queued",
      "run.started",
      "agent.init",
      "agent.text",
      "agent.thinking",
      "agent.tool_call",
      "agent.tool_result",
      "agent.result",
      "file.changed",
      "artifact.stored",
    ])
      assert.ok(types.includes(type), `${type} is missing in ${types}`);
    const calls = events.filter((e) => e.type === "agent.tool_call");
    assert.deepEqual(
      calls.map((c) => c.tool),
      ["Bash", "Read", "Edit", "Bash", "Write"],
    );
    assert.equal(calls[1].file, "/workspace/src/duration.js");
    const results = events.filter((e) => e.type === "agent.tool_result");
    assert.match(results[0].text, /fail 1/);
    assert.match(results[3].text, /fail 0/);
    const call = events.find((e) => e.type === "agent.tool_call");
    assert.equal(call.raw.message.content[0].id, call.tool_use_id, "the agent's own line comes with the event");
    const seqs = events.map((e) => e.seq);
    assert.deepEqual(
      [...seqs].sort((a, b) => a - b),
      seqs,
    );

    const { body: diff } = await api.ok("GET", `/v1/sessions/${session.id}/diff`);
    assert.match(diff, /-\s+const m = Math\.floor\(seconds \/ 60\);/);
    assert.match(diff, /\+\s+const m = Math\.floor\(\(seconds % 3600\) \/ 60\);/);
    assert.match(diff, /CHANGELOG\.md/);

    const artifacts = (await api.ok("GET", `/v1/sessions/${session.id}/artifacts`)).body.artifacts;
    assert.deepEqual(artifacts.map((a) => a.path).sort(), ["CHANGELOG.md", "src/duration.js"]);
    for (const artifact of artifacts) {
      const { bytes } = await api.ok("GET", `/v1/sessions/${session.id}/artifacts/${artifact.path}?run=${run.id}`);
      assert.equal(bytes.length, artifact.size);
      assert.equal(createHash("sha256").update(bytes).digest("hex"), artifact.sha256);
    }
    const view = (await api.ok("GET", `/v1/sessions/${session.id}/runs/${run.id}`)).body;
    assert.equal(view.state, "succeeded");
    assert.deepEqual(view.usage, outcome.usage);
    assert.deepEqual(
      view.summary.files.filter((f) => f.status !== null).map((f) => [f.path, f.status]),
      [
        ["src/duration.js", "modified"],
        ["CHANGELOG.md", "added"],
      ],
    );

    const whole = (await api.ok("GET", `/v1/sessions/${session.id}/transcript`)).body;
    const [told] = whole.runs;
    assert.deepEqual([whole.runs.length, told.run, told.state, told.truncated], [1, run.id, "succeeded", null]);
    assert.deepEqual(told.usage, outcome.usage);
    const items = told.turns.flatMap((turn) => turn.items).filter((item) => item.type === "tool_call");
    assert.deepEqual(
      items.map((item) => [item.tool, item.result.is_error]),
      calls.map((c) => [c.tool, results.find((r) => r.tool_use_id === c.tool_use_id).is_error]),
    );
    assert.match(items[2].diff, /\n-Math\.floor\(seconds \/ 60\);\n\+Math\.floor\(\(seconds % 3600\) \/ 60\);\n$/);
    const markdown = await api.ok("GET", `/v1/sessions/${session.id}/runs/${run.id}/transcript`, undefined, {
      accept: "text/markdown",
    });
    assert.match(markdown.body, /^# Run 1\n[\s\S]*```diff\n--- \/workspace\/src\/duration\.js\n/);

    await api.ok("DELETE", `/v1/sessions/${session.id}`);
    const page = (await api.ok("GET", `/v1/sessions/${session.id}/events?limit=1000`)).body;
    assert.deepEqual(
      page.events.map((e) => e.seq),
      page.events.map((_, i) => i + 1),
      "no gap, nothing twice",
    );
    assert.equal(page.events.at(-1).type, "session.ended");
    assert.match(
      (await api.ok("GET", `/v1/sessions/${session.id}/diff`)).body,
      /3600/,
      "the diff outlives the sandbox",
    );
  });

  test("a follow-up resumes the agent's own session and reports its own usage", async () => {
    const session = await api.session({ agent: "claude-code" });
    const first = await api.run(session.id, { prompt: "[script:hello] Write hello.txt" });
    assert.equal(first.outcome.type, "run.succeeded", JSON.stringify(first.outcome));
    const second = await api.run(session.id, { prompt: "[script:followup] What does it say?" });
    assert.equal(second.outcome.type, "run.succeeded", JSON.stringify(second.outcome));
    const id = (run) => run.events.find((e) => e.type === "agent.init").agent_session_id;
    assert.equal(id(first), id(second));
    assert.match(second.events.find((e) => e.type === "agent.tool_result").text, /Hello from the sandbox/);
    const view = (await api.ok("GET", `/v1/sessions/${session.id}`)).body;
    assert.equal(view.runs, 2);
    const sum = first.outcome.usage.cost_usd + second.outcome.usage.cost_usd;
    assert.ok(
      Math.abs(view.usage.cost_usd - sum) < 1e-6,
      `${view.usage.cost_usd} is not ${sum}: cost is cumulative over resumes`,
    );
    const fresh = await api.run(session.id, { prompt: "[script:hello] Again", resume: false });
    assert.notEqual(id(fresh), id(first));
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
  });

  test("a fork goes on with a copy of the conversation, which stays as it is", async () => {
    const session = await api.session({ agent: "claude-code" });
    const id = (run) => run.events.find((e) => e.type === "agent.init").agent_session_id;
    const first = await api.run(session.id, { prompt: "[script:hello] Write hello.txt" });
    const fork = await api.run(session.id, { prompt: "[script:followup] What does it say?", fork: true });
    assert.equal(fork.outcome.type, "run.succeeded", JSON.stringify(fork.outcome));
    assert.notEqual(id(fork), id(first));
    const old = await api.run(session.id, { prompt: "[script:followup] And here?", resume: id(first) });
    assert.equal(old.outcome.type, "run.succeeded", JSON.stringify(old.outcome));
    assert.equal(id(old), id(first));
    const view = (await api.ok("GET", `/v1/sessions/${session.id}`)).body;
    const sum = [first, fork, old].reduce((usd, run) => usd + run.outcome.usage.cost_usd, 0);
    assert.ok(Math.abs(view.usage.cost_usd - sum) < 1e-6, `${view.usage.cost_usd} is not ${sum}`);
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
  });

  /** Starts the slow script and resolves when its tool is at work. */
  async function slowRun(body = {}) {
    const session = await api.session({ agent: "claude-code" });
    const run = (await api.ok("POST", `/v1/sessions/${session.id}/runs`, { prompt: "[script:slow] Count", ...body }))
      .body;
    const end = api.follow(session.id, run.id);
    end.catch(() => {});
    await api.until(
      async () => (await api.call("GET", `/v1/sessions/${session.id}/files/started`)).status === 200,
      "the tool has started",
      30_000,
    );
    return { session, run, end };
  }
  const processes = async (sessionId) =>
    (await api.ok("POST", `/v1/sessions/${sessionId}/exec`, { command: "cat /proc/[0-9]*/cmdline | tr '\\0' ' '" }))
      .body.stdout;

  test("cancel ends the run and its tool processes, and the session goes on", async () => {
    const { session, run, end } = await slowRun();
    const queued = (await api.ok("POST", `/v1/sessions/${session.id}/runs`, { prompt: "[script:hello] next" })).body;
    assert.equal(queued.state, "queued");
    await api.ok("POST", `/v1/sessions/${session.id}/runs/${run.id}/cancel`);
    const { outcome } = await end;
    assert.equal(outcome.type, "run.cancelled", JSON.stringify(outcome));
    const next = await api.follow(session.id, queued.id);
    assert.equal(next.outcome.type, "run.succeeded");
    assert.doesNotMatch(await processes(session.id), /seq 600|sleep 0\.5/, "the tool is gone");
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
  });

  test("a time-out is its own outcome, and the events so far are kept", async () => {
    const { session, end } = await slowRun({ timeout_s: 6 });
    const { events, outcome } = await end;
    assert.equal(outcome.type, "run.timed_out", JSON.stringify(outcome));
    assert.ok(events.some((e) => e.type === "agent.tool_call" && e.tool === "Bash"));
    assert.ok(outcome.duration_ms >= 5500 && outcome.duration_ms < 15_000, String(outcome.duration_ms));
    assert.doesNotMatch(await processes(session.id), /seq 600/);
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
  });

  test("an agent that is killed leaves an interrupted run", async () => {
    const { session, end } = await slowRun();
    await api.ok("POST", `/v1/sessions/${session.id}/exec`, {
      command:
        'for p in /proc/[0-9]*; do [ "$(readlink $p/exe)" = /opt/caisson/bin/claude ] && kill -9 $(basename $p); done; true',
    });
    const { outcome } = await end;
    assert.equal(outcome.type, "run.interrupted", JSON.stringify(outcome));
    assert.equal(outcome.signal, 9);
    assert.doesNotMatch(await processes(session.id), /seq 600/);
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
  });

  test("a sandbox that is killed leaves an interrupted run and an ended session", async () => {
    const { session, end } = await slowRun();
    const list = await fetch(`http://127.0.0.1:${stack.engine.port}/v1/sandboxes`, {
      headers: { authorization: `Bearer ${stack.engine.token}` },
    }).then((r) => r.json());
    for (const { name } of list.sandboxes)
      await fetch(`http://127.0.0.1:${stack.engine.port}/v1/sandboxes/${name}/signal`, {
        method: "POST",
        headers: { authorization: `Bearer ${stack.engine.token}` },
        body: '{"signal":9}',
      });
    const { outcome } = await end;
    assert.equal(outcome.type, "run.interrupted", JSON.stringify(outcome));
    assert.equal(outcome.reason, "sandbox_lost");
    const view = await api.until(async () => {
      const { body } = await api.ok("GET", `/v1/sessions/${session.id}`);
      return body.state === "ended" && body;
    }, "the session has ended");
    assert.equal(view.ended_reason, "sandbox_lost");
  });

  test("401 and 529 from the model are failures with the API's status, not successes", async () => {
    for (const [script, status] of [
      ["unauthorized", 401],
      ["overloaded", 529],
    ]) {
      const session = await api.session({ agent: "claude-code", env: { CLAUDE_CODE_MAX_RETRIES: "1" } });
      const { outcome, events } = await api.run(session.id, { prompt: `[script:${script}] Try` });
      assert.equal(outcome.type, "run.failed", JSON.stringify(outcome));
      assert.equal(outcome.error.status, status, JSON.stringify(outcome));
      assert.ok(
        events.some((e) => e.type === "agent.retry" && e.status === status),
        "the retry is an event",
      );
      await api.ok("DELETE", `/v1/sessions/${session.id}`);
    }
  });

  test("the real key is nowhere in the sandbox", async () => {
    const session = await api.session({ agent: "claude-code" });
    const { outcome } = await api.run(session.id, { prompt: "[script:leak] Look around" });
    assert.equal(outcome.type, "run.succeeded", JSON.stringify(outcome));
    assert.ok(
      stack.modelLog.some((e) => e.script === "leak" && e.key_ok),
      "the model was called with the real key",
    );
    const read = async (name) =>
      (await api.ok("GET", `/v1/sessions/${session.id}/files/${name}`)).bytes.toString("utf8");
    assert.match(
      await read("env.txt"),
      /ANTHROPIC_API_KEY=caisson-placeholder/,
      "the probe did look at the agent's environment",
    );
    const env = await read("env.txt");
    assert.match(env, /^HOME=\/home\/user$/m);
    assert.doesNotMatch(
      env,
      /^GIT_(DIR|WORK_TREE|INDEX_FILE|CONFIG)/m,
      "the baseline repository is not the agent's business",
    );
    assert.match(await read("cmdlines.txt"), /claude/);
    for (const name of ["env.txt", "environs.txt", "cmdlines.txt"])
      assert.ok(!(await read(name)).includes(stack.modelKey), `${name} holds the key`);
    assert.equal((await read("files.txt")).trim(), "");
    const page = (await api.ok("GET", `/v1/sessions/${session.id}/events?limit=1000`)).bytes.toString("utf8");
    assert.ok(!page.includes(stack.modelKey), "the event log holds the key");
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
  });

  test("no other host is reachable from the sandbox", async () => {
    const session = await api.session({ agent: "shell" });
    const probe = `for u in http://example.com/ https://example.com/ http://127.0.0.1:${stack.port}/health http://127.0.0.1:${stack.engine.port}/v1/health http://169.254.169.254/; do curl -s -m 3 -o /dev/null -w "%{http_code}\\n" $u; done; cat /sys/class/net/*/address 2>/dev/null | sort -u`;
    const { body } = await api.ok("POST", `/v1/sessions/${session.id}/exec`, { command: probe });
    // A loopback address is the sandbox's own; everything else is asked of the policy.
    assert.deepEqual(body.stdout.trim().split("\n").slice(0, 5), ["403", "403", "000", "000", "403"]);
    const model = await api.ok("POST", `/v1/sessions/${session.id}/exec`, {
      command: "curl -s -m 5 -o /dev/null -w '%{http_code}' http://api.anthropic.com/secret/admin",
    });
    assert.match(model.body.stdout, /^40[34]$/, "only the model API's own paths are forwarded");
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
  });
});
