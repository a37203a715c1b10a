/** What a transport needs of the session's log. */
import type { EventText } from "../session/api.js";

export interface LogPage {
  readonly events: EventText[];
  /** Highest seq that was looked at; the next page starts after it, also when a filter let nothing through. */
  readonly next: number;
  /** Nothing will ever come after this page. */
  readonly done: boolean;
}

/** By what right somebody reads. */
export interface Reader {
  /** Id of the share link; "" when it is none. */
  readonly share: string;
  /** Unix milliseconds: when the token or link ends; null: it does not. */
  readonly untilMs: number | null;
}

export interface EventLog {
  /** Why somebody may not go on reading; null when they may. */
  ended(reader: Reader): string | null;
  /** At most `limit` events and about PAGE_BYTES with seq > `after`; only those of `run` when it is not null. */
  page(after: number, limit: number, withRaw: boolean, run: number | null): LogPage;
  /** Resolves true when the log has grown, false after `timeoutMs`. */
  changed(timeoutMs: number): Promise<boolean>;
}

/** bytes: a page stops after the event that reaches this. */
export const PAGE_BYTES = 1_048_576;
/** items: events of one page of a stream. */
export const PAGE_EVENTS = 256;

/** Where and how a client wants to read. */
export interface ReadOptions {
  readonly after: number;
  readonly withRaw: boolean;
  /** Run number whose events alone are wanted, or null. */
  readonly run: number | null;
  readonly reader: Reader;
}

/** The one of a request that says nothing of it. */
const ANYBODY: Reader = { share: "", untilMs: null };
/** What the route says of the reader, in a header that no client's request keeps. */
export const READER_HEADER = "x-caisson-reader";

/** What is wrong with which parameter or header. */
export interface ReadFault {
  readonly field: string;
  readonly fault: string;
}

/** Reads `?after=`, `Last-Event-ID`, `?raw=0` and `?run=run_N`. */
export function readOptions(request: Request): ReadOptions | ReadFault {
  const query = new URL(request.url).searchParams;
  const after = query.get("after");
  const lastEventId = request.headers.get("last-event-id");
  // A browser's EventSource repeats its URL when it reconnects, so what it has seen last wins over ?after=.
  const from = lastEventId ?? after ?? "0";
  if (!/^\d{1,15}$/.test(from)) {
    const field = lastEventId === null ? "after" : "Last-Event-ID";
    return { field, fault: `${field} is not the seq of an event` };
  }
  const run = query.get("run");
  const match = run === null ? null : /^run_([1-9]\d{0,8})$/.exec(run);
  if (run !== null && match === null) return { field: "run", fault: "run is not a run id" };
  return {
    after: Number(from),
    withRaw: query.get("raw") !== "0" && query.get("raw") !== "false",
    run: match === null ? null : Number(match[1]),
    reader: JSON.parse(request.headers.get(READER_HEADER) ?? "null") ?? ANYBODY,
  };
}
