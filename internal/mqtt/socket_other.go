//go:build !linux

package mqtt

import (
	"net"
	"time"
)

func setUserTimeout(net.Conn, time.Duration) {}

func ended(net.Conn) error { return nil }
