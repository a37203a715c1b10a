#!/bin/sh
# Fetches the sources of cJSON, BearSSL and http_parser into build/deps/{cjson,bearssl,http-parser}.
#
# Where apt is: the distribution's own source packages, through a private apt configuration under build/ (own
# sources, lists and cache directories; nothing in /etc or /var changes, no root needed). Elsewhere: the upstream
# release tarballs. Either way a tarball is used only when its SHA-256 is one of the pins below.
set -eu

cd "$(dirname "$0")/.."
root=$PWD
build=${BUILD:-build}
deps=$build/deps
work=$deps/.work

# package, version of the upstream tarball, SHA-256 of that tarball
pins="
cjson 1.7.14 fb50a663eefdc76bafa80c82bc045af13b1363e8f45cec8b442007aef6a41343
cjson 1.7.15 5308fd4bd90cef7aa060558514de6a1a4a0819974a26e6ed13973c5f624c24b2
cjson 1.7.17 c91d1eeb7175c50d49f6ba2a25e69b46bd05cffb798382c19bfb202e467ec51c
cjson 1.7.18 3aa806844a03442c00769b83e99970be70fbef03735ff898f4811dd03b9f5ee5
cjson 1.7.19 7fa616e3046edfa7a28a32d5f9eacfd23f92900fe1f8ccd988c1662f30454562
bearssl 0.6+dfsg.1 102a625bd8f6155260867a50c508df8d8c3f796985dd744df1a68e5cd1a79004
bearssl 0.6 6705bba1714961b41a728dfc5debbe348d2966c117649392f8c8139efc83ff14
http-parser 2.9.4 467b9e30fd0979ee301065e70f637d525c28193449e1b13fbcb1b1fab3ad224f
"

# package, version, address of the upstream release (used where there is no apt)
upstream="
cjson 1.7.15 https://github.com/DaveGamble/cJSON/archive/refs/tags/v1.7.15.tar.gz
bearssl 0.6 https://bearssl.org/bearssl-0.6.tar.gz
http-parser 2.9.4 https://github.com/nodejs/http-parser/archive/refs/tags/v2.9.4.tar.gz
"

die() {
  printf 'fetch-deps: %s\n' "$*" >&2
  exit 1
}

digest_of() {
  if command -v sha256sum >/dev/null 2>&1; then
    sha256sum "$1" | cut -d' ' -f1
  else
    shasum -a 256 "$1" | cut -d' ' -f1
  fi
}

# check PACKAGE TARBALL: prints the pinned version that the tarball is, or fails.
check() {
  have=$(digest_of "$2")
  printf '%s' "$pins" | while read -r name version pin; do
    if [ "$name" = "$1" ] && [ "$pin" = "$have" ]; then
      printf '%s' "$version"
    fi
  done >"$work/version"
  [ -s "$work/version" ] || die "$(basename "$2") has the SHA-256 $have, which is not pinned.
  Read the new sources, then add a line \"$1 <version> $have\" to the pins in scripts/fetch-deps.sh."
}

# unpack PACKAGE TARBALL
unpack() {
  check "$1" "$2"
  rm -rf "$work/unpack"
  mkdir -p "$work/unpack"
  tar -xf "$2" -C "$work/unpack" --strip-components=1 ||
    die "cannot unpack $(basename "$2"); is xz (package xz-utils) installed?"
  rm -rf "${deps:?}/$1"
  mv "$work/unpack" "$deps/$1"
  cp "$work/version" "$deps/$1/.caisson-version"
}

