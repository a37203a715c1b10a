/**
 * The Session object: what the routes may ask of it (api.ts). The core decides (machine.ts), its effects are carried out
 * (effects.ts), the running run is followed (follower.ts).
 */
import { DurableObject } from "cloudflare:workers";

import guardModule from "../../../build/guard.wasm";
import { egressToken } from "../../../sandbox-sdk-shim/src/egress.js";
import { EgressServer } from "../../../sandbox-sdk-shim/src/egress-server.js";
import { pass } from "../../../sandbox-sdk-shim/src/gate.js";
import { BOUND, T } from "../core/abi.gen.js";
import { CoreError } from "../core/core.js";
import { Guard, type PolicyReport } from "../core/guard.js";

import { checkEngine, EngineUnavailable } from "../effects/engine.js";
import { templateRefusal } from "../effects/template.js";
import type { Env } from "../env.js";
import { auditHead } from "../identity/audit.js";
import { tenantObject } from "../identity/quotas.js";
import { LIMITS } from "../limits.js";
import type { CreateRunBody, CreateSessionBody, Limits, PatchSessionBody } from "../routes/schemas.js";
import { readOptions } from "../transport/log.js";
import { serveSSE } from "../transport/sse.js";
import { acceptSocket } from "../transport/ws.js";
import type {
  AddressVerdict,
  ApprovalDecision,
  ApprovalView,
  ArtifactView,
  CommandAccess,
  EgressAnswer,
  EgressEnd,
  EgressEntry,
  EgressQuestion,
  EventText,
  Failure,
  ModelUsage,
  ModelVerdict,
  PortView,
  PushedRef,
  Result,
  RunSummary,
  RunView,
  SessionRpc,
  SessionView,
  ShareView,
} from "./api.js";

import { budgetState } from "./derive.js";
import { Effects } from "./effects.js";
import { EgressArchive } from "./egress-archive.js";
import { fail, failureOf, NOT_FOUND } from "./failures.js";
import { Follower } from "./follower.js";
import { Gate } from "./gate.js";
import { IndexRow } from "./index-row.js";
import { changed, type PolicyLimits, sandboxLimits, setLimits, strictest } from "./limits.js";
import { Machine } from "./machine.js";
import { OwnSandbox } from "./own-sandbox.js";
import { Pushes } from "./pushes.js";
import { BadPrices, coreRequest, workspaceFiles } from "./request.js";
import { SHARES_MAX, Shares } from "./shares.js";
import { type RunRow, Store } from "./store.js";
import { Terminals, terminalRequest } from "./terminals.js";
import { sessionTranscript, summarize, transcript } from "./transcript.js";
import { runNumber, runView, sandboxName, sessionView } from "./views.js";

/** items: events of one page of the audit export. */
const AUDIT_PAGE = 1_000;
/** items: events of one session that tell of requests out. */
export const EGRESS_EVENTS_MAX = 10_000;

