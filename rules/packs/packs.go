// Package packs holds the rule packs that come with the binary, one YAML file each. Their tests are in tests/.
//
// It is data only; rules.Shipped parses it.
package packs

import "embed"

// Files holds *.yaml, the packs.
//
//go:embed *.yaml
var Files embed.FS
