/** Links to one artifact: what they open, and everything that they do not. Real Session, R2 and guard; the sandbox is scripted. */
import { runInDurableObject } from "cloudflare:test";
import { describe, expect, it, vi } from "vitest";
import { newSessionId } from "../../../worker/src/routes/ids.js";
import { env } from "../env.js";
import { script } from "../fake-sandbox.js";
import { type ProblemBody, type Rig, rig } from "./fakes.js";

const KEYS = JSON.stringify({
  issuer: "caisson",
  audience: "caisson",
  keys: [{ kid: "one", secret: Buffer.alloc(32, 7).toString("base64url") }],
});
const HOST = "https://caisson.example";
const as = (token: string): RequestInit => ({ headers: { authorization: `Bearer ${token}` } });
const PAGE = "<script>alert(document.cookie)</script>";

interface Link {
  id: string;
  token: string;
  url: string;
  artifact: { run_id: string; path: string } | null;
}

const configured = (vars: object = {}): Rig =>
  rig({ SESSION: env.SESSION, SANDBOX: env.SANDBOX, CAISSON_API_KEY: "operator", CAISSON_KEYS: KEYS, ...vars });

async function codeOf(response: Response): Promise<[number, string]> {
  return [response.status, ((await response.json()) as ProblemBody).code];
}

/** A session whose first run leaves two files, and its second one of them once more. */
async function worked(r: Rig, token = "operator"): Promise<string> {
  const made = await r.call("POST", `${HOST}/v1/sessions`, { agent: "shell" }, as(token));
  const { id } = (await made.json()) as { id: string };
  const fake = script(id.replaceAll("_", "-"));
  for (const [n, files] of [
    [1, { "out/page.html": PAGE, "other.txt": "other" }],
    [2, { "out/page.html": "second" }],
  ] as const) {
    fake.changes = Object.entries(files).map(([path, text]) => ({ path, status: "A", content: Buffer.from(text) }));
    await r.call("POST", `${HOST}/v1/sessions/${id}/runs`, { command: "make" }, as(token));
    await vi.waitFor(() => expect(fake.run(n).started).toBe(true), { timeout: 8_000 });
    fake.exit(n, { reason: "exited", exit_code: 0 });
    await vi.waitFor(
      async () => {
        const run = await r.call("GET", `${HOST}/v1/sessions/${id}/runs/run_${n}`, undefined, as(token));
        expect(((await run.json()) as { state: string }).state).toBe("succeeded");
      },
      { timeout: 8_000 },
    );
  }
  return id;
}

async function link(r: Rig, id: string, artifact: object, more: object = {}, token = "operator"): Promise<Link> {
  const answer = await r.call("POST", `${HOST}/v1/sessions/${id}/share`, { artifact, ...more }, as(token));
  expect(answer.status, await answer.clone().text()).toBe(201);
  return (await answer.json()) as Link;
}

