/** Every answer of every route of /openapi.json: what a browser may make of it, who may keep it, and that nothing of the request comes back in a header. */
import { runInDurableObject } from "cloudflare:test";
import { afterEach, describe, expect, it, vi } from "vitest";
import { newSessionId } from "../../../worker/src/routes/ids.js";
import { env } from "../env.js";
import { type Rig, rig } from "./fakes.js";

const HOST = "https://caisson.example";
const KEYS = JSON.stringify({ keys: [{ kid: "one", secret: Buffer.alloc(32, 7).toString("base64url") }] });
const HOSTILE = '<script>alert("x")</script>';
const auth = { authorization: "Bearer operator" };

interface Document {
  paths: Record<string, Record<string, { responses: Record<string, { content?: Record<string, unknown> }> }>>;
}

/** What makes each route that takes a body do its work. */
const BODIES: Record<string, unknown> = {
  "post /v1/sessions": { agent: "shell" },
  "patch /v1/sessions/{id}": { timeout_s: 60 },
  "post /v1/sessions/{id}/runs": { command: "true" },
  "post /v1/sessions/{id}/exec": { command: "true" },
  "put /v1/sessions/{id}/files/{path}": new TextEncoder().encode("x"),
  "put /v1/sessions/{id}/policy": { preset: "offline" },
  "post /v1/sessions/{id}/ports": { port: 8080 },
  "post /v1/sessions/{id}/share": {},
  "post /v1/sessions/{id}/approvals/{approval}": { decision: "deny" },
  "post /v1/tokens": { scopes: ["execute"] },
  "post /v1/execute": { language: "bash", code: "true" },
  "post /execute": { question: "?" },
};

/** What must be in the address of some. */
const QUERIES: Record<string, string> = {
  "post /v1/sessions/{id}/files/{path}": "?op=mkdir",
  "delete /v1/sessions/{id}/files/{path}": "?recursive=true",
};
const MADE = "<b onclick=steal()>made by an agent</b>";

/** The real Session object with an artifact, a run and two links; the sandbox and the model are scripted. */
async function prepared(): Promise<{ r: Rig; ids: Ids; paths: Document["paths"] }> {
  vi.stubGlobal("fetch", async () => Response.json({ content: [{ type: "text", text: "print(1)" }] }));
  const r = rig({
    SESSION: env.SESSION,
    CAISSON_API_KEY: "operator",
    CAISSON_KEYS: KEYS,
    CAISSON_PREVIEW_HOST: "view.example",
    ANTHROPIC_UPSTREAM: "http://model.test",
  });
  const ask = async (method: string, path: string, body?: unknown): Promise<Record<string, string>> => {
    const answer = await r.call(method, `${HOST}${path}`, body, { headers: auth });
    expect(answer.status, path).toBeLessThan(300);
    return (await answer.json()) as Record<string, string>;
  };
  const { id = "" } = await ask("POST", "/v1/sessions", { agent: "shell" });
  await r.env.ARTIFACTS.put(`headers/${id}`, MADE);
  await runInDurableObject(env.SESSION.get(env.SESSION.idFromName(id)), (_session, state) =>
    state.storage.sql.exec(
      "INSERT INTO artifacts (run, path, size, sha256, mode, r2_key) VALUES (1, 'a.html', ?, ?, '0644', ?)",
      MADE.length,
      "00".repeat(32),
      `headers/${id}`,
    ),
  );
  await ask("POST", `/v1/sessions/${id}/runs`, { command: "true" });
  await ask("PUT", `/v1/sessions/${id}/files/a.html`, new TextEncoder().encode(MADE));
  const { token: link = "" } = await ask("POST", `/v1/sessions/${id}/share`, { artifact: { path: "a.html" } });
  const { id: share = "" } = await ask("POST", `/v1/sessions/${id}/share`, {});
  const document = await r.call("GET", `${HOST}/openapi.json`);
  return { r, ids: { id, share, link }, paths: ((await document.json()) as Document).paths };
}
afterEach(() => vi.unstubAllGlobals());

interface Ids {
  readonly id: string;
  readonly share: string;
  readonly link: string;
}

function address(path: string, { id, share, link }: Ids): string {
  return `${HOST}${path
    .replace("{id}", id)
    .replace("{run}", "run_1")
    .replace("{share}", share)
    .replace("{approval}", "apr_x")
    .replace("{port}", "8080")
    .replace("{link}", link)
    .replace("{port}", "8080")
    .replace("{path}", "a.html")}`;
}

function check(answer: Response, where: string): void {
  const headers = Object.fromEntries(answer.headers);
  expect(headers, where).toMatchObject({
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "strict-transport-security": "max-age=31536000",
    "x-request-id": expect.stringMatching(/^[\w-]{1,64}$/),
    "cache-control": expect.stringMatching(/^no-store\b/),
    "content-security-policy": expect.stringMatching(/default-src 'none'.*frame-ancestors 'none'/),
  });
  expect(headers["content-security-policy"], where).not.toContain("script-src");
  for (const name of ["access-control-allow-origin", "set-cookie", "server", "x-powered-by"])
    expect(headers, where).not.toHaveProperty(name);
  const type = headers["content-type"] ?? "";
  if (answer.status >= 400) expect(type, where).toBe("application/problem+json");
  // Made by a sandbox: a page of no origin, if it is one at all; and an active type only to be saved.
  if (
    /files\/\{path\}|artifacts|links/.test(where) &&
    answer.status === 200 &&
    /octet-stream|gzip|html|svg/.test(type)
  ) {
    expect(headers["content-disposition"], where).toMatch(/^attachment; filename\*=UTF-8''/);
    if (!/gzip/.test(type)) expect(headers["content-security-policy"], where).toMatch(/^sandbox; /);
  } else if (where !== "get / as a page") {
    expect(type, where).not.toMatch(/html|svg|xml|javascript/);
  }
}

