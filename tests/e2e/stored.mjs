/** What a stack has on its disk. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** The path and the bytes of every file below `dir`. What goes away meanwhile is not stored. */
export function* storedFiles(dir) {
  for (const entry of read(dir, () => readdirSync(dir, { withFileTypes: true }))) {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) yield* storedFiles(path);
    else if (entry.isFile()) for (const bytes of read(path, () => [readFileSync(path)])) yield [path, bytes];
  }
}

function read(path, get) {
  try {
    return get();
  } catch (error) {
    if (error.code === "ENOENT") return [];
    // Where the kernel prepares files of an overlay: of mode 0, with nothing in it between two calls.
    if (error.code === "EACCES" && /work\/work$/.test(path)) return [];
    throw error;
  }
}
