/**
 * The log over hibernating WebSockets: one event a text frame. The cursor lives in the socket's attachment, so a socket
 * survives the eviction of its object.
 */
import { type EventLog, PAGE_EVENTS, type ReadOptions } from "./log.js";

/** items: pages that one socket gets at once; a long backlog goes out in portions, so that it is not all in memory. */
const PAGES_AT_ONCE = 4;
/** WebSocket close code: against the rules. */
const POLICY = 1008;

/** Accepts the upgrade; the caller flushes the sockets after it. */
export function acceptSocket(ctx: DurableObjectState, options: ReadOptions): Response {
  const { 0: client, 1: server } = new WebSocketPair();
  ctx.acceptWebSocket(server);
  server.serializeAttachment(options);
  return new Response(null, { status: 101, webSocket: client });
}

/** Sends every socket what it has not had, or a portion of it; answers whether there is more to send. */
export function flushSockets(ctx: DurableObjectState, log: EventLog): boolean {
  let more = false;
  for (const socket of ctx.getWebSockets()) {
    const options = socket.deserializeAttachment() as ReadOptions | null;
    if (options === null || socket.readyState !== WebSocket.OPEN) continue;
    try {
      more = flushSocket(socket, log, options) || more;
    } catch {
      // The socket is closing; webSocketClose follows.
    }
  }
  return more;
}

function flushSocket(socket: WebSocket, log: EventLog, options: ReadOptions): boolean {
  const ended = log.ended(options.reader);
  if (ended !== null) {
    socket.serializeAttachment(null);
    socket.close(POLICY, ended);
    return false;
  }
  let after = options.after;
  for (let pages = 0; pages < PAGES_AT_ONCE; pages += 1) {
    const page = log.page(after, PAGE_EVENTS, options.withRaw, options.run);
    for (const event of page.events) socket.send(event.json);
    after = page.next;
    if (page.events.length > 0) continue;
    socket.serializeAttachment(page.done ? null : { ...options, after });
    if (page.done) socket.close(1000, options.run === null ? "session ended" : "run ended");
    return false;
  }
  socket.serializeAttachment({ ...options, after });
  return true;
}
