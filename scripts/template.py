#!/usr/bin/env python3
"""Root file systems for sandboxes, under build/templates.

usage: template.py add NAME FROM    FROM: a directory, or a tarball (plain, gzip, bzip2, xz; zstd where zstd is installed)
       template.py list
       template.py remove NAME

build/templates (or $CAISSON_TEMPLATES)/NAME is a link to one version, .versions/NAME.<random>; it is set once the version is whole. A version is
locked by whoever stands on it (the engine, shared) or makes it (this, alone), and removed when it is neither named nor
locked. Runs as root and as an ordinary user.
"""

import fcntl
import os
import re
import secrets
import shutil
import stat
import subprocess
import sys
import tarfile

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOT = os.environ.get("CAISSON_TEMPLATES") or os.path.join(HERE, "build", "templates")
VERSIONS = ".versions"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# bytes and items: more than any distribution's image has; what is bigger is a bomb or a mistake.
BYTES_MAX = 64 << 30
ENTRIES_MAX = 4_000_000
# Ids that a sandbox has (engine.h: IDS_COUNT); its last one stands for 65534.
IDS = 8191
NOBODY = 65534
# What the sandbox brings itself, or what belongs to one running machine.
LEFT_OUT = ("proc", "sys", "dev")


class Refused(Exception):
    pass


def parts_of(name):
    """The components of an entry's name; refuses one that leads out of the root."""
    if name.startswith("/"):
        raise Refused(f"{name}: an absolute name")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Refused(f"{name}: a name with ..")
    if any("\0" in part or len(os.fsencode(part)) > 255 for part in parts):
        raise Refused(f"{name[:80]}: not a file name")
    return parts


