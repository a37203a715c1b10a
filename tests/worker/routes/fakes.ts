/**
 * Stand-ins for the two Durable Objects behind the routes: a Session that keeps what it is told, and a sandbox with files and
 * scripted commands that speaks the container protocol's event streams. R2 and D1 are the real local ones.
 */
import { env as bindings } from "cloudflare:workers";
import type { Env } from "../../../worker/src/env.js";
import { createApp, finish, requestId } from "../../../worker/src/routes/app.js";
import type { CreateRunBody, CreateSessionBody, PatchSessionBody } from "../../../worker/src/routes/schemas.js";
import type {
  ArtifactView,
  CommandAccess,
  EventText,
  Failure,
  ModelVerdict,
  Result,
  RunView,
  SessionView,
  ShareView,
} from "../../../worker/src/session/api.js";

function refusal(status: number, code: string, detail: string): Failure {
  return { ok: false, status, code, detail };
}

const NO_USAGE = {
  input_tokens: 0,
  output_tokens: 0,
  cache_read_tokens: 0,
  cache_write_tokens: 0,
  cost_usd: 0,
  turns: 0,
  tool_calls: 0,
  output_bytes: 0,
  wall_ms: 0,
};

export class FakeSession {
  session: SessionView | null = null;
  request: CreateSessionBody | null = null;
  readonly runList: RunView[] = [];
  readonly runKeys = new Map<string, RunView>();
  readonly log: EventText[] = [];
  readonly artifactList: ArtifactView[] = [];
  /** How many times `run` is asked before a run has succeeded. */
  pollsToEnd = Number.POSITIVE_INFINITY;
  touched = 0;

  readonly shareList: ShareView[] = [];