export class Session extends DurableObject<Env> implements SessionRpc {
  readonly #store: Store;
  readonly #machine: Machine;
  readonly #sandbox: OwnSandbox;
  readonly #follower: Follower;
  readonly #effects: Effects;
  readonly #index: IndexRow;
  readonly #shares: Shares;
  readonly #gate: Gate;
  readonly #pushes: Pushes;
  readonly #archive: EgressArchive;
  readonly #terminals: Terminals;
  /** Takes what the sandbox asks of the outside, where there is a local engine: no call to another object is between it and the verdict. */
  readonly #server = new EgressServer(
    () => egressToken(this.env.CAISSON_ENGINE_TOKEN ?? "", this.#sandboxObject()),
    (request) => pass(request, this.env, this.#sandboxObject(), this),
  );

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    this.#store = new Store(ctx.storage.sql);
    this.#gate = new Gate(ctx.storage.sql, env, this.#store, () => new Guard(guardModule));
    this.#machine = new Machine(ctx, this.#store, this.#gate.mask, {
      committed: () => this.#effects.drain(),
      changed: () => {
        const state = this.#store.text("state");
        if (state === "ending" || state === "ended") this.#terminals.closeAll();
        ctx.waitUntil(this.#index.write());
      },
      readerEnded: (reader) => this.#shares.readerEnded(reader, Date.now()),
    });
    this.#archive = new EgressArchive(ctx, env, this.#store, this.#gate);
    const { mask } = this.#gate;
    const archived = (): Promise<void> => this.#archive.finish();
    this.#sandbox = new OwnSandbox(ctx, env, this.#store, this.#machine, mask, () => {
      this.#follower.stop();
      ctx.waitUntil(archived());
    });
    this.#follower = new Follower(ctx, this.#store, this.#machine, this.#sandbox);
    this.#effects = new Effects(ctx, env, this.#store, this.#machine, this.#sandbox, this.#follower, mask, archived);
    this.#index = new IndexRow(ctx, env, this.#store, mask);
    this.#shares = new Shares(ctx.storage.sql);
    this.#pushes = new Pushes(ctx, env, this.#store, this.#machine, this.#sandbox, mask);
    this.#terminals = new Terminals(
      this.#sandbox,
      mask,
      () => this.#gate.commandSecrets(),
      (fields) =>
        tenantObject(env, this.#store.text("tenant") ?? "").act({ ...fields, session: this.#store.text("id") }),
      (what, error) => this.#machine.report("error", what, error),
    );
    ctx.setWebSocketAutoResponse(new WebSocketRequestResponsePair("ping", "pong"));
    void ctx.blockConcurrencyWhile(async () => {
      if (!this.#store.exists) return;
      this.#machine.reload();
      this.#resume();
    });
  }

  /* --- RPC (api.ts) --- */

  async create(id: string, body: CreateSessionBody, tenant = "", quota = ""): Promise<Result<SessionView>> {
    try {
      const gate = this.#gate.prepare(id, body);
      if ("ok" in gate) return gate;
      const request = coreRequest(
        { ...body, env: { ...body.env, ...gate.env }, limits: strictest(body.limits ?? {}, gate.rules.limits) },
        this.env.CAISSON_PRICES,
        gate.rules.tools,
      );
      const whole = JSON.stringify(body);
      const bodyDigest = await digestOf(whole);
      if (this.#store.exists) return this.#createdWith(bodyDigest);
      const files = workspaceFiles(body.files ?? []);
      if (!Array.isArray(files)) return files;
      await checkEngine(this.env);
      const refusal = await templateRefusal(this.env, body.template);
      if (refusal !== null) return fail(400, refusal.code, refusal.detail, "/template");
      // Two creations may have waited for the engine together: the second finds the first one's session.
      if (this.#store.exists) return this.#createdWith(bodyDigest);
      this.#machine.start();
      this.#machine.step({ kind: "CREATE", payload: JSON.stringify(request) }, (nowMs) => {
        this.#store.createTables();
        this.#store.set("id", id);
        this.#store.set("tenant", tenant);
        this.#store.set("quota", quota);
        gate.save();
        this.#store.set("asked_limits", JSON.stringify(body.limits ?? {}));
        this.#store.set("sandbox_limits", JSON.stringify(sandboxLimits(gate.rules.limits)));
        this.#store.set("agent", body.agent);
        this.#store.set("template", body.template ?? null);
        this.#store.set("metadata", this.#gate.mask.text(JSON.stringify(body.metadata ?? {})));
        this.#store.set("body_digest", bodyDigest);
        this.#store.set("created_ms", nowMs);
        const timeoutS = body.timeout_s ?? BOUND.SESSION_TIMEOUT_S_DEFAULT;
        this.#store.set("timeout_s", timeoutS);
        this.#store.set("expires_ms", nowMs + timeoutS * 1_000);
        files.forEach((file, n) => {
          this.#store.addFile(n, file);
        });
      });
      return this.#view();
    } catch (error) {
      if (error instanceof BadPrices) return fail(500, "bad_prices", error.message);
      if (error instanceof CoreError && error.field?.startsWith("/prices"))
        return fail(500, "bad_prices", new BadPrices(`is wrong at ${error.field}: ${error.message}`).message);
      const refused = refusedTools(error, "/policy_tools");
      if (refused !== null) return refused;
      return this.#failed(error);
    }
  }

  async view(): Promise<Result<SessionView>> {
    return this.#view();
  }

  async update(body: PatchSessionBody): Promise<Result<SessionView>> {
    return this.#try(() => {
      const { limits, timeout_s } = body;
      if (limits !== undefined) this.#setLimits(changed(this.#askedLimits(), limits), this.#gate.limits());
      if (timeout_s !== undefined) this.#machine.step({ kind: "SET_TIMEOUT", code: timeout_s });
      return this.#view();
    });
  }

  async end(): Promise<Result<SessionView>> {
    return this.#try(async () => {
      const state = this.#store.text("state");
      if (state !== "ended" && state !== "ending") this.#machine.step({ kind: "DELETE" });
      await this.#machine.until(() => this.#store.text("state") === "ended");
      if (this.#store.text("state") !== "ended")
        return fail(504, "still_ending", "the sandbox is still being destroyed; ask again");
      return this.#view();
    });
  }

  async createRun(body: CreateRunBody, idempotencyKey?: string): Promise<Result<RunView>> {
    return this.#try(() => {
      const request = JSON.stringify(body);
      const known = idempotencyKey === undefined ? null : this.#store.runByKey(idempotencyKey);
      if (known !== null) {
        // A run that has begun is kept without the secrets that its request has.
        const same = known.request === request || known.request === this.#gate.mask.text(request);
        if (same) return this.#runView(known.n);
        return fail(409, "idempotency_mismatch", "the Idempotency-Key was used with another body");
      }
      let n = 0;
      const queue = (): void =>
        this.#machine.step({ kind: "RUN", payload: request }, (nowMs, effects) => {
          for (const effect of effects) {
            if (effect.kind !== "event" || effect.type !== "run.queued") continue;
            n = effect.run;
            this.#store.addRun(n, request, idempotencyKey ?? null, nowMs);
          }
        });
      try {
        queue();
      } catch (error) {
        if (error instanceof CoreError && error.errName === "OVER_BUDGET") return this.#overBudget();
        throw error;
      }
      return this.#runView(n);
    });
  }

  async mayCallModel(): Promise<Result<ModelVerdict>> {
    return this.#try(async () => {
      const verdict = this.#verdict();
      if (!verdict.ok || !verdict.value.may_call || !(await this.#index.isSpent())) return verdict;
      return { ok: true, value: { ...verdict.value, may_call: false, reached: "spend_usd_per_day" } };
    });
  }

  async countUsage(runId: string, usage: ModelUsage): Promise<Result<ModelVerdict>> {
    return this.#try(async () => {
      const n = runNumber(runId);
      const run = this.#store.run(n);
      if (run === null) return this.#runView(n) as Failure;
      if (run.ended_ms === null) {
        this.#machine.step({ kind: "USAGE", id: n, payload: JSON.stringify(usage) });
        await this.#index.isSpent();
      } else {
        // Counters of a run that is over stay; its tenant's day would else be free of what a session's end cuts off.
        await this.#index.countLate(this.#costOf(usage));
      }
      return this.#verdict();
    });
  }

  /** Dollars, 0 where they are not known. */
  #costOf({ model, cost_usd, ...tokens }: ModelUsage): number {
    if (cost_usd !== undefined || model === undefined) return cost_usd ?? 0;
    return new Guard(guardModule).price(this.env.CAISSON_PRICES?.trim() ?? "", { ...tokens, model }) ?? 0;
  }

  async run(runId: string): Promise<Result<RunView>> {
    return this.#try(() => {
      const found = this.#runView(runNumber(runId));
      if (found.ok && found.value.ended_at !== null) found.value.summary = this.#summary(runNumber(runId));
      return found;
    });
  }

  async runs(): Promise<Result<RunView[]>> {
    return this.#try(() => ({ ok: true, value: this.#store.runs().map((row) => this.#shown(row)) }));
  }

  async cancelRun(runId: string): Promise<Result<RunView>> {
    return this.#try(() => {
      const n = runNumber(runId);
      const found = this.#runView(n);
      if (found.ok) this.#machine.step({ kind: "CANCEL", id: n });
      return found.ok ? this.#runView(n) : found;
    });
  }

  async events(
    after: number,
    limit: number,
    withRaw: boolean,
    runId?: string,
  ): Promise<Result<{ events: EventText[]; last_seq: number; ended: boolean }>> {
    return this.#try(() => {
      const run = runId === undefined ? null : runNumber(runId);
      const { events, done } = this.#store.page(after, limit, withRaw, run);
      return { ok: true, value: { events, last_seq: this.#store.lastSeq, ended: done } };
    });
  }

  async artifacts(): Promise<Result<ArtifactView[]>> {
    return this.#try(() => ({ ok: true, value: this.#store.artifacts() }));
  }

  async sandboxId(): Promise<Result<string>> {
    return this.#try(async () => {
      const usable = await this.#sandbox.usable();
      return usable.ok ? { ok: true, value: sandboxName(this.#store) } : usable;
    });
  }

  async commands(): Promise<Result<CommandAccess>> {
    return this.#try(async () => {
      const usable = await this.#sandbox.usable();
      if (!usable.ok) return usable;
      const secrets = this.#gate.commandSecrets();
      return secrets.ok ? { ok: true, value: { sandboxId: sandboxName(this.#store), ...secrets.value } } : secrets;
    });
  }

  async masked(text: string): Promise<string> {
    return this.#gate.mask.text(text);
  }

  async diff(runId?: string): Promise<Result<Uint8Array>> {
    return this.#try(() => this.#sandbox.diff(runId));
  }

  async policy(): Promise<Result<{ policy: object; compiled: object }>> {
    return this.#try(() => ({ ok: true, value: this.#gate.policy() }));
  }

  async setPolicy(document: object): Promise<Result<PolicyReport>> {
    return this.#try(() => {
      const state = this.#store.text("state");
      if (state === "ended" || state === "ending") return fail(409, "session_ended", "the session has ended");
      try {
        return this.#gate.setPolicy(document, ({ tools, limits }) => {
          this.#machine.step({ kind: "SET_TOOLS", payload: JSON.stringify({ tools }) });
          this.#setLimits(this.#askedLimits(), limits);
          this.#store.set("sandbox_limits", JSON.stringify(sandboxLimits(limits)));
        });
      } catch (error) {
        const refused = refusedTools(error, "/tools");
        if (refused !== null) return refused;
        throw error;
      }
    });
  }

  /** The limits that the caller asked for, whatever the policy makes of them. */
  #askedLimits(): Limits {
    const text = this.#store.text("asked_limits");
    // A session that is older than this had no others.
    return text === null ? (budgetState(this.#store)?.session.limits ?? {}) : JSON.parse(text);
  }

  #setLimits(asked: Limits, policy: PolicyLimits): void {
    const before = setLimits(strictest(this.#askedLimits(), this.#gate.limits()));
    const payload = setLimits(strictest(asked, policy));
    if (payload === before) this.#store.set("asked_limits", JSON.stringify(asked));
    else
      this.#machine.step({ kind: "SET_LIMITS", payload }, () => this.#store.set("asked_limits", JSON.stringify(asked)));
  }

  async egress(question: EgressQuestion): Promise<Result<EgressAnswer>> {
    return this.#try(async () => {
      const state = this.#store.text("state");
      if (state === "ended" || state === "ending") return fail(409, "session_ended", "the session has ended");
      const answer = this.#gate.ask(question, Date.now());
      const { host, port, door } = question;
      if (door !== null) this.#server.listen(door);
      if (answer.allow) return { ok: true, value: answer };
      const { rule, reason } = answer;
      this.#archive.note();
      // As the log has them: cut.
      const { method, path } = this.#gate.entry(answer.id) ?? { method: "", path: "" };
      this.#noteEgress(T.EGRESS_DENIED, { host, port, method, path, rule, reason });
      await this.ctx.storage.sync();
      return { ok: true, value: answer };
    });
  }

  /** Id of the Sandbox object. */
  #sandboxObject(): string {
    return this.env.SANDBOX.idFromName(sandboxName(this.#store)).toString();
  }

  async egressEnded(id: number, end: EgressEnd): Promise<Result<true>> {
    return this.#try(async () => {
      this.#tellEnd(this.#gate.ended(id, end));
      await this.ctx.storage.sync();
      return { ok: true, value: true };
    });
  }

  async webSocketEnded(id: number, bytesUp: number, bytesDown: number, durationMs: number): Promise<Result<true>> {
    return this.#try(() => {
      this.#tellEnd(this.#gate.webSocketEnded(id, bytesUp, bytesDown, durationMs));
      return { ok: true, value: true };
    });
  }

  #tellEnd(entry: EgressEntry | null): void {
    this.#archive.note();
    if (entry === null || this.#store.text("state") === "ended") return;
    const { id: _, time: __, verdict: ___, ...fields } = entry;
    this.#noteEgress(T.EGRESS_ALLOWED, fields);
  }

  /** A loop in the sandbox must not fill the object's storage: after so many the log, which is bounded, and its archive go on alone. */
  #noteEgress(type: number, fields: Record<string, string | number | null>): void {
    const told = this.#store.number("egress_events") ?? 0;
    if (told >= EGRESS_EVENTS_MAX) return;
    const last = told + 1 === EGRESS_EVENTS_MAX ? { last: true } : {};
    this.#machine.note(this.#activeRun(), type, { ...fields, ...last }, () =>
      this.#store.set("egress_events", told + 1),
    );
  }

  async egressAddress(id: number, addresses: readonly string[]): Promise<Result<AddressVerdict>> {
    return this.#try(async () => {
      const judged = this.#gate.judge(id, addresses);
      const entry = this.#gate.entry(id);
      if (judged.address === null && entry !== null) {
        const { host, port, method, path, address } = entry;
        const { rule, reason } = judged;
        this.#noteEgress(T.EGRESS_DENIED, { host, port, method, path, address, rule, reason });
        await this.ctx.storage.sync();
      }
      return { ok: true, value: judged };
    });
  }

  async requestApproval(id: number, refs: readonly PushedRef[]): Promise<Result<ApprovalView>> {
    return this.#try(() => {
      const entry = this.#gate.entry(id);
      if (entry === null) return fail(409, "approval_not_found", "the request is not known any more");
      return this.#pushes.request(entry.host, entry.path, refs);
    });
  }

  async awaitApproval(approval: string): Promise<Result<ApprovalView>> {
    return this.#try(() => this.#pushes.await(approval));
  }

  async approvals(): Promise<Result<ApprovalView[]>> {
    return this.#try(() => ({ ok: true, value: this.#pushes.list() }));
  }

  async resolveApproval(
    approval: string,
    decision: ApprovalDecision,
    by: string,
    reason: string,
  ): Promise<Result<ApprovalView>> {
    return this.#try(() => this.#pushes.resolve(approval, decision, by, reason));
  }

  async egressLog(after: number, limit: number): Promise<Result<EgressEntry[]>> {
    return this.#try(() => ({ ok: true, value: this.#gate.log(after, limit) }));
  }

  async egressArchived(): Promise<Result<number>> {
    return this.#try(() => ({ ok: true, value: this.#archive.last }));
  }

  /** The run that an event from outside belongs to; 0 when none is under way. */
  #activeRun(): number {
    return this.#store.number("active_run") ?? 0;
  }

  async openPort(port: number, hostname: string, name: string | null, expiresMs: number): Promise<Result<PortView>> {
    return this.#try(async () => {
      const sandbox = await this.#sandbox.usable();
      if (!sandbox.ok) return sandbox;
      const masked = name === null ? null : this.#gate.mask.text(name);
      const value = await sandbox.value.openPreview(port, hostname, masked, expiresMs);
      if (value !== null) return { ok: true, value };
      return fail(409, "too_many_ports", `a session has at most ${LIMITS.PORTS_MAX} open ports; close one`);
    });
  }

  async ports(hostname: string): Promise<Result<PortView[]>> {
    return this.#try(async () => {
      const sandbox = await this.#sandbox.usable();
      return sandbox.ok ? { ok: true, value: await sandbox.value.previews(hostname) } : sandbox;
    });
  }

  async closePort(port: number): Promise<Result<true>> {
    return this.#try(async () => {
      const sandbox = await this.#sandbox.usable();
      if (!sandbox.ok) return sandbox;
      if (await sandbox.value.closePreview(port)) return { ok: true, value: true };
      return fail(404, "port_not_found", "the port has no preview", "port");
    });
  }

  async addShare(
    shareId: string,
    expiresMs: number,
    wanted?: { readonly path: string; readonly run?: string | undefined },
  ): Promise<Result<ShareView>> {
    return this.#try(() => {
      const artifact =
        wanted === undefined
          ? null
          : this.#store
              .artifacts()
              .findLast(({ path, run_id }) => path === wanted.path && run_id === (wanted.run ?? run_id));
      if (artifact === undefined) return fail(404, "artifact_not_found", "there is no such artifact", "/artifact/path");
      const added = this.#shares.add(shareId, Date.now(), expiresMs, artifact);
      if (!added)
        return fail(409, "too_many_shares", `a session has at most ${SHARES_MAX} links that have not expired`);
      return this.#share(shareId);
    });
  }

  async shares(): Promise<Result<ShareView[]>> {
    return this.#try(() => ({ ok: true, value: this.#shares.list() }));
  }

  async revokeShare(shareId: string): Promise<Result<ShareView>> {
    return this.#try(() => {
      this.#shares.revoke(shareId, Date.now());
      this.#machine.readersChanged();
      return this.#share(shareId);
    });
  }

  async checkShare(shareId: string): Promise<Result<true>> {
    return this.#try(() =>
      this.#shares.isLive(shareId, Date.now())
        ? { ok: true, value: true }
        : fail(401, "share_revoked", "the share link is revoked or has expired"),
    );
  }

  async sharedArtifact(shareId: string): Promise<Result<ArtifactView>> {
    return this.#try(() => {
      const shared = this.#shares.artifact(shareId, Date.now());
      const value = this.#store
        .artifacts()
        .find(({ path, run_id }) => path === shared?.path && run_id === shared.run_id);
      return value === undefined ? fail(404, "link_not_found", "there is no such link") : { ok: true, value };
    });
  }

  #share(shareId: string): Result<ShareView> {
    const value = this.#shares.list().find((share) => share.id === shareId);
    return value === undefined ? fail(404, "share_not_found", "there is no such share link") : { ok: true, value };
  }

  async audit(after: number): Promise<Result<{ lines: string[]; next: number; head: string | null }>> {
    return this.#try(() => {
      const { events, next } = this.#store.page(after, AUDIT_PAGE, true, null);
      const head = next >= this.#store.lastSeq ? this.#store.bytes("audit") : null;
      const lines = events.map((event) => event.json);
      return { ok: true, value: { lines, next, head: head === null ? null : auditHead(head) } };
    });
  }

  override async fetch(request: Request): Promise<Response> {
    if (!this.#store.exists) return Response.json(NOT_FOUND, { status: NOT_FOUND.status });
    if (new URL(request.url).pathname.endsWith("/terminal")) return await this.#terminal(request);
    const wanted = /(?:\/runs\/([^/]+))?\/transcript$/.exec(new URL(request.url).pathname);
    if (wanted !== null) return this.#transcript(wanted[1] ?? null, request);
    const options = readOptions(request);
    if ("fault" in options)
      return Response.json(fail(400, "invalid_value", options.fault, options.field), { status: 400 });
    if (request.headers.get("upgrade")?.toLowerCase() === "websocket") {
      const response = acceptSocket(this.ctx, options);
      this.#machine.flushSockets();
      return response;
    }
    return serveSSE(this.#machine.log, options);
  }

  async #terminal(request: Request): Promise<Response> {
    let refused: Failure;
    try {
      const answer = await this.#terminals.attach(terminalRequest(request));
      if (answer instanceof Response) return answer;
      refused = answer;
    } catch (error) {
      refused = this.#failed(error);
    }
    return Response.json(refused, { status: refused.status });
  }

  /** Nothing is expected of a client but the automatic ping. */
  override webSocketMessage(): void {}

  override webSocketClose(socket: WebSocket, code: number): void {
    // 1005 and 1006 stand for "none given" and "lost" and may not be sent.
    socket.close(code === 1005 || code === 1006 ? 1000 : code);
  }

  override async alarm(): Promise<void> {
    if (!this.#store.exists) return;
    if (this.#store.text("state") !== "ended") this.#machine.step({ kind: "TIMER" });
    this.#resume();
    if (!this.#index.current) await this.#index.write();
    // An alarm for the index or for effects replaces the core's, which says nothing about a time that has not come.
    if ((await this.ctx.storage.getAlarm()) === null) this.#machine.setAlarm();
  }

  /** Takes up what was under way: effects without an answer, and the output of a running run. */
  #resume(): void {
    const active = this.#store.number("active_run");
    if (active !== null) this.#follower.follow(active);
    this.#effects.drain();
    if (!this.#index.known) this.ctx.waitUntil(this.#index.write());
  }

  /** The session for a creation that is repeated, refused when it is another one. */
  #createdWith(bodyDigest: string): Result<SessionView> {
    if (this.#store.text("body_digest") === bodyDigest) return this.#view();
    return fail(409, "idempotency_mismatch", "this session was created with another body");
  }

  /** Folded once: a run that is over does not change. */
  #summary(run: number): RunSummary {
    const known = this.#store.summary(run);
    if (known !== null) return JSON.parse(known) as RunSummary;
    const summary = summarize(this.#store, run);
    this.#store.addSummary(run, JSON.stringify(summary));
    return summary;
  }

  /** Of one run, or of all of them. */
  #transcript(runId: string | null, request: Request): Response {
    const markdown = /(^|,)\s*text\/markdown\b/i.test(request.headers.get("accept") ?? "");
    const type = markdown ? "text/markdown; charset=utf-8" : "application/json";
    const form = markdown ? "markdown" : "json";
    const warn = (what: string, error: unknown): void => this.#machine.report("warn", what, error);
    let body: ReadableStream<Uint8Array>;
    if (runId === null) {
      body = sessionTranscript(this.#store, this.#store.text("id") ?? "", form, warn);
    } else {
      const found = this.#runView(runNumber(runId));
      if (!found.ok) return Response.json(found, { status: found.status });
      body = transcript(this.#store, runNumber(runId), form, warn);
    }
    return new Response(body, { headers: { "content-type": type } });
  }

  #overBudget(): Failure {
    const state = budgetState(this.#store);
    const spent = Object.entries(state?.session.budget ?? {}).find(([, line]) => line.remaining === 0);
    const used = spent === undefined ? "" : `: ${spent[0]} ${spent[1].used ?? "not known"} of ${spent[1].max} used`;
    return fail(409, "over_budget", `the session has reached a limit${used}; PATCH the session's limits to go on`);
  }

  /** Nothing may be asked outside of a run. */
  #verdict(): Result<ModelVerdict> {
    const state = budgetState(this.#store);
    const active = this.#store.number("active_run");
    return {
      ok: true,
      value: {
        run_id: active === null ? null : `run_${active}`,
        may_call: active !== null && (state?.may_call ?? true),
        reached: state?.reached ?? null,
      },
    };
  }

  #view(): Result<SessionView> {
    return this.#store.exists ? { ok: true, value: sessionView(this.#store) } : NOT_FOUND;
  }

  #runView(n: number): Result<RunView> {
    const row = this.#store.run(n);
    return row === null
      ? fail(404, "run_not_found", "there is no run with this id")
      : { ok: true, value: this.#shown(row) };
  }

  #shown(row: RunRow): RunView {
    return runView(this.#store, { ...row, request: this.#gate.mask.text(row.request) });
  }

  #failed(error: unknown): Failure {
    if (error instanceof EngineUnavailable) return fail(503, "engine_unavailable", error.message);
    return failureOf(error, (what, cause) => this.#machine.report("error", what, cause));
  }

  /** Runs an RPC's body; a missing session and every error become values. */
  async #try<R>(fn: () => Result<R> | Promise<Result<R>>): Promise<Result<R>> {
    if (!this.#store.exists) return NOT_FOUND;
    try {
      return await fn();
    } catch (error) {
      return this.#failed(error);
    }
  }
}

/** Tool rules that the policy may have and a session may not: too many, or with control characters. */
function refusedTools(error: unknown, at: string): Failure | null {
  if (!(error instanceof CoreError) || error.field?.startsWith(at) !== true) return null;
  const field = `/policy/tools${error.field.slice(at.length)}`;
  return fail(400, "invalid_policy", `the policy is refused at ${field}: ${error.message}`, field);
}

async function digestOf(text: string): Promise<string> {
  return Buffer.from(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text))).toString("hex");
}
