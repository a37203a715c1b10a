/** What listens on a sandbox's port in tests, and clients of its preview URLs. */
import assert from "node:assert/strict";
import http from "node:http";

/** Serves HTTP and echoes WebSockets, on every address of `PORT`; says of what may be cut off how it ended. */
export const SERVER = String.raw`
const { createServer } = require("node:http");
const { createHash } = require("node:crypto");
const server = createServer(async (request, response) => {
  if (/^\/(upload|drip|never)/.test(request.url)) console.log("asked", request.url);
  if (request.url.startsWith("/upload")) request.on("close", () => console.log("upload", request.complete ? "whole" : "cut"));
  if (request.url.startsWith("/drip") || request.url.startsWith("/never")) {
    const drip = request.url.startsWith("/drip") && setInterval(() => response.write("drop\n"), 50);
    response.on("close", () => {
      clearInterval(drip);
      console.log(request.url, response.writableFinished ? "whole" : "cut");
    });
    return;
  }
  const parts = [];
  try {
    for await (const part of request) parts.push(part);
  } catch {
    return;
  }
  const body = Buffer.concat(parts);
  if (request.url.startsWith("/stream")) {
    response.write("one\n");
    setTimeout(() => response.end("two\n"), 500);
  } else if (request.url.startsWith("/redirect")) {
    response.writeHead(302, { location: "/elsewhere", "set-cookie": ["a=1", "b=2"] }).end();
  } else if (request.url.startsWith("/cookie")) {
    response.setHeader("referrer-policy", "unsafe-url");
    response.setHeader("set-cookie", ["c=3; Path=/; Domain=localhost; HttpOnly", "d=4; domain=.example.com"]);
    response.end();
  } else if (request.url.startsWith("/502")) {
    response.writeHead(502).end("the program's own 502\n");
  } else if (request.url.startsWith("/big")) {
    response.end(Buffer.alloc(20_000_000, "x"));
  } else {
    response.setHeader("x-inside", "yes");
    response.end(JSON.stringify({ method: request.method, url: request.url, headers: request.headers, length: body.length,
      sha256: createHash("sha256").update(body).digest("hex") }));
  }
});
server.on("upgrade", (request, socket) => {
  const accept = createHash("sha1").update(request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest("base64");
  socket.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\n");
  const send = (op, data) => {
    const head = data.length < 126 ? Buffer.from([0x80 | op, data.length]) : data.length < 65536
      ? Buffer.from([0x80 | op, 126, data.length >> 8, data.length & 255])
      : Buffer.concat([Buffer.from([0x80 | op, 127, 0, 0, 0, 0]), Buffer.from(Uint32Array.of(data.length).buffer).reverse()]);
    socket.write(Buffer.concat([head, data]));
  };
  send(1, Buffer.from(JSON.stringify({ url: request.url, host: request.headers.host })));
  let room = Buffer.alloc(0);
  socket.on("data", (data) => {
    room = Buffer.concat([room, data]);
    for (;;) {
      if (room.length < 2) return;
      let length = room[1] & 127, at = 2;
      if (length === 126) { length = room.length < 4 ? Infinity : room.readUInt16BE(2); at = 4; }
      else if (length === 127) { length = room.length < 10 ? Infinity : Number(room.readBigUInt64BE(2)); at = 10; }
      if (room.length < at + 4 + length) return;
      const mask = room.subarray(at, at + 4), payload = Buffer.from(room.subarray(at + 4, at + 4 + length));
      for (let i = 0; i < payload.length; i++) payload[i] ^= mask[i & 3];
      const op = room[0] & 15;
      room = room.subarray(at + 4 + length);
      if (op === 8) { console.log("socket closed", payload.length < 2 ? 0 : payload.readUInt16BE(0), payload.toString("utf8", 2)); send(8, payload); socket.end(); return; }
      if (payload.toString() === "close me") { send(8, Buffer.concat([Buffer.from([4001 >> 8, 4001 & 255]), Buffer.from("why")])); socket.end(); return; }
      send(op, payload);
    }
  });
  socket.on("error", () => {});
});
server.listen(Number(process.env.PORT), process.env.HOST ?? "0.0.0.0", () => console.log("listening"));
`;

/** The sandbox's Node. */
export const NODE = "/opt/caisson/bin/node";

/** Node's options for a request of a preview URL, whose host name needs no resolver. */
export function optionsFor(url, { method = "GET", headers = {} } = {}) {
  const { hostname, port, pathname, search } = new URL(url);
  return {
    host: "127.0.0.1",
    port,
    method,
    path: pathname + search,
    headers: { ...headers, host: `${hostname}:${port}` },
  };
}

/** One request of a preview URL: {status, headers, text}. */
export function get(url, { body, ...options } = {}) {
  return new Promise((done, fail) => {
    const request = http.request(optionsFor(url, options), async (response) => {
      const parts = [];
      const times = [];
      try {
        for await (const part of response) {
          parts.push(part);
          times.push(Date.now());
        }
      } catch (error) {
        return fail(error);
      }
      const text = Buffer.concat(parts).toString("utf8");
      done({ status: response.statusCode, headers: response.headers, text, times });
    });
    request.on("error", fail);
    request.end(body);
  });
}

/** Asserts that an open WebSocket of the server above echoes text and bytes. */
export async function assertEchoes(socket) {
  socket.send("text é");
  await socket.until(({ messages }) => messages.includes("text é"), "an echo");
  const data = Buffer.alloc(300_000, 7);
  socket.send(data);
  const echo = await socket.until(({ messages }) => messages.find((m) => typeof m !== "string"), "a binary echo");
  assert.ok(echo.equals(data));
}
