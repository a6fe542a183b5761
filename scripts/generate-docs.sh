#!/usr/bin/env bash
# Writes what is generated from the list of options, below docs/ and in the chart, and from the chart's values; with
# --check, only tells whether it is what is there.
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cargo build --locked --quiet --bin gardend
gardend=${CARGO_TARGET_DIR:-target}/debug/gardend
"$gardend" config docs >"$scratch/configuration.md"
"$gardend" config schema >"$scratch/configuration.schema.json"

# The chart's share: gardend's options as values below `config`, a list of all values, the definitions.
chart=charts/gardend
jq --indent 1 --slurpfile options "$scratch/configuration.schema.json" '
  .["$defs"] += $options[0]["$defs"]
  | .properties.config = ($options[0] | {type, additionalProperties, properties})' \
  $chart/values.schema.json >"$scratch/values.schema.json"
scripts/chart-readme.py $chart >"$scratch/README.md"
cp crds/gardencontainers.yaml crds/gardennodes.yaml "$scratch/"

for file in "$scratch"/*; do
  name=$(basename "$file")
  case $name in
    README.md | values.schema.json) at=$chart/$name;;
    garden*.yaml) at=$chart/files/crds/$name;;
    *) at=docs/$name;;
  esac
  if [ "${1:-}" != --check ]; then
    cp "$file" "$at"
  elif ! diff -u "$at" "$file"; then
    echo "$at is out of date: run \`make docs\`" >&2
    exit 1
  fi
done
