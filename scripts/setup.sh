#!/usr/bin/env bash
# setup.sh run|test: installs what the machine lacks for running gardend from its sources, or for its tests.
# Only what is missing, from the machine's own Debian packages, without questions; services that a package brings are
# not started. Rust comes from rustup (rust-toolchain.toml says which) and Go from go.dev or the machine: they are
# asked for and not installed.
set -euo pipefail

case ${1:-} in run|test) purpose=$1;; *) sed -n '2,5p' "$0" >&2; exit 2;; esac
export PATH=$PATH:/usr/sbin:/sbin

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
has() { command -v "$1" >/dev/null 2>&1; }
give_up() { printf 'setup: %s\n' "$*" >&2; exit 1; }

has cargo || give_up "no cargo: install Rust with rustup (https://rustup.rs), then try again"

missing=()
need() { has "$1" || missing+=("$2"); }
need cc gcc
need pkg-config pkg-config
need protoc protobuf-compiler
need containerd containerd
need runc runc
need curl curl
need ps procps
need ip iproute2
need nft nftables
# A busybox that is linked dynamically cannot run in a folder of its own.
if ! has busybox || ldd "$(command -v busybox)" >/dev/null 2>&1; then missing+=(busybox-static); fi
if [ "$purpose" = test ]; then
  has go || give_up "no go: the tests by the real Garden client need Go 1.25 or newer (https://go.dev/dl), then try again"
  need crun crun
  need docker-registry docker-registry
  need tc iproute2
  need setpriv util-linux
  need unshare util-linux
  need nsenter util-linux
  need jq jq
  need iptables iptables # what plugins of CNI use
  [ -x /usr/lib/cni/ptp ] || missing+=(containernetworking-plugins)
  need git git
  need etcd etcd-server
  # What the image is made from.
  [ -f /usr/include/seccomp.h ] || missing+=(libseccomp-dev)
  [ -f /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
  need openssl openssl
  need python3 python3
  # What this machine's kernel may lack is tested on another, which runs as a program (scripts/test-v2.sh).
  if [ "$(uname -m)" = x86_64 ]; then
    need linux.uml user-mode-linux
    need mkfs.ext4 e2fsprogs
    need mkfs.xfs xfsprogs
  fi
fi

if [ ${#missing[@]} -gt 0 ]; then
  has apt-get || give_up "missing: ${missing[*]} (Debian's names); install them with this machine's package manager, then try again"
  if [ "$(id -u)" != 0 ] && ! has sudo; then give_up "missing: ${missing[*]}; installing them needs root or sudo"; fi
  echo "setup: installing ${missing[*]}"
  # Debian's way to keep an installation from starting services; somebody else's rule is left as it is.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    trap 'as_root rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
    as_root chmod 0755 $policy
  fi
  install=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends -o Dpkg::Use-Pty=0 install)
  as_root "${install[@]}" "${missing[@]}" >/dev/null 2>&1 || {
    as_root apt-get -qq update
    as_root "${install[@]}" "${missing[@]}" >/dev/null
  }
fi

# crun looks for every hierarchy of cgroup v1 that the kernel has, and some machines leave hugetlb unmounted.
if [ "$purpose" = test ] && grep -q '^hugetlb' /proc/cgroups && [ "$(stat -fc %T /sys/fs/cgroup)" = tmpfs ] &&
   grep -q ' - cgroup ' /proc/self/mountinfo && ! grep -Eq ' - cgroup [^ ]+ [^ ]*\bhugetlb\b' /proc/self/mountinfo; then
  as_root mkdir -p /sys/fs/cgroup/hugetlb
  as_root mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb
fi
