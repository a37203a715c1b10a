/** The operator's keys, in a guard of the front Worker's own. It holds nothing of any request. */
import module from "../../../build/guard.wasm";
import { CoreError } from "../core/core.js";
import { Guard } from "../core/guard.js";
import { type Problem, problem } from "../errors.js";

let held: { readonly document: string; readonly guard: Guard } | null = null;

/** A guard that knows the keys of CAISSON_KEYS, or the problem that is in them. Without keys it verifies nothing. */
export function keyring(document: string | undefined): Guard | Problem {
  const text = document ?? "";
  if (held?.document === text) return held.guard;
  const guard = new Guard(module);
  try {
    if (text !== "") guard.setKeys(text);
  } catch (error) {
    if (!(error instanceof CoreError)) throw error;
    // The document is a secret: only the place is told.
    const where = error.field === undefined || error.field === "" ? "" : ` at ${error.field}`;
    return problem("bad_keys", `CAISSON_KEYS${where}: ${error.message}. \`caisson-token keygen\` prints a good one.`);
  }
  held = { document: text, guard };
  return guard;
}
