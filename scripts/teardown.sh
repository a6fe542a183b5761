#!/usr/bin/env bash
# teardown.sh STATE_DIR RUN_DIR: ends a gardend of one's own with everything under it, and removes both folders.
# Containers normally outlive gardend; this is for a development server and for tests, whose folders are theirs alone.
# Ends only processes whose command line names RUN_DIR, what those started, and what is in this gardend's cgroups.
set -uo pipefail
export PATH=$PATH:/usr/sbin:/sbin

[ $# -eq 2 ] || { sed -n '2,4p' "$0" >&2; exit 2; }
for folder in "$@"; do
  case $folder in
    /*/?*) ;;
    *) echo "teardown.sh: '$folder' is not an absolute path below some folder; nothing was done" >&2; exit 2;;
  esac
done
[ -d "$1" ] || [ -d "$2" ] || exit 0
mkdir -p "$1" "$2"
state=$(realpath "$1") run=$(realpath "$2")
# As gardend names itself where it shares something (src/node/containerd/labels.rs, OwnerMark).
owner=$(printf '%s\0%s' "$state" "$run" | sha256sum | cut -c1-16)

hierarchies() {
  awk '{ split($0, half, " - "); split(half[2], tail, " "); if (tail[1] ~ /^cgroup2?$/) print $5 }' /proc/self/mountinfo | sort -u
}

# The folder itself, or something in it, as a word of the command line or after one of = , : in a word.
names_run_dir() {
  local words quoted
  words=$(tr '\0' '\n' 2>/dev/null <"/proc/$1/cmdline") || return 1
  quoted=$(sed 's/[][\.*^$+?(){}|/]/\\&/g' <<<"$run")
  grep -qE "(^|[=,:])$quoted(/|$)" <<<"$words"
}

with_descendants() {
  local pid=$1 child
  echo "$pid"
  for child in $(cat "/proc/$pid/task"/*/children 2>/dev/null); do with_descendants "$child"; done
}

# Processes of programs of this gardend's making. Called once with "gardend", which would start the others again.
named() {
  local folder pid
  for folder in /proc/[0-9]*; do
    pid=${folder#/proc/}
    # The command's name, which ends at 15 letters.
    case " $* " in *" $(cat "$folder/comm" 2>/dev/null) "*) names_run_dir "$pid" && echo "$pid";; esac
  done
}

ours() {
  local pid top
  # The inits of places, of which those of --backend host are in no group.
  for pid in $(cut -d' ' -f1 "$run"/places/*/init.pid 2>/dev/null); do
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" != garden-init ] || with_descendants "$pid"
  done
  for pid in $(named containerd containerd-shim runc crun runc:[2:INIT] exe); do with_descendants "$pid"; done
  for top in $(hierarchies); do
    [ ! -d "$top/gardend/$owner" ] || find "$top/gardend/$owner" -name cgroup.procs -exec cat {} + 2>/dev/null
  done
}

# Frozen processes do not die.
thaw() {
  local top
  for top in $(hierarchies); do
    [ -d "$top/gardend/$owner" ] || continue
    find "$top/gardend/$owner" -name freezer.state -exec sh -c 'echo THAWED >"$1"' _ {} \; 2>/dev/null
    find "$top/gardend/$owner" -name cgroup.freeze -exec sh -c 'echo 0 >"$1"' _ {} \; 2>/dev/null
  done
}

alive() {
  local state
  state=$(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null) && [ -n "$state" ] && [ "$state" != Z ]
}

for pid in $(named gardend); do kill -KILL "$pid" 2>/dev/null; done
for round in 1 2 3 4 5; do
  pids=$(ours | sort -un)
  [ -n "$pids" ] || break
  for pid in $pids; do kill -CONT "$pid" 2>/dev/null; kill -KILL "$pid" 2>/dev/null; done
  thaw
  for _ in $(seq 100); do
    left=""
    for pid in $pids; do if alive "$pid"; then left=$pid; break; fi; done
    [ -n "$left" ] || break
    sleep 0.05
  done
done

# What this gardend has in the network that it ran in, by the names and numbers of src/node/network (names.rs,
# routing.rs): links, which went with their containers as a rule, its table, its rules of routing.
if command -v ip >/dev/null && command -v nft >/dev/null; then
  for link in $(ip -o link show | awk -F'[ :@]+' '{ print $2 }' | grep "^gd${owner:0:4}"); do ip link del "$link" 2>/dev/null; done
  ! nft list table inet "gardend_$owner" >/dev/null 2>&1 || nft delete table inet "gardend_$owner"
  first=$((10000 + 16#${owner:0:8} % 5000 * 3))
  for family in -4 -6; do
    # That which others lead to goes last.
    for priority in $first $((first + 1)) $((first + 2)); do
      while ip $family rule del pref $priority 2>/dev/null; do :; done
    done
  done
fi

# Mounts below the two folders, the latest first.
awk '{print $5}' /proc/self/mountinfo | tac | while read -r point; do
  point=$(printf '%b' "${point//\\/\\0}")
  case $point in "$run"|"$run"/*|"$state"|"$state"/*) umount -l "$point" 2>/dev/null;; esac
done

for top in $(hierarchies); do
  [ -d "$top/gardend/$owner" ] || continue
  find "$top/gardend/$owner" -depth -type d -exec rmdir {} \; 2>/dev/null
  rmdir "$top/gardend" 2>/dev/null
done

rm -rf --one-file-system "$run" "$state"
for folder in "$run" "$state"; do
  [ ! -e "$folder" ] || { echo "teardown.sh: $folder could not be removed: $(ls -A "$folder" | head -3 | tr '\n' ' ')" >&2; exit 1; }
done
