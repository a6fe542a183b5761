#!/usr/bin/env bash
# Writes what is generated from the list of options below docs/; with --check, only tells whether it
# is what is there.
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cargo build --locked --quiet --bin gardend
gardend=${CARGO_TARGET_DIR:-target}/debug/gardend
"$gardend" config docs >"$scratch/configuration.md"
"$gardend" config schema >"$scratch/configuration.schema.json"

for file in "$scratch"/*; do
  name=$(basename "$file")
  if [ "${1:-}" != --check ]; then
    cp "$file" "docs/$name"
  elif ! diff -u "docs/$name" "$file"; then
    echo "docs/$name is out of date: run \`make docs\`" >&2
    exit 1
  fi
done
