#!/usr/bin/env bash
# test-go.sh GARDEND PAIR...: what the real Garden client may expect, on pairs of a containerd (debian: the machine's;
# pinned: the one of build-tools.sh) and a runtime, such as pinned:runc. The first pair gets every test, the others
# those that need neither much time nor much data. Before them, gardend without any of these: --backend host.
set -euo pipefail

[ $# -ge 2 ] || { sed -n '2,4p' "$0" >&2; exit 2; }
top=$(cd "$(dirname "$0")/.." && pwd)
export GARDEND_BIN=$1
shift
as_root=()
[ "$(id -u)" = 0 ] || as_root=(-exec "sudo -E")

short=()
failed=""
echo "== Garden client against gardend on the machine itself"
(cd "$top/tests/go" && go test -count=1 -timeout 10m -parallel 4 "${as_root[@]}" ./host) || failed+=" host"
for pair in "$@"; do
  case ${pair%%:*} in
    debian) containerd=$(command -v containerd);;
    pinned) containerd=$("$top/scripts/build-tools.sh")/containerd;;
    *) echo "test-go: no such containerd: $pair" >&2; exit 2;;
  esac
  runtime=${pair##*:}
  echo "== Garden client against gardend on $("$containerd" --version | cut -d' ' -f3), $("$runtime" --version | head -1)${short:+ (short)}"
  SECONDS=0
  # Static: the test binary is its own probe within containers.
  (cd "$top/tests/go" && GARDEND_CONTAINERD_BINARY=$containerd GARDEND_RUNTIME=$runtime CGO_ENABLED=0 \
    go test -count=1 -timeout 20m -parallel 6 "${as_root[@]}" "${short[@]}" .) || failed+=" $pair"
  echo "== $pair took $SECONDS s"
  short=(-short)
done
[ -z "$failed" ] || { echo "test-go: failed on:$failed" >&2; exit 1; }
