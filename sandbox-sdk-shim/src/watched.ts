/** Bodies on their way through, looked at. */

/** bytes read at a time: the runtime's own pipes hand JavaScript 4 KiB, which makes the number of turns the limit. */
const PIECE = 65_536;

/** What becomes of a body. */
export interface Watch {
  /** Gets each piece before it is passed on. */
  readonly see: (piece: Uint8Array) => void;
  /** Called once when there are no more, whether that is the end or not, and waited for before the reader can know that it has all. */
  readonly over: () => Promise<void>;
}

/** The length that a message says its body has; null where it says none. */
export function lengthOf(headers: Headers): number | null {
  const text = headers.get("content-length");
  return text === null || !/^\d{1,15}$/.test(text) ? null : Number(text);
}

/** The same bytes, as fast as they are taken and no faster. */
export function watched(
  body: ReadableStream<Uint8Array>,
  length: number | null,
  watch: Watch,
): ReadableStream<Uint8Array> {
  const { readable, writable } = length === null ? new IdentityTransformStream() : new FixedLengthStream(length);
  const to = writable.getWriter();
  pump(body, length, watch, (piece) => to.write(piece))
    .then(() => to.close())
    // The reader must not take what there is for the whole.
    .catch((error: unknown) => to.abort(error))
    .catch(() => {});
  return readable;
}

/** Gives `to` each piece when the one before is taken; after a failure of either side, which it throws, no more is read. */
export async function pump(
  body: ReadableStream<Uint8Array>,
  length: number | null,
  { see, over }: Watch,
  to: (piece: Uint8Array) => Promise<void>,
): Promise<void> {
  const from = pieces(body);
  let left = length ?? Number.POSITIVE_INFINITY;
  let told = false;
  try {
    // A piece's room is used again for the next: it has been taken when `to` is done.
    for (let piece = await from.read(); piece !== null; piece = await from.read()) {
      see(piece);
      left -= piece.byteLength;
      // Whoever knows the length sees the end with the last byte.
      if (left <= 0 && !told) {
        told = true;
        await over();
      }
      await to(piece);
    }
    if (!told) {
      told = true;
      await over();
    }
  } catch (error) {
    await Promise.allSettled([from.cancel(error), told ? null : over()]);
    throw error;
  }
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
