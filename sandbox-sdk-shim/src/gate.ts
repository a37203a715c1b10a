/**
 * The way out of a sandbox: every request that a program inside makes comes here, in production through the platform's
 * interception and locally through the engine's. The session that owns the sandbox is asked, credentials are put in,
 * the request goes on, streaming both ways, and what became of it is told the session.
 */
import guardModule from "../../build/guard.wasm";
import { Guard } from "../../worker/src/core/guard.js";
import { operatorMask, report } from "../../worker/src/effects/report.js";
import type { Env } from "../../worker/src/env.js";
import type { EgressAnswer, EgressQuestion, SessionRpc } from "../../worker/src/session/api.js";
import type { Answer } from "./egress-server.js";
import { heldPush, isPush } from "./git-push.js";
import { modelEgress, modelHost } from "./model-egress.js";
import type { Sandbox } from "./sandbox.js";
import { lengthOf, watched } from "./watched.js";
import { ADDRESS, AddressRefused, doorOf, type Outgoing, type WayOut, wayOut } from "./way-out.js";

/** bytes: JSON bodies up to so many are searched for placeholders, where a rule says so. */
const BODY_SEARCHED_MAX = 65_536;
/** items: owners remembered; a sandbox's owner never changes. */
const OWNERS_MAX = 1_000;

/** Headers of the connection that the sandbox used, and of the platform. */
const DROPPED = new Set([
  "connection",
  "proxy-authorization",
  "proxy-connection",
  "host",
  "cf-connecting-ip",
  "cf-ray",
]);

const owners = new Map<string, string>();

/** Name of the Session object that owns the sandbox; "" for one that no session owns. */
async function ownerOf(env: Env, containerId: string): Promise<string> {
  const known = owners.get(containerId);
  if (known !== undefined) return known;
  const sandbox = env.SANDBOX.get(env.SANDBOX.idFromString(containerId)) as unknown as Pick<Sandbox, "owner">;
  const owner = await sandbox.owner();
  // Until the session has said so the sandbox has no owner; that is not remembered.
  if (owner !== "") {
    if (owners.size >= OWNERS_MAX) owners.clear();
    owners.set(containerId, owner);
  }
  return owner;
}

/** The handler of every outbound request that comes through the platform's interception (ContainerProxy calls it). */
export async function gate(request: Request, env: Env, { containerId }: { containerId: string }): Promise<Response> {
  const owner = await ownerOf(env, containerId);
  if (owner === "") {
    const { hostname } = new URL(request.url);
    return denied("network", `${hostname} is denied: this sandbox has no session, and so no network.`);
  }
  const session = env.SESSION.get(env.SESSION.idFromName(owner)) as unknown as SessionRpc;
  const { response, watch } = await pass(request, env, containerId, session);
  const { status, statusText, webSocket } = response;
  const headers = new Headers(response.headers);
  headers.delete(ADDRESS);
  const body =
    response.body === null || watch === null
      ? response.body
      : watched(response.body, lengthOf(response.headers), watch);
  return new Response(body, { status, statusText, headers, webSocket, encodeBody: "manual" });
}

