/** Who may call, what the service says of itself, the OpenAPI document, and the model behind POST /execute. */
import { afterEach, describe, expect, it, vi } from "vitest";
import { createApp } from "../../../worker/src/routes/app.js";
import { allowedMethods } from "../../../worker/src/routes/endpoint.js";
import { isSessionId, newSessionId, sessionIdForKey } from "../../../worker/src/routes/ids.js";
import { stripFences } from "../../../worker/src/routes/model.js";
import { type ProblemBody, rig } from "./fakes.js";

afterEach(() => {
  vi.unstubAllGlobals();
});

async function outcome(response: Response): Promise<[number, string | undefined]> {
  const text = await response.text();
  return [response.status, response.status < 400 ? undefined : (JSON.parse(text) as ProblemBody).code];
}

describe("without an API key", () => {
  const served: [string, Record<string, string>][] = [
    ["http://localhost:8787/v1/sessions", {}],
    ["http://127.0.0.1:8787/v1/sessions", { host: "127.0.0.1:8787" }],
    ["http://[::1]:8787/v1/sessions", {}],
    ["http://localhost:8787/v1/sessions", { origin: "http://localhost:5173" }],
    ["http://localhost:8787/v1/sessions", { "sec-fetch-site": "same-origin" }],
    ["http://app.localhost:8787/v1/sessions", { origin: "http://app.localhost:8787" }],
  ];
  it.each(served)("serves %s %j", async (url, headers) => {
    expect(await outcome(await rig().call("GET", url, undefined, { headers }))).toEqual([200, undefined]);
  });
  const refused: [string, Record<string, string>][] = [
    ["https://caisson.example.workers.dev/v1/sessions", {}],
    ["http://localhost.evil.example/v1/sessions", {}],
    ["http://127.0.0.1.evil.example/v1/sessions", {}],
    ["http://localhost:8787/v1/sessions", { host: "evil.example" }],
    ["http://localhost:8787/v1/sessions", { origin: "https://evil.example" }],
    ["http://localhost:8787/v1/sessions", { origin: "null" }],
    ["http://localhost:8787/v1/sessions", { origin: "http://8080-ses-aaaaaaaaaaaaaaaaaaaa-token.localhost:8787" }],
    ["http://localhost:8787/v1/sessions", { origin: "http://8080-anything.localhost" }],
    ["http://localhost:8787/v1/sessions", { "sec-fetch-site": "cross-site" }],
    ["https://caisson.example.workers.dev/health", {}],
  ];
  it.each(refused)("refuses %s %j", async (url, headers) => {
    expect(await outcome(await rig().call("GET", url, undefined, { headers }))).toEqual([403, "no_api_key_configured"]);
  });
  it("lets pages of this machine connect only when they are listed", async () => {
    const page = { upgrade: "websocket", origin: "http://localhost:5173" };
    const connect = async (vars: object, headers: Record<string, string>): Promise<number> => {
      const r = rig(vars);
      const { id } = await r.session();
      return (await r.call("GET", `/v1/sessions/${id}/events`, undefined, { headers })).status;
    };
    expect(await connect({}, page)).toBe(403);
    expect(await connect({ CAISSON_CORS_ORIGINS: page.origin }, page)).toBe(101);
    expect(await connect({}, { ...page, origin: "http://localhost:8787" })).toBe(101);
  });
});

describe("with an API key", () => {
  const env = { CAISSON_API_KEY: "k3y" };
  const url = "https://caisson.example/v1/sessions";
  it.each([undefined, "Bearer", "Bearer k3", "Bearer k3yy", "Basic k3y", "k3y"])(
    "refuses %s",
    async (authorization) => {
      const headers: Record<string, string> = authorization === undefined ? {} : { authorization };
      const response = await rig(env).call("GET", url, undefined, { headers });
      expect(response.headers.get("www-authenticate")).toContain("Bearer");
      expect(await outcome(response)).toEqual([401, "unauthorized"]);
    },
  );
  it("does not tell routes apart for who has no key", async () => {
    expect(await outcome(await rig(env).call("GET", "https://caisson.example/nothing"))).toEqual([401, "unauthorized"]);
  });
  it("serves who has it, from anywhere", async () => {
    const response = await rig(env).call("GET", url, undefined, { headers: { authorization: "Bearer k3y" } });
    expect(await outcome(response)).toEqual([200, undefined]);
  });
  it("keeps health, the document and the landing page open", async () => {
    for (const path of ["/health", "/openapi.json", "/"]) {
      expect((await rig(env).call("GET", `https://caisson.example${path}`)).status, path).toBe(200);
    }
  });
});

