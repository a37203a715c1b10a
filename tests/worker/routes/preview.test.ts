/** Hosts of previews: which names are one, and what is not served under them. What is served is shown by tests/e2e/preview.test.mjs. */
import { describe, expect, it } from "vitest";
import type { Env } from "../../../worker/src/env.js";
import { isPreviewHost, previewName } from "../../../worker/src/identity/preview-host.js";
import { newSessionId } from "../../../worker/src/routes/ids.js";
import { handlePreview, withoutCredentials } from "../../../worker/src/routes/preview.js";
import { type ProblemBody, rig } from "./fakes.js";

async function served(url: string, env: Env): Promise<[number, string, Response]> {
  const answer = await handlePreview(new Request(url), env);
  if (answer === null) throw new Error(`${url} is none of a preview`);
  return [answer.status, ((await answer.json()) as ProblemBody).code, answer];
}

const SANDBOX = newSessionId().replace("_", "-");
const HOSTED = { CAISSON_PREVIEW_HOST: "view.example:8443" };

describe("a preview's host", () => {
  it.each([
    [`8080-${SANDBOX}-abc_1.localhost`, {}, 8080],
    [`8080-${SANDBOX}-abc_1.LOCALHOST.`, {}, 8080],
    [`65535-${SANDBOX.toUpperCase()}-abc.view.example`, HOSTED, 65_535],
  ])("is %s", (hostname, env, port) => {
    expect(isPreviewHost(hostname, env)).toBe(true);
    const name = previewName(hostname, env);
    expect([name?.port, name?.sandbox]).toEqual([port, SANDBOX]);
  });
  it.each([
    [`8080-ses-aaaaaaaaaaaaaaaaaaaa-abc.localhost`],
    [`8080-one-aaaaaaaaaaaaaaaa-abc.localhost`],
    [`80-${SANDBOX}-abc.localhost`],
    [`123456-${SANDBOX}-abc.localhost`],
    [`8080-${SANDBOX}.localhost`],
    [`8080-${SANDBOX}-.localhost`],
    [`8080-${SANDBOX}-${"a".repeat(64)}.localhost`],
    [`8080-x.localhost`],
  ])("is %s, which leads nowhere", (hostname) => {
    expect(isPreviewHost(hostname, {})).toBe(true);
    expect(previewName(hostname, {})).toBeNull();
  });
  it.each([
    ["localhost", {}],
    ["app.localhost", {}],
    [`a.8080-${SANDBOX}-abc.localhost`, {}],
    [`8080-${SANDBOX}-abc.localhost.evil.example`, {}],
    [`8080-${SANDBOX}-abc.evillocalhost`, {}],
    [`8080-${SANDBOX}-abc.localhost`, HOSTED],
    ["view.example", HOSTED],
    ["api.view.example", HOSTED],
  ])("is not %s", (hostname, env) => {
    expect(isPreviewHost(hostname, env)).toBe(false);
  });

  it("serves nothing of the API, and asks no object for a name that is none", async () => {
    const { env } = rig(HOSTED);
    const none = { ...env, SANDBOX: null as unknown as Env["SANDBOX"] };
    for (const host of [`8080-x.view.example`, `3000-ses-aaaaaaaaaaaaaaaaaaaa-abc.view.example`]) {
      const [status, code] = await served(`https://${host}/v1/sessions`, none);
      expect([status, code]).toEqual([404, "preview_not_found"]);
    }
    expect(await handlePreview(new Request("https://api.view.example/health"), none)).toBeNull();
  });

  it.each([
    ["unknown", 404, "preview_not_found"],
    ["over", 410, "preview_over"],
  ])("that is %s is a problem", async (verdict, status, code) => {
    const asked: unknown[] = [];
    const object = {
      previewVerdict: async (port: number, token: string) => {
        asked.push([port, token]);
        return verdict;
      },
    };
    const SANDBOX_NAMESPACE = { idFromName: (name: string) => asked.push(name), get: () => object };
    const env = { ...rig().env, SANDBOX: SANDBOX_NAMESPACE as unknown as Env["SANDBOX"] };
    const [seen, told, answer] = await served(`http://8080-${SANDBOX}-abc.localhost/`, env);
    expect([seen, told]).toEqual([status, code]);
    expect(answer.headers.get("referrer-policy")).toBe("same-origin");
    expect(asked).toEqual([SANDBOX, [8080, "abc"]]);
  });
});

describe("a request to a preview", () => {
  const sent = (init: Record<string, string>, query = ""): Promise<Request> => {
    const { env } = rig({ ...HOSTED, CAISSON_API_KEY: "operator" });
    return withoutCredentials(new Request(`https://x.view.example/a%20b${query}`, { headers: init }), env);
  };
  it("loses the API's key, wherever it stands, and nothing else", async () => {
    const token = `caisson.bearer.${Buffer.from("operator").toString("base64url")}`;
    const a = await sent({ authorization: "Bearer operator", "sec-websocket-protocol": `caisson, ${token}, chat` });
    expect(a.headers.has("authorization")).toBe(false);
    expect(a.headers.get("sec-websocket-protocol")?.replaceAll(" ", "")).toBe("caisson,chat");
    const b = await sent({ "sec-websocket-protocol": token, "x-own": "1" }, "?share=operator&a=1%2B1");
    expect([b.headers.has("sec-websocket-protocol"), b.headers.get("x-own"), b.url]).toEqual([
      false,
      "1",
      "https://x.view.example/a%20b?a=1%2B1",
    ]);
    const own = await sent({ authorization: "Bearer app", "sec-websocket-protocol": "chat, v2" }, "?share=app");
    expect([own.headers.get("authorization"), own.headers.get("sec-websocket-protocol"), own.url]).toEqual([
      "Bearer app",
      "chat, v2",
      "https://x.view.example/a%20b?share=app",
    ]);
  });
});

describe("opening a port", () => {
  const open = async (url: string, vars: object): Promise<[number, string]> => {
    const r = rig({ CAISSON_API_KEY: "operator", ...vars });
    const headers = { authorization: "Bearer operator" };
    const made = await r.call("POST", "https://caisson.example/v1/sessions", { agent: "shell" }, { headers });
    const { id } = (await made.json()) as { id: string };
    const fake = r.sessions.get(id);
    const hosts: string[] = [];
    Object.assign(fake ?? {}, {
      openPort: async (port: number, hostname: string, name: string | null, expiresMs: number) => {
        hosts.push(hostname);
        const expires_at = new Date(expiresMs).toISOString();
        return { ok: true, value: { port, name, url: "", created_at: expires_at, expires_at } };
      },
    });
    const answer = await r.call("POST", `${url}/v1/sessions/${id}/ports`, { port: 8080 }, { headers });
    return [answer.status, hosts[0] ?? ((await answer.json()) as ProblemBody).code];
  };
  it.each([
    ["http://localhost:8787", {}, 201, "localhost:8787"],
    ["http://127.0.0.1:8787", {}, 201, "localhost:8787"],
    ["http://localhost", {}, 201, "localhost"],
    ["https://caisson.example", HOSTED, 201, "view.example:8443"],
    // The host that a caller writes into its request is not taken for ours.
    ["https://caisson.example", {}, 409, "no_preview_host"],
    ["https://caisson.example", { CAISSON_PREVIEW_HOST: "caisson.me.workers.dev" }, 409, "no_preview_host"],
  ])("at %s with %j: %s %s", async (url, vars, status, what) => {
    expect(await open(url, vars)).toEqual([status, what]);
  });
});
