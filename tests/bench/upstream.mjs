/**
 * A process of its own that answers bytes: what the benchmark of the way out fetches. `GET …/<n>` is answered with n bytes. Prints
 * {"http","https"}, its ports on loopback, and ends with its standard input. argv: the key and certificate of HTTPS, in PEM.
 */
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";

const PIECE = Buffer.alloc(256 * 1024, 0x61);

function answer(req, res) {
  const asked = req.headers["x-caisson-egress-url"] ?? req.url;
  let left = Number(/(\d+)$/.exec(asked)?.[1] ?? 0);
  res.writeHead(200, { "content-type": "application/octet-stream", "content-length": left });
  const more = () => {
    while (left > 0) {
      const piece = left < PIECE.length ? PIECE.subarray(0, left) : PIECE;
      left -= piece.length;
      if (!res.write(piece)) return void res.once("drain", more);
    }
    res.end();
  };
  more();
}

const [key, cert] = process.argv.slice(2);
const servers = { http: http.createServer(answer) };
if (cert !== undefined)
  servers.https = https.createServer(
    { key: readFileSync(key), cert: readFileSync(cert), ALPNProtocols: ["http/1.1"] },
    answer,
  );
const ports = {};
for (const [name, server] of Object.entries(servers)) {
  server.keepAliveTimeout = 60_000;
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  ports[name] = server.address().port;
}
console.log(JSON.stringify(ports));
process.stdin.on("end", () => process.exit()).resume();
