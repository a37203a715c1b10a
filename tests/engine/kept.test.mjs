/** Connections that are kept: to hosts for the next request to them, and the Worker's own for requests to it. */
import assert from "node:assert/strict";
import { once } from "node:events";
import http from "node:http";
import net from "node:net";
import { after, before, describe, test } from "node:test";
import { sleep, startEngine } from "./harness.mjs";
import { egressLog, startHttp, startTcp, startWorker, TOKEN } from "./outside.mjs";

let engine;
let box;
let worker;
let door;
const agent = new http.Agent({ keepAlive: true });
before(async () => {
  worker = await startWorker();
  engine = await startEngine({ args: ["--resolve", "up.example:127.0.0.1"] });
  box = await engine.sandbox("main", { egress: { url: worker.url, token: TOKEN, all: true } });
  await box.exec("curl -s http://first.example/");
  const [port, token] = worker.last().headers["x-caisson-out"].split(" ");
  door = { port: Number(port), token };
});
after(async () => {
  agent.destroy();
  await engine.stop();
  await worker.stop();
});

/** A request as the Worker makes it. */
function out(url, { method = "GET", address = "127.0.0.1", body, resolve = false } = {}) {
  const headers = { "x-caisson-out-token": door.token, "x-caisson-out-url": url, "x-caisson-out-address": address };
  if (resolve) headers["x-caisson-out-resolve"] = "1";
  if (body !== undefined) headers["content-length"] = Buffer.byteLength(body);
  return new Promise((done, fail) => {
    const request = http.request({ port: door.port, host: "127.0.0.1", agent, method, headers }, async (response) => {
      let text = "";
      for await (const piece of response) text += piece;
      done({ status: response.statusCode, text, address: response.headers["x-caisson-out-address"] });
    });
    request.on("error", fail).end(body);
  });
}

describe("connections to hosts", () => {
  /** An upstream that counts its connections and answers with the number of the one that it is asked on. */
  async function counting(more = () => ({})) {
    const of = new Map();
    const upstream = await startHttp((req, res) => {
      const headers = more(req);
      if (headers === null) return req.socket.destroy();
      res.writeHead(200, headers).end(String(of.get(req.socket)));
    });
    upstream.server.on("connection", (socket) => of.set(socket, of.size + 1));
    return { ...upstream, url: `http://up.example:${upstream.port}/`, count: () => of.size };
  }

  test("are used again, for the same name and judged address only, and not for what cannot be repeated", async () => {
    const upstream = await counting();
    assert.deepEqual([(await out(upstream.url)).text, (await out(upstream.url)).text], ["1", "1"]);
    assert.equal((await out(upstream.url, { method: "HEAD" })).status, 200);
    assert.equal(upstream.count(), 1);
    assert.equal((await out(upstream.url, { method: "POST", body: "x" })).text, "2");
    assert.equal((await out(upstream.url.replace("up.", "other."))).text, "3");
    // Another address was judged: nothing is there, and the connection to the first one is not taken for it.
    assert.equal((await out(upstream.url, { address: "127.0.0.9" })).status, 502);
    await upstream.stop();
  });

  test("that were made since the program opened its own are told with its next request, if it can be repeated", async () => {
    const upstream = await counting();
    const asked = `http://up.example:${upstream.port}/`;
    await engine.api("PUT", "/v1/sandboxes/main/egress", {
      url: worker.url,
      token: TOKEN,
      hosts: [`up.example:${upstream.port}`],
    });
    const told = () => worker.last().headers["x-caisson-out"].split(" ")[2];
    await box.exec(`curl -s ${asked}`);
    await out(asked);
    await box.exec(`curl -s ${asked}`);
    assert.equal(told(), undefined, "a program of its own: the name is to be looked up");
    worker.on["/then"] = async (_req, res) => {
      await out(asked, { method: "POST", body: "x" });
      res.writeHead(200).end();
    };
    const then = `http://up.example:${upstream.port}/then`;
    await box.exec(`curl -s ${then} ${asked}`);
    assert.equal(told(), "127.0.0.1");
    worker.on["/seen"] = async (_req, res) => {
      await out(asked, { resolve: true });
      res.writeHead(200).end();
    };
    await box.exec(`curl -s http://up.example:${upstream.port}/seen ${asked}`);
    assert.equal(told(), "127.0.0.1", "an older one, of the address that the name was found to have since");
    await box.exec(`curl -s ${then} -: -s -d x ${asked}`);
    assert.deepEqual([worker.last().method, told()], ["POST", undefined]);
    const before = upstream.count();
    await engine.api("PUT", "/v1/sandboxes/main/egress", { url: worker.url, token: TOKEN, all: true });
    assert.equal((await out(asked)).text, String(before + 1), "another set of rules ends them");
    await upstream.stop();
  });

  test("do not outlive the rules that allowed them: not those of a start that finds it running, nor one in use", async () => {
    const upstream = await counting();
    const egress = { url: worker.url, token: TOKEN, all: true };
    assert.deepEqual([(await out(upstream.url)).text, (await out(upstream.url)).text], ["1", "1"]);
    assert.equal((await engine.api("PUT", "/v1/sandboxes/main", { egress })).status, 200);
    assert.equal((await out(upstream.url)).text, "2");
    await upstream.stop();
    let connections = 0;
    let release;
    const slow = await startHttp(async (_req, res) => {
      await new Promise((go) => {
        release = go;
      });
      res.end(String(connections));
    });
    slow.server.on("connection", () => {
      connections += 1;
    });
    const url = `http://up.example:${slow.port}/`;
    const answered = async (meanwhile) => {
      release = undefined;
      const asked = out(url);
      while (release === undefined) await sleep(5);
      await meanwhile?.();
      release();
      return (await asked).text;
    };
    const change = () => engine.api("PUT", "/v1/sandboxes/main/egress", egress);
    assert.deepEqual([await answered(), await answered(change), await answered()], ["1", "1", "2"]);
    await slow.stop();
  });

  test("that ended unseen are replaced, once, and those that say so are not kept", async () => {
    let kill = 1;
    const upstream = await counting((req) => (req.url === "/kill" && kill-- > 0 ? null : {}));
    await out(upstream.url);
    assert.equal((await out(`${upstream.url}kill`)).text, "2", "the first ended under the request");
    kill = 1;
    assert.equal((await out(`${upstream.url}kill`)).text, "3", "so did the second");
    const closing = await counting(() => ({ connection: "close" }));
    assert.deepEqual([(await out(closing.url)).text, (await out(closing.url)).text], ["1", "2"]);
    await upstream.stop();
    await closing.stop();
  });

  test("with bytes behind an answer are not used again: they would answer the next request", async () => {
    let count = 0;
    const server = await startTcp((socket) => {
      count += 1;
      const mine = count;
      socket.on("data", () =>
        socket.write(
          `HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n${mine}HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled`,
        ),
      );
    });
    const url = `http://up.example:${server.port}/`;
    assert.deepEqual([(await out(url)).text, (await out(url)).text], ["1", "2"]);
    await server.stop();
  });
});

