#!/usr/bin/env bash
# Makes package-lock.json anew from package.json. Caisson runs on Linux: packages for other systems are left out of the lock
# file, also from the lists of optional dependencies, because npm 11's `npm ci` refuses a list that names what the file lacks.
# Demands on Node are left out too: npm runs on the machine's Node and silently skips optional packages that ask for a newer one,
# but the programs run on the Node that the lock file brings.
# usage: scripts/lock.sh [DIR]   (default: the repository's root)
set -euo pipefail
cd "$(dirname "$0")/../${1:-.}"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cp package.json "$dir/"
(cd "$dir" && npm install --package-lock-only --ignore-scripts --no-audit --no-fund --loglevel=error)
node -e '
const fs = require("fs");
const lock = JSON.parse(fs.readFileSync(process.argv[1], "utf8"));
const linux = (p) => p.os === undefined || p.os.includes("linux");
for (const [path, p] of Object.entries(lock.packages)) if (path !== "" && !linux(p)) delete lock.packages[path];
const names = new Set(Object.keys(lock.packages).map((path) => path.slice(path.lastIndexOf("node_modules/") + 13)));
for (const [path, p] of Object.entries(lock.packages)) {
  delete p.resolved;
  if (path === "") continue;
  delete p.engines;
  for (const name of Object.keys(p.optionalDependencies ?? {})) if (!names.has(name)) delete p.optionalDependencies[name];
}
fs.writeFileSync("package-lock.json", JSON.stringify(lock, null, 2) + "\n");
' "$dir/package-lock.json"
