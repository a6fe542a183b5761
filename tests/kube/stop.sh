#!/usr/bin/env bash
# stop.sh STATE_DIR: ends what start-apiserver.sh started there, and fails where something of it still lives.
set -u
[ $# = 1 ] || { sed -n '2p' "$0" >&2; exit 2; }
state=$(cd "$1" && pwd) || exit 2

# One that is ended and not waited for counts as ended.
alive() { local s; read -r _ _ s _ 2>/dev/null <"/proc/$1/stat" && [ "$s" != Z ]; }
left=0
for name in kube-apiserver etcd; do
  [ -f "$state/$name.pid" ] || continue
  pid=$(cat "$state/$name.pid")
  # Nothing there is to be kept; a stopped process hears of nothing else.
  kill -KILL "$pid" 2>/dev/null
  for _ in $(seq 200); do
    alive "$pid" || break
    sleep 0.05
  done
  if alive "$pid"; then
    echo "stop.sh: $name (pid $pid) does not end" >&2
    left=1
  else
    rm -f "$state/$name.pid"
  fi
done
exit $left
