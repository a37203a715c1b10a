/** Transcripts of runs: the core folds (core/transcript.ts), this feeds it from the log. */
import module from "../../../build/transcript.wasm";
import { Transcript, type TranscriptForm } from "../core/transcript.js";
import type { RunSummary } from "./api.js";
import type { Store } from "./store.js";

/** bytes: pieces are put together to about so much before they are sent. */
const PIECE = 65_536;

/** The run as a stream of UTF-8. What is in the log when it begins is in it, however the log grows while it is read. */
export function transcript(
  store: Store,
  run: number,
  form: Exclude<TranscriptForm, "summary">,
): ReadableStream<Uint8Array> {
  const { readable, writable } = new IdentityTransformStream();
  void pump(store, run, form, writable.getWriter());
  return readable;
}

/** Counts and files of a run. */
export function summarize(store: Store, run: number): RunSummary {
  const text = [...pieces(store, run, "summary")].map((piece) => new TextDecoder().decode(piece)).join("");
  const { counts, files, truncated } = JSON.parse(text) as RunSummary;
  return { counts, files, truncated };
}

async function pump(
  store: Store,
  run: number,
  form: TranscriptForm,
  writer: WritableStreamDefaultWriter<Uint8Array>,
): Promise<void> {
  try {
    let parts: Uint8Array[] = [];
    let bytes = 0;
    for (const piece of pieces(store, run, form)) {
      parts.push(piece);
      bytes += piece.byteLength;
      if (bytes < PIECE) continue;
      // Resolves when the client's side has taken it: a slow client costs one piece.
      await writer.write(Buffer.concat(parts));
      parts = [];
      bytes = 0;
    }
    if (bytes > 0) await writer.write(Buffer.concat(parts));
    await writer.close();
  } catch (error) {
    console.warn(`transcript of run_${run}:`, error);
    await writer.abort(error).catch(() => {});
  }
}

function* pieces(store: Store, run: number, form: TranscriptForm): Generator<Uint8Array> {
  const fold = new Transcript(module, form);
  for (const json of store.runEvents(run)) fold.event(json);
  let given: string | null = null;
  for (;;) {
    const { text, want, done } = fold.next(given);
    if (text.byteLength > 0) yield text;
    if (done) return;
    given = want === null ? null : store.eventText(want);
  }
}