class Tree:
    """Writes below one directory, never through a link: each directory on the way is opened without following."""

    def __init__(self, top):
        self.top = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        self.bytes = self.entries = 0
        self.modes = []  # of directories, set at the end: one may forbid writing to it
        self.links = []
        self.foreign = 0

    def count(self, size):
        self.entries += 1
        self.bytes += size
        if self.bytes > BYTES_MAX or self.entries > ENTRIES_MAX:
            raise Refused(f"more than {BYTES_MAX >> 30} GiB or {ENTRIES_MAX} files")

    def parent(self, parts, shown):
        fd = os.dup(self.top)
        for part in parts[:-1]:
            try:
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=fd)
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            except (NotADirectoryError, OSError) as error:
                os.close(fd)
                # The link could lead anywhere on this machine.
                raise Refused(f"{shown}: {part} on the way to it is a link or no directory") from error
            os.close(fd)
            fd = below
        return fd

    def clear(self, parent, name):
        """A later entry replaces an earlier one of its name."""
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            pass
        except (IsADirectoryError, PermissionError, OSError) as error:
            raise Refused(f"{name}: takes the place of a directory") from error

    def own(self, name, parent, uid, gid):
        if os.geteuid() != 0:
            return
        ids = [i if i < IDS or i == NOBODY else 0 for i in (uid, gid)]
        self.foreign += ids != [uid, gid]
        os.chown(name, *ids, dir_fd=parent, follow_symlinks=False)

    def directory(self, parts, mode, uid, gid, mtime):
        self.count(0)
        shown = "/".join(parts)
        if parts:
            parent = self.parent(parts, shown)
            try:
                os.mkdir(parts[-1], 0o700, dir_fd=parent)
            except FileExistsError:
                if not stat.S_ISDIR(os.lstat(parts[-1], dir_fd=parent).st_mode):
                    raise Refused(f"{shown}: a directory in the place of something else") from None
            self.own(parts[-1], parent, uid, gid)
            os.close(parent)
        self.modes.append((parts, mode, mtime))

    def file(self, parts, mode, uid, gid, mtime, source, size):
        self.count(size)
        if not parts:
            raise Refused("a file that is the root")
        parent = self.parent(parts, "/".join(parts))
        self.clear(parent, parts[-1])
        fd = os.open(parts[-1], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=parent)
        with open(fd, "wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
            self.own(parts[-1], parent, uid, gid)
            # No set-user-id: inside it has no effect, and on this machine it must have none.
            os.fchmod(out.fileno(), mode & 0o777)
        os.utime(parts[-1], (mtime, mtime), dir_fd=parent)
        os.close(parent)

    def symlink(self, parts, target, uid, gid):
        self.count(0)
        if not parts or not target:
            raise Refused(f"{'/'.join(parts)}: a link that is the root, or to nothing")
        parent = self.parent(parts, "/".join(parts))
        self.clear(parent, parts[-1])
        os.symlink(target, parts[-1], dir_fd=parent)
        self.own(parts[-1], parent, uid, gid)
        os.close(parent)

    def hard_link(self, parts, target):
        self.count(0)
        shown = "/".join(parts)
        to = parts_of(target)
        if not parts or not to:
            raise Refused(f"{shown}: a hard link that is the root, or to it")
        there = self.parent(to, shown)
        try:
            if not stat.S_ISREG(os.lstat(to[-1], dir_fd=there).st_mode):
                raise Refused(f"{shown}: a hard link to {target}, which is no file")
        except FileNotFoundError:
            raise Refused(f"{shown}: a hard link to {target}, which has not come yet") from None
        parent = self.parent(parts, shown)
        if parts != to:
            self.clear(parent, parts[-1])
            os.link(to[-1], parts[-1], src_dir_fd=there, dst_dir_fd=parent, follow_symlinks=False)
        os.close(there)
        os.close(parent)

    def finish(self):
        for parts, mode, mtime in reversed(self.modes):
            fd = os.dup(self.top) if not parts else self.parent([*parts, "."], "/".join(parts))
            os.fchmod(fd, mode & 0o1777)
            os.utime(fd, (mtime, mtime))
            os.close(fd)
        # Whatever the archive says: the sandbox's user must be able to look into its root.
        os.fchmod(self.top, 0o755)


def unpack(path, tree):
    program = None
    source = path
    with open(path, "rb") as file:
        if file.read(4) == b"\x28\xb5\x2f\xfd":
            if shutil.which("zstd") is None:
                raise Refused("it is packed with zstd, which is not installed (on Debian or Ubuntu: apt-get install zstd)")
            program = subprocess.Popen(["zstd", "-dc", path], stdout=subprocess.PIPE)
            source = None
    try:
        archive = tarfile.open(source, "r|*") if source else tarfile.open(fileobj=program.stdout, mode="r|")
    except tarfile.TarError as error:
        raise Refused(f"not a tarball: {error}") from error
    try:
        for entry in archive:
            parts = parts_of(entry.name)
            if parts in (["manifest.json"], ["oci-layout"]):
                raise Refused("an image of layers (docker save); a template wants the root itself: docker export")
            if len(parts) > 1 and parts[0] in LEFT_OUT:
                continue
            own = (entry.uid, entry.gid)
            if entry.isdir():
                tree.directory(parts, entry.mode, *own, entry.mtime)
            elif entry.issym():
                tree.symlink(parts, entry.linkname, *own)
            elif entry.islnk():
                # Some archivers write the name as the file's own: with ./ or with nothing before it.
                tree.hard_link(parts, entry.linkname)
            elif entry.isfile():
                tree.file(parts, entry.mode, *own, entry.mtime, archive.extractfile(entry), entry.size)
            else:
                kind = "device" if entry.isdev() and not entry.isfifo() else "pipe or something unknown"
                raise Refused(f"{entry.name}: a {kind}")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise Refused(f"cannot be unpacked: {error}") from error
    finally:
        archive.close()
        if program is not None:
            program.kill()
            program.wait()


def copy(path, tree):
    for at, dirs, files in os.walk(path):
        inside = os.path.relpath(at, path)
        parts = parts_of(inside)
        info = os.lstat(at)
        tree.directory(parts, info.st_mode, info.st_uid, info.st_gid, info.st_mtime)
        for name in [*files, *(d for d in dirs if os.path.islink(os.path.join(at, d)))]:
            full = os.path.join(at, name)
            info = os.lstat(full)
            if parts and parts[0] in LEFT_OUT:
                continue
            if stat.S_ISLNK(info.st_mode):
                tree.symlink([*parts, name], os.readlink(full), info.st_uid, info.st_gid)
            elif stat.S_ISREG(info.st_mode):
                with open(full, "rb") as source:
                    tree.file([*parts, name], info.st_mode, info.st_uid, info.st_gid, info.st_mtime, source, info.st_size)
            elif not stat.S_ISSOCK(info.st_mode):
                raise Refused(f"{full}: a device or a pipe")
        dirs[:] = [] if parts and parts[0] in LEFT_OUT else [d for d in dirs if not os.path.islink(os.path.join(at, d))]


def inside(top, path, depth=0):
    """`path` with links resolved as if `top` were the machine's root; None when there is nothing."""
    at = []
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part == "..":
            at = at[:-1]
            continue
        full = os.path.join(top, *at, part)
        if os.path.islink(full):
            if depth > 40:
                return None
            target = os.readlink(full)
            base = "/" if target.startswith("/") else "/" + "/".join(at)
            found = inside(top, f"{base}/{target}", depth + 1)
            if found is None:
                return None
            at = [p for p in os.path.relpath(found, top).split("/") if p != "."]
        elif os.path.lexists(full):
            at.append(part)
        else:
            return None
    return os.path.join(top, *at)


def check(top):
    """What the engine and every command need."""
    for program in ("/bin/sh", "/bin/bash"):
        path = inside(top, program)
        if path is None or not os.path.isfile(path):
            raise Refused(f"it has no {program}, with which commands are run: is it the root of a system?")
    if not any(inside(top, f"{place}/git") for place in ("/usr/bin", "/bin", "/usr/local/bin")):
        print("template: it has no git, which sessions need for their diffs; one-shots do without", file=sys.stderr)
    for name in ("proc", "dev", "run", "tmp", "etc", "workspace"):
        if os.path.lexists(os.path.join(top, name)) and not os.path.isdir(inside(top, name) or "/dev/null"):
            raise Refused(f"/{name} is no directory")
    for name in ("proc", "dev", "run", "tmp"):
        if os.path.islink(os.path.join(top, name)):
            raise Refused(f"/{name} is a link; a sandbox mounts there")


def delete(path):
    for at, dirs, _ in os.walk(path):
        for name in dirs:
            full = os.path.join(at, name)
            if not os.path.islink(full):
                os.chmod(full, 0o700)
    shutil.rmtree(path)


def sweep():
    """Removes versions that no name leads to and nobody holds: replaced ones, and what a crash left."""
    named = {os.path.basename(os.readlink(e.path)) for e in os.scandir(ROOT) if e.is_symlink()}
    for entry in os.scandir(os.path.join(ROOT, VERSIONS)):
        if entry.name in named:
            continue
        fd = os.open(entry.path, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            delete(entry.path)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)


def names():
    found = (e for e in os.scandir(ROOT) if e.is_symlink() and NAME.fullmatch(e.name))
    return sorted(e.name for e in found if os.path.isdir(e.path))


def add(name, source):
    if not os.path.exists(source):
        raise Refused("there is no such file or directory")
    version = f"{name}.{secrets.token_hex(6)}"
    path = os.path.join(ROOT, VERSIONS, version)
    os.mkdir(path, 0o755)
    lock = os.open(path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    tree = Tree(path)
    try:
        if os.path.isdir(source):
            copy(source, tree)
        else:
            unpack(source, tree)
        tree.finish()
        check(path)
    except BaseException:
        delete(path)
        raise
    # A name that is there always leads to a whole version: rename replaces it at once.
    link = os.path.join(ROOT, f".{version}")
    os.symlink(os.path.join(VERSIONS, version), link)
    os.rename(link, os.path.join(ROOT, name))
    os.close(lock)
    if tree.foreign:
        print(f"template: {tree.foreign} files of ids above {IDS - 1} belong to root now", file=sys.stderr)
    print(f"template {name}: {tree.entries} files, {tree.bytes / 1e6:.1f} MB")


def main(argv):
    os.umask(0o022)
    os.makedirs(os.path.join(ROOT, VERSIONS), exist_ok=True)
    # Nobody else of this machine runs what is in there, or reads it.
    os.chmod(os.path.join(ROOT, VERSIONS), 0o700)
    match argv:
        case ["add", name, source] if NAME.fullmatch(name):
            add(name, source)
        case ["remove", name] if NAME.fullmatch(name):
            if name not in names():
                raise Refused(f"there is none; there are: {', '.join(names()) or 'none'}")
            os.unlink(os.path.join(ROOT, name))
        case ["list"]:
            print("\n".join(names()) or "template: none has been made", file=sys.stdout if names() else sys.stderr)
        case ["add" | "remove", name, *_] if not NAME.fullmatch(name):
            raise Refused("a name is 1 to 64 of a-z 0-9 _ -, a letter or digit first")
        case _:
            print(__doc__.strip(), file=sys.stderr)
            return 2
    sweep()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (Refused, OSError) as error:
        print(f"template: {' '.join(sys.argv[2:])}: {error}", file=sys.stderr)
        sys.exit(1)
