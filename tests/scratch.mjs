/** Directories of a test in the system's temporary one: gone when its process is, also where that is ended by a signal. */
import { mkdtempSync, rmSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";

const made = new Set();

/** A new directory `caisson-NAME-…`, which its owner alone can enter. */
export function scratch(name) {
  if (made.size === 0) {
    process.on("exit", removeAll);
    for (const signal of ["SIGHUP", "SIGINT", "SIGTERM"])
      process.once(signal, () => process.exit(128 + constants.signals[signal]));
  }
  const dir = mkdtempSync(join(tmpdir(), `caisson-${name}-`));
  made.add(dir);
  return dir;
}

function removeAll() {
  for (const dir of made) {
    try {
      rmSync(dir, { recursive: true, force: true });
    } catch {
      // What a program that is just ending still writes there.
    }
  }
}
