/**
 * The workspace as git sees it. The baseline repository lies outside the workspace, so that the agent's own repository,
 * if there is one, is left alone; a tree object is written before and after each run and the two are compared.
 */

/** Quotes a word for the shell. */
export function sh(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}

/** milliseconds: the longest a snapshot of the workspace may take. */
export const GIT_TIMEOUT_MS = 120_000;

/**
 * Shell functions, then `body`. `write_tree` prints the tree of the workspace's present state (.gitignore honoured).
 * Repositories nested in the workspace would become empty links; their files are listed by git itself, inside them, and
 * added one by one. The index is a copy of its own for each call, so that calls can overlap.
 */
export function gitScript(body: string): string {
  return `set -eu
export GIT_DIR=/var/lib/caisson/baseline.git GIT_WORK_TREE=/workspace GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null HOME=/var/lib/caisson LC_ALL=C.UTF-8
cd /workspace
init_baseline() {
  if [ ! -f "$GIT_DIR/HEAD" ]; then
    git init -q 2>/dev/null
    git config core.bare false
    git config gc.auto 0
    git config core.compression 1
    git config core.autocrlf false
    git config core.quotePath false
    git config advice.addEmbeddedRepo false
  fi
}
write_tree() {
  GIT_INDEX_FILE="$GIT_DIR/index.$$"
  export GIT_INDEX_FILE
  if [ -f "$GIT_DIR/index" ]; then cp "$GIT_DIR/index" "$GIT_INDEX_FILE"; fi
  nested=$(find . -mindepth 2 -name .git -prune -print 2>/dev/null | sed 's,^\\./,,; s,/\\.git$,,' | head -n 64 |
    while IFS= read -r dir; do git check-ignore -q -- "$dir" || printf '%s\\n' "$dir"; done)
  set --
  if [ -n "$nested" ]; then
    while IFS= read -r dir; do set -- "$@" ":(exclude,literal)$dir"; done <<NESTED
$nested
NESTED
  fi
  git add -A --ignore-errors -- . "$@" >/dev/null 2>&1 || true
  if [ -n "$nested" ]; then
    while IFS= read -r dir; do
      git ls-files -z -- ":(literal)$dir" | git update-index -z --force-remove --stdin 2>/dev/null || true
      (cd "$dir" && env -u GIT_DIR -u GIT_WORK_TREE -u GIT_INDEX_FILE git -c safe.directory='*' ls-files -z -co --exclude-standard 2>/dev/null) |
        while IFS= read -r -d '' file; do if [ -f "$dir/$file" ]; then printf '%s/%s\\0' "$dir" "$file"; fi; done |
        git update-index -z --add --stdin 2>/dev/null || true
    done <<NESTED
$nested
NESTED
  fi
  git write-tree
  mv -f "$GIT_INDEX_FILE" "$GIT_DIR/index"
  unset GIT_INDEX_FILE
}
${body}
`;
}

const DIFF = "git diff-tree -r -p --binary --full-index --no-color --no-ext-diff --no-textconv --find-renames";

/**
 * Script that prints the unified diff from `tree` to the workspace's present state in base64, at most `maxBytes` of it: it
 * comes back through calls between objects, which carry 32 MiB.
 */
export function diffNowScript(tree: string, maxBytes: number): string {
  return gitScript(`now=$(write_tree); ${DIFF} ${sh(tree)} "$now" | head -c ${maxBytes} | base64 -w 0`);
}

/** Script that prints the diff between two trees in base64, at most `maxBytes` of it. */
export function diffScript(from: string, to: string, maxBytes: number): string {
  return gitScript(`${DIFF} ${sh(from)} ${sh(to)} | head -c ${maxBytes} | base64`);
}

/**
 * Script whose first line is the present tree, followed by base64 of `git diff-tree -r -z` against `tree`, a line "--",
 * and the sizes of the new blobs as "<object> <bytes>" lines.
 */
export function changesScript(tree: string, maxBytes: number): string {
  return gitScript(`now=$(write_tree)
echo "$now"
git diff-tree -r -z --no-renames --raw ${sh(tree)} "$now" | head -c ${maxBytes} | base64 -w 0
echo
echo --
git diff-tree -r --no-renames --raw ${sh(tree)} "$now" | head -c ${maxBytes} | awk '$2 ~ /^(100|120)/ {print $4}' | git cat-file --batch-check='%(objectname) %(objectsize)'
`);
}

