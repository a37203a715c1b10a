/**
 * The SDK as the tests see it: `sandbox("id").exec("echo hi")` makes that call in the test Worker and gives what it gave.
 * Sessions and processes are handles whose methods are calls too. What throws in the Worker throws here, as SDKError.
 */
import { connectSocket } from "./socket.mjs";

/** An error of the SDK: its class is `name`, its code `code`. */
export class SDKError extends Error {
  constructor({ name, message, code, httpStatus, context }, callbacks) {
    super(message);
    Object.assign(this, { name, code, httpStatus, context, callbacks });
  }
}

/** milliseconds: less than a test may take, so that a call which hangs fails its test and keeps nothing open. */
const CALL_MS = 110_000;

export const bytes = (data) => ({ $: "bytes", base64: Buffer.from(data).toString("base64") });
export const regexp = ({ source, flags }) => ({ $: "regexp", source, flags });
export const callback = (name) => ({ $: "callback", name });
export const signal = (afterMs) => ({ $: "signal", afterMs });
export const UNDEFINED = { $: "undefined" };
/** A ReadableStream made in the Worker: `chunks`, `times` over. */
export const stream = (chunks, times = 1) => ({
  $: "stream",
  base64: chunks.map((chunk) => Buffer.from(chunk).toString("base64")),
  times,
});

function encode(value) {
  if (value instanceof RegExp) return regexp(value);
  if (value instanceof Uint8Array) return bytes(value);
  if (Array.isArray(value)) return value.map(encode);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, encode(item)]));
}

function decode(value) {
  if (Array.isArray(value)) return value.map(decode);
  if (typeof value !== "object" || value === null) return value;
  if (value.$ === "date") return new Date(value.iso);
  if (value.$ === "bytes") return Buffer.from(value.base64, "base64");
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, decode(item)]));
}

/** A stream of server-sent events as the Worker passed it on: iterate it, or cancel it as a client that goes away. */
class Events {
  #response;
  #abort;
  constructor(response, abort) {
    this.#response = response;
    this.#abort = abort;
  }
  /** The raw bytes, chunk by chunk. */
  get body() {
    return this.#response.body;
  }
  cancel() {
    this.#abort.abort();
  }
  async *[Symbol.asyncIterator]() {
    const decoder = new TextDecoder();
    let text = "";
    try {
      for await (const chunk of this.#response.body) {
        text += decoder.decode(chunk, { stream: true });
        const blocks = text.split("\n\n");
        text = blocks.pop();
        for (const block of blocks) if (block.startsWith("data: ")) yield JSON.parse(block.slice(6));
      }
    } finally {
      this.cancel();
    }
  }
  /** All events to the end, or to the first for which `last` holds. */
  async all(last = () => false) {
    const events = [];
    for await (const event of this) {
      events.push(event);
      if (last(event)) break;
    }
    return events;
  }
}

const PROCESS = new Set(["startProcess", "getProcess"]);
const SESSION = new Set(["createSession", "getSession"]);
const VIEWS = new Set(["stream", "file", "digest", "events"]);

/** The SDK over the test Worker at `url`. */
export function sdk(url) {
  async function post(body, abort) {
    const response = await fetch(`${url}/call`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      signal: AbortSignal.any([AbortSignal.timeout(CALL_MS), ...(abort ? [abort.signal] : [])]),
    });
    if (response.headers.get("content-type") === "application/octet-stream") return new Events(response, abort);
    const text = await response.text();
    let answer;
    try {
      answer = JSON.parse(text);
    } catch {
      throw new Error(`the test Worker answered ${response.status}: ${text.slice(0, 500)}`);
    }
    if (answer.error) throw new SDKError(answer.error, answer.callbacks);
    return answer;
  }

  function handle(target, chain, as, own = {}) {
    const call = async (method, args) => {
      const abort = as === "stream" ? new AbortController() : undefined;
      const steps = [...chain, [method, ...encode(args)]];
      const answer = await post({ ...target, chain: steps, as: as ?? "json" }, abort);
      if (answer instanceof Events) return answer;
      const value = decode(answer.value);
      if (as === "events") return { events: value, callbacks: answer.callbacks };
      if (SESSION.has(method)) return handle(target, [...chain, ["getSession", value.id]], undefined, value);
      if (PROCESS.has(method) && value !== null)
        return handle(target, [...chain, ["getProcess", value.id]], undefined, {
          ...value,
          callbacks: answer.callbacks,
        });
      if (answer.callbacks?.length && typeof value === "object") return { ...value, callbacks: answer.callbacks };
      return value;
    };
    return new Proxy(own, {
      get(data, name) {
        if (typeof name === "symbol" || name === "then" || name === "toJSON") return undefined;
        if (name in data) return data[name];
        if (VIEWS.has(name)) return handle(target, chain, name);
        return (...args) => call(name, args);
      },
    });
  }

  return {
    url,
    /** A sandbox, as getSandbox(namespace, id, options) gives it. */
    sandbox: (id, options, namespace = "SANDBOX") => handle({ id, options, namespace }, []),
    /** A WebSocket of the Worker's route `path` with these parameters. */
    socket: (path, query, headers) => connectSocket(`${url}${path}?${new URLSearchParams(query)}`, { headers }),
  };
}
