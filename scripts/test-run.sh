#!/usr/bin/env bash
# test-run.sh [GARDEND]: a stranger's `make run` on a port of its own, up to "ready" and what it shows, then Ctrl-C, and
# nothing may be left, the network's settings included. With GARDEND that program is run instead of a release build.
# Root has it in a network of its own; for others, whose `make run` asks for root itself, it is the machine's.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
export PATH=$PATH:/usr/sbin:/sbin
if [ "$(id -u)" = 0 ] && [ -z "${TEST_RUN_NETWORK:-}" ]; then
  # What the build fetches comes by the machine's network.
  [ $# -gt 0 ] || { "$top/scripts/setup.sh" run && make -C "$top" --no-print-directory build; }
  TEST_RUN_NETWORK=own exec "$top/scripts/in-namespace.sh" "$0" "$@"
fi
scratch=$(mktemp -d "${TMPDIR:-/tmp}/gt.XXXXXX")
chmod 0711 "$scratch"
trap 'rm -rf "$scratch"' EXIT
port=$((20000 + RANDOM % 20000))
fail() { echo "test-run: $*; make run said:" >&2; cat "$scratch/out" >&2; exit 1; }

# The network as others see it, without what passes by itself.
network() {
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  ip -o link show | awk '{ print $2 }'
  ip rule show
  ip -6 rule show
  ip route show table all
  "${as_root[@]}" nft list ruleset
  sysctl -a --pattern '^net\.ipv[46]\.(ip_forward|conf\.(all|default|lo)\.)' 2>/dev/null
}
before=$(network)

start=(make -C "$top" --no-print-directory run "LISTEN=127.0.0.1:$port")
[ $# -eq 0 ] || start=(env "GARDEND_BIN=$1" "LISTEN=127.0.0.1:$port" "$top/scripts/run.sh")
# A job of its own, as in a terminal, so that the interrupt reaches everything that a Ctrl-C would.
set -m
TMPDIR=$scratch "${start[@]}" >"$scratch/out" 2>&1 &
job=$!
set +m
for _ in $(seq 12000); do
  ! grep -q 'until Ctrl-C' "$scratch/out" || break
  kill -0 "$job" 2>/dev/null || fail "it ended too early"
  sleep 0.1
done
grep -q 'Hello from container hello' "$scratch/out" || fail "the process in the container did not say hello"
grep -q 'garden-init' "$scratch/out" || fail "garden-init is not pid 1"
answer=$(curl -fsS "http://127.0.0.1:$port/ping") || fail "no answer to a ping"
[ "$answer" = '{}' ] || fail "a ping was answered with $answer"

kill -INT -- "-$job"
for _ in $(seq 300); do
  kill -0 "$job" 2>/dev/null || break
  sleep 0.1
done
! kill -0 "$job" 2>/dev/null || fail "it did not end within 30 s of Ctrl-C"
left=$(ls -A "$scratch" | grep -v '^out$' || true)
[ -z "$left" ] || fail "these folders were left: $left"
! grep -q " $scratch/" /proc/self/mountinfo || fail "mounts were left"
for folder in /proc/[0-9]*; do
  ! tr '\0' ' ' 2>/dev/null <"$folder/cmdline" | grep -qF "$scratch/" || [ "${folder#/proc/}" = $$ ] ||
    fail "a process was left: $(tr '\0' ' ' <"$folder/cmdline")"
done
after=$(network)
[ "$before" = "$after" ] || fail "the network is not as it was: $(diff <(echo "$before") <(echo "$after") || true)"
echo "make run: served, said hello, and left nothing: 1 passed, 0 failed"
