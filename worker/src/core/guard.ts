/**
 * The host side of guard.wasm: policy, identity, sealed secrets, audit chain. A module of its own, so that keys never lie in
 * the memory in which an agent's output is read.
 *
 * One `Guard` per owner: the front Worker keeps one for tokens, a Session object one for its policy and secrets. A trap
 * poisons the instance: every later question throws, which denies.
 */
import type { AskName, ErrName } from "./abi.gen.js";
import { ABI, ASK, DESC, ERR, FX, REC } from "./abi.gen.js";
import { CoreError, CoreTrap } from "./core.js";

/** A credential that the policy puts into requests to one host. */
export interface Injection {
  /** Name of the session's secret. */
  readonly secret: string;
  /** The header that is set; absent: the placeholder is replaced where it stands. */
  readonly header?: string;
  /** Text with `{}` where the secret goes. */
  readonly format?: string;
  /** Also in small JSON bodies. */
  readonly body: boolean;
}

export interface Verdict {
  readonly verdict: "allow" | "deny" | "ask";
  /** `network.allow[3]`, `network.default`, … */
  readonly rule: string;
  /** The rule's own text, when a rule decided. */
  readonly pattern?: string;
  /** One sentence: the verdict, and for a denial how to ask for access. */
  readonly reason: string;
}

export interface NetVerdict extends Verdict {
  readonly inject: readonly Injection[];
}

export interface PolicyReport {
  readonly dialect: string;
  /** Settings that have no equal here. */
  readonly unmapped: readonly { readonly pointer: string; readonly why: string }[];
}

export interface Claims {
  readonly sub?: string;
  readonly tenant?: string;
  readonly quota?: string;
  /** Unix time in seconds. */
  readonly exp: number;
  readonly jti?: string;
  readonly kid?: string;
  /** Scopes separated by spaces. */
  readonly scope?: string;
}

/** What a model's answer says it used; see csn/wire.h. */
export interface WireUsage {
  /** Whether it said anything. */
  readonly seen: boolean;
  readonly model: string;
  readonly input_tokens: number;
  readonly output_tokens: number;
  readonly cache_read_tokens: number;
  readonly cache_write_tokens: number;
  /** Events that were no JSON. */
  readonly unread: number;
  /** Whether it said what the whole answer used, not only what its beginning did. */
  readonly final: boolean;
  /** Tokens that the answer's length stands for. */
  readonly estimate: number;
}

/** Values of csn_policy_dialect. */
export const POLICY_DIALECT = {
  auto: 0,
  caisson: 1,
  "claude-code": 2,
  e2b: 3,
  "docker-sandbox": 4,
  "sandbox-runtime": 5,
} as const;
export type PolicyDialect = keyof typeof POLICY_DIALECT;

/** State of an audit chain: 32 bytes of head and the count, as csn_audit writes it. */
export type AuditState = Uint8Array;

interface GuardExports {
  readonly memory: WebAssembly.Memory;
  _initialize(): void;
  csn_abi(): number;
  csn_ask(len: number): number;
}

const errNames = new Map<number, ErrName>(Object.entries(ERR).map(([name, value]) => [value, name as ErrName]));
const utf8 = new TextEncoder();
const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const NONCE_BYTES = 12;

export class Guard {
  readonly #exports: GuardExports;
  readonly #desc: Uint32Array;
  readonly #in: Uint8Array;
  readonly #inView: DataView;
  readonly #out: Uint8Array;
  readonly #outView: DataView;
  #trap: CoreTrap | null = null;

  /** Throws CoreTrap when the module's wire is not the one that abi.gen.ts was printed from. */
  constructor(module: WebAssembly.Module) {
    const exports = new WebAssembly.Instance(module, {}).exports as unknown as GuardExports;
    exports._initialize();
    const { buffer } = exports.memory;
    const desc = new Uint32Array(buffer, exports.csn_abi(), ABI.descSize / 4);
    const field = (offset: number): number => desc[offset / 4] ?? 0;
    if (field(DESC.magic) !== ABI.magic || field(DESC.version) !== ABI.version || field(DESC.digest) !== ABI.digest) {
      throw new CoreTrap("guard.wasm speaks another ABI than the Worker: run make");
    }
    this.#exports = exports;
    this.#desc = desc;
    this.#in = new Uint8Array(buffer, field(DESC.inOff), field(DESC.inCap));
    this.#inView = new DataView(buffer, field(DESC.inOff), field(DESC.inCap));
    this.#out = new Uint8Array(buffer, field(DESC.outOff), field(DESC.outCap));
    this.#outView = new DataView(buffer, field(DESC.outOff), field(DESC.outCap));
  }

  /* --- policy --- */