export interface Change {
  readonly path: string;
  readonly status: "added" | "modified" | "deleted";
  /** Regular file, symbolic link or anything else, after the change. */
  readonly type: "file" | "symlink" | "other";
  /** Octal permission bits of a regular file: 644 or 755. */
  readonly mode: string;
  /** bytes after the change; null for a deleted file. */
  readonly size: number | null;
}

export interface Changes {
  readonly tree: string;
  readonly changes: Change[];
  /** Paths left out because they are not UTF-8 or the list was cut. */
  readonly skipped: number;
}

/** Parses the output of changesScript. */
export function parseChanges(output: string): Changes {
  const [tree = "", listing = "", ...rest] = output.split("\n");
  const sizes = new Map<string, number>();
  for (const line of rest) {
    const match = /^([0-9a-f]{40,64}) (\d+)$/.exec(line);
    if (match !== null) sizes.set(match[1] ?? "", Number(match[2]));
  }
  const fields = splitNUL(Buffer.from(listing, "base64"));
  const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const changes: Change[] = [];
  let skipped = 0;
  for (let i = 0; i + 1 < fields.length; i += 2) {
    const meta = /^:(\d+) (\d+) ([0-9a-f]+) ([0-9a-f]+) ([A-Z])/.exec(Buffer.from(fields[i] ?? []).toString("latin1"));
    if (meta === null) {
      skipped += 1;
      break;
    }
    const [, , mode = "", , object = "", letter = ""] = meta;
    let path: string;
    try {
      path = utf8.decode(fields[i + 1]);
    } catch {
      skipped += 1;
      continue;
    }
    changes.push({
      path,
      status: letter === "A" ? "added" : letter === "D" ? "deleted" : "modified",
      type: mode.startsWith("100") ? "file" : mode === "120000" ? "symlink" : "other",
      mode: mode.slice(-3),
      size: letter === "D" ? null : (sizes.get(object) ?? null),
    });
  }
  return { tree, changes, skipped };
}

/** Splits at NUL; a last piece without its NUL was cut off and is dropped. */
function splitNUL(bytes: Uint8Array): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let start = 0;
  for (let end = bytes.indexOf(0); end >= 0; end = bytes.indexOf(0, start)) {
    pieces.push(bytes.subarray(start, end));
    start = end + 1;
  }
  return pieces;
}

/**
 * Script that prints, in base64 and at most `maxBytes` of it, what a push of these refs would change: of each the diff from
 * what the server has, or for a new ref from the commit before the first that no remote has. It asks whichever repository
 * under /workspace, /tmp or the home directory has the commit, and nothing that the repository is configured to run.
 */
export function pushDiffScript(
  refs: readonly { readonly ref: string; readonly old: string; readonly new: string }[],
  maxBytes: number,
): string {
  const list = refs.map((ref) => `${ref.old} ${ref.new} ${ref.ref}`).join("\n");
  return `set -u
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null GIT_NO_REPLACE_OBJECTS=1 LC_ALL=C.UTF-8
at() { git -c safe.directory='*' -c core.fsmonitor=false -c core.hooksPath=/dev/null -C "$dir" "$@" 2>/dev/null; }
show() {
  echo "# $ref: $old -> $new"
  case $new in *[!0]*) ;; *) echo "# removed"; return;; esac
  for dir in $(find /workspace /tmp "\${HOME:-/root}" -maxdepth 4 -name .git -prune 2>/dev/null | sed 's,/\\.git$,,' | head -n 64); do
    at cat-file -e "$new^{commit}" || continue
    base=$old
    if ! at cat-file -e "$old^{commit}"; then
      first=$(at rev-list --max-count=10000 "$new" --not --remotes | tail -n 1)
      base=$(at rev-parse -q --verify "\${first:-$new}^{commit}^" || at hash-object -t tree /dev/null)
    fi
    at diff --no-ext-diff --no-textconv --no-color --find-renames --binary "$base" "$new" --
    return
  done
  echo "# no repository of the sandbox has this commit"
}
while read -r old new ref; do show; done <<'REFS' | head -c ${maxBytes} | base64 -w 0
${list}
REFS
`;
}
