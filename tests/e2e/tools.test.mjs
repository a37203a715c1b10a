/** Tool rules of a policy and the real Claude Code: it refuses what its settings forbid, and a call that it makes all the same stops the run. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { openStack } from "./lib.mjs";

describe("tool rules", () => {
  let stack;
  let api;
  before(async () => {
    stack = await openStack();
    api = stack.api;
  });
  after(() => stack?.close());
  const open = (tools) =>
    api.session({
      agent: "claude-code",
      policy: { preset: "model-only", tools },
      files: [{ path: "/workspace/kept", content: "x" }],
    });
  const kept = async (session) => (await api.call("GET", `/v1/sessions/${session.id}/files/kept`)).status === 200;
  const of = (events, type) => events.filter((event) => event.type === type);

  test("the CLI refuses what its settings forbid, and the run goes on to its end", async () => {
    const session = await open({ deny: ["Bash(rm:*)", "Read(~/.ssh/**)", "WebFetch"] });
    const { events, outcome } = await api.run(session.id, { prompt: "[script:forbidden] go" });
    assert.equal(outcome.type, "run.succeeded", JSON.stringify(outcome));
    const results = of(events, "agent.tool_result");
    assert.deepEqual(
      results.map((event) => event.is_error),
      [false, true, true, true, true],
    );
    assert.deepEqual(
      of(events, "agent.permission_denied").map((event) => event.tool),
      ["Bash", "Bash"],
      "by the events; the others by the CLI's record, or because the tool is gone",
    );
    assert.ok(await kept(session));
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
  });

  test("with a list of what is allowed, nothing else is offered", async () => {
    const session = await open({ allow: ["Bash(touch:*)"] });
    const { events, outcome } = await api.run(session.id, { prompt: "[script:forbidden] go" });
    assert.equal(outcome.type, "run.succeeded", JSON.stringify(outcome));
    const [{ tools, permission_mode }] = of(events, "agent.init");
    assert.deepEqual([permission_mode, tools.includes("Bash"), tools.includes("Read")], ["dontAsk", true, false]);
    assert.ok(of(events, "agent.tool_result").every((event) => event.is_error));
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
  });

  test("a call that the policy forbids and the CLI makes stops the run", async () => {
    const session = await open({});
    const run = (await api.ok("POST", `/v1/sessions/${session.id}/runs`, { prompt: "[script:forbidden] go" })).body;
    const end = api.follow(session.id, run.id);
    end.catch(() => {});
    await api.until(
      async () => (await api.call("GET", `/v1/sessions/${session.id}/files/started`)).status === 200,
      "the first tool has started",
    );
    // The CLI was started with permissions skipped and without this rule.
    await api.ok("PUT", `/v1/sessions/${session.id}/policy`, {
      preset: "model-only",
      tools: { deny: ["Bash(rm:*)"] },
    });
    const { events, outcome } = await end;
    assert.equal(outcome.type, "run.policy_violation", JSON.stringify(outcome));
    assert.equal(outcome.reason, "tools.deny[0]");
    assert.match(
      outcome.error.message,
      /^Bash\(rm -f \/workspace\/kept\) is denied by tools\.deny\[0\] "Bash\(rm:\*\)"/,
    );
    const [violation] = of(events, "policy.violation");
    assert.deepEqual(
      [violation.call, violation.rule, violation.pattern],
      ["Bash(rm -f /workspace/kept)", "tools.deny[0]", "Bash(rm:*)"],
    );
    assert.ok(!events.some((event) => event.type === "agent.result"), "the agent was stopped before its end");
    const view = (await api.ok("GET", `/v1/sessions/${session.id}/runs/${run.id}`)).body;
    assert.deepEqual([view.state, view.reason], ["policy_violation", "tools.deny[0]"]);
    const { body } = await api.ok("POST", `/v1/sessions/${session.id}/exec`, {
      command: "cat /var/lib/caisson/runs/run_1/exit.json; cat /proc/[0-9]*/comm | grep -c '^claude' || true",
    });
    assert.match(body.stdout, /"reason":"policy_violation"[\s\S]*\n?0\n$/, "the runner says so, and the agent is gone");
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
  });
});
