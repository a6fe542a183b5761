#!/usr/bin/env bash
# start-apiserver.sh BIN_DIR STATE_DIR: starts etcd and kube-apiserver on free loopback ports, all in one folder.
#   BIN_DIR    has kube-apiserver; etcd is the one in PATH
#   STATE_DIR  new or empty: certificates, data, logs, NAME.pid, kubeconfig
# Prints the kubeconfig's path once /readyz says ok. stop.sh STATE_DIR ends it all. Several at once are fine.
# What is written to the API server, with its bodies, is in STATE_DIR/log/audit.log.
# In the environment:
#   API_BIND, API_PORT  where to serve (127.0.0.1, a free port)
#   SERVICE_CIDR        (10.96.0.0/24)
#   API_EXTRA_ARGS      more arguments for kube-apiserver
set -euo pipefail
[ $# = 2 ] || { sed -n '2,10p' "$0" >&2; exit 2; }

bin=$(cd "$1" && pwd)
mkdir -p "$2"
state=$(cd "$2" && pwd)
bind=${API_BIND:-127.0.0.1}
cidr=${SERVICE_CIDR:-10.96.0.0/24}
umask 077
pki=$state/pki
mkdir -p "$pki" "$state/etcd" "$state/log"

free_ports() { # COUNT
  python3 - "$1" <<'PY'
import socket, sys
sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for one in sockets:
    one.bind(("127.0.0.1", 0))
print(*[one.getsockname()[1] for one in sockets])
PY
}
read -r free etcd_port peer_port < <(free_ports 3)
api_port=${API_PORT:-$free}

# One authority for serving, for clients and for kubelets.
ssl() { openssl "$@" 2>>"$state/log/openssl.log"; }
key() { ssl ecparam -name prime256v1 -genkey -noout -out "$pki/$1.key"; }
cert() { # NAME SUBJECT USAGE [NAMES]
  key "$1"
  ssl req -new -key "$pki/$1.key" -subj "$2" -out "$pki/$1.csr"
  { echo "extendedKeyUsage=$3"; [ -z "${4:-}" ] || echo "subjectAltName=$4"; } >"$pki/$1.ext"
  ssl x509 -req -in "$pki/$1.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days 3650 \
    -extfile "$pki/$1.ext" -out "$pki/$1.crt"
}
key ca
ssl req -x509 -new -key "$pki/ca.key" -subj /CN=test-ca -days 3650 -out "$pki/ca.crt"
service=DNS:kubernetes.default.svc
cert apiserver /CN=kube-apiserver serverAuth "DNS:localhost,$service,$service.cluster.local,IP:127.0.0.1,IP:${cidr%.*}.1,IP:$bind"
cert admin /O=system:masters/CN=admin clientAuth
ssl genrsa -traditional -out "$pki/sa.key" 2048
ssl rsa -in "$pki/sa.key" -pubout -out "$pki/sa.pub"
host=$bind
[ "$host" != 0.0.0.0 ] || host=127.0.0.1
inline() { base64 -w0 <"$pki/$1"; }
cat >"$state/kubeconfig" <<Y
apiVersion: v1
kind: Config
clusters: [{name: t, cluster: {server: "https://$host:$api_port", certificate-authority-data: $(inline ca.crt)}}]
users: [{name: u, user: {client-certificate-data: $(inline admin.crt), client-key-data: $(inline admin.key)}}]
contexts: [{name: t, context: {cluster: t, user: u}}]
current-context: t
Y

cat >"$state/audit.yaml" <<'Y'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    users: ["system:apiserver"]
  - level: Request
    verbs: [create, update, patch, delete, deletecollection]
  - level: Metadata
Y

etcd=http://127.0.0.1:$etcd_port
peer=http://127.0.0.1:$peer_port
setsid etcd --data-dir "$state/etcd" --listen-client-urls "$etcd" --advertise-client-urls "$etcd" \
  --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer" \
  >"$state/log/etcd.log" 2>&1 </dev/null &
echo $! >"$state/etcd.pid"

case $bind in
  127.* | 0.0.0.0) advertise=(--advertise-address=127.0.0.1 --endpoint-reconciler-type=none);;
  *) advertise=(--advertise-address="$bind");;
esac
# In a file of its own, so that a test can end the API server and start it again as it was.
cat >"$state/kube-apiserver.sh" <<S
#!/usr/bin/env bash
setsid "$bin/kube-apiserver" \\
  --etcd-servers=$etcd --bind-address=$bind --secure-port=$api_port ${advertise[*]} \\
  --cert-dir="$pki" --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \\
  --client-ca-file="$pki/ca.crt" --kubelet-client-certificate="$pki/admin.crt" --kubelet-client-key="$pki/admin.key" \\
  --kubelet-certificate-authority="$pki/ca.crt" --kubelet-preferred-address-types=InternalIP \\
  --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$pki/sa.pub" \\
  --service-account-signing-key-file="$pki/sa.key" --service-cluster-ip-range="$cidr" \\
  --audit-policy-file="$state/audit.yaml" --audit-log-path="$state/log/audit.log" --audit-log-maxsize=1000 \\
  --authorization-mode=Node,RBAC --allow-privileged=true --profiling=false \\
  ${API_EXTRA_ARGS---disable-admission-plugins=ServiceAccount} >>"$state/log/kube-apiserver.log" 2>&1 </dev/null &
echo \$! >"$state/kube-apiserver.pid"
S
chmod 0700 "$state/kube-apiserver.sh"
"$state/kube-apiserver.sh"

give_up() {
  echo "start-apiserver.sh: $*" >&2
  tail -n 20 "$state/log/etcd.log" "$state/log/kube-apiserver.log" >&2
  "$(dirname "$0")/stop.sh" "$state"
  exit 1
}
ready() {
  [ "$(curl -s --max-time 5 --cacert "$pki/ca.crt" --cert "$pki/admin.crt" --key "$pki/admin.key" "https://$host:$api_port/readyz")" = ok ]
}
end=$((SECONDS + 120))
until ready; do
  kill -0 "$(cat "$state/kube-apiserver.pid")" 2>/dev/null || give_up "kube-apiserver has ended"
  [ $SECONDS -lt $end ] || give_up "kube-apiserver is not ready after 120 s"
  sleep 0.1
done
echo "$state/kubeconfig"
