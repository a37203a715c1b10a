/** Tokens and scopes, tenants, share links, quotas, pages of other origins, the audit logs. */
import { describe, expect, it } from "vitest";
import { type ProblemBody, type Rig, rig } from "./fakes.js";

const KEYS = JSON.stringify({
  issuer: "caisson",
  audience: "caisson",
  keys: [{ kid: "one", secret: Buffer.alloc(32, 7).toString("base64url") }],
  api_keys: [{ name: "ci", tenant: "acme", secret: "correct-horse-battery", scopes: ["execute", "sessions:write"] }],
});
const HOST = "https://caisson.example";
const as = (token: string) => ({ headers: { authorization: `Bearer ${token}` } });

async function problemOf(response: Response): Promise<[number, string]> {
  const body = (await response.json()) as ProblemBody;
  return [response.status, body.code];
}

async function minted(r: Rig, body: object): Promise<string> {
  const response = await r.call("POST", `${HOST}/v1/tokens`, body, as("operator"));
  expect(response.status).toBe(201);
  return ((await response.json()) as { token: string }).token;
}

const configured = (vars: object = {}) => rig({ CAISSON_API_KEY: "operator", CAISSON_KEYS: KEYS, ...vars });

describe("tokens", () => {
  it("are minted by the operator and allow their scopes", async () => {
    const r = configured();
    const reader = await minted(r, { scopes: ["sessions:read"], sub: "dashboard" });
    expect((await r.call("GET", `${HOST}/v1/sessions`, undefined, as(reader))).status).toBe(200);
    const refused = await r.call("POST", `${HOST}/v1/sessions`, { agent: "shell" }, as(reader));
    expect(refused.headers.get("www-authenticate")).toContain('scope="sessions:write"');
    expect(await problemOf(refused)).toEqual([403, "insufficient_scope"]);
    const execute = await r.call("POST", `${HOST}/v1/execute`, { language: "bash", code: "true" }, as(reader));
    expect(await problemOf(execute)).toEqual([403, "insufficient_scope"]);
    expect(await problemOf(await r.call("POST", `${HOST}/v1/tokens`, { scopes: ["admin"] }, as(reader)))).toEqual([
      403,
      "insufficient_scope",
    ]);
  });
  it("are minted by a tenant's admin for that tenant and with its quota alone", async () => {
    const r = configured();
    const acme = await minted(r, { tenant: "acme-admin", quota: "tin", scopes: ["admin"] });
    const mine = await r.call("POST", `${HOST}/v1/sessions`, { agent: "shell" }, as("operator"));
    const { id } = (await mine.json()) as { id: string };
    for (const body of [{ tenant: "globex" }, { quota: "gold" }, { tenant: "acme-admin", quota: "default" }]) {
      const answer = await r.call("POST", `${HOST}/v1/tokens`, { ...body, scopes: ["admin"] }, as(acme));
      expect(await problemOf(answer)).toEqual([403, "insufficient_scope"]);
    }
    for (const body of [{}, { tenant: "acme-admin", quota: "tin" }]) {
      const answer = await r.call("POST", `${HOST}/v1/tokens`, { ...body, scopes: ["admin"] }, as(acme));
      const { token } = (await answer.json()) as { token: string };
      const claims = JSON.parse(Buffer.from(token.split(".")[1] ?? "", "base64url").toString());
      expect(claims).toMatchObject({ tenant: "acme-admin", quota: "tin", scope: "admin" });
      expect(await problemOf(await r.call("GET", `${HOST}/v1/sessions/${id}`, undefined, as(token)))).toEqual([
        404,
        "session_not_found",
      ]);
    }
    const log = async (token: string) => (await r.call("GET", `${HOST}/v1/audit`, undefined, as(token))).text();
    expect((await log(acme)).match(/token\.minted/g)).toHaveLength(2);
  });
  it("for one session say nothing about another", async () => {
    const r = configured();
    const writer = await minted(r, { scopes: ["sessions:write"] });
    const made = await r.call("POST", `${HOST}/v1/sessions`, { agent: "shell" }, as(writer));
    const { id } = (await made.json()) as { id: string };
    const own = await minted(r, { scopes: [`sessions:read:${id}`] });
    expect((await r.call("GET", `${HOST}/v1/sessions/${id}`, undefined, as(own))).status).toBe(200);
    const other = await r.call("POST", `${HOST}/v1/sessions`, { agent: "shell" }, as(writer));
    const { id: otherId } = (await other.json()) as { id: string };
    expect(await problemOf(await r.call("GET", `${HOST}/v1/sessions/${otherId}`, undefined, as(own)))).toEqual([
      403,
      "insufficient_scope",
    ]);
    expect(await problemOf(await r.call("GET", `${HOST}/v1/sessions`, undefined, as(own)))).toEqual([
      403,
      "insufficient_scope",
    ]);
  });
  it("are refused when changed, cut, unsigned or of another key", async () => {
    const r = configured();
    const token = await minted(r, { scopes: ["admin"] });
    const [head, claims, mac] = token.split(".") as [string, string, string];
    const none = Buffer.from('{"alg":"none"}').toString("base64url");
    const other = rig({
      CAISSON_KEYS: KEYS.replace(Buffer.alloc(32, 7).toString("base64url"), Buffer.alloc(32, 8).toString("base64url")),
    });
    for (const bad of [
      `${head}.${claims}.`,
      `${none}.${claims}.`,
      `${none}.${claims}.${mac}`,
      `${head}.${claims}x.${mac}`,
      token.slice(1),
      "a.b.c",
    ])
      expect(await problemOf(await r.call("GET", `${HOST}/v1/sessions`, undefined, as(bad)))).toEqual([
        401,
        "unauthorized",
      ]);
    expect(await problemOf(await other.call("GET", `${HOST}/v1/sessions`, undefined, as(token)))).toEqual([
      401,
      "unauthorized",
    ]);
  });
  it("need a signing key, and the operator's configuration is never shown", async () => {
    const r = rig({ CAISSON_API_KEY: "operator" });
    const body = { scopes: ["admin"] };
    expect(await problemOf(await r.call("POST", `${HOST}/v1/tokens`, body, as("operator")))).toEqual([
      409,
      "no_signing_key",
    ]);
    const broken = rig({ CAISSON_KEYS: '{"keys":[{"kid":"a","secret":"s3cr3t-s3cr3t"}]}' });
    const answer = await broken.call("GET", `${HOST}/v1/sessions`);
    const text = await answer.text();
    expect([answer.status, text.includes("/keys/0"), text.includes("s3cr3t")]).toEqual([500, true, false]);
  });
  it.each([
    [{}, "/scopes"],
    [{ scopes: [] }, "/scopes"],
    [{ scopes: ["everything"] }, "/scopes/0"],
    [{ scopes: ["sessions:read:nope"] }, "/scopes/0"],
    [{ scopes: ["admin"], expires_in_s: 0 }, "/expires_in_s"],
    [{ scopes: ["admin"], tenant: "a/b" }, "/tenant"],
    [{ scopes: ["admin"], iss: "x" }, "/iss"],
  ])("are not minted from %j", async (body, field) => {
    const answer = await configured().call("POST", `${HOST}/v1/tokens`, body, as("operator"));
    expect([answer.status, ((await answer.json()) as ProblemBody).field]).toEqual([400, field]);
  });
  it("are not asked of who holds a static key", async () => {
    const r = configured();
    const made = await r.call("POST", `${HOST}/v1/sessions`, { agent: "shell" }, as("correct-horse-battery"));
    expect(made.status).toBe(201);
    expect([...r.sessions.keys()][0]).toMatch(/^acme\/ses_/);
    const tokens = await r.call("POST", `${HOST}/v1/tokens`, { scopes: ["admin"] }, as("correct-horse-battery"));
    expect(await problemOf(tokens)).toEqual([403, "insufficient_scope"]);
  });
});