describe("the headers of every route", { timeout: 60_000 }, () => {
  it("are there whatever the answer", async () => {
    const { r, ids, paths } = await prepared();
    const seen = new Map<string, number[]>();
    const ask = async (
      where: string,
      method: string,
      url: string,
      body?: unknown,
      headers: Record<string, string> = {},
    ) => {
      const answer = await r.call(method, url, body, { headers });
      check(answer, where);
      seen.set(where, [...(seen.get(where) ?? []), answer.status]);
      await answer.body?.cancel();
      return answer;
    };
    const methods = ["get", "post", "put", "patch", "delete"];
    for (const [path, item] of Object.entries(paths)) {
      for (const method of Object.keys(item)) {
        // What ends the session, and what deletes the file, comes last.
        if (method === "delete") continue;
        const where = `${method} ${path}`;
        const url = `${address(path, ids)}${QUERIES[where] ?? ""}`;
        const body = BODIES[where];
        await ask(where, method.toUpperCase(), url, body, auth);
        await ask(where, method.toUpperCase(), url, body);
        await ask(where, method.toUpperCase(), address(path, { ...ids, id: newSessionId() }), body, auth);
        await ask(where, method.toUpperCase(), `${address(path, ids)}?nonsense=1`, body, auth);
        await ask(where, method.toUpperCase(), url, body, { ...auth, accept: "text/event-stream" });
        if (method === "get") await ask(where, "HEAD", url, undefined, auth);
      }
      await ask(`options ${path}`, "OPTIONS", address(path, ids), undefined, auth);
      const other = methods.find((method) => item[method] === undefined) ?? "trace";
      await ask(`${other} ${path}`, other.toUpperCase(), address(path, ids), other === "get" ? undefined : {}, auth);
    }
    for (const [path, item] of Object.entries(paths).reverse()) {
      const where = `delete ${path}`;
      if (item["delete"] === undefined) continue;
      await ask(where, "DELETE", address(path, ids));
      await ask(where, "DELETE", `${address(path, ids)}${QUERIES[where] ?? ""}`, undefined, auth);
    }
    await ask("get / as a page", "GET", `${HOST}/`, undefined, { accept: "text/html" });
    await ask("nothing", "GET", `${HOST}/nothing/here`, undefined, auth);
    // The table is one of answers that were given and of refusals, not of refusals alone.
    const good = [...seen].filter(([, statuses]) => statuses.some((status) => status < 300)).map(([where]) => where);
    const all = Object.entries(paths).flatMap(([path, item]) => Object.keys(item).map((method) => `${method} ${path}`));
    expect(all.filter((where) => !good.includes(where) && !UNREACHED.includes(where))).toEqual([]);
    expect(all.filter((where) => !(seen.get(where) ?? []).some((status) => status >= 400))).toEqual([]);
    await r.settle();
  });

  it("say nothing of HTTPS where it is not spoken", async () => {
    const answer = await rig().call("GET", "/health");
    expect(answer.headers.has("strict-transport-security")).toBe(false);
  });

  it("are those of a preflight's answer, too", async () => {
    const origin = "https://app.example";
    const r = rig({ CAISSON_API_KEY: "operator", CAISSON_CORS_ORIGINS: origin });
    const headers = { origin, "access-control-request-method": "POST" };
    const answer = await r.call("OPTIONS", `${HOST}/v1/sessions`, undefined, { headers });
    expect([answer.status, answer.headers.get("x-content-type-options"), answer.headers.get("cache-control")]).toEqual([
      204,
      "nosniff",
      "no-store",
    ]);
  });
});

describe("what a request says", { timeout: 60_000 }, () => {
  it("comes back in no header, and in a body only as JSON that no browser renders", async () => {
    const { r, ids, paths } = await prepared();
    const mark = encodeURIComponent(HOSTILE);
    const headers = { ...auth, "x-request-id": HOSTILE, "cf-ray": HOSTILE, "if-none-match": HOSTILE, origin: HOSTILE };
    for (const [path, item] of Object.entries(paths)) {
      for (const method of Object.keys(item).filter((one) => one !== "delete")) {
        const hostile = path.replace(/\{(?!id\})\w+\}/g, mark);
        for (const url of [
          `${address(hostile, ids)}?${mark}=${mark}&share=${mark}`,
          address(hostile, ids),
          address(path.replace("{id}", mark), ids),
          `${HOST}/${mark}`,
        ]) {
          const answer = await r.call(method.toUpperCase(), url, BODIES[`${method} ${path}`], { headers });
          const where = `${method} ${url}`;
          for (const [name, value] of answer.headers) expect(value, `${where} ${name}`).not.toMatch(/<script|alert\("/);
          const text = await answer.text();
          if (text.includes("<script"))
            expect(answer.headers.get("content-type"), where).toMatch(/^application\/(problem\+)?json$/);
        }
      }
    }
    await r.settle();
  });
});

/** Routes whose good answer needs more than the stand-ins of these tests do; their refusals are checked. */
const UNREACHED = ["get /v1/sessions/{id}/terminal", "post /v1/sessions/{id}/approvals/{approval}"];
