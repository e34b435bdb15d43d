// Package packs holds the rule packs that come with the binary, one YAML file each. Their tests are in tests/.
//
// It is data only; rules.Shipped parses it.
package packs

import "embed"

// Files holds *.yaml, the packs, and tests/*.yaml, their tests.
//
//go:embed *.yaml tests/*.yaml
var Files embed.FS
