/** A run's events folded into a transcript by the core, in an instance of its own. */
import { FX, TRANSCRIPT } from "./abi.gen.js";
import { Instance } from "./instance.js";

const FORMS = { json: 1, markdown: 2, summary: 3 } as const;
export type TranscriptForm = keyof typeof FORMS;

export interface TranscriptStep {
  /** The next piece; may be empty. */
  readonly text: Uint8Array;
  /** seq of the event to give to the next call, or null. */
  readonly want: number | null;
  readonly done: boolean;
}

const utf8 = new TextEncoder();
const NOTHING = new Uint8Array();

export class Transcript {
  readonly #instance: Instance<{ csn_transcript(len: number): number }>;

  constructor(module: WebAssembly.Module, form: TranscriptForm) {
    this.#instance = new Instance(module);
    this.open(form);
  }

  /** Begins anew, with nothing shown. */
  open(form: TranscriptForm): void {
    this.#call(TRANSCRIPT.OPEN, FORMS[form], NOTHING);
  }

  /** Shows one event of the run, all of them in order before the first next(). */
  event(json: string): void {
    this.#call(TRANSCRIPT.EVENT, 0, this.#payload(json));
  }

  /** Writes on; `given` is the event that was asked for, null when it is not there any more. */
  next(given: string | null): TranscriptStep {
    const more = this.#call(TRANSCRIPT.NEXT, 0, given === null ? NOTHING : this.#payload(given)) === 1;
    let text: Uint8Array = NOTHING;
    let want: number | null = null;
    this.#instance.records((kind, id, _code, _stream, _timeMs, at, len) => {
      if (kind === FX.TRANSCRIPT_TEXT) text = this.#instance.bytes(at, len);
      else if (kind === FX.TRANSCRIPT_WANT) want = id;
    });
    return { text, want, done: !more };
  }

  /** An event that no box can hold is shown as none, which the transcript counts. */
  #payload(json: string): Uint8Array {
    const bytes = utf8.encode(json);
    return this.#instance.fits(bytes.byteLength) ? bytes : NOTHING;
  }

  #call(op: number, code: number, payload: Uint8Array): number {
    const len = this.#instance.write(op, 0, code, 0, 0, payload);
    const rc = this.#instance.call((exports) => exports.csn_transcript(len));
    if (rc < 0) throw this.#instance.poison(`the transcript answered ${rc}`);
    return rc;
  }
}