/** Lets a request of the sandbox pass as far as its session allows. `session`: the object, or the way to it. */
export async function pass(request: Request, env: Env, containerId: string, session: SessionRpc): Promise<Answer> {
  const url = new URL(request.url);
  const model = modelHost(url.hostname);
  const upgrade = request.headers.get("upgrade")?.toLowerCase() === "websocket";
  const question: EgressQuestion = {
    // A name of ours stands for the vendor's: the policy speaks of the vendor.
    host: model?.hosts[0] ?? url.hostname,
    port: model !== null ? 443 : Number(url.port || (url.protocol === "https:" ? "443" : "80")),
    method: request.method,
    path: url.pathname,
    websocket: upgrade,
    push: isPush(request),
    policy: judges.get(containerId)?.id ?? null,
    door: doorOf(request, env),
  };
  const asked = await session.egress(question);
  if (!asked.ok) return unwatched(denied("session", asked.detail));
  const answer = asked.value;
  if (!answer.allow)
    return unwatched(model?.refuse(403, "permission_error", answer.reason) ?? denied(answer.rule, answer.reason));
  const begun = Date.now();
  const up: Counter = { bytes: 0, head: "" };
  let address: string | null = null;
  const ended = async (status: number, bytes_down: number | null): Promise<void> => {
    const duration_ms = Date.now() - begun;
    const bytes_up = bytes_down === null ? null : up.bytes;
    await session.egressEnded(answer.id, { status, bytes_up, bytes_down, duration_ms, address });
  };
  // Asking what models there are costs nothing; everything that a model does is a POST.
  const spends = model !== null && request.method === "POST";
  const payer = spends ? await mayCall(session) : null;
  if (model !== null && payer !== null && payer.run === null) {
    await ended(403, 0);
    return unwatched(model.refuse(403, "permission_error", payer.reason));
  }
  try {
    let response: Response;
    if (model !== null) {
      const { url: to, ...init } = await outgoing(request, answer, up);
      response = decoded(await modelEgress(new Request(to, { ...init, redirect: "manual" }), env));
      // Who leaves before the answer begins has asked all the same: over and over it would cost, and count as nothing.
      if (
        request.signal.aborted &&
        !response.ok &&
        payer !== null &&
        payer.run !== null &&
        GENERATES.test(url.pathname)
      )
        await session.countUsage(payer.run, {
          ...askedModel(url.pathname, up),
          input_tokens: Math.ceil(up.bytes / TOKEN_BYTES),
        });
    } else {
      const out = wayOut(request, env);
      const judged = await judgedAddress(out, session, answer, question, judgeOf(containerId, answer.byAddress));
      if (typeof judged === "object" && judged !== null) return unwatched(judged);
      const held = answer.holdPush ? await heldPush(request, session, answer.id) : request;
      if (held instanceof Response) {
        await ended(held.status, 0);
        return unwatched(held);
      }
      ({ response, address } = await out.send(await outgoing(held, answer, up), judged, answer.id));
    }
    const usage =
      payer !== null && payer.run !== null && response.ok
        ? usageOf(session, payer.run, response, url.pathname, up)
        : null;
    return await passed(response, ended, usage);
  } catch (error) {
    if (error instanceof UnfitSecret) {
      await ended(403, 0);
      return unwatched(denied("network.inject", error.message));
    }
    if (error instanceof AddressRefused) {
      const told = await session.egressAddress(answer.id, [error.address]);
      if (!told.ok || told.value.address === null)
        return unwatched(denied(told.ok ? told.value.rule : "session", told.ok ? told.value.reason : told.detail));
    }
    const why = error instanceof Error ? error.message : String(error);
    report(operatorMask(env), "error", `egress: ${await session.masked(`${question.host}: ${why}`)}`);
    await ended(502, 0);
    const document = {
      type: "urn:caisson:problem:egress_failed",
      title: "The host does not answer",
      status: 502,
      detail: `${question.host} does not answer: ${why}`,
    };
    return unwatched(Response.json(document, { status: 502, headers: { "content-type": "application/problem+json" } }));
  }
}

/** items: policies kept, each in a guard of its own. */
const JUDGES_MAX = 50;
/** The policy by which a sandbox's addresses were judged last. */
const judges = new Map<string, { readonly id: string; readonly guard: Guard }>();

/** A guard with that policy, null where the session itself is to judge. */
function judgeOf(containerId: string, policy: EgressAnswer["byAddress"]): Guard | null {
  if (policy === null) return null;
  const known = judges.get(containerId);
  if (known?.id === policy.id) return known.guard;
  judges.delete(containerId);
  if (policy.text === null) return null;
  const guard = new Guard(guardModule);
  guard.setPolicy(policy.text, "caisson");
  if (judges.size >= JUDGES_MAX) judges.clear();
  judges.set(containerId, { id: policy.id, guard });
  return guard;
}

