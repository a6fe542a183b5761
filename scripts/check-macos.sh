#!/usr/bin/env bash
# check-macos.sh: what compiles for macOS (the client commands, and a `serve` that says that it needs Linux) does so.
# Types alone are checked: nothing is linked, and the C of libraries is passed over by a compiler that compiles nothing,
# so that no Mac and none of its headers are needed.
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-apple-darwin
rustup target list --installed | grep -qx "$target" || rustup target add "$target"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cat >"$scratch/cc" <<'CC'
#!/bin/sh
# Makes whatever is to be made, and nothing in it.
while [ $# -gt 0 ]; do
  case $1 in
    -o) : >"$2"; shift;;
    *.a) : >"$1";;
  esac
  shift
done
CC
chmod +x "$scratch/cc"
suffix=${target//-/_}
env "CC_$suffix=$scratch/cc" "AR_$suffix=$scratch/cc" "RANLIB_$suffix=true" SDKROOT="$scratch" MACOSX_DEPLOYMENT_TARGET=11.0 \
  cargo check --locked --target "$target" --workspace