describe("tenants", () => {
  it("do not see each other's sessions, whatever id they guess", async () => {
    const r = configured();
    const [acme, globex] = await Promise.all(
      ["acme", "globex"].map((tenant) => minted(r, { tenant, scopes: ["sessions:write"] })),
    );
    const made = await r.call("POST", `${HOST}/v1/sessions`, { agent: "shell" }, as(acme ?? ""));
    const { id } = (await made.json()) as { id: string };
    expect((await r.call("GET", `${HOST}/v1/sessions/${id}`, undefined, as(acme ?? ""))).status).toBe(200);
    for (const [method, path, body] of [
      ["GET", "", undefined],
      ["DELETE", "", undefined],
      ["GET", "/runs", undefined],
      ["GET", "/events", undefined],
      ["GET", "/diff", undefined],
      ["GET", "/artifacts", undefined],
      ["GET", "/shares", undefined],
      ["POST", "/runs", { command: "id" }],
    ] as const) {
      const answer = await r.call(method, `${HOST}/v1/sessions/${id}${path}`, body, as(globex ?? ""));
      expect([path, ...(await problemOf(answer))]).toEqual([path, 404, "session_not_found"]);
    }
    expect(await problemOf(await r.call("GET", `${HOST}/v1/sessions/${id}`, undefined, as("operator")))).toEqual([
      404,
      "session_not_found",
    ]);
  });
  it("may use the same Idempotency-Key", async () => {
    const r = configured();
    const ids = await Promise.all(
      ["acme", "globex"].map(async (tenant) => {
        const token = await minted(r, { tenant, scopes: ["sessions:write"] });
        const headers = { ...as(token).headers, "idempotency-key": "same" };
        const answer = await r.call("POST", `${HOST}/v1/sessions`, { agent: "shell" }, { headers });
        return ((await answer.json()) as { id: string }).id;
      }),
    );
    expect(ids[0]).not.toBe(ids[1]);
  });
});

