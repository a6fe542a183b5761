#!/usr/bin/env bash
# test-cluster.sh IMAGE [TEST-ARGUMENT...]: runs the tests of tests/cluster on a real cluster of one node, which is theirs
# alone and ends with them, however they end. IMAGE: gardend's, as `make image` packs it.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,3p' "$0" >&2; exit 2; }
image=$(realpath "$1")
shift
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
(cd tests/go && CGO_ENABLED=0 go build -trimpath -o "$scratch/worker" ./worker)
GARDEND_CLUSTER_TOOLS=$(tests/kube/tools/build.sh apiserver cluster helm)
GARDEND_CLUSTER_CONTAINERD=$(scripts/build-tools.sh)
export GARDEND_CLUSTER_TOOLS GARDEND_CLUSTER_CONTAINERD GARDEND_CLUSTER_IMAGE=$image GARDEND_CLUSTER_WORKER=$scratch/worker
cargo --config "target.'cfg(all())'.runner = ['$PWD/tests/cluster/in-node.sh']" test --locked --test cluster -- "$@"