describe("the door", () => {
  test("reads no further for one who does not take the answers", async () => {
    const count = 60_000;
    const socket = net.connect(door.port, "127.0.0.1");
    socket.pause();
    socket.write(
      `GET / HTTP/1.1\r\nHost: x\r\nX-Caisson-Out-Token: ${door.token}\r\nX-Caisson-Out-URL: http://127.0.0.1/\r\nX-Caisson-Out-Resolve: 1\r\n\r\n`.repeat(
        count,
      ),
    );
    await sleep(1500);
    assert.equal((await box.exec("echo here")).stdout, "here\n");
    let answers = 0;
    let rest = "";
    for await (const piece of socket.resume()) {
      const parts = (rest + piece).split("\r\n\r\n");
      rest = parts.pop();
      answers += parts.length;
      if (answers === count) break;
    }
    assert.equal(answers, count);
  });
});

describe("connections of the Worker's", () => {
  async function serve(token = door.token) {
    const socket = net.connect(door.port, "127.0.0.1");
    socket.on("error", () => {});
    let text = "";
    socket.on("data", (piece) => {
      text += piece;
    });
    socket.write(`GET / HTTP/1.1\r\nHost: x\r\nX-Caisson-Out-Token: ${token}\r\nX-Caisson-Out-Serve: 1\r\n\r\n`);
    await sleep(100);
    return {
      socket,
      /** All that came since the last call, when it ends as asked. */
      async got(end) {
        for (let i = 0; i < 200 && !text.endsWith(end); i++) await sleep(10);
        assert.ok(text.endsWith(end), JSON.stringify(text));
        const all = text;
        text = "";
        return all;
      },
    };
  }
  const answer = (text) => `HTTP/1.1 200 OK\r\nContent-Length: ${text.length}\r\n\r\n${text}`;

  test("get the requests, one after the other, with what the Worker gets otherwise", async () => {
    const before = worker.seen.length;
    const { socket, got } = await serve();
    for (const n of ["one", "two"]) {
      const asked = box.exec(`curl -s -d body http://any.example/${n}`);
      const head = await got("body");
      assert.match(head, /^POST \/egress\?box=1 HTTP\/1\.1\r\n/);
      assert.match(head, new RegExp(`\r\nX-Caisson-Egress-Token: ${TOKEN}\r\n`));
      assert.match(head, new RegExp(`\r\nX-Caisson-Egress-URL: http://any.example/${n}\r\n`));
      assert.doesNotMatch(head, /connection:/i);
      socket.write(answer(n));
      assert.equal((await asked).stdout, n);
    }
    assert.equal(worker.seen.length, before, "the server in front saw nothing of them");
    socket.end();
  });

  test("need the token, and no body", async () => {
    const { got } = await serve("0".repeat(64));
    assert.match(await got("\n"), /^HTTP\/1\.1 400 /);
    const socket = net.connect(door.port, "127.0.0.1");
    socket.write(
      `POST / HTTP/1.1\r\nHost: x\r\nX-Caisson-Out-Token: ${door.token}\r\nX-Caisson-Out-Serve: 1\r\nContent-Length: 1\r\n\r\nx`,
    );
    const [piece] = await once(socket, "data");
    assert.match(String(piece), /^HTTP\/1\.1 400 /);
    socket.destroy();
  });

  test("that end are not asked: the request goes through the server in front, and twice only where that does no harm", async () => {
    const gone = await serve();
    gone.socket.destroy();
    await sleep(50);
    assert.equal((await box.exec("curl -s http://any.example/a")).stdout, "GET 0");
    for (const [request, code] of [
      ["", "201"],
      ["-d x", "502"],
    ]) {
      const { socket } = await serve();
      socket.once("data", () => socket.destroy());
      const { stdout } = await box.exec(`curl -s -o /dev/null -w '%{http_code}' ${request} http://any.example/b`);
      assert.equal(stdout, code, request);
    }
  });

  test("that end when the sandbox has no Worker any more: what was asked on them is refused", async (t) => {
    const { socket, got } = await serve();
    const asked = box.exec("curl -s -i http://any.example/under-way");
    assert.match(await got("\r\n\r\n"), /under-way/);
    assert.equal((await engine.api("PUT", "/v1/sandboxes/main/egress", {})).status, 200);
    t.after(() => engine.api("PUT", "/v1/sandboxes/main/egress", { url: worker.url, token: TOKEN, all: true }));
    socket.destroy();
    assert.match((await asked).stdout, /^HTTP\/1\.1 403 .*"HOST_NOT_ALLOWED".*policy has changed/s);
    const log = await egressLog(engine, "main");
    assert.deepEqual([log.at(-1).host, log.at(-1).status, log.at(-1).verdict], ["any.example", 403, "denied"]);
  });

  test("are left out by a WebSocket", async () => {
    const { socket } = await serve();
    const before = worker.seen.length;
    let upgraded = 0;
    worker.upgrades["/ws"] = (_req, to) => {
      upgraded += 1;
      to.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
      return true;
    };
    await box.exec(
      "curl -s -m 5 -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' http://any.example/ws",
    );
    assert.deepEqual([upgraded, worker.seen.length], [1, before]);
    socket.destroy();
  });
});