  async create(id: string, body: CreateSessionBody): Promise<Result<SessionView>> {
    this.touched += 1;
    if (this.session !== null) {
      const same = JSON.stringify(this.request) === JSON.stringify(body);
      return same ? { ok: true, value: this.session } : refusal(409, "idempotency_mismatch", "another body");
    }
    this.request = body;
    this.session = {
      id,
      agent: body.agent,
      template: body.template ?? null,
      state: "idle",
      created_at: "2026-08-01T12:00:00.000Z",
      expires_at: "2026-08-01T13:00:00.000Z",
      ended_at: null,
      ended_reason: null,
      timeout_s: body.timeout_s ?? 3600,
      metadata: body.metadata ?? {},
      runs: 0,
      last_seq: 0,
      usage: NO_USAGE,
      limits: body.limits ?? {},
      budget: {},
      price_table: null,
    };
    return { ok: true, value: this.session };
  }
  async view(): Promise<Result<SessionView>> {
    this.touched += 1;
    return this.session === null
      ? refusal(404, "session_not_found", "there is no session with this id")
      : { ok: true, value: this.session };
  }
  async addShare(id: string, expiresMs: number, wanted?: { path: string; run?: string }): Promise<Result<ShareView>> {
    const now = new Date().toISOString();
    const found = this.artifactList.findLast(
      (one) => one.path === wanted?.path && one.run_id === (wanted.run ?? one.run_id),
    );
    if (wanted !== undefined && found === undefined) return refusal(404, "artifact_not_found", "no such artifact");
    const artifact = found === undefined ? null : { run_id: found.run_id, path: found.path };
    const share = { id, artifact, created_at: now, expires_at: new Date(expiresMs).toISOString(), revoked_at: null };
    this.shareList.push(share);
    return { ok: true, value: share };
  }
  async shares(): Promise<Result<ShareView[]>> {
    const view = await this.view();
    if (!view.ok) return view;
    return { ok: true, value: this.shareList };
  }
  async revokeShare(id: string): Promise<Result<ShareView>> {
    const share = this.shareList.find((one) => one.id === id);
    if (share === undefined) return refusal(404, "share_not_found", "there is no such share link");
    share.revoked_at = new Date().toISOString();
    return { ok: true, value: share };
  }
  async checkShare(id: string): Promise<Result<true>> {
    const live = this.shareList.some((one) => one.id === id && one.revoked_at === null);
    return live ? { ok: true, value: true } : refusal(401, "share_revoked", "the share link is revoked or has expired");
  }
  async sharedArtifact(id: string): Promise<Result<ArtifactView>> {
    const share = this.shareList.find((one) => one.id === id && one.revoked_at === null)?.artifact;
    const value = this.artifactList.find((one) => one.path === share?.path && one.run_id === share.run_id);
    return value === undefined ? refusal(404, "link_not_found", "there is no such link") : { ok: true, value };
  }
  async update(body: PatchSessionBody): Promise<Result<SessionView>> {
    const view = await this.view();
    if (view.ok && body.timeout_s !== undefined) view.value.timeout_s = body.timeout_s;
    return view;
  }
  async mayCallModel(): Promise<Result<ModelVerdict>> {
    return { ok: true, value: { run_id: null, may_call: false, reached: null } };
  }
  async countUsage(): Promise<Result<ModelVerdict>> {
    return await this.mayCallModel();
  }
  async end(): Promise<Result<SessionView>> {
    const view = await this.view();
    if (view.ok) view.value.state = "ended";
    return view;
  }
  async createRun(body: CreateRunBody, key?: string): Promise<Result<RunView>> {
    const view = await this.view();
    if (!view.ok) return view;
    const known = key === undefined ? undefined : this.runKeys.get(key);
    if (known !== undefined) return { ok: true, value: known };
    const run: RunView = {
      id: `run_${this.runList.length + 1}`,
      session_id: view.value.id,
      state: "queued",
      ...(body.prompt === undefined ? {} : { prompt: body.prompt }),
      ...(body.command === undefined ? {} : { command: body.command }),
      created_at: "2026-08-01T12:00:01.000Z",
      started_at: null,
      ended_at: null,
      exit_code: null,
      reason: null,
      result: null,
      usage: null,
      limits: body.limits ?? {},
      budget: {},
      reached: null,
    };
    this.runList.push(run);
    if (key !== undefined) this.runKeys.set(key, run);
    return { ok: true, value: run };
  }
  async run(runId: string): Promise<Result<RunView>> {
    const run = this.runList.find((one) => one.id === runId);
    if (run === undefined) return refusal(404, "run_not_found", "no such run");
    this.pollsToEnd -= 1;
    if (this.pollsToEnd <= 0) run.state = "succeeded";
    return { ok: true, value: run };
  }
  async runs(): Promise<Result<RunView[]>> {
    const view = await this.view();
    return view.ok ? { ok: true, value: this.runList } : view;
  }
  async cancelRun(runId: string): Promise<Result<RunView>> {
    const found = await this.run(runId);
    if (found.ok) found.value.state = "cancelled";
    return found;
  }
  async events(
    after: number,
    limit: number,
    withRaw: boolean,
    runId?: string,
  ): Promise<Result<{ events: EventText[]; last_seq: number; ended: boolean }>> {
    const view = await this.view();
    if (!view.ok) return view;
    const wanted = this.log.filter((event) => runId === undefined || event.json.includes(`"run":"${runId}"`));
    const events = wanted.filter((event) => event.seq > after).slice(0, limit);
    const next = events.at(-1)?.seq ?? after;
    const shown = withRaw ? events : events.map((event) => ({ ...event, json: event.json.replace(/,"raw":.*$/, "}") }));
    return {
      ok: true,
      value: {
        events: shown,
        last_seq: this.log.at(-1)?.seq ?? 0,
        ended: view.value.state === "ended" && next >= (wanted.at(-1)?.seq ?? 0),
      },
    };
  }
  async artifacts(): Promise<Result<ArtifactView[]>> {
    const view = await this.view();
    return view.ok ? { ok: true, value: this.artifactList } : view;
  }
  async diff(runId?: string): Promise<Result<Uint8Array>> {
    const view = await this.view();
    return view.ok ? { ok: true, value: new TextEncoder().encode(`diff of ${runId ?? "all"}\n`) } : view;
  }
  async sandboxId(): Promise<Result<string>> {
    const view = await this.view();
    if (!view.ok) return view;
    if (view.value.state === "ended") return refusal(410, "session_ended", "the session has ended");
    return { ok: true, value: view.value.id.replaceAll("_", "-") };
  }
  /** Names and values; the placeholder of one is its name in lower case. */
  readonly secrets: Record<string, string> = {};
  async commands(): Promise<Result<CommandAccess>> {
    const found = await this.sandboxId();
    if (!found.ok) return found;
    const env = Object.fromEntries(Object.keys(this.secrets).map((name) => [name, name.toLowerCase()]));
    return { ok: true, value: { sandboxId: found.value, env, secrets: Object.values(this.secrets) } };
  }
  async masked(text: string): Promise<string> {
    return Object.values(this.secrets).reduce(
      (left, secret) => left.replaceAll(secret, "*".repeat(secret.length)),
      text,
    );
  }
  async fetch(request: Request): Promise<Response> {
    const url = new URL(request.url);
    if (request.headers.get("upgrade") === "websocket") {
      const pair = new WebSocketPair();
      pair[1].accept();
      pair[1].send(`after ${url.searchParams.get("after")}`);
      return new Response(null, { status: 101, webSocket: pair[0] });
    }
    const seen = `${request.headers.get("last-event-id")} ${request.headers.get("authorization")}`;
    return new Response(`id: 1\nevent: session.created\ndata: {"seen":"${seen}"}\n\n`, {
      headers: { "content-type": "text/event-stream" },
    });
  }
}

