#!/usr/bin/env bash
# image.sh GARDEND [NAME:TAG]: packs gardend as an image, localhost/gardend:dev unless told otherwise, without a registry
# and without a container: build/gardend-image.tar for `ctr images import`, and build/gardend-image.sbom.json. In it:
#   gardend and the nft that it calls, with the libraries that they load, from this machine's Debian packages
#   /usr/libexec/gardend  containerd, its shim and runc, for `containerd: managed`: static, as they run on the host
#   authorities of registries (ca-certificates), and a user without rights, for `gardend proxy`
# What changes rarely is in layers of its own. The same commit and packages give the same bytes.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,8p' "$0" >&2; exit 2; }
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin

gardend=$(realpath "$1")
name=${2:-localhost/gardend:dev}
mkdir -p build
scratch=$(mktemp -d build/.image.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
base=$scratch/base
runtime=$scratch/runtime
own=$scratch/own
containerd=$(scripts/build-tools.sh)
runc=$(tests/kube/tools/build.sh runc)

# A tree of today's Debian: /usr has everything.
mkdir -p "$base"/{usr/{bin,sbin,lib,lib64},etc/ssl/certs,run,tmp,var} "$runtime/usr/libexec/gardend" \
  "$own"/usr/{bin,share/doc/gardend}
chmod 1777 "$base/tmp"
for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$base/$folder"; done
ln -s ../run "$base/var/run"
printf 'root:x:0:0:root:/root:/usr/sbin/nologin\ngardend:x:65532:65532:without rights:/:/usr/sbin/nologin\n' >"$base/etc/passwd"
printf 'root:x:0:\ngardend:x:65532:\n' >"$base/etc/group"
printf 'hosts: files dns\n' >"$base/etc/nsswitch.conf"
cp /etc/ssl/certs/ca-certificates.crt "$base/etc/ssl/certs/"
install -m 0755 "$(command -v nft)" "$base/usr/sbin/nft"

# Libraries under the names by which the programs ask for them, and the packages they are from.
ldd "$gardend" "$(command -v nft)" | grep -o '/[^ ]*' | grep -v ':$' | sort -u >"$scratch/libraries"
while read -r library; do
  case $library in /usr/*) at=$library;; *) at=/usr$library;; esac
  install -D -m 0755 "$(realpath "$library")" "$base$at"
  realpath "$library"
done <"$scratch/libraries" >"$scratch/files"
printf '%s\n' "$(realpath "$(command -v nft)")" /usr/sbin/update-ca-certificates >>"$scratch/files"
# A package's list has the path that it was packed with, be that below /usr or not.
while read -r file; do
  dpkg-query --search "$file" 2>/dev/null || dpkg-query --search "${file#/usr}" ||
    { echo "image.sh: no Debian package has $file" >&2; exit 1; }
done <"$scratch/files" | sed 's/[:,].*//' | sort -u >"$scratch/names"
xargs dpkg-query --show --showformat '${Package} ${Version}\n' <"$scratch/names" | sort -u >"$scratch/packages"

install -m 0755 "$containerd/containerd" "$containerd/containerd-shim-runc-v2" "$runc/runc" "$runtime/usr/libexec/gardend/"
for program in "$runtime"/usr/libexec/gardend/*; do
  ! ldd "$program" >/dev/null 2>&1 || { echo "image.sh: ${program##*/} is not static: a host may lack its libraries" >&2; exit 1; }
done

install -m 0755 "$gardend" "$own/usr/bin/gardend"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.lock)}
export SOURCE_DATE_EPOCH
scripts/image/sbom.py . "$scratch/packages" "$runtime"/usr/libexec/gardend/* >"$scratch/sbom.json"
install -m 0644 "$scratch/sbom.json" "$own/usr/share/doc/gardend/sbom.cdx.json"
install -m 0644 LICENSE "$own/usr/share/doc/gardend/LICENSE"

version=$("$gardend" --version | cut -d' ' -f2)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
scripts/image/pack.py --name "$name" --out "$scratch/image.tar" --created "$SOURCE_DATE_EPOCH" \
  --layer "$base" --layer "$runtime" --layer "$own" \
  --label org.opencontainers.image.title=gardend \
  --label "org.opencontainers.image.description=A Garden server for containerd nodes" \
  --label org.opencontainers.image.licenses=Apache-2.0 \
  --label "org.opencontainers.image.version=$version" \
  --label "org.opencontainers.image.revision=$revision" \
  --entrypoint /usr/bin/gardend serve
mv "$scratch/sbom.json" build/gardend-image.sbom.json
mv "$scratch/image.tar" build/gardend-image.tar
printf '%s: build/gardend-image.tar, %d MB\n' "$name" $(($(stat -c %s build/gardend-image.tar) / 1000000))
