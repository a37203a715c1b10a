/** Preview URLs through the API: what a program in a real sandbox serves, under a host name of its own. */
import assert from "node:assert/strict";
import http from "node:http";
import { after, before, describe, test } from "node:test";
import { assertEchoes, get, NODE, optionsFor, SERVER } from "../conformance/port-server.mjs";
import { connectSocket } from "../conformance/socket.mjs";
import { as, assertProblem, IDENTITY, openStack, operator } from "./lib.mjs";

let stack;
let session;
const mint = (claims) => stack.api.mint(claims);
const ports = (id, suffix = "") => `/v1/sessions/${id}/ports${suffix}`;
const call = (method, path, body, headers = operator) => stack.api.call(method, path, body, headers);
const ok = (method, path, body, headers = operator) => stack.api.ok(method, path, body, headers);
const shell = async (command) => (await ok("POST", `/v1/sessions/${session.id}/exec`, { command, timeout_s: 30 })).body;
const openPort = async (body) => (await ok("POST", ports(session.id), body)).body;
const codeOf = ({ status, text }) => [status, JSON.parse(text).code];

/** Starts the server of the conformance tests on a port. */
async function serve(port) {
  const { exit_code, stderr } = await shell(
    `PORT=${port} setsid ${NODE} /workspace/server.cjs >/tmp/server.${port} 2>&1 & ` +
      `for i in $(seq 200); do grep -q listening /tmp/server.${port} && exit 0; sleep 0.05; done; exit 1`,
  );
  assert.equal(exit_code, 0, stderr);
}

/** A request that is not sent to its end, and what has come of its answer. */
async function streaming(url, options = {}) {
  const request = http.request(optionsFor(url, options));
  const seen = { request, text: "", status: null, complete: null };
  const note = () => {
    seen.complete ??= seen.response?.complete ?? false;
  };
  request.on("response", (response) => {
    Object.assign(seen, { response, status: response.statusCode });
    response.on("data", (part) => {
      seen.text += part;
    });
    response.on("error", note).on("close", note);
  });
  request.on("error", note).on("close", note);
  if (options.method === undefined) request.end();
  else request.write("a part\n");
  return seen;
}

before(async () => {
  stack = await openStack({
    vars: { ...IDENTITY, CAISSON_CORS_ORIGINS: "*" },
  });
  session = (await ok("POST", "/v1/sessions", { agent: "shell", files: [{ path: "server.cjs", content: SERVER }] }))
    .body;
  await serve(8080);
});
after(() => stack?.close());

