//go:build !linux

package modbus

import "net"

// newDirect returns c: see direct_linux.go.
func newDirect(c net.Conn) port { return c }
