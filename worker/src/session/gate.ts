/**
 * What the session's sandbox may reach: the policy, the secrets that are put in on the way out, and the log of what was
 * asked. The policy is judged by the guard; secrets are stored sealed and opened only for the answer to one request.
 */
import { CoreError } from "../core/core.js";
import type { Guard, Injection, PolicyReport } from "../core/guard.js";
import { report } from "../effects/report.js";
import type { Env } from "../env.js";
import type { CreateSessionBody } from "../routes/schemas.js";
import type {
  AddressPolicy,
  AddressVerdict,
  CommandAccess,
  EgressAnswer,
  EgressEnd,
  EgressEntry,
  EgressQuestion,
  Failure,
  Result,
} from "./api.js";
import { EgressLog } from "./egress-log.js";
import { fail } from "./failures.js";
import type { PolicyLimits } from "./limits.js";
import { Mask } from "./mask.js";
import type { ToolRules } from "./request.js";
import type { Store } from "./store.js";

/** What holds for a session whose request says nothing: its agent's model and nothing else. */
const DEFAULT_POLICY = '{"preset":"model-only"}';
/** A rule that may be an address or a block of them; a name that looks like one costs no more than a look-up. */
const ADDRESS_PATTERN = /^\[?[0-9a-f:.]+(\/|\]|$)|^[0-9.]+:\d+$/i;
/** UTF-16 units of a path kept in the log. */
const PATH_KEPT = 512;

/** What a policy says besides its verdicts. */
interface Facts {
  readonly webSockets: boolean;
  /** It speaks of addresses: a name's are to be judged. */
  readonly addresses: boolean;
}

interface PrintedPolicy {
  readonly network: { websockets: string; private_ranges: string; allow?: string[]; deny?: string[] };
}

export class Gate {
  readonly #sql: SqlStorage;
  readonly #env: Env;
  readonly #store: Store;
  readonly #newGuard: () => Guard;
  /** Keeps the session's secrets and the operator's keys out of what is stored and sent. */
  readonly mask: Mask;
  readonly #log: EgressLog;
  #guard: Guard | null = null;
  #facts: Facts | null = null;
  /** The policy for those who judge addresses; its id is of this policy and no other. */
  #printed: { readonly id: string; readonly text: string } | null = null;

  constructor(sql: SqlStorage, env: Env, store: Store, newGuard: () => Guard) {
    this.#sql = sql;
    this.#env = env;
    this.#store = store;
    this.#newGuard = newGuard;
    this.mask = new Mask(env, () => this.#secrets());
    this.#log = new EgressLog(sql, store, (error) =>
      report((text) => this.mask.text(text), "error", `session ${store.text("id")}: egress log`, error),
    );
  }

  /** The session's secrets, opened. Throws when the key that sealed one is gone. */
  #secrets(): string[] {
    this.#tables();
    const rows = [
      ...this.#sql.exec<{ name: string; sealed: ArrayBuffer }>("SELECT name, sealed FROM secrets ORDER BY name"),
    ];
    if (rows.length === 0) return [];
    const guard = this.#newGuard();
    const keyed = this.#useSealKeys(guard);
    if (keyed !== null) throw new Error(keyed.detail);
    return rows.map(({ name, sealed }) => {
      const opened = guard.unseal(this.#store.text("id") ?? "", name, new Uint8Array(sealed));
      const secret = new TextDecoder().decode(opened);
      opened.fill(0);
      return secret;
    });
  }

