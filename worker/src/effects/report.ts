/**
 * The Worker's own log. Whatever is said there passes a redactor first: an error's text can be that of a program in a sandbox,
 * of the SDK or of a server, and the log is kept by somebody else.
 */
import module from "../../../build/redact.wasm";
import type { Env } from "../env.js";
import { borrowRedactor, returnRedactor } from "./redactor.js";

/** A text as it may be read by anybody who reads logs. */
export type MaskText = (text: string) => string;

/** Masks the operator's keys and the shapes of well-known ones. A session's own mask knows its secrets as well. */
export function operatorMask(env: Env): MaskText {
  return (text) => {
    const redactor = borrowRedactor(module, env);
    const masked = redactor.text(text);
    returnRedactor(env, redactor);
    return masked;
  };
}

/** One entry: what happened, and the error with its stack and its causes. */
export function report(mask: MaskText, level: "error" | "warn", what: string, error?: unknown): void {
  const said = error === undefined ? what : `${what}: ${textOf(error)}`;
  let masked: string;
  try {
    masked = mask(said);
  } catch {
    masked = "something that could not be masked, and is not shown";
  }
  console[level](masked);
}

/** items: causes of causes. */
const CAUSES_MAX = 4;

function textOf(error: unknown, depth = 0): string {
  if (!(error instanceof Error)) return String(error);
  const own = error.stack ?? `${error.name}: ${error.message}`;
  return error.cause === undefined || depth >= CAUSES_MAX ? own : `${own}\ncaused by ${textOf(error.cause, depth + 1)}`;
}
