#!/usr/bin/env bash
# check-dependencies.sh: licences, bans and sources of what comes in from outside (deny.toml). cargo-deny is built once,
# into the cache; its advisories need a database from the network and are not asked here.
set -euo pipefail

cd "$(dirname "$0")/.."
version=0.20.2
tools=${GARDEND_CACHE:-$HOME/.cache/gardend}/tools
if ! "$tools/bin/cargo-deny" --version 2>/dev/null | grep -qF " $version"; then
  echo "check-dependencies: building cargo-deny $version (once)"
  # Not into the project's target folder: its profile and flags are another's.
  env -u CARGO_TARGET_DIR -u RUSTFLAGS cargo install --quiet --locked --no-default-features --root "$tools" \
    --config 'profile.release.lto=false' --config 'profile.release.codegen-units=16' --config 'profile.release.opt-level=1' \
    cargo-deny@$version
fi
"$tools/bin/cargo-deny" --log-level error check --hide-inclusion-graph licenses bans sources
