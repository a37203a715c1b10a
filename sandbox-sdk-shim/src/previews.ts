/** Ports of a sandbox that have a preview URL: the SDK's exposed ports, and until when each of them is one. */
import { LIMITS } from "../../worker/src/limits.js";
import type { PortView } from "../../worker/src/session/api.js";
import { PreviewConnections } from "./preview-connections.js";

/** Marks a request that comes through a preview URL, and says for which port; `proxyToSandbox` sets both. */
export const PREVIEW_HEADER = "x-sandbox-preview-proxy";
const PORT_HEADER = "x-sandbox-preview-port";
const KEY = "caisson:previews";

interface Kept {
  readonly name: string | null;
  readonly createdMs: number;
  readonly expiresMs: number;
}

/** What the SDK's class does for this. */
export interface SDKPorts {
  exposePort(port: number, options: { hostname: string; name?: string }): Promise<{ url: string }>;
  unexposePort(port: number): Promise<void>;
  getExposedPorts(hostname: string): Promise<{ port: number; url: string }[]>;
  isPortExposed(port: number): Promise<boolean>;
  validatePortToken(port: number, token: string): Promise<boolean>;
}

/** `unknown`: there is no such port, the token is wrong or the time is over; `over`: the sandbox has stopped. */
export type PreviewVerdict = "open" | "unknown" | "over";

export class Previews {
  readonly #sdk: SDKPorts;
  readonly #kv: SyncKvStorage;
  readonly #connections = new PreviewConnections();

  constructor(sdk: SDKPorts, kv: SyncKvStorage) {
    this.#sdk = sdk;
    this.#kv = kv;
  }

  #kept(): Record<string, Kept> {
    return this.#kv.get<Record<string, Kept>>(KEY) ?? {};
  }

  /** Takes away what has expired, so that opening the port again gives another token. */
  async #expire(): Promise<void> {
    const now = Date.now();
    for (const [port, { expiresMs }] of Object.entries(this.#kept()))
      if (expiresMs <= now) await this.close(Number(port));
  }

  /** The port's preview; one that it has already stays, with another name and end. Null when there are too many. */
  async open(port: number, hostname: string, name: string | null, expiresMs: number): Promise<PortView | null> {
    await this.#expire();
    const kept = this.#kept();
    if (kept[port] === undefined && Object.keys(kept).length >= LIMITS.PORTS_MAX) return null;
    const createdMs = kept[port]?.createdMs ?? Date.now();
    const entry = { name, createdMs, expiresMs };
    // Kept first: a port that is exposed and not kept would have no end.
    this.#kv.put(KEY, { ...this.#kept(), [port]: entry });
    const { url } = await this.#sdk.exposePort(port, { hostname, ...(name === null ? {} : { name }) });
    return view(port, entry, url);
  }

  async list(hostname: string): Promise<PortView[]> {
    await this.#expire();
    const kept = this.#kept();
    const exposed = await this.#sdk.getExposedPorts(hostname);
    return exposed.flatMap(({ port, url }) => {
      const entry = kept[port];
      return entry === undefined ? [] : [view(port, entry, url)];
    });
  }

  /** False when the port had no preview. */
  async close(port: number): Promise<boolean> {
    if (this.#kept()[port] === undefined) return false;
    await this.#sdk.unexposePort(port);
    const { [port]: _, ...others } = this.#kept();
    this.#kv.put(KEY, others);
    return true;
  }

  /** Answers a request of a preview URL by `ask`, which checks it; rejects with a Cut when the port is closed meanwhile. */
  async serve(request: Request, ask: (request: Request) => Promise<Response>): Promise<Response> {
    const port = Number(request.headers.get(PORT_HEADER));
    // A port that the SDK exposed and nobody opened here has no end.
    const untilMs = (): number => this.#kept()[port]?.expiresMs ?? Number.POSITIVE_INFINITY;
    return await this.#connections.serve(port, untilMs, request, ask);
  }

  /** Ends what is under way on a port, or on all of them. */
  cut(port: number | null, reason: string): void {
    this.#connections.cut(port, reason);
  }

  /** Looks without starting or storing anything: whoever knows a name may ask. */
  async verdict(port: number, token: string): Promise<PreviewVerdict> {
    const entry = this.#kept()[port];
    if (entry === undefined || entry.expiresMs <= Date.now()) return "unknown";
    if (!(await this.#sdk.validatePortToken(port, token))) return "unknown";
    return (await this.#sdk.isPortExposed(port)) ? "open" : "over";
  }
}

function view(port: number, { name, createdMs, expiresMs }: Kept, url: string): PortView {
  const time = (ms: number): string => new Date(ms).toISOString();
  return { port, name, url, created_at: time(createdMs), expires_at: time(expiresMs) };
}
