#!/usr/bin/env bash
# teardown.sh RUN_DIR STATE_DIR: ends a gardend of one's own with everything under it, and removes both folders.
# Containers normally outlive gardend; this is for a development server and for tests, whose folders are theirs alone.
# Ends only processes whose command line names RUN_DIR, what those started, and the inits that RUN_DIR notes.
set -uo pipefail

[ $# -eq 2 ] || { sed -n '2,4p' "$0" >&2; exit 2; }
run=${1%/} state=${2%/}
for folder in "$run" "$state"; do
  case $folder in
    /*/?*) ;;
    *) echo "teardown.sh: '$folder' is not an absolute path below some folder; nothing was done" >&2; exit 2;;
  esac
done

# $1 as a whole word of the command line, or the beginning of a path in it.
names_run_dir() {
  local words
  words=$(tr '\0' '\n' 2>/dev/null <"/proc/$1/cmdline") || return 1
  grep -qE "(^|[=,:])$(printf '%s' "$run" | sed 's/[][\.*^$+?(){}|/]/\\&/g')(/|$)" <<<"$words"
}

children_of() {
  local task
  for task in "/proc/$1/task"/*/children; do tr ' ' '\n' 2>/dev/null <"$task"; done
}

with_descendants() {
  local pid=$1 child
  echo "$pid"
  for child in $(children_of "$pid"); do with_descendants "$child"; done
}

start_time() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

ours() {
  local folder pid noted
  for folder in /proc/[0-9]*; do
    pid=${folder#/proc/}
    [ "$pid" != $$ ] && [ "$pid" != "$PPID" ] || continue
    case $(cat "$folder/comm" 2>/dev/null) in
      gardend|containerd|containerd-shim*|runc|crun|exe) names_run_dir "$pid" && with_descendants "$pid";;
    esac
  done
  for noted in "$run"/places/*/init.pid; do
    [ -f "$noted" ] || continue
    read -r pid started <"$noted" || continue
    [ -n "${started:-}" ] && [ "$(start_time "$pid")" = "$started" ] && with_descendants "$pid"
  done
}

alive() { local state; state=$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -c1) && [ -n "$state" ] && [ "$state" != Z ]; }

# gardend first, or it starts its containerd and its places again.
for folder in /proc/[0-9]*; do
  pid=${folder#/proc/}
  [ "$(cat "$folder/comm" 2>/dev/null)" = gardend ] && names_run_dir "$pid" && kill -KILL "$pid" 2>/dev/null
done

groups=""
for round in 1 2 3 4 5; do
  pids=$(ours | sort -un)
  [ -n "$pids" ] || break
  for pid in $pids; do groups+=$'\n'$(cut -d: -f2- "/proc/$pid/cgroup" 2>/dev/null); done
  for pid in $pids; do kill -KILL "$pid" 2>/dev/null; done
  for _ in $(seq 100); do
    left=""
    for pid in $pids; do alive "$pid" && left=$pid; done
    [ -n "$left" ] || break
    sleep 0.05
  done
done

# Mounts below the two folders, the deepest first.
awk '{print $5}' /proc/self/mountinfo | sed 's/\\040/ /g' | sort -r | while read -r point; do
  case $point in "$run"/*|"$state"/*|"$run"|"$state") umount -l "$point" 2>/dev/null;; esac
done

# The cgroups that these processes were in, as far as they are gardend's and now empty.
sort -u <<<"$groups" | while IFS=: read -r controllers path; do
  case $path in */gardend*/*|/gardend*) ;; *) continue;; esac
  for mounted in $(awk -v want="${controllers#name=}" '
      { split($0, half, " - "); split(half[2], tail, " "); type = tail[1]; options = tail[3]
        if (want == "" && type == "cgroup2") print $5
        if (want != "" && type == "cgroup" && (index("," options ",", "," want ",") || index("," options ",", ",name=" want ","))) print $5 }' \
      /proc/self/mountinfo | sort -u); do
    group=$mounted$path
    while [ "$group" != "$mounted" ] && [ "${group#"$mounted"/gardend}" != "$group" ]; do
      rmdir "$group" 2>/dev/null || break
      group=${group%/*}
    done
  done
done

rm -rf --one-file-system "$run" "$state"
for folder in "$run" "$state"; do
  [ ! -e "$folder" ] || { echo "teardown.sh: $folder could not be removed: $(ls -A "$folder" | head -3 | tr '\n' ' ')" >&2; exit 1; }
done
