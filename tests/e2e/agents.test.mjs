/** The other agents' real CLIs in real sandboxes; only their models are scripted. `make agents` installs them. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { hasAgent } from "../../scripts/local.mjs";
import { openStack } from "./lib.mjs";

/** Input is what the script says without what a cache held; OpenCode and Gemini report each run's own, Codex the thread's. */
const AGENTS = [
  { name: "codex", model: "gpt-5.5", tool: "command_execution", mcpTool: "mcp__adder__add", forks: true },
  { name: "gemini", model: "gemini-2.5-pro", tool: "write_file", mcpTool: "mcp_adder_add", forks: false },
  // Its title costs a request of its own, which it does not report: the wire does.
  { name: "opencode", model: "gpt-5.5", tool: "bash", mcpTool: "adder_add", forks: true, title: true },
];
/** Quotes, and what agents would read variables into. */
// biome-ignore lint/suspicious/noTemplateCurlyInString: it is to stay as it is
const SAYS = 'it\'s "$x" ${HOME} {env:HOME} \\$HOME ';
const SERVER = readFileSync(new URL("adder.mjs", import.meta.url), "utf8");

for (const { name, model, tool, mcpTool, forks, title = false } of AGENTS) {
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
      assert.equal(first.outcome.usage.tool_calls, 1);
      assert.equal(first.outcome.usage.input_tokens, title ? 1250 : 1200);
      assert.equal(first.outcome.usage.cache_read_tokens, 900);
      assert.equal(first.outcome.usage.output_tokens, title ? 32 : 27);
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

    test("a fork goes on with a copy of the conversation", { skip: !forks && "it cannot fork" }, async () => {
      const session = await open();
      const first = await api.run(session.id, { prompt: `[script:${name}-hello] Write hello.txt` });
      const fork = await api.run(session.id, { prompt: `[script:${name}-followup] What does it say?`, fork: true });
      assert.equal(fork.outcome.type, "run.succeeded", JSON.stringify(fork.events.slice(-4)));
      assert.notEqual(idOf(fork), idOf(first));
      assert.equal(fork.outcome.usage.input_tokens, 2500, "its own tokens alone");
      const old = await api.run(session.id, { prompt: `[script:${name}-followup] And here?`, resume: idOf(first) });
      assert.equal(old.outcome.type, "run.succeeded", JSON.stringify(old.events.slice(-4)));
      assert.equal(idOf(old), idOf(first));
      assert.equal(old.outcome.usage.input_tokens, 2500);
      await api.ok("DELETE", `/v1/sessions/${session.id}`);
    });

    test("calls a tool of an MCP server that the session configures", async () => {
      const session = await open({
        files: [{ path: "adder.mjs", content: SERVER }],
        mcp: {
          adder: { command: "/opt/caisson/bin/node", args: ["/workspace/adder.mjs"], env: { SAYS: SAYS } },
        },
      });
      const { events, outcome } = await api.run(session.id, { prompt: `[script:${name}-mcp] Add` });
      assert.equal(outcome.type, "run.succeeded", JSON.stringify(events.slice(-6)));
      const of = (type) => events.filter((e) => e.type === type);
      assert.deepEqual(
        of("agent.tool_call").map((e) => e.tool),
        [mcpTool],
      );
      const [result] = of("agent.tool_result");
      assert.deepEqual([result.is_error, result.text], [false, `${SAYS}42`]);
      await api.ok("DELETE", `/v1/sessions/${session.id}`);
    });

    test("refuses itself what the policy's rules deny", async () => {
      const session = await open({ policy: { preset: "model-only", tools: { deny: ["Bash(touch:*)"] } } });
      const { events, outcome } = await api.run(session.id, { prompt: `[script:${name}-forbidden] Touch` });
      assert.equal(outcome.type, "run.succeeded", JSON.stringify(events.slice(-6)));
      assert.ok(
        events.some((e) => e.type === "agent.permission_denied"),
        JSON.stringify(events.slice(-6)),
      );
      const status = async (file) => (await api.call("GET", `/v1/sessions/${session.id}/files/${file}`)).status;
      assert.deepEqual([await status("forbidden"), await status("allowed")], [404, 200]);
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
