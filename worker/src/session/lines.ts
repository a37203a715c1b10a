/**
 * The bytes of one stream since its current line began, so that an event can carry the line it came from.
 *
 * A line of up to RAW_MAX bytes is kept whole; of a longer one only its head. The core names a line by offset and length
 * in the stream while the chunk that ends it is being fed, so the window is: head of the unfinished line, last chunk.
 */

/** bytes: a longer line is stored as its head; the whole stream is archived in R2 when the run ends. */
export const RAW_MAX = 65_536;
/** bytes: head that is kept of a longer line. */
export const RAW_HEAD = 4_096;

export interface RawLine {
  /** The line, or its head when it is longer than RAW_MAX. */
  readonly bytes: Uint8Array;
  readonly whole: boolean;
}

export class LineWindow {
  /** Stream offset of the first byte of #head, which is the first byte of the unfinished line. */
  #headOff: number;
  #head: Uint8Array = new Uint8Array();
  #chunkOff: number;
  #chunk: Uint8Array = new Uint8Array();

  /** `offset`: where the stream is taken up; it must be the start of a line. */
  constructor(offset: number) {
    this.#headOff = offset;
    this.#chunkOff = offset;
  }

  /** Offset of the next byte that the stream will deliver. */
  get end(): number {
    return this.#chunkOff + this.#chunk.byteLength;
  }

  /** Takes the next chunk of the stream. `bytes` is kept as it is until the next call. */
  push(bytes: Uint8Array): void {
    const newline = this.#chunk.lastIndexOf(0x0a);
    if (newline >= 0) {
      this.#headOff = this.#chunkOff + newline + 1;
      this.#head = this.#chunk.slice(newline + 1, newline + 2 + RAW_MAX);
    } else if (this.#head.byteLength <= RAW_MAX) {
      this.#head = concat(this.#head, this.#chunk.subarray(0, RAW_MAX + 1 - this.#head.byteLength));
    }
    this.#chunkOff = this.end;
    this.#chunk = bytes;
  }

  /** The line at `off`; null when its first byte is no longer held (the stream was taken up in the middle of it). */
  line(off: number, len: number): RawLine | null {
    const whole = len <= RAW_MAX;
    const want = whole ? len : RAW_HEAD;
    if (off >= this.#chunkOff) {
      const at = off - this.#chunkOff;
      return { bytes: this.#chunk.subarray(at, at + want), whole };
    }
    if (off < this.#headOff) return null;
    const at = off - this.#headOff;
    const fromHead = this.#head.subarray(at, at + want);
    const rest = want - fromHead.byteLength;
    return { bytes: rest === 0 ? fromHead : concat(fromHead, this.#chunk.subarray(0, rest)), whole };
  }
}

/**
 * The line as JSON text to embed in its event: as it is when it is one JSON value and well-formed UTF-8, else as a JSON
 * string. A long line becomes an object that tells its length and where its whole stream is archived.
 */
export function rawText(line: RawLine, len: number, off: number, isJSON: boolean, archive: string): string {
  if (!line.whole) {
    const head = JSON.stringify(lossy.decode(line.bytes));
    return `{"head":${head},"len":${len},"off":${off},"archive":${JSON.stringify(archive)}}`;
  }
  if (isJSON) {
    try {
      return fatal.decode(line.bytes);
    } catch {
      // Not UTF-8: as a string below.
    }
  }
  return JSON.stringify(lossy.decode(line.bytes));
}

const fatal = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const lossy = new TextDecoder("utf-8", { fatal: false, ignoreBOM: true });

function concat(a: Uint8Array, b: Uint8Array): Uint8Array {
  const out = new Uint8Array(a.byteLength + b.byteLength);
  out.set(a);
  out.set(b, a.byteLength);
  return out;
}
