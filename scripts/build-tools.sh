#!/usr/bin/env bash
# build-tools.sh: builds the containerd that gardend is tested with beside the distribution's, at the version that
# tests/tools/containerd/go.mod pins, and prints the folder that it is in. What is there already is not built again.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
out=${GARDEND_CACHE:-$HOME/.cache/gardend}/tools
module=$top/tests/tools/containerd
version=$(awk '$1 == "github.com/containerd/containerd/v2" { print substr($2, 2) }' "$module/go.mod")
command=github.com/containerd/containerd/v2/cmd

if ! "$out/containerd" --version 2>/dev/null | grep -qF " $version"; then
  mkdir -p "$out"
  echo "build-tools: building containerd $version (once)" >&2
  # A version in the programs, since a dependency's own build would have set it.
  stamp="-X github.com/containerd/containerd/v2/version.Version=$version"
  (cd "$module" && GOWORK=off CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags "-s -w $stamp" -o "$out/" \
    $command/containerd $command/containerd-shim-runc-v2 $command/ctr)
fi
echo "$out"
