/**
 * What the routes may ask of a Session object, and what they get back.
 *
 * Every call is an RPC to the Durable Object `Session` named by the session id. Failures are values
 * (`Result`), because an Error loses its class on the way through RPC.
 */

import type { PolicyReport } from "../core/guard.js";
import type { AgentName, CreateRunBody, CreateSessionBody, Limits, PatchSessionBody } from "../routes/schemas.js";

/** A failure in the terms of docs/API: `code` is stable, `field` is a JSON pointer into the request. */
export interface Failure {
  readonly ok: false;
  readonly status: number;
  readonly code: string;
  readonly detail: string;
  readonly field?: string;
}
export interface Success<T> {
  readonly ok: true;
  readonly value: T;
}
export type Result<T> = Success<T> | Failure;

export type SessionState = "starting" | "idle" | "running" | "ending" | "ended";
export type RunState =
  | "queued"
  | "running"
  | "succeeded"
  | "failed"
  | "interrupted"
  | "cancelled"
  | "timed_out"
  | "over_budget"
  | "policy_violation";

export interface Usage {
  input_tokens: number;
  output_tokens: number;
  cache_read_tokens: number;
  cache_write_tokens: number;
  /** null: a model whose price is not known was used. */
  cost_usd: number | null;
  turns: number;
  tool_calls: number;
  /** bytes of standard output and standard error. */
  output_bytes: number;
  wall_ms: number;
}

/** Use of one limit, in the unit of its name; `used` is null when it is not known. */
export interface BudgetLine {
  used: number | null;
  max: number;
  remaining: number;
}
export type Budget = Record<string, BudgetLine>;

/** A limit that was reached. */
export interface Reached {
  limit: string;
  scope: "session" | "run";
  used: number | null;
  max: number;
  detail?: string;
}

/** Whether the running run may ask its model once more, and what one such request used. */
export interface ModelVerdict {
  run_id: string | null;
  may_call: boolean;
  /** The limit that forbids it. */
  reached: string | null;
}
export interface ModelUsage {
  model?: string;
  input_tokens?: number;
  output_tokens?: number;
  cache_read_tokens?: number;
  cache_write_tokens?: number;
  /** Only where the provider says it; otherwise the price table does. */
  cost_usd?: number;
}

export interface SessionView {
  id: string;
  agent: AgentName;
  /** null: the default root. */
  template: string | null;
  state: SessionState;
  created_at: string;
  expires_at: string | null;
  ended_at: string | null;
  ended_reason: string | null;
  timeout_s: number;
  metadata: Record<string, string>;
  runs: number;
  last_seq: number;
  usage: Usage;
  limits: Limits;
  budget: Budget;
  price_table: string | null;
}

export interface RunSummary {
  counts: {
    turns: number;
    tool_calls: number;
    tool_errors: number;
    denials: number;
    subagents: number;
    retries: number;
    errors: number;
    unparsed: number;
  };
  files: { path: string; reads: number; edits: number; status: "added" | "modified" | "deleted" | null }[];
  /** What did not fit; null when all did. */
  truncated: { items: number; files: number; events: number } | null;
}

export interface RunView {
  id: string;
  session_id: string;
  state: RunState;
  prompt?: string;
  command?: string;
  created_at: string;
  started_at: string | null;
  ended_at: string | null;
  exit_code: number | null;
  reason: string | null;
  result: string | null;
  usage: Usage | null;
  limits: Limits;
  budget: Budget;
  reached: Reached | null;
  /** Of a run that is over, where it alone is asked for. */
  summary?: RunSummary;
}

/** What a program in the sandbox asks of the network. `path` has no query. */
export interface EgressQuestion {
  readonly host: string;
  readonly port: number;
  readonly method: string;
  readonly path: string;
  readonly websocket: boolean;
  /** It asks a git server to take a push. */
  readonly push?: boolean;
  /** Id of the policy that the asker has from an earlier answer, null for none. */
  readonly policy: string | null;
  /** The local engine's door for the sandbox (way-out.ts OUT_HEADER): the session takes the next requests there itself. Null in production. */
  readonly door: string | null;
}

/** A policy to judge addresses by; `text` is null where the asker has it already. */
export interface AddressPolicy {
  readonly id: string;
  readonly text: string | null;
}

export interface EgressAnswer {
  /** Of the entry in the egress log. */
  readonly id: number;
  readonly allow: boolean;
  readonly rule: string;
  readonly reason: string;
  /** Headers to set. */
  readonly headers: readonly (readonly [name: string, value: string])[];
  /** Placeholders and what they stand for, for this host. */
  readonly replace: readonly (readonly [placeholder: string, secret: string])[];
  /** Replace them in small JSON bodies too. */
  readonly body: boolean;
  /** The policy speaks of addresses: what it allows may be connected to, about everything else `egressAddress` is asked. Else null. */
  readonly byAddress: AddressPolicy | null;
  /** A git push is to be held until it is approved. */
  readonly holdPush: boolean;
  /** The host, where it is an address itself, in its usual form. */
  readonly address: string | null;
}