describe("health", () => {
  it("is fine where the platform runs the sandboxes", async () => {
    const response = await rig().call("GET", "/health");
    expect(await response.json()).toMatchObject({ ok: true, engine: { ok: true } });
  });
  it("asks the engine with its token", async () => {
    const seen: [string, string | null][] = [];
    vi.stubGlobal("fetch", async (url: URL, init: RequestInit) => {
      seen.push([String(url), new Headers(init.headers).get("authorization")]);
      return new Response('{"ok":true}');
    });
    const engine = { CAISSON_ENGINE_URL: "http://127.0.0.1:7070", CAISSON_ENGINE_TOKEN: "t" };
    const response = await rig(engine).call("GET", "/health");
    expect(await response.json()).toMatchObject({ ok: true });
    expect(seen).toEqual([["http://127.0.0.1:7070/v1/health", "Bearer t"]]);
  });
  it("says what to do when the engine is away, and so do one-shots, at once", async () => {
    vi.stubGlobal("fetch", async () => {
      throw new Error("connection refused");
    });
    const rigged = rig({ CAISSON_ENGINE_URL: "http://127.0.0.1:7070" });
    const health = await rigged.call("GET", "/health");
    expect([health.status, health.headers.get("retry-after")]).toEqual([503, "2"]);
    expect(JSON.stringify(await health.json())).toContain("make dev");
    for (const accept of ["application/json", "text/event-stream"]) {
      const answer = await rigged.call(
        "POST",
        "/v1/execute",
        { language: "bash", code: "true" },
        { headers: { accept } },
      );
      const problem = (await answer.json()) as ProblemBody;
      expect([answer.status, problem.code, answer.headers.get("retry-after")]).toEqual([
        503,
        "engine_unavailable",
        "2",
      ]);
      expect(problem.detail).toContain("make dev");
    }
    expect(rigged.sandboxes.size).toBe(0);
  });
  it("says so when what a running sandbox reports comes from there", async () => {
    vi.stubGlobal("fetch", async () => new Response("", { status: 500 }));
    const rigged = rig({ CAISSON_ENGINE_URL: "http://127.0.0.1:7070" });
    const { id, sandbox } = await rigged.session();
    sandbox().listFiles = () => Promise.reject(new Error("HTTP error! status: 500"));
    expect(await outcome(await rigged.call("GET", `/v1/sessions/${id}/files`))).toEqual([503, "engine_unavailable"]);
    sandbox().script = async function* () {
      yield { type: "stdout", data: "a" };
    };
    const exec = await rigged.call("POST", `/v1/sessions/${id}/exec`, { command: "x" });
    expect(await outcome(exec)).toEqual([503, "engine_unavailable"]);
  });
  it("gives up on a slow call into a sandbox when the engine is away", async () => {
    vi.stubGlobal("fetch", async () => new Response("", { status: 500 }));
    const rigged = rig({ CAISSON_ENGINE_URL: "http://127.0.0.1:7070" });
    const { id, sandbox } = await rigged.session();
    const started = Date.now();
    sandbox().execStreamWithSessionToken = () => new Promise(() => undefined);
    const answer = await rigged.call("POST", `/v1/sessions/${id}/exec`, { command: "true" });
    expect(await outcome(answer)).toEqual([503, "engine_unavailable"]);
    expect(Date.now() - started).toBeLessThan(2_000);
  });
});

describe("the landing page", () => {
  it("is JSON, or HTML for a browser", async () => {
    expect(await (await rig().call("GET", "/")).json()).toMatchObject({
      name: "caisson",
      openapi: "http://localhost:8787/openapi.json",
    });
    const page = await rig().call("GET", "/", undefined, { headers: { accept: "text/html,*/*" } });
    expect(page.headers.get("content-security-policy")).toContain("default-src 'none'");
    expect(await page.text()).toContain("/openapi.json");
  });
});

