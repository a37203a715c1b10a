/**
 * A process of its own that answers bytes: what the benchmark of the way out fetches. `GET …/<n>` is answered with n bytes. argv: an
 * address of loopback, and for HTTPS on its port 443 files with key and certificate. Prints {"http"}, a port of 127.0.0.1, or null where
 * this user may not listen on 443. Ends with its standard input.
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

const [address, key, cert] = process.argv.slice(2);
const plain = http.createServer(answer);
const tls = { key: readFileSync(key), cert: readFileSync(cert), ALPNProtocols: ["http/1.1"] };
const secure = https.createServer(tls, answer);
for (const server of [plain, secure]) server.keepAliveTimeout = 60_000;
await new Promise((done) => plain.listen(0, "127.0.0.1", done));
const error = await new Promise((done) => secure.once("error", done).listen(443, address, () => done(null)));
console.log(JSON.stringify(error === null ? { http: plain.address().port } : null));
process.stdin.on("end", () => process.exit()).resume();
