#!/usr/bin/env bash
# in-node.sh PROGRAM [ARGUMENT...]: runs a program, as root, on a node of its own: namespaces of processes, mounts, the
# network, host name and cgroups, in which /run, /var/lib and /var/log are empty. So what is started there may have a
# node's usual paths, ends with the program, and leaves neither process nor mount, link, rule, cgroup or folder.
# The node's pid 1 is a shell that reaps. Its mounts are shared, as on every machine with systemd.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,5p' "$0" >&2; exit 2; }
[ "$(id -u)" = 0 ] || exec sudo -E "$0" "$@"
export PATH=$PATH:/usr/sbin:/sbin

if [ "${1:-}" = --inside ]; then
  files=$2 group=$3
  shift 3
  # The node's cgroups are all that there are. Bound, and not mounted: that asks nothing of the hierarchies.
  while read -r hierarchy; do mount --bind "$hierarchy/$group" "$hierarchy"; done <"$files/hierarchies"
  if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then
    # A group with groups below it holds no processes.
    mkdir /sys/fs/cgroup/system.slice
    echo 0 >/sys/fs/cgroup/system.slice/cgroup.procs
  fi
  mount --bind "$files/lib" /var/lib
  mount --bind "$files/log" /var/log
  mount -t tmpfs -o mode=0755 tmpfs /run
  mount --make-rshared /
  hostname node1
  ip link set lo up
  status=0
  "$@" || status=$?
  exit $status
fi

files=$(mktemp -d "${TMPDIR:-/tmp}/gardend-node.XXXXXX")
chmod 0755 "$files"
mkdir "$files/lib" "$files/log"
group=$(basename "$files")
hierarchies=()
while read -r hierarchy; do hierarchies+=("$hierarchy"); done < <(findmnt -rno TARGET -t cgroup,cgroup2)
[ ${#hierarchies[@]} -gt 0 ] || { echo "in-node.sh: no cgroups are mounted; mount them, as systemd does" >&2; exit 1; }
printf '%s\n' "${hierarchies[@]}" >"$files/hierarchies"

# What was killed leaves its group a moment later.
remove() { # FOLDER
  local end=$((SECONDS + 30))
  until find "$1" -depth -type d -exec rmdir {} + 2>/dev/null; do
    [ -d "$1" ] || return 0
    [ $SECONDS -lt $end ] || { echo "in-node.sh: $1 is left, with processes $(cat "$1"/cgroup.procs | xargs)" >&2; return 1; }
    sleep 0.05
  done
}
leave() {
  local status=$? one
  trap - EXIT
  for one in "${hierarchies[@]}"; do
    [ ! -d "$one/$group" ] || remove "$one/$group" || status=1
  done
  rm -rf --one-file-system "$files" || status=1
  exit $status
}
trap leave EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

for one in "${hierarchies[@]}"; do
  mkdir "$one/$group"
  for file in cpuset.cpus cpuset.mems; do
    # On v1 a new group may run nowhere.
    if [ -f "$one/$file" ]; then cat "$one/$file" >"$one/$group/$file"; fi
  done
done
(
  for one in "${hierarchies[@]}"; do echo 0 >"$one/$group/cgroup.procs"; done
  exec unshare --mount --net --pid --uts --ipc --cgroup --fork --kill-child --mount-proc -- \
    "$0" --inside "$files" "$group" "$@"
)