describe("session ids", () => {
  it("are checked, and a key always gives the same", () => {
    const id = newSessionId();
    expect(isSessionId(id)).toBe(true);
    const last = id.at(-1) === "a" ? "b" : "a";
    expect(isSessionId(id.slice(0, -1) + last)).toBe(false);
    expect(isSessionId(id.toUpperCase())).toBe(false);
    expect(sessionIdForKey("a", "")).toBe(sessionIdForKey("a", ""));
    expect(sessionIdForKey("a", "")).not.toBe(sessionIdForKey("b", ""));
    expect(isSessionId(sessionIdForKey("a", ""))).toBe(true);
    expect(sessionIdForKey("a", "acme")).not.toBe(sessionIdForKey("a", ""));
  });
});

describe("openapi.json", () => {
  interface Operation {
    operationId: string;
    summary: string;
    responses: Record<string, { description: string; content?: Record<string, { schema: object }> }>;
    requestBody?: { content: Record<string, { schema: { $ref?: string } }> };
    parameters?: { name: string; in: string; schema: object }[];
  }
  interface Document {
    openapi: string;
    paths: Record<string, Record<string, Operation>>;
    components: { schemas: Record<string, { required?: string[]; additionalProperties?: boolean }> };
  }
  const EXPECTED: Record<string, string[]> = {
    "/": ["get"],
    "/health": ["get"],
    "/openapi.json": ["get"],
    "/v1/sessions": ["get", "post"],
    "/v1/sessions/{id}": ["delete", "get", "patch"],
    "/v1/sessions/{id}/runs": ["get", "post"],
    "/v1/sessions/{id}/runs/{run}": ["get"],
    "/v1/sessions/{id}/runs/{run}/cancel": ["post"],
    "/v1/sessions/{id}/runs/{run}/transcript": ["get"],
    "/v1/sessions/{id}/transcript": ["get"],
    "/v1/sessions/{id}/events": ["get"],
    "/v1/sessions/{id}/exec": ["post"],
    "/v1/sessions/{id}/files": ["get"],
    "/v1/sessions/{id}/files/{path}": ["delete", "get", "post", "put"],
    "/v1/sessions/{id}/diff": ["get"],
    "/v1/sessions/{id}/artifacts": ["get"],
    "/v1/sessions/{id}/artifacts.tar.gz": ["get"],
    "/v1/sessions/{id}/artifacts/{path}": ["get"],
    "/v1/sessions/{id}/audit": ["get"],
    "/v1/sessions/{id}/approvals": ["get"],
    "/v1/sessions/{id}/approvals/{approval}": ["post"],
    "/v1/sessions/{id}/egress": ["get"],
    "/v1/sessions/{id}/egress/archive": ["get"],
    "/v1/sessions/{id}/policy": ["get", "put"],
    "/v1/sessions/{id}/ports": ["get", "post"],
    "/v1/sessions/{id}/ports/{port}": ["delete"],
    "/v1/sessions/{id}/share": ["post"],
    "/v1/sessions/{id}/shares": ["get"],
    "/v1/sessions/{id}/shares/{share}": ["delete"],
    "/v1/sessions/{id}/terminal": ["get"],
    "/v1/links/{link}": ["get"],
    "/v1/audit": ["get"],
    "/v1/tokens": ["post"],
    "/v1/execute": ["post"],
    "/execute": ["post"],
  };
  async function load(): Promise<Document> {
    const response = await rig().call("GET", "/openapi.json");
    expect(response.headers.get("content-type")).toBe("application/json");
    return (await response.json()) as Document;
  }

  it("has every route and nothing else", async () => {
    const { openapi, paths } = await load();
    expect(openapi).toBe("3.1.0");
    expect(Object.fromEntries(Object.entries(paths).map(([path, item]) => [path, Object.keys(item).sort()]))).toEqual(
      EXPECTED,
    );
    const app = createApp();
    for (const [path, methods] of Object.entries(EXPECTED)) {
      const real = path
        .replace("{id}", "ses_x")
        .replace("{run}", "run_1")
        .replace("{path}", "a/b")
        .replace("{share}", "shr_x");
      const routed = allowedMethods(app, real).filter((method) => method !== "HEAD");
      expect(routed.map((method) => method.toLowerCase()).sort(), path).toEqual(methods);
    }
  });
  it("describes parameters, bodies, answers and problems of each", async () => {
    const { paths, components } = await load();
    const schema = (name: string) => components.schemas[name];
    const ids = new Set<string>();
    for (const [path, item] of Object.entries(paths)) {
      for (const [method, operation] of Object.entries(item)) {
        const where = `${method} ${path}`;
        expect(ids.has(operation.operationId), where).toBe(false);
        ids.add(operation.operationId);
        const names = (operation.parameters ?? [])
          .filter((parameter) => parameter.in === "path")
          .map((parameter) => parameter.name);
        expect(names, where).toEqual([...path.matchAll(/\{(\w+)\}/g)].map((match) => match[1]));
        if (["post", "put", "patch"].includes(method) && !/cancel|files/.test(path)) {
          expect(operation.requestBody?.content["application/json"]?.schema.$ref, where).toMatch(
            /^#\/components\/schemas\//,
          );
        }
        const statuses = Object.keys(operation.responses);
        expect(
          statuses.some((status) => status < "400"),
          where,
        ).toBe(true);
        for (const status of statuses.filter((one) => one >= "400")) {
          const content = operation.responses[status]?.content ?? {};
          if (path === "/health") continue;
          expect(Object.keys(content), `${where} ${status}`).toEqual(["application/problem+json"]);
        }
      }
    }
    for (const name of ["CreateSession", "CreateRun", "Exec", "Execute", "Question", "File", "PatchSession"]) {
      expect(components.schemas[name]?.additionalProperties, name).toBe(false);
    }
    expect(schema("CreateSession")?.required).toEqual(["agent"]);
    expect(schema("CreateRun")?.required).toBeUndefined();
    expect(schema("Execute")?.required).toEqual(["language", "code"]);
  });
  it("says that a run may have no usage yet, and that unknown parameters are refused everywhere", async () => {
    const document = (await (await rig().call("GET", "/openapi.json")).json()) as {
      paths: Record<string, Record<string, { responses: object }>>;
      components: { schemas: Record<string, { properties: Record<string, unknown> }> };
    };
    expect(document.components.schemas["Run"]?.properties["usage"]).toEqual({
      anyOf: [{ $ref: "#/components/schemas/Usage" }, { type: "null" }],
    });
    const operations = Object.values(document.paths).flatMap((path) => Object.values(path));
    for (const { responses } of operations)
      expect(Object.keys(responses)).toEqual(expect.arrayContaining(["400", "403"]));
  });
  it("has no reference that leads nowhere", async () => {
    const document = await load();
    const text = JSON.stringify(document);
    for (const [, name] of text.matchAll(/"#\/components\/schemas\/(\w+)"/g)) {
      expect(document.components.schemas[name ?? ""], name).toBeDefined();
    }
  });
});

