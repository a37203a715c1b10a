#!/usr/bin/env bash
# Runs commands of this repository on a machine whose control groups are version 2: a virtual machine (QEMU) with the
# distribution's own kernel and a minimal root, in which this clone lies as it was built here. For machines that have
# version 1 only, and for the three ways in which an ordinary user meets version 2. Optional: no target of make runs it.
# usage: scripts/cgroup2-vm.sh [root|user|delegated|systemd|forbidden] [COMMAND…]
#   root        as root, no systemd (the default)
#   user        as an ordinary user who may write no control group
#   delegated   as an ordinary user whose own control group was handed to him, with nothing in it but his session
#   systemd     as an ordinary user in a scope of his own service manager: systemd-run --user --scope
#   forbidden   as an ordinary user of a machine that forbids user namespaces, by each of the kernel's two settings
#   COMMAND     each a line for bash, run in the clone. Default: the engine's tests of limits, leftovers, isolation and
#               escape; for `forbidden` that the engine says what to enable
# environment: ARCH (this machine's; another one's root and programs are made by scripts/arm64.sh), ACCEL=kvm where /dev/kvm works (default tcg, which emulates the processor: five to ten times slower),
#   MEMORY=MiB (3072), CPUS (2), DIR (build/cgroup2-vm: the root, kept for the next run), TIMEOUT=seconds (3600)
# Ends with the status of the first command that fails. Needs root (the root's files have owners), mmdebstrap, qemu-system-x86.
# `make build build/native/probe` first. For another architecture PROGRAMS names a build directory of its own, NODE the
# directory of its npm package of Node, and DIR/root is there.
set -euo pipefail
cd "$(dirname "$0")/.."
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "scripts/${0##*/}"; }
who=${1:-root}
shift || true
case "$who" in
  root | user | delegated | systemd | forbidden) ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac
default='node --test --test-force-exit --test-concurrency=1 tests/engine/limits.test.mjs tests/engine/leftovers.test.mjs tests/engine/isolation.test.mjs tests/engine/escape.test.mjs'
[ "$who" != forbidden ] || default="node --test --test-force-exit --test-name-pattern='what to enable' tests/engine/isolation.test.mjs"
[ $# -gt 0 ] && commands=("$@") || commands=("$default")
[ "$(id -u)" = 0 ] || { echo "cgroup2-vm: run me as root" >&2; exit 1; }
own=$(dpkg --print-architecture)
arch=${ARCH:-$own}
case "$arch" in
  amd64) machine=(qemu-system-x86_64) package=qemu-system-x86 console=ttyS0 cpu=max ;;
  # The pointer authentication of the architecture's own definition takes longer to emulate than all else.
  arm64) machine=(qemu-system-aarch64 -machine virt) package=qemu-system-arm console=ttyAMA0 cpu=max,pauth-impdef=on ;;
  *) echo "cgroup2-vm: no machine is known for $arch" >&2; exit 1 ;;
esac
for tool in mmdebstrap "${machine[0]}" mke2fs; do
  command -v "$tool" >/dev/null || { echo "cgroup2-vm: please apt-get install mmdebstrap $package e2fsprogs" >&2; exit 1; }
done
programs=${PROGRAMS:-build}
for built in "$programs/caisson-engine" "$programs/native/probe"; do
  [ -x "$built" ] || { echo "cgroup2-vm: make build build/native/probe first" >&2; exit 1; }
done

dir=${DIR:-build/cgroup2-vm}
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
# What the programs and the tests need at run time; the compilers of scripts/setup.sh stay outside.
packages=linux-image-cloud-$arch,bubblewrap,ca-certificates,curl,dbus-user-session,git,iproute2,kmod,libevent-2.1-7,libseccomp2,libpam-systemd,nodejs,procps,python3,squashfs-tools,systemd,systemd-sysv,dbus,xz-utils
mkdir -p "$dir"
# A root that was made with another list is made anew.
stamp="$suite $packages"
if [ "$arch" != "$own" ]; then
  [ -n "${PROGRAMS:-}" ] && [ -n "${NODE:-}" ] && [ -e "$dir/root/boot" ] || { echo "cgroup2-vm: for $arch run scripts/$arch.sh vm" >&2; exit 1; }
elif [ "$(cat "$dir/root/etc/caisson-vm" 2>/dev/null)" != "$stamp" ]; then
  echo "cgroup2-vm: making $suite in $dir/root"
  rm -rf --one-file-system "$dir/root"
  mmdebstrap --quiet --variant=minbase --include="$packages" "$suite" "$dir/root"
  echo "$stamp" >"$dir/root/etc/caisson-vm"
fi
root=$dir/root
grep -q '^dev:' "$root/etc/passwd" || chroot "$root" useradd --create-home --uid 1000 --shell /bin/bash dev
mkdir -p "$root/src"

# The clone as it is: sources, what was built, and Node with the packages.
image=$(mktemp -d -p "$dir" image.XXXXXX)
trap 'rm -rf --one-file-system "$image"' EXIT
mkdir -p "$image/src/build/native" "$image/src/node_modules"
git ls-files -z --cached --others --exclude-standard | tar -c --null -T - --ignore-failed-read | tar -x -C "$image/src"
find build -maxdepth 1 -type f -exec cp -p {} "$image/src/build/" \;
if [ "$arch" != "$own" ]; then
  rm -f "$image"/src/build/caisson-*
  find "$programs" -maxdepth 1 -type f -name 'caisson-*' -exec cp -p {} "$image/src/build/" \;
fi
find "$programs/native" -maxdepth 1 -type f \( -name probe -o -name 'unit*_test' \) -exec cp -p {} "$image/src/build/native/" \;
if [ "$arch" != "$own" ]; then
  mkdir "$image/src/node_modules/.bin"
  cp -a "$NODE" "$image/src/node_modules/"
  ln -s "../${NODE##*/}/bin/node" "$image/src/node_modules/.bin/node"
