/**
 * Outbound requests of a local sandbox, taken straight from the engine: connections that an object opens to the engine's
 * door (engine/out.c) and on which the engine then asks (engine/idle.c), one request after the other. The object is the
 * session's, where the verdict is; that of a sandbox without a session is its own. The server that `wrangler dev` has in
 * front of a Worker, and each call from object to object, cost more than all that is done for a request behind them; they
 * are left with the first request of a sandbox, with WebSockets, and with what comes while no connection is free.
 *
 * The engine writes what comes here anew (engine/relay.c), strictly HTTP/1.1; this reads no more than that.
 */
import { connect } from "cloudflare:sockets";
import { EGRESS_TOKEN_HEADER, EGRESS_URL_HEADER, sameToken } from "./egress.js";
import { lengthOf, pump, type Watch } from "./watched.js";
import { ADDRESS, OUT_HEADER } from "./way-out.js";

/** items: connections that wait for a request, and connections in all. */
const WAITING = 4;
const OPEN_MAX = 64;
/** bytes read at a time. */
const PIECE = 65_536;
/** bytes of a head; the engine's own bound is 61,440. */
const HEAD_MAX = 65_536;
/** milliseconds that a body has to be read in when the answer is whole already. */
const BODY_MS = 5_000;
const UTF8 = new TextDecoder();
const TEXT = new TextEncoder();
/** Said by the framing that is written here, and what the engine says to the Worker alone. */
const DROPPED = new Set(["connection", "content-length", "keep-alive", "transfer-encoding", ADDRESS]);

/** What to answer. */
export interface Answer {
  readonly response: Response;
  /** Told of the body as it passes. */
  readonly watch: Watch | null;
}

/** Gets what the program asked for, with the engine's word of its door (OUT_HEADER). */
type Handler = (request: Request) => Promise<Answer>;

export class EgressServer {
  readonly #token: () => Promise<string>;
  readonly #handler: Handler;
  #door = "";
  #waiting = 0;
  #open = 0;

  /** `token`: of the sandbox (egress.ts `egressToken`); a request that has another one gets no further. */
  constructor(token: () => Promise<string>, handler: Handler) {
    this.#token = token;
    this.#handler = handler;
  }

  /** `out`: what the engine says of its door with every request (OUT_HEADER); there are connections to it from then on. */
  listen(out: string): void {
    const door = /^\d{1,5} [!-~]+/.exec(out)?.[0];
    if (door === undefined) return;
    if (door !== this.#door) {
      // The sandbox was started anew; connections to the door it had end by themselves.
      this.#door = door;
      this.#waiting = 0;
    }
    while (this.#waiting < WAITING && this.#open < OPEN_MAX) {
      this.#waiting += 1;
      this.#open += 1;
      void this.#serve(door);
    }
  }