describe("a WebSocket to a host", () => {
  const LINES = (url, more) =>
    `GET / HTTP/1.1\r\nHost: x\r\nX-Caisson-Out-Token: ${door.token}\r\nX-Caisson-Out-URL: ${url}\r\nX-Caisson-Out-Address: 127.0.0.1\r\n` +
    `Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n${more}\r\n`;
  /** Sends `up` bytes, gets `down`, ends; answers the head. */
  async function through(upstream, more, up, down) {
    upstream.server.removeAllListeners("upgrade");
    upstream.server.on("upgrade", (_req, to) => {
      let come = 0;
      to.on("error", () => {}).on("data", (data) => {
        come += data.length;
        if (come === up) to.end(Buffer.alloc(down));
      });
      to.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    });
    const socket = net.connect(door.port, "127.0.0.1");
    socket.write(LINES(`http://up.example:${upstream.port}/`, more));
    let got = "";
    for await (const piece of socket.on("error", () => {})) {
      const head = got.includes("\r\n\r\n");
      got += piece;
      if (!head && got.includes("\r\n\r\n") && got.startsWith("HTTP/1.1 101")) socket.write(Buffer.alloc(up));
    }
    socket.destroy();
    return got;
  }
  const told = () => worker.seen.filter(({ headers }) => headers["x-caisson-egress-ended"] !== undefined);

  test("is told the Worker when it has ended, by the name that it gave it, with its bytes", async () => {
    const upstream = await startHttp((_req, res) => res.end());
    assert.match(await through(upstream, "X-Caisson-Out-Entry: 41\r\n", 70_000, 3_000), /^HTTP\/1\.1 101 /);
    for (let n = 0; told().length === 0 && n < 100; n += 1) await sleep(50);
    const [{ method, headers }] = told();
    assert.deepEqual([method, headers["x-caisson-egress-token"]], ["POST", TOKEN]);
    assert.match(headers["x-caisson-egress-ended"], /^41 70000 3000 \d+$/);
    // Not asked for, and no number: nothing is told.
    assert.match(await through(upstream, "", 10, 10), /^HTTP\/1\.1 101 /);
    for (const bad of ["x", "-1", "1 2", "9".repeat(21)])
      assert.match(await through(upstream, `X-Caisson-Out-Entry: ${bad}\r\n`, 1, 1), /^HTTP\/1\.1 400 /);
    await sleep(300);
    assert.equal(told().length, 1);
    await upstream.stop();
  });
});
