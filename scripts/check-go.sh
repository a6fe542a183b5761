#!/usr/bin/env bash
# check-go.sh: the Go modules are formatted, vetted, and their go.mod and go.sum say all that a stranger needs.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
unformatted=$(gofmt -l "$top/tests/go" "$top/bench")
[ -z "$unformatted" ] || { echo "not formatted by gofmt: $unformatted" >&2; exit 1; }
for module in tests/go bench; do
  (cd "$top/$module" && go vet ./...)
done
