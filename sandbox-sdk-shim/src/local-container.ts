/**
 * `ctx.container` for local development: the surface that the SDK and its Container class use, over the local engine's
 * loopback API (docs/DESIGN.md 11.3).
 *
 * The messages of thrown errors matter: the Container class tells "not listening yet", "exited with a code" and "will
 * never start" apart by their text, and the SDK repeats everything else for two minutes.
 */

import { EGRESS_PATH, EGRESS_URL_HEADER, egressToken } from "./egress.js";
import { bodyRefused, EgressServer } from "./egress-server.js";
import { OUT_HEADER } from "./way-out.js";

export interface LocalContainerConfig {
  /** Base URL of the engine. */
  readonly engineURL: string;
  readonly engineToken: string;
  /** URL under which the engine reaches the Worker. */
  readonly workerURL: string;
  /** Name of the sandbox in the engine: the Durable Object's id. */
  readonly name: string;
  /** The object's storage; what must be known synchronously after an eviction lives in its kv. */
  readonly kv: SyncKvStorage;
  /** Says in the Worker's log what nobody waits for. */
  readonly report: (what: string, error: unknown) => void;
}

interface StartConfig {
  readonly enableInternet?: boolean;
  readonly env?: Record<string, string>;
  readonly entrypoint?: string[];
  readonly labels?: Record<string, string>;
}

/** What is kept over an eviction. */
interface Persisted {
  readonly generation: string;
  readonly running: boolean;
}

interface Port {
  readonly port: number;
  readonly token: string;
}

/** Where the control server listens: what a start is followed by. */
const CONTROL_PORT = 3000;
const PORT_TOKEN_HEADER = "x-caisson-port-token";
const STATE_KEY = "caisson:container";
const TEMPLATE_KEY = "caisson:template";
const LIMITS_KEY = "caisson:limits";
const NOT_LISTENING = "the container is not listening";
/** The SDK answers at once, instead of trying for two minutes, when an error contains this text. */
const PERMANENT = "no container application assigned";
/** milliseconds: the engine is on this machine, so silence means that it is not there. */
const CONNECT_MS = 2_000;
/** milliseconds: a sandbox starts in well under a second; killing one may wait for its processes. */
const START_MS = 20_000;
/** items: attempts to reach an engine that went away while a sandbox was monitored; 3.5 s in all. */
const MONITOR_TRIES = 8;
/** milliseconds before the first of them, doubled up to the second: an engine that restarts has forgotten the sandbox, and
 * until that is known a caller's request goes nowhere. */
const MONITOR_FIRST_MS = 50;
const MONITOR_LAST_MS = 1_000;

