/** Many calls of one tenant at once, against the real objects that count them: never more than the quota come through. */
import { runInDurableObject } from "cloudflare:test";
import { describe, expect, it, vi } from "vitest";
import type { Env } from "../../../worker/src/env.js";
import type { TenantRpc } from "../../../worker/src/identity/tenant.js";
import { env } from "../env.js";
import { eventually, running, value } from "../session-fixture.js";
import { type ProblemBody, type Rig, rig } from "./fakes.js";

const KEYS = JSON.stringify({ keys: [{ kid: "one", secret: Buffer.alloc(32, 7).toString("base64url") }] });
const as = (token: string): RequestInit => ({ headers: { authorization: `Bearer ${token}` } });

/** The routes over the real Session, Tenant, R2 and D1. */
function configured(quotas: object): Rig {
  return rig({
    SESSION: env.SESSION,
    SANDBOX: env.SANDBOX,
    CAISSON_API_KEY: "operator",
    CAISSON_KEYS: KEYS,
    CAISSON_QUOTAS: JSON.stringify(quotas),
  });
}

/** The routes over scripted sandboxes. */
function faked(quotas: object, vars: Partial<Env> = {}): Rig {
  return rig({ CAISSON_API_KEY: "operator", CAISSON_KEYS: KEYS, CAISSON_QUOTAS: JSON.stringify(quotas), ...vars });
}

/** Lets a command of the rig's sandboxes end when what it put here is called. */
function held(r: Rig): (() => void)[] {
  const gates: (() => void)[] = [];
  r.prepare = (sandbox) => {
    sandbox.script = async function* () {
      await new Promise<void>((resolve) => gates.push(resolve));
      yield { type: "complete", exitCode: 0 };
    };
  };
  return gates;
}

let tenants = 0;
async function tenant(r: Rig, quota = "gold"): Promise<{ name: string; token: string; object: TenantRpc }> {
  tenants += 1;
  const name = `race-${tenants}`;
  const body = { tenant: name, quota, scopes: ["sessions:write", "execute"] };
  const { token } = (await (await r.call("POST", "/v1/tokens", body, as("operator"))).json()) as { token: string };
  return { name, token, object: env.TENANT.get(env.TENANT.idFromName(name)) as unknown as TenantRpc };
}

const times = <T>(n: number, make: (i: number) => Promise<T>): Promise<T[]> =>
  Promise.all(Array.from({ length: n }, (_, i) => make(i)));

async function start(r: Rig, token: string, init: Record<string, string> = {}, body: object = { agent: "shell" }) {
  return await r.call("POST", "/v1/sessions", body, { headers: { authorization: `Bearer ${token}`, ...init } });
}

/** How many were let in; every refusal says which limit it was and when to come again. */
async function letIn(answers: Response[], limit: string, max: number): Promise<number> {
  for (const answer of answers.filter(({ status }) => status !== 201 && status !== 200)) {
    expect(answer.status).toBe(429);
    expect(answer.headers.get("retry-after")).toMatch(/^[1-9]\d*$/);
    expect((await answer.json()) as ProblemBody).toMatchObject({ code: "quota_exceeded", limit, max });
  }
  return answers.filter(({ status }) => status < 300).length;
}

const counted = (name: string, table: "alive" | "starts"): Promise<number> =>
  runInDurableObject(
    env.TENANT.get(env.TENANT.idFromName(name)),
    (_tenant, state) => state.storage.sql.exec<{ n: number }>(`SELECT count(*) AS n FROM ${table}`).one().n,
  );

