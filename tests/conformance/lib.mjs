/** What the test files share: the running stack, sandboxes that are destroyed in the end, one suite per transport. */
import assert from "node:assert/strict";
import { after, describe } from "node:test";
import { SDKError, sdk } from "./sdk.mjs";

const url = process.env.CONFORMANCE_URL;
if (!url) throw new Error("run these tests with: node tests/conformance/run.mjs [NAME…]");

export const client = sdk(url);
export const engine = JSON.parse(process.env.CONFORMANCE_ENGINE);
export const TRANSPORTS = (process.env.CONFORMANCE_TRANSPORTS ?? "http websocket").split(" ");
export const sleep = (ms) => new Promise((r) => setTimeout(r, ms));

let serial = 0;
/** An id that no other test of this run has; valid in a preview URL. */
export const freshId = (label = "t") => `${label}-${process.pid.toString(36)}-${(serial++).toString(36)}`;

/** A maker of sandboxes with these options; each is destroyed when the surrounding suite is over. */
export function sandboxes(defaults = {}) {
  const made = [];
  after(() => Promise.all(made.map((sandbox) => sandbox.destroy().catch(() => {}))));
  return (options = {}, { namespace, id = freshId(defaults.transport) } = {}) => {
    const sandbox = client.sandbox(id, { ...defaults, ...options }, namespace);
    made.push(sandbox);
    return Object.assign(Object.create(null), { id, sandbox }).sandbox;
  };
}

/** The same tests over each transport: `define(make, transport)`. */
export function perTransport(what, define) {
  for (const transport of TRANSPORTS)
    describe(`${what}, ${transport}`, { concurrency: true }, () => define(sandboxes({ transport }), transport));
}

/** Asserts that `promise` rejects with an error of this class and code; gives the error. */
export async function rejects(promise, { name, code, message, context }) {
  let error;
  try {
    const value = await promise;
    assert.fail(`expected ${name ?? code ?? message}, got ${JSON.stringify(value)?.slice(0, 500)}`);
  } catch (caught) {
    if (!(caught instanceof SDKError)) throw caught;
    error = caught;
  }
  // Over its WebSocket, and while that is being opened, the SDK tells of a refused stream in text alone.
  const told = error.message.match(/^(?:Stream error:|HTTP error! status:) \d+ - (\{.*\})$/s);
  if (told && error.code === undefined) Object.assign(error, JSON.parse(told[1]), { message: error.message });
  const seen = `${error.name} ${error.code}: ${error.message} ${JSON.stringify(error.context)}`;
  if (name) assert.equal(error.name, name, seen);
  if (code) assert.equal(error.code, code, seen);
  if (message) assert.match(error.message, message, seen);
  if (context) for (const [key, value] of Object.entries(context)) assert.deepEqual(error.context?.[key], value, seen);
  return error;
}

/** Waits until `check` gives something truthy. */
export async function until(check, what, ms = 60_000) {
  const deadline = Date.now() + ms;
  for (;;) {
    const value = await check();
    if (value) return value;
    assert.ok(Date.now() < deadline, `not within ${ms} ms: ${what}`);
    await sleep(50);
  }
}