describe("POST /execute", () => {
  function model(
    answer: () => Response,
    seen: { url: string; headers: Headers; body: Record<string, unknown> }[] = [],
  ): typeof seen {
    vi.stubGlobal("fetch", async (url: URL, init: RequestInit) => {
      seen.push({
        url: String(url),
        headers: new Headers(init.headers),
        body: JSON.parse(String(init.body)) as Record<string, unknown>,
      });
      return answer();
    });
    return seen;
  }
  const says = (text: string) => (): Response => Response.json({ content: [{ type: "text", text }] });

  it("asks for code, runs it, answers in the fields of the claude-code-templates worker", async () => {
    const seen = model(says("```python\nprint(55)\n```"));
    const rigged = rig({ ANTHROPIC_API_KEY: "sk-real", ANTHROPIC_UPSTREAM: "http://127.0.0.1:9/base/" });
    rigged.prepare = (sandbox) => {
      sandbox.script = async function* () {
        yield { type: "stdout", data: "55\n" };
        yield { type: "complete", exitCode: 0 };
      };
    };
    const answer = (await (
      await rigged.call("POST", "/execute", { question: "10th Fibonacci?", timeout: 2500, maxTokens: 99 })
    ).json()) as object;
    const [name, sandbox] = [...rigged.sandboxes][0] ?? [];
    expect(answer).toEqual({
      success: true,
      question: "10th Fibonacci?",
      code: "print(55)",
      output: "55\n",
      error: "",
      sandboxId: name,
      executionTime: expect.any(Number),
    });
    expect(seen).toHaveLength(1);
    expect(seen[0]?.url).toBe("http://127.0.0.1:9/base/v1/messages");
    expect(seen[0]?.headers.get("x-api-key")).toBe("sk-real");
    expect(seen[0]?.headers.get("anthropic-version")).toBe("2023-06-01");
    expect(seen[0]?.body).toMatchObject({ max_tokens: 99, messages: [{ role: "user" }] });
    expect(JSON.stringify(seen[0]?.body)).toContain("10th Fibonacci?");
    expect(sandbox?.commands.at(-1)).toMatchObject({ timeout: 2_500 });
    expect(sandbox?.destroyed).toBe(1);
  });
  it("reports code that fails as success false", async () => {
    model(says("process.exit(1)"));
    const rigged = rig({ ANTHROPIC_UPSTREAM: "http://127.0.0.1:9" });
    rigged.prepare = (sandbox) => {
      sandbox.script = async function* () {
        yield { type: "stderr", data: "boom" };
        yield { type: "complete", exitCode: 1 };
      };
    };
    const answer = await rigged.call("POST", "/execute", { question: "q", language: "javascript" });
    expect(answer.status).toBe(200);
    expect(await answer.json()).toMatchObject({ success: false, error: "boom", code: "process.exit(1)" });
    expect([...rigged.sandboxes.values()][0]?.commands.at(-1)?.command).toContain("'/workspace/main.js'");
  });
  it.each([
    ["an error of the endpoint", (): Response => Response.json({ error: "overloaded" }, { status: 529 })],
    ["an answer without code", says(" ")],
    ["an answer that is not JSON", (): Response => new Response("<html>")],
    [
      "an answer that breaks off",
      (): Response =>
        new Response(new ReadableStream({ start: (controller) => controller.error(new Error("scripted: reset")) })),
    ],
  ])("turns %s into a problem with `error`, and starts nothing", async (_name, respond) => {
    model(respond);
    const rigged = rig({ ANTHROPIC_UPSTREAM: "http://127.0.0.1:9" });
    const answer = await rigged.call("POST", "/execute", { question: "q" });
    const problem = (await answer.json()) as ProblemBody;
    expect([answer.status, problem.code, problem.error]).toEqual([500, "model_error", problem.detail]);
    expect(rigged.sandboxes.size).toBe(0);
  });
  it("tells what the endpoint refuses, but not the key that it repeats", async () => {
    const key = "operator-model-key-9e107d9d372bb6";
    model(() => new Response(`no such key: ${key}${"x".repeat(460)}${key}`, { status: 401 }));
    const answer = await rig({ ANTHROPIC_API_KEY: key }).call("POST", "/execute", { question: "q" });
    const { detail = "" } = (await answer.json()) as ProblemBody;
    expect(detail).toContain("answered 401: no such key: ****");
    expect(detail).not.toContain(key.slice(0, 6));
  });
  it("takes an empty variable for none", async () => {
    const seen = model(says("print(1)"));
    const vars = { ANTHROPIC_API_KEY: "sk-real", ANTHROPIC_UPSTREAM: "", CAISSON_CODE_MODEL: "" };
    expect((await rig(vars).call("POST", "/execute", { question: "q" })).status).toBe(200);
    expect(seen[0]?.url).toBe("https://api.anthropic.com/v1/messages");
    expect(seen[0]?.body["model"]).toMatch(/^claude-/);
  });
  it("finds the code between whatever fences there are", () => {
    expect(stripFences("print(1)")).toBe("print(1)");
    expect(stripFences("Here:\n```py\na = 1\n\nb\n```\nDone")).toBe("a = 1\n\nb");
    expect(stripFences("```\nx\n")).toBe("x");
    expect(stripFences("````md\n```\ninner\n```\n````")).toBe("```\ninner\n```");
    expect(stripFences('s = "```"')).toBe('s = "```"');
  });
});
