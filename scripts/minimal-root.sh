#!/usr/bin/env bash
# Shows that the two commands work on a machine that has nothing: makes a minimal Debian root (mmdebstrap minbase with
# git, make, ca-certificates), clones HEAD into it and runs `make demo` and `make test` there.
# usage: scripts/minimal-root.sh [root|user] [COMMAND…]   (default: root, make demo, make test)
# `user` installs the distribution packages as root first (an ordinary user cannot) and does all else as an ordinary user.
# Needs root, mmdebstrap and bubblewrap. KEEP=1 keeps the root; ROOT=DIR names it.
set -euo pipefail
cd "$(dirname "$0")/.."
who=${1:-root}
shift || true
[ $# -gt 0 ] && commands=("$@") || commands=("make demo" "make test")
[ "$(id -u)" = 0 ] || { echo "minimal-root: run me as root" >&2; exit 1; }
for tool in mmdebstrap bwrap; do
  command -v $tool >/dev/null || { echo "minimal-root: please apt-get install mmdebstrap bubblewrap" >&2; exit 1; }
done
root=${ROOT:-$(mktemp -d -p "${TMPDIR:-/var/tmp}" caisson-min.XXXXXX)}
[ -n "${KEEP:-}" ] || trap 'rm -rf --one-file-system "$root"' EXIT
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
if [ ! -e "$root/bin" ]; then
  echo "minimal-root: making $suite in $root"
  mmdebstrap --quiet --variant=minbase --include=git,make,ca-certificates "$suite" "$root"
fi
mkdir -p "$root/src"

# How this machine reaches its package registries: resolver, certificates, npm's and apt's own settings.
share=(--ro-bind /etc/resolv.conf /etc/resolv.conf --ro-bind-try /etc/hosts /etc/hosts --ro-bind-try /etc/ssl/certs /etc/ssl/certs)
npmrc=$(npm config get userconfig 2>/dev/null || echo /root/.npmrc)
[ -f "$npmrc" ] && { install -m 644 "$npmrc" "$root/etc/caisson-npmrc"; share+=(--setenv NPM_CONFIG_USERCONFIG /etc/caisson-npmrc); }
for f in /etc/apt/apt.conf.d/*; do
  grep -qiE 'proxy|https?::' "$f" 2>/dev/null && share+=(--ro-bind "$f" "$f") && touch "$root$f"
done

inside() { # UID COMMAND: a root of its own (pivot_root, so user namespaces nest), the machine's network, real root
  bwrap --bind "$root" / --dev-bind /dev /dev --dev-bind /proc /proc --ro-bind /sys /sys --perms 1777 --tmpfs /tmp --tmpfs /run "${share[@]}" \
    --unshare-ipc --die-with-parent --clearenv --setenv PATH /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    --setenv HOME "$([ "$1" = 0 ] && echo /root || echo /home/dev)" --setenv TERM dumb --setenv LANG C.UTF-8 --setenv CI true \
    ${ANTHROPIC_API_KEY:+--setenv ANTHROPIC_API_KEY "$ANTHROPIC_API_KEY"} --cap-add ALL --chdir / \
    /bin/bash -c 'if [ "$1" != 0 ]; then exec setpriv --reuid "$1" --regid "$1" --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs bash -c "$2"; else exec bash -c "$2"; fi' sh "$1" "$2"
}

uid=0 home=/root
if [ "$who" = user ]; then
  uid=1000 home=/home/dev
  grep -q '^dev:' "$root/etc/passwd" || { echo 'dev:x:1000:1000::/home/dev:/bin/bash' >>"$root/etc/passwd"; echo 'dev:x:1000:' >>"$root/etc/group"; }
  mkdir -p "$root/home/dev" && chown 1000:1000 "$root/home/dev"
fi
rm -rf "$root$home/caisson"
git clone -q --no-hardlinks . "$root$home/caisson"
chown -R $uid:$uid "$root$home/caisson"
if [ "$who" = user ]; then
  echo "minimal-root: installing the distribution packages as root"
  inside 0 "cd $home/caisson && git config --global --add safe.directory '*' && scripts/setup.sh packages"
  rm -rf "$root$home/caisson/build"
fi
for command in "${commands[@]}"; do
  echo "minimal-root: as $who: $command"
  inside "$uid" "cd $home/caisson && time $command"
done