  /** Placeholders for the environment of a command, and the secrets that its output may not show. */
  commandSecrets(): Result<Pick<CommandAccess, "env" | "secrets">> {
    this.#tables();
    const rows = this.#sql.exec<{ name: string; placeholder: string }>("SELECT name, placeholder FROM secrets");
    const env = Object.fromEntries([...rows].map(({ name, placeholder }) => [name, placeholder]));
    try {
      return { ok: true, value: { env, secrets: this.#secrets() } };
    } catch {
      const detail =
        "a stored secret cannot be opened, so that it could not be kept out of what the command prints: put the key that sealed it back into CAISSON_SEAL_KEY";
      return fail(409, "no_seal_key", detail);
    }
  }

  /** Names and placeholders of the request's secrets for the sandbox's environment, the rules that are the session's, and what to store; or what is wrong. */
  prepare(
    id: string,
    body: CreateSessionBody,
  ): { env: Record<string, string>; rules: SessionRules; save: () => void } | Failure {
    const { policy, secrets = {} } = body;
    const guard = this.#newGuard();
    const text = policy === undefined ? DEFAULT_POLICY : JSON.stringify(policy);
    const compiled = this.#compile(guard, text);
    if (!compiled.ok) return compiled;
    const names = Object.keys(secrets);
    const env: Record<string, string> = {};
    const rows: [name: string, placeholder: string, sealed: Uint8Array][] = [];
    const unfit = this.mask.check(secrets);
    if (unfit !== null) return unfit;
    if (names.length > 0) {
      const keyed = this.#useSealKeys(guard);
      if (keyed !== null) return keyed;
    }
    for (const name of names) {
      if (body.env !== undefined && Object.hasOwn(body.env, name))
        return fail(400, "conflicting_fields", `${name} is in "env" too`, `/secrets/${name}`);
      const placeholder = `caisson-secret-${Buffer.from(crypto.getRandomValues(new Uint8Array(16))).toString("hex")}`;
      env[name] = placeholder;
      rows.push([name, placeholder, guard.seal(id, name, new TextEncoder().encode(secrets[name]))]);
    }
    const save = (): void => {
      this.#tables();
      this.#store.set("policy", text);
      for (const row of rows)
        this.#sql.exec("INSERT INTO secrets (name, placeholder, sealed) VALUES (?, ?, ?)", ...row);
      this.#hold(guard);
      this.mask.forget();
    };
    return { env, rules: sessionRules(guard), save };
  }

  #tables(): void {
    this.#sql.exec(`
      CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, placeholder TEXT NOT NULL, sealed BLOB NOT NULL) STRICT, WITHOUT ROWID;
    `);
  }

  /** Replaces the policy; it holds from the next request on. `accept` gets what of it is the session's, and refuses it by throwing. */
  setPolicy(document: object, accept: (rules: SessionRules) => void): Result<PolicyReport> {
    const text = JSON.stringify(document);
    const guard = this.#newGuard();
    const compiled = this.#compile(guard, text);
    if (!compiled.ok) return compiled;
    accept(sessionRules(guard));
    this.#tables();
    this.#store.set("policy", text);
    this.#hold(guard);
    return compiled;
  }

  /** From now on this policy holds. */
  #hold(guard: Guard): void {
    this.#guard = guard;
    this.#facts = null;
    this.#printed = null;
  }

  /** The policy as it was given, and as it is understood. */
  policy(): { policy: object; compiled: object } {
    const text = this.#store.text("policy") ?? DEFAULT_POLICY;
    return { policy: JSON.parse(text), compiled: JSON.parse(this.#current().policy()) };
  }

  /** The limits of the policy that holds. */
  limits(): PolicyLimits {
    return sessionRules(this.#current()).limits;
  }

  /** Judges a request and logs it. An allowed one is to be reported with `ended`. */
  ask(question: EgressQuestion, nowMs: number): EgressAnswer {
    const guard = this.#current();
    const found = guard.net(question.host, question.port);
    let { verdict, rule, reason } = found;
    if (verdict === "allow" && question.websocket && !this.#known(guard).webSockets) {
      verdict = "deny";
      rule = "network.websockets";
      reason = `A WebSocket to ${question.host} is denied: network.websockets is deny.`;
    }
    let holdPush = false;
    if (verdict === "allow" && question.push === true) {
      const push = guard.push(question.host, question.port, question.path);
      holdPush = push.verdict === "ask";
      if (push.verdict === "deny") ({ verdict, rule, reason } = push);
    }
    const allow = verdict === "allow";
    const id = this.#log.add({
      time_ms: nowMs,
      host: this.mask.text(question.host),
      port: question.port,
      method: this.mask.text(question.method),
      path: this.mask.text(question.path).slice(0, PATH_KEPT),
      verdict: allow ? "allow" : "deny",
      rule,
    });
    const address = literal(question.host);
    const facts = this.#known(guard);
    const byAddress = address !== null || facts.addresses ? this.#addressPolicy(guard, question.policy) : null;
    const credentials = allow ? this.#credentials(guard, found.inject) : NO_CREDENTIALS;
    return { id, allow, rule, reason, byAddress, holdPush, address, ...credentials };
  }

  #addressPolicy(guard: Guard, known: string | null): AddressPolicy {
    this.#printed ??= { id: crypto.randomUUID(), text: guard.policy() };
    const { id, text } = this.#printed;
    return { id, text: known === id ? null : text };
  }

  #known(guard: Guard): Facts {
    if (this.#facts === null) {
      const { network } = JSON.parse(guard.policy()) as PrintedPolicy;
      const patterns = [...(network.allow ?? []), ...(network.deny ?? [])];
      this.#facts = {
        webSockets: network.websockets === "allow",
        addresses: network.private_ranges === "allow" || patterns.some((text) => ADDRESS_PATTERN.test(text)),
      };
    }
    return this.#facts;
  }

  /** Number of the newest entry, 0 before the first. */
  get lastEntry(): number {
    return this.#log.last;
  }

  /** The request of an entry of the log. */
  entry(id: number): EgressEntry | null {
    return this.#log.line(id);
  }

  /** The first of a host's addresses that may be connected to. */
  judge(id: number, addresses: readonly string[]): AddressVerdict {
    const entry = this.entry(id);
    if (entry === null) return { address: null, rule: "network", reason: "The request is not known any more." };
    const guard = this.#current();
    const found = addresses.map((address) => ({ address, ...guard.net(entry.host, entry.port, address) }));
    const good = found.find(({ verdict }) => verdict === "allow");
    if (good !== undefined) return { address: good.address, rule: good.rule, reason: good.reason };
    const bad = found[0] ?? { address: null, rule: "network", reason: `${entry.host} has no address.` };
    this.#log.denied(id, bad.rule, bad.address);
    return { address: null, rule: bad.rule, reason: bad.reason };
  }

  /** Headers to set, and placeholders with what they stand for. A secret that is not there is left out, and said in the log. */
  #credentials(guard: Guard, inject: readonly Injection[]): Pick<EgressAnswer, "headers" | "replace" | "body"> {
    const headers: [string, string][] = [];
    const replace: [string, string][] = [];
    let body = false;
    if (inject.length > 0 && this.#useSealKeys(guard) !== null) return NO_CREDENTIALS;
    for (const rule of inject) {
      const row = [
        ...this.#sql.exec<{ placeholder: string; sealed: ArrayBuffer }>(
          "SELECT placeholder, sealed FROM secrets WHERE name = ?",
          rule.secret,
        ),
      ][0];
      if (row === undefined) continue;
      const opened = guard.unseal(this.#store.text("id") ?? "", rule.secret, new Uint8Array(row.sealed));
      const secret = new TextDecoder().decode(opened);
      opened.fill(0);
      if (rule.header !== undefined) headers.push([rule.header, (rule.format ?? "{}").replace("{}", () => secret)]);
      else replace.push([row.placeholder, secret]);
      body ||= rule.body;
    }
    return { headers, replace, body };
  }

  /** What became of an allowed request. */
  ended(id: number, end: EgressEnd): EgressEntry | null {
    return this.#log.ended(id, end);
  }

  /** Null where that entry is no WebSocket that is open. */
  webSocketEnded(id: number, bytesUp: number, bytesDown: number, durationMs: number): EgressEntry | null {
    if (this.entry(id) === null) return null;
    const query =
      "UPDATE egress SET bytes_up = ?, bytes_down = ?, duration_ms = ? WHERE id = ? AND status = 101 AND bytes_up IS NULL";
    const { rowsWritten } = this.#sql.exec(query, bytesUp, bytesDown, durationMs, id);
    return rowsWritten === 0 ? null : (this.log(id - 1, 1)[0] ?? null);
  }

  log(after: number, limit: number): EgressEntry[] {
    return this.#log.read(after, limit);
  }

  #current(): Guard {
    if (this.#guard !== null) return this.#guard;
    const guard = this.#newGuard();
    // A preset that the operator has taken away leaves a guard that denies everything.
    this.#compile(guard, this.#store.text("policy") ?? DEFAULT_POLICY);
    this.#guard = guard;
    return guard;
  }

  /** Compiles a document, over the operator's preset that it names if there is one. */
  #compile(guard: Guard, text: string): Result<PolicyReport> {
    try {
      const document = JSON.parse(text) as { preset?: unknown };
      const presets = this.#presets();
      if (presets === null) return fail(500, "bad_keys", "CAISSON_POLICIES is not a JSON object of policies by name");
      const name = document.preset;
      if (typeof name !== "string" || !Object.hasOwn(presets, name)) return { ok: true, value: guard.setPolicy(text) };
      guard.setPolicy(JSON.stringify(presets[name]));
      return { ok: true, value: guard.setPolicy(JSON.stringify({ ...document, preset: undefined }), "auto", true) };
    } catch (error) {
      if (!(error instanceof CoreError)) throw error;
      const field = `/policy${error.field ?? ""}`;
      return fail(400, "invalid_policy", `the policy is refused at ${field}: ${error.message}`, field);
    }
  }

  /** The operator's presets by name, null when they cannot be read. */
  #presets(): Record<string, unknown> | null {
    try {
      const presets: unknown = JSON.parse(this.#env.CAISSON_POLICIES || "{}");
      return typeof presets === "object" && presets !== null ? (presets as Record<string, unknown>) : null;
    } catch {
      return null;
    }
  }

  /** CAISSON_SEAL_KEY: `<version>:<32 bytes in base64url>`, the newest first, separated by commas. */
  #useSealKeys(guard: Guard): Failure | null {
    const text = this.#env.CAISSON_SEAL_KEY ?? "";
    const keys = text.split(",").map((part) => {
      const [version = "", key = ""] = part.trim().split(":");
      return { version: Number(version), key: new Uint8Array(Buffer.from(key, "base64url")) };
    });
    const good = keys.every(({ version, key }) => version >= 1 && version <= 255 && key.byteLength === 32);
    if (text === "" || !good) {
      const detail =
        "secrets need CAISSON_SEAL_KEY: `1:` and 32 random bytes in base64url (openssl rand -base64 32 | tr '+/' '-_' | tr -d =)";
      return fail(409, "no_seal_key", detail, "/secrets");
    }
    guard.setSealKeys(keys);
    return null;
  }
}

/** An address as it stands in a URL, without brackets; null for a name. */
function literal(host: string): string | null {
  if (host.startsWith("[")) return host.slice(1, -1);
  return /^\d+\.\d+\.\d+\.\d+$/.test(host) ? host : null;
}

/** What of a policy the session itself keeps, as it is compiled: that of a preset and of another dialect is in it. */
export interface SessionRules {
  readonly tools: ToolRules;
  readonly limits: PolicyLimits;
}

function sessionRules(guard: Guard): SessionRules {
  const { tools, limits } = JSON.parse(guard.policy()) as SessionRules;
  return { tools, limits };
}

const NO_CREDENTIALS = { headers: [], replace: [], body: false } as const satisfies Pick<
  EgressAnswer,
  "headers" | "replace" | "body"
>;
