import { runInDurableObject } from "cloudflare:test";
import { afterEach, describe, expect, it, vi } from "vitest";
import { egressToken, handleEgress } from "../../sandbox-sdk-shim/src/egress.js";
import { LocalContainer } from "../../sandbox-sdk-shim/src/local-container.js";
import { modelEgress } from "../../sandbox-sdk-shim/src/model-egress.js";
import { env } from "./env.js";

const NAME = "ab".repeat(32);

/** Requests that reached the network, and what it answers. */
function network(answer: (request: Request) => Response | Promise<Response>): Request[] {
  const seen: Request[] = [];
  vi.spyOn(globalThis, "fetch").mockImplementation(async (input, init) => {
    const request = new Request(input as RequestInfo, init as RequestInit);
    seen.push(request);
    return await answer(request);
  });
  return seen;
}

let objects = 0;

/** Runs `fn` with a container over the storage of an object of its own. */
async function withContainer(fn: (container: LocalContainer, kv: SyncKvStorage) => Promise<void>): Promise<void> {
  objects += 1;
  await runInDurableObject(env.SCRATCH.get(env.SCRATCH.idFromName(`local-${objects}`)), async (_, state) => {
    await fn(make(state.storage.kv), state.storage.kv);
  });
}

function make(kv: SyncKvStorage): LocalContainer {
  return new LocalContainer({
    engineURL: "http://engine",
    engineToken: "t0ken",
    workerURL: "http://worker",
    name: NAME,
    kv,
    report: () => undefined,
  });
}

function engine(overrides: Record<string, (request: Request) => Response | Promise<Response>> = {}) {
  return (request: Request): Response | Promise<Response> => {
    const url = new URL(request.url);
    const key = `${request.method} ${url.pathname.replace(`/v1/sandboxes/${NAME}`, "")}`;
    const override = overrides[key];
    if (override !== undefined) return override(request);
    if (key === "PUT ") return Response.json({ name: NAME, generation: 7, running: true });
    if (key === "GET ") return Response.json({ name: NAME, generation: 7, running: true });
    if (key === "GET /ports/3000") return Response.json({ port: 4567, token: "port-token" });
    if (url.host === "127.0.0.1:4567") return new Response("from the guest");
    return new Response("{}");
  };
}

afterEach(() => {
  vi.restoreAllMocks();
});