export class LocalContainer {
  readonly #config: LocalContainerConfig;
  #generation: string | null = null;
  #running = false;
  #failure: string | null = null;
  /** Settles when the engine has answered the current start. */
  #starting: Promise<void> = Promise.resolve();
  readonly #ports = new Map<number, Port>();
  /** By "<host glob or address>[:port]" in lower case, as the SDK names it. */
  readonly #byHost = new Map<string, Fetcher>();
  readonly #byHTTPSHost = new Map<string, Fetcher>();
  #all: Fetcher | null = null;
  readonly #server = new EgressServer(
    () => egressToken(this.#config.engineToken, this.#config.name),
    async (request) => ({ response: await this.#outbound(request, { encodeResponseBody: "manual" }), watch: null }),
  );
  /** The interception set that the engine has, as JSON; null when that is not known. */
  #sentEgress: string | null = null;

  constructor(config: LocalContainerConfig) {
    this.#config = config;
    const kept = config.kv.get<Persisted>(STATE_KEY);
    if (kept !== undefined) {
      this.#running = kept.running;
      this.#generation = kept.generation;
    }
  }

  get running(): boolean {
    return this.#running;
  }

  /** Why the last start failed; null after one that did not. */
  get failure(): string | null {
    return this.#failure;
  }

  /** Tells one start of this sandbox from another; null before the first. */
  get generation(): string | null {
    return this.#generation;
  }

  /** Compares what storage remembers with what the engine knows; queued before the SDK's constructor runs. */
  async verify(): Promise<void> {
    if (!this.#running) return;
    try {
      const response = await this.#engine("GET", "", undefined, CONNECT_MS);
      const body =
        response.status === 404 ? null : ((await response.json()) as { running: boolean; generation: string | number });
      if (body?.running === true && String(body.generation) === this.#generation) return;
    } catch {
      // An engine that does not answer has no running sandbox that we could use.
    }
    this.#setState(false);
  }

  /** Starts the sandbox; as on the platform nothing is returned, and failure shows in monitor() and fetch(). */
  start(config: StartConfig = {}): void {
    if (this.#running) throw new Error("start() cannot be called on a container that is already running.");
    this.#running = true;
    this.#ports.clear();
    this.#starting = this.#start(config);
    this.#starting.catch(() => {});
  }

  async #start(config: StartConfig): Promise<void> {
    try {
      const egress = await this.#egressSet();
      const response = await this.#engine(
        "PUT",
        "",
        {
          env: config.env ?? {},
          entrypoint: config.entrypoint ?? [],
          labels: config.labels ?? {},
          template: this.#config.kv.get<string>(TEMPLATE_KEY) ?? null,
          at_most: this.#config.kv.get<Record<string, number>>(LIMITS_KEY) ?? null,
          enable_internet: config.enableInternet ?? false,
          egress,
          open_port: CONTROL_PORT,
        },
        START_MS,
      );
      const body = (await response.json()) as { generation: string | number } & Partial<Port>;
      this.#generation = String(body.generation);
      this.#setState(true);
      this.#failure = null;
      this.#sentEgress = JSON.stringify(egress);
      if (body.port !== undefined && body.token !== undefined)
        this.#ports.set(CONTROL_PORT, { port: body.port, token: body.token });
    } catch (error) {
      this.#setState(false);
      this.#failure = text(error).replace(` (${PERMANENT})`, "");
      throw error;
    }
  }

  /** The template of every start from now on. */
  setTemplate(name: string): void {
    this.#config.kv.put(TEMPLATE_KEY, name);
  }

  /** Limits of every start from now on, where the engine's own are not stricter. */
  setLimits(limits: { readonly [name: string]: number }): void {
    this.#config.kv.put(LIMITS_KEY, limits);
  }

  /** Resolves when the sandbox has ended with exit status 0, else rejects in the platform's words. */
  async monitor(): Promise<void> {
    await this.#starting;
    const generation = this.#generation;
    if (generation === null)
      throw new Error("there is no container instance that can be provided to this durable object");
    let misses = 0;
    for (;;) {
      let ended: { exit_code?: number | null; signal?: number | null; detail?: string } | null = null;
      try {
        const response = await this.#engine(
          "GET",
          `/wait?generation=${encodeURIComponent(generation)}`,
          undefined,
          null,
        );
        misses = 0;
        // 204 or 408: the engine bounds its long poll; 404: ended and forgotten.
        if (response.status === 204 || response.status === 408) continue;
        ended = response.status === 404 ? { exit_code: 137 } : await response.json();
      } catch (error) {
        misses += 1;
        if (misses >= MONITOR_TRIES) {
          if (this.#generation === generation) this.#setState(false);
          throw new Error(`there is no container instance that can be provided to this durable object: ${text(error)}`);
        }
        this.#ports.clear();
        const delay = Math.min(MONITOR_LAST_MS, MONITOR_FIRST_MS * 2 ** (misses - 1));
        await new Promise((resolve) => setTimeout(resolve, delay));
        continue;
      }
      if (this.#generation === generation) this.#setState(false);
      const code = ended?.exit_code ?? (ended?.signal ? 128 + ended.signal : 0);
      if (code === 0) return;
      // The SDK reads the number from the text's end.
      const why = ended?.detail === undefined ? "" : `${ended.detail.trim()}: `;
      throw new Error(`${why}container exited with unexpected exit code: ${code}`);
    }
  }

  async destroy(): Promise<void> {
    await this.#starting.catch(() => {});
    await this.#engine("DELETE", "", undefined, START_MS);
    this.#ports.clear();
    this.#setState(false);
  }

  signal(signal: number): void {
    if (!this.#running) throw new Error("signal() cannot be called on a container that is not running.");
    this.#starting
      .then(() => this.#engine("POST", "/signal", { signal }, CONNECT_MS))
      .catch((error) => this.#config.report("local engine: signal", error));
  }

  getTcpPort(port: number): { fetch(input: RequestInfo | URL, init?: RequestInit | Request): Promise<Response> } {
    return {
      fetch: (input, init) => this.#fetchPort(port, new Request(input, init as RequestInit)),
    };
  }

  async interceptOutboundHttp(host: string, fetcher: Fetcher): Promise<void> {
    this.#byHost.set(host.toLowerCase(), fetcher);
    await this.#sendEgress();
  }

  /** The engine ends TLS with an authority that the sandbox trusts. `host` "*": every host on port 443. */
  async interceptOutboundHttps(host: string, fetcher: Fetcher): Promise<void> {
    this.#byHTTPSHost.set(host.toLowerCase(), fetcher);
    await this.#sendEgress();
  }

  async interceptAllOutboundHttp(fetcher: Fetcher): Promise<void> {
    this.#all = fetcher;
    await this.#sendEgress();
  }

  /**
   * Answers an intercepted outbound request that the engine handed to the Worker. The caller has checked its token. `serves`: the
   * next ones the engine may hand to this object.
   */
  async egress(request: Request, serves: boolean): Promise<Response> {
    if (serves) this.#server.listen(request.headers.get(OUT_HEADER) ?? "");
    const url = URL.parse(request.headers.get(EGRESS_URL_HEADER) ?? "");
    if (url === null) return new Response("the egress request names no URL\n", { status: 400 });
    const headers = new Headers();
    for (const [name, value] of request.headers) {
      // The engine takes ours out of what the sandbox sent; the way out is its own word.
      if (!name.startsWith("x-caisson-") || name === OUT_HEADER) headers.append(name, value);
    }
    headers.delete("host");
    const { method, signal } = request;
    // A length of nothing is no body, whatever the server in front makes of it.
    const body = request.headers.get("content-length") === "0" ? null : request.body;
    const refusal = bodyRefused(method, body !== null);
    if (refusal !== null) {
      await body?.cancel();
      return refusal;
    }
    return await this.#outbound(new Request(url, { method, headers, body, redirect: "manual", signal }));
  }

  /** Gives a request to the handler that the SDK has registered for its host. */
  async #outbound(request: Request, how: RequestInit = {}): Promise<Response> {
    const url = new URL(request.url);
    const fetcher =
      url.protocol === "https:" ? find(this.#byHTTPSHost, url, "443") : (find(this.#byHost, url, "80") ?? this.#all);
    if (fetcher === null) return new Response(`no outbound handler for ${url.hostname}\n`, { status: 403 });
    return await fetcher.fetch(request, how);
  }

  async #egressSet(): Promise<{ url: string; token: string; hosts: string[]; https_hosts: string[]; all: boolean }> {
    return {
      url: `${this.#config.workerURL}${EGRESS_PATH}${this.#config.name}`,
      token: await egressToken(this.#config.engineToken, this.#config.name),
      hosts: [...this.#byHost.keys()].sort(),
      https_hosts: [...this.#byHTTPSHost.keys()].sort(),
      all: this.#all !== null,
    };
  }

  /** Tells a running sandbox about a changed interception set; a start sends the set itself. */
  async #sendEgress(): Promise<void> {
    if (!this.#running) return;
    await this.#starting;
    const set = await this.#egressSet();
    const json = JSON.stringify(set);
    if (json === this.#sentEgress) return;
    await this.#engine("PUT", "/egress", set, CONNECT_MS);
    this.#sentEgress = json;
  }

  async #fetchPort(port: number, request: Request): Promise<Response> {
    await this.#starting;
    if (!this.#running) throw new Error(`${NOT_LISTENING} in the TCP address 10.0.0.1:${port}`);
    const known = this.#ports.has(port);
    try {
      return await this.#forward(await this.#port(port), port, request);
    } catch (error) {
      this.#ports.delete(port);
      // A forwarding port dies with its sandbox. One more look-up tells whether the sandbox has a new one, but a body that
      // may have been read cannot be sent again.
      if (!known || request.body !== null || request.signal.aborted || text(error).includes(NOT_LISTENING)) throw error;
      return await this.#forward(await this.#port(port), port, request);
    }
  }

  async #forward(forward: Port, port: number, request: Request): Promise<Response> {
    const from = new URL(request.url);
    const headers = new Headers(request.headers);
    headers.set(PORT_TOKEN_HEADER, forward.token);
    const response = await fetch(`http://127.0.0.1:${forward.port}${from.pathname}${from.search}`, {
      method: request.method,
      headers,
      body: request.body,
      redirect: "manual",
      signal: request.signal,
    });
    // The engine's own refusal, told from a 502 of the program in the sandbox by its text.
    if (response.status === 502 && Number(response.headers.get("content-length") ?? "1000") < 200) {
      const body = await response.text();
      if (body.includes(NOT_LISTENING)) throw new Error(`${NOT_LISTENING} in the TCP address 10.0.0.1:${port}`);
      return new Response(body, response);
    }
    return response;
  }

  async #port(port: number): Promise<Port> {
    const cached = this.#ports.get(port);
    if (cached !== undefined) return cached;
    const response = await this.#engine("GET", `/ports/${port}`, undefined, CONNECT_MS);
    // It ended meanwhile: a caller that starts it again is well served, so this is no permanent error.
    if (response.status === 404 || response.status === 409) {
      await response.body?.cancel();
      this.#setState(false);
      throw new Error(`${NOT_LISTENING} in the TCP address 10.0.0.1:${port}`);
    }
    const found = (await response.json()) as Port;
    this.#ports.set(port, found);
    return found;
  }

  #setState(running: boolean): void {
    this.#running = running;
    if (!running) {
      this.#ports.clear();
      this.#sentEgress = null;
    }
    this.#config.kv.put(STATE_KEY, { generation: this.#generation ?? "", running } satisfies Persisted);
  }

  /** One call of the engine's API about this sandbox. Answers 2xx, 404 and 408, and 409 about a port; throws for everything else. */
  async #engine(method: string, path: string, body: unknown, timeoutMs: number | null): Promise<Response> {
    const { engineURL, engineToken, name } = this.#config;
    let response: Response;
    try {
      response = await fetch(`${engineURL}/v1/sandboxes/${name}${path}`, {
        method,
        headers: { authorization: `Bearer ${engineToken}`, "content-type": "application/json" },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        ...(timeoutMs === null ? {} : { signal: AbortSignal.timeout(timeoutMs) }),
      });
    } catch (cause) {
      throw new Error(`the local engine at ${engineURL} does not answer: run \`make dev\` (${PERMANENT})`, { cause });
    }
    if (response.ok || response.status === 404 || response.status === 408) return response;
    if (response.status === 409 && path.startsWith("/ports/")) return response;
    const answer = await response.text();
    throw new Error(
      `the local engine answered ${response.status} to ${method} ${path || "/"}: ${messageOf(answer)} (${PERMANENT})`,
    );
  }
}

/** The handler for a URL: of its exact host, else of the longest glob that covers it. */
function find(handlers: ReadonlyMap<string, Fetcher>, url: URL, usualPort: string): Fetcher | null {
  const host = url.hostname.replace(/\.+$/, "").toLowerCase();
  const port = url.port || usualPort;
  const exact = handlers.get(`${host}:${port}`) ?? (port === usualPort ? handlers.get(host) : undefined);
  if (exact !== undefined) return exact;
  let best: [number, Fetcher] | null = null;
  for (const [pattern, fetcher] of handlers) {
    const [, glob = "", at = usualPort] = /^(.*?)(?::(\d+))?$/.exec(pattern) ?? [];
    if (at !== port || !glob.includes("*") || glob.length <= (best?.[0] ?? -1)) continue;
    const like = glob.split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"));
    if (new RegExp(`^${like.join(".*")}$`).test(host)) best = [glob.length, fetcher];
  }
  return best?.[1] ?? null;
}

/** The sentence in an error of the engine, else the answer as it is. */
function messageOf(answer: string): string {
  let message: unknown;
  try {
    message = (JSON.parse(answer) as { error?: { message?: unknown } }).error?.message;
  } catch {
    message = undefined;
  }
  return (typeof message === "string" ? message : answer).slice(0, 800);
}

function text(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
