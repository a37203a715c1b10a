/** Tool rules of a policy: what the agent is told of them, and what becomes of a call that it makes against them. */
import { describe, expect, it } from "vitest";
import { created, ended, eventually, fresh, log, running, types, value } from "./session-fixture.js";

const META = "permission_decision";
function call(id: string, command: string): string {
  const content = [{ type: "tool_use", id, name: "Bash", input: { command } }];
  return `${JSON.stringify({ type: "assistant", message: { id: `m${id}`, content } })}\n`;
}
function result(id: string, decision: "accept" | "reject"): string {
  const content = [{ type: "tool_result", tool_use_id: id, content: "x" }];
  const meta = [{ id, [META]: { decision } }];
  return `${JSON.stringify({ type: "user", message: { content }, tool_result_meta: meta })}\n`;
}
const open = (tools: object) =>
  running({ agent: "claude-code", policy: { preset: "model-only", tools } }, { prompt: "go" });

describe("tool rules", () => {
  it("are told to the agent, and stop a run whose agent does what they forbid", async () => {
    const { session, fake } = await open({ deny: ["Bash(rm:*)"], ask: ["Bash(git push:*)"] });
    const spec = [...fake.files].find(([path]) => path.endsWith("run_1/spec.json"))?.[1] ?? "";
    expect(spec).toContain('\\"deny\\":[\\"Bash(rm:*)\\",\\"Bash(git push:*)\\"]');
    fake.output(1, call("a", "rm x") + result("a", "reject") + call("b", "ls") + result("b", "accept"));
    await eventually(async () =>
      expect(types(await log(session)).filter((t) => t === "agent.tool_call")).toHaveLength(2),
    );
    expect(value(await session.run("run_1")).state).toBe("running");
    fake.output(1, call("c", "ls; rm x") + result("c", "accept"));
    const run = await ended(session);
    expect(run).toMatchObject({ state: "policy_violation", reason: "tools.deny[0]" });
    expect(fake.run(1).killed).toBe("policy_violation");
    const events = await log(session);
    expect(events.filter(({ type }) => type === "policy.violation")).toMatchObject([
      { tool_use_id: "c", call: "Bash(ls; rm x)", rule: "tools.deny[0]", pattern: "Bash(rm:*)", run: "run_1" },
    ]);
    expect(types(events).at(-2)).toBe("run.policy_violation");
  });

  it("change with the policy, also for the run that is under way", async () => {
    const { session, fake } = await open({});
    fake.output(1, call("a", "rm x") + result("a", "accept"));
    await eventually(async () => expect(types(await log(session))).toContain("agent.tool_result"));
    value(await session.setPolicy({ preset: "model-only", tools: { deny: ["Bash(rm:*)"] } }));
    fake.output(1, call("b", "rm x") + result("b", "accept"));
    expect(await ended(session)).toMatchObject({ state: "policy_violation", reason: "tools.deny[0]" });
  });

  it("are refused where they are more than a session can keep, and by a session that is over", async () => {
    const many = { tools: { deny: Array.from({ length: 129 }, (_, i) => `T${i}`) } };
    const { session, id } = fresh();
    const refused = await session.create(id, { agent: "claude-code", policy: many });
    expect(refused).toMatchObject({ ok: false, code: "invalid_policy", field: "/policy/tools/deny/128" });
    const other = await created({ policy: { preset: "offline" } });
    expect(await other.session.setPolicy(many)).toMatchObject({ ok: false, field: "/policy/tools/deny/128" });
    expect(value(await other.session.policy()).policy).toEqual({ preset: "offline" });
    value(await other.session.end());
    expect(await other.session.setPolicy({})).toMatchObject({ ok: false, code: "session_ended" });
  });

  it("want a stream of events", async () => {
    const { session } = await created({ agent: "claude-code", policy: { tools: { deny: ["WebSearch"] } } });
    const refused = await session.createRun({ prompt: "go", output_format: "text" });
    expect(refused).toMatchObject({ ok: false, status: 400, field: "/output_format" });
  });
});