  /** Replaces the policy, or lays the document over it. After a CoreError everything is denied. */
  setPolicy(document: string, dialect: PolicyDialect = "auto", add = false): PolicyReport {
    return JSON.parse(this.#askText("POLICY", document, { code: POLICY_DIALECT[dialect], id: add ? 1 : 0 }));
  }

  /** The policy as a canonical document of our own dialect. */
  policy(): string {
    return this.#askText("POLICY_PRINT", "");
  }

  /** `address`: where the connection goes, when the host is a name that has been resolved. */
  net(host: string, port: number, address?: string): NetVerdict {
    const bracketed = host.includes(":") && !host.startsWith("[") ? `[${host}]` : host;
    const question = `${bracketed}:${port}${address === undefined ? "" : `@${address}`}`;
    return JSON.parse(this.#askText("NET", question));
  }

  /** May this request, a push by its path, pass? "ask": when it is approved. */
  push(host: string, port: number, path: string): Verdict {
    const bracketed = host.includes(":") && !host.startsWith("[") ? `[${host}]` : host;
    return JSON.parse(this.#askText("PUSH", `${bracketed}:${port}\0${path}`));
  }

  /** `cut`: arg is only the head of the real one. */
  tool(tool: string, arg: string, cwd: string, home: string, cut = false): Verdict {
    // A NUL would end the part early and let the rest pass for another one.
    const parts = [tool, arg, cwd, home].map((part) => part.replaceAll("\0", "\ufffd"));
    return JSON.parse(this.#askText("TOOL", parts.join("\0"), { code: cut ? 1 : 0 }));
  }

  /** Whether a file of the workspace is kept after a run. */
  isArtifact(path: string): boolean {
    return this.#ask("ARTIFACT", utf8.encode(path)).code === 1;
  }

  /* --- identity --- */

  /** The operator's keys document; see csn/token.h. */
  setKeys(document: string): void {
    this.#askText("KEYS", document);
  }

  verifyToken(token: string, nowMs: number): Claims {
    return JSON.parse(this.#askText("TOKEN", token, { nowMs }));
  }

  checkAPIKey(key: string): Claims {
    return JSON.parse(this.#askText("API_KEY", key));
  }

  mintToken(
    claims: {
      sub?: string | undefined;
      tenant?: string | undefined;
      quota?: string | undefined;
      jti?: string | undefined;
      scopes: readonly string[];
      expires_in_s: number;
    },
    nowMs: number,
  ): string {
    return this.#askText("MINT", JSON.stringify(claims), { nowMs });
  }

  /** Whether `scopes` (separated by spaces) allow `wanted`, for the object `id` or for none. */
  allows(scopes: string, wanted: string, id = ""): boolean {
    if ((scopes + wanted + id).includes("\0")) return false;
    return this.#ask("SCOPE", utf8.encode(`${scopes}\0${wanted}\0${id}`)).code === 1;
  }

  /* --- secrets --- */

  /** Master keys, newest first: the first one seals, all of them open. */
  setSealKeys(keys: readonly { readonly version: number; readonly key: Uint8Array }[]): void {
    const payload = new Uint8Array(keys.length * 33);
    keys.forEach(({ version, key }, i) => {
      if (key.byteLength !== 32) throw new CoreError("BAD_RECORD");
      payload[i * 33] = version;
      payload.set(key, i * 33 + 1);
    });
    this.#ask("SEAL_KEYS", payload);
    payload.fill(0);
  }

  seal(session: string, name: string, secret: Uint8Array): Uint8Array {
    const head = utf8.encode(`${session}\0${name}\0`);
    const payload = new Uint8Array(NONCE_BYTES + head.byteLength + secret.byteLength);
    crypto.getRandomValues(payload.subarray(0, NONCE_BYTES));
    payload.set(head, NONCE_BYTES);
    payload.set(secret, NONCE_BYTES + head.byteLength);
    return this.#ask("SEAL", payload).payload;
  }

  unseal(session: string, name: string, sealed: Uint8Array): Uint8Array {
    const head = utf8.encode(`${session}\0${name}\0`);
    const payload = new Uint8Array(head.byteLength + sealed.byteLength);
    payload.set(head);
    payload.set(sealed, head.byteLength);
    return this.#ask("UNSEAL", payload).payload;
  }

  /* --- a model's answer; one at a time --- */

  wireBegin(streamed: boolean): void {
    this.#ask("WIRE_BEGIN", new Uint8Array(), { code: streamed ? 1 : 0 });
  }

  wirePush(bytes: Uint8Array): void {
    const cap = this.#in.byteLength - ABI.recSize - 8;
    for (let at = 0; at < bytes.byteLength; at += cap) this.#ask("WIRE_PUSH", bytes.subarray(at, at + cap));
  }

  wireEnd(): WireUsage {
    return JSON.parse(text.decode(this.#ask("WIRE_END", new Uint8Array()).payload));
  }

  /**
   * Dollars that one request's tokens cost, by the operator's prices (a JSON array, or "") and then the table; null for a model
   * without a price.
   */
  price(
    own: string,
    usage: Pick<WireUsage, "model"> & Partial<Omit<WireUsage, "model" | "seen" | "unread" | "final" | "estimate">>,
  ): number | null {
    const prices = own === "" ? "" : `{"prices":${own.replaceAll("\0", "")}}`;
    const answer = JSON.parse(this.#askText("PRICE", `${prices}\0${JSON.stringify(usage)}`));
    return answer.cost_usd;
  }

  /* --- audit chain --- */

  auditBegin(id: string): AuditState {
    return this.#ask("AUDIT_BEGIN", utf8.encode(id)).payload;
  }

  /** `lines`: entries as they are exported, each ended by a newline. */
  auditPush(state: AuditState, lines: Uint8Array): AuditState {
    let now = state;
    // Pieces end at a newline, so that no entry is split over two questions.
    const cap = this.#in.byteLength - ABI.recSize - state.byteLength - 8;
    for (let at = 0; at < lines.byteLength; ) {
      let end = Math.min(at + cap, lines.byteLength);
      if (end < lines.byteLength) end = lines.lastIndexOf(10, end - 1) + 1;
      if (end <= at) throw new CoreError("TOO_LONG");
      const payload = new Uint8Array(now.byteLength + end - at);
      payload.set(now);
      payload.set(lines.subarray(at, end), now.byteLength);
      now = this.#ask("AUDIT_PUSH", payload).payload;
      at = end;
    }
    return now;
  }

  /* --- the wire --- */

  #askText(kind: AskName, payload: string, options: AskOptions = {}): string {
    return text.decode(this.#ask(kind, utf8.encode(payload), options).payload);
  }

  #ask(kind: AskName, payload: Uint8Array, options: AskOptions = {}): { code: number; payload: Uint8Array } {
    if (this.#trap !== null) throw this.#trap;
    const size = (ABI.recSize + payload.byteLength + 7) & ~7;
    if (size > this.#in.byteLength) throw new CoreError("TOO_LONG");
    const v = this.#inView;
    v.setUint32(REC.size, size, true);
    v.setUint16(REC.kind, ASK[kind], true);
    v.setUint16(REC.flags, 0, true);
    v.setUint32(REC.id, options.id ?? 0, true);
    v.setInt32(REC.code, options.code ?? 0, true);
    v.setUint32(REC.payloadLen, payload.byteLength, true);
    v.setUint32(REC.stream, 0, true);
    v.setBigUint64(REC.timeMs, BigInt(Math.max(0, Math.trunc(options.nowMs ?? 0))), true);
    this.#in.set(payload, ABI.recSize);
    this.#in.fill(0, ABI.recSize + payload.byteLength, size);
    let rc: number;
    try {
      rc = this.#exports.csn_ask(size);
    } catch (cause) {
      this.#trap = new CoreTrap(`guard trapped: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
      throw this.#trap;
    }
    return this.#answer(rc);
  }

  #answer(rc: number): { code: number; payload: Uint8Array } {
    const v = this.#outView;
    const outLen = this.#desc[DESC.outLen / 4] ?? 0;
    const has = outLen >= ABI.recSize && outLen <= this.#out.byteLength;
    const len = has ? v.getUint32(REC.payloadLen, true) : 0;
    const kind = has ? v.getUint16(REC.kind, true) : 0;
    if (has && len > outLen - ABI.recSize) return this.#broken("a malformed record");
    if (rc !== ERR.OK) {
      const name = errNames.get(rc);
      if (name === undefined) return this.#broken(`${rc}, which is no error of this ABI`);
      const field = kind === FX.BAD_FIELD ? text.decode(this.#out.subarray(ABI.recSize, ABI.recSize + len)) : undefined;
      throw new CoreError(name, field);
    }
    if (kind !== FX.ANSWER) return this.#broken("no answer");
    const payload = this.#out.slice(ABI.recSize, ABI.recSize + len);
    // A secret that was opened does not stay in the out-box.
    this.#out.fill(0, ABI.recSize, ABI.recSize + len);
    return { code: v.getInt32(REC.code, true), payload };
  }

  #broken(what: string): never {
    this.#trap = new CoreTrap(`guard answered ${what}`);
    throw this.#trap;
  }
}

interface AskOptions {
  readonly code?: number;
  readonly id?: number;
  readonly nowMs?: number;
}
