#!/usr/bin/env bash
# test-cluster.sh [TEST-ARGUMENT...]: runs the tests of tests/cluster on a real cluster of one node, which is theirs
# alone and ends with them, however they end.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$(tests/kube/tools/build.sh apiserver cluster helm)
containerd=$(scripts/build-tools.sh)
GARDEND_CLUSTER_TOOLS=$tools GARDEND_CLUSTER_CONTAINERD=$containerd \
  cargo --config "target.'cfg(all())'.runner = ['$PWD/tests/cluster/in-node.sh']" test --locked --test cluster -- "$@"