/** The address to connect to, null to leave it to the way out, or the denial. A denial is the session's to say: it logs it. */
async function judgedAddress(
  out: WayOut,
  session: SessionRpc,
  answer: EgressAnswer,
  { host, port }: EgressQuestion,
  judge: Guard | null,
): Promise<string | null | Response> {
  if (answer.byAddress === null) return null;
  const allows = (address: string): boolean => judge?.net(host, port, address).verdict === "allow";
  if (out.open !== null && allows(out.open)) return out.open;
  const addresses = answer.address === null ? await out.addresses(host) : [answer.address];
  if (addresses === null) return null;
  if (addresses.length === 0) throw new Error("no such name");
  const good = addresses.find(allows);
  if (good !== undefined) return good;
  const judged = await session.egressAddress(answer.id, addresses);
  if (!judged.ok) return denied("session", judged.detail);
  return judged.value.address ?? denied(judged.value.rule, judged.value.reason);
}

function denied(rule: string, reason: string): Response {
  const document = {
    type: "urn:caisson:problem:egress_denied",
    title: "The policy does not allow this connection",
    status: 403,
    code: "egress_denied",
    rule,
    detail: reason,
  };
  return Response.json(document, {
    status: 403,
    headers: { "content-type": "application/problem+json", "x-caisson-denied": rule, "cache-control": "no-store" },
  });
}

interface Counter {
  bytes: number;
  /** The first HEAD_MAX of them, a character each. */
  head: string;
}
/** bytes: more than a body needs to name its model first. */
const HEAD_MAX = 256;

function count(up: Counter, piece: Uint8Array): void {
  up.bytes += piece.byteLength;
  if (up.head.length < HEAD_MAX)
    up.head += Buffer.from(piece.subarray(0, HEAD_MAX - up.head.length)).toString("latin1");
}

/** An answer of which nothing is to be counted. */
const unwatched = (response: Response): Answer => ({ response, watch: null });

/** The request with the credentials that the policy puts in. */
async function outgoing(request: Request, answer: EgressAnswer, up: Counter): Promise<Outgoing> {
  const headers = new Headers();
  for (const [name, value] of request.headers) {
    if (DROPPED.has(name) || name.startsWith("x-caisson-")) continue;
    const text = replaced(value, answer.replace);
    if (text !== value) requireFit(name, text);
    headers.append(name, text);
  }
  // The answer passes as the sandbox asked for it; nothing here decodes it.
  for (const [name, value] of answer.headers) {
    requireFit(name, value);
    headers.set(name, value);
  }
  const length = lengthOf(request.headers);
  const isJSON = /^application\/(\w+\+)?json\b/i.test(request.headers.get("content-type") ?? "");
  let body: BodyInit | null = null;
  if (request.body !== null && answer.body && isJSON && length !== null && length <= BODY_SEARCHED_MAX) {
    const bytes = await new Response(request.body).bytes();
    count(up, bytes);
    body = replaced(new TextDecoder().decode(bytes), answer.replace, jsonText);
    headers.delete("content-length");
  } else if (request.body !== null) {
    const see = (piece: Uint8Array): void => count(up, piece);
    body = watched(request.body, length, { see, over: async () => {} });
  }
  const { url, method, signal } = request;
  return { url, method, headers, body, signal };
}

/** A secret that no header can carry. The runtime would print what it refuses, whole, where nobody masks it. */
class UnfitSecret extends Error {}

function requireFit(name: string, value: string): void {
  if (/^[\t\x20-\x7e]*$/.test(value)) return;
  throw new UnfitSecret(
    `The header ${name} would carry a secret that has other characters than those of printable ASCII.`,
  );
}

const jsonText = (text: string): string => JSON.stringify(text).slice(1, -1);

/** Every placeholder replaced by what it stands for. */
export function replaced(
  text: string,
  pairs: readonly (readonly [string, string])[],
  encode: (secret: string) => string = (secret) => secret,
): string {
  return pairs.reduce((value, [placeholder, secret]) => value.replaceAll(placeholder, () => encode(secret)), text);
}

