/** The route of terminals: what it refuses, and what it hands the session's object. */
import { describe, expect, it } from "vitest";
import { terminalRequest } from "../../../worker/src/session/terminals.js";
import { type ProblemBody, type Rig, rig } from "./fakes.js";

const HOST = "https://caisson.example";
const UPGRADE = { upgrade: "websocket" };
const KEYS = JSON.stringify({
  keys: [{ kid: "one", secret: Buffer.alloc(32, 7).toString("base64url") }],
  issuer: "caisson",
  audience: "caisson",
  api_keys: [{ name: "ci", secret: "correct-horse-battery", scopes: ["terminal", "sessions:write"] }],
});

async function problemOf(response: Response): Promise<[number, string, string | undefined]> {
  const body = (await response.json()) as ProblemBody;
  return [response.status, body.code, body.field];
}

async function seen(r: Rig, path: string, headers: Record<string, string>): Promise<Request> {
  const { id, fake } = await r.session();
  let asked: Request | undefined;
  fake.fetch = async (request: Request): Promise<Response> => {
    asked = request;
    return Response.json({ ok: false, status: 409, code: "session_ended", detail: "ended" }, { status: 409 });
  };
  const answer = await r.call("GET", `/v1/sessions/${id}/terminal${path}`, undefined, { headers });
  expect(await problemOf(answer)).toEqual([409, "session_ended", undefined]);
  if (asked === undefined) throw new Error("the object was not asked");
  return asked;
}

describe("a terminal's route", () => {
  it("hands on what is asked and nothing else of the request", async () => {
    const headers = { ...UPGRADE, cookie: "a=b", "x-caisson-terminal": "mine", origin: "http://localhost:8787" };
    const asked = await seen(rig(), "?cols=100&rows=30&shell=/bin/sh&terminal=build&idle_s=60", headers);
    expect(terminalRequest(asked)).toEqual({
      terminal: "build",
      cols: 100,
      rows: 30,
      shell: "/bin/sh",
      idle_s: 60,
      by: "operator",
      until: null,
    });
    expect([...asked.headers.keys()].sort()).toEqual(["connection", "upgrade", "x-caisson-terminal"]);
  });
  it("has defaults", async () => {
    const { terminal, idle_s, cols } = terminalRequest(await seen(rig(), "", UPGRADE));
    expect([terminal, idle_s, cols]).toEqual(["main", 1_800, undefined]);
  });
  it("asks for an upgrade", async () => {
    const r = rig();
    const { id } = await r.session();
    expect(await problemOf(await r.call("GET", `/v1/sessions/${id}/terminal`))).toEqual([
      426,
      "upgrade_required",
      undefined,
    ]);
  });
  it.each([
    ["cols=0", "cols"],
    ["cols=65536", "cols"],
    ["rows=-1", "rows"],
    ["rows=1e3", "rows"],
    ["shell=a%20b", "shell"],
    ["shell=", "shell"],
    ["terminal=../main", "terminal"],
    [`terminal=${"x".repeat(33)}`, "terminal"],
    ["idle_s=86401", "idle_s"],
    ["column=1", "column"],
  ])("refuses %s", async (query, field) => {
    const r = rig();
    const { id } = await r.session();
    const answer = await r.call("GET", `/v1/sessions/${id}/terminal?${query}`, undefined, { headers: UPGRADE });
    const [status, , at] = await problemOf(answer);
    expect([status, at]).toEqual([400, field]);
  });
  it("needs its own scope; a key's connection has no end, a token's has its own", async () => {
    const r = rig({ CAISSON_API_KEY: "operator", CAISSON_KEYS: KEYS });
    const key = { authorization: "Bearer correct-horse-battery" };
    const made = await r.call("POST", `${HOST}/v1/sessions`, { agent: "shell" }, { headers: key });
    const { id } = (await made.json()) as { id: string };
    const fake = r.sessions.get(id);
    const asked: Request[] = [];
    if (fake !== undefined)
      fake.fetch = async (request: Request): Promise<Response> => {
        asked.push(request);
        return Response.json({ ok: false, status: 409, code: "session_ended", detail: "ended" }, { status: 409 });
      };
    const url = `${HOST}/v1/sessions/${id}/terminal`;
    const call = async (authorization: string, more: Record<string, string> = {}): Promise<Response> =>
      await r.call("GET", url, undefined, { headers: { ...UPGRADE, authorization, ...more } });
    const mint = async (body: object): Promise<string> => {
      const answer = await r.call("POST", `${HOST}/v1/tokens`, body, { headers: { authorization: "Bearer operator" } });
      return `Bearer ${((await answer.json()) as { token: string }).token}`;
    };
    for (const scopes of [["sessions:write"], ["sessions:read", "preview"], ["terminal:ses_aaaaaaaaaaaaaaaaaaaa"]])
      expect((await problemOf(await call(await mint({ scopes }))))[1]).toBe("insufficient_scope");
    const evil = { origin: "https://evil.example" };
    expect(await problemOf(await call(key.authorization, evil))).toEqual([403, "origin_not_allowed", undefined]);
    expect((await problemOf(await call(await mint({ scopes: ["terminal"], tenant: "acme" }))))[0]).toBe(404);
    expect(asked).toEqual([]);
    const before = Date.now();
    await call(key.authorization);
    await call(await mint({ scopes: [`terminal:${id}`], expires_in_s: 60 }));
    const [byKey, byToken] = asked.map((request) => terminalRequest(request).until);
    expect(byKey).toBeNull();
    expect((byToken ?? 0) - before).toBeGreaterThan(55_000);
    expect((byToken ?? 0) - before).toBeLessThan(65_000);
  });
});