describe("starts that race", { timeout: 60_000 }, () => {
  it("never make more sessions than may be alive, of either of two tenants, and one that ends makes room for one", async () => {
    const r = configured({ gold: { sessions_alive: 5 }, tin: { sessions_alive: 2 } });
    const [one, two] = [await tenant(r), await tenant(r, "tin")];
    const answers = await times(60, (i) => start(r, i % 2 === 0 ? one.token : two.token));
    const of = (rest: number): Response[] => answers.filter((_, i) => i % 2 === rest);
    const made = of(0).filter(({ status }) => status === 201);
    expect(await letIn(of(0), "sessions_alive", 5)).toBe(5);
    expect(await letIn(of(1), "sessions_alive", 2)).toBe(2);
    expect([await counted(one.name, "alive"), await counted(two.name, "alive")]).toEqual([5, 2]);

    const { id } = (await (made[0] as Response).json()) as { id: string };
    expect((await r.call("DELETE", `/v1/sessions/${id}`, undefined, as(one.token))).status).toBe(200);
    // The object that ends is one with the variables of the tests: it is told what the Worker's would say by itself.
    await one.object.ended(id);
    const again = await times(10, () => start(r, one.token));
    expect(await letIn(again, "sessions_alive", 5)).toBe(1);
  });

  it("never begin more than may begin within a minute, and none of another tenant less", async () => {
    const r = configured({ gold: { starts_per_minute: 4 } });
    const [one, two] = [await tenant(r), await tenant(r)];
    const answers = await times(40, (i) => start(r, i % 4 === 0 ? two.token : one.token));
    expect(
      await letIn(
        answers.filter((_, i) => i % 4 !== 0),
        "starts_per_minute",
        4,
      ),
    ).toBe(4);
    expect(
      await letIn(
        answers.filter((_, i) => i % 4 === 0),
        "starts_per_minute",
        4,
      ),
    ).toBe(4);
    const late = await start(r, one.token);
    expect(Number(late.headers.get("retry-after"))).toBeGreaterThan(30);
    expect(Number(late.headers.get("retry-after"))).toBeLessThanOrEqual(60);
  });

  it("of one-shots are let in and counted like the others, and given back when the code has ended", async () => {
    const r = faked({ gold: { sessions_alive: 3 } });
    const gates = held(r);
    const { name, token } = await tenant(r);
    const shot = (): Promise<Response> => r.call("POST", "/v1/execute", { language: "bash", code: "true" }, as(token));
    const under = Array.from({ length: 12 }, shot);
    await vi.waitFor(() => expect(gates).toHaveLength(3), { timeout: 8_000 });
    // Nine are refused while the three are at it.
    expect(await counted(name, "alive")).toBe(3);
    for (const open of gates.splice(0)) open();
    expect(await letIn(await Promise.all(under), "sessions_alive", 3)).toBe(3);
    await r.settle();
    expect(await counted(name, "alive")).toBe(0);
    const next = shot();
    await vi.waitFor(() => expect(gates).toHaveLength(1), { timeout: 8_000 });
    gates[0]?.();
    expect((await next).status).toBe(200);
    await r.settle();
  });

  it("as a stream are refused with a 429, too", async () => {
    const r = faked({ gold: { sessions_alive: 1 } });
    const gates = held(r);
    const { name, token } = await tenant(r);
    const headers = { authorization: `Bearer ${token}`, accept: "text/event-stream" };
    const shot = () => r.call("POST", "/v1/execute", { language: "bash", code: "true" }, { headers });
    const first = await shot();
    expect(await letIn([await shot()], "sessions_alive", 1)).toBe(0);
    await vi.waitFor(() => expect(gates).toHaveLength(1), { timeout: 8_000 });
    gates[0]?.();
    expect(await first.text()).toContain("event: exit");
    await r.settle();
    expect(await counted(name, "alive")).toBe(0);
  });

  it("of questions ask no model once the quota is used up", async () => {
    const r = faked({ gold: { sessions_alive: 0 } }, { ANTHROPIC_API_KEY: "k" });
    const { token } = await tenant(r);
    const asked = vi.spyOn(globalThis, "fetch");
    const ask = () => r.call("POST", "/execute", { question: "2+2?" }, as(token));
    expect(await letIn(await times(3, ask), "sessions_alive", 0)).toBe(0);
    expect(asked.mock.calls.filter(([to]) => String(to).includes("/v1/messages"))).toEqual([]);
    asked.mockRestore();
  });

  it("count what the model's answers cost, and ask none whose price nobody knows", async () => {
    const limits = { gold: { spend_usd_per_day: 1 } };
    const vars = { ANTHROPIC_API_KEY: "k", CAISSON_CODE_MODEL: "house-coder" };
    const answer = {
      content: [{ type: "text", text: "print(4)" }],
      model: "house-coder",
      usage: { input_tokens: 100_000, output_tokens: 0 },
    };
    const asked = vi.spyOn(globalThis, "fetch").mockImplementation(async () => Response.json(answer));
    const unpriced = faked(limits, vars);
    const one = await tenant(unpriced);
    const refused = await unpriced.call("POST", "/execute", { question: "2+2?" }, as(one.token));
    expect([refused.status, ((await refused.json()) as ProblemBody).code]).toEqual([429, "quota_exceeded"]);
    expect(asked).not.toHaveBeenCalled();

    const prices = '[{"model":"house-coder","input":6,"output":6}]';
    const priced = faked(limits, { ...vars, CAISSON_PRICES: prices });
    const two = await tenant(priced);
    const ask = () => priced.call("POST", "/execute", { question: "2+2?" }, as(two.token));
    expect([(await ask()).status, (await ask()).status]).toEqual([200, 200]);
    expect(await letIn([await ask()], "spend_usd_per_day", 1)).toBe(0);
    expect(asked).toHaveBeenCalledTimes(2);
    asked.mockRestore();
    await priced.settle();
  });

  it("that repeat an ended session's creation are none that is alive", async () => {
    const r = configured({ gold: { sessions_alive: 1 } });
    const { name, token, object } = await tenant(r);
    const key = { "idempotency-key": crypto.randomUUID() };
    const { id } = (await (await start(r, token, key)).json()) as { id: string };
    expect((await r.call("DELETE", `/v1/sessions/${id}`, undefined, as(token))).status).toBe(200);
    await object.ended(id);
    const again = await start(r, token, key);
    expect([again.status, ((await again.json()) as { state: string }).state]).toEqual([201, "ended"]);
    expect((await start(r, token, key, { agent: "shell", timeout_s: 61 })).status).toBe(409);
    expect(await counted(name, "alive")).toBe(0);
    expect((await start(r, token)).status).toBe(201);
  });

  it("with one Idempotency-Key are one start, and those that fail are none that is alive", async () => {
    const r = configured({ gold: { sessions_alive: 2, starts_per_minute: 3 } });
    const { name, token } = await tenant(r);
    const key = { "idempotency-key": crypto.randomUUID() };
    const same = await times(8, () => start(r, token, key));
    expect(
      new Set(await Promise.all(same.map(async (answer) => ((await answer.json()) as { id: string }).id))).size,
    ).toBe(1);
    expect([await counted(name, "alive"), await counted(name, "starts")]).toEqual([1, 1]);
    const bad = await start(r, token, {}, { agent: "shell", policy: { network: { allow: ["*.*"] } } });
    expect([bad.status, await counted(name, "alive")]).toEqual([400, 1]);
    const other = await start(r, token, key, { agent: "shell", timeout_s: 61 });
    expect([other.status, await counted(name, "alive")]).toEqual([409, 1]);
    expect((await start(r, token)).status).toBe(201);
    expect(await letIn(await times(3, () => start(r, token)), "sessions_alive", 2)).toBe(0);
  });
});

