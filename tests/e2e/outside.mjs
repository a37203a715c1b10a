/** The outside of a sandbox in tests: names that mean what the test says, and servers on the ports that programs use. */
import { spawn, spawnSync } from "node:child_process";
import { randomInt } from "node:crypto";
import dgram from "node:dgram";
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { join } from "node:path";

/** An address of loopback that no other test has. */
export const ownAddress = () => `127.${randomInt(2, 250)}.${randomInt(1, 250)}.${randomInt(2, 250)}`;

const words = (address) => {
  const [head, tail = ""] = address.split("::");
  const v4 = /(.*?)(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(tail);
  const last = v4 ? [...v4[1].split(":"), (v4[2] << 8) | v4[3], (v4[4] << 8) | v4[5]] : tail.split(":");
  const number = (word) => (typeof word === "number" ? word : Number.parseInt(word, 16));
  const [front, back] = [head, last].map((part) =>
    [part].flat().flatMap((p) => (typeof p === "string" ? p.split(":") : p)),
  );
  const full = [front, back].map((part) => part.filter((word) => word !== "").map(number));
  return [...full[0], ...Array(8 - full[0].length - full[1].length).fill(0), ...full[1]];
};

/**
 * A resolver: `names[name]` is a list of addresses, or a function that is called for each question of type A. Everything else does
 * not exist. `asked` has every name that was asked for, one entry a question of type A.
 */
export async function startResolver(names) {
  const asked = [];
  const server = dgram.createSocket("udp4");
  const last = {};
  server.on("message", (msg, from) => {
    const labels = [];
    let at = 12;
    for (; msg[at] > 0; at += msg[at] + 1) labels.push(msg.toString("latin1", at + 1, at + 1 + msg[at]));
    const name = labels.join(".").toLowerCase();
    const type = msg.readUInt16BE(at + 1);
    const end = at + 5;
    if (type === 1) asked.push(name);
    const entry = names[name];
    // Both questions of one look-up get the same answer.
    if (typeof entry === "function" && (type === 1 || last[name] === undefined)) last[name] = entry();
    const list = typeof entry === "function" ? last[name] : (entry ?? []);
    const answers = list
      .filter((address) => address.includes(":") === (type === 28))
      .map((address) => {
        const data =
          type === 28
            ? Buffer.concat(words(address).map((word) => Buffer.from([word >> 8, word & 255])))
            : Buffer.from(address.split(".").map(Number));
        const head = Buffer.from([0xc0, 12, 0, type, 0, 1, 0, 0, 0, 0, 0, data.length]);
        return Buffer.concat([head, data]);
      });
    const head = Buffer.from(msg.subarray(0, 12));
    head.writeUInt16BE(entry === undefined ? 0x8183 : 0x8180, 2);
    head.writeUInt16BE(answers.length, 6);
    head.writeUInt32BE(0, 8);
    server.send(Buffer.concat([head, msg.subarray(12, end), ...answers]), from.port, from.address);
  });
  await new Promise((done) => server.bind(0, "127.0.0.1", done));
  return { asked, at: `127.0.0.1:${server.address().port}`, stop: () => server.close() };
}

/** An authority of the test's own in `dir`: {cert, key, file}, a certificate for `names` that has signed itself. */
export function makeCertificate(dir, names, label = "upstream") {
  const [key, file] = [join(dir, `${label}-key.pem`), join(dir, `${label}-cert.pem`)];
  const args = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
  args.push("-subj", `/CN=${label}`, "-addext", `subjectAltName=${names.map((name) => `DNS:${name}`).join(",")}`);
  const made = spawnSync("openssl", [...args, "-keyout", key, "-out", file], { encoding: "utf8" });
  if (made.status !== 0) throw new Error(`openssl: ${made.stderr}`);
  return { file, key: readFileSync(key), cert: readFileSync(file) };
}

/**
 * HTTP on port 80 and HTTPS on 443 of an address. Null where this user may not listen on such ports. `tls`: {key, cert}.
 */
export async function startSite(address, handler, tls) {
  const servers = [
    [http.createServer(handler), 80],
    ...(tls === undefined ? [] : [[https.createServer({ ...tls, ALPNProtocols: ["http/1.1"] }, handler), 443]]),
  ];
  const sockets = new Set();
  for (const [server] of servers)
    server.on("connection", (socket) => sockets.add(socket.on("close", () => sockets.delete(socket))));
  const stop = async () => {
    for (const socket of sockets) socket.destroy();
    for (const [server] of servers) await new Promise((done) => server.close(done));
  };
  for (const [server, port] of servers) {
    const error = await new Promise((done) => server.once("error", done).listen(port, address, () => done(null)));
    if (error === null) continue;
    if (error.code === "EACCES") return null;
    throw error;
  }
  return { servers: servers.map(([server]) => server), stop };
}

/**
 * A handler that serves the git repositories under `root` by git's own `http-backend`, to whoever gives `credential` as Basic
 * authorization, and to nobody else. `seen` gets "METHOD path" of each request.
 */
export function gitBackend(root, credential, seen = []) {
  const right = `Basic ${Buffer.from(credential).toString("base64")}`;
  return (req, res) => {
    const url = new URL(req.url, "http://git");
    seen.push(`${req.method} ${url.pathname}`);
    if (req.headers.authorization !== right)
      return res.writeHead(401, { "www-authenticate": 'Basic realm="git"' }).end("who is there?\n");
    const env = {
      PATH: process.env.PATH,
      GIT_PROJECT_ROOT: root,
      GIT_HTTP_EXPORT_ALL: "1",
      REMOTE_USER: "tester",
      REQUEST_METHOD: req.method,
      PATH_INFO: decodeURIComponent(url.pathname),
      QUERY_STRING: url.search.slice(1),
      CONTENT_TYPE: req.headers["content-type"] ?? "",
      HTTP_CONTENT_ENCODING: req.headers["content-encoding"] ?? "",
      GIT_PROTOCOL: req.headers["git-protocol"] ?? "",
      ...(req.headers["content-length"] === undefined ? {} : { CONTENT_LENGTH: req.headers["content-length"] }),
    };
    const child = spawn("git", ["-c", "safe.directory=*", "http-backend"], { env, stdio: ["pipe", "pipe", "ignore"] });
    child.stdin.on("error", () => {});
    req.pipe(child.stdin);
    let head = Buffer.alloc(0);
    const onHead = (d) => {
      head = Buffer.concat([head, d]);
      const end = head.indexOf("\r\n\r\n");
      if (end < 0) return;
      child.stdout.off("data", onHead);
      const headers = Object.fromEntries(
        head
          .toString("latin1", 0, end)
          .split("\r\n")
          .map((line) => line.split(/: */, 2)),
      );
      const status = Number.parseInt(headers.Status ?? "200", 10);
      delete headers.Status;
      res.writeHead(status, headers);
      res.write(head.subarray(end + 4));
      child.stdout.pipe(res);
    };
    child.stdout.on("data", onHead);
  };
}