  async #serve(door: string): Promise<void> {
    const [port = "", token = ""] = door.split(" ");
    const socket = connect({ hostname: "127.0.0.1", port: Number(port) });
    socket.closed.catch(() => {});
    let waits = true;
    const wait = (on: boolean): void => {
      if (waits === on) return;
      waits = on;
      if (door === this.#door) this.#waiting += on ? 1 : -1;
    };
    const input = new Input(socket.readable);
    const output = socket.writable.getWriter();
    try {
      const hello = `GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Caisson-Out-Token: ${token}\r\nX-Caisson-Out-Serve: 1\r\n\r\n`;
      await output.write(TEXT.encode(hello));
      for (let head = await input.head(); head !== null; head = await input.head()) {
        if (head.startsWith("HTTP/")) throw new Error("the engine refuses the connection");
        wait(false);
        this.listen(door === this.#door ? door : "");
        await this.#answer(head, input, output);
        wait(true);
      }
    } catch {
      // The engine has ended it, or the answer cannot be completed: it must not be taken for whole.
    } finally {
      wait(false);
      this.#open -= 1;
      await socket.close().catch(() => {});
    }
  }

  async #answer(head: string, input: Input, to: WritableStreamDefaultWriter<Uint8Array>): Promise<void> {
    const gone = new AbortController();
    const asked = read(head, input, gone);
    const { request } = asked;
    const right = sameToken(asked.token, await this.#token());
    const answer = right && request !== null ? await this.#handler(request) : refusal(right, asked.refused);
    await write(to, answer, asked.method === "HEAD");
    if (asked.drop === null) return;
    // The engine waits for nothing more: what nobody reads must not keep the connection from the next request.
    const timer = setTimeout(asked.drop, request?.bodyUsed ? BODY_MS : 0);
    try {
      await asked.over;
    } finally {
      clearTimeout(timer);
    }
  }
}

/** The answer to a request that fetch() cannot pass on, as its method has no body there; null to every other. */
export function bodyRefused(method: string, hasBody: boolean): Response | null {
  if (!hasBody || (method !== "GET" && method !== "HEAD")) return null;
  const why = `a ${method} request with a body cannot be passed on: send it without the body, or with another method\n`;
  return new Response(why, { status: 400 });
}

function refusal(right: boolean, refused: Response | null): Answer {
  if (right && refused !== null) return { response: refused, watch: null };
  const [text, status] = right ? ["the egress request names no URL\n", 400] : ["forbidden\n", 403];
  return { response: new Response(text, { status }), watch: null };
}

interface Asked {
  readonly method: string;
  /** As the program made it, without what the engine says but of its door. Null: it names no URL, or is `refused`. */
  readonly request: Request | null;
  /** What to answer instead of asking the handler. */
  readonly refused: Response | null;
  readonly token: string;
  /** Settles when the request's body has come, read by somebody or not. */
  readonly over: Promise<void>;
  /** From now on the body is for nobody; null where there is none. */
  readonly drop: (() => void) | null;
}

/** `gone` is aborted when the engine goes away before the answer is whole. */
function read(head: string, input: Input, gone: AbortController): Asked {
  const [first = "", ...lines] = head.split("\r\n");
  const [method = ""] = first.split(" ", 1);
  const headers = new Headers();
  let token = "";
  let url: URL | null = null;
  let chunked = false;
  for (const line of lines) {
    const colon = line.indexOf(":");
    const name = line.slice(0, colon).toLowerCase();
    const value = line.slice(colon + 1).trim();
    // The engine takes ours out of what the sandbox sent: these are its own words.
    if (name === EGRESS_TOKEN_HEADER) token = value;
    else if (name === EGRESS_URL_HEADER) url = URL.parse(value);
    else if (name === "transfer-encoding") chunked = value === "chunked";
    else if (name === OUT_HEADER || !(name === "host" || name.startsWith("x-caisson-"))) headers.append(name, value);
  }
  const length = chunked ? null : Number(headers.get("content-length") ?? "0");
  const refused = bodyRefused(method, length !== 0);
  let body: ReadableStream<Uint8Array> | null = null;
  let over = Promise.resolve();
  let drop: (() => void) | null = null;
  if (length !== 0) {
    const { readable, writable } = length === null ? new IdentityTransformStream() : new FixedLengthStream(length);
    const writer = writable.getWriter();
    body = readable;
    over = pass(input, length, writer);
    drop = () => void writer.abort(new Error("nobody reads it")).catch(() => {});
  }
  const abort = (error: unknown): void => gone.abort(error);
  // Nothing comes before the answer is whole: the end of the connection alone can.
  over.then(() => input.ahead()).then((more) => more || abort(new Error("the program went away")), abort);
  const init: RequestInit = { method, headers, body, redirect: "manual", signal: gone.signal };
  const request = url === null || refused !== null ? null : new Request(url, init);
  return { method, request, refused, token, over, drop };
}

/**
 * The request's body; without a length in chunks, as the engine writes them. What is not wanted is read all the same: the next
 * request comes behind it.
 */
async function pass(input: Input, length: number | null, to: WritableStreamDefaultWriter<Uint8Array>): Promise<void> {
  let wanted = true;
  const unwanted = (): void => {
    wanted = false;
  };
  try {
    for (let first = true; ; first = false) {
      if (length === null && !first) await input.line();
      let left = length ?? Number.parseInt(await input.line(), 16);
      if (Number.isNaN(left)) throw new Error("not a chunk");
      if (left === 0) await input.line();
      if (left === 0) break;
      while (left > 0) {
        const piece = await input.some(left);
        left -= piece.byteLength;
        if (wanted) await to.write(piece).catch(unwanted);
      }
      if (length !== null) break;
    }
    if (wanted) await to.close().catch(unwanted);
  } catch (error) {
    await to.abort(error).catch(() => {});
    throw error;
  }
}

async function write(
  to: WritableStreamDefaultWriter<Uint8Array>,
  { response, watch }: Answer,
  headOnly: boolean,
): Promise<void> {
  const { status, statusText, headers, body } = response;
  const none = headOnly || body === null;
  const length = lengthOf(headers);
  let head = `HTTP/1.1 ${status} ${statusText}\r\n`;
  for (const [name, value] of headers) if (!DROPPED.has(name)) head += `${name}: ${value}\r\n`;
  if (length !== null) head += `Content-Length: ${length}\r\n`;
  else if (!none) head += "Transfer-Encoding: chunked\r\n";
  else if (!headOnly && status !== 204 && status !== 304) head += "Content-Length: 0\r\n";
  const begun = to.write(TEXT.encode(`${head}\r\n`));
  // What the head fails with, all that follows it does.
  begun.catch(() => {});
  if (none) {
    await body?.cancel();
    await watch?.over();
    return await begun;
  }
  const chunked = (piece: Uint8Array): Promise<void> => to.write(piece.byteLength === 0 ? piece : chunk(piece));
  const whole = (piece: Uint8Array): Promise<void> => to.write(piece);
  await pump(body, length, watch ?? UNWATCHED, length === null ? chunked : whole);
  if (length === null) await to.write(TEXT.encode("0\r\n\r\n"));
}

const UNWATCHED: Watch = { see: () => {}, over: async () => {} };

function chunk(piece: Uint8Array): Uint8Array {
  const size = TEXT.encode(`${piece.byteLength.toString(16)}\r\n`);
  const framed = new Uint8Array(size.byteLength + piece.byteLength + 2);
  framed.set(size);
  framed.set(piece, size.byteLength);
  framed.set([13, 10], size.byteLength + piece.byteLength);
  return framed;
}

/** What the engine has written, in order. */
class Input {
  readonly #from: ReadableStreamBYOBReader;
  #have: Buffer = Buffer.alloc(0);
  #reading: Promise<boolean> | null = null;

