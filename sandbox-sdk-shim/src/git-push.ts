/**
 * Git pushes on their way out of a sandbox, held until somebody approves (git's smart HTTP protocol:
 * git-scm.com/docs/http-protocol, git-scm.com/docs/pack-protocol). What is read is the list of refs that the push begins
 * with; the pack behind it waits in the sandbox by back pressure and is never held here.
 */
import type { PushedRef, SessionRpc } from "../../worker/src/session/api.js";

/** bytes: the list of refs that a push may begin with. */
const COMMANDS_MAX = 65_536;
const RESULT_TYPE = "application/x-git-receive-pack-result";

interface Commands {
  readonly refs: readonly PushedRef[];
  readonly capabilities: readonly string[];
}

/** Whether the request asks a git server to take a push, however its path is spelled. */
export function isPush(request: Request): boolean {
  if (/^application\/x-git-receive-pack-request\b/i.test(request.headers.get("content-type") ?? "")) return true;
  let path = new URL(request.url).pathname;
  try {
    // A server may decode once more than we do; a push must not hide in the difference.
    for (let i = 0; i < 3; i++) path = decodeURIComponent(path);
  } catch {
    // as far as it could be decoded
  }
  return request.method !== "GET" && request.method !== "HEAD" && /\/git-receive-pack\/*$/i.test(path);
}

/** The request to send on once the push is approved, or the answer to give instead. */
export async function heldPush(request: Request, session: SessionRpc, entry: number): Promise<Request | Response> {
  const body = request.body?.getReader();
  const read = body === undefined || request.headers.has("content-encoding") ? null : await readCommands(body);
  if (read === null || body === undefined) {
    await body?.cancel().catch(() => {});
    return new Response("Caisson: this push cannot be read, and so not be shown to anybody for approval.\n", {
      status: 403,
      headers: { "x-caisson-denied": "git.push_approval" },
    });
  }
  const { commands, head } = read;
  // Git asks first whether it may speak at all, with an empty list. That changes nothing; whatever follows it is dropped.
  if (commands.refs.length === 0) {
    await body.cancel().catch(() => {});
    return new Request(request, { body: "0000" });
  }
  const asked = await session.requestApproval(entry, commands.refs);
  let state: string = asked.ok ? asked.value.state : "denied";
  let why = asked.ok ? "" : asked.detail;
  while (asked.ok && state === "pending") {
    if (request.signal.aborted) {
      await session.resolveApproval(asked.value.id, "withdrawn", "", "the push was given up");
      throw new Error("the push was given up");
    }
    const now = await session.awaitApproval(asked.value.id);
    state = now.ok ? now.value.state : "denied";
    why = now.ok ? now.value.reason : now.detail;
  }
  if (state === "approved") return new Request(request, { body: rejoined(head, body) });
  // Read to its end: an answer that comes before would look like a broken connection.
  for (let part = await body.read(); !part.done; part = await body.read());
  const id = asked.ok ? ` (${asked.value.id})` : "";
  const text = state === "expired" ? "nobody approved it in time" : `it was denied${why === "" ? "" : `: ${why}`}`;
  return refusal(commands, `This push needs an approval${id}, and ${text}.`);
}

/** Reads up to the end of the list of refs; null when it is not one. `head`: all bytes read so far. */
async function readCommands(
  body: ReadableStreamDefaultReader<Uint8Array>,
): Promise<{ commands: Commands; head: Uint8Array } | null> {
  let head = new Uint8Array();
  const lines: string[] = [];
  for (let at = 0; ; ) {
    const size = at + 4 <= head.byteLength ? Number.parseInt(latin1(head.subarray(at, at + 4)), 16) : -1;
    if (at + 4 <= head.byteLength && !/^[0-9a-f]{4}$/i.test(latin1(head.subarray(at, at + 4)))) return null;
    if (size === 0) break;
    if (size > 0 && size < 4) return null;
    if (size > 0 && at + size <= head.byteLength) {
      lines.push(new TextDecoder().decode(head.subarray(at + 4, at + size)));
      at += size;
      continue;
    }
    if (head.byteLength > COMMANDS_MAX) return null;
    const part = await body.read();
    if (part.done) return null;
    const joined = new Uint8Array(head.byteLength + part.value.byteLength);
    joined.set(head);
    joined.set(part.value, head.byteLength);
    head = joined;
  }
  const refs: PushedRef[] = [];
  let capabilities: string[] = [];
  for (const line of lines) {
    const [command = "", more] = line.split("\0");
    if (more !== undefined) capabilities = more.trim().split(" ");
    if (command.startsWith("shallow ")) continue;
    const match = /^([0-9a-f]{40,64}) ([0-9a-f]{40,64}) (\S+)\n?$/.exec(command);
    if (match === null) return null;
    refs.push({ ref: match[3] ?? "", old: match[1] ?? "", new: match[2] ?? "" });
  }
  return { commands: { refs, capabilities }, head };
}

const latin1 = (bytes: Uint8Array): string => String.fromCharCode(...bytes);

/** What was read, and then the rest as it comes. */
function rejoined(head: Uint8Array, rest: ReadableStreamDefaultReader<Uint8Array>): ReadableStream<Uint8Array> {
  let first: Uint8Array | null = head;
  return new ReadableStream({
    async pull(controller) {
      if (first !== null) {
        controller.enqueue(first);
        first = null;
        return;
      }
      const part = await rest.read();
      if (part.done) controller.close();
      else controller.enqueue(part.value);
    },
    cancel: (why) => rest.cancel(why),
  });
}

/** A server's own answer to a push that it takes nothing of, so that git shows the words and the refs. */
function refusal({ refs, capabilities }: Commands, text: string): Response {
  const report = `${pkt("unpack ok\n")}${refs.map(({ ref }) => pkt(`ng ${ref} not approved\n`)).join("")}0000`;
  const banded = capabilities.some((name) => name === "side-band-64k" || name === "side-band");
  const parts = banded ? [pkt(`\x02Caisson: ${text}\n`), ...bands(report), "0000"] : [report];
  return new Response(new TextEncoder().encode(parts.join("")), {
    headers: { "content-type": RESULT_TYPE, "cache-control": "no-cache", "x-caisson-denied": "git.push_approval" },
  });
}

/** characters: with four bytes each they fit into one packet of the narrower side band, 1,000 bytes. */
const BAND_MAX = 240;

function bands(report: string): string[] {
  return (report.match(new RegExp(`.{1,${BAND_MAX}}`, "gsu")) ?? []).map((piece) => pkt(`\x01${piece}`));
}

function pkt(text: string): string {
  return (new TextEncoder().encode(text).byteLength + 4).toString(16).padStart(4, "0") + text;
}
