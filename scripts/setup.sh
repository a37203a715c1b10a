#!/usr/bin/env bash
# Installs what the build needs and the machine lacks: distribution packages, npm packages, the pinned agent CLIs.
# usage: scripts/setup.sh packages|npm|all
#        scripts/setup.sh analyze           the static analyser, which only `make analyze` needs
#        scripts/setup.sh agents [NAME...]   claude-code (the default), codex, gemini, opencode
# Run again it does nothing and says nothing. Needs root (or sudo) only while a distribution package is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build/.setup
# npm runs on the machine's own Node, which trusts the certificates that the machine trusts; ours brings a list of its own.
PATH=${PATH//"$PWD/node_modules/.bin:"/}

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

node_major() { node --version 2>/dev/null | sed -n 's/^v\([0-9]*\).*/\1/p'; }

packages() {
  command -v apt-get >/dev/null || {
    for tool in clang wasm-ld llvm-nm gcc bwrap python3 git npm curl xz mksquashfs; do
      command -v "$tool" >/dev/null || missing+=" $tool"
    done
    [ -z "${missing:-}" ] && return 0
    die "this machine has no apt-get; please install:${missing} and the development files of libevent, libseccomp, wasi-libc and compiler-rt (wasm32)"
  }
  # The compiler's major version names the packages of its run-time libraries.
  want="clang lld llvm gcc libc6-dev wasi-libc libevent-dev libseccomp-dev bubblewrap clang-format python3 git curl ca-certificates xz-utils procps squashfs-tools"
  if ! command -v npm >/dev/null; then
    # A nodejs that did not come from the distribution brings its own npm.
    want="$want nodejs npm"
  elif [ -z "$(node_major)" ]; then
    want="$want nodejs"
  fi
  lacking() {
    local p
    for p in "$@"; do
      [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || printf '%s ' "$p"
    done
  }
  refresh() {
    [ -n "${refreshed:-}" ] && return 0
    refreshed=1
    $sudo apt-get update -qq || die "apt-get update failed; is the network there?"
  }
  sudo=
  if [ "$(id -u)" != 0 ]; then sudo=sudo; fi
  need_root() {
    [ -z "$sudo" ] || command -v sudo >/dev/null ||
      die "these packages are missing and you are neither root nor have sudo; as root: apt-get install --no-install-recommends $*"
  }
  local miss major
  miss=$(lacking $want)
  if [ -n "$miss" ]; then
    need_root $miss
    say "installing with apt-get: $miss"
    refresh
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $miss >build/.setup/apt.log 2>&1 ||
      { tail -n 20 build/.setup/apt.log >&2; die "apt-get install failed (build/.setup/apt.log)"; }
  fi
  major=$(clang -dumpversion | cut -d. -f1)
  miss=$(lacking "libclang-rt-$major-dev" "libclang-rt-$major-dev-wasm32")
  if [ -n "$miss" ]; then
    need_root $miss
    say "installing with apt-get: $miss"
    refresh
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $miss >>build/.setup/apt.log 2>&1 ||
      { tail -n 20 build/.setup/apt.log >&2; die "apt-get install failed (build/.setup/apt.log)"; }
  fi
}

analyzer() {
  command -v cppcheck >/dev/null && return 0
  local sudo=
  if [ "$(id -u)" != 0 ]; then sudo=sudo; fi
  command -v apt-get >/dev/null && { [ -z "$sudo" ] || command -v sudo >/dev/null; } ||
    die "make analyze needs cppcheck; as root: apt-get install --no-install-recommends cppcheck"
  say "installing with apt-get: cppcheck"
  { $sudo apt-get update -qq && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends cppcheck; } \
    >build/.setup/apt.log 2>&1 || { tail -n 20 build/.setup/apt.log >&2; die "apt-get install failed (build/.setup/apt.log)"; }
}

# npm ci of one directory whose lock file is committed; the stamp is the lock file it installed.
npm_ci() { # DIR STAMP WHAT
  cmp -s "$1/package-lock.json" "$2" && [ -d "$1/node_modules" ] && return 0
  say "installing $3 with npm"
  (cd "$1" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >"$OLDPWD/build/.setup/npm.log" 2>&1) ||
    { tail -n 20 build/.setup/npm.log >&2; die "npm ci failed in $1 (build/.setup/npm.log)"; }
  cp "$1/package-lock.json" "$2"
}

npm_packages() {
  npm_ci . build/.setup/npm.lock "npm packages"
  local have arch=x64
  [ "$(uname -m)" = aarch64 ] && arch=arm64
  # npm 9 leaves this link out.
  [ -e node_modules/.bin/node ] || ln -sfn "../node-linux-$arch/bin/node" node_modules/.bin/node
  have=$(PATH="$PWD/node_modules/.bin:$PATH" node --version 2>/dev/null) || have=none
  case "$have" in
    v2[2-9].* | v[3-9]*) ;;
    *) die "wrangler needs Node 22.12 or newer, found $have, and the npm package node-linux-$arch did not bring one" ;;
  esac
}