describe("share links", () => {
  async function shared(r: Rig): Promise<{ id: string; share: string; token: string }> {
    const made = await r.call("POST", `${HOST}/v1/sessions`, { agent: "shell" }, as("operator"));
    const { id } = (await made.json()) as { id: string };
    const answer = await r.call("POST", `${HOST}/v1/sessions/${id}/share`, {}, as("operator"));
    expect(answer.status).toBe(201);
    const { id: share, token, url } = (await answer.json()) as { id: string; token: string; url: string };
    expect(url).toBe(`${HOST}/v1/sessions/${id}/events?share=${token}`);
    return { id, share, token };
  }
  it("let anyone read that session and nothing else, until they are revoked", async () => {
    const r = configured();
    const { id, share, token } = await shared(r);
    const at = (path: string, id_ = id) => `${HOST}/v1/sessions/${id_}${path}?share=${token}`;
    for (const path of ["", "/events", "/runs", "/artifacts"]) expect((await r.call("GET", at(path))).status).toBe(200);
    // What was not shared: the workspace as it is, and what the policy held back.
    for (const path of ["/files", "/files/.env", "/policy", "/egress", "/egress/archive", "/approvals", "/audit"])
      expect([path, ...(await problemOf(await r.call("GET", at(path))))]).toEqual([path, 403, "insufficient_scope"]);
    expect(await problemOf(await r.call("DELETE", at("")))).toEqual([401, "unauthorized"]);
    expect(await problemOf(await r.call("GET", at("/shares")))).toEqual([403, "insufficient_scope"]);
    const list = await r.call("GET", `${HOST}/v1/sessions?share=${token}`);
    expect(await problemOf(list)).toEqual([403, "insufficient_scope"]);
    const other = await shared(r);
    expect(await problemOf(await r.call("GET", at("", other.id)))).toEqual([403, "insufficient_scope"]);
    const revoked = await r.call("DELETE", `${HOST}/v1/sessions/${id}/shares/${share}`, undefined, as("operator"));
    expect(((await revoked.json()) as { revoked_at: string | null }).revoked_at).not.toBeNull();
    expect(await problemOf(await r.call("GET", at("/events")))).toEqual([401, "share_revoked"]);
    const unknown = await r.call("DELETE", `${HOST}/v1/sessions/${id}/shares/shr_x`, undefined, as("operator"));
    expect(await problemOf(unknown)).toEqual([404, "share_not_found"]);
  });
});

describe("quotas", () => {
  const quotas = (limits: object) => configured({ CAISSON_QUOTAS: JSON.stringify({ gold: limits }) });
  const start = (r: Rig, token: string) => r.call("POST", `${HOST}/v1/sessions`, { agent: "shell" }, as(token));
  const gold = (r: Rig, tenant: string) => minted(r, { tenant, quota: "gold", scopes: ["sessions:write"] });
  it("bound the sessions of a tenant that are alive", async () => {
    const r = quotas({ sessions_alive: 2 });
    const token = await gold(r, "alive");
    const answers = await Promise.all([start(r, token), start(r, token), start(r, token)]);
    expect(answers.map((a) => a.status).sort()).toEqual([201, 201, 429]);
    const refused = answers.find((a) => a.status === 429);
    expect(refused?.headers.get("retry-after")).toBe("30");
    expect(await refused?.json()).toMatchObject({ code: "quota_exceeded", limit: "sessions_alive", max: 2 });
    expect((await start(r, await gold(r, "alive2"))).status).toBe(201);
  });
  it("bound starts and requests", async () => {
    const r = quotas({ starts_per_minute: 1 });
    const token = await gold(r, "starts");
    expect([(await start(r, token)).status, (await start(r, token)).status]).toEqual([201, 429]);
    const fast = quotas({ requests_per_second: 3 });
    const quick = await gold(fast, "requests");
    const many = await Promise.all(
      Array.from({ length: 12 }, () => fast.call("GET", `${HOST}/v1/sessions`, undefined, as(quick))),
    );
    const statuses = many.map((a) => a.status);
    // The twelve may fall into two seconds.
    expect(statuses.filter((s) => s === 200).length).toBeLessThanOrEqual(6);
    expect(statuses).toContain(429);
  });
  it("bound what a tenant spends in a day", async () => {
    const r = quotas({ spend_usd_per_day: 1 });
    const token = await gold(r, "spend");
    const tenant = r.env.TENANT.get(r.env.TENANT.idFromName("spend"));
    await tenant.spent("ses_1", 600_000);
    await tenant.spent("ses_1", 700_000);
    expect((await start(r, token)).status).toBe(201);
    await tenant.spent("ses_2", 300_000);
    expect(await (await start(r, token)).json()).toMatchObject({ limit: "spend_usd_per_day" });
  });
  it("refuse a class that nobody has defined, and configuration that cannot be read", async () => {
    const r = configured({ CAISSON_QUOTAS: "{}" });
    expect(await problemOf(await start(r, await gold(r, "x")))).toEqual([429, "quota_exceeded"]);
    const broken = configured({ CAISSON_QUOTAS: '{"default":{"sessions":1}}' });
    expect(await problemOf(await start(broken, "operator"))).toEqual([500, "bad_keys"]);
  });
});