export interface FakeProcess {
  readonly id: string;
  readonly command: string;
}
type CommandEvents = (
  command: string,
  options: { env?: Record<string, string>; cwd?: string },
) => AsyncGenerator<object>;

export class FakeSandbox {
  readonly files = new Map<string, Uint8Array>();
  readonly directories = new Set<string>(["/workspace", "/tmp"]);
  readonly commands: { command: string; env?: Record<string, string>; cwd?: string; timeout?: number }[] = [];
  readonly processes: FakeProcess[] = [];
  readonly killed: string[] = [];
  readonly writes: { path: string; encoding: string | undefined }[] = [];
  destroyed = 0;
  onKill: (() => void) | null = null;
  script: CommandEvents = async function* () {
    yield { type: "complete", exitCode: 0 };
  };

  async configure(): Promise<void> {}
  async execStreamWithSessionToken(
    command: string,
    _session: string,
    options: { env?: Record<string, string>; cwd?: string; timeout?: number },
  ): Promise<ReadableStream<Uint8Array>> {
    this.commands.push({ command, ...options });
    const id = `proc_${this.commands.length}`;
    this.processes.push({ id, command });
    const events = this.script(command, options);
    return sse(events);
  }
  async execWithSessionToken(command: string): Promise<{ exitCode: number; stdout: string; stderr: string }> {
    this.commands.push({ command });
    const concatenated = /cat -- (.+) > '([^']+)'$/.exec(command);
    if (concatenated !== null) {
      const parts = (concatenated[1] ?? "").split(" ").map((path) => this.files.get(path) ?? new Uint8Array());
      this.files.set(concatenated[2] ?? "", new Uint8Array(Buffer.concat(parts)));
    }
    const moved = /mv -fT -- '([^']+)' '([^']+)'$/.exec(command);
    if (moved !== null) {
      this.files.set(moved[2] ?? "", this.files.get(moved[1] ?? "") ?? new Uint8Array());
      this.files.delete(moved[1] ?? "");
    }
    const removed = /^rm -r?f -- (.+)$/.exec(command);
    for (const path of (removed?.[1] ?? "").split(" ")) this.files.delete(path.replaceAll("'", ""));
    return { exitCode: 0, stdout: "", stderr: "" };
  }
  async listProcesses(): Promise<FakeProcess[]> {
    return this.processes;
  }
  async killProcess(id: string): Promise<void> {
    this.killed.push(id);
    this.onKill?.();
  }
  async writeFile(path: string, content: string, options?: { encoding?: string }): Promise<void> {
    this.writes.push({ path, encoding: options?.encoding });
    this.files.set(
      path,
      options?.encoding === "base64"
        ? new Uint8Array(Buffer.from(content, "base64"))
        : new TextEncoder().encode(content),
    );
  }
  async readFileStream(path: string): Promise<ReadableStream<Uint8Array>> {
    const bytes = this.files.get(path);
    return sse(
      (async function* () {
        if (bytes === undefined) {
          yield { type: "error", error: `File not found: ${path}` };
          return;
        }
        const mimeType = path.endsWith(".html")
          ? "text/html"
          : path.endsWith(".txt")
            ? "text/plain"
            : "application/octet-stream";
        const isBinary = mimeType === "application/octet-stream";
        yield { type: "metadata", mimeType, size: bytes.byteLength, isBinary, encoding: isBinary ? "base64" : "utf-8" };
        for (let at = 0; at < bytes.byteLength; at += 65_535) {
          const piece = Buffer.from(bytes.subarray(at, at + 65_535));
          yield { type: "chunk", data: isBinary ? piece.toString("base64") : piece.toString("utf8") };
        }
        yield { type: "complete", bytesRead: bytes.byteLength };
      })(),
    );
  }
  async deleteFile(path: string): Promise<void> {
    if (this.directories.has(path)) throw sdkError("IS_DIRECTORY", `Path is a directory: ${path}`);
    if (!this.files.delete(path)) throw sdkError("FILE_NOT_FOUND", `File not found: ${path}`);
  }
  async mkdir(path: string): Promise<void> {
    this.directories.add(path);
  }
  async listFiles(
    path: string,
    options: { recursive?: boolean; includeHidden?: boolean },
  ): Promise<{ files: object[] }> {
    if (!this.directories.has(path)) throw sdkError("FILE_NOT_FOUND", `Directory not found: ${path}`);
    const below = [...this.files].filter(([name]) => name.startsWith(`${path}/`));
    const shown = below.filter(([name]) => options.recursive === true || !name.slice(path.length + 1).includes("/"));
    const files = shown.map(([name, bytes]) => ({
      name: name.slice(name.lastIndexOf("/") + 1),
      absolutePath: name,
      relativePath: name.slice(path.length + 1),
      type: "file",
      size: bytes.byteLength,
      modifiedAt: "2026-08-01T12:00:00.123456789",
      mode: "rw-r--r--",
      permissions: { readable: true, writable: true, executable: false },
    }));
    return { files };
  }
  async exists(path: string): Promise<{ exists: boolean }> {
    return { exists: this.files.has(path) || this.directories.has(path) };
  }
  async destroy(): Promise<void> {
    this.destroyed += 1;
  }
}

