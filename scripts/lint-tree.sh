#!/usr/bin/env bash
# Rules about the tree that no linter knows: file sizes, third-party source, unfinished work.
set -euo pipefail
cd "$(dirname "$0")/.."
bad=0
complain() { printf 'lint: %s\n' "$1" >&2; bad=1; }

while read -r lines file; do
  [ "$file" = total ] || [ "$lines" -le 800 ] || complain "$file has $lines lines; a file is one subject, at most 800"
done < <(git ls-files '*.c' '*.h' '*.ts' '*.mjs' '*.sh' | grep -v '\.gen\.' | xargs wc -l)

if git ls-files | grep -Ei '(^|/)(cJSON|cJSON_Utils)\.[ch]$|(^|/)bearssl[^/]*\.[ch]$|(^|/)(vendor|third_party|node_modules)/'; then
  complain "third-party source is fetched at build, never committed"
fi
if git grep -nE '\b(TODO|FIXME|XXX)\b' -- '*.c' '*.h' '*.ts' '*.mjs' '*.sh' ':!scripts/lint-tree.sh'; then
  complain "unfinished work belongs in an issue"
fi
# An operator learns of a variable from the README alone.
while read -r name; do
  grep -q "\`$name\`" README.md || complain "README.md does not tell of $name, which worker/src/env.ts or a script reads"
done < <({ grep -oE 'readonly [A-Z_]+\?: string' worker/src/env.ts | sed -E 's/readonly ([A-Z_]+).*/\1/'
  git grep -ohE '(process\.env\.|environ\.get\(")CAISSON_[A-Z_]+' -- scripts | grep -oE 'CAISSON_[A-Z_]+'; } | sort -u)
exit "$bad"
