#!/usr/bin/env node
/**
 * The control server of the floor: what the SDK asks on its way to an `exec` is answered at once, with nothing behind it.
 * Prints {"port":n}. Over plain sockets, so that as little as possible is measured of the server itself.
 */
import { createServer } from "node:net";

const json = (value) => {
  const body = JSON.stringify({ success: true, timestamp: new Date().toISOString(), ...value });
  return `HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
};
const answers = {
  "/": json({}),
  "/api/version": json({ version: "0.12.10" }),
  "/api/session/create": json({ data: {}, containerPlacementId: null }),
  "/api/execute": json({ exitCode: 0, stdout: "hi", stderr: "", command: "echo hi", duration: 0, sessionId: "floor" }),
};
const missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";

const server = createServer((socket) => {
  socket.setNoDelay(true);
  let text = "";
  socket.on("error", () => {});
  socket.on("data", (data) => {
    text += data.toString("latin1");
    for (let end = text.indexOf("\r\n\r\n"); end >= 0; end = text.indexOf("\r\n\r\n")) {
      const head = text.slice(0, end);
      const length = Number(head.match(/^content-length: *(\d+)/im)?.[1] ?? 0);
      if (text.length < end + 4 + length) return;
      text = text.slice(end + 4 + length);
      socket.write(answers[head.split(" ", 2)[1]] ?? missing);
    }
  });
});
server.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: server.address().port })));
process.stdin.on("end", () => process.exit()).resume();
