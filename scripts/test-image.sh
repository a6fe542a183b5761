#!/usr/bin/env bash
# test-image.sh GARDEND: packs the image twice and looks at what came out: its size and name, that it is the same both
# times, that its programs run on nothing but its own files, and that its bill of materials names what they are made of.
set -euo pipefail
[ $# = 1 ] || { sed -n '2,3p' "$0" >&2; exit 2; }
cd "$(dirname "$0")/.."
fail() { echo "test-image: $*" >&2; exit 1; }

as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
scratch=$(mktemp -d)
trap '"${as_root[@]}" rm -rf "$scratch"' EXIT

scripts/image.sh "$1" >/dev/null
sha256sum build/gardend-image.tar >"$scratch/first"
# Times of files and the order in which they are found must not matter.
touch LICENSE
scripts/image.sh "$1" >/dev/null
sha256sum --check --quiet "$scratch/first" || fail "packed twice, it is not the same"
[ "$(stat -c %s build/gardend-image.tar)" -lt 60000000 ] || fail "it has 60 MB or more"

mkdir "$scratch/layout" "$scratch/root"
tar -xf build/gardend-image.tar -C "$scratch/layout"
blob() { echo "$scratch/layout/blobs/${1/:/\/}"; }
index=$scratch/layout/index.json
[ "$(jq -r '.manifests[0].annotations["io.containerd.image.name"]' "$index")" = localhost/gardend:dev ] || fail "its name"
manifest=$(blob "$(jq -r '.manifests[0].digest' "$index")")
config=$(blob "$(jq -r .config.digest "$manifest")")
[ "$(jq -c .config.Entrypoint "$config")" = '["/usr/bin/gardend"]' ] || fail "its entrypoint"
[ "$(jq -r '.config.Labels["org.opencontainers.image.revision"]' "$config")" = "$(git rev-parse HEAD)" ] ||
  fail "its label tells another commit"
for layer in $(jq -r '.layers[].digest' "$manifest"); do
  tar -xzf "$(blob "$layer")" -C "$scratch/root"
done
[ "$(jq '.layers | length' "$manifest")" -ge 3 ] || fail "all of it is in one layer, which each commit changes"
odd=$(find "$scratch/root" \( -perm /6000 -o -type f -perm /022 \) -printf '%P ')
[ -z "$odd" ] || fail "with the rights of others, or open to them: $odd"

# With the image's own files alone, and as a user without rights where that will do.
inside() { "${as_root[@]}" chroot "$@"; }
version=$(inside --userspec=65532:65532 "$scratch/root" /usr/bin/gardend --version)
[ "$version" = "$("$1" --version)" ] || fail "its gardend says it is $version"
inside "$scratch/root" /usr/sbin/nft --version >/dev/null || fail "its nft does not run"
for program in containerd runc; do
  inside "$scratch/root" "/usr/libexec/gardend/$program" --version >/dev/null || fail "its $program does not run"
done
inside "$scratch/root" /usr/libexec/gardend/containerd-shim-runc-v2 -v >/dev/null || fail "its shim does not run"

cmp build/gardend-image.sbom.json "$scratch/root/usr/share/doc/gardend/sbom.cdx.json" || fail "two bills of materials"
for part in pkg:cargo/tokio@ pkg:cargo/kube@ pkg:deb/debian/libc6@ pkg:deb/debian/nftables@ \
  pkg:golang/github.com/opencontainers/runc@ pkg:golang/github.com/containerd/containerd/v2@; do
  jq -e --arg part "$part" 'any(.components[]; .purl | startswith($part))' build/gardend-image.sbom.json >/dev/null ||
    fail "the bill of materials does not name $part"
done
# What only tests use is not in it.
! grep -q '"pkg:cargo/proptest@' build/gardend-image.sbom.json || fail "the bill of materials names what only tests use"
echo "test-image: all is well"
