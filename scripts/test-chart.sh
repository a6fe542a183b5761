#!/usr/bin/env bash
# test-chart.sh: what can be said of charts/gardend without installing it: helm's and helm-unittest's opinion, which
# values are refused and how, and whether a real API server and its schemas take what comes out.
# tests/cluster/ installs it.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin
chart=charts/gardend

if [ "${1:-}" != --inside ]; then
  tools=$(tests/kube/tools/build.sh apiserver helm lint)
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo -E)
  # The API server ends with the namespace of its processes, however this ends.
  exec "${as_root[@]}" unshare --net --pid --fork --kill-child --mount-proc -- \
    sh -c 'ip link set lo up && exec "$@"' sh "$0" --inside "$tools"
fi
tools=$2
helm=$tools/helm
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export HOME=$scratch
failed=0
fail() { echo "test-chart: $*" >&2; failed=1; }

"$helm" lint --strict --quiet "$chart" || fail "helm lint"
"$tools/helm-unittest" --strict "$chart" || fail "unit tests"

render() { "$helm" template gardend "$chart" --namespace garden --kube-version 1.37 "$@"; }

# Values that are refused, each with words that its message must have.
refused() { # WORDS --set...
  local words=$1 said
  shift
  if said=$(render "$@" 2>&1 >/dev/null); then
    fail "taken: $*"
  elif ! grep -qF -- "$words" <<<"$said"; then
    fail "$* is refused without the words '$words': $said"
  fi
}
listen() { printf -- '--set-json=garden.listen=%s' "$1"; }
refused "garden/listen/0" "$(listen '["0.0.0.0:7777"]')"
refused "garden/listen/0" "$(listen '["10.0.0.1:7777"]')"
refused "garden/listen/0" "$(listen '["[::]:7777"]')"
refused "garden/listen/0" "$(listen '["unix:///tmp/garden.sock"]')"
refused "garden/listen/0" "$(listen '["unix:///run/gardend/../other.sock"]')"
refused "garden/listen/1" "$(listen '["127.0.0.1:7777","garden:7777"]')"
refused "garden/listen" "$(listen '[]')"
refused "garden/tls/secretName" "$(listen '["tls://0.0.0.0:7777"]')"
# A certificate of its own alone lets everybody in.
refused "garden/tls" "$(listen '["tls://0.0.0.0:7777"]')" --set garden.tls.secretName=cert
refused "garden/tls" "$(listen '["127.0.0.1:7777","tls://0.0.0.0:7777"]')" --set garden.tls.clientCertificates=true
refused "garden/tls/tokenReview/audience" --set-string garden.tls.tokenReview.audience=
refused "garden/socketGroup" --set garden.socketGroup=garden
refused "containerd/mode" --set containerd.mode=host
refused "containerd/socket" --set containerd.socket=run/containerd.sock
refused "runtime" --set runtime=kata
refused "mirror/detail" --set mirror.detail=pods
refused "mirror/writesPerSecond" --set mirror.writesPerSecond=0
refused "mirror/writeBurst" --set mirror.writeBurst=0
refused "declared/namespaces/0" --set 'declared.namespaces={Not_a_name}'
refused "declared.enabled" --set declared.enabled=true,mirror.enabled=false
refused "metrics/port" --set metrics.port=70000
refused "metrics/host" --set metrics.host=node1
refused "metrics/podMonitor/interval" --set metrics.podMonitor.interval=often
refused "drain/timeoutSeconds" --set drain.timeoutSeconds=0
refused "cleanup/timeoutSeconds" --set cleanup.timeoutSeconds=-1
refused "image/pullPolicy" --set image.pullPolicy=Sometimes
refused "image/tag" --set image.tag=a:b
refused "maxUnavailable" --set maxUnavailable=0%
refused "nodeSelector/role" --set nodeSelector.role=1
refused "crds/keep" --set-string crds.keep=true
refused "containers/memoryMax" --set containers.memoryMax=much
refused "containers/cpuMax" --set containers.cpuMax=-1
refused "containers/cpuMax" --set containers.cpuMax=1.5cores
refused "kubeletDir" --set kubeletDir=kubelet
refused "config.listen" --set-json 'config.listen=["127.0.0.1:7777"]'
refused "config/max-containers" --set config.max-containers=many
refused "max-container'" --set config.max-container=1
refused "config.mount-namespace" --set config.mount-namespace=own
# Misspelt values are not passed over.
refused "mirrors" --set mirrors.enabled=true
refused "listens" --set garden.listens=x
refused "1.31" --kube-version 1.31

# What is taken, and comes out whole.
render >"$scratch/plain.yaml"
render --set mirror.enabled=false,crds.enabled=false,containerd.mode=managed >"$scratch/alone.yaml"
everything=(--set 'declared.enabled=true,declared.namespaces={shop,bank}' --set cleanup.enabled=true,drain.onStop=true,metrics.podMonitor.enabled=true,metrics.rules.enabled=true
  --set metrics.dashboard.enabled=true,crds.keep=false,garden.socketGroup=4711,containers.cpuMax=3.5,config.max-containers=500
  --set garden.tls.secretName=cert,garden.tls.clientCertificates=true,garden.tls.tokenSecretName=tokens
  --set 'image.pullSecrets={one},tolerations[0].operator=Exists,podLabels.a=b,podAnnotations.c=d'
  "$(listen '["unix:///run/gardend/garden.sock","127.0.0.1:7777","[::1]:7777","tls://[::]:7778"]')")
render "${everything[@]}" >"$scratch/everything.yaml"

kubeconfig=$(tests/kube/start-apiserver.sh "$tools" "$scratch/apiserver")
kubectl() { "$tools/kubectl" --kubeconfig "$kubeconfig" "$@"; }
for namespace in garden shop bank; do kubectl create namespace "$namespace" >/dev/null; done
kubectl get --raw /openapi/v2 >"$scratch/openapi.json"
tests/kube/openapi-schemas.py "$scratch/openapi.json" "$scratch/schemas"
for name in plain alone everything; do
  # Kinds of the Prometheus operator's are nothing that an API server knows by itself.
  "$tools/kubeconform" -strict -summary -skip PodMonitor,PrometheusRule,CustomResourceDefinition \
    -schema-location "$scratch/schemas/{{.ResourceKind}}{{.KindSuffix}}.json" "$scratch/$name.yaml" ||
    fail "$name: not what the API's schemas say"
  python3 - "$scratch/$name.yaml" >"$scratch/$name.core.yaml" <<'PY'
import re
import sys

documents = re.split(r"(?m)^---\n", open(sys.argv[1], encoding="utf-8").read())
print("---\n".join(one for one in documents if not re.search(r"(?m)^kind: (PodMonitor|PrometheusRule)$", one)))
PY
  kubectl apply --dry-run=server --warnings-as-errors -f "$scratch/$name.core.yaml" >"$scratch/said" ||
    fail "$name: the API server refuses it"
  [ "$(wc -l <"$scratch/said")" -gt 3 ] || fail "$name: next to nothing was applied"
done
[ $failed = 0 ] && echo "test-chart: all is well"
exit $failed
