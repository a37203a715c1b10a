/**
 * What is under way through previews, so that it can be ended: requests that wait for their answer, bodies that stream in
 * either direction, WebSockets. Who closes a port means these too, not only those that would come.
 */
import { lengthOf } from "./watched.js";

/** WebSocket close code: the endpoint goes away. */
const GOING_AWAY = 1001;
/** WebSocket close code: something failed. */
const FAILED = 1011;
/** milliseconds: the longest time that a timer takes. */
const TIMER_MS_MAX = 2_147_483_647;

type Ask = (request: Request) => Promise<Response>;

export class PreviewConnections {
  readonly #open = new Map<number, Set<AbortController>>();

  /** Ends what is under way on `port`, or on every port when it is null. */
  cut(port: number | null, reason: string): void {
    for (const [at, connections] of [...this.#open])
      if (port === null || port === at) for (const connection of [...connections]) connection.abort(new Cut(reason));
  }

  /**
   * Answers with what `ask` answers. A cut before that rejects with a Cut; after it, the answer's body breaks off, so that nobody
   * takes what there is for the whole, and a WebSocket is closed at both ends with the reason. `untilMs` says when the port's time
   * is over, and is asked again then, since it may have been given more.
   */
  async serve(port: number, untilMs: () => number, request: Request, ask: Ask): Promise<Response> {
    const connection = new AbortController();
    const { signal } = connection;
    const of = this.#open.get(port) ?? new Set();
    this.#open.set(port, of.add(connection));
    let timer: ReturnType<typeof setTimeout> | undefined;
    const look = (): void => {
      const left = untilMs() - Date.now();
      if (left > 0) timer = setTimeout(look, Math.min(left, TIMER_MS_MAX));
      else connection.abort(new Cut("the preview has expired"));
    };
    if (untilMs() < Number.POSITIVE_INFINITY) look();
    const over = (): void => {
      clearTimeout(timer);
      of.delete(connection);
      if (of.size === 0 && this.#open.get(port) === of) this.#open.delete(port);
    };
    try {
      const answering = ask(cuttable(request, signal));
      const answer = await Promise.race([answering, cutOf(signal)]).catch((error: unknown) => {
        // It may be answered yet, to nobody.
        if (error instanceof Cut) answering.then(discard, () => {});
        throw error;
      });
      // Both at once: the cut has been told by now, and nobody would hear of it any more.
      if (signal.aborted) {
        discard(answer);
        throw signal.reason;
      }
      if (answer.webSocket !== null) return joined(answer, answer.webSocket, signal, over);
      if (answer.body === null) {
        over();
        return answer;
      }
      const { readable, writable } = pipeFor(answer.headers);
      answer.body.pipeTo(writable, { signal }).then(over, over);
      return new Response(readable, answer);
    } catch (error) {
      over();
      throw error;
    }
  }
}

/** Why something that was under way has been ended. */
export class Cut extends Error {}

/** The request with a body that breaks off when it is cut. */
function cuttable(request: Request, signal: AbortSignal): Request {
  if (request.body === null) return request;
  const { readable, writable } = pipeFor(request.headers);
  request.body.pipeTo(writable, { signal }).catch(() => {});
  return new Request(request, { body: readable });
}

/** Carries bytes inside the runtime, and says their number where it is known. */
function pipeFor(headers: Headers): TransformStream<Uint8Array, Uint8Array> {
  const length = lengthOf(headers);
  return length === null ? new IdentityTransformStream() : new FixedLengthStream(length);
}

function cutOf(signal: AbortSignal): Promise<never> {
  return new Promise((_, fail) => {
    signal.addEventListener("abort", () => fail(signal.reason), { once: true });
  });
}

function discard(answer: Response): void {
  const { webSocket } = answer;
  if (webSocket === null) {
    answer.body?.cancel().catch(() => {});
    return;
  }
  webSocket.accept();
  webSocket.close(GOING_AWAY);
}

/** An answer whose WebSocket leads to the one of `answer`; the object's end of it can be closed, which that one's cannot. */
function joined(answer: Response, program: WebSocket, signal: AbortSignal, over: () => void): Response {
  const { 0: client, 1: server } = new WebSocketPair();
  const end = (code: number, reason: string): void => {
    over();
    // 1005 and 1006 stand for "none given" and "lost" and may not be sent.
    const sent = code === 1005 || code === 1006 ? 1000 : code;
    for (const socket of [server, program]) {
      try {
        socket.close(sent, reason);
      } catch {
        // closed already
      }
    }
  };
  for (const [from, to] of [
    [server, program],
    [program, server],
  ] as const) {
    from.binaryType = "arraybuffer";
    from.accept();
    from.addEventListener("message", ({ data }) => {
      try {
        to.send(data as string | ArrayBuffer);
      } catch {
        end(FAILED, "the other end has gone");
      }
    });
    from.addEventListener("close", ({ code, reason }) => end(code, reason));
    from.addEventListener("error", () => end(FAILED, "the connection has failed"));
  }
  signal.addEventListener("abort", () => end(GOING_AWAY, (signal.reason as Cut).message), { once: true });
  return new Response(null, { status: answer.status, headers: answer.headers, webSocket: client });
}
