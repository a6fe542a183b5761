#!/usr/bin/env bash
# bench.sh [FLAG...]: builds and runs the bench (bench/) on the pinned containerd. GARDEND_BIN names a release gardend.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
export GARDEND_CONTAINERD_BINARY=${GARDEND_CONTAINERD_BINARY:-$("$top/scripts/build-tools.sh")/containerd}
cd "$top/bench"
program=$(mktemp)
trap 'rm -f "$program"' EXIT
go build -o "$program" .
echo "$(nproc) processors, kernel $(uname -r), containerd $("$GARDEND_CONTAINERD_BINARY" --version | cut -d' ' -f3), $("${GARDEND_RUNTIME:-runc}" --version | head -1)"
"$program" "$@"
