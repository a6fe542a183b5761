#!/usr/bin/env bash
# test-v2.sh GARDEND [PATTERN]: what this machine's kernel may not have: cgroup v2 alone, and file systems with project
# quotas. A Linux of Debian's, built to run as a program (user-mode-linux), is started on this machine's own files, read
# only; in it gardend, containerd, runc and the Garden client's tests of these run as everywhere. It sees neither this
# machine's network nor its cgroups, and everything that it writes is in one folder, which is removed.
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2,5p' "$0" >&2; exit 2; }
top=$(cd "$(dirname "$0")/.." && pwd)
pattern=${2:-'^Test(DiskLimits|LimitsInForce|MemoryLimit|PidLimit|ProcessWithLimits|Metrics|Capacity)$'}
export PATH=$PATH:/usr/sbin:/sbin

if [ "$(uname -m)" != x86_64 ]; then
  echo "test-v2: SKIPPED: user-mode Linux is for x86_64, and this is $(uname -m)" >&2
  exit 0
fi
scratch=$(mktemp -d "${TMPDIR:-/tmp}/gv.XXXXXX")
kernel=""
end() {
  # Its own processes are its children, in a group of their own.
  if [ -n "$kernel" ]; then kill -9 -- "-$kernel" 2>/dev/null || true; fi
  rm -rf "$scratch"
}
trap end EXIT

(cd "$top/tests/go" && CGO_ENABLED=0 go test -c -o "$scratch/go.test" .)
cp "$1" "$scratch/gardend"
for kind in ext4 xfs; do truncate -s 3G "$scratch/$kind"; done
mkfs.ext4 -q -O project,quota "$scratch/ext4"
mkfs.xfs -q "$scratch/xfs"

cat >"$scratch/init" <<'INIT'
#!/bin/bash
# pid 1 there. $SCRATCH, $PATTERN and $KIND come by the kernel's command line.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
fail() { echo "test-v2: $*"; busybox poweroff -f; }
mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t cgroup2 cgroup /sys/fs/cgroup || fail "no file systems"
mountpoint -q /dev || mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm && mount -t devpts -o ptmxmode=666 devpts /dev/pts && mount -t tmpfs shm /dev/shm
for module in fs/quota/quota_tree fs/quota/quota_v2 fs/overlayfs/overlay; do
  busybox insmod "/usr/lib/uml/modules/$(uname -r)/kernel/$module.ko" || fail "no module $module"
done
# /tmp stays this machine's, read only: the project may be below it.
mount -t tmpfs places /mnt && mkdir -m 1777 /mnt/own /mnt/tmp || fail "no places"
mount -t hostfs -o "$SCRATCH" none /mnt/own || fail "its folder is not there"
if [ "$KIND" = nothing ]; then echo 0 >/mnt/own/status; busybox poweroff -f; fi
mount -t tmpfs run /run
case $KIND in
  ext4) mount -t ext4 -o prjquota /dev/ubda /mnt/tmp;;
  xfs) mount -t xfs -o pquota /dev/ubdb /mnt/tmp;;
esac || fail "no $KIND with quotas"
chmod 1777 /mnt/tmp
ip link set lo up
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
  echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
export TMPDIR=/mnt/tmp GARDEND_BIN=/mnt/own/gardend GARDEND_CONTAINERD_BINARY=/usr/bin/containerd GARDEND_RUNTIME=runc GARDEND_TEST_QUOTAS=$KIND
# Its packet filter translates no addresses.
export GARDEND_NETWORK=none
cd /mnt/own
echo "test-v2: Linux $(uname -r), cgroup v2 with $(cat /sys/fs/cgroup/cgroup.controllers), $KIND with project quotas; no networks, what needs one is skipped"
./go.test -test.short -test.parallel 3 -test.timeout 12m -test.run "$PATTERN"
echo $? >/mnt/own/status
busybox poweroff -f
INIT
chmod 0755 "$scratch/init"

# Its memory is a file there.
memory=/dev/shm
[ -d $memory ] && [ "$(df --output=avail $memory | tail -1)" -gt 3500000 ] || memory=$scratch
boot() {
  rm -f "$scratch/status"
  local words=(mem=3072M "ubda=$scratch/ext4" "ubdb=$scratch/xfs" root=/dev/root rootfstype=hostfs rootflags=/ ro
    "init=$scratch/init" con=null con0=null,fd:1 quiet loglevel=1 "uml_dir=$scratch/" "umid=linux"
    "SCRATCH=$scratch" "KIND=$1" "PATTERN=$2")
  TMPDIR=$memory setsid timeout -k 5 900 linux.uml "${words[@]}" </dev/null &
  kernel=$!
  wait "$kernel" || true
  kernel=""
  [ "$(cat "$scratch/status" 2>/dev/null)" = 0 ]
}
if ! boot nothing none >"$scratch/said" 2>&1; then
  echo "test-v2: SKIPPED: user-mode Linux does not run on this machine (it needs ptrace, and memory that can be executed); it said:" >&2
  tail -20 "$scratch/said" >&2
  exit 0
fi
SECONDS=0
failed() { echo "test-v2: failed on $1" >&2; exit 1; }
boot ext4 "$pattern" || failed ext4
boot xfs '^TestDiskLimits$' || failed xfs
echo "== cgroup v2 and quotas took $SECONDS s"
