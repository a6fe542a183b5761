#!/usr/bin/env bash
# run.sh: a gardend for trying out, with everything in a temporary folder: its own containerd, a default root file
# system of busybox, one container. Serves on LISTEN (127.0.0.1:7777) until Ctrl-C, then takes everything away.
# Runs the program that GARDEND_BIN names. Needs root.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
listen=${LISTEN:-127.0.0.1:7777}
gardend=${GARDEND_BIN:?names no gardend; say make run}
[ "$(id -u)" = 0 ] || { echo "run: making containers needs root" >&2; exit 1; }

host=${listen%:*} port=${listen##*:}
if (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; then
  echo "run: something listens on $listen already; end it, or choose another port: make run LISTEN=127.0.0.1:7778" >&2
  exit 1
fi

forwards=/proc/sys/net/ipv4/ip_forward
forwarded=$(cat $forwards)
folder=$(mktemp -d "${TMPDIR:-/tmp}/gardend-run.XXXXXX")
# The root of an unprivileged container has to pass through.
chmod 0711 "$folder"
server=""
finish() {
  trap - EXIT
  trap '' INT TERM
  if [ -n "$server" ] && kill -TERM "$server" 2>/dev/null; then wait "$server" || true; fi
  "$top/scripts/teardown.sh" "$folder/state" "$folder/run" || true
  # gardend has the machine forward packets.
  [ "$(cat $forwards)" = "$forwarded" ] || echo "$forwarded" >$forwards
  rm -rf --one-file-system "$folder"
}
trap finish EXIT
trap 'echo; echo "run: ending gardend, its containers and its containerd"; exit 0' INT TERM

"$top/scripts/busybox-rootfs.sh" "$folder/rootfs"
# Another server may be the one that the caller speaks to by default.
env -u GARDEND_TARGET "$gardend" serve --listen "$listen" --state-dir "$folder/state" --run-dir "$folder/run" \
  --default-rootfs "$folder/rootfs" --log-level "${LOG_LEVEL:-warn}" >"$folder/out" 2>"$folder/log" &
server=$!
for _ in $(seq 600); do
  if grep -q ready "$folder/out"; then break; fi
  if ! kill -0 "$server" 2>/dev/null; then
    echo "run: gardend did not start:" >&2
    cat "$folder/out" "$folder/log" >&2
    server=""
    exit 1
  fi
  sleep 0.1
done
grep ready "$folder/out" || { echo "run: gardend was not ready within a minute; its log:" >&2; cat "$folder/log" >&2; exit 1; }

export GARDEND_TARGET=$listen
echo
echo '$ gardend create hello'
"$gardend" create hello
echo '$ gardend run hello -- sh -c "..."'
"$gardend" run hello -- sh -c 'echo "Hello from container $(hostname): $(uname -sr), user $(id -un), pid 1 is $(cat /proc/1/comm)"; ps'

target=""
[ "$listen" = 127.0.0.1:7777 ] || target="--target $listen "
cat <<EOF

gardend serves on $listen until Ctrl-C. From another terminal, for example:

  $gardend ${target}shell hello
  $gardend ${target}run hello -- sh -c 'echo \$((6 * 7))'
  $gardend ${target}info hello

EOF
wait "$server" || { status=$?; server=""; echo "run: gardend ended by itself, with status $status; its log:" >&2; tail -20 "$folder/log" >&2; exit 1; }
