/** The other agents' real CLIs in real sandboxes; only their models are scripted. `make agents` installs them. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { hasAgent } from "../../scripts/local.mjs";
import { openStack } from "./lib.mjs";

/** Input is what the script says without what a cache held; OpenCode and Gemini report each run's own, Codex the thread's. */
const AGENTS = [
  { name: "codex", model: "gpt-5.5", tool: "command_execution", calls: 1 },
  { name: "gemini", model: "gemini-2.5-pro", tool: "write_file", calls: 1 },
  { name: "opencode", model: "gpt-5.5", tool: "bash", calls: 1 },
];

for (const { name, model, tool, calls } of AGENTS) {
  describe(name, { skip: !hasAgent(name) && `${name} is not installed: make agents` }, () => {
    let stack;
    let api;
    before(async () => {
      stack = await openStack();
      api = stack.api;
    });
    after(() => stack?.close());
    const open = (more = {}) => api.session({ agent: name, model, ...more });
    const idOf = (run) => run.events.find((e) => e.type === "agent.init")?.agent_session_id;

    test("writes a file, and a follow-up goes on with the conversation", async () => {
      const session = await open({ system_prompt: "Be brief." });
      const first = await api.run(session.id, { prompt: `[script:${name}-hello] Write hello.txt` });
      assert.equal(first.outcome.type, "run.succeeded", JSON.stringify(first.events.slice(-4)));
      assert.equal(first.outcome.result, "I wrote hello.txt.");
      assert.equal(first.outcome.usage.tool_calls, calls);
      assert.equal(first.outcome.usage.input_tokens, 1200);
      assert.equal(first.outcome.usage.cache_read_tokens, 900);
      assert.equal(first.outcome.usage.output_tokens, 27);
      const call = first.events.find((e) => e.type === "agent.tool_call");
      assert.equal(call.tool, tool);
      assert.ok(first.events.some((e) => e.type === "agent.tool_result" && !e.is_error));
      assert.ok(first.events.some((e) => e.type === "file.changed" && e.path === "hello.txt"));
      const { body: diff } = await api.ok("GET", `/v1/sessions/${session.id}/diff`);
      assert.match(diff, /\+Hello from the sandbox/);

      const second = await api.run(session.id, { prompt: `[script:${name}-followup] What does it say?` });
      assert.equal(second.outcome.type, "run.succeeded", JSON.stringify(second.events.slice(-4)));
      assert.equal(idOf(second), idOf(first));
      assert.match(second.events.find((e) => e.type === "agent.tool_result").text, /Hello from the sandbox/);
      assert.equal(second.outcome.usage.input_tokens, 2500, "its own tokens, not the conversation's");
      assert.ok(
        stack.modelLog.every((e) => e.key_ok),
        "every request carried the real key",
      );
      await api.ok("DELETE", `/v1/sessions/${session.id}`);
    });

    test("401 from the model is a failure with the API's status", async () => {
      const session = await open();
      const { outcome } = await api.run(session.id, { prompt: "[script:unauthorized] Try" });
      assert.equal(outcome.type, "run.failed", JSON.stringify(outcome));
      assert.equal(outcome.reason, "api_error");
      assert.equal(outcome.error.status, 401, JSON.stringify(outcome));
      await api.ok("DELETE", `/v1/sessions/${session.id}`);
    });

    test("cancel ends the run and its tool", async () => {
      const session = await open();
      const run = (await api.ok("POST", `/v1/sessions/${session.id}/runs`, { prompt: `[script:${name}-slow] Count` }))
        .body;
      const end = api.follow(session.id, run.id);
      end.catch(() => {});
      await api.until(
        async () => (await api.call("GET", `/v1/sessions/${session.id}/files/started`)).status === 200,
        "the tool has started",
        60_000,
      );
      await api.ok("POST", `/v1/sessions/${session.id}/runs/${run.id}/cancel`);
      const { outcome } = await end;
      assert.equal(outcome.type, "run.cancelled", JSON.stringify(outcome));
      const command = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '";
      const { body } = await api.ok("POST", `/v1/sessions/${session.id}/exec`, { command });
      assert.doesNotMatch(body.stdout, /seq 600/, "the tool is gone");
      await api.ok("DELETE", `/v1/sessions/${session.id}`);
    });
  });
}
