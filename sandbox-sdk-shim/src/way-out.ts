/**
 * How an allowed request gets to its host. In production by `fetch`: Workers reach the public internet only. Locally a
 * `fetch` of the Workers runtime would look the name up by itself and connect to whatever address it then has, this
 * machine's and its network's included; so the request goes through the engine, which looks the name up once and connects
 * to exactly the address that was checked (engine/out.c).
 */
import type { Env } from "../../worker/src/env.js";

/**
 * `<port> <token>` of the engine's door for this sandbox; the engine puts it on every request that it hands over. A third word is
 * the address of a connection to the request's host that waits to be used again.
 */
export const OUT_HEADER = "x-caisson-out";
const TOKEN = "x-caisson-out-token";
const URL_HEADER = "x-caisson-out-url";
/** Whoever asks for a WebSocket is told of its end by this name: the number of the entry in the session's log. */
const ENTRY = "x-caisson-out-entry";
const RESOLVE = "x-caisson-out-resolve";
/** Says in a request which address it must be, in its answer which it was; nobody else's business. */
export const ADDRESS = "x-caisson-out-address";
const ADDRESSES = "x-caisson-out-addresses";
const ERROR = "x-caisson-out-error";

/** No address of the host may be connected to; `address` is one of them. */
export class AddressRefused extends Error {
  readonly address: string;

  constructor(address: string) {
    super(`the host's address ${address} is not on the internet`);
    this.address = address;
  }
}

export interface WayOut {
  /** The address of a connection to the request's host that could be used again; null for none. */
  readonly open: string | null;
  /** Every address of a name; null where that is not for us to know. */
  addresses(host: string): Promise<readonly string[] | null>;
  /**
   * `judged`: connect to that address and no other. `entry`: of the session's log, where the bytes of a WebSocket go when it has
   * ended. Throws AddressRefused, and an Error in words for a host that does not answer.
   */
  send(
    request: Outgoing,
    judged: string | null,
    entry: number,
  ): Promise<{ response: Response; address: string | null }>;
}

/** A request as it goes on. */
export interface Outgoing {
  readonly url: string;
  readonly method: string;
  readonly headers: Headers;
  readonly body: BodyInit | null;
  readonly signal: AbortSignal;
}

/** A redirect is the program's to follow, and a body passes as the host encoded it. */
const AS_IT_COMES = { redirect: "manual", encodeResponseBody: "manual" } as const;

/** What the engine says of its door with the request; null where there is no engine, whatever the request says. */
export function doorOf(request: Request, env: Env): string | null {
  if (env.CAISSON_ENGINE_URL === undefined || env.CAISSON_ENGINE_URL === "") return null;
  return request.headers.get(OUT_HEADER);
}

/** `request`: as it came from the sandbox. */
export function wayOut(request: Request, env: Env): WayOut {
  if (env.CAISSON_ENGINE_URL === undefined || env.CAISSON_ENGINE_URL === "") return platform;
  const [port = "", token = "", open = null] = (doorOf(request, env) ?? "").split(" ");
  if (!/^\d{1,5}$/.test(port) || token === "") throw new Error("the engine gave no way out: rebuild it (make build)");
  return new Door(`http://127.0.0.1:${port}`, token, open);
}

const platform: WayOut = {
  open: null,
  addresses: async () => null,
  send: async ({ url, ...request }) => ({ response: await fetch(url, { ...request, ...AS_IT_COMES }), address: null }),
};

class Door implements WayOut {
  readonly #url: string;
  readonly #token: string;
  readonly open: string | null;

  constructor(url: string, token: string, open: string | null) {
    this.#url = url;
    this.#token = token;
    this.open = open;
  }

  async addresses(host: string): Promise<readonly string[]> {
    const headers = { [TOKEN]: this.#token, [URL_HEADER]: `http://${host}/`, [RESOLVE]: "1" };
    const response = await fetch(this.#url, { headers });
    const list = response.headers.get(ADDRESSES);
    if (response.status !== 200 || list === null) throw new Error(`the engine does not look up ${host}`);
    return list === "" ? [] : list.split(",");
  }

  async send(
    { url, headers, ...request }: Outgoing,
    judged: string | null,
    entry: number,
  ): Promise<{ response: Response; address: string | null }> {
    headers.set(TOKEN, this.#token);
    headers.set(URL_HEADER, url.replace(/#.*$/s, ""));
    if (judged !== null) headers.set(ADDRESS, judged);
    if (headers.has("upgrade")) headers.set(ENTRY, String(entry));
    const answered = await fetch(this.#url, { headers, ...request, ...AS_IT_COMES });
    const address = answered.headers.get(ADDRESS);
    const error = answered.headers.get(ERROR);
    if (error === "ADDRESS_NOT_ALLOWED") throw new AddressRefused(address ?? "");
    if (error !== null) {
      const { error: why } = (await answered.json()) as { error: { message: string } };
      throw new Error(why.message);
    }
    return { response: answered, address };
  }
}