describe("pages of other origins", () => {
  const origin = "https://app.example";
  it("get nothing unless they are listed", async () => {
    const closed = configured();
    const plain = await closed.call("GET", `${HOST}/health`, undefined, { headers: { origin } });
    expect(plain.headers.has("access-control-allow-origin")).toBe(false);
    const asked = { headers: { origin, "access-control-request-method": "POST" } };
    expect((await closed.call("OPTIONS", `${HOST}/v1/sessions`, undefined, asked)).status).toBe(401);
    const open = configured({ CAISSON_CORS_ORIGINS: `https://other.example, ${origin}` });
    const preflight = await open.call("OPTIONS", `${HOST}/v1/sessions`, undefined, asked);
    expect([preflight.status, preflight.headers.get("access-control-allow-origin")]).toEqual([204, origin]);
    const evil = await open.call("GET", `${HOST}/health`, undefined, { headers: { origin: "https://evil.example" } });
    expect([evil.headers.has("access-control-allow-origin"), evil.headers.get("vary")]).toEqual([false, "origin"]);
  });
  it("may not open WebSockets", async () => {
    const r = configured();
    const headers = { ...as("operator").headers, origin: "https://evil.example", upgrade: "websocket" };
    const made = await r.call("POST", `${HOST}/v1/sessions`, { agent: "shell" }, as("operator"));
    const { id } = (await made.json()) as { id: string };
    const answer = await r.call("GET", `${HOST}/v1/sessions/${id}/events`, undefined, { headers });
    expect(await problemOf(answer)).toEqual([403, "origin_not_allowed"]);
  });
});

describe("the log of administrative acts", () => {
  it("is chained and has no token in it", async () => {
    const r = configured();
    const token = await minted(r, { scopes: ["execute"], sub: "someone" });
    const text = await (await r.call("GET", `${HOST}/v1/audit`, undefined, as("operator"))).text();
    const lines = text
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(lines[0]).toMatchObject({ audit: "caisson audit 1" });
    expect(lines.at(-1)).toMatchObject({ count: lines.length - 2 });
    expect(lines.some((line) => line.act === "token.minted" && line.sub === "someone" && line.by === "operator")).toBe(
      true,
    );
    expect(text).not.toContain(token.split(".")[2]);
  });
  it("comes whole, also when it is longer than one answer between objects may be", { timeout: 60_000 }, async () => {
    const r = configured();
    const token = await minted(r, { tenant: "chatty", scopes: ["admin"] });
    const tenant = r.env.TENANT.get(r.env.TENANT.idFromName("chatty"));
    const text = "x".repeat(60_000);
    for (let i = 0; i < 600; i += 1) await tenant.act({ act: "test", text });
    const answer = await r.call("GET", `${HOST}/v1/audit`, undefined, as(token));
    expect(answer.status).toBe(200);
    const lines = (await answer.text()).trimEnd().split("\n");
    expect(lines).toHaveLength(602);
    expect(lines.slice(1, -1).map((line) => JSON.parse(line).n)).toEqual(Array.from({ length: 600 }, (_, i) => i + 1));
    expect(JSON.parse(lines.at(-1) ?? "")).toMatchObject({ count: 600 });
  });
});
