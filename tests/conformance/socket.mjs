/** WebSocket clients whose messages are kept and waited for, also for preview URLs, whose names no resolver knows. */
import { once } from "node:events";
import WebSocket from "ws";

/** Every host name of these tests is this machine. */
export const lookup = (_host, options, done) =>
  options.all ? done(null, [{ address: "127.0.0.1", family: 4 }]) : done(null, "127.0.0.1", 4);

/** Opens `url` (http: or ws:). Rejects with {status, text} where the server does not upgrade. */
export async function connectSocket(url, { headers, protocols = [] } = {}) {
  const ws = new WebSocket(url.replace(/^http/, "ws"), protocols, {
    headers,
    lookup,
    perMessageDeflate: false,
    handshakeTimeout: 30_000,
  });
  const socket = { ws, messages: [], closed: null, waiting: new Set() };
  const wake = () => {
    for (const check of socket.waiting) check();
  };
  ws.on("message", (data, binary) => {
    socket.messages.push(binary ? Buffer.from(data) : data.toString("utf8"));
    wake();
  });
  ws.on("close", (code, reason) => {
    socket.closed = { code, reason: reason.toString("utf8") };
    wake();
  });
  ws.on("error", () => {});
  await new Promise((done, fail) => {
    ws.once("open", done);
    ws.once("error", fail);
    ws.once("unexpected-response", async (_request, response) => {
      const parts = [];
      for await (const part of response) parts.push(part);
      const text = Buffer.concat(parts).toString("utf8");
      fail(
        Object.assign(new Error(`no upgrade: ${response.statusCode} ${text}`), { status: response.statusCode, text }),
      );
    });
  });
  return Object.assign(socket, {
    send: (data) => ws.send(data),
    sendJSON: (value) => ws.send(JSON.stringify(value)),
    /** Text of the binary frames so far. */
    output: () => Buffer.concat(socket.messages.filter((m) => typeof m !== "string")).toString("utf8"),
    /** The text frames so far, parsed. */
    control: () => socket.messages.filter((m) => typeof m === "string").map((m) => JSON.parse(m)),
    /** Waits until `check(socket)` gives something truthy; a message or the end wakes it. */
    until: (check, what, ms = 30_000) =>
      new Promise((done, fail) => {
        const end = (settle, value) => {
          clearTimeout(timer);
          socket.waiting.delete(look);
          settle(value);
        };
        const look = () => {
          const value = check(socket);
          if (value) end(done, value);
        };
        const timer = setTimeout(
          () =>
            end(
              fail,
              new Error(
                `not within ${ms} ms: ${what}; closed ${JSON.stringify(socket.closed)}, messages ${socket.messages.map(String).join("|").slice(-800)}`,
              ),
            ),
          ms,
        );
        socket.waiting.add(look);
        look();
      }),
    async close() {
      if (socket.closed) return socket.closed;
      ws.close();
      await Promise.race([once(ws, "close"), new Promise((r) => setTimeout(r, 2000))]);
      ws.terminate();
      return socket.closed;
    },
    /** Goes away without a word, as a client whose machine dies. */
    vanish: () => ws.terminate(),
  });
}
