/** The processes of this machine, as far as a test is concerned: those below one that it started. */
import { spawnSync } from "node:child_process";

/** Live processes. */
export function rows() {
  const out = spawnSync("ps", ["axo", "pid=,ppid=,stat=,args="], { encoding: "utf8" }).stdout;
  return out
    .split("\n")
    .map((line) => line.match(/^\s*(\d+)\s+(\d+)\s+(\S+)\s+(.*)$/))
    .filter((m) => m !== null && !m[3].startsWith("Z"))
    .map(([, pid, ppid, , args]) => ({ pid: Number(pid), ppid: Number(ppid), args }));
}

/** Everything below `root`, itself included. */
export function treeOf(root) {
  const all = rows();
  const found = all.filter((r) => r.pid === root);
  for (let i = 0; i < found.length; i += 1) found.push(...all.filter((r) => r.ppid === found[i].pid));
  return found;
}
