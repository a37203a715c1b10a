/**
 * One stream of a run on its way into the core: redacted, and taken up again where it was left.
 *
 * What was redacted has the length of what came, so one offset serves both sides. Taken up at an offset, the stream is read from a
 * little before it, so that a secret which spans the offset is found as it would have been; what comes out of that is dropped.
 */
import type { Found, RedactStream } from "../core/redact.js";

/** bytes: more than the longest match (csn/redact.h), and than a private key. */
const WARM_UP = 65_536;

export class Flow {
  readonly #stream: RedactStream;
  readonly #offset: number;
  /** bytes still to come out from before the offset. */
  #known: number;
  #taken: number;
  #before: Found = {};

  /** `offset`: of the first byte that is wanted. */
  constructor(stream: RedactStream, offset: number) {
    this.#stream = stream;
    this.#offset = offset;
    this.#taken = Math.max(0, offset - WARM_UP);
    this.#known = offset - this.#taken;
  }

  /** Offset of the next byte that the stream is to deliver. */
  get position(): number {
    return this.#taken;
  }

  push(bytes: Uint8Array): Uint8Array {
    // What ends before the offset has been counted; so the two sides of it are not taken at once.
    const old = Math.min(bytes.byteLength, Math.max(0, this.#offset - this.#taken));
    this.#taken += bytes.byteLength;
    if (old === 0) return this.#wanted(this.#stream.push(bytes));
    this.#wanted(this.#stream.push(bytes.subarray(0, old)));
    this.#before = this.#stream.found();
    return this.#wanted(this.#stream.push(bytes.subarray(old)));
  }

  /** The stream has ended: what was held back. */
  flush(): Uint8Array {
    return this.#wanted(this.#stream.flush());
  }

  /** Matches since this was last asked, or since the offset at which the stream was taken up. */
  found(): { now: Found; before: Found } {
    const before = this.#before;
    this.#before = this.#stream.found();
    return { now: this.#before, before };
  }

  close(): void {
    this.#stream.close();
  }

  #wanted(bytes: Uint8Array): Uint8Array {
    if (this.#known === 0) return bytes;
    const drop = Math.min(this.#known, bytes.byteLength);
    this.#known -= drop;
    return bytes.subarray(drop);
  }
}
