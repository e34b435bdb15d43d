#!/usr/bin/env bash
# Builds the product for every board and prints the sizes; the budget is 30 MiB stripped.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
for target in amd64: arm64: arm:7 riscv64:; do
	arch=${target%%:*} arm=${target##*:}
	CGO_ENABLED=0 GOOS=linux GOARCH=$arch GOARM=$arm go build -trimpath -ldflags '-s -w' -o "$out/linli" ./gateway
	size=$(stat -c %s "$out/linli")
	printf 'linux/%-8s %5.1f MiB\n' "$arch$arm" "$(echo "$size" | awk '{print $1/1048576}')"
	[ "$size" -le $((30 * 1048576)) ] || { echo "linux/$arch: over the budget of 30 MiB" >&2; exit 1; }
done