describe("LocalContainer", () => {
  it("starts, forwards requests with the port token, and asks for the port once", async () => {
    const seen = network(engine());
    await withContainer(async (container, kv) => {
      expect(container.running).toBe(false);
      container.start({ enableInternet: false, env: { A: "1" }, labels: { l: "2" } });
      expect(container.running).toBe(true);
      for (const path of ["/api/ping?x=1", "/second"]) {
        const response = await container
          .getTcpPort(3000)
          .fetch(`http://localhost:3000${path}`, { method: "POST", body: "hi" });
        expect(await response.text()).toBe("from the guest");
      }
      const [put, port, first, second] = seen;
      expect(await put?.json()).toEqual({
        at_most: null,
        env: { A: "1" },
        entrypoint: [],
        template: null,
        labels: { l: "2" },
        enable_internet: false,
        open_port: 3000,
        egress: {
          url: `http://worker/__caisson/egress/${NAME}`,
          token: await egressToken("t0ken", NAME),
          hosts: [],
          https_hosts: [],
          all: false,
        },
      });
      expect(put?.headers.get("authorization")).toBe("Bearer t0ken");
      expect(port?.url).toBe(`http://engine/v1/sandboxes/${NAME}/ports/3000`);
      expect(first?.url).toBe("http://127.0.0.1:4567/api/ping?x=1");
      expect(first?.headers.get("x-caisson-port-token")).toBe("port-token");
      expect(second?.url).toBe("http://127.0.0.1:4567/second");
      expect(seen).toHaveLength(4);
      // A new instance knows it synchronously, and the engine agrees.
      const again = make(kv);
      expect(again.running).toBe(true);
      await again.verify();
      expect(again.running).toBe(true);
      expect(again.generation).toBe("7");
    });
  });

  it("takes the port from the start's answer, and a changed set of interceptions only", async () => {
    const body = { name: NAME, generation: 7, running: true, port: 4567, token: "port-token" };
    const seen = network(engine({ "PUT ": () => Response.json(body) }));
    await withContainer(async (container) => {
      const handler = { fetch: async () => new Response("x") } as unknown as Fetcher;
      await container.interceptOutboundHttp("api.example.com", handler);
      container.start();
      expect(await (await container.getTcpPort(3000).fetch("http://localhost/")).text()).toBe("from the guest");
      await container.interceptOutboundHttp("api.example.com", handler);
      expect(seen.map((r) => `${r.method} ${new URL(r.url).pathname}`)).toEqual([`PUT /v1/sandboxes/${NAME}`, "GET /"]);
      expect(seen[1]?.headers.get("x-caisson-port-token")).toBe("port-token");
      await container.interceptOutboundHttp("other.example.com", handler);
      expect(seen).toHaveLength(3);
      expect(new URL(seen[2]?.url ?? "").pathname).toBe(`/v1/sandboxes/${NAME}/egress`);
    });
  });

  it("refuses to start twice", async () => {
    network(engine());
    await withContainer(async (container) => {
      container.start();
      expect(() => container.start()).toThrow("start() cannot be called on a container that is already running.");
    });
  });

  it.each([
    ["404", () => new Response("gone", { status: 404 })],
    ["another generation", () => Response.json({ name: NAME, generation: 8, running: true })],
    ["not running", () => Response.json({ name: NAME, generation: 7, running: false })],
    ["no answer", () => Promise.reject(new Error("refused"))],
  ])("takes a sandbox for stopped after an eviction: %s", async (_, answer) => {
    network(engine());
    await withContainer(async (container, kv) => {
      container.start();
      await container.getTcpPort(3000).fetch("http://localhost:3000/");
      vi.restoreAllMocks();
      network(engine({ "GET ": answer }));
      const again = make(kv);
      expect(again.running).toBe(true);
      await again.verify();
      expect(again.running).toBe(false);
      expect(make(kv).running).toBe(false);
    });
  });

  it.each([404, 409])(
    "takes a sandbox that ends while it is asked for a port for stopped, not for broken: %i",
    async (status) => {
      network(engine({ "GET /ports/3000": () => Response.json({ error: { code: "NOT_RUNNING" } }, { status }) }));
      await withContainer(async (container) => {
        container.start();
        const error = await container
          .getTcpPort(3000)
          .fetch("http://localhost:3000/")
          .catch((caught: unknown) => String(caught));
        expect(error).toContain("not listening");
        expect(error).not.toContain("no container application assigned");
        expect(container.running).toBe(false);
      });
    },
  );

  it("fails at once and permanently when the engine is away, naming what to do", async () => {
    network(() => Promise.reject(new Error("refused")));
    await withContainer(async (container) => {
      container.start();
      const error = await container
        .getTcpPort(3000)
        .fetch("http://localhost:3000/")
        .catch((cause: Error) => cause);
      expect((error as Error).message).toContain("run `make dev`");
      // The SDK would repeat anything but its own list of permanent errors for two minutes.
      expect((error as Error).message).toContain("no container application assigned");
      expect(container.running).toBe(false);
    });
  });

  it.each([
    [{ exit_code: 0 }, null],
    [{ exit_code: 3 }, "container exited with unexpected exit code: 3"],
    [{ exit_code: null, signal: 9 }, "container exited with unexpected exit code: 137"],
  ])("monitor: %j", async (ended, message) => {
    let polls = 0;
    network(
      engine({
        "GET /wait": (request) => {
          expect(new URL(request.url).searchParams.get("generation")).toBe("7");
          polls += 1;
          return polls === 1 ? new Response(null, { status: 204 }) : Response.json(ended);
        },
      }),
    );
    await withContainer(async (container) => {
      container.start();
      const end = await container.monitor().then(
        () => null,
        (error: Error) => error.message,
      );
      expect(end).toBe(message);
      expect(polls).toBe(2);
      expect(container.running).toBe(false);
    });
  });

  it("says that nothing listens in the platform's words, and lets a program's own 502 pass", async () => {
    network(
      engine({
        "GET /ports/8080": () => Response.json({ port: 4568, token: "x" }),
        "GET /refused": () =>
          new Response("the container is not listening", { status: 502, headers: { "content-length": "30" } }),
        "GET /own": () => new Response("bad gateway", { status: 502, headers: { "content-length": "11" } }),
      }),
    );
    await withContainer(async (container) => {
      container.start();
      await expect(container.getTcpPort(8080).fetch("http://localhost:8080/refused")).rejects.toThrow(
        "the container is not listening in the TCP address",
      );
      const own = await container.getTcpPort(8080).fetch("http://localhost:8080/own");
      expect([own.status, await own.text()]).toEqual([502, "bad gateway"]);
    });
  });

  it("looks the port up again when its forwarding port has gone, but never repeats a body", async () => {
    let port = 1;
    network(
      engine({
        "GET /ports/3000": () => Response.json({ port: port++, token: "x" }),
        "GET /": (request) =>
          new URL(request.url).port === "2"
            ? new Response("ok")
            : Promise.reject(new Error("Network connection lost.")),
        "POST /": () => Promise.reject(new Error("Network connection lost.")),
      }),
    );
    await withContainer(async (container) => {
      container.start();
      const first = await container
        .getTcpPort(3000)
        .fetch("http://localhost:3000/")
        .catch((error: Error) => error.message);
      expect(first).toBe("Network connection lost.");
      expect(await (await container.getTcpPort(3000).fetch("http://localhost:3000/")).text()).toBe("ok");
      await expect(
        container.getTcpPort(3000).fetch("http://localhost:3000/", { method: "POST", body: "x" }),
      ).rejects.toThrow("Network connection lost.");
      expect(port).toBe(3);
    });
  });

  it("destroy and signal reach the engine", async () => {
    const seen = network(engine());
    await withContainer(async (container) => {
      expect(() => container.signal(15)).toThrow("not running");
      container.start();
      await container.getTcpPort(3000).fetch("http://localhost:3000/");
      container.signal(15);
      await container.destroy();
      expect(container.running).toBe(false);
      expect(seen.map(({ method, url }) => `${method} ${new URL(url).pathname}`)).toContain(
        `POST /v1/sandboxes/${NAME}/signal`,
      );
      expect(seen.at(-1)?.method).toBe("DELETE");
    });
  });

  it("hands an intercepted request to the host's handler, without our headers", async () => {
    const seen = network(engine());
    await withContainer(async (container) => {
      const got: Request[] = [];
      const fetcher = {
        fetch: async (request: Request) => {
          got.push(request);
          return new Response("handled");
        },
      } as unknown as Fetcher;
      await container.interceptOutboundHttp("API.example.com", fetcher);
      container.start();
      await container.getTcpPort(3000).fetch("http://localhost:3000/");
      expect(((await (seen[0] as Request).json()) as { egress: { hosts: string[] } }).egress.hosts).toEqual([
        "api.example.com",
      ]);
      const egress = (url: string): Promise<Response> =>
        container.egress(
          new Request("http://worker/x", {
            method: "POST",
            body: "question",
            headers: { "x-caisson-egress-url": url, "x-caisson-egress-token": "secret", "x-own": "1" },
          }),
          true,
        );
      expect(await (await egress("http://api.example.com/v1/messages?beta=1")).text()).toBe("handled");
      expect(got[0]?.url).toBe("http://api.example.com/v1/messages?beta=1");
      expect(await got[0]?.text()).toBe("question");
      expect([...(got[0]?.headers.keys() ?? [])].filter((name) => name.startsWith("x-"))).toEqual(["x-own"]);
      expect((await egress("http://other.example.com/")).status).toBe(403);
      expect((await egress("nonsense")).status).toBe(400);
      // What workerd makes of a GET with a body that comes from outside; by itself it makes none.
      const headers = { "x-caisson-egress-url": "http://api.example.com/_search" };
      const search = new Request("http://worker/x", { method: "POST", body: "query", headers });
      Object.defineProperty(search, "method", { value: "GET" });
      const refused = await container.egress(search, false);
      expect([refused.status, await refused.text()]).toEqual([
        400,
        expect.stringContaining("a GET request with a body"),
      ]);
      expect(got.length).toBe(1);
      // The same set is not sent again; a larger one is.
      const before = seen.length;
      await container.interceptAllOutboundHttp(fetcher);
      await container.interceptAllOutboundHttp(fetcher);
      expect(seen.length - before).toBe(1);
      expect((await egress("http://other.example.com/")).status).toBe(200);
    });
  });
});

