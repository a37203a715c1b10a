/** What JSON cannot say between a test and its Worker: bytes, dates, patterns, streams, callbacks, signals; and errors. */

/** One call of a callback that a test handed to the SDK. */
export interface Callback {
  readonly name: string;
  readonly args: unknown[];
}

type Tagged =
  | { $: "bytes"; base64: string }
  | { $: "date"; iso: string }
  | { $: "regexp"; source: string; flags: string }
  | { $: "stream"; base64: string[]; times?: number }
  | { $: "callback"; name: string }
  | { $: "signal"; afterMs: number }
  | { $: "undefined" };

const bytesOf = (base64: string): Uint8Array<ArrayBuffer> => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

/** An argument as the SDK takes it. Calls of its callbacks are appended to `callbacks`. */
export function decode(value: unknown, callbacks: Callback[]): unknown {
  if (Array.isArray(value)) return value.map((item) => decode(item, callbacks));
  if (typeof value !== "object" || value === null) return value;
  if (!("$" in value))
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, decode(item, callbacks)]));
  const tagged = value as Tagged;
  switch (tagged.$) {
    case "bytes":
      return bytesOf(tagged.base64);
    case "date":
      return new Date(tagged.iso);
    case "regexp":
      return new RegExp(tagged.source, tagged.flags);
    case "stream": {
      const chunks = Array.from({ length: tagged.times ?? 1 }, () => tagged.base64).flat();
      return new ReadableStream({
        type: "bytes",
        pull(controller: ReadableByteStreamController) {
          const next = chunks.shift();
          if (next === undefined) controller.close();
          else controller.enqueue(bytesOf(next));
        },
      });
    }
    case "callback":
      return (...args: unknown[]) => {
        callbacks.push({ name: tagged.name, args: args.map(encode) });
      };
    case "signal":
      return tagged.afterMs === 0 ? AbortSignal.abort() : AbortSignal.timeout(tagged.afterMs);
    case "undefined":
      return undefined;
  }
}

/** A result as JSON. Methods of a result are left out. */
export function encode(value: unknown): unknown {
  if (value instanceof Date) return { $: "date", iso: value.toISOString() };
  if (value instanceof Uint8Array) return { $: "bytes", base64: Buffer.from(value).toString("base64") };
  if (value instanceof Error) return errorOf(value);
  if (value instanceof ReadableStream) return { $: "stream" };
  if (Array.isArray(value)) return value.map(encode);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, item]) => typeof item !== "function")
      .map(([key, item]) => [key, encode(item)]),
  );
}

/** All that a Worker can tell about an error that the SDK threw. */
export function errorOf(error: unknown): Record<string, unknown> {
  if (!(error instanceof Error)) return { name: "not an Error", message: String(error) };
  const response = (error as { errorResponse?: Record<string, unknown> }).errorResponse;
  return {
    name: error.name,
    message: error.message,
    code: response?.["code"] ?? (error as { code?: unknown }).code,
    httpStatus: response?.["httpStatus"],
    context: response?.["context"],
  };
}