/** milliseconds: a run's program may ask its model before the session knows that it has started. */
const START_WAIT_MS = 2_000;

/** The run that a model call is for, null when none may make one. */
async function mayCall(session: SessionRpc): Promise<{ run: string } | { run: null; reason: string }> {
  for (const deadline = Date.now() + START_WAIT_MS; ; ) {
    const asked = await session.mayCallModel();
    if (!asked.ok) return { run: null, reason: asked.detail };
    const { run_id, may_call, reached } = asked.value;
    if (run_id !== null && may_call) return { run: run_id };
    if (reached !== null)
      return { run: null, reason: `The session's limit ${reached} is used up: no further model call is made.` };
    if (Date.now() > deadline) return { run: null, reason: "Models are called by runs, and none is under way." };
    await scheduler.wait(50);
  }
}

/** A model's answer is read on its way, and so decoded: it goes on as it was read. */
function decoded(response: Response): Response {
  if (!response.headers.has("content-encoding")) return response;
  const headers = new Headers(response.headers);
  headers.delete("content-encoding");
  headers.delete("content-length");
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

/** bytes of a request that are about one token */
const TOKEN_BYTES = 4;

interface Usage {
  readonly push: (chunk: Uint8Array) => void;
  readonly end: () => Promise<void>;
}

/** Paths whose answers are a model's words. The others of a model's interface generate nothing. */
const GENERATES = /\/(messages|chat\/completions|responses(\/compact)?)$|:(streamGenerate|generate)Content$/;

/** In the path, or as the body's first member, where the agents have it: a name further on could be in a text. */
const ASKED_MODEL = [/\/models\/([\w.-]{1,64}):/, /^\s*\{\s*"model"\s*:\s*"([\w.:/@-]{1,64})"/] as const;

/** The model that a request names, for an answer that names none. */
function askedModel(path: string, { head }: Counter): { model?: string } {
  const model = (ASKED_MODEL[0].exec(path) ?? ASKED_MODEL[1].exec(head))?.[1];
  return model === undefined ? {} : { model };
}

/**
 * Reads what the answer says it used as it passes; whatever the agent reports, this counts against the budget. An answer that
 * does not say it counts by its length and the request's: a program may ask for that, or leave before the end, to be counted
 * as nothing.
 */
function usageOf(session: SessionRpc, run: string, response: Response, path: string, up: Counter): Usage {
  const guard = new Guard(guardModule);
  guard.wireBegin(/^text\/event-stream\b/i.test(response.headers.get("content-type") ?? ""));
  return {
    push: (chunk) => guard.wirePush(chunk),
    async end() {
      const { seen, model, unread: _, final, estimate, ...said } = guard.wireEnd();
      const tokens = { ...said };
      if (!final && GENERATES.test(path)) {
        tokens.output_tokens = Math.max(said.output_tokens, estimate);
        if (!seen) tokens.input_tokens = Math.ceil(up.bytes / TOKEN_BYTES);
      } else if (!seen) {
        return;
      }
      await session.countUsage(run, { ...tokens, ...(model === "" ? askedModel(path, up) : { model }) });
    },
  };
}

/** The answer as it comes, to be counted; its end is reported before the sandbox sees it. */
async function passed(
  response: Response,
  ended: (status: number, down: number | null) => Promise<void>,
  usage: Usage | null,
): Promise<Answer> {
  let bytes = 0;
  const over = async (): Promise<void> => {
    await usage?.end();
    await ended(response.status, bytes);
  };
  const see = (chunk: Uint8Array): void => {
    bytes += chunk.byteLength;
    usage?.push(chunk);
  };
  if (response.webSocket === null && response.body !== null) return { response, watch: { see, over } };
  // What passes through a WebSocket is not seen here: it is joined outside of JavaScript, with its back pressure.
  await ended(response.status, response.webSocket !== null ? null : 0);
  return unwatched(response);
}
