/** Transcripts of runs: the core folds (core/transcript.ts), this feeds it from the log. */
import module from "../../../build/transcript.wasm";
import { Transcript, type TranscriptForm } from "../core/transcript.js";
import type { RunSummary } from "./api.js";
import type { Store } from "./store.js";

/** bytes: pieces are put together to about so much before they are sent. */
const PIECE = 65_536;

/** Says in the log why a stream broke off. */
type Warn = (what: string, error: unknown) => void;
type Written = Exclude<TranscriptForm, "summary">;

/** The run as a stream of UTF-8. What is in the log when it begins is in it, however the log grows while it is read. */
export function transcript(store: Store, run: number, form: Written, warn: Warn): ReadableStream<Uint8Array> {
  return stream(pieces(store, run, new Transcript(module, form)), `run_${run}`, warn);
}

/** All runs of the session, oldest first, as one stream: of JSON an object whose `runs` are transcripts. */
export function sessionTranscript(
  store: Store,
  session: string,
  form: Written,
  warn: Warn,
): ReadableStream<Uint8Array> {
  return stream(sessionPieces(store, session, form), session, warn);
}

/** Counts and files of a run. */
export function summarize(store: Store, run: number): RunSummary {
  const text = [...pieces(store, run, new Transcript(module, "summary"))]
    .map((piece) => new TextDecoder().decode(piece))
    .join("");
  const { counts, files, truncated } = JSON.parse(text) as RunSummary;
  return { counts, files, truncated };
}

function stream(source: Generator<Uint8Array>, what: string, warn: Warn): ReadableStream<Uint8Array> {
  const { readable, writable } = new IdentityTransformStream();
  void pump(source, what, writable.getWriter(), warn);
  return readable;
}

async function pump(
  source: Generator<Uint8Array>,
  what: string,
  writer: WritableStreamDefaultWriter<Uint8Array>,
  warn: Warn,
): Promise<void> {
  try {
    let parts: Uint8Array[] = [];
    let bytes = 0;
    for (const piece of source) {
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
    warn(`transcript of ${what}`, error);
    await writer.abort(error).catch(() => {});
  }
}

function* pieces(store: Store, run: number, fold: Transcript): Generator<Uint8Array> {
  for (const json of store.runEvents(run)) fold.event(json);
  let given: string | null = null;
  for (;;) {
    const { text, want, done } = fold.next(given);
    if (text.byteLength > 0) yield text;
    if (done) return;
    given = want === null ? null : store.eventText(want);
  }
}

function* sessionPieces(store: Store, session: string, form: Written): Generator<Uint8Array> {
  const utf8 = new TextEncoder();
  const fold = new Transcript(module, form);
  const isJSON = form === "json";
  const head = { format: "caisson.session/1", session, agent: store.text("agent") };
  yield utf8.encode(isJSON ? `${JSON.stringify(head).slice(0, -1)},"runs":[` : `# Session ${session}\n`);
  let count = 0;
  for (const { n } of store.runs()) {
    yield utf8.encode(isJSON ? (count === 0 ? "" : ",") : "\n");
    if (count > 0) fold.open(form);
    yield* pieces(store, n, fold);
    count += 1;
  }
  if (isJSON) yield utf8.encode("]}");
}