describe("requests that race", { timeout: 60_000 }, () => {
  it("are never more than may be within any one second, and no request of another tenant is refused for them", async () => {
    const r = configured({ gold: { requests_per_second: 7 } });
    const [one, two] = [await tenant(r), await tenant(r)];
    const passed: number[] = [];
    const ask = async (token: string): Promise<Response> => {
      const answer = await r.call("GET", "/v1/sessions?limit=1", undefined, as(token));
      if (token === one.token && answer.status === 200) passed.push(Date.now());
      return answer;
    };
    const begun = Date.now();
    let refused = 0;
    while (Date.now() < begun + 2_200) {
      const answers = await times(10, () => ask(one.token));
      refused += answers.length - (await letIn(answers, "requests_per_second", 7));
      await new Promise((resolve) => setTimeout(resolve, 40));
    }
    expect(refused).toBeGreaterThan(0);
    // Let in by the object's clock, seen here a moment later: seven at once, and seven a second from then on.
    expect(passed.length).toBeGreaterThanOrEqual(7);
    expect(passed.length).toBeLessThanOrEqual(7 * (1 + Math.ceil((Date.now() - begun) / 1_000)));
    expect(await letIn(await times(7, () => ask(two.token)), "requests_per_second", 7)).toBe(7);
  });

  it("are counted by the object within any second, whatever the clock's", async () => {
    const { object } = await tenant(configured({ gold: {} }));
    const times_: number[] = [];
    vi.useFakeTimers({ toFake: ["Date"] });
    try {
      for (let at = 500; at < 4_000; at += 100) {
        vi.setSystemTime(1_800_000_000_000 + at);
        for (let n = 0; n < 3; n += 1) if ((await object.request({ requests_per_second: 5 })) === null) times_.push(at);
      }
    } finally {
      vi.useRealTimers();
    }
    for (const from of times_)
      expect(times_.filter((t) => t >= from && t < from + 1_000).length).toBeLessThanOrEqual(5);
    expect(times_.length).toBe(20);
  });

  it("a start is one request", async () => {
    const r = configured({ gold: { requests_per_second: 2, sessions_alive: 9 } });
    const { token } = await tenant(r);
    const answers = [await start(r, token), await start(r, token)];
    expect(answers.map(({ status }) => status)).toEqual([201, 201]);
  });
});

