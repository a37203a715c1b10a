/** Redactors with the operator's own keys, and registering values of any length. */
import { BOUND } from "../core/abi.gen.js";
import { CoreError } from "../core/core.js";
import { Redactor } from "../core/redact.js";
import type { Env } from "../env.js";

/** UTF-16 units: a longer value is registered in pieces, each of which is found alone. */
const PIECE = BOUND.REDACT_VALUE_MAX / 4;
/** UTF-16 units: a line of a value that is found without the others. */
const LINE_MIN = 16;

/** A redactor that knows the keys among the Worker's variables. One below 8 bytes, or no room for it, is no reason to serve nobody. */
export function operatorRedactor(module: WebAssembly.Module, env: Env): Redactor {
  const redactor = new Redactor(module);
  for (const value of operatorKeys(env)) {
    try {
      register(redactor, value);
    } catch (error) {
      if (!(error instanceof CoreError)) throw error;
      console.warn(`a key among the Worker's variables cannot be masked: ${error.errName}`);
    }
  }
  return redactor;
}

/** items: redactors of the operator's keys alone that wait for the next command. */
const IDLE_MAX = 4;
const idle = new WeakMap<Env, Redactor[]>();

/** One with the operator's keys and no stream, for a while: making one costs more than most commands print. */
export function borrowRedactor(module: WebAssembly.Module, env: Env): Redactor {
  return idle.get(env)?.pop() ?? operatorRedactor(module, env);
}

/** Gives back one that has done its work without an error; its streams are closed. */
export function returnRedactor(env: Env, redactor: Redactor): void {
  const list = idle.get(env) ?? [];
  idle.set(env, list);
  if (list.length < IDLE_MAX) list.push(redactor);
}

/** Registers a value: whole, in pieces when it is long, and line by line when it has lines. Throws CoreError as Redactor.add. */
export function register(redactor: Redactor, value: string): void {
  if (value.length <= PIECE) redactor.add(value);
  else
    for (let at = 0; at < value.length; at += PIECE) {
      // A rest that is too short to stand alone goes with what is before it.
      const start = value.length - at < BOUND.REDACT_VALUE_MIN ? value.length - BOUND.REDACT_VALUE_MIN : at;
      redactor.add(value.slice(start, at + PIECE));
    }
  const lines = value.trim().split(/\r?\n/);
  if (lines.length > 1) for (const line of lines) if (line.trim().length >= LINE_MIN) redactor.add(line);
}

function operatorKeys(env: Env): string[] {
  const { ANTHROPIC_API_KEY, OPENAI_API_KEY, GEMINI_API_KEY, CAISSON_API_KEY, CAISSON_ENGINE_TOKEN } = env;
  const seal = (env.CAISSON_SEAL_KEY ?? "").split(",").map((part) => part.trim().split(":")[1]);
  const all = [
    ANTHROPIC_API_KEY,
    OPENAI_API_KEY,
    GEMINI_API_KEY,
    CAISSON_API_KEY,
    CAISSON_ENGINE_TOKEN,
    ...seal,
    ...documentKeys(env.CAISSON_KEYS),
  ];
  return [
    ...new Set(all.filter((value) => value !== undefined && value.trim().length >= BOUND.REDACT_VALUE_MIN)),
  ] as string[];
}

/** The secrets in CAISSON_KEYS (csn/token.h); none of a document that is no such thing. */
function documentKeys(text: string | undefined): (string | undefined)[] {
  try {
    const { keys = [], api_keys = [] } = JSON.parse(text || "{}") as Record<string, { secret?: unknown }[]>;
    return [...keys, ...api_keys].map(({ secret }) => (typeof secret === "string" ? secret : undefined));
  } catch {
    return [];
  }
}
