/** Links to artifacts and quotas at the real Worker, with real sandboxes: what a link opens, and many starts at once. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { sse } from "../../scripts/local.mjs";
import { connectSocket } from "../conformance/socket.mjs";
import { as, assertProblem, IDENTITY, openStack, operator } from "./lib.mjs";

const QUOTAS = { gold: { sessions_alive: 3 }, tin: { starts_per_minute: 2 }, fast: { requests_per_second: 4 } };
let stack;
let api;
before(async () => {
  stack = await openStack({
    vars: {
      ...IDENTITY,
      CAISSON_QUOTAS: JSON.stringify(QUOTAS),
    },
  });
  api = stack.api;
});
after(() => stack?.close());

/** A token of a tenant with a class of quotas, as a header. */
async function tenant(name, quota) {
  return as(await api.mint({ tenant: name, quota, scopes: ["sessions:write", "execute"] }));
}

describe("a link to an artifact", () => {
  test("downloads what a run has left, to anybody, until it is revoked", async () => {
    const { id } = (await api.ok("POST", "/v1/sessions", { agent: "shell" }, operator)).body;
    const base = `/v1/sessions/${id}`;
    const page = "<html><script>alert(1)</script></html>\n";
    const command = `mkdir -p out && printf '%s\\n' '${page.trim()}' > out/page.html && head -c 300000 /dev/urandom > out/big.bin && sha256sum out/big.bin`;
    const run = (await api.ok("POST", `${base}/runs`, { command }, operator)).body;
    const { outcome } = await api.follow(id, run.id, () => {}, operator);
    assert.equal(outcome.type, "run.succeeded");
    const link = async (path) => (await api.ok("POST", `${base}/share`, { artifact: { path } }, operator)).body;
    const [html, big] = [await link("out/page.html"), await link("out/big.bin")];
    const at = (url) => new URL(url).pathname;
    const got = await api.call("GET", at(html.url));
    assert.deepEqual([got.status, got.bytes.toString()], [200, page]);
    assert.equal(got.headers.get("content-type"), "application/octet-stream");
    assert.equal(got.headers.get("content-disposition"), "attachment; filename*=UTF-8''page.html");
    assert.match(got.headers.get("content-security-policy"), /^sandbox; default-src 'none'/);
    assert.equal(got.headers.get("x-content-type-options"), "nosniff");
    const whole = await api.ok("GET", at(big.url));
    assert.equal(whole.bytes.length, 300_000);
    const headOnly = await api.ok("HEAD", at(big.url));
    assert.deepEqual([headOnly.bytes.length, headOnly.headers.get("etag")], [0, whole.headers.get("etag")]);
    // The session's end takes nothing away; a revocation does.
    await api.ok("DELETE", base, undefined, operator);
    await api.ok("GET", at(html.url));
    await api.ok("DELETE", `${base}/shares/${html.id}`, undefined, operator);
    assertProblem(await api.call("GET", at(html.url)), 404, "link_not_found");
    await api.ok("GET", at(big.url));
    const token = at(big.url).split("/").at(-1);
    assertProblem(await api.call("GET", `${base}/artifacts?share=${token}`), 403, "insufficient_scope");
    assertProblem(await api.call("GET", `/v1/links/${token.slice(0, -3)}AAA`), 404, "link_not_found");
  });
});

