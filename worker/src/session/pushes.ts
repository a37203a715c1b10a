/** Git pushes that the policy holds: asks with the diff, waits, tells who decided. */
import { T } from "../core/abi.gen.js";
import { run as exec } from "../effects/sandbox.js";
import { pushDiffScript } from "../effects/workspace.js";
import type { Env } from "../env.js";
import type { ApprovalDecision, ApprovalView, PushedRef, Result } from "./api.js";
import { Approvals, DIFF_KEPT_MAX } from "./approvals.js";
import { fail } from "./failures.js";
import type { Machine } from "./machine.js";
import type { Mask } from "./mask.js";
import type { OwnSandbox } from "./own-sandbox.js";
import type { Store } from "./store.js";
import { within } from "./within.js";

/** milliseconds: how long a push waits unless CAISSON_APPROVAL_WAIT_S says otherwise. */
const WAIT_MS = 600_000;
/** milliseconds: the diff is shown as far as it comes in this time, or not at all. */
const DIFF_MS = 20_000;
/** milliseconds: a question whether it is decided is answered after so long at the latest. */
const LOOK_MS = 15_000;
/** items: refs of one push whose changes are shown. */
const DIFF_REFS_MAX = 16;

export class Pushes {
  readonly #env: Env;
  readonly #store: Store;
  readonly #machine: Machine;
  readonly #sandbox: OwnSandbox;
  readonly #mask: Mask;
  readonly #approvals: Approvals;

  constructor(ctx: DurableObjectState, env: Env, store: Store, machine: Machine, sandbox: OwnSandbox, mask: Mask) {
    this.#mask = mask;
    this.#env = env;
    this.#store = store;
    this.#machine = machine;
    this.#sandbox = sandbox;
    this.#approvals = new Approvals(ctx.storage.sql);
  }

  async request(host: string, path: string, refs: readonly PushedRef[]): Promise<Result<ApprovalView>> {
    this.#expire();
    if (this.#approvals.isFull) return TOO_MANY;
    const diff = await this.#diff(refs);
    // Others may have asked meanwhile.
    if (this.#approvals.isFull) return TOO_MANY;
    const seconds = Number(this.#env.CAISSON_APPROVAL_WAIT_S);
    const waitMs = seconds > 0 ? seconds * 1_000 : WAIT_MS;
    const nowMs = Date.now();
    const id = `apr_${crypto.randomUUID()}`;
    const cut = diff.byteLength >= DIFF_KEPT_MAX;
    const redact = (value: string): string => this.#machine.redact(value);
    const text = redact(new TextDecoder().decode(diff));
    const shown = refs.map((ref) => ({ ...ref, ref: redact(ref.ref) }));
    const view = this.#approvals.add(
      id,
      { host, path: redact(path), refs: shown, diff: text, diffCut: cut },
      nowMs,
      nowMs + waitMs,
    );
    this.#note(T.APPROVAL_REQUESTED, view, { expires_at: view.expires_at });
    return { ok: true, value: view };
  }

  /** By the sandbox's own repository: what a program in there could have made up is what it could have pushed. */
  async #diff(refs: readonly PushedRef[]): Promise<Uint8Array> {
    const shown = refs.slice(0, DIFF_REFS_MAX);
    try {
      const ran = this.#sandbox.alive((stub) => exec(stub, pushDiffScript(shown, DIFF_KEPT_MAX)));
      const done = await within(DIFF_MS, "the push's diff", ran);
      return this.#mask.bytes(Buffer.from(done?.stdout ?? "", "base64"));
    } catch (error) {
      this.#machine.report("warn", "the diff of a push", error);
      return new TextEncoder().encode("(the diff could not be made)\n");
    }
  }

  async await(id: string): Promise<Result<ApprovalView>> {
    const known = this.#approvals.get(id);
    if (known === null) return NOT_FOUND;
    const left = Math.max(0, Date.parse(known.expires_at) - Date.now());
    await Promise.race([
      this.#machine.until(() => this.#approvals.get(id)?.state !== "pending"),
      scheduler.wait(Math.min(left + 1, LOOK_MS)),
    ]);
    this.#expire();
    return { ok: true, value: this.#approvals.get(id) ?? known };
  }

  list(): ApprovalView[] {
    this.#expire();
    return this.#approvals.list();
  }

  resolve(id: string, decision: ApprovalDecision, by: string, reason: string): Result<ApprovalView> {
    this.#expire();
    const known = this.#approvals.get(id);
    if (known === null) return NOT_FOUND;
    if (known.state === decision) return { ok: true, value: known };
    if (known.state !== "pending") return fail(409, "approval_resolved", `the approval is ${known.state} already`);
    // The push waits as long as its sandbox is there, which is longer than anything may leave it.
    const session = this.#store.text("state");
    if (decision === "approved" && (session === "ending" || session === "ended"))
      return fail(409, "session_ended", "the session has ended");
    return { ok: true, value: this.#settle(id, decision, by, reason) };
  }

  #expire(): void {
    for (const { id } of this.#approvals.due(Date.now())) this.#settle(id, "expired", "", "");
  }

  #settle(id: string, decision: ApprovalDecision, by: string, reason: string): ApprovalView {
    this.#approvals.resolve(id, decision, by, reason, Date.now());
    const view = this.#approvals.get(id) as ApprovalView;
    this.#note(T.APPROVAL_RESOLVED, view, { state: view.state, by, reason });
    return view;
  }

  #note(type: number, view: ApprovalView, more: Record<string, string>): void {
    const state = this.#store.text("state");
    if (state === "ended") return;
    const { id, kind, host, path } = view;
    const refs = view.refs.map(({ ref }) => ref).join(" ");
    this.#machine.note(this.#store.number("active_run") ?? 0, type, { id, kind, host, path, refs, ...more });
  }
}

const TOO_MANY = fail(409, "too_many_approvals", "too many pushes wait for an approval");
const NOT_FOUND = fail(404, "approval_not_found", "there is no approval with this id");