  constructor(from: ReadableStream<Uint8Array>) {
    this.#from = from.getReader({ mode: "byob" });
  }

  /** Waits for more than there is; false at the end. */
  ahead(): Promise<boolean> {
    this.#reading ??= this.#read().finally(() => {
      this.#reading = null;
    });
    return this.#reading;
  }

  async #read(): Promise<boolean> {
    const { value, done } = await this.#from.read(new Uint8Array(PIECE));
    if (done || value === undefined || value.byteLength === 0) return false;
    const piece = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
    this.#have = this.#have.byteLength === 0 ? piece : Buffer.concat([this.#have, piece]);
    return true;
  }

  /** The next request's head without its empty line; null when there is none. */
  async head(): Promise<string | null> {
    for (;;) {
      const end = this.#have.indexOf("\r\n\r\n");
      if (end >= 0) return this.#text(end, 4);
      if (this.#have.byteLength > HEAD_MAX) throw new Error("the head is too long");
      if (!(await this.ahead())) return null;
    }
  }

  async line(): Promise<string> {
    for (;;) {
      const end = this.#have.indexOf("\r\n");
      if (end >= 0) return this.#text(end, 2);
      if (!(await this.ahead())) throw new Error("cut short");
    }
  }

  /** At least one byte of the next `max`. */
  async some(max: number): Promise<Uint8Array> {
    while (this.#have.byteLength === 0) if (!(await this.ahead())) throw new Error("cut short");
    return this.#take(max);
  }

  #text(length: number, skip: number): string {
    const text = UTF8.decode(this.#take(length));
    this.#take(skip);
    return text;
  }

  #take(max: number): Uint8Array {
    const taken = this.#have.subarray(0, max);
    this.#have = this.#have.subarray(max);
    return taken;
  }
}