describe("who reads a session live", () => {
  const idle = (id) => `/v1/sessions/${id}/events`;
  /** An event stream and a WebSocket, both past the events that there are. */
  async function reading(id, query, headers) {
    const socket = await connectSocket(`${stack.url}${idle(id)}${query}`, { headers });
    const response = await fetch(`${stack.url}${idle(id)}${query}`, {
      headers: { ...headers, accept: "text/event-stream" },
    });
    assert.equal(response.status, 200);
    const seen = { socket, events: [], over: false };
    void (async () => {
      for await (const { event } of sse(response)) seen.events.push(event);
      seen.over = true;
    })();
    const all = () => seen.events.includes("session.idle") && socket.messages.length === seen.events.length;
    await api.until(all, "the log");
    return seen;
  }

  /** The close frame that has come or comes; the runtime ends the connection below it some seconds later. */
  async function closeOf({ ws, until }, ms) {
    await api.until(() => ws.readyState >= ws.CLOSING, "the close", ms);
    ws.terminate();
    return await until(({ closed }) => closed, "the end");
  }

  test("does so until the link is revoked, and others go on", async () => {
    const { id } = (await api.ok("POST", "/v1/sessions", { agent: "shell" }, operator)).body;
    const share = async () => (await api.ok("POST", `/v1/sessions/${id}/share`, {}, operator)).body;
    const [one, two] = [await share(), await share()];
    const [cut, kept] = [await reading(id, `?share=${one.token}`), await reading(id, `?share=${two.token}`)];
    await api.ok("DELETE", `/v1/sessions/${id}/shares/${one.id}`, undefined, operator);
    assert.deepEqual(await closeOf(cut.socket, 1_000), { code: 1008, reason: "the link was revoked" });
    await api.until(() => cut.over, "the end of the stream", 1_000);
    const count = cut.events.length;
    await api.ok("POST", `/v1/sessions/${id}/runs`, { command: "true" }, operator);
    await api.until(() => kept.events.includes("run.succeeded"), "the other link's events");
    assert.deepEqual([cut.events.length, cut.socket.messages.length], [count, count]);
    assert.deepEqual([kept.over, kept.socket.closed], [false, null]);
    await api.ok("DELETE", `/v1/sessions/${id}`, undefined, operator);
    assert.equal((await closeOf(kept.socket)).code, 1000);
  });

  test("does so until the token ends", async () => {
    const { id } = (await api.ok("POST", "/v1/sessions", { agent: "shell" }, operator)).body;
    const claims = { scopes: [`sessions:read:${id}`], expires_in_s: 3 };
    const token = await api.mint(claims);
    const short = await reading(id, "", as(token));
    await api.until(() => short.over, "the end of the stream", 5_000);
    const count = short.events.length;
    // A WebSocket sleeps between events: the next one finds it over.
    await api.ok("POST", `/v1/sessions/${id}/runs`, { command: "true" }, operator);
    assert.deepEqual(await closeOf(short.socket), { code: 1008, reason: "the token has expired" });
    assert.equal(short.socket.messages.length, count);
    await api.ok("DELETE", `/v1/sessions/${id}`, undefined, operator);
  });
});

describe("quotas", () => {
  const many = (n, ask) => Promise.all(Array.from({ length: n }, (_, i) => ask(i)));
  /** Let in; each refusal names the limit and says when to come again. */
  function letIn(answers, limit) {
    for (const answer of answers.filter(({ status }) => status >= 300)) {
      assertProblem(answer, 429, "quota_exceeded");
      assert.equal(answer.body.limit, limit);
      assert.match(answer.headers.get("retry-after"), /^[1-9]\d*$/);
    }
    return answers.filter(({ status }) => status < 300);
  }

  test("hold for starts that race, and each tenant has its own", async () => {
    const [gold, other, tin] = [
      await tenant("gold-1", "gold"),
      await tenant("gold-2", "gold"),
      await tenant("tin-1", "tin"),
    ];
    const start = (headers) => api.call("POST", "/v1/sessions", { agent: "shell" }, headers);
    const answers = await many(24, (i) => start([gold, other, tin][i % 3]));
    const of = (n) => answers.filter((_, i) => i % 3 === n);
    const made = letIn(of(0), "sessions_alive");
    assert.deepEqual([made.length, letIn(of(1), "sessions_alive").length], [3, 3]);
    assert.equal(letIn(of(2), "starts_per_minute").length, 2);
    // One that ends makes room for one.
    await api.ok("DELETE", `/v1/sessions/${made[0].body.id}`, undefined, gold);
    await api.until(async () => {
      const again = await many(3, () => start(gold));
      return letIn(again, "sessions_alive").length === 1;
    }, "room for one more");
  });

  test("hold for requests that race", async () => {
    const fast = await tenant("fast-1", "fast");
    const begun = Date.now();
    const answers = await many(30, () => api.call("GET", "/v1/sessions", undefined, fast));
    const seconds = Math.ceil((Date.now() - begun) / 1_000);
    const passed = letIn(answers, "requests_per_second").length;
    assert.ok(passed >= 4 && passed <= 4 * (seconds + 1), `${passed} in ${seconds} s`);
    assert.ok(passed < 30 || seconds > 6, `${passed} in ${seconds} s`);
  });
});
