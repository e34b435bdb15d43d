package mqtt

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"linli/internal/testservers"

	"golang.org/x/sys/unix"
)

// A peer that is gone without a word is the kernel's to notice while nothing is read, also beneath TLS.
func TestUserTimeoutIsSet(t *testing.T) {
	l := testservers.Listen(t)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for want, conn := range map[int]net.Conn{40_000: c, 30_000: tls.Client(c, &tls.Config{MinVersion: tls.VersionTLS12})} {
		setUserTimeout(conn, time.Duration(want)*time.Millisecond)
		seen := 0
		socket(c, func(fd int) {
			if seen, err = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); err != nil {
				t.Error(err)
			}
		})
		if seen != want {
			t.Errorf("user timeout %d ms, want %d", seen, want)
		}
	}
}
