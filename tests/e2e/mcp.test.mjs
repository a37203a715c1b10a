/** An MCP server that a session configures, asked by the real Claude Code; only the model is scripted. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { openStack } from "./lib.mjs";

/** Quotes, and what agents would read variables into. */
// biome-ignore lint/suspicious/noTemplateCurlyInString: it is to stay as it is
const SAYS = 'it\'s "$x" ${HOME} {env:HOME} \\$HOME ';
const SERVER = readFileSync(new URL("adder.mjs", import.meta.url), "utf8");

describe("MCP servers of a session", () => {
  let stack;
  let api;
  before(async () => {
    stack = await openStack();
    api = stack.api;
  });
  after(() => stack?.close());
  const of = (events, type) => events.filter((event) => event.type === type);

  test("are started by the agent, told of in the events, and called", async () => {
    const session = await api.session({
      agent: "claude-code",
      files: [{ path: "adder.mjs", content: SERVER }],
      mcp: {
        adder: { command: "/opt/caisson/bin/node", args: ["/workspace/adder.mjs"], env: { SAYS: SAYS } },
      },
    });
    const { events, outcome } = await api.run(session.id, { prompt: "[script:mcp] Add" });
    assert.equal(outcome.type, "run.succeeded", JSON.stringify(outcome));
    assert.equal(outcome.result, "The sum is 42.");
    assert.deepEqual(
      of(events, "agent.tool_call").map((event) => event.tool),
      ["mcp__adder__add"],
    );
    const [result] = of(events, "agent.tool_result");
    assert.deepEqual([result.is_error, result.text], [false, `${SAYS}42`]);
    assert.ok(of(events, "agent.init")[0].tools.includes("mcp__adder__add"), JSON.stringify(of(events, "agent.init")));
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
  });

  test("that do not start leave the run without their tools", async () => {
    const session = await api.session({ agent: "claude-code", mcp: { adder: { command: "/no/such/program" } } });
    const { events, outcome } = await api.run(session.id, { prompt: "[script:mcp] Add" });
    assert.equal(outcome.type, "run.succeeded", JSON.stringify(outcome));
    assert.equal(of(events, "agent.tool_result")[0].is_error, true);
    assert.match(JSON.stringify(of(events, "agent.init")[0]), /"adder"/, "the server and its state are told");
    await api.ok("DELETE", `/v1/sessions/${session.id}`);
  });
});
