#!/usr/bin/env bash
# start.sh TOOLS CONTAINERD: starts a real cluster of one node, node1: etcd, kube-apiserver, controller manager,
# scheduler, kubelet, kube-proxy, and the node's containerd. To be run on a node of its own (in-node.sh), with which
# it ends. Prints the kubeconfig's path once the node is Ready.
#   TOOLS       folder with the Kubernetes programs (tests/kube/tools/build.sh apiserver cluster)
#   CONTAINERD  folder with containerd, containerd-shim-runc-v2 and ctr (scripts/build-tools.sh)
# etcd, runc, busybox and openssl are those in PATH; CNI's plugins are in /usr/lib/cni.
# Of the cluster: /run/cluster (logs in log/, NAME.sh starts NAME again as it was, its pid in NAME.pid). Of the node:
# /run/containerd, /var/lib/containerd, /var/lib/kubelet, as everywhere.
set -euo pipefail
[ $# = 2 ] || { sed -n '2,10p' "$0" >&2; exit 2; }

here=$(cd "$(dirname "$0")" && pwd)
tools=$(cd "$1" && pwd)
containerd=$(cd "$2" && pwd)
state=/run/cluster
node=node1
pods=10.244.0
address=$pods.1
pki=$state/pki
[ ! -e $state ] || { echo "start.sh: $state is there; a node has one cluster" >&2; exit 1; }
mkdir -p $state/log $state/cni /var/lib/kubelet /run/containerd

give_up() { # PROGRAM WORDS
  echo "start.sh: $2; the end of $1's log:" >&2
  tail -20 "$state/log/$1.log" >&2
  exit 1
}
# A program in a file of its own, so that a test can end it and start it again as it was.
start() { # NAME PROGRAM ARGUMENT...
  local name=$1
  shift
  {
    echo '#!/usr/bin/env bash'
    echo "export PATH=$containerd:\$PATH"
    printf 'setsid'
    printf ' %q' "$@"
    echo " >>$state/log/$name.log 2>&1 </dev/null &"
    echo "echo \$! >$state/$name.pid"
  } >"$state/$name.sh"
  chmod 0700 "$state/$name.sh"
  "$state/$name.sh"
}

# Pods and node share a bridge; addresses of services lead nowhere but to kube-proxy's rules.
ip link add pods0 type bridge
ip addr add "$address/24" dev pods0
ip link set pods0 up
ip route add 10.96.0.0/24 dev pods0

cat >$state/cni/10-pods.conflist <<J
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
 {"type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": "$state/cni/leases", "routes": [{"dst": "0.0.0.0/0"}],
           "ranges": [[{"subnet": "$pods.0/24", "gateway": "$address"}]]}}]}
J
# An out-of-memory score below our own takes CAP_SYS_RESOURCE, which a machine in a container lacks.
cat >$state/containerd.toml <<T
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$state/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "$(command -v runc)"
      SystemdCgroup = false
T
start containerd "$containerd/containerd" --config $state/containerd.toml

# With ServiceAccount admission: pods get tokens.
API_BIND=$address API_EXTRA_ARGS=--v=1 "$here/../kube/start-apiserver.sh" "$tools" $state >/dev/null
kubeconfig=$state/kubeconfig
ssl() { openssl "$@" 2>>$state/log/openssl.log; }
ssl ecparam -name prime256v1 -genkey -noout -out $pki/kubelet.key
ssl req -new -key $pki/kubelet.key -subj "/O=system:nodes/CN=system:node:$node" -out $pki/kubelet.csr
printf 'extendedKeyUsage=clientAuth,serverAuth\nsubjectAltName=DNS:%s,IP:%s\n' $node $address >$pki/kubelet.ext
ssl x509 -req -in $pki/kubelet.csr -CA $pki/ca.crt -CAkey $pki/ca.key -CAcreateserial -days 3650 \
  -extfile $pki/kubelet.ext -out $pki/kubelet.crt
cat >$state/kubelet.kubeconfig <<Y
apiVersion: v1
kind: Config
clusters: [{name: t, cluster: {server: "$(sed -n 's/.*server: "\([^"]*\)".*/\1/p' $kubeconfig)", certificate-authority: $pki/ca.crt}}]
users: [{name: u, user: {client-certificate: $pki/kubelet.crt, client-key: $pki/kubelet.key}}]
contexts: [{name: t, context: {cluster: t, user: u}}]
current-context: t
Y

start kube-controller-manager "$tools/kube-controller-manager" --kubeconfig=$kubeconfig --leader-elect=false \
  --secure-port=0 --root-ca-file=$pki/ca.crt --service-account-private-key-file=$pki/sa.key \
  --cluster-signing-cert-file=$pki/ca.crt --cluster-signing-key-file=$pki/ca.key
start kube-scheduler "$tools/kube-scheduler" --kubeconfig=$kubeconfig --leader-elect=false --secure-port=0
cat >$state/kube-proxy.yaml <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: $pods.0/24
hostnameOverride: $node
clientConnection: {kubeconfig: $kubeconfig}
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
Y
start kube-proxy "$tools/kube-proxy" --config=$state/kube-proxy.yaml

ctr() { "$containerd/ctr" -a /run/containerd/containerd.sock -n k8s.io "$@" >>$state/log/ctr.log 2>&1; }
end=$((SECONDS + 60))
until ctr version; do
  [ $SECONDS -lt $end ] || give_up containerd "containerd does not answer after 60 s"
  sleep 0.1
done
mkdir -p $state/pause/bin
cp "$(command -v busybox)" $state/pause/bin/busybox
for name in sh sleep cat; do ln -s busybox $state/pause/bin/$name; done
"$here/../../scripts/image/pack.py" --layer $state/pause --name localhost/pause:1 --out $state/pause.tar /bin/sleep 2147483647
"$here/../../scripts/image/pack.py" --layer $state/pause --name localhost/busybox:1 --out $state/busybox.tar /bin/sh
for name in pause busybox; do ctr images import $state/$name.tar || give_up ctr "containerd does not take an image"; done

cat >$state/kubelet.yaml <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
enforceNodeAllocatable: []
failSwapOn: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
address: $address
healthzPort: 0
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $pki/kubelet.crt
tlsPrivateKeyFile: $pki/kubelet.key
resolvConf: ""
clusterDNS: [10.96.0.10]
makeIPTablesUtilChains: false
volumePluginDir: /var/lib/kubelet/volume-plugins
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
nodeStatusUpdateFrequency: 2s
syncFrequency: 5s
Y
start kubelet "$tools/kubelet" --config=$state/kubelet.yaml --kubeconfig=$state/kubelet.kubeconfig \
  --cert-dir=$pki --hostname-override=$node --node-ip=$address

ready='{.status.conditions[?(@.type=="Ready")].status}'
end=$((SECONDS + 120))
until [ "$("$tools/kubectl" --kubeconfig $kubeconfig get node $node -o "jsonpath=$ready" 2>/dev/null)" = True ]; do
  kill -0 "$(cat $state/kubelet.pid)" 2>/dev/null || give_up kubelet "kubelet has ended"
  [ $SECONDS -lt $end ] || give_up kubelet "the node is not Ready after 120 s"
  sleep 0.1
done
echo $kubeconfig
