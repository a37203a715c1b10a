/**
 * What must not be read anywhere: the session's secrets, the operator's keys, and the shapes of well-known keys. Everything of a
 * session that is stored or sent goes through its one redactor first.
 */
import module from "../../../build/redact.wasm";
import { CoreError } from "../core/core.js";
import type { Redactor, RedactStream } from "../core/redact.js";
import { operatorRedactor, register } from "../effects/redactor.js";
import type { Env } from "../env.js";
import type { Failure } from "./api.js";
import { fail } from "./failures.js";

export class Mask {
  readonly #env: Env;
  readonly #secrets: () => readonly string[];
  #redactor: Redactor | null = null;
  /** Stands in for it in texts when the secrets cannot be opened. */
  #operators: Redactor | null = null;
  /** Terminals have one of their own: its streams must not be all in use when a run starts. */
  #terminals: Redactor | null = null;

  /** `secrets` opens what is stored; it is asked once, when something is to be masked. */
  constructor(env: Env, secrets: () => readonly string[]) {
    this.#env = env;
    this.#secrets = secrets;
  }

  /** Registers the secrets of a session that is made; or what is wrong with them. */
  check(secrets: Readonly<Record<string, string>>): Failure | null {
    const redactor = operatorRedactor(module, this.#env);
    for (const [name, value] of Object.entries(secrets)) {
      try {
        register(redactor, value);
      } catch (error) {
        if (!(error instanceof CoreError)) throw error;
        const room = error.errName === "NO_MEMORY";
        const detail = room
          ? "the session's secrets are together longer than can be kept out of its log (about 8,000 bytes)"
          : "has fewer than 8 bytes besides white space: it cannot be told from ordinary text";
        return fail(400, room ? "too_long" : "invalid_value", detail, `/secrets/${name}`);
      }
    }
    return null;
  }

  /** Other secrets hold from now on. */
  forget(): void {
    this.#redactor = null;
    this.#terminals = null;
  }

  /** Throws when a stored secret cannot be opened: then no output passes. */
  #ready(): Redactor {
    this.#redactor ??= this.#made();
    return this.#redactor;
  }

  /** Throws as `open` does. At most REDACT_STREAMS - 1 streams of it may stay open, one is for its texts. */
  forTerminals(): Redactor {
    this.#terminals ??= this.#made();
    return this.#terminals;
  }

  #made(): Redactor {
    const redactor = operatorRedactor(module, this.#env);
    for (const value of this.#secrets()) register(redactor, value);
    return redactor;
  }

  /** Same length in bytes; JSON stays JSON. Where the secrets cannot be opened a session must still say how it ends. */
  text(value: string): string {
    try {
      return this.#ready().text(value);
    } catch (error) {
      if (this.#redactor !== null) throw error;
      this.#operators ??= operatorRedactor(module, this.#env);
      return this.#operators.text(value);
    }
  }

  bytes(bytes: Uint8Array): Uint8Array {
    return this.#ready().bytes(bytes).bytes;
  }

  /** `valuesOnly`: the shapes of keys are left. */
  open(valuesOnly = false): RedactStream {
    return this.#ready().open(valuesOnly);
  }
}
