/** What sandboxes talk to in the tests of their way out: a Worker's stand-in, and servers of the outside. */
import { createReadStream, statSync } from "node:fs";
import http from "node:http";
import net from "node:net";

export const TOKEN = "secret-egress-token";

const listening = (server) => new Promise((done) => server.listen(0, "127.0.0.1", () => done(server.address().port)));

/**
 * The Worker as the engine sees it. `answer(req, res, body)` may be replaced through `on`: a table from the path of the URL
 * that was asked for; `files` serves directories under such a path; everything else is answered with method and length. `seen` has every request in order.
 */
export async function startWorker() {
  const seen = [];
  const on = {};
  const upgrades = {};
  const files = {};
  const server = http.createServer((req, res) => {
    const url = req.headers["x-caisson-egress-url"] ?? "";
    const entry = { method: req.method, url: req.url, asked: url, headers: req.headers, body: undefined };
    seen.push(entry);
    const path = /^https?:\/\/[^/]*([^?]*)/.exec(url)?.[1];
    if (path in on) return on[path](req, res, entry);
    const under = Object.keys(files).find((prefix) => path?.startsWith(`${prefix}/`));
    if (under !== undefined) return sendFile(res, files[under] + path.slice(under.length));
    const parts = [];
    req.on("data", (d) => parts.push(d));
    req.on("end", () => {
      entry.body = Buffer.concat(parts).toString();
      res.writeHead(201, { "x-up": "1" });
      res.end(`${req.method} ${entry.body.length}`);
    });
  });
  server.on("upgrade", (req, socket, head) => {
    const path = /^https?:\/\/[^/]*([^?]*)/.exec(req.headers["x-caisson-egress-url"] ?? "")?.[1];
    upgrades[path]?.(req, socket, head) ?? socket.destroy();
  });
  const sockets = new Set();
  server.on("connection", (socket) => sockets.add(socket.on("close", () => sockets.delete(socket))));
  const port = await listening(server);
  return {
    seen,
    on,
    upgrades,
    files,
    port,
    url: `http://localhost:${port}/egress?box=1`,
    last: () => seen.at(-1),
    stop: () =>
      new Promise((done) => {
        server.close(done);
        for (const socket of sockets) socket.destroy();
      }),
  };
}

function sendFile(res, path) {
  if (!statSync(path, { throwIfNoEntry: false })?.isFile()) return res.writeHead(404).end();
  res.writeHead(200);
  createReadStream(path).pipe(res);
}

/** A server for HTTP or raw TCP on loopback: {port, stop}. */
export async function startTcp(onSocket) {
  const sockets = new Set();
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket)).on("error", () => {});
    onSocket(socket);
  });
  const port = await listening(server);
  const stop = () =>
    new Promise((done) => {
      server.close(done);
      for (const socket of sockets) socket.destroy();
    });
  return { port, sockets, stop };
}

export async function startHttp(handler) {
  const server = http.createServer(handler);
  const port = await listening(server);
  return { port, server, stop: () => new Promise((done) => server.close(done) && server.closeAllConnections()) };
}

/** The records of what left a sandbox. */
export async function egressLog(engine, name, after = 0) {
  const { text } = await engine.api("GET", `/v1/sandboxes/${name}/egress/log?after=${after}`);
  return text.split("\n").filter(Boolean).map(JSON.parse);
}

/** Runs a Python program in a sandbox and returns what it printed, line by line. */
export async function python(box, program, { timeoutMs = 20_000 } = {}) {
  const path = `/tmp/p${Math.random().toString(36).slice(2)}.py`;
  await box.call("POST", "/api/write", { path, content: program });
  const r = await box.exec(`python3 ${path}`, { timeoutMs });
  if (r.exitCode !== 0) throw new Error(`python: ${r.exitCode} ${r.stdout}${r.stderr}`);
  return r.stdout.trimEnd().split("\n");
}

/** Python that speaks HTTP by hand: `talk(bytes, host, port)` returns all that is answered until the end. */
export const RAW = `
import socket, sys
def talk(data, host="api.example.com", port=80, half=False):
    s = socket.create_connection((host, port), 10)
    s.settimeout(10)
    got = b""
    try:
        s.sendall(data)
        if half: s.shutdown(socket.SHUT_WR)
        while True:
            d = s.recv(65536)
            if not d: break
            got += d
    except OSError as e: got += b"<" + str(e).encode() + b">"
    s.close()
    return got.decode("latin1")
def status(text): return text.split(" ")[1] if text.startswith("HTTP/") else text[:40]
`;
