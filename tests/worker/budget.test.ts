import { runDurableObjectAlarm } from "cloudflare:test";
import { describe, expect, it } from "vitest";
import { BadPrices, coreRequest } from "../../worker/src/session/request.js";
import { created, ended, eventually, log, running, stub, types, value } from "./session-fixture.js";

function turn(id: string, model: string, input: number, output = 1): string {
  const usage = { input_tokens: input, output_tokens: output };
  const content = [{ type: "tool_use", id: `tool_${id}`, name: "Bash", input: { command: "ls" } }];
  return `${JSON.stringify({ type: "assistant", message: { id, model, content, usage } })}\n`;
}

function toolResult(id: string): string {
  const content = [{ type: "tool_result", tool_use_id: `tool_${id}`, content: "x" }];
  return `${JSON.stringify({ type: "user", message: { content } })}\n`;
}

describe("budgets", () => {
  it("warns at 80 %, stops the run at the limit, and says which", async () => {
    const { session, fake } = await running(
      { agent: "claude-code" },
      { prompt: "go", limits: { tokens: 100, turns: 50 } },
    );
    fake.output(1, turn("a", "claude-opus-5-5", 84));
    await eventually(async () => {
      const view = value(await session.run("run_1"));
      expect(view.usage).toMatchObject({ input_tokens: 84, output_tokens: 1, turns: 1, cost_usd: 0.000356 });
      expect(view.limits).toEqual({ tokens: 100, turns: 50 });
      expect(view.budget["tokens"]).toEqual({ used: 85, max: 100, remaining: 15 });
    });
    expect(value(await session.view())).toMatchObject({ usage: { turns: 1 }, limits: {}, price_table: "2026-11-21" });
    expect(value(await session.mayCallModel())).toEqual({ run_id: "run_1", may_call: true, reached: null });
    fake.output(1, turn("b", "claude-opus-5-5", 20));
    const run = await ended(session);
    expect(run).toMatchObject({ state: "over_budget", reason: "tokens" });
    expect(run.reached).toEqual({ limit: "tokens", scope: "run", used: 106, max: 100 });
    expect(run.budget["tokens"]).toEqual({ used: 106, max: 100, remaining: 0 });
    expect(fake.run(1).killed).toBe("over_budget");
    const events = await log(session);
    const warnings = events.filter(({ type }) => type === "limit.warning");
    expect(warnings).toMatchObject([{ limit: "tokens", scope: "run", used: 85, max: 100, run: "run_1" }]);
    expect(types(events).indexOf("limit.warning")).toBeLessThan(types(events).indexOf("run.over_budget"));
  });

  it("refuses the next run of a session that is over its limit, until the limit is raised", async () => {
    const { session, fake } = await running({ agent: "claude-code", limits: { turns: 1 } }, { prompt: "go" });
    fake.output(1, turn("a", "claude-opus-5-5", 1) + toolResult("a"));
    expect(await ended(session)).toMatchObject({ state: "over_budget", reached: { limit: "turns", scope: "session" } });
    const refused = await session.createRun({ prompt: "more" });
    expect(refused).toMatchObject({ ok: false, status: 409, code: "over_budget" });
    if (!refused.ok) expect(refused.detail).toContain("turns 1 of 1 used");
    expect(value(await session.runs())).toHaveLength(1);
    expect(value(await session.update({ limits: { turns: 3 } })).limits).toEqual({ turns: 3 });
    value(await session.createRun({ prompt: "more" }));
    await eventually(async () => expect(value(await session.run("run_2")).state).toBe("running"));
    fake.output(2, turn("b", "claude-opus-5-5", 1) + toolResult("b"));
    await eventually(async () => expect(value(await session.view()).usage.turns).toBe(2));
    // Lowered below what is used, it stops the run that is under way.
    value(await session.update({ limits: { turns: 2 }, timeout_s: 500 }));
    expect(await ended(session, "run_2")).toMatchObject({ state: "over_budget", usage: { turns: 1 } });
    expect(value(await session.view())).toMatchObject({ timeout_s: 500, usage: { turns: 2 } });
    expect(value(await session.update({ limits: { turns: null } })).limits).toEqual({});
    expect(await session.update({ limits: { turns: 0 } })).toMatchObject({ ok: false, field: "/limits/turns" });
  });

  it("counts what the wire says, and asks the operator's prices first", async () => {
    const { session, fake } = await running(
      { agent: "claude-code", limits: { cost_usd: 1 } },
      { prompt: "go", model: "house-model" },
    );
    expect(value(await session.countUsage("run_1", { input_tokens: 100_000, output_tokens: 40_000 }))).toEqual({
      run_id: "run_1",
      may_call: true,
      reached: null,
    });
    expect(value(await session.view()).budget["cost_usd"]).toEqual({ used: 0.2, max: 1, remaining: 0.8 });
    const verdict = await session.countUsage("run_1", { model: "house-model", input_tokens: 900_000 });
    expect(verdict).toMatchObject({ value: { may_call: false, reached: "cost_usd" } });
    expect(await ended(session)).toMatchObject({ state: "over_budget", usage: { cost_usd: 1.1 } });
    expect(fake.run(1).killed).toBe("over_budget");
    expect(value(await session.mayCallModel())).toMatchObject({ run_id: null, may_call: false });
    expect(await session.countUsage("run_7", {})).toMatchObject({ ok: false, code: "run_not_found" });
    expect(await session.countUsage("run_1", { input_tokens: 5 })).toMatchObject({ ok: true });
    expect(value(await session.view()).usage.input_tokens).toBe(1_000_000);
  });

  it("says null where a price is not known, and takes it for too much", async () => {
    const { session, fake } = await running({ agent: "claude-code" }, { prompt: "go" });
    value(await session.countUsage("run_1", { model: "nobody-knows", input_tokens: 5 }));
    fake.exit(1, { reason: "exited", exit_code: 0 });
    expect((await ended(session)).usage).toMatchObject({ cost_usd: null, input_tokens: 5 });
    expect(value(await session.view()).usage.cost_usd).toBeNull();
    value(await session.update({ limits: { cost_usd: 100 } }));
    const refused = await session.createRun({ prompt: "more" });
    expect(refused).toMatchObject({ ok: false, code: "over_budget" });
    if (!refused.ok) expect(refused.detail).toContain("cost_usd not known of 100 used");
  });

  it("keeps counters when the object is evicted", async () => {
    const { session, fake, id } = await running({ agent: "claude-code" }, { prompt: "go", limits: { tokens: 1_000 } });
    fake.output(1, turn("a", "claude-opus-5-5", 500));
    await eventually(async () => expect(value(await session.run("run_1")).usage?.turns).toBe(1));
    const { abortAllDurableObjects } = await import("cloudflare:test");
    await abortAllDurableObjects();
    const again = stub(id);
    expect(value(await again.run("run_1")).budget["tokens"]).toMatchObject({ used: 501 });
    fake.output(1, turn("a", "claude-opus-5-5", 500) + turn("b", "claude-opus-5-5", 499));
    expect(await ended(again)).toMatchObject({ state: "over_budget", usage: { turns: 2, input_tokens: 999 } });
  });

  it("ends a session that is idle for too long, unless it is used", async () => {
    const { session, id } = await created({ limits: { idle_s: 1 } });
    await eventually(async () => expect(value(await session.view()).state).toBe("idle"));
    await new Promise((resolve) => setTimeout(resolve, 700));
    value(await session.sandboxId());
    await new Promise((resolve) => setTimeout(resolve, 500));
    await runDurableObjectAlarm(stub(id));
    expect(value(await session.view()).state).toBe("idle");
    await eventually(async () => expect(value(await session.view())).toMatchObject({ ended_reason: "idle" }));
  });

  it("holds the stricter of the policy's limits and those that were asked for", async () => {
    const policy = { preset: "offline", limits: { turns: 5, cost_usd: 2, tokens: 100, memory_mb: 256, cpus: 0.5 } };
    const { session, fake } = await created({ policy, limits: { turns: 9, cost_usd: 1, tool_calls: 7 } });
    const limits = async (): Promise<unknown> => value(await session.view()).limits;
    expect(await limits()).toEqual({ turns: 5, cost_usd: 1, tokens: 100, tool_calls: 7 });
    await eventually(async () => expect(fake.limits).toEqual({ memory_mb: 256, cpus: 0.5 }));
    // Neither can be lifted over the other.
    value(await session.update({ limits: { turns: null, cost_usd: 50, tokens: 30 } }));
    expect(await limits()).toEqual({ turns: 5, cost_usd: 2, tokens: 30, tool_calls: 7 });
    // A changed policy gives back what was asked for, and no more.
    value(await session.setPolicy({ preset: "offline", limits: { tool_calls: 3 } }));
    expect(await limits()).toEqual({ cost_usd: 50, tokens: 30, tool_calls: 3 });
    expect(await session.update({ limits: { turns: 0 } })).toMatchObject({ ok: false, field: "/limits/turns" });
    expect(await limits()).toEqual({ cost_usd: 50, tokens: 30, tool_calls: 3 });
    value(await session.setPolicy({ preset: "offline" }));
    expect(await limits()).toEqual({ cost_usd: 50, tokens: 30, tool_calls: 7 });
  });

  it("stops the running run at a limit that the policy has got since", async () => {
    const { session, fake } = await running({ agent: "claude-code" }, { prompt: "go" });
    fake.output(1, turn("a", "claude-opus-5-5", 84) + toolResult("a"));
    await eventually(async () => expect(value(await session.view()).usage.turns).toBe(1));
    value(await session.setPolicy({ preset: "model-only", limits: { tokens: 50 } }));
    expect(await ended(session)).toMatchObject({
      state: "over_budget",
      reached: { limit: "tokens", scope: "session" },
    });
  });

  it("blames no request for bad prices", () => {
    expect(() => coreRequest({ agent: "shell" }, "[")).toThrow(BadPrices);
    expect(coreRequest({ agent: "shell" }, " ")).toEqual({ agent: "shell" });
    expect(coreRequest({ agent: "shell" }, "[]")).toEqual({ agent: "shell", prices: [] });
  });
});
