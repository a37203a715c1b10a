/** Bodies on their way through, looked at. */

/** bytes read at a time: the runtime's own pipes hand JavaScript 4 KiB, which makes the number of turns the limit. */
const PIECE = 65_536;

/** The length that a message says its body has; null where it says none, or where the body is decoded as it is read. */
export function lengthOf(headers: Headers): number | null {
  const text = headers.get("content-length");
  if (text === null || !/^\d{1,15}$/.test(text) || headers.has("content-encoding")) return null;
  return Number(text);
}

/**
 * The same bytes, as fast as they are taken and no faster. `see` gets each piece before it is passed on, `over` is called once
 * when there are no more, whether that is the end or not, and is waited for before the reader sees the end.
 */
export function watched(
  body: ReadableStream<Uint8Array>,
  length: number | null,
  see: (piece: Uint8Array) => void,
  over: () => Promise<void> = async () => {},
): ReadableStream<Uint8Array> {
  const { readable, writable } = length === null ? new IdentityTransformStream() : new FixedLengthStream(length);
  void pass(body, writable.getWriter(), see, over);
  return readable;
}

/** Reads pieces of the size above where the stream is the runtime's own, and whatever comes where it is one of ours. */
function pieces(body: ReadableStream<Uint8Array>): {
  read: () => Promise<Uint8Array | null>;
  cancel: (why: unknown) => Promise<void>;
} {
  try {
    const from = body.getReader({ mode: "byob" });
    let room = new ArrayBuffer(PIECE);
    return {
      read: async () => {
        const { value, done } = await from.read(new Uint8Array(room));
        if (done || value === undefined) return null;
        room = value.buffer as ArrayBuffer;
        return value;
      },
      cancel: (why) => from.cancel(why),
    };
  } catch {
    const from = body.getReader();
    return { read: async () => (await from.read()).value ?? null, cancel: (why) => from.cancel(why) };
  }
}

async function pass(
  body: ReadableStream<Uint8Array>,
  to: WritableStreamDefaultWriter<Uint8Array>,
  see: (piece: Uint8Array) => void,
  over: () => Promise<void>,
): Promise<void> {
  const from = pieces(body);
  try {
    // A piece's room is used again for the next: it has been taken when the write is done.
    for (let piece = await from.read(); piece !== null; piece = await from.read()) {
      see(piece);
      await to.write(piece);
    }
    await over();
    await to.close();
  } catch (error) {
    // The one side is gone, or the other: neither is to take what there is for the whole.
    await Promise.allSettled([to.abort(error), from.cancel(error), over()]);
  }
}
