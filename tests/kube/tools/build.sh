#!/usr/bin/env bash
# build.sh SET...: builds the Kubernetes programs that gardend is tested with, at the versions that the go.mod files
# beside this pin, and prints the folder they are in. What is there already is not built again.
#   apiserver  kube-apiserver kubectl
#   cluster    kube-controller-manager kube-scheduler kubelet kube-proxy
#   helm       helm
#   runc       runc, static: it is in gardend's image too (needs gcc, pkg-config and libseccomp-dev)
#   lint       kubeconform helm-unittest
# The folder's name has a hash of the go.mod files and of this script: another version is another folder, and builds
# of two clones do not meet. A program appears there whole or not at all.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,9p' "$0" >&2; exit 2; }

here=$(cd "$(dirname "$0")" && pwd)
key=$(cat "$here"/*/go.mod "$here/build.sh" | sha256sum | cut -c1-12)
out=${GARDEND_CACHE:-$HOME/.cache/gardend}/tools/kube-$key
mkdir -p "$out"

build() { # MODULE CGO TAGS LDFLAGS PACKAGE...: one program a package, named by the package's last part
  local module=$1 cgo=$2 tags=$3 ldflags=$4 package wanted=()
  shift 4
  for package in "$@"; do [ -x "$out/$(basename "$package")" ] || wanted+=("$package"); done
  [ ${#wanted[@]} -gt 0 ] || return 0
  echo "build.sh: building ${wanted[*]##*/} (once; minutes)" >&2
  local into
  into=$(mktemp -d "$out/.building.XXXXXX")
  # The last to be served: a build is minutes of all processors.
  if ! (cd "$here/$module" && GOWORK=off CGO_ENABLED=$cgo nice -n 19 \
        go build -mod=readonly -trimpath -tags "$tags" -ldflags "-s -w $ldflags" -o "$into/" "${wanted[@]}"); then
    rm -rf "$into"
    return 1
  fi
  mv "$into"/* "$out/"
  rmdir "$into"
}

kubernetes=$(awk '$1 == "k8s.io/kubernetes" { print $2 }' "$here/kubernetes/go.mod")
minor=${kubernetes#v1.}
minor=${minor%%.*}
# Without these the programs call themselves v0.0.0, and kubectl and helm misjudge the server.
stamp=k8s.io/component-base/version
stamps="-X $stamp.gitVersion=$kubernetes -X $stamp.gitMajor=1 -X $stamp.gitMinor=$minor -X $stamp.gitTreeState=clean"
command=k8s.io/kubernetes/cmd

# One build at a time: two would each be half as fast and do the same work. The lock ends with this script.
exec 9>"$out/.lock"
flock 9
for set in "$@"; do
  case $set in
    apiserver) build kubernetes 0 "" "$stamps" $command/kube-apiserver $command/kubectl;;
    cluster) build kubernetes 0 "" "$stamps" $command/kube-controller-manager $command/kube-scheduler \
               $command/kubelet $command/kube-proxy;;
    helm) build kubernetes 0 "" "$stamps" helm.sh/helm/v4/cmd/helm;;
    runc) build runc 1 "seccomp osusergo netgo" "-extldflags -static" github.com/opencontainers/runc;;
    lint) build kubeconform 0 "" "" github.com/yannh/kubeconform/cmd/kubeconform
          build helm-unittest 0 "" "" github.com/helm-unittest/helm-unittest/cmd/helm-unittest;;
    *) echo "build.sh: no such set: $set" >&2; exit 2;;
  esac
done
echo "$out"
