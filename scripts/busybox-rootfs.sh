#!/usr/bin/env bash
# busybox-rootfs.sh FOLDER: a small root file system, made of Debian's static busybox and nothing else.
# Owned by whoever runs it; FOLDER must not exist, or be empty.
set -euo pipefail

[ $# -eq 1 ] || { sed -n '2,3p' "$0" >&2; exit 2; }
root=$1
busybox=$(command -v busybox || true)
[ -n "$busybox" ] || { echo "busybox-rootfs.sh: no busybox in PATH; install Debian's busybox-static" >&2; exit 1; }
if ldd "$busybox" >/dev/null 2>&1; then
  echo "busybox-rootfs.sh: $busybox is linked dynamically and cannot run in a folder of its own; install busybox-static" >&2
  exit 1
fi

mkdir -p "$root"
[ -z "$(ls -A "$root")" ] || { echo "busybox-rootfs.sh: $root is not empty" >&2; exit 1; }
cd "$root"
mkdir -p bin sbin usr/bin usr/sbin etc dev proc sys run var home
mkdir -m 0700 root
mkdir -m 1777 tmp
install -m 0755 "$busybox" bin/busybox
for applet in $(./bin/busybox --list); do
  [ "$applet" = busybox ] || ln -s busybox "bin/$applet"
done
cat >etc/passwd <<'EOF'
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
EOF
cat >etc/group <<'EOF'
root:x:0:
nogroup:x:65534:
EOF