describe("what is spent in a day", () => {
  it("is the sum of all sessions that told it at once, each of them once", async () => {
    const r = configured({ gold: { spend_usd_per_day: 6 } });
    const { object, token } = await tenant(r);
    // Twenty sessions tell what they have cost so far, over and over, in any order: 20 × 0.30 dollars.
    const told = await times(200, (i) => object.spent(`ses_${i % 20}`, 30_000 * (Math.floor(i / 20) + 1), 6));
    expect(told.slice(0, -1)).not.toContain(true);
    expect(told.at(-1)).toBe(true);
    expect(await letIn(await times(6, () => start(r, token)), "spend_usd_per_day", 6)).toBe(0);
    const other = await tenant(r);
    expect((await start(r, other.token)).status).toBe(201);
  });

  it("stops the model calls of sessions that are alive, too", async () => {
    const held = { SESSION: "gold-spend" };
    const a = await running();
    const b = await running();
    const quotas = JSON.stringify({ default: { spend_usd_per_day: 1 } });
    for (const { session } of [a, b])
      await runInDurableObject(session, (object, state) => {
        Object.assign((object as unknown as { env: object }).env, { CAISSON_QUOTAS: quotas });
        state.storage.sql.exec("UPDATE meta SET value = ? WHERE key = 'tenant'", held.SESSION);
      });
    try {
      expect(value(await a.session.mayCallModel())).toMatchObject({ may_call: true });
      // 0.6 dollars each, at 1 dollar a million tokens.
      const usage = { model: "house-model", input_tokens: 600_000 };
      await Promise.all([a, b].map(({ session }) => session.countUsage("run_1", usage)));
      await eventually(async () => {
        for (const { session } of [a, b])
          expect(value(await session.mayCallModel())).toMatchObject({ may_call: false, reached: "spend_usd_per_day" });
      });
    } finally {
      for (const { session } of [a, b])
        await runInDurableObject(session, (object) => {
          delete (object as unknown as { env: { CAISSON_QUOTAS?: string } }).env.CAISSON_QUOTAS;
        });
    }
  });

  it("has the answers that come when their session has ended, which counts them no more itself", async () => {
    const { session } = await running();
    const quotas = JSON.stringify({ default: { spend_usd_per_day: 10 } });
    await runInDurableObject(session, (object, state) => {
      Object.assign((object as unknown as { env: object }).env, { CAISSON_QUOTAS: quotas });
      state.storage.sql.exec("UPDATE meta SET value = ? WHERE key = 'tenant'", "late-spend");
    });
    const tenantOf = env.TENANT.get(env.TENANT.idFromName("late-spend")) as unknown as TenantRpc;
    // 0.6 dollars each, at 1 dollar a million tokens.
    const usage = { model: "house-model", input_tokens: 600_000 };
    try {
      await session.countUsage("run_1", usage);
      value(await session.end());
      await session.countUsage("run_1", usage);
      expect([await tenantOf.spent("none", 0, 1.2), await tenantOf.spent("none", 0, 1.3)]).toEqual([true, false]);
      await session.countUsage("run_1", usage);
      expect([await tenantOf.spent("none", 0, 1.8), await tenantOf.spent("none", 0, 1.9)]).toEqual([true, false]);
      expect(value(await session.view()).usage).toMatchObject({ input_tokens: 600_000, cost_usd: 0.6 });
    } finally {
      await runInDurableObject(session, (object) => {
        delete (object as unknown as { env: { CAISSON_QUOTAS?: string } }).env.CAISSON_QUOTAS;
      });
    }
  });

  it("cannot be told of a model without a price, which gets no further call where money is limited", async () => {
    const { session } = await running();
    const quotas = JSON.stringify({ default: { spend_usd_per_day: 1 } });
    await runInDurableObject(session, (object) => {
      Object.assign((object as unknown as { env: object }).env, { CAISSON_QUOTAS: quotas });
    });
    try {
      expect(value(await session.mayCallModel())).toMatchObject({ may_call: true });
      await session.countUsage("run_1", { model: "nobody-knows-its-price", input_tokens: 1 });
      expect(value(await session.mayCallModel())).toMatchObject({ may_call: false, reached: "spend_usd_per_day" });
    } finally {
      await runInDurableObject(session, (object) => {
        delete (object as unknown as { env: { CAISSON_QUOTAS?: string } }).env.CAISSON_QUOTAS;
      });
    }
  });
});