/** What the policy says of a host's addresses. */
export interface AddressVerdict {
  /** The one to connect to; null: none is allowed, and `rule` and `reason` say why. */
  readonly address: string | null;
  readonly rule: string;
  readonly reason: string;
}

/** What became of an allowed request. */
export interface EgressEnd {
  status: number;
  /** Of the bodies. Of a WebSocket null while it is open, and where nobody counts: in production. */
  bytes_up: number | null;
  bytes_down: number | null;
  duration_ms: number;
  /** Connected to; null where that is not known: in production. */
  address: string | null;
}

/** One line of the egress log. What is null is not known yet, or never: the request was denied. */
export interface EgressEntry extends Nullable<EgressEnd> {
  id: number;
  time: string;
  host: string;
  port: number;
  method: string;
  path: string;
  verdict: string;
  rule: string;
}
type Nullable<T> = { [K in keyof T]: T[K] | null };

/** One ref that a git push changes; all zeros for what is not there before or after. */
export interface PushedRef {
  readonly ref: string;
  readonly old: string;
  readonly new: string;
}

export type ApprovalDecision = "approved" | "denied" | "expired" | "withdrawn";

/** A push that waits, or waited, for somebody's word. */
export interface ApprovalView {
  id: string;
  kind: "git_push";
  state: "pending" | ApprovalDecision;
  host: string;
  path: string;
  refs: PushedRef[];
  diff: string;
  diff_truncated: boolean;
  created_at: string;
  expires_at: string;
  resolved_at: string | null;
  resolved_by: string;
  reason: string;
}

/** What running a command in the session's sandbox needs. It stays in the Worker. */
export interface CommandAccess {
  readonly sandboxId: string;
  /** The secrets' names with their placeholders, for the command's environment. */
  readonly env: Record<string, string>;
  /** The secrets themselves, to be masked in what the command prints. */
  readonly secrets: readonly string[];
}

/** The artifact that a link stands for. */
export interface SharedArtifact {
  run_id: string;
  path: string;
}

/** A link that lets others read the session, or with `artifact` download that artifact alone. */
export interface ShareView {
  id: string;
  artifact: SharedArtifact | null;
  created_at: string;
  expires_at: string;
  revoked_at: string | null;
}

/** A port of the sandbox under a preview URL. */
export interface PortView {
  port: number;
  name: string | null;
  url: string;
  created_at: string;
  expires_at: string;
}

export interface ArtifactView {
  run_id: string;
  path: string;
  size: number;
  sha256: string;
  mode: string;
  /** Key in the R2 bucket; not part of the HTTP answer. */
  key: string;
}

/** One event as clients see it: a JSON text, never parsed and re-serialized on the way. */
export interface EventText {
  seq: number;
  type: string;
  json: string;
}

