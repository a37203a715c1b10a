/** Outbound requests that the engine hands straight to the object: what is left of a body, and bodies that cannot pass. */
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

const HELLO = /^GET \/ HTTP\/1\.1\r\n.*\r\nX-Caisson-Out-Serve: 1\r\n\r\n$/s;
const TOKEN = "0".repeat(64);
const TEXT = new TextEncoder();

/** The engine's end of one connection. */
class Engine {
  readonly #in = new IdentityTransformStream();
  readonly #out = new IdentityTransformStream();
  readonly #writer = this.#in.writable.getWriter();
  readonly #reader = this.#out.readable.getReader();
  #got = "";
  #ended = false;
  #close: () => void = () => {};
  readonly closed = new Promise<void>((resolve) => {
    this.#close = resolve;
  });

  get socket(): unknown {
    return {
      readable: this.#in.readable,
      writable: this.#out.writable,
      closed: this.closed,
      close: async () => this.#close(),
    };
  }

  constructor() {
    void this.#read().catch(() => {});
  }

  async #read(): Promise<void> {
    const utf8 = new TextDecoder();
    for (let { value } = await this.#reader.read(); value !== undefined; { value } = await this.#reader.read())
      this.#got += utf8.decode(value, { stream: true });
    this.#ended = true;
  }

  /** Sends as long as the other side reads. */
  say(text: string): Promise<void> {
    return this.#writer.write(TEXT.encode(text));
  }

  /** All that came since the last call, when it ends like this. */
  async got(end: RegExp): Promise<string> {
    await vi.waitFor(() => {
      if (this.#ended || !end.test(this.#got)) throw new Error(JSON.stringify(this.#got));
    }, 5_000);
    const all = this.#got;
    this.#got = "";
    return all;
  }

  end(): void {
    void this.#writer.close().catch(() => {});
  }
}

const engines: Engine[] = [];
vi.mock("cloudflare:sockets", () => ({
  connect: () => {
    const engine = new Engine();
    engines.push(engine);
    return engine.socket;
  },
}));

// The Worker has it loaded already, with the real connect().
beforeEach(() => {
  vi.resetModules();
});
afterEach(() => {
  for (const engine of engines.splice(0)) engine.end();
});

async function serving(handler: (request: Request) => Promise<Response>): Promise<Engine> {
  const { EgressServer } = await import("../../sandbox-sdk-shim/src/egress-server.js");
  new EgressServer(
    async () => TOKEN,
    async (request) => ({ response: await handler(request), watch: null }),
  ).listen("4711 token");
  const [engine] = engines;
  if (engine === undefined) throw new Error("no connection");
  await engine.got(HELLO);
  return engine;
}

const head = (method: string, framing: string, path = "/"): string =>
  `${method} /egress HTTP/1.1\r\nX-Caisson-Egress-Token: ${TOKEN}\r\nX-Caisson-Egress-URL: http://any.example${path}\r\n${framing}\r\n\r\n`;
const post = (length: number, path?: string): string => head("POST", `Content-Length: ${length}`, path);

describe("a request's body", () => {
  it("that nobody reads does not hold the connection, whatever its size", async () => {
    const engine = await serving(async () => new Response("no\n", { status: 403, headers: { "content-length": "3" } }));
    for (const length of [1, 70_000, 3_000_000]) {
      const said = engine.say(post(length) + "x".repeat(length));
      expect(await engine.got(/\r\n\r\nno\n$/)).toMatch(/^HTTP\/1\.1 403 /);
      await said;
    }
    const chunk = `10000\r\n${"x".repeat(65_536)}\r\n`;
    const said = engine.say(`${head("POST", "Transfer-Encoding: chunked")}${chunk.repeat(5)}0\r\n\r\n`);
    expect(await engine.got(/\r\n\r\nno\n$/)).toMatch(/^HTTP\/1\.1 403 /);
    await said;
  });

  it("that somebody begins to read and leaves does not hold it, either", async () => {
    const engine = await serving(async (request) => {
      const reader = request.body?.getReader();
      await reader?.read();
      await reader?.cancel();
      return new Response("enough\n");
    });
    for (let i = 0; i < 2; i += 1) {
      const said = engine.say(post(300_000) + "x".repeat(300_000));
      await engine.got(/enough\n\r\n0\r\n\r\n$/);
      await said;
    }
  });

  it("is whole for who reads it, and the next request comes behind it", async () => {
    const engine = await serving(async (request) => {
      const { length } = await request.text();
      return new Response(`${new URL(request.url).pathname} ${length}\n`);
    });
    void engine.say(`${post(200_000, "/one")}${"x".repeat(200_000)}${post(3, "/two")}abc`);
    await engine.got(/\/one 200000\n\r\n0\r\n\r\n.*\/two 3\n\r\n0\r\n\r\n$/s);
  });

  it("of a connection that ends is not taken for whole", async () => {
    let failed: unknown;
    const engine = await serving(async (request) => {
      await request.text().catch((error) => {
        failed = error;
      });
      return new Response("read\n");
    });
    await engine.say(`${post(10)}abc`);
    engine.end();
    await engine.closed;
    expect(String(failed)).toContain("cut short");
  });

  it("with a method that has none in fetch() is refused in words; without one the method passes", async () => {
    let asked = 0;
    const engine = await serving(async (request) => {
      asked += 1;
      return new Response(`${request.method}\n`);
    });
    const said = engine.say(`${head("GET", "Content-Length: 70000")}${"x".repeat(70_000)}`);
    expect(await engine.got(/method\n\r\n0\r\n\r\n$/)).toMatch(/^HTTP\/1\.1 400 .*a GET request with a body cannot/s);
    await said;
    void engine.say(`${head("HEAD", "Transfer-Encoding: chunked")}1\r\nx\r\n0\r\n\r\n`);
    expect(await engine.got(/\r\n\r\n$/)).toMatch(/^HTTP\/1\.1 400 /);
    expect(asked).toBe(0);
    void engine.say(head("GET", "Content-Length: 0"));
    await engine.got(/GET\n\r\n0\r\n\r\n$/);
  });
});