# The machine's entries for the Debian or Ubuntu archive, as deb-src. Third-party entries are left out: an entry is
# the archive's when it is signed by the archive's keyring or its address is HOST/debian, HOST/ubuntu and so on.
private_sources() {
  for file in /etc/apt/sources.list.d/*.sources; do
    [ -r "$file" ] || continue
    awk 'BEGIN { RS = ""; FS = "\n" }
      function is_archive(text) {
        return text ~ /(debian|ubuntu)-archive-keyring/ ||
               text ~ /URIs:[ \t]*[a-z+]+:\/\/[^\/ \t]+\/(archive\/)?(debian|ubuntu)(-security|-ports)?([\/ \t\n]|$)/
      }
      is_archive($0) && $0 !~ /Enabled:[ \t]*no/ {
        for (i = 1; i <= NF; i++) {
          if ($i ~ /^#/) continue
          if ($i ~ /^Types:/) $i = "Types: deb-src"
          print $i
        }
        print ""
      }' "$file" >"$1/$(basename "$file")"
    [ -s "$1/$(basename "$file")" ] || rm -f "$1/$(basename "$file")"
  done
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ -r "$file" ] || continue
    awk '$1 == "deb" && ($0 ~ /(debian|ubuntu)-archive-keyring/ ||
          $0 ~ /[ \t][a-z+]+:\/\/[^\/ \t]+\/(archive\/)?(debian|ubuntu)(-security|-ports)?([\/ \t]|$)/) {
        sub(/^deb[ \t]/, "deb-src ")
        gsub(/arch=[a-z0-9,]+ ?/, "")
        gsub(/\[ *\]/, "")
        print
      }' "$file" >"$1/$(basename "$file" .list).list"
    [ -s "$1/$(basename "$file" .list).list" ] || rm -f "$1/$(basename "$file" .list).list"
  done
  [ -n "$(ls "$1")" ]
}

private_apt() {
  apt-get -qq \
    -o "Dir::Etc::SourceList=/dev/null" -o "Dir::Etc::SourceParts=$root/$work/parts" \
    -o "Dir::State::Lists=$root/$work/lists" -o "Dir::Cache=$root/$work/cache" \
    -o "APT::Sandbox::User=" -o "Acquire::Languages=none" -o "Acquire::Retries=3" \
    -o "APT::Get::List-Cleanup=0" -o "Debug::NoLocking=1" "$@"
}

# Leaves in `left` what apt does not have: a release may have dropped a package that another one has.
from_apt() {
  left=$*
  command -v apt-get >/dev/null 2>&1 || return 1
  mkdir -p "$work/parts" "$work/lists/partial" "$work/cache/archives/partial" "$work/src"
  private_sources "$work/parts" || return 1
  private_apt update >"$work/apt.log" 2>&1 || return 1
  left=""
  for name in "$@"; do
    (cd "$work/src" && private_apt source --download-only "$name") >>"$work/apt.log" 2>&1 || left="$left $name"
  done
  [ -z "$left" ]
}

from_upstream() {
  for name in "$@"; do
    url=$(printf '%s' "$upstream" | awk -v n="$name" '$1 == n { print $3 }')
    file=$work/src/${name}_upstream.orig.tar.gz
    mkdir -p "$work/src"
    if command -v curl >/dev/null 2>&1; then
      curl -fsSL --retry 3 -o "$file" "$url"
    elif command -v wget >/dev/null 2>&1; then
      wget -q -O "$file" "$url"
    else
      die "neither apt-get, curl nor wget is here; install one of them"
    fi || die "cannot fetch $url"
  done
}

missing=""
for name in cjson bearssl http-parser; do
  version=$(cat "$deps/$name/.caisson-version" 2>/dev/null || true)
  printf '%s' "$pins" | grep -q "^$name $version " && [ -n "$version" ] || missing="$missing $name"
done
[ -n "$missing" ] || exit 0

rm -rf "$work"
mkdir -p "$work"
echo "fetch-deps: fetching the sources of$missing"
# shellcheck disable=SC2086
if ! from_apt $missing; then
  [ ! -s "$work/apt.log" ] || sed 's/^/fetch-deps: apt: /' "$work/apt.log" >&2
  for name in $left; do rm -f "$work/src/${name}"_*; done
  from_upstream $left
fi
for name in $missing; do
  for file in "$work/src/${name}"_*.orig.tar.*; do
    case $file in *.asc) continue ;; esac
    [ -f "$file" ] || die "no source tarball of $name was fetched"
    unpack "$name" "$file"
  done
done
rm -rf "$work"