describe("a preview", () => {
  let url;
  before(async () => {
    const opened = await call("POST", ports(session.id), { port: 8080, name: "web", expires_in_s: 600 });
    assert.equal(opened.status, 201, opened.bytes.toString());
    assert.equal(opened.headers.get("location"), ports(session.id, "/8080"));
    ({ url } = opened.body);
    const id = session.id.replace("_", "-");
    assert.match(url, new RegExp(`^http://8080-${id}-[a-z0-9_]{16}\\.localhost:${stack.port}/$`));
    const left = Date.parse(opened.body.expires_at) - Date.now();
    assert.ok(left > 590_000 && left <= 600_000, opened.body.expires_at);
    const { body } = await ok("GET", ports(session.id));
    assert.deepEqual(body, { ports: [opened.body] });
  });

  test("passes requests and answers through, as they come", async () => {
    const answer = await get(`${url}path/x?q=a%20b`, { method: "PUT", body: "y".repeat(100_000) });
    const seen = JSON.parse(answer.text);
    assert.deepEqual([seen.method, seen.url, seen.length], ["PUT", "/path/x?q=a%20b", 100_000]);
    const streamed = await get(`${url}stream`);
    assert.equal(streamed.text, "one\ntwo\n");
    assert.ok(streamed.times.at(-1) - streamed.times[0] > 200, "not streamed");
    assert.equal((await get(`${url}big`)).text.length, 20_000_000);
    const own = await get(`${url}502`);
    assert.deepEqual([own.status, own.text], [502, "the program's own 502\n"]);
    const redirect = await get(`${url}redirect`);
    assert.deepEqual(
      [redirect.status, redirect.headers.location, redirect.headers["set-cookie"]],
      [302, "/elsewhere", ["a=1", "b=2"]],
    );
  });

  test("carries WebSockets", async () => {
    const socket = await connectSocket(`${url}chat?room=1`, { headers: { origin: url.slice(0, -1) } });
    const hello = JSON.parse(await socket.until(({ messages }) => messages[0], "a hello"));
    assert.equal(hello.url, "/chat?room=1");
    await assertEchoes(socket);
    socket.send("close me");
    const closed = await socket.until(({ closed }) => closed, "the close");
    assert.deepEqual([closed.code, closed.reason], [4001, "why"]);
  });

  test("gets no key of the API, and gives no cookie to other hosts", async () => {
    const reader = await mint({ scopes: ["sessions:read"] });
    for (const token of [IDENTITY.CAISSON_API_KEY, reader]) {
      const seen = JSON.parse((await get(url, { headers: { ...as(token), "x-caisson-secret": "1" } })).text);
      assert.ok(!("authorization" in seen.headers) && !("x-caisson-secret" in seen.headers), JSON.stringify(seen));
    }
    const own = JSON.parse((await get(url, { headers: as("the-app's-own") })).text);
    assert.equal(own.headers.authorization, "Bearer the-app's-own");
    const { headers } = await get(`${url}cookie`);
    assert.deepEqual(headers["set-cookie"], ["c=3; Path=/; HttpOnly", "d=4"]);
    assert.equal(headers["referrer-policy"], "same-origin");
    assert.equal(headers["x-robots-tag"], "noindex");
    assert.ok(!("access-control-allow-origin" in headers));
  });

  test("has no page that may act on the API, whatever origins may", async () => {
    const origin = url.slice(0, -1);
    const answer = await call("GET", "/v1/sessions", undefined, { ...operator, origin });
    assert.equal(answer.headers.get("access-control-allow-origin"), null);
    const listed = await call("GET", "/v1/sessions", undefined, { ...operator, origin: "https://app.example" });
    assert.equal(listed.headers.get("access-control-allow-origin"), "https://app.example");
    const socket = await connectSocket(`${stack.url}/v1/sessions/${session.id}/events`, {
      headers: { ...operator, origin },
    }).catch((error) => error);
    assert.deepEqual([socket.status, JSON.parse(socket.text).code], [403, "origin_not_allowed"]);
    // Nothing of the API is served under the preview's name.
    assert.equal(JSON.parse((await get(`${url}v1/sessions`, { headers: operator })).text).url, "/v1/sessions");
  });

  test("is one of nothing with another token, port or session, or once it is closed", async () => {
    const bad = [
      url.replace(/-[a-z0-9_]{16}\./, "-0000000000000000."),
      url.replace("8080-", "8081-"),
      url.replace("8080-", "3000-"),
      url.replace("8080-", "80-"),
      url.replace(/ses-[a-z2-7]{20}/, "ses-aaaaaaaaaaaaaaaaaaaa"),
      url.replace(/ses-[a-z2-7]{20}/, "one-aaaaaaaaaaaaaaaa"),
    ];
    for (const one of bad) assert.deepEqual(codeOf(await get(one)), [404, "preview_not_found"], one);
    const again = await openPort({ port: 8080, name: "site" });
    assert.deepEqual([again.url, again.name], [url, "site"]);
    assert.equal((await call("DELETE", ports(session.id, "/8080"))).status, 204);
    assert.deepEqual(codeOf(await get(url)), [404, "preview_not_found"]);
    const socket = await connectSocket(`${url}chat`).catch((error) => error);
    assert.equal(socket.status, 404);
    assert.deepEqual((await ok("GET", ports(session.id))).body, { ports: [] });
    assertProblem(await call("DELETE", ports(session.id, "/8080")), 404, "port_not_found", "port");
    const other = await openPort({ port: 8080 });
    assert.notEqual(other.url, url);
    assert.equal((await get(other.url)).status, 200);
    assert.deepEqual(codeOf(await get(url)), [404, "preview_not_found"]);
  });

  test("ends what is under way when its port is closed, and nothing of another port", async () => {
    const [mine, other] = await Promise.all([8091, 8092].map((port) => openPort({ port })));
    await Promise.all([8091, 8092].map(serve));
    const said = async (port, what) => (await shell(`cat /tmp/server.${port}`)).stdout.includes(what);
    const under = async (url) => ({
      socket: await connectSocket(`${url}chat`),
      drip: await streaming(`${url}drip`),
      never: await streaming(`${url}never`),
      upload: await streaming(`${url}upload`, { method: "PUT", headers: { "content-length": 1_000 } }),
    });
    const [cut, kept] = await Promise.all([mine, other].map(({ url }) => under(url)));
    for (const { socket, drip } of [cut, kept]) {
      await assertEchoes(socket);
      await stack.api.until(() => drip.text.includes("drop"), "a stream");
    }
    for (const path of ["/never", "/upload"]) await stack.api.until(() => said(8091, `asked ${path}`), path);
    assert.equal((await call("DELETE", ports(session.id, "/8091"))).status, 204);
    const closed = await cut.socket.until(({ closed }) => closed, "the close", 1_000);
    assert.deepEqual(closed, { code: 1001, reason: "the port was closed" });
    // No end that a client could take for the answer's own.
    await stack.api.until(() => cut.drip.complete === false, "the end of the stream", 1_000);
    await stack.api.until(() => cut.never.complete && cut.upload.complete, "the end of what waited", 1_000);
    for (const { status, text } of [cut.never, cut.upload])
      assert.deepEqual([status, JSON.parse(text).code], [404, "preview_not_found"]);
    for (const end of ["socket closed 1001 the port was closed", "/drip cut", "upload cut"])
      await stack.api.until(() => said(8091, end), `the program to learn of ${end}`);
    const before = kept.drip.text.length;
    kept.socket.send("still here");
    await kept.socket.until(({ messages }) => messages.includes("still here"), "an echo of the other port");
    await stack.api.until(() => kept.drip.text.length > before, "more of the other port's stream");
    assert.deepEqual([kept.socket.closed, kept.drip.complete, kept.never.complete], [null, null, null]);
    // One that is opened again is served again.
    assert.equal((await get((await openPort({ port: 8091 })).url)).status, 200);
    for (const { request } of [kept.drip, kept.never, kept.upload, cut.upload]) request.destroy();
    await kept.socket.close();
    for (const port of [8091, 8092]) await ok("DELETE", ports(session.id, `/${port}`));
  });

  test("ends what is under way when its time is over, unless it was given more", async () => {
    ({ url } = await openPort({ port: 8080, expires_in_s: 2 }));
    const first = await connectSocket(`${url}chat`);
    await openPort({ port: 8080, expires_in_s: 4 });
    const drip = await streaming(`${url}drip`);
    await new Promise((r) => setTimeout(r, 2_200));
    assert.equal(first.closed, null);
    const closed = await first.until(({ closed }) => closed, "the close", 4_000);
    assert.deepEqual(closed, { code: 1001, reason: "the preview has expired" });
    await stack.api.until(() => drip.complete === false, "the end of the stream", 1_000);
    assert.deepEqual(codeOf(await get(url)), [404, "preview_not_found"]);
    ({ url } = await openPort({ port: 8080 }));
  });

  test("expires", async () => {
    const short = await openPort({ port: 8085, expires_in_s: 1 });
    await stack.api.until(async () => (await get(short.url)).status === 404, "the end", 5_000);
    assert.ok(!(await ok("GET", ports(session.id))).body.ports.some(({ port }) => port === 8085));
    assert.notEqual((await openPort({ port: 8085 })).url, short.url);
  });

  test("says when nothing listens", async () => {
    const { url: nobody } = await openPort({ port: 8090 });
    const answer = await get(nobody);
    assert.deepEqual(codeOf(answer), [502, "port_not_listening"], answer.text);
    assert.match(JSON.parse(answer.text).detail, /Start the program/);
    await serve(8090);
    assert.equal((await get(nobody)).status, 200);
  });
});