/** An error as it arrives through RPC: the class is gone, own properties are there. */
function sdkError(code: string, message: string): Error {
  return Object.assign(new Error(message), { errorResponse: { code, message } });
}

function sse(events: AsyncGenerator<object>): ReadableStream<Uint8Array> {
  const utf8 = new TextEncoder();
  return new ReadableStream({
    async pull(controller) {
      const { done, value } = await events.next();
      if (done === true) controller.close();
      else controller.enqueue(utf8.encode(`data: ${JSON.stringify(value)}\n\n`));
    },
  });
}

/** A namespace whose objects are made by `make`, one a name. */
function namespaceOf<T extends object>(objects: Map<string, T>, make: () => T): object {
  return {
    idFromName: (name: string) => ({ name, toString: () => name }),
    get(id: { name: string }) {
      const known = objects.get(id.name) ?? make();
      objects.set(id.name, known);
      return known;
    },
  };
}

export interface Rig {
  readonly env: Env;
  readonly sessions: Map<string, FakeSession>;
  readonly sandboxes: Map<string, FakeSandbox>;
  /** Prepares sandboxes as they are made. */
  prepare: (sandbox: FakeSandbox) => void;
  call(method: string, path: string, body?: unknown, init?: RequestInit): Promise<Response>;
  /** A session, made through the API. */
  session(body?: object): Promise<{ id: string; fake: FakeSession; sandbox: () => FakeSandbox }>;
  /** Waits for what answers left running. */
  settle(): Promise<void>;
}

/** The application over fresh fakes. `call` sends JSON unless the body is bytes or text. */
export function rig(vars: Partial<Env> = {}): Rig {
  const sessions = new Map<string, FakeSession>();
  const sandboxes = new Map<string, FakeSandbox>();
  const app = createApp();
  const left: Promise<unknown>[] = [];
  const made: Rig = {
    env: {
      ...(bindings as unknown as Pick<Env, "ARTIFACTS" | "INDEX" | "TENANT">),
      SESSION: namespaceOf(sessions, () => new FakeSession()) as unknown as Env["SESSION"],
      SANDBOX: namespaceOf(sandboxes, () => {
        const sandbox = new FakeSandbox();
        made.prepare(sandbox);
        return sandbox;
      }) as unknown as Env["SANDBOX"],
      ...vars,
    },
    sessions,
    sandboxes,
    prepare: () => undefined,
    async call(method, path, body, init = {}) {
      const headers = new Headers(init.headers);
      const raw = body instanceof Uint8Array || body instanceof ReadableStream || typeof body === "string";
      if (body !== undefined && !headers.has("content-type")) {
        headers.set("content-type", raw ? "application/octet-stream" : "application/json");
      }
      const url = path.startsWith("http") ? path : `http://localhost:8787${path}`;
      const request = new Request(url, {
        method,
        headers,
        ...(init.signal instanceof AbortSignal ? { signal: init.signal } : {}),
        ...(body === undefined ? {} : { body: raw ? (body as BodyInit) : JSON.stringify(body) }),
      });
      const ctx = { waitUntil: (work: Promise<unknown>) => left.push(work), passThroughOnException() {}, props: {} };
      return finish(
        await app.fetch(request, made.env, ctx as unknown as ExecutionContext),
        requestId(request),
        request,
        made.env,
      );
    },
    async session(body = { agent: "shell" }) {
      const response = await made.call("POST", "/v1/sessions", body);
      const { id } = (await response.json()) as { id: string };
      const fake = sessions.get(id);
      if (fake === undefined) throw new Error(`no session: ${response.status}`);
      return {
        id,
        fake,
        sandbox: () => {
          const name = id.replaceAll("_", "-");
          const sandbox = sandboxes.get(name) ?? new FakeSandbox();
          sandboxes.set(name, sandbox);
          return sandbox;
        },
      };
    },
    async settle() {
      await Promise.all(left.splice(0));
    },
  };
  return made;
}

export interface ProblemBody {
  type: string;
  title: string;
  status: number;
  code: string;
  detail: string;
  field?: string;
  instance: string;
  errors?: { code: string; field: string }[];
  error?: string;
}
