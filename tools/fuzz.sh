#!/usr/bin/env bash
# Runs every fuzz target for the time given (default 30s each).
# Without minimising: coverage differs from run to run, and the fuzzer would spend its time making inputs shorter.
set -euo pipefail
cd "$(dirname "$0")/.."
grep -rlE '^func Fuzz' --include='*_test.go' . | sort | while read -r file; do
	grep -oE '^func Fuzz[A-Za-z0-9_]+' "$file" | awk '{print $2}' | while read -r target; do
		echo "== $(dirname "$file") $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "${1:-30s}" -fuzzminimizetime 1x "$(dirname "$file")"
	done
done