export interface SessionRpc {
  /**
   * Creates the session; `id` is the object's own name, chosen by the route. Created again with the same body it answers the
   * session, with another body `idempotency_mismatch`. 503 `engine_unavailable`: nothing was created. `quota`: the class of the
   * caller's quotas, whose spend per day holds for the session's model calls.
   */
  create(id: string, body: CreateSessionBody, tenant?: string, quota?: string): Promise<Result<SessionView>>;
  view(): Promise<Result<SessionView>>;
  /** Changes the time-out, the limits, or both; limits hold for the running run too. */
  update(body: PatchSessionBody): Promise<Result<SessionView>>;
  /** Ends the session; answers when the sandbox is destroyed. The log and the artifacts stay. */
  end(): Promise<Result<SessionView>>;
  /** Queues a run. The same key and body answer the same run; another body is a 409 `idempotency_mismatch`. */
  createRun(body: CreateRunBody, idempotencyKey?: string): Promise<Result<RunView>>;
  /** Whether the next request to a model may go; answered from what is stored, without the core. */
  mayCallModel(): Promise<Result<ModelVerdict>>;
  /**
   * Counts what one request to a model was seen to use on its way. Of this and what the agent says the larger figure counts. A
   * run that is over is left alone; its tenant's day has the cost all the same.
   */
  countUsage(runId: string, usage: ModelUsage): Promise<Result<ModelVerdict>>;
  run(runId: string): Promise<Result<RunView>>;
  runs(): Promise<Result<RunView[]>>;
  cancelRun(runId: string): Promise<Result<RunView>>;
  /** Events with seq > after, at most `limit`, oldest first; with `runId` only that run's. `ended`: none follows this page. */
  events(
    after: number,
    limit: number,
    withRaw: boolean,
    runId?: string,
  ): Promise<Result<{ events: EventText[]; last_seq: number; ended: boolean }>>;
  artifacts(): Promise<Result<ArtifactView[]>>;
  /**
   * Unified diff of the workspace against its state when the session began, or of what one run changed. Taken in the sandbox
   * while it lives, from R2 after that. Bytes, because the files need not be UTF-8; cut after DIFF_MAX.
   */
  diff(runId?: string): Promise<Result<Uint8Array>>;
  /**
   * Id under which the Sandbox object of this session is found (effects/sandbox.ts `sessionSandbox`), when the sandbox is
   * usable: waits while it starts, 409 `session_ended` or `sandbox_gone` when there is none.
   */
  sandboxId(): Promise<Result<string>>;
  /** The same with what a command beside the agent is given, and what its output may not show. 409 `no_seal_key`: a secret cannot be opened. */
  commands(): Promise<Result<CommandAccess>>;
  /** The text without the session's secrets, the operator's keys and what has the shape of one. */
  masked(text: string): Promise<string>;
  /**
   * GET with `Accept: text/event-stream` answers SSE (`id:` = seq, `event:` = type, `data:` = the event, comment
   * heartbeat every 15 s, honours `Last-Event-ID` and `?after=`, `?raw=0`, `?run=run_N`: only that run, ends with its outcome); GET with `Upgrade: websocket` answers a WebSocket
   * (one event a text frame, the same parameters). Both end after `session.ended`.
   *
   * GET of `…/runs/{run}/transcript` answers the run's transcript, of `…/transcript` those of all runs, as Markdown when `Accept` asks for text/markdown.
   *
   * `/terminal` (terminals.ts `askTerminal`) answers the WebSocket of a terminal in the sandbox.
   */
  fetch(request: Request): Promise<Response>;
  policy(): Promise<Result<{ policy: object; compiled: object }>>;
  /** Holds from the next connection on. 400 `invalid_policy` with the field. */
  setPolicy(document: object): Promise<Result<PolicyReport>>;
  /** May the sandbox do this? The question is logged, and reported as an event when it is denied. */
  egress(question: EgressQuestion): Promise<Result<EgressAnswer>>;
  egressEnded(id: number, end: EgressEnd): Promise<Result<true>>;
  /** A WebSocket has ended: the bytes of its frames, framing included, and how long it was. */
  webSocketEnded(id: number, bytesUp: number, bytesDown: number, durationMs: number): Promise<Result<true>>;
  /** May an allowed request go to one of these addresses of its host? If not, its entry becomes a denial. */
  egressAddress(id: number, addresses: readonly string[]): Promise<Result<AddressVerdict>>;
  /** Asks for a push to be approved; `id` is its entry in the egress log. 409 `too_many_approvals`. */
  requestApproval(id: number, refs: readonly PushedRef[]): Promise<Result<ApprovalView>>;
  /** The approval when it is decided, or after a while as it is. */
  awaitApproval(approval: string): Promise<Result<ApprovalView>>;
  approvals(): Promise<Result<ApprovalView[]>>;
  /** The first word holds: 409 `approval_resolved` for another one afterwards. */
  resolveApproval(
    approval: string,
    decision: ApprovalDecision,
    by: string,
    reason: string,
  ): Promise<Result<ApprovalView>>;
  /** Number of the last entry of the egress log that is in R2; see egress-archive.ts. */
  egressArchived(): Promise<Result<number>>;
  egressLog(after: number, limit: number): Promise<Result<EgressEntry[]>>;
  /**
   * Records a link to the session, or with `artifact` to that artifact alone: without `run` to the newest of its path, as it is
   * now. 409 `too_many_shares`, 404 `artifact_not_found`.
   */
  addShare(
    shareId: string,
    expiresMs: number,
    artifact?: { readonly path: string; readonly run?: string | undefined },
  ): Promise<Result<ShareView>>;
  /** Opens a port under a preview URL below `hostname` (with its port). 409 `too_many_ports`. */
  openPort(port: number, hostname: string, name: string | null, expiresMs: number): Promise<Result<PortView>>;
  ports(hostname: string): Promise<Result<PortView[]>>;
  closePort(port: number): Promise<Result<true>>;
  shares(): Promise<Result<ShareView[]>>;
  revokeShare(shareId: string): Promise<Result<ShareView>>;
  /** 401 `share_revoked` unless the link is live. */
  checkShare(shareId: string): Promise<Result<true>>;
  /** The artifact of a live artifact link; 404 `link_not_found` for everything else. */
  sharedArtifact(shareId: string): Promise<Result<ArtifactView>>;
  /** The log as `caisson-audit verify` reads it, from event `after` on: lines in order, then the head they lead to. */
  audit(after: number): Promise<Result<{ lines: string[]; next: number; head: string | null }>>;
}
