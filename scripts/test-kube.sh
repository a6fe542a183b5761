#!/usr/bin/env bash
# test-kube.sh [TEST-ARGUMENT...]: runs the tests of tests/kube against a real etcd and kube-apiserver, in namespaces of
# processes and of the network of their own: what they start ends with them, however they end. GARDEND_TEST_PROFILE is
# cargo's profile (test).
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin

tools=$(tests/kube/tools/build.sh apiserver helm)
runner=$(mktemp)
trap 'rm -f "$runner"' EXIT
cat >"$runner" <<'S'
#!/bin/sh
exec unshare --net --pid --fork --kill-child --mount-proc -- sh -c 'ip link set lo up && exec "$@"' sh "$@"
S
chmod +x "$runner"
if [ "$(id -u)" != 0 ]; then
  sed -i 's/^exec unshare/exec sudo -E unshare/' "$runner"
fi
GARDEND_KUBE_TOOLS=$tools cargo --config "target.'cfg(all())'.runner = ['$runner']" test --locked \
  --profile "${GARDEND_TEST_PROFILE:-test}" --test kube -- "$@"