claude_code() {
  local dir=build/agents/claude-code src=sandbox-sdk-shim/agents/claude-code
  mkdir -p "$dir"
  cp "$src/package.json" "$src/package-lock.json" "$dir/"
  [ -f build/.setup/claude-code.lock ] && cmp -s "$dir/package-lock.json" build/.setup/claude-code.lock && [ -x "$dir/claude" ] && return 0
  npm_ci "$dir" build/.setup/claude-code.lock "the Claude Code CLI (about 360 MB)"
  # The package's install script would link the platform's binary; the binary itself is all we use.
  local bin
  bin=$(find "$dir/node_modules/@anthropic-ai" -mindepth 2 -maxdepth 2 -name claude -type f | grep -v musl | head -n 1)
  [ -n "$bin" ] || die "no Claude Code binary for $(uname -s) $(uname -m) in the npm package"
  ln -f "$bin" "$dir/claude"
  "$dir/claude" --version >/dev/null 2>&1 || die "the installed Claude Code CLI does not start: $dir/claude --version"
}

# An agent that is run as its npm package is: the launcher beside its lock file is what a sandbox sees as the program.
npm_agent() { # NAME WHAT PROGRAM-PATTERN
  local dir=build/agents/$1 src=sandbox-sdk-shim/agents/$1 program
  mkdir -p "$dir"
  cp "$src/package.json" "$src/package-lock.json" "$dir/"
  cmp -s "$dir/package-lock.json" "build/.setup/$1.lock" && [ -d "$dir/node_modules" ] && return 0
  npm_ci "$dir" "build/.setup/$1.lock" "$2"
  # shellcheck disable=SC2086
  program=$(ls -d $dir/node_modules/$3 2>/dev/null | head -n 1)
  if [ -z "$program" ] || ! run_agent "$program" --version >/dev/null 2>&1; then
    rm -f "build/.setup/$1.lock"
    die "$1 has no program for $(uname -s) $(uname -m), or it does not start: $program --version"
  fi
}

run_agent() {
  case "$1" in
    *.js) "$PWD/node_modules/.bin/node" "$@" ;;
    *) "$@" ;;
  esac
}

agents() {
  local name arch=x64
  [ "$(uname -m)" = aarch64 ] && arch=arm64
  [ $# -gt 0 ] || set -- claude-code
  for name in "$@"; do
    case "$name" in
      claude-code) claude_code ;;
      codex) npm_agent codex "Codex (about 400 MB)" "@openai/codex-linux-$arch/vendor/*/bin/codex" ;;
      gemini) npm_agent gemini "Gemini CLI (about 100 MB)" "@google/gemini-cli/bundle/gemini.js" ;;
      opencode) npm_agent opencode "OpenCode (about 350 MB)" "opencode-linux-$arch*/bin/opencode" ;;
      *) die "no agent $name; there are claude-code, codex, gemini and opencode" ;;
    esac
  done
}

case "${1:-all}" in
  packages) packages ;;
  npm) npm_packages ;;
  analyze) analyzer ;;
  agents) shift; agents "$@" ;;
  all) packages; npm_packages; scripts/fetch-deps.sh; agents ;;
  *) die "usage: scripts/setup.sh packages|npm|analyze|agents [NAME...]|all" ;;
esac
