#!/usr/bin/env bash
# Formatting, vet and static analysis. The rules about our own structure are Go tests (gateway/repository_test.go).
set -euo pipefail
cd "$(dirname "$0")/.."
unformatted=$(gofmt -l $(git ls-files '*.go'))
[ -z "$unformatted" ] || { echo "gofmt would change:" >&2; echo "$unformatted" >&2; exit 1; }
go vet ./...
(cd tools && go build -o ../.tools/bin/staticcheck honnef.co/go/tools/cmd/staticcheck)
.tools/bin/staticcheck ./...