describe("HTTPS interception", () => {
  it("sends the hosts and finds the handler: exact before glob, the longer glob first, by port", async () => {
    const seen = network(engine());
    await withContainer(async (container) => {
      const named = (name: string): Fetcher => ({ fetch: async () => new Response(name) }) as unknown as Fetcher;
      await container.interceptOutboundHttps("*", named("all"));
      await container.interceptOutboundHttps("*.Example.com", named("glob"));
      await container.interceptOutboundHttps("api.example.com", named("exact"));
      await container.interceptOutboundHttps("port.example:8443", named("port"));
      container.start();
      await container.getTcpPort(3000).fetch("http://localhost:3000/");
      const put = (await (seen[0] as Request).json()) as { egress: { https_hosts: string[]; all: boolean } };
      expect(put.egress.https_hosts).toEqual(["*", "*.example.com", "api.example.com", "port.example:8443"]);
      expect(put.egress.all).toBe(false);
      const ask = async (url: string): Promise<string | number> => {
        const response = await container.egress(
          new Request("http://worker/x", { headers: { "x-caisson-egress-url": url } }),
          true,
        );
        return response.ok ? await response.text() : response.status;
      };
      expect(await ask("https://api.example.com/")).toBe("exact");
      expect(await ask("https://www.example.com/x?y")).toBe("glob");
      expect(await ask("https://other.example/")).toBe("all");
      expect(await ask("https://port.example:8443/")).toBe("port");
      expect(await ask("https://other.example:8443/")).toBe(403);
      // What is set for HTTPS is not for HTTP.
      expect(await ask("http://api.example.com/")).toBe(403);
    });
  });
});

