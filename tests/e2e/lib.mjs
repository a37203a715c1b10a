/** What the end-to-end tests share: a stack of their own, calls that fail loudly, a run followed to its end. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { ROOT, sse, startLocal } from "../../scripts/local.mjs";

/** milliseconds: less than a test may take, so that a call which hangs fails its test and keeps nothing open. */
const CALL_MS = 120_000;

export const OUTCOME = /^run\.(succeeded|failed|interrupted|cancelled|timed_out|over_budget|policy_violation)$/;

/** Bindings of a Worker that asks who calls, and signs tokens. */
export const IDENTITY = {
  CAISSON_API_KEY: "operator-key-of-the-tests",
  CAISSON_KEYS: JSON.stringify({
    issuer: "tests",
    audience: "tests",
    keys: [{ kid: "a", secret: Buffer.alloc(32, 5).toString("base64url") }],
  }),
};
/** The header of who has a key or token. */
export const as = (token) => ({ authorization: `Bearer ${token}` });
export const operator = as(IDENTITY.CAISSON_API_KEY);

/** A local stack on a free port with fresh state; `close()` ends it and removes the state. */
export async function openStack(options = {}) {
  const dir = mkdtempSync(join(ROOT, "build", "e2e-"));
  const local = await startLocal({ dir, port: 0, apiKey: null, ...options });
  return {
    ...local,
    api: client(local.url),
    close: async () => {
      await local.stop();
      if (!process.env.KEEP) rmSync(dir, { recursive: true, force: true });
    },
  };
}

export function client(url) {
  /** Sends JSON (or raw bytes) and returns {status, headers, body}; the body parsed when it is JSON. */
  async function call(method, path, body, headers = {}) {
    const init = { method, headers: { ...headers }, signal: AbortSignal.timeout(CALL_MS) };
    if (body !== undefined) {
      const raw = typeof body === "string" || body instanceof Uint8Array;
      init.body = raw ? body : JSON.stringify(body);
      if (!Object.keys(headers).some((h) => h.toLowerCase() === "content-type"))
        init.headers["content-type"] =
          raw && typeof body !== "string" ? "application/octet-stream" : "application/json";
    }
    const response = await fetch(url + path, init);
    const type = response.headers.get("content-type") ?? "";
    const bytes = Buffer.from(await response.arrayBuffer());
    return {
      status: response.status,
      headers: response.headers,
      bytes,
      body: /json/.test(type) && !/ndjson/.test(type) ? JSON.parse(bytes.toString("utf8")) : bytes.toString("utf8"),
    };
  }
  async function ok(method, path, body, headers) {
    const answer = await call(method, path, body, headers);
    assert.ok(
      answer.status >= 200 && answer.status < 300,
      `${method} ${path}: ${answer.status} ${answer.bytes.toString("utf8").slice(0, 600)}`,
    );
    return answer;
  }
  /** Follows a run's events over SSE to its outcome; `onEvent` sees each one as it comes. */
  async function follow(sessionId, runId, onEvent = () => {}, headers = {}) {
    const response = await fetch(`${url}/v1/sessions/${sessionId}/events?run=${runId}`, {
      headers: { accept: "text/event-stream", ...headers },
      signal: AbortSignal.timeout(90_000),
    });
    assert.equal(response.status, 200, await (response.status === 200 ? "" : response.text()));
    const events = [];
    for await (const message of sse(response)) {
      const event = JSON.parse(message.data);
      assert.equal(String(event.seq), message.id);
      assert.equal(event.type, message.event);
      events.push(event);
      await onEvent(event);
      if (OUTCOME.test(event.type)) return { events, outcome: event };
    }
    assert.fail(`the stream ended before ${runId} did: ${JSON.stringify(events.at(-1))}`);
  }
  return {
    url,
    call,
    ok,
    follow,
    /** A token with these claims, of a Worker with IDENTITY. */
    async mint(claims) {
      return (await ok("POST", "/v1/tokens", claims, operator)).body.token;
    },
    async session(body) {
      return (await ok("POST", "/v1/sessions", body)).body;
    },
    async run(sessionId, body) {
      const run = (await ok("POST", `/v1/sessions/${sessionId}/runs`, body)).body;
      return { run, ...(await follow(sessionId, run.id)) };
    },
    /** Waits until `check` gives something truthy. */
    async until(check, what, ms = 20_000) {
      const deadline = Date.now() + ms;
      for (;;) {
        const value = await check();
        if (value) return value;
        assert.ok(Date.now() < deadline, `not within ${ms} ms: ${what}`);
        await new Promise((r) => setTimeout(r, 100));
      }
    },
  };
}

/** Asserts a problem document with this status, code and field. */
export function assertProblem(answer, status, code, field) {
  const seen = JSON.stringify(answer.body);
  assert.equal(answer.status, status, seen);
  assert.match(answer.headers.get("content-type") ?? "", /application\/problem\+json/);
  assert.equal(answer.body.code, code, seen);
  assert.equal(answer.body.status, status);
  assert.ok(answer.body.title && answer.body.detail, seen);
  if (field !== undefined) assert.equal(answer.body.field, field, seen);
}