describe("a port", () => {
  test("is opened by who has the scope, in a session of its tenant", async () => {
    for (const scopes of [["sessions:write"], ["terminal"], ["execute"], ["preview:ses_aaaaaaaaaaaaaaaaaaaa"]]) {
      const headers = as(await mint({ scopes }));
      assertProblem(await call("POST", ports(session.id), { port: 9000 }, headers), 403, "insufficient_scope");
      assertProblem(await call("GET", ports(session.id), undefined, headers), 403, "insufficient_scope");
      assertProblem(await call("DELETE", ports(session.id, "/8080"), undefined, headers), 403, "insufficient_scope");
    }
    const foreign = as(await mint({ scopes: ["preview"], tenant: "acme" }));
    assertProblem(await call("POST", ports(session.id), { port: 9000 }, foreign), 404, "session_not_found");
    assertProblem(await call("DELETE", ports(session.id, "/8080"), undefined, foreign), 404, "session_not_found");
    const own = as(await mint({ scopes: [`preview:${session.id}`], sub: "ann" }));
    assert.equal((await call("POST", ports(session.id), { port: 9000 }, own)).status, 201);
    assert.equal((await call("DELETE", ports(session.id, "/9000"), undefined, own)).status, 204);
    const log = (await ok("GET", "/v1/audit")).bytes.toString().trim().split("\n").map(JSON.parse);
    const acts = log.filter(({ by }) => by === "ann").map(({ act, session: id, port }) => [act, id, port]);
    assert.deepEqual(acts, [
      ["port.opened", session.id, 9000],
      ["port.closed", session.id, 9000],
    ]);
  });

  test("is a number that a program may have", async () => {
    const bad = [
      [{ port: 80 }, "out_of_range", "/port"],
      [{ port: 65_536 }, "out_of_range", "/port"],
      [{ port: 3_000 }, "invalid_value", "/port"],
      [{ port: 8080.5 }, "invalid_type", "/port"],
      [{ port: "8080" }, "invalid_type", "/port"],
      [{}, "missing_field", "/port"],
      [{ port: 9001, expires_in_s: 0 }, "out_of_range", "/expires_in_s"],
      [{ port: 9001, expires_in_s: 86_401 }, "out_of_range", "/expires_in_s"],
      [{ port: 9001, name: "" }, "invalid_value", "/name"],
      [{ port: 9001, token: "mine" }, "unknown_field", "/token"],
    ];
    for (const [body, code, field] of bad) assertProblem(await call("POST", ports(session.id), body), 400, code, field);
    for (const port of ["x", "8080x", "99999"])
      assertProblem(await call("DELETE", ports(session.id, `/${port}`)), 404, "port_not_found", "port");
  });

  test("is one of sixteen at most", async () => {
    const { body } = await ok("GET", ports(session.id));
    for (let n = body.ports.length; n < 16; n += 1) await openPort({ port: 10_000 + n });
    assertProblem(await call("POST", ports(session.id), { port: 11_000 }), 409, "too_many_ports");
    await ok("DELETE", ports(session.id, "/10015"));
    await openPort({ port: 11_000 });
  });

  test("is gone with its session", async () => {
    const { url } = await openPort({ port: 8080 });
    assert.equal((await get(url)).status, 200);
    const socket = await connectSocket(`${url}chat`);
    const drip = await streaming(`${url}drip`);
    await stack.api.until(() => drip.text.includes("drop"), "a stream");
    await ok("DELETE", `/v1/sessions/${session.id}`);
    const closed = await socket.until(({ closed }) => closed, "the close", 1_000);
    assert.deepEqual([closed.code, drip.complete], [1001, false]);
    assert.match(closed.reason, /^the sandbox (is destroyed|has stopped)$/);
    const answer = await get(url);
    assert.ok([404, 410].includes(answer.status), `${answer.status} ${answer.text}`);
    assert.match(JSON.parse(answer.text).code, /^preview_/);
    assertProblem(await call("POST", ports(session.id), { port: 8080 }), 409, "session_ended");
  });
});
