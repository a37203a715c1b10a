/** A small root file system made of this machine's own programs, and the tool that makes templates of such. */
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readdirSync, realpathSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";

const TOOL = resolve(import.meta.dirname, "../../scripts/template.py");

const run = (program, args, options = {}) => spawnSync(program, args, { encoding: "utf8", ...options });

/** Where a program of this machine is, or undefined. */
export function which(name) {
  const found = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map((dir) => join(dir, name)).find(existsSync);
  return found && realpathSync(found);
}

/**
 * Fills `dir` with a root whose /bin, /lib and /usr are directories of their own (no merged /usr): `programs` with the libraries that
 * they are linked with, and /etc/marker with `marker`.
 */
export function makeRoot(
  dir,
  marker,
  programs = ["bash", "cat", "id", "ls", "mkdir", "touch", "chown", "chmod", "stat"],
) {
  for (const sub of ["bin", "lib", "etc", "usr/bin", "usr/share", "var/lib"])
    mkdirSync(join(dir, sub), { recursive: true });
  const libraries = new Set();
  for (const name of programs) {
    const from = which(name);
    copyFileSync(from, join(dir, "bin", name));
    for (const [path] of run("ldd", [from]).stdout.matchAll(/\/\S+/g)) libraries.add(path);
  }
  for (const path of libraries) {
    mkdirSync(join(dir, dirname(path)), { recursive: true });
    copyFileSync(path, join(dir, path));
  }
  symlinkSync("bash", join(dir, "bin/sh"));
  writeFileSync(join(dir, "etc/marker"), marker);
  writeFileSync(join(dir, "etc/passwd"), "root:x:0:0:root:/root:/bin/bash\n");
  return dir;
}

/** scripts/template.py beside `home`, where every user can read it. */
export function toolFor(home) {
  const tool = join(dirname(home), "template.py");
  if (!existsSync(tool)) copyFileSync(TOOL, tool);
  return tool;
}

/** Runs it on the templates of `home`, as user `uid` where that is not this process's. */
export function template(home, args, { uid } = {}) {
  const env = { ...process.env, CAISSON_TEMPLATES: home };
  const ids = uid === undefined ? {} : { uid, gid: uid };
  const r = run("python3", [toolFor(home), ...args], { env, ...ids, cwd: "/" });
  return { status: r.status, text: `${r.stdout}${r.stderr}` };
}

export const versions = (home) => (existsSync(join(home, ".versions")) ? readdirSync(join(home, ".versions")) : []);

/** Makes a tarball with entries that no archiver would write: python's tarfile statements over `t`, with `add(name, **fields)`. */
export function oddTar(path, statements) {
  const script = `
import tarfile, io, sys
t = tarfile.open(sys.argv[1], "w")
def add(name, data=b"", **fields):
    e = tarfile.TarInfo(name)
    e.size = len(data)
    for k, v in fields.items():
        setattr(e, k, v)
    t.addfile(e, io.BytesIO(data))
SYM, LNK, CHR, BLK, FIFO, DIR = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE
add("bin", type=DIR, mode=0o755)
add("bin/sh", b"x", mode=0o755)
add("bin/bash", b"x", mode=0o755)
${statements}
t.close()
`;
  const r = run("python3", ["-c", script, path]);
  if (r.status !== 0) throw new Error(r.stderr);
}