elif [[ "${commands[*]}" == *conformance* || "${commands[*]}" == *make* ]]; then
  cp -a node_modules "$image/src/"
else
  cp -a node_modules/.bin node_modules/node-linux-* "$image/src/node_modules/"
fi
printf '%s\n' "${commands[@]}" >"$image/src/.vm-commands"
echo "$who" >"$image/src/.vm-who"

cat >"$root/caisson-run" <<'RUN'
#!/bin/bash
# Runs the commands as who was asked for; leaves their status in /run/caisson-status.
cd /src || exit 1
export PATH=/src/node_modules/.bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 TERM=dumb CI=true
# What the tests of limits hold the engine to.
export CAISSON_LIMITS_BY=cgroup2
case "$(cat .vm-who)" in user | forbidden) CAISSON_LIMITS_BY=measured ;; esac
while IFS= read -r command; do
  echo "cgroup2-vm: as $(id -un), in $(cat /proc/self/cgroup): $command"
  bash -c "$command" </dev/null || exit
done <.vm-commands
RUN
cat >"$root/caisson-begin" <<'BEGIN'
#!/bin/bash
# Chooses who runs the commands, prints the status, ends the machine.
mount -o noatime /dev/vdb /src
ip link set lo up
who=$(cat /src/.vm-who)
[ "$who" = root ] || chown -R 1000:1000 /src
uname -sr
grep cgroup /proc/mounts
as_user=(setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs env HOME=/home/dev)
group=/sys/fs/cgroup
case "$who" in
  root) HOME=/root /caisson-run ;;
  user) "${as_user[@]}" /caisson-run ;;
  forbidden)
    status=0
    for name in kernel/unprivileged_userns_clone user/max_user_namespaces; do
      [ -e /proc/sys/$name ] || continue
      had=$(cat /proc/sys/$name)
      echo 0 >/proc/sys/$name
      echo "cgroup2-vm: $name is 0"
      "${as_user[@]}" /caisson-run || status=$?
      echo "$had" >/proc/sys/$name
    done
    (exit $status) ;;
  delegated)
    for c in memory pids cpu; do echo +$c >$group/cgroup.subtree_control; done
    mkdir -p $group/dev/session
    chown 1000:1000 $group/dev $group/dev/cgroup.{procs,subtree_control,threads} $group/dev/session $group/dev/session/cgroup.*
    (echo 0 >$group/dev/session/cgroup.procs; exec "${as_user[@]}" /caisson-run) ;;
  systemd)
    loginctl enable-linger dev
    for i in $(seq 60); do [ -S /run/user/1000/bus ] && break; sleep 1; done
    [ -S /run/user/1000/bus ] || systemctl status --no-pager user@1000.service
    runuser -u dev -- env HOME=/home/dev XDG_RUNTIME_DIR=/run/user/1000 DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1000/bus \
      systemd-run --user --scope --quiet /caisson-run ;;
esac
echo "cgroup2-vm: status $?"
sync
echo o >/proc/sysrq-trigger
sleep 60
BEGIN
cat >"$root/caisson-init" <<'INIT'
#!/bin/bash
# The first process where there is no systemd.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
[ -e /etc/ld.so.cache ] || ldconfig
mountpoint -q /sys || mount -t sysfs sysfs /sys
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
modprobe -a overlay tun squashfs 2>/dev/null
exec 0</dev/null
/caisson-begin
INIT
mkdir -p "$root/etc/systemd/system"
cat >"$root/etc/systemd/system/caisson.service" <<UNIT
[Unit]
After=systemd-user-sessions.service systemd-logind.service
[Service]
Type=oneshot
ExecStart=/caisson-begin
StandardOutput=tty
StandardError=tty
TTYPath=/dev/$console
UNIT
chmod 755 "$root"/caisson-{run,begin,init}
init=/caisson-init
if [ "$who" = systemd ]; then init="/lib/systemd/systemd systemd.unit=caisson.target systemd.show_status=0"; fi
cat >"$root/etc/systemd/system/caisson.target" <<'TARGET'
[Unit]
Requires=basic.target systemd-logind.service caisson.service
After=basic.target
TARGET

size() { echo $(($(du -sm "$1" | cut -f1) * 5 / 4 + $2))M; }
mke2fs -q -t ext4 -F -m 0 -d "$root" "$image/root.img" "$(size "$root" 6000)" >/dev/null
mke2fs -q -t ext4 -F -m 0 -d "$image/src" "$image/src.img" "$(size "$image/src" 500)" >/dev/null
rm -rf "$image/src"
if [ "${ACCEL:-tcg}" = kvm ]; then cpu=host; fi
timeout "${TIMEOUT:-3600}" "${machine[@]}" -accel "${ACCEL:-tcg}" -cpu "$cpu" -m "${MEMORY:-3072}" -smp "${CPUS:-2}" \
  -nodefaults -display none -serial stdio -no-reboot \
  -drive "file=$image/root.img,format=raw,if=virtio,cache=unsafe" -drive "file=$image/src.img,format=raw,if=virtio,cache=unsafe" \
  -kernel "$root"/boot/vmlinuz-* -initrd "$root"/boot/initrd.img-* \
  -append "root=/dev/vda rw console=$console quiet loglevel=1 panic=-1 init=$init" </dev/null 2>&1 |
  sed -u "s/\\r\$//; /TCG doesn.t support requested feature/d" | tee "$dir/log" || true
status=$(sed -n 's/^cgroup2-vm: status \([0-9]*\)$/\1/p' "$dir/log" | tail -n 1)
exit "${status:-1}"
