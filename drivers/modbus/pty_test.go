package modbus_test

import (
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// openPty returns the master of a new pty pair and the name of its slave, which stands for the serial device.
func openPty(t testing.TB) (master *os.File, slave string) {
	t.Helper()
	m, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	c, err := m.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	var inner error
	if err := c.Control(func(fd uintptr) {
		if inner = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); inner == nil {
			n, inner = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); err != nil || inner != nil {
		t.Fatal(err, inner)
	}
	slave = fmt.Sprintf("/dev/pts/%d", n)
	// Until somebody sets it to raw mode the slave would echo what the master writes. One open descriptor keeps
	// the pair alive while the bus closes and reopens its own.
	s, err := os.OpenFile(slave, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return m, slave
}
