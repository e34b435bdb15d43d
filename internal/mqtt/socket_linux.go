package mqtt

import (
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket runs f with the socket beneath a connection, TLS or not, if there is one.
func socket(c net.Conn, f func(fd int)) {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = t.NetConn()
	}
	s, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := s.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { f(int(fd)) })
	}
}

// setUserTimeout has the kernel end a connection whose other end has acknowledged nothing that was sent for so long, be it
// data or the kernel's own probes.
func setUserTimeout(c net.Conn, d time.Duration) {
	socket(c, func(fd int) {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
}

// ended says whether the other end, or the kernel, has ended the connection, although there may be something to read.
func ended(c net.Conn) (err error) {
	socket(c, func(fd int) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		if n, pollErr := unix.Poll(p, 0); pollErr != nil || n == 0 {
			return
		}
		err = io.EOF
		if errno, optErr := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); optErr == nil && errno != 0 {
			err = errors.Join(io.EOF, syscall.Errno(errno))
		}
	})
	return err
}
