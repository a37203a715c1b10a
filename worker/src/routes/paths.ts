/** Paths inside a sandbox, as clients write them and as the sandbox is asked for them. */
import { LIMITS } from "../limits.js";

const utf8 = new TextEncoder();
/** bytes: one name in a path, the bound of Linux file systems. */
const NAME_MAX = 255;

/** The directories that the files endpoints reach. */
export const FILE_ROOTS = ["/workspace", "/tmp"] as const;

export type PathFault = "path_outside_workspace" | "invalid_path" | "too_long";
export type PathCheck = { readonly ok: true; readonly path: string } | { readonly ok: false; readonly code: PathFault };

/**
 * Normalizes a path: relative ones start at /workspace, `.` and empty segments vanish, `..` goes up. Answers the absolute
 * path, or why it is refused. `..` is resolved on the text before the root is compared, so that `/workspace/../etc` is
 * seen as `/etc`; symbolic links inside the sandbox stay inside the sandbox and are not this check's business.
 */
export function checkWorkspacePath(raw: string): PathCheck {
  if (raw.length > LIMITS.PATH_MAX) return { ok: false, code: "too_long" };
  if (raw.includes("\0") || !raw.isWellFormed()) return { ok: false, code: "invalid_path" };
  const path = normalizePath(raw.startsWith("/") ? raw : `/workspace/${raw}`);
  if (path === null || !FILE_ROOTS.some((root) => path === root || path.startsWith(`${root}/`))) {
    return { ok: false, code: "path_outside_workspace" };
  }
  if (path.split("/").some((name) => utf8.encode(name).byteLength > NAME_MAX))
    return { ok: false, code: "invalid_path" };
  return { ok: true, path };
}

/** Resolves `.`, `..` and repeated slashes of an absolute path; null when `..` climbs above the root. */
export function normalizePath(absolute: string): string | null {
  const segments: string[] = [];
  for (const segment of absolute.split("/")) {
    if (segment === "" || segment === ".") continue;
    if (segment === "..") {
      if (segments.pop() === undefined) return null;
    } else {
      segments.push(segment);
    }
  }
  return `/${segments.join("/")}`;
}
