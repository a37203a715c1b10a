/** Directories of a test in the system's temporary one: gone when its process is, also where that is ended by a signal. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmdirSync, rmSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";

const made = new Set();
const mounted = new Set();
/** Where file systems are mounted: not below the temporary directory, which other tests walk. */
const MOUNTS = "/var/tmp";

/** A new directory `caisson-NAME-…`, which its owner alone can enter. */
export function scratch(name) {
  atExit();
  const dir = mkdtempSync(join(tmpdir(), `caisson-${name}-`));
  made.add(dir);
  return dir;
}

/**
 * A new file system in memory of `mb` MiB, mounted; needs root. It goes as the directories do; what a run that was killed with
 * SIGKILL has left goes with the next one.
 */
export function scratchMount(name, mb) {
  const prefix = `caisson-${name}-`;
  for (const left of readdirSync(MOUNTS)) {
    const pid = left.startsWith(prefix) ? Number(/^(\d+)-/.exec(left.slice(prefix.length))?.[1]) : Number.NaN;
    if (Number.isInteger(pid) && !isAlive(pid)) unmount(join(MOUNTS, left));
  }
  atExit();
  const dir = mkdtempSync(join(MOUNTS, `${prefix}${process.pid}-`));
  mounted.add(dir);
  const { status, stderr } = spawnSync("mount", ["-t", "tmpfs", "-o", `size=${mb}m`, "tmpfs", dir], {
    encoding: "utf8",
  });
  assert.equal(status, 0, stderr);
  return dir;
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch ({ code }) {
    return code !== "ESRCH";
  }
}

/** Also what programs still use: it is gone when they are. */
function unmount(dir) {
  spawnSync("umount", ["-l", dir]);
  try {
    rmdirSync(dir);
  } catch {
    // It could not be unmounted: the next run tries again.
  }
}

let watching = false;
function atExit() {
  if (watching) return;
  watching = true;
  process.on("exit", removeAll);
  for (const signal of ["SIGHUP", "SIGINT", "SIGTERM"])
    process.once(signal, () => process.exit(128 + constants.signals[signal]));
}

function removeAll() {
  for (const dir of mounted) unmount(dir);
  for (const dir of made) {
    try {
      rmSync(dir, { recursive: true, force: true });
    } catch {
      // What a program that is just ending still writes there.
    }
  }
}