describe("handleEgress", () => {
  const path = `http://worker/__caisson/egress/${NAME}`;
  const local = { ...env, CAISSON_ENGINE_URL: "http://engine", CAISSON_ENGINE_TOKEN: "t0ken" };

  it("leaves other paths alone and does not exist without an engine", async () => {
    expect(await handleEgress(new Request("http://worker/v1/sessions"), local)).toBeNull();
    expect((await handleEgress(new Request(path), env))?.status).toBe(404);
    expect((await handleEgress(new Request("http://worker/__caisson/egress/../x"), local))?.status ?? 404).toBe(404);
  });

  it("wants the sandbox's own token", async () => {
    for (const token of ["", "wrong", await egressToken("t0ken", "cd".repeat(32)), await egressToken("other", NAME)]) {
      const response = await handleEgress(new Request(path, { headers: { "x-caisson-egress-token": token } }), local);
      expect(response?.status).toBe(403);
    }
  });
});

describe("modelEgress", () => {
  it("puts the key in, drops what the sandbox sent, and goes nowhere but /v1/", async () => {
    const seen = network(() => new Response("data: x\n\n", { headers: { "content-type": "text/event-stream" } }));
    const request = new Request("http://api.anthropic.com/v1/messages?beta=true", {
      method: "POST",
      body: "{}",
      headers: { "x-api-key": "placeholder", authorization: "Bearer placeholder", "anthropic-version": "2023-06-01" },
    });
    const answer = await modelEgress(request, { ...env, ANTHROPIC_API_KEY: "sk-real" });
    expect(answer.headers.get("content-type")).toBe("text/event-stream");
    expect(seen[0]?.url).toBe("https://api.anthropic.com/v1/messages?beta=true");
    expect(seen[0]?.headers.get("x-api-key")).toBe("sk-real");
    expect(seen[0]?.headers.get("authorization")).toBeNull();
    expect(seen[0]?.headers.get("anthropic-version")).toBe("2023-06-01");
    for (const path of ["/api/hello", "/v1/../admin"]) {
      expect(
        (await modelEgress(new Request(`http://api.anthropic.com${path}`), { ...env, ANTHROPIC_API_KEY: "k" })).status,
      ).toBe(403);
    }
    expect(seen).toHaveLength(1);
  });

  it("gives each vendor its own key, and only to model calls", async () => {
    const seen = network(() => new Response("ok"));
    const keys = { ...env, ANTHROPIC_API_KEY: "ka", OPENAI_API_KEY: "ko", GEMINI_API_KEY: "kg" };
    const ask = (url: string): Promise<Response> =>
      modelEgress(new Request(url, { method: "POST", body: "{}", headers: { "x-goog-api-key": "placeholder" } }), keys);
    await ask("http://openai.model.caisson.internal/v1/responses");
    await ask("http://gemini.model.caisson.internal/v1beta/models/g-1:streamGenerateContent?alt=sse&key=placeholder");
    expect(seen.map(({ url }) => url)).toEqual([
      "https://api.openai.com/v1/responses",
      "https://generativelanguage.googleapis.com/v1beta/models/g-1:streamGenerateContent?alt=sse",
    ]);
    expect(seen.map(({ headers }) => [headers.get("authorization"), headers.get("x-goog-api-key")])).toEqual([
      ["Bearer ko", null],
      [null, "kg"],
    ]);
    for (const url of [
      "http://api.openai.com/v1/files",
      "http://api.anthropic.com/v1/files",
      "http://generativelanguage.googleapis.com/v1beta/files",
      "http://evil.example/v1/responses",
    ])
      expect((await ask(url)).status).toBe(403);
    expect(seen).toHaveLength(2);
  });

  it("without a key says so in the API's own form; with another upstream asks that", async () => {
    const seen = network(() => new Response("ok"));
    const none = await modelEgress(
      new Request("http://api.anthropic.com/v1/messages", { method: "POST", body: "{}" }),
      env,
    );
    expect(none.status).toBe(401);
    const body = (await none.json()) as { type: string; error: { type: string; message: string } };
    expect([body.type, body.error.type]).toEqual(["error", "authentication_error"]);
    expect(body.error.message).toContain("ANTHROPIC_API_KEY");
    await modelEgress(new Request("http://api.anthropic.com/v1/messages", { method: "POST", body: "{}" }), {
      ...env,
      ANTHROPIC_UPSTREAM: "http://127.0.0.1:9/base/",
    });
    expect(seen[0]?.url).toBe("http://127.0.0.1:9/base/v1/messages");
    expect(seen[0]?.headers.get("x-api-key")).toBeNull();
  });
});
