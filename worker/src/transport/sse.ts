/**
 * The log as Server-Sent Events. Each client has its own cursor and pulls pages from storage at the pace at which it
 * reads, so a slow client holds no memory here.
 */
import { type EventLog, PAGE_EVENTS, type ReadOptions } from "./log.js";

/** milliseconds: a comment is sent after this much silence, so that proxies keep the connection. */
export const HEARTBEAT_MS = 15_000;
/** milliseconds: how long a client waits before it connects again. */
const RETRY_MS = 1_000;

const utf8 = new TextEncoder();

export function serveSSE(log: EventLog, options: ReadOptions, heartbeatMs: number = HEARTBEAT_MS): Response {
  const { readable, writable } = new IdentityTransformStream();
  void pump(log, options, heartbeatMs, writable.getWriter());
  return new Response(readable, {
    headers: {
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-store, no-transform",
      "x-accel-buffering": "no",
    },
  });
}

async function pump(
  log: EventLog,
  options: ReadOptions,
  heartbeatMs: number,
  writer: WritableStreamDefaultWriter<Uint8Array>,
): Promise<void> {
  const { untilMs } = options.reader;
  const wait = (): number =>
    untilMs === null ? heartbeatMs : Math.max(1, Math.min(heartbeatMs, untilMs - Date.now()));
  try {
    await writer.write(utf8.encode(`retry: ${RETRY_MS}\n\n`));
    let after = options.after;
    for (;;) {
      // Asked before every page: who may not read any more gets no event that came after that.
      if (log.ended(options.reader) !== null) break;
      const page = log.page(after, PAGE_EVENTS, options.withRaw, options.run);
      after = page.next;
      if (page.events.length > 0) {
        const frames = page.events.map((event) => `id: ${event.seq}\nevent: ${event.type}\ndata: ${event.json}\n\n`);
        // The write resolves when the client's side has taken it.
        await writer.write(utf8.encode(frames.join("")));
      } else if (page.done) {
        break;
      } else if (!(await log.changed(wait()))) {
        await writer.write(utf8.encode(": heartbeat\n\n"));
      }
    }
    await writer.close();
  } catch {
    // The client has gone; its cursor went with it.
    await writer.abort().catch(() => {});
  }
}
