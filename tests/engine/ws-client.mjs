/** A WebSocket client that shows every frame and can send wrong ones. */
import { createHash, randomBytes } from "node:crypto";
import http from "node:http";

const ACCEPT_SUFFIX = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
export const OP = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 };

/** Bytes of one client frame. `mask: false` and `rsv` make it a wrong one. */
export function frame(op, payload = "", { fin = true, mask = true, rsv = 0, length } = {}) {
  const body = Buffer.from(payload);
  const len = length ?? body.length;
  const head = [(fin ? 0x80 : 0) | (rsv << 4) | op];
  const m = mask ? 0x80 : 0;
  if (len < 126) head.push(m | len);
  else if (len < 65536) head.push(m | 126, len >> 8, len & 255);
  else {
    const wide = Buffer.alloc(8);
    wide.writeBigUInt64BE(BigInt(len));
    head.push(m | 127, ...wide);
  }
  if (!mask) return Buffer.concat([Buffer.from(head), body]);
  const key = randomBytes(4);
  const masked = Buffer.from(body);
  for (let i = 0; i < masked.length; i += 1) masked[i] ^= key[i & 3];
  return Buffer.concat([Buffer.from(head), key, masked]);
}

/**
 * Opens a WebSocket to a path of the control server: {next, send, raw, close, closed, socket, status}. next() gives the
 * next frame {op, data} or rejects after `timeout` ms; closed resolves to the server's close code, or null for none.
 * An answer other than 101 gives {status, body} only.
 */
export function openSocket(box, path, { headers = {} } = {}) {
  const key = randomBytes(16).toString("base64");
  const all = {
    ...box.headers,
    connection: "Upgrade",
    upgrade: "websocket",
    "sec-websocket-key": key,
    "sec-websocket-version": "13",
    ...headers,
  };
  return new Promise((done, fail) => {
    const req = http.request({ host: "127.0.0.1", port: box.port, path, headers: all, agent: false });
    req.on("error", fail);
    req.on("response", (res) => {
      let body = "";
      res.on("data", (d) => {
        body += d;
      });
      res.on("end", () => done({ status: res.statusCode, body }));
    });
    req.on("upgrade", (res, socket, head) => {
      const want = createHash("sha1")
        .update(key + ACCEPT_SUFFIX)
        .digest("base64");
      if (res.headers["sec-websocket-accept"] !== want) fail(new Error("wrong Sec-WebSocket-Accept"));
      done(client(socket, head));
    });
    req.end();
  });
}

function client(socket, head) {
  let input = head;
  const frames = [];
  const waiting = [];
  let code = null;
  let over = false;
  const closed = new Promise((r) => {
    const end = () => {
      over = true;
      r(code);
      for (const w of waiting.splice(0)) w.fail(new Error(`closed with ${code}`));
    };
    socket.on("close", end);
    socket.on("error", () => {});
    socket.on("end", () => socket.end());
  });
  const take = () => {
    for (;;) {
      if (input.length < 2) return;
      let len = input[1] & 127;
      let at = 2;
      if (len === 126) {
        if (input.length < 4) return;
        len = input.readUInt16BE(2);
        at = 4;
      } else if (len === 127) {
        if (input.length < 10) return;
        len = Number(input.readBigUInt64BE(2));
        at = 10;
      }
      if (input.length < at + len) return;
      const op = input[0] & 15;
      const data = input.subarray(at, at + len);
      input = input.subarray(at + len);
      if (op === OP.close) {
        code = data.length >= 2 ? data.readUInt16BE(0) : 1005;
        if (socket.writable) socket.end(frame(OP.close, data.subarray(0, 2)));
      }
      const waiter = waiting.shift();
      if (waiter) waiter.done({ op, data });
      else frames.push({ op, data });
    }
  };
  socket.on("data", (d) => {
    input = input.length === 0 ? d : Buffer.concat([input, d]);
    take();
  });
  take();
  const next = (timeout = 10_000) => {
    if (frames.length > 0) return Promise.resolve(frames.shift());
    if (over) return Promise.reject(new Error(`closed with ${code}`));
    return new Promise((done, fail) => {
      const timer = setTimeout(() => fail(new Error(`no frame in ${timeout} ms`)), timeout);
      const stop = (f) => (v) => {
        clearTimeout(timer);
        f(v);
      };
      waiting.push({ done: stop(done), fail: stop(fail) });
    });
  };
  return {
    status: 101,
    socket,
    closed,
    next,
    raw: (bytes) => socket.write(bytes),
    send: (data) => socket.write(frame(typeof data === "string" ? OP.text : OP.binary, data)),
    json: (value) => socket.write(frame(OP.text, JSON.stringify(value))),
    /** The next text message, parsed. */
    message: async (timeout) => {
      const f = await next(timeout);
      if (f.op !== OP.text) throw new Error(`a frame with opcode ${f.op}`);
      return JSON.parse(f.data.toString());
    },
    close: (status = 1000) => {
      const b = Buffer.alloc(2);
      b.writeUInt16BE(status);
      socket.write(frame(OP.close, b));
      return closed;
    },
  };
}