describe("an artifact link", () => {
  it("downloads that artifact, as bytes that no browser shows, and again only when it is another", async () => {
    const r = configured();
    const id = await worked(r);
    const first = await link(r, id, { path: "out/page.html", run: "run_1" });
    expect(first.artifact).toEqual({ run_id: "run_1", path: "out/page.html" });
    expect(first.url).toBe(`${HOST}/v1/links/${first.token}`);
    const answer = await r.call("GET", first.url);
    expect([answer.status, await answer.text()]).toEqual([200, PAGE]);
    expect(Object.fromEntries(answer.headers)).toMatchObject({
      "content-type": "application/octet-stream",
      "content-disposition": "attachment; filename*=UTF-8''page.html",
      "content-security-policy": "sandbox; default-src 'none'; frame-ancestors 'none'",
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
      "cache-control": "no-store",
      "strict-transport-security": "max-age=31536000",
    });
    const etag = answer.headers.get("etag") ?? "";
    const known = await r.call("GET", first.url, undefined, { headers: { "if-none-match": etag } });
    expect([known.status, await known.text()]).toEqual([304, ""]);
    // Without a run it is the newest there is, and stays that one.
    const newest = await link(r, id, { path: "/workspace/out/page.html" });
    expect(newest.artifact).toEqual({ run_id: "run_2", path: "out/page.html" });
    expect(await (await r.call("GET", newest.url)).text()).toBe("second");
  });

  it("opens nothing else: no other artifact, no session, in no place where a token may stand", async () => {
    const r = configured();
    const id = await worked(r);
    const { token, url, id: art } = await link(r, id, { path: "other.txt" });
    const at = `${HOST}/v1/sessions/${id}`;
    for (const path of ["", "/events", "/runs", "/artifacts", "/artifacts/other.txt", "/diff", "/files/other.txt"]) {
      expect(await codeOf(await r.call("GET", `${at}${path}?share=${token}`))).toEqual([403, "insufficient_scope"]);
      expect(await codeOf(await r.call("GET", `${at}${path}`, undefined, as(token)))).toEqual([
        403,
        "insufficient_scope",
      ]);
    }
    expect(await codeOf(await r.call("POST", `${at}/exec`, { command: "id" }, as(token)))).toEqual([
      403,
      "insufficient_scope",
    ]);
    expect(await codeOf(await r.call("GET", `${url}/../../../v1/sessions`))).toEqual([401, "unauthorized"]);
    expect(await codeOf(await r.call("GET", `${url}?path=out/page.html`))).toEqual([400, "unknown_field"]);
    expect(await codeOf(await r.call("GET", `${url}/out/page.html`))).toEqual([404, "not_found"]);
    expect(await codeOf(await r.call("POST", url))).toEqual([405, "method_not_allowed"]);
    // A link to the session is none to an artifact, even by the right id.
    const session = (await (await r.call("POST", `${at}/share`, {}, as("operator"))).json()) as Link;
    expect(session.artifact).toBeNull();
    expect(await codeOf(await r.call("GET", `${HOST}/v1/links/${session.token}`))).toEqual([404, "link_not_found"]);
    expect(await codeOf(await r.call("GET", `${HOST}/v1/links/operator`))).toEqual([404, "link_not_found"]);
    const list = (await (await r.call("GET", `${at}/shares`, undefined, as("operator"))).json()) as { shares: Link[] };
    expect(list.shares.map(({ id: one, artifact }) => [one, artifact?.path ?? null])).toEqual(
      expect.arrayContaining([
        [art, "other.txt"],
        [session.id, null],
      ]),
    );
    expect(JSON.stringify(list)).not.toContain(token);
  });

  it("is not there once it is revoked or has expired, nor when it is made up, and always in the same words", async () => {
    const r = configured();
    const id = await worked(r);
    const revoked = await link(r, id, { path: "other.txt" });
    const gone = await r.call("DELETE", `${HOST}/v1/sessions/${id}/shares/${revoked.id}`, undefined, as("operator"));
    expect(gone.status).toBe(200);
    const expired = await link(r, id, { path: "other.txt" }, { expires_in_s: 60 });
    const alive = await link(r, id, { path: "other.txt" });
    const session = env.SESSION.get(env.SESSION.idFromName(id));
    await runInDurableObject(session, (_object, state) =>
      state.storage.sql.exec("UPDATE shares SET expires_ms = ? WHERE id = ?", Date.now() - 1, expired.id),
    );
    const [head, claims, mac] = alive.token.split(".") as [string, string, string];
    const read = JSON.parse(Buffer.from(claims, "base64url").toString()) as { scope: string };
    const signed = async (body: object): Promise<string> =>
      ((await (await r.call("POST", `${HOST}/v1/tokens`, body, as("operator"))).json()) as { token: string }).token;
    const bad = {
      revoked: revoked.token,
      expired: expired.token,
      unsigned: `${head}.${claims}.`,
      "another signature": `${head}.${claims}.${mac.slice(0, -2)}${mac.endsWith("AA") ? "BB" : "AA"}`,
      "another session": `${head}.${Buffer.from(JSON.stringify({ ...read, scope: `artifact:${newSessionId()}` })).toString("base64url")}.${mac}`,
      "no link at all": await signed({ scopes: ["admin"] }),
      "another tenant's": await signed({ tenant: "acme", scopes: [`sessions:read:${id}`] }),
      garbage: "x",
      "a dot": "%2e",
    };
    const details = new Set<string>();
    for (const [what, token] of Object.entries(bad)) {
      const answer = await r.call("GET", `${HOST}/v1/links/${token}`);
      const document = (await answer.json()) as ProblemBody;
      expect([what, answer.status, document.code]).toEqual([
        what,
        404,
        what === "a dot" ? document.code : "link_not_found",
      ]);
      if (what !== "a dot") details.add(`${document.title} ${document.detail} ${[...answer.headers.keys()]}`);
    }
    expect(details.size).toBe(1);
    expect((await r.call("GET", alive.url)).status).toBe(200);
    // The clock of the token, too.
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 8 * 86_400_000 });
    try {
      expect(await codeOf(await r.call("GET", alive.url))).toEqual([404, "link_not_found"]);
    } finally {
      vi.useRealTimers();
    }
  });

  it("belongs to its maker's tenant and quota, and is in the log of administrative acts without its token", async () => {
    const r = configured({ CAISSON_QUOTAS: JSON.stringify({ gold: { requests_per_second: 30 }, tin: {} }) });
    const mint = async (tenant: string): Promise<string> => {
      const body = { tenant, quota: "gold", scopes: ["sessions:write"] };
      return ((await (await r.call("POST", `${HOST}/v1/tokens`, body, as("operator"))).json()) as { token: string })
        .token;
    };
    const [acme, globex] = [await mint("link-acme"), await mint("link-globex")];
    const id = await worked(r, acme);
    const made = await link(r, id, { path: "other.txt" }, {}, acme);
    expect(await (await r.call("GET", made.url)).text()).toBe("other");
    const claims = JSON.parse(Buffer.from(made.token.split(".")[1] ?? "", "base64url").toString()) as object;
    expect(claims).toMatchObject({ tenant: "link-acme", quota: "gold", scope: `artifact:${id}` });
    const other = await r.call("DELETE", `${HOST}/v1/sessions/${id}/shares/${made.id}`, undefined, as(globex));
    expect(await codeOf(other)).toEqual([404, "session_not_found"]);
    const tenant = env.TENANT.get(env.TENANT.idFromName("link-acme"));
    const { lines } = (await (tenant as unknown as { audit(after: number): Promise<{ lines: string[] }> }).audit(
      0,
    )) ?? { lines: [] };
    expect(lines.map((line) => JSON.parse(line))).toContainEqual(
      expect.objectContaining({
        act: "share.created",
        share: made.id,
        artifact: { run_id: "run_1", path: "other.txt" },
      }),
    );
    expect(lines.join()).not.toContain(made.token.split(".")[2]);
    const many = await Promise.all(Array.from({ length: 120 }, () => r.call("GET", made.url)));
    expect(many.map(({ status }) => status)).toContain(429);
  });

  it("is made of what there is, by who may write", async () => {
    const r = configured();
    const id = await worked(r);
    const ask = (body: object, token = "operator"): Promise<Response> =>
      r.call("POST", `${HOST}/v1/sessions/${id}/share`, body, as(token));
    for (const artifact of [{ path: "nothing" }, { path: "other.txt", run: "run_9" }, { path: "../other.txt" }])
      expect(await codeOf(await ask({ artifact }))).toEqual([404, "artifact_not_found"]);
    for (const [body, field] of [
      [{ artifact: {} }, "/artifact/path"],
      [{ artifact: { path: "a", sha256: "x" } }, "/artifact/sha256"],
      [{ artifact: { path: "x".repeat(4_097) } }, "/artifact/path"],
      [{ artifact: { path: "other.txt" }, expires_in_s: 1 }, "/expires_in_s"],
    ] as const) {
      const answer = await ask(body);
      expect([answer.status, ((await answer.json()) as ProblemBody).field]).toEqual([400, field]);
    }
    const body = { scopes: [`sessions:read:${id}`] };
    const minted = await r.call("POST", `${HOST}/v1/tokens`, body, as("operator"));
    const { token } = (await minted.json()) as { token: string };
    expect(await codeOf(await ask({ artifact: { path: "other.txt" } }, token))).toEqual([403, "insufficient_scope"]);
  });
});
