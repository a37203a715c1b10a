/** Ports: containerFetch, preview URLs, WebSockets to what runs inside. */
import assert from "node:assert/strict";
import { before, it } from "node:test";
import { client, freshId, perTransport, rejects, until } from "./lib.mjs";
import { assertEchoes, get, NODE, SERVER } from "./port-server.mjs";
import { connectSocket } from "./socket.mjs";

perTransport("ports", (make, transport) => {
  let sandbox;
  let id;
  const hostname = new URL(client.url).host;
  const serve = async (target, port, more = "") => {
    await target.writeFile("/tmp/server.js", SERVER);
    const process = await target.startProcess(`${more} PORT=${port} exec ${NODE} /tmp/server.js`);
    await process.waitForLog("listening", 20_000);
    return process;
  };
  before(async () => {
    id = freshId(`ports-${transport}`);
    sandbox = make({}, { id });
    await serve(sandbox, 8080);
  });

  it("answer containerFetch", async () => {
    const query = new URLSearchParams({ id, port: 8080, path: "/some/path?q=1" });
    const response = await fetch(`${client.url}/fetch?${query}`, {
      method: "POST",
      body: "hello",
      headers: { "x-test": "1" },
    });
    const seen = await response.json();
    assert.equal(response.headers.get("x-inside"), "yes");
    assert.deepEqual([seen.method, seen.url, seen.length, seen.headers["x-test"]], ["POST", "/some/path?q=1", 5, "1"]);
    assert.ok(!Object.keys(seen.headers).some((name) => name.startsWith("x-caisson")), JSON.stringify(seen.headers));
    const big = await fetch(`${client.url}/fetch?${new URLSearchParams({ id, port: 8080, path: "/big" })}`);
    assert.equal((await big.arrayBuffer()).byteLength, 20_000_000);
    const own = await fetch(`${client.url}/fetch?${new URLSearchParams({ id, port: 8080, path: "/502" })}`);
    assert.deepEqual([own.status, await own.text()], [502, "the program's own 502\n"]);
  });

  it("have preview URLs", async () => {
    const exposed = await sandbox.exposePort(8080, { hostname, name: "web" });
    assert.deepEqual([exposed.port, exposed.name], [8080, "web"]);
    assert.match(exposed.url, new RegExp(`^http://8080-${id}-[a-z0-9_]{16}\\.localhost:\\d+/$`));
    const answer = await get(`${exposed.url}path/x?q=a%20b`, { method: "PUT", body: "y".repeat(100_000) });
    const seen = JSON.parse(answer.text);
    assert.deepEqual([seen.method, seen.url, seen.length], ["PUT", "/path/x?q=a%20b", 100_000]);
    assert.equal(seen.headers["x-forwarded-proto"], "http");
    assert.equal(seen.headers["x-sandbox-name"], id);
    assert.match(seen.headers["x-forwarded-host"], /^8080-/);
    assert.ok(!Object.keys(seen.headers).some((name) => /^x-(caisson|sandbox-preview)/.test(name)), answer.text);
    const list = await sandbox.getExposedPorts(hostname);
    assert.deepEqual(
      list.map(({ port, url, status }) => [port, url, status]),
      [[8080, exposed.url, "active"]],
    );
    assert.equal(await sandbox.isPortExposed(8080), true);
    const redirect = await get(`${exposed.url}redirect`);
    assert.deepEqual(
      [redirect.status, redirect.headers.location, redirect.headers["set-cookie"]],
      [302, "/elsewhere", ["a=1", "b=2"]],
    );
    const streamed = await get(`${exposed.url}stream`);
    assert.equal(streamed.text, "one\ntwo\n");
    assert.ok(streamed.times.at(-1) - streamed.times[0] > 200, "not streamed");
    assert.equal((await get(`${exposed.url}big`)).text.length, 20_000_000);
  });

  it("refuse wrong tokens, closed and unknown ports", async () => {
    const own = freshId(`tok-${transport}`);
    const box = make({}, { id: own });
    await serve(box, 8081);
    const { url } = await box.exposePort(8081, { hostname, token: "my_token_1" });
    assert.match(url, /-my_token_1\.localhost/);
    assert.equal((await get(url)).status, 200);
    assert.equal(await box.validatePortToken(8081, "my_token_1"), true);
    assert.equal(await box.validatePortToken(8081, "other"), false);
    for (const bad of [
      url.replace("my_token_1", "my_token_2"),
      url.replace("8081-", "8082-"),
      url.replace("8081-", "3000-"),
    ]) {
      const answer = await get(bad);
      assert.ok([404, 400].includes(answer.status), `${bad}: ${answer.status} ${answer.text}`);
    }
    await box.unexposePort(8081);
    assert.deepEqual([(await get(url)).status, JSON.parse((await get(url)).text).code], [404, "INVALID_TOKEN"]);
    assert.deepEqual(await box.getExposedPorts(hostname), []);
    await box.unexposePort(8081);
    for (const port of [3000, 80, 1023, 65536, 0, -1, 1.5])
      await rejects(box.exposePort(port, { hostname }), { message: /Invalid port/ });
    for (const token of ["", "UPPER", "a".repeat(17), "a-b"])
      await rejects(box.exposePort(8081, { hostname, token }), { message: /token/i });
    await rejects(box.exposePort(8081, { hostname: "x.workers.dev" }), { code: "CUSTOM_DOMAIN_REQUIRED" });
    // Nothing listens there: an error, not a hang.
    const nobody = await box.exposePort(8090, { hostname });
    assert.ok((await get(nobody.url)).status >= 500);
  });

  it("have URLs that go stale with their sandbox", async () => {
    const own = freshId(`stale-${transport}`);
    const box = make({}, { id: own });
    await serve(box, 8083);
    const { url } = await box.exposePort(8083, { hostname });
    assert.equal((await get(url)).status, 200);
    await box.stop();
    await until(async () => (await get(url)).status === 410, "the URL is stale");
    assert.equal(JSON.parse((await get(url)).text).code, "STALE_PREVIEW_URL");
    // stop() has sent its signal; what runs may take its time, and a call meanwhile is one of the old start.
    await until(async () => (await box.getState()).status.startsWith("stopped"), "it has stopped");
    await serve(box, 8083);
    const again = await box.exposePort(8083, { hostname });
    assert.equal(again.url, url, "the token outlives a restart");
    assert.equal((await get(url)).status, 200);
    await box.destroy();
    assert.ok([404, 410].includes((await get(url)).status));
  });

  it("carry WebSockets through preview URLs", async () => {
    const { url } = await sandbox.exposePort(8080, { hostname });
    const socket = await connectSocket(`${url}chat?room=1`);
    const hello = JSON.parse(await socket.until(({ messages }) => messages[0], "a hello"));
    assert.equal(hello.url, "/chat?room=1");
    await assertEchoes(socket);
    socket.send("close me");
    await socket.until(({ closed }) => closed, "the close");
    const refused = await connectSocket(url.replace(/-[a-z0-9_]{16}\./, "-0000000000000000.")).catch((error) => error);
    assert.equal(refused.status, 404);
  });

  it("carry WebSockets of wsConnect, which starts the sandbox", async () => {
    const socket = await client.socket("/connect", { id, port: 8080, path: "/direct" });
    assert.equal(JSON.parse(await socket.until(({ messages }) => messages[0], "a hello")).url, "/direct");
    for (let i = 0; i < 50; i++) socket.send(`m${i}`);
    await socket.until(({ messages }) => messages.length === 51, "fifty echoes");
    assert.deepEqual(
      socket.messages.slice(1),
      Array.from({ length: 50 }, (_, i) => `m${i}`),
    );
    socket.send("close me");
    const closed = await socket.until(({ closed }) => closed, "the close");
    assert.deepEqual([closed.code, closed.reason], [4001, "why"]);
    const invalid = await client.socket("/connect", { id, port: 80 }).catch((error) => error);
    assert.ok(invalid.status >= 400, String(invalid));
  });

  it("are reached on loopback, IPv4 and IPv6", async () => {
    const own = freshId(`loop-${transport}`);
    const box = make({}, { id: own });
    await serve(box, 8085, "HOST=127.0.0.1");
    await serve(box, 8086, "HOST=::1");
    for (const port of [8085, 8086]) {
      const answer = await fetch(`${client.url}/fetch?${new URLSearchParams({ id: own, port })}`);
      assert.equal(answer.status, 200, String(port));
      await answer.text();
    }
  });

  it("are many at once", async () => {
    const answers = await Promise.all(
      Array.from({ length: 60 }, async (_, i) => {
        const query = new URLSearchParams({ id, port: 8080, path: `/${i}` });
        const seen = await (await fetch(`${client.url}/fetch?${query}`)).json();
        // Connections are used again: no request on them may bring the token along.
        assert.deepEqual(
          Object.keys(seen.headers).filter((name) => name.startsWith("x-caisson")),
          [],
        );
        return seen.url;
      }),
    );
    assert.deepEqual(
      answers,
      Array.from({ length: 60 }, (_, i) => `/${i}`),
    );
  });
});
